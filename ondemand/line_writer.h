#pragma once

#include "ondemand/keeper/line_writer.h"

namespace sluice::ondemand {

// The keeper's queue of log lines serves the daemon too.
using keeper::LineWriter;

}  // namespace sluice::ondemand
