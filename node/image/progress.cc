#include "node/image/progress.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <optional>
#include <string>

namespace sluice {
namespace {

constexpr int kBarWidth = 30;
constexpr std::chrono::milliseconds kRedrawInterval{100};
constexpr std::chrono::seconds kLineInterval{10};
constexpr double kBytesPerMiB = 1 << 20;

class SilentProgress final : public ProgressSink {
 public:
  void Begin(std::string_view, uint64_t) override {}
  void Advance(uint64_t) override {}
  void End() override {}
};

class BarProgress final : public ProgressSink {
 public:
  ~BarProgress() override { End(); }

  void Begin(std::string_view step, uint64_t total_bytes) override {
    std::lock_guard lock(mutex_);
    EndLine();
    step_ = step;
    total_bytes_ = total_bytes;
    done_bytes_ = 0;
    Draw();
  }

  void Advance(uint64_t done_bytes) override {
    std::lock_guard lock(mutex_);
    done_bytes_ = done_bytes;
    if (std::chrono::steady_clock::now() - drawn_at_ >= kRedrawInterval) Draw();
  }

  void End() override {
    std::lock_guard lock(mutex_);
    EndLine();
  }

 private:
  void EndLine() {
    if (step_.empty()) return;
    Draw();
    std::fputc('\n', stderr);
    step_.clear();
  }

  void Draw() {
    drawn_at_ = std::chrono::steady_clock::now();
    const double done = static_cast<double>(done_bytes_);
    if (total_bytes_ == 0) {
      std::fprintf(stderr, "\r\x1b[K%-24s %.1f MiB", step_.c_str(), done / kBytesPerMiB);
    } else {
      const double total = static_cast<double>(total_bytes_);
      const double share = std::min(1.0, done / total);
      const int filled = static_cast<int>(share * kBarWidth);
      std::fprintf(stderr, "\r\x1b[K%-24s [%s%s] %3d %%  %.1f of %.1f MiB", step_.c_str(),
                   std::string(filled, '#').c_str(), std::string(kBarWidth - filled, '.').c_str(),
                   static_cast<int>(share * 100), done / kBytesPerMiB, total / kBytesPerMiB);
    }
    std::fflush(stderr);
  }

  std::mutex mutex_;
  // Guarded by mutex_.
  std::string step_;  // empty between steps
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
  std::chrono::steady_clock::time_point drawn_at_;
};

class LineProgress final : public ProgressSink {
 public:
  ~LineProgress() override { End(); }

  void Begin(std::string_view step, uint64_t total_bytes) override {
    std::lock_guard lock(mutex_);
    EndStep();
    step_ = step;
    total_bytes_ = total_bytes;
    done_bytes_ = 0;
    tenths_ = 0;
    shown_bytes_.reset();
  }

  void Advance(uint64_t done_bytes) override {
    std::lock_guard lock(mutex_);
    done_bytes_ = done_bytes;
    const uint64_t tenths = total_bytes_ == 0 ? 0 : done_bytes * 10 / total_bytes_;
    if (tenths == tenths_ && std::chrono::steady_clock::now() - shown_at_ < kLineInterval) return;
    tenths_ = tenths;
    Show();
  }

  void End() override {
    std::lock_guard lock(mutex_);
    EndStep();
  }

 private:
  void EndStep() {
    const bool says_nothing = total_bytes_ == 0 && done_bytes_ == 0;
    if (!step_.empty() && !says_nothing) Show();
    step_.clear();
  }

  void Show() {
    if (shown_bytes_ == done_bytes_) return;
    shown_bytes_ = done_bytes_;
    shown_at_ = std::chrono::steady_clock::now();
    const double done = static_cast<double>(done_bytes_);
    if (total_bytes_ == 0) {
      std::fprintf(stderr, "%s: %.1f MiB\n", step_.c_str(), done / kBytesPerMiB);
    } else {
      const double total = static_cast<double>(total_bytes_);
      std::fprintf(stderr, "%s: %3d %%, %.1f of %.1f MiB\n", step_.c_str(),
                   static_cast<int>(std::min(1.0, done / total) * 100), done / kBytesPerMiB,
                   total / kBytesPerMiB);
    }
  }

  std::mutex mutex_;
  // Guarded by mutex_.
  std::string step_;  // empty between steps
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
  uint64_t tenths_ = 0;                  // done, as shown last
  std::optional<uint64_t> shown_bytes_;  // of this step
  std::chrono::steady_clock::time_point shown_at_ = std::chrono::steady_clock::now();
};

}  // namespace

std::unique_ptr<ProgressSink> MakeProgress(ProgressStyle style) {
  if (style == ProgressStyle::kSilent) return std::make_unique<SilentProgress>();
  if (isatty(STDERR_FILENO) != 0) return std::make_unique<BarProgress>();
  if (style == ProgressStyle::kBarOrLines) return std::make_unique<LineProgress>();
  return std::make_unique<SilentProgress>();
}

}  // namespace sluice
