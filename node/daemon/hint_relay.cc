#include "node/daemon/hint_relay.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/daemon/hint_codec.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr char kPath[] = "/sluice/v1/hints";
constexpr size_t kReasonBytesMax = 256;  // of what a member says

std::string OwnNameIn(const p2p::Members& members) {
  std::string name;
  members.Look([&](const p2p::MemberTable& table, Instant) { name = table.self().name; });
  return name;
}

std::optional<p2p::Member> FindMember(const p2p::Members& members, const std::string& name) {
  const std::shared_ptr<const p2p::MemberView> view = members.view();
  const auto found = std::lower_bound(
      view->members.begin(), view->members.end(), name,
      [](const p2p::Member& member, const std::string& wanted) { return member.name < wanted; });
  if (found == view->members.end() || found->name != name || found->is_self) return std::nullopt;
  return *found;
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// Throws what says what is wrong, without a value.
api::HintCredentials CredentialsFrom(const json& in) {
  api::HintCredentials given{in.at("username").get<std::string>(),
                             Secret(in.at("password").get<std::string>())};
  const bool sound = !given.username.empty() && given.username.size() <= api::kHintUsernameBytesMax &&
                     !given.password.empty() && given.password.text().size() <= api::kHintPasswordBytesMax;
  if (!sound) throw std::runtime_error("its credentials can't have been taken so");
  return given;
}

// What a member is told.
std::string Outcome(const absl::Status& refused, const char* done) {
  if (refused.ok()) return Dump({{"outcome", done}});
  return Dump({{"outcome", "refused"},
               {"code", static_cast<int>(refused.code())},
               {"message", std::string(refused.message()).substr(0, kReasonBytesMax)}});
}

// What a member's answer says.
absl::Status Told(const absl::StatusOr<p2p::PeerTransport::Answer>& answer) {
  if (!answer.ok()) return answer.status();
  const json told = json::parse(answer->body, nullptr, false);
  const absl::Status nonsense = absl::UnavailableError("the member's answer makes no sense");
  if (!told.is_object()) return nonsense;
  const json outcome = told.value("outcome", json());
  if (outcome == "taken" || outcome == "cancelled") return absl::OkStatus();
  const json code = told.value("code", json()), message = told.value("message", json());
  if (outcome != "refused" || !code.is_number_integer() || !message.is_string()) return nonsense;
  const auto number = code.get<int64_t>();
  if (number <= 0 || number > static_cast<int>(absl::StatusCode::kUnauthenticated)) return nonsense;
  return absl::Status(static_cast<absl::StatusCode>(number),
                      message.get<std::string>().substr(0, kReasonBytesMax));
}

}  // namespace

class HintRelay::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(Parts parts, Limits limits) : parts_(parts), limits_(limits) {}

  const Parts& parts() const { return parts_; }

  void Carry(const api::HintSpec& spec, std::vector<std::string> members, OnTold on_told) {
    api::HintSpec passed_on = spec;
    passed_on.targets.clear();
    json question = {{"sender", OwnNameIn(parts_.members)},
                     {"hint", ToJson({std::move(passed_on), std::chrono::system_clock::now()})}};
    if (spec.credentials && parts_.wire == PeerWire::kTls) {
      question["credentials"] = {{"username", spec.credentials->username},
                                 {"password", spec.credentials->password.text()}};
    }
    Send(question, std::move(members), std::move(on_told), absl::NotFoundError("it is no member any more"));
  }

  void Recall(const std::string& id, std::vector<std::string> members, OnTold on_told) {
    Send({{"sender", OwnNameIn(parts_.members)}, {"cancel", id}}, std::move(members), std::move(on_told),
         absl::UnavailableError("it is no member now"));
  }

  void Stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    waiting_.clear();
  }

 private:
  // One question, for several.
  struct Batch {
    const Secret body;
    const Instant until;
    const OnTold on_told;
    const absl::Status no_member;  // what is said of one that is none
  };
  struct Errand {
    std::string member;
    std::shared_ptr<const Batch> batch;
  };

  void Send(const json& question, std::vector<std::string> members, OnTold on_told, absl::Status no_member) {
    const auto batch =
        std::make_shared<Batch>(Batch{Secret(Dump(question)), parts_.clock.Now() + limits_.patience,
                                      std::move(on_told), std::move(no_member)});
    {
      const std::lock_guard lock(mutex_);
      for (std::string& member : members) {
        if (waiting_.size() < limits_.waiting_max) {
          waiting_.push_back({std::move(member), batch});
        } else {
          Tell({std::move(member), batch},
               absl::ResourceExhaustedError("too many members are to be told of hints; try again later"));
        }
      }
    }
    parts_.io.Post([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Pump();
    });
  }

  void Pump() {
    std::vector<Errand> begun;
    {
      const std::lock_guard lock(mutex_);
      const Instant now = parts_.clock.Now();
      while (!stopped_ && !waiting_.empty() && under_way_ < limits_.under_way_max) {
        Errand errand = std::move(waiting_.front());
        waiting_.pop_front();
        if (now >= errand.batch->until) {
          Tell(std::move(errand), absl::DeadlineExceededError("its turn to be told did not come in time"));
          continue;
        }
        ++under_way_;
        begun.push_back(std::move(errand));
      }
    }
    for (Errand& errand : begun) Ask(std::move(errand));
  }

  void Ask(Errand errand) {
    const std::optional<p2p::Member> member = FindMember(parts_.members, errand.member);
    if (!member) {
      const absl::Status none = errand.batch->no_member;
      return Ended(std::move(errand), none);
    }
    const p2p::PeerTransport::Question question{.path_and_query = kPath,
                                                .bytes_max = kAnswerBytesMax,
                                                .timeout = limits_.timeout,
                                                .body = errand.batch->body.text()};
    parts_.client.Ask(*member, question,
                      [weak = weak_from_this(), errand = std::move(errand)](
                          const absl::StatusOr<p2p::PeerTransport::Answer>& answer) mutable {
                        if (const auto self = weak.lock()) self->Ended(std::move(errand), Told(answer));
                      });
  }

  // Never in the call: what is told of may be locked there.
  void Ended(Errand errand, const absl::Status& status) {
    Tell(std::move(errand), status);
    parts_.io.Post([weak = weak_from_this()] {
      const auto self = weak.lock();
      if (!self) return;
      {
        const std::lock_guard lock(self->mutex_);
        --self->under_way_;
      }
      self->Pump();
    });
  }

  void Tell(Errand errand, const absl::Status& status) {
    parts_.io.Post([weak = weak_from_this(), errand = std::move(errand), status] {
      if (const auto self = weak.lock()) errand.batch->on_told(errand.member, status);
    });
  }

  const Parts parts_;
  const Limits limits_;

  std::mutex mutex_;
  // Guarded by mutex_.
  bool stopped_ = false;
  std::deque<Errand> waiting_;
  size_t under_way_ = 0;
};

HintRelay::HintRelay(Parts parts, Limits limits) : core_(std::make_shared<Core>(parts, limits)) {}

HintRelay::~HintRelay() {
  core_->Stop();
}

HintCarrier::Who HintRelay::WhoIs(const std::string& name) const {
  if (name == OwnNameIn(core_->parts().members)) return Who::kSelf;
  return FindMember(core_->parts().members, name) ? Who::kMember : Who::kStranger;
}

bool HintRelay::KeepsSecrets() const {
  return core_->parts().wire == PeerWire::kTls;
}

void HintRelay::Carry(const api::HintSpec& spec, std::vector<std::string> members, OnTold on_told) {
  core_->Carry(spec, std::move(members), std::move(on_told));
}

void HintRelay::Recall(const std::string& id, std::vector<std::string> members, OnTold on_told) {
  core_->Recall(id, std::move(members), std::move(on_told));
}

absl::StatusOr<std::string> HintInbox::Take(std::string_view body, const ProvenNames& proven) {
  std::string sender;
  std::vector<api::HintSpec> hints;
  std::string cancelled;
  try {
    const json told = json::parse(body);
    sender = told.at("sender").get<std::string>();
    if (told.contains("cancel")) {
      cancelled = told.at("cancel").get<std::string>();
    } else {
      hints.push_back(HintFrom(told.at("hint")).spec);
    }
    if (!hints.empty() && told.contains("credentials"))
      hints.back().credentials = CredentialsFrom(told.at("credentials"));
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat("no hint: ", std::string(e.what()).substr(0, kReasonBytesMax)));
  }
  if (!FindMember(members_, sender)) return absl::PermissionDeniedError("the sender is no member");
  if (!proven.Allow(sender))
    return absl::PermissionDeniedError("the sender is not the name in the certificate");
  if (hints.empty()) return Outcome(hints_.CancelHints({cancelled}).status(), "cancelled");
  if (hints.front().credentials && wire_ != PeerWire::kTls)
    return absl::InvalidArgumentError("credentials were passed on without TLS");
  // Nobody passes on what was passed on.
  if (!hints.front().targets.empty()) return absl::InvalidArgumentError("a hint with targets was passed on");
  const absl::StatusOr<std::vector<api::SubmitResult>> results = hints_.SubmitHints(hints);
  const absl::Status refused = results.ok() ? results->front().error : results.status();
  return Outcome(refused, "taken");
}

}  // namespace sluice
