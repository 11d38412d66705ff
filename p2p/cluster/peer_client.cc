#include "p2p/cluster/peer_client.h"

#include <algorithm>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "node/blob_claim.h"
#include "p2p/cluster/member_codec.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kErrorBytesMax = 64 << 10;
constexpr char kTakesCredentials[] = "sluice/takes-credentials";  // a payload of Unauthenticated
constexpr char kBusy[] = "sluice/busy";  // of ResourceExhausted: the texts of when, a line break, whom else

// Who is not proven gives what is public, and what it says of that counts for nothing.
OriginAccess AccessIn(const HttpHead& head, PeerTrust trust) {
  if (trust == PeerTrust::kUnproven || head.headers.Get("Sluice-Public") == "1")
    return OriginAccess::kHearsay;
  return OriginAccess::kUnknown;
}
// What does not say since when is no news.
Duration PublicAgeIn(const HttpHead& head, PeerTrust trust) {
  if (trust == PeerTrust::kUnproven) return Duration();
  const std::optional<uint64_t> seconds = ParseNumber(head.headers.Get("Sluice-Public-Age").value_or(""));
  constexpr uint64_t kMost = AccessLedger::kLongAgo / std::chrono::seconds(1);
  return std::chrono::seconds(std::min(seconds.value_or(kMost), kMost));
}
bool SaysPrivate(const HttpHead& head, PeerTrust trust) {
  return trust == PeerTrust::kProven && head.headers.Get("Sluice-Public") == "0";
}

absl::Status StatusOf(const HttpHead& head, const std::string& node_id) {
  const std::optional<std::string_view> node = head.headers.Get("Sluice-Node");
  if (node && *node == node_id) return absl::PermissionDeniedError("it is this node itself");
  // Whatever else listens there must not be taken for a member that lacks the blob.
  if (!node)
    return absl::UnavailableError(absl::StrCat("status ", head.status, " from what is no Sluice node"));
  if (head.status == 200 || head.status == 204 || head.status == 206) return absl::OkStatus();
  if (head.status == 404) return absl::NotFoundError("it does not have that");
  if (head.status == 403) return absl::UnauthenticatedError("it says that each node has to ask for itself");
  if (head.status == 409)
    return absl::FailedPreconditionError("it says that what is believed of the blob is wrong");
  if (head.status == 503 || head.status == 429)
    return absl::ResourceExhaustedError(absl::StrCat("it is busy: status ", head.status));
  return absl::UnavailableError(absl::StrCat("status ", head.status));
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

bool AsksForPatience(const HttpHeaders& headers) {
  return headers.Get("Sluice-Origin") == "throttled";
}

// At most so many names by commas, and none that is too long for a member's.
std::vector<std::string> NamesIn(std::string_view text, size_t count_max) {
  std::vector<std::string> names;
  for (absl::string_view part : absl::StrSplit(Abs(text), ',', absl::SkipEmpty())) {
    if (names.size() == count_max) break;
    part = absl::StripAsciiWhitespace(part);
    if (part.size() <= MemberRow::kNameBytesMax) names.emplace_back(part);
  }
  return names;
}

PeerClient::Busy ParseBusy(std::string_view retry_text, std::string_view helpers) {
  const std::optional<uint64_t> retry_ms = ParseNumber(retry_text);
  const uint64_t longest_ms = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(PeerClient::kRetryAfterMax).count());
  return {std::chrono::milliseconds(std::min(retry_ms.value_or(longest_ms / 20), longest_ms)),
          NamesIn(helpers, PeerClient::kHelpersMax)};
}

PeerClient::Busy BusyIn(const HttpHeaders& headers) {
  return ParseBusy(headers.Get("Sluice-Retry-Ms").value_or(""), headers.Get("Sluice-Helpers").value_or(""));
}

// Of one whose name is not known yet, and by who has no zone, nothing is known.
bool CrossesZones(const Member& member, const PeerClientOptions& options) {
  return member.zone && !options.zone.empty() && *member.zone != options.zone;
}

// Holds a member's answer against what it was asked.
class ChunkAnswer final : public HttpSink {
 public:
  ChunkAnswer(Telemetry& telemetry, const PeerClientOptions& options, const Member& member,
              const PeerClient::ChunkQuestion& question, PeerClient::OnData on_data,
              PeerClient::OnSign on_sign, PeerClient::OnChunkDone on_done)
      : telemetry_(telemetry),
        crosses_zones_(CrossesZones(member, options)),
        node_id_(options.node_id),
        trust_(options.trust),
        on_access_(question.on_access),
        blob_size_(question.blob->size),
        root_(question.blob->root),
        range_(question.range),
        vouch_(question.vouch),
        on_data_(std::move(on_data)),
        on_sign_(std::move(on_sign)),
        on_done_(std::move(on_done)) {}

  void OnInterim(const HttpHead& head) override { on_sign_(AsksForPatience(head.headers)); }

  absl::Status OnHead(const HttpHead& head) override {
    outcome_.status = StatusOf(head, node_id_);
    outcome_.patience = AsksForPatience(head.headers);
    if (absl::IsResourceExhausted(outcome_.status)) {
      PeerClient::Busy busy = BusyIn(head.headers);
      outcome_.retry_after = busy.retry_after;
      outcome_.helpers = std::move(busy.helpers);
    }
    outcome_.takes_credentials = absl::IsUnauthenticated(outcome_.status) && SaysPrivate(head, trust_);
    if (outcome_.status.ok() && IsUnderAnotherRoot(head, root_))
      return outcome_.status = absl::NotFoundError("it has that under another root");
    if (!outcome_.status.ok()) return absl::OkStatus();  // its body is read, so that the connection is kept
    answered_ = true;
    NoteVouch(head);
    const std::string_view encoding = head.headers.Get("Content-Encoding").value_or("identity");
    const std::optional<ContentRange> got = ParseContentRange(head.headers.Get("Content-Range").value_or(""));
    const std::optional<std::string_view> length = head.headers.Get("Content-Length");
    if (head.status != 206 || !absl::EqualsIgnoreCase(Abs(encoding), "identity") || !got ||
        got->range != range_ || got->total != blob_size_ ||
        (length && ParseNumber(*length) != range_.length)) {
      return absl::DataLossError("its answer is not the range that was asked for");
    }
    if (on_access_) on_access_(AccessIn(head, trust_));
    return absl::OkStatus();
  }

  absl::Status OnBody(std::span<const std::byte> bytes) override {
    if (!answered_) return absl::OkStatus();
    if (bytes.size() > range_.length - received_)
      return absl::DataLossError("it sent more than it was asked for");
    received_ += bytes.size();
    telemetry_.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)].Add(bytes.size());
    if (crosses_zones_) telemetry_.cross_zone_bytes.Add(bytes.size());
    on_data_(bytes);
    return absl::OkStatus();
  }

  void OnDone(absl::Status status) override {
    if (answered_ || outcome_.status.ok()) {
      if (status.ok() && received_ < range_.length) status = absl::UnavailableError("its answer ended early");
      // The client's own queue is full.
      outcome_.status = absl::IsResourceExhausted(status) ? absl::UnavailableError(status.message())
                                                          : OfTransport(std::move(status));
    }
    std::move(on_done_)(std::move(outcome_));
  }

 private:
  void NoteVouch(const HttpHead& head) {
    if (!vouch_) return;
    const HttpHeaders& headers = head.headers;
    vouch_->public_age = PublicAgeIn(head, trust_);
    vouch_->verified = headers.Get("Sluice-Verified").has_value();
    vouch_->passed_on = NamesIn(headers.Get("Sluice-Passed-On").value_or(""), PeerClient::kPassedOnMax);
    vouch_->coming = headers.Get("Sluice-Coming").has_value();
  }

  Telemetry& telemetry_;
  const bool crosses_zones_;
  const std::string node_id_;
  const PeerTrust trust_;
  const std::function<void(OriginAccess)> on_access_;
  const uint64_t blob_size_;
  const std::optional<Digest> root_;
  const ByteRange range_;
  const std::shared_ptr<PeerClient::ChunkQuestion::Vouch> vouch_;
  PeerClient::OnData on_data_;
  PeerClient::OnSign on_sign_;
  PeerClient::OnChunkDone on_done_;
  PeerClient::ChunkOutcome outcome_;
  bool answered_ = false;  // with bytes of the blob
  uint64_t received_ = 0;
};

class WholeSink final : public HttpSink {
 public:
  // `crossed`: of what crosses zones; null: it does not.
  WholeSink(const PeerClientOptions& options, uint64_t bytes_max, Counter* crossed,
            std::function<void()> on_sign, PeerClient::OnAnswer on_answer)
      : node_id_(options.node_id),
        crossed_(crossed),
        trust_(options.trust),
        bytes_max_(bytes_max),
        on_sign_(std::move(on_sign)),
        on_answer_(std::move(on_answer)) {}

  void OnInterim(const HttpHead&) override {
    if (on_sign_) on_sign_();
  }
  absl::Status OnHead(const HttpHead& head) override {
    if (on_sign_) on_sign_();
    verdict_ = StatusOf(head, node_id_);
    if (absl::IsUnauthenticated(verdict_) && SaysPrivate(head, trust_))
      verdict_.SetPayload(kTakesCredentials, absl::Cord());
    // One that says no time has trouble of its own: too many of whatever, or a registry that does not answer.
    if (absl::IsResourceExhausted(verdict_) && head.headers.Get("Sluice-Retry-Ms"))
      verdict_.SetPayload(kBusy,
                          absl::Cord(absl::StrCat(Abs(head.headers.Get("Sluice-Retry-Ms").value_or("")), "\n",
                                                  Abs(head.headers.Get("Sluice-Helpers").value_or("")))));
    answer_.access = AccessIn(head, trust_);
    answer_.public_age = PublicAgeIn(head, trust_);
    if (verdict_.ok() && head.status == 206)
      verdict_ = absl::DataLossError("a part where the whole was asked for");
    const std::string_view type = head.headers.Get("Content-Type").value_or("");
    answer_.media_type = std::string(type.substr(0, type.find(';')));
    answer_.proven_names = head.proven_names;
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    if (crossed_) crossed_->Add(bytes.size());
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
  Counter* const crossed_;
  const PeerTrust trust_;
  const uint64_t bytes_max_;
  const std::function<void()> on_sign_;
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
             .requests_per_host_max = 2 * options_.requests_per_member_max,
             .connections_idle_max = options_.identity ? options_.kept_by_tls_max : options_.kept_max,
             .telemetry = &telemetry}) {}

PeerClient::~PeerClient() = default;

void PeerClient::Stop() {
  http_.Stop();
}

HttpRequest PeerClient::Request(const Member& member, const std::string& path_and_query, PeerRole role,
                                Duration timeout) const {
  HttpRequest request;
  request.url = absl::StrCat("http://", member.address.ToString(), path_and_query);
  if (options_.identity) {
    const std::string address = member.address.ToString();
    // Who is called as its address has said nothing yet.
    request.peer = {options_.identity->Get(), address, member.name == address ? std::string() : member.name};
    request.url = absl::StrCat("https://", request.peer->identity->peer_name(), path_and_query);
  }
  request.headers.Add("Sluice-Role", role == PeerRole::kHome       ? "home"
                                     : role == PeerRole::kZoneHome ? "zone-home"
                                                                   : "present-only");
  request.headers.Add("Sluice-Deadline-Ms",
                      absl::StrCat(std::chrono::ceil<std::chrono::milliseconds>(timeout).count()));
  request.loopback = LoopbackRule::kAllow;  // members are named by whoever runs the node
  request.proxy = ProxyRule::kNone;
  request.timeout = timeout;
  request.silence_max = options_.silence_max;
  request.dial_silence_max = std::min(options_.dial_silence_max, options_.silence_max);
  request.rate_min_bytes_per_s = options_.rate_min_bytes_per_s;
  request.rate_window = options_.rate_window;
  request.rate_from_head = true;
  return request;
}

void PeerClient::AddToken(const std::string& token, HttpRequest& request) const {
  if (options_.trust == PeerTrust::kProven && IsPeerToken(token)) request.headers.Add("Sluice-Token", token);
}

bool PeerClient::TakesCredentials(const absl::Status& status) {
  return status.GetPayload(kTakesCredentials).has_value();
}

std::optional<PeerClient::Busy> PeerClient::BusyOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kBusy);
  if (!payload) return std::nullopt;
  const std::string text(*payload);
  const size_t retry_end = text.find('\n');
  return ParseBusy(std::string_view(text).substr(0, retry_end), std::string_view(text).substr(retry_end + 1));
}

PeerClient::RequestId PeerClient::ReadChunk(const Member& member, const ChunkQuestion& question,
                                            OnData on_data, OnSign on_sign, OnChunkDone on_done) {
  const Duration timeout = question.deadline - std::chrono::steady_clock::now();
  HttpRequest request = Request(member, RegistryPathOf(*question.origin, "blobs", question.blob->digest),
                                question.role, std::max(timeout, Duration(1)));
  request.headers.Add("Range", absl::StrCat("bytes=", question.range.offset, "-", question.range.end() - 1));
  request.headers.Add("Sluice-Class", question.fetch_class == FetchClass::kDemand ? "demand" : "fill");
  if (question.fetch_class == FetchClass::kReadahead) request.headers.Add("Sluice-Ahead", "1");
  request.headers.Add("Sluice-Blob", FormatBlobClaim(*question.blob, *question.origin, question.access));
  if (!options_.name.empty()) request.headers.Add("Sluice-From", options_.name);
  if (!question.tried.empty()) request.headers.Add("Sluice-Tried", question.tried);
  if (question.is_sent_on) request.headers.Add("Sluice-Sent-On", "1");
  AddToken(question.token, request);
  if (question.role == PeerRole::kPresentOnly)
    request.first_silence_max = std::min(options_.present_silence_max, options_.silence_max);
  if (question.quiet_max > Duration(0) && !options_.identity)
    request.first_silence_max = std::min(request.first_silence_max, question.quiet_max);
  request.is_brief = true;
  request.fetch_class = question.fetch_class;
  request.body_bytes_max = std::max(question.range.length, kErrorBytesMax);
  return http_.Send(std::move(request),
                    std::make_unique<ChunkAnswer>(telemetry_, options_, member, question, std::move(on_data),
                                                  std::move(on_sign), std::move(on_done)));
}

void PeerClient::Ask(const Member& member, const Question& question, OnAnswer on_answer) {
  HttpRequest request = Request(member, question.path_and_query, question.role, question.timeout);
  if (!question.own_row.empty()) request.headers.Add(kMemberHeader, question.own_row);
  if (question.is_spread && !options_.name.empty()) request.headers.Add("Sluice-From", options_.name);
  if (!question.tried.empty()) request.headers.Add("Sluice-Tried", question.tried);
  AddToken(question.token, request);
  request.fetch_class = question.fetch_class;
  if (!question.body.empty()) {
    request.method = "POST";
    request.headers.Add("Content-Type", "application/json");
    request.body = HttpBody::FromString(question.body);
  }
  // What says that there is nothing may be longer than what was asked for.
  request.body_bytes_max = std::max(question.bytes_max, kErrorBytesMax);
  http_.Send(std::move(request), std::make_unique<WholeSink>(
                                     options_, question.bytes_max,
                                     CrossesZones(member, options_) ? &telemetry_.cross_zone_bytes : nullptr,
                                     question.on_sign, std::move(on_answer)));
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
