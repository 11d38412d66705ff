#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "ondemand/door.h"
#include "ondemand/keeper/fuse/loop_device.h"
#include "ondemand/probe.h"
#include "tests/kernel/image_fixture.h"

namespace sluice::ondemand::test {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::Not;

constexpr uint64_t kPageBytes = 4096;

class FuseDoorTest : public ImageFixture {
 protected:
  FuseDoorTest() : ImageFixture(Backend::kFuse) {}

  keeper::Descriptor Open(const Digest& digest, int flags = 0) const {
    keeper::Descriptor file(open(GuardedPath(digest).c_str(), O_RDONLY | O_CLOEXEC | flags));
    EXPECT_TRUE(file.valid()) << std::strerror(errno);
    return file;
  }

  // Of a file of the door's, as its blob's bytes.
  static Seen ReadOf(const keeper::Descriptor& file, const std::vector<char>& expected, uint64_t offset,
                     uint64_t length) {
    std::vector<char> bytes(length, 'x');
    const ssize_t count = pread(file.get(), bytes.data(), length, static_cast<off_t>(offset));
    const int error = errno;
    const Seen seen = JudgeBytes(bytes.data(), count, &expected[offset], length);
    errno = error;
    return seen;
  }

  static void DropCache(int file) { posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED); }

  // The directory of the connection's switches.
  std::string ConnectionDirectory() const {
    std::filesystem::create_directory(Path("fusectl"));
    EXPECT_EQ(mount("none", Path("fusectl").c_str(), "fusectl", 0, ""), 0) << std::strerror(errno);
    struct stat status {};
    EXPECT_EQ(stat(std::filesystem::path(GuardedPath(digest_)).parent_path().c_str(), &status), 0);
    return Path("fusectl/" + std::to_string(minor(status.st_dev)));
  }

  // Those of this test's blobs and bootstraps: others on the host come and go.
  int CountLoops() const {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/block")) {
      std::ifstream file(entry.path() / "loop/backing_file");
      std::string path;
      if (!std::getline(file, path)) continue;
      const std::string digest = std::filesystem::path(path).filename();
      count +=
          path.starts_with(root_ + "/") || std::filesystem::exists(root_ + "/original-" + digest) ? 1 : 0;
    }
    return count;
  }

  static long CpuTicks(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    for (int i = 0; i < 13; ++i) file >> text;
    long user = 0, system = 0;
    file >> user >> system;
    return user + system;
  }
};

TEST_F(FuseDoorTest, ProbeFindsWhatThisFixtureNeeds) {
  for (const Requirement& requirement : ProbeFuse(root_)) {
    EXPECT_TRUE(requirement.holds) << requirement.name << ": " << requirement.detail;
  }
  EXPECT_EQ(ChooseBackend("fuse", root_)->backend, Backend::kFuse);
  EXPECT_EQ(ChooseBackend("fuse", Path("none")).status().code(), absl::StatusCode::kFailedPrecondition);
  for (const auto& entry : std::filesystem::directory_iterator(root_)) {
    EXPECT_THAT(entry.path().filename(), Not(HasSubstr(".probe"))) << "it cleans up after itself";
  }
}

TEST_F(FuseDoorTest, NoPathLeadsToTheFileSystem) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
  int processes = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "mountinfo");
    std::stringstream text;
    text << file.rdbuf();
    processes += text.str().empty() ? 0 : 1;
    EXPECT_THAT(text.str(), Not(HasSubstr("fuse.sluice"))) << entry.path();
  }
  EXPECT_GT(processes, 1);
}

TEST_F(FuseDoorTest, BlobThatEndsWithinAPageIsPaddedWithZeros) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  // The second ends a byte after a page, the third a byte before one.
  for (const size_t size : {size_t{200'001}, size_t{16 * 4096 + 1}, size_t{3 * 65536 - 1}, size_t{1}}) {
    std::vector<char> bytes = RandomBytes(size);
    const Digest digest = AddBlob(bytes);
    ASSERT_TRUE(node->Guard(digest, OriginalPath(digest)).ok());
    const size_t whole = (size + kPageBytes - 1) / kPageBytes * kPageBytes;
    bytes.resize(whole);
    for (const int flags : {0, O_DIRECT, 0}) {  // absent, present, present and spliced
      const keeper::Descriptor file = Open(digest, flags);
      DropCache(file.get());
      struct stat status {};
      ASSERT_EQ(fstat(file.get(), &status), 0);
      EXPECT_EQ(status.st_size, static_cast<off_t>(whole));
      std::vector<char> got(whole + kPageBytes, 'x');
      ASSERT_EQ(pread(file.get(), got.data(), got.size(), 0), static_cast<ssize_t>(whole));
      got.resize(whole);
      EXPECT_TRUE(got == bytes) << size;
      char past = 0;
      EXPECT_EQ(pread(file.get(), &past, 1, static_cast<off_t>(whole)), 0);
    }
    ASSERT_TRUE(node->door().UnguardBlob(digest).ok());
  }
  EXPECT_EQ(node->door().counters().errors, 0u);
}

TEST_F(FuseDoorTest, AbortedConnectionGivesErrorsAndLeavesTheKeeperIdle) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
  node->HoldTickets();
  Seen seen = Seen::kOther;
  std::thread reader([&] { seen = Read(1 << 20, 4096); });
  EXPECT_TRUE(Eventually([&] { return node->held_count() > 0; }));
  {
    std::ofstream abort(ConnectionDirectory() + "/abort");
    ASSERT_TRUE(abort << "1" << std::flush);
  }
  reader.join();
  EXPECT_EQ(seen, Seen::kError);
  EXPECT_TRUE(Eventually([&] { return !node->door().Status().ok(); }));
  EXPECT_THAT(node->door().Status().message(), testing::HasSubstr("restart sluiced"));
  const HitCounts counts = node->door().Hits(node->blob().key());
  EXPECT_GE(counts.failed, 1u) << "the read that waited";
  EXPECT_THAT(counts.last_failure, testing::HasSubstr("kernel's side"));
  node->FillTickets();
  for (uint64_t i = 2; i < 6; ++i) EXPECT_EQ(Read(i << 20, 65536), Seen::kError);

  // A thread that finds the descriptor ready all the time would take all of a second's ticks.
  const pid_t keeper = node->door().keeper_pid();
  const long before = CpuTicks(keeper);
  sleep(1);
  EXPECT_LT(CpuTicks(keeper) - before, sysconf(_SC_CLK_TCK) / 2);

  ASSERT_TRUE(node->door().UnmountImage(Path("mnt")).ok());
  node.reset();
  EXPECT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
  node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_TRUE(node->door().Status().ok());
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FuseDoorTest, WithoutKeeperAndDaemonReadersGetErrorsAndNeverZeros) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const pid_t keeper = node->door().keeper_pid();
  node.reset();
  auto process = StartProcess({.tickets = "hold"});
  std::vector<Seen> seen(8, Seen::kOther);
  std::vector<std::thread> readers;
  for (size_t i = 0; i < seen.size(); ++i) {
    readers.emplace_back([&, i] { seen[i] = Read(i << 20, 8192); });
  }
  usleep(100'000);
  process->Signal(SIGSTOP);
  kill(keeper, SIGKILL);
  process->Kill();
  for (std::thread& reader : readers) reader.join();
  EXPECT_THAT(seen, Each(Seen::kError));
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(Read(i << 20, 65536), Seen::kError);
  // The next daemon can't bring the old mount back, but replaces it.
  node = StartNode();
  ASSERT_TRUE(node);
  EXPECT_EQ(Read(0, 65536), Seen::kError);
  MountImage(*node, "mnt2");
  EXPECT_EQ(ReadAll("mnt2"), Seen::kRight);
}

TEST_F(FuseDoorTest, StalledBlobDoesNotHoldUpAnother) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const std::vector<char> bytes = RandomBytes(32 << 20);
  const Digest stalled = AddBlob(bytes);
  ASSERT_TRUE(node->Guard(stalled, OriginalPath(stalled)).ok());
  node->HoldTicketsOf(stalled);
  const keeper::Descriptor file = Open(stalled);
  // More requests of readahead than FUSE's default lets be under way (12).
  for (off_t offset = 0; offset < 32 << 20; offset += 128 << 10)
    posix_fadvise(file.get(), offset, 128 << 10, POSIX_FADV_WILLNEED);
  EXPECT_TRUE(Eventually([&] { return node->held_count() > 100; })) << node->held_count();
  EXPECT_EQ(ReadAll(), Seen::kRight);
  EXPECT_GT(node->held_count(), 100u) << "they were to be held meanwhile";
  node->FillTickets();
  EXPECT_EQ(ReadOf(file, bytes, 0, bytes.size()), Seen::kRight);
}

TEST_F(FuseDoorTest, KilledReadersDieAtOnceAndTheirSlotsAreUsedAgain) {
  FakeNodeOptions options = NodeOptions();
  // Fewer than all the readers of all rounds need, and more than those of one: when none is free, the door
  // does not hear that a reader was killed.
  options.slots_max = 16;
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  const std::string path = GuardedPath(digest_);
  for (int round = 0; round < 3; ++round) {
    std::vector<pid_t> readers;
    for (int i = 0; i < 8; ++i) {
      readers.push_back(fork());
      if (readers.back() != 0) continue;
      // Past the page cache the reader itself waits for the answer, and can't end before it has it.
      const int file = open(path.c_str(), O_RDONLY | O_DIRECT);
      alignas(4096) static char page[4096];
      _exit(pread(file, page, sizeof(page), (round * 8 + i) << 18) == sizeof(page) ? 0 : 1);
    }
    EXPECT_TRUE(Eventually([&] { return node->held_count() == 8; })) << node->held_count();
    for (const pid_t reader : readers) {
      kill(reader, SIGKILL);
      int status = 0;
      EXPECT_EQ(waitpid(reader, &status, 0), reader);
      EXPECT_TRUE(WIFSIGNALED(status));
    }
    EXPECT_EQ(node->held_count(), 8u);
    node->DropTickets();
    EXPECT_TRUE(Eventually([&] { return node->held_count() == 0; }));
    node->HoldTickets();
  }
  EXPECT_EQ(node->door().counters().expired, 0u);
  node->FillTickets();
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FuseDoorTest, HitsThatNeedTheDiskAreRightManyAtOnce) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->FillAll();
  for (int round = 0; round < 5; ++round) {
    ASSERT_EQ(fdatasync(node->store_fd()), 0);
    DropCache(node->store_fd());
    std::atomic<int> right{0};
    std::vector<std::thread> readers;
    for (uint64_t i = 0; i < 32; ++i) {
      readers.emplace_back([&, i] {
        const uint64_t length = i % 3 == 0 ? 4096 : (64 + i * 8) << 10;
        right += Read(i << 19 & (kFileBytes - (1 << 19)), length) == Seen::kRight;
      });
    }
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(right, 32);
  }
  EXPECT_EQ(node->door().counters().published, 0u);
  EXPECT_EQ(node->door().counters().errors, 0u);
}

TEST_F(FuseDoorTest, KeeperWithoutDescriptorsGoesOnToAnswer) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const pid_t keeper = node->door().keeper_pid();
  rlimit before{};
  ASSERT_EQ(prlimit(keeper, RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few{3, before.rlim_max};
  ASSERT_EQ(prlimit(keeper, RLIMIT_NOFILE, &few, nullptr), 0);
  EXPECT_EQ(ReadAll(), Seen::kRight);
  fdatasync(node->store_fd());
  DropCache(node->store_fd());
  EXPECT_EQ(ReadAll(), Seen::kRight);
  ASSERT_EQ(prlimit(keeper, RLIMIT_NOFILE, &before, nullptr), 0);
}

TEST_F(FuseDoorTest, WhatIsNotServedIsAnsweredAllTheSame) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  const std::vector<char> bytes = RandomBytes(1 << 20);
  const Digest digest = AddBlob(bytes);
  ASSERT_TRUE(node->Guard(digest, OriginalPath(digest)).ok());
  const keeper::Descriptor file = Open(digest);
  const std::string path = GuardedPath(digest);
  const std::string directory = std::filesystem::path(path).parent_path();

  struct stat status {};
  struct statfs filesystem {};
  char value[16];
  EXPECT_EQ(stat((directory + "/none").c_str(), &status), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(stat((directory + "/" + std::string(200, 'a')).c_str(), &status), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(statfs(path.c_str(), &filesystem), 0);
  EXPECT_EQ(getxattr(path.c_str(), "user.a", value, sizeof(value)), -1);
  EXPECT_EQ(listxattr(path.c_str(), value, sizeof(value)), -1);
  EXPECT_EQ(readlink(path.c_str(), value, sizeof(value)), -1);
  EXPECT_EQ(ioctl(file.get(), FIONREAD + 1, value), -1);
  EXPECT_EQ(open(path.c_str(), O_RDWR), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(mkdir((directory + "/made").c_str(), 0700), -1);
  EXPECT_EQ(unlink(path.c_str()), -1);
  EXPECT_EQ(lseek(file.get(), 0, SEEK_DATA), 0);
  const keeper::Descriptor root(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.valid()) {
    std::error_code error;
    const std::filesystem::directory_iterator entries(directory, error);
    EXPECT_TRUE(error || entries == std::filesystem::directory_iterator());
  }

  // A node that is known no more.
  ASSERT_TRUE(node->door().UnguardBlob(digest).ok());
  EXPECT_EQ(stat(path.c_str(), &status), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(ReadOf(file, bytes, 1 << 19, 4096), Seen::kError);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(node->door().counters().errors, 0u);
  MountImage(*node);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FuseDoorTest, EntryThatIsUsedAgainNeverShowsTheOtherBlobsBytes) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  const std::vector<char> first_bytes = RandomBytes(1 << 20);
  const std::vector<char> second_bytes = RandomBytes(1 << 20);
  const Digest first = AddBlob(first_bytes);
  const Digest second = AddBlob(second_bytes);
  ASSERT_TRUE(node->Guard(first, OriginalPath(first)).ok());
  const keeper::Descriptor first_file = Open(first);
  EXPECT_EQ(ReadOf(first_file, first_bytes, 0, 65536), Seen::kRight);
  ASSERT_TRUE(node->door().UnguardBlob(first).ok());
  ASSERT_TRUE(node->Guard(second, OriginalPath(second)).ok());
  node->FillAll(second);
  const keeper::Descriptor second_file = Open(second);
  EXPECT_EQ(ReadOf(second_file, second_bytes, 0, second_bytes.size()), Seen::kRight);
  EXPECT_EQ(ReadOf(first_file, first_bytes, 1 << 19, 65536), Seen::kError);
  EXPECT_EQ(ReadOf(Open(second, O_DIRECT), second_bytes, 0, 65536), Seen::kRight);

  // Guarded again, it is another file than the one that is open still.
  ASSERT_TRUE(node->Guard(first, OriginalPath(first)).ok());
  EXPECT_EQ(ReadOf(Open(first), first_bytes, 0, first_bytes.size()), Seen::kRight);
  EXPECT_EQ(ReadOf(first_file, first_bytes, 1 << 19, 65536), Seen::kError);
}

TEST_F(FuseDoorTest, LoopDeviceOfAGuardedBlobReadsItsBytesAndGoesByItself) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  std::vector<char> bytes = RandomBytes((1 << 20) + 100);
  const Digest digest = AddBlob(bytes);
  ASSERT_TRUE(node->Guard(digest, OriginalPath(digest)).ok());
  std::string backing;
  {
    keeper::Result<keeper::LoopDevice> loop = keeper::AttachLoop(GuardedPath(digest));
    ASSERT_TRUE(loop.ok()) << loop.error().text;
    backing =
        "/sys/block/" + std::filesystem::path(loop.value().path).filename().string() + "/loop/backing_file";
    EXPECT_TRUE(std::filesystem::exists(backing));
    EXPECT_EQ(ReadOf(loop.value().device, bytes, 0, bytes.size()), Seen::kRight) << "the tail included";
    char byte = 0;
    EXPECT_EQ(pwrite(loop.value().device.get(), &byte, 1, 0), -1);
  }
  EXPECT_TRUE(Eventually([&] { return !std::filesystem::exists(backing); }));
  EXPECT_TRUE(node->door().UnguardBlob(digest).ok());
}

TEST_F(FuseDoorTest, LoopDeviceIsSharedByThoseThatReadTheSameFile) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  const std::vector<char> bytes = RandomBytes(1 << 20);
  const Digest digest = AddBlob(bytes);
  ASSERT_TRUE(node->Guard(digest, OriginalPath(digest)).ok());
  const auto share = [&](keeper::LoopDevices devices) { return devices.Share(GuardedPath(digest)); };
  auto first = share(keeper::LoopDevices());
  ASSERT_TRUE(first.ok()) << first.error().text;
  const std::string path = first.value().path;
  // Another process finds it, and it stays when the first lets go.
  auto second = share(keeper::LoopDevices());
  ASSERT_TRUE(second.ok()) << second.error().text;
  EXPECT_EQ(second.value().path, path);
  first.value().device.reset();
  EXPECT_EQ(ReadOf(second.value().device, bytes, 0, bytes.size()), Seen::kRight);
  EXPECT_EQ(CountLoops(), 1);
  // One that went meanwhile, and was given to another file.
  keeper::LoopDevices before;
  second.value().device.reset();
  EXPECT_TRUE(Eventually([&] { return CountLoops() == 0; }));
  const std::vector<char> other_bytes = RandomBytes(1 << 20);
  const Digest other = AddBlob(other_bytes);
  ASSERT_TRUE(node->Guard(other, OriginalPath(other)).ok());
  auto others = keeper::AttachLoop(GuardedPath(other));
  ASSERT_TRUE(others.ok()) << others.error().text;
  auto third = share(std::move(before));
  ASSERT_TRUE(third.ok()) << third.error().text;
  EXPECT_NE(third.value().path, others.value().path);
  EXPECT_EQ(ReadOf(third.value().device, bytes, 0, bytes.size()), Seen::kRight);

  // Guarded anew it is another file, though it has the same name: the old one gives errors.
  ASSERT_TRUE(node->door().UnguardBlob(digest).ok());
  ASSERT_TRUE(node->Guard(digest, OriginalPath(digest)).ok());
  auto fourth = share(keeper::LoopDevices());
  ASSERT_TRUE(fourth.ok()) << fourth.error().text;
  EXPECT_NE(fourth.value().path, third.value().path);
  EXPECT_EQ(ReadOf(fourth.value().device, bytes, 0, bytes.size()), Seen::kRight);
}

// Where the kernel takes no files (before Linux 6.12) a mount has a loop device for its bootstrap, and shares
// those of its blobs; with a keeper that is killed in between, too. Where it takes them there is none.
TEST_F(FuseDoorTest, ManyMountsOfTheSameBlobsShareTheirDevices) {
  constexpr int kMounts = 50;
  constexpr int kBlobs = 20;
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountRequest request = GuardManyDevices(*node, kBlobs);
  for (int i = 0; i < kMounts; ++i) {
    if (i == kMounts / 2) kill(node->door().keeper_pid(), SIGKILL);
    request.mount_point = Path("m" + std::to_string(i));
    std::filesystem::create_directory(request.mount_point);
    const absl::Status mounted = node->door().MountImage(request);
    ASSERT_TRUE(mounted.ok()) << mounted;
  }
  EXPECT_EQ(node->door().keepers_replaced(), 1u);
  const int loops = CountLoops();
  RecordProperty("loop_devices", loops);
  EXPECT_TRUE(loops == 0 || loops == kMounts + kBlobs) << loops;
  for (const int i : {0, kMounts - 1}) EXPECT_EQ(ReadAll("m" + std::to_string(i)), Seen::kRight) << i;
  const std::string last = "m" + std::to_string(kMounts - 1);
  for (int i = 0; i < kMounts; ++i) {
    EXPECT_TRUE(i < kMounts - 1 || ReadAll(last) == Seen::kRight) << "whose devices others had too";
    EXPECT_TRUE(node->door().UnmountImage(Path("m" + std::to_string(i))).ok());
  }
  EXPECT_TRUE(Eventually([&] { return CountLoops() == 0; })) << CountLoops();
}

}  // namespace
}  // namespace sluice::ondemand::test
