#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// Descriptors that the keeper needs besides those of events.
inline constexpr uint32_t kOwnDescriptors = 64;
inline constexpr uint32_t kSlotsMin = 8;

// Closes all descriptors but these and standard error.
void CloseOthers(std::span<const int> keep);

// Whether the keeper is to leave the cgroup that it was started in.
enum class CgroupOf { kParent, kKeeper };

// Leaves the daemon's session, and where it is permitted its cgroup, so that what stops the daemon does not
// stop the keeper; asks the kernel to spare it when memory runs out; closes all inherited descriptors but
// standard error and `keep`. What is not permitted is left as it is.
void LeaveParent(std::span<const int> keep, CgroupOf cgroup);

// Sets the limit on descriptors to what `slots` reads and the keeper itself need, or to the hard limit if
// that is less; returns the number of slots that fit. Fails with EMFILE if fewer than kSlotsMin do.
Result<uint32_t> LimitDescriptors(uint32_t slots);
// The limit that is in force.
uint32_t DescriptorLimit();

// At most one keeper per runtime directory: holds `path` locked. Fails with EALREADY.
Result<Descriptor> LockRuntime(const std::string& path);
// At most one keeper per store: holds the directory itself locked, which needs no file in it that somebody
// could remove. Fails with EALREADY.
Result<Descriptor> LockDirectory(const std::string& path);
// At most one keeper per journal, wherever its runtime directory is. Fails with EALREADY.
Result<Descriptor> LockJournal(int journal);

}  // namespace sluice::keeper
