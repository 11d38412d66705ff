#include "node/daemon/hint.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice {

bool GoesBefore(const HintPtr& a, const HintPtr& b) {
  constexpr auto kNever = std::chrono::system_clock::time_point::max();
  return std::tuple(-a->spec.priority, a->spec.needed_by.value_or(kNever), a->number) <
         std::tuple(-b->spec.priority, b->spec.needed_by.value_or(kNever), b->number);
}

void SetTimes(Hint& hint, Instant now, std::chrono::system_clock::time_point wall_now, Duration ttl_default) {
  // A clock that was set back meanwhile gives a hint no more time.
  const auto age = std::max(wall_now - hint.taken, std::chrono::system_clock::duration::zero());
  hint.expires = now + hint.spec.ttl.value_or(ttl_default) - std::chrono::duration_cast<Duration>(age);
  if (!hint.spec.needed_by) return;
  // Times that are further away than that are all as far, and do not overflow.
  constexpr std::chrono::system_clock::duration kFar = std::chrono::hours(24 * 365);
  const auto from = std::clamp(*hint.spec.needed_by, wall_now - kFar, wall_now + kFar);
  hint.due = now + std::chrono::duration_cast<Duration>(from - wall_now);
}

p2p::Platform PlatformOf(const api::HintSpec& spec) {
  if (!spec.platform) return p2p::ThisCpu();
  return {spec.platform->os, spec.platform->architecture, spec.platform->variant, {}};
}

bool MayPass(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kAlreadyExists:
      return false;
    default:
      return true;
  }
}

absl::Status CheckRanges(const api::HintSpec& hint, std::span<const BlobSpec> blobs) {
  for (const api::HintRange& range : hint.ranges) {
    const auto blob = std::find_if(blobs.begin(), blobs.end(),
                                   [&](const BlobSpec& spec) { return spec.digest == range.blob; });
    if (blob == blobs.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("blob ", range.blob.ToString(), " is none of the image's"));
    }
    if (range.range.end() > blob->size) {
      return absl::InvalidArgumentError(absl::StrCat("bytes ", range.range.offset, "+", range.range.length,
                                                     " are not within blob ", range.blob.ToString(), " of ",
                                                     blob->size, " bytes"));
    }
  }
  return absl::OkStatus();
}

ChunkSet MissingOf(const Blob& blob, const std::vector<ChunkSpan>& spans) {
  ChunkSet missing(blob.geometry().chunk_count());
  for (const ChunkSpan& span : spans) missing.Add(span);
  missing.Subtract(blob.presence().Snapshot());
  return missing;
}

ChunkSet PresentOf(const Blob& blob, const ChunkSet& among) {
  ChunkSet present = among;
  present.IntersectWith(blob.presence().Snapshot());
  return present;
}

std::vector<ChunkSpan> SpansOf(const api::HintSpec& hint, const Blob& blob) {
  if (hint.ranges.empty()) return {blob.geometry().All()};
  std::vector<ByteRange> ranges;
  for (const api::HintRange& range : hint.ranges) {
    if (range.blob == blob.digest()) ranges.push_back(range.range);
  }
  return ChunksTouched(blob.geometry(), std::move(ranges));
}

std::vector<std::vector<ChunkSpan>> SpansOf(const ImageProfile& profile, std::span<const Blob::Lease> blobs,
                                            uint64_t bytes_max) {
  std::vector<std::vector<ByteRange>> ranges(blobs.size());
  uint64_t left = bytes_max;
  for (const ProfileSpan& span : profile.spans) {
    if (span.blob >= blobs.size() || span.chunks.count == 0) continue;
    const ChunkGeometry& geometry = blobs[span.blob].blob().geometry();
    const uint64_t chunk_count = geometry.chunk_count();
    if (uint64_t{span.chunks.first.value()} + span.chunks.count > chunk_count) continue;
    const ByteRange range = geometry.RangeOf(span.chunks);
    if (range.length > left) break;
    left -= range.length;
    ranges[span.blob].push_back(range);
  }
  std::vector<std::vector<ChunkSpan>> spans;
  for (size_t i = 0; i < blobs.size(); ++i)
    spans.push_back(ChunksTouched(blobs[i].blob().geometry(), std::move(ranges[i])));
  return spans;
}

std::string RegistryOf(const Hint& hint) {
  return hint.spec.reference.substr(0, hint.spec.reference.find('/'));
}

std::string Difference(const Hint& known, const api::HintSpec& spec, const p2p::Platform& platform) {
  if (known.spec.reference != spec.reference)
    return absl::StrCat("another image (", known.spec.reference, ", not ", spec.reference, ")");
  if (known.spec.blob.has_value() != spec.blob.has_value())
    return "another subject (one is a blob alone, the other an image)";
  if (known.spec.blob != spec.blob) return "another size of the blob";
  if (known.platform != platform) {
    return absl::StrCat("another platform (", known.platform.ToString(), ", not ", platform.ToString(), ")");
  }
  if (known.with_credentials != spec.credentials.has_value())
    return known.with_credentials ? "credentials, and this one has none" : "no credentials";
  const auto scope_of = [](const api::HintSpec& hint) {
    return hint.profile ? "a profile" : hint.ranges.empty() ? "all of it" : "ranges";
  };
  const std::string before = scope_of(known.spec), now = scope_of(spec);
  if (before != now) return absl::StrCat("another scope (one is for ", before, ", the other for ", now, ")");
  if (known.spec.ranges != spec.ranges) return "other ranges";
  if (known.spec.priority != spec.priority) return "another priority";
  if (known.spec.needed_by != spec.needed_by) return "another needed_by";
  if (known.spec.ttl != spec.ttl) return "another ttl";
  if (known.spec.scheduler != spec.scheduler) return "another scheduler";
  if (known.spec.pin != spec.pin) return "another pin";
  if (known.spec.targets != spec.targets) return "other targets";
  return "";
}

void NotePace(Hint& hint, Instant now, std::optional<uint64_t> fetched) {
  // Of a second's worth; a hint takes some of them to get going.
  constexpr double kWeight = 0.4;
  Hint::Pace& pace = hint.pace;
  if (!fetched) {
    pace = {};
    return;
  }
  const double seconds = std::chrono::duration<double>(now - pace.at).count();
  const bool is_first = pace.at == Instant();
  if (!is_first && seconds <= 0) return;
  if (!is_first) {
    const double came = static_cast<double>(*fetched - std::min(*fetched, pace.fetched)) / seconds;
    pace.bytes_per_second = pace.looks > 0 ? (1 - kWeight) * pace.bytes_per_second + kWeight * came : came;
    ++pace.looks;
  }
  pace.at = now;
  pace.fetched = *fetched;
}

bool IsExpectedLate(const Hint& hint, Instant now, uint64_t left) {
  // A fetch takes some round trips to get going.
  constexpr int kLooksMin = 3;
  if (!hint.due || hint.pace.looks < kLooksMin || left == 0) return false;
  const double seconds = std::chrono::duration<double>(*hint.due - now).count();
  return static_cast<double>(left) > hint.pace.bytes_per_second * std::max(seconds, 0.0);
}

HintResult ResultOf(api::HintState state) {
  switch (state) {
    case api::HintState::kCompleted:
    case api::HintState::kPassedOn:  // this node has done what it was asked for
      return HintResult::kCompleted;
    case api::HintState::kCancelled:
      return HintResult::kCancelled;
    case api::HintState::kExpired:
      return HintResult::kExpired;
    default:
      return HintResult::kFailed;
  }
}

const char* WordFor(api::HintState state) {
  switch (state) {
    case api::HintState::kCompleted:
      return "complete";
    case api::HintState::kPassedOn:
      return "passed on";
    case api::HintState::kCancelled:
      return "cancelled";
    case api::HintState::kExpired:
      return "too old";
    default:
      return "failed";
  }
}

}  // namespace sluice
