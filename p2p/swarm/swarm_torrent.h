#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "node/blob.h"
#include "node/executor.h"
#include "p2p/recipe/recipe.h"

namespace sluice::p2p {

// Without a block for so long, a fill asks elsewhere.
inline constexpr Duration kNoProgressTime = std::chrono::seconds(2);
// A fill that has just begun waits so long for connections that are being made.
inline constexpr Duration kJoinGrace = std::chrono::milliseconds(500);
// An announcement that libtorrent has not taken up after this time (the torrent was not ready, or it holds
// the piece for present already) is made again, so often in all.
inline constexpr Duration kAnnounceTime = std::chrono::seconds(2);
inline constexpr int kAnnounceTriesMax = 3;

// What libtorrent was seen to do for a fill.
struct FillView {
  std::vector<bool> offered;  // a connected peer has the piece, and libtorrent doesn't hold it for present
  std::vector<bool> stalled;  // begun, and stands still
  bool connecting = false;    // connections exist or are being made
};

// A blob as one torrent of the session, from add_torrent to remove_torrent: what the control thread, the core
// loop and the disk share of it. It names the blob by its digest and holds none of the store's objects.
//
// Thread-safe.
class SwarmTorrent {
 public:
  enum class Role { kFilling, kSeeding };

  SwarmTorrent(Recipe torrent_recipe, Role first_role, Instant now);

  // Constant after construction.
  const uint64_t id;  // never that of another torrent of this process
  const Recipe recipe;
  const ChunkGeometry geometry;
  const Digest& digest() const { return recipe.blob; }

  // Whether `blob` is still the one that this torrent was made of: same size, chunk size and root.
  bool Fits(const Blob& blob) const;
  // Whether a chunk with these leaves is what the recipe promises.
  bool Matches(ChunkIndex index, const std::vector<Digest>& leaves) const;

  // Its chunks are going away: nothing is read or written for it any more.
  std::atomic<bool> gone{false};
  std::atomic<Role> role;
  // libtorrent believes something of it that is not so; it is to be removed and added anew.
  std::atomic<bool> stale{false};
  // When a write failed for want of room or such, in the clock's ticks; 0 if none did since it was looked at.
  std::atomic<int64_t> write_failed_at{0};

  void NoteBlock(Instant now);  // a block has come
  void NoteUse(Instant now);    // of any kind
  Instant last_used() const;

  // --- A fill, as it is seen from outside.
  void SetView(FillView view, Instant now);
  // Whether a chunk that the store lacks is on its way, for a fill that began at `joined`.
  bool Carries(ChunkIndex index, Instant joined, Instant now) const;

  // --- Announcing what other lanes brought.
  // Returns whether it is to be announced: not if this lane itself brings it just now.
  bool WantAnnounced(ChunkIndex index);
  // The next one to announce, and marks it as under way. False if there is none.
  bool NextToAnnounce(Instant now, ChunkIndex& index);
  // It has been announced, or must not be. Returns whether that was under way.
  bool EndAnnouncement(ChunkIndex index);
  // Announcements under way. Those that took too long are wanted again.
  size_t AnnouncementsUnderWay(Instant now);
  // This lane hands the chunk to the store, or has ended to.
  void SetOffering(ChunkIndex index);
  void EndOffering(ChunkIndex index);

 private:
  std::atomic<int64_t> last_block_;
  std::atomic<int64_t> last_used_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  FillView view_;
  Instant offered_since_{};  // when view_ first showed a piece to be had
  bool seen_ = false;        // view_ was set
  struct Announcement {
    Instant made;
    int tries = 0;
  };
  std::map<ChunkIndex, int> to_announce_;  // and how often that was tried
  std::map<ChunkIndex, Announcement> announcing_;
  std::set<ChunkIndex> offering_;
};

}  // namespace sluice::p2p
