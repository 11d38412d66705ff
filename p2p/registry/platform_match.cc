#include "p2p/registry/platform_match.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

#if defined(__x86_64__)
#define _Bool bool  // glibc's header is C, and clang knows no _Bool in C++
#include <sys/platform/x86.h>
#undef _Bool
#endif

namespace sluice::p2p {
namespace {

// More than there are variants of an architecture.
constexpr uint32_t kRanksPerFeature = 1000;
constexpr int kVersionMax = 99;

struct Runs {
  std::string architecture;
  std::string variant;
};

// "v7" is 7, "v8.2" is 8 and 2. False if it is no such version.
bool ReadVersion(std::string_view variant, int* major, int* minor) {
  *minor = 0;
  if (!variant.starts_with('v')) return false;
  variant.remove_prefix(1);
  const size_t dot = variant.find('.');
  if (dot != std::string_view::npos) {
    if (!absl::SimpleAtoi(Abs(variant.substr(dot + 1)), minor)) return false;
    variant = variant.substr(0, dot);
  }
  return absl::SimpleAtoi(Abs(variant), major) && *major >= 0 && *major <= kVersionMax && *minor >= 0 &&
         *minor <= kVersionMax;
}

void AddAmd64(const std::string& variant, std::vector<Runs>& runs) {
  int major = 0;
  int minor = 0;
  if (ReadVersion(variant, &major, &minor)) {
    for (int lower = major - 1; lower > 1; --lower) runs.push_back({"amd64", absl::StrCat("v", lower)});
    if (major > 1) runs.push_back({"amd64", ""});
  }
  runs.push_back({"386", ""});
}

void AddArm(const std::string& variant, std::vector<Runs>& runs) {
  int major = 0;
  int minor = 0;
  if (!ReadVersion(variant, &major, &minor)) return;
  for (int lower = major - 1; lower >= 5; --lower) runs.push_back({"arm", absl::StrCat("v", lower)});
}

void AddArm64(const std::string& variant, std::vector<Runs>& runs) {
  constexpr int kLikeV8 = 5;  // v9.x has all that v8.(x+5) has
  int major = 8;
  int minor = 0;
  const bool known = variant.empty() || ReadVersion(variant, &major, &minor);
  if (known && major == 9) {
    for (int lower = minor - 1; lower > 0; --lower) runs.push_back({"arm64", absl::StrCat("v9.", lower)});
    if (minor > 0) runs.push_back({"arm64", "v9"});
    minor += kLikeV8 + 1;
  }
  if (known && (major == 8 || major == 9)) {
    for (int lower = minor - 1; lower > 0; --lower) runs.push_back({"arm64", absl::StrCat("v8.", lower)});
    if (minor > 0) runs.push_back({"arm64", ""});
    runs.push_back({"arm", "v8"});
    AddArm("v8", runs);
  }
}

// In order, what was asked for first. REQUIRES: normalized
std::vector<Runs> WhatItRuns(const Platform& wanted) {
  std::vector<Runs> runs = {{wanted.architecture, wanted.variant}};
  if (wanted.architecture == "amd64") AddAmd64(wanted.variant, runs);
  if (wanted.architecture == "arm") AddArm(wanted.variant, runs);
  if (wanted.architecture == "arm64") AddArm64(wanted.variant, runs);
  return runs;
}

void NormalizeArm(std::string& variant) {
  if (variant.empty()) variant = "v7";
  if (variant.size() == 1 && variant[0] >= '5' && variant[0] <= '8') variant.insert(0, "v");
}

}  // namespace

Platform Normalized(Platform platform) {
  absl::AsciiStrToLower(&platform.os);
  absl::AsciiStrToLower(&platform.architecture);
  absl::AsciiStrToLower(&platform.variant);
  std::string& architecture = platform.architecture;
  std::string& variant = platform.variant;
  if (platform.os == "macos") platform.os = "darwin";
  if (architecture == "i386") {
    architecture = "386";
    variant.clear();
  } else if (architecture == "x86_64" || architecture == "x86-64" || architecture == "amd64") {
    architecture = "amd64";
    if (variant == "v1") variant.clear();
  } else if (architecture == "aarch64" || architecture == "arm64") {
    architecture = "arm64";
    if (variant == "8" || variant == "v8") variant.clear();
  } else if (architecture == "armhf" || architecture == "armel") {
    variant = architecture == "armhf" ? "v7" : "v6";
    architecture = "arm";
  } else if (architecture == "arm") {
    NormalizeArm(variant);
  }
  std::sort(platform.os_features.begin(), platform.os_features.end());
  platform.os_features.erase(std::unique(platform.os_features.begin(), platform.os_features.end()),
                             platform.os_features.end());
  return platform;
}

std::optional<uint32_t> PlatformRank(const Platform& wanted, const Platform& offered) {
  const Platform ours = Normalized(wanted);
  const Platform theirs = Normalized(offered);
  if (theirs.os != ours.os || !std::includes(ours.os_features.begin(), ours.os_features.end(),
                                             theirs.os_features.begin(), theirs.os_features.end())) {
    return std::nullopt;
  }
  const std::vector<Runs> runs = WhatItRuns(ours);
  const auto found = std::find_if(runs.begin(), runs.end(), [&](const Runs& one) {
    return one.architecture == theirs.architecture && one.variant == theirs.variant;
  });
  if (found == runs.end()) return std::nullopt;
  const auto unused = static_cast<uint32_t>(ours.os_features.size() - theirs.os_features.size());
  return unused * kRanksPerFeature + static_cast<uint32_t>(found - runs.begin());
}

// Source: x86-64 psABI, "Micro-architecture levels". "Active" is what the kernel lets programs use, too.
Platform ThisCpu() {
  Platform platform = Platform::Host();
#if defined(__x86_64__)
  const bool v2 = CPU_FEATURE_ACTIVE(CMPXCHG16B) && CPU_FEATURE_ACTIVE(LAHF64_SAHF64) &&
                  CPU_FEATURE_ACTIVE(POPCNT) && CPU_FEATURE_ACTIVE(SSE3) && CPU_FEATURE_ACTIVE(SSE4_1) &&
                  CPU_FEATURE_ACTIVE(SSE4_2) && CPU_FEATURE_ACTIVE(SSSE3);
  const bool v3 = v2 && CPU_FEATURE_ACTIVE(AVX) && CPU_FEATURE_ACTIVE(AVX2) && CPU_FEATURE_ACTIVE(BMI1) &&
                  CPU_FEATURE_ACTIVE(BMI2) && CPU_FEATURE_ACTIVE(F16C) && CPU_FEATURE_ACTIVE(FMA) &&
                  CPU_FEATURE_ACTIVE(LZCNT) && CPU_FEATURE_ACTIVE(MOVBE);
  const bool v4 = v3 && CPU_FEATURE_ACTIVE(AVX512F) && CPU_FEATURE_ACTIVE(AVX512BW) &&
                  CPU_FEATURE_ACTIVE(AVX512CD) && CPU_FEATURE_ACTIVE(AVX512DQ) &&
                  CPU_FEATURE_ACTIVE(AVX512VL);
  platform.variant = v4 ? "v4" : v3 ? "v3" : v2 ? "v2" : "";
#endif
  return platform;
}

}  // namespace sluice::p2p
