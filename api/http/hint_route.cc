#include "api/http/hint_route.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::api {
namespace {

HttpResponse ResponseOf(absl::StatusOr<std::string> answer) {
  HttpResponse response;
  if (answer.ok()) {
    response.content_type = "application/json";
    response.body = *std::move(answer);
    return response;
  }
  response.status = absl::IsPermissionDenied(answer.status()) ? 403 : 400;
  response.body = absl::StrCat(answer.status().message(), "\n");
  return response;
}

}  // namespace

void AddHintRoute(HttpRoutes& routes, HintAnswers& answers, std::string node_id) {
  routes["POST /sluice/v1/hints"] = [&answers, node_id = std::move(node_id)](const HttpRequest& request,
                                                                             HttpResponder responder) {
    HttpResponse response = ResponseOf(answers.Take(request.body, request.proven_names));
    response.headers.emplace_back("Sluice-Node", node_id);
    std::move(responder).Answer(std::move(response));
  };
}

}  // namespace sluice::api
