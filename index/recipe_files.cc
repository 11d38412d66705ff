#include "index/recipe_files.h"

#include <fcntl.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"
#include "index/file_descriptor.h"

namespace sluice::index {
namespace {

// A file is this byte, the SHA-256 of the recipe, and the recipe.
constexpr char kVersion = 1;
constexpr size_t kHeadBytes = 1 + SHA256_DIGEST_LENGTH;

std::string HashOf(std::string_view bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> hash{};
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), hash.data());
  return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

std::string WhatOf(const BlobKey& id) {
  return absl::StrCat("the recipe of ", id.ToString());
}

}  // namespace

absl::StatusOr<std::string> RecipeFiles::Get(const BlobKey& id) {
  const FileDescriptor fd(file_system_.Open(data_dir_.recipes_fd(), id.FileName(), O_RDONLY | O_NONBLOCK));
  if (!fd.valid()) {
    const absl::Status error = DiskError(errno, absl::StrCat("open ", WhatOf(id)));
    return absl::IsNotFound(error) ? error : absl::UnavailableError(error.message());
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return WriteError(errno, absl::StrCat("inspect ", WhatOf(id)));
  const auto size = static_cast<uint64_t>(status.st_size);
  std::string contents;
  if (S_ISREG(status.st_mode) && size >= kHeadBytes && size <= kHeadBytes + kRecipeBytesMax) {
    contents.resize(size);
    const absl::Status read =
        ReadFully(file_system_, fd.get(), 0, std::as_writable_bytes(std::span(contents)));
    if (!read.ok()) return absl::UnavailableError(absl::StrCat("read ", WhatOf(id), ": ", read.message()));
  }
  std::string recipe = contents.size() < kHeadBytes ? std::string() : contents.substr(kHeadBytes);
  if (contents.empty() || contents[0] != kVersion ||
      contents.compare(1, SHA256_DIGEST_LENGTH, HashOf(recipe)) != 0) {
    (void)Remove(id);
    return absl::NotFoundError(absl::StrCat(WhatOf(id), " was damaged on disk and is removed"));
  }
  return recipe;
}

absl::Status RecipeFiles::Put(const BlobKey& id, std::string_view recipe) {
  if (recipe.size() > kRecipeBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(WhatOf(id), " has ", recipe.size(), " bytes, more than ", kRecipeBytesMax));
  }
  std::string contents(1, kVersion);
  contents.append(HashOf(recipe));
  contents.append(recipe);
  std::lock_guard lock(put_mutex_);
  if (file_system_.ReplaceFile(data_dir_.recipes_fd(), id.FileName(), std::as_bytes(std::span(contents))) ==
      0) {
    return absl::OkStatus();
  }
  return WriteError(errno, absl::StrCat("keep ", WhatOf(id)));
}

absl::Status RecipeFiles::Remove(const BlobKey& id) {
  if (file_system_.Unlink(data_dir_.recipes_fd(), id.FileName()) == 0 || errno == ENOENT) {
    return absl::OkStatus();
  }
  return WriteError(errno, absl::StrCat("remove ", WhatOf(id)));
}

absl::Status RecipeFiles::RemoveStrangers(const absl::flat_hash_set<BlobKey>& known) {
  const absl::StatusOr<std::vector<std::string>> names = data_dir_.ListRecipeFiles();
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    const absl::StatusOr<BlobKey> id = BlobKey::ParseFileName(name);
    const bool half_written = !id.ok() && name.ends_with(StoreFileSystem::kFreshSuffix);
    if (id.ok() ? known.contains(*id) : !half_written) continue;
    if (file_system_.Unlink(data_dir_.recipes_fd(), name) != 0 && errno != ENOENT) {
      return WriteError(errno, absl::StrCat("remove ", data_dir_.path(), "/recipes/", name));
    }
  }
  return absl::OkStatus();
}

}  // namespace sluice::index
