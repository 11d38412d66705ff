#include "node/daemon/imported_rights.h"

#include <optional>

#include "absl/strings/str_cat.h"

namespace sluice {

bool ImportedRights::Know(const Digest& digest, const BlobOrigin& origin, uint64_t size, Task then) {
  const BlobKey key(digest);
  if (!parts_.store.IsImported(key) || parts_.store.AccessOf(key, origin) != OriginAccess::kUnknown)
    return true;
  const Question question{origin, digest};
  {
    const std::lock_guard lock(shared_->mutex);
    const auto refused = shared_->refused.find(question);
    if (refused != shared_->refused.end() && parts_.clock.Now() < refused->second) return true;
    if (then && shared_->waiting >= kWaitingMax) return true;
    const auto asking = shared_->asking.find(question);
    const bool is_asked = asking != shared_->asking.end();
    if (!is_asked && shared_->asking.size() >= kAskingMax) return true;
    std::vector<Task>& waiting = is_asked ? asking->second : shared_->asking[question];
    if (then) {
      waiting.push_back(std::move(then));
      ++shared_->waiting;
    }
    if (is_asked) return false;
  }
  parts_.registry.StatBlob(
      origin, digest,
      [parts = parts_, shared = shared_, question, size](absl::StatusOr<p2p::RegistryClient::BlobStat> stat) {
        parts.io.Post([parts, shared, question, size, stat = std::move(stat)] {
          Answered(parts, shared, question, size, stat);
        });
      });
  return false;
}

void ImportedRights::Answered(const Parts& parts, const std::shared_ptr<Shared>& shared,
                              const Question& question, uint64_t size,
                              const absl::StatusOr<p2p::RegistryClient::BlobStat>& stat) {
  const absl::Status learned = Learn(parts, question, size, stat);
  std::vector<Task> waiting;
  {
    const std::lock_guard lock(shared->mutex);
    if (!learned.ok()) {
      const bool is_answer =
          absl::IsNotFound(learned) || absl::IsPermissionDenied(learned) || absl::IsUnauthenticated(learned);
      if (shared->refused.size() >= kRefusedMax) shared->refused.clear();
      shared->refused.insert_or_assign(question,
                                       parts.clock.Now() + (is_answer ? kRefusedKept : kSilenceKept));
    }
    const auto asking = shared->asking.find(question);
    waiting = std::move(asking->second);
    shared->asking.erase(asking);
    shared->waiting -= waiting.size();
  }
  for (Task& then : waiting) std::move(then)();
}

absl::Status ImportedRights::Learn(const Parts& parts, const Question& question, uint64_t size,
                                   const absl::StatusOr<p2p::RegistryClient::BlobStat>& stat) {
  if (!stat.ok()) return stat.status();
  const auto& [origin, digest] = question;
  const std::shared_ptr<Blob> known = parts.store.Find(BlobKey(digest));
  if (!known || known->geometry().size() != size || stat->size != size)
    return absl::NotFoundError(absl::StrCat("blob ", digest.ToString(), " has another size there"));
  BlobSpec spec;
  spec.digest = digest;
  spec.size = size;
  spec.chunk_size = known->geometry().chunk_size();
  spec.origins = {origin};
  const absl::StatusOr<std::shared_ptr<Blob>> opened = parts.store.Open(spec);
  if (!opened.ok()) return opened.status();
  parts.store.NoteAccess((*opened)->key(), origin, stat->access);
  return absl::OkStatus();
}

}  // namespace sluice
