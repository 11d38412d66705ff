#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "ondemand/door.h"
#include "ondemand/keeper/fanotify/fanotify_uapi.h"
#include "ondemand/probe.h"
#include "tests/kernel/image_fixture.h"

namespace sluice::ondemand::test {
namespace {

using testing::HasSubstr;

class FanotifyDoorTest : public ImageFixture {
 protected:
  FanotifyDoorTest() : ImageFixture(Backend::kFanotify) {}
};

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

TEST_F(FanotifyDoorTest, MarkOfAFileThatWasCutAndRemovedIsTakenOffAndOthersStay) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  const std::vector<char> bytes = RandomBytes(1 << 20);
  const Digest other = AddBlob(bytes);
  ASSERT_TRUE(node->Guard(other, OriginalPath(other)).ok());
  node->FillAll(other);
  ASSERT_TRUE(node->door().OnBlobComplete(other).ok());

  std::filesystem::resize_file(StorePath(), 4096);
  std::filesystem::remove(StorePath());
  ASSERT_TRUE(node->door().OnBlobRevoked(digest_).ok());
  EXPECT_EQ(ReadErrno(1 << 20, 4096), EIO);

  const KeeperCounters before = node->door().counters();
  const keeper::Descriptor file(open(GuardedPath(other).c_str(), O_RDONLY | O_CLOEXEC));
  std::vector<char> got(bytes.size());
  EXPECT_EQ(pread(file.get(), got.data(), got.size(), 0), static_cast<ssize_t>(got.size()));
  EXPECT_EQ(got, bytes);
  EXPECT_EQ(node->door().counters().hits, before.hits) << "the other blob has lost its mark";
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

// The call can't be made while there is no keeper, nor one to take its place.
TEST_F(FanotifyDoorTest, MarkThatCouldNotBeTakenOffIsTakenOffByTheNextKeeper) {
  std::filesystem::create_symlink(SLUICE_KEEPER_PATH, Path("keeper"));
  FakeNodeOptions options = NodeOptions();
  options.keeper_path = Path("keeper");
  options.call_timeout = std::chrono::milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  std::filesystem::remove(Path("keeper"));
  kill(node->door().keeper_pid(), SIGKILL);
  node->blob().presence().Clear(ChunkIndex(0));
  EXPECT_FALSE(node->door().OnBlobRevoked(digest_).ok());
  std::filesystem::create_symlink(SLUICE_KEEPER_PATH, Path("keeper"));
  ASSERT_TRUE(Eventually([&] { return node->door().keepers_replaced() == 1; }));
  const KeeperCounters before = node->door().counters();
  EXPECT_EQ(WithoutErrors([&] { return Read(0, 4096); }), Seen::kRight);
  EXPECT_GT(node->door().counters().published, before.published) << "it was read unasked";
}

TEST_F(FanotifyDoorTest, MarkGoesWithTheDaemonThatTookAChunkBackAndCouldNotSaySo) {
  FakeNodeOptions options = NodeOptions();
  options.read_deadline = std::chrono::milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  node->blob().presence().Clear(ChunkIndex(0));
  EXPECT_TRUE(node->door().Stop().ok());
  EXPECT_EQ(ReadErrno(0, 4096), EIO);
  EXPECT_EQ(Read(1 << 20, 4096), Seen::kRight);
}

// A file system that is not mounted any more, and whose keeper died with its daemon: its holes read as zeros,
// until the next daemon has its blob guarded again.
class OrphanTest : public FanotifyDoorTest {
 protected:
  void SetUp() override {
    FanotifyDoorTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto node = StartNode();
    ASSERT_TRUE(node);
    MountImage(*node);
    const pid_t keeper = node->door().keeper_pid();
    instance_ = node->door().Mounts()->front().instance;
    file_.reset(open(Path("mnt/big").c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(file_.valid());
    posix_fadvise(file_.get(), 0, 0, POSIX_FADV_RANDOM);
    ASSERT_EQ(umount2(Path("mnt").c_str(), MNT_DETACH), 0);
    node.reset();
    auto process = StartProcess({.tickets = "hold"});
    kill(process->pid(), SIGSTOP);
    kill(keeper, SIGKILL);
    process->Kill();
    ASSERT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
    ASSERT_EQ(ReadOrphan(0, 4096), Seen::kZeros) << "the test shows nothing";
  }
  void TearDown() override {
    file_.reset();
    FanotifyDoorTest::TearDown();
  }

  absl::Status Adopt(FakeNode& node) const { return node.door().AdoptOrphan(instance_, {digest_}); }

  // By a process of its own: we are the daemon.
  Seen ReadOrphan(uint64_t offset, uint64_t length) const {
    std::vector<char> bytes(length, 'x');
    const pid_t reader = fork();
    if (reader == 0) {
      posix_fadvise(file_.get(), 0, 0, POSIX_FADV_DONTNEED);
      const ssize_t count = pread(file_.get(), bytes.data(), length, static_cast<off_t>(offset));
      _exit(static_cast<int>(Judge(bytes.data(), count, offset, length)));
    }
    int status = 0;
    EXPECT_EQ(waitpid(reader, &status, 0), reader);
    return static_cast<Seen>(WEXITSTATUS(status));
  }

  ErofsInstance instance_;
  keeper::Descriptor file_;
};

TEST_F(OrphanTest, IsGuardedAgain) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  EXPECT_EQ(ReadOrphan(1 << 20, 4096), Seen::kZeros) << "a mark of the mount does not reach it";
  ASSERT_TRUE(Adopt(*node).ok());
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(ReadOrphan(i << 20, 4096), Seen::kRight);
  EXPECT_GT(node->door().counters().published, 0u);
  node->DropTickets();
  EXPECT_EQ(ReadOrphan(300 << 10, 4096), Seen::kError);
}

TEST_F(OrphanTest, DaemonReadsAndWritesTheFileUnasked) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  node->DropTickets();
  ASSERT_TRUE(Adopt(*node).ok());
  // By a descriptor of after the mark: whose that is the kernel asks about, too.
  const keeper::Descriptor store(open(StorePath().c_str(), O_RDWR | O_CLOEXEC));
  char byte = 1;
  EXPECT_EQ(pread(store.get(), &byte, 1, 0), 1);
  EXPECT_EQ(pwrite(store.get(), &byte, 1, 0), 1);
  EXPECT_EQ(ReadOrphan(0, 4096), Seen::kError);
}

TEST_F(OrphanTest, KeeperStaysUntilItIsGone) {
  FakeNodeOptions options = NodeOptions();
  options.read_deadline = std::chrono::milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  EXPECT_FALSE(node->door().Serves(instance_));
  ASSERT_TRUE(Adopt(*node).ok());
  ASSERT_TRUE(Adopt(*node).ok()) << "twice";
  EXPECT_TRUE(node->door().Serves(instance_));
  EXPECT_TRUE(node->door().Mounts()->empty());
  EXPECT_EQ(node->door().UnguardBlob(digest_).code(), absl::StatusCode::kFailedPrecondition);
  const pid_t keeper = node->door().keeper_pid();
  node.reset();
  EXPECT_EQ(ReadOrphan(5 << 20, 4096), Seen::kError) << "there is no daemon, and a keeper";
  EXPECT_TRUE(ProcessLives(keeper));
  file_.reset();
  EXPECT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
  node = StartNode();
  ASSERT_TRUE(node);
  EXPECT_EQ(Adopt(*node).code(), absl::StatusCode::kNotFound);
}

TEST_F(OrphanTest, MarksAreKeptBySuccessorsAndWhenAllOthersAreTakenOff) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  ASSERT_TRUE(Adopt(*node).ok());
  const std::vector<char> bytes = RandomBytes(1 << 20);
  const Digest other = AddBlob(bytes);
  ASSERT_TRUE(node->Guard(other, OriginalPath(other)).ok());
  node->FillAll(other);
  ASSERT_TRUE(node->door().OnBlobComplete(other).ok());
  std::filesystem::remove(Path("store/" + other.Hex()));
  ASSERT_TRUE(node->door().OnBlobRevoked(other).ok());
  EXPECT_EQ(ReadOrphan(1 << 20, 4096), Seen::kRight);

  kill(node->door().keeper_pid(), SIGKILL);
  ASSERT_TRUE(Eventually([&] { return node->door().keepers_replaced() == 1; }));
  EXPECT_EQ(ReadOrphan(2 << 20, 4096), Seen::kRight);

  // A complete one asks no more, and again when it is not.
  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  EXPECT_EQ(ReadOrphan(3 << 20, 4096), Seen::kRight);
  node->blob().presence().Clear(ChunkIndex(64));
  ASSERT_TRUE(node->door().OnBlobRevoked(digest_).ok());
  node->DropTickets();
  EXPECT_EQ(ReadOrphan(4 << 20, 4096), Seen::kError);
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
  const std::string watched = std::filesystem::path(GuardedPath(digest_)).parent_path();
  const keeper::Descriptor stray(open((watched + "/stray").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(stray.valid());
  char byte = 0;
  EXPECT_EQ(pread(stray.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(node->door().counters().denied, 1u);
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
