#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "node/image/erofs_layout.h"

namespace sluice {

// Writes the metadata of an image, its bootstrap, to an open file, from the file's position on and from front
// to back: an EROFS image whose contents lie in its devices. A function of the source alone. The device table
// names each device by the 64 hexadecimal digits of its digest. Mounts from Linux 5.16 on. Gives the image's
// size, a multiple of kBlockBytes.
//
// `path` names the file in messages. The file is not synced. Blocks. Errors: InvalidArgument (more devices
// than can be mounted, contents that no device has), ResourceExhausted (over what EROFS can count, or no room
// left), and those of writing. What is in the file after an error is no image.
// Source of the format: Linux fs/erofs/erofs_fs.h, Documentation/filesystems/erofs.rst.
absl::StatusOr<uint64_t> WriteErofsImage(const ErofsSource& source, int file, const std::string& path);

}  // namespace sluice
