#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/prefetch_backend.h"
#include "node/digest.h"
#include "node/executor.h"

// What the daemon gives to PrefetchService's GetLocality: one port, in plain types.

namespace sluice::api {

inline constexpr size_t kLocalityImagesMax = 100;  // of one call
inline constexpr size_t kLocalityNodesMax = 50;    // told of one image

enum class LocalityScope { kNode, kCluster };

struct LocalityQuery {
  std::vector<std::string> references;     // 1 to kLocalityImagesMax, none empty
  std::optional<HintPlatform> platform{};  // the node's own if absent
  LocalityScope scope = LocalityScope::kNode;
};

struct NodeShare {
  std::string name;  // of the member
  uint64_t present_bytes = 0;

  friend bool operator==(const NodeShare&, const NodeShare&) = default;
};

// How much of an image is where.
struct ImageLocality {
  std::string reference;  // with its defaults written out; as it was asked for if it is refused
  absl::Status error{};   // it can't be told
  std::optional<Digest> manifest{};
  uint64_t total_bytes = 0;        // of its blobs, without the bootstrap, as in HintStatus
  uint64_t present_bytes = 0;      // of these, on this node
  std::vector<NodeShare> nodes{};  // kCluster: that have some of it, this one too, the most first
};

// Port: how much of images is where.
//
// Thread-safe.
class LocalityBackend {
 public:
  virtual ~LocalityBackend() = default;

  // One answer for each reference, in their order. Called exactly once, at the deadline at the latest, on any
  // thread, also within GetLocality. Errors: InvalidArgument (a malformed reference), FailedPrecondition
  // (kCluster of a node that was told of no others). In an answer: PermissionDenied (the allow-list, the
  // registry), NotFound, FailedPrecondition (not a lazy image), DeadlineExceeded (not known in time; it goes
  // on being looked up), ResourceExhausted (too many at once; with a RetryInfo), Unavailable.
  using OnLocality = absl::AnyInvocable<void(absl::StatusOr<std::vector<ImageLocality>>) &&>;
  virtual void GetLocality(const LocalityQuery& query, Instant deadline, OnLocality done) = 0;
};

}  // namespace sluice::api
