#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::api {

// One connection to a port of loopback; raw bytes both ways.
class RawClient {
 public:
  // With `receive_buffer`, little is taken in before it is read.
  explicit RawClient(uint16_t port, int receive_buffer = 0)
      : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_buffer > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    // Far beyond any wait in here: a server that never answers fails the test instead of hanging it.
    const timeval patience{.tv_sec = 60, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~RawClient() { ::close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  RawClient& Send(const std::string& text) {
    (void)::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
    return *this;
  }

  // Up to the end of the connection.
  std::string ReadAll() {
    while (ReadSome()) {
    }
    return std::exchange(received_, "");
  }

  // So many bytes, or up to the end.
  std::string ReadBytes(size_t size) {
    while (received_.size() < size && ReadSome()) {
    }
    std::string bytes = received_.substr(0, size);
    received_.erase(0, bytes.size());
    return bytes;
  }

  // Up to and including `mark`, or the end.
  std::string ReadThrough(const std::string& mark) {
    while (received_.find(mark) == std::string::npos && ReadSome()) {
    }
    const size_t found = received_.find(mark);
    if (found == std::string::npos) return std::exchange(received_, "");
    std::string head = received_.substr(0, found + mark.size());
    received_.erase(0, found + mark.size());
    return head;
  }

 private:
  bool ReadSome() {
    char buffer[65536];
    const ssize_t count = ::recv(fd_, buffer, sizeof(buffer), 0);
    EXPECT_FALSE(count < 0 && errno == EAGAIN) << "the server neither answered nor closed";
    if (count > 0) received_.append(buffer, static_cast<size_t>(count));
    return count > 0;
  }

  const int fd_;
  std::string received_;
};

inline std::string Request(const std::string& method, const std::string& target,
                           const std::string& more = "") {
  return absl::StrCat(method, " ", target, " HTTP/1.1\r\nHost: x\r\n", more, "\r\n");
}
inline constexpr char kClose[] = "Connection: close\r\n";

}  // namespace sluice::api
