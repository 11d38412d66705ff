#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/http/http_client.h"
#include "tests/fault/deaf_listener.h"
#include "tests/unit/p2p/status_sink.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

class DialTest : public ::testing::Test {
 protected:
  ~DialTest() override { client_.Stop(); }

  static void Say(int socket, const std::string& text) {
    EXPECT_EQ(send(socket, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

  std::future<absl::Status> Ask(Duration dial_silence_max, Duration silence_max = 500s) {
    HttpRequest request;
    request.url = absl::StrCat("http://127.0.0.1:", listener_.port(), "/x");
    request.loopback = LoopbackRule::kAllow;
    request.timeout = 600s;
    request.silence_max = silence_max;
    request.dial_silence_max = dial_silence_max;
    promises_.emplace_back();
    client_.Send(std::move(request), std::make_unique<StatusSink>(promises_.back()));
    return promises_.back().get_future();
  }
  static bool IsOpen(const std::future<absl::Status>& answer) {
    return answer.wait_for(400ms) == std::future_status::timeout;
  }

  fault::DeafListener listener_;
  std::list<std::promise<absl::Status>> promises_;
  HttpClient client_{{.ca_file = {}, .connect_timeout = 600s}};
};

TEST_F(DialTest, WhoTakesNoConnectionIsSilentSoonAndForAll) {
  listener_.FillQueue();
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
    listener_.FillQueue();
    std::future<absl::Status> asked = Ask(960ms);
    std::this_thread::sleep_for(50ms);
    // Whoever has been dialled meanwhile is accepted, and the client after that.
    std::thread answering([this] {
      for (int socket; (socket = listener_.Accept()) >= 0;)
        Say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    status = asked.get();
    listener_.EndAccepting();
    answering.join();
    listener_.Listen();
    if (status.ok()) return;
  }
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(DialTest, OneThatSaysSomethingToAnotherMeanwhileIsNotSilent) {
  std::future<absl::Status> first = Ask(0s);
  const int socket = listener_.Accept();
  listener_.FillQueue();
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
