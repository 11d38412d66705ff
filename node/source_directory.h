#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/geometry.h"

namespace sluice {

// What a source is to a chunk; sources of a lower rank are asked first.
enum class SourceRank {
  kZoneHome,       // it fetches the chunk from other zones for all of this one
  kHome,           // it fetches the chunk for everybody
  kHedge,          // may have it, and is asked for nothing more while the home is late
  kHolder,         // has it
  kStandIn,        // fetches it in place of a home that is silent or has failed
  kSecondStandIn,  // the same when that one has, too
  kLateHolder,     // has it, and is asked when those that fetch it are silent or have failed
  kOrigin,         // the registry, and this node is one of those that may ask it
  kLastResort,     // the registry, within a budget
};
// Whether it may wait for what it asks of others, so that two nodes could wait for each other. Those that
// have it let only nodes wait that come after them: see ReadMode.
constexpr bool MayWaitForOthers(SourceRank rank) {
  return rank == SourceRank::kZoneHome || rank == SourceRank::kHome || rank == SourceRank::kStandIn ||
         rank == SourceRank::kSecondStandIn;
}

// Whether that asker may wait for what was asked of a source of that rank, by whose right ever.
constexpr bool MayAwait(Asker asker, SourceRank rank) {
  if (asker < Asker::kZone) return true;
  return asker == Asker::kZone ? rank != SourceRank::kZoneHome : !MayWaitForOthers(rank);
}

// Names a source for as long as its directory lives.
enum class SourceId : uint32_t {};

struct SourceOffer {
  SourceId id{};
  SourceRank rank = SourceRank::kOrigin;
  std::shared_ptr<ChunkSource> source;
  ChunkSpan has;  // what it may be asked for; not empty
};

// Port: who can be asked for which chunks. Implemented by p2p/.
//
// All calls come on the core loop and must not block.
class SourceDirectory {
 public:
  virtual ~SourceDirectory() = default;

  // Adds who may be asked for chunks of the span, in any order; their `has` may reach beyond it. Only those
  // that the asker may wait for: for Asker::kPeer, those that need no other node's fetch.
  virtual void Offers(const Blob& blob, ChunkSpan span, FetchClass fetch_class, Asker asker,
                      const Grant& grant, std::vector<SourceOffer>* offers) = 0;

  // Whether somebody has sent the chunk wrong, and it is not known yet who is to blame: then the registry is
  // asked before all others.
  virtual bool IsInDoubt(const Blob&, ChunkIndex) const { return false; }

  // In which order a fill of the span goes about it: its parts, each once.
  virtual std::vector<ChunkSpan> FillOrder(const Blob&, ChunkSpan span) { return {span}; }

  // `on_changed` is called with a blob that somebody else can be asked for now; on any thread, until it is
  // replaced or the directory goes. An empty one ends it: after the call returns none comes any more.
  virtual void OnOffersChanged(absl::AnyInvocable<void(const Digest&)> on_changed) = 0;
};

// The same sources for every chunk, asked in the order of their ranks. Owns none of them.
class FixedSources final : public SourceDirectory {
 public:
  struct Source {
    SourceRank rank;
    ChunkSource* source;  // outlives the directory and what it has given out
  };
  explicit FixedSources(const std::vector<Source>& sources) {
    for (const Source& source : sources)
      sources_.push_back({source.rank, {std::shared_ptr<void>(), source.source}});
  }

  void Offers(const Blob& blob, ChunkSpan, FetchClass, Asker asker, const Grant&,
              std::vector<SourceOffer>* offers) override {
    for (size_t i = 0; i < sources_.size(); ++i) {
      const auto& [rank, source] = sources_[i];
      if (asker == Asker::kPeer && rank < SourceRank::kHolder) continue;
      if (!MayAwait(asker, rank)) continue;
      offers->push_back({static_cast<SourceId>(i), rank, source, blob.geometry().All()});
    }
  }
  void OnOffersChanged(absl::AnyInvocable<void(const Digest&)>) override {}

 private:
  std::vector<std::pair<SourceRank, std::shared_ptr<ChunkSource>>> sources_;
};

}  // namespace sluice
