#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "node/daemon/log.h"
#include "node/daemon/node_page_json.h"
#include "node/daemon/source_rates.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Json = nlohmann::json;

ChunkSet SetOf(uint32_t chunk_count, std::vector<ChunkSpan> spans) {
  ChunkSet set(chunk_count);
  for (const ChunkSpan& span : spans) set.Add(span);
  return set;
}

TEST(PresenceCellsTest, FewChunksHaveACellEach) {
  const PresenceCells cells =
      CellsOf(SetOf(4, {{ChunkIndex(1), 2}}), SetOf(4, {{ChunkIndex(2), 1}}), SetOf(4, {{ChunkIndex(3), 1}}));
  EXPECT_EQ(cells.present, "0990");
  EXPECT_EQ(cells.verified, "0090");
  EXPECT_EQ(cells.under_way, "0009");
}

TEST(PresenceCellsTest, ManyAreDrawnTogetherAndOnlyAllIsNineAndOnlyNoneIsNought) {
  const uint32_t chunks = 65536, per_cell = chunks / PresenceCells::kCellsMax;
  const ChunkSet present = SetOf(chunks, {{ChunkIndex(0), per_cell},
                                          {ChunkIndex(per_cell), 1},
                                          {ChunkIndex(2 * per_cell), per_cell - 1},
                                          {ChunkIndex(chunks - 1), 1}});
  const PresenceCells cells = CellsOf(present, ChunkSet(chunks), present);
  ASSERT_EQ(cells.present.size(), PresenceCells::kCellsMax);
  EXPECT_EQ(cells.present.substr(0, 4), "9180");
  EXPECT_EQ(cells.present.back(), '1');
  EXPECT_EQ(cells.verified, std::string(PresenceCells::kCellsMax, '0'));
  EXPECT_EQ(cells.under_way, cells.present);
}

TEST(PresenceCellsTest, TheLastCellMayHaveFewerChunks) {
  const PresenceCells cells =
      CellsOf(SetOf(129, {{ChunkIndex(128), 1}}), ChunkSet(129), SetOf(129, {{ChunkIndex(0), 1}}));
  EXPECT_EQ(cells.present, std::string(64, '0') + "9");
  EXPECT_EQ(cells.under_way, "5" + std::string(64, '0'));
}

TEST(SourceRatesTest, TellsBytesASecondOfEachInterval) {
  SourceRates rates;
  rates.Add({1000, 0, 50}, Instant(1h));
  EXPECT_THAT(rates.series()[0], IsEmpty());
  rates.Add({3000, 0, 50}, Instant(1h + 2s));
  rates.Add({3000, 800, 50}, Instant(1h + 6s));
  EXPECT_THAT(rates.series()[0], ElementsAre(1000, 0));
  EXPECT_THAT(rates.series()[1], ElementsAre(0, 200));
  EXPECT_THAT(rates.series()[2], ElementsAre(0, 0));
}

TEST(SourceRatesTest, ATotalThatFallsCountsFromZeroAndTheOldestGo) {
  SourceRates rates;
  rates.Add({1000, 0, 0}, Instant(1h));
  rates.Add({400, 0, 0}, Instant(1h + 2s));
  EXPECT_THAT(rates.series()[0], ElementsAre(200));
  for (size_t i = 1; i <= SourceRates::kSamplesMax; ++i) rates.Add({400, 0, 0}, Instant(1h + 2s + i * 2s));
  EXPECT_EQ(rates.series()[0].size(), SourceRates::kSamplesMax);
  EXPECT_EQ(rates.series()[0].front(), 0u);
}

PageFacts FactsWithNames() {
  PageFacts facts;
  facts.status.version = "1.2.3";
  facts.status.mount_count = 3;
  PageMount mount;
  mount.info.reference = "registry.example/SECRET:1";
  mount.info.mount_point = "/SECRET/mnt";
  mount.info.last_error = "SECRET error";
  mount.info.blobs = {{Digest(), 1000, 500}, {Digest(), 10, 0}};
  PageBlob blob;
  blob.size_bytes = 1000;
  blob.present = blob.verified = blob.under_way = SetOf(4, {{ChunkIndex(0), 1}});
  mount.blobs = {blob};
  facts.mounts = {mount};
  facts.activity.emplace();
  facts.activity->reads_waiting = 7;
  facts.activity->reads.push_back({BlobKey(Digest()), {16384, 4096}, 2s, 28s, 1});
  facts.peers.cluster.configured = true;
  for (const char* name : {"SECRET-alive", "SECRET-silent"}) {
    api::PeerInfo& peer = facts.peers.peers.emplace_back();
    peer.name = name;
    peer.addresses = {"SECRET.example:7301"};
    peer.state = peer.name == "SECRET-alive" ? api::PeerState::kAlive : api::PeerState::kSilent;
    peer.skip_reason = "SECRET reason";
  }
  facts.errors = {{1000, "warning", "SECRET one"}, {2000, "error", "SECRET two"}};
  return facts;
}

TEST(NodePageJsonTest, TellsAllOfIt) {
  const Json json = Json::parse(PageJson(FactsWithNames(), PageNames::kShown));
  EXPECT_EQ(json["mounts"][0]["reference"], "registry.example/SECRET:1");
  EXPECT_EQ(json["mounts"][0]["presentBytes"], 500);
  EXPECT_EQ(json["mounts"][0]["moreBlobs"], 1);
  EXPECT_EQ(json["mounts"][0]["blobs"][0]["cells"]["present"], "9000");
  EXPECT_EQ(json["moreMounts"], 2);
  EXPECT_EQ(json["cache"]["readsWaiting"], 7);
  EXPECT_EQ(json["cache"]["reads"][0]["leftSeconds"], 28.0);
  EXPECT_EQ(json["peers"]["states"]["silent"], 1);
  EXPECT_EQ(json["peers"]["list"][0]["name"], "SECRET-silent");  // what is wrong comes first
  EXPECT_EQ(json["errors"][0]["text"], "SECRET two");            // and the newest
}

TEST(NodePageJsonTest, HiddenNamesAreNowhere) {
  const std::string text = PageJson(FactsWithNames(), PageNames::kHidden);
  EXPECT_THAT(text, Not(HasSubstr("SECRET")));
  EXPECT_THAT(text, Not(HasSubstr("registry.example")));
  EXPECT_THAT(text, Not(HasSubstr("000000000000")));  // the digest
  const Json json = Json::parse(text);
  EXPECT_EQ(json["errorCount"], 2);
  EXPECT_EQ(json["mounts"][0]["blobs"][0]["cells"]["present"], "9000");
  EXPECT_EQ(json["peers"]["states"]["silent"], 1);
}

TEST(NodePageJsonTest, WithoutTheCoreLoopItTellsTheRest) {
  PageFacts facts = FactsWithNames();
  facts.activity.reset();
  const Json json = Json::parse(PageJson(facts, PageNames::kShown));
  EXPECT_TRUE(json["cache"].is_null());
  EXPECT_EQ(json["mounts"].size(), 1u);
}

TEST(NodePageJsonTest, BytesThatAreNoTextDoNotBreakIt) {
  PageFacts facts = FactsWithNames();
  facts.mounts[0].info.mount_point = "/\xff\"\n</script>";
  facts.errors[0].text = std::string("\xc3\x28\0x", 4);
  EXPECT_FALSE(Json::parse(PageJson(facts, PageNames::kShown), nullptr, false).is_discarded());
}

TEST(NodePageJsonTest, OfAThousandNodesItListsSomeAndCountsAll) {
  PageFacts facts;
  facts.peers.cluster.configured = true;
  for (int i = 0; i < 1000; ++i) facts.peers.peers.emplace_back().name = absl::StrCat("n", i);
  const Json json = Json::parse(PageJson(facts, PageNames::kShown));
  EXPECT_EQ(json["peers"]["list"].size(), PageFacts::kPeersMax);
  EXPECT_EQ(json["peers"]["more"], 1000 - PageFacts::kPeersMax);
  EXPECT_EQ(json["peers"]["states"]["not asked"], 1000);
}

TEST(RecentLinesTest, TheLastWarningsAndErrorsAreKept) {
  const std::shared_ptr<spdlog::logger> before = spdlog::default_logger();
  {
    DaemonLog log("info", "text");
    spdlog::info("not this");
    for (size_t i = 0; i <= DaemonLog::kRecentMax; ++i) spdlog::warn("line {}", i);
    spdlog::error("{}", std::string(2 * DaemonLog::kRecentBytesMax, 'x'));
    const std::vector<DaemonLog::Line> lines = log.Recent();
    ASSERT_EQ(lines.size(), DaemonLog::kRecentMax);
    EXPECT_EQ(lines.front().text, "line 2");
    EXPECT_EQ(lines.front().level, "warning");
    EXPECT_GT(lines.front().time_ms, 0);
    EXPECT_EQ(lines.back().level, "error");
    EXPECT_EQ(lines.back().text.size(), DaemonLog::kRecentBytesMax);
    EXPECT_EQ(log.SetLevel("error"), "info");
    EXPECT_EQ(log.level(), "error");
    spdlog::warn("not this either");
    EXPECT_EQ(log.Recent().back().level, "error");
    for (const char* const level : {"warn", "debug", "info"}) {
      log.SetLevel(level);
      EXPECT_EQ(log.level(), level);
    }
  }
  spdlog::set_default_logger(before);
}

}  // namespace
}  // namespace sluice
