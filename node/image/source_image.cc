#include "node/image/source_image.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/file_bytes.h"
#include "node/image/unique_fd.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/image_choice.h"

namespace sluice {
namespace {

constexpr uint64_t kRangeBytes = 32 << 20;
constexpr std::chrono::minutes kRangeTimeout{10};  // the client gives up sooner on a source that drips
constexpr int kResumesMax = 3;                     // of a blob whose download broke off

// Receives a blob in order. Lives as long as the request that fills it.
class BlobFile {
 public:
  explicit BlobFile(const std::string& path)
      : path_(path), file_(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {
    if (!file_.valid()) status_ = absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be made"));
  }

  void Append(std::span<const std::byte> bytes) {
    hash_.Update(bytes);
    if (!status_.ok()) return;
    status_ = WriteAll(file_.get(), bytes, path_);
    if (status_.ok()) size_ += bytes.size();
  }

  uint64_t size() const { return size_; }
  const absl::Status& status() const { return status_; }
  Digest Finish() { return hash_.Finish(); }

 private:
  const std::string path_;
  const UniqueFd file_;
  p2p::Sha256 hash_;
  uint64_t size_ = 0;
  absl::Status status_;
};

absl::Status DownloadRange(p2p::RegistryClient& registry, const BlobOrigin& origin,
                           const p2p::Descriptor& blob, ByteRange range, BlobFile& file,
                           DownloadWatcher& watcher) {
  std::promise<absl::Status> done;
  watcher.on_request(registry.ReadBlobRange(
      origin, blob.digest, blob.size, range, FetchClass::kDemand,
      std::chrono::steady_clock::now() + kRangeTimeout, [](OriginAccess) {},
      [&](std::span<const std::byte> bytes) {
        file.Append(bytes);
        watcher.on_bytes(file.size());
      },
      [&](absl::Status status) { done.set_value(std::move(status)); }));
  absl::Status status = done.get_future().get();
  return file.status().ok() ? status : file.status();
}

}  // namespace

absl::StatusOr<RemoteImage> ResolveRemoteImage(p2p::RegistryClient& registry,
                                               const p2p::ImageReference& reference,
                                               const p2p::Platform& platform) {
  const std::vector<std::string> accept = {
      std::string(p2p::media_type::kOciManifest), std::string(p2p::media_type::kOciIndex),
      std::string(p2p::media_type::kDockerManifest), std::string(p2p::media_type::kDockerManifestList)};
  const auto fetch = [&](const std::string& name) {
    return registry.FetchManifest(reference.origin, name, accept);
  };
  const auto manifest = [&](const Digest& digest) { return fetch(digest.ToString()); };
  const auto config = [&](const p2p::Descriptor& blob) {
    return registry.FetchWholeBlob(reference.origin, blob.digest, p2p::kManifestBytesMax);
  };
  absl::StatusOr<p2p::FetchedManifest> root = fetch(reference.ManifestName());
  if (!root.ok()) return root.status();
  absl::StatusOr<p2p::ChosenImage> chosen =
      p2p::ChooseImage(*std::move(root), platform, {.manifest = manifest, .config = config});
  if (!chosen.ok()) {
    return absl::Status(chosen.status().code(),
                        absl::StrCat(reference.ToString(), ": ", chosen.status().message()));
  }
  return RemoteImage{reference, chosen->fetched.digest, std::move(chosen->manifest),
                     std::move(chosen->fetched.body)};
}

absl::Status DownloadBlob(p2p::RegistryClient& registry, const BlobOrigin& origin,
                          const p2p::Descriptor& blob, const std::string& path, DownloadWatcher watcher) {
  BlobFile file(path);
  if (!file.status().ok()) return file.status();
  int resumes = 0;
  while (file.size() < blob.size) {
    const ByteRange range{file.size(), std::min(kRangeBytes, blob.size - file.size())};
    absl::Status status = DownloadRange(registry, origin, blob, range, file, watcher);
    if (!file.status().ok()) return file.status();
    if (status.ok()) continue;
    if (!absl::IsUnavailable(status) || ++resumes > kResumesMax) return status;
  }
  if (const Digest digest = file.Finish(); digest != blob.digest) {
    return absl::DataLossError(absl::StrCat("blob ", blob.digest.ToString(), " of ", origin.registry, "/",
                                            origin.repository, " has the digest ", digest.ToString()));
  }
  return absl::OkStatus();
}

}  // namespace sluice
