#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/json_report.h"
#include "node/cli/table_report.h"

namespace sluice::cli {
namespace {

// Shows it, after setting it if one is given.
absl::Status RunLogLevel(const GlobalFlags& flags, const std::optional<v1::LogLevel>& level) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();
  if (level) {
    const absl::StatusOr<v1::SetLogLevelResponse> set = client->SetLogLevel(*level);
    if (!set.ok()) return Annotate(set.status(), "cannot set the log level");
  }
  const absl::StatusOr<v1::NodeStatus> status = client->GetStatus();
  if (!status.ok()) return Annotate(status.status(), "cannot get the log level");
  const bool json = flags.output == OutputFormat::kJson;
  std::fputs((json ? LogLevelJson(status->log_level()) : LogLevelText(status->log_level()) + "\n").c_str(),
             stdout);
  return absl::OkStatus();
}

}  // namespace

void AddLogLevelCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand(
      "log-level", "Show what the daemon logs, or change it until it restarts: debug, info, warn or error");
  static const std::map<std::string, v1::LogLevel> kLevels = {{"debug", v1::LOG_LEVEL_DEBUG},
                                                              {"info", v1::LOG_LEVEL_INFO},
                                                              {"warn", v1::LOG_LEVEL_WARN},
                                                              {"error", v1::LOG_LEVEL_ERROR}};
  auto level = std::make_shared<std::optional<v1::LogLevel>>();
  command->add_option("LEVEL", *level, "debug, info, warn or error; without it nothing is changed")
      ->transform(CLI::CheckedTransformer(kLevels, CLI::ignore_case).description(""));
  command->callback([&invocation, level] {
    invocation.run = [&invocation, level] { return RunLogLevel(invocation.flags, *level); };
  });
}

}  // namespace sluice::cli
