#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "node/cli/admin_client.h"
#include "node/cli/commands.h"
#include "node/cli/doctor_certificate.h"
#include "node/cli/doctor_containerd.h"
#include "node/cli/doctor_mirror.h"
#include "node/cli/doctor_peers.h"
#include "node/daemon/config.h"
#include "ondemand/backend.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

struct DoctorFlags {
  std::string config_file;
  std::string data_dir;
  std::string containerd_config = "/etc/containerd/config.toml";
};

// Of the node that runs; empty if none answers.
std::string RunningDataDirectory(const GlobalFlags& flags) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return "";
  const absl::StatusOr<v1::NodeStatus> status = client->GetStatus();
  return status.ok() ? status->data_directory() : "";
}

// What is not named is the running node's. Errors: those of LoadConfig.
absl::StatusOr<Config> ConfigOf(const GlobalFlags& global, const DoctorFlags& flags) {
  absl::StatusOr<Config> config =
      LoadConfig({.file = flags.config_file, .environment = SluiceEnvironment(), .flags = {}});
  if (!config.ok()) return config;
  const bool is_named = !flags.data_dir.empty() || !flags.config_file.empty();
  const std::string running = is_named ? "" : RunningDataDirectory(global);
  if (!running.empty()) config->data_dir = running;
  if (!flags.data_dir.empty()) config->data_dir = flags.data_dir;
  return config;
}

// The data directory, or what of its path there is already: sluiced makes the rest, on the same file system.
std::string NearestFolder(const std::string& data_dir) {
  std::error_code error;
  std::filesystem::path folder = std::filesystem::absolute(data_dir, error);
  while (!std::filesystem::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  return folder.string();
}

struct Report {
  ondemand::Backend backend;
  std::vector<ondemand::Requirement> requirements;

  bool works() const {
    return std::all_of(requirements.begin(), requirements.end(),
                       [](const ondemand::Requirement& r) { return r.holds; });
  }
  std::string name() const { return std::string(ondemand::BackendName(backend)); }
};

// The one that `auto` chooses; nullptr if none works.
const Report* FirstThatWorks(const std::vector<Report>& reports) {
  const auto found =
      std::find_if(reports.begin(), reports.end(), [](const Report& report) { return report.works(); });
  return found == reports.end() ? nullptr : &*found;
}

const char* Word(Check::Result result) {
  return result == Check::Result::kHolds ? "ok" : result == Check::Result::kFails ? "FAIL" : "-";
}

void PrintChecks(const std::vector<Check>& checks) {
  for (const Check& check : checks) {
    std::printf("  %-4s %s", Word(check.result), check.name.c_str());
    if (!check.detail.empty()) std::printf(": %s", check.detail.c_str());
    std::printf("\n");
    if (check.result == Check::Result::kFails) std::printf("       remedy: %s\n", check.remedy.c_str());
  }
}

void PrintText(const std::string& data_dir, const std::vector<Report>& reports,
               const std::vector<Check>& peers, const std::vector<Check>& mirror,
               const std::vector<Check>& containerd) {
  for (const Report& report : reports) {
    std::printf("%s, with the store in %s:\n", report.name().c_str(), data_dir.c_str());
    for (const ondemand::Requirement& requirement : report.requirements) {
      std::printf("  %-4s %s", requirement.holds ? "ok" : "FAIL", requirement.name.c_str());
      if (!requirement.detail.empty()) std::printf(": %s", requirement.detail.c_str());
      std::printf("\n");
      if (!requirement.holds) std::printf("       remedy: %s\n", requirement.remedy.c_str());
    }
  }
  std::printf("other nodes:\n");
  PrintChecks(peers);
  if (!mirror.empty()) std::printf("mirror:\n");
  PrintChecks(mirror);
  if (!containerd.empty()) std::printf("containerd:\n");
  PrintChecks(containerd);
  if (const Report* first = FirstThatWorks(reports)) {
    std::printf("Images can be mounted on this machine; ondemand.backend: auto takes %s.\n",
                first->name().c_str());
  } else {
    std::printf("Images can't be mounted on this machine.\n");
  }
}

Json JsonOf(const std::vector<Check>& checks) {
  Json list = Json::array();
  for (const Check& check : checks) {
    Json holds = nullptr;  // not known
    if (check.result != Check::Result::kUnknown) holds = check.result == Check::Result::kHolds;
    list.push_back(
        {{"name", check.name}, {"holds", holds}, {"detail", check.detail}, {"remedy", check.remedy}});
  }
  return list;
}

void PrintJson(const std::string& data_dir, const std::vector<Report>& reports,
               const std::vector<Check>& peers, const std::vector<Check>& mirror,
               const std::vector<Check>& containerd) {
  Json backends = Json::array();
  for (const Report& report : reports) {
    Json list = Json::array();
    for (const ondemand::Requirement& requirement : report.requirements) {
      list.push_back({{"name", requirement.name},
                      {"holds", requirement.holds},
                      {"detail", requirement.detail},
                      {"remedy", requirement.remedy}});
    }
    backends.push_back({{"name", report.name()}, {"works", report.works()}, {"requirements", list}});
  }
  const Report* first = FirstThatWorks(reports);
  const Json json = {{"works", first != nullptr},
                     {"auto", first != nullptr ? first->name() : "off"},
                     {"data_dir", data_dir},
                     {"backends", backends},
                     {"peers", JsonOf(peers)},
                     {"mirror", JsonOf(mirror)},
                     {"containerd", JsonOf(containerd)}};
  std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

absl::Status RunDoctor(const GlobalFlags& flags, const DoctorFlags& doctor) {
  const absl::StatusOr<Config> config = ConfigOf(flags, doctor);
  if (!config.ok()) return config.status();
  std::vector<Report> reports;
  for (const ondemand::Backend backend : ondemand::kBackends)
    reports.push_back({backend, ondemand::ProbeBackend(backend, NearestFolder(config->data_dir))});
  std::vector<Check> peers = CheckPeers(flags);
  const std::vector<Check> certificate = CheckCertificate(*config);
  peers.insert(peers.end(), certificate.begin(), certificate.end());
  // What runtimes do is no fault of this machine: it is named, and is no failure.
  const std::vector<Check> mirror = CheckMirror(*config);
  const std::vector<Check> containerd = CheckContainerd(*config, doctor.containerd_config);
  if (flags.output == OutputFormat::kJson) {
    PrintJson(config->data_dir, reports, peers, mirror, containerd);
  } else {
    PrintText(config->data_dir, reports, peers, mirror, containerd);
  }
  if (FirstThatWorks(reports) == nullptr)
    return absl::UnavailableError(
        "no backend works here: each lacks a requirement. The remedies stand above");
  if (std::any_of(peers.begin(), peers.end(),
                  [](const Check& check) { return check.result == Check::Result::kFails; })) {
    return absl::UnavailableError(
        "this node and the others don't reach each other as they should. The remedies stand above");
  }
  return absl::OkStatus();
}

}  // namespace

void AddDoctorCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* doctor = app.add_subcommand("doctor",
                                        "Try what mounting needs of this machine, and whether other nodes "
                                        "reach this one; exit code 1 if no backend "
                                        "works or they don't");
  auto flags = std::make_shared<DoctorFlags>();
  doctor->add_option("--config", flags->config_file,
                     "Read data directory and certificates from this configuration file");
  doctor->add_option("--data-dir", flags->data_dir, "Try in this data directory");
  doctor
      ->add_option("--containerd-config", flags->containerd_config,
                   "containerd's configuration, where it has one")
      ->capture_default_str();
  doctor->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunDoctor(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
