#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "api/http/http_server.h"
#include "node/chunk_flow.h"
#include "node/executor.h"

namespace sluice::api {

// The bytes of a chunk that is coming, as they come. If no more come the connection is closed.
class FlowParts final : public HttpParts {
 public:
  // A part is not shorter than this, unless it is the last; or the first that somebody waits for: others wait
  // for him.
  static constexpr size_t kPartMin = 16 << 10;

  struct Content {
    std::shared_ptr<ChunkFlow> flow;
    size_t first = 0;  // bytes of the chunk that are left out
    size_t length = 0;
    std::shared_ptr<const void> holder;     // until they were sent, or will not be
    std::function<void(uint64_t)> on_sent;  // as FileSpan says, of each part
    Task on_taken;                          // the same, of all
    SendUrgency urgency = SendUrgency::kDemand;
  };
  // REQUIRES: they are within the chunk, and not empty
  explicit FlowParts(Content content);
  ~FlowParts() override;

  void Next(OnPart on_part) override;

 private:
  // What is held while bytes are sent, and what is left to send.
  struct Held;
  struct Left;

  // Also of who still waits for bytes when this has gone; he holds nothing else by then.
  const std::shared_ptr<Left> left_;
  bool first_part_ = true;
};

}  // namespace sluice::api
