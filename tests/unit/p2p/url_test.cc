#include "p2p/http/url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(UrlTest, PartsAreNormalized) {
  const absl::StatusOr<Url> url = Url::Parse("HTTPS://Registry.Example/v2/a?x=1");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_TRUE(url->secure());
  EXPECT_EQ(url->Authority(), "registry.example:443");
  EXPECT_EQ(url->ToString(), "https://registry.example:443/v2/a?x=1");
}

TEST(UrlTest, OtherSchemesUsersAndJunkAreRefused) {
  for (const char* text : {"", "registry.example", "file:///etc/passwd", "ftp://a/", "http://", "http://a b/",
                           "http://user:secret@a/", "http://a/\r\nHost: b", "http://a:99999/", "//a/b"}) {
    EXPECT_EQ(Url::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(Url::Parse("http://a/" + std::string(Url::kLengthMax, 'x')).ok());
}

TEST(UrlTest, ReferencesResolveAsInRfc3986) {
  const Url base = *Url::Parse("http://a:5000/v2/team/blobs/uploads/1?_state=s");
  EXPECT_EQ(base.Resolve("/v2/x?y=z")->ToString(), "http://a:5000/v2/x?y=z");
  EXPECT_EQ(base.Resolve("2")->ToString(), "http://a:5000/v2/team/blobs/uploads/2");
  EXPECT_EQ(base.Resolve("//b/c")->ToString(), "http://b:80/c");
  EXPECT_EQ(base.Resolve("https://b/c")->ToString(), "https://b:443/c");
  EXPECT_FALSE(base.Resolve("file:///etc/passwd").ok());
}

TEST(UrlTest, QueriesAreEncodedAndNeverShown) {
  const Url url = Url::Parse("https://a/b")->WithQuery("digest", "sha256:ab").WithQuery("q", "a&b=c");
  EXPECT_EQ(url.ToString(), "https://a:443/b?digest=sha256%3Aab&q=a%26b%3Dc");
  EXPECT_THAT(url.Redacted(), Not(HasSubstr("sha256")));
}

TEST(UrlTest, LoopbackIsToldByItsName) {
  for (const char* host :
       {"localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"}) {
    EXPECT_TRUE(NamesLoopback(host)) << host;
  }
  for (const char* host :
       {"localhost.example", "127.0.0.1.evil.example", "128.0.0.1", "10.0.0.1", "[::2]", ""}) {
    EXPECT_FALSE(NamesLoopback(host)) << host;
  }
  // Other spellings of an address are normalized before anyone judges them.
  for (const char* text :
       {"http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/"}) {
    const absl::StatusOr<Url> url = Url::Parse(text);
    EXPECT_TRUE(!url.ok() || NamesLoopback(url->host())) << text;
  }
}

TEST(UrlTest, LinkLocalIsToldByItsAddress) {
  for (const char* host : {"169.254.169.254", "[fe80::1]", "[FEBF::1]", "[::ffff:169.254.1.1]"}) {
    EXPECT_TRUE(NamesLinkLocal(host)) << host;
  }
  for (const char* host : {"169.253.1.1", "[fec0::1]", "fe80.example", "[::1]", ""}) {
    EXPECT_FALSE(NamesLinkLocal(host)) << host;
  }
}

}  // namespace
}  // namespace sluice::p2p
