#pragma once

#include "node/cli/invocation.h"

namespace CLI {
class App;
}

namespace sluice::cli {

// Adds `image push` and `image inspect`, which speak to registries, `image profile`, which asks the
// daemon, and `image push-profile`, which does both, as the functions of commands.h do.
void AddImageCommands(CLI::App& app, Invocation& invocation);

// Each adds one to `image`.
void AddImagePushCommand(CLI::App& image, Invocation& invocation);
void AddImageInspectCommand(CLI::App& image, Invocation& invocation);
void AddImageProfileCommand(CLI::App& image, Invocation& invocation);
void AddImagePushProfileCommand(CLI::App& image, Invocation& invocation);
// To `image profile`.
void AddImageRecordCommand(CLI::App& profile, Invocation& invocation);

}  // namespace sluice::cli
