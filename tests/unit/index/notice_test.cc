// What the kernel's side is told, in which order, and what waits for it.
#include <condition_variable>
#include <future>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

absl::Status NotHeard() {
  return absl::UnavailableError("the keeper does not answer");
}

// Nothing happens but what the test runs.
class NoticeTest : public StoreTest {
 protected:
  void OpenStepped() {
    DiskStoreOptions options = Options();
    options.threads = Threads::kNone;
    store_.reset();
    absl::StatusOr<std::unique_ptr<DiskStore>> store = DiskStore::OpenStore(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void RunAll() {
    while (store_->RunBatch() || store_->RunHash() || store_->RunNotice()) {
    }
  }
  std::vector<std::byte> OnDisk(const SampleBlob& sample, uint32_t index) {
    FileDescriptor fd(::open(store_->BlobPath(sample.spec.digest).c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<std::byte> found(sample.Chunk(index).size());
    EXPECT_EQ(::pread(fd.get(), found.data(), found.size(), static_cast<off_t>(index) * kChunkSizeMin),
              static_cast<ssize_t>(found.size()));
    return found;
  }
};

TEST_F(NoticeTest, NothingHappensByItselfWithoutThreads) {
  const SampleBlob sample(1);
  OpenStepped();
  CommitAll(sample);
  EXPECT_FALSE(store_->RunNotice());
  EXPECT_FALSE(store_->RunHash());
  EXPECT_EQ(disk_.syncs, 0);
  EXPECT_TRUE(store_->RunBatch());
  EXPECT_EQ(disk_.syncs, 1);
  EXPECT_FALSE(store_->RunBatch());
  EXPECT_FALSE(store_->IsSettled(sample.spec.digest));
  EXPECT_TRUE(store_->RunHash());
  EXPECT_TRUE(store_->IsSettled(sample.spec.digest));
  EXPECT_TRUE(Notes().empty());
  EXPECT_TRUE(store_->RunNotice());
  EXPECT_EQ(Notes(), std::vector<std::string>{"complete " + sample.spec.digest.Short()});
  EXPECT_FALSE(store_->RunNotice());
}

TEST_F(NoticeTest, BytesAreNotOverwrittenBeforeTheRevocationWasHeard) {
  const SampleBlob sample(1), wrong(2);
  OpenStepped();
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(1), wrong.Chunk(1), Evidence::kUnverified).ok());
  RunAll();
  int heard = 0;
  on_revoke_ = [&] { return heard > 0 ? absl::OkStatus() : NotHeard(); };
  const auto right = [&] {
    const std::vector<std::byte> found = OnDisk(sample, 1);
    return std::equal(found.begin(), found.end(), sample.Chunk(1).begin());
  };
  for (int i = 0; i < 3; ++i) {
    const absl::Status committed = CommitChunk(sample, 1, Evidence::kVerified);
    EXPECT_TRUE(absl::IsUnavailable(committed)) << committed;
    EXPECT_FALSE(IsPresent(sample, 1));
    EXPECT_FALSE(right()) << "the kernel may still read it unasked";
    store_->RunBatch();
  }
  heard = 1;
  EXPECT_TRUE(store_->RunNotice()) << "it is tried again by itself";
  EXPECT_TRUE(CommitChunk(sample, 1, Evidence::kVerified).ok());
  EXPECT_TRUE(right());
}

TEST_F(NoticeTest, RevokeSaysThatItWasNotHeardAndGoesOnTrying) {
  const SampleBlob sample(1);
  DiskStoreOptions options = Options();
  options.notice_wait_max = std::chrono::milliseconds(1);
  std::atomic<int> calls = 0;
  std::promise<void> heard;
  options.on_revoke = [&](const Blob&) {
    if (++calls < 4) return NotHeard();
    heard.set_value();
    return absl::OkStatus();
  };
  store_ = *DiskStore::OpenStore(options);
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Flush();
  const absl::Status revoked = store_->Revoke(*store_->Find(sample.spec.digest), ChunkIndex(0));
  EXPECT_TRUE(absl::IsUnavailable(revoked)) << revoked;
  EXPECT_FALSE(IsPresent(sample, 0));
  heard.get_future().wait();
  EXPECT_EQ(calls, 4);
  store_.reset();  // before what its callbacks work with
}

TEST_F(NoticeTest, WhoIsNotThereYetIsNoAlarm) {
  const SampleBlob sample(1), other(2);
  OpenStepped();
  for (const SampleBlob* blob : {&sample, &other}) ASSERT_TRUE(CommitChunk(*blob, 0).ok());
  RunAll();
  bool is_there = false;
  on_revoke_ = [&] { return is_there ? NotHeard() : absl::AbortedError("the node is starting"); };
  EXPECT_FALSE(store_->Revoke(*store_->Find(sample.spec.digest), ChunkIndex(0)).ok());
  for (uint32_t i = 0; i < 3 * Notifier::kAlarmFailures; ++i) EXPECT_TRUE(store_->RunNotice());
  EXPECT_FALSE(Noted("alarm"));
  is_there = true;
  for (uint32_t i = 0; i < Notifier::kAlarmFailures && !Noted("alarm"); ++i) store_->RunNotice();
  EXPECT_TRUE(Noted("alarm")) << "one that is there, and fails, is";
  store_.reset();  // before what its callbacks work with
}

TEST_F(NoticeTest, NobodyWaitsForASideThatFails) {
  const SampleBlob sample(1);
  DiskStoreOptions options = Options();
  options.notice_wait_max = std::chrono::hours(24);
  std::atomic<bool> heard = false;
  options.on_revoke = [&](const Blob&) { return heard ? absl::OkStatus() : NotHeard(); };
  store_ = *DiskStore::OpenStore(options);
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  EXPECT_TRUE(absl::IsUnavailable(store_->Revoke(*OpenBlob(sample), ChunkIndex(0))));
  EXPECT_TRUE(absl::IsUnavailable(CommitChunk(sample, 0)));
  EXPECT_TRUE(absl::IsUnavailable(store_->Evict(sample.spec.digest, EvictReason::kRequested)));
  heard = true;
  while (!CommitChunk(sample, 0).ok()) std::this_thread::yield();
  ExpectTrue(sample);
  store_.reset();  // before what its callbacks work with
}

TEST_F(NoticeTest, FileStaysUntilTheKernelsSideHasHeardOfItsEviction) {
  const SampleBlob sample(1);
  OpenStepped();
  CommitAll(sample, Evidence::kVerified);
  RunAll();
  on_revoke_ = NotHeard;
  EXPECT_TRUE(absl::IsUnavailable(store_->Evict(sample.spec.digest, EvictReason::kRequested)));
  EXPECT_TRUE(std::filesystem::exists(store_->BlobPath(sample.spec.digest)));
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  EXPECT_EQ(blob->presence().present_count(), 0u);
  on_revoke_ = nullptr;
  EXPECT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok());
  EXPECT_FALSE(std::filesystem::exists(store_->BlobPath(sample.spec.digest)));
}

TEST_F(NoticeTest, WhatWasTakenBackIsNotAnnouncedAsComplete) {
  const SampleBlob sample(1);
  OpenStepped();
  CommitAll(sample, Evidence::kVerified);
  store_->RunBatch();
  on_revoke_ = NotHeard;
  EXPECT_FALSE(store_->Revoke(*store_->Find(sample.spec.digest), ChunkIndex(2)).ok());
  on_revoke_ = nullptr;
  while (store_->RunNotice()) {
  }
  EXPECT_FALSE(Noted("complete"));
  ASSERT_TRUE(CommitChunk(sample, 2, Evidence::kVerified).ok());
  RunAll();
  EXPECT_EQ(Notes().back(), "complete " + sample.spec.digest.Short());
}

TEST_F(NoticeTest, CompletionIsToldAgainUntilItWasHeard) {
  const SampleBlob sample(1);
  DiskStoreOptions options = Options();
  options.threads = Threads::kNone;
  int failures = 3, heard = 0;
  options.on_complete = [&](const std::shared_ptr<Blob>&) {
    if (failures-- > 0) return NotHeard();
    ++heard;
    return absl::OkStatus();
  };
  store_ = *DiskStore::OpenStore(options);
  CommitAll(sample, Evidence::kVerified);
  store_->RunBatch();
  EXPECT_TRUE(store_->RunHash());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(store_->RunNotice());
  EXPECT_EQ(heard, 0);
  EXPECT_TRUE(store_->RunNotice());
  EXPECT_FALSE(store_->RunNotice());
  EXPECT_EQ(heard, 1);
  store_.reset();  // before what its callbacks work with
}

TEST_F(NoticeTest, CompletionIsToldOnce) {
  const SampleBlob sample(1);
  NoVerifier verifier;
  OpenStepped();
  CommitAll(sample);
  RunAll();
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->ok, sample.chunk_count());
  RunAll();
  EXPECT_EQ(Notes(), std::vector<std::string>{"complete " + sample.spec.digest.Short()});
}

TEST_F(NoticeTest, BlobThatIsNotHeardDoesNotHoldUpAnother) {
  const SampleBlob deaf(1), other(2);
  OpenStepped();
  CommitAll(deaf, Evidence::kVerified);
  store_->RunBatch();
  on_revoke_ = NotHeard;
  EXPECT_FALSE(store_->Revoke(*store_->Find(deaf.spec.digest), ChunkIndex(0)).ok());
  CommitAll(other, Evidence::kVerified);
  store_->RunBatch();
  while (store_->RunHash()) {
  }
  for (int i = 0; i < 3; ++i) store_->RunNotice();
  EXPECT_TRUE(Noted("complete " + other.spec.digest.Short()));
}

TEST_F(NoticeTest, NoCallbackComesOnAThreadThatSyncs) {
  const SampleBlob sample(1);
  std::set<std::thread::id> syncing, telling;
  std::mutex mutex;
  const auto note = [&](std::set<std::thread::id>* ids) {
    std::lock_guard lock(mutex);
    ids->insert(std::this_thread::get_id());
  };
  DiskStoreOptions options = Options();
  options.on_complete = [&](const std::shared_ptr<Blob>&) {
    note(&telling);
    return absl::OkStatus();
  };
  options.on_revoke = [&](const Blob&) {
    note(&telling);
    return absl::OkStatus();
  };
  disk_.on_sync = [&](int) { note(&syncing); };
  store_ = *DiskStore::OpenStore(options);
  CommitAll(sample, Evidence::kVerified);
  store_->Flush();
  ASSERT_TRUE(store_->Revoke(*store_->Find(sample.spec.digest), ChunkIndex(0)).ok());
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  disk_.sync_errno = EIO;
  store_->Flush();
  EXPECT_EQ(telling.size(), 1u);
  EXPECT_FALSE(syncing.contains(*telling.begin()));
  EXPECT_NE(*telling.begin(), std::this_thread::get_id());
  store_.reset();  // before what its callbacks work with
}

TEST_F(NoticeTest, FilesOfABatchAreSyncedSideBySide) {
  constexpr size_t kBlobs = 3 * Syncer::kSyncThreads;
  OpenStore();
  std::vector<SampleBlob> samples;
  for (uint64_t i = 0; i < kBlobs; ++i) samples.emplace_back(i + 1);
  for (const SampleBlob& sample : samples) ASSERT_TRUE(CommitChunk(sample, 0).ok());
  std::mutex mutex;
  std::condition_variable changed;
  size_t inside = 0, most = 0;
  disk_.on_sync = [&](int) {
    std::unique_lock lock(mutex);
    most = std::max(most, ++inside);
    changed.notify_all();
    changed.wait_for(lock, std::chrono::seconds(10), [&] { return most == Syncer::kSyncThreads; });
    --inside;
  };
  store_->Flush();
  EXPECT_EQ(most, Syncer::kSyncThreads);
  EXPECT_EQ(disk_.syncs, static_cast<int>(kBlobs));
  disk_.on_sync = nullptr;
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, kBlobs);
}

TEST_F(NoticeTest, OneFileThatCannotBeSyncedTakesOnlyItsOwnChunksBack) {
  const SampleBlob bad(1), good(2);
  OpenStore();
  ASSERT_TRUE(CommitChunk(bad, 0).ok());
  ASSERT_TRUE(CommitChunk(good, 0).ok());
  std::filesystem::remove(store_->BlobPath(bad.spec.digest));
  store_->Flush();
  EXPECT_FALSE(IsPresent(bad, 0));
  EXPECT_TRUE(IsPresent(good, 0));
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, 1u);
}

TEST_F(NoticeTest, WhatIsTakenBackWhileTheRestIsToldIsToldToo) {
  const SampleBlob sample(1);
  OpenStepped();
  CommitAll(sample);
  RunAll();
  notes_.clear();
  on_revoke_ = [&] {
    on_revoke_ = nullptr;
    std::filesystem::remove(store_->BlobPath(sample.spec.digest));
    EXPECT_EQ(store_->CheckFiles(), 1u);
    return absl::OkStatus();
  };
  EXPECT_TRUE(store_->Revoke(*store_->Find(sample.spec.digest), ChunkIndex(1)).ok());
  RunAll();
  EXPECT_EQ(std::count(notes_.begin(), notes_.end(), "revoke " + sample.spec.digest.Short()), 2);
}

}  // namespace
}  // namespace sluice::index
