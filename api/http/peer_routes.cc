#include "api/http/peer_routes.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "api/http/byte_range.h"

namespace sluice::api {
namespace {

constexpr size_t kNameBytesMax = 255;  // of a repository
constexpr size_t kNamespaceBytesMax = 255;
constexpr int kPresentRunsMax = 32;  // named in Sluice-Present

absl::string_view View(std::string_view text) {
  return {text.data(), text.size()};
}

std::optional<int> HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

// Source: RFC 3986 section 2.1. nullopt if it is malformed.
std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const std::optional<int> high = HexDigit(text[i + 1]), low = HexDigit(text[i + 2]);
    if (!high || !low) return std::nullopt;
    out.push_back(static_cast<char>(*high * 16 + *low));
    i += 2;
  }
  return out;
}

// The parameter's decoded value; empty if there is none, or a malformed one.
std::string Parameter(const HttpRequest& request, std::string_view name) {
  for (const absl::string_view part : absl::StrSplit(View(request.query), '&')) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (field.first == View(name))
      return PercentDecoded({field.second.data(), field.second.size()}).value_or(std::string());
  }
  return {};
}

// Source: OCI distribution specification, "Pulling manifests": <name>.
bool IsRepositoryName(std::string_view name) {
  if (name.empty() || name.size() > kNameBytesMax) return false;
  for (const absl::string_view part : absl::StrSplit(View(name), '/')) {
    if (part.empty() || part == "." || part == "..") return false;
    for (const char c : part) {
      if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '.' && c != '_' && c != '-')
        return false;
    }
  }
  return true;
}

bool IsRegistryName(std::string_view name) {
  return !name.empty() && name.size() <= kNamespaceBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == ':' || c == '[' || c == ']' ||
                  c == '_';
         });
}

// Source: OCI distribution specification, "Error Codes".
HttpResponse ErrorResponse(unsigned status, std::string_view code, std::string_view message) {
  HttpResponse response;
  response.status = status;
  response.content_type = "application/json";
  response.body =
      absl::StrCat(R"({"errors":[{"code":")", View(code), R"(","message":")", View(message), "\"}]}\n");
  return response;
}

HttpResponse NotHere() {
  return ErrorResponse(404, "BLOB_UNKNOWN", "it is not on this node, or not for everybody");
}

// "/v2/<name>/<kind>/<reference>", taken apart.
struct RegistryPath {
  std::string name;
  std::string kind;
  std::string reference;
};
std::optional<RegistryPath> ParseRegistryPath(std::string_view path) {
  constexpr std::string_view kPrefix = "/v2/";
  if (!path.starts_with(kPrefix)) return std::nullopt;
  path.remove_prefix(kPrefix.size());
  const size_t reference = path.rfind('/');
  if (reference == std::string_view::npos || reference == 0) return std::nullopt;
  const size_t kind = path.rfind('/', reference - 1);
  if (kind == std::string_view::npos) return std::nullopt;
  return RegistryPath{std::string(path.substr(0, kind)),
                      std::string(path.substr(kind + 1, reference - kind - 1)),
                      std::string(path.substr(reference + 1))};
}

std::string EntityTag(const Digest& digest) {
  return absl::StrCat("\"", digest.ToString(), "\"");
}

// Whether an If-None-Match names the tag. Source: RFC 9110 section 13.1.2 (weak comparison).
bool Matches(std::string_view list, const std::string& tag) {
  for (absl::string_view part : absl::StrSplit(View(list), ',')) {
    part = absl::StripAsciiWhitespace(part);
    if (absl::StartsWith(part, "W/")) part.remove_prefix(2);
    if (part == "*" || part == tag) return true;
  }
  return false;
}

std::string RunsText(const ChunkGeometry& geometry, const std::vector<ChunkSpan>& runs) {
  std::string text = "bytes=";
  for (size_t i = 0; i < runs.size(); ++i) {
    const ByteRange range = geometry.RangeOf(runs[i]);
    absl::StrAppend(&text, i == 0 ? "" : ",", range.offset, "-", range.end() - 1);
  }
  return text;
}

// Keeps a blob from being evicted and its file from being closed while it is sent.
struct Serving {
  Blob::Lease lease;
  std::shared_ptr<const BlobFile> file;
};

class PeerRoutes : public std::enable_shared_from_this<PeerRoutes> {
 public:
  explicit PeerRoutes(PeerRoutesParts parts) : parts_(std::move(parts)) {}

  void OnRegistry(const HttpRequest& request, HttpResponder responder);
  void OnRecipe(const HttpRequest& request, HttpResponder responder);
  void OnMembers(const HttpRequest& request, HttpResponder responder);

  bool has_members() const { return parts_.members != nullptr; }

 private:
  void OnBlob(const HttpRequest& request, const BlobOrigin& origin, const Digest& digest,
              HttpResponder responder);
  void SendBlob(Blob::Lease lease, ByteRange range, HttpResponse response, HttpResponder responder);
  HttpResponse PartlyHere(const Blob& blob, ChunkSpan asked);
  void Answer(HttpResponse response, HttpResponder responder);
  void AnswerDocument(const absl::StatusOr<PeerDocument>& document, const Digest* digest,
                      HttpResponder responder);

  const PeerRoutesParts parts_;
};

void PeerRoutes::Answer(HttpResponse response, HttpResponder responder) {
  const PeerAnswer kind = response.status < 400    ? PeerAnswer::kServed
                          : response.status == 404 ? PeerAnswer::kAbsent
                                                   : PeerAnswer::kRefused;
  parts_.telemetry.peer_answers[static_cast<size_t>(kind)].Add();
  response.headers.emplace_back("Sluice-Node", parts_.node_id);
  std::move(responder).Answer(std::move(response));
}

void PeerRoutes::OnRegistry(const HttpRequest& request, HttpResponder responder) {
  if (request.path == "/v2/") {
    HttpResponse response;
    response.content_type = "application/json";
    response.body = "{}\n";
    response.headers.emplace_back("Docker-Distribution-API-Version", "registry/2.0");
    return Answer(std::move(response), std::move(responder));
  }
  const std::optional<RegistryPath> path = ParseRegistryPath(request.path);
  const bool blobs = path && path->kind == "blobs";
  if (!path || (!blobs && path->kind != "manifests"))
    return Answer(ErrorResponse(404, "UNSUPPORTED", "there is nothing at this path"), std::move(responder));
  if (!IsRepositoryName(path->name))
    return Answer(ErrorResponse(400, "NAME_INVALID", "malformed repository name"), std::move(responder));
  BlobOrigin origin{Parameter(request, "ns"), path->name};
  if (!IsRegistryName(origin.registry)) {
    return Answer(ErrorResponse(400, "NAME_INVALID", "ns=REGISTRY is missing or malformed"),
                  std::move(responder));
  }
  const absl::StatusOr<Digest> digest = Digest::Parse(path->reference);
  // What a tag means only the origin can say.
  if (!digest.ok() && !blobs && path->reference.find(':') == std::string::npos)
    return Answer(NotHere(), std::move(responder));
  if (!digest.ok())
    return Answer(ErrorResponse(400, "DIGEST_INVALID", "malformed digest"), std::move(responder));
  if (blobs) return OnBlob(request, origin, *digest, std::move(responder));
  parts_.io.Post(
      [self = shared_from_this(), origin, digest = *digest, responder = std::move(responder)]() mutable {
        self->AnswerDocument(self->parts_.documents.Manifest(origin, digest), &digest, std::move(responder));
      });
}

void PeerRoutes::OnBlob(const HttpRequest& request, const BlobOrigin& origin, const Digest& digest,
                        HttpResponder responder) {
  const std::shared_ptr<Blob> blob = parts_.store.FindBest(digest);
  if (!blob || blob->refused() || !IsPublic(parts_.ledger.AccessOf(blob->key(), origin)))
    return Answer(NotHere(), std::move(responder));
  // Before presence is looked at, so that no eviction comes in between.
  Blob::Lease lease(blob);
  const ChunkGeometry& geometry = blob->geometry();
  const std::string tag = EntityTag(digest);

  // A range means something to GET alone, and only if it is of what the client has: RFC 9110 sections 14.2
  // and 13.1.5.
  const std::string_view if_range = request.Header("If-Range");
  const bool ranged = request.method == HttpMethod::kGet && (if_range.empty() || if_range == tag);
  const RequestedRange wanted =
      ParseRange(ranged ? request.Header("Range") : std::string_view(), geometry.size());
  const ByteRange* const part = std::get_if<ByteRange>(&wanted);
  const ByteRange range = part ? *part : ByteRange{0, geometry.size()};

  const bool unsatisfiable = std::holds_alternative<UnsatisfiableRange>(wanted);
  const ChunkSpan span = geometry.Covering(range);
  if (!unsatisfiable && !parts_.reader.AllProven(*blob, span))
    return Answer(PartlyHere(*blob, span), std::move(responder));

  HttpResponse response;
  if (!request.Header("If-None-Match").empty() && Matches(request.Header("If-None-Match"), tag)) {
    response.status = 304;
  } else if (unsatisfiable) {
    response = ErrorResponse(416, "RANGE_INVALID", "not one range within the blob");
    response.headers.emplace_back("Content-Range", absl::StrCat("bytes */", geometry.size()));
  } else {
    response.status = part ? 206 : 200;
    response.content_type = "application/octet-stream";
    if (part) {
      response.headers.emplace_back(
          "Content-Range", absl::StrCat("bytes ", range.offset, "-", range.end() - 1, "/", geometry.size()));
    }
    if (const std::optional<Digest> root = blob->facts()->root)
      response.headers.emplace_back("Sluice-Verified", root->ToString());
    response.headers.emplace_back("Docker-Content-Digest", digest.ToString());
  }
  response.headers.emplace_back("Accept-Ranges", "bytes");
  response.headers.emplace_back("ETag", tag);
  if (response.status >= 300) return Answer(std::move(response), std::move(responder));
  SendBlob(std::move(lease), range, std::move(response), std::move(responder));
}

void PeerRoutes::SendBlob(Blob::Lease lease, ByteRange range, HttpResponse response,
                          HttpResponder responder) {
  parts_.io.Post([self = shared_from_this(),
                  serving = std::make_shared<Serving>(Serving{std::move(lease), nullptr}), range,
                  response = std::move(response), responder = std::move(responder)]() mutable {
    const Blob& blob = serving->lease.blob();
    absl::StatusOr<std::shared_ptr<const BlobFile>> file = self->parts_.reader.OpenFile(blob.key());
    // A file that was lost took its chunks back.
    if (!file.ok() || !self->parts_.reader.AllProven(blob, blob.geometry().Covering(range)))
      return self->Answer(NotHere(), std::move(responder));
    serving->file = *std::move(file);
    FileSpan span{serving->file->descriptor(), range.offset, range.length, serving, nullptr};
    Counter& sent = self->parts_.telemetry.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)];
    span.on_sent = [&sent](uint64_t bytes) { sent.Add(bytes); };
    response.file = std::move(span);
    self->Answer(std::move(response), std::move(responder));
  });
}

HttpResponse PeerRoutes::PartlyHere(const Blob& blob, ChunkSpan asked) {
  HttpResponse response = NotHere();
  std::vector<ChunkSpan> runs;
  for (ChunkIndex index = asked.first; index < asked.end(); index = index.next()) {
    if (!blob.presence().IsPresent(index) || !parts_.reader.AllProven(blob, {index, 1})) continue;
    if (!runs.empty() && runs.back().end() == index) {
      ++runs.back().count;
    } else if (runs.size() == kPresentRunsMax) {
      break;
    } else {
      runs.push_back({index, 1});
    }
  }
  if (!runs.empty()) response.headers.emplace_back("Sluice-Present", RunsText(blob.geometry(), runs));
  return response;
}

void PeerRoutes::OnRecipe(const HttpRequest& request, HttpResponder responder) {
  constexpr std::string_view kPrefix = "/sluice/v1/recipes/";
  const absl::StatusOr<Digest> digest = Digest::Parse(std::string_view(request.path).substr(kPrefix.size()));
  std::optional<Digest> root;
  bool malformed = !digest.ok();
  if (const std::string text = Parameter(request, "root"); !text.empty()) {
    const absl::StatusOr<Digest> parsed = Digest::Parse(text);
    malformed = malformed || !parsed.ok();
    if (parsed.ok()) root = *parsed;
  }
  if (malformed)
    return Answer(ErrorResponse(400, "DIGEST_INVALID", "malformed digest"), std::move(responder));
  parts_.io.Post(
      [self = shared_from_this(), digest = *digest, root, responder = std::move(responder)]() mutable {
        self->AnswerDocument(self->parts_.documents.Recipe(digest, root), nullptr, std::move(responder));
      });
}

void PeerRoutes::OnMembers(const HttpRequest& request, HttpResponder responder) {
  HttpResponse response;
  response.content_type = "application/json";
  response.body = parts_.members->Answer(Parameter(request, "since"), Parameter(request, "old"),
                                         request.Header("Sluice-Member"));
  Answer(std::move(response), std::move(responder));
}

// `digest` names the document itself, if it is named so.
void PeerRoutes::AnswerDocument(const absl::StatusOr<PeerDocument>& document, const Digest* digest,
                                HttpResponder responder) {
  if (!document.ok()) return Answer(NotHere(), std::move(responder));
  HttpResponse response;
  response.content_type = document->media_type;
  response.body = document->body;
  if (digest) {
    response.headers.emplace_back("ETag", EntityTag(*digest));
    response.headers.emplace_back("Docker-Content-Digest", digest->ToString());
  }
  Answer(std::move(response), std::move(responder));
}

}  // namespace

void AddPeerRoutes(HttpRoutes& routes, PeerRoutesParts parts) {
  const auto served = std::make_shared<PeerRoutes>(std::move(parts));
  routes["/v2/"] = [served](const HttpRequest& request, HttpResponder responder) {
    served->OnRegistry(request, std::move(responder));
  };
  routes["/sluice/v1/recipes/"] = [served](const HttpRequest& request, HttpResponder responder) {
    served->OnRecipe(request, std::move(responder));
  };
  if (!served->has_members()) return;
  routes["/sluice/v1/members"] = [served](const HttpRequest& request, HttpResponder responder) {
    served->OnMembers(request, std::move(responder));
  };
}

}  // namespace sluice::api
