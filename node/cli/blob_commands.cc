#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/exit_code.h"
#include "node/cli/interrupt.h"
#include "node/cli/json_report.h"
#include "node/cli/small_file.h"
#include "node/cli/table_report.h"
#include "node/cli/units_text.h"
#include "node/image/progress.h"

namespace sluice::cli {
namespace {

constexpr char kDigestHelp[] =
    "sha256:<64 hexadecimal digits>, of the blob or of what a registry keeps of it";

void Print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
}

absl::Status ListBlobs(AdminClient& client, OutputFormat output) {
  absl::StatusOr<std::vector<v1::Blob>> blobs = client.ListBlobs();
  if (!blobs.ok()) return Annotate(blobs.status(), "cannot list the blobs");
  Print(output == OutputFormat::kJson ? BlobListJson(*blobs) : BlobTable(*blobs));
  return absl::OkStatus();
}

absl::Status StatBlob(AdminClient& client, OutputFormat output, const std::string& digest) {
  absl::StatusOr<v1::Blob> blob = client.GetBlob(digest);
  if (!blob.ok()) return Annotate(blob.status(), absl::StrCat("cannot show blob ", digest));
  Print(output == OutputFormat::kJson ? BlobJson(*blob) : BlobDetails(*blob));
  return absl::OkStatus();
}

// To standard output if `file` is empty.
absl::Status WriteRecipe(AdminClient& client, OutputFormat output, const std::string& digest,
                         const std::string& file) {
  if (file.empty() && isatty(STDOUT_FILENO) != 0) {
    return absl::InvalidArgumentError(
        "a recipe is binary and is not written to a terminal; name a file with -o, or redirect the output");
  }
  const absl::StatusOr<std::string> recipe = client.GetBlobRecipe(digest);
  if (!recipe.ok()) return Annotate(recipe.status(), absl::StrCat("cannot get the recipe of ", digest));
  if (file.empty()) {
    std::fwrite(recipe->data(), 1, recipe->size(), stdout);
    return absl::OkStatus();
  }
  const absl::Status written = WriteSmallFile(file, *recipe);
  if (written.ok() && output == OutputFormat::kJson) Print(RecipeJson(digest, file, recipe->size()));
  return written;
}

// Shows how far it is.
absl::StatusOr<v1::VerifyBlobResponse> AwaitVerify(AdminClient& client, Interrupt& interrupt,
                                                   const std::string& digest) {
  const std::unique_ptr<ProgressSink> progress = MakeProgress(ProgressStyle::kBarOrLines);
  std::optional<uint64_t> total;
  absl::StatusOr<v1::VerifyBlobResponse> report =
      client.VerifyBlob(digest, interrupt, [&](const v1::VerifyBlobResponse& message) {
        if (total != message.total_bytes()) progress->Begin("verifying", message.total_bytes());
        total = message.total_bytes();
        progress->Advance(message.read_bytes());
      });
  progress->End();
  if (interrupt.received() && !report.ok()) {
    return absl::CancelledError("interrupted; the chunks that were found to be bad by then were dropped");
  }
  return report;
}

absl::Status VerifyBlob(AdminClient& client, Interrupt& interrupt, OutputFormat output,
                        const std::string& digest) {
  absl::StatusOr<v1::VerifyBlobResponse> report = AwaitVerify(client, interrupt, digest);
  if (!report.ok()) return Annotate(report.status(), absl::StrCat("cannot verify blob ", digest));
  Print(output == OutputFormat::kJson ? VerifyJson(digest, *report) : VerifyText(digest, *report));
  if (report->bad_chunks() == 0) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("blob ", digest, " had ", report->bad_chunks(),
                   " bad chunks: they were dropped and are fetched again when they are "
                   "next read. Check the disk if this happens again"));
}

absl::Status EvictBlob(AdminClient& client, OutputFormat output, const std::string& digest) {
  absl::StatusOr<v1::EvictBlobResponse> response = client.EvictBlob(digest);
  if (!response.ok()) return Annotate(response.status(), absl::StrCat("cannot evict blob ", digest));
  Print(output == OutputFormat::kJson
            ? EvictJson(digest, *response)
            : absl::StrCat(digest, ": ", BytesText(response->freed_bytes()), " freed\n"));
  return absl::OkStatus();
}

absl::Status PinBlob(AdminClient& client, OutputFormat output, const std::string& digest) {
  absl::Status status = client.PinBlob(digest);
  if (!status.ok()) return Annotate(status, absl::StrCat("cannot pin blob ", digest));
  if (output == OutputFormat::kJson) Print(PinJson(digest, Pinned::kYes));
  return absl::OkStatus();
}

absl::Status UnpinBlob(AdminClient& client, OutputFormat output, const std::string& digest) {
  absl::Status status = client.UnpinBlob(digest);
  if (!status.ok()) return Annotate(status, absl::StrCat("cannot unpin blob ", digest));
  if (output == OutputFormat::kJson) Print(PinJson(digest, Pinned::kNo));
  return absl::OkStatus();
}

// The blob that the digest names: its own, or what a registry keeps of it, which is said then. Whether there
// is one at all is for the command to say.
std::string BlobNamed(AdminClient& client, const std::string& digest) {
  const absl::StatusOr<v1::Blob> blob = client.GetBlob(digest);
  if (!blob.ok() || blob->digest() == digest) return digest;
  std::fprintf(stderr, "%s is what a registry keeps of blob %s\n", digest.c_str(), blob->digest().c_str());
  return blob->digest();
}

using BlobCommand = absl::Status (*)(AdminClient&, OutputFormat, const std::string& digest);

void AddBlobCommand(CLI::App& blob, Invocation& invocation, const char* name, const char* help,
                    BlobCommand command) {
  CLI::App* added = blob.add_subcommand(name, help);
  auto digest = std::make_shared<std::string>();
  added->add_option("DIGEST", *digest, kDigestHelp)->required();
  added->callback([&invocation, digest, command] {
    invocation.run = [&invocation, digest, command] {
      absl::StatusOr<AdminClient> client = AdminClient::Connect(invocation.flags);
      if (!client.ok()) return client.status();
      return command(*client, invocation.flags.output, BlobNamed(*client, *digest));
    };
  });
}

void AddRecipeCommand(CLI::App& blob, Invocation& invocation) {
  CLI::App* recipe = blob.add_subcommand("recipe", "Write the .torrent that proves each chunk of a blob");
  auto digest = std::make_shared<std::string>();
  auto file = std::make_shared<std::string>();
  recipe->add_option("DIGEST", *digest, kDigestHelp)->required();
  recipe->add_option("-o", *file, "The file to write; without it, standard output, if that is no terminal");
  recipe->callback([&invocation, digest, file] {
    invocation.run = [&invocation, digest, file] {
      absl::StatusOr<AdminClient> client = AdminClient::Connect(invocation.flags);
      if (!client.ok()) return client.status();
      return WriteRecipe(*client, invocation.flags.output, BlobNamed(*client, *digest), *file);
    };
  });
}

void AddVerifyCommand(CLI::App& blob, Invocation& invocation) {
  CLI::App* verify = blob.add_subcommand(
      "verify", "Hash again what is present; shows progress; exit code 1 if some of it was bad");
  auto digest = std::make_shared<std::string>();
  verify->add_option("DIGEST", *digest, kDigestHelp)->required();
  verify->callback([&invocation, digest] {
    invocation.run = [&invocation, digest] {
      Interrupt interrupt;
      absl::StatusOr<AdminClient> client = AdminClient::Connect(invocation.flags);
      if (!client.ok()) return client.status();
      return VerifyBlob(*client, interrupt, invocation.flags.output, BlobNamed(*client, *digest));
    };
  });
}

}  // namespace

void AddBlobCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* blob = app.add_subcommand("blob", "Look at and change what the store keeps");
  blob->require_subcommand(1);
  CLI::App* list = blob->add_subcommand("ls", "List all blobs");
  list->callback([&invocation] {
    invocation.run = [&invocation] {
      absl::StatusOr<AdminClient> client = AdminClient::Connect(invocation.flags);
      if (!client.ok()) return client.status();
      return ListBlobs(*client, invocation.flags.output);
    };
  });
  AddBlobCommand(*blob, invocation, "stat", "Show one blob", StatBlob);
  AddRecipeCommand(*blob, invocation);
  AddVerifyCommand(*blob, invocation);
  AddBlobCommand(*blob, invocation, "evict", "Take a blob out of the store", EvictBlob);
  AddBlobCommand(*blob, invocation, "pin", "Protect a blob from eviction", PinBlob);
  AddBlobCommand(*blob, invocation, "unpin", "End that protection", UnpinBlob);
}

}  // namespace sluice::cli
