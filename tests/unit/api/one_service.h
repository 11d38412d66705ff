#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "api/admin_service.h"
#include "api/grpc_service.h"

namespace sluice::api {

// What a GrpcServer is made of that serves one service.
inline std::vector<std::unique_ptr<GrpcService>> OneService(std::unique_ptr<GrpcService> service) {
  std::vector<std::unique_ptr<GrpcService>> services;
  services.push_back(std::move(service));
  return services;
}

inline std::vector<std::unique_ptr<GrpcService>> AdminOver(AdminBackend backend,
                                                           AdminServiceLimits limits = {}) {
  return OneService(std::make_unique<AdminService>(backend, limits));
}

}  // namespace sluice::api
