#include "node/daemon/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "node/daemon/units.h"

extern char** environ;

namespace sluice {
namespace {

constexpr size_t kConfigBytesMax = 1 << 20;

using Values = std::vector<std::string>;

Setting Text(const char* key, std::string Config::*field, const char* help) {
  return {key, help,
          [field](Config& c, const Values& v) {
            c.*field = v.front();
            return absl::OkStatus();
          },
          [field](const Config& c) { return Values{c.*field}; }};
}

Setting OneOf(const char* key, std::string Config::*field, Values allowed, const char* help) {
  return {key, help,
          [field, allowed](Config& c, const Values& v) {
            if (std::find(allowed.begin(), allowed.end(), v.front()) == allowed.end()) {
              return absl::InvalidArgumentError(
                  absl::StrCat("\"", v.front(), "\" is none of ", absl::StrJoin(allowed, ", ")));
            }
            c.*field = v.front();
            return absl::OkStatus();
          },
          [field](const Config& c) { return Values{c.*field}; }};
}

Setting Switch(const char* key, bool Config::*field, const char* help) {
  return {
      key, help,
      [field](Config& c, const Values& v) {
        if (v.front() != "true" && v.front() != "false") {
          return absl::InvalidArgumentError(absl::StrCat("\"", v.front(), "\" is neither true nor false"));
        }
        c.*field = v.front() == "true";
        return absl::OkStatus();
      },
      [field](const Config& c) { return Values{c.*field ? "true" : "false"}; }};
}

Setting List(const char* key, std::vector<std::string> Config::*field, const char* help) {
  return {key, help,
          [field](Config& c, const Values& v) {
            c.*field = v;
            return absl::OkStatus();
          },
          [field](const Config& c) { return c.*field; }, true};
}

Setting Size(const char* key, uint64_t Config::*field, uint64_t min, const char* help) {
  return {key, help,
          [field, min](Config& c, const Values& v) {
            const absl::StatusOr<uint64_t> size = ParseSize(v.front());
            if (!size.ok()) return size.status();
            if (*size < min)
              return absl::InvalidArgumentError(absl::StrCat("must be at least ", FormatSize(min)));
            c.*field = *size;
            return absl::OkStatus();
          },
          [field](const Config& c) { return Values{FormatSize(c.*field)}; }};
}

Setting Time(const char* key, Duration Config::*field, Duration min, const char* help) {
  return {key, help,
          [field, min](Config& c, const Values& v) {
            const absl::StatusOr<Duration> duration = ParseDuration(v.front());
            if (!duration.ok()) return duration.status();
            if (*duration < min) {
              return absl::InvalidArgumentError(absl::StrCat("must be at least ", FormatDuration(min)));
            }
            c.*field = *duration;
            return absl::OkStatus();
          },
          [field](const Config& c) { return Values{FormatDuration(c.*field)}; }};
}

Setting Count(const char* key, uint32_t Config::*field, uint32_t min, uint32_t max, const char* help) {
  return {key, help,
          [field, min, max](Config& c, const Values& v) {
            uint32_t count = 0;
            if (!absl::SimpleAtoi(v.front(), &count) || count < min || count > max) {
              return absl::InvalidArgumentError(
                  absl::StrCat("\"", v.front(), "\" is not a whole number from ", min, " to ", max));
            }
            c.*field = count;
            return absl::OkStatus();
          },
          [field](const Config& c) { return Values{absl::StrCat(c.*field)}; }};
}

Setting Capacity(const char* key, std::string Config::*field, const char* help) {
  return {key, help,
          [field](Config& c, const Values& v) {
            const absl::StatusOr<uint64_t> bytes = CapacityOf(v.front(), "/");
            // The store's file system is not known here: only what is written counts.
            if (absl::IsInvalidArgument(bytes.status())) return bytes.status();
            c.*field = v.front();
            return absl::OkStatus();
          },
          [field](const Config& c) { return Values{c.*field}; }};
}

const Setting* FindSetting(const std::string& key) {
  for (const Setting& setting : Settings()) {
    if (setting.key == key) return &setting;
  }
  return nullptr;
}

size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string Suggestion(const std::string& unknown, const std::vector<std::string>& known) {
  const auto distance = [&](const std::string& name) {
    return EditDistance(absl::AsciiStrToLower(unknown), absl::AsciiStrToLower(name));
  };
  const auto best = std::min_element(known.begin(), known.end(),
                                     [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
  if (best == known.end() || distance(*best) > std::max<size_t>(2, unknown.size() / 3)) return "";
  return absl::StrCat("; did you mean \"", *best, "\"?");
}

std::vector<std::string> KnownKeys() {
  std::vector<std::string> keys;
  for (const Setting& setting : Settings()) keys.push_back(setting.key);
  return keys;
}

bool IsSection(const std::string& key) {
  return std::any_of(Settings().begin(), Settings().end(),
                     [&](const Setting& s) { return s.key.rfind(key + ".", 0) == 0; });
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    const int error = errno;
    const std::string message =
        absl::StrCat("cannot read configuration file ", path, ": ", std::strerror(error));
    return error == ENOENT ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
  }
  std::string text(kConfigBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad())
    return absl::PermissionDeniedError(
        absl::StrCat("cannot read configuration file ", path, ": is it a file?"));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kConfigBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("configuration file ", path, " is larger than 1 MiB"));
  }
  return text;
}

absl::Status AtLine(const std::string& path, const YAML::Mark& mark, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", mark.line + 1, ": ", what));
}

class FileReader {
 public:
  FileReader(std::string path, Config& config) : path_(std::move(path)), config_(config) {}

  absl::Status Read(const YAML::Node& node, const std::string& prefix) {
    if (!node.IsMap()) {
      return AtLine(path_, node.Mark(),
                    prefix.empty() ? std::string("a configuration is a map of keys")
                                   : prefix + " is a section: give it keys");
    }
    for (const auto& pair : node) {
      const std::string key = (prefix.empty() ? "" : prefix + ".") + pair.first.as<std::string>();
      const absl::Status status = ReadKey(key, pair.first.Mark(), pair.second);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ReadKey(const std::string& key, const YAML::Mark& mark, const YAML::Node& value) {
    if (IsSection(key)) return value.IsNull() ? absl::OkStatus() : Read(value, key);
    const Setting* setting = FindSetting(key);
    if (!setting)
      return AtLine(path_, mark, absl::StrCat("unknown key \"", key, "\"", Suggestion(key, KnownKeys())));
    if (!seen_.insert(key).second) return AtLine(path_, mark, absl::StrCat("\"", key, "\" is given twice"));
    Values values;
    if (setting->is_list && value.IsSequence()) {
      for (const YAML::Node& item : value) {
        if (!item.IsScalar()) return AtLine(path_, item.Mark(), absl::StrCat(key, " is a list of texts"));
        values.push_back(item.Scalar());
      }
    } else if (value.IsScalar() && !setting->is_list) {
      values.push_back(value.Scalar());
    } else {
      return AtLine(path_, mark, absl::StrCat(key, setting->is_list ? " is a list" : " takes one value"));
    }
    const absl::Status status = setting->set(config_, values);
    return status.ok() ? status : AtLine(path_, mark, absl::StrCat(key, ": ", status.message()));
  }

  const std::string path_;
  Config& config_;
  std::set<std::string> seen_;
};

absl::Status ReadConfigFile(const std::string& path, Config& config) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return text.status();
  try {
    const YAML::Node root = YAML::Load(*text);
    if (root.IsNull()) return absl::OkStatus();
    return FileReader(path, config).Read(root, "");
  } catch (const YAML::Exception& e) {
    return AtLine(path, e.mark, absl::StrCat("not valid YAML: ", e.msg));
  }
}

absl::Status SetFromText(const Setting& setting, const std::string& text, const std::string& where,
                         Config& config) {
  const Values values = !setting.is_list ? Values{text}
                        : text.empty()   ? Values{}
                                         : Values(absl::StrSplit(text, ','));
  const absl::Status status = setting.set(config, values);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", status.message()));
}

// A variable that names no setting is left alone: Kubernetes makes SLUICE_PORT and the like out of a Service
// called sluice.
absl::Status ReadEnvironment(const std::map<std::string, std::string>& environment, Config& config) {
  for (const Setting& setting : Settings()) {
    const auto variable = environment.find(setting.EnvironmentName());
    if (variable == environment.end()) continue;
    const absl::Status status =
        SetFromText(setting, variable->second, "environment variable " + variable->first, config);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

std::string Config::ApiSocketPath() const {
  return api_socket.empty() ? runtime_dir + "/api.sock" : api_socket;
}

std::string Config::PrefetchSocketPath() const {
  return api_prefetch_socket.empty() ? runtime_dir + "/prefetch.sock" : api_prefetch_socket;
}

std::string Config::DockerConfigPath() const {
  if (!origin_docker_config.empty()) return origin_docker_config;
  if (const char* folder = std::getenv("DOCKER_CONFIG")) return std::string(folder) + "/config.json";
  if (const char* home = std::getenv("HOME")) return std::string(home) + "/.docker/config.json";
  return "";
}

std::string Setting::EnvironmentName() const {
  std::string name = "SLUICE_";
  for (char c : key) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c))) name += '_';
    name += c == '.' ? '_' : absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  return name;
}

const std::vector<Setting>& Settings() {
  using std::chrono::milliseconds;
  static const auto* const settings = new std::vector<Setting>{
      Text("dataDir", &Config::data_dir, "where chunks and the index lie; ext4, xfs or btrfs"),
      Text("runtimeDir", &Config::runtime_dir, "sockets of the API and of the keeper"),
      OneOf("log.level", &Config::log_level, {"debug", "info", "warn", "error"}, "what is logged"),
      OneOf("log.format", &Config::log_format, {"text", "json"}, "how a log line is written"),
      Text("operations.listen", &Config::operations_listen,
           "host:port of the node's page at /, /metrics, /livez and /readyz; empty is off"),
      OneOf(
          "operations.names", &Config::operations_names, {"loopback", "always", "never"},
          "when the page tells names of images and nodes, and errors: to this machine alone, always, never"),
      Text("api.socket", &Config::api_socket, "unix socket of the gRPC API; empty is api.sock in runtimeDir"),
      Text("api.prefetchSocket", &Config::api_prefetch_socket,
           "unix socket of the hints' API, mode 0660; empty is prefetch.sock in runtimeDir"),
      Text("api.prefetchGroup", &Config::api_prefetch_group,
           "group that may give hints, by name or number; empty is sluiced's own"),
      Text("api.prefetchListen", &Config::api_prefetch_listen,
           "host:port of the hints' API over TLS, for whom api.prefetchClient says; empty is off"),
      Text("api.prefetchClient", &Config::api_prefetch_client,
           "DNS name that the certificate of such a client must have, of tls.ca; no node's"),
      Text("cluster.listen", &Config::cluster_listen,
           "host:port where other nodes get what is here, or is fetched for them; empty is off"),
      List("cluster.members", &Config::cluster_members,
           "host:port of the other nodes; a name with several addresses is several nodes"),
      Time("cluster.refresh", &Config::cluster_refresh, milliseconds(100),
           "how often names are resolved again and members asked whom they know"),
      Text("cluster.name", &Config::cluster_name,
           "this node's name in the cluster, each only once; empty is its address, or host name and port"),
      List("cluster.advertise", &Config::cluster_advertise,
           "IP, or IP:port, at which others reach this node; empty is cluster.listen, or as others find it"),
      Text("cluster.zone", &Config::cluster_zone,
           "where this node is; what other zones have comes to one node of a zone, and from there to the "
           "rest of it"),
      Text("cluster.zoneLabel", &Config::cluster_zone_label,
           "label of this node's object in Kubernetes that tells its zone, as topology.kubernetes.io/zone; "
           "cluster.name is the object's"),
      Time("cluster.memberTtl", &Config::cluster_member_ttl, milliseconds(1000),
           "a member that nobody heard of for so long is dropped"),
      Switch(
          "cluster.insecurePeers", &Config::cluster_insecure_peers,
          "believe other nodes, though without TLS, what nothing proves: which image a tag names, strangers' "
          "tokens, and chunks without a recipe"),
      Text("tls.ca", &Config::tls_ca,
           "PEM of the authorities whose certificates other nodes must show; empty is no TLS between nodes"),
      Text("tls.certificate", &Config::tls_certificate,
           "PEM of this node's certificate and what is between it and tls.ca, used on both sides"),
      Text("tls.key", &Config::tls_key, "PEM of its key, without a passphrase"),
      Text("tls.crlFile", &Config::tls_crl_file, "PEM of revocation lists; empty is none"),
      Text(
          "tls.peerName", &Config::tls_peer_name,
          "DNS name that every node's certificate has; one with NAME.peerName too is of the node NAME alone"),
      Size("peers.lastResortRate", &Config::peers_last_resort_rate, 64 << 10,
           "bytes a second that a node may ask the registry for beside those whose part it is"),
      OneOf("integrity.unsealed", &Config::integrity_unsealed, {"", "cluster", "origin"},
            "from whom chunks are taken that no recipe proves: cluster or origin; empty is cluster if other "
            "nodes are believed, else origin"),
      Size("peers.uploadMax", &Config::peers_upload_max, 0,
           "bytes of blobs a second given to other nodes, to their readers first; 0 is no bound"),
      Size("peers.downloadMax", &Config::peers_download_max, 0,
           "bytes a second asked of other nodes; readers don't wait for it, fills do; 0 is no bound"),
      Count("peers.fanout", &Config::peers_fanout, 1, 64,
            "nodes that are sent one chunk at once; the others are told of those"),
      Switch("cluster.swarm", &Config::cluster_swarm, "share blobs that are filled by BitTorrent too"),
      Count("cluster.swarmPort", &Config::cluster_swarm_port, 1, 65535,
            "port of the swarm, on the address of cluster.listen; the same on all nodes"),
      Count("swarm.torrentsMax", &Config::swarm_torrents_max, 1, 10000,
            "blobs shared at once; the one used longest ago goes first"),
      Text("mirror.listen", &Config::mirror_listen,
           "host:port where container runtimes have a mirror of all registries; empty is off"),
      OneOf("mirror.authorization", &Config::mirror_authorization, {"origin", "open"},
            "who gets private content: whom the registry lets, or everybody who can connect"),
      Time("mirror.budget", &Config::mirror_budget, milliseconds(100),
           "to begin an answer; beyond, a runtime is sent to the registry"),
      Switch("mirror.staleTags", &Config::mirror_stale_tags,
             "while a registry is away, a tag means what it meant last"),
      Time("mirror.publicTtl", &Config::mirror_public_ttl, milliseconds(1000),
           "how long what was found public is given without asking the registry again"),
      Text("policy.verifierDir", &Config::policy_verifier_dir,
           "folder of programs that are asked, as containerd's image verifiers are, before more than an "
           "image's manifest is fetched; empty is off"),
      Time("policy.timeout", &Config::policy_timeout, milliseconds(100),
           "for each of them to answer; beyond, the image is refused"),
      Text("notifications.listen", &Config::notifications_listen,
           "host:port where registries tell what was pushed, which becomes hints; with TLS unless it is "
           "loopback; empty is off"),
      Text("notifications.secretFile", &Config::notifications_secret_file,
           "file with the secret that they show as a bearer token"),
      List("images.allow", &Config::images_allow,
           "globs over registry/repository that may be mounted; none by default"),
      Text("origin.dockerConfig", &Config::origin_docker_config,
           "credentials; empty is $DOCKER_CONFIG/config.json or ~/.docker/config.json"),
      Text("origin.caFile", &Config::origin_ca_file, "certificate authorities in PEM; empty is the system's"),
      List("origin.plainHttp", &Config::origin_plain_http,
           "registries (host:port) spoken to without TLS; loopback is anyway"),
      Time("origin.connectTimeout", &Config::origin_connect_timeout, milliseconds(1),
           "until a connection stands"),
      Time("origin.requestTimeout", &Config::origin_request_timeout, milliseconds(1),
           "of one request, retries included"),
      Time("origin.firstByteBudget", &Config::origin_first_byte_budget, milliseconds(500),
           "how long a member that fetches for others may wait for a registry's first byte before the next "
           "one "
           "is asked"),
      Size("origin.minRate", &Config::origin_min_rate, 1,
           "bytes per second below which a transfer is given up"),
      Count("origin.retries", &Config::origin_retries, 0, 20, "further tries of a failed request"),
      Count("origin.connectionsPerHost", &Config::origin_connections_per_host, 1, 256,
            "connections to one registry; half of them for one blob"),
      Capacity("store.capacity", &Config::store_capacity,
               "what the store may take up: a size, or a part of its file system"),
      Count("store.highWatermark", &Config::store_high_watermark, 2, 100,
            "percent of the capacity above which blobs are evicted, used longest ago first"),
      Count("store.lowWatermark", &Config::store_low_watermark, 1, 99,
            "percent of the capacity down to which they are"),
      Time("store.syncInterval", &Config::store_sync_interval, milliseconds(1),
           "how often written chunks are synced and claimed"),
      Switch(
          "store.importContainerd", &Config::store_import_containerd,
          "give others, and the mirror, what containerd has pulled by itself; no second copy is made of it"),
      Text("store.containerdContent", &Config::store_containerd_content,
           "folder of containerd's content store; it is only read"),
      OneOf("fetch.readahead", &Config::fetch_readahead, {"off", "fixed", "adaptive"},
            "how far ahead of a reader is fetched: off, fixed (always the widest window) or adaptive"),
      Size("fetch.readaheadMax", &Config::fetch_readahead_max, 0,
           "the widest window ahead of a sequential reader"),
      Size("fetch.inflightMax", &Config::fetch_inflight_max, 1 << 20, "bytes asked for and not yet stored"),
      Time("fetch.timeout", &Config::fetch_timeout, milliseconds(1), "of one fetch that nobody waits for"),
      Switch(
          "profiles.replay", &Config::profiles_replay,
          "bring in what earlier starts of an image have read, here or on other nodes, when it is mounted"),
      Time("profiles.recordFor", &Config::profiles_record_for, milliseconds(0),
           "how long it is recorded what a start reads, from its first read on; 0s is not at all"),
      Size("profiles.unreadMax", &Config::profiles_unread_max, 0,
           "bytes brought in so and not read, beyond which no more are until some are read"),
      OneOf("ondemand.backend", &Config::ondemand_backend, {"auto", "fanotify", "cachefiles", "fuse", "off"},
            "the kernel's door: auto, fanotify, cachefiles, fuse or off"),
      Time("ondemand.readDeadline", &Config::ondemand_read_deadline, milliseconds(10),
           "after which a reader gets EIO"),
      Text("ondemand.domain", &Config::ondemand_domain,
           "cachefiles: images mounted under one name share the kernel's copies; empty is each for itself"),
      Switch("ondemand.keepCopy", &Config::ondemand_keep_copy,
             "cachefiles: keep the node's own copy of a blob beside the kernel's when nothing mounts it any "
             "more"),
      Switch("ondemand.fill", &Config::ondemand_fill, "fill every mounted image in the background"),
      Switch(
          "ondemand.keeperOnHost", &Config::ondemand_keeper_on_host,
          "in a privileged pod with hostPID: the keeper leaves the pod for the host, and outlives it; images "
          "are mounted on the host"),
      Text("ondemand.keeper", &Config::ondemand_keeper,
           "the keeper's executable; empty is the one beside sluiced"),
  };
  return *settings;
}

namespace {

// Source: RFC 1123 section 2.1.
bool IsDnsName(const std::string& name) {
  if (name.empty() || name.size() > 253) return false;
  for (const absl::string_view label : absl::StrSplit(name, '.')) {
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-') return false;
    for (const char c : label) {
      if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-') return false;
    }
  }
  return true;
}

absl::Status CheckTls(const Config& config) {
  if (!IsDnsName(config.tls_peer_name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls.peerName: \"", config.tls_peer_name, "\" is no DNS name, as sluice"));
  }
  Values given, missing;
  for (const auto& [key, value] :
       {std::pair("tls.ca", config.tls_ca), std::pair("tls.certificate", config.tls_certificate),
        std::pair("tls.key", config.tls_key)}) {
    (value.empty() ? missing : given).push_back(key);
  }
  if (!config.tls_crl_file.empty()) given.push_back("tls.crlFile");
  if (!given.empty() && !missing.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(absl::StrJoin(given, ", "), " without ",
                                                   absl::StrJoin(missing, " and "),
                                                   ": TLS between nodes needs all three files, or none"));
  }
  if (config.PeersAreProven() && config.cluster_swarm) {
    return absl::InvalidArgumentError(
        "cluster.swarm is true and TLS is on: the swarm is not encrypted, and takes anybody who connects; "
        "set "
        "cluster.swarm to false, or leave the tls keys out");
  }
  return absl::OkStatus();
}

absl::Status CheckPrefetchListen(const Config& config) {
  if (config.api_prefetch_listen.empty()) return absl::OkStatus();
  if (config.tls_ca.empty()) {
    return absl::InvalidArgumentError(
        "api.prefetchListen without tls.ca, tls.certificate and tls.key: who may hint over the network is "
        "known "
        "by his certificate alone; set them, or leave it out and use api.prefetchSocket");
  }
  if (!IsDnsName(config.api_prefetch_client)) {
    return absl::InvalidArgumentError(absl::StrCat("api.prefetchClient: \"", config.api_prefetch_client,
                                                   "\" is no DNS name, as sluice-hints"));
  }
  if (absl::EqualsIgnoreCase(config.api_prefetch_client, config.tls_peer_name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("api.prefetchClient and tls.peerName are both ", config.tls_peer_name,
                     ": who has that name is a node, and may get what nodes get; give clients another"));
  }
  return absl::OkStatus();
}

absl::Status CheckNotifications(const Config& config) {
  if (config.notifications_listen.empty() == config.notifications_secret_file.empty())
    return absl::OkStatus();
  const bool is_off = config.notifications_listen.empty();
  return absl::InvalidArgumentError(
      is_off ? "notifications.secretFile without notifications.listen: say where registries are listened to"
             : "notifications.listen without notifications.secretFile: whoever can connect could have images "
               "brought in; name a file with the secret that the registry shows");
}

// What no single setting shows.
absl::Status CheckTogether(const Config& config) {
  if (!config.cluster_zone_label.empty() && !config.cluster_zone.empty()) {
    return absl::InvalidArgumentError(
        "cluster.zone and cluster.zoneLabel both say where this node is; leave one of them out");
  }
  if (!config.cluster_zone_label.empty() && config.cluster_name.empty()) {
    return absl::InvalidArgumentError(
        "cluster.zoneLabel without cluster.name: that is the name of the node's object in Kubernetes");
  }
  if (config.PrefetchSocketPath() == config.ApiSocketPath()) {
    return absl::InvalidArgumentError(absl::StrCat("api.socket and api.prefetchSocket are both ",
                                                   config.ApiSocketPath(), "; each needs a path of its own"));
  }
  if (config.store_low_watermark >= config.store_high_watermark) {
    return absl::InvalidArgumentError(absl::StrCat("store.lowWatermark is ", config.store_low_watermark,
                                                   " and store.highWatermark ", config.store_high_watermark,
                                                   ": the low one must be below the high one"));
  }
  if (!config.store_containerd_content.starts_with('/')) {
    return absl::InvalidArgumentError(absl::StrCat(
        "store.containerdContent: \"", config.store_containerd_content, "\" must be an absolute path"));
  }
  if (config.integrity_unsealed == "cluster" && !config.cluster_members.empty() &&
      !config.PeersAreBelieved()) {
    return absl::InvalidArgumentError(
        "integrity.unsealed: cluster takes from other nodes what nothing proves, and whoever can connect may "
        "be "
        "one; give them certificates (tls.ca), set cluster.insecurePeers: true if nobody else can connect, "
        "or "
        "integrity.unsealed: origin");
  }
  if (absl::Status status = CheckPrefetchListen(config); !status.ok()) return status;
  if (absl::Status status = CheckNotifications(config); !status.ok()) return status;
  if (!config.policy_verifier_dir.empty() && config.policy_verifier_dir[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("policy.verifierDir: \"", config.policy_verifier_dir, "\" must be an absolute path"));
  }
  return CheckTls(config);
}

}  // namespace

absl::StatusOr<Config> LoadConfig(const ConfigSources& sources) {
  Config config;
  if (!sources.file.empty()) {
    const absl::Status status = ReadConfigFile(sources.file, config);
    if (!status.ok()) return status;
  }
  const absl::Status status = ReadEnvironment(sources.environment, config);
  if (!status.ok()) return status;
  for (const auto& [key, value] : sources.flags) {
    const Setting* setting = FindSetting(key);
    if (!setting) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", key, ": unknown key", Suggestion(key, KnownKeys())));
    }
    const absl::Status set = SetFromText(*setting, value, "--set " + key, config);
    if (!set.ok()) return set;
  }
  const absl::Status together = CheckTogether(config);
  if (!together.ok()) return together;
  return config;
}

std::map<std::string, std::string> SluiceEnvironment() {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (text.rfind("SLUICE_", 0) == 0 && equals != std::string::npos) {
      variables[text.substr(0, equals)] = text.substr(equals + 1);
    }
  }
  return variables;
}

std::vector<std::string> UnknownVariables(const std::map<std::string, std::string>& environment) {
  std::set<std::string> known = {"SLUICE_CONFIG", "SLUICE_API_SOCKET", "SLUICE_API_PREFETCH_SOCKET"};
  for (const Setting& setting : Settings()) known.insert(setting.EnvironmentName());
  std::vector<std::string> unknown;
  for (const auto& [name, value] : environment) {
    const bool of_a_service = name.find("_SERVICE_") != std::string::npos || name.ends_with("_PORT") ||
                              name.find("_PORT_") != std::string::npos;
    if (!of_a_service && !known.contains(name)) unknown.push_back(name);
  }
  return unknown;
}

std::string FormatConfig(const Config& config) {
  YAML::Node root;
  for (const Setting& setting : Settings()) {
    const Values values = setting.get(config);
    YAML::Node value;
    if (setting.is_list) {
      value = YAML::Node(YAML::NodeType::Sequence);
      for (const std::string& item : values) value.push_back(item);
    } else {
      value = values.front();
    }
    const size_t dot = setting.key.find('.');
    if (dot == std::string::npos) {
      root[setting.key] = value;
    } else {
      root[setting.key.substr(0, dot)][setting.key.substr(dot + 1)] = value;
    }
  }
  std::ostringstream out;
  out << root << "\n";
  return out.str();
}

}  // namespace sluice
