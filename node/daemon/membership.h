#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/dial_route.h"
#include "api/http/peer_routes.h"
#include "index/disk_store.h"
#include "node/chunk_set.h"
#include "node/daemon/config.h"
#include "p2p/cluster/dial_back.h"
#include "p2p/cluster/holders.h"
#include "p2p/cluster/host_port.h"
#include "p2p/cluster/member_exchange.h"
#include "p2p/cluster/member_table.h"
#include "p2p/cluster/members.h"

// What this node is as a member of a cluster: what it says of itself, and what p2p/ knows, as api/ gives it
// to others.
namespace sluice {

// What this node says of itself to the others, where it listens for them at `listen`, in that zone ("":
// none). Errors: InvalidArgument, which names the setting.
absl::StatusOr<p2p::MemberRow> OwnRow(const Config& config, const p2p::HostPort& listen,
                                      const std::string& zone);

// "2 other members: a, b". Of a long list the first names, and how many more there are.
std::string DescribeOthers(const p2p::Members::List& others);

// What this node has, in whole or in part, and may give to every member.
std::vector<p2p::HeldBlob> HeldForOthers(const index::DiskStore& store, PeerTrust trust);
// The chunks of one of them that are here; nothing: none, or not for every member.
std::optional<ChunkSet> PresentForOthers(const index::DiskStore& store, PeerTrust trust,
                                         const p2p::BlobIdentity& wanted);

class ExchangeAnswers final : public api::MemberAnswers {
 public:
  explicit ExchangeAnswers(p2p::MemberExchange& exchange) : exchange_(exchange) {}
  absl::StatusOr<std::string> Answer(std::string_view since, std::string_view old, std::string_view asker,
                                     const ProvenNames& proven) override {
    return exchange_.Answer(since, old, asker, proven);
  }

 private:
  p2p::MemberExchange& exchange_;
};

class KnownHolders final : public api::HolderAnswers {
 public:
  explicit KnownHolders(p2p::Holders& holders) : holders_(holders) {}
  std::string Answer(const Question& question) override {
    return holders_.Answer({question.digest, question.size, question.chunk, question.root, question.shares});
  }
  absl::StatusOr<std::string> Presence(const Question& question) override {
    return holders_.AnswerPresence({question.digest, question.size, question.chunk, question.root});
  }
  absl::Status Take(std::string_view announcement, const ProvenNames& proven) override {
    return holders_.Take(announcement, proven);
  }

 private:
  p2p::Holders& holders_;
};

class NodeDials final : public api::DialAnswers {
 public:
  explicit NodeDials(p2p::DialBack& dial_back) : dial_back_(dial_back) {}
  void Dial(std::string_view asker, const ProvenNames& proven, Done done) override {
    dial_back_.Answer(asker, proven, std::move(done));
  }

 private:
  p2p::DialBack& dial_back_;
};

}  // namespace sluice
