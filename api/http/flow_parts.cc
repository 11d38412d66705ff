#include "api/http/flow_parts.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/status/status.h"

namespace sluice::api {

struct FlowParts::Held {
  std::shared_ptr<ChunkFlow> flow;
  std::shared_ptr<const void> holder;
};

struct FlowParts::Left {
  std::mutex mutex;  // guards what follows
  Content content;
  std::shared_ptr<const Held> held;  // null: nobody is sent anything any more
};

FlowParts::FlowParts(Content content) : left_(std::make_shared<Left>()) {
  left_->held = std::make_shared<const Held>(Held{std::move(content.flow), std::move(content.holder)});
  left_->content = std::move(content);
}

FlowParts::~FlowParts() {
  // Both are let go of without the lock.
  std::shared_ptr<const Held> held;
  Task on_taken;
  const std::lock_guard lock(left_->mutex);
  held.swap(left_->held);
  std::swap(on_taken, left_->content.on_taken);
}

void FlowParts::Next(OnPart on_part) {
  std::shared_ptr<const Held> held;
  size_t wanted = 0;
  {
    const std::lock_guard lock(left_->mutex);
    const Content& content = left_->content;
    const bool at_once = std::exchange(first_part_, false) && content.urgency == SendUrgency::kDemand;
    wanted = content.first + std::min(at_once ? size_t{1} : kPartMin, content.length);
    held = left_->held;
  }
  held->flow->Await(
      wanted, [left = left_, on_part = std::move(on_part)](std::optional<size_t> there) mutable {
        if (!there) return std::move(on_part)(absl::UnavailableError("the chunk's source has ended early"));
        FileSpan part;
        {
          const std::lock_guard lock(left->mutex);
          if (!left->held) return;
          Content& content = left->content;
          part.memory = left->held->flow->data();
          part.offset = content.first;
          part.length = std::min(*there - content.first, content.length);
          part.holder = left->held;
          part.on_sent = content.on_sent;
          part.urgency = content.urgency;
          content.first += part.length;
          content.length -= part.length;
          if (content.length == 0) part.on_taken = std::exchange(content.on_taken, nullptr);
        }
        std::move(on_part)(std::move(part));
      });
}

}  // namespace sluice::api
