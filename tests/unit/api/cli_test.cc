// The `sluice` binary against a server with a fake backend: exit codes, what is on stdout and stderr, and the
// shape of its JSON.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "api/grpc_server.h"
#include "api/prefetch_service.h"
#include "tests/unit/api/fake_admin_backend.h"
#include "tests/unit/api/fake_prefetch_backend.h"
#include "tests/unit/api/one_service.h"
#include "tests/unit/api/temp_dir.h"

namespace sluice::api {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;

PeerInfo PeerAt(const std::string& name, const std::string& address, PeerState state) {
  PeerInfo peer;
  peer.name = name;
  peer.addresses = {address};
  peer.zone = "z";
  peer.state = state;
  return peer;
}

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class CliTest : public ::testing::Test {
 protected:
  void Serve() {
    server_ = std::make_unique<GrpcServer>(
        GrpcServerOptions{.socket_path = socket_},
        AdminOver(backend_.ports(), {.fill_poll_interval = std::chrono::milliseconds(1)}));
    ASSERT_TRUE(server_->Start().ok());
  }

  // Beside the other socket, where the tool looks for it.
  void ServeHints() {
    hints_server_ = std::make_unique<GrpcServer>(
        GrpcServerOptions{.socket_path = dir_.File("prefetch.sock")},
        OneService(std::make_unique<PrefetchService>(
            hints_, locality_, PrefetchServiceLimits{.poll_interval = std::chrono::milliseconds(1)})));
    ASSERT_TRUE(hints_server_->Start().ok());
  }

  // Runs sluice with this test's socket and, but for what sanitizers are told, an otherwise empty
  // environment.
  Outcome Run(std::vector<std::string> arguments, std::vector<std::string> environment = {}) {
    return Await(Spawn(std::move(arguments), std::move(environment)));
  }

  pid_t Spawn(std::vector<std::string> arguments, std::vector<std::string> environment = {}) {
    arguments.insert(arguments.begin(), SLUICE_BINARY);
    environment.push_back("SLUICE_API_SOCKET=" + socket_);
    for (const std::string name : {"ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"}) {
      if (const char* value = std::getenv(name.c_str())) environment.push_back(name + "=" + value);
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const std::string out = OutFile(), err = ErrFile();
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), flags, 0600);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), flags, 0600);
    pid_t pid = -1;
    EXPECT_EQ(posix_spawn(&pid, SLUICE_BINARY, &actions, nullptr, Pointers(arguments).data(),
                          Pointers(environment).data()),
              0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
  }

  Outcome Await(pid_t pid) {
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadFile(OutFile()), ReadFile(ErrFile())};
  }

  std::string OutFile() const { return dir_.File("out"); }
  std::string ErrFile() const { return dir_.File("err"); }

  Json RunJson(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--output", "json"});
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return Json::parse(outcome.out, nullptr, false);
  }

  static std::vector<char*> Pointers(std::vector<std::string>& strings) {
    std::vector<char*> pointers;
    for (std::string& text : strings) pointers.push_back(text.data());
    pointers.push_back(nullptr);
    return pointers;
  }

  TempDir dir_;
  const std::string socket_ = dir_.File("api.sock");
  const std::string digest_ = TestDigest(1).ToString();
  FakeAdminBackend backend_;
  std::unique_ptr<GrpcServer> server_;
  FakePrefetchBackend hints_;
  FakeLocality locality_;
  std::unique_ptr<GrpcServer> hints_server_;
};

TEST_F(CliTest, WithoutADaemonItSaysHowToStartItAndExitsWith4) {
  const Outcome outcome = Run({"status"});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_THAT(outcome.out, IsEmpty());
  EXPECT_THAT(outcome.err, AllOf(StartsWith("sluice: cannot reach the daemon on " + socket_),
                                 HasSubstr("systemctl start sluiced"), HasSubstr("--socket")));
}

TEST_F(CliTest, WrongUsageExitsWith2) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"frobnicate"},
                                             {"mount"},
                                             {"mount", "r/a:1"},
                                             {"blob"},
                                             {"--output", "xml", "status"},
                                             {"--timeout", "soon", "status"},
                                             {"mount", "r/a:1", "/mnt", "--fill", "--no-fill"},
                                             {"prefetch"},
                                             {"prefetch", "submit"},
                                             {"prefetch", "watch"},
                                             {"prefetch", "submit", "r/a:1", "--platform", "linux"},
                                             {"prefetch", "submit", "r/a:1", "--range", "12"},
                                             {"prefetch", "submit", "r/a:1", "--ttl", "12"},
                                             {"prefetch", "submit", "r/a:1", "--needed-in", "inf"},
                                             {"config", "validate"}}) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << Json(arguments);
    EXPECT_THAT(outcome.err, StartsWith("sluice: ")) << Json(arguments);
    EXPECT_THAT(outcome.out, IsEmpty()) << Json(arguments);
  }
}

TEST_F(CliTest, HelpDocumentsTheExitCodes) {
  const Outcome outcome = Run({"--help"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("Exit codes: 0 ok, 1 failed, 2 "), HasSubstr("4 no daemon answers"),
                    HasSubstr("5 refused"), HasSubstr("doctor"), HasSubstr("umount")));
}

TEST_F(CliTest, TheServicesCodesBecomeExitCodes) {
  Serve();
  const std::pair<absl::StatusCode, int> cases[] = {
      {absl::StatusCode::kInvalidArgument, 2},    {absl::StatusCode::kNotFound, 3},
      {absl::StatusCode::kPermissionDenied, 5},   {absl::StatusCode::kUnauthenticated, 5},
      {absl::StatusCode::kFailedPrecondition, 5}, {absl::StatusCode::kAlreadyExists, 5},
      {absl::StatusCode::kUnavailable, 1},        {absl::StatusCode::kDataLoss, 1},
      {absl::StatusCode::kDeadlineExceeded, 1},   {absl::StatusCode::kResourceExhausted, 1}};
  for (const auto& [code, exit_code] : cases) {
    backend_.failure = absl::Status(code, "the registry says no. Ask it nicely");
    const Outcome outcome = Run({"mount", "r/a:1", "/mnt"});
    EXPECT_EQ(outcome.exit_code, exit_code) << absl::StatusCodeToString(code);
    EXPECT_EQ(outcome.err, "sluice: cannot mount r/a:1 on /mnt: the registry says no. Ask it nicely.\n");
  }
}

TEST_F(CliTest, StatusWatchShowsWhatTheNodeDoesBetweenTwoLooks) {
  Serve();
  backend_.status.uptime = std::chrono::seconds(10);
  backend_.status.origin_bytes = 1000;
  backend_.status.fetches_under_way = {1, 2, 3, 4};
  backend_.status.chunks_wanted = 12;
  backend_.status.readahead_bytes = {1000, 800, 50};
  backend_.status.hints = {5, 6, 7, 8};
  backend_.status.hint_bytes = {2000, 500, 100};
  backend_.on_status = [this] {
    backend_.status.uptime += std::chrono::seconds(2);
    backend_.status.origin_bytes += 4 << 20;
    backend_.status.served.bytes[0] += 2 << 20;
    backend_.status.fetches[2] += 10;
  };
  const Outcome line = Run({"status", "--watch", "--interval", "100ms", "--count", "1"});
  EXPECT_EQ(line.exit_code, 0) << line.err;
  EXPECT_THAT(line.out, AllOf(HasSubstr("store 1.0 MiB/s"), HasSubstr("registries 2.0 MiB/s"),
                              HasSubstr("hint 3 (5.0/s)"), HasSubstr("12 chunks wanted"),
                              HasSubstr("800 B (80 %) used, 50 B (5 %) unread"),
                              HasSubstr("5 completed, 6 cancelled, 7 failed, 8 expired"),
                              HasSubstr("500 B (25 %) used, 100 B (5 %) unread"), Not(HasSubstr("\x1b"))));
  const Outcome json = Run({"--output", "json", "status", "--watch", "--interval", "100ms", "--count", "2"});
  EXPECT_EQ(json.exit_code, 0) << json.err;
  const Json first = Json::parse(json.out.substr(0, json.out.find('\n')), nullptr, false);
  EXPECT_EQ(std::count(json.out.begin(), json.out.end(), '\n'), 2);
  EXPECT_EQ(first["origin_bytes_per_second"], 2097152.0);
  EXPECT_EQ(first["fetches"]["hint"]["started_per_second"], 5.0);
  EXPECT_EQ(first["readahead"]["used_bytes"], 800);
  EXPECT_EQ(first["hints"]["unread_bytes"], 100);
  EXPECT_EQ(RunJson({"status"})["hints"]["used_bytes"], 500);
  EXPECT_THAT(Run({"status"}).out, HasSubstr("500 B (25 %) used"));
}

TEST_F(CliTest, StatusWatchTakesNoOddTimesAndEndsWithCtrlC) {
  Serve();
  for (const char* const interval : {"0s", "12", "inf", "-1s"})
    EXPECT_EQ(Run({"status", "--watch", "--interval", interval}).exit_code, 2) << interval;
  EXPECT_EQ(Run({"status", "--interval", "1s"}).exit_code, 2) << "only with --watch";
  const size_t before = backend_.calls().size();
  const pid_t sluice = Spawn({"status", "--watch", "--interval", "1h"});
  while (backend_.calls().size() == before) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(sluice, SIGINT);
  EXPECT_EQ(Await(sluice).exit_code, 0);
}

TEST_F(CliTest, WhyAStartTookSoLongIsTextAndJson) {
  Serve();
  using std::chrono::milliseconds;
  StartReport start;
  start.reference = "r/a:1";
  start.mount_point = "/mnt/a";
  start.resolve = milliseconds(100);
  start.resolve_round_trips = 2;
  start.mounting = milliseconds(150);
  start.watched = milliseconds(2000);
  start.waiting = milliseconds(300);
  start.waited[static_cast<size_t>(SourceKind::kOrigin)] = {4,
                                                            4096,
                                                            milliseconds(400),
                                                            milliseconds(20),
                                                            milliseconds(40),
                                                            milliseconds(80),
                                                            milliseconds(30),
                                                            milliseconds(10),
                                                            1};
  start.touched = {.here = 0, .profile = 600, .readahead = 200, .waited = 200, .late = 50};
  start.sees_present = true;
  backend_.starts = {{start}, {"/mnt/b"}};
  const Outcome text = Run({"status", "r/a:1", "--why"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(
      text.out,
      AllOf(HasSubstr("mounted    after 0.250 s: 0.100 s manifest (2 round trips)"),
            HasSubstr("waited     0.300 s of 2.000 s so far"),
            HasSubstr("for registries: 4 reads of 4.0 KiB, 0.400 s in all: 0.020 s for a slot, 0.040 s "
                      "for an answer, 0.080 s wire, 0.030 s verified, 0.010 s stored; 1 had been foreseen"),
            HasSubstr("touched    1000 B of chunks\n"), HasSubstr("by earlier starts    600 B (60 %)"),
            HasSubstr("foreseen, and too late        50 B (5 %)"),
            HasSubstr("not foreseen                  150 B (15 %)")));
  EXPECT_THAT(text.out, AllOf(HasSubstr("mount      /mnt/b\nnot known"), Not(HasSubstr("hint")),
                              Not(HasSubstr("other nodes"))));

  const Json json = RunJson({"status", "r/a:1", "--why"});
  EXPECT_EQ(json["unknown"], Json::parse(R"(["/mnt/b"])"));
  const Json& shown = json["starts"][0];
  EXPECT_EQ(shown["mounted_after_seconds"], 0.25);
  EXPECT_EQ(shown["waited"]["origin"]["answer_seconds"], 0.04);
  EXPECT_EQ(shown["waited"]["peer"]["reads"], 0);
  EXPECT_EQ(shown["touched_bytes"]["profile"], 600);
  EXPECT_EQ(shown["over"], false);

  backend_.starts = {{}, {"/mnt/b", "/mnt/c"}};
  const Outcome unknown = Run({"status", "r/a:1", "--why"});
  EXPECT_EQ(unknown.exit_code, 5);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("/mnt/b, /mnt/c"), HasSubstr("does not know")));
  EXPECT_THAT(unknown.out, IsEmpty());
  backend_.failure = absl::NotFoundError("nothing is mounted");
  EXPECT_EQ(Run({"status", "r/a:1", "--why"}).exit_code, 3);
  EXPECT_EQ(Run({"status", "--why"}).exit_code, 2);
  EXPECT_EQ(Run({"status", "r/a:1"}).exit_code, 2);
  EXPECT_EQ(Run({"status", "r/a:1", "--why", "--watch"}).exit_code, 2);
}

TEST_F(CliTest, LogLevelShowsAndSets) {
  Serve();
  EXPECT_EQ(Run({"log-level"}).out, "info\n");
  EXPECT_EQ(Run({"log-level", "debug"}).out, "debug\n");
  EXPECT_EQ(backend_.status.log_level, LogLevel::kDebug);
  EXPECT_EQ(RunJson({"log-level"})["log_level"], "debug");
  EXPECT_EQ(RunJson({"status"})["log_level"], "debug");
  EXPECT_EQ(Run({"log-level", "loud"}).exit_code, 2);
  EXPECT_EQ(backend_.status.log_level, LogLevel::kDebug);
}

TEST_F(CliTest, DrainIsSetShownAndUndone) {
  Serve();
  EXPECT_EQ(RunJson({"status"})["drained"], false);
  EXPECT_THAT(Run({"status"}).out, Not(HasSubstr("drained")));
  EXPECT_THAT(Run({"drain"}).out, HasSubstr("3 hints were ended"));
  EXPECT_EQ(RunJson({"status"})["drained"], true);
  EXPECT_THAT(Run({"status"}).out, HasSubstr("drained"));
  EXPECT_EQ(RunJson({"drain", "--undo"}), Json::parse(R"({"drained": false, "hints_ended": 0})"));
  EXPECT_EQ(backend_.status.drain, DrainState::kServing);
}

TEST_F(CliTest, StatusIsATableForPeople) {
  Serve();
  backend_.status.version = "9.8.7";
  backend_.status.store = {.capacity_bytes = 64ull << 30, .size_bytes = 3 << 19, .blob_count = 5};
  ASSERT_TRUE(backend_.Mount({.reference = "r/a:1", .mount_point = "/mnt/a", .deadline = {}}).ok());
  backend_.mounts["/mnt/a"].last_error = "chunk 7: the origin timed out";
  const Outcome outcome = Run({"status"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("sluice 9.8.7"), HasSubstr("1.5 MiB of 64.0 GiB, 5 blobs"),
                                 HasSubstr("FROM ORIGIN"), HasSubstr("/mnt/a"), HasSubstr("250 B (25 %)"),
                                 HasSubstr("last error: chunk 7: the origin timed out")));
}

TEST_F(CliTest, StatusAsJson) {
  Serve();
  backend_.status.uptime = std::chrono::seconds(90);
  backend_.status.served.bytes = {uint64_t{1} << 60, 2, 3};
  backend_.status.origin_bytes = 77;
  backend_.status.cluster.configured = true;
  backend_.status.member_count = 2;
  backend_.status.peer_received_bytes = {5, 6};
  backend_.status.peer_sent_bytes = {7, 8};
  ASSERT_TRUE(backend_.Mount({.reference = "r/a:1", .mount_point = "/mnt/a", .deadline = {}}).ok());
  const Json json = RunJson({"status"});
  EXPECT_EQ(json["uptime_seconds"], 90);
  EXPECT_EQ(json["served"]["local"]["bytes"], uint64_t{1} << 60);
  EXPECT_EQ(json["served"]["origin"]["bytes"], 3);
  EXPECT_EQ(json["origin_bytes"], 77);
  EXPECT_EQ(json["peers"], Json::parse(R"({"members": 2, "configured": true, "cut_off": false,
                                       "cold_start": false, "express": {"received_bytes": 5, "sent_bytes": 7},
                                           "swarm": {"received_bytes": 6, "sent_bytes": 8}})"));
  EXPECT_EQ(json["mounts"][0]["mount_point"], "/mnt/a");
  EXPECT_EQ(json["mounts"][0]["blobs"][0]["present_bytes"], 250);
  std::vector<std::string> names;
  for (const auto& [name, value] : json.items()) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("backend", "backend_reason", "data_directory", "drained", "hints",
                                 "log_level", "mount_count", "mounts", "origin_bytes", "peers", "read_errors",
                                 "served", "store", "uptime_seconds", "version"));
}

TEST_F(CliTest, PeersIsATableForPeople) {
  Serve();
  backend_.peers.cluster.configured = true;
  backend_.peers.self = PeerAt("me", "10.0.0.9:7301", PeerState::kAlive);
  backend_.peers.self.homes_share = 0.25;
  PeerInfo silent = PeerAt("n1", "10.0.0.1:7301", PeerState::kSilent);
  silent.skipped_for = std::chrono::milliseconds(3500);
  silent.skip_reason = "connection refused";
  silent.recent_bytes = 3 << 19;
  silent.wrong_answers = 2;
  silent.blame = "chunk 7 of blob b";
  silent.blame_age = std::chrono::seconds(80);
  const PeerInfo twin = PeerAt("n1", "10.0.0.2:7301", PeerState::kTwin);
  const PeerInfo unnamed = PeerAt("", "10.0.0.3:7301", PeerState::kUnnamed);
  backend_.peers.peers = {silent, twin, unnamed};
  Outcome outcome = Run({"peers"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("this node  me at 10.0.0.9:7301, zone z, 25.0 % of homes"),
                                 HasSubstr("NAME"), HasSubstr("silent"), HasSubstr("1.5 MiB"),
                                 HasSubstr("not asked for 4s: connection refused"),
                                 HasSubstr("2 wrong answers, the last 1m 20s ago: chunk 7 of blob b"),
                                 HasSubstr("cluster.name"), HasSubstr("unnamed"), Not(HasSubstr("CUT OFF"))));

  backend_.peers.cluster.cut_off = backend_.status.cluster.cut_off = true;
  backend_.status.member_count = 3;
  EXPECT_THAT(Run({"peers"}).out, HasSubstr("CUT OFF: this node reaches fewer than half"));
  EXPECT_THAT(Run({"status"}).out, HasSubstr("CUT OFF: this node reaches fewer than half"));
  backend_.peers.cluster.cold_start = backend_.status.cluster.cold_start = true;
  EXPECT_THAT(Run({"peers"}).out, HasSubstr("cold start"));
  EXPECT_THAT(Run({"status"}).out, HasSubstr("cold start"));
  backend_.peers.peers.clear();
  EXPECT_THAT(Run({"peers"}).out, HasSubstr("none yet"));
}

TEST_F(CliTest, PeersAsJson) {
  Serve();
  backend_.peers.cluster = {.configured = true, .cut_off = true};
  backend_.peers.self.name = "me";
  PeerInfo peer = PeerAt("n1", "10.0.0.1:7301", PeerState::kNotAsked);
  peer.skipped_for = std::chrono::milliseconds(3500);
  peer.homes_share = 0.5;
  backend_.peers.peers = {peer};
  const Json json = RunJson({"peers"});
  EXPECT_EQ(json["cluster"], (Json{{"configured", true}, {"cut_off", true}, {"cold_start", false}}));
  EXPECT_EQ(json["self"]["name"], "me");
  ASSERT_EQ(json["peers"].size(), 1u);
  EXPECT_EQ(json["peers"][0]["state"], "not_asked");
  EXPECT_EQ(json["peers"][0]["addresses"], Json({"10.0.0.1:7301"}));
  EXPECT_EQ(json["peers"][0]["skipped_for_seconds"], 3.5);
  EXPECT_EQ(json["peers"][0]["homes_share"], 0.5);
  EXPECT_EQ(json["peers"][0]["blame_age_seconds"], nullptr);
}

TEST_F(CliTest, ANodeWithoutPeersSaysSo) {
  Serve();
  const Outcome outcome = Run({"peers"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "This node was told of no other nodes; name them in cluster.members.\n");
  const Json json = RunJson({"peers"});
  EXPECT_EQ(json["self"], nullptr);
  EXPECT_EQ(json["peers"], Json::array());
}

TEST_F(CliTest, MountSendsAnAbsolutePathAndTheFill) {
  Serve();
  EXPECT_EQ(RunJson({"mount", "r/a:1", "/mnt/x/../a/", "--fill"})["mount_point"], "/mnt/a");
  EXPECT_EQ(backend_.last_mount().fill, FillMode::kBackground);
  EXPECT_EQ(Run({"mount", "r/a:1", "relative", "--no-fill"}).exit_code, 0);
  EXPECT_THAT(backend_.last_mount().mount_point, AllOf(StartsWith("/"), ::testing::EndsWith("/relative")));
  EXPECT_EQ(backend_.last_mount().fill, FillMode::kOnDemand);
  EXPECT_EQ(Run({"mount", "r/a:1", "/"}).exit_code, 0);
  EXPECT_EQ(backend_.last_mount().mount_point, "/");
  EXPECT_EQ(backend_.last_mount().fill, FillMode::kDefault);
}

TEST_F(CliTest, WaitFollowsTheFillToItsEnd) {
  Serve();
  const auto progress = [](uint64_t present, FillState state, const char* error = "") {
    return std::vector<FillProgress>{
        {.blob = {TestDigest(1), 1000, present}, .state = state, .error = error}};
  };
  backend_.fill_snapshots = {progress(0, FillState::kFilling), progress(500, FillState::kFilling),
                             progress(1000, FillState::kComplete)};
  const Outcome outcome = Run({"mount", "r/a:1", "/mnt/a", "--fill", "--wait"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, IsEmpty()) << "progress belongs on a terminal only";

  backend_.fill_snapshots = {progress(500, FillState::kFailed, "the registry is down")};
  const Outcome failed = Run({"mount", "r/a:1", "/mnt/a", "--fill", "--wait"});
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, HasSubstr("the registry is down"));

  backend_.fill_snapshots = {progress(500, FillState::kIdle)};
  EXPECT_EQ(Run({"mount", "r/a:1", "/mnt/a", "--wait"}).exit_code, 5);
}

TEST_F(CliTest, UmountOfNothingExitsWith3) {
  Serve();
  EXPECT_EQ(Run({"mount", "r/a:1", "/mnt/a"}).exit_code, 0);
  EXPECT_EQ(Run({"umount", "/mnt/a"}).exit_code, 0);
  EXPECT_EQ(Run({"umount", "/mnt/a"}).exit_code, 3);
}

class CliHoldersTest : public CliTest {
 protected:
  void SetUp() override {
    for (const std::string name : {"a", "b"}) {
      MountInfo mount;
      mount.reference = "r/" + name + ":1";
      mount.mount_point = "/mnt/" + name;
      mount.backend = "fuse";
      backend_.mounts[mount.mount_point] = mount;
    }
    MountHolder holder;
    holder.pid = 7;
    holder.process = "nginx";
    holder.path = "/usr/sbin/nginx";
    holder.mount_space = "mnt:[1]";
    holder.mount_point = "/mnt/a";
    holder.reference = "r/a:1";
    backend_.holders.holders.push_back(holder);
    holder.pid = 8;
    holder.pod_namespace = "shop";
    holder.pod = "web-0";
    holder.container = "main";
    holder.pod_uid = "u-1";
    holder.container_id = std::string(64, 'c');
    backend_.holders.holders.push_back(holder);
    backend_.holders.complete = true;
    Serve();
  }
};

TEST_F(CliHoldersTest, WhoUsesWhatIsMountedIsTold) {
  const Outcome text = Run({"status", "--holders"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.out,
            "/mnt/a  r/a:1\n"
            "  pid 7 (nginx) uses /usr/sbin/nginx\n"
            "  pid 8 (nginx) of pod shop/web-0, container main, uses /usr/sbin/nginx\n"
            "/mnt/b  r/b:1\n"
            "  no process that this node sees uses it\n");
  const Json json = RunJson({"status", "--holders"});
  EXPECT_EQ(json["mounts"][0]["holders"][0], (Json{{"pid", 7},
                                                   {"process", "nginx"},
                                                   {"path", "/usr/sbin/nginx"},
                                                   {"mount_space", "mnt:[1]"},
                                                   {"pod", nullptr},
                                                   {"container_id", ""}}));
  EXPECT_EQ(json["mounts"][0]["holders"][1]["pod"],
            (Json{{"namespace", "shop"}, {"name", "web-0"}, {"container", "main"}, {"uid", "u-1"}}));
  EXPECT_EQ(json["mounts"][0]["mounted"], true);
  EXPECT_EQ(json["mounts"][1]["holders"], Json::array());
  EXPECT_EQ(json["complete"], true);

  backend_.mounts.erase("/mnt/a");
  backend_.holders.more = 3;
  backend_.holders.complete = false;
  backend_.holders.holders[1].pod.clear();
  const Outcome unmounted = Run({"status", "--holders"});
  EXPECT_THAT(unmounted.out, AllOf(HasSubstr("/mnt/a  r/a:1  (not mounted any more)\n"),
                                   HasSubstr("of the pod with uid u-1,"), HasSubstr("and 3 more processes"),
                                   HasSubstr("there may be others")));
}

TEST_F(CliHoldersTest, AnEndOfAllMountsIsTriedMadeAndForced) {
  const Outcome tried = Run({"umount", "--all", "--dry-run"});
  EXPECT_EQ(tried.exit_code, 5);
  EXPECT_THAT(tried.out, HasSubstr("pid 8 (nginx) of pod shop/web-0"));
  EXPECT_THAT(tried.err, AllOf(HasSubstr("in use by 2 processes"), HasSubstr("--force")));
  EXPECT_THAT(backend_.calls(), ElementsAre("ListMounts", "ListHolders")) << "it changes nothing";

  const Outcome made = Run({"umount", "--all"});
  EXPECT_EQ(made.exit_code, 5);
  EXPECT_THAT(made.out, AllOf(HasSubstr("unmounted /mnt/b"),
                              HasSubstr("still mounted: /mnt/a  r/a:1: unmount: busy\n  pid 7")));
  EXPECT_THAT(made.err, HasSubstr("1 of 2 images are mounted still"));

  const Outcome forced = Run({"umount", "--all", "--force"});
  EXPECT_EQ(forced.exit_code, 0) << forced.err;
  EXPECT_THAT(forced.out, AllOf(HasSubstr("unmounted /mnt/a  r/a:1, whose readers get errors now\n  pid 7"),
                                Not(HasSubstr("/mnt/b"))));
  EXPECT_EQ(RunJson({"umount", "--all"})["results"], Json::array());
  backend_.holders.holders.clear();
  const Outcome none = Run({"umount", "--all", "--dry-run"});
  EXPECT_EQ(none.exit_code, 0) << none.err;
  EXPECT_EQ(none.out, "Nothing is mounted.\n");

  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"umount"},
                                             {"umount", "/mnt/a", "--all"},
                                             {"umount", "/mnt/a", "--force"},
                                             {"umount", "/mnt/a", "--dry-run"}}) {
    EXPECT_EQ(Run(wrong).exit_code, 2);
  }
}

TEST_F(CliTest, BlobCommands) {
  Serve();
  BlobInfo blob;
  blob.digest = TestDigest(1);
  blob.size_bytes = 4096;
  blob.present_bytes = 1024;
  blob.origins = {{"r:5000", "team/app"}};
  backend_.blobs[blob.digest] = blob;
  backend_.evict_freed_bytes = 512;

  EXPECT_EQ(RunJson({"blob", "ls"})["blobs"][0]["digest"], digest_);
  const Json stat = RunJson({"blob", "stat", digest_});
  EXPECT_EQ(stat["origins"][0]["repository"], "team/app");
  EXPECT_TRUE(stat["last_access_time"].is_null());
  EXPECT_EQ(RunJson({"blob", "pin", digest_})["pinned"], true);
  EXPECT_TRUE(backend_.blobs[blob.digest].pinned);
  EXPECT_EQ(RunJson({"blob", "unpin", digest_})["pinned"], false);
  EXPECT_EQ(RunJson({"blob", "evict", digest_})["freed_bytes"], 512);
  EXPECT_THAT(Run({"blob", "stat", digest_}).out, HasSubstr("1.0 KiB (25 %)"));
  EXPECT_EQ(Run({"blob", "stat", TestDigest(9).ToString()}).exit_code, 3);
  EXPECT_EQ(Run({"blob", "stat", "sha256:../../etc/passwd"}).exit_code, 2);
}

TEST_F(CliTest, ABlobIsNamedByWhatARegistryKeepsOfItToo) {
  Serve();
  BlobInfo blob;
  blob.digest = TestDigest(1);
  blob.size_bytes = 4096;
  blob.origins = {{"r:5000", "team/app"}, {"r:5000", "plain"}};
  const Digest stored = TestDigest(5);
  blob.stored[blob.origins[0]] = {stored, 1024, std::nullopt};
  backend_.blobs[blob.digest] = blob;

  const Json stat = RunJson({"blob", "stat", stored.ToString()});
  EXPECT_EQ(stat["digest"], digest_);
  EXPECT_EQ(stat["origins"][0]["stored_digest"], stored.ToString());
  EXPECT_EQ(stat["origins"][0]["stored_size_bytes"], 1024);
  EXPECT_EQ(stat["origins"][1]["stored_digest"], digest_);
  EXPECT_EQ(stat["origins"][1]["stored_size_bytes"], 4096);
  const Outcome shown = Run({"blob", "stat", stored.ToString()});
  EXPECT_THAT(shown.out, HasSubstr("r:5000/team/app, stored as " + stored.ToString() + ", 1.0 KiB"));
  EXPECT_THAT(shown.err, HasSubstr(stored.ToString() + " is what a registry keeps of blob " + digest_));
  EXPECT_EQ(Run({"blob", "stat", digest_}).err, "");
  EXPECT_EQ(RunJson({"blob", "pin", stored.ToString()})["digest"], digest_);
  EXPECT_TRUE(backend_.blobs[blob.digest].pinned);
}

TEST_F(CliTest, ListsMoreBlobsThanOnePage) {
  Serve();
  for (int i = 0; i < 2500; ++i) {
    std::array<uint8_t, Digest::kBytes> name{};
    name[0] = static_cast<uint8_t>(i >> 8);
    name[1] = static_cast<uint8_t>(i);
    BlobInfo blob;
    blob.digest = Digest(name);
    backend_.blobs[blob.digest] = blob;
  }
  EXPECT_EQ(RunJson({"blob", "ls"})["blobs"].size(), 2500u);
}

TEST_F(CliTest, VerifyShowsHowFarItIsByLinesWhereThereIsNoTerminal) {
  Serve();
  backend_.blobs[TestDigest(1)].digest = TestDigest(1);
  backend_.verify_steps = {{.read_bytes = 0, .total_bytes = 4 << 20, .found = {}},
                           {.read_bytes = 1 << 20, .total_bytes = 4 << 20, .found = {}},
                           {.read_bytes = 4 << 20, .total_bytes = 4 << 20, .found = {}}};
  const Outcome outcome = Run({"blob", "verify", digest_});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("verifying: 100 %, 4.0 of 4.0 MiB\n"));
  EXPECT_THAT(outcome.err, Not(HasSubstr("\r")));
  EXPECT_THAT(outcome.out, HasSubstr("0 bad chunks"));
}

TEST_F(CliTest, CtrlCEndsAVerifyAtTheDaemonToo) {
  Serve();
  backend_.blobs[TestDigest(1)].digest = TestDigest(1);
  backend_.verify_steps = {{.read_bytes = 0, .total_bytes = 4 << 20, .found = {}}};
  backend_.verify_until_cancelled = true;
  const pid_t sluice = Spawn({"blob", "verify", digest_});
  const auto verifies = [this] {
    const std::vector<std::string> calls = backend_.calls();
    return std::find(calls.begin(), calls.end(), "VerifyBlob " + digest_) != calls.end();
  };
  while (!verifies()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(sluice, SIGINT);
  const Outcome outcome = Await(sluice);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("interrupted"));
  while (backend_.verifies_cancelled == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST_F(CliTest, VerifyExitsWith1IfChunksWereBad) {
  Serve();
  backend_.blobs[TestDigest(1)].digest = TestDigest(1);
  backend_.verify_report = {.checked_bytes = 4096, .bad_chunks = 0, .unprovable_chunks = 2};
  EXPECT_EQ(RunJson({"blob", "verify", digest_})["unprovable_chunks"], 2);
  backend_.verify_report.bad_chunks = 3;
  const Outcome outcome = Run({"blob", "verify", digest_});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("3 bad chunks"));
}

TEST_F(CliTest, ARecipeGoesToAFileOrToStdout) {
  Serve();
  backend_.blobs[TestDigest(1)].digest = TestDigest(1);
  backend_.recipe = std::string("d4:\0\xff binary", 12);
  const Outcome outcome = Run({"blob", "recipe", digest_});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, backend_.recipe);
  const std::string file = dir_.File("blob.torrent");
  EXPECT_EQ(RunJson({"blob", "recipe", digest_, "-o", file})["bytes"], backend_.recipe.size());
  EXPECT_EQ(ReadFile(file), backend_.recipe);
  EXPECT_EQ(Run({"blob", "recipe", digest_, "-o", dir_.File("missing/x")}).exit_code, 3);
  EXPECT_EQ(Run({"blob", "recipe", TestDigest(9).ToString()}).exit_code, 3);
}

TEST_F(CliTest, ARecipeIsNotWrittenToATerminal) {
  Serve();
  backend_.blobs[TestDigest(1)].digest = TestDigest(1);
  backend_.recipe = "binary";
  // script(1) gives it one.
  const std::string log = dir_.File("typescript");
  const std::string command = absl::StrCat("script -qec '", SLUICE_BINARY, " --socket ", socket_,
                                           " blob recipe ", digest_, "' ", log, " </dev/null >/dev/null");
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 2);
  EXPECT_THAT(ReadFile(log), AllOf(HasSubstr("terminal"), HasSubstr("-o"), Not(HasSubstr("binary\n"))));
}

TEST_F(CliTest, AProfileIsATableJsonAndAFile) {
  Serve();
  ProfileReport& report = backend_.profiles["r/a:1"];
  report.reference = "r/a:1";
  report.manifest = TestDigest(7);
  report.is_public = true;
  report.document = "{\"version\":1}";
  report.blobs = {{.digest = TestDigest(1), .size = 4 * kChunkSizeDefault, .root = {}, .origins = {}}};
  report.profile = {3, {{0, {ChunkIndex(2), 2}, 1250, 255}, {0, {ChunkIndex(0), 1}, 3000, 128}}, {}};
  const Outcome outcome = Run({"image", "profile", "r/a:1"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("starts    3\n"), HasSubstr("768.0 KiB (75 %)"),
                                 HasSubstr("1.250 s  2      2       524288  512.0 KiB  100 %\n"
                                           "3.000 s  0      1       0       256.0 KiB  50 %\n")));
  const Json json = RunJson({"image", "profile", "r/a:1"});
  EXPECT_EQ(json["start_count"], 3);
  EXPECT_EQ(json["touched_bytes"], 3 * kChunkSizeDefault);
  EXPECT_EQ(json["blobs"][0]["digest"], digest_);
  EXPECT_EQ(json["blobs"][0]["spans"][1]["after_seconds"], 3.0);
  EXPECT_EQ(json["blobs"][0]["spans"][0]["weight"], 255);

  const std::string file = dir_.File("profile.json");
  EXPECT_EQ(Run({"image", "profile", "r/a:1", "--export", file}).exit_code, 0);
  EXPECT_EQ(ReadFile(file), report.document + "\n");
  EXPECT_EQ(Run({"image", "profile", "r/a:1", "--import", file}).exit_code, 0);
  EXPECT_EQ(backend_.calls().back(), absl::StrCat("ImportProfile r/a:1 ", report.document, "\n"));
}

TEST_F(CliTest, AProfileThatIsNotThereOrCannotBeReadIsAnError) {
  Serve();
  EXPECT_EQ(Run({"image", "profile", "r/b:1"}).exit_code, 3);
  EXPECT_EQ(Run({"image", "profile"}).exit_code, 2);
  EXPECT_EQ(
      Run({"image", "profile", "r/a:1", "--export", dir_.File("x"), "--import", dir_.File("y")}).exit_code,
      2);
  EXPECT_THAT(Run({"image", "profile", "r/a:1", "--import", dir_.File("missing")}).err, HasSubstr("missing"));
  const std::string file = dir_.File("large");
  std::ofstream(file) << std::string(70'000, 'x');
  const Outcome outcome = Run({"image", "profile", "r/a:1", "--import", file});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("65536 bytes"));
  backend_.failure = absl::InvalidArgumentError("it is malformed");
  std::ofstream(file) << "{}";
  EXPECT_THAT(Run({"image", "profile", "r/a:1", "--import", file}).err,
              AllOf(HasSubstr("cannot import " + file), HasSubstr("it is malformed")));
}

TEST_F(CliTest, ARecordingMountsRunsUnmountsAndSaysWhatCameOfIt) {
  Serve();
  const std::string environment = "TMPDIR=" + dir_.File("");
  backend_.on_unmount = [this] { ++backend_.profiles["r/a:1"].profile.runs; };
  const Outcome outcome =
      Run({"--output", "json", "image", "profile", "record", "r/a:1", "--", "sh", "-c",
           "test \"$(pwd -P)\" = \"$(cd \"$SLUICE_MOUNT\" && pwd -P)\" && echo said && test -z \"$HOME\""},
          {environment, "SLUICE_MOUNT=/another", "PATH=/usr/bin:/bin"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["start_count"], 1) << outcome.out;
  EXPECT_THAT(outcome.err, HasSubstr("said\n"));
  EXPECT_EQ(backend_.last_mount().recording, StartRecording::kWhileMounted);
  EXPECT_THAT(backend_.mounts, IsEmpty());
  EXPECT_THAT(backend_.last_mount().mount_point, HasSubstr("/sluice-record-"));
  EXPECT_FALSE(std::filesystem::exists(backend_.last_mount().mount_point));
  // An ordinary mount is recorded as configured.
  EXPECT_EQ(Run({"mount", "r/a:1", "/mnt/a"}).exit_code, 0);
  EXPECT_EQ(backend_.last_mount().recording, StartRecording::kAsConfigured);
}

TEST_F(CliTest, ARecordingEndsAsItsCommandDoes) {
  Serve();
  const std::vector<std::string> environment = {"TMPDIR=" + dir_.File(""), "PATH=/usr/bin:/bin"};
  const auto record = [&](std::vector<std::string> command) {
    command.insert(command.begin(), {"image", "profile", "record", "r/a:1", "--"});
    return Run(command, environment);
  };
  const Outcome nothing = record({"true"});
  EXPECT_EQ(nothing.exit_code, 5);
  EXPECT_THAT(nothing.err, HasSubstr("nothing was recorded"));
  backend_.on_unmount = [this] { ++backend_.profiles["r/a:1"].profile.runs; };
  EXPECT_EQ(record({"sh", "-c", "exit 77"}).exit_code, 77);
  EXPECT_EQ(record({"sh", "-c", "kill -9 $$"}).exit_code, 137);
  EXPECT_EQ(record({"no-such-program"}).exit_code, 2);
  EXPECT_EQ(Run({"image", "profile", "record", "r/a:1"}, environment).exit_code, 2);
  EXPECT_THAT(backend_.mounts, IsEmpty());
  EXPECT_EQ(backend_.profiles["r/a:1"].profile.runs, 3u);
}

TEST_F(CliTest, CtrlCEndsARecordingsCommandAndUnmounts) {
  Serve();
  const std::string ready = dir_.File("ready");
  const pid_t pid =
      Spawn({"image", "profile", "record", "r/a:1", "--", "sh", "-c", "echo > " + ready + "; exec sleep 300"},
            {"TMPDIR=" + dir_.File(""), "PATH=/usr/bin:/bin"});
  while (ReadFile(ready).empty()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(pid, SIGINT);
  EXPECT_EQ(Await(pid).exit_code, 128 + SIGTERM);
  EXPECT_THAT(backend_.mounts, IsEmpty());
}

TEST_F(CliTest, LocalityIsATableAndJson) {
  ServeHints();
  locality_.answer = std::vector<ImageLocality>{
      {.reference = "r/a:1", .total_bytes = 1000, .present_bytes = 10, .nodes = {{"n1", 900}}}};
  const Outcome outcome = Run({"prefetch", "locality", "r/a:1", "--cluster"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("n1"), HasSubstr("900 B (90 %)"), HasSubstr("10 B (1 %)")));
  EXPECT_EQ(locality_.queries.back().scope, LocalityScope::kCluster);
  const Json json = RunJson({"prefetch", "locality", "r/a:1"});
  EXPECT_EQ(locality_.queries.back().scope, LocalityScope::kNode);
  EXPECT_EQ(json["images"][0]["nodes"][0]["present_bytes"], 900);
  EXPECT_TRUE(json["images"][0]["error"].is_null());
  locality_.answer->at(0).error = absl::NotFoundError("it is nowhere");
  EXPECT_EQ(Run({"prefetch", "locality", "r/a:1"}).exit_code, 3);
}

TEST_F(CliTest, SubmitFollowsTheHintToItsEnd) {
  ServeHints();
  hints_.Begin({{.state = HintState::kQueued},
                {.state = HintState::kFetching, .total_bytes = 1000, .present_bytes = 10},
                {.state = HintState::kCompleted, .total_bytes = 1000, .present_bytes = 1000}});
  const Outcome outcome = Run({"prefetch", "submit", "r/a:1", "--id", "one"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("one"), HasSubstr("r/a:1"), HasSubstr("completed")));
  EXPECT_THAT(outcome.err, AllOf(StartsWith("prefetching: "), HasSubstr("100 %"), Not(HasSubstr("\r"))))
      << "a bar belongs on a terminal only";
  const Json json = RunJson({"prefetch", "watch", "one"});
  EXPECT_EQ(json["hints"][0]["state"], "completed");
  EXPECT_EQ(json["hints"][0]["present_bytes"], 1000);
  EXPECT_TRUE(json["hints"][0]["error"].is_null());
}

TEST_F(CliTest, SubmitSendsAllThatItWasGiven) {
  ServeHints();
  const Json json = RunJson({"prefetch", "submit", "r/a:1", "--detach", "--platform", "linux/arm64/v8",
                             "--range", digest_ + ":5+7", "--range", digest_ + ":100+1", "--priority", "-3",
                             "--needed-in", "2h", "--ttl", "1.5m", "--scheduler", "me"});
  EXPECT_EQ(json["hints"][0]["state"], "queued");
  const std::string id = json["hints"][0]["id"];
  EXPECT_THAT(id, StartsWith("cli-"));
  const HintSpec spec = hints_.hints().at(id);
  EXPECT_EQ(spec.platform, (HintPlatform{"linux", "arm64", "v8"}));
  EXPECT_THAT(spec.ranges, ElementsAre(HintRange{TestDigest(1), {5, 7}}, HintRange{TestDigest(1), {100, 1}}));
  EXPECT_EQ(spec.priority, -3);
  EXPECT_GT(spec.needed_by, std::chrono::system_clock::now() + std::chrono::hours(1));
  EXPECT_EQ(spec.ttl, std::chrono::seconds(90));
  EXPECT_EQ(spec.scheduler, "me");
  EXPECT_NE(RunJson({"prefetch", "submit", "r/a:1", "--detach"})["hints"][0]["id"], id) << "each its own";
}

TEST_F(CliTest, AHintThatFailsDecidesTheExitCode) {
  ServeHints();
  const std::pair<absl::StatusCode, int> cases[] = {{absl::StatusCode::kNotFound, 3},
                                                    {absl::StatusCode::kPermissionDenied, 5},
                                                    {absl::StatusCode::kInvalidArgument, 2},
                                                    {absl::StatusCode::kDataLoss, 1}};
  for (const auto& [code, exit_code] : cases) {
    hints_.Begin({{.state = HintState::kFailed, .error = absl::Status(code, "the registry says no")}});
    const Outcome outcome = Run({"prefetch", "submit", "r/a:1", "--id", "x"});
    EXPECT_EQ(outcome.exit_code, exit_code);
    EXPECT_THAT(outcome.err, HasSubstr("hint x failed: the registry says no"));
  }
  hints_.Begin({{.state = HintState::kCancelled}});
  EXPECT_EQ(Run({"prefetch", "watch", "x"}).exit_code, 1);

  hints_.refusal = absl::AlreadyExistsError("hint \"x\" is known already, with other ranges");
  const Outcome refused = Run({"prefetch", "submit", "r/a:1", "--id", "x"});
  EXPECT_EQ(refused.exit_code, 5);
  EXPECT_EQ(refused.err, "sluice: cannot prefetch r/a:1: hint \"x\" is known already, with other ranges.\n");
}

TEST_F(CliTest, CancelAndUnknownHints) {
  ServeHints();
  EXPECT_EQ(Run({"prefetch", "submit", "r/a:1", "--id", "x", "--detach"}).exit_code, 0);
  EXPECT_EQ(RunJson({"prefetch", "cancel", "x"})["hints"][0]["state"], "cancelled");
  EXPECT_EQ(Run({"prefetch", "cancel", "y"}).exit_code, 3);
  EXPECT_EQ(Run({"prefetch", "watch", "y"}).exit_code, 3);
}

TEST_F(CliTest, InterruptEndsTheWaitingAndSaysThatTheHintGoesOn) {
  ServeHints();
  hints_.Begin({{.state = HintState::kFetching, .total_bytes = 1000, .present_bytes = 10}});
  const pid_t pid = Spawn({"prefetch", "submit", "r/a:1", "--id", "x"});
  while (hints_.polls() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(pid, SIGINT);
  const Outcome outcome = Await(pid);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("goes on"), HasSubstr("sluice prefetch watch x")));
}

TEST_F(CliTest, WithoutASocketForHintsItSaysWhichFlagNamesIt) {
  const Outcome outcome = Run({"prefetch", "watch", "x"});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr(dir_.File("prefetch.sock")), HasSubstr("--prefetch-socket")));
  ServeHints();
  EXPECT_EQ(Run({"--socket", "/nowhere/api.sock", "--prefetch-socket", dir_.File("prefetch.sock"), "prefetch",
                 "watch", "x"})
                .exit_code,
            3);
}

TEST_F(CliTest, TimeoutEndsACallThatHangs) {
  Serve();
  backend_.Hold();
  EXPECT_EQ(Run({"--timeout", "50ms", "status"}).exit_code, 1);
  backend_.Release();
}

TEST_F(CliTest, ConfigIsValidatedAndShown) {
  const std::string file = dir_.File("config.yaml");
  std::ofstream(file) << "dataDir: /srv/sluice\n";
  EXPECT_EQ(RunJson({"config", "validate", file})["valid"], true);
  EXPECT_EQ(RunJson({"config", "show", file})["dataDir"], "/srv/sluice");
  EXPECT_THAT(Run({"config", "show", file}).out, HasSubstr("/srv/sluice"));

  std::ofstream(file) << "dataDirr: /srv/sluice\n";
  const Outcome outcome = Run({"config", "validate", file});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("dataDirr"), HasSubstr("dataDir")));
  EXPECT_EQ(Run({"config", "validate", dir_.File("missing.yaml")}).exit_code, 3);
}

TEST_F(CliTest, DoctorListsWhatItTriedAndExitsAccordingly) {
  const Outcome outcome = Run({"--output", "json", "doctor", "--data-dir", dir_.path()});
  const Json json = Json::parse(outcome.out, nullptr, false);
  ASSERT_FALSE(json["backends"][0]["requirements"].empty()) << outcome.err;
  EXPECT_EQ(outcome.exit_code, json["works"] == true ? 0 : 1);
  for (const Json& requirement : json["backends"][0]["requirements"]) {
    EXPECT_NE(requirement["name"], "");
    EXPECT_TRUE(requirement["holds"] == true || requirement["remedy"] != "") << requirement;
  }
}

TEST_F(CliTest, DoctorSaysWhetherOthersReachThisNode) {
  const auto peers = [&] {
    return Json::parse(Run({"--output", "json", "doctor", "--data-dir", dir_.path()}).out)["peers"];
  };
  Json checks = peers();
  ASSERT_EQ(checks.size(), 1u);
  EXPECT_EQ(checks[0]["holds"], nullptr);
  EXPECT_THAT(checks[0]["detail"], HasSubstr("not tried: cannot reach the daemon"));
  Serve();
  EXPECT_THAT(peers()[0]["detail"], HasSubstr("told of no other nodes"));

  backend_.peers.cluster.configured = true;
  EXPECT_THAT(peers()[1]["detail"], HasSubstr("no other node has answered yet"));
  backend_.peers.peers = {PeerAt("a", "10.0.0.1:7301", PeerState::kAlive)};
  EXPECT_EQ(peers()[1]["holds"], false) << "it has no address";
  EXPECT_THAT(peers()[1]["remedy"], HasSubstr("cluster.advertise"));

  backend_.dials = {{"10.0.0.9:7301", "a", DialOutcome::kReached, ""},
                    {"10.0.0.9:7301", "b", DialOutcome::kNotReached, ""},
                    {"10.0.0.8:7301", "a", DialOutcome::kNotReached, ""},
                    {"10.0.0.8:7301", "b", DialOutcome::kNotTried, "status 429"}};
  checks = peers();
  ASSERT_EQ(checks.size(), 3u);
  EXPECT_EQ(checks[0]["holds"], true);
  EXPECT_EQ(checks[1]["name"], "others reach this node at 10.0.0.8:7301");
  EXPECT_EQ(checks[1]["holds"], false);
  EXPECT_EQ(checks[1]["detail"], "not by a; not tried by b (status 429)");
  EXPECT_THAT(checks[1]["remedy"], HasSubstr("cluster.advertise"));
  EXPECT_EQ(checks[2]["holds"], true);
  EXPECT_EQ(checks[2]["detail"], "reached by a; not by b");
  backend_.peers.cluster.cut_off = true;
  EXPECT_EQ(peers()[0]["holds"], false);

  const Outcome outcome = Run({"doctor", "--data-dir", dir_.path()});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("FAIL others reach this node at 10.0.0.8:7301: not by a"),
                                 HasSubstr("ok   others reach this node at 10.0.0.9:7301"),
                                 HasSubstr("FAIL reaches the other nodes")));
}

TEST_F(CliTest, VersionNeedsNoDaemon) {
  EXPECT_THAT(Run({"version"}).out, StartsWith("sluice "));
  EXPECT_TRUE(RunJson({"version"}).contains("version"));
}

}  // namespace
}  // namespace sluice::api
