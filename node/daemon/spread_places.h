#pragma once

#include <memory>
#include <utility>
#include <variant>

#include "api/http/whole_places.h"
#include "p2p/cluster/spreading.h"

namespace sluice {

// Whole blobs spread among the nodes that want them as chunks do.
//
// Thread-safe.
class SpreadPlaces final : public api::WholePlaces {
 public:
  // One of its own: a chunk of that name is something else.
  explicit SpreadPlaces(std::shared_ptr<p2p::Spreader> spreader) : spreader_(std::move(spreader)) {}

  std::variant<Busy, Place> Ask(const Digest& form, const Asker& asker) override {
    p2p::Spreader::Answer answer = spreader_->Ask({.chunk = {form, ChunkIndex(0)},
                                                   .asker = asker.name,
                                                   .tried = asker.tried,
                                                   .is_help = asker.is_help});
    if (answer.verdict != p2p::Spreader::Verdict::kSend) return Busy{answer.retry, std::move(answer.helpers)};
    auto sending = std::make_shared<Sending>(spreader_, answer.id);
    Task on_taken = [sending] { sending->taken = true; };
    return Place{std::move(sending), std::move(on_taken)};
  }

 private:
  // Gives the place back.
  struct Sending {
    Sending(std::shared_ptr<p2p::Spreader> the_spreader, p2p::Spreader::RequestId the_place)
        : spreader(std::move(the_spreader)), place(the_place) {}
    ~Sending() {
      spreader->Ended(place, taken ? p2p::Spreader::Outcome::kTaken : p2p::Spreader::Outcome::kNotTaken);
    }
    Sending(const Sending&) = delete;
    Sending& operator=(const Sending&) = delete;

    const std::shared_ptr<p2p::Spreader> spreader;
    const p2p::Spreader::RequestId place;
    bool taken = false;
  };

  const std::shared_ptr<p2p::Spreader> spreader_;
};

}  // namespace sluice
