#include "p2p/http/http_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/http/http_server.h"
#include "p2p/http/receive_bounds.h"
#include "tests/unit/p2p/status_sink.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

// A server that answers when it is told to.
class HttpClientTest : public ::testing::Test {
 protected:
  HttpClientTest() {
    api::HttpRoutes routes;
    routes["/x"] = [this](const api::HttpRequest&, api::HttpResponder responder) {
      const std::lock_guard lock(mutex_);
      asked_.push_back(std::move(responder));
      changed_.notify_all();
    };
    server_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
    EXPECT_TRUE(server_->Start("0.0.0.0:0").ok());
  }
  ~HttpClientTest() override { client_->Stop(); }

  void Use(HttpClientOptions options) { client_ = std::make_unique<HttpClient>(std::move(options)); }
  // The server has many addresses, from 127.0.0.1 on.
  std::future<absl::Status> Send(FetchClass fetch_class, size_t address = 1, Duration timeout = 60s) {
    HttpRequest request;
    request.timeout = timeout;
    request.url = absl::StrCat("http://127.0.0.", address, ":", server_->port(), "/x");
    request.loopback = LoopbackRule::kAllow;
    request.fetch_class = fetch_class;
    done_.push_back(std::make_unique<std::promise<absl::Status>>());
    client_->Send(std::move(request), std::make_unique<StatusSink>(*done_.back()));
    return done_.back()->get_future();
  }
  // Whether so many requests have come in time.
  bool Await(size_t count, Duration time = 60s) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, time, [&] { return asked_.size() >= count; });
  }
  void AnswerAll() {
    const std::lock_guard lock(mutex_);
    for (api::HttpResponder& responder : std::exchange(asked_, {})) std::move(responder).Answer({});
  }
  // The receive buffers of this process's connections to the server, as the kernel counts them.
  std::vector<int> Buffers() const {
    std::vector<int> buffers;
    for (int fd = 0; fd < 1024; ++fd) {
      sockaddr_in peer{};
      socklen_t length = sizeof peer;
      if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) != 0) continue;
      if (peer.sin_family != AF_INET || ntohs(peer.sin_port) != server_->port()) continue;
      int bytes = 0;
      length = sizeof bytes;
      EXPECT_EQ(::getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, &length), 0);
      buffers.push_back(bytes);
    }
    return buffers;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<api::HttpResponder> asked_;  // guarded by mutex_
  std::unique_ptr<api::HttpServer> server_;
  std::unique_ptr<HttpClient> client_ = std::make_unique<HttpClient>(HttpClientOptions{});
  std::vector<std::unique_ptr<std::promise<absl::Status>>> done_;
};

TEST_F(HttpClientTest, FillsHaveConnectionsOfTheirOwnWithBoundedBuffers) {
  const auto ask = [&](FetchClass fetch_class) {
    auto done = Send(fetch_class);
    ASSERT_TRUE(Await(1));
    AnswerAll();
    EXPECT_TRUE(done.get().ok());
  };
  // The kernel takes as much again for what it needs itself: socket(7).
  constexpr int kLeast = 2 * ReceiveBounds::kBytesMin;
  int bounded = 0;
  // A client that meets a busy moment measures a longer round trip, and allows for more: another is taken.
  for (int client = 0; client < 50 && bounded != kLeast; ++client) {
    Use({});
    ask(FetchClass::kDemand);
    ASSERT_EQ(Buffers().size(), 1u);
    const int usual = Buffers()[0];
    ask(FetchClass::kBackfill);
    ASSERT_EQ(Buffers().size(), 2u);
    bounded = std::min(Buffers()[0], Buffers()[1]);
    EXPECT_EQ(std::max(Buffers()[0], Buffers()[1]), usual);
  }
  EXPECT_EQ(bounded, kLeast);
  for (const FetchClass fetch_class : {FetchClass::kHint, FetchClass::kReadahead, FetchClass::kBackfill}) {
    ask(fetch_class);
    EXPECT_EQ(Buffers().size(), 2u) << "each kind is used again";
  }
}

// libcurl 7.88 forgets a transfer's time that is less than a millisecond after another of its times.
TEST_F(HttpClientTest, EachEndsAtItsDeadlineWhateverElseIsDueThen) {
  Use({.ca_file = {}, .connect_timeout = 300ms});
  for (int round = 0; round < 3; ++round) {
    std::vector<std::future<absl::Status>> done;
    for (size_t i = 0; i < 60; ++i)
      done.push_back(Send(FetchClass::kDemand, i + 1, 297ms + i * std::chrono::microseconds(100)));
    for (auto& one : done) {
      ASSERT_EQ(one.wait_for(20s), std::future_status::ready) << "its time has been forgotten";
      const absl::Status status = one.get();
      EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    }
  }
}

// As many nodes, of which one is asked at a time or all at once.
class KeptConnectionsTest : public HttpClientTest {
 protected:
  static constexpr uint32_t kIdleMax = 8;
  static constexpr size_t kAddresses = 30;
  KeptConnectionsTest() { Use({.ca_file = {}, .connections_idle_max = kIdleMax}); }

  void AskOne(FetchClass fetch_class, size_t address) {
    auto done = Send(fetch_class, address);
    ASSERT_TRUE(Await(1));
    AnswerAll();
    EXPECT_TRUE(done.get().ok());
  }
  void AskAllAtOnce(FetchClass fetch_class) {
    std::vector<std::future<absl::Status>> done;
    for (size_t i = 1; i <= kAddresses; ++i) done.push_back(Send(fetch_class, i));
    ASSERT_TRUE(Await(kAddresses));
    AnswerAll();
    for (auto& one : done) EXPECT_TRUE(one.get().ok());
  }
};

TEST_F(KeptConnectionsTest, WhoAsksOneAfterTheOtherKeepsAConnectionToEach) {
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 1; i <= kIdleMax; ++i) AskOne(FetchClass::kDemand, i);
    EXPECT_EQ(Buffers().size(), kIdleMax) << round;
  }
}

TEST_F(KeptConnectionsTest, AfterACrowdFewAreKept) {
  AskAllAtOnce(FetchClass::kDemand);
  for (size_t i = 1; i <= kAddresses; ++i) AskOne(FetchClass::kDemand, i);
  EXPECT_LE(Buffers().size(), kIdleMax + 1);
  AskAllAtOnce(FetchClass::kBackfill);
  for (size_t i = 1; i <= kAddresses; ++i) AskOne(FetchClass::kBackfill, i);
  EXPECT_LE(Buffers().size(), 2 * (kIdleMax + 1)) << "fills have theirs";
}

TEST_F(HttpClientTest, FillsLeaveAQuarterOfTheRequestsToOthers) {
  HttpClientOptions options;
  options.requests_per_host_max = 8;
  Use(std::move(options));
  std::vector<std::future<absl::Status>> done;
  for (int i = 0; i < 6; ++i) done.push_back(Send(FetchClass::kBackfill));
  ASSERT_TRUE(Await(3));
  EXPECT_FALSE(Await(4, 50ms));
  done.push_back(Send(FetchClass::kDemand));
  ASSERT_TRUE(Await(4));
  // Of what one path may have, four, nothing is left.
  done.push_back(Send(FetchClass::kDemand));
  EXPECT_FALSE(Await(5, 50ms));
  for (int answered = 0; answered < 8;) {
    ASSERT_TRUE(Await(1));
    const std::lock_guard lock(mutex_);
    for (api::HttpResponder& responder : std::exchange(asked_, {})) {
      std::move(responder).Answer({});
      ++answered;
    }
  }
  for (auto& each : done) EXPECT_TRUE(each.get().ok());
}

// ------------------------------------------------------------------------------- what is not taken at once

// Takes as much as the test allows, by whole parts.
struct Intake {
  std::mutex mutex;
  std::condition_variable changed;
  size_t allowed = 0;
  std::string came;
  int refusals = 0;
  std::optional<absl::Status> done;
};

class PacedSink final : public HttpSink {
 public:
  explicit PacedSink(Intake& intake) : intake_(intake) {}
  absl::Status OnHead(const HttpHead&) override { return absl::OkStatus(); }
  bool Takes() override {
    const std::lock_guard lock(intake_.mutex);
    if (intake_.came.size() < intake_.allowed) return true;
    ++intake_.refusals;
    intake_.changed.notify_all();
    return false;
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    const std::lock_guard lock(intake_.mutex);
    intake_.came.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    const std::lock_guard lock(intake_.mutex);
    intake_.done = std::move(status);
    intake_.changed.notify_all();
  }

 private:
  Intake& intake_;
};

class PacedTest : public HttpClientTest {
 protected:
  static constexpr size_t kBodyBytes = 64 << 20;  // more than sockets hold

  PacedTest() {
    for (size_t i = 0; i < kBodyBytes / 8; ++i) {
      const uint64_t word = i * 0x9e3779b97f4a7c15u;
      body_.append(reinterpret_cast<const char*>(&word), sizeof word);
    }
  }
  ~PacedTest() override { client_->Stop(); }

  HttpClient::RequestId SendPaced() {
    HttpRequest request;
    request.url = absl::StrCat("http://127.0.0.1:", server_->port(), "/x");
    request.loopback = LoopbackRule::kAllow;
    request.own_connection = true;
    request.body_bytes_max = kBodyBytes;
    const HttpClient::RequestId id = client_->Send(std::move(request), std::make_unique<PacedSink>(intake_));
    EXPECT_TRUE(Await(1));
    const std::lock_guard lock(mutex_);
    for (api::HttpResponder& responder : std::exchange(asked_, {})) {
      api::HttpResponse response;
      response.body = body_;
      std::move(responder).Answer(std::move(response));
    }
    return id;
  }
  // Once more, and until it is refused again, or all is over.
  void Allow(HttpClient::RequestId id, size_t bytes) {
    std::unique_lock lock(intake_.mutex);
    intake_.allowed = bytes;
    const int refusals = intake_.refusals;
    lock.unlock();
    client_->GoOn(id);
    lock.lock();
    EXPECT_TRUE(
        intake_.changed.wait_for(lock, 60s, [&] { return intake_.refusals > refusals || intake_.done; }));
  }

  std::string body_;
  Intake intake_;
};

TEST_F(PacedTest, WhatIsNotTakenStaysOnTheWayAndHoldsUpNobody) {
  const HttpClient::RequestId id = SendPaced();
  for (size_t allowed = 1; allowed < kBodyBytes; allowed += 20 << 20) {
    Allow(id, allowed);
    const std::lock_guard lock(intake_.mutex);
    EXPECT_FALSE(intake_.done);
    EXPECT_GE(intake_.came.size(), allowed);
    EXPECT_LT(intake_.came.size(), allowed + (1 << 20)) << "it takes no more than a part beyond";
  }
  auto other = Send(FetchClass::kDemand);
  ASSERT_TRUE(Await(1));
  AnswerAll();
  EXPECT_TRUE(other.get().ok());
  Allow(id, SIZE_MAX);
  ASSERT_TRUE(intake_.done);
  EXPECT_TRUE(intake_.done->ok()) << *intake_.done;
  EXPECT_TRUE(intake_.came == body_) << "as it was sent, once";
  client_->GoOn(id);  // it is over
}

TEST_F(PacedTest, OneThatIsHeldCanBeCancelled) {
  const HttpClient::RequestId id = SendPaced();
  Allow(id, 1);
  client_->Cancel(id);
  client_->GoOn(id);
  std::unique_lock lock(intake_.mutex);
  EXPECT_TRUE(intake_.changed.wait_for(lock, 60s, [&] { return intake_.done.has_value(); }));
  EXPECT_TRUE(absl::IsCancelled(*intake_.done));
}

TEST(ReceiveBoundsTest, WhatIsOnItsWayFollowsTheShortestHandshake) {
  ReceiveBounds bounds;
  const Instant start{std::chrono::hours(1)};
  EXPECT_EQ(bounds.Of("a"), ReceiveBounds::kBytesMax);
  bounds.Note("a", 100us, start);
  EXPECT_EQ(bounds.Of("a"), ReceiveBounds::kBytesMin);
  bounds.Note("b", 1ms, start);
  EXPECT_EQ(bounds.Of("b"), 125000);
  bounds.Note("b", 20ms, start + 1min);
  EXPECT_EQ(bounds.Of("b"), 125000) << "others were in its way";
  bounds.Note("b", 800us, start + 2min);
  EXPECT_EQ(bounds.Of("b"), 100000);
  bounds.Note("b", 36ms, start + 2min + ReceiveBounds::kKept);
  EXPECT_EQ(bounds.Of("b"), std::nullopt);
  bounds.Note("c", 5ms, start);
  EXPECT_EQ(bounds.Of("c"), ReceiveBounds::kBytesMax);
}

TEST(ReceiveBoundsTest, HostsAreBounded) {
  ReceiveBounds bounds;
  size_t known = 0;
  for (size_t i = 0; i <= ReceiveBounds::kHostsMax; ++i) bounds.Note(absl::StrCat(i), 36ms, Instant());
  for (size_t i = 0; i <= ReceiveBounds::kHostsMax; ++i) known += bounds.Of(absl::StrCat(i)) == std::nullopt;
  EXPECT_EQ(known, ReceiveBounds::kHostsMax);
}

}  // namespace
}  // namespace sluice::p2p
