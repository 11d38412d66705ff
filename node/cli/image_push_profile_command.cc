#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "node/cli/admin_client.h"
#include "node/cli/exit_code.h"
#include "node/cli/image_commands.h"
#include "node/cli/registry_session.h"
#include "node/image/image_uploader.h"
#include "node/image/progress.h"
#include "p2p/registry/reference.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PushProfileFlags {
  std::string reference;
  RegistryFlags registry;
};

// As the registry has it now: what does not exist has no referrers.
absl::StatusOr<p2p::Descriptor> FindSubject(p2p::RegistryClient& registry, const BlobOrigin& origin,
                                            const std::string& digest) {
  const absl::StatusOr<p2p::FetchedManifest> manifest = registry.FetchManifest(
      origin, digest,
      {std::string(p2p::media_type::kOciManifest), std::string(p2p::media_type::kDockerManifest)});
  if (!manifest.ok()) return manifest.status();
  return p2p::Descriptor{
      .media_type = manifest->media_type, .digest = manifest->digest, .size = manifest->body.size()};
}

absl::StatusOr<Digest> Push(RegistrySession& session, const p2p::ImageReference& reference,
                            const v1::ImageProfile& profile) {
  const absl::StatusOr<p2p::Descriptor> subject =
      FindSubject(session.client(), reference.origin, profile.manifest_digest());
  if (!subject.ok()) return subject.status();
  const std::unique_ptr<ProgressSink> progress = MakeProgress(ProgressStyle::kSilent);
  ImageUploader uploader(session.client(), *progress, reference.origin);
  return uploader.PushProfile(profile.document(), *subject, absl::Now());
}

absl::Status RunPushProfile(const GlobalFlags& global, const PushProfileFlags& flags) {
  const absl::StatusOr<p2p::ImageReference> reference = p2p::ImageReference::Parse(flags.reference);
  if (!reference.ok()) return reference.status();
  const std::string what = absl::StrCat("cannot push the profile of ", flags.reference);
  absl::StatusOr<AdminClient> client = AdminClient::Connect(global);
  if (!client.ok()) return client.status();
  const absl::StatusOr<v1::ImageProfile> profile = client->GetImageProfile(flags.reference);
  if (!profile.ok()) return Annotate(profile.status(), what);
  RegistrySession session(flags.registry, {reference->origin.registry});
  const absl::StatusOr<Digest> pushed = Push(session, *reference, *profile);
  if (!pushed.ok()) return Annotate(pushed.status(), what);
  if (global.output == OutputFormat::kJson) {
    const Json json = {{"reference", profile->reference()},
                       {"manifest_digest", profile->manifest_digest()},
                       {"profile_digest", pushed->ToString()},
                       {"start_count", profile->start_count()}};
    std::fputs((json.dump() + "\n").c_str(), stdout);
  } else {
    std::fputs(
        absl::StrCat("pushed    ", pushed->ToString(), ", of ", profile->start_count(), " starts\nof        ",
                     profile->reference(), "\ndigest    ", profile->manifest_digest(), "\n")
            .c_str(),
        stdout);
  }
  return absl::OkStatus();
}

}  // namespace

void AddImagePushProfileCommand(CLI::App& image, Invocation& invocation) {
  auto flags = std::make_shared<PushProfileFlags>();
  CLI::App* push = image.add_subcommand(
      "push-profile",
      "Push what the node knows of starts of the image REF to its registry, for nodes that know none");
  push->add_option("REF", flags->reference, "The image, as registry/repository[:tag][@digest]")->required();
  AddRegistryFlags(*push, flags->registry);
  push->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunPushProfile(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
