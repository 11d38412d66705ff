// The rule that the index never claims what is not on disk, with a disk that fails and a crash at the worst
// time.
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <future>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"
#include "synced_files.h"

namespace sluice::index {
namespace {

// Returns when a thread of this process waits for something.
void WaitUntilAsleep(pid_t thread) {
  const std::string path = absl::StrCat("/proc/self/task/", thread, "/stat");
  for (std::string line; std::getline(std::ifstream(path), line);) {
    if (line[line.rfind(')') + 2] == 'S') return;
    std::this_thread::yield();
  }
}

class SyncTest : public StoreTest {
 protected:
  // What the index would say if the machine died now.
  struct OnDisk {
    std::map<Digest, BlobRecord> records;
    std::set<uint32_t> claims;  // of all blobs
  };
  OnDisk IndexOnDisk() {
    const std::string copy = absl::StrCat(temp_.path(), "/copy-", ++copies_);
    SyncedFiles::Instance().CopyDirectory(temp_.path() + "/data/index", copy);
    OnDisk found;
    absl::StatusOr<std::unique_ptr<IndexDb>> db = OpenRocksIndex(copy);
    EXPECT_TRUE(db.ok()) << db.status();
    if (!db.ok()) return found;
    const absl::Status loaded =
        LoadIndex(**db, {[&](const BlobKey& id, BlobRecord record) {
                           found.records[id.name()] = std::move(record);
                           return absl::OkStatus();
                         },
                         [&](const BlobKey&, SegmentIndex segment, const PresenceSegment& value) {
                           for (uint32_t i = 0; i < value.chunk_count(); ++i) {
                             if (value.present.Has(ChunkIndex(i)))
                               found.claims.insert(segment.value() * kSegmentChunks + i);
                           }
                           return absl::OkStatus();
                         }})
            .status();
    EXPECT_TRUE(loaded.ok()) << loaded;
    return found;
  }
  std::set<uint32_t> ClaimsOnDisk() { return IndexOnDisk().claims; }

 private:
  std::atomic<int> copies_ = 0;
};

TEST_F(SyncTest, NoClaimIsMadeBeforeItsBytesWereSynced) {
  const SampleBlob sample(1);
  OpenStore();
  std::set<uint32_t> synced, written;
  std::vector<std::set<uint32_t>> claims_before_sync;
  disk_.on_sync = [&](int) {
    claims_before_sync.push_back(ClaimsOnDisk());
    synced.insert(written.begin(), written.end());
  };
  for (uint32_t i = 0; i < 4; ++i) {
    written.insert(i);
    ASSERT_TRUE(CommitChunk(sample, i).ok());
    EXPECT_FALSE(ClaimsOnDisk().contains(i)) << "chunk " << i << " is claimed without a sync";
    store_->Flush();
    EXPECT_EQ(synced, written) << "the batch ended and chunk " << i << " was not synced";
    EXPECT_EQ(ClaimsOnDisk(), written);
  }
  ASSERT_EQ(claims_before_sync.size(), 4u);
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_FALSE(claims_before_sync[i].contains(i)) << "chunk " << i << " was claimed before its sync";
  }
}

TEST_F(SyncTest, FailedSyncTakesTheBatchBackAndNothingIsClaimed) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  ASSERT_TRUE(CommitChunk(sample, 2).ok());
  disk_.sync_errno = EIO;
  store_->Flush();
  EXPECT_TRUE(IsPresent(sample, 0)) << "synced before";
  EXPECT_FALSE(IsPresent(sample, 1));
  EXPECT_FALSE(IsPresent(sample, 2));
  EXPECT_EQ(ClaimsOnDisk(), std::set<uint32_t>{0});
  EXPECT_EQ(telemetry_.sync_failures.value(), 1u);
  EXPECT_EQ(store_->Find(sample.spec.digest)->unverified_count(), 1u);
  disk_.sync_errno = 0;
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  OpenStore();
  EXPECT_TRUE(IsPresent(sample, 1));
  EXPECT_FALSE(IsPresent(sample, 2));
  ExpectTrue(sample);
}

TEST_F(SyncTest, ChunkWrittenDuringAFailingSyncIsTakenBackToo) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  disk_.on_sync = [&](int) { ASSERT_TRUE(CommitChunk(sample, 1).ok()); };
  disk_.sync_errno = EIO;
  store_->Flush();
  EXPECT_FALSE(IsPresent(sample, 0));
  EXPECT_FALSE(IsPresent(sample, 1)) << "the failure that was reported may have been this chunk's";
}

TEST_F(SyncTest, DirectoryThatCannotBeSyncedIsNotClaimedIn) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  disk_.directory_errno = EIO;
  store_->Flush();
  EXPECT_FALSE(IsPresent(sample, 0));
  EXPECT_TRUE(ClaimsOnDisk().empty());
  disk_.directory_errno = 0;
  const int synced = disk_.directory_syncs;
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  EXPECT_EQ(disk_.directory_syncs, synced + 1) << "the name is still to be synced";
  EXPECT_EQ(ClaimsOnDisk(), std::set<uint32_t>{0});
}

TEST_F(SyncTest, ChunkRevokedWhileItsBatchSyncsIsNotClaimed) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  disk_.on_sync = [&](int) { ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(1)).ok()); };
  store_->Flush();
  EXPECT_EQ(ClaimsOnDisk(), std::set<uint32_t>{0});
  EXPECT_FALSE(IsPresent(sample, 1));
}

TEST_F(SyncTest, ChunkRevokedAndRewrittenWhileItsBatchSyncsWaitsForTheNext) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  disk_.on_sync = [&](int) {
    ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(0)).ok());
    ASSERT_TRUE(CommitChunk(sample, 0).ok());
  };
  store_->Flush();
  EXPECT_TRUE(IsPresent(sample, 0));
  EXPECT_TRUE(ClaimsOnDisk().empty()) << "its new bytes were not in the sync";
  disk_.on_sync = nullptr;
  store_->Flush();
  EXPECT_EQ(ClaimsOnDisk(), std::set<uint32_t>{0});
}

TEST_F(SyncTest, ClaimIsGoneBeforeItsBytesAreOverwritten) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(0)).ok());
  EXPECT_TRUE(ClaimsOnDisk().empty());
}

TEST_F(SyncTest, ClaimThatOutlivedItsChunkIsDroppedBeforeTheChunkIsWrittenAnew) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kUnverified).ok());
  store_->Flush();
  // Proving a claimed chunk puts it into a batch; when that fails, memory forgets the chunk and the index
  // does not.
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  disk_.sync_errno = EIO;
  store_->Flush();
  disk_.sync_errno = 0;
  ASSERT_FALSE(IsPresent(sample, 0));
  ASSERT_EQ(ClaimsOnDisk(), std::set<uint32_t>{0});
  size_t writes = 0;
  disk_.on_write = [&] {
    ++writes;
    EXPECT_TRUE(ClaimsOnDisk().empty()) << "a crash now would leave a torn chunk under a claim";
  };
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  EXPECT_EQ(writes, 1u);
}

TEST_F(SyncTest, EvictedWhileItsBatchSyncsLeavesNoClaim) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  disk_.on_sync = [&](int) { ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok()); };
  store_->Flush();
  EXPECT_TRUE(ClaimsOnDisk().empty());
  disk_.on_sync = nullptr;
  OpenStore();
  EXPECT_EQ(store_->open_report().blobs, 0u);
  EXPECT_FALSE(store_->open_report().rebuilt);
}

// A file that is made anew under the same name would be believed where it has holes.
TEST_F(SyncTest, EvictedBlobLeavesNoClaimOnDisk) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  ASSERT_EQ(ClaimsOnDisk(), std::set<uint32_t>{0});
  ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok());
  const OnDisk found = IndexOnDisk();
  EXPECT_TRUE(found.claims.empty());
  EXPECT_FALSE(found.records.contains(sample.spec.digest));
}

TEST_F(SyncTest, PinIsOnDiskWhenItIsAcknowledged) {
  const SampleBlob sample(1);
  OpenStore();
  OpenBlob(sample);
  ASSERT_TRUE(store_->Pin(sample.spec.digest).ok());
  EXPECT_TRUE(IndexOnDisk().records[sample.spec.digest].pinned);
  ASSERT_TRUE(store_->Unpin(sample.spec.digest).ok());
  EXPECT_FALSE(IndexOnDisk().records[sample.spec.digest].pinned);
}

TEST_F(SyncTest, FlushDuringABatchWaitsForTheNext) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  std::thread flusher;
  std::promise<pid_t> about_to_flush;
  std::set<uint32_t> claims_when_flushed;
  disk_.on_sync = [&](int) {
    if (flusher.joinable()) return;
    flusher = std::thread([&] {
      ASSERT_TRUE(CommitChunk(sample, 1).ok());
      about_to_flush.set_value(::gettid());
      store_->Flush();
      claims_when_flushed = ClaimsOnDisk();
    });
    WaitUntilAsleep(about_to_flush.get_future().get());
  };
  store_->Flush();
  flusher.join();
  EXPECT_EQ(claims_when_flushed, (std::set<uint32_t>{0, 1})) << "the batch under way had not seen chunk 1";
}

TEST_F(SyncTest, ShortAndInterruptedWritesAreCompleted) {
  const SampleBlob sample(1);
  OpenStore();
  disk_.write_bytes_max = 1000;
  disk_.interrupts = 3;
  CommitAll(sample);
  ExpectTrue(sample);
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
}

// Gives a few bytes at a time, and is interrupted by a signal before each.
class HaltingFileSystem final : public StoreFileSystem {
 public:
  ssize_t Pread(int fd, void* bytes, size_t size, off_t offset) override {
    interrupted_ = !interrupted_;
    if (interrupted_) {
      errno = EINTR;
      return -1;
    }
    return StoreFileSystem::Pread(fd, bytes, std::min<size_t>(size, 1000), offset);
  }

 private:
  bool interrupted_ = false;
};

TEST_F(SyncTest, ShortAndInterruptedReadsAreCompleted) {
  const std::vector<std::byte> bytes = Content(1, 4500);
  const FileDescriptor fd(
      ::open((temp_.path() + "/file").c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  HaltingFileSystem halting;
  std::vector<std::byte> found(4000);
  ASSERT_TRUE(ReadFully(halting, fd.get(), 500, found).ok());
  EXPECT_TRUE(std::equal(found.begin(), found.end(), bytes.begin() + 500));
  EXPECT_TRUE(absl::IsDataLoss(ReadFully(halting, fd.get(), 501, found))) << "the file ends before that";
}

TEST_F(SyncTest, FailedWritesLeaveTheChunkAbsentAndSayWhy) {
  const SampleBlob sample(1);
  OpenStore();
  OpenBlob(sample);
  // Of a chunk whose write failed the room stays reserved.
  for (const auto& [call, chunk] : {std::pair(&disk_.write_errno, 0u), std::pair(&disk_.reserve_errno, 4u)}) {
    for (const auto& [error, code] :
         {std::pair(ENOSPC, absl::StatusCode::kResourceExhausted),
          std::pair(EDQUOT, absl::StatusCode::kResourceExhausted),
          std::pair(EIO, absl::StatusCode::kUnavailable), std::pair(EROFS, absl::StatusCode::kUnavailable),
          std::pair(EFBIG, absl::StatusCode::kUnavailable)}) {
      *call = error;
      const absl::Status status = CommitChunk(sample, chunk);
      EXPECT_EQ(status.code(), code) << status;
      EXPECT_FALSE(IsPresent(sample, chunk));
      *call = 0;
    }
  }
  EXPECT_EQ(telemetry_.write_failures.value(), 10u);
  disk_.reserve_errno = EOPNOTSUPP;
  EXPECT_TRUE(CommitChunk(sample, 4).ok()) << "a file system that can't reserve still stores";
}

TEST_F(SyncTest, OutOfDescriptorsIsShedAndRecovers) {
  const SampleBlob sample(1);
  OpenStore();
  OpenBlob(sample);
  disk_.open_errno = EMFILE;
  EXPECT_TRUE(absl::IsUnavailable(CommitChunk(sample, 0)));
  EXPECT_TRUE(absl::IsUnavailable(store_->Open(SampleBlob(2).spec).status()));
  disk_.open_errno = 0;
  EXPECT_TRUE(CommitChunk(sample, 0).ok());
}

TEST_F(SyncTest, FileSizeLimitIsAnErrorNotADeath) {
  const SampleBlob sample(1, 64 * kChunkSizeMin);
  OpenStore();
  OpenBlob(sample);
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit low{.rlim_cur = 32 * kChunkSizeMin, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  const absl::Status beyond = CommitChunk(sample, 60);
  const absl::Status registered = store_->Open(SampleBlob(2, 64 * kChunkSizeMin).spec).status();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, before);
  EXPECT_TRUE(absl::IsUnavailable(beyond)) << beyond;
  EXPECT_FALSE(IsPresent(sample, 60));
  EXPECT_TRUE(absl::IsUnavailable(registered)) << registered;
  EXPECT_FALSE(std::filesystem::exists(store_->BlobPath(SampleBlob(2, 64 * kChunkSizeMin).spec.digest)));
  EXPECT_TRUE(CommitChunk(sample, 60).ok());
}

TEST_F(SyncTest, BatchRunsByItselfAfterTheInterval) {
  const SampleBlob sample(1);
  DiskStoreOptions options = Options();
  options.sync_interval = std::chrono::milliseconds(1);
  std::promise<void> complete;
  options.on_complete = [&](const std::shared_ptr<Blob>&) {
    complete.set_value();
    return absl::OkStatus();
  };
  store_ = *DiskStore::OpenStore(options);
  CommitAll(sample, Evidence::kVerified);
  complete.get_future().wait();
  EXPECT_TRUE(store_->IsSettled(sample.spec.digest));
}

TEST_F(SyncTest, ChunkWrittenWhileABatchSyncsIsFollowedByABatchOfItsOwn) {
  const SampleBlob sample(1);
  const uint32_t last = sample.chunk_count() - 1;
  DiskStoreOptions options = Options();
  options.sync_interval = std::chrono::milliseconds(1);
  std::promise<void> complete;
  options.on_complete = [&](const std::shared_ptr<Blob>&) {
    complete.set_value();
    return absl::OkStatus();
  };
  store_ = *DiskStore::OpenStore(options);
  for (uint32_t i = 0; i < last - 1; ++i) ASSERT_TRUE(CommitChunk(sample, i, Evidence::kVerified).ok());
  store_->Flush();
  std::atomic<bool> written = false;
  disk_.on_sync = [&](int) {
    if (!written.exchange(true)) {
      ASSERT_TRUE(CommitChunk(sample, last, Evidence::kVerified).ok());
    }
  };
  ASSERT_TRUE(CommitChunk(sample, last - 1, Evidence::kVerified).ok());
  complete.get_future().wait();
  EXPECT_EQ(ClaimsOnDisk().size(), sample.chunk_count());
}

TEST_F(SyncTest, BatchIsHurriedByItsBytes) {
  const SampleBlob sample(1);
  DiskStoreOptions options = Options();
  options.sync_bytes_max = sample.spec.size;
  std::promise<void> complete;
  options.on_complete = [&](const std::shared_ptr<Blob>&) {
    complete.set_value();
    return absl::OkStatus();
  };
  store_ = *DiskStore::OpenStore(options);
  CommitAll(sample, Evidence::kVerified);
  complete.get_future().wait();
}

TEST_F(SyncTest, ChunkForWhichThereIsSpaceIsStoredThoughThereIsNoneAhead) {
  const SampleBlob sample(1);
  OpenStore();
  disk_.reserve_bytes_max = kChunkSizeMin;
  CommitAll(sample);
  ExpectTrue(sample);
}

// A node that is killed leaves names behind that no sync has covered; its successor makes none of them.
TEST_F(SyncTest, NamesThatAPredecessorMadeAreSyncedBeforeTheirChunksAreClaimed) {
  OpenStore();
  const SampleBlob sample(91);
  OpenBlob(sample);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  disk_.directory_errno = EIO;
  store_->Flush();
  EXPECT_FALSE(IsPresent(sample, 0));
  disk_.directory_errno = 0;
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  EXPECT_TRUE(IsPresent(sample, 0));
}

}  // namespace
}  // namespace sluice::index
