#include "node/chunk_flow.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr ChunkIndex kChunk{7};
constexpr size_t kLength = 1000;

// What readers of a flow are told.
class ChunkFlowTest : public ::testing::Test {
 protected:
  using Told = std::vector<std::optional<size_t>>;

  ChunkInflow Begin(std::vector<std::string> from = {}) {
    return ChunkInflow(flows_.get(), blob_, kChunk, kLength, {.passed_on_by = std::move(from)});
  }
  std::shared_ptr<ChunkFlow> Find() const { return flows_->Find(blob_, kChunk); }
  ChunkFlow::OnBytes Note(Told* told) {
    return [told](std::optional<size_t> there) { told->push_back(there); };
  }
  void Add(ChunkInflow& inflow, size_t count) {
    const std::string bytes(count, 'x');
    inflow.Add(std::as_bytes(std::span(bytes)));
  }
  void Judge(const Buffer& whole, bool right) { flows_->Judge(blob_, kChunk, whole.span(), right); }

  fakes::FakeClock clock_;
  const BlobKey blob_ = *Digest::ParseHex(std::string(64, 'a'));
  const std::shared_ptr<ChunkFlows> flows_ = std::make_shared<ChunkFlows>(clock_);
};

TEST_F(ChunkFlowTest, BytesAreToldOfAsTheyComeAndTheLastOneWhenTheChunkIsRight) {
  ChunkInflow inflow = Begin({"first"});
  const std::shared_ptr<ChunkFlow> flow = Find();
  ASSERT_TRUE(flow);
  EXPECT_THAT(flow->sender().passed_on_by, ElementsAre("first"));
  Told told, last;
  flow->Await(100, Note(&told));
  Add(inflow, 99);
  EXPECT_THAT(told, IsEmpty());
  Add(inflow, 31);
  EXPECT_THAT(told, ElementsAre(130));
  flow->Await(100, Note(&told));
  EXPECT_THAT(told, ElementsAre(130, 130)) << "at once, of what is there";
  flow->Await(kLength - 1, Note(&told));
  flow->Await(kLength, Note(&last));
  Add(inflow, 2 * kLength);
  EXPECT_THAT(told, ElementsAre(130, 130, kLength - 1));
  EXPECT_THAT(last, IsEmpty()) << "nothing has proven it";
  const Buffer whole = inflow.Take();
  Judge(whole, true);
  EXPECT_THAT(last, ElementsAre(kLength));
}

TEST_F(ChunkFlowTest, NobodyGetsTheLastByteOfAChunkThatIsWrong) {
  ChunkInflow inflow = Begin();
  const std::shared_ptr<ChunkFlow> flow = Find();
  Told told;
  flow->Await(kLength, Note(&told));
  Add(inflow, kLength);
  const Buffer whole = inflow.Take();
  Judge(whole, false);
  EXPECT_THAT(told, ElementsAre(std::nullopt));
  EXPECT_FALSE(Find()) << "who comes later is given nothing of it";
  flow->Await(1, Note(&told));
  EXPECT_THAT(told, ElementsAre(std::nullopt, kLength - 1));
}

TEST_F(ChunkFlowTest, WhatAnotherSourceBroughtIsJudgedForItselfAlone) {
  ChunkInflow shown = Begin(), hidden = Begin();
  Told told;
  Find()->Await(kLength, Note(&told));
  Add(shown, kLength);
  Add(hidden, kLength);
  const Buffer first = shown.Take(), second = hidden.Take();
  Judge(second, true);
  EXPECT_THAT(told, IsEmpty());
  Judge(first, false);
  EXPECT_THAT(told, ElementsAre(std::nullopt));
}

TEST_F(ChunkFlowTest, ASourceThatEndsEarlyTellsAllAndLeavesRoomForTheNext) {
  Told told;
  std::shared_ptr<ChunkFlow> flow;
  {
    ChunkInflow inflow = Begin();
    flow = Find();
    Add(inflow, 500);
    flow->Await(501, Note(&told));
    EXPECT_THAT(told, IsEmpty());
  }
  EXPECT_THAT(told, ElementsAre(std::nullopt));
  EXPECT_FALSE(Find());
  ChunkInflow next = Begin();
  ASSERT_TRUE(Find()) << "though the first is still read";
  EXPECT_NE(Find(), flow);
  flow.reset();
  EXPECT_TRUE(Find()) << "the end of the first is not that of the next";
}

// What has stopped is taken for silent soon, and whoever has nothing of it yet is better off elsewhere.
TEST_F(ChunkFlowTest, WhatHasStoppedComingIsFoundByNobodyAndGivesWayToWhatComes) {
  ChunkInflow stopped = Begin();
  Add(stopped, 500);
  const std::shared_ptr<ChunkFlow> first = Find();
  clock_.now += ChunkFlows::kQuietMax - std::chrono::milliseconds(1);
  EXPECT_EQ(Find(), first);
  Add(stopped, 1);
  clock_.now += ChunkFlows::kQuietMax - std::chrono::milliseconds(1);
  EXPECT_EQ(Find(), first) << "something came meanwhile";
  clock_.now += std::chrono::milliseconds(1);
  EXPECT_FALSE(Find());
  ChunkInflow next = Begin();
  const std::shared_ptr<ChunkFlow> second = Find();
  ASSERT_TRUE(second);
  EXPECT_NE(second, first);
  // Who reads the first goes on.
  Told of_first, of_second;
  first->Await(kLength - 1, Note(&of_first));
  second->Await(kLength, Note(&of_second));
  Add(stopped, kLength);
  EXPECT_THAT(of_first, ElementsAre(kLength - 1));
  EXPECT_EQ(Find(), second);
  Add(next, kLength);
  const Buffer whole = next.Take();
  clock_.now += ChunkFlows::kQuietMax;
  EXPECT_EQ(Find(), second) << "all of it is there, and is held against its recipe";
  Judge(whole, true);
  EXPECT_THAT(of_second, ElementsAre(kLength));
}

TEST_F(ChunkFlowTest, ABufferThatNobodyJudgesEndsItsFlow) {
  Told told;
  {
    ChunkInflow inflow = Begin();
    Find()->Await(kLength, Note(&told));
    Add(inflow, kLength);
    const Buffer dropped = inflow.Take();
  }
  EXPECT_THAT(told, ElementsAre(std::nullopt));
  EXPECT_FALSE(Find());
}

TEST_F(ChunkFlowTest, ItIsFoundUntilItIsStoredAndReadForAsLongAsItIsHeld) {
  ChunkInflow inflow = Begin();
  Add(inflow, kLength);
  std::optional<Buffer> whole = inflow.Take();
  Judge(*whole, true);
  const std::shared_ptr<ChunkFlow> flow = Find();
  ASSERT_TRUE(flow);
  whole.reset();
  EXPECT_FALSE(Find()) << "the store has it by now, or has taken it back";
  EXPECT_EQ(flow->data()[kLength - 1], std::byte{'x'});
  Told told;
  flow->Await(kLength, Note(&told));
  EXPECT_THAT(told, ElementsAre(kLength));
}

TEST_F(ChunkFlowTest, WhoWatchesIsToldOncePerFlowWhenBytesAreThere) {
  int begun = 0;
  flows_->Observe([&](const BlobKey& blob, ChunkIndex chunk) {
    EXPECT_EQ(blob, blob_);
    EXPECT_EQ(chunk, kChunk);
    Told told;
    Find()->Await(1, Note(&told));
    EXPECT_THAT(told, ElementsAre(10)) << "nothing can be sent yet";
    ++begun;
  });
  ChunkInflow inflow = Begin();
  EXPECT_EQ(begun, 0);
  Add(inflow, 10);
  Add(inflow, 10);
  EXPECT_EQ(begun, 1);
  flows_->Observe(nullptr);
  ChunkInflow(flows_.get(), *Digest::ParseHex(std::string(64, 'b')), kChunk, kLength, {})
      .Add(std::as_bytes(std::span("bytes")));
  EXPECT_EQ(begun, 1);
}

TEST_F(ChunkFlowTest, WithoutFlowsAChunkIsOnlyGathered) {
  ChunkInflow inflow(nullptr, blob_, kChunk, 4, {});
  const std::string bytes = "abcdef";
  const auto rest = inflow.Add(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(rest.size(), 2u);
  ASSERT_TRUE(inflow.IsWhole());
  EXPECT_EQ(std::memcmp(inflow.Take().span().data(), "abcd", 4), 0);
}

// Under ThreadSanitizer it says more.
TEST_F(ChunkFlowTest, ReadersBehindAWriterGetEachByteOnceAndInOrder) {
  for (int round = 0; round < 200; ++round) {
    ChunkInflow inflow = Begin();
    const std::shared_ptr<ChunkFlow> flow = Find();
    std::vector<std::thread> readers;
    std::atomic<int> right = 0;
    for (int reader = 0; reader < 3; ++reader) {
      readers.emplace_back([&] {
        std::string got;
        while (got.size() < kLength) {
          std::atomic<int64_t> there = -1;
          flow->Await(got.size() + 1,
                      [&](std::optional<size_t> count) { there = count ? int64_t(*count) : 0; });
          while (there < 0) std::this_thread::yield();
          if (there == 0) return;
          got.append(reinterpret_cast<const char*>(flow->data()) + got.size(), size_t(there) - got.size());
        }
        for (size_t i = 0; i < kLength; ++i) {
          if (got[i] != static_cast<char>(i % 251)) return;
        }
        ++right;
      });
    }
    std::string bytes(kLength, '\0');
    for (size_t i = 0; i < kLength; ++i) bytes[i] = static_cast<char>(i % 251);
    std::span<const std::byte> left = std::as_bytes(std::span(bytes));
    for (size_t part = 1; !left.empty(); part = part * 3 % 97 + 1) {
      const size_t count = std::min(part, left.size());
      inflow.Add(left.first(count));
      left = left.subspan(count);
    }
    const Buffer whole = inflow.Take();
    Judge(whole, true);
    for (std::thread& reader : readers) reader.join();
    ASSERT_EQ(right, 3);
  }
}

}  // namespace
}  // namespace sluice
