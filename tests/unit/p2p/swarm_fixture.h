#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/recipe_verifier.h"
#include "p2p/swarm/swarm.h"

// Nodes of a swarm, each on a loopback address of its own, over a store in memory files.
namespace sluice::p2p {

class RealClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now(); }
};

// Waits until `holds`; false if it does not within the time.
inline bool Within(std::chrono::milliseconds time, const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return holds();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}
// What must happen, however slow the machine and the sanitizer.
inline bool Soon(const std::function<bool()>& holds) {
  return Within(std::chrono::seconds(60), holds);
}

// A blob that exists nowhere but here.
struct SampleBlob {
  explicit SampleBlob(size_t size, uint32_t chunk_size = kChunkSizeDefault, uint32_t seed = 1) : bytes(size) {
    std::mt19937 random(seed + static_cast<uint32_t>(size));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    RecipeBuilder builder(chunk_size);
    builder.Update(bytes);
    recipe = *builder.Finish();
  }
  BlobSpec spec() const { return {recipe.blob, recipe.size, recipe.chunk_size, recipe.root, {}}; }
  std::span<const std::byte> Chunk(ChunkIndex index) const {
    const ByteRange range = recipe.geometry().RangeOf(index);
    return std::span(bytes).subspan(range.offset, range.length);
  }
  uint32_t chunk_count() const { return recipe.geometry().chunk_count(); }

  std::vector<std::byte> bytes;
  Recipe recipe;
};

// A store with the contract of the real one, and the cache's intake before it: offers are committed, and
// told, on a thread that stands for the core loop.
class TestStore final : public ChunkStore, public BlobReader, public RecipeStore, public ChunkSink {
 public:
  explicit TestStore(LeafCache& leaves) : verifier_(*this, kRecipeCacheBytesDefault, &leaves) {
    loop_ = std::thread([this] { Run(); });
  }
  ~TestStore() override { StopLoop(); }
  void StopLoop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    if (loop_.joinable()) loop_.join();
  }

  // ChunkStore.
  absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec) override {
    std::lock_guard lock(mutex_);
    Stored& stored = blobs_[spec.digest];
    if (!stored.blob) {
      stored.blob = std::make_shared<Blob>(spec);
      stored.file = std::make_shared<File>();
    }
    return stored.blob;
  }
  absl::StatusOr<Blob::Lease> Acquire(const BlobKey& key) const override {
    const std::shared_ptr<Blob> blob = Find(key);
    if (!blob) return absl::NotFoundError("not in the store");
    return Blob::Lease(blob);
  }
  std::shared_ptr<Blob> Find(const BlobKey& key) const override {
    std::lock_guard lock(mutex_);
    const auto found = blobs_.find(key);
    return found == blobs_.end() ? nullptr : found->second.blob;
  }
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes, Evidence) override {
    std::lock_guard lock(mutex_);
    const auto found = blobs_.find(blob.digest());
    if (found == blobs_.end() || found->second.blob.get() != &blob)
      return absl::UnavailableError("evicted meanwhile");
    const ByteRange range = blob.geometry().RangeOf(index);
    EXPECT_EQ(bytes.size(), range.length);
    if (::pwrite(found->second.file->fd, bytes.data(), bytes.size(), static_cast<off_t>(range.offset)) !=
        static_cast<ssize_t>(bytes.size())) {
      std::abort();
    }
    blob.presence().Set(index);
    return absl::OkStatus();
  }
  absl::Status Revoke(Blob& blob, ChunkIndex index) override {
    blob.presence().Clear(index);
    return absl::OkStatus();
  }

  // BlobReader.
  absl::StatusOr<std::shared_ptr<const BlobFile>> OpenFile(const BlobKey& key) override {
    if (before_read) before_read();
    std::lock_guard lock(mutex_);
    const auto found = blobs_.find(key);
    if (found == blobs_.end()) return absl::NotFoundError("no such blob");
    return found->second.file;
  }
  bool AllProven(const Blob& blob, ChunkSpan span) const override {
    std::lock_guard lock(mutex_);
    const auto found = blobs_.find(blob.digest());
    return found != blobs_.end() && found->second.blob.get() == &blob && blob.presence().AllPresent(span);
  }

  // RecipeStore.
  absl::StatusOr<std::string> GetRecipe(const BlobKey& blob) override {
    std::lock_guard lock(mutex_);
    const auto found = recipes_.find(blob);
    if (found == recipes_.end()) return absl::NotFoundError("no recipe");
    return found->second;
  }
  absl::Status PutRecipe(const BlobKey& blob, std::string_view recipe) override {
    std::lock_guard lock(mutex_);
    recipes_[blob] = recipe;
    return absl::OkStatus();
  }

  // ChunkSink.
  void Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence, SourceKind kind,
             OnDone on_done) override {
    std::lock_guard lock(mutex_);
    ++offers;
    offers_.push_back({std::move(blob), index, std::move(bytes), evidence, kind, std::move(on_done)});
    changed_.notify_all();
  }

  // A chunk comes another way: verified, committed and told.
  void BringChunk(const SampleBlob& sample, ChunkIndex index) {
    const auto blob = *Open(sample.spec());
    ASSERT_TRUE(verifier_.Verify(*blob, index, sample.Chunk(index)).ok());
    ASSERT_TRUE(Commit(*blob, index, sample.Chunk(index), Evidence::kVerified).ok());
    if (on_committed) on_committed(blob, index);
  }
  // Takes the blob off the store, as an eviction does: the bits first.
  void Evict(const Digest& digest) {
    std::lock_guard lock(mutex_);
    const auto found = blobs_.find(digest);
    if (found == blobs_.end()) return;
    found->second.blob->presence().ClearAll();
    blobs_.erase(found);
  }
  // Changes a stored byte of each chunk for which `which` holds; the chunks stay present.
  void Damage(const SampleBlob& sample, const std::function<bool(uint32_t)>& which) {
    std::lock_guard lock(mutex_);
    for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
      if (!which(i)) continue;
      const ByteRange range = sample.recipe.geometry().RangeOf(ChunkIndex(i));
      const std::byte wrong = ~sample.bytes[range.offset];
      if (::pwrite(blobs_.at(sample.recipe.blob).file->fd, &wrong, 1, static_cast<off_t>(range.offset)) != 1)
        std::abort();
    }
  }
  uint32_t PresentCount(const SampleBlob& sample) const {
    const auto blob = Find(sample.recipe.blob);
    return blob ? blob->presence().present_count() : 0;
  }
  bool IsComplete(const SampleBlob& sample) const { return PresentCount(sample) == sample.chunk_count(); }
  // Every chunk that is present holds the right bytes, and nothing lies beyond the end.
  void ExpectTrue(const SampleBlob& sample) {
    const auto blob = Find(sample.recipe.blob);
    ASSERT_TRUE(blob);
    std::shared_ptr<File> file;
    {
      std::lock_guard lock(mutex_);
      file = blobs_.at(sample.recipe.blob).file;
    }
    std::vector<std::byte> found(sample.bytes.size() + 1);
    const ssize_t size = ::pread(file->fd, found.data(), found.size(), 0);
    EXPECT_LE(size, static_cast<ssize_t>(sample.bytes.size()));
    if (blob->presence().complete()) {
      EXPECT_EQ(size, static_cast<ssize_t>(sample.bytes.size()));
    }
    for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
      if (!blob->presence().IsPresent(ChunkIndex(i))) continue;
      const ByteRange range = sample.recipe.geometry().RangeOf(ChunkIndex(i));
      const auto right = sample.Chunk(ChunkIndex(i));
      EXPECT_TRUE(
          std::equal(right.begin(), right.end(), found.begin() + static_cast<std::ptrdiff_t>(range.offset)))
          << "chunk " << i;
    }
  }

  std::function<void()> before_read;  // set before the swarm starts
  std::function<void(const std::shared_ptr<Blob>&, ChunkIndex)> on_committed;
  std::function<absl::Status()> refuse_offer;  // on the loop; OK lets it in
  std::atomic<int> offers = 0;

 private:
  struct File final : public BlobFile {
    File() : fd(::memfd_create("blob", MFD_CLOEXEC)) {}
    ~File() override { ::close(fd); }
    int descriptor() const override { return fd; }
    const int fd;
  };
  struct Stored {
    std::shared_ptr<Blob> blob;
    std::shared_ptr<File> file;
  };
  struct Offered {
    std::shared_ptr<Blob> blob;
    ChunkIndex index;
    Buffer bytes;
    Evidence evidence;
    SourceKind kind;
    OnDone on_done;
  };

  void Run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !offers_.empty(); });
      if (stopping_) return;
      Offered offer = std::move(offers_.front());
      offers_.pop_front();
      lock.unlock();
      EXPECT_EQ(offer.evidence, Evidence::kVerified);
      EXPECT_EQ(offer.kind, SourceKind::kPeer);
      absl::Status status = refuse_offer ? refuse_offer() : absl::OkStatus();
      if (status.ok()) status = Commit(*offer.blob, offer.index, offer.bytes.span(), offer.evidence);
      if (status.ok() && on_committed) on_committed(offer.blob, offer.index);
      std::move(offer.on_done)(status);
      lock.lock();
    }
  }

  RecipeVerifier verifier_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool stopping_ = false;
  std::map<BlobKey, Stored> blobs_;
  std::map<BlobKey, std::string> recipes_;
  std::deque<Offered> offers_;
  std::thread loop_;
};

inline sockaddr_in SocketAddress(const std::string& address, uint16_t port) {
  sockaddr_in socket_address{};
  socket_address.sin_family = AF_INET;
  socket_address.sin_port = htons(port);
  ::inet_pton(AF_INET, address.c_str(), &socket_address.sin_addr);
  return socket_address;
}

// A port that was free a moment ago on the loopback addresses that nodes take. Below those that the kernel
// gives to whoever wants any: tests run beside one another, and a connection's own end would hold it on one
// of them.
inline uint16_t FreePort() {
  std::random_device random;
  const auto is_free = [](const std::string& host, uint16_t port) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = SocketAddress(host, port);
    const bool bound = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    ::close(fd);
    return bound;
  };
  for (int i = 0; i < 1000; ++i) {
    const auto port = static_cast<uint16_t>(10000 + random() % 22000);
    bool everywhere = true;
    for (int host = 1; host <= 9; ++host)
      everywhere = everywhere && is_free("127.0.0." + std::to_string(host), port);
    if (everywhere) return port;
  }
  std::abort();
}

class SwarmNode {
 public:
  SwarmNode(std::string node_address, uint16_t port, uint32_t torrents_max = 64)
      : address(std::move(node_address)), port_(port), torrents_max_(torrents_max), store(leaves) {
    Make();
  }
  ~SwarmNode() {
    swarm->Stop();
    store.StopLoop();
  }

  void Make() {
    swarm = std::make_unique<Swarm>(Swarm::Parts{clock, store, store, store, leaves, telemetry,
                                                 [this](const Blob&) { return may_share.load(); },
                                                 [this](const std::string& text) {
                                                   std::lock_guard lock(warnings_mutex_);
                                                   warnings_.push_back(text);
                                                 }},
                                    SwarmOptions{address, port_, torrents_max_});
    store.on_committed = [this](const std::shared_ptr<Blob>& blob, ChunkIndex index) {
      swarm->Committed(blob, index);
    };
  }
  void Start(const std::vector<std::string>& members) {
    swarm->SetPeers(members);
    const absl::Status started = swarm->Start(store);
    ASSERT_TRUE(started.ok()) << started;
  }
  // Stops, and makes another swarm over the same store.
  void Restart(const std::vector<std::string>& members) {
    swarm->Stop();
    Make();
    Start(members);
  }

  std::shared_ptr<Blob> OpenBlob(const SampleBlob& sample) {
    if (sample.chunk_count() > 1) {
      EXPECT_TRUE(store.PutRecipe(sample.recipe.blob, sample.recipe.EncodeTorrent()).ok());
    }
    return *store.Open(sample.spec());
  }
  void HaveAll(const SampleBlob& sample) {
    const auto blob = OpenBlob(sample);
    for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
      ASSERT_TRUE(store.Commit(*blob, ChunkIndex(i), sample.Chunk(ChunkIndex(i)), Evidence::kVerified).ok());
    }
  }
  void Seed(const SampleBlob& sample) { swarm->Seed(OpenBlob(sample)); }
  void Fill(const SampleBlob& sample) { swarm->Join(OpenBlob(sample)); }
  // Seed is asynchronous: until it is done a leecher would be told that there is no such torrent.
  void SeedAll(const SampleBlob& sample) {
    HaveAll(sample);
    Seed(sample);
    ASSERT_TRUE(Soon([&] { return telemetry.swarm_torrents.value() > 0; }));
  }
  uint64_t received() const { return telemetry.peer_received_bytes[1].value(); }
  uint64_t sent() const { return telemetry.peer_sent_bytes[1].value(); }
  std::vector<std::string> warnings() {
    std::lock_guard lock(warnings_mutex_);
    return warnings_;
  }

  const std::string address;
  std::atomic<bool> may_share = true;

 private:
  const uint16_t port_;
  const uint32_t torrents_max_;
  std::mutex warnings_mutex_;
  std::vector<std::string> warnings_;

 public:
  RealClock clock;
  Telemetry telemetry;
  LeafCache leaves;
  TestStore store;
  std::unique_ptr<Swarm> swarm;
};

}  // namespace sluice::p2p
