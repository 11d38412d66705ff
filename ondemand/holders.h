#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "node/executor.h"

// Who keeps a file system from being unmounted: processes that have a file of it open or mapped, run from it,
// or have it as their working directory or root.
namespace sluice::ondemand {

// A container of Kubernetes, as far as it is known; all empty where a process is in none.
struct PodContainer {
  std::string pod_namespace;
  std::string pod;
  std::string container;  // its name in the pod
  std::string pod_uid;
  std::string container_id;  // 64 hex digits; that of any runtime's container, in a pod or not

  friend bool operator==(const PodContainer&, const PodContainer&) = default;
};

struct Holder {
  int pid = 0;              // as this process sees it
  std::string process;      // its name
  std::string path;         // of one file that it uses, as it is called there
  uint64_t device = 0;      // st_dev of the file system
  std::string mount_space;  // its mount namespace: "mnt:[4026531840]"
  PodContainer where;
};

struct HolderSearch {
  std::vector<Holder> holders;  // in the order of pids, one for each process and file system
  size_t more = 0;              // that were left out
  bool complete = false;        // false: there may be others, as time ran out
};

// Looks through the processes that this one sees (those of its PID namespace) for users of the file systems,
// for at most `limit`: a process that waits for memory may not let its mappings be read. This process is none
// of them. Names of pods are looked up in kubelet's folder of logs, on the host of UseMountsOf. Errors are no
// errors: who can't be looked into is left out.
HolderSearch FindHolders(const std::set<uint64_t>& devices, size_t holders_max, Duration limit);

// What a text as of /proc/PID/cgroup (cgroups(7)) tells: the ids, as containerd, CRI-O and Docker write them
// with either driver of cgroups.
PodContainer ContainerOfCgroup(std::string_view text);

// What the name of a file in /var/log/containers tells, "POD_NAMESPACE_CONTAINER-ID.log"; nothing if it is
// none.
std::optional<PodContainer> ContainerOfLog(std::string_view name);

}  // namespace sluice::ondemand
