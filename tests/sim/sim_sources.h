#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "node/chunk_source.h"
#include "node/source_directory.h"
#include "tests/sim/executors.h"
#include "tests/sim/random.h"
#include "tests/sim/samples.h"

namespace sluice::sim {

// How a source is, in percent of what it does.
struct Manners {
  int fails = 0;       // an error, with what was not sent yet left out
  int lies = 0;        // wrong bytes
  int strays = 0;      // a chunk that was not asked for, twice, or of a wrong length
  int deaf = 0;        // of its fetches: neither cancels nor deadlines end them, or only much later
  int at_once = 0;     // of its fetches: answered before Fetch returns
  int never_says = 0;  // of its fetches: nothing comes before the deadline
};

// A source that does a step of a fetch when the simulation says so.
class SteppedSource final : public ChunkSource {
 public:
  SteppedSource(SourceKind kind, const Manners& the_manners, const Samples& samples,
                const VirtualClock& clock, Random& random)
      : manners(the_manners), kind_(kind), samples_(samples), clock_(clock), random_(random) {}

  Manners manners;

  SourceKind kind() const override { return kind_; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  void Judge(SenderId, const Blob&, ChunkIndex, Verdict) override {}

  // Does something for one of the fetches under way; returns whether there is one.
  bool Step();
  // Whether a fetch goes on of which nothing has been sent and all is present already.
  bool WorksForNobody() const;
  // Ends what is past its deadline.
  void Expire();
  // Forgets all fetches, as a process that dies does.
  void Die() { under_way_.clear(); }

 private:
  class Control;
  struct UnderWay {
    FetchRequest request;
    OnChunk on_chunk;
    OnDone on_done;
    std::shared_ptr<Control> control;
    std::vector<ChunkIndex> left;
    bool deaf = false;
    bool never_says = false;
  };
  using FetchPtr = std::shared_ptr<UnderWay>;

  void Advance(const FetchPtr& fetch);
  void SendNext(UnderWay& fetch);
  void Stray(UnderWay& fetch);
  void Send(UnderWay& fetch, ChunkIndex index);
  void End(const FetchPtr& fetch, absl::Status status);
  absl::Status SomeError();

  const SourceKind kind_;
  const Samples& samples_;
  const VirtualClock& clock_;
  Random& random_;
  std::vector<FetchPtr> under_way_;
};

// Sources that come and go.
class SteppedDirectory final : public SourceDirectory {
 public:
  explicit SteppedDirectory(Random& random) : random_(random) {}

  void Add(SourceRank rank, std::shared_ptr<SteppedSource> source) {
    sources_.push_back({rank, std::move(source), true});
  }
  const std::shared_ptr<SteppedSource>& Any() const {
    return sources_[random_.Below(sources_.size())].source;
  }
  template <typename Do>
  void ForEach(const Do& act) const {
    for (const Offered& offered : sources_) act(*offered.source);
  }
  // One of them comes or goes; says so, sometimes.
  void Change(const Digest& digest);
  void OfferAll() {
    for (Offered& offered : sources_) offered.there = true;
  }

  void Offers(const Blob& blob, ChunkSpan, FetchClass, Asker asker, const Grant&,
              std::vector<SourceOffer>* offers) override;
  void OnOffersChanged(absl::AnyInvocable<void(const Digest&)> on_changed) override {
    on_changed_ = std::move(on_changed);
  }

 private:
  struct Offered {
    SourceRank rank;
    std::shared_ptr<SteppedSource> source;
    bool there;
  };
  Random& random_;
  std::vector<Offered> sources_;
  absl::AnyInvocable<void(const Digest&)> on_changed_;
};

}  // namespace sluice::sim
