#include "api/http/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <future>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "api/http/operations_routes.h"

namespace sluice::api {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// One connection to a port of loopback; raw bytes both ways.
class RawClient {
 public:
  explicit RawClient(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    // Far beyond any wait in here: a server that never answers fails the test instead of hanging it.
    const timeval patience{.tv_sec = 60, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~RawClient() { ::close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  RawClient& Send(const std::string& text) {
    (void)::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
    return *this;
  }

  // Up to the end of the connection.
  std::string ReadAll() {
    while (ReadSome()) {
    }
    return std::exchange(received_, "");
  }

  // Up to and including `mark`, or the end.
  std::string ReadThrough(const std::string& mark) {
    while (received_.find(mark) == std::string::npos && ReadSome()) {
    }
    const size_t found = received_.find(mark);
    if (found == std::string::npos) return std::exchange(received_, "");
    std::string head = received_.substr(0, found + mark.size());
    received_.erase(0, found + mark.size());
    return head;
  }

 private:
  bool ReadSome() {
    char buffer[4096];
    const ssize_t count = ::recv(fd_, buffer, sizeof(buffer), 0);
    EXPECT_FALSE(count < 0 && errno == EAGAIN) << "the server neither answered nor closed";
    if (count > 0) received_.append(buffer, static_cast<size_t>(count));
    return count > 0;
  }

  const int fd_;
  std::string received_;
};

std::string Request(const std::string& method, const std::string& target, const std::string& more = "") {
  return absl::StrCat(method, " ", target, " HTTP/1.1\r\nHost: x\r\n", more, "\r\n");
}
const char kClose[] = "Connection: close\r\n";

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpRoutes routes, HttpLimits limits = {}) {
    server_ = std::make_unique<HttpServer>(std::move(routes), limits);
    const absl::Status status = server_->Start("127.0.0.1:0");
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_NE(server_->port(), 0);
  }

  static HttpRoutes Hello() {
    HttpRoutes routes;
    routes["/hello"] = [](const HttpRequest& request, HttpResponder responder) {
      HttpResponse response;
      response.body = absl::StrCat("hello ", request.query, request.Header("X-NAME").empty() ? "" : "!");
      response.headers.emplace_back("X-Extra", "1");
      std::move(responder).Answer(std::move(response));
    };
    return routes;
  }

  std::string Ask(const std::string& request) { return RawClient(server_->port()).Send(request).ReadAll(); }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersARoute) {
  Start(Hello());
  EXPECT_THAT(Ask(Request("GET", "/hello?a=b", absl::StrCat("x-name: y\r\n", kClose))),
              AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("Content-Type: text/plain"),
                    HasSubstr("Content-Length: 10\r\n"), HasSubstr("X-Extra: 1\r\n"),
                    EndsWith("\r\n\r\nhello a=b!")));
}

TEST_F(HttpServerTest, HeadHasTheLengthAndNoBody) {
  Start(Hello());
  EXPECT_THAT(
      Ask(Request("HEAD", "/hello?a=b", kClose)),
      AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("Content-Length: 9\r\n"), EndsWith("\r\n\r\n")));
}

TEST_F(HttpServerTest, PathsMatchExactly) {
  Start(Hello());
  for (const char* path : {"/", "/hello/", "/hell", "/hello/x", "/%68ello", "//hello", "/x/../hello"}) {
    EXPECT_THAT(Ask(Request("GET", path, kClose)), StartsWith("HTTP/1.1 404 ")) << path;
  }
}

TEST_F(HttpServerTest, OtherMethodsAreRefused) {
  Start(Hello());
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "FROB"}) {
    EXPECT_THAT(Ask(Request(method, "/hello")),
                AllOf(StartsWith("HTTP/1.1 405 "), HasSubstr("Allow: GET, HEAD\r\n")))
        << method;
  }
}

TEST_F(HttpServerTest, ABodyIsRefused) {
  Start(Hello());
  EXPECT_THAT(Ask(Request("GET", "/hello", "Content-Length: 5\r\n")), StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(Ask(Request("GET", "/hello", "Content-Length: 99999999999999\r\n")),
              StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(Ask(Request("GET", "/hello", "Transfer-Encoding: chunked\r\n")), StartsWith("HTTP/1.1 413 "));
}

TEST_F(HttpServerTest, NonsenseIsRefused) {
  Start(Hello());
  for (const char* text :
       {"nonsense\r\n\r\n", "GET /hello HTTP/9.9\r\n\r\n", "GET http://x/hello HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /hello HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"}) {
    EXPECT_THAT(Ask(text), StartsWith("HTTP/1.1 400 ")) << text;
  }
}

TEST_F(HttpServerTest, HeadersAreBounded) {
  Start(Hello(), {.header_bytes_max = 1024});
  EXPECT_THAT(Ask(Request("GET", "/hello", absl::StrCat("X: ", std::string(900, 'a'), "\r\n", kClose))),
              StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Ask(Request("GET", "/hello", absl::StrCat("X: ", std::string(1100, 'a'), "\r\n"))),
              StartsWith("HTTP/1.1 431 "));
}

TEST_F(HttpServerTest, OneConnectionServesManyRequestsAlsoPipelined) {
  Start(Hello());
  RawClient client(server_->port());
  client.Send(Request("GET", "/hello?1") + Request("HEAD", "/hello?22") + Request("GET", "/nowhere"));
  EXPECT_THAT(client.ReadThrough("hello 1"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(client.ReadThrough("\r\n\r\n"), HasSubstr("Content-Length: 8\r\n"));
  EXPECT_THAT(client.ReadThrough("\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  client.Send(Request("GET", "/hello?4", kClose));
  EXPECT_THAT(client.ReadAll(), EndsWith("hello 4"));
}

TEST_F(HttpServerTest, AClientThatNeverFinishesItsRequestIsClosed) {
  Start(Hello(), {.idle_timeout = std::chrono::milliseconds(50)});
  EXPECT_EQ(Ask("GET /hello HTTP/1.1\r\nHos"), "");
  EXPECT_EQ(Ask(""), "");
}

TEST_F(HttpServerTest, ConnectionsAreBounded) {
  Start(Hello(), {.connections_max = 2});
  auto first = std::make_unique<RawClient>(server_->port());
  RawClient second(server_->port());
  first->Send(Request("GET", "/hello?1")).ReadThrough("hello 1");
  second.Send(Request("GET", "/hello?2")).ReadThrough("hello 2");
  EXPECT_THAT(RawClient(server_->port()).ReadAll(),
              AllOf(StartsWith("HTTP/1.1 503 "), EndsWith("\r\n\r\ntoo many connections\n")));
  // Those that are there are served on, and a place that is given up is given again.
  second.Send(Request("GET", "/hello?3"));
  EXPECT_THAT(second.ReadThrough("hello 3"), StartsWith("HTTP/1.1 200 "));
  first.reset();
  std::string answer;
  while (answer.empty() || answer.starts_with("HTTP/1.1 503 "))
    answer = Ask(Request("GET", "/hello?4", kClose));
  EXPECT_THAT(answer, EndsWith("hello 4"));
}

TEST_F(HttpServerTest, AHandlerMayAnswerLaterFromAnotherThread) {
  std::promise<HttpResponder> kept;
  HttpRoutes routes;
  routes["/slow"] = [&kept](const HttpRequest&, HttpResponder responder) {
    kept.set_value(std::move(responder));
  };
  Start(std::move(routes));
  RawClient client(server_->port());
  client.Send(Request("GET", "/slow", kClose));
  HttpResponder responder = kept.get_future().get();
  HttpResponse response;
  response.status = 418;
  response.body = "late";
  std::move(responder).Answer(std::move(response));
  EXPECT_THAT(client.ReadAll(), AllOf(StartsWith("HTTP/1.1 418 "), EndsWith("late")));
}

TEST_F(HttpServerTest, ADroppedRequestIsAnswered500) {
  HttpRoutes routes;
  routes["/drop"] = [](const HttpRequest&, HttpResponder) {};
  Start(std::move(routes));
  EXPECT_THAT(Ask(Request("GET", "/drop", kClose)), StartsWith("HTTP/1.1 500 "));
}

TEST_F(HttpServerTest, AHandlerThatTakesTooLongIsAnsweredForAndItsAnswerDiscarded) {
  std::optional<HttpResponder> kept;
  HttpRoutes routes = Hello();
  routes["/slow"] = [&kept](const HttpRequest&, HttpResponder responder) {
    kept.emplace(std::move(responder));
  };
  Start(std::move(routes), {.handler_timeout = std::chrono::milliseconds(20)});
  RawClient client(server_->port());
  client.Send(Request("GET", "/slow"));
  EXPECT_THAT(client.ReadThrough("too long\n"), StartsWith("HTTP/1.1 503 "));
  HttpResponse late;
  late.body = "late";
  std::move(*kept).Answer(std::move(late));
  client.Send(Request("GET", "/hello?1", kClose));
  EXPECT_THAT(client.ReadAll(), AllOf(EndsWith("hello 1"), Not(HasSubstr("late"))));
}

TEST_F(HttpServerTest, AResponderMayOutliveTheServer) {
  std::promise<HttpResponder> kept;
  HttpRoutes routes;
  routes["/slow"] = [&kept](const HttpRequest&, HttpResponder responder) {
    kept.set_value(std::move(responder));
  };
  Start(std::move(routes));
  RawClient client(server_->port());
  client.Send(Request("GET", "/slow"));
  HttpResponder responder = kept.get_future().get();
  server_.reset();
  std::move(responder).Answer({});
  EXPECT_EQ(client.ReadAll(), "");
}

TEST_F(HttpServerTest, StopIsIdempotentAndClosesConnections) {
  Start(Hello());
  RawClient client(server_->port());
  client.Send(Request("GET", "/hello?1")).ReadThrough("hello 1");
  server_->Stop();
  server_->Stop();
  EXPECT_FALSE(server_->Start("127.0.0.1:0").ok());
  server_.reset();
  EXPECT_EQ(client.ReadAll(), "");
}

TEST_F(HttpServerTest, APortInUseIsRefusedWithItsReason) {
  Start(Hello());
  HttpServer second(Hello(), {});
  const absl::Status status = second.Start(absl::StrCat("127.0.0.1:", server_->port()));
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("in use"));
  // A failed start leaves it as it was.
  EXPECT_TRUE(second.Start("127.0.0.1:0").ok());
}

TEST_F(HttpServerTest, AddressesAreChecked) {
  for (const char* listen : {"", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
                             "127.0.0.1:-1", "no.such.host.invalid:0"}) {
    EXPECT_EQ(HttpServer(Hello(), {}).Start(listen).code(), absl::StatusCode::kInvalidArgument) << listen;
  }
  EXPECT_TRUE(HttpServer(Hello(), {}).Start("localhost:0").ok());
}

TEST_F(HttpServerTest, OperationsRoutesSayHowTheNodeIs) {
  Telemetry telemetry;
  telemetry.read_errors.Add(3);
  const Metrics metrics(telemetry, {.version = "1", .revision = "r", .backend = "off", .keeper = {}});
  std::atomic<bool> ready = false;
  HttpRoutes routes;
  AddOperationsRoutes(routes, metrics, [&ready] {
    return ready ? absl::OkStatus() : absl::UnavailableError("the index is being rebuilt");
  });
  Start(std::move(routes));
  EXPECT_THAT(Ask(Request("GET", "/livez", kClose)), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Ask(Request("GET", "/readyz", kClose)),
              AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("the index is being rebuilt")));
  ready = true;
  EXPECT_THAT(Ask(Request("GET", "/readyz", kClose)), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Ask(Request("GET", "/metrics", kClose)),
              AllOf(HasSubstr("Content-Type: text/plain; version=0.0.4"),
                    HasSubstr("\nsluice_read_errors_total 3\n")));
  server_.reset();
}

}  // namespace
}  // namespace sluice::api
