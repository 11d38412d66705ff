#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "ondemand/door.h"
#include "ondemand/keeper/fanotify_uapi.h"
#include "ondemand/probe.h"
#include "tests/kernel/image_fixture.h"

namespace sluice::ondemand::test {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

class FanotifyDoorTest : public ImageFixture {
 protected:
  // The directory that reads are watched through, as this process holds it to replace a dead keeper.
  std::string WatchedDirectory() const {
    struct statx store {};
    statx(AT_FDCWD, Path("store").c_str(), 0, STATX_INO | STATX_MNT_ID, &store);
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      struct statx found {};
      if (statx(AT_FDCWD, entry.path().c_str(), 0, STATX_INO | STATX_MNT_ID, &found) != 0) continue;
      if (found.stx_ino == store.stx_ino && found.stx_mnt_id != store.stx_mnt_id) return entry.path();
    }
    return "";
  }
};

TEST_F(FanotifyDoorTest, ReaderWaitsForAbsentBytesAndGetsThem) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  std::atomic<bool> done{false};
  Seen seen = Seen::kOther;
  std::thread reader([&] {
    seen = Read(1 << 20, 4096);
    done = true;
  });
  EXPECT_TRUE(Eventually([&] { return node->held_count() > 0; }));
  EXPECT_FALSE(done);
  node->FillTickets();
  reader.join();
  EXPECT_EQ(seen, Seen::kRight);
  EXPECT_EQ(ReadAll(), Seen::kRight);
  EXPECT_EQ(node->door().counters().expired, 0u);
  EXPECT_EQ(node->door().counters().errors, 0u);
}

TEST_F(FanotifyDoorTest, OnlyWhatIsReadIsFilled) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(5 << 20, 4096), Seen::kRight);
  EXPECT_LE(node->blob().presence().present_count(), 2u);
}

TEST_F(FanotifyDoorTest, DroppedTicketIsAnError) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  int error = 0;
  std::thread reader([&] { error = ReadErrno(0, 4096); });
  EXPECT_TRUE(Eventually([&] { return node->held_count() > 0; }));
  node->DropTickets();
  reader.join();
  EXPECT_EQ(error, EIO);
  EXPECT_GE(node->door().counters().refused, 1u);
  node->FillTickets();
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
}

TEST_F(FanotifyDoorTest, PresentChunksAreHitsAlsoWithoutADaemon) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(0, 1 << 20), Seen::kRight);
  const KeeperCounters before = node->door().counters();
  EXPECT_EQ(Read(0, 1 << 20), Seen::kRight);
  const KeeperCounters after = node->door().counters();
  EXPECT_GT(after.hits, before.hits);
  EXPECT_EQ(after.published, before.published);
  node->door().Stop();
  EXPECT_EQ(Read(0, 1 << 20), Seen::kRight);
  EXPECT_GT(node->door().counters().hits, after.hits);
}

// This is the test that fails when the refusal at a deadline is broken.
TEST_F(FanotifyDoorTest, DeadlineGivesAnErrorAndNeverZeros) {
  FakeNodeOptions options = NodeOptions();
  options.read_deadline = milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  EXPECT_EQ(ReadErrno(0, 4096), EIO);
  EXPECT_GE(node->door().counters().expired, 1u);
  // The fill that comes too late harms nobody, and the next reader profits.
  node->FillTickets();
  EXPECT_TRUE(Eventually([&] { return node->blob().presence().present_count() > 0; }));
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FanotifyDoorTest, StoppedDaemonMeansAnErrorAtTheDeadline) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node.reset();
  auto process = StartProcess({.read_deadline = milliseconds(300)});
  process->Signal(SIGSTOP);
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(ReadErrno(i << 20, 4096), EIO);
  process->Signal(SIGCONT);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FanotifyDoorTest, DaemonStoppedWithTicketsInHandMeansAnErrorAtTheDeadline) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node.reset();
  auto process = StartProcess({.read_deadline = milliseconds(500), .tickets = "hold"});
  EXPECT_EQ(ReadErrno(0, 4096), EIO);
  process->Signal(SIGSTOP);
  EXPECT_EQ(ReadErrno(1 << 20, 4096), EIO);
  // What it held is free again once it is dead.
  process->Kill();
  node = StartNode();
  ASSERT_TRUE(node);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FanotifyDoorTest, AbsentDaemonMeansAnErrorAtTheDeadline) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node.reset();
  auto process = StartProcess({.read_deadline = milliseconds(300)});
  process->Kill();
  EXPECT_EQ(ReadErrno(0, 4096), EIO);
  node = StartNode();
  ASSERT_TRUE(node);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FanotifyDoorTest, ReaderOfAKilledDaemonIsAnsweredByTheNextOne) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node.reset();
  auto process = StartProcess({.tickets = "hold"});
  std::vector<Seen> seen(8, Seen::kOther);
  std::vector<std::thread> readers;
  for (size_t i = 0; i < seen.size(); ++i) {
    readers.emplace_back([&, i] { seen[i] = Read(i << 20, 8192); });
  }
  usleep(100'000);
  process->Kill();
  node = StartNode();
  ASSERT_TRUE(node);
  for (std::thread& reader : readers) reader.join();
  EXPECT_THAT(seen, testing::Each(Seen::kRight));
}

TEST_F(FanotifyDoorTest, CompleteBlobRaisesNoEventsUntilItIsRevoked) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_TRUE(node->door().OnBlobComplete(digest_).ok());
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
  EXPECT_EQ(node->door().counters().published, 1u) << "an incomplete blob must not be marked";

  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  const KeeperCounters before = node->door().counters();
  EXPECT_EQ(ReadAll(), Seen::kRight);
  EXPECT_EQ(node->door().counters().hits, before.hits);

  node->blob().presence().Clear(ChunkIndex(0));
  ASSERT_TRUE(node->door().OnBlobRevoked(digest_).ok());
  EXPECT_EQ(ReadAll(), Seen::kRight);
  EXPECT_GT(node->door().counters().hits, before.hits);
  EXPECT_GT(node->door().counters().published, before.published);
}

TEST_F(FanotifyDoorTest, SuccessorThatKnowsLessTakesTheMarkOff) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  node = nullptr;
  node = StartNode();
  ASSERT_TRUE(node);
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
  EXPECT_EQ(node->door().counters().published, 1u);
}

TEST_F(FanotifyDoorTest, MountIsRefusedWhenTheWatchDoesNotWork) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  const int group = FindDescriptor("anon_inode:[fanotify]");
  ASSERT_GE(group, 0);
  ASSERT_EQ(fanotify_mark(group, FAN_MARK_FLUSH | FAN_MARK_MOUNT, 0, AT_FDCWD, nullptr), 0);
  const absl::Status mounted = node->door().MountImage(Request());
  EXPECT_EQ(mounted.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(mounted.message()), HasSubstr("the watch does not work"));
  EXPECT_TRUE(std::filesystem::is_empty(Path("mnt")));
}

TEST_F(FanotifyDoorTest, UnknownFilesAreRefused) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  std::ofstream(Path("store/stray")) << std::string(8192, 'a');
  const std::string watched = WatchedDirectory();
  ASSERT_NE(watched, "");
  const keeper::Descriptor stray(open((watched + "/stray").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(stray.valid());
  char byte = 0;
  EXPECT_EQ(pread(stray.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(node->door().counters().denied, 1u);
}

TEST_F(FanotifyDoorTest, CutOrDeletedFileGivesAnErrorAndNeverZeros) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
  const auto size = std::filesystem::file_size(StorePath());
  std::filesystem::resize_file(StorePath(), 4096);
  EXPECT_EQ(ReadErrno(1 << 20, 4096), EIO);
  std::filesystem::resize_file(StorePath(), size);
  EXPECT_EQ(Read(2 << 20, 4096), Seen::kRight);
  std::filesystem::remove(StorePath());
  EXPECT_EQ(ReadErrno(3 << 20, 4096), EIO);
}

TEST_F(FanotifyDoorTest, MountsAreListedFoundAgainAndUnmounted) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  MountImage(*node, "mnt2");
  node = nullptr;
  node = StartNode();
  ASSERT_TRUE(node);
  const auto mounts = node->door().Mounts();
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  ASSERT_EQ(mounts->size(), 2u);
  EXPECT_EQ((*mounts)[0].mount_point, Path("mnt"));
  EXPECT_EQ((*mounts)[1].label, "registry.test/image:mnt2");
  EXPECT_THAT((*mounts)[1].devices, ElementsAre(digest_));
  EXPECT_THAT(node->door().GuardedBlobs(), ElementsAre(digest_));

  // Two mounts of one blob.
  EXPECT_EQ(ReadAll("mnt"), Seen::kRight);
  EXPECT_EQ(ReadAll("mnt2"), Seen::kRight);

  EXPECT_EQ(node->door().UnguardBlob(digest_).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(node->door().UnmountImage(Path("mnt2")).ok());
  EXPECT_EQ(node->door().UnmountImage(Path("mnt2")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadAll("mnt"), Seen::kRight);
  EXPECT_TRUE(node->door().UnmountImage(Path("mnt")).ok());
  EXPECT_TRUE(node->door().UnguardBlob(digest_).ok());
  EXPECT_EQ(node->blob().lease_count(), 0u);
}

TEST_F(FanotifyDoorTest, BusyMountIsNotUnmounted) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  {
    const keeper::Descriptor file(open(Path("mnt/big").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(node->door().UnmountImage(Path("mnt")).code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(node->door().UnmountImage(Path("mnt")).ok());
}

TEST_F(FanotifyDoorTest, BadMountsAreRefused) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(node->door().MountImage(Request()).code(), absl::StatusCode::kFailedPrecondition) << "busy";
  EXPECT_EQ(node->door().MountImage(Request("none")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(node->door().MountImage(Request("store")).code(), absl::StatusCode::kFailedPrecondition)
      << "not empty";
  std::filesystem::create_directory(Path("other"));
  MountRequest request = Request("other");
  request.bootstrap_path = Path("source/big");
  const absl::Status no_image = node->door().MountImage(request);
  EXPECT_EQ(no_image.code(), absl::StatusCode::kInvalidArgument) << no_image;
  request = Request("other");
  request.devices = {Digest()};
  EXPECT_EQ(node->door().MountImage(request).code(), absl::StatusCode::kFailedPrecondition) << "not guarded";
}

TEST_F(FanotifyDoorTest, ManyReadersShareFewSlots) {
  FakeNodeOptions options = NodeOptions();
  options.slots_max = 8;
  options.fill_delay_max = milliseconds(5);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  std::atomic<int> right{0};
  std::vector<std::thread> readers;
  for (uint64_t i = 0; i < 64; ++i) {
    readers.emplace_back([&, i] { right += Read(i * (kFileBytes / 64), 65536) == Seen::kRight; });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(right, 64);
}

TEST_F(FanotifyDoorTest, SlotsThatNobodyLetsGoOfDoNotBlockReaders) {
  FakeNodeOptions options = NodeOptions();
  options.slots_max = 8;
  options.read_deadline = milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(15 << 20, 65536), Seen::kRight);
  node->HoldTickets();
  std::atomic<int> errors{0};
  std::vector<std::thread> readers;
  for (uint64_t i = 0; i < 32; ++i) {
    readers.emplace_back([&, i] { errors += Read(i * 65536 * 4, 4096) == Seen::kError; });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(errors, 32);
  EXPECT_EQ(Read(15 << 20, 65536), Seen::kRight) << "hits need no slot";
  node->FillTickets();
  EXPECT_TRUE(Eventually([&] { return Read(14 << 20, 4096) == Seen::kRight; }));
}

TEST_F(FanotifyDoorTest, KeeperWithoutDescriptorsGivesErrorsAndNeverZeros) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const pid_t keeper = node->door().keeper_pid();
  rlimit before{};
  ASSERT_EQ(prlimit(keeper, RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few{3, before.rlim_max};
  ASSERT_EQ(prlimit(keeper, RLIMIT_NOFILE, &few, nullptr), 0);
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(Read(i << 20, 4096), Seen::kError);
  EXPECT_GE(node->door().counters().errors, 16u);
  ASSERT_EQ(prlimit(keeper, RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FanotifyDoorTest, WaitingReaderDiesBySigkill) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  const pid_t reader = fork();
  if (reader == 0) {
    char byte;
    const int file = open(Path("mnt/big").c_str(), O_RDONLY);
    _exit(pread(file, &byte, 1, 0) == 1 ? 0 : 1);
  }
  EXPECT_TRUE(Eventually([&] { return node->held_count() > 0; }));
  kill(reader, SIGKILL);
  int status = 0;
  EXPECT_EQ(waitpid(reader, &status, 0), reader);
  EXPECT_TRUE(WIFSIGNALED(status));
  node->FillTickets();
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FanotifyDoorTest, KeeperIgnoresSigtermWhileItIsNeededAndLeavesAfterwards) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const pid_t keeper = node->door().keeper_pid();
  node.reset();
  kill(keeper, SIGTERM);
  EXPECT_TRUE(Eventually([&] { return KeeperLog().find("is ignored") != std::string::npos; }));
  EXPECT_TRUE(ProcessLives(keeper));
  node = StartNode();
  ASSERT_TRUE(node);
  EXPECT_EQ(node->door().keeper_pid(), keeper);
  EXPECT_EQ(ReadAll(), Seen::kRight);
  ASSERT_TRUE(node->door().UnmountImage(Path("mnt")).ok());
  node.reset();
  EXPECT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
}

TEST_F(FanotifyDoorTest, KeeperStaysWhileALazilyUnmountedFileIsOpen) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const pid_t keeper = node->door().keeper_pid();
  keeper::Descriptor file(open(Path("mnt/big").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(umount2(Path("mnt").c_str(), MNT_DETACH), 0);
  node.reset();
  usleep(1'500'000);
  EXPECT_TRUE(ProcessLives(keeper));
  node = StartNode();
  ASSERT_TRUE(node);
  std::vector<char> bytes(65536);
  const ssize_t count = pread(file.get(), bytes.data(), bytes.size(), 1 << 20);
  EXPECT_EQ(Judge(bytes.data(), count, 1 << 20, bytes.size()), Seen::kRight);
  file.reset();
  node.reset();
  EXPECT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
}

TEST_F(FanotifyDoorTest, SecondDaemonIsRefusedWhileTheFirstLives) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  NodeProcess second(root_, digest_, Path("original"), {});
  EXPECT_THAT(second.FirstLine(), HasSubstr("another daemon"));
  MountImage(*node);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_F(FanotifyDoorTest, GuardRefusesAnotherFileThanTheStores) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  ASSERT_TRUE(node->door().UnguardBlob(digest_).ok());
  const auto blob = std::make_shared<Blob>(node->blob().spec());
  const keeper::Descriptor other(open(Path("original").c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(node->door().GuardBlob(blob, other.get()).code(), absl::StatusCode::kFailedPrecondition);
  BlobSpec spec = node->blob().spec();
  spec.size += 1;
  const auto longer = std::make_shared<Blob>(spec);
  EXPECT_EQ(node->door().GuardBlob(longer, node->store_fd()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(longer->lease_count(), 0u);
}

TEST_F(FanotifyDoorTest, ProbeFindsWhatThisFixtureNeeds) {
  for (const Requirement& requirement : ProbeFanotify(root_)) {
    EXPECT_TRUE(requirement.holds) << requirement.name << ": " << requirement.detail;
  }
  std::filesystem::create_directory(Path("tmpfs"));
  ASSERT_EQ(mount("none", Path("tmpfs").c_str(), "tmpfs", 0, ""), 0);
  const auto choice = ChooseBackend("fanotify", Path("tmpfs"));
  EXPECT_EQ(choice.status().code(), absl::StatusCode::kFailedPrecondition);
  const auto other = ChooseBackend("auto", Path("tmpfs"));
  EXPECT_EQ(other->backend, Backend::kFuse) << other->reason;
  EXPECT_THAT(other->reason, HasSubstr("fanotify can't be used"));
  EXPECT_EQ(ChooseBackend("auto", root_)->backend, Backend::kFanotify);
  EXPECT_TRUE(std::filesystem::is_empty(Path("tmpfs"))) << "it cleans up after itself";
}

}  // namespace
}  // namespace sluice::ondemand::test
