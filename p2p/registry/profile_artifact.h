#pragma once

#include <string_view>

// What starts of an image read, as a referrer of the image's manifest.
namespace sluice::p2p {

namespace media_type {
// Its artifact type, and that of its one layer: a profile's document.
inline constexpr std::string_view kProfileArtifact = "application/vnd.sluice.profile.v1";
inline constexpr std::string_view kProfile = "application/vnd.sluice.profile.v1+json";
}  // namespace media_type

namespace annotation {
// When it was made, as RFC 3339 writes it in UTC. Source: OCI image specification, annotations.md.
inline constexpr std::string_view kCreated = "org.opencontainers.image.created";
}  // namespace annotation

}  // namespace sluice::p2p
