#include "node/daemon/locality.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "api/error_details.h"
#include "p2p/registry/platform_match.h"

namespace sluice {
namespace {

std::optional<p2p::BlobIdentity> IdentityOf(const BlobSpec& blob) {
  if (!blob.root) return std::nullopt;
  return p2p::BlobIdentity{blob.digest, blob.size, blob.chunk_size, *blob.root};
}

// Makes room for one more by what is old, else by all. `At` tells when an entry is from.
template <typename Map, typename At>
void MakeRoom(Map& map, size_t entries_max, Instant oldest, const At& at) {
  if (map.size() < entries_max) return;
  absl::erase_if(map, [&](const auto& entry) { return at(entry.second) < oldest; });
  if (map.size() >= entries_max) map.clear();
}

}  // namespace

class Locality::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(Parts parts, Limits limits) : parts_(std::move(parts)), limits_(limits) {}

  void GetLocality(const api::LocalityQuery& query, Instant deadline, OnLocality done);

 private:
  // What a reference names, as it was looked up.
  struct Image {
    absl::Status error;
    std::optional<Digest> manifest;
    std::vector<BlobSpec> blobs;  // each once
    Instant at{};
  };
  using ImagePtr = std::shared_ptr<const Image>;
  struct Shares {
    std::vector<p2p::HolderShare> of;
    Instant at{};
  };
  // One call. Guarded by mutex_, but for what is constant.
  struct Call {
    api::LocalityScope scope;
    Instant deadline{};
    OnLocality done;
    std::vector<api::ImageLocality> answers;
    std::vector<ImagePtr> images;  // by answer; null: not known, or not asked for
    size_t looked_up_open = 0;     // images
    bool looking_up = true;
    std::deque<p2p::BlobIdentity> to_ask;
    size_t questions = 0;  // under way
    bool over = false;
    absl::flat_hash_map<p2p::BlobIdentity, std::vector<p2p::HolderShare>> shares;
  };
  using CallPtr = std::shared_ptr<Call>;
  struct Waiter {
    CallPtr call;
    size_t index;  // of the answer
  };

  // --- With mutex_ held.
  void LookUp(const CallPtr& call, size_t index, const p2p::Platform& platform);
  void Keep(const std::string& key, const ImagePtr& image);
  void PlanQuestions(Call& call);

  void Resolve(const std::string& key, const std::string& reference, const p2p::Platform& platform);
  void EndLookups(const CallPtr& call);
  void AskOthers(const CallPtr& call);
  void AskNext(const CallPtr& call);
  void OnShares(const CallPtr& call, const p2p::BlobIdentity& blob,
                std::optional<std::vector<p2p::HolderShare>> shares);
  void Finish(const CallPtr& call);
  void Describe(const Call& call, const Image& image, api::ImageLocality& answer) const;
  absl::Status AgainLater(absl::Status status) const {
    return api::WithRetryAfter(std::move(status), limits_.retry_after);
  }

  // Constant after construction.
  const Parts parts_;
  const Limits limits_;

  std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<std::string, ImagePtr> images_;              // by reference and platform
  absl::flat_hash_map<std::string, std::vector<Waiter>> lookups_;  // under way and queued, by the same
  absl::flat_hash_map<p2p::BlobIdentity, Shares> shares_;
};

void Locality::Core::GetLocality(const api::LocalityQuery& query, Instant deadline, OnLocality done) {
  if (query.scope == api::LocalityScope::kCluster && !parts_.ask_shares) {
    return std::move(done)(absl::FailedPreconditionError(
        "this node was told of no others (cluster.members); ask for LOCALITY_SCOPE_NODE"));
  }
  const auto call = std::make_shared<Call>();
  call->scope = query.scope;
  call->deadline = deadline;
  call->answers.resize(query.references.size());
  call->images.resize(query.references.size());
  for (size_t i = 0; i < query.references.size(); ++i) {
    const absl::StatusOr<std::string> reference = parts_.preparer.Check(query.references[i]);
    if (absl::IsInvalidArgument(reference.status())) {
      return std::move(done)(
          api::InvalidField(absl::StrCat("references[", i, "]"), std::string(reference.status().message())));
    }
    call->answers[i].reference = reference.value_or(query.references[i]);
    call->answers[i].error = reference.status();
  }
  call->done = std::move(done);
  const p2p::Platform platform =
      query.platform
          ? p2p::Platform{query.platform->os, query.platform->architecture, query.platform->variant, {}}
          : p2p::ThisCpu();
  bool all_known = false;
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < call->answers.size(); ++i) {
      if (call->answers[i].error.ok()) LookUp(call, i, platform);
    }
    all_known = call->looked_up_open == 0;
  }
  if (all_known) return EndLookups(call);
  parts_.timers.PostAt(std::min(deadline, parts_.clock.Now() + limits_.lookup_wait),
                       [self = shared_from_this(), call] { self->EndLookups(call); });
}

void Locality::Core::LookUp(const CallPtr& call, size_t index, const p2p::Platform& platform) {
  const std::string& reference = call->answers[index].reference;
  const std::string key = absl::StrCat(reference, " ", platform.ToString());
  const auto known = images_.find(key);
  if (known != images_.end() && parts_.clock.Now() - known->second->at < limits_.image_kept) {
    call->images[index] = known->second;
    return;
  }
  auto lookup = lookups_.find(key);
  if (lookup == lookups_.end()) {
    if (lookups_.size() >= limits_.lookups_max) {
      call->answers[index].error = AgainLater(absl::ResourceExhaustedError(
          absl::StrCat(limits_.lookups_max, " images are being looked up already; try again later")));
      return;
    }
    lookup = lookups_.emplace(key, std::vector<Waiter>()).first;
    parts_.lookups.Post(
        [self = shared_from_this(), key, reference, platform] { self->Resolve(key, reference, platform); });
  }
  lookup->second.push_back({call, index});
  ++call->looked_up_open;
}

void Locality::Core::Resolve(const std::string& key, const std::string& reference,
                             const p2p::Platform& platform) {
  const absl::StatusOr<ResolvedImage> resolved = parts_.preparer.Resolve(reference, platform);
  auto image = std::make_shared<Image>();
  image->error = resolved.status();
  image->at = parts_.clock.Now();
  if (resolved.ok()) {
    image->manifest = resolved->manifest;
    image->blobs = resolved->image.blobs;
  }
  std::vector<CallPtr> known;
  {
    std::lock_guard lock(mutex_);
    Keep(key, image);
    const auto lookup = lookups_.find(key);
    for (const Waiter& waiter : lookup->second) {
      if (!waiter.call->looking_up) continue;
      waiter.call->images[waiter.index] = image;
      if (--waiter.call->looked_up_open == 0) known.push_back(waiter.call);
    }
    lookups_.erase(lookup);
  }
  for (const CallPtr& call : known) EndLookups(call);
}

void Locality::Core::Keep(const std::string& key, const ImagePtr& image) {
  MakeRoom(images_, limits_.images_max, image->at - limits_.image_kept,
           [](const ImagePtr& kept) { return kept->at; });
  images_[key] = image;
}

// All is known, or its time has passed.
void Locality::Core::EndLookups(const CallPtr& call) {
  {
    std::lock_guard lock(mutex_);
    if (!std::exchange(call->looking_up, false)) return;
    for (size_t i = 0; i < call->answers.size(); ++i) {
      api::ImageLocality& answer = call->answers[i];
      if (!answer.error.ok()) continue;
      if (call->images[i]) {
        answer.error = call->images[i]->error;
      } else {
        answer.error = AgainLater(absl::DeadlineExceededError(
            absl::StrCat(answer.reference, " is not known yet; it goes on being looked up, so ask again")));
      }
    }
  }
  if (call->scope == api::LocalityScope::kNode) return Finish(call);
  AskOthers(call);
}

void Locality::Core::AskOthers(const CallPtr& call) {
  bool nothing_to_ask = false;
  {
    std::lock_guard lock(mutex_);
    PlanQuestions(*call);
    nothing_to_ask = call->to_ask.empty();
  }
  if (nothing_to_ask) return Finish(call);
  parts_.timers.PostAt(call->deadline, [self = shared_from_this(), call] { self->Finish(call); });
  AskNext(call);
}

void Locality::Core::PlanQuestions(Call& call) {
  const Instant now = parts_.clock.Now();
  absl::flat_hash_set<p2p::BlobIdentity> asked;
  for (size_t i = 0; i < call.answers.size(); ++i) {
    if (!call.answers[i].error.ok()) continue;
    for (const BlobSpec& blob : call.images[i]->blobs) {
      const std::optional<p2p::BlobIdentity> identity = IdentityOf(blob);
      if (!identity || call.shares.contains(*identity) || asked.contains(*identity)) continue;
      const auto known = shares_.find(*identity);
      if (known != shares_.end() && now - known->second.at < limits_.shares_kept) {
        call.shares[*identity] = known->second.of;
      } else if (asked.size() < limits_.blobs_asked_max) {
        asked.insert(*identity);
        call.to_ask.push_back(*identity);
      } else {
        call.answers[i].error = AgainLater(absl::ResourceExhaustedError(absl::StrCat(
            "the call is about more than ", limits_.blobs_asked_max,
            " blobs that other nodes would have to be asked for; ask for fewer images at once")));
        break;
      }
    }
  }
}

void Locality::Core::AskNext(const CallPtr& call) {
  for (;;) {
    std::optional<p2p::BlobIdentity> blob;
    {
      std::lock_guard lock(mutex_);
      if (call->over || call->to_ask.empty() || call->questions >= limits_.questions_at_once) return;
      blob = call->to_ask.front();
      call->to_ask.pop_front();
      ++call->questions;
    }
    parts_.ask_shares(*blob, [self = shared_from_this(), call, blob = *blob](auto shares) {
      self->OnShares(call, blob, std::move(shares));
    });
  }
}

void Locality::Core::OnShares(const CallPtr& call, const p2p::BlobIdentity& blob,
                              std::optional<std::vector<p2p::HolderShare>> shares) {
  bool all_asked = false;
  {
    std::lock_guard lock(mutex_);
    if (shares) {
      const Instant now = parts_.clock.Now();
      MakeRoom(shares_, limits_.shares_max, now - limits_.shares_kept,
               [](const Shares& kept) { return kept.at; });
      shares_[blob] = {*shares, now};
      call->shares[blob] = *std::move(shares);
    }
    --call->questions;
    all_asked = call->to_ask.empty() && call->questions == 0;
  }
  if (all_asked) return Finish(call);
  AskNext(call);
}

void Locality::Core::Finish(const CallPtr& call) {
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(call->over, true)) return;
    for (size_t i = 0; i < call->answers.size(); ++i) {
      if (call->answers[i].error.ok()) Describe(*call, *call->images[i], call->answers[i]);
    }
  }
  std::move(call->done)(std::move(call->answers));
}

void Locality::Core::Describe(const Call& call, const Image& image, api::ImageLocality& answer) const {
  answer.manifest = image.manifest;
  std::map<std::string, uint64_t> of_nodes;
  bool asked = false, told = false;
  for (const BlobSpec& blob : image.blobs) {
    answer.total_bytes += blob.size;
    answer.present_bytes += parts_.present(blob);
    const std::optional<p2p::BlobIdentity> identity = IdentityOf(blob);
    if (call.scope == api::LocalityScope::kNode || !identity) continue;
    asked = true;
    const auto shares = call.shares.find(*identity);
    if (shares == call.shares.end()) continue;
    told = true;
    for (const p2p::HolderShare& share : shares->second)
      of_nodes[share.name] += std::min(share.present_bytes, blob.size);
  }
  if (call.scope == api::LocalityScope::kNode) return;
  if (asked && !told) {
    answer.error = AgainLater(absl::UnavailableError(
        absl::StrCat("none of the nodes that know who has ", answer.reference, " answered in time")));
    return;
  }
  // What this node knows of itself is newer than what it told the others.
  of_nodes[parts_.own_name()] = answer.present_bytes;
  for (const auto& [name, bytes] : of_nodes) {
    if (bytes > 0) answer.nodes.push_back({name, bytes});
  }
  std::stable_sort(
      answer.nodes.begin(), answer.nodes.end(),
      [](const api::NodeShare& a, const api::NodeShare& b) { return a.present_bytes > b.present_bytes; });
  if (answer.nodes.size() > api::kLocalityNodesMax) answer.nodes.resize(api::kLocalityNodesMax);
}

Locality::Locality(Parts parts, Limits limits) : core_(std::make_shared<Core>(std::move(parts), limits)) {}

Locality::~Locality() = default;

void Locality::GetLocality(const api::LocalityQuery& query, Instant deadline, OnLocality done) {
  core_->GetLocality(query, deadline, std::move(done));
}

}  // namespace sluice
