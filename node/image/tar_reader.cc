#include "node/image/tar_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr size_t kBufferBytes = 256 << 10;
constexpr size_t kOldSparseSizeOffset = 483;  // in a header of type 'S'
constexpr size_t kOldSparseSizeBytes = 12;

uint64_t PaddingOf(uint64_t bytes) {
  return (kTarBlockBytes - bytes % kTarBlockBytes) % kTarBlockBytes;
}

absl::Status Damaged(std::string_view why) {
  return absl::InvalidArgumentError(p2p::Abs(why));
}

}  // namespace

TarReader::TarReader(ByteStream& archive, const LayerLimits& limits, LayerUsage& usage)
    : archive_(archive), limits_(limits), usage_(usage), buffer_(kBufferBytes) {}

absl::StatusOr<bool> TarReader::Next(LayerEntry& entry) {
  if (!status_.ok()) return status_;
  if (ended_) return false;
  absl::StatusOr<bool> more = ReadEntry(entry);
  if (!more.ok()) return status_ = Named(more.status());
  ended_ = !*more;
  return more;
}

absl::StatusOr<bool> TarReader::NextRun(ContentRun& run) {
  if (!status_.ok()) return status_;
  absl::StatusOr<bool> more = ReadRun(run);
  if (!more.ok()) return status_ = Named(more.status());
  return more;
}

absl::Status TarReader::Named(const absl::Status& status) const {
  const std::string where = in_entry_ ? absl::StrCat("layer entry ", p2p::Quoted(path_))
                            : path_.empty()
                                ? absl::StrCat("at byte ", header_offset_, " of the layer's archive")
                                : absl::StrCat("behind layer entry ", p2p::Quoted(path_), ", at byte ",
                                               header_offset_, " of the layer's archive");
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

absl::StatusOr<bool> TarReader::ReadEntry(LayerEntry& entry) {
  if (absl::Status skipped = SkipContents(); !skipped.ok()) return skipped;
  in_entry_ = false;
  TarExtensions extensions;
  while (true) {
    absl::StatusOr<bool> more = ReadHeader();
    if (!more.ok()) return more.status();
    if (!*more) {
      if (extensions.any) return Damaged("no entry follows an extended header");
      return false;
    }
    TarHeader header;
    const absl::Status parsed = ParseTarHeader(block_, header);
    if (parsed.ok()) {
      absl::StatusOr<bool> extension = ReadExtension(header, extensions);
      if (!extension.ok()) return extension.status();
      if (*extension) continue;
    }
    path_ = TarEntryPath(header, extensions);
    in_entry_ = true;
    if (!parsed.ok()) return parsed;
    if (absl::Status begun = BeginEntry(header, extensions, entry); !begun.ok()) return begun;
    return true;
  }
}

absl::StatusOr<bool> TarReader::ReadHeader() {
  header_offset_ = offset_;
  absl::StatusOr<bool> taken = TakeBlock();
  if (!taken.ok() || !*taken) return taken;
  if (IsTarHeader(block_)) return true;
  if (!IsZeroBlock(block_)) return Damaged("this is no tar header, or a damaged one");
  // Two such blocks are the archive's end; one, if nothing follows.
  taken = TakeBlock();
  if (!taken.ok() || !*taken) return taken;
  if (!IsZeroBlock(block_)) return Damaged("a block of zeros, and then something else");
  return false;
}

absl::StatusOr<bool> TarReader::ReadExtension(const TarHeader& header, TarExtensions& extensions) {
  const char type = header.type;
  if (type == 'V') {  // the name of a GNU volume
    absl::StatusOr<std::vector<char>> body = ReadExtensionBody(header);
    return body.ok() ? absl::StatusOr<bool>(true) : body.status();
  }
  if (type != 'x' && type != 'g' && type != 'L' && type != 'K') return false;
  absl::StatusOr<std::vector<char>> body = ReadExtensionBody(header);
  if (!body.ok()) return body.status();
  if (type == 'L' || type == 'K') {
    std::string& name = type == 'L' ? extensions.long_path : extensions.long_link;
    name.assign(body->begin(), std::find(body->begin(), body->end(), '\0'));
    extensions.any = true;
    return true;
  }
  absl::StatusOr<PaxHeader> pax = PaxHeader::Parse(*std::move(body));
  if (!pax.ok()) return pax.status();
  if (type == 'g') {
    for (const std::string_view key : pax->UnappliedOfAll())
      notices_.Add(NoticeKind::kForeignRecord, header.path, key);
    return true;
  }
  extensions.pax = *std::move(pax);
  extensions.any = true;
  return true;
}

absl::StatusOr<std::vector<char>> TarReader::ReadExtensionBody(const TarHeader& header) {
  if (header.size < 0) return Damaged("an extended header of a negative size");
  const auto size = static_cast<uint64_t>(header.size);
  if (size > kTarExtensionBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("an extended header of ", size, " bytes; the most is ", kTarExtensionBytesMax));
  }
  std::vector<char> body;
  body.reserve(size);
  while (body.size() < size) {
    if (absl::Status filled = Fill(1); !filled.ok()) return filled;
    if (available() == 0) return Damaged("the layer ends within an extended header");
    const std::span<const std::byte> bytes = Take(size - body.size());
    const char* const text = reinterpret_cast<const char*>(bytes.data());
    body.insert(body.end(), text, text + bytes.size());
  }
  padding_ = PaddingOf(size);
  if (absl::Status skipped = SkipContents(); !skipped.ok()) return skipped;
  return body;
}

absl::Status TarReader::BeginEntry(const TarHeader& header, const TarExtensions& extensions,
                                   LayerEntry& entry) {
  absl::StatusOr<LayerEntry> made = MakeTarEntry(header, extensions, limits_.xattr_bytes_max);
  if (!made.ok()) return made.status();
  entry = *std::move(made);
  for (const std::string_view key : extensions.pax.UnappliedOfEntry()) {
    notices_.Add(NoticeKind::kForeignRecord, path_, key);
  }
  position_ = 0;
  sparse_.reset();
  readable_ = entry.kind == EntryKind::kRegular;
  if (entry.kind == EntryKind::kRegular || header.type == 'D') {
    absl::StatusOr<uint64_t> stored = TarStoredSize(header, extensions.pax);
    if (!stored.ok()) return stored.status();
    stored_left_ = *stored;
    padding_ = PaddingOf(*stored);
  }
  if (entry.kind == EntryKind::kRegular) {
    absl::StatusOr<uint64_t> size =
        header.type == 'S' ? BeginOldSparse(header) : BeginContents(extensions.pax);
    if (!size.ok()) return size.status();
    entry.size = *size;
  }
  return usage_.Add(entry.size, limits_);
}

absl::StatusOr<uint64_t> TarReader::BeginContents(const PaxHeader& pax) {
  const PaxSparse format = PaxSparseOf(pax);
  if (format == PaxSparse::kNone) return stored_left_;
  absl::StatusOr<uint64_t> size = PaxSparseSize(pax, stored_left_);
  if (!size.ok()) return size.status();
  absl::StatusOr<SparseMap> map =
      format == PaxSparse::kInHeader ? ReadPaxSparseMap(pax) : ReadStoredSparseMap();
  if (!map.ok()) return map.status();
  return BeginSparse(*std::move(map), *size);
}

absl::StatusOr<uint64_t> TarReader::BeginOldSparse(const TarHeader& header) {
  if (header.dialect != TarHeader::Dialect::kGnu)
    return Damaged("a sparse file that is not of GNU tar's form");
  const std::string_view text(reinterpret_cast<const char*>(block_.data()), block_.size());
  const std::optional<int64_t> size = ParseTarNumber(text.substr(kOldSparseSizeOffset, kOldSparseSizeBytes));
  if (!size || *size < 0) return Damaged("its size is no number of 63 bits");
  SparseMap map;
  absl::StatusOr<bool> more = map.AddOldHeader(block_);
  while (more.ok() && *more) {
    absl::StatusOr<bool> taken = TakeBlock();
    if (!taken.ok()) return taken.status();
    if (!*taken) return Damaged("the layer ends within its map of holes");
    more = map.AddOldExtension(block_);
  }
  if (!more.ok()) return more.status();
  return BeginSparse(std::move(map), static_cast<uint64_t>(*size));
}

absl::StatusOr<SparseMap> TarReader::ReadStoredSparseMap() {
  SparseTextParser parser;
  while (!parser.done()) {
    // The map is padded to whole blocks, which count as stored bytes.
    absl::StatusOr<bool> taken = stored_left_ >= kTarBlockBytes ? TakeBlock() : false;
    if (!taken.ok()) return taken.status();
    if (!*taken) return Damaged("its map of holes does not end");
    stored_left_ -= kTarBlockBytes;
    const std::string_view text(reinterpret_cast<const char*>(block_.data()), block_.size());
    if (absl::Status fed = parser.Feed(text); !fed.ok()) return fed;
  }
  return parser.Take();
}

absl::StatusOr<uint64_t> TarReader::BeginSparse(SparseMap map, uint64_t size) {
  if (absl::Status checked = map.Check(size, stored_left_); !checked.ok()) return checked;
  sparse_ = std::move(map);
  sparse_run_ = 0;
  return size;
}

absl::StatusOr<bool> TarReader::ReadRun(ContentRun& run) {
  if (!readable_ || stored_left_ == 0) return false;
  uint64_t wanted = stored_left_;
  if (sparse_) {
    // `position_` lies in the run, or before it.
    const SparseMap::Run& stored = sparse_->runs()[sparse_run_];
    position_ = std::max(position_, stored.offset);
    wanted = stored.offset + stored.size - position_;
  }
  if (absl::Status filled = Fill(1); !filled.ok()) return filled;
  if (available() == 0) return Damaged("the layer ends within its contents");
  run.offset = position_;
  run.bytes = Take(wanted);
  stored_left_ -= run.bytes.size();
  position_ += run.bytes.size();
  if (sparse_ && run.bytes.size() == wanted) ++sparse_run_;
  return true;
}

absl::Status TarReader::SkipContents() {
  while (stored_left_ > 0 || padding_ > 0) {
    if (absl::Status filled = Fill(1); !filled.ok()) return filled;
    if (available() == 0) {
      if (stored_left_ > 0) return Damaged("the layer ends within its contents");
      padding_ = 0;
      return absl::OkStatus();
    }
    uint64_t& left = stored_left_ > 0 ? stored_left_ : padding_;
    left -= Take(left).size();
  }
  return absl::OkStatus();
}

absl::Status TarReader::Fill(size_t wanted) {
  while (available() < wanted && !archive_ended_) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, available());
    end_ -= std::exchange(begin_, 0);
    absl::StatusOr<size_t> n = archive_.Read(std::span(buffer_).subspan(end_));
    if (!n.ok()) return n.status();
    archive_ended_ = *n == 0;
    end_ += *n;
  }
  return absl::OkStatus();
}

std::span<const std::byte> TarReader::Take(uint64_t bytes_max) {
  const size_t bytes = std::min<uint64_t>(bytes_max, available());
  const auto taken = std::span<const std::byte>(buffer_).subspan(begin_, bytes);
  begin_ += bytes;
  offset_ += bytes;
  return taken;
}

absl::StatusOr<bool> TarReader::TakeBlock() {
  if (absl::Status filled = Fill(kTarBlockBytes); !filled.ok()) return filled;
  if (available() == 0) return false;
  if (available() < kTarBlockBytes) return Damaged("the layer ends within a header");
  const std::span<const std::byte> block = Take(kTarBlockBytes);
  std::copy(block.begin(), block.end(), block_.begin());
  return true;
}

}  // namespace sluice
