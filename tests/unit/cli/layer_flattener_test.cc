#include "node/image/layer_flattener.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/unit/cli/tar_writer.h"
#include "tests/unit/cli/temp_tree.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

class LayerFlattenerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SLUICE_REQUIRE_ROOT();
    std::filesystem::create_directory(root_);
    WriteText(temp_ / "outside", "mine");
  }

  using Layer = std::function<void(TarWriter&)>;

  absl::Status Flatten(const std::vector<Layer>& layers, FlattenLimits limits = {},
                       Compression compression = Compression::kNone) {
    absl::StatusOr<LayerFlattener> flattener = LayerFlattener::Open(root_, limits);
    if (!flattener.ok()) return flattener.status();
    for (const Layer& layer : layers) {
      const std::string path = temp_ / "layer";
      {
        TarWriter writer(path, compression);
        layer(writer);
      }
      const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
      if (absl::Status applied = flattener->Apply(file.get()); !applied.ok()) return applied;
    }
    return flattener->Finish();
  }

  std::string At(const std::string& path) const { return root_ + "/" + path; }

  TempTree temp_;
  const std::string root_ = temp_ / "root";
};

TEST_F(LayerFlattenerTest, KeepsWhatFilesAre) {
  ASSERT_EQ(Flatten({[](TarWriter& layer) {
              layer.Directory("./", 111).Directory("dir/", 222);
              layer.Add({.path = "dir/file",
                         .content = "bytes",
                         .permissions = 04751,
                         .mtime_s = 333,
                         .mtime_ns = 44,
                         .uid = 7});
              layer.Add({.path = "dir/link", .type = AE_IFLNK, .content = "file", .mtime_s = 555});
              layer.Add({.path = "dir/hard", .type = kHardLink, .content = "dir/file"});
              layer.Add({.path = "dir/char", .type = AE_IFCHR, .device = makedev(1, 3)});
              layer.Add({.path = "dir/whiteout-device", .type = AE_IFCHR, .device = makedev(0, 0)});
              layer.Add({.path = "dir/block", .type = AE_IFBLK, .device = makedev(7, 300)});
              layer.Add({.path = "dir/fifo", .type = AE_IFIFO});
            }}),
            absl::OkStatus());
  EXPECT_EQ(StatOf(root_).st_mtime, 111);
  EXPECT_EQ(StatOf(At("dir")).st_mtime, 222);
  const struct stat file = StatOf(At("dir/file"));
  EXPECT_EQ(ReadText(At("dir/file")), "bytes");
  EXPECT_EQ(file.st_mode & 07777, 04751u);
  EXPECT_EQ(file.st_uid, 7u);
  EXPECT_EQ(file.st_mtim.tv_sec, 333);
  EXPECT_EQ(file.st_mtim.tv_nsec, 44);
  EXPECT_EQ(std::filesystem::read_symlink(At("dir/link")), "file");
  EXPECT_EQ(StatOf(At("dir/link")).st_mtime, 555);
  EXPECT_EQ(StatOf(At("dir/hard")).st_ino, file.st_ino);
  EXPECT_EQ(file.st_nlink, 2u);
  EXPECT_TRUE(S_ISCHR(StatOf(At("dir/char")).st_mode));
  EXPECT_EQ(StatOf(At("dir/char")).st_rdev, makedev(1, 3));
  EXPECT_EQ(StatOf(At("dir/whiteout-device")).st_rdev, makedev(0, 0));
  EXPECT_EQ(StatOf(At("dir/block")).st_rdev, makedev(7, 300));
  EXPECT_TRUE(S_ISFIFO(StatOf(At("dir/fifo")).st_mode));
}

TEST_F(LayerFlattenerTest, ReadsCompressedLayers) {
  for (const Compression compression : {Compression::kGzip, Compression::kZstd}) {
    const std::string name = compression == Compression::kGzip ? "gzip" : "zstd";
    EXPECT_EQ(
        Flatten({[&](TarWriter& layer) { layer.File(name, std::string(100000, 'z')); }}, {}, compression),
        absl::OkStatus());
    EXPECT_EQ(ReadText(At(name)), std::string(100000, 'z'));
  }
}

TEST_F(LayerFlattenerTest, NamesOutsideOfAsciiSurvive) {
  const std::string name = "d\xc3\xbcr/\xe6\x96\x87";
  ASSERT_EQ(Flatten({[&](TarWriter& layer) { layer.File(name, "x"); }}), absl::OkStatus());
  EXPECT_EQ(ReadText(At(name)), "x");
}

TEST_F(LayerFlattenerTest, TimesOfDirectoriesSurviveLaterLayers) {
  ASSERT_EQ(Flatten({[](TarWriter& layer) { layer.Directory("dir", 222).File("dir/a", "1"); },
                     [](TarWriter& layer) { layer.File("dir/b", "2").File("implied/c", "3"); }}),
            absl::OkStatus());
  EXPECT_EQ(StatOf(At("dir")).st_mtime, 222);
  // Nobody says when these were made; the time of unpacking would make each image another one.
  EXPECT_EQ(StatOf(At("implied")).st_mtime, 0);
  EXPECT_EQ(StatOf(root_).st_mtime, 0);
}

TEST_F(LayerFlattenerTest, XattrsAreSetSortedAndReplaced) {
  // A version 2 capability set: cap_net_bind_service, permitted and effective.
  const std::string capability(
      "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20);
  ASSERT_EQ(
      Flatten(
          {[](TarWriter& layer) {
             layer.Add({.path = "d", .type = AE_IFDIR, .permissions = 0755, .xattrs = {{"user.old", "1"}}});
           },
           [&](TarWriter& layer) {
             layer.Add({.path = "d", .type = AE_IFDIR, .permissions = 0755, .xattrs = {{"user.new", "2"}}});
             layer.Add({.path = "f",
                        .content = "x",
                        .permissions = 0755,
                        .xattrs = {{"user.z", "1"},
                                   {"user.a", "2"},
                                   {"security.capability", capability},
                                   {"trusted.overlay.redirect", "/etc"}},
                        .uid = 5});
           }}),
      absl::OkStatus());
  char value[64];
  EXPECT_EQ(lgetxattr(At("d").c_str(), "user.old", value, sizeof(value)), -1);
  EXPECT_EQ(lgetxattr(At("d").c_str(), "user.new", value, sizeof(value)), 1);
  ASSERT_EQ(lgetxattr(At("f").c_str(), "security.capability", value, sizeof(value)), 20);
  EXPECT_EQ(std::string(value, 20), capability);
  EXPECT_EQ(lgetxattr(At("f").c_str(), "trusted.overlay.redirect", value, sizeof(value)), -1);
  EXPECT_EQ(lgetxattr(At("f").c_str(), "user.z", value, sizeof(value)), 1);
}

TEST_F(LayerFlattenerTest, WhiteoutsHideLowerLayersOnly) {
  ASSERT_EQ(Flatten({[](TarWriter& layer) {
                       layer.File("a", "1").File("dir/b", "2").File("tree/x/y", "3").File("kept", "4");
                     },
                     [](TarWriter& layer) {
                       layer.File("tree/new", "5").File(".wh.a", "").File("dir/.wh.b", "");
                       layer.File(".wh.tree", "").File(".wh.never-there", "").File(".wh..wh.plnk", "");
                     }}),
            absl::OkStatus());
  EXPECT_FALSE(Exists(At("a")));
  EXPECT_FALSE(Exists(At("dir/b")));
  EXPECT_TRUE(Exists(At("dir")));
  EXPECT_FALSE(Exists(At("tree/x")));
  EXPECT_EQ(ReadText(At("tree/new")), "5");
  EXPECT_EQ(ReadText(At("kept")), "4");
  EXPECT_FALSE(Exists(At(".wh.a")));
}

TEST_F(LayerFlattenerTest, OpaqueDirectoriesHideWhatLayersBelowPutThere) {
  for (const bool marker_first : {true, false}) {
    std::filesystem::remove_all(root_);
    std::filesystem::create_directory(root_);
    ASSERT_EQ(Flatten({[](TarWriter& layer) {
                         layer.File("dir/old", "1").File("dir/sub/old", "2").File("other", "3");
                       },
                       [&](TarWriter& layer) {
                         layer.Directory("dir");
                         if (marker_first) layer.File("dir/.wh..wh..opq", "");
                         layer.File("dir/new", "4").File("dir/sub/new", "5");
                         if (!marker_first) layer.File("dir/.wh..wh..opq", "");
                       }}),
              absl::OkStatus());
    EXPECT_FALSE(Exists(At("dir/old")));
    EXPECT_FALSE(Exists(At("dir/sub/old")));
    EXPECT_EQ(ReadText(At("dir/new")), "4");
    EXPECT_EQ(ReadText(At("dir/sub/new")), "5");
    EXPECT_EQ(ReadText(At("other")), "3");
  }
}

TEST_F(LayerFlattenerTest, EntriesReplaceOneAnother) {
  ASSERT_EQ(
      Flatten({[](TarWriter& layer) {
                 layer.File("dir/a", "1").File("file", "2");
                 layer.Add({.path = "link", .type = AE_IFLNK, .content = "../outside"});
                 layer.File("shared", "old").Add({.path = "second", .type = kHardLink, .content = "shared"});
               },
               [](TarWriter& layer) {
                 layer.File("dir", "now a file").Directory("file").File("file/inside", "3");
                 layer.File("link", "no longer a link").File("shared", "new");
               }}),
      absl::OkStatus());
  EXPECT_EQ(ReadText(At("dir")), "now a file");
  EXPECT_EQ(ReadText(At("file/inside")), "3");
  EXPECT_EQ(ReadText(At("link")), "no longer a link");
  EXPECT_EQ(ReadText(temp_ / "outside"), "mine");
  // A replaced file is another file: its hard links keep the old bytes.
  EXPECT_EQ(ReadText(At("second")), "old");
}

TEST_F(LayerFlattenerTest, SymbolicLinksResolveInsideTheRoot) {
  ASSERT_EQ(
      Flatten({[](TarWriter& layer) {
                 layer.Directory("usr/lib");
                 layer.Add({.path = "lib", .type = AE_IFLNK, .content = "usr/lib"});
                 layer.Add({.path = "abs", .type = AE_IFLNK, .content = "/usr"});
                 layer.Add({.path = "up", .type = AE_IFLNK, .content = "../../../../usr"});
               },
               [](TarWriter& layer) { layer.File("lib/a", "1").File("abs/b", "2").File("up/c", "3"); }}),
      absl::OkStatus());
  EXPECT_EQ(ReadText(At("usr/lib/a")), "1");
  EXPECT_EQ(ReadText(At("usr/b")), "2");
  EXPECT_EQ(ReadText(At("usr/c")), "3");
  EXPECT_FALSE(Exists("/usr/c"));
}

TEST_F(LayerFlattenerTest, NothingLeavesTheRoot) {
  const std::string outside = temp_ / "outside";
  const std::vector<Layer> attempts = {
      [](TarWriter& layer) { layer.File("../outside", "theirs"); },
      [](TarWriter& layer) { layer.File("a/../../outside", "theirs"); },
      [](TarWriter& layer) { layer.File(".wh...", ""); },
      [](TarWriter& layer) { layer.File("a/.wh..", ""); },
      [](TarWriter& layer) { layer.File(".wh.", ""); },
      [](TarWriter& layer) { layer.Add({.path = "stolen", .type = kHardLink, .content = "../outside"}); },
      [&](TarWriter& layer) { layer.Add({.path = "stolen", .type = kHardLink, .content = outside}); },
      [&](TarWriter& layer) {
        layer.Add({.path = "link", .type = AE_IFLNK, .content = outside});
        layer.Add({.path = "link/x", .content = "theirs"});
      },
      [](TarWriter& layer) {
        layer.Add({.path = "door", .type = AE_IFLNK, .content = "/proc/self/root"});
        layer.File("door/var/tmp/outside", "theirs");
      },
  };
  for (size_t i = 0; i < attempts.size(); ++i) {
    EXPECT_FALSE(Flatten({attempts[i]}).ok()) << "attempt " << i;
    EXPECT_EQ(ReadText(outside), "mine") << "attempt " << i;
    EXPECT_FALSE(Exists(At("stolen"))) << "attempt " << i;
  }
}

TEST_F(LayerFlattenerTest, AbsoluteNamesLandInside) {
  const std::string outside = temp_ / "outside";
  ASSERT_EQ(Flatten({[&](TarWriter& layer) { layer.File(outside, "theirs"); }}), absl::OkStatus());
  EXPECT_EQ(ReadText(outside), "mine");
  EXPECT_EQ(ReadText(root_ + outside), "theirs");
}

TEST_F(LayerFlattenerTest, BombsAreStopped) {
  const Layer zeros = [](TarWriter& layer) { layer.File("zeros", std::string(8 << 20, '\0')); };
  const absl::Status ratio = Flatten({zeros}, {.free_bytes = 1 << 20}, Compression::kGzip);
  EXPECT_EQ(ratio.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(ratio.message()), HasSubstr("zeros"));
  EXPECT_EQ(Flatten({zeros}, {.bytes_max = 1 << 20}).code(), absl::StatusCode::kResourceExhausted);
  const Layer many = [](TarWriter& layer) {
    for (int i = 0; i < 20; ++i) layer.File(std::to_string(i), "");
  };
  EXPECT_EQ(Flatten({many}, {.entries_max = 10}).code(), absl::StatusCode::kResourceExhausted);
  std::string deep;
  for (size_t i = 0; i <= kTreeDepthMax; ++i) deep += "d/";
  EXPECT_EQ(Flatten({[&](TarWriter& layer) { layer.File(deep + "f", ""); }}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(LayerFlattenerTest, DamagedLayersAreRefused) {
  const std::string path = temp_ / "layer";
  TarWriter(path, Compression::kGzip).File("f", std::string(100000, 'x'));
  const std::string whole = ReadText(path);
  for (const std::string& bytes : {whole.substr(0, whole.size() / 2), std::string(4096, 'n')}) {
    WriteText(path, bytes);
    absl::StatusOr<LayerFlattener> flattener = LayerFlattener::Open(root_, {});
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(flattener->Apply(file.get()).code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace sluice
