#include "ondemand/keeper/cachefiles/cachefiles_device.h"

#include <fcntl.h>
#include <linux/cachefiles.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <utility>
#include <vector>

#include "ondemand/keeper/cachefiles/kernel_copies.h"
#include "ondemand/keeper/log.h"

namespace sluice::keeper {
namespace {

constexpr useconds_t kBusyPauseUs = 200'000;

class KernelDevice final : public CachefilesDevice {
 public:
  explicit KernelDevice(Descriptor device) : device_(std::move(device)) {}

  int fd() const override { return device_.get(); }

  ssize_t Read(std::span<char> buffer) override { return read(device_.get(), buffer.data(), buffer.size()); }

  Outcome Command(std::string_view command) override {
    if (write(device_.get(), command.data(), command.size()) >= 0) return {};
    return ErrnoError("cachefiles: " + std::string(command));
  }

  Outcome CompleteRead(int object, uint32_t id) override {
    if (ioctl(object, CACHEFILES_IOC_READ_COMPLETE, static_cast<unsigned long>(id)) == 0) return {};
    return ErrnoError("complete a read");
  }

 private:
  const Descriptor device_;
};

Result<Descriptor> OpenDirectory(const std::string& path) {
  Descriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return ErrnoError("open " + path);
  return directory;
}

Result<Descriptor> OpenDevice(int busy_tries) {
  for (int attempt = 0;; ++attempt) {
    Descriptor device(open("/dev/cachefiles", O_RDWR | O_CLOEXEC));
    if (device.valid()) return device;
    if (errno != EBUSY) return ErrnoError("open /dev/cachefiles (needs root and CONFIG_CACHEFILES_ONDEMAND)");
    if (attempt == busy_tries)
      return Error{EBUSY,
                   "/dev/cachefiles is in use: there can be one cache in the machine. Stop cachefilesd, or "
                   "unmount the images of the other keeper"};
    usleep(kBusyPauseUs);
  }
}

Outcome Configure(CachefilesDevice& device, const CachefilesOptions& options) {
  Result<std::string> directory = DirCommand(options.directory);
  if (!directory.ok()) return directory.error();
  Result<std::string> tag = TagCommand(options.tag);
  if (!tag.ok()) return tag.error();
  Result<std::array<std::string, 3>> blocks = LimitCommands(CachefilesResource::kBlocks, options.blocks);
  if (!blocks.ok()) return blocks.error();
  Result<std::array<std::string, 3>> files = LimitCommands(CachefilesResource::kFiles, options.files);
  if (!files.ok()) return files.error();
  std::vector<std::string> commands{directory.value(), tag.value()};
  commands.insert(commands.end(), blocks.value().begin(), blocks.value().end());
  commands.insert(commands.end(), files.value().begin(), files.value().end());
  for (const std::string& command : commands) {
    if (Outcome done = device.Command(command); !done.ok()) return done;
  }
  Outcome bound = device.Command(kBindCommand);
  if (bound.ok()) {
    // Without it, what a dead keeper had read stays unanswered for ever. It also tells kernels that check
    // what they are answered from those that don't.
    Outcome restored = device.Command(kRestoreCommand);
    if (restored.ok()) return restored;
    return Error{EOPNOTSUPP, restored.error().text + " (needs Linux 6.1.95, 6.6.34 or 6.8)"};
  }
  const char* remedy = bound.error().code == EOPNOTSUPP || bound.error().code == EINVAL
                           ? " (needs CONFIG_CACHEFILES_ONDEMAND, and ext4 or xfs under the directory)"
                           : "";
  return Error{bound.error().code, bound.error().text + remedy};
}

}  // namespace

std::unique_ptr<CachefilesDevice> MakeCachefilesDevice(Descriptor device) {
  return std::make_unique<KernelDevice>(std::move(device));
}

Result<CachefilesCache> BindCache(const CachefilesOptions& options, const std::string& blobs_dir) {
  if (mkdir(options.directory.c_str(), 0700) != 0 && errno != EEXIST)
    return ErrnoError("make the cache directory " + options.directory);
  Result<Descriptor> device = OpenDevice(options.busy_tries);
  if (!device.ok()) return device.error();
  CachefilesCache cache;
  cache.device = MakeCachefilesDevice(std::move(device.value()));
  if (Outcome bound = Configure(*cache.device, options); !bound.ok()) return bound.error();
  Result<Descriptor> directory = OpenDirectory(options.directory + "/cache");
  if (!directory.ok()) return directory.error();
  cache.directory = std::move(directory.value());
  if (const size_t mended = MendVolumes(cache.directory.get()); mended > 0)
    Log("%zu folders of the kernel's cache had lost its attribute (put back by a backup?): mended", mended);
  Result<Descriptor> store = OpenDirectory(blobs_dir);
  if (!store.ok()) return store.error();
  cache.store = std::move(store.value());
  return cache;
}

Result<CachefilesCache> AdoptCache(Descriptor device, Descriptor directory, const std::string& blobs_dir) {
  Result<Descriptor> store = OpenDirectory(blobs_dir);
  if (!store.ok()) return store.error();
  return CachefilesCache{MakeCachefilesDevice(std::move(device)), std::move(directory),
                         std::move(store.value())};
}

}  // namespace sluice::keeper
