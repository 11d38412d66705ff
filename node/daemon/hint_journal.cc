#include "node/daemon/hint_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/file_descriptor.h"
#include "node/daemon/file_stamp.h"

namespace sluice {
namespace {

using nlohmann::json;
constexpr int kVersion = 1;

absl::Status DiskError(const char* what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

absl::Status WriteSynced(const std::string& path, json root) {
  const index::FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return DiskError("create", path);
  root["file"] = StampOf(file.get());
  const std::string text = root.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = write(file.get(), text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return DiskError("write", path);
    written += static_cast<size_t>(n);
  }
  return fsync(file.get()) == 0 ? absl::OkStatus() : DiskError("sync", path);
}

}  // namespace

absl::StatusOr<std::vector<JournalledHint>> HintJournal::Load() const {
  std::error_code error;
  const auto size = std::filesystem::file_size(path_, error);
  if (error == std::errc::no_such_file_or_directory) return std::vector<JournalledHint>();
  if (error) return absl::UnavailableError(absl::StrCat("cannot read ", path_, ": ", error.message()));
  if (size > kBytesMax)
    return absl::DataLossError(absl::StrCat(path_, " is too large to be a journal of hints"));
  std::ifstream in(path_, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  try {
    const json root = json::parse(text);
    if (root.at("version").get<int>() != kVersion) throw std::runtime_error("it is of another version");
    const index::FileDescriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid() || !HasStamp(file.get(), root.value("file", json())))
      throw std::runtime_error("it is a copy of another moment");
    std::vector<JournalledHint> hints;
    for (const json& hint : root.at("hints")) hints.push_back(HintFrom(hint));
    return hints;
  } catch (const std::exception& e) {
    return absl::DataLossError(absl::StrCat("the journal of hints ", path_, " can't be used: ", e.what()));
  }
}

absl::Status HintJournal::Save(const std::vector<JournalledHint>& hints) const {
  json list = json::array();
  for (const JournalledHint& hint : hints) list.push_back(ToJson(hint));
  const std::string fresh = path_ + ".new";
  const absl::Status written = WriteSynced(fresh, {{"version", kVersion}, {"hints", std::move(list)}});
  if (!written.ok()) return written;
  return std::rename(fresh.c_str(), path_.c_str()) == 0 ? absl::OkStatus() : DiskError("replace", path_);
}

}  // namespace sluice
