#include "node/daemon/asker_recipes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/recipe.h"

namespace sluice {

bool AskerRecipes::Has(const std::shared_ptr<Blob>& blob, const std::string& asker) {
  if (parts_.is_provable(*blob)) return true;
  const std::shared_ptr<const BlobSpec> facts = blob->facts();
  const std::shared_ptr<const p2p::MemberView> view = parts_.members.view();
  const auto member = std::find_if(view->members.begin(), view->members.end(), [&](const p2p::Member& each) {
    return each.name == asker && !each.is_self;
  });
  if (!facts->root || member == view->members.end()) return false;
  {
    const std::lock_guard lock(mutex_);
    if (asked_.size() >= kAskedMax || !asked_.insert(blob->key()).second) return false;
  }
  const std::string path =
      absl::StrCat("/sluice/v1/recipes/", facts->digest.ToString(), "?root=", facts->root->ToString());
  parts_.client.Ask(*member, {.path_and_query = path, .bytes_max = p2p::kRecipeBytesMax, .timeout = kTimeout},
                    [self = shared_from_this(), blob](absl::StatusOr<p2p::PeerClient::Answer> answer) {
                      if (!answer.ok()) return self->Ended(blob->key());
                      // It is parsed and written where that may take its time.
                      self->parts_.io.Post([self, blob, bytes = std::move(answer->body)] {
                        self->Take(*blob, bytes);
                        self->Ended(blob->key());
                      });
                    });
  return false;
}

// What binds it is the root that the asker has said. Whoever lies about both gets chunks that fit no
// origin's.
void AskerRecipes::Take(const Blob& blob, const std::string& bytes) {
  const absl::StatusOr<p2p::Recipe> recipe = p2p::Recipe::DecodeTorrent(bytes);
  if (!recipe.ok() || !recipe->IsBoundBy(*blob.facts())) return;
  // A disk that does not take it is asked to again the next time.
  parts_.recipes.PutRecipe(blob.key(), bytes).IgnoreError();
}

void AskerRecipes::Ended(const BlobKey& key) {
  const std::lock_guard lock(mutex_);
  asked_.erase(key);
}

}  // namespace sluice
