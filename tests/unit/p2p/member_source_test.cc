// How a member is asked for chunks, and what becomes of it when a reader comes to want what a fill asked for.
#include "p2p/cluster/member_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "p2p/recipe/sha256.h"
#include "tests/unit/node/fakes.h"
#include "tests/unit/p2p/fake_transport.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;

constexpr uint32_t kChunk = 256 << 10;

class NoLedger final : public AccessLedger {
 public:
  void NoteAccess(const BlobKey&, const BlobOrigin&, OriginAccess) override {}
  OriginAccess AccessOf(const BlobKey&, const BlobOrigin&) const override { return OriginAccess::kUnknown; }
};

// Members that are asked for chunks, and answer when the test says so.
class ScriptedTransport final : public FakeTransport {
 public:
  struct Asked {
    RequestId id{};
    std::string member;
    FetchClass fetch_class{};
    bool cancelled = false;
    OnData on_data;
    OnSign on_sign;
    OnChunkDone on_done;
  };

  using FakeTransport::FakeTransport;

  RequestId ReadChunk(const Member& member, const ChunkQuestion& question, OnData on_data, OnSign on_sign,
                      OnChunkDone on_done) override {
    quiet_max = question.quiet_max;
    history.push_back(member.name + " " + FetchClassName(question.fetch_class));
    open.push_back({++last_, member.name, question.fetch_class, false, std::move(on_data), std::move(on_sign),
                    std::move(on_done)});
    return last_;
  }
  void Cancel(RequestId id) override {
    for (Asked& one : open) one.cancelled = one.cancelled || one.id == id;
  }

  // What was asked first is answered.
  void Answer(absl::Status status, std::vector<std::string> helpers = {}) {
    ChunkOutcome outcome;
    outcome.status = std::move(status);
    outcome.retry_after = 100ms;
    outcome.helpers = std::move(helpers);
    Asked first = std::move(open.front());
    open.erase(open.begin());
    std::move(first.on_done)(std::move(outcome));
  }
  void Send(size_t bytes, std::byte value = std::byte(1)) {
    open.front().on_data(std::vector<std::byte>(bytes, value));
  }
  // What was cancelled ends so.
  void EndCancelled() {
    while (!open.empty() && open.front().cancelled) Answer(absl::CancelledError("cancelled"));
  }

  std::vector<Asked> open;
  std::vector<std::string> history;
  Duration quiet_max{};  // of the last

 private:
  RequestId last_{};
};

class MemberSourceTest : public ::testing::Test {
 protected:
  MemberSourceTest() {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = RowOf("node-0");
    options.now = [this] { return clock_.now; };
    members_ = std::make_unique<Members>(std::move(options));  // not started: it has nothing to resolve
    for (const char* const name : {"node-1", "node-2", "node-3"}) {
      members_->Change([&](MemberTable& table, Instant now) {
        table.HeardFrom(RowOf(name), {"127.0.0.1", static_cast<uint16_t>(name[5])}, now);
      });
    }
    clock_.now += 10s;
    blame_ = std::make_unique<ChunkBlame>(ChunkBlame::Parts{
        clock_, members_.get(), health_, telemetry_, [](const std::string&) {}, [](const std::string&) {}});
    access_ = std::make_unique<MemberAccess>(MemberAccess{
        clock_, io_, *members_, health_, transport_, ledger_,
        [](const std::shared_ptr<Blob>&, const std::string&, auto then) { std::move(then)(true); },
        [](const Blob&, Asker, const std::string&, Duration) {}, [](const Blob&, const std::string&) {},
        [] { return 0.5; }, [](const std::string&) {}, download_, *blame_, Unsealed::kFromMembers});
    BlobSpec spec;
    spec.digest = Sha256::Of("blob");
    spec.size = 4 * kChunk;
    spec.chunk_size = kChunk;
    spec.root = Sha256::Of("root");
    spec.origins = {{"registry.example", "team/app"}};
    blob_ = std::make_shared<Blob>(spec);
  }
  ~MemberSourceTest() override {
    handle_ = FetchHandle();
    transport_.EndCancelled();
    transport_.DropTimers();
    io_.Run();
  }

  static MemberRow RowOf(const std::string& name) {
    return {name, {{"127.0.0.1", static_cast<uint16_t>(name[5])}}, "", kProtocolMajor, 1};
  }

  void Fetch(FetchClass fetch_class, PeerRole role = PeerRole::kHome, Asker asker = Asker::kLocal) {
    const auto find = [&](const std::string& name) {
      for (const Member& member : members_->view()->members) {
        if (member.name == name) return member;
      }
      return Member();
    };
    source_ = std::make_unique<MemberSource>(*access_, find("node-1"), role);
    FetchRequest request;
    request.blob = blob_;
    request.chunks = {ChunkIndex(0), 1};
    request.fetch_class = fetch_class;
    request.deadline = clock_.now + 60s;
    request.asker = asker;
    request.progress = progress_ = std::make_shared<FetchProgress>(clock_);
    handle_ = source_->Fetch(
        std::move(request),
        [this](ChunkIndex index, Buffer bytes, SenderId) {
          came_.push_back(index.value());
          values_.insert(bytes.span().begin(), bytes.span().end());
        },
        [this](absl::Status status) { done_ = std::move(status); });
    io_.Run();
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor io_{clock_};
  Telemetry telemetry_;
  MemberHealth health_;
  NoLedger ledger_;
  std::unique_ptr<Members> members_;
  std::unique_ptr<ChunkBlame> blame_;
  DownloadBudget download_{clock_, 0};
  ScriptedTransport transport_{clock_};
  std::unique_ptr<MemberAccess> access_;
  std::shared_ptr<Blob> blob_;
  std::unique_ptr<MemberSource> source_;
  std::shared_ptr<FetchProgress> progress_;
  FetchHandle handle_;
  std::vector<uint32_t> came_;
  std::set<std::byte> values_;  // of the bytes that came
  std::optional<absl::Status> done_;
};

TEST_F(MemberSourceTest, AFillThatAReaderComesToWantIsAskedForAnew) {
  Fetch(FetchClass::kHint);
  handle_.Raise(FetchClass::kDemand);
  transport_.Pass(19ms);
  EXPECT_FALSE(transport_.open.front().cancelled) << "it may come just now";
  transport_.Pass(1ms);
  transport_.EndCancelled();
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint", "node-1 demand"));
  transport_.Send(kChunk);
  transport_.Answer(absl::OkStatus());
  EXPECT_THAT(came_, ElementsAre(0));
  EXPECT_TRUE(done_.has_value() && done_->ok());
}

TEST_F(MemberSourceTest, SoIsOneThatWaitsForItsTurnAtAHelper) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"), {"node-2"});
  transport_.Pass(20ms);
  handle_.Raise(FetchClass::kReadahead);
  transport_.Pass(20ms);
  transport_.EndCancelled();
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint", "node-2 hint", "node-2 readahead"));
}

TEST_F(MemberSourceTest, WhatIsPutOffForAFillIsAskedForAtOnceWhenAReaderComes) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"));
  transport_.Pass(0ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint")) << "it was to come later";
  handle_.Raise(FetchClass::kDemand);
  transport_.Pass(0ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint", "node-1 demand"));
  transport_.Pass(10s);
  EXPECT_EQ(transport_.history.size(), 2) << "and not twice";
}

TEST_F(MemberSourceTest, WhatFlowsFlowsOn) {
  Fetch(FetchClass::kHint);
  handle_.Raise(FetchClass::kDemand);
  transport_.Send(1);
  transport_.Pass(20ms);
  EXPECT_FALSE(transport_.open.front().cancelled);
  transport_.Send(kChunk - 1);
  transport_.Answer(absl::OkStatus());
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint"));
  EXPECT_THAT(came_, ElementsAre(0));
}

TEST_F(MemberSourceTest, WhatCameBesideTheCancellationCountsOnce) {
  Fetch(FetchClass::kHint);
  handle_.Raise(FetchClass::kDemand);
  transport_.Pass(20ms);
  transport_.Send(kChunk);
  transport_.EndCancelled();
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint"));
  EXPECT_THAT(came_, ElementsAre(0));
  EXPECT_TRUE(done_.has_value() && done_->ok());
}

TEST_F(MemberSourceTest, WhatCameInPartBesideTheCancellationIsHadWholeAnew) {
  Fetch(FetchClass::kHint);
  handle_.Raise(FetchClass::kDemand);
  transport_.Pass(20ms);
  transport_.Send(kChunk / 2);
  transport_.EndCancelled();
  transport_.Send(kChunk, std::byte(2));
  transport_.Answer(absl::OkStatus());
  EXPECT_THAT(came_, ElementsAre(0));
  EXPECT_THAT(values_, ElementsAre(std::byte(2))) << "and not twice half of it";
  EXPECT_TRUE(done_.has_value() && done_->ok());
}

TEST_F(MemberSourceTest, OneClassOfFillsForAnotherAndAReadersOwnForAnotherChangeNothing) {
  Fetch(FetchClass::kBackfill);
  handle_.Raise(FetchClass::kHint);
  transport_.Pass(1s);
  EXPECT_FALSE(transport_.open.front().cancelled);
  handle_.Raise(FetchClass::kReadahead);
  transport_.Pass(20ms);
  transport_.EndCancelled();
  handle_.Raise(FetchClass::kDemand);
  transport_.Pass(1s);
  EXPECT_FALSE(transport_.open.front().cancelled) << "a member lets neither wait for its turn";
  EXPECT_THAT(transport_.history, ElementsAre("node-1 backfill", "node-1 readahead"));
}

TEST_F(MemberSourceTest, WhoIsCancelledBesideThatIsNotAskedAgain) {
  Fetch(FetchClass::kHint);
  handle_.Raise(FetchClass::kDemand);
  transport_.Pass(20ms);
  handle_ = FetchHandle();
  transport_.EndCancelled();
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint"));
  EXPECT_TRUE(done_.has_value() && absl::IsCancelled(*done_));
}

// By another of what this node has asked it for.
TEST_F(MemberSourceTest, WhoHasFailedMeanwhileIsNotAskedAgain) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"));
  health_.Failed("node-1", clock_.now, "it says nothing");
  transport_.Pass(500ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint"));
  EXPECT_TRUE(done_.has_value() && absl::IsUnavailable(*done_));
}

TEST_F(MemberSourceTest, WhatAHelperBreaksOffDoesNotFlowUntilItComesAnew) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"), {"node-2", "node-3"});
  transport_.Pass(20ms);
  EXPECT_FALSE(progress_->flows());
  transport_.Send(1);
  EXPECT_TRUE(progress_->flows());
  transport_.Answer(absl::UnavailableError("broken off"));
  EXPECT_FALSE(progress_->flows()) << "another is asked for it";
  transport_.Pass(20ms);
  transport_.Send(kChunk);
  transport_.Answer(absl::OkStatus());
  EXPECT_TRUE(progress_->flows()) << "it has come";
  EXPECT_THAT(came_, ElementsAre(0));
}

TEST_F(MemberSourceTest, ThoseNamedLongAgoAreNotAsked) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"), {"node-2", "node-3"});
  transport_.Pass(20ms);
  transport_.Pass(250ms);
  transport_.Answer(absl::UnavailableError("silent"));
  transport_.Pass(100ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint", "node-2 hint", "node-1 hint"))
      << "it knows better by now";
}

TEST_F(MemberSourceTest, ThoseNamedJustNowAre) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"), {"node-2", "node-3"});
  transport_.Pass(20ms);
  transport_.Answer(absl::NotFoundError("absent"));
  transport_.Pass(20ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint", "node-2 hint", "node-3 hint"));
}

TEST_F(MemberSourceTest, AHelperThatHasFailedMeanwhileIsNotAsked) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"), {"node-2", "node-3"});
  transport_.Pass(20ms);
  health_.Failed("node-3", clock_.now, "it says nothing");
  transport_.Answer(absl::NotFoundError("absent"));
  transport_.Pass(100ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint", "node-2 hint", "node-1 hint"));
}

// It would come in vain.
TEST_F(MemberSourceTest, AFillComesAgainAfterHalfOfTheTimeOrMore) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"));
  transport_.Pass(74ms);
  EXPECT_EQ(transport_.history.size(), 1);
  transport_.Pass(1ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 hint", "node-1 hint"));
}

TEST_F(MemberSourceTest, AReaderMayComeSooner) {
  Fetch(FetchClass::kDemand);
  transport_.Answer(absl::ResourceExhaustedError("busy"));
  transport_.Pass(8ms);
  EXPECT_THAT(transport_.history, ElementsAre("node-1 demand", "node-1 demand"));
}

// Where others wait, or nobody reads: a reader of this host asks two beside each other.
TEST_F(MemberSourceTest, WhoIsAskedForWhatItHasMayBeQuietForAMomentOnly) {
  const auto quiet_max = [&](FetchClass fetch_class, PeerRole role, Asker asker) {
    Fetch(fetch_class, role, asker);
    transport_.Answer(absl::NotFoundError("it is not here"));
    return transport_.quiet_max;
  };
  const Duration shortest = quiet_max(FetchClass::kHint, PeerRole::kPresentOnly, Asker::kLocal);
  EXPECT_TRUE(Duration(0) < shortest && shortest < PeerClientOptions().present_silence_max);
  EXPECT_EQ(quiet_max(FetchClass::kDemand, PeerRole::kPresentOnly, Asker::kPeer), shortest);
  EXPECT_EQ(quiet_max(FetchClass::kDemand, PeerRole::kPresentOnly, Asker::kLocal), Duration(0));
  EXPECT_EQ(quiet_max(FetchClass::kHint, PeerRole::kHome, Asker::kLocal), Duration(0));
}

TEST_F(MemberSourceTest, WhoWasQuietOnceIsNotSkippedAndWhoIsAgainWillBe) {
  const auto is_usable_after = [&] {
    Fetch(FetchClass::kHint, PeerRole::kPresentOnly);
    transport_.Answer(absl::UnavailableError("no byte came for 100 ms"));
    EXPECT_TRUE(done_.has_value() && absl::IsUnavailable(*done_));
    return health_.Usable("node-1", clock_.now);
  };
  EXPECT_TRUE(is_usable_after()) << "it may only be slow";
  clock_.now += 100ms;
  EXPECT_FALSE(is_usable_after());
}

TEST_F(MemberSourceTest, WhoHasSaidSomethingFailsAsOthersDo) {
  for (const bool sends : {false, true}) {
    Fetch(FetchClass::kHint, PeerRole::kPresentOnly);
    sends ? transport_.Send(1) : transport_.open.front().on_sign(false);
    transport_.Answer(absl::UnavailableError("no byte came for 1500 ms"));
    EXPECT_FALSE(health_.Usable("node-1", clock_.now)) << sends;
    clock_.now += 10s;
  }
}

TEST_F(MemberSourceTest, AClientThatIsStoppedEndsWhatIsPutOffOnce) {
  Fetch(FetchClass::kHint);
  transport_.Answer(absl::ResourceExhaustedError("busy"));
  handle_.Raise(FetchClass::kDemand);  // two timers, of which one is of no more use
  transport_.DropTimers();
  EXPECT_TRUE(done_.has_value() && absl::IsCancelled(*done_));
}

}  // namespace
}  // namespace sluice::p2p
