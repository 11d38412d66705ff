#pragma once

#include <cstdint>

namespace sluice::keeper {

// The machine's CLOCK_MONOTONIC, which processes in different time namespaces (time_namespaces(7)) agree on:
// deadlines are written by one process and read by another.
int64_t NowNs();

// A time of NowNs() as this process's own CLOCK_MONOTONIC has it.
int64_t OwnTimeNs(int64_t machine_ns);

// How far the process's clock is ahead of the machine's, by what /proc/self/timens_offsets says; 0 if it says
// nothing. For tests.
int64_t ParseClockOffset(const char* text);

}  // namespace sluice::keeper
