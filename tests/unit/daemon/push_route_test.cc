#include "api/http/push_route.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/daemon/push_events.h"
#include "node/daemon/pushed_image_hints.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/api/raw_client.h"
#include "tests/unit/index/store_fixture.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

const std::string kDigest = p2p::Sha256::Of("a manifest").ToString();

// One event of the distribution registry.
struct Event {
  std::string action = "push";
  std::string type = "application/vnd.oci.image.manifest.v1+json";
  std::string digest = kDigest;
  std::string repository = "team/app";
  std::string tag = "v1";
  std::string host = "registry.example:5000";
  std::string id = "an-event";

  std::string Json() const {
    return absl::StrCat(R"({"id":")", id, R"(","action":")", action, R"(","target":{"mediaType":")", type,
                        R"(","digest":")", digest, R"(","size":7,"repository":")", repository, R"(","tag":")",
                        tag, R"("},"request":{"host":")", host, R"("},"actor":{},"source":{}})");
  }
};
std::string Envelope(const std::vector<std::string>& events) {
  return absl::StrCat(R"({"events":[)", absl::StrJoin(events, ","), "]}");
}
std::string Harbor(const std::string& type) {
  return absl::StrCat(R"({"type":")", type,
                      R"(","occur_at":1586922308,"operator":"admin","event_data":{"resources":[)",
                      R"({"digest":")", kDigest,
                      R"(","tag":"v1","resource_url":"harbor.example/project/app:v1"}],"repository":)",
                      R"({"name":"app","namespace":"project","repo_full_name":"project/app"}}})");
}

std::string Reference(const std::string& name) {
  return absl::StrCat(name, "@", kDigest);
}

std::string Describe(const PushedImage& image) {
  return absl::StrCat(image.event, " ", image.origin.registry, " ", image.origin.repository, " ",
                      image.digest.ToString());
}
std::vector<std::string> Parse(const std::string& body) {
  const absl::StatusOr<PushEvents> events = ParsePushEvents(body);
  EXPECT_TRUE(events.ok()) << events.status();
  std::vector<std::string> images;
  if (!events.ok()) return images;
  for (const PushedImage& image : events->images) images.push_back(Describe(image));
  return images;
}

TEST(PushEventsTest, WhatWasPushedWithATagIsTaken) {
  EXPECT_THAT(Parse(Envelope({Event().Json(), Event{.repository = "b", .host = "127.0.0.1:1"}.Json()})),
              ElementsAre(absl::StrCat("an-event registry.example:5000 team/app ", kDigest),
                          absl::StrCat("an-event 127.0.0.1:1 b ", kDigest)));
  EXPECT_THAT(
      Parse(Envelope({Event{.type = "application/vnd.docker.distribution.manifest.list.v2+json"}.Json()})),
      SizeIs(1));
  EXPECT_THAT(Parse(Harbor("PUSH_ARTIFACT")),
              ElementsAre(absl::StrCat("harbor-1586922308 harbor.example project/app ", kDigest)));
}

TEST(PushEventsTest, WhatIsNoPushOrNotUnderstoodIsLeftOut) {
  const std::vector<std::string> events = {
      Event{.action = "pull"}.Json(),
      Event{.type = "application/octet-stream"}.Json(),
      Event{.tag = ""}.Json(),
      Event{.tag = absl::StrCat("sha256-", std::string(64, 'a'))}.Json(),
      Event{.digest = "sha256:short"}.Json(),
      Event{.repository = "../etc"}.Json(),
      Event{.host = "a host"}.Json(),
      Event{.host = ""}.Json(),
      Event{.id = ""}.Json(),
      Event{.id = std::string(1000, 'x')}.Json(),
      "{}",
      "7",
      R"({"action":["push"],"target":"x","request":null})",
  };
  const absl::StatusOr<PushEvents> parsed = ParsePushEvents(Envelope(events));
  ASSERT_TRUE(parsed.ok());
  EXPECT_THAT(parsed->images, IsEmpty());
  EXPECT_EQ(parsed->left_out, events.size());
  EXPECT_THAT(Parse(Harbor("DELETE_ARTIFACT")), IsEmpty());
}

TEST(PushEventsTest, WhatIsNeitherIsAnErrorThatSaysSo) {
  const auto error = [](const std::string& body) {
    return std::string(ParsePushEvents(body).status().message());
  };
  EXPECT_THAT(error(""), HasSubstr("no JSON"));
  EXPECT_THAT(error("{\"events\":["), HasSubstr("no JSON"));
  for (const std::string body : {"[]", "{}", "{\"events\":7}", "null"})
    EXPECT_THAT(error(body), HasSubstr("neither"));
  EXPECT_THAT(error(Envelope(std::vector<std::string>(kPushEventsMax + 1, "{}"))), HasSubstr("at most 256"));
  EXPECT_THAT(error(std::string(100000, '[')), HasSubstr("no JSON"));
}

// Takes hints of all but two repositories.
class Hints final : public api::PrefetchBackend {
 public:
  absl::StatusOr<std::vector<api::SubmitResult>> SubmitHints(
      const std::vector<api::HintSpec>& hints) override {
    const std::lock_guard lock(mutex);
    std::vector<api::SubmitResult> results;
    for (const api::HintSpec& hint : hints) {
      taken.push_back(hint);
      absl::Status error;
      if (absl::StrContains(hint.reference, "/full@")) error = absl::ResourceExhaustedError("full");
      if (absl::StrContains(hint.reference, "/forbidden@"))
        error = absl::PermissionDeniedError("not allowed");
      results.push_back(
          {error.ok() ? api::SubmitOutcome::kAccepted : api::SubmitOutcome::kRefused, error, {}});
    }
    return results;
  }
  uint64_t Revision() override { return 0; }
  absl::StatusOr<std::vector<api::HintStatus>> GetHints(const std::vector<std::string>&) override {
    return std::vector<api::HintStatus>();
  }
  std::vector<api::HintStatus> ListHints(const std::string&, size_t) override { return {}; }
  absl::StatusOr<std::vector<api::HintStatus>> CancelHints(const std::vector<std::string>&) override {
    return std::vector<api::HintStatus>();
  }
  std::vector<std::string> References() {
    const std::lock_guard lock(mutex);
    std::vector<std::string> references;
    for (const api::HintSpec& hint : taken) references.push_back(hint.reference);
    return references;
  }

  std::mutex mutex;
  std::vector<api::HintSpec> taken;  // guarded by mutex
};

TEST(ReadSecretTest, IsOneWordThatOthersCannotRead) {
  const index::TempDir folder;
  const std::string path = folder.path() + "/secret";
  const auto read = [&](const std::string& text, int mode) {
    std::ofstream(path) << text;
    std::filesystem::permissions(path, std::filesystem::perms(mode));
    return ReadSecret(path);
  };
  EXPECT_EQ(read("0123456789abcdef\n", 0600).value(), "0123456789abcdef");
  EXPECT_EQ(read("0123456789abcdef\n", 0640).value(), "0123456789abcdef");
  const auto error = [&](const std::string& text, int mode) {
    return std::string(read(text, mode).status().message());
  };
  EXPECT_THAT(error("0123456789abcdef", 0644), HasSubstr("can be read by everybody"));
  for (const std::string& text :
       {std::string(), std::string("0123456789abcde"), std::string("01234567 89abcdef"),
        std::string("01234567\n89abcdef"), std::string(5000, 'x')})
    EXPECT_THAT(error(text, 0600), HasSubstr("must hold one word")) << text;
  EXPECT_THAT(std::string(ReadSecret(path + "-none").status().message()), HasSubstr("cannot read"));
}

class PushRouteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    api::HttpRoutes routes;
    api::AddPushRoute(routes, "a-secret-of-the-cluster", listener_, counters_);
    server_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
    ASSERT_TRUE(server_->Start("127.0.0.1:0").ok());
  }
  std::string Post(const std::string& body,
                   const std::string& authorization = "Bearer a-secret-of-the-cluster") {
    api::RawClient client(server_->port());
    client.Send(
        absl::StrCat("POST /registry/notifications HTTP/1.1\r\nHost: node\r\nConnection: close\r\n",
                     authorization.empty() ? "" : absl::StrCat("Authorization: ", authorization, "\r\n"),
                     "Content-Length: ", body.size(), "\r\n\r\n", body));
    return client.ReadAll();
  }
  uint64_t Count(PushResult result) const {
    return counters_.notifications[static_cast<size_t>(result)].value();
  }

  Hints hints_;
  PushedImageHints listener_{hints_};
  ImageCounters counters_;
  std::unique_ptr<api::HttpServer> server_;
};

TEST_F(PushRouteTest, WhoShowsTheSecretIsHeard) {
  EXPECT_THAT(Post(Envelope({Event().Json(), Event{.action = "pull"}.Json()})), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(hints_.References(), ElementsAre(Reference("registry.example:5000/team/app")));
  EXPECT_EQ(hints_.taken[0].scheduler, "registry");
  // Told again it is the same hint; pushed again it is another.
  Post(Envelope({Event().Json(), Event{.id = "another"}.Json()}));
  EXPECT_EQ(hints_.taken[1].id, hints_.taken[0].id);
  EXPECT_NE(hints_.taken[2].id, hints_.taken[0].id);
  EXPECT_EQ(Count(PushResult::kHinted), 3u);
  EXPECT_EQ(Count(PushResult::kIgnored), 1u);
}

TEST_F(PushRouteTest, WhoDoesNotIsRefused) {
  for (const std::string shown :
       {"", "Bearer a-secret-of-the-clusteR", "Bearer a-secret", "Bearer ", "Basic a-secret-of-the-cluster",
        "Bearer a-secret-of-the-cluster-and-more"}) {
    const std::string answer = Post(Envelope({Event().Json()}), shown);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 401")) << shown;
    EXPECT_THAT(answer, HasSubstr("WWW-Authenticate: Bearer"));
  }
  EXPECT_THAT(hints_.References(), IsEmpty());
  EXPECT_EQ(Count(PushResult::kUnauthorized), 6u);
}

TEST_F(PushRouteTest, WhatIsMalformedIsTold) {
  const std::string answer = Post("{");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(answer, HasSubstr("no JSON"));
  EXPECT_EQ(Count(PushResult::kMalformed), 1u);
  EXPECT_THAT(Post(std::string((1 << 20) + 1, ' ')), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(hints_.References(), IsEmpty());
}

TEST_F(PushRouteTest, TheRegistryComesAgainWhereThereWasNoRoomAndNotWhereItIsNotWanted) {
  EXPECT_THAT(Post(Envelope({Event{.repository = "forbidden"}.Json()})), StartsWith("HTTP/1.1 200"));
  const std::string answer = Post(Envelope({Event{.repository = "full"}.Json(), Event().Json()}));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer, HasSubstr("Retry-After: "));
  EXPECT_THAT(hints_.References(), ElementsAre(Reference("registry.example:5000/forbidden"),
                                               Reference("registry.example:5000/full"),
                                               Reference("registry.example:5000/team/app")));
  EXPECT_EQ(Count(PushResult::kRefused), 1u);
  EXPECT_EQ(Count(PushResult::kIgnored), 1u);
  EXPECT_EQ(Count(PushResult::kHinted), 1u);
}

}  // namespace
}  // namespace sluice
