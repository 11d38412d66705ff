#include "node/image/blob_compressor.h"

#include <fcntl.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/file_bytes.h"
#include "node/image/unique_fd.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

constexpr std::string_view kZstd = "zstd";
constexpr size_t kFramesAheadMax = 4;  // of each thread, beyond the one that is written next

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};
using Context = std::unique_ptr<ZSTD_CCtx, FreeContext>;
using Frame = std::vector<std::byte>;

// Compresses the frames of a file on threads of its own, and hands them out in order.
class FrameFactory {
 public:
  FrameFactory(const CompressRequest& request, int file)
      : request_(request),
        file_(file),
        count_((request.plain_size + request.frame_bytes - 1) / request.frame_bytes) {
    const uint64_t threads = std::min<uint64_t>(request.threads, count_);
    ahead_max_ = threads * kFramesAheadMax;
    for (uint64_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
  }
  FrameFactory(const FrameFactory&) = delete;
  FrameFactory& operator=(const FrameFactory&) = delete;

  ~FrameFactory() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  uint64_t count() const { return count_; }

  absl::StatusOr<Frame> Next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock,
                  [this] { return !status_.ok() || (!frames_.empty() && frames_.front().has_value()); });
    if (!status_.ok()) return status_;
    Frame frame = *std::move(frames_.front());
    frames_.pop_front();
    ++next_;
    changed_.notify_all();
    return frame;
  }

 private:
  void Work() {
    const Context context(ZSTD_createCCtx());
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, request_.level);
    std::vector<std::byte> plain(request_.frame_bytes);
    while (const std::optional<uint64_t> index = Take()) {
      absl::StatusOr<Frame> frame = Compress(context.get(), plain, *index);
      const std::lock_guard lock(mutex_);
      if (frame.ok()) {
        frames_[*index - next_] = *std::move(frame);
      } else {
        status_.Update(frame.status());
      }
      changed_.notify_all();
    }
  }

  std::optional<uint64_t> Take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return stopping_ || !status_.ok() || taken_ == count_ || taken_ - next_ < ahead_max_;
    });
    if (stopping_ || !status_.ok() || taken_ == count_) return std::nullopt;
    frames_.emplace_back();
    return taken_++;
  }

  absl::StatusOr<Frame> Compress(ZSTD_CCtx* context, std::vector<std::byte>& plain, uint64_t index) {
    const uint64_t offset = index * request_.frame_bytes;
    const size_t size = std::min<uint64_t>(request_.frame_bytes, request_.plain_size - offset);
    absl::Status read = ReadAt(file_, request_.plain_path, offset, std::span(plain).first(size));
    if (!read.ok()) return read;
    Frame frame(ZSTD_compressBound(size));
    const size_t length = ZSTD_compress2(context, frame.data(), frame.size(), plain.data(), size);
    if (ZSTD_isError(length)) {
      return absl::InternalError(
          absl::StrCat(request_.plain_path, " can't be compressed: ", ZSTD_getErrorName(length)));
    }
    frame.resize(length);
    frame.shrink_to_fit();
    return frame;
  }

  const CompressRequest& request_;
  const int file_;
  const uint64_t count_;
  uint64_t ahead_max_ = 0;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<std::optional<Frame>> frames_;  // from next_ to taken_; empty while they are under work
  uint64_t next_ = 0;
  uint64_t taken_ = 0;
  absl::Status status_;
  bool stopping_ = false;
};

// Writes and hashes.
class CompressedWriter {
 public:
  explicit CompressedWriter(const std::string& path)
      : path_(path), file_(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {}

  absl::Status Open() const {
    if (file_.valid()) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, " can't be made"));
  }
  absl::Status Write(std::span<const std::byte> bytes) {
    hash_.Update(bytes);
    size_ += bytes.size();
    return WriteAll(file_.get(), bytes, path_);
  }
  uint64_t size() const { return size_; }
  Digest Finish() { return hash_.Finish(); }

 private:
  const std::string path_;
  const UniqueFd file_;
  p2p::Sha256 hash_;
  uint64_t size_ = 0;
};

}  // namespace

absl::StatusOr<Compression> Compression::Parse(const std::string& text) {
  if (text == "none") return Compression{Kind::kNone, kLevelDefault};
  if (text == kZstd) return Compression{};
  std::string_view rest = text;
  int level = 0;
  if (rest.starts_with(kZstd) && rest.substr(kZstd.size()).starts_with(':')) {
    rest.remove_prefix(kZstd.size() + 1);
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), level);
    if (error == std::errc() && end == rest.data() + rest.size() && level >= 1 && level <= ZSTD_maxCLevel())
      return Compression{Kind::kZstd, level};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("compression ", p2p::Quoted(text),
                   ": expected none, zstd or zstd:LEVEL with a level from 1 to ", ZSTD_maxCLevel()));
}

std::string Compression::Describe() const {
  if (kind == Kind::kNone) return "none";
  return absl::StrCat("zstd:", level, " ", ZSTD_versionString());
}

absl::StatusOr<CompressedFile> CompressFile(
    const CompressRequest& request, absl::FunctionRef<std::string(const std::vector<uint32_t>&)> trailer,
    absl::FunctionRef<void(uint64_t plain_bytes)> on_progress) {
  const UniqueFd plain(open(request.plain_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!plain.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(request.plain_path, " can't be opened"));
  CompressedWriter writer(request.path);
  if (absl::Status opened = writer.Open(); !opened.ok()) return opened;
  CompressedFile compressed{request.path, 0, Digest(), {}};
  FrameFactory factory(request, plain.get());
  for (uint64_t i = 0; i < factory.count(); ++i) {
    absl::StatusOr<Frame> frame = factory.Next();
    if (!frame.ok()) return frame.status();
    compressed.frame_sizes.push_back(static_cast<uint32_t>(frame->size()));
    if (absl::Status written = writer.Write(*frame); !written.ok()) return written;
    on_progress(std::min((i + 1) * request.frame_bytes, request.plain_size));
  }
  const std::string behind = trailer(compressed.frame_sizes);
  if (absl::Status written = writer.Write(std::as_bytes(std::span(behind))); !written.ok()) return written;
  compressed.size = writer.size();
  compressed.digest = writer.Finish();
  return compressed;
}

}  // namespace sluice
