#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ondemand/keeper/cachefiles/cachefiles_door.h"
#include "ondemand/keeper/wire.h"
#include "tests/unit/ondemand/fake_cachefiles.h"

namespace sluice::keeper {

// A door on the fake kernel, with a journal and a store of its own.
class CachefilesRig : public testing::Test {
 protected:
  static constexpr uint32_t kSlots = 512;
  static constexpr uint32_t kChunkShift = 14;
  static constexpr uint64_t kChunk = uint64_t{1} << kChunkShift;

  void SetUp() override {
    // Not /tmp, which may be a tmpfs: a cache needs attributes that users may set.
    std::string pattern = "/var/tmp/sluice-cachefiles-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    auto journal = Journal::Create(kSlots, DoorKind::kCachefiles);
    ASSERT_TRUE(journal.ok());
    journal_ = std::move(journal.value());
    SetDeadline(std::chrono::seconds(60));
    completions_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    StartDoor();
  }
  void TearDown() override {
    door_.reset();
    std::filesystem::remove_all(dir_);
  }

  // The keeper's successor, if there was a door already: that one just stops to exist as far as the kernel
  // and the journal are concerned.
  void StartDoor(std::vector<KeptObject> kept = {}, bool adopt = false) {
    CachefilesCache cache{kernel_.OpenDevice(), OpenDir(), OpenDir()};
    door_ =
        std::make_unique<CachefilesDoor>(*journal_, std::move(cache), completions_.get(), std::move(kept));
    if (adopt) door_->Adopt();
    ASSERT_TRUE(door_->Start().ok());
  }

  void SetDeadline(std::chrono::nanoseconds deadline) {
    journal_->layout().read_deadline_ns.store(deadline.count());
  }

  static std::string NameOf(uint32_t entry, int version = 0) {
    std::string name = std::to_string(entry) + std::string(1, static_cast<char>('a' + version));
    return name + std::string(kBlobNameLength - name.size(), 'f');
  }

  // What the blob's bytes are: never zero.
  static char ByteAt(uint32_t entry, uint64_t offset, int version = 0) {
    return static_cast<char>(
        1 + (offset / 512 * 7 + offset + entry * 31 + static_cast<uint32_t>(version) * 83) % 251);
  }

  static std::string Content(uint32_t entry, uint64_t offset, uint64_t length, int version = 0) {
    std::string content(length, '\0');
    for (uint64_t i = 0; i < length; ++i) content[i] = ByteAt(entry, offset + i, version);
    return content;
  }

  // Makes the blob's file and has it guarded at that entry; another version is another blob.
  void Guard(uint32_t entry, uint64_t size, int version = 0) {
    const std::string name = NameOf(entry, version);
    const std::string path = dir_ + "/" + name;
    std::ofstream(path, std::ios::binary) << Content(entry, 0, size, version);
    struct stat status {};
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    BlobRecord& record = Blob(entry);
    record.device = status.st_dev;
    record.inode = status.st_ino;
    record.size = size;
    record.chunk_shift = kChunkShift;
    ++record.generation;
    std::copy(name.begin(), name.end(), record.name);
    for (auto& word : journal_->layout().present[entry].words) word.store(0);
    record.in_use.store(1);
    ASSERT_TRUE(door_->Guard(entry).ok());
  }
  void Unguard(uint32_t entry) {
    door_->Forget(entry);
    Blob(entry).in_use.store(0);
  }

  BlobRecord& Blob(uint32_t entry) { return journal_->layout().blobs[entry]; }
  void SetPresent(uint32_t entry, uint64_t chunk, bool present = true) {
    const uint64_t bit = uint64_t{1} << chunk % 64;
    if (present) {
      journal_->layout().present[entry].words[chunk / 64].fetch_or(bit);
    } else {
      journal_->layout().present[entry].words[chunk / 64].fetch_and(~bit);
    }
  }
  void SetAllPresent(uint32_t entry) {
    for (uint64_t chunk = 0; chunk << kChunkShift < Blob(entry).size; ++chunk) SetPresent(entry, chunk);
  }

  MountRecord Image(uint32_t bootstrap, const std::vector<uint32_t>& devices,
                    const std::string& domain = "") {
    MountRecord image;
    image.in_use = 1;
    image.bootstrap = bootstrap;
    image.device_count = static_cast<uint32_t>(devices.size());
    std::copy(devices.begin(), devices.end(), image.devices);
    CopyText(domain, image.domain);
    CopyText(NameOf(bootstrap), image.fsid);
    return image;
  }

  // An image of so many blobs, in the domain "dom"; returns their entries, the first of which is its
  // bootstrap.
  std::vector<uint32_t> AddImageOfMany(uint32_t count) {
    std::vector<uint32_t> devices;
    for (uint32_t i = 0; i < count; ++i) {
      Guard(10 + i, 4096 + i);
      devices.push_back(10 + i);
    }
    door_->AddImage(Image(devices.front(), devices, "dom"));
    return devices;
  }

  // Where the kernel has its copy of a blob, of an image without a domain, once that has a name.
  std::string CopyPath(uint32_t entry) const {
    const std::string fan = dir_ + "/Ierofs," + NameOf(entry) + "/@5e";
    std::filesystem::create_directories(fan);
    return fan + "/D" + NameOf(entry);
  }

  // One blob of four chunks and a bit, its image without a domain, and the kernel's copy of it.
  FakeCachefiles::Object OpenOne(uint32_t entry = 3, uint64_t size = 4 * kChunk + 100) {
    Guard(entry, size);
    door_->AddImage(Image(entry, {}));
    const FakeCachefiles::Object object = kernel_.Acquire("erofs," + NameOf(entry), NameOf(entry));
    EXPECT_EQ(kernel_.Answer(object), static_cast<int64_t>(size));
    Settle();
    return object;
  }

  Descriptor OpenDir() const { return Descriptor(open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

  // Has all that was said to the door so far handled.
  void Settle() {
    EXPECT_TRUE(kernel_.Drained());
    door_->Forget(kBlobsMax - 1);
  }

  // The daemon's end of a new line to the door.
  Descriptor ConnectLine() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    const timeval timeout{20, 0};
    setsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    door_->Connect(Descriptor(ends[0]));
    return Descriptor(ends[1]);
  }

  template <typename Condition>
  static bool Eventually(Condition condition) {
    const auto give_up = std::chrono::steady_clock::now() + kFakeWait;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > give_up) return false;
      usleep(1000);
    }
    return true;
  }

  std::string dir_;
  std::shared_ptr<Journal> journal_;
  Descriptor completions_;
  FakeCachefiles kernel_;
  std::unique_ptr<CachefilesDoor> door_;
};

}  // namespace sluice::keeper
