#pragma once

#include <string>
#include <vector>

#include "ondemand/keeper/result.h"

// A keeper that outlives the pod whose daemon has started it: it leaves the pod's namespaces and cgroup for
// the host's, and runs from a file of the host's. The pod must share the host's PID namespace.
namespace sluice::keeper {

// The folder in /proc of a process that sees what the host sees: of the first one, or where that may not be
// looked at, as it may do more than we, of the farthest ancestor that may: a pod's are the host's. Errors:
// EPERM (there is none, or this is the first process itself: the pod has a PID namespace of its own).
Result<std::string> HostProcess();

// Enters that process's namespaces (cgroups, network, IPC, host name, mounts); the working directory is then
// the host's root. Errors: EPERM and others, in words that name the namespace and the remedy. REQUIRES: the
// process has one thread
Outcome EnterHost();

// Becomes `program`, a path as the host has it, with these arguments, outside of every cgroup of the pod's:
// in a cgroup of its own, or the root's, of each hierarchy, and from there in a scope of the host's systemd
// where that runs. Returns only with an error (then nothing runs), or with success when the program, which
// leaves its parent behind, has started in a scope. REQUIRES: EnterHost() has succeeded
Outcome BecomeOnHost(const std::string& program, std::vector<std::string> arguments);

// A cgroup's hierarchies as of a text like /proc/self/mountinfo: the folders at which the root of one is
// mounted.
std::vector<std::string> CgroupRoots(const std::string& mountinfo);

// Back to the cgroups' roots; takes away those that BecomeOnHost has made, unless another keeper is in them.
void LeaveOwnCgroups();

}  // namespace sluice::keeper
