#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/http/http_server.h"

// The paths and names of registries in requests. Source: OCI distribution specification, "Endpoints" and
// "Pulling manifests".
namespace sluice::api {

// "/v2/<name>/<kind>/<reference>", taken apart; what the parts hold is not looked at.
struct RegistryPath {
  std::string name;
  std::string kind;
  std::string reference;
};
std::optional<RegistryPath> ParseRegistryPath(std::string_view path);

// <name>, without dot segments.
bool IsRepositoryName(std::string_view name);
// <reference> as a tag.
bool IsTag(std::string_view text);
// host[:port], as ns= names a registry.
bool IsRegistryName(std::string_view name);

// The query parameter's decoded value; empty if there is none, or a malformed one. Source: RFC 3986 section
// 2.1.
std::string Parameter(const HttpRequest& request, std::string_view name);

}  // namespace sluice::api
