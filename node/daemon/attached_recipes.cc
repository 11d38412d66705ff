#include "node/daemon/attached_recipes.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <utility>
#include <variant>

#include "p2p/recipe/recipe.h"

namespace sluice {
namespace {

using Answer = absl::StatusOr<std::string>;
constexpr Duration kCancelCheck = std::chrono::milliseconds(100);

using Fetched = absl::StatusOr<p2p::FetchedManifest>;

Answer NoneMatches() {
  return absl::NotFoundError("no recipe that matches the root in the manifest is attached to the image");
}

absl::Status Cancelled() {
  return absl::CancelledError("nobody waits for it any more");
}

// Blocks; false once it is cancelled.
template <typename Future>
bool Arrives(const Future& coming, const CancelCheck& cancelled) {
  while (coming.wait_for(kCancelCheck) != std::future_status::ready) {
    if (cancelled) return false;
  }
  return true;
}

}  // namespace

// One referrer is looked into after the other, on the threads that the documents come on.
class AttachedRecipes::Listing : public std::enable_shared_from_this<Listing> {
 public:
  Listing(ImageDocuments& documents, BlobOrigin origin) : documents_(documents), origin_(std::move(origin)) {}

  void Begin(const Digest& manifest) {
    documents_.Referrers(origin_, manifest,
                         [self = shared_from_this()](const Fetched& list) { self->TakeList(list); });
  }
  // Blocks until it has ended. Errors: Cancelled; those of ImageDocuments, where nothing is listed.
  absl::Status Wait(const CancelCheck& cancelled) const {
    return Arrives(ended_, cancelled) ? ended_.get() : Cancelled();
  }

  // To be read once it has ended. By the blob that they say they are of: anyone who may push can attach a
  // referrer: a bad one must not stand in the way of a good one.
  std::map<Digest, std::vector<p2p::Descriptor>> recipes;
  uint32_t round_trips = 1;

 private:
  void TakeList(const Fetched& list) {
    const absl::StatusOr<std::vector<p2p::Descriptor>> referrers =
        list.ok() ? p2p::ReferrersOfType(list->body, std::string(p2p::media_type::kRecipeArtifact))
                  : list.status();
    if (!referrers.ok()) return end_.set_value(referrers.status());
    for (size_t i = 0; i < std::min(referrers->size(), kReferrersMax); ++i)
      left_.push_back((*referrers)[i].digest);
    Next();
  }
  void Next() {
    if (left_.empty()) return end_.set_value(recipes.empty() ? last_ : absl::OkStatus());
    const Digest referrer = left_.front();
    left_.pop_front();
    ++round_trips;
    documents_.Manifest(origin_, referrer.ToString(), [self = shared_from_this()](const Fetched& fetched) {
      self->TakeArtifact(fetched);
      self->Next();
    });
  }
  void TakeArtifact(const Fetched& fetched) {
    const absl::StatusOr<p2p::Manifest> manifest =
        fetched.ok() ? p2p::ParseManifest(fetched->body, fetched->media_type) : fetched.status();
    if (!manifest.ok()) {
      last_ = manifest.status();
      return;
    }
    const auto* artifact = std::get_if<p2p::ImageManifest>(&*manifest);
    if (!artifact) return;
    for (const p2p::Descriptor& layer : artifact->layers) {
      const absl::StatusOr<Digest> blob = Digest::Parse(layer.Annotation(p2p::annotation::kRecipeBlob));
      if (blob.ok()) recipes[*blob].push_back(layer);
    }
  }

  ImageDocuments& documents_;
  const BlobOrigin origin_;
  std::deque<Digest> left_;  // referrers
  absl::Status last_;        // of one that could not be looked into
  std::promise<absl::Status> end_;
  const std::shared_future<absl::Status> ended_ = end_.get_future().share();
};

AttachedRecipes::AttachedRecipes(ImageDocuments& documents, const BlobOrigin& origin, const Digest& manifest)
    : documents_(documents), origin_(origin), listing_(std::make_shared<Listing>(documents, origin)) {
  listing_->Begin(manifest);
}

std::vector<Answer> AttachedRecipes::Fetch(std::span<const BlobSpec> specs, const CancelCheck& cancelled) {
  const absl::Status listed = listing_->Wait(cancelled);
  std::vector<Answer> answers(specs.size(), NoneMatches());
  if (!listed.ok()) std::fill(answers.begin(), answers.end(), Answer(listed));
  if (listed.ok()) round_trips_ = listing_->round_trips;
  // Where there are several, the next ones are asked for together again.
  for (size_t attempt = 0; listed.ok() && attempt < kTriedMax; ++attempt) {
    std::vector<std::pair<size_t, std::future<Fetched>>> asked;
    for (size_t i = 0; i < specs.size(); ++i) {
      const auto found = listing_->recipes.find(specs[i].digest);
      if (answers[i].ok() || found == listing_->recipes.end() || found->second.size() <= attempt) continue;
      const auto promise = std::make_shared<std::promise<Fetched>>();
      asked.emplace_back(i, promise->get_future());
      documents_.Blob(origin_, found->second[attempt].digest, p2p::kRecipeBytesMax,
                      [promise](Fetched fetched) { promise->set_value(std::move(fetched)); });
    }
    if (!asked.empty()) ++round_trips_;
    for (auto& [i, future] : asked) {
      if (!Arrives(future, cancelled)) return std::vector<Answer>(specs.size(), Cancelled());
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
