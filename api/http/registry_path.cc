#include "api/http/registry_path.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace sluice::api {
namespace {

constexpr size_t kNameBytesMax = 255;  // of a repository
constexpr size_t kNamespaceBytesMax = 255;

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

}  // namespace

std::string Parameter(const HttpRequest& request, std::string_view name) {
  for (const absl::string_view part : absl::StrSplit(View(request.query), '&')) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (field.first == View(name))
      return PercentDecoded({field.second.data(), field.second.size()}).value_or(std::string());
  }
  return {};
}

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

bool IsTag(std::string_view text) {
  constexpr size_t kTagBytesMax = 128;
  return !text.empty() && text.size() <= kTagBytesMax && text[0] != '.' && text[0] != '-' &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

bool IsRegistryName(std::string_view name) {
  return !name.empty() && name.size() <= kNamespaceBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == ':' || c == '[' || c == ']' ||
                  c == '_';
         });
}

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

}  // namespace sluice::api
