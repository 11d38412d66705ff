#include "index/disk_store.h"

#include <sys/resource.h>

#include <csignal>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

using DiskStoreTest = StoreTest;

size_t OpenFilesBelow(const std::string& directory) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry.path(), error).string().starts_with(directory + "/")) ++count;
  }
  return count;
}

TEST_F(DiskStoreTest, CommittedChunksAreServableAtOnceAndThereAfterReopening) {
  const SampleBlob sample(1);
  OpenStore();
  for (const uint32_t i : {0u, 2u, 5u}) ASSERT_TRUE(CommitChunk(sample, i).ok());
  EXPECT_TRUE(IsPresent(sample, 2));
  ExpectTrue(sample);
  OpenStore();
  EXPECT_EQ(store_->open_report().blobs, 1u);
  EXPECT_EQ(store_->open_report().chunks_present, 3u);
  EXPECT_FALSE(store_->open_report().rebuilt);
  for (uint32_t i = 0; i < sample.chunk_count(); ++i)
    EXPECT_EQ(IsPresent(sample, i), i == 0 || i == 2 || i == 5) << i;
  ExpectTrue(sample);
  EXPECT_EQ(std::filesystem::file_size(store_->BlobPath(sample.spec.digest)), sample.spec.size);
}

TEST_F(DiskStoreTest, SecondStoreOnTheSameDirectoryIsRefused) {
  OpenStore();
  const absl::Status second = DiskStore::OpenStore(Options()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
}

TEST_F(DiskStoreTest, SpecsOutOfBoundsAreRefused) {
  OpenStore();
  BlobSpec empty = SampleBlob(2).spec;
  empty.size = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(store_->Open(empty).status()));
  BlobSpec odd = SampleBlob(2).spec;
  odd.chunk_size = 12345;
  EXPECT_TRUE(absl::IsInvalidArgument(store_->Open(odd).status()));
}

TEST_F(DiskStoreTest, RootAndOriginsAreLearnedLaterAndKept) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  BlobSpec fuller = sample.spec;
  fuller.root = Sha256Of(Content(9, 1));
  fuller.origins = {{"registry.example", "app"}};
  const std::shared_ptr<Blob> learned = *store_->Open(fuller);
  EXPECT_EQ(learned->facts()->root, fuller.root);
  EXPECT_EQ(learned->facts()->origins, fuller.origins);
  EXPECT_TRUE(learned->presence().IsPresent(ChunkIndex(1)));
  EXPECT_EQ(learned->unverified_count(), 1u);
  OpenStore();
  EXPECT_EQ(store_->Find(sample.spec.digest)->facts()->root, fuller.root);
  EXPECT_EQ(store_->Find(sample.spec.digest)->facts()->origins, fuller.origins);
  EXPECT_TRUE(store_->Stat(sample.spec.digest)->root_known);
}

TEST_F(DiskStoreTest, HowABlobWasGotIsKeptWithItsOriginAndCredentialsOutweighHearsay) {
  const SampleBlob sample(1);
  const BlobOrigin app{"registry.example", "app"}, other{"registry.example", "other"};
  OpenStore();
  BlobSpec spec = sample.spec;
  spec.root = Sha256Of(Content(9, 1));  // all three claim the same
  spec.origins = {app, other};
  ASSERT_TRUE(store_->Open(spec).ok());
  const auto note = [&](const BlobOrigin& origin, OriginAccess access) {
    store_->NoteAccess(spec.digest, origin, access);
    return store_->AccessOf(spec.digest, origin);
  };
  EXPECT_EQ(store_->AccessOf(spec.digest, app), OriginAccess::kUnknown);
  EXPECT_EQ(note(app, OriginAccess::kHearsay), OriginAccess::kHearsay);
  EXPECT_EQ(note(app, OriginAccess::kCredentials), OriginAccess::kCredentials);
  EXPECT_EQ(note(app, OriginAccess::kHearsay), OriginAccess::kCredentials);
  EXPECT_EQ(note(other, OriginAccess::kPublic), OriginAccess::kPublic);
  EXPECT_EQ(note(other, OriginAccess::kCredentials), OriginAccess::kPublic);
  EXPECT_EQ(note({"registry.example", "a stranger's"}, OriginAccess::kPublic), OriginAccess::kUnknown);
  // Nor is it public by a member's word under a third name.
  const BlobOrigin third{"registry.example", "third"};
  spec.origins = {third};
  ASSERT_TRUE(store_->Open(spec).ok());
  EXPECT_EQ(note(third, OriginAccess::kHearsay), OriginAccess::kUnknown);
  OpenStore();
  EXPECT_EQ(store_->AccessOf(spec.digest, app), OriginAccess::kCredentials);
  EXPECT_EQ(store_->AccessOf(spec.digest, other), OriginAccess::kPublic);
  // An origin that is learned later is unknown, and takes nothing from the others.
  spec.origins = {{"mirror.example", "app"}};
  ASSERT_TRUE(store_->Open(spec).ok());
  EXPECT_EQ(store_->AccessOf(spec.digest, spec.origins[0]), OriginAccess::kUnknown);
  EXPECT_EQ(store_->AccessOf(spec.digest, other), OriginAccess::kPublic);
}

TEST_F(DiskStoreTest, WhatWasHereBeforeAccessWasKnownIsPublicByTheRegistrysWordAlone) {
  const SampleBlob sample(1), registered(2);
  const BlobOrigin app{"registry.example", "app"};
  OpenStore();
  for (const SampleBlob* blob : {&sample, &registered}) {
    BlobSpec spec = blob->spec;
    spec.origins = {app};
    ASSERT_TRUE(store_->Open(spec).ok());
  }
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  OpenStore();
  store_->NoteAccess(sample.spec.digest, app, OriginAccess::kHearsay);
  EXPECT_FALSE(IsPublic(store_->AccessOf(sample.spec.digest, app)));
  store_->NoteAccess(sample.spec.digest, app, OriginAccess::kPublic);
  EXPECT_TRUE(IsPublic(store_->AccessOf(sample.spec.digest, app)));
  // Of this one nothing is here that could be anybody's.
  store_->NoteAccess(registered.spec.digest, app, OriginAccess::kHearsay);
  EXPECT_TRUE(IsPublic(store_->AccessOf(registered.spec.digest, app)));
}

TEST_F(DiskStoreTest, OnlyPresentAndProvenChunksCountAsProven) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  ASSERT_TRUE(CommitChunk(sample, 1, Evidence::kUnverified).ok());
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  EXPECT_TRUE(store_->AllProven(*blob, {ChunkIndex(0), 1}));
  EXPECT_FALSE(store_->AllProven(*blob, {ChunkIndex(0), 2})) << "unverified";
  EXPECT_FALSE(store_->AllProven(*blob, {ChunkIndex(2), 1})) << "absent";
  ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(0)).ok());
  EXPECT_FALSE(store_->AllProven(*blob, {ChunkIndex(0), 1})) << "taken back";
  // The whole digest proves every chunk.
  CommitAll(sample);
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
  EXPECT_TRUE(store_->AllProven(*blob, blob->geometry().All()));
  ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok());
  EXPECT_FALSE(store_->AllProven(*blob, {ChunkIndex(0), 1})) << "evicted";
}

TEST_F(DiskStoreTest, BetterEvidenceIsRecordedAndReplacesWrongBytes) {
  const SampleBlob sample(1);
  const SampleBlob wrong(2);
  OpenStore();
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(0), sample.Chunk(0), Evidence::kUnverified).ok());
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(1), wrong.Chunk(1), Evidence::kUnverified).ok());
  store_->Flush();
  EXPECT_EQ(blob->unverified_count(), 2u);
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(0), sample.Chunk(0), Evidence::kVerified).ok());
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(1), sample.Chunk(1), Evidence::kVerified).ok());
  EXPECT_EQ(blob->unverified_count(), 0u);
  EXPECT_TRUE(Noted("revoke")) << "the wrong bytes were taken back before they were overwritten";
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(1), wrong.Chunk(1), Evidence::kUnverified).ok());
  ExpectTrue(sample);
  OpenStore();
  EXPECT_EQ(store_->Find(sample.spec.digest)->unverified_count(), 0u);
  ExpectTrue(sample);
}

TEST_F(DiskStoreTest, BlobOfVerifiedChunksIsAnnouncedOnlyAfterItsSync) {
  const SampleBlob sample(1);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  EXPECT_FALSE(store_->IsSettled(sample.spec.digest));
  EXPECT_TRUE(Notes().empty());
  // Verified chunks match a root that somebody has claimed; only the whole digest settles.
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest) && Noted("complete"); });
  EXPECT_EQ(Notes(), std::vector<std::string>{"complete " + sample.spec.digest.Short()});
}

TEST_F(DiskStoreTest, UnverifiedBlobIsHashedWholeThenAnnounced) {
  const SampleBlob sample(1, 3'000'000);
  OpenStore();
  CommitAll(sample);
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest) && Noted("complete"); });
  EXPECT_EQ(store_->Stat(sample.spec.digest)->state, BlobState::kVerifiedWhole);
  OpenStore();
  EXPECT_TRUE(store_->IsSettled(sample.spec.digest));
}

TEST_F(DiskStoreTest, WrongWholeDigestRefusesReadsAfterRestartTooUntilEvicted) {
  const SampleBlob sample(1);
  SampleBlob wrong(1);
  wrong.bytes[70000] ^= std::byte{1};
  OpenStore();
  CommitAll(wrong);
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  FlushUntil([&] { return telemetry_.blobs_refused.value() == 1; });
  EXPECT_TRUE(blob->refused());
  EXPECT_TRUE(Noted("alarm"));
  EXPECT_FALSE(Noted("complete"));
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(store_->Find(sample.spec.digest)->refused());
    EXPECT_EQ(store_->Find(sample.spec.digest)->presence().present_count(), 0u);
    EXPECT_TRUE(absl::IsDataLoss(store_->OpenForRead(sample.spec.digest).status()));
    EXPECT_TRUE(absl::IsDataLoss(store_->Acquire(sample.spec.digest).status()));
    EXPECT_TRUE(absl::IsDataLoss(CommitChunk(sample, 0)));
    OpenStore();
  }
  ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kCorrupt).ok());
  CommitAll(sample);
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
}

TEST_F(DiskStoreTest, UnfinishedHashingIsTakenUpAfterRestart) {
  const SampleBlob sample(1);
  OpenStore();
  disk_.read_errno = EIO;  // the hasher gets nowhere, and one chunk is taken back
  CommitAll(sample);
  FlushUntil([&] { return Noted("alarm"); });
  EXPECT_FALSE(store_->Find(sample.spec.digest)->refused()) << "a disk that can't be read proves nothing";
  disk_.read_errno = 0;
  CommitAll(sample);
  store_->Stop();
  OpenStore();
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
}

TEST_F(DiskStoreTest, RevokeTakesBitThenKernelsRightThenClaim) {
  const SampleBlob sample(1);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  ASSERT_TRUE(store_->Revoke(*blob, ChunkIndex(2)).ok());
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(2)));
  EXPECT_FALSE(store_->IsSettled(sample.spec.digest));
  EXPECT_EQ(Notes().back(), "revoke " + sample.spec.digest.Short());
  OpenStore();
  EXPECT_FALSE(IsPresent(sample, 2));
  EXPECT_EQ(store_->open_report().chunks_present, sample.chunk_count() - 1);
  ASSERT_TRUE(CommitChunk(sample, 2, Evidence::kVerified).ok());
  FlushUntil([&] { return Notes().back() == "complete " + sample.spec.digest.Short(); });
  EXPECT_TRUE(store_->IsSettled(sample.spec.digest));
}

TEST_F(DiskStoreTest, EvictRefusesLeasedAndPinnedThenFreesTheSpace) {
  const SampleBlob sample(1);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  ASSERT_TRUE(store_->PutRecipe(sample.spec.digest, "recipe").ok());
  store_->Flush();
  EXPECT_GE(telemetry_.cache_size_bytes.value(), static_cast<int64_t>(sample.spec.size));
  {
    const absl::StatusOr<Blob::Lease> lease = store_->Acquire(sample.spec.digest);
    ASSERT_TRUE(lease.ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(store_->Evict(sample.spec.digest, EvictReason::kRequested)));
    EXPECT_EQ(store_->Find(sample.spec.digest)->presence().present_count(), sample.chunk_count());
  }
  ASSERT_TRUE(store_->Pin(sample.spec.digest).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Evict(sample.spec.digest, EvictReason::kWatermark)));
  OpenStore();
  EXPECT_TRUE(store_->Stat(sample.spec.digest)->pinned);
  ASSERT_TRUE(store_->Unpin(sample.spec.digest).ok());

  const std::shared_ptr<Blob> held = store_->Find(sample.spec.digest);
  ASSERT_TRUE(store_->Evict(sample.spec.digest, EvictReason::kRequested).ok());
  EXPECT_EQ(held->presence().present_count(), 0u);
  EXPECT_TRUE(absl::IsNotFound(store_->Commit(*held, ChunkIndex(0), sample.Chunk(0), Evidence::kUnverified)));
  EXPECT_EQ(store_->Find(sample.spec.digest), nullptr);
  EXPECT_TRUE(absl::IsNotFound(store_->Evict(sample.spec.digest, EvictReason::kRequested)));
  EXPECT_TRUE(absl::IsNotFound(store_->GetRecipe(sample.spec.digest).status()));
  EXPECT_FALSE(std::filesystem::exists(store_->BlobPath(sample.spec.digest)));
  EXPECT_GE(telemetry_.evicted_bytes[static_cast<size_t>(EvictReason::kRequested)].value(), sample.spec.size);
  OpenStore();
  EXPECT_EQ(store_->Find(sample.spec.digest), nullptr);
}

TEST_F(DiskStoreTest, VerifyFindsBitRotByRecipe) {
  const SampleBlob sample(1);
  SampleVerifier verifier(sample);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  store_->Flush();
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->ok, sample.chunk_count());
  Overwrite(sample, 3, "rot");
  const absl::StatusOr<VerifyReport> report = store_->Verify(sample.spec.digest, verifier);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->checked, sample.chunk_count());
  EXPECT_EQ(report->bad, 1u);
  EXPECT_FALSE(IsPresent(sample, 3));
  EXPECT_EQ(telemetry_.verify_failures[static_cast<size_t>(SourceKind::kLocal)].value(), 1u);
  OpenStore();
  EXPECT_FALSE(IsPresent(sample, 3));
  ASSERT_TRUE(CommitChunk(sample, 3, Evidence::kVerified).ok());
  ExpectTrue(sample);
}

TEST_F(DiskStoreTest, VerifyThatNobodyWaitsForAnyMoreEndsAndTakesNothingBack) {
  const SampleBlob sample(1);
  SampleVerifier verifier(sample);
  OpenStore();
  CommitAll(sample, Evidence::kVerified);
  store_->Flush();
  int looks = 0;
  const CancelCheck gone([&] { return ++looks > 2; });
  EXPECT_TRUE(absl::IsCancelled(store_->Verify(sample.spec.digest, verifier, gone).status()));
  EXPECT_EQ(looks, 3) << "it went on";
  EXPECT_TRUE(IsPresent(sample, 0));
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->ok, sample.chunk_count());
}

TEST_F(DiskStoreTest, VerifyTellsHowFarItIs) {
  const SampleBlob sample(1);
  SampleVerifier verifier(sample);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0, Evidence::kVerified).ok());
  ASSERT_TRUE(CommitChunk(sample, 2, Evidence::kVerified).ok());
  store_->Flush();
  Overwrite(sample, 2, "rot");
  std::vector<VerifyProgress> told;
  const auto note = [&](const VerifyProgress& progress) { told.push_back(progress); };
  ASSERT_TRUE(store_->Verify(sample.spec.digest, verifier, {}, note).ok());
  const uint64_t chunk = sample.spec.chunk_size;
  ASSERT_EQ(told.size(), 3u);
  EXPECT_EQ(told[0].read_bytes, 0u);
  EXPECT_EQ(told[0].total_bytes, 2 * chunk);
  EXPECT_EQ(told[1].read_bytes, chunk);
  EXPECT_EQ(told[1].found.ok, 1u);
  EXPECT_EQ(told[1].found.bad, 0u);
  EXPECT_EQ(told[2].read_bytes, 2 * chunk);
  EXPECT_EQ(told[2].total_bytes, 2 * chunk);
  EXPECT_EQ(told[2].found.bad, 1u);
}

TEST_F(DiskStoreTest, VerifyThatHashesTheWholeFileTooTellsOfBoth) {
  const SampleBlob sample(1);
  NoVerifier verifier;
  OpenStore();
  CommitAll(sample);
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
  std::vector<VerifyProgress> told;
  const auto note = [&](const VerifyProgress& progress) { told.push_back(progress); };
  ASSERT_TRUE(store_->Verify(sample.spec.digest, verifier, {}, note).ok());
  ASSERT_GT(told.size(), sample.chunk_count() + 1);
  EXPECT_EQ(told.back().read_bytes, 2 * sample.spec.size);
  EXPECT_EQ(told.back().total_bytes, 2 * sample.spec.size);
  for (size_t i = 1; i < told.size(); ++i) {
    EXPECT_GT(told[i].read_bytes, told[i - 1].read_bytes);
    EXPECT_LE(told[i].read_bytes, told[i].total_bytes);
  }
}

TEST_F(DiskStoreTest, VerifyProvesWhatARecipeBoundLaterCovers) {
  const SampleBlob sample(1);
  SampleVerifier verifier(sample);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  ASSERT_TRUE(CommitChunk(sample, 1).ok());
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->ok, 2u);
  EXPECT_EQ(store_->Find(sample.spec.digest)->unverified_count(), 0u);
  OpenStore();
  EXPECT_EQ(store_->Find(sample.spec.digest)->unverified_count(), 0u);
}

TEST_F(DiskStoreTest, VerifyWithoutRecipeHoldsTheWholeFileAgainstTheDigest) {
  const SampleBlob sample(1);
  NoVerifier verifier;
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->unverifiable, 1u);
  CommitAll(sample);
  FlushUntil([&] { return store_->IsSettled(sample.spec.digest); });
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->ok, sample.chunk_count());
  Overwrite(sample, 3, "rot");
  EXPECT_EQ(store_->Verify(sample.spec.digest, verifier)->bad, sample.chunk_count());
  EXPECT_EQ(store_->Find(sample.spec.digest)->presence().present_count(), 0u);
  EXPECT_FALSE(store_->Find(sample.spec.digest)->refused()) << "it was right once: rot, not a lie";
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, 0u);
}

TEST_F(DiskStoreTest, RecipesAreKeptAndBounded) {
  const Digest digest = SampleBlob(1).spec.digest;
  OpenStore();
  OpenBlob(SampleBlob(1));
  EXPECT_TRUE(absl::IsNotFound(store_->GetRecipe(digest).status()));
  const std::string recipe(kRecipeBytesMax, 'r');
  ASSERT_TRUE(store_->PutRecipe(digest, "first").ok());
  ASSERT_TRUE(store_->PutRecipe(digest, recipe).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(store_->PutRecipe(digest, recipe + "r")));
  OpenStore();
  EXPECT_EQ(store_->GetRecipe(digest).value(), recipe);
}

TEST_F(DiskStoreTest, WhenABlobWasFoundPublicIsKeptAndRenewedByWhatIsNewsAlone) {
  const SampleBlob sample(1);
  const Digest& digest = sample.spec.digest;
  const BlobOrigin app{"registry.example", "app"}, other{"registry.example", "other"};
  int64_t now = 1'000'000'000'000;
  DiskStoreOptions options = Options();
  options.wall_clock_ms = [&] { return now; };
  store_ = *DiskStore::OpenStore(options);
  BlobSpec spec = sample.spec;
  spec.root = Sha256Of(Content(9, 1));
  spec.origins = {app, other};
  ASSERT_TRUE(store_->Open(spec).ok());
  EXPECT_EQ(store_->FoundPublicAt(digest, app), 0);
  store_->NoteAccess(digest, app, OriginAccess::kCredentials);
  EXPECT_EQ(store_->FoundPublicAt(digest, app), 0);
  // A member tells how long ago the registry said it: to hear that again and again tells nothing new.
  EXPECT_EQ(store_->PublicAge(digest, other), AccessLedger::kLongAgo);
  store_->NoteHearsay(digest, other, std::chrono::hours(3));
  EXPECT_EQ(store_->FoundPublicAt(digest, other), now - 3 * 3'600'000);
  EXPECT_EQ(store_->AccessOf(digest, other), OriginAccess::kUnknown) << "app's needed credentials";
  const int64_t first = now;
  store_->NoteHearsay(digest, other, std::chrono::seconds(0));
  store_->NoteAccess(digest, app, OriginAccess::kPublic);
  now += 3'600'000;
  store_->NoteHearsay(digest, other, std::chrono::hours(1));
  store_->NoteHearsay(digest, other, AccessLedger::kLongAgo);
  store_->NoteAccess(digest, app, OriginAccess::kPublic);
  EXPECT_EQ(store_->PublicAge(digest, other), std::chrono::hours(1));
  EXPECT_EQ(store_->PublicAge(digest, app), std::chrono::hours(0));
  EXPECT_EQ(store_->FoundPublicAt(digest, other), first);
  EXPECT_EQ(store_->FoundPublicAt(digest, app), now);
  // What is older tells nothing new.
  store_->NoteAccess(digest, app, OriginAccess::kPublic, first);
  EXPECT_EQ(store_->FoundPublicAt(digest, app), now);
  store_.reset();
  store_ = *DiskStore::OpenStore(options);
  EXPECT_EQ(store_->FoundPublicAt(digest, other), first);
  EXPECT_EQ(store_->FoundPublicAt(digest, app), now);
  // A clock that was ahead does not keep what is found from then on from being noted.
  now -= 1'800'000;
  EXPECT_EQ(store_->PublicAge(digest, app), AccessLedger::kLongAgo);
  store_->NoteAccess(digest, app, OriginAccess::kPublic);
  EXPECT_EQ(store_->FoundPublicAt(digest, app), now);
}

TEST_F(DiskStoreTest, OrderOfAccessSurvivesAClockThatJumps) {
  const SampleBlob first(1), second(2), third(3);
  int64_t now = 1'000'000;
  DiskStoreOptions options = Options();
  options.wall_clock_ms = [&] { return now; };
  store_ = *DiskStore::OpenStore(options);
  for (const SampleBlob* sample : {&first, &second, &third}) OpenBlob(*sample);
  store_->Touch(first.spec.digest);
  now += 10 * 24 * 3'600'000;
  store_->Touch(second.spec.digest);
  now -= 20 * int64_t{24} * 3'600'000;
  store_->Touch(third.spec.digest);
  store_.reset();
  OpenStore();
  EXPECT_LT(store_->Stat(first.spec.digest)->last_access_ms,
            store_->Stat(second.spec.digest)->last_access_ms);
  EXPECT_LT(store_->Stat(second.spec.digest)->last_access_ms,
            store_->Stat(third.spec.digest)->last_access_ms);
}

TEST_F(DiskStoreTest, AThousandLargeBlobsKeepFewFilesOpen) {
  constexpr uint64_t kSize = uint64_t{1} << 30;
  const std::vector<std::byte> chunk = Content(1, kChunkSizeDefault);
  std::vector<Digest> digests;
  OpenStore();
  for (uint64_t i = 0; i < 1000; ++i) {
    digests.push_back(Sha256Of(Content(i, 16)));
    const std::shared_ptr<Blob> blob =
        *store_->Open({digests.back(), kSize, kChunkSizeDefault, std::nullopt, {}});
    ASSERT_TRUE(
        store_->Commit(*blob, ChunkIndex(static_cast<uint32_t>(i * 4)), chunk, Evidence::kVerified).ok());
    if (i % 100 == 99) store_->Flush();
  }
  EXPECT_LE(OpenFilesBelow(store_->blobs_dir()), 256u);
  OpenStore();
  EXPECT_EQ(OpenFilesBelow(store_->blobs_dir()), 0u);
  EXPECT_EQ(store_->open_report().blobs, 1000u);
  EXPECT_EQ(store_->open_report().chunks_present, 1000u);
  for (uint32_t i = 0; i < 1000; ++i) {
    EXPECT_TRUE(store_->Find(digests[i])->presence().IsPresent(ChunkIndex(i * 4)));
  }
  const std::vector<BlobInfo> list = store_->List();
  EXPECT_EQ(list.size(), 1000u);
  EXPECT_EQ(list[0].present_bytes, kChunkSizeDefault);
}

TEST_F(DiskStoreTest, PresentBytesCountTheShortLastChunk) {
  const SampleBlob sample(1);
  OpenStore();
  CommitAll(sample);
  EXPECT_EQ(store_->Stat(sample.spec.digest)->present_bytes, sample.spec.size);
}

TEST_F(DiskStoreTest, StopIsIdempotentClaimsWhatWasCommittedAndEndsCommits) {
  const SampleBlob sample(1);
  OpenStore();
  ASSERT_TRUE(CommitChunk(sample, 0).ok());
  store_->Stop();
  store_->Stop();
  store_->Flush();
  EXPECT_TRUE(absl::IsUnavailable(CommitChunk(sample, 1)));
  OpenStore();
  EXPECT_TRUE(IsPresent(sample, 0));
  EXPECT_FALSE(IsPresent(sample, 1));
}

TEST_F(DiskStoreTest, ConcurrentCommitsRevokesAndReadsStayTrue) {
  const SampleBlob sample(1, 64 * kChunkSizeMin);
  OpenStore();
  const std::shared_ptr<Blob> blob = OpenBlob(sample);
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t i = 0; i < 200; ++i) {
        const uint32_t index = (i * 7 + t * 3) % sample.chunk_count();
        if (i % 11 == t) {
          EXPECT_TRUE(store_->Revoke(*blob, ChunkIndex(index)).ok());
        } else {
          const Evidence evidence = i % 2 ? Evidence::kVerified : Evidence::kUnverified;
          EXPECT_TRUE(store_->Commit(*blob, ChunkIndex(index), sample.Chunk(index), evidence).ok());
        }
        if (i % 50 == 0) store_->Flush();
        store_->Touch(sample.spec.digest);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectTrue(sample);
  const uint32_t present = blob->presence().present_count();
  std::vector<bool> before;
  for (uint32_t i = 0; i < sample.chunk_count(); ++i) before.push_back(IsPresent(sample, i));
  OpenStore();
  EXPECT_EQ(store_->open_report().chunks_present, present);
  for (uint32_t i = 0; i < sample.chunk_count(); ++i) EXPECT_EQ(IsPresent(sample, i), before[i]) << i;
  ExpectTrue(sample);
}

}  // namespace
}  // namespace sluice::index
