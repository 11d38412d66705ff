#include "ondemand/cache_filler.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::ondemand {
namespace {

using keeper::Descriptor;

// Writes to the kernel's copy go past its page cache: offset, length and memory are whole pages.
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kWriteBytesMax = 1 << 20;
constexpr int kWorkers = 3;
constexpr Duration kSweepInterval = std::chrono::milliseconds(50);
constexpr Duration kIdleInterval = std::chrono::seconds(1);
constexpr Duration kObjectWaitMax = std::chrono::seconds(1);
// An object takes no writes for a moment after it was opened.
constexpr Duration kNotReadyPause = std::chrono::milliseconds(2);
constexpr int kNotReadyTries = 100;

uint64_t DownToPage(uint64_t offset) {
  return offset / kPageBytes * kPageBytes;
}

uint64_t UpToPage(uint64_t offset) {
  return DownToPage(offset + kPageBytes - 1);
}

bool TestBit(const std::atomic<uint64_t>* words, uint64_t bit) {
  return (words[bit / 64].load(std::memory_order_acquire) >> bit % 64 & 1) != 0;
}

bool TestBit(const std::vector<uint64_t>& words, uint64_t bit) {
  return (words[bit / 64] >> bit % 64 & 1) != 0;
}

// Whether the store has the range's chunks of the blob that the object is a copy of.
bool AllPresent(const keeper::JournalLayout& layout, uint32_t blob, uint32_t generation, ByteRange range) {
  const keeper::BlobRecord& record = layout.blobs[blob];
  const uint64_t last = (range.end() - 1) >> record.chunk_shift;
  for (uint64_t chunk = range.offset >> record.chunk_shift; chunk <= last; ++chunk) {
    if (chunk >= keeper::kChunksMax || !TestBit(layout.present[blob].words, chunk)) return false;
  }
  // After the bits: they may be another blob's.
  return record.generation == generation && record.in_use.load(std::memory_order_acquire) != 0;
}

// Whether the object takes neither reads nor writes: it is not ready yet, or closed.
bool HasNoFile(int object) {
  return lseek(object, 0, SEEK_SET) < 0 && errno == ENOBUFS;
}

absl::Status DiskError(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

// One thread's means of copying.
class CacheFiller::Writer {
 public:
  // Discards nothing if `make_room` is empty.
  Writer(const keeper::Journal& journal, const std::string& blobs_dir, Places& places, MakeRoom make_room)
      : journal_(journal),
        blobs_dir_(blobs_dir),
        places_(places),
        make_room_(std::move(make_room)),
        buffer_(static_cast<char*>(std::aligned_alloc(kPageBytes, kWriteBytesMax)), &std::free) {}

  // Keeps no blob's file open, so that one that is evicted gives its room back.
  void Close() { file_.reset(); }

  // The pages that the range lies on.
  absl::Status Copy(const CacheObjects::Object& object, ByteRange range) {
    if (absl::Status opened = OpenBlob(object.blob, object.blob_generation); !opened.ok()) return opened;
    // To the end of its last page, as all of the page is written.
    const uint64_t end = std::min(UpToPage(range.end()), size_);
    for (uint64_t offset = DownToPage(range.offset); offset < end;) {
      // Up to the next multiple, so that each byte has one place to be locked by.
      const uint64_t next = std::min(end, (offset / kWriteBytesMax + 1) * kWriteBytesMax);
      const std::shared_lock copying = EnterCopy();
      const std::lock_guard lock(places_.copies[(object.index + offset / kWriteBytesMax) % kPlaces]);
      if (absl::Status copied = CopyPiece(object, {offset, next - offset}); !copied.ok()) return copied;
      offset = next;
    }
    return absl::OkStatus();
  }

 private:
  std::shared_lock<std::shared_mutex> EnterCopy() {
    const std::lock_guard gate(places_.gate);
    return std::shared_lock(places_.copying);
  }

  // An entry of the table may be given to another blob at any time; the file that was opened is the right one
  // if it was still the same afterwards.
  absl::Status OpenBlob(uint32_t blob, uint32_t generation) {
    if (file_.valid() && blob == blob_ && generation == generation_) return absl::OkStatus();
    const keeper::BlobRecord& record = journal_.layout().blobs[blob % keeper::kBlobsMax];
    const std::string path = absl::StrCat(blobs_dir_, "/", std::string(record.name, sizeof(record.name)));
    size_ = record.size;
    file_.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file_.valid()) return DiskError("open the blob's file");
    struct stat status {};
    if (fstat(file_.get(), &status) != 0 || status.st_ino != record.inode || status.st_dev != record.device ||
        record.generation != generation || record.in_use.load(std::memory_order_acquire) == 0) {
      file_.reset();
      return absl::UnavailableError("the blob's file is another one than the one that is guarded");
    }
    blob_ = blob;
    generation_ = generation;
    return absl::OkStatus();
  }

  absl::Status CopyPiece(const CacheObjects::Object& object, ByteRange piece) {
    if (absl::Status read = Read(piece.offset, piece.length); !read.ok()) return read;
    // A file that was cut, and has grown again, has holes.
    struct stat status {};
    if (fstat(file_.get(), &status) != 0 || static_cast<uint64_t>(status.st_size) != size_ ||
        status.st_nlink == 0) {
      return absl::UnavailableError("the blob's file was cut short or deleted");
    }
    // Chunks are taken back before their bytes are touched: what is still there now was right when it was
    // read. The kernel never asks again for what it is given.
    if (!AllPresent(journal_.layout(), object.blob % keeper::kBlobsMax, object.blob_generation, piece))
      return absl::UnavailableError("the store does not have the bytes any more");
    const uint64_t padded = UpToPage(piece.length);
    std::memset(buffer_.get() + piece.length, 0, padded - piece.length);
    return Write(object.file->get(), piece.offset, padded);
  }

  absl::Status Read(uint64_t offset, uint64_t length) {
    for (uint64_t done = 0; done < length;) {
      const ssize_t count =
          pread(file_.get(), buffer_.get() + done, length - done, static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return DiskError("read the blob's file");
      if (count == 0) return absl::UnavailableError("the blob's file is shorter than the blob");
      done += static_cast<uint64_t>(count);
    }
    return absl::OkStatus();
  }

  absl::Status Write(int object, uint64_t offset, uint64_t length) {
    bool made_room = false;
    int not_ready = 0;
    for (uint64_t done = 0; done < length;) {
      const ssize_t count =
          pwrite(object, buffer_.get() + done, length - done, static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count > 0) {
        // Some kernels tell of more than was asked for, and a write may end within a page: begin that one
        // again.
        const uint64_t next = std::min(done + static_cast<uint64_t>(count), length) / kPageBytes * kPageBytes;
        if (std::exchange(done, next) != next) continue;
      }
      // ENOBUFS is said both of an object that has no file and of a file system that is too full. What ends
      // within its first page has met the end of the space, too.
      const bool full = count >= 0 || errno == ENOSPC || errno == EDQUOT || errno == ENOBUFS;
      if (!full) return DiskError("write the kernel's copy");
      if (count < 0 && errno == ENOBUFS && HasNoFile(object)) {
        if (++not_ready == kNotReadyTries) return absl::UnavailableError("the kernel's copy is closed");
        std::this_thread::sleep_for(kNotReadyPause);
        continue;
      }
      if (std::exchange(made_room, true) || !make_room_ || !make_room_())
        return absl::ResourceExhaustedError("there is no room for the kernel's copy, and nothing to discard");
    }
    return absl::OkStatus();
  }

  const keeper::Journal& journal_;
  const std::string& blobs_dir_;
  Places& places_;
  const MakeRoom make_room_;
  const std::unique_ptr<char, decltype(&std::free)> buffer_;
  Descriptor file_;
  uint32_t blob_ = 0;
  uint32_t generation_ = 0;
  uint64_t size_ = 0;
};

CacheFiller::CacheFiller(std::shared_ptr<keeper::Journal> journal, CacheObjects& objects,
                         std::string blobs_dir, Copies by_name, std::string doubts_dir)
    : journal_(std::move(journal)),
      objects_(objects),
      blobs_dir_(std::move(blobs_dir)),
      by_name_(std::move(by_name)),
      doubts_dir_(std::move(doubts_dir)) {
  if (!doubts_dir_.empty()) mkdir(doubts_dir_.c_str(), 0700);
  for (int i = 0; i < kWorkers; ++i) threads_.emplace_back([this] { Work(); });
  threads_.emplace_back([this] { Sweep(); });
}

void CacheFiller::Stop() {
  std::deque<Job> left;
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    left.swap(jobs_);
    threads.swap(threads_);
  }
  work_.notify_all();
  sweep_.notify_all();
  for (std::thread& thread : threads) thread.join();
  for (Job& job : left) std::move(job.done)(absl::CancelledError("the node is stopping"));
}

void CacheFiller::Fill(uint32_t object, uint32_t blob, ByteRange range, Instant deadline, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      jobs_.push_back({object, blob, range, deadline, std::move(done)});
      woken_ = true;
      work_.notify_one();
      sweep_.notify_one();
      return;
    }
  }
  std::move(done)(absl::CancelledError("the node is stopping"));
}

void CacheFiller::Work() {
  prctl(PR_SET_NAME, "cache-fill");
  Writer writer(*journal_, blobs_dir_, places_, by_name_.make_room);
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    absl::Status status = Execute(job, writer);
    std::move(job.done)(std::move(status));
    lock.lock();
    if (jobs_.empty()) writer.Close();
  }
}

absl::Status CacheFiller::Execute(const Job& job, Writer& writer) {
  const Instant now = std::chrono::steady_clock::now();
  if (now >= job.deadline) return absl::DeadlineExceededError("the reader's time is over");
  const std::optional<CacheObjects::Object> object =
      objects_.Await(job.object, std::min(kObjectWaitMax, job.deadline - now));
  if (!object || object->blob != job.blob)
    return absl::UnavailableError("the kernel's copy of the blob is not open");
  // A daemon that has just started may not have said yet what its store has.
  const Instant give_up = std::min(job.deadline, now + kObjectWaitMax);
  while (!AllPresent(journal_->layout(), job.blob % keeper::kBlobsMax, object->blob_generation, job.range) &&
         std::chrono::steady_clock::now() < give_up && !Stopping()) {
    std::this_thread::sleep_for(kNotReadyPause);
  }
  return writer.Copy(*object, job.range);
}

bool CacheFiller::Stopping() {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

bool CacheFiller::ReadersWait() {
  const std::lock_guard lock(mutex_);
  return stopping_ || !jobs_.empty();
}

// ------------------------------------------------------------------------------ what nobody waits for yet

void CacheFiller::Wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  sweep_.notify_one();
}

std::string CacheFiller::DoubtPath(const keeper::BlobRecord& record) const {
  return absl::StrCat(doubts_dir_, "/", std::string(record.name, sizeof(record.name)));
}

void CacheFiller::OnDiscarded(const BlobKey& key) {
  if (!doubts_dir_.empty()) unlink(absl::StrCat(doubts_dir_, "/", key.FileName()).c_str());
}

bool CacheFiller::InDoubt(uint32_t blob) const {
  return !doubts_dir_.empty() && access(DoubtPath(journal_->layout().blobs[blob]).c_str(), F_OK) == 0;
}

absl::Status CacheFiller::Revoke(uint32_t blob) {
  const keeper::BlobRecord& record = journal_->layout().blobs[blob];
  // For the next daemon. It need not survive a crash of the machine: nor do copies that are in use.
  if (!doubts_dir_.empty()) Descriptor(open(DoubtPath(record).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  NoteRevoked(blob);
  absl::Status dropped = DropAbsent(blob);
  if (dropped.ok()) return dropped;
  return absl::UnavailableError(absl::StrCat("the kernel's copy of blob ",
                                             std::string(record.name, sizeof(record.name)),
                                             " may have what was taken back: ", dropped.message()));
}

void CacheFiller::NoteRevoked(uint32_t blob) {
  const keeper::BlobRecord& record = journal_->layout().blobs[blob];
  const keeper::PresenceBits& present = journal_->layout().present[blob];
  const std::lock_guard lock(copies_mutex_);
  ++revocations_;
  Revoked& revoked = revoked_[blob];
  if (revoked.generation != record.generation || revoked.chunks.empty())
    revoked = {record.generation, std::vector<uint64_t>(keeper::kPresenceWords)};
  for (size_t w = 0; w < revoked.chunks.size(); ++w)
    revoked.chunks[w] |= ~present.words[w].load(std::memory_order_acquire);
  for (auto& [index, copy] : copies_) {
    if (copy.blob != blob) continue;
    for (size_t w = 0; w < copy.chunks.size(); ++w) {
      const uint64_t absent = ~present.words[w].load(std::memory_order_acquire);
      copy.chunks[w] &= ~absent;
      copy.revoked[w] |= absent;
    }
  }
}

absl::Status CacheFiller::DropAbsent(uint32_t blob) {
  const keeper::BlobRecord& record = journal_->layout().blobs[blob];
  const Shape shape{record.size, record.chunk_shift};
  // No writer is between its last look at the bits and its write: what is absent now is not written from here
  // on.
  const std::lock_guard gate(places_.gate);
  const std::lock_guard nobody_copies(places_.copying);
  std::vector<ByteRange> absent;
  for (uint64_t chunk = 0; chunk < shape.ChunkCount(); ++chunk) {
    if (TestBit(journal_->layout().present[blob].words, chunk)) continue;
    const ByteRange range = shape.RangeOf(chunk);
    const uint64_t end = UpToPage(range.end());
    if (!absent.empty() && absent.back().end() == range.offset) {
      absent.back().length = end - absent.back().offset;
    } else {
      absent.push_back({range.offset, end - range.offset});
    }
  }
  if (absent.empty()) return absl::OkStatus();
  absl::Status dropped = by_name_.drop(std::string(record.name, sizeof(record.name)), absent);
  return dropped.ok() ? CheckDropped(blob, absent) : dropped;
}

// A copy that has no name yet can't be found by it.
absl::Status CacheFiller::CheckDropped(uint32_t blob, const std::vector<ByteRange>& ranges) {
  const keeper::JournalLayout& layout = journal_->layout();
  for (uint32_t i = 0; i < keeper::kObjectsMax; ++i) {
    const uint32_t generation = layout.object_generations[i].load(std::memory_order_acquire);
    if (!keeper::ObjectIsOpen(generation) || layout.objects[i].blob != blob) continue;
    const std::optional<CacheObjects::Object> object = objects_.Await(i, kObjectWaitMax);
    if (!object) {
      // Closed meanwhile: it has got its name, and what it has is seen to when it is opened again.
      if (layout.object_generations[i].load(std::memory_order_acquire) != generation) continue;
      return absl::UnavailableError("it is open, and not at hand");
    }
    for (const ByteRange& range : ranges) {
      const off_t data = lseek(object->file->get(), static_cast<off_t>(range.offset), SEEK_DATA);
      if (data >= 0 && static_cast<uint64_t>(data) < range.end())
        return absl::UnavailableError("it is open, and has no name to reach it by");
      // ENXIO: there is nothing behind. ENOBUFS: it has no file (yet), so nothing that has no name.
      if (data < 0 && errno != ENXIO && errno != ENOBUFS) return DiskError("look through it");
    }
  }
  return absl::OkStatus();
}

void CacheFiller::Sweep() {
  prctl(PR_SET_NAME, "cache-sweep");
  // What nobody has asked for is not worth discarding anything.
  Writer writer(*journal_, blobs_dir_, places_, nullptr);
  bool wrote = false;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!wrote) sweep_.wait_for(lock, kIdleInterval, [this] { return stopping_ || woken_; });
    woken_ = false;
    // Chunks arrive in groups.
    sweep_.wait_for(lock, kSweepInterval, [this] { return stopping_; });
    if (stopping_) return;
    lock.unlock();
    wrote = SweepObjects(writer);
    writer.Close();
    lock.lock();
  }
}

bool CacheFiller::SweepObjects(Writer& writer) {
  bool wrote = false;
  const std::vector<CacheObjects::Object> objects = objects_.All();
  {
    const std::lock_guard lock(copies_mutex_);
    absl::erase_if(copies_, [&](const auto& copy) {
      return std::none_of(objects.begin(), objects.end(), [&](const CacheObjects::Object& object) {
        return object.index == copy.first && object.generation == copy.second.generation;
      });
    });
  }
  for (const CacheObjects::Object& object : objects) wrote |= SweepObject(object, writer);
  return wrote;
}

bool CacheFiller::SweepObject(const CacheObjects::Object& object, Writer& writer) {
  const keeper::BlobRecord& record = journal_->layout().blobs[object.blob];
  const keeper::PresenceBits& present = journal_->layout().present[object.blob];
  const Shape shape{record.size, record.chunk_shift};
  // After that: the entry may be given to another blob at any time.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (record.in_use.load(std::memory_order_acquire) == 0 || record.generation != object.blob_generation)
    return false;
  // Not ready yet: what it has can't be told.
  if (HasNoFile(object.file->get())) return true;
  bool wrote = false;
  for (uint64_t chunk = 0; chunk < shape.ChunkCount(); ++chunk) {
    uint64_t revocations = 0;
    if (!TestBit(present.words, chunk) || !Lacks(object, shape, chunk, &revocations)) continue;
    if (ReadersWait()) return true;
    // The next look tries again; a reader that wants it learns what is wrong.
    if (!writer.Copy(object, shape.RangeOf(chunk)).ok()) return wrote;
    wrote = true;
    NoteWritten(object, shape, chunk, revocations);
  }
  return wrote;
}

bool CacheFiller::Lacks(const CacheObjects::Object& object, const Shape& shape, uint64_t chunk,
                        uint64_t* revocations) {
  const std::lock_guard lock(copies_mutex_);
  *revocations = revocations_;
  Copy& copy = CopyOf(object, shape);
  if (TestBit(copy.chunks, chunk)) return false;
  if (TestBit(copy.revoked, chunk)) return true;
  // Readers may have had it filled since the copy was looked through.
  const ByteRange range = shape.RangeOf(chunk);
  const off_t hole = lseek(object.file->get(), static_cast<off_t>(range.offset), SEEK_HOLE);
  if (hole < 0 || static_cast<uint64_t>(hole) < range.end()) return true;
  copy.chunks[chunk / 64] |= uint64_t{1} << chunk % 64;
  return false;
}

void CacheFiller::NoteWritten(const CacheObjects::Object& object, const Shape& shape, uint64_t chunk,
                              uint64_t revocations) {
  const std::lock_guard lock(copies_mutex_);
  // Something was taken back meanwhile: what we have written may be of before.
  if (revocations != revocations_) return;
  Copy& copy = CopyOf(object, shape);
  copy.chunks[chunk / 64] |= uint64_t{1} << chunk % 64;
  copy.revoked[chunk / 64] &= ~(uint64_t{1} << chunk % 64);
}

// REQUIRES: copies_mutex_ is held. What the copy has from before we knew it: chunks without a hole in them.
CacheFiller::Copy& CacheFiller::CopyOf(const CacheObjects::Object& object, const Shape& shape) {
  Copy& copy = copies_[object.index];
  if (!copy.chunks.empty() && copy.generation == object.generation) return copy;
  const auto [size, shift] = shape;
  const uint64_t count = shape.ChunkCount();
  const size_t words = (count + 63) / 64;
  copy = {object.generation, object.blob, std::vector<uint64_t>(words), std::vector<uint64_t>(words)};
  if (InDoubt(object.blob % keeper::kBlobsMax)) {
    std::fill(copy.revoked.begin(), copy.revoked.end(), ~uint64_t{0});
    return copy;
  }
  const int file = object.file->get();
  for (uint64_t offset = 0; offset < size;) {
    const off_t data = lseek(file, static_cast<off_t>(offset), SEEK_DATA);
    const off_t hole = data < 0 ? -1 : lseek(file, data, SEEK_HOLE);
    if (data < 0 || hole <= data) break;
    const auto end = std::min(static_cast<uint64_t>(hole), size);
    const uint64_t first = (static_cast<uint64_t>(data) + (uint64_t{1} << shift) - 1) >> shift;
    const uint64_t last = end == size ? count : end >> shift;
    for (uint64_t chunk = first; chunk < last; ++chunk) copy.chunks[chunk / 64] |= uint64_t{1} << chunk % 64;
    offset = static_cast<uint64_t>(hole);
  }
  const auto revoked = revoked_.find(object.blob);
  if (revoked == revoked_.end() || revoked->second.generation != object.blob_generation) return copy;
  for (size_t w = 0; w < words; ++w) {
    copy.revoked[w] = revoked->second.chunks[w];
    copy.chunks[w] &= ~copy.revoked[w];
  }
  return copy;
}

}  // namespace sluice::ondemand
