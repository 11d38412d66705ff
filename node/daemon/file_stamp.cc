#include "node/daemon/file_stamp.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "index/file_identity.h"
#include "index/store_file_system.h"

namespace sluice {
namespace {

using index::FileIdentity;
using index::StoreFileSystem;

std::string HexOf(const FileIdentity::Mark& mark) {
  return absl::BytesToHexString(std::string(mark.begin(), mark.end()));
}

nlohmann::json Describe(int fd, const std::string& mark) {
  nlohmann::json stamp = nlohmann::json::object();
  struct statx status {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) == 0) {
    stamp["inode"] = status.stx_ino;
    if (status.stx_mask & STATX_BTIME)
      stamp["birth"] = status.stx_btime.tv_sec * int64_t{1'000'000'000} + status.stx_btime.tv_nsec;
  }
  if (!mark.empty()) stamp["mark"] = mark;
  return stamp;
}

}  // namespace

nlohmann::json StampOf(int fd) {
  FileIdentity::Mark mark{};
  std::random_device random;
  for (uint8_t& byte : mark) byte = static_cast<uint8_t>(random());
  const bool marked = StoreFileSystem::Real().SetMark(fd, mark) == 0;
  return Describe(fd, marked ? HexOf(mark) : "");
}

bool HasStamp(int fd, const nlohmann::json& stamp) {
  if (stamp.is_null()) return true;
  FileIdentity::Mark mark{};
  const bool marked = StoreFileSystem::Real().GetMark(fd, mark) == static_cast<ssize_t>(mark.size());
  return Describe(fd, marked ? HexOf(mark) : "") == stamp;
}

}  // namespace sluice
