#include "node/daemon/attached_recipes.h"

#include <algorithm>
#include <future>
#include <memory>
#include <utility>
#include <variant>

#include "p2p/recipe/recipe.h"

namespace sluice {
namespace {

using Answer = absl::StatusOr<std::string>;
using Fetched = absl::StatusOr<p2p::FetchedManifest>;

Answer NoneMatches() {
  return absl::NotFoundError("no recipe that matches the root in the manifest is attached to the image");
}

}  // namespace

absl::Status AttachedRecipes::List() {
  ++round_trips_;
  const absl::StatusOr<std::vector<p2p::Descriptor>> referrers =
      documents_.Referrers(origin_, manifest_, std::string(p2p::media_type::kRecipeArtifact));
  if (!referrers.ok()) return referrers.status();
  absl::Status last;
  for (size_t i = 0; i < std::min(referrers->size(), kReferrersMax); ++i)
    ListOf((*referrers)[i].digest, last);
  return recipes_.empty() ? last : absl::OkStatus();
}

void AttachedRecipes::ListOf(const Digest& referrer, absl::Status& last) {
  ++round_trips_;
  const absl::StatusOr<p2p::FetchedManifest> fetched = documents_.Manifest(origin_, referrer.ToString());
  const absl::StatusOr<p2p::Manifest> manifest =
      fetched.ok() ? p2p::ParseManifest(fetched->body, fetched->media_type) : fetched.status();
  if (!manifest.ok()) {
    last = manifest.status();
    return;
  }
  const auto* artifact = std::get_if<p2p::ImageManifest>(&*manifest);
  if (!artifact) return;
  for (const p2p::Descriptor& layer : artifact->layers) {
    const absl::StatusOr<Digest> blob = Digest::Parse(layer.Annotation(p2p::annotation::kRecipeBlob));
    if (blob.ok()) recipes_[*blob].push_back(layer);
  }
}

std::vector<Answer> AttachedRecipes::Fetch(std::span<const BlobSpec> specs) {
  if (!listed_) listed_ = List();
  std::vector<Answer> answers(specs.size(), NoneMatches());
  if (!listed_->ok()) std::fill(answers.begin(), answers.end(), Answer(*listed_));
  // Where there are several, the next ones are asked for together again.
  for (size_t attempt = 0; listed_->ok() && attempt < kTriedMax; ++attempt) {
    std::vector<std::pair<size_t, std::future<Fetched>>> asked;
    for (size_t i = 0; i < specs.size(); ++i) {
      const auto found = recipes_.find(specs[i].digest);
      if (answers[i].ok() || found == recipes_.end() || found->second.size() <= attempt) continue;
      const auto promise = std::make_shared<std::promise<Fetched>>();
      asked.emplace_back(i, promise->get_future());
      documents_.Blob(origin_, found->second[attempt].digest, p2p::kRecipeBytesMax,
                      [promise](Fetched fetched) { promise->set_value(std::move(fetched)); });
    }
    if (!asked.empty()) ++round_trips_;
    for (auto& [i, future] : asked) {
      Fetched fetched = future.get();
      const absl::StatusOr<p2p::Recipe> recipe =
          fetched.ok() ? p2p::Recipe::DecodeTorrent(fetched->body) : fetched.status();
      if (!recipe.ok()) {
        answers[i] = recipe.status();
      } else if (recipe->IsBoundBy(specs[i])) {
        answers[i] = std::move(fetched->body);
      }
    }
  }
  return answers;
}

}  // namespace sluice
