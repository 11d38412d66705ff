#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "node/cli/commands.h"

namespace sluice::cli {

void AddVersionCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* version = app.add_subcommand("version", "Show this tool's version");
  version->callback([&invocation] {
    invocation.run = [&invocation] {
      if (invocation.flags.output == OutputFormat::kJson) {
        std::printf("%s\n", nlohmann::json{{"version", SLUICE_VERSION}}.dump(2).c_str());
      } else {
        std::printf("sluice %s\n", SLUICE_VERSION);
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace sluice::cli
