// A node as the home of chunks, and as one that has them: askers over raw sockets, an origin that does as it
// is told.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "node/blob_claim.h"
#include "p2p/cluster/assignment.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/home_node.h"
#include "tests/sim/crowd/head_bytes.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using api::RawClient;
using p2p::FaultConnection;
using p2p::FaultOrigin;
using p2p::FaultRequest;
using p2p::Sha256;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr uint32_t kChunk = kChunkSizeMin;
constexpr char kRepository[] = "team/app";

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  return bytes;
}

// Holds an origin's answers back until it is opened.
class Gate {
 public:
  void Open() { open_.set_value(); }
  p2p::FaultBehaviour Before(p2p::FaultBehaviour then) {
    return
        [opened = opened_, then = std::move(then)](const FaultRequest& request, FaultConnection& connection) {
          opened.wait();
          then(request, connection);
        };
  }

 private:
  std::promise<void> open_;
  const std::shared_future<void> opened_ = open_.get_future().share();
};

class HomeBlobsTest : public ::testing::Test, protected HomeNode {
 protected:
  void SetUp() override { Start(); }
  void TearDown() override { Stop(); }

  BlobSpec Spec() const {
    return {
        .digest = digest_, .size = bytes_.size(), .chunk_size = kChunk, .root = {}, .origins = {Origin()}};
  }
  BlobOrigin Origin() const { return {origin_.registry(), kRepository}; }
  std::string Claim(const BlobSpec& spec) const {
    return FormatBlobClaim(spec, Origin(), BlobClaim::Access::kPublic);
  }
  std::string Claim() const { return Claim(Spec()); }
  std::string Path() const {
    return absl::StrCat("/v2/", kRepository, "/blobs/", digest_.ToString(), "?ns=", origin_.registry());
  }
  std::string OriginPath() const { return FaultOrigin::BlobPath(kRepository, digest_); }
  p2p::FaultBehaviour ByTheRules() {
    return [this](const FaultRequest& request, FaultConnection& connection) {
      origin_.ServeByTheRules(request, connection);
    };
  }
  std::unique_ptr<RawAsker> Begin(const Asking& asking) {
    return std::make_unique<RawAsker>(server_->port(), Path(), asking);
  }
  // Of chunk 1.
  std::function<void(FaultConnection&)> SecondHalf() {
    return [this](FaultConnection& connection) {
      connection.SendRaw(std::string_view(bytes_).substr(kChunk + kChunk / 2, kChunk / 2));
    };
  }
  Answer Ask(const Asking& asking) { return Begin(asking)->Read(); }
  std::string PathOf(const BlobSpec& spec) const {
    return absl::StrCat("/v2/", kRepository, "/blobs/", spec.digest.ToString(), "?ns=", origin_.registry());
  }
  // An asker that is sent a blob of one chunk of 8 MiB, and takes in no more than its head.
  std::unique_ptr<RawClient> TakeNothingOf(const BlobSpec& spec, const std::string& from) {
    auto asker = std::make_unique<RawClient>(server_->port(), 4096);
    asker->Send(api::Request("GET", PathOf(spec),
                             absl::StrCat("Sluice-Role: home\r\nSluice-Blob: ", Claim(spec),
                                          "\r\nRange: bytes=0-8388607\r\nSluice-From: ", from, "\r\n")));
    EXPECT_THAT(asker->ReadThrough("\r\n\r\n"), HasSubstr(" 206 "));
    return asker;
  }
  // A chunk as whole range.
  static std::string RangeOf(uint32_t chunk) {
    return absl::StrCat("bytes=", chunk * kChunk, "-", (chunk + 1) * kChunk - 1);
  }
  void ExpectChunk(const Answer& answer, uint32_t chunk = 0) {
    EXPECT_EQ(answer.status, 206) << answer.body;
    EXPECT_TRUE(answer.body == bytes_.substr(size_t{chunk} * kChunk, kChunk));
  }
  // What follows soon, or never.
  bool Becomes(const std::function<bool()>& holds) {
    for (const Instant end = clock_.Now() + 60s; !holds();) {
      if (clock_.Now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }
  uint64_t Counted(PeerRole role, PeerAnswer answer) const {
    return telemetry_.peer_answers[static_cast<size_t>(role)][static_cast<size_t>(answer)].value();
  }

  FaultOrigin origin_;
  const std::string bytes_ = Pattern(8 * kChunk);
  const Digest digest_ = origin_.AddBlob(kRepository, bytes_);
};

// ---------------------------------------------------------------------------------------------- the home

TEST_F(HomeBlobsTest, AHomeGetsAChunkThatItNeverHeardOfAndGivesItOn) {
  const Answer answer = Ask({.claim = Claim(), .range = RangeOf(3)});
  ExpectChunk(answer, 3);
  EXPECT_EQ(answer.Header("content-range"),
            absl::StrCat("bytes ", 3 * kChunk, "-", 4 * kChunk - 1, "/", bytes_.size()));
  EXPECT_EQ(answer.Header("sluice-node"), "this-node");
  EXPECT_EQ(answer.Header("sluice-verified"), "") << "nothing has proven it";
  const std::vector<FaultRequest> asked = origin_.requests(OriginPath());
  ASSERT_THAT(asked, SizeIs(1));
  EXPECT_EQ(asked[0].Header("range"), RangeOf(3)) << "the chunk alone";
  // What is here is given again without a question.
  const Answer again =
      Ask({.claim = Claim(), .range = absl::StrCat("bytes=", 3 * kChunk + 5, "-", 3 * kChunk + 9)});
  EXPECT_EQ(again.body, bytes_.substr(3 * kChunk + 5, 5));
  EXPECT_EQ(again.interims, 0);
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
  EXPECT_EQ(Counted(PeerRole::kHome, PeerAnswer::kServed), 2u);
  const Counter& sent = telemetry_.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)];
  EXPECT_TRUE(Becomes([&] { return sent.value() == kChunk + 5u; })) << sent.value();
  EXPECT_EQ(telemetry_.reads[static_cast<int>(SourceKind::kOrigin)].value(), 0u) << "no reader of this host";
}

TEST_F(HomeBlobsTest, TwentyAskersOfAColdChunkCostTheOriginOneRequest) {
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  std::vector<std::unique_ptr<RawAsker>> askers;
  for (int i = 0; i < 20; ++i) {
    const std::string name = i < 4 ? std::string(1, static_cast<char>('a' + i)) : absl::StrCat("x", i);
    askers.push_back(Begin({.claim = Claim(), .from = name}));
  }
  for (const auto& asker : askers) asker->AwaitInterim();
  gate.Open();
  int served = 0, refused = 0;
  for (const auto& asker : askers) {
    Answer answer = asker->Read();
    if (answer.status == 206) ++served;
    if (answer.status == 503) {
      ++refused;
      EXPECT_NE(answer.Header("sluice-retry-ms"), "");
      EXPECT_LE(answer.Helpers().size(), 4u);
      EXPECT_THAT(answer.Helpers(), Each(AnyOf("a", "b", "c", "d"))) << "members alone";
    }
    // Who is refused comes again.
    while (answer.status == 503) answer = Ask({.claim = Claim(), .from = ""});
    ExpectChunk(answer);
  }
  EXPECT_EQ(served, 2);
  EXPECT_EQ(refused, 18);
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; })) << "a place is still held";
}

TEST_F(HomeBlobsTest, AHomeThatWaitsSaysSoAgainAndAgain) {
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  const std::unique_ptr<RawAsker> asker = Begin({.claim = Claim()});
  for (int i = 0; i < 3; ++i) asker->AwaitInterim();
  gate.Open();
  ExpectChunk(asker->Read());
}

// Those who could stand in for it would be told the same.
TEST_F(HomeBlobsTest, AHomeWhoseOriginAsksForPatienceSaysSoForAsLong) {
  Stop();
  retries_max_ = 1;
  Start();
  for (const int status : {429, 503}) {
    origin_.Script(OriginPath(), {p2p::fault::Status(status, {{"Retry-After", "1"}})});
    const uint32_t chunk = status == 429 ? 0 : 1;
    const Answer answer = Ask({.claim = Claim(), .range = RangeOf(chunk)});
    ExpectChunk(answer, chunk);
    EXPECT_GT(answer.throttled, 0) << status;
    EXPECT_TRUE(Becomes([&] { return !registry_->AsksForPatience(origin_.registry()); }));
  }
  // Refused meanwhile: no time is left to wait as long as the origin says.
  origin_.Always(OriginPath(), p2p::fault::Status(429, {{"Retry-After", "30"}}));
  Answer refused = Ask({.claim = Claim(), .range = RangeOf(2), .more = "Sluice-Deadline-Ms: 1000\r\n"});
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.Header("sluice-origin"), "throttled");
  EXPECT_EQ(Ask({.claim = Claim(), .range = RangeOf(0)}).Header("sluice-origin"), "") << "it is here";
  EXPECT_FALSE(registry_->AsksForPatience("other.example"));
}

// FAULTS.md, row 34. Who asks goes to the next rank at once, and not to the origin.
TEST_F(HomeBlobsTest, AHomeWithoutRoomSaysSoAndServesWhatItHas) {
  ExpectChunk(Ask({.claim = Claim(), .range = RangeOf(0)}));
  for (const int error : {ENOSPC, EDQUOT}) {
    disk_.write_errno = disk_.reserve_errno = error;
    // Or it is given as it comes, and kept nowhere.
    EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
    Answer answer;
    do answer = Ask({.claim = Claim(), .range = RangeOf(1)});
    while (answer.status == 503);  // it came while it was decided on
    if (answer.status != 507) ExpectChunk(answer, 1);
    EXPECT_TRUE(Becomes([&] {
      return Ask({.role = "present-only", .claim = Claim(), .range = RangeOf(1)}).status == 404;
    })) << error;
    ExpectChunk(Ask({.claim = Claim(), .range = RangeOf(0), .from = "b"}));
  }
  disk_.write_errno = disk_.reserve_errno = 0;
  ExpectChunk(Ask({.claim = Claim(), .range = RangeOf(1)}), 1);
}

TEST_F(HomeBlobsTest, AnOriginThatFailsWithoutAWordAsksForNoPatience) {
  origin_.Always(OriginPath(), p2p::fault::Status(503));
  const Answer answer = Ask({.claim = Claim()});
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.Header("sluice-origin"), "");
  origin_.Always(OriginPath(), p2p::fault::Status(404, {{"Retry-After", "30"}}));
  EXPECT_EQ(Ask({.claim = Claim()}).status, 403);
  EXPECT_FALSE(registry_->AsksForPatience(origin_.registry()));
}

TEST_F(HomeBlobsTest, AFetchGoesOnForWhoIsLeftAndEndsWithTheLast) {
  std::promise<void> arrived, closed;
  origin_.Always(OriginPath(), [&](const FaultRequest&, FaultConnection& connection) {
    arrived.set_value();
    connection.Stall();
    closed.set_value();
  });
  std::future<void> is_closed = closed.get_future();
  std::unique_ptr<RawAsker> first = Begin({.claim = Claim()}),
                            second = Begin({.claim = Claim(), .from = "b"});
  first->AwaitInterim();
  second->AwaitInterim();
  arrived.get_future().wait();
  first.reset();
  second->AwaitInterim();
  second->AwaitInterim();
  EXPECT_EQ(is_closed.wait_for(0s), std::future_status::timeout) << "somebody waits";
  second.reset();
  EXPECT_EQ(is_closed.wait_for(60s), std::future_status::ready) << "nobody waits any more";
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
  // Whoever comes then starts anew.
  origin_.Always(OriginPath(), ByTheRules());
  ExpectChunk(Ask({.claim = Claim()}));
}

TEST_F(HomeBlobsTest, AnAskersTimeEndsItsWaitAndNoOthers) {
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  const std::unique_ptr<RawAsker> hasty = Begin({.claim = Claim(), .more = "Sluice-Deadline-Ms: 300\r\n"});
  hasty->AwaitInterim();
  const std::unique_ptr<RawAsker> patient = Begin({.claim = Claim(), .from = "b"});
  patient->AwaitInterim();
  const Answer late = hasty->Read();
  EXPECT_EQ(late.status, 503);
  EXPECT_NE(late.Header("sluice-retry-ms"), "");
  gate.Open();
  ExpectChunk(patient->Read());
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
}

TEST_F(HomeBlobsTest, AnAskerThatComesTwiceIsAnsweredTwice) {
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  std::unique_ptr<RawAsker> one = Begin({.claim = Claim()}), two = Begin({.claim = Claim()});
  one->AwaitInterim();
  two->AwaitInterim();
  gate.Open();
  ExpectChunk(one->Read());
  ExpectChunk(two->Read());
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
}

TEST_F(HomeBlobsTest, DemandIsServedBeforeFillThatCameEarlier) {
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  std::vector<std::unique_ptr<RawAsker>> fills, demands;
  for (int i = 0; i < 2; ++i) {
    fills.push_back(Begin({.claim = Claim(), .from = "a", .more = "Sluice-Class: fill\r\n"}));
    fills.back()->AwaitInterim();
  }
  for (int i = 0; i < 2; ++i) {
    demands.push_back(Begin({.claim = Claim(), .from = "b", .more = "Sluice-Class: demand\r\n"}));
    demands.back()->AwaitInterim();
  }
  gate.Open();
  for (const auto& asker : demands) ExpectChunk(asker->Read());
  for (const auto& asker : fills) EXPECT_EQ(asker->Read().status, 503);
}

TEST_F(HomeBlobsTest, WhatTheOriginSaysIsSaidToTheAsker) {
  const auto status_after = [&](p2p::FaultBehaviour behaviour) {
    origin_.Always(OriginPath(), std::move(behaviour));
    return Ask({.claim = Claim()});
  };
  const Answer forbidden = status_after(p2p::fault::Status(403));
  EXPECT_EQ(forbidden.status, 403);
  EXPECT_THAT(forbidden.body, HasSubstr("ask-yourself"));
  const Answer nowhere = status_after(p2p::fault::Status(404));
  EXPECT_EQ(nowhere.status, 403) << "a stranger can't tell it from what is private";
  EXPECT_EQ(nowhere.body, forbidden.body);
  EXPECT_EQ(status_after(p2p::fault::Status(401)).status, 403);
  const Answer away = status_after(p2p::fault::Status(500));
  EXPECT_EQ(away.status, 503);
  EXPECT_NE(away.Header("sluice-retry-ms"), "");
  EXPECT_EQ(status_after(p2p::fault::Hangup()).status, 503);
  ExpectChunk(status_after(ByTheRules()));
}

TEST_F(HomeBlobsTest, ForItsZoneANodeFetchesWhatItCanProveAndElseSaysThatItIsNotHere) {
  provable_ = false;
  EXPECT_EQ(Ask({.role = "zone-home", .claim = Claim(), .range = RangeOf(3)}).status, 404);
  EXPECT_THAT(origin_.requests(OriginPath()), IsEmpty());
  provable_ = true;
  ExpectChunk(Ask({.role = "zone-home", .claim = Claim(), .range = RangeOf(3)}), 3);
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
  EXPECT_EQ(Counted(PeerRole::kZoneHome, PeerAnswer::kServed), 1u);
  EXPECT_EQ(Counted(PeerRole::kZoneHome, PeerAnswer::kAbsent), 1u);
  provable_ = false;
  recipe_comes_ = true;
  ExpectChunk(Ask({.role = "zone-home", .claim = Claim(), .range = RangeOf(5)}), 5);
  recipe_comes_ = false;
  // What is here is given, proven or not.
  provable_ = false;
  ExpectChunk(Ask({.role = "zone-home", .claim = Claim(), .range = RangeOf(3)}), 3);
  // Whoever is refused is not to ask the registry for that: the home is still to be asked.
  provable_ = true;
  origin_.Always(OriginPath(), p2p::fault::Status(403));
  EXPECT_EQ(Ask({.role = "zone-home", .claim = Claim(), .range = RangeOf(4)}).status, 404);
  EXPECT_EQ(Ask({.claim = Claim(), .range = RangeOf(4)}).status, 403);
}

TEST_F(HomeBlobsTest, WhatThisNodeMayNotAskForIsNotAskedFor) {
  Stop();
  Start("", "elsewhere.example/*");
  const Answer answer = Ask({.claim = Claim()});
  EXPECT_EQ(answer.status, 403);
  EXPECT_THAT(answer.body, HasSubstr("ask-yourself"));
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim()}).status, 404);
  EXPECT_EQ(origin_.connection_count(), 0u);
  EXPECT_THAT(store_->KeysOf(digest_), IsEmpty());
}

TEST_F(HomeBlobsTest, WhatTookCredentialsIsGivenToNobody) {
  const std::string config = temp_.path() + "/config.json";
  const std::string auth = absl::Base64Escape("user:secret");
  std::ofstream(config) << R"({"auths":{")" << origin_.registry() << R"(":{"auth":")" << auth << "\"}}}";
  origin_.RequireAuthorization("Basic " + auth, "Basic realm=\"r\"");
  Stop();
  Start(config);
  for (int i = 0; i < 2; ++i) {
    const Answer answer = Ask({.claim = Claim()});
    EXPECT_EQ(answer.status, 403);
    EXPECT_THAT(answer.body, HasSubstr("ask-yourself"));
    EXPECT_THAT(answer.body, Not(HasSubstr(bytes_.substr(0, 8))));
  }
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim()}).status, 404)
      << "nor does it show that it is here";
}

// ------------------------------------------------------------------------------------ askers that lie

TEST_F(HomeBlobsTest, AWrongSizeIsContradictedAndNothingOfItIsKept) {
  for (const uint64_t size : {bytes_.size() - 1, bytes_.size() + 1, bytes_.size() * 1000}) {
    BlobSpec lie = Spec();
    lie.size = size;
    EXPECT_EQ(Ask({.claim = Claim(lie)}).status, 409) << size;
  }
  ExpectChunk(Ask({.claim = Claim()}));
  EXPECT_TRUE(Becomes([&] {
    const std::vector<BlobKey> keys = store_->KeysOf(digest_);
    return keys.size() == 1 && store_->Find(keys[0])->geometry().size() == bytes_.size();
  }));
}

// One chunk, which the root alone proves.
TEST_F(HomeBlobsTest, AWrongRootIsContradictedAndNothingOfItIsKept) {
  const std::string small = bytes_.substr(0, kChunk);
  const Digest digest = origin_.AddBlob(kRepository, small);
  BlobSpec spec{digest, small.size(), kChunk, {}, {Origin()}};
  const auto ask = [&](std::optional<Digest> root) {
    spec.root = root;
    return RawAsker(
               server_->port(),
               absl::StrCat("/v2/", kRepository, "/blobs/", digest.ToString(), "?ns=", origin_.registry()),
               {.claim = Claim(spec)})
        .Read();
  };
  EXPECT_EQ(ask(Sha256::Of("no root of it")).status, 409);
  EXPECT_TRUE(Becomes([&] { return store_->KeysOf(digest).empty(); })) << "it is no claim of this node's";
  const Digest right = p2p::HashChunk(ChunkGeometry(small.size(), kChunk), std::as_bytes(std::span(small)));
  const Answer given = ask(right);
  EXPECT_EQ(given.status, 206);
  EXPECT_EQ(given.body, small);
  EXPECT_EQ(given.Header("sluice-verified"), right.ToString());
  EXPECT_EQ(given.Header("sluice-passed-on"), "");
  EXPECT_EQ(ask(Sha256::Of("no root of it")).status, 409);
  EXPECT_EQ(ask(right).body, small) << "what is right stays";
  EXPECT_EQ(ask(std::nullopt).status, 206);
}

TEST_F(HomeBlobsTest, WhatIsProvenIsContradictedByNobody) {
  BlobSpec spec = Spec();
  const absl::StatusOr<std::shared_ptr<Blob>> blob = store_->Open(spec);
  ASSERT_TRUE(blob.ok());
  for (uint32_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(store_
                    ->Commit(**blob, ChunkIndex(i),
                             std::as_bytes(std::span(bytes_).subspan(size_t{i} * kChunk, kChunk)),
                             Evidence::kUnverified)
                    .ok());
  }
  store_->NoteAccess((*blob)->key(), Origin(), OriginAccess::kPublic);
  ASSERT_TRUE(Becomes([&] { return store_->IsSettled((*blob)->key()); }));
  spec.size += 1;
  EXPECT_EQ(Ask({.claim = Claim(spec)}).status, 409);
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(spec)}).status, 404);
  spec = Spec();
  ExpectChunk(Ask({.claim = Claim(spec)}));
  ExpectChunk(Ask({.role = "present-only", .claim = Claim(spec)}));
  EXPECT_EQ(origin_.connection_count(), 0u);
}

TEST_F(HomeBlobsTest, WhatAnAskerSaysIsNotBelievedElsewhere) {
  // As if the registry kept it compressed, under the digest of something else that is there.
  const Digest other = origin_.AddBlob(kRepository, Pattern(5000));
  BlobSpec lie = Spec();
  lie.stored.emplace(Origin(),
                     StoredForm{other, 5000, SeekTablePlace{{5000 - 81, 81}, Sha256::Of("no table")}});
  EXPECT_THAT(Ask({.claim = Claim(lie)}).status, AnyOf(409, 503));
  const absl::StatusOr<std::shared_ptr<Blob>> mine = store_->Open(Spec());
  ASSERT_TRUE(mine.ok());
  EXPECT_TRUE((*mine)->facts()->stored.empty());
  EXPECT_THAT(Ask({.claim = Claim(lie)}).status, AnyOf(409, 503));
  EXPECT_TRUE((*mine)->facts()->stored.empty());
  ExpectChunk(Ask({.claim = Claim()}));
  EXPECT_TRUE(Becomes([&] { return (*mine)->presence().IsPresent(ChunkIndex(0)); }))
      << "what both say alike is shared";
}

TEST_F(HomeBlobsTest, NonsenseIsRefused) {
  const std::string claim = Claim();
  const struct {
    int status;
    Asking asking;
  } kCases[] = {
      {400, {.claim = ""}},
      {400, {.claim = "size=1"}},
      {400, {.claim = claim + "; size=1"}},
      {400, {.claim = std::string(2000, 'x')}},
      {400, {.role = "zone", .claim = claim}},
      {400, {.role = "HOME", .claim = claim}},
      {400, {.claim = claim, .range = ""}},
      {400, {.claim = claim, .range = "bytes=0-16384"}},
      {400, {.claim = claim, .range = "bytes=16383-16384"}},
      {400, {.claim = claim, .range = "pages=1-2"}},
      {416, {.claim = claim, .range = "bytes=131072-"}},
      {416, {.claim = claim, .range = "bytes=0-1,5-6"}},
      {416, {.claim = claim, .range = "bytes=9-8"}},
      {400, {.claim = claim, .from = "a,b"}},
      {400, {.claim = claim, .from = std::string(254, 'a')}},
      {400, {.claim = claim, .more = "Sluice-Class: urgent\r\n"}},
      {400, {.claim = claim, .more = "Sluice-Deadline-Ms: soon\r\n"}},
      {400, {.claim = claim, .more = "Sluice-Deadline-Ms: 0\r\n"}},
      {400, {.claim = claim, .more = "Sluice-Deadline-Ms: -5\r\n"}},
      {400, {.claim = claim, .more = "Sluice-Tried: a,,b\r\n"}},
      {400, {.claim = claim, .more = "Sluice-Tried: \"a\"\r\n"}},
      {400, {.role = "present-only", .claim = "size=1"}},
      {404, {.role = "present-only", .claim = claim, .range = "bytes=0-16384"}},
      {404, {.role = "present-only", .claim = ""}},
  };
  for (const auto& [status, asking] : kCases) {
    EXPECT_EQ(Ask(asking).status, status)
        << asking.role << " | " << asking.claim << " | " << asking.range << " | " << asking.more;
  }
  EXPECT_EQ(origin_.connection_count(), 0u);
  EXPECT_THAT(store_->KeysOf(digest_), IsEmpty());
  ExpectChunk(Ask({.claim = claim, .more = "Sluice-Deadline-Ms: 99999999999999\r\nSluice-Tried: b , c\r\n"}));
}

TEST_F(HomeBlobsTest, ARangeWithinAChunkIsServedExactlyInEachRole) {
  const std::string claim = Claim();
  const size_t size = bytes_.size();
  const struct {
    const char* range;
    size_t offset, length;
  } kRanges[] = {{"bytes=0-0", 0, 1},
                 {"bytes=5-5", 5, 1},
                 {"bytes=16383-16383", kChunk - 1, 1},
                 {"bytes=-1", size - 1, 1},
                 {"bytes=-100", size - 100, 100}};
  for (const char* role : {"home", "present-only"}) {
    for (const auto& [range, offset, length] : kRanges) {
      const Answer answer = Ask({.role = role, .claim = claim, .range = range});
      EXPECT_EQ(answer.status, 206) << role << " " << range;
      EXPECT_EQ(answer.body, bytes_.substr(offset, length)) << role << " " << range;
      EXPECT_EQ(answer.Header("content-range"),
                absl::StrCat("bytes ", offset, "-", offset + length - 1, "/", size));
    }
    std::string many = "bytes=0-0";
    for (int i = 1; i < 1000; ++i) absl::StrAppend(&many, ",", 2 * i, "-", 2 * i);
    for (const std::string& range : {many, std::string("bytes=0-0,-1"), std::string("bytes=-0"),
                                     std::string("bytes=99999999999999999999-"),
                                     std::string("bytes=18446744073709551615-18446744073709551615")}) {
      EXPECT_EQ(Ask({.role = role, .claim = claim, .range = range}).status, 416) << role << " " << range;
    }
  }
}

// --------------------------------------------------------------------------------------- what is here

TEST_F(HomeBlobsTest, NothingIsFetchedNorRegisteredForWhoIsPresentOnly) {
  const Answer answer = Ask({.role = "present-only", .claim = Claim()});
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(answer.interims, 0);
  EXPECT_EQ(origin_.connection_count(), 0u);
  EXPECT_THAT(store_->KeysOf(digest_), IsEmpty());
  EXPECT_EQ(Counted(PeerRole::kPresentOnly, PeerAnswer::kAbsent), 1u);
}

// Of a crowd each chunk is asked for at several places.
TEST_F(HomeBlobsTest, WhatAMemberIsToldIsShort) {
  const auto head_bytes = [&](const std::string& role) {
    RawClient asker(server_->port());
    asker.Send(api::Request("GET", PathOf(Spec()),
                            absl::StrCat("Sluice-Role: ", role, "\r\nSluice-Blob: ", Claim(),
                                         "\r\nRange: ", RangeOf(0), "\r\n")));
    std::string head = asker.ReadThrough("\r\n\r\n");
    while (absl::StartsWith(head, "HTTP/1.1 102 ")) head = asker.ReadThrough("\r\n\r\n");
    return head.size();
  };
  EXPECT_LE(head_bytes("present-only"), sim::kAbsentBytes);
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim()}).body, "");
  ExpectChunk(Ask({.claim = Claim()}));
  EXPECT_LE(head_bytes("present-only"), sim::kServedBytes);
  EXPECT_LE(head_bytes("home"), sim::kServedBytes);
}

TEST_F(HomeBlobsTest, WhatIsHereUnprovenIsGivenToWhoSaysTheSameOfIt) {
  ExpectChunk(Ask({.claim = Claim()}));
  ExpectChunk(Ask({.role = "present-only", .claim = Claim()}));
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(), .range = RangeOf(1)}).status, 404);
  BlobSpec rooted = Spec(), framed = Spec(), coarser = Spec();
  rooted.root = Sha256::Of("root");
  framed.stored.emplace(Origin(),
                        StoredForm{Sha256::Of("x"), 5000, SeekTablePlace{{5000 - 81, 81}, Sha256::Of("t")}});
  coarser.chunk_size *= 2;
  for (const BlobSpec& other : {rooted, framed, coarser})
    EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(other)}).status, 404);
  EXPECT_EQ(Ask({.role = "present-only", .claim = ""}).status, 404) << "unproven";
  EXPECT_EQ(Ask({.role = "", .claim = ""}).status, 404) << "unproven";
}

TEST_F(HomeBlobsTest, WhatHasBegunToComeIsWaitedForAndWhatHasNotIsAbsent) {
  std::promise<void> asked, gate;
  origin_.Always(OriginPath(), [&, opened = gate.get_future().share()](const FaultRequest&,
                                                                       FaultConnection& connection) {
    asked.set_value();
    connection.SendHead(206, {{"Content-Range", absl::StrCat("bytes 0-", kChunk - 1, "/", bytes_.size())},
                              {"Content-Length", absl::StrCat(kChunk)}});
    // Slowly, but it is not silent.
    size_t sent = 0;
    do {
      connection.SendRaw(std::string_view(bytes_).substr(sent++, 1));
    } while (sent + 1 < kChunk && opened.wait_for(100ms) == std::future_status::timeout);
    connection.SendRaw(std::string_view(bytes_).substr(sent, kChunk - sent));
  });
  const std::unique_ptr<RawAsker> home = Begin({.claim = Claim()});
  home->AwaitInterim();
  asked.get_future().wait();
  // Its first bytes may be on their way still.
  std::unique_ptr<RawAsker> helped;
  std::future<Answer> answer;
  for (const Instant end = clock_.Now() + 60s; clock_.Now() < end;) {
    auto asker = Begin({.role = "present-only", .claim = Claim(), .from = "b"});
    helped = std::move(asker);
    answer = std::async(std::launch::async, [&] { return helped->Read(); });
    if (answer.wait_for(200ms) == std::future_status::timeout) break;
    const Answer absent = answer.get();
    EXPECT_EQ(absent.status, 404);
    EXPECT_EQ(absent.interims, 0) << "nor does that show that the blob is known";
  }
  EXPECT_EQ(answer.wait_for(2s), std::future_status::timeout) << "it says meanwhile that it waits";
  gate.set_value();
  const Answer came = answer.get();
  ExpectChunk(came);
  EXPECT_GE(came.interims, 1) << "it passes a chunk on only when that is whole, and that may take a while";
  ExpectChunk(home->Read());
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
}

// All nodes agree who comes first, so that no two of them wait for each other.
TEST_F(HomeBlobsTest, WhoComesAfterThisNodeWaitsForWhatItGetsByOwnRight) {
  std::string after, before;
  for (int i = 0; after.empty() || before.empty(); ++i) {
    const std::string name = absl::StrCat("node-", i);
    (p2p::OutScores(digest_, 0, name_, name) ? after : before) = name;
  }
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(), .from = after}).status, 404) << "nobody wants it";
  const std::unique_ptr<RawAsker> home = Begin({.claim = Claim()});
  ASSERT_TRUE(Becomes([&] { return origin_.request_count(OriginPath()) == 1; }));
  const std::unique_ptr<RawAsker> waits = Begin({.role = "present-only", .claim = Claim(), .from = after});
  for (int i = 0; i < 2; ++i) waits->AwaitInterim();
  for (const std::string& from : {before, name_, std::string()}) {
    EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(), .from = from}).status, 404) << from;
  }
  gate.Open();
  ExpectChunk(waits->Read());
  ExpectChunk(home->Read());
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
}

TEST_F(HomeBlobsTest, WhoWaitsForWhatIsGivenUpIsToldAtOnce) {
  std::string after;
  for (int i = 0; after.empty() || !p2p::OutScores(digest_, 0, name_, after); ++i)
    after = absl::StrCat("node-", i);
  origin_.Always(OriginPath(), [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  std::unique_ptr<RawAsker> home = Begin({.claim = Claim()});
  ASSERT_TRUE(Becomes([&] { return origin_.request_count(OriginPath()) == 1; }));
  const std::unique_ptr<RawAsker> waits = Begin({.role = "present-only", .claim = Claim(), .from = after});
  waits->AwaitInterim();
  waits->AwaitInterim();
  home.reset();
  // It keeps what is under way, as long as that comes: the origin is silent.
  EXPECT_EQ(waits->Read().status, 404);
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
}

TEST_F(HomeBlobsTest, AHelperWhoseSourceBreaksOffSaysThatItIsAbsent) {
  std::promise<void> sent;
  Gate gate;
  origin_.Always(OriginPath(), [&, wait = gate.Before([](const FaultRequest&, FaultConnection& connection) {
                   connection.CloseAfter();
                 })](const FaultRequest& request, FaultConnection& connection) {
    connection.SendHead(206, {{"Content-Range", absl::StrCat("bytes 0-", kChunk - 1, "/", bytes_.size())},
                              {"Content-Length", absl::StrCat(kChunk)}});
    connection.SendRaw(std::string_view(bytes_).substr(0, 100));
    wait(request, connection);
  });
  const std::unique_ptr<RawAsker> home = Begin({.claim = Claim()});
  home->AwaitInterim();
  const std::unique_ptr<RawAsker> helped = Begin({.role = "present-only", .claim = Claim(), .from = "b"});
  gate.Open();
  EXPECT_EQ(helped->Read().status, 404) << "as soon as it is known, whether it had begun or not";
  EXPECT_THAT(home->Read().status, AnyOf(206, 503));
}

// What begins to come goes on only when the gate is opened, or ends by `then`.
p2p::FaultBehaviour InHalves(const std::string& bytes, uint32_t chunk, Gate& gate,
                             std::function<void(FaultConnection&)> then) {
  return [&bytes, chunk,
          wait = gate.Before([then = std::move(then)](const FaultRequest&, FaultConnection& connection) {
            then(connection);
          })](const FaultRequest& request, FaultConnection& connection) {
    const size_t first = size_t{chunk} * kChunk;
    connection.SendHead(
        206, {{"Content-Range", absl::StrCat("bytes ", first, "-", first + kChunk - 1, "/", bytes.size())},
              {"Content-Length", absl::StrCat(kChunk)}});
    connection.SendRaw(std::string_view(bytes).substr(first, kChunk / 2));
    wait(request, connection);
  };
}

// To fills it goes as what is here, and so to two at once.
constexpr char kFill[] = "Sluice-Class: fill\r\n";

TEST_F(HomeBlobsTest, WhatIsFilledIsAskedForWithWhatFollows) {
  for (uint32_t i = 0; i < 8; ++i)
    ExpectChunk(Ask({.claim = Claim(), .range = RangeOf(i), .more = kFill}), i);
  EXPECT_LT(origin_.request_count(OriginPath()), 8u);
}

// Another node's reader may go on elsewhere.
TEST_F(HomeBlobsTest, WhatIsReadAheadIsAskedForAlone) {
  const std::string ahead = absl::StrCat(kFill, "Sluice-Ahead: 1\r\n");
  for (uint32_t i = 0; i < 8; ++i)
    ExpectChunk(Ask({.claim = Claim(), .range = RangeOf(i), .more = ahead}), i);
  EXPECT_EQ(origin_.request_count(OriginPath()), 8u);
}

TEST_F(HomeBlobsTest, WhatComesGoesOutAsItComesToAskersAndToThoseWhomItHelps) {
  ExpectChunk(Ask({.claim = Claim()}));
  Gate gate;
  origin_.Script(OriginPath(), {InHalves(bytes_, 1, gate, SecondHalf())});
  const Asking home{.claim = Claim(), .range = RangeOf(1)};
  const std::unique_ptr<RawAsker> asker = Begin(home);
  Answer answer = asker->ReadHead();
  EXPECT_EQ(answer.status, 206) << "the gate is shut";
  EXPECT_EQ(answer.Header("sluice-verified"), "");
  EXPECT_EQ(answer.Header("content-length"), absl::StrCat(kChunk));
  const std::unique_ptr<RawAsker> helped =
      Begin({.role = "present-only", .claim = Claim(), .range = RangeOf(1), .from = "b", .more = kFill});
  EXPECT_EQ(helped->ReadHead().status, 206);
  const Answer third = Ask({.claim = Claim(), .range = RangeOf(1), .from = "c"});
  EXPECT_EQ(third.status, 503) << "two are sent it";
  EXPECT_THAT(third.Helpers(), testing::UnorderedElementsAre("a", "b"));
  gate.Open();
  const std::string chunk = bytes_.substr(kChunk, kChunk);
  EXPECT_TRUE(asker->ReadBody(kChunk) == chunk);
  EXPECT_TRUE(helped->ReadBody(kChunk) == chunk);
  EXPECT_TRUE(Becomes([&] { return telemetry_.passed_on_bytes.value() == 2 * kChunk; }));
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(2)) << "one for each chunk";
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
  ExpectChunk(Ask(home), 1);
}

// Whom a home has sent here, since this node is to get the chunk, may come before it has.
TEST_F(HomeBlobsTest, WhoIsSentOnHereWaitsAMomentForWhatIsAskedFor) {
  // By score it comes before this node, and so has nothing else to wait for.
  std::string before;
  for (int i = 0; before.empty() || p2p::OutScores(digest_, 0, name_, before); ++i)
    before = absl::StrCat("node-", i);
  ExpectChunk(Ask({.claim = Claim()}));
  const Asking helped{.role = "present-only",
                      .claim = Claim(),
                      .range = RangeOf(1),
                      .from = before,
                      .more = "Sluice-Sent-On: 1\r\n"};
  EXPECT_EQ(Ask(helped).status, 404) << "nobody has asked for it";
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  // By a right that nobody else may wait for.
  std::promise<void> read;
  cache_->Read(
      {.blob = store_->KeysOf(digest_).front(), .range = {kChunk, kChunk}, .deadline = clock_.Now() + 60s},
      [&](absl::StatusOr<ReadResult> result) {
        EXPECT_TRUE(result.ok()) << result.status();
        read.set_value();
      });
  ASSERT_TRUE(Becomes([&] { return origin_.request_count(OriginPath()) == 2; }));
  Answer answer;
  // It takes that as long as it may wait.
  const Instant asked = clock_.Now();
  answer = Ask(helped);
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(answer.interims, 0);
  EXPECT_GE(clock_.Now() - asked, 20ms);
  std::future<Answer> waits;
  bool opened = false;
  for (int i = 0; i < 1000 && answer.status != 206; ++i) {
    waits = std::async(std::launch::async, [&] { return Ask(helped); });
    if (!std::exchange(opened, true)) gate.Open();
    answer = waits.get();
  }
  ExpectChunk(answer, 1);
  read.get_future().wait();
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
}

// Nobody here has heard yet whether the blob is public.
TEST_F(HomeBlobsTest, WhatAMemberGivesToEverybodyIsPassedOnAsItComes) {
  const BlobKey blob = (*store_->Open(Spec()))->key();
  const Asking helped{.role = "present-only", .claim = Claim(), .from = "b"};
  const std::span<const std::byte> chunk = std::as_bytes(std::span(bytes_)).first(kChunk);
  const auto begin = [&](bool gives_everybody) {
    ChunkInflow inflow(flows_.get(), blob, ChunkIndex(), kChunk, {{"a"}, gives_everybody});
    inflow.Add(chunk.first(kChunk / 2));
    return inflow;
  };
  {
    const ChunkInflow inflow = begin(false);
    EXPECT_EQ(Ask(helped).status, 404) << "it may have been given to this node alone";
  }
  ChunkInflow inflow = begin(true);
  const std::unique_ptr<RawAsker> asker = Begin(helped);
  EXPECT_EQ(asker->ReadHead().status, 206);
  inflow.Add(chunk.subspan(kChunk / 2));
  const Buffer whole = inflow.Take();
  flows_->Judge(blob, ChunkIndex(), whole.span(), true);
  EXPECT_TRUE(asker->ReadBody(kChunk) == bytes_.substr(0, kChunk));

  BlobSpec other = Spec();
  other.root = Sha256::Of("another root");
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(other), .from = "b"}).status, 404);
  store_->NoteAccess(blob, Origin(), OriginAccess::kCredentials);
  EXPECT_EQ(Ask(helped).status, 404) << "whatever a member says";
}

// That it has asked is no secret of what nobody here has heard to be private.
TEST_F(HomeBlobsTest, WhoIsSentOnHereWaitsThoughItIsNotKnownToBePublic) {
  const BlobKey blob = (*store_->Open(Spec()))->key();
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  std::promise<void> read;
  cache_->Read({.blob = blob, .range = {0, kChunk}, .deadline = clock_.Now() + 60s},
               [&](absl::StatusOr<ReadResult> result) {
                 EXPECT_TRUE(result.ok()) << result.status();
                 read.set_value();
               });
  ASSERT_TRUE(Becomes([&] { return origin_.request_count(OriginPath()) == 1; }));
  const Instant asked = clock_.Now();
  const Answer answer =
      Ask({.role = "present-only", .claim = Claim(), .from = "node-before", .more = "Sluice-Sent-On: 1\r\n"});
  EXPECT_EQ(answer.status, 404);
  EXPECT_GE(clock_.Now() - asked, 20ms);
  gate.Open();
  read.get_future().wait();
}

TEST_F(HomeBlobsTest, WhoseSourceBreaksOffClosesToAllAndHasTheChunkAnew) {
  ExpectChunk(Ask({.claim = Claim()}));
  Gate gate;
  origin_.Script(OriginPath(),
                 {InHalves(bytes_, 1, gate, [](FaultConnection& connection) { connection.CloseAfter(); })});
  const std::unique_ptr<RawAsker> asker = Begin({.claim = Claim(), .range = RangeOf(1)});
  ASSERT_EQ(asker->ReadHead().status, 206);
  const std::unique_ptr<RawAsker> helped =
      Begin({.role = "present-only", .claim = Claim(), .range = RangeOf(1), .from = "b", .more = kFill});
  ASSERT_EQ(helped->ReadHead().status, 206);
  gate.Open();
  EXPECT_LT(asker->ReadBody(kChunk).size(), kChunk);
  EXPECT_LT(helped->ReadBody(kChunk).size(), kChunk);
  ExpectChunk(Ask({.claim = Claim(), .range = RangeOf(1)}), 1);
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
}

TEST_F(HomeBlobsTest, AnAskerThatGoesLeavesTheOthersWhatIsComing) {
  ExpectChunk(Ask({.claim = Claim()}));
  Gate gate;
  origin_.Script(OriginPath(), {InHalves(bytes_, 1, gate, SecondHalf())});
  std::unique_ptr<RawAsker> first =
      Begin({.claim = Claim(), .range = RangeOf(1), .more = "Sluice-Deadline-Ms: 300\r\n"});
  ASSERT_EQ(first->ReadHead().status, 206);
  const std::unique_ptr<RawAsker> second =
      Begin({.claim = Claim(), .range = RangeOf(1), .from = "b", .more = kFill});
  ASSERT_EQ(second->ReadHead().status, 206);
  first.reset();
  // Until after its time, too.
  std::this_thread::sleep_for(500ms);
  gate.Open();
  EXPECT_TRUE(second->ReadBody(kChunk) == bytes_.substr(kChunk, kChunk));
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(2));
}

// By a right of its own, and in its own class: whoever wanted the chunk first may not want it any more.
TEST_F(HomeBlobsTest, WhatComesForSomebodyElseGoesOnComingForTheAskerWhoIsSentIt) {
  ExpectChunk(Ask({.claim = Claim()}));
  Gate gate;
  origin_.Script(OriginPath(), {InHalves(bytes_, 1, gate, SecondHalf())});
  const BlobKey key = store_->KeysOf(digest_).front();
  std::promise<void> ended;
  const ReadId local = cache_->Read({.blob = key,
                                     .range = {kChunk, kChunk},
                                     .fetch_class = FetchClass::kBackfill,
                                     .deadline = clock_.Now() + 60s},
                                    [&](const absl::StatusOr<ReadResult>&) { ended.set_value(); });
  ASSERT_TRUE(Becomes([&] { return flows_->Find(key, ChunkIndex(1)) != nullptr; }));
  const std::unique_ptr<RawAsker> asker = Begin({.claim = Claim(), .range = RangeOf(1)});
  ASSERT_EQ(asker->ReadHead().status, 206);
  cache_->StopRead(local);
  ended.get_future().wait();
  std::this_thread::sleep_for(100ms);
  gate.Open();
  EXPECT_TRUE(asker->ReadBody(kChunk) == bytes_.substr(kChunk, kChunk));
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(2));
}

TEST_F(HomeBlobsTest, APartOfAChunkIsGivenWhenTheChunkIsHere) {
  ExpectChunk(Ask({.claim = Claim()}));
  Gate gate;
  origin_.Script(OriginPath(), {InHalves(bytes_, 1, gate, SecondHalf())});
  const std::unique_ptr<RawAsker> whole = Begin({.claim = Claim(), .range = RangeOf(1)});
  ASSERT_EQ(whole->ReadHead().status, 206);
  const std::unique_ptr<RawAsker> part =
      Begin({.claim = Claim(), .range = absl::StrCat("bytes=", kChunk, "-", kChunk + 9)});
  part->AwaitInterim();
  gate.Open();
  const Answer answer = part->Read();
  EXPECT_EQ(answer.status, 206);
  EXPECT_EQ(answer.Header("sluice-coming"), "");
  EXPECT_EQ(answer.body, bytes_.substr(kChunk, 10));
}

// A manifest of this host says the root, so that the first chunk flows, too.
TEST_F(HomeBlobsTest, NobodyGetsAChunkWholeThatIsNotWhatItsRootSays) {
  const std::string small = bytes_.substr(0, kChunk);
  const Digest digest = origin_.AddBlob(kRepository, small);
  BlobSpec spec{digest, small.size(), kChunk, Sha256::Of("no root of it"), {Origin()}};
  ASSERT_TRUE(store_->Open(spec).ok());
  Gate gate;
  origin_.Script(FaultOrigin::BlobPath(kRepository, digest),
                 {InHalves(small, 0, gate, [&](FaultConnection& connection) {
                   connection.SendRaw(std::string_view(small).substr(kChunk / 2));
                 })});
  RawAsker asker(server_->port(),
                 absl::StrCat("/v2/", kRepository, "/blobs/", digest.ToString(), "?ns=", origin_.registry()),
                 {.claim = Claim(spec)});
  EXPECT_EQ(asker.ReadHead().status, 206);
  gate.Open();
  EXPECT_LT(asker.ReadBody(kChunk).size(), kChunk);
  EXPECT_EQ(store_->Find(digest)->presence().present_count(), 0u);
}

TEST_F(HomeBlobsTest, WhatFlowsIsGivenToNobodyWhoSaysOtherwise) {
  ExpectChunk(Ask({.claim = Claim()}));
  Gate gate;
  origin_.Script(OriginPath(), {InHalves(bytes_, 1, gate, SecondHalf())});
  const std::unique_ptr<RawAsker> asker = Begin({.claim = Claim(), .range = RangeOf(1)});
  ASSERT_EQ(asker->ReadHead().status, 206);
  BlobSpec rooted = Spec(), framed = Spec();
  rooted.root = Sha256::Of("root");
  framed.stored.emplace(Origin(),
                        StoredForm{Sha256::Of("x"), 5000, SeekTablePlace{{5000 - 81, 81}, Sha256::Of("t")}});
  for (const BlobSpec& other : {rooted, framed})
    EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(other), .range = RangeOf(1), .from = "b"}).status,
              404);
  EXPECT_EQ(Ask({.role = "present-only", .claim = "", .range = RangeOf(1), .from = "b"}).status, 404);
  gate.Open();
}

TEST_F(HomeBlobsTest, WhoIsBusyNamesHelpersThatAreMembersAndNotTheAsker) {
  for (const char* member : {"a", "b", "stranger"}) ExpectChunk(Ask({.claim = Claim(), .from = member}));
  // Two that take nothing in keep both places.
  const std::string big = Pattern(8 << 20);
  const Digest digest = origin_.AddBlob(kRepository, big);
  BlobSpec spec = Spec();
  spec.digest = digest;
  spec.size = big.size();
  spec.chunk_size = 8 << 20;
  const std::string path = PathOf(spec);
  const Asking asking{.claim = Claim(spec), .range = "bytes=0-8388607", .from = "a"};
  ASSERT_EQ(RawAsker(server_->port(), path, asking).Read().status, 206);
  std::vector<std::unique_ptr<RawClient>> stuck;
  for (const char* name : {"b", "c"}) stuck.push_back(TakeNothingOf(spec, name));
  Asking fourth = asking;
  fourth.from = "d";
  const Answer refused = RawAsker(server_->port(), path, fourth).Read();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.body, "");
  uint64_t head = std::string_view("HTTP/1.1 503 Service Unavailable\r\n\r\n").size();
  for (const auto& [name, value] : refused.headers) head += name.size() + value.size() + 4;
  EXPECT_LE(head - refused.Header("sluice-helpers").size(), sim::kBusyBytes);
  EXPECT_THAT(refused.Helpers(), testing::UnorderedElementsAre("a", "b", "c"));
  fourth.more = "Sluice-Tried: a,b\r\n";
  EXPECT_THAT(RawAsker(server_->port(), path, fourth).Read().Helpers(), testing::ElementsAre("c"));
  EXPECT_EQ(Counted(PeerRole::kHome, PeerAnswer::kBusy), 2u);
  // Those who die give their places back.
  stuck.clear();
  Answer served;
  for (const Instant end = clock_.Now() + 60s; served.status != 206 && clock_.Now() < end;)
    served = RawAsker(server_->port(), path, fourth).Read();
  EXPECT_EQ(served.status, 206);
}

// Of a crowd, fills that come when two take nothing in of what they are sent.
class TurnsAtHomeTest : public HomeBlobsTest {
 protected:
  void SetUp() override {
    HomeBlobsTest::SetUp();
    for (size_t i = 0; i < p2p::Spreader::kTurnsFrom; ++i) {
      const std::string name = absl::StrCat("m", i);
      {
        const std::lock_guard lock(mutex_);
        members_.insert(name);
      }
      ExpectChunk(Ask({.claim = Claim(), .from = name}));
      EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
    }
    big_ = Spec();
    big_.digest = origin_.AddBlob(kRepository, Pattern(8 << 20));
    big_.size = big_.chunk_size = 8 << 20;
    path_ = PathOf(big_);
    ASSERT_EQ(RawAsker(server_->port(), path_, Fill("home", "a")).Read().status, 206);
    EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
    KeepBusy();
  }
  void KeepBusy() {
    for (const char* name : {"b", "c"}) stuck_.push_back(TakeNothingOf(big_, name));
  }
  Asking Fill(const std::string& role, const std::string& from) const {
    return {.role = role,
            .claim = Claim(big_),
            .range = "bytes=0-8388607",
            .from = from,
            .more = "Sluice-Class: fill\r\nSluice-Tried: a,b,c\r\n"};
  }
  std::unique_ptr<RawAsker> BeginFill(const std::string& role, const std::string& from) {
    return std::make_unique<RawAsker>(server_->port(), path_, Fill(role, from));
  }

  BlobSpec big_;
  std::string path_;
  std::vector<std::unique_ptr<RawClient>> stuck_;
};

TEST_F(TurnsAtHomeTest, AFillThatCanBeToldOfNobodyIsSentTheChunkAsSoonAsThereIsRoom) {
  // Its time may be up before the others are seen to have gone.
  Answer answer;
  for (int i = 0; i < 20 && answer.status != 206; ++i) {
    if (i > 0) KeepBusy();
    const std::unique_ptr<RawAsker> waits = BeginFill("home", "d");
    waits->AwaitInterim();
    stuck_.clear();
    answer = waits->Read();
    EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 0; }));
  }
  EXPECT_EQ(answer.status, 206);
  EXPECT_EQ(answer.body.size(), big_.size);
}

TEST_F(TurnsAtHomeTest, NoFillWaitsForEver) {
  for (const char* role : {"home", "present-only"}) {
    const Answer answer = BeginFill(role, "d")->Read();
    EXPECT_EQ(answer.status, 503) << role;
    EXPECT_NE(answer.Header("sluice-retry-ms"), "");
    EXPECT_EQ(answer.interims > 0, std::string(role) == "home") << "a helper says nothing";
  }
  EXPECT_EQ(spreader_->request_count(), 2u) << "those that take nothing in";
}

TEST_F(TurnsAtHomeTest, AFillThatAskedForHelpWaitsForAShortTimeAndGivesItsPlaceBackWhenItGoes) {
  EXPECT_TRUE(Becomes([&] {
    const std::unique_ptr<RawAsker> waits = BeginFill("present-only", "d");
    return Becomes([&] { return spreader_->request_count() == 3; });
  }));
  EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 2; }));
  // Whoever comes then is sent it all the same.
  stuck_.clear();
  EXPECT_TRUE(Becomes([&] { return BeginFill("present-only", "d")->Read().status == 206; }));
}

// At once, and not when its time would have been up.
TEST_F(TurnsAtHomeTest, WhoGoesWhileItWaitsForItsTurnGivesItsPlaceBack) {
  const auto waits_until = [&](const std::function<void(std::unique_ptr<RawAsker>)>& ends) {
    std::unique_ptr<RawAsker> waits = BeginFill("home", "d");
    waits->AwaitInterim();
    const Instant began = clock_.Now();
    ends(std::move(waits));
    EXPECT_TRUE(Becomes([&] { return spreader_->request_count() == 2; }));
    return clock_.Now() - began;
  };
  const Duration stays = waits_until([](std::unique_ptr<RawAsker> waits) { waits->Read(); });
  Duration goes = stays;
  for (int i = 0; i < 5; ++i)
    goes = std::min<Duration>(goes, waits_until([](std::unique_ptr<RawAsker> waits) { waits.reset(); }));
  EXPECT_LT(goes, stays / 2);
}

TEST_F(TurnsAtHomeTest, AHomeThatStopsClosesToThoseWhoWaitForTheirTurn) {
  const std::unique_ptr<RawAsker> waits = BeginFill("home", "d");
  waits->AwaitInterim();
  Stop();
  EXPECT_NE(waits->Read().status, 206);
}

// ------------------------------------------------------------------------------------------ its end

TEST_F(HomeBlobsTest, AHomeThatStopsClosesToAllWhoWait) {
  Gate gate;
  origin_.Always(OriginPath(), gate.Before(ByTheRules()));
  std::vector<std::unique_ptr<RawAsker>> askers;
  for (int i = 0; i < 5; ++i) askers.push_back(Begin({.claim = Claim()}));
  for (const auto& asker : askers) asker->AwaitInterim();
  Stop();
  gate.Open();
  for (const auto& asker : askers) EXPECT_EQ(asker->Read().status, 0);
}

TEST_F(HomeBlobsTest, WhatItHadBeforeARestartItGivesAfterIt) {
  ExpectChunk(Ask({.claim = Claim()}));
  store_->Flush();
  Stop();
  Start();
  ExpectChunk(Ask({.role = "present-only", .claim = Claim()}));
  ExpectChunk(Ask({.claim = Claim()}));
  EXPECT_THAT(origin_.requests(OriginPath()), SizeIs(1));
}

}  // namespace
}  // namespace sluice
