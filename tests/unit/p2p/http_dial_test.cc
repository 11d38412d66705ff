#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/http/http_client.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

class Sink final : public HttpSink {
 public:
  explicit Sink(std::promise<absl::Status>& done) : done_(done) {}
  absl::Status OnHead(const HttpHead&) override { return absl::OkStatus(); }
  absl::Status OnBody(std::span<const std::byte>) override { return absl::OkStatus(); }
  void OnDone(absl::Status status) override { done_.set_value(std::move(status)); }

 private:
  std::promise<absl::Status>& done_;
};

// A host that takes connections, or whose kernel lets dials go unanswered: the queue of those that are to be
// accepted is full.
class DialTest : public ::testing::Test {
 protected:
  DialTest() : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    at_.sin_family = AF_INET;
    at_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at_;
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&at_), sizeof at_), 0);
    EXPECT_EQ(listen(listener_, 0), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&at_), &size), 0);
  }
  ~DialTest() override {
    client_.Stop();
    for (const int socket : sockets_) close(socket);
    close(listener_);
  }

  void FillQueue() {
    for (int i = 0; i < 4; ++i) {
      sockets_.push_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      (void)connect(sockets_.back(), reinterpret_cast<sockaddr*>(&at_), sizeof at_);
    }
  }
  int Accept() {
    sockets_.push_back(accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_GE(sockets_.back(), 0);
    return sockets_.back();
  }
  static void Say(int socket, const std::string& text) {
    EXPECT_EQ(send(socket, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

  std::future<absl::Status> Ask(Duration dial_silence_max, Duration silence_max = 500s) {
    HttpRequest request;
    request.url = absl::StrCat("http://127.0.0.1:", ntohs(at_.sin_port), "/x");
    request.loopback = LoopbackRule::kAllow;
    request.timeout = 600s;
    request.silence_max = silence_max;
    request.dial_silence_max = dial_silence_max;
    promises_.emplace_back();
    client_.Send(std::move(request), std::make_unique<Sink>(promises_.back()));
    return promises_.back().get_future();
  }
  static bool IsOpen(const std::future<absl::Status>& answer) {
    return answer.wait_for(400ms) == std::future_status::timeout;
  }

  const int listener_;
  sockaddr_in at_{};
  std::vector<int> sockets_;
  std::list<std::promise<absl::Status>> promises_;
  HttpClient client_{{.ca_file = {}, .connect_timeout = 600s}};
};

TEST_F(DialTest, WhoTakesNoConnectionIsSilentSoonAndForAll) {
  FillQueue();
  std::future<absl::Status> first = Ask(300ms), second = Ask(400s), unbounded = Ask(0s, 0s);
  const absl::Status status = first.get();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("no connection for 300 ms"));
  EXPECT_TRUE(absl::IsUnavailable(second.get())) << "long before its own time";
  EXPECT_TRUE(IsOpen(unbounded));
}

TEST_F(DialTest, WhoseKernelTakesItMayBeBusy) {
  std::future<absl::Status> asked = Ask(100ms);
  EXPECT_TRUE(IsOpen(asked)) << "nobody has accepted it yet";
}

// The first packet is lost, and the kernel sends it again after a second only.
TEST_F(DialTest, ASecondDialIsTaken) {
  absl::Status status;
  for (int attempt = 0; attempt < 5; ++attempt) {
    FillQueue();
    std::future<absl::Status> asked = Ask(960ms);
    std::this_thread::sleep_for(50ms);
    // Whoever has been dialled meanwhile is accepted, and the client after that.
    std::thread answering([this] {
      for (int socket; (socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
        sockets_.push_back(socket);
        Say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
      }
    });
    status = asked.get();
    shutdown(listener_, SHUT_RD);
    answering.join();
    listen(listener_, 0);
    if (status.ok()) return;
  }
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(DialTest, OneThatSaysSomethingToAnotherMeanwhileIsNotSilent) {
  std::future<absl::Status> first = Ask(0s);
  const int socket = Accept();
  FillQueue();
  std::future<absl::Status> second = Ask(1200ms);
  for (int i = 0; i < 65; ++i) {
    Say(socket, "HTTP/1.1 102 Processing\r\n\r\n");
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_TRUE(IsOpen(second));
  EXPECT_TRUE(IsOpen(first));
}

}  // namespace
}  // namespace sluice::p2p
