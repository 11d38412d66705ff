#include "node/cli/start_report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "node/cli/units_text.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

double SecondsOf(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

std::string Text(double seconds) {
  return absl::StrFormat("%.3f s", seconds);
}
std::string Text(const google::protobuf::Duration& duration) {
  return Text(SecondsOf(duration));
}

struct SourceNames {
  const char* json;  // null: it is not known to this tool
  const char* text;
};

SourceNames NamesOf(v1::ReadSource source) {
  switch (source) {
    case v1::READ_SOURCE_LOCAL:
      return {"local", "the store"};
    case v1::READ_SOURCE_PEER:
      return {"peer", "other nodes"};
    case v1::READ_SOURCE_ORIGIN:
      return {"origin", "registries"};
    default:
      return {nullptr, "others"};
  }
}

double SecondsBefore(const v1::StartReport& report) {
  return SecondsOf(report.resolve()) + SecondsOf(report.bootstrap()) + SecondsOf(report.blobs()) +
         SecondsOf(report.recipes()) + SecondsOf(report.mounting());
}

std::string MountedText(const v1::StartReport& report) {
  return absl::StrCat("mounted    after ", Text(SecondsBefore(report)), ": ", Text(report.resolve()),
                      " manifest (", report.resolve_round_trips(), " round trips), ",
                      Text(report.bootstrap()), " bootstrap, ", Text(report.blobs()), " blobs, ",
                      Text(report.recipes()), " recipes (", report.recipe_round_trips(), " round trips), ",
                      Text(report.mounting()), " mounting\n");
}

std::string WaitedText(const v1::WaitedReads& waited) {
  if (waited.reads() == 0) return "";
  return absl::StrCat(
      "  for ", NamesOf(waited.source()).text, ": ", waited.reads(), " reads of ", BytesText(waited.bytes()),
      ", ", Text(waited.waited()), " in all: ", Text(waited.queued()), " for a slot, ", Text(waited.answer()),
      " for an answer, ", Text(waited.wire()), " wire, ", Text(waited.verified()), " verified, ",
      Text(waited.stored()), " stored; ", waited.foreseen(), " had been foreseen\n");
}

std::string TouchedText(const v1::StartReport& report) {
  const v1::TouchedBytes& touched = report.touched();
  const uint64_t all = touched.here() + touched.profile() + touched.readahead() + touched.hint() +
                       touched.fill() + touched.other() + touched.waited();
  std::string text = absl::StrCat("touched    ", BytesText(all), " of chunks",
                                  report.sees_present() ? "" : ", as far as this front end sees it", "\n");
  const auto add = [&](const char* how, uint64_t bytes) {
    if (bytes > 0) absl::StrAppend(&text, absl::StrFormat("  %-30s", how), ShareText(bytes, all), "\n");
  };
  add("here when it was mounted", touched.here());
  add("foreseen by earlier starts", touched.profile());
  add("foreseen by reading ahead", touched.readahead());
  add("foreseen by a hint", touched.hint());
  add("filled in the background", touched.fill());
  add("brought in for others", touched.other());
  add("foreseen, and too late", touched.late());
  add("not foreseen", touched.waited() - touched.late());
  return text;
}

std::string OneText(const v1::StartReport& report) {
  std::string text =
      absl::StrCat("image      ", report.reference(), "\nmount      ", report.mount_point(), "\n",
                   MountedText(report), "waited     ", Text(report.waiting()), " of ", Text(report.watched()),
                   report.over() ? "" : " so far", ": so long at least one reader waited\n");
  for (const v1::WaitedReads& waited : report.waited()) text += WaitedText(waited);
  if (report.failed() > 0) absl::StrAppend(&text, "  ", report.failed(), " reads failed\n");
  return text + TouchedText(report);
}

Json WaitedJson(const v1::StartReport& report) {
  Json json = Json::object();
  for (const v1::WaitedReads& waited : report.waited()) {
    const char* const name = NamesOf(waited.source()).json;
    if (name == nullptr) continue;
    json[name] = {{"reads", waited.reads()},
                  {"bytes", waited.bytes()},
                  {"waited_seconds", SecondsOf(waited.waited())},
                  {"queued_seconds", SecondsOf(waited.queued())},
                  {"answer_seconds", SecondsOf(waited.answer())},
                  {"wire_seconds", SecondsOf(waited.wire())},
                  {"verified_seconds", SecondsOf(waited.verified())},
                  {"stored_seconds", SecondsOf(waited.stored())},
                  {"foreseen", waited.foreseen()}};
  }
  return json;
}

Json TouchedJson(const v1::TouchedBytes& touched) {
  return {{"here", touched.here()},     {"profile", touched.profile()}, {"readahead", touched.readahead()},
          {"hint", touched.hint()},     {"fill", touched.fill()},       {"other", touched.other()},
          {"waited", touched.waited()}, {"late", touched.late()}};
}

Json OneJson(const v1::StartReport& report) {
  return {{"reference", report.reference()},
          {"manifest_digest", report.manifest_digest()},
          {"mount_point", report.mount_point()},
          {"mounted_after_seconds", SecondsBefore(report)},
          {"resolve_seconds", SecondsOf(report.resolve())},
          {"resolve_round_trips", report.resolve_round_trips()},
          {"bootstrap_seconds", SecondsOf(report.bootstrap())},
          {"blobs_seconds", SecondsOf(report.blobs())},
          {"recipes_seconds", SecondsOf(report.recipes())},
          {"recipe_round_trips", report.recipe_round_trips()},
          {"mounting_seconds", SecondsOf(report.mounting())},
          {"watched_seconds", SecondsOf(report.watched())},
          {"over", report.over()},
          {"waiting_seconds", SecondsOf(report.waiting())},
          {"waited", WaitedJson(report)},
          {"failed", report.failed()},
          {"touched_bytes", TouchedJson(report.touched())},
          {"sees_present", report.sees_present()}};
}

}  // namespace

std::string StartReportText(const v1::GetStartReportsResponse& starts) {
  std::string text;
  for (const v1::StartReport& report : starts.reports())
    absl::StrAppend(&text, text.empty() ? "" : "\n", OneText(report));
  for (const std::string& mount_point : starts.unknown())
    absl::StrAppend(&text, "\nmount      ", mount_point,
                    "\nnot known: mounted before this sluiced was started\n");
  return text;
}

std::string StartReportJson(const v1::GetStartReportsResponse& starts) {
  Json known = Json::array();
  for (const v1::StartReport& report : starts.reports()) known.push_back(OneJson(report));
  const Json all = {{"starts", std::move(known)},
                    {"unknown", std::vector<std::string>(starts.unknown().begin(), starts.unknown().end())}};
  return all.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace sluice::cli
