#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

namespace sluice::p2p::fault {

// A host on loopback that answers no request by itself; once its queue of connections is full, its kernel
// lets dials go unanswered, as a host that is off does. Accepted connections are closed with it.
//
// Not thread-safe.
class DeafListener {
 public:
  DeafListener() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    at_.sin_family = AF_INET;
    at_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at_;
    EXPECT_EQ(::bind(listener_, Address(), size), 0);
    Listen();
    EXPECT_EQ(::getsockname(listener_, Address(), &size), 0);
  }
  ~DeafListener() {
    for (const int socket : sockets_) ::close(socket);
    ::close(listener_);
  }
  DeafListener(const DeafListener&) = delete;
  DeafListener& operator=(const DeafListener&) = delete;

  uint16_t port() const { return ntohs(at_.sin_port); }

  // From now on dials go unanswered, until one is accepted.
  void FillQueue() {
    for (int i = 0; i < 4; ++i) {
      sockets_.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      (void)::connect(sockets_.back(), Address(), sizeof at_);
    }
  }
  // The next connection; negative: EndAccepting was called.
  int Accept() {
    const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket >= 0) sockets_.push_back(socket);
    return socket;
  }
  // Wakes who accepts, on any thread; nobody can connect until Listen.
  void EndAccepting() const { ::shutdown(listener_, SHUT_RD); }
  void Listen() const { EXPECT_EQ(::listen(listener_, 0), 0); }

 private:
  sockaddr* Address() { return reinterpret_cast<sockaddr*>(&at_); }

  const int listener_;
  sockaddr_in at_{};
  std::vector<int> sockets_;
};

}  // namespace sluice::p2p::fault
