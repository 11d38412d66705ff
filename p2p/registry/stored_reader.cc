#include "p2p/registry/stored_reader.h"

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/frame_decoder.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kPieceBytes = 4 << 20;
constexpr int kResumesMax = 8;  // of a piece, each after at least one more byte came
constexpr Duration kCancelCheck = std::chrono::milliseconds(100);

// A range of the stored bytes that is being read. Its callbacks share it.
class Piece {
 public:
  static std::shared_ptr<Piece> Begin(const StoredReaderParts& parts, const BlobOrigin& origin,
                                      const StoredForm& stored, ByteRange range, Instant deadline) {
    const auto piece = std::make_shared<Piece>();
    piece->control_ = parts.registry.ReadBlobRange(
        origin, stored.digest, stored.size, range, FetchClass::kHint, deadline,
        [piece](OriginAccess access) { piece->access_ = access; },
        [piece](std::span<const std::byte> bytes) {
          piece->bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        },
        [piece](absl::Status status) { piece->done_.set_value(std::move(status)); });
    return piece;
  }

  // Waits for its end; cancelled, it is ended soon.
  absl::Status Wait(const CancelCheck& cancelled) {
    while (result_.wait_for(kCancelCheck) != std::future_status::ready) {
      if (cancelled) Cancel();
    }
    return result_.get();
  }
  void Cancel() {
    if (const auto control = control_.lock()) control->Cancel();
  }

  // REQUIRES: it was waited for
  const std::string& bytes() const { return bytes_; }
  OriginAccess access() const { return access_; }

 private:
  std::string bytes_;
  OriginAccess access_ = OriginAccess::kUnknown;
  std::promise<absl::Status> done_;
  std::future<absl::Status> result_ = done_.get_future();
  std::weak_ptr<FetchControl> control_;
};

// Reads the pieces, with the next one under way while one is worked on.
class Reader {
 public:
  Reader(const StoredReaderParts& parts, const BlobOrigin& origin, const StoredForm& stored,
         const StoredReaderBounds& bounds)
      : parts_(parts), origin_(origin), stored_(stored), bounds_(bounds) {}
  // Nobody waits for what is still under way.
  ~Reader() {
    for (const auto& piece : {current_, next_}) {
      if (piece) piece->Cancel();
    }
  }

  // The next bytes; empty at the end.
  absl::StatusOr<std::string> Next() {
    if (taken_ == stored_.size) return std::string();
    current_ = next_ ? std::exchange(next_, nullptr) : Begin(RangeAt(taken_));
    const ByteRange range = RangeAt(taken_);
    if (range.end() < stored_.size) next_ = Begin(RangeAt(range.end()));
    std::string bytes;
    for (int resumes = 0; true; ++resumes) {
      const absl::Status status = current_->Wait(bounds_.cancelled);
      bytes += current_->bytes();
      access_ = current_->access();
      if (status.ok()) break;
      const bool resume = absl::IsUnavailable(status) && !current_->bytes().empty() && resumes < kResumesMax;
      if (!resume) return status;
      current_ = Begin({range.offset + bytes.size(), range.length - bytes.size()});
    }
    taken_ = range.end();
    return bytes;
  }
  // Of the last piece. REQUIRES: Next() gave one
  OriginAccess access() const { return access_; }

 private:
  ByteRange RangeAt(uint64_t offset) const { return {offset, std::min(kPieceBytes, stored_.size - offset)}; }
  std::shared_ptr<Piece> Begin(ByteRange range) const {
    return Piece::Begin(parts_, origin_, stored_, range, bounds_.deadline);
  }

  const StoredReaderParts& parts_;
  const BlobOrigin& origin_;
  const StoredForm& stored_;
  const StoredReaderBounds& bounds_;
  std::shared_ptr<Piece> current_, next_;
  uint64_t taken_ = 0;
  OriginAccess access_ = OriginAccess::kUnknown;
};

absl::Status In(const BlobOrigin& origin, const Digest& digest, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(digest.ToString(), " at ", origin.registry, "/",
                                                  origin.repository, ": ", status.message()));
}

}  // namespace

absl::Status ReadStored(const StoredReaderParts& parts, const BlobOrigin& origin, const StoredForm& stored,
                        uint64_t plain_size, const StoredReaderBounds& bounds,
                        absl::FunctionRef<void(OriginAccess)> on_access,
                        absl::FunctionRef<absl::Status(std::span<const std::byte>)> out) {
  Reader reader(parts, origin, stored, bounds);
  StreamDecoder decoder(plain_size);
  Sha256 hash;
  const auto take = [&](std::span<const std::byte> plain) {
    parts.telemetry.origin_plain_bytes.Add(plain.size());
    return out(plain);
  };
  while (true) {
    const absl::StatusOr<std::string> bytes = reader.Next();
    if (!bytes.ok()) return bytes.status();
    if (bytes->empty()) break;
    on_access(reader.access());
    hash.Update(std::as_bytes(std::span(*bytes)));
    absl::Status fed = decoder.Feed(std::as_bytes(std::span(*bytes)), take);
    if (absl::IsDataLoss(fed)) return In(origin, stored.digest, fed);
    if (!fed.ok()) return fed;
  }
  if (const Digest got = hash.Finish(); got != stored.digest) {
    return In(origin, stored.digest,
              absl::DataLossError(absl::StrCat("its bytes have digest ", got.ToString())));
  }
  const absl::Status finished = decoder.Finish();
  return finished.ok() ? finished : In(origin, stored.digest, finished);
}

}  // namespace sluice::p2p
