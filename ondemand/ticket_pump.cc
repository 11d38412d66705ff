#include "ondemand/ticket_pump.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <string_view>
#include <utility>

#include "ondemand/keeper/clock.h"

namespace sluice::ondemand {
namespace {

constexpr int kWaitMs = 500;

// The keeper fills in names of 64 hex digits only; a name that is none yields the key that names no blob,
// and so a read that fails.
BlobKey KeyOf(const keeper::BlobRecord& record) {
  const absl::StatusOr<BlobKey> key =
      BlobKey::ParseFileName(std::string_view(record.name, keeper::kBlobNameLength));
  return key.ok() ? *key : BlobKey();
}

}  // namespace

TicketPump::TicketPump(std::shared_ptr<keeper::Journal> journal, int completion_fd, OnTicket on_ticket,
                       Deliver deliver)
    : journal_(std::move(journal)),
      completions_(std::make_shared<const keeper::Descriptor>(fcntl(completion_fd, F_DUPFD_CLOEXEC, 0))),
      on_ticket_(std::move(on_ticket)),
      deliver_(std::make_shared<const Deliver>(std::move(deliver))),
      thread_([this] { Run(); }) {}

void TicketPump::Stop() {
  stopping_.store(true);
  if (thread_.joinable()) thread_.join();
}

void TicketPump::Run() {
  TakeAll();
  while (!stopping_.load()) {
    const uint32_t seen = journal_->layout().submissions.load(std::memory_order_acquire);
    TakeSubmitted();
    journal_->WaitForSubmission(seen, kWaitMs);
  }
}

void TicketPump::TakeSubmitted() {
  keeper::TakeBits(journal_->layout().submitted, [this](uint32_t index) { TakeSlot(index); });
}

void TicketPump::TakeAll() {
  for (uint32_t i = 0; i < journal_->slots().size(); ++i) TakeSlot(i);
}

void TicketPump::TakeSlot(uint32_t index) {
  if (stopping_.load() || index >= journal_->slots().size()) return;
  keeper::Slot& slot = journal_->slots()[index];
  const uint64_t number = slot.Take();
  if (number == 0) return;
  const keeper::SlotRead read = slot.read;
  auto finish = [journal = journal_, completions = completions_, index, number,
                 entry = read.blob](absl::Status status) {
    // The node stops. The keeper takes the read back when we are gone, for the next daemon.
    if (absl::IsCancelled(status)) return;
    const bool in_time = journal->slots()[index].Finish(number, status.ok() ? 0 : EIO);
    // An error has been counted here: this one nowhere.
    if (!in_time && status.ok()) keeper::CountFailed(journal->layout(), entry, keeper::Refusal::kNoAnswer);
    journal->MarkFinished(index);
    const uint64_t one = 1;
    // Fails only when the counter is about to overflow: then the keeper is awake.
    [[maybe_unused]] const ssize_t written = write(completions->get(), &one, sizeof(one));
  };
  auto answer = [read, finish, journal = journal_, deliver = deliver_](absl::Status status) {
    if (!status.ok() || !*deliver) return finish(std::move(status));
    (*deliver)(read, [finish, journal, entry = read.blob](absl::Status delivered) mutable {
      if (!delivered.ok() && !absl::IsCancelled(delivered))
        keeper::CountFailed(journal->layout(), entry, keeper::Refusal::kNotCopied);
      finish(std::move(delivered));
    });
  };
  const Instant deadline{std::chrono::nanoseconds(keeper::OwnTimeNs(read.deadline_ns))};
  const BlobKey key = KeyOf(journal_->layout().blobs[read.blob % keeper::kBlobsMax]);
  on_ticket_(ReadTicket(key, {read.offset, read.length}, deadline, std::move(answer)));
}

}  // namespace sluice::ondemand
