#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/locality_backend.h"
#include "api/prefetch_backend.h"

namespace sluice::api {

// Hints in memory, which do what the test says: each goes through `course`, one state with each GetHints.
class FakePrefetchBackend final : public PrefetchBackend {
 public:
  // What every call answers, if it is not OK.
  absl::Status failure;
  // What each submitted hint is refused with, if it is not OK.
  absl::Status refusal;
  // One GetHints after the other; the last one again and again.
  std::vector<HintStatus> course = {{.state = HintState::kCompleted, .error = {}}};

  absl::StatusOr<std::vector<SubmitResult>> SubmitHints(const std::vector<HintSpec>& hints) override {
    std::lock_guard lock(mutex_);
    if (!failure.ok()) return failure;
    std::vector<SubmitResult> results;
    for (const HintSpec& hint : hints) {
      if (!refusal.ok()) {
        results.push_back({SubmitOutcome::kRefused, refusal, {}});
        continue;
      }
      const bool is_new = hints_.try_emplace(hint.id, hint).second;
      results.push_back({is_new ? SubmitOutcome::kAccepted : SubmitOutcome::kKnown,
                         {},
                         {.id = hint.id, .reference = hint.reference, .error = {}}});
    }
    return results;
  }

  uint64_t Revision() override {
    std::lock_guard lock(mutex_);
    return revision_;
  }

  absl::StatusOr<std::vector<HintStatus>> GetHints(const std::vector<std::string>& ids) override {
    std::lock_guard lock(mutex_);
    if (!failure.ok()) return failure;
    const size_t turn = std::min(polls_++, course.size() - 1);
    // A change has its revision.
    if ((polls_ == 1 && !std::exchange(follows_, false)) || !(course[turn] == latest_)) ++revision_;
    latest_ = course[turn];
    return StatusOf(ids, course[turn]);
  }

  std::vector<HintStatus> ListHints(const std::string& after, size_t count_max) override {
    std::lock_guard lock(mutex_);
    std::vector<HintStatus> out;
    for (auto hint = hints_.upper_bound(after); hint != hints_.end() && out.size() < count_max; ++hint)
      out.push_back({.id = hint->first, .reference = hint->second.reference, .error = {}});
    return out;
  }

  absl::StatusOr<std::vector<HintStatus>> CancelHints(const std::vector<std::string>& ids) override {
    std::lock_guard lock(mutex_);
    if (!failure.ok()) return failure;
    return StatusOf(ids, {.state = HintState::kCancelled, .error = {}});
  }

  std::map<std::string, HintSpec> hints() const {
    std::lock_guard lock(mutex_);
    return hints_;
  }
  size_t polls() const {
    std::lock_guard lock(mutex_);
    return polls_;
  }
  // The course begins anew, with another's states.
  void Begin(std::vector<HintStatus> states) {
    std::lock_guard lock(mutex_);
    course = std::move(states);
    polls_ = 0;
  }
  // The course goes on with these: the first is no change if it is as the latest.
  void Follow(std::vector<HintStatus> states) {
    std::lock_guard lock(mutex_);
    course = std::move(states);
    polls_ = 0;
    follows_ = true;
  }

 private:
  absl::StatusOr<std::vector<HintStatus>> StatusOf(const std::vector<std::string>& ids,
                                                   const HintStatus& status) const {
    std::vector<HintStatus> out;
    for (const std::string& id : ids) {
      const auto hint = hints_.find(id);
      if (hint == hints_.end()) return absl::NotFoundError(absl::StrCat("hint \"", id, "\" is not known"));
      out.push_back(status);
      out.back().id = id;
      out.back().revision = revision_;
      out.back().reference = hint->second.reference;
    }
    return out;
  }

  mutable std::mutex mutex_;
  std::map<std::string, HintSpec> hints_;
  size_t polls_ = 0;
  uint64_t revision_ = 0;
  bool follows_ = false;
  HintStatus latest_;  // of the course
};

// Answers when the test says so, with what it says; at once if it says nothing.
class FakeLocality final : public LocalityBackend {
 public:
  absl::StatusOr<std::vector<ImageLocality>> answer = std::vector<ImageLocality>();
  bool hold = false;
  std::vector<LocalityQuery> queries;
  std::vector<Instant> deadlines;
  std::vector<OnLocality> held;

  void GetLocality(const LocalityQuery& query, Instant deadline, OnLocality done) override {
    {
      std::lock_guard lock(mutex_);
      queries.push_back(query);
      deadlines.push_back(deadline);
      if (hold) {
        held.push_back(std::move(done));
        return;
      }
    }
    std::move(done)(answer);
  }
  void ReleaseAll() {
    std::vector<OnLocality> all;
    {
      std::lock_guard lock(mutex_);
      all.swap(held);
    }
    for (OnLocality& done : all) std::move(done)(answer);
  }
  size_t held_count() {
    std::lock_guard lock(mutex_);
    return held.size();
  }

 private:
  std::mutex mutex_;
};

}  // namespace sluice::api
