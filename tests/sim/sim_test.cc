#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "tests/sim/lossy_index.h"
#include "tests/sim/lossy_rocks_index.h"
#include "tests/sim/simulation.h"

namespace sluice::sim {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kFewer = 10;  // a tenth of the seeds
#else
constexpr uint64_t kFewer = 1;
#endif

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = ::getenv(name);  // NOLINT(concurrency-mt-unsafe): there is one thread
  return text ? std::stoull(text) : otherwise;
}

// Where the store's files lie: in memory if that can be had, for nothing of them is to outlive the test.
class DataDirOfTest {
 public:
  DataDirOfTest() {
    std::error_code error;
    std::string pattern = std::filesystem::is_directory("/dev/shm", error) ? "/dev/shm/" : testing::TempDir();
    pattern += "sluice-sim-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~DataDirOfTest() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  std::string path() const { return path_ + "/data"; }

 private:
  std::string path_;
};

IndexOnDisk FakeIndex(LossyDisk& disk, Random& random, const VirtualClock&) {
  const auto index = std::make_shared<LossyIndex>(disk, random);
  return {[index](const std::string& path) { return index->Opener()(path); }, [index] { index->LosePower(); },
          [index](const Digest& digest, ChunkIndex chunk, uint64_t inode) {
            return index->MayClaim(digest, chunk, inode);
          }};
}

IndexOnDisk RocksIndex(LossyDisk& disk, Random& random, const VirtualClock& clock) {
  const auto index = std::make_shared<LossyRocksIndex>(disk, random, clock);
  return {[index](const std::string& path) { return index->Open(path); }, [index] { index->LosePower(); },
          [index](const Digest& digest, ChunkIndex chunk, uint64_t inode) {
            return index->MayClaim(digest, chunk, inode);
          }};
}

// Runs `count` seeds from `first` on, or the one that SLUICE_SIM_SEED names. `filter` names the test.
void RunSeeds(uint64_t first, uint64_t count, Simulation::World world, const char* filter) {
  const DataDirOfTest dir;
  world.data_dir = dir.path();
  const uint64_t only = FromEnvironment("SLUICE_SIM_SEED", 0);
  if (only != 0) {
    first = only;
    count = 1;
  }
  for (uint64_t seed = first; seed < first + count; ++seed) {
    Simulation simulation(seed, world);
    const std::string failure = simulation.Run();
    ASSERT_TRUE(failure.empty()) << failure << "seed " << seed
                                 << "; run it again with SLUICE_SIM_SEED=" << seed << " and --gtest_filter='"
                                 << filter << "'";
  }
}

// Each runs its share of the seeds, so that they run side by side.
constexpr uint64_t kShares = 4;
constexpr uint64_t kRocksShares = 2;
class SimTest : public testing::TestWithParam<uint64_t> {};
class RocksSimTest : public testing::TestWithParam<uint64_t> {};

TEST_P(SimTest, HoldsOverAFakeIndex) {
  const uint64_t seeds = FromEnvironment("SLUICE_SIM_SEEDS", 2000) / kFewer / kShares;
  RunSeeds(1 + GetParam() * seeds, seeds, {.data_dir = "", .make_index = FakeIndex}, "*OverAFakeIndex/0");
}

TEST_P(RocksSimTest, HoldsOverRocksDb) {
  const uint64_t seeds = FromEnvironment("SLUICE_SIM_SEEDS", 100) / kFewer / kRocksShares;
  RunSeeds(1 + GetParam() * seeds, seeds, {.data_dir = "", .make_index = RocksIndex}, "*OverRocksDb/0");
}

// A failure would be worth little without it.
void ExpectSameRuns(IndexOnDisk (*make_index)(LossyDisk&, Random&, const VirtualClock&), uint64_t seeds) {
  const DataDirOfTest dir;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    uint64_t hashes[2] = {};
    for (uint64_t& hash : hashes) {
      Simulation simulation(seed, {.data_dir = dir.path(), .make_index = make_index});
      EXPECT_EQ(simulation.Run(), "");
      hash = simulation.trace_hash();
    }
    EXPECT_EQ(hashes[0], hashes[1]) << "seed " << seed;
  }
}

TEST(SimReplayTest, ASeedIsAlwaysTheSameRun) {
  ExpectSameRuns(FakeIndex, 50);
}

TEST(SimReplayTest, ASeedIsAlwaysTheSameRunOverRocksDb) {
  ExpectSameRuns(RocksIndex, 50);
}

INSTANTIATE_TEST_SUITE_P(Shares, SimTest, testing::Range(uint64_t{0}, kShares));
INSTANTIATE_TEST_SUITE_P(Shares, RocksSimTest, testing::Range(uint64_t{0}, kRocksShares));

}  // namespace
}  // namespace sluice::sim
