#include "node/daemon/node_admin.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/recipe.h"

namespace sluice {
namespace {

constexpr int kEvictTries = 10;
constexpr auto kEvictPause = std::chrono::milliseconds(50);
constexpr int kDiscardTries = 30;
constexpr auto kDiscardPause = std::chrono::milliseconds(100);

constexpr std::array<const char*, 4> kLogLevelNames = {"debug", "info", "warn", "error"};

// REQUIRES: it is one of those
api::LogLevel LevelOf(const std::string& name) {
  const auto* const found = std::find(kLogLevelNames.begin(), kLogLevelNames.end(), name);
  return static_cast<api::LogLevel>(found - kLogLevelNames.begin());
}

uint64_t AtLeastZero(const Gauge& gauge) {
  return static_cast<uint64_t>(std::max<int64_t>(gauge.value(), 0));
}

api::VerifyReport Sum(api::VerifyReport all, const index::VerifyReport& of_key, const index::BlobInfo& info) {
  const uint64_t proven = uint64_t{of_key.checked - of_key.unverifiable} * info.chunk_size;
  all.checked_bytes += std::min(proven, info.size);
  all.bad_chunks += of_key.bad;
  all.unprovable_chunks += of_key.unverifiable;
  return all;
}

}  // namespace

api::BlobInfo BlobAdmin::Describe(const index::BlobInfo& info) const {
  api::BlobInfo out;
  out.digest = info.digest;
  out.size_bytes = info.size;
  out.chunk_size_bytes = info.chunk_size;
  out.present_bytes = info.present_bytes;
  out.recipe_bound = info.root_known;
  out.refused = info.refused;
  out.pinned = info.pinned;
  out.lease_count = info.leases;
  out.origins = info.origins;
  out.stored = info.stored;
  out.last_access = std::chrono::system_clock::time_point(std::chrono::milliseconds(info.last_access_ms));
  if (const std::shared_ptr<Blob> blob = store_.Find(info.key))
    out.unverified_chunks = blob->unverified_count();
  return out;
}

absl::StatusOr<std::vector<api::BlobInfo>> BlobAdmin::ListBlobs(const api::BlobPageRequest& page) {
  std::vector<index::BlobInfo> blobs = store_.List();
  std::erase_if(blobs, [&](const index::BlobInfo& b) { return page.after && b.digest <= *page.after; });
  std::sort(blobs.begin(), blobs.end(), [](const index::BlobInfo& a, const index::BlobInfo& b) {
    return std::pair(a.digest, a.key) < std::pair(b.digest, b.key);
  });
  // The next page begins after a digest, so all that is claimed of the last one is on this.
  size_t count = std::min<size_t>(blobs.size(), page.count_max);
  while (count > 0 && count < blobs.size() && blobs[count].digest == blobs[count - 1].digest) ++count;
  blobs.resize(count);
  std::vector<api::BlobInfo> out;
  for (const index::BlobInfo& blob : blobs) out.push_back(Describe(blob));
  return out;
}

// What is meant by a digest that may be of what a registry keeps. That of no blob stays what it is.
absl::StatusOr<Digest> BlobAdmin::PlainOf(const Digest& digest) const {
  if (!store_.KeysOf(digest).empty()) return digest;
  const std::vector<Digest> blobs = store_.StoredAs(digest);
  if (blobs.size() < 2) return blobs.empty() ? digest : blobs.front();
  std::string names;
  for (const Digest& blob : blobs) absl::StrAppend(&names, names.empty() ? "" : ", ", blob.ToString());
  return absl::InvalidArgumentError(absl::StrCat(
      digest.ToString(), " is said to be what registries keep of several blobs; name one of them: ", names));
}

// The one that most would read: proven if any is.
absl::StatusOr<index::BlobInfo> BlobAdmin::StatOf(const Digest& named) const {
  const absl::StatusOr<Digest> plain = PlainOf(named);
  if (!plain.ok()) return plain.status();
  const Digest& digest = *plain;
  if (const std::shared_ptr<Blob> best = store_.FindBest(digest)) return store_.Stat(best->key());
  const std::vector<BlobKey> keys = store_.KeysOf(digest);
  return store_.Stat(keys.empty() ? BlobKey(digest) : keys.front());
}

// Errors: NotFound if there is none.
absl::StatusOr<std::vector<BlobKey>> BlobAdmin::KeysOf(const Digest& named) const {
  const absl::StatusOr<Digest> digest = PlainOf(named);
  if (!digest.ok()) return digest.status();
  std::vector<BlobKey> keys = store_.KeysOf(*digest);
  if (keys.empty()) return store_.Stat(*digest).status();
  return keys;
}

absl::StatusOr<api::BlobInfo> BlobAdmin::GetBlob(const Digest& digest) {
  const absl::StatusOr<index::BlobInfo> info = StatOf(digest);
  if (!info.ok()) return info.status();
  return Describe(*info);
}

absl::StatusOr<std::string> BlobAdmin::GetBlobRecipe(const Digest& digest) {
  const absl::StatusOr<index::BlobInfo> info = StatOf(digest);
  if (!info.ok()) return info.status();
  const std::shared_ptr<Blob> blob = store_.Find(info->key);
  if (!blob) return store_.Stat(info->key).status();
  const std::shared_ptr<const BlobSpec> facts = blob->facts();
  // The root alone is the recipe of a blob of one chunk.
  if (facts->root && blob->geometry().chunk_count() == 1) {
    return p2p::Recipe{facts->digest, facts->size, facts->chunk_size, *facts->root, {}}.EncodeTorrent();
  }
  absl::StatusOr<std::string> bytes = store_.GetRecipe(blob->key());
  if (bytes.ok()) {
    const absl::StatusOr<p2p::Recipe> recipe = p2p::Recipe::DecodeTorrent(*bytes);
    if (recipe.ok() && recipe->IsBoundBy(*facts)) return bytes;
  } else if (!absl::IsNotFound(bytes.status())) {
    return bytes.status();
  }
  return absl::NotFoundError(absl::StrCat(
      "blob ", info->digest.ToString(), " has no recipe on this node; ",
      facts->root
          ? "mount an image that it belongs to, so that it is fetched with it"
          : "it gets one when it is whole here; or push its image again with \"sluice image push\", which "
            "attaches one, and mount that"));
}

absl::StatusOr<api::VerifyReport> BlobAdmin::VerifyBlob(const Digest& digest, const CancelCheck& cancelled,
                                                        const api::OnVerifyProgress& on_progress) {
  const absl::StatusOr<std::vector<BlobKey>> keys = KeysOf(digest);
  if (!keys.ok()) return keys.status();
  std::vector<uint64_t> to_read;  // of each key, as far as it is known
  for (const BlobKey& key : *keys) {
    const absl::StatusOr<index::BlobInfo> info = store_.Stat(key);
    to_read.push_back(info.ok() ? info->present_bytes : 0);
  }
  // What became of one claim is not to hide what became of another.
  api::VerifyReport all;
  absl::Status failed;
  bool any = false;
  uint64_t read_before = 0;
  for (size_t i = 0; i < keys->size(); ++i) {
    const absl::StatusOr<index::BlobInfo> info = store_.Stat((*keys)[i]);
    if (!info.ok()) {
      failed.Update(info.status());
      continue;
    }
    uint64_t read = 0;
    const auto tell = [&](const index::VerifyProgress& progress) {
      read = progress.read_bytes;
      to_read[i] = progress.total_bytes;
      on_progress({read_before + read, std::accumulate(to_read.begin(), to_read.end(), uint64_t{0}),
                   Sum(all, progress.found, *info)});
    };
    const absl::StatusOr<index::VerifyReport> report = store_.Verify(info->key, verifier_, cancelled, tell);
    if (absl::IsCancelled(report.status())) return report.status();
    read_before += read;
    if (!report.ok()) {
      failed.Update(report.status());
      continue;
    }
    any = true;
    all = Sum(all, *report, *info);
    // Whoever asks is told of a copy that was put back, though all of it may have been fetched again.
    all.bad_chunks += store_.TakeLostChunks(info->key);
  }
  if (!any) return failed;
  return all;
}

absl::StatusOr<uint64_t> BlobAdmin::EvictBlob(const Digest& digest) {
  const absl::StatusOr<std::vector<BlobKey>> keys = KeysOf(digest);
  if (!keys.ok()) return keys.status();
  uint64_t freed = 0;
  absl::Status failed;
  for (const BlobKey& key : *keys) {
    const absl::StatusOr<uint64_t> evicted = EvictOne(key);
    failed.Update(evicted.status());
    freed += evicted.value_or(0);
  }
  if (!failed.ok()) return failed;
  return freed;
}

absl::StatusOr<uint64_t> BlobAdmin::EvictOne(const BlobKey& key) {
  const absl::StatusOr<index::BlobInfo> info = store_.Stat(key);
  if (!info.ok()) return info.status();
  release_(key);
  absl::Status evicted = store_.Evict(key, EvictReason::kRequested);
  // A reader goes on as soon as its bytes are there, a moment before its read gives back its lease. And every
  // container that starts has a copy of what is mounted until it leaves its host's mounts.
  for (int i = 0; i < kEvictTries && absl::IsFailedPrecondition(evicted) && !info->pinned; ++i) {
    std::this_thread::sleep_for(kEvictPause);
    release_(key);
    evicted = store_.Evict(key, EvictReason::kRequested);
  }
  if (!evicted.ok()) {
    const std::string holders = absl::IsFailedPrecondition(evicted) ? holders_(key) : "";
    if (holders.empty()) return evicted;
    return absl::Status(evicted.code(), absl::StrCat(std::string(evicted.message()), ": ", holders));
  }
  // The kernel lets go of a copy some time after the last unmount.
  absl::Status discarded = discard_copies_(key);
  for (int i = 0; i < kDiscardTries && absl::IsFailedPrecondition(discarded); ++i) {
    std::this_thread::sleep_for(kDiscardPause);
    discarded = discard_copies_(key);
  }
  if (discarded.ok()) return info->disk_bytes;
  return absl::Status(discarded.code(), absl::StrCat("the store's copy is gone, but not the kernel's: ",
                                                     std::string(discarded.message())));
}

absl::Status BlobAdmin::SetPin(const Digest& digest, api::PinState state) {
  const absl::StatusOr<std::vector<BlobKey>> keys = KeysOf(digest);
  if (!keys.ok()) return keys.status();
  absl::Status set;
  for (const BlobKey& key : *keys) {
    set.Update(state == api::PinState::kPinned ? store_.Pin(key) : store_.Unpin(key));
  }
  return set;
}

api::LogLevel StatusAdmin::SetLogLevel(api::LogLevel level) {
  const std::string before = log_.SetLevel(kLogLevelNames[static_cast<size_t>(level)]);
  spdlog::info("log.level is {} from now on, and was {}", log_.level(), before);
  return LevelOf(before);
}

size_t StatusAdmin::SetDrain(api::DrainState state) {
  on_drain_(state);
  return hints_.SetDrain(state);
}

absl::StatusOr<api::NodeStatus> StatusAdmin::GetStatus() {
  api::NodeStatus status;
  status.version = facts_.version;
  status.backend = facts_.backend;
  status.backend_reason = facts_.backend_reason;
  status.data_directory = facts_.data_directory;
  status.uptime = clock_.Now() - facts_.started;
  status.store.blob_count = store_.List().size();
  status.store.size_bytes = static_cast<uint64_t>(telemetry_.cache_size_bytes.value());
  status.store.capacity_bytes = static_cast<uint64_t>(telemetry_.cache_capacity_bytes.value());
  status.mount_count = static_cast<uint32_t>(telemetry_.mounts.value());
  for (size_t source = 0; source < kSourceKindCount; ++source) {
    status.served.reads[source] = telemetry_.reads[source].value();
    status.served.bytes[source] = telemetry_.read_bytes[source].value();
  }
  // What the keeper let pass by itself is local too.
  const ondemand::KeeperCounters keeper = mounter_.keeper_counters();
  status.served.reads[static_cast<size_t>(SourceKind::kLocal)] += keeper.hits;
  status.served.bytes[static_cast<size_t>(SourceKind::kLocal)] += keeper.hit_bytes;
  status.read_errors = telemetry_.read_errors.value() + keeper.failed;
  status.origin_bytes = telemetry_.origin_bytes.value();
  for (size_t lane = 0; lane < kPeerLaneCount; ++lane) {
    status.peer_received_bytes[lane] = telemetry_.peer_received_bytes[lane].value();
    status.peer_sent_bytes[lane] = telemetry_.peer_sent_bytes[lane].value();
  }
  int64_t members = 0;
  for (const Gauge& state : telemetry_.members) members += state.value();
  status.member_count = static_cast<uint32_t>(members);
  status.cluster = peers_.Status();
  status.log_level = LevelOf(log_.level());
  status.drain = hints_.drain();
  for (size_t i = 0; i < kFetchClassCount; ++i) {
    status.fetches[i] = telemetry_.fetches[i].value();
    status.fetches_under_way[i] = AtLeastZero(telemetry_.fetches_under_way[i]);
  }
  status.inflight_bytes = AtLeastZero(telemetry_.fetch_inflight_bytes);
  status.chunks_wanted = AtLeastZero(telemetry_.chunks_wanted);
  for (size_t i = 0; i < kReadaheadResultCount; ++i)
    status.readahead_bytes[i] = telemetry_.readahead_bytes[i].value();
  for (size_t i = 0; i < kHintResultCount; ++i) status.hints[i] = telemetry_.prefetch_hints[i].value();
  for (size_t i = 0; i < kHintBytesCount; ++i) status.hint_bytes[i] = counters_.hint_bytes[i].value();
  return status;
}

}  // namespace sluice
