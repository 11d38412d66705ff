#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/daemon/config.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string ConfigJson(const Config& config) {
  Json json = Json::object();
  for (const Setting& setting : Settings()) {
    const std::vector<std::string> values = setting.get(config);
    if (setting.is_list) {
      json[setting.key] = values;
    } else {
      json[setting.key] = values.empty() ? "" : values.front();
    }
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// The file alone: what this shell's environment says is no fault of the file.
absl::Status RunValidate(const GlobalFlags& flags, const std::string& file) {
  absl::StatusOr<Config> config = LoadConfig({.file = file, .environment = {}, .flags = {}});
  if (!config.ok()) return config.status();
  if (flags.output == OutputFormat::kJson) {
    std::fputs((Json{{"file", file}, {"valid", true}}.dump(2) + "\n").c_str(), stdout);
  } else {
    std::printf("%s is valid\n", file.c_str());
  }
  return absl::OkStatus();
}

absl::Status RunShow(const GlobalFlags& flags, const std::string& file) {
  absl::StatusOr<Config> config = LoadConfig({.file = file, .environment = SluiceEnvironment(), .flags = {}});
  if (!config.ok()) return config.status();
  std::fputs((flags.output == OutputFormat::kJson ? ConfigJson(*config) : FormatConfig(*config)).c_str(),
             stdout);
  return absl::OkStatus();
}

}  // namespace

void AddConfigCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* config = app.add_subcommand("config", "Check and show the daemon's configuration");
  config->require_subcommand(1);
  auto file = std::make_shared<std::string>();

  CLI::App* validate = config->add_subcommand("validate", "Check a configuration file");
  validate->add_option("FILE", *file, "The YAML file")->required();
  validate->callback([&invocation, file] {
    invocation.run = [&invocation, file] { return RunValidate(invocation.flags, *file); };
  });

  CLI::App* show = config->add_subcommand(
      "show", "Show all settings as they come from FILE, SLUICE_* variables and defaults");
  show->add_option("FILE", *file, "The YAML file; without it only variables and defaults");
  show->callback([&invocation, file] {
    invocation.run = [&invocation, file] { return RunShow(invocation.flags, *file); };
  });
}

}  // namespace sluice::cli
