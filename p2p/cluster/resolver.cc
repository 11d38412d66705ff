#include "p2p/cluster/resolver.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

constexpr int kTryMilliseconds = 2000;
constexpr int kTries = 3;

struct Answer {
  bool is_over = false;
  int error = ARES_SUCCESS;
  std::set<std::string> addresses;
};

std::string TextOf(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text, sizeof text);
  } else if (address->sa_family == AF_INET6) {
    inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, text, sizeof text);
  }
  return text;
}

void OnAnswer(void* argument, int error, int /*timeouts*/, ares_addrinfo* found) {
  auto& answer = *static_cast<Answer*>(argument);
  answer.is_over = true;
  answer.error = error;
  if (!found) return;
  for (const ares_addrinfo_node* node = found->nodes; node; node = node->ai_next) {
    std::string text = TextOf(node->ai_addr);
    if (!text.empty()) answer.addresses.insert(std::move(text));
  }
  ares_freeaddrinfo(found);
}

absl::Status ErrorOf(int error) {
  const std::string message = ares_strerror(error);
  if (error == ARES_ENOTFOUND || error == ARES_ENODATA) return absl::NotFoundError(message);
  return absl::UnavailableError(message);
}

// Moves what the channel's sockets have, or its timeouts, once; waits no longer than `wait`.
void Turn(ares_channel channel, Duration wait) {
  std::array<ares_socket_t, ARES_GETSOCK_MAXNUM> sockets;
  const int wanted = ares_getsock(channel, sockets.data(), static_cast<int>(sockets.size()));
  std::array<pollfd, ARES_GETSOCK_MAXNUM> polled{};
  nfds_t count = 0;
  for (size_t i = 0; i < sockets.size(); ++i) {
    const bool reads = ARES_GETSOCK_READABLE(wanted, i), writes = ARES_GETSOCK_WRITABLE(wanted, i);
    if (!reads && !writes) continue;
    polled[count++] = {sockets[i], static_cast<short>((reads ? POLLIN : 0) | (writes ? POLLOUT : 0)), 0};
  }
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  timeval longest{milliseconds / 1000, milliseconds % 1000 * 1000};
  timeval next;
  const timeval* until = ares_timeout(channel, &longest, &next);
  poll(polled.data(), count, static_cast<int>(until->tv_sec * 1000 + until->tv_usec / 1000 + 1));
  ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);  // what has timed out
  for (nfds_t i = 0; i < count; ++i) {
    const bool failed = polled[i].revents & (POLLERR | POLLHUP);
    const bool readable = failed || (polled[i].revents & POLLIN);
    const bool writable = failed || (polled[i].revents & POLLOUT);
    ares_process_fd(channel, readable ? polled[i].fd : ARES_SOCKET_BAD,
                    writable ? polled[i].fd : ARES_SOCKET_BAD);
  }
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ResolveHost(const std::string& host, Duration wait) {
  static const int initialized = ares_library_init(ARES_LIB_INIT_ALL);
  if (initialized != ARES_SUCCESS) return ErrorOf(initialized);
  ares_options options{};
  options.timeout = kTryMilliseconds;
  options.tries = kTries;
  ares_channel channel = nullptr;
  if (const int error = ares_init_options(&channel, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES);
      error != ARES_SUCCESS)
    return ErrorOf(error);
  Answer answer;  // outlives the channel, whose end answers too
  const std::unique_ptr<ares_channeldata, decltype(&ares_destroy)> destroyed(channel, ares_destroy);

  ares_addrinfo_hints hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = ARES_AI_NOSORT;
  const Instant deadline = std::chrono::steady_clock::now() + wait;
  ares_getaddrinfo(channel, host.c_str(), nullptr, &hints, OnAnswer, &answer);
  while (!answer.is_over) {
    const Duration left = deadline - std::chrono::steady_clock::now();
    if (left <= Duration::zero())
      return absl::DeadlineExceededError(
          absl::StrCat("no answer within ", std::chrono::ceil<std::chrono::seconds>(wait).count(), " s"));
    Turn(channel, left);
  }
  if (answer.error != ARES_SUCCESS) return ErrorOf(answer.error);
  if (answer.addresses.empty()) return absl::NotFoundError("it has no address");
  return std::vector<std::string>(answer.addresses.begin(), answer.addresses.end());
}

}  // namespace sluice::p2p
