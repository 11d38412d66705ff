#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "node/image/layer_stream.h"
#include "node/image/tar_reader.h"
#include "p2p/recipe/sha256.h"
#include "taken.h"
#include "tests/unit/image/read_layer.h"

namespace sluice {
namespace {

fuzz::Parser plain_parser("plain layers");
fuzz::Parser gzip_parser("gzip layers");
fuzz::Parser zstd_parser("zstd layers");
fuzz::Parser sparse_parser("sparse files");
fuzz::Parser xattr_parser("extended attributes");

constexpr uint64_t kArchiveBytesMax = 4 << 20;

void Require(bool truth) {
  if (!truth) std::abort();
}

void CheckEntry(const LayerEntry& entry) {
  const FileAttributes& attributes = entry.attributes;
  Require(attributes.uid != 0xffffffff && attributes.gid != 0xffffffff);
  Require(attributes.permissions <= 07777 && attributes.mtime_ns < 1000000000);
  Require(entry.path.find('\0') == std::string::npos && entry.target.find('\0') == std::string::npos);
  Require(entry.device_major < 1 << 12 && entry.device_minor < 1 << 20);
  Require(entry.kind == EntryKind::kRegular || entry.size == 0);
  for (const auto& [name, value] : attributes.xattrs) Require(name.find('\0') == std::string::npos);
}

// What was read, so that two readings can be compared; and the error, if it ended with one.
std::string Read(const std::string& layer, size_t at_once, bool skip_contents,
                 LayerCompression& compression) {
  auto stream = LayerStream::Open(std::make_unique<MemoryStream>(layer, at_once), kArchiveBytesMax);
  if (!stream.ok()) return stream.status().ToString();
  compression = (*stream)->compression();
  LayerUsage usage;
  TarReader reader(**stream,
                   {.bytes_max = uint64_t{1} << 40, .entries_max = 10000, .xattr_bytes_max = 100000}, usage);
  std::string all;
  uint64_t bytes = 0;
  while (true) {
    LayerEntry entry;
    absl::StatusOr<bool> more = reader.Next(entry);
    if (!more.ok()) return all + more.status().ToString();
    if (!*more) break;
    CheckEntry(entry);
    all += entry.path + '\0' + entry.target + '\0' + std::to_string(entry.size) + '\0';
    if (skip_contents) continue;
    absl::StatusOr<EntryRead> read = ReadContents(reader, entry);  // Internal: runs out of place
    Require(read.ok() || !absl::IsInternal(read.status()));
    if (!read.ok()) return all + read.status().ToString();
    uint64_t stored = 0;
    for (const auto& [offset, run] : read->runs) {
      stored += run.size();
      all += std::to_string(offset) + run;
    }
    bytes += stored;
    if (stored < entry.size) sparse_parser.Took();
    if (!entry.attributes.xattrs.empty()) xattr_parser.Took();
  }
  const absl::StatusOr<Digest> digest = (*stream)->Finish();
  if (!digest.ok()) return all + digest.status().ToString();
  Require(bytes <= (*stream)->bytes() && (*stream)->bytes() <= kArchiveBytesMax);
  if (compression == LayerCompression::kNone) Require(*digest == p2p::Sha256::Of(layer));
  return all + digest->ToString();
}

void Check(const std::string& layer) {
  LayerCompression compression = LayerCompression::kNone;
  const std::string whole = Read(layer, layer.size() + 1, false, compression);
  // However the bytes arrive, it is the same.
  Require(Read(layer, 1 + layer.size() % 700, false, compression) == whole);
  Read(layer, layer.size() + 1, true, compression);
  const bool taken = whole.size() >= 71 && whole.compare(whole.size() - 71, 7, "sha256:") == 0;
  if (!taken) return;
  if (compression == LayerCompression::kNone) plain_parser.Took();
  if (compression == LayerCompression::kGzip) gzip_parser.Took();
  if (compression == LayerCompression::kZstd) zstd_parser.Took();
}

// With the checksums put right: or every change in a header would end there.
std::string Repaired(std::string archive) {
  for (size_t at = 0; at + 512 <= archive.size(); at += 512) {
    if (archive.compare(at + 257, 5, "ustar") != 0) continue;
    std::memset(archive.data() + at + 148, ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < 512; ++i) sum += static_cast<uint8_t>(archive[at + i]);
    for (size_t i = 6; i-- > 0; sum >>= 3) archive[at + 148 + i] = static_cast<char>('0' + (sum & 7));
    archive[at + 154] = '\0';
  }
  return archive;
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string layer(reinterpret_cast<const char*>(data), size);
  sluice::Check(layer);
  if (const std::string repaired = sluice::Repaired(layer); repaired != layer) sluice::Check(repaired);
  return 0;
}
