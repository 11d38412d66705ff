#include "api/verify_stream.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "api/proto_conversion.h"
#include "sluice/v1/admin.pb.h"

namespace sluice::api {

class VerifyStreams::Stream final : public grpc::ServerWriteReactor<v1::VerifyBlobResponse> {
 public:
  Stream(VerifyStreams& streams, grpc::CallbackServerContext& context)
      : streams_(streams), context_(context) {}

  // On the pool.
  void Run(const Digest& digest) { End(Verify(digest)); }

 private:
  void OnWriteDone(bool ok) override;
  void OnDone() override { delete this; }

  // --- On the pool.
  absl::StatusOr<VerifyReport> Verify(const Digest& digest);
  void Note(const VerifyProgress& progress);
  void End(absl::StatusOr<VerifyReport> result);

  void SendResult();

  VerifyStreams& streams_;
  grpc::CallbackServerContext& context_;

  std::mutex mutex_;
  // Guarded by mutex_.
  bool writing_ = false;  // who sets it has response_
  Instant next_write_{};
  std::optional<absl::StatusOr<VerifyReport>> result_;

  v1::VerifyBlobResponse response_;  // the one being written
  uint64_t read_bytes_ = 0;          // the pool's, until there is a result
};

absl::StatusOr<VerifyReport> VerifyStreams::Stream::Verify(const Digest& digest) {
  const CancelCheck cancelled([this] { return streams_.ending_.load() || context_.IsCancelled(); });
  absl::StatusOr<VerifyReport> report = absl::CancelledError("the caller has gone");
  if (!cancelled) {
    report = streams_.blobs_.VerifyBlob(digest, cancelled,
                                        [this](const VerifyProgress& progress) { Note(progress); });
  }
  if (!report.ok() && streams_.ending_.load()) return absl::UnavailableError("the node is shutting down");
  return report;
}

void VerifyStreams::Stream::Note(const VerifyProgress& progress) {
  read_bytes_ = progress.read_bytes;
  const Instant now = std::chrono::steady_clock::now();
  {
    std::lock_guard lock(mutex_);
    if (writing_ || now < next_write_) return;
    writing_ = true;
    next_write_ = now + streams_.interval_;
  }
  ToProto(progress, response_);
  StartWrite(&response_);
}

void VerifyStreams::Stream::End(absl::StatusOr<VerifyReport> result) {
  {
    std::lock_guard lock(mutex_);
    result_ = std::move(result);
    if (writing_) return;
    writing_ = true;
  }
  SendResult();
}

void VerifyStreams::Stream::OnWriteDone(bool) {
  {
    std::lock_guard lock(mutex_);
    if (!result_) {
      writing_ = false;
      return;
    }
  }
  SendResult();
}

// gRPC may be done with the stream as soon as it is finished, so nothing of it is touched after that.
void VerifyStreams::Stream::SendResult() {
  if (!result_->ok()) return Finish(ToGrpc(result_->status()));
  // All that was to be read was, however much that turned out to be.
  ToProto(VerifyProgress{read_bytes_, read_bytes_, **result_}, response_);
  StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
}

grpc::ServerWriteReactor<v1::VerifyBlobResponse>* VerifyStreams::Begin(grpc::CallbackServerContext& context,
                                                                       const std::string& digest_field) {
  auto* const stream = new Stream(*this, context);
  const absl::StatusOr<Digest> digest = DigestFrom(digest_field);
  absl::Status begun = digest.status();
  if (begun.ok()) begun = pool_.Post([stream, digest = *digest] { stream->Run(digest); });
  if (!begun.ok()) stream->Finish(ToGrpc(begun));
  return stream;
}

}  // namespace sluice::api
