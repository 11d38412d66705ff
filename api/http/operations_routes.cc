#include "api/http/operations_routes.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::api {

void AddOperationsRoutes(HttpRoutes& routes, const Metrics& metrics, ReadinessCheck ready) {
  routes["/metrics"] = [&metrics](const HttpRequest&, HttpResponder responder) {
    HttpResponse response;
    response.content_type = Metrics::kContentType;
    response.body = metrics.Text();
    std::move(responder).Answer(std::move(response));
  };
  routes["/livez"] = [](const HttpRequest&, HttpResponder responder) {
    HttpResponse response;
    response.body = "ok\n";
    std::move(responder).Answer(std::move(response));
  };
  routes["/readyz"] = [ready = std::move(ready)](const HttpRequest&, HttpResponder responder) {
    const absl::Status status = ready();
    HttpResponse response;
    response.status = status.ok() ? 200 : 503;
    response.body = status.ok() ? "ok\n" : absl::StrCat("not ready: ", status.message(), "\n");
    std::move(responder).Answer(std::move(response));
  };
}

}  // namespace sluice::api
