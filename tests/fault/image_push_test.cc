// Images pushed from and to a registry that misbehaves: what is said, what is left, what goes on meanwhile.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <future>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/image/image_pusher.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/skipping_time.h"
#include "tests/unit/image/gzip_bytes.h"
#include "tests/unit/image/tar_bytes.h"
#include "tests/unit/image/temp_tree.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kRepository[] = "app";
constexpr char kBegin[] = "/v2/app/blobs/uploads/";
constexpr char kUpload[] = "/v2/app/blobs/uploads/1";
constexpr std::chrono::seconds kPatience{30};

std::string LayerOf(const std::string& name, const std::string& contents = "contents") {
  return tar::File(name, contents) + tar::kEnd;
}

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  uint32_t x = 1;
  for (char& c : bytes) c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  return bytes;
}

// Runs a command of the shell: its exit code, and what it said on stderr.
std::pair<int, std::string> RunShell(const std::string& command) {
  const TempTree tree;
  const std::string quoted = tree / "command";
  WriteText(quoted, command);
  const int status = system(absl::StrCat("bash ", quoted, " >", tree / "out", " 2>", tree / "err").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadText(tree / "err")};
}

// Notes each step, and that there is one at a time.
class NotedProgress final : public ProgressSink {
 public:
  void Begin(std::string_view step, uint64_t total_bytes) override {
    const std::lock_guard lock(mutex_);
    steps_.emplace_back(step);
    total_ = total_bytes;
  }
  void Advance(uint64_t done_bytes) override {
    const std::lock_guard lock(mutex_);
    if (total_ > 0 && done_bytes > total_) overrun_ = true;
  }
  void End() override {}

  std::vector<std::string> steps() const {
    const std::lock_guard lock(mutex_);
    return steps_;
  }
  bool overrun() const { return overrun_; }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> steps_;
  uint64_t total_ = 0;
  std::atomic<bool> overrun_ = false;
};

class ImagePushTest : public ::testing::Test {
 protected:
  ImagePushTest() {
    setenv("TMPDIR", scratch_.path().c_str(), 1);
    origin_.Always(kBegin, p2p::fault::Status(202, {{"Location", kUpload}}));
    origin_.Always(kUpload, [](const p2p::FaultRequest& request, p2p::FaultConnection& connection) {
      connection.Send(request.method == "PUT" ? 201 : 204, {}, "");
    });
    origin_.Always(p2p::FaultOrigin::ManifestPath(kRepository, "lazy"),
                   [](const p2p::FaultRequest& request, p2p::FaultConnection& connection) {
                     connection.Send(request.method == "PUT" ? 201 : 404, {}, "");
                   });
    p2p::RegistryOptions options;
    options.retries_max = 2;
    client_.emplace(p2p::RegistryClient::Parts{time_, time_, telemetry_}, options);
  }
  ~ImagePushTest() override {
    client_.reset();
    unsetenv("TMPDIR");
  }

  // `diff_ids`: JSON texts, without quotes.
  void AddImage(const std::vector<std::string>& layers, const std::vector<std::string>& diff_ids = {}) {
    const std::string ids = absl::StrJoin(
        diff_ids, ",", [](std::string* out, const std::string& id) { absl::StrAppend(out, "\"", id, "\""); });
    const std::string config =
        absl::StrCat("{", platform_, R"("rootfs":{"type":"layers","diff_ids":[)", ids, "]}}");
    const auto descriptor = [](std::string_view type, const Digest& digest, size_t size) {
      return absl::StrCat(R"({"mediaType":"application/vnd.oci.image.)", std::string(type), R"(","digest":")",
                          digest.ToString(), R"(","size":)", size, "}");
    };
    std::vector<std::string> descriptors;
    for (const std::string& layer : layers) {
      layers_.push_back(origin_.AddBlob(kRepository, layer));
      descriptors.push_back(descriptor("layer.v1.tar+gzip", layers_.back(), layer.size()));
    }
    source_ = origin_.AddManifest(
        kRepository, "src", std::string(p2p::media_type::kOciManifest),
        absl::StrCat(R"({"schemaVersion":2,"config":)",
                     descriptor("config.v1+json", origin_.AddBlob(kRepository, config), config.size()),
                     R"(,"layers":[)", absl::StrJoin(descriptors, ","), "]}"));
  }

  ImagePushRequest Request() {
    ImagePushRequest request;
    request.source = absl::StrCat(origin_.registry(), "/", kRepository, ":src");
    request.target = *p2p::ImageReference::Parse(absl::StrCat(origin_.registry(), "/", kRepository, ":lazy"));
    request.platform = *p2p::Platform::Parse("linux/amd64");
    return request;
  }
  absl::StatusOr<PushedImage> Push() { return ImagePusher(*client_, progress_).Push(Request()); }

  std::string LayerPath(size_t layer) const {
    return p2p::FaultOrigin::BlobPath(kRepository, layers_[layer]);
  }
  // What the tag was given; "" if it was given nothing.
  std::string Tagged() const {
    for (const p2p::FaultRequest& request :
         origin_.requests(p2p::FaultOrigin::ManifestPath(kRepository, "lazy")))
      if (request.method == "PUT") return request.body;
    return "";
  }
  bool IsTagged() const { return !Tagged().empty(); }

  TempTree scratch_;
  std::string platform_ = R"("os":"linux","architecture":"amd64",)";  // in the source's configuration
  p2p::FaultOrigin origin_;
  p2p::SkippingTime time_;
  Telemetry telemetry_;
  NotedProgress progress_;
  std::vector<Digest> layers_;
  Digest source_;  // its manifest
  std::optional<p2p::RegistryClient> client_;
};

// ----------------------------------------------------------------------------------------- what is said

TEST_F(ImagePushTest, SaysWhatLayersLoseAndWhichLayerItWas) {
  const std::string acl = tar::Pax({{"SCHILY.acl.access", "user::rw-"}});
  AddImage({Gzip(LayerOf("a")) + "trailing", Gzip(acl + LayerOf("b")), Gzip(acl + LayerOf("c"))});
  const auto pushed = Push();
  ASSERT_EQ(pushed.status(), absl::OkStatus());
  EXPECT_THAT(pushed->notices,
              testing::UnorderedElementsAre(
                  AllOf(HasSubstr("1 layers"), HasSubstr(layers_[0].ToString()), HasSubstr("8 bytes")),
                  AllOf(HasSubstr("2 records of pax headers"),
                        HasSubstr(absl::StrCat("layer ", layers_[1].ToString(), ": \"b\"")),
                        HasSubstr("SCHILY.acl.access"))));
}

TEST_F(ImagePushTest, SaysThatALayerIsNotWhatItsConfigurationNames) {
  const std::string other = p2p::Sha256::Of("another").ToString();
  AddImage({LayerOf("a"), LayerOf("b"), LayerOf("c"), LayerOf("d")},
           {p2p::Sha256::Of(LayerOf("a")).ToString(), other, "sha512:1234"});
  const auto pushed = Push();
  ASSERT_EQ(pushed.status(), absl::OkStatus());
  EXPECT_THAT(pushed->notices,
              ElementsAre(AllOf(HasSubstr("1 layers"), HasSubstr(layers_[1].ToString()), HasSubstr(other))));
}

TEST_F(ImagePushTest, SaysThatAnImageIsForAnotherPlatform) {
  AddImage({LayerOf("a")});
  ImagePushRequest request = Request();
  request.platform = *p2p::Platform::Parse("linux/arm64");
  const auto pushed = ImagePusher(*client_, progress_).Push(request);
  ASSERT_EQ(pushed.status(), absl::OkStatus());
  EXPECT_THAT(pushed->notices, ElementsAre(AllOf(HasSubstr("linux/amd64"), HasSubstr("linux/arm64"))));
}

// ------------------------------------------------------------------------------------- a bad target

TEST_F(ImagePushTest, ATargetThatRefusesIsNoticedBeforeALayerIsFetched) {
  AddImage({LayerOf("a")});
  origin_.Always(kBegin, p2p::fault::Status(403));
  EXPECT_FALSE(Push().ok());
  EXPECT_EQ(origin_.request_count(LayerPath(0)), 0u);
}

TEST_F(ImagePushTest, ABrokenLayerLeavesNoBlobAtTheTarget) {
  AddImage({LayerOf("a"), LayerOf("b").substr(0, 515)});
  EXPECT_FALSE(Push().ok());
  for (const p2p::FaultRequest& request : origin_.requests(kUpload)) EXPECT_EQ(request.method, "DELETE");
}

TEST_F(ImagePushTest, ATargetThatIsBusyOrRestartsIsAskedAgain) {
  AddImage({LayerOf("a"), LayerOf("b", "other")});
  const auto delete_is_fine = p2p::fault::Status(204);
  for (const auto& trouble :
       {p2p::fault::Status(429, {{"Retry-After", "1"}}), p2p::fault::Status(503), p2p::fault::Hangup()}) {
    origin_.Script(kUpload, {delete_is_fine, trouble});
    origin_.Script(kBegin, {p2p::fault::Status(202, {{"Location", kUpload}}), trouble});
    EXPECT_EQ(Push().status(), absl::OkStatus());
  }
}

// ------------------------------------------------------------------------------------- what is tagged

TEST_F(ImagePushTest, AnIndexNamesAPlatformWhereTheConfigurationDoesNot) {
  platform_ = "";
  AddImage({LayerOf("a")});
  const auto alone = Push();
  ASSERT_EQ(alone.status(), absl::OkStatus());
  const std::string alone_body = Tagged();
  ImagePushRequest request = Request();
  request.with_source = ImagePushRequest::Source::kPushToo;
  request.target = *p2p::ImageReference::Parse(absl::StrCat(origin_.registry(), "/app:both"));
  std::string index;
  const auto accept = p2p::fault::Status(201);
  origin_.Always(p2p::FaultOrigin::ManifestPath(kRepository, alone->manifest.ToString()), accept);
  origin_.Always(p2p::FaultOrigin::ManifestPath(kRepository, "both"),
                 [&](const p2p::FaultRequest& asked, p2p::FaultConnection& connection) {
                   index = asked.body;
                   connection.Send(asked.method == "PUT" ? 201 : 404, {}, "");
                 });
  origin_.Always(p2p::FaultOrigin::ManifestPath(kRepository, source_.ToString()), accept);
  const auto pushed = ImagePusher(*client_, progress_).Push(request);
  ASSERT_EQ(pushed.status(), absl::OkStatus());
  const auto parsed = p2p::ParseManifest(index, std::string(p2p::media_type::kOciIndex));
  ASSERT_EQ(parsed.status(), absl::OkStatus());
  for (const p2p::Descriptor& entry : std::get<p2p::ImageIndex>(*parsed).manifests) {
    ASSERT_TRUE(entry.platform.has_value());
    EXPECT_EQ(entry.platform->os + "/" + entry.platform->architecture, "linux/amd64");
  }
}

TEST_F(ImagePushTest, ABlobThatOneImageLostIsTakenFromTheNext) {
  AddImage({LayerOf("a")});
  const auto first = Push();
  ASSERT_EQ(first.status(), absl::OkStatus());
  const std::string manifest = Tagged();
  // The tag still names the blob, which was collected; another image has it.
  origin_.Always(p2p::FaultOrigin::ManifestPath(kRepository, "lazy"), [&](const p2p::FaultRequest& request,
                                                                          p2p::FaultConnection& connection) {
    if (request.method == "PUT") return connection.Send(201, {}, "");
    connection.Send(200, {{"Content-Type", std::string(p2p::media_type::kOciManifest)}}, manifest);
  });
  origin_.AddManifest("base", "lazy", std::string(p2p::media_type::kOciManifest), manifest);
  origin_.Always(kBegin, [](const p2p::FaultRequest& request, p2p::FaultConnection& connection) {
    connection.Send(request.query.find("from=base") == std::string::npos ? 202 : 201, {{"Location", kUpload}},
                    "");
  });
  ImagePushRequest request = Request();
  request.reuse = {*p2p::ImageReference::Parse(absl::StrCat(origin_.registry(), "/base:lazy"))};
  const auto pushed = ImagePusher(*client_, progress_).Push(request);
  ASSERT_EQ(pushed.status(), absl::OkStatus());
  EXPECT_TRUE(pushed->blobs[0].reused);
}

// ---------------------------------------------------------------------------------------- the command

TEST_F(ImagePushTest, ALimitOfFileSizesIsAnErrorAndNotTheEnd) {
  const TempTree source;
  WriteText(source / "file", Pattern(300'000));
  const auto [code, text] = RunShell(absl::StrCat("ulimit -f 100; exec ", SLUICE_BINARY, " image push -q ",
                                                  source.path(), " ", origin_.registry(), "/app:lazy"));
  EXPECT_EQ(code, 1) << text;
  EXPECT_THAT(text, AllOf(HasSubstr("TMPDIR"), HasSubstr("File too large")));
  EXPECT_FALSE(IsTagged());
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
}

// Else a message would go to whatever file or connection has the number.
TEST_F(ImagePushTest, ClosedStandardStreamsAreNobodyElses) {
  const TempTree tree;
  std::filesystem::create_directory(tree / "source");
  std::mutex mutex;
  std::vector<std::string> streams;  // guarded by mutex
  origin_.Always(p2p::FaultOrigin::ManifestPath(kRepository, "lazy"),
                 [&](const p2p::FaultRequest& request, p2p::FaultConnection& connection) {
                   const std::lock_guard lock(mutex);
                   if (request.method != "PUT") return connection.Send(404, {}, "");
                   for (const char* const stream : {"1", "2"}) {
                     std::error_code error;
                     streams.push_back(std::filesystem::read_symlink(
                         absl::StrCat("/proc/", std::stoi(ReadText(tree / "pid")), "/fd/", stream), error));
                   }
                   connection.Send(201, {}, "");
                 });
  const auto [code, text] =
      RunShell(absl::StrCat("echo $$ >", tree / "pid", "; exec ", SLUICE_BINARY, " image push -q ",
                            tree / "source", " ", origin_.registry(), "/app:lazy <&- >&- 2>&-"));
  EXPECT_EQ(code, 1);  // the answer reached nobody
  const std::lock_guard lock(mutex);
  EXPECT_THAT(streams, ElementsAre("/dev/null", "/dev/null"));
}

TEST_F(ImagePushTest, ANoticeIsOneLineWhateverTheDirectoryIsCalled) {
  const TempTree tree;
  const std::string source = tree / "new\nline";
  std::filesystem::create_directory(source);
  WriteText(source + "/file", "x");
  ASSERT_EQ(setxattr((source + "/file").c_str(), "user.overlay.opaque", "y", 1, 0), 0);
  const auto [code, text] =
      RunShell(absl::StrCat(SLUICE_BINARY, " --output json image push ", "$'", tree.path(), "/new\\nline' ",
                            origin_.registry(), "/app:lazy >/dev/null"));
  EXPECT_EQ(code, 0) << text;
  EXPECT_THAT(text, AllOf(HasSubstr("new\\nline"), HasSubstr("user.overlay.opaque")));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
}

// --------------------------------------------------------------------------------------- one layer ahead

TEST_F(ImagePushTest, FetchesALayerWhileTheOneBeforeIsRead) {
  AddImage({LayerOf("a"), LayerOf("b"), LayerOf("c")});
  // The second layer arrives only once the third thing after the first was asked for: reading the first does
  // not wait for it.
  std::promise<void> asked;
  origin_.Script(LayerPath(1), {[&](const p2p::FaultRequest& request, p2p::FaultConnection& connection) {
                   asked.set_value();
                   origin_.ServeByTheRules(request, connection);
                 }});
  bool ahead = false;
  class Watch final : public ProgressSink {
   public:
    Watch(std::future<void> asked, bool& ahead) : asked_(std::move(asked)), ahead_(ahead) {}
    void Begin(std::string_view step, uint64_t) override {
      if (first_ && step.starts_with("reading ")) {
        first_ = false;
        ahead_ = asked_.wait_for(kPatience) == std::future_status::ready;
      }
    }
    void Advance(uint64_t) override {}
    void End() override {}

   private:
    std::future<void> asked_;
    bool& ahead_;
    bool first_ = true;
  } watch(asked.get_future(), ahead);
  ASSERT_EQ(ImagePusher(*client_, watch).Push(Request()).status(), absl::OkStatus());
  EXPECT_TRUE(ahead);
}

TEST_F(ImagePushTest, ShowsOneStepAtATime) {
  AddImage({LayerOf("a", std::string(50'000, 'a')), LayerOf("b"), LayerOf("c", std::string(90'000, 'c'))});
  ASSERT_EQ(Push().status(), absl::OkStatus());
  std::vector<std::string> steps;
  for (const std::string& step : progress_.steps()) {
    if (step.starts_with("fetching") || step.starts_with("reading")) steps.push_back(step);
  }
  std::vector<std::string> wanted;
  for (const Digest& layer : layers_) {
    wanted.push_back(absl::StrCat("fetching ", layer.Short()));
    wanted.push_back(absl::StrCat("reading ", layer.Short()));
  }
  EXPECT_EQ(steps, wanted);
  EXPECT_FALSE(progress_.overrun());
}

TEST_F(ImagePushTest, AnErrorOfAFetchComesOutUnderItsLayer) {
  AddImage({LayerOf("a"), LayerOf("b"), LayerOf("c")});
  origin_.Always(LayerPath(1), p2p::fault::Status(404));
  const absl::Status status = Push().status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("layer ", layers_[1].ToString())));
  EXPECT_FALSE(IsTagged());
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
}

TEST_F(ImagePushTest, AnErrorOfALayerComesBeforeThatOfTheFetchAhead) {
  AddImage({LayerOf("a").substr(0, 515), LayerOf("b")});
  origin_.Always(LayerPath(1), p2p::fault::Status(404));
  const absl::Status status = Push().status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("layer ", layers_[0].ToString())));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"a\""));
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
}

TEST_F(ImagePushTest, AFetchAheadThatStallsHoldsUpNoFailedPush) {
  AddImage({LayerOf("a").substr(0, 515), LayerOf("b")});
  origin_.Always(LayerPath(1), [](const p2p::FaultRequest&, p2p::FaultConnection& connection) {
    connection.SendHead(206, {{"Content-Length", "2048"}, {"Content-Range", "bytes 0-2047/2048"}});
    connection.Stall();
  });
  const absl::Status status = Push().status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("layer ", layers_[0].ToString())));
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
}

TEST_F(ImagePushTest, TheSameLayerTwiceIsOneBlob) {
  const std::string layer = LayerOf("a");
  AddImage({layer, layer, LayerOf("b"), layer});
  const auto pushed = Push();
  ASSERT_EQ(pushed.status(), absl::OkStatus());
  EXPECT_EQ(pushed->blobs.size(), 1u);  // "b" has the contents of "a"
  EXPECT_THAT(pushed->notices, IsEmpty());
}

}  // namespace
}  // namespace sluice
