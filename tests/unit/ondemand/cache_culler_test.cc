#include "ondemand/cache_culler.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace sluice::ondemand {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

// A directory as cachefiles has it, and a kernel that discards what it is told by the thread that says it.
class CacheCullerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/culler-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = fs::canonical(pattern);
    culler_.emplace([this](const std::string& command) { return Say(command); },
                    keeper::Descriptor(open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  }
  void TearDown() override {
    culler_.reset();
    fs::remove_all(dir_);
  }

  static std::string HexOf(char c) { return std::string(64, c); }
  static Digest DigestOf(char c) { return *Digest::ParseHex(HexOf(c)); }

  // `age` orders the copies: a larger one was used longer ago.
  std::string Add(const std::string& directory, const std::string& name, size_t bytes = 4096, int age = 0) {
    fs::create_directories(dir_ / directory);
    const fs::path path = dir_ / directory / name;
    std::ofstream(path) << std::string(bytes, 'x');
    const timespec times[2] = {{1'000'000 - age, 0}, {1'000'000, 0}};
    EXPECT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
    return path;
  }

  int Say(const std::string& command) {
    const std::string name = command.substr(command.find(' ') + 1);
    const fs::path path = fs::read_symlink("/proc/thread-self/cwd") / name;
    said_.push_back(command.substr(0, command.find(' ')) + " " + fs::relative(path, dir_).string());
    if (busy_.contains(path)) return EBUSY;
    if (gone_.contains(path)) return ESTALE;
    return unlink(path.c_str()) == 0 ? 0 : errno;
  }

  fs::path dir_;
  std::vector<std::string> said_;  // on the culler's thread, while we wait for it
  std::set<std::string> busy_;
  std::set<std::string> gone_;
  std::optional<CacheCuller> culler_;
};

TEST_F(CacheCullerTest, DiscardsTheCopiesOfOneBlobInEveryVolume) {
  Add("Ierofs,a/@00", "D" + HexOf('a'));
  Add("Ierofs,b/@ff", "D" + HexOf('a'));
  Add("Ierofs,b/@fe", "D" + HexOf('a') + ".2");
  const std::string other = Add("Ierofs,b/@ff", "D" + HexOf('b'));
  const std::string stranger = Add("Jother/@ff", "D" + HexOf('a'));
  EXPECT_TRUE(culler_->Discard(DigestOf('a')).ok());
  EXPECT_THAT(said_,
              UnorderedElementsAre("cull Ierofs,a/@00/D" + HexOf('a'), "cull Ierofs,b/@ff/D" + HexOf('a'),
                                   "cull Ierofs,b/@fe/D" + HexOf('a') + ".2"));
  EXPECT_TRUE(fs::exists(other));
  EXPECT_TRUE(fs::exists(stranger));
}

TEST_F(CacheCullerTest, CopyInUseIsReportedAndTheOthersAreGone) {
  busy_.insert(Add("Ierofs,a/@00", "D" + HexOf('a')));
  const std::string free = Add("Ierofs,b/@00", "D" + HexOf('a'));
  EXPECT_TRUE(absl::IsFailedPrecondition(culler_->Discard(DigestOf('a'))));
  EXPECT_FALSE(fs::exists(free));
}

TEST_F(CacheCullerTest, WhatIsNotThereOrGoesMeanwhileIsFine) {
  EXPECT_TRUE(culler_->Discard(DigestOf('a')).ok());
  gone_.insert(Add("Ierofs,a/@00", "D" + HexOf('a')));
  EXPECT_TRUE(culler_->Discard(DigestOf('a')).ok());
  EXPECT_EQ(said_.size(), 1u);
}

TEST_F(CacheCullerTest, WorkingDirectoryOfTheProcessStaysWhereItIs) {
  const fs::path before = fs::current_path();
  Add("Ierofs,a/@00", "D" + HexOf('a'));
  EXPECT_TRUE(culler_->Discard(DigestOf('a')).ok());
  EXPECT_EQ(fs::current_path(), before);
  EXPECT_THAT(said_, ElementsAre("cull Ierofs,a/@00/D" + HexOf('a')));
}

TEST_F(CacheCullerTest, MakesRoomFromWhatWasUsedLongestAgoAndNoMore) {
  const std::string newest = Add("Ierofs,a/@00", "D" + HexOf('a'), 8192, 1);
  const std::string oldest = Add("Ierofs,a/@01", "D" + HexOf('b'), 8192, 30);
  const std::string middle = Add("Ierofs,b/@00", "D" + HexOf('c'), 8192, 20);
  const std::string busy = Add("Ierofs,b/@01", "D" + HexOf('d'), 8192, 40);
  busy_.insert(busy);
  const uint64_t size = culler_->Size();
  EXPECT_GE(size, 4 * 8192u);
  EXPECT_EQ(culler_->MakeRoom(size / 2), size / 2);
  EXPECT_TRUE(fs::exists(newest));
  EXPECT_FALSE(fs::exists(oldest));
  EXPECT_FALSE(fs::exists(middle));
  EXPECT_TRUE(fs::exists(busy));
  EXPECT_EQ(culler_->Size(), size / 2);
}

TEST_F(CacheCullerTest, TakesRangesOutOfCopiesThatAreInUse) {
  const std::string one = Add("Ierofs,a/@00", "D" + HexOf('a'), 32768);
  const std::string two = Add("Ierofs,b/@01", "D" + HexOf('a') + ".2", 32768);
  const std::string other = Add("Ierofs,b/@01", "D" + HexOf('b'), 32768);
  busy_ = {one, two, other};
  const auto bytes_of = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  ASSERT_TRUE(culler_->Drop(HexOf('a'), {{4096, 8192}, {28672, 8192}}).ok());
  const std::string left =
      std::string(4096, 'x') + std::string(8192, '\0') + std::string(16384, 'x') + std::string(4096, '\0');
  EXPECT_EQ(bytes_of(one), left);
  EXPECT_EQ(bytes_of(two), left);
  EXPECT_EQ(bytes_of(other), std::string(32768, 'x'));
  const keeper::Descriptor file(open(one.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(lseek(file.get(), 4096, SEEK_DATA), 12288) << "zeros that are data would be read";
  EXPECT_TRUE(culler_->Drop(HexOf('c'), {{0, 4096}}).ok());
  EXPECT_THAT(said_, testing::IsEmpty());
}

TEST_F(CacheCullerTest, CopyThatCanNotBeChangedIsReported) {
  const std::string path = Add("Ierofs,a/@00", "D" + HexOf('a'));
  fs::remove(path);
  fs::create_symlink("/dev/null", path);
  EXPECT_TRUE(absl::IsUnavailable(culler_->Drop(HexOf('a'), {{0, 4096}})));
}

TEST_F(CacheCullerTest, TellsThatThereIsNothingToDiscard) {
  EXPECT_EQ(culler_->MakeRoom(1), 0u);
  busy_.insert(Add("Ierofs,a/@00", "D" + HexOf('a')));
  EXPECT_EQ(culler_->MakeRoom(1), 0u);
}

TEST_F(CacheCullerTest, ClosesWhatItOpens) {
  Add("Ierofs,a/@00", "D" + HexOf('a'));
  const auto count = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  const auto before = count();
  culler_->MakeRoom(1);
  EXPECT_TRUE(culler_->Discard(DigestOf('a')).ok());
  EXPECT_EQ(count(), before);
}

}  // namespace
}  // namespace sluice::ondemand
