#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"

namespace sluice::api {

// Reads that had to wait, and what their waits went into, one after the other: the parts make up at most the
// whole.
struct WaitedReads {
  uint64_t reads = 0;
  uint64_t bytes = 0;
  Duration waited{};
  Duration queued{};      // nobody had been asked yet: no slot was free, or another source had failed
  Duration answer{};      // asked for, and nothing had come
  Duration wire{};        // coming
  Duration verified{};    // held against their recipes
  Duration stored{};      // written, and told
  uint64_t foreseen = 0;  // of the reads: what they waited for last had been asked for ahead of them
};

// What a start touched for the first time, by how it was found; in bytes of chunks, each once.
struct TouchedBytes {
  uint64_t here = 0;       // was there when it was mounted
  uint64_t profile = 0;    // was there in time, as earlier starts had read it
  uint64_t readahead = 0;  // was there in time, as what came before it had been read
  uint64_t hint = 0;       // was there in time by a hint
  uint64_t fill = 0;       // was there in time by a fill in the background
  uint64_t other = 0;      // was there in time by somebody else: another mount or node, the swarm
  uint64_t waited = 0;     // was not there: a reader waited
  uint64_t late = 0;       // of that: had been asked for ahead of the reader, and came after it
};

// Why a mount's start took as long as it did: where the time went, and what was foreseen.
// What had to be there before an image could be mounted, and how long it was waited for, one after the other.
struct PrepareTimes {
  Duration blobs{};      // registered, and the right to them shown
  Duration bootstrap{};  // asked for at the same time
  Duration recipes{};    // what proves the blobs' chunks: how much longer than the bootstrap it took
  uint32_t recipe_round_trips = 0;
};

struct StartReport {
  std::string reference;
  Digest manifest;
  std::string mount_point;

  // Until it was mounted, one after the other. Round trips are documents that were asked for in a row.
  Duration resolve{};  // its manifest
  uint32_t resolve_round_trips = 0;
  PrepareTimes prepared = {};
  Duration mounting{};

  // From then on, while the start was watched.
  Duration watched{};  // so far, from the mount on
  bool over = false;   // nothing is added any more
  Duration waiting{};  // part of that in which at least one reader waited
  std::array<WaitedReads, kSourceKindCount>
      waited{};         // by source; index with static_cast<size_t>(SourceKind)
  uint64_t failed = 0;  // reads

  TouchedBytes touched = {};
  // Whether every touch of what is present is seen; else those that were not waited for may be more.
  bool sees_present = false;
};

struct ImageStarts {
  std::vector<StartReport> known;    // in the order of mount points
  std::vector<std::string> unknown;  // mount points that this daemon has not made, but taken over
};

}  // namespace sluice::api
