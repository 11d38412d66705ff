#pragma once

#include <future>
#include <span>
#include <utility>

#include "p2p/http/http_client.h"

namespace sluice::p2p {

// Takes an answer of which only matters how it ended. The promise outlives it.
class StatusSink final : public HttpSink {
 public:
  explicit StatusSink(std::promise<absl::Status>& done) : done_(done) {}
  absl::Status OnHead(const HttpHead&) override { return absl::OkStatus(); }
  absl::Status OnBody(std::span<const std::byte>) override { return absl::OkStatus(); }
  void OnDone(absl::Status status) override { done_.set_value(std::move(status)); }

 private:
  std::promise<absl::Status>& done_;
};

}  // namespace sluice::p2p
