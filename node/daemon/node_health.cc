#include "node/daemon/node_health.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/file_descriptor.h"

namespace sluice {
namespace {

int64_t SecondsOf(Duration duration) {
  return std::chrono::duration_cast<std::chrono::seconds>(duration).count();
}

// The same byte each time: it needs no room once it is there.
absl::Status WriteTo(const std::string& file) {
  const index::FileDescriptor fd(open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640));
  if (fd.valid() && pwrite(fd.get(), "\n", 1, 0) == 1 && fdatasync(fd.get()) == 0) return absl::OkStatus();
  if (errno == ENOSPC || errno == EDQUOT) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the data directory takes no write: ", file, ": ",
                                             std::strerror(errno), "; what is present is served on"));
}

}  // namespace

struct NodeHealth::Beat {
  std::atomic<Instant> last;
};

class NodeHealth::Writes {
 public:
  Writes(const Clock& clock, std::string file) : clock_(clock), file_(std::move(file)) {}

  void Run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      began_ = clock_.Now();
      lock.unlock();
      absl::Status written = WriteTo(file_);
      lock.lock();
      began_.reset();
      last_ = std::move(written);
      changed_.wait_for(lock, kInterval, [this] { return stopping_; });
    }
    ended_ = true;
    changed_.notify_all();
  }

  // The clock is not asked any more after it.
  void Stop() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::milliseconds(500), [this] { return ended_; });
  }

  absl::Status Last() const {
    std::lock_guard lock(mutex_);
    const Duration taken = began_ ? clock_.Now() - *began_ : Duration{};
    if (taken < kWriteLate) return last_;
    return absl::UnavailableError(absl::StrCat("a write to the data directory, ", file_, ", has taken ",
                                               SecondsOf(taken), " s: the disk hangs or is frozen"));
  }

 private:
  const Clock& clock_;
  const std::string file_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Instant> began_;
  absl::Status last_;
  bool stopping_ = false;
  bool ended_ = false;
};

NodeHealth::NodeHealth(const Clock& clock, Executor& core, std::string file)
    : clock_(clock),
      beat_(std::make_shared<Beat>()),
      writes_(std::make_shared<Writes>(clock, std::move(file))) {
  beat_->last = clock.Now();
  BeatLater(clock, core, beat_);
  std::thread([writes = writes_] { writes->Run(); }).detach();
}

NodeHealth::~NodeHealth() {
  writes_->Stop();
}

void NodeHealth::BeatLater(const Clock& clock, Executor& core, std::shared_ptr<Beat> beat) {
  core.PostAt(clock.Now() + std::chrono::seconds(1), [&clock, &core, beat = std::move(beat)]() mutable {
    beat->last = clock.Now();
    BeatLater(clock, core, std::move(beat));
  });
}

absl::Status NodeHealth::Loop() const {
  const Duration late = clock_.Now() - beat_->last.load();
  if (late < kLoopLate) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the core loop has not come round for ", SecondsOf(late), " s"));
}

absl::Status NodeHealth::Disk() const {
  return writes_->Last();
}

}  // namespace sluice
