#include "p2p/cluster/announcements.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "p2p/cluster/assignment.h"

namespace sluice::p2p {

const std::vector<MemberIndex>& Announcements::RanksOf(const MemberView& view, const Digest& digest) {
  if (ranked_view_ != view.id) ranked_.clear();
  ranked_view_ = view.id;
  std::vector<MemberIndex>& ranks = ranked_[digest];
  if (!ranks.empty()) return ranks;
  const uint64_t blob_key = ScoreKeyOf(digest);
  std::vector<std::pair<uint64_t, MemberIndex>> scores;
  for (size_t i = 0; i < view.members.size(); ++i) {
    // The higher score first, a tie to the lesser name.
    scores.emplace_back(~BlobScore(blob_key, view.members[i].score_key), static_cast<MemberIndex>(i));
  }
  const size_t count = std::min(kRanksTold, scores.size());
  std::partial_sort(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(count), scores.end());
  for (size_t i = 0; i < count; ++i) ranks.push_back(scores[i].second);
  return ranks;
}

std::vector<Announcements::Batch> Announcements::Due(
    const MemberView& view, const std::vector<HeldBlob>& held,
    const std::function<uint64_t(const std::string&)>& start_of, Instant now) {
  std::map<MemberIndex, Batch> batches;
  const auto batch_of = [&](MemberIndex index, uint64_t start) -> Batch& {
    Batch& batch = batches[index];
    batch.to = view.members[index];
    batch.start = start;
    return batch;
  };
  absl::flat_hash_set<std::pair<std::string, BlobIdentity>> due_there;  // what each rank is to know
  for (const HeldBlob& blob : held) {
    for (const MemberIndex index : RanksOf(view, blob.blob.digest)) {
      const Member& member = view.members[index];
      if (member.is_self) continue;
      const uint64_t start = start_of(member.name);
      Rank& rank = ranks_[member.name];
      if (rank.start != start) rank = {start, {}};
      due_there.emplace(member.name, blob.blob);
      const auto told = rank.told.find(blob.blob);
      if (told != rank.told.end() && told->second.whole == blob.whole) {
        const bool as_told = told->second.share_bytes == blob.share_bytes();
        if (now - told->second.when < (as_told ? kRepeat : kRepeatChanged)) continue;
      }
      Batch& batch = batch_of(index, start);
      if (batch.held.size() < kBlobsPerBatch) batch.held.push_back(blob);
    }
  }
  // What is gone is told to those that still are ranks; the others forget it by themselves.
  for (auto rank = ranks_.begin(); rank != ranks_.end();) {
    const auto member =
        std::lower_bound(view.members.begin(), view.members.end(), rank->first,
                         [](const Member& m, const std::string& name) { return m.name < name; });
    if (member == view.members.end() || member->name != rank->first) {
      ranks_.erase(rank++);
      continue;
    }
    for (const auto& [blob, told] : rank->second.told) {
      if (due_there.contains({rank->first, blob})) continue;
      Batch& batch = batch_of(static_cast<MemberIndex>(member - view.members.begin()), rank->second.start);
      if (batch.gone.size() < kBlobsPerBatch) batch.gone.push_back(blob);
    }
    ++rank;
  }
  std::vector<Batch> due;
  for (auto& [index, batch] : batches) due.push_back(std::move(batch));
  return due;
}

void Announcements::Told(const Batch& batch, Instant now) {
  const auto found = ranks_.find(batch.to.name);
  if (found == ranks_.end() || found->second.start != batch.start) return;
  for (const HeldBlob& blob : batch.held)
    found->second.told[blob.blob] = {blob.whole, blob.share_bytes(), now};
  for (const BlobIdentity& blob : batch.gone) found->second.told.erase(blob);
}

}  // namespace sluice::p2p
