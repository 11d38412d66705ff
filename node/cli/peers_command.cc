#include <CLI/CLI.hpp>
#include <cstdio>

#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/json_report.h"
#include "node/cli/table_report.h"

namespace sluice::cli {
namespace {

absl::Status RunPeers(const GlobalFlags& flags) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();
  const absl::StatusOr<v1::ListPeersResponse> peers = client->ListPeers();
  if (!peers.ok()) return Annotate(peers.status(), "cannot list the peers");
  const bool json = flags.output == OutputFormat::kJson;
  std::fputs((json ? PeersJson(*peers) : PeerTable(*peers)).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddPeersCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* peers =
      app.add_subcommand("peers", "List the other nodes of the cluster, and how asking them went lately");
  peers->callback([&invocation] { invocation.run = [&invocation] { return RunPeers(invocation.flags); }; });
}

}  // namespace sluice::cli
