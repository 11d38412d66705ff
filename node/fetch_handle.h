#pragma once

#include <memory>
#include <utility>

namespace sluice {

enum class FetchClass;  // chunk_source.h

// The source's side of a fetch that is under way. Thread-safe; neither call blocks, and both may come after
// the fetch has ended.
class FetchControl {
 public:
  virtual ~FetchControl() = default;

  // What is wanted has become more urgent: it goes on in this class, on the wire too.
  virtual void Raise(FetchClass fetch_class) = 0;
  // Nobody wants it any more. OnDone(Cancelled) follows soon, unless it has come already.
  virtual void Cancel() = 0;
};

// Holds a fetch: it is cancelled when this goes. The source outlives it.
class FetchHandle {
 public:
  FetchHandle() = default;
  explicit FetchHandle(std::shared_ptr<FetchControl> control) : control_(std::move(control)) {}
  FetchHandle(FetchHandle&&) noexcept = default;
  FetchHandle& operator=(FetchHandle&& other) noexcept {
    std::swap(control_, other.control_);
    return *this;
  }
  ~FetchHandle() {
    if (control_) control_->Cancel();
  }

  void Raise(FetchClass fetch_class) {
    if (control_) control_->Raise(fetch_class);
  }

 private:
  std::shared_ptr<FetchControl> control_;
};

}  // namespace sluice
