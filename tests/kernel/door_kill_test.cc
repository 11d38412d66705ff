#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>

#include "tests/kernel/image_fixture.h"

namespace sluice::ondemand::test {
namespace {

int KillRounds() {
  const char* rounds = std::getenv("SLUICE_KILL_ROUNDS");
  return rounds != nullptr ? std::atoi(rounds) : 2000;
}

// Small random reads from several threads, each compared in full.
class DoorKillTest : public ImageFixture, public testing::WithParamInterface<Backend> {
 protected:
  DoorKillTest() : ImageFixture(GetParam()) {}

  static constexpr int kReaders = 8;
  static constexpr uint64_t kReadBytesMax = 64 << 10;

  void StartReaders() {
    for (int i = 0; i < kReaders; ++i)
      readers_.emplace_back([this, i] { ReadAtRandom(static_cast<unsigned>(i)); });
  }
  void StopReaders() {
    stop_ = true;
    for (std::thread& reader : readers_) reader.join();
    readers_.clear();
  }
  uint64_t Count(Seen seen) const { return counts_[static_cast<size_t>(seen)]; }

  // Makes the store's file one hole again, while nobody reads: a read that was allowed may not have happened
  // yet.
  void PunchWhileNobodyReads(int store_fd) {
    ASSERT_EQ(fallocate(store_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1LL << 40), 0);
  }

  // Waits for the reads under way, and keeps new ones out as long as the lock lives.
  std::unique_lock<std::shared_mutex> KeepReadersOut() {
    const std::lock_guard gate(gate_);
    return std::unique_lock(reading_);
  }

 private:
  // A shared_mutex alone lets readers starve a writer: they pass the gate first.
  std::shared_lock<std::shared_mutex> EnterRead() {
    const std::lock_guard gate(gate_);
    return std::shared_lock(reading_);
  }

  void ReadAtRandom(unsigned seed) {
    std::minstd_rand random(seed + 1);
    while (!stop_) {
      const uint64_t length = 1 + random() % kReadBytesMax;
      const uint64_t offset = random() % (kFileBytes - length);
      const std::shared_lock lock = EnterRead();
      ++counts_[static_cast<size_t>(Read(offset, length))];
    }
  }

  std::mutex gate_;
  std::shared_mutex reading_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> counts_[4] = {};
  std::vector<std::thread> readers_;
};

TEST_P(DoorKillTest, DaemonKilledAtRandomUnderReaders) {
  constexpr int kRoundsPerPunch = 25;
  const NodeProcess::Options options{.fill_delay_max = std::chrono::microseconds(1500)};
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const keeper::Descriptor store(open(StorePath().c_str(), O_RDWR | O_CLOEXEC));
  node.reset();

  StartReaders();
  std::minstd_rand random(std::random_device{}());
  for (int round = 0; round < KillRounds(); ++round) {
    auto process = StartProcess(options);
    ASSERT_FALSE(HasFailure());
    usleep(static_cast<useconds_t>(random() % 20'000));
    if (round % kRoundsPerPunch == 0) {
      // Its map is not empty any more; that of the next one is, and the keeper's bits follow that.
      const std::unique_lock nobody_reads = KeepReadersOut();
      process->Kill();
      PunchWhileNobodyReads(store.get());
      process = StartProcess(options);
    }
    process->Kill();
  }
  node = StartNode();
  ASSERT_TRUE(node);
  StopReaders();
  RecordProperty("reads", std::to_string(Count(Seen::kRight)));
  EXPECT_GT(Count(Seen::kRight), static_cast<uint64_t>(KillRounds()));
  EXPECT_EQ(Count(Seen::kZeros), 0u);
  EXPECT_EQ(Count(Seen::kOther), 0u);
  EXPECT_EQ(Count(Seen::kError), 0u);
  EXPECT_GT(node->door().counters().published, static_cast<uint64_t>(KillRounds()));
}

TEST_P(DoorKillTest, KeeperKilledUnderReadersIsReplaced) {
  constexpr int kRounds = 5;
  FakeNodeOptions options = NodeOptions();
  options.fill_delay_max = std::chrono::milliseconds(20);
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  StartReaders();
  for (uint64_t round = 1; round <= kRounds; ++round) {
    {
      const std::unique_lock nobody_reads = KeepReadersOut();
      node->blob().presence().ClearAll();
      PunchWhileNobodyReads(node->store_fd());
    }
    usleep(50'000);
    kill(node->door().keeper_pid(), SIGKILL);
    ASSERT_TRUE(Eventually([&] { return node->door().keepers_replaced() == round; })) << KeeperLog();
    const uint64_t before = Count(Seen::kRight);
    EXPECT_TRUE(Eventually([&] { return Count(Seen::kRight) > before + 20; }));
  }
  StopReaders();
  RecordProperty("errors", std::to_string(Count(Seen::kError)));
  EXPECT_EQ(Count(Seen::kZeros), 0u);
  EXPECT_EQ(Count(Seen::kOther), 0u);
  EXPECT_LE(Count(Seen::kError), static_cast<uint64_t>(kRounds * kReaders));
  EXPECT_EQ(ReadAll(), Seen::kRight);
  EXPECT_TRUE(node->door().UnmountImage(Path("mnt")).ok());
}

TEST_P(DoorKillTest, KeeperKilledWhileTheDaemonIsStoppedLosesNoReader) {
  auto node = StartNode();
  ASSERT_TRUE(node);
  MountImage(*node);
  const pid_t keeper = node->door().keeper_pid();
  node.reset();
  auto process = StartProcess({.tickets = "hold"});
  Seen seen = Seen::kOther;
  std::thread reader([&] { seen = Read(0, 4096); });
  usleep(100'000);
  process->Signal(SIGSTOP);
  kill(keeper, SIGKILL);
  usleep(100'000);
  // It finds its keeper dead, replaces it and gives its tickets back by dying.
  process->Signal(SIGCONT);
  EXPECT_TRUE(Eventually([&] { return KeeperLog().find("took over") != std::string::npos; }));
  process->Kill();
  node = StartNode();
  ASSERT_TRUE(node);
  reader.join();
  EXPECT_EQ(seen, Seen::kRight);
  EXPECT_EQ(ReadAll(), Seen::kRight);
}

// The daemon held the kernel's side alone: it does not end before there is a keeper again.
TEST_P(DoorKillTest, KeeperKilledWhenTheDaemonStopsIsReplacedFirst) {
  FakeNodeOptions options = NodeOptions();
  options.read_deadline = std::chrono::seconds(2);
  std::filesystem::create_symlink(SLUICE_KEEPER_PATH, Path("keeper"));
  options.keeper_path = Path("keeper");
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  KeepCacheOfDoor();
  // Its own watcher does not find one to take the place.
  std::filesystem::remove(Path("keeper"));
  const pid_t first = node->door().keeper_pid();
  kill(first, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !ProcessLives(first); }));
  std::filesystem::create_symlink(SLUICE_KEEPER_PATH, Path("keeper"));
  EXPECT_TRUE(node->door().Stop().ok());
  EXPECT_NE(node->door().keeper_pid(), first);
  EXPECT_TRUE(ProcessLives(node->door().keeper_pid()));
  node.reset();
  EXPECT_EQ(Read(0, 4096), Seen::kError) << "the keeper refuses at the deadline";
  node = StartNode(options);
  ASSERT_TRUE(node);
  EXPECT_EQ(WithoutErrors([&] { return ReadAll(); }), Seen::kRight);
}

TEST_P(DoorKillTest, NoKeeperToBeHadWhenTheDaemonStopsIsSaid) {
  FakeNodeOptions options = NodeOptions();
  options.call_timeout = std::chrono::milliseconds(300);
  std::filesystem::create_symlink(SLUICE_KEEPER_PATH, Path("keeper"));
  options.keeper_path = Path("keeper");
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  KeepCacheOfDoor();
  std::filesystem::remove(Path("keeper"));
  const pid_t keeper = node->door().keeper_pid();
  kill(keeper, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !ProcessLives(keeper); }));
  EXPECT_EQ(node->door().Stop().code(), absl::StatusCode::kUnavailable);
}

TEST_P(DoorKillTest, KeeperKilledWhileMoreReadersWaitThanThereAreSlotsLosesNone) {
  FakeNodeOptions options = NodeOptions();
  options.slots_max = 8;
  auto node = StartNode(options);
  ASSERT_TRUE(node);
  MountImage(*node);
  node->HoldTickets();
  std::vector<Seen> seen(48, Seen::kOther);
  std::vector<std::thread> readers;
  for (size_t i = 0; i < seen.size(); ++i) {
    readers.emplace_back([&, i] { seen[i] = Read(i * (kFileBytes / 48 & ~uint64_t{4095}), 4096); });
  }
  EXPECT_TRUE(Eventually([&] { return node->held_count() == 8; }));
  usleep(100'000);
  const uint64_t denied = node->door().counters().denied;
  for (uint64_t round = 1; round <= 3; ++round) {
    kill(node->door().keeper_pid(), SIGKILL);
    ASSERT_TRUE(Eventually([&] { return node->door().keepers_replaced() == round; })) << KeeperLog();
  }
  node->FillTickets();
  for (std::thread& reader : readers) reader.join();
  EXPECT_THAT(seen, testing::Each(Seen::kRight));
  EXPECT_EQ(node->door().counters().denied, denied) << "the kernel had to ask again";
}

INSTANTIATE_TEST_SUITE_P(Doors, DoorKillTest, testing::ValuesIn(BackendsUnderTest()), NameOfParam);

}  // namespace
}  // namespace sluice::ondemand::test
