#include "node/cli/admin_client.h"

#include <grpcpp/grpcpp.h>

#include <optional>
#include <utility>

#include "node/cli/daemon_socket.h"
#include "sluice/v1/admin.grpc.pb.h"

namespace sluice::cli {
namespace {

constexpr absl::Duration kQueryTimeout = absl::Seconds(30);
constexpr absl::Duration kMountTimeout = absl::Minutes(10);
constexpr absl::Duration kUnmountAllTimeout = absl::Minutes(2);

}  // namespace

class AdminClient::Channel {
 public:
  explicit Channel(const DaemonSocket& socket)
      : timeout_(socket.timeout),
        same_mounts_(socket.same_mounts),
        stub_(v1::AdminService::NewStub(socket.channel)) {}
  bool same_mounts() const { return same_mounts_; }

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
  const bool same_mounts_;
  const std::unique_ptr<v1::AdminService::Stub> stub_;
};

absl::StatusOr<AdminClient> AdminClient::Connect(const GlobalFlags& flags) {
  const absl::StatusOr<DaemonSocket> socket = ConnectSocket(flags, flags.socket, "--socket");
  if (!socket.ok()) return socket.status();
  return AdminClient(std::make_unique<Channel>(*socket));
}

AdminClient::AdminClient(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {}
AdminClient::AdminClient(AdminClient&&) noexcept = default;
AdminClient::~AdminClient() = default;

bool AdminClient::SharesMounts() const {
  return channel_->same_mounts();
}

absl::StatusOr<v1::NodeStatus> AdminClient::GetStatus() {
  auto response = channel_->Call(&v1::AdminService::Stub::GetStatus, v1::GetStatusRequest());
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_status());
}

absl::StatusOr<v1::SetLogLevelResponse> AdminClient::SetLogLevel(v1::LogLevel level) {
  v1::SetLogLevelRequest request;
  request.set_level(level);
  return channel_->Call(&v1::AdminService::Stub::SetLogLevel, request);
}

absl::StatusOr<v1::DrainResponse> AdminClient::Drain(const v1::DrainRequest& request) {
  return channel_->Call(&v1::AdminService::Stub::Drain, request);
}

absl::StatusOr<v1::ListPeersResponse> AdminClient::ListPeers() {
  return channel_->Call(&v1::AdminService::Stub::ListPeers, v1::ListPeersRequest());
}

absl::StatusOr<v1::DialBackResponse> AdminClient::DialBack() {
  return channel_->Call(&v1::AdminService::Stub::DialBack, v1::DialBackRequest());
}

absl::StatusOr<v1::Mount> AdminClient::Mount(const v1::MountRequest& request) {
  auto response = channel_->Call(&v1::AdminService::Stub::Mount, request, kMountTimeout);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_mount());
}

absl::Status AdminClient::Unmount(const std::string& mount_point) {
  v1::UnmountRequest request;
  request.set_mount_point(mount_point);
  return channel_->Call(&v1::AdminService::Stub::Unmount, request).status();
}

absl::StatusOr<v1::UnmountAllResponse> AdminClient::UnmountAll(const v1::UnmountAllRequest& request) {
  return channel_->Call(&v1::AdminService::Stub::UnmountAll, request, kUnmountAllTimeout);
}

absl::StatusOr<v1::ListHoldersResponse> AdminClient::ListHolders() {
  return channel_->Call(&v1::AdminService::Stub::ListHolders, v1::ListHoldersRequest());
}

absl::StatusOr<std::vector<v1::Mount>> AdminClient::ListMounts() {
  auto response = channel_->Call(&v1::AdminService::Stub::ListMounts, v1::ListMountsRequest());
  if (!response.ok()) return response.status();
  return std::vector<v1::Mount>(response->mounts().begin(), response->mounts().end());
}

absl::StatusOr<v1::GetStartReportsResponse> AdminClient::GetStartReports(const std::string& image) {
  v1::GetStartReportsRequest request;
  request.set_image(image);
  return channel_->Call(&v1::AdminService::Stub::GetStartReports, request);
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

absl::StatusOr<std::vector<v1::Blob>> AdminClient::ListBlobs() {
  std::vector<v1::Blob> blobs;
  v1::ListBlobsRequest request;
  do {
    auto response = channel_->Call(&v1::AdminService::Stub::ListBlobs, request);
    if (!response.ok()) return response.status();
    blobs.insert(blobs.end(), response->blobs().begin(), response->blobs().end());
    request.set_page_token(response->next_page_token());
  } while (!request.page_token().empty());
  return blobs;
}

absl::StatusOr<v1::Blob> AdminClient::GetBlob(const std::string& digest) {
  auto response = channel_->CallOnBlob(&v1::AdminService::Stub::GetBlob, digest);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_blob());
}

absl::StatusOr<std::string> AdminClient::GetBlobRecipe(const std::string& digest) {
  auto response = channel_->CallOnBlob(&v1::AdminService::Stub::GetBlobRecipe, digest);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_recipe());
}

absl::StatusOr<v1::VerifyBlobResponse> AdminClient::VerifyBlob(
    const std::string& digest, Interrupt& interrupt,
    const std::function<void(const v1::VerifyBlobResponse&)>& on_progress) {
  grpc::ClientContext context;
  channel_->SetDeadline(context, absl::InfiniteDuration());
  v1::VerifyBlobRequest request;
  request.set_digest(digest);
  auto stream = channel_->stub().VerifyBlob(&context, request);
  interrupt.Call([&context] { context.TryCancel(); });
  std::optional<v1::VerifyBlobResponse> last;
  v1::VerifyBlobResponse response;
  while (stream->Read(&response)) {
    on_progress(response);
    last = response;
  }
  const grpc::Status status = stream->Finish();
  interrupt.Call(nullptr);
  if (!status.ok()) return FromGrpc(status);
  if (!last) return absl::InternalError("the daemon did not say what it found");
  return *std::move(last);
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

absl::StatusOr<v1::ImageProfile> AdminClient::GetImageProfile(const std::string& reference) {
  v1::GetImageProfileRequest request;
  request.set_reference(reference);
  auto response = channel_->Call(&v1::AdminService::Stub::GetImageProfile, request);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_profile());
}

absl::StatusOr<v1::ImageProfile> AdminClient::ImportImageProfile(const std::string& reference,
                                                                 const std::string& document) {
  v1::ImportImageProfileRequest request;
  request.set_reference(reference);
  request.set_document(document);
  auto response = channel_->Call(&v1::AdminService::Stub::ImportImageProfile, request);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_profile());
}

}  // namespace sluice::cli
