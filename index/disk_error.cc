#include "index/disk_error.h"

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

std::string Reason(int error_number, const std::string& what) {
  return absl::StrCat(what, ": ", std::generic_category().message(error_number));
}

}  // namespace

absl::Status DiskError(int error_number, const std::string& what) {
  switch (error_number) {
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(
          absl::StrCat(Reason(error_number, what),
                       "; make the data directory writable for the user that runs the daemon"));
    case EROFS:
      return absl::PermissionDeniedError(absl::StrCat(
          Reason(error_number, what), "; remount the file system read-write or choose another dataDir"));
    case ENOENT:
      return absl::NotFoundError(Reason(error_number, what));
    default:
      return WriteError(error_number, what);
  }
}

absl::Status WriteError(int error_number, const std::string& what) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(
          absl::StrCat(Reason(error_number, what), "; evict blobs or give the data directory more space"));
    case EMFILE:
    case ENFILE:
      return absl::UnavailableError(
          absl::StrCat(Reason(error_number, what), "; raise the limit of open files"));
    case EFBIG:
      return absl::UnavailableError(absl::StrCat(
          Reason(error_number, what), "; raise RLIMIT_FSIZE, or use a file system that holds larger files"));
    default:
      return absl::UnavailableError(Reason(error_number, what));
  }
}

}  // namespace sluice::index
