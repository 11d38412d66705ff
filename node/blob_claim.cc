#include "node/blob_claim.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "node/geometry.h"

namespace sluice {
namespace {

constexpr size_t kFieldsMax = 16;
constexpr std::string_view kPlain = "plain";
constexpr std::string_view kCompressed = "zstd-seekable";
// What zstd may add to what it can't compress, and a seek table to that.
constexpr uint64_t kStoredMoreMax = 1 << 20;
// A seek table's header and footer; and an entry, without and with a checksum. Source: zstd,
// contrib/seekable_format/zstd_seekable_compression_format.md, version 0.1.0.
constexpr uint64_t kTableBytes = 17;
constexpr uint64_t kEntryBytes = 8;
constexpr uint64_t kEntryBytesMax = 12;

absl::string_view View(std::string_view text) {
  return {text.data(), text.size()};
}
std::string_view View(absl::string_view text) {
  return {text.data(), text.size()};
}

absl::Status Malformed(std::string_view field) {
  return absl::InvalidArgumentError(absl::StrCat("malformed Sluice-Blob: ", View(field)));
}

// The fields by name. Names are few, so a list serves.
class Fields {
 public:
  // Errors: InvalidArgument.
  absl::Status Read(std::string_view text) {
    if (text.size() > kBlobClaimBytesMax) return Malformed("too long");
    for (absl::string_view part : absl::StrSplit(View(text), ';')) {
      part = absl::StripAsciiWhitespace(part);
      const std::pair<absl::string_view, absl::string_view> field =
          absl::StrSplit(part, absl::MaxSplits('=', 1));
      if (field.first.empty() || part.find('=') == absl::string_view::npos) return Malformed("no NAME=VALUE");
      if (Get(View(field.first))) return Malformed("a field twice");
      if (count_ == kFieldsMax) return Malformed("too many fields");
      fields_[count_++] = {View(field.first), View(field.second)};
    }
    return absl::OkStatus();
  }
  std::optional<std::string_view> Get(std::string_view name) const {
    const auto end = fields_.begin() + static_cast<std::ptrdiff_t>(count_);
    const auto found =
        std::find_if(fields_.begin(), end, [name](const auto& field) { return field.first == name; });
    if (found == end) return std::nullopt;
    return found->second;
  }

 private:
  std::array<std::pair<std::string_view, std::string_view>, kFieldsMax> fields_;
  size_t count_ = 0;
};

// Digits alone, as they are written here.
template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number number = 0;
  const char* const end = text.data() + text.size();
  const auto [parsed, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || parsed != end || (text.size() > 1 && text.front() == '0')) return std::nullopt;
  return number;
}

// "OFFSET:SIZE:sha256:HEX".
std::optional<SeekTablePlace> ParsePlace(std::string_view text) {
  const size_t first = text.find(':');
  if (first == std::string_view::npos) return std::nullopt;
  const size_t second = text.find(':', first + 1);
  if (second == std::string_view::npos) return std::nullopt;
  const auto offset = ParseNumber<uint64_t>(text.substr(0, first));
  const auto size = ParseNumber<uint64_t>(text.substr(first + 1, second - first - 1));
  const absl::StatusOr<Digest> digest = Digest::Parse(text.substr(second + 1));
  if (!offset || !size || !digest.ok()) return std::nullopt;
  return SeekTablePlace{{*offset, *size}, *digest};
}

absl::Status ReadGeometry(const Fields& fields, BlobSpec* spec) {
  const auto size = ParseNumber<uint64_t>(fields.Get("size").value_or(""));
  if (!size || *size == 0) return Malformed("size");
  const auto chunk = ParseNumber<uint32_t>(fields.Get("chunk").value_or(""));
  if (!chunk || !ChunkGeometry::Validate(*size, *chunk).ok()) return Malformed("chunk");
  spec->size = *size;
  spec->chunk_size = *chunk;
  const std::optional<std::string_view> root = fields.Get("root");
  if (!root) return absl::OkStatus();
  const absl::StatusOr<Digest> parsed = Digest::Parse(*root);
  if (!parsed.ok()) return Malformed("root");
  spec->root = *parsed;
  return absl::OkStatus();
}

// What is said of the stored bytes of a plain blob has only one right answer.
absl::Status CheckPlain(const Fields& fields, const BlobSpec& spec) {
  const std::optional<std::string_view> wire = fields.Get("wire");
  if (wire && View(*wire) != spec.digest.ToString()) return Malformed("wire");
  const std::optional<std::string_view> wire_size = fields.Get("wire-size");
  if (wire_size && ParseNumber<uint64_t>(*wire_size) != spec.size) return Malformed("wire-size");
  return fields.Get("table") ? Malformed("table") : absl::OkStatus();
}

// It is the last thing that is stored, after one frame at least.
bool CanBe(const ByteRange& table, uint64_t stored_size, uint32_t chunks) {
  return table.length >= kTableBytes + kEntryBytes * chunks &&
         table.length <= kTableBytes + kEntryBytesMax * chunks && table.length < stored_size &&
         table.offset == stored_size - table.length;
}

absl::StatusOr<StoredForm> ReadStored(const Fields& fields, const BlobSpec& spec) {
  const absl::StatusOr<Digest> wire = Digest::Parse(fields.Get("wire").value_or(""));
  if (!wire.ok()) return Malformed("wire");
  const auto size = ParseNumber<uint64_t>(fields.Get("wire-size").value_or(""));
  if (!size || *size == 0 || *size > spec.size + spec.size / 16 + kStoredMoreMax)
    return Malformed("wire-size");
  StoredForm stored{*wire, *size, std::nullopt};
  const std::optional<std::string_view> table = fields.Get("table");
  const uint32_t chunks = ChunkGeometry(spec.size, spec.chunk_size).chunk_count();
  if (!table) return chunks > 1 ? absl::StatusOr<StoredForm>(Malformed("table")) : stored;
  stored.seek_table = ParsePlace(*table);
  if (!stored.seek_table || !CanBe(stored.seek_table->range, *size, chunks)) return Malformed("table");
  return stored;
}

}  // namespace

std::string FormatBlobClaim(const BlobSpec& spec, const BlobOrigin& origin, BlobClaim::Access access) {
  std::string text = absl::StrCat("size=", spec.size, "; chunk=", spec.chunk_size);
  if (spec.root) absl::StrAppend(&text, "; root=", spec.root->ToString());
  absl::StrAppend(&text, "; public=", access == BlobClaim::Access::kPublic ? 1 : 0);
  const StoredForm* const stored = spec.StoredAt(origin);
  absl::StrAppend(&text, "; enc=", View(stored ? kCompressed : kPlain));
  if (!stored) return text;
  absl::StrAppend(&text, "; wire=", stored->digest.ToString(), "; wire-size=", stored->size);
  if (const std::optional<SeekTablePlace>& table = stored->seek_table) {
    absl::StrAppend(&text, "; table=", table->range.offset, ":", table->range.length, ":",
                    table->digest.ToString());
  }
  return text;
}

absl::StatusOr<BlobClaim> ParseBlobClaim(std::string_view text, const Digest& digest,
                                         const BlobOrigin& origin) {
  Fields fields;
  if (absl::Status read = fields.Read(text); !read.ok()) return read;
  BlobClaim claim;
  claim.spec.digest = digest;
  claim.spec.origins = {origin};
  if (absl::Status read = ReadGeometry(fields, &claim.spec); !read.ok()) return read;
  const std::string_view access = fields.Get("public").value_or("");
  if (access != "0" && access != "1") return Malformed("public");
  claim.access = access == "1" ? BlobClaim::Access::kPublic : BlobClaim::Access::kNotPublic;
  const std::string_view encoding = fields.Get("enc").value_or("");
  if (encoding == kPlain) {
    if (absl::Status right = CheckPlain(fields, claim.spec); !right.ok()) return right;
    return claim;
  }
  if (encoding != kCompressed) return Malformed("enc");
  absl::StatusOr<StoredForm> stored = ReadStored(fields, claim.spec);
  if (!stored.ok()) return stored.status();
  claim.spec.stored.emplace(origin, *std::move(stored));
  return claim;
}

}  // namespace sluice
