#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/disk_buffer_holder.hpp>
#include <libtorrent/disk_interface.hpp>
#include <libtorrent/io_context.hpp>
#include <libtorrent/sha1_hash.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "node/blob_reader.h"
#include "node/chunk_sink.h"
#include "node/chunk_store.h"
#include "node/telemetry.h"
#include "p2p/recipe/leaf_cache.h"
#include "p2p/swarm/blame.h"
#include "p2p/swarm/disk_workers.h"
#include "p2p/swarm/peer_gate.h"
#include "p2p/swarm/swarm_torrent.h"

// Private to this folder: names libtorrent's types.
namespace sluice::p2p {

inline constexpr int kDiskWorkers = 2;
// Bytes of pieces held in memory: begun, being judged, or being stored. A block that would need more is
// refused, and its sender's connection ends.
inline constexpr uint64_t kPieceBytesMax = 128 << 20;
// Bytes of pieces that are complete and not yet stored: above the first figure peers are not read from, until
// it is below the second.
inline constexpr uint64_t kStoringBytesHigh = 32 << 20;
inline constexpr uint64_t kStoringBytesLow = 16 << 20;
// A chunk that the store has no room for just now is offered again after the first time, twice as long each
// time, up to the second; after the third it has failed.
inline constexpr Duration kOfferPauseMin = std::chrono::milliseconds(20);
inline constexpr Duration kOfferPauseMax = std::chrono::seconds(1);
inline constexpr Duration kOfferTimeMax = std::chrono::seconds(10);

// The torrents that the session may open, by the first 20 bytes of their v2 info-hash. Thread-safe.
class TorrentRegistry {
 public:
  void Put(const lt::sha1_hash& info_hash, std::shared_ptr<SwarmTorrent> torrent);
  void Remove(const lt::sha1_hash& info_hash);
  std::shared_ptr<SwarmTorrent> Find(const lt::sha1_hash& info_hash) const;

 private:
  mutable std::mutex mutex_;
  std::map<lt::sha1_hash, std::shared_ptr<SwarmTorrent>> torrents_;  // guarded by mutex_
};

// The session's disk: the chunk store. A piece is a chunk. Blocks are gathered in memory; when libtorrent
// asks for the hash of a complete piece, a worker holds it against the recipe and offers it to the sink, and
// only then libtorrent hears of it. So it never sees a bad piece: that one's last block becomes a failed
// write, which makes libtorrent cut the sender and ask for the piece again. Pieces that the store has already
// are neither written nor hashed: their leaves come from the LeafCache, or from reading the chunk back if
// they are gone.
//
// libtorrent calls on its network thread, and handlers are posted there. What is not constant belongs to that
// thread. Source: libtorrent docs, "custom disk I/O".
class StoreDisk final : public lt::disk_interface, public lt::buffer_allocator_interface {
 public:
  struct Parts {
    const Clock& clock;
    ChunkStore& store;
    BlobReader& reader;
    ChunkSink& sink;
    LeafCache& leaves;
    Telemetry& telemetry;
    PeerGate& gate;
    TorrentRegistry& torrents;
    std::function<void()> wake;  // something changed that the control thread acts upon; any thread
  };

  StoreDisk(lt::io_context& network, Parts parts);
  ~StoreDisk() override;

  lt::storage_holder new_torrent(const lt::storage_params& params, const std::shared_ptr<void>&) override;
  void remove_torrent(lt::storage_index_t storage) override;

  void async_read(lt::storage_index_t storage, const lt::peer_request& request,
                  std::function<void(lt::disk_buffer_holder, const lt::storage_error&)> handler,
                  lt::disk_job_flags_t) override;
  bool async_write(lt::storage_index_t storage, const lt::peer_request& request, const char* bytes,
                   std::shared_ptr<lt::disk_observer> observer,
                   std::function<void(const lt::storage_error&)> handler, lt::disk_job_flags_t) override;
  void async_hash(lt::storage_index_t storage, lt::piece_index_t piece, lt::span<lt::sha256_hash> v2,
                  lt::disk_job_flags_t,
                  std::function<void(lt::piece_index_t, const lt::sha1_hash&, const lt::storage_error&)>
                      handler) override;
  void async_hash2(lt::storage_index_t, lt::piece_index_t piece, int offset, lt::disk_job_flags_t,
                   std::function<void(lt::piece_index_t, const lt::sha256_hash&, const lt::storage_error&)>
                       handler) override;
  void async_clear_piece(lt::storage_index_t storage, lt::piece_index_t piece,
                         std::function<void(lt::piece_index_t)> handler) override;

  void async_check_files(lt::storage_index_t, const lt::add_torrent_params*,
                         lt::aux::vector<std::string, lt::file_index_t>,
                         std::function<void(lt::status_t, const lt::storage_error&)> handler) override;
  void async_release_files(lt::storage_index_t, std::function<void()> handler) override;
  void async_stop_torrent(lt::storage_index_t, std::function<void()> handler) override;
  void async_set_file_priority(lt::storage_index_t,
                               lt::aux::vector<lt::download_priority_t, lt::file_index_t> priorities,
                               std::function<void(const lt::storage_error&,
                                                  lt::aux::vector<lt::download_priority_t, lt::file_index_t>)>
                                   handler) override;
  // Files are the store's: none is ever moved, renamed or deleted from here.
  void async_move_storage(
      lt::storage_index_t, std::string path, lt::move_flags_t,
      std::function<void(lt::status_t, const std::string&, const lt::storage_error&)> handler) override;
  void async_rename_file(
      lt::storage_index_t, lt::file_index_t file, std::string name,
      std::function<void(const std::string&, lt::file_index_t, const lt::storage_error&)> handler) override;
  void async_delete_files(lt::storage_index_t, lt::remove_flags_t,
                          std::function<void(const lt::storage_error&)> handler) override;

  void free_disk_buffer(char* buffer) override;
  void update_stats_counters(lt::counters&) const override {}
  std::vector<lt::open_file_state> get_status(lt::storage_index_t) const override { return {}; }
  void submit_jobs() override {}
  void settings_updated() override {}
  void abort(bool wait) override;

 private:
  using TorrentPtr = std::shared_ptr<SwarmTorrent>;
  using WriteHandler = std::function<void(const lt::storage_error&)>;
  using HashHandler = std::function<void(lt::piece_index_t, const lt::sha1_hash&, const lt::storage_error&)>;
  using PieceKey = std::pair<uint64_t, ChunkIndex>;  // SwarmTorrent::id

  // What has come of a piece. With the network thread, or with the one worker task that judges or stores it.
  struct PieceBytes {
    TorrentPtr torrent;
    ChunkIndex index;
    Buffer bytes;
    std::vector<std::string> senders;  // by block; empty where none has come
    std::vector<Digest> leaves;        // once it was judged
    Instant give_up{};                 // to store it
    Duration pause = kOfferPauseMin;
  };
  // A piece that libtorrent has begun to write, until it is had or cleared.
  struct Piece {
    TorrentPtr torrent;
    std::shared_ptr<PieceBytes> bytes;  // null: nothing had to be kept yet
    bool storing = false;               // counted in storing_bytes_
    bool failed = false;  // a write of it was refused; its blocks are dropped until it is cleared
    int write_error = 0;  // what the last write is to be answered, an errno
    // The last write, held until libtorrent has had the chance to ask for the hash: if the piece is no good,
    // that is the write that fails.
    WriteHandler last_write = nullptr;
    uint64_t last_write_number = 0;
    bool last_write_from_peer = false;
    // The question for the hash; `v2` points into what `hash` holds.
    HashHandler hash = nullptr;
    lt::span<lt::sha256_hash> v2{};
  };
  // How completions of other threads find the disk while it lives.
  struct Door {
    std::mutex mutex;
    StoreDisk* disk;  // guarded by mutex; null once it has closed
  };

  template <typename F>
  void Post(F f);
  const TorrentPtr& At(lt::storage_index_t storage) const;
  // The blob if it is still the torrent's and the chunk may be given out.
  std::shared_ptr<Blob> FindProven(const SwarmTorrent& torrent, ChunkIndex index) const;

  Piece& PieceOf(const TorrentPtr& torrent, ChunkIndex index);
  void TakeBlock(Piece& piece, const TorrentPtr& torrent, const lt::peer_request& request, const char* bytes,
                 const lt::disk_observer* observer);
  bool IsComplete(const Piece& piece) const;
  void ReleaseWrite(PieceKey key, uint64_t number);
  bool HoldBack(const std::shared_ptr<lt::disk_observer>& observer);
  void WakePeers();

  // On a worker.
  void Judge(const std::shared_ptr<PieceBytes>& piece);
  void Offer(const std::shared_ptr<PieceBytes>& piece);
  void ReadBack(const TorrentPtr& torrent, ChunkIndex index);
  lt::storage_error ReadBlock(const SwarmTorrent& torrent, const lt::peer_request& request,
                              char* buffer) const;

  // The ends of a piece.
  void EndOffer(const std::shared_ptr<PieceBytes>& piece, absl::Status status);
  void EndBad(const std::shared_ptr<PieceBytes>& piece);
  void EndGood(PieceKey key, const std::vector<Digest>& leaves);
  void Fail(PieceKey key, int write_error);
  void DropBytes(Piece& piece);
  void Refuse(const std::vector<std::string>& peers);

  // Constant after construction, or thread-safe.
  lt::io_context& network_;
  const Parts parts_;
  const std::shared_ptr<Door> door_;
  DiskWorkers workers_;

  std::vector<TorrentPtr> storages_;
  std::vector<lt::storage_index_t> free_storages_;
  std::map<PieceKey, Piece> pieces_;
  uint64_t next_write_ = 0;
  uint64_t piece_bytes_ = 0;    // of all PieceBytes
  uint64_t storing_bytes_ = 0;  // of those that are complete
  std::vector<std::weak_ptr<lt::disk_observer>> held_back_;
  BlameLedger blame_;
  bool aborted_ = false;
};

}  // namespace sluice::p2p
