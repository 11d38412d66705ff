#include "node/daemon/grpc_log.h"

#include <grpc/support/log.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace sluice {
namespace {

constexpr int64_t kBetweenLinesMs = 1000;

void Log(gpr_log_func_args* line) {
  static std::atomic<int64_t> next_ms{0};
  static std::atomic<uint64_t> untold{0};
  if (line->severity != GPR_LOG_SEVERITY_ERROR) return spdlog::debug("gRPC: {}", line->message);
  const int64_t now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                             std::chrono::steady_clock::now().time_since_epoch())
                             .count();
  int64_t next = next_ms;
  if (now_ms < next || !next_ms.compare_exchange_strong(next, now_ms + kBetweenLinesMs)) {
    ++untold;
    return;
  }
  const uint64_t left_out = untold.exchange(0);
  if (left_out == 0) return spdlog::warn("gRPC: {}", line->message);
  spdlog::warn("gRPC: {} ({} other lines were left out)", line->message, left_out);
}

}  // namespace

GrpcLog::GrpcLog() {
  gpr_set_log_function(Log);
}

GrpcLog::~GrpcLog() {
  gpr_set_log_function(nullptr);
}

}  // namespace sluice
