#pragma once

namespace sluice::index {

// Whether a part of the store runs on threads of its own, or when the caller says so: a simulation that is to
// be replayed says so.
enum class Threads { kOwn, kNone };

}  // namespace sluice::index
