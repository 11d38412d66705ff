#include "p2p/registry/registry_auth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(ChallengeTest, BearerIsReadWithItsParameters) {
  const auto challenge = SelectChallenge(
      {R"(Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push")"});
  ASSERT_TRUE(challenge.ok()) << challenge.status();
  EXPECT_EQ(challenge->scheme, AuthScheme::kBearer);
  EXPECT_EQ(challenge->realm, "https://auth.example/token");
  EXPECT_EQ(challenge->service, "registry.example");
  EXPECT_EQ(challenge->scope, "repository:a/b:pull,push");
}

TEST(ChallengeTest, BearerIsPreferredWhereverItStands) {
  for (const std::vector<std::string_view>& values :
       {std::vector<std::string_view>{"Basic realm=\"x\", Bearer realm=\"https://a\""},
        {"Negotiate", "bearer REALM=\"https://a\"", "Basic realm=x"},
        {"Digest realm=\"no\", nonce=\"n\", Bearer error=\"e\", realm=\"https://a\""}}) {
    const auto challenge = SelectChallenge(values);
    ASSERT_TRUE(challenge.ok()) << challenge.status();
    EXPECT_EQ(challenge->scheme, AuthScheme::kBearer);
    EXPECT_EQ(challenge->realm, "https://a");
  }
}

TEST(ChallengeTest, EscapesInQuotedTextAreUndone) {
  EXPECT_EQ(SelectChallenge({R"(Basic realm="a\"b\\c")"})->realm, "a\"b\\c");
}

TEST(ChallengeTest, WhatCanNotBeReadIsRefused) {
  EXPECT_TRUE(absl::IsNotFound(SelectChallenge({}).status()));
  EXPECT_TRUE(absl::IsNotFound(SelectChallenge({"Negotiate"}).status()));
  for (const char* value : {"Bearer", "Bearer realm=\"open", "Bearer realm=\"a\", realm=\"b\"",
                            "Bearer \"x\"", "=", "Bearer realm=\"a\nb\"", "Bearer realm=\"a\\"}) {
    EXPECT_EQ(SelectChallenge({value}).status().code(), absl::StatusCode::kInvalidArgument) << value;
  }
  const std::string huge(kChallengeBytesMax + 1, 'x');
  EXPECT_EQ(SelectChallenge({huge}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RealmTest, CredentialsGoToTheSameHostOrByHttpsOnly) {
  const auto judge = [](const char* registry, const char* realm) {
    return JudgeRealm(*Url::Parse(registry), *Url::Parse(realm));
  };
  EXPECT_EQ(*judge("https://registry-1.docker.io", "https://auth.docker.io/token"), RealmTrust::kCredentials);
  EXPECT_EQ(*judge("https://registry.a.example", "https://a.example/jwt"), RealmTrust::kCredentials);
  EXPECT_EQ(*judge("https://a.example", "https://evil.example/token"), RealmTrust::kAnonymous);
  EXPECT_EQ(*judge("https://registry.a.example", "https://registry.b.example/token"), RealmTrust::kAnonymous);
  EXPECT_EQ(*judge("https://a.example", "https://nota.example/token"), RealmTrust::kAnonymous);
  EXPECT_EQ(*judge("https://10.0.0.1", "https://9.0.0.1/token"), RealmTrust::kAnonymous);
  EXPECT_EQ(*judge("http://a:5000", "http://a:5001/token"), RealmTrust::kCredentials);
  EXPECT_EQ(*judge("http://a:5000", "http://b/token"), RealmTrust::kAnonymous);
  EXPECT_EQ(*judge("http://a:5000", "https://b/token"), RealmTrust::kAnonymous);
  EXPECT_EQ(*judge("http://127.0.0.1:1", "http://localhost:2/token"), RealmTrust::kAnonymous);
  EXPECT_TRUE(absl::IsPermissionDenied(judge("https://a", "http://a/token").status()));
  EXPECT_TRUE(absl::IsPermissionDenied(judge("https://a", "https://127.0.0.1/token").status()));
  EXPECT_TRUE(absl::IsPermissionDenied(judge("https://a", "https://169.254.169.254/token").status()));
  EXPECT_TRUE(absl::IsPermissionDenied(judge("http://127.0.0.1", "http://169.254.169.254/token").status()));
}

TEST(TokenAnswerTest, BothNamesAndTheLifetimeAreRead) {
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a","access_token":"b"})")->value, "a");
  EXPECT_EQ(ParseTokenAnswer(R"({"access_token":"b","expires_in":300})")->lifetime, 300s);
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a"})")->lifetime, 60s);
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a","expires_in":-5})")->lifetime, 60s);
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a","expires_in":99999999999})")->lifetime, 24h);
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a","expires_in":18446744073709551615})")->lifetime, 24h);
  for (const char* lie : {"0", "-1", "1e300", "\"3600\"", "null", "[]", "-9223372036854775808"}) {
    EXPECT_EQ(ParseTokenAnswer(std::string(R"({"token":"a","expires_in":)") + lie + "}")->lifetime, 60s)
        << lie;
  }
}

TEST(TokenAnswerTest, WhatWasGrantedIsReadWhereItStands) {
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a","scope":"repository:a/b:pull"})")->scope, "repository:a/b:pull");
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a"})")->scope, std::nullopt);
  EXPECT_EQ(ParseTokenAnswer(R"({"token":"a","scope":7})")->scope, std::nullopt);
  const std::string huge(kScopeBytesMax + 1, 'x');
  EXPECT_EQ(ParseTokenAnswer("{\"token\":\"a\",\"scope\":\"" + huge + "\"}")->scope, std::nullopt);
}

TEST(TokenAnswerTest, WhatIsNoTokenIsRefusedWithoutShowingIt) {
  for (const char* answer :
       {"", "[]", "{}", R"({"token":5})", R"({"token":"hidden\r\nHost: evil"})", "{\"token\":\"hidden"}) {
    const absl::Status status = ParseTokenAnswer(answer).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << answer;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hidden")));
  }
  EXPECT_FALSE(ParseTokenAnswer(R"({"token":")" + std::string(kTokenBytesMax + 1, 'x') + "\"}").ok());
}

}  // namespace
}  // namespace sluice::p2p
