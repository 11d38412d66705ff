#include "p2p/cluster/holders.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/holder_codec.h"
#include "p2p/cluster/ranks.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kAnswerBytesMax = 64 << 10;
constexpr Duration kExpireInterval = std::chrono::minutes(1);
// Members that are told at once: with certificates no more than that is begun in what they may take to
// answer.
constexpr size_t kToldAtOnceMax = 32;

// Null: none of that name.
const Member* FindMember(const MemberView& view, const std::string& name) {
  const auto found =
      std::lower_bound(view.members.begin(), view.members.end(), name,
                       [](const Member& member, const std::string& wanted) { return member.name < wanted; });
  return found != view.members.end() && found->name == name ? &*found : nullptr;
}
bool IsMember(const MemberView& view, const std::string& name) {
  return FindMember(view, name) != nullptr;
}

// Of each holder the most that anybody says.
void NoteMost(const std::vector<HolderShare>& told, std::map<std::string, uint64_t>* shares) {
  for (const HolderShare& share : told) {
    uint64_t& bytes = (*shares)[share.name];
    bytes = std::max(bytes, share.present_bytes);
  }
}

// Of one that does not say how much each has it is not known that any has all.
std::vector<HolderShare> SharesIn(std::string_view answer) {
  if (std::optional<std::vector<HolderShare>> shares = ParseShares(answer)) return *std::move(shares);
  std::vector<HolderShare> shares;
  for (std::string& name : ParseHolders(answer).value_or(std::vector<std::string>()))
    shares.push_back({std::move(name), 0});
  return shares;
}

}  // namespace

// The ranks of one blob, while they are asked.
struct Holders::Asking {
  bool begun = false;
  size_t open = 0;
  std::map<std::string, uint64_t> shares;
  std::vector<absl::AnyInvocable<void() &&>> waiting;
};

struct Holders::Shared {
  explicit Shared(Parts the_parts) : parts(std::move(the_parts)) {}

  // REQUIRES: mutex is held
  Named* Find(const BlobIdentity& blob, const std::string& holder) {
    const auto found = answers.find(blob);
    if (found == answers.end()) return nullptr;
    std::vector<Named>& holders = found->second.holders;
    const auto named =
        std::find_if(holders.begin(), holders.end(), [&](const Named& n) { return n.name == holder; });
    return named == holders.end() ? nullptr : &*named;
  }
  void Remove(const BlobIdentity& blob, const std::string& holder) {
    table.Remove(blob, holder);
    const auto found = answers.find(blob);
    if (found == answers.end()) return;
    std::erase_if(found->second.holders, [&](const Named& named) { return named.name == holder; });
  }

  size_t Random(size_t bound) const {
    return std::min(bound - 1, static_cast<size_t>(parts.random() * static_cast<double>(bound)));
  }

  const Parts parts;

  std::mutex mutex;  // guards what follows
  bool stopped = false;
  HolderTable table;
  Instant expire_at{};
  Announcements announcements;
  size_t telling = 0;  // batches under way
  absl::flat_hash_map<BlobIdentity, Answers> answers;
  absl::flat_hash_map<BlobIdentity, std::shared_ptr<Asking>> asking;
};

Holders::Holders(Parts parts) : shared_(std::make_shared<Shared>(std::move(parts))) {}

Holders::~Holders() {
  Stop();
}

void Holders::Start() {
  shared_->parts.io.Post([shared = shared_] { Tick(shared); });
}

void Holders::Stop() {
  const std::lock_guard lock(shared_->mutex);
  shared_->stopped = true;
}

// Nodes look at different times, so that a new rank is not told by all of them at once.
void Holders::Tick(const std::shared_ptr<Shared>& shared) {
  {
    const std::lock_guard lock(shared->mutex);
    if (shared->stopped) return;
  }
  Announce(shared);
  const auto wait = std::chrono::duration_cast<Duration>(kTick * (0.5 + shared->parts.random() / 2));
  shared->parts.io.PostAt(shared->parts.clock.Now() + wait, [shared] { Tick(shared); });
}

void Holders::Announce(const std::shared_ptr<Shared>& shared) {
  const Parts& parts = shared->parts;
  const std::vector<HeldBlob> held = parts.held();
  const std::shared_ptr<const MemberView> view = parts.members.view();
  absl::flat_hash_map<std::string, uint64_t> starts;
  std::string self;
  parts.members.Look([&](const MemberTable& table, Instant) {
    self = table.self().name;
    for (const auto& [name, entry] : table.others()) starts[name] = entry.row.start;
  });
  std::vector<Announcements::Batch> due;
  {
    const std::lock_guard lock(shared->mutex);
    const Instant now = parts.clock.Now();
    if (now >= shared->expire_at) {
      shared->table.Expire(now);
      shared->expire_at = now + kExpireInterval;
    }
    if (shared->telling > 0) return;  // the next look takes what is due then
    const auto start_of = [&](const std::string& name) {
      const auto found = starts.find(name);
      return found == starts.end() ? 0 : found->second;
    };
    due = shared->announcements.Due(*view, held, start_of, now);
    std::erase_if(due, [&](const auto& batch) { return !parts.health.Usable(batch.to, now); });
    // Some of those that are due, and not the same ones that other nodes begin with.
    for (size_t i = 0; i < std::min(due.size(), kToldAtOnceMax); ++i)
      std::swap(due[i], due[i + shared->Random(due.size() - i)]);
    if (due.size() > kToldAtOnceMax) due.resize(kToldAtOnceMax);
    shared->telling = due.size();
  }
  for (Announcements::Batch& batch : due) {
    PeerClient::Question question{kHoldersPath, kAnswerBytesMax, kTimeout};
    question.body = FormatAnnouncement({self, batch.held, batch.gone});
    question.fetch_class = FetchClass::kBackfill;  // what readers ask goes first
    parts.client.Ask(batch.to, question, [shared, batch](const absl::StatusOr<PeerClient::Answer>& answer) {
      const std::lock_guard lock(shared->mutex);
      --shared->telling;
      if (answer.ok()) shared->announcements.Told(batch, shared->parts.clock.Now());
    });
  }
}

std::string Holders::Answer(const Question& question) {
  const std::optional<BlobIdentity> blob =
      MakeBlobIdentity(question.digest, question.size, question.chunk, question.root);
  if (!blob) return {};
  const std::shared_ptr<const MemberView> view = shared_->parts.members.view();
  if (question.shares == "1") return FormatShares(OwnShares(shared_, *view, *blob));
  std::vector<std::string> names;
  {
    const std::lock_guard lock(shared_->mutex);
    names = shared_->table.Find(*blob, kHoldersNamedMax, shared_->parts.clock.Now(),
                                [&](size_t bound) { return shared_->Random(bound); });
  }
  std::erase_if(names, [&](const std::string& name) { return !IsMember(*view, name); });
  return FormatHolders(names);
}

absl::StatusOr<std::string> Holders::AnswerPresence(const Question& question) {
  const std::optional<BlobIdentity> blob =
      MakeBlobIdentity(question.digest, question.size, question.chunk, question.root);
  if (!blob) return absl::InvalidArgumentError("digest, size, chunk and root must say which blob");
  const std::optional<ChunkSet> present =
      shared_->parts.present ? shared_->parts.present(*blob) : std::nullopt;
  if (!present) return absl::NotFoundError("it is not here");
  return FormatPresence(*present);
}

absl::Status Holders::Take(std::string_view body, const ProvenNames& proven) {
  const std::optional<Announcement> announcement = ParseAnnouncement(body);
  if (!announcement || !IsMember(*shared_->parts.members.view(), announcement->holder))
    return absl::InvalidArgumentError("no announcement of a member");
  if (!proven.Allow(announcement->holder))
    return absl::PermissionDeniedError("the announcement's holder is not the name in the certificate");
  const std::lock_guard lock(shared_->mutex);
  const Instant now = shared_->parts.clock.Now();
  for (const HeldBlob& held : announcement->held) shared_->table.Add(held, announcement->holder, now);
  for (const BlobIdentity& gone : announcement->gone) shared_->table.Remove(gone, announcement->holder);
  return absl::OkStatus();
}

// What this node was told.
std::vector<HolderShare> Holders::OwnShares(const std::shared_ptr<Shared>& shared, const MemberView& view,
                                            const BlobIdentity& blob) {
  std::vector<HolderShare> shares;
  {
    const std::lock_guard lock(shared->mutex);
    shares = shared->table.Shares(blob, kHoldersNamedMax, shared->parts.clock.Now());
  }
  std::erase_if(shares, [&](const HolderShare& share) { return !IsMember(view, share.name); });
  return shares;
}

std::optional<BlobIdentity> Holders::IdentityOf(const Blob& blob) {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  if (!facts->root) return std::nullopt;
  return BlobIdentity{facts->digest, facts->size, facts->chunk_size, *facts->root};
}

std::optional<std::vector<BlobHolder>> Holders::Known(const BlobIdentity& blob) const {
  const std::lock_guard lock(shared_->mutex);
  const auto found = shared_->answers.find(blob);
  const Instant now = shared_->parts.clock.Now();
  if (found == shared_->answers.end() || now - found->second.asked >= kAnswerKept) return std::nullopt;
  std::vector<BlobHolder> holders;
  for (const Named& named : found->second.holders)
    holders.push_back({named.name, now - named.told < kPresenceKept ? named.present : nullptr});
  return holders;
}

void Holders::Ask(const BlobIdentity& blob, FetchClass fetch_class, absl::AnyInvocable<void() &&> done) {
  const Parts& parts = shared_->parts;
  std::shared_ptr<Asking> asking;
  bool is_first = false;
  {
    const std::lock_guard lock(shared_->mutex);
    std::shared_ptr<Asking>& under_way = shared_->asking[blob];
    is_first = !under_way;
    if (is_first) under_way = std::make_shared<Asking>();
    asking = under_way;
    asking->waiting.push_back(std::move(done));
  }
  if (!IsFill(fetch_class)) return Begin(shared_, blob, asking);
  if (!is_first) return;
  const auto members = static_cast<int64_t>(parts.members.view()->members.size());
  const auto wait = std::min<Duration>(members * kFillWaitOfEach, kFillWaitMax) * parts.random();
  parts.io.PostAt(parts.clock.Now() + std::chrono::duration_cast<Duration>(wait),
                  [shared = shared_, blob, asking] { Begin(shared, blob, asking); });
}

void Holders::Hurry(const BlobIdentity& blob) {
  std::shared_ptr<Asking> asking;
  {
    const std::lock_guard lock(shared_->mutex);
    const auto found = shared_->asking.find(blob);
    if (found == shared_->asking.end()) return;
    asking = found->second;
  }
  Begin(shared_, blob, asking);
}

// Once, whoever comes to it first.
void Holders::Begin(const std::shared_ptr<Shared>& shared, const BlobIdentity& blob,
                    const std::shared_ptr<Asking>& asking) {
  {
    const std::lock_guard lock(shared->mutex);
    if (std::exchange(asking->begun, true)) return;
  }
  const Parts& parts = shared->parts;
  const std::shared_ptr<const MemberView> view = parts.members.view();
  const std::vector<Member> ranks =
      RanksOfBlob(*view, blob.digest, parts.health, kRanksAsked, parts.clock.Now());
  std::vector<HolderShare> own;
  {
    const std::lock_guard lock(shared->mutex);
    asking->open = 1 + ranks.size();
    own = shared->table.Shares(blob, kHoldersNamedMax, parts.clock.Now());
  }
  for (const Member& rank : ranks) {
    const PeerClient::Question question{
        absl::StrCat(kHoldersPath, "?", FormatHoldersQuery(blob), kSharesQuery),
        kAnswerBytesMax,
        kTimeout,
        {},
        {}};
    parts.client.Ask(
        rank, question, [shared, blob, asking](const absl::StatusOr<PeerClient::Answer>& answer) {
          Answered(shared, blob, asking, answer.ok() ? SharesIn(answer->body) : std::vector<HolderShare>());
        });
  }
  Answered(shared, blob, asking, own);
}

void Holders::Answered(const std::shared_ptr<Shared>& shared, const BlobIdentity& blob,
                       const std::shared_ptr<Asking>& asking, const std::vector<HolderShare>& shares) {
  std::vector<absl::AnyInvocable<void() &&>> waiting;
  {
    const std::lock_guard lock(shared->mutex);
    NoteMost(shares, &asking->shares);
    if (--asking->open > 0) return;
    if (shared->answers.size() >= kAnswersMax) shared->answers.clear();
    Answers& answers = shared->answers[blob];
    answers = {{}, shared->parts.clock.Now()};
    for (auto& [name, bytes] : asking->shares) answers.holders.push_back({name, bytes >= blob.size});
    // Those that have all of it first, but not the same of them to everybody.
    for (size_t i = answers.holders.size(); i > 1; --i)
      std::swap(answers.holders[i - 1], answers.holders[shared->Random(i)]);
    std::stable_partition(answers.holders.begin(), answers.holders.end(),
                          [](const Named& named) { return named.whole; });
    waiting.swap(asking->waiting);
    shared->asking.erase(blob);
  }
  for (auto& done : waiting) std::move(done)();
}

// The ranks of one blob, while they are asked for shares.
struct Holders::AskingShares {
  std::mutex mutex;  // guards what follows
  size_t open = 0;
  bool answered = false;
  std::map<std::string, uint64_t> shares;
  OnShares done;
};

// Whether it did not answer when it was asked last: who looks for a node that has something looks for one
// that lives.
bool Holders::IsSilent(const std::shared_ptr<Shared>& shared, const std::string& name) {
  bool silent = false;
  shared->parts.members.Look([&](const MemberTable& table, Instant) {
    const auto found = table.others().find(name);
    silent = found != table.others().end() && found->second.contact == MemberTable::Contact::kSilent;
  });
  return silent;
}

void Holders::AskShares(const BlobIdentity& blob, OnShares done) {
  const Parts& parts = shared_->parts;
  const std::shared_ptr<const MemberView> view = parts.members.view();
  const std::vector<Member> ranks =
      RanksOfBlob(*view, blob.digest, parts.health, kRanksAsked, parts.clock.Now());
  const auto asking = std::make_shared<AskingShares>();
  asking->open = 1 + ranks.size();
  asking->done = std::move(done);
  for (const Member& rank : ranks) {
    const PeerClient::Question question{
        absl::StrCat(kHoldersPath, "?", FormatHoldersQuery(blob), kSharesQuery),
        kAnswerBytesMax,
        kTimeout,
        {},
        {}};
    parts.client.Ask(rank, question,
                     [shared = shared_, asking](const absl::StatusOr<PeerClient::Answer>& answer) {
                       TakeShares(shared, asking, answer.ok() ? ParseShares(answer->body) : std::nullopt);
                     });
  }
  std::optional<std::vector<HolderShare>> own = OwnShares(shared_, *view, blob);
  // Who is no rank was told nothing, which says nothing.
  if (own->empty() && !ranks.empty()) own.reset();
  TakeShares(shared_, asking, std::move(own));
}

void Holders::TakeShares(const std::shared_ptr<Shared>& shared, const std::shared_ptr<AskingShares>& asking,
                         const std::optional<std::vector<HolderShare>>& shares) {
  std::optional<std::vector<HolderShare>> all;
  {
    const std::lock_guard lock(asking->mutex);
    if (shares) {
      asking->answered = true;
      NoteMost(*shares, &asking->shares);
    }
    if (--asking->open > 0) return;
    if (asking->answered) {
      all.emplace();
      for (const auto& [name, bytes] : asking->shares) all->push_back({name, bytes});
    }
  }
  if (all) std::erase_if(*all, [&](const HolderShare& share) { return IsSilent(shared, share.name); });
  std::move(asking->done)(std::move(all));
}

// Who has some of it may have the next chunk. Who has said which, and has not got one of them, has lost it.
void Holders::NoteLacks(const BlobIdentity& blob, const std::string& holder) {
  const Parts& parts = shared_->parts;
  const std::shared_ptr<const MemberView> view = parts.members.view();
  const Member* const member = FindMember(*view, holder);
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->table.NoteLacks(blob, holder);
    Named* const named = shared_->Find(blob, holder);
    if (!named || named->is_asked) return;
    const bool has_said = named->present && parts.clock.Now() - named->told < kPresenceKept;
    const std::vector<Named>& all = shared_->answers.at(blob).holders;
    const auto asked = std::count_if(all.begin(), all.end(), [](const Named& n) { return n.is_asked; });
    if (named->whole || has_said || !member || shared_->stopped ||
        static_cast<size_t>(asked) >= kPresenceAskedMax) {
      return shared_->Remove(blob, holder);
    }
    named->is_asked = true;
  }
  const PeerClient::Question question{FormatPresencePath(blob), kPresenceBytesMax, kTimeout, {}, {}};
  parts.client.Ask(*member, question,
                   [shared = shared_, blob, holder](const absl::StatusOr<PeerClient::Answer>& answer) {
                     TookPresence(shared, blob, holder, answer);
                   });
}

void Holders::TookPresence(const std::shared_ptr<Shared>& shared, const BlobIdentity& blob,
                           const std::string& holder, const absl::StatusOr<PeerTransport::Answer>& answer) {
  std::optional<ChunkSet> present;
  if (answer.ok())
    present = ParsePresence(answer->body, ChunkGeometry(blob.size, blob.chunk_size).chunk_count());
  const std::lock_guard lock(shared->mutex);
  Named* const named = shared->Find(blob, holder);
  if (!present) return shared->Remove(blob, holder);
  if (!named) return;
  named->is_asked = false;
  named->present = std::make_shared<const ChunkSet>(*std::move(present));
  named->told = shared->parts.clock.Now();
}

}  // namespace sluice::p2p
