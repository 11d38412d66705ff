#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <string>

#include "absl/strings/escaping.h"
#include "tests/unit/p2p/swarm_fixture.h"

// Members that misbehave.
namespace sluice::p2p {
namespace {

const std::string kHonest = "127.0.0.2";
const std::string kLeech = "127.0.0.3";
const std::string kBad = "127.0.0.4";
const std::string kHonestToo = "127.0.0.5";
const std::string kBadToo = "127.0.0.6";

// Not a whole number of chunks: libtorrent has a pad file behind it, which it handles badly.
const SampleBlob& Sample() {
  static const SampleBlob* const sample = new SampleBlob((8 << 20) + 12345);
  return *sample;
}

TEST(SwarmFault, WhoAloneSentABadPieceIsRefused) {
  const uint16_t port = FreePort();
  SwarmNode liar(kBad, port), honest(kHonest, port), leech(kLeech, port);
  liar.Start({kLeech});
  honest.Start({kLeech});
  leech.Start({kBad});
  liar.SeedAll(Sample());
  honest.SeedAll(Sample());
  liar.store.Damage(Sample(), [](uint32_t) { return true; });
  leech.Fill(Sample());
  ASSERT_TRUE(Soon([&] { return leech.telemetry.swarm_banned_peers.value() == 1; }));
  EXPECT_TRUE(Soon([&] { return leech.telemetry.swarm_peers.value() == 0; }));
  EXPECT_FALSE(
      Within(std::chrono::milliseconds(2500), [&] { return leech.telemetry.swarm_peers.value() > 0; }));
  EXPECT_EQ(leech.store.offers, 0);

  leech.swarm->SetPeers({kBad, kHonest});
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(Sample()); }));
  leech.store.ExpectTrue(Sample());
  EXPECT_EQ(leech.telemetry.swarm_banned_peers.value(), 1u);
}

TEST(SwarmFault, ALiarBesideHonestOnesSpoilsNothing) {
  const uint16_t port = FreePort();
  SwarmNode liar(kBad, port), honest(kHonest, port), too(kHonestToo, port), leech(kLeech, port);
  for (SwarmNode* node : {&liar, &honest, &too}) {
    // So that the pieces are shared among them, and some of several senders.
    node->store.before_read = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
    node->Start({kLeech});
    node->SeedAll(Sample());
  }
  liar.store.Damage(Sample(), [](uint32_t index) { return index % 2 == 0; });
  leech.Start({kBad, kHonest, kHonestToo});
  leech.Fill(Sample());
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(Sample()); })) << leech.store.PresentCount(Sample());
  leech.store.ExpectTrue(Sample());
  EXPECT_LE(leech.telemetry.swarm_banned_peers.value(), 1u);
  EXPECT_EQ(leech.telemetry.verify_failures[static_cast<size_t>(SourceKind::kPeer)].value(),
            leech.telemetry.swarm_bad_pieces.value());
  EXPECT_TRUE(leech.warnings().empty());
}

// A chunk of one block, and a blob of one chunk, are held against layer and root.
TEST(SwarmFault, ABadBlobOfOneByteIsRefused) {
  const SampleBlob sample(1);
  const uint16_t port = FreePort();
  SwarmNode liar(kBad, port), leech(kLeech, port);
  liar.Start({kLeech});
  leech.Start({kBad});
  liar.SeedAll(sample);
  liar.store.Damage(sample, [](uint32_t) { return true; });
  leech.Fill(sample);
  ASSERT_TRUE(Soon([&] { return leech.telemetry.swarm_banned_peers.value() == 1; }));
  EXPECT_EQ(leech.store.offers, 0);
}

int RunHostilePeer(const std::string& from, const std::string& target, uint16_t port) {
  const std::string hash = Sample().recipe.InfoHash().Hex().substr(0, 40);
  const std::string command = absl::StrCat("timeout 120 python3 -B ", SLUICE_HOSTILE_PEER, " ", from, " ",
                                           target, " ", port, " ", hash, " ", Sample().chunk_count());
  const int status = ::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(SwarmFault, HostileMessagesEndOnlyTheirConnection) {
  const uint16_t port = FreePort();
  SwarmNode seed(kHonest, port), leech(kLeech, port);
  std::atomic<bool> slow = true;
  seed.store.before_read = [&] {
    if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(250));
  };
  seed.Start({kLeech, kBad});
  leech.Start({kHonest, kBad, kBadToo});
  seed.SeedAll(Sample());
  leech.Fill(Sample());
  ASSERT_TRUE(Soon([&] { return leech.telemetry.swarm_peers.value() >= 1; }));
  EXPECT_EQ(RunHostilePeer(kBad, kHonest, port), 0) << "to a seed";
  EXPECT_EQ(RunHostilePeer(kBad, kLeech, port), 0) << "to a leech";
  EXPECT_FALSE(leech.store.IsComplete(Sample())) << "it was over before it began";
  slow = false;
  ASSERT_TRUE(Soon([&] { return leech.store.IsComplete(Sample()); }));
  leech.store.ExpectTrue(Sample());
  // Hashes are known of all pieces now. (The first may be refused by now, for the pieces that it sent.)
  EXPECT_EQ(RunHostilePeer(kBadToo, kLeech, port), 0) << "to one that is complete";
  EXPECT_TRUE(leech.warnings().empty());
  EXPECT_TRUE(seed.warnings().empty());
}

}  // namespace
}  // namespace sluice::p2p
