#include "p2p/registry/seek_table_cache.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/pull_grant.h"

namespace sluice::p2p {

// Somebody who waits for a table: told once, by whoever comes first.
class SeekTableCache::Wait final : public FetchControl {
 public:
  explicit Wait(OnTable on_table) : on_table_(std::move(on_table)) {}

  void Tell(absl::StatusOr<Table> table) {
    std::optional<OnTable> told;
    {
      const std::lock_guard lock(mutex_);
      std::swap(told, on_table_);
    }
    if (told) std::move (*told)(std::move(table));
  }

  void SetAsk(std::weak_ptr<FetchControl> ask) {
    const std::lock_guard lock(mutex_);
    ask_ = std::move(ask);
  }
  void Raise(FetchClass fetch_class) override {
    std::shared_ptr<FetchControl> ask;
    {
      const std::lock_guard lock(mutex_);
      ask = ask_.lock();
    }
    if (ask) ask->Raise(fetch_class);
  }
  void Cancel() override { Tell(absl::CancelledError("nobody wants it any more")); }

 private:
  std::mutex mutex_;  // guards what follows
  std::optional<OnTable> on_table_;
  std::weak_ptr<FetchControl> ask_;
};

struct SeekTableCache::Ask {
  // Constant after construction.
  AskKey key;
  ChunkGeometry geometry;
  uint64_t frames_bytes;
  Digest digest;
  Grant grant;

  std::string bytes;  // what has come; in order, on the client's thread

  // Guarded by the cache's mutex.
  std::vector<std::shared_ptr<Wait>> waits;
  std::weak_ptr<FetchControl> request;  // it holds this until it has answered
};

std::shared_ptr<FetchControl> SeekTableCache::Get(const BlobOrigin& origin, const StoredForm& stored,
                                                  const ChunkGeometry& geometry, const Grant& grant,
                                                  FetchClass fetch_class, Instant deadline,
                                                  OnAccess on_access, OnTable on_table) {
  const SeekTablePlace& place = *stored.seek_table;
  const Key key{place.digest, place.range.offset, geometry.size(), geometry.chunk_size()};
  const auto wait = std::make_shared<Wait>(std::move(on_table));
  std::shared_ptr<Ask> ask;
  std::shared_ptr<FetchControl> request;
  bool is_first = false;
  Table table;
  {
    const std::lock_guard lock(mutex_);
    table = FindLocked(key);
    if (!table) {
      const AskKey wanted{key, origin, grant.get()};
      std::shared_ptr<Ask>& known = asks_[wanted];
      is_first = known == nullptr;
      if (is_first)
        known =
            std::make_shared<Ask>(Ask{wanted, geometry, place.range.offset, place.digest, grant, {}, {}, {}});
      ask = known;
      ask->waits.push_back(wait);
      request = ask->request.lock();
    }
  }
  if (table) {
    wait->Tell(std::move(table));
    return wait;
  }
  parts_.io.PostAt(deadline, [weak = std::weak_ptr(wait)] {
    if (const auto late = weak.lock())
      late->Tell(absl::DeadlineExceededError("its seek table did not come in time"));
  });
  if (is_first) {
    Begin(ask, stored, fetch_class, std::move(on_access));
    const std::lock_guard lock(mutex_);
    request = ask->request.lock();
  }
  if (request) {
    wait->SetAsk(request);
    request->Raise(fetch_class);
  }
  return wait;
}

SeekTableCache::Table SeekTableCache::FindLocked(const Key& key) {
  const auto found = found_.find(key);
  if (found == found_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found->second);
  return found->second->table;
}

void SeekTableCache::Begin(const std::shared_ptr<Ask>& ask, const StoredForm& stored, FetchClass fetch_class,
                           OnAccess on_access) {
  // Who shares it asks by rights of nodes.
  if (parts_.ask && !PullGrant::IsCredentials(ask->grant)) {
    return parts_.ask(std::get<BlobOrigin>(ask->key), stored, ask->grant,
                      [self = shared_from_this(), ask,
                       on_access = std::move(on_access)](absl::StatusOr<FetchedManifest> table) mutable {
                        if (!table.ok()) return self->Read(ask, table.status());
                        if (!table->from_member) on_access(table->access);
                        ask->bytes = std::move(table->body);
                        self->Read(ask, absl::OkStatus());
                      });
  }
  const std::shared_ptr<FetchControl> request = parts_.registry.ReadBlobRange(
      std::get<BlobOrigin>(ask->key), stored.digest, stored.size, stored.seek_table->range, fetch_class,
      parts_.clock.Now() + kAskMax, std::move(on_access),
      [ask](std::span<const std::byte> bytes) {
        ask->bytes.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      },
      [self = shared_from_this(), ask](absl::Status status) { self->Read(ask, std::move(status)); },
      ask->grant);
  const std::lock_guard lock(mutex_);
  // By now it may have answered.
  if (const auto known = asks_.find(ask->key); known != asks_.end() && known->second == ask)
    ask->request = request;
}

void SeekTableCache::Read(const std::shared_ptr<Ask>& ask, absl::Status came) {
  // That a table came late says nothing of those who have more time.
  if (absl::IsDeadlineExceeded(came)) came = absl::UnavailableError(came.message());
  if (!came.ok()) return End(ask, std::move(came));
  parts_.io.Post([self = shared_from_this(), ask] {
    if (Sha256::Of(ask->bytes) != ask->digest)
      return self->End(ask, absl::DataLossError("its seek table is not what its digest promises"));
    absl::StatusOr<SeekTable> table = SeekTable::Parse(ask->bytes, ask->geometry, ask->frames_bytes);
    if (!table.ok()) return self->End(ask, table.status());
    self->End(ask, std::make_shared<const SeekTable>(*std::move(table)));
  });
}

void SeekTableCache::End(const std::shared_ptr<Ask>& ask, absl::StatusOr<Table> table) {
  std::vector<std::shared_ptr<Wait>> waits;
  {
    const std::lock_guard lock(mutex_);
    asks_.erase(ask->key);
    waits = std::move(ask->waits);
    ask->request.reset();
    if (const Key& key = std::get<Key>(ask->key); table.ok() && !found_.contains(key)) {
      kept_.push_front({key, *table});
      found_[key] = kept_.begin();
      kept_bytes_ += (*table)->memory_bytes();
      while (kept_bytes_ > bytes_max_ && !kept_.empty()) {
        kept_bytes_ -= kept_.back().table->memory_bytes();
        found_.erase(kept_.back().key);
        kept_.pop_back();
      }
    }
  }
  for (const std::shared_ptr<Wait>& wait : waits) wait->Tell(table);
}

}  // namespace sluice::p2p
