#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/runtime_files.h"

namespace sluice::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kBackupSuffix[] = ".before-sluice";
constexpr char kCrioFile[] = "50-sluice.conf";
// In a folder of hosts' folders that was not there before us: it goes with the last of them. containerd looks
// at folders alone.
constexpr char kMadeByUs[] = ".made-by-sluice";

struct Flags {
  std::string mirror = "http://127.0.0.1:7303";
  std::string config = "/etc/containerd/config.toml";
  std::string config_path;
  std::string folder = "/etc/containers/registries.conf.d";
  std::vector<std::string> registries;
  bool dry_run = false;
  bool remove = false;
};

// A file, and what is to become of it.
struct Change {
  std::string path;
  std::optional<std::string> before;
  std::optional<std::string> after;  // nothing: it goes
  // Nothing in it is anybody else's, that were to be kept; but its folder is.
  bool is_ours_alone = false;
};

absl::Status FileError(const std::string& what, const std::string& path, int error) {
  absl::Status status = absl::ErrnoToStatus(error, absl::StrCat("cannot ", what, " ", path));
  if (error != EROFS) return status;
  return absl::Status(status.code(),
                      absl::StrCat(status.message(), ": make it writable, or name another folder by ",
                                   "--config-path (--folder for CRI-O) that the runtime reads"));
}

// Nothing if it is not there. Errors: those of errno.
absl::StatusOr<std::optional<std::string>> ReadFile(const std::string& path) {
  std::error_code missing;
  if (!fs::exists(path, missing) && !missing) return std::nullopt;
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (in && in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
  if (!in && !in.eof()) return FileError("read", path, errno ? errno : EIO);
  return text.str();
}

// As a whole or not at all.
absl::Status WriteFile(const std::string& path, const std::string& text) {
  const std::string fresh = absl::StrCat(path, ".new");
  std::FILE* const file = std::fopen(fresh.c_str(), "wbe");
  if (!file) return FileError("write", fresh, errno);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size() &&
                       std::fflush(file) == 0 && ::fsync(::fileno(file)) == 0;
  int error = errno;
  if (std::fclose(file) != 0 && written) error = errno;
  struct stat old {};
  if (::stat(path.c_str(), &old) == 0) ::chmod(fresh.c_str(), old.st_mode & 07777);
  if (written && std::rename(fresh.c_str(), path.c_str()) == 0) return absl::OkStatus();
  if (written) error = errno;
  std::remove(fresh.c_str());
  return FileError("write", path, error);
}

absl::Status Apply(const Change& change) {
  const std::string backup = absl::StrCat(change.path, kBackupSuffix);
  std::error_code error;
  if (!change.after) {
    if (std::remove(change.path.c_str()) != 0 && errno != ENOENT)
      return FileError("remove", change.path, errno);
    // Where nothing else is in it.
    if (!change.is_ours_alone) fs::remove(fs::path(change.path).parent_path(), error);
    return absl::OkStatus();
  }
  fs::create_directories(fs::path(change.path).parent_path(), error);
  if (error) return FileError("make the folder of", change.path, error.value());
  if (change.before && !change.is_ours_alone && !fs::exists(backup, error)) {
    const absl::Status kept = WriteFile(backup, *change.before);
    if (!kept.ok()) return kept;
  }
  const absl::Status written = WriteFile(change.path, *change.after);
  if (!written.ok()) return written;
  // Once it is again what it was, nothing is left of us.
  const absl::StatusOr<std::optional<std::string>> kept = ReadFile(backup);
  if (kept.ok() && *kept && **kept == *change.after) fs::remove(backup, error);
  return absl::OkStatus();
}

// Makes the files again what they were, the last first; what can't be is said in the error.
absl::Status TakeBack(std::vector<Change> applied, absl::Status why) {
  std::string left;
  for (; !applied.empty(); applied.pop_back()) {
    Change& change = applied.back();
    std::swap(change.before, change.after);
    const absl::StatusOr<std::optional<std::string>> now = ReadFile(change.path);
    const bool is_so = now.ok() && *now == change.after;
    if (const absl::Status back = is_so && change.after ? absl::OkStatus() : Apply(change); !back.ok())
      absl::StrAppend(&left, "; nor back: ", back.message());
  }
  return absl::Status(why.code(), absl::StrCat(why.message(), left.empty() ? "; nothing was changed" : left));
}

absl::Status ApplyAll(const std::vector<Change>& changes, const Flags& flags) {
  bool changed = false;
  std::vector<Change> applied;
  for (const Change& change : changes) {
    if (change.before == change.after) continue;
    changed = true;
    std::printf("%s %s\n",
                flags.dry_run ? (change.after ? "would write" : "would remove")
                              : (change.after ? "writes" : "removes"),
                change.path.c_str());
    if (flags.dry_run) {
      if (change.after) std::fputs(change.after->c_str(), stdout);
      continue;
    }
    applied.push_back(change);
    if (absl::Status status = Apply(change); !status.ok())
      return TakeBack(std::move(applied), std::move(status));
  }
  if (!changed) std::puts("nothing is to be changed");
  return absl::OkStatus();
}

// The folder itself, where it is not there, before anything is written below it.
absl::Status MakeFolderOfHosts(const std::string& folder) {
  std::error_code error;
  if (fs::exists(folder, error) || error) return absl::OkStatus();
  fs::create_directories(folder, error);
  if (error) return FileError("make the folder", folder, error.value());
  return WriteFile(absl::StrCat(folder, "/", kMadeByUs), "");
}

// The folder goes if we made it and nothing else is in it. What others have put there is theirs, and so is
// the folder from then on; while only some registries are taken away, the rest may be ours.
void LeaveFolderOfHosts(const std::string& folder, const Flags& flags) {
  const std::string mark = absl::StrCat(folder, "/", kMadeByUs);
  std::error_code error;
  if (!fs::exists(mark, error)) return;
  const auto entries = std::distance(fs::directory_iterator(folder, error), fs::directory_iterator());
  if (error || (entries > 1 && !flags.registries.empty())) return;
  fs::remove(mark, error);
  if (fs::remove(folder, error)) std::printf("removes %s\n", folder.c_str());
}

absl::StatusOr<std::string> FolderOfHosts(const Flags& flags) {
  if (!flags.config_path.empty()) return flags.config_path;
  const absl::StatusOr<std::optional<std::string>> config = ReadFile(flags.config);
  if (!config.ok()) return config.status();
  const std::string remedy = absl::StrCat(
      "set config_path = \"/etc/containerd/certs.d\" under [plugins.\"io.containerd.grpc.v1.cri\".registry] "
      "in ",
      flags.config, " and restart containerd, or give --config-path DIR");
  if (!*config)
    return absl::NotFoundError(
        absl::StrCat("containerd's configuration ", flags.config, " is not there: ", remedy));
  absl::StatusOr<std::string> folder = ConfigPathOf(**config);
  if (!folder.ok()) return Annotate(folder.status(), flags.config);
  if (folder->empty())
    return absl::FailedPreconditionError(
        absl::StrCat(flags.config, " sets no config_path, so that containerd reads no hosts.toml: ", remedy));
  return folder;
}

// The names of hosts whose files are to be changed: those that were named; else all that are there, and the
// one for whatever has none of its own.
absl::StatusOr<std::set<std::string>> HostsOf(const std::string& folder, const Flags& flags) {
  if (!flags.registries.empty())
    return std::set<std::string>(flags.registries.begin(), flags.registries.end());
  std::set<std::string> hosts;
  if (!flags.remove) hosts.insert("_default");
  std::error_code error;
  fs::directory_iterator entries(folder, error), end;
  if (error && error != std::errc::no_such_file_or_directory) return FileError("list", folder, error.value());
  for (; !error && entries != end; entries.increment(error)) {
    if (fs::exists(entries->path() / "hosts.toml")) hosts.insert(entries->path().filename().string());
  }
  return hosts;
}

absl::Status CheckMirror(const std::string& mirror) {
  if (absl::StartsWith(mirror, "http://") || absl::StartsWith(mirror, "https://")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--mirror ", mirror, " is no URL; write it as http://127.0.0.1:7303, as mirror.listen has it"));
}

// What a node takes from containerd must stay there.
void NoteDiscarded(const Flags& flags) {
  const absl::StatusOr<std::optional<std::string>> config = ReadFile(flags.config);
  if (!config.ok() || !*config || !DiscardsUnpackedLayers(**config)) return;
  std::fprintf(
      stderr,
      "note: %s sets discard_unpacked_layers = true: containerd drops each layer once it is unpacked, so "
      "that a node with store.importContainerd has none to give to others\n",
      flags.config.c_str());
}

absl::Status ConfigureContainerd(const Flags& flags) {
  if (const absl::Status status = CheckMirror(flags.mirror); !status.ok()) return status;
  const absl::StatusOr<std::string> folder = FolderOfHosts(flags);
  if (!folder.ok()) return folder.status();
  const absl::StatusOr<std::set<std::string>> hosts = HostsOf(*folder, flags);
  if (!hosts.ok()) return hosts.status();
  // All is looked at before anything is changed.
  std::vector<Change> changes;
  for (const std::string& host : *hosts) {
    Change change{absl::StrCat(*folder, "/", host, "/hosts.toml"), {}, {}};
    absl::StatusOr<std::optional<std::string>> before = ReadFile(change.path);
    if (!before.ok()) return before.status();
    change.before = *std::move(before);
    if (flags.remove) {
      if (!change.before) continue;
      absl::StatusOr<std::optional<std::string>> after = WithoutMirror(*change.before);
      if (!after.ok()) return Annotate(after.status(), change.path);
      change.after = *std::move(after);
    } else {
      absl::StatusOr<std::string> after = WithMirror(change.before.value_or(""), flags.mirror);
      if (!after.ok()) return Annotate(after.status(), change.path);
      change.after = *std::move(after);
    }
    changes.push_back(std::move(change));
  }
  if (!flags.remove) NoteDiscarded(flags);
  const bool dry = flags.dry_run;
  std::error_code ignored;
  const bool was_there = fs::exists(*folder, ignored);
  if (const absl::Status made = dry || flags.remove ? absl::OkStatus() : MakeFolderOfHosts(*folder);
      !made.ok())
    return made;
  const absl::Status applied = ApplyAll(changes, flags);
  if (applied.ok() && flags.remove && !dry) LeaveFolderOfHosts(*folder, flags);
  // One that was made for nothing.
  if (!applied.ok() && !was_there && !dry) LeaveFolderOfHosts(*folder, {});
  return applied;
}

absl::Status ConfigureCrio(const Flags& flags) {
  if (const absl::Status status = CheckMirror(flags.mirror); !status.ok()) return status;
  if (flags.registries.empty() && !flags.remove)
    return absl::InvalidArgumentError(
        "name at least one --registry, e.g. docker.io: CRI-O has no mirror for all");
  Change change{absl::StrCat(flags.folder, "/", kCrioFile), {}, {}, /*is_ours_alone=*/true};
  absl::StatusOr<std::optional<std::string>> before = ReadFile(change.path);
  if (!before.ok()) return before.status();
  change.before = *std::move(before);
  if (change.before) {
    absl::StatusOr<std::optional<std::string>> left = WithoutRegistries(*change.before, flags.registries);
    if (!left.ok()) return Annotate(left.status(), change.path);
    if (flags.remove) change.after = *std::move(left);
  }
  if (!flags.remove)
    change.after = MirrorsOfRegistries(flags.registries, flags.mirror.substr(flags.mirror.find("://") + 3));
  return ApplyAll({change}, flags);
}

void AddCommonFlags(CLI::App& command, Flags& flags) {
  command.add_option("--mirror", flags.mirror, "The node's mirror, as mirror.listen has it")
      ->capture_default_str();
  command.add_flag("--dry-run", flags.dry_run, "Show what would be written, and write nothing");
  command.add_flag("--remove", flags.remove, "Take away what was written");
}

}  // namespace

void AddConfigureCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* configure =
      app.add_subcommand("configure", "Let a container runtime ask this node for images first");
  configure->require_subcommand(1);
  auto flags = std::make_shared<Flags>();

  CLI::App* containerd =
      configure->add_subcommand("containerd", "Write hosts.toml files; what is in them stays");
  AddCommonFlags(*containerd, *flags);
  containerd->add_option("--registry", flags->registries,
                         "Only for this registry, may be given again (default: all of them)");
  containerd->add_option("--containerd-config", flags->config, "Where config_path is looked up")
      ->capture_default_str();
  containerd->add_option("--config-path", flags->config_path,
                         "The folder of hosts' folders, in place of that");
  containerd->callback(
      [&invocation, flags] { invocation.run = [flags] { return ConfigureContainerd(*flags); }; });

  CLI::App* crio =
      configure->add_subcommand("crio", absl::StrCat("Write ", kCrioFile, " of registries.conf.d"));
  AddCommonFlags(*crio, *flags);
  crio->add_option("--registry", flags->registries, "A registry to have a mirror for, may be given again");
  crio->add_option("--folder", flags->folder, "The folder to write to")->capture_default_str();
  crio->callback([&invocation, flags] { invocation.run = [flags] { return ConfigureCrio(*flags); }; });
}

}  // namespace sluice::cli
