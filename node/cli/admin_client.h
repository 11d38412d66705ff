#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "node/cli/interrupt.h"
#include "node/cli/invocation.h"
#include "sluice/v1/admin.pb.h"

namespace sluice::cli {

// Blocking calls of sluice.v1.AdminService. One thread at a time.
//
// Every call's errors are the service's (same code, same message); DeadlineExceeded after --timeout; and the
// daemon may vanish in the middle: Unavailable.
class AdminClient {
 public:
  // Errors: DaemonUnreachable (no socket, or nobody listens), PermissionDenied (the socket may not be
  // opened), InvalidArgument (--timeout).
  static absl::StatusOr<AdminClient> Connect(const GlobalFlags& flags);

  AdminClient(AdminClient&&) noexcept;
  ~AdminClient();

  // Whether the daemon sees the same mounts as this process; false where nobody can tell.
  bool SharesMounts() const;

  absl::StatusOr<v1::NodeStatus> GetStatus();
  absl::StatusOr<v1::SetLogLevelResponse> SetLogLevel(v1::LogLevel level);
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request);
  absl::StatusOr<v1::ListPeersResponse> ListPeers();
  absl::StatusOr<v1::DialBackResponse> DialBack();

  absl::StatusOr<v1::Mount> Mount(const v1::MountRequest& request);
  absl::Status Unmount(const std::string& mount_point);
  absl::StatusOr<v1::UnmountAllResponse> UnmountAll(const v1::UnmountAllRequest& request);
  absl::StatusOr<v1::ListHoldersResponse> ListHolders();
  absl::StatusOr<std::vector<v1::Mount>> ListMounts();
  absl::StatusOr<v1::GetStartReportsResponse> GetStartReports(const std::string& image);
  // Calls `on_progress` with each message until the fill has ended. Without --timeout it waits as long as
  // that takes.
  absl::Status WatchFill(const std::string& mount_point,
                         const std::function<void(const v1::WatchFillResponse&)>& on_progress);

  // All pages.
  absl::StatusOr<std::vector<v1::Blob>> ListBlobs();
  absl::StatusOr<v1::Blob> GetBlob(const std::string& digest);
  absl::StatusOr<std::string> GetBlobRecipe(const std::string& digest);
  // Calls `on_progress` with each message; the last one is what was found. Without --timeout it waits as long
  // as that takes; `interrupt` ends it: Cancelled.
  absl::StatusOr<v1::VerifyBlobResponse> VerifyBlob(
      const std::string& digest, Interrupt& interrupt,
      const std::function<void(const v1::VerifyBlobResponse&)>& on_progress);
  absl::StatusOr<v1::EvictBlobResponse> EvictBlob(const std::string& digest);
  absl::Status PinBlob(const std::string& digest);
  absl::Status UnpinBlob(const std::string& digest);

  absl::StatusOr<v1::ImageProfile> GetImageProfile(const std::string& reference);
  absl::StatusOr<v1::ImageProfile> ImportImageProfile(const std::string& reference,
                                                      const std::string& document);

 private:
  class Channel;

  explicit AdminClient(std::unique_ptr<Channel> channel);

  std::unique_ptr<Channel> channel_;
};

}  // namespace sluice::cli
