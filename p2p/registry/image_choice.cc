#include "p2p/registry/image_choice.h"

#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "p2p/http/text.h"
#include "p2p/registry/platform_match.h"

namespace sluice::p2p {
namespace {

bool IsIndexType(std::string_view type) {
  return type == media_type::kOciIndex || type == media_type::kDockerManifestList;
}

bool IsImageType(std::string_view type) {
  return type == media_type::kOciManifest || type == media_type::kDockerManifest;
}

bool IsConfigType(std::string_view type) {
  return type == media_type::kOciConfig || type == media_type::kDockerConfig;
}

// The entry can't be what was asked for; another may be.
bool LeavesOut(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsInvalidArgument(status) || absl::IsUnimplemented(status);
}

absl::Status AboutEntry(const Descriptor& entry, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat("index entry ", entry.digest.ToString(), ": ", status.message()));
}

std::string PlatformText(const Platform& platform) {
  const std::string features = absl::StrJoin(platform.os_features, ",");
  return absl::CHexEscape(
      absl::StrCat(platform.ToString(), features.empty() ? "" : absl::StrCat(" (", features, ")")));
}

// Looks through an index and what is in it, breadth first.
class Choice {
 public:
  Choice(const Platform& wanted, const ImageDocuments& documents) : wanted_(wanted), documents_(documents) {}

  absl::StatusOr<ChosenImage> From(const ImageIndex& root);

 private:
  struct Nested {
    Descriptor entry;
    size_t depth;
  };

  void Sort(const ImageIndex& index, size_t depth);
  void Offer(const Descriptor& entry, const Platform& platform);
  bool IsBest() const { return best_ && best_rank_ == 0; }
  absl::Status OpenNested(const Nested& nested);
  absl::Status LookUp(const Descriptor& entry);
  absl::StatusOr<Manifest> Open(const Descriptor& entry, FetchedManifest* fetched);
  absl::Status CountDocument();
  absl::Status NothingFound() const;

  const Platform& wanted_;
  const ImageDocuments& documents_;
  std::deque<Nested> nested_;
  std::vector<Descriptor> unnamed_;  // images that don't say what they are for
  std::set<Digest> seen_;
  size_t documents_count_ = 0;
  std::optional<Descriptor> best_;
  uint32_t best_rank_ = 0;
  std::vector<std::string> offered_;
  absl::Status left_out_;  // why the first one was
};

void Choice::Offer(const Descriptor& entry, const Platform& platform) {
  if (offered_.size() < kPlatformsInMessageMax) offered_.push_back(PlatformText(platform));
  const std::optional<uint32_t> rank = PlatformRank(wanted_, platform);
  if (!rank || (best_ && best_rank_ <= *rank)) return;
  best_ = entry;
  best_rank_ = *rank;
}

void Choice::Sort(const ImageIndex& index, size_t depth) {
  for (const Descriptor& entry : index.manifests) {
    if (IsImageType(entry.media_type)) {
      if (entry.platform) {
        Offer(entry, *entry.platform);
      } else if (seen_.insert(entry.digest).second) {
        unnamed_.push_back(entry);
      }
    } else if (IsIndexType(entry.media_type)) {
      const bool suits = !entry.platform || PlatformRank(wanted_, *entry.platform).has_value();
      if (suits && seen_.insert(entry.digest).second) nested_.push_back({entry, depth + 1});
    }
  }
}

absl::Status Choice::CountDocument() {
  if (++documents_count_ <= kIndexDocumentsMax) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("to find an image for ", wanted_.ToString(), " more than ",
                                                   kIndexDocumentsMax,
                                                   " documents would have to be looked into; name the image "
                                                   "by its own digest"));
}

absl::StatusOr<Manifest> Choice::Open(const Descriptor& entry, FetchedManifest* fetched) {
  absl::StatusOr<FetchedManifest> given = documents_.manifest(entry.digest);
  if (!given.ok()) return AboutEntry(entry, given.status());
  absl::StatusOr<Manifest> parsed = ParseManifest(given->body, given->media_type);
  if (!parsed.ok()) return AboutEntry(entry, parsed.status());
  if (std::holds_alternative<ImageIndex>(*parsed) != IsIndexType(entry.media_type)) {
    return AboutEntry(
        entry, absl::InvalidArgumentError(absl::StrCat("it is not of the type ", Quoted(entry.media_type))));
  }
  *fetched = *std::move(given);
  return parsed;
}

absl::Status Choice::OpenNested(const Nested& nested) {
  if (nested.depth > kIndexDepthMax) {
    return absl::InvalidArgumentError(absl::StrCat("there are indexes nested deeper than ", kIndexDepthMax));
  }
  if (absl::Status counted = CountDocument(); !counted.ok()) return counted;
  FetchedManifest fetched;
  absl::StatusOr<Manifest> index = Open(nested.entry, &fetched);
  if (!index.ok()) return index.status();
  Sort(std::get<ImageIndex>(*index), nested.depth);
  return absl::OkStatus();
}

absl::Status Choice::LookUp(const Descriptor& entry) {
  if (absl::Status counted = CountDocument(); !counted.ok()) return counted;
  FetchedManifest fetched;
  absl::StatusOr<Manifest> image = Open(entry, &fetched);
  if (!image.ok()) return image.status();
  const Descriptor& config = std::get<ImageManifest>(*image).config;
  if (!IsConfigType(config.media_type)) return absl::OkStatus();
  absl::StatusOr<std::string> bytes = documents_.config(config);
  if (!bytes.ok()) return AboutEntry(entry, bytes.status());
  absl::StatusOr<ImageConfig> parsed = ParseImageConfig(*bytes);
  if (!parsed.ok()) return AboutEntry(entry, parsed.status());
  Offer(entry, parsed->platform);
  return absl::OkStatus();
}

absl::Status Choice::NothingFound() const {
  if (!left_out_.ok()) return left_out_;
  return absl::NotFoundError(
      absl::StrCat("the index has no image for ", PlatformText(wanted_), "; it has ",
                   offered_.empty() ? "none with a platform" : absl::StrJoin(offered_, ", ")));
}

absl::StatusOr<ChosenImage> Choice::From(const ImageIndex& root) {
  Sort(root, 1);
  const auto note = [this](absl::Status status) {
    if (!LeavesOut(status)) return status;
    if (left_out_.ok()) left_out_ = std::move(status);
    return absl::OkStatus();
  };
  for (; !IsBest() && !nested_.empty(); nested_.pop_front()) {
    if (absl::Status opened = note(OpenNested(nested_.front())); !opened.ok()) return opened;
  }
  for (size_t i = 0; !IsBest() && i < unnamed_.size(); ++i) {
    if (absl::Status looked = note(LookUp(unnamed_[i])); !looked.ok()) return looked;
  }
  if (!best_) return NothingFound();
  ChosenImage chosen;
  absl::StatusOr<Manifest> manifest = Open(*best_, &chosen.fetched);
  if (!manifest.ok()) return manifest.status();
  chosen.manifest = std::get<ImageManifest>(*std::move(manifest));
  return chosen;
}

}  // namespace

absl::StatusOr<ChosenImage> ChooseImage(FetchedManifest root, const Platform& wanted,
                                        const ImageDocuments& documents) {
  absl::StatusOr<Manifest> parsed = ParseManifest(root.body, root.media_type);
  if (!parsed.ok()) return parsed.status();
  if (auto* image = std::get_if<ImageManifest>(&*parsed)) {
    return ChosenImage{std::move(root), std::move(*image)};
  }
  return Choice(wanted, documents).From(std::get<ImageIndex>(*parsed));
}

}  // namespace sluice::p2p
