#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "node/executor.h"

namespace sluice::p2p {

// Drives a libcurl multi handle by its sockets: what a packet costs is the transfer that it is for, however
// many others are under way. curl_multi_perform(3) asks the kernel for the state of each, a thousand times a
// second.
//
// For the one thread that uses the handle, except Wake. Source: libcurl-multi(3), "MULTI_SOCKET".
class SocketWatch {
 public:
  // The handle stays the caller's, and outlives this. Throws std::system_error where no descriptor is left.
  explicit SocketWatch(void* multi);  // a CURLM
  ~SocketWatch();
  SocketWatch(const SocketWatch&) = delete;
  SocketWatch& operator=(const SocketWatch&) = delete;

  // The Work under way, or the next, returns. On any thread.
  void Wake();
  // Waits, at the longest until then, for sockets to be ready and for libcurl's times, and lets the handle go
  // on with those; what has ended by that is to be had from curl_multi_info_read(3). Returns whether Wake was
  // called.
  bool Work(Instant until);

 private:
  void OnSocket(int socket, int what);
  void OnTimer(long timeout_ms);
  void Watch(int socket, uint32_t events);

  void* const multi_;
  int epoll_ = -1;
  int wake_ = -1;  // eventfd(2)
  Instant timer_ = Instant::max();
  // A descriptor comes again; what was seen of the one before is not the new one's.
  absl::flat_hash_map<int, uint32_t> generations_;
  uint32_t next_generation_ = 1;
};

}  // namespace sluice::p2p
