#include "node/daemon/node_health.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace sluice {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

// Asked by a thread of the health's own.
class TestClock final : public Clock {
 public:
  Instant Now() const override { return now_.load(); }
  void Pass(Duration time) { now_ = now_.load() + time; }

 private:
  std::atomic<Instant> now_{Instant(std::chrono::hours(1))};
};

// Runs what is due when it is told to.
class TestLoop final : public Executor {
 public:
  void Post(Task task) override { tasks_.push_back(std::move(task)); }
  void PostAt(Instant, Task task) override { tasks_.push_back(std::move(task)); }
  void ComeRound() {
    for (Task& task : std::exchange(tasks_, {})) std::move(task)();
  }

 private:
  std::vector<Task> tasks_;
};

class NodeHealthTest : public ::testing::Test {
 protected:
  NodeHealthTest() {
    char name[] = "/tmp/sluice-health-XXXXXX";
    directory_ = mkdtemp(name);
  }
  ~NodeHealthTest() override {
    health_.reset();
    std::filesystem::remove_all(directory_);
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  void Start(const std::string& file) { health_ = std::make_unique<NodeHealth>(clock_, loop_, Path(file)); }
  static bool Eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 3000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(10));
    return condition();
  }

  std::string directory_;
  TestClock clock_;
  TestLoop loop_;
  std::unique_ptr<NodeHealth> health_;
};

TEST_F(NodeHealthTest, ALoopThatDoesNotComeRoundIsSaidSoUntilItDoes) {
  Start("health");
  clock_.Pass(NodeHealth::kLoopLate - milliseconds(1));
  EXPECT_TRUE(health_->Loop().ok());
  clock_.Pass(milliseconds(1));
  EXPECT_TRUE(absl::IsUnavailable(health_->Loop()));
  EXPECT_THAT(health_->Loop().message(), HasSubstr("core loop has not come round for 10 s"));
  loop_.ComeRound();
  EXPECT_TRUE(health_->Loop().ok());
  clock_.Pass(NodeHealth::kLoopLate);
  EXPECT_FALSE(health_->Loop().ok()) << "it is looked at again and again";
}

TEST_F(NodeHealthTest, AWriteThatFailsIsSaidSoUntilOneSucceeds) {
  Start("missing/health");
  EXPECT_TRUE(Eventually([&] { return !health_->Disk().ok(); }));
  EXPECT_THAT(health_->Disk().message(), HasSubstr("No such file or directory"));
  EXPECT_TRUE(health_->Loop().ok()) << "the node lives";
  std::filesystem::create_directory(Path("missing"));
  EXPECT_TRUE(Eventually([&] { return health_->Disk().ok(); }));
}

// A pipe that nobody reads from: to open it takes until somebody does.
TEST_F(NodeHealthTest, AWriteThatHangsIsSaidSoAndHoldsUpNobody) {
  ASSERT_EQ(mkfifo(Path("health").c_str(), 0600), 0);
  Start("health");
  std::this_thread::sleep_for(milliseconds(100));  // it has begun
  EXPECT_TRUE(health_->Disk().ok()) << "a slow disk is not yet a hanging one";
  EXPECT_TRUE(Eventually([&] {
    clock_.Pass(NodeHealth::kWriteLate);
    return !health_->Disk().ok();
  }));
  EXPECT_THAT(health_->Disk().message(), HasSubstr("hangs or is frozen"));
  health_.reset();  // does not wait for it
  const int reader = open(Path("health").c_str(), O_RDONLY | O_NONBLOCK);
  EXPECT_GE(reader, 0);
  std::this_thread::sleep_for(milliseconds(100));  // it ends, and asks no clock any more
  close(reader);
}

}  // namespace
}  // namespace sluice
