#include "p2p/registry/registry_client.h"

#include <algorithm>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/given_credentials.h"
#include "p2p/registry/pull_grant.h"
#include "p2p/registry/registry_call.h"
#include "p2p/registry/registry_exchange.h"

namespace sluice::p2p {
namespace {

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
  // `takes` may be null.
  RangeSink(BlobRead read, RegistryClient::Takes takes)
      : blob_size_(read.blob_size),
        range_(read.range),
        takes_(std::move(takes)),
        on_access_(std::move(read.on_access)),
        on_data_(std::move(read.on_data)),
        done_(std::move(read.done)) {}

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

  bool Takes() override { return !takes_ || takes_(); }

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
  RegistryClient::Takes takes_;
  BlobRead::OnAccess on_access_;
  BlobRead::OnData on_data_;
  BlobRead::Done done_;
  bool partial_ = false;
  uint64_t received_ = 0;
};

}  // namespace

RegistryClient::RegistryClient(Parts parts, RegistryOptions options)
    : core_(std::make_shared<RegistryCore>(parts, std::move(options))),
      rights_(std::make_shared<PullRights>(core_)) {}

RegistryClient::RegistryClient(std::shared_ptr<RegistryCore> core, Grant grant)
    : core_(std::move(core)), grant_(std::move(grant)), rights_(std::make_shared<PullRights>(core_)) {}

RegistryClient::~RegistryClient() {
  Stop();
}

Grant RegistryClient::LogIn(const std::string& registry, std::string username, Secret password) {
  return PullGrant::OfCredentials(core_->AuthorizerOf(
      std::make_shared<GivenCredentials>(registry, std::move(username), std::move(password))));
}

std::unique_ptr<RegistryClient> RegistryClient::By(Grant grant) const {
  return std::unique_ptr<RegistryClient>(new RegistryClient(core_, std::move(grant)));
}

void RegistryClient::Stop() {
  if (!grant_) core_->http.Stop();
}

bool RegistryClient::AsksForPatience(const std::string& registry) const {
  return core_->patience.IsAskedBy(registry);
}

void RegistryClient::FetchManifest(const BlobOrigin& origin, const std::string& tag_or_digest,
                                   const std::vector<std::string>& accept, Done<FetchedManifest> done,
                                   const Grant& grant) {
  if (absl::Status status = CheckTagOrDigest(tag_or_digest); !status.ok()) return std::move(done)(status);
  RegistryRequest request = ManifestRequest(*core_, origin, tag_or_digest, accept);
  request.grant = RightOf(grant);
  Call(core_, std::move(request),
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
                                                            RangeDone done, const Grant& grant) {
  return ReadBlobPaced({.origin = origin,
                        .digest = digest,
                        .blob_size = blob_size,
                        .range = range,
                        .fetch_class = fetch_class,
                        .deadline = deadline,
                        .grant = grant,
                        .on_access = std::move(on_access),
                        .on_data = std::move(on_data),
                        .done = std::move(done)},
                       nullptr);
}

std::shared_ptr<PacedControl> RegistryClient::ReadBlobPaced(BlobRead read, Takes takes) {
  RegistryRequest request{.origin = read.origin, .path = BlobPath(read.digest)};
  request.headers.Add("Range", absl::StrCat("bytes=", read.range.offset, "-", read.range.end() - 1));
  request.deadline = read.deadline;
  // A server that ignores Range announces the whole blob; the sink ends that in time.
  request.body_bytes_max = read.blob_size;
  request.repeat = RepeatRule::kUntilFirstByte;
  request.redirect_memory = RedirectMemory::kKeep;
  request.fetch_class = read.fetch_class;
  request.grant = RightOf(read.grant);
  request.own_connection = takes != nullptr;
  return StartExchange(core_, std::move(request),
                       std::make_unique<RangeSink>(std::move(read), std::move(takes)));
}

void RegistryClient::After(Duration delay, Task task) {
  core_->http.After(delay, std::move(task));
}

void RegistryClient::StatBlob(const BlobOrigin& origin, const Digest& digest, Done<BlobStat> done,
                              const Grant& grant) {
  RegistryRequest request{.origin = origin, .method = "HEAD", .path = BlobPath(digest)};
  request.deadline = core_->DefaultDeadline();
  request.grant = RightOf(grant);
  Call(core_, std::move(request), [done = std::move(done)](absl::StatusOr<Answer> answer) mutable {
    if (!answer.ok()) return std::move(done)(std::move(answer).status());
    const std::optional<uint64_t> size = ParseNumber(answer->head.headers.Get("Content-Length").value_or(""));
    if (!size) return std::move(done)(absl::DataLossError("the registry doesn't tell the blob's size"));
    std::move(done)(BlobStat{*size, answer->access});
  });
}

void RegistryClient::HeadBlob(const BlobOrigin& origin, const Digest& digest, Done<uint64_t> done) {
  StatBlob(origin, digest, [done = std::move(done)](absl::StatusOr<BlobStat> stat) mutable {
    if (!stat.ok()) return std::move(done)(std::move(stat).status());
    std::move(done)(stat->size);
  });
}

absl::StatusOr<uint64_t> RegistryClient::HeadBlob(const BlobOrigin& origin, const Digest& digest) {
  return Wait<uint64_t>([&](Done<uint64_t> done) { HeadBlob(origin, digest, std::move(done)); });
}

void RegistryClient::FetchWholeBlob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max,
                                    Done<std::string> done) {
  FetchBlobDocument(origin, digest, bytes_max,
                    [done = std::move(done)](absl::StatusOr<FetchedManifest> got) mutable {
                      if (!got.ok()) return std::move(done)(std::move(got).status());
                      std::move(done)(std::move(got->body));
                    });
}

void RegistryClient::FetchBlobDocument(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max,
                                       Done<FetchedManifest> done, const Grant& grant) {
  RegistryRequest request{.origin = origin, .path = BlobPath(digest)};
  request.grant = RightOf(grant);
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
         std::move(done)(
             FetchedManifest{MediaTypeOf(answer->head), std::move(answer->body), digest, answer->access});
       });
}

absl::StatusOr<std::string> RegistryClient::FetchWholeBlob(const BlobOrigin& origin, const Digest& digest,
                                                           uint64_t bytes_max) {
  return Wait<std::string>(
      [&](Done<std::string> done) { FetchWholeBlob(origin, digest, bytes_max, std::move(done)); });
}

void RegistryClient::FetchReferrers(const BlobOrigin& origin, const Digest& manifest,
                                    Done<FetchedManifest> done, const Grant& grant) {
  RegistryRequest request{.origin = origin, .path = "/referrers/" + manifest.ToString()};
  request.headers.Add("Accept", media_type::kOciIndex);
  request.deadline = core_->DefaultDeadline();
  request.body_bytes_max = kManifestBytesMax;
  request.grant = RightOf(grant);
  auto give = [](absl::StatusOr<Answer> answer, Done<FetchedManifest> to) {
    // That there is none may be for those alone who show credentials, too.
    const bool is_public = answer.ok() ? IsPublic(answer->access) : IsToldToEverybody(answer.status());
    const OriginAccess access = is_public ? OriginAccess::kPublic : OriginAccess::kCredentials;
    const absl::StatusOr<ImageIndex> index = IndexOf(std::move(answer));
    if (!index.ok()) return std::move(to)(index.status());
    std::string body = SerializeIndex(*index);
    const Digest digest = Sha256::Of(body);
    std::move(to)(FetchedManifest{std::string(media_type::kOciIndex), std::move(body), digest, access});
  };
  Call(core_, std::move(request),
       [core = core_, origin, manifest, grant = RightOf(grant), give,
        done = std::move(done)](absl::StatusOr<Answer> answer) mutable {
         if (!absl::IsNotFound(answer.status())) return give(std::move(answer), std::move(done));
         RegistryRequest tagged =
             ManifestRequest(*core, origin, ReferrersTag(manifest), {std::string(media_type::kOciIndex)});
         tagged.grant = grant;
         Call(core, std::move(tagged), [give, done = std::move(done)](absl::StatusOr<Answer> list) mutable {
           give(std::move(list), std::move(done));
         });
       });
}

void RegistryClient::AnonymousToken(const BlobOrigin& origin, Done<AccessToken> done) {
  absl::StatusOr<AccessNeed> need = core_->PullNeed(origin);
  if (!need.ok()) return std::move(done)(need.status());
  if (std::optional<AccessToken> known = core_->authorizer->AnonymousToken(*need))
    return std::move(done)(*std::move(known));
  // Whatever it answers: by then the authorizer knows what it takes.
  RegistryRequest request{.origin = origin, .method = "HEAD", .path = "/tags/list"};
  request.deadline = core_->DefaultDeadline();
  request.grant = PullGrant::OfStranger();
  Call(
      core_, std::move(request),
      [core = core_, need = *std::move(need), done = std::move(done)](const absl::StatusOr<Answer>&) mutable {
        std::optional<AccessToken> token = core->authorizer->AnonymousToken(need);
        if (!token) return std::move(done)(absl::NotFoundError("strangers need no token, or get none"));
        std::move(done)(*std::move(token));
      });
}

absl::StatusOr<std::vector<Descriptor>> RegistryClient::ListReferrers(const BlobOrigin& origin,
                                                                      const Digest& manifest,
                                                                      const std::string& artifact_type) {
  const absl::StatusOr<FetchedManifest> list = Wait<FetchedManifest>(
      [&](Done<FetchedManifest> done) { FetchReferrers(origin, manifest, std::move(done)); });
  if (!list.ok()) return list.status();
  return ReferrersOfType(list->body, artifact_type);
}

absl::StatusOr<std::vector<Descriptor>> ReferrersOfType(std::string_view index,
                                                        const std::string& artifact_type) {
  absl::StatusOr<Manifest> manifest = ParseManifest(index, media_type::kOciIndex);
  ImageIndex* const list = manifest.ok() ? std::get_if<ImageIndex>(&*manifest) : nullptr;
  if (list == nullptr) return absl::DataLossError("the referrers list is no image index");
  std::erase_if(list->manifests, [&](const Descriptor& d) { return d.artifact_type != artifact_type; });
  return std::move(list->manifests);
}

}  // namespace sluice::p2p
