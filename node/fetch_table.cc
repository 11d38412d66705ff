#include "node/fetch_table.h"

namespace sluice {

WantedChunk* FetchTable::Find(const Blob& blob, ChunkIndex index) {
  const auto found = chunks_.find(Key{&blob, index});
  return found == chunks_.end() ? nullptr : &found->second.chunk;
}

FetchTable::Opened FetchTable::Open(const std::shared_ptr<Blob>& blob, ChunkIndex index,
                                    FetchClass fetch_class) {
  const auto [place, is_new] = chunks_.try_emplace(Key{blob.get(), index});
  Held& held = place->second;
  if (is_new) {
    held.blob = blob;
    held.chunk.fetch_class = fetch_class;
    SetGauge();
  }
  return {&held.chunk, is_new};
}

std::optional<WantedChunk> FetchTable::Close(const Blob& blob, ChunkIndex index) {
  const auto found = chunks_.find(Key{&blob, index});
  if (found == chunks_.end()) return std::nullopt;
  std::optional<WantedChunk> chunk = std::move(found->second.chunk);
  chunks_.erase(found);
  SetGauge();
  return chunk;
}

void FetchTable::ForEach(absl::FunctionRef<void(const Blob&, ChunkIndex, const WantedChunk&)> visit) const {
  for (const auto& [key, held] : chunks_) visit(*held.blob, key.second, held.chunk);
}

}  // namespace sluice
