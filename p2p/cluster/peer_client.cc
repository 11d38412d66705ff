#include "p2p/cluster/peer_client.h"

#include <algorithm>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/cluster/member_codec.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kErrorBytesMax = 64 << 10;
constexpr size_t kPresentRangesMax = 64;

absl::Status StatusOf(const HttpHead& head, const std::string& node_id) {
  const std::optional<std::string_view> node = head.headers.Get("Sluice-Node");
  if (node && *node == node_id) return absl::PermissionDeniedError("it is this node itself");
  // Whatever else listens there must not be taken for a member that lacks the blob.
  if (!node)
    return absl::UnavailableError(absl::StrCat("status ", head.status, " from what is no Sluice node"));
  if (head.status == 200 || head.status == 206) return absl::OkStatus();
  if (head.status == 404) return absl::NotFoundError("it does not have that");
  return absl::UnavailableError(absl::StrCat("status ", head.status));
}

// A home that refuses lives, and says what to do.
absl::Status OfHome(const HttpHead& head, absl::Status status) {
  if (!absl::IsUnavailable(status) || !head.headers.Get("Sluice-Node")) return status;
  if (head.status == 403) return absl::FailedPreconditionError("it says to ask the registry oneself");
  if (head.status == 429 || head.status == 503)
    return absl::AbortedError(absl::StrCat("it is busy: status ", head.status));
  return status;
}

// Errors of this node's own making have codes that mean something else of a member.
absl::Status OfTransport(absl::Status status) {
  if (!absl::IsPermissionDenied(status) && !absl::IsInvalidArgument(status)) return status;
  return absl::UnavailableError(status.message());
}

bool IsUnderAnotherRoot(const HttpHead& head, const std::optional<Digest>& root) {
  const std::optional<std::string_view> verified = head.headers.Get("Sluice-Verified");
  return verified && root && *verified != root->ToString();
}

// What a Sluice-Present header names, as far as it is well-formed and within `asked`.
std::vector<ByteRange> PresentRanges(const HttpHead& head, ByteRange asked) {
  std::vector<ByteRange> ranges;
  std::string_view text = head.headers.Get("Sluice-Present").value_or("");
  constexpr std::string_view kUnit = "bytes=";
  if (!text.starts_with(kUnit)) return ranges;
  for (const absl::string_view part : absl::StrSplit(Abs(text.substr(kUnit.size())), ',')) {
    const size_t dash = part.find('-');
    if (dash == absl::string_view::npos || ranges.size() == kPresentRangesMax) break;
    const std::optional<uint64_t> first = ParseNumber(Std(part.substr(0, dash)));
    const std::optional<uint64_t> last = ParseNumber(Std(part.substr(dash + 1)));
    const uint64_t after = ranges.empty() ? asked.offset : ranges.back().end();
    if (!first || !last || *first < after || *last < *first || *last >= asked.end()) break;
    ranges.push_back({*first, *last - *first + 1});
  }
  return ranges;
}

// Holds a member's answer against what it was asked.
class RangeSink final : public HttpSink {
 public:
  RangeSink(Telemetry& telemetry, std::string node_id, const BlobSpec& blob, ByteRange range,
            PeerClient::OnData on_data, PeerClient::OnRange on_done)
      : telemetry_(telemetry),
        node_id_(std::move(node_id)),
        blob_size_(blob.size),
        root_(blob.root),
        range_(range),
        on_data_(std::move(on_data)),
        on_done_(std::move(on_done)) {}

  absl::Status OnHead(const HttpHead& head) override {
    outcome_.status = StatusOf(head, node_id_);
    if (absl::IsNotFound(outcome_.status)) outcome_.present = PresentRanges(head, range_);
    if (outcome_.status.ok() && IsUnderAnotherRoot(head, root_))
      return outcome_.status = absl::NotFoundError("it has that under another root");
    if (!outcome_.status.ok()) return absl::OkStatus();  // its body is read, so that the connection is kept
    answered_ = true;
    const std::string_view encoding = head.headers.Get("Content-Encoding").value_or("identity");
    const std::optional<ContentRange> got = ParseContentRange(head.headers.Get("Content-Range").value_or(""));
    const std::optional<std::string_view> length = head.headers.Get("Content-Length");
    if (head.status != 206 || !absl::EqualsIgnoreCase(Abs(encoding), "identity") || !got ||
        got->range != range_ || got->total != blob_size_ ||
        (length && ParseNumber(*length) != range_.length)) {
      return absl::DataLossError("its answer is not the range that was asked for");
    }
    return absl::OkStatus();
  }

  absl::Status OnBody(std::span<const std::byte> bytes) override {
    if (!answered_) return absl::OkStatus();
    if (bytes.size() > range_.length - received_)
      return absl::DataLossError("it sent more than it was asked for");
    received_ += bytes.size();
    telemetry_.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)].Add(bytes.size());
    on_data_(bytes);
    return absl::OkStatus();
  }

  void OnDone(absl::Status status) override {
    if (answered_ || outcome_.status.ok()) {
      if (status.ok() && received_ < range_.length) status = absl::UnavailableError("its answer ended early");
      outcome_.status = absl::IsResourceExhausted(status) ? absl::UnavailableError(status.message())
                                                          : OfTransport(std::move(status));
    }
    std::move(on_done_)(std::move(outcome_));
  }

 private:
  Telemetry& telemetry_;
  const std::string node_id_;
  const uint64_t blob_size_;
  const std::optional<Digest> root_;
  const ByteRange range_;
  PeerClient::OnData on_data_;
  PeerClient::OnRange on_done_;
  PeerClient::RangeOutcome outcome_;
  bool answered_ = false;  // with bytes of the blob
  uint64_t received_ = 0;
};

class WholeSink final : public HttpSink {
 public:
  WholeSink(std::string node_id, uint64_t bytes_max, PeerClient::OnAnswer on_answer)
      : node_id_(std::move(node_id)), bytes_max_(bytes_max), on_answer_(std::move(on_answer)) {}

  absl::Status OnHead(const HttpHead& head) override {
    verdict_ = OfHome(head, StatusOf(head, node_id_));
    if (verdict_.ok() && head.status != 200)
      verdict_ = absl::DataLossError("a part where the whole was asked for");
    const std::string_view type = head.headers.Get("Content-Type").value_or("");
    answer_.media_type = std::string(type.substr(0, type.find(';')));
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    if (!verdict_.ok()) return absl::OkStatus();
    if (bytes.size() > bytes_max_ - answer_.body.size()) {
      return verdict_ = absl::ResourceExhaustedError(
                 absl::StrCat("its answer exceeds the limit of ", bytes_max_, " bytes"));
    }
    answer_.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    status = verdict_.ok() ? OfTransport(std::move(status)) : std::move(verdict_);
    if (!status.ok()) return std::move(on_answer_)(std::move(status));
    std::move(on_answer_)(std::move(answer_));
  }

 private:
  const std::string node_id_;
  const uint64_t bytes_max_;
  PeerClient::OnAnswer on_answer_;
  absl::Status verdict_;
  PeerClient::Answer answer_;
};

}  // namespace

std::string RegistryPathOf(const BlobOrigin& origin, std::string_view kind, const Digest& digest) {
  return RegistryPathOf(origin, kind, digest.ToString());
}

std::string RegistryPathOf(const BlobOrigin& origin, std::string_view kind, const std::string& reference) {
  // A registry is host[:port]: all that needs an escape in a query is what an IPv6 literal has.
  std::string registry;
  for (const char c : origin.registry)
    absl::StrAppend(&registry, c == '[' ? "%5B" : c == ']' ? "%5D" : std::string(1, c));
  return absl::StrCat("/v2/", origin.repository, "/", Abs(kind), "/", reference, "?ns=", registry);
}

PeerClient::PeerClient(Telemetry& telemetry, PeerClientOptions options)
    : telemetry_(telemetry),
      options_(std::move(options)),
      http_({.ca_file = {},
             .user_agent = options_.user_agent,
             .connect_timeout = options_.connect_timeout,
             // Half of it for one blob.
             .requests_per_host_max = 2 * options_.requests_per_member_max}) {}

PeerClient::~PeerClient() = default;

void PeerClient::Stop() {
  http_.Stop();
}

HttpRequest PeerClient::Request(const Member& member, const std::string& path_and_query, Duration timeout,
                                Role role) const {
  HttpRequest request;
  request.url = absl::StrCat("http://", member.address.ToString(), path_and_query);
  request.headers.Add("Sluice-Role", role == Role::kHome ? "home" : "present-only");
  request.headers.Add("Sluice-Deadline-Ms",
                      absl::StrCat(std::chrono::ceil<std::chrono::milliseconds>(timeout).count()));
  request.loopback = LoopbackRule::kAllow;  // members are named by whoever runs the node
  request.proxy = ProxyRule::kNone;
  request.timeout = timeout;
  request.silence_max = options_.silence_max;
  // A home may have to wait for the registry, whose own rate is looked at there.
  if (role == Role::kPresentOnly) request.rate_min_bytes_per_s = options_.rate_min_bytes_per_s;
  request.rate_window = options_.rate_window;
  return request;
}

PeerClient::RequestId PeerClient::ReadRange(const Member& member, const BlobOrigin& origin,
                                            const BlobSpec& blob, ByteRange range, FetchClass fetch_class,
                                            Instant deadline, OnData on_data, OnRange on_done) {
  const Duration timeout = deadline - std::chrono::steady_clock::now();
  HttpRequest request = Request(member, RegistryPathOf(origin, "blobs", blob.digest),
                                std::max(timeout, Duration(1)), Role::kPresentOnly);
  request.headers.Add("Range", absl::StrCat("bytes=", range.offset, "-", range.end() - 1));
  request.headers.Add("Sluice-Class", fetch_class == FetchClass::kDemand ? "demand" : "fill");
  request.fetch_class = fetch_class;
  request.body_bytes_max = std::max(range.length, kErrorBytesMax);
  return http_.Send(std::move(request), std::make_unique<RangeSink>(telemetry_, options_.node_id, blob, range,
                                                                    std::move(on_data), std::move(on_done)));
}

void PeerClient::Ask(const Member& member, const Question& question, OnAnswer on_answer) {
  HttpRequest request = Request(member, question.path_and_query, question.timeout, question.role);
  if (!question.own_row.empty()) request.headers.Add(kMemberHeader, question.own_row);
  // What says that there is nothing may be longer than what was asked for.
  request.body_bytes_max = std::max(question.bytes_max, kErrorBytesMax);
  http_.Send(std::move(request),
             std::make_unique<WholeSink>(options_.node_id, question.bytes_max, std::move(on_answer)));
}

absl::StatusOr<PeerClient::Answer> PeerClient::Get(const Member& member, const std::string& path_and_query,
                                                   uint64_t bytes_max, Duration timeout) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<Answer>>>();
  std::future<absl::StatusOr<Answer>> answer = promise->get_future();
  Ask(member, {path_and_query, bytes_max, timeout},
      [promise](absl::StatusOr<Answer> got) { promise->set_value(std::move(got)); });
  return answer.get();
}

}  // namespace sluice::p2p
