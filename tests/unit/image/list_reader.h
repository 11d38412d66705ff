#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "node/image/layer_reader.h"

namespace sluice {

// A layer of what is handed to it.
class ListReader final : public LayerReader {
 public:
  using Runs = std::vector<std::pair<uint64_t, std::string>>;  // offset, bytes
  struct Item {
    LayerEntry entry;
    Runs runs;
  };

  explicit ListReader(std::vector<Item> items) : items_(std::move(items)) {}

  absl::StatusOr<bool> Next(LayerEntry& entry) override {
    if (next_ == items_.size()) return false;
    entry = items_[next_++].entry;
    run_ = 0;
    return true;
  }

  absl::StatusOr<bool> NextRun(ContentRun& run) override {
    const Runs& runs = items_[next_ - 1].runs;
    if (run_ == runs.size()) return false;
    run = {runs[run_].first, std::as_bytes(std::span(runs[run_].second))};
    ++run_;
    return true;
  }

 private:
  const std::vector<Item> items_;
  size_t next_ = 0;
  size_t run_ = 0;
};

}  // namespace sluice
