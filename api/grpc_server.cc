#include "api/grpc_server.h"

#include <errno.h>
#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sluice::api {
namespace {

mode_t ModeOf(SocketAccess access) {
  return access == SocketAccess::kOwner ? 0600 : 0660;
}

class ScopedUmask {
 public:
  explicit ScopedUmask(mode_t mask) : before_(::umask(mask)) {}
  ~ScopedUmask() { ::umask(before_); }
  ScopedUmask(const ScopedUmask&) = delete;
  ScopedUmask& operator=(const ScopedUmask&) = delete;

 private:
  const mode_t before_;
};

// Connects to the socket and hangs up; returns 0 or the errno.
int TryConnect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::copy(path.begin(), path.end(), address.sun_path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  const int error =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  ::close(fd);
  return error;
}

// Makes sure that nobody's socket is taken away: gRPC itself would unlink whatever is at the path.
absl::Status ClearStaleSocket(const std::string& path) {
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at the API socket ", path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot serve on ", path,
                     ": there is something that is no socket; remove it or choose "
                     "another path"));
  }
  const int error = TryConnect(path);
  // EAGAIN: its backlog is full, so somebody listens.
  if (error == 0 || error == EAGAIN) {
    return absl::AlreadyExistsError(
        absl::StrCat("cannot serve on ", path,
                     ": another sluiced is already running and answers there; stop it "
                     "or choose another path"));
  }
  if (error != ECONNREFUSED) {
    return absl::ErrnoToStatus(error,
                               absl::StrCat("cannot tell whether the API socket ", path, " is in use"));
  }
  if (::unlink(path.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove the stale API socket ", path));
  }
  return absl::OkStatus();
}

// gRPC reports a failed bind only in its log, so the usual reasons are looked for beforehand.
absl::Status CheckFolder(const std::string& path) {
  const std::string folder = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
  if (::access(folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot create the API socket ", path, " in ", folder));
}

}  // namespace

class GrpcServer::Impl {
 public:
  Impl(GrpcServerOptions options, std::vector<std::unique_ptr<GrpcService>> services)
      : options_(std::move(options)), services_(std::move(services)) {}

  ~Impl() { Stop(Duration::zero()); }

  absl::Status Start() {
    if (server_) return absl::OkStatus();
    if (stopped_) return absl::FailedPreconditionError("the gRPC server was stopped");
    return options_.tls ? StartOnTcp() : StartOnSocket();
  }

  uint16_t port() const { return static_cast<uint16_t>(port_); }

  void SetHealth(Health health) {
    health_ = health;
    if (!server_) return;
    server_->GetHealthCheckService()->SetServingStatus(health == Health::kServing);
    for (const auto& service : services_) {
      server_->GetHealthCheckService()->SetServingStatus(service->name(), health == Health::kServing);
    }
  }

  void Stop(Duration grace) {
    stopped_ = true;
    if (!server_) return;
    for (const auto& service : services_) service->EndWatches();
    server_->Shutdown(std::chrono::system_clock::now() +
                      std::chrono::duration_cast<std::chrono::system_clock::duration>(grace));
    server_->Wait();
    for (const auto& service : services_) service->Stop();
    // Also removes the socket file.
    server_.reset();
  }

 private:
  absl::Status StartOnSocket() {
    const std::string& path = options_.socket_path;
    if (path.empty() || path.front() != '/' || path.size() >= sizeof(sockaddr_un::sun_path)) {
      return absl::InvalidArgumentError(absl::StrCat("cannot serve on \"", path,
                                                     "\": the path of a socket is absolute and at most ",
                                                     sizeof(sockaddr_un::sun_path) - 1, " bytes long"));
    }
    if (absl::Status status = CheckFolder(path); !status.ok()) return status;
    if (absl::Status status = ClearStaleSocket(path); !status.ok()) return status;
    Build();
    if (!server_) {
      return absl::UnavailableError(absl::StrCat("cannot serve on ", path,
                                                 ": gRPC could not bind to it; its "
                                                 "log on stderr says why"));
    }
    if (absl::Status status = GiveToGroup(); !status.ok()) {
      Stop(Duration::zero());
      return status;
    }
    SetHealth(health_);
    return absl::OkStatus();
  }

  absl::Status StartOnTcp() {
    Build();
    if (!server_) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.tls->listen,
                                                 ": the address may be malformed, another's, or in use by "
                                                 "another program"));
    }
    SetHealth(health_);
    return absl::OkStatus();
  }

  absl::Status GiveToGroup() {
    if (!options_.group) return absl::OkStatus();
    const std::string& path = options_.socket_path;
    if (::lchown(path.c_str(), static_cast<uid_t>(-1), *options_.group) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot give the API socket ", path, " to the group ", *options_.group));
  }

  // Clients beyond this machine come and go unseen, and what their certificates are worth changes.
  static void BoundClients(grpc::ServerBuilder& builder) {
    // Else a second server would take half of the connections.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 600'000);
    // Then it shows its certificate anew; a watch goes on by its revision.
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, 600'000);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 60'000);
  }

  void Build() {
    // One reference to the library that is never given back: its own shutdown, by whoever lets go of it last,
    // waits up to ten seconds for an unfinished write to a client that has gone.
    static const bool library_is_kept = (grpc_init(), true);
    (void)library_is_kept;
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(options_.receive_bytes_max);
    if (options_.tls) {
      BoundClients(builder);
      builder.AddListeningPort(options_.tls->listen, CredentialsOf(*options_.tls), &port_);
    } else {
      builder.AddListeningPort("unix:" + options_.socket_path, grpc::InsecureServerCredentials());
    }
    for (const auto& service : services_) builder.RegisterService(&service->service());
    ScopedUmask narrow(~ModeOf(options_.access) & 0777);
    server_ = builder.BuildAndStart();
  }

  const GrpcServerOptions options_;
  const std::vector<std::unique_ptr<GrpcService>> services_;
  Health health_ = Health::kNotServing;
  bool stopped_ = false;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

GrpcServer::GrpcServer(GrpcServerOptions options, std::vector<std::unique_ptr<GrpcService>> services)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(services))) {}

GrpcServer::~GrpcServer() = default;

absl::Status GrpcServer::Start() {
  return impl_->Start();
}

uint16_t GrpcServer::port() const {
  return impl_->port();
}

void GrpcServer::SetHealth(Health health) {
  impl_->SetHealth(health);
}

void GrpcServer::Stop(Duration grace) {
  impl_->Stop(grace);
}

}  // namespace sluice::api
