#include "api/http/mirror_routes.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/api/raw_client.h"

namespace sluice::api {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// What the parts of one answer did, as the test sees it.
struct PartsLog {
  void Asked(HttpParts::OnPart on_part) {
    const std::lock_guard lock(mutex);
    waiting.push_back(std::move(on_part));
    changed.notify_all();
  }
  void Gone() {
    const std::lock_guard lock(mutex);
    gone = true;
    changed.notify_all();
  }
  HttpParts::OnPart AwaitAsked() {
    std::unique_lock lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return !waiting.empty(); }));
    if (waiting.empty()) return [](absl::StatusOr<FileSpan>) {};
    HttpParts::OnPart next = std::move(waiting.front());
    waiting.pop_front();
    return next;
  }
  bool AwaitGone() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(60), [&] { return gone; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<HttpParts::OnPart> waiting;
  bool gone = false;
};

class LoggedParts final : public HttpParts {
 public:
  explicit LoggedParts(std::shared_ptr<PartsLog> log) : log_(std::move(log)) {}
  ~LoggedParts() override { log_->Gone(); }
  void Next(OnPart on_part) override { log_->Asked(std::move(on_part)); }

 private:
  const std::shared_ptr<PartsLog> log_;
};

// Of a file in memory.
class FakeBlob final : public MirrorBlob {
 public:
  FakeBlob(const std::string& bytes, std::shared_ptr<PartsLog> log)
      : size_(bytes.size()), fd_(::memfd_create("blob", MFD_CLOEXEC)), log_(std::move(log)) {
    EXPECT_EQ(::pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  ~FakeBlob() override { ::close(fd_); }
  uint64_t size() const override { return size_; }
  void Open(ByteRange range, OnOpen on_open) override {
    opened_ = range;
    std::move(on_open)(log_ ? std::make_unique<LoggedParts>(log_) : nullptr);
  }
  FileSpan Span(uint64_t offset, uint64_t length) const {
    return {fd_, offset, length, nullptr, nullptr, nullptr};
  }
  ByteRange opened() const { return opened_; }

 private:
  const uint64_t size_;
  const int fd_;
  const std::shared_ptr<PartsLog> log_;
  ByteRange opened_{};
};

class FakeContent final : public MirrorContent {
 public:
  void Document(MirrorRequest request, OnDocument on_document) override {
    requests.push_back(std::move(request));
    std::move(on_document)(document);
  }
  void Blob(MirrorRequest request, OnBlob on_blob) override {
    requests.push_back(std::move(request));
    std::move(on_blob)(blob);
  }

  std::vector<MirrorRequest> requests;
  std::variant<MirrorRefusal, MirrorDocument> document;
  std::variant<MirrorRefusal, std::shared_ptr<MirrorBlob>> blob;
};

class MirrorRoutesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HttpRoutes routes;
    AddMirrorRoutes(routes, content_, telemetry_);
    server_ = std::make_unique<HttpServer>(std::move(routes), HttpLimits{});
    ASSERT_TRUE(server_->Start("127.0.0.1:0").ok());
    content_.blob = std::static_pointer_cast<MirrorBlob>(blob_);
    content_.document = MirrorDocument{"application/vnd.oci.image.manifest.v1+json", digest_, "{}"};
  }
  void TearDown() override { server_.reset(); }

  std::string Ask(const std::string& target, const std::string& more = "",
                  const std::string& method = "GET") {
    return RawClient(server_->port()).Send(Request(method, target, absl::StrCat(more, kClose))).ReadAll();
  }
  uint64_t Count(MirrorResult result) const {
    return telemetry_.mirror_requests[static_cast<size_t>(result)].value();
  }

  const Digest digest_ = p2p::Sha256::Of("blob");
  const std::string blob_path_ =
      absl::StrCat("/v2/team/app/blobs/", digest_.ToString(), "?ns=registry.example");
  const std::string tag_path_ = "/v2/team/app/manifests/v1?ns=registry.example:5000";
  const std::string bytes_ = "0123456789";
  const std::shared_ptr<PartsLog> log_ = std::make_shared<PartsLog>();
  const std::shared_ptr<FakeBlob> blob_ = std::make_shared<FakeBlob>(bytes_, log_);
  Telemetry telemetry_;
  FakeContent content_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(MirrorRoutesTest, SaysThatItIsARegistry) {
  EXPECT_THAT(Ask("/v2/"), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(content_.requests.empty());
}

TEST_F(MirrorRoutesTest, AManifestIsAskedForAsItWasNamed) {
  const std::string answer = Ask(tag_path_, "Authorization: Bearer secret\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, HasSubstr(absl::StrCat("Docker-Content-Digest: ", digest_.ToString())));
  EXPECT_THAT(answer, HasSubstr("\r\n\r\n{}"));
  ASSERT_EQ(content_.requests.size(), 1u);
  EXPECT_EQ(content_.requests[0].kind, MirrorRequest::Kind::kManifest);
  EXPECT_EQ(content_.requests[0].origin, (BlobOrigin{"registry.example:5000", "team/app"}));
  EXPECT_EQ(content_.requests[0].reference, "v1");
  EXPECT_EQ(content_.requests[0].authorization, "Bearer secret");
  EXPECT_EQ(Count(MirrorResult::kServed), 1u);
}

TEST_F(MirrorRoutesTest, AHeadHasTheLengthAndNoBody) {
  const std::string manifest = Ask(tag_path_, "", "HEAD");
  EXPECT_THAT(manifest, HasSubstr("Content-Length: 2\r\n"));
  EXPECT_THAT(manifest, Not(HasSubstr("{}")));
  const std::string blob = Ask(blob_path_, "Range: bytes=0-1\r\n", "HEAD");
  EXPECT_THAT(blob, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(blob, HasSubstr("Content-Length: 10\r\n"));
  EXPECT_EQ(blob_->opened(), ByteRange{});
}

TEST_F(MirrorRoutesTest, EveryRefusalIsWhatARuntimeUnderstands) {
  using Why = MirrorRefusal::Why;
  const struct {
    Why why;
    const char* status;
    MirrorResult result;
  } kCases[] = {{Why::kAbsent, "HTTP/1.1 404", MirrorResult::kAbsent},
                {Why::kChallenged, "HTTP/1.1 401", MirrorResult::kChallenged},
                {Why::kDenied, "HTTP/1.1 403", MirrorResult::kDenied},
                {Why::kBusy, "HTTP/1.1 503", MirrorResult::kBusy}};
  for (const auto& refused : kCases) {
    content_.document = MirrorRefusal{refused.why, "Basic realm=\"x\""};
    content_.blob = MirrorRefusal{refused.why, "Basic realm=\"x\""};
    for (const std::string& path : {tag_path_, blob_path_}) {
      const std::string answer = Ask(path);
      EXPECT_THAT(answer, StartsWith(refused.status));
      EXPECT_EQ(answer.find("WWW-Authenticate: Basic realm=\"x\"") != std::string::npos,
                refused.why == Why::kChallenged);
    }
    EXPECT_EQ(Count(refused.result), 2u);
  }
}

TEST_F(MirrorRoutesTest, NonsenseReachesNobody) {
  const struct {
    std::string path;
    const char* status;
  } kCases[] = {
      {"/v2/team/app/manifests/v1", "HTTP/1.1 404"},
      {"/v2/team/app/manifests/v1?ns=a%20b", "HTTP/1.1 400"},
      {"/v2/team/../app/manifests/v1?ns=r", "HTTP/1.1 400"},
      {"/v2/Team/manifests/v1?ns=r", "HTTP/1.1 400"},
      {"/v2/team/manifests/-v1?ns=r", "HTTP/1.1 400"},
      {"/v2/team/blobs/v1?ns=r", "HTTP/1.1 400"},
      {"/v2/team/blobs/sha256:12?ns=r", "HTTP/1.1 400"},
      {"/v2/team/referrers/v1?ns=r", "HTTP/1.1 400"},
      {"/v2/team/tags/list?ns=r", "HTTP/1.1 404"},
      {"/v2/_catalog?ns=r", "HTTP/1.1 404"},
      {"/v2/team/blobs/uploads/?ns=r", "HTTP/1.1 404"},
  };
  for (const auto& nonsense : kCases)
    EXPECT_THAT(Ask(nonsense.path), StartsWith(nonsense.status)) << nonsense.path;
  EXPECT_TRUE(content_.requests.empty());
}

TEST_F(MirrorRoutesTest, ABlobIsSentAsItsPartsCome) {
  RawClient client(server_->port());
  client.Send(Request("GET", blob_path_));
  const std::string head = client.ReadThrough("\r\n\r\n");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(head, HasSubstr("Content-Length: 10\r\n"));
  EXPECT_EQ(blob_->opened(), (ByteRange{0, 10}));
  log_->AwaitAsked()(blob_->Span(0, 4));
  EXPECT_EQ(client.ReadBytes(4), "0123");
  log_->AwaitAsked()(blob_->Span(4, 6));
  EXPECT_EQ(client.ReadBytes(6), "456789");
  EXPECT_TRUE(log_->AwaitGone());
  // The connection goes on.
  client.Send(Request("GET", tag_path_, kClose));
  EXPECT_THAT(client.ReadAll(), HasSubstr("\r\n\r\n{}"));
}

TEST_F(MirrorRoutesTest, ARangeIsOpenedAsItWasAsked) {
  RawClient client(server_->port());
  client.Send(Request("GET", blob_path_, "Range: bytes=3-6\r\n"));
  const std::string head = client.ReadThrough("\r\n\r\n");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 206"));
  EXPECT_THAT(head, HasSubstr("Content-Range: bytes 3-6/10"));
  EXPECT_EQ(blob_->opened(), (ByteRange{3, 4}));
  log_->AwaitAsked()(blob_->Span(3, 4));
  EXPECT_EQ(client.ReadBytes(4), "3456");
  EXPECT_THAT(Ask(blob_path_, "Range: bytes=10-\r\n"), StartsWith("HTTP/1.1 416"));
  EXPECT_THAT(Ask(blob_path_, absl::StrCat("If-None-Match: \"", digest_.ToString(), "\"\r\n")),
              StartsWith("HTTP/1.1 304"));
}

TEST_F(MirrorRoutesTest, APartThatCantBeHadEndsTheConnectionShort) {
  RawClient client(server_->port());
  client.Send(Request("GET", blob_path_));
  client.ReadThrough("\r\n\r\n");
  log_->AwaitAsked()(blob_->Span(0, 4));
  log_->AwaitAsked()(absl::UnavailableError("gone"));
  EXPECT_EQ(client.ReadAll(), "0123");
  EXPECT_TRUE(log_->AwaitGone());
}

TEST_F(MirrorRoutesTest, MoreThanWasPromisedIsNotSent) {
  RawClient client(server_->port());
  client.Send(Request("GET", blob_path_, "Range: bytes=0-3\r\n"));
  client.ReadThrough("\r\n\r\n");
  log_->AwaitAsked()(blob_->Span(0, 10));
  EXPECT_EQ(client.ReadAll(), "");
}

TEST_F(MirrorRoutesTest, WhoGoesIsNoLongerReadFor) {
  {
    RawClient client(server_->port());
    client.Send(Request("GET", blob_path_));
    client.ReadThrough("\r\n\r\n");
    log_->AwaitAsked();
  }
  EXPECT_TRUE(log_->AwaitGone());
}

TEST_F(MirrorRoutesTest, AServerThatStopsWaitsForNoPart) {
  RawClient client(server_->port());
  client.Send(Request("GET", blob_path_));
  client.ReadThrough("\r\n\r\n");
  const HttpParts::OnPart late = log_->AwaitAsked();
  server_.reset();
  EXPECT_TRUE(log_->AwaitGone());
  EXPECT_EQ(client.ReadAll(), "");
}

TEST_F(MirrorRoutesTest, ABlobWhoseFirstBytesCantBeHadIsForTheRegistry) {
  content_.blob = std::static_pointer_cast<MirrorBlob>(std::make_shared<FakeBlob>(bytes_, nullptr));
  EXPECT_THAT(Ask(blob_path_), StartsWith("HTTP/1.1 404"));
}

}  // namespace
}  // namespace sluice::api
