#include "ondemand/cache_objects.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <chrono>

#include "ondemand/keeper/wire.h"

namespace sluice::ondemand {
namespace {

constexpr int kWaitMs = 500;
constexpr int kRetryMs = 20;
constexpr time_t kAnswerSeconds = 2;

}  // namespace

CacheObjects::CacheObjects(std::shared_ptr<keeper::Journal> journal)
    : journal_(std::move(journal)), generations_(keeper::kObjectsMax), thread_([this] { Run(); }) {}

CacheObjects::~CacheObjects() {
  stopping_.store(true);
  thread_.join();
}

void CacheObjects::SetLine(keeper::Descriptor line) {
  const timeval timeout{kAnswerSeconds, 0};
  setsockopt(line.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  const std::lock_guard lock(line_mutex_);
  line_ = std::move(line);
}

std::optional<CacheObjects::Object> CacheObjects::Await(uint32_t index, uint32_t generation,
                                                        Duration timeout) {
  std::unique_lock lock(mutex_);
  const auto there = [&] {
    const auto found = objects_.find(index);
    return found != objects_.end() && found->second.generation >= generation;
  };
  if (!arrived_.wait_for(lock, timeout, there)) return std::nullopt;
  return objects_.at(index);
}

std::vector<CacheObjects::Object> CacheObjects::All() {
  const std::lock_guard lock(mutex_);
  std::vector<Object> all;
  all.reserve(objects_.size());
  for (const auto& [index, object] : objects_) all.push_back(object);
  return all;
}

bool CacheObjects::IsOpen(std::string_view name) const {
  const keeper::JournalLayout& layout = journal_->layout();
  for (uint32_t i = 0; i < keeper::kObjectsMax; ++i) {
    if (!keeper::ObjectIsOpen(layout.object_generations[i].load(std::memory_order_acquire))) continue;
    const keeper::ObjectRecord& record = layout.objects[i];
    if (std::string_view(record.cookie, std::min(record.cookie_length, keeper::kCacheKeyMax))
            .starts_with(name))
      return true;
  }
  return false;
}

void CacheObjects::Run() {
  while (!stopping_.load()) {
    const uint32_t seen = journal_->layout().object_changes.load(std::memory_order_acquire);
    journal_->WaitForObjectChange(seen, Follow() ? kWaitMs : kRetryMs);
  }
}

bool CacheObjects::Follow() {
  bool all = true;
  for (uint32_t i = 0; i < keeper::kObjectsMax; ++i) {
    const uint32_t generation = journal_->layout().object_generations[i].load(std::memory_order_acquire);
    if (generation == generations_[i]) continue;
    Drop(i);
    if (keeper::ObjectIsOpen(generation) && !Fetch(i, generation)) {
      all = false;
    } else {
      generations_[i] = generation;
    }
  }
  return all;
}

void CacheObjects::Drop(uint32_t index) {
  const std::lock_guard lock(mutex_);
  objects_.erase(index);
}

bool CacheObjects::Fetch(uint32_t index, uint32_t generation) {
  const keeper::ObjectRequest request{index, generation};
  const keeper::ObjectRecord& record = journal_->layout().objects[index];
  Object object{index, generation, record.blob, record.blob_generation, nullptr};
  {
    const std::lock_guard lock(line_mutex_);
    if (!line_.valid() || !keeper::SendMessage(line_.get(), keeper::BytesOf(request), {}).ok()) return false;
    while (object.file == nullptr) {
      keeper::Result<keeper::Message> reply = keeper::ReceiveMessage(line_.get());
      // It may come late, or its descriptor find no room: the question is put again.
      if (!reply.ok() || reply.value().bytes.size() != sizeof(keeper::ObjectReply)) return false;
      const auto* answer = reinterpret_cast<const keeper::ObjectReply*>(reply.value().bytes.data());
      if (answer->index != index || answer->generation != generation) continue;  // of an earlier question
      // It has changed meanwhile: the next look finds out how.
      if (reply.value().descriptors.size() != 1) return false;
      object.file = std::make_shared<const keeper::Descriptor>(std::move(reply.value().descriptors.front()));
    }
  }
  const std::lock_guard lock(mutex_);
  objects_.insert_or_assign(index, std::move(object));
  arrived_.notify_all();
  return true;
}

}  // namespace sluice::ondemand
