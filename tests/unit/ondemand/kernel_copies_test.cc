#include "ondemand/keeper/cachefiles/kernel_copies.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "ondemand/keeper/descriptor.h"

namespace sluice::keeper {
namespace {

namespace fs = std::filesystem;

constexpr char kKernelsAttribute[] = "user.CacheFiles.cache";
constexpr char kCookie[] = "0123456789abcdef";
constexpr size_t kBytes = 3 * 4096;

// A cache's directory as the kernel would have it, on a file system that has what cachefiles needs of one.
class KernelCopiesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/var/tmp/sluice-copies-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    fs::create_directories(Fan("dom"));
    Open();
  }
  void TearDown() override { fs::remove_all(dir_); }

  void Open() { cache_.reset(open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }
  std::string Fan(const std::string& volume) const { return dir_ + "/Ierofs," + volume + "/@c7"; }
  std::string PathOf(const std::string& volume = "dom") const { return Fan(volume) + "/D" + kCookie; }

  // As the kernel leaves it when it gives it its name.
  void Make(char byte = 'x') {
    std::ofstream(PathOf(), std::ios::binary) << std::string(kBytes, byte);
    ASSERT_EQ(setxattr(PathOf().c_str(), kKernelsAttribute, "k", 1, 0), 0) << "needs user attributes";
  }
  CopyFound Prove(const std::string& volume = "dom") {
    const Result<CopyFound> found = ProveCopy(cache_.get(), volume, kCookie);
    EXPECT_TRUE(found.ok()) << found.error().text;
    return found.ok() ? found.value() : CopyFound::kNone;
  }
  static std::string Content(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  void Fill(char byte) { std::fstream(PathOf(), std::ios::in | std::ios::out) << std::string(kBytes, byte); }
  // What there is of data, as the kernel asks.
  static bool HasData(const std::string& path) {
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    return lseek(file.get(), 0, SEEK_DATA) >= 0;
  }
  // As `cp -a`: all bytes, and all attributes.
  static void CopyAll(const std::string& from, const std::string& to) {
    std::ofstream(to, std::ios::binary) << Content(from);
    for (const char* name : {kKernelsAttribute, kCopyMarkName}) {
      std::array<char, 64> value{};
      const ssize_t length = getxattr(from.c_str(), name, value.data(), value.size());
      ASSERT_GT(length, 0) << name;
      ASSERT_EQ(setxattr(to.c_str(), name, value.data(), static_cast<size_t>(length), 0), 0);
    }
  }

  std::string dir_;
  Descriptor cache_;
};

TEST_F(KernelCopiesTest, WhatHasNoNameYetIsNotThere) {
  EXPECT_EQ(Prove(), CopyFound::kNone);
  EXPECT_EQ(Prove("another"), CopyFound::kNone) << "no such volume";
  EXPECT_FALSE(fs::exists(PathOf()));
}

TEST_F(KernelCopiesTest, ACopyThatWasNeverMarkedIsEmptiedAndFromThenOnItIsProven) {
  Make();
  EXPECT_EQ(Prove(), CopyFound::kNew);
  EXPECT_FALSE(HasData(PathOf()));
  EXPECT_EQ(fs::file_size(PathOf()), kBytes);
  Fill('y');
  EXPECT_EQ(Prove(), CopyFound::kProven);
  EXPECT_EQ(Content(PathOf()), std::string(kBytes, 'y'));
}

TEST_F(KernelCopiesTest, AMovedCacheIsStillProven) {
  Make();
  Prove();
  Fill('y');
  const std::string elsewhere = dir_ + ".moved";
  fs::rename(dir_, elsewhere);
  dir_ = elsewhere;
  Open();
  EXPECT_EQ(Prove(), CopyFound::kProven);
  EXPECT_EQ(Content(PathOf()), std::string(kBytes, 'y'));
}

TEST_F(KernelCopiesTest, WhatABackupPutsInItsPlaceIsEmptied) {
  Make();
  Prove();
  Fill('y');
  // Beside it while it is there, so that it can't have the same inode; then by a rename, as rsync does it.
  CopyAll(PathOf(), dir_ + "/copy");
  fs::rename(dir_ + "/copy", PathOf());
  EXPECT_TRUE(HasData(PathOf()));
  EXPECT_EQ(Prove(), CopyFound::kForeign);
  EXPECT_FALSE(HasData(PathOf()));
  EXPECT_EQ(fs::file_size(PathOf()), kBytes);
  EXPECT_EQ(Prove(), CopyFound::kProven) << "emptied once";
}

TEST_F(KernelCopiesTest, ACopyWithTheInodeOfARemovedOneIsEmptied) {
  Make();
  Prove();
  Fill('y');
  struct stat before {};
  ASSERT_EQ(stat(PathOf().c_str(), &before), 0);
  const std::string kept = dir_ + "/backup";
  CopyAll(PathOf(), kept);
  // File systems give the lowest inode that is free: one of these is it.
  ASSERT_TRUE(fs::remove(PathOf()));
  bool same_inode = false;
  for (int i = 0; i < 64 && !same_inode; ++i) {
    const std::string candidate = Fan("dom") + "/candidate" + std::to_string(i);
    CopyAll(kept, candidate);
    struct stat now {};
    ASSERT_EQ(stat(candidate.c_str(), &now), 0);
    same_inode = now.st_ino == before.st_ino;
    if (same_inode) fs::rename(candidate, PathOf());
  }
  if (!same_inode) fs::rename(Fan("dom") + "/candidate0", PathOf());
  RecordProperty("same_inode", same_inode ? 1 : 0);
  EXPECT_EQ(Prove(), CopyFound::kForeign);
  EXPECT_FALSE(HasData(PathOf()));
}

TEST_F(KernelCopiesTest, MarksOfAnotherLengthProveNothing) {
  for (const size_t length : {0, 1, 15, 17, 64}) {
    Make();
    ASSERT_EQ(setxattr(PathOf().c_str(), kCopyMarkName, std::string(length, '\0').data(), length, 0), 0);
    EXPECT_EQ(Prove(), CopyFound::kForeign) << length;
    EXPECT_FALSE(HasData(PathOf())) << length;
  }
}

TEST_F(KernelCopiesTest, WhatTheKernelWouldReplaceIsRemoved) {
  Make();
  Prove();
  Fill('y');
  ASSERT_EQ(removexattr(PathOf().c_str(), kKernelsAttribute), 0);  // as of `cp -r`
  const Descriptor kernels(open(PathOf().c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(Prove(), CopyFound::kNone);
  EXPECT_FALSE(fs::exists(PathOf()));
  EXPECT_EQ(fgetxattr(kernels.get(), kKernelsAttribute, nullptr, 0), 1)
      << "it has it open, and gives it up by this";
}

TEST_F(KernelCopiesTest, WhatCannotBeEmptiedIsAnError) {
  fs::copy_file("/bin/sleep", PathOf());
  ASSERT_EQ(setxattr(PathOf().c_str(), kKernelsAttribute, "k", 1, 0), 0);
  const std::string before = Content(PathOf());
  // A program that runs can't be written to. The pipe ends when it does.
  std::array<int, 2> pipe{};
  ASSERT_EQ(pipe2(pipe.data(), O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) {
    execl(PathOf().c_str(), "sleep", "600", nullptr);
    _exit(127);
  }
  close(pipe[1]);
  char none = 0;
  EXPECT_EQ(read(pipe[0], &none, 1), 0);
  close(pipe[0]);
  const Result<CopyFound> found = ProveCopy(cache_.get(), "dom", kCookie);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.error().code, ETXTBSY);
  EXPECT_THAT(found.error().text, testing::HasSubstr(kCookie));
  EXPECT_EQ(Content(PathOf()), before);
}

TEST_F(KernelCopiesTest, VolumesWithoutTheKernelsAttributeGetOneAndNothingElseDoes) {
  const std::string volume = dir_ + "/Ierofs,dom";
  const std::string other = dir_ + "/Ierofs,other";
  const std::string strangers = dir_ + "/Infs,dom";
  fs::create_directory(other);
  fs::create_directory(strangers);
  ASSERT_EQ(setxattr(other.c_str(), kKernelsAttribute, "kernel", 6, 0), 0);
  EXPECT_EQ(MendVolumes(cache_.get()), 1u);
  std::array<char, 8> value{'x', 'x', 'x', 'x'};
  EXPECT_EQ(getxattr(volume.c_str(), kKernelsAttribute, value.data(), value.size()), 4);
  EXPECT_EQ(std::string(value.data(), 4), std::string(4, '\0'));
  EXPECT_EQ(getxattr(other.c_str(), kKernelsAttribute, value.data(), value.size()), 6);
  EXPECT_LT(getxattr(strangers.c_str(), kKernelsAttribute, value.data(), value.size()), 0);
  EXPECT_EQ(MendVolumes(cache_.get()), 0u);
}

TEST_F(KernelCopiesTest, ListsTheFilesOfOneVolume) {
  Make();
  fs::create_directories(dir_ + "/Ierofs,dom/@00");
  std::ofstream(dir_ + "/Ierofs,dom/@00/Dother");
  fs::create_directories(Fan("another"));
  std::ofstream(PathOf("another"));
  EXPECT_THAT(FilesOfVolume(cache_.get(), "dom"),
              testing::UnorderedElementsAre(CopyFileName(kCookie), "Dother"));
  EXPECT_THAT(FilesOfVolume(cache_.get(), "none"), testing::IsEmpty());
}

}  // namespace
}  // namespace sluice::keeper
