#include "p2p/cluster/holder_codec.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "node/geometry.h"
#include "p2p/cluster/member_table.h"
#include "p2p/http/content_range.h"

namespace sluice::p2p {
namespace {

using Json = nlohmann::json;

constexpr size_t kBlobsMax = 10000;  // of one announcement

// Null if it is no JSON; never throws.
Json Parse(std::string_view text) {
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

Json JsonOf(const BlobIdentity& blob) {
  return {{"digest", blob.digest.ToString()},
          {"size", blob.size},
          {"chunk", blob.chunk_size},
          {"root", blob.root.ToString()}};
}

std::optional<BlobIdentity> Checked(BlobIdentity blob) {
  if (blob.size == 0 || !ChunkGeometry::Validate(blob.size, blob.chunk_size).ok()) return std::nullopt;
  return blob;
}

std::optional<BlobIdentity> IdentityOf(const Json& json) {
  if (!json.is_object()) return std::nullopt;
  const auto text = [&](const char* key) -> std::string {
    const auto field = json.find(key);
    return field != json.end() && field->is_string() ? field->get<std::string>() : std::string();
  };
  const auto number = [&](const char* key) -> uint64_t {
    const auto field = json.find(key);
    return field != json.end() && field->is_number_unsigned() ? field->get<uint64_t>() : 0;
  };
  const absl::StatusOr<Digest> digest = Digest::Parse(text("digest")), root = Digest::Parse(text("root"));
  const uint64_t chunk = number("chunk");
  if (!digest.ok() || !root.ok() || chunk > UINT32_MAX) return std::nullopt;
  return Checked({*digest, number("size"), static_cast<uint32_t>(chunk), *root});
}

bool IsName(const Json& json) {
  return json.is_string() && !json.get_ref<const std::string&>().empty() &&
         json.get_ref<const std::string&>().size() <= MemberRow::kNameBytesMax;
}

}  // namespace

std::string FormatAnnouncement(const Announcement& announcement) {
  Json held = Json::array(), gone = Json::array();
  for (const HeldBlob& blob : announcement.held) {
    held.push_back(JsonOf(blob.blob));
    held.back()["whole"] = blob.whole;
    if (!blob.whole) held.back()["present"] = blob.present_bytes;
  }
  for (const BlobIdentity& blob : announcement.gone) gone.push_back(JsonOf(blob));
  return Json{{"holder", announcement.holder}, {"held", held}, {"gone", gone}}.dump(
      -1, ' ', false, Json::error_handler_t::replace);
}

std::optional<Announcement> ParseAnnouncement(std::string_view text) {
  const Json json = Parse(text);
  if (!json.is_object()) return std::nullopt;
  const auto holder = json.find("holder");
  if (holder == json.end() || !IsName(*holder)) return std::nullopt;
  Announcement announcement;
  announcement.holder = holder->get<std::string>();
  for (const char* const key : {"held", "gone"}) {
    const auto list = json.find(key);
    if (list == json.end()) continue;
    if (!list->is_array() || list->size() > kBlobsMax) return std::nullopt;
    for (const Json& entry : *list) {
      const std::optional<BlobIdentity> blob = IdentityOf(entry);
      if (!blob) continue;
      const bool whole = entry.value("whole", Json()) == Json(true);
      const Json present = entry.value("present", Json());
      const uint64_t present_bytes = present.is_number_unsigned() ? present.get<uint64_t>() : 0;
      if (key == std::string_view("held")) {
        announcement.held.push_back({*blob, whole, present_bytes});
      } else {
        announcement.gone.push_back(*blob);
      }
    }
  }
  return announcement;
}

std::string FormatHoldersQuery(const BlobIdentity& blob) {
  return absl::StrCat("digest=", blob.digest.ToString(), "&size=", blob.size, "&chunk=", blob.chunk_size,
                      "&root=", blob.root.ToString());
}

std::optional<BlobIdentity> MakeBlobIdentity(std::string_view digest, std::string_view size,
                                             std::string_view chunk, std::string_view root) {
  const absl::StatusOr<Digest> blob = Digest::Parse(digest), proof = Digest::Parse(root);
  const std::optional<uint64_t> bytes = ParseNumber(size), of_chunk = ParseNumber(chunk);
  if (!blob.ok() || !proof.ok() || !bytes || !of_chunk || *of_chunk > UINT32_MAX) return std::nullopt;
  return Checked({*blob, *bytes, static_cast<uint32_t>(*of_chunk), *proof});
}

std::string FormatHolders(const std::vector<std::string>& names) {
  return Json{{"holders", names}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<std::vector<std::string>> ParseHolders(std::string_view text) {
  const Json json = Parse(text);
  if (!json.is_object()) return std::nullopt;
  const auto list = json.find("holders");
  if (list == json.end() || !list->is_array()) return std::nullopt;
  std::vector<std::string> names;
  for (const Json& name : *list) {
    if (names.size() == kHoldersNamedMax) break;
    if (!IsName(name)) return std::nullopt;
    names.push_back(name.get<std::string>());
  }
  return names;
}

std::string FormatShares(const std::vector<HolderShare>& shares) {
  Json names = Json::array(), present = Json::array();
  for (const HolderShare& share : shares) {
    names.push_back(share.name);
    present.push_back(share.present_bytes);
  }
  return Json{{"holders", names}, {"present", present}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<std::vector<HolderShare>> ParseShares(std::string_view text) {
  const Json json = Parse(text);
  const std::optional<std::vector<std::string>> names = ParseHolders(text);
  if (!names) return std::nullopt;
  const auto present = json.find("present");
  if (present == json.end() || !present->is_array() || present->size() < names->size()) return std::nullopt;
  std::vector<HolderShare> shares;
  for (size_t i = 0; i < names->size(); ++i) {
    const Json& bytes = (*present)[i];
    if (!bytes.is_number_unsigned()) return std::nullopt;
    shares.push_back({(*names)[i], bytes.get<uint64_t>()});
  }
  return shares;
}

std::string FormatPresencePath(const BlobIdentity& blob) {
  return absl::StrCat(kPresencePath, "/", blob.digest.ToString(), "?size=", blob.size,
                      "&chunk=", blob.chunk_size, "&root=", blob.root.ToString());
}

std::string FormatPresence(const ChunkSet& present) {
  std::string bytes((size_t{present.chunk_count()} + 7) / 8, '\0');
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<char>(present.words()[i / 8] >> (i % 8 * 8) & 0xff);
  return Json{{"present", absl::Base64Escape(bytes)}}.dump();
}

std::optional<ChunkSet> ParsePresence(std::string_view text, uint32_t chunk_count) {
  const Json json = Parse(text);
  if (!json.is_object()) return std::nullopt;
  const auto encoded = json.find("present");
  std::string bytes;
  if (encoded == json.end() || !encoded->is_string() ||
      !absl::Base64Unescape(encoded->get_ref<const std::string&>(), &bytes) ||
      bytes.size() != (size_t{chunk_count} + 7) / 8) {
    return std::nullopt;
  }
  ChunkSet present(chunk_count);
  for (size_t word = 0; word < present.words().size(); ++word) {
    uint64_t bits = 0;
    for (size_t i = word * 8; i < std::min(bytes.size(), word * 8 + 8); ++i)
      bits |= uint64_t{static_cast<uint8_t>(bytes[i])} << (i % 8 * 8);
    present.SetWord(word, bits);
  }
  return present;
}

}  // namespace sluice::p2p
