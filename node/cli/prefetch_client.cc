#include "node/cli/prefetch_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "node/cli/daemon_socket.h"
#include "node/cli/remote_node.h"
#include "sluice/v1/prefetch.grpc.pb.h"

namespace sluice::cli {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(30);
// A connection over the network that ends earlier was not ended for its age.
constexpr absl::Duration kConnectionAgeMin = absl::Minutes(1);

std::string PrefetchSocket(const GlobalFlags& flags) {
  if (!flags.prefetch_socket.empty()) return flags.prefetch_socket;
  return (std::filesystem::path(flags.socket).parent_path() / "prefetch.sock").string();
}

}  // namespace

class PrefetchClient::Channel {
 public:
  Channel(const DaemonSocket& socket, bool is_remote)
      : timeout_(socket.timeout),
        is_remote_(is_remote),
        stub_(v1::PrefetchService::NewStub(socket.channel)) {}

  bool is_remote() const { return is_remote_; }
  v1::PrefetchService::Stub& stub() { return *stub_; }

  // Of a call that begins now.
  absl::Time Deadline(absl::Duration by_default) const { return absl::Now() + timeout_.value_or(by_default); }
  static void SetDeadline(grpc::ClientContext& context, absl::Time deadline) {
    if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
  }
  void SetDeadline(grpc::ClientContext& context, absl::Duration by_default) const {
    SetDeadline(context, Deadline(by_default));
  }

 private:
  const std::optional<absl::Duration> timeout_;
  const bool is_remote_;
  const std::unique_ptr<v1::PrefetchService::Stub> stub_;
};

absl::StatusOr<PrefetchClient> PrefetchClient::Connect(const GlobalFlags& flags) {
  const absl::StatusOr<DaemonSocket> socket =
      flags.remote.address.empty() ? ConnectSocket(flags, PrefetchSocket(flags), "--prefetch-socket")
                                   : ConnectRemote(flags);
  if (!socket.ok()) return socket.status();
  return PrefetchClient(std::make_unique<Channel>(*socket, !flags.remote.address.empty()));
}

PrefetchClient::PrefetchClient(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {}
PrefetchClient::PrefetchClient(PrefetchClient&&) noexcept = default;
PrefetchClient::~PrefetchClient() = default;

absl::StatusOr<v1::HintStatus> PrefetchClient::Submit(const v1::Hint& hint) {
  grpc::ClientContext context;
  channel_->SetDeadline(context, kCallTimeout);
  v1::SubmitHintsRequest request;
  *request.add_hints() = hint;
  v1::SubmitHintsResponse response;
  const grpc::Status status = channel_->stub().SubmitHints(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  if (response.results_size() != 1) return absl::InternalError("the daemon did not answer for the hint");
  const v1::SubmitResult& result = response.results(0);
  if (result.has_error()) {
    return absl::Status(static_cast<absl::StatusCode>(result.error().code()), result.error().message());
  }
  return result.status();
}

absl::Status PrefetchClient::Watch(const std::vector<std::string>& ids, Interrupt& interrupt,
                                   const std::function<void(const v1::WatchHintsResponse&)>& on_progress) {
  v1::WatchHintsRequest request;
  request.mutable_ids()->Add(ids.begin(), ids.end());
  const absl::Time deadline = channel_->Deadline(absl::InfiniteDuration());
  while (true) {
    const absl::Time began = absl::Now();
    grpc::ClientContext context;
    Channel::SetDeadline(context, deadline);
    auto stream = channel_->stub().WatchHints(&context, request);
    interrupt.Call([&context] { context.TryCancel(); });
    v1::WatchHintsResponse response;
    while (stream->Read(&response)) {
      for (const v1::HintStatus& hint : response.hints())
        request.set_after_revision(std::max(request.after_revision(), hint.revision()));
      on_progress(response);
    }
    const grpc::Status status = stream->Finish();
    interrupt.Call(nullptr);
    // A node ends connections of the network now and then, so that certificates are shown anew.
    const bool goes_on = channel_->is_remote() && status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                         absl::Now() - began >= kConnectionAgeMin;
    if (!goes_on || interrupt.received()) return FromGrpc(status);
  }
}

absl::StatusOr<std::vector<v1::HintStatus>> PrefetchClient::List() {
  std::vector<v1::HintStatus> hints;
  v1::ListHintsRequest request;
  do {
    grpc::ClientContext context;
    channel_->SetDeadline(context, kCallTimeout);
    v1::ListHintsResponse response;
    const grpc::Status status = channel_->stub().ListHints(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    hints.insert(hints.end(), response.hints().begin(), response.hints().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return hints;
}

absl::StatusOr<std::vector<v1::ImageLocality>> PrefetchClient::GetLocality(
    const v1::GetLocalityRequest& request) {
  grpc::ClientContext context;
  channel_->SetDeadline(context, kCallTimeout);
  v1::GetLocalityResponse response;
  const grpc::Status status = channel_->stub().GetLocality(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  return std::vector<v1::ImageLocality>(response.images().begin(), response.images().end());
}

absl::StatusOr<std::vector<v1::HintStatus>> PrefetchClient::Cancel(const std::vector<std::string>& ids) {
  grpc::ClientContext context;
  channel_->SetDeadline(context, kCallTimeout);
  v1::CancelHintsRequest request;
  request.mutable_ids()->Add(ids.begin(), ids.end());
  v1::CancelHintsResponse response;
  const grpc::Status status = channel_->stub().CancelHints(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  return std::vector<v1::HintStatus>(response.hints().begin(), response.hints().end());
}

}  // namespace sluice::cli
