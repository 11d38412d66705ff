#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "p2p/cluster/peer_client.h"
#include "tests/unit/node/fakes.h"

namespace sluice::p2p {

// Members that answer questions when the test says so, and its timers. Nobody is to ask for a chunk.
class FakeTransport : public PeerTransport {
 public:
  explicit FakeTransport(fakes::FakeClock& clock) : clock_(clock) {}

  RequestId ReadChunk(const Member&, const ChunkQuestion&, OnData, OnSign, OnChunkDone) override {
    ADD_FAILURE() << "no chunk is wanted";
    return {};
  }
  void Cancel(RequestId) override {}
  void Raise(RequestId, FetchClass) override {}
  void After(Duration delay, Task task) override { timers_.emplace(clock_.now + delay, std::move(task)); }
  void Ask(const Member& member, const Question& question, OnAnswer on_answer) override {
    asked.emplace_back(member.name, std::move(on_answer));
    questions.push_back(question);
  }

  // The one that has waited longest answers.
  void Answer(absl::StatusOr<std::string> body) {
    OnAnswer on_answer = std::move(asked.front().second);
    asked.erase(asked.begin());
    if (!body.ok()) return std::move(on_answer)(body.status());
    std::move(on_answer)(PeerTransport::Answer{"application/json", *std::move(body)});
  }
  void PassTo(Instant when) {
    while (!timers_.empty() && timers_.begin()->first <= when) {
      clock_.now = std::max(clock_.now, timers_.begin()->first);
      Task task = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      std::move(task)();
    }
    clock_.now = when;
  }
  void Pass(Duration time) { PassTo(clock_.now + time); }
  // As one that is stopped.
  void DropTimers() { timers_.clear(); }

  std::vector<std::pair<std::string, OnAnswer>> asked;  // who has not answered yet
  std::vector<Question> questions;                      // all

 private:
  fakes::FakeClock& clock_;
  std::multimap<Instant, Task> timers_;
};

}  // namespace sluice::p2p
