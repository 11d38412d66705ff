// TLS between nodes: FAULTS.md rows 30 and 31, with real handshakes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "api/http/http_server.h"
#include "p2p/cluster/member_exchange.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/http/http_client.h"
#include "tests/unit/api/raw_client.h"
#include "tests/unit/tls/test_authority.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using tls::Issued;
using tls::TestAuthority;
using tls::TlsClient;

constexpr char kHello[] = "GET /hello HTTP/1.1\r\nHost: sluice\r\n\r\n";
constexpr char kLast[] = "GET /hello HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n";

struct Got {
  absl::Status status;
  int code = 0;
  int interims = 0;
  std::string body;
  std::string names;
};

// Keeps an answer for who waits for it.
class Sink final : public p2p::HttpSink {
 public:
  explicit Sink(std::promise<Got> done) : done_(std::move(done)) {}
  void OnInterim(const p2p::HttpHead&) override { ++got_.interims; }
  absl::Status OnHead(const p2p::HttpHead& head) override {
    got_.code = head.status;
    got_.names = absl::StrJoin(head.proven_names.names(), ",");
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    got_.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    got_.status = std::move(status);
    done_.set_value(std::move(got_));
  }

 private:
  std::promise<Got> done_;
  Got got_;
};

// A node's listener: says hello and who it believes to talk to, and gives a file.
class Server {
 public:
  explicit Server(std::shared_ptr<const tls::Identity> identity, api::HttpLimits limits = {},
                  std::string word = "hello", api::HttpTls::Clients clients = api::HttpTls::Clients::kProven)
      : current(std::make_shared<tls::CurrentIdentity>(std::move(identity))) {
    Start({current, &telemetry,
           [this](const std::string& text) {
             const std::lock_guard lock(mutex_);
             warnings_.push_back(text);
           },
           clients},
          limits, std::move(word));
  }
  // In the clear.
  Server() { Start({}, {}, "hello"); }
  ~Server() {
    if (file_ >= 0) ::close(file_);
  }

  uint16_t port() const { return server->port(); }
  uint64_t Handshakes(TlsResult result) const {
    return telemetry.tls_handshakes[static_cast<size_t>(TlsSide::kServer)][static_cast<size_t>(result)]
        .value();
  }
  // Those that came to nothing, in at most ten seconds: a client learns of its end before it is counted.
  uint64_t VainHandshakes(uint64_t wanted) const {
    for (int i = 0; i < 1000; ++i) {
      const uint64_t ended = Handshakes(TlsResult::kRefused) + Handshakes(TlsResult::kFailed);
      if (ended >= wanted) return ended;
      std::this_thread::sleep_for(10ms);
    }
    return Handshakes(TlsResult::kRefused) + Handshakes(TlsResult::kFailed);
  }
  std::string Warnings() {
    const std::lock_guard lock(mutex_);
    return absl::StrJoin(warnings_, "\n");
  }
  // What /file gives from now on.
  void Give(const std::string& bytes) {
    file_ = ::memfd_create("given", MFD_CLOEXEC);
    ASSERT_EQ(::write(file_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    promised_ = bytes.size();
  }

  Telemetry telemetry;
  std::shared_ptr<tls::CurrentIdentity> current;
  std::promise<api::HttpResponder> kept;  // of a request for /kept
  std::atomic<uint64_t> sent{0};          // of the file
  std::promise<void> taken;
  std::unique_ptr<api::HttpServer> server;
  int file_ = -1;
  uint64_t promised_ = 0;

 private:
  void Start(api::HttpTls tls, api::HttpLimits limits, std::string word) {
    api::HttpRoutes routes;
    routes["/hello"] = [word](const api::HttpRequest& request, api::HttpResponder responder) {
      api::HttpResponse response;
      response.body = absl::StrCat(word, " [", absl::StrJoin(request.proven_names.names(), ","), "]");
      std::move(responder).Answer(std::move(response));
    };
    routes["/kept"] = [this](const api::HttpRequest&, api::HttpResponder responder) {
      kept.set_value(std::move(responder));
    };
    routes["/file"] = [this](const api::HttpRequest&, api::HttpResponder responder) {
      api::HttpResponse response;
      response.file = api::FileSpan{file_,
                                    0,
                                    promised_,
                                    nullptr,
                                    [this](uint64_t bytes) { sent += bytes; },
                                    [this] { taken.set_value(); }};
      std::move(responder).Answer(std::move(response));
    };
    server = std::make_unique<api::HttpServer>(std::move(routes), limits, std::move(tls));
    EXPECT_TRUE(server->Start("127.0.0.1:0").ok());
  }

  std::mutex mutex_;
  std::vector<std::string> warnings_;
};

class PeerTlsTest : public ::testing::Test {
 protected:
  std::future<Got> Begin(uint16_t port, const std::shared_ptr<const tls::Identity>& identity,
                         const std::string& name = "", const std::string& path = "/hello") {
    p2p::HttpRequest request;
    request.url = absl::StrCat("https://", identity->peer_name(), path);
    request.peer = {identity, absl::StrCat("127.0.0.1:", port), name};
    request.loopback = p2p::LoopbackRule::kAllow;
    request.proxy = p2p::ProxyRule::kNone;
    request.timeout = 30s;
    request.body_bytes_max = 64 << 20;
    std::promise<Got> done;
    std::future<Got> got = done.get_future();
    client_.Send(std::move(request), std::make_unique<Sink>(std::move(done)));
    return got;
  }
  Got Ask(uint16_t port, const std::shared_ptr<const tls::Identity>& identity, const std::string& name = "",
          const std::string& path = "/hello") {
    return Begin(port, identity, name, path).get();
  }
  uint64_t Handshakes(TlsResult result) const {
    return telemetry_.tls_handshakes[static_cast<size_t>(TlsSide::kClient)][static_cast<size_t>(result)]
        .value();
  }

  const TestAuthority authority_;
  const std::shared_ptr<const tls::Identity> shared_ = authority_.MakeIdentity();
  Telemetry telemetry_;
  p2p::HttpClient client_{{.ca_file = {}, .connect_timeout = 5s, .telemetry = &telemetry_}};
};

TEST_F(PeerTlsTest, TwoNodesOfOneAuthorityTalk) {
  Server server(shared_);
  for (int i = 0; i < 3; ++i) {
    const Got got = Ask(server.port(), authority_.MakeIdentity());
    EXPECT_TRUE(got.status.ok()) << got.status;
    EXPECT_EQ(got.body, "hello []");
  }
  EXPECT_EQ(server.Handshakes(TlsResult::kOk), 1u) << "the connection is kept";
  EXPECT_EQ(Handshakes(TlsResult::kOk), 1u);
}

TEST_F(PeerTlsTest, EachSideLearnsTheOthersNames) {
  Server server(authority_.MakeIdentity({.names = {"sluice", "a.sluice"}}));
  const auto node = authority_.MakeIdentity({.names = {"sluice", "b.sluice", "c.sluice"}});
  for (int i = 0; i < 2; ++i) {  // also on a kept connection
    const Got got = Ask(server.port(), node, "a");
    EXPECT_EQ(got.body, "hello [b,c]");
    EXPECT_EQ(got.names, "a");
  }
  const Got got = Ask(server.port(), node, "b");
  EXPECT_TRUE(absl::IsPermissionDenied(got.status)) << got.status;
  EXPECT_THAT(std::string(got.status.message()), HasSubstr("is of a, not of b"));
  EXPECT_EQ(got.code, 0) << "the request was sent";
}

// --- whom a server refuses

TEST_F(PeerTlsTest, AClientThatMustNotBeLetInGetsNothing) {
  const TestAuthority another("test authority");
  const Issued revoked = authority_.Issue();
  Server server(authority_.MakeIdentity({}, authority_.Revoke({revoked.certificate})));
  const std::map<std::string, std::optional<Issued>> clients = {
      {"no certificate", std::nullopt},
      {"another authority", another.Issue()},
      {"another name", authority_.Issue({.names = {"other"}})},
      {"a wildcard", authority_.Issue({.names = {"*"}})},
      {"expired", authority_.Issue({.begins_in = -900, .ends_in = -600})},
      {"not yet valid", authority_.Issue({.begins_in = 600})},
      {"revoked", revoked},
      {"for servers alone", authority_.Issue({.uses = "serverAuth"})}};
  for (const auto& [what, issued] : clients) {
    TlsClient client(server.port(), issued ? &*issued : nullptr);
    EXPECT_EQ(client.Send(kLast).ReadAll(), "") << what;
  }
  EXPECT_EQ(server.Handshakes(TlsResult::kOk), 0u);
  EXPECT_EQ(server.VainHandshakes(clients.size()), clients.size());
  EXPECT_THAT(server.Warnings(), HasSubstr("a connection from 127.0.0.1 is refused for its certificate: "));
  const Issued good = authority_.Issue();
  EXPECT_THAT(TlsClient(server.port(), &good).Send(kLast).ReadAll(), EndsWith("hello []"));
}

TEST_F(PeerTlsTest, WhereAnybodyMayAskNobodyIsAskedForACertificateOrBelieved) {
  Server server(shared_, {}, "hello", api::HttpTls::Clients::kAnybody);
  TlsClient stranger(server.port(), nullptr);
  for (int i = 0; i < 2; ++i)
    EXPECT_THAT(stranger.Send(kHello).ReadThrough("[]"), StartsWith("HTTP/1.1 200 "));
  const Issued node = authority_.Issue({.names = {"sluice", "b.sluice"}});
  EXPECT_THAT(TlsClient(server.port(), &node).Send(kLast).ReadAll(), EndsWith("hello []"));
  // A new identity is none of theirs to have.
  server.current->Set(authority_.MakeIdentity({}, authority_.Revoke({node.certificate})));
  server.server->Recheck();
  EXPECT_THAT(stranger.Send(kLast).ReadAll(), EndsWith("hello []"));
  // Nor does the same identity let anybody in elsewhere.
  Server peers(shared_);
  EXPECT_EQ(TlsClient(peers.port(), nullptr).Send(kLast).ReadAll(), "");
}

TEST_F(PeerTlsTest, TheClientThatIsRefusedFailsSoonAndCountsIt) {
  const TestAuthority another("another");
  Server server(another.MakeIdentity({}, {}, 1));
  // It believes the server, which does not believe it.
  const Issued own = authority_.Issue();
  const auto node =
      *tls::Identity::Create({authority_.pem() + another.pem(), own.certificate, own.key, {}}, "sluice", 1);
  const Got got = Ask(server.port(), node);
  EXPECT_TRUE(absl::IsUnavailable(got.status)) << got.status;
  EXPECT_EQ(Handshakes(TlsResult::kRefused), 1u) << got.status;
}

TEST_F(PeerTlsTest, WhatIsNoTlsIsClosed) {
  Server server(shared_);
  EXPECT_THAT(api::RawClient(server.port()).Send(kLast).ReadAll(), Not(HasSubstr("hello")));
  EXPECT_EQ(server.VainHandshakes(1), 1u);
  EXPECT_EQ(server.Handshakes(TlsResult::kRefused), 0u);
}

// --- whom a client refuses

TEST_F(PeerTlsTest, AServerThatIsNoNodeIsRefused) {
  const TestAuthority another("another");
  const Issued revoked = authority_.Issue();
  const auto make = [&](const Issued& issued) {
    return *tls::Identity::Create({authority_.pem(), issued.certificate, issued.key, {}}, "sluice", 1);
  };
  const std::map<std::string, std::shared_ptr<const tls::Identity>> servers = {
      {"another authority", another.MakeIdentity()},
      {"another name", authority_.MakeIdentity({.names = {"other"}})},
      {"expired", authority_.MakeIdentity({.begins_in = -900, .ends_in = -600})},
      {"not yet valid", authority_.MakeIdentity({.begins_in = 600})},
      {"revoked", make(revoked)}};
  const auto node = authority_.MakeIdentity({}, authority_.Revoke({revoked.certificate}));
  uint64_t refused = 0;
  for (const auto& [what, identity] : servers) {
    Server server(identity);
    const Got got = Ask(server.port(), node);
    EXPECT_TRUE(absl::IsPermissionDenied(got.status)) << what << ": " << got.status;
    EXPECT_EQ(got.body, "") << what;
    EXPECT_EQ(Handshakes(TlsResult::kRefused), ++refused) << what;
  }
}

// One that has the authority's name, and not its key.
TEST_F(PeerTlsTest, AnAuthorityOfTheSameNameIsAnother) {
  Server server(TestAuthority("test authority").MakeIdentity());
  const Got got = Ask(server.port(), shared_);
  EXPECT_FALSE(got.status.ok());
  EXPECT_EQ(got.code, 0);
}

TEST_F(PeerTlsTest, AServerInTheClearIsRefusedSoon) {
  Server server;
  const Got got = Ask(server.port(), shared_);
  EXPECT_TRUE(absl::IsUnavailable(got.status)) << got.status;
  EXPECT_EQ(Handshakes(TlsResult::kFailed), 1u);
}

TEST_F(PeerTlsTest, ARevocationListThatIsTooOldRefusesNobodyButWhomItNames) {
  const Issued revoked = authority_.Issue();
  Server server(authority_.MakeIdentity({}, authority_.Revoke({revoked.certificate}, -60)));
  const Got got = Ask(server.port(), authority_.MakeIdentity({}, authority_.Revoke({}, -60)));
  EXPECT_TRUE(got.status.ok()) << got.status;
  EXPECT_EQ(TlsClient(server.port(), &revoked).Send(kLast).ReadAll(), "");
}

// --- connections

// All members have one host in their URLs: what keeps them apart is where the connection goes.
TEST_F(PeerTlsTest, ConnectionsToDifferentNodesAreNeverMixedUp) {
  Server a(shared_, {}, "a"), b(shared_, {}, "b");
  for (int round = 0; round < 5; ++round) {
    std::vector<std::future<Got>> from_a, from_b;
    for (int i = 0; i < 4; ++i) {
      from_a.push_back(Begin(a.port(), shared_));
      from_b.push_back(Begin(b.port(), shared_));
    }
    for (auto& got : from_a) EXPECT_EQ(got.get().body, "a []");
    for (auto& got : from_b) EXPECT_EQ(got.get().body, "b []");
  }
  // Of 40 requests, 8 at once; a connection may be free again a little after its answer.
  EXPECT_LE(Handshakes(TlsResult::kOk), 20u) << "connections are kept";
}

TEST_F(PeerTlsTest, ANewIdentityMakesNewConnections) {
  Server server(shared_);
  EXPECT_EQ(Ask(server.port(), authority_.MakeIdentity({}, {}, 1)).body, "hello []");
  EXPECT_EQ(Ask(server.port(), authority_.MakeIdentity({.names = {"sluice", "b.sluice"}}, {}, 2)).body,
            "hello [b]");
  EXPECT_EQ(server.Handshakes(TlsResult::kOk), 2u);
}

// By way of a bundle: the new authority is trusted everywhere before anybody shows its certificates.
TEST_F(PeerTlsTest, TheAuthorityIsChangedWithoutAnOutage) {
  const TestAuthority next("the next authority");
  Server server(shared_);
  server.current->Set(authority_.MakeIdentity({}, {}, 2, next.pem()));
  server.server->Recheck();
  EXPECT_TRUE(Ask(server.port(), authority_.MakeIdentity({}, {}, 1)).status.ok());
  const auto moved = next.MakeIdentity({}, {}, 3, authority_.pem());
  EXPECT_TRUE(Ask(server.port(), moved).status.ok());
  server.current->Set(next.MakeIdentity({}, {}, 3));
  server.server->Recheck();
  EXPECT_TRUE(Ask(server.port(), moved).status.ok());
  const Issued old = authority_.Issue();
  EXPECT_EQ(TlsClient(server.port(), &old).Send(kLast).ReadAll(), "");
}

TEST_F(PeerTlsTest, TheConnectionsOfWhoIsRevokedAreClosed) {
  const Issued revoked = authority_.Issue(), good = authority_.Issue();
  Server server(shared_);
  TlsClient waits(server.port(), &revoked), idle(server.port(), &revoked), stays(server.port(), &good);
  for (TlsClient* client : {&waits, &idle, &stays})
    EXPECT_THAT(client->Send(kHello).ReadThrough("[]"), StartsWith("HTTP/1.1 200 "));
  waits.Send("GET /kept HTTP/1.1\r\nHost: sluice\r\n\r\n");
  api::HttpResponder kept = server.kept.get_future().get();
  std::promise<void> gone;
  kept.OnGone([&gone] { gone.set_value(); });
  server.current->Set(authority_.MakeIdentity({}, authority_.Revoke({revoked.certificate}), 2));
  server.server->Recheck();
  gone.get_future().wait();
  EXPECT_EQ(waits.ReadAll(), "");
  EXPECT_EQ(idle.ReadAll(), "");
  EXPECT_THAT(stays.Send(kLast).ReadAll(), EndsWith("hello []"));
  EXPECT_THAT(server.Warnings(), HasSubstr("revoked"));
  std::move(kept).Answer({});
}

TEST_F(PeerTlsTest, AKeptConnectionEndsWithItsCertificate) {
  const Issued short_lived = authority_.Issue({.ends_in = 2});
  Server server(shared_);
  TlsClient client(server.port(), &short_lived);
  EXPECT_THAT(client.Send(kHello).ReadThrough("[]"), StartsWith("HTTP/1.1 200 "));
  while (!client.Send(kHello).ReadThrough("[]").empty()) {
  }
}

// --- handshakes

TEST_F(PeerTlsTest, AHandshakeHasADeadlineAndAPlaceAmongTheConnections) {
  Server server(shared_, {.connections_max = 1, .handshake_timeout = 300ms});
  {
    api::RawClient silent(server.port());
    const Issued good = authority_.Issue();
    EXPECT_EQ(TlsClient(server.port(), &good).Send(kLast).ReadAll(), "") << "there is no place for another";
    EXPECT_EQ(silent.ReadAll(), "") << "it was waited for longer";
  }
  // A byte now and then makes it no longer.
  {
    api::RawClient drip(server.port());
    std::atomic<bool> done{false};
    std::thread dripping([&] {
      const std::string hello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
      for (size_t i = 0; i < 500 && !done; ++i) {
        drip.Send(std::string(1, i < hello.size() ? hello[i] : '\x01'));
        std::this_thread::sleep_for(20ms);
      }
    });
    EXPECT_EQ(drip.ReadAll(), "");
    done = true;
    dripping.join();
  }
  EXPECT_EQ(server.VainHandshakes(2), 2u);
  EXPECT_EQ(server.Handshakes(TlsResult::kRefused), 0u);
}

TEST_F(PeerTlsTest, WhoGoesInTheMiddleOfAHandshakeLeavesNothing) {
  Server server(shared_, {.connections_max = 2});
  for (int i = 0; i < 20; ++i) {
    api::RawClient client(server.port());
    client.Send(std::string("\x16\x03\x01\x02\x00\x01\x00", 7));
  }
  const Issued good = authority_.Issue();
  std::string answer;
  while (answer.empty()) answer = TlsClient(server.port(), &good).Send(kLast).ReadAll();
  EXPECT_THAT(answer, EndsWith("hello []"));
}

TEST_F(PeerTlsTest, ThreeHundredHandshakesAtOnceEndWell) {
  constexpr int kClients = 300;
  Server server(shared_, {.connections_max = kClients, .handshake_timeout = 60s});
  const Issued good = authority_.Issue();
  std::atomic<int> served{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      TlsClient client(server.port(), &good);
      if (client.Send(kHello).ReadThrough("[]").ends_with("hello []")) ++served;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(served, kClients);
}

// --- what the server promises, by TLS

TEST_F(PeerTlsTest, AFileArrivesWholeAndIsSaidToBeTaken) {
  std::string bytes((5 << 20) + 12345, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  Server server(shared_);
  server.Give(bytes);
  const Got got = Ask(server.port(), shared_, "", "/file");
  EXPECT_TRUE(got.status.ok()) << got.status;
  EXPECT_TRUE(got.body == bytes);
  server.taken.get_future().wait();
  EXPECT_EQ(server.sent, bytes.size());
}

TEST_F(PeerTlsTest, AFileThatEndsEarlyEndsTheConnection) {
  Server server(shared_);
  server.Give(std::string(100000, 'x'));
  server.promised_ = 200000;
  const Got got = Ask(server.port(), shared_, "", "/file");
  EXPECT_TRUE(absl::IsUnavailable(got.status)) << got.status;
}

TEST_F(PeerTlsTest, InterimAnswersComeBeforeTheAnswer) {
  Server server(shared_);
  std::future<Got> got = Begin(server.port(), shared_, "", "/kept");
  api::HttpResponder kept = server.kept.get_future().get();
  kept.Interim(102);
  api::HttpResponse response;
  response.body = "late";
  std::move(kept).Answer(std::move(response));
  const Got answer = got.get();
  EXPECT_EQ(answer.interims, 1);
  EXPECT_EQ(answer.body, "late");
}

// What a client says at the end of TLS is something to read, and comes before the end of the connection.
TEST_F(PeerTlsTest, AClientThatHasGoneIsNoticed) {
  const Issued good = authority_.Issue();
  Server server(shared_);
  auto client = std::make_unique<TlsClient>(server.port(), &good);
  client->Send("GET /kept HTTP/1.1\r\nHost: sluice\r\n\r\n");
  api::HttpResponder kept = server.kept.get_future().get();
  std::promise<void> gone;
  std::future<void> told = gone.get_future();
  kept.OnGone([&gone] { gone.set_value(); });
  client->SayEnd();
  EXPECT_EQ(told.wait_for(200ms), std::future_status::timeout) << "it still waits for the answer";
  client.reset();
  told.wait();
  std::move(kept).Answer({});
}

TEST_F(PeerTlsTest, StopInTheMidstOfATransferClosesIt) {
  Server server(shared_);
  server.Give(std::string(32 << 20, 'x'));
  const Issued good = authority_.Issue();
  TlsClient client(server.port(), &good);
  client.Send("GET /file HTTP/1.1\r\nHost: sluice\r\n\r\n").ReadThrough("\r\n\r\n");
  server.server->Stop();
  EXPECT_LT(client.ReadAll().size(), size_t{32 << 20});
}

// --- members

TEST_F(PeerTlsTest, APeerClientSkipsAMemberWhoseCertificateIsAnothers) {
  Server server(authority_.MakeIdentity({.names = {"sluice", "a.sluice"}}));
  p2p::PeerClientOptions options;
  options.node_id = "this node";
  options.identity = std::make_shared<tls::CurrentIdentity>(shared_);
  p2p::PeerClient client(telemetry_, std::move(options));
  const p2p::HostPort address{"127.0.0.1", server.port()};
  const auto ask = [&](const std::string& name) {
    return client.Get({address, name, 0, false, {}}, "/hello", 1000, 10s).status();
  };
  EXPECT_THAT(std::string(ask("b").message()), HasSubstr("is of a, not of b"));
  EXPECT_TRUE(absl::IsUnavailable(ask("b"))) << ask("b");
  // What answers there is no Sluice node, but the right one's.
  EXPECT_THAT(std::string(ask("a").message()), HasSubstr("status 200 from what is no Sluice node"));
  EXPECT_THAT(std::string(ask(address.ToString()).message()), HasSubstr("no Sluice node"));
}

// More than are kept in the clear: a handshake costs more than a round trip.
TEST_F(PeerTlsTest, APeerClientKeepsItsConnectionsToMany) {
  p2p::PeerClientOptions options;
  options.node_id = "this node";
  options.identity = std::make_shared<tls::CurrentIdentity>(shared_);
  const size_t count = options.kept_max + 8;
  p2p::PeerClient client(telemetry_, std::move(options));
  std::vector<std::unique_ptr<Server>> servers;
  for (size_t i = 0; i < count; ++i) servers.push_back(std::make_unique<Server>(shared_));
  for (int round = 0; round < 2; ++round) {
    for (const std::unique_ptr<Server>& server : servers) {
      const p2p::HostPort address{"127.0.0.1", server->port()};
      (void)client.Get({address, address.ToString(), 0, false, {}}, "/hello", 1000, 30s);
    }
  }
  EXPECT_EQ(Handshakes(TlsResult::kOk), count);
}

}  // namespace
}  // namespace sluice
