#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/grpc_service.h"
#include "api/grpc_tls.h"
#include "node/executor.h"

namespace sluice::api {

// Who may connect is what the file system says of the socket: a client that can open it may do all that is
// served there.
enum class SocketAccess {
  kOwner,          // mode 0600
  kOwnerAndGroup,  // mode 0660
};

struct GrpcServerOptions {
  std::string socket_path;  // absolute, at most 107 bytes (unix(7)); its folder exists; "" with `tls`
  SocketAccess access = SocketAccess::kOwner;
  std::optional<gid_t> group = {};  // the socket's; the process's own if absent
  int receive_bytes_max = 1 << 20;  // of one message
  std::optional<GrpcTls> tls = {};  // instead of on a socket file
};

// Some services, grpc.health.v1.Health and server reflection, on a unix socket or on TCP with TLS.
//
// Start and Stop may be called on any one thread; both are idempotent. A stopped server is not started again.
class GrpcServer {
 public:
  // Their backends outlive the server.
  GrpcServer(GrpcServerOptions options, std::vector<std::unique_ptr<GrpcService>> services);
  ~GrpcServer();  // stops at once
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Serves from when this returns OK. A socket file that nobody answers on is replaced. The process's umask
  // is narrowed for the moment of binding, so that the socket never has a wider mode than asked for.
  // Errors: AlreadyExists (another server answers on the socket), InvalidArgument (path too long, or
  // something there that is no socket), PermissionDenied (also: it can't be given to the group), NotFound
  // (its folder is missing), Unavailable (any other; on TCP this alone, also for an address in use).
  absl::Status Start();

  // The port that is listened on, of a server with TLS. REQUIRES: Start returned OK
  uint16_t port() const;

  // What grpc.health.v1 says, of the server as a whole and of each service. Not serving until told.
  enum class Health { kNotServing, kServing };
  void SetHealth(Health health);

  // Takes no new calls, gives those under way `grace` to end, then cancels them; removes the socket file.
  // Blocks until the last call into a backend has returned.
  void Stop(Duration grace);

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::api
