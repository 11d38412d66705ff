#include "ondemand/keeper/wire.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <type_traits>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // Linux 6.5
#endif

namespace sluice::keeper {
namespace {

constexpr size_t kControlBytes = CMSG_SPACE(sizeof(int) * kDescriptorsPerMessageMax);

template <size_t N>
bool Terminated(const char (&text)[N]) {
  return std::memchr(text, 0, N) != nullptr;
}

template <typename T>
const T* Cast(std::span<const std::byte> bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  return bytes.size() == sizeof(T) ? reinterpret_cast<const T*>(bytes.data()) : nullptr;
}

bool WellFormed(RequestKind kind, std::span<const std::byte> bytes) {
  switch (kind) {
    case RequestKind::kHello:
      return Cast<HelloRequest>(bytes) != nullptr;
    case RequestKind::kGoodbye:
    case RequestKind::kStatus:
    case RequestKind::kRefuseReads:
      return Cast<PlainRequest>(bytes) != nullptr;
    case RequestKind::kGuard:
      return Cast<GuardRequest>(bytes) != nullptr;
    case RequestKind::kUnguard:
    case RequestKind::kMarkComplete:
    case RequestKind::kClearComplete:
    case RequestKind::kListMounts:
      return Cast<EntryRequest>(bytes) != nullptr;
    case RequestKind::kMount: {
      const auto* call = Cast<MountCall>(bytes);
      return call != nullptr && call->device_count <= kDevicesMax && Terminated(call->mount_point) &&
             Terminated(call->label) && Terminated(call->domain);
    }
    case RequestKind::kAdoptOrphan: {
      const auto* call = Cast<OrphanCall>(bytes);
      return call != nullptr && call->device_count <= kDevicesMax && Terminated(call->sysfs_name);
    }
    case RequestKind::kUnmount:
    case RequestKind::kDetach: {
      const auto* call = Cast<UnmountRequest>(bytes);
      return call != nullptr && Terminated(call->mount_point);
    }
  }
  return false;
}

// All descriptors that came, also those of a message that is then rejected: they must be closed.
std::vector<Descriptor> TakeDescriptors(msghdr& header) {
  std::vector<Descriptor> descriptors;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      descriptors.emplace_back(fd);
    }
  }
  return descriptors;
}

}  // namespace

Outcome SendMessage(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors) {
  if (descriptors.size() > kDescriptorsPerMessageMax) return Error{EINVAL, "too many descriptors to send"};
  alignas(cmsghdr) char control[kControlBytes] = {};
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(c), descriptors.data(), descriptors.size_bytes());
  }
  ssize_t sent;
  do sent = sendmsg(socket, &header, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) return ErrnoError("send to the other side");
  return {};
}

Result<Message> ReceiveMessage(int socket) {
  Message message;
  message.bytes.resize(kMessageBytesMax);
  alignas(cmsghdr) char control[kControlBytes] = {};
  iovec part{message.bytes.data(), message.bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t size;
  do size = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  if (size < 0) return ErrnoError("receive from the other side");
  message.descriptors = TakeDescriptors(header);
  if (size == 0) return Error{ECONNRESET, "the other side has closed the connection"};
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) return Error{EPROTO, "the message is too long"};
  message.bytes.resize(static_cast<size_t>(size));
  return message;
}

const Header* ParseRequest(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(Header)) return nullptr;
  const auto* header = reinterpret_cast<const Header*>(bytes.data());
  if (header->magic != kWireMagic || header->version != kWireVersion) return nullptr;
  return WellFormed(header->kind, bytes) ? header : nullptr;
}

// Requests and replies begin alike.
uint32_t VersionOf(std::span<const std::byte> bytes) {
  static_assert(offsetof(Header, version) == offsetof(Reply, version));
  if (bytes.size() < offsetof(Reply, mount)) return 0;
  const auto* header = reinterpret_cast<const Header*>(bytes.data());
  return header->magic == kWireMagic ? header->version : 0;
}

bool IsOfAnotherVersion(std::span<const std::byte> bytes) {
  const uint32_t version = VersionOf(bytes);
  return version != 0 && version != kWireVersion;
}

const Reply* ParseReply(std::span<const std::byte> bytes) {
  const auto* reply = Cast<Reply>(bytes);
  if (reply == nullptr || reply->magic != kWireMagic || reply->version != kWireVersion) return nullptr;
  const MountRecord& mount = reply->mount;
  const bool well_formed = Terminated(reply->text) && Terminated(mount.mount_point) &&
                           Terminated(mount.label) && Terminated(mount.domain) && Terminated(mount.fsid) &&
                           mount.device_count <= kDevicesMax;
  return well_formed ? reply : nullptr;
}

sockaddr_un SocketIn(int directory) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", directory, kSocketName);
  return address;
}

Result<Descriptor> PeerProcess(int socket) {
  int process = -1;
  socklen_t size = sizeof(process);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &process, &size) == 0) return Descriptor(process);
  if (errno != ENOPROTOOPT) return ErrnoError("hold on to the other side's process");
  // Before Linux 6.5. A process number is not given to another while its process lives, and it lives as long
  // as its end of the connection is open: if that is still so now, the number was not given on.
  ucred peer{};
  size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return ErrnoError("identify the other side");
  if (peer.pid <= 0) {
    return Error{
        EOPNOTSUPP,
        "the other side runs in a PID namespace that is not seen from here, and Linux before 6.5 has no "
        "other name for it: run sluiced in the PID namespace of its keeper"};
  }
  Descriptor opened(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
  if (!opened.valid()) return ErrnoError("hold on to the other side's process");
  pollfd gone{socket, POLLRDHUP, 0};
  if (poll(&gone, 1, 0) < 0 || (gone.revents & (POLLRDHUP | POLLHUP)) != 0)
    return Error{ECONNRESET, "the other side has closed the connection"};
  return opened;
}

bool CopyText(std::string_view from, std::span<char> to) {
  if (from.size() >= to.size() || from.find('\0') != std::string_view::npos) return false;
  std::memcpy(to.data(), from.data(), from.size());
  to[from.size()] = '\0';
  return true;
}

}  // namespace sluice::keeper
