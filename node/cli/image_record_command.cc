#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/cli/admin_client.h"
#include "node/cli/command_run.h"
#include "node/cli/exit_code.h"
#include "node/cli/image_commands.h"
#include "node/cli/interrupt.h"
#include "node/cli/mount_view.h"
#include "node/cli/profile_report.h"

namespace sluice::cli {
namespace {

// What the command leaves behind may read on for a moment.
constexpr int kUnmountTries = 25;
constexpr auto kUnmountPause = std::chrono::milliseconds(200);
// The node looks at what was read while it was present so often, and a little more.
constexpr auto kLookInterval = std::chrono::milliseconds(250);

struct RecordFlags {
  std::string reference;
  std::vector<std::string> command;
};

// An empty directory in $TMPDIR, or /tmp; it goes away unless something is mounted on it.
class MountPoint {
 public:
  static absl::StatusOr<MountPoint> Make() {
    const char* const parent = std::getenv("TMPDIR");
    std::string path =
        absl::StrCat(parent != nullptr && *parent != '\0' ? parent : "/tmp", "/sluice-record-XXXXXX");
    if (mkdtemp(path.data()) == nullptr)
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", path));
    return MountPoint(std::move(path));
  }
  MountPoint(MountPoint&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  MountPoint& operator=(MountPoint&&) = delete;
  ~MountPoint() {
    if (!path_.empty()) rmdir(path_.c_str());
  }

  const std::string& path() const { return path_; }

 private:
  explicit MountPoint(std::string path) : path_(std::move(path)) {}

  std::string path_;
};

absl::Status Unmount(AdminClient& client, const std::string& mount_point) {
  absl::Status status;
  for (int i = 0; i < kUnmountTries; ++i) {
    if (i > 0) std::this_thread::sleep_for(kUnmountPause);
    status = client.Unmount(mount_point);
    if (!absl::IsFailedPrecondition(status)) break;
  }
  if (status.ok() || absl::IsNotFound(status)) return absl::OkStatus();
  return Annotate(status, absl::StrCat("what the command has read is recorded when \"sluice umount ",
                                       mount_point, "\" succeeds; now it can't be unmounted"));
}

absl::StatusOr<v1::Mount> Mount(AdminClient& client, const std::string& reference,
                                const std::string& mount_point) {
  v1::MountRequest request;
  request.set_reference(reference);
  request.set_mount_point(mount_point);
  request.set_recording(v1::START_RECORDING_WHILE_MOUNTED);
  absl::StatusOr<v1::Mount> mount = client.Mount(request);
  if (!mount.ok())
    return Annotate(mount.status(), absl::StrCat("cannot mount ", reference, " on ", mount_point));
  if (client.SharesMounts() || IsMountedHere(mount->mount_point())) return mount;
  (void)client.Unmount(mount->mount_point());
  return NotHere();
}

absl::Status OfCommand(const std::string& command, int exit_code) {
  if (exit_code == 0) return absl::OkStatus();
  return CommandFailed(exit_code > 128 ? absl::StrCat(command, " was ended by signal ", exit_code - 128)
                                       : absl::StrCat(command, " ended with exit code ", exit_code),
                       exit_code);
}

absl::Status RunRecord(const GlobalFlags& global, const RecordFlags& flags) {
  Interrupt interrupt;
  absl::StatusOr<AdminClient> client = AdminClient::Connect(global);
  if (!client.ok()) return client.status();
  absl::StatusOr<MountPoint> place = MountPoint::Make();
  if (!place.ok()) return place.status();
  // Without a profile, and where the image can't be had at all, which the mount says better.
  const absl::StatusOr<v1::ImageProfile> before = client->GetImageProfile(flags.reference);
  const uint32_t starts_before = before.ok() ? before->start_count() : 0;

  const absl::StatusOr<v1::Mount> mount = Mount(*client, flags.reference, place->path());
  if (!mount.ok()) return mount.status();
  absl::StatusOr<int> ended = 128 + SIGINT;
  if (!interrupt.received()) {
    ended = RunCommand(flags.command, mount->mount_point(),
                       absl::StrCat("SLUICE_MOUNT=", mount->mount_point()), interrupt);
    std::this_thread::sleep_for(kLookInterval);
  }
  if (const absl::Status unmounted = Unmount(*client, mount->mount_point()); !unmounted.ok())
    return unmounted;
  if (!ended.ok()) return ended.status();

  const absl::StatusOr<v1::ImageProfile> profile = client->GetImageProfile(flags.reference);
  const bool recorded = profile.ok() && profile->start_count() > starts_before;
  if (recorded) {
    std::fputs(
        (global.output == OutputFormat::kJson ? ProfileJson(*profile) : ProfileSummary(*profile)).c_str(),
        stdout);
  }
  if (const absl::Status failed = OfCommand(flags.command.front(), *ended); !failed.ok()) return failed;
  if (recorded) return absl::OkStatus();
  if (!profile.ok() && !absl::IsNotFound(profile.status())) return profile.status();
  return absl::FailedPreconditionError(
      absl::StrCat("nothing was recorded: ", flags.command.front(),
                   " has read nothing of the mount, which is its working directory and in $SLUICE_MOUNT, or "
                   "nothing that the node "
                   "sees: where the front end is not fanotify, what is here already is read unseen"));
}

}  // namespace

void AddImageRecordCommand(CLI::App& profile, Invocation& invocation) {
  auto flags = std::make_shared<RecordFlags>();
  CLI::App* record = profile.add_subcommand(
      "record", "Mount the image REF for a while, run COMMAND in it, and record what is read meanwhile");
  record->add_option("REF", flags->reference, "The image, as registry/repository[:tag][@digest]")->required();
  record
      ->add_option(
          "COMMAND", flags->command,
          "After --: the program and its arguments. Its working directory is the mount, which stands in "
          "$SLUICE_MOUNT, too; its standard output goes to standard error")
      ->required();
  record->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunRecord(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
