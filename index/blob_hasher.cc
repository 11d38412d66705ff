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

namespace sluice::index {
namespace {

constexpr size_t kReadBytes = 1 << 20;
constexpr int kNice = 10;

using Sha256Context = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

}  // namespace

absl::StatusOr<Digest> HashFile(StoreFileSystem& file_system, int fd, uint64_t size,
                                const std::atomic<bool>& stop, uint64_t* failed_at) {
  const Sha256Context context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) {
    return absl::UnavailableError("SHA-256 can't be begun: OpenSSL refused");
  }
  std::vector<std::byte> buffer(kReadBytes);
  for (uint64_t offset = 0; offset < size;) {
    if (stop.load(std::memory_order_relaxed)) return absl::CancelledError("the store is stopping");
    const size_t wanted = static_cast<size_t>(std::min<uint64_t>(kReadBytes, size - offset));
    if (absl::Status read = ReadFully(file_system, fd, offset, std::span(buffer).first(wanted)); !read.ok()) {
      *failed_at = offset;
      return read;
    }
    EVP_DigestUpdate(context.get(), buffer.data(), wanted);
    offset += wanted;
  }
  std::array<uint8_t, Digest::kBytes> hash{};
  if (EVP_DigestFinal_ex(context.get(), hash.data(), nullptr) != 1) {
    return absl::UnavailableError("SHA-256 can't be finished: OpenSSL refused");
  }
  return Digest(hash);
}

BlobHasher::BlobHasher(Check check) : check_(std::move(check)), thread_([this] { Run(); }) {}

BlobHasher::~BlobHasher() {
  Stop();
}

void BlobHasher::Enqueue(const Digest& digest) {
  std::lock_guard lock(mutex_);
  if (std::find(queue_.begin(), queue_.end(), digest) != queue_.end()) return;
  queue_.push_back(digest);
  wake_.notify_one();
}

void BlobHasher::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    wake_.notify_one();
  }
  std::call_once(joined_, [this] { thread_.join(); });
}

void BlobHasher::Run() {
  // Reads are worth more than proofs. If it can't be lowered, the priority stays as it is: no harm.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kNice);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    const Digest digest = queue_.front();
    queue_.pop_front();
    lock.unlock();
    check_(digest, stop_);
    lock.lock();
  }
}

}  // namespace sluice::index
