// What a mount needs, asked of homes that are busy, silent, slow, refuse or lie, over real sockets.

#include "p2p/cluster/home_documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/registry_documents.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/gate_queue.h"
#include "p2p/cluster/member_rounds.h"
#include "p2p/cluster/ranks.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr char kNodeId[] = "0123456789abcdef";
constexpr Duration kSilence = 200ms;
const BlobOrigin kPlace{"registry.example:5000", "team/app"};

class HandClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now() + ahead.load(); }
  std::atomic<Duration> ahead{};
};

// Three members that answer as told, and this node; which of them is the home of a document its digest says.
class HomeDocumentsTest : public ::testing::Test {
 protected:
  HomeDocumentsTest() {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = {"self", {{"127.0.0.1", 1}}, "", kProtocolMajor, 5};
    members_ = std::make_unique<Members>(std::move(options));
    members_->Start();
    for (const std::string name : {"a", "b", "c", "d"}) {
      const HostPort at{"127.0.0.1", servers_[name].port()};
      members_->Change([&](MemberTable& table, Instant now) {
        table.HeardFrom({name, {at}, "", kProtocolMajor, 5}, at, now);
      });
    }
    Make(kSilence, DocumentAsking::Parts::kLateAfter);
  }
  void Make(Duration silence, Duration late_after) {
    PeerClientOptions client;
    client.node_id = kNodeId;
    client.name = "self";
    client.silence_max = silence;
    client_ = std::make_unique<PeerClient>(telemetry_, client);
    homes_ =
        std::make_unique<HomeDocuments>(DocumentAsking::Parts{clock_, io_, *members_, health_, *client_,
                                                              [](const std::string&) {}, nullptr, late_after},
                                        telemetry_, [this] { return cold_.load(); });
  }
  ~HomeDocumentsTest() override {
    client_->Stop();
    io_.Stop();
    members_->Stop();
  }

  std::vector<std::string> RanksOf(const Digest& digest) {
    std::vector<std::string> names;
    for (const Member& member : RanksBeforeSelf(*members_->view(), digest, MemberHealth(), 10, clock_.Now()))
      names.push_back(member.name);
    return names;
  }
  // A text whose document so many others are asked for before this node.
  std::string TextBehind(size_t others) {
    for (int i = 0;; ++i) {
      std::string text = absl::StrCat("document ", i);
      if (RanksOf(Sha256::Of(text)).size() == others) return text;
    }
  }
  static std::string PathOf(const Digest& digest) {
    return absl::StrCat("/v2/team/app/manifests/", digest.ToString());
  }
  FaultOrigin& Home(const Digest& digest, size_t rank) { return servers_[RanksOf(digest).at(rank)]; }
  static FaultBehaviour Gives(std::string body) {
    return fault::Status(200, {{"Sluice-Node", "other"}, {"Content-Type", "application/x-test; charset=x"}},
                         std::move(body));
  }
  static FaultBehaviour Refuses(int status) {
    return fault::Status(status, {{"Sluice-Node", "other"}}, "{}");
  }

  absl::StatusOr<FetchedManifest> Manifest(const std::string& tag_or_digest) {
    std::promise<absl::StatusOr<FetchedManifest>> promise;
    homes_->Manifest(kPlace, tag_or_digest, [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  }
  size_t Asked(const std::string& path) {
    size_t count = 0;
    for (const auto& [name, server] : servers_) count += server.request_count(path);
    return count;
  }

  std::atomic<bool> cold_{false};  // it is still learnt who the members are
  HandClock clock_;
  AsioExecutor io_{"io", 2};
  Telemetry telemetry_;
  MemberHealth health_;
  std::map<std::string, FaultOrigin> servers_;
  std::unique_ptr<Members> members_;
  std::unique_ptr<PeerClient> client_;
  std::unique_ptr<HomeDocuments> homes_;
};

TEST_F(HomeDocumentsTest, TheHomeIsAskedAsSuch) {
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  Home(digest, 0).Always(PathOf(digest), Gives(text));
  const absl::StatusOr<FetchedManifest> got = Manifest(digest.ToString());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->body, text);
  EXPECT_EQ(got->media_type, "application/x-test");
  EXPECT_EQ(got->digest, digest);
  EXPECT_EQ(got->access, OriginAccess::kHearsay);
  ASSERT_EQ(Asked(PathOf(digest)), 1u);
  const FaultRequest request = Home(digest, 0).requests(PathOf(digest)).front();
  EXPECT_EQ(request.Header("sluice-role"), "home");
  EXPECT_EQ(request.query, "ns=registry.example:5000");
}

TEST_F(HomeDocumentsTest, WhoIsTheHomeItselfAsksNobody) {
  const Digest digest = Sha256::Of(TextBehind(0));
  EXPECT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Asked(PathOf(digest)), 0u);
  // Those behind this node are not asked when those before it failed.
  const Digest behind_one = Sha256::Of(TextBehind(1));
  Home(behind_one, 0).Always(PathOf(behind_one), fault::Hangup());
  EXPECT_EQ(Manifest(behind_one.ToString()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Asked(PathOf(behind_one)), Home(behind_one, 0).request_count(PathOf(behind_one)));
}

TEST_F(HomeDocumentsTest, WhatIsAskedBeforeMembersAreKnownWaitsForThem) {
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  Home(digest, 0).Always(PathOf(digest), Gives(text));
  cold_ = true;
  std::promise<absl::StatusOr<FetchedManifest>> promise;
  std::future<absl::StatusOr<FetchedManifest>> given = promise.get_future();
  homes_->Manifest(kPlace, digest.ToString(), [&](auto got) { promise.set_value(std::move(got)); });
  EXPECT_EQ(given.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  EXPECT_EQ(Asked(PathOf(digest)), 0u) << "whose home it is is not known yet";
  cold_ = false;
  const absl::StatusOr<FetchedManifest> got = given.get();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->body, text);
}

TEST_F(HomeDocumentsTest, MembersAreNotWaitedForForEver) {
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  Home(digest, 0).Always(PathOf(digest), Gives(text));
  cold_ = true;
  std::promise<absl::StatusOr<FetchedManifest>> promise;
  homes_->Manifest(kPlace, digest.ToString(), [&](auto got) { promise.set_value(std::move(got)); });
  clock_.ahead = std::chrono::duration_cast<Duration>(MemberRounds::kColdStartMax);
  EXPECT_TRUE(promise.get_future().get().ok());
}

TEST_F(HomeDocumentsTest, WhoStopsMeanwhileLearnsIt) {
  cold_ = true;
  std::promise<absl::StatusOr<FetchedManifest>> promise;
  homes_->Manifest(kPlace, "tag", [&](auto got) { promise.set_value(std::move(got)); });
  client_->Stop();
  EXPECT_TRUE(absl::IsCancelled(promise.get_future().get().status()));
}

TEST_F(HomeDocumentsTest, AHomeThatLiesIsBlamedAndTheNextIsAsked) {
  const std::string text = TextBehind(2);
  const Digest digest = Sha256::Of(text);
  const std::string liar = RanksOf(digest)[0];
  Home(digest, 0).Always(PathOf(digest), Gives("a lie"));
  Home(digest, 1).Always(PathOf(digest), Gives(text));
  EXPECT_EQ(Manifest(digest.ToString()).value_or(FetchedManifest()).body, text);
  EXPECT_EQ(health_.RecordOf(liar, clock_.Now()).wrong_answers, 1u);
  EXPECT_FALSE(health_.Usable(liar, clock_.Now()));
}

TEST_F(HomeDocumentsTest, ForOneThatIsDeadBusyOrSilentTheNextIsAsked) {
  const FaultBehaviour kCases[] = {fault::Hangup(), Refuses(503), Refuses(429), Refuses(500),
                                   [](const FaultRequest&, FaultConnection& to) { to.Stall(); }};
  for (const FaultBehaviour& behaviour : kCases) {
    const std::string text = TextBehind(2);
    const Digest digest = Sha256::Of(text);
    Home(digest, 0).Always(PathOf(digest), behaviour);
    Home(digest, 1).Always(PathOf(digest), Gives(text));
    EXPECT_EQ(Manifest(digest.ToString()).value_or(FetchedManifest()).body, text);
    clock_.ahead = clock_.ahead.load() + 2 * MemberHealth::kSkipMax;
  }
}

TEST_F(HomeDocumentsTest, WhereTwoAreGoneAtOnceTheThirdIsAsked) {
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  Home(digest, 0).Always(PathOf(digest), [](const FaultRequest&, FaultConnection& to) { to.Stall(); });
  Home(digest, 1).Always(PathOf(digest), fault::Hangup());
  Home(digest, 2).Always(PathOf(digest), Gives(text));
  EXPECT_EQ(Manifest(digest.ToString()).value_or(FetchedManifest()).body, text);
}

TEST_F(HomeDocumentsTest, AfterThreeTheRegistryIsAskedAsALastResort) {
  const Digest digest = Sha256::Of(TextBehind(4));
  for (size_t rank = 0; rank < 4; ++rank) Home(digest, rank).Always(PathOf(digest), Refuses(503));
  EXPECT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Asked(PathOf(digest)), 3u);
}

// Who is skipped just now is a member all the same, and this node no rank for that.
TEST_F(HomeDocumentsTest, WhoIsNoRankIsNoneThoughOthersAreSkipped) {
  const Digest digest = Sha256::Of(TextBehind(3));
  for (const std::string& name : RanksOf(digest)) health_.SentWrong(name, clock_.Now(), "a lie");
  EXPECT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Asked(PathOf(digest)), 0u);
}

TEST_F(HomeDocumentsTest, WhoReachesFewMembersIsNobodysHome) {
  const Digest digest = Sha256::Of(TextBehind(0));
  ASSERT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kNotFound);
  for (const char* const name : {"a", "b", "c", "d"})
    members_->Change([&](MemberTable& table, Instant now) { table.NoteSilence(name, now); });
  EXPECT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kUnavailable);
}

// It lives, and another would know no better.
TEST_F(HomeDocumentsTest, AHomeThatRefusesSendsEachToTheRegistry) {
  for (const int status : {403, 404}) {
    const Digest digest = Sha256::Of(TextBehind(3));
    for (size_t rank = 0; rank < 3; ++rank) Home(digest, rank).Always(PathOf(digest), Refuses(status));
    const size_t before = Asked(PathOf(digest));
    EXPECT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(Asked(PathOf(digest)), before + 1) << status;
    EXPECT_TRUE(health_.Usable(RanksOf(digest)[0], clock_.Now())) << status;
  }
}

TEST_F(HomeDocumentsTest, AHomeThatSaysThatItIsAtItIsWaitedFor) {
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  Home(digest, 0).Always(PathOf(digest), [&](const FaultRequest& request, FaultConnection& to) {
    for (int i = 0; i < 6; ++i) {
      to.SendRaw("HTTP/1.1 102 Processing\r\n\r\n");
      std::this_thread::sleep_for(kSilence / 2);
    }
    Gives(text)(request, to);
  });
  EXPECT_EQ(Manifest(digest.ToString()).value_or(FetchedManifest()).body, text);
  EXPECT_EQ(Asked(PathOf(digest)), 1u);
}

TEST_F(HomeDocumentsTest, BesideAHomeThatSaysNothingTheNextIsAsked) {
  Make(/*silence=*/60s, /*late_after=*/20ms);
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  std::promise<void> promise;
  const std::shared_future<void> third_asked = promise.get_future().share();
  std::promise<bool> beside[2];
  for (size_t rank : {0, 1})
    Home(digest, rank).Always(PathOf(digest), [&, rank](const FaultRequest&, FaultConnection& to) {
      to.CloseAfter();
      beside[rank].set_value(third_asked.wait_for(10s) == std::future_status::ready);
    });
  Home(digest, 2).Always(PathOf(digest), [&](const FaultRequest& request, FaultConnection& to) {
    promise.set_value();
    Gives(text)(request, to);
  });
  EXPECT_EQ(Manifest(digest.ToString()).value_or(FetchedManifest()).body, text);
  for (std::promise<bool>& was_beside : beside) EXPECT_TRUE(was_beside.get_future().get());
}

TEST_F(HomeDocumentsTest, NobodyIsAskedBesideAHomeThatIsAtIt) {
  Make(/*silence=*/60s, /*late_after=*/1s);
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  Home(digest, 0).Always(PathOf(digest), [&](const FaultRequest& request, FaultConnection& to) {
    to.SendRaw("HTTP/1.1 102 Processing\r\n\r\n");
    std::this_thread::sleep_for(1300ms);
    Gives(text)(request, to);
  });
  EXPECT_EQ(Manifest(digest.ToString()).value_or(FetchedManifest()).body, text);
  EXPECT_EQ(Asked(PathOf(digest)), 1u);
}

// The first answer counts, whoever gives it; and one that fails while another is asked is replaced by nobody.
TEST_F(HomeDocumentsTest, AHomeThatWasLateMayStillAnswerOrFail) {
  for (const bool answers : {true, false}) {
    Make(/*silence=*/60s, /*late_after=*/20ms);  // with no connection that is kept, and tried again
    const std::string text = TextBehind(3);
    const Digest digest = Sha256::Of(text);
    std::promise<void> second_asked, first_over, second_over;
    Home(digest, 0).Always(PathOf(digest), [&](const FaultRequest& request, FaultConnection& to) {
      second_asked.get_future().wait();
      (answers ? Gives(text) : fault::Hangup())(request, to);
      first_over.set_value();
    });
    Home(digest, 1).Always(PathOf(digest), [&](const FaultRequest& request, FaultConnection& to) {
      to.SendRaw("HTTP/1.1 102 Processing\r\n\r\n");
      second_asked.set_value();
      first_over.get_future().wait();
      std::this_thread::sleep_for(100ms);
      Gives(text)(request, to);
      second_over.set_value();
    });
    EXPECT_EQ(Manifest(digest.ToString()).value_or(FetchedManifest()).body, text);
    second_over.get_future().wait();
    EXPECT_EQ(Home(digest, 2).request_count(PathOf(digest)), 0u);
  }
}

TEST_F(HomeDocumentsTest, WhereAllSayNothingItIsOverWithTheLast) {
  Make(kSilence, /*late_after=*/20ms);
  const Digest digest = Sha256::Of(TextBehind(4));
  for (size_t rank = 0; rank < 4; ++rank)
    Home(digest, rank).Always(PathOf(digest), [](const FaultRequest&, FaultConnection& to) { to.Stall(); });
  EXPECT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Asked(PathOf(digest)), 3u);
  for (size_t rank = 0; rank < 3; ++rank)
    EXPECT_FALSE(health_.Usable(RanksOf(digest)[rank], clock_.Now())) << rank;
}

TEST_F(HomeDocumentsTest, ATagHasAHomeOfItsOwnWhichIsBelieved) {
  int tag = 0;
  const auto key = [&] { return Sha256::Of(absl::StrCat("registry.example:5000/team/app:v", tag)); };
  while (RanksOf(key()).size() != 3) ++tag;
  const std::string path = absl::StrCat("/v2/team/app/manifests/v", tag);
  Home(key(), 0).Always(path, Gives("whatever it says"));
  const absl::StatusOr<FetchedManifest> got = Manifest(absl::StrCat("v", tag));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->body, "whatever it says");
  EXPECT_EQ(got->digest, Sha256::Of("whatever it says"));
}

TEST_F(HomeDocumentsTest, WholeBlobsAndReferrersHaveTheirPaths) {
  const std::string text = TextBehind(3);
  const Digest digest = Sha256::Of(text);
  const std::string blob = absl::StrCat("/v2/team/app/blobs/", digest.ToString());
  const std::string referrers = absl::StrCat("/v2/team/app/referrers/", digest.ToString());
  Home(digest, 0).Always(blob, Gives(text));
  Home(digest, 0).Always(referrers, Gives("{}"));
  std::promise<absl::StatusOr<FetchedManifest>> whole, list, large;
  homes_->Blob(kPlace, digest, 1000, [&](auto got) { whole.set_value(std::move(got)); });
  homes_->Referrers(kPlace, digest, [&](auto got) { list.set_value(std::move(got)); });
  homes_->Blob(kPlace, digest, HomeDocuments::kBlobBytesMax + 1,
               [&](auto got) { large.set_value(std::move(got)); });
  EXPECT_EQ(whole.get_future().get().value_or(FetchedManifest()).body, text);
  EXPECT_EQ(list.get_future().get().value_or(FetchedManifest()).body, "{}");
  EXPECT_EQ(large.get_future().get().status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Home(digest, 0).requests(blob).front().query, HasSubstr("part=whole"));
}

// ------------------------------------------------------------------- whole blobs come from those that have
// them

// The registry as a last resort, behind a gate that opens when the test says so.
class LastResortDocumentsTest : public HomeDocumentsTest {
 protected:
  class Gate final : public FetchGate {
   public:
    bool MayBegin(bool, Instant) override { return may_begin; }
    void Began(uint64_t bytes, Instant) override {
      asked += bytes;
      ++under_way;
    }
    void Ended(uint64_t, Duration, Instant) override { --under_way; }
    void Cancelled(uint64_t, Instant) override { --under_way; }
    Instant LookAgainAt(Instant now) override { return now + 10ms; }
    absl::Status TooLate() const override { return absl::DeadlineExceededError("not in time"); }
    std::atomic<bool> may_begin{false};
    std::atomic<uint64_t> asked{0};
    std::atomic<int> under_way{0};
  };

  LastResortDocumentsTest() {
    RegistryOptions options;
    options.retries_max = 0;
    registry_client_ =
        std::make_unique<RegistryClient>(RegistryClient::Parts{clock_, io_, telemetry_}, options);
    from_registry_ =
        std::make_unique<RegistryDocuments>(clock_, io_, *registry_client_, RegistryDocuments::kKeep);
    auto gate = std::make_unique<Gate>();
    gate_ = gate.get();
    queue_ = std::make_shared<GateQueue>(GateQueue::Parts{clock_, io_}, std::move(gate));
    documents_ =
        std::make_unique<ImageDocuments>(*from_registry_, homes_.get(), ImageDocuments::Tags::kFromHome,
                                         nullptr, ImageDocuments::LastResort{clock_, queue_});
  }
  ~LastResortDocumentsTest() override {
    client_->Stop();
    registry_client_->Stop();
    queue_->FailAll(absl::CancelledError());
    io_.Stop();
  }
  // A manifest that the registry has, and for which so many others are asked before this node.
  Digest ManifestBehind(size_t others) {
    for (int i = 0;; ++i) {
      const std::string text = absl::StrCat("{\"number\":", i, "}");
      if (RanksOf(Sha256::Of(text)).size() != others) continue;
      return registry_.AddManifest("team/app", absl::StrCat("v", i), kIndexType, text);
    }
  }
  std::future<absl::StatusOr<FetchedManifest>> Ask(const Digest& digest) {
    auto promise = std::make_shared<std::promise<absl::StatusOr<FetchedManifest>>>();
    documents_->Manifest({registry_.registry(), "team/app"}, digest.ToString(),
                         [promise](auto got) { promise->set_value(std::move(got)); });
    return promise->get_future();
  }

  static constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";
  FaultOrigin registry_;
  std::unique_ptr<RegistryClient> registry_client_;
  std::unique_ptr<RegistryDocuments> from_registry_;
  Gate* gate_ = nullptr;
  std::shared_ptr<GateQueue> queue_;
  std::unique_ptr<ImageDocuments> documents_;
};

TEST_F(LastResortDocumentsTest, WhoIsNoRankAsksTheRegistryInItsTurn) {
  const Digest digest = ManifestBehind(4);
  for (size_t rank = 0; rank < 3; ++rank) Home(digest, rank).Always(PathOf(digest), Refuses(503));
  auto got = Ask(digest);
  EXPECT_EQ(got.wait_for(100ms), std::future_status::timeout);
  EXPECT_EQ(registry_.request_count(PathOf(digest)), 0u);
  gate_->may_begin = true;
  EXPECT_EQ(got.get().value_or(FetchedManifest()).digest, digest);
  EXPECT_EQ(registry_.request_count(PathOf(digest)), 1u);
  EXPECT_EQ(gate_->asked, ImageDocuments::kSizeUnknown);
  EXPECT_EQ(gate_->under_way, 0);
}

TEST_F(LastResortDocumentsTest, WhoseTurnDoesNotComeIsToldWhy) {
  const Digest digest = ManifestBehind(4);
  for (size_t rank = 0; rank < 3; ++rank) Home(digest, rank).Always(PathOf(digest), Refuses(503));
  auto got = Ask(digest);
  EXPECT_EQ(got.wait_for(100ms), std::future_status::timeout);
  clock_.ahead = HomeDocuments::kPatience;
  EXPECT_TRUE(absl::IsDeadlineExceeded(got.get().status()));
  EXPECT_EQ(registry_.request_count(PathOf(digest)), 0u);
}

TEST_F(LastResortDocumentsTest, WhoMayAskTheRegistryAsksAtOnce) {
  const Digest refused = ManifestBehind(4);
  Home(refused, 0).Always(PathOf(refused), Refuses(403));
  EXPECT_EQ(Ask(refused).get().value_or(FetchedManifest()).digest, refused) << "each has to ask for itself";
  for (const size_t others : {0, 2}) {
    const Digest digest = ManifestBehind(others);
    for (size_t rank = 0; rank < others; ++rank) Home(digest, rank).Always(PathOf(digest), fault::Hangup());
    EXPECT_EQ(Ask(digest).get().value_or(FetchedManifest()).digest, digest);
  }
  EXPECT_EQ(gate_->asked, 0u);
}

TEST_F(LastResortDocumentsTest, WhatStillWaitsWhenTheNodeStopsIsCancelled) {
  const Digest digest = ManifestBehind(4);
  for (size_t rank = 0; rank < 3; ++rank) Home(digest, rank).Always(PathOf(digest), Refuses(503));
  auto got = Ask(digest);
  EXPECT_EQ(got.wait_for(100ms), std::future_status::timeout);
  documents_.reset();
  queue_.reset();
  EXPECT_TRUE(absl::IsCancelled(got.get().status()));
  queue_ = std::make_shared<GateQueue>(GateQueue::Parts{clock_, io_}, std::make_unique<Gate>());
}

// A home that sends the blob to others just now.
class SpreadDocumentsTest : public HomeDocumentsTest {
 protected:
  SpreadDocumentsTest() {
    text_ = TextBehind(2);
    digest_ = Sha256::Of(text_);
    path_ = absl::StrCat("/v2/team/app/blobs/", digest_.ToString());
    for (const auto& [name, server] : servers_) {
      const std::vector<std::string> homes = RanksOf(digest_);
      if (std::ranges::find(homes, name) == homes.end()) others_.push_back(name);
    }
  }
  static FaultBehaviour SendsOnTo(const std::string& helpers, const std::string& retry_ms = "1") {
    return fault::Status(
        503, {{"Sluice-Node", "other"}, {"Sluice-Retry-Ms", retry_ms}, {"Sluice-Helpers", helpers}}, "{}");
  }
  absl::StatusOr<FetchedManifest> Blob() {
    std::promise<absl::StatusOr<FetchedManifest>> promise;
    homes_->Blob(kPlace, digest_, 1000, [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  }
  std::string BodyOfBlob() { return Blob().value_or(FetchedManifest()).body; }
  FaultOrigin& TheHome() { return Home(digest_, 0); }
  FaultOrigin& Other(size_t i) { return servers_.at(others_[i]); }

  std::string text_, path_;
  Digest digest_;
  std::vector<std::string> others_;  // two that are none of its homes
};

TEST_F(SpreadDocumentsTest, WhomABusyHomeNamesIsAskedForWhatItHas) {
  TheHome().Always(path_, SendsOnTo(others_[0]));
  Other(0).Always(path_, Gives(text_));
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(TheHome().requests(path_).front().Header("sluice-from"), "self");
  ASSERT_EQ(Other(0).request_count(path_), 1u);
  const FaultRequest request = Other(0).requests(path_).front();
  EXPECT_EQ(request.Header("sluice-role"), "present-only");
  EXPECT_EQ(request.Header("sluice-from"), "self");
  EXPECT_THAT(request.query, HasSubstr("part=whole"));
  EXPECT_EQ(Home(digest_, 1).request_count(path_), 0u) << "it would ask the registry beside";
}

TEST_F(SpreadDocumentsTest, ThoseThatAreNamedAreAskedInThatOrder) {
  TheHome().Always(path_, SendsOnTo(absl::StrCat(others_[1], ",nobody,self,", others_[0])));
  Other(1).Always(path_, Refuses(404));
  Other(0).Always(path_, [&](const FaultRequest& request, FaultConnection& to) {
    EXPECT_EQ(Other(1).request_count(path_), 1u);
    Gives(text_)(request, to);
  });
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(TheHome().request_count(path_), 1u);
}

TEST_F(SpreadDocumentsTest, WhoWasOfNoUseIsToldToTheHomeAndWhoWasBusyIsNot) {
  TheHome().Script(path_, {SendsOnTo(absl::StrCat(others_[0], ",", others_[1])), Gives(text_)});
  Other(0).Always(path_, Refuses(404));
  Other(1).Always(path_, SendsOnTo(""));
  EXPECT_EQ(BodyOfBlob(), text_);
  ASSERT_EQ(TheHome().request_count(path_), 2u);
  EXPECT_EQ(TheHome().requests(path_)[0].Header("sluice-tried"), "");
  EXPECT_EQ(TheHome().requests(path_)[1].Header("sluice-tried"), others_[0]);
  EXPECT_EQ(TheHome().requests(path_)[1].Header("sluice-role"), "home");
}

TEST_F(SpreadDocumentsTest, AHelperThatLiesIsBlamedAndTheHomeAskedAgain) {
  TheHome().Script(path_, {SendsOnTo(others_[0]), Gives(text_)});
  Other(0).Always(path_, Gives("a lie"));
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(health_.RecordOf(others_[0], clock_.Now()).wrong_answers, 1u);
}

TEST_F(SpreadDocumentsTest, AHomeThatNamesNobodyIsAskedAgainAndNoOther) {
  TheHome().Script(path_, {SendsOnTo(""), SendsOnTo(""), SendsOnTo(""), Gives(text_)});
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(TheHome().request_count(path_), 4u);
  EXPECT_EQ(Home(digest_, 1).request_count(path_), 0u);
  EXPECT_TRUE(health_.Usable(RanksOf(digest_)[0], clock_.Now())) << "busy is not dead";
}

TEST_F(SpreadDocumentsTest, AHelperThatSaysNothingHoldsNobodyUp) {
  Make(/*silence=*/60s, /*late_after=*/20ms);
  TheHome().Script(path_, {SendsOnTo(others_[0]), Gives(text_)});
  Other(0).Always(path_, [](const FaultRequest&, FaultConnection& to) { to.Stall(); });
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(TheHome().request_count(path_), 2u);
}

TEST_F(SpreadDocumentsTest, WhoIsOnlyPutOffForLongGoesOnToTheNextHome) {
  TheHome().Always(path_, [&](const FaultRequest& request, FaultConnection& to) {
    clock_.ahead = HomeDocuments::kPatience;
    SendsOnTo(others_[0])(request, to);
  });
  Home(digest_, 1).Always(path_, Gives(text_));
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(TheHome().request_count(path_), 1u);
}

TEST_F(SpreadDocumentsTest, WhatIsSmallIsNotWaitedForAtABusyHome) {
  Home(digest_, 0).Always(PathOf(digest_), SendsOnTo(others_[0]));
  Home(digest_, 1).Always(PathOf(digest_), Gives(text_));
  EXPECT_EQ(Manifest(digest_.ToString()).value_or(FetchedManifest()).body, text_);
  EXPECT_EQ(Home(digest_, 0).request_count(PathOf(digest_)), 1u);
  EXPECT_EQ(Home(digest_, 0).requests(PathOf(digest_)).front().Header("sluice-from"), "");
  EXPECT_EQ(Other(0).request_count(PathOf(digest_)), 0u);
}

// One that fails is told of to nobody: the next home is no helper.
TEST_F(SpreadDocumentsTest, OfHomesNobodyIsTold) {
  TheHome().Always(path_, fault::Hangup());
  Home(digest_, 1).Always(path_, Gives(text_));
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(Home(digest_, 1).requests(path_).front().Header("sluice-tried"), "");
}

// Who names others without end.
TEST_F(SpreadDocumentsTest, HelpersThatNameEachOtherLeadBackToTheHome) {
  TheHome().Script(path_, {SendsOnTo(others_[0]), Gives(text_)});
  Other(0).Always(path_, SendsOnTo(others_[1]));
  Other(1).Always(path_, SendsOnTo(absl::StrCat(others_[1], ",", others_[0])));
  EXPECT_EQ(BodyOfBlob(), text_);
  for (size_t i : {0, 1}) EXPECT_EQ(Other(i).request_count(path_), 1u);
}

// It is not busy with sending: its registry may be away, or it has too much to do.
TEST_F(SpreadDocumentsTest, AHomeThatSaysNoTimeIsNotWaitedFor) {
  TheHome().Always(path_, Refuses(503));
  Home(digest_, 1).Always(path_, Gives(text_));
  EXPECT_EQ(BodyOfBlob(), text_);
  EXPECT_EQ(TheHome().request_count(path_), 1u);
}

TEST_F(SpreadDocumentsTest, StoppingEndsTheWaitForABusyHome) {
  Make(kSilence, /*late_after=*/1ms);
  std::promise<void> promise;
  TheHome().Always(path_, [&](const FaultRequest& request, FaultConnection& to) {
    SendsOnTo("", "2000")(request, to);
    if (TheHome().request_count(path_) == 1) promise.set_value();
  });
  auto waiting = std::async(std::launch::async, [&] { return Blob().status(); });
  promise.get_future().wait();
  std::this_thread::sleep_for(2ms);  // in which it begins to wait, mostly
  client_->Stop();
  EXPECT_EQ(waiting.get().code(), absl::StatusCode::kCancelled);
}

TEST_F(SpreadDocumentsTest, AHelperThatIsNotAskedJustNowIsOfNoUse) {
  while (health_.Usable(others_[0], clock_.Now())) health_.Failed(others_[0], clock_.Now(), "it is gone");
  TheHome().Script(path_, {SendsOnTo(others_[0]), Gives(text_)});
  EXPECT_EQ(BodyOfBlob(), text_);
  ASSERT_EQ(TheHome().request_count(path_), 2u);
  EXPECT_EQ(TheHome().requests(path_)[1].Header("sluice-tried"), others_[0]);
  EXPECT_EQ(Other(0).request_count(path_), 0u);
}

TEST_F(HomeDocumentsTest, ATableIsHeldAgainstItsOwnDigest) {
  const std::string table = "a seek table";
  const Digest stored_digest = Sha256::Of(TextBehind(2));
  const StoredForm stored{stored_digest, 1000, SeekTablePlace{{988, 12}, Sha256::Of(table)}};
  const std::string path = absl::StrCat("/v2/team/app/blobs/", stored_digest.ToString());
  FaultOrigin& second = Home(stored_digest, 1);
  Home(stored_digest, 0).Always(path, Gives("another table"));
  second.Always(path, Gives(table));
  std::promise<absl::StatusOr<FetchedManifest>> promise;
  homes_->Table(kPlace, stored, nullptr, [&](auto got) { promise.set_value(std::move(got)); });
  EXPECT_EQ(promise.get_future().get().value_or(FetchedManifest()).body, table);
  ASSERT_EQ(second.request_count(path), 1u);
  EXPECT_EQ(second.requests(path).front().query,
            absl::StrCat("ns=registry.example:5000&part=table&at=988:12:", Sha256::Of(table).ToString(),
                         "&size=1000"));
}

TEST_F(HomeDocumentsTest, ATokenComesFromTheHomeOfItsRepository) {
  BlobOrigin place{"registry.example:5000", ""};
  const auto key = [&] { return Sha256::Of(absl::StrCat(place.registry, "/", place.repository)); };
  for (int i = 0; place.repository.empty() || RanksOf(key()).size() != 3; ++i)
    place.repository = absl::StrCat("team/app", i);
  const std::string path = "/sluice/v1/token";
  Home(key(), 0).Script(path, {Gives(R"({"token":"t","expires_in":60})"), Gives("no token")});
  const auto token = [&] {
    std::promise<absl::StatusOr<AccessToken>> promise;
    homes_->Token(place, [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  };
  const absl::StatusOr<AccessToken> got = token();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->value, "t");
  EXPECT_EQ(got->lifetime, 60s);
  EXPECT_EQ(Home(key(), 0).requests(path).front().query,
            absl::StrCat("ns=registry.example:5000&name=", place.repository));
  EXPECT_EQ(token().status().code(), absl::StatusCode::kDataLoss);
}

TEST(TableQueryTest, SaysWhereTheTableIs) {
  const Digest blob = Sha256::Of("blob"), table = Sha256::Of("table");
  const std::string at = absl::StrCat("988:12:", table.ToString());
  const absl::StatusOr<StoredForm> stored = ParseTableQuery(blob, at, "1000");
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(*stored, (StoredForm{blob, 1000, SeekTablePlace{{988, 12}, table}}));
  EXPECT_EQ(TableQuery(*stored), absl::StrCat("at=", at, "&size=1000"));
  const std::string of_table = table.ToString();
  const std::pair<std::string, std::string> kBad[] = {
      {"", "1000"},
      {at, ""},
      {at, "999"},
      {at, "1001"},
      {at, "-1"},
      {"988:12", "1000"},
      {"1000:0:" + of_table, "1000"},
      {"0:1000:" + of_table, "1000"},
      {"988:12:sha256:12", "1000"},
      {"18446744073709551615:12:" + of_table, "1000"},
      {"1:18446744073709551614:" + of_table, "18446744073709551615"},
      {absl::StrCat("1:", kSeekTableBytesMax + 1, ":", of_table), absl::StrCat(kSeekTableBytesMax + 2)}};
  for (const auto& [where, size] : kBad)
    EXPECT_EQ(ParseTableQuery(blob, where, size).status().code(), absl::StatusCode::kInvalidArgument)
        << where << " " << size;
}

TEST_F(HomeDocumentsTest, StoppingEndsWhatIsWaitedFor) {
  const Digest digest = Sha256::Of(TextBehind(3));
  Home(digest, 0).Always(PathOf(digest), [&](const FaultRequest&, FaultConnection& to) {
    to.SendRaw("HTTP/1.1 102 Processing\r\n\r\n");
    client_->Stop();
    to.Stall();
  });
  EXPECT_EQ(Manifest(digest.ToString()).status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace sluice::p2p
