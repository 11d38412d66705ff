#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "index/disk_store.h"

namespace sluice::index {

// A directory of its own for one test, removed at its end.
class TempDir {
 public:
  TempDir() {
    std::string pattern = ::testing::TempDir() + "sluice-index-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::vector<std::byte> Content(uint64_t seed, uint64_t size) {
  std::vector<std::byte> bytes(size);
  uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<std::byte>(state >> 56);
  }
  return bytes;
}

inline Digest Sha256Of(std::span<const std::byte> bytes) {
  std::array<uint8_t, Digest::kBytes> hash{};
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), hash.data());
  return Digest(hash);
}

// A blob that exists nowhere but here: its bytes, its true digest, and its chunks.
struct SampleBlob {
  explicit SampleBlob(uint64_t seed, uint64_t size = 5 * kChunkSizeMin + 100)
      : bytes(Content(seed, size)), spec{Sha256Of(bytes), size, kChunkSizeMin, std::nullopt, {}} {}

  std::span<const std::byte> Chunk(uint32_t index) const {
    const ByteRange range = ChunkGeometry(spec.size, spec.chunk_size).RangeOf(ChunkIndex(index));
    return std::span(bytes).subspan(range.offset, range.length);
  }
  uint32_t chunk_count() const { return ChunkGeometry(spec.size, spec.chunk_size).chunk_count(); }

  std::vector<std::byte> bytes;
  BlobSpec spec;
};

// A disk that fails on demand. Negative results carry `errno`. A hook may take itself away.
class FaultyFileSystem : public StoreFileSystem {
 public:
  int SyncData(int fd) override {
    if (const auto hook = on_sync) hook(fd);
    if (sync_errno != 0) return Fail(sync_errno);
    ++syncs;
    return StoreFileSystem::SyncData(fd);
  }
  ssize_t Pwrite(int fd, const void* bytes, size_t size, off_t offset) override {
    if (const auto hook = on_write) hook();
    if (interrupts > 0) {
      --interrupts;
      return Fail(EINTR);
    }
    if (write_errno != 0) return Fail(write_errno);
    return StoreFileSystem::Pwrite(fd, bytes, std::min<size_t>(size, write_bytes_max), offset);
  }
  ssize_t Pread(int fd, void* bytes, size_t size, off_t offset) override {
    if (const auto hook = on_read) hook();
    if (read_errno != 0) return Fail(read_errno);
    const auto first = static_cast<uint64_t>(offset);
    if (first <= bad_byte && bad_byte < first + size) return Fail(EIO);
    const ssize_t got = StoreFileSystem::Pread(fd, bytes, size, offset);
    if (const auto hook = after_read) hook();
    return got;
  }
  int Reserve(int fd, off_t offset, off_t size) override {
    if (reserve_errno != 0) return Fail(reserve_errno);
    if (static_cast<uint64_t>(size) > reserve_bytes_max) return Fail(ENOSPC);
    if (on_reserve) on_reserve({static_cast<uint64_t>(offset), static_cast<uint64_t>(size)});
    return StoreFileSystem::Reserve(fd, offset, size);
  }
  int Open(int directory, const std::string& name, int flags) override {
    if (const auto hook = on_open) hook();
    if (open_errno != 0) return Fail(open_errno);
    return StoreFileSystem::Open(directory, name, flags);
  }
  int Truncate(int fd, off_t size) override {
    if (truncate_errno != 0) return Fail(truncate_errno);
    return StoreFileSystem::Truncate(fd, size);
  }
  int SetMark(int fd, std::span<const uint8_t> mark) override {
    if (mark_errno != 0) return Fail(mark_errno);
    return StoreFileSystem::SetMark(fd, mark);
  }
  int ReplaceFile(int directory, const std::string& name, std::span<const std::byte> contents) override {
    if (replace_errno != 0) return Fail(replace_errno);
    return StoreFileSystem::ReplaceFile(directory, name, contents);
  }
  int Clone(int to, int from) override {
    if (const auto hook = on_clone) return hook(to, from);
    return StoreFileSystem::Clone(to, from);
  }
  int SyncDirectory(int directory) override {
    if (directory_errno != 0) return Fail(directory_errno);
    ++directory_syncs;
    return StoreFileSystem::SyncDirectory(directory);
  }

  std::function<void(int fd)> on_sync;
  std::function<void()> on_open;
  std::function<void()> on_write;
  std::function<void()> on_read;
  std::function<void()> after_read;
  std::function<void(ByteRange)> on_reserve;
  std::function<int(int to, int from)> on_clone;  // in its place
  std::atomic<int> sync_errno = 0, write_errno = 0, read_errno = 0, reserve_errno = 0, open_errno = 0,
                   truncate_errno = 0, directory_errno = 0, mark_errno = 0, replace_errno = 0;
  std::atomic<uint64_t> bad_byte = UINT64_MAX;  // of every file: no read that touches it succeeds
  std::atomic<int> interrupts = 0;
  std::atomic<size_t> write_bytes_max = SIZE_MAX;
  std::atomic<uint64_t> reserve_bytes_max = UINT64_MAX;  // at once; more is no space
  std::atomic<int> syncs = 0, directory_syncs = 0;

 private:
  static int Fail(int error) {
    errno = error;
    return -1;
  }
};

// Knows the true bytes of one blob, as a bound recipe would.
class SampleVerifier : public ChunkVerifier {
 public:
  explicit SampleVerifier(const SampleBlob& sample) : sample_(sample) {}
  absl::StatusOr<Evidence> Verify(const Blob&, ChunkIndex index, std::span<const std::byte> bytes) override {
    const std::span<const std::byte> right = sample_.Chunk(index.value());
    if (std::equal(bytes.begin(), bytes.end(), right.begin(), right.end())) return Evidence::kVerified;
    return absl::DataLossError("the chunk is not what its recipe promises");
  }

 private:
  const SampleBlob& sample_;
};

// Has no recipe for anything.
class NoVerifier : public ChunkVerifier {
 public:
  absl::StatusOr<Evidence> Verify(const Blob&, ChunkIndex, std::span<const std::byte>) override {
    return Evidence::kUnverified;
  }
};

// A store whose batches run only when the test asks for them.
class StoreTest : public ::testing::Test {
 protected:
  DiskStoreOptions Options() {
    DiskStoreOptions options{
        .data_dir = temp_.path() + "/data", .telemetry = telemetry_, .file_system = disk_};
    options.sync_interval = std::chrono::hours(24);
    options.sync_bytes_max = UINT64_MAX;
    options.on_complete = [this](const std::shared_ptr<Blob>& blob) {
      Note("complete " + blob->digest().Short());
      return absl::OkStatus();
    };
    options.on_revoke = [this](const Blob& blob) {
      Note("revoke " + blob.digest().Short());
      const std::function<absl::Status()> hook = on_revoke_;
      return hook ? hook() : absl::OkStatus();
    };
    options.alarm = [this](const std::string& text) { Note("alarm " + text); };
    options.is_mounted = [this](const BlobKey& key) {
      return std::find(mounted_.begin(), mounted_.end(), key) != mounted_.end();
    };
    return options;
  }

  void OpenStore() {
    store_.reset();
    absl::StatusOr<std::unique_ptr<DiskStore>> store = DiskStore::OpenStore(Options());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  std::shared_ptr<Blob> OpenBlob(const SampleBlob& sample) {
    absl::StatusOr<std::shared_ptr<Blob>> blob = store_->Open(sample.spec);
    EXPECT_TRUE(blob.ok()) << blob.status();
    return blob.ok() ? *blob : nullptr;
  }

  absl::Status CommitChunk(const SampleBlob& sample, uint32_t index,
                           Evidence evidence = Evidence::kUnverified) {
    const std::shared_ptr<Blob> blob = OpenBlob(sample);
    return store_->Commit(*blob, ChunkIndex(index), sample.Chunk(index), evidence);
  }

  void CommitAll(const SampleBlob& sample, Evidence evidence = Evidence::kUnverified) {
    for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
      const absl::Status committed = CommitChunk(sample, i, evidence);
      ASSERT_TRUE(committed.ok()) << committed;
    }
  }

  std::optional<Blob::Lease> LeaseOf(const SampleBlob& sample) {
    absl::StatusOr<Blob::Lease> lease = store_->Acquire(sample.spec.digest);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? std::optional(*std::move(lease)) : std::nullopt;
  }

  bool IsPresent(const SampleBlob& sample, uint32_t index) {
    const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
    return blob && blob->presence().IsPresent(ChunkIndex(index));
  }

  // Every chunk that is said to be present holds the right bytes.
  void ExpectTrue(const SampleBlob& sample) {
    const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
    ASSERT_TRUE(blob);
    absl::StatusOr<FileDescriptor> fd = store_->OpenForRead(sample.spec.digest);
    ASSERT_TRUE(fd.ok()) << fd.status();
    for (uint32_t i = 0; i < sample.chunk_count(); ++i) {
      if (!blob->presence().IsPresent(ChunkIndex(i))) continue;
      std::vector<std::byte> found(sample.Chunk(i).size());
      ASSERT_EQ(::pread(fd->get(), found.data(), found.size(), static_cast<off_t>(i) * kChunkSizeMin),
                static_cast<ssize_t>(found.size()));
      EXPECT_TRUE(std::equal(found.begin(), found.end(), sample.Chunk(i).begin())) << "chunk " << i;
    }
  }

  void Overwrite(const SampleBlob& sample, uint32_t index, std::string_view bytes) {
    FileDescriptor fd(::open(store_->BlobPath(sample.spec.digest).c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(index) * kChunkSizeMin),
              static_cast<ssize_t>(bytes.size()));
  }

  // Waits for the hasher: it queues a batch when it has decided, and the batch is what `until` looks at.
  template <typename Condition>
  void FlushUntil(Condition until) {
    for (int i = 0; i < 100000 && !until(); ++i) {
      store_->Flush();
      std::this_thread::yield();
    }
    EXPECT_TRUE(until());
  }

  void Note(std::string text) {
    std::lock_guard lock(notes_mutex_);
    notes_.push_back(std::move(text));
  }
  std::vector<std::string> Notes() {
    std::lock_guard lock(notes_mutex_);
    return notes_;
  }
  bool Noted(const std::string& start) {
    const std::vector<std::string> notes = Notes();
    return std::any_of(notes.begin(), notes.end(),
                       [&](const std::string& note) { return note.starts_with(start); });
  }

  TempDir temp_;
  Telemetry telemetry_;
  FaultyFileSystem disk_;
  std::vector<Digest> mounted_;
  std::function<absl::Status()> on_revoke_;  // the test's own; called by the store's callback
  std::mutex notes_mutex_;
  std::vector<std::string> notes_;
  std::unique_ptr<DiskStore> store_;
};

}  // namespace sluice::index
