#include "index/notifier.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

Duration DelayAfter(uint32_t failures) {
  return std::min<Duration>(Notifier::kRetryMin * (1u << std::min(failures - 1, 16u)), Notifier::kRetryMax);
}

}  // namespace

Notifier::Notifier(Callbacks callbacks, Threads threads, Duration wait_max)
    : callbacks_(std::move(callbacks)), threads_(threads), wait_max_(wait_max) {
  if (threads_ == Threads::kOwn) thread_ = std::thread([this] { Run(); });
}

Notifier::~Notifier() {
  Stop();
}

void Notifier::Schedule(const EntryPtr& entry) {
  if (std::exchange(entry->notice_due, true)) return;
  std::lock_guard lock(mutex_);
  queue_.emplace(Now(), Notice{entry, 0, flushes_});
  wake_.notify_one();
}

absl::Status Notifier::WaitTold(const EntryPtr& entry) {
  uint64_t revision = 0;
  {
    std::lock_guard lock(entry->mutex);
    revision = entry->revision;
  }
  const auto is_told = [&] { return entry->told.load() >= revision; };
  if (is_told()) return absl::OkStatus();
  if (threads_ == Threads::kNone) {
    RunOne();
    for (size_t tries = 0; tries < 64 && !is_told() && RunOne(); ++tries) {
    }
  } else {
    std::unique_lock lock(mutex_);
    // Whoever waits holds a thread up, and there are not many: no longer than there is hope.
    told_.wait_until(lock, Now() + wait_max_, [&] { return is_told() || entry->deaf || stopped_; });
  }
  if (is_told()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      entry->Name(), ": the kernel's side has not heard yet that some of it was taken back; try again"));
}

void Notifier::Flush() {
  std::unique_lock lock(mutex_);
  const uint64_t flush = ++flushes_;
  if (threads_ == Threads::kNone) {
    while (!AllTriedSince(flush) && RunFirst(lock)) {
    }
    return;
  }
  told_.wait_until(lock, Now() + wait_max_, [&] { return AllTriedSince(flush) || stopped_; });
}

bool Notifier::AllTriedSince(uint64_t flush) const {
  const auto tried = [&](const Queue::value_type& due) { return due.second.flush >= flush; };
  return telling_flush_ >= flush && std::all_of(queue_.begin(), queue_.end(), tried);
}

// Without a thread there is no time that passes either: a run is always the same.
Instant Notifier::Now() const {
  return threads_ == Threads::kNone ? Instant() : std::chrono::steady_clock::now();
}

bool Notifier::RunOne() {
  std::unique_lock lock(mutex_);
  return RunFirst(lock);
}

bool Notifier::RunFirst(std::unique_lock<std::mutex>& lock) {
  if (queue_.empty()) return false;
  Notice notice = std::move(queue_.begin()->second);
  queue_.erase(queue_.begin());
  telling_flush_ = notice.flush;
  lock.unlock();
  const absl::Status told = Tell(*notice.entry);
  notice.entry->deaf = !told.ok();
  if (!told.ok()) Retry(std::move(notice), told);
  lock.lock();
  telling_flush_ = UINT64_MAX;
  told_.notify_all();
  return true;
}

absl::Status Notifier::Tell(BlobEntry& entry) {
  if (absl::Status told = TellRevoked(entry); !told.ok()) return told;
  return TellComplete(entry);
}

absl::Status Notifier::TellRevoked(BlobEntry& entry) {
  std::shared_ptr<Blob> blob;
  uint64_t revision = 0;
  {
    std::lock_guard lock(entry.mutex);
    entry.notice_due = false;
    if (entry.Told()) return absl::OkStatus();
    blob = entry.blob;
    revision = entry.revision;
  }
  if (callbacks_.on_revoke) {
    if (absl::Status told = callbacks_.on_revoke(*blob); !told.ok()) return told;
  }
  entry.told = revision;
  return absl::OkStatus();
}

absl::Status Notifier::TellComplete(BlobEntry& entry) {
  std::shared_ptr<Blob> blob;
  uint64_t revision = 0;
  {
    std::lock_guard lock(entry.mutex);
    // What was taken back meanwhile comes first, by a notice of its own.
    if (!entry.announce_due || !entry.Told()) return absl::OkStatus();
    entry.announce_due = false;
    blob = entry.blob;
    revision = entry.revision;
  }
  if (!callbacks_.on_complete) return absl::OkStatus();
  absl::Status told = callbacks_.on_complete(blob);
  if (told.ok()) return told;
  std::lock_guard lock(entry.mutex);
  if (entry.revision != revision) return absl::OkStatus();
  entry.announce_due = true;
  return told;
}

void Notifier::Retry(Notice notice, const absl::Status& why) {
  ++notice.failures;
  if (absl::IsAborted(why)) {
    notice.failures = std::min(notice.failures, kAlarmFailures - 1);
  } else if (notice.failures == kAlarmFailures && callbacks_.alarm) {
    callbacks_.alarm(absl::StrCat(notice.entry->Name(),
                                  ": the kernel's side could not be told that it has changed, which is tried "
                                  "again: ",
                                  why.message()));
  }
  std::lock_guard entry_lock(notice.entry->mutex);
  // Something else of it may have been scheduled meanwhile; that notice tells this, too.
  if (std::exchange(notice.entry->notice_due, true)) return;
  std::lock_guard lock(mutex_);
  notice.flush = flushes_;
  const Instant due = Now() + DelayAfter(notice.failures);
  queue_.emplace(due, std::move(notice));
}

void Notifier::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (queue_.empty()) {
      wake_.wait(lock);
    } else if (const Instant due = queue_.begin()->first; due > Now()) {
      wake_.wait_until(lock, due);
    } else {
      RunFirst(lock);
    }
  }
}

void Notifier::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    wake_.notify_one();
  }
  std::call_once(joined_, [this] {
    if (thread_.joinable()) thread_.join();
    std::unique_lock lock(mutex_);
    for (size_t left = queue_.size(); left > 0 && RunFirst(lock); --left) {
    }
    stopped_ = true;
    told_.notify_all();
  });
}

}  // namespace sluice::index
