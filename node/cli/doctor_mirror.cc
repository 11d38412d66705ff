#include "node/cli/doctor_mirror.h"

#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/http/http_client.h"

namespace sluice::cli {
namespace {

constexpr Duration kPatience = std::chrono::seconds(3);
constexpr char kName[] = "container runtimes show the mirror their credentials";
constexpr std::string_view kSeries = "sluice_mirror_requests_total{result=\"";

class TextSink final : public p2p::HttpSink {
 public:
  explicit TextSink(std::promise<absl::StatusOr<std::string>>& text) : text_(text) {}
  absl::Status OnHead(const p2p::HttpHead& head) override {
    if (head.status == 200) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("status ", head.status));
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    body_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    text_.set_value(status.ok() ? absl::StatusOr<std::string>(std::move(body_)) : std::move(status));
  }

 private:
  std::promise<absl::StatusOr<std::string>>& text_;
  std::string body_;
};

absl::StatusOr<std::string> Get(const std::string& url) {
  p2p::HttpRequest request;
  request.url = url;
  request.loopback = p2p::LoopbackRule::kAllow;
  request.timeout = kPatience;
  std::promise<absl::StatusOr<std::string>> text;
  std::future<absl::StatusOr<std::string>> coming = text.get_future();
  p2p::HttpClient client(p2p::HttpClientOptions{});
  client.Send(std::move(request), std::make_unique<TextSink>(text));
  return coming.get();
}

// Where "host:port" is reached from here.
std::string HereOf(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  const std::string host = listen.substr(0, colon);
  const bool is_any = host.empty() || host == "0.0.0.0" || host == "[::]";
  return is_any ? absl::StrCat("127.0.0.1", listen.substr(colon)) : listen;
}

struct Counts {
  uint64_t all = 0;
  uint64_t without_credentials = 0;
};

Counts CountsIn(const std::string& metrics) {
  Counts counts;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(metrics, '\n'))) {
    if (!line.starts_with(kSeries)) continue;
    double value = 0;
    if (!absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) continue;
    counts.all += static_cast<uint64_t>(value);
    if (line.substr(kSeries.size()).starts_with("no_credentials\""))
      counts.without_credentials = static_cast<uint64_t>(value);
  }
  return counts;
}

}  // namespace

std::vector<Check> CheckMirror(const Config& config) {
  if (config.operations_listen.rfind(':') == std::string::npos) return {};
  const absl::StatusOr<std::string> metrics =
      Get(absl::StrCat("http://", HereOf(config.operations_listen), "/metrics"));
  if (!metrics.ok()) return {};
  const Counts counts = CountsIn(*metrics);
  if (counts.all == 0) return {};
  if (counts.without_credentials == 0) return {{kName, Check::Result::kHolds, {}, {}}};
  return {
      {kName, Check::Result::kFails,
       absl::StrCat(
           counts.without_credentials,
           " requests for what is private came without any, and were sent to the registry; the node's log "
           "names the repositories"),
       "a runtime that gets credentials by CRI shows them to a mirror only if they name no server address, "
       "or the "
       "mirror's: leave serverAddress out; or give them in the runtime's own configuration"}};
}

}  // namespace sluice::cli
