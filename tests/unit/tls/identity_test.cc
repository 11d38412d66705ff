#include "node/tls/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/tls/test_authority.h"

namespace sluice::tls {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// An encrypted key, as openssl pkey -aes256 writes it; nobody needs to be able to open it.
constexpr char kLockedKey[] =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgAAAAAAAAAAAICCAAw\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n";

class IdentityTest : public ::testing::Test {
 protected:
  IdentityText TextOf(const Issued& issued) const {
    return {authority_.pem(), issued.certificate, issued.key, {}};
  }
  static std::string ErrorOf(const IdentityText& text) {
    const auto identity = Identity::Create(text, "sluice", 1);
    EXPECT_FALSE(identity.ok());
    return std::string(identity.status().message());
  }

  const TestAuthority authority_;
};

TEST_F(IdentityTest, OneCertificateForAllNodesNamesNone) {
  const auto identity = Identity::Create(TextOf(authority_.Issue()), "sluice", 7);
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ((*identity)->number(), 7u);
  EXPECT_THAT((*identity)->own_names().names(), IsEmpty());
  EXPECT_TRUE((*identity)->own_names().Allow("anybody"));
  EXPECT_EQ((*identity)->not_after() - (*identity)->not_before(), 7200);
}

TEST_F(IdentityTest, ANodesOwnCertificateNamesItAndNobodyElse) {
  const auto identity =
      Identity::Create(TextOf(authority_.Issue({.names = {"sluice", "Node-1.sluice", "b.example.sluice",
                                                          "*.sluice", "c.sluices", ".sluice", "sluice.d"}})),
                       "sluice", 1);
  ASSERT_TRUE(identity.ok()) << identity.status();
  const ProvenNames& names = (*identity)->own_names();
  EXPECT_THAT(names.names(), ElementsAre("Node-1", "b.example"));
  EXPECT_TRUE(names.Allow("Node-1"));
  EXPECT_FALSE(names.Allow("node-1")) << "another member could be called so";
  EXPECT_FALSE(names.Allow("node-2"));
  EXPECT_FALSE(names.Allow(""));
}

TEST_F(IdentityTest, WhatIsWrongIsSaidOfItsSetting) {
  const Issued good = authority_.Issue();
  IdentityText text = TextOf(good);
  text.ca = "nonsense";
  EXPECT_THAT(ErrorOf(text), HasSubstr("tls.ca: it holds no certificate in PEM"));
  text = TextOf(good);
  text.certificate = good.key;
  EXPECT_THAT(ErrorOf(text), HasSubstr("tls.certificate: it holds no certificate in PEM"));
  text = TextOf(good);
  text.key = good.certificate;
  EXPECT_THAT(ErrorOf(text), HasSubstr("tls.key: it holds no private key in PEM"));
  text.key = kLockedKey;
  EXPECT_THAT(ErrorOf(text), HasSubstr("tls.key: it has a passphrase"));
  text.key = authority_.Issue().key;
  EXPECT_THAT(ErrorOf(text), HasSubstr("tls.key: it is not the key of tls.certificate"));
  text = TextOf(TestAuthority("another").Issue());
  EXPECT_THAT(ErrorOf(text), HasSubstr("tls.certificate: it does not come from an authority in tls.ca"));
}

TEST_F(IdentityTest, TheCertificateMustHaveTheNameOfAllNodesAndBeForBothSides) {
  for (const std::vector<std::string>& names :
       std::vector<std::vector<std::string>>{{}, {"other"}, {"a.sluice"}, {"*"}, {"*.sluice"}}) {
    EXPECT_THAT(ErrorOf(TextOf(authority_.Issue({.names = names}))), HasSubstr("lacks the DNS name"));
  }
  EXPECT_THAT(ErrorOf(TextOf(authority_.Issue({.uses = "serverAuth"}))),
              HasSubstr("serverAuth and clientAuth"));
  EXPECT_THAT(ErrorOf(TextOf(authority_.Issue({.uses = "clientAuth"}))),
              HasSubstr("serverAuth and clientAuth"));
  EXPECT_TRUE(Identity::Create(TextOf(authority_.Issue({.uses = ""})), "sluice", 1).ok());
}

TEST_F(IdentityTest, NoErrorTellsOfTheKey) {
  const Issued good = authority_.Issue();
  IdentityText text = TextOf(authority_.Issue());
  text.key = good.key;
  EXPECT_THAT(ErrorOf(text), Not(HasSubstr(good.key.substr(40, 20))));
}

// The clock may be wrong after a cold boot, and a node without the others still serves from the registry.
TEST_F(IdentityTest, ACertificateThatDoesNotCountNowIsTaken) {
  EXPECT_TRUE(Identity::Create(TextOf(authority_.Issue({.begins_in = 600})), "sluice", 1).ok());
  EXPECT_TRUE(
      Identity::Create(TextOf(authority_.Issue({.begins_in = -900, .ends_in = -600})), "sluice", 1).ok());
}

TEST_F(IdentityTest, ARevocationListMustBeSignedByTheAuthority) {
  const std::string list = authority_.Revoke({}, 600);
  const absl::StatusOr<Revocations> good = CheckRevocations(list, authority_.pem());
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_GT(good->next_update, 0);
  EXPECT_THAT(std::string(CheckRevocations("nonsense", authority_.pem()).status().message()),
              HasSubstr("tls.crlFile: it holds no revocation list"));
  // By name alone it could be the authority's.
  EXPECT_THAT(std::string(CheckRevocations(TestAuthority().Revoke({}), authority_.pem()).status().message()),
              HasSubstr("none of the authorities in tls.ca has signed it"));
}

}  // namespace
}  // namespace sluice::tls
