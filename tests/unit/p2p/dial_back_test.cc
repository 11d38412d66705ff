// Nodes on loopback, with the routes that members ask each other by.

#include "p2p/cluster/dial_back.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/http/dial_route.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/member_codec.h"
#include "p2p/cluster/member_exchange.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using Outcome = DialBack::Outcome;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class HandClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now() + ahead; }
  Duration ahead{};
};

size_t First(size_t) {
  return 0;
}

class Node final : public api::DialAnswers {
 public:
  // Answers at loopback; says that it is at `advertised`, or where it answers.
  explicit Node(const std::string& name, std::vector<HostPort> advertised = {}) : name_(name) {
    api::HttpRoutes routes;
    routes["/sluice/v1/members"] = [this](const api::HttpRequest& request, api::HttpResponder responder) {
      api::HttpResponse response;
      response.headers.emplace_back("Sluice-Node", name_);
      response.body = *exchange_->Answer("", "", request.Header("Sluice-Member"));
      std::move(responder).Answer(std::move(response));
    };
    api::AddDialRoute(routes, *this, name);
    server_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
    EXPECT_TRUE(server_->Start("127.0.0.1:0").ok());
    Members::Options options;
    options.self = {"127.0.0.1", server_->port()};
    options.row = {name, std::move(advertised), "", kProtocolMajor, 7};
    if (options.row.addresses.empty()) options.row.addresses = {address()};
    members_ = std::make_unique<Members>(std::move(options));
    client_ = std::make_unique<PeerClient>(telemetry_, PeerClientOptions{.node_id = name});
    exchange_ = std::make_unique<MemberExchange>(
        MemberExchange::Parts{clock, *members_, *client_, [](const std::string&) {}}, 10s, First);
    dial_back_ = std::make_unique<DialBack>(DialBack::Parts{clock, *members_, *client_});
  }
  ~Node() override {
    client_->Stop();
    server_->Stop();
  }

  void Dial(std::string_view asker, const ProvenNames& proven, Done done) override {
    dial_back_->Answer(asker, proven, std::move(done));
  }

  HostPort address() const { return {"127.0.0.1", server_->port()}; }
  void Knows(const std::string& name, const HostPort& at) {
    members_->Change([&](MemberTable& table, Instant now) {
      table.HeardFrom({name, {at}, "", kProtocolMajor, 7}, at, now);
    });
  }
  std::vector<Outcome> Check() {
    std::vector<Outcome> outcomes;
    for (const DialBack::Finding& finding : dial_back_->Check(First, clock.Now() + 10s)) {
      outcomes.push_back(finding.outcome);
      last_why = finding.why;
    }
    return outcomes;
  }
  absl::StatusOr<std::string> AnswerTo(const std::string& row) {
    std::promise<absl::StatusOr<std::string>> promise;
    dial_back_->Answer(row, {}, [&](absl::StatusOr<std::string> got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  }

  HandClock clock;
  std::string last_why;

 private:
  const std::string name_;
  Telemetry telemetry_;
  std::unique_ptr<Members> members_;
  std::unique_ptr<PeerClient> client_;
  std::unique_ptr<MemberExchange> exchange_;
  std::unique_ptr<DialBack> dial_back_;
  std::unique_ptr<api::HttpServer> server_;
};

std::string Row(const std::string& name, std::vector<HostPort> addresses) {
  return EncodeRow({name, std::move(addresses), "", kProtocolMajor, 7});
}

// A port at which nobody listens.
HostPort Nobody() {
  return {"127.0.0.1", 1};
}

TEST(DialBackTest, TwoMembersReachANodeWhereItSaysThatItIs) {
  Node node("node"), a("a"), b("b"), c("c");
  EXPECT_THAT(node.Check(), IsEmpty()) << "nobody is known";
  node.Knows("a", a.address());
  node.Knows("b", b.address());
  node.Knows("c", c.address());
  EXPECT_THAT(node.Check(), ElementsAre(Outcome::kReached, Outcome::kReached));
}

TEST(DialBackTest, AnAddressAtWhichNobodyOrAnotherAnswersIsNotReached) {
  Node a("a"), other("other");
  Node node("node", {Nobody()}), mistaken("mistaken", {other.address()});
  node.Knows("a", a.address());
  mistaken.Knows("a", a.address());
  EXPECT_THAT(node.Check(), ElementsAre(Outcome::kNotReached));
  EXPECT_THAT(mistaken.Check(), ElementsAre(Outcome::kNotReached));
}

TEST(DialBackTest, WhoIsNotThereOrDoesNotKnowTheQuestionIsNoVerdict) {
  api::HttpServer old({}, api::HttpLimits{});
  ASSERT_TRUE(old.Start("127.0.0.1:0").ok());
  Node node("node"), a("a");
  node.Knows("dead", Nobody());
  node.Knows("old", {"127.0.0.1", old.port()});
  EXPECT_THAT(node.Check(), ElementsAre(Outcome::kNotTried, Outcome::kNotTried));
  node.Knows("a", a.address());
  EXPECT_THAT(node.Check(), UnorderedElementsAre(Outcome::kReached, Outcome::kNotTried, Outcome::kNotTried));
}

TEST(DialBackTest, NobodyCanMakeANodeDialManyAddresses) {
  Node a("a");
  for (int i = 0; i < DialBack::kBurst; ++i) EXPECT_TRUE(a.AnswerTo(Row("x", {Nobody()})).ok());
  EXPECT_EQ(a.AnswerTo(Row("x", {Nobody()})).status().code(), absl::StatusCode::kResourceExhausted);
  a.clock.ahead += DialBack::kBetweenDials;
  EXPECT_TRUE(a.AnswerTo(Row("x", {Nobody()})).ok());
  EXPECT_EQ(a.AnswerTo(Row("x", {Nobody()})).status().code(), absl::StatusCode::kResourceExhausted);
  Node node("node");
  node.Knows("a", a.address());
  EXPECT_THAT(node.Check(), ElementsAre(Outcome::kNotTried));
  EXPECT_THAT(node.last_why, HasSubstr("429"));
}

TEST(DialBackTest, OnlyARowWithOneAddressIsDialled) {
  Node a("a");
  for (const std::string& row :
       {std::string(), std::string("{}"), Row("x", {}), Row("x", {Nobody(), {"127.0.0.1", 2}}),
        std::string(R"({"name":"x","addresses":["name:1"],"protocol":1,"start":1})")}) {
    EXPECT_EQ(a.AnswerTo(row).status().code(), absl::StatusCode::kInvalidArgument) << row;
  }
}

// Or whoever can connect could make a node speak to what listens on its own machine alone.
TEST(DialBackTest, LoopbackIsDialledOnlyByWhoIsThereItself) {
  Node elsewhere("elsewhere", {{"10.0.0.1", 7301}});
  EXPECT_EQ(elsewhere.AnswerTo(Row("x", {Nobody()})).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(elsewhere.AnswerTo(Row("x", {{"::1", 1}})).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice::p2p
