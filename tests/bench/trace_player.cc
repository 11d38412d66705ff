#include "tests/bench/trace_player.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace sluice::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

// The trace's files below a directory, opened when they are first read.
class Files {
 public:
  explicit Files(const std::string& root) : root_(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
    if (root_ < 0) failure_ = absl::NotFoundError(absl::StrCat(root, ": ", std::strerror(errno)));
  }
  ~Files() {
    for (const auto& [path, file] : files_) ::close(file);
    if (root_ >= 0) ::close(root_);
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  absl::StatusOr<int> Open(const std::string& path) {
    if (!failure_.ok()) return failure_;
    if (const auto found = files_.find(path); found != files_.end()) return found->second;
    const int file = ::openat(root_, path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
    files_.emplace(path, file);
    struct stat status {};
    if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
      return absl::NotFoundError(absl::StrCat(path, ": not a regular file"));
    }
    // The trace says what was read ahead.
    ::posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
    return file;
  }

 private:
  int root_;
  absl::Status failure_;
  absl::flat_hash_map<std::string, int> files_;
};

absl::Status ReadAll(Files& files, const TraceRead& read, std::byte* to) {
  const absl::StatusOr<int> file = files.Open(read.path);
  if (!file.ok()) return file.status();
  for (uint64_t done = 0; done < read.length;) {
    const ssize_t got = ::pread(*file, to + done, read.length - done, static_cast<off_t>(read.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::UnavailableError(
          absl::StrCat(read.path, " at ", read.offset + done, ": ", std::strerror(errno)));
    }
    if (got == 0) {
      return absl::OutOfRangeError(absl::StrCat(read.path, " ends at ", read.offset + done,
                                                ", but the trace reads up to ", read.offset + read.length));
    }
    done += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

// A program computes; asleep it would leave its processor to whoever fetches.
void ComputeUntil(SteadyClock::time_point end) {
  while (SteadyClock::now() < end) {
  }
}

}  // namespace

// Filled before it is read into, or page faults would count as reads.
TracePlayer::TracePlayer(StartTrace trace) : trace_(std::move(trace)), bytes_(trace_.Bytes()) {}

absl::Status TracePlayer::Play(const std::string& root) {
  Files files(root);
  std::byte* to = bytes_.data();
  SteadyClock::time_point free_at = SteadyClock::now();
  for (const TraceRead& read : trace_.reads) {
    // A file is opened in the gap, as the program had it.
    if (const absl::StatusOr<int> file = files.Open(read.path); !file.ok()) return file.status();
    ComputeUntil(free_at + read.gap);
    if (absl::Status done = ReadAll(files, read, to); !done.ok()) return done;
    free_at = SteadyClock::now();
    to += read.length;
  }
  ComputeUntil(free_at + trace_.end_gap);
  return absl::OkStatus();
}

absl::Status TracePlayer::CheckAgainst(const std::string& root) const {
  Files files(root);
  std::vector<std::byte> right;
  const std::byte* got = bytes_.data();
  for (const TraceRead& read : trace_.reads) {
    right.resize(read.length);
    if (absl::Status done = ReadAll(files, read, right.data()); !done.ok()) return done;
    if (std::memcmp(got, right.data(), read.length) != 0) {
      return absl::DataLossError(
          absl::StrCat("wrong bytes: ", read.length, " of ", read.path, " at ", read.offset));
    }
    got += read.length;
  }
  return absl::OkStatus();
}

}  // namespace sluice::bench
