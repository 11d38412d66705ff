#include "p2p/http/socket_watch.h"

#include <curl/curl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <system_error>

namespace sluice::p2p {
namespace {

constexpr int kEventsAtOnce = 64;
constexpr uint64_t kWake = 0;  // no socket's: generations begin at 1

uint64_t Key(int socket, uint32_t generation) {
  return uint64_t{generation} << 32 | static_cast<uint32_t>(socket);
}

int MillisecondsUntil(Instant until) {
  constexpr Duration kLongest = std::chrono::seconds(1);
  const Duration left = std::clamp(until - std::chrono::steady_clock::now(), Duration(0), kLongest);
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
}

}  // namespace

SocketWatch::SocketWatch(void* multi)
    : multi_(multi), epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  epoll_event event{EPOLLIN, {.u64 = kWake}};
  if (epoll_ < 0 || wake_ < 0 || ::epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event) != 0)
    throw std::system_error(errno, std::generic_category(), "watching sockets");
  curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, static_cast<void*>(this));
  curl_multi_setopt(
      multi_, CURLMOPT_SOCKETFUNCTION, +[](CURL*, curl_socket_t socket, int what, void* self, void*) -> int {
        static_cast<SocketWatch*>(self)->OnSocket(socket, what);
        return 0;
      });
  curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, static_cast<void*>(this));
  curl_multi_setopt(
      multi_, CURLMOPT_TIMERFUNCTION, +[](CURLM*, long timeout_ms, void* self) -> int {
        static_cast<SocketWatch*>(self)->OnTimer(timeout_ms);
        return 0;
      });
}

SocketWatch::~SocketWatch() {
  curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, nullptr);
  curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, nullptr);
  ::close(wake_);
  ::close(epoll_);
}

void SocketWatch::Wake() {
  const uint64_t one = 1;
  // It fails only where as many calls wait as a counter holds.
  (void)!::write(wake_, &one, sizeof one);
}

bool SocketWatch::Work(Instant until) {
  std::array<epoll_event, kEventsAtOnce> events;
  const int ready =
      ::epoll_wait(epoll_, events.data(), kEventsAtOnce, MillisecondsUntil(std::min(until, timer_)));
  bool woken = false;
  int running = 0;
  for (int i = 0; i < ready; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    if (event.data.u64 == kWake) {
      uint64_t calls = 0;
      woken = ::read(wake_, &calls, sizeof calls) > 0;
      continue;
    }
    const auto socket = static_cast<int>(event.data.u64 & UINT32_MAX);
    const auto known = generations_.find(socket);
    if (known == generations_.end() || Key(socket, known->second) != event.data.u64) continue;
    // An error is found by whoever reads or writes.
    const bool failed = (event.events & (EPOLLERR | EPOLLHUP)) != 0;
    const int what = (failed || (event.events & EPOLLIN) ? CURL_CSELECT_IN : 0) |
                     (failed || (event.events & EPOLLOUT) ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(multi_, socket, what, &running);
  }
  if (timer_ <= std::chrono::steady_clock::now()) {
    timer_ = Instant::max();
    curl_multi_socket_action(multi_, CURL_SOCKET_TIMEOUT, 0, &running);
  }
  return woken;
}

void SocketWatch::OnSocket(int socket, int what) {
  if (what != CURL_POLL_REMOVE)
    return Watch(socket, (what & CURL_POLL_IN ? EPOLLIN : 0U) | (what & CURL_POLL_OUT ? EPOLLOUT : 0U));
  generations_.erase(socket);
  (void)::epoll_ctl(epoll_, EPOLL_CTL_DEL, socket, nullptr);  // it may be closed already
}

// libcurl may have closed a socket without a word, and then it has left the epoll set as well. Where the
// kernel has no memory for one more, its transfer ends by its own times.
void SocketWatch::Watch(int socket, uint32_t events) {
  uint32_t& generation = generations_[socket];
  const bool known = generation != 0;
  if (!known) generation = next_generation_++;
  epoll_event event{events, {.u64 = Key(socket, generation)}};
  if (known && ::epoll_ctl(epoll_, EPOLL_CTL_MOD, socket, &event) == 0) return;
  if (known) {
    generation = next_generation_++;
    event.data.u64 = Key(socket, generation);
  }
  if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, socket, &event) != 0 && errno == EEXIST)
    (void)::epoll_ctl(epoll_, EPOLL_CTL_MOD, socket, &event);
}

void SocketWatch::OnTimer(long timeout_ms) {
  timer_ = timeout_ms < 0 ? Instant::max()
                          : std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
}

}  // namespace sluice::p2p
