#include "tests/unit/ondemand/fake_cachefiles.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/cachefiles.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <span>

namespace sluice::keeper {
namespace {

constexpr uint64_t kPage = 4096;

std::atomic<FakeCachefiles*> current{nullptr};

ino_t InodeOf(int file) {
  struct stat status {};
  return fstat(file, &status) == 0 ? status.st_ino : 0;
}

template <typename T>
std::string Bytes(const T& pod) {
  return {reinterpret_cast<const char*>(&pod), sizeof(pod)};
}

// Calls visit(fd) for each descriptor of the program but the one of the listing.
template <typename Visit>
void ForEachDescriptor(Visit visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> list(opendir("/proc/self/fd"), &closedir);
  while (const dirent* entry = readdir(list.get())) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != dirfd(list.get())) visit(fd);
  }
}

void CopyData(int from, int to) {
  for (off_t data = 0, hole = 0; (data = lseek(from, hole, SEEK_DATA)) >= 0;) {
    hole = lseek(from, data, SEEK_HOLE);
    std::string bytes(static_cast<size_t>(hole - data), '\0');
    const ssize_t length = pread(from, bytes.data(), bytes.size(), data);
    if (length > 0) lseek(to, data, SEEK_SET);
    if (length > 0 && write(to, bytes.data(), static_cast<size_t>(length)) != length) std::abort();
  }
}

bool TakeTimes(std::pair<int, int>& failure) {
  if (failure.second == 0) return false;
  --failure.second;
  return true;
}

}  // namespace

int CountDescriptors() {
  int count = 0;
  ForEachDescriptor([&](int) { ++count; });
  return count;
}

class FakeCachefiles::Device final : public CachefilesDevice {
 public:
  explicit Device(FakeCachefiles& kernel)
      : kernel_(kernel), event_(fcntl(kernel.event_.get(), F_DUPFD_CLOEXEC, 0)) {}

  int fd() const override { return event_.get(); }
  ssize_t Read(std::span<char> buffer) override { return kernel_.ReadDevice(buffer); }
  Outcome Command(std::string_view command) override {
    const int error = kernel_.RunCommand(command);
    return error == 0 ? Outcome() : Outcome(ErrnoError("fake: " + std::string(command), error));
  }
  Outcome CompleteRead(int object, uint32_t id) override {
    const int error = kernel_.Complete(object, id);
    return error == 0 ? Outcome() : Outcome(ErrnoError("fake: complete", error));
  }

 private:
  FakeCachefiles& kernel_;
  const Descriptor event_;
};

FakeCachefiles::FakeCachefiles() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  current.store(this);
}

FakeCachefiles::~FakeCachefiles() {
  current.store(nullptr);
}

FakeCachefiles* FakeCachefiles::Current() {
  return current.load();
}

std::unique_ptr<CachefilesDevice> FakeCachefiles::OpenDevice() {
  return std::make_unique<Device>(*this);
}

// --------------------------------------------------------------------------------------------- its users

FakeCachefiles::Object FakeCachefiles::Acquire(std::string_view volume, std::string_view cookie) {
  const std::lock_guard lock(mutex_);
  State state;
  state.volume = volume;
  state.cookie = cookie;
  state.file.reset(memfd_create("fake-cache", MFD_CLOEXEC));
  for (const State& before : states_) {
    if (before.volume == volume && before.cookie == cookie) CopyData(before.file.get(), state.file.get());
  }
  states_.push_back(std::move(state));
  const auto object = static_cast<Object>(states_.size() - 1);
  Enqueue({.kind = Kind::kOpen, .object = object});
  return object;
}

uint32_t FakeCachefiles::Read(Object object, uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  return Enqueue({.kind = Kind::kRead, .object = object, .offset = offset, .length = length});
}

void FakeCachefiles::Relinquish(Object object) {
  const std::lock_guard lock(mutex_);
  states_[object].relinquished = true;
  Enqueue({.kind = Kind::kClose, .object = object});
}

void FakeCachefiles::Kill(uint32_t id) {
  const std::lock_guard lock(mutex_);
  EndRead(id, Ended::kGivenUp);
  Announce();
}

void FakeCachefiles::Punch(std::string_view cookie, uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  for (const State& state : states_) {
    if (!state.cookie.starts_with(cookie)) continue;
    if (fallocate(state.file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(length)) != 0) {
      std::abort();
    }
  }
}

void FakeCachefiles::SendRaw(std::string bytes) {
  const std::lock_guard lock(mutex_);
  Enqueue({.kind = Kind::kRaw, .raw = std::move(bytes)});
}

// ------------------------------------------------------------------------------------- what became of it

std::optional<int64_t> FakeCachefiles::Answer(Object object) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kFakeWait, [&] { return states_[object].answer.has_value(); });
  return states_[object].answer;
}

std::optional<FakeCachefiles::Ended> FakeCachefiles::End(uint32_t id) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, kFakeWait, [&] { return ended_.contains(id); })) return std::nullopt;
  return ended_[id];
}

bool FakeCachefiles::HasEnded(uint32_t id) {
  const std::lock_guard lock(mutex_);
  return ended_.contains(id);
}

bool FakeCachefiles::IsClosed(Object object) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kFakeWait, [&] { return states_[object].closed; });
}

bool FakeCachefiles::Drained() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kFakeWait, [&] {
    return std::none_of(requests_.begin(), requests_.end(), [](const auto& r) { return r.second.is_new; });
  });
}

int FakeCachefiles::Opens(Object object) {
  const std::lock_guard lock(mutex_);
  return states_[object].opens;
}

int FakeCachefiles::InvalidCompletions() {
  const std::lock_guard lock(mutex_);
  return invalid_completions_;
}

std::vector<std::string> FakeCachefiles::Commands() {
  const std::lock_guard lock(mutex_);
  return commands_;
}

int FakeCachefiles::Writers(Object object) {
  const std::lock_guard lock(mutex_);
  return WritersOf(states_[object]);
}

std::string FakeCachefiles::Bytes(Object object) {
  const std::lock_guard lock(mutex_);
  struct stat status {};
  fstat(states_[object].file.get(), &status);
  std::string bytes(static_cast<size_t>(status.st_size), '\0');
  const ssize_t length = pread(states_[object].file.get(), bytes.data(), bytes.size(), 0);
  bytes.resize(length < 0 ? 0 : static_cast<size_t>(length));
  return bytes;
}

bool FakeCachefiles::HasData(Object object, uint64_t offset) {
  const std::lock_guard lock(mutex_);
  const auto at = static_cast<off_t>(offset);
  return lseek(states_[object].file.get(), at, SEEK_DATA) == at;
}

std::vector<FakeCachefiles::Write> FakeCachefiles::Writes(Object object) {
  const std::lock_guard lock(mutex_);
  return states_[object].writes;
}

bool FakeCachefiles::AwaitWrites(Object object,
                                 const std::function<bool(const std::vector<Write>&)>& enough) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kFakeWait, [&] { return enough(states_[object].writes); });
}

// -------------------------------------------------------------------------------------- what goes wrong

void FakeCachefiles::FailReads(int error, int times) {
  const std::lock_guard lock(mutex_);
  fail_reads_ = {error, times};
}

void FakeCachefiles::FailCommands(int error, int times) {
  const std::lock_guard lock(mutex_);
  fail_commands_ = {error, times};
}

void FakeCachefiles::HideFile(Object object, int times) {
  const std::lock_guard lock(mutex_);
  states_[object].hidden = times;
}

void FakeCachefiles::FailWrites(int error, int times) {
  const std::lock_guard lock(mutex_);
  fail_writes_ = {error, times};
}

void FakeCachefiles::ShortenWrites(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  shorten_writes_ = bytes;
}

void FakeCachefiles::BeforeWrite(std::function<void()> call) {
  const std::lock_guard lock(mutex_);
  before_write_ = std::move(call);
}

void FakeCachefiles::FailForever(int error) {
  const std::lock_guard lock(mutex_);
  fail_forever_ = error;
}

void FakeCachefiles::IgnoreCommands(bool ignore) {
  const std::lock_guard lock(mutex_);
  ignore_ = ignore;
}

void FakeCachefiles::ReuseIds() {
  const std::lock_guard lock(mutex_);
  reuse_ids_ = true;
}

// ------------------------------------------------------------------------------------------- the device

ssize_t FakeCachefiles::ReadDevice(std::span<char> buffer) {
  const std::lock_guard lock(mutex_);
  const auto fail = [](int error) {
    errno = error;
    return ssize_t{-1};
  };
  if (ignore_) return 0;
  if (fail_forever_ != 0) return fail(fail_forever_);
  Reopen();
  // From behind the last one that was read, around.
  auto found = requests_.end();
  for (auto it = requests_.begin(); it != requests_.end(); ++it) {
    const Request& request = it->second;
    if (!request.is_new || (request.kind == Kind::kRead && HasRequest(request.object, Kind::kOpen))) continue;
    const bool behind = last_read_id_ != ~uint32_t{0} && it->first <= last_read_id_;
    if (found == requests_.end()) found = it;
    if (behind) continue;
    found = it;
    break;
  }
  if (found == requests_.end()) {
    Announce();
    return 0;
  }
  const uint32_t id = found->first;
  Request& request = found->second;
  State* state = request.kind == Kind::kRaw ? nullptr : &states_[request.object];
  const size_t length = MessageOf(id, request, 0).size();
  if (length > buffer.size()) return fail(EMSGSIZE);
  int error = TakeTimes(fail_reads_) ? fail_reads_.first : 0;
  int fd = -1;
  if (request.kind == Kind::kOpen && error == 0 && state->object_id != 0 && WritersOf(*state) > 0)
    error = EEXIST;
  if (request.kind == Kind::kOpen && error == 0) {
    const std::string path = "/proc/self/fd/" + std::to_string(state->file.get());
    fd = open(path.c_str(), O_WRONLY);
    if (fd < 0) error = errno;
  }
  if (error == EINTR || error == EAGAIN) return fail(error);
  if (error != 0) {
    if (request.kind == Kind::kOpen) state->answer = -error;
    if (request.kind == Kind::kRead) EndRead(id, Ended::kGivenUp);
    requests_.erase(id);
    Announce();
    return fail(error);
  }
  if (request.kind == Kind::kOpen) state->object_id = next_object_id_++;
  const std::string message = MessageOf(id, request, fd);
  std::memcpy(buffer.data(), message.data(), message.size());
  request.is_new = false;
  last_read_id_ = id;
  if (request.kind == Kind::kClose) {
    state->closed = true;
    for (auto it = requests_.begin(); it != requests_.end();) {
      const auto next = std::next(it);
      if (it->second.kind == Kind::kRead && it->second.object == request.object)
        EndRead(it->first, Ended::kGivenUp);
      it = next;
    }
  }
  if (request.kind == Kind::kClose || request.kind == Kind::kRaw) requests_.erase(id);
  Announce();
  return static_cast<ssize_t>(message.size());
}

int FakeCachefiles::RunCommand(std::string_view command) {
  const std::lock_guard lock(mutex_);
  if (ignore_) return 0;
  commands_.emplace_back(command);
  changed_.notify_all();
  if (TakeTimes(fail_commands_)) {
    // Of an OPEN: it has failed meanwhile.
    return fail_commands_.first;
  }
  constexpr std::string_view kCopen = "copen ";
  if (command.starts_with(kCopen)) return Copen(std::string(command.substr(kCopen.size())));
  if (command == "restore") return Restore();
  return EOPNOTSUPP;
}

int FakeCachefiles::Copen(const std::string& arguments) {
  const size_t comma = arguments.find(',');
  if (comma == std::string::npos) return EINVAL;
  const std::string size_text = arguments.substr(comma + 1);
  char* end = nullptr;
  // As the kernel: a leading zero makes it octal.
  const unsigned long id = std::strtoul(arguments.c_str(), &end, 0);
  if (end != arguments.c_str() + comma) return EINVAL;
  const long size = std::strtol(size_text.c_str(), &end, 0);
  const bool bad_size = size_text.empty() || *end != '\0' || size < -4095;
  const auto found = requests_.find(static_cast<uint32_t>(id));
  if (found == requests_.end() || found->second.kind != Kind::kOpen || found->second.is_new) return EINVAL;
  State& state = states_[found->second.object];
  requests_.erase(found);
  if (bad_size) {
    state.answer = -EINVAL;
  } else if (size >= 0 && WritersOf(state) == 0) {
    state.answer = -EBADFD;
  } else {
    state.answer = size;
  }
  state.opened = *state.answer >= 0;
  if (state.opened && ftruncate(state.file.get(), static_cast<off_t>((size + 4095) / 4096 * 4096)) != 0)
    return EIO;
  Announce();
  return bad_size ? EINVAL : 0;
}

int FakeCachefiles::Restore() {
  for (auto& [id, request] : requests_) request.is_new = true;
  Announce();
  return 0;
}

int FakeCachefiles::Complete(int file, uint32_t id) {
  const std::lock_guard lock(mutex_);
  if (ignore_) return 0;
  const State* state = Find(file);
  const auto found = requests_.find(id);
  if (state == nullptr || state->closed || found == requests_.end() || found->second.kind != Kind::kRead ||
      &states_[found->second.object] != state) {
    ++invalid_completions_;
    changed_.notify_all();
    return EINVAL;
  }
  const auto offset = static_cast<off_t>(found->second.offset);
  const bool data = lseek(state->file.get(), offset, SEEK_DATA) == offset;
  EndRead(id, data ? Ended::kData : Ended::kHole);
  Announce();
  return 0;
}

// ------------------------------------------------------------------------------------------------ inside

uint32_t FakeCachefiles::Enqueue(Request request) {
  uint32_t id = next_id_++;
  if (reuse_ids_) {
    id = 0;
    while (requests_.contains(id)) ++id;
    ended_.erase(id);
  }
  if (request.kind == Kind::kOpen) ++states_[request.object].opens;
  requests_[id] = std::move(request);
  Announce();
  return id;
}

std::string FakeCachefiles::MessageOf(uint32_t id, const Request& request, int fd) const {
  if (request.kind == Kind::kRaw) return request.raw;
  const State& state = states_[request.object];
  std::string data;
  uint32_t opcode = CACHEFILES_OP_CLOSE;
  if (request.kind == Kind::kOpen) {
    opcode = CACHEFILES_OP_OPEN;
    cachefiles_open open{};
    open.volume_key_size = static_cast<uint32_t>(state.volume.size() + 1);  // with its NUL
    open.cookie_key_size = static_cast<uint32_t>(state.cookie.size());
    open.fd = static_cast<uint32_t>(fd);
    data = keeper::Bytes(open) + state.volume + '\0' + state.cookie;
  } else if (request.kind == Kind::kRead) {
    opcode = CACHEFILES_OP_READ;
    data = keeper::Bytes(cachefiles_read{.off = request.offset, .len = request.length});
  }
  const uint32_t object = state.object_id == 0 ? ~uint32_t{0} : state.object_id;
  const uint32_t header[] = {id, opcode, static_cast<uint32_t>(sizeof(cachefiles_msg) + data.size()), object};
  return keeper::Bytes(header) + data;
}

int FakeCachefiles::WritersOf(const State& state) const {
  int count = 0;
  const ino_t inode = InodeOf(state.file.get());
  ForEachDescriptor([&](int fd) {
    // By name, as it may be another thread's. What the link may be used for is what the descriptor is open
    // for.
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    struct stat file {};
    struct stat link {};
    if (stat(path.c_str(), &file) != 0 || lstat(path.c_str(), &link) != 0) return;
    if (file.st_ino == inode && (link.st_mode & (S_IRUSR | S_IWUSR)) == S_IWUSR) ++count;
  });
  return count;
}

bool FakeCachefiles::HasRequest(Object object, Kind kind) const {
  return std::any_of(requests_.begin(), requests_.end(), [&](const auto& request) {
    return request.second.object == object && request.second.kind == kind;
  });
}

void FakeCachefiles::Reopen() {
  std::set<Object> read;
  for (const auto& [id, request] : requests_) {
    if (request.kind == Kind::kRead && request.is_new) read.insert(request.object);
  }
  for (const Object object : read) {
    State& state = states_[object];
    if (!state.opened || state.closed || HasRequest(object, Kind::kOpen) || WritersOf(state) > 0) continue;
    state.opened = false;
    Enqueue({.kind = Kind::kOpen, .object = object});
  }
}

void FakeCachefiles::EndRead(uint32_t id, Ended how) {
  if (requests_.erase(id) != 0) ended_[id] = how;
}

// The event is readable while there is something to read.
void FakeCachefiles::Announce() {
  const bool any =
      std::any_of(requests_.begin(), requests_.end(), [](const auto& r) { return r.second.is_new; });
  uint64_t count = 1;
  if (any) {
    [[maybe_unused]] const ssize_t written = write(event_.get(), &count, sizeof(count));
  } else {
    [[maybe_unused]] const ssize_t taken = ::read(event_.get(), &count, sizeof(count));
  }
  changed_.notify_all();
}

FakeCachefiles::State* FakeCachefiles::Find(int file) {
  const ino_t inode = InodeOf(file);
  for (State& state : states_) {
    if (InodeOf(state.file.get()) == inode) return &state;
  }
  return nullptr;
}

// ---------------------------------------------------------------------------- pwrite(2) and lseek(2)

std::optional<ssize_t> FakeCachefiles::OnWrite(int file, size_t* length) {
  std::function<void()> before;
  {
    const std::lock_guard lock(mutex_);
    if (before_write_) before = before_write_;
  }
  if (before) before();
  const std::lock_guard lock(mutex_);
  State* state = Find(file);
  if (state == nullptr) return std::nullopt;
  if (state->closed) {
    errno = ENOBUFS;
    return -1;
  }
  if (state->hidden > 0) {
    --state->hidden;
    errno = ENOBUFS;
    return -1;
  }
  if (TakeTimes(fail_writes_)) {
    errno = fail_writes_.first;
    return -1;
  }
  if (shorten_writes_ != 0) *length = std::min<size_t>(*length, shorten_writes_);
  return std::nullopt;
}

void FakeCachefiles::AfterWrite(int file, const void* bytes, size_t length, uint64_t offset) {
  const std::lock_guard lock(mutex_);
  State* state = Find(file);
  if (state == nullptr) return;
  const bool aligned = offset % kPage == 0 && (shorten_writes_ != 0 || length % kPage == 0) &&
                       reinterpret_cast<uintptr_t>(bytes) % kPage == 0;
  state->writes.push_back({offset, length, aligned});
  changed_.notify_all();
}

bool FakeCachefiles::HidesFile(int file) {
  const std::lock_guard lock(mutex_);
  State* state = Find(file);
  if (state == nullptr) return false;
  if (state->closed) return true;
  if (state->hidden == 0) return false;
  --state->hidden;
  return true;
}

}  // namespace sluice::keeper

// The linker has this program's calls come here.
extern "C" {
ssize_t __real_pwrite(int file, const void* bytes, size_t length, off_t offset);
off_t __real_lseek(int file, off_t offset, int whence);

ssize_t __wrap_pwrite(int file, const void* bytes, size_t length, off_t offset) {
  auto* kernel = sluice::keeper::FakeCachefiles::Current();
  if (kernel != nullptr) {
    const std::optional<ssize_t> result = kernel->OnWrite(file, &length);
    if (result) return *result;
  }
  const ssize_t written = __real_pwrite(file, bytes, length, offset);
  if (kernel != nullptr && written > 0)
    kernel->AfterWrite(file, bytes, static_cast<size_t>(written), static_cast<uint64_t>(offset));
  return written;
}

off_t __wrap_lseek(int file, off_t offset, int whence) {
  auto* kernel = sluice::keeper::FakeCachefiles::Current();
  if (kernel != nullptr && (fcntl(file, F_GETFL) & O_ACCMODE) == O_WRONLY && kernel->HidesFile(file)) {
    errno = ENOBUFS;
    return -1;
  }
  return __real_lseek(file, offset, whence);
}
}
