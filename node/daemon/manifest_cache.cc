#include "node/daemon/manifest_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "index/file_descriptor.h"
#include "index/store_file_system.h"
#include "node/daemon/file_stamp.h"
#include "node/wall_clock.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr uintmax_t kFileBytesMax = 64 << 20;
constexpr int64_t kLongAgo = 1;  // what was written before this was kept

absl::Status WriteStamped(const std::string& path, json root) {
  const index::FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
  if (!file.valid()) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  root["file"] = StampOf(file.get());
  const std::string text = root.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  index::StoreFileSystem& disk = index::StoreFileSystem::Real();
  return index::WriteFully(disk, file.get(), 0, std::as_bytes(std::span(text)));
}

int64_t PublicAt(const p2p::FetchedManifest& manifest) {
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(manifest.public_age);
  return std::max(SystemWallClockMs() - age.count(), kLongAgo);
}

// By a clock that was set back it was found out in what is to come.
Duration AgeOf(int64_t public_at_ms) {
  const int64_t age_ms = SystemWallClockMs() - public_at_ms;
  if (age_ms < 0) return AccessLedger::kLongAgo;
  return std::min<Duration>(std::chrono::milliseconds(age_ms), AccessLedger::kLongAgo);
}

}  // namespace

std::string ManifestCache::PathOf(const p2p::ImageReference& reference) const {
  return absl::StrCat(folder_, "/", p2p::Sha256::Of(reference.ToString()).Hex(), ".json");
}

absl::Status ManifestCache::Put(const p2p::ImageReference& reference, const p2p::FetchedManifest& manifest,
                                int64_t public_at_ms) {
  static std::atomic<uint64_t> written{0};
  std::error_code error;
  // Not those above it: a data directory that was moved away is not made anew.
  std::filesystem::create_directory(folder_, error);
  const std::string path = PathOf(reference);
  const std::string fresh = absl::StrCat(path, ".", getpid(), "-", written.fetch_add(1));
  json root = {{"version", kVersion},
               {"reference", reference.ToString()},
               {"mediaType", manifest.media_type},
               {"digest", manifest.digest.ToString()},
               {"public", IsPublic(manifest.access)},
               {"publicAtMs", public_at_ms ? public_at_ms : PublicAt(manifest)},
               {"body", manifest.body}};
  if (absl::Status kept = WriteStamped(fresh, root); !kept.ok()) {
    std::filesystem::remove(fresh, error);
    return kept;
  }
  // Not synced: one that a crash damages does not match its digest, and is fetched again.
  std::filesystem::rename(fresh, path, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot replace ", path, ": ", error.message()));
  if (++count_ > kManifestsMax) RemoveOldest();
  return absl::OkStatus();
}

void ManifestCache::RemoveOldest() {
  std::error_code error;
  std::vector<std::filesystem::directory_entry> files;
  for (const auto& file : std::filesystem::directory_iterator(folder_, error)) files.push_back(file);
  count_ = std::min(files.size(), kManifestsMax);
  if (files.size() <= kManifestsMax) return;
  const auto older = [](const auto& a, const auto& b) {
    std::error_code ignored;
    return a.last_write_time(ignored) < b.last_write_time(ignored);
  };
  std::sort(files.begin(), files.end(), older);
  for (size_t i = 0; i < files.size() - kManifestsMax; ++i) std::filesystem::remove(files[i].path(), error);
}

absl::StatusOr<p2p::FetchedManifest> ManifestCache::Get(const p2p::ImageReference& reference) const {
  absl::StatusOr<Kept> kept = Find(reference);
  if (!kept.ok()) return kept.status();
  return std::move(kept->manifest);
}

absl::StatusOr<ManifestCache::Kept> ManifestCache::Find(const p2p::ImageReference& reference) const {
  const std::string path = PathOf(reference);
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat(reference.ToString(), " was not mounted here before"));
  if (size > kFileBytesMax) return absl::DataLossError(absl::StrCat(path, " is too large for a manifest"));
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  try {
    const json root = json::parse(text);
    const index::FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.valid() && !HasStamp(file.get(), root.value("file", json())))
      return absl::NotFoundError(absl::StrCat("what ", path, " says is of another moment: it is a copy"));
    p2p::FetchedManifest manifest{
        root.at("mediaType").get<std::string>(), root.at("body").get<std::string>(), {}, {}};
    manifest.digest = p2p::Sha256::Of(manifest.body);
    // What was written before this was kept says nothing.
    const bool is_public = root.value("public", false);
    manifest.access = is_public ? OriginAccess::kPublic : OriginAccess::kUnknown;
    if (root.at("version").get<int>() == kVersion &&
        root.at("reference").get<std::string>() == reference.ToString() &&
        root.at("digest").get<std::string>() == manifest.digest.ToString()) {
      const int64_t public_at_ms = root.value("publicAtMs", kLongAgo);
      manifest.public_age = AgeOf(public_at_ms);
      return Kept{std::move(manifest), public_at_ms};
    }
  } catch (const std::exception&) {
    // Damaged, as below.
  }
  return absl::DataLossError(absl::StrCat(path, " is damaged"));
}

}  // namespace sluice
