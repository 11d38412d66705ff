#pragma once

#include <functional>
#include <memory>
#include <string>

#include "node/telemetry.h"

namespace grpc {
class ServerCredentials;
}  // namespace grpc

namespace sluice::api {

// TCP with TLS, where every client must show a certificate by which it may call.
struct GrpcTls {
  std::string listen;  // host:port, [address]:port of IPv6; with port 0 the kernel chooses
  // What the server shows, in PEM; gRPC looks at the files again every some seconds.
  std::string certificate_path;
  std::string key_path;
  // Why a client may not call who shows that chain (PEM, its own certificate first) and has its key; empty if
  // he may. On threads of gRPC's.
  std::function<std::string(const std::string& chain)> refusal_of;
  Telemetry* telemetry = nullptr;  // counts handshakes; outlives the server; may be null
  // Told who is refused for his certificate, at most every ten seconds; on threads of gRPC's. May be null.
  std::function<void(const std::string&)> warn;
};

// What a server listens with.
std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const GrpcTls& tls);

}  // namespace sluice::api
