#pragma once

namespace grpc {
class Service;
}

namespace sluice::api {

// Port: one gRPC service, as GrpcServer serves it.
//
// All calls come on the thread that starts and stops the server.
class GrpcService {
 public:
  virtual ~GrpcService() = default;

  // To be registered with a grpc::ServerBuilder; owned by this.
  virtual grpc::Service& service() = 0;
  // Its full name, "sluice.v1.AdminService": what grpc.health.v1 is asked for.
  virtual const char* name() const = 0;
  // Ends all streams with UNAVAILABLE, and any that comes later. For a server that is about to shut down.
  virtual void EndWatches() = 0;
  // Its threads have ended when this returns. REQUIRES: no calls come any more
  virtual void Stop() = 0;
};

}  // namespace sluice::api
