#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "node/executor.h"
#include "p2p/cluster/host_port.h"

namespace sluice::p2p {

// What a member says of itself. Source: PEERS.md, "Members".
struct MemberRow {
  static constexpr size_t kNameBytesMax = 253;
  static constexpr size_t kZoneBytesMax = 63;
  static constexpr size_t kAddressesMax = 8;

  std::string name;                 // cluster.name: printable ASCII that fits in a list, see Validate
  std::vector<HostPort> addresses;  // IP literals, sorted, each once; none: as others find it
  std::string zone;                 // may be empty
  uint32_t protocol = 0;            // the major that it speaks
  uint64_t start = 0;               // larger after each start of the process

  // Errors: InvalidArgument, which says what is wrong.
  absl::Status Validate() const;
  friend bool operator==(const MemberRow&, const MemberRow&) = default;
};

// Says in few bytes which rows somebody has: those of a bucket that hash alike need not be sent.
inline constexpr size_t kRowBuckets = 32;
using RowHashes = std::array<uint32_t, kRowBuckets>;
// A bit for each bucket.
using RowBucketSet = uint32_t;
size_t RowBucketOf(const std::string& name);

// The members that this node knows, by name. Rows come from the members themselves, from DNS (their addresses
// only), and by hearsay, which never makes a row younger, so that the dead do not live on by being passed
// around, and changes nothing of a member that answered within the TTL: it only says where to ask. This
// node's own row is part of it, and nobody else changes that one.
//
// Pure: the clock is handed in. Not thread-safe.
class MemberTable {
 public:
  static constexpr size_t kRowsMax = 10000;  // beyond, new ones are refused
  static constexpr size_t kTwinsMax = 100;   // shown
  static constexpr size_t kForgottenMax = 10000;
  static constexpr size_t kRumoursMax = 100;

  enum class Contact { kNone, kAnswered, kSilent };  // how asking it went last

  struct Entry {
    MemberRow row;
    Instant heard{};  // when somebody had it from the member, or its address from DNS
    Contact contact = Contact::kNone;
    Instant contact_at{};
    uint64_t hash = 0;  // of the row
    size_t bucket = 0;
  };
  struct Told {
    MemberRow row;
    Duration age{};
  };
  struct ToldAge {
    std::string name;
    uint64_t start = 0;
    Duration age{};
  };

  enum class Merge {
    kNothingNew,
    kNew,      // a member, or one that started again or moved
    kTwin,     // two live ones have this name; the one with the larger start number stays
    kSelf,     // it is this node
    kRefused,  // malformed, of another protocol major, too old, or there is no room
  };

  // REQUIRES: self is valid, ttl > 0
  MemberTable(MemberRow self, Duration ttl);

  // The member itself said so, asked at that address.
  Merge HeardFrom(MemberRow row, const HostPort& at, Instant now);
  // Another member said so.
  Merge Hear(Told told, Instant now);
  void HearAge(const ToldAge& told, Instant now);
  // It was asked and did not answer.
  void NoteSilence(const std::string& name, Instant now);
  void NoteSilence(const HostPort& unnamed, Instant now);

  // The addresses of the static list; those of DNS names, as they were resolved last; and the part of those
  // that was resolved just now. A silent member whose address is nowhere is dropped, if all was resolved.
  void SetAddresses(std::set<HostPort> listed, std::set<HostPort> resolved,
                    const std::set<HostPort>& resolved_now, Instant now);
  // Drops rows older than the TTL.
  void Expire(Instant now);

  const MemberRow& self() const { return self_; }
  Duration ttl() const { return ttl_; }
  // The others, by name.
  const std::map<std::string, Entry>& others() const { return others_; }
  // Those that have another's name and the smaller start number, while they live; or this node's.
  const std::map<std::string, Entry>& twins() const { return twins_; }
  // Addresses of which no member's name is known yet.
  std::vector<HostPort> Unnamed() const;
  // Where a member that answers elsewhere is said to be, or another in its place; each is to be asked once.
  std::vector<HostPort> Rumoured() const;
  // The address is one of this node.
  void NoteSelf(const HostPort& address);
  const std::set<HostPort>& self_addresses() const { return self_addresses_; }
  // Whether another node can be there. On loopback it can only if it was configured, or this node is reached
  // nowhere else: or others could make this node dial whatever listens on its own host.
  bool MayBeAt(const HostPort& address) const;
  bool IsSelf(const HostPort& address) const { return self_addresses_.contains(address); }

  // Who serves by this node's name, since it started later. Null: this node does.
  const Entry* ServingTwin(Instant now) const;
  // Of the members and unnamed addresses that were asked within the TTL fewer than half answered; or those of
  // which a name is known and which are not silent, this node among them, are fewer than half of all.
  bool IsCutOff(Instant now) const;

  // What the rows hash to, this node's own among them.
  RowHashes Hashes() const;
  // The buckets with rows of more than a third of the TTL: their ages are worth asking for.
  RowBucketSet OldBuckets(Instant now) const;
  // The rows whose bucket hashes otherwise, this node's own excepted: that one is told apart.
  std::vector<Told> RowsBeside(const RowHashes& theirs, Instant now) const;
  // The ages, of at most a third of the TTL, in those buckets.
  std::vector<ToldAge> AgesOf(RowBucketSet buckets, Instant now) const;

 private:
  // A row that was dropped: it comes back only by who heard of it later.
  struct Forgotten {
    uint64_t start = 0;
    Instant heard{};
    Instant dropped_at{};
  };
  // `at`: where it answered; null for hearsay.
  Merge Put(MemberRow row, Instant heard, Contact contact, Instant now, const HostPort* at = nullptr);
  bool Answers(const Entry& entry, Instant now) const;
  // Whether what was said of `by` leaves the address with who has it now.
  bool IsKept(const HostPort& address, const MemberRow& by, Instant now);
  void NoteRumour(const HostPort& address, Instant now);
  void TakeAddress(const HostPort& address, const std::string& by, Instant now);
  void NoteTwin(MemberRow row, Instant now);
  void Drop(std::map<std::string, Entry>::iterator entry, Instant now);

  const MemberRow self_;
  const Duration ttl_;
  const uint64_t self_hash_;
  std::map<std::string, Entry> others_;
  std::map<std::string, Entry> twins_;
  std::map<std::string, Forgotten> forgotten_;
  std::map<HostPort, std::string> names_;  // of the addresses of others_
  std::set<HostPort> listed_, resolved_;
  std::set<HostPort> self_addresses_;
  std::set<HostPort> silent_unnamed_;
  std::map<HostPort, Instant> rumours_;  // since when
};

}  // namespace sluice::p2p
