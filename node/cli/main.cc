#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <string>

#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/image_commands.h"
#include "node/cli/invocation.h"

namespace sluice::cli {
namespace {

void AddGlobalFlags(CLI::App& app, GlobalFlags& flags) {
  app.add_option("--socket", flags.socket, "The daemon's API socket")
      ->envname("SLUICE_API_SOCKET")
      ->capture_default_str();
  app.add_option("--prefetch-socket", flags.prefetch_socket,
                 "The daemon's socket for hints (default: prefetch.sock beside --socket)")
      ->envname("SLUICE_API_PREFETCH_SOCKET");
  app.add_option("--timeout", flags.timeout,
                 "The longest that a call to the daemon may take, e.g. 500ms, 30s, 5m (default: by command)");
  static const std::map<std::string, OutputFormat> kFormats = {{"table", OutputFormat::kTable},
                                                               {"json", OutputFormat::kJson}};
  app.add_option("--output", flags.output, "table or json (default: table)")
      ->transform(CLI::CheckedTransformer(kFormats, CLI::ignore_case).description(""));
}

void PrintError(std::string message) {
  if (!message.empty() && message.back() != '.') message += '.';
  std::fprintf(stderr, "sluice: %s\n", message.c_str());
}

// Returns the process's exit code.
int Finish(const absl::Status& status) {
  if (!status.ok()) PrintError(std::string(status.message()));
  // An answer that did not reach its reader is a failure.
  if (std::fflush(stdout) != 0 && status.ok()) {
    PrintError("cannot write the answer to stdout");
    return static_cast<int>(ExitCode::kFailed);
  }
  return ExitNumberOf(status);
}

int Main(int argc, char** argv) {
  CLI::App app("Sluice: mounts container images before they are there.", "sluice");
  Invocation invocation;
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kExitCodesHelp);
  AddGlobalFlags(app, invocation.flags);
  AddImageCommands(app, invocation);
  AddMountCommands(app, invocation);
  AddPrefetchCommands(app, invocation);
  AddStatusCommand(app, invocation);
  AddLogLevelCommand(app, invocation);
  AddDrainCommand(app, invocation);
  AddPeersCommand(app, invocation);
  AddBlobCommands(app, invocation);
  AddConfigCommands(app, invocation);
  AddConfigureCommands(app, invocation);
  AddDoctorCommand(app, invocation);
  AddVersionCommand(app, invocation);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
    PrintError(std::string(error.what()) + ". `sluice --help` shows the commands");
    return static_cast<int>(ExitCode::kUsage);
  }
  return Finish(invocation.run());
}

// The next connection would get the number of a standard stream that is closed, and then our messages. (One
// number may be taken already: a library has an eventfd before main begins.) Open for the wrong direction, so
// that writing is the error that it would have been.
void OccupyStandardStreams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(stream, F_GETFD) >= 0) continue;
    // The lowest number that is free, which is this one: those below it are taken.
    if (open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY) != stream) return;
  }
}

}  // namespace
}  // namespace sluice::cli

int main(int argc, char** argv) {
  // A write beyond RLIMIT_FSIZE is an error to say, not a death.
  signal(SIGXFSZ, SIG_IGN);
  sluice::cli::OccupyStandardStreams();
  return sluice::cli::Main(argc, argv);
}
