#include "ondemand/keeper/control.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "ondemand/keeper/fanotify/watch.h"
#include "ondemand/keeper/log.h"

namespace sluice::keeper {
namespace {

constexpr int kIdleCheckMs = 250;  // and until a mark is tried again
constexpr int kLastObjectsWaitMs = 5000;
constexpr int kSendTimeoutSeconds = 2;

bool IsDead(int process) {
  pollfd wait{process, POLLIN, 0};
  return poll(&wait, 1, 0) > 0;
}

Result<ucred> PeerOf(int connection) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return ErrnoError("identify the caller");
  return peer;
}

bool IsBlobName(const char (&name)[kBlobNameLength]) {
  return std::all_of(std::begin(name), std::end(name),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

uint64_t ChunkCount(uint64_t size, uint32_t chunk_shift) {
  return std::min<uint64_t>(((size - 1) >> chunk_shift) + 1, kChunksMax);
}

bool AllPresent(const BlobRecord& record, const PresenceBits& bits) {
  const uint64_t chunks = ChunkCount(record.size, record.chunk_shift);
  for (uint64_t first = 0; first < chunks; first += 64) {
    const uint64_t all = chunks - first < 64 ? (uint64_t{1} << (chunks - first)) - 1 : ~uint64_t{0};
    if ((bits.words[first / 64].load(std::memory_order_seq_cst) & all) != all) return false;
  }
  return true;
}

Outcome ValidateGuard(const GuardRequest& request) {
  if (!IsBlobName(request.name)) return Error{EINVAL, "a blob's file is named by 64 lower-case hex digits"};
  if (request.chunk_shift < kChunkShiftMin || request.chunk_shift > kChunkShiftMax || request.size == 0 ||
      (request.size - 1) >> request.chunk_shift >= kChunksMax) {
    return Error{EINVAL, "the blob's size or chunk size is out of bounds"};
  }
  return {};
}

void RefuseOtherVersion(int connection, uint32_t version) {
  const Result<ucred> peer = PeerOf(connection);
  Log("refused: process %d speaks version %u of the keeper's protocol, and this keeper version %u; start the "
      "sluiced that this keeper came with, or unmount all images, so that the next sluiced starts its own",
      peer.ok() ? peer.value().pid : 0, version, kWireVersion);
}

}  // namespace

Control::Control(Parts parts)
    : parts_(std::move(parts)),
      mounts_(parts_.journal, parts_.door),
      leave_after_ns_(NowNs() + int64_t{kFirstDaemonWaitMs} * 1'000'000) {
  connections_.reserve(kConnectionsMax);
}

Control::~Control() {
  for (const Listener& listener : listeners_) {
    if (listener.socket.valid()) unlink((listener.directory + "/" + kSocketName).c_str());
  }
}

bool Control::WatchDescriptor(int fd) {
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.fd = fd;
  return epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &interest) == 0;
}

Outcome Control::Listen(std::vector<std::string> directories) {
  sigset_t heard;
  sigemptyset(&heard);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&heard, number);
  signals_.reset(signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK));
  poll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!signals_.valid() || !poll_.valid() || !WatchDescriptor(signals_.get()) ||
      (DaemonAttached() && !WatchDescriptor(daemon_.process.get()))) {
    return ErrnoError("set up the control loop");
  }
  Outcome listening = Error{EINVAL, "there is no directory for the control socket"};
  bool any = false;
  for (std::string& directory : directories) {
    Listener& listener = listeners_.emplace_back(Listener{std::move(directory), {}, 0});
    listening = ListenIn(listener);
    any |= listening.ok();
    if (!listening.ok()) Log("%s", listening.error().text.c_str());
  }
  return any ? Outcome() : listening;
}

// Through the directory's descriptor: a socket's address has room for short paths only.
Outcome Control::ListenIn(Listener& listener) {
  const std::string path = listener.directory + "/" + kSocketName;
  const Descriptor directory(open(listener.directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return ErrnoError("open " + listener.directory);
  Descriptor made(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.valid()) return ErrnoError("make the control socket");
  unlinkat(directory.get(), kSocketName, 0);
  const sockaddr_un address = SocketIn(directory.get());
  const mode_t mask = umask(0177);
  const int bound = bind(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const int error = errno;
  umask(mask);
  if (bound != 0) return ErrnoError("bind " + path, error);
  struct stat status {};
  if (fstatat(directory.get(), kSocketName, &status, AT_SYMLINK_NOFOLLOW) != 0)
    return ErrnoError("inspect " + path);
  if (listen(made.get(), kConnectionsMax) != 0 || !WatchDescriptor(made.get()))
    return ErrnoError("listen on " + path);
  listener.socket = std::move(made);
  listener.inode = status.st_ino;
  return {};
}

void Control::KeepListening() {
  for (Listener& listener : listeners_) {
    struct stat status {};
    const std::string path = listener.directory + "/" + kSocketName;
    if (lstat(path.c_str(), &status) == 0 ? status.st_ino == listener.inode : errno != ENOENT) continue;
    if (ListenIn(listener).ok()) Log("%s was removed by somebody; it is made anew", path.c_str());
  }
}

void Control::InheritDaemon(Descriptor process) {
  daemon_.process = std::move(process);
  daemon_.pid = parts_.journal.layout().daemon_pid.load();
}

void Control::Run() {
  // A predecessor, or its daemon, may have died before one was taken off.
  ClearStaleMarks();
  while (!MayLeave()) {
    epoll_event ready[kConnectionsMax + 4];
    const int count = epoll_wait(poll_.get(), ready, std::size(ready), WaitTimeout());
    for (int i = 0; i < count; ++i) {
      const int fd = ready[i].data.fd;
      const bool caller = std::any_of(listeners_.begin(), listeners_.end(),
                                      [fd](const Listener& listener) { return listener.socket.get() == fd; });
      if (caller) {
        Accept(fd);
      } else if (fd == signals_.get()) {
        OnSignal();
      } else if (fd != daemon_.process.get()) {
        ServeConnection(fd);
      }
    }
    ReleaseDeadDaemon();
    if (!DaemonAttached()) KeepListening();
    if (marks_are_stale_) ClearStaleMarks();
  }
}

// While a daemon is attached nothing can make us leave; without one, mounts may vanish unannounced.
int Control::WaitTimeout() const {
  return DaemonAttached() && !marks_are_stale_ ? -1 : kIdleCheckMs;
}

// The kernel lets go of its objects some time after the last unmount, and waits until it is heard.
bool Control::MayLeave() {
  if (DaemonAttached() || NowNs() < leave_after_ns_ || IsNeeded()) return false;
  if (idle_since_ns_ == 0) idle_since_ns_ = NowNs();
  return parts_.door.Idle() || NowNs() - idle_since_ns_ > int64_t{kLastObjectsWaitMs} * 1'000'000;
}

// Whoever still uses what was taken from him by force gets errors through FUSE whether we are here or not;
// the holes that other doors guard would read as zeros. What is then left is forgotten, so that nobody takes
// us for dead among mounts.
bool Control::IsNeeded() {
  const bool by_force = parts_.door.RefusesReads() && parts_.journal.layout().door == DoorKind::kFuse;
  if (by_force && !mounts_.AnyVisible()) mounts_.ForgetAll();
  return mounts_.Any();
}

void Control::OnSignal() {
  signalfd_siginfo information{};
  if (read(signals_.get(), &information, sizeof(information)) != sizeof(information)) return;
  if (information.ssi_signo == SIGHUP) {
    if (parts_.on_hangup) parts_.on_hangup();
    return;
  }
  leave_after_ns_ = 0;
  if (MayLeave()) return;
  Log("signal %u is ignored: images are mounted or a daemon is attached, and without a keeper the holes of "
      "their "
      "blobs would read as zeros; unmount them first",
      information.ssi_signo);
}

void Control::ReleaseDeadDaemon() {
  if (!DaemonAttached() || !IsDead(daemon_.process.get())) return;
  Log("the daemon (pid %d) is dead; its reads wait for the next one", daemon_.pid);
  DetachDaemon();
}

void Control::DetachDaemon() {
  epoll_ctl(poll_.get(), EPOLL_CTL_DEL, daemon_.process.get(), nullptr);
  daemon_ = {};
  parts_.journal.layout().daemon_pid.store(0);
  leave_after_ns_ = 0;
  idle_since_ns_ = 0;
  parts_.door.AbandonTickets();
  ClearStaleMarks();
}

void Control::Accept(int listener) {
  Descriptor connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid()) return;
  Result<ucred> peer = PeerOf(connection.get());
  const bool permitted = peer.ok() && (peer.value().uid == 0 || peer.value().uid == geteuid());
  if (!permitted || connections_.size() >= kConnectionsMax) return;
  // A caller that does not read its replies must not hold up the others.
  const timeval timeout{kSendTimeoutSeconds, 0};
  setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  if (WatchDescriptor(connection.get())) connections_.push_back(std::move(connection));
}

void Control::CloseConnection(int connection) {
  if (daemon_.connection == connection) daemon_.connection = -1;
  std::erase_if(connections_, [connection](const Descriptor& c) { return c.get() == connection; });
}

void Control::ServeConnection(int connection) {
  const bool known = std::any_of(connections_.begin(), connections_.end(),
                                 [connection](const Descriptor& c) { return c.get() == connection; });
  if (!known) return;
  Result<Message> message = ReceiveMessage(connection);
  if (message.ok()) {
    if (const ReplaceRequest* request = ParseReplaceRequest(message.value().bytes))
      return ServeReplace(connection, *request, message.value());
  }
  const Header* header = message.ok() ? ParseRequest(message.value().bytes) : nullptr;
  if (header == nullptr) {
    if (message.ok() && IsOfAnotherVersion(message.value().bytes)) {
      (void)SendMessage(connection, BytesOf(Reply{}).first(offsetof(Reply, mount)), {});
      RefuseOtherVersion(connection, VersionOf(message.value().bytes));
    } else if (message.ok() || message.error().code == EPROTO) {
      Log("malformed request; the connection is closed");
    }
    CloseConnection(connection);
    return;
  }
  Reply reply;
  const Outcome outcome = Dispatch(connection, *header, message.value(), reply);
  if (!outcome.ok()) {
    reply.error = outcome.error().code;
    std::snprintf(reply.text, sizeof(reply.text), "%s", outcome.error().text.c_str());
  }
  const Door::Kernel& kernel = parts_.door.kernel();
  const bool attach = header->kind == RequestKind::kHello && outcome.ok();
  const Descriptor objects = attach ? OpenObjectsLine() : Descriptor();
  const int attached[kAttachDescriptors] = {parts_.journal.fd(), parts_.completions, kernel.requests,
                                            kernel.tree, objects.get()};
  const std::span<const int> descriptors = attach ? std::span<const int>(attached) : std::span<const int>();
  if (!SendMessage(connection, BytesOf(reply), descriptors).ok()) CloseConnection(connection);
}

void Control::ServeReplace(int connection, const ReplaceRequest& request, const Message& message) {
  const Outcome outcome = Replace(connection, request, message);
  ReplaceReply reply;
  if (!outcome.ok()) {
    Log("stays what it is: %s", outcome.error().text.c_str());
    reply.error = outcome.error().code;
    std::snprintf(reply.text, sizeof(reply.text), "%s", outcome.error().text.c_str());
  }
  const Door::Kernel& kernel = parts_.door.kernel();
  const int estate[kReplaceDescriptors] = {parts_.journal.fd(), parts_.completions, kernel.requests,
                                           kernel.tree};
  const std::span<const int> descriptors =
      outcome.ok() ? std::span<const int>(estate) : std::span<const int>();
  if (!SendMessage(connection, BytesOf(reply), descriptors).ok()) CloseConnection(connection);
}

// Of a daemon that is attached nobody may take the keeper away: it would not know the other one.
Outcome Control::Replace(int connection, const ReplaceRequest& request, const Message& message) {
  if (request.journal_version != kJournalVersion || request.journal_size != sizeof(JournalLayout)) {
    const auto named = [](uint32_t version, size_t size) {
      return "version " + std::to_string(version) + " of " + std::to_string(size) + " bytes";
    };
    return Error{EPROTO, "the program's journal is " + named(request.journal_version, request.journal_size) +
                             ", and this keeper's " + named(kJournalVersion, sizeof(JournalLayout))};
  }
  Result<ucred> peer = PeerOf(connection);
  if (!peer.ok()) return peer.error();
  ReleaseDeadDaemon();
  if (DaemonAttached()) {
    return Error{EBUSY,
                 "another daemon (pid " + std::to_string(daemon_.pid) + ") is attached to this keeper"};
  }
  if (request.step == ReplaceStep::kAsk) return {};
  if (request.step != ReplaceStep::kGo || message.descriptors.size() != 1 || !parts_.become)
    return Error{EPROTO, "no program was given"};
  Log("process %d has it become a keeper of its own version", peer.value().pid);
  return parts_.become(message.descriptors.front().get(), request.path);
}

// The daemon's end. Without one, it will say that descriptors are missing.
Descriptor Control::OpenObjectsLine() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return {};
  parts_.door.Connect(Descriptor(ends[0]));
  return Descriptor(ends[1]);
}

Outcome Control::Dispatch(int connection, const Header& header, Message& message, Reply& reply) {
  if (header.kind == RequestKind::kStatus) return Status(reply);
  if (header.kind == RequestKind::kHello) {
    return Attach(connection, reinterpret_cast<const HelloRequest&>(header));
  }
  if (connection != daemon_.connection) return Error{EPERM, "only the attached daemon may ask for this"};
  const uint32_t entry = reinterpret_cast<const EntryRequest&>(header).entry;
  switch (header.kind) {
    case RequestKind::kGoodbye:
      DetachDaemon();
      // So that the daemon sees whether we stay.
      (void)IsNeeded();
      return {};
    case RequestKind::kGuard:
      return GuardBlob(reinterpret_cast<const GuardRequest&>(header), &reply.value);
    case RequestKind::kUnguard:
      return UnguardBlob(entry);
    case RequestKind::kMarkComplete:
    case RequestKind::kClearComplete:
      return MarkBlob(entry, header.kind);
    case RequestKind::kMount:
      return Mount(connection, reinterpret_cast<const MountCall&>(header), message);
    case RequestKind::kUnmount:
      return mounts_.Unmount(reinterpret_cast<const UnmountRequest&>(header).mount_point);
    case RequestKind::kDetach:
      return mounts_.Unmount(reinterpret_cast<const UnmountRequest&>(header).mount_point,
                             Mounts::IfBusy::kDetach);
    case RequestKind::kRefuseReads:
      return RefuseReads();
    case RequestKind::kListMounts: {
      uint32_t found = 0;
      if (const MountRecord* record = mounts_.NextVisible(entry, &found)) {
        reply.mount = *record;
        reply.value = found + 1;
      }
      return {};
    }
    case RequestKind::kAdoptOrphan:
      return AdoptOrphan(reinterpret_cast<const OrphanCall&>(header));
    case RequestKind::kHello:
    case RequestKind::kStatus:
      break;
  }
  return Error{EPROTO, "unknown request"};
}

Outcome Control::Attach(int connection, const HelloRequest& hello) {
  if (hello.read_deadline_ns <= 0) return Error{EINVAL, "the read deadline must be positive"};
  const DoorKind door = parts_.journal.layout().door;
  if (hello.door != door) {
    return Error{EBUSY, std::string("a keeper serves mounts of the backend ") + DoorName(door) +
                            "; unmount them, or set ondemand.backend: " + DoorName(door)};
  }
  Result<ucred> peer = PeerOf(connection);
  if (!peer.ok()) return peer.error();
  ReleaseDeadDaemon();
  if (DaemonAttached() && daemon_.pid != peer.value().pid) {
    return Error{EBUSY,
                 "another daemon (pid " + std::to_string(daemon_.pid) + ") is attached to this keeper"};
  }
  Result<Descriptor> process = PeerProcess(connection);
  if (!process.ok()) return process.error();
  if (!DaemonAttached()) {
    if (!WatchDescriptor(process.value().get())) return ErrnoError("watch the daemon's process");
    daemon_.process = std::move(process.value());
  }
  daemon_.pid = peer.value().pid;
  daemon_.connection = connection;
  parts_.journal.layout().daemon_pid.store(daemon_.pid);
  parts_.journal.layout().read_deadline_ns.store(hello.read_deadline_ns);
  parts_.door.ForgetFailures();
  ClearStaleMarks();
  return {};
}

BlobRecord* Control::Record(uint32_t entry) {
  if (entry >= kBlobsMax || parts_.journal.layout().blobs[entry].in_use.load() == 0) return nullptr;
  return &parts_.journal.layout().blobs[entry];
}

Outcome Control::GuardBlob(const GuardRequest& request, uint32_t* entry) {
  if (Outcome valid = ValidateGuard(request); !valid.ok()) return valid;
  const FileId file{request.device, request.inode};
  Result<Descriptor> same =
      OpenIfSame(parts_.door.kernel().store, std::string(request.name, kBlobNameLength), file);
  if (!same.ok()) return same.error();
  struct stat status {};
  if (fstat(same.value().get(), &status) != 0) return ErrnoError("inspect the blob's file");
  if (static_cast<uint64_t>(status.st_size) != request.size) {
    return Error{ESTALE, "the blob's file has " + std::to_string(status.st_size) + " bytes and not " +
                             std::to_string(request.size)};
  }

  std::span<BlobRecord> records(parts_.journal.layout().blobs);
  BlobRecord* free = nullptr;
  for (BlobRecord& record : records) {
    if (record.in_use.load() == 0) {
      if (free == nullptr) free = &record;
      continue;
    }
    if (FileId{record.device, record.inode} != file) continue;
    if (record.size != request.size || record.chunk_shift != request.chunk_shift ||
        std::memcmp(record.name, request.name, kBlobNameLength) != 0) {
      return Error{EEXIST, "the file is guarded already with another size or chunk size"};
    }
    *entry = static_cast<uint32_t>(&record - records.data());
    return {};
  }
  if (free == nullptr)
    return Error{ENOSPC, std::to_string(kBlobsMax) + " blobs are guarded, the most there can be"};

  *entry = static_cast<uint32_t>(free - records.data());
  free->device = file.device;
  free->inode = file.inode;
  free->size = request.size;
  free->chunk_shift = request.chunk_shift;
  free->complete.store(0);
  free->orphaned.store(0);
  ++free->generation;
  free->hits.store(0);
  free->hit_bytes.store(0);
  free->failed.store(0);
  free->last_refusal.store(Refusal::kNone);
  std::memcpy(free->name, request.name, kBlobNameLength);
  // Not those beyond the last chunk, for which there need be no memory.
  const uint64_t words = (ChunkCount(request.size, request.chunk_shift) + 63) / 64;
  for (auto& word : std::span(parts_.journal.layout().present[*entry].words).first(words))
    word.store(0, std::memory_order_relaxed);
  if (free->generation > 1) parts_.journal.ForgetTouched(*entry);
  free->in_use.store(1, std::memory_order_release);
  Outcome guarded = parts_.door.Guard(*entry);
  if (!guarded.ok()) free->in_use.store(0, std::memory_order_release);
  return guarded;
}

Outcome Control::UnguardBlob(uint32_t entry) {
  BlobRecord* record = Record(entry);
  if (record == nullptr) return {};
  if (mounts_.Uses(entry)) return Error{EBUSY, "a mounted image reads from the blob"};
  // Even if its file is gone: nobody reads from it any more, but another may be given its inode.
  if (record->complete.load() != 0) (void)MarkBlob(entry, RequestKind::kClearComplete);
  parts_.door.Forget(entry);
  parts_.door.ForgetFailures();
  record->in_use.store(0, std::memory_order_release);
  return {};
}

Outcome Control::MarkBlob(uint32_t entry, RequestKind kind) {
  BlobRecord* record = Record(entry);
  if (record == nullptr) return Error{ENODEV, "the blob is not guarded"};
  if (kind == RequestKind::kMarkComplete) {
    if (Outcome over = EndRefusal(); !over.ok()) return over;
    // Written down first: a mark that nobody knows of would never be taken off.
    record->complete.store(1);
    Outcome marked = parts_.door.MarkComplete(*record);
    if (!marked.ok()) record->complete.store(0);
    return marked;
  }
  Outcome cleared = parts_.door.ClearComplete(*record);
  if (cleared.ok()) {
    record->complete.store(0);
  } else if (record->complete.load() != 0) {
    marks_are_stale_ = true;
  }
  return cleared;
}

// What the kernel reads unasked, or has read of the door's files, comes here again.
Outcome Control::RefuseReads() {
  parts_.door.RefuseReads();
  Log("all reads are refused from now on: what is mounted is to be unmounted by force");
  for (uint32_t entry = 0; entry < kBlobsMax; ++entry) {
    const BlobRecord* record = Record(entry);
    if (record == nullptr) continue;
    const Outcome cleared = record->complete.load() != 0 ? MarkBlob(entry, RequestKind::kClearComplete)
                                                         : parts_.door.ClearComplete(*record);
    if (!cleared.ok()) return cleared;
  }
  return {};
}

Outcome Control::EndRefusal() {
  if (!parts_.door.RefusesReads()) return {};
  if (mounts_.Any())
    return Error{EBUSY,
                 "what was unmounted by force is used still, and gets errors; end what uses it first: "
                 "\"sluice status --holders\" says what that is"};
  parts_.door.ServeReads();
  return {};
}

void Control::ClearStaleMarks() {
  marks_are_stale_ = false;
  for (uint32_t entry = 0; entry < kBlobsMax; ++entry) {
    const BlobRecord* record = Record(entry);
    if (record == nullptr || record->complete.load() == 0) continue;
    if (AllPresent(*record, parts_.journal.layout().present[entry])) continue;
    const Outcome cleared = MarkBlob(entry, RequestKind::kClearComplete);
    if (!cleared.ok()) Log("a blob may be read unasked, it is tried again: %s", cleared.error().text.c_str());
  }
}

Outcome Control::Mount(int connection, const MountCall& call, const Message& message) {
  if (message.descriptors.size() != kMountDescriptors)
    return Error{EPROTO, "a mount needs descriptors of the bootstrap and of the mount point"};
  if (call.mount_point[0] != '/') return Error{EINVAL, "the mount point must be an absolute path"};
  if (Outcome over = EndRefusal(); !over.ok()) return over;
  Outcome proved = parts_.door.Prove();
  if (!proved.ok()) {
    Log("%s", proved.error().text.c_str());
    return proved;
  }
  // Nobody else is served meanwhile: not for longer than somebody waits.
  const int abort_on[] = {daemon_.process.get(), connection};
  const Mounts::Files files{message.descriptors[kMountBootstrap].get(),
                            message.descriptors[kMountDirectory].get()};
  return mounts_.Mount(call, files, abort_on);
}

// Marked first, written down then: what is not guarded must not be taken for it.
Outcome Control::AdoptOrphan(const OrphanCall& call) {
  for (uint32_t i = 0; i < call.device_count; ++i) {
    BlobRecord* record = Record(call.devices[i]);
    if (record == nullptr) return Error{ENODEV, "a blob of the image is not guarded"};
    if (Outcome watched = parts_.door.WatchOrphaned(*record); !watched.ok()) return watched;
    record->orphaned.store(1);
  }
  return mounts_.AdoptOrphan(call);
}

Outcome Control::Status(Reply& reply) {
  const Counters& c = parts_.journal.layout().counters;
  std::snprintf(reply.text, sizeof(reply.text),
                "door %s, daemon %d, %zu slots, hits %lu, published %lu, filled %lu, refused %lu, expired "
                "%lu, denied %lu, "
                "errors %lu",
                DoorName(parts_.journal.layout().door), daemon_.pid, parts_.journal.slots().size(),
                c.hits.load(), c.published.load(), c.filled.load(), c.refused.load(), c.expired.load(),
                c.denied.load(), c.errors.load());
  return {};
}

}  // namespace sluice::keeper
