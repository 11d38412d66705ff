#include "api/admin_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "api/grpc_server.h"
#include "sluice/v1/admin.grpc.pb.h"
#include "tests/unit/api/fake_admin_backend.h"
#include "tests/unit/api/one_service.h"
#include "tests/unit/api/temp_dir.h"

namespace sluice::api {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// The service behind a real server on a unix socket.
class AdminServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { StartWith({}); }

  void StartWith(AdminServiceLimits limits) {
    limits.fill_poll_interval = std::chrono::milliseconds(1);
    stub_.reset();
    server_.reset();
    server_ = std::make_unique<GrpcServer>(GrpcServerOptions{.socket_path = dir_.File("api.sock")},
                                           AdminOver(backend_.ports(), limits));
    ASSERT_TRUE(server_->Start().ok());
    stub_ = v1::AdminService::NewStub(
        grpc::CreateChannel("unix:" + dir_.File("api.sock"), grpc::InsecureChannelCredentials()));
  }

  grpc::Status Mount(const std::string& reference, const std::string& mount_point, v1::FillMode fill,
                     v1::MountResponse* response) {
    v1::MountRequest request;
    request.set_reference(reference);
    request.set_mount_point(mount_point);
    request.set_fill(fill);
    grpc::ClientContext context;
    return stub_->Mount(&context, request, response);
  }

  static v1::MountRequest NamedRequest(const std::string& id, const std::string& mount_point) {
    v1::MountRequest request;
    request.set_reference("r/a:1");
    request.set_mount_point(mount_point);
    request.set_request_id(id);
    return request;
  }
  grpc::Status MountNamed(const std::string& id, const std::string& mount_point,
                          v1::MountResponse* response) {
    grpc::ClientContext context;
    return stub_->Mount(&context, NamedRequest(id, mount_point), response);
  }
  std::vector<std::string> MountsAskedFor() const {
    std::vector<std::string> calls = backend_.calls();
    std::erase_if(calls, [](const std::string& call) { return !call.starts_with("Mount "); });
    return calls;
  }

  // The stream's messages, one list of "<present> <state>" each.
  grpc::Status Watch(std::vector<std::vector<std::string>>* messages) {
    grpc::ClientContext context;
    v1::WatchFillRequest request;
    request.set_mount_point("/mnt/a");
    auto stream = stub_->WatchFill(&context, request);
    v1::WatchFillResponse response;
    while (stream->Read(&response)) {
      auto& message = messages->emplace_back();
      for (const auto& blob : response.blobs()) {
        message.push_back(absl::StrCat(blob.blob().present_bytes(), " ", v1::FillState_Name(blob.state())));
      }
    }
    return stream->Finish();
  }

  grpc::Status Verify(const std::function<void(const v1::VerifyBlobResponse&)>& on_message,
                      const std::string& digest = TestDigest(1).ToString()) {
    grpc::ClientContext context;
    v1::VerifyBlobRequest request;
    request.set_digest(digest);
    const auto stream = stub_->VerifyBlob(&context, request);
    v1::VerifyBlobResponse response;
    while (stream->Read(&response)) on_message(response);
    return stream->Finish();
  }

  static BlobInfo Blob(uint8_t name) {
    BlobInfo blob;
    blob.digest = TestDigest(name);
    blob.size_bytes = 5000;
    blob.chunk_size_bytes = 1024;
    blob.present_bytes = 2048;
    blob.origins = {{"registry.example:5000", "team/app"}};
    blob.last_access = std::chrono::system_clock::time_point(std::chrono::milliseconds(1500));
    return blob;
  }

  TempDir dir_;
  FakeAdminBackend backend_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::AdminService::Stub> stub_;
};

TEST_F(AdminServiceTest, StatusCarriesEveryField) {
  backend_.status.version = "1.2.3";
  backend_.status.backend = "fanotify";
  backend_.status.backend_reason = "the kernel has it";
  backend_.status.uptime = std::chrono::milliseconds(2500);
  backend_.status.store = {.capacity_bytes = 100, .size_bytes = 40, .blob_count = 3};
  backend_.status.mount_count = 2;
  backend_.status.served.reads = {1, 2, 3};
  backend_.status.served.bytes = {10, 20, 30};
  backend_.status.read_errors = 7;
  backend_.status.origin_bytes = 99;
  backend_.status.cluster = {.configured = true, .cut_off = true, .cold_start = true};
  backend_.status.fetches = {1, 2, 3, 4};
  backend_.status.fetches_under_way = {5, 6, 7, 8};
  backend_.status.inflight_bytes = 9;
  backend_.status.chunks_wanted = 10;
  backend_.status.readahead_bytes = {11, 12, 13};
  backend_.status.hints = {14, 15, 16, 17};

  grpc::ClientContext context;
  v1::GetStatusResponse response;
  ASSERT_TRUE(stub_->GetStatus(&context, {}, &response).ok());
  const v1::NodeStatus& status = response.status();
  EXPECT_EQ(status.version(), "1.2.3");
  EXPECT_EQ(status.backend(), v1::BACKEND_FANOTIFY);
  EXPECT_EQ(status.backend_reason(), "the kernel has it");
  EXPECT_EQ(status.uptime().seconds(), 2);
  EXPECT_EQ(status.uptime().nanos(), 500'000'000);
  EXPECT_EQ(status.store().capacity_bytes(), 100u);
  EXPECT_EQ(status.store().size_bytes(), 40u);
  EXPECT_EQ(status.store().blob_count(), 3u);
  EXPECT_EQ(status.mount_count(), 2u);
  ASSERT_EQ(status.served_size(), 3);
  EXPECT_EQ(status.served(0).source(), v1::READ_SOURCE_LOCAL);
  EXPECT_EQ(status.served(1).source(), v1::READ_SOURCE_PEER);
  EXPECT_EQ(status.served(2).source(), v1::READ_SOURCE_ORIGIN);
  EXPECT_EQ(status.served(2).reads(), 3u);
  EXPECT_EQ(status.served(2).bytes(), 30u);
  EXPECT_EQ(status.read_errors(), 7u);
  EXPECT_EQ(status.origin_bytes(), 99u);
  EXPECT_TRUE(status.cluster().configured() && status.cluster().cut_off() && status.cluster().cold_start());
  ASSERT_EQ(status.fetches_size(), 4);
  EXPECT_EQ(status.fetches(0).fetch_class(), v1::FETCH_CLASS_DEMAND);
  EXPECT_EQ(status.fetches(2).fetch_class(), v1::FETCH_CLASS_HINT);
  EXPECT_EQ(status.fetches(2).started(), 3u);
  EXPECT_EQ(status.fetches(3).under_way(), 8u);
  EXPECT_EQ(status.inflight_bytes(), 9u);
  EXPECT_EQ(status.chunks_wanted(), 10u);
  EXPECT_EQ(status.readahead().fetched_bytes(), 11u);
  EXPECT_EQ(status.readahead().used_bytes(), 12u);
  EXPECT_EQ(status.readahead().unread_bytes(), 13u);
  EXPECT_EQ(status.hints().completed(), 14u);
  EXPECT_EQ(status.hints().cancelled(), 15u);
  EXPECT_EQ(status.hints().failed(), 16u);
  EXPECT_EQ(status.hints().expired(), 17u);
}

TEST_F(AdminServiceTest, ANodeIsDrainedAndThatIsUndone) {
  const auto drain = [this](bool undo) {
    grpc::ClientContext context;
    v1::DrainRequest request;
    request.set_undo(undo);
    v1::DrainResponse response;
    EXPECT_TRUE(stub_->Drain(&context, request, &response).ok());
    return response.hints_ended();
  };
  const auto drained = [this] {
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    EXPECT_TRUE(stub_->GetStatus(&context, {}, &response).ok());
    return response.status().drained();
  };
  EXPECT_FALSE(drained());
  EXPECT_EQ(drain(false), 3u);
  EXPECT_TRUE(drained());
  EXPECT_EQ(drain(true), 0u);
  EXPECT_FALSE(drained());
}

TEST_F(AdminServiceTest, TheLogLevelIsSetAndShown) {
  const auto set = [this](v1::LogLevel level, v1::SetLogLevelResponse* response) {
    grpc::ClientContext context;
    v1::SetLogLevelRequest request;
    request.set_level(level);
    return stub_->SetLogLevel(&context, request, response);
  };
  const auto shown = [this] {
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    EXPECT_TRUE(stub_->GetStatus(&context, {}, &response).ok());
    return response.status().log_level();
  };
  EXPECT_EQ(shown(), v1::LOG_LEVEL_INFO);
  v1::LogLevel before = v1::LOG_LEVEL_INFO;
  for (const v1::LogLevel level :
       {v1::LOG_LEVEL_DEBUG, v1::LOG_LEVEL_WARN, v1::LOG_LEVEL_ERROR, v1::LOG_LEVEL_INFO}) {
    v1::SetLogLevelResponse response;
    ASSERT_TRUE(set(level, &response).ok());
    EXPECT_EQ(response.previous_level(), before);
    EXPECT_EQ(shown(), level);
    before = level;
  }
  for (const v1::LogLevel level : {v1::LOG_LEVEL_UNSPECIFIED, static_cast<v1::LogLevel>(9)}) {
    v1::SetLogLevelResponse response;
    EXPECT_THAT(set(level, &response).error_message(), HasSubstr("level"));
  }
  EXPECT_EQ(shown(), v1::LOG_LEVEL_INFO);
}

TEST_F(AdminServiceTest, PeersCarryEveryField) {
  backend_.peers.cluster = {.configured = true, .cut_off = true, .cold_start = true};
  backend_.peers.self.name = "me";
  PeerInfo peer;
  peer.name = "a";
  peer.addresses = {"10.0.0.1:7301", "[fd00::1]:7301"};
  peer.zone = "z";
  peer.state = PeerState::kSilent;
  peer.protocol = 1;
  peer.age = std::chrono::milliseconds(2500);
  peer.homes_share = 0.125;
  peer.skipped_for = std::chrono::seconds(4);
  peer.skip_reason = "refused";
  peer.requests = 5;
  peer.failures = 6;
  peer.outrun = 16;
  peer.recent_bytes = 7;
  peer.wrong_answers = 8;
  peer.blame = "chunk 3";
  peer.blame_age = std::chrono::seconds(9);
  backend_.peers.peers = {peer, {}};

  grpc::ClientContext context;
  v1::ListPeersResponse response;
  ASSERT_TRUE(stub_->ListPeers(&context, {}, &response).ok());
  EXPECT_TRUE(response.cluster().configured() && response.cluster().cut_off() &&
              response.cluster().cold_start());
  EXPECT_EQ(response.self().name(), "me");
  ASSERT_EQ(response.peers_size(), 2);
  const v1::Peer& got = response.peers(0);
  EXPECT_EQ(got.name(), "a");
  EXPECT_THAT(got.addresses(), ElementsAre("10.0.0.1:7301", "[fd00::1]:7301"));
  EXPECT_EQ(got.zone(), "z");
  EXPECT_EQ(got.state(), v1::PEER_STATE_SILENT);
  EXPECT_EQ(got.protocol(), 1u);
  EXPECT_EQ(got.age().seconds(), 2);
  EXPECT_EQ(got.age().nanos(), 500'000'000);
  EXPECT_EQ(got.homes_share(), 0.125);
  EXPECT_EQ(got.skipped_for().seconds(), 4);
  EXPECT_EQ(got.skip_reason(), "refused");
  EXPECT_EQ(got.requests(), 5u);
  EXPECT_EQ(got.failures(), 6u);
  EXPECT_EQ(got.outrun(), 16u);
  EXPECT_EQ(got.recent_bytes(), 7u);
  EXPECT_EQ(got.wrong_answers(), 8u);
  EXPECT_EQ(got.blame(), "chunk 3");
  EXPECT_EQ(got.blame_age().seconds(), 9);
  EXPECT_FALSE(response.peers(1).has_skipped_for() || response.peers(1).has_blame_age());
}

TEST_F(AdminServiceTest, StartsCarryEveryField) {
  using std::chrono::milliseconds;
  StartReport start;
  start.reference = "r/a:1";
  start.manifest = TestDigest(3);
  start.mount_point = "/mnt/a";
  start.resolve = milliseconds(1);
  start.resolve_round_trips = 2;
  start.prepared.bootstrap = milliseconds(3);
  start.prepared.blobs = milliseconds(4);
  start.prepared.recipes = milliseconds(5);
  start.prepared.recipe_round_trips = 6;
  start.mounting = milliseconds(7);
  start.watched = milliseconds(8);
  start.over = true;
  start.waiting = milliseconds(9);
  start.waited[static_cast<size_t>(SourceKind::kPeer)] = {10,
                                                          11,
                                                          milliseconds(12),
                                                          milliseconds(13),
                                                          milliseconds(14),
                                                          milliseconds(15),
                                                          milliseconds(16),
                                                          milliseconds(17),
                                                          18};
  start.failed = 19;
  start.touched = {20, 21, 22, 23, 24, 25, 26, 27};
  start.sees_present = true;
  backend_.starts = {{start}, {"/mnt/b"}};

  grpc::ClientContext context;
  v1::GetStartReportsRequest request;
  request.set_image("r/a:1");
  v1::GetStartReportsResponse response;
  ASSERT_TRUE(stub_->GetStartReports(&context, request, &response).ok());
  EXPECT_THAT(backend_.calls(), ElementsAre("GetStartReports r/a:1"));
  EXPECT_THAT(response.unknown(), ElementsAre("/mnt/b"));
  ASSERT_EQ(response.reports_size(), 1);
  const v1::StartReport& got = response.reports(0);
  const auto ms = [](const google::protobuf::Duration& duration) { return duration.nanos() / 1'000'000; };
  EXPECT_EQ(got.reference(), "r/a:1");
  EXPECT_EQ(got.manifest_digest(), TestDigest(3).ToString());
  EXPECT_EQ(got.mount_point(), "/mnt/a");
  EXPECT_EQ(ms(got.resolve()), 1);
  EXPECT_EQ(got.resolve_round_trips(), 2u);
  EXPECT_EQ(ms(got.bootstrap()), 3);
  EXPECT_EQ(ms(got.blobs()), 4);
  EXPECT_EQ(ms(got.recipes()), 5);
  EXPECT_EQ(got.recipe_round_trips(), 6u);
  EXPECT_EQ(ms(got.mounting()), 7);
  EXPECT_EQ(ms(got.watched()), 8);
  EXPECT_TRUE(got.over());
  EXPECT_EQ(ms(got.waiting()), 9);
  ASSERT_EQ(got.waited_size(), static_cast<int>(kSourceKindCount));
  const v1::WaitedReads& waited = got.waited(static_cast<int>(SourceKind::kPeer));
  EXPECT_EQ(waited.source(), v1::READ_SOURCE_PEER);
  EXPECT_EQ(waited.reads(), 10u);
  EXPECT_EQ(waited.bytes(), 11u);
  EXPECT_EQ(ms(waited.waited()), 12);
  EXPECT_EQ(ms(waited.queued()), 13);
  EXPECT_EQ(ms(waited.answer()), 14);
  EXPECT_EQ(ms(waited.wire()), 15);
  EXPECT_EQ(ms(waited.verified()), 16);
  EXPECT_EQ(ms(waited.stored()), 17);
  EXPECT_EQ(waited.foreseen(), 18u);
  EXPECT_EQ(got.failed(), 19u);
  EXPECT_EQ(got.touched().here(), 20u);
  EXPECT_EQ(got.touched().profile(), 21u);
  EXPECT_EQ(got.touched().readahead(), 22u);
  EXPECT_EQ(got.touched().hint(), 23u);
  EXPECT_EQ(got.touched().fill(), 24u);
  EXPECT_EQ(got.touched().other(), 25u);
  EXPECT_EQ(got.touched().waited(), 26u);
  EXPECT_EQ(got.touched().late(), 27u);
  EXPECT_TRUE(got.sees_present());

  backend_.failure = absl::NotFoundError("nothing of that is mounted");
  grpc::ClientContext again;
  EXPECT_EQ(stub_->GetStartReports(&again, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(AdminServiceTest, ANodeThatWasToldOfNoOthersHasNoSelfEither) {
  grpc::ClientContext context;
  v1::ListPeersResponse response;
  ASSERT_TRUE(stub_->ListPeers(&context, {}, &response).ok());
  EXPECT_FALSE(response.cluster().configured());
  EXPECT_FALSE(response.has_self());
}

TEST_F(AdminServiceTest, MountsListsAndUnmounts) {
  v1::MountResponse mounted;
  ASSERT_TRUE(Mount("registry.example/app:1", "/mnt/a", v1::FILL_MODE_BACKGROUND, &mounted).ok());
  EXPECT_EQ(backend_.last_mount().fill, FillMode::kBackground);
  EXPECT_EQ(mounted.mount().manifest_digest(), TestDigest(0xee).ToString());
  EXPECT_EQ(mounted.mount().blobs(0).present_bytes(), 250u);
  EXPECT_EQ(mounted.mount().backend(), v1::BACKEND_FANOTIFY);
  EXPECT_FALSE(mounted.mount().has_last_error_time());

  backend_.mounts["/mnt/a"].last_error = "the origin timed out";
  backend_.mounts["/mnt/a"].last_error_time =
      std::chrono::system_clock::time_point(std::chrono::milliseconds(2500));
  grpc::ClientContext list_context;
  v1::ListMountsResponse list;
  ASSERT_TRUE(stub_->ListMounts(&list_context, {}, &list).ok());
  ASSERT_THAT(list.mounts(), SizeIs(1));
  EXPECT_EQ(list.mounts(0).reference(), "registry.example/app:1");
  EXPECT_EQ(list.mounts(0).last_error_time().seconds(), 2);
  EXPECT_EQ(list.mounts(0).last_error_time().nanos(), 500'000'000);

  v1::UnmountRequest unmount;
  unmount.set_mount_point("/mnt/a");
  grpc::ClientContext first, second;
  v1::UnmountResponse unmounted;
  EXPECT_TRUE(stub_->Unmount(&first, unmount, &unmounted).ok());
  EXPECT_EQ(stub_->Unmount(&second, unmount, &unmounted).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(AdminServiceTest, OfMountOptionsTheLastOneWinsAndUnknownOnesAreRefused) {
  const auto mount = [this](const std::vector<std::string>& options) {
    v1::MountRequest request;
    request.set_reference("r/a:1");
    request.set_mount_point("/mnt/a");
    for (const std::string& option : options) request.add_options(option);
    grpc::ClientContext context;
    v1::MountResponse response;
    return stub_->Mount(&context, request, &response);
  };
  ASSERT_TRUE(mount({}).ok());
  EXPECT_TRUE(backend_.last_mount().options.suid);
  EXPECT_TRUE(backend_.last_mount().options.dev);
  EXPECT_TRUE(backend_.last_mount().options.exec);
  ASSERT_TRUE(mount({"nosuid", "nodev", "noexec", "dev"}).ok());
  EXPECT_FALSE(backend_.last_mount().options.suid);
  EXPECT_TRUE(backend_.last_mount().options.dev);
  EXPECT_FALSE(backend_.last_mount().options.exec);
  EXPECT_THAT(mount({"rw"}).error_message(), HasSubstr("rw"));
  EXPECT_THAT(mount({"no"}).error_message(), HasSubstr("nosuid"));
}

TEST_F(AdminServiceTest, AMountThatIsAskedForAgainByItsIdIsMadeOnce) {
  v1::MountResponse first, second, third;
  ASSERT_TRUE(MountNamed("a", "/mnt/a", &first).ok());
  backend_.mounts["/mnt/a"].read_errors = 7;
  ASSERT_TRUE(MountNamed("a", "/mnt/a", &second).ok());
  EXPECT_EQ(second.mount().manifest_digest(), first.mount().manifest_digest());
  EXPECT_EQ(second.mount().read_errors(), 7u) << "it is shown as it is now";
  EXPECT_THAT(MountsAskedFor(), SizeIs(1));

  // Where it was taken down it is made anew.
  backend_.mounts.clear();
  ASSERT_TRUE(MountNamed("a", "/mnt/a", &third).ok());
  EXPECT_THAT(MountsAskedFor(), SizeIs(2));
  // So it is where another image is there now: whether that can be is for the backend to say.
  backend_.mounts["/mnt/a"].manifest_digest = TestDigest(0xdd);
  ASSERT_TRUE(MountNamed("a", "/mnt/a", &third).ok());
  EXPECT_THAT(MountsAskedFor(), SizeIs(3));
}

TEST_F(AdminServiceTest, AnIdIsOfOneMountAlone) {
  v1::MountResponse response;
  ASSERT_TRUE(MountNamed("a", "/mnt/a", &response).ok());
  const grpc::Status other = MountNamed("a", "/mnt/b", &response);
  EXPECT_EQ(other.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(other.error_message(), AllOf(HasSubstr("request_id"), HasSubstr("/mnt/a")));
  EXPECT_THAT(MountNamed("no blanks", "/mnt/c", &response).error_message(), HasSubstr("request_id"));
  ASSERT_TRUE(MountNamed("b", "/mnt/b", &response).ok());
  EXPECT_THAT(MountsAskedFor(), SizeIs(2));
}

TEST_F(AdminServiceTest, AMountThatFailedIsTriedAnewByItsId) {
  v1::MountResponse response;
  backend_.failure = absl::UnavailableError("the registry is away");
  EXPECT_EQ(MountNamed("a", "/mnt/a", &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  backend_.failure = absl::OkStatus();
  EXPECT_TRUE(MountNamed("a", "/mnt/a", &response).ok());
  EXPECT_THAT(MountsAskedFor(), SizeIs(2));
}

TEST_F(AdminServiceTest, WhoAsksAgainWhileAMountRunsGetsItsAnswerAndNoPlaceOfItsOwn) {
  StartWith({.slow_workers = 1, .calls_waiting_max = 0});
  backend_.Hold({"Mount"});
  std::vector<v1::MountResponse> responses(3);
  std::vector<std::thread> callers;
  for (v1::MountResponse& response : responses)
    callers.emplace_back([&] { EXPECT_TRUE(MountNamed("a", "/mnt/a", &response).ok()); });
  backend_.AwaitHeld(1);
  // Another one finds the one worker taken: so those three have it together.
  v1::MountResponse refused;
  EXPECT_EQ(MountNamed("b", "/mnt/b", &refused).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  backend_.Release();
  for (std::thread& caller : callers) caller.join();
  for (const v1::MountResponse& response : responses) EXPECT_EQ(response.mount().mount_point(), "/mnt/a");
  EXPECT_THAT(MountsAskedFor(), SizeIs(1));
}

TEST_F(AdminServiceTest, AMountGoesOnWhileOneOfItsCallersIsThere) {
  backend_.Hold({"Mount"});
  grpc::ClientContext first_context;
  std::thread first([&] {
    v1::MountRequest request = NamedRequest("a", "/mnt/a");
    v1::MountResponse response;
    EXPECT_EQ(stub_->Mount(&first_context, request, &response).error_code(), grpc::StatusCode::CANCELLED);
  });
  backend_.AwaitHeld(1);
  const CancelCheck cancelled = backend_.last_mount().cancelled;
  grpc::ClientContext second_context;
  std::atomic<bool> second_is_there{false};
  std::thread second([&] {
    v1::MountRequest request = NamedRequest("a", "/mnt/a");
    v1::MountResponse response;
    second_is_there = true;
    EXPECT_EQ(stub_->Mount(&second_context, request, &response).error_code(), grpc::StatusCode::CANCELLED);
  });
  while (!second_is_there) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  first_context.TryCancel();
  first.join();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_FALSE(cancelled);
  second_context.TryCancel();
  second.join();
  while (!cancelled) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  backend_.Release();
}

TEST_F(AdminServiceTest, RefusesMalformedRequestsBeforeTheBackendSeesThem) {
  v1::MountResponse response;
  const std::string long_name(2000, 'a');
  EXPECT_THAT(Mount("", "/mnt/a", v1::FILL_MODE_UNSPECIFIED, &response).error_message(),
              HasSubstr("reference"));
  EXPECT_THAT(Mount(long_name, "/mnt/a", v1::FILL_MODE_UNSPECIFIED, &response).error_message(),
              HasSubstr("2000"));
  EXPECT_THAT(Mount("r/a:1", "mnt", v1::FILL_MODE_UNSPECIFIED, &response).error_message(),
              HasSubstr("absolute"));
  EXPECT_THAT(Mount("r/a:1", "", v1::FILL_MODE_UNSPECIFIED, &response).error_message(), HasSubstr("empty"));
  EXPECT_THAT(Mount("r/a:1", std::string("/a\0b", 4), v1::FILL_MODE_UNSPECIFIED, &response).error_message(),
              HasSubstr("zero byte"));
  EXPECT_THAT(Mount("r/a:1", "/mnt", static_cast<v1::FillMode>(9), &response).error_message(),
              HasSubstr("9"));

  for (const char* digest : {"", "sha256:../../etc/passwd", "sha512:00", "sha256:ABCDEF"}) {
    v1::GetBlobRequest request;
    request.set_digest(digest);
    v1::GetBlobResponse blob;
    grpc::ClientContext context;
    EXPECT_EQ(stub_->GetBlob(&context, request, &blob).error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << digest;
  }
  EXPECT_THAT(backend_.calls(), IsEmpty());
}

TEST_F(AdminServiceTest, EveryStatusCodeAndItsMessageArrive) {
  for (int code = 1; code <= 16; ++code) {
    backend_.failure = absl::Status(static_cast<absl::StatusCode>(code), "blob x: it broke; mend it");
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    const grpc::Status status = stub_->GetStatus(&context, {}, &response);
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "blob x: it broke; mend it");
  }
}

TEST_F(AdminServiceTest, AHugeMessageStillArrivesAsTheErrorItIs) {
  backend_.failure = absl::NotFoundError(std::string(1 << 20, '\n'));
  grpc::ClientContext context;
  v1::GetStatusResponse response;
  EXPECT_EQ(stub_->GetStatus(&context, {}, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(AdminServiceTest, ListsBlobsByPages) {
  for (uint8_t name = 1; name <= 5; ++name) backend_.blobs[TestDigest(name)] = Blob(name);
  std::vector<std::string> digests;
  v1::ListBlobsRequest request;
  request.set_page_size(2);
  int pages = 0;
  do {
    grpc::ClientContext context;
    v1::ListBlobsResponse response;
    ASSERT_TRUE(stub_->ListBlobs(&context, request, &response).ok());
    for (const auto& blob : response.blobs()) digests.push_back(blob.digest());
    request.set_page_token(response.next_page_token());
    ASSERT_LE(++pages, 3);
  } while (!request.page_token().empty());
  EXPECT_THAT(digests,
              ElementsAre(TestDigest(1).ToString(), TestDigest(2).ToString(), TestDigest(3).ToString(),
                          TestDigest(4).ToString(), TestDigest(5).ToString()));

  request.set_page_size(1'000'000);
  request.set_page_token("");
  grpc::ClientContext clamped, bad, negative;
  v1::ListBlobsResponse response;
  ASSERT_TRUE(stub_->ListBlobs(&clamped, request, &response).ok());
  EXPECT_EQ(backend_.calls().back(), "ListBlobs 1000");
  request.set_page_token("5");
  EXPECT_EQ(stub_->ListBlobs(&bad, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_page_token("");
  request.set_page_size(-1);
  EXPECT_EQ(stub_->ListBlobs(&negative, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(AdminServiceTest, WorksOnOneBlob) {
  const std::string name = TestDigest(1).ToString();
  backend_.blobs[TestDigest(1)] = Blob(1);
  backend_.evict_freed_bytes = 4096;

  v1::GetBlobRequest get;
  get.set_digest(name);
  grpc::ClientContext c1, c3, c4, c5;
  v1::GetBlobResponse got;
  ASSERT_TRUE(stub_->GetBlob(&c1, get, &got).ok());
  EXPECT_EQ(got.blob().size_bytes(), 5000u);
  EXPECT_EQ(got.blob().last_access_time().seconds(), 1);
  EXPECT_EQ(got.blob().last_access_time().nanos(), 500'000'000);
  EXPECT_EQ(got.blob().origins(0).repository(), "team/app");

  v1::PinBlobRequest pin;
  pin.set_digest(name);
  v1::PinBlobResponse pinned;
  ASSERT_TRUE(stub_->PinBlob(&c3, pin, &pinned).ok());
  EXPECT_TRUE(backend_.blobs[TestDigest(1)].pinned);
  v1::UnpinBlobRequest unpin;
  unpin.set_digest(name);
  v1::UnpinBlobResponse unpinned;
  ASSERT_TRUE(stub_->UnpinBlob(&c4, unpin, &unpinned).ok());
  EXPECT_FALSE(backend_.blobs[TestDigest(1)].pinned);

  v1::EvictBlobRequest evict;
  evict.set_digest(name);
  v1::EvictBlobResponse evicted;
  ASSERT_TRUE(stub_->EvictBlob(&c5, evict, &evicted).ok());
  EXPECT_EQ(evicted.freed_bytes(), 4096u);
}

TEST_F(AdminServiceTest, WatchSendsAllThenChangesAndEndsWithTheFill) {
  const auto progress = [](uint8_t name, uint64_t present, FillState state) {
    return FillProgress{.blob = {TestDigest(name), 100, present}, .state = state, .error = ""};
  };
  backend_.fill_snapshots = {
      {progress(1, 100, FillState::kComplete), progress(2, 0, FillState::kFilling)},
      {progress(1, 100, FillState::kComplete), progress(2, 0, FillState::kFilling)},
      {progress(1, 100, FillState::kComplete), progress(2, 50, FillState::kFilling)},
      {progress(1, 100, FillState::kComplete), progress(2, 100, FillState::kComplete)},
  };
  std::vector<std::vector<std::string>> messages;
  ASSERT_TRUE(Watch(&messages).ok());
  EXPECT_THAT(messages,
              ElementsAre(ElementsAre("100 FILL_STATE_COMPLETE", "0 FILL_STATE_FILLING"),
                          ElementsAre("50 FILL_STATE_FILLING"), ElementsAre("100 FILL_STATE_COMPLETE")));
}

TEST_F(AdminServiceTest, WatchOfNothingEndsWithTheBackendsError) {
  std::vector<std::vector<std::string>> messages;
  EXPECT_EQ(Watch(&messages).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(messages, IsEmpty());
}

TEST_F(AdminServiceTest, WatchesAreBounded) {
  StartWith({.watches_max = 0});
  backend_.fill_snapshots = {{}};
  std::vector<std::vector<std::string>> messages;
  EXPECT_EQ(Watch(&messages).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(AdminServiceTest, StoppingTheServerEndsAWatch) {
  backend_.fill_snapshots = {
      {FillProgress{.blob = {TestDigest(1), 100, 0}, .state = FillState::kFilling, .error = ""}}};
  grpc::ClientContext context;
  v1::WatchFillRequest request;
  request.set_mount_point("/mnt/a");
  auto stream = stub_->WatchFill(&context, request);
  v1::WatchFillResponse response;
  ASSERT_TRUE(stream->Read(&response));
  server_->Stop(std::chrono::seconds(10));
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(AdminServiceTest, AWatcherThatLeavesEndsItsWatch) {
  StartWith({.watches_max = 1});
  backend_.fill_snapshots = {
      {FillProgress{.blob = {TestDigest(1), 100, 0}, .state = FillState::kFilling, .error = ""}}};
  for (int i = 0; i < 3; ++i) {
    // The place of the one before is free as soon as the server has noticed that it left.
    bool watching = false;
    while (!watching) {
      grpc::ClientContext context;
      v1::WatchFillRequest request;
      request.set_mount_point("/mnt/a");
      auto stream = stub_->WatchFill(&context, request);
      v1::WatchFillResponse response;
      watching = stream->Read(&response);
      context.TryCancel();
      stream->Finish();
    }
  }
}

TEST_F(AdminServiceTest, AVerifyTellsHowFarItIsAndLastWhatItFound) {
  StartWith({.verify_interval = Duration::zero()});
  backend_.blobs[TestDigest(1)] = Blob(1);
  backend_.verify_steps = {{.read_bytes = 0, .total_bytes = 2048, .found = {}},
                           {.read_bytes = 1024, .total_bytes = 7048, .found = {.checked_bytes = 1024}},
                           {.read_bytes = 2048, .total_bytes = 7048, .found = {.bad_chunks = 1}}};
  backend_.verify_report = {.checked_bytes = 2048, .bad_chunks = 1, .unprovable_chunks = 4};
  std::vector<std::string> messages;
  v1::VerifyBlobResponse last;
  EXPECT_TRUE(Verify([&](const v1::VerifyBlobResponse& message) {
                messages.push_back(absl::StrCat(message.read_bytes(), "/", message.total_bytes()));
                last = message;
              }).ok());
  // Those in between may be missed.
  ASSERT_GE(messages.size(), 2u);
  EXPECT_EQ(messages.front(), "0/2048");
  EXPECT_EQ(messages.back(), "2048/2048");
  EXPECT_EQ(last.checked_bytes(), 2048u);
  EXPECT_EQ(last.bad_chunks(), 1u);
  EXPECT_EQ(last.unprovable_chunks(), 4u);
}

TEST_F(AdminServiceTest, AVerifyTellsWhileItGoesOn) {
  StartWith({.verify_interval = Duration::zero()});
  backend_.blobs[TestDigest(1)] = Blob(1);
  backend_.verify_steps = {{.read_bytes = 1024, .total_bytes = 2048, .found = {.bad_chunks = 1}}};
  backend_.Hold({"VerifyBlob step"});
  int messages = 0;
  EXPECT_TRUE(Verify([&](const v1::VerifyBlobResponse& message) {
                if (++messages > 1) return;
                EXPECT_EQ(message.read_bytes(), 1024u);
                EXPECT_EQ(message.bad_chunks(), 1u);
                backend_.Release();
              }).ok());
  EXPECT_EQ(messages, 2);
}

TEST_F(AdminServiceTest, AVerifysMessagesHaveAnInterval) {
  StartWith({.verify_interval = std::chrono::hours(1)});
  backend_.blobs[TestDigest(1)] = Blob(1);
  for (uint64_t i = 0; i < 1000; ++i) backend_.verify_steps.push_back({i, 1000, {}});
  int messages = 0;
  EXPECT_TRUE(Verify([&](const v1::VerifyBlobResponse&) { ++messages; }).ok());
  EXPECT_EQ(messages, 2) << "the first and the last";
}

TEST_F(AdminServiceTest, AVerifyOfNothingEndsWithTheBackendsErrorAndSaysNothingBefore) {
  int messages = 0;
  const auto count = [&](const v1::VerifyBlobResponse&) { ++messages; };
  EXPECT_EQ(Verify(count).error_code(), grpc::StatusCode::NOT_FOUND);
  const grpc::Status malformed = Verify(count, "sha256:00");
  EXPECT_EQ(malformed.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(malformed.error_message(), HasSubstr("digest"));
  EXPECT_EQ(messages, 0);
  EXPECT_THAT(backend_.calls(), SizeIs(1));
}

TEST_F(AdminServiceTest, VerifiesBeyondTheBoundAreRefusedAndHoldUpNoMount) {
  StartWith({.slow_workers = 1, .verify_workers = 1, .calls_waiting_max = 0});
  backend_.blobs[TestDigest(1)] = Blob(1);
  backend_.Hold({"VerifyBlob"});
  std::thread first([this] { EXPECT_TRUE(Verify([](const v1::VerifyBlobResponse&) {}).ok()); });
  backend_.AwaitHeld(1);
  EXPECT_EQ(Verify([](const v1::VerifyBlobResponse&) {}).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  v1::MountResponse mounted;
  EXPECT_TRUE(Mount("r/a:1", "/mnt/a", v1::FILL_MODE_UNSPECIFIED, &mounted).ok());
  backend_.Release();
  first.join();
}

TEST_F(AdminServiceTest, StoppingTheServerEndsAVerify) {
  backend_.blobs[TestDigest(1)] = Blob(1);
  backend_.verify_until_cancelled = true;
  std::thread caller([this] {
    EXPECT_EQ(Verify([](const v1::VerifyBlobResponse&) {}).error_code(), grpc::StatusCode::UNAVAILABLE);
  });
  while (backend_.calls().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server_->Stop(std::chrono::seconds(60));
  caller.join();
  EXPECT_EQ(backend_.verifies_cancelled, 1);
}

TEST_F(AdminServiceTest, AVerifyWhoseCallerHasGoneEnds) {
  StartWith({});
  backend_.blobs[TestDigest(1)] = {};
  backend_.verify_until_cancelled = true;
  grpc::ClientContext context;
  v1::VerifyBlobRequest request;
  request.set_digest(TestDigest(1).ToString());
  std::thread caller([&] {
    const auto stream = stub_->VerifyBlob(&context, request);
    v1::VerifyBlobResponse response;
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  });
  while (backend_.calls().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  context.TryCancel();
  caller.join();
  while (backend_.verifies_cancelled == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST_F(AdminServiceTest, CallsBeyondTheBoundAreRefused) {
  StartWith({.quick_workers = 1, .calls_waiting_max = 0});
  const auto call = [this] {
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    return stub_->GetStatus(&context, {}, &response).error_code();
  };
  backend_.Hold();
  std::thread first([&] { EXPECT_EQ(call(), grpc::StatusCode::OK); });
  backend_.AwaitHeld(1);
  EXPECT_EQ(call(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  backend_.Release();
  first.join();
}

// A registry that stalls holds half of the workers that mount: what is mounted from another goes on, and who
// asks what is going on is answered all the same.
TEST_F(AdminServiceTest, MountsThatStallStopNoOtherCall) {
  StartWith({.slow_workers = 4, .calls_waiting_max = 0});
  backend_.Hold({"Mount", "Unmount"});
  std::vector<std::thread> stalled;
  for (const char* mount_point : {"/mnt/a", "/mnt/b"}) {
    stalled.emplace_back([this, mount_point] {
      v1::MountResponse response;
      EXPECT_TRUE(Mount("r/a:1", mount_point, v1::FILL_MODE_UNSPECIFIED, &response).ok());
    });
  }
  backend_.AwaitHeld(2);
  v1::MountResponse mounted;
  EXPECT_EQ(Mount("r/a:1", "/mnt/c", v1::FILL_MODE_UNSPECIFIED, &mounted).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  stalled.emplace_back([this] {
    v1::MountResponse response;
    EXPECT_TRUE(Mount("registry.example:5000/a:1", "/mnt/d", v1::FILL_MODE_UNSPECIFIED, &response).ok());
  });
  backend_.AwaitHeld(3);
  // So does one that can't be unmounted.
  stalled.emplace_back([this] {
    grpc::ClientContext context;
    v1::UnmountRequest request;
    request.set_mount_point("/mnt/x");
    v1::UnmountResponse response;
    EXPECT_EQ(stub_->Unmount(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  });
  backend_.AwaitHeld(4);

  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(60);
  grpc::ClientContext status_context, mounts_context, peers_context, blobs_context;
  for (grpc::ClientContext* context : {&status_context, &mounts_context, &peers_context, &blobs_context})
    context->set_deadline(deadline);
  v1::GetStatusResponse status;
  EXPECT_TRUE(stub_->GetStatus(&status_context, {}, &status).ok());
  v1::ListMountsResponse mounts;
  EXPECT_TRUE(stub_->ListMounts(&mounts_context, {}, &mounts).ok());
  v1::ListPeersResponse peers;
  EXPECT_TRUE(stub_->ListPeers(&peers_context, {}, &peers).ok());
  v1::ListBlobsResponse blobs;
  EXPECT_TRUE(stub_->ListBlobs(&blobs_context, {}, &blobs).ok());
  backend_.Release();
  for (std::thread& thread : stalled) thread.join();
}

TEST_F(AdminServiceTest, ACallWhoseDeadlineHasPassedInTheQueueNeverReachesTheBackend) {
  StartWith({.quick_workers = 1, .calls_waiting_max = 4});
  backend_.Hold();
  std::thread first([this] {
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    EXPECT_TRUE(stub_->GetStatus(&context, {}, &response).ok());
  });
  backend_.AwaitHeld(1);
  grpc::ClientContext context;
  const auto deadline = std::chrono::system_clock::now() + std::chrono::milliseconds(20);
  context.set_deadline(deadline);
  v1::ListMountsResponse response;
  EXPECT_EQ(stub_->ListMounts(&context, {}, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // The server's idea of the deadline is later: it counts from when the call came to it.
  std::this_thread::sleep_until(deadline + std::chrono::milliseconds(500));
  backend_.Release();
  first.join();
  server_->Stop(std::chrono::seconds(10));
  EXPECT_THAT(backend_.calls(), ElementsAre("GetStatus"));
}

TEST_F(AdminServiceTest, TheBackendGetsTheCallersDeadlineButNoneBeyondTheBound) {
  StartWith({.call_max = std::chrono::hours(1)});
  v1::MountRequest request;
  request.set_reference("r/a:1");
  request.set_mount_point("/mnt/a");
  v1::MountResponse response;
  const auto remaining = [this] { return backend_.last_mount().deadline - std::chrono::steady_clock::now(); };

  grpc::ClientContext with_deadline;
  with_deadline.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(20));
  ASSERT_TRUE(stub_->Mount(&with_deadline, request, &response).ok());
  // gRPC rounds timeouts up for the wire.
  EXPECT_LE(remaining(), std::chrono::minutes(21));
  EXPECT_GT(remaining(), std::chrono::minutes(10));

  grpc::ClientContext without;
  ASSERT_TRUE(stub_->Mount(&without, request, &response).ok());
  EXPECT_LE(remaining(), std::chrono::hours(1));
  EXPECT_GT(remaining(), std::chrono::minutes(30));
}

TEST_F(AdminServiceTest, AMessageAboveTheLimitIsRefused) {
  v1::MountResponse response;
  EXPECT_EQ(Mount(std::string(2 << 20, 'a'), "/mnt/a", v1::FILL_MODE_UNSPECIFIED, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace sluice::api
