#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace sluice::api {

// A directory of its own, removed at the end.
class TempDir {
 public:
  TempDir() : path_("/tmp/sluice-api-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) abort();
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace sluice::api
