#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/cancel_check.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "node/telemetry.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

struct StoredReaderParts {
  RegistryClient& registry;
  const Clock& clock;
  Telemetry& telemetry;
};

struct StoredReaderBounds {
  Instant deadline;
  CancelCheck cancelled;  // once true, the call ends soon with Cancelled
};

// Reads the whole of a blob of `plain_size` bytes that a registry keeps compressed, with or without a seek
// table: its plain bytes are told to `out` in order and piece by piece, and what it took to get them to
// `on_access`. OK: what is stored matches its digest, and exactly `plain_size` bytes were told. Blocks; holds
// 12 MiB of stored bytes at most, and the decoder's window. Errors: DataLoss (the stored bytes are not those
// of the digest, or they lie), Cancelled, DeadlineExceeded, what `out` said, and those of RegistryClient.
absl::Status ReadStored(const StoredReaderParts& parts, const BlobOrigin& origin, const StoredForm& stored,
                        uint64_t plain_size, const StoredReaderBounds& bounds,
                        absl::FunctionRef<void(OriginAccess)> on_access,
                        absl::FunctionRef<absl::Status(std::span<const std::byte>)> out);

}  // namespace sluice::p2p
