#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ondemand/keeper/cachefiles/cachefiles_device.h"
#include "ondemand/keeper/descriptor.h"

namespace sluice::keeper {

inline constexpr std::chrono::seconds kFakeWait{20};  // for what must come soon

// The kernel's side of cachefiles in on-demand mode, as Linux 6.1.101 behaves (fs/cachefiles/daemon.c,
// ondemand.c, interface.c), with files in memory for the cache's. Writes and seeks by pwrite(2) and lseek(2)
// of this program pass through it, so that they can be refused: see the folder's CMakeLists.txt. There can be
// one at a time.
//
// Thread-safe.
class FakeCachefiles {
 public:
  // A cookie that is acquired, until it is relinquished.
  using Object = uint32_t;
  struct Write {
    uint64_t offset = 0;
    uint64_t length = 0;
    bool aligned = false;  // offset, length and memory
    friend bool operator==(const Write&, const Write&) = default;
  };
  enum class Ended {
    kData,     // the reader gets bytes
    kHole,     // the reader gets EIO
    kGivenUp,  // nobody waits any more
  };

  FakeCachefiles();
  ~FakeCachefiles();
  FakeCachefiles(const FakeCachefiles&) = delete;
  FakeCachefiles& operator=(const FakeCachefiles&) = delete;

  // A descriptor of the device, to be given to a door. Any number share the requests.
  std::unique_ptr<CachefilesDevice> OpenDevice();

  // --- What users of the file system make the kernel do.

  // Looks a file up, and asks for it. What was written to a file of the same names is there again.
  Object Acquire(std::string_view volume, std::string_view cookie);
  // Returns the request's id.
  uint32_t Read(Object object, uint64_t offset, uint64_t length);
  // Its last user is gone.
  void Relinquish(Object object);
  // The reader is killed.
  void Kill(uint32_t id);
  // Somebody punches a hole into all files whose cookie begins so, past the kernel.
  void Punch(std::string_view cookie, uint64_t offset, uint64_t length);
  // A message of any bytes, for parsers.
  void SendRaw(std::string bytes);

  // --- What became of it. Wait for at most kFakeWait.

  // The size that the OPEN was answered with, or -errno.
  std::optional<int64_t> Answer(Object object);
  // How the READ ended.
  std::optional<Ended> End(uint32_t id);
  bool HasEnded(uint32_t id);
  // Whether the CLOSE was read.
  bool IsClosed(Object object);
  // Until no request is queued that has not been read.
  bool Drained();
  // OPENs that were sent for the object.
  int Opens(Object object);
  // Completions that named no request of the object.
  int InvalidCompletions();
  std::vector<std::string> Commands();
  // Descriptors of this program, by which the object can be written.
  int Writers(Object object);
  std::string Bytes(Object object);
  // Whether the kernel would read there without asking.
  bool HasData(Object object, uint64_t offset);
  std::vector<Write> Writes(Object object);
  bool AwaitWrites(Object object, const std::function<bool(const std::vector<Write>&)>& enough);

  // --- What goes wrong.

  // The next reads of the device fail; what is not EINTR, EAGAIN or EMSGSIZE consumes a request.
  void FailReads(int error, int times = 1);
  void FailCommands(int error, int times = 1);
  // The object's file is not there for a number of writes and seeks: ENOBUFS.
  void HideFile(Object object, int times);
  // The next writes to any object fail.
  void FailWrites(int error, int times);
  // Writes to any object end after so many bytes; 0: they don't.
  void ShortenWrites(uint64_t bytes);
  // Called before each write, without locks.
  void BeforeWrite(std::function<void()> call);
  // Reads of the device fail from now on, and consume nothing.
  void FailForever(int error);
  // Nothing of what is said is heard: of a keeper that is dead already.
  void IgnoreCommands(bool ignore);
  // The lowest free id is used again at once.
  void ReuseIds();

  // --- Of the program's pwrite(2) and lseek(2).
  static FakeCachefiles* Current();
  // The result to be given without doing it.
  std::optional<ssize_t> OnWrite(int file, size_t* length);
  void AfterWrite(int file, const void* bytes, size_t length, uint64_t offset);
  bool HidesFile(int file);

 private:
  enum class Kind { kOpen, kRead, kClose, kRaw };
  struct Request {
    Kind kind = Kind::kOpen;
    Object object = 0;
    bool is_new = true;
    uint64_t offset = 0;
    uint64_t length = 0;
    std::string raw = {};
  };
  struct State {
    std::string volume;
    std::string cookie;
    Descriptor file;         // ours
    uint32_t object_id = 0;  // of the last descriptor that was handed out
    bool opened = false;     // copen has come
    bool relinquished = false;
    bool closed = false;
    int opens = 0;
    int hidden = 0;
    std::optional<int64_t> answer;
    std::vector<Write> writes;
  };
  class Device;

  ssize_t ReadDevice(std::span<char> buffer);
  int RunCommand(std::string_view command);
  int Copen(const std::string& arguments);
  int Restore();
  int Complete(int file, uint32_t id);

  // REQUIRES of all that follow: mutex_ is held
  uint32_t Enqueue(Request request);
  std::string MessageOf(uint32_t id, const Request& request, int fd) const;
  int WritersOf(const State& state) const;
  bool HasRequest(Object object, Kind kind) const;
  // Asks for READs' objects that nobody has open any more.
  void Reopen();
  void EndRead(uint32_t id, Ended how);
  void Announce();
  State* Find(int file);

  std::mutex mutex_;
  std::condition_variable changed_;
  Descriptor event_;
  std::map<uint32_t, Request> requests_;  // by id
  std::map<uint32_t, Ended> ended_;
  std::deque<State> states_;  // by Object
  std::vector<std::string> commands_;
  uint32_t next_id_ = 0;
  uint32_t last_read_id_ = ~uint32_t{0};
  uint32_t next_object_id_ = 1;
  int invalid_completions_ = 0;
  bool reuse_ids_ = false;
  bool ignore_ = false;
  int fail_forever_ = 0;
  std::pair<int, int> fail_reads_;  // error, times
  std::pair<int, int> fail_commands_;
  std::pair<int, int> fail_writes_;
  uint64_t shorten_writes_ = 0;
  std::function<void()> before_write_;
};

// Descriptors that this program has open.
int CountDescriptors();

}  // namespace sluice::keeper
