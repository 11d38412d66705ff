#include "node/daemon/kubernetes_zone.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "p2p/cluster/member_table.h"
#include "p2p/http/http_client.h"

namespace sluice {
namespace {

constexpr char kAccountFolder[] = "/var/run/secrets/kubernetes.io/serviceaccount";
constexpr uint64_t kNodeBytesMax = 1 << 20;

struct Answer {
  int status = 0;
  std::string body;
};

class Sink final : public p2p::HttpSink {
 public:
  explicit Sink(std::promise<absl::StatusOr<Answer>> done) : done_(std::move(done)) {}
  absl::Status OnHead(const p2p::HttpHead& head) override {
    answer_.status = head.status;
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    answer_.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    if (!status.ok()) return done_.set_value(std::move(status));
    done_.set_value(std::move(answer_));
  }

 private:
  std::promise<absl::StatusOr<Answer>> done_;
  Answer answer_;
};

absl::StatusOr<std::string> LabelIn(const std::string& body, const std::string& label) {
  const nlohmann::json node = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!node.is_object() || !node.contains("metadata") || !node["metadata"].is_object())
    return absl::DataLossError("the API server's answer is no node's object");
  const auto labels = node["metadata"].find("labels");
  if (labels == node["metadata"].end() || !labels->is_object() || !labels->contains(label) ||
      !(*labels)[label].is_string())
    return absl::NotFoundError(absl::StrCat("the node's object has no label ", label));
  return (*labels)[label].get<std::string>();
}

}  // namespace

absl::StatusOr<KubernetesAccess> KubernetesAccess::OfPod() {
  const char* const host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* const port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (!host || !port)
    return absl::FailedPreconditionError("KUBERNETES_SERVICE_HOST and _PORT are not set: this is no pod");
  const std::string text = host;
  KubernetesAccess access{
      absl::StrCat(text.find(':') == std::string::npos ? text : absl::StrCat("[", text, "]"), ":", port),
      absl::StrCat(kAccountFolder, "/ca.crt"), absl::StrCat(kAccountFolder, "/token")};
  for (const std::string& file : {access.ca_file, access.token_file}) {
    if (::access(file.c_str(), R_OK) != 0)
      return absl::FailedPreconditionError(
          absl::StrCat(file, " can't be read: the pod has no service account's files"));
  }
  return access;
}

absl::StatusOr<std::string> ZoneOfNode(const KubernetesAccess& access, const std::string& node,
                                       const std::string& label, Duration timeout) {
  std::ifstream file(access.token_file);
  const std::string token(std::istreambuf_iterator<char>(file), {});
  p2p::HttpRequest request;
  request.url = absl::StrCat("https://", access.host_port, "/api/v1/nodes/", node);
  request.headers.Add("Accept", "application/json");
  request.headers.Add("Authorization",
                      absl::StrCat("Bearer ", std::string(absl::StripAsciiWhitespace(token))));
  request.loopback = p2p::LoopbackRule::kAllow;  // whoever runs the pod names it
  request.proxy = p2p::ProxyRule::kNone;
  request.timeout = timeout;
  request.body_bytes_max = kNodeBytesMax;
  std::promise<absl::StatusOr<Answer>> promise;
  std::future<absl::StatusOr<Answer>> done = promise.get_future();
  p2p::HttpClient client({.ca_file = access.ca_file, .connect_timeout = timeout});
  client.Send(std::move(request), std::make_unique<Sink>(std::move(promise)));
  const absl::StatusOr<Answer> answer = done.get();
  if (!answer.ok()) return absl::UnavailableError(answer.status().message());
  if (answer->status == 401 || answer->status == 403) {
    return absl::PermissionDeniedError(
        absl::StrCat("the service account may not see node ", node, " (HTTP ", answer->status, ")"));
  }
  if (answer->status == 404) return absl::NotFoundError(absl::StrCat("the API server knows no node ", node));
  if (answer->status != 200)
    return absl::UnavailableError(absl::StrCat("the API server answers HTTP ", answer->status));
  absl::StatusOr<std::string> zone = LabelIn(answer->body, label);
  if (!zone.ok()) return zone;
  p2p::MemberRow row;
  row.name = "x";
  row.zone = *zone;
  if (zone->empty() || !row.Validate().ok())
    return absl::InvalidArgumentError(absl::StrCat("label ", label, " is \"", *zone, "\", which is no zone"));
  return zone;
}

}  // namespace sluice
