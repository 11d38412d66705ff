#include "node/daemon/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "node/daemon/units.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    char folder[] = "/tmp/sluice-config-XXXXXX";
    folder_ = mkdtemp(folder);
  }
  ~ConfigTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<Config> LoadText(const std::string& yaml) {
    sources_.file = folder_ + "/node.yaml";
    std::ofstream(sources_.file) << yaml;
    return LoadConfig(sources_);
  }
  std::string ErrorOf(const std::string& yaml) {
    const absl::StatusOr<Config> config = LoadText(yaml);
    EXPECT_FALSE(config.ok()) << yaml;
    return std::string(config.status().message());
  }

  std::string folder_;
  ConfigSources sources_;
};

TEST_F(ConfigTest, ReadsAllKindsOfValues) {
  const absl::StatusOr<Config> config = LoadText(R"(
dataDir: /data
images:
  allow: ["a.example/*", "b.example/team/*"]
origin:
  connectTimeout: 1.5s
  minRate: 4Ki
  retries: 0
ondemand: {fill: true, readDeadline: 250ms}
)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->data_dir, "/data");
  EXPECT_THAT(config->images_allow, ElementsAre("a.example/*", "b.example/team/*"));
  EXPECT_EQ(config->origin_connect_timeout, milliseconds(1500));
  EXPECT_EQ(config->origin_min_rate, 4096u);
  EXPECT_EQ(config->origin_retries, 0u);
  EXPECT_TRUE(config->ondemand_fill);
  EXPECT_EQ(config->ondemand_read_deadline, milliseconds(250));
}

TEST_F(ConfigTest, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  EXPECT_EQ(LoadText("")->ondemand_read_deadline, seconds(30));
  EXPECT_EQ(LoadText("ondemand: {readDeadline: 1s}")->ondemand_read_deadline, seconds(1));
  sources_.environment["SLUICE_ONDEMAND_READ_DEADLINE"] = "2s";
  EXPECT_EQ(LoadText("ondemand: {readDeadline: 1s}")->ondemand_read_deadline, seconds(2));
  sources_.flags["ondemand.readDeadline"] = "3s";
  EXPECT_EQ(LoadText("ondemand: {readDeadline: 1s}")->ondemand_read_deadline, seconds(3));
}

TEST_F(ConfigTest, AnUnknownKeyIsAnErrorWithItsLineAndASuggestion) {
  EXPECT_THAT(ErrorOf("dataDir: /d\nondemand:\n  readDeadlin: 1s\n"),
              AllOf(HasSubstr("node.yaml:3"), HasSubstr("ondemand.readDeadlin"),
                    HasSubstr("did you mean \"ondemand.readDeadline\"?")));
  EXPECT_THAT(ErrorOf("datadir: /d\n"), HasSubstr("did you mean \"dataDir\"?"));
  EXPECT_THAT(ErrorOf("completelyElse: 1\n"), ::testing::Not(HasSubstr("did you mean")));
}

TEST_F(ConfigTest, BadValuesSayWhereAndWhatIsAccepted) {
  EXPECT_THAT(ErrorOf("ondemand:\n  readDeadline: 30\n"),
              AllOf(HasSubstr("node.yaml:2"), HasSubstr("as in 20ms")));
  EXPECT_THAT(ErrorOf("origin:\n  minRate: 10 potatoes\n"), HasSubstr("as in 64Gi"));
  EXPECT_THAT(ErrorOf("log: {level: loud}\n"), HasSubstr("debug, info, warn, error"));
  EXPECT_THAT(ErrorOf("ondemand: {fill: perhaps}\n"), HasSubstr("neither true nor false"));
  EXPECT_THAT(ErrorOf("origin: {retries: -1}\n"), HasSubstr("from 0 to 20"));
  EXPECT_THAT(ErrorOf("images: {allow: everything}\n"), HasSubstr("is a list"));
  EXPECT_THAT(ErrorOf("dataDir: [a]\n"), HasSubstr("one value"));
  EXPECT_THAT(ErrorOf("dataDir: /a\ndataDir: /b\n"), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf("ondemand: fanotify\n"), HasSubstr("section"));
  EXPECT_THAT(ErrorOf("- a\n- b\n"), HasSubstr("map of keys"));
  EXPECT_THAT(ErrorOf("a: [\n"), AllOf(HasSubstr("not valid YAML"), HasSubstr("node.yaml:")));
}

TEST_F(ConfigTest, WhoeverTellsWhatWasPushedShowsASecretAndVerifiersLieAtAPath) {
  EXPECT_THAT(ErrorOf("notifications: {listen: 127.0.0.1:7304}\n"),
              HasSubstr("without notifications.secretFile"));
  EXPECT_THAT(ErrorOf("notifications: {secretFile: /etc/secret}\n"),
              HasSubstr("without notifications.listen"));
  EXPECT_TRUE(LoadText("notifications: {listen: 127.0.0.1:7304, secretFile: /etc/secret}\n").ok());
  EXPECT_THAT(ErrorOf("policy: {verifierDir: verifiers}\n"), HasSubstr("must be an absolute path"));
  EXPECT_TRUE(LoadText("policy: {verifierDir: /opt/verifiers, timeout: 3s}\n").ok());
  EXPECT_THAT(ErrorOf("store: {importContainerd: true, containerdContent: content}\n"),
              HasSubstr("store.containerdContent: \"content\" must be an absolute path"));
  EXPECT_TRUE(LoadText("store: {importContainerd: true}\n").ok());
}

TEST_F(ConfigTest, WhatNothingProvesIsTakenFromNodesThatAreBelieved) {
  const auto takes = [&](const std::string& text) {
    const absl::StatusOr<Config> config = LoadText(text);
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() && config->TakesUnsealedFromMembers();
  };
  const std::string members = "cluster: {members: ['a:1']}\n";
  const std::string insecure = "cluster: {members: ['a:1'], insecurePeers: true}\n";
  const std::string tls = members + "tls: {ca: /ca, certificate: /c, key: /k}\n";
  EXPECT_FALSE(takes(""));
  EXPECT_FALSE(takes(members));
  for (const std::string& believed : {insecure, tls}) {
    EXPECT_TRUE(takes(believed));
    EXPECT_TRUE(takes(believed + "integrity: {unsealed: cluster}\n"));
    EXPECT_FALSE(takes(believed + "integrity: {unsealed: origin}\n"));
  }
  EXPECT_FALSE(takes("integrity: {unsealed: cluster}\n")) << "there is nobody";
  EXPECT_THAT(ErrorOf(members + "integrity: {unsealed: cluster}\n"),
              AllOf(HasSubstr("integrity.unsealed"), HasSubstr("cluster.insecurePeers")));
  EXPECT_THAT(ErrorOf("integrity: {unsealed: nobody}\n"), HasSubstr("cluster, origin"));
}

TEST_F(ConfigTest, AFileThatCannotBeReadIsNamed) {
  sources_.file = folder_ + "/absent.yaml";
  EXPECT_TRUE(absl::IsNotFound(LoadConfig(sources_).status()));
  EXPECT_THAT(std::string(LoadConfig(sources_).status().message()), HasSubstr(sources_.file));
  sources_.file = folder_;
  EXPECT_FALSE(LoadConfig(sources_).ok());
}

TEST_F(ConfigTest, BadEnvironmentAndFlagsAreNamed) {
  sources_.environment["SLUICE_LOG_LEVEL"] = "loud";
  EXPECT_THAT(ErrorOf(""), HasSubstr("SLUICE_LOG_LEVEL"));
  sources_.environment.clear();
  sources_.flags["log.levle"] = "info";
  EXPECT_THAT(ErrorOf(""), AllOf(HasSubstr("--set log.levle"), HasSubstr("did you mean \"log.level\"?")));
}

TEST_F(ConfigTest, VariablesThatKubernetesMakesOfAServiceAreLeftAlone) {
  sources_.environment["SLUICE_PORT_9464_TCP"] = "tcp://10.0.0.1:9464";
  EXPECT_TRUE(LoadText("").ok());
}

TEST_F(ConfigTest, WhatIsShownReadsBackTheSame) {
  sources_.flags["images.allow"] = "a/*,b/*";
  sources_.flags["fetch.inflightMax"] = "3Mi";
  const absl::StatusOr<Config> config = LoadText("ondemand: {fill: true}");
  ASSERT_TRUE(config.ok()) << config.status();
  const std::string shown = FormatConfig(*config);
  sources_.flags.clear();
  const absl::StatusOr<Config> again = LoadText(shown);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(FormatConfig(*again), shown);
  EXPECT_EQ(again->fetch_inflight_max, 3u << 20);
  EXPECT_THAT(again->images_allow, ElementsAre("a/*", "b/*"));
}

TEST_F(ConfigTest, HintsHaveASocketOfTheirOwn) {
  const absl::StatusOr<Config> config = LoadText("runtimeDir: /run/x\n");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->PrefetchSocketPath(), "/run/x/prefetch.sock");
  EXPECT_EQ(LoadText("api: {prefetchSocket: /run/y.sock}\n")->PrefetchSocketPath(), "/run/y.sock");
  EXPECT_THAT(ErrorOf("runtimeDir: /run/x\napi: {prefetchSocket: /run/x/api.sock}\n"),
              HasSubstr("api.prefetchSocket are both /run/x/api.sock"));
}

TEST_F(ConfigTest, HintsOverTheNetworkNeedTlsAndANameOfTheirOwn) {
  const std::string tls = "tls: {ca: /a, certificate: /b, key: /c}\n";
  EXPECT_TRUE(LoadText(tls + "api: {prefetchListen: \"0.0.0.0:7305\"}\n").ok());
  EXPECT_THAT(ErrorOf("api: {prefetchListen: \"127.0.0.1:7305\"}\n"),
              HasSubstr("api.prefetchListen without tls.ca"));
  EXPECT_THAT(ErrorOf(tls + "api: {prefetchListen: \"0.0.0.0:7305\", prefetchClient: Sluice}\n"),
              HasSubstr("api.prefetchClient and tls.peerName are both sluice"));
  EXPECT_THAT(ErrorOf(tls + "api: {prefetchListen: \"0.0.0.0:7305\", prefetchClient: \"*\"}\n"),
              HasSubstr("api.prefetchClient: \"*\" is no DNS name"));
}

TEST_F(ConfigTest, TlsNeedsAllOfItsFilesOrNone) {
  EXPECT_FALSE(LoadText("")->PeersAreProven());
  EXPECT_FALSE(LoadText("tls: {peerName: nodes.example}\n")->PeersAreProven());
  const absl::StatusOr<Config> config = LoadText("tls: {ca: /a, certificate: /b, key: /c}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->PeersAreProven());
  EXPECT_TRUE(config->PeersAreBelieved());
  EXPECT_EQ(config->tls_peer_name, "sluice");
  EXPECT_THAT(ErrorOf("tls: {ca: /a, key: /c}\n"), HasSubstr("tls.ca, tls.key without tls.certificate:"));
  EXPECT_THAT(ErrorOf("tls: {crlFile: /d}\n"),
              HasSubstr("tls.crlFile without tls.ca and tls.certificate and tls.key:"));
  for (const char* name : {"\"\"", "a..b", "-a", "a_b", "\"*.sluice\"", "\"a b\""})
    EXPECT_THAT(ErrorOf(std::string("tls: {peerName: ") + name + "}\n"), HasSubstr("tls.peerName: ")) << name;
}

TEST_F(ConfigTest, TheSwarmIsNotForNodesWithTls) {
  EXPECT_THAT(ErrorOf("tls: {ca: /a, certificate: /b, key: /c}\ncluster: {swarm: true}\n"),
              HasSubstr("cluster.swarm is true and TLS is on: the swarm is not encrypted"));
}

TEST_F(ConfigTest, PeersAreBelievedWithoutTlsOnlyIfTheOperatorSaysSo) {
  EXPECT_FALSE(LoadText("")->PeersAreBelieved());
  EXPECT_TRUE(LoadText("cluster: {insecurePeers: true}\n")->PeersAreBelieved());
  EXPECT_FALSE(LoadText("cluster: {insecurePeers: true}\n")->PeersAreProven());
}

TEST(SettingsTest, TheReadmeTableHasEverySettingWithItsDefault) {
  std::ifstream in(SLUICE_README);
  const std::string readme{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  ASSERT_FALSE(readme.empty());
  std::set<std::string> keys;
  for (const Setting& setting : Settings()) {
    EXPECT_TRUE(keys.insert(setting.key).second) << setting.key;
    std::string value;
    for (const std::string& item : setting.get(Config{})) value += item;
    const std::string row =
        "| `" + setting.key + "` | " + (value.empty() ? "" : "`" + value + "` ") + "| " + setting.help + " |";
    EXPECT_THAT(readme, HasSubstr(row));
  }
}

// /proc says so of itself, as a tmpfs without a limit does. A store of 0 bytes would evict all that comes.
TEST(UnitsTest, APartOfAFileSystemWithoutASizeIsNoCapacity) {
  EXPECT_EQ(CapacityOf("80%", "/proc").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_GT(CapacityOf("80%", "/").value(), 0u);
  EXPECT_EQ(CapacityOf("64Gi", "/proc").value(), uint64_t{64} << 30);
}

TEST(UnitsTest, Sizes) {
  EXPECT_EQ(*ParseSize("64Gi"), uint64_t{64} << 30);
  EXPECT_EQ(*ParseSize("10M"), 10'000'000u);
  EXPECT_EQ(*ParseSize("0"), 0u);
  for (const char* text : {"", "Gi", "-1", "1.5Gi", "1 Gi", "1gi", "99999999999999Ti", "1Gi "}) {
    EXPECT_FALSE(ParseSize(text).ok()) << text;
  }
  for (uint64_t size : {uint64_t{0}, uint64_t{1023}, uint64_t{8} << 20, uint64_t{3} << 40}) {
    EXPECT_EQ(*ParseSize(FormatSize(size)), size);
  }
}

TEST(UnitsTest, Durations) {
  EXPECT_EQ(*ParseDuration("20ms"), milliseconds(20));
  EXPECT_EQ(*ParseDuration("1.5h"), std::chrono::minutes(90));
  for (const char* text : {"", "5", "ms", "-1s", "1 s", "1e30h", "nans", "1day"}) {
    EXPECT_FALSE(ParseDuration(text).ok()) << text;
  }
  for (Duration duration :
       {Duration(0), Duration(1), Duration(milliseconds(1500)), Duration(seconds(7200))}) {
    EXPECT_EQ(*ParseDuration(FormatDuration(duration)), duration);
  }
}

TEST(UnknownVariablesTest, AreThoseThatMeanNothing) {
  EXPECT_THAT(UnknownVariables({{"SLUICE_CONFIG", ""},
                                {"SLUICE_ONDEMAND_READ_DEADLINE", "3s"},
                                {"SLUICE_ONDEMAND_READDEADLINE", "3s"},
                                {"SLUICE_API_SOCKET", ""},
                                {"SLUICE_SERVICE_PORT", "9464"},
                                {"SLUICE_PORT", "tcp://10.0.0.1:9464"},
                                {"SLUICE_PORT_9464_TCP_ADDR", "10.0.0.1"}}),
              testing::ElementsAre("SLUICE_ONDEMAND_READDEADLINE"));
}

}  // namespace
}  // namespace sluice
