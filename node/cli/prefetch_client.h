#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/cli/interrupt.h"
#include "node/cli/invocation.h"
#include "sluice/v1/prefetch.pb.h"

namespace sluice::cli {

// Blocking calls of sluice.v1.PrefetchService. One thread at a time.
//
// Every call's errors are the service's (same code, same message); DeadlineExceeded after --timeout; and the
// daemon may vanish in the middle: Unavailable.
class PrefetchClient {
 public:
  // Errors: those of ConnectSocket, and of ConnectRemote if the flags name a node.
  static absl::StatusOr<PrefetchClient> Connect(const GlobalFlags& flags);

  PrefetchClient(PrefetchClient&&) noexcept;
  ~PrefetchClient();

  // A hint that is refused is an error of this call.
  absl::StatusOr<v1::HintStatus> Submit(const v1::Hint& hint);
  // Calls `on_progress` with each message until all hints are over. Without --timeout it waits as long as
  // that takes. Errors: also Cancelled, once interrupted.
  absl::Status Watch(const std::vector<std::string>& ids, Interrupt& interrupt,
                     const std::function<void(const v1::WatchHintsResponse&)>& on_progress);
  // All that the node knows, in the order of their ids.
  absl::StatusOr<std::vector<v1::HintStatus>> List();
  absl::StatusOr<std::vector<v1::ImageLocality>> GetLocality(const v1::GetLocalityRequest& request);
  absl::StatusOr<std::vector<v1::HintStatus>> Cancel(const std::vector<std::string>& ids);

 private:
  class Channel;

  explicit PrefetchClient(std::unique_ptr<Channel> channel);

  std::unique_ptr<Channel> channel_;
};

}  // namespace sluice::cli
