#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/image/layer_limits.h"
#include "node/image/layer_reader.h"
#include "node/image/notices.h"
#include "node/image/unique_fd.h"

namespace sluice {

// A directory on disk as a layer: first itself as ".", then what is in it, names in the order of their bytes,
// each directory before what is in it. The second and every later name of a file is a hard link to the first.
// Holes are no runs. Mounts within the directory belong to it. SELinux labels are left out: the host's policy
// gave them, and the same files would have others elsewhere.
//
// A file that changes while it is read is an error, not a mixture. Needs no more rights than to read what is
// there, and at any time the names of one directory of each level.
class FolderReader final : public LayerReader {
 public:
  // `usage` outlives the reader. Errors: those of open(2).
  static absl::StatusOr<std::unique_ptr<FolderReader>> Open(const std::string& path,
                                                            const LayerLimits& limits, LayerUsage& usage);

  // Errors stay; each names the file. Aborted: a file was changed, moved or removed meanwhile.
  absl::StatusOr<bool> Next(LayerEntry& entry) override;
  absl::StatusOr<bool> NextRun(ContentRun& run) override;

  // What files so far had and was not taken.
  const Notices& notices() const { return notices_; }

 private:
  using FileId = std::pair<dev_t, ino_t>;

  struct Directory {
    UniqueFd fd;  // none while it waits for directories far below it
    FileId id;
    std::vector<std::string> names;
    size_t next = 0;
    size_t path_size = 0;  // of path_, in this directory
  };
  struct FirstName {
    std::string path;
    nlink_t names_left = 0;
  };

  FolderReader(UniqueFd root, const LayerLimits& limits, LayerUsage& usage);

  absl::StatusOr<bool> ReadEntry(LayerEntry& entry);
  absl::Status ReadRoot(LayerEntry& entry);
  absl::Status ReadNamed(const std::string& name, LayerEntry& entry);
  // What `name` is, whose attributes are `stat_`.
  absl::Status Describe(const std::string& name, LayerEntry& entry);
  absl::Status ReadLink(const std::string& name, LayerEntry& entry);
  // Whether another name of the same file was given before.
  bool IsLaterName(LayerEntry& entry);
  absl::Status Enter(UniqueFd directory);
  absl::Status Leave();

  absl::Status OpenFile();
  absl::StatusOr<bool> ReadRun(ContentRun& run);
  absl::Status FindData();
  absl::Status CheckUnchanged() const;
  absl::Status Named(const absl::Status& status) const;

  const LayerLimits limits_;
  LayerUsage& usage_;
  UniqueFd root_;                       // until it was read
  std::vector<Directory> directories_;  // from the root to where it stands
  std::string path_;                    // of the entry last read, or of its directory
  absl::flat_hash_map<FileId, FirstName> first_names_;

  struct stat stat_ {};    // of the entry last read
  std::string file_name_;  // in its directory, if it is a file that has contents; else empty
  UniqueFd file_;          // open once it is read
  uint64_t position_ = 0;  // in it
  uint64_t data_end_ = 0;  // of the run of data that the position lies in
  std::vector<std::byte> buffer_;
  Notices notices_;
  absl::Status status_;
};

}  // namespace sluice
