#include "p2p/swarm/swarm.h"

#include <gtest/gtest.h>

#include "tests/unit/p2p/swarm_fixture.h"

namespace sluice::p2p {
namespace {

const std::string kA = "127.0.0.2";
const std::string kB = "127.0.0.3";
const std::string kC = "127.0.0.4";

class SwarmSizes : public ::testing::TestWithParam<size_t> {};

TEST_P(SwarmSizes, ABlobComesWholeAndExact) {
  const SampleBlob sample(GetParam());
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(sample); })) << leech.store.PresentCount(sample);
  leech.store.ExpectTrue(sample);
  EXPECT_TRUE(Soon([&] { return leech.received() == sample.bytes.size(); }));
  EXPECT_EQ(leech.store.offers, static_cast<int>(sample.chunk_count()));
  EXPECT_GE(seed.sent(), sample.bytes.size());
  EXPECT_EQ(leech.telemetry.swarm_peers.value(), 1);
  EXPECT_EQ(leech.telemetry.swarm_bad_pieces.value(), 0u);
  leech.swarm->Leave(*leech.store.Find(sample.recipe.blob));
}

// One byte; a block and a byte; a chunk; a chunk and a byte; chunks and a bit.
INSTANTIATE_TEST_SUITE_P(Of, SwarmSizes,
                         ::testing::Values(1, 16385, 256 << 10, (256 << 10) + 1, (8 << 20) + 12345));

TEST(Swarm, ChunksThatCameAnotherWayAreAnnounced) {
  const SampleBlob sample((4 << 20) + 100);
  const uint16_t port = FreePort();
  SwarmNode bringer(kA, port), other(kB, port), third(kC, port);
  for (SwarmNode* node : {&bringer, &other, &third}) node->Start({kA, kB, kC});
  bringer.Fill(sample);
  ASSERT_TRUE(Soon([&] { return bringer.telemetry.swarm_torrents.value() == 1; }));
  other.Fill(sample);
  third.Fill(sample);
  ASSERT_TRUE(Soon([&] { return other.telemetry.swarm_peers.value() > 0; }));
  for (uint32_t i = 0; i < sample.chunk_count(); ++i) bringer.store.BringChunk(sample, ChunkIndex(i));
  EXPECT_TRUE(Soon([&] { return other.store.IsComplete(sample) && third.store.IsComplete(sample); }))
      << other.store.PresentCount(sample) << " " << third.store.PresentCount(sample);
  other.store.ExpectTrue(sample);
  third.store.ExpectTrue(sample);
  EXPECT_EQ(bringer.store.offers, 0);
}

TEST(Swarm, AnAnnouncementTakesTheLeavesAndReadsNothing) {
  const SampleBlob sample(4 << 20);
  SwarmNode node(kA, FreePort());
  std::atomic<int> reads = 0;
  node.store.before_read = [&] { ++reads; };
  node.Start({kB});
  node.Fill(sample);
  ASSERT_TRUE(Soon([&] { return node.leaves.Watches(sample.recipe.blob); }));
  for (uint32_t i = 0; i < sample.chunk_count(); ++i) node.store.BringChunk(sample, ChunkIndex(i));
  EXPECT_TRUE(Soon([&] { return node.leaves.bytes() == 0; }));
  EXPECT_EQ(reads, 0);
}

// The leaves are a hint: without them the chunk is read back.
TEST(Swarm, ChunksWhoseLeavesAreGoneAreAnnouncedToo) {
  const SampleBlob sample(1 << 20);
  const uint16_t port = FreePort();
  SwarmNode bringer(kA, port), other(kB, port);
  for (SwarmNode* node : {&bringer, &other}) node->Start({kA, kB});
  bringer.Fill(sample);
  ASSERT_TRUE(Soon([&] { return bringer.telemetry.swarm_torrents.value() == 1; }));
  other.Fill(sample);
  const auto blob = bringer.OpenBlob(sample);
  for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
    ASSERT_TRUE(
        bringer.store.Commit(*blob, ChunkIndex(i), sample.Chunk(ChunkIndex(i)), Evidence::kVerified).ok());
    bringer.swarm->Committed(blob, ChunkIndex(i));
  }
  EXPECT_TRUE(Soon([&] { return other.store.IsComplete(sample); }));
  other.store.ExpectTrue(sample);
}

TEST(Swarm, WhatIsPresentAtTheStartIsNotFetchedAgain) {
  const SampleBlob sample(4 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  const auto blob = leech.OpenBlob(sample);
  for (uint32_t i = 0; i < 8; ++i) leech.store.BringChunk(sample, ChunkIndex(i));
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
  EXPECT_EQ(leech.store.offers, 8);
  EXPECT_TRUE(Soon([&] { return leech.received() == sample.bytes.size() / 2; }));
}

TEST(Swarm, AFillGoesOnAfterARestartWhereItWas) {
  const SampleBlob sample(8 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.store.before_read = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.PresentCount(sample) >= 4; }));
  leech.Restart({kA});
  EXPECT_LT(leech.store.PresentCount(sample), sample.chunk_count());
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
  leech.store.ExpectTrue(sample);
  EXPECT_EQ(leech.store.offers, static_cast<int>(sample.chunk_count()));
}

TEST(Swarm, AFullStoreIsOfferedAgainAndLosesNothing) {
  const SampleBlob sample(4 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  std::atomic<int> refusals = 0;
  leech.store.refuse_offer = [&] {
    return refusals++ < 20 ? absl::ResourceExhaustedError("too much at once") : absl::OkStatus();
  };
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
  leech.store.ExpectTrue(sample);
  EXPECT_EQ(leech.store.offers, static_cast<int>(sample.chunk_count()) + 20);
  EXPECT_EQ(seed.sent(), sample.bytes.size()) << "a piece was asked for twice";
}

TEST(Swarm, AStoreThatFailedIsTriedAgainAfterAPause) {
  const SampleBlob sample(1 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  std::atomic<int> refusals = 0;
  leech.store.refuse_offer = [&] {
    return refusals++ == 0 ? absl::UnavailableError("the disk") : absl::OkStatus();
  };
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(sample); })) << leech.store.PresentCount(sample);
  leech.store.ExpectTrue(sample);
}

TEST(Swarm, OnlyMembersAreLetIn) {
  const SampleBlob sample(1 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port), stranger(kC, port);
  seed.Start({kB});
  stranger.Start({kA});
  leech.Start({kA});
  seed.SeedAll(sample);
  stranger.Fill(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
  EXPECT_FALSE(Within(std::chrono::milliseconds(500), [&] { return stranger.store.offers > 0; }));
  EXPECT_EQ(stranger.telemetry.swarm_peers.value(), 0);
  // As a member it is.
  seed.swarm->SetPeers({kB, kC});
  EXPECT_TRUE(Soon([&] { return stranger.store.IsComplete(sample); }));
}

TEST(Swarm, WhoIsNoMemberAnyMoreIsCut) {
  const SampleBlob sample(1 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
  seed.swarm->SetPeers({});
  EXPECT_TRUE(Soon(
      [&] { return seed.telemetry.swarm_peers.value() == 0 && leech.telemetry.swarm_peers.value() == 0; }));
}

TEST(Swarm, AMemberThatComesLaterIsConnectedTo) {
  const SampleBlob sample(1 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.Start({kB});
  leech.Start({});
  seed.SeedAll(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.telemetry.swarm_torrents.value() == 1; }));
  EXPECT_FALSE(leech.swarm->Carries(*leech.OpenBlob(sample), ChunkIndex(0)));
  leech.swarm->SetPeers({kA});
  EXPECT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
}

// Takes away a blob while it is read by another; `forget` as the store does it, or without a word.
void TakeAwayInMidSeed(bool forget) {
  const SampleBlob sample(8 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.store.before_read = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.store.PresentCount(sample) >= 4; }));
  if (forget) seed.swarm->Forget(*seed.store.Find(sample.recipe.blob));
  seed.store.Evict(sample.recipe.blob);
  if (forget) {
    EXPECT_TRUE(Soon([&] { return seed.telemetry.swarm_torrents.value() == 0; }));
  }
  // Registered anew and empty, as by the next mount: its file reads as zeros.
  seed.OpenBlob(sample);
  const auto blob = leech.OpenBlob(sample);
  const auto carried = [&] {
    uint32_t count = 0;
    for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
      if (!blob->presence().IsPresent(ChunkIndex(i)) && leech.swarm->Carries(*blob, ChunkIndex(i))) ++count;
    }
    return count;
  };
  EXPECT_TRUE(Soon([&] { return carried() == 0; })) << "a fill would wait for what nobody has";
  EXPECT_LT(leech.store.PresentCount(sample), sample.chunk_count());
  leech.store.ExpectTrue(sample);
  EXPECT_EQ(leech.telemetry.swarm_bad_pieces.value(), 0u) << "zeros were given out";
}

TEST(Swarm, AForgottenBlobIsNotReadAnyMore) {
  TakeAwayInMidSeed(true);
}
TEST(Swarm, AnEvictedBlobIsNotReadAsZeros) {
  TakeAwayInMidSeed(false);
}

TEST(Swarm, TheTorrentUsedLongestAgoLeaves) {
  const SampleBlob old(100, kChunkSizeDefault, 1), middle(100, kChunkSizeDefault, 2),
      young(100, kChunkSizeDefault, 3);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port, 2), leech(kB, port);
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(old);
  seed.SeedAll(middle);
  ASSERT_TRUE(Soon([&] { return seed.telemetry.swarm_torrents.value() == 2; }));
  seed.SeedAll(young);
  leech.Fill(young);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(young); }));
  EXPECT_EQ(seed.telemetry.swarm_torrents.value(), 2);
  leech.Fill(middle);
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(middle); }));
  leech.Fill(old);
  EXPECT_FALSE(Within(std::chrono::milliseconds(300), [&] { return leech.store.IsComplete(old); }));
}

TEST(Swarm, ABlobThatIsFilledKeepsItsPlace) {
  const SampleBlob filled(1 << 20), seeded(100), more(200);
  const uint16_t port = FreePort();
  SwarmNode node(kA, port, 1);
  node.Start({kB});
  node.Fill(filled);
  ASSERT_TRUE(Soon([&] { return node.telemetry.swarm_torrents.value() == 1; }));
  node.HaveAll(seeded);
  node.Seed(seeded);
  node.Fill(more);
  ASSERT_TRUE(Soon([&] { return node.warnings().size() >= 2; }));
  EXPECT_FALSE(node.swarm->Carries(*node.OpenBlob(more), ChunkIndex(0)));
  EXPECT_EQ(node.telemetry.swarm_torrents.value(), 1);
  // Its place is free when it ends.
  EXPECT_FALSE(node.leaves.Watches(more.recipe.blob));
  node.swarm->Leave(*node.OpenBlob(filled));
  EXPECT_TRUE(Soon([&] { return node.leaves.Watches(more.recipe.blob); }));
}

TEST(Swarm, ABlobThatMayNotBeSharedIsNot) {
  const SampleBlob sample(1 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.may_share = false;
  seed.Start({kB});
  leech.Start({kA});
  seed.HaveAll(sample);
  seed.Seed(sample);
  leech.Fill(sample);
  EXPECT_FALSE(Within(std::chrono::milliseconds(500), [&] { return leech.store.offers > 0; }));
  EXPECT_EQ(seed.telemetry.swarm_torrents.value(), 0);
  leech.may_share = false;
  const SampleBlob secret(2 << 20);
  leech.Fill(secret);
  EXPECT_TRUE(Soon([&] { return !leech.swarm->Carries(*leech.OpenBlob(secret), ChunkIndex(0)); }));
}

TEST(Swarm, AFillWaitsForARecipe) {
  const SampleBlob sample(1 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  leech.swarm->Join(*leech.store.Open(sample.spec()));
  const auto blob = leech.store.Find(sample.recipe.blob);
  EXPECT_TRUE(Soon([&] { return !leech.swarm->Carries(*blob, ChunkIndex(0)); }));
  EXPECT_EQ(leech.telemetry.swarm_torrents.value(), 0);
  leech.OpenBlob(sample);
  EXPECT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
}

TEST(Swarm, AFillLeavesToItWhatMovesAndNotWhatStands) {
  const SampleBlob sample(4 << 20);
  const uint16_t port = FreePort();
  SwarmNode seed(kA, port), leech(kB, port);
  std::atomic<bool> stand = false;
  seed.store.before_read = [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    while (stand) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  seed.Start({kB});
  leech.Start({kA});
  seed.SeedAll(sample);
  const auto blob = leech.OpenBlob(sample);
  EXPECT_FALSE(leech.swarm->Carries(*blob, ChunkIndex(15))) << "nobody fills it yet";
  leech.swarm->Join(blob);
  EXPECT_TRUE(leech.swarm->Carries(*blob, ChunkIndex(15))) << "connections are being made";
  ASSERT_TRUE(Soon([&] { return leech.store.PresentCount(sample) >= 2; }));
  stand = true;
  const auto carried = [&] {
    for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
      if (!blob->presence().IsPresent(ChunkIndex(i)) && leech.swarm->Carries(*blob, ChunkIndex(i)))
        return true;
    }
    return false;
  };
  EXPECT_TRUE(carried());
  EXPECT_TRUE(Soon([&] { return !carried(); }));
  EXPECT_FALSE(leech.store.IsComplete(sample));
  stand = false;
  EXPECT_TRUE(Soon([&] { return leech.store.IsComplete(sample); }));
}

TEST(Swarm, WithoutMembersNothingIsLeftToIt) {
  const SampleBlob sample(1 << 20);
  SwarmNode node(kA, FreePort());
  node.Start({});
  node.Fill(sample);
  EXPECT_FALSE(node.swarm->Carries(*node.OpenBlob(sample), ChunkIndex(0)));
}

// Nobody listens there: refused at once, so the fill is not held up for long.
TEST(Swarm, MembersThatAreAwayHoldUpNoFill) {
  const SampleBlob sample(1 << 20);
  SwarmNode node(kA, FreePort());
  node.Start({kB, kC});
  const auto joined = std::chrono::steady_clock::now();
  node.Fill(sample);
  const auto blob = node.OpenBlob(sample);
  EXPECT_TRUE(Soon([&] { return !node.swarm->Carries(*blob, ChunkIndex(0)); }));
  EXPECT_LT(std::chrono::steady_clock::now() - joined, std::chrono::seconds(5));
}

TEST(Swarm, SaysWhyItCannotStart) {
  const uint16_t port = FreePort();
  SwarmNode first(kA, port), second(kA, port), nowhere("192.0.2.1", port), nonsense("localhost", port);
  first.Start({});
  EXPECT_EQ(second.swarm->Start(second.store).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(nowhere.swarm->Start(nowhere.store).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(nonsense.swarm->Start(nonsense.store).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(first.swarm->Start(first.store).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Swarm, AfterStopNothingHappens) {
  const SampleBlob sample(1 << 20);
  SwarmNode node(kA, FreePort());
  const auto blob = node.OpenBlob(sample);
  node.swarm->Join(blob);  // before Start, too
  node.Start({kB});
  node.Fill(sample);
  node.swarm->Stop();
  node.swarm->Stop();
  node.swarm->Seed(blob);
  node.swarm->Join(blob);
  EXPECT_FALSE(node.swarm->Carries(*blob, ChunkIndex(0)));
  node.swarm->Committed(blob, ChunkIndex(0));
  node.swarm->Leave(*blob);
  node.swarm->Forget(*blob);
  EXPECT_EQ(node.telemetry.swarm_torrents.value(), 0);
}

}  // namespace
}  // namespace sluice::p2p
