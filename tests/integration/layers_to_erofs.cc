// usage: layers_to_erofs DIRECTORY LAYER.tar...
//
// Makes an image of layers, lowest first, as the library does: its bootstrap into DIRECTORY/image, the data
// blobs beside it. Prints the blobs' paths in the order of the device table, and what was left out. If an
// entry is refused: exit status 3, with the message and the numbers of layer and entry, counted from 0.

#include <fcntl.h>

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/image/byte_stream.h"
#include "node/image/data_blob_writer.h"
#include "node/image/erofs_writer.h"
#include "node/image/image_tree.h"
#include "node/image/tar_reader.h"
#include "node/image/unique_fd.h"

namespace sluice {
namespace {

constexpr int kRefused = 3;

class Image {
 public:
  explicit Image(std::string directory) : directory_(std::move(directory)) {}

  absl::Status AddLayer(const std::string& path) {
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    FileStream bytes(file.get());
    TarReader reader(bytes, limits_, usage_);
    const auto layer = static_cast<uint32_t>(device_of_layer_.size());
    const std::string blob_path = absl::StrCat(directory_, "/blob", layer);
    absl::StatusOr<DataBlobWriter> blob = DataBlobWriter::Open(blob_path, layer, contents_);
    if (!blob.ok()) return blob.status();
    tree_.BeginLayer();
    if (absl::Status applied = Apply(reader, *blob); !applied.ok()) return applied;
    absl::StatusOr<std::optional<DataBlob>> finished = blob->Finish(std::nullopt);
    if (!finished.ok()) return finished.status();
    device_of_layer_.push_back(finished->has_value() ? static_cast<uint32_t>(devices_.size())
                                                     : ErofsSource::kNoDevice);
    if (!finished->has_value()) return absl::OkStatus();
    devices_.push_back({(*finished)->recipe.blob, (*finished)->recipe.size});
    std::printf("%s\n", blob_path.c_str());
    return absl::OkStatus();
  }

  absl::Status Write() {
    tree_.Finish();
    const std::string path = directory_ + "/image";
    const UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    return WriteErofsImage({tree_, contents_, devices_, device_of_layer_}, file.get(), path).status();
  }

  void PrintNotices() const {
    for (size_t i = 0; i < kNoticeKinds; ++i) {
      const Notices::Notice& notice = tree_.notices().Of(static_cast<NoticeKind>(i));
      if (notice.count == 0) continue;
      const std::string text(NoticeText(static_cast<NoticeKind>(i)));
      std::fprintf(stderr, "%s: %llu, first %s\n", text.c_str(),
                   static_cast<unsigned long long>(notice.count), notice.first.c_str());
    }
  }

  size_t layers() const { return device_of_layer_.size(); }
  size_t entry() const { return entry_; }

 private:
  absl::Status Apply(TarReader& reader, DataBlobWriter& blob) {
    LayerEntry entry;
    for (entry_ = 0;; ++entry_) {
      absl::StatusOr<bool> more = reader.Next(entry);
      if (!more.ok()) return more.status();
      if (!*more) return absl::OkStatus();
      absl::StatusOr<ContentId> content = ContentId();
      if (entry.kind == EntryKind::kRegular && entry.size > 0) content = blob.Add(reader, entry.size);
      if (!content.ok()) return content.status();
      if (absl::Status applied = tree_.Apply(entry, *content); !applied.ok()) return applied;
    }
  }

  const std::string directory_;
  const LayerLimits limits_;
  LayerUsage usage_;
  ImageTree tree_;
  ContentTable contents_;
  std::vector<ImageDevice> devices_;
  std::vector<uint32_t> device_of_layer_;
  size_t entry_ = 0;  // of the layer under way
};

int Run(const std::string& directory, const std::vector<std::string>& layers) {
  Image image(directory);
  for (const std::string& layer : layers) {
    if (absl::Status added = image.AddLayer(layer); !added.ok()) {
      std::fprintf(stderr, "%zu %zu %s\n", image.layers(), image.entry(), added.ToString().c_str());
      return kRefused;
    }
  }
  if (absl::Status written = image.Write(); !written.ok()) {
    std::fprintf(stderr, "%s\n", written.ToString().c_str());
    return 1;
  }
  image.PrintNotices();
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  return sluice::Run(argv[1], std::vector<std::string>(argv + 2, argv + argc));
}
