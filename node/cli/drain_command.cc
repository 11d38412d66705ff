#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/json_report.h"

namespace sluice::cli {
namespace {

std::string DrainText(const v1::DrainRequest& request, uint32_t hints_ended) {
  if (request.undo()) return "hints are taken again\n";
  return absl::StrCat("the node takes no hints until `sluice drain --undo` or a restart; ", hints_ended,
                      " hints were ended\n");
}

absl::Status RunDrain(const GlobalFlags& flags, const v1::DrainRequest& request) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();
  const absl::StatusOr<v1::DrainResponse> drained = client->Drain(request);
  if (!drained.ok()) return Annotate(drained.status(), "cannot drain the node");
  const bool json = flags.output == OutputFormat::kJson;
  std::fputs(
      (json ? DrainJson(!request.undo(), drained->hints_ended()) : DrainText(request, drained->hints_ended()))
          .c_str(),
      stdout);
  return absl::OkStatus();
}

}  // namespace

void AddDrainCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand(
      "drain", "End what the daemon brings in ahead of readers, and take no hints; readers are served on");
  auto request = std::make_shared<v1::DrainRequest>();
  command->add_flag_callback(
      "--undo", [request] { request->set_undo(true); }, "Take hints again");
  command->callback([&invocation, request] {
    invocation.run = [&invocation, request] { return RunDrain(invocation.flags, *request); };
  });
}

}  // namespace sluice::cli
