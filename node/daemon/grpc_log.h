#pragma once

namespace sluice {

// While it lives, gRPC's own lines go to our log, at most one a second: gRPC would write them to stderr
// itself, where whoever stops reading stops its threads, and whoever connects with nonsense has it write
// without end.
class GrpcLog {
 public:
  GrpcLog();
  ~GrpcLog();
  GrpcLog(const GrpcLog&) = delete;
  GrpcLog& operator=(const GrpcLog&) = delete;
};

}  // namespace sluice
