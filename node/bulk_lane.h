#pragma once

#include <memory>

#include "node/blob.h"
#include "node/chunk_source.h"

namespace sluice {

// Port: a lane that brings whole blobs by itself, in an order of its own, and hands its chunks to
// ChunkSink::Offer: the swarm. A fill leaves to it what it carries and asks the sources for the rest.
//
// All calls come on the core loop and must not block.
class BulkLane {
 public:
  virtual ~BulkLane() = default;

  // A fill of the blob begins: from now on all of it is wanted. Does nothing with blobs that may not be
  // shared.
  virtual void Join(const std::shared_ptr<Blob>& blob) = 0;
  // The fill has ended, whole or not. The lane may go on giving what is present to others.
  virtual void Leave(const Blob& blob) = 0;

  // Whether the chunk, which is absent, is on its way: somebody whom the lane is connected to has it, and
  // chunks do arrive.
  virtual bool Carries(const Blob& blob, ChunkIndex index) = 0;

  // A chunk has been committed, whichever way it came.
  virtual void Committed(const std::shared_ptr<Blob>& blob, ChunkIndex index) = 0;
};

}  // namespace sluice
