// sluice-keeper: owns the kernel's side of a node's on-demand mounts, and outlives the daemon.

#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ondemand/keeper/cachefiles/cachefiles_device.h"
#include "ondemand/keeper/cachefiles/cachefiles_door.h"
#include "ondemand/keeper/control.h"
#include "ondemand/keeper/door.h"
#include "ondemand/keeper/fanotify/fanotify_door.h"
#include "ondemand/keeper/fanotify/watch.h"
#include "ondemand/keeper/fuse/fuse_door.h"
#include "ondemand/keeper/fuse/fuse_mount.h"
#include "ondemand/keeper/host.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/log.h"
#include "ondemand/keeper/process.h"
#include "ondemand/keeper/replacement.h"

namespace sluice::keeper {
namespace {

// What a keeper passes to its successor, through the daemon. In the order of the option --takeover. The
// daemon's process is -1 when it is dead too.
enum InheritedDescriptor { kRequests, kTree, kJournal, kCompletions, kDaemonProcess, kInherited };

constexpr time_t kObjectsWaitSeconds = 5;

struct Options {
  std::string runtime_dir;
  std::string state_dir;  // locked by us, and has a second socket; empty: there is none
  std::string blobs_dir;
  std::string cache_dir;  // cachefiles
  DoorKind door = DoorKind::kFanotify;
  uint32_t slots = kSlotsMax;
  int ready_fd = -1;    // gets "ok", or why not
  int objects_fd = -1;  // gives what a daemon has kept of a predecessor's objects
  bool takeover = false;
  Estate estate;                        // of the keeper of another version that this process was until now
  int can_inherit_fd = -1;              // asks whether we could take the place of one
  std::string on_host;                  // the program to become on the host, which is then the keeper
  CgroupOf cgroup = CgroupOf::kParent;  // that this process is in
  std::array<int, kInherited> inherited{-1, -1, -1, -1, -1};

  bool replaces() const { return estate.journal >= 0; }
};

// What a keeper is made of, before it serves.
struct Foundation {
  std::unique_ptr<Journal> journal;
  Descriptor completions;
  Descriptor daemon_process;
  std::unique_ptr<Door> door;
};

bool ParseNumber(const char* text, long max, long* number) {
  char* end = nullptr;
  *number = std::strtol(text, &end, 10);
  return end != text && *number >= 0 && *number <= max;
}

bool ParseDoor(const char* text, Options* options) {
  for (const DoorKind kind : {DoorKind::kFanotify, DoorKind::kCachefiles, DoorKind::kFuse}) {
    if (std::strcmp(text, DoorName(kind)) != 0) continue;
    options->door = kind;
    return true;
  }
  return false;
}

bool ParseInherited(const char* text, Options* options) {
  options->takeover = true;
  return std::sscanf(text, "%d,%d,%d,%d,%d", &options->inherited[kRequests], &options->inherited[kTree],
                     &options->inherited[kJournal], &options->inherited[kCompletions],
                     &options->inherited[kDaemonProcess]) == kInherited;
}

bool ParseEstate(const char* text, Options* options) {
  Result<Estate> estate = ReadEstate(text);
  if (!estate.ok()) {
    Log("%s", estate.error().text.c_str());
    return false;
  }
  options->takeover = true;
  options->estate = std::move(estate.value());
  options->inherited = {options->estate.requests, options->estate.tree, options->estate.journal,
                        options->estate.completions, -1};
  return true;
}

bool ParseOptions(int argc, char** argv, Options* options) {
  static const option kLong[] = {
      {"runtime-dir", required_argument, nullptr, 'r'}, {"state-dir", required_argument, nullptr, 'p'},
      {"blobs-dir", required_argument, nullptr, 'b'},   {"cache-dir", required_argument, nullptr, 'c'},
      {"door", required_argument, nullptr, 'd'},        {"slots", required_argument, nullptr, 's'},
      {"ready-fd", required_argument, nullptr, 'f'},    {"objects-fd", required_argument, nullptr, 'o'},
      {"takeover", required_argument, nullptr, 't'},    {"on-host", required_argument, nullptr, 'h'},
      {"own-cgroup", no_argument, nullptr, 'g'},        {"inherit", required_argument, nullptr, 'i'},
      {"can-inherit", required_argument, nullptr, 'j'}, {nullptr, 0, nullptr, 0}};
  long number = 0;
  for (int key; (key = getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
    switch (key) {
      case 'r':
        options->runtime_dir = optarg;
        break;
      case 'p':
        options->state_dir = optarg;
        break;
      case 'b':
        options->blobs_dir = optarg;
        break;
      case 's':
        if (!ParseNumber(optarg, kSlotsMax, &number) || number == 0) return false;
        options->slots = static_cast<uint32_t>(number);
        break;
      case 'f':
        if (!ParseNumber(optarg, 1 << 20, &number)) return false;
        options->ready_fd = static_cast<int>(number);
        break;
      case 't':
        if (!ParseInherited(optarg, options)) return false;
        break;
      case 'c':
        options->cache_dir = optarg;
        break;
      case 'o':
        if (!ParseNumber(optarg, 1 << 20, &number)) return false;
        options->objects_fd = static_cast<int>(number);
        break;
      case 'h':
        options->on_host = optarg;
        break;
      case 'j':
        if (!ParseNumber(optarg, 1 << 20, &number)) return false;
        options->can_inherit_fd = static_cast<int>(number);
        break;
      case 'i':
        if (!ParseEstate(optarg, options)) return false;
        break;
      case 'g':
        options->cgroup = CgroupOf::kKeeper;
        break;
      case 'd':
        if (!ParseDoor(optarg, options)) return false;
        break;
      default:
        return false;
    }
  }
  const bool asked = options->can_inherit_fd >= 0;
  return optind == argc && (asked || (!options->runtime_dir.empty() && !options->blobs_dir.empty()));
}

// Until the daemon closes its end; not for ever, as it may be stopped meanwhile.
std::vector<KeptObject> ReceiveObjects(Descriptor line) {
  std::vector<KeptObject> kept;
  const timeval timeout{kObjectsWaitSeconds, 0};
  setsockopt(line.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  while (line.valid()) {
    Result<Message> message = ReceiveMessage(line.get());
    if (!message.ok()) break;
    if (message.value().bytes.size() != sizeof(ObjectReply) || message.value().descriptors.size() != 1)
      continue;
    const auto* object = reinterpret_cast<const ObjectReply*>(message.value().bytes.data());
    kept.push_back({object->index, object->generation, std::move(message.value().descriptors.front())});
  }
  return kept;
}

std::vector<KeptObject> OwnObjects(const Estate& estate) {
  std::vector<KeptObject> kept;
  for (const HeldObject& object : estate.objects) {
    fcntl(object.file, F_SETFD, FD_CLOEXEC);
    kept.push_back({object.index, object.generation, Descriptor(object.file)});
  }
  return kept;
}

Result<std::unique_ptr<Door>> OpenDoor(const Options& options, Journal& journal, int completions) {
  const std::string& blobs_dir = options.blobs_dir;
  if (options.door == DoorKind::kCachefiles) {
    CachefilesOptions cache_options;
    cache_options.directory = options.cache_dir;
    Result<CachefilesCache> cache = BindCache(cache_options, blobs_dir);
    if (!cache.ok()) return cache.error();
    return std::unique_ptr<Door>(
        std::make_unique<CachefilesDoor>(journal, std::move(cache.value()), completions));
  }
  if (options.door == DoorKind::kFuse) {
    Result<FuseMount> mount = MakeFuseMount(blobs_dir);
    if (!mount.ok()) return mount.error();
    return std::unique_ptr<Door>(std::make_unique<FuseDoor>(journal, std::move(mount.value()), completions));
  }
  Result<Watch> watch = OpenWatch(blobs_dir);
  if (!watch.ok()) return watch.error();
  return std::unique_ptr<Door>(
      std::make_unique<FanotifyDoor>(journal, std::move(watch.value()), completions));
}

Result<std::unique_ptr<Door>> AdoptDoor(Journal& journal, Descriptor requests, Descriptor tree,
                                        std::vector<KeptObject> objects, const std::string& blobs_dir,
                                        int completions) {
  if (journal.layout().door == DoorKind::kCachefiles) {
    Result<CachefilesCache> cache = AdoptCache(std::move(requests), std::move(tree), blobs_dir);
    if (!cache.ok()) return cache.error();
    return std::unique_ptr<Door>(
        std::make_unique<CachefilesDoor>(journal, std::move(cache.value()), completions, std::move(objects)));
  }
  if (journal.layout().door == DoorKind::kFuse) {
    Result<FuseMount> mount = AdoptFuseMount(std::move(requests), std::move(tree), blobs_dir);
    if (!mount.ok()) return mount.error();
    return std::unique_ptr<Door>(std::make_unique<FuseDoor>(journal, std::move(mount.value()), completions));
  }
  Result<Watch> watch = AdoptWatch(std::move(requests), std::move(tree), blobs_dir);
  if (!watch.ok()) return watch.error();
  return std::unique_ptr<Door>(
      std::make_unique<FanotifyDoor>(journal, std::move(watch.value()), completions));
}

// Events have descriptors, and so have objects; behind FUSE each blob has one, and each answer that waits for
// the disk.
uint32_t DescriptorsWanted(const Options& options) {
  switch (options.door) {
    case DoorKind::kFanotify:
      return options.slots;
    case DoorKind::kCachefiles:
      return std::max(options.slots, kObjectsMax);
    case DoorKind::kFuse:
      return kBlobsMax + options.slots;
  }
  return options.slots;
}

Result<Foundation> LayFoundation(const Options& options) {
  Result<uint32_t> slots = LimitDescriptors(DescriptorsWanted(options));
  if (!slots.ok()) return slots.error();
  Result<std::unique_ptr<Journal>> journal =
      Journal::Create(std::min(slots.value(), options.slots), options.door);
  if (!journal.ok()) return journal.error();
  journal.value()->layout().descriptor_limit = DescriptorLimit();
  Descriptor completions(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!completions.valid()) return ErrnoError("make the completion eventfd");
  Result<std::unique_ptr<Door>> door = OpenDoor(options, *journal.value(), completions.get());
  if (!door.ok()) return door.error();
  return Foundation{std::move(journal.value()), std::move(completions), {}, std::move(door.value())};
}

Result<uint32_t> PredecessorsLimit(int journal_fd) {
  Result<std::unique_ptr<Journal>> journal = Journal::Open(journal_fd);
  if (!journal.ok()) return journal.error();
  const uint32_t limit = journal.value()->layout().descriptor_limit;
  if (limit < kOwnDescriptors + kSlotsMin)
    return Error{EPROTO, "the journal's limit on descriptors is too low"};
  return limit;
}

// Out of the way of the numbers that events have, as these must be reserved. Closes the original.
Result<Descriptor> MoveUp(int fd, int lowest_number) {
  Descriptor moved(fcntl(fd, F_DUPFD_CLOEXEC, lowest_number));
  if (!moved.valid()) return ErrnoError("keep an inherited descriptor");
  close(fd);
  return moved;
}

Result<Foundation> TakeOver(const Options& options, Descriptor& ready) {
  Result<uint32_t> limit = PredecessorsLimit(options.inherited[kJournal]);
  if (!limit.ok()) return limit.error();
  const rlimit same{limit.value(), limit.value()};
  if (setrlimit(RLIMIT_NOFILE, &same) != 0) return ErrnoError("set the predecessor's limit on descriptors");

  const int lowest_number = static_cast<int>(limit.value() - kOwnDescriptors / 2);
  std::array<Descriptor, kInherited> inherited;
  for (int i = 0; i < kInherited; ++i) {
    if (i == kDaemonProcess && options.inherited[i] < 0) continue;
    Result<Descriptor> moved = MoveUp(options.inherited[i], lowest_number);
    if (!moved.ok()) return moved.error();
    inherited[i] = std::move(moved.value());
  }
  if (ready.valid()) {
    Result<Descriptor> moved = MoveUp(ready.release(), lowest_number);
    if (!moved.ok()) return moved.error();
    ready = std::move(moved.value());
  }
  Descriptor line;
  if (options.objects_fd >= 0) {
    Result<Descriptor> moved = MoveUp(options.objects_fd, lowest_number);
    if (!moved.ok()) return moved.error();
    line = std::move(moved.value());
  }
  Result<std::unique_ptr<Journal>> journal = Journal::Open(inherited[kJournal].get(), lowest_number);
  if (!journal.ok()) return journal.error();
  if (journal.value()->layout().door == DoorKind::kFanotify) {
    if (Outcome reserved = ReserveEventNumbers(*journal.value()); !reserved.ok()) return reserved.error();
  }
  std::vector<KeptObject> objects =
      options.replaces() ? OwnObjects(options.estate) : ReceiveObjects(std::move(line));
  Result<std::unique_ptr<Door>> door =
      AdoptDoor(*journal.value(), std::move(inherited[kRequests]), std::move(inherited[kTree]),
                std::move(objects), options.blobs_dir, inherited[kCompletions].get());
  if (!door.ok()) return door.error();
  return Foundation{std::move(journal.value()), std::move(inherited[kCompletions]),
                    std::move(inherited[kDaemonProcess]), std::move(door.value())};
}

void ReportReady(Descriptor& ready, const std::string& text) {
  if (ready.valid() && write(ready.get(), text.data(), text.size()) < 0)
    Log("nobody waits for us to be ready");
  ready.reset();
}

void BlockSignals() {
  sigset_t handled;
  sigemptyset(&handled);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&handled, number);
  pthread_sigmask(SIG_BLOCK, &handled, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

// Of the two directories and of the journal. Who was another keeper until now holds them still.
Result<std::vector<Descriptor>> TakeLocks(const Options& options, const Journal& journal) {
  std::vector<Descriptor> locks;
  for (const int held : options.estate.locks) {
    fcntl(held, F_SETFD, FD_CLOEXEC);
    locks.emplace_back(held);
  }
  if (options.replaces()) return locks;
  Result<Descriptor> runtime = LockRuntime(options.runtime_dir + "/" + kLockName);
  if (!runtime.ok()) return runtime.error();
  locks.push_back(std::move(runtime.value()));
  if (!options.state_dir.empty()) {
    Result<Descriptor> state = LockDirectory(options.state_dir);
    if (!state.ok()) return state.error();
    locks.push_back(std::move(state.value()));
  }
  Result<Descriptor> own = LockJournal(journal.fd());
  if (!own.ok()) return own.error();
  locks.push_back(std::move(own.value()));
  return locks;
}

// Options whose names all versions know: see replacement.h.
std::vector<std::string> ForAnyVersion(const Options& options) {
  std::vector<std::string> arguments{"--runtime-dir", options.runtime_dir, "--blobs-dir", options.blobs_dir};
  if (!options.state_dir.empty()) arguments.insert(arguments.end(), {"--state-dir", options.state_dir});
  if (!options.cache_dir.empty()) arguments.insert(arguments.end(), {"--cache-dir", options.cache_dir});
  if (options.cgroup == CgroupOf::kKeeper) arguments.emplace_back("--own-cgroup");
  return arguments;
}

// Runs on the door's thread: no read is half handled then, and none is refused for that.
Outcome Become(int given, const std::string& path, const Options& options, const Foundation& foundation,
               const std::vector<Descriptor>& locks) {
  const Result<Descriptor> program = OpenOurs(given, path);
  if (!program.ok()) return program.error();
  Outcome outcome = ProveProgram(program.value().get());
  if (!outcome.ok()) return outcome;
  foundation.door->CallOnThread([&] {
    const Door::Kernel& kernel = foundation.door->kernel();
    Estate estate{
        kernel.requests, kernel.tree, foundation.journal->fd(), foundation.completions.get(), {}, {}};
    for (const Descriptor& lock : locks) estate.locks.push_back(lock.get());
    estate.objects = foundation.door->Objects();
    outcome = RunInstead(program.value().get(), ForAnyVersion(options), estate);
  });
  return outcome;
}

Outcome Serve(const Options& options, QueuedLog& log, Descriptor& ready) {
  // A successor must reserve numbers before anything else takes one, and refuses to share its predecessor's
  // lock only afterwards.
  Result<Foundation> made = options.takeover ? TakeOver(options, ready) : LayFoundation(options);
  if (!made.ok()) return made.error();
  Foundation& foundation = made.value();
  Result<std::vector<Descriptor>> locks = TakeLocks(options, *foundation.journal);
  if (!locks.ok()) return locks.error();
  foundation.journal->KeepMapped();  // the log counts in it to the end
  log.CountDroppedIn(foundation.journal->layout().counters.log_dropped);

  Door& door = *foundation.door;
  Control control({*foundation.journal, door, foundation.completions.get(), [&log] { log.Reopen(); },
                   [&](int program, const std::string& path) {
                     return Become(program, path, options, foundation, locks.value());
                   }});
  if (options.takeover) {
    door.Adopt();
    if (foundation.daemon_process.valid()) {
      control.InheritDaemon(std::move(foundation.daemon_process));
    } else {
      door.AbandonTickets();
    }
  }
  if (Outcome started = door.Start(); !started.ok()) return started;
  std::vector<std::string> socket_dirs{options.runtime_dir};
  if (!options.state_dir.empty()) socket_dirs.push_back(options.state_dir);
  if (Outcome listening = control.Listen(std::move(socket_dirs)); !listening.ok()) return listening;
  Log("pid %d serves %s through %s, %zu slots", getpid(), options.blobs_dir.c_str(),
      DoorName(foundation.journal->layout().door), foundation.journal->slots().size());
  ReportReady(ready, kReadyOk);
  control.Run();
  // Nothing is mounted: nobody reads through the watch any more, but whoever still does is refused.
  door.Stop();
  Log("pid %d leaves: nothing is mounted and no daemon is attached", getpid());
  return {};
}

// The same arguments, but for --on-host PROGRAM, which the daemon gives first.
Outcome MoveToHost(const Options& options, const std::vector<char*>& argv) {
  if (Outcome entered = EnterHost(); !entered.ok()) return entered;
  std::vector<std::string> arguments{"--own-cgroup"};
  for (size_t i = 1; i < argv.size(); ++i) {
    if (std::strcmp(argv[i], "--on-host") == 0) {
      ++i;
    } else {
      arguments.emplace_back(argv[i]);
    }
  }
  return BecomeOnHost(options.on_host, std::move(arguments));
}

// Goes on in a child of its own; false if there is none. The daemon waits for its child; init takes the
// grandchild.
bool Daemonize(const Options& options) {
  const pid_t child = fork();
  if (child > 0) _exit(0);
  if (child < 0) return false;
  BlockSignals();
  std::array<int, kInherited + 2> keep{};
  std::copy(options.inherited.begin(), options.inherited.end(), keep.begin());
  keep[kInherited] = options.ready_fd;
  keep[kInherited + 1] = options.objects_fd;
  LeaveParent(keep, options.cgroup);
  return true;
}

int Main(int argc, char** argv) {
  const std::vector<char*> given(argv, argv + argc);  // getopt_long changes their order
  Options options;
  if (!ParseOptions(argc, argv, &options)) {
    Log("usage: sluice-keeper --runtime-dir DIR [--state-dir DIR] --blobs-dir DIR [--door "
        "fanotify|cachefiles|fuse] "
        "[--cache-dir DIR] [--slots N] [--ready-fd FD] [--objects-fd FD] [--takeover "
        "REQUESTS,TREE,JOURNAL,COMPLETIONS,DAEMON] [--on-host PROGRAM] [--own-cgroup] [--inherit "
        "NAME=NUMBER,...]; started by sluiced");
    return 2;
  }
  if (options.can_inherit_fd >= 0) {
    const ssize_t size = sizeof(kCanInherit) - 1;
    return write(options.can_inherit_fd, kCanInherit, size) == size ? 0 : 1;
  }
  if (!options.on_host.empty()) {
    const Outcome moved = MoveToHost(options, given);
    if (moved.ok()) return 0;
    Log("%s", moved.error().text.c_str());
    Descriptor ready(options.ready_fd);
    ReportReady(ready, moved.error().text);
    return 1;
  }
  if (options.replaces()) {
    prctl(PR_SET_NAME, "sluice-keeper");
    BlockSignals();
  } else if (!Daemonize(options)) {
    return 1;
  }
  Descriptor ready(options.ready_fd);
  QueuedLog log;
  const Outcome outcome = Serve(options, log, ready);
  if (options.cgroup == CgroupOf::kKeeper) LeaveOwnCgroups();
  if (outcome.ok()) return 0;
  Log("%s", outcome.error().text.c_str());
  ReportReady(ready, (outcome.error().code == EALREADY ? kReadyBusy : "") + outcome.error().text);
  return 1;
}

}  // namespace
}  // namespace sluice::keeper

int main(int argc, char** argv) {
  return sluice::keeper::Main(argc, argv);
}
