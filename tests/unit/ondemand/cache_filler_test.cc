#include "ondemand/cache_filler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "ondemand/ticket_pump.h"
#include "tests/unit/ondemand/cachefiles_rig.h"

namespace sluice::ondemand {
namespace {

using keeper::FakeCachefiles;
using Ended = FakeCachefiles::Ended;
using Write = FakeCachefiles::Write;

class CacheFillerTest : public keeper::CachefilesRig {
 protected:
  void SetUp() override {
    CachefilesRig::SetUp();
    objects_ = std::make_unique<CacheObjects>(journal_);
    objects_->SetLine(ConnectLine());
  }
  void TearDown() override {
    kernel_.BeforeWrite(nullptr);
    filler_.reset();
    objects_.reset();
    CachefilesRig::TearDown();
  }

  void StartFiller() {
    const auto make_room = [this] {
      ++rooms_;
      return make_room_ ? make_room_() : false;
    };
    const auto drop = [this](const std::string& name, const std::vector<ByteRange>& ranges) {
      for (const ByteRange& range : ranges) {
        if (copies_have_names_) kernel_.Punch(name, range.offset, range.length);
      }
      return drop_fails_ ? absl::UnavailableError("the disk") : absl::OkStatus();
    };
    filler_ = std::make_unique<CacheFiller>(journal_, *objects_, dir_, CacheFiller::Copies{make_room, drop});
  }

  absl::Status Fill(ByteRange range, uint32_t entry = 3, uint32_t place = 0,
                    Duration deadline = std::chrono::seconds(60)) {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<absl::Status> status;
    filler_->Fill(place, entry, range, std::chrono::steady_clock::now() + deadline, [&](absl::Status result) {
      const std::lock_guard lock(mutex);
      status = std::move(result);
      done.notify_all();
    });
    std::unique_lock lock(mutex);
    done.wait_for(lock, 3 * keeper::kFakeWait, [&] { return status.has_value(); });
    return status.value_or(absl::InternalError("never done"));
  }

  // Whether the writes cover the blob's bytes from `begin` to `end`.
  bool AwaitWritten(FakeCachefiles::Object object, uint64_t begin, uint64_t end) {
    return kernel_.AwaitWrites(object, [&](const std::vector<Write>& writes) {
      uint64_t at = begin;
      for (bool more = true; more && at < end;) {
        more = false;
        for (const Write& write : writes) {
          if (write.offset > at || write.offset + write.length <= at) continue;
          at = write.offset + write.length;
          more = true;
        }
      }
      return at >= end;
    });
  }
  // Lets the sweeper look at everything again.
  void AwaitSweep() {
    // A blob of its own that it comes to write only when it has been through the others' places before.
    const uint32_t entry = 100 + sweeps_++;
    Guard(entry, 4096);
    SetAllPresent(entry);
    door_->AddImage(Image(entry, {}));
    const auto object = kernel_.Acquire("erofs," + NameOf(entry), NameOf(entry));
    for (int round = 0; round < 2; ++round) {
      filler_->Wake();
      ASSERT_TRUE(AwaitWritten(object, 0, 4096));
      SetPresent(entry, 0, false);
      ASSERT_TRUE(filler_->Revoke(entry).ok());
      SetPresent(entry, 0);
      const size_t writes = kernel_.Writes(object).size();
      filler_->Wake();
      ASSERT_TRUE(kernel_.AwaitWrites(object, [&](const auto& all) { return all.size() > writes; }));
    }
  }
  static std::string Padded(std::string content) {
    content.resize((content.size() + 4095) / 4096 * 4096, '\0');
    return content;
  }

  std::unique_ptr<CacheObjects> objects_;
  std::atomic<int> rooms_{0};
  std::function<bool()> make_room_;
  bool copies_have_names_ = true;
  bool drop_fails_ = false;
  uint32_t sweeps_ = 0;
  std::unique_ptr<CacheFiller> filler_;
};

// ---------------------------------------------------------------------------------- what is waited for

TEST_F(CacheFillerTest, ReadOfTheKernelGetsTheStoresBytes) {
  const auto object = OpenOne();
  StartFiller();
  TicketPump pump(
      journal_, completions_.get(),
      [&](ReadTicket ticket) {
        SetPresent(3, ticket.range().offset / kChunk);
        std::move(ticket).Complete(absl::OkStatus());
      },
      [&](const keeper::SlotRead& read, TicketPump::Done done) {
        filler_->Fill(read.object, read.blob, {read.offset, read.length},
                      Instant(std::chrono::nanoseconds(read.deadline_ns)), std::move(done));
      });
  EXPECT_EQ(kernel_.End(kernel_.Read(object, 4096, 4096)), Ended::kData);
  EXPECT_TRUE(kernel_.Bytes(object).substr(4096, 4096) == Content(3, 4096, 4096));
  EXPECT_EQ(kernel_.InvalidCompletions(), 0);
}

TEST_F(CacheFillerTest, WritesWholePagesAndPadsOnlyBeyondTheBlobsEnd) {
  const auto object = OpenOne(3, 4 * kChunk + 100);
  StartFiller();
  SetPresent(3, 0);
  SetPresent(3, 4);
  // Neither begins nor ends with a page; some file systems' blocks are smaller.
  ASSERT_TRUE(Fill({1024, 1024}).ok());
  ASSERT_TRUE(Fill({4 * kChunk, 100}).ok());
  EXPECT_TRUE(AwaitWritten(object, 0, 4096));
  const std::string bytes = kernel_.Bytes(object);
  EXPECT_TRUE(bytes.substr(0, 4096) == Content(3, 0, 4096));
  EXPECT_TRUE(bytes.substr(4 * kChunk) == Padded(Content(3, 4 * kChunk, 100)));
  for (const Write& write : kernel_.Writes(object)) EXPECT_TRUE(write.aligned) << write.offset;
}

TEST_F(CacheFillerTest, RangesLargerThanABufferAreFilledWhole) {
  constexpr uint64_t kSize = (uint64_t{5} << 19) + 777;
  const auto object = OpenOne(3, kSize);
  StartFiller();
  SetAllPresent(3);
  ASSERT_TRUE(Fill({0, kSize}).ok());
  EXPECT_TRUE(kernel_.Bytes(object) == Padded(Content(3, 0, kSize)));
  for (const Write& write : kernel_.Writes(object)) EXPECT_TRUE(write.aligned) << write.offset;
}

TEST_F(CacheFillerTest, ObjectThatIsNotReadyYetIsTriedAgain) {
  const auto object = OpenOne();
  kernel_.HideFile(object, 12);
  StartFiller();
  SetPresent(3, 0);
  EXPECT_TRUE(Fill({0, 4096}).ok());
  EXPECT_EQ(rooms_.load(), 0) << "there is room enough";
}

TEST_F(CacheFillerTest, ClosedObjectIsNoReasonToDiscardOthers) {
  const auto object = OpenOne();
  StartFiller();
  SetPresent(3, 0);
  ASSERT_TRUE(objects_->Await(0, keeper::kFakeWait));
  kernel_.HideFile(object, 1 << 20);
  make_room_ = [] { return true; };
  EXPECT_TRUE(absl::IsUnavailable(Fill({0, 4096})));
  EXPECT_EQ(rooms_.load(), 0);
}

TEST_F(CacheFillerTest, WithoutRoomOthersAreDiscardedAndItIsTriedAgain) {
  for (const int error : {ENOSPC, EDQUOT, ENOBUFS}) {
    const uint32_t entry = 3 + static_cast<uint32_t>(error);
    OpenOne(entry);
    StartFiller();
    SetPresent(entry, 0);
    rooms_ = 0;
    kernel_.FailWrites(error, 1 << 20);
    make_room_ = [&] {
      kernel_.FailWrites(0, 0);
      return true;
    };
    const auto place_of = [&]() -> std::optional<uint32_t> {
      for (const CacheObjects::Object& object : objects_->All()) {
        if (object.blob == entry) return object.index;
      }
      return std::nullopt;
    };
    ASSERT_TRUE(Eventually([&] { return place_of().has_value(); }));
    EXPECT_TRUE(Fill({0, 4096}, entry, *place_of()).ok());
    EXPECT_EQ(rooms_.load(), 1) << error;
    filler_.reset();
  }
}

TEST_F(CacheFillerTest, WithoutAnythingToDiscardTheReaderIsAnswered) {
  OpenOne();
  StartFiller();
  SetPresent(3, 0);
  kernel_.FailWrites(ENOSPC, 1 << 20);
  EXPECT_TRUE(absl::IsResourceExhausted(Fill({0, 4096})));
  make_room_ = [] { return true; };
  EXPECT_TRUE(absl::IsResourceExhausted(Fill({0, 4096}))) << "room that does not help";
}

TEST_F(CacheFillerTest, WriteThatGetsNowhereIsNotRepeatedForEver) {
  OpenOne();
  StartFiller();
  SetPresent(3, 0);
  kernel_.ShortenWrites(1024);
  EXPECT_TRUE(absl::IsResourceExhausted(Fill({0, 8192})));
  kernel_.ShortenWrites(4096 + 1024);
  EXPECT_TRUE(Fill({0, 4096}).ok());
}

TEST_F(CacheFillerTest, FailsForADiskThatFails) {
  OpenOne();
  StartFiller();
  SetPresent(3, 0);
  kernel_.FailWrites(EIO, 1 << 20);
  EXPECT_TRUE(absl::IsUnavailable(Fill({0, 4096})));
}

TEST_F(CacheFillerTest, NothingIsDoneAfterTheDeadline) {
  const auto object = OpenOne();
  StartFiller();
  SetPresent(3, 1);
  ASSERT_TRUE(AwaitWritten(object, kChunk, 2 * kChunk));
  EXPECT_TRUE(absl::IsDeadlineExceeded(Fill({0, 4096}, 3, 0, std::chrono::seconds(0))));
  EXPECT_TRUE(kernel_.Bytes(object).substr(0, 4096) == std::string(4096, '\0'));
}

TEST_F(CacheFillerTest, ObjectsThatAreNotOpenOrAreAnotherBlobsAreUnavailable) {
  OpenOne();
  StartFiller();
  EXPECT_TRUE(absl::IsUnavailable(Fill({0, 4096}, 3, 7)));
  EXPECT_TRUE(absl::IsUnavailable(Fill({0, 4096}, 4, 0)));
}

TEST_F(CacheFillerTest, ChunkThatTheStoreDoesNotHaveIsNotCopied) {
  const auto object = OpenOne();
  StartFiller();
  SetPresent(3, 0);
  EXPECT_TRUE(absl::IsUnavailable(Fill({kChunk, 4096}, 3, 0, std::chrono::seconds(2))));
  EXPECT_TRUE(absl::IsUnavailable(Fill({0, 2 * kChunk}, 3, 0, std::chrono::seconds(2))));
  EXPECT_TRUE(AwaitWritten(object, 0, kChunk)) << "this the sweeper may";
  for (const Write& write : kernel_.Writes(object)) EXPECT_LT(write.offset, kChunk);
}

// An evicted blob would keep its room on disk.
TEST_F(CacheFillerTest, BlobsFileIsNotKeptOpen) {
  OpenOne();
  StartFiller();
  SetAllPresent(3);
  EXPECT_TRUE(Fill({0, 4 * kChunk}).ok());
  const std::filesystem::path blob = std::filesystem::canonical(dir_ + "/" + NameOf(3));
  EXPECT_TRUE(Eventually([&] {
    std::error_code gone;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      if (std::filesystem::read_symlink(entry.path(), gone) == blob) return false;
    }
    return true;
  }));
}

TEST_F(CacheFillerTest, CloseDuringAFillEndsItAndLeavesNoDescriptor) {
  const auto object = OpenOne(3, 64 * kChunk);
  StartFiller();
  ASSERT_TRUE(objects_->Await(0, keeper::kFakeWait));
  std::atomic<bool> closed{false};
  kernel_.BeforeWrite([&] {
    if (closed.exchange(true)) return;
    kernel_.Relinquish(object);
    EXPECT_TRUE(kernel_.IsClosed(object));
  });
  SetAllPresent(3);
  EXPECT_TRUE(absl::IsUnavailable(Fill({0, 64 * kChunk})));
  EXPECT_EQ(rooms_.load(), 0);
  EXPECT_TRUE(Eventually([&] { return kernel_.Writers(object) == 0; }));
}

TEST_F(CacheFillerTest, WhatWaitsWhenItStopsIsCancelledAndSoIsWhatComes) {
  OpenOne();
  StartFiller();
  filler_->Stop();
  EXPECT_TRUE(absl::IsCancelled(Fill({0, 4096})));
  filler_->Stop();
}

// ------------------------------------------------------------------------------- what nobody waits for yet

TEST_F(CacheFillerTest, CopiesWhatIsPresentThoughNobodyHasAskedForIt) {
  const auto object = OpenOne();
  StartFiller();
  for (const uint64_t chunk : {1, 4}) SetPresent(3, chunk);
  filler_->Wake();
  EXPECT_TRUE(AwaitWritten(object, kChunk, 2 * kChunk));
  EXPECT_TRUE(AwaitWritten(object, 4 * kChunk, 4 * kChunk + 100));
  const std::string bytes = kernel_.Bytes(object);
  EXPECT_TRUE(bytes.substr(0, kChunk) == std::string(kChunk, '\0'));
  EXPECT_TRUE(bytes.substr(kChunk, kChunk) == Content(3, kChunk, kChunk));
  EXPECT_TRUE(bytes.substr(4 * kChunk) == Padded(Content(3, 4 * kChunk, 100)));
  EXPECT_EQ(kernel_.Writes(object).size(), 2u);
}

TEST_F(CacheFillerTest, CopiesToEachDomainsObject) {
  for (const uint32_t entry : {1, 9}) Guard(entry, 2 * kChunk);
  for (const char* domain : {"one", "two"}) door_->AddImage(Image(1, {9}, domain));
  const auto one = kernel_.Acquire("erofs,one", NameOf(9));
  const auto two = kernel_.Acquire("erofs,two", NameOf(9));
  SetAllPresent(9);
  StartFiller();
  for (const auto object : {one, two}) {
    EXPECT_TRUE(AwaitWritten(object, 0, 2 * kChunk));
    EXPECT_TRUE(kernel_.Bytes(object) == Content(9, 0, 2 * kChunk));
  }
}

TEST_F(CacheFillerTest, WhatTheCopyHasAlreadyIsNotWrittenAgain) {
  const auto before = OpenOne();
  StartFiller();
  SetPresent(3, 0);
  SetPresent(3, 2);
  ASSERT_TRUE(AwaitWritten(before, 0, kChunk));
  ASSERT_TRUE(AwaitWritten(before, 2 * kChunk, 3 * kChunk));
  kernel_.Relinquish(before);
  EXPECT_TRUE(kernel_.IsClosed(before));
  const auto object = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_GT(kernel_.Answer(object), 0);
  SetAllPresent(3);
  filler_->Wake();
  EXPECT_TRUE(AwaitWritten(object, kChunk, 2 * kChunk));
  EXPECT_TRUE(AwaitWritten(object, 3 * kChunk, 4 * kChunk + 100));
  AwaitSweep();
  for (const Write& write : kernel_.Writes(object)) {
    EXPECT_NE(write.offset, 0u);
    EXPECT_NE(write.offset, 2 * kChunk);
  }
  EXPECT_TRUE(kernel_.Bytes(object) == Padded(Content(3, 0, 4 * kChunk + 100)));
}

TEST_F(CacheFillerTest, WhatReadersHadFilledIsNotWrittenAgain) {
  const auto object = OpenOne();
  StartFiller();
  SetPresent(3, 0);
  ASSERT_TRUE(AwaitWritten(object, 0, kChunk));
  AwaitSweep();  // it has looked the copy through
  // The sweeper is held up at another object while the reader's is filled.
  Guard(4, kChunk);
  door_->AddImage(Image(4, {}));
  const auto other = kernel_.Acquire("erofs," + NameOf(4), NameOf(4));
  std::atomic<bool> hold{true};
  std::atomic<bool> held{false};
  kernel_.BeforeWrite([&] {
    if (held.exchange(true)) return;
    Eventually([&] { return !hold.load(); });
  });
  SetAllPresent(4);
  filler_->Wake();
  EXPECT_TRUE(Eventually([&] { return held.load(); }));
  SetPresent(3, 1);
  EXPECT_TRUE(Fill({kChunk, kChunk}).ok());
  hold.store(false);
  EXPECT_TRUE(AwaitWritten(other, 0, kChunk));
  AwaitSweep();
  const std::vector<Write> writes = kernel_.Writes(object);
  EXPECT_EQ(std::count_if(writes.begin(), writes.end(), [](const Write& w) { return w.offset == kChunk; }),
            1);
}

TEST_F(CacheFillerTest, RevokedChunkIsWrittenAgain) {
  const auto object = OpenOne();
  StartFiller();
  SetPresent(3, 1);
  ASSERT_TRUE(AwaitWritten(object, kChunk, 2 * kChunk));
  SetPresent(3, 1, false);
  EXPECT_TRUE(filler_->Revoke(3).ok());
  const size_t before = kernel_.Writes(object).size();
  AwaitSweep();
  EXPECT_EQ(kernel_.Writes(object).size(), before) << "it is not there";
  SetPresent(3, 1);
  filler_->Wake();
  EXPECT_TRUE(kernel_.AwaitWrites(object, [&](const auto& writes) { return writes.size() > before; }));
}

TEST_F(CacheFillerTest, ChunkThatWasRevokedBeforeTheCopyWasOpenedIsWrittenAgain) {
  const auto before = OpenOne();
  StartFiller();
  SetPresent(3, 1);
  ASSERT_TRUE(AwaitWritten(before, kChunk, 2 * kChunk));
  kernel_.Relinquish(before);
  EXPECT_TRUE(kernel_.IsClosed(before));
  EXPECT_TRUE(Eventually([&] { return objects_->All().empty(); }));
  AwaitSweep();  // the filler has forgotten it
  SetPresent(3, 1, false);
  EXPECT_TRUE(filler_->Revoke(3).ok());
  SetPresent(3, 1);
  const auto object = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  filler_->Wake();
  EXPECT_TRUE(AwaitWritten(object, kChunk, 2 * kChunk)) << "the copy has the bytes of before";
}

TEST_F(CacheFillerTest, ChunkThatIsRevokedWhileItIsWrittenIsWrittenAgain) {
  const auto object = OpenOne();
  std::atomic<int> writes{0};
  std::thread revoking;
  kernel_.BeforeWrite([&] {
    if (writes.fetch_add(1) != 0) return;
    // It comes back at once, with other bytes.
    SetPresent(3, 1, false);
    revoking = std::thread([&] {
      EXPECT_TRUE(filler_->Revoke(3).ok());
      SetPresent(3, 1);
      filler_->Wake();
    });
  });
  StartFiller();
  SetPresent(3, 1);
  EXPECT_TRUE(kernel_.AwaitWrites(object, [&](const auto& all) { return all.size() >= 2; }));
  if (revoking.joinable()) revoking.join();
}

// The kernel never asks for what its copy has: a reader would go on to get it.
TEST_F(CacheFillerTest, WhatIsTakenBackLeavesTheCopiesAndWhatIsPresentStays) {
  const auto object = OpenOne();
  StartFiller();
  SetAllPresent(3);
  ASSERT_TRUE(AwaitWritten(object, 0, 4 * kChunk + 4096));
  SetPresent(3, 1, false);
  SetPresent(3, 2, false);
  SetPresent(3, 4, false);
  ASSERT_TRUE(filler_->Revoke(3).ok());
  EXPECT_TRUE(kernel_.Bytes(object) == Content(3, 0, kChunk) + std::string(2 * kChunk, '\0') +
                                           Content(3, 3 * kChunk, kChunk) + std::string(4096, '\0'));
  for (const uint64_t offset : {kChunk, 3 * kChunk - 4096, 4 * kChunk})
    EXPECT_FALSE(kernel_.HasData(object, offset)) << "the kernel has to ask";
  // All of it, as when the whole blob is refused.
  for (const uint64_t chunk : {0, 3}) SetPresent(3, chunk, false);
  ASSERT_TRUE(filler_->Revoke(3).ok());
  EXPECT_TRUE(kernel_.Bytes(object) == std::string(4 * kChunk + 4096, '\0'));
}

TEST_F(CacheFillerTest, CopyThatCanNotBeReachedByANameIsAnErrorUntilItCan) {
  const auto object = OpenOne();
  StartFiller();
  SetAllPresent(3);
  ASSERT_TRUE(AwaitWritten(object, 0, 4 * kChunk));
  SetPresent(3, 1, false);
  copies_have_names_ = false;
  EXPECT_TRUE(absl::IsUnavailable(filler_->Revoke(3)));
  copies_have_names_ = true;
  drop_fails_ = true;
  EXPECT_TRUE(absl::IsUnavailable(filler_->Revoke(3)));
  drop_fails_ = false;
  EXPECT_TRUE(filler_->Revoke(3).ok());
  EXPECT_FALSE(kernel_.HasData(object, kChunk));
}

TEST_F(CacheFillerTest, BlobThatGetsTheEntryIsNeverCopiedIntoTheOldObject) {
  const auto object = OpenOne(3, 8 * kChunk);
  std::atomic<int> writes{0};
  kernel_.BeforeWrite([&] {
    if (writes.fetch_add(1) != 0) return;
    // The old blob has its first chunk only; the next one has them all.
    Unguard(3);
    Guard(3, 8 * kChunk, 1);
    SetAllPresent(3);
  });
  StartFiller();
  SetPresent(3, 0);
  ASSERT_TRUE(AwaitWritten(object, 0, kChunk));
  AwaitSweep();
  EXPECT_TRUE(absl::IsUnavailable(Fill({kChunk, kChunk}, 3, 0, std::chrono::seconds(2))));
  const std::string bytes = kernel_.Bytes(object);
  EXPECT_TRUE(bytes.substr(0, kChunk) == Content(3, 0, kChunk));
  EXPECT_TRUE(bytes.substr(kChunk) == std::string(7 * kChunk, '\0'));
  for (const Write& write : kernel_.Writes(object)) EXPECT_LT(write.offset, kChunk);
}

TEST_F(CacheFillerTest, FileThatIsNotTheGuardedOneIsNotCopied) {
  const auto object = OpenOne();
  const std::string path = dir_ + "/" + NameOf(3);
  std::filesystem::rename(path, path + ".old");
  std::ofstream(path) << std::string(5 * kChunk, 'Z');
  StartFiller();
  SetAllPresent(3);
  EXPECT_TRUE(absl::IsUnavailable(Fill({0, 4096})));
  EXPECT_TRUE(kernel_.Writes(object).empty());
}

}  // namespace
}  // namespace sluice::ondemand
