// Interim answers over the wire: our server and our client against each other, and the client against servers
// that do with them what they like.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/http/http_server.h"
#include "p2p/http/http_client.h"
#include "tests/fault/fault_origin.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::SizeIs;

constexpr char kInterim[] = "HTTP/1.1 102 Processing\r\n\r\n";
constexpr char kInterimWithHeaders[] = "HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nX-Early: 1\r\n\r\n";

// What a sink was told.
struct Outcome {
  std::vector<int> interims;
  std::vector<p2p::HttpHead> heads;
  std::string body;
  absl::Status status;
};

class Sink final : public p2p::HttpSink {
 public:
  Sink(std::promise<Outcome>& done, std::function<void(int)> on_interim)
      : done_(done), on_interim_(std::move(on_interim)) {}
  void OnInterim(const p2p::HttpHead& head) override {
    EXPECT_THAT(outcome_.heads, SizeIs(0)) << "after the head";
    outcome_.interims.push_back(head.status);
    if (on_interim_) on_interim_(static_cast<int>(outcome_.interims.size()));
  }
  absl::Status OnHead(const p2p::HttpHead& head) override {
    outcome_.heads.push_back(head);
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    outcome_.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    outcome_.status = std::move(status);
    done_.set_value(std::move(outcome_));
  }

 private:
  std::promise<Outcome>& done_;
  const std::function<void(int)> on_interim_;
  Outcome outcome_;
};

class HttpInterimTest : public ::testing::Test {
 protected:
  // `on_interim` is told how many there were, each time.
  Outcome Get(const std::string& url, Duration silence_max, std::function<void(int)> on_interim = nullptr,
              Duration timeout = 60s) {
    p2p::HttpRequest request;
    request.url = url;
    request.loopback = p2p::LoopbackRule::kAllow;
    request.silence_max = silence_max;
    request.timeout = timeout;
    std::promise<Outcome> done;
    client_.Send(std::move(request), std::make_unique<Sink>(done, std::move(on_interim)));
    return done.get_future().get();
  }

  p2p::HttpClient client_{{}};
  p2p::FaultOrigin origin_;
};

TEST_F(HttpInterimTest, TheClientIsToldOfWhatTheServerSends) {
  std::mutex mutex;
  std::optional<api::HttpResponder> kept;
  api::HttpRoutes routes;
  routes["/wait"] = [&](const api::HttpRequest&, api::HttpResponder responder) {
    const std::lock_guard lock(mutex);
    responder.Interim(102);
    kept.emplace(std::move(responder));
  };
  api::HttpServer server(std::move(routes), {});
  ASSERT_TRUE(server.Start("127.0.0.1:0").ok());
  const Outcome outcome = Get(absl::StrCat("http://127.0.0.1:", server.port(), "/wait"), 0s, [&](int count) {
    const std::lock_guard lock(mutex);
    if (count < 4) return kept->Interim(102);
    api::HttpResponse response;
    response.body = "at last";
    std::move(*kept).Answer(std::move(response));
  });
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.interims, testing::ElementsAre(102, 102, 102, 102));
  ASSERT_THAT(outcome.heads, SizeIs(1));
  EXPECT_EQ(outcome.heads[0].status, 200);
  EXPECT_EQ(outcome.body, "at last");
}

TEST_F(HttpInterimTest, ACancelledRequestIsSeenByTheServer) {
  std::promise<void> gone;
  std::optional<api::HttpResponder> kept;
  api::HttpRoutes routes;
  routes["/wait"] = [&](const api::HttpRequest&, api::HttpResponder responder) {
    responder.OnGone([&gone] { gone.set_value(); });
    responder.Interim(102);
    kept.emplace(std::move(responder));
  };
  api::HttpServer server(std::move(routes), {});
  ASSERT_TRUE(server.Start("127.0.0.1:0").ok());
  p2p::HttpRequest request;
  request.url = absl::StrCat("http://127.0.0.1:", server.port(), "/wait");
  request.loopback = p2p::LoopbackRule::kAllow;
  std::promise<Outcome> done;
  std::promise<void> interim;
  const auto id =
      client_.Send(std::move(request), std::make_unique<Sink>(done, [&](int) { interim.set_value(); }));
  interim.get_future().wait();
  client_.Cancel(id);
  EXPECT_TRUE(absl::IsCancelled(done.get_future().get().status));
  EXPECT_EQ(gone.get_future().wait_for(60s), std::future_status::ready);
  server.Stop();
}

TEST_F(HttpInterimTest, HeadersOfAnInterimAnswerAreNoneOfTheAnswers) {
  origin_.Always("/x", [](const p2p::FaultRequest&, p2p::FaultConnection& connection) {
    connection.SendRaw(kInterimWithHeaders);
    connection.Send(200, {{"X-Late", "1"}}, "body");
  });
  const Outcome outcome = Get(origin_.Url("/x"), 0s);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.interims, testing::ElementsAre(103));
  ASSERT_THAT(outcome.heads, SizeIs(1));
  EXPECT_FALSE(outcome.heads[0].headers.Get("X-Early"));
  EXPECT_TRUE(outcome.heads[0].headers.Get("X-Late"));
  EXPECT_EQ(outcome.body, "body");
}

TEST_F(HttpInterimTest, AServerThatSendsNothingButInterimAnswersIsNotSilent) {
  origin_.Always("/x", [](const p2p::FaultRequest&, p2p::FaultConnection& connection) {
    for (int i = 0; i < 30; ++i) {
      connection.SendRaw(kInterim);
      std::this_thread::sleep_for(20ms);
    }
    connection.Send(200, {}, "at last");
  });
  const Outcome outcome = Get(origin_.Url("/x"), 400ms);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.interims, AllOf(SizeIs(30), Each(102)));
  EXPECT_EQ(outcome.body, "at last");
}

TEST_F(HttpInterimTest, OneThatStopsSendingThemIsSilent) {
  origin_.Always("/x", [](const p2p::FaultRequest&, p2p::FaultConnection& connection) {
    for (int i = 0; i < 3; ++i) connection.SendRaw(kInterim);
    connection.Stall();
  });
  const Outcome outcome = Get(origin_.Url("/x"), 200ms);
  EXPECT_TRUE(absl::IsUnavailable(outcome.status)) << outcome.status;
  EXPECT_THAT(outcome.interims, SizeIs(3));
  EXPECT_THAT(outcome.heads, SizeIs(0));
}

TEST_F(HttpInterimTest, OneThatSendsThemForEverEndsWithTheRequestsTime) {
  origin_.Always("/x", [](const p2p::FaultRequest&, p2p::FaultConnection& connection) {
    for (int i = 0; i < 30; ++i) {
      connection.SendRaw(kInterim);
      std::this_thread::sleep_for(20ms);
    }
    connection.Stall();
  });
  const Outcome outcome = Get(origin_.Url("/x"), 10s, nullptr, 300ms);
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.status)) << outcome.status;
  EXPECT_THAT(outcome.heads, SizeIs(0));
}

TEST_F(HttpInterimTest, OneThatIsToSaySomethingSoonIsSilentSooner) {
  const auto ask = [&](const std::string& path) {
    p2p::HttpRequest request;
    request.url = origin_.Url(path);
    request.loopback = p2p::LoopbackRule::kAllow;
    request.silence_max = 60s;
    request.first_silence_max = 100ms;
    std::promise<Outcome> done;
    client_.Send(std::move(request), std::make_unique<Sink>(done, nullptr));
    return done.get_future().get();
  };
  origin_.Always("/stalls", [](const p2p::FaultRequest&, p2p::FaultConnection& to) { to.Stall(); });
  const Outcome silent = ask("/stalls");
  EXPECT_TRUE(absl::IsUnavailable(silent.status)) << silent.status;
  EXPECT_THAT(std::string(silent.status.message()), testing::HasSubstr("100 ms"));
  origin_.Always("/waits", [](const p2p::FaultRequest&, p2p::FaultConnection& to) {
    to.SendRaw(kInterim);
    std::this_thread::sleep_for(300ms);
    to.Send(200, {}, "at last");
  });
  EXPECT_EQ(ask("/waits").body, "at last") << "it has said something";
}

// Several requests to one host, of which the first is given up soon.
class SilentHostTest : public HttpInterimTest {
 protected:
  SilentHostTest() {
    origin_.Always("/stalls", [](const p2p::FaultRequest&, p2p::FaultConnection& to) { to.Stall(); });
    origin_.Always("/answers",
                   [](const p2p::FaultRequest&, p2p::FaultConnection& to) { to.Send(200, {}, "at once"); });
  }
  void TearDown() override { client_.Stop(); }
  std::future<Outcome> Ask(const std::string& path, Duration silence_max, Duration first = Duration(0)) {
    p2p::HttpRequest request;
    request.url = origin_.Url(path);
    request.loopback = p2p::LoopbackRule::kAllow;
    request.silence_max = silence_max;
    request.first_silence_max = first;
    request.timeout = 600s;
    promises_.emplace_back();
    client_.Send(std::move(request), std::make_unique<Sink>(promises_.back(), nullptr));
    return promises_.back().get_future();
  }
  static bool IsOpen(const std::future<Outcome>& answer) {
    return answer.wait_for(200ms) == std::future_status::timeout;
  }

  std::list<std::promise<Outcome>> promises_;
};

TEST_F(SilentHostTest, AHostOfWhichNothingComesIsSilentForAll) {
  std::future<Outcome> first = Ask("/stalls", 300ms), second = Ask("/stalls", 500s);
  std::future<Outcome> unbounded = Ask("/stalls", 0s);
  EXPECT_TRUE(absl::IsUnavailable(first.get().status));
  EXPECT_TRUE(absl::IsUnavailable(second.get().status)) << "long before its own time";
  EXPECT_TRUE(IsOpen(unbounded));
}

TEST_F(SilentHostTest, OneThatAnswersAnotherMeanwhileIsNot) {
  std::future<Outcome> first = Ask("/stalls", 300ms), second = Ask("/stalls", 500s);
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(Ask("/answers", 500s).get().body, "at once");
  EXPECT_TRUE(absl::IsUnavailable(first.get().status));
  EXPECT_TRUE(IsOpen(second));
}

TEST_F(SilentHostTest, OneThatSendsToAnotherMeanwhileIsNot) {
  origin_.Always("/sends", [](const p2p::FaultRequest&, p2p::FaultConnection& to) {
    std::this_thread::sleep_for(100ms);
    to.SendRaw(kInterim);
    to.Stall();
  });
  std::future<Outcome> first = Ask("/stalls", 300ms), second = Ask("/sends", 500s);
  EXPECT_TRUE(absl::IsUnavailable(first.get().status));
  EXPECT_TRUE(IsOpen(second));
}

TEST_F(SilentHostTest, WhoWasToSaySomethingSoonIsNoSignOfThat) {
  std::future<Outcome> first = Ask("/stalls", 500s, /*first=*/100ms), second = Ask("/stalls", 500s);
  EXPECT_TRUE(absl::IsUnavailable(first.get().status));
  EXPECT_TRUE(IsOpen(second));
}

TEST_F(SilentHostTest, WhatBeganAfterwardsIsNoSignOfLife) {
  std::future<Outcome> first = Ask("/stalls", 300ms);
  std::this_thread::sleep_for(150ms);
  std::future<Outcome> second = Ask("/stalls", 500s);
  EXPECT_TRUE(absl::IsUnavailable(first.get().status));
  EXPECT_TRUE(absl::IsUnavailable(second.get().status));
}

TEST_F(HttpInterimTest, AFloodOfThemIsCutOff) {
  origin_.Always("/x", [](const p2p::FaultRequest&, p2p::FaultConnection& connection) {
    std::string flood;
    for (int i = 0; i < 5000; ++i) flood += kInterim;
    connection.SendRaw(flood);
    connection.Send(200, {}, "at last");
  });
  const Outcome outcome = Get(origin_.Url("/x"), 0s);
  EXPECT_TRUE(absl::IsResourceExhausted(outcome.status)) << outcome.status;
  EXPECT_LT(outcome.interims.size(), 5000u);
}

TEST_F(HttpInterimTest, OneThatDiesAfterAnInterimAnswerIsUnavailable) {
  origin_.Always("/x", [](const p2p::FaultRequest&, p2p::FaultConnection& connection) {
    connection.SendRaw(kInterim);
    connection.CloseAfter();
  });
  const Outcome outcome = Get(origin_.Url("/x"), 0s);
  EXPECT_TRUE(absl::IsUnavailable(outcome.status)) << outcome.status;
  EXPECT_THAT(outcome.interims, SizeIs(1));
}

}  // namespace
}  // namespace sluice
