#include "index/data_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"

namespace sluice::index {
namespace {

constexpr std::string_view kVersionText = "sluice store 1\n";
constexpr char kDamagedPrefix[] = "index.damaged-";
constexpr size_t kSmallFileBytesMax = 64;
constexpr mode_t kDirectoryMode = 0750;
constexpr mode_t kFileMode = 0640;

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

std::string ReadSmallFile(int fd) {
  std::array<char, kSmallFileBytesMax> buffer{};
  const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), 0);
  return got > 0 ? std::string(buffer.data(), static_cast<size_t>(got)) : std::string();
}

absl::Status WriteSmallFile(int fd, std::string_view text, const std::string& path) {
  if (::ftruncate(fd, 0) != 0 ||
      ::pwrite(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) || ::fsync(fd) != 0) {
    return DiskError(errno, absl::StrCat("write ", path));
  }
  return absl::OkStatus();
}

absl::Status MakeDirectory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error) && !error) {
    error = std::make_error_code(std::errc::not_a_directory);
  }
  if (error == std::errc::not_a_directory || error == std::errc::file_exists) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is not a directory; choose another dataDir, or move the file away"));
  }
  return error ? DiskError(error.value(), absl::StrCat("make directory ", path)) : absl::OkStatus();
}

absl::StatusOr<FileDescriptor> OpenDirectory(const std::string& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return DiskError(errno, absl::StrCat("open directory ", path));
  return fd;
}

absl::StatusOr<FileDescriptor> Lock(const std::string& data_dir) {
  const std::string path = data_dir + "/LOCK";
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kFileMode));
  if (!fd.valid()) return DiskError(errno, absl::StrCat("open ", path));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return DiskError(errno, absl::StrCat("lock ", path));
    std::string holder = ReadSmallFile(fd.get());
    while (!holder.empty() && holder.back() == '\n') holder.pop_back();
    return absl::FailedPreconditionError(
        absl::StrCat("the data directory ", data_dir, " is in use by process ",
                     holder.empty() ? "(unknown)" : holder, "; stop it, or choose another dataDir"));
  }
  if (absl::Status written = WriteSmallFile(fd.get(), absl::StrCat(::getpid(), "\n"), path); !written.ok()) {
    return written;
  }
  return fd;
}

// The version is written before anything else is made, by a rename, so that a directory with contents but no
// version can't be one of ours that a crash left half made.
absl::Status MarkVersion(const std::string& data_dir, int data_dir_fd) {
  for (const char* name : {"/blobs", "/index", "/recipes"}) {
    if (std::error_code error; std::filesystem::exists(data_dir + name, error)) {
      return absl::FailedPreconditionError(
          absl::StrCat(data_dir, " has a directory ", name + 1,
                       " but no VERSION: it was not made by this daemon; choose another dataDir"));
    }
  }
  const std::string path = data_dir + "/VERSION";
  const std::string fresh = path + ".new";
  {
    const FileDescriptor fd(
        ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, kFileMode));
    if (!fd.valid()) return DiskError(errno, absl::StrCat("make ", fresh));
    if (absl::Status written = WriteSmallFile(fd.get(), kVersionText, fresh); !written.ok()) return written;
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0 || ::fsync(data_dir_fd) != 0) {
    return DiskError(errno, absl::StrCat("make ", path));
  }
  return absl::OkStatus();
}

absl::Status CheckVersion(const std::string& data_dir, int data_dir_fd) {
  const FileDescriptor fd(::openat(data_dir_fd, "VERSION", O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid() && errno == ENOENT) return MarkVersion(data_dir, data_dir_fd);
  if (!fd.valid()) return DiskError(errno, absl::StrCat("open ", data_dir, "/VERSION"));
  if (ReadSmallFile(fd.get()) == kVersionText) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the data directory ", data_dir,
                   " has the layout of another version; run that version, or choose another dataDir"));
}

// Opens a folder of the data directory, which is made if it is missing.
absl::StatusOr<FileDescriptor> OpenFolder(const std::string& path, int data_dir_fd) {
  if (::mkdir(path.c_str(), kDirectoryMode) == 0) {
    if (::fsync(data_dir_fd) != 0) return DiskError(errno, absl::StrCat("sync the folder of ", path));
  } else if (errno != EEXIST) {
    return DiskError(errno, absl::StrCat("make directory ", path));
  }
  absl::StatusOr<FileDescriptor> folder = OpenDirectory(path);
  if (folder.ok() && ::faccessat(folder->get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
    return DiskError(errno, absl::StrCat("write to ", path));
  }
  return folder;
}

absl::StatusOr<std::vector<std::string>> ListNames(const std::string& path) {
  const std::unique_ptr<DIR, DirectoryCloser> directory(::opendir(path.c_str()));
  if (!directory) return WriteError(errno, absl::StrCat("list ", path));
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());  // NOLINT(concurrency-mt-unsafe): the stream is ours
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  if (errno != 0) return WriteError(errno, absl::StrCat("list ", path));
  return names;
}

// The number of an index that was set aside; 0 for any other name.
uint64_t DamagedNumber(std::string_view name) {
  if (!name.starts_with(kDamagedPrefix)) return 0;
  name.remove_prefix(sizeof(kDamagedPrefix) - 1);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() ? number : 0;
}

}  // namespace

absl::StatusOr<DataDir> DataDir::OpenAndLock(const std::string& path) {
  if (absl::Status made = MakeDirectory(path); !made.ok()) return made;
  absl::StatusOr<FileDescriptor> directory = OpenDirectory(path);
  if (!directory.ok()) return directory.status();
  absl::StatusOr<FileDescriptor> lock = Lock(path);
  if (!lock.ok()) return lock.status();
  if (absl::Status version = CheckVersion(path, directory->get()); !version.ok()) return version;

  absl::StatusOr<FileDescriptor> blobs = OpenFolder(path + "/blobs", directory->get());
  if (!blobs.ok()) return blobs.status();
  absl::StatusOr<FileDescriptor> recipes = OpenFolder(path + "/recipes", directory->get());
  if (!recipes.ok()) return recipes.status();
  return DataDir(path, *std::move(lock), *std::move(blobs), *std::move(recipes));
}

absl::StatusOr<std::vector<BlobKey>> DataDir::ListBlobFiles() const {
  const absl::StatusOr<std::vector<std::string>> names = ListNames(blobs_path());
  if (!names.ok()) return names.status();
  std::vector<BlobKey> ids;
  for (const std::string& name : *names) {
    if (const absl::StatusOr<BlobKey> id = BlobKey::ParseFileName(name); id.ok()) ids.push_back(*id);
  }
  return ids;
}

absl::StatusOr<std::vector<std::string>> DataDir::ListRecipeFiles() const {
  return ListNames(path_ + "/recipes");
}

void DataDir::KeepReserve() const {
  const std::string path = path_ + "/RESERVE";
  const FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kFileMode));
  if (!fd.valid()) return;
  // Half a reserve on a full disk would only take what somebody else could use.
  if (::fallocate(fd.get(), 0, 0, static_cast<off_t>(kReserveBytes)) != 0) ::unlink(path.c_str());
}

bool DataDir::ReleaseReserve() const {
  return ::unlink((path_ + "/RESERVE").c_str()) == 0;
}

absl::Status DataDir::SetIndexAside() const {
  namespace fs = std::filesystem;
  std::error_code error;
  uint64_t number = 0;
  std::vector<fs::path> earlier;
  for (fs::directory_iterator entry(path_, error), end; !error && entry != end; entry.increment(error)) {
    const uint64_t found = DamagedNumber(entry->path().filename().string());
    if (found > 0) earlier.push_back(entry->path());
    number = std::max(number, found);
  }
  if (!fs::exists(index_path(), error)) return absl::OkStatus();
  fs::rename(index_path(), absl::StrCat(path_, "/", kDamagedPrefix, number + 1), error);
  if (error) return WriteError(error.value(), absl::StrCat("set the damaged ", index_path(), " aside"));
  for (const fs::path& old : earlier) fs::remove_all(old, error);
  return absl::OkStatus();
}

}  // namespace sluice::index
