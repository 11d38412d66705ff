#include "node/image/folder_reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/image/read_layer.h"
#include "tests/unit/image/temp_tree.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class FolderReaderTest : public ::testing::Test {
 protected:
  std::unique_ptr<FolderReader> Open(LayerLimits limits = {}) {
    auto reader = FolderReader::Open(tree_.path(), limits, usage_);
    EXPECT_EQ(reader.status(), absl::OkStatus());
    return *std::move(reader);
  }

  absl::StatusOr<std::vector<EntryRead>> Read(LayerLimits limits = {}) {
    const auto reader = Open(limits);
    return ReadAll(*reader);
  }

  std::map<std::string, EntryRead> ByPath() {
    const auto entries = Read();
    EXPECT_EQ(entries.status(), absl::OkStatus());
    std::map<std::string, EntryRead> by_path;
    if (entries.ok()) {
      for (const EntryRead& read : *entries) by_path[read.entry.path] = read;
    }
    return by_path;
  }

  // Goes on to the entry of a path.
  void GoTo(FolderReader& reader, const std::string& path) {
    LayerEntry entry;
    while (entry.path != path) ASSERT_TRUE(reader.Next(entry).value_or(false));
  }

  std::string At(const std::string& path) const { return tree_ / path; }

  TempTree tree_;
  LayerUsage usage_;
};

TEST_F(FolderReaderTest, GivesParentsFirstAndNamesInTheOrderOfTheirBytes) {
  for (const char* const name : {"b", "a", "a.d", "\xff", "Z"}) WriteText(At(name), name);
  std::filesystem::create_directories(At("a-d/x/y"));
  WriteText(At("a-d/x.txt"), "");
  const auto entries = Read();
  ASSERT_EQ(entries.status(), absl::OkStatus());
  std::vector<std::string> paths;
  for (const EntryRead& read : *entries) paths.push_back(read.entry.path);
  EXPECT_THAT(paths, ElementsAre(".", "Z", "a", "a-d", "a-d/x", "a-d/x/y", "a-d/x.txt", "a.d", "b", "\xff"));
  EXPECT_EQ(usage_.entries, 10u);
  EXPECT_EQ(usage_.bytes, 7u);
}

TEST_F(FolderReaderTest, ReadsEveryKindOfFile) {
  SLUICE_REQUIRE_ROOT();
  WriteText(At("file"), "contents");
  ASSERT_EQ(symlink("no/such\nplace", At("link").c_str()), 0);
  ASSERT_EQ(mkfifo(At("fifo").c_str(), 0600), 0);
  ASSERT_EQ(mknod(At("char").c_str(), S_IFCHR | 0666, makedev(5, 1)), 0);
  ASSERT_EQ(mknod(At("block").c_str(), S_IFBLK | 0660, makedev(259, 70000)), 0);
  const int socket_fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  At("socket").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(socket_fd);
  ASSERT_EQ(chown(At("file").c_str(), 70000, 80000), 0);
  ASSERT_EQ(chmod(At("file").c_str(), 06751), 0);
  ASSERT_EQ(lchown(At("link").c_str(), 5, 6), 0);
  const timespec times[2] = {{1, 2}, {-3, 999999999}};
  ASSERT_EQ(utimensat(AT_FDCWD, At("file").c_str(), times, 0), 0);

  const auto files = ByPath();
  ASSERT_EQ(files.size(), 7u);
  EXPECT_EQ(files.at("file").entry.kind, EntryKind::kRegular);
  EXPECT_EQ(files.at("file").Contents(), "contents");
  EXPECT_EQ(files.at("file").entry.attributes, (FileAttributes{.uid = 70000,
                                                               .gid = 80000,
                                                               .permissions = 06751,
                                                               .mtime_s = -3,
                                                               .mtime_ns = 999999999,
                                                               .xattrs = {}}));
  EXPECT_EQ(files.at("link").entry.kind, EntryKind::kSymlink);
  EXPECT_EQ(files.at("link").entry.target, "no/such\nplace");
  EXPECT_EQ(files.at("link").entry.attributes.uid, 5u);
  EXPECT_EQ(files.at("fifo").entry.kind, EntryKind::kFifo);
  EXPECT_EQ(files.at("socket").entry.kind, EntryKind::kSocket);
  EXPECT_EQ(files.at("char").entry.kind, EntryKind::kCharDevice);
  EXPECT_EQ(files.at("char").entry.device_major, 5u);
  EXPECT_EQ(files.at("block").entry.kind, EntryKind::kBlockDevice);
  EXPECT_EQ(files.at("block").entry.device_major, 259u);
  EXPECT_EQ(files.at("block").entry.device_minor, 70000u);
}

TEST_F(FolderReaderTest, GivesLaterNamesAsLinksToTheFirst) {
  std::filesystem::create_directories(At("d"));
  WriteText(At("d/b"), "same");
  ASSERT_EQ(link(At("d/b").c_str(), At("c").c_str()), 0);
  ASSERT_EQ(link(At("d/b").c_str(), At("z").c_str()), 0);
  ASSERT_EQ(symlink("to", At("s1").c_str()), 0);
  ASSERT_EQ(link(At("s1").c_str(), At("s2").c_str()), 0);
  WriteText(At("other"), "same");
  const auto files = ByPath();
  EXPECT_EQ(files.at("c").entry.kind, EntryKind::kRegular);
  EXPECT_EQ(files.at("c").Contents(), "same");
  for (const char* const later : {"d/b", "z"}) {
    EXPECT_EQ(files.at(later).entry.kind, EntryKind::kHardLink);
    EXPECT_EQ(files.at(later).entry.target, "c");
    EXPECT_THAT(files.at(later).runs, IsEmpty());
  }
  EXPECT_EQ(files.at("s1").entry.kind, EntryKind::kSymlink);
  EXPECT_EQ(files.at("s2").entry.kind, EntryKind::kHardLink);
  EXPECT_EQ(files.at("s2").entry.target, "s1");
  EXPECT_EQ(files.at("other").entry.kind, EntryKind::kRegular);
  EXPECT_EQ(usage_.bytes, 8u);
}

TEST_F(FolderReaderTest, ReadsXattrsAlsoOfLinksAndDirectories) {
  SLUICE_REQUIRE_ROOT();
  WriteText(At("file"), "");
  ASSERT_EQ(symlink("nowhere", At("link").c_str()), 0);
  const std::string value("\0\xff=", 3);
  ASSERT_EQ(setxattr(At("file").c_str(), "user.a", value.data(), value.size(), 0), 0);
  ASSERT_EQ(setxattr(At("file").c_str(), "user.empty", "", 0, 0), 0);
  ASSERT_EQ(lsetxattr(At("link").c_str(), "trusted.l", "v", 1, 0), 0);
  ASSERT_EQ(setxattr(tree_.path().c_str(), "user.root", "r", 1, 0), 0);
  const auto files = ByPath();
  EXPECT_THAT(files.at("file").entry.attributes.xattrs,
              ElementsAre(Pair("user.a", value), Pair("user.empty", "")));
  EXPECT_THAT(files.at("link").entry.attributes.xattrs, ElementsAre(Pair("trusted.l", "v")));
  EXPECT_THAT(files.at(".").entry.attributes.xattrs, ElementsAre(Pair("user.root", "r")));
  const absl::Status bounded = Read({.xattr_bytes_max = 17}).status();
  EXPECT_EQ(bounded.code(), absl::StatusCode::kResourceExhausted) << bounded;
  EXPECT_THAT(std::string(bounded.message()), HasSubstr("file \"file\": its extended attributes"));
}

TEST_F(FolderReaderTest, LeavesTheLabelsOfThisHostOut) {
  SLUICE_REQUIRE_ROOT();
  const std::string label = "system_u:object_r:default_t:s0";
  for (const char* const name : {"a", "b"}) {
    WriteText(At(name), "");
    ASSERT_EQ(setxattr(At(name).c_str(), "security.selinux", label.c_str(), label.size() + 1, 0), 0);
  }
  ASSERT_EQ(setxattr(At("b").c_str(), "security.sluice", "v", 1, 0), 0);
  const auto reader = Open();
  const auto entries = ReadAll(*reader);
  ASSERT_EQ(entries.status(), absl::OkStatus());
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_THAT((*entries)[1].entry.attributes.xattrs, IsEmpty());
  EXPECT_THAT((*entries)[2].entry.attributes.xattrs, ElementsAre(Pair("security.sluice", "v")));
  EXPECT_EQ(reader->notices().Of(NoticeKind::kHostLabel).count, 2u);
  EXPECT_EQ(reader->notices().Of(NoticeKind::kHostLabel).first, "\"a\"");
}

TEST_F(FolderReaderTest, ReadsDataBetweenHoles) {
  const int fd = open(At("sparse").c_str(), O_CREAT | O_WRONLY, 0644);
  ASSERT_EQ(pwrite(fd, "data", 4, int64_t{5} << 30), 4);
  ASSERT_EQ(ftruncate(fd, int64_t{8} << 30), 0);
  close(fd);
  ASSERT_EQ(truncate(At("sparse").c_str(), int64_t{8} << 30), 0);
  const auto reader = Open();
  GoTo(*reader, "sparse");
  ContentRun run;
  uint64_t bytes = 0;
  bool found = false;
  while (bytes < 1 << 20 && reader->NextRun(run).value_or(false)) {
    bytes += run.bytes.size();
    const std::string text(reinterpret_cast<const char*>(run.bytes.data()), run.bytes.size());
    found =
        found || (run.offset <= uint64_t{5} << 30 && text.find("data") == (uint64_t{5} << 30) - run.offset);
  }
  EXPECT_TRUE(found);
  EXPECT_LT(bytes, 1u << 20) << "holes were read";
  const auto files = ReadAll(*reader);
  EXPECT_EQ(files.status(), absl::OkStatus());
  EXPECT_EQ(usage_.bytes, uint64_t{8} << 30);
}

TEST_F(FolderReaderTest, RefusesAFileThatChangesWhileItIsRead) {
  const std::string big(1 << 20, 'b');
  const std::vector<std::pair<std::string, std::function<void()>>> changes = {
      {"shorter", [&] { ASSERT_EQ(truncate(At("file").c_str(), 300000), 0); }},
      {"longer", [&] { std::ofstream(At("file"), std::ios::app) << "more"; }},
      {"other",
       [&] {
         ASSERT_EQ(rename(At("file").c_str(), At("old").c_str()), 0);
         WriteText(At("file"), big);
       }},
      {"a pipe",
       [&] {
         ASSERT_EQ(unlink(At("file").c_str()), 0);
         ASSERT_EQ(mkfifo(At("file").c_str(), 0600), 0);
       }},
      {"a link",
       [&] {
         ASSERT_EQ(unlink(At("file").c_str()), 0);
         ASSERT_EQ(symlink("/etc/passwd", At("file").c_str()), 0);
       }},
      {"gone", [&] { ASSERT_EQ(unlink(At("file").c_str()), 0); }},
  };
  for (const auto& [name, change] : changes) {
    SCOPED_TRACE(name);
    for (const bool when_open : {false, true}) {
      // A file that is open is read on, whatever becomes of its name.
      if (when_open && name != "shorter" && name != "longer") continue;
      std::filesystem::remove(At("file"));
      std::filesystem::remove(At("old"));
      WriteText(At("file"), big);
      const auto reader = Open();
      GoTo(*reader, "file");
      ContentRun run;
      if (when_open) {
        ASSERT_TRUE(reader->NextRun(run).value_or(false));
      }
      change();
      absl::StatusOr<bool> more = true;
      while (more.ok() && *more) more = reader->NextRun(run);
      EXPECT_EQ(more.status().code(), absl::StatusCode::kAborted) << more.status();
      EXPECT_THAT(std::string(more.status().message()), HasSubstr("file \"file\": it"));
      LayerEntry entry;
      EXPECT_EQ(reader->Next(entry).status(), more.status()) << "errors stay";
    }
  }
}

TEST_F(FolderReaderTest, SaysThatAFileIsGone) {
  WriteText(At("a"), "");
  WriteText(At("b"), "");
  const auto reader = Open();
  GoTo(*reader, "a");
  ASSERT_EQ(unlink(At("b").c_str()), 0);
  LayerEntry entry;
  const absl::Status status = reader->Next(entry).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"b\""));
}

// Deeper than there are descriptors, and than a path may be long.
TEST_F(FolderReaderTest, ReadsDeepTrees) {
  constexpr size_t kDepth = 3000;
  int fd = open(tree_.path().c_str(), O_RDONLY | O_DIRECTORY);
  for (size_t i = 0; i < kDepth; ++i) {
    ASSERT_EQ(mkdirat(fd, "dd", 0755), 0);
    close(openat(fd, "f", O_CREAT | O_WRONLY, 0644));
    const int below = openat(fd, "dd", O_RDONLY | O_DIRECTORY);
    close(fd);
    fd = below;
  }
  close(fd);
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit few{100, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const auto entries = Read();
  setrlimit(RLIMIT_NOFILE, &limit);
  ASSERT_EQ(entries.status(), absl::OkStatus());
  EXPECT_EQ(entries->size(), 2 * kDepth + 1);
  EXPECT_EQ((*entries)[kDepth].entry.path.size(), 3 * kDepth - 1);
  EXPECT_EQ(entries->back().entry.path, "f");
}

TEST_F(FolderReaderTest, NamesWhatCannotBeRead) {
  SLUICE_REQUIRE_ROOT();
  WriteText(At("open"), "x");
  WriteText(At("secret"), "x");
  ASSERT_EQ(chmod(At("secret").c_str(), 0600), 0);
  ASSERT_EQ(chmod(tree_.path().c_str(), 0755), 0);
  ASSERT_EQ(seteuid(65534), 0);
  std::vector<EntryRead> read;
  const auto reader = Open();
  const absl::Status status = ReadAll(*reader, &read).status();
  ASSERT_EQ(seteuid(0), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("file \"secret\": it can't be opened"));
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[1].Contents(), "x");
  EXPECT_EQ(FolderReader::Open(At("nowhere"), {}, usage_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FolderReaderTest, CountsWithTheOtherLayers) {
  WriteText(At("a"), "12345");
  usage_ = {.bytes = 6, .entries = 1};
  const absl::Status status = Read({.bytes_max = 10}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("file \"a\": with it the image's files have more than 10 bytes"));
}

}  // namespace
}  // namespace sluice
