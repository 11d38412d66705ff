#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "node/executor.h"

namespace sluice {

// Where a pod asks its cluster's API server, and by what right. Source: Kubernetes, "Accessing the API from a
// Pod".
struct KubernetesAccess {
  std::string host_port;   // of the API server, reached by https; an IPv6 address in brackets
  std::string ca_file;     // PEM
  std::string token_file;  // the service account's

  // As the environment of a pod and the files of its service account say. Errors: FailedPrecondition (this is
  // no pod, or one without a service account's files).
  static absl::StatusOr<KubernetesAccess> OfPod();
};

inline constexpr Duration kZoneTimeout = std::chrono::seconds(10);

// What a label of the node's object says, by which a scheduler knows its zone
// ("topology.kubernetes.io/zone"). Blocks for at most `timeout`. Errors: NotFound (the object has no such
// label), PermissionDenied (the service account may not see it), Unavailable (the server does not answer in
// time), DataLoss (its answer is none), InvalidArgument (what the label says can't be a zone).
absl::StatusOr<std::string> ZoneOfNode(const KubernetesAccess& access, const std::string& node,
                                       const std::string& label, Duration timeout = kZoneTimeout);

}  // namespace sluice
