#include "api/http/profile_route.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::api {
namespace {

constexpr char kPath[] = "/sluice/v1/profiles";

int StatusCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kInvalidArgument:
      return 400;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    default:
      return 503;
  }
}

void Send(HttpResponse response, const std::string& node_id, HttpResponder responder) {
  response.headers.emplace_back("Sluice-Node", node_id);
  std::move(responder).Answer(std::move(response));
}

HttpResponse ErrorOf(const absl::Status& status) {
  HttpResponse response;
  response.status = StatusCodeOf(status);
  response.body = absl::StrCat(status.message(), "\n");
  return response;
}

}  // namespace

void AddProfileRoutes(HttpRoutes& routes, ProfileAnswers& answers, std::string node_id) {
  routes[absl::StrCat(kPath, "/")] = [&answers, node_id](const HttpRequest& request,
                                                         HttpResponder responder) {
    const absl::StatusOr<Digest> digest = Digest::Parse(std::string_view(request.path).substr(sizeof(kPath)));
    if (!digest.ok())
      return Send(ErrorOf(absl::InvalidArgumentError("malformed digest")), node_id, std::move(responder));
    answers.Give(*digest,
                 [node_id, responder = std::move(responder)](absl::StatusOr<std::string> profile) mutable {
                   if (!profile.ok()) return Send(ErrorOf(profile.status()), node_id, std::move(responder));
                   HttpResponse response;
                   response.content_type = "application/json";
                   response.body = *std::move(profile);
                   Send(std::move(response), node_id, std::move(responder));
                 });
  };
  routes[absl::StrCat("POST ", kPath)] = [&answers, node_id = std::move(node_id)](const HttpRequest& request,
                                                                                  HttpResponder responder) {
    answers.Take(request.body, request.proven_names,
                 [node_id, responder = std::move(responder)](const absl::Status& taken) mutable {
                   HttpResponse response;
                   response.status = 204;
                   Send(taken.ok() ? std::move(response) : ErrorOf(taken), node_id, std::move(responder));
                 });
  };
}

}  // namespace sluice::api
