#include "p2p/registry/registry_call.h"

#include <algorithm>
#include <span>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

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

}  // namespace

void Call(const std::shared_ptr<RegistryCore>& core, RegistryRequest request, AnswerDone done) {
  StartExchange(core, std::move(request), std::make_unique<BufferSink>(std::move(done)));
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
std::string ReferrersTag(const Digest& manifest) {
  return "sha256-" + manifest.Hex();
}

RegistryRequest ManifestRequest(const RegistryCore& core, const BlobOrigin& origin,
                                std::string_view tag_or_digest, const std::vector<std::string>& accept) {
  RegistryRequest request{.origin = origin, .path = ManifestPath(tag_or_digest)};
  if (!accept.empty()) request.headers.Add("Accept", absl::StrJoin(accept, ", "));
  request.deadline = core.DefaultDeadline();
  request.body_bytes_max = kManifestBytesMax;
  return request;
}

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

}  // namespace sluice::p2p
