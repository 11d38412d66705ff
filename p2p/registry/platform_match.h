#pragma once

#include <cstdint>
#include <optional>

#include "p2p/registry/manifest.h"

namespace sluice::p2p {

// Which platforms a machine runs, and which it runs best. The order is containerd's, so that an index gives
// the same image through every tool. Source: github.com/containerd/platforms, Normalize and Only.

// The names that Go has for it, in lower case: "x86_64" is amd64, "aarch64" is arm64, "armhf" is arm/v7. A
// variant that is the architecture's own is left out (amd64/v1, arm64/v8), and arm without one is v7.
Platform Normalized(Platform platform);

// How well an image for `offered` suits who asked for `wanted`: 0 is best, nullopt is not at all.
// - amd64 is v1, and v4 runs v3, v2 and v1, in this order, each of them 386 last. Nobody gets a higher
//   variant than was asked for.
// - arm64 is v8; v8.2 runs v8.1 and v8, v9.1 runs v9 and v8.6 and what is below; each of them arm last.
// - arm/v7 runs v6 and v5.
// - Other architectures and variants are equal or not.
// An image is only for those that have all of its os.features; who has more of them is better served by an
// image that uses them, whatever its variant.
std::optional<uint32_t> PlatformRank(const Platform& wanted, const Platform& offered);

// As Platform::Host(), with the variant that this CPU and its kernel run: for what is to run here. For what
// is to run elsewhere too, e.g. an image that is pushed, take Platform::Host().
Platform ThisCpu();

}  // namespace sluice::p2p
