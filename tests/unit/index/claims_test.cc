#include "index/claims.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/index/store_fixture.h"

namespace sluice::index {
namespace {

const BlobOrigin kTeamA{"registry.example", "team-a/app"};
const BlobOrigin kTeamB{"registry.example", "team-b/app"};
const BlobOrigin kTeamC{"registry.example", "team-c/app"};

BlobSpec Said(BlobSpec spec, const BlobOrigin& by, std::optional<Digest> root = std::nullopt) {
  spec.origins = {by};
  spec.root = root;
  return spec;
}

BlobRecord RecordOf(const BlobSpec& spec) {
  BlobRecord record;
  record.size = spec.size;
  record.chunk_size = spec.chunk_size;
  Learn(spec, &record);
  return record;
}

// --- Who may share an entry.

class MayShareTest : public ::testing::Test {
 protected:
  const SampleBlob sample_{1};
  const Digest root_ = Sha256Of(Content(9, 1)), other_root_ = Sha256Of(Content(8, 1));
  const BlobSpec a_ = Said(sample_.spec, kTeamA), b_ = Said(sample_.spec, kTeamB);
  const BlobSpec a_bound_ = Said(sample_.spec, kTeamA, root_), b_bound_ = Said(sample_.spec, kTeamB, root_);
};

TEST_F(MayShareTest, WithoutARootOnlyTheRepositoryItself) {
  EXPECT_TRUE(MayShare(RecordOf(a_), 3, a_));
  EXPECT_FALSE(MayShare(RecordOf(a_), 0, b_));
  EXPECT_TRUE(MayShare(RecordOf(a_), 3, sample_.spec)) << "what this node says itself";
}

TEST_F(MayShareTest, WithTheSameRootWhoeverSaysItUnlessAChunkIsUnverified) {
  BlobRecord given = RecordOf(a_bound_);
  given.access = {OriginAccess::kCredentials};
  EXPECT_TRUE(MayShare(given, 0, b_bound_));
  EXPECT_FALSE(MayShare(given, 1, b_bound_));
  EXPECT_TRUE(MayShare(given, 1, a_bound_));
}

TEST_F(MayShareTest, WhoWasGivenNothingYetIsNotJoined) {
  // It would be given what the next one gets, by whatever right that has.
  EXPECT_FALSE(MayShare(RecordOf(a_bound_), 0, b_bound_));
  BlobRecord shared = RecordOf(a_bound_);
  Learn(b_bound_, &shared);
  shared.access = {OriginAccess::kUnknown, OriginAccess::kPublic};
  EXPECT_FALSE(MayShare(shared, 0, Said(sample_.spec, {"registry.example", "third"}, root_)));
  EXPECT_TRUE(MayShare(shared, 0, b_bound_)) << "who is in it already";
}

TEST_F(MayShareTest, ARootIsNoWordForAnotherRepository) {
  EXPECT_FALSE(MayShare(RecordOf(a_), 0, b_bound_));
  EXPECT_FALSE(MayShare(RecordOf(a_bound_), 0, b_));
  EXPECT_TRUE(MayShare(RecordOf(a_), 0, a_bound_)) << "its own it may learn";
  BlobRecord shared = RecordOf(a_);
  Learn(b_, &shared);
  EXPECT_FALSE(MayShare(shared, 0, a_bound_)) << "but not for others";
}

BlobSpec Compressed(BlobSpec spec, uint64_t size = 9000) {
  spec.stored[spec.origins.front()] = {spec.digest, size, std::nullopt};
  return spec;
}

TEST_F(MayShareTest, WithoutARootOnlyWhatIsKeptAlike) {
  EXPECT_FALSE(MayShare(RecordOf(a_), 0, Compressed(a_)));
  EXPECT_FALSE(MayShare(RecordOf(Compressed(a_)), 0, a_));
  EXPECT_TRUE(MayShare(RecordOf(Compressed(a_)), 3, Compressed(a_, 8000)));
  EXPECT_TRUE(MayShare(RecordOf(Compressed(a_)), 3, sample_.spec)) << "what this node says itself";
}

TEST_F(MayShareTest, WithARootHoweverItIsKept) {
  EXPECT_TRUE(MayShare(RecordOf(a_bound_), 0, Compressed(a_bound_)));
  BlobRecord given = RecordOf(a_bound_);
  given.access = {OriginAccess::kPublic};
  EXPECT_TRUE(MayShare(given, 0, Compressed(b_bound_)));
}

TEST_F(MayShareTest, WhatIsProvenIsSharedUnlessItsFramesAreOfOtherChunks) {
  BlobRecord proven = RecordOf(a_);
  proven.proven = true;
  BlobSpec other = b_;
  other.chunk_size *= 2;
  EXPECT_TRUE(MayShare(proven, 0, other));
  EXPECT_TRUE(MayShare(proven, 0, Compressed(b_)));
  EXPECT_FALSE(MayShare(proven, 0, Compressed(other)));
}

TEST_F(MayShareTest, TheNewestManifestSaysHowARepositoryKeepsIt) {
  BlobRecord record = RecordOf(Compressed(a_bound_));
  Learn(Compressed(b_bound_, 7000), &record);
  Learn(Compressed(a_bound_, 8000), &record);
  EXPECT_EQ(record.stored.at(kTeamA).size, 8000u);
  EXPECT_EQ(record.stored.at(kTeamB).size, 7000u);
  Learn(a_bound_, &record);
  EXPECT_FALSE(record.stored.contains(kTeamA)) << "plain again";
  EXPECT_TRUE(record.stored.contains(kTeamB));
  Unlearn(kTeamB, &record);
  EXPECT_TRUE(record.stored.empty());
}

TEST_F(MayShareTest, AMountDoesNotBringBackWhatWasSaidBefore) {
  BlobRecord record = RecordOf(Compressed(a_bound_, 8000));
  LearnMounted(Compressed(a_bound_, 7000), &record);
  EXPECT_EQ(record.stored.at(kTeamA).size, 8000u);
  LearnMounted(Compressed(b_bound_, 7000), &record);
  EXPECT_EQ(record.stored.at(kTeamB).size, 7000u) << "but says it where nothing else is known";
  record = RecordOf(a_bound_);
  LearnMounted(Compressed(a_bound_), &record);
  EXPECT_TRUE(record.stored.empty());
}

TEST_F(MayShareTest, AnOriginThatIsDroppedLeavesNothingBehind) {
  BlobRecord record = RecordOf(Compressed(a_bound_));
  for (size_t i = 0; i < kOriginsMax; ++i)
    Learn(Said(sample_.spec, {"registry.example", std::to_string(i)}, root_), &record);
  ASSERT_EQ(record.origins.size(), kOriginsMax);
  EXPECT_TRUE(record.stored.empty());
}

TEST_F(MayShareTest, TheKeyOfAClaimSaysHowItIsKeptButNotWhatIsStored) {
  EXPECT_NE(KeyBeside(a_), KeyBeside(Compressed(a_)));
  EXPECT_EQ(KeyBeside(Compressed(a_)), KeyBeside(Compressed(a_, 8000)));
}

TEST_F(MayShareTest, WhatContradictsDoesNot) {
  const std::vector<std::function<void(BlobSpec&)>> changes = {
      [](BlobSpec& s) { s.size += 1; },
      [](BlobSpec& s) { s.chunk_size *= 2; },
      [&](BlobSpec& s) { s.root = other_root_; },
  };
  for (const auto& change : changes) {
    BlobSpec other = a_bound_;
    change(other);
    EXPECT_FALSE(MayShare(RecordOf(a_bound_), 0, other));
    EXPECT_NE(KeyBeside(other), KeyBeside(a_bound_));
  }
  EXPECT_NE(KeyBeside(a_), KeyBeside(b_));
}

TEST_F(MayShareTest, WhatIsProvenIsForAllOfTheRightSize) {
  BlobRecord proven = RecordOf(a_);
  proven.proven = true;
  BlobSpec other = b_bound_;
  other.chunk_size *= 2;
  EXPECT_TRUE(MayShare(proven, 0, other));
  EXPECT_FALSE(MayShare(proven, 1, other)) << "a chunk was fetched again, from one of them";
  other.size += 1;
  EXPECT_FALSE(MayShare(proven, 0, other));
}

TEST_F(MayShareTest, WhatANodeSaysIsSharedWhereItSaysNothingNew) {
  const StoredForm stored{Sha256Of(Content(7, 1)), 999, std::nullopt};
  const StoredForm other_stored{Sha256Of(Content(6, 1)), 999, std::nullopt};
  BlobSpec framed = a_bound_;
  framed.stored.emplace(kTeamA, stored);
  const auto heard = [](BlobSpec spec) {
    spec.is_hearsay = true;
    return spec;
  };
  for (const BlobSpec& said : {a_, a_bound_, framed}) {
    EXPECT_TRUE(MayShare(RecordOf(said), 3, heard(said)));
    EXPECT_TRUE(MayShare(RecordOf(heard(said)), 3, said));
    EXPECT_TRUE(MayShare(RecordOf(heard(said)), 3, heard(said)));
  }
  BlobSpec reframed = framed, coarser = a_bound_, longer = a_bound_;
  reframed.stored.at(kTeamA) = other_stored;
  coarser.chunk_size *= 2;
  longer.size += 1;
  const std::vector<BlobSpec> all = {a_,      a_bound_, framed,   reframed,
                                     coarser, longer,   b_bound_, Said(sample_.spec, kTeamA, other_root_)};
  for (const BlobSpec& known : all) {
    for (const BlobSpec& spec : all) {
      if (&known == &spec) continue;
      EXPECT_FALSE(MayShare(RecordOf(known), 0, heard(spec)));
      EXPECT_FALSE(MayShare(RecordOf(heard(known)), 0, spec));
      EXPECT_FALSE(MayShare(RecordOf(heard(known)), 0, heard(spec)));
    }
  }
}

TEST_F(MayShareTest, WhatANodeSaysOfWhatIsProvenIsSharedIfTheRepositoryIsKnown) {
  BlobRecord proven = RecordOf(a_bound_);
  proven.proven = true;
  BlobSpec heard = Said(sample_.spec, kTeamA, other_root_);
  heard.is_hearsay = true;
  EXPECT_TRUE(MayShare(proven, 0, heard));
  EXPECT_FALSE(MayShare(proven, 1, heard));
  heard.origins = {kTeamB};
  EXPECT_FALSE(MayShare(proven, 0, heard)) << "nobody has asked that repository";
}

TEST(Learn, HearsayChangesNothingAndAManifestEndsIt) {
  BlobSpec heard = Said(SampleBlob(1).spec, kTeamA);
  heard.is_hearsay = true;
  BlobRecord record = RecordOf(heard);
  EXPECT_TRUE(record.is_hearsay);
  EXPECT_EQ(record.origins, std::vector{kTeamA});
  Learn(Said(SampleBlob(1).spec, kTeamA), &record);
  EXPECT_FALSE(record.is_hearsay);
  Learn(Said(SampleBlob(1).spec, kTeamB), &record);
  const BlobRecord before = record;
  Learn(heard, &record);
  EXPECT_EQ(record, before);
}

TEST(Learn, TheNewestOriginComesFirstAndIsNeverTheOneThatIsDropped) {
  BlobSpec spec = SampleBlob(1).spec;
  BlobRecord record = RecordOf(Said(spec, kTeamA));
  record.access = {OriginAccess::kCredentials};
  for (size_t i = 0; i < kOriginsMax; ++i) {
    const BlobOrigin newest{"registry.example", std::to_string(i)};
    Learn(Said(spec, newest), &record);
    EXPECT_EQ(record.origins.front(), newest);
    EXPECT_EQ(record.origins.size(), record.access.size());
  }
  EXPECT_EQ(record.origins.size(), kOriginsMax);
  EXPECT_EQ(record.origins.back(), kTeamA) << "what it gave is here, and known by it";
  std::fill(record.access.begin(), record.access.end(), OriginAccess::kPublic);
  Learn(Said(spec, kTeamB), &record);
  EXPECT_EQ(record.origins.front(), kTeamB);
  EXPECT_EQ(std::count(record.origins.begin(), record.origins.end(), kTeamA), 0)
      << "of equals the oldest goes";
}

TEST(Learn, WhatIsHeardAgainMovesToTheFrontWithItsAccess) {
  BlobSpec spec = SampleBlob(1).spec;
  BlobRecord record = RecordOf(Said(spec, kTeamA));
  record.access = {OriginAccess::kCredentials};
  Learn(Said(spec, kTeamB), &record);
  EXPECT_EQ(record.access, (std::vector{OriginAccess::kUnknown, OriginAccess::kCredentials}));
  Learn(Said(spec, kTeamA), &record);
  EXPECT_EQ(record.origins, (std::vector{kTeamA, kTeamB}));
  EXPECT_EQ(record.access, (std::vector{OriginAccess::kCredentials, OriginAccess::kUnknown}));
}

TEST(Learn, AnOriginThatGaveNothingIsTakenBackAndNoOther) {
  BlobSpec spec = SampleBlob(1).spec;
  BlobRecord record = RecordOf(Said(spec, kTeamA));
  record.access = {OriginAccess::kCredentials};
  Learn(Said(spec, kTeamB), &record);
  for (const BlobOrigin& origin : {kTeamA, kTeamB, kTeamC}) Unlearn(origin, &record);
  EXPECT_EQ(record.origins, std::vector{kTeamA});
  EXPECT_EQ(record.access, std::vector{OriginAccess::kCredentials});
  record.access = {OriginAccess::kUnknown};
  Unlearn(kTeamA, &record);
  EXPECT_EQ(record.origins, std::vector{kTeamA}) << "somebody's it is";
}

TEST(Learn, ARootThatIsProvenOrAbsentFromWhatIsProvenIsNotChanged) {
  BlobRecord record = RecordOf(Said(SampleBlob(1).spec, kTeamA));
  record.proven = true;
  Learn(Said(SampleBlob(1).spec, kTeamB, Sha256Of(Content(9, 1))), &record);
  EXPECT_EQ(record.root, std::nullopt);
}

// --- In the store.

class ClaimsTest : public StoreTest {
 protected:
  std::shared_ptr<Blob> Open(const BlobSpec& spec) {
    const absl::StatusOr<std::shared_ptr<Blob>> blob = store_->Open(spec);
    EXPECT_TRUE(blob.ok()) << blob.status();
    return *blob;
  }
  absl::Status Fill(Blob& blob, const SampleBlob& with, Evidence evidence) {
    for (uint32_t i = 0; i < blob.geometry().chunk_count(); ++i) {
      absl::Status stored = store_->Commit(blob, ChunkIndex(i), with.Chunk(i), evidence);
      if (!stored.ok()) return stored;
    }
    return absl::OkStatus();
  }
  std::vector<std::byte> FileOf(const Blob& blob) {
    const absl::StatusOr<FileDescriptor> fd = store_->OpenForRead(blob.key());
    EXPECT_TRUE(fd.ok()) << fd.status();
    std::vector<std::byte> bytes(blob.geometry().size());
    EXPECT_EQ(::pread(fd->get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

  const SampleBlob sample_{1};
  const Digest root_ = Sha256Of(Content(9, 1)), other_root_ = Sha256Of(Content(8, 1));
};

TEST_F(ClaimsTest, ContradictingClaimsHaveAFileEachAndFailNobody) {
  OpenStore();
  const std::shared_ptr<Blob> first = Open(Said(sample_.spec, kTeamA, root_));
  EXPECT_EQ(first->key(), BlobKey(sample_.spec.digest));
  std::set<BlobKey> keys{first->key()};
  BlobSpec longer = Said(sample_.spec, kTeamB, root_);
  longer.size += 1;
  BlobSpec coarser = Said(sample_.spec, kTeamB, root_);
  coarser.chunk_size *= 2;
  for (const BlobSpec& claim :
       {longer, coarser, Said(sample_.spec, kTeamB, other_root_), Said(sample_.spec, kTeamC)}) {
    const std::shared_ptr<Blob> blob = Open(claim);
    EXPECT_TRUE(keys.insert(blob->key()).second);
    EXPECT_EQ(blob->digest(), sample_.spec.digest);
    EXPECT_EQ(blob->geometry().size(), claim.size);
    EXPECT_EQ(blob->facts()->root, claim.root);
    EXPECT_EQ(blob->facts()->origins, claim.origins);
    EXPECT_EQ(Open(claim), blob) << "who says the same again shares it";
  }
  // One that goes, and comes back, is among them once.
  ASSERT_TRUE(store_->Evict(Open(longer)->key(), EvictReason::kWatermark).ok());
  EXPECT_EQ(store_->KeysOf(sample_.spec.digest).size(), keys.size() - 1);
  EXPECT_TRUE(keys.contains(Open(longer)->key()));
  EXPECT_EQ(store_->KeysOf(sample_.spec.digest).size(), keys.size());
  EXPECT_EQ(store_->KeysOf(sample_.spec.digest).front(), first->key());
  OpenStore();
  EXPECT_EQ(store_->KeysOf(sample_.spec.digest).size(), keys.size());
  EXPECT_EQ(Open(coarser)->facts()->origins, coarser.origins);
  EXPECT_EQ(store_->open_report().orphans_removed, 0u);
}

TEST_F(ClaimsTest, PoisonOfOneRepositoryIsNotReadByAnother) {
  SampleBlob wrong(1);
  for (std::byte& byte : wrong.bytes) byte ^= std::byte{1};
  OpenStore();
  const std::shared_ptr<Blob> poisoned = Open(Said(sample_.spec, kTeamB));
  ASSERT_TRUE(Fill(*poisoned, wrong, Evidence::kUnverified).ok());
  const std::shared_ptr<Blob> mine = Open(Said(sample_.spec, kTeamA));
  EXPECT_EQ(mine->presence().present_count(), 0u);
  ASSERT_TRUE(Fill(*mine, sample_, Evidence::kUnverified).ok());
  EXPECT_EQ(FileOf(*mine), sample_.bytes);
  FlushUntil([&] { return store_->IsSettled(mine->key()) && poisoned->refused(); });
  EXPECT_FALSE(mine->refused());
  // The right one stays, for everybody; the other goes when nothing uses it.
  EXPECT_EQ(Open(Said(sample_.spec, kTeamB)), mine);
  EXPECT_EQ(Open(Said(sample_.spec, kTeamA, other_root_)), mine);
  ASSERT_TRUE(store_->Evict(poisoned->key(), EvictReason::kCorrupt).ok());
  EXPECT_EQ(store_->KeysOf(sample_.spec.digest), std::vector<BlobKey>{mine->key()});
  OpenStore();
  EXPECT_TRUE(store_->IsSettled(Open(Said(sample_.spec, kTeamB))->key()));
}

TEST_F(ClaimsTest, RefusalOfOneClaimIsNoneOfAnother) {
  SampleBlob wrong(1);
  wrong.bytes[70000] ^= std::byte{1};
  OpenStore();
  const std::shared_ptr<Blob> refused = Open(Said(sample_.spec, kTeamB));
  ASSERT_TRUE(Fill(*refused, wrong, Evidence::kUnverified).ok());
  FlushUntil([&] { return refused->refused(); });
  const std::shared_ptr<Blob> mine = Open(Said(sample_.spec, kTeamA));
  EXPECT_FALSE(mine->refused());
  EXPECT_EQ(Open(Said(sample_.spec, kTeamB)), refused);
}

TEST_F(ClaimsTest, ASharedBlobTakesNothingThatIsNotProven) {
  OpenStore();
  const std::shared_ptr<Blob> shared = Open(Said(sample_.spec, kTeamA, root_));
  store_->NoteAccess(shared->key(), kTeamA, OriginAccess::kPublic);
  ASSERT_TRUE(store_->Commit(*shared, ChunkIndex(0), sample_.Chunk(0), Evidence::kVerified).ok());
  ASSERT_EQ(Open(Said(sample_.spec, kTeamB, root_)), shared);
  EXPECT_EQ(shared->facts()->origins, (std::vector{kTeamA, kTeamB})) << "who has given nothing is asked last";
  store_->NoteAccess(shared->key(), kTeamB, OriginAccess::kPublic);
  EXPECT_EQ(shared->facts()->origins, (std::vector{kTeamB, kTeamA})) << "then the newest is asked first";
  const absl::Status unproven =
      store_->Commit(*shared, ChunkIndex(1), sample_.Chunk(1), Evidence::kUnverified);
  EXPECT_TRUE(absl::IsFailedPrecondition(unproven)) << unproven;
  EXPECT_FALSE(shared->presence().IsPresent(ChunkIndex(1)));
  EXPECT_TRUE(store_->Commit(*shared, ChunkIndex(1), sample_.Chunk(1), Evidence::kVerified).ok());
}

TEST_F(ClaimsTest, NobodyJoinsWhatHasUnverifiedChunksOfAnother) {
  OpenStore();
  const std::shared_ptr<Blob> theirs = Open(Said(sample_.spec, kTeamA, root_));
  store_->NoteAccess(theirs->key(), kTeamA, OriginAccess::kPublic);
  ASSERT_TRUE(store_->Commit(*theirs, ChunkIndex(0), sample_.Chunk(0), Evidence::kUnverified).ok());
  EXPECT_NE(Open(Said(sample_.spec, kTeamB, root_)), theirs);
}

TEST_F(ClaimsTest, OnlyTheWholeDigestSettlesAndAWrongRootIsFoundOut) {
  SampleBlob evil(1);
  evil.bytes[5] ^= std::byte{1};
  OpenStore();
  const std::shared_ptr<Blob> blob = Open(Said(sample_.spec, kTeamB, other_root_));
  // Each chunk matches the root that their manifest claims.
  ASSERT_TRUE(Fill(*blob, evil, Evidence::kVerified).ok());
  FlushUntil([&] { return blob->presence().present_count() == 0; });
  EXPECT_FALSE(blob->refused()) << "the disk may have changed it";
  EXPECT_FALSE(store_->IsSettled(blob->key()));
  ASSERT_TRUE(Fill(*blob, evil, Evidence::kVerified).ok());
  FlushUntil([&] { return blob->refused(); });
  EXPECT_FALSE(Open(Said(sample_.spec, kTeamA, root_))->refused());
}

TEST_F(ClaimsTest, ARootThatVouchedForAllChunksIsProvenWithThemAnotherIsDropped) {
  for (const Evidence evidence : {Evidence::kVerified, Evidence::kUnverified}) {
    const SampleBlob sample(evidence == Evidence::kVerified ? 2 : 3);
    OpenStore();
    const std::shared_ptr<Blob> blob = Open(Said(sample.spec, kTeamA, root_));
    ASSERT_TRUE(Fill(*blob, sample, evidence).ok());
    FlushUntil([&] { return store_->IsSettled(blob->key()); });
    EXPECT_EQ(blob->facts()->root.has_value(), evidence == Evidence::kVerified);
    OpenStore();
    EXPECT_EQ(store_->Find(blob->key())->facts()->root.has_value(), evidence == Evidence::kVerified);
    EXPECT_TRUE(store_->IsSettled(blob->key()));
  }
}

// Its root is the number of bytes that it was given.
class CountingMaker final : public RecipeMaker {
 public:
  void Update(std::span<const std::byte> bytes) override { count_ += bytes.size(); }
  absl::StatusOr<Made> Finish() override {
    return Made{Sha256Of(Content(count_, 1)), absl::StrCat("of ", count_, " bytes")};
  }

 private:
  uint64_t count_ = 0;
};

TEST_F(ClaimsTest, WhatNoRecipeHasProvenGetsOneOfItsOwnWhenItIsHashed) {
  DiskStoreOptions options = Options();
  options.make_recipe = [](uint32_t chunk_size) {
    EXPECT_EQ(chunk_size, kChunkSizeMin);
    return std::make_unique<CountingMaker>();
  };
  store_ = *DiskStore::OpenStore(options);
  const Digest made = Sha256Of(Content(sample_.spec.size, 1));
  const std::string recipe = absl::StrCat("of ", sample_.spec.size, " bytes");
  // Without a root, and with one that nobody could check.
  for (const bool claimed : {false, true}) {
    const BlobSpec spec =
        claimed ? Said(sample_.spec, kTeamA, other_root_) : Said(sample_.spec, kTeamA, std::nullopt);
    const std::shared_ptr<Blob> blob = Open(spec);
    ASSERT_TRUE(Fill(*blob, sample_, Evidence::kUnverified).ok());
    FlushUntil([&] { return store_->IsSettled(blob->key()); });
    EXPECT_EQ(blob->facts()->root, made);
    EXPECT_EQ(*store_->GetRecipe(blob->key()), recipe);
    ASSERT_TRUE(store_->Evict(blob->key(), EvictReason::kRequested).ok());
  }
  // One that a recipe has proven keeps its own.
  const std::shared_ptr<Blob> bound = Open(Said(sample_.spec, kTeamA, root_));
  ASSERT_TRUE(Fill(*bound, sample_, Evidence::kVerified).ok());
  FlushUntil([&] { return store_->IsSettled(bound->key()); });
  EXPECT_EQ(bound->facts()->root, root_);
  EXPECT_TRUE(absl::IsNotFound(store_->GetRecipe(bound->key()).status()));
}

TEST_F(ClaimsTest, AProvenSizeIsNobodysToContradict) {
  OpenStore();
  const std::shared_ptr<Blob> blob = Open(Said(sample_.spec, kTeamA));
  ASSERT_TRUE(Fill(*blob, sample_, Evidence::kUnverified).ok());
  FlushUntil([&] { return store_->IsSettled(blob->key()); });
  BlobSpec longer = Said(sample_.spec, kTeamB);
  longer.size += 1;
  const absl::Status refused = store_->Open(longer).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_NE(refused.message().find(std::to_string(sample_.spec.size)), std::string::npos);
}

TEST_F(ClaimsTest, AMountFindsItsOwnFileAgainWhateverElseIsClaimed) {
  OpenStore();
  const BlobSpec first = Said(sample_.spec, kTeamA, root_), second = Said(sample_.spec, kTeamB, other_root_);
  const BlobKey own = Open(first)->key(), beside = Open(second)->key();
  ASSERT_NE(own, beside);
  const std::string path = store_->BlobPath(beside);
  // The index is lost, and the second is asked for first.
  store_.reset();
  std::filesystem::remove_all(temp_.path() + "/data/index");
  mounted_ = {own.name(), beside.name()};
  OpenStore();
  EXPECT_EQ((*store_->OpenAs(beside, second))->key(), beside);
  EXPECT_EQ((*store_->OpenAs(own, first))->key(), own);
  EXPECT_EQ(Open(second)->key(), beside);
  EXPECT_EQ(store_->BlobPath(beside), path);
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->OpenAs(own, SampleBlob(7).spec).status()));
}

TEST_F(ClaimsTest, MountsThatShareAFileGoOnToWhenTheIndexIsLost) {
  OpenStore();
  const BlobSpec first = Said(sample_.spec, kTeamA), second = Said(sample_.spec, kTeamB);
  const std::shared_ptr<Blob> shared = Open(first);
  ASSERT_TRUE(Fill(*shared, sample_, Evidence::kUnverified).ok());
  FlushUntil([&] { return store_->IsSettled(shared->key()); });
  ASSERT_EQ(Open(second), shared);
  store_.reset();
  std::filesystem::remove_all(temp_.path() + "/data/index");
  mounted_ = {shared->key().name()};
  OpenStore();
  const std::shared_ptr<Blob> again = *store_->OpenAs(shared->key(), first);
  EXPECT_EQ(*store_->OpenAs(shared->key(), second), again);
  EXPECT_EQ(again->presence().present_count(), 0u);
  // Neither may now be given what only the other vouches for.
  EXPECT_TRUE(absl::IsFailedPrecondition(
      store_->Commit(*again, ChunkIndex(0), sample_.Chunk(0), Evidence::kUnverified)));
}

TEST_F(ClaimsTest, AFileThatAMountReadsIsNoOtherClaims) {
  OpenStore();
  const BlobKey own = Open(Said(sample_.spec, kTeamA))->key();
  store_.reset();
  std::filesystem::remove_all(temp_.path() + "/data/index");
  mounted_ = {own.name()};
  OpenStore();
  // The mount could not be taken up; whoever comes first is not to have its file.
  EXPECT_NE(Open(Said(sample_.spec, kTeamB))->key(), own);
  // Once it was, and has gone, its name is free.
  ASSERT_TRUE(store_->OpenAs(own, Said(sample_.spec, kTeamA)).ok());
  ASSERT_TRUE(store_->Evict(own, EvictReason::kRequested).ok());
  EXPECT_EQ(Open(Said(sample_.spec, kTeamC))->key(), own);
}

TEST_F(ClaimsTest, ContentsThatLookLikeAClaimTakeNoClaimsName) {
  // Its digest would be the claim's key, if that were the SHA-256 of the same text.
  const BlobSpec claim = Said(sample_.spec, kTeamB, other_root_);
  const std::string text =
      absl::StrCat("sluice claim 0\n", claim.digest.ToString(), "\n", claim.size, "\n", claim.chunk_size,
                   "\n", claim.root->Hex(), "\n", kTeamB.registry, "\n", kTeamB.repository, "\n");
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  EXPECT_NE(KeyBeside(claim), BlobKey(Sha256Of({bytes, bytes + text.size()})));
  EXPECT_NE(KeyBeside(claim, 0), KeyBeside(claim, 1));
}

TEST_F(ClaimsTest, WhoeverHasTheNameOfAClaimItHasAnother) {
  OpenStore();
  const BlobSpec claim = Said(sample_.spec, kTeamB, other_root_);
  BlobSpec squatter = SampleBlob(5).spec;
  squatter.digest = KeyBeside(claim).name();
  const std::shared_ptr<Blob> theirs = Open(squatter);
  ASSERT_EQ(theirs->key(), KeyBeside(claim));
  Open(Said(sample_.spec, kTeamA, root_));
  const std::shared_ptr<Blob> mine = Open(claim);
  EXPECT_EQ(mine->key(), KeyBeside(claim, 1));
  EXPECT_EQ(Open(claim), mine);
  ASSERT_TRUE(store_->Evict(theirs->key(), EvictReason::kRequested).ok());
  EXPECT_EQ(store_->KeysOf(sample_.spec.digest).size(), 2u);
  EXPECT_EQ(Open(claim), mine);
}

TEST_F(ClaimsTest, ClaimsOfOneDigestAreBounded) {
  OpenStore();
  for (size_t i = 0; i < kClaimsMax; ++i)
    Open(Said(sample_.spec, {"registry.example", absl::StrCat("r", i)}));
  const absl::Status more = store_->Open(Said(sample_.spec, kTeamA)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(more)) << more;
  EXPECT_NE(more.message().find("evict"), std::string::npos);
}

TEST_F(ClaimsTest, WhatANodeSaysIsNotWhatAnybodyHereReadsBy) {
  OpenStore();
  BlobSpec lie = Said(sample_.spec, kTeamA);
  lie.stored.emplace(kTeamA, StoredForm{Sha256Of(Content(7, 1)), 999, std::nullopt});
  lie.is_hearsay = true;
  SampleBlob wrong(1);
  for (std::byte& byte : wrong.bytes) byte ^= std::byte{1};
  const std::shared_ptr<Blob> theirs = Open(lie);
  EXPECT_TRUE(theirs->facts()->is_hearsay);
  ASSERT_TRUE(store_->Commit(*theirs, ChunkIndex(0), wrong.Chunk(0), Evidence::kUnverified).ok());
  BlobSpec truth = Said(sample_.spec, kTeamA);
  truth.stored.emplace(kTeamA, StoredForm{Sha256Of(Content(8, 1)), 999, std::nullopt});
  for (int restart = 0; restart < 2; ++restart) {
    const std::shared_ptr<Blob> mine = Open(truth);
    EXPECT_NE(mine->key(), Open(lie)->key());
    EXPECT_EQ(mine->presence().present_count(), 0u);
    EXPECT_EQ(mine->facts()->stored, truth.stored);
    EXPECT_FALSE(mine->facts()->is_hearsay);
    EXPECT_TRUE(Open(lie)->facts()->is_hearsay);
    OpenStore();
  }
}

TEST_F(ClaimsTest, WhatAManifestSaysTooIsHearsayNoMore) {
  OpenStore();
  BlobSpec heard = Said(sample_.spec, kTeamA, root_);
  heard.is_hearsay = true;
  const std::shared_ptr<Blob> blob = Open(heard);
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(0), sample_.Chunk(0), Evidence::kUnverified).ok());
  EXPECT_EQ(Open(Said(sample_.spec, kTeamA, root_)), blob) << "what it has is not fetched again";
  EXPECT_FALSE(blob->facts()->is_hearsay);
  EXPECT_EQ(Open(heard), blob);
  EXPECT_FALSE(blob->facts()->is_hearsay);
  OpenStore();
  EXPECT_FALSE(Open(heard)->facts()->is_hearsay);
}

TEST_F(ClaimsTest, WhatNodesSayIsBoundedAndLeavesRoomForManifests) {
  OpenStore();
  const auto heard = [&](size_t i) {
    BlobSpec spec = Said(sample_.spec, {"registry.example", absl::StrCat("r", i)});
    spec.is_hearsay = true;
    return spec;
  };
  for (size_t i = 0; i < kHearsayMax; ++i) Open(heard(i));
  EXPECT_TRUE(absl::IsResourceExhausted(store_->Open(heard(kHearsayMax)).status()));
  Open(Said(sample_.spec, kTeamA));
  Open(heard(0));
}

TEST_F(ClaimsTest, TheProvenOneIsTheBestOfADigest) {
  OpenStore();
  EXPECT_EQ(store_->FindBest(sample_.spec.digest), nullptr);
  const std::shared_ptr<Blob> own = Open(Said(sample_.spec, kTeamA));
  EXPECT_EQ(store_->FindBest(sample_.spec.digest), own);
  const std::shared_ptr<Blob> beside = Open(Said(sample_.spec, kTeamB));
  EXPECT_EQ(store_->FindBest(sample_.spec.digest), own);
  ASSERT_TRUE(Fill(*beside, sample_, Evidence::kUnverified).ok());
  FlushUntil([&] { return store_->IsSettled(beside->key()); });
  EXPECT_EQ(store_->FindBest(sample_.spec.digest), beside);
}

TEST_F(ClaimsTest, ClaimThatIsEvictedTakesItsFileAndItsRecipeAndNoOthers) {
  OpenStore();
  const std::shared_ptr<Blob> own = Open(Said(sample_.spec, kTeamA, root_));
  const std::shared_ptr<Blob> beside = Open(Said(sample_.spec, kTeamB, other_root_));
  ASSERT_TRUE(store_->PutRecipe(own->key(), "own").ok());
  ASSERT_TRUE(store_->PutRecipe(beside->key(), "beside").ok());
  EXPECT_EQ(*store_->GetRecipe(own->key()), "own");
  ASSERT_TRUE(store_->Evict(own->key(), EvictReason::kRequested).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->GetRecipe(own->key()).status()));
  EXPECT_EQ(*store_->GetRecipe(beside->key()), "beside");
  EXPECT_EQ(store_->KeysOf(sample_.spec.digest), std::vector<BlobKey>{beside->key()});
  // Its name is free for the next.
  EXPECT_EQ(Open(Said(sample_.spec, kTeamA, root_))->key(), own->key());
  EXPECT_EQ(Open(Said(sample_.spec, kTeamB, other_root_)), beside);
}

}  // namespace
}  // namespace sluice::index
