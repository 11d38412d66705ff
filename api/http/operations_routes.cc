#include "api/http/operations_routes.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::api {

namespace {

HttpResponse Answer(const absl::Status& status, const char* if_not) {
  HttpResponse response;
  response.status = status.ok() ? 200 : 503;
  response.body = status.ok() ? "ok\n" : absl::StrCat(if_not, ": ", status.message(), "\n");
  return response;
}

}  // namespace

void AddOperationsRoutes(HttpRoutes& routes, const Metrics& metrics, HealthChecks checks) {
  routes["/metrics"] = [&metrics](const HttpRequest&, HttpResponder responder) {
    HttpResponse response;
    response.content_type = Metrics::kContentType;
    response.body = metrics.Text();
    std::move(responder).Answer(std::move(response));
  };
  routes["/livez"] = [alive = std::move(checks.alive)](const HttpRequest&, HttpResponder responder) {
    std::move(responder).Answer(Answer(alive(), "not well"));
  };
  routes["/readyz"] = [ready = std::move(checks.ready)](const HttpRequest&, HttpResponder responder) {
    std::move(responder).Answer(Answer(ready(), "not ready"));
  };
}

}  // namespace sluice::api
