#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/push_route.h"
#include "api/prefetch_backend.h"
#include "node/daemon/push_events.h"

namespace sluice {

// What was pushed becomes a hint: its homes fetch it once, and give it to the next who mounts it.
//
// Thread-safe. The backend outlives this.
class PushedImageHints final : public api::PushListener {
 public:
  static constexpr char kScheduler[] = "registry";  // as which it hints

  explicit PushedImageHints(api::PrefetchBackend& hints) : hints_(hints) {}
  absl::StatusOr<Heard> Take(std::string_view body) override;

 private:
  // Errors: PermissionDenied, ResourceExhausted, and what else a hint is refused for.
  absl::Status Hint(const PushedImage& image);

  api::PrefetchBackend& hints_;
};

// The secret that registries show: the file's text, without spaces at its ends. Errors: InvalidArgument (no
// such file, more than a line, shorter than kSecretBytesMin, or others than its owner and group may read it).
inline constexpr size_t kSecretBytesMin = 16;
absl::StatusOr<std::string> ReadSecret(const std::string& path);

}  // namespace sluice
