#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/daemon/mounter.h"
#include "ondemand/holders.h"
#include "ondemand/mount_point.h"

namespace sluice {
namespace {

// Nobody reads more of them, and an answer has its bound.
constexpr size_t kHoldersMax = 1000;
constexpr Duration kSearchMax = std::chrono::seconds(8);

// Of what is mounted where it was not noted when it was made; 0 if nothing is.
uint64_t DeviceMountedAt(const std::string& path) {
  uint64_t device = 0;
  const absl::StatusOr<std::vector<ondemand::MountInfo>> mounts = ondemand::ReadMountInfo();
  if (!mounts.ok()) return device;
  for (const ondemand::MountInfo& mount : *mounts) {
    unsigned device_major = 0, device_minor = 0;
    if (mount.mount_point != path || mount.type != "erofs") continue;
    if (std::sscanf(mount.device.c_str(), "%u:%u", &device_major, &device_minor) == 2)
      device = makedev(device_major, device_minor);
  }
  return device;
}

api::MountHolder Described(const ondemand::Holder& holder, const MountEntry& entry) {
  return {.pid = holder.pid,
          .process = holder.process,
          .path = holder.path,
          .mount_space = holder.mount_space,
          .mount_point = entry.mount_point,
          .reference = entry.reference,
          .pod_namespace = holder.where.pod_namespace,
          .pod = holder.where.pod,
          .container = holder.where.container,
          .pod_uid = holder.where.pod_uid,
          .container_id = holder.where.container_id};
}

}  // namespace

absl::StatusOr<std::vector<api::UnmountResult>> Mounter::UnmountAll(api::Readers readers, Instant deadline) {
  NoticeMounts();
  const DoorPtr door = this->door();
  std::vector<MountEntry> entries = Entries();
  if (readers == api::Readers::kEnd && door && !Users().empty()) {
    if (absl::Status refused = door->RefuseReads(); !refused.ok()) {
      return absl::Status(refused.code(), absl::StrCat("nothing was unmounted, as readers can't be ended: ",
                                                       refused.message()));
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.mount_point > b.mount_point; });
  std::vector<api::UnmountResult> results;
  for (const MountEntry& entry : entries) {
    const bool in_time = parts_.clock.Now() < deadline;
    absl::Status status = in_time ? UnmountAs(entry.mount_point, readers)
                                  : absl::DeadlineExceededError("there was no time left for it");
    // Somebody else was quicker.
    if (absl::IsNotFound(status)) status = absl::OkStatus();
    results.push_back({entry.mount_point, entry.reference, std::move(status)});
  }
  for (const MountEntry& left : Detached()) {
    for (api::UnmountResult& result : results)
      result.used_still |= result.status.ok() && result.mount_point == left.mount_point;
  }
  return results;
}

absl::StatusOr<api::HolderReport> Mounter::ListHolders() {
  NoticeMounts();
  std::map<uint64_t, MountEntry> by_device;
  std::set<uint64_t> devices;
  for (const MountEntry& entry : Users()) {
    const uint64_t device = entry.device != 0 ? entry.device : DeviceMountedAt(entry.mount_point);
    if (device == 0 || !ondemand::Lives(entry.instance)) continue;
    by_device.try_emplace(device, entry);
    devices.insert(device);
  }
  const ondemand::HolderSearch search = ondemand::FindHolders(devices, kHoldersMax, kSearchMax);
  api::HolderReport report;
  report.more = search.more;
  report.complete = search.complete;
  for (const ondemand::Holder& holder : search.holders)
    report.holders.push_back(Described(holder, by_device.at(holder.device)));
  return report;
}

}  // namespace sluice
