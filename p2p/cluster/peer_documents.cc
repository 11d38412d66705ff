#include "p2p/cluster/peer_documents.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "p2p/cluster/ranks.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {

// What members say, in the order of coming.
class PeerDocumentClient::Answers {
 public:
  struct Came {
    size_t member;
    absl::StatusOr<PeerClient::Answer> answer;
  };
  // Of a member.
  struct State {
    std::optional<Instant> asked;
    bool heard = false;
    bool answered = false;
    bool noted = false;  // as a failure
  };
  explicit Answers(size_t members) : members_(members) {}

  void Ask(size_t member, Instant now) {
    const std::lock_guard lock(mutex_);
    members_[member] = {.asked = now};
  }
  void Hear(size_t member) {
    const std::lock_guard lock(mutex_);
    members_[member].heard = true;
  }
  // Whether anything has come, or may come soon: from one that has said something, or was asked since `late`.
  bool IsAnyHope(Instant late) const {
    const std::lock_guard lock(mutex_);
    return !came_.empty() || std::any_of(members_.begin(), members_.end(), [&](const State& state) {
      return state.asked && !state.answered && (state.heard || *state.asked > late);
    });
  }
  // Whether a failure is to be noted by whoever brings it, since nobody waits any more.
  bool Add(size_t member, absl::StatusOr<PeerClient::Answer> answer) {
    const std::lock_guard lock(mutex_);
    members_[member].answered = true;
    if (over_) return !members_[member].noted;
    came_.push_back({member, std::move(answer)});
    changed_.notify_one();
    return false;
  }
  std::optional<Came> Next(Duration wait) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, wait, [&] { return !came_.empty(); });
    if (came_.empty()) return std::nullopt;
    Came came = std::move(came_.front());
    came_.pop_front();
    return came;
  }
  // Nobody waits any more. Returns what has come and was not looked at, and who has said nothing since
  // `late`: failures are to be noted.
  std::deque<Came> End(Instant late) {
    const std::lock_guard lock(mutex_);
    over_ = true;
    for (size_t i = 0; i < members_.size(); ++i) {
      State& state = members_[i];
      if (!state.asked || state.heard || state.answered || *state.asked > late) continue;
      state.noted = true;
      came_.push_back({i, absl::UnavailableError("it says nothing")});
    }
    return std::exchange(came_, {});
  }

 private:
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Came> came_;
  std::vector<State> members_;
  bool over_ = false;
};

// Whoever is slow leaves time for the next.
void PeerDocumentClient::Begin(const Member& member, size_t index, PeerClient::Question question,
                               const std::shared_ptr<Answers>& answers) const {
  question.on_sign = [answers, index] { answers->Hear(index); };
  parts_.client.Ask(member, question,
                    [parts = parts_, answers, index, name = member.name,
                     path = question.path_and_query](absl::StatusOr<PeerClient::Answer> answer) {
                      const absl::Status status = answer.status();
                      if (answers->Add(index, std::move(answer)) && !status.ok())
                        NoteFailure(parts, name, path, status);
                    });
}

void PeerDocumentClient::NoteFailure(const Parts& parts, const std::string& member, const std::string& path,
                                     const absl::Status& why) {
  if (absl::IsCancelled(why) || absl::IsNotFound(why)) return;
  if (absl::IsPermissionDenied(why)) return parts.members.NoteSelf(member);
  const Instant now = parts.clock.Now();
  Duration skip = MemberHealth::kSkipWrong;
  if (absl::IsDataLoss(why)) {
    parts.health.SentWrong(member, now, path);
  } else {
    skip = parts.health.Failed(member, now, std::string(why.message()));
  }
  if (skip == Duration(0)) return;
  parts.warn(absl::StrCat("member ", member, " is not asked for ",
                          std::chrono::duration_cast<std::chrono::seconds>(skip).count(), " s: ", path, ": ",
                          std::string(why.message())));
}

absl::Status PeerDocumentClient::Ask(const Digest& key, const std::string& path, uint64_t bytes_max,
                                     Instant deadline, const Take& take) const {
  const auto view = parts_.members.view();
  const std::vector<Member> members =
      RanksOfBlob(*view, key, parts_.health, kMembersAskedMax, parts_.clock.Now());
  const auto answers = std::make_shared<Answers>(members.size());
  // Whoever has said nothing for long is not asked for the next thing, either.
  const absl::Cleanup over = [&] {
    for (const Answers::Came& left : answers->End(parts_.clock.Now() - parts_.late_after)) {
      if (!left.answer.ok()) NoteFailure(parts_, members[left.member].name, path, left.answer.status());
    }
  };
  size_t next = 0;
  Instant late{};  // when the last that was asked is
  Duration wait{};
  for (Instant now = parts_.clock.Now(); now < deadline; now = parts_.clock.Now()) {
    if (const std::optional<Answers::Came> came = answers->Next(wait)) {
      wait = {};
      const Member& member = members[came->member];
      const absl::Status taken = came->answer.ok() ? take(*came->answer) : came->answer.status();
      if (taken.ok()) {
        parts_.health.Succeeded(member.name);
        return taken;
      }
      if (absl::IsCancelled(taken)) break;
      NoteFailure(parts_, member.name, path, taken);
      continue;
    }
    now = parts_.clock.Now();
    if (!answers->IsAnyHope(now - parts_.late_after)) {
      if (next == members.size()) break;
      answers->Ask(next, now);
      late = now + parts_.late_after;
      Begin(members[next], next, {path, bytes_max, (deadline - now) / 2}, answers);
      ++next;
    }
    wait = std::max(Duration(0), (now < late ? std::min(late, deadline) : deadline) - now);
  }
  return absl::NotFoundError(absl::StrCat("no member that was asked has ", path));
}

absl::StatusOr<FetchedManifest> PeerDocumentClient::FetchManifest(const BlobOrigin& origin,
                                                                  const Digest& digest) const {
  FetchedManifest manifest;
  const absl::Status asked =
      Ask(digest, RegistryPathOf(origin, "manifests", digest), kManifestBytesMax,
          parts_.clock.Now() + kTimeout, [&](const PeerClient::Answer& answer) -> absl::Status {
            if (Sha256::Of(answer.body) != digest) return absl::DataLossError("it does not match its digest");
            manifest = {answer.media_type, answer.body, digest, answer.access, /*from_member=*/true};
            return absl::OkStatus();
          });
  if (!asked.ok()) return asked;
  return manifest;
}

absl::StatusOr<std::string> PeerDocumentClient::FetchRecipe(const BlobSpec& spec) const {
  std::string bytes;
  const std::string path =
      absl::StrCat("/sluice/v1/recipes/", spec.digest.ToString(), "?root=", spec.root->ToString());
  const absl::Status asked =
      Ask(spec.digest, path, kRecipeBytesMax, parts_.clock.Now() + kTimeout,
          [&](const PeerClient::Answer& answer) -> absl::Status {
            const absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(answer.body);
            if (!recipe.ok() || !recipe->IsBoundBy(spec))
              return absl::DataLossError("it is not the recipe that the manifest binds");
            bytes = answer.body;
            return absl::OkStatus();
          });
  if (!asked.ok()) return asked;
  return bytes;
}

absl::StatusOr<Recipe> PeerDocumentClient::FetchSealed(const BlobSpec& spec) const {
  Recipe sealed;
  const absl::Status asked =
      Ask(spec.digest, absl::StrCat("/sluice/v1/recipes/", spec.digest.ToString()), kRecipeBytesMax,
          parts_.clock.Now() + kSealedTimeout, [&](const PeerClient::Answer& answer) -> absl::Status {
            absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(answer.body);
            if (!recipe.ok() || recipe->blob != spec.digest)
              return absl::DataLossError("it is no recipe of that blob");
            // Another manifest may cut it otherwise.
            if (recipe->size != spec.size || recipe->chunk_size != spec.chunk_size)
              return absl::NotFoundError("it is cut otherwise");
            sealed = *std::move(recipe);
            return absl::OkStatus();
          });
  if (!asked.ok()) return asked;
  return sealed;
}

absl::StatusOr<PeerDocumentClient::WholeBlob> PeerDocumentClient::FetchBlob(const BlobOrigin& origin,
                                                                            const Digest& digest,
                                                                            uint64_t size,
                                                                            Instant deadline) const {
  const std::string path = RegistryPathOf(origin, "blobs", digest);
  if (size > kWholeBlobBytesMax)
    return absl::NotFoundError(absl::StrCat(path, " is too large to be taken whole"));
  WholeBlob blob;
  const absl::Status asked =
      Ask(digest, path, size, deadline, [&](const PeerClient::Answer& answer) -> absl::Status {
        if (answer.body.size() != size || Sha256::Of(answer.body) != digest)
          return absl::DataLossError("it does not match its digest");
        blob = {answer.body, answer.access};
        return absl::OkStatus();
      });
  if (!asked.ok()) return asked;
  parts_.telemetry.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)].Add(blob.bytes.size());
  return blob;
}

}  // namespace sluice::p2p
