#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/admin_backend.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/digest.h"
#include "node/geometry.h"

namespace sluice {

// Port: who looks at what mounts read.
//
// Thread-safe; must not block on the network, nor call the mounter from within.
class MountObserver {
 public:
  virtual ~MountObserver() = default;

  // An image of that repository is about to be prepared.
  virtual void Resolved(const BlobOrigin& origin, const Digest& manifest) = 0;
  // Its blobs are leased, in the order of the image's, and may be read; it is to be mounted when its
  // bootstrap is there. `reference` is where it came from.
  virtual void Preparing(const std::string& mount_point, const std::string& reference, const Digest& manifest,
                         const std::vector<std::shared_ptr<Blob>>& blobs, api::StartRecording recording) = 0;
  // It is not mounted, or not any more. No-op if it was not told of the mount.
  virtual void Unmounted(const std::string& mount_point) = 0;
  // A reader waits for absent bytes.
  virtual void Demanded(const BlobKey& key, ByteRange range) = 0;
  // Whether it wants to see all reads of the blob: then none are to pass unasked. What has become whole
  // meanwhile it tells of by itself.
  virtual bool Watches(const BlobKey& key) = 0;
};

}  // namespace sluice
