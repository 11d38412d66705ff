#include "node/daemon/hint_precision.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

constexpr uint64_t kChunk = kChunkSizeDefault;

class HintPrecisionTest : public ::testing::Test {
 protected:
  std::shared_ptr<Blob> MakeBlob(uint32_t name, uint64_t size) {
    std::array<uint8_t, Digest::kBytes> bytes{};
    bytes[0] = static_cast<uint8_t>(name);
    bytes[1] = static_cast<uint8_t>(name >> 8);
    bytes[2] = static_cast<uint8_t>(name >> 16);
    return *store_.Open({.digest = Digest(bytes), .size = size, .root = {}, .origins = {}});
  }
  static ChunkSet Chunks(const Blob& blob, ChunkSpan span) {
    ChunkSet chunks(blob.geometry().chunk_count());
    chunks.Add(span);
    return chunks;
  }
  static ImageProfile Read(std::vector<std::pair<uint32_t, ChunkSpan>> spans) {
    ImageProfile read;
    for (const auto& [blob, chunks] : spans) {
      ProfileSpan& span = read.spans.emplace_back();
      span.blob = blob;
      span.chunks = chunks;
    }
    return read;
  }
  void Brought(const Blob& blob, ChunkSpan span, const std::shared_ptr<HintFigures>& figures) {
    precision_.Brought(blob, Chunks(blob, span), figures);
  }
  void Brought(const Blob& blob, ChunkSpan span) { Brought(blob, span, std::make_shared<HintFigures>()); }
  uint64_t Bytes(HintBytes as) const { return counters_.hint_bytes[static_cast<size_t>(as)].value(); }

  fakes::MemoryStore store_;
  ImageCounters counters_;
  HintPrecision precision_{counters_};
};

TEST_F(HintPrecisionTest, WhatAStartReadsWasUsedAndTheRestWasNot) {
  const std::shared_ptr<Blob> first = MakeBlob(1, 10 * kChunk), last = MakeBlob(2, 2 * kChunk + 5);
  Brought(*first, {ChunkIndex(2), 4});
  Brought(*last, {ChunkIndex(1), 2});
  Brought(*first, {ChunkIndex(5), 2});
  EXPECT_EQ(Bytes(HintBytes::kFetched), 6 * kChunk + 5) << "each chunk once";
  EXPECT_EQ(Bytes(HintBytes::kUsed) + Bytes(HintBytes::kUnread), 0u) << "nothing is judged yet";

  precision_.Started(std::vector{first, last}, Read({{0, {ChunkIndex(0), 3}}, {1, {ChunkIndex(2), 1}}}));
  EXPECT_EQ(Bytes(HintBytes::kUsed), kChunk + 5);
  EXPECT_EQ(Bytes(HintBytes::kUnread), 5 * kChunk);
  precision_.Started(std::vector{first, last}, Read({{0, {ChunkIndex(0), 10}}}));
  EXPECT_EQ(Bytes(HintBytes::kUsed), kChunk + 5) << "judged once";
  EXPECT_EQ(Bytes(HintBytes::kFetched), 6 * kChunk + 5);
}

TEST_F(HintPrecisionTest, WhatLeavesTheStoreUnreadWasNotUsed) {
  const std::shared_ptr<Blob> blob = MakeBlob(1, 4 * kChunk);
  blob->presence().Set(ChunkIndex(0));
  Brought(*blob, {ChunkIndex(0), 2});
  precision_.Lost(*blob);
  EXPECT_EQ(Bytes(HintBytes::kUnread), kChunk) << "what is still there was judged";
  precision_.Started(std::vector{blob}, Read({{0, {ChunkIndex(0), 2}}}));
  EXPECT_EQ(Bytes(HintBytes::kUsed), kChunk);
  precision_.Lost(*blob);
  EXPECT_EQ(Bytes(HintBytes::kUnread), kChunk);
}

TEST_F(HintPrecisionTest, EachHintIsToldOfItsOwn) {
  const std::shared_ptr<Blob> blob = MakeBlob(1, 10 * kChunk);
  blob->presence().Set(ChunkIndex(0));
  const auto first = std::make_shared<HintFigures>(), second = std::make_shared<HintFigures>();
  Brought(*blob, {ChunkIndex(0), 4}, first);
  Brought(*blob, {ChunkIndex(2), 4}, second);
  precision_.Started(std::vector{blob}, Read({{0, {ChunkIndex(1), 4}}}));
  EXPECT_EQ(first->used_bytes.value(), 3 * kChunk);
  EXPECT_EQ(first->unread_bytes.value(), kChunk);
  EXPECT_EQ(second->used_bytes.value(), kChunk) << "what both waited for is the first's";
  EXPECT_EQ(second->unread_bytes.value(), kChunk);
  // Evicted, and brought in again by another.
  const auto third = std::make_shared<HintFigures>();
  Brought(*blob, {ChunkIndex(0), 2}, third);
  precision_.Lost(*blob);
  EXPECT_EQ(third->unread_bytes.value(), kChunk);
  EXPECT_EQ(first->unread_bytes.value(), kChunk) << "judged once";
}

TEST_F(HintPrecisionTest, OfTooManyBlobsTheOldestIsNotJudged) {
  const std::shared_ptr<Blob> oldest = MakeBlob(0, 16), second = MakeBlob(1, 16);
  Brought(*oldest, {ChunkIndex(0), 1});
  Brought(*second, {ChunkIndex(0), 1});
  for (uint32_t i = 2; i <= HintPrecision::kBlobsMax; ++i) {
    const std::shared_ptr<Blob> blob = MakeBlob(i, 16);
    Brought(*blob, {ChunkIndex(0), 1});
  }
  precision_.Started(std::vector{oldest, second}, ImageProfile());
  EXPECT_EQ(Bytes(HintBytes::kUnread), 16u);
}

}  // namespace
}  // namespace sluice
