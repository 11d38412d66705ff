#pragma once

#include <cstring>
#include <string>
#include <utility>

namespace sluice {

// A password or a token, whose bytes are overwritten when it ends. What is made of the text elsewhere is not.
//
// A value; thread-compatible.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string text) : text_(std::move(text)) {}
  Secret(const Secret& other) = default;
  Secret(Secret&& other) noexcept : text_(other.text_) { other.Wipe(); }
  Secret& operator=(const Secret& other) {
    if (this != &other) *this = Secret(other);
    return *this;
  }
  Secret& operator=(Secret&& other) noexcept {
    if (this == &other) return *this;
    Wipe();
    text_ = other.text_;
    other.Wipe();
    return *this;
  }
  ~Secret() { Wipe(); }

  const std::string& text() const { return text_; }
  bool empty() const { return text_.empty(); }

 private:
  void Wipe() {
    explicit_bzero(text_.data(), text_.size());
    text_.clear();
  }

  std::string text_;
};

}  // namespace sluice
