#include "node/daemon/member_recipes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/recipe.h"

namespace sluice {

bool MemberRecipes::Await(const std::shared_ptr<Blob>& blob, const std::string& member, Then then) {
  if (parts_.is_provable(*blob)) {
    std::move(then)(true);
    return true;
  }
  const std::shared_ptr<const BlobSpec> facts = blob->facts();
  const std::shared_ptr<const p2p::MemberView> view = parts_.members.view();
  const auto found = std::find_if(view->members.begin(), view->members.end(), [&](const p2p::Member& each) {
    return each.name == member && !each.is_self;
  });
  const Asked asked(blob->key(), member);
  bool is_first = false;
  if (!facts->root || found == view->members.end() || !Join(asked, then, &is_first)) {
    std::move(then)(false);
    return true;
  }
  if (!is_first) return false;
  const std::string path =
      absl::StrCat("/sluice/v1/recipes/", facts->digest.ToString(), "?root=", facts->root->ToString());
  parts_.client.Ask(*found, {.path_and_query = path, .bytes_max = p2p::kRecipeBytesMax, .timeout = kTimeout},
                    [self = shared_from_this(), blob, asked](absl::StatusOr<p2p::PeerClient::Answer> answer) {
                      // It is parsed, written and looked for where that may take its time.
                      self->parts_.io.Post(
                          [self, blob, asked, bytes = answer.ok() ? std::move(answer->body) : std::string()] {
                            if (!bytes.empty()) self->Take(*blob, bytes);
                            self->Ended(*blob, asked);
                          });
                    });
  return false;
}

// Whether `then` is called when the recipe has come, or has not.
bool MemberRecipes::Join(const Asked& asked, Then& then, bool* is_first) {
  const std::lock_guard lock(mutex_);
  if (const auto found = asked_.find(asked); found != asked_.end()) {
    found->second.push_back(std::move(then));
    return true;
  }
  const Instant now = parts_.clock.Now();
  const auto refused = refused_.find(asked);
  if (asked_.size() >= kAskedMax || (refused != refused_.end() && refused->second > now)) return false;
  *is_first = true;
  asked_[asked].push_back(std::move(then));
  return true;
}

// What binds it is the root that the asker has said. Whoever lies about both gets chunks that fit no
// origin's.
void MemberRecipes::Take(const Blob& blob, const std::string& bytes) const {
  const absl::StatusOr<p2p::Recipe> recipe = p2p::Recipe::DecodeTorrent(bytes);
  if (!recipe.ok() || !recipe->IsBoundBy(*blob.facts())) return;
  // A disk that does not take it is asked to again the next time.
  parts_.recipes.PutRecipe(blob.key(), bytes).IgnoreError();
}

void MemberRecipes::Ended(const Blob& blob, const Asked& asked) {
  const bool provable = parts_.is_provable(blob);
  std::vector<Then> waiting;
  {
    const std::lock_guard lock(mutex_);
    const auto found = asked_.find(asked);
    waiting = std::move(found->second);
    asked_.erase(found);
    const Instant now = parts_.clock.Now();
    if (refused_.size() >= kRefusedMax)
      absl::erase_if(refused_, [&](const auto& entry) { return entry.second <= now; });
    if (!provable && refused_.size() < kRefusedMax) refused_[asked] = now + kRefused;
  }
  for (Then& then : waiting) std::move(then)(provable);
}

}  // namespace sluice
