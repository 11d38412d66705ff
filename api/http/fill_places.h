#pragma once

#include <atomic>
#include <memory>

namespace sluice::api {

// How many requests of fills are answered at once: the other connections of the listener are kept for readers
// that wait, and for what nodes ask each other beside chunks.
//
// Thread-safe.
class FillPlaces : public std::enable_shared_from_this<FillPlaces> {
 public:
  explicit FillPlaces(int places_max) : places_max_(places_max) {}

  // A place, until it is dropped; null if there is none.
  std::shared_ptr<const void> Take() {
    if (taken_.fetch_add(1) >= places_max_) {
      --taken_;
      return nullptr;
    }
    return {this, [self = shared_from_this()](const void*) { --self->taken_; }};
  }

 private:
  const int places_max_;
  std::atomic<int> taken_{0};
};

}  // namespace sluice::api
