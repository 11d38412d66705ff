#include "p2p/registry/long_reads.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/node/fakes.h"

namespace sluice::p2p {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kBlobSize = 100'000;

std::byte ByteAt(uint64_t offset) {
  return static_cast<std::byte>((offset * 2654435761u) >> 13);
}

// A registry whose answers come as the test says, on the test's thread.
class LongReadsTest : public testing::Test {
 protected:
  // One request to the registry.
  struct Answer final : public PacedControl {
    void Raise(FetchClass fetch_class) override { raised = fetch_class; }
    void Cancel() override { cancelled = true; }
    void GoOn() override { is_held = false; }

    bool is_paced() const { return takes != nullptr; }
    uint64_t left() const { return read.range.length - given; }

    BlobRead read;
    RegistryClient::Takes takes;
    uint64_t given = 0;
    bool has_head = false;
    bool is_held = false;
    bool cancelled = false;
    bool has_ended = false;
    std::optional<FetchClass> raised;
  };
  using AnswerPtr = std::shared_ptr<Answer>;

  // What somebody asked for.
  struct Piece {
    ByteRange range;
    uint64_t given = 0;
    int told = 0;
    std::optional<absl::Status> ended;
    LongReads::Begun begun;
  };
  using PiecePtr = std::shared_ptr<Piece>;

  PiecePtr Read(uint64_t offset, uint64_t length, FetchClass fetch_class = FetchClass::kReadahead,
                Duration left = seconds(60), const std::string& repository = "r") {
    return ReadIn({0, kBlobSize}, offset, length, fetch_class, left, repository);
  }
  PiecePtr ReadIn(ByteRange run, uint64_t offset, uint64_t length, FetchClass fetch_class,
                  Duration left = seconds(60), const std::string& repository = "r") {
    auto piece = std::make_shared<Piece>();
    piece->range = {offset, length};
    pieces_.push_back(piece);
    piece->begun = reads_.Read({.origin = {"registry", repository},
                                .digest = Sha256::Of("blob"),
                                .blob_size = kBlobSize,
                                .range = piece->range,
                                .fetch_class = fetch_class,
                                .deadline = clock_.Now() + left,
                                .on_access = [piece](OriginAccess) { ++piece->told; },
                                .on_data =
                                    [piece](std::span<const std::byte> bytes) {
                                      EXPECT_GT(piece->told, 0) << "bytes before it is known what they take";
                                      EXPECT_FALSE(piece->ended);
                                      for (const std::byte byte : bytes)
                                        ASSERT_EQ(byte, ByteAt(piece->range.offset + piece->given++));
                                      ASSERT_LE(piece->given, piece->range.length);
                                    },
                                .done =
                                    [piece](absl::Status status) {
                                      ASSERT_FALSE(piece->ended) << "answered twice";
                                      EXPECT_TRUE(!status.ok() || piece->given == piece->range.length);
                                      piece->ended = std::move(status);
                                    }},
                               run);
    return piece;
  }

  // As much as the answer may give now; returns how much that was.
  uint64_t Give(Answer& answer, uint64_t most) {
    if (answer.has_ended || answer.cancelled || answer.is_held) return 0;
    if (!std::exchange(answer.has_head, true)) answer.read.on_access(OriginAccess::kPublic);
    most = std::min(most, answer.left());
    if (most > 0 && answer.takes && !answer.takes()) {
      answer.is_held = true;
      return 0;
    }
    std::vector<std::byte> bytes(most);
    for (uint64_t i = 0; i < most; ++i) bytes[i] = ByteAt(answer.read.range.offset + answer.given + i);
    if (most > 0) answer.read.on_data(bytes);
    answer.given += most;
    if (answer.left() == 0) End(answer, absl::OkStatus());
    return most;
  }
  void End(Answer& answer, absl::Status status) {
    if (std::exchange(answer.has_ended, true)) return;
    std::move(answer.read.done)(std::move(status));
    answer.read = {};
    answer.takes = nullptr;
  }
  // What is due by now.
  void Run() {
    executor_.Run();
    for (size_t i = 0; i < answers_.size(); ++i)
      if (answers_[i]->cancelled) End(*answers_[i], absl::CancelledError("cancelled"));
    executor_.Run();
  }
  void Pass(Duration duration) {
    clock_.now += duration;
    Run();
  }
  AnswerPtr last() { return answers_.back(); }

  fakes::FakeClock clock_;
  fakes::ManualExecutor executor_{clock_};
  bool stopped_ = false;  // then tasks are dropped
  std::vector<AnswerPtr> answers_;
  std::vector<PiecePtr> pieces_;
  std::map<LongReadResult, int> results_;
  LongReads reads_{{[this](BlobRead read, RegistryClient::Takes takes) {
                      auto answer = std::make_shared<Answer>();
                      answer->read = std::move(read);
                      answer->takes = std::move(takes);
                      answers_.push_back(answer);
                      return answer;
                    },
                    [this](Duration delay, Task task) {
                      if (!stopped_) executor_.PostAt(clock_.Now() + delay, std::move(task));
                    },
                    clock_,
                    {.long_bytes = 1000, .queued_bytes_max = 8000, .reader_bytes_max = 1500},
                    [this](LongReadResult result) { ++results_[result]; }}};
};

TEST_F(LongReadsTest, AStreamComesByOneRequest) {
  const PiecePtr first = Read(5000, 1000);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(last()->is_paced());
  EXPECT_EQ(last()->read.range, (ByteRange{5000, kBlobSize - 5000}));
  EXPECT_FALSE(first->begun.goes_on);
  Give(*last(), 600);
  const PiecePtr second = Read(6000, 3000);
  EXPECT_TRUE(second->begun.goes_on);
  Give(*last(), 1000);
  EXPECT_TRUE(first->ended && first->ended->ok());
  EXPECT_EQ(second->given, 600u);
  Give(*last(), 3000);
  EXPECT_TRUE(second->ended && second->ended->ok());
  EXPECT_EQ(answers_.size(), 1u);
}

TEST_F(LongReadsTest, ShortOnesThoseOfReadersAndSingleOnesOfFillsAreAskedForAlone) {
  for (const FetchClass fetch_class : {FetchClass::kDemand, FetchClass::kHint, FetchClass::kBackfill}) {
    Read(10'000, 5000, fetch_class);
    EXPECT_FALSE(last()->is_paced());
    EXPECT_EQ(last()->read.range, (ByteRange{10'000, 5000}));
  }
  Read(0, 999);
  EXPECT_FALSE(last()->is_paced());
  Read(kBlobSize - 5000, 5000);
  EXPECT_FALSE(last()->is_paced()) << "nothing follows it";
}

TEST_F(LongReadsTest, NobodyElseGoesOnWithIt) {
  Read(0, 1000);
  EXPECT_FALSE(Read(1000, 1000, FetchClass::kBackfill)->begun.goes_on);
  EXPECT_FALSE(Read(1001, 1000)->begun.goes_on);
  EXPECT_FALSE(Read(1000, 1000, FetchClass::kReadahead, seconds(60), "another")->begun.goes_on);
  EXPECT_TRUE(Read(1000, 1000, FetchClass::kDemand)->begun.goes_on);
}

TEST_F(LongReadsTest, WhatFillsABlobUpComesByOneRequestForEachRun) {
  constexpr ByteRange kRun{20'000, 5000};
  const PiecePtr first = ReadIn(kRun, 20'000, 500, FetchClass::kBackfill);
  EXPECT_TRUE(last()->is_paced());
  EXPECT_EQ(last()->read.range, kRun);
  EXPECT_EQ(last()->read.fetch_class, FetchClass::kBackfill);
  for (uint64_t at = 20'500; at < kRun.end(); at += 500) {
    Give(*last(), 500);
    EXPECT_TRUE(ReadIn(kRun, at, 500, FetchClass::kBackfill)->begun.goes_on) << at;
    Run();
  }
  Give(*last(), 500);
  EXPECT_EQ(answers_.size(), 1u);
  EXPECT_EQ(reads_.under_way(), 0u);
  EXPECT_EQ(results_[LongReadResult::kPaid], 1);
  for (const PiecePtr& piece : pieces_) EXPECT_TRUE(piece->ended && piece->ended->ok());
  ReadIn({25'000, 5000}, 25'000, 5000, FetchClass::kBackfill);
  EXPECT_FALSE(last()->is_paced()) << "it is all of the run";
}

// One that begins in the middle is no more than what was left out, until the next follows.
TEST_F(LongReadsTest, AFillThatLeavesOutMuchIsAskedForAloneUntilItGoesOn) {
  const auto begins_at = [&](FetchClass fetch_class, uint64_t first) {
    for (uint32_t i = 0; i < 10; ++i) {
      Read(first + i * 500, 500, fetch_class);
      if (last()->is_paced()) return i;
    }
    return 10u;
  };
  EXPECT_EQ(begins_at(FetchClass::kBackfill, 10'000), 1u);
  EXPECT_EQ(begins_at(FetchClass::kHint, 30'000), LongReads::Limits().hinted_in_a_row);
  for (uint64_t i = 0; i < 10; ++i) {
    Read(60'000 + i * 1000, 500, FetchClass::kBackfill);
    EXPECT_FALSE(last()->is_paced()) << i;
  }
  // Several may be filled by turns, but not any number.
  Read(10'000, 500, FetchClass::kBackfill);
  for (uint64_t i = 1; i < LongReads::kRowsMax; ++i) Read(60'000 + i * 1000, 500, FetchClass::kBackfill);
  Read(10'500, 500, FetchClass::kBackfill);
  EXPECT_TRUE(last()->is_paced());
  Read(20'000, 500, FetchClass::kBackfill);
  for (uint64_t i = 0; i < LongReads::kRowsMax; ++i) Read(60'000 + i * 1000, 500, FetchClass::kBackfill);
  Read(20'500, 500, FetchClass::kBackfill);
  EXPECT_FALSE(last()->is_paced());
}

// Chunks are asked for in any order at first.
TEST_F(LongReadsTest, WhereWhatFollowsWasAskedForBeforeAFillIsAskedForAlone) {
  for (const uint64_t offset : {12'000, 11'500, 10'000, 10'500, 11'000}) {
    ReadIn({9000, 6000}, offset, 500, FetchClass::kBackfill);
    EXPECT_EQ(last()->is_paced(), offset == 10'500) << offset;
    if (last()->is_paced()) {
      Give(*last(), 500);
      Pass(LongReads::kHeldMax);
    }
  }
  ReadIn({9000, 6000}, 12'500, 500, FetchClass::kBackfill);
  EXPECT_EQ(last()->read.range.length, 500u) << "that one was in vain";
  ReadIn({9000, 6000}, 13'000, 500, FetchClass::kBackfill);
  EXPECT_EQ(last()->read.range, (ByteRange{13'000, 2000}));
}

TEST_F(LongReadsTest, AFillThatComesToWhatWasAskedForBeforeEndsAtOnce) {
  ReadIn({10'000, 5000}, 10'000, 500, FetchClass::kBackfill);
  const AnswerPtr answer = last();
  ReadIn({10'000, 5000}, 11'000, 500, FetchClass::kBackfill);
  EXPECT_FALSE(last()->is_paced()) << "one is left out";
  EXPECT_TRUE(ReadIn({10'000, 5000}, 10'500, 500, FetchClass::kBackfill)->begun.goes_on);
  Give(*answer, 999);
  EXPECT_FALSE(answer->cancelled);
  Give(*answer, 1);
  EXPECT_TRUE(answer->cancelled);
  Run();
  EXPECT_EQ(reads_.under_way(), 0u);
}

// It may have been evicted since, or was a fill's alone.
TEST_F(LongReadsTest, WhatFillsAskedForLongAgoOrBesideAReaderHoldsNothingUp) {
  Read(1000, 500, FetchClass::kBackfill);
  Read(0, 1000);
  const AnswerPtr stream = last();
  Give(*stream, 1000);
  EXPECT_FALSE(stream->cancelled) << "a reader goes on with it, be it there or not";
  Pass(LongReads::kAskedKept - milliseconds(1));
  ReadIn({500, 5000}, 500, 500, FetchClass::kBackfill);
  EXPECT_FALSE(last()->is_paced());
  Pass(LongReads::kAskedKept);
  Read(1, 1000);  // the one that is passed over, as the stream was in vain
  ReadIn({500, 5000}, 500, 500, FetchClass::kBackfill);
  EXPECT_TRUE(last()->is_paced());
}

TEST_F(LongReadsTest, FillsLeaveReadersTheirPlaces) {
  for (uint64_t i = 0; i < 2 * LongReads::kFillsMax; ++i) {
    ReadIn({i * 10'000, 5000}, i * 10'000, 500, FetchClass::kBackfill);
    EXPECT_EQ(last()->is_paced(), i < LongReads::kFillsMax) << i;
  }
  Read(90'000, 1000);
  EXPECT_TRUE(last()->is_paced());
}

TEST_F(LongReadsTest, AReaderWaitsForNoFillAndGoesOnWithOneThatStands) {
  Read(0, 1000, FetchClass::kBackfill);
  const PiecePtr second = Read(1000, 500, FetchClass::kBackfill);
  ASSERT_EQ(answers_.size(), 1u);
  second->begun.control->Raise(FetchClass::kDemand);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(last()->read.range, second->range);
  Give(*answers_[0], 1000);
  const PiecePtr third = Read(1000, 500, FetchClass::kDemand);
  EXPECT_TRUE(third->begun.goes_on);
  third->begun.control->Raise(FetchClass::kDemand);
  Run();
  EXPECT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[0]->raised, FetchClass::kDemand);
  Give(*answers_[0], 500);
  EXPECT_TRUE(third->ended && third->ended->ok());
}

TEST_F(LongReadsTest, WhatNobodyWantsStaysOnTheWayAndIsGivenUp) {
  const PiecePtr first = Read(0, 1000);
  Give(*last(), 1300);
  EXPECT_TRUE(first->ended);
  EXPECT_EQ(Give(*last(), 1000), 0u) << "it is not taken";
  Pass(LongReads::kHeldMax - milliseconds(1));
  const PiecePtr second = Read(1000, 500);
  EXPECT_TRUE(second->begun.goes_on);
  Run();
  EXPECT_EQ(second->given, 300u) << "what had come already";
  EXPECT_FALSE(last()->is_held);
  Give(*last(), 200);
  EXPECT_TRUE(second->ended);
  Pass(LongReads::kHeldMax - milliseconds(1));
  EXPECT_FALSE(last()->cancelled);
  Pass(milliseconds(1));
  EXPECT_TRUE(last()->cancelled);
  EXPECT_EQ(reads_.under_way(), 0u);
  EXPECT_FALSE(Read(1500, 1000)->begun.goes_on);
}

TEST_F(LongReadsTest, WhatIsInVainIsTriedTwiceAsSeldomEachTime) {
  for (uint32_t in_vain = 0, passed_over = 0; in_vain < 9; ++in_vain) {
    uint32_t alone = 0;
    while (Read(0, 1000), !last()->is_paced()) ++alone;
    EXPECT_EQ(alone, passed_over);
    passed_over = std::min(std::max(1u, 2 * passed_over), LongReads::kPassedOverMax);
    Give(*last(), 1000);
    Pass(LongReads::kHeldMax);
  }
  for (uint32_t i = 0; i < LongReads::kPassedOverMax; ++i) Read(0, 1000);
  const AnswerPtr worth_it = (Read(0, 1000), last());
  ASSERT_TRUE(worth_it->is_paced());
  for (uint32_t i = 1; i <= LongReads::kPaidFrom; ++i) Read(i * 1000, 1000);
  Give(*worth_it, (LongReads::kPaidFrom + 1) * 1000);
  Pass(LongReads::kHeldMax);
  EXPECT_TRUE(worth_it->cancelled);
  Read(0, 1000);
  EXPECT_TRUE(last()->is_paced());
}

TEST_F(LongReadsTest, AnErrorIsTheFirstOnesAndTheOthersAreAskedForAlone) {
  const PiecePtr first = Read(0, 1000), second = Read(1000, 1000), third = Read(2000, 1000);
  Give(*answers_[0], 500);
  End(*answers_[0], absl::UnavailableError("cut off"));
  EXPECT_TRUE(first->ended && absl::IsUnavailable(*first->ended));
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_EQ(answers_[1]->read.range, second->range);
  EXPECT_FALSE(answers_[1]->is_paced());
  EXPECT_EQ(answers_[2]->read.range, third->range);
  Give(*answers_[1], 1000);
  Give(*answers_[2], 1000);
  EXPECT_TRUE(second->ended->ok() && third->ended->ok());
}

// It may be the request's time that was over, or a token's that was shown for it.
TEST_F(LongReadsTest, AnErrorBetweenTwoIsNobodys) {
  const PiecePtr first = Read(0, 1000), second = Read(1000, 1000);
  Give(*answers_[0], 1000);
  EXPECT_TRUE(first->ended->ok());
  End(*answers_[0], absl::DeadlineExceededError("ten minutes"));
  EXPECT_FALSE(second->ended);
  ASSERT_EQ(answers_.size(), 2u);
  Give(*answers_[1], 1000);
  EXPECT_TRUE(second->ended->ok());
}

// RFC 9110, section 14.2: it may give less.
TEST_F(LongReadsTest, AServerThatGivesNoLongRangeIsAskedForAShortOne) {
  const PiecePtr first = Read(0, 1000), second = Read(1000, 1000);
  End(*answers_[0], absl::DataLossError("asked for bytes 0-99999, got 0-49999"));
  EXPECT_FALSE(first->ended);
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_EQ(answers_[1]->read.range, first->range);
  Give(*answers_[1], 1000);
  Give(*answers_[2], 1000);
  EXPECT_TRUE(first->ended->ok() && second->ended->ok());
  Read(2000, 1000);
  EXPECT_FALSE(last()->is_paced());
}

TEST_F(LongReadsTest, WhoIsCancelledTakesNothingFromThoseBefore) {
  const PiecePtr first = Read(0, 1000), second = Read(1000, 1000), third = Read(2000, 1000);
  second->begun.control->Cancel();
  EXPECT_FALSE(second->ended) << "on the answers' thread";
  Run();
  EXPECT_TRUE(second->ended && absl::IsCancelled(*second->ended));
  ASSERT_EQ(answers_.size(), 2u) << "the third is asked for alone";
  EXPECT_EQ(answers_[1]->read.range, third->range);
  EXPECT_FALSE(answers_[0]->cancelled);
  const PiecePtr again = Read(1000, 1000);
  EXPECT_TRUE(again->begun.goes_on);
  Give(*answers_[0], 2000);
  EXPECT_TRUE(first->ended->ok() && again->ended->ok());
  third->begun.control->Cancel();
  Run();
  EXPECT_TRUE(absl::IsCancelled(*third->ended));
}

TEST_F(LongReadsTest, TheRequestEndsWithTheFirst) {
  const PiecePtr first = Read(0, 1000), second = Read(1000, 1000);
  Give(*answers_[0], 10);
  first->begun.control->Cancel();
  EXPECT_TRUE(answers_[0]->cancelled);
  Run();
  EXPECT_TRUE(absl::IsCancelled(*first->ended));
  EXPECT_FALSE(second->ended);
  ASSERT_EQ(answers_.size(), 2u);
}

TEST_F(LongReadsTest, WhoIsAskedForAloneCanBeCancelledThoughNobodyElseHoldsIt) {
  const PiecePtr first = Read(0, 1000), second = Read(1000, 1000);
  const std::weak_ptr<FetchControl> control = std::exchange(second->begun, {}).control;
  End(*answers_[0], absl::UnavailableError("cut off"));
  ASSERT_EQ(answers_.size(), 2u);
  ASSERT_TRUE(control.lock());
  control.lock()->Cancel();
  EXPECT_TRUE(answers_[1]->cancelled);
  Run();
  EXPECT_TRUE(absl::IsCancelled(*second->ended));
  EXPECT_FALSE(control.lock());
}

// Each is answered, in the call if it must be.
TEST_F(LongReadsTest, AfterTheClientIsStoppedCancellingEndsAtOnce) {
  const PiecePtr first = Read(0, 1000), second = Read(1000, 1000);
  stopped_ = true;
  second->begun.control->Cancel();
  EXPECT_TRUE(second->ended && absl::IsCancelled(*second->ended));
  End(*answers_[0], absl::CancelledError("the client is stopped"));
  EXPECT_TRUE(absl::IsCancelled(*first->ended));
}

TEST_F(LongReadsTest, WhoseTimeIsOverIsToldSo) {
  const PiecePtr first = Read(0, 1000, FetchClass::kReadahead, seconds(5));
  const PiecePtr second = Read(1000, 1000, FetchClass::kReadahead, seconds(3));
  Pass(seconds(3));
  EXPECT_TRUE(second->ended && absl::IsDeadlineExceeded(*second->ended));
  EXPECT_FALSE(first->ended);
  Pass(seconds(2));
  EXPECT_TRUE(first->ended && absl::IsDeadlineExceeded(*first->ended));
  EXPECT_TRUE(answers_[0]->cancelled);
}

TEST_F(LongReadsTest, AReaderWaitsForTheLittleThatIsBeforeHim) {
  Read(0, 2000);
  Give(*answers_[0], 500);
  const PiecePtr second = Read(2000, 1000);
  second->begun.control->Raise(FetchClass::kDemand);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0]->raised, FetchClass::kDemand);
  Give(*answers_[0], 2500);
  EXPECT_TRUE(second->ended->ok());
}

TEST_F(LongReadsTest, AReaderDoesNotWaitForMuchBeforeHim) {
  Read(0, 2000);
  const PiecePtr second = Read(2000, 1000), third = Read(3000, 1000);
  second->begun.control->Raise(FetchClass::kHint);
  EXPECT_EQ(answers_.size(), 1u);
  second->begun.control->Raise(FetchClass::kDemand);
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_EQ(answers_[1]->read.range, second->range);
  EXPECT_EQ(answers_[1]->read.fetch_class, FetchClass::kDemand);
  Give(*answers_[1], 1000);
  EXPECT_TRUE(second->ended->ok());
  EXPECT_FALSE(third->ended);
}

TEST_F(LongReadsTest, NobodyWaitsForTooMuchAndThereAreNotTooMany) {
  Read(0, 8001);
  EXPECT_FALSE(Read(8001, 1000)->begun.goes_on);
  for (size_t i = 1; i < 3 * LongReads::kReadsMax; ++i) {
    const bool has_room = reads_.under_way() < LongReads::kReadsMax;
    Read(0, 1000);
    EXPECT_EQ(last()->is_paced(), has_room) << i;
  }
  EXPECT_EQ(reads_.under_way(), LongReads::kReadsMax);
}

TEST_F(LongReadsTest, TheLastBytesMayWaitForWhoWantsThem) {
  const PiecePtr first = Read(kBlobSize - 2000, 1500);
  Give(*last(), 2000);
  EXPECT_TRUE(last()->has_ended);
  const PiecePtr second = Read(kBlobSize - 500, 500);
  EXPECT_TRUE(second->begun.goes_on);
  Run();
  EXPECT_TRUE(second->ended && second->ended->ok());
  EXPECT_EQ(reads_.under_way(), 0u);
}

// Readers, fills, cancellations, errors, and time, in any order: each range is answered once, with its own
// bytes.
TEST_F(LongReadsTest, SeedsHoldTheRule) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto upto = [&](uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random); };
    answers_.clear();
    pieces_.clear();
    uint64_t ends[2] = {0, 50'000};
    for (int step = 0; step < 400; ++step) {
      switch (upto(8)) {
        case 0:
        case 1: {  // a stream goes on, or jumps
          uint64_t& end = ends[upto(2)];
          if (upto(6) == 0) end = upto(kBlobSize - 1);
          const uint64_t length = std::min(1 + upto(3000), kBlobSize - end);
          const auto fetch_class = static_cast<FetchClass>(upto(3) == 0 ? upto(kFetchClassCount) : 1);
          const uint64_t run = end / 25'000 * 25'000;
          const bool is_shared = upto(2) == 0 && end + length <= run + 25'000;
          ReadIn(is_shared ? ByteRange{run, 25'000} : ByteRange{0, kBlobSize}, end, length, fetch_class,
                 milliseconds(500 + upto(8000)));
          end = (end + length) % kBlobSize;
          break;
        }
        case 2:
          if (!pieces_.empty() && upto(4) == 0) pieces_[upto(pieces_.size())]->begun.control->Cancel();
          break;
        case 3:
          if (!pieces_.empty())
            pieces_[upto(pieces_.size())]->begun.control->Raise(static_cast<FetchClass>(upto(2)));
          break;
        case 4:
          if (!answers_.empty() && upto(6) == 0)
            End(*answers_[upto(answers_.size())],
                upto(2) ? absl::UnavailableError("cut off") : absl::DeadlineExceededError("late"));
          break;
        case 5:
          Pass(milliseconds(upto(400)));
          break;
        default:
          if (!answers_.empty())
            Give(*answers_[answers_.size() - 1 - upto(std::min<size_t>(8, answers_.size()))], 1 + upto(2500));
      }
      if (HasFailure()) FAIL() << "seed " << seed << ", step " << step;
    }
    // All that is left may come now.
    for (int round = 0; round < 200; ++round) {
      for (size_t i = 0; i < answers_.size(); ++i) Give(*answers_[i], kBlobSize);
      Run();
    }
    Pass(LongReads::kHeldMax);
    for (const PiecePtr& piece : pieces_)
      ASSERT_TRUE(piece->ended) << "seed " << seed << ": " << piece->range.offset;
    ASSERT_EQ(reads_.under_way(), 0u) << "seed " << seed;
    if (HasFailure()) FAIL() << "seed " << seed;
  }
}

}  // namespace
}  // namespace sluice::p2p
