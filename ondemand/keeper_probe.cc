#include "ondemand/keeper_probe.h"

#include <utility>

#include "ondemand/keeper/wire.h"

namespace sluice::ondemand {

void KeeperProbe::Ask() {
  const Time now = std::chrono::steady_clock::now();
  if (since_.load() != kAnswered || now - asked_ < kInterval) return;
  asked_ = now;
  if (!line_.valid()) {
    absl::StatusOr<keeper::Descriptor> dialled = dial_();
    // Whether it is dead others see.
    if (!dialled.ok()) return;
    line_ = *std::move(dialled);
  }
  const keeper::PlainRequest request{{.kind = keeper::RequestKind::kStatus}};
  if (keeper::SendMessage(line_.get(), keeper::BytesOf(request), {}).ok()) {
    since_ = now;
  } else {
    line_.reset();
  }
}

void KeeperProbe::OnReadable() {
  if (!keeper::ReceiveMessage(line_.get()).ok()) line_.reset();
  since_ = kAnswered;
}

std::chrono::nanoseconds KeeperProbe::Silence() const {
  const Time since = since_.load();
  return since == kAnswered ? std::chrono::nanoseconds(0) : std::chrono::steady_clock::now() - since;
}

}  // namespace sluice::ondemand
