#include "api/grpc_tls.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/grpc_server.h"
#include "node/tls/current_identity.h"
#include "sluice/v1/admin.grpc.pb.h"
#include "tests/unit/api/fake_admin_backend.h"
#include "tests/unit/api/one_service.h"
#include "tests/unit/api/temp_dir.h"
#include "tests/unit/tls/test_authority.h"

namespace sluice::api {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kClient[] = "sluice-hints";

class GrpcTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const tls::Issued own = authority_.Issue();
    Write("node.crt", own.certificate);
    Write("node.key", own.key);
    server_ = MakeServer("127.0.0.1:0");
    ASSERT_TRUE(server_->Start().ok());
  }

  void Write(const std::string& name, const std::string& text) { std::ofstream(dir_.File(name)) << text; }
  std::unique_ptr<GrpcServer> MakeServer(const std::string& listen) {
    GrpcServerOptions options;
    options.tls = GrpcTls{
        listen,
        dir_.File("node.crt"),
        dir_.File("node.key"),
        [this](const std::string& chain) { return identity_->Get()->RefusalOfClient(chain, kClient); },
        &telemetry_,
        [this](const std::string& text) {
          const std::lock_guard lock(mutex_);
          warned_.push_back(text);
        }};
    return std::make_unique<GrpcServer>(std::move(options), AdminOver(backend_.ports()));
  }

  grpc::StatusCode Call(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    // Channels to one address share a connection, whatever they show.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetSslTargetNameOverride("sluice");
    auto stub = v1::AdminService::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->port()), credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::GetStatusResponse response;
    return stub->GetStatus(&context, {}, &response).error_code();
  }
  // Who shows this. The server is whom this authority says.
  grpc::StatusCode CallAs(const tls::Issued& shown) {
    return Call(grpc::SslCredentials({authority_.pem(), shown.key, shown.certificate}));
  }
  uint64_t Handshakes(TlsResult result) const {
    return telemetry_.tls_handshakes[static_cast<size_t>(TlsSide::kServer)][static_cast<size_t>(result)]
        .value();
  }

  TempDir dir_;
  FakeAdminBackend backend_;
  Telemetry telemetry_;
  const tls::TestAuthority authority_;
  const std::shared_ptr<tls::CurrentIdentity> identity_ =
      std::make_shared<tls::CurrentIdentity>(authority_.MakeIdentity());
  std::mutex mutex_;
  std::vector<std::string> warned_;  // guarded by mutex_
  std::unique_ptr<GrpcServer> server_;
};

TEST_F(GrpcTlsTest, WhoHasTheNameIsServed) {
  EXPECT_EQ(CallAs(authority_.Issue({.names = {kClient}})), grpc::StatusCode::OK);
  EXPECT_EQ(CallAs(authority_.Issue({.names = {"other", kClient}, .uses = "clientAuth"})),
            grpc::StatusCode::OK);
  EXPECT_EQ(Handshakes(TlsResult::kOk), 2u);
  EXPECT_EQ(Handshakes(TlsResult::kRefused), 0u);
}

TEST_F(GrpcTlsTest, WhoHasItNotIsRefusedAndTheReasonSaidOnce) {
  EXPECT_EQ(CallAs(authority_.Issue()), grpc::StatusCode::UNAVAILABLE) << "a node is no client";
  EXPECT_EQ(CallAs(authority_.Issue({.names = {"a.sluice-hints", "*"}})), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallAs(authority_.Issue({.names = {kClient}, .begins_in = -7200, .ends_in = -3600})),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallAs(authority_.Issue({.names = {kClient}, .uses = "serverAuth"})),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallAs(tls::TestAuthority("test authority").Issue({.names = {kClient}})),
            grpc::StatusCode::UNAVAILABLE)
      << "another authority, by the same name";
  EXPECT_EQ(Handshakes(TlsResult::kRefused), 5u);
  EXPECT_EQ(Handshakes(TlsResult::kOk), 0u);
  const std::lock_guard lock(mutex_);
  EXPECT_THAT(warned_, ElementsAre(HasSubstr("it lacks the DNS name sluice-hints")));
}

TEST_F(GrpcTlsTest, WhoShowsNothingIsRefused) {
  EXPECT_EQ(Call(grpc::SslCredentials({authority_.pem(), "", ""})), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(grpc::InsecureChannelCredentials()), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Handshakes(TlsResult::kOk), 0u);
}

TEST_F(GrpcTlsTest, WhoIsRevokedIsRefusedFromThenOn) {
  const tls::Issued one = authority_.Issue({.names = {kClient}}),
                    two = authority_.Issue({.names = {kClient}});
  EXPECT_EQ(CallAs(one), grpc::StatusCode::OK);
  identity_->Set(authority_.MakeIdentity({}, authority_.Revoke({one.certificate}), 2));
  EXPECT_EQ(CallAs(one), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallAs(two), grpc::StatusCode::OK);
}

TEST_F(GrpcTlsTest, WhatIsShownBesideACertificateDoesNotMakeItGood) {
  const tls::TestAuthority stranger("stranger");
  tls::Issued shown = stranger.Issue({.names = {kClient}});
  shown.certificate += authority_.Issue({.names = {kClient}}).certificate;
  EXPECT_EQ(CallAs(shown), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcTlsTest, AnAddressInUseOrMalformedIsAnError) {
  const absl::Status taken = MakeServer(absl::StrCat("127.0.0.1:", server_->port()))->Start();
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(taken.message()), HasSubstr(absl::StrCat("127.0.0.1:", server_->port())));
  EXPECT_FALSE(MakeServer("192.0.2.1:1")->Start().ok());
}

}  // namespace
}  // namespace sluice::api
