#include "node/image/erofs_builder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <string>
#include <vector>

#include "node/image/layer_flattener.h"
#include "node/image/subprocess.h"
#include "ondemand/erofs_image.h"
#include "tests/unit/cli/tar_writer.h"
#include "tests/unit/cli/temp_tree.h"

namespace sluice {
namespace {

class ErofsBuilderTest : public ::testing::Test {
 protected:
  void SetUp() override { SLUICE_REQUIRE_ROOT(); }

  // An image of the same layers, from directories of their own.
  ErofsImage BuildFromLayer(const std::string& name, std::optional<uint32_t> chunk_size = std::nullopt) {
    const std::string tree = temp_ / (name + "-tree");
    const std::string work = temp_ / (name + "-work");
    std::filesystem::create_directory(tree);
    std::filesystem::create_directory(work);
    WriteLayer(temp_ / "layer");
    absl::StatusOr<LayerFlattener> flattener = LayerFlattener::Open(tree, {});
    const UniqueFd layer(open((temp_ / "layer").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(flattener->Apply(layer.get()), absl::OkStatus());
    EXPECT_EQ(flattener->Finish(), absl::OkStatus());
    absl::StatusOr<ErofsImage> image = BuildErofsImage(tree, work, chunk_size, *progress_);
    EXPECT_TRUE(image.ok()) << image.status();
    return *image;
  }

  void WriteLayer(const std::string& path) {
    TarWriter layer(path);
    layer.Directory("./", 111);
    for (int i = 9; i >= 0; --i) {
      const std::string n = std::to_string(i);
      layer.Directory("dir" + n, 1000 + i);
      layer.Add({.path = "dir" + n + "/file",
                 .content = std::string(50000 + i, static_cast<char>('a' + i)),
                 .mtime_s = 2000 + i,
                 .mtime_ns = 5,
                 .xattrs = {{"user.b", n}, {"user.a", n}}});
      layer.Add({.path = "dir" + n + "/hard", .type = kHardLink, .content = "dir" + n + "/file"});
    }
    layer.Add({.path = "null", .type = AE_IFCHR, .device = makedev(1, 3)});
    layer.Add({.path = "link", .type = AE_IFLNK, .content = "dir0/file"});
  }

  TempTree temp_;
  const std::unique_ptr<ProgressSink> progress_ = MakeProgress(ProgressStyle::kSilent);
};

TEST_F(ErofsBuilderTest, SameInputSameDigests) {
  const ErofsImage first = BuildFromLayer("first");
  const ErofsImage second = BuildFromLayer("second");
  EXPECT_EQ(first.bootstrap_digest, second.bootstrap_digest);
  ASSERT_TRUE(first.blob && second.blob);
  EXPECT_EQ(first.blob->recipe, second.blob->recipe);
}

TEST_F(ErofsBuilderTest, DigestsAreThoseOfTheFiles) {
  const ErofsImage image = BuildFromLayer("image", 64 << 10);
  EXPECT_EQ(image.bootstrap_digest, p2p::Sha256::Of(ReadText(image.bootstrap_path)));
  EXPECT_EQ(image.bootstrap_size, std::filesystem::file_size(image.bootstrap_path));
  ASSERT_TRUE(image.blob);
  EXPECT_EQ(image.blob->recipe.blob, p2p::Sha256::Of(ReadText(image.blob->path)));
  EXPECT_EQ(image.blob->recipe.chunk_size, 64u << 10);
  const absl::StatusOr<ondemand::ErofsInfo> info = ondemand::ReadErofsInfo(image.bootstrap_path);
  ASSERT_TRUE(info.ok()) << info.status();
  const BlobSpec spec{.digest = image.blob->recipe.blob,
                      .size = image.blob->recipe.size,
                      .root = std::nullopt,
                      .origins = {}};
  EXPECT_EQ(ondemand::CheckErofsDevices(*info, std::vector{spec}), absl::OkStatus());
}

TEST_F(ErofsBuilderTest, TheImageHoldsTheTreeWithItsTimes) {
  const ErofsImage image = BuildFromLayer("image");
  ASSERT_EQ(RunProgram({"fsck.erofs", "--device=" + image.blob->path, "--preserve",
                        "--extract=" + (temp_ / "out"), image.bootstrap_path}),
            absl::OkStatus());
  EXPECT_EQ(StatOf(temp_ / "out").st_mtime, 111);
  EXPECT_EQ(StatOf(temp_ / "out/dir3").st_mtime, 1003);
  EXPECT_EQ(StatOf(temp_ / "out/dir3/file").st_mtim.tv_sec, 2003);
  EXPECT_EQ(StatOf(temp_ / "out/dir3/file").st_mtim.tv_nsec, 5);
  EXPECT_EQ(ReadText(temp_ / "out/dir3/file"), std::string(50003, 'd'));
  EXPECT_EQ(StatOf(temp_ / "out/null").st_rdev, makedev(1, 3));
  EXPECT_EQ(std::filesystem::read_symlink(temp_ / "out/link"), "dir0/file");
}

TEST_F(ErofsBuilderTest, AnImageWithoutBytesHasNoBlob) {
  std::filesystem::create_directories(temp_ / "tree/dir");
  WriteText(temp_ / "tree/empty", "");
  const absl::StatusOr<ErofsImage> image =
      BuildErofsImage(temp_ / "tree", temp_.path(), std::nullopt, *progress_);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_FALSE(image->blob.has_value());
  const absl::StatusOr<ondemand::ErofsInfo> info = ondemand::ReadErofsInfo(image->bootstrap_path);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_TRUE(info->devices.empty());
  EXPECT_EQ(RunProgram({"fsck.erofs", image->bootstrap_path}), absl::OkStatus());
}

TEST_F(ErofsBuilderTest, SaysWhatMkfsSaid) {
  const absl::Status status =
      BuildErofsImage(temp_ / "nothing", temp_.path(), std::nullopt, *progress_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("mkfs.erofs failed (exit status"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace sluice
