#include "p2p/swarm/swarm.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/alert_types.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/torrent_flags.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/torrent_status.hpp>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "p2p/recipe/recipe.h"
#include "p2p/swarm/peer_gate.h"
#include "p2p/swarm/session_settings.h"
#include "p2p/swarm/store_disk.h"
#include "p2p/swarm/swarm_torrent.h"

namespace sluice::p2p {
namespace {

// Of a digest there is one torrent: of what is kept by its name, not of other claims beside that.
bool IsCarried(const Blob& blob) {
  return blob.key().IsOf(blob.digest());
}

// How often a torrent that is being filled is looked at: in its first second, and later.
constexpr Duration kLookIntervalYoung = std::chrono::milliseconds(25);
constexpr Duration kLookInterval = std::chrono::milliseconds(200);
constexpr Duration kYoung = std::chrono::seconds(1);
constexpr Duration kIdleInterval = std::chrono::seconds(1);
// Pieces that libtorrent has been given to announce and has not announced yet, of one torrent.
constexpr size_t kAnnouncementsMax = 64;
constexpr uint64_t kAnnouncementBytesMax = 16 << 20;
// A write that failed for want of room or such stops downloads for so long.
constexpr Duration kWriteFailurePause = std::chrono::seconds(5);
// A torrent is added anew at most so often, and a fill that had no recipe asks for it again.
constexpr Duration kReaddInterval = std::chrono::seconds(1);
constexpr Duration kStartTimeMax = std::chrono::seconds(5);

using Role = SwarmTorrent::Role;

// How a session ended to open its port, if it has.
std::optional<absl::Status> ListenResult(lt::session& session, const std::string& where) {
  std::vector<lt::alert*> alerts;
  session.pop_alerts(&alerts);
  for (const lt::alert* alert : alerts) {
    if (lt::alert_cast<lt::listen_succeeded_alert>(alert)) return absl::OkStatus();
    const auto* failed = lt::alert_cast<lt::listen_failed_alert>(alert);
    if (!failed) continue;
    if (failed->error == boost::system::errc::address_in_use) {
      return absl::AlreadyExistsError(
          absl::StrCat("swarm: somebody listens on ", where, " already; is another node running?"));
    }
    return absl::UnavailableError(
        absl::StrCat("swarm: ", where, " can't be opened: ", failed->error.message()));
  }
  return std::nullopt;
}

}  // namespace

class Swarm::Core {
 public:
  Core(Parts parts, SwarmOptions options)
      : parts_(std::move(parts)),
        options_(std::move(options)),
        gate_(parts_.clock, parts_.telemetry, [this] { Wake(); }) {}
  ~Core() { Stop(); }

  absl::Status Start(ChunkSink& sink);
  void Stop();
  void SetPeers(const std::vector<std::string>& addresses);
  void Seed(const Digest& digest);
  void Forget(const Digest& digest);
  void Join(const Digest& digest);
  void Leave(const Digest& digest);
  bool Carries(const Digest& digest, ChunkIndex index);
  void Committed(const Digest& digest, ChunkIndex index);

 private:
  // What is to be done about a blob. Several calls become one wish, so there is at most one per blob.
  struct Wish {
    bool forget = false;
    bool leave = false;
    bool fill = false;
    bool seed = false;
  };
  struct Fill {
    Instant joined;
    std::shared_ptr<SwarmTorrent> torrent;  // null: not added yet
    bool refused = false;                   // it can't be shared, as things stand
    Instant ask_again;                      // if it was refused
    // The one chunk that the fill asks for itself while nothing of the blob has come: how it comes tells
    // whether the blob may be shared.
    std::optional<ChunkIndex> probe;
  };
  struct PieceProgress {
    int blocks = 0;
    Instant since;
  };
  struct Entry {
    std::shared_ptr<SwarmTorrent> torrent;
    lt::torrent_handle handle;
    lt::sha1_hash info_hash;
    int last_piece_bytes = 0;
    Instant added;
    Instant look_at;
    std::map<int, PieceProgress> progress = {};  // of pieces that were begun
    std::vector<bool> unannounced = {};          // present, and not known to libtorrent, at the last look
  };
  using Entries = absl::flat_hash_map<Digest, Entry>;

  void Wake();
  void Ask(const Digest& digest, void (*wish)(Wish&));

  // --- On the control thread.
  void Run();
  void UpdateFilter();
  void Grant(const Digest& digest, const Wish& wish);
  void BeginFill(const Digest& digest);
  void EndFill(const Digest& digest);
  void BeginSeed(const Digest& digest);
  absl::StatusOr<Recipe> LoadRecipe(const Blob& blob) const;
  absl::Status Add(const Blob& blob, Role role);
  absl::StatusOr<lt::add_torrent_params> MakeParams(const Blob& blob, const SwarmTorrent& torrent) const;
  absl::Status MakeRoom();
  void Remove(const Digest& digest);
  void Readd(const Digest& digest);
  void AskAgain();
  Instant Tend();
  void Look(Entry& entry, Instant now);
  void FindUnannounced(Entry& entry, const Blob& blob, const lt::torrent_status& status);
  void Announce(Entry& entry, Instant now);
  void ResumeWrites(Entry& entry, Instant now);

  Instant Now() const { return parts_.clock.Now(); }

  // Constant after construction, or thread-safe.
  const Parts parts_;
  const SwarmOptions options_;
  PeerGate gate_;
  TorrentRegistry registry_;
  std::atomic<bool> running_{false};

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool woken_ = false;
  bool stopping_ = false;
  bool started_ = false;
  absl::flat_hash_map<Digest, Wish> wishes_;
  absl::flat_hash_map<Digest, Fill> fills_;
  absl::flat_hash_map<Digest, std::shared_ptr<SwarmTorrent>> torrents_;  // those of entries_

  std::unique_ptr<lt::session> session_;  // made before the control thread, gone after it
  std::thread control_;

  // Control thread only.
  Entries entries_;
  std::vector<lt::address> admitted_;  // by the session's filter
};

// --------------------------------------------------------------------------------------- start, stop

absl::Status Swarm::Core::Start(ChunkSink& sink) {
  lt::error_code invalid;
  lt::make_address(options_.listen_address, invalid);
  if (invalid || options_.port == 0) {
    return absl::InvalidArgumentError(absl::StrCat("swarm: \"", options_.listen_address, "\" and port ",
                                                   options_.port, " are no IP address and port"));
  }
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(started_, true)) {
      return absl::FailedPreconditionError("swarm: it has been started before");
    }
  }
  lt::session_params params(SessionSettings(options_.listen_address, options_.port), {});
  params.ip_filter = PeerGate::FilterFor({});
  params.disk_io_constructor = [this, &sink](lt::io_context& network, const lt::settings_interface&,
                                             lt::counters&) -> std::unique_ptr<lt::disk_interface> {
    return std::make_unique<StoreDisk>(
        network, StoreDisk::Parts{parts_.clock, parts_.store, parts_.reader, sink, parts_.leaves,
                                  parts_.telemetry, gate_, registry_, [this] { Wake(); }});
  };
  const std::string where = absl::StrCat(options_.listen_address, " port ", options_.port);
  std::optional<absl::Status> listens;
  try {
    session_ = std::make_unique<lt::session>(std::move(params));
    const auto end = std::chrono::steady_clock::now() + kStartTimeMax;
    while (!(listens = ListenResult(*session_, where)) && std::chrono::steady_clock::now() < end) {
      session_->wait_for_alert(std::chrono::milliseconds(100));
    }
    lt::settings_pack quiet;
    quiet.set_int(lt::settings_pack::alert_mask, 0);
    session_->apply_settings(std::move(quiet));
  } catch (const std::exception& error) {
    listens = absl::UnavailableError(absl::StrCat("swarm: ", where, ": ", error.what()));
  }
  if (!listens) listens = absl::UnavailableError(absl::StrCat("swarm: ", where, " did not open in time"));
  if (!listens->ok()) {
    session_.reset();
    return *listens;
  }
  running_ = true;
  control_ = std::thread([this] { Run(); });
  pthread_setname_np(control_.native_handle(), "swarm");
  return absl::OkStatus();
}

void Swarm::Core::Stop() {
  running_ = false;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (control_.joinable()) control_.join();
  for (auto& [digest, entry] : entries_) {
    entry.torrent->gone = true;
    parts_.leaves.Unwatch(digest);
  }
  entries_.clear();
  session_.reset();
  parts_.telemetry.swarm_torrents.Set(0);
  parts_.telemetry.swarm_peers.Set(0);
  std::lock_guard lock(mutex_);
  wishes_.clear();
  fills_.clear();
  torrents_.clear();
}

// --------------------------------------------------------------------------------- from other threads

void Swarm::Core::Wake() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

void Swarm::Core::Ask(const Digest& digest, void (*wish)(Wish&)) {
  if (!running_) return;
  std::lock_guard lock(mutex_);
  wish(wishes_[digest]);
  woken_ = true;
  changed_.notify_all();
}

void Swarm::Core::SetPeers(const std::vector<std::string>& addresses) {
  std::vector<lt::address> members;
  for (const std::string& text : addresses) {
    lt::error_code invalid;
    const lt::address address = lt::make_address(text, invalid);
    if (invalid || address.is_unspecified() || text == options_.listen_address) continue;
    members.push_back(address);
  }
  gate_.SetMembers(std::move(members));
}

void Swarm::Core::Seed(const Digest& digest) {
  Ask(digest, [](Wish& wish) { wish.seed = true; });
}

void Swarm::Core::Forget(const Digest& digest) {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = torrents_.find(digest); found != torrents_.end()) found->second->gone = true;
    if (const auto found = fills_.find(digest); found != fills_.end()) found->second.refused = true;
  }
  Ask(digest, [](Wish& wish) { wish = {.forget = true}; });
}

void Swarm::Core::Join(const Digest& digest) {
  if (!running_) return;
  {
    std::lock_guard lock(mutex_);
    fills_.insert_or_assign(digest, Fill{Now(), nullptr, false, {}, {}});
  }
  Ask(digest, [](Wish& wish) { wish.fill = true; });
}

void Swarm::Core::Leave(const Digest& digest) {
  {
    std::lock_guard lock(mutex_);
    if (fills_.erase(digest) == 0) return;
  }
  Ask(digest, [](Wish& wish) {
    wish.fill = false;
    wish.leave = true;
  });
}

bool Swarm::Core::Carries(const Digest& digest, ChunkIndex index) {
  if (!running_) return false;
  const Instant now = Now();
  std::lock_guard lock(mutex_);
  const auto found = fills_.find(digest);
  if (found == fills_.end()) return false;
  Fill& fill = found->second;
  if (!fill.probe) fill.probe = index;
  if (fill.refused) return index != *fill.probe && now < fill.joined + kJoinGrace && gate_.member_count() > 0;
  if (fill.torrent) return fill.torrent->Carries(index, fill.joined, now);
  return now < fill.joined + kJoinGrace && gate_.member_count() > 0;
}

void Swarm::Core::Committed(const Digest& digest, ChunkIndex index) {
  std::shared_ptr<SwarmTorrent> torrent;
  {
    std::lock_guard lock(mutex_);
    if (const auto fill = fills_.find(digest); fill != fills_.end() && fill->second.refused) {
      fill->second.ask_again = std::min(fill->second.ask_again, Now());
      woken_ = true;
      changed_.notify_all();
    }
    const auto found = torrents_.find(digest);
    if (found == torrents_.end()) return;
    torrent = found->second;
  }
  if (torrent->WantAnnounced(index)) Wake();
}

// ------------------------------------------------------------------------------------- control thread

void Swarm::Core::Run() {
  Instant next = Now();
  for (;;) {
    absl::flat_hash_map<Digest, Wish> wishes;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::max<Duration>(next - Now(), Duration::zero()),
                        [this] { return woken_ || stopping_; });
      if (stopping_) return;
      woken_ = false;
      wishes.swap(wishes_);
    }
    UpdateFilter();
    for (const auto& [digest, wish] : wishes) Grant(digest, wish);
    AskAgain();
    next = Tend();
  }
}

void Swarm::Core::UpdateFilter() {
  if (!gate_.TakeChange()) return;
  std::vector<lt::address> admitted = gate_.Admitted();
  session_->set_ip_filter(PeerGate::FilterFor(admitted));
  for (const lt::address& address : admitted) {
    if (std::find(admitted_.begin(), admitted_.end(), address) != admitted_.end()) continue;
    for (const auto& [digest, entry] : entries_) {
      if (entry.torrent->role == Role::kFilling) entry.handle.connect_peer({address, options_.port});
    }
  }
  admitted_ = std::move(admitted);
}

void Swarm::Core::Grant(const Digest& digest, const Wish& wish) {
  if (wish.forget) Remove(digest);
  if (wish.leave) EndFill(digest);
  if (wish.fill) {
    BeginFill(digest);
  } else if (wish.seed) {
    BeginSeed(digest);
  }
}

void Swarm::Core::BeginFill(const Digest& digest) {
  const std::shared_ptr<Blob> blob = parts_.store.Find(digest);
  auto found = entries_.find(digest);
  // Added anew, a torrent connects to its members at once, and what libtorrent believes of it is what is so.
  if (found != entries_.end() && blob &&
      (!found->second.torrent->Fits(*blob) ||
       (found->second.torrent->role != Role::kFilling && !blob->presence().complete()))) {
    Remove(digest);
    found = entries_.end();
  }
  absl::Status added = absl::OkStatus();
  if (found == entries_.end()) {
    added = blob ? Add(*blob, Role::kFilling) : absl::NotFoundError("the store doesn't know the blob");
  }
  std::shared_ptr<SwarmTorrent> torrent;
  if (added.ok()) torrent = entries_.at(digest).torrent;
  if (!added.ok() && !absl::IsNotFound(added) && !absl::IsPermissionDenied(added)) {
    parts_.warn(absl::StrCat("swarm: blob ", digest.ToString(), " is not shared: ", added.message()));
  }
  std::lock_guard lock(mutex_);
  const auto fill = fills_.find(digest);
  if (fill == fills_.end()) return;
  fill->second.torrent = std::move(torrent);
  fill->second.refused = !added.ok();
  fill->second.ask_again = Now() + kReaddInterval;
}

// Fills that were refused ask again: their recipe may have come, or another torrent left.
void Swarm::Core::AskAgain() {
  std::vector<Digest> due;
  {
    const Instant now = Now();
    std::lock_guard lock(mutex_);
    for (const auto& [digest, fill] : fills_) {
      if (fill.refused && now >= fill.ask_again) due.push_back(digest);
    }
  }
  for (const Digest& digest : due) BeginFill(digest);
}

void Swarm::Core::EndFill(const Digest& digest) {
  const auto found = entries_.find(digest);
  // A fill may be over before it was known whether the blob may be shared.
  if (found == entries_.end()) return BeginSeed(digest);
  if (found->second.torrent->role != Role::kFilling) return;
  found->second.torrent->role = Role::kSeeding;
  const std::shared_ptr<Blob> blob = parts_.store.Find(digest);
  if (blob && blob->presence().complete()) return;
  // What was begun is dropped, in libtorrent and here.
  Readd(digest);
}

void Swarm::Core::BeginSeed(const Digest& digest) {
  const std::shared_ptr<Blob> blob = parts_.store.Find(digest);
  if (!blob || blob->presence().present_count() == 0) return;
  if (const auto found = entries_.find(digest); found != entries_.end()) {
    if (found->second.torrent->Fits(*blob)) return found->second.torrent->NoteUse(Now());
    Remove(digest);  // it was evicted since, and registered otherwise
  }
  const absl::Status added = Add(*blob, Role::kSeeding);
  if (!added.ok() && !absl::IsNotFound(added) && !absl::IsPermissionDenied(added)) {
    parts_.warn(absl::StrCat("swarm: blob ", digest.ToString(), " is not offered: ", added.message()));
  }
}

// Errors: NotFound (no bound recipe); others of the store.
absl::StatusOr<Recipe> Swarm::Core::LoadRecipe(const Blob& blob) const {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  const BlobSpec& spec = *facts;
  if (!spec.root) return absl::NotFoundError("its root is not known");
  if (blob.geometry().chunk_count() == 1) {
    return Recipe{spec.digest, spec.size, spec.chunk_size, *spec.root, {}};
  }
  absl::StatusOr<std::string> torrent = parts_.recipes.GetRecipe(blob.key());
  if (!torrent.ok()) return torrent.status();
  absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(*torrent);
  if (recipe.ok() && !recipe->IsBoundBy(spec)) return absl::NotFoundError("its recipe is not bound");
  return recipe;
}

// Errors: PermissionDenied (it may not be shared), NotFound (no recipe), ResourceExhausted (no room for
// another torrent), others of libtorrent and the store.
absl::Status Swarm::Core::Add(const Blob& blob, Role role) {
  if (blob.refused() || !parts_.may_share(blob)) return absl::PermissionDeniedError("it may not be shared");
  absl::StatusOr<Recipe> recipe = LoadRecipe(blob);
  if (!recipe.ok()) return recipe.status();
  if (absl::Status room = MakeRoom(); !room.ok()) return room;

  const Instant now = Now();
  const Digest digest = blob.digest();
  auto torrent = std::make_shared<SwarmTorrent>(*std::move(recipe), role, now);
  absl::StatusOr<lt::add_torrent_params> params = MakeParams(blob, *torrent);
  if (!params.ok()) return params.status();
  Entry entry{
      torrent, {}, params->ti->info_hashes().get_best(), params->ti->piece_size(params->ti->last_piece()),
      now,     now};

  registry_.Put(entry.info_hash, torrent);
  parts_.leaves.Watch(digest);
  lt::error_code error;
  try {
    // Added paused and then resumed it connects at once; otherwise at libtorrent's next half second.
    entry.handle = session_->add_torrent(*std::move(params), error);
    if (!error) entry.handle.resume();
  } catch (const std::exception& thrown) {
    error = lt::errors::torrent_invalid_piece_layer;
  }
  if (error) {
    registry_.Remove(entry.info_hash);
    parts_.leaves.Unwatch(digest);
    return absl::InternalError(absl::StrCat("libtorrent: ", error.message()));
  }
  entries_.insert_or_assign(digest, std::move(entry));
  parts_.telemetry.swarm_torrents.Set(static_cast<int64_t>(entries_.size()));
  std::lock_guard lock(mutex_);
  torrents_[digest] = std::move(torrent);
  return absl::OkStatus();
}

absl::StatusOr<lt::add_torrent_params> Swarm::Core::MakeParams(const Blob& blob,
                                                               const SwarmTorrent& torrent) const {
  const std::string encoded = torrent.recipe.EncodeTorrent();
  lt::error_code error;
  lt::add_torrent_params params;
  params.ti = std::make_shared<lt::torrent_info>(lt::span<const char>(encoded), error, lt::from_span);
  if (error) return absl::InternalError(absl::StrCat("libtorrent: ", error.message()));
  params.save_path = "/nonexistent";  // required, and not used: the store has the file
  params.max_connections = kConnectionsPerTorrentMax;
  params.flags = lt::torrent_flags::paused | lt::torrent_flags::no_verify_files |
                 lt::torrent_flags::apply_ip_filter | lt::torrent_flags::disable_dht |
                 lt::torrent_flags::disable_lsd | lt::torrent_flags::disable_pex;
  if (torrent.role == Role::kFilling) {
    for (const lt::address& address : admitted_) params.peers.emplace_back(address, options_.port);
  } else {
    params.flags |= lt::torrent_flags::default_dont_download;
  }
  const auto count = static_cast<int>(torrent.geometry.chunk_count());
  params.have_pieces.resize(count, false);
  for (int i = 0; i < count; ++i) {
    if (parts_.reader.AllProven(blob, {ChunkIndex(static_cast<uint32_t>(i)), 1})) {
      params.have_pieces.set_bit(lt::piece_index_t(i));
    }
  }
  params.extensions.push_back([this](const lt::torrent_handle&, lt::client_data_t) {
    return const_cast<PeerGate&>(gate_).NewPlugin();
  });
  return params;
}

// So that one more torrent is not too many.
absl::Status Swarm::Core::MakeRoom() {
  while (entries_.size() >= options_.torrents_max) {
    auto oldest = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (entry->second.torrent->role == Role::kFilling) continue;
      if (oldest == entries_.end() ||
          entry->second.torrent->last_used() < oldest->second.torrent->last_used()) {
        oldest = entry;
      }
    }
    if (oldest == entries_.end()) {
      return absl::ResourceExhaustedError(
          absl::StrCat(options_.torrents_max, " blobs are being filled, no more are shared"));
    }
    Remove(Digest(oldest->first));
  }
  return absl::OkStatus();
}

void Swarm::Core::Remove(const Digest& digest) {
  const auto found = entries_.find(digest);
  if (found == entries_.end()) return;
  found->second.torrent->gone = true;
  registry_.Remove(found->second.info_hash);
  session_->remove_torrent(found->second.handle);
  entries_.erase(found);
  parts_.leaves.Unwatch(digest);
  parts_.telemetry.swarm_torrents.Set(static_cast<int64_t>(entries_.size()));
  std::lock_guard lock(mutex_);
  torrents_.erase(digest);
}

void Swarm::Core::Readd(const Digest& digest) {
  const Role role = entries_.at(digest).torrent->role;
  Remove(digest);
  if (role == Role::kFilling) {
    BeginFill(digest);
  } else {
    BeginSeed(digest);
  }
}

// Looks after all torrents. Returns when to come again.
Instant Swarm::Core::Tend() {
  const Instant now = Now();
  Instant next = now + kIdleInterval;
  std::vector<Digest> stale;
  for (auto& [digest, entry] : entries_) {
    if (entry.torrent->stale && now >= entry.added + kReaddInterval) stale.push_back(digest);
    if (entry.torrent->gone) continue;
    if (entry.torrent->role == Role::kFilling) {
      if (now >= entry.look_at) Look(entry, now);
      next = std::min(next, entry.look_at);
    }
    Announce(entry, now);
    ResumeWrites(entry, now);
  }
  for (const Digest& digest : stale) Readd(digest);
  return next;
}

void Swarm::Core::Look(Entry& entry, Instant now) {
  entry.look_at = now + (now < entry.added + kYoung ? kLookIntervalYoung : kLookInterval);
  lt::torrent_status status;
  std::vector<int> availability;
  std::vector<lt::partial_piece_info> begun;
  try {
    status = entry.handle.status(lt::torrent_handle::query_pieces);
    entry.handle.piece_availability(availability);
    entry.handle.get_download_queue(begun);
  } catch (const std::exception&) {
    entry.torrent->stale = true;
    return;
  }
  if (status.errc) {
    parts_.warn(absl::StrCat("swarm: the torrent of blob ", entry.torrent->digest().ToString(),
                             " stopped and is added anew: ", status.errc.message()));
    entry.torrent->stale = true;
  }

  const uint32_t count = entry.torrent->geometry.chunk_count();
  FillView view{std::vector<bool>(count), std::vector<bool>(count), status.num_connections > 0};
  for (uint32_t i = 0; i < std::min<size_t>(count, availability.size()); ++i) {
    const bool had = static_cast<int>(i) < status.pieces.size() &&
                     status.pieces.get_bit(lt::piece_index_t(static_cast<int>(i)));
    view.offered[i] = availability[i] > 0 && !had;
  }
  std::map<int, PieceProgress> progress;
  for (const lt::partial_piece_info& piece : begun) {
    const int index = static_cast<int>(piece.piece_index);
    PieceProgress& seen = progress[index] = {piece.finished + piece.writing, now};
    const auto before = entry.progress.find(index);
    if (before != entry.progress.end() && before->second.blocks == seen.blocks)
      seen.since = before->second.since;
    if (now >= seen.since + kNoProgressTime) view.stalled[static_cast<size_t>(index)] = true;
  }
  entry.progress = std::move(progress);
  entry.torrent->SetView(std::move(view), now);
  if (const std::shared_ptr<Blob> blob = parts_.store.Find(entry.torrent->digest())) {
    FindUnannounced(entry, *blob, status);
  }
}

// What was committed while libtorrent was not ready to hear of it, or before it was asked to: what is present
// and not announced at two looks in a row.
void Swarm::Core::FindUnannounced(Entry& entry, const Blob& blob, const lt::torrent_status& status) {
  const uint32_t count = entry.torrent->geometry.chunk_count();
  std::vector<bool> unannounced(count);
  if (status.pieces.size() != static_cast<int>(count) || !entry.torrent->Fits(blob)) return;
  for (uint32_t i = 0; i < count; ++i) {
    if (!blob.presence().IsPresent(ChunkIndex(i))) continue;
    if (status.pieces.get_bit(lt::piece_index_t(static_cast<int>(i)))) continue;
    unannounced[i] = true;
    if (i < entry.unannounced.size() && entry.unannounced[i]) entry.torrent->WantAnnounced(ChunkIndex(i));
  }
  entry.unannounced = std::move(unannounced);
}

void Swarm::Core::Announce(Entry& entry, Instant now) {
  const uint32_t chunk_size = entry.torrent->geometry.chunk_size();
  const size_t count_max = std::clamp<size_t>(kAnnouncementBytesMax / chunk_size, 1, kAnnouncementsMax);
  size_t under_way = entry.torrent->AnnouncementsUnderWay(now);
  ChunkIndex index;
  while (under_way < count_max && entry.torrent->NextToAnnounce(now, index)) {
    const bool last = index.value() + 1 == entry.torrent->geometry.chunk_count();
    // Its bytes are not looked at: the disk knows that the piece is present.
    std::vector<char> bytes(last ? static_cast<size_t>(entry.last_piece_bytes) : chunk_size);
    entry.handle.add_piece(lt::piece_index_t(static_cast<int>(index.value())), std::move(bytes), {});
    ++under_way;
  }
}

void Swarm::Core::ResumeWrites(Entry& entry, Instant now) {
  const Instant failed{Duration(entry.torrent->write_failed_at.load())};
  if (failed == Instant{} || now < failed + kWriteFailurePause) return;
  entry.torrent->write_failed_at = 0;
  entry.handle.unset_flags(lt::torrent_flags::upload_mode);
}

// --------------------------------------------------------------------------------------------- facade

Swarm::Swarm(Parts parts, SwarmOptions options)
    : core_(std::make_unique<Core>(std::move(parts), std::move(options))) {}

Swarm::~Swarm() = default;

absl::Status Swarm::Start(ChunkSink& sink) {
  return core_->Start(sink);
}
void Swarm::Stop() {
  core_->Stop();
}
void Swarm::SetPeers(const std::vector<std::string>& addresses) {
  core_->SetPeers(addresses);
}
void Swarm::Seed(const std::shared_ptr<Blob>& blob) {
  if (IsCarried(*blob)) core_->Seed(blob->digest());
}
void Swarm::Forget(const Blob& blob) {
  if (IsCarried(blob)) core_->Forget(blob.digest());
}
void Swarm::Join(const std::shared_ptr<Blob>& blob) {
  if (IsCarried(*blob)) core_->Join(blob->digest());
}
void Swarm::Leave(const Blob& blob) {
  if (IsCarried(blob)) core_->Leave(blob.digest());
}
bool Swarm::Carries(const Blob& blob, ChunkIndex index) {
  return IsCarried(blob) && core_->Carries(blob.digest(), index);
}
void Swarm::Committed(const std::shared_ptr<Blob>& blob, ChunkIndex index) {
  if (IsCarried(*blob)) core_->Committed(blob->digest(), index);
}

}  // namespace sluice::p2p
