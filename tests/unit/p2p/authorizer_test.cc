#include "p2p/registry/authorizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "tests/unit/node/fakes.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using fakes::FakeClock;
using fakes::ManualExecutor;
using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::Not;

using Level = AccessGrant::Level;

// A token server of which the test says when and what it answers. Nothing here has a thread.
class FakeTransport final : public TokenTransport {
 public:
  explicit FakeTransport(FakeClock& clock) : clock_(clock) {}

  void Ask(HttpRequest request, std::unique_ptr<HttpSink> sink) override {
    requests.push_back(std::move(request));
    sinks_.push_back(std::move(sink));
  }
  void After(Duration delay, Task task) override { alarms_.emplace(clock_.now + delay, std::move(task)); }

  // Answers the oldest request that has none.
  void Reply(int status, const std::string& body, HttpHeaders headers = {}) {
    const std::unique_ptr<HttpSink> sink = Next();
    sink->OnHead({status, std::move(headers)}).IgnoreError();
    sink->OnBody(std::as_bytes(std::span(body))).IgnoreError();
    sink->OnDone(absl::OkStatus());
  }
  void Break(const absl::Status& status) { Next()->OnDone(status); }
  void RunAlarms() {
    while (!alarms_.empty() && alarms_.begin()->first <= clock_.now) {
      Task task = std::move(alarms_.begin()->second);
      alarms_.erase(alarms_.begin());
      std::move(task)();
    }
  }
  size_t unanswered() const { return sinks_.size(); }
  size_t alarms() const { return alarms_.size(); }

  std::vector<HttpRequest> requests;

 private:
  std::unique_ptr<HttpSink> Next() {
    std::unique_ptr<HttpSink> sink = std::move(sinks_.at(0));
    sinks_.pop_front();
    return sink;
  }

  FakeClock& clock_;
  std::deque<std::unique_ptr<HttpSink>> sinks_;
  std::multimap<Instant, Task> alarms_;
};

std::string Token(const std::string& value, const std::string& more = R"(,"expires_in":1000)") {
  return "{\"token\":\"" + value + "\"" + more + "}";
}

AuthChallenge Bearer(std::string scope = {}, std::string realm = "https://auth.r.example/token") {
  return {AuthScheme::kBearer, std::move(realm), "service", std::move(scope)};
}
AuthChallenge Basic() {
  return {AuthScheme::kBasic, "realm", "", ""};
}

struct Answered {
  std::optional<absl::StatusOr<AccessGrant>> result;
  const AccessGrant& grant() const { return result->value(); }
  absl::StatusCode code() const { return result->status().code(); }
  std::string message() const { return std::string(result->status().message()); }
};

class AuthorizerTest : public ::testing::Test {
 protected:
  AuthorizerTest() {
    std::string directory = (std::filesystem::temp_directory_path() / "sluice-authorizer-XXXXXX").string();
    directory_ = ::mkdtemp(directory.data());
    credentials_.emplace(directory_ / "config.json");
  }
  ~AuthorizerTest() override { std::filesystem::remove_all(directory_); }

  Authorizer& authorizer() {
    if (!authorizer_) {
      authorizer_ =
          Authorizer::Create({clock_, executor_, transport_, *credentials_, breaker_, backoff_}, options_);
    }
    return *authorizer_;
  }
  void LogIn(const std::string& password = "hidden", const std::string& registry = "r.example") {
    // Another inode each time: the file is seen to be another within one tick of the file system's clock too.
    std::ofstream(directory_ / "new")
        << R"({"auths":{")" << registry << R"(":{"username":"user","password":")" << password << "\"}}}";
    std::filesystem::rename(directory_ / "new", directory_ / "config.json");
  }
  void LogOut() { std::filesystem::remove(directory_ / "config.json"); }

  static AccessNeed Need(const std::string& repository = "a", const std::string& actions = "pull") {
    return {.registry = "r.example",
            .url = *Url::Parse("https://r.example/v2/" + repository),
            .repository = repository,
            .scopes = ScopeSet::Repository(repository, actions)};
  }
  static AccessNeed ManifestNeed() {
    AccessNeed need = Need();
    need.probe = AccessNeed::Probe::kMay;
    return need;
  }
  std::shared_ptr<Answered> Ask(const AccessNeed& need, const AccessGrant& shown = {},
                                const AuthChallenge& challenge = Bearer(), Duration patience = 60s) {
    auto answered = std::make_shared<Answered>();
    authorizer().Answer(need, shown, challenge, clock_.now + patience, answered,
                        [answered](absl::StatusOr<AccessGrant> grant) {
                          EXPECT_FALSE(answered->result.has_value()) << "answered twice";
                          answered->result = std::move(grant);
                        });
    return answered;
  }
  // A token that the registry took.
  AccessGrant Obtain(const AccessNeed& need, const std::string& answer) {
    const auto asked = Ask(need);
    transport_.Reply(200, answer);
    authorizer().Accepted(need, asked->grant(), Authorizer::Outcome::kServed);
    return asked->grant();
  }
  static std::string AuthorizationOf(const HttpRequest& request) {
    return std::string(request.headers.Get("Authorization").value_or(""));
  }

  FakeClock clock_;
  ManualExecutor executor_{clock_};
  FakeTransport transport_{clock_};
  CircuitBreaker breaker_{100, 2s, clock_};
  Backoff backoff_{100ms, 5s, 1};
  std::filesystem::path directory_;
  std::optional<DockerCredentials> credentials_;
  AuthorizerOptions options_;
  std::shared_ptr<Authorizer> authorizer_;
};

TEST_F(AuthorizerTest, OfWhatNothingIsKnownNothingIsShown) {
  LogIn();
  const AccessGrant shown = authorizer().Show(Need());
  EXPECT_EQ(shown.level, Level::kNone);
  EXPECT_EQ(shown.header, "");
  EXPECT_EQ(shown.access, OriginAccess::kPublic);
}

TEST_F(AuthorizerTest, WhoWaitsForTheSameTokenWaitsForOneRequest) {
  std::vector<std::shared_ptr<Answered>> all;
  for (int i = 0; i < 64; ++i) all.push_back(Ask(Need()));
  ASSERT_EQ(transport_.requests.size(), 1u);
  transport_.Reply(200, Token("t"));
  for (const auto& one : all) EXPECT_EQ(one->grant().header, "Bearer t");
  EXPECT_EQ(Ask(Need())->grant().header, "Bearer t") << "came late, with a challenge of before";
  EXPECT_EQ(transport_.requests.size(), 1u);
}

TEST_F(AuthorizerTest, OtherRepositoriesRealmsAndServicesAreOtherRequests) {
  Ask(Need("a"));
  Ask(Need("b"));
  Ask(Need("a", "pull,push"));
  Ask(Need("a"), {}, Bearer("", "https://r.example/other"));
  AuthChallenge other = Bearer();
  other.service = "other";
  Ask(Need("a"), {}, other);
  EXPECT_EQ(transport_.requests.size(), 5u);
}

TEST_F(AuthorizerTest, EachWaitsToItsOwnDeadline) {
  const auto hasty = Ask(Need(), {}, Bearer(), 1s);
  const auto patient = Ask(Need(), {}, Bearer(), 10s);
  clock_.now += 1s;
  transport_.RunAlarms();
  EXPECT_EQ(hasty->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(patient->result.has_value());
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(patient->grant().header, "Bearer t");
  EXPECT_EQ(transport_.requests.size(), 1u);
}

TEST_F(AuthorizerTest, AnEarlierDeadlineThatComesLaterIsKept) {
  const auto patient = Ask(Need(), {}, Bearer(), 10s);
  const auto hasty = Ask(Need(), {}, Bearer(), 1s);
  clock_.now += 1s;
  transport_.RunAlarms();
  EXPECT_EQ(hasty->code(), absl::StatusCode::kDeadlineExceeded);
  clock_.now += 9s;
  transport_.RunAlarms();
  EXPECT_EQ(patient->code(), absl::StatusCode::kDeadlineExceeded);
  // The token that came too late for them serves the next.
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer t");
}

TEST_F(AuthorizerTest, WhoNoLongerWaitsIsToldAndTheOthersWaitOn) {
  const auto gone = Ask(Need());
  const auto other = Ask(Need());
  authorizer().Abandon(gone.get());
  executor_.Run();
  EXPECT_EQ(gone->code(), absl::StatusCode::kCancelled);
  transport_.Reply(200, Token("t"));
  EXPECT_TRUE(other->result->ok());
}

TEST_F(AuthorizerTest, ATokenAgesFromItsReceiptWhateverItsAnswerSays) {
  Obtain(Need(), Token("t", R"(,"expires_in":1000,"issued_at":"1999-01-01T00:00:00Z")"));
  clock_.now += 749s;
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer t");
  EXPECT_EQ(transport_.requests.size(), 1u);
  clock_.now += 152s;
  EXPECT_EQ(authorizer().Show(Need()).header, "") << "a tenth is kept back";
}

TEST_F(AuthorizerTest, ATokenInUseIsRenewedInTheBackgroundOnce) {
  Obtain(Need(), Token("old"));
  clock_.now += 751s;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(authorizer().Show(Need()).header, "Bearer old");
  ASSERT_EQ(transport_.requests.size(), 2u);
  const auto joined = Ask(Need(), authorizer().Show(Need()));
  EXPECT_EQ(transport_.requests.size(), 2u) << "who needs it meanwhile asks by itself";
  transport_.Reply(200, Token("new"));
  EXPECT_EQ(joined->grant().header, "Bearer new");
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer new");
  clock_.now += 200s;
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer new");
  EXPECT_EQ(transport_.requests.size(), 2u);
}

TEST_F(AuthorizerTest, ARenewalThatFailsLeavesTheTokenAndIsTriedAgainLater) {
  Obtain(Need(), Token("old"));
  clock_.now += 751s;
  authorizer().Show(Need());
  transport_.Reply(503, "");
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer old");
  EXPECT_EQ(transport_.requests.size(), 2u);
  clock_.now += 11s;
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer old");
  EXPECT_EQ(transport_.requests.size(), 3u);
}

TEST_F(AuthorizerTest, ARefusedTokenIsDroppedForAllAndOneIsAskedFor) {
  const AccessGrant old = Obtain(Need(), Token("old"));
  std::vector<std::shared_ptr<Answered>> all;
  for (int i = 0; i < 64; ++i) all.push_back(Ask(Need(), old));
  EXPECT_EQ(transport_.requests.size(), 2u);
  transport_.Reply(200, Token("new"));
  for (const auto& one : all) EXPECT_EQ(one->grant().header, "Bearer new");
  EXPECT_EQ(Ask(Need(), old)->grant().header, "Bearer new");
  EXPECT_EQ(transport_.requests.size(), 2u);
}

TEST_F(AuthorizerTest, ATokenForTwoRepositoriesThatOneRefusesIsDroppedForBoth) {
  AccessNeed need = Need("target", "pull,push");
  need.scopes.Merge(ScopeSet::Repository("source", "pull"));
  const AccessGrant old = Obtain(need, Token("old"));
  ASSERT_EQ(authorizer().Show(Need("source")).header, "Bearer old");
  Ask(need, old);
  EXPECT_EQ(authorizer().Show(Need("source")).header, "");
}

TEST_F(AuthorizerTest, WhatIsRefusedAtOnceIsNotAskedForAgainForAMoment) {
  const auto first = Ask(Need());
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(Ask(Need(), first->grant())->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(Ask(Need(), first->grant())->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(Ask(Need())->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(transport_.requests.size(), 1u);
  clock_.now += options_.refusal_ttl;
  Ask(Need());
  EXPECT_EQ(transport_.requests.size(), 2u) << "a flag for ever";
}

TEST_F(AuthorizerTest, ATokenServerThatGivesTheRefusedTokenOnceMoreIsNotBelieved) {
  const AccessGrant old = Obtain(Need(), Token("same"));
  const auto again = Ask(Need(), old);
  transport_.Reply(200, Token("same"));
  EXPECT_EQ(again->grant().header, "Bearer same") << "it was good once; it may be again";
  EXPECT_EQ(Ask(Need(), again->grant())->code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(AuthorizerTest, ARefusedTokenThatComesForAnotherQuestionIsNotShownAgain) {
  const auto first = Ask(Need());
  transport_.Reply(200, Token("t"));
  Ask(Need(), first->grant());
  const auto other = Ask(Need("a", "pull,push"));
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(other->code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(AuthorizerTest, CredentialsFollowOnlyWhenATokenServerRefusesStrangers) {
  LogIn();
  const auto asked = Ask(Need());
  EXPECT_EQ(AuthorizationOf(transport_.requests[0]), "");
  transport_.Reply(401, "");
  ASSERT_EQ(transport_.requests.size(), 2u);
  EXPECT_THAT(AuthorizationOf(transport_.requests[1]), HasSubstr("Basic "));
  transport_.Reply(200, Token("mine"));
  EXPECT_EQ(asked->grant().level, Level::kCredentials);
  EXPECT_EQ(asked->grant().access, OriginAccess::kCredentials);
  // Later ones know.
  authorizer().Accepted(Need(), asked->grant(), Authorizer::Outcome::kServed);
  Ask(Need(), asked->grant());
  EXPECT_THAT(AuthorizationOf(transport_.requests[2]), HasSubstr("Basic "));
}

TEST_F(AuthorizerTest, CredentialsFollowWhenTheRegistryRefusesAStrangersToken) {
  LogIn();
  std::vector<std::shared_ptr<Answered>> all;
  for (int i = 0; i < 8; ++i) all.push_back(Ask(Need()));
  transport_.Reply(200, Token("strangers"));
  const AccessGrant stranger = all[0]->grant();
  for (auto& one : all) one = Ask(Need(), stranger);
  ASSERT_EQ(transport_.requests.size(), 2u);
  transport_.Reply(200, Token("mine"));
  for (const auto& one : all) EXPECT_EQ(one->grant().header, "Bearer mine");
  const auto refused = Ask(Need(), all[0]->grant());
  EXPECT_EQ(refused->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(transport_.requests.size(), 2u);
}

TEST_F(AuthorizerTest, WhatIsPushedTakesCredentialsAtOnce) {
  LogIn();
  Ask(Need("a", "pull,push"));
  EXPECT_NE(AuthorizationOf(transport_.requests[0]), "");
}

TEST_F(AuthorizerTest, OnceAnHourOneRequestFindsOutWhetherItGoesWithout) {
  LogIn();
  auto asked = Ask(Need());
  transport_.Reply(401, "");
  transport_.Reply(200, Token("mine", R"(,"expires_in":86400)"));
  authorizer().Accepted(Need(), asked->grant(), Authorizer::Outcome::kServed);
  EXPECT_EQ(authorizer().Show(ManifestNeed()).header, "Bearer mine");
  clock_.now += 1h;
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer mine") << "a blob's request does not probe";
  const AccessGrant bare = authorizer().Show(ManifestNeed());
  EXPECT_EQ(bare.header, "");
  EXPECT_EQ(authorizer().Show(ManifestNeed()).header, "Bearer mine") << "one is enough";
  // Still private: what is held is shown, and nothing is asked for with credentials.
  asked = Ask(ManifestNeed(), bare);
  EXPECT_EQ(AuthorizationOf(transport_.requests[2]), "");
  transport_.Reply(401, "");
  EXPECT_EQ(asked->grant().header, "Bearer mine");
  EXPECT_EQ(transport_.requests.size(), 3u);
  // An hour later it is public.
  clock_.now += 1h;
  asked = Ask(ManifestNeed(), authorizer().Show(ManifestNeed()));
  transport_.Reply(200, Token("strangers"));
  authorizer().Accepted(ManifestNeed(), asked->grant(), Authorizer::Outcome::kServed);
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer strangers");
  EXPECT_EQ(authorizer().Show(Need()).access, OriginAccess::kPublic);
}

TEST_F(AuthorizerTest, AStrangerWhoIsThrottledShowsCredentialsAndWhatIsPublicStaysSo) {
  LogIn();
  const AccessGrant stranger = Obtain(Need(), Token("strangers"));
  EXPECT_FALSE(authorizer().Escalate(Need(), stranger, 404)) << "of a public repository a 404 is the truth";
  EXPECT_TRUE(authorizer().Escalate(Need(), stranger, 429));
  EXPECT_EQ(authorizer().Show(Need()).header, "");
  const auto asked = Ask(Need());
  transport_.Reply(200, Token("mine"));
  EXPECT_EQ(asked->grant().level, Level::kCredentials);
  EXPECT_EQ(asked->grant().access, OriginAccess::kPublic);
  EXPECT_FALSE(authorizer().Escalate(Need(), asked->grant(), 429));
}

TEST_F(AuthorizerTest, WhatIsNoLongerGivenToStrangersIsNoLongerPublic) {
  LogIn();
  const AccessGrant stranger = Obtain(Need(), Token("strangers"));
  const auto asked = Ask(Need(), stranger);
  transport_.Reply(401, "");
  transport_.Reply(200, Token("mine"));
  EXPECT_EQ(asked->grant().access, OriginAccess::kCredentials);
}

TEST_F(AuthorizerTest, AStrangerWhoIsForbiddenWhatWasPublicShowsCredentials) {
  LogIn();
  const AccessGrant stranger = Obtain(Need(), Token("strangers"));
  EXPECT_TRUE(authorizer().Escalate(Need(), stranger, 403));
  const auto asked = Ask(Need());
  transport_.Reply(200, Token("mine"));
  EXPECT_EQ(asked->grant().access, OriginAccess::kCredentials);
}

TEST_F(AuthorizerTest, WhatIsHiddenFromStrangersIsAskedForWithCredentials) {
  const auto nobody = Ask(Need());
  transport_.Reply(200, Token("strangers"));
  EXPECT_FALSE(authorizer().Escalate(Need(), nobody->grant(), 404)) << "without credentials";
  LogIn();
  for (const int status : {403, 404}) {
    EXPECT_TRUE(authorizer().Escalate(Need(), nobody->grant(), status)) << status;
  }
  EXPECT_FALSE(authorizer().Escalate(Need(), AccessGrant(), 404)) << "nothing asked for more";
}

TEST_F(AuthorizerTest, CredentialsThatChangeTakeAwayWhatTheyGave) {
  LogIn("one");
  const AccessNeed push = Need("a", "pull,push");
  Obtain(push, Token("of-one"));
  EXPECT_EQ(authorizer().Show(push).header, "Bearer of-one");
  LogIn("two");
  EXPECT_EQ(authorizer().Show(push).header, "");
  Obtain(push, Token("of-two"));
  LogOut();
  EXPECT_EQ(authorizer().Show(push).header, "");
}

TEST_F(AuthorizerTest, ACredentialFileThatCanNotBeReadTakesNothingAway) {
  LogIn();
  const AccessNeed push = Need("a", "pull,push");
  Obtain(push, Token("mine"));
  std::ofstream(directory_ / "config.json") << "{half";
  EXPECT_EQ(authorizer().Show(push).header, "Bearer mine");
}

TEST_F(AuthorizerTest, ARefusalOfOldCredentialsIsNoneOfNewOnes) {
  LogIn("wrong");
  const AccessNeed push = Need("a", "pull,push");
  const auto refused = Ask(push);
  transport_.Reply(401, "");
  EXPECT_EQ(refused->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(Ask(push)->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(transport_.requests.size(), 1u);
  LogIn("right");
  Ask(push);
  EXPECT_EQ(transport_.requests.size(), 2u);
}

TEST_F(AuthorizerTest, BasicIsShownUntilItIsRefused) {
  LogIn();
  const auto asked = Ask(Need(), {}, Basic());
  EXPECT_EQ(asked->grant().level, Level::kCredentials);
  EXPECT_EQ(authorizer().Show(Need()).header, asked->grant().header);
  EXPECT_EQ(authorizer().Show(Need("b")).header, "") << "another repository may be public";
  EXPECT_EQ(Ask(Need(), asked->grant(), Basic())->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(authorizer().Show(Need()).header, "");
}

TEST_F(AuthorizerTest, ARegistryMayChangeFromBasicToTokensAndBack) {
  LogIn();
  const auto basic = Ask(Need(), {}, Basic());
  authorizer().Accepted(Need(), basic->grant(), Authorizer::Outcome::kServed);
  const auto bearer = Ask(Need(), basic->grant(), Bearer());
  ASSERT_EQ(transport_.requests.size(), 1u);
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(bearer->grant().header, "Bearer t");
  EXPECT_EQ(authorizer().Show(Need()).header, "Bearer t");
  authorizer().Accepted(Need(), bearer->grant(), Authorizer::Outcome::kServed);
  EXPECT_EQ(Ask(Need(), bearer->grant(), Basic())->grant().header, basic->grant().header);
}

TEST_F(AuthorizerTest, APasswordThatWasWantedOnceIsNoAnswerToWhoWantsAToken) {
  LogIn();
  Ask(Need(), {}, Basic());
  const auto asked = Ask(Need(), {}, Bearer());
  ASSERT_EQ(transport_.requests.size(), 1u);
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(asked->grant().header, "Bearer t");
}

TEST_F(AuthorizerTest, ScopesOfTheChallengeAndOfTheNeedAreOneQuestion) {
  AccessNeed need = Need("target", "pull,push");
  need.scopes.Merge(ScopeSet::Repository("source", "pull"));
  Ask(need, {}, Bearer("repository:target:pull"));
  EXPECT_THAT(transport_.requests[0].url,
              AllOf(HasSubstr("scope=repository%3Asource%3Apull&"),
                    HasSubstr("scope=repository%3Atarget%3Apull%2Cpush"), HasSubstr("service=service")));
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(authorizer().Show(need).header, "Bearer t");
  EXPECT_EQ(authorizer().Show(Need("target")).header, "Bearer t");
  EXPECT_EQ(authorizer().Show(Need("source")).header, "Bearer t");
  EXPECT_EQ(authorizer().Show(Need("source", "pull,push")).header, "");
}

TEST_F(AuthorizerTest, ARegistryThatNamesTheRepositoryOtherwiseIsAskedForWhatItSaid) {
  const auto asked = Ask(Need("a"), {}, Bearer("repository:mirror/a:pull"));
  EXPECT_THAT(transport_.requests[0].url,
              AllOf(HasSubstr("scope=repository%3Amirror%2Fa%3Apull"), Not(HasSubstr("repository%3Aa"))));
  transport_.Reply(200, Token("t"));
  EXPECT_EQ(asked->grant().header, "Bearer t");
  EXPECT_EQ(authorizer().Show(Need("a")).header, "Bearer t") << "not kept for the need that it answered";
}

TEST_F(AuthorizerTest, ATokenIsKeptUnderWhatWasGranted) {
  const AccessNeed push = Need("a", "pull,push");
  const auto asked = Ask(push);
  transport_.Reply(200, Token("less", R"(,"expires_in":1000,"scope":"repository:a:pull")"));
  EXPECT_EQ(asked->grant().header, "Bearer less") << "the registry decides";
  EXPECT_EQ(authorizer().Show(Need("a")).header, "Bearer less");
  EXPECT_EQ(authorizer().Show(push).header, "Bearer less") << "the same question has the same answer";
  AccessNeed both = push;
  both.scopes.Merge(ScopeSet::Repository("b", "pull"));
  EXPECT_EQ(authorizer().Show(both).header, "");
  EXPECT_EQ(authorizer().Show(Need("a", "push")).header, "") << "kept under what was asked";
}

TEST_F(AuthorizerTest, MoreThanWasAskedForIsNotBelieved) {
  Obtain(Need("a"), Token("t", R"(,"scope":"repository:a:* repository:b:pull")"));
  EXPECT_EQ(authorizer().Show(Need("a")).header, "Bearer t");
  EXPECT_EQ(authorizer().Show(Need("b")).header, "");
  EXPECT_EQ(authorizer().Show(Need("a", "pull,push")).header, "");
}

TEST_F(AuthorizerTest, AThrottlingServerIsLeftAloneAsLongAsItSaysAndOnce) {
  const auto patient = Ask(Need(), {}, Bearer(), 60s);
  const auto hasty = Ask(Need(), {}, Bearer(), 5s);
  HttpHeaders headers;
  headers.Add("Retry-After", "7");
  transport_.Reply(429, "", headers);
  EXPECT_EQ(hasty->code(), absl::StatusCode::kUnavailable) << "waits for what can't come";
  EXPECT_FALSE(patient->result.has_value());
  const auto late = Ask(Need(), {}, Bearer(), 60s);
  clock_.now += 6999ms;
  executor_.Run();
  EXPECT_EQ(transport_.requests.size(), 1u);
  clock_.now += 6s;
  executor_.Run();
  ASSERT_EQ(transport_.requests.size(), 2u);
  transport_.Reply(200, Token("t"));
  EXPECT_TRUE(patient->result->ok());
  EXPECT_TRUE(late->result->ok());
}

TEST_F(AuthorizerTest, AServerInTroubleIsAskedABoundedNumberOfTimes) {
  options_.retries_max = 2;
  const auto asked = Ask(Need(), {}, Bearer(), 1h);
  transport_.Break(absl::UnavailableError("connection refused"));
  for (int i = 0; i < 2; ++i) {
    clock_.now += 6s;
    executor_.Run();
    transport_.Reply(500, "");
  }
  EXPECT_EQ(asked->code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(asked->message(), HasSubstr("gave up after 3 attempts"));
  EXPECT_EQ(transport_.requests.size(), 3u);
  EXPECT_EQ(transport_.unanswered(), 0u);
}

TEST_F(AuthorizerTest, NonsenseIsAnErrorThatShowsNothingOfIt) {
  const auto asked = Ask(Need());
  transport_.Reply(200, "<html>hidden</html>");
  EXPECT_EQ(asked->code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(asked->message(), Not(HasSubstr("hidden")));
}

TEST_F(AuthorizerTest, CredentialsDoNotFollowToAnotherHost) {
  LogIn();
  const auto asked = Ask(Need("a", "pull,push"));
  ASSERT_NE(AuthorizationOf(transport_.requests[0]), "");
  HttpHeaders headers;
  headers.Add("Location", "https://evil.example/token");
  transport_.Reply(307, "", headers);
  EXPECT_EQ(asked->code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(transport_.requests.size(), 1u);
}

TEST_F(AuthorizerTest, RedirectsAreFollowedWithoutCredentialsABoundedNumberOfTimes) {
  const auto asked = Ask(Need());
  HttpHeaders headers;
  headers.Add("Location", "https://other.example/token?scope=x");
  for (uint32_t i = 0; i < Authorizer::kRedirectsMax; ++i) {
    transport_.Reply(302, "", headers);
    EXPECT_EQ(transport_.requests.back().url, "https://other.example:443/token?scope=x");
  }
  transport_.Reply(302, "", headers);
  EXPECT_EQ(asked->code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(transport_.requests.size(), 1 + Authorizer::kRedirectsMax);
}

TEST_F(AuthorizerTest, RealmsAndRedirectsThatMayNotBeAskedAreNot) {
  for (const char* realm : {"http://r.example/token", "https://169.254.169.254/token",
                            "https://127.0.0.1/token", "file:///etc/passwd", "nonsense"}) {
    EXPECT_EQ(Ask(Need(), {}, Bearer("", realm))->code(), absl::StatusCode::kPermissionDenied) << realm;
  }
  EXPECT_EQ(transport_.requests.size(), 0u);
  const auto asked = Ask(Need());
  HttpHeaders headers;
  headers.Add("Location", "https://169.254.169.254/token");
  transport_.Reply(302, "", headers);
  EXPECT_EQ(asked->code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(AuthorizerTest, AForeignRealmNeverGetsCredentials) {
  LogIn();
  const AuthChallenge foreign = Bearer("", "https://evil.example/token");
  const auto asked = Ask(Need("a", "pull,push"), {}, foreign);
  EXPECT_EQ(AuthorizationOf(transport_.requests[0]), "");
  transport_.Reply(401, "");
  EXPECT_EQ(asked->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(asked->message(), HasSubstr("got no credentials"));
  EXPECT_EQ(transport_.requests.size(), 1u);
}

TEST_F(AuthorizerTest, WhatIsKnownIsBounded) {
  Obtain(Need("first"), Token("first"));
  clock_.now += 1s;
  for (size_t i = 0; i < Authorizer::kRepositoriesMax; ++i) Obtain(Need("r" + std::to_string(i)), Token("t"));
  EXPECT_EQ(authorizer().Show(Need("first")).header, "");
  EXPECT_EQ(authorizer().Show(Need("r5")).header, "Bearer t");
}

TEST_F(AuthorizerTest, WhatIsKnownIsBoundedInBytes) {
  options_.header_bytes_max = 100'000;
  for (int i = 0; i < 3; ++i) {
    Obtain(Need("r" + std::to_string(i)), Token(std::string(50'000, 'x')));
    clock_.now += 1s;
  }
  EXPECT_EQ(authorizer().Show(Need("r0")).header, "");
  EXPECT_NE(authorizer().Show(Need("r2")).header, "");
}

TEST_F(AuthorizerTest, RequestsUnderWayAreBounded) {
  for (size_t i = 0; i < Authorizer::kFlightsMax; ++i) Ask(Need("r" + std::to_string(i)));
  EXPECT_EQ(Ask(Need("one-more"))->code(), absl::StatusCode::kResourceExhausted);
  transport_.Reply(200, Token("t"));
  EXPECT_FALSE(Ask(Need("one-more"))->result.has_value());
}

TEST_F(AuthorizerTest, WhoWaitsIsBounded) {
  std::vector<std::shared_ptr<Answered>> all;
  for (size_t i = 0; i < Authorizer::kWaitersMax; ++i) all.push_back(Ask(Need()));
  EXPECT_EQ(Ask(Need())->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(transport_.alarms(), 1u) << "one alarm for all";
  transport_.Reply(200, Token("t"));
  for (const auto& one : all) ASSERT_TRUE(one->result->ok());
  EXPECT_TRUE(Ask(Need())->result->ok());
}

TEST_F(AuthorizerTest, AnExecutorThatEndsTellsWhoWaitsForARepetition) {
  std::shared_ptr<Answered> asked;
  {
    ManualExecutor executor(clock_);
    authorizer_ =
        Authorizer::Create({clock_, executor, transport_, *credentials_, breaker_, backoff_}, options_);
    asked = Ask(Need());
    transport_.Reply(503, "");
    EXPECT_FALSE(asked->result.has_value());
  }
  EXPECT_EQ(asked->code(), absl::StatusCode::kCancelled);
}

TEST_F(AuthorizerTest, ASecretIsInNoMessage) {
  LogIn("hidden");
  const AccessNeed push = Need("a", "pull,push");
  auto asked = Ask(push);
  transport_.Reply(403, "hidden");
  EXPECT_THAT(asked->message(), Not(HasSubstr("hidden")));
  EXPECT_THAT(asked->message(), HasSubstr("403"));
}

TEST(ScopeSetTest, ScopesAreReadAndWritten) {
  EXPECT_EQ(ScopeSet::Parse("repository:a/b:push,pull  registry:catalog:*").ToString(),
            "registry:catalog:* repository:a/b:pull,push");
  EXPECT_EQ(ScopeSet::Parse("repository:host:5000/a:pull").Repositories(),
            std::vector<std::string>{"host:5000/a"});
  EXPECT_EQ(ScopeSet::Parse("aws").ToString(), "aws");
  EXPECT_TRUE(ScopeSet::Parse("").empty());
}

TEST(ScopeSetTest, CoversAndCommonAreBySet) {
  const ScopeSet both = ScopeSet::Parse("repository:a:pull,push repository:b:pull");
  EXPECT_TRUE(both.Covers(ScopeSet::Parse("repository:a:pull")));
  EXPECT_TRUE(both.Covers(both));
  EXPECT_FALSE(both.Covers(ScopeSet::Parse("repository:b:push")));
  EXPECT_FALSE(both.Covers(ScopeSet::Parse("repository:c:pull")));
  EXPECT_TRUE(ScopeSet::Parse("repository:a:*").Covers(ScopeSet::Parse("repository:a:delete")));
  EXPECT_EQ(ScopeSet::Parse("repository:a:* repository:c:pull").CommonWith(both).ToString(),
            "repository:a:pull,push");
}

TEST(ScopeSetTest, ASetIsBounded) {
  std::string text;
  for (size_t i = 0; i < 2 * ScopeSet::kResourcesMax; ++i)
    text += " repository:r" + std::to_string(i) + ":pull";
  EXPECT_EQ(ScopeSet::Parse(text).Texts().size(), ScopeSet::kResourcesMax);
  text = "repository:a:x";
  for (size_t i = 0; i < 2 * ScopeSet::kActionsMax; ++i) text += ",a" + std::to_string(i);
  EXPECT_LE(ScopeSet::Parse(text).ToString().size(), 14 + 4 * ScopeSet::kActionsMax);
}

}  // namespace
}  // namespace sluice::p2p
