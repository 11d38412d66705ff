#include "node/daemon/hint_codec.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"

namespace sluice {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using WallTime = std::chrono::system_clock::time_point;

int64_t MillisecondsOf(WallTime time) {
  return std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count();
}

bool IsMadeAsAnId(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == ':' || c == '-';
  });
}

// Throws if the number is not whole, or none of those of its kind: the library makes another one of it.
template <typename Number>
Number NumberFrom(const json& in) {
  if (in.is_number_unsigned() && std::in_range<Number>(in.get<uint64_t>()))
    return static_cast<Number>(in.get<uint64_t>());
  if (in.is_number_integer() && !in.is_number_unsigned() && std::in_range<Number>(in.get<int64_t>()))
    return static_cast<Number>(in.get<int64_t>());
  throw std::runtime_error("a number is none, or too large");
}

// Throws if it is further from 1970 than a clock of nanoseconds counts.
WallTime TimeFrom(milliseconds since_1970) {
  constexpr milliseconds kMax = std::chrono::duration_cast<milliseconds>(nanoseconds::max());
  if (since_1970 > kMax || since_1970 < -kMax) throw std::runtime_error("a time is none");
  return WallTime(since_1970);
}

}  // namespace

json ToJson(const JournalledHint& hint) {
  if (hint.had_credentials) {
    const api::HintSpec kept{
        .id = hint.spec.id, .reference = hint.spec.reference, .scheduler = hint.spec.scheduler};
    json out = ToJson({kept, hint.taken});
    out["hadCredentials"] = true;
    return out;
  }
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
  if (!spec.targets.empty()) out["targets"] = spec.targets;
  if (spec.blob) out["blob"] = {spec.blob->digest.ToString(), spec.blob->size};
  return out;
}

// Throws what says what is wrong.
JournalledHint HintFrom(const json& in) {
  JournalledHint hint;
  api::HintSpec& spec = hint.spec;
  spec.id = in.at("id").get<std::string>();
  spec.reference = in.at("reference").get<std::string>();
  spec.priority = NumberFrom<int32_t>(in.at("priority"));
  spec.scheduler = in.at("scheduler").get<std::string>();
  spec.pin = in.at("pin").get<bool>();
  hint.taken = TimeFrom(milliseconds(NumberFrom<int64_t>(in.at("taken"))));
  if (in.contains("platform")) {
    const json& platform = in.at("platform");
    spec.platform = {platform.at("os").get<std::string>(), platform.at("architecture").get<std::string>(),
                     platform.at("variant").get<std::string>()};
  }
  for (const json& range : in.value("ranges", json::array())) {
    const absl::StatusOr<Digest> blob = Digest::Parse(range.at(0).get<std::string>());
    const ByteRange bytes{NumberFrom<uint64_t>(range.at(1)), NumberFrom<uint64_t>(range.at(2))};
    if (!blob.ok() || bytes.length == 0 || bytes.offset + bytes.length < bytes.offset)
      throw std::runtime_error("a range is none");
    spec.ranges.push_back({*blob, bytes});
  }
  if (in.contains("neededBy")) {
    spec.needed_by = WallTime(std::chrono::duration_cast<std::chrono::system_clock::duration>(
        nanoseconds(NumberFrom<int64_t>(in.at("neededBy")))));
  }
  if (in.contains("ttl")) spec.ttl = Duration(NumberFrom<int64_t>(in.at("ttl")));
  spec.profile = in.value("profile", false);
  hint.had_credentials = in.value("hadCredentials", false);
  spec.targets = in.value("targets", std::vector<std::string>());
  if (in.contains("blob")) {
    const absl::StatusOr<Digest> digest = Digest::Parse(in.at("blob").at(0).get<std::string>());
    if (!digest.ok()) throw std::runtime_error("a blob is none");
    spec.blob = api::HintBlob{*digest, NumberFrom<uint64_t>(in.at("blob").at(1))};
  }
  const bool sound = !spec.id.empty() && spec.id.size() <= api::kHintIdBytesMax && IsMadeAsAnId(spec.id) &&
                     spec.scheduler.size() <= api::kSchedulerBytesMax && IsMadeAsAnId(spec.scheduler) &&
                     spec.priority >= -api::kHintPriorityMax && spec.priority <= api::kHintPriorityMax &&
                     spec.targets.size() <= api::kHintTargetsMax &&
                     spec.ranges.size() <= api::kHintRangesMax &&
                     (!spec.profile || (spec.ranges.empty() && !spec.blob)) &&
                     (!spec.ttl || (*spec.ttl > Duration::zero() && *spec.ttl <= api::kHintTtlMax));
  if (!sound) throw std::runtime_error("a hint can't have been taken so");
  return hint;
}

}  // namespace sluice
