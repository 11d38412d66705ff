#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "node/blob.h"
#include "node/chunk_set.h"
#include "node/digest.h"
#include "node/geometry.h"
#include "node/presence_map.h"

namespace sluice {
namespace {

constexpr char kHex[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

TEST(DigestTest, ParsesWhatItPrints) {
  const absl::StatusOr<Digest> digest = Digest::Parse(std::string("sha256:") + kHex);
  ASSERT_TRUE(digest.ok());
  EXPECT_EQ(digest->ToString(), std::string("sha256:") + kHex);
  EXPECT_EQ(digest->Hex(), kHex);
  EXPECT_EQ(digest->Short(), "e3b0c44298fc");
}

TEST(DigestTest, RejectsWhatIsNoDigest) {
  const std::string hex = kHex;
  for (const std::string& text : std::initializer_list<std::string>{
           std::string(), hex, "sha512:" + hex, "sha256:" + hex.substr(1), "sha256:" + hex + "0",
           "sha256:../../etc/passwd", "sha256:" + std::string(64, 'G'), "SHA256:" + hex,
           "sha256:" + hex.substr(0, 63) + "A", " sha256:" + hex, "sha256:" + hex.substr(0, 62) + "%2f"}) {
    const absl::StatusOr<Digest> digest = Digest::Parse(text);
    EXPECT_TRUE(absl::IsInvalidArgument(digest.status())) << text;
  }
}

TEST(DigestTest, AnErrorDoesNotRepeatAMegabyteOfInput) {
  EXPECT_LT(Digest::Parse("sha256:" + std::string(1 << 20, 'x')).status().message().size(), 300u);
}

TEST(ChunkGeometryTest, CutsABlobWithAShortTail) {
  const ChunkGeometry geometry(1'000'000, 262144);
  EXPECT_EQ(geometry.chunk_count(), 4u);
  EXPECT_EQ(geometry.RangeOf(ChunkIndex(3)), (ByteRange{786432, 213568}));
  EXPECT_EQ(geometry.Covering({262143, 2}), (ChunkSpan{ChunkIndex(0), 2}));
  EXPECT_EQ(geometry.Covering({999'999, 1}), (ChunkSpan{ChunkIndex(3), 1}));
  EXPECT_EQ(geometry.RangeOf(geometry.All()), (ByteRange{0, 1'000'000}));
  EXPECT_EQ(ChunkGeometry(262145, 262144).chunk_count(), 2u);
}

TEST(ChunkGeometryTest, ABlobHasAtMost65536Chunks) {
  EXPECT_EQ(ChunkGeometry::ChunkSizeFor(1), 256u << 10);
  EXPECT_EQ(ChunkGeometry::ChunkSizeFor(uint64_t{16} << 30), 256u << 10);
  EXPECT_EQ(ChunkGeometry::ChunkSizeFor((uint64_t{16} << 30) + 1), 512u << 10);
  EXPECT_TRUE(ChunkGeometry::Validate(uint64_t{16} << 30, 256 << 10).ok());
  EXPECT_FALSE(ChunkGeometry::Validate((uint64_t{16} << 30) + 1, 256 << 10).ok());
  for (uint32_t size : {0u, 1u, 8u << 10, (16u << 10) + 1, 128u << 20}) {
    EXPECT_FALSE(ChunkGeometry::Validate(1, size).ok()) << size;
  }
}

TEST(PresenceMapTest, FindsAbsentRuns) {
  PresenceMap map(200);
  for (uint32_t i = 0; i < 200; ++i) {
    if (i < 70 || i > 140) map.Set(ChunkIndex(i));
  }
  EXPECT_EQ(map.FirstAbsent({ChunkIndex(0), 200}, 1000), (ChunkSpan{ChunkIndex(70), 71}));
  EXPECT_EQ(map.FirstAbsent({ChunkIndex(0), 200}, 10), (ChunkSpan{ChunkIndex(70), 10}));
  EXPECT_EQ(map.FirstAbsent({ChunkIndex(0), 70}, 10).count, 0u);
  EXPECT_TRUE(map.AllPresent({ChunkIndex(141), 59}));
  EXPECT_FALSE(map.AllPresent({ChunkIndex(140), 60}));
  EXPECT_EQ(map.present_count(), 129u);
}

TEST(PresenceMapTest, SlicesAreSetByWordsInTheMirrorToo) {
  PresenceMap map(200);
  std::array<PresenceMap::Word, 4> mirror{};
  map.Attach(mirror);
  map.Set(ChunkIndex(130));
  ChunkSet slice(72);
  for (uint32_t i : {0u, 2u, 70u, 71u}) slice.Add(ChunkIndex(i));
  EXPECT_EQ(map.SetSlice(ChunkIndex(128), slice), 3u) << "130 was there";
  EXPECT_EQ(map.present_count(), 4u);
  EXPECT_EQ(map.CountIn({ChunkIndex(129), 71}), 3u);
  EXPECT_EQ(mirror[2], 5u);
  EXPECT_EQ(mirror[3], 0xc0u);
  EXPECT_TRUE(map.IsPresent(ChunkIndex(198)));
  ChunkSet all(200);
  all.AddSlice(ChunkIndex(128), slice);
  EXPECT_EQ(map.Snapshot(), all);
}

// Against one bool per chunk, at every edge of a word.
TEST(ChunkSetTest, WordOperationsAgreeWithBits) {
  constexpr uint32_t kCount = 150;
  ChunkSet set(kCount);
  std::vector<bool> bits(kCount);
  for (uint32_t i = 0; i < kCount; ++i) {
    if (i % 7 != 3 && (i < 60 || i > 75)) continue;
    set.Add(ChunkIndex(i));
    bits[i] = true;
  }
  for (uint32_t from = 0; from <= kCount; ++from) {
    for (uint32_t to = from; to <= kCount; ++to) {
      const ChunkSpan span{ChunkIndex(from), to - from};
      const auto first = bits.begin() + from, last = bits.begin() + to;
      ASSERT_EQ(set.CountIn(span), static_cast<uint32_t>(std::count(first, last, true))) << from << " " << to;
      ASSERT_EQ(set.AllIn(span), std::find(first, last, false) == last);
      ASSERT_EQ(set.NextSet(span).value(),
                static_cast<uint32_t>(std::find(first, last, true) - bits.begin()));
      ASSERT_EQ(set.NextClear(span).value(),
                static_cast<uint32_t>(std::find(first, last, false) - bits.begin()));
    }
  }
}

TEST(ChunkSetTest, SpansAndSetsAreAddedAndTakenAway) {
  ChunkSet set(200);
  EXPECT_TRUE(set.empty());
  set.Add(ChunkSpan{ChunkIndex(60), 80});
  set.Remove(ChunkSpan{ChunkIndex(64), 64});
  EXPECT_EQ(set.Count(), 16u);
  EXPECT_FALSE(set.Has(ChunkIndex(64)));
  EXPECT_TRUE(set.Has(ChunkIndex(128)));
  set.Remove(ChunkIndex(128));
  EXPECT_FALSE(set.Has(ChunkIndex(128)));
  EXPECT_EQ(set.Count(), 15u);
  set.Add(ChunkIndex(128));
  set.Add(ChunkSpan{ChunkIndex(0), 0});
  ChunkSet other(200);
  other.Add(ChunkSpan{ChunkIndex(62), 100});
  EXPECT_FALSE(set.IsSubsetOf(other));
  ChunkSet both = set;
  both.IntersectWith(other);
  EXPECT_TRUE(both.IsSubsetOf(set) && both.IsSubsetOf(other));
  EXPECT_EQ(both.Count(), 14u);
  set.Subtract(other);
  EXPECT_EQ(set.Count(), 2u);
  set.UnionWith(both);
  EXPECT_EQ(set.Count(), 16u);
  const ChunkSet slice = set.Slice({ChunkIndex(128), 10});
  EXPECT_EQ(slice.Count(), 10u);
  EXPECT_EQ(slice.chunk_count(), 10u);
  ChunkSet tail(70);
  tail.SetWord(1, ~uint64_t{0});
  EXPECT_EQ(tail.Count(), 6u) << "nothing past the end";
  set.Clear();
  EXPECT_TRUE(set.empty());
}

TEST(PresenceMapTest, TheMirrorFollows) {
  PresenceMap map(100);
  map.Set(ChunkIndex(1));
  std::array<PresenceMap::Word, 4> mirror{};
  mirror[0] = ~uint64_t{0};  // stale bits must not survive
  map.Attach(mirror);
  EXPECT_EQ(mirror[0], 2u);
  map.Set(ChunkIndex(99));
  EXPECT_EQ(mirror[1], uint64_t{1} << 35);
  map.Clear(ChunkIndex(1));
  EXPECT_EQ(mirror[0], 0u);
  map.ClearAll();
  EXPECT_EQ(mirror[1], 0u);
  EXPECT_EQ(map.present_count(), 0u);
  map.Set(ChunkIndex(99));
  map.Detach();
  EXPECT_EQ(mirror[1], 0u);
  map.Set(ChunkIndex(2));
  EXPECT_EQ(mirror[0], 0u);
  EXPECT_TRUE(map.IsPresent(ChunkIndex(99)));
}

TEST(PresenceMapTest, ClearAllReachesTheMirrorToo) {
  PresenceMap map(100);
  std::array<PresenceMap::Word, 2> mirror{};
  map.Attach(mirror);
  map.Set(ChunkIndex(3));
  map.Set(ChunkIndex(70));
  map.ClearAll();
  EXPECT_EQ(mirror[0], 0u);
  EXPECT_EQ(mirror[1], 0u);
  EXPECT_EQ(map.present_count(), 0u);
  EXPECT_EQ(map.FirstAbsent({ChunkIndex(0), 100}, 1000), (ChunkSpan{ChunkIndex(0), 100}));
}

TEST(PresenceMapTest, MapAndMirrorAgreeAfterManyThreads) {
  PresenceMap map(4096);
  std::array<PresenceMap::Word, 64> mirror{};
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&map, t] {
      for (uint32_t i = 0; i < 20000; ++i) {
        const ChunkIndex index((i * 7919 + t * 31) % 4096);
        if (i % 3 == 0) {
          map.Clear(index);
        } else {
          map.Set(index);
        }
      }
    });
  }
  map.Attach(mirror);
  for (std::thread& thread : threads) thread.join();
  uint32_t count = 0;
  for (uint32_t i = 0; i < 4096; ++i) {
    EXPECT_EQ(map.IsPresent(ChunkIndex(i)), (mirror[i / 64] >> (i % 64) & 1) != 0);
    count += map.IsPresent(ChunkIndex(i));
  }
  EXPECT_EQ(count, map.present_count());
}

TEST(BlobTest, ALeaseIsCountedOnceHoweverItMoves) {
  auto blob = std::make_shared<Blob>(BlobSpec{.digest = {}, .size = 5, .root = {}, .origins = {}});
  {
    Blob::Lease lease(blob);
    Blob::Lease moved = std::move(lease);
    EXPECT_EQ(blob->lease_count(), 1u);
  }
  EXPECT_EQ(blob->lease_count(), 0u);
}

TEST(BlobTest, ARefusedBlobHasNoChunk) {
  Blob blob({.digest = {}, .size = 3 * kChunkSizeDefault, .root = {}, .origins = {}});
  blob.presence().Set(ChunkIndex(1));
  EXPECT_FALSE(blob.refused());
  blob.Refuse();
  EXPECT_TRUE(blob.refused());
  EXPECT_FALSE(blob.presence().IsPresent(ChunkIndex(1)));
  EXPECT_EQ(blob.presence().present_count(), 0u);
}

TEST(BlobTest, TheLastChunkCountsWithTheBytesThatItHas) {
  Blob blob({.digest = {}, .size = 2 * kChunkSizeDefault + 5, .root = {}, .origins = {}});
  EXPECT_EQ(blob.present_bytes(), 0u);
  blob.presence().Set(ChunkIndex(0));
  EXPECT_EQ(blob.present_bytes(), kChunkSizeDefault);
  blob.presence().Set(ChunkIndex(2));
  EXPECT_EQ(blob.present_bytes(), kChunkSizeDefault + 5);
}

}  // namespace
}  // namespace sluice
