#include "node/daemon/mirror_tenants.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

using api::MirrorRefusal;
using api::MirrorRequest;
using TenantAnswer = p2p::RegistryClient::TenantAnswer;

// A name has no space.
std::string PlaceOf(const BlobOrigin& origin) {
  return absl::StrCat(origin.registry, " ", origin.repository);
}

Digest NameOf(const MirrorRequest& request) {
  return p2p::Sha256::Of(absl::StrCat(PlaceOf(request.origin), " ", request.authorization));
}

template <typename Map, typename Until>
void MakeRoom(Map& map, size_t entries_max, Instant now, Until until) {
  std::erase_if(map, [&](const auto& entry) { return until(entry.second) <= now; });
  if (map.size() < entries_max) return;
  map.erase(std::min_element(map.begin(), map.end(), [&](const auto& a, const auto& b) {
    return until(a.second) < until(b.second);
  }));
}

}  // namespace

void MirrorTenants::Ask(const MirrorRequest& request, Duration timeout, Done done) {
  const Instant now = clock_.Now();
  {
    std::unique_lock lock(mutex_);
    if (!request.authorization.empty()) {
      without_.erase(PlaceOf(request.origin));
      const auto given = given_.find(NameOf(request));
      if (given != given_.end() && given->second.until > now) {
        lock.unlock();
        return std::move(done)(std::nullopt);
      }
    } else if (const auto found = without_.find(PlaceOf(request.origin));
               found != without_.end() && found->second.sent_on && found->second.until > now) {
      lock.unlock();
      telemetry_.mirror_requests[static_cast<size_t>(MirrorResult::kNoCredentials)].Add();
      return std::move(done)(MirrorRefusal{});
    }
  }
  const auto object = request.kind == MirrorRequest::Kind::kBlob ? p2p::RegistryClient::Object::kBlob
                                                                 : p2p::RegistryClient::Object::kManifest;
  registry_.AskAs(request.authorization, request.origin, object, request.reference, timeout,
                  [this, request, done = std::move(done)](absl::StatusOr<TenantAnswer> answer) mutable {
                    std::move(done)(Judge(request, answer));
                  });
}

std::optional<MirrorRefusal> MirrorTenants::Judge(const MirrorRequest& request,
                                                  const absl::StatusOr<TenantAnswer>& answer) {
  if (absl::IsUnavailable(answer.status())) return MirrorRefusal{MirrorRefusal::Why::kOriginAway};
  if (!answer.ok()) return MirrorRefusal{};
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  if (answer->verdict != TenantAnswer::Verdict::kGiven) given_.erase(NameOf(request));
  switch (answer->verdict) {
    case TenantAnswer::Verdict::kGiven:
      MakeRoom(given_, kEntriesMax, now, [](const Given& given) { return given.until; });
      given_[NameOf(request)] = {now + kGivenTtl};
      return std::nullopt;
    case TenantAnswer::Verdict::kAbsent:
      return MirrorRefusal{};
    case TenantAnswer::Verdict::kDenied:
      return MirrorRefusal{MirrorRefusal::Why::kDenied};
    case TenantAnswer::Verdict::kChallenged:
      if (request.authorization.empty()) return Challenge(PlaceOf(request.origin), answer->challenge);
      return MirrorRefusal{MirrorRefusal::Why::kChallenged, answer->challenge};
  }
  return MirrorRefusal{};
}

Grant MirrorTenants::RightOf(const MirrorRequest& request) {
  const std::lock_guard lock(mutex_);
  const auto given = given_.find(NameOf(request));
  if (given != given_.end() && given->second.right) return given->second.right;
  Grant right = registry_.RightOfTenant(request.authorization, request.origin);
  if (given != given_.end()) given->second.right = right;
  return right;
}

void MirrorTenants::Forget(const MirrorRequest& request) {
  const std::lock_guard lock(mutex_);
  given_.erase(NameOf(request));
}

void MirrorTenants::NoteOwnRefused(const BlobOrigin& origin) {
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  MakeRoom(own_refused_until_, kEntriesMax, now, [](Instant until) { return until; });
  own_refused_until_[PlaceOf(origin)] = now + kOwnRefusedTtl;
}

bool MirrorTenants::IsOwnRefused(const BlobOrigin& origin) {
  const std::lock_guard lock(mutex_);
  const auto found = own_refused_until_.find(PlaceOf(origin));
  return found != own_refused_until_.end() && found->second > clock_.Now();
}

// REQUIRES: mutex_ is held
std::optional<MirrorRefusal> MirrorTenants::Challenge(const std::string& place, std::string challenge) {
  const Instant now = clock_.Now();
  MakeRoom(without_, kEntriesMax, now, [](const WithoutCredentials& entry) { return entry.until; });
  const auto [entry, is_first] = without_.try_emplace(place);
  entry->second.until = now + kNoCredentialsTtl;
  if (is_first) return MirrorRefusal{MirrorRefusal::Why::kChallenged, std::move(challenge)};
  if (!std::exchange(entry->second.sent_on, true)) {
    spdlog::warn(
        "{}: a container runtime shows no credentials though it was told that they are needed, and is sent "
        "to the "
        "registry itself. By CRI a mirror is shown none where they come with a server address that is not "
        "the "
        "mirror's: give them without one",
        absl::StrReplaceAll(place, {{" ", "/"}}));
  }
  telemetry_.mirror_requests[static_cast<size_t>(MirrorResult::kNoCredentials)].Add();
  return MirrorRefusal{};
}

}  // namespace sluice
