#include "node/daemon/image_policy.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <system_error>
#include <variant>

#include "absl/strings/str_cat.h"
#include "node/daemon/verifier_program.h"
#include "p2p/registry/manifest.h"

namespace sluice {
namespace {

constexpr char kDescriptorType[] = "application/vnd.oci.descriptor.v1+json";

// Whether nobody but root and this user can change it. Errors: InvalidArgument.
absl::Status CheckOwned(const std::string& path, const struct stat& found) {
  const bool is_ours = found.st_uid == 0 || found.st_uid == geteuid();
  if (is_ours && (found.st_mode & S_IWOTH) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      path,
      is_ours ? " may be written to by everybody: \"chmod o-w " : " belongs to somebody else: \"chown root ",
      path, "\" lets it decide about images"));
}

absl::Status CheckFolder(const std::string& folder) {
  struct stat found {};
  if (stat(folder.c_str(), &found) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, ": ", std::strerror(errno), "; make it, or leave policy.verifierDir out"));
  }
  if (!S_ISDIR(found.st_mode)) return absl::InvalidArgumentError(absl::StrCat(folder, " is no folder"));
  return CheckOwned(folder, found);
}

absl::Status Refused(absl::string_view what) {
  return absl::PermissionDeniedError(absl::StrCat("refused by the policy of this node: ", what));
}

// By name, what it is and where: a program may decide by each. A name has no space.
std::string KeyOf(const BlobOrigin& origin, const std::string& name, const Digest& digest) {
  return absl::StrCat(origin.registry, " ", origin.repository, " ", name, " ", digest.ToString());
}
// What has passed, or came with an index that has, by whatever name of that repository.
std::string KeyOfPassed(const BlobOrigin& origin, const Digest& digest) {
  return KeyOf(origin, "", digest);
}

std::vector<Digest> ChildrenOf(const p2p::FetchedManifest& manifest) {
  const absl::StatusOr<p2p::Manifest> parsed = p2p::ParseManifest(manifest.body, manifest.media_type);
  if (!parsed.ok()) return {};
  const auto* const index = std::get_if<p2p::ImageIndex>(&*parsed);
  if (!index) return {};
  std::vector<Digest> children;
  for (const auto& entry : index->manifests) children.push_back(entry.digest);
  return children;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ImagePolicy>> ImagePolicy::Open(Options options, const Clock& clock,
                                                               ImageCounters& counters) {
  if (absl::Status folder = CheckFolder(options.folder); !folder.ok()) return folder;
  std::shared_ptr<ImagePolicy> policy(new ImagePolicy(std::move(options), clock, counters));
  const absl::StatusOr<std::vector<std::string>> programs = policy->Programs();
  if (!programs.ok()) return absl::InvalidArgumentError(programs.status().message());
  if (programs->empty())
    spdlog::warn("policy.verifierDir: {} is empty, so every image may be had", policy->options_.folder);
  return policy;
}

ImagePolicy::~ImagePolicy() {
  Stop();
}

void ImagePolicy::Stop() {
  std::map<std::string, Waiters> left;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    stopping_ = true;
    left.swap(asking_);
  }
  for (auto& [key, waiters] : left) {
    for (Done& done : waiters) std::move(done)(absl::CancelledError("the node is stopping"));
  }
  programs_.Stop();
}

absl::Status ImagePolicy::Ask(const BlobOrigin& origin, const std::string& name,
                              const p2p::FetchedManifest& manifest) {
  auto answer = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> coming = answer->get_future();
  Ask(origin, name, manifest, [answer](absl::Status said) { answer->set_value(std::move(said)); });
  return coming.get();
}

void ImagePolicy::Ask(const BlobOrigin& origin, const std::string& name, const p2p::FetchedManifest& manifest,
                      Done done) {
  const std::string key = KeyOf(origin, name, manifest.digest);
  absl::Status known;
  {
    std::unique_lock lock(mutex_);
    if (stopped_) known = absl::CancelledError("the node is stopping");
    for (const std::string& said : {key, KeyOfPassed(origin, manifest.digest)}) {
      const auto found = kept_.find(said);
      if (found == kept_.end() || found->second.until <= clock_.Now()) continue;
      known = found->second.answer;
      lock.unlock();
      return std::move(done)(std::move(known));
    }
    const bool is_new = !asking_.contains(key);
    if (is_new && asking_.size() >= kWaitingMax)
      known = absl::ResourceExhaustedError("verifier programs are asked about too many images; try again");
    if (known.ok()) {
      asking_[key].push_back(std::move(done));
      if (!is_new) return;
    }
  }
  if (!known.ok()) return std::move(done)(std::move(known));
  programs_.Post([weak = weak_from_this(), key, origin, name, manifest] {
    const std::shared_ptr<ImagePolicy> self = weak.lock();
    if (self) self->End(key, origin, manifest, self->AskPrograms(name, manifest));
  });
}

void ImagePolicy::End(const std::string& key, const BlobOrigin& origin, const p2p::FetchedManifest& manifest,
                      const absl::Status& answer) {
  Count(answer);
  if (!answer.ok()) spdlog::warn("{}: {}", key, std::string(answer.message()));
  Waiters waiters;
  {
    const std::lock_guard lock(mutex_);
    // Whoever was not done in time may be another time.
    if (answer.ok() || absl::IsPermissionDenied(answer)) Keep(key, answer);
    if (answer.ok()) {
      Keep(KeyOfPassed(origin, manifest.digest), answer);
      for (const Digest& child : ChildrenOf(manifest)) Keep(KeyOfPassed(origin, child), answer);
    }
    if (const auto found = asking_.find(key); found != asking_.end()) {
      waiters = std::move(found->second);
      asking_.erase(found);
    }
  }
  for (Done& done : waiters) std::move(done)(answer);
}

void ImagePolicy::Keep(const std::string& key, const absl::Status& answer) {
  if (kept_.size() >= kKeptMax) kept_.clear();
  kept_[key] = {answer, clock_.Now() + kHoldsFor};
}

void ImagePolicy::Count(const absl::Status& answer) const {
  PolicyResult result = PolicyResult::kFailed;
  if (answer.ok()) result = PolicyResult::kAllowed;
  if (absl::IsPermissionDenied(answer)) result = PolicyResult::kDenied;
  if (absl::IsDeadlineExceeded(answer)) result = PolicyResult::kTimedOut;
  counters_.policy_decisions[static_cast<size_t>(result)].Add();
}

// In order of their names. Errors: Unavailable.
absl::StatusOr<std::vector<std::string>> ImagePolicy::Programs() const {
  std::error_code error;
  std::vector<std::string> programs;
  for (std::filesystem::directory_iterator file(options_.folder, error), end; !error && file != end;
       file.increment(error)) {
    programs.push_back(file->path().string());
    if (programs.size() > kProgramsMax) {
      return absl::UnavailableError(
          absl::StrCat(options_.folder, " has more than ", kProgramsMax, " files; take some out"));
    }
  }
  if (error) return absl::UnavailableError(absl::StrCat(options_.folder, ": ", error.message()));
  std::sort(programs.begin(), programs.end());
  return programs;
}

absl::Status ImagePolicy::AskPrograms(const std::string& name, const p2p::FetchedManifest& manifest) const {
  if (absl::Status folder = CheckFolder(options_.folder); !folder.ok())
    return absl::UnavailableError(folder.message());
  const absl::StatusOr<std::vector<std::string>> programs = Programs();
  if (!programs.ok()) return programs.status();
  for (const std::string& program : *programs) {
    if (absl::Status said = AskProgram(program, name, manifest); !said.ok()) return said;
  }
  return absl::OkStatus();
}

absl::Status ImagePolicy::AskProgram(const std::string& path, const std::string& name,
                                     const p2p::FetchedManifest& manifest) const {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0)
    return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
  if (absl::Status owned = CheckOwned(path, found); !owned.ok())
    return absl::UnavailableError(owned.message());
  const nlohmann::ordered_json descriptor = {{"mediaType", manifest.media_type},
                                             {"digest", manifest.digest.ToString()},
                                             {"size", manifest.body.size()}};
  const std::vector<std::string> arguments = {
      "-name", name, "-digest", manifest.digest.ToString(), "-stdin-media-type", kDescriptorType};
  const std::string input = descriptor.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (input.size() > kInputBytesMax) return Refused(absl::StrCat(name, " has a media type that is too long"));
  const absl::StatusOr<ProgramAnswer> answer =
      RunProgram(path, arguments, input, options_.timeout, stopping_);
  if (!answer.ok()) {
    return absl::Status(answer.status().code(),
                        absl::StrCat(path, " was asked about ", name, ": ", answer.status().message()));
  }
  if (!answer->errors.empty()) spdlog::debug("{}: {}", path, answer->errors);
  if (answer->exit_code == 0) return absl::OkStatus();
  return Refused(absl::StrCat(path, " says of ", name, " with exit code ", answer->exit_code, ": ",
                              answer->output.empty() ? "nothing" : answer->output));
}

}  // namespace sluice
