#include "ondemand/keeper/line_writer.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string_view>
#include <utility>

#include "ondemand/keeper/descriptor.h"

namespace sluice::keeper {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPollMs = 100;

// By which a file that is appended to can be opened again; empty if there is none.
std::string NameOfFile(int fd) {
  struct stat status {};
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_APPEND) == 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return {};
  char path[PATH_MAX];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof(path));
  return length > 0 && path[0] == '/' ? std::string(path, static_cast<size_t>(length)) : std::string();
}

}  // namespace

void WriteIfReady(int fd, std::string_view line) {
  pollfd wait{fd, POLLOUT, 0};
  if (poll(&wait, 1, 0) <= 0) return;
  [[maybe_unused]] const ssize_t written = write(fd, line.data(), std::min<size_t>(line.size(), PIPE_BUF));
}

struct LineWriter::Shared {
  Shared(int descriptor, DroppedLine dropped_text)
      : fd(descriptor), dropped_line(std::move(dropped_text)), path(NameOfFile(descriptor)) {}

  static void* Thread(void* argument);
  void Run();
  bool WriteAll(std::string_view text) const;
  void OpenAnew() const;

  // Constant.
  const int fd;
  const DroppedLine dropped_line;
  const std::string path;

  std::mutex mutex;  // never held during a write
  std::condition_variable changed;
  // Guarded by mutex.
  std::deque<std::string> lines;
  size_t bytes = 0;
  uint64_t dropped = 0;
  uint64_t dropped_told = 0;
  bool reopen = false;
  bool stopping = false;
  bool ended = false;
  bool writing = false;
  Clock::time_point writing_since;
};

void* LineWriter::Shared::Thread(void* argument) {
  const std::unique_ptr<std::shared_ptr<Shared>> shared(static_cast<std::shared_ptr<Shared>*>(argument));
  (*shared)->Run();
  return nullptr;
}

void LineWriter::Shared::Run() {
  prctl(PR_SET_NAME, "log");
  std::unique_lock lock(mutex);
  while (true) {
    changed.wait(lock, [this] { return stopping || reopen || !lines.empty() || dropped != dropped_told; });
    if (lines.empty() && dropped == dropped_told && !reopen) break;
    const bool anew = std::exchange(reopen, false);
    std::string text;
    if (!lines.empty()) {
      text = std::move(lines.front());
      lines.pop_front();
      bytes -= text.size();
    } else if (dropped != dropped_told) {
      text = dropped_line(dropped - dropped_told);
      dropped_told = dropped;
    }
    writing = true;
    writing_since = Clock::now();
    lock.unlock();
    if (anew) OpenAnew();
    const bool written = WriteAll(text);
    lock.lock();
    writing = false;
    if (!written) ++dropped, ++dropped_told;
  }
  ended = true;
  changed.notify_all();
}

// False if the line can't be written, now or ever.
bool LineWriter::Shared::WriteAll(std::string_view text) const {
  while (!text.empty()) {
    pollfd wait{fd, POLLOUT, 0};
    const int ready = poll(&wait, 1, kPollMs);
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    // A pipe that is writable takes so much at once.
    const ssize_t length = write(fd, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (length < 0 && errno != EINTR && errno != EAGAIN) return false;
    if (length > 0) text.remove_prefix(static_cast<size_t>(length));
  }
  return true;
}

void LineWriter::Shared::OpenAnew() const {
  if (path.empty()) return;
  const Descriptor fresh(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640));
  if (fresh.valid()) dup2(fresh.get(), fd);
}

LineWriter::LineWriter(int fd, DroppedLine dropped_line)
    : shared_(std::make_shared<Shared>(fd, std::move(dropped_line))) {
  // What a signal wakes must be a thread that expects it.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  auto argument = std::make_unique<std::shared_ptr<Shared>>(shared_);
  pthread_t thread{};
  if (pthread_create(&thread, nullptr, Shared::Thread, argument.get()) == 0) {
    (void)argument.release();
    pthread_detach(thread);
  } else {
    shared_->ended = true;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

LineWriter::~LineWriter() {
  std::unique_lock lock(shared_->mutex);
  shared_->stopping = true;
  shared_->changed.notify_all();
  shared_->changed.wait_for(lock, std::chrono::milliseconds(kLastLinesMs), [this] { return shared_->ended; });
}

void LineWriter::Write(std::string line) {
  const std::lock_guard lock(shared_->mutex);
  // No thread could be had: somebody has to be told.
  if (shared_->ended && !shared_->stopping) return WriteIfReady(shared_->fd, line);
  if (shared_->stopping || shared_->bytes + line.size() > kBytesMax) {
    ++shared_->dropped;
    return;
  }
  shared_->bytes += line.size();
  shared_->lines.push_back(std::move(line));
  shared_->changed.notify_all();
}

void LineWriter::Reopen() {
  const std::lock_guard lock(shared_->mutex);
  shared_->reopen = true;
  shared_->changed.notify_all();
}

uint64_t LineWriter::dropped() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->dropped;
}

bool LineWriter::Stuck() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->writing && Clock::now() - shared_->writing_since > std::chrono::milliseconds(kStuckMs);
}

}  // namespace sluice::keeper
