#include "node/cli/interrupt.h"

#include <signal.h>
#include <time.h>

#include <utility>

namespace sluice::cli {
namespace {

constexpr timespec kEndCheck = {.tv_sec = 0, .tv_nsec = 50'000'000};

sigset_t InterruptSignal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  return signals;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t signals = InterruptSignal();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Wait(); });
}

Interrupt::~Interrupt() {
  ending_ = true;
  thread_.join();
  const sigset_t signals = InterruptSignal();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

void Interrupt::Call(std::function<void()> on_interrupt) {
  std::lock_guard lock(mutex_);
  on_interrupt_ = std::move(on_interrupt);
  if (on_interrupt_ && received_) on_interrupt_();
}

void Interrupt::Wait() {
  const sigset_t signals = InterruptSignal();
  while (!ending_) {
    if (sigtimedwait(&signals, nullptr, &kEndCheck) != SIGINT) continue;
    std::lock_guard lock(mutex_);
    if (!received_.exchange(true) && on_interrupt_) on_interrupt_();
  }
}

}  // namespace sluice::cli
