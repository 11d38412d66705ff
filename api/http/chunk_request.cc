#include "api/http/chunk_request.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "api/http/byte_range.h"
#include "api/http/peer_response.h"

namespace sluice::api {
namespace {

constexpr size_t kMemberNameBytesMax = 253;

absl::string_view View(std::string_view text) {
  return {text.data(), text.size()};
}

absl::Status Malformed(std::string_view header) {
  return absl::InvalidArgumentError(absl::StrCat("malformed ", View(header)));
}

// Printable ASCII without a space; a comma would be two names.
bool IsMemberName(absl::string_view name) {
  return !name.empty() && name.size() <= kMemberNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isgraph(static_cast<unsigned char>(c)) && c != ',' && c != '"' && c != '\\';
         });
}

absl::Status ReadUrgency(const HttpRequest& request, Instant now, PeerBlobRequest* asked) {
  const std::string_view of_class = request.Header("Sluice-Class");
  if (of_class == "fill") {
    // What is read ahead of a reader is sent as a fill's, and no reason to expect that all that follows is
    // wanted.
    asked->fetch_class =
        request.Header("Sluice-Ahead").empty() ? FetchClass::kBackfill : FetchClass::kReadahead;
  } else if (!of_class.empty() && of_class != "demand") {
    return Malformed("Sluice-Class");
  }
  const std::string_view left = request.Header("Sluice-Deadline-Ms");
  uint64_t ms = 0;
  if (left.empty()) {
    asked->deadline = now + kPeerDeadlineDefault;
  } else if (absl::SimpleAtoi(View(left), &ms) && ms > 0) {
    const auto most = std::chrono::duration_cast<std::chrono::milliseconds>(kPeerDeadlineMax);
    asked->deadline =
        now + std::chrono::milliseconds(std::min<uint64_t>(ms, static_cast<uint64_t>(most.count())));
  } else {
    return Malformed("Sluice-Deadline-Ms");
  }
  return absl::OkStatus();
}

// Whether the range is within one chunk. Errors: OutOfRange.
absl::StatusOr<bool> ReadRange(const HttpRequest& request, PeerBlobRequest* asked) {
  const ChunkGeometry geometry(asked->claim.spec.size, asked->claim.spec.chunk_size);
  const RequestedRange wanted = ParseRange(request.Header("Range"), geometry.size());
  if (std::holds_alternative<UnsatisfiableRange>(wanted))
    return absl::OutOfRangeError("not one range within the blob");
  const ByteRange* const range = std::get_if<ByteRange>(&wanted);
  if (!range || geometry.Covering(*range).count != 1) return false;
  asked->range = *range;
  return true;
}

}  // namespace

absl::StatusOr<PeerAsker> ParseAsker(const HttpRequest& request) {
  PeerAsker asker;
  const std::string_view from = request.Header("Sluice-From");
  if (!from.empty() && !IsMemberName(View(from))) return Malformed("Sluice-From");
  if (!from.empty() && !request.proven_names.Allow(from))
    return absl::PermissionDeniedError("Sluice-From is not the name in the certificate");
  asker.name = std::string(from);
  const std::string_view tried = request.Header("Sluice-Tried");
  if (tried.empty()) return asker;
  for (absl::string_view name : absl::StrSplit(View(tried), ',')) {
    name = absl::StripAsciiWhitespace(name);
    if (!IsMemberName(name)) return Malformed("Sluice-Tried");
    if (asker.tried.size() < kTriedMax) asker.tried.emplace_back(name);
  }
  return asker;
}

absl::StatusOr<std::optional<PeerBlobRequest>> ParseChunkRequest(const HttpRequest& request,
                                                                 const BlobOrigin& origin,
                                                                 const Digest& digest, Instant now,
                                                                 PeerTrust trust) {
  const std::string_view role = request.Header("Sluice-Role");
  if (role.empty()) return std::nullopt;
  const bool zone_home = role == "zone-home";
  const bool home = role == "home" || zone_home;
  if (!home && role != "present-only") return Malformed("Sluice-Role");
  if (!home && request.Header("Sluice-Blob").empty()) return std::nullopt;
  PeerBlobRequest asked;
  asked.role = zone_home ? PeerRole::kZoneHome : home ? PeerRole::kHome : PeerRole::kPresentOnly;
  absl::StatusOr<BlobClaim> claim = ParseBlobClaim(request.Header("Sluice-Blob"), digest, origin);
  if (!claim.ok()) return claim.status();
  asked.claim = *std::move(claim);
  absl::StatusOr<PeerAsker> asker = ParseAsker(request);
  if (!asker.ok()) return asker.status();
  asked.asker = std::move(asker->name);
  asked.tried = std::move(asker->tried);
  if (absl::Status read = ReadUrgency(request, now, &asked); !read.ok()) return read;
  absl::StatusOr<std::string> token = ReadToken(request, trust);
  if (!token.ok()) return token.status();
  asked.token = *std::move(token);
  asked.is_sent_on = request.Header("Sluice-Sent-On") == "1";
  const absl::StatusOr<bool> of_one_chunk = ReadRange(request, &asked);
  if (!of_one_chunk.ok()) return of_one_chunk.status();
  if (*of_one_chunk && request.method == HttpMethod::kGet) return asked;
  if (!home) return std::nullopt;
  return absl::InvalidArgumentError("a home is asked by GET for a range within one chunk");
}

}  // namespace sluice::api
