#include "index/data_dir.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

namespace fs = std::filesystem;

bool Mentions(const absl::Status& status, const std::string& text) {
  return std::string(status.message()).find(text) != std::string::npos;
}

TEST(DataDir, MakesItsLayoutBelowMissingParents) {
  TempDir temp;
  const absl::StatusOr<DataDir> dir = DataDir::OpenAndLock(temp.path() + "/a/b");
  ASSERT_TRUE(dir.ok()) << dir.status();
  EXPECT_TRUE(fs::is_directory(dir->blobs_path()));
  EXPECT_TRUE(fs::is_directory(dir->path() + "/recipes"));
  EXPECT_TRUE(fs::exists(dir->path() + "/VERSION"));
}

TEST(DataDir, SecondHolderIsRefusedAndToldTheFirst) {
  TempDir temp;
  absl::StatusOr<DataDir> first = DataDir::OpenAndLock(temp.path() + "/d");
  ASSERT_TRUE(first.ok());
  const absl::Status second = DataDir::OpenAndLock(temp.path() + "/d").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
  EXPECT_TRUE(Mentions(second, absl::StrCat("process ", ::getpid()))) << second;
  { const DataDir released = *std::move(first); }
  EXPECT_TRUE(DataDir::OpenAndLock(temp.path() + "/d").ok());
}

TEST(DataDir, LockIsNotInheritedByPrograms) {
  TempDir temp;
  absl::StatusOr<DataDir> dir = DataDir::OpenAndLock(temp.path());
  ASSERT_TRUE(dir.ok());
  size_t inheritable = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    const int fd = std::stoi(entry.path().filename().string());
    std::error_code error;
    const bool ours = fs::read_symlink(entry.path(), error).string().starts_with(temp.path());
    if (ours && !(::fcntl(fd, F_GETFD) & FD_CLOEXEC)) ++inheritable;
  }
  EXPECT_EQ(inheritable, 0u);
}

TEST(DataDir, AFileIsNotADirectory) {
  TempDir temp;
  std::ofstream(temp.path() + "/file") << "x";
  for (const char* path : {"/file", "/file/below"}) {
    const absl::Status status = DataDir::OpenAndLock(temp.path() + path).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_TRUE(Mentions(status, "not a directory")) << status;
  }
}

TEST(DataDir, OtherVersionsLayoutIsRefused) {
  TempDir temp;
  { ASSERT_TRUE(DataDir::OpenAndLock(temp.path()).ok()); }
  std::ofstream(temp.path() + "/VERSION") << "sluice store 2\n";
  const absl::Status status = DataDir::OpenAndLock(temp.path()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(Mentions(status, "another version")) << status;
}

TEST(DataDir, ForeignDirectoryIsNotTakenOver) {
  TempDir temp;
  for (const char* folder : {"/blobs", "/index", "/recipes"}) {
    fs::create_directory(temp.path() + folder);
    const absl::Status status = DataDir::OpenAndLock(temp.path()).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_FALSE(fs::exists(temp.path() + "/VERSION"));
    fs::remove(temp.path() + folder);
  }
}

TEST(DataDir, UnwritableDirectoryIsSaidSo) {
  TempDir temp;
  fs::create_directory(temp.path() + "/d");
  fs::permissions(temp.path(), fs::perms::all);
  fs::permissions(temp.path() + "/d", fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read |
                                          fs::perms::others_exec);
  // Root may write everywhere, so a child of another user tries.
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    ::_exit(absl::IsPermissionDenied(DataDir::OpenAndLock(temp.path() + "/d").status()) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(DataDir, KeepsOnlyTheLastDamagedIndex) {
  TempDir temp;
  const DataDir dir = *DataDir::OpenAndLock(temp.path());
  ASSERT_TRUE(dir.SetIndexAside().ok()) << "nothing to set aside";
  for (int i = 1; i <= 3; ++i) {
    fs::create_directory(dir.index_path());
    ASSERT_TRUE(dir.SetIndexAside().ok());
    EXPECT_FALSE(fs::exists(dir.index_path()));
    EXPECT_TRUE(fs::exists(absl::StrCat(temp.path(), "/index.damaged-", i)));
    EXPECT_FALSE(fs::exists(absl::StrCat(temp.path(), "/index.damaged-", i - 1)));
  }
}

}  // namespace
}  // namespace sluice::index
