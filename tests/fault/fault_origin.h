#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "node/blob.h"
#include "node/digest.h"

namespace sluice::p2p {

// A request as it came over the wire.
struct FaultRequest {
  std::string method;
  std::string host;   // of an absolute target (a proxy is asked so), else of the Host header
  std::string path;   // without the query
  std::string query;  // without the "?"
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  // The header's value, or "".
  std::string Header(const std::string& name) const;
};

// The origin's end of a connection, for the length of one request. Nothing it sends fails: a client that has
// gone is what many of the tests are about.
class FaultConnection {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  virtual ~FaultConnection() = default;
  virtual void SendRaw(std::string_view bytes) = 0;
  // Waits until the client closes the connection or the origin stops.
  virtual void Stall() = 0;
  // Closes the connection once the behaviour returns.
  virtual void CloseAfter() = 0;

  // A whole answer; Content-Length is added unless `headers` has one.
  void Send(int status, const Headers& headers, std::string_view body);
  // A head with exactly these headers.
  void SendHead(int status, const Headers& headers);
  // The body one byte at a time, with a pause that makes up about ten bytes a second.
  void Drip(std::string_view body);

 protected:
  virtual bool Pause() = 0;  // false: the client has gone or the origin stops
};

using FaultBehaviour = std::function<void(const FaultRequest&, FaultConnection&)>;

// A registry on a loopback port, in this process, that behaves as well or badly as a test says. It serves the
// blobs and manifests it was given, by the rules, on every path that has no script.
//
// Thread-safe. Behaviours run on the origin's threads, one per connection.
class FaultOrigin {
 public:
  enum class Transport { kPlain, kTls };

  explicit FaultOrigin(Transport transport = Transport::kPlain);
  // Closes all connections and waits for the threads.
  ~FaultOrigin();
  FaultOrigin(const FaultOrigin&) = delete;
  FaultOrigin& operator=(const FaultOrigin&) = delete;

  uint16_t port() const;
  // "127.0.0.1:<port>".
  std::string registry() const;
  // "http://127.0.0.1:<port><path>", or https.
  std::string Url(std::string_view path) const;
  // The self-signed certificate that a client must trust (PEM); it names 127.0.0.1 and localhost.
  const std::string& ca_file() const;

  Digest AddBlob(const std::string& repository, std::string bytes);
  Digest AddManifest(const std::string& repository, const std::string& tag, const std::string& media_type,
                     std::string body);
  static std::string BlobPath(const std::string& repository, const Digest& digest);
  static std::string ManifestPath(const std::string& repository, std::string_view tag_or_digest);

  // The next requests to `path` get these behaviours, one each; after them it is served by the rules again.
  void Script(const std::string& path, std::vector<FaultBehaviour> behaviours);
  // Every request to `path` that no script takes gets this.
  void Always(const std::string& path, FaultBehaviour behaviour);
  // Every request must carry this Authorization, or gets a 401 with that challenge ("" for none).
  void RequireAuthorization(std::string authorization, std::string challenge);
  // Serves by the rules; for behaviours that do something first.
  void ServeByTheRules(const FaultRequest& request, FaultConnection& connection);

  std::vector<FaultRequest> requests(const std::string& path) const;
  size_t request_count(const std::string& path) const { return requests(path).size(); }
  size_t connection_count() const;

 private:
  class Server;
  const std::unique_ptr<Server> server_;
};

// Behaviours that many tests want.
namespace fault {
FaultBehaviour Status(int status, FaultConnection::Headers headers = {}, std::string body = {});
FaultBehaviour Redirect(std::string location);
// Reads the request and closes.
FaultBehaviour Hangup();
// A token server that gives nothing to who shows no credentials.
FaultBehaviour TokenForCredentials(std::string answer);
}  // namespace fault

}  // namespace sluice::p2p
