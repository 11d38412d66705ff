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

// Bytes that go over two links, at the smaller of the equal shares that both give them. Of one of Links.
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
};

// What is being sent.
class Links {
 public:
  // Both outlive it.
  Links(const Clock& clock, Executor& world) : clock_(clock), world_(world) {}

  // REQUIRES: bytes > 0
  TransferPtr Start(Link& up, Link& down, uint64_t bytes, Transfer::OnSent on_sent);
  // Ends it; on_sent does not come any more. Returns how many bytes were not sent. No-op if it has ended.
  uint64_t Stop(Transfer& transfer);
  // Stops all that is sent over the link.
  void Cut(Link& link);

 private:
  void Leave(Transfer& transfer);
  void Settle(Transfer& transfer) const;
  void Reckon(Link& link);
  void Reckon(Transfer& transfer);
  void Look(Transfer& transfer);

  const Clock& clock_;
  Executor& world_;
};

}  // namespace sluice::sim
