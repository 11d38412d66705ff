#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

namespace sluice {

// Told how far a long command has come. One step at a time; all calls are thread-safe, Advance is cheap.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;

  // Begins a step, e.g. "pushing blob", of `total_bytes`; 0 if that is unknown. Ends the step before.
  virtual void Begin(std::string_view step, uint64_t total_bytes) = 0;
  // So many bytes of the step are done; may go back when something is tried again.
  virtual void Advance(uint64_t done_bytes) = 0;
  // Ends the last step.
  virtual void End() = 0;
};

enum class ProgressStyle { kBar, kBarOrLines, kSilent };

// A bar on stderr, if that is a terminal and the style is not kSilent. Elsewhere kBarOrLines writes a line at
// each tenth of a step, and every ten seconds when something has changed; the others show nothing.
std::unique_ptr<ProgressSink> MakeProgress(ProgressStyle style);

}  // namespace sluice
