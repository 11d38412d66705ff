#include "node/fill_flows.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

bool HasBytes(const LegProgress& progress) {
  return progress.first_byte != Instant();
}

bool HoldsPlace(const LegProgress& progress, Instant now) {
  const bool waits_itself = !HasBytes(progress) && progress.last_sign != Instant();
  return !waits_itself && !SourcePlanner::IsSilent(progress, now);
}

}  // namespace

bool FillFlows::MayStart(const UnderWay& under_way, Instant now) {
  if (IsQuiet(under_way, now)) quiet_ = now;
  if (!IsBounded(under_way, now)) return true;
  const auto places = std::count_if(under_way.fills.begin(), under_way.fills.end(),
                                    [&](const Flow& flow) { return HoldsPlace(flow.progress, now); });
  return static_cast<size_t>(places) < FlowsMax(under_way, now);
}

Instant FillFlows::LookAgainAt(const UnderWay& under_way, Instant now) const {
  Instant next = Instant::max();
  if (!under_way.reader_waits && reader_seen_)
    next = *reader_seen_ + (IsQuiet(under_way, now) ? kReaderKept : kQuiet);
  if (FlowsMax(under_way, now) == 0)
    return std::max(std::min(next, now + limits_.alone_max - OfTurn(now)), now);
  for (const Flow& flow : under_way.fills) {
    if (HoldsPlace(flow.progress, now))
      next = std::min(next, flow.progress.quiet_since() + SourcePlanner::kSilence);
  }
  return std::max(next, now);
}

std::vector<LegId> FillFlows::WithoutPlace(UnderWay under_way, Instant now) const {
  if (!IsBounded(under_way, now)) return {};
  std::vector<Flow>& flows = under_way.fills;
  std::erase_if(
      flows, [&](const Flow& flow) { return !HasBytes(flow.progress) || !HoldsPlace(flow.progress, now); });
  std::sort(flows.begin(), flows.end(), [](const Flow& a, const Flow& b) {
    return std::pair(a.progress.first_byte, a.id) < std::pair(b.progress.first_byte, b.id);
  });
  std::vector<LegId> ids;
  for (size_t i = FlowsMax(under_way, now); i < flows.size(); ++i) ids.push_back(flows[i].id);
  return ids;
}

}  // namespace sluice
