#include "api/proto_conversion.h"

#include <grpcpp/support/status.h>
#include <limits.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "api/error_details.h"
#include "google/rpc/status.pb.h"
#include "node/geometry.h"
#include "sluice/v1/admin.pb.h"
#include "sluice/v1/prefetch.pb.h"

namespace sluice::api {
namespace {

// Of a reference: twice what a registry's name and a repository of 255 bytes with a digest take.
constexpr size_t kReferenceBytesMax = 1024;
// gRPC refuses headers above 8 KiB, and percent-encoding may treble a message.
constexpr size_t kStatusMessageBytesMax = 2048;
// The same message once more, beside its details.
constexpr size_t kDetailedMessageBytesMax = 512;

v1::ReadSource ToProto(SourceKind kind) {
  switch (kind) {
    case SourceKind::kLocal:
      return v1::READ_SOURCE_LOCAL;
    case SourceKind::kPeer:
      return v1::READ_SOURCE_PEER;
    case SourceKind::kOrigin:
      return v1::READ_SOURCE_ORIGIN;
  }
  return v1::READ_SOURCE_UNSPECIFIED;
}

v1::Backend BackendFrom(const std::string& name) {
  constexpr std::pair<std::string_view, v1::Backend> kNames[] = {{"off", v1::BACKEND_OFF},
                                                                 {"fanotify", v1::BACKEND_FANOTIFY},
                                                                 {"cachefiles", v1::BACKEND_CACHEFILES},
                                                                 {"fuse", v1::BACKEND_FUSE}};
  for (const auto& [known, backend] : kNames) {
    if (known == name) return backend;
  }
  return v1::BACKEND_UNSPECIFIED;
}

void ToProto(std::chrono::system_clock::time_point from, google::protobuf::Timestamp& to) {
  const auto since_epoch = from.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since_epoch);
  to.set_seconds(seconds.count());
  to.set_nanos(static_cast<int32_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(since_epoch - seconds).count()));
}

v1::FillState ToProto(FillState state) {
  switch (state) {
    case FillState::kIdle:
      return v1::FILL_STATE_IDLE;
    case FillState::kFilling:
      return v1::FILL_STATE_FILLING;
    case FillState::kComplete:
      return v1::FILL_STATE_COMPLETE;
    case FillState::kFailed:
      return v1::FILL_STATE_FAILED;
  }
  return v1::FILL_STATE_UNSPECIFIED;
}

void ToProto(const BlobPresence& from, v1::BlobPresence& to) {
  to.set_digest(from.digest.ToString());
  to.set_size_bytes(from.size_bytes);
  to.set_present_bytes(from.present_bytes);
}

v1::PeerState ToProto(PeerState state) {
  switch (state) {
    case PeerState::kAlive:
      return v1::PEER_STATE_ALIVE;
    case PeerState::kNotAsked:
      return v1::PEER_STATE_NOT_ASKED;
    case PeerState::kSilent:
      return v1::PEER_STATE_SILENT;
    case PeerState::kTwin:
      return v1::PEER_STATE_TWIN;
    case PeerState::kUnnamed:
      return v1::PEER_STATE_UNNAMED;
  }
  return v1::PEER_STATE_UNSPECIFIED;
}

v1::DialOutcome ToProto(DialOutcome outcome) {
  switch (outcome) {
    case DialOutcome::kReached:
      return v1::DIAL_OUTCOME_REACHED;
    case DialOutcome::kNotReached:
      return v1::DIAL_OUTCOME_NOT_REACHED;
    case DialOutcome::kNotTried:
      return v1::DIAL_OUTCOME_NOT_TRIED;
  }
  return v1::DIAL_OUTCOME_UNSPECIFIED;
}

void ToProto(Duration from, google::protobuf::Duration& to) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(from);
  to.set_seconds(seconds.count());
  to.set_nanos(static_cast<int32_t>((from - seconds).count()));
}

void ToProto(const ClusterStatus& from, v1::ClusterStatus& to) {
  to.set_configured(from.configured);
  to.set_cut_off(from.cut_off);
  to.set_cold_start(from.cold_start);
}

void ToProto(const PeerInfo& from, v1::Peer& to) {
  to.set_name(from.name);
  for (const std::string& address : from.addresses) to.add_addresses(address);
  to.set_zone(from.zone);
  to.set_state(ToProto(from.state));
  to.set_protocol(from.protocol);
  ToProto(from.age, *to.mutable_age());
  to.set_homes_share(from.homes_share);
  if (from.skipped_for > Duration(0)) ToProto(from.skipped_for, *to.mutable_skipped_for());
  to.set_skip_reason(from.skip_reason);
  to.set_requests(from.requests);
  to.set_failures(from.failures);
  to.set_outrun(from.outrun);
  to.set_recent_bytes(from.recent_bytes);
  to.set_wrong_answers(from.wrong_answers);
  to.set_blame(from.blame);
  if (from.wrong_answers > 0) ToProto(from.blame_age, *to.mutable_blame_age());
}

v1::HintState ToProto(HintState state) {
  switch (state) {
    case HintState::kQueued:
      return v1::HINT_STATE_QUEUED;
    case HintState::kResolving:
      return v1::HINT_STATE_RESOLVING;
    case HintState::kFetching:
      return v1::HINT_STATE_FETCHING;
    case HintState::kCompleted:
      return v1::HINT_STATE_COMPLETED;
    case HintState::kCancelled:
      return v1::HINT_STATE_CANCELLED;
    case HintState::kFailed:
      return v1::HINT_STATE_FAILED;
    case HintState::kExpired:
      return v1::HINT_STATE_EXPIRED;
    case HintState::kPassingOn:
      return v1::HINT_STATE_PASSING_ON;
    case HintState::kPassedOn:
      return v1::HINT_STATE_PASSED_ON;
  }
  return v1::HINT_STATE_UNSPECIFIED;
}

v1::TargetState ToProto(TargetState state) {
  switch (state) {
    case TargetState::kSending:
      return v1::TARGET_STATE_SENDING;
    case TargetState::kTaken:
      return v1::TARGET_STATE_TAKEN;
    case TargetState::kFailed:
      return v1::TARGET_STATE_FAILED;
    case TargetState::kCancelling:
      return v1::TARGET_STATE_CANCELLING;
    case TargetState::kCancelled:
      return v1::TARGET_STATE_CANCELLED;
  }
  return v1::TARGET_STATE_UNSPECIFIED;
}

v1::SubmitOutcome ToProto(SubmitOutcome outcome) {
  switch (outcome) {
    case SubmitOutcome::kAccepted:
      return v1::SUBMIT_OUTCOME_ACCEPTED;
    case SubmitOutcome::kKnown:
      return v1::SUBMIT_OUTCOME_KNOWN;
    case SubmitOutcome::kRefused:
      return v1::SUBMIT_OUTCOME_REFUSED;
  }
  return v1::SUBMIT_OUTCOME_UNSPECIFIED;
}

// To messages that have google.rpc's `details`.
template <typename Message>
void AddDetails(const absl::Status& from, Message& to) {
  from.ForEachPayload([&to](absl::string_view url, const absl::Cord& value) {
    if (!absl::StartsWith(url, kDetailUrlPrefix)) return;
    google::protobuf::Any& detail = *to.add_details();
    detail.set_type_url(std::string(url));
    detail.set_value(std::string(value));
  });
}

void ToProto(const absl::Status& from, v1::Error& to) {
  to.set_code(static_cast<int32_t>(from.code()));
  to.set_message(std::string(from.message().substr(0, kStatusMessageBytesMax)));
  AddDetails(from, to);
}

absl::Status CheckReference(const std::string& reference, const std::string& field) {
  if (reference.empty()) return InvalidField(field, "it is empty; name an image as registry/repository:tag");
  if (reference.size() > kReferenceBytesMax)
    return InvalidField(field,
                        absl::StrCat("it has ", reference.size(), " bytes; at most ", kReferenceBytesMax));
  return absl::OkStatus();
}

bool IsMadeAsAnId(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == ':' || c == '-';
  });
}

absl::Status CheckHintId(const std::string& id, const std::string& field) {
  if (id.empty() || id.size() > kHintIdBytesMax) {
    return InvalidField(field,
                        absl::StrCat("an id has 1 to ", kHintIdBytesMax, " bytes, this one ", id.size()));
  }
  if (!IsMadeAsAnId(id))
    return InvalidField(field, "an id is made of letters, digits, '.', '_', ':' and '-'");
  return absl::OkStatus();
}

// A word of an image index: short, and nothing that would have to be quoted.
bool IsPlatformWord(const std::string& word) {
  return word.size() <= 64 && std::all_of(word.begin(), word.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
         });
}

absl::StatusOr<HintPlatform> PlatformFrom(const v1::Platform& from, const std::string& field) {
  if (from.os().empty() || from.architecture().empty())
    return InvalidField(field, "os and architecture are both needed");
  if (!IsPlatformWord(from.os()) || !IsPlatformWord(from.architecture()) || !IsPlatformWord(from.variant())) {
    return InvalidField(field, "its parts are made of at most 64 letters, digits, '.', '_' and '-'");
  }
  return HintPlatform{from.os(), from.architecture(), from.variant()};
}

absl::StatusOr<HintRange> RangeFrom(const v1::BlobRange& from, const std::string& field) {
  const absl::StatusOr<Digest> digest = Digest::Parse(from.digest());
  if (!digest.ok()) return InvalidField(field + ".digest", std::string(digest.status().message()));
  if (from.length() == 0) return InvalidField(field + ".length", "a range has at least one byte");
  if (from.length() > UINT64_MAX - from.offset())
    return InvalidField(field, "offset and length together are more than 64 bits hold");
  return HintRange{*digest, {from.offset(), from.length()}};
}

absl::StatusOr<std::vector<HintRange>> RangesFrom(const v1::BlobRanges& from, const std::string& field) {
  if (from.ranges().empty() || static_cast<size_t>(from.ranges_size()) > kHintRangesMax) {
    return InvalidField(
        field, absl::StrCat("1 to ", kHintRangesMax, " ranges are taken, these are ", from.ranges_size()));
  }
  std::vector<HintRange> ranges;
  for (int i = 0; i < from.ranges_size(); ++i) {
    const absl::StatusOr<HintRange> range = RangeFrom(from.ranges(i), absl::StrCat(field, "[", i, "]"));
    if (!range.ok()) return range.status();
    ranges.push_back(*range);
  }
  return ranges;
}

// No time of day lies further from the epoch, either way, than the years 0001 to 9999 that protobuf allows.
constexpr int64_t kTimestampSecondsMin = -62'135'596'800, kTimestampSecondsMax = 253'402'300'799;

// What says when and in whose name.
absl::Status OrderFrom(const v1::Hint& from, const std::string& field, HintSpec& to) {
  if (from.priority() < -kHintPriorityMax || from.priority() > kHintPriorityMax) {
    return InvalidField(field + ".priority", absl::StrCat("it is ", from.priority(), "; -", kHintPriorityMax,
                                                          " to ", kHintPriorityMax, " are taken"));
  }
  to.priority = from.priority();
  if (from.has_needed_by()) {
    const google::protobuf::Timestamp& at = from.needed_by();
    if (at.seconds() < kTimestampSecondsMin || at.seconds() > kTimestampSecondsMax || at.nanos() < 0 ||
        at.nanos() > 999'999'999) {
      return InvalidField(field + ".needed_by", "it is no time between the years 1 and 9999");
    }
    // The clock's own range is narrower, and beyond it all times are equally far.
    constexpr int64_t kFar = 9'000'000'000;
    const std::chrono::seconds seconds(std::clamp(at.seconds(), -kFar, kFar));
    to.needed_by =
        std::chrono::system_clock::time_point(std::chrono::duration_cast<std::chrono::system_clock::duration>(
            seconds + std::chrono::nanoseconds(at.nanos())));
  }
  if (from.has_ttl()) {
    constexpr int64_t kSecondsMax = std::chrono::duration_cast<std::chrono::seconds>(kHintTtlMax).count();
    const google::protobuf::Duration& ttl = from.ttl();
    const bool in_range =
        ttl.seconds() >= 0 && ttl.seconds() <= kSecondsMax && ttl.nanos() >= 0 && ttl.nanos() <= 999'999'999;
    const Duration taken =
        in_range ? std::chrono::seconds(ttl.seconds()) + Duration(ttl.nanos()) : Duration(0);
    if (taken <= Duration(0) || taken > kHintTtlMax) {
      return InvalidField(field + ".ttl", absl::StrCat("it must be more than 0 and at most ", kSecondsMax,
                                                       " seconds; without it the node has its own"));
    }
    to.ttl = taken;
  }
  if (from.scheduler().size() > kSchedulerBytesMax || !IsMadeAsAnId(from.scheduler())) {
    return InvalidField(
        field + ".scheduler",
        absl::StrCat("at most ", kSchedulerBytesMax, " letters, digits, '.', '_', ':' and '-' are taken"));
  }
  to.scheduler = from.scheduler();
  return absl::OkStatus();
}

// So that the parts put together are taken apart again to the same.
absl::Status CheckRepository(const v1::HintedBlob& blob, const std::string& field) {
  const std::string& registry = blob.registry();
  if (registry != "localhost" && registry.find_first_of(".:[") == std::string::npos)
    return InvalidField(field + ".registry", "write it as host.domain, host:port, or localhost");
  if (registry.find_first_of("/@") != std::string::npos)
    return InvalidField(field + ".registry",
                        "it is a host and perhaps a port, without a slash or an at sign");
  if (blob.repository().empty() || blob.repository().find_first_of(":@") != std::string::npos) {
    return InvalidField(field + ".repository",
                        "it is needed, without a tag or a digest: write it as team/application");
  }
  return CheckReference(absl::StrCat(registry, "/", blob.repository()), field);
}

absl::Status TakeBlob(const v1::HintedBlob& from, const std::string& field, HintSpec& to) {
  if (const absl::Status status = CheckRepository(from, field); !status.ok()) return status;
  const absl::StatusOr<Digest> digest = Digest::Parse(from.digest());
  if (!digest.ok()) return InvalidField(field + ".digest", std::string(digest.status().message()));
  if (from.size() > 0) {
    const absl::Status sound = ChunkGeometry::Validate(from.size(), kChunkSizeDefault);
    if (!sound.ok()) return InvalidField(field + ".size", std::string(sound.message()));
  }
  to.blob = HintBlob{*digest, from.size()};
  to.reference = absl::StrCat(from.registry(), "/", from.repository(), "@", digest->ToString());
  return absl::OkStatus();
}

absl::Status TakeSubject(const v1::Hint& from, const std::string& field, HintSpec& to) {
  if (!from.has_blob()) {
    to.reference = from.reference();
    return CheckReference(from.reference(), field + ".reference");
  }
  if (!from.reference().empty())
    return InvalidField(field, "both reference and blob are set; name the image or the blob");
  if (from.has_platform()) return InvalidField(field + ".platform", "a blob has none; leave it out");
  return TakeBlob(from.blob(), field + ".blob", to);
}

// What can be said of ranges before anything is looked up.
absl::Status CheckRangesOf(const HintSpec& hint, const std::string& field) {
  for (size_t i = 0; hint.blob && i < hint.ranges.size(); ++i) {
    const HintRange& range = hint.ranges[i];
    const std::string at = absl::StrCat(field, ".ranges[", i, "]");
    if (range.blob != hint.blob->digest)
      return InvalidField(at + ".digest", "it is another blob than the hint's own");
    if (hint.blob->size > 0 && range.range.end() > hint.blob->size) {
      return InvalidField(at, absl::StrCat("bytes ", range.range.offset, "+", range.range.length,
                                           " are not within the blob of ", hint.blob->size, " bytes"));
    }
  }
  return absl::OkStatus();
}

// Sorted, and each once.
absl::StatusOr<std::vector<std::string>> TargetsFrom(const v1::Hint& from, const std::string& field) {
  if (static_cast<size_t>(from.targets_size()) > kHintTargetsMax) {
    return InvalidField(field, absl::StrCat("at most ", kHintTargetsMax, " targets are taken, these are ",
                                            from.targets_size()));
  }
  std::vector<std::string> targets(from.targets().begin(), from.targets().end());
  for (size_t i = 0; i < targets.size(); ++i) {
    const bool sound = !targets[i].empty() && targets[i].size() <= kHintTargetBytesMax &&
                       std::all_of(targets[i].begin(), targets[i].end(),
                                   [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
    if (!sound) {
      return InvalidField(
          absl::StrCat(field, "[", i, "]"),
          absl::StrCat("a member's name has 1 to ", kHintTargetBytesMax, " printable characters"));
    }
  }
  std::sort(targets.begin(), targets.end());
  targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
  return targets;
}

// What is wrong is said without the value.
absl::StatusOr<HintCredentials> CredentialsFrom(const v1::RegistryCredentials& from,
                                                const std::string& field) {
  const std::string& name = from.username();
  const bool sound = !name.empty() && name.size() <= kHintUsernameBytesMax &&
                     std::none_of(name.begin(), name.end(), [](char c) {
                       return c == ':' || absl::ascii_iscntrl(static_cast<unsigned char>(c));
                     });
  if (!sound) {
    return InvalidField(field + ".username", absl::StrCat("a user's name has 1 to ", kHintUsernameBytesMax,
                                                          " characters, and no colon or control character"));
  }
  if (from.password().empty() || from.password().size() > kHintPasswordBytesMax) {
    return InvalidField(field + ".password",
                        absl::StrCat("a password has 1 to ", kHintPasswordBytesMax, " bytes"));
  }
  return HintCredentials{name, Secret(from.password())};
}

absl::StatusOr<HintSpec> HintFrom(const v1::Hint& from, const std::string& field) {
  HintSpec hint{.id = from.id(), .reference = {}};
  absl::Status status = CheckHintId(from.id(), field + ".id");
  if (status.ok()) status = TakeSubject(from, field, hint);
  if (!status.ok()) return status;
  hint.pin = from.pin();
  status = OrderFrom(from, field, hint);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<std::string>> targets = TargetsFrom(from, field + ".targets");
  if (!targets.ok()) return targets.status();
  hint.targets = *std::move(targets);
  if (from.has_credentials()) {
    absl::StatusOr<HintCredentials> given = CredentialsFrom(from.credentials(), field + ".credentials");
    if (!given.ok()) return given.status();
    hint.credentials = *std::move(given);
  }
  if (from.has_platform()) {
    absl::StatusOr<HintPlatform> platform = PlatformFrom(from.platform(), field + ".platform");
    if (!platform.ok()) return platform.status();
    hint.platform = *std::move(platform);
  }
  switch (from.scope_case()) {
    case v1::Hint::kAll:
      return hint;
    case v1::Hint::kRanges: {
      absl::StatusOr<std::vector<HintRange>> ranges = RangesFrom(from.ranges(), field + ".ranges");
      if (!ranges.ok()) return ranges.status();
      hint.ranges = *std::move(ranges);
      status = CheckRangesOf(hint, field);
      if (!status.ok()) return status;
      return hint;
    }
    case v1::Hint::kProfile:
      if (hint.blob) return InvalidField(field + ".profile", "a blob alone has none; name the image");
      hint.profile = true;
      return hint;
    default:
      return InvalidField(field, "neither all nor ranges nor profile is set; say what of it is wanted");
  }
}

template <typename Request>
absl::StatusOr<std::vector<std::string>> IdsFrom(const Request& from) {
  if (from.ids().empty() || static_cast<size_t>(from.ids_size()) > kHintsPerCallMax) {
    return InvalidField(
        "ids", absl::StrCat("1 to ", kHintsPerCallMax, " ids are taken, these are ", from.ids_size()));
  }
  std::vector<std::string> ids;
  for (int i = 0; i < from.ids_size(); ++i) {
    const absl::Status status = CheckHintId(from.ids(i), absl::StrCat("ids[", i, "]"));
    if (!status.ok()) return status;
    if (std::find(ids.begin(), ids.end(), from.ids(i)) == ids.end()) ids.push_back(from.ids(i));
  }
  return ids;
}

void AddActivity(const NodeStatus& from, v1::NodeStatus& to) {
  constexpr v1::FetchClass kClasses[] = {v1::FETCH_CLASS_DEMAND, v1::FETCH_CLASS_READAHEAD,
                                         v1::FETCH_CLASS_HINT, v1::FETCH_CLASS_BACKFILL};
  static_assert(std::size(kClasses) == kFetchClassCount);
  for (size_t i = 0; i < kFetchClassCount; ++i) {
    v1::FetchTotals& totals = *to.add_fetches();
    totals.set_fetch_class(kClasses[i]);
    totals.set_started(from.fetches[i]);
    totals.set_under_way(from.fetches_under_way[i]);
  }
  to.set_inflight_bytes(from.inflight_bytes);
  to.set_chunks_wanted(from.chunks_wanted);
  const auto ahead = [&](ReadaheadResult result) {
    return from.readahead_bytes[static_cast<size_t>(result)];
  };
  to.mutable_readahead()->set_fetched_bytes(ahead(ReadaheadResult::kFetched));
  to.mutable_readahead()->set_used_bytes(ahead(ReadaheadResult::kUsed));
  to.mutable_readahead()->set_unread_bytes(ahead(ReadaheadResult::kUnread));
  const auto ended = [&](HintResult result) { return from.hints[static_cast<size_t>(result)]; };
  to.mutable_hints()->set_completed(ended(HintResult::kCompleted));
  to.mutable_hints()->set_cancelled(ended(HintResult::kCancelled));
  to.mutable_hints()->set_failed(ended(HintResult::kFailed));
  to.mutable_hints()->set_expired(ended(HintResult::kExpired));
  const auto brought = [&](HintBytes result) { return from.hint_bytes[static_cast<size_t>(result)]; };
  to.mutable_hints()->set_fetched_bytes(brought(HintBytes::kFetched));
  to.mutable_hints()->set_used_bytes(brought(HintBytes::kUsed));
  to.mutable_hints()->set_unread_bytes(brought(HintBytes::kUnread));
}

template <typename Message>
void AddServed(const ServedTotals& from, Message& to) {
  for (int i = 0; i < kSourceKindCount; ++i) {
    v1::SourceTotals& totals = *to.add_served();
    totals.set_source(ToProto(static_cast<SourceKind>(i)));
    totals.set_reads(from.reads[i]);
    totals.set_bytes(from.bytes[i]);
  }
}

void ToProto(const WaitedReads& from, SourceKind source, v1::WaitedReads& to) {
  to.set_source(ToProto(source));
  to.set_reads(from.reads);
  to.set_bytes(from.bytes);
  ToProto(from.waited, *to.mutable_waited());
  ToProto(from.queued, *to.mutable_queued());
  ToProto(from.answer, *to.mutable_answer());
  ToProto(from.wire, *to.mutable_wire());
  ToProto(from.verified, *to.mutable_verified());
  ToProto(from.stored, *to.mutable_stored());
  to.set_foreseen(from.foreseen);
}

void ToProto(const TouchedBytes& from, v1::TouchedBytes& to) {
  to.set_here(from.here);
  to.set_profile(from.profile);
  to.set_readahead(from.readahead);
  to.set_hint(from.hint);
  to.set_fill(from.fill);
  to.set_other(from.other);
  to.set_waited(from.waited);
  to.set_late(from.late);
}

}  // namespace

void ToProto(const NodeStatus& from, v1::NodeStatus& to) {
  to.set_version(from.version);
  to.set_backend(BackendFrom(from.backend));
  to.set_backend_reason(from.backend_reason);
  to.set_data_directory(from.data_directory);
  ToProto(from.uptime, *to.mutable_uptime());
  to.mutable_store()->set_capacity_bytes(from.store.capacity_bytes);
  to.mutable_store()->set_size_bytes(from.store.size_bytes);
  to.mutable_store()->set_blob_count(from.store.blob_count);
  to.set_mount_count(from.mount_count);
  AddServed(from.served, to);
  to.set_read_errors(from.read_errors);
  to.set_origin_bytes(from.origin_bytes);
  to.set_member_count(from.member_count);
  ToProto(from.cluster, *to.mutable_cluster());
  to.set_log_level(ToProto(from.log_level));
  to.set_drained(from.drain == DrainState::kDrained);
  AddActivity(from, to);
  for (const PeerLane lane : {PeerLane::kExpress, PeerLane::kSwarm}) {
    v1::LaneTotals& totals = *to.add_lanes();
    totals.set_lane(lane == PeerLane::kExpress ? v1::LANE_EXPRESS : v1::LANE_SWARM);
    totals.set_received_bytes(from.peer_received_bytes[static_cast<size_t>(lane)]);
    totals.set_sent_bytes(from.peer_sent_bytes[static_cast<size_t>(lane)]);
  }
}

v1::LogLevel ToProto(LogLevel from) {
  switch (from) {
    case LogLevel::kDebug:
      return v1::LOG_LEVEL_DEBUG;
    case LogLevel::kInfo:
      return v1::LOG_LEVEL_INFO;
    case LogLevel::kWarn:
      return v1::LOG_LEVEL_WARN;
    case LogLevel::kError:
      return v1::LOG_LEVEL_ERROR;
  }
  return v1::LOG_LEVEL_UNSPECIFIED;
}

absl::StatusOr<LogLevel> FromProto(v1::LogLevel from) {
  switch (from) {
    case v1::LOG_LEVEL_DEBUG:
      return LogLevel::kDebug;
    case v1::LOG_LEVEL_INFO:
      return LogLevel::kInfo;
    case v1::LOG_LEVEL_WARN:
      return LogLevel::kWarn;
    case v1::LOG_LEVEL_ERROR:
      return LogLevel::kError;
    default:
      return InvalidField(
          "level", absl::StrCat("it is none of debug, info, warn and error, but ", static_cast<int>(from)));
  }
}

void ToProto(const PeersReport& from, v1::ListPeersResponse& to) {
  ToProto(from.cluster, *to.mutable_cluster());
  if (from.cluster.configured) ToProto(from.self, *to.mutable_self());
  for (const PeerInfo& peer : from.peers) ToProto(peer, *to.add_peers());
}

void ToProto(const DialFinding& from, v1::Dial& to) {
  to.set_address(from.address);
  to.set_member(from.member);
  to.set_outcome(ToProto(from.outcome));
  to.set_reason(from.why);
}

void ToProto(const MountInfo& from, v1::Mount& to) {
  to.set_reference(from.reference);
  to.set_manifest_digest(from.manifest_digest.ToString());
  to.set_mount_point(from.mount_point);
  to.set_backend(BackendFrom(from.backend));
  for (const BlobPresence& blob : from.blobs) ToProto(blob, *to.add_blobs());
  AddServed(from.served, to);
  to.set_read_errors(from.read_errors);
  to.set_last_error(from.last_error);
  if (from.last_error_time.time_since_epoch().count() > 0) {
    ToProto(from.last_error_time, *to.mutable_last_error_time());
  }
}

void ToProto(const MountHolder& from, v1::MountHolder& to) {
  to.set_pid(from.pid);
  to.set_process(from.process);
  to.set_path(from.path);
  to.set_mount_space(from.mount_space);
  to.set_mount_point(from.mount_point);
  to.set_reference(from.reference);
  to.set_pod_namespace(from.pod_namespace);
  to.set_pod(from.pod);
  to.set_container(from.container);
  to.set_pod_uid(from.pod_uid);
  to.set_container_id(from.container_id);
}

void ToProto(const UnmountResult& from, v1::UnmountResult& to) {
  to.set_mount_point(from.mount_point);
  to.set_reference(from.reference);
  if (!from.status.ok()) to.set_error(std::string(from.status.message()));
  to.set_used_still(from.used_still);
}

void ToProto(const FillProgress& from, v1::BlobFill& to) {
  ToProto(from.blob, *to.mutable_blob());
  to.set_state(ToProto(from.state));
  to.set_error(from.error);
}

void ToProto(const BlobInfo& from, v1::Blob& to) {
  to.set_digest(from.digest.ToString());
  to.set_size_bytes(from.size_bytes);
  to.set_chunk_size_bytes(from.chunk_size_bytes);
  to.set_present_bytes(from.present_bytes);
  to.set_unverified_chunks(from.unverified_chunks);
  to.set_recipe_bound(from.recipe_bound);
  to.set_refused(from.refused);
  to.set_pinned(from.pinned);
  to.set_lease_count(from.lease_count);
  if (from.last_access.time_since_epoch().count() > 0)
    ToProto(from.last_access, *to.mutable_last_access_time());
  for (const BlobOrigin& origin : from.origins) {
    v1::BlobOrigin& added = *to.add_origins();
    added.set_registry(origin.registry);
    added.set_repository(origin.repository);
    const auto stored = from.stored.find(origin);
    if (stored == from.stored.end()) continue;
    added.set_stored_digest(stored->second.digest.ToString());
    added.set_stored_size_bytes(stored->second.size);
  }
}

void ToProto(const StartReport& from, v1::StartReport& to) {
  to.set_reference(from.reference);
  to.set_manifest_digest(from.manifest.ToString());
  to.set_mount_point(from.mount_point);
  ToProto(from.resolve, *to.mutable_resolve());
  to.set_resolve_round_trips(from.resolve_round_trips);
  ToProto(from.prepared.bootstrap, *to.mutable_bootstrap());
  ToProto(from.prepared.blobs, *to.mutable_blobs());
  ToProto(from.prepared.recipes, *to.mutable_recipes());
  to.set_recipe_round_trips(from.prepared.recipe_round_trips);
  ToProto(from.mounting, *to.mutable_mounting());
  ToProto(from.watched, *to.mutable_watched());
  to.set_over(from.over);
  ToProto(from.waiting, *to.mutable_waiting());
  for (size_t source = 0; source < from.waited.size(); ++source)
    ToProto(from.waited[source], static_cast<SourceKind>(source), *to.add_waited());
  to.set_failed(from.failed);
  ToProto(from.touched, *to.mutable_touched());
  to.set_sees_present(from.sees_present);
}

void ToProto(const ProfileReport& from, v1::ImageProfile& to) {
  to.set_reference(from.reference);
  to.set_manifest_digest(from.manifest.ToString());
  to.set_start_count(from.profile.runs);
  to.set_public_(from.is_public);
  to.set_document(from.document);
  std::map<uint32_t, v1::ProfileBlob> blobs;
  for (const ProfileSpan& span : from.profile.spans) {
    v1::ProfileBlob& blob = blobs[span.blob];
    v1::ProfileSpan& added = *blob.add_spans();
    added.set_first_chunk(span.chunks.first.value());
    added.set_chunk_count(span.chunks.count);
    ToProto(std::chrono::milliseconds(span.after_ms), *added.mutable_after());
    added.set_weight(span.weight);
    if (span.blob >= from.blobs.size()) continue;
    const ChunkGeometry geometry(from.blobs[span.blob].size, from.blobs[span.blob].chunk_size);
    if (span.chunks.end().value() > geometry.chunk_count()) continue;
    const ByteRange range = geometry.RangeOf(span.chunks);
    added.set_offset_bytes(range.offset);
    added.set_size_bytes(range.length);
    blob.set_touched_bytes(blob.touched_bytes() + range.length);
  }
  for (auto& [index, blob] : blobs) {
    blob.set_index(index);
    if (index < from.blobs.size()) {
      blob.set_digest(from.blobs[index].digest.ToString());
      blob.set_size_bytes(from.blobs[index].size);
    }
    *to.add_blobs() = std::move(blob);
  }
}

void ToProto(const VerifyProgress& from, v1::VerifyBlobResponse& to) {
  to.set_checked_bytes(from.found.checked_bytes);
  to.set_bad_chunks(from.found.bad_chunks);
  to.set_unprovable_chunks(from.found.unprovable_chunks);
  to.set_read_bytes(from.read_bytes);
  to.set_total_bytes(from.total_bytes);
}

void ToProto(const HintStatus& from, v1::HintStatus& to) {
  to.set_id(from.id);
  to.set_reference(from.reference);
  if (from.manifest) to.set_manifest_digest(from.manifest->ToString());
  to.set_state(ToProto(from.state));
  if (!from.error.ok()) ToProto(from.error, *to.mutable_error());
  to.set_total_bytes(from.total_bytes);
  to.set_present_bytes(from.present_bytes);
  to.set_late(from.late);
  to.set_scheduler(from.scheduler);
  to.set_revision(from.revision);
  for (const TargetStatus& target : from.targets) {
    v1::TargetStatus& added = *to.add_targets();
    added.set_name(target.name);
    added.set_state(ToProto(target.state));
    if (!target.error.ok()) ToProto(target.error, *added.mutable_error());
  }
  const auto total = [&](TargetState state) { return from.target_totals[static_cast<size_t>(state)]; };
  if (std::any_of(from.target_totals.begin(), from.target_totals.end(), [](uint32_t n) { return n > 0; })) {
    to.mutable_target_totals()->set_sending(total(TargetState::kSending));
    to.mutable_target_totals()->set_taken(total(TargetState::kTaken));
    to.mutable_target_totals()->set_failed(total(TargetState::kFailed));
    to.mutable_target_totals()->set_cancelling(total(TargetState::kCancelling));
    to.mutable_target_totals()->set_cancelled(total(TargetState::kCancelled));
  }
  if (from.profile_starts) to.mutable_profile()->set_starts(*from.profile_starts);
  to.set_fetched_bytes(from.fetched_bytes);
  to.set_bytes_per_second(from.bytes_per_second);
  to.set_expected_late(from.expected_late);
  const auto come = [&](SourceKind kind) { return from.come_bytes[static_cast<size_t>(kind)]; };
  to.mutable_sources()->set_origin_bytes(come(SourceKind::kOrigin));
  to.mutable_sources()->set_peer_bytes(come(SourceKind::kPeer));
  to.mutable_sources()->set_local_bytes(come(SourceKind::kLocal));
  to.set_used_bytes(from.used_bytes);
  to.set_unread_bytes(from.unread_bytes);
}

void ToProto(const ImageLocality& from, v1::ImageLocality& to) {
  to.set_reference(from.reference);
  if (!from.error.ok()) ToProto(from.error, *to.mutable_error());
  if (from.manifest) to.set_manifest_digest(from.manifest->ToString());
  to.set_total_bytes(from.total_bytes);
  to.set_present_bytes(from.present_bytes);
  for (const NodeShare& share : from.nodes) {
    v1::NodeShare& added = *to.add_nodes();
    added.set_name(share.name);
    added.set_present_bytes(share.present_bytes);
  }
}

void ToProto(const SubmitResult& from, v1::SubmitResult& to) {
  to.set_outcome(ToProto(from.outcome));
  if (from.outcome == SubmitOutcome::kRefused) {
    ToProto(from.error, *to.mutable_error());
  } else {
    ToProto(from.status, *to.mutable_status());
  }
}

absl::StatusOr<std::vector<HintSpec>> FromProto(const v1::SubmitHintsRequest& from) {
  if (from.hints().empty() || static_cast<size_t>(from.hints_size()) > kHintsPerCallMax) {
    return InvalidField(
        "hints", absl::StrCat("1 to ", kHintsPerCallMax, " hints are taken, these are ", from.hints_size()));
  }
  std::vector<HintSpec> hints;
  size_t targets = 0;
  for (int i = 0; i < from.hints_size(); ++i) {
    absl::StatusOr<HintSpec> hint = HintFrom(from.hints(i), absl::StrCat("hints[", i, "]"));
    if (!hint.ok()) return hint.status();
    targets += hint->targets.size();
    if (targets > kHintTargetsPerCallMax) {
      return InvalidField("hints",
                          absl::StrCat("all of them together have more than ", kHintTargetsPerCallMax,
                                       " targets; give them in several calls"));
    }
    hints.push_back(*std::move(hint));
  }
  return hints;
}

absl::StatusOr<LocalityQuery> FromProto(const v1::GetLocalityRequest& from) {
  if (from.references().empty() || static_cast<size_t>(from.references_size()) > kLocalityImagesMax) {
    return InvalidField("references",
                        absl::StrCat("1 to ", kLocalityImagesMax, " references are taken, these are ",
                                     from.references_size()));
  }
  LocalityQuery query;
  for (int i = 0; i < from.references_size(); ++i) {
    const absl::Status status = CheckReference(from.references(i), absl::StrCat("references[", i, "]"));
    if (!status.ok()) return status;
    query.references.push_back(from.references(i));
  }
  if (from.has_platform()) {
    absl::StatusOr<HintPlatform> platform = PlatformFrom(from.platform(), "platform");
    if (!platform.ok()) return platform.status();
    query.platform = *std::move(platform);
  }
  switch (from.scope()) {
    case v1::LOCALITY_SCOPE_NODE:
      query.scope = LocalityScope::kNode;
      return query;
    case v1::LOCALITY_SCOPE_CLUSTER:
      query.scope = LocalityScope::kCluster;
      return query;
    default:
      return InvalidField("scope", absl::StrCat("it is neither of the node nor of the cluster, but ",
                                                static_cast<int>(from.scope())));
  }
}

absl::StatusOr<std::vector<std::string>> HintIdsFrom(const v1::WatchHintsRequest& from) {
  return IdsFrom(from);
}

absl::StatusOr<std::string> HintIdFrom(const v1::GetHintRequest& from) {
  const absl::Status status = CheckHintId(from.id(), "id");
  if (!status.ok()) return status;
  return from.id();
}

absl::StatusOr<std::vector<std::string>> HintIdsFrom(const v1::CancelHintsRequest& from) {
  return IdsFrom(from);
}

absl::StatusOr<Digest> DigestFrom(const std::string& digest_field) {
  absl::StatusOr<Digest> digest = Digest::Parse(digest_field);
  if (!digest.ok()) return InvalidField("digest", std::string(digest.status().message()));
  return digest;
}

absl::Status CheckMountPoint(const std::string& mount_point) {
  if (mount_point.empty()) return absl::InvalidArgumentError("mount_point is empty; name a directory");
  if (mount_point.front() != '/') {
    return absl::InvalidArgumentError(absl::StrCat("mount_point \"", mount_point.substr(0, 256),
                                                   "\" is not absolute; it must begin with a slash"));
  }
  if (mount_point.size() >= PATH_MAX || mount_point.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("mount_point is longer than ", PATH_MAX - 1, " bytes or holds a zero byte"));
  }
  return absl::OkStatus();
}

absl::StatusOr<MountOptions> OptionsFrom(const v1::MountRequest& from) {
  MountOptions options;
  const std::pair<std::string_view, bool MountOptions::*> known[] = {
      {"suid", &MountOptions::suid}, {"dev", &MountOptions::dev}, {"exec", &MountOptions::exec}};
  for (const std::string& option : from.options()) {
    const bool forbids = option.starts_with("no");
    const std::string_view what = std::string_view(option).substr(forbids ? 2 : 0);
    const auto* const found =
        std::find_if(std::begin(known), std::end(known), [what](const auto& k) { return k.first == what; });
    if (found == std::end(known)) {
      return absl::InvalidArgumentError(
          absl::StrCat("mount option \"", option, "\" is none of suid, nosuid, dev, nodev, exec, noexec"));
    }
    options.*found->second = !forbids;
  }
  return options;
}

absl::StatusOr<MountRequest> FromProto(const v1::MountRequest& from, Instant deadline) {
  if (absl::Status status = CheckReference(from.reference(), "reference"); !status.ok()) return status;
  if (absl::Status status = CheckMountPoint(from.mount_point()); !status.ok()) return status;
  if (!from.request_id().empty()) {
    if (absl::Status status = CheckHintId(from.request_id(), "request_id"); !status.ok()) return status;
  }
  const absl::StatusOr<MountOptions> options = OptionsFrom(from);
  if (!options.ok()) return options.status();
  MountRequest request{.reference = from.reference(),
                       .mount_point = from.mount_point(),
                       .deadline = deadline,
                       .options = *options};
  if (from.recording() == v1::START_RECORDING_WHILE_MOUNTED) {
    request.recording = StartRecording::kWhileMounted;
  } else if (from.recording() != v1::START_RECORDING_UNSPECIFIED) {
    return absl::InvalidArgumentError(
        absl::StrCat("recording has the unknown value ", static_cast<int>(from.recording())));
  }
  switch (from.fill()) {
    case v1::FILL_MODE_UNSPECIFIED:
      request.fill = FillMode::kDefault;
      return request;
    case v1::FILL_MODE_ON_DEMAND:
      request.fill = FillMode::kOnDemand;
      return request;
    case v1::FILL_MODE_BACKGROUND:
      request.fill = FillMode::kBackground;
      return request;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("fill has the unknown value ", static_cast<int>(from.fill())));
  }
}

grpc::Status ToGrpc(const absl::Status& status) {
  // The codes of absl and gRPC are the same numbers: both are google.rpc.Code.
  const auto code = static_cast<grpc::StatusCode>(status.raw_code());
  const std::string message(status.message().substr(0, kStatusMessageBytesMax));
  google::rpc::Status detailed;
  AddDetails(status, detailed);
  if (detailed.details().empty()) return grpc::Status(code, message);
  detailed.set_code(status.raw_code());
  detailed.set_message(message.substr(0, kDetailedMessageBytesMax));
  return grpc::Status(code, message, detailed.SerializeAsString());
}

}  // namespace sluice::api
