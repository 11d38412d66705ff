// What containerd's content store holds, taken into the store: by reflink, or read where it lies; and what
// becomes of it when somebody changes it.
#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/content_files.h"
#include "node/wall_clock.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

namespace fs = std::filesystem;

// Of a recipe what the store looks at.
class HashRecipe : public RecipeMaker {
 public:
  void Update(std::span<const std::byte> bytes) override {
    all_.insert(all_.end(), bytes.begin(), bytes.end());
  }
  absl::StatusOr<Made> Finish() override { return Made{Sha256Of(all_), "recipe"}; }

 private:
  std::vector<std::byte> all_;
};

class ImportTest : public StoreTest {
 protected:
  void SetUp() override {
    fs::create_directories(content() + "/blobs/sha256");
    disk_.on_clone = [](int, int) {
      errno = EOPNOTSUPP;
      return -1;
    };
  }

  std::string content() const { return temp_.path() + "/content"; }
  std::string PathOf(const SampleBlob& sample) const {
    return absl::StrCat(content(), "/blobs/sha256/", sample.spec.digest.Hex());
  }
  std::string OwnPathOf(const SampleBlob& sample) const {
    return absl::StrCat(temp_.path(), "/data/blobs/", sample.spec.digest.Hex());
  }

  void Open() {
    store_.reset();
    DiskStoreOptions options = Options();
    options.content_dir = has_content_ ? content() : "";
    options.make_recipe = [](uint32_t) { return std::make_unique<HashRecipe>(); };
    // What is written is old enough at once.
    options.wall_clock_ms = [] { return SystemWallClockMs() + 10'000; };
    absl::StatusOr<std::unique_ptr<DiskStore>> store = DiskStore::OpenStore(std::move(options));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  // As containerd does it.
  void Put(const SampleBlob& sample, const SampleBlob& contents) {
    const std::string ingest = content() + "/ingest";
    std::ofstream(ingest, std::ios::binary)
        .write(reinterpret_cast<const char*>(contents.bytes.data()),
               static_cast<std::streamsize>(contents.bytes.size()));
    fs::rename(ingest, PathOf(sample));
  }
  void Put(const SampleBlob& sample) { Put(sample, sample); }
  absl::StatusOr<ImportedAs> Import(const SampleBlob& sample) {
    return store_->Import(sample.spec.digest, {});
  }

  // Reads it through the store.
  std::string ReadAll(const SampleBlob& sample) {
    absl::StatusOr<FileDescriptor> fd = store_->OpenForRead(sample.spec.digest);
    if (!fd.ok()) return fd.status().ToString();
    std::string bytes(sample.bytes.size() + 1, '\0');
    const ssize_t got = ::pread(fd->get(), bytes.data(), bytes.size(), 0);
    bytes.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    return bytes;
  }
  static std::string TextOf(const SampleBlob& sample) {
    return {reinterpret_cast<const char*>(sample.bytes.data()), sample.bytes.size()};
  }
  void ExpectWhole(const SampleBlob& sample) {
    const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
    ASSERT_TRUE(blob);
    EXPECT_TRUE(blob->presence().complete());
    EXPECT_TRUE(store_->IsSettled(sample.spec.digest));
    EXPECT_TRUE(store_->IsImported(sample.spec.digest));
    EXPECT_EQ(blob->facts()->root, sample.spec.digest) << "the fake's root";
    EXPECT_TRUE(ReadAll(sample) == TextOf(sample));
  }
  void ExpectGone(const SampleBlob& sample) {
    const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
    EXPECT_TRUE(!blob || blob->presence().present_count() == 0);
  }
  // Whoever writes now leaves another time of change.
  void AwaitTick() {
    struct stat before {};
    const std::string probe = temp_.path() + "/tick";
    do {
      std::ofstream(probe) << "x";
      struct stat now {};
      ASSERT_EQ(::stat(probe.c_str(), &now), 0);
      if (before.st_ctim.tv_nsec == 0) before = now;
      if (now.st_ctim.tv_sec != before.st_ctim.tv_sec || now.st_ctim.tv_nsec != before.st_ctim.tv_nsec)
        return;
    } while (true);
  }

  bool has_content_ = true;
  const SampleBlob sample_{1, kChunkSizeDefault + 100}, other_{2, kChunkSizeDefault + 100};
};

TEST_F(ImportTest, IsReadWhereItLiesAndTakesUpNothing) {
  Open();
  Put(sample_);
  const absl::StatusOr<std::vector<Digest>> list = store_->ListContent();
  ASSERT_TRUE(list.ok());
  EXPECT_EQ(*list, std::vector<Digest>{sample_.spec.digest});
  const absl::StatusOr<ImportedAs> imported = Import(sample_);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(*imported, ImportedAs::kInPlace);
  ExpectWhole(sample_);
  EXPECT_FALSE(fs::exists(OwnPathOf(sample_)));
  EXPECT_EQ(store_->Stat(sample_.spec.digest)->disk_bytes, 0u);
  EXPECT_TRUE(store_->AllProven(*store_->Find(sample_.spec.digest),
                                store_->Find(sample_.spec.digest)->geometry().All()));
  EXPECT_EQ(*store_->GetRecipe(sample_.spec.digest), "recipe");
  EXPECT_TRUE(absl::IsAlreadyExists(Import(sample_).status()));
  EXPECT_FALSE(Noted("alarm"));
}

TEST_F(ImportTest, SharesItsRoomWhereTheFileSystemCan) {
  disk_.on_clone = [this](int to, int from) {
    std::vector<char> bytes(sample_.bytes.size());
    EXPECT_EQ(::pread(from, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(::pwrite(to, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return 0;
  };
  Open();
  Put(sample_);
  const absl::StatusOr<ImportedAs> imported = Import(sample_);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(*imported, ImportedAs::kReflinked);
  EXPECT_GT(store_->Stat(sample_.spec.digest)->disk_bytes, 0u);
  // It is the store's own from then on, and no link to theirs.
  struct stat own {};
  ASSERT_EQ(::stat(OwnPathOf(sample_).c_str(), &own), 0);
  EXPECT_EQ(own.st_nlink, 1u);
  fs::remove(PathOf(sample_));
  EXPECT_EQ(store_->CheckFiles(), 0u);
  ExpectWhole(sample_);
  Open();
  ExpectWhole(sample_);
}

TEST_F(ImportTest, IsFoundAgainAtStartWithoutBeingReadAgain) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  int reads = 0;
  disk_.on_read = [&reads] { ++reads; };
  Open();
  EXPECT_EQ(store_->open_report().files_lost, 0u);
  EXPECT_EQ(reads, 0);
  disk_.on_read = nullptr;
  ExpectWhole(sample_);
}

TEST_F(ImportTest, GoesWithContainerdsFile) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  fs::remove(PathOf(sample_));
  EXPECT_EQ(store_->CheckFiles(), 1u);
  store_->Flush();
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
  EXPECT_FALSE(fs::exists(OwnPathOf(sample_)));
  EXPECT_FALSE(Noted("alarm")) << "it was containerd's to take away";
  // And comes again with it.
  AwaitTick();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  ExpectWhole(sample_);
}

TEST_F(ImportTest, WhatVanishedWhileTheNodeWasDownIsAbsent) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  store_.reset();
  fs::remove(PathOf(sample_));
  Open();
  ExpectGone(sample_);
  EXPECT_EQ(store_->open_report().files_lost, 0u);
  EXPECT_FALSE(Noted("alarm"));
}

TEST_F(ImportTest, IsAbsentWhenImportingWasTurnedOff) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  has_content_ = false;
  Open();
  ExpectGone(sample_);
  EXPECT_TRUE(absl::IsNotFound(store_->ListContent().status()));
  EXPECT_FALSE(Noted("alarm"));
}

TEST_F(ImportTest, ChangedBytesAreNeverGivenThoughNameAndSizeAreTheSame) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  AwaitTick();
  {
    std::fstream file(PathOf(sample_), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(100);
    file << "others";
  }
  const absl::StatusOr<FileDescriptor> opened = store_->OpenForRead(sample_.spec.digest);
  EXPECT_TRUE(absl::IsDataLoss(opened.status())) << opened.status();
  ExpectGone(sample_);
  // Nor is it taken in again.
  store_->CheckFiles();
  EXPECT_TRUE(absl::IsDataLoss(Import(sample_).status()));
  ExpectGone(sample_);
}

TEST_F(ImportTest, AFileThatWasReplacedIsReadAgain) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  AwaitTick();
  Put(sample_);
  EXPECT_EQ(store_->CheckFiles(), 1u);
  ASSERT_TRUE(Import(sample_).ok());
  ExpectWhole(sample_);
}

TEST_F(ImportTest, WhatIsNotWhatItsNameSaysIsRefusedAndNotHashedAgain) {
  Open();
  Put(sample_, other_);
  EXPECT_TRUE(absl::IsDataLoss(Import(sample_).status()));
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
  int reads = 0;
  disk_.on_read = [&reads] { ++reads; };
  EXPECT_TRUE(absl::IsDataLoss(Import(sample_).status()));
  EXPECT_EQ(reads, 0);
  disk_.on_read = nullptr;
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  ExpectWhole(sample_);
}

TEST_F(ImportTest, WhatIsChangedWhileItIsReadIsNotTaken) {
  Open();
  Put(sample_);
  AwaitTick();
  disk_.on_read = [this] {
    disk_.on_read = nullptr;
    std::ofstream(PathOf(sample_), std::ios::binary | std::ios::app) << "more";
  };
  EXPECT_TRUE(absl::IsUnavailable(Import(sample_).status()));
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
}

TEST_F(ImportTest, WhatIsChangedBetweenHashAndCloneIsNotTaken) {
  disk_.on_clone = [this](int to, int) {
    std::fstream file(PathOf(sample_), std::ios::binary | std::ios::in | std::ios::out);
    file << "others";
    return ::pwrite(to, "others", 6, 0) == 6 ? 0 : -1;
  };
  Open();
  Put(sample_);
  AwaitTick();
  EXPECT_TRUE(absl::IsUnavailable(Import(sample_).status()));
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
  EXPECT_FALSE(fs::exists(OwnPathOf(sample_)));
}

TEST_F(ImportTest, WhatWasWrittenJustNowWaits) {
  store_.reset();
  DiskStoreOptions options = Options();
  options.content_dir = content();
  // By whatever the disk calls now.
  int64_t now_ms = 0;
  options.wall_clock_ms = [&now_ms] { return now_ms; };
  store_ = *DiskStore::OpenStore(std::move(options));
  Put(sample_);
  struct stat status {};
  ASSERT_EQ(::stat(PathOf(sample_).c_str(), &status), 0);
  const int64_t changed_ms = status.st_ctim.tv_sec * 1000 + status.st_ctim.tv_nsec / 1'000'000;
  now_ms = changed_ms + ContentImporter::kAgeMinMs - 1;
  EXPECT_TRUE(absl::IsUnavailable(Import(sample_).status()));
  now_ms = changed_ms + ContentImporter::kAgeMinMs;
  EXPECT_TRUE(Import(sample_).ok());
  store_.reset();
}

TEST_F(ImportTest, WhatIsEvictedIsNotTakenAgainFromTheSameFile) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  ASSERT_TRUE(store_->Evict(sample_.spec.digest, EvictReason::kRequested).ok());
  EXPECT_TRUE(fs::exists(PathOf(sample_))) << "it is containerd's";
  EXPECT_TRUE(absl::IsAlreadyExists(Import(sample_).status()));
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
}

TEST_F(ImportTest, WhatHasBegunToComeIsLeftToThatAndAnEmptyNameMakesWay) {
  Open();
  Put(sample_);
  Put(other_);
  const std::shared_ptr<Blob> blob = OpenBlob(sample_);
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(0), sample_.Chunk(0), Evidence::kUnverified).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Import(sample_).status()));
  EXPECT_TRUE(IsPresent(sample_, 0));
  ASSERT_TRUE(OpenBlob(other_));
  ASSERT_TRUE(Import(other_).ok());
  ExpectWhole(other_);
}

TEST_F(ImportTest, NobodyKnowsWhoMayHaveItBeforeItsRegistrySaysSo) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  const BlobKey key(sample_.spec.digest);
  const BlobOrigin origin{"registry.example", "team/app"};
  EXPECT_EQ(store_->AccessOf(key, origin), OriginAccess::kUnknown);
  // What another node says makes an entry beside.
  BlobSpec said = sample_.spec;
  said.chunk_size = kChunkSizeDefault;
  said.origins = {origin};
  said.is_hearsay = true;
  EXPECT_NE((*store_->Open(said))->key(), key);
  said.is_hearsay = false;
  EXPECT_EQ((*store_->Open(said))->key(), key);
  EXPECT_EQ(store_->AccessOf(key, origin), OriginAccess::kUnknown);
  store_->NoteAccess(key, origin, OriginAccess::kPublic);
  EXPECT_EQ(store_->AccessOf(key, origin), OriginAccess::kPublic);
}

TEST_F(ImportTest, ARepositoryThatOnlyNamesItHasNoRightByThatAfterARestartEither) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  const BlobKey key(sample_.spec.digest);
  const BlobOrigin origin{"registry.example", "team/app"};
  BlobSpec named = sample_.spec;
  named.chunk_size = kChunkSizeDefault;
  named.origins = {origin};
  ASSERT_TRUE(store_->Open(named).ok());
  Open();
  EXPECT_EQ(store_->AccessOf(key, origin), OriginAccess::kUnknown);
  EXPECT_EQ(store_->Stat(key)->origins.size(), 1u);
  ASSERT_TRUE(store_->ForgetOrigin(key, origin).ok());
  EXPECT_EQ(store_->Stat(key)->origins.size(), 0u);
  ExpectWhole(sample_);
}

TEST_F(ImportTest, BeforeAMountTheStoreHasAFileOfItsOwn) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  const absl::StatusOr<Blob::Lease> lease = store_->Acquire(sample_.spec.digest);
  ASSERT_TRUE(lease.ok());
  store_->MakeOwn(sample_.spec.digest);
  EXPECT_EQ(lease->blob().presence().present_count(), 0u);
  EXPECT_FALSE(store_->IsImported(sample_.spec.digest));
  EXPECT_TRUE(fs::exists(OwnPathOf(sample_)));
  store_->CheckFiles();
  EXPECT_TRUE(store_->Find(sample_.spec.digest)) << "somebody has a lease of it";
  EXPECT_TRUE(fs::exists(PathOf(sample_)));
}

TEST_F(ImportTest, AChunkThatTheDiskSpoiledIsHadAnewAndTheirFileIsNotWritten) {
  Open();
  Put(sample_);
  ASSERT_TRUE(Import(sample_).ok());
  const std::shared_ptr<Blob> blob = store_->Find(sample_.spec.digest);
  ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(0)).ok());
  const std::span<const std::byte> chunk = std::span(sample_.bytes).first(kChunkSizeDefault);
  // Their file is given up by this.
  EXPECT_TRUE(absl::IsUnavailable(store_->Commit(*blob, ChunkIndex(0), chunk, Evidence::kVerified)));
  EXPECT_TRUE(store_->Commit(*blob, ChunkIndex(0), chunk, Evidence::kVerified).ok());
  EXPECT_EQ(blob->presence().present_count(), 1u);
  std::ifstream theirs(PathOf(sample_), std::ios::binary);
  EXPECT_TRUE(std::string(std::istreambuf_iterator<char>(theirs), {}) == TextOf(sample_));
}

TEST_F(ImportTest, AFullDiskLeavesNothingBehind) {
  Open();
  Put(sample_);
  disk_.replace_errno = ENOSPC;  // of the recipe
  EXPECT_TRUE(absl::IsResourceExhausted(Import(sample_).status()));
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
  disk_.replace_errno = 0;
  disk_.on_clone = [](int, int) {
    errno = ENOSPC;
    return -1;
  };
  Open();
  EXPECT_TRUE(absl::IsResourceExhausted(Import(sample_).status()));
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
  EXPECT_FALSE(fs::exists(OwnPathOf(sample_)));
  disk_.on_clone = nullptr;
  ASSERT_TRUE(Import(sample_).ok());
  ExpectWhole(sample_);
}

TEST_F(ImportTest, BadContentIsNamedAndSkipped) {
  Open();
  const std::string folder = content() + "/blobs/sha256/";
  std::ofstream(folder + "ingest-1") << "half";
  std::ofstream(folder + std::string(63, 'a')) << "short name";
  EXPECT_TRUE(store_->ListContent()->empty());
  // Names that are right, and no files.
  fs::create_directory(PathOf(sample_));
  EXPECT_TRUE(absl::IsNotFound(Import(sample_).status()));
  std::ofstream(temp_.path() + "/elsewhere") << "x";
  fs::create_symlink(temp_.path() + "/elsewhere", PathOf(other_));
  EXPECT_TRUE(absl::IsNotFound(Import(other_).status()));
  const SampleBlob empty(3, 0);
  std::ofstream(PathOf(empty)).close();
  EXPECT_TRUE(absl::IsInvalidArgument(Import(empty).status()));
  fs::remove_all(content());
  EXPECT_TRUE(absl::IsNotFound(store_->ListContent().status()));
  EXPECT_TRUE(absl::IsNotFound(Import(sample_).status()));
}

TEST_F(ImportTest, AHashIsGivenUpWhenAsked) {
  Open();
  Put(sample_);
  const std::atomic<bool> stop{true};
  EXPECT_TRUE(absl::IsCancelled(store_->Import(sample_.spec.digest, stop).status()));
  EXPECT_FALSE(store_->Find(sample_.spec.digest));
}

}  // namespace
}  // namespace sluice::index
