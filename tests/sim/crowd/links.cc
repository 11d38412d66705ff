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

TransferPtr Links::Start(Link& up, Link& down, uint64_t bytes, Transfer::OnSent on_sent, Transfer* ahead) {
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
  if (ahead && ahead->on_sent) {
    transfer->ahead = ahead;
    ahead->behind.push_back(transfer.get());
  }
  Reckon(up);
  Reckon(down);
  return transfer;
}

uint64_t Links::Stop(Transfer& transfer) {
  if (!transfer.on_sent) return 0;
  Settle(transfer);
  const TransferPtr kept = transfer.shared_from_this();  // what it tells may be all that holds it
  transfer.on_sent = nullptr;
  LetGo(transfer, Behind::kStandStill);
  Leave(transfer);
  return static_cast<uint64_t>(std::max(0.0, transfer.left));
}

void Links::Cut(Link& link) {
  while (!link.transfers.empty()) Stop(*link.transfers.back());
}

void Links::LetGo(Transfer& transfer, Behind behind) {
  for (Transfer* const other : std::exchange(transfer.behind, {})) {
    other->ahead = nullptr;
    other->stands_still = behind == Behind::kStandStill;
    Reckon(*other);
  }
}

void Links::Leave(Transfer& transfer) {
  if (transfer.ahead) std::erase(transfer.ahead->behind, &transfer);
  transfer.ahead = nullptr;
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

// REQUIRES: it is settled, and what is ahead of it
double Links::RateOf(const Transfer& transfer) const {
  if (transfer.stands_still) return 0;
  const double rate = std::min(transfer.up->Share(), transfer.down->Share());
  const Transfer* const ahead = transfer.ahead;
  return ahead && transfer.left <= ahead->left + kNothing ? std::min(rate, ahead->rate) : rate;
}

// At what rate it goes from now on, and when it ends, or has caught up with what is ahead of it.
void Links::Reckon(Transfer& transfer) {
  Transfer* const ahead = transfer.ahead;
  if (ahead) {
    Settle(*ahead);
    Settle(transfer);
  }
  const double rate = RateOf(transfer);
  const bool changes = rate != transfer.rate;
  if (!changes && !ahead) return;
  Settle(transfer);
  transfer.rate = rate;
  if (changes) {
    for (Transfer* const other : transfer.behind) Reckon(*other);
  }
  if (rate == 0) return;  // until that of what is ahead of it changes
  transfer.ends = transfer.updated + SecondsOf(std::max(0.0, transfer.left) / rate);
  if (ahead && rate > ahead->rate)
    transfer.ends = std::min(
        transfer.ends,
        transfer.updated + SecondsOf(std::max(0.0, transfer.left - ahead->left) / (rate - ahead->rate)));
  if (transfer.ends >= transfer.armed || transfer.armed - transfer.ends <= kSlack)
    return;  // that timer looks again
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
    LetGo(transfer, Behind::kHaveAll);
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
