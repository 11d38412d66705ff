#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/result.h"

// How a keeper that serves mounts becomes a keeper of another version, which speaks another wire.h: it runs
// the other's program in its own process. Descriptors, locks and process number stay, so that nobody's door
// is closed for a moment, whoever dies meanwhile. The daemon that asks for it has duplicates of what a
// successor would need before that.
//
// Every version must speak this with every other one. Nothing that stands here is given another meaning: no
// field is moved, no name changed, no descriptor's place taken by another. What is shared is the journal: a
// keeper becomes none that has another layout of it.
namespace sluice::keeper {

inline constexpr uint32_t kReplaceMagic = 0x524c5753;
inline constexpr uint32_t kReplaceTextMax = 512;
inline constexpr uint32_t kReplacePathMax = 1024;

enum class ReplaceStep : uint32_t {
  kAsk = 1,  // the reply carries kReplaceDescriptors
  kGo = 2,   // with the program's descriptor; there is a reply only if the keeper stays what it is
};
struct ReplaceRequest {
  uint32_t magic = kReplaceMagic;
  ReplaceStep step = ReplaceStep::kAsk;
  uint32_t journal_version = kJournalVersion;  // that the program knows
  uint32_t journal_size = sizeof(JournalLayout);
  // Of the program, terminated. Where the keeper finds the same file there, it runs that: it has not the
  // daemon's mounts, and would keep them.
  char path[kReplacePathMax] = {};
};
// Descriptors that come with the reply to kAsk, in this order.
enum ReplaceDescriptor {
  kReplaceJournal,
  kReplaceCompletions,
  kReplaceRequests,
  kReplaceTree,
  kReplaceDescriptors
};

struct ReplaceReply {
  uint32_t magic = kReplaceMagic;
  int32_t error = 0;                // errno value
  char text[kReplaceTextMax] = {};  // why not, terminated
};
static_assert(sizeof(ReplaceRequest) == 16 + kReplacePathMax && sizeof(ReplaceReply) == 520);

// The message if it is exactly one of these; else nullptr. The memory must be aligned for uint64_t.
const ReplaceRequest* ParseReplaceRequest(std::span<const std::byte> bytes);
const ReplaceReply* ParseReplaceReply(std::span<const std::byte> bytes);

// A file of the kernel's cache that is open (cachefiles), by its place in the journal's objects.
struct HeldObject {
  uint32_t index = 0;
  uint32_t generation = 0;
  int32_t file = -1;
};

// The descriptors that go on into the program.
struct Estate {
  int requests = -1;
  int tree = -1;
  int journal = -1;
  int completions = -1;
  std::vector<int> locks;
  std::vector<HeldObject> objects;
};

// Whether the program runs here at all and knows --inherit: runs it as `program --can-inherit FD` in a child,
// where it must say kCanInherit on that descriptor within some seconds. Errors: ENOEXEC, and others.
Outcome ProveProgram(int program);
// The same file by that path; `program` again if it is not there.
Result<Descriptor> OpenOurs(int program, const std::string& path);
inline constexpr char kCanInherit[] = "can inherit";
// Runs `program` in this process as `program ARGUMENT... --inherit LIST`, where LIST names the estate for
// ReadEstate. All other threads end, as by SIGKILL. Returns only if it can't; nothing has changed then.
Outcome RunInstead(int program, std::vector<std::string> arguments, const Estate& estate);
// What --inherit names: NAME=NUMBER, separated by commas. Names that are not known are passed over. Closes
// the list of objects, and nothing else. Errors: EINVAL if one of the four is missing.
Result<Estate> ReadEstate(std::string_view list);

}  // namespace sluice::keeper
