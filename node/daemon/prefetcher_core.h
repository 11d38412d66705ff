#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/daemon/hint.h"
#include "node/daemon/prefetcher.h"

// What Prefetcher is made of, for its two files: prefetcher.cc takes hints and tells of them,
// prefetcher_work.cc looks up and fetches what they want, and ends them.
namespace sluice {

class Prefetcher::Core : public std::enable_shared_from_this<Core> {
 public:
  // Of one life of the node to the next revisions go on with the time: nobody changes a hint a million times
  // a second.
  Core(Parts parts, Limits limits)
      : parts_(std::move(parts)),
        limits_(limits),
        revision_(static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                            std::chrono::system_clock::now().time_since_epoch())
                                            .count())) {}

  void Restore(std::vector<JournalledHint> hints);
  void Stop();
  size_t SetDrain(api::DrainState state);
  api::DrainState drain() const { return drain_; }
  absl::StatusOr<std::vector<api::SubmitResult>> SubmitHints(const std::vector<api::HintSpec>& specs);
  uint64_t Revision();
  absl::StatusOr<std::vector<api::HintStatus>> GetHints(const std::vector<std::string>& ids);
  std::vector<api::HintStatus> ListHints(const std::string& after, size_t count_max);
  absl::StatusOr<std::vector<api::HintStatus>> CancelHints(const std::vector<std::string>& ids);

 private:
  // What a hint is about; nothing of it is evicted while this lives.
  struct Found {
    std::optional<Blob::Lease> bootstrap;  // of an image
    std::vector<Blob::Lease> blobs;
    std::vector<std::vector<ChunkSpan>> spans{};  // what of each is wanted, if that is not the spec's to say
    std::optional<uint32_t> profile_starts{};
  };

  // --- With mutex_ held.
  PrepareBounds BoundsOf(const Hint& hint) const;
  enum class From { kClient, kJournal };
  api::SubmitResult Take(api::HintSpec spec, std::chrono::system_clock::time_point taken, From from);
  // Who is to be told.
  std::vector<std::string> AddTargets(Hint& hint, From from) const;
  void PassOn(const HintPtr& hint, std::vector<std::string> members,
              const std::optional<api::HintCredentials>& credentials);
  // What who submits the id of a hint that is known is told.
  api::SubmitResult TellKnown(Hint& known, const api::HintSpec& spec, const p2p::Platform& platform);
  void Forget(const std::string& id);
  void EndIfAllAreTold(const HintPtr& hint);
  // Tells whoever has taken it that it was cancelled.
  void Recall(const HintPtr& hint);
  absl::Status RoomFor(const api::HintSpec& spec) const;
  absl::StatusOr<std::vector<HintPtr>> FindAll(const std::vector<std::string>& ids) const;
  api::HintStatus Describe(Hint& hint);
  api::HintStatus StatusOf(const Hint& hint) const;
  void ResolveNext();
  // Nobody, if no hint may be looked up now.
  HintPtr TakeNextToResolve();
  void ForgetIfIdle(const std::string& registry);
  void Learn(const HintPtr& hint, Found found);
  void ShareOutFetching();
  void Fetch(const HintPtr& hint);
  void Pause(Hint& hint);
  void TendLater();
  void TryAgainOrFail(const HintPtr& hint, const absl::Status& status);
  void End(Hint& hint, api::HintState state, absl::Status error);
  void LetGo(Hint& hint);
  void Remember(const std::string& id);
  void Complete(const HintPtr& hint);
  void TakeBack(std::vector<JournalledHint> hints);
  void SaveLater(Duration delay);

  // --- On the blocking threads.
  void Resolve(const HintPtr& hint);
  absl::StatusOr<Found> Prepare(const HintPtr& hint);
  absl::StatusOr<Found> PrepareImage(const HintPtr& hint, ImagePreparer& preparer);
  absl::StatusOr<Found> PrepareBlob(const HintPtr& hint, ImagePreparer& preparer);
  void AddProfile(const Digest& manifest, Found& found) const;

  // --- On the core loop.
  void Tend();
  void OnTry(const HintPtr& hint, size_t target, const absl::Status& status);
  void ResolveAgain(const HintPtr& hint);

  // --- On any thread.
  void OnTold(const HintPtr& hint, const std::string& member, const absl::Status& status);
  void OnRecalled(const HintPtr& hint, const std::string& member, const absl::Status& status);

  // --- Where the disk may be waited for.
  void PinAll(const HintPtr& hint, const std::vector<BlobKey>& blobs);
  void Save();
  static void WarnUnlessSaved(const absl::Status& saved);

  // Constant after construction.
  const Parts parts_;
  const Limits limits_;

  std::atomic<api::DrainState> drain_{api::DrainState::kServing};  // set with mutex_ held

  std::mutex save_mutex_;  // one save at a time; taken before mutex_
  // Taken before BackgroundFill's.
  std::mutex mutex_;
  // Guarded by mutex_.
  bool stopped_ = false;
  absl::flat_hash_map<std::string, HintPtr> hints_;  // by id
  std::deque<std::string> ended_;                    // ids, the oldest first
  std::vector<HintPtr> known_;                       // resolved and not over
  int resolving_ = 0;                                // under way
  // By registry; gone when it has none. A hint that has no turn costs nothing when others are taken.
  struct Lookups {
    std::vector<HintPtr> waiting;
    int under_way = 0;
  };
  absl::flat_hash_map<std::string, Lookups> lookups_;
  uint64_t taken_ = 0;                                // since the start
  uint64_t revision_;                                 // of the latest change of a hint
  bool tending_ = false;                              // Tend will be called
  bool save_due_ = false;                             // Save will be called
  absl::flat_hash_map<std::string, size_t> live_of_;  // hints that are not over, by scheduler
};

}  // namespace sluice
