#include "p2p/registry/registry_client.h"

#include <algorithm>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/registry_exchange.h"

namespace sluice::p2p {
namespace {

struct Answer {
  HttpHead head;
  std::string body;
  OriginAccess access = OriginAccess::kUnknown;
};
using AnswerDone = RegistryClient::Done<Answer>;

// Keeps a whole, small answer.
class BufferSink final : public AnswerSink {
 public:
  explicit BufferSink(AnswerDone done) : done_(std::move(done)) {}

  absl::Status OnHead(const HttpHead& head, OriginAccess access) override {
    answer_ = {head, {}, access};
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    answer_.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    if (!status.ok()) return std::move(done_)(std::move(status));
    std::move(done_)(std::move(answer_));
  }

 private:
  AnswerDone done_;
  Answer answer_;
};

void Call(const std::shared_ptr<RegistryCore>& core, RegistryRequest request, AnswerDone done) {
  StartExchange(core, std::move(request), std::make_unique<BufferSink>(std::move(done)));
}

// Runs `start` with a callback and waits for it.
template <typename T, typename Start>
absl::StatusOr<T> Wait(Start start) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<T>>>();
  std::future<absl::StatusOr<T>> future = promise->get_future();
  start([promise](absl::StatusOr<T> result) { promise->set_value(std::move(result)); });
  return future.get();
}

absl::StatusOr<Answer> CallAndWait(const std::shared_ptr<RegistryCore>& core, RegistryRequest request) {
  return Wait<Answer>([&](AnswerDone done) { Call(core, std::move(request), std::move(done)); });
}

std::string MediaTypeOf(const HttpHead& head) {
  const std::string_view value = head.headers.Get("Content-Type").value_or("");
  return absl::AsciiStrToLower(absl::StripAsciiWhitespace(Abs(value.substr(0, value.find(';')))));
}

absl::Status CheckTagOrDigest(std::string_view text) {
  constexpr size_t kLengthMax = 128 + 7;
  if (text.starts_with("sha256:")) return Digest::Parse(text).status();
  const bool clean = std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  if (clean && !text.empty() && text.size() <= kLengthMax && text[0] != '.' && text[0] != '-') {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is neither a tag nor a digest"));
}

std::string BlobPath(const Digest& digest) {
  return "/blobs/" + digest.ToString();
}
std::string ManifestPath(std::string_view tag_or_digest) {
  return absl::StrCat("/manifests/", Abs(tag_or_digest));
}
// Source: distribution specification, "Referrers Tag Schema".
std::string ReferrersTag(const Digest& manifest) {
  return "sha256-" + manifest.Hex();
}

absl::Status WrongDigest(const BlobOrigin& origin, const Digest& wanted, const Digest& got) {
  return absl::DataLossError(absl::StrCat(origin.registry, "/", origin.repository, " gave bytes with digest ",
                                          got.ToString(), " for ", wanted.ToString()));
}

absl::StatusOr<FetchedManifest> CheckManifest(const BlobOrigin& origin, const std::string& tag_or_digest,
                                              Answer answer) {
  FetchedManifest manifest{MediaTypeOf(answer.head), std::move(answer.body), {}, answer.access};
  manifest.digest = Sha256::Of(manifest.body);
  std::string_view promised = tag_or_digest;
  if (!promised.starts_with("sha256:")) {
    promised = answer.head.headers.Get("Docker-Content-Digest").value_or("");
  }
  // A registry may name it by another algorithm too; then the tag is all that vouches for it.
  if (!promised.starts_with("sha256:")) return manifest;
  const absl::StatusOr<Digest> wanted = Digest::Parse(promised);
  if (!wanted.ok()) return absl::DataLossError("malformed Docker-Content-Digest");
  if (*wanted != manifest.digest) return WrongDigest(origin, *wanted, manifest.digest);
  return manifest;
}

// Holds the answer to a ranged GET against what was asked.
class RangeSink final : public AnswerSink {
 public:
  RangeSink(uint64_t blob_size, ByteRange range, RegistryClient::OnAccess on_access,
            RegistryClient::OnData on_data, RegistryClient::RangeDone done)
      : blob_size_(blob_size),
        range_(range),
        on_access_(std::move(on_access)),
        on_data_(std::move(on_data)),
        done_(std::move(done)) {}

  absl::Status OnHead(const HttpHead& head, OriginAccess access) override {
    on_access_(access);
    const std::string_view encoding = head.headers.Get("Content-Encoding").value_or("identity");
    if (!absl::EqualsIgnoreCase(Abs(encoding), "identity")) {
      return absl::DataLossError("a range came with a Content-Encoding, so its offsets mean nothing");
    }
    partial_ = head.status == 206;
    if (partial_) return CheckPartial(head);
    if (head.status == 200) return CheckWhole(head);
    return absl::DataLossError(absl::StrCat("status ", head.status, " in answer to a ranged read"));
  }

  absl::Status OnBody(std::span<const std::byte> bytes) override {
    const uint64_t left = range_.length - received_;
    if (bytes.size() > left && partial_) {
      return absl::DataLossError(absl::StrCat("more than the ", range_.length, " bytes that were asked for"));
    }
    bytes = bytes.first(static_cast<size_t>(std::min<uint64_t>(bytes.size(), left)));
    received_ += bytes.size();
    if (!bytes.empty()) on_data_(bytes);
    // The rest of a whole blob that nobody asked for is not worth reading.
    const bool enough = !partial_ && received_ == range_.length && range_.length < blob_size_;
    return enough ? absl::CancelledError("enough was read") : absl::OkStatus();
  }

  void OnDone(absl::Status status) override {
    const bool complete = received_ == range_.length;
    if (complete && !partial_) status = absl::OkStatus();
    if (status.ok() && !complete) {
      status = absl::UnavailableError(
          absl::StrCat("body ended after ", received_, " of ", range_.length, " bytes"));
    }
    std::move(done_)(std::move(status));
  }

 private:
  absl::Status CheckPartial(const HttpHead& head) const {
    if (MediaTypeOf(head).starts_with("multipart/")) {
      return absl::DataLossError("a multipart answer to a request for one range");
    }
    const std::string_view text = head.headers.Get("Content-Range").value_or("");
    const std::optional<ContentRange> got = ParseContentRange(text);
    if (!got) return absl::DataLossError("206 with a missing or malformed Content-Range");
    if (got->total != blob_size_) return WrongSize(got->total);
    if (got->range != range_) {
      return absl::DataLossError(absl::StrCat("asked for bytes ", range_.offset, "-", range_.end() - 1,
                                              ", got ", got->range.offset, "-", got->range.end() - 1));
    }
    return CheckLength(head, range_.length);
  }

  absl::Status CheckWhole(const HttpHead& head) const {
    if (range_.offset != 0) {
      return absl::DataLossError(
          absl::StrCat("the server ignores Range: 200 in answer to a read at offset ", range_.offset));
    }
    const std::optional<uint64_t> length = ParseNumber(head.headers.Get("Content-Length").value_or(""));
    return length && *length != blob_size_ ? WrongSize(*length) : absl::OkStatus();
  }

  absl::Status CheckLength(const HttpHead& head, uint64_t wanted) const {
    const std::optional<std::string_view> text = head.headers.Get("Content-Length");
    if (!text || ParseNumber(*text) == wanted) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("Content-Length is not the ", wanted, " bytes of Content-Range"));
  }

  absl::Status WrongSize(uint64_t size) const {
    return absl::DataLossError(
        absl::StrCat("the registry's blob has ", size, " bytes, its manifest promised ", blob_size_));
  }

  const uint64_t blob_size_;
  const ByteRange range_;
  RegistryClient::OnAccess on_access_;
  RegistryClient::OnData on_data_;
  RegistryClient::RangeDone done_;
  bool partial_ = false;
  uint64_t received_ = 0;
};

RegistryRequest ManifestRequest(const RegistryCore& core, const BlobOrigin& origin,
                                std::string_view tag_or_digest, const std::vector<std::string>& accept) {
  RegistryRequest request{.origin = origin, .path = ManifestPath(tag_or_digest)};
  if (!accept.empty()) request.headers.Add("Accept", absl::StrJoin(accept, ", "));
  request.deadline = core.DefaultDeadline();
  request.body_bytes_max = kManifestBytesMax;
  return request;
}

// The index of referrers that an answer holds; an empty one if there is no such list.
absl::StatusOr<ImageIndex> IndexOf(absl::StatusOr<Answer> answer) {
  if (absl::IsNotFound(answer.status())) return ImageIndex{};
  if (!answer.ok()) return answer.status();
  absl::StatusOr<Manifest> manifest = ParseManifest(answer->body, MediaTypeOf(answer->head));
  if (!manifest.ok())
    return absl::DataLossError(absl::StrCat("referrers list: ", manifest.status().message()));
  ImageIndex* const index = std::get_if<ImageIndex>(&*manifest);
  if (index == nullptr) return absl::DataLossError("the referrers list is no image index");
  return *std::move(index);
}

}  // namespace

RegistryClient::RegistryClient(Parts parts, RegistryOptions options)
    : core_(std::make_shared<RegistryCore>(parts, std::move(options))) {}

RegistryClient::~RegistryClient() {
  Stop();
}

void RegistryClient::Stop() {
  core_->http.Stop();
}

void RegistryClient::FetchManifest(const BlobOrigin& origin, const std::string& tag_or_digest,
                                   const std::vector<std::string>& accept, Done<FetchedManifest> done) {
  if (absl::Status status = CheckTagOrDigest(tag_or_digest); !status.ok()) return std::move(done)(status);
  Call(core_, ManifestRequest(*core_, origin, tag_or_digest, accept),
       [origin, tag_or_digest, done = std::move(done)](absl::StatusOr<Answer> answer) mutable {
         if (!answer.ok()) return std::move(done)(std::move(answer).status());
         std::move(done)(CheckManifest(origin, tag_or_digest, *std::move(answer)));
       });
}

absl::StatusOr<FetchedManifest> RegistryClient::FetchManifest(const BlobOrigin& origin,
                                                              const std::string& tag_or_digest,
                                                              const std::vector<std::string>& accept) {
  return Wait<FetchedManifest>(
      [&](Done<FetchedManifest> done) { FetchManifest(origin, tag_or_digest, accept, std::move(done)); });
}

std::shared_ptr<FetchControl> RegistryClient::ReadBlobRange(const BlobOrigin& origin, const Digest& digest,
                                                            uint64_t blob_size, ByteRange range,
                                                            FetchClass fetch_class, Instant deadline,
                                                            OnAccess on_access, OnData on_data,
                                                            RangeDone done) {
  RegistryRequest request{.origin = origin, .path = BlobPath(digest)};
  request.headers.Add("Range", absl::StrCat("bytes=", range.offset, "-", range.end() - 1));
  request.deadline = deadline;
  // A server that ignores Range announces the whole blob; the sink ends that in time.
  request.body_bytes_max = blob_size;
  request.repeat = RepeatRule::kUntilFirstByte;
  request.redirect_memory = RedirectMemory::kKeep;
  request.fetch_class = fetch_class;
  return StartExchange(core_, std::move(request),
                       std::make_unique<RangeSink>(blob_size, range, std::move(on_access), std::move(on_data),
                                                   std::move(done)));
}

void RegistryClient::HeadBlob(const BlobOrigin& origin, const Digest& digest, Done<uint64_t> done) {
  RegistryRequest request{.origin = origin, .method = "HEAD", .path = BlobPath(digest)};
  request.deadline = core_->DefaultDeadline();
  Call(core_, std::move(request), [done = std::move(done)](absl::StatusOr<Answer> answer) mutable {
    if (!answer.ok()) return std::move(done)(std::move(answer).status());
    const std::optional<uint64_t> size = ParseNumber(answer->head.headers.Get("Content-Length").value_or(""));
    if (!size) return std::move(done)(absl::DataLossError("the registry doesn't tell the blob's size"));
    std::move(done)(*size);
  });
}

absl::StatusOr<uint64_t> RegistryClient::HeadBlob(const BlobOrigin& origin, const Digest& digest) {
  return Wait<uint64_t>([&](Done<uint64_t> done) { HeadBlob(origin, digest, std::move(done)); });
}

void RegistryClient::FetchWholeBlob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max,
                                    Done<std::string> done) {
  RegistryRequest request{.origin = origin, .path = BlobPath(digest)};
  request.deadline = core_->DefaultDeadline();
  request.body_bytes_max = bytes_max;
  request.redirect_memory = RedirectMemory::kKeep;
  Call(core_, std::move(request),
       [origin, digest, bytes_max, done = std::move(done)](absl::StatusOr<Answer> answer) mutable {
         if (!answer.ok()) return std::move(done)(std::move(answer).status());
         if (answer->body.size() > bytes_max) {
           return std::move(done)(absl::ResourceExhaustedError(
               absl::StrCat(digest.ToString(), " has more than ", bytes_max, " bytes")));
         }
         const Digest got = Sha256::Of(answer->body);
         if (got != digest) return std::move(done)(WrongDigest(origin, digest, got));
         std::move(done)(std::move(answer->body));
       });
}

absl::StatusOr<std::string> RegistryClient::FetchWholeBlob(const BlobOrigin& origin, const Digest& digest,
                                                           uint64_t bytes_max) {
  return Wait<std::string>(
      [&](Done<std::string> done) { FetchWholeBlob(origin, digest, bytes_max, std::move(done)); });
}

absl::StatusOr<std::vector<Descriptor>> RegistryClient::ListReferrers(const BlobOrigin& origin,
                                                                      const Digest& manifest,
                                                                      const std::string& artifact_type) {
  RegistryRequest request{.origin = origin, .path = "/referrers/" + manifest.ToString()};
  request.headers.Add("Accept", media_type::kOciIndex);
  request.deadline = core_->DefaultDeadline();
  request.body_bytes_max = kManifestBytesMax;
  absl::StatusOr<Answer> answer = CallAndWait(core_, std::move(request));
  if (absl::IsNotFound(answer.status())) {
    answer = CallAndWait(
        core_, ManifestRequest(*core_, origin, ReferrersTag(manifest), {std::string(media_type::kOciIndex)}));
  }
  absl::StatusOr<ImageIndex> index = IndexOf(std::move(answer));
  if (!index.ok()) return index.status();
  std::erase_if(index->manifests, [&](const Descriptor& d) { return d.artifact_type != artifact_type; });
  return std::move(index->manifests);
}

namespace {

// The upload of one blob: distribution specification, "Pushing blobs".
class BlobUpload {
 public:
  BlobUpload(std::shared_ptr<RegistryCore> core, BlobOrigin origin, Digest digest, HttpBody body,
             RegistryClient::OnProgress& on_progress)
      : core_(std::move(core)),
        origin_(std::move(origin)),
        digest_(digest),
        body_(std::move(body)),
        on_progress_(on_progress) {}

  absl::Status Run() {
    if (absl::Status status = Begin(); !status.ok()) return status;
    if (body_.size <= core_->options.upload_chunk_bytes) return Close(Part({0, body_.size}));
    for (uint64_t offset = 0; offset < body_.size;) {
      const uint64_t length = std::min(core_->options.upload_chunk_bytes, body_.size - offset);
      if (absl::Status status = SendChunk({offset, length}); !status.ok()) return status;
      offset += length;
    }
    return Close(HttpBody::FromString(""));
  }

 private:
  RegistryRequest Request(std::string method) const {
    RegistryRequest request{.origin = origin_, .access = RegistryAccess::kPush, .method = std::move(method)};
    request.deadline = core_->parts.clock.Now() + core_->options.upload_timeout;
    return request;
  }

  absl::Status Begin() {
    absl::StatusOr<Url> repository = core_->RepositoryUrl(origin_);
    if (!repository.ok()) return repository.status();
    location_ = *std::move(repository);
    RegistryRequest request = Request("POST");
    request.path = "/blobs/uploads/";
    request.body = HttpBody::FromString("");
    return Proceed(CallAndWait(core_, std::move(request)));
  }

  absl::Status SendChunk(ByteRange range) {
    RegistryRequest request = Request("PATCH");
    request.location = location_;
    request.headers.Add("Content-Type", media_type::kOctetStream);
    request.headers.Add("Content-Range", absl::StrCat(range.offset, "-", range.end() - 1));
    request.body = Part(range);
    request.repeat = RepeatRule::kNever;
    return Proceed(CallAndWait(core_, std::move(request)));
  }

  absl::Status Close(HttpBody body) {
    RegistryRequest request = Request("PUT");
    request.location = location_->WithQuery("digest", digest_.ToString());
    request.headers.Add("Content-Type", media_type::kOctetStream);
    request.body = std::move(body);
    request.repeat = RepeatRule::kNever;
    return CallAndWait(core_, std::move(request)).status();
  }

  // Every answer on the way says where the next request goes.
  absl::Status Proceed(const absl::StatusOr<Answer>& answer) {
    if (!answer.ok()) return answer.status();
    const std::optional<std::string_view> text = answer->head.headers.Get("Location");
    if (!text) return absl::DataLossError(absl::StrCat(location_->Redacted(), ": upload without a Location"));
    absl::StatusOr<Url> next = location_->Resolve(*text);
    if (!next.ok())
      return absl::PermissionDeniedError(absl::StrCat("upload location: ", next.status().message()));
    const auto loopback = NamesLoopback(location_->host()) ? LoopbackRule::kAllow : LoopbackRule::kRefuse;
    if (absl::Status status = JudgeStep(*location_, *next, loopback); !status.ok()) return status;
    location_ = *std::move(next);
    return absl::OkStatus();
  }

  HttpBody Part(ByteRange range) {
    auto read = [this, source = body_.read, range](uint64_t offset,
                                                   std::span<std::byte> out) -> absl::StatusOr<size_t> {
      absl::StatusOr<size_t> n = (*source)(range.offset + offset, out);
      if (n.ok() && on_progress_) on_progress_(range.offset + offset + *n);
      return n;
    };
    return {range.length, std::make_shared<HttpBody::Reader>(std::move(read))};
  }

  const std::shared_ptr<RegistryCore> core_;
  const BlobOrigin origin_;
  const Digest digest_;
  const HttpBody body_;
  RegistryClient::OnProgress& on_progress_;
  std::optional<Url> location_;
};

}  // namespace

absl::Status RegistryClient::PushBlob(const BlobOrigin& origin, const Digest& digest, HttpBody body,
                                      OnProgress on_progress) {
  RegistryRequest head{
      .origin = origin, .access = RegistryAccess::kPush, .method = "HEAD", .path = BlobPath(digest)};
  head.deadline = core_->DefaultDeadline();
  const absl::StatusOr<Answer> there = CallAndWait(core_, std::move(head));
  if (there.ok() || !absl::IsNotFound(there.status())) return there.status();
  absl::Status status;
  for (uint32_t attempt = 0; attempt <= core_->options.retries_max; ++attempt) {
    status = BlobUpload(core_, origin, digest, body, on_progress).Run();
    if (!absl::IsUnavailable(status)) break;
  }
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("pushing ", digest.ToString(), ": ", status.message()));
  }
  if (const absl::StatusOr<Url> repository = core_->RepositoryUrl(origin); repository.ok()) {
    core_->not_found.Forget(repository->ToString() + BlobPath(digest));
  }
  return status;
}

namespace {

// Uploads a manifest; returns the answer's headers.
absl::StatusOr<HttpHead> PutManifest(const std::shared_ptr<RegistryCore>& core, const BlobOrigin& origin,
                                     std::string_view tag_or_digest, std::string_view media_type,
                                     const std::string& body) {
  RegistryRequest request{.origin = origin,
                          .access = RegistryAccess::kPush,
                          .method = "PUT",
                          .path = ManifestPath(tag_or_digest)};
  request.headers.Add("Content-Type", media_type);
  request.body = HttpBody::FromString(body);
  request.deadline = core->DefaultDeadline();
  absl::StatusOr<Answer> answer = CallAndWait(core, std::move(request));
  if (!answer.ok()) return answer.status();
  if (const absl::StatusOr<Url> repository = core->RepositoryUrl(origin); repository.ok()) {
    core->not_found.Forget(repository->ToString() + ManifestPath(tag_or_digest));
    core->not_found.Forget(repository->ToString() + ManifestPath(Sha256::Of(body).ToString()));
  }
  return std::move(answer->head);
}

// Adds `referrer` to the list at its subject's tag.
absl::Status ExtendReferrersTag(const std::shared_ptr<RegistryCore>& core, const BlobOrigin& origin,
                                const Digest& subject, const Descriptor& referrer) {
  const std::string tag = ReferrersTag(subject);
  RegistryRequest request = ManifestRequest(*core, origin, tag, {std::string(media_type::kOciIndex)});
  // Not remembered as absent: it is about to be there.
  request.access = RegistryAccess::kPush;
  absl::StatusOr<ImageIndex> index = IndexOf(CallAndWait(core, std::move(request)));
  if (!index.ok()) return index.status();
  const auto known = std::find_if(index->manifests.begin(), index->manifests.end(),
                                  [&](const Descriptor& d) { return d.digest == referrer.digest; });
  if (known != index->manifests.end()) return absl::OkStatus();
  if (index->manifests.size() >= kIndexEntriesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the referrers list ", tag, " has ", kIndexEntriesMax, " entries already"));
  }
  index->manifests.push_back(referrer);
  return PutManifest(core, origin, tag, media_type::kOciIndex, SerializeIndex(*index)).status();
}

}  // namespace

absl::StatusOr<Digest> RegistryClient::PushManifest(const BlobOrigin& origin,
                                                    const std::string& tag_or_digest,
                                                    const std::string& media_type, const std::string& body) {
  if (absl::Status status = CheckTagOrDigest(tag_or_digest); !status.ok()) return status;
  const Digest digest = Sha256::Of(body);
  if (tag_or_digest.starts_with("sha256:") && tag_or_digest != digest.ToString()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the manifest has digest ", digest.ToString(), ", not ", tag_or_digest));
  }
  const absl::StatusOr<Manifest> parsed = ParseManifest(body, media_type);
  if (!parsed.ok()) return parsed.status();
  const absl::StatusOr<HttpHead> head = PutManifest(core_, origin, tag_or_digest, media_type, body);
  if (!head.ok()) return head.status();
  const ImageManifest* const image = std::get_if<ImageManifest>(&*parsed);
  if (image == nullptr || !image->subject || head->headers.Get("OCI-Subject")) return digest;
  Descriptor referrer{.media_type = media_type,
                      .digest = digest,
                      .size = body.size(),
                      .annotations = image->annotations,
                      .artifact_type = image->artifact_type,
                      .platform = {}};
  // Distribution specification, "Pushing Manifests with Subject".
  if (referrer.artifact_type.empty()) referrer.artifact_type = image->config.media_type;
  const absl::Status status = ExtendReferrersTag(core_, origin, image->subject->digest, referrer);
  if (!status.ok()) return status;
  return digest;
}

}  // namespace sluice::p2p
