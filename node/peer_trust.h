#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace sluice {

// Whether the other nodes have shown that they belong to the cluster (by its certificate). Those that have
// are trusted with content that is not public, and their word on what is public counts. Source: PEERS.md,
// "Public and private".
enum class PeerTrust { kUnproven, kProven };

// The token in Sluice-Token: by it another node is asked to fetch something, and by nothing else. Source: RFC
// 6750, section 2.1.
inline constexpr size_t kPeerTokenBytesMax = 8 << 10;
inline bool IsPeerToken(std::string_view text) {
  const auto padding = text.find_last_not_of('=') + 1;
  const auto is_token_char = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-._~+/").find(c) != std::string_view::npos;
  };
  const std::string_view body = text.substr(0, padding);
  return !body.empty() && text.size() <= kPeerTokenBytesMax &&
         std::all_of(body.begin(), body.end(), is_token_char);
}

}  // namespace sluice
