// Images pushed from and to a registry that misbehaves: what is said, what is left, what goes on meanwhile.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <zlib.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/image/image_pusher.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/skipping_time.h"
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

std::string Gzip(const std::string& bytes) {
  z_stream zlib{};
  deflateInit2(&zlib, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&zlib, bytes.size()), '\0');
  zlib.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  zlib.avail_in = static_cast<uInt>(bytes.size());
  zlib.next_out = reinterpret_cast<Bytef*>(out.data());
  zlib.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&zlib, Z_FINISH), Z_STREAM_END);
  out.resize(zlib.total_out);
  deflateEnd(&zlib);
  return out;
}

std::string LayerOf(const std::string& name, const std::string& contents = "contents") {
  return tar::File(name, contents) + tar::kEnd;
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
    const std::string config = absl::StrCat(
        R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[)", ids, "]}}");
    const auto descriptor = [](std::string_view type, const Digest& digest, size_t size) {
      return absl::StrCat(R"({"mediaType":"application/vnd.oci.image.)", std::string(type), R"(","digest":")",
                          digest.ToString(), R"(","size":)", size, "}");
    };
    std::vector<std::string> descriptors;
    for (const std::string& layer : layers) {
      layers_.push_back(origin_.AddBlob(kRepository, layer));
      descriptors.push_back(descriptor("layer.v1.tar+gzip", layers_.back(), layer.size()));
    }
    origin_.AddManifest(
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
  bool IsTagged() const {
    for (const p2p::FaultRequest& request :
         origin_.requests(p2p::FaultOrigin::ManifestPath(kRepository, "lazy")))
      if (request.method == "PUT") return true;
    return false;
  }

  TempTree scratch_;
  p2p::FaultOrigin origin_;
  p2p::SkippingTime time_;
  Telemetry telemetry_;
  NotedProgress progress_;
  std::vector<Digest> layers_;
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
