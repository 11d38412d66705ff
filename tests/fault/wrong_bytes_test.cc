// What becomes of wrong bytes among members: who is blamed, who is not, and what readers get. Eight nodes in
// one process, over real sockets and files.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/ranks.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/member_node.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using p2p::FaultOrigin;
using p2p::Sha256;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr uint32_t kChunk = kChunkSizeMin;
constexpr int kNodes = 8;

std::string Pattern(size_t size, int seed = 0) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(i * 131 + i / 977 + static_cast<size_t>(seed));
  return bytes;
}

p2p::Recipe RecipeOf(const std::string& bytes) {
  p2p::RecipeBuilder builder(kChunk);
  builder.Update(std::as_bytes(std::span(bytes)));
  return *builder.Finish();
}

class WrongBytesTest : public ::testing::Test {
 protected:
  void Start(p2p::Unsealed unsealed = p2p::Unsealed::kFromRegistry) {
    for (int i = 0; i < kNodes; ++i)
      nodes_.push_back(std::make_unique<MemberNode>(absl::StrCat("node-", i), unsealed));
    for (const auto& node : nodes_) {
      for (const auto& other : nodes_) {
        if (other != node) node->Meet(*other);
      }
    }
  }

  BlobSpec Spec(const std::string& repository = "team/app") const {
    return {digest_, bytes_.size(), kChunk, recipe_.root, {{origin_.registry(), repository}}};
  }
  BlobSpec Rootless() const {
    BlobSpec spec = Spec();
    spec.root.reset();
    return spec;
  }
  // By rank for the blob's only stripe; then those that have none.
  std::vector<MemberNode*> ByRank() {
    const std::shared_ptr<const p2p::MemberView> view = nodes_[0]->members_->view();
    EXPECT_EQ(view->members.size(), size_t{kNodes});
    const auto homes = p2p::HomesCache().HomesOf(digest_, bytes_.size(), *view);
    std::vector<MemberNode*> order;
    for (const p2p::MemberIndex rank : homes->ranks[0]) order.push_back(Named(view->members[rank].name));
    for (const auto& node : nodes_) {
      if (std::find(order.begin(), order.end(), node.get()) == order.end()) order.push_back(node.get());
    }
    return order;
  }
  MemberNode* Named(const std::string& name) {
    for (const auto& node : nodes_) {
      if (node->name() == name) return node.get();
    }
    return nullptr;
  }
  ByteRange RangeOf(uint32_t index) const { return {uint64_t{index} * kChunk, kChunk}; }
  std::string Chunk(uint32_t index) const { return bytes_.substr(size_t{index} * kChunk, kChunk); }
  bool Becomes(const std::function<bool()>& holds) {
    for (const Instant end = clock_.Now() + 60s; !holds();) {
      if (clock_.Now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }
  uint64_t Bans() const {
    uint64_t bans = 0;
    for (const auto& node : nodes_) bans += node->bans();
    return bans;
  }

  SteadyClock clock_;
  FaultOrigin origin_;
  const std::string bytes_ = Pattern(8 * kChunk);
  const p2p::Recipe recipe_ = RecipeOf(bytes_);
  const Digest digest_ = origin_.AddBlob("team/app", bytes_);
  std::vector<std::unique_ptr<MemberNode>> nodes_;
};

TEST_F(WrongBytesTest, WhoseDiskCorruptsWhatItServesAsVerifiedIsBannedAndReadersGetTheRightBytes) {
  Start();
  const std::vector<MemberNode*> by_rank = ByRank();
  MemberNode& home = *by_rank[0];
  const std::shared_ptr<Blob> at_home = home.Know(Spec(), recipe_.EncodeTorrent());
  ASSERT_EQ(*home.ReadAll(*at_home), bytes_);
  ASSERT_TRUE(Becomes([&] { return home.store_->IsSettled(at_home->key()); }));
  home.Spoil(*at_home, ChunkIndex(3));

  MemberNode& reader = *by_rank[5];
  const std::shared_ptr<Blob> blob = reader.Know(Spec(), recipe_.EncodeTorrent());
  EXPECT_EQ(*reader.Read(*blob, RangeOf(0)), Chunk(0));
  EXPECT_EQ(reader.ReadFrom(SourceKind::kPeer), 1u) << "what is right comes from the home";
  const absl::StatusOr<std::string> read = reader.Read(*blob, RangeOf(3));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, Chunk(3));
  EXPECT_EQ(reader.ReadFrom(SourceKind::kOrigin), 1u) << "the registry says who is wrong";
  EXPECT_TRUE(reader.IsBanned(home));
  EXPECT_EQ(reader.telemetry_.peer_bans[static_cast<size_t>(BanReason::kVerified)].value(), 1u);
  EXPECT_EQ(Bans(), 1u) << "told to nobody";
  EXPECT_EQ(*reader.ReadAll(*blob), bytes_) << "the others stand in";
  for (const auto& node : nodes_) EXPECT_THAT(node->alarms(), SizeIs(0)) << node->name();
}

// Anyone who can push can annotate a layer that others share.
TEST_F(WrongBytesTest, AWrongRootOnASharedLayerIsAnAlarmAndHarmsNoOtherImage) {
  Start();
  p2p::Recipe wrong = RecipeOf(Pattern(bytes_.size(), 7));
  wrong.blob = digest_;
  BlobSpec lie = Spec("evil/app");
  lie.root = wrong.root;
  ASSERT_EQ(origin_.AddBlob("evil/app", bytes_), digest_);
  const auto read_all = [&](const BlobSpec& spec, const std::string& recipe) {
    std::vector<std::shared_ptr<Blob>> blobs;
    for (const auto& node : nodes_) blobs.push_back(node->Know(spec, recipe));
    std::vector<std::thread> readers;
    std::vector<absl::StatusOr<std::string>> results(kNodes, absl::UnknownError(""));
    for (size_t i = 0; i < nodes_.size(); ++i)
      readers.emplace_back([&, i] { results[i] = nodes_[i]->ReadAll(*blobs[i]); });
    for (std::thread& reader : readers) reader.join();
    return results;
  };
  for (const absl::StatusOr<std::string>& result : read_all(lie, wrong.EncodeTorrent()))
    EXPECT_TRUE(absl::IsDataLoss(result.status())) << result.status();
  for (const auto& node : nodes_) {
    ASSERT_THAT(node->alarms(), SizeIs(1)) << node->name();
    EXPECT_THAT(node->alarms()[0], HasSubstr("manifest M"));
    EXPECT_THAT(node->alarms()[0], HasSubstr(digest_.ToString()));
  }
  EXPECT_EQ(Bans(), 0u);
  for (const absl::StatusOr<std::string>& result : read_all(Spec(), recipe_.EncodeTorrent())) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(*result, bytes_);
  }
  EXPECT_EQ(Bans(), 0u);
  for (const auto& node : nodes_) EXPECT_THAT(node->alarms(), SizeIs(1)) << node->name();
}

// ----------------------------------------------------------------------------- without a recipe at first

TEST_F(WrongBytesTest, WithoutARecipeMembersGiveOneCopyToAllWhereTheyAreBelieved) {
  Start(p2p::Unsealed::kFromMembers);
  for (const auto& node : nodes_) {
    const std::shared_ptr<Blob> blob = node->Know(Rootless());
    const absl::StatusOr<std::string> read = node->ReadAll(*blob);
    ASSERT_TRUE(read.ok()) << node->name() << ": " << read.status();
    EXPECT_EQ(*read, bytes_);
    EXPECT_TRUE(Becomes([&] { return node->store_->IsSettled(blob->key()); })) << "the digest proves it";
    EXPECT_TRUE(blob->facts()->root.has_value()) << "and gives the recipe";
  }
  uint64_t from_registry = 0;
  for (const auto& node : nodes_) from_registry += node->telemetry_.origin_blob_bytes.value();
  EXPECT_LT(from_registry, 2 * bytes_.size()) << "eight nodes have it";
}

TEST_F(WrongBytesTest, WithoutARecipeNothingComesFromMembersWhereOnlyTheRegistryIsBelieved) {
  Start(p2p::Unsealed::kFromRegistry);
  for (const auto& node : {nodes_[0].get(), nodes_[1].get()}) {
    const std::shared_ptr<Blob> blob = node->Know(Rootless());
    EXPECT_EQ(*node->ReadAll(*blob), bytes_);
    EXPECT_EQ(node->ReadFrom(SourceKind::kPeer), 0u);
  }
}

TEST_F(WrongBytesTest, WhatCameBeforeTheRecipeIsHeldAgainstItAndItsSenderBlamed) {
  Start(p2p::Unsealed::kFromMembers);
  const std::vector<MemberNode*> by_rank = ByRank();
  MemberNode &home = *by_rank[0], &reader = *by_rank[5];
  const std::shared_ptr<Blob> at_home = home.Know(Rootless());
  for (const uint32_t chunk : {1u, 2u, 3u}) ASSERT_EQ(*home.Read(*at_home, RangeOf(chunk)), Chunk(chunk));
  home.Spoil(*at_home, ChunkIndex(2));
  const std::shared_ptr<Blob> blob = reader.Know(Rootless());
  for (const uint32_t chunk : {1u, 3u}) EXPECT_EQ(*reader.Read(*blob, RangeOf(chunk)), Chunk(chunk));
  EXPECT_NE(*reader.Read(*blob, RangeOf(2)), Chunk(2)) << "nothing can tell yet";
  EXPECT_GE(blob->unverified_count(), 3u);
  EXPECT_EQ(Bans(), 0u);

  ASSERT_EQ(reader.Know(Spec(), recipe_.EncodeTorrent()), blob) << "a manifest of the same repository";
  EXPECT_TRUE(Becomes([&] { return blob->unverified_count() == 0; }));
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(2)));
  EXPECT_TRUE(blob->presence().IsPresent(ChunkIndex(1)));
  EXPECT_EQ(Bans(), 0u) << "the recipe may be wrong";
  EXPECT_EQ(*reader.Read(*blob, RangeOf(2)), Chunk(2));
  EXPECT_TRUE(reader.IsBanned(home));
  EXPECT_EQ(reader.telemetry_.peer_bans[static_cast<size_t>(BanReason::kUnverified)].value(), 1u);
  EXPECT_EQ(Bans(), 1u);
}

TEST_F(WrongBytesTest, OfARowOfNodesThatPassedItOnTheFirstIsBlamed) {
  Start(p2p::Unsealed::kFromMembers);
  const std::vector<MemberNode*> by_rank = ByRank();
  MemberNode &home = *by_rank[0], &second = *by_rank[1], &reader = *by_rank[5];
  const std::shared_ptr<Blob> at_home = home.Know(Rootless());
  ASSERT_EQ(*home.Read(*at_home, RangeOf(2)), Chunk(2));
  home.Spoil(*at_home, ChunkIndex(2));
  const std::shared_ptr<Blob> at_second = second.Know(Rootless());
  const std::string spoilt = *second.Read(*at_second, RangeOf(2));
  ASSERT_NE(spoilt, Chunk(2));
  // The reader does not ask the home.
  reader.health_.SentWrong(home.name(), clock_.Now());
  const std::shared_ptr<Blob> blob = reader.Know(Rootless());
  ASSERT_EQ(*reader.Read(*blob, RangeOf(2)), spoilt);

  ASSERT_EQ(reader.Know(Spec(), recipe_.EncodeTorrent()), blob);
  EXPECT_TRUE(Becomes([&] { return blob->unverified_count() == 0; }));
  EXPECT_EQ(*reader.Read(*blob, RangeOf(2)), Chunk(2));
  EXPECT_FALSE(reader.IsBanned(second)) << "it said whom it had it from";
  EXPECT_TRUE(reader.IsBanned(home));
  EXPECT_EQ(reader.telemetry_.peer_bans[static_cast<size_t>(BanReason::kPassedOn)].value(), 1u);
}

// Who has sealed the blob gives its recipe to others, who know no root.
TEST_F(WrongBytesTest, TheRecipeOfWhoHasSealedTheBlobFindsWrongChunksAtOnce) {
  Start(p2p::Unsealed::kFromMembers);
  const std::vector<MemberNode*> by_rank = ByRank();
  MemberNode &home = *by_rank[0], &sealer = *by_rank[4], &reader = *by_rank[5];
  EXPECT_TRUE(absl::IsNotFound(reader.peer_documents_->FetchSealed(Rootless()).status())) << "nobody has it";
  const std::shared_ptr<Blob> at_sealer = sealer.Know(Rootless());
  ASSERT_EQ(*sealer.ReadAll(*at_sealer), bytes_);
  ASSERT_TRUE(Becomes([&] { return sealer.store_->IsSettled(at_sealer->key()); }));
  const absl::StatusOr<p2p::Recipe> sealed = reader.peer_documents_->FetchSealed(Rootless());
  ASSERT_TRUE(sealed.ok()) << sealed.status();
  EXPECT_EQ(*sealed, recipe_);

  const std::shared_ptr<Blob> at_home = home.Know(Rootless());
  ASSERT_TRUE(home.ReadAll(*at_home).ok());
  home.Spoil(*at_home, ChunkIndex(2));
  const std::shared_ptr<Blob> blob = reader.Know(Rootless());
  reader.verifier_->Claim(blob->key(), *sealed);
  EXPECT_EQ(*reader.Read(*blob, RangeOf(1)), Chunk(1));
  EXPECT_EQ(*reader.Read(*blob, RangeOf(2)), Chunk(2));
  EXPECT_TRUE(reader.IsBanned(home));
  EXPECT_FALSE(reader.store_->AllProven(*blob, {ChunkIndex(2), 1})) << "a member's word proves nothing";
}

TEST_F(WrongBytesTest, AWrongRecipeFromAMemberIsDroppedAndBlamesNobody) {
  Start(p2p::Unsealed::kFromMembers);
  MemberNode& reader = *ByRank()[5];
  p2p::Recipe wrong = RecipeOf(Pattern(bytes_.size(), 7));
  wrong.blob = digest_;
  const std::shared_ptr<Blob> blob = reader.Know(Rootless());
  reader.verifier_->Claim(blob->key(), wrong);
  EXPECT_EQ(*reader.ReadAll(*blob), bytes_);
  EXPECT_EQ(Bans(), 0u);
  EXPECT_THAT(reader.alarms(), SizeIs(0));
  EXPECT_FALSE(reader.verifier_->DropClaim(blob->key()));
}

TEST_F(WrongBytesTest, ABlobThatIsWrongAsAWholeIsHadOnceMoreFromTheRegistryAndItsSenderBlamed) {
  Start(p2p::Unsealed::kFromMembers);
  const std::vector<MemberNode*> by_rank = ByRank();
  MemberNode &home = *by_rank[0], &reader = *by_rank[5];
  const std::shared_ptr<Blob> at_home = home.Know(Rootless());
  ASSERT_EQ(*home.Read(*at_home, RangeOf(2)), Chunk(2));
  home.Spoil(*at_home, ChunkIndex(2));
  const std::shared_ptr<Blob> blob = reader.Know(Rootless());
  ASSERT_TRUE(reader.ReadAll(*blob).ok());
  EXPECT_TRUE(Becomes([&] { return blob->presence().present_count() == 0; })) << "its digest did not hold";
  EXPECT_FALSE(blob->refused());
  ASSERT_TRUE(Becomes([&] {
    const absl::StatusOr<std::string> read = reader.ReadAll(*blob);
    return read.ok() && *read == bytes_;
  }));
  EXPECT_TRUE(Becomes([&] { return reader.store_->IsSettled(blob->key()); }));
  EXPECT_TRUE(Becomes([&] { return reader.IsBanned(home); }));
}

}  // namespace
}  // namespace sluice
