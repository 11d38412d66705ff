#include "p2p/http/peer_tls.h"

#include <curl/curl.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

// A certificate that has ended since is not looked at again on a kept connection.
constexpr long kConnectionSecondsMax = 600;

CURLcode SetUpContext(CURL*, void* context, void* peer) {
  const auto* const to = static_cast<const HttpPeer*>(peer);
  const absl::Status status = to->identity->SetUpClient(static_cast<ssl_ctx_st*>(context));
  return status.ok() ? CURLE_OK : CURLE_SSL_CERTPROBLEM;
}

}  // namespace

std::string HttpPeer::ConnectionKey() const {
  return absl::StrCat(address, "#", identity->number());
}

void* SetUpPeerTls(CURL* easy, const HttpPeer& peer) {
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
  // libcurl uses a kept connection for those alone whose authorities are the same text, so the number makes
  // new connections of a new identity. Given so it neither reads the system's authorities nor keeps them.
  const std::string ca = absl::StrCat(peer.identity->ca_text(), "\nidentity ", peer.identity->number(), "\n");
  curl_blob blob{const_cast<char*>(ca.data()), ca.size(), CURL_BLOB_COPY};
  curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob);
  curl_easy_setopt(easy, CURLOPT_CAPATH, static_cast<char*>(nullptr));
  // A resumed session would be let in by a certificate that nobody looks at.
  curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
  curl_easy_setopt(easy, CURLOPT_MAXLIFETIME_CONN, kConnectionSecondsMax);
  curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, const_cast<HttpPeer*>(&peer));
  curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, &SetUpContext);
  // Whatever host and port the URL names.
  curl_slist* const list = curl_slist_append(nullptr, absl::StrCat("::", peer.address).c_str());
  curl_easy_setopt(easy, CURLOPT_CONNECT_TO, list);
  return list;
}

void FreeConnectTo(void* list) {
  curl_slist_free_all(static_cast<curl_slist*>(list));
}

std::optional<tls::Peer> PeerOfTransfer(CURL* easy, const HttpPeer& peer) {
  curl_tlssessioninfo* info = nullptr;
  if (curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info) != CURLE_OK || info == nullptr ||
      info->internals == nullptr)
    return std::nullopt;
  return tls::PeerOf(static_cast<ssl_st*>(info->internals), peer.identity->peer_name());
}

std::optional<TlsResult> HandshakeOf(CURL* easy, int code, const std::string& text) {
  if (code == CURLE_PEER_FAILED_VERIFICATION) return TlsResult::kRefused;
  // With TLS 1.3 a client hears that its certificate is not accepted when it believes the handshake is over.
  if (code == CURLE_RECV_ERROR && absl::StrContains(text, "alert")) return TlsResult::kRefused;
  curl_off_t shaken = 0;
  curl_easy_getinfo(easy, CURLINFO_APPCONNECT_TIME_T, &shaken);
  if (shaken > 0) return TlsResult::kOk;
  if (code == CURLE_SSL_CONNECT_ERROR || code == CURLE_SSL_CERTPROBLEM) return TlsResult::kFailed;
  return std::nullopt;
}

}  // namespace sluice::p2p
