#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "node/digest.h"
#include "node/image_profile.h"

// Profiles of images as JSON: between nodes, on disk, and for people.
namespace sluice::p2p {

inline constexpr size_t kProfileBytesMax = 64 << 10;
inline constexpr char kProfilesPath[] = "/sluice/v1/profiles";

// Whether its repository gives the image to everybody.
enum class ImageAccess { kPublic, kPrivate };

// One start of an image, as the node that recorded it tells others.
struct StartRecord {
  Digest manifest;
  std::string recorder;  // its name as a member
  uint64_t number = 0;   // another for each start that it records
  ImageAccess access = ImageAccess::kPrivate;
  ImageProfile start;
};

// What a node keeps of an image: starts merged, and whose latest is among them, so that none counts twice.
struct KeptProfile {
  static constexpr size_t kRecordersMax = 64;
  using Recorder = std::pair<std::string, uint64_t>;  // its name, and the number of its latest start

  Digest manifest;
  ImageAccess access = ImageAccess::kPrivate;
  ImageProfile profile;
  std::vector<Recorder> recorders;  // who came last is last

  // False if that start is the latest of its recorder already.
  bool Merge(const StartRecord& record);
};

std::string FormatStart(const StartRecord& record);
std::string FormatKept(const KeptProfile& kept);
// Nothing if it is malformed, of another version, or beyond the bounds. What names chunks that an image has
// not is not: who uses it knows the image.
std::optional<StartRecord> ParseStart(std::string_view text);
std::optional<KeptProfile> ParseKept(std::string_view text);

}  // namespace sluice::p2p
