#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace sluice {

// A directory of a test's own. On /var/tmp: a tmpfs may not keep extended attributes.
class TempTree {
 public:
  TempTree() {
    std::string path = "/var/tmp/sluice-test-XXXXXX";
    if (mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
  }
  TempTree(const TempTree&) = delete;
  TempTree& operator=(const TempTree&) = delete;
  ~TempTree() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline bool Exists(const std::string& path) {
  struct stat stat;
  return lstat(path.c_str(), &stat) == 0;
}

inline struct stat StatOf(const std::string& path) {
  struct stat stat {};
  EXPECT_EQ(lstat(path.c_str(), &stat), 0) << path;
  return stat;
}

// Owners, devices and capabilities need root; without it nothing is left to test. In CI that is a failure.
#define SLUICE_REQUIRE_ROOT()                                                        \
  if (geteuid() != 0) {                                                              \
    if (std::getenv("CI") != nullptr) FAIL() << "this test needs root";              \
    GTEST_SKIP() << "SKIPPED: this test needs root, nothing of it has been checked"; \
  }

}  // namespace sluice
