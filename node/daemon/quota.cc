#include "node/daemon/quota.h"

#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/units.h"

namespace sluice {

Quota::Quota(Parts parts, StoreLimits limits) : parts_(std::move(parts)), limits_(limits) {
  parts_.telemetry.cache_capacity_bytes.Set(static_cast<int64_t>(limits_.capacity_bytes));
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "quota");
}

Quota::~Quota() {
  Stop();
}

void Quota::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  ended_.notify_all();
  std::call_once(joined_, [this] { thread_.join(); });
}

uint64_t Quota::UsedBytes() const {
  return parts_.store.UsedBytes() + kernel_bytes_;
}

void Quota::MakeRoom(uint64_t bytes, index::RoomNeed need) {
  const Instant until = std::chrono::steady_clock::now() + kRoomWaitMax;
  const auto fits = [&] {
    return need == index::RoomNeed::kCapacity && UsedBytes() + bytes <= limits_.capacity_bytes;
  };
  while (!fits()) {
    const Instant now = std::chrono::steady_clock::now();
    const bool hopeless = IsHopeless(now);
    if (now >= until) return;
    if (hopeless && (now < fruitless_until_.load() || Candidates().empty())) return AskForAlarm();
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    disk_full_ = disk_full_ || need == index::RoomNeed::kDiskFull;
    // A round that is under way may have looked before.
    const uint64_t wanted = ++rounds_asked_;
    wake_.notify_all();
    ended_.wait_until(lock, until, [&] { return stopping_ || rounds_done_ >= wanted; });
    if (need == index::RoomNeed::kDiskFull || hopeless || UsedBytes() <= limits_.low_bytes()) return;
    if (now < fruitless_until_.load()) ended_.wait_for(lock, kFruitlessPause, [&] { return stopping_; });
  }
}

bool Quota::IsHopeless(Instant now) const {
  const Instant since = fruitless_since_;
  return since != Instant() && now - since >= kPatience;
}

// The next round tells what no round has seen: what was written since.
void Quota::AskForAlarm() {
  const std::lock_guard lock(mutex_);
  if (alarmed_) return;
  ++rounds_asked_;
  wake_.notify_all();
}

void Quota::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_.wait_for(lock, kInterval, [&] { return stopping_ || rounds_asked_ > rounds_done_; });
    if (stopping_) return;
    const uint64_t asked = rounds_asked_;
    const bool room_wanted = asked > rounds_done_;
    const bool disk_full = std::exchange(disk_full_, false);
    lock.unlock();
    kernel_bytes_ = parts_.kernel_bytes();
    const uint64_t used = UsedBytes();
    bool evicted = true;
    if (disk_full) {
      // Others may have filled the disk: something is given back, however little the store has.
      evicted = EvictDownTo(std::min(limits_.low_bytes(), used - std::min(used, used / 10 + 1)));
    } else if (used > limits_.high_bytes() || room_wanted) {
      evicted = EvictDownTo(limits_.low_bytes());
    }
    NoteFruit(evicted);
    lock.lock();
    NoteOver(UsedBytes());
    rounds_done_ = asked;
    ended_.notify_all();
  }
}

void Quota::NoteFruit(bool evicted) {
  const Instant now = std::chrono::steady_clock::now();
  if (evicted) {
    fruitless_since_ = Instant();
    return;
  }
  fruitless_until_ = now + kFruitlessPause;
  if (fruitless_since_.load() == Instant()) fruitless_since_ = now;
}

std::vector<EvictionCandidate> Quota::Candidates() const {
  std::vector<EvictionCandidate> candidates;
  for (const index::BlobInfo& blob : parts_.store.List()) {
    // What takes up nothing gives nothing back.
    if (blob.leases == 0 && !blob.pinned && blob.disk_bytes > 0)
      candidates.push_back({blob.key, blob.disk_bytes, blob.last_access_ms});
  }
  return candidates;
}

// Whether anything was given back, or nothing had to be.
bool Quota::EvictDownTo(uint64_t target_bytes) {
  const uint64_t used = UsedBytes();
  if (used <= target_bytes) return true;
  bool any = false;
  for (const EvictionCandidate& victim : ChooseEvictions(Candidates(), used - target_bytes)) {
    if (UsedBytes() <= target_bytes) return true;
    any = EvictOne(victim) || any;
  }
  return any;
}

bool Quota::EvictOne(const EvictionCandidate& victim) {
  parts_.release(victim.key);
  const absl::Status evicted = parts_.store.Evict(victim.key, EvictReason::kWatermark);
  // Somebody may have begun to use it meanwhile.
  if (!evicted.ok()) {
    if (!absl::IsFailedPrecondition(evicted) && !absl::IsNotFound(evicted))
      spdlog::warn("blob {} can't be evicted: {}", victim.key.Short(), evicted.ToString());
    return false;
  }
  spdlog::info("evicted {}: {} given back", victim.key.ToString(), FormatSize(victim.bytes));
  if (const absl::Status discarded = parts_.discard_copies(victim.key); !discarded.ok())
    spdlog::warn("the kernel keeps its copy of blob {}: {}", victim.key.Short(), discarded.ToString());
  kernel_bytes_ = parts_.kernel_bytes();
  return true;
}

void Quota::NoteOver(uint64_t used) {
  const bool over = used > limits_.capacity_bytes;
  if (over && !alarmed_ && !IsHopeless(std::chrono::steady_clock::now())) return;
  if (over && !alarmed_) {
    parts_.alarm(absl::StrCat(
        "the store takes up ", FormatSize(used), ", more than its capacity of ",
        FormatSize(limits_.capacity_bytes),
        ", and all of it is mounted, in use or pinned: unmount or unpin something, or raise store.capacity"));
  }
  if (over || used <= limits_.high_bytes()) alarmed_ = over;
}

}  // namespace sluice
