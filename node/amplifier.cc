#include "node/amplifier.h"

#include <algorithm>

namespace sluice {

ChunkSpan Amplifier::Advance(const Blob& blob, ChunkSpan demanded) {
  if (window_bytes_max_ == 0) return {demanded.end(), 0};
  std::vector<Stream>& streams = StreamsOf(blob.digest()).streams;
  const auto continued = std::find_if(streams.begin(), streams.end(), [&](const Stream& s) {
    return demanded.first <= s.ahead_end && demanded.end() >= s.read_end;
  });
  if (continued == streams.end()) {
    if (streams.size() == kStreamsPerBlobMax) streams.erase(streams.begin());
    streams.push_back({demanded.end(), demanded.end(), 0});
    return {demanded.end(), 0};
  }
  std::rotate(continued, continued + 1, streams.end());
  Stream& stream = streams.back();

  // Two readers of one chunk are not a sequence.
  if (demanded.end() == stream.read_end) return {demanded.end(), 0};
  stream.read_end = demanded.end();

  const uint32_t unread =
      stream.ahead_end > demanded.end() ? stream.ahead_end.value() - demanded.end().value() : 0;
  if (unread > stream.window / 2) return {demanded.end(), 0};

  const uint32_t window_max =
      static_cast<uint32_t>(std::max<uint64_t>(1, window_bytes_max_ / blob.geometry().chunk_size()));
  stream.window = std::clamp(stream.window * 2, 1u, window_max);
  const ChunkIndex first = std::max(stream.ahead_end, demanded.end());
  const uint64_t end =
      std::min<uint64_t>(uint64_t{demanded.end().value()} + stream.window, blob.geometry().chunk_count());
  if (end <= first.value()) return {first, 0};
  stream.ahead_end = ChunkIndex(static_cast<uint32_t>(end));
  return {first, stream.ahead_end.value() - first.value()};
}

Amplifier::Streams& Amplifier::StreamsOf(const Digest& digest) {
  auto found = blobs_.find(digest);
  if (found != blobs_.end()) {
    ages_.splice(ages_.end(), ages_, found->second.age);
    return found->second;
  }
  if (blobs_.size() == kBlobsMax) {
    blobs_.erase(ages_.front());
    ages_.pop_front();
  }
  ages_.push_back(digest);
  Streams& streams = blobs_[digest];
  streams.age = std::prev(ages_.end());
  return streams;
}

}  // namespace sluice
