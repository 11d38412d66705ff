#include "p2p/registry/retry_policy.h"

#include <curl/curl.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice::p2p {

bool MayPass(int status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

Duration Backoff::Delay(uint32_t failures) {
  Duration ceiling = first_;
  for (uint32_t i = 1; i < failures && ceiling < max_; ++i) ceiling *= 2;
  ceiling = std::min(ceiling, max_);
  const std::lock_guard lock(mutex_);
  return Duration(std::uniform_int_distribution<int64_t>(0, ceiling.count())(random_));
}

std::optional<Duration> ParseRetryAfter(std::string_view value, std::time_t now) {
  uint32_t seconds = 0;
  if (absl::SimpleAtoi(Abs(value), &seconds)) return std::chrono::seconds(seconds);
  const std::time_t date = curl_getdate(std::string(value).c_str(), nullptr);
  if (date < 0) return std::nullopt;
  return std::chrono::seconds(std::max<std::time_t>(0, date - now));
}

absl::Status CircuitBreaker::Admit(const std::string& host) {
  const std::lock_guard lock(mutex_);
  const auto it = hosts_.find(host);
  if (it == hosts_.end() || it->second.failures < failures_max_) return absl::OkStatus();
  const Instant now = clock_.Now();
  if (now < it->second.closed_until) {
    return absl::UnavailableError(absl::StrCat(host, " failed ", it->second.failures,
                                               " times in a row; it is left alone for a moment"));
  }
  // This request is the probe; the others wait for what it finds.
  it->second.closed_until = now + open_time_;
  return absl::OkStatus();
}

void CircuitBreaker::Succeeded(const std::string& host) {
  const std::lock_guard lock(mutex_);
  Host* state = Watch(host);
  if (state == nullptr) return;
  state->failures = 0;
  state->answered = clock_.Now();
}

void CircuitBreaker::Failed(const std::string& host, Instant sent) {
  const std::lock_guard lock(mutex_);
  Host* state = Watch(host);
  if (state == nullptr || state->answered > sent) return;
  if (++state->failures >= failures_max_) state->closed_until = clock_.Now() + open_time_;
}

void Patience::Asked(const std::string& registry, Duration length) {
  const std::lock_guard lock(mutex_);
  const Instant now = clock_.Now();
  if (until_.size() >= kRegistriesMax)
    absl::erase_if(until_, [&](const auto& entry) { return entry.second <= now; });
  if (until_.size() >= kRegistriesMax && !until_.contains(registry)) return;
  Instant& until = until_[registry];
  until = std::max(until, now + length);
}

bool Patience::IsAskedBy(const std::string& registry) const {
  const std::lock_guard lock(mutex_);
  const auto found = until_.find(registry);
  return found != until_.end() && clock_.Now() < found->second;
}

CircuitBreaker::Host* CircuitBreaker::Watch(const std::string& host) {
  if (hosts_.size() >= kHostsMax && !hosts_.contains(host)) {
    absl::erase_if(hosts_, [](const auto& entry) { return entry.second.failures == 0; });
    if (hosts_.size() >= kHostsMax) return nullptr;
  }
  return &hosts_[host];
}

}  // namespace sluice::p2p
