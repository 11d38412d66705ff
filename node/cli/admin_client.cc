#include "node/cli/admin_client.h"

#include <errno.h>
#include <grpcpp/grpcpp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/cli/exit_code.h"
#include "sluice/v1/admin.grpc.pb.h"

namespace sluice::cli {
namespace {

// Of one answer: a page of a thousand blobs, or every mount of a busy node.
constexpr int kReceiveBytesMax = 16 << 20;

constexpr absl::Duration kQueryTimeout = absl::Seconds(30);
constexpr absl::Duration kMountTimeout = absl::Minutes(10);
constexpr absl::Duration kVerifyTimeout = absl::Minutes(30);

absl::Status FromGrpc(const grpc::Status& status) {
  // The codes of absl and gRPC are the same numbers: both are google.rpc.Code.
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

// Asks the socket itself first: gRPC would say no more than "failed to connect".
absl::Status CheckSocket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("--socket \"", path, "\" has ", path.size(),
                                                   " bytes; a socket's path has 1 to ",
                                                   sizeof(address.sun_path) - 1));
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot create a socket");
  const int error =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  ::close(fd);
  if (error == 0) return absl::OkStatus();
  const std::string what = absl::StrCat("cannot reach the daemon on ", path, ": ", strerror(error));
  if (error == EACCES || error == EPERM) {
    return absl::PermissionDeniedError(
        absl::StrCat(what, ". Run this as root, or as a user who may open it"));
  }
  return DaemonUnreachable(absl::StrCat(
      what, ". Start it with `systemctl start sluiced` or `sluiced`, or name its socket with --socket"));
}

}  // namespace

class AdminClient::Channel {
 public:
  Channel(const std::string& socket, std::optional<absl::Duration> timeout) : timeout_(timeout) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kReceiveBytesMax);
    // A proxy of the environment has no business with a local socket.
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = v1::AdminService::NewStub(
        grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments));
  }

  v1::AdminService::Stub& stub() { return *stub_; }

  void SetDeadline(grpc::ClientContext& context, absl::Duration by_default) const {
    const absl::Duration timeout = timeout_.value_or(by_default);
    if (timeout != absl::InfiniteDuration()) context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (v1::AdminService::Stub::*method)(grpc::ClientContext*,
                                                                               const Request&, Response*),
                                const Request& request, absl::Duration timeout = kQueryTimeout) {
    grpc::ClientContext context;
    SetDeadline(context, timeout);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response;
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> CallOnBlob(grpc::Status (v1::AdminService::Stub::*method)(grpc::ClientContext*,
                                                                                     const Request&,
                                                                                     Response*),
                                      const std::string& digest, absl::Duration timeout = kQueryTimeout) {
    Request request;
    request.set_digest(digest);
    return Call(method, request, timeout);
  }

 private:
  const std::optional<absl::Duration> timeout_;
  std::unique_ptr<v1::AdminService::Stub> stub_;
};

absl::StatusOr<AdminClient> AdminClient::Connect(const GlobalFlags& flags) {
  std::optional<absl::Duration> timeout;
  if (!flags.timeout.empty()) {
    timeout.emplace();
    if (!absl::ParseDuration(flags.timeout, &*timeout) || *timeout <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--timeout \"", flags.timeout, "\" is no duration; write it as 500ms, 30s, 5m or 1h"));
    }
  }
  if (absl::Status status = CheckSocket(flags.socket); !status.ok()) return status;
  return AdminClient(std::make_unique<Channel>(flags.socket, timeout));
}

AdminClient::AdminClient(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {}
AdminClient::AdminClient(AdminClient&&) noexcept = default;
AdminClient::~AdminClient() = default;

absl::StatusOr<v1::NodeStatus> AdminClient::GetStatus() {
  auto response = channel_->Call(&v1::AdminService::Stub::GetStatus, v1::GetStatusRequest());
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_status());
}

absl::StatusOr<v1::MountInfo> AdminClient::Mount(const v1::MountRequest& request) {
  auto response = channel_->Call(&v1::AdminService::Stub::Mount, request, kMountTimeout);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_mount());
}

absl::Status AdminClient::Unmount(const std::string& mount_point) {
  v1::UnmountRequest request;
  request.set_mount_point(mount_point);
  return channel_->Call(&v1::AdminService::Stub::Unmount, request).status();
}

absl::StatusOr<std::vector<v1::MountInfo>> AdminClient::ListMounts() {
  auto response = channel_->Call(&v1::AdminService::Stub::ListMounts, v1::ListMountsRequest());
  if (!response.ok()) return response.status();
  return std::vector<v1::MountInfo>(response->mounts().begin(), response->mounts().end());
}

absl::Status AdminClient::WatchFill(const std::string& mount_point,
                                    const std::function<void(const v1::WatchFillResponse&)>& on_progress) {
  grpc::ClientContext context;
  channel_->SetDeadline(context, absl::InfiniteDuration());
  v1::WatchFillRequest request;
  request.set_mount_point(mount_point);
  auto stream = channel_->stub().WatchFill(&context, request);
  v1::WatchFillResponse response;
  while (stream->Read(&response)) on_progress(response);
  return FromGrpc(stream->Finish());
}

absl::StatusOr<std::vector<v1::BlobInfo>> AdminClient::ListBlobs() {
  std::vector<v1::BlobInfo> blobs;
  v1::ListBlobsRequest request;
  do {
    auto response = channel_->Call(&v1::AdminService::Stub::ListBlobs, request);
    if (!response.ok()) return response.status();
    blobs.insert(blobs.end(), response->blobs().begin(), response->blobs().end());
    request.set_page_token(response->next_page_token());
  } while (!request.page_token().empty());
  return blobs;
}

absl::StatusOr<v1::BlobInfo> AdminClient::GetBlob(const std::string& digest) {
  auto response = channel_->CallOnBlob(&v1::AdminService::Stub::GetBlob, digest);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_blob());
}

absl::StatusOr<v1::VerifyBlobResponse> AdminClient::VerifyBlob(const std::string& digest) {
  return channel_->CallOnBlob(&v1::AdminService::Stub::VerifyBlob, digest, kVerifyTimeout);
}

absl::StatusOr<v1::EvictBlobResponse> AdminClient::EvictBlob(const std::string& digest) {
  return channel_->CallOnBlob(&v1::AdminService::Stub::EvictBlob, digest);
}

absl::Status AdminClient::PinBlob(const std::string& digest) {
  return channel_->CallOnBlob(&v1::AdminService::Stub::PinBlob, digest).status();
}

absl::Status AdminClient::UnpinBlob(const std::string& digest) {
  return channel_->CallOnBlob(&v1::AdminService::Stub::UnpinBlob, digest).status();
}

}  // namespace sluice::cli
