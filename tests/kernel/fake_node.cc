#include "tests/kernel/fake_node.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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

FakeNode::FakeNode(FakeNodeOptions options) : options_(std::move(options)) {
  original_fd_.reset(open(options_.original_path.c_str(), O_RDONLY | O_CLOEXEC));
  store_fd_.reset(open((options_.root + "/store/" + options_.digest.Hex()).c_str(), O_RDWR | O_CLOEXEC));
  blob_ = std::make_shared<Blob>(BlobSpec{.digest = options_.digest,
                                          .size = SizeOf(original_fd_.get()),
                                          .chunk_size = kTestChunkSize,
                                          .root = {},
                                          .origins = {}});
}

std::unique_ptr<FakeNode> FakeNode::Start(FakeNodeOptions options, absl::Status* error) {
  std::unique_ptr<FakeNode> node(new FakeNode(std::move(options)));
  for (int i = 0; i < kWorkers; ++i) {
    node->workers_.emplace_back(
        [raw = node.get(), i] { raw->Work(static_cast<unsigned>(getpid() * kWorkers + i)); });
  }
  DoorOptions door{.runtime_dir = node->options_.root + "/run",
                   .blobs_dir = node->options_.root + "/store",
                   .keeper_path = SLUICE_KEEPER_PATH,
                   .keeper_log = node->options_.root + "/keeper.log"};
  door.read_deadline = node->options_.read_deadline;
  door.slots_max = node->options_.slots_max;
  absl::StatusOr<std::unique_ptr<Door>> started =
      Door::Start(door, [raw = node.get()](ReadTicket ticket) { raw->Enqueue(std::move(ticket)); });
  *error = started.status();
  if (!started.ok()) return nullptr;
  node->door_ = *std::move(started);
  *error = node->door_->GuardBlob(node->blob_, node->store_fd_.get());
  return error->ok() ? std::move(node) : nullptr;
}

FakeNode::~FakeNode() {
  if (door_) door_->Stop();
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

void FakeNode::Work(unsigned seed) {
  std::minstd_rand random(seed);
  for (;;) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return stopping_ || (!queue_.empty() && treatment_ != Treatment::kHold); });
    if (stopping_) return;
    ReadTicket ticket = std::move(queue_.front());
    queue_.pop_front();
    const bool drop = treatment_ == Treatment::kDrop;
    lock.unlock();
    if (drop) continue;
    if (const auto most = options_.fill_delay_max.count(); most > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % most));
    }
    Fill(std::move(ticket));
  }
}

void FakeNode::Fill(ReadTicket ticket) {
  const ChunkSpan chunks = blob_->geometry().Covering(ticket.range());
  for (ChunkIndex chunk = chunks.first; chunk < chunks.end(); chunk = chunk.next()) CopyChunk(chunk);
  std::move(ticket).Complete(absl::OkStatus());
}

void FakeNode::CopyChunk(ChunkIndex chunk) {
  const ByteRange range = blob_->geometry().RangeOf(chunk);
  std::vector<char> bytes(range.length);
  const auto size = static_cast<ssize_t>(range.length);
  const auto offset = static_cast<off_t>(range.offset);
  if (pread(original_fd_.get(), bytes.data(), bytes.size(), offset) != size) std::abort();
  if (pwrite(store_fd_.get(), bytes.data(), bytes.size(), offset) != size) std::abort();
  blob_->presence().Set(chunk);
}

void FakeNode::FillAll() {
  for (uint32_t i = 0; i < blob_->geometry().chunk_count(); ++i) CopyChunk(ChunkIndex(i));
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

void FakeNode::Treat(Treatment treatment) {
  {
    const std::lock_guard lock(mutex_);
    treatment_ = treatment;
  }
  wake_.notify_all();
}

size_t FakeNode::held_count() {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

}  // namespace sluice::ondemand::test
