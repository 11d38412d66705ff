#include "api/admin_service.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "api/call_deadline.h"
#include "api/call_pool.h"
#include "api/mount_calls.h"
#include "api/proto_conversion.h"
#include "api/verify_stream.h"
#include "sluice/v1/admin.grpc.pb.h"

namespace sluice::api {
namespace {

constexpr int32_t kBlobPageMax = 1000;

// One WatchFill stream. Owns itself until gRPC is done with it.
//
// Its callbacks never overlap: a write or an alarm is set by the one before it.
class FillWatch final : public grpc::ServerWriteReactor<v1::WatchFillResponse> {
 public:
  struct Shared {
    MountBackend& mounts;
    const Duration interval;
    std::atomic<int> count{0};
    std::atomic<bool> ending{false};
  };

  FillWatch(Shared& shared, grpc::CallbackServerContext& context, std::string mount_point)
      : shared_(shared), context_(context), mount_point_(std::move(mount_point)) {
    ++shared_.count;
  }
  ~FillWatch() override { --shared_.count; }

  void Poll() {
    if (context_.IsCancelled()) return Finish(grpc::Status::CANCELLED);
    if (shared_.ending.load()) return Finish(ToGrpc(absl::UnavailableError("the node is shutting down")));
    absl::StatusOr<std::vector<FillProgress>> progress = shared_.mounts.GetFillProgress(mount_point_);
    if (!progress.ok()) return Finish(ToGrpc(progress.status()));

    response_.Clear();
    underway_ = false;
    for (const FillProgress& blob : *progress) {
      if (blob.state == FillState::kFilling) underway_ = true;
      AddIfChanged(blob);
    }
    if (response_.blobs_size() > 0) return StartWrite(&response_);
    PollLaterOrFinish();
  }

 private:
  struct Seen {
    uint64_t present_bytes;
    FillState state;
    friend bool operator==(const Seen&, const Seen&) = default;
  };

  void AddIfChanged(const FillProgress& blob) {
    const Seen now{blob.blob.present_bytes, blob.state};
    const auto [it, is_new] = seen_.try_emplace(blob.blob.digest, now);
    if (!is_new && it->second == now) return;
    it->second = now;
    ToProto(blob, *response_.add_blobs());
  }

  void PollLaterOrFinish() {
    if (!underway_) return Finish(grpc::Status::OK);
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
  const std::string mount_point_;
  absl::flat_hash_map<Digest, Seen> seen_;
  v1::WatchFillResponse response_;  // the one being written
  bool underway_ = false;
  std::optional<grpc::Alarm> alarm_;
};

// A stream that ends with an error before its first message.
class RefusedWatch final : public grpc::ServerWriteReactor<v1::WatchFillResponse> {
 public:
  explicit RefusedWatch(const absl::Status& status) { Finish(ToGrpc(status)); }

 private:
  void OnDone() override { delete this; }
};

}  // namespace

class AdminService::Impl final : public v1::AdminService::CallbackService {
 public:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Impl(AdminBackend backend, AdminServiceLimits limits)
      : backend_(backend),
        limits_(limits),
        watches_{.mounts = backend.mounts, .interval = limits.fill_poll_interval},
        slow_(limits.slow_workers, 2 * limits.calls_waiting_max),
        verifies_(limits.verify_workers, limits.calls_waiting_max),
        removals_(limits.removal_workers, limits.calls_waiting_max),
        quick_(limits.quick_workers, limits.calls_waiting_max) {}

  void EndWatches() {
    watches_.ending = true;
    verify_streams_.End();
  }
  void Stop() {
    for (CallPool* pool : {&slow_, &verifies_, &removals_, &quick_}) pool->Stop();
  }

  Reactor* GetStatus(Context* context, const v1::GetStatusRequest*,
                     v1::GetStatusResponse* response) override {
    return Run(quick_, context, [this, response](Instant) {
      absl::StatusOr<NodeStatus> status = backend_.status.GetStatus();
      if (status.ok()) ToProto(*status, *response->mutable_status());
      return status.status();
    });
  }

  Reactor* SetLogLevel(Context* context, const v1::SetLogLevelRequest* request,
                       v1::SetLogLevelResponse* response) override {
    return Run(quick_, context, [this, request, response](Instant) {
      const absl::StatusOr<LogLevel> level = FromProto(request->level());
      if (level.ok()) response->set_previous_level(ToProto(backend_.status.SetLogLevel(*level)));
      return level.status();
    });
  }

  Reactor* Drain(Context* context, const v1::DrainRequest* request, v1::DrainResponse* response) override {
    return Run(quick_, context, [this, request, response](Instant) {
      const DrainState state = request->undo() ? DrainState::kServing : DrainState::kDrained;
      response->set_hints_ended(static_cast<uint32_t>(backend_.status.SetDrain(state)));
      return absl::OkStatus();
    });
  }

  Reactor* ListPeers(Context* context, const v1::ListPeersRequest*,
                     v1::ListPeersResponse* response) override {
    return Run(quick_, context, [this, response](Instant) {
      const absl::StatusOr<PeersReport> report = backend_.peers.ListPeers();
      if (report.ok()) ToProto(*report, *response);
      return report.status();
    });
  }

  Reactor* DialBack(Context* context, const v1::DialBackRequest*, v1::DialBackResponse* response) override {
    return Run(slow_, context, [this, response](Instant deadline) {
      const absl::StatusOr<std::vector<DialFinding>> dials = backend_.peers.DialBack(deadline);
      if (!dials.ok()) return dials.status();
      for (const DialFinding& dial : *dials) ToProto(dial, *response->add_dials());
      return absl::OkStatus();
    });
  }

  Reactor* Mount(Context* context, const v1::MountRequest* request, v1::MountResponse* response) override {
    return mount_calls_.Begin(context, *request, response);
  }

  Reactor* Unmount(Context* context, const v1::UnmountRequest* request, v1::UnmountResponse*) override {
    return Run(removals_, context, [this, request](Instant) {
      if (absl::Status status = CheckMountPoint(request->mount_point()); !status.ok()) return status;
      return backend_.mounts.Unmount(request->mount_point());
    });
  }

  Reactor* UnmountAll(Context* context, const v1::UnmountAllRequest* request,
                      v1::UnmountAllResponse* response) override {
    return Run(removals_, context, [this, request, response](Instant deadline) {
      const Readers readers = request->end_readers() ? Readers::kEnd : Readers::kKeep;
      const absl::StatusOr<std::vector<UnmountResult>> results =
          backend_.mounts.UnmountAll(readers, deadline);
      if (!results.ok()) return results.status();
      for (const UnmountResult& result : *results) ToProto(result, *response->add_results());
      return absl::OkStatus();
    });
  }

  Reactor* ListHolders(Context* context, const v1::ListHoldersRequest*,
                       v1::ListHoldersResponse* response) override {
    return Run(slow_, context, [this, response](Instant) {
      const absl::StatusOr<HolderReport> report = backend_.mounts.ListHolders();
      if (!report.ok()) return report.status();
      for (const MountHolder& holder : report->holders) ToProto(holder, *response->add_holders());
      response->set_more(report->more);
      response->set_complete(report->complete);
      return absl::OkStatus();
    });
  }

  Reactor* ListMounts(Context* context, const v1::ListMountsRequest*,
                      v1::ListMountsResponse* response) override {
    return Run(quick_, context, [this, response](Instant) {
      absl::StatusOr<std::vector<MountInfo>> mounts = backend_.mounts.ListMounts();
      if (!mounts.ok()) return mounts.status();
      for (const MountInfo& mount : *mounts) ToProto(mount, *response->add_mounts());
      return absl::OkStatus();
    });
  }

  Reactor* GetStartReports(Context* context, const v1::GetStartReportsRequest* request,
                           v1::GetStartReportsResponse* response) override {
    return Run(quick_, context, [this, request, response](Instant) {
      const absl::StatusOr<ImageStarts> starts = backend_.mounts.GetStartReports(request->image());
      if (!starts.ok()) return starts.status();
      for (const StartReport& report : starts->known) ToProto(report, *response->add_reports());
      for (const std::string& mount_point : starts->unknown) response->add_unknown(mount_point);
      return absl::OkStatus();
    });
  }

  grpc::ServerWriteReactor<v1::WatchFillResponse>* WatchFill(Context* context,
                                                             const v1::WatchFillRequest* request) override {
    if (absl::Status status = CheckMountPoint(request->mount_point()); !status.ok()) {
      return new RefusedWatch(status);
    }
    if (watches_.count.load() >= limits_.watches_max) {
      return new RefusedWatch(absl::ResourceExhaustedError(
          absl::StrCat(limits_.watches_max, " fills are being watched already; try again later")));
    }
    auto* watch = new FillWatch(watches_, *context, request->mount_point());
    watch->Poll();
    return watch;
  }

  Reactor* ListBlobs(Context* context, const v1::ListBlobsRequest* request,
                     v1::ListBlobsResponse* response) override {
    return Run(quick_, context,
               [this, request, response](Instant) { return ListBlobsPage(*request, *response); });
  }

  Reactor* GetBlob(Context* context, const v1::GetBlobRequest* request,
                   v1::GetBlobResponse* response) override {
    return RunOnBlob(quick_, context, request->digest(), [this, response](const Digest& digest, Instant) {
      absl::StatusOr<BlobInfo> blob = backend_.blobs.GetBlob(digest);
      if (blob.ok()) ToProto(*blob, *response->mutable_blob());
      return blob.status();
    });
  }

  Reactor* GetBlobRecipe(Context* context, const v1::GetBlobRecipeRequest* request,
                         v1::GetBlobRecipeResponse* response) override {
    return RunOnBlob(quick_, context, request->digest(), [this, response](const Digest& digest, Instant) {
      absl::StatusOr<std::string> recipe = backend_.blobs.GetBlobRecipe(digest);
      if (recipe.ok()) response->set_recipe(*std::move(recipe));
      return recipe.status();
    });
  }

  grpc::ServerWriteReactor<v1::VerifyBlobResponse>* VerifyBlob(
      Context* context, const v1::VerifyBlobRequest* request) override {
    return verify_streams_.Begin(*context, request->digest());
  }

  Reactor* EvictBlob(Context* context, const v1::EvictBlobRequest* request,
                     v1::EvictBlobResponse* response) override {
    return RunOnBlob(removals_, context, request->digest(), [this, response](const Digest& digest, Instant) {
      absl::StatusOr<uint64_t> freed = backend_.blobs.EvictBlob(digest);
      if (freed.ok()) response->set_freed_bytes(*freed);
      return freed.status();
    });
  }

  Reactor* PinBlob(Context* context, const v1::PinBlobRequest* request, v1::PinBlobResponse*) override {
    return RunOnBlob(quick_, context, request->digest(), [this](const Digest& digest, Instant) {
      return backend_.blobs.SetPin(digest, PinState::kPinned);
    });
  }

  Reactor* UnpinBlob(Context* context, const v1::UnpinBlobRequest* request, v1::UnpinBlobResponse*) override {
    return RunOnBlob(quick_, context, request->digest(), [this](const Digest& digest, Instant) {
      return backend_.blobs.SetPin(digest, PinState::kUnpinned);
    });
  }

  Reactor* GetImageProfile(Context* context, const v1::GetImageProfileRequest* request,
                           v1::GetImageProfileResponse* response) override {
    return Run(slow_, context, [this, request, response](Instant deadline) {
      const absl::StatusOr<ProfileReport> report =
          backend_.profiles.GetProfile(request->reference(), deadline);
      if (report.ok()) ToProto(*report, *response->mutable_profile());
      return report.status();
    });
  }

  Reactor* ImportImageProfile(Context* context, const v1::ImportImageProfileRequest* request,
                              v1::ImportImageProfileResponse* response) override {
    return Run(slow_, context, [this, request, response](Instant) {
      const absl::StatusOr<ProfileReport> report =
          backend_.profiles.ImportProfile(request->reference(), request->document());
      if (report.ok()) ToProto(*report, *response->mutable_profile());
      return report.status();
    });
  }

 private:
  // Runs `work` on a pool and ends the call with its status. gRPC keeps context, request and response alive
  // until then.
  template <typename Work>  // absl::Status(Instant deadline)
  Reactor* Run(CallPool& pool, Context* context, Work work) {
    Reactor* reactor = context->DefaultReactor();
    absl::Status posted = pool.Post([this, context, reactor, work = std::move(work)] {
      absl::StatusOr<Instant> deadline = DeadlineOf(*context, limits_.call_max);
      reactor->Finish(ToGrpc(deadline.ok() ? work(*deadline) : deadline.status()));
    });
    if (!posted.ok()) reactor->Finish(ToGrpc(posted));
    return reactor;
  }

  template <typename Work>  // absl::Status(const Digest& digest, Instant deadline)
  Reactor* RunOnBlob(CallPool& pool, Context* context, const std::string& digest_field, Work work) {
    return Run(pool, context, [digest_field, work = std::move(work)](Instant deadline) -> absl::Status {
      absl::StatusOr<Digest> digest = DigestFrom(digest_field);
      if (!digest.ok()) return digest.status();
      return work(*digest, deadline);
    });
  }

  absl::Status ListBlobsPage(const v1::ListBlobsRequest& request, v1::ListBlobsResponse& response) {
    if (request.page_size() < 0) return absl::InvalidArgumentError("page_size is negative");
    const int32_t count =
        request.page_size() > 0 ? std::min(request.page_size(), kBlobPageMax) : kBlobPageMax;
    BlobPageRequest page{.after = std::nullopt, .count_max = static_cast<uint32_t>(count)};
    if (!request.page_token().empty()) {
      absl::StatusOr<Digest> after = Digest::Parse(request.page_token());
      if (!after.ok()) return absl::InvalidArgumentError("page_token is not one that ListBlobs has given");
      page.after = *after;
    }
    absl::StatusOr<std::vector<BlobInfo>> blobs = backend_.blobs.ListBlobs(page);
    if (!blobs.ok()) return blobs.status();
    for (const BlobInfo& blob : *blobs) ToProto(blob, *response.add_blobs());
    if (blobs->size() == page.count_max) response.set_next_page_token(blobs->back().digest.ToString());
    return absl::OkStatus();
  }

  // Constant after construction.
  const AdminBackend backend_;
  const AdminServiceLimits limits_;

  FillWatch::Shared watches_;
  VerifyStreams verify_streams_{backend_.blobs, verifies_, limits_.verify_interval};
  MountCalls mount_calls_{backend_.mounts, slow_, {.call_max = limits_.call_max}};
  // Last: their threads use the others.
  CallPool slow_, verifies_, removals_, quick_;
};

AdminService::AdminService(AdminBackend backend, AdminServiceLimits limits)
    : impl_(std::make_unique<Impl>(backend, limits)) {}

AdminService::~AdminService() = default;

grpc::Service& AdminService::service() {
  return *impl_;
}

const char* AdminService::name() const {
  return v1::AdminService::service_full_name();
}

void AdminService::Stop() {
  impl_->Stop();
}

void AdminService::EndWatches() {
  impl_->EndWatches();
}

}  // namespace sluice::api
