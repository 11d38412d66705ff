// The vectors of member_vectors.py: two builds must agree on them.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "p2p/cluster/assignment.h"
#include "p2p/cluster/member_codec.h"

namespace sluice::p2p {
namespace {

using Json = nlohmann::json;

Json Vectors(const char* part) {
  std::ifstream file(SLUICE_MEMBER_VECTORS);
  return Json::parse(file, nullptr, false)[part];
}

Json JsonOf(const MemberRow& row) {
  Json addresses = Json::array();
  for (const HostPort& address : row.addresses) addresses.push_back(address.ToString());
  return {{"name", row.name},
          {"addresses", addresses},
          {"zone", row.zone},
          {"protocol", row.protocol},
          {"start", row.start}};
}

MemberRow RowFrom(const Json& json) {
  return DecodeRow(json.dump()).value_or(MemberRow());
}

TEST(MemberVectorsTest, Hashes) {
  const Json vectors = Vectors("hashes");
  ASSERT_FALSE(vectors.empty());
  for (const Json& vector : vectors) {
    // A table hashes what it speaks the protocol of.
    RowHashes hashes{};
    for (const Json& json : vector["rows"]) {
      const MemberRow row = RowFrom(json);
      const RowHashes alone = MemberTable(row, std::chrono::seconds(300)).Hashes();
      for (size_t i = 0; i < kRowBuckets; ++i) hashes[i] ^= alone[i];
    }
    EXPECT_EQ(EncodeHashes(hashes), vector["since"]) << vector["rows"];
  }
}

TEST(MemberVectorsTest, Rows) {
  const Json vectors = Vectors("rows");
  ASSERT_FALSE(vectors.empty());
  for (const Json& vector : vectors) {
    const absl::StatusOr<MemberRow> row = DecodeRow(vector["text"].get<std::string>());
    EXPECT_EQ(row.ok() ? JsonOf(*row) : Json(nullptr), vector["row"]) << vector["text"];
    if (row.ok()) {
      EXPECT_EQ(DecodeRow(EncodeRow(*row)).value_or(MemberRow()), *row) << vector["text"];
    }
  }
}

TEST(MemberVectorsTest, Answers) {
  const auto seconds = [](Duration age) {
    return std::chrono::duration_cast<std::chrono::seconds>(age).count();
  };
  const Json vectors = Vectors("answers");
  ASSERT_FALSE(vectors.empty());
  for (const Json& vector : vectors) {
    const absl::StatusOr<MembersAnswer> answer = DecodeMembers(vector["text"].get<std::string>());
    Json read = nullptr;
    if (answer.ok()) {
      read = {{"self", answer->self.name}, {"rows", Json::array()}, {"ages", Json::array()}};
      for (const MemberTable::Told& told : answer->rows)
        read["rows"].push_back(Json::array({told.row.name, seconds(told.age)}));
      for (const MemberTable::ToldAge& told : answer->ages)
        read["ages"].push_back(Json::array({told.name, told.start, seconds(told.age)}));
    }
    EXPECT_EQ(read, vector["read"]) << vector["text"];
  }
}

}  // namespace
}  // namespace sluice::p2p
