#include "tests/sim/crowd/links.h"

#include <algorithm>
#include <utility>

namespace sluice::sim {
namespace {

constexpr double kNothing = 0.5;  // of a byte
// What ends so little earlier than it was looked for is not looked for anew.
constexpr Duration kSlack = std::chrono::microseconds(5);

Duration SecondsOf(double seconds) {
  return std::chrono::ceil<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

TransferPtr Links::Start(Link& up, Link& down, uint64_t bytes, Transfer::OnSent on_sent) {
  const auto transfer = std::make_shared<Transfer>();
  transfer->up = &up;
  transfer->down = &down;
  transfer->left = static_cast<double>(bytes);
  transfer->updated = clock_.Now();
  transfer->on_sent = std::move(on_sent);
  transfer->place_up = up.transfers.size();
  transfer->place_down = down.transfers.size();
  up.transfers.push_back(transfer.get());
  down.transfers.push_back(transfer.get());
  Reckon(up);
  Reckon(down);
  return transfer;
}

uint64_t Links::Stop(Transfer& transfer) {
  if (!transfer.on_sent) return 0;
  Settle(transfer);
  const TransferPtr kept = transfer.shared_from_this();  // what it tells may be all that holds it
  transfer.on_sent = nullptr;
  Leave(transfer);
  return static_cast<uint64_t>(std::max(0.0, transfer.left));
}

void Links::Cut(Link& link) {
  while (!link.transfers.empty()) Stop(*link.transfers.back());
}

void Links::Leave(Transfer& transfer) {
  std::vector<Transfer*>& up = transfer.up->transfers;
  up.back()->place_up = transfer.place_up;
  up[transfer.place_up] = up.back();
  up.pop_back();
  std::vector<Transfer*>& down = transfer.down->transfers;
  down.back()->place_down = transfer.place_down;
  down[transfer.place_down] = down.back();
  down.pop_back();
  Reckon(*transfer.up);
  Reckon(*transfer.down);
}

void Links::Settle(Transfer& transfer) const {
  const Instant now = clock_.Now();
  transfer.left -= transfer.rate * std::chrono::duration<double>(now - transfer.updated).count();
  transfer.updated = now;
}

void Links::Reckon(Link& link) {
  for (Transfer* const transfer : link.transfers) Reckon(*transfer);
}

// At what rate it goes from now on, and when it ends.
void Links::Reckon(Transfer& transfer) {
  const double rate = std::min(transfer.up->Share(), transfer.down->Share());
  if (rate == transfer.rate) return;
  Settle(transfer);
  transfer.rate = rate;
  transfer.ends = transfer.updated + SecondsOf(std::max(0.0, transfer.left) / rate);
  if (transfer.ends + kSlack >= transfer.armed) return;  // the timer that is set looks again
  transfer.armed = transfer.ends;
  world_.PostAt(transfer.ends, [this, weak = transfer.weak_from_this()] {
    if (const TransferPtr alive = weak.lock()) Look(*alive);
  });
}

void Links::Look(Transfer& transfer) {
  if (!transfer.on_sent) return;
  transfer.armed = Instant::max();
  Settle(transfer);
  if (transfer.left < kNothing) {
    const TransferPtr kept = transfer.shared_from_this();
    const uint64_t more = transfer.on_sent();
    if (!transfer.on_sent) return;  // stopped by what it did
    if (more == 0) {
      transfer.on_sent = nullptr;
      return Leave(transfer);
    }
    transfer.left += static_cast<double>(more);
  }
  transfer.rate = 0;  // so that its end is reckoned anew
  Reckon(transfer);
}

}  // namespace sluice::sim
