#include "ondemand/keeper/replacement.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>

#include "ondemand/keeper/descriptor.h"

extern char** environ;

namespace sluice::keeper {
namespace {

constexpr int kProofMs = 5000;

template <typename T>
const T* Cast(std::span<const std::byte> bytes) {
  if (bytes.size() != sizeof(T)) return nullptr;
  const auto* message = reinterpret_cast<const T*>(bytes.data());
  return message->magic == kReplaceMagic ? message : nullptr;
}

// Not closed by an exec while it lives.
class KeptOverExec {
 public:
  explicit KeptOverExec(std::vector<int> files) : files_(std::move(files)) {
    for (const int file : files_) fcntl(file, F_SETFD, 0);
  }
  ~KeptOverExec() {
    for (const int file : files_) fcntl(file, F_SETFD, FD_CLOEXEC);
  }
  KeptOverExec(const KeptOverExec&) = delete;
  KeptOverExec& operator=(const KeptOverExec&) = delete;

 private:
  const std::vector<int> files_;
};

Result<Descriptor> WriteObjects(const std::vector<HeldObject>& objects) {
  Descriptor list(memfd_create("sluice-objects", MFD_CLOEXEC));
  if (!list.valid()) return ErrnoError("list the objects that are open");
  const auto bytes = std::as_bytes(std::span(objects));
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t written = write(list.get(), bytes.data() + done, bytes.size() - done);
    if (written <= 0) return ErrnoError("list the objects that are open");
    done += static_cast<size_t>(written);
  }
  return list;
}

std::vector<HeldObject> ReadObjects(Descriptor list) {
  struct stat status {};
  if (fstat(list.get(), &status) != 0 || status.st_size < 0) return {};
  const size_t count =
      std::min<size_t>(static_cast<size_t>(status.st_size) / sizeof(HeldObject), kObjectsMax);
  std::vector<HeldObject> objects(count);
  const size_t size = count * sizeof(HeldObject);
  if (pread(list.get(), objects.data(), size, 0) != static_cast<ssize_t>(size)) return {};
  return objects;
}

void Exec(int program, std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  syscall(SYS_execveat, program, "", argv.data(), environ, AT_EMPTY_PATH);
}

// What a process list shows.
std::string PathOf(int program) {
  char path[4096];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(program)).c_str(), path, sizeof(path));
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "sluice-keeper";
}

}  // namespace

const ReplaceRequest* ParseReplaceRequest(std::span<const std::byte> bytes) {
  const auto* request = Cast<ReplaceRequest>(bytes);
  const bool terminated =
      request != nullptr && std::memchr(request->path, 0, sizeof(request->path)) != nullptr;
  return terminated ? request : nullptr;
}

const ReplaceReply* ParseReplaceReply(std::span<const std::byte> bytes) {
  const auto* reply = Cast<ReplaceReply>(bytes);
  const bool terminated = reply != nullptr && std::memchr(reply->text, 0, sizeof(reply->text)) != nullptr;
  return terminated ? reply : nullptr;
}

Outcome ProveProgram(int program) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("make a pipe");
  const Descriptor ours(ends[0]);
  Descriptor theirs(ends[1]);
  const std::vector<std::string> arguments{PathOf(program), "--can-inherit", std::to_string(theirs.get())};
  const pid_t child = fork();
  if (child < 0) return ErrnoError("start the other version's program");
  if (child == 0) {
    fcntl(theirs.get(), F_SETFD, 0);
    Exec(program, arguments);
    _exit(1);
  }
  theirs.reset();
  pollfd said{ours.get(), POLLIN, 0};
  char text[sizeof(kCanInherit)] = {};
  const bool can = poll(&said, 1, kProofMs) > 0 &&
                   read(ours.get(), text, sizeof(text) - 1) == sizeof(text) - 1 &&
                   std::strcmp(text, kCanInherit) == 0;
  kill(child, SIGKILL);
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (can) return {};
  return Error{ENOEXEC,
               arguments.front() + " does not run here, or is no keeper that can take the place of another"};
}

Result<Descriptor> OpenOurs(int program, const std::string& path) {
  Descriptor ours(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat here {};
  struct stat there {};
  if (ours.valid() && fstat(ours.get(), &here) == 0 && fstat(program, &there) == 0 &&
      here.st_dev == there.st_dev && here.st_ino == there.st_ino)
    return ours;
  ours.reset(fcntl(program, F_DUPFD_CLOEXEC, 0));
  if (!ours.valid()) return ErrnoError("hold on to the other version's program");
  return ours;
}

Outcome RunInstead(int program, std::vector<std::string> arguments, const Estate& estate) {
  Result<Descriptor> objects = WriteObjects(estate.objects);
  if (!objects.ok()) return objects.error();
  std::vector<int> kept{estate.requests, estate.tree, estate.journal, estate.completions,
                        objects.value().get()};
  std::string list = "requests=" + std::to_string(estate.requests) + ",tree=" + std::to_string(estate.tree) +
                     ",journal=" + std::to_string(estate.journal) +
                     ",completions=" + std::to_string(estate.completions) +
                     ",objects=" + std::to_string(objects.value().get());
  for (const int lock : estate.locks) {
    kept.push_back(lock);
    list += ",lock=" + std::to_string(lock);
  }
  for (const HeldObject& object : estate.objects) kept.push_back(object.file);

  arguments.insert(arguments.begin(), PathOf(program));
  arguments.insert(arguments.end(), {"--inherit", list});
  const KeptOverExec keep(std::move(kept));
  Exec(program, std::move(arguments));
  return ErrnoError("run the other version's program");
}

Result<Estate> ReadEstate(std::string_view list) {
  Estate estate;
  int objects = -1;
  const std::map<std::string_view, int*> places{{"requests", &estate.requests},
                                                {"tree", &estate.tree},
                                                {"journal", &estate.journal},
                                                {"completions", &estate.completions},
                                                {"objects", &objects}};
  while (!list.empty()) {
    const std::string_view part = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), part.size() + 1));
    const size_t sign = part.find('=');
    int number = -1;
    const std::string_view digits = sign == std::string_view::npos ? "" : part.substr(sign + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size() || number <= STDERR_FILENO)
      return Error{EINVAL, "--inherit: \"" + std::string(part) + "\" names no descriptor"};
    const std::string_view name = part.substr(0, sign);
    if (const auto place = places.find(name); place != places.end()) *place->second = number;
    if (name == "lock") estate.locks.push_back(number);
  }
  if (estate.requests < 0 || estate.tree < 0 || estate.journal < 0 || estate.completions < 0)
    return Error{EINVAL, "--inherit: requests, tree, journal and completions are needed"};
  if (objects >= 0) estate.objects = ReadObjects(Descriptor(objects));
  return estate;
}

}  // namespace sluice::keeper
