#include "p2p/cluster/spreading.h"

#include <algorithm>
#include <tuple>

#include "absl/hash/hash.h"
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
  used_.erase(chunk->second.place);
  chunks_.erase(chunk);
}

Spreader::Receiver* Spreader::FindReceiver(Chunk& chunk, const std::string& name) {
  const auto found = std::find_if(chunk.receivers.begin(), chunk.receivers.end(),
                                  [&](const Receiver& receiver) { return receiver.name == name; });
  return found == chunk.receivers.end() ? nullptr : &*found;
}

void Spreader::DropReceiver(Chunk& chunk, const std::string& name) {
  std::erase_if(chunk.receivers, [&](const Receiver& receiver) { return receiver.name == name; });
}

// It keeps how often it was named.
void Spreader::SetReceiver(Chunk& chunk, const std::string& name, Receiver::State state, Instant now) const {
  if (name.empty() || !find_member_(name)) return;
  Receiver* receiver = FindReceiver(chunk, name);
  if (!receiver) {
    MakeRoomForReceiver(chunk);
    receiver = &chunk.receivers.emplace_back();
    receiver->name = name;
  }
  receiver->state = state;
  receiver->since = now;
  receiver->failed.clear();
}

// Who has it is worth more than who was told of others.
void Spreader::MakeRoomForReceiver(Chunk& chunk) const {
  if (chunk.receivers.size() < limits_.receivers_max) return;
  const auto sent_on =
      std::find_if(chunk.receivers.begin(), chunk.receivers.end(),
                   [](const Receiver& receiver) { return receiver.state == Receiver::State::kSentOn; });
  chunk.receivers.erase(sent_on == chunk.receivers.end() ? chunk.receivers.begin() : sent_on);
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
  NoteTried(*chunk, request);
  if (!HasRoom(*chunk, request.fetch_class, request.is_help, now) || LeavesToHelpers(*chunk, request, now) ||
      IsLeftToZone(*chunk, {request.asker, request.fetch_class, request.tried}, now))
    return Refuse(*chunk, {request.asker, request.fetch_class, request.tried}, transfer_time_, now);
  Answer answer = Hold(Verdict::kSend, request, now);
  BeginSending(*chunk, answer.id, request.asker, now);
  return answer;
}

bool Spreader::HasRoom(Chunk& chunk, FetchClass fetch_class, bool is_help, Instant now) {
  const auto is_stuck = [&](RequestId id) { return held_.at(id).since + StuckAfter() <= now; };
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
  const uint32_t fanout = FanoutOf(chunk, request.fetch_class);
  const auto can_help = [&](const Receiver& receiver) {
    return receiver.state == Receiver::State::kHas && receiver.name != request.asker &&
           IsNear(receiver, zone) && receiver.failed.empty() &&
           (demand || receiver.named < limits_.fanout * kHelpsOfEach) &&
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
        receiver.state == Receiver::State::kHas ||
        (receiver.state == Receiver::State::kReceiving && now < receiver.since + StuckAfter());
    if (!gets_it || receiver.name == asker.name || !receiver.failed.empty() ||
        Contains(asker.tried, receiver.name) || find_member_(receiver.name) != zone)
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
  const std::optional<std::string> its_zone = find_member_(receiver.name);
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
  NoteTried(*chunk, request);
  if (!MayWait(*chunk, request.fetch_class)) {
    const Duration left =
        chunk->waiting.empty() ? first_byte_time_ : chunk->waiting_since + first_byte_time_ - now;
    return Refuse(*chunk, {request.asker, request.fetch_class, request.tried}, left, now);
  }
  DropReceiver(*chunk, request.asker);
  Answer answer = Hold(Verdict::kWait, request, now);
  if (chunk->waiting.empty()) chunk->waiting_since = now;
  chunk->waiting.push_back(answer.id);
  ++waiting_;
  return answer;
}

bool Spreader::MayWait(const Chunk& chunk, FetchClass fetch_class) const {
  const bool demand = fetch_class == FetchClass::kDemand;
  const auto share = [demand](uint32_t max) { return demand ? max : max - max / 4; };
  return waiting_ < share(limits_.waiting_max) && chunk.waiting.size() < share(limits_.of_chunk_max);
}

Spreader::Answer Spreader::Hold(Verdict verdict, const Request& request, Instant now) {
  const RequestId id = next_id_++;
  held_.emplace(id, Held{request.chunk, request.asker, request.fetch_class, request.tried,
                         verdict == Verdict::kWait, now});
  ++chunks_.at(request.chunk).held;
  return {.id = id, .verdict = verdict};
}

void Spreader::BeginSending(Chunk& chunk, RequestId id, const std::string& asker, Instant now) {
  chunk.sending.push_back(id);
  if (held_.at(id).fetch_class != FetchClass::kDemand) sending_fills_.push_back(id);
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
  const std::optional<std::string> zone = ZoneOf(asker.name);
  const uint32_t fanout = FanoutOf(chunk, asker.fetch_class);
  // Who mostly gets chunks first would be told of to the askers of all, and its link carry them alone.
  if (now - named_since_ >= kNamedKept) {
    named_of_late_.clear();
    named_since_ = now;
  }
  // The fewest times named, by the fanout; its zone; how surely it has it; the fewest times named of other
  // chunks; and who came first.
  using Rank = std::tuple<uint32_t, bool, Receiver::State, uint32_t, size_t>;
  std::vector<Rank> ranks;
  const bool is_of_another = zone && !zone->empty() && !zone_.empty() && *zone != zone_;
  const bool within_zone = (is_of_another && !limits_.helps_across) || InZoneOf(chunk, asker, now);
  const bool soon = asker.fetch_class == FetchClass::kDemand && MayBeSoon(chunk, now);
  for (size_t i = 0; i < chunk.receivers.size(); ++i) {
    Receiver& receiver = chunk.receivers[i];
    if (receiver.name == asker.name || Contains(asker.tried, receiver.name)) continue;
    if (receiver.failed.size() >= kFailedMax) continue;
    const bool just_now = receiver.since + Bounded(transfer_time_) > now;
    if (receiver.state == Receiver::State::kSentOn && just_now && !soon) continue;
    if (IsNamedEnough(receiver, fanout, now)) continue;
    const std::optional<std::string> its_zone = find_member_(receiver.name);
    if (!its_zone || !IsNear(receiver, zone) || (within_zone && its_zone != zone)) continue;
    const auto of_late = named_of_late_.find(receiver.name);
    const uint32_t of_all = of_late == named_of_late_.end() ? 0 : of_late->second;
    ranks.emplace_back(receiver.named / fanout, its_zone != zone, receiver.state,
                       of_all - std::min(of_all, receiver.named), i);
  }
  const size_t count = std::min<size_t>(ranks.size(), limits_.helpers_max);
  std::partial_sort(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(count), ranks.end());
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    Receiver& receiver = chunk.receivers[std::get<size_t>(ranks[i])];
    // The first is the one that is asked, mostly.
    if (i == 0) {
      ++receiver.named;
      ++named_of_late_[receiver.name];
      if (receiver.in_turn == 0 || receiver.turn + Bounded(transfer_time_) <= now) {
        receiver.in_turn = 0;
        receiver.turn = now;
      }
      ++receiver.in_turn;
    }
    names.push_back(receiver.name);
  }
  return names;
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

std::vector<Spreader::Answer> Spreader::Came(const ChunkName& name, Whole whole) {
  const std::lock_guard lock(mutex_);
  const auto found = chunks_.find(name);
  if (found == chunks_.end()) return {};
  Chunk& chunk = found->second;
  chunk.is_coming = whole == Whole::kNotYet;
  if (chunk.waiting.empty()) return {};
  const Instant now = clock_.Now();
  Learn(now - chunk.waiting_since, &first_byte_time_);
  std::vector<RequestId> waiting = std::exchange(chunk.waiting, {});
  waiting_ -= waiting.size();
  // Fills come in the same order again and again: were the first ones always first, their links would carry
  // all that is passed on.
  const auto turn_of = [&](RequestId id) {
    const Held& held = held_.at(id);
    const bool demand = held.fetch_class == FetchClass::kDemand;
    return std::pair(held.fetch_class, demand ? 0 : Score(0, name.chunk.value(), absl::HashOf(held.asker)));
  };
  std::stable_sort(waiting.begin(), waiting.end(),
                   [&](RequestId a, RequestId b) { return turn_of(a) < turn_of(b); });
  std::vector<Answer> answers;
  for (const RequestId id : waiting) {
    const auto held = held_.find(id);
    const Asker asker{held->second.asker, held->second.fetch_class, held->second.tried};
    if (!IsLeftToZone(chunk, asker, now) && HasRoom(chunk, asker.fetch_class, false, now)) {
      held->second.waits = false;
      held->second.since = now;
      BeginSending(chunk, id, held->second.asker, now);
      answers.push_back({.id = id, .verdict = Verdict::kSend});
      continue;
    }
    answers.push_back(Refuse(chunk, asker, transfer_time_, now));
    answers.back().id = id;
    held_.erase(held);
    --chunk.held;
  }
  return answers;
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
  Chunk& chunk = chunks_.at(held.chunk);
  --chunk.held;
  std::erase(sending_fills_, id);
  if (held.waits) {
    waiting_ -= std::erase(chunk.waiting, id);
    return;
  }
  std::erase(chunk.sending, id);
  const Instant now = clock_.Now();
  if (outcome == Outcome::kNotTaken) return DropReceiver(chunk, held.asker);
  Learn(now - held.since, &transfer_time_);
  SetReceiver(chunk, held.asker, Receiver::State::kHas, now);
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
