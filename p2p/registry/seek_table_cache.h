#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/fetch_handle.h"
#include "node/geometry.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/seek_table.h"

namespace sluice::p2p {

// The seek tables of compressed blobs: each is asked for once, held against the digest that the manifest
// gives for it, and kept in memory for a while.
//
// Thread-safe. It is held by a shared pointer; the parts outlive it and what is asked of it.
class SeekTableCache : public std::enable_shared_from_this<SeekTableCache> {
 public:
  static constexpr size_t kBytesMaxDefault = 64 << 20;
  // What is asked of a registry for a table ends by then.
  static constexpr Duration kAskMax = std::chrono::seconds(15);

  struct Parts {
    RegistryClient& registry;
    const Clock& clock;
    Executor& io;  // where tables are read, and waits end
    // Who is asked for a table instead of the registry, e.g. somebody who asks it for all; may be null. The
    // answer comes exactly once, on any thread, and says whether no registry was asked (from_member).
    using TableDone = RegistryClient::Done<FetchedManifest>;
    std::function<void(const BlobOrigin&, const StoredForm&, const Grant&, TableDone)> ask = nullptr;
  };

  using Table = std::shared_ptr<const SeekTable>;
  using OnTable = absl::AnyInvocable<void(absl::StatusOr<Table>) &&>;
  using OnAccess = RegistryClient::OnAccess;

  explicit SeekTableCache(Parts parts, size_t bytes_max = kBytesMaxDefault)
      : parts_(parts), bytes_max_(bytes_max) {}

  // The table of a blob that `origin` keeps as `stored`, asked for by that right (see PullGrant). `on_table`
  // is called exactly once: before this returns if the table is kept, else on a thread of the client's or the
  // executor's, at `deadline` at the latest. Cancelled, it ends at once with that error; whoever else waits
  // for the table still gets it. What it took to get it is told to `on_access`, if the registry was asked.
  // Errors: DataLoss (the bytes are not those of the digest, or they lie), DeadlineExceeded, Cancelled, and
  // what the registry said. REQUIRES: stored.seek_table
  std::shared_ptr<FetchControl> Get(const BlobOrigin& origin, const StoredForm& stored,
                                    const ChunkGeometry& geometry, const Grant& grant, FetchClass fetch_class,
                                    Instant deadline, OnAccess on_access, OnTable on_table);

 private:
  class Wait;
  struct Ask;
  // The digest stands for the table's bytes; where it lies and how the blob is cut, for how it is read.
  using Key = std::tuple<Digest, uint64_t, uint64_t, uint32_t>;
  // What is refused to one is not to fail others. The address is not used again while it is asked.
  using AskKey = std::tuple<Key, BlobOrigin, const AskerGrant*>;
  struct Kept {
    Key key;
    Table table;
  };

  Table FindLocked(const Key& key);
  void Begin(const std::shared_ptr<Ask>& ask, const StoredForm& stored, FetchClass fetch_class,
             OnAccess on_access);
  void Read(const std::shared_ptr<Ask>& ask, absl::Status came);
  void End(const std::shared_ptr<Ask>& ask, absl::StatusOr<Table> table);

  const Parts parts_;
  const size_t bytes_max_;

  std::mutex mutex_;      // guards what follows
  std::list<Kept> kept_;  // the last used first
  std::map<Key, std::list<Kept>::iterator> found_;
  size_t kept_bytes_ = 0;
  std::map<AskKey, std::shared_ptr<Ask>> asks_;  // under way
};

}  // namespace sluice::p2p
