#include "p2p/swarm/store_disk.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstdlib>
#include <cstring>
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/operations.hpp>
#include <libtorrent/peer_request.hpp>
#include <libtorrent/storage_defs.hpp>
#include <utility>

namespace sluice::p2p {
namespace {

constexpr int kBlockBytes = static_cast<int>(kLeafBytes);

lt::storage_error Error(int error, lt::operation_t operation) {
  return {lt::error_code(error, lt::system_category()), lt::file_index_t(0), operation};
}

ChunkIndex IndexOf(lt::piece_index_t piece) {
  return ChunkIndex(static_cast<uint32_t>(static_cast<int>(piece)));
}

lt::piece_index_t PieceIndexOf(ChunkIndex index) {
  return lt::piece_index_t(static_cast<int>(index.value()));
}

// Bytes of the request that lie within the blob. This libtorrent puts padding behind a file up to the next
// whole piece: it asks for the last block in full, and expects zeros where the blob has ended.
size_t RealBytes(const SwarmTorrent& torrent, const lt::peer_request& request) {
  const ChunkIndex index = IndexOf(request.piece);
  if (index.value() >= torrent.geometry.chunk_count() || request.start < 0 || request.length < 0) return 0;
  const uint64_t length = torrent.geometry.RangeOf(index).length;
  const auto start = static_cast<uint64_t>(request.start);
  return start >= length ? 0 : std::min<uint64_t>(length - start, static_cast<uint64_t>(request.length));
}

// Reads all of `bytes`; false if there is less, or the disk fails.
bool ReadAll(int fd, std::span<std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return true;
}

}  // namespace

// ------------------------------------------------------------------------------------------ registry

void TorrentRegistry::Put(const lt::sha1_hash& info_hash, std::shared_ptr<SwarmTorrent> torrent) {
  std::lock_guard lock(mutex_);
  torrents_[info_hash] = std::move(torrent);
}

void TorrentRegistry::Remove(const lt::sha1_hash& info_hash) {
  std::lock_guard lock(mutex_);
  torrents_.erase(info_hash);
}

std::shared_ptr<SwarmTorrent> TorrentRegistry::Find(const lt::sha1_hash& info_hash) const {
  std::lock_guard lock(mutex_);
  const auto found = torrents_.find(info_hash);
  return found == torrents_.end() ? nullptr : found->second;
}

// ------------------------------------------------------------------------------------------ torrents

StoreDisk::StoreDisk(lt::io_context& network, Parts parts)
    : network_(network), parts_(std::move(parts)), door_(std::make_shared<Door>()), workers_(kDiskWorkers) {
  door_->disk = this;
}

StoreDisk::~StoreDisk() {
  std::lock_guard lock(door_->mutex);
  door_->disk = nullptr;
}

template <typename F>
void StoreDisk::Post(F f) {
  boost::asio::post(network_, std::move(f));
}

const StoreDisk::TorrentPtr& StoreDisk::At(lt::storage_index_t storage) const {
  return storages_[static_cast<uint32_t>(storage)];
}

lt::storage_holder StoreDisk::new_torrent(const lt::storage_params& params, const std::shared_ptr<void>&) {
  TorrentPtr torrent = parts_.torrents.Find(params.info_hash);
  if (!torrent) {  // removed before it was opened: nothing is read or written for it
    torrent = std::make_shared<SwarmTorrent>(Recipe{{}, 1, kChunkSizeMin, {}, {}},
                                             SwarmTorrent::Role::kSeeding, parts_.clock.Now());
    torrent->gone = true;
  }
  if (free_storages_.empty()) {
    storages_.push_back(std::move(torrent));
    return {lt::storage_index_t(static_cast<uint32_t>(storages_.size() - 1)), *this};
  }
  const lt::storage_index_t storage = free_storages_.back();
  free_storages_.pop_back();
  storages_[static_cast<uint32_t>(storage)] = std::move(torrent);
  return {storage, *this};
}

void StoreDisk::remove_torrent(lt::storage_index_t storage) {
  TorrentPtr& torrent = storages_[static_cast<uint32_t>(storage)];
  torrent->gone = true;
  const auto first = pieces_.lower_bound({torrent->id, ChunkIndex(0)});
  auto end = first;
  for (; end != pieces_.end() && end->first.first == torrent->id; ++end) DropBytes(end->second);
  pieces_.erase(first, end);
  torrent.reset();
  free_storages_.push_back(storage);
  WakePeers();
}

void StoreDisk::abort(bool) {
  if (std::exchange(aborted_, true)) return;
  {
    std::lock_guard lock(door_->mutex);
    door_->disk = nullptr;
  }
  std::vector<Task> left = workers_.Stop();
  // Handlers keep torrents and connections alive; they go on this thread, but not from within a call of
  // theirs.
  auto tasks = std::make_shared<std::vector<Task>>(std::move(left));
  auto pieces = std::make_shared<std::map<PieceKey, Piece>>(std::move(pieces_));
  pieces_.clear();
  Post([tasks, pieces] {
    tasks->clear();
    pieces->clear();
  });
}

std::shared_ptr<Blob> StoreDisk::FindProven(const SwarmTorrent& torrent, ChunkIndex index) const {
  if (torrent.gone) return nullptr;
  std::shared_ptr<Blob> blob = parts_.store.Find(torrent.digest());
  if (!blob || blob->refused() || !torrent.Fits(*blob)) return nullptr;
  return parts_.reader.AllProven(*blob, {index, 1}) ? blob : nullptr;
}

// ---------------------------------------------------------------------------------------------- reads

void StoreDisk::async_read(lt::storage_index_t storage, const lt::peer_request& request,
                           std::function<void(lt::disk_buffer_holder, const lt::storage_error&)> handler,
                           lt::disk_job_flags_t) {
  At(storage)->NoteUse(parts_.clock.Now());
  workers_.Post([this, torrent = At(storage), request, handler = std::move(handler)]() mutable {
    auto* buffer = static_cast<char*>(std::malloc(static_cast<size_t>(std::max(request.length, 1))));
    const lt::storage_error error =
        buffer ? ReadBlock(*torrent, request, buffer) : Error(ENOMEM, lt::operation_t::file_read);
    Post([this, buffer, length = request.length, error, handler = std::move(handler)] {
      if (!error) return handler(lt::disk_buffer_holder(*this, buffer, length), error);
      std::free(buffer);
      handler(lt::disk_buffer_holder(), error);
    });
  });
}

// An error tells the peer that the piece is not to be had here any more (libtorrent: lt_donthave).
lt::storage_error StoreDisk::ReadBlock(const SwarmTorrent& torrent, const lt::peer_request& request,
                                       char* buffer) const {
  const lt::storage_error absent = Error(ENOENT, lt::operation_t::file_read);
  const ChunkIndex index = IndexOf(request.piece);
  if (index.value() >= torrent.geometry.chunk_count()) return absent;
  absl::StatusOr<std::shared_ptr<const BlobFile>> file = absl::NotFoundError("absent");
  const std::shared_ptr<Blob> blob = FindProven(torrent, index);
  if (blob) file = parts_.reader.OpenFile(torrent.digest());
  if (!file.ok()) return absent;

  const size_t real = RealBytes(torrent, request);
  const uint64_t offset = torrent.geometry.RangeOf(index).offset + static_cast<uint64_t>(request.start);
  auto* bytes = reinterpret_cast<std::byte*>(buffer);
  if (!ReadAll((*file)->descriptor(), {bytes, real}, offset)) return absent;
  std::memset(buffer + real, 0, static_cast<size_t>(request.length) - real);
  // Evicted or taken back meanwhile: then it may have read as zeros, or another file.
  if (FindProven(torrent, index) != blob) return absent;
  parts_.telemetry.peer_sent_bytes[static_cast<size_t>(PeerLane::kSwarm)].Add(real);
  return {};
}

void StoreDisk::free_disk_buffer(char* buffer) {
  std::free(buffer);
}

// ---------------------------------------------------------------------------------------------- writes

StoreDisk::Piece& StoreDisk::PieceOf(const TorrentPtr& torrent, ChunkIndex index) {
  Piece& piece = pieces_[{torrent->id, index}];
  piece.torrent = torrent;
  return piece;
}

bool StoreDisk::async_write(lt::storage_index_t storage, const lt::peer_request& request, const char* bytes,
                            std::shared_ptr<lt::disk_observer> observer, WriteHandler handler,
                            lt::disk_job_flags_t) {
  const TorrentPtr torrent = At(storage);
  const ChunkIndex index = IndexOf(request.piece);
  if (observer) torrent->NoteBlock(parts_.clock.Now());
  Piece& piece = PieceOf(torrent, index);
  if (piece.last_write) {
    Post([held = std::exchange(piece.last_write, nullptr), error = std::exchange(piece.write_error, 0)] {
      held(error ? Error(error, lt::operation_t::file_write) : lt::storage_error());
    });
  }
  TakeBlock(piece, torrent, request, bytes, observer.get());
  piece.last_write = std::move(handler);
  piece.last_write_from_peer = observer != nullptr;
  piece.last_write_number = ++next_write_;
  Post([this, key = PieceKey(torrent->id, index), number = next_write_] { ReleaseWrite(key, number); });
  return HoldBack(observer);
}

void StoreDisk::TakeBlock(Piece& piece, const TorrentPtr& torrent, const lt::peer_request& request,
                          const char* bytes, const lt::disk_observer* observer) {
  const ChunkIndex index = IndexOf(request.piece);
  const size_t real = RealBytes(*torrent, request);
  if (real == 0 || piece.failed || piece.hash || FindProven(*torrent, index)) return;
  const auto refuse = [&](int error) {
    DropBytes(piece);
    piece.failed = true;
    piece.write_error = error;
  };
  // Without an observer it is an announcement, whose bytes are no bytes of the blob.
  if (!observer) return refuse(ENOMEM);
  if (torrent->gone) return refuse(ENOSPC);
  if (request.start % kBlockBytes != 0 || request.length > kBlockBytes) return refuse(ENOMEM);

  const uint64_t length = torrent->geometry.RangeOf(index).length;
  if (!piece.bytes) {
    if (piece_bytes_ + length > kPieceBytesMax) return refuse(ENOMEM);
    piece_bytes_ += length;
    piece.bytes = std::make_shared<PieceBytes>(
        PieceBytes{torrent,
                   index,
                   Buffer(length),
                   std::vector<std::string>((length + kLeafBytes - 1) / kLeafBytes),
                   {},
                   {}});
  }
  std::memcpy(piece.bytes->bytes.data() + request.start, bytes, real);
  piece.bytes->senders[static_cast<size_t>(request.start / kBlockBytes)] = parts_.gate.AddressOf(observer);
}

bool StoreDisk::IsComplete(const Piece& piece) const {
  return piece.bytes && std::none_of(piece.bytes->senders.begin(), piece.bytes->senders.end(),
                                     [](const std::string& sender) { return sender.empty(); });
}

// The hash is asked for within the call of libtorrent's that writes a piece's last block; if it was not,
// there is more to come.
void StoreDisk::ReleaseWrite(PieceKey key, uint64_t number) {
  const auto found = pieces_.find(key);
  if (found == pieces_.end()) return;
  Piece& piece = found->second;
  if (!piece.last_write || piece.last_write_number != number || piece.hash) return;
  const WriteHandler write = std::exchange(piece.last_write, nullptr);
  const int error = std::exchange(piece.write_error, 0);
  if (!error) return write({});
  // Of an announcement that failed libtorrent keeps the blocks as being written for ever.
  if (!piece.last_write_from_peer) piece.torrent->stale = true;
  if (error == ENOSPC) piece.torrent->write_failed_at = parts_.clock.Now().time_since_epoch().count();
  parts_.wake();
  write(Error(error, lt::operation_t::file_write));
}

bool StoreDisk::HoldBack(const std::shared_ptr<lt::disk_observer>& observer) {
  if (storing_bytes_ <= kStoringBytesHigh) return false;
  if (observer) held_back_.push_back(observer);
  return true;
}

void StoreDisk::WakePeers() {
  if (storing_bytes_ >= kStoringBytesLow || held_back_.empty()) return;
  Post([held = std::exchange(held_back_, {})] {
    for (const auto& weak : held) {
      if (const auto observer = weak.lock()) observer->on_disk();
    }
  });
}

// ---------------------------------------------------------------------------------------------- hashes

void StoreDisk::async_hash(lt::storage_index_t storage, lt::piece_index_t piece_index,
                           lt::span<lt::sha256_hash> v2, lt::disk_job_flags_t, HashHandler handler) {
  const TorrentPtr torrent = At(storage);
  const ChunkIndex index = IndexOf(piece_index);
  const PieceKey key(torrent->id, index);
  Piece& piece = PieceOf(torrent, index);
  piece.hash = std::move(handler);
  piece.v2 = v2;
  if (piece.failed) {
    const int error = piece.write_error ? piece.write_error : ENOMEM;
    return Post([this, key, error] { Fail(key, error); });
  }
  if (FindProven(*torrent, index)) {
    std::vector<Digest> leaves = parts_.leaves.Take(torrent->digest(), index);
    if (torrent->Matches(index, leaves)) {
      return Post([this, key, leaves = std::move(leaves)] { EndGood(key, leaves); });
    }
    return workers_.Post([this, torrent, index] { ReadBack(torrent, index); });
  }
  if (!IsComplete(piece)) {
    return Post([this, key] { Fail(key, ENOMEM); });
  }
  piece.storing = true;
  storing_bytes_ += piece.bytes->bytes.size();
  workers_.Post([this, bytes = piece.bytes] { Judge(bytes); });
}

void StoreDisk::async_hash2(
    lt::storage_index_t, lt::piece_index_t piece, int, lt::disk_job_flags_t,
    std::function<void(lt::piece_index_t, const lt::sha256_hash&, const lt::storage_error&)> handler) {
  // This version never asks.
  Post([piece, handler = std::move(handler)] {
    handler(piece, {}, Error(ENOSYS, lt::operation_t::file_read));
  });
}

void StoreDisk::Judge(const std::shared_ptr<PieceBytes>& piece) {
  piece->leaves = HashLeaves(piece->bytes.span());
  if (piece->torrent->Matches(piece->index, piece->leaves)) {
    piece->give_up = parts_.clock.Now() + kOfferTimeMax;
    piece->torrent->SetOffering(piece->index);
    return Offer(piece);
  }
  Post([this, piece] { EndBad(piece); });
}

void StoreDisk::Offer(const std::shared_ptr<PieceBytes>& piece) {
  std::shared_ptr<Blob> blob = parts_.store.Find(piece->torrent->digest());
  if (!blob || piece->torrent->gone || !piece->torrent->Fits(*blob)) {
    return Post([this, piece] { EndOffer(piece, absl::UnavailableError("the blob was evicted")); });
  }
  // A copy, while it is in the processor's cache: an offer that is refused takes its bytes with it.
  Buffer copy(piece->bytes.size());
  std::memcpy(copy.data(), piece->bytes.data(), copy.size());
  parts_.sink.Offer(std::move(blob), piece->index, std::move(copy), Evidence::kVerified, SourceKind::kPeer,
                    [door = door_, piece](absl::Status status) {
                      std::lock_guard lock(door->mutex);
                      if (!door->disk) return;
                      door->disk->Post([disk = door->disk, piece, status = std::move(status)] {
                        disk->EndOffer(piece, status);
                      });
                    });
}

void StoreDisk::ReadBack(const TorrentPtr& torrent, ChunkIndex index) {
  const PieceKey key(torrent->id, index);
  const ByteRange range = torrent->geometry.RangeOf(index);
  const absl::StatusOr<std::shared_ptr<const BlobFile>> file = parts_.reader.OpenFile(torrent->digest());
  Buffer bytes(range.length);
  std::vector<Digest> leaves;
  if (file.ok() && ReadAll((*file)->descriptor(), bytes.span(), range.offset))
    leaves = HashLeaves(bytes.span());
  if (!torrent->Matches(index, leaves)) {
    return Post([this, key] { Fail(key, ENOMEM); });
  }
  Post([this, key, leaves = std::move(leaves)] { EndGood(key, leaves); });
}

// --------------------------------------------------------------------------------- the ends of a piece

void StoreDisk::EndOffer(const std::shared_ptr<PieceBytes>& piece, absl::Status status) {
  const PieceKey key(piece->torrent->id, piece->index);
  const Instant now = parts_.clock.Now();
  if (absl::IsResourceExhausted(status) && now < piece->give_up && !piece->torrent->gone && !aborted_) {
    workers_.PostAt(std::chrono::steady_clock::now() + piece->pause, [this, piece] { Offer(piece); });
    piece->pause = std::min(2 * piece->pause, kOfferPauseMax);
    return;
  }
  if (status.ok()) {
    parts_.telemetry.peer_received_bytes[static_cast<size_t>(PeerLane::kSwarm)].Add(piece->bytes.size());
    EndGood(key, piece->leaves);
  } else {
    Fail(key, ENOSPC);
  }
  piece->torrent->EndOffering(piece->index);
}

void StoreDisk::EndBad(const std::shared_ptr<PieceBytes>& piece) {
  parts_.telemetry.swarm_bad_pieces.Add();
  parts_.telemetry.verify_failures[static_cast<size_t>(SourceKind::kPeer)].Add();
  const std::vector<std::string> liars =
      blame_.NoteBad(piece->torrent->digest(), piece->index, piece->leaves, piece->senders);
  Fail({piece->torrent->id, piece->index}, ENOMEM);
  Refuse(liars);
}

void StoreDisk::EndGood(PieceKey key, const std::vector<Digest>& leaves) {
  const auto found = pieces_.find(key);
  if (found == pieces_.end() || !found->second.hash) return;
  DropBytes(found->second);
  const Piece piece = std::move(found->second);
  pieces_.erase(found);  // first: the handlers may write other pieces

  const auto count = std::min<size_t>(leaves.size(), static_cast<size_t>(piece.v2.size()));
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(piece.v2[static_cast<std::ptrdiff_t>(i)].data(), leaves[i].bytes().data(), Digest::kBytes);
  }
  const bool announced = piece.torrent->EndAnnouncement(key.second);
  if (piece.last_write) piece.last_write({});
  piece.hash(PieceIndexOf(key.second), {}, {});
  Refuse(blame_.NoteGood(piece.torrent->digest(), key.second, leaves));
  WakePeers();
  if (announced) parts_.wake();
}

// To libtorrent the last block could not be written, so that it asks for all of the piece once more: with
// ENOMEM the block's sender is cut, with ENOSPC nothing is asked for until the control thread says so.
void StoreDisk::Fail(PieceKey key, int write_error) {
  const auto found = pieces_.find(key);
  if (found == pieces_.end() || !found->second.hash) return;
  Piece& piece = found->second;
  DropBytes(piece);
  piece.failed = true;  // until async_clear_piece
  piece.write_error = 0;
  const TorrentPtr torrent = piece.torrent;
  const WriteHandler write = std::exchange(piece.last_write, nullptr);
  const HashHandler hash = std::exchange(piece.hash, nullptr);
  if (!write || !piece.last_write_from_peer) {
    // Without a peer's write that fails, libtorrent would keep the piece as written and never had.
    torrent->stale = true;
    torrent->EndAnnouncement(key.second);
    write_error = ENOMEM;  // any other error would stop the torrent
    pieces_.erase(found);
  }
  if (write_error == ENOSPC) torrent->write_failed_at = parts_.clock.Now().time_since_epoch().count();
  if (write) write(Error(write_error, lt::operation_t::file_write));
  hash(PieceIndexOf(key.second), {}, Error(ECANCELED, lt::operation_t::file_read));
  WakePeers();
  parts_.wake();
}

void StoreDisk::DropBytes(Piece& piece) {
  if (!piece.bytes) return;
  const uint64_t length = piece.bytes->bytes.size();
  piece_bytes_ -= length;
  if (std::exchange(piece.storing, false)) storing_bytes_ -= length;
  piece.bytes.reset();
}

void StoreDisk::Refuse(const std::vector<std::string>& peers) {
  for (const std::string& peer : peers) parts_.gate.Ban(peer);
}

void StoreDisk::async_clear_piece(lt::storage_index_t storage, lt::piece_index_t piece,
                                  std::function<void(lt::piece_index_t)> handler) {
  Post([this, key = PieceKey(At(storage)->id, IndexOf(piece)), piece, handler = std::move(handler)] {
    if (const auto found = pieces_.find(key); found != pieces_.end()) {
      DropBytes(found->second);
      const Piece cleared = std::move(found->second);
      pieces_.erase(found);
      // What is still to be answered of it is, before libtorrent forgets what it had asked.
      if (cleared.last_write) cleared.last_write({});
      if (cleared.hash) cleared.hash(piece, {}, Error(ECANCELED, lt::operation_t::file_read));
      WakePeers();
    }
    handler(piece);
  });
}

// ------------------------------------------------------------------------------------- the rest of it

void StoreDisk::async_check_files(lt::storage_index_t, const lt::add_torrent_params*,
                                  lt::aux::vector<std::string, lt::file_index_t>,
                                  std::function<void(lt::status_t, const lt::storage_error&)> handler) {
  Post([handler = std::move(handler)] { handler(lt::status_t::no_error, {}); });
}

void StoreDisk::async_release_files(lt::storage_index_t, std::function<void()> handler) {
  if (handler) Post(std::move(handler));
}

void StoreDisk::async_stop_torrent(lt::storage_index_t, std::function<void()> handler) {
  if (handler) Post(std::move(handler));
}

void StoreDisk::async_set_file_priority(
    lt::storage_index_t, lt::aux::vector<lt::download_priority_t, lt::file_index_t> priorities,
    std::function<void(const lt::storage_error&, lt::aux::vector<lt::download_priority_t, lt::file_index_t>)>
        handler) {
  Post([priorities = std::move(priorities), handler = std::move(handler)] { handler({}, priorities); });
}

void StoreDisk::async_move_storage(
    lt::storage_index_t, std::string path, lt::move_flags_t,
    std::function<void(lt::status_t, const std::string&, const lt::storage_error&)> handler) {
  Post([path = std::move(path), handler = std::move(handler)] {
    handler(lt::status_t::fatal_disk_error, path, Error(ENOTSUP, lt::operation_t::file_rename));
  });
}

void StoreDisk::async_rename_file(
    lt::storage_index_t, lt::file_index_t file, std::string name,
    std::function<void(const std::string&, lt::file_index_t, const lt::storage_error&)> handler) {
  Post([file, name = std::move(name), handler = std::move(handler)] {
    handler(name, file, Error(ENOTSUP, lt::operation_t::file_rename));
  });
}

void StoreDisk::async_delete_files(lt::storage_index_t, lt::remove_flags_t,
                                   std::function<void(const lt::storage_error&)> handler) {
  Post([handler = std::move(handler)] { handler(Error(ENOTSUP, lt::operation_t::file_remove)); });
}

}  // namespace sluice::p2p
