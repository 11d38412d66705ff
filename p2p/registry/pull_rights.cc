#include "p2p/registry/pull_rights.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/registry/registry_call.h"
#include "p2p/registry/registry_exchange.h"

namespace sluice::p2p {
namespace {

const Duration kPublicTime = AuthorizerOptions().finding_ttl;

}  // namespace

void PullRights::Prove(const BlobOrigin& repository, const std::string& path, OnRight done) {
  const absl::StatusOr<AccessNeed> need = core_->PullNeed(repository);
  if (!need.ok()) return std::move(done)(need.status());
  if (std::optional<PullRight> known = core_->authorizer->OwnRight(*need))
    return std::move(done)(*std::move(known));
  const std::string key = absl::StrCat("prove ", repository.registry, " ", repository.repository, " ", path);
  Join(key, std::move(done), [self = shared_from_this(), need = *need, repository, path, key] {
    // What it has already it shows; whether that is good for anything is to be seen.
    if (self->core_->authorizer->HasCredentials(need)) return self->AskForPath(need, repository, path, key);
    self->AskForToken(need, repository, [self, need, repository, path, key](absl::Status asked) {
      // A registry may have nothing at its base, and still have the repository.
      if (!asked.ok() && !absl::IsNotFound(asked)) return self->End(key, std::move(asked));
      if (std::optional<PullRight> right = self->core_->authorizer->OwnRight(need))
        return self->End(key, *std::move(right));
      self->AskForPath(need, repository, path, key);
    });
  });
}

std::string PullRights::Kept(const BlobOrigin& repository) {
  const absl::StatusOr<AccessNeed> need = core_->PullNeed(repository);
  return need.ok() ? core_->authorizer->ShareableToken(*need) : std::string();
}

void PullRights::Renew(const BlobOrigin& repository, const std::string& refused, Done done) {
  const absl::StatusOr<AccessNeed> need = core_->PullNeed(repository);
  if (!need.ok()) return std::move(done)(need.status());
  if (!refused.empty()) core_->authorizer->Forget(*need, refused);
  const auto give = [core = core_, need = *need, refused](Done& to, const absl::Status& asked) {
    std::string token = core->authorizer->ShareableToken(need);
    if (!token.empty() && token != refused) return std::move(to)(std::move(token));
    std::move(to)(asked.ok() ? absl::NotFoundError("there is no token that another node may show") : asked);
  };
  // One that is too young to be dropped would only be refused again.
  if (core_->authorizer->HasCredentials(*need)) return give(done, absl::OkStatus());
  const std::string key = absl::StrCat("token ", repository.registry, " ", repository.repository);
  Join(
      key,
      [give, done = std::move(done)](const absl::StatusOr<PullRight>& right) mutable {
        give(done, right.status());
      },
      [self = shared_from_this(), need = *need, repository, key] {
        self->AskForToken(need, repository, [self, key](const absl::Status& asked) {
          self->End(key, asked.ok() ? absl::StatusOr<PullRight>(PullRight{}) : asked);
        });
      });
}

void PullRights::NotePublic(const BlobOrigin& repository) {
  const std::lock_guard lock(mutex_);
  if (public_until_.size() >= kPublicMax) public_until_.clear();
  public_until_[repository] = core_->parts.clock.Now() + kPublicTime;
}

bool PullRights::IsPublic(const BlobOrigin& repository) {
  const absl::StatusOr<AccessNeed> need = core_->PullNeed(repository);
  if (!need.ok()) return false;
  if (core_->authorizer->IsPublic(*need)) return true;
  // What this node has found out itself goes before it.
  if (core_->authorizer->IsClosedToStrangers(*need)) return false;
  const std::lock_guard lock(mutex_);
  const auto found = public_until_.find(repository);
  return found != public_until_.end() && core_->parts.clock.Now() < found->second;
}

bool PullRights::TakesCredentials(const BlobOrigin& repository) {
  const absl::StatusOr<AccessNeed> need = core_->PullNeed(repository);
  return need.ok() && core_->authorizer->TakesCredentials(*need);
}

// The registry says at its base, too, where tokens are to be had. Source: distribution specification,
// "Determining Support".
void PullRights::AskForToken(const AccessNeed& need, const BlobOrigin& repository,
                             absl::AnyInvocable<void(absl::Status) &&> done) {
  RegistryRequest request{.origin = repository};
  request.location = *Url::Parse(absl::StrCat(need.url.SchemeAndAuthority(), "/v2/"));
  request.deadline = core_->DefaultDeadline();
  request.until = RegistryRequest::Until::kGrant;
  request.belief = AccessNeed::Belief::kPrivate;
  Call(core_, std::move(request), [done = std::move(done)](const absl::StatusOr<Answer>& answer) mutable {
    std::move(done)(answer.status());
  });
}

void PullRights::AskForPath(const AccessNeed& need, const BlobOrigin& repository, const std::string& path,
                            const std::string& key) {
  RegistryRequest request{.origin = repository, .method = "HEAD", .path = path};
  request.deadline = core_->DefaultDeadline();
  request.belief = AccessNeed::Belief::kPrivate;
  Call(core_, std::move(request),
       [self = shared_from_this(), need, key](const absl::StatusOr<Answer>& answer) {
         if (!answer.ok()) return self->End(key, answer.status());
         if (answer->access == OriginAccess::kPublic) return self->End(key, PullRight{});
         self->End(key, PullRight{OriginAccess::kCredentials, self->core_->authorizer->ShareableToken(need)});
       });
}

void PullRights::Join(const std::string& key, OnRight done, absl::AnyInvocable<void() &&> start) {
  {
    std::unique_lock lock(mutex_);
    const bool is_new = !flights_.contains(key);
    if (waiters_ == kWaitersMax || (is_new && flights_.size() == kFlightsMax)) {
      lock.unlock();
      return std::move(done)(
          absl::ResourceExhaustedError("too many rights are asked for at once; try again"));
    }
    ++waiters_;
    flights_[key].push_back(std::move(done));
    if (!is_new) return;
  }
  std::move(start)();
}

void PullRights::End(const std::string& key, const absl::StatusOr<PullRight>& right) {
  Waiters waiters;
  {
    const std::lock_guard lock(mutex_);
    const auto flight = flights_.find(key);
    waiters = std::move(flight->second);
    flights_.erase(flight);
    waiters_ -= waiters.size();
  }
  for (OnRight& waiter : waiters) std::move(waiter)(right);
}

}  // namespace sluice::p2p
