#include "api/http/http_server.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/http/operations_routes.h"
#include "tests/unit/api/raw_client.h"

namespace sluice::api {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

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

  // The first answer that matches, or the last one of 10 s.
  static std::string AskUntil(const std::function<std::string()>& ask,
                              const testing::Matcher<std::string>& matcher) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    std::string answer;
    do answer = ask();
    while (!testing::Value(answer, matcher) && std::chrono::steady_clock::now() < deadline);
    return answer;
  }

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

TEST_F(HttpServerTest, APostGoesToItsOwnRouteWithItsBody) {
  HttpRoutes routes = Hello();
  routes["POST /take"] = [](const HttpRequest& request, HttpResponder responder) {
    EXPECT_EQ(request.method, HttpMethod::kPost);
    HttpResponse response;
    response.body = absl::StrCat("got ", request.body.size(), " ", request.query);
    std::move(responder).Answer(std::move(response));
  };
  Start(std::move(routes), {.body_bytes_max = 1000});
  const auto post = [&](const std::string& path, const std::string& body) {
    return Ask(Request("POST", path, absl::StrCat("Content-Length: ", body.size(), "\r\n", kClose)) + body);
  };
  EXPECT_THAT(post("/take?a=b", "hello"), AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("got 5 a=b")));
  EXPECT_THAT(post("/take", ""), EndsWith("got 0 "));
  EXPECT_THAT(post("/take", std::string(1000, 'x')), EndsWith("got 1000 "));
  EXPECT_THAT(post("/take", std::string(1001, 'x')), StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(Ask(Request("POST", "/take", "Transfer-Encoding: chunked\r\n")), StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(post("/hello", "hello"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(Ask(Request("GET", "/take", kClose)), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask(Request("GET", "POST%20/take", kClose)), StartsWith("HTTP/1.1 400 "));
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

TEST_F(HttpServerTest, AClientOfHttp10IsToldThatItsConnectionIsKept) {
  Start(Hello());
  RawClient client(server_->port());
  client.Send("HEAD /hello?1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
  EXPECT_THAT(client.ReadThrough("\r\n\r\n"), HasSubstr("Connection: keep-alive\r\n"));
  client.Send("GET /hello?22 HTTP/1.0\r\n\r\n");
  EXPECT_THAT(client.ReadAll(), AllOf(HasSubstr("Connection: close\r\n"), EndsWith("hello 22")));
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

TEST_F(HttpServerTest, WithoutDescriptorsItWaitsForOneAndThenServesAll) {
  Start(Hello());
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(std::make_unique<RawClient>(server_->port()));
  for (const auto& client : clients) {
    client->Send(Request("GET", "/hello?0"));
    EXPECT_THAT(client->ReadThrough("hello 0"), StartsWith("HTTP/1.1 200 "));
  }
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{.rlim_cur = 256, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<int> all;
  for (int fd = 0; (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) all.push_back(fd);
  ASSERT_EQ(errno, EMFILE);
  // One for a client: its connection waits in the kernel.
  close(all.back());
  all.pop_back();
  RawClient late(server_->port());
  late.Send(Request("GET", "/hello?9", kClose));
  clients[1]->Send(Request("GET", "/hello?1"));
  EXPECT_THAT(clients[1]->ReadThrough("hello 1"), StartsWith("HTTP/1.1 200 "))
      << "who is connected is served";
  for (const int fd : all) close(fd);
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(late.ReadAll(), EndsWith("hello 9"));
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
  std::atomic<bool> alive = true;
  std::atomic<bool> ready = false;
  HttpRoutes routes;
  AddOperationsRoutes(
      routes, metrics,
      {[&alive] { return alive ? absl::OkStatus() : absl::UnavailableError("the core loop hangs"); },
       [&ready] { return ready ? absl::OkStatus() : absl::UnavailableError("the index is being rebuilt"); }});
  Start(std::move(routes));
  EXPECT_THAT(Ask(Request("GET", "/livez", kClose)), StartsWith("HTTP/1.1 200 "));
  alive = false;
  EXPECT_THAT(Ask(Request("GET", "/livez", kClose)),
              AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("the core loop hangs")));
  EXPECT_THAT(Ask(Request("GET", "/readyz", kClose)),
              AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("the index is being rebuilt")));
  ready = true;
  EXPECT_THAT(Ask(Request("GET", "/readyz", kClose)), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Ask(Request("GET", "/metrics", kClose)),
              AllOf(HasSubstr("Content-Type: text/plain; version=0.0.4"),
                    HasSubstr("\nsluice_read_errors_total 3\n")));
  server_.reset();
}

// ------------------------------------------------------------------------------------------------- routes

HttpHandler Says(const std::string& text) {
  return [text](const HttpRequest&, HttpResponder responder) {
    HttpResponse response;
    response.body = text;
    std::move(responder).Answer(std::move(response));
  };
}

TEST_F(HttpServerTest, TheLongestRouteThatFitsCounts) {
  HttpRoutes routes;
  routes["/a/"] = Says("<a/>");
  routes["/a/b/"] = Says("<a/b/>");
  routes["/a/b/c"] = Says("<a/b/c>");
  routes["/exact"] = Says("<exact>");
  Start(std::move(routes));
  const struct {
    const char* path;
    const char* answer;  // null: 404
  } kPaths[] = {{"/a/", "<a/>"},       {"/a/x", "<a/>"},      {"/a/x/y/", "<a/>"},   {"/a/b", "<a/>"},
                {"/a//b/", "<a/>"},    {"/a/b/", "<a/b/>"},   {"/a/b/d", "<a/b/>"},  {"/a/b/c", "<a/b/c>"},
                {"/a/b/c/", "<a/b/>"}, {"/a/b/cc", "<a/b/>"}, {"/exact", "<exact>"}, {"/a", nullptr},
                {"/ab/", nullptr},     {"/", nullptr},        {"//a/", nullptr},     {"/exact/", nullptr},
                {"/exact/x", nullptr}, {"/%61/", nullptr},    {"/A/", nullptr}};
  for (const auto& [path, answer] : kPaths) {
    const std::string got = Ask(Request("GET", path, kClose));
    if (answer) {
      EXPECT_THAT(got, EndsWith(answer)) << path;
    } else {
      EXPECT_THAT(got, StartsWith("HTTP/1.1 404 ")) << path;
    }
  }
}

// One thread serves all: what a request costs must not depend on how it is spelt.
TEST_F(HttpServerTest, APathOfSlashesCostsNoMoreThanAnother) {
  HttpRoutes routes;
  routes["/a/"] = Says("a");
  Start(std::move(routes));
  const auto seconds_for = [this](const std::string& path) {
    constexpr int kRequests = 100;
    RawClient client(server_->port());
    const auto begun = std::chrono::steady_clock::now();
    for (int i = 0; i < kRequests; ++i) {
      client.Send(Request("GET", path));
      EXPECT_THAT(client.ReadThrough("at this path\n"), StartsWith("HTTP/1.1 404 "));
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  };
  const double plain = seconds_for("/" + std::string(15000, 'x'));
  EXPECT_LT(seconds_for(std::string(15000, '/')), 10 * plain + 0.2);
}

// -------------------------------------------------------------------------- interim answers, clients that go

// "/wait" hands its responders over.
class HttpWaitTest : public HttpServerTest {
 protected:
  void StartWaiting(HttpLimits limits = {}) {
    HttpRoutes routes = Hello();
    routes["/wait"] = [this](const HttpRequest&, HttpResponder responder) {
      const std::lock_guard lock(mutex_);
      waiting_.push_back(std::move(responder));
      arrived_.notify_all();
    };
    Start(std::move(routes), limits);
  }
  HttpResponder Next() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(arrived_.wait_for(lock, std::chrono::seconds(60), [&] { return !waiting_.empty(); }));
    HttpResponder responder = std::move(waiting_.front());
    waiting_.pop_front();
    return responder;
  }
  static HttpResponse Plain(std::string body) {
    HttpResponse response;
    response.body = std::move(body);
    return response;
  }
  // Counts calls, and can be waited for.
  // What counts outlives the test, which is told in the midst of it.
  struct Calls {
    struct State {
      std::promise<void> first;
      std::atomic<int> count = 0;
    };
    Task Counting() {
      return [state = state] {
        if (state->count++ == 0) state->first.set_value();
      };
    }
    void Await() {
      EXPECT_EQ(state->first.get_future().wait_for(std::chrono::seconds(60)), std::future_status::ready)
          << "it was not told that the client has gone";
    }
    int count() const { return state->count; }

    const std::shared_ptr<State> state = std::make_shared<State>();
  };

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<HttpResponder> waiting_;
};

TEST_F(HttpWaitTest, InterimAnswersComeBeforeTheAnswerAndTheConnectionServesOn) {
  StartWaiting();
  RawClient client(server_->port());
  client.Send(Request("GET", "/wait"));
  HttpResponder responder = Next();
  for (int i = 0; i < 3; ++i) {
    std::thread([&] { responder.Interim(102); }).join();
    EXPECT_EQ(client.ReadThrough("\r\n\r\n"), "HTTP/1.1 102 Processing\r\n\r\n");
  }
  std::move(responder).Answer(Plain("at last"));
  EXPECT_THAT(client.ReadThrough("at last"), StartsWith("HTTP/1.1 200 "));
  client.Send(Request("GET", "/hello?1", kClose));
  EXPECT_THAT(client.ReadAll(), EndsWith("hello 1"));
}

TEST_F(HttpWaitTest, AnInterimAnswerHasItsHeaders) {
  StartWaiting();
  RawClient client(server_->port());
  client.Send(Request("GET", "/wait", kClose));
  HttpResponder responder = Next();
  responder.Interim(102, {{"X-One", "1"}, {"X-Two", "2"}});
  EXPECT_EQ(client.ReadThrough("\r\n\r\n"), "HTTP/1.1 102 Processing\r\nX-One: 1\r\nX-Two: 2\r\n\r\n");
  responder.Interim(102);
  EXPECT_EQ(client.ReadThrough("\r\n\r\n"), "HTTP/1.1 102 Processing\r\n\r\n");
  std::move(responder).Answer(Plain("at last"));
  EXPECT_THAT(client.ReadAll(), AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("at last")));
}

TEST_F(HttpWaitTest, AnAnswerRightAfterAnInterimOneFollowsIt) {
  StartWaiting();
  for (int i = 0; i < 50; ++i) {
    RawClient client(server_->port());
    client.Send(Request("GET", "/wait", kClose));
    HttpResponder responder = Next();
    responder.Interim(102);
    responder.Interim(102);
    std::move(responder).Answer(Plain("at once"));
    std::string all = client.ReadAll();
    const std::string interim = "HTTP/1.1 102 Processing\r\n\r\n";
    ASSERT_THAT(all, StartsWith(interim));
    while (all.starts_with(interim)) all.erase(0, interim.size());
    EXPECT_THAT(all, AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("at once")));
  }
}

TEST_F(HttpWaitTest, AClientOfHttp10GetsNoInterimAnswer) {
  StartWaiting();
  RawClient client(server_->port());
  client.Send("GET /wait HTTP/1.0\r\n\r\n");
  HttpResponder responder = Next();
  responder.Interim(102);
  std::move(responder).Answer(Plain("old"));
  EXPECT_THAT(client.ReadAll(), AllOf(Not(HasSubstr(" 102 ")), EndsWith("old")));
}

TEST_F(HttpWaitTest, InterimAnswersAreNotQueued) {
  constexpr int kMany = 5000;
  HttpRoutes routes;
  // On the server's own thread, so none has been sent when the last is asked for.
  routes["/flood"] = [](const HttpRequest&, HttpResponder responder) {
    for (int i = 0; i < kMany; ++i) responder.Interim(102);
    std::move(responder).Answer(Plain("flooded"));
  };
  Start(std::move(routes));
  const std::string all = Ask(Request("GET", "/flood", kClose));
  EXPECT_THAT(all, AllOf(StartsWith("HTTP/1.1 102 "), EndsWith("flooded")));
  EXPECT_LT(all.size(), size_t{kMany});
}

TEST_F(HttpWaitTest, WhoWaitsIsToldOnceThatTheClientHasGone) {
  StartWaiting();
  Calls gone;
  auto client = std::make_unique<RawClient>(server_->port());
  client->Send(Request("GET", "/wait"));
  HttpResponder responder = Next();
  responder.OnGone(gone.Counting());
  responder.Interim(102);
  client->ReadThrough("\r\n\r\n");
  EXPECT_EQ(gone.count(), 0);
  client.reset();
  gone.Await();
  responder.Interim(102);
  std::move(responder).Answer(Plain("nobody"));
  EXPECT_THAT(Ask(Request("GET", "/hello?1", kClose)), EndsWith("hello 1"));
  EXPECT_EQ(gone.count(), 1);
}

TEST_F(HttpWaitTest, AClientThatHadGoneBeforeItWasAskedForIsToldToo) {
  StartWaiting();
  RawClient(server_->port()).Send(Request("GET", "/wait"));
  HttpResponder responder = Next();
  EXPECT_THAT(Ask(Request("GET", "/hello?1", kClose)), EndsWith("hello 1"));
  Calls gone;
  responder.OnGone(gone.Counting());
  gone.Await();
}

TEST_F(HttpWaitTest, AClientThatGoesBehindAPipelinedRequestIsSeenAtTheNextInterimAnswer) {
  StartWaiting();
  Calls gone;
  auto client = std::make_unique<RawClient>(server_->port());
  client->Send(Request("GET", "/wait"));
  HttpResponder responder = Next();
  responder.OnGone(gone.Counting());
  // Later than the first, so that it lies in the socket and not in the server's buffer.
  client->Send(Request("GET", "/hello?1"));
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(Ask(Request("GET", "/hello?2", kClose)), EndsWith("hello 2"));
    responder.Interim(102);
    client->ReadThrough("\r\n\r\n");
  }
  EXPECT_EQ(gone.count(), 0) << "a request that waits is no end";
  client.reset();
  while (gone.count() == 0) responder.Interim(102);
}

TEST_F(HttpWaitTest, NobodyIsToldAfterTheAnswer) {
  StartWaiting();
  Calls gone;
  auto client = std::make_unique<RawClient>(server_->port());
  client->Send(Request("GET", "/wait"));
  HttpResponder responder = Next();
  const auto held = std::make_shared<int>(0);
  std::weak_ptr<int> of_callback = held;
  responder.OnGone([&gone, held = std::shared_ptr<int>(held)] { ++gone.state->count; });
  std::move(responder).Answer(Plain("answered"));
  EXPECT_THAT(client->ReadThrough("answered"), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(held.use_count(), 1) << "the callback is still held";
  client->Send(Request("GET", "/hello?1")).ReadThrough("hello 1");
  client.reset();
  EXPECT_THAT(Ask(Request("GET", "/hello?1", kClose)), EndsWith("hello 1"));
  EXPECT_EQ(gone.count(), 0);
}

TEST_F(HttpWaitTest, WhoIsAnsweredForBecauseItTookTooLongIsTold) {
  StartWaiting({.handler_timeout = std::chrono::milliseconds(20)});
  Calls gone;
  RawClient client(server_->port());
  client.Send(Request("GET", "/wait", kClose));
  HttpResponder responder = Next();
  responder.OnGone(gone.Counting());
  gone.Await();
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 503 "));
}

TEST_F(HttpWaitTest, AResponderMayOutliveTheServerInAllItDoes) {
  StartWaiting();
  Calls gone;
  RawClient client(server_->port());
  client.Send(Request("GET", "/wait"));
  HttpResponder responder = Next();
  responder.OnGone(gone.Counting());
  server_.reset();
  responder.Interim(102);
  responder.OnGone(gone.Counting());
  EXPECT_EQ(client.ReadAll(), "");
  EXPECT_EQ(gone.count(), 0);
}

// -------------------------------------------------------------------------------------------------- files

// A file in memory that knows what is in it.
struct TestFile {
  explicit TestFile(size_t size) : fd(::memfd_create("http", MFD_CLOEXEC)), bytes(size, '\0') {
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 + i / 4099);
    EXPECT_EQ(::pwrite(fd, bytes.data(), size, 0), static_cast<ssize_t>(size));
  }
  ~TestFile() { ::close(fd); }
  TestFile(const TestFile&) = delete;
  TestFile& operator=(const TestFile&) = delete;

  const int fd;
  std::string bytes;
};

class HttpFileTest : public HttpServerTest {
 protected:
  // "/file?<offset>-<length>" answers with that part of a file, which the answer alone holds open.
  HttpRoutes Files(size_t size) {
    HttpRoutes routes = Hello();
    routes["/file"] = [this, size](const HttpRequest& request, HttpResponder responder) {
      auto file = std::make_shared<TestFile>(size);
      held_ = file;
      unsigned long long offset = 0, length = 0;
      EXPECT_EQ(std::sscanf(request.query.c_str(), "%llu-%llu", &offset, &length), 2);
      HttpResponse response;
      response.content_type = "application/octet-stream";
      const int fd = file->fd;
      response.file = FileSpan{fd,
                               offset,
                               length,
                               std::move(file),
                               [this](uint64_t bytes) { sent_ += bytes; },
                               [this] { ++taken_; },
                               request.Header("X-Fill").empty() ? SendUrgency::kDemand : SendUrgency::kFill};
      std::move(responder).Answer(std::move(response));
    };
    return routes;
  }
  std::string Read(RawClient& client, const std::string& part) {
    client.Send(Request("GET", "/file?" + part));
    const std::string head = client.ReadThrough("\r\n\r\n");
    EXPECT_THAT(head, StartsWith("HTTP/1.1 200 "));
    unsigned long long length = 0;
    const size_t field = head.find("Content-Length: ");
    EXPECT_NE(field, std::string::npos);
    EXPECT_EQ(std::sscanf(head.c_str() + field, "Content-Length: %llu", &length), 1);
    return client.ReadBytes(length);
  }
  void AwaitRelease() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!held_.expired() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    EXPECT_TRUE(held_.expired()) << "the file is still held";
  }

  std::weak_ptr<TestFile> held_;  // of the last answer; written before its head is sent
  std::atomic<uint64_t> sent_ = 0;
  std::atomic<int> taken_ = 0;  // answers that the client has taken in
};

TEST_F(HttpFileTest, ExactlyTheBytesAtTheOffsetAreSentAndTheConnectionServesOn) {
  constexpr size_t kSize = (5 << 20) + 123;
  Start(Files(kSize));
  const std::string bytes = TestFile(kSize).bytes;
  RawClient client(server_->port());
  uint64_t expected = 0;
  const std::pair<size_t, size_t> kParts[] = {
      {0, 1}, {0, kSize}, {1, 1}, {kSize - 1, 1}, {1 << 20, 1 << 20}, {4095, (3 << 20) + 1}, {7, 0}};
  for (const auto& [offset, length] : kParts) {
    const std::string got = Read(client, absl::StrCat(offset, "-", length));
    ASSERT_EQ(got.size(), length);
    EXPECT_TRUE(got == bytes.substr(offset, length)) << offset << "+" << length;
    expected += length;
  }
  // In order, and mixed with answers that are no files.
  client.Send(Request("GET", "/file?3-4") + Request("GET", "/hello?1") + Request("GET", "/file?9-2", kClose));
  EXPECT_THAT(client.ReadThrough("hello 1"), HasSubstr("\r\n\r\n" + bytes.substr(3, 4) + "HTTP/1.1 200 "));
  EXPECT_THAT(client.ReadAll(), EndsWith("\r\n\r\n" + bytes.substr(9, 2)));
  AwaitRelease();
  EXPECT_EQ(sent_, expected + 6);
}

TEST_F(HttpFileTest, HeadHasTheLengthAndNoByteOfTheFile) {
  Start(Files(1000));
  RawClient client(server_->port());
  client.Send(Request("HEAD", "/file?0-1000") + Request("GET", "/hello?1", kClose));
  EXPECT_THAT(client.ReadThrough("\r\n\r\n"), HasSubstr("Content-Length: 1000\r\n"));
  EXPECT_THAT(client.ReadAll(), AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("hello 1")));
  AwaitRelease();
  EXPECT_EQ(sent_, 0u);
}

TEST_F(HttpFileTest, AFileThatEndsEarlyClosesTheConnection) {
  Start(Files(1000));
  RawClient client(server_->port());
  client.Send(Request("GET", "/file?0-1001") + Request("GET", "/hello?1"));
  client.ReadThrough("\r\n\r\n");
  EXPECT_EQ(client.ReadAll(), TestFile(1000).bytes) << "a client must not take another answer for the rest";
  AwaitRelease();
  RawClient beyond(server_->port());
  beyond.Send(Request("GET", "/file?5000-10"));
  beyond.ReadThrough("\r\n\r\n");
  EXPECT_EQ(beyond.ReadAll(), "");
}

TEST_F(HttpFileTest, AClientThatStopsReadingIsDroppedAndTheFileReleased) {
  constexpr size_t kSize = 64 << 20;
  Start(Files(kSize), {.idle_timeout = std::chrono::milliseconds(100)});
  RawClient client(server_->port(), 64 << 10);
  client.Send(Request("GET", absl::StrCat("/file?0-", kSize)));
  client.ReadThrough("\r\n\r\n");
  AwaitRelease();
  EXPECT_LT(client.ReadAll().size(), kSize);
  EXPECT_THAT(Ask(Request("GET", "/hello?1", kClose)), EndsWith("hello 1"));
}

// What a client gets of a file that is sent to a fill, which takes in so much at a time, and then waits; and
// how long it had that.
struct SlowTaking {
  size_t taken = 0;
  std::chrono::steady_clock::duration time{};
};
SlowTaking TakeSlowly(RawClient& client, size_t size, size_t part_size, std::chrono::milliseconds pause) {
  client.Send(Request("GET", absl::StrCat("/file?0-", size), "X-Fill: 1\r\n"));
  client.ReadThrough("\r\n\r\n");
  SlowTaking result;
  const auto began = std::chrono::steady_clock::now();
  while (result.taken < size) {
    std::this_thread::sleep_for(pause);
    const std::string part = client.ReadBytes(part_size);
    if (part.empty()) break;
    result.taken += part.size();
  }
  result.time = std::chrono::steady_clock::now() - began;
  return result;
}

// Each time it takes enough for the server to go on, long before that would lose patience with it.
TEST_F(HttpFileTest, AClientThatTakesALittleNowAndThenIsDroppedToo) {
  constexpr size_t kSize = 8 << 20;
  constexpr auto kIdle = std::chrono::milliseconds(1000);
  Start(Files(kSize), {.idle_timeout = kIdle});
  RawClient client(server_->port(), 8 << 10);
  const SlowTaking result = TakeSlowly(client, kSize, 2 << 10, std::chrono::milliseconds(25));
  EXPECT_GT(result.time, kIdle + kIdle / 2) << "it was idle: this tells nothing";
  EXPECT_LT(result.taken, kSize / 4);
  AwaitRelease();
}

TEST_F(HttpFileTest, AClientThatIsSlowAndGoesOnGetsAll) {
  constexpr size_t kSize = 4 << 20;
  constexpr auto kIdle = std::chrono::milliseconds(300);
  Start(Files(kSize), {.idle_timeout = kIdle});
  RawClient client(server_->port(), 8 << 10);
  const SlowTaking result = TakeSlowly(client, kSize, 64 << 10, std::chrono::milliseconds(20));
  EXPECT_EQ(result.taken, kSize);
  EXPECT_GT(result.time, 3 * kIdle) << "it was quick: this tells nothing";
  AwaitRelease();
}

TEST_F(HttpFileTest, AClientThatGoesAwayReleasesTheFile) {
  constexpr size_t kSize = 64 << 20;
  Start(Files(kSize));
  {
    RawClient client(server_->port(), 64 << 10);
    client.Send(Request("GET", absl::StrCat("/file?0-", kSize)));
    client.ReadThrough("\r\n\r\n");
  }
  AwaitRelease();
}

TEST_F(HttpFileTest, WhatTheClientsKernelHasTakenInIsToldOnceAndNothingEarlier) {
  constexpr size_t kSize = 64 << 20;
  Start(Files(kSize));
  RawClient client(server_->port(), 64 << 10);
  EXPECT_EQ(Read(client, "0-1000").size(), 1000u);
  AwaitRelease();
  EXPECT_EQ(taken_, 1);
  // So much lies in no two sockets' buffers.
  client.Send(Request("GET", absl::StrCat("/file?0-", kSize)));
  client.ReadThrough("\r\n\r\n");
  client.ReadBytes(kSize / 2);
  EXPECT_EQ(taken_, 1);
  EXPECT_FALSE(held_.expired());
  EXPECT_EQ(client.ReadBytes(kSize / 2).size(), kSize / 2);
  AwaitRelease();
  EXPECT_EQ(taken_, 2);
}

TEST_F(HttpFileTest, WhatLiesInTheSendersBufferIsNotTakenIn) {
  // It fits into the server's buffer, and not into the client's.
  constexpr size_t kSize = 512 << 10;
  Start(Files(kSize));
  {
    RawClient client(server_->port(), 8 << 10);
    client.Send(Request("GET", absl::StrCat("/file?0-", kSize)));
    client.ReadThrough("\r\n\r\n");
    while (sent_ < kSize) std::this_thread::yield();
    EXPECT_EQ(taken_, 0);
    EXPECT_FALSE(held_.expired());
  }
  AwaitRelease();
  EXPECT_EQ(taken_, 0) << "the client has gone without it";
}

TEST_F(HttpFileTest, WhoAsksForMoreHasTakenInWhatWasSentBefore) {
  Start(Files(1000));
  RawClient client(server_->port());
  for (int i = 1; i <= 100; ++i) EXPECT_EQ(Read(client, "0-1000").size(), 1000u);
  AwaitRelease();
  EXPECT_EQ(taken_, 100);
}

TEST_F(HttpFileTest, ASlowClientHoldsNobodyUp) {
  constexpr size_t kSize = 16 << 20;
  Start(Files(kSize));
  RawClient slow(server_->port(), 64 << 10);
  slow.Send(Request("GET", absl::StrCat("/file?0-", kSize)));
  slow.ReadThrough("\r\n\r\n");
  for (int i = 0; i < 10; ++i) EXPECT_THAT(Ask(Request("GET", "/hello?1", kClose)), EndsWith("hello 1"));
  EXPECT_TRUE(slow.ReadBytes(kSize) == TestFile(kSize).bytes);
}

// Each that a client takes in slowly stands in nobody's way, and a fill waits for a demand that nobody takes
// in no longer than a while.
TEST_F(HttpFileTest, ManySlowClientsHoldNobodyUp) {
  constexpr size_t kSize = 1 << 20;
  Start(Files(kSize), {.connections_max = 300});
  std::vector<std::unique_ptr<RawClient>> slow;
  for (int i = 0; i < 200; ++i) {
    slow.push_back(std::make_unique<RawClient>(server_->port(), 4 << 10));
    slow.back()->Send(Request("GET", absl::StrCat("/file?0-", kSize), i % 2 ? "X-Fill: 1\r\n" : ""));
    slow.back()->ReadThrough("\r\n\r\n");
  }
  const std::string bytes = TestFile(kSize).bytes;
  RawClient client(server_->port());
  EXPECT_TRUE(Read(client, absl::StrCat("0-", kSize)) == bytes);
  client.Send(Request("GET", absl::StrCat("/file?0-", kSize), "X-Fill: 1\r\n"));
  client.ReadThrough("\r\n\r\n");
  EXPECT_TRUE(client.ReadBytes(kSize) == bytes);
  for (const auto& one : slow) EXPECT_EQ(one->ReadBytes(1000), bytes.substr(0, 1000));
}

TEST_F(HttpFileTest, FilesAreSentNoFasterThanTheRateAndNothingElseWaitsForIt) {
  constexpr uint64_t kRate = 4 << 20;
  constexpr size_t kSize = 1 << 20;
  Start(Files(kSize), {.file_bytes_per_s = kRate});
  RawClient fill(server_->port()), client(server_->port());
  const auto began = std::chrono::steady_clock::now();
  fill.Send(Request("GET", absl::StrCat("/file?0-", kSize), "X-Fill: 1\r\n"));
  const std::string bytes = TestFile(kSize).bytes;
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Read(client, absl::StrCat("0-", kSize)) == bytes);
  EXPECT_THAT(Ask(Request("GET", "/hello?1", kClose)), EndsWith("hello 1"));
  fill.ReadThrough("\r\n\r\n");
  EXPECT_TRUE(fill.ReadBytes(kSize) == bytes);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  EXPECT_GE((took.count() + 0.1) * kRate, 3.0 * kSize);
}

TEST_F(HttpServerTest, AConnectionWithoutARequestMakesRoomForANewOne) {
  std::optional<HttpResponder> waiting;
  std::promise<void> asked;
  HttpRoutes routes = Hello();
  routes["/wait"] = [&](const HttpRequest&, HttpResponder responder) {
    waiting.emplace(std::move(responder));
    asked.set_value();
  };
  Start(std::move(routes), {.connections_max = 2, .idle_yields_after = std::chrono::nanoseconds(1)});
  RawClient busy(server_->port()), idle(server_->port());
  busy.Send(Request("GET", "/wait", kClose));
  asked.get_future().wait();
  idle.Send(Request("GET", "/hello?1")).ReadThrough("hello 1");
  // It waits for its next request only soon after it was answered.
  ASSERT_THAT(AskUntil([&] { return Ask(Request("GET", "/hello?2", kClose)); }, EndsWith("hello 2")),
              EndsWith("hello 2"));
  EXPECT_EQ(idle.ReadAll(), "");
  std::move(*waiting).Answer({});
  EXPECT_THAT(busy.ReadAll(), StartsWith("HTTP/1.1 200 ")) << "who is being answered is not ended";
}

TEST_F(HttpServerTest, WhereManyAreOpenAnAnswerEndsItsConnection) {
  std::vector<HttpResponder> waiting;
  std::promise<void> asked;
  HttpRoutes routes = Hello();
  routes["/wait"] = [&](const HttpRequest&, HttpResponder responder) {
    waiting.push_back(std::move(responder));
    if (waiting.size() == 2) asked.set_value();
  };
  Start(std::move(routes), {.connections_kept_max = 2});
  RawClient first(server_->port()), second(server_->port());
  for (RawClient* client : {&first, &second}) client->Send(Request("GET", "/wait"));
  asked.get_future().wait();
  for (int i = 0; i < 3; ++i)
    EXPECT_THAT(Ask(Request("GET", "/hello?2")),
                AllOf(HasSubstr("\r\nConnection: close\r\n"), EndsWith("hello 2")));
  for (HttpResponder& responder : waiting) std::move(responder).Answer({});
  for (RawClient* client : {&first, &second}) {
    EXPECT_THAT(client->ReadThrough("\r\n\r\n"), Not(HasSubstr("close")));
    EXPECT_THAT(client->Send(Request("GET", "/hello?3")).ReadThrough("hello 3"), Not(HasSubstr("close")));
  }
}

TEST_F(HttpServerTest, WhereManyAreOpenOneThatWasAnsweredGoesForANewOne) {
  Start(Hello(), {.connections_kept_max = 2});
  RawClient silent(server_->port()), idle(server_->port());
  idle.Send(Request("GET", "/hello?1")).ReadThrough("hello 1");
  // It waits for its next request only soon after it was answered.
  const auto ask = [&] {
    return RawClient(server_->port()).Send(Request("GET", "/hello?2")).ReadThrough("hello 2");
  };
  const testing::Matcher<std::string> kept =
      AllOf(Not(HasSubstr("\r\nConnection: close\r\n")), EndsWith("hello 2"));
  ASSERT_THAT(AskUntil(ask, kept), kept);
  EXPECT_EQ(idle.ReadAll(), "");
  EXPECT_THAT(silent.Send(Request("GET", "/hello?3")).ReadThrough("hello 3"), EndsWith("hello 3"))
      << "the first request of a connection may be on its way";
}

TEST_F(HttpFileTest, StopInTheMidstOfATransferClosesItAndReleasesTheFile) {
  constexpr size_t kSize = 64 << 20;
  Start(Files(kSize));
  RawClient client(server_->port(), 64 << 10);
  client.Send(Request("GET", absl::StrCat("/file?0-", kSize)));
  client.ReadThrough("\r\n\r\n");
  server_->Stop();
  EXPECT_TRUE(held_.expired());
  EXPECT_LT(client.ReadAll().size(), kSize);
}

TEST_F(HttpServerTest, StopAloneClosesConnections) {
  Start(Hello());
  RawClient idle(server_->port()), waiting(server_->port());
  idle.Send(Request("GET", "/hello?1")).ReadThrough("hello 1");
  waiting.Send("GET /hello HT");
  server_->Stop();
  EXPECT_EQ(idle.ReadAll(), "");
  EXPECT_EQ(waiting.ReadAll(), "");
}

}  // namespace
}  // namespace sluice::api
