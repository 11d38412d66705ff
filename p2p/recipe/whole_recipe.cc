#include "p2p/recipe/whole_recipe.h"

#include "p2p/recipe/recipe.h"

namespace sluice::p2p {
namespace {

class Bep52RecipeMaker final : public RecipeMaker {
 public:
  explicit Bep52RecipeMaker(uint32_t chunk_size) : builder_(chunk_size) {}

  void Update(std::span<const std::byte> bytes) override { builder_.Update(bytes); }
  absl::StatusOr<Made> Finish() override {
    const absl::StatusOr<Recipe> recipe = builder_.Finish();
    if (!recipe.ok()) return recipe.status();
    return Made{recipe->root, recipe->EncodeTorrent()};
  }

 private:
  RecipeBuilder builder_;
};

}  // namespace

std::unique_ptr<RecipeMaker> NewRecipeMaker(uint32_t chunk_size) {
  return std::make_unique<Bep52RecipeMaker>(chunk_size);
}

}  // namespace sluice::p2p
