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
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using WallTime = std::chrono::system_clock::time_point;

constexpr int kVersion = 1;

int64_t MillisecondsOf(WallTime time) {
  return std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count();
}

json ToJson(const JournalledHint& hint) {
  const api::HintSpec& spec = hint.spec;
  json out = {{"id", spec.id},
              {"reference", spec.reference},
              {"priority", spec.priority},
              {"scheduler", spec.scheduler},
              {"pin", spec.pin},
              {"taken", MillisecondsOf(hint.taken)}};
  if (spec.platform) {
    out["platform"] = {{"os", spec.platform->os},
                       {"architecture", spec.platform->architecture},
                       {"variant", spec.platform->variant}};
  }
  for (const api::HintRange& range : spec.ranges)
    out["ranges"].push_back({range.blob.ToString(), range.range.offset, range.range.length});
  // To the nanosecond: who gives the hint again means the same.
  if (spec.needed_by) {
    out["neededBy"] = std::chrono::duration_cast<nanoseconds>(spec.needed_by->time_since_epoch()).count();
  }
  if (spec.ttl) out["ttl"] = spec.ttl->count();
  if (spec.profile) out["profile"] = true;
  if (spec.blob) out["blob"] = {spec.blob->digest.ToString(), spec.blob->size};
  return out;
}

// Throws what says what is wrong.
JournalledHint HintFrom(const json& in) {
  JournalledHint hint;
  api::HintSpec& spec = hint.spec;
  spec.id = in.at("id").get<std::string>();
  spec.reference = in.at("reference").get<std::string>();
  spec.priority = in.at("priority").get<int32_t>();
  spec.scheduler = in.at("scheduler").get<std::string>();
  spec.pin = in.at("pin").get<bool>();
  hint.taken = WallTime(milliseconds(in.at("taken").get<int64_t>()));
  if (in.contains("platform")) {
    const json& platform = in.at("platform");
    spec.platform = {platform.at("os").get<std::string>(), platform.at("architecture").get<std::string>(),
                     platform.at("variant").get<std::string>()};
  }
  for (const json& range : in.value("ranges", json::array())) {
    const absl::StatusOr<Digest> blob = Digest::Parse(range.at(0).get<std::string>());
    const ByteRange bytes{range.at(1).get<uint64_t>(), range.at(2).get<uint64_t>()};
    if (!blob.ok() || bytes.length == 0 || bytes.offset + bytes.length < bytes.offset)
      throw std::runtime_error("a range is none");
    spec.ranges.push_back({*blob, bytes});
  }
  if (in.contains("neededBy")) {
    spec.needed_by = WallTime(std::chrono::duration_cast<std::chrono::system_clock::duration>(
        nanoseconds(in.at("neededBy").get<int64_t>())));
  }
  if (in.contains("ttl")) spec.ttl = Duration(in.at("ttl").get<int64_t>());
  spec.profile = in.value("profile", false);
  if (in.contains("blob")) {
    const absl::StatusOr<Digest> digest = Digest::Parse(in.at("blob").at(0).get<std::string>());
    if (!digest.ok()) throw std::runtime_error("a blob is none");
    spec.blob = api::HintBlob{*digest, in.at("blob").at(1).get<uint64_t>()};
  }
  const bool sound = !spec.id.empty() && spec.id.size() <= api::kHintIdBytesMax &&
                     spec.ranges.size() <= api::kHintRangesMax &&
                     (!spec.profile || (spec.ranges.empty() && !spec.blob)) &&
                     (!spec.ttl || (*spec.ttl > Duration::zero() && *spec.ttl <= api::kHintTtlMax));
  if (!sound) throw std::runtime_error("a hint can't have been taken so");
  return hint;
}

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
