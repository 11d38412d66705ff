#include "node/fetch_table.h"

#include <cstdlib>

namespace sluice {

WantedChunk* FetchTable::Find(const Blob& blob, ChunkIndex index) {
  const auto found = chunks_.find(Key{&blob, index});
  return found == chunks_.end() ? nullptr : &found->second.chunk;
}

WantedChunk& FetchTable::Open(const std::shared_ptr<Blob>& blob, ChunkIndex index, FetchClass fetch_class) {
  const auto [place, inserted] = chunks_.try_emplace(Key{blob.get(), index});
  if (!inserted) std::abort();  // a chunk stands here twice: single flight is broken
  place->second.blob = blob;
  place->second.chunk.fetch_class = fetch_class;
  return place->second.chunk;
}

WantedChunk FetchTable::Close(const Blob& blob, ChunkIndex index) {
  const auto found = chunks_.find(Key{&blob, index});
  if (found == chunks_.end()) std::abort();
  WantedChunk chunk = std::move(found->second.chunk);
  chunks_.erase(found);
  return chunk;
}

}  // namespace sluice
