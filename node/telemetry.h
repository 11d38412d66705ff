#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice {

// A number that only grows. Thread-safe.
class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// A number that goes up and down. Thread-safe.
class Gauge {
 public:
  void Set(int64_t n) { value_.store(n, std::memory_order_relaxed); }
  void Add(int64_t n) { value_.fetch_add(n, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// Counts durations in fixed buckets. Thread-safe; a reader may see one observation's parts apart.
class DurationHistogram {
 public:
  // Upper bounds in seconds; what is longer falls into a last, unbounded bucket.
  static constexpr std::array<double, 14> kBounds = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                                     0.025,  0.05,    0.1,    0.25,  1,      5,     30};
  void Observe(Duration duration) {
    const double seconds = std::chrono::duration<double>(duration).count();
    size_t bucket = 0;
    while (bucket < kBounds.size() && seconds > kBounds[bucket]) ++bucket;
    counts_[bucket].Add();
    sum_ns_.Add(static_cast<uint64_t>(duration.count()));
  }
  // Observations in bucket `i` alone (not cumulated); i == kBounds.size() is the unbounded one.
  uint64_t count(size_t i) const { return counts_[i].value(); }
  double sum_seconds() const { return static_cast<double>(sum_ns_.value()) * 1e-9; }

 private:
  std::array<Counter, kBounds.size() + 1> counts_;
  Counter sum_ns_;
};

// How bytes travel between nodes: ranged HTTP requests, or BitTorrent.
enum class PeerLane { kExpress, kSwarm };
inline constexpr int kPeerLaneCount = 2;

// What another node asks this one to be: the one that gets a chunk for everybody, one that gives what is
// here, or the one that gets it from other zones for all of its own.
enum class PeerRole { kHome, kPresentOnly, kZoneHome };
inline constexpr int kPeerRoleCount = 3;

// How another node's request was answered.
enum class PeerAnswer { kServed, kAbsent, kBusy, kRefused };
inline constexpr int kPeerAnswerCount = 4;

// What is known of another node: it answered last, it was not asked yet, it is silent, or only its address is
// known.
enum class MemberState { kAlive, kNotAsked, kSilent, kUnnamed };
inline constexpr int kMemberStateCount = 4;

// Why another is asked to fetch a chunk in place of one who was asked before.
enum class TakeoverReason { kSilent, kStalled, kFailed };
inline constexpr int kTakeoverReasonCount = 3;

// How a container runtime's request to the mirror was answered.
enum class MirrorResult { kServed, kAbsent, kChallenged, kNoCredentials, kDenied, kBusy, kMalformed };
inline constexpr int kMirrorResultCount = 7;

// What came of asking a second source beside one that was late: it brought something first, the other did,
// or it has failed, or has not got it.
enum class HedgeResult { kWon, kLost, kFailed };
inline constexpr int kHedgeResultCount = 3;

// Why a member is banned: it sent wrong bytes that it said it had verified; or that it had not, and named
// nobody whom it had them from; or another had them from it.
enum class BanReason { kVerified, kUnverified, kPassedOn };
inline constexpr int kBanReasonCount = 3;

// Which side of a TLS connection between nodes this one is, and how its handshake ended: refused is that one
// of the certificates was.
enum class TlsSide { kServer, kClient };
inline constexpr int kTlsSideCount = 2;
enum class TlsResult { kOk, kRefused, kFailed };
inline constexpr int kTlsResultCount = 3;

// What became of a request to a registry for more than anybody had asked for yet: others went on with it, or
// too few did.
enum class LongReadResult { kPaid, kInVain };
inline constexpr int kLongReadResultCount = 2;

// What became of bytes that were read ahead of a reader: they came, a reader went past them, or no reader did
// before it was given up. What is neither used nor unread is not judged yet.
enum class ReadaheadResult { kFetched, kUsed, kUnread };
inline constexpr int kReadaheadResultCount = 3;

// What became of bytes that a profile had brought in ahead of a start: they came, a reader touched them, or
// none did while the start was watched.
enum class ProfileResult { kFetched, kUsed, kUnread };
inline constexpr int kProfileResultCount = 3;

// How a prefetch hint ended.
enum class HintResult { kCompleted, kCancelled, kFailed, kExpired };
inline constexpr int kHintResultCount = 4;

enum class EvictReason { kRequested, kWatermark, kCorrupt };
inline constexpr int kEvictReasonCount = 3;

// What the node counts of itself. The rooms add, api/ exports under the names of the README's metrics table.
struct Telemetry {
  std::array<Counter, kSourceKindCount> read_bytes;               // sluice_read_bytes_total{source}
  std::array<Counter, kSourceKindCount> reads;                    // sluice_reads_total{source}
  Counter read_errors;                                            // sluice_read_errors_total
  std::array<DurationHistogram, kSourceKindCount> read_duration;  // sluice_read_duration_seconds{source}

  Counter origin_bytes;       // sluice_origin_bytes_total
  Counter origin_blob_bytes;  // sluice_origin_blob_bytes_total: those of them that were blobs'
  // sluice_origin_plain_bytes_total: of the chunks and bootstraps that came out of them
  Counter origin_plain_bytes;
  // sluice_origin_requests_total{code}: by HTTP status class 1xx..5xx, [0] is a request that got no answer.
  std::array<Counter, 6> origin_requests;
  std::array<Counter, kLongReadResultCount> origin_long_reads;  // sluice_origin_long_reads_total{result}

  std::array<Counter, kPeerLaneCount> peer_received_bytes;  // sluice_peer_received_bytes_total{lane}
  Counter cross_zone_bytes;                                 // sluice_cross_zone_bytes_total
  std::array<Counter, kPeerLaneCount> peer_sent_bytes;      // sluice_peer_sent_bytes_total{lane}
  Counter passed_on_bytes;                                  // sluice_peer_passed_on_bytes_total
  // sluice_peer_requests_total{role,result}
  std::array<std::array<Counter, kPeerAnswerCount>, kPeerRoleCount> peer_answers;
  std::array<Counter, kMirrorResultCount> mirror_requests;  // sluice_mirror_requests_total{result}
  Counter mirror_sent_bytes;                                // sluice_mirror_sent_bytes_total
  std::array<Gauge, kMemberStateCount> members;             // sluice_members{state}: other nodes
  // sluice_cut_off: 1 while fewer than half of the other nodes answer, else 0
  Gauge cut_off;
  Gauge swarm_peers;           // sluice_swarm_peers
  Gauge swarm_torrents;        // sluice_swarm_torrents
  Counter swarm_bad_pieces;    // sluice_swarm_bad_pieces_total
  Counter swarm_banned_peers;  // sluice_swarm_banned_peers_total

  // sluice_tls_handshakes_total{side,result}
  std::array<std::array<Counter, kTlsResultCount>, kTlsSideCount> tls_handshakes;
  Counter tls_reloads;           // sluice_tls_reloads_total{result}: a new identity was taken
  Counter tls_reload_failures;   // the same: what the files hold can't be used
  Gauge tls_certificate_expiry;  // sluice_tls_certificate_expiry_timestamp_seconds: since 1970; 0 without TLS

  std::array<Counter, kSourceKindCount>
      verify_failures;              // sluice_chunk_verify_failures_total{source}; local is bit rot
  Counter unverified_served_bytes;  // sluice_unverified_served_bytes_total
  Counter blobs_refused;            // sluice_blobs_refused_total (an alarm)
  Counter refuted_claims;           // sluice_refuted_claims_total (an alarm)
  std::array<Counter, kBanReasonCount> peer_bans;  // sluice_peer_bans_total{reason}

  Gauge cache_size_bytes;                                // sluice_cache_size_bytes
  Gauge cache_capacity_bytes;                            // sluice_cache_capacity_bytes
  std::array<Counter, kEvictReasonCount> evicted_bytes;  // sluice_evicted_bytes_total{reason}
  Counter sync_failures;                                 // sluice_store_sync_failures_total
  Counter write_failures;                                // sluice_store_write_failures_total

  // sluice_ondemand_requests_total{backend,result}: the keeper's own counts are added when they are exported.
  Counter ondemand_filled;
  Counter ondemand_failed;

  std::array<Counter, kHedgeResultCount> hedges;        // sluice_hedges_total{result}
  std::array<Counter, kTakeoverReasonCount> takeovers;  // sluice_takeovers_total{reason}
  Counter last_resort_bytes;                            // sluice_last_resort_bytes_total
  Counter prefetch_bytes;  // sluice_prefetch_bytes_total: readahead, hints, backfill
  // sluice_readahead_bytes_total{result}: as Amplifier says
  std::array<Counter, kReadaheadResultCount> readahead_bytes;
  // sluice_profile_bytes_total{result}: as ProfileReplay says
  std::array<Counter, kProfileResultCount> profile_bytes;
  Counter profile_replays;                               // sluice_profile_replays_total: that were begun
  Counter profile_recordings;                            // sluice_profile_recordings_total
  std::array<Counter, kHintResultCount> prefetch_hints;  // sluice_prefetch_hints_total{result}
  Gauge mounts;                                          // sluice_mounts
  Gauge reads_waiting;                                   // sluice_reads_waiting: what somebody waits for

  std::array<Counter, kFetchClassCount> fetches;          // sluice_fetches_total{class}: that were started
  std::array<Gauge, kFetchClassCount> fetches_under_way;  // sluice_fetches_under_way{class}
  Gauge fetch_inflight_bytes;  // sluice_fetch_inflight_bytes: asked for and not yet stored
  Gauge chunks_wanted;         // sluice_chunks_wanted: absent, queued or under way
};

}  // namespace sluice
