#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "p2p/cluster/gated_source.h"

namespace sluice::p2p {

// How long one of so many members waits, after a pause, before it asks the registry for the first of a blob.
// Where many are home of parts of it they begin at the same moment, and get equal shares of the registry's
// link: their first chunks come all at once, and so do all others, the last ones too. So they begin one after
// the other. (1,000 nodes of which 256 are homes, simulated: nothing to be passed on for a second of eleven.)
// Who stands in for a home that is gone has something of the blob, mostly.
// `fraction`: a random one, of 1.
Duration FirstWait(size_t members, double fraction);

// How much fills ask of one source at once. All homes of a blob ask the registry at the same time, and all
// nodes each home; and the sooner each chunk is there, the sooner it is passed on: so each asks for as little
// as keeps the bytes flowing. It asks for more while what it asks for comes as quickly as the quickest of
// late: what takes longer waited for what else was asked, and more of that would only have all of it come
// late. It asks for less when that takes much longer; readers don't wait. (8 homes that each had 8 MiB under
// way over 100 Mbit/s got their first chunk after 5 s; with 1 MiB, all of it at once, there was nothing to
// pass on for half a second.)
//
// Of a member there is a window below which fills don't go: it says itself when it has too many askers, and
// what is asked of it comes from its helpers as well, whose haste says nothing of the member. (Where fills of
// 8 nodes went down to one chunk of each, the last chunks came one after the other while the links idled: 1.3
// of the bound in place of 1.24.)
class Pace final : public FetchGate {
 public:
  static constexpr uint64_t kWindowFirst = 256 << 10;
  static constexpr uint64_t kWindowMin = 1;               // one fetch at a time
  static constexpr uint64_t kWindowOfMember = 512 << 10;  // at first and at least
  static constexpr uint64_t kWindowMax = 64 << 20;
  // So long nothing was under way, where what comes next waits first.
  static constexpr Duration kPauseMin = std::chrono::seconds(1);
  // A fetch that takes no longer than the shortest of late and a quarter, or this, did not wait for others.
  static constexpr Duration kSlack = std::chrono::milliseconds(160);
  // One that takes longer than four times the shortest of late, within these bounds, waited for too many.
  static constexpr Duration kLong = std::chrono::milliseconds(500);
  static constexpr Duration kLongMax = std::chrono::seconds(1);

  // Windows are in bytes. `first_wait`: see FirstWait; null: none waits first.
  explicit Pace(uint64_t window_first = kWindowFirst, uint64_t window_min = kWindowMin,
                std::function<Duration()> first_wait = nullptr)
      : window_min_(window_min), first_wait_(std::move(first_wait)), window_(window_first) {}

  bool LetsThrough(FetchClass fetch_class) const override { return fetch_class == FetchClass::kDemand; }
  bool MayBegin(bool begins_fill, Instant now) override;
  void Began(uint64_t bytes, Instant now) override;
  void Ended(uint64_t bytes, Duration took, Instant now) override;
  void Cancelled(uint64_t bytes, Instant now) override { Leave(bytes, now); }
  Instant LookAgainAt(Instant now) override { return opens_ > now ? opens_ : Instant::max(); }
  absl::Status TooLate() const override;

  uint64_t window() const { return window_; }

 private:
  static constexpr Duration kShortestKept = std::chrono::seconds(30);

  void Leave(uint64_t bytes, Instant now);

  const uint64_t window_min_;
  const std::function<Duration()> first_wait_;
  uint64_t window_;  // bytes under way, or one fetch
  uint64_t under_way_ = 0;
  Duration shortest_ = Duration::max();  // that a fetch took
  Instant shortest_until_{};
  Instant shrunk_{};  // last
  Instant opens_{};   // after a pause
  Instant left_{};    // when nothing was under way any more
};

}  // namespace sluice::p2p
