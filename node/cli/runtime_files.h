#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// The texts of container runtimes' files that say whom they ask for images. What this program put into one
// stands between two lines of comment, by which it is found again. Nothing here touches a disk.
namespace sluice::cli {

// What stands in containerd's configuration for CRI's registries: the first folder of `config_path`. Empty if
// it is not set. Errors: InvalidArgument (it is set, and can't be read). Source: containerd,
// docs/cri/config.md, "Registry Configuration".
absl::StatusOr<std::string> ConfigPathOf(std::string_view containerd_config);

// Whether containerd's configuration has CRI take layers away once they are unpacked
// (`discard_unpacked_layers`), as it does not by itself. Source: containerd, docs/cri/config.md.
bool DiscardsUnpackedLayers(std::string_view containerd_config);

// A hosts.toml with `mirror` (a URL) as the first host to be asked. What was there stays as it is.
// Idempotent. Errors: FailedPrecondition (the mirror stands there by somebody else's hand). Source:
// containerd, docs/hosts.md.
absl::StatusOr<std::string> WithMirror(std::string_view hosts_toml, const std::string& mirror);

// The same without what WithMirror put there; nothing if that was all. Errors: FailedPrecondition (only one
// of the two lines is there).
absl::StatusOr<std::optional<std::string>> WithoutMirror(std::string_view hosts_toml);

// A file of CRI-O's registries.conf.d: `mirror` ("host:port") is asked first for what is at each of the
// registries. Source: containers-registries.conf(5).
std::string MirrorsOfRegistries(const std::vector<std::string>& registries, const std::string& mirror);
// The same without these registries, or without any if none is named; nothing if none is left. Errors:
// FailedPrecondition (MirrorsOfRegistries has not written it).
absl::StatusOr<std::optional<std::string>> WithoutRegistries(std::string_view text,
                                                             const std::vector<std::string>& registries);

}  // namespace sluice::cli
