#include "api/prefetch_service.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "api/call_deadline.h"
#include "api/proto_conversion.h"
#include "sluice/v1/prefetch.grpc.pb.h"

namespace sluice::api {
namespace {

// One WatchHints stream. Owns itself until gRPC is done with it.
//
// Its callbacks never overlap: a write or an alarm is set by the one before it.
class HintWatch final : public grpc::ServerWriteReactor<v1::WatchHintsResponse> {
 public:
  struct Shared {
    PrefetchBackend& backend;
    const Duration interval;
    std::atomic<int> count{0};
    std::atomic<bool> ending{false};
  };

  HintWatch(Shared& shared, grpc::CallbackServerContext& context, std::vector<std::string> ids,
            uint64_t after_revision)
      : shared_(shared), context_(context), open_(std::move(ids)), seen_(after_revision) {
    ++shared_.count;
  }
  ~HintWatch() override { --shared_.count; }

  void Poll() {
    if (context_.IsCancelled()) return Finish(grpc::Status::CANCELLED);
    if (shared_.ending.load()) return Finish(ToGrpc(absl::UnavailableError("the node is shutting down")));
    absl::StatusOr<std::vector<HintStatus>> hints = shared_.backend.GetHints(open_);
    if (!hints.ok()) return Finish(ToGrpc(hints.status()));

    response_.Clear();
    const uint64_t seen = seen_;
    for (const HintStatus& hint : *hints) {
      // One that is over does not change any more, and may be forgotten.
      const bool is_cancelling = hint.target_totals[static_cast<size_t>(TargetState::kCancelling)] > 0;
      if (IsOver(hint.state) && !is_cancelling) std::erase(open_, hint.id);
      if (hint.revision <= seen) continue;
      ToProto(hint, *response_.add_hints());
      // All of them are of one moment: what changes after it has a greater revision than any of them.
      seen_ = std::max(seen_, hint.revision);
    }
    if (response_.hints_size() > 0) return StartWrite(&response_);
    PollLaterOrFinish();
  }

 private:
  void PollLaterOrFinish() {
    if (open_.empty()) return Finish(grpc::Status::OK);
    // A new alarm each time: the one whose callback is running keeps itself alive until it returns.
    alarm_.emplace();
    alarm_->Set(std::chrono::system_clock::now() +
                    std::chrono::duration_cast<std::chrono::system_clock::duration>(shared_.interval),
                [this](bool) { Poll(); });
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    PollLaterOrFinish();
  }
  void OnDone() override { delete this; }

  Shared& shared_;
  grpc::CallbackServerContext& context_;
  std::vector<std::string> open_;    // ids of hints that were not over when they were last looked at
  uint64_t seen_;                    // revision; what is not greater has been sent
  v1::WatchHintsResponse response_;  // the one being written
  std::optional<grpc::Alarm> alarm_;
};

// A stream that ends with an error before its first message.
class RefusedWatch final : public grpc::ServerWriteReactor<v1::WatchHintsResponse> {
 public:
  explicit RefusedWatch(const absl::Status& status) { Finish(ToGrpc(status)); }

 private:
  void OnDone() override { delete this; }
};

}  // namespace

class PrefetchService::Impl final : public v1::PrefetchService::CallbackService {
 public:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Impl(PrefetchBackend& backend, LocalityBackend& locality, PrefetchServiceLimits limits)
      : backend_(backend),
        locality_(locality),
        limits_(limits),
        watches_{.backend = backend, .interval = limits.poll_interval} {}

  void EndWatches() { watches_.ending = true; }

  Reactor* SubmitHints(Context* context, const v1::SubmitHintsRequest* request,
                       v1::SubmitHintsResponse* response) override {
    return Answer(context, Submit(*request, *response));
  }

  Reactor* ListHints(Context* context, const v1::ListHintsRequest* request,
                     v1::ListHintsResponse* response) override {
    return Answer(context, List(*request, *response));
  }

  Reactor* GetHint(Context* context, const v1::GetHintRequest* request,
                   v1::GetHintResponse* response) override {
    return Answer(context, Get(*request, *response));
  }

  grpc::ServerWriteReactor<v1::WatchHintsResponse>* WatchHints(
      Context* context, const v1::WatchHintsRequest* request) override {
    absl::StatusOr<std::vector<std::string>> ids = HintIdsFrom(*request);
    if (!ids.ok()) return new RefusedWatch(ids.status());
    if (watches_.count.load() >= limits_.watches_max) {
      return new RefusedWatch(absl::ResourceExhaustedError(
          absl::StrCat(limits_.watches_max, " calls of WatchHints are under way already; try again later")));
    }
    // A revision that is still to come is of another life of the node, and says nothing of this one.
    const bool known = request->after_revision() <= backend_.Revision();
    auto* watch = new HintWatch(watches_, *context, *std::move(ids), known ? request->after_revision() : 0);
    watch->Poll();
    return watch;
  }

  Reactor* GetLocality(Context* context, const v1::GetLocalityRequest* request,
                       v1::GetLocalityResponse* response) override {
    const absl::StatusOr<LocalityQuery> query = FromProto(*request);
    if (!query.ok()) return Answer(context, query.status());
    const absl::StatusOr<Instant> deadline = DeadlineOf(*context, limits_.locality_max);
    if (!deadline.ok()) return Answer(context, deadline.status());
    if (++localities_ > limits_.localities_max) {
      --localities_;
      return Answer(context, absl::ResourceExhaustedError(absl::StrCat(
                                 limits_.localities_max,
                                 " calls of GetLocality are under way already; try again later")));
    }
    Reactor* reactor = context->DefaultReactor();
    locality_.GetLocality(*query, *deadline, [this, reactor, response](auto images) {
      --localities_;
      if (images.ok()) {
        for (const ImageLocality& image : *images) ToProto(image, *response->add_images());
      }
      reactor->Finish(ToGrpc(images.status()));
    });
    return reactor;
  }

  Reactor* CancelHints(Context* context, const v1::CancelHintsRequest* request,
                       v1::CancelHintsResponse* response) override {
    return Answer(context, Cancel(*request, *response));
  }

 private:
  static Reactor* Answer(Context* context, const absl::Status& status) {
    Reactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  absl::Status Submit(const v1::SubmitHintsRequest& request, v1::SubmitHintsResponse& response) {
    const absl::StatusOr<std::vector<HintSpec>> hints = FromProto(request);
    if (!hints.ok()) return hints.status();
    const absl::StatusOr<std::vector<SubmitResult>> results = backend_.SubmitHints(*hints);
    if (!results.ok()) return results.status();
    for (size_t i = 0; i < results->size(); ++i) {
      v1::SubmitResult& result = *response.add_results();
      result.set_id((*hints)[i].id);
      ToProto((*results)[i], result);
    }
    return absl::OkStatus();
  }

  absl::Status List(const v1::ListHintsRequest& request, v1::ListHintsResponse& response) {
    if (request.page_size() < 0) return absl::InvalidArgumentError("page_size is negative");
    const auto asked = static_cast<size_t>(request.page_size());
    const size_t count = asked == 0 ? kHintsPerCallMax : std::min(asked, kHintsPerCallMax);
    // One more than the page holds tells whether there is another.
    const std::vector<HintStatus> hints = backend_.ListHints(request.page_token(), count + 1);
    for (size_t i = 0; i < std::min(count, hints.size()); ++i) ToProto(hints[i], *response.add_hints());
    if (hints.size() > count) response.set_next_page_token(hints[count - 1].id);
    return absl::OkStatus();
  }

  absl::Status Get(const v1::GetHintRequest& request, v1::GetHintResponse& response) {
    const absl::StatusOr<std::string> id = HintIdFrom(request);
    if (!id.ok()) return id.status();
    const absl::StatusOr<std::vector<HintStatus>> hints = backend_.GetHints({*id});
    if (hints.ok()) ToProto(hints->front(), *response.mutable_hint());
    return hints.status();
  }

  absl::Status Cancel(const v1::CancelHintsRequest& request, v1::CancelHintsResponse& response) {
    const absl::StatusOr<std::vector<std::string>> ids = HintIdsFrom(request);
    if (!ids.ok()) return ids.status();
    const absl::StatusOr<std::vector<HintStatus>> hints = backend_.CancelHints(*ids);
    if (!hints.ok()) return hints.status();
    for (const HintStatus& hint : *hints) ToProto(hint, *response.add_hints());
    return absl::OkStatus();
  }

  PrefetchBackend& backend_;
  LocalityBackend& locality_;
  const PrefetchServiceLimits limits_;
  std::atomic<int> localities_{0};  // under way
  HintWatch::Shared watches_;
};

PrefetchService::PrefetchService(PrefetchBackend& backend, LocalityBackend& locality,
                                 PrefetchServiceLimits limits)
    : impl_(std::make_unique<Impl>(backend, locality, limits)) {}

PrefetchService::~PrefetchService() = default;

grpc::Service& PrefetchService::service() {
  return *impl_;
}

const char* PrefetchService::name() const {
  return v1::PrefetchService::service_full_name();
}

void PrefetchService::EndWatches() {
  impl_->EndWatches();
}

void PrefetchService::Stop() {}

}  // namespace sluice::api
