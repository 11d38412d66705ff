#include "node/cli/holder_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "node/cli/exit_code.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;
using Holders = google::protobuf::RepeatedPtrField<v1::MountHolder>;

struct Place {
  std::string mount_point;
  std::string reference;
  bool mounted = false;
};

// What is mounted, in the order of the answer, and then what is only used still.
std::vector<Place> PlacesOf(const std::vector<v1::Mount>& mounts, const Holders& holders) {
  std::vector<Place> places;
  for (const v1::Mount& mount : mounts) places.push_back({mount.mount_point(), mount.reference(), true});
  for (const v1::MountHolder& holder : holders) {
    const bool known = std::any_of(places.begin(), places.end(), [&](const Place& place) {
      return place.mount_point == holder.mount_point() && place.reference == holder.reference();
    });
    if (!known) places.push_back({holder.mount_point(), holder.reference(), false});
  }
  return places;
}

std::vector<v1::MountHolder> HoldersOf(const Place& place, const Holders& holders) {
  std::vector<v1::MountHolder> found;
  std::copy_if(holders.begin(), holders.end(), std::back_inserter(found), [&](const v1::MountHolder& holder) {
    return holder.mount_point() == place.mount_point && holder.reference() == place.reference;
  });
  return found;
}

// What the answer lacks; empty if nothing.
std::string LackText(const v1::ListHoldersResponse& users) {
  std::string text;
  if (users.more() > 0) absl::StrAppend(&text, "and ", users.more(), " more processes\n");
  if (!users.complete())
    absl::StrAppend(&text, "there may be others: not all processes could be looked into in time\n");
  return text;
}

Json HolderOf(const v1::MountHolder& holder) {
  Json pod = nullptr;
  if (!holder.pod().empty() || !holder.pod_uid().empty()) {
    pod = {{"namespace", holder.pod_namespace()},
           {"name", holder.pod()},
           {"container", holder.container()},
           {"uid", holder.pod_uid()}};
  }
  return {{"pid", holder.pid()},   {"process", holder.process()},
          {"path", holder.path()}, {"mount_space", holder.mount_space()},
          {"pod", std::move(pod)}, {"container_id", holder.container_id()}};
}

std::string Text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string HolderLine(const v1::MountHolder& holder) {
  std::string line = absl::StrCat("pid ", holder.pid(), " (", holder.process(), ")");
  if (!holder.pod().empty()) {
    absl::StrAppend(&line, " of pod ", holder.pod_namespace(), "/", holder.pod(), ", container ",
                    holder.container(), ",");
  } else if (!holder.pod_uid().empty()) {
    absl::StrAppend(&line, " of the pod with uid ", holder.pod_uid(), ",");
  } else if (!holder.container_id().empty()) {
    absl::StrAppend(&line, " of container ", holder.container_id().substr(0, 12), ",");
  }
  return absl::StrCat(line, " uses ", holder.path());
}

std::string HolderText(const std::vector<v1::Mount>& mounts, const v1::ListHoldersResponse& users) {
  std::string text;
  for (const Place& place : PlacesOf(mounts, users.holders())) {
    absl::StrAppend(&text, place.mount_point, "  ", place.reference,
                    place.mounted ? "" : "  (not mounted any more)", "\n");
    const std::vector<v1::MountHolder> holders = HoldersOf(place, users.holders());
    for (const v1::MountHolder& holder : holders) absl::StrAppend(&text, "  ", HolderLine(holder), "\n");
    if (holders.empty()) absl::StrAppend(&text, "  no process that this node sees uses it\n");
  }
  if (text.empty()) text = "Nothing is mounted.\n";
  return text + LackText(users);
}

std::string HolderJson(const std::vector<v1::Mount>& mounts, const v1::ListHoldersResponse& users) {
  Json list = Json::array();
  for (const Place& place : PlacesOf(mounts, users.holders())) {
    Json holders = Json::array();
    for (const v1::MountHolder& holder : HoldersOf(place, users.holders()))
      holders.push_back(HolderOf(holder));
    list.push_back({{"mount_point", place.mount_point},
                    {"reference", place.reference},
                    {"mounted", place.mounted},
                    {"holders", std::move(holders)}});
  }
  return Text({{"mounts", std::move(list)}, {"more", users.more()}, {"complete", users.complete()}});
}

absl::StatusOr<size_t> ShowHolders(AdminClient& client, OutputFormat output) {
  const absl::StatusOr<std::vector<v1::Mount>> mounts = client.ListMounts();
  if (!mounts.ok()) return Annotate(mounts.status(), "cannot list the mounts");
  const absl::StatusOr<v1::ListHoldersResponse> users = client.ListHolders();
  if (!users.ok()) return Annotate(users.status(), "cannot find who uses the mounts");
  const bool json = output == OutputFormat::kJson;
  std::fputs((json ? HolderJson(*mounts, *users) : HolderText(*mounts, *users)).c_str(), stdout);
  // Before what an error says of it, where both go to one file.
  std::fflush(stdout);
  return static_cast<size_t>(users->holders_size()) + users->more();
}

std::string UnmountAllText(const v1::UnmountAllResponse& done, const v1::ListHoldersResponse& users) {
  std::string text;
  for (const v1::UnmountResult& result : done.results()) {
    absl::StrAppend(&text, result.error().empty() ? "unmounted " : "still mounted: ", result.mount_point(),
                    "  ", result.reference(),
                    result.error().empty() ? "" : absl::StrCat(": ", result.error()),
                    result.used_still() ? ", whose readers get errors now" : "", "\n");
    if (result.error().empty() && !result.used_still()) continue;
    for (const v1::MountHolder& holder :
         HoldersOf({result.mount_point(), result.reference()}, users.holders()))
      absl::StrAppend(&text, "  ", HolderLine(holder), "\n");
  }
  return text.empty() ? "Nothing is mounted.\n" : text;
}

std::string UnmountAllJson(const v1::UnmountAllResponse& done) {
  Json list = Json::array();
  for (const v1::UnmountResult& result : done.results()) {
    list.push_back({{"mount_point", result.mount_point()},
                    {"reference", result.reference()},
                    {"error", result.error().empty() ? Json(nullptr) : Json(result.error())},
                    {"used_still", result.used_still()}});
  }
  return Text({{"results", std::move(list)}});
}

}  // namespace sluice::cli
