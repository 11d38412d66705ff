#include "node/daemon/profile_store.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice {

std::string ProfileStore::PathOf(const Digest& manifest) const {
  return absl::StrCat(folder_, "/", manifest.Hex(), ".json");
}

absl::StatusOr<p2p::KeptProfile> ProfileStore::Get(const Digest& manifest) const {
  std::ifstream in(PathOf(manifest), std::ios::binary);
  std::string text(p2p::kProfileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(in.gcount(), 0)));
  std::optional<p2p::KeptProfile> kept = p2p::ParseKept(text);
  if (kept && kept->manifest == manifest) return *std::move(kept);
  return absl::NotFoundError(absl::StrCat("no start of ", manifest.ToString(), " is known"));
}

absl::StatusOr<bool> ProfileStore::Merge(const p2p::StartRecord& record) {
  const std::lock_guard lock(mutex_);
  p2p::KeptProfile kept;
  if (absl::StatusOr<p2p::KeptProfile> known = Get(record.manifest); known.ok()) kept = *std::move(known);
  if (!kept.Merge(record)) return false;
  const absl::Status put = Put(kept);
  if (!put.ok()) return put;
  return true;
}

absl::Status ProfileStore::Offer(const p2p::KeptProfile& profile) {
  const std::lock_guard lock(mutex_);
  const absl::StatusOr<p2p::KeptProfile> known = Get(profile.manifest);
  if (known.ok() && known->profile.runs >= profile.profile.runs) return absl::OkStatus();
  return Put(profile);
}

absl::Status ProfileStore::Replace(const p2p::KeptProfile& profile) {
  const std::lock_guard lock(mutex_);
  return Put(profile);
}

// REQUIRES: mutex_ is held
absl::Status ProfileStore::Put(const p2p::KeptProfile& profile) {
  std::error_code error;
  // Not those above it: a data directory that was moved away is not made anew.
  std::filesystem::create_directory(folder_, error);
  const std::string path = PathOf(profile.manifest), fresh = path + ".new";
  {
    std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
    out << p2p::FormatKept(profile) << "\n";
    out.flush();
    if (!out) {
      std::filesystem::remove(fresh, error);
      return absl::UnavailableError(absl::StrCat("cannot write ", fresh));
    }
  }
  const bool is_new = !std::filesystem::exists(path, error);
  // Not synced: one that a crash damages is no profile, and made anew.
  std::filesystem::rename(fresh, path, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot replace ", path, ": ", error.message()));
  if (is_new && ++count_ > kProfilesMax) RemoveOldest();
  return absl::OkStatus();
}

// REQUIRES: mutex_ is held
void ProfileStore::RemoveOldest() {
  std::error_code error;
  std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> files;
  for (const auto& file : std::filesystem::directory_iterator(folder_, error)) {
    std::error_code ignored;
    files.emplace_back(file.last_write_time(ignored), file.path());
  }
  std::sort(files.begin(), files.end());
  count_ = std::min(files.size(), kProfilesMax);
  for (size_t i = 0; i + kProfilesMax < files.size(); ++i) std::filesystem::remove(files[i].second, error);
}

}  // namespace sluice
