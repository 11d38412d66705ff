#include "p2p/registry/reference.h"

#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

constexpr size_t kTagBytesMax = 128;
constexpr int kPortMax = 65535;

absl::Status Invalid(std::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("image reference ", Quoted(text), ": ", why));
}

bool IsLowerAlnum(char c) {
  return absl::ascii_islower(c) || absl::ascii_isdigit(c);
}

// A component is runs of [a-z0-9] joined by '.', '_', '__' or any number of '-'.
bool IsRepositoryComponent(std::string_view text) {
  if (text.empty() || !IsLowerAlnum(text.front()) || !IsLowerAlnum(text.back())) return false;
  for (size_t i = 0; i < text.size();) {
    if (IsLowerAlnum(text[i])) {
      ++i;
      continue;
    }
    const size_t end = text.find_first_not_of(text[i], i);  // exists: the last character is alphanumeric
    const size_t run = end - i;
    const bool joins = text[i] == '-' || (text[i] == '.' && run == 1) || (text[i] == '_' && run <= 2);
    if (!joins || !IsLowerAlnum(text[end])) return false;
    i = end;
  }
  return true;
}

bool IsRepository(std::string_view text) {
  while (true) {
    const size_t slash = text.find('/');
    if (!IsRepositoryComponent(text.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    text.remove_prefix(slash + 1);
  }
}

bool IsTag(std::string_view text) {
  if (text.empty() || text.size() > kTagBytesMax || text.front() == '.' || text.front() == '-') return false;
  return text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
         std::string_view::npos;
}

bool IsDomainLabel(std::string_view text) {
  if (text.empty() || text.size() > 63 || text.front() == '-' || text.back() == '-') return false;
  for (char c : text) {
    if (!absl::ascii_isalnum(c) && c != '-') return false;
  }
  return true;
}

bool IsDomain(std::string_view text) {
  while (true) {
    const size_t dot = text.find('.');
    if (!IsDomainLabel(text.substr(0, dot))) return false;
    if (dot == std::string_view::npos) return true;
    text.remove_prefix(dot + 1);
  }
}

bool IsBracketedAddress(std::string_view text) {
  return text.size() > 4 && text.front() == '[' && text.back() == ']' &&
         text.substr(1, text.size() - 2).find_first_not_of("0123456789abcdefABCDEF:.") ==
             std::string_view::npos;
}

bool IsPort(std::string_view text) {
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() && absl::ascii_isdigit(text.front()) &&
         port >= 1 && port <= kPortMax;
}

bool IsRegistry(std::string_view text) {
  const size_t host_end = text.starts_with('[') ? text.find(']') + 1 : text.find(':');
  const std::string_view host = text.substr(0, host_end);
  const std::string_view rest = text.substr(host.size());
  if (!rest.empty() && (rest.front() != ':' || !IsPort(rest.substr(1)))) return false;
  return host.starts_with('[') ? IsBracketedAddress(host) : IsDomain(host);
}

// Docker's rule for telling "host/repository" from "user/repository".
bool LooksLikeRegistry(std::string_view first_component) {
  return first_component == "localhost" || first_component.find_first_of(".:[") != std::string_view::npos;
}

// Takes the part from the last `mark` on off `rest`; what stood behind the mark is the result.
std::optional<std::string_view> TakeAfter(std::string_view& rest, size_t mark) {
  if (mark == std::string_view::npos) return std::nullopt;
  const std::string_view taken = rest.substr(mark + 1);
  rest = rest.substr(0, mark);
  return taken;
}

BlobOrigin SplitOrigin(std::string_view name) {
  const size_t slash = name.find('/');
  if (slash != std::string_view::npos && LooksLikeRegistry(name.substr(0, slash))) {
    BlobOrigin origin{absl::AsciiStrToLower(Abs(name.substr(0, slash))), std::string(name.substr(slash + 1))};
    if (origin.registry == "index.docker.io") origin.registry = kRegistryDefault;
    if (origin.registry == kRegistryDefault && !origin.repository.empty() &&
        origin.repository.find('/') == std::string::npos) {
      origin.repository.insert(0, "library/");
    }
    return origin;
  }
  return {std::string(kRegistryDefault),
          slash == std::string_view::npos ? absl::StrCat("library/", Abs(name)) : std::string(name)};
}

}  // namespace

absl::StatusOr<ImageReference> ImageReference::Parse(std::string_view text) {
  if (text.empty()) return Invalid(text, "it is empty; expected [host[:port]/]repository[:tag][@sha256:…]");
  if (text.size() > kReferenceBytesMax) {
    return Invalid(text, absl::StrCat("it has ", text.size(), " bytes, more than ", kReferenceBytesMax));
  }
  if (text.find("://") != std::string_view::npos) {
    return Invalid(text,
                   "it is a URL; leave the scheme out (plain http is chosen by option, not by reference)");
  }

  ImageReference reference;
  std::string_view rest = text;
  if (const auto digest_text = TakeAfter(rest, rest.find('@'))) {
    absl::StatusOr<Digest> digest = Digest::Parse(*digest_text);
    if (!digest.ok()) return Invalid(text, digest.status().message());
    reference.digest = *digest;
  }
  const size_t slash = rest.rfind('/');
  const size_t colon = rest.find(':', slash == std::string_view::npos ? 0 : slash);
  if (const auto tag = TakeAfter(rest, colon)) {
    if (!IsTag(*tag)) {
      return Invalid(text,
                     "the tag must be 1 to 128 letters, digits, '_', '.' or '-', and start with a letter, "
                     "a digit or '_'");
    }
    reference.tag = *tag;
  } else if (!reference.digest) {
    reference.tag = kTagDefault;
  }

  reference.origin = SplitOrigin(rest);
  if (!IsRegistry(reference.origin.registry)) {
    return Invalid(text,
                   "the registry must be a host name or an address, and a port between 1 and 65535 if any");
  }
  if (!IsRepository(reference.origin.repository)) {
    return Invalid(
        text,
        "a repository is made of lower-case letters and digits, joined by '.', '_', '__' or '-', in "
        "components separated by '/'");
  }
  if (reference.origin.registry.size() + 1 + reference.origin.repository.size() > kRepositoryBytesMax) {
    return Invalid(text,
                   absl::StrCat("registry and repository have more than ", kRepositoryBytesMax, " bytes"));
  }
  return reference;
}

std::string ImageReference::ManifestName() const {
  return digest ? digest->ToString() : tag;
}

std::string ImageReference::ToString() const {
  std::string text = absl::StrCat(origin.registry, "/", origin.repository);
  if (!tag.empty()) absl::StrAppend(&text, ":", tag);
  if (digest) absl::StrAppend(&text, "@", digest->ToString());
  return text;
}

}  // namespace sluice::p2p
