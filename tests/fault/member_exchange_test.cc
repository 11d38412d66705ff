// What a node learns of members that are down, lie, or are this very node, over real sockets.

#include "p2p/cluster/member_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/asio_executor.h"
#include "p2p/cluster/assignment.h"
#include "tests/fault/fault_origin.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kNodeId[] = "0123456789abcdef";
const std::string kPath(kMembersPath);

class MemberExchangeTest : public ::testing::Test {
 protected:
  ~MemberExchangeTest() override {
    exchange_.reset();
    if (members_) members_->Stop();
  }

  MemberRow RowOf(const std::string& name, const FaultOrigin& member, uint64_t start = 1) {
    return {name, {{"127.0.0.1", member.port()}}, "", kProtocolMajor, start};
  }
  static FaultBehaviour Says(std::string body, std::string node = "other") {
    return fault::Status(200, {{"Sluice-Node", std::move(node)}}, std::move(body));
  }
  static FaultBehaviour Tells(MemberRow self, std::vector<MemberTable::Told> rows = {}) {
    return Says(EncodeMembers({std::move(self), std::move(rows), {}}));
  }

  void Start(const std::vector<uint16_t>& ports) {
    Members::Options options;
    for (const uint16_t port : ports) options.configured.push_back({"127.0.0.1", port});
    options.self = {"127.0.0.1", 1};
    options.row = {"self", {{"127.0.0.1", 1}}, "", kProtocolMajor, 5};
    members_ = std::make_unique<Members>(std::move(options));
    members_->Start();
    PeerClientOptions client;
    client.node_id = kNodeId;
    client_ = std::make_unique<PeerClient>(telemetry_, client);
    exchange_ = std::make_unique<MemberExchange>(MemberExchange::Parts{clock_, *members_, *client_,
                                                                       [this](const std::string& text) {
                                                                         const std::lock_guard lock(mutex_);
                                                                         warnings_.push_back(text);
                                                                       }},
                                                 20ms, [this](size_t bound) { return random_() % bound; });
    exchange_->Start();
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    members_->Look([&](const MemberTable& table, Instant) {
      for (const auto& [name, entry] : table.others()) names.push_back(name);
    });
    return names;
  }
  template <typename Condition>
  void Await(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + 60s;
    while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
    EXPECT_TRUE(condition());
  }
  // Until so many more questions have come.
  void AwaitQuestions(const FaultOrigin& member, size_t count = 3) {
    const size_t before = member.request_count(kPath);
    Await([&] { return member.request_count(kPath) >= before + count; });
  }

  SteadyClock clock_;
  Telemetry telemetry_;
  FaultOrigin a_, b_;
  std::mutex mutex_;
  std::vector<std::string> warnings_;  // guarded by mutex_
  std::mt19937 random_{1};             // of the exchange's thread
  std::unique_ptr<Members> members_;
  std::unique_ptr<PeerClient> client_;
  std::unique_ptr<MemberExchange> exchange_;
};

TEST_F(MemberExchangeTest, AnAddressGetsItsNameAndTellsOfOthers) {
  a_.Always(kPath, Tells(RowOf("a", a_), {{RowOf("b", b_), 3s}}));
  b_.Always(kPath, Tells(RowOf("b", b_)));
  Start({a_.port()});
  Await([&] { return Names() == std::vector<std::string>{"a", "b"}; });
  AwaitQuestions(b_);
  const FaultRequest request = a_.requests(kPath)[0];
  EXPECT_THAT(request.query, HasSubstr("since="));
  EXPECT_EQ(DecodeRow(request.Header("sluice-member"))->name, "self");
  EXPECT_THAT(members_->view()->members, SizeIs(3));
}

TEST_F(MemberExchangeTest, WhoIsNoMemberIsNone) {
  const FaultBehaviour bad[] = {
      fault::Status(200, {}, EncodeMembers({RowOf("a", a_), {}, {}})),  // it does not say that it is a node
      fault::Status(404, {{"Sluice-Node", "old"}}),
      fault::Status(500, {{"Sluice-Node", "other"}}),
      fault::Hangup(),
      Says("{"),
      Says("{\"self\":{}}"),
      Says(std::string(kMembersBytesMax + 1, ' ')),
  };
  for (const FaultBehaviour& behaviour : bad) {
    a_.Always(kPath, behaviour);
    Start({a_.port()});
    AwaitQuestions(a_);
    EXPECT_THAT(Names(), IsEmpty());
    EXPECT_THAT(members_->view()->unnamed, SizeIs(1)) << "it stays an address";
    exchange_.reset();
  }
}

// By a start number that none can outdo, at an address where nobody is, and with addresses of others.
TEST_F(MemberExchangeTest, NoLiarMovesAMemberThatAnswers) {
  const HostPort nowhere{"127.0.0.1", 2};
  MemberRow frozen = RowOf("a", a_, UINT64_MAX), thief = RowOf("thief", a_, UINT64_MAX);
  frozen.addresses = {nowhere};
  a_.Always(kPath, Tells(RowOf("a", a_)));
  b_.Always(kPath, Tells(RowOf("liar", b_), {{frozen, 0s}, {thief, 0s}}));
  Start({a_.port(), b_.port()});
  Await([&] { return Names().size() == 2; });
  AwaitQuestions(b_);
  AwaitQuestions(a_);
  EXPECT_THAT(Names(), ElementsAre("a", "liar"));
  members_->Look([&](const MemberTable& table, Instant) {
    EXPECT_EQ(table.others().at("a").row, RowOf("a", a_));
    EXPECT_THAT(table.twins(), IsEmpty());
  });
}

TEST_F(MemberExchangeTest, ThisNodeFindsItself) {
  a_.Always(kPath, Says("{}", kNodeId));
  Start({a_.port()});
  Await([&] { return members_->list()->empty(); });
}

TEST_F(MemberExchangeTest, WhoDiesIsSilentAndTheNodeKnowsThatItIsAlone) {
  auto dying = std::make_unique<FaultOrigin>();
  dying->Always(kPath, Tells(RowOf("a", *dying)));
  Start({dying->port()});
  Await([&] { return Names() == std::vector<std::string>{"a"}; });
  const auto is_cut_off = [&] {
    bool cut_off = false;
    members_->Look([&](const MemberTable& table, Instant now) { cut_off = table.IsCutOff(now); });
    return cut_off;
  };
  EXPECT_FALSE(is_cut_off());
  dying.reset();
  Await(is_cut_off);
  EXPECT_THAT(Names(), ElementsAre("a")) << "suspicion changes no member";
}

TEST_F(MemberExchangeTest, TwoWithOneNameAndANewerProtocolAreToldOnce) {
  a_.Always(kPath, Tells(RowOf("same", a_, 9)));
  b_.Always(kPath, Tells(RowOf("same", b_, 3)));
  FaultOrigin newer;
  MemberRow row = RowOf("newer", newer);
  row.protocol = kProtocolMajor + 1;
  newer.Always(kPath, Tells(row));
  Start({a_.port(), b_.port(), newer.port()});
  Await([&] {
    const std::lock_guard lock(mutex_);
    return warnings_.size() >= 2;
  });
  AwaitQuestions(newer, 5);
  const std::lock_guard lock(mutex_);
  ASSERT_THAT(warnings_, SizeIs(2));
  EXPECT_THAT(absl::StrCat(warnings_[0], warnings_[1]), HasSubstr("have the name same"));
  EXPECT_THAT(absl::StrCat(warnings_[0], warnings_[1]), HasSubstr("speaks protocol 2"));
  EXPECT_THAT(Names(), ElementsAre("same"));
}

TEST_F(MemberExchangeTest, WhoAsksIsDialledBeforeItIsBelieved) {
  a_.Always(kPath, Tells(RowOf("a", a_)));
  b_.Always(kPath, Tells(RowOf("b", b_)));
  Start({});
  exchange_->Answer("", "", EncodeRow(RowOf("a", a_)));
  Await([&] { return Names() == std::vector<std::string>{"a"}; });
  // What answers there is somebody else.
  exchange_->Answer("", "", EncodeRow(RowOf("liar", b_)));
  Await([&] { return Names().size() == 2; });
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
  const size_t asked = a_.request_count(kPath);
  exchange_->Answer("", "", "{");
  exchange_->Answer("", "", "");
  const absl::StatusOr<MembersAnswer> answer = DecodeMembers(exchange_->Answer("zz", "zz", ""));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->self.name, "self");
  EXPECT_THAT(answer->rows, SizeIs(2));
  EXPECT_GE(a_.request_count(kPath), asked);
}

TEST_F(MemberExchangeTest, StopComesThoughSomebodyIsBeingAsked) {
  a_.Always(kPath, [](const FaultRequest&, FaultConnection&) { std::this_thread::sleep_for(1s); });
  Start({a_.port()});
  Await([&] { return a_.request_count(kPath) > 0; });
  client_->Stop();
  exchange_->Stop();
  exchange_->Stop();
}

}  // namespace
}  // namespace sluice::p2p
