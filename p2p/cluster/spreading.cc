#include "p2p/cluster/spreading.h"

#include <algorithm>
#include <functional>
#include <tuple>

#include "absl/container/inlined_vector.h"
#include "p2p/cluster/assignment.h"

namespace sluice::p2p {
namespace {

// The share of the newest of what is measured.
constexpr int kLearnShare = 4;
// So many askers that a helper was of no use to are believed of all others.
constexpr size_t kFailedMax = 2;
// So often, times the fanout, one that has the chunk is named to fills in place of the home.
constexpr uint32_t kHelpsOfEach = 2;
// So long it counts how often a member was named to askers of other chunks.
constexpr Duration kNamedKept = std::chrono::seconds(1);
// In a crowd everybody asks for something again and again: who has not for so long may have vanished.
constexpr Duration kQuietAfter = std::chrono::seconds(1);
// Of what chunks take to come: who is sent away from one that is late comes again after that. (300 nodes,
// simulated: all that came again each 5 ms made 20 connections more than there are now.)
constexpr int kOverdueShare = 4;
// Times the fanout: where so many can help, the home is not what makes demand quicker.
constexpr uint32_t kManyHelpers = 8;

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Duration Spreader::Bounded(Duration retry) {
  return std::clamp(retry, kRetryMin, kRetryMax);
}

void Spreader::Learn(Duration seen, Duration* average) {
  *average += (std::min<Duration>(seen, kRetryMax) - *average) / kLearnShare;
}

// ------------------------------------------------------------------------------------------ remembering

// Null if all that may be remembered is in use.
Spreader::Chunk* Spreader::Touch(const ChunkName& name, Instant now) {
  Forget(now);
  auto found = chunks_.find(name);
  if (found == chunks_.end()) {
    if (chunks_.size() >= limits_.chunks_max) return nullptr;
    used_.push_front(name);
    found = chunks_.try_emplace(name).first;
    found->second.place = used_.begin();
  }
  Chunk& chunk = found->second;
  used_.splice(used_.begin(), used_, chunk.place);
  chunk.used = now;
  return &chunk;
}

// What nobody asks for any more, and what there is no room for.
void Spreader::Forget(Instant now) {
  for (auto name = used_.end(); name != used_.begin();) {
    --name;
    const auto chunk = chunks_.find(*name);
    const bool old = chunk->second.used + limits_.forget_after <= now;
    if (!old && chunks_.size() < limits_.chunks_max) return;
    if (chunk->second.held > 0) continue;
    name = std::next(name);
    Drop(chunk);
  }
}

void Spreader::Drop(Chunks::iterator chunk) {
  for (const Receiver& receiver : chunk->second.receivers) --peers_[receiver.peer].uses;
  used_.erase(chunk->second.place);
  chunks_.erase(chunk);
}

// kNobody: it is a receiver of nothing.
Spreader::PeerId Spreader::FindPeer(const std::string& name) const {
  const auto found = peer_of_.find(name);
  return found == peer_of_.end() ? kNobody : found->second;
}

Spreader::PeerId Spreader::UsePeer(const std::string& name) {
  const auto [place, is_new] = peer_of_.try_emplace(name, static_cast<PeerId>(peers_.size()));
  if (is_new && !free_peers_.empty()) {
    place->second = free_peers_.back();
    free_peers_.pop_back();
    peers_[place->second].name = name;
  } else if (is_new) {
    peers_.push_back({.name = name});
    named_of_late_.push_back(0);
  }
  Peer& peer = peers_[place->second];
  if (++peer.uses == 1 && limits_.same_helpers) peer.key = ScoreKeyOf(name);
  return place->second;
}

void Spreader::NoteHeard(const std::string& name, Instant now) {
  const PeerId peer = FindPeer(name);
  if (peer != kNobody) peers_[peer].heard = now;
}

// Who mostly gets chunks first would be told of to the askers of all, and its link carry them alone: how
// often each was named counts for a while.
void Spreader::ForgetNamed(Instant now) {
  if (now - named_since_ < kNamedKept) return;
  named_since_ = now;
  std::fill(named_of_late_.begin(), named_of_late_.end(), 0);
  for (PeerId id = 0; id < peers_.size(); ++id) {
    if (peers_[id].uses > 0 || peers_[id].name.empty()) continue;
    peer_of_.erase(std::exchange(peers_[id].name, {}));
    free_peers_.push_back(id);
  }
}

Spreader::Receiver* Spreader::FindReceiver(Chunk& chunk, const std::string& name) const {
  const PeerId peer = FindPeer(name);
  if (peer == kNobody) return nullptr;
  const auto found = std::find_if(chunk.receivers.begin(), chunk.receivers.end(),
                                  [&](const Receiver& receiver) { return receiver.peer == peer; });
  return found == chunk.receivers.end() ? nullptr : &*found;
}

void Spreader::DropReceiver(Chunk& chunk, const std::string& name) {
  const Receiver* const receiver = FindReceiver(chunk, name);
  if (!receiver) return;
  --peers_[receiver->peer].uses;
  chunk.receivers.erase(chunk.receivers.begin() + (receiver - chunk.receivers.data()));
}

// It keeps how often it was named.
void Spreader::SetReceiver(Chunk& chunk, const std::string& name, Receiver::State state, Instant now) {
  if (name.empty() || !find_member_(name)) return;
  Receiver* receiver = FindReceiver(chunk, name);
  if (!receiver) {
    MakeRoomForReceiver(chunk);
    receiver = &chunk.receivers.emplace_back();
    receiver->peer = UsePeer(name);
  }
  peers_[receiver->peer].heard = now;
  receiver->state = state;
  receiver->since = now;
  receiver->failed.clear();
}

// Who has it is worth more than who was told of others.
void Spreader::MakeRoomForReceiver(Chunk& chunk) {
  if (chunk.receivers.size() < limits_.receivers_max) return;
  auto goes = std::find_if(chunk.receivers.begin(), chunk.receivers.end(), [](const Receiver& receiver) {
    return receiver.state == Receiver::State::kSentOn;
  });
  if (goes == chunk.receivers.end()) goes = chunk.receivers.begin();
  --peers_[goes->peer].uses;
  chunk.receivers.erase(goes);
}

// One that was being sent it may not have begun to pass it on; only one that has it has failed.
void Spreader::NoteTried(Chunk& chunk, const Request& request) const {
  for (const std::string& name : request.tried) {
    Receiver* const receiver = FindReceiver(chunk, name);
    if (!receiver || receiver->state == Receiver::State::kReceiving) continue;
    if (receiver->failed.size() < kFailedMax &&
        std::find(receiver->failed.begin(), receiver->failed.end(), request.asker) == receiver->failed.end())
      receiver->failed.push_back(request.asker);
  }
}

// --------------------------------------------------------------------------------------------- answering

Spreader::Answer Spreader::Ask(const Request& request) {
  const std::lock_guard lock(mutex_);
  const Instant now = clock_.Now();
  Chunk* const chunk = Touch(request.chunk, now);
  if (!chunk) return {.retry = Bounded(transfer_time_)};
  chunk->is_coming = request.is_coming;
  NoteHeard(request.asker, now);
  NoteTried(*chunk, request);
  if (!HasRoom(*chunk, request.fetch_class, request.is_help, now)) {
    if (request.is_help && MayWaitTurn(request)) return WaitTurn(*chunk, request, now);
    return RefuseOrWait(*chunk, request, now);
  }
  if (LeavesToHelpers(*chunk, request, now) || IsLeftToZone(*chunk, AskerOf(request), now))
    return RefuseOrWait(*chunk, request, now);
  Answer answer = Hold(Verdict::kSend, request, now);
  BeginSending(*chunk, answer.id, request.asker, now);
  return answer;
}

bool Spreader::HasRoom(Chunk& chunk, FetchClass fetch_class, bool is_help, Instant now) {
  const auto is_stuck = [&](RequestId id) { return held_.at(id).since + StuckAfter(fetch_class) <= now; };
  std::erase_if(chunk.sending, is_stuck);
  if (chunk.sending.size() >= FanoutOf(chunk, fetch_class)) return false;
  if (fetch_class == FetchClass::kDemand) return true;
  std::erase_if(sending_fills_, is_stuck);
  if (sending_fills_.size() < limits_.fills_max) return true;
  return !is_help &&
         std::none_of(chunk.receivers.begin(), chunk.receivers.end(), [](const Receiver& receiver) {
           return receiver.state == Receiver::State::kHas && receiver.failed.empty();
         });
}

// A home that sent every copy itself would send far more than others where it is home of more: of a fill it
// sends a few, and the others come from those that have it. Who comes back from them is sent it.
bool Spreader::LeavesToHelpers(const Chunk& chunk, const Request& request, Instant now) const {
  if (request.is_help || !request.tried.empty()) return false;
  const bool demand = request.fetch_class == FetchClass::kDemand;
  const std::optional<std::string> zone = ZoneOf(request.asker);
  const PeerId asker = FindPeer(request.asker);
  const uint32_t fanout = FanoutOf(chunk, request.fetch_class);
  const auto can_help = [&](const Receiver& receiver) {
    return receiver.state == Receiver::State::kHas && receiver.peer != asker && IsNear(receiver, zone) &&
           receiver.failed.empty() && (demand || receiver.named < limits_.fanout * kHelpsOfEach) &&
           !IsNamedEnough(receiver, fanout, now);
  };
  const auto count = std::count_if(chunk.receivers.begin(), chunk.receivers.end(), can_help);
  return count >= limits_.fanout * (demand ? kManyHelpers : 1);
}

// Not for ever: those of its zone may be no use to it, and it need not say so. To one that is receiving it
// just now it is left until that is over, however often it is asked for meanwhile.
bool Spreader::IsLeftToZone(Chunk& chunk, const Asker& asker, Instant now) const {
  const std::optional<Receiver::State> best = InZoneOf(chunk, asker, now);
  if (!best) return false;
  if (*best == Receiver::State::kReceiving) return true;
  if (chunk.left_to_zone.size() >= limits_.receivers_max) chunk.left_to_zone.clear();
  uint32_t& times = chunk.left_to_zone[asker.name];
  if (++times <= kLeftToZoneMax) return true;
  times = 0;
  return false;
}

// Whether one of the asker's zone, which is another one, has it, or is receiving it, and is not known to be
// of no use.
std::optional<Spreader::Receiver::State> Spreader::InZoneOf(const Chunk& chunk, const Asker& asker,
                                                            Instant now) const {
  const std::optional<std::string> zone = ZoneOf(asker.name);
  if (!zone || zone->empty() || zone_.empty() || *zone == zone_) return std::nullopt;
  std::optional<Receiver::State> best;
  for (const Receiver& receiver : chunk.receivers) {
    const bool gets_it =
        receiver.state == Receiver::State::kHas || (receiver.state == Receiver::State::kReceiving &&
                                                    now < receiver.since + StuckAfter(asker.fetch_class));
    const std::string& name = NameOf(receiver);
    if (!gets_it || name == asker.name || !receiver.failed.empty() || Contains(asker.tried, name) ||
        find_member_(name) != zone)
      continue;
    if (!best || receiver.state < *best) best = receiver.state;
  }
  return best;
}

std::optional<std::string> Spreader::ZoneOf(const std::string& asker) const {
  return asker.empty() ? std::nullopt : find_member_(asker);
}

// Whether what it gives the asker crosses no zones that the chunk would not cross anyway.
bool Spreader::IsNear(const Receiver& receiver, const std::optional<std::string>& zone) const {
  if (!zone || zone_.empty()) return true;
  const std::optional<std::string> its_zone = find_member_(NameOf(receiver));
  return its_zone == zone || its_zone == zone_;
}

// As many as it can send to at once were told of it, and have hardly been sent it yet.
bool Spreader::IsNamedEnough(const Receiver& receiver, uint32_t fanout, Instant now) const {
  return receiver.in_turn >= fanout && now < receiver.turn + Bounded(transfer_time_);
}

Spreader::Answer Spreader::AskEarly(const Request& request) {
  const std::lock_guard lock(mutex_);
  const Instant now = clock_.Now();
  Chunk* const chunk = Touch(request.chunk, now);
  if (!chunk) return {.retry = Bounded(first_byte_time_)};
  NoteHeard(request.asker, now);
  NoteTried(*chunk, request);
  if (!MayWait(*chunk, request.fetch_class)) {
    const Duration left =
        chunk->waiting.empty() ? first_byte_time_ : chunk->waiting_since + first_byte_time_ - now;
    return Refuse(*chunk, AskerOf(request), std::max(left, first_byte_time_ / kOverdueShare), now);
  }
  DropReceiver(*chunk, request.asker);
  Answer answer = Hold(Verdict::kWait, request, now);
  if (chunk->waiting.empty()) chunk->waiting_since = now;
  chunk->waiting.push_back(answer.id);
  ++waiting_;
  return answer;
}

// A quarter is kept for demand.
uint32_t Spreader::ShareOf(FetchClass fetch_class, uint32_t max) {
  return fetch_class == FetchClass::kDemand ? max : max - max / 4;
}

bool Spreader::MayWait(const Chunk& chunk, FetchClass fetch_class) const {
  return waiting_ < ShareOf(fetch_class, limits_.waiting_max) &&
         chunk.waiting.size() < ShareOf(fetch_class, limits_.of_chunk_max);
}

// A fill that can't be sent the chunk now asks its home again and again, and others in vain: where it waits
// instead it has its turn as soon as there is one.
bool Spreader::MayWaitTurn(const Request& request) const {
  if (!request.may_wait_turn || !IsFill(request.fetch_class) || peer_of_.size() < kTurnsFrom) return false;
  if (request.is_help)
    return help_turns_.size() < limits_.help_turns_max &&
           help_turns_.size() * transfer_time_ < limits_.fills_max * kHelpTurnMax;
  return waiting_ < ShareOf(request.fetch_class, limits_.waiting_max);
}

Spreader::Answer Spreader::WaitTurn(Chunk& chunk, const Request& request, Instant now) {
  const Answer answer = Hold(Verdict::kWaitTurn, request, now);
  return BeginTurn(chunk, answer.id);
}

// REQUIRES: it is held
Spreader::Answer Spreader::BeginTurn(Chunk& chunk, RequestId id) {
  if (held_.at(id).request.is_help) {
    help_turns_.push_back(id);
  } else {
    chunk.turns.push_back(id);
    ++home_turns_;
    ++waiting_;
  }
  return {.id = id, .verdict = Verdict::kWaitTurn, .retry = Bounded(transfer_time_), .helpers = {}};
}

// Who is told of helpers asks those; who is told of none may wait.
Spreader::Answer Spreader::RefuseOrWait(Chunk& chunk, const Request& request, Instant now) {
  Answer answer = Refuse(chunk, AskerOf(request), transfer_time_, now);
  if (answer.helpers.empty() && !request.is_help && MayWaitTurn(request))
    return WaitTurn(chunk, request, now);
  return answer;
}

Spreader::Answer Spreader::Hold(Verdict verdict, const Request& request, Instant now) {
  const RequestId id = next_id_++;
  const Held::Place place = verdict == Verdict::kWait       ? Held::Place::kWaits
                            : verdict == Verdict::kWaitTurn ? Held::Place::kWaitsTurn
                                                            : Held::Place::kSent;
  held_.emplace(id, Held{request, place, now});
  ++chunks_.at(request.chunk).held;
  return {.id = id, .verdict = verdict};
}

void Spreader::BeginSending(Chunk& chunk, RequestId id, const std::string& asker, Instant now) {
  chunk.sending.push_back(id);
  if (held_.at(id).request.fetch_class != FetchClass::kDemand) sending_fills_.push_back(id);
  SetReceiver(chunk, asker, Receiver::State::kReceiving, now);
}

Spreader::Answer Spreader::Refuse(Chunk& chunk, const Asker& asker, Duration retry, Instant now) {
  Answer answer{.retry = Bounded(retry), .helpers = NameHelpers(chunk, asker, now)};
  // Who has nobody to turn to comes back to us.
  if (answer.helpers.empty()) {
    DropReceiver(chunk, asker.name);
  } else {
    SetReceiver(chunk, asker.name, Receiver::State::kSentOn, now);
  }
  return answer;
}

std::vector<std::string> Spreader::NameHelpers(Chunk& chunk, const Asker& asker, Instant now) {
  ForgetNamed(now);
  std::vector<Rank> ranks = RankHelpers(chunk, asker, now);
  std::make_heap(ranks.begin(), ranks.end(), std::greater<>());
  std::vector<std::string> names;
  while (!ranks.empty() && names.size() < limits_.helpers_max) {
    std::pop_heap(ranks.begin(), ranks.end(), std::greater<>());
    Receiver& receiver = chunk.receivers[std::get<size_t>(ranks.back())];
    ranks.pop_back();
    const std::string& name = NameOf(receiver);
    if (!find_member_(name)) continue;
    // The first is the one that is asked, mostly.
    if (names.empty()) NoteNamed(receiver, now);
    names.push_back(name);
  }
  return names;
}

// Those that may be named, if they are members still.
std::vector<Spreader::Rank> Spreader::RankHelpers(const Chunk& chunk, const Asker& asker, Instant now) const {
  const std::optional<std::string> zone = ZoneOf(asker.name);
  const uint32_t fanout = FanoutOf(chunk, asker.fetch_class);
  const bool is_of_another = zone && !zone->empty() && !zone_.empty() && *zone != zone_;
  const bool within_zone = (is_of_another && !limits_.helps_across) || InZoneOf(chunk, asker, now);
  const bool zones_matter = !zone_.empty() || (zone && !zone->empty());
  const bool soon = asker.fetch_class == FetchClass::kDemand && MayBeSoon(chunk, now);
  const Duration transfer = Bounded(transfer_time_);
  const uint64_t asker_key = limits_.same_helpers ? ScoreKeyOf(asker.name) : 0;
  absl::InlinedVector<PeerId, 8> not_these = {FindPeer(asker.name)};
  for (const std::string& name : asker.tried) not_these.push_back(FindPeer(name));
  std::vector<Rank> ranks;
  for (size_t i = 0; i < chunk.receivers.size(); ++i) {
    const Receiver& receiver = chunk.receivers[i];
    if (std::find(not_these.begin(), not_these.end(), receiver.peer) != not_these.end()) continue;
    if (receiver.failed.size() >= kFailedMax) continue;
    const bool just_now = receiver.since + transfer > now;
    if (receiver.state == Receiver::State::kSentOn && just_now && !soon) continue;
    if (IsNamedEnough(receiver, fanout, now)) continue;
    bool is_of_its_zone = true;
    if (zones_matter) {
      is_of_its_zone = find_member_(NameOf(receiver)) == zone;
      if (!IsNear(receiver, zone) || (within_zone && !is_of_its_zone)) continue;
    }
    const uint32_t of_all = named_of_late_[receiver.peer];
    const bool is_quiet = IsFill(asker.fetch_class) && peers_[receiver.peer].heard + kQuietAfter <= now;
    const uint32_t turn = limits_.same_helpers
                              ? static_cast<uint32_t>(Score(asker_key, 0, peers_[receiver.peer].key) >> 32)
                              : of_all - std::min(of_all, receiver.named);
    ranks.emplace_back(is_quiet, receiver.named / fanout, !is_of_its_zone, receiver.state, turn, i);
  }
  return ranks;
}

void Spreader::NoteNamed(Receiver& receiver, Instant now) {
  ++receiver.named;
  ++named_of_late_[receiver.peer];
  if (receiver.in_turn == 0 || receiver.turn + Bounded(transfer_time_) <= now) {
    receiver.in_turn = 0;
    receiver.turn = now;
  }
  ++receiver.in_turn;
}

// Whether those who were told of others just now are worth naming already: they stand in line, and what comes
// reaches them soon.
bool Spreader::MayBeSoon(const Chunk& chunk, Instant now) const {
  if (!chunk.is_coming) return false;
  const auto in_line = [&](const Receiver& receiver) {
    return receiver.state != Receiver::State::kHas && receiver.since + Bounded(transfer_time_) > now;
  };
  return static_cast<size_t>(std::count_if(chunk.receivers.begin(), chunk.receivers.end(), in_line)) <
         kLineMax;
}

// Those that wait for one chunk, in the order in which they have their turn. Fills come in the same order
// again and again: were the first ones always first, their links would carry all that is passed on.
std::vector<Spreader::RequestId> Spreader::InTurn(const std::vector<RequestId>& ids) const {
  std::vector<std::tuple<FetchClass, uint64_t, size_t>> turns;
  for (size_t i = 0; i < ids.size(); ++i) {
    const Request& request = held_.at(ids[i]).request;
    const bool demand = request.fetch_class == FetchClass::kDemand;
    turns.emplace_back(request.fetch_class,
                       demand ? 0 : Score(0, request.chunk.chunk.value(), ScoreKeyOf(request.asker)), i);
  }
  std::sort(turns.begin(), turns.end());
  std::vector<RequestId> in_turn;
  for (const auto& [fetch_class, turn, i] : turns) in_turn.push_back(ids[i]);
  return in_turn;
}

std::vector<Spreader::Answer> Spreader::Came(const ChunkName& name, Whole whole) {
  const std::lock_guard lock(mutex_);
  const auto found = chunks_.find(name);
  if (found == chunks_.end()) return {};
  Chunk& chunk = found->second;
  chunk.is_coming = whole == Whole::kNotYet;
  if (chunk.waiting.empty()) return {};
  const Instant now = clock_.Now();
  Learn(now - chunk.waiting_since, &first_byte_time_);
  const std::vector<RequestId> waiting = InTurn(std::exchange(chunk.waiting, {}));
  waiting_ -= waiting.size();
  std::vector<Answer> answers;
  for (const RequestId id : waiting) {
    const auto held = held_.find(id);
    const Asker asker = AskerOf(held->second.request);
    if (!IsLeftToZone(chunk, asker, now) && HasRoom(chunk, asker.fetch_class, false, now)) {
      held->second.place = Held::Place::kSent;
      held->second.since = now;
      BeginSending(chunk, id, held->second.request.asker, now);
      answers.push_back({.id = id, .verdict = Verdict::kSend});
      continue;
    }
    answers.push_back(Refuse(chunk, asker, transfer_time_, now));
    answers.back().id = id;
    if (answers.back().helpers.empty() && !held->second.request.is_help &&
        MayWaitTurn(held->second.request)) {
      held->second.place = Held::Place::kWaitsTurn;
      answers.back() = BeginTurn(chunk, id);
      continue;
    }
    held_.erase(held);
    --chunk.held;
  }
  return answers;
}

std::vector<Spreader::Answer> Spreader::Turned(const ChunkName& ended) {
  const std::lock_guard lock(mutex_);
  const Instant now = clock_.Now();
  std::vector<RequestId> ids = help_turns_;
  const auto chunk = chunks_.find(ended);
  if (chunk != chunks_.end()) {
    const std::vector<RequestId> turns = InTurn(chunk->second.turns);
    ids.insert(ids.end(), turns.begin(), turns.end());
  }
  std::vector<Answer> answers;
  for (const RequestId id : ids) {
    if (std::optional<Answer> answer = TurnOf(id, /*is_last=*/false, now))
      answers.push_back(*std::move(answer));
  }
  return answers;
}

std::optional<Spreader::Answer> Spreader::LookAgain(RequestId id, bool is_last) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(id);
  if (found == held_.end() || found->second.place != Held::Place::kWaitsTurn) return std::nullopt;
  return TurnOf(id, is_last, clock_.Now());
}

bool Spreader::AnyWaitTurn() const {
  const std::lock_guard lock(mutex_);
  return home_turns_ > 0 || !help_turns_.empty();
}

// REQUIRES: it waits for that
std::optional<Spreader::Answer> Spreader::TurnOf(RequestId id, bool is_last, Instant now) {
  const auto found = held_.find(id);
  Held& held = found->second;
  Chunk& chunk = chunks_.at(held.request.chunk);
  const Asker asker = AskerOf(held.request);
  if (HasRoom(chunk, held.request.fetch_class, held.request.is_help, now) &&
      !LeavesToHelpers(chunk, held.request, now) && !InZoneOf(chunk, asker, now)) {
    LeaveTurns(chunk, id, held);
    held.place = Held::Place::kSent;
    held.since = now;
    BeginSending(chunk, id, held.request.asker, now);
    return Answer{.id = id, .verdict = Verdict::kSend};
  }
  if (held.request.is_help && !is_last) return std::nullopt;
  Answer answer = Refuse(chunk, asker, transfer_time_, now);
  if (answer.helpers.empty() && !is_last) return std::nullopt;
  answer.id = id;
  LeaveTurns(chunk, id, held);
  held_.erase(found);
  --chunk.held;
  return answer;
}

void Spreader::LeaveTurns(Chunk& chunk, RequestId id, const Held& held) {
  if (held.request.is_help) {
    std::erase(help_turns_, id);
    return;
  }
  std::erase(chunk.turns, id);
  --home_turns_;
  --waiting_;
}

void Spreader::Began(RequestId id) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(id);
  if (found != held_.end()) found->second.since = clock_.Now();
}

void Spreader::Ended(RequestId id, Outcome outcome) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(id);
  if (found == held_.end()) return;
  const Held held = std::move(found->second);
  held_.erase(found);
  Chunk& chunk = chunks_.at(held.request.chunk);
  --chunk.held;
  std::erase(sending_fills_, id);
  if (held.place == Held::Place::kWaits) {
    waiting_ -= std::erase(chunk.waiting, id);
    return;
  }
  if (held.place == Held::Place::kWaitsTurn) return LeaveTurns(chunk, id, held);
  std::erase(chunk.sending, id);
  const Instant now = clock_.Now();
  if (outcome == Outcome::kNotTaken) return DropReceiver(chunk, held.request.asker);
  Learn(now - held.since, &transfer_time_);
  SetReceiver(chunk, held.request.asker, Receiver::State::kHas, now);
}

size_t Spreader::chunk_count() const {
  const std::lock_guard lock(mutex_);
  return chunks_.size();
}

size_t Spreader::request_count() const {
  const std::lock_guard lock(mutex_);
  return held_.size();
}

}  // namespace sluice::p2p
