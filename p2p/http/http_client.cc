#include "p2p/http/http_client.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "p2p/http/peer_connections.h"
#include "p2p/http/receive_bounds.h"
#include "p2p/http/socket_watch.h"
#include "p2p/http/text.h"
#include "p2p/http/url.h"

namespace sluice::p2p {
namespace {

constexpr size_t kHeadBytesMax = 64 << 10;
constexpr int kInterimsMax = 1024;
constexpr long kReceiveBufferBytes = 256 << 10;
constexpr long kUploadBufferBytes = 512 << 10;
// An address that a registry moved away from is forgotten this soon.
constexpr long kDnsCacheSeconds = 5;
// netinet/tcp.h, which names it, has another and shorter tcp_info.
constexpr uint8_t kTcpSynSent = 2;

enum class AddressKind { kPublic, kLoopback, kForbidden };

AddressKind KindOfV4(uint32_t address) {
  const uint32_t first = address >> 24;
  if (first == 127) return AddressKind::kLoopback;
  if (first == 0 || first >= 224 || address >> 16 == 0xA9FE) return AddressKind::kForbidden;
  return AddressKind::kPublic;
}

AddressKind KindOfV6(const in6_addr& address) {
  if (IN6_IS_ADDR_LOOPBACK(&address)) return AddressKind::kLoopback;
  if (IN6_IS_ADDR_V4MAPPED(&address) || IN6_IS_ADDR_V4COMPAT(&address)) {
    uint32_t v4 = 0;
    std::memcpy(&v4, &address.s6_addr[12], sizeof v4);
    return KindOfV4(ntohl(v4));
  }
  const bool forbidden =
      IN6_IS_ADDR_LINKLOCAL(&address) || IN6_IS_ADDR_MULTICAST(&address) || IN6_IS_ADDR_UNSPECIFIED(&address);
  return forbidden ? AddressKind::kForbidden : AddressKind::kPublic;
}

AddressKind KindOf(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof v4);
    return KindOfV4(ntohl(v4.sin_addr.s_addr));
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof v6);
    return KindOfV6(v6.sin6_addr);
  }
  return AddressKind::kForbidden;
}

AddressKind KindOf(const char* text) {
  in_addr v4;
  in6_addr v6;
  if (inet_pton(AF_INET, text, &v4) == 1) return KindOfV4(ntohl(v4.s_addr));
  if (inet_pton(AF_INET6, text, &v6) == 1) return KindOfV6(v6);
  return AddressKind::kForbidden;
}

// Ports on loopback where the environment says that a proxy listens.
std::vector<int> LoopbackProxyPorts() {
  std::vector<int> ports;
  for (const char* name : {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}) {
    const char* const value =
        std::getenv(name);  // NOLINT(concurrency-mt-unsafe): the environment is constant
    if (value == nullptr || *value == '\0') continue;
    CURLU* const url = curl_url();
    char* host = nullptr;
    char* port = nullptr;
    if (curl_url_set(url, CURLUPART_URL, value, CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK && NamesLoopback(host)) {
      // 1080 is where libcurl looks for a proxy whose URL names no port.
      ports.push_back(curl_url_get(url, CURLUPART_PORT, &port, 0) == CURLUE_OK ? std::atoi(port) : 1080);
    }
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(url);
  }
  return ports;
}

constexpr char kRefused[] = "sluice/refused";  // a payload of Unavailable

absl::Status Translate(CURLcode code, std::string_view detail) {
  const std::string text = absl::StrCat(curl_easy_strerror(code), detail.empty() ? "" : ": ", Abs(detail));
  switch (code) {
    case CURLE_OK:
      return absl::OkStatus();
    case CURLE_URL_MALFORMAT:
      return absl::InvalidArgumentError(text);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return absl::PermissionDeniedError(
          absl::StrCat(text, " (if the registry has a CA of its own, set the CA file option)"));
    case CURLE_UNSUPPORTED_PROTOCOL:  // what came is not HTTP/1 or later; ours were checked before
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
      return absl::DataLossError(text);
    case CURLE_OUT_OF_MEMORY:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

std::optional<uint64_t> ParseLength(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

long Milliseconds(Duration duration) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
  return static_cast<long>(std::clamp<int64_t>(ms, 1, 24L * 3600 * 1000));
}

struct FreeEasy {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct FreePeer {
  void operator()(void* list) const { FreeConnectTo(list); }
};

// What all transfers of a client share.
struct Common {
  const HttpClientOptions& options;
  const std::vector<int>& proxy_ports;
  CURLSH* fill_connections;  // kept apart: they are bounded in what they take in
  const ReceiveBounds& receive_bounds;
  PeerConnections& peer_connections;
};

// One request, from Send to OnDone. Owned by the loop; used on its thread only.
class Transfer {
 public:
  // REQUIRES: url.ok(), if the transfer is to be prepared
  Transfer(HttpClient::RequestId id, HttpRequest request, const absl::StatusOr<Url>& url,
           std::unique_ptr<HttpSink> sink)
      : id_(id),
        request_(std::move(request)),
        sink_(std::move(sink)),
        host_(request_.peer ? request_.peer->address
              : url.ok()    ? url->SchemeAndAuthority()
                            : std::string()),
        path_(absl::StrCat(request_.peer ? request_.peer->address : std::string(),
                           request_.url.substr(0, request_.url.find('?')))),
        connection_key_(request_.peer ? request_.peer->ConnectionKey() : std::string()),
        loopback_named_(url.ok() && NamesLoopback(url->host())),
        deadline_(std::chrono::steady_clock::now() + request_.timeout) {}

  HttpClient::RequestId id() const { return id_; }
  const std::string& host() const { return host_; }
  // With the host, without the query.
  const std::string& path() const { return path_; }
  // Of a peer, and of fills apart, as their connections are; else empty.
  std::string connection_key() const {
    return connection_key_.empty() || !IsFill(fetch_class()) ? connection_key_ : connection_key_ + " fill";
  }
  FetchClass fetch_class() const { return request_.fetch_class; }
  void Raise(FetchClass fetch_class) { request_.fetch_class = fetch_class; }
  Instant deadline() const { return deadline_; }
  CURL* easy() const { return easy_.get(); }
  // When it is to be given up for want of bytes; never if nothing bounds its silence.
  // A head that comes in between begins no window before this.
  Duration rate_window() const {
    return request_.rate_from_head ? request_.rate_window : std::chrono::hours(1);
  }
  Instant silent_until() const {
    return silence_max() == Duration(0) ? Instant::max() : last_byte_ + silence_max();
  }
  Duration silence_max() const {
    return heard_ || request_.first_silence_max == Duration(0) ? request_.silence_max
                                                               : request_.first_silence_max;
  }
  // Whether it was silent so long that its host may be, and since when; the last time that anything came.
  bool IsWhollySilent(Instant now) const {
    return request_.silence_max > Duration(0) && last_byte_ + request_.silence_max <= now;
  }
  bool has_silence_max() const { return request_.silence_max > Duration(0); }
  Instant silent_since() const { return last_byte_; }
  Instant heard_at() const { return heard_ ? last_byte_ : Instant(); }
  // When it is to be looked at again: it may be silent, slow, late, or dialling.
  Instant looked_at() const { return std::min({silent_until(), window_end_, deadline_, dial_until()}); }
  // OK, or why it is given up.
  absl::Status Look(Instant now);
  // How long its dial may take, the first or the second.
  Duration dial_max() const { return request_.dial_silence_max / 3 * (is_dialled_again_ ? 2 : 1); }
  // What has become of its dial, if it is time to look.
  enum class Dial { kFine, kAgain, kInVain };
  Dial LookAtDial(Instant now);
  absl::Status NoConnection() const {
    return absl::UnavailableError(
        absl::StrCat("it took no connection for ", Milliseconds(request_.dial_silence_max), " ms"));
  }

  void Prepare(const Common& common);
  // How long its connection took to be made, or the shortest round trip that the kernel saw on it, which no
  // busy moment of this process lengthens; nothing if it was there before.
  std::optional<Duration> RoundTrip() const;
  // How its handshake with a peer went; nullopt: there was none.
  std::optional<TlsResult> Handshake(CURLcode code) const;
  void Finish(CURLcode code);
  void Finish(absl::Status status) { sink_->OnDone(std::move(status)); }

 private:
  template <typename T>
  void Set(CURLoption option, T value) {
    curl_easy_setopt(easy_.get(), option, value);
  }
  void SetLimits(const HttpClientOptions& options);
  void SetFillConnection(const Common& common);
  void SetBody();
  void SetCallbacks();

  // The first error of our own wins over what libcurl makes of the abort.
  bool Reject(absl::Status status) {
    if (verdict_.ok()) verdict_ = std::move(status);
    return false;
  }
  bool AllowAddress(AddressKind kind, std::string_view text, int port);
  bool AllowPeer();
  bool HeaderLine(std::string_view line);
  bool HeadComplete();
  bool Interim(int status);
  bool Body(std::span<const std::byte> bytes);
  size_t Upload(std::span<std::byte> out);
  Instant dial_until() const {
    return dial_socket_ < 0 || dial_max() == Duration(0) ? Instant::max() : dialled_at_ + dial_max();
  }
  static curl_socket_t OpenSocket(void* self, curlsocktype purpose, curl_sockaddr* address);

  const HttpClient::RequestId id_;
  HttpRequest request_;
  const std::unique_ptr<HttpSink> sink_;
  const std::string host_;
  const std::string path_;
  const std::string connection_key_;
  const bool loopback_named_;
  const Instant deadline_;
  const std::vector<int>* proxy_ports_ = nullptr;
  std::optional<int> receive_bytes_max_;  // of a connection that is made for it
  PeerConnections* peer_connections_ = nullptr;
  bool connects_ = false;  // to a peer, by a connection of its own
  int dial_socket_ = -1;   // of its own connection, until it was looked at whether that is taken
  Instant dialled_at_{};
  bool is_dialled_again_ = false;

  std::unique_ptr<curl_slist, FreeList> header_list_;
  std::unique_ptr<void, FreePeer> connect_to_;
  std::unique_ptr<CURL, FreeEasy> easy_;  // uses the lists above
  char error_text_[CURL_ERROR_SIZE] = {};

  absl::Status verdict_;
  ProvenNames head_names_;
  HttpHead head_;
  size_t head_bytes_ = 0;
  int interims_ = 0;
  bool head_given_ = false;
  uint64_t body_bytes_ = 0;
  uint64_t upload_offset_ = 0;
  Instant last_byte_;  // or when its turn came
  bool heard_ = false;
  Instant window_end_ = Instant::max();  // of the time over which its rate is looked at
  uint64_t window_bytes_ = 0;
};

void Transfer::Prepare(const Common& common) {
  const HttpClientOptions& options = common.options;
  proxy_ports_ = &common.proxy_ports;
  peer_connections_ = &common.peer_connections;
  last_byte_ = std::chrono::steady_clock::now();
  easy_.reset(curl_easy_init());
  Set(CURLOPT_PRIVATE, static_cast<void*>(this));
  Set(CURLOPT_URL, request_.url.c_str());
  Set(CURLOPT_PROTOCOLS_STR, "http,https");
  Set(CURLOPT_FOLLOWLOCATION, 0L);
  Set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  if (loopback_named_ || request_.proxy == ProxyRule::kNone) Set(CURLOPT_PROXY, "");
  if (!request_.is_brief) Set(CURLOPT_USERAGENT, options.user_agent.c_str());
  const auto version = request_.own_connection ? CURL_HTTP_VERSION_1_1 : CURL_HTTP_VERSION_2TLS;
  Set(CURLOPT_HTTP_VERSION, static_cast<long>(version));
  if (!options.ca_file.empty()) Set(CURLOPT_CAINFO, options.ca_file.c_str());
  if (request_.peer) connect_to_.reset(SetUpPeerTls(easy_.get(), *request_.peer));
  SetLimits(options);
  SetCallbacks();
  if (IsFill(fetch_class())) SetFillConnection(common);

  curl_slist* list = nullptr;
  for (const auto& [name, value] : request_.headers.fields()) {
    list = curl_slist_append(list, absl::StrCat(name, ": ", value).c_str());
  }
  list = curl_slist_append(list, request_.is_brief ? "Accept:" : "Accept-Encoding: identity");
  // Saves a round trip per upload; a body that is refused is ended by the server's early answer.
  list = curl_slist_append(list, "Expect:");
  header_list_.reset(list);
  Set(CURLOPT_HTTPHEADER, list);
  SetBody();
}

void Transfer::SetLimits(const HttpClientOptions& options) {
  Set(CURLOPT_NOSIGNAL, 1L);
  // Lets a request be dropped while the resolver's thread still hangs.
  Set(CURLOPT_QUICK_EXIT, 1L);
  Set(CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
  Set(CURLOPT_DNS_CACHE_TIMEOUT, kDnsCacheSeconds);
  Set(CURLOPT_CONNECTTIMEOUT_MS, Milliseconds(options.connect_timeout));
  // The deadline is seen to by Look: libcurl 7.88 forgets a transfer's time that comes within a millisecond
  // after another of its times (add_next_timeout).
  if (request_.rate_min_bytes_per_s == 0 || request_.rate_from_head) return;
  Set(CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(request_.rate_min_bytes_per_s));
  const auto window = std::chrono::ceil<std::chrono::seconds>(request_.rate_window).count();
  Set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(std::max<int64_t>(1, window)));
}

// The buffer's size is what the window is negotiated by, so it is set before the handshake: tcp(7).
void Transfer::SetFillConnection(const Common& common) {
  Set(CURLOPT_SHARE, common.fill_connections);
  receive_bytes_max_ = common.receive_bounds.Of(host_);
  if (!receive_bytes_max_) return;
  Set(CURLOPT_SOCKOPTDATA, static_cast<void*>(this));
  Set(
      CURLOPT_SOCKOPTFUNCTION, +[](void* self, curl_socket_t socket, curlsocktype) -> int {
        const int bytes = *static_cast<Transfer*>(self)->receive_bytes_max_;
        (void)::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
        return CURL_SOCKOPT_OK;
      });
}

std::optional<Duration> Transfer::RoundTrip() const {
  long connects = 0;
  curl_off_t resolved_us = 0, connected_us = 0;
  curl_easy_getinfo(easy_.get(), CURLINFO_NUM_CONNECTS, &connects);
  curl_easy_getinfo(easy_.get(), CURLINFO_NAMELOOKUP_TIME_T, &resolved_us);
  curl_easy_getinfo(easy_.get(), CURLINFO_CONNECT_TIME_T, &connected_us);
  if (connects != 1 || connected_us <= resolved_us) return std::nullopt;
  curl_socket_t socket = CURL_SOCKET_BAD;
  curl_easy_getinfo(easy_.get(), CURLINFO_ACTIVESOCKET, &socket);
  tcp_info info{};
  socklen_t length = sizeof info;
  if (socket != CURL_SOCKET_BAD && ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
      length >= offsetof(tcp_info, tcpi_min_rtt) + sizeof info.tcpi_min_rtt &&
      info.tcpi_min_rtt != UINT32_MAX) {
    return std::chrono::microseconds(std::min<curl_off_t>(info.tcpi_min_rtt, connected_us - resolved_us));
  }
  return std::chrono::microseconds(connected_us - resolved_us);
}

void Transfer::SetBody() {
  if (request_.method == "HEAD") {
    Set(CURLOPT_NOBODY, 1L);
    return;
  }
  if (request_.body) {
    Set(CURLOPT_UPLOAD, 1L);
    Set(CURLOPT_UPLOAD_BUFFERSIZE, kUploadBufferBytes);
    Set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request_.body->size));
  }
  Set(CURLOPT_CUSTOMREQUEST, request_.method.c_str());
}

void Transfer::SetCallbacks() {
  Set(CURLOPT_ERRORBUFFER, error_text_);

  Set(CURLOPT_OPENSOCKETDATA, static_cast<void*>(this));
  Set(CURLOPT_OPENSOCKETFUNCTION, &Transfer::OpenSocket);
  if (request_.peer) {
    // A connection outlives the request that opened it.
    Set(CURLOPT_CLOSESOCKETDATA, static_cast<void*>(peer_connections_));
    Set(
        CURLOPT_CLOSESOCKETFUNCTION, +[](void* connections, curl_socket_t socket) -> int {
          static_cast<PeerConnections*>(connections)->Closed(socket);
          return ::close(socket);
        });
  }

  // A kept connection is not opened again, so what it leads to is checked once more before it is used.
  Set(CURLOPT_PREREQDATA, static_cast<void*>(this));
  Set(
      CURLOPT_PREREQFUNCTION, +[](void* self, char* remote, char*, int port, int) -> int {
        auto* const transfer = static_cast<Transfer*>(self);
        const bool allowed = transfer->AllowAddress(KindOf(remote), remote, port) && transfer->AllowPeer();
        return allowed ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
      });

  Set(CURLOPT_HEADERDATA, static_cast<void*>(this));
  Set(
      CURLOPT_HEADERFUNCTION, +[](char* data, size_t, size_t size, void* self) -> size_t {
        return static_cast<Transfer*>(self)->HeaderLine({data, size}) ? size : 0;
      });

  Set(CURLOPT_WRITEDATA, static_cast<void*>(this));
  Set(
      CURLOPT_WRITEFUNCTION, +[](char* data, size_t, size_t size, void* self) -> size_t {
        const auto bytes = std::as_bytes(std::span(data, size));
        auto* const transfer = static_cast<Transfer*>(self);
        if (!transfer->sink_->Takes()) return CURL_WRITEFUNC_PAUSE;
        return transfer->Body(bytes) ? size : CURL_WRITEFUNC_ERROR;
      });

  Set(CURLOPT_READDATA, static_cast<void*>(this));
  Set(
      CURLOPT_READFUNCTION, +[](char* out, size_t, size_t size, void* self) -> size_t {
        return static_cast<Transfer*>(self)->Upload(std::as_writable_bytes(std::span(out, size)));
      });
  Set(CURLOPT_SEEKDATA, static_cast<void*>(this));
  Set(
      CURLOPT_SEEKFUNCTION, +[](void* self, curl_off_t offset, int origin) -> int {
        if (origin != SEEK_SET) return CURL_SEEKFUNC_FAIL;
        static_cast<Transfer*>(self)->upload_offset_ = static_cast<uint64_t>(offset);
        return CURL_SEEKFUNC_OK;
      });
}

curl_socket_t Transfer::OpenSocket(void* self, curlsocktype, curl_sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "?";
  int port = 0;
  if (address->family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address->addr, sizeof v4);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    port = ntohs(v4.sin_port);
  } else if (address->family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &address->addr, sizeof v6);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    port = ntohs(v6.sin6_port);
  }
  auto* const transfer = static_cast<Transfer*>(self);
  if (!transfer->AllowAddress(KindOf(&address->addr), text, port)) return CURL_SOCKET_BAD;
  const int socket = ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  transfer->dial_socket_ = socket;
  transfer->dialled_at_ = std::chrono::steady_clock::now();
  if (socket >= 0 && transfer->request_.peer) {
    transfer->connects_ = true;
    transfer->peer_connections_->Opened(socket, transfer->connection_key(), std::chrono::steady_clock::now());
  }
  return socket;
}

// Its certificate has been looked at when the connection was made; whose it is, is looked at for each
// request: one address may be given to another node.
bool Transfer::AllowPeer() {
  if (!request_.peer) return true;
  const HttpPeer& wanted = *request_.peer;
  const std::optional<tls::Peer> found = PeerOfTransfer(easy_.get(), wanted);
  if (!found) return Reject(absl::InternalError("the peer's certificate can't be seen"));
  head_names_ = found->names;
  if (wanted.name.empty() || found->names.Allow(wanted.name)) return true;
  return Reject(absl::PermissionDeniedError(absl::StrCat("the certificate of who answers at ", wanted.address,
                                                         " is of ", absl::StrJoin(found->names.names(), ", "),
                                                         ", not of ", OneLine(wanted.name))));
}

std::optional<TlsResult> Transfer::Handshake(CURLcode code) const {
  return connects_ ? HandshakeOf(easy_.get(), code, error_text_) : std::nullopt;
}

bool Transfer::AllowAddress(AddressKind kind, std::string_view text, int port) {
  if (kind == AddressKind::kPublic) return true;
  if (kind == AddressKind::kLoopback) {
    if (request_.loopback == LoopbackRule::kAllow) return true;
    if (std::find(proxy_ports_->begin(), proxy_ports_->end(), port) != proxy_ports_->end()) return true;
  }
  return Reject(absl::PermissionDeniedError(absl::StrCat("address ", Abs(text), " is refused: ",
                                                         kind == AddressKind::kLoopback
                                                             ? "loopback is only for registries named as such"
                                                             : "not a unicast address")));
}

bool Transfer::HeaderLine(std::string_view line) {
  last_byte_ = std::chrono::steady_clock::now();
  heard_ = true;
  if (head_given_) return true;  // a trailer
  head_bytes_ += line.size();
  if (head_bytes_ > kHeadBytesMax) {
    return Reject(
        absl::ResourceExhaustedError(absl::StrCat("answer's headers exceed ", kHeadBytesMax, " bytes")));
  }
  if (line.starts_with("HTTP/")) {
    head_ = {};
    head_.proven_names = head_names_;
    return true;
  }
  line = Std(absl::StripTrailingAsciiWhitespace(Abs(line)));
  if (line.empty()) return HeadComplete();
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return true;
  head_.headers.Add(line.substr(0, colon), Std(absl::StripAsciiWhitespace(Abs(line.substr(colon + 1)))));
  return true;
}

bool Transfer::HeadComplete() {
  long status = 0;
  curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &status);
  if (status < 200) return Interim(static_cast<int>(status));
  head_.status = static_cast<int>(status);
  head_given_ = true;
  if (request_.rate_from_head && request_.rate_min_bytes_per_s > 0)
    window_end_ = last_byte_ + request_.rate_window;
  for (const std::string_view text : head_.headers.All("Content-Length")) {
    const std::optional<uint64_t> length = ParseLength(text);
    if (!length) return Reject(absl::DataLossError("answer with a Content-Length that is no length"));
    if (request_.method != "HEAD" && *length > request_.body_bytes_max) {
      return Reject(absl::ResourceExhaustedError(
          absl::StrCat("answer of ", *length, " bytes exceeds the limit of ", request_.body_bytes_max)));
    }
  }
  absl::Status status_of_sink = sink_->OnHead(head_);
  return status_of_sink.ok() || Reject(std::move(status_of_sink));
}

absl::Status Transfer::Look(Instant now) {
  if (silent_until() <= now) {
    return absl::UnavailableError(absl::StrCat("no byte came for ", Milliseconds(silence_max()), " ms"));
  }
  if (deadline_ <= now) {
    return absl::DeadlineExceededError(absl::StrCat("timed out after ", Milliseconds(request_.timeout),
                                                    " ms, with ", body_bytes_, " bytes"));
  }
  if (window_end_ > now) return absl::OkStatus();
  const auto window = std::chrono::ceil<std::chrono::seconds>(request_.rate_window).count();
  if (window_bytes_ < request_.rate_min_bytes_per_s * static_cast<uint64_t>(window)) {
    return absl::UnavailableError(
        absl::StrCat("fewer than ", request_.rate_min_bytes_per_s, " bytes/s came for ", window, " s"));
  }
  window_bytes_ = 0;
  window_end_ = now + request_.rate_window;
  return absl::OkStatus();
}

// The kernel knows, however late this thread is.
Transfer::Dial Transfer::LookAtDial(Instant now) {
  if (dial_until() > now) return Dial::kFine;
  tcp_info info{};
  socklen_t length = sizeof info;
  const bool waits = ::getsockopt(dial_socket_, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
                     info.tcpi_state == kTcpSynSent;
  dial_socket_ = -1;
  if (!waits || heard_) return Dial::kFine;
  return std::exchange(is_dialled_again_, true) ? Dial::kInVain : Dial::kAgain;
}

// They come as often as the server likes, so they have a bound of their own.
bool Transfer::Interim(int status) {
  head_bytes_ = 0;
  if (++interims_ > kInterimsMax) {
    return Reject(absl::ResourceExhaustedError(absl::StrCat("more than ", kInterimsMax, " interim answers")));
  }
  head_.status = status;
  sink_->OnInterim(head_);
  return true;
}

bool Transfer::Body(std::span<const std::byte> bytes) {
  last_byte_ = std::chrono::steady_clock::now();
  heard_ = true;
  body_bytes_ += bytes.size();
  window_bytes_ += bytes.size();
  if (body_bytes_ > request_.body_bytes_max) {
    return Reject(absl::ResourceExhaustedError(
        absl::StrCat("answer exceeds the limit of ", request_.body_bytes_max, " bytes")));
  }
  absl::Status status = sink_->OnBody(bytes);
  return status.ok() || Reject(std::move(status));
}

size_t Transfer::Upload(std::span<std::byte> out) {
  const uint64_t left = request_.body->size - std::min(upload_offset_, request_.body->size);
  out = out.first(static_cast<size_t>(std::min<uint64_t>(out.size(), left)));
  if (out.empty()) return 0;
  absl::StatusOr<size_t> n = (*request_.body->read)(upload_offset_, out);
  if (n.ok() && *n == 0) n = absl::DataLossError("the data to upload ended before its size");
  if (!n.ok()) {
    Reject(n.status());
    return CURL_READFUNC_ABORT;
  }
  upload_offset_ += *n;
  return *n;
}

void Transfer::Finish(CURLcode code) {
  if (!verdict_.ok()) return Finish(std::move(verdict_));
  if (code == CURLE_OK && !head_given_) return Finish(absl::DataLossError("answer without headers"));
  absl::Status status = Translate(code, error_text_);
  long error = 0;
  if (code == CURLE_COULDNT_CONNECT &&
      curl_easy_getinfo(easy_.get(), CURLINFO_OS_ERRNO, &error) == CURLE_OK && error == ECONNREFUSED)
    status.SetPayload(kRefused, absl::Cord());
  Finish(std::move(status));
}

}  // namespace

bool HttpClient::WasRefused(const absl::Status& status) {
  return status.GetPayload(kRefused).has_value();
}

std::optional<std::string_view> HttpHeaders::Get(std::string_view name) const {
  for (const auto& [key, value] : fields_) {
    if (absl::EqualsIgnoreCase(key, Abs(name))) return value;
  }
  return std::nullopt;
}

std::vector<std::string_view> HttpHeaders::All(std::string_view name) const {
  std::vector<std::string_view> values;
  for (const auto& [key, value] : fields_) {
    if (absl::EqualsIgnoreCase(key, Abs(name))) values.push_back(value);
  }
  return values;
}

HttpBody HttpBody::FromString(std::string bytes) {
  const uint64_t size = bytes.size();
  auto read = [bytes = std::move(bytes)](uint64_t offset,
                                         std::span<std::byte> out) -> absl::StatusOr<size_t> {
    const std::string_view rest = std::string_view(bytes).substr(offset, out.size());
    std::memcpy(out.data(), rest.data(), rest.size());
    return rest.size();
  };
  return {size, std::make_shared<Reader>(std::move(read))};
}

HttpBody HttpBody::FromFile(int fd, uint64_t offset, uint64_t length) {
  auto read = [fd, base = offset](uint64_t at, std::span<std::byte> out) -> absl::StatusOr<size_t> {
    size_t filled = 0;
    while (filled < out.size()) {
      const ssize_t n =
          ::pread(fd, out.data() + filled, out.size() - filled, static_cast<off_t>(base + at + filled));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return absl::ErrnoToStatus(errno, "reading the file to upload");
      if (n == 0) break;
      filled += static_cast<size_t>(n);
    }
    return filled;
  };
  return {length, std::make_shared<Reader>(std::move(read))};
}

// The multi handle and its thread.
class HttpClient::Loop {
 public:
  explicit Loop(HttpClientOptions options) : options_(std::move(options)) {
    static std::once_flag once;
    std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    proxy_ports_ = LoopbackProxyPorts();
    multi_ = curl_multi_init();
    watch_.emplace(multi_);
    fill_connections_ = curl_share_init();
    curl_share_setopt(fill_connections_, CURLSHOPT_SHARE, CURL_LOCK_DATA_CONNECT);
    thread_ = std::thread([this] { Run(); });
    pthread_setname_np(thread_.native_handle(), "http-client");
  }

  ~Loop() {
    Stop();
    watch_.reset();
    curl_share_cleanup(fill_connections_);
    curl_multi_cleanup(multi_);
  }

  RequestId Send(HttpRequest request, std::unique_ptr<HttpSink> sink) {
    const RequestId id = next_id_.fetch_add(1);
    absl::StatusOr<Url> url = Url::Parse(request.url);
    std::unique_lock lock(mutex_);
    absl::Status refused;
    if (!url.ok()) {
      refused = url.status();
    } else if (stopping_) {
      refused = absl::CancelledError("the HTTP client is stopped");
    } else if (waiting_ >= options_.queue_max) {
      refused =
          absl::ResourceExhaustedError(absl::StrCat("more than ", options_.queue_max, " requests wait"));
    }
    auto transfer = std::make_unique<Transfer>(id, std::move(request), url, std::move(sink));
    if (stopping_) {
      lock.unlock();
      transfer->Finish(std::move(refused));
      return id;
    }
    if (refused.ok()) ++waiting_;
    arrivals_.push_back({std::move(transfer), std::move(refused)});
    lock.unlock();
    watch_->Wake();
    return id;
  }

  void Cancel(RequestId id) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      cancelled_.push_back(id);
    }
    watch_->Wake();
  }

  void Raise(RequestId id, FetchClass fetch_class) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      raised_.emplace_back(id, fetch_class);
    }
    watch_->Wake();
  }

  void GoOn(RequestId id) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      going_on_.push_back(id);
    }
    watch_->Wake();
  }

  void After(Duration delay, Task task) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      timers_.emplace(std::chrono::steady_clock::now() + delay, std::move(task));
    }
    watch_->Wake();
  }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    watch_->Wake();
    const std::lock_guard lock(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

 private:
  struct Arrival {
    std::unique_ptr<Transfer> transfer;
    absl::Status refused;
  };

  void Run() {
    // Signals are the main thread's; a broken pipe comes back as an error.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    // A packet of one transfer is no reason to look at all that waits.
    bool ordered = true;
    while (!ordered || TakeOrders()) {
      const Instant now = std::chrono::steady_clock::now();
      if (now >= next_overdue_) DropOverdue(now);
      if (now >= next_look_) DropSilent(now);
      if (ordered || now >= next_timer_) RunTimers(now);
      if (may_start_ || now >= next_begin_) {
        StartQueued();
        BoundConnections();
      }
      ordered = watch_->Work(std::min({next_overdue_, next_look_, next_timer_, next_begin_}));
      ReapFinished();
    }
    CancelAll();
  }

  // Returns whether to go on.
  bool TakeOrders() {
    std::vector<Arrival> arrivals;
    std::vector<RequestId> cancelled;
    std::vector<std::pair<RequestId, FetchClass>> raised;
    std::vector<RequestId> going_on;
    {
      const std::lock_guard lock(mutex_);
      arrivals.swap(arrivals_);
      cancelled.swap(cancelled_);
      raised.swap(raised_);
      going_on.swap(going_on_);
    }
    for (Arrival& arrival : arrivals) {
      if (!arrival.refused.ok()) {
        arrival.transfer->Finish(std::move(arrival.refused));
        continue;
      }
      next_overdue_ = std::min(next_overdue_, arrival.transfer->deadline());
      Enqueue(std::move(arrival.transfer));
    }
    for (const auto& [id, fetch_class] : raised) RaiseOne(id, fetch_class);
    for (const RequestId id : cancelled) CancelOne(id);
    for (const RequestId id : going_on) GoOnWith(id);
    const std::lock_guard lock(mutex_);
    return !stopping_;
  }

  // Behind those of its class.
  void Enqueue(std::unique_ptr<Transfer> transfer) {
    may_start_ = true;
    const auto behind = std::upper_bound(
        queue_.begin(), queue_.end(), transfer->fetch_class(),
        [](FetchClass fetch_class, const auto& queued) { return fetch_class < queued->fetch_class(); });
    queue_.insert(behind, std::move(transfer));
  }

  // Null if it does not wait.
  std::unique_ptr<Transfer> TakeQueued(RequestId id) {
    const auto queued =
        std::find_if(queue_.begin(), queue_.end(), [id](const auto& t) { return t->id() == id; });
    if (queued == queue_.end()) return nullptr;
    std::unique_ptr<Transfer> transfer = std::move(*queued);
    queue_.erase(queued);
    return transfer;
  }

  void RaiseOne(RequestId id, FetchClass fetch_class) {
    std::unique_ptr<Transfer> transfer = TakeQueued(id);
    if (!transfer) return;
    transfer->Raise(std::min(fetch_class, transfer->fetch_class()));
    Enqueue(std::move(transfer));
  }

  void CancelOne(RequestId id) {
    if (const std::unique_ptr<Transfer> transfer = TakeQueued(id)) {
      LeaveQueue();
      transfer->Finish(absl::CancelledError("cancelled"));
      return;
    }
    const auto active = active_.find(id);
    if (active != active_.end()) Detach(id)->Finish(absl::CancelledError("cancelled"));
  }

  // What waits on its way is given at once.
  void GoOnWith(RequestId id) {
    const auto active = active_.find(id);
    if (active == active_.end()) return;
    const CURLcode code = curl_easy_pause(active->second->easy(), CURLPAUSE_CONT);
    if (code != CURLE_OK) Detach(id)->Finish(code);
  }

  void LeaveQueue() {
    const std::lock_guard lock(mutex_);
    --waiting_;
  }

  void DropOverdue(Instant now) {
    std::vector<std::unique_ptr<Transfer>> overdue;
    std::deque<std::unique_ptr<Transfer>> rest;
    next_overdue_ = Instant::max();
    for (auto& transfer : queue_) {
      if (transfer->deadline() <= now) {
        overdue.push_back(std::move(transfer));
        continue;
      }
      next_overdue_ = std::min(next_overdue_, transfer->deadline());
      rest.push_back(std::move(transfer));
    }
    queue_.swap(rest);
    for (auto& transfer : overdue) {
      LeaveQueue();
      transfer->Finish(absl::DeadlineExceededError("timed out before its turn came"));
    }
  }

  void DropSilent(Instant now) {
    next_look_ = Instant::max();
    std::vector<std::pair<RequestId, absl::Status>> given_up;
    const absl::flat_hash_map<std::string, absl::Status> silent = SilentHosts(now);
    for (const auto& [id, transfer] : active_) {
      absl::Status status = transfer->Look(now);
      const auto of_host = silent.find(transfer->host());
      if (!status.ok()) {
        given_up.emplace_back(id, std::move(status));
      } else if (of_host != silent.end() && transfer->has_silence_max()) {
        given_up.emplace_back(id, of_host->second);
      } else {
        next_look_ = std::min(next_look_, transfer->looked_at());
      }
    }
    for (auto& [id, status] : given_up) Detach(id)->Finish(std::move(status));
  }

  void DialAgain(Transfer& transfer, Instant now) {
    curl_multi_remove_handle(multi_, transfer.easy());
    curl_multi_add_handle(multi_, transfer.easy());
    next_look_ = std::min(next_look_, now + transfer.dial_max());
  }

  // Of which nothing came, on whatever connection, while one waited or dialled in vain; and what it is told.
  absl::flat_hash_map<std::string, absl::Status> SilentHosts(Instant now) {
    absl::flat_hash_map<std::string, absl::Status> silent;
    for (const auto& [id, transfer] : active_) {
      const Transfer::Dial dial = transfer->LookAtDial(now);
      if (dial == Transfer::Dial::kAgain) DialAgain(*transfer, now);
      const bool in_vain = dial == Transfer::Dial::kInVain;
      if ((!in_vain && !transfer->IsWhollySilent(now)) || silent.contains(transfer->host())) continue;
      Instant heard = active_of_host_.at(transfer->host()).heard;
      for (const auto& [other_id, other] : active_) {
        if (other->host() == transfer->host()) heard = std::max(heard, other->heard_at());
      }
      if (heard > transfer->silent_since()) continue;
      silent.emplace(transfer->host(), in_vain ? transfer->NoConnection() : transfer->Look(now));
    }
    return silent;
  }

  void RunTimers(Instant now) {
    std::vector<Task> due;
    {
      const std::lock_guard lock(mutex_);
      const auto end = timers_.upper_bound(now);
      for (auto it = timers_.begin(); it != end; ++it) due.push_back(std::move(it->second));
      timers_.erase(timers_.begin(), end);
      next_timer_ = timers_.empty() ? Instant::max() : timers_.begin()->first;
    }
    for (Task& task : due) std::move(task)();
  }

  // A quarter is kept for what is not a fill's.
  static uint32_t ShareOf(FetchClass fetch_class, uint32_t max) {
    return IsFill(fetch_class) ? std::max<uint32_t>(1, max - max / 4) : max;
  }

  void StartQueued() {
    may_start_ = false;
    next_begin_ = Instant::max();
    for (auto it = queue_.begin(); it != queue_.end() && active_.size() < options_.requests_max;) {
      uint32_t& of_host = active_of_host_[(*it)->host()].count;
      uint32_t& of_path = active_of_path_[(*it)->path()];
      const FetchClass fetch_class = (*it)->fetch_class();
      if (of_host + of_path >= ShareOf(fetch_class, options_.requests_per_host_max) ||
          active_.size() >= ShareOf(fetch_class, options_.requests_max)) {
        ForgetUnused((*it)->host(), (*it)->path());
        ++it;
        continue;
      }
      if (!MayConnect(**it)) {
        ForgetUnused((*it)->host(), (*it)->path());
        ++it;
        continue;
      }
      ++of_host;
      ++of_path;
      std::unique_ptr<Transfer> transfer = std::move(*it);
      it = queue_.erase(it);
      LeaveQueue();
      transfer->Prepare({options_, proxy_ports_, fill_connections_, receive_bounds_, peer_connections_});
      curl_multi_add_handle(multi_, transfer->easy());
      const Instant now = std::chrono::steady_clock::now();
      next_look_ = std::min({next_look_, transfer->looked_at(), now + transfer->rate_window()});
      if (transfer->dial_max() > Duration(0)) next_look_ = std::min(next_look_, now + transfer->dial_max());
      active_fills_ += IsFill(transfer->fetch_class());
      active_.emplace(transfer->id(), std::move(transfer));
    }
  }

  // By itself libcurl keeps four for each request that is under way, be they few or many. What it counts is
  // those in use as well, and both kinds of connections go by the one number.
  void BoundConnections() {
    const size_t in_use = std::max(active_fills_, active_.size() - active_fills_);
    const long most = static_cast<long>(in_use + options_.connections_idle_max);
    if (most == std::exchange(connections_max_, most)) return;
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, most);
    // Where there are as many, one that is idle makes room for a new one: there is always one.
    curl_multi_setopt(multi_, CURLMOPT_MAX_TOTAL_CONNECTIONS, most);
  }

  // Only new connections to peers are held up.
  bool MayConnect(const Transfer& transfer) {
    if (transfer.connection_key().empty()) return true;
    const Instant now = std::chrono::steady_clock::now();
    if (peer_connections_.Start(transfer.connection_key(), transfer.fetch_class(), now)) return true;
    next_begin_ = std::min(next_begin_, peer_connections_.NextBegin(transfer.fetch_class()));
    return false;
  }

  void ReapFinished() {
    int left = 0;
    while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      const CURLcode code = message->data.result;
      Transfer* transfer = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
      Detach(transfer->id(), code)->Finish(code);
    }
  }

  std::unique_ptr<Transfer> Detach(RequestId id, CURLcode code = CURLE_OK) {
    const auto it = active_.find(id);
    std::unique_ptr<Transfer> transfer = std::move(it->second);
    active_.erase(it);
    may_start_ = true;
    active_fills_ -= IsFill(transfer->fetch_class());
    if (const std::optional<Duration> took = transfer->RoundTrip())
      receive_bounds_.Note(transfer->host(), *took, std::chrono::steady_clock::now());
    const std::optional<TlsResult> handshake = transfer->Handshake(code);
    if (handshake && options_.telemetry) {
      options_.telemetry
          ->tls_handshakes[static_cast<size_t>(TlsSide::kClient)][static_cast<size_t>(*handshake)]
          .Add();
    }
    if (!transfer->connection_key().empty()) peer_connections_.End(transfer->connection_key());
    curl_multi_remove_handle(multi_, transfer->easy());
    OfHost& of_host = active_of_host_.at(transfer->host());
    --of_host.count;
    of_host.heard = std::max(of_host.heard, transfer->heard_at());
    --active_of_path_.at(transfer->path());
    ForgetUnused(transfer->host(), transfer->path());
    return transfer;
  }

  void ForgetUnused(const std::string& host, const std::string& path) {
    const auto of_host = active_of_host_.find(host);
    if (of_host->second.count == 0) active_of_host_.erase(of_host);
    const auto of_path = active_of_path_.find(path);
    if (of_path->second == 0) active_of_path_.erase(of_path);
  }

  void CancelAll() {
    while (!active_.empty()) {
      Detach(active_.begin()->first)->Finish(absl::CancelledError("the HTTP client is stopped"));
    }
    for (auto& transfer : queue_) transfer->Finish(absl::CancelledError("the HTTP client is stopped"));
    queue_.clear();
    // Nothing can arrive any more: stopping_ is set, and Send looks at it under the lock.
    std::vector<Arrival> arrivals;
    std::multimap<Instant, Task> timers;  // dropped without the lock: who waits for them may hear of it
    {
      const std::lock_guard lock(mutex_);
      arrivals.swap(arrivals_);
      timers.swap(timers_);
    }
    for (Arrival& a : arrivals) a.transfer->Finish(absl::CancelledError("the HTTP client is stopped"));
  }

  const HttpClientOptions options_;
  std::vector<int> proxy_ports_;
  CURLM* multi_ = nullptr;
  std::optional<SocketWatch> watch_;
  CURLSH* fill_connections_ = nullptr;
  std::atomic<RequestId> next_id_{1};

  std::mutex mutex_;  // guards the next six
  std::vector<Arrival> arrivals_;
  std::vector<RequestId> cancelled_;
  std::vector<std::pair<RequestId, FetchClass>> raised_;
  std::vector<RequestId> going_on_;
  uint32_t waiting_ = 0;  // in arrivals_ and queue_
  bool stopping_ = false;
  std::multimap<Instant, Task> timers_;

  // Of the loop's thread.
  std::deque<std::unique_ptr<Transfer>> queue_;  // by class, then by arrival
  absl::flat_hash_map<RequestId, std::unique_ptr<Transfer>> active_;
  size_t active_fills_ = 0;   // of them
  long connections_max_ = 0;  // as libcurl was told last; 0: not yet
  struct OfHost {
    uint32_t count = 0;
    Instant heard{};  // when something came of those that have ended, last
  };
  absl::flat_hash_map<std::string, OfHost> active_of_host_;
  absl::flat_hash_map<std::string, uint32_t> active_of_path_;
  ReceiveBounds receive_bounds_;
  Instant next_overdue_ = Instant::max();  // no queued request's deadline is earlier
  Instant next_look_ = Instant::max();     // no active one's silence ends earlier
  Instant next_timer_ = Instant::max();
  Instant next_begin_ = Instant::max();  // of a connection that a queued request needs
  bool may_start_ = false;               // a queued request may have found its turn
  PeerConnections peer_connections_;

  std::mutex join_mutex_;  // guards thread_ once it runs
  std::thread thread_;
};

HttpClient::HttpClient(HttpClientOptions options) : loop_(std::make_unique<Loop>(std::move(options))) {}
HttpClient::~HttpClient() = default;
HttpClient::RequestId HttpClient::Send(HttpRequest request, std::unique_ptr<HttpSink> sink) {
  return loop_->Send(std::move(request), std::move(sink));
}
void HttpClient::Cancel(RequestId id) {
  loop_->Cancel(id);
}
void HttpClient::Raise(RequestId id, FetchClass fetch_class) {
  loop_->Raise(id, fetch_class);
}
void HttpClient::GoOn(RequestId id) {
  loop_->GoOn(id);
}
void HttpClient::After(Duration delay, Task task) {
  loop_->After(delay, std::move(task));
}
void HttpClient::Stop() {
  loop_->Stop();
}

}  // namespace sluice::p2p
