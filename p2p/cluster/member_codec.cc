#include "p2p/cluster/member_codec.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::p2p {
namespace {

using Json = nlohmann::json;

constexpr int64_t kAgeSecondsMax = 1'000'000;

std::optional<uint32_t> ParseHex(std::string_view text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

int64_t SecondsOf(Duration age) {
  return std::chrono::ceil<std::chrono::seconds>(age).count();
}

std::optional<Duration> AgeOf(const Json& json) {
  if (!json.is_number_integer() && !json.is_number_unsigned()) return std::nullopt;
  const auto seconds = json.get<int64_t>();
  if (seconds < 0 || seconds > kAgeSecondsMax) return std::nullopt;
  return std::chrono::seconds(seconds);
}

Json JsonOf(const MemberRow& row) {
  Json addresses = Json::array();
  for (const HostPort& address : row.addresses) addresses.push_back(address.ToString());
  Json json = {
      {"name", row.name}, {"addresses", addresses}, {"protocol", row.protocol}, {"start", row.start}};
  if (!row.zone.empty()) json["zone"] = row.zone;
  return json;
}

bool Take(const Json& json, const char* key, std::string& to) {
  const auto field = json.find(key);
  if (field == json.end() || !field->is_string()) return false;
  to = field->get<std::string>();
  return true;
}

bool Take(const Json& json, const char* key, uint64_t& to) {
  const auto field = json.find(key);
  if (field == json.end() || !field->is_number_unsigned()) return false;
  to = field->get<uint64_t>();
  return true;
}

std::optional<MemberRow> RowOf(const Json& json) {
  MemberRow row;
  uint64_t protocol = 0;
  if (!json.is_object() || !Take(json, "name", row.name) || !Take(json, "start", row.start) ||
      !Take(json, "protocol", protocol) || protocol > UINT32_MAX)
    return std::nullopt;
  row.protocol = static_cast<uint32_t>(protocol);
  Take(json, "zone", row.zone);
  const auto addresses = json.find("addresses");
  if (addresses == json.end() || !addresses->is_array()) return std::nullopt;
  for (const Json& text : *addresses) {
    if (!text.is_string()) return std::nullopt;
    absl::StatusOr<HostPort> address = HostPort::Parse(text.get_ref<const std::string&>());
    if (!address.ok()) return std::nullopt;
    address->host = CanonicalHost(address->host);
    row.addresses.push_back(*std::move(address));
  }
  if (!row.Validate().ok()) return std::nullopt;
  return row;
}

// Null if it is no JSON; never throws.
Json Parse(std::string_view text) {
  Json json = Json::parse(text, nullptr, false);
  // Not copied: that recurses as deep as the text nests.
  if (json.is_discarded()) json = nullptr;
  return json;
}

}  // namespace

std::string EncodeHashes(const RowHashes& hashes) {
  std::string text;
  for (const uint32_t hash : hashes) absl::StrAppend(&text, EncodeBuckets(hash));
  return text;
}

std::optional<RowHashes> DecodeHashes(std::string_view text) {
  if (text.size() != 8 * kRowBuckets) return std::nullopt;
  RowHashes hashes{};
  for (size_t i = 0; i < kRowBuckets; ++i) {
    const std::optional<uint32_t> hash = ParseHex(text.substr(8 * i, 8));
    if (!hash) return std::nullopt;
    hashes[i] = *hash;
  }
  return hashes;
}

std::string EncodeBuckets(RowBucketSet buckets) {
  return absl::StrFormat("%08x", buckets);
}

std::optional<RowBucketSet> DecodeBuckets(std::string_view text) {
  if (text.size() != 8) return std::nullopt;
  return ParseHex(text);
}

std::string EncodeRow(const MemberRow& row) {
  return JsonOf(row).dump();
}

absl::StatusOr<MemberRow> DecodeRow(std::string_view json) {
  std::optional<MemberRow> row = RowOf(Parse(json));
  if (!row) return absl::InvalidArgumentError("it is no member's row");
  return *std::move(row);
}

std::string EncodeMembers(const MembersAnswer& answer) {
  std::string text = absl::StrCat("{\"self\":", EncodeRow(answer.self), ",\"rows\":[");
  constexpr std::string_view kBetween = "],\"ages\":[", kEnd = "]}\n";
  const auto append = [&](const Json& json, bool first) {
    const std::string part = json.dump();
    if (text.size() + part.size() + 1 + kBetween.size() + kEnd.size() > kMembersBytesMax) return false;
    absl::StrAppend(&text, first ? "" : ",", part);
    return true;
  };
  for (size_t i = 0; i < answer.rows.size(); ++i) {
    Json json = JsonOf(answer.rows[i].row);
    json["age"] = SecondsOf(answer.rows[i].age);
    if (!append(json, i == 0)) break;
  }
  text += kBetween;
  for (size_t i = 0; i < answer.ages.size(); ++i) {
    const MemberTable::ToldAge& told = answer.ages[i];
    if (!append(Json{told.name, told.start, SecondsOf(told.age)}, i == 0)) break;
  }
  text += kEnd;
  return text;
}

absl::StatusOr<MembersAnswer> DecodeMembers(std::string_view text) {
  if (text.size() > kMembersBytesMax) return absl::InvalidArgumentError("it is too long");
  const Json json = Parse(text);
  if (!json.is_object() || !json.contains("self"))
    return absl::InvalidArgumentError("it is no table of members");
  std::optional<MemberRow> self = RowOf(json["self"]);
  if (!self) return absl::InvalidArgumentError("it does not say who it is");
  MembersAnswer answer{*std::move(self), {}, {}};
  if (const auto rows = json.find("rows"); rows != json.end() && rows->is_array()) {
    for (const Json& entry : *rows) {
      std::optional<MemberRow> row = RowOf(entry);
      if (!row || !entry.contains("age")) continue;
      if (const std::optional<Duration> age = AgeOf(entry["age"]))
        answer.rows.push_back({*std::move(row), *age});
    }
  }
  if (const auto ages = json.find("ages"); ages != json.end() && ages->is_array()) {
    for (const Json& entry : *ages) {
      if (!entry.is_array() || entry.size() != 3 || !entry[0].is_string() || !entry[1].is_number_unsigned())
        continue;
      if (const std::optional<Duration> age = AgeOf(entry[2]))
        answer.ages.push_back({entry[0].get<std::string>(), entry[1].get<uint64_t>(), *age});
    }
  }
  return answer;
}

}  // namespace sluice::p2p
