#include "p2p/cluster/member_codec.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "taken.h"

using namespace sluice::p2p;

namespace {

sluice::fuzz::Parser row_parser("members' rows");
sluice::fuzz::Parser answer_parser("members' answers");
sluice::fuzz::Parser hashes_parser("hashes of rows");

void Require(bool holds) {
  if (!holds) std::abort();
}

void CheckAnswer(const MembersAnswer& answer) {
  answer_parser.Took();
  Require(answer.self.Validate().ok());
  // A liar may say anything of anybody; this node's own row stays.
  MemberTable table({"self", {{"10.0.0.1", 1}}, "", answer.self.protocol, 1}, std::chrono::seconds(300));
  const sluice::Instant now{std::chrono::hours(1000)};
  table.HeardFrom(answer.self, {"10.0.0.2", 2}, now);
  for (const MemberTable::Told& told : answer.rows) {
    Require(told.row.Validate().ok() && told.age >= sluice::Duration(0));
    table.Hear(told, now);
  }
  for (const MemberTable::ToldAge& told : answer.ages) table.HearAge(told, now);
  Require(!table.others().contains("self"));
  for (const auto& [name, entry] : table.others())
    Require(entry.row.name == name && !entry.row.addresses.empty() && entry.heard <= now);
  // What is told is read.
  const RowHashes nothing{};
  const std::string told = EncodeMembers({answer.self, table.RowsBeside(nothing, now), {}});
  Require(told.size() <= kMembersBytesMax);
  const absl::StatusOr<MembersAnswer> again = DecodeMembers(told);
  Require(again.ok() && again->self == answer.self);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto row = DecodeRow(bytes); row.ok()) {
    row_parser.Took();
    const auto again = DecodeRow(EncodeRow(*row));
    Require(row->Validate().ok() && again.ok() && *again == *row);
  }
  if (const auto answer = DecodeMembers(bytes); answer.ok()) CheckAnswer(*answer);
  if (const auto hashes = DecodeHashes(bytes)) {
    hashes_parser.Took();
    Require(DecodeHashes(EncodeHashes(*hashes)) == hashes);
  }
  return 0;
}
