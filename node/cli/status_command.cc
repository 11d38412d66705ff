#include <unistd.h>

#include <CLI/CLI.hpp>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/holder_report.h"
#include "node/cli/interrupt.h"
#include "node/cli/json_report.h"
#include "node/cli/start_report.h"
#include "node/cli/status_watch.h"
#include "node/cli/table_report.h"

namespace sluice::cli {
namespace {

constexpr char kClearTerminal[] = "\x1b[H\x1b[J";

struct StatusFlags {
  std::string image;
  bool why = false;
  bool holders = false;
  bool watch = false;
  std::string interval = "2s";
  uint32_t count = 0;  // 0: until Ctrl-C
};

absl::Status ShowOnce(AdminClient& client, OutputFormat output) {
  absl::StatusOr<v1::NodeStatus> status = client.GetStatus();
  if (!status.ok()) return Annotate(status.status(), "cannot get the node's status");
  absl::StatusOr<std::vector<v1::Mount>> mounts = client.ListMounts();
  if (!mounts.ok()) return Annotate(mounts.status(), "cannot list the mounts");
  const bool json = output == OutputFormat::kJson;
  std::fputs((json ? StatusJson(*status, *mounts) : StatusTable(*status, *mounts)).c_str(), stdout);
  return absl::OkStatus();
}

// What is watched for people on a terminal stands in one place.
std::string Shown(const v1::NodeStatus& before, const v1::NodeStatus& now, OutputFormat output) {
  if (output == OutputFormat::kJson) return ActivityJson(before, now);
  if (isatty(STDOUT_FILENO) == 0) return ActivityLine(before, now);
  return kClearTerminal + StatusTable(now, {}) + "\n" + ActivityText(before, now);
}

// A wait that Ctrl-C ends.
class Pause {
 public:
  explicit Pause(Interrupt& interrupt) : interrupt_(interrupt) {
    interrupt_.Call([this] {
      std::lock_guard lock(mutex_);
      over_ = true;
      ended_.notify_all();
    });
  }
  ~Pause() { interrupt_.Call(nullptr); }
  // Whether nobody has interrupted it.
  bool For(absl::Duration time) {
    std::unique_lock lock(mutex_);
    return !ended_.wait_for(lock, absl::ToChronoNanoseconds(time), [this] { return over_; });
  }

 private:
  Interrupt& interrupt_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;  // guarded by mutex_
};

absl::Status Watch(AdminClient& client, Interrupt& interrupt, const StatusFlags& flags, OutputFormat output) {
  absl::Duration interval;
  if (!absl::ParseDuration(flags.interval, &interval) || interval < absl::Milliseconds(100) ||
      interval > absl::Hours(24)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--interval \"", flags.interval, "\": write it with its unit, from 100ms to 24h"));
  }
  Pause pause(interrupt);
  absl::StatusOr<v1::NodeStatus> before = client.GetStatus();
  for (uint32_t shown = 0; before.ok() && (flags.count == 0 || shown < flags.count); ++shown) {
    if (!pause.For(interval)) return absl::OkStatus();
    absl::StatusOr<v1::NodeStatus> now = client.GetStatus();
    if (now.ok()) std::fputs(Shown(*before, *now, output).c_str(), stdout);
    if (std::fflush(stdout) != 0) return absl::UnavailableError("cannot write to stdout");
    before = std::move(now);
  }
  return Annotate(before.status(), "cannot get the node's status");
}

absl::Status ShowWhy(AdminClient& client, const std::string& image, OutputFormat output) {
  const absl::StatusOr<v1::GetStartReportsResponse> starts = client.GetStartReports(image);
  if (!starts.ok()) return Annotate(starts.status(), absl::StrCat("cannot say why ", image, " was slow"));
  if (starts->reports().empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        image, " was mounted at ", absl::StrJoin(starts->unknown(), ", "),
        " before this sluiced was started, which does not know that start; unmount it and mount it "
        "again to see one"));
  }
  const bool json = output == OutputFormat::kJson;
  std::fputs((json ? StartReportJson(*starts) : StartReportText(*starts)).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status RunStatus(const GlobalFlags& flags, const StatusFlags& status_flags) {
  std::optional<Interrupt> interrupt;
  if (status_flags.watch) interrupt.emplace();
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return client.status();
  if (status_flags.why) return ShowWhy(*client, status_flags.image, flags.output);
  if (interrupt) return Watch(*client, *interrupt, status_flags, flags.output);
  return status_flags.holders ? ShowHolders(*client, flags.output).status() : ShowOnce(*client, flags.output);
}

}  // namespace

void AddStatusCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* status = app.add_subcommand("status",
                                        "Show the node, and of each mount how much is here, where "
                                        "its reads were served from, and its errors");
  auto flags = std::make_shared<StatusFlags>();
  CLI::Option* image =
      status->add_option("IMAGE", flags->image, "With --why: an image, or where it is mounted");
  CLI::Option* why =
      status->add_flag("--why", flags->why,
                       "Say of IMAGE's mounts where the time of their starts went, and what was foreseen");
  why->needs(image);
  image->needs(why);
  CLI::Option* watch =
      status->add_flag("--watch", flags->watch,
                       "Show what it does, again and again until Ctrl-C: rates, fetches by class, "
                       "queues, what was read ahead, hints");
  why->excludes(watch);
  status
      ->add_flag("--holders", flags->holders,
                 "Show who uses what is mounted: processes, the files, and in Kubernetes the pods")
      ->excludes(watch)
      ->excludes(why);
  status->add_option("--interval", flags->interval, "How often, e.g. 500ms (default: 2s)")->needs(watch);
  status->add_option("--count", flags->count, "So many times, and then end")->needs(watch);
  status->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunStatus(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
