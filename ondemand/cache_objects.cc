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
  setsockopt(line.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  const std::lock_guard lock(line_mutex_);
  line_ = std::move(line);
}

std::optional<CacheObjects::Object> CacheObjects::Await(uint32_t index, Duration timeout) {
  std::unique_lock lock(mutex_);
  // What we have may have been closed, and another opened at its place, without our knowing yet.
  const auto known = [&] {
    const uint32_t now = journal_->layout().object_generations[index].load(std::memory_order_acquire);
    const auto found = objects_.find(index);
    return !keeper::ObjectIsOpen(now) || (found != objects_.end() && found->second.generation == now);
  };
  if (index >= keeper::kObjectsMax || !changed_.wait_for(lock, timeout, known)) return std::nullopt;
  const auto found = objects_.find(index);
  const uint32_t now = journal_->layout().object_generations[index].load(std::memory_order_acquire);
  if (found == objects_.end() || found->second.generation != now) return std::nullopt;
  return found->second;
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
    const size_t length = std::min(record.cookie_length, keeper::kCacheKeyMax);
    if (std::string_view(record.cookie, length).starts_with(name)) return true;
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
  changed_.notify_all();
}

keeper::Descriptor CacheObjects::Ask(uint32_t index, uint32_t generation) {
  const keeper::ObjectRequest request{index, generation};
  keeper::Outcome state = keeper::SendMessage(line_.get(), keeper::BytesOf(request), {});
  while (state.ok()) {
    keeper::Result<keeper::Message> message = keeper::ReceiveMessage(line_.get());
    if (!message.ok()) {
      state = message.error();
      break;
    }
    if (message.value().bytes.size() != sizeof(keeper::ObjectReply)) continue;
    const auto* reply = reinterpret_cast<const keeper::ObjectReply*>(message.value().bytes.data());
    // The late answer to a question that was given up.
    if (reply->index != index || reply->generation != generation) continue;
    // Without a descriptor it has changed meanwhile: the next look finds out how.
    if (message.value().descriptors.size() != 1) return {};
    return std::move(message.value().descriptors.front());
  }
  // A keeper that was slow is asked again, and so is one whose descriptor found no room here (EPROTO): nobody
  // would give us another line to it.
  if (state.error().code != EAGAIN && state.error().code != EPROTO) line_.reset();
  return {};
}

bool CacheObjects::Fetch(uint32_t index, uint32_t generation) {
  const keeper::ObjectRecord& record = journal_->layout().objects[index];
  Object object{index, generation, record.blob, record.blob_generation, nullptr};
  {
    const std::lock_guard lock(line_mutex_);
    if (!line_.valid()) return false;
    keeper::Descriptor file = Ask(index, generation);
    if (!file.valid()) return false;
    object.file = std::make_shared<const keeper::Descriptor>(std::move(file));
  }
  const std::lock_guard lock(mutex_);
  objects_.insert_or_assign(index, std::move(object));
  changed_.notify_all();
  return true;
}

}  // namespace sluice::ondemand
