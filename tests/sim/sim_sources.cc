#include "tests/sim/sim_sources.h"

#include <algorithm>
#include <cstring>

namespace sluice::sim {
namespace {

constexpr Duration kDeafMax = std::chrono::seconds(20);  // so long after its deadline a deaf fetch may end

}  // namespace

class SteppedSource::Control final : public FetchControl {
 public:
  void Raise(FetchClass) override {}
  void Cancel() override { cancelled = true; }
  bool cancelled = false;
};

FetchHandle SteppedSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  auto fetch = std::make_shared<UnderWay>();
  fetch->request = std::move(request);
  fetch->on_chunk = std::move(on_chunk);
  fetch->on_done = std::move(on_done);
  fetch->control = std::make_shared<Control>();
  fetch->deaf = random_.Chance(manners.deaf);
  fetch->never_says = random_.Chance(manners.never_says);
  const ChunkSpan chunks = fetch->request.chunks;
  for (ChunkIndex i = chunks.first; i < chunks.end(); i = i.next()) fetch->left.push_back(i);
  under_way_.push_back(fetch);
  if (random_.Chance(manners.at_once)) {
    while (std::find(under_way_.begin(), under_way_.end(), fetch) != under_way_.end()) {
      fetch->never_says = false;
      Advance(fetch);
    }
  }
  return FetchHandle(fetch->control);
}

bool SteppedSource::Step() {
  if (under_way_.empty()) return false;
  const FetchPtr fetch = under_way_[random_.Below(under_way_.size())];
  Advance(fetch);
  return true;
}

void SteppedSource::Advance(const FetchPtr& fetch) {
  if (fetch->control->cancelled && !fetch->deaf) return End(fetch, absl::CancelledError("not wanted"));
  if (fetch->never_says) return;
  if (random_.Chance(manners.fails)) return End(fetch, SomeError());
  if (random_.Chance(manners.strays)) return Stray(*fetch);
  if (fetch->left.empty()) return End(fetch, absl::OkStatus());
  SendNext(*fetch);
}

bool SteppedSource::WorksForNobody() const {
  return std::any_of(under_way_.begin(), under_way_.end(), [](const FetchPtr& fetch) {
    const ChunkSpan chunks = fetch->request.chunks;
    return !fetch->control->cancelled && fetch->left.size() == chunks.count &&
           fetch->request.blob->presence().AllPresent(chunks);
  });
}

void SteppedSource::Expire() {
  for (const FetchPtr& fetch : std::vector<FetchPtr>(under_way_)) {
    const Instant end = fetch->request.deadline + (fetch->deaf ? kDeafMax : Duration());
    if (end <= clock_.Now()) End(fetch, absl::DeadlineExceededError("late"));
  }
}

void SteppedSource::SendNext(UnderWay& fetch) {
  const size_t next = random_.Below(fetch.left.size());
  const ChunkIndex index = fetch.left[next];
  fetch.left.erase(fetch.left.begin() + static_cast<std::ptrdiff_t>(next));
  Send(fetch, index);
}

void SteppedSource::Send(UnderWay& fetch, ChunkIndex index) {
  const Sample& sample = samples_.at(fetch.request.blob->digest());
  const ByteRange range = sample.geometry().RangeOf(index);
  const auto bytes = random_.Chance(manners.lies) ? sample.Wrong(range) : sample.Right(range);
  Buffer buffer(bytes.size());
  std::memcpy(buffer.data(), bytes.data(), bytes.size());
  fetch.request.progress->Add(bytes.size());
  fetch.on_chunk(index, std::move(buffer), SenderId{1});
}

void SteppedSource::Stray(UnderWay& fetch) {
  const uint32_t count = fetch.request.blob->geometry().chunk_count();
  const ChunkIndex index(static_cast<uint32_t>(random_.Below(count)));
  if (random_.Chance(70)) {
    std::erase(fetch.left, index);
    return Send(fetch, index);
  }
  Buffer buffer(random_.Below(2 * kChunkSizeMin));
  std::memset(buffer.data(), 0, buffer.size());
  // Of the right length by chance, it would be a lie, which is another matter.
  if (buffer.size() != fetch.request.blob->geometry().RangeOf(index).length)
    fetch.on_chunk(index, std::move(buffer), SenderId{1});
}

void SteppedSource::End(const FetchPtr& fetch, absl::Status status) {
  std::erase(under_way_, fetch);
  std::move(fetch->on_done)(std::move(status));
}

absl::Status SteppedSource::SomeError() {
  switch (random_.Below(5)) {
    case 0:
      return absl::NotFoundError("lacks it");
    case 1:
      return absl::PermissionDeniedError("will not give it");
    case 2:
      return absl::DataLossError("sent what it should not have");
    case 3:
      return absl::FailedPreconditionError("will not be asked like this");
    default:
      return absl::UnavailableError("passes");
  }
}

void SteppedDirectory::Change(const Digest& digest) {
  Offered& offered = sources_[random_.Below(sources_.size())];
  offered.there = !offered.there;
  if (on_changed_ && random_.Chance(80)) on_changed_(digest);
}

void SteppedDirectory::Offers(const Blob& blob, ChunkSpan, FetchClass, Asker asker, const Grant&,
                              std::vector<SourceOffer>* offers) {
  for (size_t i = 0; i < sources_.size(); ++i) {
    const auto& [rank, source, there] = sources_[i];
    if (!there || (asker == Asker::kPeer && rank < SourceRank::kHolder)) continue;
    offers->push_back({static_cast<SourceId>(i), rank, source, blob.geometry().All()});
  }
}

}  // namespace sluice::sim
