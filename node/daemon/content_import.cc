#include "node/daemon/content_import.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

constexpr int kNice = 19;

}  // namespace

ContentImport::ContentImport(index::DiskStore& store, ImageCounters& counters,
                             std::function<void(const std::string&)> warn)
    : store_(store), counters_(counters), warn_(std::move(warn)) {
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "import");
}

void ContentImport::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  std::call_once(joined_, [this] { thread_.join(); });
}

void ContentImport::Run() {
  // Whoever reads comes first. If it can't be lowered, the priority stays as it is: no harm.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kNice);
  while (!stopping_) {
    const Duration pause = Look() ? kSoon : kInterval;
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, pause, [this] { return stopping_.load(); });
  }
}

bool ContentImport::Look() {
  const absl::StatusOr<std::vector<Digest>> here = store_.ListContent();
  const std::string no_list(here.status().message());
  if (std::exchange(no_list_, no_list) != no_list && !here.ok()) {
    warn_(absl::StrCat("store.importContainerd: ", no_list,
                       "; it is looked for again, and store.containerdContent says where"));
  }
  if (!here.ok()) return false;
  bool soon = false;
  for (const Digest& digest : *here) {
    if (stopping_) return false;
    soon = Take(digest) || soon;
  }
  return soon;
}

bool ContentImport::Take(const Digest& digest) {
  const absl::StatusOr<index::ImportedAs> imported = store_.Import(digest, stopping_);
  const auto count = [this](ImportResult result) {
    counters_.content_imports[static_cast<size_t>(result)].Add();
  };
  if (imported.ok()) {
    const bool is_in_place = *imported == index::ImportedAs::kInPlace;
    count(is_in_place ? ImportResult::kInPlace : ImportResult::kReflinked);
    spdlog::info("blob {} is containerd's, and {}", digest.ToString(),
                 is_in_place ? "is read where it lies" : "shares its room on disk");
    return false;
  }
  const absl::Status& status = imported.status();
  // It is here, it went, or it is looked at again; or there is nothing to say of it.
  if (absl::IsAlreadyExists(status) || absl::IsNotFound(status) || absl::IsCancelled(status) ||
      absl::IsInvalidArgument(status))
    return false;
  const std::string text(status.message());
  if (absl::IsUnavailable(status)) {
    spdlog::debug("not taken in yet: {}", text);
    return true;
  }
  if (told_.contains(text)) return false;
  count(absl::IsDataLoss(status) ? ImportResult::kWrong : ImportResult::kFailed);
  TellOnce(text);
  return false;
}

void ContentImport::TellOnce(const std::string& text) {
  if (told_.size() >= kToldMax) told_.clear();
  told_.insert(text);
  warn_(absl::StrCat("containerd's content is not taken in: ", text));
}

}  // namespace sluice
