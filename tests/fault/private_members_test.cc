// What a node shows of its own right to homes that fetch for it, and what it believes of those that give it
// what is not public.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/registry_documents.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/download_budget.h"
#include "p2p/cluster/home_documents.h"
#include "p2p/cluster/member_source.h"
#include "p2p/cluster/ranks.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/pull_grant.h"
#include "tests/fault/token_origin.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kChunk = kChunkSizeMin;
constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";
const BlobOrigin kPlace{"registry.example:5000", "team/app"};

class Ledger final : public AccessLedger {
 public:
  void NoteAccess(const BlobKey&, const BlobOrigin& origin, OriginAccess access) override {
    const std::lock_guard lock(mutex_);
    notes_[origin] = Stronger(notes_[origin], access);
  }
  void NoteHearsay(const BlobKey& blob, const BlobOrigin& origin, Duration age) override {
    NoteAccess(blob, origin, OriginAccess::kHearsay);
    const std::lock_guard lock(mutex_);
    heard_age_ = age;
  }
  // That was told last.
  Duration heard_age() const {
    const std::lock_guard lock(mutex_);
    return heard_age_;
  }
  OriginAccess AccessOf(const BlobKey&, const BlobOrigin& origin) const override {
    const std::lock_guard lock(mutex_);
    const auto found = notes_.find(origin);
    return found == notes_.end() ? OriginAccess::kUnknown : found->second;
  }
  void Forget() {
    const std::lock_guard lock(mutex_);
    notes_.clear();
  }

 private:
  mutable std::mutex mutex_;
  std::map<BlobOrigin, OriginAccess> notes_;
  Duration heard_age_{};
};

class Tokens final : public PullTokens {
 public:
  std::string Kept(const BlobOrigin&) override {
    const std::lock_guard lock(mutex);
    return kept;
  }
  void Renew(const BlobOrigin&, const std::string& refused, Done done) override {
    std::string token;
    {
      const std::lock_guard lock(mutex);
      asked.push_back(refused);
      if (!fresh.empty()) token = kept = fresh;
    }
    if (token.empty()) return std::move(done)(absl::UnauthenticatedError("no credentials"));
    std::move(done)(std::move(token));
  }

  std::mutex mutex;
  std::string kept, fresh;
  std::vector<std::string> asked;  // what was refused
};

// One other member, which answers as told.
class PrivateMembersTest : public ::testing::Test {
 protected:
  ~PrivateMembersTest() override {
    handles_.clear();
    if (client_) client_->Stop();
    io_.Stop();
    if (members_) members_->Stop();
  }

  void Use(PeerTrust trust) {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = {"self", {{"127.0.0.1", 1}}, "", kProtocolMajor, 5};
    members_ = std::make_unique<Members>(std::move(options));
    members_->Start();
    const HostPort at{"127.0.0.1", member_.port()};
    members_->Change([&](MemberTable& table, Instant now) {
      table.HeardFrom({"a", {at}, "", kProtocolMajor, 5}, at, now);
    });
    PeerClientOptions client;
    client.node_id = "this";
    client.trust = trust;
    client_ = std::make_unique<PeerClient>(telemetry_, client);
    PullTokens* const tokens = trust == PeerTrust::kProven ? &tokens_ : nullptr;
    blame_ = std::make_unique<ChunkBlame>(ChunkBlame::Parts{
        clock_, members_.get(), health_, telemetry_, [](const std::string&) {}, [](const std::string&) {}});
    access_ = std::make_unique<MemberAccess>(MemberAccess{
        clock_, io_, *members_, health_, *client_, ledger_,
        [](const std::shared_ptr<Blob>&, const std::string&, auto then) { std::move(then)(true); },
        [this](const Blob&, Asker, const std::string&, Duration) { ++not_carried_; },
        [](const Blob&, const std::string&) {}, [] { return 0.5; }, [](const std::string&) {}, download_,
        *blame_, Unsealed::kFromRegistry, tokens, [this](const BlobOrigin&) { return said_public_.load(); }});
    homes_ = std::make_unique<HomeDocuments>(
        DocumentAsking::Parts{clock_, io_, *members_, health_, *client_, [](const std::string&) {}, tokens},
        telemetry_);
  }
  Member TheOther() {
    for (const Member& member : members_->view()->members) {
      if (!member.is_self) return member;
    }
    ADD_FAILURE() << "nobody else is there";
    return {};
  }

  BlobSpec Spec() const {
    return {.digest = digest_, .size = kChunk, .chunk_size = kChunk, .root = digest_, .origins = {kPlace}};
  }
  absl::Status Fetch(PeerRole role = PeerRole::kHome) {
    MemberSource source(*access_, TheOther(), role);
    auto blob = std::make_shared<Blob>(Spec());
    auto done = std::make_shared<std::promise<absl::Status>>();
    auto sender = std::make_shared<std::optional<SenderId>>();
    FetchRequest request{.blob = blob,
                         .chunks = {ChunkIndex(0), 1},
                         .deadline = clock_.Now() + 30s,
                         .progress = std::make_shared<FetchProgress>(clock_)};
    handles_.push_back(source.Fetch(
        std::move(request), [sender](ChunkIndex, Buffer, SenderId from) { *sender = from; },
        [done](absl::Status status) { done->set_value(std::move(status)); }));
    absl::Status status = done->get_future().get();
    if (*sender) source.Judge(**sender, *blob, ChunkIndex(0), ChunkSource::Verdict::kRight);
    return status;
  }
  FaultBehaviour Gives(const std::string& is_public, const std::string& age = "0") const {
    FaultConnection::Headers headers = {{"Sluice-Node", "other"},
                                        {"Content-Range", absl::StrCat("bytes 0-", kChunk - 1, "/", kChunk)}};
    if (!is_public.empty()) headers.emplace_back("Sluice-Public", is_public);
    if (!age.empty()) headers.emplace_back("Sluice-Public-Age", age);
    return fault::Status(206, headers, bytes_);
  }
  static FaultBehaviour AsksForATokenOfItsOwn() {
    return fault::Status(403, {{"Sluice-Node", "other"}, {"Sluice-Public", "0"}}, "{}");
  }
  std::vector<std::string> TokensShown(const std::string& path) const {
    std::vector<std::string> shown;
    for (const FaultRequest& request : member_.requests(path))
      shown.push_back(request.Header("sluice-token"));
    return shown;
  }
  std::string Path() const { return FaultOrigin::BlobPath("team/app", digest_); }

  const std::string bytes_ = std::string(kChunk, 'p');
  const Digest digest_ = Sha256::Of(bytes_);
  SteadyClock clock_;
  AsioExecutor io_{"io", 2};
  Telemetry telemetry_;
  MemberHealth health_;
  DownloadBudget download_{clock_, 0};
  Ledger ledger_;
  Tokens tokens_;
  std::atomic<int> not_carried_{0};
  std::atomic<bool> said_public_{false};
  FaultOrigin member_;
  std::unique_ptr<Members> members_;
  std::unique_ptr<PeerClient> client_;
  std::unique_ptr<ChunkBlame> blame_;
  std::unique_ptr<MemberAccess> access_;
  std::unique_ptr<HomeDocuments> homes_;
  std::vector<FetchHandle> handles_;
};

// --------------------------------------------------------------------------------------------------- chunks

TEST_F(PrivateMembersTest, AProvenHomeIsShownTheTokenThatIsAtHand) {
  Use(PeerTrust::kProven);
  tokens_.kept = "t1";
  member_.Always(Path(), Gives("0"));
  EXPECT_TRUE(Fetch().ok());
  EXPECT_THAT(TokensShown(Path()), ElementsAre("t1"));
  EXPECT_THAT(tokens_.asked, IsEmpty());
}

TEST_F(PrivateMembersTest, WhoIsNotProvenIsShownNothing) {
  Use(PeerTrust::kUnproven);
  tokens_.kept = "t1";
  member_.Always(Path(), Gives(""));
  EXPECT_TRUE(Fetch().ok());
  // Not even what a question has.
  const BlobSpec spec = Spec();
  std::promise<void> done;
  client_->ReadChunk(
      TheOther(),
      {.origin = &kPlace,
       .blob = &spec,
       .range = {0, kChunk},
       .deadline = clock_.Now() + 30s,
       .tried = "",
       .token = "t1"},
      [](std::span<const std::byte>) {}, [](bool) {}, [&](PeerClient::ChunkOutcome) { done.set_value(); });
  done.get_future().wait();
  EXPECT_THAT(TokensShown(Path()), ElementsAre("", ""));
}

TEST_F(PrivateMembersTest, WhoGivesOnlyWhatIsThereIsShownNothing) {
  Use(PeerTrust::kProven);
  tokens_.kept = "t1";
  member_.Always(Path(), Gives("0"));
  EXPECT_TRUE(Fetch(PeerRole::kPresentOnly).ok());
  EXPECT_THAT(TokensShown(Path()), ElementsAre(""));
}

TEST_F(PrivateMembersTest, OfWhatIsPublicNoTokenIsShown) {
  Use(PeerTrust::kProven);
  tokens_.kept = "t1";
  said_public_ = true;
  member_.Always(Path(), Gives("1"));
  EXPECT_TRUE(Fetch().ok());
  EXPECT_THAT(TokensShown(Path()), ElementsAre(""));
  EXPECT_THAT(member_.requests(Path())[0].Header("sluice-blob"), ::testing::HasSubstr("public=1"));
  EXPECT_EQ(ledger_.AccessOf(digest_, kPlace), OriginAccess::kHearsay);
}

// Else what was once public would go from member to member for ever as news.
TEST_F(PrivateMembersTest, WhatIsPublicIsAsOldAsTheMemberSays) {
  Use(PeerTrust::kProven);
  const std::pair<std::string, Duration> said[] = {{"7200", 2h},
                                                   {"60", 1min},
                                                   // News at one time is not forgotten for what is older.
                                                   {"90000", 1min},
                                                   {"", 1min},
                                                   {"0", 0s}};
  for (const auto& [age, heard] : said) {
    handles_.clear();
    member_.Always(Path(), Gives("1", age));
    ASSERT_TRUE(Fetch(PeerRole::kPresentOnly).ok()) << age;
    EXPECT_GE(ledger_.heard_age(), heard) << age;
    EXPECT_LT(ledger_.heard_age(), heard + 50s) << age;
  }
}

TEST_F(PrivateMembersTest, WhatDoesNotSaySinceWhenItIsPublicIsNoNews) {
  for (const std::string age : {"", "soon", "-1", "99999999999999999999999"}) {
    handles_.clear();
    Use(PeerTrust::kProven);
    member_.Always(Path(), Gives("1", age));
    ASSERT_TRUE(Fetch(PeerRole::kPresentOnly).ok()) << age;
    EXPECT_EQ(ledger_.AccessOf(digest_, kPlace), OriginAccess::kHearsay);
    EXPECT_GE(ledger_.heard_age(), AccessLedger::kLongAgo) << age;
  }
}

TEST_F(PrivateMembersTest, AHomeThatWantsATokenGetsOneAndAnExpiredOneIsRenewed) {
  for (const std::string kept : {"", "expired"}) {
    handles_.clear();
    Use(PeerTrust::kProven);
    tokens_.kept = kept;
    tokens_.fresh = "fresh";
    tokens_.asked.clear();
    const size_t before = TokensShown(Path()).size();
    member_.Script(Path(), {AsksForATokenOfItsOwn(), Gives("0")});
    EXPECT_TRUE(Fetch().ok());
    EXPECT_THAT(tokens_.asked, ElementsAre(kept));
    std::vector<std::string> shown = TokensShown(Path());
    shown.erase(shown.begin(), shown.begin() + static_cast<std::ptrdiff_t>(before));
    EXPECT_THAT(shown, ElementsAre(kept, "fresh"));
    EXPECT_EQ(not_carried_, 0);
  }
}

TEST_F(PrivateMembersTest, AHomeThatRefusesTheSecondTooSendsTheNodeToTheOrigin) {
  Use(PeerTrust::kProven);
  tokens_.fresh = "fresh";
  member_.Always(Path(), AsksForATokenOfItsOwn());
  EXPECT_TRUE(absl::IsUnauthenticated(Fetch()));
  EXPECT_THAT(TokensShown(Path()), ElementsAre("", "fresh"));
  EXPECT_EQ(not_carried_, 1);
}

TEST_F(PrivateMembersTest, WithoutATokenTheNodeAsksTheOriginItself) {
  Use(PeerTrust::kProven);
  member_.Always(Path(), AsksForATokenOfItsOwn());
  EXPECT_TRUE(absl::IsUnauthenticated(Fetch()));
  EXPECT_THAT(TokensShown(Path()), SizeIs(1));
  EXPECT_EQ(not_carried_, 1);
}

TEST_F(PrivateMembersTest, AHomeThatMayNotAskIsShownNoToken) {
  Use(PeerTrust::kProven);
  tokens_.fresh = "fresh";
  member_.Always(Path(), fault::Status(403, {{"Sluice-Node", "other"}}, "{}"));
  EXPECT_TRUE(absl::IsUnauthenticated(Fetch()));
  EXPECT_THAT(tokens_.asked, IsEmpty()) << "it did not say that it takes credentials";
  EXPECT_EQ(not_carried_, 1);
}

TEST_F(PrivateMembersTest, WhatAProvenMemberGivesIsPublicOnlyIfItSaysSo) {
  const std::pair<std::string, OriginAccess> kCases[] = {{"1", OriginAccess::kHearsay},
                                                         {"0", OriginAccess::kCredentials},
                                                         {"", OriginAccess::kCredentials},
                                                         {"yes", OriginAccess::kCredentials}};
  for (const auto& [said, known] : kCases) {
    for (const PeerRole role : {PeerRole::kHome, PeerRole::kPresentOnly}) {
      handles_.clear();
      Use(PeerTrust::kProven);
      ledger_.Forget();
      member_.Script(Path(), {Gives(said)});
      EXPECT_TRUE(Fetch(role).ok());
      EXPECT_EQ(ledger_.AccessOf(digest_, kPlace), known) << said;
    }
  }
}

// ------------------------------------------------------------------------------------------------- documents

class GivenDocumentsTest : public PrivateMembersTest {
 protected:
  GivenDocumentsTest() {
    std::string directory = (std::filesystem::temp_directory_path() / "sluice-private-XXXXXX").string();
    directory_ = ::mkdtemp(directory.data());
    Use(PeerTrust::kProven);
    // Of a document whose home is the other member.
    for (int i = 0; body_.empty() || Ranks(Sha256::Of(body_)).empty(); ++i)
      body_ = absl::StrCat(R"({"schemaVersion":2,"n":)", i, "}");
    digest_ = Sha256::Of(body_);
    registry_.AddManifest("v1", kManifestType, body_);
    path_ = FaultOrigin::ManifestPath("team/app", digest_.ToString());
  }
  ~GivenDocumentsTest() override {
    client_->Stop();
    if (registry_client_) registry_client_->Stop();
    io_.Stop();
    documents_.reset();
    registry_documents_.reset();
    registry_client_.reset();
    std::filesystem::remove_all(directory_);
  }
  std::vector<Member> Ranks(const Digest& digest) {
    return RanksBeforeSelf(*members_->view(), digest, MemberHealth(), 2, clock_.Now());
  }

  // As a node that is logged in with that password, or not at all.
  void LogIn(const std::string& password) {
    RegistryOptions options;
    options.retries_max = 0;
    if (!password.empty()) {
      options.docker_config_path = directory_ / "config.json";
      registry_.WriteDockerConfig(options.docker_config_path, password);
    }
    registry_client_ =
        std::make_unique<RegistryClient>(RegistryClient::Parts{clock_, io_, telemetry_}, options);
    homes_ = std::make_unique<HomeDocuments>(
        DocumentAsking::Parts{clock_, io_, *members_, health_, *client_, [](const std::string&) {},
                              &registry_client_->rights()},
        telemetry_);
    registry_documents_ =
        std::make_unique<RegistryDocuments>(clock_, io_, *registry_client_, RegistryDocuments::kKeep);
    documents_ = std::make_unique<ImageDocuments>(
        *registry_documents_, homes_.get(), ImageDocuments::Tags::kFromHome, &registry_client_->rights());
  }
  absl::StatusOr<FetchedManifest> Manifest() {
    return documents_->Manifest(registry_.place(), digest_.ToString());
  }
  FaultBehaviour GivesDocument(const std::string& is_public) const {
    return fault::Status(200,
                         {{"Sluice-Node", "other"},
                          {"Content-Type", kManifestType},
                          {"Sluice-Public", is_public},
                          {"Sluice-Public-Age", "7200"}},
                         body_);
  }
  size_t AskedOfRegistry() const {
    return registry_.origin.request_count(
        FaultOrigin::ManifestPath(TokenOrigin::kRepository, digest_.ToString()));
  }

  TokenOrigin registry_;
  std::string body_;
  Digest digest_;
  std::string path_;
  std::filesystem::path directory_;
  std::unique_ptr<RegistryClient> registry_client_;
  std::unique_ptr<RegistryDocuments> registry_documents_;
  std::unique_ptr<ImageDocuments> documents_;
};

TEST_F(GivenDocumentsTest, WhatAHomeGivesThisNodeMustMayHaveItself) {
  registry_.Make(TokenOrigin::Tokens::kSpeaking);
  member_.Always(path_, GivesDocument("0"));
  LogIn(TokenOrigin::kPassword);
  const absl::StatusOr<FetchedManifest> got = Manifest();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->body, body_);
  EXPECT_EQ(got->access, OriginAccess::kCredentials);
  EXPECT_TRUE(got->from_member);
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
  EXPECT_EQ(registry_.TokensAsked(false), 0u);
  EXPECT_EQ(AskedOfRegistry(), 0u) << "its token is the proof";
  EXPECT_TRUE(Manifest().ok());
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
}

// FAULTS.md 58.
TEST_F(GivenDocumentsTest, WhoHasNoRightGetsNothingThoughAHomeGivesIt) {
  for (const auto strangers : {TokenOrigin::Strangers::kRefused, TokenOrigin::Strangers::kEmptyToken}) {
    for (const auto tokens : {TokenOrigin::Tokens::kOpaque, TokenOrigin::Tokens::kSpeaking}) {
      for (const std::string password : {"", "wrong"}) {
        registry_.Treat(strangers);
        registry_.Make(tokens);
        member_.Always(path_, GivesDocument("0"));
        LogIn(password);
        const absl::StatusOr<FetchedManifest> got = Manifest();
        EXPECT_TRUE(absl::IsUnauthenticated(got.status())) << got.status();
      }
    }
  }
}

TEST_F(GivenDocumentsTest, WhatIsPublicNeedsNoRight) {
  member_.Always(path_, GivesDocument("1"));
  LogIn("");
  const absl::StatusOr<FetchedManifest> got = Manifest();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->access, OriginAccess::kHearsay);
  EXPECT_EQ(got->public_age, 2h);
  EXPECT_EQ(registry_.origin.connection_count(), 0u);
  EXPECT_TRUE(registry_client_->rights().IsPublic(registry_.place())) << "it is said on with chunks";
}

TEST_F(GivenDocumentsTest, AHomeThatHasItNotIsShownThisNodesToken) {
  registry_.Make(TokenOrigin::Tokens::kSpeaking);
  member_.Script(path_, {AsksForATokenOfItsOwn(), GivesDocument("0")});
  LogIn(TokenOrigin::kPassword);
  const absl::StatusOr<FetchedManifest> got = Manifest();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_TRUE(got->from_member);
  const std::vector<std::string> shown = TokensShown(path_);
  ASSERT_THAT(shown, SizeIs(2));
  EXPECT_EQ(shown[0], "");
  EXPECT_EQ(shown[1], registry_client_->rights().Kept(registry_.place()));
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
  EXPECT_EQ(registry_.TokensAsked(false), 0u) << "the home has found that out";
  EXPECT_EQ(AskedOfRegistry(), 0u);
}

TEST_F(GivenDocumentsTest, AHomeThatRefusesSendsThisNodeToTheRegistry) {
  registry_.Make(TokenOrigin::Tokens::kSpeaking);
  member_.Always(path_, AsksForATokenOfItsOwn());
  LogIn(TokenOrigin::kPassword);
  const absl::StatusOr<FetchedManifest> got = Manifest();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_FALSE(got->from_member);
  EXPECT_THAT(TokensShown(path_), SizeIs(2));
}

// What this node keeps as somebody's home came by that one's token.
TEST_F(GivenDocumentsTest, WhatThisNodeGotForAnotherIsNotItsOwn) {
  member_.Always(path_, fault::Status(404, {{"Sluice-Node", "other"}}, "{}"));
  LogIn("wrong");
  std::promise<absl::Status> promise;
  registry_documents_->Manifest(
      registry_.place(), digest_.ToString(),
      RegistryDocuments::Ask(RegistryDocuments::Freshness::kLately, PullGrant::OfToken(registry_.Issue())),
      [&](auto got) { promise.set_value(got.status()); });
  ASSERT_TRUE(promise.get_future().get().ok());
  EXPECT_TRUE(absl::IsUnauthenticated(Manifest().status()));
}

}  // namespace
}  // namespace sluice::p2p
