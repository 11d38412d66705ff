#pragma once

#include "node/cli/invocation.h"

namespace CLI {
class App;
}

namespace sluice::cli {

// Adds `image push` and `image inspect`, as the functions of commands.h do. They speak to registries, not to
// the daemon.
void AddImageCommands(CLI::App& app, Invocation& invocation);

// Each adds one to `image`.
void AddImagePushCommand(CLI::App& image, Invocation& invocation);
void AddImageInspectCommand(CLI::App& image, Invocation& invocation);

}  // namespace sluice::cli
