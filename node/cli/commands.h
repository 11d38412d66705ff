#pragma once

#include "node/cli/invocation.h"

namespace CLI {
class App;
}

// One function for each family of commands: adds its subcommands to `app`, whose callbacks set
// `invocation.run`. Both outlive the parsing and the run.

namespace sluice::cli {

void AddMountCommands(CLI::App& app, Invocation& invocation);     // mount, umount
void AddPrefetchCommands(CLI::App& app, Invocation& invocation);  // prefetch submit|watch|cancel
void AddStatusCommand(CLI::App& app, Invocation& invocation);     // status
void AddLogLevelCommand(CLI::App& app, Invocation& invocation);   // log-level
void AddDrainCommand(CLI::App& app, Invocation& invocation);      // drain
void AddPeersCommand(CLI::App& app, Invocation& invocation);      // peers
void AddBlobCommands(CLI::App& app, Invocation& invocation);    // blob ls|stat|recipe|verify|evict|pin|unpin
void AddConfigCommands(CLI::App& app, Invocation& invocation);  // config validate|show
void AddConfigureCommands(CLI::App& app, Invocation& invocation);  // configure containerd|crio
void AddDoctorCommand(CLI::App& app, Invocation& invocation);      // doctor
void AddVersionCommand(CLI::App& app, Invocation& invocation);     // version

}  // namespace sluice::cli
