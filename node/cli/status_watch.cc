#include "node/cli/status_watch.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "node/cli/table_report.h"
#include "node/cli/units_text.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;
// A heading, and what is said under it.
using Parts = std::vector<std::pair<std::string, std::string>>;

double SecondsBetween(const v1::NodeStatus& before, const v1::NodeStatus& now) {
  return static_cast<double>(now.uptime().seconds() - before.uptime().seconds()) +
         (now.uptime().nanos() - before.uptime().nanos()) / 1e9;
}

// A second; 0 where no time has passed, or the daemon has begun anew.
double Rate(uint64_t before, uint64_t now, double seconds) {
  return seconds > 0 && now > before ? static_cast<double>(now - before) / seconds : 0;
}

uint64_t ServedBytes(const v1::NodeStatus& status, v1::ReadSource source) {
  for (const v1::SourceTotals& totals : status.served()) {
    if (totals.source() == source) return totals.bytes();
  }
  return 0;
}

uint64_t PeerBytes(const v1::NodeStatus& status) {
  uint64_t bytes = 0;
  for (const v1::LaneTotals& lane : status.lanes()) bytes += lane.received_bytes();
  return bytes;
}

v1::FetchTotals FetchesOf(const v1::NodeStatus& status, v1::FetchClass fetch_class) {
  for (const v1::FetchTotals& totals : status.fetches()) {
    if (totals.fetch_class() == fetch_class) return totals;
  }
  return {};
}

std::string NameOf(v1::FetchClass fetch_class) {
  return absl::AsciiStrToLower(v1::FetchClass_Name(fetch_class).substr(sizeof("FETCH_CLASS_") - 1));
}

constexpr std::pair<v1::ReadSource, const char*> kSources[] = {
    {v1::READ_SOURCE_LOCAL, "store"}, {v1::READ_SOURCE_PEER, "peers"}, {v1::READ_SOURCE_ORIGIN, "origin"}};
constexpr v1::FetchClass kClasses[] = {v1::FETCH_CLASS_DEMAND, v1::FETCH_CLASS_READAHEAD,
                                       v1::FETCH_CLASS_HINT, v1::FETCH_CLASS_BACKFILL};

std::string RateText(uint64_t before, uint64_t now, double seconds) {
  return absl::StrCat(BytesText(static_cast<uint64_t>(Rate(before, now, seconds))), "/s");
}

Parts Describe(const v1::NodeStatus& before, const v1::NodeStatus& now) {
  const double seconds = SecondsBetween(before, now);
  std::vector<std::string> served, fetches;
  for (const auto& [source, name] : kSources) {
    served.push_back(
        absl::StrCat(name, " ", RateText(ServedBytes(before, source), ServedBytes(now, source), seconds)));
  }
  for (const v1::FetchClass fetch_class : kClasses) {
    const v1::FetchTotals totals = FetchesOf(now, fetch_class);
    fetches.push_back(
        absl::StrFormat("%s %d (%.1f/s)", NameOf(fetch_class), totals.under_way(),
                        Rate(FetchesOf(before, fetch_class).started(), totals.started(), seconds)));
  }
  const v1::ReadaheadTotals& ahead = now.readahead();
  const v1::HintTotals& hints = now.hints();
  return {
      {"served", absl::StrJoin(served, ", ")},
      {"received", absl::StrCat("registries ", RateText(before.origin_bytes(), now.origin_bytes(), seconds),
                                ", nodes ", RateText(PeerBytes(before), PeerBytes(now), seconds))},
      {"fetches", absl::StrJoin(fetches, ", ")},
      {"queue",
       absl::StrCat(now.chunks_wanted(), " chunks wanted, ", BytesText(now.inflight_bytes()), " asked for")},
      {"ahead", absl::StrCat(BytesText(ahead.fetched_bytes()), " read ahead, ",
                             ShareText(ahead.used_bytes(), ahead.fetched_bytes()), " used, ",
                             ShareText(ahead.unread_bytes(), ahead.fetched_bytes()), " unread")},
      {"hints",
       absl::StrCat(hints.completed(), " completed, ", hints.cancelled(), " cancelled, ", hints.failed(),
                    " failed, ", hints.expired(), " expired; ", HintBytesText(hints))}};
}

}  // namespace

std::string ActivityText(const v1::NodeStatus& before, const v1::NodeStatus& now) {
  std::string text;
  for (const auto& [heading, said] : Describe(before, now))
    absl::StrAppendFormat(&text, "%-10s%s\n", heading, said);
  return text;
}

std::string ActivityLine(const v1::NodeStatus& before, const v1::NodeStatus& now) {
  const Parts parts = Describe(before, now);
  return absl::StrJoin(parts, "; ",
                       [](std::string* out, const auto& part) {
                         absl::StrAppend(out, part.first, ": ", part.second);
                       }) +
         "\n";
}

std::string ActivityJson(const v1::NodeStatus& before, const v1::NodeStatus& now) {
  const double seconds = SecondsBetween(before, now);
  Json served = Json::object(), fetches = Json::object();
  for (const auto& [source, name] : kSources)
    served[name] = Rate(ServedBytes(before, source), ServedBytes(now, source), seconds);
  for (const v1::FetchClass fetch_class : kClasses) {
    const v1::FetchTotals totals = FetchesOf(now, fetch_class);
    fetches[NameOf(fetch_class)] = {
        {"under_way", totals.under_way()},
        {"started_per_second", Rate(FetchesOf(before, fetch_class).started(), totals.started(), seconds)}};
  }
  return Json{{"seconds", seconds},
              {"served_bytes_per_second", std::move(served)},
              {"origin_bytes_per_second", Rate(before.origin_bytes(), now.origin_bytes(), seconds)},
              {"peer_bytes_per_second", Rate(PeerBytes(before), PeerBytes(now), seconds)},
              {"fetches", std::move(fetches)},
              {"chunks_wanted", now.chunks_wanted()},
              {"inflight_bytes", now.inflight_bytes()},
              {"readahead",
               {{"fetched_bytes", now.readahead().fetched_bytes()},
                {"used_bytes", now.readahead().used_bytes()},
                {"unread_bytes", now.readahead().unread_bytes()}}},
              {"hints",
               {{"completed", now.hints().completed()},
                {"cancelled", now.hints().cancelled()},
                {"failed", now.hints().failed()},
                {"expired", now.hints().expired()},
                {"fetched_bytes", now.hints().fetched_bytes()},
                {"used_bytes", now.hints().used_bytes()},
                {"unread_bytes", now.hints().unread_bytes()}}}}
             .dump() +
         "\n";
}

}  // namespace sluice::cli
