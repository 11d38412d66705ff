#include "api/http/flow_parts.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"

namespace sluice::api {

void FlowParts::Next(OnPart on_part) {
  const bool at_once = std::exchange(first_part_, false) && content_->urgency == SendUrgency::kDemand;
  const size_t least = at_once ? 1 : kPartMin;
  const size_t wanted = content_->first + std::min(least, content_->length);
  content_->flow->Await(
      wanted, [content = content_, on_part = std::move(on_part)](std::optional<size_t> there) mutable {
        if (!there) return std::move(on_part)(absl::UnavailableError("the chunk's source has ended early"));
        FileSpan part;
        part.memory = content->flow->data();
        part.offset = content->first;
        part.length = std::min(*there - content->first, content->length);
        part.holder = content;
        part.on_sent = content->on_sent;
        part.urgency = content->urgency;
        content->first += part.length;
        content->length -= part.length;
        if (content->length == 0) part.on_taken = std::move(content->on_taken);
        std::move(on_part)(std::move(part));
      });
}

}  // namespace sluice::api
