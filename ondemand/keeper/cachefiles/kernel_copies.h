#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>

#include "ondemand/keeper/result.h"

// The kernel's copies as files: cache/I<volume>/@<two hex digits>/D<cookie>, below the directory of a cache.
// Sources: fs/cachefiles/volume.c, key.c and namei.c.
namespace sluice::keeper {

// The kernel's name for the volume of a domain, or of an image without one. Source: fs/erofs/fscache.c,
// erofs_fscache_register_volume.
inline constexpr std::string_view kErofsVolumePrefix = "erofs,";

// The names of the files of an EROFS volume; none if there is no such volume. `cache` is the cache's
// directory.
std::set<std::string> FilesOfVolume(int cache, const std::string& volume);
// What a file is called whose key is text.
std::string CopyFileName(const std::string& cookie);

// Gives volumes that have lost the kernel's attribute (cp -r, tar) one again, as without it every mount would
// fail with ENOBUFS; what is in them is for ProveCopy to judge. Returns how many. REQUIRES: no volume is in
// use
size_t MendVolumes(int cache);

// What tells a copy from every other file, a copy of it included: it is not made by anybody but the file
// system.
inline constexpr char kCopyMarkName[] = "user.sluice.copy";

enum class CopyFound {
  kNone,     // nothing has the name: the kernel has just begun a copy, which gets it when it is closed
  kProven,   // the file that was marked here
  kNew,      // it never was: now it is, and empty
  kForeign,  // it has another file's mark: as kNew
};

// Looks at the copy that has the name, before the kernel is told that it may read from it. The kernel takes
// what is no hole for data; so a copy that was put back by a backup (cp -a keeps the kernel's own attribute)
// gives zeros where its original had holes. What is not proven is emptied, by holes over all of it, and
// marked: the kernel then asks for what it reads.
//
// Proof is a mark that names the file's inode and its birth, which no tool can set. So a cache that was moved
// by a rename, or put back block by block with its file system, is believed; a file that was copied, unpacked
// or renamed over another (rsync) is not. Not covered: what is written into the very file that the kernel has
// made (rsync --inplace), as the kernel writes to it all the time. A file system without times of birth (ext4
// with inodes of 128 bytes) proves nothing: copies there begin empty whenever they are opened.
//
// A file without the kernel's own attribute (cp -r, tar) would fail the mount with ENOBUFS: it is made one
// that the kernel gives up for a new one, and removed: kNone.
//
// Errors: as of open(2), fallocate(2) and fsetxattr(2); then the copy may be as it was, and must not be read.
Result<CopyFound> ProveCopy(int cache, const std::string& volume, const std::string& cookie);

}  // namespace sluice::keeper
