// What reaches the index, in which order, and how durable; and that a check of bytes that have changed since
// proves nothing.
#include <utility>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

// An index that remembers what is written to it, and fails on demand.
class WatchedIndex final : public IndexDb {
 public:
  struct State {
    std::vector<std::pair<IndexBatch, Durability>> writes;
    absl::Status fails;
    bool fails_after_writing = false;
  };
  WatchedIndex(std::unique_ptr<IndexDb> inner, State& state) : inner_(std::move(inner)), state_(state) {}

  absl::Status Scan(const Visitor& visit) override { return inner_->Scan(visit); }
  absl::Status Write(const IndexBatch& batch, Durability durability) override {
    if (!state_.fails.ok() && !state_.fails_after_writing) return state_.fails;
    state_.writes.emplace_back(batch, durability);
    const absl::Status written = inner_->Write(batch, durability);
    return state_.fails.ok() ? written : state_.fails;
  }
  void Reopen() override { inner_->Reopen(); }

 private:
  const std::unique_ptr<IndexDb> inner_;
  State& state_;
};

class ClaimLogTest : public StoreTest {
 protected:
  void TearDown() override { store_.reset(); }  // before what it writes to

  void OpenStepped() {
    DiskStoreOptions options = Options();
    options.threads = Threads::kNone;
    options.open_index = [this](const std::string& path) -> absl::StatusOr<std::unique_ptr<IndexDb>> {
      absl::StatusOr<std::unique_ptr<IndexDb>> inner = OpenRocksIndex(path);
      if (!inner.ok()) return inner.status();
      return std::make_unique<WatchedIndex>(*std::move(inner), index_);
    };
    store_.reset();
    absl::StatusOr<std::unique_ptr<DiskStore>> store = DiskStore::OpenStore(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    index_.writes.clear();
  }
  void RunAll() {
    while (store_->RunBatch() || store_->RunHash() || store_->RunNotice()) {
    }
  }
  // Chunks that the last write of their segment claims.
  static uint32_t ClaimedBy(const IndexBatch& batch) {
    uint32_t count = 0;
    for (const IndexBatch::Change& change : batch.changes()) {
      const bool is_claim =
          change.kind == IndexBatch::Change::Kind::kPut && KindOf(change.key) == KeyKind::kSegment;
      if (is_claim) count += DecodeSegment(change.value)->present.Count();
    }
    return count;
  }
  // What the last write that was about claims has left of them.
  uint32_t Claimed() const {
    for (auto write = index_.writes.rbegin(); write != index_.writes.rend(); ++write) {
      for (const IndexBatch::Change& change : write->first.changes()) {
        if (KindOf(change.key) == KeyKind::kSegment) return ClaimedBy(write->first);
      }
    }
    return 0;
  }
  size_t WritesOfSegments() {
    size_t count = 0;
    for (const auto& [batch, durability] : index_.writes) {
      const bool has = std::any_of(batch.changes().begin(), batch.changes().end(), [](const auto& change) {
        return KindOf(change.key) == KeyKind::kSegment;
      });
      if (!has) continue;
      ++count;
      EXPECT_EQ(durability, Durability::kSynced) << "of what claims or drops";
    }
    return count;
  }

  WatchedIndex::State index_;
};

TEST_F(ClaimLogTest, ClaimsAndWhatTakesThemBackAreSynced) {
  const SampleBlob sample(1);
  OpenStepped();
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  ASSERT_EQ(index_.writes.size(), 1u);
  EXPECT_EQ(index_.writes[0].second, Durability::kOrdered) << "a record alone claims nothing";
  CommitAll(sample);
  EXPECT_EQ(WritesOfSegments(), 0u);
  store_->RunBatch();
  EXPECT_EQ(WritesOfSegments(), 1u);
  EXPECT_EQ(Claimed(), sample.chunk_count());
  store_->RunHash();
  EXPECT_EQ(WritesOfSegments(), 2u);
  ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(1)).ok());
  EXPECT_EQ(WritesOfSegments(), 3u);
  EXPECT_EQ(Claimed(), sample.chunk_count() - 1);
  ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok());
  EXPECT_EQ(WritesOfSegments(), 4u);
  EXPECT_EQ(Claimed(), 0u);
}

TEST_F(ClaimLogTest, RecordThatNamesTheFileComesNoLaterThanItsClaims) {
  const SampleBlob sample(1);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  std::filesystem::remove(store_->BlobPath(sample.spec.digest));
  EXPECT_EQ(store_->CheckFiles(), 1u);
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  index_.writes.clear();
  index_.fails = absl::UnavailableError("the disk");
  store_->RunBatch();
  EXPECT_FALSE(IsPresent(sample, 1)) << "its claim could not be written";
  index_.fails = absl::OkStatus();
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  store_->RunBatch();
  OpenStepped();
  EXPECT_TRUE(IsPresent(sample, 1));
}

TEST_F(ClaimLogTest, WhatAFailedWriteMayHaveClaimedIsDroppedBeforeItsBytesChange) {
  const SampleBlob sample(1);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  index_.fails = absl::UnavailableError("the disk");
  index_.fails_after_writing = true;
  store_->RunBatch();
  EXPECT_FALSE(IsPresent(sample, 0));
  EXPECT_EQ(Claimed(), 1u) << "it did reach the disk";
  EXPECT_TRUE(absl::IsUnavailable(CommitChunk(sample, 0))) << "the claim can't be dropped";
  index_.fails = absl::OkStatus();
  size_t writes = 0;
  disk_.on_write = [&] {
    ++writes;
    EXPECT_EQ(Claimed(), 0u);
    WritesOfSegments();
  };
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  EXPECT_EQ(writes, 1u);
}

TEST_F(ClaimLogTest, ChangeOfARecordThatFailedHasNotHappened) {
  const SampleBlob sample(1);
  OpenStepped();
  OpenBlob(sample);
  index_.fails = absl::ResourceExhaustedError("no space");
  EXPECT_TRUE(absl::IsResourceExhausted(store_->Pin(sample.spec.digest)));
  BlobSpec more = sample.spec;
  more.origins = {{"registry.example", "app"}};
  EXPECT_TRUE(absl::IsResourceExhausted(store_->Open(more).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(store_->Evict(sample.spec.digest, EvictReason::kRequested)) ||
              !store_->Find(sample.spec.digest));
  index_.fails = absl::OkStatus();
  EXPECT_FALSE(store_->Stat(sample.spec.digest)->pinned);
  EXPECT_TRUE(store_->Find(sample.spec.digest)->facts()->origins.empty());
  EXPECT_EQ((*store_->Open(more))->facts()->origins, more.origins);
}

TEST_F(ClaimLogTest, ChunkWrittenWhileItsBlobSyncsHasASyncOfItsOwn) {
  const SampleBlob sample(1);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  disk_.on_sync = [&](int) {
    disk_.on_sync = nullptr;
    ASSERT_TRUE(CommitChunk(sample, 1).ok());
  };
  EXPECT_TRUE(store_->RunBatch());
  EXPECT_EQ(Claimed(), 1u);
  EXPECT_TRUE(store_->RunBatch());
  EXPECT_EQ(disk_.syncs, 2);
  EXPECT_EQ(Claimed(), 2u);
}

TEST_F(ClaimLogTest, BlobsThatWaitForASyncAreBounded) {
  OpenStepped();
  for (uint64_t i = 0; i < Syncer::kQueuedBlobsMax; ++i) {
    ASSERT_TRUE(CommitChunk(SampleBlob(i + 1, kChunkSizeMin), 0).ok());
  }
  const SampleBlob late(9999);
  const absl::Status committed = CommitChunk(late, 0);
  EXPECT_TRUE(absl::IsUnavailable(committed)) << committed;
  EXPECT_TRUE(store_->RunBatch());
  EXPECT_TRUE(CommitChunk(late, 0).ok());
}

TEST_F(ClaimLogTest, AFailedSyncAndAnEvictionAreTold) {
  const SampleBlob failed(1), evicted(2);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(failed, 0).ok());
  disk_.sync_errno = EIO;
  store_->RunBatch();
  disk_.sync_errno = 0;
  RunAll();
  EXPECT_TRUE(Noted("revoke " + failed.spec.digest.Short()));
  ASSERT_TRUE(CommitChunk(evicted, 0).ok());
  ASSERT_TRUE(store_->Evict(evicted.spec.digest, EvictReason::kRequested).ok());
  EXPECT_TRUE(Noted("revoke " + evicted.spec.digest.Short()));
}

TEST_F(ClaimLogTest, HashOfBytesThatWereReplacedMeanwhileNeitherProvesNorRefuses) {
  for (const bool was_right : {true, false}) {
    const SampleBlob sample(was_right ? 1 : 2), wrong(3);
    OpenStepped();
    CommitAll(sample);
    const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
    const auto replace = [&](const SampleBlob& by) {
      disk_.after_read = nullptr;
      ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(2)).ok());
      ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(2), by.Chunk(2), Evidence::kUnverified).ok());
    };
    if (!was_right) replace(wrong);
    store_->RunBatch();
    disk_.after_read = [&] { replace(was_right ? wrong : sample); };
    EXPECT_TRUE(store_->RunHash());
    EXPECT_FALSE(disk_.after_read);
    EXPECT_EQ(blob->unverified_count(), sample.chunk_count());
    EXPECT_EQ(store_->Stat(sample.spec.digest)->state, BlobState::kActive);
    RunAll();
    EXPECT_EQ(blob->refused(), was_right);
    EXPECT_EQ(store_->IsSettled(sample.spec.digest), !was_right);
  }
}

TEST_F(ClaimLogTest, BetterEvidenceOfBytesThatWereReplacedMeanwhileIsNotRecorded) {
  const SampleBlob sample(1), wrong(2);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  // Who takes the chunk back needs none of the writer's locks, and may be a check of the disk.
  disk_.after_read = [&] {
    disk_.after_read = nullptr;
    ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(0)).ok());
    Overwrite(sample, 0, "rot");
  };
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  EXPECT_TRUE(IsPresent(sample, 0));
  ExpectTrue(sample);
}

TEST_F(ClaimLogTest, VerificationOfAChunkThatWasReplacedMeanwhileIsNotRecorded) {
  const SampleBlob sample(1), wrong(2);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  RunAll();
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  class ReplacingVerifier final : public ChunkVerifier {
   public:
    explicit ReplacingVerifier(std::function<void()> replace) : replace_(std::move(replace)) {}
    absl::StatusOr<Evidence> Verify(const Blob&, ChunkIndex, std::span<const std::byte>) override {
      replace_();
      return Evidence::kVerified;
    }

   private:
    const std::function<void()> replace_;
  };
  ReplacingVerifier revoking([&] {
    ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(0)).ok());
    ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(0), wrong.Chunk(0), Evidence::kUnverified).ok());
  });
  ASSERT_TRUE(store_->Verify(sample.spec.digest, revoking).ok());
  EXPECT_EQ(blob->unverified_count(), 1u);
  // By a descriptor of a file that has been lost and made anew.
  ReplacingVerifier losing([&] {
    std::filesystem::remove(store_->BlobPath(sample.spec.digest));
    EXPECT_EQ(store_->CheckFiles(), 1u);
    ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(0), wrong.Chunk(0), Evidence::kUnverified).ok());
  });
  ASSERT_TRUE(store_->Verify(sample.spec.digest, losing).ok());
  EXPECT_EQ(blob->unverified_count(), 1u);
}

TEST_F(ClaimLogTest, RefusalIsSyncedAndTold) {
  const SampleBlob sample(1), wrong(2);
  OpenStepped();
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(2), wrong.Chunk(2), Evidence::kUnverified).ok());
  CommitAll(sample);
  RunAll();
  EXPECT_TRUE(blob->refused());
  EXPECT_TRUE(Noted("revoke")) << "the kernel must ask, and hear that it is refused";
  EXPECT_GE(WritesOfSegments(), 2u) << "the claims, and their end";
  EXPECT_EQ(Claimed(), 0u);
}

TEST_F(ClaimLogTest, ClaimThatCouldNotBeDroppedIsDroppedBeforeItsBytesChange) {
  const SampleBlob sample(1);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->RunBatch();
  ASSERT_EQ(Claimed(), 1u);
  index_.fails = absl::UnavailableError("the disk");
  EXPECT_FALSE(store_->Revoke(*store_->Find(sample.spec.digest), ChunkIndex(0)).ok());
  EXPECT_EQ(Claimed(), 1u);
  index_.fails = absl::OkStatus();
  size_t writes = 0;
  disk_.on_write = [&] {
    ++writes;
    EXPECT_EQ(Claimed(), 0u);
  };
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  EXPECT_EQ(writes, 1u);
}

TEST_F(ClaimLogTest, EvidenceThatGotBetterReachesTheIndex) {
  const SampleBlob sample(1);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->RunBatch();
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  store_->RunBatch();
  OpenStepped();
  EXPECT_TRUE(store_->AllProven(*store_->Find(sample.spec.digest), {ChunkIndex(0), 1}));
}

// The log by itself, over an index that only notes what comes.
class ClaimLogAloneTest : public ::testing::Test {
 protected:
  class NotingIndex final : public IndexDb {
   public:
    NotingIndex(std::vector<IndexBatch>& writes, absl::Status& fails) : writes_(writes), fails_(fails) {}
    absl::Status Scan(const Visitor&) override { return absl::OkStatus(); }
    absl::Status Write(const IndexBatch& batch, Durability) override {
      if (fails_.ok()) writes_.push_back(batch);
      return fails_;
    }
    void Reopen() override {}

   private:
    std::vector<IndexBatch>& writes_;
    absl::Status& fails_;
  };
  ClaimLogAloneTest() {
    const SampleBlob sample(1);
    BlobRecord record;
    record.size = sample.spec.size;
    record.chunk_size = sample.spec.chunk_size;
    entry_ = std::make_shared<BlobEntry>(std::make_shared<Blob>(sample.spec), record);
  }
  // All chunks, written and not proven.
  void WriteAll() {
    std::lock_guard lock(entry_->mutex);
    const ChunkSpan all = entry_->blob->geometry().All();
    for (ChunkIndex index = all.first; index < all.end(); index = index.next())
      entry_->AddWritten(index, Evidence::kUnverified, nullptr);
  }

  std::vector<IndexBatch> writes_;
  absl::Status fails_;
  ClaimLog log_{std::make_unique<NotingIndex>(writes_, fails_)};
  EntryPtr entry_;
};

TEST_F(ClaimLogAloneTest, NothingIsWrittenOfABlobThatIsBeingEvicted) {
  WriteAll();
  entry_->BeginSync();
  entry_->claimed.Add(ChunkIndex(0));
  entry_->blob->presence().Clear(ChunkIndex(0));
  entry_->record_changed = true;
  entry_->evicting = true;
  EXPECT_TRUE(log_.Claim({&entry_, 1}).ok());
  EXPECT_TRUE(log_.PutChangedRecords({&entry_, 1}).ok());
  EXPECT_TRUE(log_.Drop(*entry_).ok());
  EXPECT_TRUE(log_.DropAll(*entry_).ok());
  EXPECT_TRUE(log_.ClaimVerifiedWhole(*entry_, entry_->revision, {}).ok());
  const auto pin = [](BlobRecord& record) { record.pinned = true; };
  EXPECT_TRUE(log_.ChangeRecord(*entry_, pin, Durability::kSynced).ok());
  EXPECT_TRUE(writes_.empty());
}

// Whoever makes room may have to wait for somebody who waits for the log: who makes a lost file anew, say.
TEST_F(ClaimLogAloneTest, RoomIsMadeForADeletionWhileOthersUseTheLog) {
  entry_->evicting = true;
  fails_ = absl::ResourceExhaustedError("the disk is full");
  const auto make_room = [&] {
    fails_ = absl::OkStatus();
    std::thread([&] { EXPECT_TRUE(log_.PutRecord(entry_->id, entry_->record).ok()); }).join();
    return true;
  };
  EXPECT_TRUE(log_.Delete(*entry_, make_room).ok());
  EXPECT_EQ(writes_.size(), 2u);
}

TEST_F(ClaimLogAloneTest, BlobOfWhichSomethingWasTakenBackIsNotClaimedAsProven) {
  WriteAll();
  const uint64_t checked = entry_->revision;
  entry_->TakeBack(ChunkIndex(1));
  entry_->AddWritten(ChunkIndex(1), Evidence::kUnverified, nullptr);
  EXPECT_TRUE(log_.ClaimVerifiedWhole(*entry_, checked, {}).ok());
  EXPECT_TRUE(writes_.empty());
  EXPECT_EQ(entry_->record.state, BlobState::kActive);
  EXPECT_EQ(entry_->blob->unverified_count(), entry_->blob->geometry().chunk_count());
  EXPECT_TRUE(log_.ClaimVerifiedWhole(*entry_, entry_->revision, {}).ok());
  EXPECT_EQ(entry_->record.state, BlobState::kVerifiedWhole);
}

TEST_F(ClaimLogTest, WriteThatBeganBeforeASyncFailedDoesNotCount) {
  const SampleBlob sample(1);
  OpenStepped();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  disk_.on_write = [&] {
    disk_.on_write = nullptr;
    disk_.sync_errno = EIO;
    store_->RunBatch();
    disk_.sync_errno = 0;
  };
  const absl::Status committed = CommitChunk(sample, 1);
  EXPECT_TRUE(absl::IsUnavailable(committed)) << committed;
  EXPECT_FALSE(IsPresent(sample, 1)) << "the disk may have dropped its pages with the others";
}

TEST_F(ClaimLogTest, BlobOfWhichAChunkWasTakenBackIsNotWholeAnyMore) {
  const SampleBlob sample(1);
  OpenStepped();
  CommitAll(sample);
  RunAll();
  ASSERT_EQ(store_->Stat(sample.spec.digest)->state, BlobState::kVerifiedWhole);
  ASSERT_TRUE(store_->Revoke(*store_->Find(sample.spec.digest), ChunkIndex(1)).ok());
  EXPECT_EQ(store_->Stat(sample.spec.digest)->state, BlobState::kActive);
  OpenStepped();
  EXPECT_EQ(store_->Stat(sample.spec.digest)->state, BlobState::kActive);
}

TEST_F(ClaimLogTest, ChunksOfANewFileAreNotJudgedByTheOldOne) {
  const SampleBlob sample(1), wrong(2);
  OpenStepped();
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(1), wrong.Chunk(1), Evidence::kUnverified).ok());
  RunAll();
  class Replacing final : public SampleVerifier {
   public:
    Replacing(const SampleBlob& sample, std::function<void()> replace)
        : SampleVerifier(sample), replace_(std::move(replace)) {}
    absl::StatusOr<Evidence> Verify(const Blob& of, ChunkIndex index,
                                    std::span<const std::byte> bytes) override {
      if (const auto replace = std::exchange(replace_, nullptr)) replace();
      return SampleVerifier::Verify(of, index, bytes);
    }

   private:
    std::function<void()> replace_;
  };
  Replacing verifier(sample, [&] {
    std::filesystem::remove(store_->BlobPath(sample.spec.digest));
    EXPECT_EQ(store_->CheckFiles(), 1u);
    for (uint32_t i = 0; i < 2; ++i) ASSERT_TRUE(CommitChunk(sample, i).ok());
  });
  const absl::StatusOr<VerifyReport> report = store_->Verify(sample.spec.digest, verifier);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bad, 0u);
  EXPECT_EQ(store_->TakeLostChunks(sample.spec.digest), 2u) << "those that went with the old one, once";
  EXPECT_EQ(store_->TakeLostChunks(sample.spec.digest), 0u);
  EXPECT_TRUE(IsPresent(sample, 1));
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->bad, 0u);
}

TEST_F(ClaimLogTest, RefusedBlobStaysRefusedWhateverElseIsHeardOfIt) {
  const SampleBlob sample(1), wrong(2);
  OpenStepped();
  ASSERT_TRUE(store_->Commit(*OpenBlob(sample), ChunkIndex(2), wrong.Chunk(2), Evidence::kUnverified).ok());
  CommitAll(sample);
  RunAll();
  ASSERT_TRUE(store_->Find(sample.spec.digest)->refused());
  BlobSpec more = sample.spec;
  more.origins = {{"registry.example", "app"}};
  const std::shared_ptr<Blob> renewed = *store_->Open(more);
  EXPECT_EQ(renewed->facts()->origins, more.origins);
  EXPECT_TRUE(renewed->refused());
}

// The refusal may reach the index without what drops the claims: a later write of the record carries it.
TEST_F(ClaimLogTest, RefusedBlobWhoseClaimsAreLeftHasNoChunkPresentAfterARestart) {
  OpenStepped();
  const SampleBlob sample(1);
  const SampleBlob other(2);
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
    ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(i), other.Chunk(i), Evidence::kUnverified).ok());
  }
  store_->RunBatch();
  index_.fails = absl::UnavailableError("the disk failed");
  store_->RunHash();
  ASSERT_TRUE(blob->refused());
  index_.fails = absl::OkStatus();
  RunAll();
  OpenStepped();
  const std::shared_ptr<Blob> again = store_->Find(sample.spec.digest);
  ASSERT_TRUE(again);
  EXPECT_TRUE(again->refused());
  EXPECT_EQ(again->presence().present_count(), 0u);
}

}  // namespace
}  // namespace sluice::index
