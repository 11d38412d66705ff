#pragma once

#include <array>

#include "node/telemetry.h"

namespace sluice {

// What verifier programs said of an image: all let it pass, one refused it, one was not done in time, or
// could not be asked.
enum class PolicyResult { kAllowed, kDenied, kTimedOut, kFailed };
inline constexpr int kPolicyResultCount = 4;

// What became of what a registry told: an image became a hint, it is none that was pushed or that this node
// may have, the hint was refused, who told has not the secret, or what was told can't be understood.
enum class PushResult { kHinted, kIgnored, kRefused, kUnauthorized, kMalformed };
inline constexpr int kPushResultCount = 5;

// What became of bytes that hints had brought in: they came, a start of their image read them, or none did
// while it was watched, or before they left the store. What is neither used nor unread is not judged yet.
enum class HintBytes { kFetched, kUsed, kUnread };
inline constexpr int kHintBytesCount = 3;

// What became of a blob of containerd's content store: it shares its room on disk, it is read where it lies,
// its bytes are not what its name says, or it can't be taken in just now.
enum class ImportResult { kReflinked, kInPlace, kWrong, kFailed };
inline constexpr int kImportResultCount = 4;

// What the daemon counts of images beside Telemetry, for those few who need it.
struct ImageCounters {
  std::array<Counter, kPolicyResultCount> policy_decisions;  // sluice_policy_decisions_total{result}
  std::array<Counter, kPushResultCount> notifications;       // sluice_notifications_total{result}
  std::array<Counter, kHintBytesCount> hint_bytes;           // sluice_hint_bytes_total{result}
  std::array<Counter, kImportResultCount> content_imports;   // sluice_content_imports_total{result}
};

}  // namespace sluice
