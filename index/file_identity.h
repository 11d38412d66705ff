#pragma once

#include <array>
#include <cstdint>

namespace sluice::index {

// What tells a blob's file from every other one, a copy of it included. The index's claims hold for the file
// that they were made over and for no other: a directory that was copied while the node ran and put back has
// files of one moment and an index of another.
struct FileIdentity {
  // The extended attribute that holds the mark.
  static constexpr char kMarkName[] = "user.sluice.mark";
  using Mark = std::array<uint8_t, 16>;

  uint64_t inode = 0;    // a copy has another one, most of the time
  int64_t birth_ns = 0;  // since 1970; nobody can set it, so a copy is younger. 0: the file system has none
  Mark mark{};           // random; a file that took the inode of a removed one lacks it. All 0: none
  // Of a file that is somebody else's and read where it lies (see ContentFiles): when it was changed last
  // (st_ctime), since 1970; nobody can set it. 0: it is the store's own.
  int64_t changed_ns = 0;

  // Whether it is read in place: never written to, never mounted, never removed.
  bool is_in_place() const { return changed_ns != 0; }
  // Whether equality proves anything. An inode alone does not: it is used again.
  bool proves() const { return inode != 0 && (birth_ns != 0 || mark != Mark{} || is_in_place()); }

  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

}  // namespace sluice::index
