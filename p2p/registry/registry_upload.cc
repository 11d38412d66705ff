#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/registry_call.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/registry_exchange.h"

namespace sluice::p2p {
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

  // False if the registry would rather have the bytes.
  absl::StatusOr<bool> Mount(const std::string& from_repository) {
    absl::StatusOr<Url> repository = core_->RepositoryUrl(origin_);
    if (!repository.ok()) return repository.status();
    location_ = *std::move(repository);
    RegistryRequest request = Request("POST");
    request.also_pulls = from_repository;
    // Both are names that a URL's query can hold as they are.
    request.path = absl::StrCat("/blobs/uploads/?mount=", digest_.ToString(), "&from=", from_repository);
    request.body = HttpBody::FromString("");
    const absl::StatusOr<Answer> answer = CallAndWait(core_, std::move(request));
    if (!answer.ok()) return answer.status();
    if (answer->head.status == 201) return true;
    // It has begun an upload instead, which nobody will end.
    if (Proceed(answer).ok()) Abandon();
    return false;
  }

  absl::Status Try() {
    absl::Status begun = Begin();
    if (begun.ok()) Abandon();
    return begun;
  }

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

  void Abandon() {
    RegistryRequest abandon = Request("DELETE");
    abandon.location = location_;
    abandon.repeat = RepeatRule::kNever;
    CallAndWait(core_, std::move(abandon)).IgnoreError();
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

namespace {

// Not remembered as absent: it is about to be there. `also_pulls`: what the request that follows pulls from,
// so that one token does for both.
absl::StatusOr<bool> HasBlob(const std::shared_ptr<RegistryCore>& core, const BlobOrigin& origin,
                             const Digest& digest, const std::string& also_pulls = {}) {
  RegistryRequest head{.origin = origin,
                       .access = RegistryAccess::kPush,
                       .also_pulls = also_pulls,
                       .method = "HEAD",
                       .path = BlobPath(digest)};
  head.deadline = core->DefaultDeadline();
  const absl::Status there = CallAndWait(core, std::move(head)).status();
  if (absl::IsNotFound(there)) return false;
  if (!there.ok()) return there;
  return true;
}

void ForgetAbsence(RegistryCore& core, const BlobOrigin& origin, const Digest& digest) {
  const absl::StatusOr<Url> repository = core.RepositoryUrl(origin);
  if (repository.ok()) core.not_found.Forget(repository->ToString() + BlobPath(digest));
}

}  // namespace

absl::Status RegistryClient::CheckPush(const BlobOrigin& origin) {
  OnProgress none;
  return BlobUpload(core_, origin, Digest(), HttpBody::FromString(""), none).Try();
}

absl::StatusOr<bool> RegistryClient::TakeBlob(const BlobOrigin& origin, const Digest& digest,
                                              const BlobOrigin& from) {
  const bool mountable = from != origin && from.registry == origin.registry;
  absl::StatusOr<bool> there = HasBlob(core_, origin, digest, mountable ? from.repository : "");
  // Who may not pull from there may still push here.
  const bool refused = absl::IsUnauthenticated(there.status()) || absl::IsPermissionDenied(there.status());
  if (mountable && refused) return HasBlob(core_, origin, digest);
  if (!there.ok() || *there || !mountable) return there;
  OnProgress none;
  const absl::StatusOr<bool> mounted =
      BlobUpload(core_, origin, digest, HttpBody::FromString(""), none).Mount(from.repository);
  // A registry that can't or will not do it is no hindrance to an upload.
  if (!mounted.ok()) return absl::IsUnavailable(mounted.status()) ? mounted : false;
  if (*mounted) ForgetAbsence(*core_, origin, digest);
  return mounted;
}

absl::Status RegistryClient::PushBlob(const BlobOrigin& origin, const Digest& digest, HttpBody body,
                                      OnProgress on_progress) {
  const absl::StatusOr<bool> there = HasBlob(core_, origin, digest);
  if (!there.ok() || *there) return there.status();
  absl::Status status;
  for (uint32_t attempt = 0; attempt <= core_->options.retries_max; ++attempt) {
    status = BlobUpload(core_, origin, digest, body, on_progress).Run();
    if (!absl::IsUnavailable(status)) break;
  }
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("pushing ", digest.ToString(), ": ", status.message()));
  }
  ForgetAbsence(*core_, origin, digest);
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
