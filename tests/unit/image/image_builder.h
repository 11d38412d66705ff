#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "node/image/data_blob_writer.h"
#include "node/image/erofs_writer.h"
#include "node/image/image_tree.h"
#include "node/image/unique_fd.h"
#include "tests/unit/image/layer_entries.h"
#include "tests/unit/image/list_reader.h"
#include "tests/unit/image/temp_tree.h"

namespace sluice {

using Item = ListReader::Item;

inline Item With(LayerEntry entry) {
  return {std::move(entry), {}};
}
inline Item WithBytes(LayerEntry entry, std::string bytes) {
  entry.size = bytes.size();
  return {std::move(entry), {{0, std::move(bytes)}}};
}
// Zeros where no run lies.
inline Item WithRuns(LayerEntry entry, uint64_t size, ListReader::Runs runs) {
  entry.size = size;
  return {std::move(entry), std::move(runs)};
}

// An image made of layers: tree, data blobs in files, bootstrap in a file.
class BuiltImage {
 public:
  BuiltImage(const TempTree& directory, const std::string& name) : prefix_(directory / name) {}

  // The layers in order, then Write.
  void AddLayer(std::vector<Item> items) {
    const std::string path = prefix_ + "-blob" + std::to_string(layers_);
    absl::StatusOr<DataBlobWriter> blob = DataBlobWriter::Open(path, layers_, contents_);
    ASSERT_TRUE(blob.ok()) << blob.status();
    ++layers_;
    tree_.BeginLayer();
    ListReader reader(items);
    LayerEntry entry;
    for (const Item& item : items) {
      ASSERT_TRUE(*reader.Next(entry));
      absl::StatusOr<ContentId> content = ContentId();
      if (entry.kind == EntryKind::kRegular && entry.size > 0) content = blob->Add(reader, entry.size);
      ASSERT_TRUE(content.ok()) << content.status();
      if (!content->empty()) runs_[content->value()] = item.runs;
      ASSERT_EQ(tree_.Apply(entry, *content), absl::OkStatus());
    }
    absl::StatusOr<std::optional<DataBlob>> finished = blob->Finish(std::nullopt);
    ASSERT_TRUE(finished.ok()) << finished.status();
    device_of_layer_.push_back(ErofsSource::kNoDevice);
    if (!finished->has_value()) return;
    device_of_layer_.back() = static_cast<uint32_t>(devices_.size());
    devices_.push_back({(*finished)->recipe.blob, (*finished)->recipe.size});
    paths_.push_back(path);
  }

  void AddEntry(const LayerEntry& entry, ContentId content) {
    ASSERT_EQ(tree_.Apply(entry, content), absl::OkStatus());
  }

  absl::StatusOr<uint64_t> TryWrite() {
    tree_.Finish();
    const UniqueFd file(open(path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const ErofsSource source = {tree_, contents_, devices_, device_of_layer_};
    return WriteErofsImage(source, file.get(), path());
  }
  void Write() {
    const absl::StatusOr<uint64_t> size = TryWrite();
    ASSERT_TRUE(size.ok()) << size.status();
    ASSERT_EQ(std::filesystem::file_size(path()), *size);
  }

  std::string path() const { return prefix_ + "-image"; }
  const std::vector<std::string>& device_paths() const { return paths_; }
  const ImageTree& tree() const { return tree_; }
  ContentTable& contents() { return contents_; }
  uint64_t contents_size(ContentId id) const { return contents_.SizeOf(id); }
  std::vector<ImageDevice>& devices() { return devices_; }
  std::vector<uint32_t>& device_of_layer() { return device_of_layer_; }
  const ListReader::Runs& RunsOf(ContentId id) const { return runs_.at(id.value()); }

 private:
  const std::string prefix_;
  ImageTree tree_;
  ContentTable contents_;
  std::vector<ImageDevice> devices_;
  std::vector<std::string> paths_;
  std::vector<uint32_t> device_of_layer_;
  std::map<uint32_t, ListReader::Runs> runs_;  // by ContentId
  uint32_t layers_ = 0;
};

// A file system image mounted for as long as this lives.
class Mounted {
 public:
  Mounted(const std::string& image, const std::vector<std::string>& devices, const std::string& directory)
      : directory_(directory) {
    std::filesystem::create_directory(directory);
    std::string options;
    for (const std::string& device : devices) options += (options.empty() ? "device=" : ",device=") + device;
    if (mount(image.c_str(), directory.c_str(), "erofs", MS_RDONLY, options.c_str()) != 0) error_ = errno;
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  ~Mounted() {
    if (error_ == 0) umount2(directory_.c_str(), MNT_DETACH);
  }

  int error() const { return error_; }
  std::string operator/(const std::string& name) const { return directory_ + "/" + name; }
  const std::string& path() const { return directory_; }

 private:
  const std::string directory_;
  int error_ = 0;
};

// Linux mounts files as they are from 6.12 on; before that this would need loop devices.
#define SLUICE_REQUIRE_MOUNTED(mounted)                                                                  \
  if ((mounted).error() == ENOTBLK || (mounted).error() == ENODEV) {                                     \
    if (std::getenv("CI") != nullptr) FAIL() << "this kernel can't mount an EROFS image that is a file"; \
    GTEST_SKIP()                                                                                         \
        << "SKIPPED: this kernel can't mount an EROFS image that is a file, nothing of it has been "     \
           "checked";                                                                                    \
  }                                                                                                      \
  ASSERT_EQ((mounted).error(), 0) << strerror((mounted).error())

}  // namespace sluice
