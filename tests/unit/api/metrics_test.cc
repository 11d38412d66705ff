#include "api/http/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tests/unit/api/temp_dir.h"

namespace sluice::api {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kSeries[] = {
    "sluice_read_bytes_total{source=\"local\"} 0",
    "sluice_read_bytes_total{source=\"peer\"} 0",
    "sluice_read_bytes_total{source=\"origin\"} 0",
    "sluice_reads_total{source=\"local\"} 0",
    "sluice_reads_total{source=\"peer\"} 0",
    "sluice_reads_total{source=\"origin\"} 0",
    "sluice_read_errors_total 0",
    "sluice_read_duration_seconds_count{source=\"local\"} 0",
    "sluice_read_duration_seconds_sum{source=\"peer\"} 0",
    "sluice_read_duration_seconds_bucket{source=\"origin\",le=\"+Inf\"} 0",
    "sluice_reads_waiting 0",
    "sluice_origin_bytes_total 0",
    "sluice_origin_plain_bytes_total 0",
    "sluice_origin_blob_bytes_total 0",
    "sluice_origin_requests_total{code=\"none\"} 0",
    "sluice_origin_requests_total{code=\"1xx\"} 0",
    "sluice_origin_requests_total{code=\"2xx\"} 0",
    "sluice_origin_requests_total{code=\"3xx\"} 0",
    "sluice_origin_requests_total{code=\"4xx\"} 0",
    "sluice_origin_requests_total{code=\"5xx\"} 0",
    "sluice_origin_long_reads_total{result=\"paid\"} 0",
    "sluice_origin_long_reads_total{result=\"in_vain\"} 0",
    "sluice_peer_received_bytes_total{lane=\"express\"} 0",
    "sluice_peer_received_bytes_total{lane=\"swarm\"} 0",
    "sluice_peer_passed_on_bytes_total 0",
    "sluice_peer_sent_bytes_total{lane=\"express\"} 0",
    "sluice_peer_sent_bytes_total{lane=\"swarm\"} 0",
    "sluice_members{state=\"alive\"} 0",
    "sluice_members{state=\"not-asked\"} 0",
    "sluice_members{state=\"silent\"} 0",
    "sluice_members{state=\"unnamed\"} 0",
    "sluice_cut_off 0",
    "sluice_swarm_peers 0",
    "sluice_swarm_torrents 0",
    "sluice_swarm_bad_pieces_total 0",
    "sluice_swarm_banned_peers_total 0",
    "sluice_tls_handshakes_total{side=\"server\",result=\"ok\"} 0",
    "sluice_tls_handshakes_total{side=\"client\",result=\"refused\"} 0",
    "sluice_tls_handshakes_total{side=\"client\",result=\"failed\"} 0",
    "sluice_tls_reloads_total{result=\"ok\"} 0",
    "sluice_tls_reloads_total{result=\"failed\"} 0",
    "sluice_tls_certificate_expiry_timestamp_seconds 0",
    "sluice_chunk_verify_failures_total{source=\"local\"} 0",
    "sluice_chunk_verify_failures_total{source=\"peer\"} 0",
    "sluice_chunk_verify_failures_total{source=\"origin\"} 0",
    "sluice_unverified_served_bytes_total 0",
    "sluice_blobs_refused_total 0",
    "sluice_refuted_claims_total 0",
    "sluice_peer_bans_total{reason=\"verified\"} 0",
    "sluice_peer_bans_total{reason=\"unverified\"} 0",
    "sluice_peer_bans_total{reason=\"passed-on\"} 0",
    "sluice_cache_size_bytes 0",
    "sluice_cache_capacity_bytes 0",
    "sluice_evicted_bytes_total{reason=\"requested\"} 0",
    "sluice_evicted_bytes_total{reason=\"watermark\"} 0",
    "sluice_evicted_bytes_total{reason=\"corrupt\"} 0",
    "sluice_store_sync_failures_total 0",
    "sluice_store_write_failures_total 0",
    "sluice_prefetch_hints_total{result=\"completed\"} 0",
    "sluice_prefetch_hints_total{result=\"expired\"} 0",
    "sluice_hedges_total{result=\"won\"} 0",
    "sluice_hedges_total{result=\"lost\"} 0",
    "sluice_hedges_total{result=\"failed\"} 0",
    "sluice_last_resort_bytes_total 0",
    "sluice_mirror_requests_total{result=\"served\"} 0",
    "sluice_mirror_requests_total{result=\"no_credentials\"} 0",
    "sluice_mirror_sent_bytes_total 0",
    "sluice_policy_decisions_total{result=\"allowed\"} 0",
    "sluice_policy_decisions_total{result=\"timed_out\"} 0",
    "sluice_notifications_total{result=\"hinted\"} 0",
    "sluice_hint_bytes_total{result=\"fetched\"} 0",
    "sluice_hint_bytes_total{result=\"used\"} 0",
    "sluice_hint_bytes_total{result=\"unread\"} 0",
    "sluice_notifications_total{result=\"unauthorized\"} 0",
    "sluice_content_imports_total{result=\"in_place\"} 0",
    "sluice_content_imports_total{result=\"wrong\"} 0",
    "sluice_takeovers_total{reason=\"silent\"} 0",
    "sluice_takeovers_total{reason=\"stalled\"} 0",
    "sluice_takeovers_total{reason=\"failed\"} 0",
    "sluice_prefetch_bytes_total 0",
    "sluice_prefetch_used_bytes_total 0",
    "sluice_readahead_bytes_total{result=\"fetched\"} 0",
    "sluice_readahead_bytes_total{result=\"used\"} 0",
    "sluice_readahead_bytes_total{result=\"unread\"} 0",
    "sluice_profile_bytes_total{result=\"fetched\"} 0",
    "sluice_profile_bytes_total{result=\"used\"} 0",
    "sluice_profile_bytes_total{result=\"unread\"} 0",
    "sluice_profile_replays_total 0",
    "sluice_profile_recordings_total 0",
    "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"hit\"} 0",
    "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"filled\"} 0",
    "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"failed\"} 0",
    "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"expired\"} 0",
    "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"denied\"} 0",
    "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"error\"} 0",
    "sluice_ondemand_published_total{backend=\"fanotify\"} 0",
    "sluice_fetches_total{class=\"demand\"} 0",
    "sluice_fetches_total{class=\"backfill\"} 0",
    "sluice_fetches_under_way{class=\"readahead\"} 0",
    "sluice_fetches_under_way{class=\"hint\"} 0",
    "sluice_fetch_inflight_bytes 0",
    "sluice_chunks_wanted 0",
    "sluice_log_dropped_total 0",
    "sluice_ondemand_backend_info{backend=\"fanotify\"} 1",
    "sluice_mounts 0",
    "sluice_build_info{version=\"1.2.3\",revision=\"abc\"} 1",
};

MetricsExtras Extras() {
  return {.version = "1.2.3", .revision = "abc", .backend = "fanotify", .keeper = {}};
}

// What promtool says of `text`; empty if it is content.
std::string Promtool(const std::string& text) {
  TempDir dir;
  std::ofstream(dir.File("metrics")) << text;
  const std::string command = "promtool check metrics < " + dir.File("metrics") + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  std::string said;
  for (int c; (c = std::fgetc(pipe)) != EOF;) said += static_cast<char>(c);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return "promtool is missing: install Debian's prometheus";
  return status == 0 ? "" : said + "(promtool failed)";
}

std::set<std::string> SeriesNames(const std::string& text) {
  std::set<std::string> names;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.front() != '#') names.insert(line.substr(0, line.find(' ')));
  }
  return names;
}

// One metric as the text format declares it, and the values of its labels in their order.
struct Declared {
  std::string name, help, type;
  std::vector<std::pair<std::string, std::vector<std::string>>> labels = {};

  void AddLabel(const std::string& label, const std::string& value) {
    const auto known =
        std::find_if(labels.begin(), labels.end(), [&](const auto& l) { return l.first == label; });
    std::vector<std::string>& values =
        known == labels.end() ? labels.emplace_back(label, std::vector<std::string>()).second : known->second;
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
};

std::vector<Declared> DeclaredBy(const std::string& text) {
  std::vector<Declared> all;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (absl::StartsWith(line, "# HELP ")) {
      all.push_back({words.at(2), words.at(3), ""});
    } else if (absl::StartsWith(line, "# TYPE ")) {
      all.back().type = words.at(3);
    } else if (const size_t open = line.find('{'); open != absl::string_view::npos) {
      for (const absl::string_view label :
           absl::StrSplit(line.substr(open + 1, line.find('}') - open - 1), ',')) {
        const std::vector<std::string> sides = absl::StrSplit(label, absl::MaxSplits("=\"", 1));
        // What a build or machine has by chance, and the parts of a histogram, are not among the reference.
        const std::string& value = sides.at(1);
        if (sides[0] != "le") all.back().AddLabel(sides[0], value.substr(0, value.size() - 1));
      }
    }
  }
  return all;
}

// As the reference has it: a row a metric.
std::string TableOf(const std::vector<Declared>& metrics) {
  std::string table =
      "# Metrics\n\nWhat `/metrics` of a node gives, made from the code (`SLUICE_WRITE_TABLE=1 "
      "build/tests/api_metrics_test`). Every\nseries is there from the start, and none has a label with an "
      "image, a digest or an address.\n\n| metric | kind | labels | what it is |\n|---|---|---|---|\n";
  for (const Declared& metric : metrics) {
    std::vector<std::string> labels;
    for (const auto& [label, values] : metric.labels) {
      // Those of one value are of this build, or of the front end that is in use.
      labels.push_back(values.size() == 1 ? absl::StrCat("`", label, "`")
                                          : absl::StrCat("`", label, "`: ", absl::StrJoin(values, ", ")));
    }
    absl::StrAppend(&table, "| `", metric.name, "` | ", metric.type, " | ", absl::StrJoin(labels, "; "),
                    " | ", metric.help, " |\n");
  }
  return table;
}

TEST(MetricsTest, TheReferenceSaysWhatANodeExports) {
  Telemetry telemetry;
  const std::vector<Declared> metrics = DeclaredBy(Metrics(telemetry, Extras()).Text());
  ASSERT_GT(metrics.size(), 50u);
  for (const Declared& metric : metrics) EXPECT_GT(metric.help.size(), 10u) << metric.name;
  const std::string table = TableOf(metrics);
  if (std::getenv("SLUICE_WRITE_TABLE")) std::ofstream(SLUICE_METRICS_TABLE) << table;
  std::ifstream file(SLUICE_METRICS_TABLE);
  const std::string written{std::istreambuf_iterator<char>(file), {}};
  EXPECT_TRUE(written == table) << "api/http/METRICS.md is not what a node exports: write it by "
                                   "SLUICE_WRITE_TABLE=1 build/tests/api_metrics_test";
}

TEST(MetricsTest, EverySeriesIsThereFromTheStart) {
  Telemetry telemetry;
  const std::string text = Metrics(telemetry, Extras()).Text();
  for (const char* series : kSeries) EXPECT_THAT(text, HasSubstr(std::string(series) + "\n"));
}

TEST(MetricsTest, TellsWhatTheProcessTakesUp) {
  Telemetry telemetry;
  const std::string text = Metrics(telemetry, Extras()).Text();
  for (const char* name : {"cpu_seconds_total", "resident_bytes", "open_fds", "max_fds", "threads"}) {
    EXPECT_THAT(text, ::testing::ContainsRegex(std::string("\nsluice_process_") + name + " [0-9.e-]*[1-9]"));
  }
}

TEST(MetricsTest, PassesPromtool) {
  Telemetry telemetry;
  EXPECT_EQ(Promtool(Metrics(telemetry, Extras()).Text()), "");
  telemetry.read_duration[0].Observe(std::chrono::milliseconds(3));
  telemetry.reads[0].Add();
  EXPECT_EQ(Promtool(Metrics(telemetry, Extras()).Text()), "");
}

TEST(MetricsTest, CountersArriveUnderTheirNames) {
  Telemetry telemetry;
  telemetry.read_bytes[static_cast<size_t>(SourceKind::kPeer)].Add(4096);
  telemetry.reads[static_cast<size_t>(SourceKind::kOrigin)].Add(2);
  telemetry.reads[static_cast<size_t>(SourceKind::kLocal)].Add(1);
  telemetry.origin_requests[0].Add(3);
  telemetry.origin_requests[5].Add(4);
  telemetry.origin_long_reads[static_cast<size_t>(LongReadResult::kInVain)].Add(33);
  telemetry.evicted_bytes[static_cast<size_t>(EvictReason::kWatermark)].Add(5);
  telemetry.ondemand_filled.Add(6);
  telemetry.cache_capacity_bytes.Set(int64_t{1} << 40);
  telemetry.mounts.Add(7);
  telemetry.read_errors.Add(100);
  MetricsExtras extras = Extras();
  extras.keeper = [] {
    return KeeperCounts{.hits = 11,
                        .hit_bytes = 1100,
                        .published = 12,
                        .expired = 13,
                        .denied = 14,
                        .errors = 15,
                        .failed = 16};
  };
  const std::string text = Metrics(telemetry, std::move(extras)).Text();
  for (const char* line :
       {"sluice_read_bytes_total{source=\"peer\"} 4096", "sluice_reads_total{source=\"local\"} 12",
        "sluice_read_bytes_total{source=\"local\"} 1100", "sluice_reads_total{source=\"origin\"} 2",
        "sluice_origin_requests_total{code=\"none\"} 3", "sluice_origin_requests_total{code=\"5xx\"} 4",
        "sluice_origin_long_reads_total{result=\"in_vain\"} 33",
        "sluice_evicted_bytes_total{reason=\"watermark\"} 5", "sluice_cache_capacity_bytes 1099511627776",
        "sluice_mounts 7", "sluice_read_errors_total 116",
        "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"filled\"} 6",
        "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"hit\"} 11",
        "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"expired\"} 13",
        "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"denied\"} 14",
        "sluice_ondemand_requests_total{backend=\"fanotify\",result=\"error\"} 15",
        "sluice_ondemand_published_total{backend=\"fanotify\"} 12"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

// Those that tests/chart/moves.sh can't move.
TEST(MetricsTest, CountsOfRareEventsAreExported) {
  Telemetry telemetry;
  telemetry.blobs_refused.Add(21);
  telemetry.hedges[static_cast<size_t>(HedgeResult::kWon)].Add(22);
  telemetry.takeovers[static_cast<size_t>(TakeoverReason::kStalled)].Add(23);
  telemetry.last_resort_bytes.Add(24);
  telemetry.sync_failures.Add(25);
  telemetry.write_failures.Add(26);
  telemetry.tls_certificate_expiry.Set(27);
  telemetry.unverified_served_bytes.Add(28);
  MetricsExtras extras = Extras();
  extras.kernel_cache_bytes = [] { return uint64_t{29}; };
  extras.log_dropped = [] { return uint64_t{30}; };
  const std::string text = Metrics(telemetry, std::move(extras)).Text();
  for (const char* line :
       {"sluice_blobs_refused_total 21", "sluice_hedges_total{result=\"won\"} 22",
        "sluice_takeovers_total{reason=\"stalled\"} 23", "sluice_last_resort_bytes_total 24",
        "sluice_store_sync_failures_total 25", "sluice_store_write_failures_total 26",
        "sluice_tls_certificate_expiry_timestamp_seconds 27", "sluice_unverified_served_bytes_total 28",
        "sluice_kernel_cache_size_bytes 29", "sluice_log_dropped_total 30"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

TEST(MetricsTest, HistogramBucketsAreCumulated) {
  Telemetry telemetry;
  DurationHistogram& local = telemetry.read_duration[static_cast<size_t>(SourceKind::kLocal)];
  local.Observe(std::chrono::microseconds(50));
  local.Observe(std::chrono::milliseconds(3));
  local.Observe(std::chrono::minutes(2));
  const std::string text = Metrics(telemetry, Extras()).Text();
  for (const char* line :
       {"_bucket{source=\"local\",le=\"0.0001\"} 1", "_bucket{source=\"local\",le=\"0.0025\"} 1",
        "_bucket{source=\"local\",le=\"0.005\"} 2", "_bucket{source=\"local\",le=\"30\"} 2",
        "_bucket{source=\"local\",le=\"+Inf\"} 3", "_count{source=\"local\"} 3",
        "_sum{source=\"local\"} 120.00305"}) {
    EXPECT_THAT(text, HasSubstr(std::string("sluice_read_duration_seconds") + line + "\n"));
  }
}

TEST(MetricsTest, UseAddsNoSeriesAndNoDigest) {
  Telemetry telemetry;
  const Metrics metrics(telemetry, Extras());
  const std::set<std::string> before = SeriesNames(metrics.Text());
  for (int i = 0; i < kSourceKindCount; ++i) {
    telemetry.reads[i].Add();
    telemetry.read_duration[i].Observe(std::chrono::seconds(1));
  }
  EXPECT_EQ(SeriesNames(metrics.Text()), before);
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("sha256")));
}

}  // namespace
}  // namespace sluice::api
