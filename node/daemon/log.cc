#include "node/daemon/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <iterator>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "ondemand/line_writer.h"

namespace sluice {
namespace {

// The message as a JSON string, so that a quote in an error can't break the line.
class JsonMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const std::string text(message.payload.data(), message.payload.size());
    const std::string quoted =
        nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    out.append(quoted.data(), quoted.data() + quoted.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<JsonMessage>(); }
};

// The message on one line, whatever the names in it are.
class LineMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    for (const char c : message.payload) {
      if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t') {
        fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(c));
      } else {
        out.push_back(c);
      }
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<LineMessage>(); }
};

std::unique_ptr<spdlog::formatter> FormatterOf(const std::string& format) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc);
  if (format == "json") {
    formatter->add_flag<JsonMessage>('*').set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","message":%*})");
  } else {
    formatter->add_flag<LineMessage>('*').set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %*");
  }
  return formatter;
}

std::string LineOf(const std::string& format, const std::string& text) {
  spdlog::memory_buf_t line;
  FormatterOf(format)->format(spdlog::details::log_msg("sluiced", spdlog::level::warn, text), line);
  return {line.data(), line.size()};
}

}  // namespace

class DaemonLog::Sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit Sink(const std::string& format)
      : writer(STDERR_FILENO, [format](uint64_t lines) {
          return LineOf(format, std::to_string(lines) + " log lines were dropped: nobody took them");
        }) {}

  ondemand::LineWriter writer;

  std::vector<Line> Recent() {
    std::lock_guard lock(mutex_);
    return {recent_.begin(), recent_.end()};
  }

 private:
  void Keep(const spdlog::details::log_msg& message) {
    if (recent_.size() == kRecentMax) recent_.pop_front();
    const auto since_epoch = message.time.time_since_epoch();
    const spdlog::string_view_t level = spdlog::level::to_string_view(message.level);
    recent_.push_back(
        {std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count(),
         std::string(level.data(), level.size()),
         std::string(message.payload.data(), std::min(message.payload.size(), kRecentBytesMax))});
  }
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (message.level >= spdlog::level::warn) Keep(message);
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    writer.Write({line.data(), line.size()});
  }
  void flush_() override {}

  std::deque<Line> recent_;  // guarded by mutex_
};

DaemonLog::DaemonLog(const std::string& level, const std::string& format)
    : sink_(std::make_shared<Sink>(format)) {
  auto logger = std::make_shared<spdlog::logger>("sluiced", sink_);
  logger->set_formatter(FormatterOf(format));
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
}

DaemonLog::~DaemonLog() {
  spdlog::shutdown();
}

std::string DaemonLog::SetLevel(const std::string& level) {
  std::string before = this->level();
  spdlog::set_level(spdlog::level::from_str(level));
  return before;
}

std::string DaemonLog::level() const {
  switch (spdlog::get_level()) {
    case spdlog::level::trace:
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::info:
      return "info";
    case spdlog::level::warn:
      return "warn";
    default:
      return "error";
  }
}

void DaemonLog::Reopen() {
  sink_->writer.Reopen();
}

uint64_t DaemonLog::dropped() const {
  return sink_->writer.dropped();
}

std::vector<DaemonLog::Line> DaemonLog::Recent() const {
  return sink_->Recent();
}

bool DaemonLog::Stuck() const {
  return sink_->writer.Stuck();
}

}  // namespace sluice
