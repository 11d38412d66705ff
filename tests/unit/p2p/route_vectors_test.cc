// The vectors of route_vectors.py: two builds must agree on them. Those of hints: hint_vectors_test.cc.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "p2p/cluster/holder_codec.h"
#include "p2p/cluster/profile_codec.h"

namespace sluice::p2p {
namespace {

using Json = nlohmann::json;

Json Vectors(const char* part) {
  std::ifstream file(SLUICE_ROUTE_VECTORS);
  return Json::parse(file, nullptr, false)[part];
}

// What is read of each text of that part, and what is written of it again must be read as the same. `read`:
// of a text, null if it is refused; `write`: of what was read.
template <typename Parse, typename Format, typename ToJson>
void Check(const char* part, const Parse& parse, const Format& format, const ToJson& to_json) {
  const Json vectors = Vectors(part);
  ASSERT_FALSE(vectors.empty());
  for (const Json& vector : vectors) {
    const auto parsed = parse(vector["text"].get<std::string>());
    EXPECT_EQ(parsed ? to_json(*parsed) : Json(nullptr), vector["read"]) << vector["text"];
    if (!parsed) continue;
    const auto again = parse(format(*parsed));
    EXPECT_EQ(again ? to_json(*again) : Json(nullptr), vector["read"]) << format(*parsed);
  }
}

Json JsonOf(const BlobIdentity& blob) {
  return {{"digest", blob.digest.ToString()},
          {"size", blob.size},
          {"chunk", blob.chunk_size},
          {"root", blob.root.ToString()}};
}

Json JsonOf(const ImageProfile& profile) {
  Json json = {{"version", 1}, {"runs", profile.runs}, {"spans", Json::array()}, {"blind", profile.blind}};
  for (const ProfileSpan& span : profile.spans) {
    json["spans"].push_back(
        {span.blob, span.chunks.first.value(), span.chunks.count, span.after_ms, span.weight});
  }
  return json;
}

TEST(RouteVectorsTest, Announcements) {
  Check("announcements", ParseAnnouncement, FormatAnnouncement, [](const Announcement& announcement) {
    Json json = {{"holder", announcement.holder}, {"held", Json::array()}, {"gone", Json::array()}};
    for (const HeldBlob& held : announcement.held) {
      json["held"].push_back(JsonOf(held.blob));
      json["held"].back()["whole"] = held.whole;
      json["held"].back()["present"] = held.present_bytes;
    }
    for (const BlobIdentity& gone : announcement.gone) json["gone"].push_back(JsonOf(gone));
    return json;
  });
}

TEST(RouteVectorsTest, Holders) {
  Check("holders", ParseHolders, FormatHolders,
        [](const std::vector<std::string>& names) { return Json(names); });
}

TEST(RouteVectorsTest, Shares) {
  Check("shares", ParseShares, FormatShares, [](const std::vector<HolderShare>& shares) {
    Json json = Json::array();
    for (const HolderShare& share : shares) json.push_back({share.name, share.present_bytes});
    return json;
  });
}

TEST(RouteVectorsTest, Presence) {
  const auto json_of = [](const std::optional<ChunkSet>& present) -> Json {
    if (!present) return nullptr;
    Json chunks = Json::array();
    for (uint32_t i = 0; i < present->chunk_count(); ++i) {
      if (present->Has(ChunkIndex(i))) chunks.push_back(i);
    }
    EXPECT_EQ(present->Count(), chunks.size());
    return chunks;
  };
  const Json vectors = Vectors("presence");
  ASSERT_FALSE(vectors.empty());
  for (const Json& vector : vectors) {
    const auto count = vector["chunks"].get<uint32_t>();
    const std::optional<ChunkSet> present = ParsePresence(vector["text"].get<std::string>(), count);
    EXPECT_EQ(json_of(present), vector["read"]) << vector["text"];
    if (present) {
      EXPECT_EQ(json_of(ParsePresence(FormatPresence(*present), count)), vector["read"]) << vector["text"];
    }
  }
}

TEST(RouteVectorsTest, Starts) {
  Check("starts", ParseStart, FormatStart, [](const StartRecord& record) {
    Json json = JsonOf(record.start);
    json["manifest"] = record.manifest.ToString();
    json["recorder"] = record.recorder;
    json["number"] = record.number;
    json["public"] = record.access == ImageAccess::kPublic;
    return json;
  });
}

TEST(RouteVectorsTest, KeptProfiles) {
  Check("kept", ParseKept, FormatKept, [](const KeptProfile& kept) {
    Json json = JsonOf(kept.profile);
    json["manifest"] = kept.manifest.ToString();
    json["recorders"] = kept.recorders;
    json["public"] = kept.access == ImageAccess::kPublic;
    return json;
  });
}

TEST(RouteVectorsTest, Questions) {
  const Json vectors = Vectors("questions");
  ASSERT_FALSE(vectors.empty());
  for (const Json& vector : vectors) {
    const std::optional<BlobIdentity> blob =
        MakeBlobIdentity(vector["digest"].get<std::string>(), vector["size"].dump(), vector["chunk"].dump(),
                         vector["root"].get<std::string>());
    ASSERT_TRUE(blob.has_value()) << vector;
    EXPECT_EQ(FormatHoldersQuery(*blob), vector["holders"]);
    EXPECT_EQ(FormatPresencePath(*blob), vector["presence"]);
  }
}

}  // namespace
}  // namespace sluice::p2p
