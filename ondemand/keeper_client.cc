#include "ondemand/keeper_client.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/control.h"
#include "ondemand/keeper_on_host.h"
#include "ondemand/keeper_replacement.h"

extern char** environ;

namespace sluice::ondemand {
namespace {

using keeper::Descriptor;

constexpr int kRetryMs = 50;
// Of a keeper that was killed, from when its files are closed to when it is seen to be dead.
constexpr int kDyingMs = 2000;

constexpr std::string_view kStoredRequests = "sluice-requests";
constexpr std::string_view kStoredTree = "sluice-tree";
constexpr std::string_view kStoredJournal = "sluice-journal";
constexpr std::string_view kStoredCompletions = "sluice-completions";

struct Stored {
  Descriptor requests;
  Descriptor tree;
  Descriptor journal;
  Descriptor completions;

  bool complete() const { return requests.valid() && tree.valid() && journal.valid() && completions.valid(); }
};

Stored TakeFrom(DescriptorStore& store) {
  return {store.Take(kStoredRequests), store.Take(kStoredTree), store.Take(kStoredJournal),
          store.Take(kStoredCompletions)};
}

absl::Status UnreadableStore(const keeper::Error& error) {
  return absl::FailedPreconditionError(absl::StrCat(
      "the service manager holds the mounts of another version of sluice (", error.text,
      "); end what reads from them, unmount them, and stop the service before starting it again"));
}

// Without mounts the keeper leaves, and nothing is to hold its door open.
bool AnyMountIn(const keeper::Journal& journal) {
  const auto& mounts = journal.layout().mounts;
  return std::any_of(std::begin(mounts), std::end(mounts),
                     [](const keeper::MountRecord& record) { return record.in_use != 0; });
}

ErofsInstance InstanceOf(const keeper::MountRecord& record) {
  return {std::string(record.sysfs_name, strnlen(record.sysfs_name, sizeof(record.sysfs_name))),
          record.sysfs_inode, BootId()};
}

absl::Status FromErrno(int error, const std::string& text) {
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text);
    case EINVAL:
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(text);
    case ENOSPC:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(text);
    case EBUSY:
    case ENODEV:
    case ENOTSUP:
    case ENOTBLK:
    case EPERM:
    case ESTALE:
    case EEXIST:
    case EUCLEAN:
      return absl::FailedPreconditionError(text);
    default:
      return absl::UnavailableError(text);
  }
}

absl::Status ErrnoStatus(const std::string& what, int error = errno) {
  return FromErrno(error, absl::StrCat(what, ": ", std::strerror(error)));
}

absl::Status FromError(const keeper::Error& error) {
  return FromErrno(error.code, error.text);
}

timeval ToTimeval(Duration duration) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  return {us / 1'000'000, us % 1'000'000};
}

int ToMs(Duration duration) {
  return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

bool IsDead(int process) {
  pollfd wait{process, POLLIN, 0};
  return poll(&wait, 1, 0) > 0;
}

pid_t PeerPid(int socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

bool SameFile(int a, int b) {
  struct stat first {};
  struct stat second {};
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

// Of one whose answer to kHello can't be read.
absl::Status NotOurKeeper(pid_t pid, std::span<const std::byte> answer) {
  const uint32_t version = keeper::VersionOf(answer);
  return absl::FailedPreconditionError(absl::StrCat(
      "the keeper that runs (process ", pid, ") is of another version of sluice: it speaks ",
      version == 0 ? std::string("another protocol") : absl::StrCat("version ", version, " of its protocol"),
      ", and this sluiced version ", keeper::kWireVersion,
      ". Start the sluiced that it came with and unmount all images (sluice status, sluice umount), or end "
      "what "
      "reads from them and unmount them by umount: the keeper leaves then, and this sluiced starts its own"));
}

// What the keeper says when it is ready, or why it is not.
absl::Status AwaitReady(int pipe, Duration timeout) {
  pollfd wait{pipe, POLLIN, 0};
  if (poll(&wait, 1, ToMs(timeout)) <= 0)
    return absl::UnavailableError("the keeper did not get ready in time");
  char text[keeper::kReplyTextMax];
  const ssize_t length = read(pipe, text, sizeof(text));
  if (length <= 0) return absl::UnavailableError("the keeper ended before it was ready; see its log");
  const std::string said(text, static_cast<size_t>(length));
  if (said == keeper::kReadyOk) return absl::OkStatus();
  if (said.starts_with(keeper::kReadyBusy)) return absl::UnavailableError(said);
  return absl::FailedPreconditionError(absl::StrCat("the keeper can't start: ", said));
}

// A call that may take long, while it lasts.
class LongCall {
 public:
  LongCall(std::atomic<int>& count, Duration extra) : count_(extra > Duration{} ? &count : nullptr) {
    if (count_ != nullptr) ++*count_;
  }
  ~LongCall() {
    if (count_ != nullptr) --*count_;
  }
  LongCall(const LongCall&) = delete;
  LongCall& operator=(const LongCall&) = delete;

 private:
  std::atomic<int>* const count_;
};

class SpawnActions {
 public:
  SpawnActions() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  }
  ~SpawnActions() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

}  // namespace

absl::StatusOr<std::optional<keeper::DoorKind>> DoorThatWaits(const DescriptorStore& store) {
  const int file = store.Peek(kStoredJournal);
  if (file < 0) return std::nullopt;
  keeper::Result<std::unique_ptr<keeper::Journal>> journal = keeper::Journal::Open(file);
  if (!journal.ok()) return UnreadableStore(journal.error());
  if (!AnyMountIn(*journal.value())) return std::nullopt;
  return journal.value()->layout().door;
}

absl::StatusOr<std::unique_ptr<KeeperClient>> KeeperClient::Connect(KeeperClientOptions options) {
  if (mkdir(options.runtime_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make the runtime directory ", options.runtime_dir));
  }
  std::unique_ptr<KeeperClient> client(new KeeperClient(std::move(options)));
  client->stop_event_.reset(eventfd(0, EFD_CLOEXEC));
  if (!client->stop_event_.valid()) return ErrnoStatus("make an eventfd");

  // A keeper without mounts may be about to leave: it still holds the lock, or takes the connection and
  // resets it. Only time tells.
  const auto give_up = std::chrono::steady_clock::now() + client->options_.call_timeout;
  absl::Status status = client->Attach();
  if (absl::IsUnavailable(status) && client->journal_ == nullptr) {
    if (absl::Status stored = client->TakeStored(); !stored.ok()) return stored;
  }
  const bool orphans = client->took_stored_;
  while (absl::IsUnavailable(status) && std::chrono::steady_clock::now() < give_up) {
    absl::Status started;
    // One that becomes ours has its sockets again in a moment.
    if (client->KeeperIsDead())
      started = client->journal_ ? client->StartSuccessor(OldDaemon::kDead) : client->StartKeeper();
    status = client->Attach();
    if (status.ok()) break;
    if (!started.ok()) status = started;
    std::this_thread::sleep_for(std::chrono::milliseconds(kRetryMs));
  }
  if (!status.ok() && orphans) {
    return absl::Status(
        status.code(),
        absl::StrCat("take over what the service manager has kept: ", status.message(),
                     "; if that does not pass, unmount the images, stop the service and start it again"));
  }
  if (!status.ok()) return status;
  if (absl::Status stored = client->StoreDescriptors(); !stored.ok()) return stored;
  client->watcher_ = std::thread([raw = client.get()] { raw->WatchKeeper(); });
  return client;
}

KeeperClient::~KeeperClient() {
  StopWatching();
}

void KeeperClient::StopWatching() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_event_.get(), &one, sizeof(one));
  if (watcher_.joinable()) watcher_.join();
}

absl::Status KeeperClient::Detach() {
  StopWatching();
  const std::lock_guard lock(mutex_);
  if (std::exchange(detached_, true)) return absl::OkStatus();
  const auto give_up = std::chrono::steady_clock::now() + options_.call_timeout;
  absl::Status status = SayGoodbye();
  // A keeper that lives and does not answer learns of our end when our process ends.
  while (!status.ok() && KeeperIsDead() && AnyMountIn(*journal_) &&
         std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(kRetryMs));
    status = SayGoodbye();
  }
  const bool mounts = AnyMountIn(*journal_);
  if (options_.descriptor_store != nullptr && !mounts) options_.descriptor_store->Clear();
  socket_.reset();
  if (!mounts || !KeeperIsDead()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("images are mounted and no keeper lives: ", status.message()));
}

// REQUIRES: mutex_ is held
absl::Status KeeperClient::SayGoodbye() {
  if (KeeperIsDead()) {
    if (!AnyMountIn(*journal_)) return absl::UnavailableError("there is no keeper");
    if (absl::Status back = Reattach(); !back.ok()) return back;
  }
  const keeper::PlainRequest goodbye{{.kind = keeper::RequestKind::kGoodbye}};
  return CallLocked(&goodbye, sizeof(goodbye), {}).status();
}

// What a daemon and a keeper that are both dead have left; nothing if they left nothing.
absl::Status KeeperClient::TakeStored() {
  DescriptorStore* store = options_.descriptor_store;
  if (store == nullptr) return absl::OkStatus();
  Stored stored = TakeFrom(*store);
  if (!stored.complete()) {
    store->Clear();
    return absl::OkStatus();
  }
  keeper::Result<std::unique_ptr<keeper::Journal>> journal = keeper::Journal::Open(stored.journal.get());
  if (!journal.ok()) return UnreadableStore(journal.error());
  const keeper::DoorKind door = journal.value()->layout().door;
  if (door != options_.door && !AnyMountIn(*journal.value())) {
    stored = {};
    store->Clear();
    return absl::OkStatus();
  }
  if (door != options_.door) {
    return absl::FailedPreconditionError(
        absl::StrCat("the service manager holds mounts of the backend ", keeper::DoorName(door),
                     "; set ondemand.backend: ", keeper::DoorName(door),
                     ", or unmount them and stop the service before starting it again"));
  }
  journal_ = std::move(journal.value());
  requests_ = std::move(stored.requests);
  tree_ = std::move(stored.tree);
  completions_ = std::move(stored.completions);
  took_stored_ = true;
  if (door == keeper::DoorKind::kCachefiles) objects_ = std::make_unique<CacheObjects>(journal_);
  return absl::OkStatus();
}

absl::Status KeeperClient::StoreDescriptors() {
  DescriptorStore* store = options_.descriptor_store;
  if (store == nullptr || took_stored_) return absl::OkStatus();
  const bool ours = store->Peek(kStoredJournal) >= 0 && SameFile(store->Peek(kStoredJournal), journal_->fd());
  if (!ours) {
    // Its readers would get zeros: their door is held open by nobody else.
    const absl::StatusOr<std::optional<keeper::DoorKind>> waiting = DoorThatWaits(*store);
    if (!waiting.ok()) return waiting.status();
    if (waiting->has_value()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the service manager holds mounts of another keeper than the one at ", options_.runtime_dir,
          "; set runtimeDir to what it was, or unmount them and stop the service before starting it again"));
    }
  }
  if (TakeFrom(*store).complete() && ours) return absl::OkStatus();
  // An old set would hold a door open that nobody looks after.
  store->Clear();
  store->Keep(kStoredJournal, journal_->fd());
  store->Keep(kStoredCompletions, completions_.get());
  store->Keep(kStoredRequests, requests_.get());
  store->Keep(kStoredTree, tree_.get());
  return absl::OkStatus();
}

// Wherever one of its sockets is left.
absl::StatusOr<Descriptor> KeeperClient::Dial() const {
  absl::StatusOr<Descriptor> socket = DialIn(options_.runtime_dir);
  if (socket.ok() || options_.state_dir.empty()) return socket;
  absl::StatusOr<Descriptor> other = DialIn(options_.state_dir);
  return other.ok() ? std::move(other) : std::move(socket);
}

absl::StatusOr<Descriptor> KeeperClient::DialIn(const std::string& path) const {
  const Descriptor directory(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid())
    return absl::UnavailableError(absl::StrCat("open ", path, ": ", std::strerror(errno)));
  const sockaddr_un address = keeper::SocketIn(directory.get());
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoStatus("make a socket");
  const timeval timeout = ToTimeval(options_.call_timeout);
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat("connect to the keeper at ", path, "/", keeper::kSocketName,
                                               ": ", std::strerror(errno)));
  }
  return socket;
}

absl::Status KeeperClient::Attach() {
  absl::StatusOr<Descriptor> socket = Dial();
  if (!socket.ok()) return socket.status();
  keeper::Result<Descriptor> process = keeper::PeerProcess(socket->get());
  // It lives: another one is not to be started beside it.
  if (!process.ok() && process.error().code == EOPNOTSUPP)
    return absl::FailedPreconditionError(absl::StrCat("attach to the keeper: ", process.error().text));
  if (!process.ok()) return absl::UnavailableError(process.error().text);
  // One that can't become ours may still speak as we do.
  absl::Status replaced;
  if (journal_ == nullptr && RunsAnotherProgram(PeerPid(socket->get()))) {
    replaced = Replace(process.value());
    if (replaced.ok()) return absl::UnavailableError("the keeper has not become one of this version in time");
  }
  keeper::HelloRequest hello;
  hello.read_deadline_ns = options_.read_deadline.count();
  hello.door = options_.door;
  if (keeper::Outcome sent = keeper::SendMessage(socket->get(), keeper::BytesOf(hello), {}); !sent.ok()) {
    return absl::UnavailableError(sent.error().text);
  }
  keeper::Result<keeper::Message> message = keeper::ReceiveMessage(socket->get());
  if (!message.ok()) return absl::UnavailableError(message.error().text);
  const keeper::Reply* reply = keeper::ParseReply(message.value().bytes);
  if (reply == nullptr) {
    const absl::Status not_ours = NotOurKeeper(PeerPid(socket->get()), message.value().bytes);
    return journal_ != nullptr || replaced.ok()
               ? not_ours
               : absl::FailedPreconditionError(absl::StrCat(
                     not_ours.message(), "; it does not become one of ours: ", replaced.message()));
  }
  if (reply->error != 0) return FromErrno(reply->error, reply->text);
  if (absl::Status adopted = AdoptDescriptors(message.value()); !adopted.ok()) return adopted;
  keeper_pid_.store(PeerPid(socket->get()));
  keeper_process_ = std::move(process.value());
  socket_ = std::move(*socket);
  keeper_lives_ = true;
  return absl::OkStatus();
}

// OK once it is on its way to be ours: what we then have is what a successor of it would need.
absl::Status KeeperClient::Replace(const Descriptor& process) {
  const absl::StatusOr<std::string> program = KeeperProgram();
  if (!program.ok()) return program.status();
  absl::StatusOr<Descriptor> socket = Dial();
  if (!socket.ok()) return socket.status();
  absl::StatusOr<KeeperEstate> estate = AskForReplacement(socket->get());
  if (!estate.ok()) return estate.status();
  keeper::Result<std::unique_ptr<keeper::Journal>> journal = keeper::Journal::Open(estate->journal.get());
  if (!journal.ok()) return FromError(journal.error());
  const keeper::DoorKind door = journal.value()->layout().door;
  if (door != options_.door) {
    return absl::FailedPreconditionError(
        absl::StrCat("it serves mounts of the backend ", keeper::DoorName(door),
                     "; unmount them, or set ondemand.backend: ", keeper::DoorName(door)));
  }
  Descriptor same_process(fcntl(process.get(), F_DUPFD_CLOEXEC, 0));
  if (!same_process.valid()) return ErrnoStatus("hold on to the keeper's process");
  if (absl::Status begun = ReplaceKeeper(socket->get(), *program); !begun.ok()) return begun;
  journal_ = std::move(journal.value());
  completions_ = std::move(estate->completions);
  requests_ = std::move(estate->requests);
  tree_ = std::move(estate->tree);
  if (door == keeper::DoorKind::kCachefiles) objects_ = std::make_unique<CacheObjects>(journal_);
  keeper_process_ = std::move(same_process);
  return absl::OkStatus();
}

// Whether the keeper runs another file than we would start: of another version, or build, of sluice.
bool KeeperClient::RunsAnotherProgram(pid_t keeper) const {
  const absl::StatusOr<std::string> program = KeeperProgram();
  struct stat ours {};
  struct stat theirs {};
  return program.ok() && stat(program->c_str(), &ours) == 0 &&
         stat(absl::StrCat("/proc/", keeper, "/exe").c_str(), &theirs) == 0 &&
         (ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino);
}

// On a host that keeps it, its copy there.
absl::StatusOr<std::string> KeeperClient::KeeperProgram() const {
  return options_.on_host ? PlaceKeeperOnHost(options_.keeper_path, options_.state_dir)
                          : options_.keeper_path;
}

absl::Status KeeperClient::AdoptDescriptors(keeper::Message& reply) {
  if (reply.descriptors.size() != keeper::kAttachDescriptors) {
    return absl::FailedPreconditionError("the keeper did not hand over its descriptors");
  }
  if (journal_ != nullptr) {
    if (SameFile(journal_->fd(), reply.descriptors[keeper::kAttachJournal].get())) {
      if (objects_) objects_->SetLine(std::move(reply.descriptors[keeper::kAttachObjects]));
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        "the keeper was replaced by one that does not know our mounts; restart sluiced");
  }
  keeper::Result<std::unique_ptr<keeper::Journal>> journal =
      keeper::Journal::Open(reply.descriptors[keeper::kAttachJournal].get());
  if (!journal.ok()) return FromError(journal.error());
  journal_ = std::move(journal.value());
  completions_ = std::move(reply.descriptors[keeper::kAttachCompletions]);
  requests_ = std::move(reply.descriptors[keeper::kAttachRequests]);
  tree_ = std::move(reply.descriptors[keeper::kAttachTree]);
  if (options_.door == keeper::DoorKind::kCachefiles) {
    objects_ = std::make_unique<CacheObjects>(journal_);
    objects_->SetLine(std::move(reply.descriptors[keeper::kAttachObjects]));
  }
  return absl::OkStatus();
}

absl::Status KeeperClient::Spawn(std::vector<std::string> arguments, std::span<const int> inherited,
                                 const std::function<void()>& feed) const {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("make a pipe");
  Descriptor read_end(ends[0]);
  Descriptor write_end(ends[1]);
  // Somebody may have removed it since we made it.
  mkdir(options_.runtime_dir.c_str(), 0755);
  if (options_.on_host) {
    absl::StatusOr<std::string> program = KeeperProgram();
    if (!program.ok()) return program.status();
    arguments.insert(arguments.begin(), {"--on-host", *program});
  }
  if (!options_.state_dir.empty()) arguments.insert(arguments.begin(), {"--state-dir", options_.state_dir});
  arguments.insert(arguments.begin(), {options_.keeper_path, "--runtime-dir", options_.runtime_dir,
                                       "--blobs-dir", options_.blobs_dir, "--cache-dir", options_.cache_dir,
                                       "--ready-fd", std::to_string(write_end.get())});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  SpawnActions spawn;
  // To its own number: that takes close-on-exec off, in the child only.
  for (const int fd : inherited) posix_spawn_file_actions_adddup2(&spawn.actions, fd, fd);
  posix_spawn_file_actions_adddup2(&spawn.actions, write_end.get(), write_end.get());
  if (!options_.keeper_log.empty()) {
    posix_spawn_file_actions_addopen(&spawn.actions, STDERR_FILENO, options_.keeper_log.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0640);
  }
  pid_t child = 0;
  const int error = posix_spawn(&child, options_.keeper_path.c_str(), &spawn.actions, &spawn.attributes,
                                argv.data(), environ);
  if (error != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("start the keeper ", options_.keeper_path, ": ", std::strerror(error)));
  }
  write_end.reset();
  if (feed) feed();
  // It forks at once and ends.
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return AwaitReady(read_end.get(), options_.call_timeout);
}

absl::Status KeeperClient::StartKeeper() const {
  return Spawn({"--door", keeper::DoorName(options_.door), "--slots", std::to_string(options_.slots_max)},
               {});
}

absl::Status KeeperClient::StartSuccessor(OldDaemon old_daemon) const {
  Descriptor self;
  if (old_daemon == OldDaemon::kSelf) {
    // Not the wrapper: glibc 2.36 declares it without extern "C".
    self.reset(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
    if (!self.valid()) return ErrnoStatus("pidfd_open of ourselves");
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoStatus("make a socket");
  Descriptor theirs(ends[0]);
  Descriptor ours(ends[1]);
  std::vector<int> inherited{requests_.get(), tree_.get(), journal_->fd(), completions_.get()};
  if (self.valid()) inherited.push_back(self.get());
  if (objects_) inherited.push_back(theirs.get());
  std::vector<std::string> arguments{
      "--takeover",
      absl::StrCat(inherited[0], ",", inherited[1], ",", inherited[2], ",", inherited[3], ",", self.get())};
  if (objects_) arguments.insert(arguments.end(), {"--objects-fd", std::to_string(theirs.get())});
  return Spawn(std::move(arguments), inherited, [&] {
    theirs.reset();
    SendObjects(std::move(ours));
  });
}

// The successor reads until we close the line.
void KeeperClient::SendObjects(Descriptor line) const {
  if (!objects_) return;
  const timeval timeout = ToTimeval(options_.call_timeout);
  setsockopt(line.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  for (const CacheObjects::Object& object : objects_->All()) {
    const keeper::ObjectReply kept{object.index, object.generation, 0};
    const int file = object.file->get();
    if (!keeper::SendMessage(line.get(), keeper::BytesOf(kept), std::span<const int>(&file, 1)).ok()) return;
  }
}

Descriptor KeeperClient::DuplicateRequests() const {
  return Descriptor(fcntl(requests_.get(), F_DUPFD_CLOEXEC, 0));
}

Descriptor KeeperClient::DuplicateTree() const {
  return Descriptor(fcntl(tree_.get(), F_DUPFD_CLOEXEC, 0));
}

bool KeeperClient::KeeperIsDead() const {
  return !keeper_process_.valid() || IsDead(keeper_process_.get());
}

// REQUIRES: mutex_ is held
absl::Status KeeperClient::Reattach() {
  socket_.reset();
  // A successor may be there already, started by an attempt that did not wait long enough.
  if (absl::Status attached = Attach(); attached.ok() || !KeeperIsDead()) return attached;
  const absl::Status started = StartSuccessor(OldDaemon::kSelf);
  absl::Status attached = Attach();
  if (attached.ok()) keepers_replaced_.fetch_add(1);
  return attached.ok() || started.ok() ? attached : started;
}

void KeeperClient::WatchKeeper() {
  for (;;) {
    Descriptor process;
    {
      const std::lock_guard lock(mutex_);
      process.reset(fcntl(keeper_process_.get(), F_DUPFD_CLOEXEC, 0));
    }
    probe_.Ask();
    pollfd wait[3] = {{stop_event_.get(), POLLIN, 0}, {process.get(), POLLIN, 0}, {probe_.fd(), POLLIN, 0}};
    if (poll(wait, 3, ToMs(KeeperProbe::kInterval)) < 0 && errno != EINTR) return;
    if (wait[0].revents != 0) return;
    if (wait[2].revents != 0) probe_.OnReadable();
    if (wait[1].revents != 0 && !ReplaceDeadKeeper()) {
      // Meanwhile readers wait: our duplicate of the door keeps the kernel from letting them through or
      // failing them.
      pollfd pause{stop_event_.get(), POLLIN, 0};
      if (poll(&pause, 1, ToMs(std::chrono::seconds(1))) > 0) return;
    }
  }
}

bool KeeperClient::ReplaceDeadKeeper() {
  const std::lock_guard lock(mutex_);
  if (!KeeperIsDead() || Reattach().ok()) return true;
  keeper_lives_ = false;
  return false;
}

absl::Status KeeperClient::KeeperStatus() const {
  if (!keeper_lives_.load())
    return absl::UnavailableError("the keeper is dead, and no other one could be started");
  const Duration silence = probe_.Silence();
  if (silence < kSilent || long_calls_.load() > 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the keeper, process ", keeper_pid_.load(), ", has not answered for ",
                   std::chrono::duration_cast<std::chrono::seconds>(silence).count(),
                   " s: it is stopped, or hangs; readers of mounted images wait for it"));
}

// REQUIRES: mutex_ is held
void KeeperClient::OnLineLost(int error) {
  // An answer that comes later must not be taken for that of the next call.
  socket_.reset();
  pollfd death{keeper_process_.get(), POLLIN, 0};
  if (error == EPIPE || error == ECONNRESET) (void)poll(&death, 1, kDyingMs);
}

absl::StatusOr<keeper::Reply> KeeperClient::CallLocked(const void* request, size_t size,
                                                       std::span<const int> descriptors) {
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(request), size);
  if (keeper::Outcome sent = keeper::SendMessage(socket_.get(), bytes, descriptors); !sent.ok()) {
    OnLineLost(sent.error().code);
    return absl::UnavailableError(absl::StrCat("call the keeper: ", sent.error().text));
  }
  keeper::Result<keeper::Message> message = keeper::ReceiveMessage(socket_.get());
  const keeper::Reply* reply = message.ok() ? keeper::ParseReply(message.value().bytes) : nullptr;
  if (reply == nullptr) {
    OnLineLost(message.ok() ? EPROTO : message.error().code);
    return absl::UnavailableError(
        absl::StrCat("no answer from the keeper: ", message.ok() ? "malformed" : message.error().text));
  }
  if (reply->error != 0) return FromErrno(reply->error, reply->text);
  return *reply;
}

// REQUIRES: mutex_ is held
void KeeperClient::SetTimeout(Duration extra) {
  const timeval timeout = ToTimeval(options_.call_timeout + extra);
  if (socket_.valid()) setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
}

absl::StatusOr<keeper::Reply> KeeperClient::CallKeeper(const void* request, size_t size,
                                                       std::span<const int> descriptors, Duration extra) {
  std::unique_lock lock(mutex_, options_.call_timeout);
  if (!lock.owns_lock()) return absl::UnavailableError("the keeper is busy with other calls");
  if (detached_) return absl::UnavailableError("the line to the keeper was closed");
  if (!socket_.valid() || KeeperIsDead()) {
    if (absl::Status back = Reattach(); !back.ok()) return back;
  }
  const LongCall long_call(long_calls_, extra);
  SetTimeout(extra);
  absl::StatusOr<keeper::Reply> reply = CallLocked(request, size, descriptors);
  SetTimeout({});
  // It died on the way. All calls may be made again with the same effect, but for Unmount, which may then not
  // find what it has unmounted already.
  if (!socket_.valid() && KeeperIsDead() && Reattach().ok()) {
    SetTimeout(extra);
    reply = CallLocked(request, size, descriptors);
    SetTimeout({});
  }
  return reply;
}

absl::StatusOr<BlobEntry> KeeperClient::Guard(const BlobFile& file) {
  keeper::GuardRequest request;
  request.device = file.device;
  request.inode = file.inode;
  request.size = file.size;
  request.chunk_shift = static_cast<uint32_t>(std::countr_zero(file.chunk_size));
  const std::string name = file.key.FileName();
  std::memcpy(request.name, name.data(), sizeof(request.name));
  absl::StatusOr<keeper::Reply> reply = CallKeeper(&request, sizeof(request));
  if (!reply.ok()) {
    return absl::Status(reply.status().code(),
                        absl::StrCat("guard blob ", file.key.Short(), ": ", reply.status().message()));
  }
  if (reply->value >= keeper::kBlobsMax)
    return absl::UnavailableError("the keeper named an entry that is not there");
  return BlobEntry(reply->value);
}

absl::Status KeeperClient::CallOnEntry(keeper::RequestKind kind, BlobEntry entry) {
  keeper::EntryRequest request{{.kind = kind}, entry.value(), 0};
  return CallKeeper(&request, sizeof(request)).status();
}

absl::Status KeeperClient::Unguard(BlobEntry entry) {
  return CallOnEntry(keeper::RequestKind::kUnguard, entry);
}

absl::Status KeeperClient::MarkComplete(BlobEntry entry) {
  return CallOnEntry(keeper::RequestKind::kMarkComplete, entry);
}

absl::Status KeeperClient::ClearComplete(BlobEntry entry) {
  return CallOnEntry(keeper::RequestKind::kClearComplete, entry);
}

std::span<PresenceMap::Word> KeeperClient::Mirror(BlobEntry entry) {
  return journal_->layout().present[entry.value()].words;
}

std::optional<BlobKey> KeeperClient::KeyOf(uint32_t entry) const {
  if (entry >= keeper::kBlobsMax) return std::nullopt;
  const keeper::BlobRecord& record = journal_->layout().blobs[entry];
  if (record.in_use.load(std::memory_order_acquire) == 0) return std::nullopt;
  absl::StatusOr<BlobKey> key =
      BlobKey::ParseFileName(std::string_view(record.name, keeper::kBlobNameLength));
  return key.ok() ? std::optional(*key) : std::nullopt;
}

std::vector<BlobKey> KeeperClient::GuardedBlobs() const {
  std::vector<BlobKey> keys;
  for (uint32_t i = 0; i < keeper::kBlobsMax; ++i) {
    if (const std::optional<BlobKey> key = KeyOf(i)) keys.push_back(*key);
  }
  return keys;
}

std::optional<BlobEntry> KeeperClient::FindEntry(const BlobKey& key) const {
  const std::string name = key.FileName();
  for (uint32_t i = 0; i < keeper::kBlobsMax; ++i) {
    const keeper::BlobRecord& record = journal_->layout().blobs[i];
    if (record.in_use.load(std::memory_order_acquire) == 0) continue;
    if (name == std::string_view(record.name, keeper::kBlobNameLength)) return BlobEntry(i);
  }
  return std::nullopt;
}

absl::Status KeeperClient::Mount(const Image& image, const MountPoint& mount_point) {
  if (image.devices.size() > keeper::kDevicesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the image has ", image.devices.size(), " blobs; at most ",
                                                   keeper::kDevicesMax, " can be mounted"));
  }
  Descriptor bootstrap(open(image.bootstrap_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!bootstrap.valid()) return ErrnoStatus(absl::StrCat("open the bootstrap ", image.bootstrap_path));
  keeper::MountCall call;
  call.device_count = static_cast<uint32_t>(image.devices.size());
  for (size_t i = 0; i < image.devices.size(); ++i) call.devices[i] = image.devices[i].value();
  if (image.bootstrap) call.bootstrap = image.bootstrap->value();
  if (!keeper::CopyText(mount_point.path, call.mount_point)) {
    return absl::InvalidArgumentError("the mount point's path is too long");
  }
  call.flags = image.flags;
  if (!keeper::CopyText(image.domain, call.domain))
    return absl::InvalidArgumentError("the name of the domain is too long");
  keeper::CopyText(std::string_view(image.label).substr(0, sizeof(call.label) - 1), call.label);
  const int descriptors[] = {bootstrap.get(), mount_point.directory.get()};
  // The kernel may read the image before it is mounted, each read with its own deadline.
  return CallKeeper(&call, sizeof(call), descriptors, 2 * options_.read_deadline).status();
}

absl::Status KeeperClient::Unmount(const std::string& mount_point) {
  return CallOnMountPoint(keeper::RequestKind::kUnmount, mount_point);
}

absl::Status KeeperClient::DetachMount(const std::string& mount_point) {
  return CallOnMountPoint(keeper::RequestKind::kDetach, mount_point);
}

absl::Status KeeperClient::RefuseReads() {
  const keeper::PlainRequest request{{.kind = keeper::RequestKind::kRefuseReads}};
  return CallKeeper(&request, sizeof(request)).status();
}

absl::Status KeeperClient::CallOnMountPoint(keeper::RequestKind kind, const std::string& mount_point) {
  keeper::UnmountRequest request{{.kind = kind}, {}};
  if (!keeper::CopyText(mount_point, request.mount_point)) {
    return absl::InvalidArgumentError("the mount point's path is too long");
  }
  return CallKeeper(&request, sizeof(request)).status();
}

absl::StatusOr<std::vector<MountedImage>> KeeperClient::ListMounts() {
  std::vector<MountedImage> mounts;
  for (uint32_t next = 0; next < keeper::kMountsMax;) {
    keeper::EntryRequest request{{.kind = keeper::RequestKind::kListMounts}, next, 0};
    absl::StatusOr<keeper::Reply> reply = CallKeeper(&request, sizeof(request));
    if (!reply.ok()) return reply.status();
    if (reply->value <= next) break;
    MountedImage image{
        reply->mount.mount_point, reply->mount.label, {}, InstanceOf(reply->mount), reply->mount.device};
    for (uint32_t i = 0; i < reply->mount.device_count; ++i) {
      if (const std::optional<BlobKey> key = KeyOf(reply->mount.devices[i])) image.devices.push_back(*key);
    }
    mounts.push_back(std::move(image));
    next = reply->value;
  }
  return mounts;
}

absl::Status KeeperClient::AdoptOrphan(const ErofsInstance& instance, std::span<const BlobEntry> devices) {
  keeper::OrphanCall call;
  if (devices.size() > keeper::kDevicesMax || !keeper::CopyText(instance.name, call.sysfs_name))
    return absl::InvalidArgumentError("the file system has too many blobs, or too long a name");
  call.device_count = static_cast<uint32_t>(devices.size());
  for (size_t i = 0; i < devices.size(); ++i) call.devices[i] = devices[i].value();
  call.sysfs_inode = instance.inode;
  return CallKeeper(&call, sizeof(call)).status();
}

bool KeeperClient::Serves(const ErofsInstance& instance) const {
  const auto& mounts = journal_->layout().mounts;
  return std::any_of(std::begin(mounts), std::end(mounts), [&](const keeper::MountRecord& record) {
    return record.in_use != 0 && InstanceOf(record) == instance;
  });
}

void KeeperClient::ReopenLog() {
  const std::unique_lock lock(mutex_, options_.call_timeout);
  // Not the wrapper: glibc 2.36 declares it without extern "C".
  if (lock.owns_lock() && keeper_process_.valid())
    (void)syscall(SYS_pidfd_send_signal, keeper_process_.get(), SIGHUP, nullptr, 0);
}

int KeeperClient::kernel_error() const {
  return journal_->layout().broken.load();
}

KeeperCounters KeeperClient::counters() const {
  const keeper::Counters& c = journal_->layout().counters;
  return {.hits = c.hits.load(),
          .hit_bytes = c.hit_bytes.load(),
          .published = c.published.load(),
          .filled = c.filled.load(),
          .refused = c.refused.load(),
          .expired = c.expired.load(),
          .denied = c.denied.load(),
          .errors = c.errors.load(),
          .log_dropped = c.log_dropped.load(),
          .failed = c.failed.load()};
}

bool KeeperClient::TakeTouched(BlobEntry entry, ChunkSet& touched) {
  const keeper::BlobRecord& record = journal_->layout().blobs[entry.value()];
  if (!keeper::HasTouchedBits(record.size, record.chunk_shift)) return false;
  const std::span<std::atomic<uint64_t>> words =
      std::span(journal_->layout().present[entry.value()].words).subspan(keeper::kTouchedFrom);
  keeper::TakeBits(words.first(std::min(words.size(), touched.words().size())), [&](uint32_t chunk) {
    if (chunk < touched.chunk_count()) touched.Add(ChunkIndex(chunk));
  });
  return true;
}

HitCounts KeeperClient::hits(BlobEntry entry) const {
  const keeper::BlobRecord& record = journal_->layout().blobs[entry.value()];
  return {record.hits.load(), record.hit_bytes.load(), record.failed.load(),
          keeper::RefusalText(record.last_refusal.load())};
}

}  // namespace sluice::ondemand
