#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"

namespace sluice::p2p {

// Who sent a chunk, and what it said of it.
struct ChunkSender {
  // So many names of those before it are kept, and told to others.
  static constexpr size_t kPassedOnMax = 8;

  Member member;        // that was dialled
  uint16_t origin = 0;  // by whose right it gave the chunk: TagOf(BlobOrigin)
  // It said that it had verified the bytes, under whatever root.
  bool as_verified = false;
  // Of bytes that it had not: whom it had them from, and whom they had them from; the last is who had them
  // first.
  std::vector<std::string> passed_on = {};
  // If it gave it as public: when the registry had, by the latest that it said of that.
  Instant public_since = Instant::min();
};

// Who is to blame for chunks that were wrong. A chunk that doesn't fit its root blames nobody by itself: it
// is in doubt until right bytes come, the registry being asked first. Then who sent it is blamed if it sent
// it as verified, else the last of those who passed it on; and is banned. If the registry's bytes fit no
// better, what is said of the blob is wrong: that is an alarm, nobody is banned, and members are not asked
// for the blob for a while. Source: PEERS.md, "Blame".
//
// Who sent what nothing had proven is remembered for as long as that may turn out to be wrong, and told to
// those whom the bytes are passed on to. Bytes that are not those which were sent were spoilt here: nobody is
// blamed for them. All of it is in memory and bounded; what is forgotten blames nobody.
//
// Thread-safe.
class ChunkBlame {
 public:
  static constexpr size_t kSendersMax = 1 << 16;    // told apart
  static constexpr size_t kRowsOfMemberMax = 1024;  // of those who passed bytes on, of one sender
  static constexpr size_t kUnprovenMax = 1 << 18;   // chunks whose senders are remembered
  static constexpr size_t kInDoubtMax = 1024;       // chunks
  static constexpr size_t kRefutedMax = 1024;       // blobs
  // The registry's bytes of a chunk must be wrong so often, so that one bad transfer refutes nothing.
  static constexpr int kRegistryTries = 2;
  // What is said of a blob is not held against members for so long after it was refuted.
  static constexpr Duration kRefutedKept = std::chrono::minutes(10);

  struct Parts {
    const Clock& clock;
    const Members* members;  // null: there are no other nodes
    MemberHealth& health;
    Telemetry& telemetry;
    std::function<void(const std::string&)> warn;
    std::function<void(const std::string&)> alarm;
    // Which manifest says that the blob has the root, for people; may be empty.
    std::function<std::string(const Digest& blob, const Digest& root)> who_says = nullptr;
    // Whether chunks of a blob without a root are held against what a member claims that its recipe is, and
    // an end to that; returns whether there was such a claim. Both or neither; called under a lock.
    std::function<bool(const Blob&)> has_claim = nullptr;
    std::function<bool(const Blob&)> drop_claim = nullptr;
  };
  // The parts outlive this.
  explicit ChunkBlame(Parts parts) : parts_(std::move(parts)) {}

  // A number for the sender, and back for as long as it is remembered. Who names ever other rows of passers
  // is taken for the last itself: so it can't have the others forgotten.
  SenderId IdOf(ChunkSender sender);
  std::optional<ChunkSender> Find(SenderId id) const;

  // A member sent a chunk that nothing proves.
  void Unproven(SenderId sender, const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes);
  // Whom an unproven chunk is here from, as ChunkSender::passed_on; empty: the registry, or it is not known.
  std::vector<std::string> PassedOnBy(const Blob& blob, ChunkIndex index) const;

  // A member sent a chunk that does not fit its root.
  void SentWrong(SenderId sender, const Blob& blob, ChunkIndex index);
  // These bytes were here as unproven, and turned out to be wrong.
  void FoundWrong(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes);
  // The registry sent a chunk that does not fit its root.
  void RegistryWrong(const Blob& blob, ChunkIndex index);
  // What a member claims takes the place of what another one did, if one did: what did not fit that may fit
  // this, so its doubts go with it. `claim` sets it; it is called under a lock.
  void TakeClaim(const BlobKey& blob, const std::function<void()>& claim);
  // Somebody sent a chunk that fits.
  void Right(const Blob& blob, ChunkIndex index);

  // A blob that is here whole is not what its digest says. Whether members had a part in it, so that it is
  // worth having it once more from the registry alone: IsRefuted from now on.
  bool WholeWrong(const Blob& blob);
  // The registry gave a chunk that nothing proves yet; but it fits what a member claims, if one does.
  void RegistryGave(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes);
  // The blob's digest was proven: who sent other bytes than the registry is blamed, and all is forgotten.
  void Proven(const Blob& blob);

  // Whether nobody is blamed yet for a wrong chunk.
  bool IsInDoubt(const Blob& blob, ChunkIndex index) const;
  // Whether what is said of the blob is wrong, so that no member is to be asked for it.
  bool IsRefuted(const Blob& blob) const;

 private:
  // What a member sent; by the hash of its bytes it is known again.
  struct Sent {
    SenderId sender = 0;
    uint64_t hash = 0;
    bool registry_differs = false;
  };
  using SentOfChunk = absl::InlinedVector<Sent, 1>;
  struct Doubt {
    absl::InlinedVector<SenderId, 2> senders;
    int registry_wrong = 0;
    bool of_claim = false;  // its chunk did not fit what a member claims, and no root
  };
  struct Refuted {
    std::optional<Digest> root;  // what was said
    Instant until{};
  };
  using ChunkKey = std::pair<BlobKey, ChunkIndex>;
  struct Culprit {
    Member member;
    BanReason reason;
  };

  Doubt* DoubtOf(const Blob& blob, ChunkIndex index);
  std::optional<Culprit> CulpritOf(const ChunkSender& sender) const;
  void Convict(const ChunkSender& sender, const std::string& chunk);
  void Refute(const Blob& blob, const std::string& what);
  void DropClaim(const Blob& blob, ChunkIndex index);
  bool NoteRefuted(const Blob& blob);
  void ForgetSent(const BlobKey& key);
  void ForgetDoubts(const BlobKey& key);
  std::optional<SenderId> KnownId(const std::string& key, const ChunkSender& sender);

  const Parts parts_;
  // Chunks in doubt, and blobs that are refuted: mostly none, so that looking takes no lock.
  std::atomic<size_t> in_doubt_count_{0}, refuted_count_{0};

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<std::string, SenderId> sender_ids_;  // by all that is said of it
  absl::flat_hash_map<SenderId, ChunkSender> senders_;
  absl::flat_hash_map<std::string, size_t> rows_of_member_;
  SenderId next_sender_ = 1;
  absl::flat_hash_map<BlobKey, absl::flat_hash_map<ChunkIndex, SentOfChunk>> unproven_;
  size_t unproven_count_ = 0;  // chunks
  absl::flat_hash_map<ChunkKey, Doubt> in_doubt_;
  absl::flat_hash_map<BlobKey, Refuted> refuted_;
};

}  // namespace sluice::p2p
