#include "node/amplifier.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"

namespace sluice {
namespace {

// The chunks that follow one another in a stream are `step` apart, which may be negative.
struct Stream {
  explicit Stream(ChunkSpan demanded) : last(demanded) {}

  bool is_lone() const { return step == 0; }
  bool is_strided() const { return step != 0 && step != 1 && step != -1; }
  int64_t At(uint32_t position) const { return next + int64_t{position} * step; }
  // How many positions there are from the next on.
  uint32_t InBlob(uint32_t chunk_count) const {
    const int64_t room = step > 0 ? int64_t{chunk_count} - 1 - next : next;
    return room < 0 ? 0 : static_cast<uint32_t>(room / std::abs(step) + 1);
  }

  ChunkSpan last;       // the last demand
  Instant continued{};  // when it came
  int64_t step = 0;     // 0 while there was one demand only
  int64_t next = 0;     // the chunk that follows
  uint32_t wanted = 0;  // positions wanted ahead, from the next on
  uint32_t asked = 0;   // positions of these that were asked for, or present
  uint32_t window = 0;  // positions
  uint32_t run = 0;     // positions read
  uint32_t extras = 0;  // chunks that were asked for behind the only demand
  bool is_new = true;
};

int64_t FirstOf(ChunkSpan span) {
  return span.first.value();
}
int64_t EndOf(ChunkSpan span) {
  return span.end().value();
}

// How many positions of the stream the demand has read, 0 if those before were read again; nothing if it is
// not the stream's.
std::optional<uint32_t> PositionsRead(const Stream& stream, ChunkSpan demanded) {
  const int64_t first = FirstOf(demanded), end = EndOf(demanded), wanted = stream.wanted;
  if (stream.step == 1) {
    if (first > stream.next + wanted || end < stream.next) return std::nullopt;
    return static_cast<uint32_t>(end - stream.next);
  }
  if (stream.step == -1) {
    if (end <= stream.next - wanted || first > stream.next + 1) return std::nullopt;
    return static_cast<uint32_t>(stream.next + 1 - first);
  }
  const int64_t distance = first - stream.next;
  if (distance % stream.step != 0) return std::nullopt;
  const int64_t position = distance / stream.step;
  if (position < -1 || position > wanted) return std::nullopt;
  return static_cast<uint32_t>(position + 1);
}

// The same of a stream of one demand, which gets its direction by the second.
std::optional<uint32_t> SecondRead(Stream& stream, ChunkSpan demanded) {
  const int64_t first = FirstOf(demanded), end = EndOf(demanded);
  const int64_t last_first = FirstOf(stream.last), last_end = EndOf(stream.last);
  if (first >= last_first && end <= last_end) return 0;  // two readers of one chunk are not a sequence
  // What was asked for behind it may have been read unseen.
  if (first >= last_first && first <= last_end + stream.extras) {
    stream.step = 1;
    stream.next = last_end;
    return static_cast<uint32_t>(end - last_end);
  }
  if (end >= last_first && end <= last_end) {
    stream.step = -1;
    stream.next = last_first - 1;
    return static_cast<uint32_t>(last_first - first);
  }
  return std::nullopt;
}

}  // namespace

// The streams of one blob, the least recently continued first.
class Amplifier::Streams final : public WorkSource {
 public:
  Streams(const std::shared_ptr<Blob>& blob, Options options, Telemetry& telemetry)
      : blob_(blob),
        geometry_(blob->geometry()),
        is_adaptive_(options.mode == ReadaheadMode::kAdaptive),
        window_max_(
            static_cast<uint32_t>(std::max<uint64_t>(1, options.window_bytes_max / geometry_.chunk_size()))),
        telemetry_(telemetry) {}

  // Whether it is this very blob's: another may have its address by now.
  bool IsOf(const std::shared_ptr<Blob>& blob) const { return blob_.lock() == blob; }

  // Whether there is something to fetch ahead.
  bool Advance(ChunkSpan demanded, Instant now, absl::FunctionRef<uint32_t()> per_trip) {
    GiveUpIdle(now);
    Earn(kForDemand * demanded.count);
    for (ChunkIndex index = demanded.first; index < demanded.end(); index = index.next())
      Used(index, kForUse);
    Stream& stream = Continue(demanded, now);
    if (stream.is_lone()) return std::exchange(stream.is_new, false) && AskForExtras(stream, per_trip);
    Widen(stream, per_trip);
    return stream.asked < stream.wanted && ChunksAffordable() > 0;
  }

  void Touched(const ChunkSet& touched) {
    const auto end = ChunkIndex(std::min(touched.chunk_count(), geometry_.chunk_count()));
    for (ChunkIndex at = touched.NextSet({ChunkIndex(0), end.value()}); at < end;
         at = touched.NextSet({at.next(), end.value() - at.value() - 1}))
      Used(at, kForUse);
  }

  // All that it still has unjudged is unread.
  void GiveUp() {
    for (const uint32_t index : std::exchange(extras_, {})) CountUnread(ChunkIndex(index));
    wanted_extras_.clear();
    for (const uint32_t index : std::exchange(unjudged_, {})) CountUnread(ChunkIndex(index));
    streams_.clear();
  }

  std::optional<ChunkSpan> Next(uint32_t count_max, Instant) override {
    const std::shared_ptr<Blob> blob = blob_.lock();
    if (!blob) return std::nullopt;
    if (const ChunkSpan extras = NextExtras(blob->presence(), count_max); extras.count > 0) return extras;
    const uint32_t affordable = std::min(count_max, ChunksAffordable());
    if (affordable == 0) return std::nullopt;
    for (auto stream = streams_.rbegin(); stream != streams_.rend(); ++stream) {
      const ChunkSpan absent = stream->is_strided() ? NextStride(*stream, blob->presence(), affordable)
                                                    : NextInRow(*stream, blob->presence(), affordable);
      if (absent.count == 0) continue;
      for (ChunkIndex index = absent.first; index < absent.end(); index = index.next())
        unjudged_.insert(index.value());
      credit_ -= kCreditPerChunk * absent.count;
      return absent;
    }
    return std::nullopt;
  }

  // Who reads it later asks for it anew. What did not come was not wasted.
  void Ended(ChunkSpan span, const absl::Status& status) override {
    if (status.ok()) {
      telemetry_.readahead_bytes[static_cast<size_t>(ReadaheadResult::kFetched)].Add(
          geometry_.RangeOf(span).length);
      return;
    }
    for (ChunkIndex index = span.first; index < span.end(); index = index.next()) {
      if (unjudged_.erase(index.value())) Earn(kCreditPerChunk);
      if (extras_.erase(index.value())) --extras_asked_;
    }
  }

 private:
  bool AskForExtras(Stream& stream, absl::FunctionRef<uint32_t()> per_trip) {
    if (!is_adaptive_ || extras_asked_ >= kExtrasTrust + 2 * extras_used_) return false;
    const uint32_t behind = geometry_.chunk_count() - stream.last.end().value();
    stream.extras = std::min({per_trip(), kExtrasMax, behind});
    if (stream.extras == 0) return false;
    if (wanted_extras_.size() == kStreamsPerBlobMax) wanted_extras_.erase(wanted_extras_.begin());
    wanted_extras_.push_back({stream.last.end(), stream.extras});
    return true;
  }

  // The newest first: a reader waits just before them.
  ChunkSpan NextExtras(const PresenceMap& presence, uint32_t count_max) {
    while (!wanted_extras_.empty()) {
      ChunkSpan left = wanted_extras_.back();
      wanted_extras_.pop_back();
      while (left.count > 0 && !IsWantedAnew(presence, left.first.value()))
        left = left.From(left.first.next());
      ChunkSpan asked{left.first, 0};
      while (asked.count < std::min(left.count, count_max) && IsWantedAnew(presence, asked.end().value()))
        extras_.insert(asked.end().value()), ++asked.count;
      if (asked.count == 0) continue;
      if (asked.count < left.count) wanted_extras_.push_back(left.From(asked.end()));
      extras_asked_ += asked.count;
      return asked;
    }
    return {};
  }

  bool IsWantedAnew(const PresenceMap& presence, int64_t index) const {
    return !presence.IsPresent(ChunkIndex(static_cast<uint32_t>(index))) &&
           !unjudged_.contains(static_cast<uint32_t>(index)) &&
           !extras_.contains(static_cast<uint32_t>(index));
  }

  ChunkSpan NextInRow(Stream& stream, const PresenceMap& presence, uint32_t count_max) {
    while (stream.asked < stream.wanted && !IsWantedAnew(presence, stream.At(stream.asked))) ++stream.asked;
    const uint32_t begin = stream.asked;
    while (stream.asked < stream.wanted && stream.asked - begin < count_max &&
           IsWantedAnew(presence, stream.At(stream.asked)))
      ++stream.asked;
    if (stream.asked == begin) return {};
    // A small rest is no request of its own: it is asked for with what follows.
    if (stream.wanted - stream.asked <= stream.window / 4) stream.wanted = stream.asked;
    const int64_t lowest = std::min(stream.At(begin), stream.At(stream.asked - 1));
    return {ChunkIndex(static_cast<uint32_t>(lowest)), stream.asked - begin};
  }

  ChunkSpan NextStride(Stream& stream, const PresenceMap& presence, uint32_t count_max) {
    while (stream.asked < stream.wanted) {
      const auto first = static_cast<uint32_t>(stream.At(stream.asked++));
      const uint32_t width = std::min({stream.last.count, count_max, geometry_.chunk_count() - first});
      if (!IsWantedAnew(presence, first)) continue;
      return presence.FirstAbsent({ChunkIndex(first), width}, count_max);
    }
    return {};
  }

  // The stream that the demand continues, or one that it begins.
  Stream& Continue(ChunkSpan demanded, Instant now) {
    for (auto stream = streams_.begin(); stream != streams_.end(); ++stream) {
      const std::optional<uint32_t> read =
          stream->is_lone() ? SecondRead(*stream, demanded) : PositionsRead(*stream, demanded);
      if (!read) continue;
      for (ChunkIndex passed = stream->last.end(); stream->extras > 0 && passed < demanded.first;
           passed = passed.next())
        Used(passed, kForUse);
      if (!stream->is_lone()) stream->extras = 0;
      std::rotate(stream, stream + 1, streams_.end());
      streams_.back().continued = now;
      Read(streams_.back(), *read, demanded);
      return streams_.back();
    }
    const std::optional<Stream> strided = FindStride(demanded);
    Begin(Stream(demanded), now);
    if (strided) Begin(*strided, now);
    return streams_.back();
  }

  void Begin(Stream stream, Instant now) {
    if (streams_.size() == kStreamsPerBlobMax) GiveUpFirst();
    stream.continued = now;
    streams_.push_back(stream);
  }

  // The stream of the last three of equal distances, of which the demand is the third; null if there are
  // none. They stay: each may be the first of a stream of its own.
  std::optional<Stream> FindStride(ChunkSpan demanded) const {
    for (auto middle = streams_.begin(); middle != streams_.end(); ++middle) {
      const int64_t step = FirstOf(demanded) - FirstOf(middle->last);
      if (!middle->is_lone() || std::abs(step) <= demanded.count) continue;
      const bool found = std::any_of(streams_.begin(), middle, [&](const Stream& first) {
        return first.is_lone() && FirstOf(middle->last) - FirstOf(first.last) == step;
      });
      if (!found) continue;
      Stream stream(demanded);
      stream.step = step;
      stream.next = FirstOf(demanded) + step;
      stream.run = 3;
      return stream;
    }
    return std::nullopt;
  }

  // Positions that were passed unseen count as read: see above.
  void Read(Stream& stream, uint32_t positions, ChunkSpan demanded) {
    if (positions == 0) return;
    const bool is_long = stream.run >= kLongRun;
    ForAsked(stream, std::min(positions, stream.asked),
             [&](ChunkIndex index) { Used(index, is_long ? kForLongUse : kForUse); });
    if (is_long) Earn(kForLongDemand * positions);
    stream.next = stream.At(positions);
    stream.wanted -= std::min(stream.wanted, positions);
    stream.asked -= std::min(stream.asked, positions);
    stream.run += std::min(positions, UINT32_MAX - stream.run);
    stream.last = demanded;
  }

  void Widen(Stream& stream, absl::FunctionRef<uint32_t()> per_trip) {
    if (stream.wanted > stream.window / 2) return;
    if (stream.window >= window_max_ && stream.wanted > LeftForNext(stream.window, per_trip)) return;
    uint32_t window = is_adaptive_ ? std::clamp(stream.window * 2, 1u, window_max_) : window_max_;
    // Wider than can be paid for, it would only be found too wide later.
    if (is_adaptive_) window = std::min(window, stream.asked + ChunksAffordable());
    stream.window = window;
    const uint32_t in_blob = stream.InBlob(geometry_.chunk_count());
    stream.wanted = std::min(std::max(stream.wanted, window), in_blob);
    stream.asked = std::min(stream.asked, stream.wanted);
  }

  // One that can't grow any more is asked for in long runs, the next when so much of the last is still to
  // come. Where that is more than its source needs to answer, the two share the way meanwhile, and each has
  // learnt to send half as fast when it is alone again.
  static uint32_t LeftForNext(uint32_t window, absl::FunctionRef<uint32_t()> per_trip) {
    const uint32_t most = window / 8 * 3, least = window / 8;
    const uint32_t trip = per_trip();
    return trip == 0 ? most : std::clamp(2 * trip + 2, least, most);
  }

  template <typename Visit>
  void ForAsked(const Stream& stream, uint32_t positions, Visit visit) {
    const uint32_t width = stream.is_strided() ? stream.last.count : 1;
    for (uint32_t position = 0; position < positions; ++position) {
      for (uint32_t i = 0; i < width; ++i) visit(ChunkIndex(static_cast<uint32_t>(stream.At(position)) + i));
    }
  }

  void GiveUpFirst() {
    const Stream stream = streams_.front();
    streams_.erase(streams_.begin());
    ForAsked(stream, stream.asked, [&](ChunkIndex index) {
      if (unjudged_.erase(index.value())) CountUnread(index);
    });
  }

  void GiveUpIdle(Instant now) {
    while (!streams_.empty() && now - streams_.front().continued > kIdleMax) GiveUpFirst();
  }

  void Used(ChunkIndex index, int64_t on_top) {
    if (extras_.erase(index.value())) {
      ++extras_used_;
    } else if (unjudged_.erase(index.value())) {
      Earn(kCreditPerChunk + on_top);
    } else {
      return;
    }
    telemetry_.readahead_bytes[static_cast<size_t>(ReadaheadResult::kUsed)].Add(
        geometry_.RangeOf(index).length);
  }

  void CountUnread(ChunkIndex index) {
    telemetry_.readahead_bytes[static_cast<size_t>(ReadaheadResult::kUnread)].Add(
        geometry_.RangeOf(index).length);
  }

  // What earlier streams have earned is no reason to waste more than two windows.
  void Earn(int64_t credit) {
    credit_ = std::min(credit_ + credit, std::max(kFirstCredit, 2 * window_max_ * kCreditPerChunk));
  }

  uint32_t ChunksAffordable() const {
    return is_adaptive_ ? static_cast<uint32_t>(std::max<int64_t>(0, credit_) / kCreditPerChunk) : UINT32_MAX;
  }

  const std::weak_ptr<Blob> blob_;  // an idle stream keeps nothing
  const ChunkGeometry geometry_;
  const bool is_adaptive_;
  const uint32_t window_max_;  // chunks
  Telemetry& telemetry_;
  std::vector<Stream> streams_;
  absl::flat_hash_set<uint32_t> unjudged_;  // asked for ahead, and neither used nor given up
  int64_t credit_ = kFirstCredit;
  std::vector<ChunkSpan> wanted_extras_;  // behind demands, the newest last
  absl::flat_hash_set<uint32_t> extras_;  // asked for, and not used
  uint32_t extras_asked_ = 0, extras_used_ = 0;
};

std::shared_ptr<WorkSource> Amplifier::Advance(const std::shared_ptr<Blob>& blob, ChunkSpan demanded,
                                               Instant now, absl::FunctionRef<uint32_t()> per_trip) {
  if (options_.mode == ReadaheadMode::kOff || options_.window_bytes_max == 0) return nullptr;
  const std::shared_ptr<Streams>& streams = StreamsOf(blob);
  return streams->Advance(demanded, now, per_trip) ? streams : nullptr;
}

void Amplifier::Touched(const std::shared_ptr<Blob>& blob, const ChunkSet& touched) {
  const auto found = blobs_.find(blob.get());
  if (found != blobs_.end() && found->second.streams->IsOf(blob)) found->second.streams->Touched(touched);
}

const std::shared_ptr<Amplifier::Streams>& Amplifier::StreamsOf(const std::shared_ptr<Blob>& blob) {
  const auto found = blobs_.find(blob.get());
  if (found != blobs_.end()) {
    if (!found->second.streams->IsOf(blob)) {
      found->second.streams->GiveUp();
      found->second.streams = NewStreams(blob);
    }
    ages_.splice(ages_.end(), ages_, found->second.age);
    return found->second.streams;
  }
  if (blobs_.size() == kBlobsMax) {
    const auto oldest = blobs_.find(ages_.front());
    oldest->second.streams->GiveUp();
    blobs_.erase(oldest);
    ages_.pop_front();
  }
  ages_.push_back(blob.get());
  Held& held = blobs_[blob.get()];
  held.age = std::prev(ages_.end());
  held.streams = NewStreams(blob);
  return held.streams;
}

std::shared_ptr<Amplifier::Streams> Amplifier::NewStreams(const std::shared_ptr<Blob>& blob) const {
  return std::make_shared<Streams>(blob, options_, telemetry_);
}

}  // namespace sluice
