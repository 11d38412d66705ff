#pragma once

#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

namespace sluice {

// Keeps many short texts close together. They stay where they are until the arena goes.
class TextArena {
 public:
  std::string_view Add(std::string_view text) {
    if (text.size() > left_) Grow(text.size());
    std::memcpy(end_, text.data(), text.size());
    const std::string_view kept(end_, text.size());
    end_ += text.size();
    left_ -= text.size();
    return kept;
  }

 private:
  static constexpr size_t kBlockBytes = 64 << 10;

  void Grow(size_t size) {
    left_ = size > kBlockBytes ? size : kBlockBytes;
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(left_));
    end_ = blocks_.back().get();
  }

  std::vector<std::unique_ptr<char[]>> blocks_;
  char* end_ = nullptr;
  size_t left_ = 0;
};

}  // namespace sluice
