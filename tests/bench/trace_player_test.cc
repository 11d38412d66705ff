#include "tests/bench/trace_player.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/bench/start_trace.h"

namespace sluice::bench {
namespace {

using std::chrono::microseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

StartTrace Parsed(absl::string_view text) {
  absl::StatusOr<StartTrace> trace = ParseTrace(text);
  EXPECT_TRUE(trace.ok()) << trace.status();
  return trace.ok() ? *std::move(trace) : StartTrace{};
}

std::string ErrorOf(absl::string_view text) {
  const absl::StatusOr<StartTrace> trace = ParseTrace(text);
  EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(trace.status().message());
}

TEST(StartTraceTest, ReadsAreInOrderAndThePathIsTheRestOfTheLine) {
  const StartTrace trace =
      Parsed("# command: true\n10 0 4096 bin/true\n\n2 8192 100 a file/with blanks\n7 end\n");
  EXPECT_THAT(trace.reads, ElementsAre(TraceRead{microseconds(10), 0, 4096, "bin/true"},
                                       TraceRead{microseconds(2), 8192, 100, "a file/with blanks"}));
  EXPECT_EQ(trace.end_gap, microseconds(7));
  EXPECT_EQ(trace.OwnTime(), microseconds(19));
  EXPECT_EQ(trace.Bytes(), 4196);
}

TEST(StartTraceTest, ErrorsNameTheLineAndWhatIsWrongThere) {
  EXPECT_THAT(ErrorOf("1 0 1 a\nx 0 1 a\n1 end\n"), HasSubstr("line 2: it does not begin with a gap"));
  EXPECT_THAT(ErrorOf("1 -1 1 a\n1 end\n"), HasSubstr("line 1: the offset"));
  EXPECT_THAT(ErrorOf("1 0 0 a\n1 end\n"), HasSubstr("line 1: the length"));
  EXPECT_THAT(ErrorOf("1 0 16777217 a\n1 end\n"), HasSubstr("line 1: the length"));
  EXPECT_THAT(ErrorOf("1 0 1\n1 end\n"), HasSubstr("line 1: the path"));
  EXPECT_THAT(ErrorOf("1 0 1 /etc/passwd\n1 end\n"), HasSubstr("line 1: the path"));
  EXPECT_THAT(ErrorOf("1 0 1 a/../../etc/passwd\n1 end\n"), HasSubstr("line 1: the path"));
  EXPECT_THAT(ErrorOf("1 0 1 a\n1 end\n1 0 1 a\n"), HasSubstr("line 3: the trace has ended"));
}

TEST(StartTraceTest, ATraceThatWasCutOffIsNoTrace) {
  EXPECT_THAT(ErrorOf("1 0 1 a\n"), HasSubstr("cut off"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("cut off"));
}

TEST(StartTraceTest, WhatIsKeptInMemoryHasABound) {
  std::string text;
  for (uint64_t bytes = 0; bytes < StartTrace::kBytesMax; bytes += TraceRead::kLengthMax) {
    absl::StrAppend(&text, "1 0 ", TraceRead::kLengthMax, " a\n");
  }
  EXPECT_TRUE(ParseTrace(text + "1 end\n").ok());
  EXPECT_THAT(ErrorOf(text + "1 0 1 a\n1 end\n"), HasSubstr("more than"));
}

class TracePlayerTest : public ::testing::Test {
 protected:
  TracePlayerTest() {
    std::string pattern = ::testing::TempDir() + "/trace_player_XXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    for (const absl::string_view tree : {"/root", "/like"}) {
      std::filesystem::create_directories(absl::StrCat(dir_, tree, "/usr/bin"));
      Write(absl::StrCat(dir_, tree, "/usr/bin/program"), "0123456789");
    }
  }
  ~TracePlayerTest() override { std::filesystem::remove_all(dir_); }

  static void Write(const std::string& path, absl::string_view text) { std::ofstream(path) << text; }
  std::string root() const { return dir_ + "/root"; }
  std::string like() const { return dir_ + "/like"; }

  std::string dir_;
};

TEST_F(TracePlayerTest, TakesAtLeastTheProgramsOwnTime) {
  const StartTrace trace = Parsed("20000 0 4 usr/bin/program\n10000 2 8 usr/bin/program\n15000 end\n");
  TracePlayer player(trace);
  const auto started = std::chrono::steady_clock::now();
  ASSERT_TRUE(player.Play(root()).ok());
  EXPECT_GE(std::chrono::steady_clock::now() - started, trace.OwnTime());
  EXPECT_EQ(player.CheckAgainst(like()), absl::OkStatus());
}

TEST_F(TracePlayerTest, WrongBytesAreSeenAndSaidWhere) {
  TracePlayer player(Parsed("0 0 2 usr/bin/program\n0 6 4 usr/bin/program\n0 end\n"));
  Write(root() + "/usr/bin/program", "012345678x");
  ASSERT_TRUE(player.Play(root()).ok());
  const absl::Status checked = player.CheckAgainst(like());
  EXPECT_EQ(checked.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(checked.message(), HasSubstr("4 of usr/bin/program at 6"));
}

// What lies before the range, and after it, was not read.
TEST_F(TracePlayerTest, OnlyWhatWasReadIsCompared) {
  TracePlayer player(Parsed("0 2 6 usr/bin/program\n0 end\n"));
  Write(root() + "/usr/bin/program", "xx234567xx");
  ASSERT_TRUE(player.Play(root()).ok());
  EXPECT_EQ(player.CheckAgainst(like()), absl::OkStatus());
}

TEST_F(TracePlayerTest, AFileThatIsShorterThanItsReadsIsAnError) {
  TracePlayer player(Parsed("0 4 8 usr/bin/program\n0 end\n"));
  const absl::Status played = player.Play(root());
  EXPECT_EQ(played.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(played.message(), HasSubstr("usr/bin/program ends at 10, but the trace reads up to 12"));
}

TEST_F(TracePlayerTest, WhatIsNoRegularFileOfTheTreeIsAnError) {
  for (const absl::string_view path : {"usr/bin/absent", "usr/bin", "usr/bin/link", "usr/bin/pipe"}) {
    ASSERT_TRUE(::symlink("program", (root() + "/usr/bin/link").c_str()) == 0 || errno == EEXIST);
    ASSERT_TRUE(::mkfifo((root() + "/usr/bin/pipe").c_str(), 0600) == 0 || errno == EEXIST);
    TracePlayer player(Parsed(absl::StrCat("0 0 1 ", path, "\n0 end\n")));
    const absl::Status played = player.Play(root());
    EXPECT_EQ(played.code(), absl::StatusCode::kNotFound) << path;
    EXPECT_THAT(played.message(), HasSubstr(std::string(path)));
  }
  TracePlayer player(Parsed("0 0 1 usr/bin/program\n0 end\n"));
  EXPECT_EQ(player.Play(dir_ + "/nowhere").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sluice::bench
