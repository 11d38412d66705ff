// kill -9 at any time: what was acknowledged as durable is there, and all that is claimed is true.
#include <signal.h>
#include <sys/wait.h>

#include <cstdio>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "crash_content.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

constexpr int kRounds = 25;

using ChunkName = std::pair<uint32_t, uint32_t>;  // blob, chunk

class CrashTest : public StoreTest {
 protected:
  // Runs the writer until it has said `lines` lines, then kills it, wherever it is by then.
  void RunAndKill(uint32_t seed, int lines) {
    int pipe_fds[2];
    ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
    const std::string data_dir = temp_.path() + "/data";
    const std::string seed_text = absl::StrCat(seed);
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(pipe_fds[1], STDOUT_FILENO);
      ::execl(SLUICE_CRASH_WRITER, SLUICE_CRASH_WRITER, data_dir.c_str(), seed_text.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(pipe_fds[1]);
    FILE* const output = ::fdopen(pipe_fds[0], "r");
    char line[64];
    int seen = 0;
    while (std::fgets(line, sizeof(line), output) != nullptr) {
      Learn(line);
      if (++seen == lines) ::kill(child, SIGKILL);
    }
    std::fclose(output);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself, code " << WEXITSTATUS(status);
  }

  void Learn(const char* line) {
    char what[16];
    uint32_t blob = 0, chunk = 0;
    if (std::sscanf(line, "%15s %u %u", what, &blob, &chunk) != 3) return;
    if (std::string_view(what) == "durable") {
      durable_.insert({blob, chunk});
    } else if (std::string_view(what) == "taken") {
      durable_.erase({blob, chunk});
    } else {
      std::erase_if(durable_, [&](const ChunkName& name) { return name.first == blob; });
    }
  }

  void CheckAllClaims() {
    for (uint32_t number = 0; number < kCrashBlobs; ++number) {
      const Digest digest = CrashSpec(number).digest;
      const std::shared_ptr<Blob> blob = store_->Find(digest);
      if (!blob) continue;
      absl::StatusOr<FileDescriptor> fd = store_->OpenForRead(digest);
      ASSERT_TRUE(fd.ok()) << fd.status();
      for (uint32_t i = 0; i < kCrashChunks; ++i) {
        if (!blob->presence().IsPresent(ChunkIndex(i))) continue;
        std::vector<std::byte> found(kChunkSizeMin);
        ASSERT_EQ(::pread(fd->get(), found.data(), found.size(), static_cast<off_t>(i) * kChunkSizeMin),
                  static_cast<ssize_t>(found.size()));
        EXPECT_EQ(found, CrashContent(number, ChunkIndex(i))) << "blob " << number << " chunk " << i;
        ++claims_checked_;
      }
    }
  }

  std::set<ChunkName> durable_;
  uint64_t claims_checked_ = 0;
};

TEST_F(CrashTest, KillNeverMakesAClaimFalseNorLosesADurableOne) {
  std::mt19937 random(20);
  for (int round = 0; round < kRounds; ++round) {
    ASSERT_NO_FATAL_FAILURE(RunAndKill(static_cast<uint32_t>(round), 20 + static_cast<int>(random() % 150)));
    OpenStore();
    ASSERT_TRUE(store_);
    EXPECT_FALSE(store_->open_report().rebuilt) << store_->open_report().reason;
    EXPECT_EQ(store_->open_report().files_lost, 0u);
    ASSERT_NO_FATAL_FAILURE(CheckAllClaims());
    for (const auto& [number, chunk] : durable_) {
      const std::shared_ptr<Blob> blob = store_->Find(CrashSpec(number).digest);
      EXPECT_TRUE(blob && blob->presence().IsPresent(ChunkIndex(chunk)))
          << "round " << round << ": blob " << number << " chunk " << chunk << " was durable and is gone";
    }
    store_.reset();
  }
  EXPECT_GT(claims_checked_, 100u);
}

}  // namespace
}  // namespace sluice::index
