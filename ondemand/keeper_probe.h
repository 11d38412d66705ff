#pragma once

#include <atomic>
#include <chrono>
#include <functional>

#include "absl/status/statusor.h"
#include "ondemand/keeper/descriptor.h"

namespace sluice::ondemand {

// Asks the keeper again and again whether it answers, on a connection of its own: one that is stopped, or
// hangs, holds readers up and looks alive.
//
// Ask and OnReadable are called on one thread, which polls fd(); Silence on any.
class KeeperProbe {
 public:
  static constexpr auto kInterval = std::chrono::seconds(2);

  // `dial` connects to the keeper.
  explicit KeeperProbe(std::function<absl::StatusOr<keeper::Descriptor>()> dial) : dial_(std::move(dial)) {}

  // What to poll for an answer; -1 if there is nothing to wait for.
  int fd() const { return since_.load() == kAnswered ? -1 : line_.get(); }
  // Asks, if the last question was answered or could not be put, and is kInterval old. Does not block.
  void Ask();
  // The answer has come, or the line has gone.
  void OnReadable();

  // Since when the keeper has not answered; zero if it has.
  std::chrono::nanoseconds Silence() const;

 private:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr Time kAnswered{};

  const std::function<absl::StatusOr<keeper::Descriptor>()> dial_;
  keeper::Descriptor line_;
  Time asked_{};
  std::atomic<Time> since_{kAnswered};
};

}  // namespace sluice::ondemand
