#include "tests/sim/index_rows.h"

#include "index/index_codec.h"

namespace sluice::sim {

using index::IndexBatch;

void Apply(const IndexBatch& batch, Rows* rows) {
  for (const IndexBatch::Change& change : batch.changes()) {
    switch (change.kind) {
      case IndexBatch::Change::Kind::kPut:
        (*rows)[change.key] = change.value;
        break;
      case IndexBatch::Change::Kind::kDelete:
        rows->erase(change.key);
        break;
      case IndexBatch::Change::Kind::kDeleteRange:
        rows->erase(rows->lower_bound(change.key), rows->lower_bound(change.value));
        break;
    }
  }
}

bool Claims(const Rows& rows, const Digest& digest, ChunkIndex chunk, uint64_t inode) {
  const BlobKey id(digest);
  const auto record = rows.find(index::RecordKey(id));
  if (record == rows.end()) return false;
  const auto known = index::DecodeBlobRecord(record->second);
  if (!known.ok() || !known->file || known->file->inode != inode) return false;
  const auto row = rows.find(index::SegmentKey(id, index::SegmentIndex::Of(chunk)));
  if (row == rows.end()) return false;
  const auto segment = index::DecodeSegment(row->second);
  return segment.ok() && segment->present.Has(ChunkIndex(chunk.value() % index::kSegmentChunks));
}

}  // namespace sluice::sim
