#include "ondemand/cache_culler.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/cachefiles/cachefiles_wire.h"

namespace sluice::ondemand {
namespace {

using keeper::Descriptor;

// A volume's directory; a blob's file, whose key is text. Source: fs/cachefiles/volume.c and key.c.
constexpr char kVolumePrefix = 'I';
constexpr char kTextKeyPrefix[] = "D";
constexpr uint64_t kSectorBytes = 512;

std::vector<std::string> Names(int directory) {
  std::vector<std::string> names;
  const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return names;
  const std::unique_ptr<DIR, int (*)(DIR*)> list(fdopendir(copy), &closedir);
  if (list == nullptr) {
    close(copy);
    return names;
  }
  while (const dirent* entry = readdir(list.get())) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  return names;
}

Descriptor OpenDirectory(int parent, const std::string& name) {
  return Descriptor(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
}

}  // namespace

CacheCuller::CacheCuller(Say say, Descriptor directory)
    : say_(std::move(say)), directory_(std::move(directory)), thread_([this] { Run(); }) {}

CacheCuller::~CacheCuller() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void CacheCuller::Run() {
  prctl(PR_SET_NAME, "cache-cull");
  // Its working directory is its own from here on.
  has_own_directory_ = unshare(CLONE_FS) == 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
    if (calls_.empty()) return;
    const std::function<void()> call = std::move(calls_.front());
    calls_.pop_front();
    lock.unlock();
    call();
    lock.lock();
  }
}

template <typename T>
T CacheCuller::OnThread(std::function<T()> call) {
  auto task = std::make_shared<std::packaged_task<T()>>(std::move(call));
  std::future<T> result = task->get_future();
  {
    const std::lock_guard lock(mutex_);
    calls_.push_back([task] { (*task)(); });
  }
  wake_.notify_one();
  return result.get();
}

std::vector<CacheCuller::Entry> CacheCuller::Entries(const std::string& prefix) const {
  std::vector<Entry> entries;
  for (const std::string& volume : Names(directory_.get())) {
    if (volume.front() != kVolumePrefix) continue;
    const Descriptor volume_directory = OpenDirectory(directory_.get(), volume);
    for (const std::string& fan : Names(volume_directory.get())) {
      const Descriptor files = OpenDirectory(volume_directory.get(), fan);
      if (!files.valid()) continue;
      for (std::string& name : Names(files.get())) {
        struct stat status {};
        if (!name.starts_with(prefix) ||
            fstatat(files.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
          continue;
        entries.push_back({absl::StrCat(volume, "/", fan), std::move(name),
                           status.st_atim.tv_sec * int64_t{1'000'000'000} + status.st_atim.tv_nsec,
                           static_cast<uint64_t>(status.st_blocks) * kSectorBytes});
      }
    }
  }
  return entries;
}

int CacheCuller::Cull(const Entry& entry) {
  if (!has_own_directory_) return EPERM;
  const Descriptor directory = OpenDirectory(directory_.get(), entry.directory);
  if (!directory.valid() || fchdir(directory.get()) != 0) return errno;
  keeper::Result<std::string> command = keeper::CullCommand(entry.name);
  return command.ok() ? say_(command.value()) : command.error().code;
}

absl::Status CacheCuller::Discard(const BlobKey& key) {
  return OnThread<absl::Status>([this, key] {
    absl::Status status;
    for (const Entry& entry : Entries(absl::StrCat(kTextKeyPrefix, key.FileName()))) {
      const int error = Cull(entry);
      if (error == 0 || error == ENOENT || error == ESTALE) continue;
      const std::string what = absl::StrCat("the kernel's copy of blob ", key.Short());
      status = error == EBUSY ? absl::FailedPreconditionError(absl::StrCat(what, " is in use"))
                              : absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
    }
    return status;
  });
}

// The kernel marks files as its own only for those who would remove them. It looks for data before each read
// of a copy, and asks for what it does not find.
absl::Status CacheCuller::Drop(const std::string& name, const std::vector<ByteRange>& ranges) {
  absl::Status status;
  for (const Entry& entry : Entries(absl::StrCat(kTextKeyPrefix, name))) {
    const Descriptor directory = OpenDirectory(directory_.get(), entry.directory);
    const Descriptor file(openat(directory.get(), entry.name.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    // ENOENT: it was discarded meanwhile.
    bool dropped = file.valid() || errno == ENOENT;
    for (size_t i = 0; file.valid() && dropped && i < ranges.size(); ++i) {
      dropped = fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(ranges[i].offset), static_cast<off_t>(ranges[i].length)) == 0;
    }
    if (!dropped)
      status =
          absl::UnavailableError(absl::StrCat("take bytes out of ", entry.name, ": ", std::strerror(errno)));
  }
  return status;
}

uint64_t CacheCuller::MakeRoom(uint64_t bytes) {
  return OnThread<uint64_t>([this, bytes] {
    std::vector<Entry> entries = Entries(kTextKeyPrefix);
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return a.accessed_ns < b.accessed_ns; });
    uint64_t freed = 0;
    for (const Entry& entry : entries) {
      if (freed >= bytes) break;
      if (Cull(entry) == 0) freed += entry.bytes;
    }
    return freed;
  });
}

uint64_t CacheCuller::Size() {
  return OnThread<uint64_t>([this] {
    uint64_t bytes = 0;
    for (const Entry& entry : Entries("")) bytes += entry.bytes;
    return bytes;
  });
}

}  // namespace sluice::ondemand
