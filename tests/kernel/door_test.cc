#include "ondemand/door.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "ondemand/erofs_image.h"
#include "tests/kernel/image_fixture.h"
#include "tests/unit/ondemand/fake_descriptor_store.h"

// What every door promises, whichever of the kernel's interfaces it is made of.
namespace sluice::ondemand::test {
namespace {

using std::chrono::milliseconds;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

class DoorTest : public ImageFixture, public testing::WithParamInterface<Backend> {
 protected:
  DoorTest() : ImageFixture(GetParam()) {}

  // cachefiles: the kernel has its own copy of what it was given once, and does not ask for it again.
  bool HitsReachTheKeeper() const { return backend() == Backend::kFanotify || backend() == Backend::kFuse; }
  // FUSE: the kernel reads ahead in the blob's file, whatever EROFS was told of its own.
  uint64_t ReadAheadBytes() const { return backend() == Backend::kFuse ? 128 << 10 : 0; }
};

// The front ends through which the kernel reads the store's file itself, and says who reads. cachefiles does
// neither: it has its own copy, and closes it by itself.
class StoreFileDoorTest : public DoorTest {};

TEST_P(DoorTest, ReaderWaitsForAbsentBytesAndGetsThem) {
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

TEST_P(DoorTest, OnlyWhatIsReadIsFilled) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(5 << 20, 4096), Seen::kRight);
  EXPECT_LE(node->blob().presence().present_count(), 2 + ReadAheadBytes() / kTestChunkSize);
}

TEST_P(DoorTest, DroppedTicketIsAnError) {
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

TEST_P(DoorTest, PresentChunksAreHitsAlsoWithoutADaemon) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  // All of it: with FUSE the kernel may read ahead of a hit.
  node->FillAll();
  EXPECT_EQ(Read(0, 1 << 20), Seen::kRight);
  const KeeperCounters before = node->door().counters();
  EXPECT_EQ(Read(0, 1 << 20), Seen::kRight);
  const KeeperCounters after = node->door().counters();
  EXPECT_EQ(after.published, before.published);
  EXPECT_TRUE(node->door().Stop().ok());
  EXPECT_EQ(Read(0, 1 << 20), Seen::kRight);
  if (!HitsReachTheKeeper()) return;
  EXPECT_GT(after.hits, before.hits);
  EXPECT_GT(node->door().counters().hits, after.hits);
}

TEST_P(DoorTest, WhatIsReadWhileItIsPresentIsTold) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->FillAll();
  const auto taken = [&] {
    ChunkSet touched(node->blob().geometry().chunk_count());
    EXPECT_TRUE(node->door().TakeTouched(node->blob().key(), touched));
    return touched;
  };
  taken();
  EXPECT_EQ(Read(5 << 20, 4096), Seen::kRight);
  const ChunkSet touched = taken();
  if (!HitsReachTheKeeper()) {
    EXPECT_TRUE(touched.empty());
    return;
  }
  EXPECT_GE(touched.Count(), 1u);
  EXPECT_LE(touched.Count(), 2 + ReadAheadBytes() / kTestChunkSize);
  EXPECT_TRUE(taken().empty()) << "what was taken is not told again";
}

// This is the test that fails when the refusal at a deadline is broken.
TEST_P(DoorTest, DeadlineGivesAnErrorAndNeverZeros) {
  FakeNodeOptions options = NodeOptions();
  options.read_deadline = milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  EXPECT_EQ(ReadErrno(0, 4096), EIO);
  EXPECT_GE(node->door().counters().expired, 1u);
  EXPECT_EQ(node->door().counters().failed, 0u) << "the daemon has them, and will count what it says of them";
  // The fill that comes too late harms nobody, and the next reader profits.
  node->FillTickets();
  EXPECT_TRUE(Eventually([&] { return node->blob().presence().present_count() > 0; }));
  EXPECT_TRUE(Eventually([&] { return node->door().counters().failed > 0; }))
      << "it was no success for the reader";
  EXPECT_GE(node->door().Hits(node->blob().key()).failed, 1u);
  EXPECT_EQ(WithoutErrors([&] { return Read(0, 4096); }), Seen::kRight);
  EXPECT_EQ(WithoutErrors([&] { return ReadAll(); }), Seen::kRight);
}

TEST_P(DoorTest, WhatRunsOutWithoutADaemonCountsForItsBlob) {
  FakeNodeOptions options = NodeOptions();
  options.read_deadline = milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  ASSERT_TRUE(node->door().Stop().ok());
  const auto counts = [&] { return node->door().Hits(node->blob().key()); };
  EXPECT_EQ(counts().failed, 0u);
  EXPECT_EQ(ReadErrno(0, 4096), EIO);
  EXPECT_GE(counts().failed, 1u);
  EXPECT_EQ(node->door().counters().failed, counts().failed);
  EXPECT_THAT(counts().last_failure, testing::HasSubstr("before its deadline"));
}

TEST_P(DoorTest, StoppedDaemonMeansAnErrorAtTheDeadline) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node.reset();
  auto process = StartProcess({.read_deadline = milliseconds(300)});
  process->Signal(SIGSTOP);
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(ReadErrno(i << 20, 4096), EIO);
  process->Signal(SIGCONT);
  EXPECT_EQ(WithoutErrors([&] { return ReadAll(); }), Seen::kRight);
}

// The kernel asks again for what it was refused, page by page: none of that waits once more. What lies
// elsewhere does, and so does another reader.
TEST_P(StoreFileDoorTest, RefusedReadCostsItsReaderOneDeadline) {
  FakeNodeOptions options = NodeOptions();
  options.read_deadline = milliseconds(3000);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  const auto counters = [&] { return node->door().counters(); };
  int seen = 0;
  std::atomic<bool> refused = false;
  Seen elsewhere = Seen::kOther;
  std::thread reader([&] {
    seen = ReadErrno(0, 256 << 10);
    refused = true;
    elsewhere = Read(4 << 20, 4096);
  });
  EXPECT_TRUE(Eventually([&] { return counters().published > 0; }));
  // For what is read ahead.
  usleep(1'000'000);
  const uint64_t first_waits = counters().published;
  EXPECT_TRUE(Eventually([&] { return refused.load(); }));
  EXPECT_EQ(seen, EIO);
  EXPECT_GE(counters().denied, 1u);
  EXPECT_EQ(counters().expired, first_waits);
  EXPECT_TRUE(Eventually([&] { return counters().published > first_waits; }));
  usleep(100'000);
  const uint64_t all_wait = counters().published;
  Seen other = Seen::kOther;
  std::thread successor([&] { other = Read(0, 4096); });
  EXPECT_TRUE(Eventually([&] { return counters().published > all_wait; }));
  EXPECT_EQ(counters().expired, first_waits);
  node->FillTickets();
  reader.join();
  successor.join();
  EXPECT_EQ(elsewhere, Seen::kRight);
  EXPECT_EQ(other, Seen::kRight);
}

TEST_P(DoorTest, DaemonStoppedWithTicketsInHandMeansAnErrorAtTheDeadline) {
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

TEST_P(DoorTest, AbsentDaemonMeansAnErrorAtTheDeadline) {
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

TEST_P(DoorTest, ReaderOfAKilledDaemonIsAnsweredByTheNextOne) {
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

TEST_P(DoorTest, RevokedChunkIsAskedForAgain) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  EXPECT_EQ(ReadAll(), Seen::kRight);
  const KeeperCounters before = node->door().counters();
  node->blob().presence().Clear(ChunkIndex(3));
  ASSERT_TRUE(node->door().OnBlobRevoked(digest_).ok());
  EXPECT_EQ(ReadAll(), Seen::kRight);
  if (!HitsReachTheKeeper()) return;
  EXPECT_GT(node->door().counters().published, before.published);
}

// A chunk that was found bad and is revoked: its bytes are not read for longer than EROFS itself keeps them.
TEST_P(DoorTest, BadChunkIsReplacedAfterItsRevocation) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  node->FillAll();
  const std::vector<char> bad(kTestChunkSize, 'b');
  ASSERT_EQ(pwrite(node->store_fd(), bad.data(), bad.size(), 0), static_cast<ssize_t>(bad.size()));
  MountImage(*node);
  KeepCacheOfDoor();
  // The kernel's own copy is made in the background; what it lacks would be filled once more.
  const uint64_t own_copy = backend() == Backend::kCachefiles ? kFileBytes : 0;
  ASSERT_TRUE(Eventually([&] { return node->door().KernelCacheBytes() >= own_copy; }));
  EXPECT_EQ(Read(0, kTestChunkSize), Seen::kOther);
  node->blob().presence().Clear(ChunkIndex(0));
  ASSERT_TRUE(node->door().OnBlobRevoked(digest_).ok());
  EXPECT_EQ(Read(0, kTestChunkSize), Seen::kRight);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

// What the daemon before has told the keeper and given the kernel is not read any more.
TEST_P(DoorTest, RefusedBlobIsAnErrorAlsoAfterARestart) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  KeepCacheOfDoor();
  node->FillAll();
  ASSERT_TRUE(node->door().OnBlobComplete(digest_).ok());
  EXPECT_EQ(ReadAll(), Seen::kRight);
  node.reset();
  FakeNodeOptions options = NodeOptions();
  options.guards = false;
  node = StartNode(options);
  ASSERT_TRUE(node);
  ASSERT_TRUE(node->door().RefuseBlob(digest_).ok());
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(ReadErrno(i << 20, 4096), EIO);
}

// The ticket's blob may be another one's by the time it is completed.
TEST_P(StoreFileDoorTest, UnguardedBlobsWaitingReaderGetsAnErrorAndNoOtherBlobsBytes) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  const std::vector<char> first_bytes = RandomBytes(1 << 20);
  const std::vector<char> second_bytes = RandomBytes(1 << 20);
  const Digest first = AddBlob(first_bytes);
  const Digest second = AddBlob(second_bytes);
  ASSERT_TRUE(node->Guard(first, OriginalPath(first)).ok());
  const keeper::Descriptor file(open(GuardedPath(first).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  node->HoldTickets();
  std::vector<char> bytes(4096, 'x');
  ssize_t count = 0;
  std::thread reader([&] { count = pread(file.get(), bytes.data(), bytes.size(), 0); });
  EXPECT_TRUE(Eventually([&] { return node->held_count() > 0; }));
  ASSERT_TRUE(node->door().UnguardBlob(first).ok());
  ASSERT_TRUE(node->Guard(second, OriginalPath(second)).ok());
  node->FillAll(second);
  node->FillTickets();
  reader.join();
  EXPECT_EQ(JudgeBytes(bytes.data(), count, first_bytes.data(), bytes.size()), Seen::kError);
}

void DoNothing(int) {}

// The reader goes on to wait: a read of a file is not interrupted but by death.
TEST_P(DoorTest, SignalIsNoErrorToAWaitingReader) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  struct sigaction action {};
  action.sa_handler = DoNothing;
  ASSERT_EQ(sigaction(SIGUSR2, &action, nullptr), 0);
  node->DropTickets();
  // After an error the kernel may ask in another way: for the page alone, without reading ahead.
  EXPECT_EQ(Read(0, 4096), Seen::kError);
  node->HoldTickets();
  Seen seen = Seen::kOther;
  KeepCacheOfDoor();
  std::thread reader([&] { seen = Read(0, 4096); });
  EXPECT_TRUE(Eventually([&] { return node->held_count() > 0; }));
  for (int i = 0; i < 20; ++i) {
    pthread_kill(reader.native_handle(), SIGUSR2);
    usleep(5000);
  }
  node->FillTickets();
  reader.join();
  EXPECT_EQ(seen, Seen::kRight);
}

TEST_P(StoreFileDoorTest, CutOrDeletedFileGivesAnErrorAndNeverZeros) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(Read(0, 4096), Seen::kRight);
  const auto size = std::filesystem::file_size(StorePath());
  std::filesystem::resize_file(StorePath(), 4096);
  EXPECT_EQ(ReadErrno(1 << 20, 4096), EIO);
  EXPECT_GE(node->door().Hits(node->blob().key()).failed, 1u);
  EXPECT_THAT(node->door().Hits(node->blob().key()).last_failure, testing::HasSubstr("cut or deleted"));
  std::filesystem::resize_file(StorePath(), size);
  EXPECT_EQ(Read(2 << 20, 4096), Seen::kRight);
  std::filesystem::remove(StorePath());
  EXPECT_EQ(ReadErrno(3 << 20, 4096), EIO);
}

TEST_P(DoorTest, MountsAreListedFoundAgainAndUnmounted) {
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
  EXPECT_THAT(node->door().GuardedBlobs(), Contains(digest_));

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

TEST_P(DoorTest, ImageOfAsManyDevicesAsThereCanBe) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountRequest request = GuardManyDevices(*node, kErofsDevicesMax + 1);
  const absl::Status refused = node->door().MountImage(request);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("has 501 blobs; at most 500 can be mounted"));

  request = GuardManyDevices(*node, kErofsDevicesMax);
  const absl::Status mounted = node->door().MountImage(request);
  ASSERT_TRUE(mounted.ok()) << mounted;
  EXPECT_EQ(ReadAll(), Seen::kRight);
  // Also as a successor of this daemon finds it.
  node = nullptr;
  node = StartNode();
  ASSERT_TRUE(node);
  const auto mounts = node->door().Mounts();
  ASSERT_TRUE(mounts.ok() && mounts->size() == 1u) << mounts.status();
  EXPECT_EQ(mounts->front().devices, request.devices);
  EXPECT_EQ(node->door().UnguardBlob(request.devices.back()).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(node->door().UnmountImage(request.mount_point).ok());
  for (const BlobKey& device : request.devices) EXPECT_TRUE(node->door().UnguardBlob(device).ok());
}

// The keeper's end of the line of this process, of which it has one; invalid if it is not found.
keeper::Descriptor LineOf(pid_t keeper) {
  const keeper::Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, keeper, 0)));
  for (int number = 0; number < 256; ++number) {
    keeper::Descriptor file(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    ucred peer{};
    socklen_t size = sizeof(peer);
    int listens = 0;
    socklen_t listens_size = sizeof(listens);
    if (getsockopt(file.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == getpid() &&
        getsockopt(file.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) == 0 && listens == 0) {
      return file;
    }
  }
  return {};
}

// A process that is killed closes its files some time before it is seen to be dead.
TEST_P(DoorTest, CallThatMeetsADyingKeeperIsMadeToTheNextOne) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  const pid_t keeper = node->door().keeper_pid();
  const keeper::Descriptor line = LineOf(keeper);
  ASSERT_EQ(shutdown(line.get(), SHUT_RDWR), 0) << std::strerror(errno);
  std::thread killer([keeper] {
    usleep(200'000);
    kill(keeper, SIGKILL);
  });
  MountImage(*node);
  killer.join();
  EXPECT_EQ(node->door().keepers_replaced(), 1u);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

TEST_P(StoreFileDoorTest, GuardsAsManyBlobsAsThereCanBe) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  constexpr uint64_t kBytes = 5 * kTestChunkSize;
  const auto guard = [&] {
    const Digest digest = AddEmptyBlob(kBytes);
    const keeper::Descriptor file(open(Path("store/" + digest.Hex()).c_str(), O_RDONLY | O_CLOEXEC));
    auto blob = std::make_shared<Blob>(
        BlobSpec{.digest = digest, .size = kBytes, .chunk_size = kTestChunkSize, .root = {}, .origins = {}});
    return node->door().GuardBlob(std::move(blob), file.get());
  };
  for (uint32_t i = 1; i < keeper::kBlobsMax; ++i) {
    const absl::Status guarded = guard();
    ASSERT_TRUE(guarded.ok()) << i << ": " << guarded;
  }
  const absl::Status refused = guard();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("16384 blobs are guarded, the most there can be"));
  // What is there works on, with a successor of the keeper too.
  MountImage(*node);
  EXPECT_EQ(Read(0, 1 << 20), Seen::kRight);
  kill(node->door().keeper_pid(), SIGKILL);
  EXPECT_EQ(ReadAll(), Seen::kRight);
  EXPECT_TRUE(Eventually([&] { return node->door().keepers_replaced() == 1; }));
  EXPECT_EQ(node->door().GuardedBlobs().size(), keeper::kBlobsMax);
}

TEST_P(StoreFileDoorTest, DeviceThatIsMissingIsNamed) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountRequest request = GuardManyDevices(*node, 20);
  // Its file is gone, which the daemon has not seen.
  std::filesystem::remove(Path("store/" + request.devices[6].FileName()));
  const absl::Status refused = node->door().MountImage(request);
  EXPECT_EQ(refused.code(), absl::StatusCode::kNotFound) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("device 7: "));
  ASSERT_TRUE(node->door().UnguardBlob(request.devices[7]).ok());
  EXPECT_THAT(std::string(node->door().MountImage(request).message()), HasSubstr("is not guarded"));
  EXPECT_TRUE(node->door().Mounts()->empty());
}

// Kernels give the number of a mount that is gone to the next one, and of its device too.
TEST_P(DoorTest, StrangersMountAtOurPlaceIsLeftAlone) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  KeepCacheOfDoor();
  const std::string place = Path("mnt");
  ASSERT_EQ(umount2(place.c_str(), 0), 0) << std::strerror(errno);
  ASSERT_EQ(mount("stranger", place.c_str(), "tmpfs", 0, ""), 0);
  std::ofstream(place + "/file") << "theirs";
  EXPECT_EQ(node->door().UnmountImage(place).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(std::filesystem::exists(place + "/file"));
  EXPECT_TRUE(node->door().Mounts()->empty());
  EXPECT_TRUE(node->door().UnguardBlob(digest_).ok()) << "nobody reads from it";

  // One that is of the same type, and may have the same name in sysfs.
  ASSERT_EQ(umount2(place.c_str(), 0), 0);
  ASSERT_TRUE(node->Guard(digest_, Path("original")).ok());
  ASSERT_TRUE(node->door().MountImage(Request()).ok());
  ASSERT_EQ(umount2(place.c_str(), 0), 0);
  const std::string make = "mkfs.erofs --quiet " + Path("small.erofs") + " " + Path("run") +
                           " && mount -t erofs -o ro,loop " + Path("small.erofs") + " " + place;
  ASSERT_EQ(std::system((make + " >" + Path("mkfs.log") + " 2>&1").c_str()), 0);
  EXPECT_EQ(node->door().UnmountImage(place).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(node->door().UnguardBlob(digest_).ok()) << "nobody reads from it";
  EXPECT_EQ(umount2(place.c_str(), 0), 0) << "it is gone";
}

TEST_P(DoorTest, BusyMountIsNotUnmounted) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  {
    const keeper::Descriptor file(open(Path("mnt/big").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(node->door().UnmountImage(Path("mnt")).code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(node->door().UnmountImage(Path("mnt")).ok());
}

TEST_P(DoorTest, BadMountsAreRefused) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  EXPECT_EQ(node->door().MountImage(Request()).code(), absl::StatusCode::kFailedPrecondition) << "busy";
  EXPECT_EQ(node->door().MountImage(Request("none")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(node->door().MountImage(Request("store")).code(), absl::StatusCode::kFailedPrecondition)
      << "not empty";
  std::filesystem::create_directory(Path("other"));
  MountRequest request = Request("other");
  if (!node->door().GuardsBootstrap()) {
    request.bootstrap_path = Path("source/big");
    const absl::Status no_image = node->door().MountImage(request);
    EXPECT_EQ(no_image.code(), absl::StatusCode::kInvalidArgument) << no_image;
    request = Request("other");
  }
  request.devices = {Digest()};
  EXPECT_EQ(node->door().MountImage(request).code(), absl::StatusCode::kFailedPrecondition) << "not guarded";
}

TEST_P(DoorTest, ManyReadersShareFewSlots) {
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

TEST_P(DoorTest, SlotsThatNobodyLetsGoOfDoNotBlockReaders) {
  FakeNodeOptions options = NodeOptions();
  options.slots_max = 8;
  options.read_deadline = milliseconds(300);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  ASSERT_EQ(WithoutErrors([&] { return Read(15 << 20, 65536); }), Seen::kRight);
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
  EXPECT_EQ(WithoutErrors([&] { return Read(14 << 20, 4096); }), Seen::kRight);
}

TEST_P(DoorTest, WaitingReaderDiesBySigkill) {
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

TEST_P(DoorTest, KeeperIgnoresSigtermWhileItIsNeededAndLeavesAfterwards) {
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

TEST_P(DoorTest, KeeperStaysWhileALazilyUnmountedFileIsOpen) {
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

// An end by force: who waits and who reads on gets errors, and what is busy is unmounted all the same.
TEST_P(DoorTest, RefusedReadsAreErrorsAndBusyMountsAreTakenAway) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  ASSERT_EQ(Read(0, kTestChunkSize), Seen::kRight);
  node->HoldTickets();
  keeper::Descriptor file(open(Path("mnt/big").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  std::atomic<bool> answered{false};
  Seen waiting = Seen::kOther;
  std::thread reader([&] {
    waiting = Read(8 << 20, 4096);
    answered = true;
  });
  ASSERT_TRUE(Eventually([&] { return node->held_count() > 0; }));

  ASSERT_TRUE(node->door().RefuseReads().ok());
  EXPECT_TRUE(Eventually([&] { return answered.load(); })) << "its deadline is further away";
  reader.join();
  EXPECT_EQ(waiting, Seen::kError);
  node->FillTickets();
  EXPECT_EQ(Read(12 << 20, 4096), Seen::kError) << "absent";
  if (HitsReachTheKeeper()) {
    EXPECT_EQ(Read(0, kTestChunkSize), Seen::kError) << "present";
  }

  EXPECT_EQ(node->door().UnmountImage(Path("mnt")).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(node->door().DetachImage(Path("mnt")).ok());
  EXPECT_EQ(access(Path("mnt/big").c_str(), F_OK), -1);
  EXPECT_EQ(node->door().DetachImage(Path("mnt")).code(), absl::StatusCode::kNotFound);
  std::filesystem::create_directory(Path("mnt2"));
  const absl::Status refused = node->door().MountImage(Request("mnt2"));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.ToString(), HasSubstr("used still"));
  const auto read = [&] {
    std::vector<char> bytes(4096);
    const ssize_t count = pread(file.get(), bytes.data(), bytes.size(), 14 << 20);
    return Judge(bytes.data(), count, 14 << 20, bytes.size());
  };
  EXPECT_EQ(read(), Seen::kError) << "absent";
  // What lets reads pass unasked waits likewise.
  const bool passes = backend() == Backend::kFanotify;
  node->FillAll();
  EXPECT_EQ(node->door().OnBlobComplete(digest_).ok(), !passes);
  // The kernel's own copy may have what is present by now.
  const Seen present = read();
  EXPECT_TRUE(present == Seen::kError || (present == Seen::kRight && !HitsReachTheKeeper()));

  file.reset();
  EXPECT_TRUE(Eventually([&] { return node->door().OnBlobComplete(digest_).ok(); }));
  EXPECT_TRUE(Eventually([&] { return node->door().MountImage(Request("mnt2")).ok(); }));
  EXPECT_EQ(WithoutErrors([&] { return ReadAll("mnt2"); }), Seen::kRight);
}

// What was taken away by force keeps a keeper only where its holes would read as zeros without one.
TEST_P(StoreFileDoorTest, KeeperOfWhatWasTakenAwayByForceLeavesIfNoHoleIsRead) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const pid_t keeper = node->door().keeper_pid();
  keeper::Descriptor file(open(Path("mnt/big").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(node->door().RefuseReads().ok());
  ASSERT_TRUE(node->door().DetachImage(Path("mnt")).ok());
  node.reset();
  if (backend() == Backend::kFuse) {
    EXPECT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
  } else {
    usleep(1'000'000);
    EXPECT_TRUE(ProcessLives(keeper));
  }
  std::vector<char> bytes(65536);
  EXPECT_EQ(pread(file.get(), bytes.data(), bytes.size(), 8 << 20), -1) << "an error, and no zeros";
  file.reset();
  EXPECT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
}

TEST_P(DoorTest, SecondDaemonIsRefusedWhileTheFirstLives) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  NodeProcess second(backend(), root_, digest_, Path("original"), {});
  EXPECT_THAT(second.FirstLine(), HasSubstr("another daemon"));
  MountImage(*node);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

// A service manager that holds the door of mounts which no keeper looks after: to let it go would let their
// readers read holes.
TEST_P(DoorTest, DescriptorsOfMountsThatAreNotOursAreNeverLetGo) {
  FakeDescriptorStore store;
  auto strange = keeper::Journal::Create(8, DoorKindOf(backend()));
  ASSERT_TRUE(strange.ok());
  strange.value()->layout().mounts[0].in_use = 1;
  auto first = StartNode();  // so that a keeper runs
  ASSERT_TRUE(first);
  MountImage(*first);
  KeepCacheOfDoor();
  first.reset();
  const auto start = [&] {
    for (const char* name : {"sluice-journal", "sluice-completions", "sluice-requests", "sluice-tree"})
      store.Give(name, strange.value()->fd());
    FakeNodeOptions options = NodeOptions();
    options.descriptor_store = &store;
    absl::Status error;
    const std::unique_ptr<FakeNode> node = FakeNode::Start(options, &error);
    return error;
  };
  EXPECT_TRUE(absl::IsFailedPrecondition(start()));
  ++strange.value()->layout().version;
  EXPECT_TRUE(absl::IsFailedPrecondition(start()));
  EXPECT_EQ(store.cleared(), 0);
  --strange.value()->layout().version;
  strange.value()->layout().mounts[0].in_use = 0;
  EXPECT_TRUE(start().ok());
  EXPECT_EQ(store.cleared(), 1);
  EXPECT_EQ(store.kept(), 4u);
}

TEST_P(DoorTest, GuardRefusesAnotherFileThanTheStores) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  ASSERT_TRUE(node->door().UnguardBlob(digest_).ok());
  const auto blob = std::make_shared<Blob>(*node->blob().facts());
  const keeper::Descriptor other(open(Path("original").c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(node->door().GuardBlob(blob, other.get()).code(), absl::StatusCode::kFailedPrecondition);
  BlobSpec spec = *node->blob().facts();
  spec.size += 1;
  const auto longer = std::make_shared<Blob>(spec);
  EXPECT_EQ(node->door().GuardBlob(longer, node->store_fd()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(longer->lease_count(), 0u);
}

std::vector<Backend> StoreFileBackends() {
  std::vector<Backend> backends = BackendsUnderTest();
  std::erase(backends, Backend::kCachefiles);
  return backends;
}

INSTANTIATE_TEST_SUITE_P(Doors, DoorTest, testing::ValuesIn(BackendsUnderTest()), NameOfParam);
INSTANTIATE_TEST_SUITE_P(Doors, StoreFileDoorTest, testing::ValuesIn(StoreFileBackends()), NameOfParam);
// There are none where cachefiles alone is tested.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StoreFileDoorTest);

}  // namespace
}  // namespace sluice::ondemand::test
