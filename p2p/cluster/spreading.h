#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice::p2p {

struct SpreadingLimits {
  uint32_t fanout = 2;  // transfers of one chunk at once
  // Transfers to fills at once, of all chunks; first copies are sent beside them, and those that are stuck.
  // The more there are the longer each takes.
  uint32_t fills_max = 16;
  // For chunks that are still to come; a quarter is kept for demand. Each holds a connection open. (1,000
  // nodes, simulated: with 112 one of them had 221, with 80 181, and it took as long.)
  uint32_t waiting_max = 80;
  uint32_t of_chunk_max = 64;  // of those for one chunk; a quarter is kept for demand
  // Fills that wait for their turn where they asked for help; at a home they are of those above.
  uint32_t help_turns_max = 16;
  uint32_t helpers_max = 4;    // named to one asker
  size_t chunks_max = 4096;    // remembered; beyond, the one that was not asked for for the longest goes
  size_t receivers_max = 256;  // remembered of one chunk; beyond, the oldest goes
  Duration forget_after = std::chrono::seconds(10);  // from when a chunk was asked for last
  // Whether one of another zone, where nobody has it yet, is told of those here that have it. What is whole
  // crosses from its home alone: of what a helper sent across the next asker there would know nothing. Chunks
  // are asked for by one of each zone.
  bool helps_across = true;
  // Whether an asker is told of the same helpers again and again, as far as they are equally good: where a
  // connection to another one costs much.
  bool same_helpers = false;
};

// Who is sent a chunk now, who waits for it, and whom else to ask: so that many askers of one chunk cost the
// server's link a few copies, and the others get it from each other (PEERS.md, "Spreading").
//
// A chunk goes to `fanout` askers at once, and fills get no more than `fills_max` chunks at once beside first
// copies. Who comes beyond that is refused, and told of helpers: members that were sent the chunk, are being
// sent it, or were told of helpers themselves a while ago and have not come back; those first that were named
// first to the fewest, by the fanout, then those of the asker's zone; none of a third zone, nor of another
// one to who is of this node's. The asker begins with the first, so none is that for more than `fanout`
// askers in the time that a transfer takes. To another zone a chunk goes once, as long as it is to be had
// there: who comes from there after the first is told of that one. Of a fill, and where there are many
// helpers, a home sends few copies itself. A chunk that is coming and that readers wait for goes to one
// asker, and so on from one to the next: then each link carries it once, at the rate at which it comes; the
// line is no longer than kLineMax, for each one in it adds its delay. Whoever asks for a chunk lacks it. A
// helper that an asker has tried is not named to it again, and one that two askers have tried in vain since
// it got the chunk to nobody. A transfer that takes much longer than others did of late keeps nobody else
// from the chunk, nor fills from others.
//
// In a crowd a fill that can't be sent the chunk now would come again and again: it waits for its turn
// instead. Where a home was asked, until it is sent the chunk or can be told of a helper; where it asked for
// help, until there is room, if that will soon be.
//
// Thread-safe; pure but for its lock: the clock is handed in.
class Spreader {
 public:
  // The zone of a member of the current view, "" if it has none; nullopt if nobody there has that name. Must
  // not block, nor call the spreader.
  using FindMember = std::function<std::optional<std::string>(const std::string& name)>;

  static constexpr size_t kLineMax = 12;
  // So often an asker is left to others of its zone: then it is sent the chunk, whatever they have.
  static constexpr uint32_t kLeftToZoneMax = 6;
  static constexpr Duration kRetryMin = std::chrono::milliseconds(5);
  static constexpr Duration kRetryMax = std::chrono::seconds(2);
  // A fill waits so long for its turn at most, where it asked for help; none begins to wait there that would
  // have to wait longer.
  static constexpr Duration kHelpTurnMax = std::chrono::milliseconds(200);
  // Where fewer members than that ask, none waits for its turn: it may find another meanwhile.
  static constexpr size_t kTurnsFrom = 8;
  // A transfer is stuck after four times what they take, and not earlier than this; where a reader waits for
  // its place no later either, since those that are slow, or full links, make that a long time.
  static constexpr Duration kStuckMin = std::chrono::milliseconds(1500);

  // `zone`: of this node; "": it has none, and names whoever can help.
  Spreader(const Clock& clock, FindMember find_member, SpreadingLimits limits = {}, std::string zone = {})
      : clock_(clock), find_member_(std::move(find_member)), limits_(limits), zone_(std::move(zone)) {}

  struct ChunkName {
    BlobKey blob;
    ChunkIndex chunk;
    friend bool operator==(const ChunkName&, const ChunkName&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const ChunkName& name) {
      return H::combine(std::move(h), name.blob, name.chunk);
    }
  };
  struct Request {
    ChunkName chunk;
    std::string asker;  // a member's name; of somebody else it makes no helper
    FetchClass fetch_class = FetchClass::kDemand;
    std::vector<std::string> tried;  // helpers that were of no use to it
    bool is_help = false;            // it is asked for what it has, beside the home
    bool is_coming = false;          // the chunk is not here whole, and sent as it comes
    bool may_wait_turn = false;      // if it is a fill's
  };
  // Names a request that is being answered; never given twice.
  using RequestId = uint64_t;
  // All but kRefuse hold a place until Ended. kWaitTurn: until Turned or LookAgain says otherwise.
  enum class Verdict { kSend, kWait, kWaitTurn, kRefuse };
  struct Answer {
    RequestId id = 0;
    Verdict verdict = Verdict::kRefuse;
    Duration retry = {};  // of a refusal: when to come again; of kWaitTurn: when to look again
    std::vector<std::string> helpers = {};  // of a refusal: whom to ask before that
  };

  // Somebody asks for a chunk that is here, or that comes and is passed on as soon as it is.
  Answer Ask(const Request& request);
  // Somebody asks for a chunk of which nothing has come yet, and which is being asked for: it waits unless
  // too many do.
  Answer AskEarly(const Request& request);
  // The chunk is here, or has begun to come: what becomes of those who wait for it. Demand goes first, and of
  // it who came first; then fills, in another order for each chunk.
  enum class Whole { kYes, kNotYet };
  std::vector<Answer> Came(const ChunkName& chunk, Whole whole = Whole::kYes);
  // Of those that wait for their turn, what becomes of some: after Ended of that chunk, which has made room,
  // and a helper.
  std::vector<Answer> Turned(const ChunkName& ended);
  // What becomes by now of one that waits for its turn, if anything. `is_last`: it waits no longer.
  std::optional<Answer> LookAgain(RequestId id, bool is_last);
  bool AnyWaitTurn() const;
  // The chunk of a request that Ask has let wait for it is here only now. No-op if it holds no place.
  void Began(RequestId id);
  // A request that was sent the chunk has got it whole, or it was not sent, or not whole; or one does not
  // wait any more. No-op if it holds no place.
  enum class Outcome { kTaken, kNotTaken };
  void Ended(RequestId id, Outcome outcome);

  size_t chunk_count() const;    // remembered
  size_t request_count() const;  // that hold a place

 private:
  // A place in peers_: for each request all receivers of its chunk are looked at, so that they hold no names.
  using PeerId = uint32_t;
  static constexpr PeerId kNobody = UINT32_MAX;
  // A member that is a receiver of some chunk, or was of late.
  struct Peer {
    std::string name;   // "": the place is free
    uint32_t uses = 0;  // as a receiver
    Instant heard{};    // when it asked for anything last, or took it in
    uint64_t key = 0;   // its ScoreKeyOf
  };
  // What is known of a member that was sent the chunk, or told of others.
  struct Receiver {
    enum class State : uint8_t { kHas, kReceiving, kSentOn };  // the better helper first
    PeerId peer = kNobody;
    State state = State::kReceiving;
    Instant since;
    uint32_t named = 0;    // as the first of those that an asker was told of
    uint32_t in_turn = 0;  // of these, since the last turn began: one lasts as long as a transfer
    Instant turn{};
    std::vector<std::string> failed;  // whom it was of no use to, since it has it
  };
  struct Chunk {
    std::vector<Receiver> receivers;  // in the order of coming
    std::vector<RequestId> sending;   // without those that are stuck
    std::vector<RequestId> waiting;   // in the order of coming
    Instant waiting_since;            // of the first of them
    std::vector<RequestId> turns;     // who waits for his turn here as at a home, in the order of coming
    Instant used;
    std::list<ChunkName>::iterator place;  // in used_
    uint32_t held = 0;                     // requests that hold a place, also by a transfer that is stuck
    bool is_coming = false;                // it is not here whole yet
    // How often it was left to others of its zone, of askers.
    absl::flat_hash_map<std::string, uint32_t> left_to_zone;
  };
  struct Held {
    Request request;
    enum class Place { kSent, kWaits, kWaitsTurn } place = Place::kSent;
    Instant since;
  };
  // Of a request, what it is answered by.
  struct Asker {
    const std::string& name;
    FetchClass fetch_class;
    const std::vector<std::string>& tried;
  };
  static Asker AskerOf(const Request& request) { return {request.asker, request.fetch_class, request.tried}; }
  // How good a helper is, the best first: to a fill, whether it was heard of late; the fewest times named, by
  // the fanout; its zone; how surely it has it; the fewest times named of other chunks, or, where they are to
  // be the same again and again, which of them those are; and who came first.
  using Rank = std::tuple<bool, uint32_t, bool, Receiver::State, uint32_t, size_t>;
  using Chunks = absl::flat_hash_map<ChunkName, Chunk>;

  Chunk* Touch(const ChunkName& name, Instant now);
  void Forget(Instant now);
  void Drop(Chunks::iterator chunk);
  bool MayWait(const Chunk& chunk, FetchClass fetch_class) const;
  uint32_t FanoutOf(const Chunk& chunk, FetchClass fetch_class) const {
    return chunk.is_coming && fetch_class == FetchClass::kDemand ? 1 : limits_.fanout;
  }
  bool MayBeSoon(const Chunk& chunk, Instant now) const;
  Answer Hold(Verdict verdict, const Request& request, Instant now);
  bool HasRoom(Chunk& chunk, FetchClass fetch_class, bool is_help, Instant now);
  bool LeavesToHelpers(const Chunk& chunk, const Request& request, Instant now) const;
  bool IsLeftToZone(Chunk& chunk, const Asker& asker, Instant now) const;
  std::optional<Receiver::State> InZoneOf(const Chunk& chunk, const Asker& asker, Instant now) const;
  Duration StuckAfter(FetchClass who_waits) const {
    return who_waits == FetchClass::kDemand ? kStuckMin : std::max<Duration>(kStuckMin, 4 * transfer_time_);
  }
  bool IsNamedEnough(const Receiver& receiver, uint32_t fanout, Instant now) const;
  std::optional<std::string> ZoneOf(const std::string& asker) const;
  bool IsNear(const Receiver& receiver, const std::optional<std::string>& zone) const;
  void BeginSending(Chunk& chunk, RequestId id, const std::string& asker, Instant now);
  static uint32_t ShareOf(FetchClass fetch_class, uint32_t max);
  bool MayWaitTurn(const Request& request) const;
  Answer WaitTurn(Chunk& chunk, const Request& request, Instant now);
  Answer BeginTurn(Chunk& chunk, RequestId id);
  Answer RefuseOrWait(Chunk& chunk, const Request& request, Instant now);
  std::vector<RequestId> InTurn(const std::vector<RequestId>& ids) const;
  std::optional<Answer> TurnOf(RequestId id, bool is_last, Instant now);
  void LeaveTurns(Chunk& chunk, RequestId id, const Held& held);
  Answer Refuse(Chunk& chunk, const Asker& asker, Duration retry, Instant now);
  std::vector<std::string> NameHelpers(Chunk& chunk, const Asker& asker, Instant now);
  std::vector<Rank> RankHelpers(const Chunk& chunk, const Asker& asker, Instant now) const;
  void NoteNamed(Receiver& receiver, Instant now);
  void NoteTried(Chunk& chunk, const Request& request) const;
  void SetReceiver(Chunk& chunk, const std::string& name, Receiver::State state, Instant now);
  void DropReceiver(Chunk& chunk, const std::string& name);
  void MakeRoomForReceiver(Chunk& chunk);
  Receiver* FindReceiver(Chunk& chunk, const std::string& name) const;
  PeerId FindPeer(const std::string& name) const;
  PeerId UsePeer(const std::string& name);
  void NoteHeard(const std::string& name, Instant now);
  void ForgetNamed(Instant now);
  const std::string& NameOf(const Receiver& receiver) const { return peers_[receiver.peer].name; }
  static void Learn(Duration seen, Duration* average);
  static Duration Bounded(Duration retry);

  const Clock& clock_;
  const FindMember find_member_;
  const SpreadingLimits limits_;
  const std::string zone_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Chunks chunks_;
  std::list<ChunkName> used_;  // the last asked for first
  absl::flat_hash_map<RequestId, Held> held_;
  RequestId next_id_ = 1;
  size_t waiting_ = 0;  // for what is to come, or for their turn at a home
  size_t home_turns_ = 0;
  std::vector<RequestId> help_turns_;     // in the order of coming
  std::vector<RequestId> sending_fills_;  // of all chunks, without those that are stuck
  // Of late.
  Duration transfer_time_ = std::chrono::milliseconds(20);
  Duration first_byte_time_ = std::chrono::milliseconds(100);
  std::vector<Peer> peers_;
  absl::flat_hash_map<std::string, PeerId> peer_of_;
  std::vector<PeerId> free_peers_;
  // Since then: how often each was named first to an asker of any chunk. By PeerId.
  std::vector<uint32_t> named_of_late_;
  Instant named_since_{};
};

}  // namespace sluice::p2p
