#include "index/index_db.h"

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

absl::Status Damaged(const absl::Status& status) {
  return absl::DataLossError(status.message());
}

template <typename Visit>
absl::Status VisitBlob(const absl::StatusOr<BlobKey>& id, absl::StatusOr<BlobRecord> record,
                       const Visit& visit) {
  if (!id.ok()) return Damaged(id.status());
  if (!record.ok()) return Damaged(record.status());
  return visit(*id, *std::move(record));
}

template <typename Visit>
absl::Status VisitSegment(const absl::StatusOr<SegmentName>& name,
                          const absl::StatusOr<PresenceSegment>& segment, const Visit& visit) {
  if (!name.ok()) return Damaged(name.status());
  if (!segment.ok()) return Damaged(segment.status());
  return visit(name->id, name->segment, *segment);
}

}  // namespace

void IndexBatch::PutBlob(const BlobKey& id, const BlobRecord& record) {
  changes_.push_back({Change::Kind::kPut, RecordKey(id), EncodeBlobRecord(record)});
}

void IndexBatch::PutSegment(const BlobKey& id, SegmentIndex segment, const PresenceSegment& value) {
  if (value.present.empty()) {
    changes_.push_back({Change::Kind::kDelete, SegmentKey(id, segment), {}});
  } else {
    changes_.push_back({Change::Kind::kPut, SegmentKey(id, segment), EncodeSegment(value)});
  }
}

void IndexBatch::DeleteSegments(const BlobKey& id, const ChunkGeometry& geometry) {
  for (uint32_t i = 0; i < SegmentIndex::CountIn(geometry); ++i) {
    changes_.push_back({Change::Kind::kDelete, SegmentKey(id, SegmentIndex(i)), {}});
  }
}

void IndexBatch::DeleteBlob(const BlobKey& id, const ChunkGeometry& geometry) {
  DeleteSegments(id, geometry);
  changes_.push_back({Change::Kind::kDelete, RecordKey(id), {}});
}

void IndexBatch::DeleteEarlier() {
  for (std::string& prefix : EarlierPrefixes()) {
    std::string end = prefix;
    ++end.back();
    changes_.push_back({Change::Kind::kDeleteRange, std::move(prefix), std::move(end)});
  }
}

absl::StatusOr<IndexContents> LoadIndex(IndexDb& db, const IndexVisitor& visitor) {
  IndexContents contents = IndexContents::kCurrent;
  const absl::Status scanned = db.Scan([&](std::string_view key, std::string_view value) -> absl::Status {
    switch (KindOf(key)) {
      case KeyKind::kBlob:
        return VisitBlob(DecodeRecordKey(key), DecodeBlobRecord(value), visitor.on_blob);
      case KeyKind::kSegment:
        return VisitSegment(DecodeSegmentKey(key), DecodeSegment(value), visitor.on_segment);
      case KeyKind::kEarlierBlob:
        contents = IndexContents::kEarlier;
        return VisitBlob(DecodeEarlierRecordKey(key), DecodeEarlierBlobRecord(value), visitor.on_blob);
      case KeyKind::kEarlierOther:
        contents = IndexContents::kEarlier;
        return absl::OkStatus();
      case KeyKind::kUnknown:
        break;
    }
    return absl::DataLossError("index: a key that no version known here has");
  });
  if (!scanned.ok()) return scanned;
  return contents;
}

}  // namespace sluice::index
