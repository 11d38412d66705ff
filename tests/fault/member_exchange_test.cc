// What a node learns of members that are down, lie, or are this very node, over real sockets.

#include "p2p/cluster/member_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
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
using ::testing::Contains;
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
    options.self = self_;
    options.row = {"self", {self_}, "", kProtocolMajor, 5};
    options.refresh = 20ms;
    options.now = [this] { return clock_.Now() + std::chrono::seconds(ahead_s_); };
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

  HostPort self_{"127.0.0.1", 1};
  std::atomic<int> ahead_s_{0};  // that the table's clock is ahead
  std::atomic<int> told_s_{0};   // how old the others say that a row is
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

TEST_F(MemberExchangeTest, WhereNobodyListensTheColdStartEndsSooner) {
  const uint16_t nobody = std::make_unique<FaultOrigin>()->port();
  // Sooner than where nobody answers; a busy machine may need a second try.
  bool sooner = false;
  for (int tries = 0; tries < 3 && !sooner; ++tries) {
    const auto start = std::chrono::steady_clock::now();
    Start({nobody});
    Await([&] { return !exchange_->in_cold_start(); });
    sooner = std::chrono::steady_clock::now() - start < MemberRounds::kColdStartMax;
    exchange_.reset();
    members_->Stop();
  }
  EXPECT_TRUE(sooner);
}

TEST_F(MemberExchangeTest, TwoWithOneNameAndOtherProtocolsAreToldOnce) {
  a_.Always(kPath, Tells(RowOf("same", a_, 9)));
  b_.Always(kPath, Tells(RowOf("same", b_, 3)));
  FaultOrigin newer;
  MemberRow row = RowOf("newer", newer);
  row.protocol = kProtocolMajor + 1;
  newer.Always(kPath, Tells(row));
  FaultOrigin older;
  row = RowOf("older", older);
  row.protocol = kProtocolMajor - 1;
  older.Always(kPath, Tells(row));
  Start({a_.port(), b_.port(), newer.port(), older.port()});
  Await([&] {
    const std::lock_guard lock(mutex_);
    return warnings_.size() >= 3;
  });
  AwaitQuestions(newer, 5);
  const std::lock_guard lock(mutex_);
  ASSERT_THAT(warnings_, SizeIs(3));
  EXPECT_THAT(warnings_, Contains(HasSubstr("have the name same")));
  EXPECT_THAT(warnings_, Contains(HasSubstr("speaks protocol 2")));
  EXPECT_THAT(warnings_, Contains(HasSubstr("speaks protocol 0")));
  EXPECT_THAT(Names(), ElementsAre("same"));
}

TEST_F(MemberExchangeTest, WhoAsksIsDialledBeforeItIsBelieved) {
  a_.Always(kPath, Tells(RowOf("a", a_)));
  b_.Always(kPath, Tells(RowOf("b", b_)));
  Start({});
  EXPECT_TRUE(absl::IsPermissionDenied(
      exchange_->Answer("", "", EncodeRow(RowOf("a", a_)), ProvenNames({"b"})).status()));
  EXPECT_TRUE(exchange_->Answer("", "", EncodeRow(RowOf("a", a_)), ProvenNames({"b", "a"})).ok());
  Await([&] { return Names() == std::vector<std::string>{"a"}; });
  // What answers there is somebody else.
  EXPECT_TRUE(exchange_->Answer("", "", EncodeRow(RowOf("liar", b_))).ok());
  Await([&] { return Names().size() == 2; });
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
  const size_t asked = a_.request_count(kPath);
  EXPECT_TRUE(exchange_->Answer("", "", "{").ok());
  EXPECT_TRUE(exchange_->Answer("", "", "").ok());
  const absl::StatusOr<MembersAnswer> answer = DecodeMembers(*exchange_->Answer("zz", "zz", ""));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->self.name, "self");
  EXPECT_THAT(answer->rows, SizeIs(2));
  EXPECT_GE(a_.request_count(kPath), asked);
}

// Whoever can connect could make a node speak to what listens on its own host alone.
// As one that is reached from here by IPv4 only. Addresses come in their order: at the lower one is another.
TEST_F(MemberExchangeTest, WhoHasSeveralAddressesIsDialledAtEachUntilItAnswers) {
  FaultOrigin& other = a_.port() < b_.port() ? a_ : b_;
  FaultOrigin& asker = &other == &a_ ? b_ : a_;
  other.Always(kPath, Tells(RowOf("other", other)));
  asker.Always(kPath, Tells(RowOf("asker", asker)));
  Start({});
  MemberRow row = RowOf("asker", asker);
  row.addresses = {{"127.0.0.1", 2}, {"127.0.0.1", other.port()}, {"127.0.0.1", asker.port()}};
  ASSERT_TRUE(row.Validate().ok());
  EXPECT_TRUE(exchange_->Answer("", "", EncodeRow(row)).ok());
  Await([&] { return Names() == std::vector<std::string>{"asker", "other"}; });
}

TEST_F(MemberExchangeTest, WhoSaysThatItIsOnLoopbackIsNotDialledByWhoIsElsewhere) {
  a_.Always(kPath, Tells(RowOf("a", a_)));
  b_.Always(kPath, Tells(RowOf("b", b_), {{RowOf("a", a_), 0s}}));
  self_ = {"10.0.0.1", 7301};
  Start({b_.port()});
  EXPECT_TRUE(exchange_->Answer("", "", EncodeRow(RowOf("a", a_))).ok());
  MemberRow any = RowOf("c", a_), both = RowOf("d", a_);
  any.addresses = {{"0.0.0.0", a_.port()}};
  both.addresses = {{"127.0.0.1", a_.port()}, {"127.0.0.2", a_.port()}};
  EXPECT_TRUE(exchange_->Answer("", "", EncodeRow(any)).ok());
  EXPECT_TRUE(exchange_->Answer("", "", EncodeRow(both)).ok());
  // Who asks is dialled between the rounds.
  AwaitQuestions(b_, 5);
  EXPECT_EQ(a_.connection_count(), 0u);
  EXPECT_THAT(Names(), ElementsAre("b")) << "which was configured";
}

// Each half goes on as if it were alone: by the tables of the other it is neither cut off nor led astray.
TEST_F(MemberExchangeTest, HalfOfTheClusterOnTheNextProtocolIsLeftOutAndHarmsNobody) {
  FaultOrigin newer[2];
  MemberRow rows[2];
  for (int i = 0; i < 2; ++i) {
    rows[i] = RowOf(absl::StrCat("newer-", i), newer[i]);
    rows[i].protocol = kProtocolMajor + 1;
  }
  a_.Always(kPath, Tells(RowOf("a", a_), {{rows[0], 1s}, {RowOf("b", b_), 1s}}));
  b_.Always(kPath, Tells(RowOf("b", b_)));
  for (int i = 0; i < 2; ++i)
    newer[i].Always(kPath, Tells(rows[i], {{rows[1 - i], 1s}, {RowOf("a", a_), 1s}}));
  Start({a_.port(), newer[0].port(), newer[1].port()});
  Await([&] { return !exchange_->in_cold_start() && Names() == std::vector<std::string>{"a", "b"}; });
  for (const FaultOrigin& member : newer) AwaitQuestions(member, 5);
  // One of them asks: it is answered, dialled, and left out.
  const absl::StatusOr<MembersAnswer> answer = DecodeMembers(*exchange_->Answer("", "", EncodeRow(rows[0])));
  ASSERT_TRUE(answer.ok());
  EXPECT_THAT(answer->rows, SizeIs(2)) << "and told of nobody whom this node does not speak to";
  AwaitQuestions(newer[0], 3);
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
  EXPECT_THAT(members_->view()->members, SizeIs(3));
  members_->Look([](const MemberTable& table, Instant now) { EXPECT_FALSE(table.IsCutOff(now)); });
  const std::lock_guard lock(mutex_);
  EXPECT_THAT(warnings_, SizeIs(2)) << "once of each";
}

// Its row is told by those who have not noticed, for as long as they have not.
TEST_F(MemberExchangeTest, ADeadMemberThatOldTablesPassAroundIsForgotten) {
  auto dying = std::make_unique<FaultOrigin>();
  const MemberRow dead = RowOf("dead", *dying);
  dying->Always(kPath, Tells(dead));
  const auto tells_of_it = [&](const std::string& name, const FaultOrigin& member) {
    return
        [this, dead, self = RowOf(name, member)](const FaultRequest& request, FaultConnection& connection) {
          Tells(self, {{dead, std::chrono::seconds(told_s_)}})(request, connection);
        };
  };
  a_.Always(kPath, tells_of_it("a", a_));
  b_.Always(kPath, tells_of_it("b", b_));
  Start({a_.port(), b_.port()});
  Await([&] { return Names().size() == 3 && dying->request_count(kPath) > 0; });
  dying.reset();
  const auto all_asked = [&] {
    AwaitQuestions(a_, 5);
    AwaitQuestions(b_, 5);
  };
  // Answers under way are of before, so the tellers' clock goes first.
  const auto pass = [&](int seconds) {
    told_s_ = seconds;
    all_asked();
    ahead_s_ = seconds;
  };
  pass(240);
  all_asked();
  EXPECT_THAT(Names(), ElementsAre("a", "b", "dead")) << "suspicion changes no member";
  pass(301);
  Await([&] { return Names() == std::vector<std::string>{"a", "b"}; });
  all_asked();
  EXPECT_THAT(Names(), ElementsAre("a", "b")) << "and stays away";
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
