#include "node/daemon/hint_journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/unit/api/temp_dir.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using WallTime = std::chrono::system_clock::time_point;

Digest NameOf(uint8_t first) {
  std::array<uint8_t, Digest::kBytes> bytes{};
  bytes[0] = first;
  return Digest(bytes);
}

class HintJournalTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(path_, std::ios::binary) << text; }
  std::string Text() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  api::TempDir dir_;
  const std::string path_ = dir_.File("hints.json");
  std::vector<std::string> Ids() const {
    const absl::StatusOr<std::vector<JournalledHint>> hints = journal_.Load();
    EXPECT_TRUE(hints.ok()) << hints.status();
    std::vector<std::string> ids;
    for (const JournalledHint& hint : hints.value_or(std::vector<JournalledHint>()))
      ids.push_back(hint.spec.id);
    return ids;
  }
  static JournalledHint Hint(const std::string& id, int priority = 0) {
    return {{.id = id, .reference = "r/app:1", .priority = priority}, {}};
  }

  HintJournal journal_{path_};
};

TEST_F(HintJournalTest, WithoutAFileThereAreNoHints) {
  const auto hints = journal_.Load();
  ASSERT_TRUE(hints.ok()) << hints.status();
  EXPECT_THAT(*hints, IsEmpty());
}

TEST_F(HintJournalTest, OfOneWithCredentialsThereIsLittleAndNoSecret) {
  const api::HintSpec secret{.id = "secret",
                             .reference = "r/app:1",
                             .ranges = {{NameOf(1), {0, 10}}},
                             .priority = 7,
                             .scheduler = "s",
                             .targets = {"m"},
                             .credentials = api::HintCredentials{"ann", Secret("s3cret")}};
  const WallTime taken{milliseconds(1'700'000'000'042)};
  ASSERT_TRUE(journal_.Save({{secret, taken, true}, {secret, taken}}).ok());
  EXPECT_EQ(Text().find("s3cret"), std::string::npos);
  EXPECT_EQ(Text().find("ann"), std::string::npos);
  const auto hints = journal_.Load();
  ASSERT_TRUE(hints.ok()) << hints.status();
  ASSERT_THAT(*hints, SizeIs(2));
  EXPECT_TRUE(hints->at(0).had_credentials);
  EXPECT_EQ(hints->at(0).spec.id, "secret");
  EXPECT_EQ(hints->at(0).spec.reference, "r/app:1");
  EXPECT_EQ(hints->at(0).spec.scheduler, "s");
  EXPECT_EQ(hints->at(0).taken, taken);
  EXPECT_THAT(hints->at(0).spec.ranges, IsEmpty());
  EXPECT_EQ(hints->at(0).spec.priority, 0);
  EXPECT_FALSE(hints->at(1).had_credentials);
}

TEST_F(HintJournalTest, EveryFieldComesBack) {
  api::HintSpec full{.id = "full",
                     .reference = "r/app:1",
                     .platform = api::HintPlatform{"linux", "arm64", "v8"},
                     .ranges = {{NameOf(1), {0, 10}}, {NameOf(2), {4096, uint64_t{1} << 40}}},
                     .priority = -7,
                     .needed_by = WallTime(std::chrono::nanoseconds(1'700'000'000'123'456'789)),
                     .ttl = std::chrono::hours(3),
                     .scheduler = "s",
                     .pin = true,
                     .blob = api::HintBlob{NameOf(1), 5000}};
  const api::HintSpec plain{.id = "plain", .reference = "r/b:1"};
  const api::HintSpec profile{.id = "profile", .reference = "r/b:1", .profile = true};
  const WallTime taken{milliseconds(1'700'000'000'042)};
  ASSERT_TRUE(journal_.Save({{full, taken}, {plain, taken + milliseconds(1)}, {profile, taken}}).ok());
  const auto hints = journal_.Load();
  ASSERT_TRUE(hints.ok()) << hints.status();
  ASSERT_THAT(*hints, SizeIs(3));
  EXPECT_TRUE(hints->at(2).spec.profile);
  const api::HintSpec& got = hints->at(0).spec;
  EXPECT_EQ(got.id, "full");
  EXPECT_EQ(got.reference, "r/app:1");
  EXPECT_EQ(got.platform, full.platform);
  EXPECT_EQ(got.ranges, full.ranges);
  EXPECT_EQ(got.priority, -7);
  EXPECT_EQ(got.needed_by, full.needed_by);
  EXPECT_EQ(got.ttl, full.ttl);
  EXPECT_EQ(got.scheduler, "s");
  EXPECT_TRUE(got.pin);
  EXPECT_EQ(got.blob, full.blob);
  EXPECT_EQ(hints->at(0).taken, taken);
  const api::HintSpec& other = hints->at(1).spec;
  EXPECT_EQ(other.id, "plain");
  EXPECT_FALSE(other.platform || other.needed_by || other.ttl || other.pin || other.blob || other.profile);
  EXPECT_THAT(other.ranges, IsEmpty());
  ASSERT_TRUE(journal_.Save({}).ok());
  EXPECT_THAT(*journal_.Load(), IsEmpty());
}

TEST_F(HintJournalTest, WhatIsNoJournalIsSaidAndLeftOut) {
  for (
      const std::string& text : std::initializer_list<std::string>{
          "", "x", "[]", "{}", R"({"version":2,"hints":[]})", R"({"version":1})",
          R"({"version":1,"hints":[{}]})",
          R"({"version":1,"hints":[{"id":"","reference":"r","priority":0,"scheduler":"","pin":false,"taken":0}]})",
          R"({"version":1,"hints":[{"id":"a","reference":"r","priority":0,"scheduler":"","pin":false,"taken":0,
            "ttl":-1}]})",
          R"({"version":1,"hints":[{"id":"a","reference":"r","priority":0,"scheduler":"","pin":false,"taken":0,
            "ranges":[["sha256:00",0,1]]}]})",
          R"({"version":1,"hints":[{"id":"a","reference":"r","priority":0,"scheduler":"","pin":false,"taken":0,
            "blob":["sha256:00",0]}]})",
          R"({"version":1,"hints":[{"id":"a","reference":"r","priority":0,"scheduler":"","pin":false,"taken":0,
            "profile":true,"ranges":[["sha256:)" +
              std::string(64, '0') + R"(",0,1]]}]})"}) {
    Write(text);
    EXPECT_TRUE(absl::IsDataLoss(journal_.Load().status())) << text;
    EXPECT_EQ(Text(), text) << "it is left as it is";
  }
}

TEST_F(HintJournalTest, ACopyOfAnotherMomentIsLeftOut) {
  ASSERT_TRUE(journal_.Save({{{.id = "a", .reference = "r/a:1"}, {}}}).ok());
  const std::string before = Text();
  ASSERT_TRUE(journal_.Save({}).ok());
  std::filesystem::remove(path_);
  Write(before);
  const absl::Status status = journal_.Load().status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("copy"));
}

TEST_F(HintJournalTest, WhatIsAddedComesBackAndWhatIsOverDoesNot) {
  ASSERT_TRUE(journal_.Save({Hint("a"), Hint("b")}).ok());
  ASSERT_TRUE(journal_.AddTaken({Hint("c"), Hint("d")}).ok());
  ASSERT_TRUE(journal_.AddOver({"a", "d", "stranger"}).ok());
  EXPECT_THAT(Ids(), ElementsAre("b", "c"));
  ASSERT_TRUE(journal_.AddTaken({Hint("b", 7), Hint("a")}).ok());
  EXPECT_THAT(Ids(), ElementsAre("b", "c", "a"));
  EXPECT_EQ(journal_.Load()->front().spec.priority, 7) << "the later one is the hint of that id";
  ASSERT_TRUE(journal_.Save({Hint("e")}).ok());
  EXPECT_THAT(Ids(), ElementsAre("e"));
}

TEST_F(HintJournalTest, WhatIsAddedWhileTheFileIsReplacedStays) {
  ASSERT_TRUE(journal_.Save({Hint("a")}).ok());
  journal_.BeginSave();
  ASSERT_TRUE(journal_.AddTaken({Hint("b")}).ok());
  EXPECT_THAT(Ids(), ElementsAre("a", "b")) << "at once, if the save comes to nothing";
  ASSERT_TRUE(journal_.Save({Hint("a")}).ok());
  EXPECT_THAT(Ids(), ElementsAre("a", "b"));
  journal_.BeginSave();
  ASSERT_TRUE(journal_.AddOver({"a"}).ok());
  ASSERT_TRUE(journal_.Save({Hint("a"), Hint("b")}).ok());
  EXPECT_THAT(Ids(), ElementsAre("b"));
  ASSERT_TRUE(journal_.Save({Hint("a")}).ok());
  EXPECT_THAT(Ids(), ElementsAre("a")) << "what was added before the next save is not added to it";
}

TEST_F(HintJournalTest, WhatIsAddedBetweenTwoSavesIsBounded) {
  ASSERT_TRUE(journal_.Save({}).ok());
  const std::vector<std::string> ids(1000, std::string(1000, 'x'));
  absl::Status added;
  for (int i = 0; i < 20 && added.ok(); ++i) added = journal_.AddOver(ids);
  EXPECT_TRUE(absl::IsUnavailable(added)) << added;
  EXPECT_LE(std::filesystem::file_size(path_), HintJournal::kAddedBytesMax + 1000);
  ASSERT_TRUE(journal_.Save({}).ok());
  EXPECT_TRUE(journal_.AddOver(ids).ok());
}

TEST_F(HintJournalTest, HalfALineEndsIt) {
  ASSERT_TRUE(journal_.Save({Hint("a")}).ok());
  ASSERT_TRUE(journal_.AddTaken({Hint("b")}).ok());
  const auto size = std::filesystem::file_size(path_);
  ASSERT_TRUE(journal_.AddTaken({Hint("c")}).ok());
  ASSERT_TRUE(journal_.AddTaken({Hint("d")}).ok());
  std::filesystem::resize_file(path_, size + 20);
  EXPECT_THAT(Ids(), ElementsAre("a", "b"));
  std::filesystem::resize_file(path_, size + 300);
  EXPECT_THAT(Ids(), ElementsAre("a", "b")) << "a power cut leaves zeros where bytes were not written";
  std::filesystem::resize_file(path_, size - 1);
  EXPECT_THAT(Ids(), ElementsAre("a"));
}

TEST_F(HintJournalTest, ADiskThatTakesNothingIsAnError) {
  HintJournal nowhere(dir_.File("nowhere/hints.json"));
  EXPECT_TRUE(absl::IsUnavailable(nowhere.Save({})));
  EXPECT_TRUE(absl::IsUnavailable(nowhere.AddTaken({Hint("a")})));
  EXPECT_TRUE(absl::IsUnavailable(nowhere.AddOver({"a"})));
}

}  // namespace
}  // namespace sluice
