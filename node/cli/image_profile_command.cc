#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "node/cli/admin_client.h"
#include "node/cli/exit_code.h"
#include "node/cli/image_commands.h"
#include "node/cli/profile_report.h"
#include "node/cli/small_file.h"
#include "p2p/cluster/profile_codec.h"

namespace sluice::cli {
namespace {

struct ProfileFlags {
  std::string image;
  std::string export_file;
  std::string import_file;
};

absl::StatusOr<v1::ImageProfile> Import(AdminClient& client, const ProfileFlags& flags) {
  const absl::StatusOr<std::string> document = ReadSmallFile(flags.import_file, p2p::kProfileBytesMax);
  if (!document.ok()) return document.status();
  return client.ImportImageProfile(flags.image, *document);
}

absl::Status RunProfile(const GlobalFlags& global, const ProfileFlags& flags) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(global);
  if (!client.ok()) return client.status();
  const bool imports = !flags.import_file.empty();
  const absl::StatusOr<v1::ImageProfile> profile =
      imports ? Import(*client, flags) : client->GetImageProfile(flags.image);
  if (!profile.ok()) {
    return Annotate(profile.status(),
                    imports ? absl::StrCat("cannot import ", flags.import_file, " for ", flags.image)
                            : absl::StrCat("cannot show the profile of ", flags.image));
  }
  if (!flags.export_file.empty()) return WriteSmallFile(flags.export_file, profile->document() + "\n");
  std::fputs((global.output == OutputFormat::kJson ? ProfileJson(*profile) : ProfileText(*profile)).c_str(),
             stdout);
  return absl::OkStatus();
}

}  // namespace

void AddImageProfileCommand(CLI::App& image, Invocation& invocation) {
  auto flags = std::make_shared<ProfileFlags>();
  CLI::App* profile =
      image.add_subcommand("profile", "Show what starts of the image REF have read, as the node knows it");
  profile->add_option("REF", flags->image,
                      "The image, as registry/repository[:tag][@digest], or its manifest's digest alone");
  CLI::Option* export_file = profile->add_option(
      "--export", flags->export_file, "Write it to this file, as --import takes it, instead of showing it");
  profile
      ->add_option("--import", flags->import_file,
                   "Keep the profile in this file in place of what the node knows, and show it")
      ->excludes(export_file);
  AddImageRecordCommand(*profile, invocation);
  profile->callback([&invocation, flags, profile] {
    if (!profile->get_subcommands().empty()) return;
    if (flags->image.empty()) throw CLI::RequiredError("REF");
    invocation.run = [&invocation, flags] { return RunProfile(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
