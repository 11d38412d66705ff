#pragma once

#include <string>

#include "sluice/v1/admin.pb.h"

// What a node does between two looks at its status: rates, fetches by class, queues, what was read ahead,
// hints.

namespace sluice::cli {

// A few lines for a terminal. Rates are of the time between the two, of which `before` is the earlier one of
// the same daemon.
std::string ActivityText(const v1::NodeStatus& before, const v1::NodeStatus& now);
// The same on one line.
std::string ActivityLine(const v1::NodeStatus& before, const v1::NodeStatus& now);
// The same as one line of JSON, with rates in bytes or fetches a second.
std::string ActivityJson(const v1::NodeStatus& before, const v1::NodeStatus& now);

}  // namespace sluice::cli
