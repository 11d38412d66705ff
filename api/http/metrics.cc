#include "api/http/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/http/process_counts.h"

namespace sluice::api {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Families = std::vector<MetricFamily>;

constexpr std::string_view kEvictReasons[kEvictReasonCount] = {"requested", "watermark", "corrupt"};
constexpr std::string_view kOriginCodes[] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
constexpr std::string_view kLanes[] = {"express", "swarm"};
constexpr std::string_view kPeerRoles[] = {"home", "present-only", "zone-home"};
constexpr std::string_view kPeerAnswers[] = {"served", "absent", "busy", "refused"};
constexpr std::string_view kMirrorResults[] = {"served", "absent", "challenged", "no_credentials",
                                               "denied", "busy",   "malformed"};
constexpr std::string_view kPolicyResults[] = {"allowed", "denied", "timed_out", "failed"};
constexpr std::string_view kPushResults[] = {"hinted", "ignored", "refused", "unauthorized", "malformed"};
constexpr std::string_view kImportResults[] = {"reflinked", "in_place", "wrong", "failed"};
constexpr std::string_view kLongReadResults[] = {"paid", "in_vain"};
constexpr std::string_view kTakeoverReasons[] = {"silent", "stalled", "failed"};
constexpr std::string_view kHedgeResults[] = {"won", "lost", "failed"};
constexpr std::string_view kHintBytes[] = {"fetched", "used", "unread"};
constexpr std::string_view kReadaheadResults[] = {"fetched", "used", "unread"};
constexpr std::string_view kProfileResults[] = {"fetched", "used", "unread"};
constexpr std::string_view kBanReasons[] = {"verified", "unverified", "passed-on"};
constexpr std::string_view kMemberStates[] = {"alive", "not-asked", "silent", "unnamed"};
constexpr std::string_view kTlsSides[] = {"server", "client"};
constexpr std::string_view kTlsResults[] = {"ok", "refused", "failed"};
constexpr std::string_view kHintResults[] = {"completed", "cancelled", "failed", "expired"};

struct Label {
  std::string_view name;
  std::string_view value;
};

MetricFamily& AddFamily(Families& to, std::string_view name, std::string_view help, MetricType type) {
  MetricFamily& family = to.emplace_back();
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

ClientMetric& AddMetric(MetricFamily& family, std::initializer_list<Label> labels) {
  ClientMetric& metric = family.metric.emplace_back();
  for (const Label& label : labels) {
    metric.label.push_back({std::string(label.name), std::string(label.value)});
  }
  return metric;
}

void AddSample(MetricFamily& family, std::initializer_list<Label> labels, double value) {
  ClientMetric& metric = AddMetric(family, labels);
  if (family.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
}

void AddCounter(Families& to, std::string_view name, std::string_view help, const Counter& counter) {
  AddSample(AddFamily(to, name, help, MetricType::Counter), {}, static_cast<double>(counter.value()));
}

void AddGauge(Families& to, std::string_view name, std::string_view help, const Gauge& gauge) {
  AddSample(AddFamily(to, name, help, MetricType::Gauge), {}, static_cast<double>(gauge.value()));
}

template <size_t N>
void AddBySource(Families& to, std::string_view name, std::string_view help,
                 const std::array<Counter, N>& counters, uint64_t more_local = 0) {
  static_assert(N == kSourceKindCount);
  MetricFamily& family = AddFamily(to, name, help, MetricType::Counter);
  for (size_t i = 0; i < N; ++i) {
    const auto kind = static_cast<SourceKind>(i);
    const uint64_t more = kind == SourceKind::kLocal ? more_local : 0;
    AddSample(family, {{"source", SourceKindName(kind)}}, static_cast<double>(counters[i].value() + more));
  }
}

template <size_t N>
void AddByLabel(Families& to, std::string_view name, std::string_view help, std::string_view label,
                const std::string_view (&values)[N], const std::array<Counter, N>& counters) {
  MetricFamily& family = AddFamily(to, name, help, MetricType::Counter);
  for (size_t i = 0; i < N; ++i) {
    AddSample(family, {{label, values[i]}}, static_cast<double>(counters[i].value()));
  }
}

void AddHistogram(MetricFamily& family, std::initializer_list<Label> labels, const DurationHistogram& from) {
  auto& histogram = AddMetric(family, labels).histogram;
  uint64_t cumulated = 0;
  for (size_t i = 0; i <= DurationHistogram::kBounds.size(); ++i) {
    cumulated += from.count(i);
    const double bound = i < DurationHistogram::kBounds.size() ? DurationHistogram::kBounds[i]
                                                               : std::numeric_limits<double>::infinity();
    histogram.bucket.push_back({cumulated, bound});
  }
  histogram.sample_count = cumulated;
  histogram.sample_sum = from.sum_seconds();
}

// The keeper's hits are local reads that the daemon never sees.
void AddReads(Families& to, const Telemetry& t, const KeeperCounts& keeper) {
  AddBySource(to, "sluice_read_bytes_total",
              "Bytes given to readers, by where they came from; complete mounted blobs are read uncounted.",
              t.read_bytes, keeper.hit_bytes);
  AddBySource(to, "sluice_reads_total", "Reads answered, by the farthest place their bytes came from.",
              t.reads, keeper.hits);
  AddSample(AddFamily(to, "sluice_read_errors_total", "Reads that failed.", MetricType::Counter), {},
            static_cast<double>(t.read_errors.value() + keeper.failed));
  MetricFamily& duration = AddFamily(to, "sluice_read_duration_seconds",
                                     "Time from a read's arrival to its answer.", MetricType::Histogram);
  for (size_t i = 0; i < t.read_duration.size(); ++i) {
    AddHistogram(duration, {{"source", SourceKindName(static_cast<SourceKind>(i))}}, t.read_duration[i]);
  }
  AddGauge(to, "sluice_reads_waiting", "Reads that wait for bytes.", t.reads_waiting);
}

void AddSources(Families& to, const Telemetry& t) {
  AddCounter(to, "sluice_origin_bytes_total", "Bytes received from registries.", t.origin_bytes);
  AddCounter(to, "sluice_origin_blob_bytes_total", "Bytes of blobs received from registries.",
             t.origin_blob_bytes);
  AddCounter(to, "sluice_origin_plain_bytes_total",
             "Bytes of images' blobs that came out of what registries sent, which may be compressed.",
             t.origin_plain_bytes);
  AddByLabel(to, "sluice_origin_requests_total",
             "Requests to registries, by class of HTTP status; none is a request that got no answer.", "code",
             kOriginCodes, t.origin_requests);
  AddByLabel(to, "sluice_origin_long_reads_total",
             "Requests to registries for the rest of a blob, or of this node's part of it: those that enough "
             "went on with, and those in vain.",
             "result", kLongReadResults, t.origin_long_reads);
  AddBySource(to, "sluice_chunk_verify_failures_total",
              "Chunks that were not what their recipe promises, by where they came from.", t.verify_failures);
  AddCounter(to, "sluice_unverified_served_bytes_total",
             "Bytes given to readers of chunks that nothing had proven yet.", t.unverified_served_bytes);
  AddCounter(to, "sluice_blobs_refused_total", "Blobs whose digest did not hold.", t.blobs_refused);
  AddCounter(to, "sluice_refuted_claims_total",
             "Blobs of which a manifest tells a root that is not theirs, or a member gave wrong bytes.",
             t.refuted_claims);
}

void AddStore(Families& to, const Telemetry& t) {
  AddGauge(to, "sluice_cache_size_bytes", "Bytes that the store takes up.", t.cache_size_bytes);
  AddGauge(to, "sluice_cache_capacity_bytes", "The most that the store may take up.", t.cache_capacity_bytes);
  AddByLabel(to, "sluice_evicted_bytes_total", "Bytes taken out of the store.", "reason", kEvictReasons,
             t.evicted_bytes);
  AddCounter(to, "sluice_store_sync_failures_total", "Batches of chunks that could not be synced to disk.",
             t.sync_failures);
  AddCounter(to, "sluice_store_write_failures_total", "Chunks that could not be written to disk.",
             t.write_failures);
}

// What becomes of what fills bring is not followed: the keeper lets reads of it pass unseen.
void AddPrefetch(Families& to, const Telemetry& t) {
  AddByLabel(
      to, "sluice_hedges_total",
      "Fetches asked of a second source, because the first was late: which of them brought it, or that "
      "the second has not got it.",
      "result", kHedgeResults, t.hedges);
  AddCounter(to, "sluice_prefetch_bytes_total", "Bytes fetched before anyone had read them.",
             t.prefetch_bytes);
  AddByLabel(to, "sluice_prefetch_hints_total", "Prefetch hints, by how they ended.", "result", kHintResults,
             t.prefetch_hints);
  AddByLabel(to, "sluice_readahead_bytes_total",
             "Bytes read ahead of readers: those that came, those that a reader went past, and those that "
             "none did.",
             "result", kReadaheadResults, t.readahead_bytes);
  AddByLabel(to, "sluice_profile_bytes_total",
             "Bytes that earlier starts of an image have read, brought in ahead of a start: those that came, "
             "those that it read, and those that it did not while it was watched.",
             "result", kProfileResults, t.profile_bytes);
  AddCounter(to, "sluice_profile_replays_total",
             "Starts ahead of which it was brought in what earlier ones have read.", t.profile_replays);
  AddCounter(to, "sluice_profile_recordings_total", "Starts of which it was recorded what they read.",
             t.profile_recordings);
  AddCounter(to, "sluice_prefetch_used_bytes_total",
             "Prefetched bytes that were read later, of those read ahead of readers.",
             t.readahead_bytes[static_cast<size_t>(ReadaheadResult::kUsed)]);
}

void AddMirror(Families& to, const Telemetry& t) {
  AddByLabel(to, "sluice_mirror_requests_total", "Requests of container runtimes that the mirror answered.",
             "result", kMirrorResults, t.mirror_requests);
  AddCounter(to, "sluice_mirror_sent_bytes_total", "Bytes of blobs that the mirror sent.",
             t.mirror_sent_bytes);
}

void AddImages(Families& to, const ImageCounters& counters) {
  AddByLabel(to, "sluice_policy_decisions_total", "What verifier programs said of images.", "result",
             kPolicyResults, counters.policy_decisions);
  AddByLabel(to, "sluice_notifications_total", "What became of what registries told of images.", "result",
             kPushResults, counters.notifications);
  AddByLabel(
      to, "sluice_hint_bytes_total",
      "Bytes that hints brought in: those that came, those that a start of their image read, and those "
      "that it did not while it was watched, or that left the store before any.",
      "result", kHintBytes, counters.hint_bytes);
  AddByLabel(to, "sluice_content_imports_total",
             "Blobs of containerd's content store, by how they were taken in, or why not.", "result",
             kImportResults, counters.content_imports);
}

void AddPeers(Families& to, const Telemetry& t) {
  AddByLabel(to, "sluice_peer_received_bytes_total", "Bytes of blobs received from other nodes.", "lane",
             kLanes, t.peer_received_bytes);
  AddByLabel(to, "sluice_peer_sent_bytes_total", "Bytes of blobs sent to other nodes.", "lane", kLanes,
             t.peer_sent_bytes);
  AddCounter(to, "sluice_peer_passed_on_bytes_total",
             "Bytes of blobs sent to other nodes while they were still coming here.", t.passed_on_bytes);
  AddCounter(to, "sluice_cross_zone_bytes_total",
             "Bytes of blobs and of what belongs to them received from nodes of other zones.",
             t.cross_zone_bytes);
  MetricFamily& requests = AddFamily(to, "sluice_peer_requests_total",
                                     "Requests of other nodes that this one answered.", MetricType::Counter);
  for (size_t role = 0; role < std::size(kPeerRoles); ++role) {
    for (size_t i = 0; i < std::size(kPeerAnswers); ++i) {
      AddSample(requests, {{"role", kPeerRoles[role]}, {"result", kPeerAnswers[i]}},
                static_cast<double>(t.peer_answers[role][i].value()));
    }
  }
  AddByLabel(to, "sluice_peer_bans_total",
             "Members banned for wrong bytes: sent as verified, sent unverified, or passed on by another.",
             "reason", kBanReasons, t.peer_bans);
  AddByLabel(to, "sluice_takeovers_total",
             "Fetches asked of another, because who was asked is silent, has no byte yet, or has failed.",
             "reason", kTakeoverReasons, t.takeovers);
  AddCounter(
      to, "sluice_last_resort_bytes_total",
      "Bytes asked of the registry by this node though others should have been: see peers.lastResortRate.",
      t.last_resort_bytes);
  MetricFamily& members =
      AddFamily(to, "sluice_members", "Other nodes of the cluster that this one knows.", MetricType::Gauge);
  for (size_t i = 0; i < std::size(kMemberStates); ++i)
    AddSample(members, {{"state", kMemberStates[i]}}, static_cast<double>(t.members[i].value()));
  AddGauge(to, "sluice_cut_off",
           "1 while fewer than half of the other nodes that were asked of late answer, else 0.", t.cut_off);
  AddGauge(to, "sluice_swarm_peers", "Other nodes that the swarm is connected to.", t.swarm_peers);
  AddGauge(to, "sluice_swarm_torrents", "Blobs that the swarm takes in or gives to other nodes.",
           t.swarm_torrents);
  AddCounter(to, "sluice_swarm_bad_pieces_total",
             "Pieces received by the swarm that were not what their recipe promises.", t.swarm_bad_pieces);
  AddCounter(to, "sluice_swarm_banned_peers_total",
             "Times that another node was refused for some minutes because of what it sent to the swarm.",
             t.swarm_banned_peers);
}

void AddTls(Families& to, const Telemetry& t) {
  MetricFamily& handshakes =
      AddFamily(to, "sluice_tls_handshakes_total",
                "TLS handshakes with other nodes; refused is a certificate that was not "
                "accepted, failed all else.",
                MetricType::Counter);
  for (size_t side = 0; side < std::size(kTlsSides); ++side) {
    for (size_t i = 0; i < std::size(kTlsResults); ++i) {
      AddSample(handshakes, {{"side", kTlsSides[side]}, {"result", kTlsResults[i]}},
                static_cast<double>(t.tls_handshakes[side][i].value()));
    }
  }
  MetricFamily& reloads =
      AddFamily(to, "sluice_tls_reloads_total", "Times that the tls files had changed: taken, or not usable.",
                MetricType::Counter);
  AddSample(reloads, {{"result", "ok"}}, static_cast<double>(t.tls_reloads.value()));
  AddSample(reloads, {{"result", "failed"}}, static_cast<double>(t.tls_reload_failures.value()));
  AddGauge(to, "sluice_tls_certificate_expiry_timestamp_seconds",
           "When this node's certificate ends, in seconds since 1970; 0 without TLS.",
           t.tls_certificate_expiry);
}

void AddOndemand(Families& to, const Telemetry& t, const KeeperCounts& keeper, std::string_view backend) {
  MetricFamily& requests = AddFamily(
      to, "sluice_ondemand_requests_total",
      "The kernel's requests: answered at once (hit), by the daemon (filled, failed), or refused by "
      "the keeper (expired, denied, error).",
      MetricType::Counter);
  const std::pair<std::string_view, uint64_t> results[] = {{"hit", keeper.hits},
                                                           {"filled", t.ondemand_filled.value()},
                                                           {"failed", t.ondemand_failed.value()},
                                                           {"expired", keeper.expired},
                                                           {"denied", keeper.denied},
                                                           {"error", keeper.errors}};
  for (const auto& [result, count] : results) {
    AddSample(requests, {{"backend", backend}, {"result", result}}, static_cast<double>(count));
  }
  AddSample(AddFamily(to, "sluice_ondemand_published_total",
                      "The kernel's requests that the keeper handed to the daemon.", MetricType::Counter),
            {{"backend", backend}}, static_cast<double>(keeper.published));
  AddGauge(to, "sluice_mounts", "Images that are mounted.", t.mounts);
  AddSample(AddFamily(to, "sluice_ondemand_backend_info", "The kernel front end in use.", MetricType::Gauge),
            {{"backend", backend}}, 1);
}

void AddFetches(Families& to, const Telemetry& t) {
  MetricFamily& started =
      AddFamily(to, "sluice_fetches_total",
                "Fetches of runs of chunks that got their place, by what they are for.", MetricType::Counter);
  MetricFamily under_way;
  under_way.name = "sluice_fetches_under_way";
  under_way.help = "Fetches of runs of chunks that are under way, by what they are for.";
  under_way.type = MetricType::Gauge;
  for (size_t i = 0; i < kFetchClassCount; ++i) {
    const std::string_view name = FetchClassName(static_cast<FetchClass>(i));
    AddSample(started, {{"class", name}}, static_cast<double>(t.fetches[i].value()));
    AddSample(under_way, {{"class", name}}, static_cast<double>(t.fetches_under_way[i].value()));
  }
  to.push_back(std::move(under_way));
  AddGauge(to, "sluice_fetch_inflight_bytes", "Bytes that were asked for and are not stored yet.",
           t.fetch_inflight_bytes);
  AddGauge(to, "sluice_chunks_wanted", "Absent chunks that wait for their turn or are under way.",
           t.chunks_wanted);
}

void AddProcess(Families& to, const ProcessCounts& process) {
  const auto add = [&](std::string_view name, std::string_view help, MetricType type, double value) {
    AddSample(AddFamily(to, name, help, type), {}, value);
  };
  add("sluice_process_cpu_seconds_total", "Time of the processors that the daemon has taken.",
      MetricType::Counter, process.cpu_seconds);
  add("sluice_process_resident_bytes", "Memory that the daemon takes up.", MetricType::Gauge,
      static_cast<double>(process.resident_bytes));
  add("sluice_process_open_fds", "Descriptors that the daemon has open.", MetricType::Gauge,
      static_cast<double>(process.open_descriptors));
  add("sluice_process_max_fds", "Descriptors that the daemon may have open.", MetricType::Gauge,
      static_cast<double>(process.descriptors_max));
  add("sluice_process_threads", "Threads of the daemon.", MetricType::Gauge,
      static_cast<double>(process.threads));
}

}  // namespace

class Metrics::Collector final : public prometheus::Collectable {
 public:
  Collector(const Telemetry& telemetry, MetricsExtras extras)
      : telemetry_(telemetry), extras_(std::move(extras)) {}

  Families Collect() const override {
    const KeeperCounts keeper = extras_.keeper ? extras_.keeper() : KeeperCounts{};
    Families families;
    AddReads(families, telemetry_, keeper);
    AddSources(families, telemetry_);
    AddStore(families, telemetry_);
    AddPrefetch(families, telemetry_);
    AddPeers(families, telemetry_);
    AddMirror(families, telemetry_);
    AddTls(families, telemetry_);
    AddOndemand(families, telemetry_, keeper, extras_.backend);
    static const ImageCounters kNone;
    AddImages(families, extras_.images ? *extras_.images : kNone);
    AddFetches(families, telemetry_);
    AddProcess(families, CountProcess());
    AddSample(AddFamily(families, "sluice_kernel_cache_size_bytes",
                        "What the kernel's own copies of blobs take up on disk (backend cachefiles).",
                        MetricType::Gauge),
              {}, extras_.kernel_cache_bytes ? static_cast<double>(extras_.kernel_cache_bytes()) : 0);
    AddSample(AddFamily(families, "sluice_log_dropped_total",
                        "Log lines of the daemon and of the keeper that were dropped, as nobody took them.",
                        MetricType::Counter),
              {}, extras_.log_dropped ? static_cast<double>(extras_.log_dropped()) : 0);
    AddSample(AddFamily(families, "sluice_build_info", "The version that is running.", MetricType::Gauge),
              {{"version", extras_.version}, {"revision", extras_.revision}}, 1);
    return families;
  }

 private:
  const Telemetry& telemetry_;
  const MetricsExtras extras_;
};

Metrics::Metrics(const Telemetry& telemetry, MetricsExtras extras)
    : collector_(std::make_unique<Collector>(telemetry, std::move(extras))) {}

Metrics::~Metrics() = default;

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(collector_->Collect());
}

}  // namespace sluice::api
