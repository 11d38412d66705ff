#include "api/http/push_route.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sluice::api {
namespace {

constexpr char kScheme[] = "Bearer ";

HttpResponse Text(unsigned status, absl::string_view text) {
  HttpResponse response;
  response.status = status;
  response.body = absl::StrCat(text, "\n");
  return response;
}

// In a time that tells nothing of the secret but its length.
bool Shows(const HttpRequest& request, const std::string& secret) {
  std::string shown(request.Header("Authorization"));
  if (!absl::StartsWithIgnoreCase(shown, kScheme)) return false;
  shown.erase(0, sizeof(kScheme) - 1);
  unsigned difference = shown.size() != secret.size();
  for (size_t i = 0; i < shown.size() && i < secret.size(); ++i)
    difference |= static_cast<unsigned char>(shown[i] ^ secret[i]);
  return difference == 0;
}

class PushRoute {
 public:
  PushRoute(std::string secret, PushListener& listener, ImageCounters& counters)
      : secret_(std::move(secret)), listener_(listener), counters_(counters) {}

  HttpResponse Answer(const HttpRequest& request) const {
    if (!Shows(request, secret_)) {
      Count(PushResult::kUnauthorized);
      HttpResponse response =
          Text(401, "Authorization must be \"Bearer SECRET\", with what stands in notifications.secretFile");
      response.headers.emplace_back("WWW-Authenticate", "Bearer realm=\"sluice\"");
      return response;
    }
    const absl::StatusOr<PushListener::Heard> heard = listener_.Take(request.body);
    if (!heard.ok()) {
      Count(PushResult::kMalformed);
      return Text(400, heard.status().message());
    }
    Count(PushResult::kHinted, heard->hinted);
    Count(PushResult::kIgnored, heard->ignored);
    Count(PushResult::kRefused, heard->refused);
    if (heard->refused == 0) return Text(200, "thank you");
    HttpResponse response = Text(503, "too many images are being brought in; tell it again later");
    response.headers.emplace_back("Retry-After", "5");
    return response;
  }

 private:
  void Count(PushResult result, size_t count = 1) const {
    counters_.notifications[static_cast<size_t>(result)].Add(count);
  }

  const std::string secret_;
  PushListener& listener_;
  ImageCounters& counters_;
};

}  // namespace

void AddPushRoute(HttpRoutes& routes, std::string secret, PushListener& listener, ImageCounters& counters) {
  routes["POST /registry/notifications"] = [route = PushRoute(std::move(secret), listener, counters)](
                                               const HttpRequest& request, HttpResponder responder) {
    std::move(responder).Answer(route.Answer(request));
  };
}

}  // namespace sluice::api
