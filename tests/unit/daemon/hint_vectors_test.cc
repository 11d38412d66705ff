// The vectors of tests/unit/p2p/route_vectors.py, as far as they are of hints: two builds must agree on them.

#include <gtest/gtest.h>

#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "node/daemon/hint_codec.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

std::optional<JournalledHint> Parse(const std::string& text) {
  try {
    return HintFrom(Json::parse(text));
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

TEST(HintVectorsTest, HintsBetweenNodes) {
  std::ifstream file(SLUICE_ROUTE_VECTORS);
  const Json vectors = Json::parse(file, nullptr, false)["hints"];
  ASSERT_FALSE(vectors.empty());
  for (const Json& vector : vectors) {
    const std::optional<JournalledHint> hint = Parse(vector["text"].get<std::string>());
    EXPECT_EQ(hint ? ToJson(*hint) : Json(nullptr), vector["read"]) << vector["text"];
  }
}

}  // namespace
}  // namespace sluice
