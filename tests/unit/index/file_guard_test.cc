// Files that somebody else removed, replaced, cut short or put back, at the worst moment.
#include <cstdlib>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

namespace fs = std::filesystem;

class FileGuardTest : public StoreTest {
 protected:
  std::string blobs() const { return temp_.path() + "/data/blobs"; }
  std::string FileOf(const SampleBlob& sample) const {
    return absl::StrCat(blobs(), "/", sample.spec.digest.Hex());
  }
  // As a backup does it: contents, times, owners, modes, extended attributes.
  static void Copy(const std::string& from, const std::string& to) {
    ASSERT_EQ(std::system(absl::StrCat("cp -a --sparse=always ", from, " ", to).c_str()), 0);
  }
};

TEST_F(FileGuardTest, WriterThatHeldTheRemovedFileIsNotClaimedInTheNewOne) {
  const SampleBlob sample(1), wrong(2);
  OpenStore();
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(0), wrong.Chunk(0), Evidence::kUnverified).ok());
  store_->Flush();
  // The better bytes are held against those that are there by a descriptor of the file as it was.
  disk_.on_read = [&] {
    disk_.on_read = nullptr;
    fs::remove(FileOf(sample));
    EXPECT_EQ(store_->CheckFiles(), 1u);
    EXPECT_TRUE(CommitChunk(sample, 1, Evidence::kVerified).ok());
  };
  const absl::Status committed = CommitChunk(sample, 0, Evidence::kVerified);
  store_->Flush();
  EXPECT_TRUE(IsPresent(sample, 1));
  ExpectTrue(sample);
  OpenStore();
  ExpectTrue(sample);
  EXPECT_TRUE(absl::IsUnavailable(committed)) << committed;
  EXPECT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  ExpectTrue(sample);
}

TEST_F(FileGuardTest, FileThatWasReplacedIsNotClaimedThoughItIsLargeEnough) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  Copy(FileOf(sample), FileOf(sample) + ".copy");
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  store_->Flush();
  fs::rename(FileOf(sample) + ".copy", FileOf(sample));
  EXPECT_EQ(store_->CheckFiles(), 1u);
  EXPECT_EQ(store_->Find(sample.spec.digest)->presence().present_count(), 0u);
  CommitAll(sample, Evidence::kVerified);
  store_->Flush();
  ExpectTrue(sample);
}

TEST_F(FileGuardTest, BlobThatIsBeingEvictedIsNotGivenOut) {
  const SampleBlob sample(1);
  std::future<absl::StatusOr<std::shared_ptr<Blob>>> opened;
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  on_revoke_ = [&] {
    on_revoke_ = nullptr;
    opened = std::async(std::launch::async, [&] { return store_->Open(sample.spec); });
    opened.wait_for(std::chrono::milliseconds(100));  // the fault answers within that
    return absl::OkStatus();
  };
  ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok());
  const absl::StatusOr<std::shared_ptr<Blob>> blob = opened.get();
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(store_->Find(sample.spec.digest), *blob);
  EXPECT_TRUE(store_->Commit(**blob, ChunkIndex(1), sample.Chunk(1), Evidence::kUnverified).ok());
}

TEST_F(FileGuardTest, ReadErrorWhileHashingTakesBackTheChunkThatFailed) {
  const SampleBlob sample(1, 20 * kChunkSizeMin);
  OpenStore();
  disk_.bad_byte = 13 * kChunkSizeMin + 5;
  CommitAll(sample);
  FlushUntil([&] { return Noted("alarm"); });
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  EXPECT_EQ(blob->presence().FirstAbsent(blob->geometry().All(), 100), (ChunkSpan{ChunkIndex(13), 1}));
  EXPECT_EQ(blob->presence().present_count(), 19u);
  disk_.bad_byte = UINT64_MAX;
  ASSERT_TRUE(CommitChunk(sample, 13).ok());
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
}

TEST_F(FileGuardTest, BlobRefusedAtOpenIsToldToTheKernelsSide) {
  const SampleBlob cut(1), whole(2);
  OpenStore();
  CommitAll(cut, Evidence::kVerified);
  CommitAll(whole, Evidence::kVerified);
  store_.reset();
  notes_.clear();
  fs::resize_file(FileOf(cut), 100);
  mounted_ = {cut.spec.digest, whole.spec.digest};
  OpenStore();
  FlushUntil([&] { return Noted("revoke " + cut.spec.digest.Short()); });
  EXPECT_TRUE(store_->Find(cut.spec.digest)->refused());
  EXPECT_FALSE(Noted("revoke " + whole.spec.digest.Short()));
  // And by every later run, for a predecessor may have died before it was told.
  notes_.clear();
  OpenStore();
  FlushUntil([&] { return Noted("revoke " + cut.spec.digest.Short()); });
  EXPECT_FALSE(Noted("revoke " + whole.spec.digest.Short()));
}

TEST_F(FileGuardTest, FilesPutBackFromACopyOfAnotherMomentAreAbsent) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  Copy(blobs(), temp_.path() + "/backup");
  CommitAll(sample, Evidence::kVerified);
  store_.reset();
  fs::rename(blobs(), temp_.path() + "/lost");
  Copy(temp_.path() + "/backup", blobs());
  for (int round = 0; round < 2; ++round) {
    OpenStore();
    const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
    ASSERT_TRUE(blob);
    EXPECT_FALSE(blob->refused());
    ExpectTrue(sample);
    EXPECT_EQ(store_->open_report().files_lost, round == 0 ? 1u : 0u);
    EXPECT_EQ(blob->presence().present_count(), 0u) << "nothing of a copy is believed";
  }
  CommitAll(sample, Evidence::kVerified);
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, sample.chunk_count());
  ExpectTrue(sample);
}

TEST_F(FileGuardTest, WhatWentWithACopyIsToldOnceThoughAllIsHereAgain) {
  const SampleBlob sample(1);
  SampleVerifier verifier(sample);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  store_.reset();
  fs::rename(FileOf(sample), FileOf(sample) + ".old");
  Copy(FileOf(sample) + ".old", FileOf(sample));
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  const absl::StatusOr<VerifyReport> report = store_->Verify(sample.spec.digest, verifier);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bad, 0u) << "what is here is right: a bootstrap may be mounted";
  EXPECT_EQ(report->ok, sample.chunk_count());
  EXPECT_EQ(store_->TakeLostChunks(sample.spec.digest), sample.chunk_count());
  EXPECT_EQ(store_->TakeLostChunks(sample.spec.digest), 0u);
}

TEST_F(FileGuardTest, FilesAreToldFromCopiesWhereNoAttributesAreKept) {
  const SampleBlob sample(1);
  disk_.mark_errno = EOPNOTSUPP;
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, sample.chunk_count()) << "by the time of its birth";
  store_.reset();
  fs::rename(FileOf(sample), FileOf(sample) + ".old");
  Copy(FileOf(sample) + ".old", FileOf(sample));
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, 0u);
  EXPECT_EQ(store_->open_report().files_lost, 1u);
}

TEST_F(FileGuardTest, FileWhoseMarkIsAnothersIsNotBelieved) {
  const SampleBlob sample(1);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  store_.reset();
  const FileIdentity::Mark other{1, 2, 3};
  FileDescriptor fd(::open(FileOf(sample).c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(StoreFileSystem::Real().SetMark(fd.get(), other), 0)
      << "the tests' directory keeps no attributes";
  OpenStore();
  EXPECT_EQ(store_->open_report().files_lost, 1u);
  EXPECT_EQ(store_->open_report().chunks_present, 0u);
}

TEST_F(FileGuardTest, FileThatWasBornAtAnotherTimeOrHasAnotherInodeIsNotBelieved) {
  const SampleBlob sample(1);
  for (const auto& change :
       {+[](FileIdentity& file) { ++file.birth_ns; }, +[](FileIdentity& file) { ++file.inode; }}) {
    OpenStore();
    CommitAll(sample, Evidence::kVerified);
    store_.reset();
    {
      const std::unique_ptr<IndexDb> db = *OpenRocksIndex(temp_.path() + "/data/index");
      IndexBatch batch;
      const absl::Status scanned = db->Scan([&](std::string_view key, std::string_view value) {
        if (KindOf(key) != KeyKind::kBlob) return absl::OkStatus();
        BlobRecord record = *DecodeBlobRecord(value);
        change(*record.file);
        batch.PutBlob(*DecodeRecordKey(key), record);
        return absl::OkStatus();
      });
      ASSERT_TRUE(scanned.ok()) << scanned;
      ASSERT_TRUE(db->Write(batch, Durability::kSynced).ok());
    }
    OpenStore();
    EXPECT_EQ(store_->open_report().files_lost, 1u);
    EXPECT_EQ(store_->open_report().chunks_present, 0u);
  }
}

TEST_F(FileGuardTest, CopyThatWasPutBackUnderAMountIsRefused) {
  const SampleBlob sample(1);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  store_.reset();
  Copy(FileOf(sample), FileOf(sample) + ".copy");
  fs::rename(FileOf(sample) + ".copy", FileOf(sample));
  mounted_ = {sample.spec.digest};
  OpenStore();
  EXPECT_TRUE(store_->Find(sample.spec.digest)->refused());
}

TEST_F(FileGuardTest, LostFileThatCannotBeMadeAnewIsMadeWhenItIsNeeded) {
  const SampleBlob sample(1);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  store_->Flush();
  fs::remove(FileOf(sample));
  disk_.truncate_errno = ENOSPC;
  EXPECT_EQ(store_->CheckFiles(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(CommitChunk(sample, 0)));
  EXPECT_EQ(store_->CheckFiles(), 0u);
  disk_.truncate_errno = 0;
  CommitAll(sample, Evidence::kVerified);
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, sample.chunk_count());
  ExpectTrue(sample);
}

TEST_F(FileGuardTest, NothingIsWrittenToAFileThatIsNotTheBlobsAnyMore) {
  const SampleBlob removed(1), replaced(2);
  OpenStore();
  for (const SampleBlob* sample : {&removed, &replaced}) ASSERT_TRUE(CommitChunk(*sample, 0).ok());
  fs::remove(FileOf(removed));
  Copy(FileOf(replaced), FileOf(replaced) + ".copy");
  fs::rename(FileOf(replaced) + ".copy", FileOf(replaced));
  for (const SampleBlob* sample : {&removed, &replaced}) {
    EXPECT_TRUE(absl::IsUnavailable(CommitChunk(*sample, 1)));
    EXPECT_FALSE(IsPresent(*sample, 0)) << "it was lost with the file";
    CommitAll(*sample, Evidence::kVerified);
    ExpectTrue(*sample);
  }
}

TEST_F(FileGuardTest, FileThatWasMadeAnewMeanwhileIsNotLostAgain) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  fs::remove(FileOf(sample));
  disk_.on_open = [&] {
    disk_.on_open = nullptr;
    EXPECT_EQ(store_->CheckFiles(), 1u);
    EXPECT_TRUE(CommitChunk(sample, 2).ok());
  };
  EXPECT_TRUE(absl::IsUnavailable(CommitChunk(sample, 1))) << "it was about to write to the lost one";
  EXPECT_FALSE(disk_.on_open);
  EXPECT_TRUE(IsPresent(sample, 2));
  ExpectTrue(sample);
}

TEST_F(FileGuardTest, NoLeaseIsGivenOfABlobThatIsBeingEvicted) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  bool asked = false;
  on_revoke_ = [&] {
    asked = true;
    EXPECT_TRUE(absl::IsNotFound(store_->Acquire(sample.spec.digest).status()));
    EXPECT_TRUE(
        absl::IsNotFound(store_->Commit(*blob, ChunkIndex(1), sample.Chunk(1), Evidence::kUnverified)));
    return absl::OkStatus();
  };
  ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok());
  EXPECT_TRUE(asked);
  EXPECT_FALSE(fs::exists(FileOf(sample)));
}

}  // namespace
}  // namespace sluice::index
