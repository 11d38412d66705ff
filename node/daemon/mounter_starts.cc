#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/mounter.h"

// Of mounts' starts: who hears of them, and what they took.

namespace sluice {
namespace {

std::string NotMounted(const std::string& image) {
  return absl::StrCat("nothing of sluice's that is called \"", image,
                      "\" is mounted; \"sluice status\" says what is mounted where");
}

}  // namespace

void Mounter::TellPreparing(const std::string& mount_point, const ResolvedImage& resolved,
                            Duration resolve_took, const std::vector<std::shared_ptr<Blob>>& blobs,
                            api::StartRecording recording) {
  const std::string reference = resolved.reference.ToString();
  const DoorPtr door = this->door();
  api::StartReport report{.reference = reference,
                          .manifest = resolved.manifest,
                          .mount_point = mount_point,
                          .resolve = resolve_took,
                          .resolve_round_trips = resolved.round_trips};
  report.sees_present = door && door->backend() == ondemand::Backend::kFanotify;
  // First, since the observer tells the reports what it foresees.
  parts_.reports.Begin(std::move(report), blobs);
  if (parts_.observer != nullptr)
    parts_.observer->Preparing(mount_point, reference, resolved.manifest, blobs, recording);
}

void Mounter::TellUnmounted(const std::string& mount_point) {
  // First, since the observer tells the reports what was read last.
  if (parts_.observer != nullptr) parts_.observer->Unmounted(mount_point);
  parts_.reports.End(mount_point);
}

absl::StatusOr<api::ImageStarts> Mounter::GetStartReports(const std::string& image) {
  NoticeMounts();
  const bool is_place = image.starts_with('/');
  const std::string place = is_place ? PlaceOf(image) : "";
  std::string reference = image;
  if (!is_place) {
    // One that is mounted may have left the allow-list since.
    const absl::StatusOr<p2p::ImageReference> parsed = p2p::ImageReference::Parse(image);
    if (!parsed.ok()) return parsed.status();
    reference = parsed->ToString();
  }
  api::ImageStarts starts;
  for (const MountEntry& entry : Entries()) {
    if (is_place ? entry.mount_point != place : entry.reference != reference) continue;
    if (std::optional<api::StartReport> report = parts_.reports.Of(entry.mount_point)) {
      starts.known.push_back(*std::move(report));
    } else {
      starts.unknown.push_back(entry.mount_point);
    }
  }
  if (starts.known.empty() && starts.unknown.empty()) return absl::NotFoundError(NotMounted(image));
  const auto by_place = [](const auto& a, const auto& b) { return a.mount_point < b.mount_point; };
  std::sort(starts.known.begin(), starts.known.end(), by_place);
  std::sort(starts.unknown.begin(), starts.unknown.end());
  return starts;
}

}  // namespace sluice
