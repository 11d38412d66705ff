// usage: layers_to_erofs DIRECTORY LAYER.tar...
//
// Makes an image of layers, lowest first, as the library does: its bootstrap into DIRECTORY/image, the data
// blobs beside it. An entry that is refused is left out, and all is made again without it. Prints the blobs'
// paths in the order of the device table; to standard error the entries that were left out, a line each:
// numbers of layer and entry, counted from 0, and the message.

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <set>
#include <string>
#include <utility>
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

using EntryNumber = std::pair<size_t, size_t>;  // layer, entry

class Image {
 public:
  Image(std::string directory, const std::set<EntryNumber>& left_out)
      : directory_(std::move(directory)), left_out_(left_out) {}

  absl::Status AddLayer(const std::string& path) {
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    FileStream bytes(file.get());
    TarReader reader(bytes, limits_, usage_);
    const auto layer = static_cast<uint32_t>(device_of_layer_.size());
    const std::string blob_path = absl::StrCat(directory_, "/blob", layer);
    unlink(blob_path.c_str());  // of the attempt before
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
    device_paths_.push_back(blob_path);
    return absl::OkStatus();
  }

  absl::Status Write() {
    tree_.Finish();
    const std::string path = directory_ + "/image";
    const UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    return WriteErofsImage({tree_, contents_, devices_, device_of_layer_}, file.get(), path).status();
  }

  const std::vector<std::string>& device_paths() const { return device_paths_; }
  EntryNumber entry() const { return {device_of_layer_.size(), entry_}; }

 private:
  absl::Status Apply(TarReader& reader, DataBlobWriter& blob) {
    LayerEntry entry;
    for (entry_ = 0;; ++entry_) {
      absl::StatusOr<bool> more = reader.Next(entry);
      if (!more.ok()) return more.status();
      if (!*more) return absl::OkStatus();
      if (left_out_.contains({device_of_layer_.size(), entry_})) continue;
      absl::StatusOr<ContentId> content = ContentId();
      if (entry.kind == EntryKind::kRegular && entry.size > 0) content = blob.Add(reader, entry.size);
      if (!content.ok()) return content.status();
      if (absl::Status applied = tree_.Apply(entry, *content); !applied.ok()) return applied;
    }
  }

  const std::string directory_;
  const std::set<EntryNumber>& left_out_;
  const LayerLimits limits_;
  LayerUsage usage_;
  ImageTree tree_;
  ContentTable contents_;
  std::vector<ImageDevice> devices_;
  std::vector<std::string> device_paths_;
  std::vector<uint32_t> device_of_layer_;
  size_t entry_ = 0;  // of the layer under way
};

absl::Status AddLayers(Image& image, const std::vector<std::string>& layers) {
  for (const std::string& layer : layers) {
    if (absl::Status added = image.AddLayer(layer); !added.ok()) return added;
  }
  return absl::OkStatus();
}

int Run(const std::string& directory, const std::vector<std::string>& layers) {
  std::set<EntryNumber> left_out;
  while (true) {
    Image image(directory, left_out);
    if (absl::Status added = AddLayers(image, layers); !added.ok()) {
      const auto [layer, entry] = image.entry();
      std::fprintf(stderr, "%zu %zu %s\n", layer, entry, added.ToString().c_str());
      if (!left_out.insert(image.entry()).second) return 1;  // of the layer itself
      continue;
    }
    if (absl::Status written = image.Write(); !written.ok()) {
      std::fprintf(stderr, "%s\n", written.ToString().c_str());
      return 1;
    }
    for (const std::string& path : image.device_paths()) std::printf("%s\n", path.c_str());
    return 0;
  }
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  return sluice::Run(argv[1], std::vector<std::string>(argv + 2, argv + argc));
}
