#include "node/cli/remote_node.h"

#include <grpcpp/grpcpp.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "node/cli/exit_code.h"
#include "node/cli/small_file.h"

namespace sluice::cli {
namespace {

constexpr absl::Duration kConnectMax = absl::Seconds(10);
constexpr size_t kFileBytesMax = 1 << 20;

absl::Status Read(const char* flag, const std::string& path, std::string* text) {
  absl::StatusOr<std::string> read = ReadSmallFile(path, kFileBytesMax);
  if (!read.ok())
    return absl::Status(read.status().code(), absl::StrCat(flag, ": ", read.status().message()));
  *text = *std::move(read);
  return absl::OkStatus();
}

// Also false at the first try that fails: what is wrong with an address or a certificate stays wrong.
bool IsConnected(grpc::Channel& channel, absl::Time until) {
  grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE) {
    if (!channel.WaitForStateChange(state, absl::ToChronoTime(until))) return false;
    state = channel.GetState(/*try_to_connect=*/true);
  }
  return state == GRPC_CHANNEL_READY;
}

}  // namespace

absl::StatusOr<DaemonSocket> ConnectRemote(const GlobalFlags& flags) {
  DaemonSocket node;
  const absl::StatusOr<std::optional<absl::Duration>> timeout = TimeoutOf(flags);
  if (!timeout.ok()) return timeout.status();
  node.timeout = *timeout;
  grpc::SslCredentialsOptions shown;
  const RemoteNode& remote = flags.remote;
  for (const auto& [flag, path, text] :
       {std::tuple("--ca", &remote.ca, &shown.pem_root_certs),
        std::tuple("--certificate", &remote.certificate, &shown.pem_cert_chain),
        std::tuple("--key", &remote.key, &shown.pem_private_key)}) {
    if (absl::Status status = Read(flag, *path, text); !status.ok()) return status;
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kAnswerBytesMax);
  // Nodes are known by the name that all of them have, wherever they are.
  arguments.SetSslTargetNameOverride(remote.peer_name);
  node.channel = grpc::CreateCustomChannel(remote.address, grpc::SslCredentials(shown), arguments);
  if (IsConnected(*node.channel, absl::Now() + node.timeout.value_or(kConnectMax))) return node;
  return DaemonUnreachable(
      absl::StrCat("cannot reach ", remote.address,
                   " by TLS: nobody takes hints there (api.prefetchListen), or one of the "
                   "two does not accept the other's certificate; the node's log says so"));
}

}  // namespace sluice::cli
