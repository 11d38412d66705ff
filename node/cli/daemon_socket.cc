#include "node/cli/daemon_socket.h"

#include <errno.h>
#include <grpcpp/grpcpp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "node/cli/exit_code.h"

namespace sluice::cli {
namespace {

// Whether the process that listens is in our mount namespace.
bool SharesMounts(int connected) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(connected, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) return false;
  std::error_code error;
  const auto ours = std::filesystem::read_symlink("/proc/self/ns/mnt", error);
  const auto theirs = std::filesystem::read_symlink(absl::StrCat("/proc/", peer.pid, "/ns/mnt"), error);
  return !error && ours == theirs;
}

// Asks the socket itself first: gRPC would say no more than "failed to connect".
absl::Status CheckSocket(const std::string& path, const std::string& flag, bool* same_mounts) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " \"", path, "\" has ", path.size(),
                                                   " bytes; a socket's path has 1 to ",
                                                   sizeof(address.sun_path) - 1));
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot create a socket");
  const int error =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  *same_mounts = error == 0 && SharesMounts(fd);
  ::close(fd);
  if (error == 0) return absl::OkStatus();
  const std::string what = absl::StrCat("cannot reach the daemon on ", path, ": ", strerror(error));
  if (error == EACCES || error == EPERM) {
    return absl::PermissionDeniedError(
        absl::StrCat(what, ". Run this as root, or as a user who may open it"));
  }
  return DaemonUnreachable(absl::StrCat(
      what, ". Start it with `systemctl start sluiced` or `sluiced`, or name its socket with ", flag));
}

}  // namespace

absl::StatusOr<std::optional<absl::Duration>> TimeoutOf(const GlobalFlags& flags) {
  if (flags.timeout.empty()) return std::nullopt;
  absl::Duration timeout;
  if (absl::ParseDuration(flags.timeout, &timeout) && timeout > absl::ZeroDuration()) return timeout;
  return absl::InvalidArgumentError(
      absl::StrCat("--timeout \"", flags.timeout, "\" is no duration; write it as 500ms, 30s, 5m or 1h"));
}

absl::StatusOr<DaemonSocket> ConnectSocket(const GlobalFlags& flags, const std::string& path,
                                           const std::string& flag) {
  DaemonSocket socket;
  const absl::StatusOr<std::optional<absl::Duration>> timeout = TimeoutOf(flags);
  if (!timeout.ok()) return timeout.status();
  socket.timeout = *timeout;
  if (absl::Status status = CheckSocket(path, flag, &socket.same_mounts); !status.ok()) return status;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kAnswerBytesMax);
  // A proxy of the environment has no business with a local socket.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  socket.channel = grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments);
  return socket;
}

// google.rpc.Code 12.
constexpr auto kNoSuchCall = static_cast<grpc::StatusCode>(12);

absl::Status FromGrpc(const grpc::Status& status) {
  // What gRPC itself answers for a call that no service on the socket has: without a message.
  if (status.error_code() == kNoSuchCall && status.error_message().empty()) {
    return absl::Status(
        static_cast<absl::StatusCode>(kNoSuchCall),
        "the daemon does not serve this call on this socket; it may be of another version, or "
        "the socket another one's");
  }
  // The codes of absl and gRPC are the same numbers: both are google.rpc.Code.
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace sluice::cli
