#include "node/image/image_builder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/erofs_writer.h"
#include "node/image/file_bytes.h"
#include "node/image/unique_fd.h"
#include "ondemand/erofs_image.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"

namespace sluice {

absl::StatusOr<std::optional<size_t>> ImageBuilder::AddLayer(LayerReader& reader,
                                                             ImageTree::Whiteouts whiteouts) {
  const auto layer = static_cast<uint32_t>(device_of_layer_.size());
  absl::StatusOr<DataBlobWriter> writer =
      DataBlobWriter::Open(absl::StrCat(directory_, "/data-", layer), layer, contents_);
  if (!writer.ok()) return writer.status();
  tree_.BeginLayer(whiteouts);
  if (absl::Status read = ReadEntries(reader, *writer); !read.ok()) return read;
  absl::StatusOr<std::optional<DataBlob>> blob = writer->Finish(chunk_size_);
  if (!blob.ok()) return blob.status();
  if (!*blob) {
    device_of_layer_.push_back(ErofsSource::kNoDevice);
    return std::nullopt;
  }
  const size_t device = Keep(**std::move(blob));
  // ErofsLayout would refuse it too, but only after all layers were fetched and compressed.
  if (device >= ondemand::kErofsDevicesMax) {
    return absl::InvalidArgumentError(absl::StrCat("with it the image has more than ",
                                                   ondemand::kErofsDevicesMax,
                                                   " data blobs, which is what can be mounted"));
  }
  device_of_layer_.push_back(static_cast<uint32_t>(device));
  return device;
}

absl::Status ImageBuilder::ReadEntries(LayerReader& reader, DataBlobWriter& writer) {
  LayerEntry entry;
  while (true) {
    const absl::StatusOr<bool> more = reader.Next(entry);
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    ContentId content;
    if (entry.kind == EntryKind::kRegular) {
      absl::StatusOr<ContentId> added = writer.Add(reader, entry.size);
      if (!added.ok()) return added.status();
      content = *added;
    }
    if (absl::Status applied = tree_.Apply(entry, content); !applied.ok()) return applied;
  }
}

// Of one that is there already, only the first is kept.
size_t ImageBuilder::Keep(DataBlob blob) {
  const auto same = std::find_if(blobs_.begin(), blobs_.end(), [&](const DataBlob& known) {
    return known.recipe.blob == blob.recipe.blob;
  });
  if (same != blobs_.end()) {
    unlink(blob.path.c_str());
    return static_cast<size_t>(same - blobs_.begin());
  }
  blobs_.push_back(std::move(blob));
  return blobs_.size() - 1;
}

absl::StatusOr<Bootstrap> ImageBuilder::Finish() {
  tree_.Finish();
  Bootstrap bootstrap{absl::StrCat(directory_, "/bootstrap"), 0, Digest()};
  const UniqueFd file(open(bootstrap.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(bootstrap.path, " can't be made"));
  std::vector<ImageDevice> devices;
  for (const DataBlob& blob : blobs_) devices.push_back({blob.recipe.blob, blob.recipe.size});
  absl::StatusOr<uint64_t> written =
      WriteErofsImage({tree_, contents_, devices, device_of_layer_}, file.get(), bootstrap.path);
  if (!written.ok()) return written.status();
  bootstrap.size = *written;
  p2p::Sha256 hash;
  absl::Status read = ReadAll(file.get(), bootstrap.path, [&](std::span<const std::byte> bytes) {
    hash.Update(bytes);
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  bootstrap.digest = hash.Finish();
  return bootstrap;
}

}  // namespace sluice
