#include "node/cli/profile_report.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "node/cli/table_report.h"
#include "node/cli/units_text.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kWeightMax = 255;  // as admin.proto says

double SecondsOf(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

std::string WeightText(uint32_t weight) {
  return absl::StrCat(weight * 100 / kWeightMax, " %");
}

uint64_t TouchedBytes(const v1::ImageProfile& profile) {
  uint64_t bytes = 0;
  for (const v1::ProfileBlob& blob : profile.blobs()) bytes += blob.touched_bytes();
  return bytes;
}

uint64_t SizeOfTouched(const v1::ImageProfile& profile) {
  uint64_t bytes = 0;
  for (const v1::ProfileBlob& blob : profile.blobs()) bytes += blob.size_bytes();
  return bytes;
}

std::string BlobLine(const v1::ProfileBlob& blob) {
  if (blob.digest().empty()) return absl::StrCat("blob ", blob.index(), ", whose size is not known\n");
  return absl::StrCat("blob ", blob.index(), ", ", blob.digest(), ": ",
                      ShareText(blob.touched_bytes(), blob.size_bytes()), " of ",
                      BytesText(blob.size_bytes()), "\n");
}

std::string SpanTable(const v1::ProfileBlob& blob) {
  const bool known = !blob.digest().empty();
  std::vector<std::vector<std::string>> rows;
  for (const v1::ProfileSpan& span : blob.spans()) {
    rows.push_back({absl::StrFormat("%.3f s", SecondsOf(span.after())), absl::StrCat(span.first_chunk()),
                    absl::StrCat(span.chunk_count()), known ? absl::StrCat(span.offset_bytes()) : "-",
                    known ? BytesText(span.size_bytes()) : "-", WeightText(span.weight())});
  }
  return FormatTable({"AFTER", "CHUNK", "CHUNKS", "OFFSET", "SIZE", "WEIGHT"}, rows);
}

}  // namespace

std::string ProfileSummary(const v1::ImageProfile& profile) {
  std::string text =
      absl::StrCat("image     ", profile.reference().empty() ? "-" : profile.reference(),  //
                   "\ndigest    ", profile.manifest_digest(),                              //
                   "\nstarts    ", profile.start_count(), profile.public_() ? "" : ", of a private image");
  if (!profile.reference().empty()) {
    absl::StrAppend(&text, "\ntouched   ", BytesText(TouchedBytes(profile)), " of the ",
                    BytesText(SizeOfTouched(profile)), " of the blobs that are touched");
  }
  return text + "\n";
}

std::string ProfileText(const v1::ImageProfile& profile) {
  std::string text = ProfileSummary(profile);
  for (const v1::ProfileBlob& blob : profile.blobs())
    absl::StrAppend(&text, "\n", BlobLine(blob), SpanTable(blob));
  return text;
}

std::string ProfileJson(const v1::ImageProfile& profile) {
  Json json = {{"reference", profile.reference()},       {"manifest_digest", profile.manifest_digest()},
               {"start_count", profile.start_count()},   {"public", profile.public_()},
               {"touched_bytes", TouchedBytes(profile)}, {"blobs", Json::array()}};
  for (const v1::ProfileBlob& blob : profile.blobs()) {
    Json spans = Json::array();
    for (const v1::ProfileSpan& span : blob.spans()) {
      spans.push_back({{"first_chunk", span.first_chunk()},
                       {"chunk_count", span.chunk_count()},
                       {"offset_bytes", span.offset_bytes()},
                       {"size_bytes", span.size_bytes()},
                       {"after_seconds", SecondsOf(span.after())},
                       {"weight", span.weight()}});
    }
    json["blobs"].push_back({{"index", blob.index()},
                             {"digest", blob.digest()},
                             {"size_bytes", blob.size_bytes()},
                             {"touched_bytes", blob.touched_bytes()},
                             {"spans", std::move(spans)}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace sluice::cli
