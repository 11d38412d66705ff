#include "node/image_profile.h"

#include <algorithm>
#include <tuple>

#include "absl/container/flat_hash_map.h"

namespace sluice {
namespace {

// One chunk of a profile.
struct Need {
  uint32_t after_ms = 0;
  uint8_t weight = 0;
};
using Place = std::pair<uint32_t, uint32_t>;  // blob, chunk
using Needs = absl::flat_hash_map<Place, Need>;

uint32_t MillisecondsOf(Duration duration) {
  const int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(ms, 0, UINT32_MAX));
}

Needs NeedsOf(const ImageProfile& profile) {
  Needs needs;
  for (const ProfileSpan& span : profile.spans) {
    for (ChunkIndex at = span.chunks.first; at < span.chunks.end(); at = at.next())
      needs.insert_or_assign({span.blob, at.value()}, Need{span.after_ms, span.weight});
  }
  return needs;
}

// A quarter of the way there, and at least one step.
uint8_t Nearer(uint8_t weight, uint8_t goal) {
  if (goal > weight) return static_cast<uint8_t>(weight + (goal - weight + 3) / 4);
  return static_cast<uint8_t>(weight - (weight - goal + 3) / 4);
}

bool Continues(const ProfileSpan& span, Place place, const Need& need) {
  constexpr auto kTogetherMs = static_cast<uint32_t>(FirstTouches::kTogether / std::chrono::milliseconds(1));
  return span.blob == place.first && span.chunks.end().value() == place.second &&
         span.weight == need.weight && need.after_ms - span.after_ms <= kTogetherMs &&
         span.chunks.count < FirstTouches::kSpanChunksMax;
}

// In the order of need, chunks in a row together.
std::vector<ProfileSpan> SpansOf(const Needs& needs) {
  std::vector<std::pair<Place, Need>> ordered(needs.begin(), needs.end());
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second.after_ms, a.first) < std::tie(b.second.after_ms, b.first);
  });
  std::vector<ProfileSpan> spans;
  for (const auto& [place, need] : ordered) {
    if (!spans.empty() && Continues(spans.back(), place, need)) {
      ++spans.back().chunks.count;
      continue;
    }
    if (spans.size() == ImageProfile::kSpansMax) break;
    spans.push_back({place.first, {ChunkIndex(place.second), 1}, need.after_ms, need.weight});
  }
  return spans;
}

}  // namespace

ImageProfile Merged(const ImageProfile& known, const ImageProfile& start) {
  Needs needs = NeedsOf(known);
  const Needs touched = NeedsOf(start);
  const auto is_blind = [&](uint32_t blob) {
    return std::binary_search(start.blind.begin(), start.blind.end(), blob);
  };
  for (auto at = needs.begin(); at != needs.end();) {
    const auto now = touched.find(at->first);
    Need& need = at->second;
    if (now != touched.end()) {
      need.weight = Nearer(need.weight, ProfileSpan::kWeightMax);
      need.after_ms = static_cast<uint32_t>((uint64_t{need.after_ms} * 3 + now->second.after_ms) / 4);
    } else if (!is_blind(at->first.first)) {
      need.weight = Nearer(need.weight, 0);
    }
    if (need.weight < ImageProfile::kWeightMin) {
      needs.erase(at++);
    } else {
      ++at;
    }
  }
  const uint8_t first_weight = known.runs == 0 ? ProfileSpan::kWeightMax : ImageProfile::kWeightNew;
  for (const auto& [place, need] : touched) needs.try_emplace(place, Need{need.after_ms, first_weight});
  return {known.runs == UINT32_MAX ? known.runs : known.runs + 1, SpansOf(needs), {}};
}

FirstTouches::FirstTouches(const std::vector<uint32_t>& chunk_counts) {
  touched_.reserve(chunk_counts.size());
  for (const uint32_t count : chunk_counts) touched_.emplace_back(count);
  start_.runs = 1;
}

void FirstTouches::SetBlind(uint32_t blob) {
  const auto at = std::lower_bound(start_.blind.begin(), start_.blind.end(), blob);
  if (at == start_.blind.end() || *at != blob) start_.blind.insert(at, blob);
}

void FirstTouches::Add(uint32_t blob, ChunkSpan chunks, Duration after) {
  const uint32_t after_ms = MillisecondsOf(after);
  if (!start_.spans.empty()) {
    ProfileSpan& last = start_.spans.back();
    const bool together = after_ms - last.after_ms <= MillisecondsOf(kTogether);
    if (last.blob == blob && last.chunks.end() == chunks.first && together &&
        last.chunks.count + chunks.count <= kSpanChunksMax) {
      last.chunks.count += chunks.count;
      return;
    }
  }
  if (start_.spans.size() < ImageProfile::kSpansMax)
    start_.spans.push_back({blob, chunks, after_ms, ProfileSpan::kWeightMax});
}

}  // namespace sluice
