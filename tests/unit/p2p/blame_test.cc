#include "p2p/swarm/blame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "node/ban_list.h"

namespace sluice::p2p {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Digest Of(int n) {
  std::array<uint8_t, Digest::kBytes> bytes{};
  std::memcpy(bytes.data(), &n, sizeof n);
  return Digest(bytes);
}
const Digest kBlob = Of(-1);

TEST(Blame, TheOnlySenderOfABadPieceIsTheLiar) {
  BlameLedger ledger;
  EXPECT_THAT(ledger.NoteBad(kBlob, ChunkIndex(0), {Of(1), Of(2)}, {"a", "a"}), ElementsAre("a"));
  EXPECT_EQ(ledger.open_count(), 0u);
}

TEST(Blame, TheRightBytesTellWhoLied) {
  BlameLedger ledger;
  EXPECT_THAT(ledger.NoteBad(kBlob, ChunkIndex(0), {Of(1), Of(99)}, {"a", "b"}), IsEmpty());
  EXPECT_THAT(ledger.NoteGood(kBlob, ChunkIndex(1), {Of(1), Of(2)}), IsEmpty());
  EXPECT_EQ(ledger.open_count(), 1u);
  EXPECT_THAT(ledger.NoteGood(kBlob, ChunkIndex(0), {Of(1), Of(2)}), ElementsAre("b"));
  EXPECT_EQ(ledger.open_count(), 0u);
}

TEST(Blame, WhoHadAPartInThreeIsTakenForTheLiarAndTheOthersAreCleared) {
  BlameLedger ledger;
  EXPECT_THAT(ledger.NoteBad(kBlob, ChunkIndex(0), {Of(1), Of(2)}, {"bad", "a"}), IsEmpty());
  EXPECT_THAT(ledger.NoteBad(kBlob, ChunkIndex(1), {Of(1), Of(2)}, {"bad", "b"}), IsEmpty());
  EXPECT_THAT(ledger.NoteBad(kBlob, ChunkIndex(1), {Of(1), Of(2)}, {"a", "bad"}), ElementsAre("bad"));
  EXPECT_EQ(ledger.open_count(), 0u);
  // Nothing is held against them from then.
  EXPECT_THAT(ledger.NoteBad(kBlob, ChunkIndex(5), {Of(1), Of(2)}, {"a", "b"}), IsEmpty());
}

TEST(Blame, OfTwoThatHadAPartInManyTheOneWithMoreIsTaken) {
  BlameLedger ledger;
  ledger.NoteBad(kBlob, ChunkIndex(0), {Of(1), Of(2)}, {"bad", "x"});
  ledger.NoteBad(kBlob, ChunkIndex(1), {Of(1), Of(2)}, {"bad", "a"});
  EXPECT_THAT(ledger.NoteBad(kBlob, ChunkIndex(2), {Of(1), Of(2)}, {"bad", "a"}), ElementsAre("bad"));
}

TEST(Blame, RemembersSoManyBadPiecesAndNoMore) {
  BlameLedger ledger;
  for (uint32_t i = 0; i < 2 * kOpenBadPiecesMax; ++i) {
    const std::string n = std::to_string(i);
    ledger.NoteBad(kBlob, ChunkIndex(i), {Of(1), Of(2)}, {"a" + n, "b" + n});
  }
  EXPECT_EQ(ledger.open_count(), kOpenBadPiecesMax);
  EXPECT_THAT(ledger.NoteGood(kBlob, ChunkIndex(0), {Of(1), Of(3)}), IsEmpty()) << "long forgotten";
}

TEST(BanList, EndsAndIsNeverMoreThanAQuarter) {
  BanList bans;
  const Instant start{std::chrono::hours(1)};
  EXPECT_TRUE(bans.Ban("a", start, 8));
  EXPECT_TRUE(bans.Ban("b", start, 8));
  EXPECT_FALSE(bans.Ban("c", start, 8));
  EXPECT_TRUE(bans.Ban("a", start, 8)) << "it is among them already";
  EXPECT_TRUE(bans.IsBanned("a", start + kBanTime - std::chrono::seconds(1)));
  EXPECT_FALSE(bans.IsBanned("c", start));
  EXPECT_FALSE(bans.IsBanned("a", start + kBanTime));
  EXPECT_FALSE(bans.Expire(start));
  EXPECT_TRUE(bans.Expire(start + kBanTime));
  EXPECT_TRUE(bans.Ban("c", start + kBanTime, 1)) << "one always may be";
  EXPECT_FALSE(bans.Ban("d", start + kBanTime, 1));
}

}  // namespace
}  // namespace sluice::p2p
