#include "node/image/erofs_builder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "node/geometry.h"
#include "node/image/subprocess.h"
#include "node/image/unique_fd.h"
#include "ondemand/erofs_image.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

constexpr size_t kReadBytes = 1 << 20;
// Nobody looks a file system of ours up by UUID, and a random one would make each build another image.
constexpr char kUuid[] = "736c7569-6365-4000-8000-000000000000";

absl::Status ReadFile(const std::string& path, absl::FunctionRef<void(std::span<const std::byte>)> on_bytes) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be opened"));
  std::vector<std::byte> buffer(kReadBytes);
  while (true) {
    const ssize_t n = read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be read"));
    if (n == 0) return absl::OkStatus();
    on_bytes({buffer.data(), static_cast<size_t>(n)});
  }
}

absl::StatusOr<uint64_t> FileSize(const std::string& path) {
  struct stat stat;
  if (::stat(path.c_str(), &stat) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be examined"));
  return static_cast<uint64_t>(stat.st_size);
}

absl::Status RunMkfs(const std::string& directory, const std::string& bootstrap, const std::string& blob) {
  // Times stay as they are: -T would give all files the same one, and Python would compile everything again.
  std::vector<std::string> command = {"mkfs.erofs", "--quiet", "-U", kUuid};
  if (!blob.empty()) {
    command.push_back(absl::StrCat("--chunksize=", kDedupeChunkSize));
    command.push_back(absl::StrCat("--blobdev=", blob));
    command.push_back("-Eforce-chunk-indexes");
  }
  command.push_back(bootstrap);
  command.push_back(directory);
  absl::Status run = RunProgram(command);
  if (absl::IsNotFound(run)) return absl::NotFoundError("mkfs.erofs is not installed (package erofs-utils)");
  return run;
}

absl::StatusOr<p2p::Recipe> MakeRecipe(const std::string& path, uint64_t size, uint32_t chunk_size,
                                       ProgressSink& progress) {
  if (absl::Status valid = ChunkGeometry::Validate(size, chunk_size); !valid.ok()) return valid;
  progress.Begin("hashing blob", size);
  p2p::RecipeBuilder builder(chunk_size);
  uint64_t done = 0;
  absl::Status read = ReadFile(path, [&](std::span<const std::byte> bytes) {
    builder.Update(bytes);
    done += bytes.size();
    progress.Advance(done);
  });
  if (!read.ok()) return read;
  return builder.Finish();
}

absl::Status DescribeBootstrap(ErofsImage& image) {
  p2p::Sha256 hash;
  absl::Status read = ReadFile(image.bootstrap_path, [&](std::span<const std::byte> bytes) {
    hash.Update(bytes);
    image.bootstrap_size += bytes.size();
  });
  image.bootstrap_digest = hash.Finish();
  return read;
}

}  // namespace

absl::StatusOr<ErofsImage> BuildErofsImage(const std::string& directory, const std::string& work_directory,
                                           std::optional<uint32_t> chunk_size, ProgressSink& progress) {
  ErofsImage image;
  image.bootstrap_path = work_directory + "/bootstrap";
  const std::string blob_path = work_directory + "/blob";
  progress.Begin("building file system", 0);
  if (absl::Status run = RunMkfs(directory, image.bootstrap_path, blob_path); !run.ok()) return run;
  absl::StatusOr<uint64_t> blob_size = FileSize(blob_path);
  if (!blob_size.ok()) return blob_size.status();

  std::vector<Digest> devices;
  if (*blob_size > 0) {
    absl::StatusOr<p2p::Recipe> recipe = MakeRecipe(
        blob_path, *blob_size, chunk_size.value_or(ChunkGeometry::ChunkSizeFor(*blob_size)), progress);
    if (!recipe.ok()) return recipe.status();
    devices.push_back(recipe->blob);
    image.blob = ErofsImage::Blob{blob_path, *std::move(recipe)};
  } else {
    // An image that names a device can't be mounted without it, and an empty blob can't be one.
    if (absl::Status run = RunMkfs(directory, image.bootstrap_path, ""); !run.ok()) return run;
  }
  if (absl::Status finished = ondemand::FinishErofsImage(image.bootstrap_path, devices); !finished.ok())
    return finished;
  if (absl::Status described = DescribeBootstrap(image); !described.ok()) return described;
  return image;
}

}  // namespace sluice
