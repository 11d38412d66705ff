#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "node/executor.h"

namespace sluice::sim {

struct Transfer;
using TransferPtr = std::shared_ptr<Transfer>;

// One direction of a node's link. Must not move, nor go while something is sent over it.
struct Link {
  explicit Link(double the_rate) : bytes_per_second(the_rate) {}
  double Share() const { return bytes_per_second / static_cast<double>(transfers.size()); }

  const double bytes_per_second;
  std::vector<Transfer*> transfers;
};

// Bytes that go over two links, at the smaller of the equal shares that both give them; those of a chunk that
// is passed on as it comes not before they have come. Of one of Links.
struct Transfer : public std::enable_shared_from_this<Transfer> {
  // What there was has been sent; returns how many bytes follow at once, or 0.
  using OnSent = absl::AnyInvocable<uint64_t()>;

  Link* up = nullptr;
  Link* down = nullptr;
  size_t place_up = 0, place_down = 0;  // in the lists of the links
  double left = 0;                      // bytes
  double rate = 0;                      // bytes a second
  Instant updated{};
  Instant ends{};
  Instant armed = Instant::max();  // the earliest timer that is set
  OnSent on_sent;                  // null: it is over
  Transfer* ahead = nullptr;       // brings what this passes on; null: all of it is there
  std::vector<Transfer*> behind;   // that pass on what this brings
  bool stands_still = false;       // what it passes on comes no more
};

// What is being sent.
class Links {
 public:
  // Both outlive it.
  Links(const Clock& clock, Executor& world) : clock_(clock), world_(world) {}

  // `ahead` brings the same bytes to where they are sent from; null: they are there. If it is stopped, this
  // stands still where it has come to.
  // REQUIRES: bytes > 0
  TransferPtr Start(Link& up, Link& down, uint64_t bytes, Transfer::OnSent on_sent,
                    Transfer* ahead = nullptr);
  // Ends it; on_sent does not come any more. Returns how many bytes were not sent. No-op if it has ended.
  uint64_t Stop(Transfer& transfer);
  // Stops all that is sent over the link.
  void Cut(Link& link);

 private:
  void Leave(Transfer& transfer);
  // Whoever passes on what it brings has all of it, or no more.
  enum class Behind { kHaveAll, kStandStill };
  void LetGo(Transfer& transfer, Behind behind);
  void Settle(Transfer& transfer) const;
  double RateOf(const Transfer& transfer) const;
  void Reckon(Link& link);
  void Reckon(Transfer& transfer);
  void Look(Transfer& transfer);

  const Clock& clock_;
  Executor& world_;
};

}  // namespace sluice::sim
