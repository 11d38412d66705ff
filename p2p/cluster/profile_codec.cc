#include "p2p/cluster/profile_codec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "p2p/cluster/member_table.h"

namespace sluice::p2p {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;

// Null if it is no object of this version; never throws.
Json Parse(std::string_view text) {
  if (text.size() > kProfileBytesMax) return {};
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("version", Json()) != Json(kVersion)) return {};
  return json;
}

std::optional<uint32_t> NumberIn(const Json& json, uint64_t max) {
  if (!json.is_number_unsigned() || json.get<uint64_t>() > max) return std::nullopt;
  return static_cast<uint32_t>(json.get<uint64_t>());
}

Json JsonOf(const ImageProfile& profile) {
  Json spans = Json::array();
  for (const ProfileSpan& span : profile.spans)
    spans.push_back({span.blob, span.chunks.first.value(), span.chunks.count, span.after_ms, span.weight});
  return {{"version", kVersion}, {"runs", profile.runs}, {"spans", spans}, {"blind", profile.blind}};
}

std::optional<ProfileSpan> SpanOf(const Json& json) {
  if (!json.is_array() || json.size() != 5) return std::nullopt;
  const auto blob = NumberIn(json[0], ImageProfile::kBlobsMax - 1);
  const auto first = NumberIn(json[1], kChunksPerBlobMax - 1), count = NumberIn(json[2], kChunksPerBlobMax);
  const auto after_ms = NumberIn(json[3], UINT32_MAX), weight = NumberIn(json[4], ProfileSpan::kWeightMax);
  if (!blob || !first || !count || *count == 0 || *first + *count > kChunksPerBlobMax || !after_ms || !weight)
    return std::nullopt;
  return ProfileSpan{*blob, {ChunkIndex(*first), *count}, *after_ms, static_cast<uint8_t>(*weight)};
}

std::optional<ImageProfile> ProfileOf(const Json& json) {
  const auto runs = NumberIn(json.value("runs", Json()), UINT32_MAX);
  const Json spans = json.value("spans", Json()), blind = json.value("blind", Json::array());
  if (!runs || *runs == 0 || !spans.is_array() || spans.size() > ImageProfile::kSpansMax ||
      !blind.is_array() || blind.size() > ImageProfile::kBlobsMax)
    return std::nullopt;
  ImageProfile profile;
  profile.runs = *runs;
  uint64_t chunks = 0;
  for (const Json& entry : spans) {
    const std::optional<ProfileSpan> span = SpanOf(entry);
    if (!span) return std::nullopt;
    chunks += span->chunks.count;
    profile.spans.push_back(*span);
  }
  // Merging looks at each.
  if (chunks > ImageProfile::kSpansMax * uint64_t{FirstTouches::kSpanChunksMax}) return std::nullopt;
  for (const Json& entry : blind) {
    const auto blob = NumberIn(entry, ImageProfile::kBlobsMax - 1);
    if (!blob) return std::nullopt;
    profile.blind.push_back(*blob);
  }
  if (!std::is_sorted(profile.blind.begin(), profile.blind.end())) return std::nullopt;
  return profile;
}

std::optional<KeptProfile::Recorder> RecorderOf(const Json& name, const Json& number) {
  if (!name.is_string() || name.get_ref<const std::string&>().empty() ||
      name.get_ref<const std::string&>().size() > MemberRow::kNameBytesMax || !number.is_number_unsigned())
    return std::nullopt;
  return KeptProfile::Recorder(name.get<std::string>(), number.get<uint64_t>());
}

std::optional<Digest> ManifestOf(const Json& json) {
  const Json text = json.value("manifest", Json());
  if (!text.is_string()) return std::nullopt;
  const absl::StatusOr<Digest> digest = Digest::Parse(text.get_ref<const std::string&>());
  return digest.ok() ? std::optional(*digest) : std::nullopt;
}

ImageAccess AccessOf(const Json& json) {
  return json.value("public", Json()) == Json(true) ? ImageAccess::kPublic : ImageAccess::kPrivate;
}

std::string TextOf(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

bool KeptProfile::Merge(const StartRecord& record) {
  const auto known = std::find_if(recorders.begin(), recorders.end(),
                                  [&](const Recorder& entry) { return entry.first == record.recorder; });
  if (known != recorders.end()) {
    if (known->second == record.number) return false;
    recorders.erase(known);
  }
  if (recorders.size() == kRecordersMax) recorders.erase(recorders.begin());
  recorders.emplace_back(record.recorder, record.number);
  manifest = record.manifest;
  if (record.access == ImageAccess::kPublic) access = ImageAccess::kPublic;
  profile = Merged(profile, record.start);
  return true;
}

std::string FormatStart(const StartRecord& record) {
  Json json = JsonOf(record.start);
  json["manifest"] = record.manifest.ToString();
  json["recorder"] = record.recorder;
  json["number"] = record.number;
  json["public"] = record.access == ImageAccess::kPublic;
  return TextOf(json);
}

std::string FormatKept(const KeptProfile& kept) {
  Json json = JsonOf(kept.profile);
  json["manifest"] = kept.manifest.ToString();
  json["public"] = kept.access == ImageAccess::kPublic;
  json["recorders"] = kept.recorders;
  return TextOf(json);
}

std::optional<StartRecord> ParseStart(std::string_view text) {
  const Json json = Parse(text);
  if (json.is_null()) return std::nullopt;
  const std::optional<Digest> manifest = ManifestOf(json);
  const auto recorder = RecorderOf(json.value("recorder", Json()), json.value("number", Json()));
  std::optional<ImageProfile> start = ProfileOf(json);
  if (!manifest || !recorder || !start || start->runs != 1) return std::nullopt;
  return StartRecord{*manifest, recorder->first, recorder->second, AccessOf(json), *std::move(start)};
}

std::optional<KeptProfile> ParseKept(std::string_view text) {
  const Json json = Parse(text);
  if (json.is_null()) return std::nullopt;
  const std::optional<Digest> manifest = ManifestOf(json);
  std::optional<ImageProfile> profile = ProfileOf(json);
  const Json recorders = json.value("recorders", Json::array());
  if (!manifest || !profile || !recorders.is_array() || recorders.size() > KeptProfile::kRecordersMax)
    return std::nullopt;
  KeptProfile kept{*manifest, AccessOf(json), *std::move(profile), {}};
  for (const Json& entry : recorders) {
    if (!entry.is_array() || entry.size() != 2) return std::nullopt;
    const auto recorder = RecorderOf(entry[0], entry[1]);
    if (!recorder) return std::nullopt;
    kept.recorders.push_back(*recorder);
  }
  return kept;
}

}  // namespace sluice::p2p
