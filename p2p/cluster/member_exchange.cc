#include "p2p/cluster/member_exchange.h"

#include <algorithm>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

constexpr size_t kToldMax = 1000;

std::string OwnRowOf(const Members& members) {
  std::string row;
  members.Look([&](const MemberTable& table, Instant) { row = EncodeRow(table.self()); });
  return row;
}

}  // namespace

MemberExchange::MemberExchange(Parts parts, Duration refresh, MemberRounds::Random random)
    : parts_(std::move(parts)),
      own_row_(OwnRowOf(parts_.members)),
      rounds_(refresh, std::move(random), parts_.clock.Now()) {}

MemberExchange::~MemberExchange() {
  Stop();
}

void MemberExchange::Start() {
  const std::lock_guard lock(mutex_);
  if (started_ || stopping_) return;
  started_ = true;
  thread_ = std::thread([this] { Run(); });
}

void MemberExchange::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void MemberExchange::Run() {
  for (;;) {
    std::vector<MemberRounds::Target> targets;
    parts_.members.Look([&](const MemberTable& table, Instant) { targets = rounds_.Next(table); });
    const Duration wait = rounds_.Ended(Round(targets), parts_.clock.Now());
    cold_ = rounds_.in_cold_start();
    const Instant next = parts_.clock.Now() + wait;
    for (;;) {
      DialAskers();
      std::unique_lock lock(mutex_);
      const Duration left = next - parts_.clock.Now();
      if (stopping_) return;
      if (left <= Duration(0)) break;
      const bool waiting = !askers_.empty();
      wake_.wait_for(lock, waiting ? std::min(left, kBetweenDials) : left,
                     [&] { return stopping_ || (!waiting && !askers_.empty()); });
    }
  }
}

MemberRounds::Result MemberExchange::Round(const std::vector<MemberRounds::Target>& targets) {
  bool answered = false, news = false;
  for (const Asked& asked : AskAll(targets)) {
    answered = answered || asked.answer.ok();
    news = Take(asked) || news;
    if (!cold_) continue;
    int& refusals = refusals_[asked.target.address.ToString()];
    refusals = HttpClient::WasRefused(asked.answer.status()) ? refusals + 1 : 0;
  }
  if (cold_ && NobodyIsThere()) return MemberRounds::Result::kNobodyThere;
  if (news) return MemberRounds::Result::kNews;
  return answered ? MemberRounds::Result::kNothingNew : MemberRounds::Result::kNoAnswer;
}

bool MemberExchange::NobodyIsThere() const {
  bool nobody = false;
  parts_.members.Look([&](const MemberTable& table, Instant) {
    const std::vector<HostPort> unnamed = table.Unnamed();
    nobody = table.others().empty() && !unnamed.empty() &&
             std::all_of(unnamed.begin(), unnamed.end(), [&](const HostPort& address) {
               const auto found = refusals_.find(address.ToString());
               return found != refusals_.end() && found->second >= MemberRounds::kRefusalsMin;
             });
  });
  return nobody;
}

std::vector<MemberExchange::Asked> MemberExchange::AskAll(const std::vector<MemberRounds::Target>& targets) {
  std::string path;
  parts_.members.Look([&](const MemberTable& table, Instant now) {
    path = absl::StrCat(Abs(kMembersPath), "?since=", EncodeHashes(table.Hashes()));
    if (const RowBucketSet old = table.OldBuckets(now); old != 0)
      absl::StrAppend(&path, "&old=", EncodeBuckets(old));
  });
  std::vector<std::future<absl::StatusOr<PeerClient::Answer>>> answers;
  for (const MemberRounds::Target& target : targets) {
    auto promise = std::make_shared<std::promise<absl::StatusOr<PeerClient::Answer>>>();
    answers.push_back(promise->get_future());
    parts_.client.Ask(
        {target.address, target.name, 0, false, {}}, {path, kMembersBytesMax, kTimeout, own_row_},
        [promise](absl::StatusOr<PeerClient::Answer> got) { promise->set_value(std::move(got)); });
  }
  std::vector<Asked> asked;
  for (size_t i = 0; i < targets.size(); ++i) asked.push_back({targets[i], answers[i].get()});
  return asked;
}

bool MemberExchange::Take(const Asked& asked) {
  const HostPort& at = asked.target.address;
  absl::StatusOr<MembersAnswer> answer =
      asked.answer.ok() ? DecodeMembers(asked.answer->body) : asked.answer.status();
  // An older node does not know the question; it lives.
  if (absl::IsNotFound(answer.status()) || absl::IsCancelled(answer.status())) return false;
  if (absl::IsPermissionDenied(answer.status())) {
    parts_.members.NoteSelf(at.ToString());
    return false;
  }
  if (!answer.ok()) {
    parts_.members.Change([&](MemberTable& table, Instant now) { table.NoteSilence(at, now); });
    return false;
  }
  if (!asked.answer->proven_names.Allow(answer->self.name)) {
    TellOfImpostor(answer->self, at);
    parts_.members.Change([&](MemberTable& table, Instant now) { table.NoteSilence(at, now); });
    return false;
  }
  bool news = false;
  MemberTable::Merge merge = MemberTable::Merge::kNothingNew;
  parts_.members.Change([&](MemberTable& table, Instant now) {
    // Another has that address now.
    if (!asked.target.name.empty() && asked.target.name != answer->self.name)
      table.NoteSilence(asked.target.name, now);
    merge = table.HeardFrom(answer->self, at, now);
    news = merge == MemberTable::Merge::kNew;
    for (MemberTable::Told& told : answer->rows)
      news = table.Hear(std::move(told), now) == MemberTable::Merge::kNew || news;
    for (const MemberTable::ToldAge& told : answer->ages) table.HearAge(told, now);
  });
  Tell(merge, answer->self, at);
  return news;
}

void MemberExchange::Tell(MemberTable::Merge merge, const MemberRow& row, const HostPort& at) {
  const bool foreign = merge == MemberTable::Merge::kRefused && row.protocol != kProtocolMajor;
  if (merge != MemberTable::Merge::kTwin && !foreign) return;
  // Once of each start.
  uint64_t& told = told_[at.ToString()];
  if (std::exchange(told, row.start) == row.start || told_.size() > kToldMax) return;
  if (foreign) {
    parts_.warn(absl::StrCat("member ", row.name, " at ", at.ToString(), " speaks protocol ", row.protocol,
                             " and this node ", kProtocolMajor, ": it is left out"));
    return;
  }
  parts_.warn(absl::StrCat("two nodes that live have the name ", row.name, ", one of them at ", at.ToString(),
                           ": the one that started later serves; give each its own cluster.name"));
}

void MemberExchange::TellOfImpostor(const MemberRow& row, const HostPort& at) {
  uint64_t& told = told_[at.ToString()];
  if (std::exchange(told, row.start) == row.start || told_.size() > kToldMax) return;
  parts_.warn(absl::StrCat("who answers at ", at.ToString(), " calls itself ", row.name,
                           ", which is not the name in its certificate: it is left out"));
}

bool MemberExchange::IsNew(const MemberTable& table, const MemberRow& row) {
  const auto known = table.others().find(row.name);
  return known == table.others().end() || known->second.row.start != row.start;
}

absl::StatusOr<std::string> MemberExchange::Answer(std::string_view since, std::string_view old,
                                                   std::string_view asker, const ProvenNames& proven) {
  MembersAnswer answer;
  const RowHashes theirs = DecodeHashes(since).value_or(RowHashes{});
  const RowBucketSet buckets = DecodeBuckets(old).value_or(0);
  absl::StatusOr<MemberRow> row = DecodeRow(asker);
  if (row.ok() && !proven.Allow(row->name))
    return absl::PermissionDeniedError("Sluice-Member is not the name in the certificate");
  bool is_new = false;
  parts_.members.Look([&](const MemberTable& table, Instant now) {
    answer.self = table.self();
    answer.rows = table.RowsBeside(theirs, now);
    answer.ages = table.AgesOf(buckets, now);
    if (!row.ok() || row->name == table.self().name) return;
    std::erase_if(row->addresses, [&](const HostPort& address) { return !table.MayBeAt(address); });
    if (row->addresses.empty()) return;
    is_new = IsNew(table, *row);
  });
  if (is_new) {
    const std::lock_guard lock(mutex_);
    const bool waits = std::any_of(askers_.begin(), askers_.end(),
                                   [&](const MemberRow& waiting) { return waiting.name == row->name; });
    if (!waits && askers_.size() < kDialsWaitingMax && !stopping_) {
      askers_.push_back(*std::move(row));
      wake_.notify_all();
    }
  }
  return EncodeMembers(answer);
}

void MemberExchange::DialAskers() {
  if (parts_.clock.Now() < next_dials_) return;
  std::vector<MemberRounds::Target> targets;
  std::vector<MemberRow> dialled;
  {
    const std::lock_guard lock(mutex_);
    while (!askers_.empty() && targets.size() < kDialsAtOnceMax) {
      // Where it can be reached decides; who answers there says who it is.
      targets.push_back({askers_.front().addresses.front(), {}});
      dialled.push_back(std::move(askers_.front()));
      askers_.pop_front();
    }
  }
  if (targets.empty()) return;
  next_dials_ = parts_.clock.Now() + kBetweenDials;
  for (const Asked& asked : AskAll(targets)) Take(asked);
  DialElsewhere(std::move(dialled));
}

// Of the addresses of one node some may lead nowhere from here, or to somebody else.
void MemberExchange::DialElsewhere(std::vector<MemberRow> dialled) {
  parts_.members.Look([&](const MemberTable& table, Instant) {
    std::erase_if(dialled, [&](MemberRow& row) {
      row.addresses.erase(row.addresses.begin());
      return row.addresses.empty() || !IsNew(table, row);
    });
  });
  const std::lock_guard lock(mutex_);
  for (MemberRow& row : dialled) {
    if (askers_.size() < kDialsWaitingMax) askers_.push_back(std::move(row));
  }
}

}  // namespace sluice::p2p
