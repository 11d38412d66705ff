#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/interrupt.h"
#include "node/cli/json_report.h"
#include "node/cli/prefetch_client.h"
#include "node/cli/table_report.h"
#include "node/image/progress.h"

namespace sluice::cli {
namespace {

struct SubmitFlags {
  std::string reference;
  std::string id;
  std::string platform;
  std::vector<std::string> ranges;
  bool blob = false;
  bool profile = false;
  std::vector<std::string> targets;
  int32_t priority = 0;
  std::string needed_in;
  std::string ttl;
  std::string scheduler;
  bool pin = false;
  bool detach = false;
  std::string username;
  bool password_stdin = false;
};

constexpr size_t kPasswordInputBytesMax = 64 << 10;

std::string NewId() {
  std::random_device random;
  return absl::StrFormat("cli-%08x%08x", random(), random());
}

// DIGEST:OFFSET+LENGTH. Errors: InvalidArgument.
absl::StatusOr<v1::BlobRange> ParseRange(const std::string& text) {
  v1::BlobRange range;
  const size_t colon = text.rfind(':'), plus = text.rfind('+');
  uint64_t offset = 0, length = 0;
  if (colon == std::string::npos || plus == std::string::npos || plus < colon ||
      !absl::SimpleAtoi(text.substr(colon + 1, plus - colon - 1), &offset) ||
      !absl::SimpleAtoi(text.substr(plus + 1), &length)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--range \"", text, "\": write it as sha256:<64 hexadecimal digits>:OFFSET+LENGTH"));
  }
  range.set_digest(text.substr(0, colon));
  range.set_offset(offset);
  range.set_length(length);
  return range;
}

// Errors: InvalidArgument.
absl::StatusOr<absl::Duration> ParseTime(const char* option, const std::string& text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration == absl::InfiniteDuration() ||
      duration == -absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, " \"", text, "\": write it with its unit, as 30s, 5m or 1h"));
  }
  return duration;
}

absl::Status SetTimes(const SubmitFlags& flags, v1::Hint& hint) {
  if (!flags.needed_in.empty()) {
    const absl::StatusOr<absl::Duration> from_now = ParseTime("--needed-in", flags.needed_in);
    if (!from_now.ok()) return from_now.status();
    const absl::Time at = absl::Now() + *from_now;
    hint.mutable_needed_by()->set_seconds(absl::ToUnixSeconds(at));
    hint.mutable_needed_by()->set_nanos(
        static_cast<int32_t>((at - absl::FromUnixSeconds(absl::ToUnixSeconds(at))) / absl::Nanoseconds(1)));
  }
  if (!flags.ttl.empty()) {
    absl::StatusOr<absl::Duration> ttl = ParseTime("--ttl", flags.ttl);
    if (!ttl.ok()) return ttl.status();
    hint.mutable_ttl()->set_seconds(absl::IDivDuration(*ttl, absl::Seconds(1), &*ttl));
    hint.mutable_ttl()->set_nanos(static_cast<int32_t>(*ttl / absl::Nanoseconds(1)));
  }
  return absl::OkStatus();
}

// REGISTRY/REPOSITORY@DIGEST. Errors: InvalidArgument.
absl::Status SetBlob(const std::string& text, v1::HintedBlob& blob) {
  const size_t slash = text.find('/'), at = text.find('@');
  if (slash == std::string::npos || at == std::string::npos || at < slash) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--blob \"", text, "\": write it as REGISTRY/REPOSITORY@sha256:<64 hexadecimal digits>"));
  }
  blob.set_registry(text.substr(0, slash));
  blob.set_repository(text.substr(slash + 1, at - slash - 1));
  blob.set_digest(text.substr(at + 1));
  return absl::OkStatus();
}

// All of standard input but the end of its line, as tools that log in at registries take it. Errors:
// InvalidArgument.
absl::StatusOr<std::string> ReadPassword() {
  std::string text(kPasswordInputBytesMax + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), stdin));
  if (text.size() > kPasswordInputBytesMax)
    return absl::InvalidArgumentError("--password-stdin: what stands on standard input is no password");
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  if (text.empty()) return absl::InvalidArgumentError("--password-stdin: nothing stands on standard input");
  return text;
}

absl::StatusOr<v1::Hint> HintOf(const SubmitFlags& flags) {
  v1::Hint hint;
  hint.set_id(flags.id.empty() ? NewId() : flags.id);
  if (flags.blob) {
    const absl::Status named = SetBlob(flags.reference, *hint.mutable_blob());
    if (!named.ok()) return named;
  } else {
    hint.set_reference(flags.reference);
  }
  hint.set_priority(flags.priority);
  hint.set_scheduler(flags.scheduler);
  hint.set_pin(flags.pin);
  const absl::Status times = SetTimes(flags, hint);
  if (!times.ok()) return times;
  if (!flags.platform.empty()) {
    const std::vector<std::string> parts = absl::StrSplit(flags.platform, '/');
    if (parts.size() < 2 || parts.size() > 3) {
      return absl::InvalidArgumentError(
          absl::StrCat("--platform \"", flags.platform, "\": write it as os/architecture[/variant]"));
    }
    hint.mutable_platform()->set_os(parts[0]);
    hint.mutable_platform()->set_architecture(parts[1]);
    if (parts.size() == 3) hint.mutable_platform()->set_variant(parts[2]);
  }
  for (const std::string& target : flags.targets) hint.add_targets(target);
  if (flags.password_stdin) {
    absl::StatusOr<std::string> password = ReadPassword();
    if (!password.ok()) return password.status();
    hint.mutable_credentials()->set_username(flags.username);
    hint.mutable_credentials()->set_password(*std::move(password));
  }
  if (flags.profile) {
    hint.mutable_profile();
  } else if (flags.ranges.empty()) {
    hint.mutable_all();
  }
  for (const std::string& text : flags.ranges) {
    absl::StatusOr<v1::BlobRange> range = ParseRange(text);
    if (!range.ok()) return range.status();
    *hint.mutable_ranges()->add_ranges() = *std::move(range);
  }
  return hint;
}

// The state of hints as WatchHints's messages build it up; shown as a bar if stderr is a terminal.
class HintView {
 public:
  ~HintView() { progress_->End(); }

  void Update(const v1::WatchHintsResponse& changes) {
    for (const v1::HintStatus& hint : changes.hints()) hints_[hint.id()] = hint;
    uint64_t total = 0, present = 0;
    for (const auto& [id, hint] : hints_) {
      total += hint.total_bytes();
      present += hint.present_bytes();
    }
    // Sizes become known one after the other.
    if (!begun_ || total != total_) progress_->Begin(total == 0 ? "looking up" : "prefetching", total);
    begun_ = true;
    total_ = total;
    progress_->Advance(present);
  }

  std::vector<v1::HintStatus> hints() const {
    std::vector<v1::HintStatus> list;
    for (const auto& [id, hint] : hints_) list.push_back(hint);
    return list;
  }

  // Errors: what the hints that failed said, with the code of the first; Cancelled if one was;
  // DeadlineExceeded if one was given up.
  absl::Status Result() const {
    std::vector<std::string> reasons;
    absl::StatusCode code = absl::StatusCode::kOk;
    for (const auto& [id, hint] : hints_) {
      if (hint.state() == v1::HINT_STATE_FAILED) {
        if (reasons.empty()) code = static_cast<absl::StatusCode>(hint.error().code());
        reasons.push_back(absl::StrCat("hint ", id, " failed: ", hint.error().message()));
      } else if (hint.state() == v1::HINT_STATE_CANCELLED) {
        if (reasons.empty()) code = absl::StatusCode::kCancelled;
        reasons.push_back(absl::StrCat("hint ", id, " was cancelled"));
      } else if (hint.state() == v1::HINT_STATE_EXPIRED) {
        if (reasons.empty()) code = absl::StatusCode::kDeadlineExceeded;
        reasons.push_back(absl::StrCat("hint ", id, " was given up when its ttl had passed"));
      }
    }
    return absl::Status(code, absl::StrJoin(reasons, "; "));
  }

 private:
  const std::unique_ptr<ProgressSink> progress_ = MakeProgress(ProgressStyle::kBarOrLines);
  std::map<std::string, v1::HintStatus> hints_;
  bool begun_ = false;
  uint64_t total_ = 0;
};

void Print(const std::vector<v1::HintStatus>& hints, OutputFormat output) {
  std::fputs((output == OutputFormat::kJson ? HintListJson(hints) : HintTable(hints)).c_str(), stdout);
}

absl::Status Follow(PrefetchClient& client, Interrupt& interrupt, const std::vector<std::string>& ids,
                    OutputFormat output) {
  std::vector<v1::HintStatus> hints;
  absl::Status result;
  {
    HintView view;
    const absl::Status watched = client.Watch(
        ids, interrupt, [&view](const v1::WatchHintsResponse& changes) { view.Update(changes); });
    const std::string names = absl::StrJoin(ids, " ");
    if (interrupt.received() && !watched.ok()) {
      return absl::CancelledError(absl::StrCat("interrupted; the hint goes on. `sluice prefetch watch ",
                                               names, "` follows it, `sluice prefetch cancel ", names,
                                               "` ends it"));
    }
    if (!watched.ok()) return Annotate(watched, absl::StrCat("cannot watch ", names));
    hints = view.hints();
    result = view.Result();
  }
  Print(hints, output);
  return result;
}

absl::Status RunSubmit(const GlobalFlags& flags, const SubmitFlags& submit) {
  const std::string what = absl::StrCat("cannot prefetch ", submit.reference);
  const absl::StatusOr<v1::Hint> hint = HintOf(submit);
  if (!hint.ok()) return Annotate(hint.status(), what);
  Interrupt interrupt;
  absl::StatusOr<PrefetchClient> client = PrefetchClient::Connect(flags);
  if (!client.ok()) return client.status();
  const absl::StatusOr<v1::HintStatus> status = client->Submit(*hint);
  if (!status.ok()) return Annotate(status.status(), what);
  if (!submit.detach) return Follow(*client, interrupt, {hint->id()}, flags.output);
  Print({*status}, flags.output);
  return absl::OkStatus();
}

absl::Status RunWatch(const GlobalFlags& flags, const std::vector<std::string>& ids) {
  Interrupt interrupt;
  absl::StatusOr<PrefetchClient> client = PrefetchClient::Connect(flags);
  if (!client.ok()) return client.status();
  return Follow(*client, interrupt, ids, flags.output);
}

absl::Status RunList(const GlobalFlags& flags) {
  absl::StatusOr<PrefetchClient> client = PrefetchClient::Connect(flags);
  if (!client.ok()) return client.status();
  const absl::StatusOr<std::vector<v1::HintStatus>> hints = client->List();
  if (!hints.ok()) return Annotate(hints.status(), "cannot list hints");
  Print(*hints, flags.output);
  return absl::OkStatus();
}

// Waits until the targets that are told of the end have answered, for as long as the node tells them.
absl::Status AwaitTargets(PrefetchClient& client, std::vector<v1::HintStatus>& hints) {
  std::map<std::string, v1::HintStatus*> open;
  for (v1::HintStatus& hint : hints) {
    if (hint.target_totals().cancelling() > 0) open[hint.id()] = &hint;
  }
  if (open.empty()) return absl::OkStatus();
  std::vector<std::string> ids;
  for (const auto& [id, hint] : open) ids.push_back(id);
  Interrupt interrupt;
  return client.Watch(ids, interrupt, [&open](const v1::WatchHintsResponse& changes) {
    for (const v1::HintStatus& hint : changes.hints()) *open.at(hint.id()) = hint;
  });
}

// Unavailable if some that have taken the hints go on with them.
absl::Status ResultOfCancel(const std::vector<v1::HintStatus>& hints) {
  std::vector<std::string> reasons;
  for (const v1::HintStatus& hint : hints) {
    for (const v1::TargetStatus& target : hint.targets()) {
      if (target.state() != v1::TARGET_STATE_TAKEN || !target.has_error()) continue;
      reasons.push_back(absl::StrCat("hint ", hint.id(), " goes on at ", target.name(),
                                     ", which was not reached: ", target.error().message()));
    }
  }
  return reasons.empty() ? absl::OkStatus()
                         : absl::UnavailableError(absl::StrCat(absl::StrJoin(reasons, "; "),
                                                               "; cancel it again when they are back"));
}

absl::Status RunCancel(const GlobalFlags& flags, const std::vector<std::string>& ids) {
  absl::StatusOr<PrefetchClient> client = PrefetchClient::Connect(flags);
  if (!client.ok()) return client.status();
  absl::StatusOr<std::vector<v1::HintStatus>> hints = client->Cancel(ids);
  const std::string what = absl::StrCat("cannot cancel ", absl::StrJoin(ids, " "));
  if (!hints.ok()) return Annotate(hints.status(), what);
  const absl::Status told = AwaitTargets(*client, *hints);
  if (!told.ok()) return Annotate(told, absl::StrCat("cannot tell the targets of ", absl::StrJoin(ids, " ")));
  Print(*hints, flags.output);
  return Annotate(ResultOfCancel(*hints), what);
}

// An image that can't be told is an error, after the others were shown.
absl::Status RunLocality(const GlobalFlags& flags, const std::vector<std::string>& references,
                         v1::LocalityScope scope) {
  absl::StatusOr<PrefetchClient> client = PrefetchClient::Connect(flags);
  if (!client.ok()) return client.status();
  v1::GetLocalityRequest request;
  request.mutable_references()->Add(references.begin(), references.end());
  request.set_scope(scope);
  const absl::StatusOr<std::vector<v1::ImageLocality>> images = client->GetLocality(request);
  if (!images.ok()) return Annotate(images.status(), "cannot tell where images are");
  std::fputs((flags.output == OutputFormat::kJson ? LocalityJson(*images) : LocalityTable(*images)).c_str(),
             stdout);
  for (const v1::ImageLocality& image : *images) {
    if (!image.has_error()) continue;
    return absl::Status(
        static_cast<absl::StatusCode>(image.error().code()),
        absl::StrCat("cannot tell where ", image.reference(), " is: ", image.error().message()));
  }
  return absl::OkStatus();
}

using IdsCommand = absl::Status (*)(const GlobalFlags&, const std::vector<std::string>& ids);

void AddIdsCommand(CLI::App& prefetch, Invocation& invocation, const char* name, const char* help,
                   IdsCommand command) {
  CLI::App* added = prefetch.add_subcommand(name, help);
  auto ids = std::make_shared<std::vector<std::string>>();
  added->add_option("ID", *ids, "Of hints, as they were submitted")->required();
  added->callback([&invocation, ids, command] {
    invocation.run = [&invocation, ids, command] { return command(invocation.flags, *ids); };
  });
}

void AddRemoteFlags(CLI::App& prefetch, RemoteNode& remote) {
  CLI::Option* const node = prefetch.add_option(
      "--node", remote.address, "Another host's node, as host:port of its api.prefetchListen, by TLS");
  CLI::Option* const ca = prefetch.add_option("--ca", remote.ca, "PEM of the authority of its certificate");
  CLI::Option* const certificate =
      prefetch.add_option("--certificate", remote.certificate, "PEM of what is shown to it");
  CLI::Option* const key = prefetch.add_option("--key", remote.key, "PEM of the key of that");
  for (CLI::Option* const file : {ca, certificate, key}) {
    node->needs(file);
    file->needs(node);
  }
  prefetch.add_option("--peer-name", remote.peer_name, "The DNS name of its certificate (its tls.peerName)")
      ->capture_default_str()
      ->needs(node);
}

}  // namespace

void AddPrefetchCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* prefetch = app.add_subcommand("prefetch", "Bring images in before they are mounted");
  prefetch->require_subcommand(1);
  AddRemoteFlags(*prefetch, invocation.flags.remote);
  CLI::App* submit = prefetch->add_subcommand(
      "submit", "Hint at an image and wait until it is there; shows progress on a terminal");
  auto flags = std::make_shared<SubmitFlags>();
  submit->add_option("REF", flags->reference, "The image: registry/repository:tag or ...@sha256:...")
      ->required();
  submit->add_option("--id", flags->id, "The hint's name (default: a new one)");
  submit->add_option("--platform", flags->platform,
                     "os/architecture[/variant] (default: that of the daemon)");
  CLI::Option* const ranges =
      submit
          ->add_option("--range", flags->ranges,
                       "Only these bytes, as sha256:...:OFFSET+LENGTH; may be given more than once")
          ->allow_extra_args(false);
  CLI::Option* const blob = submit->add_flag(
      "--blob", flags->blob, "REF names a blob alone, as REGISTRY/REPOSITORY@sha256:..., and no image");
  submit->add_flag("--profile", flags->profile, "Only what earlier starts of the image have read")
      ->excludes(blob)
      ->excludes(ranges);
  submit->add_option("--priority", flags->priority, "Higher ones go first, -100 to 100 (default: 0)");
  submit->add_option("--needed-in", flags->needed_in,
                     "When it is to be there, from now, as 5m; of one priority the earliest goes first");
  submit->add_option("--ttl", flags->ttl, "Give it up after so long, as 1h (default: 24h)");
  submit->add_option("--scheduler", flags->scheduler, "Who hints; each name has its own bound");
  submit->add_flag("--pin", flags->pin, "Keep what it has brought in until `sluice blob unpin`");
  submit
      ->add_option(
          "--target", flags->targets,
          "A member of the cluster that it is for, by name; may be given more than once (default: this node)")
      ->allow_extra_args(false);
  submit->add_flag("--detach", flags->detach, "Do not wait");
  CLI::Option* const username =
      submit->add_option("--username", flags->username, "Ask the registry as this user, for this hint alone");
  CLI::Option* const password =
      submit->add_flag("--password-stdin", flags->password_stdin, "Its password stands on standard input");
  username->needs(password);
  password->needs(username);
  submit->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunSubmit(invocation.flags, *flags); };
  });
  CLI::App* list = prefetch->add_subcommand("list", "Show the hints that the daemon knows");
  list->callback([&invocation] { invocation.run = [&invocation] { return RunList(invocation.flags); }; });
  CLI::App* locality = prefetch->add_subcommand("locality", "Show how much of images is here");
  auto references = std::make_shared<std::vector<std::string>>();
  auto cluster = std::make_shared<bool>(false);
  locality->add_option("REF", *references, "The images")->required();
  locality->add_flag("--cluster", *cluster, "And on the other nodes, those that have most first");
  locality->callback([&invocation, references, cluster] {
    invocation.run = [&invocation, references, cluster] {
      return RunLocality(invocation.flags, *references,
                         *cluster ? v1::LOCALITY_SCOPE_CLUSTER : v1::LOCALITY_SCOPE_NODE);
    };
  });
  AddIdsCommand(*prefetch, invocation, "watch", "Wait until hints are over; shows progress on a terminal",
                RunWatch);
  AddIdsCommand(*prefetch, invocation, "cancel", "End hints; what has arrived stays", RunCancel);
}

}  // namespace sluice::cli
