#include "api/http/dial_route.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::api {
namespace {

HttpResponse ResponseOf(const absl::StatusOr<std::string>& answer) {
  HttpResponse response;
  if (answer.ok()) {
    response.content_type = "application/json";
    response.body = *answer;
    return response;
  }
  response.status = absl::IsResourceExhausted(answer.status())  ? 429
                    : absl::IsInvalidArgument(answer.status())  ? 400
                    : absl::IsPermissionDenied(answer.status()) ? 403
                                                                : 503;
  response.body = absl::StrCat(answer.status().message(), "\n");
  return response;
}

}  // namespace

void AddDialRoute(HttpRoutes& routes, DialAnswers& answers, std::string node_id) {
  routes["/sluice/v1/dial"] = [&answers, node_id = std::move(node_id)](const HttpRequest& request,
                                                                       HttpResponder responder) {
    answers.Dial(request.Header("Sluice-Member"), request.proven_names,
                 [node_id, responder = std::move(responder)](absl::StatusOr<std::string> answer) mutable {
                   HttpResponse response = ResponseOf(answer);
                   response.headers.emplace_back("Sluice-Node", node_id);
                   std::move(responder).Answer(std::move(response));
                 });
  };
}

}  // namespace sluice::api
