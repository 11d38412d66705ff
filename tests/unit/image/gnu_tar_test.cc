// What GNU tar writes of a directory, in every format that it has, is read as the directory itself is.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "node/image/folder_reader.h"
#include "node/image/layer_stream.h"
#include "node/image/tar_reader.h"
#include "tests/unit/image/read_layer.h"
#include "tests/unit/image/temp_tree.h"

namespace sluice {
namespace {

class GnuTarTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SLUICE_REQUIRE_ROOT();
    std::filesystem::create_directories(At("dir/empty"));
    WriteText(At("dir/file"), "contents");
    WriteText(At("dir/large"), std::string(300000, 'l'));
    WriteText(At("nothing"), "");
    ASSERT_EQ(link(At("dir/file").c_str(), At("hard").c_str()), 0);
    ASSERT_EQ(symlink("dir/file", At("symlink").c_str()), 0);
    ASSERT_EQ(mkfifo(At("fifo").c_str(), 0600), 0);
    ASSERT_EQ(mknod(At("char").c_str(), S_IFCHR | 0666, makedev(5, 1)), 0);
    ASSERT_EQ(chown(At("nothing").c_str(), 1234, 56789), 0);
    ASSERT_EQ(chmod(At("nothing").c_str(), 06751), 0);
  }

  std::string At(const std::string& path) const { return tree_ / path; }

  void WriteSparse(const std::string& name, size_t runs) {
    const int fd = open(At(name).c_str(), O_CREAT | O_WRONLY, 0644);
    for (size_t i = 0; i < runs; ++i) {
      ASSERT_EQ(pwrite(fd, "data", 4, static_cast<off_t>((2 * i + 1) << 16)), 4);
    }
    ASSERT_EQ(ftruncate(fd, static_cast<off_t>((2 * runs + 1) << 16) + 5), 0);
    close(fd);
  }

  std::vector<EntryRead> ReadFolder() {
    LayerUsage usage;
    auto reader = FolderReader::Open(tree_.path(), {}, usage);
    EXPECT_EQ(reader.status(), absl::OkStatus());
    auto entries = ReadAll(**reader);
    EXPECT_EQ(entries.status(), absl::OkStatus());
    return *std::move(entries);
  }

  // By tar with these options.
  std::vector<EntryRead> ReadArchive(const std::string& options) {
    const std::string layer = work_ / "layer";
    const std::string command = "tar --create --sort=name --numeric-owner " + options + " --file=" + layer +
                                " --directory=" + tree_.path() + " .";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    const UniqueFd fd(open(layer.c_str(), O_RDONLY | O_CLOEXEC));
    auto stream = LayerStream::Open(std::make_unique<FileStream>(fd.get()), uint64_t{1} << 40);
    EXPECT_EQ(stream.status(), absl::OkStatus());
    LayerUsage usage;
    TarReader reader(**stream, {}, usage);
    auto entries = ReadAll(reader);
    EXPECT_EQ(entries.status(), absl::OkStatus());
    EXPECT_EQ((*stream)->Finish().status(), absl::OkStatus());
    return entries.ok() ? *std::move(entries) : std::vector<EntryRead>();
  }

  // Names as the folder's, and times of whole seconds.
  static std::string Cleaned(std::string path) {
    if (path.starts_with("./")) path.erase(0, 2);
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    return path.empty() ? "." : path;
  }

  void ExpectEqual(const std::string& options, bool nanoseconds) {
    SCOPED_TRACE(options);
    std::vector<EntryRead> folder = ReadFolder();
    std::vector<EntryRead> archive = ReadArchive(options);
    ASSERT_EQ(archive.size(), folder.size());
    for (size_t i = 0; i < folder.size(); ++i) {
      LayerEntry& wanted = folder[i].entry;
      LayerEntry& read = archive[i].entry;
      SCOPED_TRACE(wanted.path);
      EXPECT_EQ(Cleaned(read.path), wanted.path);
      EXPECT_EQ(read.kind, wanted.kind);
      EXPECT_EQ(wanted.kind == EntryKind::kHardLink ? Cleaned(read.target) : read.target, wanted.target);
      EXPECT_EQ(read.size, wanted.size);
      EXPECT_TRUE(archive[i].Contents() == folder[i].Contents());
      EXPECT_EQ(read.device_major, wanted.device_major);
      EXPECT_EQ(read.device_minor, wanted.device_minor);
      if (!nanoseconds) wanted.attributes.mtime_ns = 0;
      // A later name's attributes are its file's.
      if (wanted.kind != EntryKind::kHardLink) {
        EXPECT_TRUE(read.attributes == wanted.attributes);
      }
    }
  }

  TempTree tree_;
  TempTree work_;
};

TEST_F(GnuTarTest, EveryFormatIsReadAsTheDirectoryIs) {
  std::filesystem::remove(At("char"));  // V7 has no devices
  std::filesystem::remove(At("fifo"));
  ExpectEqual("--format=v7", false);
}

TEST_F(GnuTarTest, EveryFormatWithDevicesToo) {
  for (const char* const format : {"ustar", "oldgnu", "gnu"})
    ExpectEqual(std::string("--format=") + format, false);
  ExpectEqual("--format=posix", true);
  ExpectEqual("--format=posix --pax-option=exthdr.name=x,comment=y", true);
}

TEST_F(GnuTarTest, LongNamesAndAnyBytes) {
  const std::string segment(200, 'n');
  std::filesystem::create_directories(At(segment + "/" + segment));
  WriteText(At(segment + "/" + segment + "/caf\xc3\xa9 cafe\xcc\x81 \xff\n\\\t"), "x");
  ASSERT_EQ(symlink((segment + "/" + segment).c_str(), At("long").c_str()), 0);
  ASSERT_EQ(
      link(At(segment + "/" + segment + "/caf\xc3\xa9 cafe\xcc\x81 \xff\n\\\t").c_str(), At("zz").c_str()),
      0);
  for (const char* const format : {"oldgnu", "gnu"}) ExpectEqual(std::string("--format=") + format, false);
  ExpectEqual("--format=posix", true);
}

TEST_F(GnuTarTest, FarOwnersAndTimes) {
  ASSERT_EQ(chown(At("nothing").c_str(), 4294967294, 3000000000), 0);
  const timespec times[2] = {{1, 2}, {-3, 999999999}};
  ASSERT_EQ(utimensat(AT_FDCWD, At("nothing").c_str(), times, 0), 0);
  const timespec far[2] = {{1, 2}, {9000000000, 123456789}};
  ASSERT_EQ(utimensat(AT_FDCWD, At("dir/file").c_str(), far, 0), 0);
  ExpectEqual("--format=gnu", false);
  ExpectEqual("--format=posix", true);
}

TEST_F(GnuTarTest, SparseFiles) {
  WriteSparse("one", 1);
  WriteSparse("some", 30);
  WriteSparse("many", 500);
  WriteSparse("hole", 0);
  for (const char* const format : {"oldgnu", "gnu"}) {
    ExpectEqual(std::string("--sparse --format=") + format, false);
  }
  for (const char* const version : {"0.0", "0.1", "1.0"}) {
    ExpectEqual(std::string("--format=posix --sparse --sparse-version=") + version, true);
  }
}

TEST_F(GnuTarTest, ExtendedAttributes) {
  const std::string value("\0=\n\xff", 4);
  ASSERT_EQ(setxattr(At("dir/file").c_str(), "user.a", value.data(), value.size(), 0), 0);
  ASSERT_EQ(setxattr(At("dir").c_str(), "trusted.b", "v", 1, 0), 0);
  ASSERT_EQ(setxattr(At("nothing").c_str(), "user.empty", "", 0, 0), 0);
  const std::string capability("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  ASSERT_EQ(setxattr(At("dir/large").c_str(), "security.capability", capability.data(), capability.size(), 0),
            0);
  ExpectEqual("--format=posix --xattrs --xattrs-include='*'", true);
}

TEST_F(GnuTarTest, ThroughACompressor) {
  ExpectEqual("--format=posix --gzip", true);
}

}  // namespace
}  // namespace sluice
