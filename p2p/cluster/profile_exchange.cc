#include "p2p/cluster/profile_exchange.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/ranks.h"

namespace sluice::p2p {
namespace {

// What has come of one question to all ranks.
struct Asking {
  std::mutex mutex;
  size_t open = 0;
  std::optional<KeptProfile> best;
  ProfileExchange::OnFound on_found;
};

void Answered(Asking& asking, std::optional<KeptProfile> profile) {
  ProfileExchange::OnFound on_found;
  std::optional<KeptProfile> best;
  {
    const std::lock_guard lock(asking.mutex);
    if (profile && (!asking.best || profile->profile.runs > asking.best->profile.runs))
      asking.best = std::move(profile);
    if (--asking.open > 0) return;
    best = std::move(asking.best);
    on_found = std::move(asking.on_found);
  }
  std::move(on_found)(std::move(best));
}

}  // namespace

void ProfileExchange::Fetch(const Digest& manifest, OnFound on_found) const {
  const std::vector<Member> ranks =
      RanksOfBlob(*parts_.members.view(), manifest, parts_.health, kRanksAsked, parts_.clock.Now());
  auto asking = std::make_shared<Asking>();
  asking->open = ranks.size() + 1;
  asking->on_found = std::move(on_found);
  for (const Member& rank : ranks) {
    const PeerTransport::Question question{
        .path_and_query = absl::StrCat(kProfilesPath, "/", manifest.ToString()),
        .bytes_max = kProfileBytesMax,
        .timeout = kTimeout};
    parts_.client.Ask(rank, question,
                      [asking, manifest](const absl::StatusOr<PeerTransport::Answer>& answer) {
                        std::optional<KeptProfile> profile;
                        if (answer.ok()) profile = ParseKept(answer->body);
                        if (profile && profile->manifest != manifest) profile.reset();
                        Answered(*asking, std::move(profile));
                      });
  }
  Answered(*asking, std::nullopt);
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
