#include "node/cli/runtime_files.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sluice::cli {
namespace {

constexpr char kCrioHead[] = "# written by \"sluice configure crio\"; \"--remove\" takes it away\n";
constexpr char kCrioRegistry[] = "\n[[registry]]\n";
constexpr char kBegin[] = "# sluice: begin (\"sluice configure containerd --remove\" takes this away)";
constexpr char kEnd[] = "# sluice: end";

absl::string_view View(std::string_view text) {
  return {text.data(), text.size()};
}

std::vector<std::string> LinesOf(std::string_view text) {
  std::vector<std::string> lines = absl::StrSplit(View(text), '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

std::string TextOf(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) absl::StrAppend(&text, line, "\n");
  return text;
}

std::string HeaderOf(const std::string& mirror) {
  return absl::StrCat("[host.\"", mirror, "\"]");
}

// "[ a . b ]" and "[a.b]" are one table: TOML 1.0, "Table".
std::string Normalized(absl::string_view line) {
  std::string text(line);
  text.erase(std::remove_if(text.begin(), text.end(), [](char c) { return c == ' ' || c == '\t'; }),
             text.end());
  return text;
}

bool BeginsTable(absl::string_view line) {
  return absl::StartsWith(absl::StripLeadingAsciiWhitespace(line), "[");
}

// A basic or literal string; nothing if it is neither.
std::optional<std::string> StringValue(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text.size() < 2 || (text[0] != '"' && text[0] != '\'')) return std::nullopt;
  const size_t end = text.find(text[0], 1);
  if (end == absl::string_view::npos) return std::nullopt;
  const std::string value(text.substr(1, end - 1));
  if (text[0] == '"' && value.find('\\') != std::string::npos) return std::nullopt;
  return value;
}

}  // namespace

absl::StatusOr<std::string> ConfigPathOf(std::string_view containerd_config) {
  bool inside = false;
  for (const std::string& line : LinesOf(containerd_config)) {
    if (BeginsTable(line)) {
      // Of version 2 and 3 of the file.
      const std::string table = Normalized(line);
      inside = absl::StartsWith(table, "[plugins.\"io.containerd.grpc.v1.cri\".registry]") ||
               absl::StartsWith(table, "[plugins.'io.containerd.cri.v1.images'.registry]") ||
               absl::StartsWith(table, "[plugins.\"io.containerd.cri.v1.images\".registry]");
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (!inside || absl::StripAsciiWhitespace(entry.first) != "config_path") continue;
    const std::optional<std::string> value = StringValue(entry.second);
    if (!value) return absl::InvalidArgumentError(absl::StrCat("config_path is no plain text: ", line));
    // Several folders stand apart by ':'; the first that has a host's folder counts.
    return value->substr(0, value->find(':'));
  }
  return std::string();
}

bool DiscardsUnpackedLayers(std::string_view containerd_config) {
  bool inside = false, discards = false;
  for (const std::string& line : LinesOf(containerd_config)) {
    if (BeginsTable(line)) {
      // Of version 2 and 3 of the file; the table may end with a comment.
      const std::string table = Normalized(line);
      const auto is = [&](absl::string_view name) {
        return absl::StartsWith(table, absl::StrCat("[", name, "]"));
      };
      inside = is("plugins.\"io.containerd.grpc.v1.cri\".containerd") ||
               is("plugins.'io.containerd.grpc.v1.cri'.containerd") ||
               is("plugins.\"io.containerd.cri.v1.images\"") || is("plugins.'io.containerd.cri.v1.images'");
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (!inside || absl::StripAsciiWhitespace(entry.first) != "discard_unpacked_layers") continue;
    discards = absl::StartsWith(absl::StripAsciiWhitespace(entry.second), "true");
  }
  return discards;
}

absl::StatusOr<std::string> WithMirror(std::string_view hosts_toml, const std::string& mirror) {
  const absl::StatusOr<std::optional<std::string>> others = WithoutMirror(hosts_toml);
  if (!others.ok()) return others.status();
  std::vector<std::string> lines = LinesOf(others->value_or(""));
  const std::string header = HeaderOf(mirror);
  for (const std::string& line : lines) {
    if (absl::StartsWith(Normalized(line), header))
      return absl::FailedPreconditionError(
          absl::StrCat("somebody else wrote ", header, " there; take it away, or leave the file as it is"));
  }
  // What stands before the first table belongs to no host; hosts are asked in the order of their tables.
  size_t at = 0;
  while (at < lines.size() && !BeginsTable(lines[at])) ++at;
  const std::vector<std::string> block = {kBegin, header, "  capabilities = [\"pull\", \"resolve\"]", kEnd};
  lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(at), block.begin(), block.end());
  return TextOf(lines);
}

absl::StatusOr<std::optional<std::string>> WithoutMirror(std::string_view hosts_toml) {
  std::vector<std::string> kept;
  bool inside = false, blank = true;
  for (std::string& line : LinesOf(hosts_toml)) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text == kBegin || text == kEnd) {
      if (inside == (text == kBegin))
        return absl::FailedPreconditionError(absl::StrCat("only one of the lines \"", kBegin, "\" and \"",
                                                          kEnd, "\" is there; mend it by hand"));
      inside = !inside;
    } else if (!inside) {
      blank = blank && text.empty();
      kept.push_back(std::move(line));
    }
  }
  if (inside)
    return absl::FailedPreconditionError(absl::StrCat("the line \"", kEnd, "\" is missing; mend it by hand"));
  if (blank) return std::nullopt;
  return TextOf(kept);
}

std::string MirrorsOfRegistries(const std::vector<std::string>& registries, const std::string& mirror) {
  std::string text = kCrioHead;
  for (const std::string& registry : registries) {
    absl::StrAppend(&text, kCrioRegistry, "prefix = \"", registry, "\"\nlocation = \"", registry,
                    "\"\n[[registry.mirror]]\nlocation = \"", mirror, "/", registry, "\"\ninsecure = true\n");
  }
  return text;
}

absl::StatusOr<std::optional<std::string>> WithoutRegistries(std::string_view text,
                                                             const std::vector<std::string>& registries) {
  absl::string_view of_registries(text.data(), text.size());
  if (!absl::ConsumePrefix(&of_registries, kCrioHead))
    return absl::FailedPreconditionError("somebody else has written it; take it away by hand");
  std::string left;
  if (!registries.empty()) {
    for (const absl::string_view entry : absl::StrSplit(of_registries, kCrioRegistry, absl::SkipEmpty())) {
      const bool is_named = std::any_of(registries.begin(), registries.end(), [&](const std::string& name) {
        return absl::StartsWith(entry, absl::StrCat("prefix = \"", name, "\"\n"));
      });
      if (!is_named) absl::StrAppend(&left, kCrioRegistry, entry);
    }
  }
  if (left.empty()) return std::nullopt;
  return absl::StrCat(kCrioHead, left);
}

}  // namespace sluice::cli
