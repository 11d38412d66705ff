#include "node/daemon/hint_relay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "tests/unit/api/fake_prefetch_backend.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using nlohmann::json;
using p2p::PeerTransport;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// Members that answer when the test says so.
class FakeTransport final : public PeerTransport {
 public:
  RequestId ReadChunk(const p2p::Member&, const ChunkQuestion&, OnData, OnSign, OnChunkDone) override {
    ADD_FAILURE() << "no chunk is wanted";
    return {};
  }
  void Cancel(RequestId) override {}
  void Raise(RequestId, FetchClass) override {}
  void After(Duration, Task) override {}
  void Ask(const p2p::Member& member, const Question& question, OnAnswer on_answer) override {
    asked.push_back(member.name);
    questions.push_back(question);
    waiting_.push_back(std::move(on_answer));
  }

  // The first of those that wait answers.
  void Answer(absl::StatusOr<std::string> body) {
    OnAnswer on_answer = std::move(waiting_.front());
    waiting_.erase(waiting_.begin());
    if (!body.ok()) return std::move(on_answer)(body.status());
    std::move(on_answer)(PeerTransport::Answer{"application/json", *std::move(body)});
  }
  size_t waiting() const { return waiting_.size(); }

  std::vector<std::string> asked;
  std::vector<Question> questions;

 private:
  std::vector<OnAnswer> waiting_;
};

class HintRelayTest : public ::testing::Test {
 protected:
  HintRelayTest() {
    p2p::Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = RowOf(0);
    options.now = [this] { return clock_.now; };
    members_ = std::make_unique<p2p::Members>(std::move(options));  // not started: it has nothing to resolve
    for (int i = 1; i < 6; ++i) {
      members_->Change([&](p2p::MemberTable& table, Instant now) {
        table.HeardFrom(RowOf(i), RowOf(i).addresses.front(), now);
      });
    }
    Remake({});
  }
  static p2p::MemberRow RowOf(int number) {
    return {absl::StrCat("node-", number),
            {{"127.0.0.1", static_cast<uint16_t>(1 + number)}},
            "",
            p2p::kProtocolMajor,
            1};
  }
  void Remake(HintRelay::Limits limits) {
    relay_ = std::make_unique<HintRelay>(HintRelay::Parts{clock_, io_, *members_, transport_, wire_}, limits);
  }
  void Carry(std::vector<std::string> members) {
    relay_->Carry({.id = "h", .reference = "r.example/app:1", .priority = 7, .targets = members}, members,
                  [this](const std::string& member, const absl::Status& status) {
                    EXPECT_TRUE(told_.try_emplace(member, status).second) << "twice: " << member;
                  });
    io_.Run();
  }
  void Answer(absl::StatusOr<std::string> body) {
    transport_.Answer(std::move(body));
    while (io_.Run() > 0) {
    }
  }
  // What the inbox of another node makes of what was sent.
  absl::StatusOr<std::string> Receive(const std::string& body, const ProvenNames& proven = {}) {
    return HintInbox(*members_, hints_, wire_).Take(body, proven);
  }
  static std::string From(const std::string& sender, const std::string& hint_members = "") {
    return absl::StrCat(R"({"sender":")", sender,
                        R"(","hint":{"id":"h","reference":"r.example/app:1","priority":0,)",
                        R"("scheduler":"","pin":false,"taken":0)", hint_members, "}}");
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor io_{clock_};
  FakeTransport transport_;
  PeerWire wire_ = PeerWire::kPlain;
  std::unique_ptr<p2p::Members> members_;
  api::FakePrefetchBackend hints_;
  std::map<std::string, absl::Status> told_;
  std::unique_ptr<HintRelay> relay_;
};

constexpr char kTaken[] = R"({"outcome":"taken"})";

TEST_F(HintRelayTest, WhoIsWho) {
  EXPECT_EQ(relay_->WhoIs("node-0"), HintCarrier::Who::kSelf);
  EXPECT_EQ(relay_->WhoIs("node-3"), HintCarrier::Who::kMember);
  EXPECT_EQ(relay_->WhoIs("node-9"), HintCarrier::Who::kStranger);
  EXPECT_EQ(relay_->WhoIs(""), HintCarrier::Who::kStranger);
}

TEST_F(HintRelayTest, CredentialsGoByTlsAlone) {
  const api::HintSpec spec{.id = "h",
                           .reference = "r.example/app:1",
                           .credentials = api::HintCredentials{"ann", Secret("s3cret")}};
  const auto sent = [&](PeerWire wire) {
    wire_ = wire;
    Remake({});
    transport_.questions.clear();
    relay_->Carry(spec, {"node-1"}, [](const std::string&, const absl::Status&) {});
    io_.Run();
    return transport_.questions.at(0).body;
  };
  EXPECT_THAT(sent(PeerWire::kPlain), Not(HasSubstr("s3cret")));
  EXPECT_FALSE(relay_->KeepsSecrets());
  const std::string body = sent(PeerWire::kTls);
  EXPECT_TRUE(relay_->KeepsSecrets());
  json told = json::parse(body);
  EXPECT_EQ(told.at("credentials"), json({{"username", "ann"}, {"password", "s3cret"}}));
  EXPECT_EQ(told.at("hint").dump().find("s3cret"), std::string::npos);
  told["sender"] = "node-1";
  const absl::StatusOr<std::string> taken = Receive(told.dump());
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(hints_.hints().at("h").credentials->username, "ann");
  EXPECT_EQ(hints_.hints().at("h").credentials->password.text(), "s3cret");
  for (const char* const wrong : {R"({"username":"ann"})", R"({"username":"","password":"p"})",
                                  R"({"username":"ann","password":""})", "7"}) {
    told["credentials"] = json::parse(wrong);
    EXPECT_TRUE(absl::IsInvalidArgument(Receive(told.dump()).status())) << wrong;
  }
  told["credentials"] = {{"username", "ann"}, {"password", "s3cret"}};
  wire_ = PeerWire::kPlain;
  const absl::Status listened = Receive(told.dump()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(listened)) << "credentials without TLS were taken";
}

TEST_F(HintRelayTest, TheEndOfAHintIsToldAsTheHintIs) {
  relay_->Recall("h", {"node-1", "node-2", "node-9"},
                 [this](const std::string& member, const absl::Status& status) { told_[member] = status; });
  while (io_.Run() > 0) {
  }
  EXPECT_THAT(transport_.asked, ElementsAre("node-1", "node-2"));
  EXPECT_TRUE(absl::IsUnavailable(told_.at("node-9"))) << "it may have taken it all the same";
  Answer(R"({"outcome":"cancelled"})");
  EXPECT_TRUE(told_.at("node-1").ok());
  Answer(absl::UnavailableError("it is away"));
  EXPECT_TRUE(absl::IsUnavailable(told_.at("node-2")));

  const json question = json::parse(transport_.questions.at(0).body);
  EXPECT_EQ(question, json({{"sender", "node-0"}, {"cancel", "h"}}));
  const std::string cancel = R"({"sender":"node-1","cancel":"h"})";
  const absl::StatusOr<std::string> unknown = Receive(cancel);
  ASSERT_TRUE(unknown.ok());
  EXPECT_EQ(json::parse(*unknown).at("code"), static_cast<int>(absl::StatusCode::kNotFound));
  ASSERT_TRUE(Receive(From("node-1")).ok());
  EXPECT_EQ(json::parse(*Receive(cancel)).at("outcome"), "cancelled");
  EXPECT_TRUE(absl::IsPermissionDenied(Receive(R"({"sender":"node-9","cancel":"h"})").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Receive(R"({"sender":"node-1","cancel":7})").status()));
}

TEST_F(HintRelayTest, EachIsToldAndWhatItSaysComesBack) {
  Carry({"node-1", "node-2", "node-3", "node-4"});
  EXPECT_THAT(transport_.asked, ElementsAre("node-1", "node-2", "node-3", "node-4"));
  EXPECT_THAT(told_, IsEmpty());
  Answer(kTaken);
  EXPECT_TRUE(told_.at("node-1").ok());
  Answer(absl::UnavailableError("it is away"));
  EXPECT_EQ(told_.at("node-2"), absl::UnavailableError("it is away"));
  Answer(R"({"outcome":"refused","code":7,"message":"not on the allow-list"})");
  EXPECT_EQ(told_.at("node-3"), absl::PermissionDeniedError("not on the allow-list"));
  for (const char* const nonsense :
       {"", "[]", "{}", R"({"outcome":"refused"})", R"({"outcome":"refused","code":0,"message":"m"})",
        R"({"outcome":"refused","code":99,"message":"m"})",
        R"({"outcome":"refused","code":4294967303,"message":"m"})", R"({"outcome":7})"}) {
    told_.clear();
    if (transport_.waiting() == 0) Carry({"node-4"});
    Answer(nonsense);
    EXPECT_TRUE(absl::IsUnavailable(told_.at("node-4"))) << nonsense;
  }
}

TEST_F(HintRelayTest, WhatIsSentArrivesAsItWasGivenButForTheTargets) {
  Carry({"node-1"});
  const PeerTransport::Question& question = transport_.questions.front();
  EXPECT_EQ(question.path_and_query, "/sluice/v1/hints");
  EXPECT_GT(question.timeout, Duration(0));
  const absl::StatusOr<std::string> answer = Receive(question.body);
  EXPECT_FALSE(answer.ok()) << "node-0 is not among the others";
  json body = json::parse(question.body);
  EXPECT_EQ(body["sender"], "node-0");
  body["sender"] = "node-2";
  ASSERT_EQ(*Receive(body.dump()), kTaken);
  const api::HintSpec taken = hints_.hints().at("h");
  EXPECT_EQ(taken.reference, "r.example/app:1");
  EXPECT_EQ(taken.priority, 7);
  EXPECT_THAT(taken.targets, IsEmpty());
  ASSERT_EQ(*Receive(body.dump()), kTaken) << "one that is known is taken";
}

TEST_F(HintRelayTest, AFewAreToldAtOnceAndTheLastInBoundedTime) {
  Remake({.under_way_max = 2, .waiting_max = 3, .patience = seconds(10)});
  Carry({"node-1", "node-2", "node-3", "node-4", "node-5"});
  EXPECT_THAT(transport_.asked, ElementsAre("node-1", "node-2"));
  Answer(kTaken);
  EXPECT_THAT(transport_.asked, ElementsAre("node-1", "node-2", "node-3"));
  for (const char* const beyond : {"node-4", "node-5"})
    EXPECT_TRUE(absl::IsResourceExhausted(told_.at(beyond))) << beyond;
  told_.clear();
  Carry({"node-4"});
  clock_.now += seconds(11);
  Answer(absl::DeadlineExceededError("silent"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(told_.at("node-4"))) << "its turn came too late";
  EXPECT_THAT(transport_.asked, SizeIs(3));
}

TEST_F(HintRelayTest, WhoIsNoMemberAnyMoreIsNotAsked) {
  Carry({"node-9"});
  while (io_.Run() > 0) {
  }
  EXPECT_TRUE(absl::IsNotFound(told_.at("node-9")));
  EXPECT_THAT(transport_.asked, IsEmpty());
}

TEST_F(HintRelayTest, OnceItIsGoneNobodyIsTold) {
  Carry({"node-1"});
  relay_.reset();
  Answer(kTaken);
  EXPECT_THAT(told_, IsEmpty());
}

TEST_F(HintRelayTest, OnlyMembersPassHintsOnAndInTheirOwnNames) {
  EXPECT_EQ(*Receive(From("node-1")), kTaken);
  EXPECT_TRUE(absl::IsPermissionDenied(Receive(From("stranger")).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(Receive(From("node-1"), ProvenNames({"node-2"})).status()));
  EXPECT_EQ(*Receive(From("node-1"), ProvenNames({"node-1"})), kTaken);
}

TEST_F(HintRelayTest, WhatIsNoHintIsTakenByNobody) {
  const auto with = [](const char* name, const json& value) {
    json body = json::parse(From("node-1"));
    body["hint"][name] = value;
    return body.dump();
  };
  for (const std::string& body :
       {std::string(), std::string("[]"), std::string("{}"), std::string(R"({"sender":"node-1","hint":{}})"),
        with("id", "no blanks"), with("id", std::string(129, 'a')), with("id", ""), with("priority", 101),
        with("scheduler", "a\nb"), with("ttl", -1), with("targets", json::array({"node-2"})),
        with("profile", "yes")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Receive(body).status())) << body;
  }
  EXPECT_THAT(hints_.hints(), IsEmpty());
}

TEST_F(HintRelayTest, ARefusalIsAnAnswer) {
  hints_.refusal = absl::ResourceExhaustedError("too many hints are under way");
  json answer = json::parse(*Receive(From("node-1")));
  EXPECT_EQ(answer["outcome"], "refused");
  EXPECT_EQ(answer["code"], 8);
  EXPECT_THAT(answer["message"].get<std::string>(), HasSubstr("too many"));
  hints_.failure = absl::UnavailableError("the node is drained");
  answer = json::parse(*Receive(From("node-1")));
  EXPECT_EQ(answer["code"], 14);
}

}  // namespace
}  // namespace sluice
