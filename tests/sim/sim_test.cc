#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "tests/sim/lossy_index.h"
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

IndexOnDisk FakeIndex(LossyDisk& disk, Random& random) {
  const auto index = std::make_shared<LossyIndex>(disk, random);
  return {[index](const std::string& path) { return index->Opener()(path); }, [index] { index->LosePower(); },
          [index](const Digest& digest, ChunkIndex chunk, uint64_t inode) {
            return index->MayClaim(digest, chunk, inode);
          }};
}

// Runs `count` seeds from `first` on, or the one that SLUICE_SIM_SEED names.
void RunSeeds(uint64_t first, uint64_t count, Simulation::World world) {
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
                                 << "; run it again with SLUICE_SIM_SEED=" << seed;
  }
}

// Each runs its share of the seeds, so that they run side by side.
constexpr uint64_t kShares = 4;
class SimTest : public testing::TestWithParam<uint64_t> {};

TEST_P(SimTest, HoldsOverAFakeIndex) {
  const uint64_t seeds = FromEnvironment("SLUICE_SIM_SEEDS", 2000) / kFewer / kShares;
  RunSeeds(1 + GetParam() * seeds, seeds, {.data_dir = "", .make_index = FakeIndex});
}

// A failure would be worth little without it.
TEST(SimReplayTest, ASeedIsAlwaysTheSameRun) {
  const DataDirOfTest dir;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    uint64_t hashes[2] = {};
    for (uint64_t& hash : hashes) {
      Simulation simulation(seed, {.data_dir = dir.path(), .make_index = FakeIndex});
      EXPECT_EQ(simulation.Run(), "");
      hash = simulation.trace_hash();
    }
    EXPECT_EQ(hashes[0], hashes[1]) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Shares, SimTest, testing::Range(uint64_t{0}, kShares));

}  // namespace
}  // namespace sluice::sim
