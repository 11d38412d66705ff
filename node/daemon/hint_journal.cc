#include "node/daemon/hint_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/daemon/file_stamp.h"

namespace sluice {
namespace {

using nlohmann::json;
constexpr int kVersion = 1;

absl::Status DiskError(const char* what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

absl::Status WriteAll(int fd, const std::string& text, const std::string& path) {
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = write(fd, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return DiskError("write", path);
    written += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

// The lines of a text, each with what it ends with; the last may have no end.
std::vector<std::string_view> LinesOf(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const size_t size = end == std::string_view::npos ? text.size() : end + 1;
    lines.push_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  return lines;
}

// False for what is no whole line.
bool Apply(std::string_view line, std::vector<JournalledHint>& hints) {
  const json added = line.ends_with('\n') ? json::parse(line, nullptr, false) : json();
  if (!added.is_object()) return false;
  const auto at = [&](const std::string& id) {
    return std::find_if(hints.begin(), hints.end(),
                        [&](const JournalledHint& hint) { return hint.spec.id == id; });
  };
  if (added.contains("over")) {
    const auto found = at(added["over"].get<std::string>());
    if (found != hints.end()) hints.erase(found);
    return true;
  }
  JournalledHint hint = HintFrom(added.at("taken"));
  const auto known = at(hint.spec.id);
  if (known == hints.end()) {
    hints.push_back(std::move(hint));
  } else {
    *known = std::move(hint);
  }
  return true;
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
    const std::vector<std::string_view> lines = LinesOf(text);
    const json root = json::parse(lines.empty() ? std::string_view() : lines.front());
    if (root.at("version").get<int>() != kVersion) throw std::runtime_error("it is of another version");
    const index::FileDescriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid() || !HasStamp(file.get(), root.value("file", json())))
      throw std::runtime_error("it is a copy of another moment");
    std::vector<JournalledHint> hints;
    for (const json& hint : root.at("hints")) hints.push_back(HintFrom(hint));
    for (size_t i = 1; i < lines.size() && Apply(lines[i], hints); ++i) {
    }
    return hints;
  } catch (const std::exception& e) {
    return absl::DataLossError(absl::StrCat("the journal of hints ", path_, " can't be used: ", e.what()));
  }
}

void HintJournal::BeginSave() {
  const std::lock_guard lock(mutex_);
  saving_ = true;
  since_.clear();
}

absl::Status HintJournal::Save(const std::vector<JournalledHint>& hints) {
  json root = {{"version", kVersion}, {"hints", json::array()}};
  for (const JournalledHint& hint : hints) root["hints"].push_back(ToJson(hint));
  const std::string fresh = path_ + ".new";
  index::FileDescriptor file(open(fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  absl::Status status = file.valid() ? absl::OkStatus() : DiskError("create", fresh);
  if (status.ok()) {
    root["file"] = StampOf(file.get());
    status = WriteAll(file.get(), Dump(root), fresh);
  }
  if (status.ok() && fsync(file.get()) != 0) status = DiskError("sync", fresh);
  const std::lock_guard lock(mutex_);
  saving_ = false;
  if (status.ok()) status = WriteAll(file.get(), since_, fresh);
  const size_t added = since_.size();
  since_.clear();
  if (status.ok() && std::rename(fresh.c_str(), path_.c_str()) != 0) status = DiskError("replace", path_);
  if (!status.ok()) return status;
  file_ = std::move(file);
  added_bytes_ = added;
  return absl::OkStatus();
}

absl::Status HintJournal::AddTaken(const std::vector<JournalledHint>& hints) {
  std::string lines;
  for (const JournalledHint& hint : hints) lines += Dump({{"taken", ToJson(hint)}});
  return Add(lines);
}

absl::Status HintJournal::AddOver(const std::vector<std::string>& ids) {
  std::string lines;
  for (const std::string& id : ids) lines += Dump({{"over", id}});
  return Add(lines);
}

absl::Status HintJournal::Add(const std::string& lines) {
  const std::lock_guard lock(mutex_);
  if (added_bytes_ + lines.size() > kAddedBytesMax)
    return absl::UnavailableError(absl::StrCat(path_, " must be replaced before more is added"));
  added_bytes_ += lines.size();
  if (saving_) since_ += lines;
  if (!file_.valid()) return absl::UnavailableError(absl::StrCat(path_, " could not be written before"));
  const absl::Status status = WriteAll(file_.get(), lines, path_);
  // Behind half a line nothing is read.
  if (!status.ok()) file_ = index::FileDescriptor();
  return status;
}

}  // namespace sluice
