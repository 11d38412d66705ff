#include "node/fetch_scheduler.h"

#include <algorithm>
#include <cstddef>

#include "absl/container/inlined_vector.h"

namespace sluice {
namespace {

// Half of what the others leave, rounded up, so that one that is alone among few still gets something.
uint64_t HalfOf(uint64_t all, uint64_t of_others) {
  return (all - std::min(all, of_others) + 1) / 2;
}

// The registry that a blob is probably fetched from.
std::string RegistryOf(const Blob& blob) {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  return facts->origins.empty() ? std::string() : facts->origins.front().registry;
}

template <typename Queue>
void EraseAt(Queue& queue, size_t position) {
  queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(position));
}

}  // namespace

FetchScheduler::Slot::~Slot() {
  if (!scheduler_) return;
  scheduler_->Arrived(*share_, of_class_, bytes_);
  scheduler_->Finished(*share_, of_class_);
}

void FetchScheduler::Slot::Arrived(uint64_t bytes) {
  scheduler_->Arrived(*share_, of_class_, bytes);
  bytes_ -= bytes;
}

bool FetchScheduler::Slot::CutTo(uint64_t bytes) {
  if (!scheduler_) return false;
  if (bytes < bytes_) Arrived(bytes_ - bytes);
  return true;
}

ChunkSpan FetchScheduler::Runs::TakeFront(uint32_t count_max) {
  ChunkSpan& front = runs_[first_];
  const ChunkSpan taken{front.first, std::min(front.count, count_max)};
  front = {taken.end(), front.count - taken.count};
  if (front.count > 0) return taken;
  // Moving what is left forward only then costs no more than each had cost to push.
  if (++first_ * 2 < runs_.size()) return taken;
  runs_.erase(runs_.begin(), runs_.begin() + static_cast<std::ptrdiff_t>(first_));
  first_ = 0;
  return taken;
}

FetchScheduler::Share& FetchScheduler::ShareOf(const std::shared_ptr<Blob>& blob) {
  std::unique_ptr<Share>& share = shares_[blob.get()];
  if (share) return *share;
  const std::string name = RegistryOf(*blob);
  std::unique_ptr<Registry>& registry = registries_[name];
  if (!registry) {
    registry = std::make_unique<Registry>();
    registry->name = name;
  }
  share = std::make_unique<Share>();
  share->blob = blob;
  share->registry = registry.get();
  ++registry->blobs;
  return *share;
}

// Drops the share, and perhaps its registry, if they have nothing any more.
void FetchScheduler::Forget(Share& share) {
  for (const Share::InClass& in_class : share.classes) {
    if (in_class.under_way > 0 || in_class.has_turn) return;
  }
  Registry& registry = *share.registry;
  const Blob* const blob = share.blob.get();
  shares_.erase(blob);
  --registry.blobs;
  Forget(registry);
}

void FetchScheduler::Forget(Registry& registry) {
  if (registry.blobs > 0 || registry.has_turns > 0 || registries_.size() <= kRegistriesKept) return;
  // Its name is in what is erased.
  const std::string name = registry.name;
  registries_.erase(name);
}

void FetchScheduler::GiveTurn(Share& share, int of_class) {
  Share::InClass& in_class = share.classes[of_class];
  if (in_class.has_turn) return;
  in_class.has_turn = true;
  may_start_ = true;
  std::deque<Share*>& turns = share.registry->lanes[of_class].turns;
  if (turns.empty()) {
    classes_[of_class].turns.push_back(share.registry);
    ++share.registry->has_turns;
  }
  turns.push_back(&share);
}

void FetchScheduler::Push(const std::shared_ptr<Blob>& blob, ChunkSpan chunks, FetchClass fetch_class) {
  Share& share = ShareOf(blob);
  const int of_class = static_cast<int>(fetch_class);
  share.classes[of_class].runs.Push(chunks);
  GiveTurn(share, of_class);
}

void FetchScheduler::Ready(const std::shared_ptr<WorkSource>& work, const std::shared_ptr<Blob>& blob,
                           FetchClass fetch_class) {
  Share& share = ShareOf(blob);
  const int of_class = static_cast<int>(fetch_class);
  auto& queue = share.classes[of_class].work;
  if (std::find(queue.begin(), queue.end(), work) == queue.end()) queue.push_back(work);
  GiveTurn(share, of_class);
}

void FetchScheduler::Drop(const WorkSource& work, const Blob& blob, FetchClass fetch_class) {
  const auto share = shares_.find(&blob);
  if (share == shares_.end()) return;
  // A turn without anything to start is passed over when it comes.
  std::erase_if(share->second->classes[static_cast<int>(fetch_class)].work,
                [&](const auto& other) { return other.get() == &work; });
}

bool FetchScheduler::HasFills() const {
  return !classes_[static_cast<int>(FetchClass::kHint)].turns.empty() ||
         !classes_[static_cast<int>(FetchClass::kBackfill)].turns.empty();
}

std::optional<FetchScheduler::Start> FetchScheduler::Pop(Fills fills) {
  if (!may_start_) return std::nullopt;
  std::optional<Start> start = PopOfClass(static_cast<int>(FetchClass::kDemand));
  if (!start) start = PopBelowDemand(fills);
  // Nothing changes here when those that wait may start.
  may_start_ = start.has_value() || (fills == Fills::kWait && HasFills());
  return start;
}

// Fair queueing by start times: what a class starts moves its own time on by the bytes over its weight.
std::optional<FetchScheduler::Start> FetchScheduler::PopBelowDemand(Fills fills) {
  absl::InlinedVector<std::pair<uint64_t, int>, kFetchClassCount> order;
  for (int of_class = static_cast<int>(FetchClass::kDemand) + 1; of_class < kFetchClassCount; ++of_class) {
    if (fills == Fills::kWait && IsFill(static_cast<FetchClass>(of_class))) continue;
    if (!classes_[of_class].turns.empty()) order.emplace_back(classes_[of_class].served, of_class);
  }
  std::sort(order.begin(), order.end());
  for (const auto& [served, of_class] : order) {
    std::optional<Start> start = PopOfClass(of_class);
    if (!start) continue;
    // Those that had nothing to start, or might not, do not save that up.
    for (ClassTurns& other : classes_) other.served = std::max(other.served, served);
    classes_[of_class].served += start->slot.bytes_ / kWeights[of_class];
    return start;
  }
  return std::nullopt;
}

// What may not start has something under way, or its registry has: so no more are passed over than there are
// slots, however many wait.
std::optional<FetchScheduler::Start> FetchScheduler::PopOfClass(int of_class) {
  ClassTurns& in_class = classes_[of_class];
  if (in_class.under_way >= limits_.fetches_max[of_class]) return std::nullopt;
  for (size_t turn = 0; turn < in_class.turns.size();) {
    Registry& registry = *in_class.turns[turn];
    std::optional<Start> start;
    if (RegistryMayStart(registry, of_class)) start = PopOfRegistry(registry, of_class);
    const bool goes_on = !registry.lanes[of_class].turns.empty();
    if (!start && goes_on) {
      ++turn;
      continue;
    }
    EraseAt(in_class.turns, turn);
    if (goes_on) {
      in_class.turns.push_back(&registry);
    } else {
      --registry.has_turns;
    }
    if (start) return start;
    Forget(registry);
  }
  return std::nullopt;
}

std::optional<FetchScheduler::Start> FetchScheduler::PopOfRegistry(Registry& registry, int of_class) {
  std::deque<Share*>& turns = registry.lanes[of_class].turns;
  for (size_t turn = 0; turn < turns.size();) {
    Share& share = *turns[turn];
    const uint32_t count_max = Allowed(share, of_class);
    if (count_max == 0) {
      ++turn;
      continue;
    }
    EraseAt(turns, turn);
    std::optional<Start> start = PopOfShare(share, of_class, count_max);
    Share::InClass& in_class = share.classes[of_class];
    if (!in_class.runs.empty() || !in_class.work.empty()) {
      turns.push_back(&share);
    } else {
      in_class.has_turn = false;
      if (!start) Forget(share);
    }
    if (start) return start;
  }
  return std::nullopt;
}

std::optional<FetchScheduler::Start> FetchScheduler::PopOfShare(Share& share, int of_class,
                                                                uint32_t count_max) {
  Share::InClass& in_class = share.classes[of_class];
  if (!in_class.runs.empty()) {
    const ChunkSpan run = in_class.runs.TakeFront(count_max);
    return Start{{share.blob, run, static_cast<FetchClass>(of_class)}, PlaceFor(share, of_class, run)};
  }
  while (!in_class.work.empty()) {
    const std::shared_ptr<WorkSource> work = in_class.work.front();
    in_class.work.pop_front();
    const std::optional<ChunkSpan> chunks = work->Next(count_max, clock_.Now());
    if (!chunks) continue;
    in_class.work.push_back(work);
    return Start{{share.blob, *chunks, static_cast<FetchClass>(of_class), work},
                 PlaceFor(share, of_class, *chunks)};
  }
  return std::nullopt;
}

// Bytes that all fetches of a registry may have under way in the pool.
uint64_t FetchScheduler::BytesFor(const Registry& registry, int pool) const {
  const uint64_t all = limits_.inflight_bytes_max;
  const uint64_t left = all - std::min(all, bytes_[1 - pool]);
  const uint64_t of_pool = pool == 0 ? left : std::min(left, all / 2);
  return HalfOf(of_pool, bytes_[pool] - registry.bytes[pool]);
}

bool FetchScheduler::RegistryMayStart(const Registry& registry, int of_class) const {
  const uint32_t under_way = registry.lanes[of_class].under_way;
  const uint32_t of_others = classes_[of_class].under_way - under_way;
  if (under_way >= HalfOf(limits_.fetches_max[of_class], of_others)) return false;
  const int pool = PoolOf(static_cast<FetchClass>(of_class));
  return registry.bytes[pool] == 0 || registry.bytes[pool] < BytesFor(registry, pool);
}

uint32_t FetchScheduler::Allowed(const Share& share, int of_class) const {
  const Registry& registry = *share.registry;
  const uint32_t of_registry = registry.lanes[of_class].under_way;
  const uint64_t slots = HalfOf(limits_.fetches_max[of_class], classes_[of_class].under_way - of_registry);
  const uint32_t under_way = share.classes[of_class].under_way;
  if (under_way > 0 && under_way >= HalfOf(slots, of_registry - under_way)) return 0;

  const int pool = PoolOf(static_cast<FetchClass>(of_class));
  const uint64_t bytes_max = BytesFor(registry, pool);
  const uint64_t share_max = HalfOf(bytes_max, registry.bytes[pool] - share.bytes[pool]);
  if (share.bytes[pool] > 0 && share.bytes[pool] >= share_max) return 0;
  const uint64_t bytes =
      std::min({share_max - std::min(share_max, share.bytes[pool]),
                bytes_max - std::min(bytes_max, registry.bytes[pool]), uint64_t{limits_.fetch_bytes_max}});
  // What comes in piece by piece must not be asked for anew piece by piece.
  if (share.bytes[pool] > 0 && bytes < std::min(NextLength(share, of_class), share_max / 4)) return 0;
  return static_cast<uint32_t>(std::max<uint64_t>(1, bytes / share.blob->geometry().chunk_size()));
}

// Bytes that the blob would ask for next.
uint64_t FetchScheduler::NextLength(const Share& share, int of_class) const {
  const Runs& runs = share.classes[of_class].runs;
  if (runs.empty()) return limits_.fetch_bytes_max;
  const uint64_t length = share.blob->geometry().RangeOf(runs.front()).length;
  return std::min<uint64_t>(length, limits_.fetch_bytes_max);
}

FetchScheduler::Slot FetchScheduler::Take(const std::shared_ptr<Blob>& blob, ChunkSpan chunks,
                                          FetchClass fetch_class) {
  return PlaceFor(ShareOf(blob), static_cast<int>(fetch_class), chunks);
}

FetchScheduler::Slot FetchScheduler::PlaceFor(Share& share, int of_class, ChunkSpan chunks) {
  const int pool = PoolOf(static_cast<FetchClass>(of_class));
  Slot slot;
  slot.scheduler_ = this;
  slot.share_ = &share;
  slot.of_class_ = of_class;
  slot.bytes_ = share.blob->geometry().RangeOf(chunks).length;
  ++share.classes[of_class].under_way;
  ++share.registry->lanes[of_class].under_way;
  ++classes_[of_class].under_way;
  share.bytes[pool] += slot.bytes_;
  share.registry->bytes[pool] += slot.bytes_;
  bytes_[pool] += slot.bytes_;
  if (telemetry_) telemetry_->fetches[of_class].Add();
  Count(of_class);
  return slot;
}

void FetchScheduler::Arrived(Share& share, int of_class, uint64_t bytes) {
  const int pool = PoolOf(static_cast<FetchClass>(of_class));
  may_start_ = true;
  share.bytes[pool] -= bytes;
  share.registry->bytes[pool] -= bytes;
  bytes_[pool] -= bytes;
  Count(of_class);
}

void FetchScheduler::Finished(Share& share, int of_class) {
  may_start_ = true;
  --share.classes[of_class].under_way;
  --share.registry->lanes[of_class].under_way;
  --classes_[of_class].under_way;
  Count(of_class);
  Forget(share);
}

void FetchScheduler::Count(int of_class) const {
  if (!telemetry_) return;
  telemetry_->fetches_under_way[of_class].Set(classes_[of_class].under_way);
  telemetry_->fetch_inflight_bytes.Set(static_cast<int64_t>(inflight_bytes()));
}

}  // namespace sluice
