#include "node/cli/image_commands.h"

#include <CLI/CLI.hpp>

namespace sluice::cli {

void AddImageCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* image = app.add_subcommand("image", "Make, push and inspect lazy images");
  image->require_subcommand(1);
  AddImagePushCommand(*image, invocation);
  AddImageInspectCommand(*image, invocation);
  AddImageProfileCommand(*image, invocation);
  AddImagePushProfileCommand(*image, invocation);
}

}  // namespace sluice::cli
