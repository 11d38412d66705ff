#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/holder_report.h"
#include "node/cli/json_report.h"
#include "node/cli/mount_view.h"
#include "node/cli/table_report.h"
#include "node/image/progress.h"

namespace sluice::cli {
namespace {

struct MountFlags {
  std::string reference;
  std::string directory;
  bool fill = false;
  bool no_fill = false;
  bool wait = false;
  std::vector<std::string> options;  // of mount(8)
  std::string request_id;
};

// The daemon has another working directory. Errors: InvalidArgument.
absl::StatusOr<std::string> AbsolutePath(const std::string& path) {
  std::error_code error;
  std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat("directory \"", path, "\": ", error.message()));
  absolute = absolute.lexically_normal();
  if (!absolute.has_filename() && absolute.has_relative_path()) absolute = absolute.parent_path();
  return absolute.string();
}

// The state of a fill as WatchFill's messages build it up; shown as a bar if stderr is a terminal.
class FillView {
 public:
  ~FillView() { progress_->End(); }

  void Update(const v1::WatchFillResponse& changes) {
    const bool is_first = blobs_.empty();
    for (const v1::BlobFill& blob : changes.blobs()) blobs_[blob.blob().digest()] = blob;
    uint64_t size = 0, present = 0;
    for (const auto& [digest, blob] : blobs_) {
      size += blob.blob().size_bytes();
      present += blob.blob().present_bytes();
    }
    // The first message has all blobs, so the size is known from then on.
    if (is_first) progress_->Begin("filling", size);
    progress_->Advance(present);
  }

  // Errors: what the blobs that failed said; FailedPrecondition if blobs are incomplete and nobody fills
  // them.
  absl::Status Result() const {
    std::vector<std::string> failures;
    bool idle = false;
    for (const auto& [digest, blob] : blobs_) {
      if (blob.state() == v1::FILL_STATE_FAILED) failures.push_back(absl::StrCat(digest, ": ", blob.error()));
      if (blob.state() == v1::FILL_STATE_IDLE) idle = true;
    }
    if (!failures.empty()) {
      return absl::UnavailableError(absl::StrCat("the fill failed; the mount is there and works on demand: ",
                                                 absl::StrJoin(failures, "; ")));
    }
    if (idle) {
      return absl::FailedPreconditionError(
          "the mount is there, but no fill is under way to wait for; mount with --fill");
    }
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<ProgressSink> progress_ = MakeProgress(ProgressStyle::kBar);
  std::map<std::string, v1::BlobFill> blobs_;
};

absl::Status WaitForFill(AdminClient& client, const std::string& mount_point) {
  FillView view;
  absl::Status status =
      client.WatchFill(mount_point, [&view](const v1::WatchFillResponse& changes) { view.Update(changes); });
  return status.ok() ? view.Result() : Annotate(status, "the mount is there, but its fill can't be watched");
}

// The mount as it is after the fill; as it was before, should it have gone in the meantime.
v1::Mount Refreshed(AdminClient& client, const v1::Mount& before) {
  absl::StatusOr<std::vector<v1::Mount>> mounts = client.ListMounts();
  if (!mounts.ok()) return before;
  for (const v1::Mount& mount : *mounts) {
    if (mount.mount_point() == before.mount_point()) return mount;
  }
  return before;
}

absl::Status RunMount(const GlobalFlags& flags, const MountFlags& mount_flags) {
  const std::string what =
      absl::StrCat("cannot mount ", mount_flags.reference, " on ", mount_flags.directory);
  absl::StatusOr<std::string> mount_point = AbsolutePath(mount_flags.directory);
  if (!mount_point.ok()) return Annotate(mount_point.status(), what);
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();

  v1::MountRequest request;
  request.set_reference(mount_flags.reference);
  request.set_mount_point(*mount_point);
  if (mount_flags.fill) request.set_fill(v1::FILL_MODE_BACKGROUND);
  if (mount_flags.no_fill) request.set_fill(v1::FILL_MODE_ON_DEMAND);
  for (const std::string& option : mount_flags.options) request.add_options(option);
  request.set_request_id(mount_flags.request_id);
  absl::StatusOr<v1::Mount> mount = client->Mount(request);
  if (!mount.ok()) return Annotate(mount.status(), what);
  if (!client->SharesMounts() && !IsMountedHere(mount->mount_point())) {
    (void)client->Unmount(mount->mount_point());
    return Annotate(NotHere(), what);
  }

  absl::Status filled;
  if (mount_flags.wait) {
    filled = WaitForFill(*client, *mount_point);
    *mount = Refreshed(*client, *mount);
  }
  std::fputs((flags.output == OutputFormat::kJson ? MountJson(*mount) : MountTable({*mount})).c_str(),
             stdout);
  return Annotate(filled, absl::StrCat("cannot fill ", mount_flags.reference));
}

absl::Status RunUnmount(const GlobalFlags& flags, const std::string& directory) {
  const std::string what = absl::StrCat("cannot unmount ", directory);
  absl::StatusOr<std::string> mount_point = AbsolutePath(directory);
  if (!mount_point.ok()) return Annotate(mount_point.status(), what);
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();
  absl::Status status = client->Unmount(*mount_point);
  if (!status.ok()) return Annotate(status, what);
  if (!client->SharesMounts() && IsMountedHere(*mount_point)) {
    return absl::FailedPreconditionError(absl::StrCat(
        what, ": it is unmounted where sluiced is; in this mount namespace (", OwnNamespace(),
        ") an image is mounted there still: a copy, which \"umount ", directory, "\" takes down"));
  }
  if (flags.output == OutputFormat::kJson) std::fputs(UnmountJson(*mount_point).c_str(), stdout);
  return absl::OkStatus();
}

struct UnmountFlags {
  std::string directory;
  bool all = false;
  bool force = false;
  bool dry_run = false;
};

absl::Status InUse(size_t processes) {
  return absl::FailedPreconditionError(
      absl::StrCat("what is mounted is in use by ", processes, processes == 1 ? " process" : " processes",
                   "; end what is named above, or give --force, by which its reads get errors"));
}

// Tells what is there and who uses it. Errors: FailedPrecondition if anybody does.
absl::Status TryUnmountAll(AdminClient& client, OutputFormat output) {
  const absl::StatusOr<size_t> processes = ShowHolders(client, output);
  if (!processes.ok()) return processes.status();
  return *processes == 0 ? absl::OkStatus() : InUse(*processes);
}

absl::Status UnmountAll(AdminClient& client, const UnmountFlags& unmount, OutputFormat output) {
  v1::UnmountAllRequest request;
  request.set_end_readers(unmount.force);
  const absl::StatusOr<v1::UnmountAllResponse> done = client.UnmountAll(request);
  if (!done.ok()) return Annotate(done.status(), "cannot unmount what is mounted");
  const auto mounted = std::count_if(done->results().begin(), done->results().end(),
                                     [](const v1::UnmountResult& result) { return !result.error().empty(); });
  const bool used = std::any_of(done->results().begin(), done->results().end(),
                                [](const v1::UnmountResult& result) { return result.used_still(); });
  // For people; without it what was done is told all the same.
  v1::ListHoldersResponse users;
  if (mounted > 0 || used) users = client.ListHolders().value_or(v1::ListHoldersResponse());
  const bool json = output == OutputFormat::kJson;
  std::fputs((json ? UnmountAllJson(*done) : UnmountAllText(*done, users)).c_str(), stdout);
  std::fflush(stdout);
  if (mounted == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      mounted, " of ", done->results_size(), " images are mounted still; the reasons stand above",
      unmount.force ? "" : ". End what uses them, or give --force, by which its reads get errors"));
}

absl::Status RunUnmountFlags(const GlobalFlags& flags, const UnmountFlags& unmount) {
  if (unmount.all != unmount.directory.empty())
    return absl::InvalidArgumentError("umount: name the directory, or give --all");
  if (!unmount.all && (unmount.force || unmount.dry_run))
    return absl::InvalidArgumentError("umount: --force and --dry-run are for --all");
  if (!unmount.all) return RunUnmount(flags, unmount.directory);
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();
  return unmount.dry_run ? TryUnmountAll(*client, flags.output) : UnmountAll(*client, unmount, flags.output);
}

}  // namespace

void AddMountCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* mount = app.add_subcommand("mount", "Mount an image; what is read is fetched as it is read");
  auto flags = std::make_shared<MountFlags>();
  mount->add_option("REF", flags->reference, "The image: registry/repository:tag or ...@sha256:...")
      ->required();
  mount->add_option("DIR", flags->directory, "An empty directory")->required();
  CLI::Option* fill = mount->add_flag("--fill", flags->fill, "Bring in the rest in the background");
  CLI::Option* no_fill = mount->add_flag("--no-fill", flags->no_fill,
                                         "Fetch only what is read, whatever the configuration says");
  mount->add_option("-o,--options", flags->options, "As of mount(8): nosuid, nodev, noexec; suid, dev, exec")
      ->delimiter(',')
      ->allow_extra_args(false);
  mount->add_flag("--wait", flags->wait, "Wait until the fill has ended; shows progress on a terminal");
  mount->add_option("--request-id", flags->request_id,
                    "A name for this mount: asked for again by it, the answer is the same");
  fill->excludes(no_fill);
  mount->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunMount(invocation.flags, *flags); };
  });

  CLI::App* unmount = app.add_subcommand("umount", "Unmount an image, or all");
  auto unmount_flags = std::make_shared<UnmountFlags>();
  unmount->add_option("DIR", unmount_flags->directory, "Where it is mounted");
  unmount->add_flag("--all", unmount_flags->all, "All images, each unless a process uses it");
  unmount->add_flag("--force", unmount_flags->force,
                    "With --all: reads of all of them get errors first, then those in use are unmounted too");
  unmount->add_flag("--dry-run", unmount_flags->dry_run,
                    "With --all: only tell who uses what; fails if anybody does");
  unmount->callback([&invocation, unmount_flags] {
    invocation.run = [&invocation, unmount_flags] {
      return RunUnmountFlags(invocation.flags, *unmount_flags);
    };
  });
}

}  // namespace sluice::cli
