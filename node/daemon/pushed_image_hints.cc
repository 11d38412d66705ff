#include "node/daemon/pushed_image_hints.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

constexpr size_t kSecretBytesMax = 4 << 10;

}  // namespace

absl::StatusOr<PushedImageHints::Heard> PushedImageHints::Take(std::string_view body) {
  const absl::StatusOr<PushEvents> events = ParsePushEvents(body);
  if (!events.ok()) return events.status();
  Heard heard;
  heard.ignored = events->left_out;
  for (const PushedImage& image : events->images) {
    const absl::Status hinted = Hint(image);
    ++(hinted.ok() ? heard.hinted : absl::IsResourceExhausted(hinted) ? heard.refused : heard.ignored);
  }
  return heard;
}

absl::Status PushedImageHints::Hint(const PushedImage& image) {
  api::HintSpec hint;
  hint.reference =
      absl::StrCat(image.origin.registry, "/", image.origin.repository, "@", image.digest.ToString());
  // Told again it is the same hint.
  hint.id = absl::StrCat("pushed-", p2p::Sha256::Of(absl::StrCat(image.event, " ", hint.reference)).Hex());
  hint.scheduler = kScheduler;
  const absl::StatusOr<std::vector<api::SubmitResult>> results = hints_.SubmitHints({hint});
  const absl::Status refused = results.ok() ? results->front().error : results.status();
  if (refused.ok()) {
    spdlog::info("{} was pushed, and is brought in", hint.reference);
  } else {
    spdlog::info("{} was pushed, and is not brought in: {}", hint.reference, refused.ToString());
  }
  return refused;
}

absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  struct stat found {};
  std::ifstream in(path, std::ios::binary);
  if (!in || stat(path.c_str(), &found) != 0)
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  if ((found.st_mode & S_IRWXO) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " can be read by everybody: \"chmod o-rwx ", path, "\" keeps the secret"));
  }
  std::string text(kSecretBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  const bool fits = text.size() <= kSecretBytesMax;
  text = std::string(absl::StripAsciiWhitespace(text));
  const bool is_plain = std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
  if (!fits || !is_plain || text.size() < kSecretBytesMin) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " must hold one word of ", kSecretBytesMin, " to ", kSecretBytesMax,
                     " printable characters, as \"openssl rand -hex 32\" makes one"));
  }
  return text;
}

}  // namespace sluice
