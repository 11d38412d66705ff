#include "node/amplifier.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace sluice {

// The streams of one blob, the least recently continued first.
class Amplifier::Streams final : public WorkSource {
 public:
  explicit Streams(const std::shared_ptr<Blob>& blob) : blob_(blob), geometry_(blob->geometry()) {}

  // Whether it is this very blob's: another may have its address by now.
  bool IsOf(const std::shared_ptr<Blob>& blob) const { return blob_.lock() == blob; }

  // Whether there is something to fetch ahead.
  bool Advance(ChunkSpan demanded, uint64_t window_bytes_max) {
    const auto continued = std::find_if(streams_.begin(), streams_.end(), [&](const Stream& s) {
      return demanded.first <= s.ahead_end && demanded.end() >= s.read_end;
    });
    if (continued == streams_.end()) {
      if (streams_.size() == kStreamsPerBlobMax) streams_.erase(streams_.begin());
      streams_.push_back({demanded.end(), demanded.end(), demanded.end(), 0});
      return false;
    }
    std::rotate(continued, continued + 1, streams_.end());
    Stream& stream = streams_.back();

    // Two readers of one chunk are not a sequence.
    if (demanded.end() == stream.read_end) return false;
    stream.read_end = demanded.end();

    const uint32_t unread =
        stream.ahead_end > demanded.end() ? stream.ahead_end.value() - demanded.end().value() : 0;
    if (unread > stream.window / 2) return false;

    const auto window_max =
        static_cast<uint32_t>(std::max<uint64_t>(1, window_bytes_max / geometry_.chunk_size()));
    stream.window = std::clamp(stream.window * 2, 1u, window_max);
    const uint64_t end =
        std::min<uint64_t>(uint64_t{demanded.end().value()} + stream.window, geometry_.chunk_count());
    stream.ahead_end = std::max(stream.ahead_end, ChunkIndex(static_cast<uint32_t>(end)));
    return FirstOf(stream) < stream.ahead_end;
  }

  std::optional<ChunkSpan> Next(uint32_t count_max, Instant) override {
    const std::shared_ptr<Blob> blob = blob_.lock();
    if (!blob) return std::nullopt;
    for (auto stream = streams_.rbegin(); stream != streams_.rend(); ++stream) {
      const ChunkIndex first = FirstOf(*stream);
      if (first >= stream->ahead_end) continue;
      const ChunkSpan left{first, stream->ahead_end.value() - first.value()};
      const ChunkSpan absent = blob->presence().FirstAbsent(left, count_max);
      stream->asked_end = absent.end();
      if (absent.count > 0) return absent;
    }
    return std::nullopt;
  }

  // Who reads it later asks for it anew.
  void Ended(ChunkSpan, const absl::Status&) override {}

 private:
  struct Stream {
    ChunkIndex read_end;   // one past the last chunk demanded
    ChunkIndex ahead_end;  // one past the last chunk wanted ahead
    ChunkIndex asked_end;  // one past the last chunk asked for
    uint32_t window = 0;   // chunks
  };

  static ChunkIndex FirstOf(const Stream& stream) { return std::max(stream.asked_end, stream.read_end); }

  const std::weak_ptr<Blob> blob_;  // an idle stream keeps nothing
  const ChunkGeometry geometry_;
  std::vector<Stream> streams_;
};

std::shared_ptr<WorkSource> Amplifier::Advance(const std::shared_ptr<Blob>& blob, ChunkSpan demanded) {
  if (window_bytes_max_ == 0) return nullptr;
  const std::shared_ptr<Streams>& streams = StreamsOf(blob);
  return streams->Advance(demanded, window_bytes_max_) ? streams : nullptr;
}

const std::shared_ptr<Amplifier::Streams>& Amplifier::StreamsOf(const std::shared_ptr<Blob>& blob) {
  const auto found = blobs_.find(blob.get());
  if (found != blobs_.end()) {
    if (!found->second.streams->IsOf(blob)) found->second.streams = std::make_shared<Streams>(blob);
    ages_.splice(ages_.end(), ages_, found->second.age);
    return found->second.streams;
  }
  if (blobs_.size() == kBlobsMax) {
    blobs_.erase(ages_.front());
    ages_.pop_front();
  }
  ages_.push_back(blob.get());
  Held& held = blobs_[blob.get()];
  held.age = std::prev(ages_.end());
  held.streams = std::make_shared<Streams>(blob);
  return held.streams;
}

}  // namespace sluice
