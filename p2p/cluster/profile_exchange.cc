#include "p2p/cluster/profile_exchange.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/ranks.h"

namespace sluice::p2p {
namespace {

// One question to all ranks, until it is known what comes of it.
class Asking : public std::enable_shared_from_this<Asking> {
 public:
  Asking(PeerTransport& client, size_t ranks, ProfileExchange::OnFound on_found)
      : client_(client), open_(ranks), on_found_(std::move(on_found)) {}

  // One that failed says nothing of how soon others answer.
  enum class Of { kAnswer, kFailure };
  void Answered(Of what, std::optional<KeptProfile> profile) {
    std::unique_lock lock(mutex_);
    if (profile && (!best_ || profile->profile.runs > best_->profile.runs)) best_ = std::move(profile);
    --open_;
    if (open_ == 0 || (best_ && others_are_late_)) return Finish(std::move(lock));
    if (what == Of::kFailure || std::exchange(heard_, true)) return;
    lock.unlock();
    client_.After(ProfileExchange::kOthersTimeout, [self = shared_from_this()] { self->OthersAreLate(); });
    client_.After(ProfileExchange::kOthersTimeoutWithout,
                  [self = shared_from_this()] { self->Finish(std::unique_lock(self->mutex_)); });
  }

 private:
  void OthersAreLate() {
    std::unique_lock lock(mutex_);
    others_are_late_ = true;
    if (best_) Finish(std::move(lock));
  }
  void Finish(std::unique_lock<std::mutex> lock) {
    if (!on_found_) return;
    ProfileExchange::OnFound on_found = std::exchange(on_found_, nullptr);
    std::optional<KeptProfile> best = std::move(best_);
    lock.unlock();
    std::move(on_found)(std::move(best));
  }

  PeerTransport& client_;
  std::mutex mutex_;
  // Guarded by mutex_.
  size_t open_;
  bool heard_ = false;
  bool others_are_late_ = false;
  std::optional<KeptProfile> best_;
  ProfileExchange::OnFound on_found_;  // null: it is over
};

}  // namespace

void ProfileExchange::Fetch(const Digest& manifest, OnFound on_found) const {
  const std::vector<Member> ranks =
      RanksOfBlob(*parts_.members.view(), manifest, parts_.health, kRanksAsked, parts_.clock.Now());
  if (ranks.empty()) return std::move(on_found)(std::nullopt);
  const auto asking = std::make_shared<Asking>(parts_.client, ranks.size(), std::move(on_found));
  for (const Member& rank : ranks) {
    const PeerTransport::Question question{
        .path_and_query = absl::StrCat(kProfilesPath, "/", manifest.ToString()),
        .bytes_max = kProfileBytesMax,
        .timeout = kTimeout};
    parts_.client.Ask(
        rank, question, [asking, manifest](const absl::StatusOr<PeerTransport::Answer>& answer) {
          std::optional<KeptProfile> profile;
          if (answer.ok()) profile = ParseKept(answer->body);
          if (profile && profile->manifest != manifest) profile.reset();
          const bool knows = answer.ok() || absl::IsNotFound(answer.status());
          asking->Answered(knows ? Asking::Of::kAnswer : Asking::Of::kFailure, std::move(profile));
        });
  }
}

void ProfileExchange::Send(const StartRecord& record) const {
  const std::string body = FormatStart(record);
  for (const Member& rank :
       RanksOfBlob(*parts_.members.view(), record.manifest, parts_.health, kRanksAsked, parts_.clock.Now())) {
    const PeerTransport::Question question{.path_and_query = kProfilesPath,
                                           .bytes_max = kProfileBytesMax,
                                           .timeout = kSendTimeout,
                                           .body = body};
    parts_.client.Ask(rank, question, [](const absl::StatusOr<PeerTransport::Answer>&) {});
  }
}

absl::StatusOr<StartRecord> ProfileExchange::Accept(std::string_view text, const ProvenNames& proven) const {
  std::optional<StartRecord> record = ParseStart(text);
  const std::shared_ptr<const MemberView> view = parts_.members.view();
  const bool is_of_member =
      record && std::any_of(view->members.begin(), view->members.end(),
                            [&](const Member& member) { return member.name == record->recorder; });
  if (!is_of_member) return absl::InvalidArgumentError("no start that a member has recorded");
  if (!proven.Allow(record->recorder))
    return absl::PermissionDeniedError("the recorder is not the name in the certificate");
  return *std::move(record);
}

}  // namespace sluice::p2p
