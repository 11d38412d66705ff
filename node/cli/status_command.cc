#include <CLI/CLI.hpp>
#include <cstdio>

#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/json_report.h"
#include "node/cli/table_report.h"

namespace sluice::cli {
namespace {

absl::Status RunStatus(const GlobalFlags& flags) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();
  absl::StatusOr<v1::NodeStatus> status = client->GetStatus();
  if (!status.ok()) return Annotate(status.status(), "cannot get the node's status");
  absl::StatusOr<std::vector<v1::Mount>> mounts = client->ListMounts();
  if (!mounts.ok()) return Annotate(mounts.status(), "cannot list the mounts");
  const bool json = flags.output == OutputFormat::kJson;
  std::fputs((json ? StatusJson(*status, *mounts) : StatusTable(*status, *mounts)).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddStatusCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* status = app.add_subcommand("status",
                                        "Show the node, and of each mount how much is here, where "
                                        "its reads were served from, and its errors");
  status->callback([&invocation] { invocation.run = [&invocation] { return RunStatus(invocation.flags); }; });
}

}  // namespace sluice::cli
