#include "api/grpc_tls.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/executor.h"

namespace sluice::api {
namespace {

constexpr unsigned kLookAgainSeconds = 10;
constexpr Duration kWarnAgain = std::chrono::seconds(10);

std::string Text(grpc::string_ref ref) {
  return {ref.data(), ref.size()};
}

// gRPC has seen that the client has the key of what it shows; what that is worth others say. Thread-safe.
class ClientCheck final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  explicit ClientCheck(GrpcTls tls) : tls_(std::move(tls)) {}

  bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request,
              std::function<void(grpc::Status)>, grpc::Status* result) override {
    // What a server gets as the chain lacks the client's own (SSL_get_peer_cert_chain(3)).
    const std::string shown =
        absl::StrCat(Text(request->peer_cert()), "\n", Text(request->peer_cert_full_chain()));
    const std::string refusal = tls_.refusal_of(shown);
    Count(refusal.empty() ? TlsResult::kOk : TlsResult::kRefused);
    if (!refusal.empty()) {
      Warn(absl::StrCat("a client of ", tls_.listen, " is refused for its certificate: ", refusal));
      *result = grpc::Status(grpc::StatusCode::UNAUTHENTICATED, refusal);
    }
    return true;
  }
  void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}

 private:
  void Count(TlsResult result) {
    if (!tls_.telemetry) return;
    tls_.telemetry->tls_handshakes[static_cast<size_t>(TlsSide::kServer)][static_cast<size_t>(result)].Add();
  }
  void Warn(const std::string& text) {
    if (!tls_.warn) return;
    {
      const std::lock_guard lock(mutex_);
      const auto now = std::chrono::steady_clock::now();
      if (now < next_warning_) return;
      next_warning_ = now + kWarnAgain;
    }
    tls_.warn(text);
  }

  const GrpcTls tls_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point next_warning_{};  // guarded by mutex_
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const GrpcTls& tls) {
  namespace experimental = grpc::experimental;
  experimental::TlsServerCredentialsOptions options(
      std::make_shared<experimental::FileWatcherCertificateProvider>(tls.key_path, tls.certificate_path,
                                                                     kLookAgainSeconds));
  options.watch_identity_key_cert_pairs();
  // ClientCheck verifies.
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_BUT_DONT_VERIFY);
  options.set_certificate_verifier(experimental::ExternalCertificateVerifier::Create<ClientCheck>(tls));
  options.set_check_call_host(false);
  return experimental::TlsServerCredentials(options);
}

}  // namespace sluice::api
