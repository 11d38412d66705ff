#include "node/daemon/push_events.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "api/http/registry_path.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

constexpr size_t kEventNameBytesMax = 256;

// A field of an object, or of what is none; null where it is not there.
const Json& FieldOf(const Json& object, const char* name) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

// Empty if there is no such text.
std::string TextOf(const Json& object, const char* name) {
  const Json& field = FieldOf(object, name);
  return field.is_string() ? field.get<std::string>() : std::string();
}

std::optional<PushedImage> ImageOf(const std::string& event, BlobOrigin origin, const std::string& digest) {
  const absl::StatusOr<Digest> parsed = Digest::Parse(digest);
  if (!parsed.ok() || event.empty() || event.size() > kEventNameBytesMax ||
      !api::IsRegistryName(origin.registry) || !api::IsRepositoryName(origin.repository)) {
    return std::nullopt;
  }
  return PushedImage{event, std::move(origin), *parsed};
}

// A tag that is a digest names what refers to a manifest: distribution specification, "Referrers Tag Schema".
bool NamesImage(const std::string& tag) {
  return !tag.empty() && !absl::StartsWith(tag, "sha256-");
}

bool IsManifest(const std::string& media_type) {
  return absl::StrContains(media_type, ".manifest.") || absl::StrContains(media_type, ".index.");
}

std::optional<PushedImage> ImageOfDistribution(const Json& event) {
  const Json& target = FieldOf(event, "target");
  if (TextOf(event, "action") != "push" || !NamesImage(TextOf(target, "tag")) ||
      !IsManifest(TextOf(target, "mediaType"))) {
    return std::nullopt;
  }
  // As whoever has pushed it calls the registry.
  BlobOrigin origin{TextOf(FieldOf(event, "request"), "host"), TextOf(target, "repository")};
  return ImageOf(TextOf(event, "id"), std::move(origin), TextOf(target, "digest"));
}

// "registry.example/project/app:v1": Harbor's events have no name, but a time.
std::optional<PushedImage> ImageOfHarbor(const Json& body, const Json& resource) {
  const std::string url = TextOf(resource, "resource_url");
  const std::string repository = TextOf(FieldOf(FieldOf(body, "event_data"), "repository"), "repo_full_name");
  if (TextOf(body, "type") != "PUSH_ARTIFACT" || !NamesImage(TextOf(resource, "tag"))) return std::nullopt;
  const Json& at = FieldOf(body, "occur_at");
  const std::string event =
      at.is_number_integer() ? absl::StrCat("harbor-", at.get<int64_t>()) : std::string();
  return ImageOf(event, {url.substr(0, url.find('/')), repository}, TextOf(resource, "digest"));
}

}  // namespace

absl::StatusOr<PushEvents> ParsePushEvents(std::string_view body) {
  const Json json = Json::parse(body, nullptr, false);
  if (json.is_discarded()) return absl::InvalidArgumentError("the body is no JSON");
  const Json& events = FieldOf(json, "events");
  const Json& resources = FieldOf(FieldOf(json, "event_data"), "resources");
  if (!events.is_array() && !resources.is_array()) {
    return absl::InvalidArgumentError(
        "the body has neither \"events\", as the distribution registry's notifications, nor "
        "\"event_data.resources\", as Harbor's webhooks of payload format Default");
  }
  const Json& list = events.is_array() ? events : resources;
  if (list.size() > kPushEventsMax) {
    return absl::InvalidArgumentError(absl::StrCat("the body has ", list.size(), " events; at most ",
                                                   kPushEventsMax, " are taken at once"));
  }
  PushEvents pushed;
  for (const Json& entry : list) {
    std::optional<PushedImage> image =
        events.is_array() ? ImageOfDistribution(entry) : ImageOfHarbor(json, entry);
    if (image) {
      pushed.images.push_back(*std::move(image));
    } else {
      ++pushed.left_out;
    }
  }
  return pushed;
}

}  // namespace sluice
