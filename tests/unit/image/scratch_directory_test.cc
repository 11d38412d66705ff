#include "node/image/scratch_directory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <string>

#include "tests/unit/image/temp_tree.h"

namespace sluice {
namespace {

class ScratchDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override { setenv("TMPDIR", temp_.path().c_str(), 1); }
  void TearDown() override { unsetenv("TMPDIR"); }

  TempTree temp_;
};

TEST_F(ScratchDirectoryTest, IsGoneWithItsOwner) {
  std::string path;
  {
    absl::StatusOr<ScratchDirectory> scratch = ScratchDirectory::Make();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    path = scratch->path();
    EXPECT_EQ(path.rfind(temp_.path(), 0), 0u);
    std::filesystem::create_directories(scratch->PathOf("a/b"));
    WriteText(scratch->PathOf("a/b/c"), "x");
  }
  EXPECT_FALSE(Exists(path));
}

TEST_F(ScratchDirectoryTest, IsGoneWhenTheProcessIsKilled) {
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    // The child says where, then dies; the remover holds the write end of `gone` for as long as it runs.
    int where[2];
    int gone[2];
    ASSERT_EQ(pipe(where), 0);
    ASSERT_EQ(pipe(gone), 0);
    const pid_t child = fork();
    if (child == 0) {
      absl::StatusOr<ScratchDirectory> scratch = ScratchDirectory::Make();
      WriteText(scratch->PathOf("file"), "x");
      if (write(where[1], scratch->path().c_str(), scratch->path().size()) < 0) _exit(1);
      raise(signal);
      _exit(1);
    }
    close(where[1]);
    close(gone[1]);
    std::string path(256, '\0');
    path.resize(static_cast<size_t>(std::max<ssize_t>(0, read(where[0], path.data(), path.size()))));
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status));
    ASSERT_FALSE(path.empty());
    char byte;
    EXPECT_EQ(read(gone[0], &byte, 1), 0);
    EXPECT_FALSE(Exists(path)) << "signal " << signal;
    close(where[0]);
    close(gone[0]);
  }
}

TEST_F(ScratchDirectoryTest, IsGoneWhateverTheEnvironment) {
  const std::string path_before = getenv("PATH");
  setenv("PATH", "/nothing", 1);
  std::string path;
  {
    absl::StatusOr<ScratchDirectory> scratch = ScratchDirectory::Make();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    path = scratch->path();
  }
  setenv("PATH", path_before.c_str(), 1);
  EXPECT_FALSE(Exists(path));
}

TEST_F(ScratchDirectoryTest, SaysWhereItCanNotBe) {
  setenv("TMPDIR", (temp_ / "nothing").c_str(), 1);
  const absl::Status status = ScratchDirectory::Make().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("TMPDIR"), absl::string_view::npos);
}

}  // namespace
}  // namespace sluice
