#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ondemand/keeper/door.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/mounts.h"
#include "ondemand/keeper/replacement.h"
#include "ondemand/keeper/result.h"
#include "ondemand/keeper/wire.h"

namespace sluice::keeper {

inline constexpr int kConnectionsMax = 8;
inline constexpr int kFirstDaemonWaitMs = 30'000;  // a keeper that nobody attaches to goes away
inline constexpr char kLockName[] = "keeper.lock";

// Serves the daemon's calls on a unix socket that only our own user may use, and decides when the keeper may
// go. Runs on the thread that calls Run().
class Control {
 public:
  struct Parts {
    Journal& journal;
    Door& door;
    int completions;
    std::function<void()> on_hangup = nullptr;  // SIGHUP has come
    // Becomes the keeper that this program makes; returns why it can't. None: it never can.
    std::function<Outcome(int program, const std::string& path)> become = nullptr;
  };

  explicit Control(Parts parts);
  // Removes the sockets' files.
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // Listens on a socket of the name kSocketName in each of the directories, replacing a dead predecessor's.
  // One that can't be made is left out, if another can. Whoever removes one finds it there again when no
  // daemon is attached. SIGTERM, SIGINT and SIGHUP must be blocked in all threads.
  Outcome Listen(std::vector<std::string> directories);
  // The daemon that was attached to the predecessor; `process` is its pidfd.
  void InheritDaemon(Descriptor process);
  // Returns when no daemon is attached and nothing is mounted.
  void Run();

 private:
  struct Daemon {
    pid_t pid = 0;
    Descriptor process;  // a pidfd
    int connection = -1;
  };

  struct Listener {
    std::string directory;
    Descriptor socket;
    uint64_t inode = 0;  // of the socket's file
  };

  Outcome ListenIn(Listener& listener);
  // Makes sockets anew whose files were removed.
  void KeepListening();
  void Accept(int listener);
  void ServeConnection(int connection);
  void CloseConnection(int connection);
  void OnSignal();
  void ReleaseDeadDaemon();
  bool DaemonAttached() const { return daemon_.process.valid(); }
  void DetachDaemon();
  bool MayLeave();
  bool IsNeeded();
  int WaitTimeout() const;

  Outcome Dispatch(int connection, const Header& header, Message& message, Reply& reply);
  // What a daemon of another version asks for.
  void ServeReplace(int connection, const ReplaceRequest& request, const Message& message);
  Outcome Replace(int connection, const ReplaceRequest& request, const Message& message);
  Outcome Attach(int connection, const HelloRequest& hello);
  Outcome GuardBlob(const GuardRequest& request, uint32_t* entry);
  Outcome UnguardBlob(uint32_t entry);
  Outcome MarkBlob(uint32_t entry, RequestKind kind);
  Outcome RefuseReads();
  // Serves reads again where nothing of before is used any more. Errors: EBUSY.
  Outcome EndRefusal();
  // Takes off the marks of blobs that are not complete: a daemon has taken chunks back and could not say so.
  void ClearStaleMarks();
  Outcome Mount(int connection, const MountCall& call, const Message& message);
  Outcome AdoptOrphan(const OrphanCall& call);
  Outcome Status(Reply& reply);
  Descriptor OpenObjectsLine();
  BlobRecord* Record(uint32_t entry);
  bool WatchDescriptor(int fd);

  const Parts parts_;
  Mounts mounts_;
  Descriptor poll_;
  std::vector<Listener> listeners_;
  Descriptor signals_;
  std::vector<Descriptor> connections_;
  Daemon daemon_;
  bool marks_are_stale_ = false;  // one could not be taken off; tried again
  int64_t leave_after_ns_;        // not before; CLOCK_MONOTONIC
  int64_t idle_since_ns_ = 0;     // when it was first found that we may; 0: not yet
};

}  // namespace sluice::keeper
