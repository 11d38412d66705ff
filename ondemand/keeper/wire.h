#pragma once

#include <sys/un.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/result.h"

// What the daemon and the keeper say to each other: one fixed-size message each way on a SOCK_SEQPACKET unix
// socket, descriptors beside it (SCM_RIGHTS). Both ends come from one build on one host: native byte order.
namespace sluice::keeper {

inline constexpr uint32_t kWireMagic = 0x4b4c5753;
inline constexpr uint32_t kWireVersion = 5;
inline constexpr uint32_t kReplyTextMax = 1024;

enum class RequestKind : uint32_t {
  kHello,          // attaches the daemon; the reply carries kAttachDescriptors
  kGoodbye,        // detaches it: it works no ticket any more
  kGuard,          // GuardRequest; the reply's value is the blob's entry
  kUnguard,        // EntryRequest
  kMarkComplete,   // EntryRequest
  kClearComplete,  // EntryRequest
  kMount,          // MountCall, with MountDescriptors
  kUnmount,        // UnmountRequest
  kListMounts,     // EntryRequest: the first mount at or after the entry; value is its entry + 1, 0 if none
  kAdoptOrphan,    // OrphanCall
  kStatus,         // the reply's text; needs no attachment
  kDetach,         // UnmountRequest: also of what is busy, which goes when nobody uses it any more
  kRefuseReads,    // every read gets an error from now on, until an image is mounted and none was before
};

struct Header {
  uint32_t magic = kWireMagic;
  uint32_t version = kWireVersion;
  RequestKind kind = RequestKind::kStatus;
  uint32_t padding = 0;
};

struct HelloRequest {
  Header header{.kind = RequestKind::kHello};
  int64_t read_deadline_ns = 0;
  DoorKind door = DoorKind::kFanotify;  // that the daemon expects
  uint32_t padding = 0;
};
struct PlainRequest {
  Header header;
};
struct GuardRequest {
  Header header{.kind = RequestKind::kGuard};
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  uint32_t chunk_shift = 0;
  char name[kBlobNameLength] = {};
  uint32_t padding = 0;
};
struct EntryRequest {
  Header header;
  uint32_t entry = 0;
  uint32_t padding = 0;
};
// What a mount may be forbidden, bits of MountCall::flags.
enum MountFlag : uint32_t { kMountNoSuid = 1, kMountNoDev = 2, kMountNoExec = 4 };
// Descriptors that come with MountCall, in this order.
enum MountDescriptor { kMountBootstrap, kMountDirectory, kMountDescriptors };

struct MountCall {
  Header header{.kind = RequestKind::kMount};
  uint32_t device_count = 0;
  uint32_t bootstrap = kNoBlob;  // its entry, if the door reads it too (cachefiles)
  uint32_t devices[kDevicesMax] = {};
  char mount_point[kMountPathMax] = {};
  char label[kMountLabelMax] = {};
  char domain[kDomainMax] = {};  // cachefiles; may be empty
  uint32_t flags = 0;            // MountFlag
  uint32_t padding = 0;
};
// A file system whose keeper and daemon died at once, and that is used still (fanotify).
struct OrphanCall {
  Header header{.kind = RequestKind::kAdoptOrphan};
  uint32_t device_count = 0;
  uint32_t padding = 0;
  uint64_t sysfs_inode = 0;
  uint32_t devices[kDevicesMax] = {};
  char sysfs_name[kSysfsNameMax] = {};
};
struct UnmountRequest {
  Header header{.kind = RequestKind::kUnmount};
  char mount_point[kMountPathMax] = {};
};

struct Reply {
  uint32_t magic = kWireMagic;
  uint32_t version = kWireVersion;
  int32_t error = 0;  // errno value
  uint32_t value = 0;
  MountRecord mount;              // of kListMounts
  char text[kReplyTextMax] = {};  // why it failed, terminated
};

// Descriptors that come with the reply to kHello, in this order.
// What a keeper that starts says on its ready descriptor: one of these, or why it can't start.
inline constexpr char kReadyOk[] = "ok";
inline constexpr char kReadyBusy[] = "busy: ";  // and which other keeper is in the way

enum AttachDescriptor {
  kAttachJournal,
  kAttachCompletions,
  kAttachRequests,
  kAttachTree,
  kAttachObjects,  // the daemon's end of the line on which it asks for objects: see ObjectRequest
  kAttachDescriptors
};
inline constexpr size_t kDescriptorsPerMessageMax = kAttachDescriptors;

// On the objects' line the door's own thread answers, at once: a mount that is under way, and needs what it
// gives, does not hold it up. One question at a time.
struct ObjectRequest {
  uint32_t index = 0;  // in the journal's objects
  uint32_t generation = 0;
};
// With the object's descriptor, unless the object is not what it was asked as any more.
struct ObjectReply {
  uint32_t index = 0;
  uint32_t generation = 0;
  int32_t error = 0;  // errno value
};

inline constexpr size_t kMessageBytesMax = sizeof(MountCall) > sizeof(Reply) ? sizeof(MountCall)
                                                                             : sizeof(Reply);

struct Message {
  std::vector<std::byte> bytes;
  std::vector<Descriptor> descriptors;
};

// Sends one message; does not block for longer than the socket's send timeout. Errors: errno values.
Outcome SendMessage(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors);
// Receives one. Errors: ECONNRESET at the end of the connection, EPROTO if it is longer than kMessageBytesMax
// or carries too many descriptors, else errno values.
Result<Message> ReceiveMessage(int socket);

// The request's header if `bytes` is exactly one well-formed request of this version, of the size that its
// kind has, with all texts terminated; else nullptr. The memory must be aligned for uint64_t.
const Header* ParseRequest(std::span<const std::byte> bytes);
// Whether it is from another version of sluice, a request or a reply: who asked so will see it by any reply.
bool IsOfAnotherVersion(std::span<const std::byte> bytes);
// The version that a message of ours says it is of; 0 if it is none of ours.
uint32_t VersionOf(std::span<const std::byte> bytes);
// As ParseRequest, for a reply.
const Reply* ParseReply(std::span<const std::byte> bytes);

// Copies with a terminating zero; false if it does not fit or contains a zero.
bool CopyText(std::string_view from, std::span<char> to);

inline constexpr char kSocketName[] = "keeper.sock";
// The keeper's socket in a directory that is open by this descriptor, which stays open while the address is
// used: paths may be longer than an address.
sockaddr_un SocketIn(int directory);

// A pidfd of the process at the other end of a connected unix socket. Errors: EOPNOTSUPP if that is in a PID
// namespace that is not seen from here, and the kernel has no other name for it (before Linux 6.5); others.
Result<Descriptor> PeerProcess(int socket);

template <typename T>
std::span<const std::byte> BytesOf(const T& pod) {
  return std::as_bytes(std::span<const T, 1>(&pod, 1));
}

}  // namespace sluice::keeper
