#include "api/http/peer_routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "api/http/chunk_request.h"
#include "node/blob_claim.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/manifest_cache.h"
#include "node/daemon/peer_documents.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/api/raw_client.h"
#include "tests/unit/index/store_fixture.h"

namespace sluice::api {
namespace {

using index::SampleBlob;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kNodeId[] = "this-node";

// Runs tasks on a thread of its own; may hold them back.
class GatedExecutor final : public Executor {
 public:
  GatedExecutor() : thread_([this] { Run(); }) {}
  ~GatedExecutor() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void Post(Task task) override {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
  }
  void PostAt(Instant, Task task) override { Post(std::move(task)); }

  void Hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void AwaitTask() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return !tasks_.empty(); }));
  }
  void Release() {
    {
      const std::lock_guard lock(mutex_);
      held_ = false;
    }
    changed_.notify_all();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || (!held_ && !tasks_.empty()); });
      if (stopping_) return;
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      std::move(task)();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool held_ = false, stopping_ = false;
  std::thread thread_;
};

struct Answer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  std::string raw;

  std::string Header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  }
};

Answer Parse(std::string raw) {
  Answer answer;
  const size_t end = raw.find("\r\n\r\n");
  EXPECT_NE(end, std::string::npos) << raw;
  if (end == std::string::npos) return answer;
  answer.status = std::atoi(raw.c_str() + sizeof("HTTP/1.1"));
  for (const absl::string_view line : absl::StrSplit(raw.substr(0, end), "\r\n")) {
    const size_t colon = line.find(": ");
    if (colon != absl::string_view::npos)
      answer.headers[absl::AsciiStrToLower(line.substr(0, colon))] = std::string(line.substr(colon + 2));
  }
  answer.body = raw.substr(end + 4);
  answer.raw = std::move(raw);
  return answer;
}

class FakeMembers final : public MemberAnswers {
 public:
  absl::StatusOr<std::string> Answer(std::string_view since, std::string_view old, std::string_view asker,
                                     const ProvenNames&) override {
    if (asker == "another") return absl::PermissionDeniedError("it is another");
    return absl::StrCat("since ", std::string(since), " old ", std::string(old), " asker ",
                        std::string(asker));
  }
};

class FakeHolders final : public HolderAnswers {
 public:
  std::string Answer(const Question& question) override {
    if (question.digest.empty()) return {};
    return absl::StrCat(std::string(question.digest), " ", std::string(question.size), " ",
                        std::string(question.chunk), " ", std::string(question.root),
                        question.shares == "1" ? " shares" : "");
  }
  absl::StatusOr<std::string> Presence(const Question& question) override {
    if (question.size.empty()) return absl::InvalidArgumentError("malformed");
    if (question.root.empty()) return absl::NotFoundError("it is not here");
    return absl::StrCat(std::string(question.digest), " ", std::string(question.size), " ",
                        std::string(question.chunk), " ", std::string(question.root));
  }
  absl::Status Take(std::string_view announcement, const ProvenNames&) override {
    if (announcement == "another's") return absl::PermissionDeniedError("it is another's");
    return announcement == "good" ? absl::OkStatus() : absl::InvalidArgumentError("bad");
  }
};

class FakePlaces final : public WholePlaces {
 public:
  std::variant<Busy, Place> Ask(const Digest& form, const Asker& asker) override {
    const std::lock_guard lock(mutex_);
    forms.push_back(form);
    askers.push_back(asker);
    if (is_busy) return Busy{std::chrono::milliseconds(7), {"b", "c"}};
    ++held;
    return Place{{this, [this](const void*) { --held; }}, [this] { ++taken; }};
  }

  bool is_busy = false;
  std::vector<Digest> forms;
  std::vector<Asker> askers;
  std::atomic<int> held = 0, taken = 0;

 private:
  std::mutex mutex_;
};

// A blob that a home has got, and that this node got a moment ago.
class FakeDocuments final : public PeerDocuments {
 public:
  absl::StatusOr<PeerDocument> Manifest(const BlobOrigin&, const Digest&) override {
    return absl::NotFoundError("none");
  }
  absl::StatusOr<PeerDocument> Recipe(const Digest&, const std::optional<Digest>&) override {
    return absl::NotFoundError("none");
  }
  void AskRegistry(const Question& question, Done done) override { std::move(done)(GotLately(question)); }
  absl::StatusOr<PeerDocument> GotLately(const Question&) override {
    if (!status.ok()) return status;
    return PeerDocument{"a/b", "a bootstrap"};
  }
  absl::Status status;
};

class PeerRoutesTest : public index::StoreTest {
 protected:
  FakeMembers members_;
  FakeHolders holders_;

  void SetUp() override {
    OpenStore();
    manifests_ = std::make_unique<ManifestCache>(temp_.path() + "/manifests");
    documents_ = std::make_unique<NodePeerDocuments>(*store_, *manifests_, std::nullopt);
    Serve({});
    sample_.spec.origins = {origin_};
    sample_.spec.root = p2p::Sha256::Of("root");
  }
  void TearDown() override {
    server_.reset();
    io_.reset();
  }

  void Serve(HttpLimits limits, int fills_max = 100) { Serve(limits, fills_max, *documents_, nullptr); }
  void Serve(HttpLimits limits, int fills_max, PeerDocuments& documents,
             std::shared_ptr<WholePlaces> places) {
    HttpRoutes routes;
    AddPeerRoutes(routes, {*store_, *store_, *store_, documents, *io_, telemetry_, clock_, &members_,
                           &holders_, nullptr, kNodeId, PeerTrust::kUnproven, fills_max, std::move(places)});
    server_ = std::make_unique<HttpServer>(std::move(routes), limits);
    ASSERT_TRUE(server_->Start("127.0.0.1:0").ok());
  }

  // All of it, proven, and got as `access`.
  void Have(const SampleBlob& sample, OriginAccess access) {
    CommitAll(sample, Evidence::kVerified);
    for (const BlobOrigin& origin : sample.spec.origins)
      store_->NoteAccess(sample.spec.digest, origin, access);
  }

  Answer Ask(const std::string& target, const std::string& more = "", const std::string& method = "GET") {
    return Parse(
        RawClient(server_->port()).Send(Request(method, target, absl::StrCat(more, kClose))).ReadAll());
  }
  static std::string PathOf(const Digest& digest, const std::string& kind = "blobs",
                            const std::string& repository = "team/app") {
    return absl::StrCat("/v2/", repository, "/", kind, "/", digest.ToString(), "?ns=registry.example:5000");
  }
  std::string Path() const { return PathOf(sample_.spec.digest); }
  std::string Bytes(uint64_t offset, uint64_t length) const {
    return {reinterpret_cast<const char*>(sample_.bytes.data()) + offset, length};
  }
  std::string Tag() const { return absl::StrCat("\"", sample_.spec.digest.ToString(), "\""); }

  const BlobOrigin origin_{"registry.example:5000", "team/app"};
  SampleBlob sample_{1};  // five chunks of 16 KiB and 100 bytes
  const uint64_t size_ = sample_.spec.size;
  SteadyClock clock_;
  std::unique_ptr<GatedExecutor> io_ = std::make_unique<GatedExecutor>();
  std::unique_ptr<ManifestCache> manifests_;
  std::unique_ptr<NodePeerDocuments> documents_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(PeerRoutesTest, SaysThatItIsARegistry) {
  const Answer answer = Ask("/v2/");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.Header("docker-distribution-api-version"), "registry/2.0");
  EXPECT_EQ(answer.Header("sluice-node"), kNodeId);
}

TEST_F(PeerRoutesTest, AWholeBlobIsServedByteForByte) {
  Have(sample_, OriginAccess::kPublic);
  const Answer answer = Ask(Path());
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.body == Bytes(0, size_));
  EXPECT_EQ(answer.Header("content-length"), absl::StrCat(size_));
  EXPECT_EQ(answer.Header("content-type"), "application/octet-stream");
  EXPECT_EQ(answer.Header("etag"), Tag());
  EXPECT_EQ(answer.Header("accept-ranges"), "bytes");
  EXPECT_EQ(answer.Header("docker-content-digest"), sample_.spec.digest.ToString());
  EXPECT_EQ(answer.Header("sluice-verified"), sample_.spec.root->ToString());
  EXPECT_EQ(answer.Header("sluice-node"), kNodeId);
  EXPECT_EQ(answer.Header("content-range"), "");
  EXPECT_EQ(telemetry_.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)].value(), size_);
  EXPECT_EQ(
      telemetry_
          .peer_answers[static_cast<size_t>(PeerRole::kPresentOnly)][static_cast<size_t>(PeerAnswer::kServed)]
          .value(),
      1u);
}

TEST_F(PeerRoutesTest, RangesAreServedExactly) {
  Have(sample_, OriginAccess::kPublic);
  const struct {
    std::string header;
    uint64_t offset;
    uint64_t length;
  } kCases[] = {{"bytes=0-0", 0, 1},
                {"bytes=0-16383", 0, 16384},
                {"bytes=16383-16384", 16383, 2},
                {absl::StrCat("bytes=", size_ - 1, "-"), size_ - 1, 1},
                {"bytes=-100", size_ - 100, 100},
                {absl::StrCat("bytes=-", size_ + 1), 0, size_},
                {absl::StrCat("bytes=70000-", size_ + 5), 70000, size_ - 70000},
                {"bytes=0-18446744073709551615", 0, size_}};
  for (const auto& [header, offset, length] : kCases) {
    const Answer answer = Ask(Path(), absl::StrCat("Range: ", header, "\r\n"));
    EXPECT_EQ(answer.status, 206) << header;
    EXPECT_TRUE(answer.body == Bytes(offset, length)) << header;
    EXPECT_EQ(answer.Header("content-range"),
              absl::StrCat("bytes ", offset, "-", offset + length - 1, "/", size_));
  }
}

TEST_F(PeerRoutesTest, WhatIsNotOneRangeWithinTheBlobIs416) {
  Have(sample_, OriginAccess::kPublic);
  for (const std::string& header :
       {absl::StrCat("bytes=", size_, "-"), std::string("bytes=0-1,3-4"), std::string("bytes=-0"),
        std::string("bytes=9-8"), std::string("bytes=x"), std::string("bytes=18446744073709551615-")}) {
    const Answer answer = Ask(Path(), absl::StrCat("Range: ", header, "\r\n"));
    EXPECT_EQ(answer.status, 416) << header;
    EXPECT_EQ(answer.Header("content-range"), absl::StrCat("bytes */", size_));
    EXPECT_THAT(answer.body, HasSubstr("RANGE_INVALID"));
  }
  EXPECT_EQ(Ask(Path(), "Range: pages=1-2\r\n").status, 200);
}

TEST_F(PeerRoutesTest, ConditionsAreKept) {
  Have(sample_, OriginAccess::kPublic);
  const std::string range = "Range: bytes=0-9\r\n";
  for (const std::string& match : {Tag(), "W/" + Tag(), std::string("*"), "\"x\", " + Tag() + ",\"y\""}) {
    const Answer answer = Ask(Path(), absl::StrCat("If-None-Match: ", match, "\r\n", range));
    EXPECT_EQ(answer.status, 304) << match;
    EXPECT_EQ(answer.body, "");
    EXPECT_EQ(answer.Header("etag"), Tag());
  }
  EXPECT_EQ(Ask(Path(), "If-None-Match: \"x\"\r\n" + range).status, 206);
  EXPECT_EQ(Ask(Path(), absl::StrCat("If-Range: ", Tag(), "\r\n", range)).status, 206);
  // A weak tag never matches here, nor does a date: the whole.
  for (const std::string& other :
       {"W/" + Tag(), std::string("\"x\""), std::string("Tue, 01 Jan 2030 00:00:00 GMT")}) {
    const Answer answer = Ask(Path(), absl::StrCat("If-Range: ", other, "\r\n", range));
    EXPECT_EQ(answer.status, 200) << other;
    EXPECT_TRUE(answer.body == Bytes(0, size_));
  }
}

TEST_F(PeerRoutesTest, HeadSaysTheLengthOfTheWholeAndSendsNothing) {
  Have(sample_, OriginAccess::kPublic);
  const Answer answer = Ask(Path(), "Range: bytes=0-9\r\n", "HEAD");
  EXPECT_EQ(answer.status, 200) << "a range means something to GET alone";
  EXPECT_EQ(answer.Header("content-length"), absl::StrCat(size_));
  EXPECT_EQ(answer.body, "");
  EXPECT_EQ(Ask(PathOf(p2p::Sha256::Of("absent")), "", "HEAD").status, 404);
  EXPECT_EQ(telemetry_.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)].value(), 0u);
}

TEST_F(PeerRoutesTest, WhatIsThereInPartIsNamedAndNotSent) {
  for (const uint32_t chunk : {1, 2, 4}) ASSERT_TRUE(CommitChunk(sample_, chunk, Evidence::kVerified).ok());
  store_->NoteAccess(sample_.spec.digest, origin_, OriginAccess::kPublic);
  const Answer whole = Ask(Path());
  EXPECT_EQ(whole.status, 404);
  EXPECT_EQ(whole.Header("sluice-present"), "bytes=16384-49151,65536-81919");
  EXPECT_EQ(Ask(Path(), "Range: bytes=16384-49151\r\n").status, 206);
  EXPECT_EQ(Ask(Path(), "Range: bytes=20000-20009\r\n").body, Bytes(20000, 10));
  const Answer beside = Ask(Path(), "Range: bytes=16383-20000\r\n");
  EXPECT_EQ(beside.status, 404);
  EXPECT_EQ(beside.Header("sluice-present"), "bytes=16384-32767") << "only of what was asked for";
  const Answer none = Ask(Path(), "Range: bytes=0-9\r\n");
  EXPECT_EQ(none.status, 404);
  EXPECT_EQ(none.Header("sluice-present"), "");
}

TEST_F(PeerRoutesTest, TheRunsThatAreNamedAreBounded) {
  SampleBlob sample(2, 100 * uint64_t{kChunkSizeMin});
  sample.spec.origins = {origin_};
  for (uint32_t chunk = 0; chunk < 100; chunk += 2)
    ASSERT_TRUE(CommitChunk(sample, chunk, Evidence::kVerified).ok());
  store_->NoteAccess(sample.spec.digest, origin_, OriginAccess::kPublic);
  const std::string present = Ask(PathOf(sample.spec.digest)).Header("sluice-present");
  EXPECT_EQ(std::count(present.begin(), present.end(), ','), 31);
}

TEST_F(PeerRoutesTest, UnprovenChunksAreAsIfAbsent) {
  ASSERT_TRUE(CommitChunk(sample_, 0, Evidence::kVerified).ok());
  ASSERT_TRUE(CommitChunk(sample_, 1, Evidence::kUnverified).ok());
  store_->NoteAccess(sample_.spec.digest, origin_, OriginAccess::kPublic);
  EXPECT_EQ(Ask(Path(), "Range: bytes=16384-16390\r\n").status, 404);
  const Answer both = Ask(Path(), "Range: bytes=0-32767\r\n");
  EXPECT_EQ(both.status, 404);
  EXPECT_EQ(both.Header("sluice-present"), "bytes=0-16383");
  EXPECT_EQ(Ask(Path(), "Range: bytes=0-16383\r\n").body, Bytes(0, 16384));
}

// ------------------------------------------------------------------------------------- who may not have it

// What an unknown digest is answered, to the last byte, is what all that may not be given is answered.
TEST_F(PeerRoutesTest, WhatMayNotBeGivenIsTheSame404AsWhatIsNotThere) {
  const std::string absent = Ask(PathOf(p2p::Sha256::Of("absent"))).raw;
  EXPECT_THAT(absent, StartsWith("HTTP/1.1 404 "));

  Have(sample_, OriginAccess::kCredentials);
  EXPECT_EQ(Ask(Path()).raw, absent) << "got with credentials";
  EXPECT_EQ(Ask(Path(), "Range: bytes=0-9\r\n").raw, absent);
  EXPECT_EQ(Ask(Path(), "Range: bytes=999999999-\r\n").raw, absent) << "its size would show";
  EXPECT_EQ(Ask(Path(), absl::StrCat("If-None-Match: ", Tag(), "\r\n")).raw, absent);
  EXPECT_EQ(Ask(Path(), "If-None-Match: *\r\n").raw, absent);
  EXPECT_EQ(Ask(Path(), "", "HEAD").raw, Ask(PathOf(p2p::Sha256::Of("absent")), "", "HEAD").raw);
  EXPECT_EQ(Ask(absl::StrCat("/sluice/v1/recipes/", sample_.spec.digest.ToString())).raw, absent);

  SampleBlob unknown(3);
  unknown.spec.origins = {origin_};
  CommitAll(unknown, Evidence::kVerified);
  EXPECT_EQ(Ask(PathOf(unknown.spec.digest)).raw, absent) << "nobody knows how it was got";

  SampleBlob other(4);
  other.spec.origins = {origin_, {"registry.example:5000", "other/app"}};
  CommitAll(other, Evidence::kVerified);
  store_->NoteAccess(other.spec.digest, other.spec.origins[1], OriginAccess::kPublic);
  EXPECT_EQ(Ask(PathOf(other.spec.digest)).raw, absent) << "public in another repository only";
  EXPECT_EQ(Ask(PathOf(other.spec.digest, "blobs", "third/app")).raw, absent);
  EXPECT_EQ(
      Ask(absl::StrCat("/v2/other/app/blobs/", other.spec.digest.ToString(), "?ns=registry.example")).raw,
      absent);
  EXPECT_EQ(Ask(PathOf(other.spec.digest, "blobs", "other/app")).status, 200);

  SampleBlob refused(5);
  refused.spec.origins = {origin_};
  Have(refused, OriginAccess::kPublic);
  ASSERT_EQ(Ask(PathOf(refused.spec.digest)).status, 200);
  store_->Find(refused.spec.digest)->Refuse();
  EXPECT_EQ(Ask(PathOf(refused.spec.digest)).raw, absent);
  EXPECT_EQ(Ask(PathOf(refused.spec.digest), "Range: bytes=999999999-\r\n").raw, absent);
}

TEST_F(PeerRoutesTest, WhatAMemberSaidIsPublicUntilTheRegistryWantedCredentials) {
  Have(sample_, OriginAccess::kHearsay);
  EXPECT_EQ(Ask(Path()).status, 200);
  store_->NoteAccess(sample_.spec.digest, origin_, OriginAccess::kCredentials);
  EXPECT_EQ(Ask(Path()).status, 404);
  store_->NoteAccess(sample_.spec.digest, origin_, OriginAccess::kHearsay);
  EXPECT_EQ(Ask(Path()).status, 404) << "what a member says does not outweigh the registry";
}

TEST_F(PeerRoutesTest, AskingMakesNothingKnown) {
  const Digest absent = p2p::Sha256::Of("absent");
  EXPECT_EQ(Ask(PathOf(absent)).status, 404);
  EXPECT_EQ(Ask(PathOf(absent, "manifests")).status, 404);
  EXPECT_EQ(store_->Find(absent), nullptr);
  EXPECT_TRUE(store_->List().empty());
}

// ---------------------------------------------------------------------------------------------- odd paths

TEST_F(PeerRoutesTest, NoOddPathLeadsToAnything) {
  Have(sample_, OriginAccess::kPublic);
  const std::string digest = sample_.spec.digest.ToString();
  const std::string hex = sample_.spec.digest.Hex();
  const std::string ns = "?ns=registry.example:5000";
  std::string upper = hex;
  for (char& c : upper) c = absl::ascii_toupper(c);
  const struct {
    std::string target;
    int status;
  } kCases[] = {
      {"/v2/team/app/blobs/sha256:../.." + ns, 404},
      {"/v2/team/app/blobs/sha256:.." + ns, 400},
      {"/v2/team/app/blobs/sha256:" + upper + ns, 400},
      {"/v2/team/app/blobs/SHA256:" + hex + ns, 400},
      {"/v2/team/app/blobs/sha256:" + hex.substr(1) + ns, 400},
      {"/v2/team/app/blobs/sha256:" + hex + "0" + ns, 400},
      {"/v2/team/app/blobs/sha512:" + hex + ns, 400},
      {"/v2/team/app/blobs/" + hex + ns, 400},
      {"/v2/team/app/blobs/sha256%3A" + hex + ns, 400},
      {"/v2/team/app/blobs/" + ns, 400},
      {"/v2/team/app/blobs" + ns, 404},
      {"/v2/team/app/blobs/" + digest + "/" + ns, 404},
      {"/v2/team/app/blobs/" + digest + "/..", 404},
      {"/v2/team%2fapp/blobs/" + digest + ns, 400},
      {"/v2/team/app%2fblobs/" + digest + ns, 404},
      {"/v2/team/app/%62lobs/" + digest + ns, 404},
      {"/v2/team/./app/blobs/" + digest + ns, 400},
      {"/v2/x/../team/app/blobs/" + digest + ns, 400},
      {"/v2/../v2/team/app/blobs/" + digest + ns, 400},
      {"/v2//team/app/blobs/" + digest + ns, 400},
      {"/v2/team//app/blobs/" + digest + ns, 400},
      {"/v2/team/app//blobs/" + digest + ns, 400},
      {"/v2/team/app/blobs//" + digest + ns, 404},
      {"//v2/team/app/blobs/" + digest + ns, 404},
      {"/V2/team/app/blobs/" + digest + ns, 404},
      {"/v2/Team/app/blobs/" + digest + ns, 400},
      {"/v2/blobs/" + digest + ns, 404},
      {"/v2//blobs/" + digest + ns, 400},
      {"/v2/" + std::string(256, 'a') + "/blobs/" + digest + ns, 400},
      {"/v2/" + std::string(8000, 'a') + "/blobs/" + digest + ns, 400},
      {"/v2/team/app/tags/" + digest + ns, 404},
      {"/v2/team/app/blobs/uploads/" + ns, 404},
      {"/v2/team/app/blobs/" + digest, 400},
      {"/v2/team/app/blobs/" + digest + "?ns=", 400},
      {"/v2/team/app/blobs/" + digest + "?NS=registry.example:5000", 400},
      {"/v2/team/app/blobs/" + digest + "?xns=registry.example:5000", 400},
      {"/v2/team/app/blobs/" + digest + "?ns=registry.example%2f..", 400},
      {"/v2/team/app/blobs/" + digest + "?ns=registry.example:5000%00", 400},
      {"/v2/team/app/blobs/" + digest + "?ns=registry.example%3", 400},
      {"/v2/team/app/blobs/" + digest + "?ns=registry.example%zz", 400},
      {"/v2/team/app/blobs/" + digest + "?ns=" + std::string(256, 'a'), 400},
      {"/v2/team/app/blobs/" + digest + "?ns=registry.example%253A5000", 400},
      {"/sluice/v1/recipes/", 400},
      {"/sluice/v1/recipes/../recipes/" + digest, 400},
      {"/sluice/v1/recipes/" + digest + "?root=x", 400},
      {"/sluice/v1/recipes/" + digest + "/", 400},
      {"/sluice/v1/", 404},
      {"/", 404},
      {"/v2", 404},
  };
  for (const auto& [target, status] : kCases) {
    const Answer answer = Ask(target);
    EXPECT_EQ(answer.status, status) << target.substr(0, 120);
  }
}

TEST_F(PeerRoutesTest, EscapesInTheRegistrysNameAreRead) {
  Have(sample_, OriginAccess::kPublic);
  const std::string path = absl::StrCat("/v2/team/app/blobs/", sample_.spec.digest.ToString());
  EXPECT_EQ(Ask(path + "?ns=registry%2eexample%3A5000").status, 200);
  EXPECT_EQ(Ask(path + "?a=b&ns=registry.example:5000&c").status, 200);
}

// ---------------------------------------------------------------------------------------------- documents

TEST_F(PeerRoutesTest, AManifestIsGivenByDigestWhereItWasGotAsPublic) {
  const std::string body = R"({"schemaVersion":2})";
  const Digest digest = p2p::Sha256::Of(body);
  const std::string absent = Ask(PathOf(p2p::Sha256::Of("absent"), "manifests")).raw;
  EXPECT_EQ(Ask(PathOf(digest, "manifests")).raw, absent);
  ASSERT_TRUE(
      manifests_->Put({origin_, "", digest}, {"application/x", body, digest, OriginAccess::kCredentials})
          .ok());
  EXPECT_EQ(Ask(PathOf(digest, "manifests")).raw, absent);
  ASSERT_TRUE(
      manifests_->Put({origin_, "", digest}, {"application/x", body, digest, OriginAccess::kUnknown}).ok());
  EXPECT_EQ(Ask(PathOf(digest, "manifests")).raw, absent);
  ASSERT_TRUE(
      manifests_->Put({origin_, "", digest}, {"application/x", body, digest, OriginAccess::kPublic}).ok());
  ASSERT_TRUE(
      manifests_->Put({origin_, "1", std::nullopt}, {"application/x", body, digest, OriginAccess::kPublic})
          .ok());
  const Answer answer = Ask(PathOf(digest, "manifests"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, body);
  EXPECT_EQ(answer.Header("content-type"), "application/x");
  EXPECT_EQ(answer.Header("docker-content-digest"), digest.ToString());
  EXPECT_EQ(Ask(PathOf(digest, "manifests", "other/app")).raw, absent);
  EXPECT_EQ(Ask("/v2/team/app/manifests/1?ns=registry.example:5000").raw, absent)
      << "a tag is the origin's to say";
  EXPECT_EQ(Ask("/v2/team/app/manifests/sha256:x?ns=registry.example:5000").status, 400);
  EXPECT_EQ(answer.Header("sluice-public-age"), "") << "members that are not proven say nothing of that";

  ASSERT_TRUE(manifests_
                  ->Put({origin_, "", digest}, {.media_type = "application/x",
                                                .body = body,
                                                .digest = digest,
                                                .access = OriginAccess::kHearsay,
                                                .from_member = true,
                                                .public_age = std::chrono::hours(5)})
                  .ok());
  const absl::StatusOr<PeerDocument> old = documents_->Manifest(origin_, digest);
  ASSERT_TRUE(old.ok()) << old.status();
  EXPECT_GE(old->public_age, std::chrono::hours(5));
}

TEST_F(PeerRoutesTest, ARecipeIsGivenUnderItsRoot) {
  SampleBlob sample(6, 1000);  // one chunk: the root alone is the recipe
  sample.spec.root = p2p::Sha256::Of("root");
  sample.spec.origins = {origin_};
  Have(sample, OriginAccess::kPublic);
  const std::string path = absl::StrCat("/sluice/v1/recipes/", sample.spec.digest.ToString());
  const Answer answer = Ask(absl::StrCat(path, "?root=", sample.spec.root->ToString()));
  ASSERT_EQ(answer.status, 200);
  const absl::StatusOr<p2p::Recipe> recipe = p2p::Recipe::DecodeTorrent(answer.body);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_TRUE(recipe->IsBoundBy(sample.spec));
  EXPECT_EQ(Ask(path).status, 200);
  EXPECT_EQ(Ask(absl::StrCat(path, "?root=", p2p::Sha256::Of("other").ToString())).status, 404);
}

TEST_F(PeerRoutesTest, WhoIsNobodysHomeSendsThoseWhoAskItToTheRegistry) {
  const Digest& digest = sample_.spec.digest;
  const std::string role = "Sluice-Role: home\r\n";
  for (const std::string& path :
       {PathOf(digest, "manifests"), PathOf(digest, "referrers"), PathOf(digest) + "&part=whole",
        PathOf(digest) + "&part=table&at=1:2:sha256:x&size=3",
        std::string("/sluice/v1/token?ns=registry.example:5000&name=team/app"),
        std::string("/v2/team/app/manifests/v1?ns=registry.example:5000")}) {
    const Answer answer = Ask(path, role);
    EXPECT_THAT(answer.raw, StartsWith("HTTP/1.1 102 ")) << path;
    Answer last = answer;
    while (last.status == 102) last = Parse(last.body);
    EXPECT_EQ(last.status, 403) << path;
    EXPECT_THAT(last.body, HasSubstr("ask-yourself")) << path;
    EXPECT_EQ(last.Header("sluice-node"), kNodeId) << path;
  }
  EXPECT_EQ(Ask(PathOf(digest, "referrers")).status, 404) << "without the role there is no such path";
  for (const std::string reference : {"-v1", ".v1", "v%2F1", "sha256:12", ""}) {
    const std::string path = absl::StrCat("/v2/team/app/manifests/", reference, "?ns=registry.example:5000");
    EXPECT_EQ(Ask(path, role).status, 400) << path;
  }
  EXPECT_EQ(Ask(PathOf(digest) + "&part=other", role).status, 400);
  for (const std::string query : {"", "?ns=registry.example:5000", "?name=team/app",
                                  "?ns=a%20b&name=team/app", "?ns=registry.example:5000&name=team/../app"})
    EXPECT_EQ(Ask("/sluice/v1/token" + query).status, 400) << query;
  EXPECT_EQ(Ask("/v2/team/app/referrers/v1?ns=registry.example:5000", role).status, 400);
}

// ---------------------------------------------------------------------------------- whole blobs, to few at
// once

class WholeBlobRoutesTest : public PeerRoutesTest {
 protected:
  void SetUp() override {
    PeerRoutesTest::SetUp();
    server_.reset();
    Serve({}, 100, given_, places_);
  }
  // The last of the answers.
  Answer AskHome(const std::string& target, const std::string& more) {
    Answer answer = Ask(target, "Sluice-Role: home\r\n" + more);
    while (answer.status == 102) answer = Parse(answer.body);
    return answer;
  }
  void AwaitTaken(int count) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while ((places_->taken < count || places_->held > 0) && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(places_->taken, count);
    EXPECT_EQ(places_->held, 0);
  }
  void ExpectSentOn(const Answer& answer) {
    EXPECT_EQ(answer.status, 503);
    EXPECT_EQ(answer.Header("sluice-retry-ms"), "7");
    EXPECT_EQ(answer.Header("sluice-helpers"), "b,c");
    EXPECT_EQ(answer.Header("sluice-node"), kNodeId);
  }

  FakeDocuments given_;
  const std::shared_ptr<FakePlaces> places_ = std::make_shared<FakePlaces>();
};

TEST_F(WholeBlobRoutesTest, WhatIsHereGoesToFewNamedAskersAtOnce) {
  Have(sample_, OriginAccess::kPublic);
  const Answer answer = Ask(Path(), "Sluice-From: a\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.body == Bytes(0, size_));
  AwaitTaken(1);
  places_->is_busy = true;
  ExpectSentOn(Ask(Path(), "Sluice-From: a\r\nSluice-Tried: b, c\r\n"));
  ASSERT_EQ(places_->askers.size(), 2u);
  EXPECT_EQ(places_->forms[1], sample_.spec.digest);
  EXPECT_EQ(places_->askers[1].name, "a");
  EXPECT_EQ(places_->askers[1].tried, (std::vector<std::string>{"b", "c"}));
  EXPECT_FALSE(places_->askers[1].is_help);
  // Who has no name could not be told of others, and a part is not the whole.
  EXPECT_EQ(Ask(Path()).status, 200);
  EXPECT_EQ(Ask(Path(), "Sluice-From: a\r\nRange: bytes=0-0\r\n").status, 206);
  EXPECT_EQ(Ask(Path(), "Sluice-From: a\r\n", "HEAD").status, 200);
  EXPECT_EQ(Ask(PathOf(p2p::Sha256::Of("absent")), "Sluice-From: a\r\n").status, 404);
  EXPECT_EQ(Ask(Path(), "Sluice-From: a,b\r\n").status, 400);
  EXPECT_EQ(places_->askers.size(), 2u);
}

TEST_F(WholeBlobRoutesTest, WhatAHomeGetsGoesToFewNamedAskersAtOnce) {
  const std::string path = PathOf(sample_.spec.digest) + "&part=whole";
  const Answer answer = AskHome(path, "Sluice-From: a\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, "a bootstrap");
  EXPECT_EQ(answer.Header("content-type"), "a/b");
  AwaitTaken(1);
  EXPECT_EQ(telemetry_.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)].value(), 11u);
  places_->is_busy = true;
  ExpectSentOn(AskHome(path, "Sluice-From: a\r\nSluice-Tried: b\r\n"));
  EXPECT_EQ(places_->forms[1], sample_.spec.digest);
  EXPECT_EQ(places_->askers[1].tried, (std::vector<std::string>{"b"}));
  EXPECT_EQ(AskHome(path, "").body, "a bootstrap") << "who has no name";
  EXPECT_EQ(AskHome(path, "Sluice-From: a,b\r\n").status, 400);
  EXPECT_EQ(places_->askers.size(), 2u);
}

TEST_F(WholeBlobRoutesTest, WhoIsSentOnIsGivenWhatCameAMomentAgo) {
  const std::string path = PathOf(sample_.spec.digest) + "&part=whole";
  const std::string from = "Sluice-Role: present-only\r\nSluice-From: a\r\n";
  EXPECT_EQ(Ask(path, from).body, "a bootstrap");
  AwaitTaken(1);
  EXPECT_TRUE(places_->askers[0].is_help);
  places_->is_busy = true;
  ExpectSentOn(Ask(path, from));
  given_.status = absl::UnavailableError("it is on its way");
  EXPECT_EQ(Ask(path, from).status, 503);
  given_.status = absl::NotFoundError("it is not here");
  EXPECT_EQ(Ask(path, from).status, 404);
  EXPECT_EQ(Ask(path, "Sluice-From: a,b\r\n").status, 400);
  given_.status = absl::OkStatus();
  EXPECT_EQ(Ask(path, "Sluice-Role: present-only\r\n").status, 404) << "who has no name would get no place";
}

// ------------------------------------------------------------------------------------------ races and ends

TEST_F(PeerRoutesTest, MembersAreToldToWhomeverAsks) {
  EXPECT_EQ(Ask("/sluice/v1/members?since=abc&old=1", "Sluice-Member: {\"name\":\"a\"}\r\n").body,
            "since abc old 1 asker {\"name\":\"a\"}");
  EXPECT_EQ(Ask("/sluice/v1/members").body, "since  old  asker ");
  EXPECT_EQ(Ask("/sluice/v1/members", "Sluice-Member: another\r\n").status, 403);
  EXPECT_EQ(Ask("/sluice/v1/members?since=%zz").body, "since  old  asker ");
  EXPECT_EQ(Ask("/sluice/v1/members/").status, 404);
}

TEST_F(PeerRoutesTest, HoldersAreNamedAndAnnounced) {
  EXPECT_EQ(Ask("/sluice/v1/holders?digest=a&size=1&chunk=2&root=b").body, "a 1 2 b");
  EXPECT_EQ(Ask("/sluice/v1/holders?digest=a&size=1&chunk=2&root=b&shares=1").body, "a 1 2 b shares");
  EXPECT_EQ(Ask("/sluice/v1/holders").status, 400);
  EXPECT_EQ(Ask("/sluice/v1/presence/a?size=1&chunk=2&root=b").body, "a 1 2 b");
  EXPECT_EQ(Ask("/sluice/v1/presence/a?size=1&chunk=2").status, 404);
  EXPECT_EQ(Ask("/sluice/v1/presence/a").status, 400);
  const auto post = [&](const std::string& body) {
    RawClient client(server_->port());
    client.Send(
        Request("POST", "/sluice/v1/holders", absl::StrCat("Content-Length: ", body.size(), "\r\n", kClose)) +
        body);
    return Parse(client.ReadAll());
  };
  EXPECT_EQ(post("good").status, 204);
  EXPECT_EQ(post("bad").status, 400);
  EXPECT_EQ(post("another's").status, 403);
}

TEST(ChunkRequestTest, WhoAsksIsWhomItsCertificateNames) {
  const BlobOrigin origin{"registry.example", "app"};
  const BlobSpec spec = index::SampleBlob(7).spec;
  HttpRequest request;
  request.headers = {{"Sluice-Role", "home"},
                     {"Sluice-Blob", FormatBlobClaim(spec, origin, BlobClaim::Access::kPublic)},
                     {"Range", "bytes=0-99"},
                     {"Sluice-From", "a"}};
  const auto parse = [&] { return ParseChunkRequest(request, origin, spec.digest, Instant()).status(); };
  EXPECT_TRUE(parse().ok()) << parse();
  request.proven_names = ProvenNames({"b", "a"});
  EXPECT_TRUE(parse().ok()) << parse();
  request.proven_names = ProvenNames({"b"});
  EXPECT_TRUE(absl::IsPermissionDenied(parse())) << parse();
}

TEST_F(PeerRoutesTest, ABlobIsNotEvictedBetweenTheLookupAndTheAnswer) {
  Have(sample_, OriginAccess::kPublic);
  io_->Hold();
  RawClient client(server_->port());
  client.Send(Request("GET", Path(), kClose));
  io_->AwaitTask();
  EXPECT_EQ(store_->Evict(sample_.spec.digest, EvictReason::kRequested).code(),
            absl::StatusCode::kFailedPrecondition);
  io_->Release();
  const Answer answer = Parse(client.ReadAll());
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.body == Bytes(0, size_));
  absl::Status evicted;
  do {
    evicted = store_->Evict(sample_.spec.digest, EvictReason::kRequested);
  } while (absl::IsFailedPrecondition(evicted));
  EXPECT_TRUE(evicted.ok()) << evicted;
  EXPECT_EQ(Ask(Path()).raw, Ask(PathOf(p2p::Sha256::Of("absent"))).raw);
}

TEST_F(PeerRoutesTest, AFileThatIsLostAndAChunkThatIsTakenBackInBetweenAre404) {
  Have(sample_, OriginAccess::kPublic);
  const auto ask = [&](const std::function<void()>& meanwhile) {
    io_->Hold();
    RawClient client(server_->port());
    client.Send(Request("GET", Path(), kClose));
    io_->AwaitTask();
    meanwhile();
    io_->Release();
    return Parse(client.ReadAll()).status;
  };
  EXPECT_EQ(ask([&] { ASSERT_TRUE(store_->Revoke(*store_->Find(sample_.spec.digest), ChunkIndex(3)).ok()); }),
            404);
  ASSERT_TRUE(CommitChunk(sample_, 3, Evidence::kVerified).ok());
  EXPECT_EQ(ask([] {}), 200);
  EXPECT_EQ(ask([&] { ASSERT_EQ(::unlink(store_->BlobPath(sample_.spec.digest).c_str()), 0); }), 404);
}

TEST_F(PeerRoutesTest, AnAnswerThatIsUnderWayHoldsNeitherTheServersEndNorTheStore) {
  Have(sample_, OriginAccess::kPublic);
  io_->Hold();
  RawClient client(server_->port());
  client.Send(Request("GET", Path()));
  io_->AwaitTask();
  server_->Stop();
  EXPECT_EQ(client.ReadAll(), "");
  io_->Release();
  server_.reset();
  io_.reset();
  EXPECT_EQ(store_->Find(sample_.spec.digest)->lease_count(), 0u);
}

// Whoever takes a blob in slowly takes up a place of those for fills; who finds none left is told so at once,
// and its connection makes room for what nodes ask each other beside blobs.
TEST_F(PeerRoutesTest, ManyThatTakeBlobsInSlowlyLeaveRoomForOthers) {
  SampleBlob sample(64, 4 << 20);
  sample.spec.origins = {origin_};
  sample.spec.root = p2p::Sha256::Of("root");
  Have(sample, OriginAccess::kPublic);
  Serve({.connections_max = 6, .idle_yields_after = std::chrono::nanoseconds(1)}, 3);
  const std::string path = PathOf(sample.spec.digest);
  std::vector<std::unique_ptr<RawClient>> slow;
  for (int i = 0; i < 3; ++i) {
    slow.push_back(std::make_unique<RawClient>(server_->port(), 4 << 10));
    slow.back()->Send(Request("GET", path, "Range: bytes=0-\r\n"));
    EXPECT_THAT(slow.back()->ReadThrough("\r\n\r\n"), StartsWith("HTTP/1.1 206 "));
  }
  for (int i = 0; i < 20; ++i) {
    RawClient refused(server_->port(), 4 << 10);
    std::string answer = refused.Send(Request("GET", path, "Range: bytes=0-\r\n")).ReadThrough("\r\n\r\n");
    EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("Retry-After")));
    EXPECT_THAT(RawClient(server_->port()).Send(Request("GET", "/sluice/v1/members", kClose)).ReadAll(),
                StartsWith("HTTP/1.1 200 "));
  }
  for (const auto& one : slow) EXPECT_EQ(one->ReadBytes(1000).size(), 1000u);
}

size_t OpenDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}
// What was freed stays for a while where addresses are watched, and around all lies more.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kMemoryMore = 4;
#else
constexpr uint64_t kMemoryMore = 1;
#endif

// In kB, as proc(5) has it.
uint64_t ResidentMemory() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    unsigned long long kb = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %llu kB", &kb) == 1) return kb;
  }
  return 0;
}

TEST_F(PeerRoutesTest, TenThousandThatTakeARangeInSlowlyCostLittleAndHoldNobodyUp) {
  constexpr size_t kClients = 10000, kConnectionsMax = 1024;
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_cur < kClients + 2 * kConnectionsMax) {
    const char* const reason = "NOT TESTED: too few descriptors, of which root may have more";
    if (std::getenv("CI") != nullptr) FAIL() << reason;
    GTEST_SKIP() << reason;
  }
  SampleBlob sample(64, 4 << 20);
  sample.spec.origins = {origin_};
  sample.spec.root = p2p::Sha256::Of("root");
  Have(sample, OriginAccess::kPublic);
  Serve({.connections_max = kConnectionsMax, .idle_yields_after = std::chrono::nanoseconds(1)}, 768);
  const size_t descriptors = OpenDescriptors();
  const uint64_t memory = ResidentMemory();
  std::vector<std::unique_ptr<RawClient>> clients;
  for (size_t i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->port(), 4 << 10));
    clients.back()->Send(Request("GET", PathOf(sample.spec.digest), "Range: bytes=5-\r\n"));
  }
  std::string answer;
  do {
    answer = RawClient(server_->port()).Send(Request("GET", "/sluice/v1/members", kClose)).ReadAll();
  } while (answer.starts_with("HTTP/1.1 503 ") || answer.empty());
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 "));
  // For each that is answered its connection and its file.
  EXPECT_LE(OpenDescriptors(), descriptors + kClients + 2 * kConnectionsMax);
  EXPECT_LE(ResidentMemory(), memory + kMemoryMore * (128 << 10));
  EXPECT_THAT(clients[0]->ReadThrough("\r\n\r\n"), StartsWith("HTTP/1.1 206 "));
  const std::string bytes = clients[0]->ReadBytes(1000);
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), sample.bytes.begin() + 5,
                         [](char a, std::byte b) { return static_cast<std::byte>(a) == b; }));
}

TEST_F(PeerRoutesTest, ConnectionsAreBounded) {
  Have(sample_, OriginAccess::kPublic);
  Serve({.connections_max = 2});
  RawClient first(server_->port()), second(server_->port());
  first.Send(Request("GET", "/v2/")).ReadThrough("{}\n");
  second.Send(Request("GET", "/v2/")).ReadThrough("{}\n");
  EXPECT_THAT(RawClient(server_->port()).ReadAll(), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(first.Send(Request("GET", Path(), kClose)).ReadAll(), StartsWith("HTTP/1.1 200 "));
}

}  // namespace
}  // namespace sluice::api
