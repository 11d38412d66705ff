#include "tests/kernel/fake_node.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <utility>

namespace sluice::ondemand::test {
namespace {

constexpr int kWorkers = 4;

uint64_t SizeOf(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
}

}  // namespace

Digest BootstrapDigest(const Digest& image) {
  std::string hex = image.Hex();
  hex[0] = hex[0] == '0' ? '1' : '0';
  return *Digest::ParseHex(hex);
}

std::unique_ptr<FakeNode> FakeNode::Start(FakeNodeOptions options, absl::Status* error) {
  std::unique_ptr<FakeNode> node(new FakeNode(std::move(options)));
  for (int i = 0; i < kWorkers; ++i) {
    node->workers_.emplace_back(
        [raw = node.get(), i] { raw->Work(static_cast<unsigned>(getpid() * kWorkers + i)); });
  }
  DoorOptions door{.backend = node->options_.backend,
                   .runtime_dir = node->options_.root + "/run",
                   .blobs_dir = node->options_.root + "/store",
                   .cache_dir = node->options_.root + "/cache",
                   .keeper_path = SLUICE_KEEPER_PATH,
                   .keeper_log = node->options_.root + "/keeper.log"};
  door.read_deadline = node->options_.read_deadline;
  door.slots_max = node->options_.slots_max;
  door.descriptor_store = node->options_.descriptor_store;
  door.call_timeout = node->options_.call_timeout;
  if (!node->options_.keeper_path.empty()) door.keeper_path = node->options_.keeper_path;
  // Tickets of before come at once: their blobs must be known.
  node->AddSource(node->options_.digest, node->options_.original_path);
  if (door.backend == Backend::kCachefiles)
    node->AddSource(BootstrapDigest(node->options_.digest), node->options_.root + "/boot.erofs");
  absl::StatusOr<std::unique_ptr<Door>> started =
      Door::Start(door, [raw = node.get()](ReadTicket ticket) { raw->Enqueue(std::move(ticket)); });
  *error = started.status();
  if (!started.ok()) return nullptr;
  node->door_ = *std::move(started);
  if (!node->options_.guards) {
    node->DropTickets();
    return node;
  }
  *error = node->Guard(node->options_.digest, node->options_.original_path);
  node->image_ = node->Find(node->options_.digest);
  if (error->ok() && node->door_->GuardsBootstrap())
    *error = node->Guard(BootstrapDigest(node->options_.digest), node->options_.root + "/boot.erofs");
  return error->ok() ? std::move(node) : nullptr;
}

FakeNode::Source& FakeNode::AddSource(const Digest& digest, const std::string& original_path) {
  if (Source* known = Find(digest)) return *known;
  auto made = std::make_unique<Source>();
  made->original.reset(open(original_path.c_str(), O_RDONLY | O_CLOEXEC));
  made->store.reset(open((options_.root + "/store/" + digest.Hex()).c_str(), O_RDWR | O_CLOEXEC));
  made->blob = std::make_shared<Blob>(BlobSpec{.digest = digest,
                                               .size = SizeOf(made->original.get()),
                                               .chunk_size = kTestChunkSize,
                                               .root = {},
                                               .origins = {}});
  const std::lock_guard lock(mutex_);
  return *sources_.emplace(digest, std::move(made)).first->second;
}

absl::Status FakeNode::Guard(const Digest& digest, const std::string& original_path) {
  const Source& source = AddSource(digest, original_path);
  return door_->GuardBlob(source.blob, source.store.get());
}

FakeNode::Source* FakeNode::Find(const Digest& digest) {
  const std::lock_guard lock(mutex_);
  const auto found = sources_.find(digest);
  return found == sources_.end() ? nullptr : found->second.get();
}

Blob& FakeNode::blob(const Digest& digest) {
  return *Find(digest)->blob;
}

FakeNode::~FakeNode() {
  if (door_) (void)door_->Stop();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void FakeNode::Enqueue(ReadTicket ticket) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(ticket));
  }
  wake_.notify_one();
}

// REQUIRES: mutex_ is held
std::list<ReadTicket>::iterator FakeNode::NextTicket() {
  if (treatment_ == Treatment::kHold) return queue_.end();
  return std::find_if(queue_.begin(), queue_.end(),
                      [this](const ReadTicket& ticket) { return !held_.contains(ticket.key().name()); });
}

void FakeNode::Work(unsigned seed) {
  std::minstd_rand random(seed);
  for (;;) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return stopping_ || NextTicket() != queue_.end(); });
    if (stopping_) return;
    const auto next = NextTicket();
    ReadTicket ticket = std::move(*next);
    queue_.erase(next);
    const bool drop = treatment_ == Treatment::kDrop;
    lock.unlock();
    if (drop) continue;
    if (const auto most = options_.fill_delay_max.count(); most > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % most));
    }
    Fill(std::move(ticket));
  }
}

// A dead predecessor may have left tickets of blobs that we were not told of; they are dropped.
void FakeNode::Fill(ReadTicket ticket) {
  Source* source = Find(ticket.key().name());
  if (source == nullptr) return;
  const ChunkSpan chunks = source->blob->geometry().Covering(ticket.range());
  for (ChunkIndex chunk = chunks.first; chunk < chunks.end(); chunk = chunk.next()) CopyChunk(*source, chunk);
  std::move(ticket).Complete(absl::OkStatus());
}

void FakeNode::CopyChunk(Source& source, ChunkIndex chunk) {
  const ByteRange range = source.blob->geometry().RangeOf(chunk);
  std::vector<char> bytes(range.length);
  const auto size = static_cast<ssize_t>(range.length);
  const auto offset = static_cast<off_t>(range.offset);
  if (pread(source.original.get(), bytes.data(), bytes.size(), offset) != size) std::abort();
  if (pwrite(source.store.get(), bytes.data(), bytes.size(), offset) != size) std::abort();
  source.blob->presence().Set(chunk);
}

void FakeNode::FillAll(const Digest& digest) {
  Source& source = *Find(digest);
  for (uint32_t i = 0; i < source.blob->geometry().chunk_count(); ++i) CopyChunk(source, ChunkIndex(i));
}

void FakeNode::HoldTickets() {
  Treat(Treatment::kHold);
}
void FakeNode::DropTickets() {
  Treat(Treatment::kDrop);
}
void FakeNode::FillTickets() {
  Treat(Treatment::kFill);
}

void FakeNode::HoldTicketsOf(const Digest& digest) {
  const std::lock_guard lock(mutex_);
  held_.insert(digest);
}

void FakeNode::Treat(Treatment treatment) {
  {
    const std::lock_guard lock(mutex_);
    treatment_ = treatment;
    if (treatment == Treatment::kFill) held_.clear();
  }
  wake_.notify_all();
}

size_t FakeNode::held_count() {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

}  // namespace sluice::ondemand::test
