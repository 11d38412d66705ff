#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/executor.h"

namespace sluice {

// All that an operator can set. The YAML keys are those of Settings(); the README's table is held against
// them by a test.
struct Config {
  std::string data_dir = "/var/lib/sluice";
  std::string runtime_dir = "/run/sluice";

  std::string log_level = "info";   // debug, info, warn, error
  std::string log_format = "text";  // text, json

  std::string operations_listen = "127.0.0.1:9464";  // metrics and health; "" turns it off
  std::string operations_names = "loopback";         // loopback, always, never
  std::string api_socket;                            // "" is <runtimeDir>/api.sock
  std::string api_prefetch_socket;                   // "" is <runtimeDir>/prefetch.sock
  std::string api_prefetch_group;                    // name or number; "" is the daemon's own
  std::string api_prefetch_listen;                   // host:port of the same over TLS; "" turns it off
  std::string api_prefetch_client = "sluice-hints";  // the DNS name of a certificate that may hint

  std::string cluster_listen;                // host:port for other nodes; "" turns it off
  std::vector<std::string> cluster_members;  // host:port
  Duration cluster_refresh = std::chrono::seconds(10);
  std::string cluster_name;  // "" is its address, or host name and port
  // host:port, or host: at cluster.listen's port; none: cluster.listen, if that is no wildcard.
  std::vector<std::string> cluster_advertise;
  std::string cluster_zone;
  std::string cluster_zone_label;  // of the node's object in Kubernetes, which tells the zone; "" is none
  Duration cluster_member_ttl = std::chrono::minutes(5);
  bool cluster_insecure_peers = false;

  // PEM files; ca, certificate and key are all there or none: then there is no TLS between nodes.
  std::string tls_ca;
  std::string tls_certificate;
  std::string tls_key;
  std::string tls_crl_file;  // "" is none
  std::string tls_peer_name = "sluice";

  uint64_t peers_last_resort_rate = 8 << 20;  // bytes a second
  uint64_t peers_upload_max = 0;              // bytes a second; 0: no bound
  uint64_t peers_download_max = 0;            // the same
  uint32_t peers_fanout = 2;
  std::string integrity_unsealed;  // cluster, origin; "" is cluster if members are believed
  bool cluster_swarm = false;      // with a listener
  uint32_t cluster_swarm_port = 7302;
  uint32_t swarm_torrents_max = 64;

  std::string mirror_listen;                    // host:port for container runtimes; "" turns it off
  std::string mirror_authorization = "origin";  // origin, open
  Duration mirror_budget = std::chrono::seconds(5);
  bool mirror_stale_tags = false;
  Duration mirror_public_ttl = std::chrono::hours(24);

  std::string policy_verifier_dir;  // "": every image may be had
  Duration policy_timeout = std::chrono::seconds(10);

  std::string notifications_listen;  // host:port for registries; "" turns it off
  std::string notifications_secret_file;

  std::vector<std::string>
      images_allow;  // globs over "registry/repository"; none means that nothing may be mounted

  std::string origin_docker_config;  // "" is $DOCKER_CONFIG/config.json or ~/.docker/config.json
  std::string origin_ca_file;        // "" is the system's
  std::vector<std::string> origin_plain_http;
  Duration origin_connect_timeout = std::chrono::seconds(5);
  Duration origin_request_timeout = std::chrono::seconds(60);
  Duration origin_first_byte_budget = std::chrono::seconds(5);
  uint64_t origin_min_rate = 1024;  // bytes/s
  uint32_t origin_retries = 4;
  uint32_t origin_connections_per_host = 32;

  std::string store_capacity = "80%";  // a size, or a part of the file system
  uint32_t store_high_watermark = 90;  // percent of the capacity
  uint32_t store_low_watermark = 80;
  Duration store_sync_interval = std::chrono::milliseconds(100);
  bool store_import_containerd = false;
  std::string store_containerd_content = "/var/lib/containerd/io.containerd.content.v1.content";

  std::string fetch_readahead = "adaptive";  // off, fixed, adaptive
  uint64_t fetch_readahead_max = 8 << 20;
  uint64_t fetch_inflight_max = 64 << 20;
  Duration fetch_timeout = std::chrono::seconds(60);

  bool profiles_replay = true;
  Duration profiles_record_for = std::chrono::seconds(60);  // from a start's first read on; 0 is not at all
  uint64_t profiles_unread_max = 64 << 20;

  std::string ondemand_backend = "auto";  // auto, fanotify, cachefiles, fuse, off
  Duration ondemand_read_deadline = std::chrono::seconds(30);
  bool ondemand_fill = false;  // every mount is filled in the background
  std::string ondemand_domain = "sluice";
  bool ondemand_keep_copy = true;
  bool ondemand_keeper_on_host = false;
  std::string ondemand_keeper;  // "" is sluice-keeper in ../libexec beside sluiced

  // Whether nodes prove to each other who they are: TLS, on both sides.
  bool PeersAreProven() const { return !tls_ca.empty(); }
  // Whether what nothing but the word of another node says counts: which image a tag names, strangers'
  // tokens.
  bool PeersAreBelieved() const { return PeersAreProven() || cluster_insecure_peers; }
  // Whether chunks that no recipe proves are taken from other nodes.
  bool TakesUnsealedFromMembers() const { return PeersAreBelieved() && integrity_unsealed != "origin"; }

  // What follows from others when it is not set.
  std::string ApiSocketPath() const;
  std::string PrefetchSocketPath() const;
  // Empty if there is neither $DOCKER_CONFIG nor $HOME.
  std::string DockerConfigPath() const;

  friend bool operator==(const Config&, const Config&) = default;
};

// One setting: its key, and how its text is read and written. Lists are written with commas outside YAML.
struct Setting {
  std::string key;   // "ondemand.readDeadline"
  std::string help;  // one line
  std::function<absl::Status(Config&, const std::vector<std::string>&)> set;
  std::function<std::vector<std::string>(const Config&)> get;
  bool is_list = false;

  // "SLUICE_ONDEMAND_READ_DEADLINE"
  std::string EnvironmentName() const;
};

// In the order of the README's table.
const std::vector<Setting>& Settings();

// Where values come from; what stands later wins: default, file, environment, flags.
struct ConfigSources {
  std::string file;                                // "" reads none
  std::map<std::string, std::string> environment;  // those that start with SLUICE_; see UnknownVariables
  std::map<std::string, std::string> flags;        // by key
};

// Errors: NotFound / PermissionDenied (the file can't be read), InvalidArgument (not YAML, an unknown key, a
// bad value; with file and line, or the variable's or flag's name, and for an unknown key the one that was
// probably meant).
absl::StatusOr<Config> LoadConfig(const ConfigSources& sources);

// The process's SLUICE_* variables.
std::map<std::string, std::string> SluiceEnvironment();
// The names among these that mean nothing to any of our programs: misspelt, or of another version. Those that
// Kubernetes makes for a Service with our name are left out.
std::vector<std::string> UnknownVariables(const std::map<std::string, std::string>& environment);

// The whole configuration as YAML that LoadConfig reads back.
std::string FormatConfig(const Config& config);

}  // namespace sluice
