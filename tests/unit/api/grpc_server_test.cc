#include "api/grpc_server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <thread>

#include "sluice/v1/admin.grpc.pb.h"
#include "tests/unit/api/fake_admin_backend.h"
#include "tests/unit/api/one_service.h"
#include "tests/unit/api/temp_dir.h"

namespace sluice::api {
namespace {

using ::testing::HasSubstr;

constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
// HealthCheckResponse{status: SERVING / NOT_SERVING}, as its field stands on the wire.
constexpr char kServing[] = "\x08\x01";
constexpr char kNotServing[] = "\x08\x02";

std::string ToString(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string text;
  for (const grpc::Slice& slice : slices)
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

grpc::ByteBuffer ToBuffer(const std::string& text) {
  const grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

class GrpcServerTest : public ::testing::Test {
 protected:
  std::unique_ptr<GrpcServer> MakeServer(SocketAccess access = SocketAccess::kOwner) {
    return std::make_unique<GrpcServer>(GrpcServerOptions{.socket_path = path_, .access = access},
                                        AdminOver(backend_.ports()));
  }

  // The first answer to one raw message; these services come without headers of their own.
  std::string Ask(const char* method, const std::string& message) {
    grpc::GenericStub stub(grpc::CreateChannel("unix:" + path_, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto await = [&queue] {
      void* tag;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      EXPECT_TRUE(ok);
    };
    auto call = stub.PrepareCall(&context, method, &queue);
    call->StartCall(nullptr);
    await();
    call->Write(ToBuffer(message), nullptr);
    await();
    grpc::ByteBuffer answer;
    call->Read(&answer, nullptr);
    await();
    call->WritesDone(nullptr);
    await();
    grpc::Status status;
    call->Finish(&status, nullptr);
    await();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return ToString(answer);
  }

  bool Answers() {
    auto stub =
        v1::AdminService::NewStub(grpc::CreateChannel("unix:" + path_, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    return stub->GetStatus(&context, {}, &response).ok();
  }

  // A socket file that nobody listens on, as a killed daemon leaves it.
  void LeaveStaleSocket() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::copy(path_.begin(), path_.end(), address.sun_path);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ::close(fd);
  }

  TempDir dir_;
  const std::string path_ = dir_.File("api.sock");
  FakeAdminBackend backend_;
};

TEST_F(GrpcServerTest, StartAndStopAreIdempotentAndTheSocketGoes) {
  auto server = MakeServer();
  ASSERT_TRUE(server->Start().ok());
  ASSERT_TRUE(server->Start().ok());
  EXPECT_TRUE(Answers());
  server->Stop(std::chrono::seconds(5));
  server->Stop(std::chrono::seconds(5));
  EXPECT_NE(::access(path_.c_str(), F_OK), 0);
  EXPECT_EQ(server->Start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(GrpcServerTest, TheSocketsModeIsWhatWasAskedForAndTheUmaskIsPutBack) {
  const mode_t before = ::umask(0);
  const std::pair<SocketAccess, mode_t> cases[] = {{SocketAccess::kOwner, 0600},
                                                   {SocketAccess::kOwnerAndGroup, 0660}};
  for (const auto& [access, mode] : cases) {
    auto server = MakeServer(access);
    ASSERT_TRUE(server->Start().ok());
    struct stat info;
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, mode);
  }
  EXPECT_EQ(::umask(before), 0u);
}

TEST_F(GrpcServerTest, TheSocketIsGivenToItsGroupOrNotServed) {
  const auto start = [this](gid_t group) {
    return GrpcServer({.socket_path = path_, .access = SocketAccess::kOwnerAndGroup, .group = group},
                      AdminOver(backend_.ports()))
        .Start();
  };
  EXPECT_TRUE(start(::getegid()).ok());
  const gid_t stranger = 65534;
  if (::geteuid() == 0) {
    GrpcServer server({.socket_path = path_, .access = SocketAccess::kOwnerAndGroup, .group = stranger},
                      AdminOver(backend_.ports()));
    ASSERT_TRUE(server.Start().ok());
    struct stat info;
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_gid, stranger);
    EXPECT_EQ(info.st_mode & 0777, 0660u);
  } else {
    EXPECT_EQ(start(stranger).code(), absl::StatusCode::kPermissionDenied);
    EXPECT_NE(::access(path_.c_str(), F_OK), 0);
  }
}

TEST_F(GrpcServerTest, ASecondServerOnTheSocketIsRefusedAndTheFirstLivesOn) {
  auto first = MakeServer();
  ASSERT_TRUE(first->Start().ok());
  auto second = MakeServer();
  const absl::Status status = second->Start();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("already running"));
  second.reset();
  EXPECT_TRUE(Answers());
}

TEST_F(GrpcServerTest, AStaleSocketIsReplaced) {
  LeaveStaleSocket();
  auto server = MakeServer();
  ASSERT_TRUE(server->Start().ok());
  EXPECT_TRUE(Answers());
}

TEST_F(GrpcServerTest, AFileThatIsNoSocketIsLeftAlone) {
  std::ofstream(path_) << "precious";
  EXPECT_EQ(MakeServer()->Start().code(), absl::StatusCode::kInvalidArgument);
  std::string text;
  std::ifstream(path_) >> text;
  EXPECT_EQ(text, "precious");
}

TEST_F(GrpcServerTest, BadPathsAreRefusedWithTheReason) {
  const auto start = [this](const std::string& path) {
    return GrpcServer({.socket_path = path}, AdminOver(backend_.ports())).Start();
  };
  EXPECT_EQ(start("").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("api.sock").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("/" + std::string(107, 'a')).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start(dir_.File("missing/api.sock")).code(), absl::StatusCode::kNotFound);
}

TEST_F(GrpcServerTest, HealthFollowsWhatItIsTold) {
  const std::string admin = "\x0a\x16sluice.v1.AdminService";  // HealthCheckRequest{service}
  auto server = MakeServer();
  ASSERT_TRUE(server->Start().ok());
  EXPECT_EQ(Ask(kCheck, ""), kNotServing);
  EXPECT_EQ(Ask(kCheck, admin), kNotServing);
  server->SetHealth(GrpcServer::Health::kServing);
  EXPECT_EQ(Ask(kCheck, ""), kServing);
  EXPECT_EQ(Ask(kCheck, admin), kServing);
  server->SetHealth(GrpcServer::Health::kNotServing);
  EXPECT_EQ(Ask(kCheck, ""), kNotServing);
}

TEST_F(GrpcServerTest, ReflectionListsTheServices) {
  auto server = MakeServer();
  ASSERT_TRUE(server->Start().ok());
  const std::string services = Ask(kReflection, "\x3a\x01*");  // ServerReflectionRequest{list_services: "*"}
  EXPECT_THAT(services, HasSubstr("sluice.v1.AdminService"));
  EXPECT_THAT(services, HasSubstr("grpc.health.v1.Health"));
}

TEST_F(GrpcServerTest, StopLetsACallUnderWayEnd) {
  auto server = MakeServer();
  ASSERT_TRUE(server->Start().ok());
  backend_.Hold();
  bool answered = false;
  std::thread caller([&] { answered = Answers(); });
  backend_.AwaitHeld(1);
  std::thread stopper([&] { server->Stop(std::chrono::minutes(1)); });
  backend_.Release();
  stopper.join();
  caller.join();
  EXPECT_TRUE(answered);
}

TEST_F(GrpcServerTest, StopCutsACallOffAfterItsGrace) {
  auto server = MakeServer();
  ASSERT_TRUE(server->Start().ok());
  backend_.Hold();
  bool answered = true;
  std::thread caller([&] { answered = Answers(); });
  backend_.AwaitHeld(1);
  std::thread stopper([&] { server->Stop(Duration::zero()); });
  caller.join();  // cut off although the backend still holds the call
  EXPECT_FALSE(answered);
  backend_.Release();
  stopper.join();
}

}  // namespace
}  // namespace sluice::api
