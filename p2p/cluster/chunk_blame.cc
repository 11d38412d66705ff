#include "p2p/cluster/chunk_blame.h"

#include <algorithm>
#include <string_view>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sluice::p2p {
namespace {

uint64_t HashOf(std::span<const std::byte> bytes) {
  return absl::HashOf(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

std::string Describe(const Blob& blob, ChunkIndex index) {
  return absl::StrCat("chunk ", index.value(), " of blob ", blob.digest().ToString());
}

// All that is said of it, but for what is news now and then.
std::string KeyOf(const ChunkSender& sender) {
  return absl::StrCat(sender.member.name, "\n", sender.member.address.ToString(), "\n", sender.origin, "\n",
                      static_cast<int>(sender.as_verified), "\n", absl::StrJoin(sender.passed_on, ","));
}

const Member* FindByName(const MemberView& view, const std::string& name) {
  const auto found =
      std::lower_bound(view.members.begin(), view.members.end(), name,
                       [](const Member& member, const std::string& wanted) { return member.name < wanted; });
  return found == view.members.end() || found->name != name ? nullptr : &*found;
}

}  // namespace

SenderId ChunkBlame::IdOf(ChunkSender sender) {
  const std::lock_guard lock(mutex_);
  std::string key = KeyOf(sender);
  if (const std::optional<SenderId> known = KnownId(key, sender)) return *known;
  if (sender_ids_.size() >= kSendersMax) {
    sender_ids_.clear();
    senders_.clear();
    rows_of_member_.clear();
  }
  if (!sender.passed_on.empty() && ++rows_of_member_[sender.member.name] > kRowsOfMemberMax) {
    sender.passed_on.clear();
    key = KeyOf(sender);
    if (const std::optional<SenderId> known = KnownId(key, sender)) return *known;
  }
  const SenderId id = next_sender_++;
  sender_ids_.emplace(std::move(key), id);
  senders_.emplace(id, std::move(sender));
  return id;
}

// REQUIRES: mutex_ is held
std::optional<SenderId> ChunkBlame::KnownId(const std::string& key, const ChunkSender& sender) {
  const auto known = sender_ids_.find(key);
  if (known == sender_ids_.end()) return std::nullopt;
  Instant& since = senders_.at(known->second).public_since;
  since = std::max(since, sender.public_since);
  return known->second;
}

std::optional<ChunkSender> ChunkBlame::Find(SenderId id) const {
  const std::lock_guard lock(mutex_);
  const auto found = senders_.find(id);
  if (found == senders_.end()) return std::nullopt;
  return found->second;
}

// ------------------------------------------------------------------------------------ what is unproven

void ChunkBlame::Unproven(SenderId sender, const Blob& blob, ChunkIndex index,
                          std::span<const std::byte> bytes) {
  const uint64_t hash = HashOf(bytes);
  const std::lock_guard lock(mutex_);
  if (unproven_count_ >= kUnprovenMax && !unproven_.empty()) ForgetSent(unproven_.begin()->first);
  const auto [place, is_new] = unproven_[blob.key()].try_emplace(index);
  if (is_new) ++unproven_count_;
  SentOfChunk& sent = place->second;
  const auto same = std::find_if(sent.begin(), sent.end(), [&](const Sent& s) { return s.hash == hash; });
  if (same != sent.end()) sent.erase(same);
  // Two may have sent it at the same time; who came before them is of no use any more.
  if (sent.size() == 2) sent.erase(sent.begin());
  sent.push_back({sender, hash});
}

std::vector<std::string> ChunkBlame::PassedOnBy(const Blob& blob, ChunkIndex index) const {
  const std::lock_guard lock(mutex_);
  const auto of_blob = unproven_.find(blob.key());
  if (of_blob == unproven_.end()) return {};
  const auto sent = of_blob->second.find(index);
  if (sent == of_blob->second.end()) return {};
  const auto sender = senders_.find(sent->second.back().sender);
  // What is here since it was had from the registry alone is the registry's.
  if (sender == senders_.end() || sent->second.back().registry_differs) return {};
  std::vector<std::string> names = {sender->second.member.name};
  if (sender->second.as_verified) return names;
  const std::vector<std::string>& before = sender->second.passed_on;
  names.insert(names.end(), before.begin(), before.end());
  // It is the last that counts.
  if (names.size() > ChunkSender::kPassedOnMax)
    names.erase(names.begin() + 1, names.end() - static_cast<std::ptrdiff_t>(ChunkSender::kPassedOnMax - 1));
  return names;
}

void ChunkBlame::ForgetSent(const BlobKey& key) {
  const auto found = unproven_.find(key);
  if (found == unproven_.end()) return;
  unproven_count_ -= found->second.size();
  unproven_.erase(found);
}

void ChunkBlame::ForgetDoubts(const BlobKey& key) {
  absl::erase_if(in_doubt_, [&](const auto& entry) { return entry.first.first == key; });
  in_doubt_count_ = in_doubt_.size();
}

// ----------------------------------------------------------------------------------- what was wrong

// REQUIRES: mutex_ is held
ChunkBlame::Doubt* ChunkBlame::DoubtOf(const Blob& blob, ChunkIndex index) {
  const ChunkKey chunk(blob.key(), index);
  if (in_doubt_.size() >= kInDoubtMax && !in_doubt_.contains(chunk)) in_doubt_.erase(in_doubt_.begin());
  Doubt* const doubt = &in_doubt_[chunk];
  in_doubt_count_ = in_doubt_.size();
  // A manifest's word takes the place of a member's, and with it of all that was held against that.
  const bool of_claim = !blob.facts()->root;
  if (std::exchange(doubt->of_claim, of_claim) && !of_claim) doubt->senders.clear();
  return doubt;
}

void ChunkBlame::SentWrong(SenderId sender, const Blob& blob, ChunkIndex index) {
  {
    const std::lock_guard lock(mutex_);
    if (!senders_.contains(sender)) return;
    // What the chunk was held against may have been dropped since, with all doubts that it gave rise to.
    if (!blob.facts()->root && parts_.has_claim && !parts_.has_claim(blob)) return;
    absl::InlinedVector<SenderId, 2>& senders = DoubtOf(blob, index)->senders;
    if (std::find(senders.begin(), senders.end(), sender) == senders.end()) senders.push_back(sender);
  }
  parts_.warn(absl::StrCat(Describe(blob, index),
                           " is not what its recipe promises: dropped, and the registry is asked first"));
}

void ChunkBlame::FoundWrong(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes) {
  const uint64_t hash = HashOf(bytes);
  const std::lock_guard lock(mutex_);
  const auto of_blob = unproven_.find(blob.key());
  if (of_blob == unproven_.end()) return;
  const auto sent = of_blob->second.find(index);
  if (sent == of_blob->second.end()) return;
  for (const Sent& s : sent->second) {
    if (s.hash == hash) DoubtOf(blob, index)->senders.push_back(s.sender);
  }
  of_blob->second.erase(sent);
  --unproven_count_;
}

void ChunkBlame::RegistryWrong(const Blob& blob, ChunkIndex index) {
  if (!blob.facts()->root) return DropClaim(blob, index);
  {
    const std::lock_guard lock(mutex_);
    if (++DoubtOf(blob, index)->registry_wrong < kRegistryTries) return;
  }
  Refute(blob, Describe(blob, index));
}

// No manifest vouches for it: the registry is believed rather than a member.
void ChunkBlame::DropClaim(const Blob& blob, ChunkIndex index) {
  {
    // Both at once: who finds no claim any more finds no doubt either.
    const std::lock_guard lock(mutex_);
    ForgetDoubts(blob.key());
    if (parts_.drop_claim && !parts_.drop_claim(blob)) return;
  }
  parts_.warn(absl::StrCat("the recipe that a member gave for blob ", blob.digest().ToString(),
                           " is dropped, and nobody blamed: chunk ", index.value(),
                           " is another as the registry gives it"));
}

void ChunkBlame::TakeClaim(const BlobKey& blob, const std::function<void()>& claim) {
  const std::lock_guard lock(mutex_);
  ForgetDoubts(blob);
  claim();
}

void ChunkBlame::Right(const Blob& blob, ChunkIndex index) {
  if (in_doubt_count_ == 0) return;
  std::vector<ChunkSender> liars;
  {
    const std::lock_guard lock(mutex_);
    const auto found = in_doubt_.find({blob.key(), index});
    if (found == in_doubt_.end()) return;
    // The manifest's word, which came later, says nothing of who did not fit the member's.
    const bool judged_by_other = found->second.of_claim && blob.facts()->root;
    for (const SenderId id : found->second.senders) {
      const auto sender = senders_.find(id);
      if (sender != senders_.end() && !judged_by_other) liars.push_back(sender->second);
    }
    in_doubt_.erase(found);
    in_doubt_count_ = in_doubt_.size();
  }
  for (const ChunkSender& liar : liars) Convict(liar, Describe(blob, index));
}

// Nobody is blamed for what did not fit it.
void ChunkBlame::Refute(const Blob& blob, const std::string& what) {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  {
    const std::lock_guard lock(mutex_);
    ForgetDoubts(blob.key());
    if (!NoteRefuted(blob)) return;
  }
  parts_.telemetry.refuted_claims.Add();
  if (!facts->root) return;
  std::string manifest = parts_.who_says ? parts_.who_says(blob.digest(), *facts->root) : std::string();
  if (manifest.empty()) {
    manifest = facts->origins.empty() ? "what is said of it here"
                                      : absl::StrCat("a manifest of ", facts->origins.front().registry, "/",
                                                     facts->origins.front().repository);
  }
  parts_.alarm(absl::StrCat(
      "the root ", facts->root->ToString(), " that ", manifest, " annotates is not that of the blob: ", what,
      " does not match it as its registry gives it either. The chunk is not given to readers, no node is "
      "blamed, and none is asked for the blob by that root for ",
      std::chrono::duration_cast<std::chrono::minutes>(kRefutedKept).count(), " min; push the image anew"));
}

// Whether that is news. REQUIRES: mutex_ is held
bool ChunkBlame::NoteRefuted(const Blob& blob) {
  const Instant now = parts_.clock.Now();
  absl::erase_if(refuted_, [&](const auto& entry) { return entry.second.until <= now; });
  if (refuted_.size() >= kRefutedMax && !refuted_.contains(blob.key())) refuted_.erase(refuted_.begin());
  const auto [place, is_new] = refuted_.try_emplace(blob.key());
  const Refuted before = std::exchange(place->second, Refuted{blob.facts()->root, now + kRefutedKept});
  refuted_count_ = refuted_.size();
  return is_new || before.root != place->second.root;
}

bool ChunkBlame::WholeWrong(const Blob& blob) {
  const std::lock_guard lock(mutex_);
  if (!unproven_.contains(blob.key())) return false;
  NoteRefuted(blob);
  return true;
}

// What others sent is compared only where all of the blob is had from the registry: else nobody knows whose
// bytes are here.
void ChunkBlame::RegistryGave(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes) {
  Right(blob, index);
  if (refuted_count_ == 0) return;
  const uint64_t hash = HashOf(bytes);
  const std::lock_guard lock(mutex_);
  const auto of_blob = unproven_.find(blob.key());
  if (!refuted_.contains(blob.key()) || of_blob == unproven_.end()) return;
  const auto sent = of_blob->second.find(index);
  if (sent == of_blob->second.end()) return;
  for (Sent& s : sent->second) s.registry_differs = s.hash != hash;
}

void ChunkBlame::Proven(const Blob& blob) {
  std::vector<std::pair<ChunkSender, ChunkIndex>> liars;
  {
    const std::lock_guard lock(mutex_);
    if (const auto of_blob = unproven_.find(blob.key()); of_blob != unproven_.end()) {
      for (const auto& [index, sent] : of_blob->second) {
        for (const Sent& s : sent) {
          const auto sender = senders_.find(s.sender);
          if (s.registry_differs && sender != senders_.end()) liars.emplace_back(sender->second, index);
        }
      }
    }
    ForgetSent(blob.key());
    ForgetDoubts(blob.key());
    refuted_.erase(blob.key());
    refuted_count_ = refuted_.size();
  }
  for (const auto& [liar, index] : liars) Convict(liar, Describe(blob, index));
}

bool ChunkBlame::IsInDoubt(const Blob& blob, ChunkIndex index) const {
  if (in_doubt_count_ == 0) return false;
  const std::lock_guard lock(mutex_);
  return in_doubt_.contains({blob.key(), index});
}

bool ChunkBlame::IsRefuted(const Blob& blob) const {
  if (refuted_count_ == 0) return false;
  const std::lock_guard lock(mutex_);
  const auto found = refuted_.find(blob.key());
  return found != refuted_.end() && found->second.until > parts_.clock.Now() &&
         found->second.root == blob.facts()->root;
}

// ------------------------------------------------------------------------------------------ the ban

// Who names somebody else must name a member: else it could name nobody. Nothing: it is this node itself.
// REQUIRES: there are other nodes, of which this is one
std::optional<ChunkBlame::Culprit> ChunkBlame::CulpritOf(const ChunkSender& sender) const {
  if (sender.as_verified) return Culprit{sender.member, BanReason::kVerified};
  const std::shared_ptr<const MemberView> view = parts_.members->view();
  for (auto name = sender.passed_on.rbegin(); name != sender.passed_on.rend(); ++name) {
    const Member* const member = FindByName(*view, *name);
    if (!member) continue;
    if (member->is_self) return std::nullopt;
    if (member->name == sender.member.name) break;
    return Culprit{*member, BanReason::kPassedOn};
  }
  return Culprit{sender.member, BanReason::kUnverified};
}

void ChunkBlame::Convict(const ChunkSender& sender, const std::string& chunk) {
  const std::optional<Culprit> culprit = CulpritOf(sender);
  if (!culprit) {
    parts_.warn(absl::StrCat("wrong bytes of ", chunk, " came from member ", sender.member.name,
                             ", which had them from this node: look at this node's disk and memory"));
    return;
  }
  const std::string& name = culprit->member.name;
  std::string what = absl::StrCat(chunk, culprit->reason == BanReason::kVerified ? ", as verified" : "");
  if (culprit->reason == BanReason::kPassedOn)
    absl::StrAppend(&what, ", as member ", sender.member.name, " says, which passed it on");
  const Instant now = parts_.clock.Now();
  const size_t member_count = parts_.members->view()->members.size();
  const MemberHealth::Banned banned = parts_.health.Ban(culprit->member, now, member_count, what);
  if (banned == MemberHealth::Banned::kNewly)
    parts_.telemetry.peer_bans[static_cast<size_t>(culprit->reason)].Add();
  parts_.warn(absl::StrCat(
      "member ", name, " sent wrong bytes for ", what, ": dropped, and it is ",
      banned == MemberHealth::Banned::kNot
          ? std::string("only skipped for a while, since a quarter of the members is banned")
          : absl::StrCat("not asked at ", culprit->member.address.ToString(), " for ",
                         std::chrono::duration_cast<std::chrono::seconds>(kBanTime).count(), " s")));
}

}  // namespace sluice::p2p
