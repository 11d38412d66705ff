// The registry client against a real docker-registry 2.8 that wants tokens.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <optional>
#include <vector>

#include "p2p/recipe/sha256.h"
#include "p2p/registry/registry_client.h"
#include "tests/fault/skipping_time.h"
#include "tests/integration/registry_fixture.h"
#include "tests/integration/token_server.h"

namespace sluice::p2p {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class RegistryTokenTest : public ::testing::Test {
 protected:
  enum class As { kStranger, kUser };
  // A client that knows nothing yet.
  RegistryClient& Client(As as) {
    RegistryOptions options;
    if (as == As::kUser) options.docker_config_path = registry_.WriteDockerConfig(login_);
    client_.emplace(RegistryClient::Parts{time_, time_, telemetry_}, options);
    before_ = server_.requests().size();
    return *client_;
  }
  BlobOrigin Place(const std::string& repository) const { return {registry_.registry(), repository}; }
  Digest Push(const std::string& repository, const std::string& bytes) {
    const Digest digest = Sha256::Of(bytes);
    const absl::Status pushed =
        Client(As::kUser).PushBlob(Place(repository), digest, HttpBody::FromString(bytes), nullptr);
    EXPECT_TRUE(pushed.ok()) << pushed;
    return digest;
  }
  struct Outcome {
    absl::Status status;
    OriginAccess access = OriginAccess::kUnknown;
  };
  std::vector<Outcome> ReadAtOnce(const std::string& repository, const Digest& digest, uint64_t size) {
    constexpr int kReaders = 64;
    std::vector<Outcome> outcomes(kReaders);
    std::vector<std::promise<absl::Status>> done(kReaders);
    for (size_t i = 0; i < outcomes.size(); ++i) {
      client_->ReadBlobRange(
          Place(repository), digest, size, {i, 1}, FetchClass::kDemand,
          time_.Now() + std::chrono::seconds(60),
          [&outcomes, i](OriginAccess access) { outcomes[i].access = access; },
          [](std::span<const std::byte>) {},
          [&done, i](absl::Status status) { done[i].set_value(std::move(status)); });
    }
    for (size_t i = 0; i < outcomes.size(); ++i) outcomes[i].status = done[i].get_future().get();
    return outcomes;
  }
  // Since the client was made.
  std::vector<FaultRequest> Asked() const {
    const std::vector<FaultRequest> all = server_.requests();
    return {all.begin() + static_cast<std::ptrdiff_t>(before_), all.end()};
  }

  const RegistryFixture::Login login_{"user", "correct-horse"};
  TokenServer server_{login_};
  RegistryFixture registry_{server_.auth()};
  SkippingTime time_;
  Telemetry telemetry_;
  size_t before_ = 0;
  std::optional<RegistryClient> client_;
};

TEST_F(RegistryTokenTest, APushTakesOneToken) {
  const Digest digest = Push("team/app", "bytes of a blob");
  EXPECT_THAT(Asked(), SizeIs(1));
  EXPECT_EQ(client_->HeadBlob(Place("team/app"), digest).value(), 15u);
  EXPECT_THAT(Asked(), SizeIs(1)) << "the token may pull too";
}

TEST_F(RegistryTokenTest, SixtyFourReadersOfAPublicRepositoryTakeOneTokenAndNoCredentials) {
  const std::string bytes(1000, 'x');
  const Digest digest = Push("public/app", bytes);
  for (const auto as : {As::kStranger, As::kUser}) {
    Client(as);
    for (const Outcome& outcome : ReadAtOnce("public/app", digest, bytes.size())) {
      EXPECT_TRUE(outcome.status.ok()) << outcome.status;
      EXPECT_EQ(outcome.access, OriginAccess::kPublic);
    }
    const std::vector<FaultRequest> asked = Asked();
    ASSERT_THAT(asked, SizeIs(1));
    EXPECT_EQ(asked[0].Header("authorization"), "");
  }
}

TEST_F(RegistryTokenTest, SixtyFourReadersOfAPrivateRepositoryTakeOneTokenEachWay) {
  const std::string bytes(1000, 'x');
  const Digest digest = Push("team/app", bytes);
  Client(As::kUser);
  for (const Outcome& outcome : ReadAtOnce("team/app", digest, bytes.size())) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.access, OriginAccess::kCredentials);
  }
  const std::vector<FaultRequest> asked = Asked();
  ASSERT_THAT(asked, SizeIs(2));
  EXPECT_EQ(asked[0].Header("authorization"), "");
  EXPECT_NE(asked[1].Header("authorization"), "");
}

TEST_F(RegistryTokenTest, AStrangerIsRefusedByOneTokenAndThenAtOnce) {
  const std::string bytes(1000, 'x');
  const Digest digest = Push("team/app", bytes);
  Client(As::kStranger);
  for (const Outcome& outcome : ReadAtOnce("team/app", digest, bytes.size())) {
    EXPECT_TRUE(absl::IsUnauthenticated(outcome.status)) << outcome.status;
  }
  EXPECT_THAT(Asked(), SizeIs(1));
}

TEST_F(RegistryTokenTest, AMountFromAnotherRepositoryTakesOneTokenForBoth) {
  const Digest digest = Push("team/base", "bytes");
  RegistryClient& client = Client(As::kUser);
  EXPECT_TRUE(client.TakeBlob(Place("team/app"), digest, Place("team/base")).value());
  const std::vector<FaultRequest> asked = Asked();
  ASSERT_THAT(asked, SizeIs(1));
  EXPECT_THAT(asked[0].query, AllOf(HasSubstr("scope=repository%3Ateam%2Fapp%3Apull%2Cpush"),
                                    HasSubstr("scope=repository%3Ateam%2Fbase%3Apull")));
  EXPECT_EQ(client.HeadBlob(Place("team/app"), digest).value(), 5u);
}

}  // namespace
}  // namespace sluice::p2p
