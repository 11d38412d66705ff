#include "index/file_room.h"

#include <algorithm>

namespace sluice::index {
namespace {

// The run that `index` goes on with: chunks back to the last gap that is too wide, none of them too far away
// to matter.
struct Run {
  uint32_t present = 0;  // chunks
  ChunkIndex last;       // of those
};

Run RunBefore(const ChunkGeometry& geometry, const PresenceMap& map, ChunkIndex index) {
  const auto reach =
      static_cast<uint32_t>(std::max<uint64_t>(FileRoom::kAheadBytesMax / geometry.chunk_size(), 1));
  Run run;
  uint32_t gap = 0;
  for (uint32_t back = 1; back <= index.value() && gap <= FileRoom::kRunGapChunksMax && run.present < reach;
       ++back) {
    const ChunkIndex before(index.value() - back);
    if (!map.IsPresent(before)) {
      ++gap;
      continue;
    }
    gap = 0;
    if (run.present++ == 0) run.last = before;
  }
  return run;
}

uint64_t BytesOf(const ChunkGeometry& geometry, ChunkSpan span) {
  return span.count == 0 ? 0 : geometry.RangeOf(span).length;
}

}  // namespace

ChunkSpan FileRoom::Plan(const ChunkGeometry& geometry, const PresenceMap& present, ChunkIndex index) {
  if (reserved_.chunk_count() == 0) reserved_ = ChunkSet(geometry.chunk_count());
  if (reserved_.Has(index)) return {index, 0};
  ChunkSpan plan{index, 1};
  if (const Run run = RunBefore(geometry, present, index); run.present > 0) {
    const ChunkIndex first = run.last.next();
    const uint32_t with_gap = index.value() - first.value() + 1;
    const uint32_t end = std::min(index.value() + 1 + (run.present - 1), geometry.chunk_count());
    const uint64_t present_bytes = uint64_t{present.present_count() + 1} * geometry.chunk_size();
    const uint64_t limit = present_bytes * kAllocatedEighths / 8;
    const uint64_t taken = allocated_bytes_ + planned_bytes_;
    const uint64_t chunks = limit > taken ? (limit - taken) / geometry.chunk_size() : 0;
    const auto fit = static_cast<uint32_t>(std::min<uint64_t>(chunks, end - first.value()));
    if (fit >= with_gap) plan = {first, fit};
  }
  reserved_.Add(plan);
  planned_bytes_ += BytesOf(geometry, plan);
  return plan;
}

void FileRoom::Reserved(const ChunkGeometry& geometry, ChunkSpan planned) {
  planned_bytes_ -= BytesOf(geometry, planned);
  allocated_bytes_ += BytesOf(geometry, planned);
}

void FileRoom::Failed(const ChunkGeometry& geometry, ChunkSpan planned) {
  planned_bytes_ -= BytesOf(geometry, planned);
  if (reserved_.chunk_count() != 0) reserved_.Remove(planned);
}

void FileRoom::Clear() {
  reserved_ = ChunkSet();
  allocated_bytes_ = 0;
}

}  // namespace sluice::index
