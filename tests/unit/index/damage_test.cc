// A lost or damaged index, and files that somebody else removed or cut short.
#include <fstream>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

namespace fs = std::filesystem;

class DamageTest : public StoreTest {
 protected:
  std::string index() const { return temp_.path() + "/data/index"; }

  // Enough for table files: opening the index makes one of what its log held.
  void FillAndClose() {
    OpenStore();
    CommitAll(first_, Evidence::kVerified);
    FlushUntil([&] { return store_->IsSettled(first_.spec.digest); });
    OpenStore();
    CommitAll(second_, Evidence::kVerified);
    FlushUntil([&] { return store_->IsSettled(second_.spec.digest); });
    store_.reset();
    notes_.clear();
  }

  size_t Change(const std::string& prefix, const std::string& extension,
                const std::function<void(const fs::path&)>& change) {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(index())) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(prefix) || entry.path().extension() != extension) continue;
      change(entry.path());
      ++count;
    }
    return count;
  }

  void ExpectRebuiltAndUsable() {
    OpenStore();
    EXPECT_TRUE(store_->open_report().rebuilt);
    EXPECT_FALSE(store_->open_report().reason.empty());
    EXPECT_EQ(store_->open_report().blobs, 0u);
    EXPECT_TRUE(Noted("alarm the index"));
    EXPECT_EQ(store_->Find(first_.spec.digest), nullptr);
    EXPECT_FALSE(fs::exists(store_->BlobPath(first_.spec.digest))) << "no record names it";
    CommitAll(first_, Evidence::kVerified);
    OpenStore();
    EXPECT_FALSE(store_->open_report().rebuilt);
    EXPECT_EQ(store_->open_report().chunks_present, first_.chunk_count());
    ExpectTrue(first_);
  }

  static void Garble(const fs::path& path) {
    const uint64_t size = fs::file_size(path);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    for (uint64_t at = 0; at < size; at += 64) {
      file.seekp(static_cast<std::streamoff>(at));
      file.put('\x5a');
    }
  }
  static void Halve(const fs::path& path) { fs::resize_file(path, fs::file_size(path) / 2); }
  static void Remove(const fs::path& path) { fs::remove(path); }

  const SampleBlob first_{1};
  const SampleBlob second_{2};
};

TEST_F(DamageTest, UndamagedIndexIsNotRebuilt) {
  FillAndClose();
  OpenStore();
  EXPECT_FALSE(store_->open_report().rebuilt);
  EXPECT_EQ(store_->open_report().chunks_present, first_.chunk_count() + second_.chunk_count());
}

TEST_F(DamageTest, MissingCurrent) {
  FillAndClose();
  fs::remove(index() + "/CURRENT");
  ExpectRebuiltAndUsable();
  EXPECT_TRUE(fs::exists(temp_.path() + "/data/index.damaged-1"));
}

TEST_F(DamageTest, GarbledCurrent) {
  FillAndClose();
  std::ofstream(index() + "/CURRENT") << "nonsense";
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, GarbledManifest) {
  FillAndClose();
  ASSERT_GT(Change("MANIFEST", "", Garble), 0u);
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, MissingManifest) {
  FillAndClose();
  ASSERT_GT(Change("MANIFEST", "", Remove), 0u);
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, GarbledTables) {
  FillAndClose();
  ASSERT_GT(Change("", ".sst", Garble), 0u);
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, HalvedTables) {
  FillAndClose();
  ASSERT_GT(Change("", ".sst", Halve), 0u);
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, MissingTables) {
  FillAndClose();
  ASSERT_GT(Change("", ".sst", Remove), 0u);
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, WholeIndexMissing) {
  FillAndClose();
  fs::remove_all(index());
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, IndexIsAFile) {
  FillAndClose();
  fs::remove_all(index());
  std::ofstream(index()) << "nonsense";
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, IndexCondemnedWhileRunning) {
  FillAndClose();
  std::ofstream(index() + "/CONDEMNED") << "Corruption: found by a compaction";
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, ChunksOfABlobThatHasNoRecord) {
  FillAndClose();
  {
    IndexBatch batch;
    PresenceSegment segment(1);
    segment.present.Add(ChunkIndex(0));
    batch.PutSegment(BlobKey(SampleBlob(3).spec.digest), SegmentIndex(0), segment);
    ASSERT_TRUE((*OpenRocksIndex(index()))->Write(batch, Durability::kSynced).ok());
  }
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, TornEndOfTheLogLosesOnlyTheEnd) {
  OpenStore();
  ASSERT_TRUE(CommitChunk(first_, 0, Evidence::kVerified).ok());
  store_->Flush();
  const std::string crashed = temp_.path() + "/crashed";
  fs::copy(index(), crashed, fs::copy_options::recursive);
  store_.reset();
  fs::remove_all(index());
  fs::rename(crashed, index());
  ASSERT_EQ(Change("", ".log", [](const fs::path& path) { fs::resize_file(path, fs::file_size(path) - 5); }),
            1u);
  OpenStore();
  EXPECT_FALSE(store_->open_report().rebuilt);
  EXPECT_EQ(store_->open_report().blobs, 1u) << "the record was written before the claims";
  EXPECT_EQ(store_->open_report().chunks_present, 0u);
}

TEST_F(DamageTest, MountedFilesOutliveTheIndexAndAreAbsent) {
  FillAndClose();
  mounted_ = {first_.spec.digest};
  fs::remove(index() + "/CURRENT");
  OpenStore();
  EXPECT_TRUE(fs::exists(store_->BlobPath(first_.spec.digest)));
  EXPECT_FALSE(fs::exists(store_->BlobPath(second_.spec.digest)));
  const auto inode = [&] {
    struct stat stat {};
    ::stat(store_->BlobPath(first_.spec.digest).c_str(), &stat);
    return stat.st_ino;
  };
  const ino_t before = inode();
  EXPECT_EQ(OpenBlob(first_)->presence().present_count(), 0u);
  EXPECT_EQ(inode(), before) << "the mount reads this very file";
}

TEST_F(DamageTest, FilesLostWhileStoppedAreAbsent) {
  FillAndClose();
  fs::remove(absl::StrCat(temp_.path(), "/data/blobs/", first_.spec.digest.Hex()));
  fs::resize_file(absl::StrCat(temp_.path(), "/data/blobs/", second_.spec.digest.Hex()), 50000);
  for (int round = 0; round < 2; ++round) {
    OpenStore();
    EXPECT_EQ(store_->open_report().files_lost, round == 0 ? 2u : 0u);
    EXPECT_EQ(store_->open_report().chunks_present, 0u);
    for (const SampleBlob* sample : {&first_, &second_}) {
      EXPECT_EQ(fs::file_size(store_->BlobPath(sample->spec.digest)), sample->spec.size);
    }
  }
  CommitAll(first_, Evidence::kVerified);
  ExpectTrue(first_);
}

TEST_F(DamageTest, FileLostWhileStoppedUnderAMountIsRefused) {
  FillAndClose();
  mounted_ = {first_.spec.digest};
  fs::remove(absl::StrCat(temp_.path(), "/data/blobs/", first_.spec.digest.Hex()));
  OpenStore();
  EXPECT_TRUE(store_->Find(first_.spec.digest)->refused()) << "the mount's file is gone for good";
  OpenStore();
  EXPECT_TRUE(store_->Find(first_.spec.digest)->refused()) << "and its readers are still there";
  mounted_ = {};
  OpenStore();
  EXPECT_FALSE(store_->Find(first_.spec.digest)->refused()) << "nobody reads from it any more";
  CommitAll(first_, Evidence::kVerified);
  OpenStore();
  ExpectTrue(first_);
  EXPECT_EQ(store_->Find(first_.spec.digest)->presence().present_count(), first_.chunk_count());
}

// What version 1 of the index had of the blobs: everything but their files.
class EarlierVersionTest : public DamageTest {
 protected:
  void MakeEarlier() {
    const std::unique_ptr<IndexDb> db = *OpenRocksIndex(index());
    IndexBatch batch;
    const absl::Status scanned = db->Scan([&](std::string_view key, std::string_view value) {
      std::string earlier_key(key), earlier_value(value);
      earlier_key[1] = 1;
      if (KindOf(key) == KeyKind::kBlob) {
        BlobRecord record = *DecodeBlobRecord(value);
        record.file.reset();
        earlier_value = EncodeBlobRecord(record);
        earlier_value[1] = static_cast<char>(earlier_value[1] | 4);
      }
      earlier_value[0] = 1;
      batch.Add({IndexBatch::Change::Kind::kDelete, std::string(key), {}});
      batch.Add({IndexBatch::Change::Kind::kPut, earlier_key, earlier_value});
      return absl::OkStatus();
    });
    ASSERT_TRUE(scanned.ok()) << scanned;
    batch.Add({IndexBatch::Change::Kind::kPut, std::string("r\1") + std::string(32, 'x'), "\1recipe"});
    ASSERT_TRUE(db->Write(batch, Durability::kSynced).ok());
  }
  size_t EarlierKeys() {
    store_.reset();
    size_t count = 0;
    const absl::Status scanned =
        (*OpenRocksIndex(index()))->Scan([&](std::string_view key, std::string_view) {
          count += KindOf(key) == KeyKind::kEarlierBlob || KindOf(key) == KeyKind::kEarlierOther;
          return absl::OkStatus();
        });
    EXPECT_TRUE(scanned.ok()) << scanned;
    return count;
  }
};

TEST_F(EarlierVersionTest, IsOpenedAndBelievedNothingButPinsAndOrigins) {
  OpenStore();
  BlobSpec spec = first_.spec;
  spec.origins = {{"registry.example", "app"}};
  ASSERT_TRUE(store_->Open(spec).ok());
  CommitAll(first_, Evidence::kVerified);
  CommitAll(second_, Evidence::kVerified);
  ASSERT_TRUE(store_->Pin(first_.spec.digest).ok());
  struct stat mounted_file {};
  ::stat(store_->BlobPath(second_.spec.digest).c_str(), &mounted_file);
  store_.reset();
  MakeEarlier();
  mounted_ = {second_.spec.digest};
  OpenStore();
  EXPECT_FALSE(store_->open_report().rebuilt) << store_->open_report().reason;
  EXPECT_EQ(store_->open_report().blobs, 2u);
  EXPECT_EQ(store_->open_report().chunks_present, 0u);
  EXPECT_TRUE(store_->Stat(first_.spec.digest)->pinned);
  EXPECT_EQ(store_->Find(first_.spec.digest)->facts()->origins, spec.origins);
  EXPECT_EQ(store_->Stat(first_.spec.digest)->disk_bytes, 0u) << "the old bytes take up no room";
  EXPECT_FALSE(store_->Find(second_.spec.digest)->refused()) << "a mounted blob is filled again";
  struct stat now {};
  ::stat(store_->BlobPath(second_.spec.digest).c_str(), &now);
  EXPECT_EQ(now.st_ino, mounted_file.st_ino) << "the mount reads this very file";
  store_->Flush();
  EXPECT_TRUE(Noted("revoke " + second_.spec.digest.Short())) << "the kernel must ask";
  CommitAll(first_, Evidence::kVerified);
  CommitAll(second_, Evidence::kVerified);
  EXPECT_EQ(EarlierKeys(), 0u);
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, first_.chunk_count() + second_.chunk_count());
  ExpectTrue(second_);
}

TEST_F(DamageTest, IndexOfALaterVersionIsNotGuessedAt) {
  FillAndClose();
  IndexBatch batch;
  batch.Add({IndexBatch::Change::Kind::kPut, std::string("b\3") + std::string(32, 'x'), "\3"});
  ASSERT_TRUE((*OpenRocksIndex(index()))->Write(batch, Durability::kSynced).ok());
  ExpectRebuiltAndUsable();
}

TEST_F(DamageTest, HalfWrittenAndDamagedRecipesAreNotGivenOut) {
  const std::string recipes = temp_.path() + "/data/recipes/";
  const std::string file = recipes + first_.spec.digest.Hex();
  OpenStore();
  OpenBlob(first_);
  const std::string recipe(100'000, 'r');
  ASSERT_TRUE(store_->PutRecipe(first_.spec.digest, recipe).ok());
  std::ofstream(file + ".new") << "half";
  std::ofstream(recipes + second_.spec.digest.Hex()) << "of no blob";
  OpenStore();
  EXPECT_EQ(store_->GetRecipe(first_.spec.digest).value(), recipe);
  EXPECT_EQ(std::distance(fs::directory_iterator(recipes), fs::directory_iterator()), 1);
  for (const auto& damage : {Garble, Halve}) {
    ASSERT_TRUE(store_->PutRecipe(first_.spec.digest, recipe).ok());
    damage(file);
    EXPECT_TRUE(absl::IsNotFound(store_->GetRecipe(first_.spec.digest).status()));
  }
  ASSERT_TRUE(store_->PutRecipe(first_.spec.digest, "earlier").ok());
  for (const auto& [error, code] : {std::pair(EIO, absl::StatusCode::kUnavailable),
                                    std::pair(ENOSPC, absl::StatusCode::kResourceExhausted)}) {
    disk_.replace_errno = error;
    EXPECT_EQ(store_->PutRecipe(first_.spec.digest, recipe).code(), code);
    EXPECT_EQ(store_->GetRecipe(first_.spec.digest).value(), "earlier");
  }
}

TEST_F(DamageTest, FileRemovedUnderUsIsFoundByReadersAndFetchedAgain) {
  FillAndClose();
  OpenStore();
  fs::remove(store_->BlobPath(first_.spec.digest));
  EXPECT_TRUE(absl::IsDataLoss(store_->OpenForRead(first_.spec.digest).status()));
  EXPECT_FALSE(IsPresent(first_, 0));
  CommitAll(first_, Evidence::kVerified);
  store_->Flush();
  ExpectTrue(first_);
  FlushUntil([&] { return store_->IsSettled(first_.spec.digest); });
}

TEST_F(DamageTest, LostFileIsFoundBeforeItsBlobIsPutToUse) {
  FillAndClose();
  OpenStore();
  for (const SampleBlob* sample : {&first_, &second_}) fs::remove(store_->BlobPath(sample->spec.digest));
  store_->CheckFile(first_.spec.digest);
  store_->CheckFile(SampleBlob(3).spec.digest);
  EXPECT_FALSE(IsPresent(first_, 0));
  EXPECT_TRUE(IsPresent(second_, 0)) << "not asked for";
  EXPECT_TRUE(store_->Acquire(first_.spec.digest).ok());
  EXPECT_TRUE(fs::exists(store_->BlobPath(first_.spec.digest)));
}

TEST_F(DamageTest, FileRemovedBetweenWriteAndSyncIsNotClaimed) {
  OpenStore();
  ASSERT_TRUE(CommitChunk(first_, 0).ok());
  fs::remove(store_->BlobPath(first_.spec.digest));
  store_->Flush();
  EXPECT_FALSE(IsPresent(first_, 0));
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, 0u);
}

TEST_F(DamageTest, CheckFilesFindsWhatWasCutShortAndRefusesWhatIsInUse) {
  FillAndClose();
  OpenStore();
  EXPECT_EQ(store_->CheckFiles(), 0u);
  const absl::StatusOr<Blob::Lease> read = store_->Acquire(first_.spec.digest);
  ASSERT_TRUE(read.ok());
  const Blob::Lease mount(store_->Find(second_.spec.digest), Blob::Lease::OfFile::kYes);
  fs::resize_file(store_->BlobPath(first_.spec.digest), 100);
  fs::resize_file(store_->BlobPath(second_.spec.digest), 100);
  EXPECT_EQ(store_->CheckFiles(), 2u);
  EXPECT_EQ(store_->Find(first_.spec.digest)->presence().present_count(), 0u);
  EXPECT_FALSE(store_->Find(first_.spec.digest)->refused()) << "a read does not hold the file";
  EXPECT_TRUE(store_->Find(second_.spec.digest)->refused());
  EXPECT_EQ(store_->CheckFiles(), 0u);
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, 0u);
}

TEST_F(DamageTest, ChunksPastTheEndOfTheirBlob) {
  FillAndClose();
  {
    IndexBatch batch;
    PresenceSegment segment(first_.chunk_count() + 1);
    segment.present.Add(ChunkIndex(0));
    batch.PutSegment(BlobKey(first_.spec.digest), SegmentIndex(0), segment);
    ASSERT_TRUE((*OpenRocksIndex(index()))->Write(batch, Durability::kSynced).ok());
  }
  ExpectRebuiltAndUsable();
}

}  // namespace
}  // namespace sluice::index
