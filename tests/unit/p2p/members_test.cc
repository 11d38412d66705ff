#include "p2p/cluster/members.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(HostPortTest, IsWrittenAsHostColonPort) {
  const struct {
    const char* text;
    const char* host;
    uint16_t port;
  } kGood[] = {{"node-1:5000", "node-1", 5000},
               {"10.0.0.1:1", "10.0.0.1", 1},
               {"[::1]:65535", "::1", 65535},
               {"[fd00::2]:80", "fd00::2", 80},
               {"peers.ns.svc.:80", "peers.ns.svc.", 80},
               {"0.0.0.0:80", "0.0.0.0", 80}};
  for (const auto& good : kGood) {
    const absl::StatusOr<HostPort> parsed = HostPort::Parse(good.text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, (HostPort{good.host, good.port}));
    EXPECT_EQ(parsed->ToString(), good.text);
  }
}

TEST(HostPortTest, AnAddressHasOneSpelling) {
  EXPECT_EQ(CanonicalHost("fd00:0::07"), "fd00::7");
  EXPECT_EQ(CanonicalHost("::ffff:10.0.0.1"), "10.0.0.1") << "it is reached over IPv4";
  EXPECT_EQ(CanonicalHost("::ffff:7f00:1"), "127.0.0.1");
  EXPECT_EQ(CanonicalHost("node"), "node");
}

TEST(HostPortTest, AllElseIsRefused) {
  for (const std::string text : {"",
                                 ":",
                                 "node",
                                 "node:",
                                 ":80",
                                 "node:0",
                                 "node:65536",
                                 "node:-1",
                                 "node:+80",
                                 "node: 80",
                                 "node:80 ",
                                 "node:8o",
                                 "node:99999999999999999999",
                                 "::1:80",
                                 "fd00::2",
                                 "[::1]",
                                 "[::1]80",
                                 "[]:80",
                                 "[node]:80",
                                 "[10.0.0.1]:80",
                                 "[fe80::1%eth0]:80",
                                 "[::1:80",
                                 "::1]:80",
                                 "http://node:80",
                                 "node/x:80",
                                 "a@node:80",
                                 "no de:80",
                                 "node?:80",
                                 "node#:80"}) {
    const absl::StatusOr<HostPort> parsed = HostPort::Parse(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(HostPort::Parse(std::string(254, 'a') + ":80").ok());
}

// A DNS that says what the test wants; may be told to hang.
class FakeDns {
 public:
  Members::Resolve resolve() {
    return [this](const std::string& host) -> absl::StatusOr<std::vector<std::string>> {
      std::unique_lock lock(mutex_);
      ++asked_;
      changed_.notify_all();
      changed_.wait(lock, [&] { return !hangs_; });
      const auto found = names_.find(host);
      if (found == names_.end()) return absl::UnavailableError("no such host");
      return found->second;
    };
  }
  void Set(const std::string& host, std::vector<std::string> addresses) {
    const std::lock_guard lock(mutex_);
    names_[host] = std::move(addresses);
  }
  void Fail(const std::string& host) {
    const std::lock_guard lock(mutex_);
    names_.erase(host);
  }
  void Hang(bool hangs) {
    const std::lock_guard lock(mutex_);
    hangs_ = hangs;
    changed_.notify_all();
  }
  // Until so many more questions have come.
  void AwaitQuestions(int count) {
    std::unique_lock lock(mutex_);
    const int target = asked_ + count;
    ASSERT_TRUE(changed_.wait_for(lock, 60s, [&] { return asked_ >= target; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::vector<std::string>> names_;
  int asked_ = 0;
  bool hangs_ = false;
};

class MembersTest : public ::testing::Test {
 protected:
  ~MembersTest() override { dns_->Hang(false); }

  void Start(const std::vector<std::string>& configured, const std::string& self = "127.0.0.9:5000") {
    Members::Options options;
    for (const std::string& text : configured) options.configured.push_back(*HostPort::Parse(text));
    options.self = *HostPort::Parse(self);
    options.refresh = 1ms;
    options.telemetry = &telemetry_;
    // A thread that hangs outlives the test.
    options.resolve = [dns = dns_, resolve = dns_->resolve()](const std::string& host) {
      return resolve(host);
    };
    options.warn = [this](const std::string& text) {
      const std::lock_guard lock(mutex_);
      warnings_.push_back(text);
    };
    options.on_change = [this](const Members::List&) { ++changes_; };
    members_ = std::make_unique<Members>(std::move(options));
    members_->Start();
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    const std::shared_ptr<const Members::List> list = members_->list();
    for (const Member& member : *list) names.push_back(member.name);
    return names;
  }
  template <typename Matcher>
  void Await(const Matcher& matcher) {
    const auto end = std::chrono::steady_clock::now() + 60s;
    while (!::testing::Matches(matcher)(Names()) && std::chrono::steady_clock::now() < end)
      std::this_thread::yield();
    EXPECT_THAT(Names(), matcher);
  }

  const std::shared_ptr<FakeDns> dns_ = std::make_shared<FakeDns>();
  Telemetry telemetry_;
  std::mutex mutex_;
  std::vector<std::string> warnings_;  // guarded by mutex_
  std::atomic<int> changes_ = 0;
  std::unique_ptr<Members> members_;
};

TEST_F(MembersTest, LiteralsAreThereAtOnceInOrderAndEachOnce) {
  Start({"10.0.0.2:5000", "[fd00::1]:5000", "10.0.0.1:5000", "10.0.0.2:5000", "[fd00:0:0::1]:5000",
         "10.0.0.2:5001"});
  EXPECT_THAT(Names(), ElementsAre("10.0.0.1:5000", "10.0.0.2:5000", "10.0.0.2:5001", "[fd00::1]:5000"));
  EXPECT_EQ(changes_, 1);
  members_->Start();
  EXPECT_EQ(changes_, 1);
}

TEST_F(MembersTest, ANameIsAsManyMembersAsItHasAddresses) {
  dns_->Set("peers", {"10.0.0.2", "10.0.0.1", "fd00:0::7", "10.0.0.2"});
  Start({"peers:5000", "10.0.0.1:5000"});
  Await(ElementsAre("10.0.0.1:5000", "10.0.0.2:5000", "[fd00::7]:5000"));
}

TEST_F(MembersTest, NamesAreResolvedAgain) {
  dns_->Set("peers", {"10.0.0.1"});
  Start({"peers:5000"});
  Await(ElementsAre("10.0.0.1:5000"));
  dns_->Set("peers", {"10.0.0.3", "10.0.0.2"});
  Await(ElementsAre("10.0.0.2:5000", "10.0.0.3:5000"));
  dns_->AwaitQuestions(1);  // or the list is there and has not been told of
  const int changes = changes_;
  dns_->Set("peers", {"10.0.0.2", "10.0.0.3"});
  dns_->AwaitQuestions(3);
  EXPECT_EQ(changes_, changes) << "another order is no change";
}

TEST_F(MembersTest, ADnsThatFailsOrSaysNothingKeepsTheOldListAndIsToldOnce) {
  dns_->Set("peers", {"10.0.0.1"});
  dns_->Set("others", {"10.0.1.1"});
  Start({"peers:5000", "others:5000"});
  Await(ElementsAre("10.0.0.1:5000", "10.0.1.1:5000"));
  dns_->Fail("peers");
  dns_->Set("others", {"10.0.1.2"});
  Await(ElementsAre("10.0.0.1:5000", "10.0.1.2:5000"));
  dns_->AwaitQuestions(10);
  {
    const std::lock_guard lock(mutex_);
    ASSERT_THAT(warnings_, SizeIs(1));
    EXPECT_THAT(warnings_[0], HasSubstr("member peers can't be resolved"));
  }
  dns_->Set("peers", {});
  dns_->AwaitQuestions(10);
  EXPECT_THAT(Names(), ElementsAre("10.0.0.1:5000", "10.0.1.2:5000"));
  const std::lock_guard lock(mutex_);
  EXPECT_THAT(warnings_, SizeIs(2)) << "for another reason";
}

TEST_F(MembersTest, ThisNodeIsLeftOutByItsAddress) {
  Start({"10.0.0.1:5000", "10.0.0.2:5000", "10.0.0.1:5001"}, "10.0.0.1:5000");
  EXPECT_THAT(Names(), ElementsAre("10.0.0.1:5001", "10.0.0.2:5000"));
  Start({"[fd00::1]:5000", "[fd00::2]:5000"}, "[fd00:0:0::1]:5000");
  EXPECT_THAT(Names(), ElementsAre("[fd00::2]:5000"));
}

TEST_F(MembersTest, AWildcardStandsForAllOfThisMachinesAddresses) {
  for (const char* wildcard : {"0.0.0.0:5000", "[::]:5000"}) {
    Start({"127.0.0.1:5000", "127.0.0.1:5001", "203.0.113.7:5000"}, wildcard);
    EXPECT_THAT(Names(), ElementsAre("127.0.0.1:5001", "203.0.113.7:5000")) << wildcard;
  }
}

TEST_F(MembersTest, WhoWasMetAsThisNodeStaysOut) {
  dns_->Set("peers", {"10.0.0.1", "10.0.0.2"});
  Start({"peers:5000"});
  Await(SizeIs(2));
  const std::shared_ptr<const Members::List> before = members_->list();
  members_->NoteSelf("10.0.0.1:5000");
  EXPECT_THAT(Names(), ElementsAre("10.0.0.2:5000"));
  const int changes = changes_;
  members_->NoteSelf("10.0.0.1:5000");
  members_->NoteSelf("10.9.9.9:1");
  EXPECT_EQ(changes_, changes);
  dns_->AwaitQuestions(3);
  EXPECT_THAT(Names(), ElementsAre("10.0.0.2:5000"));
  EXPECT_THAT(*before, SizeIs(2)) << "a list that somebody holds does not change";
}

// Or nodes would not agree on who the home is.
TEST_F(MembersTest, WhetherThisNodeIsCutOffIsCounted) {
  Start({"10.0.0.1:5000", "10.0.0.3:5000", "10.0.0.4:5000"}, "10.0.0.2:5000");
  EXPECT_EQ(telemetry_.cut_off.value(), 1) << "nobody is known but by an address";
  const auto answers = [&](const std::string& name, const HostPort& at) {
    members_->Change([&](MemberTable& table, Instant now) {
      table.HeardFrom({name, {at}, "", kProtocolMajor, 1}, at, now);
    });
  };
  answers("a", {"10.0.0.1", 5000});
  members_->Change([](MemberTable& table, Instant now) {
    table.NoteSilence(HostPort{"10.0.0.3", 5000}, now);
  });
  EXPECT_EQ(telemetry_.cut_off.value(), 0) << "half of them answer";
  members_->Change([](MemberTable& table, Instant now) {
    table.NoteSilence(HostPort{"10.0.0.4", 5000}, now);
  });
  EXPECT_EQ(telemetry_.cut_off.value(), 1);
  answers("b", {"10.0.0.3", 5000});
  EXPECT_EQ(telemetry_.cut_off.value(), 0);
}

TEST_F(MembersTest, AViewIsAsOldAsItsNames) {
  Start({"10.0.0.1:5000", "10.0.0.3:5000"}, "10.0.0.2:5000");
  const Instant first = members_->view()->since;
  members_->Change([](MemberTable& table, Instant now) {
    table.NoteSilence(HostPort{"10.0.0.3", 5000}, now);
  });
  EXPECT_EQ(members_->view()->since, first) << "they are the same";
  members_->Change([](MemberTable& table, Instant now) {
    table.HeardFrom({"a", {{"10.0.0.1", 5000}}, "", kProtocolMajor, 1}, {"10.0.0.1", 5000}, now);
  });
  EXPECT_GT(members_->view()->since, first);
}

TEST_F(MembersTest, TheViewHasThisNodeToo) {
  const auto view = [&] {
    std::vector<std::string> names;
    const std::shared_ptr<const MemberView> now = members_->view();
    for (const Member& member : now->members)
      names.push_back(absl::StrCat(member.name, member.is_self ? " self" : ""));
    for (const Member& member : now->unnamed) names.push_back(absl::StrCat(member.name, " unnamed"));
    return names;
  };
  Start({"10.0.0.1:5000", "10.0.0.3:5000"}, "10.0.0.2:5000");
  const auto count = [&](MemberState state) {
    return telemetry_.members[static_cast<size_t>(state)].value();
  };
  EXPECT_EQ(count(MemberState::kUnnamed), 2);
  EXPECT_THAT(view(), ElementsAre("10.0.0.2:5000 self", "10.0.0.1:5000 unnamed", "10.0.0.3:5000 unnamed"));
  const uint64_t id = members_->view()->id;
  members_->Change([](MemberTable& table, Instant now) {
    table.HeardFrom({"a", {{"10.0.0.1", 5000}}, "", kProtocolMajor, 1}, {"10.0.0.1", 5000}, now);
  });
  EXPECT_THAT(view(), ElementsAre("10.0.0.2:5000 self", "a", "10.0.0.3:5000 unnamed"));
  EXPECT_THAT(Names(), ElementsAre("10.0.0.3:5000", "a"));
  EXPECT_NE(members_->view()->id, id);
  EXPECT_EQ(count(MemberState::kUnnamed), 1);
  EXPECT_EQ(count(MemberState::kAlive), 1);
  members_->Change([](MemberTable& table, Instant now) { table.NoteSilence("a", now); });
  EXPECT_EQ(count(MemberState::kAlive), 0);
  EXPECT_EQ(count(MemberState::kSilent), 1);
  members_->NoteSelf("10.0.0.3:5000");
  EXPECT_THAT(view(), ElementsAre("10.0.0.2:5000 self", "a"));
}

TEST_F(MembersTest, AResolverThatHangsHoldsUpNeitherTheListNorStop) {
  dns_->Hang(true);
  Start({"peers:5000", "10.0.0.1:5000"});
  EXPECT_THAT(Names(), ElementsAre("10.0.0.1:5000"));
  dns_->Set("peers", {"10.0.0.2"});
  std::future<void> stopped = std::async(std::launch::async, [&] {
    members_->Stop();
    members_->Stop();
  });
  ASSERT_EQ(stopped.wait_for(30s), std::future_status::ready);
  const int changes = changes_;
  members_->NoteSelf("10.0.0.1:5000");
  members_.reset();
  dns_->Hang(false);
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(changes_, changes) << "what came after Stop was told";
}

TEST_F(MembersTest, TheListIsBounded) {
  std::vector<std::string> addresses;
  for (size_t i = 0; i < Members::kMembersMax + 500; ++i)
    addresses.push_back(absl::StrCat("10.", i / 65536, ".", i / 256 % 256, ".", i % 256));
  dns_->Set("peers", addresses);
  Start({"peers:5000"});
  Await(SizeIs(Members::kMembersMax));
}

TEST_F(MembersTest, NoMembersAreNone) {
  Start({});
  EXPECT_THAT(Names(), IsEmpty());
  members_->Stop();
}

}  // namespace
}  // namespace sluice::p2p
