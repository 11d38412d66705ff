#include "index/blob_hasher.h"

#include <openssl/evp.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "node/geometry.h"

namespace sluice::index {
namespace {

constexpr size_t kReadBytes = 1 << 20;
constexpr int kNice = 10;

using Sha256Context = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

}  // namespace

absl::StatusOr<Digest> HashFile(StoreFileSystem& file_system, int fd, uint64_t size, const CancelCheck& stop,
                                uint64_t* failed_at, RecipeMaker* also,
                                const std::function<void(uint64_t)>& on_read) {
  const Sha256Context context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) {
    return absl::UnavailableError("SHA-256 can't be begun: OpenSSL refused");
  }
  std::vector<std::byte> buffer(kReadBytes);
  size_t step = kReadBytes;
  for (uint64_t offset = 0; offset < size;) {
    if (stop) return absl::CancelledError("nobody waits for it any more");
    const std::span<std::byte> bytes =
        std::span(buffer).first(static_cast<size_t>(std::min<uint64_t>(step, size - offset)));
    const absl::Status read = ReadFully(file_system, fd, offset, bytes);
    if (!read.ok() && step == kChunkSizeMin) {
      *failed_at = offset;
      return read;
    }
    if (!read.ok()) {
      step = kChunkSizeMin;  // which of the many chunks that were asked for at once can't be read?
      continue;
    }
    EVP_DigestUpdate(context.get(), bytes.data(), bytes.size());
    if (also) also->Update(bytes);
    offset += bytes.size();
    if (on_read) on_read(offset);
    if (offset % kReadBytes == 0) step = kReadBytes;
  }
  std::array<uint8_t, Digest::kBytes> hash{};
  if (EVP_DigestFinal_ex(context.get(), hash.data(), nullptr) != 1) {
    return absl::UnavailableError("SHA-256 can't be finished: OpenSSL refused");
  }
  return Digest(hash);
}

BlobHasher::BlobHasher(Check check, Threads threads) : check_(std::move(check)) {
  if (threads == Threads::kOwn) thread_ = std::thread([this] { Run(); });
}

BlobHasher::~BlobHasher() {
  Stop();
}

void BlobHasher::Enqueue(const BlobKey& id) {
  std::lock_guard lock(mutex_);
  if (!queued_.insert(id).second) return;
  queue_.push_back(id);
  wake_.notify_one();
}

void BlobHasher::Forget(const BlobKey& id) {
  std::unique_lock lock(mutex_);
  if (queued_.erase(id) > 0) std::erase(queue_, id);
  if (under_way_ != id) return;
  give_up_ = true;
  if (thread_.joinable()) ended_.wait(lock, [&] { return under_way_ != id; });
}

bool BlobHasher::RunOne() {
  std::unique_lock lock(mutex_);
  if (stop_ || queue_.empty()) return false;
  CheckFirst(lock);
  return true;
}

void BlobHasher::CheckFirst(std::unique_lock<std::mutex>& lock) {
  const BlobKey id = queue_.front();
  queue_.pop_front();
  queued_.erase(id);
  under_way_ = id;
  give_up_ = stop_.load();
  lock.unlock();
  check_(id, give_up_);
  lock.lock();
  under_way_.reset();
  ended_.notify_all();
}

void BlobHasher::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = give_up_ = true;
    wake_.notify_one();
  }
  std::call_once(joined_, [this] {
    if (thread_.joinable()) thread_.join();
  });
}

void BlobHasher::Run() {
  // Reads are worth more than proofs. If it can't be lowered, the priority stays as it is: no harm.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kNice);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    CheckFirst(lock);
  }
}

}  // namespace sluice::index
