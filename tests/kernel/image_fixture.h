#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/kernel/fake_node.h"

namespace sluice::ondemand::test {

// What a reader saw.
enum class Seen { kRight, kError, kZeros, kOther };

// A child process that runs fake_node.
class NodeProcess {
 public:
  struct Options {
    std::chrono::milliseconds read_deadline{30'000};
    std::chrono::microseconds fill_delay_max{0};
    std::string tickets = "fill";  // or "hold"
  };
  NodeProcess(Backend backend, const std::string& root, const Digest& digest, const std::string& original,
              const Options& options);
  ~NodeProcess() { Kill(); }
  NodeProcess(const NodeProcess&) = delete;
  NodeProcess& operator=(const NodeProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Waits for its first line.
  std::string FirstLine();
  void Signal(int number);
  // SIGKILL, and waits for its end. Idempotent.
  void Kill();

 private:
  pid_t pid_ = -1;
  keeper::Descriptor output_;
};

// What a suite of all doors is run against: the backends that SLUICE_TEST_BACKENDS names ("fuse,cachefiles"),
// else those that this kernel is expected to have.
std::vector<Backend> BackendsUnderTest();
// For INSTANTIATE_TEST_SUITE_P.
std::string NameOfParam(const testing::TestParamInfo<Backend>& info);

// A directory on a real file system with an EROFS image of one big file `big` (no chunk of it zeros), its
// blob's bytes, and an empty store; a keeper of its own. Each test tears all of it down.
class ImageFixture : public testing::Test {
 protected:
  static constexpr uint64_t kFileBytes = 16 << 20;

  explicit ImageFixture(Backend backend) : backend_(backend) {}
  Backend backend() const { return backend_; }

  void SetUp() override;
  void TearDown() override;

  FakeNodeOptions NodeOptions() const;
  // Fails the test if it can't start.
  std::unique_ptr<FakeNode> StartNode(FakeNodeOptions options);
  std::unique_ptr<FakeNode> StartNode() { return StartNode(NodeOptions()); }
  std::unique_ptr<NodeProcess> StartProcess(const NodeProcess::Options& options);

  MountRequest Request(const std::string& name = "mnt") const;
  // Makes the directory and mounts the image there.
  void MountImage(FakeNode& node, const std::string& name = "mnt");

  // An image with the same file as the other one, on `count` devices; their blobs, and the bootstrap's, are
  // in the store and guarded.
  MountRequest GuardManyDevices(FakeNode& node, size_t count);

  // Makes an empty file in the store for a blob of these bytes, and writes them to OriginalPath.
  Digest AddBlob(const std::vector<char>& bytes);
  Digest AddEmptyBlob(uint64_t size);                 // without the bytes
  static std::vector<char> RandomBytes(size_t size);  // none of them 0
  std::string OriginalPath(const Digest& digest) const { return root_ + "/original-" + digest.Hex(); }

  // The blob's file that images read from: as the kernel opens it, through a descriptor of this process's.
  // REQUIRES: a node of this process runs, or has stopped but still is
  std::string GuardedPath(const Digest& digest) const;

  // Reads through the mount, past the page caches of earlier reads.
  Seen Read(uint64_t offset, uint64_t length, const std::string& name = "mnt") const;
  int ReadErrno(uint64_t offset, uint64_t length) const;
  Seen ReadAll(const std::string& name = "mnt") const;
  Seen Judge(const char* bytes, ssize_t count, uint64_t offset, uint64_t length) const;
  // Makes Read leave what the door itself has cached (FUSE).
  void KeepCacheOfDoor() { cached_.reset(); }
  std::string Path(const std::string& name) const { return root_ + "/" + name; }
  std::string StorePath() const { return root_ + "/store/" + digest_.Hex(); }
  std::string KeeperLog() const;

  // Waits until it holds, for at most 20 s.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 4000; ++i) {
      if (condition()) return true;
      usleep(5000);
    }
    return false;
  }

  // Reads until that gives no error any more, for at most 20 s: for what a slow machine may make too late.
  template <typename ReadSomething>
  static Seen WithoutErrors(ReadSomething read) {
    Seen seen = Seen::kError;
    Eventually([&] { return (seen = read()) != Seen::kError; });
    return seen;
  }

  const Backend backend_;
  std::string root_;
  Digest digest_;
  std::vector<char> content_;  // of `big`

 private:
  void MakeStoreFile(const Digest& digest, uint64_t size) const;

  pid_t keeper_ = -1;          // of the last node
  keeper::Descriptor cached_;  // FUSE: the image's blob, whose pages the kernel keeps
};

// As ImageFixture::Judge, of any expectation.
Seen JudgeBytes(const char* bytes, ssize_t count, const char* expected, uint64_t length);

// The number of an open file of this process whose /proc/self/fd link is `target`; -1 if there is none.
int FindDescriptor(const std::string& target);

bool ProcessLives(pid_t pid);

}  // namespace sluice::ondemand::test
