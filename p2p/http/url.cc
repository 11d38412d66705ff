#include "p2p/http/url.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>

#include <charconv>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

struct FreeUrl {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using UrlHandle = std::unique_ptr<CURLU, FreeUrl>;

std::string Part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return {};
  std::string result = text;
  curl_free(text);
  return result;
}

absl::Status Invalid(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a usable URL: ", why));
}

absl::Status Set(CURLU* url, std::string_view text) {
  if (text.size() > Url::kLengthMax) return Invalid(absl::StrCat("longer than ", Url::kLengthMax, " bytes"));
  for (const char c : text) {
    // libcurl would send some of these on; none has a place in a URL.
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) return Invalid("control character or space");
  }
  const CURLUcode code = curl_url_set(url, CURLUPART_URL, std::string(text).c_str(),
                                      CURLU_DISALLOW_USER | CURLU_NON_SUPPORT_SCHEME);
  if (code != CURLUE_OK) return Invalid(curl_url_strerror(code));
  return absl::OkStatus();
}

}  // namespace

bool NamesLoopback(std::string_view host) {
  const std::string name = absl::AsciiStrToLower(Abs(host));
  if (name == "localhost" || name.ends_with(".localhost")) return true;
  if (name == "::1" || name == "[::1]") return true;
  if (!name.starts_with("127.")) return false;
  // "127.evil.example" is a name like any other.
  return name.find_first_not_of("0123456789.") == std::string::npos;
}

bool NamesLinkLocal(std::string_view host) {
  const std::string name = absl::AsciiStrToLower(Abs(host));
  in_addr v4;
  if (inet_pton(AF_INET, name.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 16 == 0xA9FE;
  if (!name.starts_with('[')) return false;
  in6_addr v6;
  const std::string address = name.substr(1, name.find_first_of("]%") - 1);
  if (inet_pton(AF_INET6, address.c_str(), &v6) != 1) return false;
  if (IN6_IS_ADDR_LINKLOCAL(&v6)) return true;
  return IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 0xA9 && v6.s6_addr[13] == 0xFE;
}

absl::StatusOr<Url> Url::FromHandle(void* handle) {
  CURLU* const curl = static_cast<CURLU*>(handle);
  Url url;
  url.scheme_ = absl::AsciiStrToLower(Part(curl, CURLUPART_SCHEME));
  if (url.scheme_ != "http" && url.scheme_ != "https") {
    return absl::InvalidArgumentError(
        absl::StrCat("scheme \"", url.scheme_.substr(0, 16), "\" is refused: only http and https are used"));
  }
  url.host_ = absl::AsciiStrToLower(Part(curl, CURLUPART_HOST));
  if (url.host_.empty()) return Invalid("no host");
  const std::string port = Part(curl, CURLUPART_PORT, CURLU_DEFAULT_PORT);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), url.port_);
  if (error != std::errc() || end != port.data() + port.size()) return Invalid("bad port");
  url.path_ = Part(curl, CURLUPART_PATH);
  url.query_ = Part(curl, CURLUPART_QUERY);
  return url;
}

absl::StatusOr<Url> Url::Parse(std::string_view text) {
  const UrlHandle handle(curl_url());
  if (absl::Status status = Set(handle.get(), text); !status.ok()) return status;
  return FromHandle(handle.get());
}

absl::StatusOr<Url> Url::Resolve(std::string_view reference) const {
  const UrlHandle handle(curl_url());
  if (absl::Status status = Set(handle.get(), ToString()); !status.ok()) return status;
  if (absl::Status status = Set(handle.get(), reference); !status.ok()) return status;
  return FromHandle(handle.get());
}

Url Url::WithQuery(std::string_view name, std::string_view value) const {
  char* const escaped = curl_easy_escape(nullptr, value.data(), static_cast<int>(value.size()));
  Url result = *this;
  absl::StrAppend(&result.query_, query_.empty() ? "" : "&", Abs(name), "=", escaped ? escaped : "");
  curl_free(escaped);
  return result;
}

std::string Url::Authority() const {
  return absl::StrCat(host_, ":", port_);
}

std::string Url::SchemeAndAuthority() const {
  return absl::StrCat(scheme_, "://", Authority());
}

std::string Url::ToString() const {
  return absl::StrCat(SchemeAndAuthority(), path_, query_.empty() ? "" : "?", query_);
}

std::string Url::Redacted() const {
  return absl::StrCat(SchemeAndAuthority(), path_, query_.empty() ? "" : "?...");
}

}  // namespace sluice::p2p
