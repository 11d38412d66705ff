#include "node/daemon/mount_table.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace sluice {
namespace {

class MountTableTest : public ::testing::Test {
 protected:
  MountTableTest() {
    char folder[] = "/tmp/sluice-mounts-XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/mounts.json";
  }
  ~MountTableTest() override { std::filesystem::remove_all(folder_); }

  static MountEntry Entry(const std::string& mount_point) {
    std::array<uint8_t, 32> bytes{1, 2, 3};
    MountEntry entry;
    entry.mount_point = mount_point;
    entry.reference = "registry.example/team/app:v1";
    entry.manifest = Digest(bytes);
    entry.backend = "fanotify";
    const Digest digest(bytes);
    entry.bootstrap = {digest, {digest, 4096, kChunkSizeDefault, {}, {{"registry.example", "team/app"}}}};
    const BlobSpec blob{digest, uint64_t{5} << 32, 1 << 20, digest, {{"registry.example", "team/app"}}};
    bytes[0] = 9;
    entry.blobs = {{digest, blob}, {Digest(bytes), blob}};
    return entry;
  }

  std::string folder_, path_;
};

TEST_F(MountTableTest, AnotherDaemonFindsWhatWasAdded) {
  absl::StatusOr<MountTable> table = MountTable::Load(path_);
  ASSERT_TRUE(table.ok());
  EXPECT_TRUE(table->entries().empty());
  ASSERT_TRUE(table->Add(Entry("/mnt/a \"quoted\"")).ok());
  ASSERT_TRUE(table->Add(Entry("/mnt/b")).ok());
  ASSERT_TRUE(table->Remove("/mnt/b").ok());

  const absl::StatusOr<MountTable> again = MountTable::Load(path_);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_EQ(again->entries().size(), 1u);
  const MountEntry& entry = again->entries().front();
  EXPECT_EQ(entry.mount_point, "/mnt/a \"quoted\"");
  EXPECT_EQ(entry.blobs.front().spec.size, uint64_t{5} << 32);
  EXPECT_EQ(entry.blobs.front().spec.root, Entry("").blobs.front().spec.root);
  EXPECT_EQ(entry.blobs.front().spec.origins, Entry("").blobs.front().spec.origins);
  EXPECT_FALSE(entry.bootstrap.spec.root.has_value());
  // One is kept beside another claim of its digest.
  EXPECT_EQ(entry.blobs[0].key, BlobKey(entry.blobs[0].spec.digest));
  EXPECT_EQ(entry.blobs[1].key, Entry("").blobs[1].key);
  EXPECT_NE(again->Find("/mnt/a \"quoted\""), nullptr);
  EXPECT_EQ(again->Find("/mnt/b"), nullptr);
}

TEST_F(MountTableTest, AMountThatSomebodyMovedIsFoundAtItsNewPlace) {
  absl::StatusOr<MountTable> table = MountTable::Load(path_);
  ASSERT_TRUE(table.ok());
  ASSERT_TRUE(table->Add(Entry("/mnt/a")).ok());
  const ondemand::ErofsInstance instance{"erofs-3", 77, "boot"};
  ASSERT_TRUE(table->Identify("/mnt/a", instance, 42).ok());
  ASSERT_TRUE(table->Move("/mnt/a", "/mnt/b").ok());
  EXPECT_EQ(table->Find("/mnt/a"), nullptr);

  const absl::StatusOr<MountTable> again = MountTable::Load(path_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->Find("/mnt/a"), nullptr);
  const MountEntry* const moved = again->Find("/mnt/b");
  ASSERT_NE(moved, nullptr);
  EXPECT_EQ(moved->instance, instance);
  EXPECT_EQ(moved->device, 42u);
}

TEST_F(MountTableTest, OfACopyThatWasPutBackOnlyWhatLivesIsBelieved) {
  absl::StatusOr<MountTable> table = MountTable::Load(path_);
  ASSERT_TRUE(table.ok());
  ASSERT_TRUE(table->Add(Entry("/mnt/unknown")).ok());
  ASSERT_TRUE(table->Add(Entry("/mnt/gone")).ok());
  ASSERT_TRUE(table->Identify("/mnt/gone", {"erofs-3", 77, "another boot"}, 42).ok());
  EXPECT_FALSE(MountTable::Load(path_)->is_copy());
  EXPECT_EQ(MountTable::Load(path_)->entries().size(), 2u);

  std::filesystem::copy_file(path_, path_ + ".copy");
  std::filesystem::rename(path_ + ".copy", path_);
  absl::StatusOr<MountTable> copy = MountTable::Load(path_);
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_TRUE(copy->is_copy());
  EXPECT_TRUE(copy->entries().empty());
  ASSERT_TRUE(copy->Add(Entry("/mnt/new")).ok());
  EXPECT_FALSE(MountTable::Load(path_)->is_copy());
  EXPECT_NE(MountTable::Load(path_)->Find("/mnt/new"), nullptr);
}

TEST_F(MountTableTest, HowARegistryKeepsABlobIsKept) {
  MountEntry entry = Entry("/mnt/a");
  BlobSpec& blob = entry.blobs[0].spec;
  blob.origins.push_back({"registry.example", "plain"});
  const StoredForm with_table{blob.digest, 9000, SeekTablePlace{{8959, 41}, blob.digest}};
  const StoredForm without{blob.digest, 9000, std::nullopt};
  blob.stored = {{blob.origins[0], with_table}};
  entry.bootstrap.spec.stored = {{entry.bootstrap.spec.origins[0], without}};
  ASSERT_TRUE(MountTable::Load(path_)->Add(entry).ok());

  const absl::StatusOr<MountTable> again = MountTable::Load(path_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->entries()[0].blobs[0].spec.stored, blob.stored);
  EXPECT_EQ(again->entries()[0].bootstrap.spec.stored, entry.bootstrap.spec.stored);
  EXPECT_TRUE(again->entries()[0].blobs[1].spec.stored.empty());

  std::stringstream text;
  text << std::ifstream(path_).rdbuf();
  std::string lies = text.str();
  lies.replace(lies.find("8959"), 4, "8958");
  std::ofstream(path_) << lies;
  EXPECT_TRUE(absl::IsDataLoss(MountTable::Load(path_).status()));
}

TEST_F(MountTableTest, DetachedEntryIsKeptBesideWhatIsMountedThereAnew) {
  absl::StatusOr<MountTable> table = MountTable::Load(path_);
  ASSERT_TRUE(table.ok());
  const ondemand::ErofsInstance first{"7", (uint64_t{3} << 32) + 1, "boot"};
  const ondemand::ErofsInstance second{"7", (uint64_t{3} << 32) + 2, "boot"};
  ASSERT_TRUE(table->Add(Entry("/mnt/a")).ok());
  ASSERT_TRUE(table->Identify("/mnt/a", first, 1).ok());
  ASSERT_TRUE(table->Detach("/mnt/a").ok());
  EXPECT_EQ(table->Find("/mnt/a"), nullptr);
  ASSERT_TRUE(table->Add(Entry("/mnt/a")).ok());
  ASSERT_TRUE(table->Identify("/mnt/a", second, 2).ok());

  absl::StatusOr<MountTable> again = MountTable::Load(path_);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_NE(again->Find("/mnt/a"), nullptr);
  EXPECT_EQ(again->Find("/mnt/a")->instance, second);
  ASSERT_EQ(again->detached().size(), 1u);
  EXPECT_EQ(again->detached().front().instance, first);
  EXPECT_EQ(again->detached().front().blobs.size(), 2u);
  ASSERT_TRUE(again->RemoveDetached(second).ok());
  EXPECT_EQ(again->detached().size(), 1u) << "that one is mounted";
  ASSERT_TRUE(again->RemoveDetached(first).ok());
  EXPECT_TRUE(MountTable::Load(path_)->detached().empty());
  EXPECT_NE(MountTable::Load(path_)->Find("/mnt/a"), nullptr);
}

TEST_F(MountTableTest, TableOfBeforeIsRead) {
  absl::StatusOr<MountTable> table = MountTable::Load(path_);
  ASSERT_TRUE(table->Add(Entry("/mnt/a")).ok());
  std::stringstream text;
  text << std::ifstream(path_).rdbuf();
  std::string without = text.str();
  const size_t at = without.find("\"detached\": [],");
  ASSERT_NE(at, std::string::npos);
  without.erase(at, std::string("\"detached\": [],").size());
  std::ofstream(path_) << without;
  table = MountTable::Load(path_);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->entries().size(), 1u);
  EXPECT_FALSE(table->entries().front().instance.known());
}

TEST_F(MountTableTest, ADamagedTableIsRefusedAndKept) {
  for (const char* text :
       {"", "{", "[]", R"({"version":2,"mounts":[]})", R"({"version":1,"mounts":[{"mountPoint":7}]})",
        R"({"version":1,"mounts":[{"mountPoint":"/m","reference":"r","manifest":"sha256:../x"}]})"}) {
    std::ofstream(path_) << text;
    EXPECT_TRUE(absl::IsDataLoss(MountTable::Load(path_).status())) << text;
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
}

TEST_F(MountTableTest, ATableThatCannotBeWrittenTakesNothingUpButForgets) {
  absl::StatusOr<MountTable> table = MountTable::Load(path_);
  ASSERT_TRUE(table->Add(Entry("/mnt/a")).ok());
  std::filesystem::create_directory(path_ + ".new");
  EXPECT_FALSE(table->Add(Entry("/mnt/b")).ok());
  EXPECT_EQ(table->entries().size(), 1u);
  EXPECT_FALSE(table->Remove("/mnt/a").ok());
  EXPECT_TRUE(table->entries().empty());
  EXPECT_EQ(MountTable::Load(path_)->entries().size(), 1u);
}

}  // namespace
}  // namespace sluice
