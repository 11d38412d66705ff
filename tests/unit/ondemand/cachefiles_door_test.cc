#include "ondemand/keeper/cachefiles/cachefiles_door.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/cachefiles.h>
#include <sys/resource.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "tests/unit/ondemand/cachefiles_rig.h"

namespace sluice::keeper {
namespace {

using namespace std::string_literals;
using Ended = FakeCachefiles::Ended;
using testing::Contains;

class CachefilesDoorTest : public CachefilesRig {
 protected:
  struct Taken {
    uint32_t slot = 0;
    uint64_t ticket = 0;
    SlotRead read;
  };

  // Plays the daemon: the next read that is published.
  std::optional<Taken> Take() {
    std::optional<Taken> taken;
    Eventually([&] {
      for (uint32_t i = 0; i < journal_->slots().size() && !taken; ++i) {
        const uint64_t ticket = journal_->slots()[i].Take();
        if (ticket != 0) taken = Taken{i, ticket, journal_->slots()[i].read};
      }
      return taken.has_value();
    });
    EXPECT_TRUE(taken.has_value());
    return taken;
  }
  bool Finish(const Taken& taken, uint8_t verdict = 0) {
    const bool in_time = journal_->slots()[taken.slot].Finish(taken.ticket, verdict);
    journal_->MarkFinished(taken.slot);
    const uint64_t one = 1;
    EXPECT_EQ(write(completions_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
    return in_time;
  }
  SlotState StateOf(const Taken& taken) { return journal_->slots()[taken.slot].word().state(); }
  uint32_t HeldSlots() {
    uint32_t held = 0;
    for (const Slot& slot : journal_->slots()) held += slot.word().state() != SlotState::kFree;
    return held;
  }
  Counters& counters() { return journal_->layout().counters; }
  // The journal's place of the only object that is open.
  uint32_t OpenPlace() {
    uint32_t place = kObjectsMax;
    for (uint32_t i = 0; i < kObjectsMax; ++i) {
      if (ObjectIsOpen(GenerationOf(i))) place = i;
    }
    return place;
  }
  uint32_t GenerationOf(uint32_t place) { return journal_->layout().object_generations[place].load(); }

  std::optional<Message> Ask(const Descriptor& line, uint32_t place, uint32_t generation) {
    const ObjectRequest request{place, generation};
    EXPECT_TRUE(SendMessage(line.get(), BytesOf(request), {}).ok());
    Result<Message> reply = ReceiveMessage(line.get());
    if (!reply.ok()) return std::nullopt;
    return std::move(reply.value());
  }
  static const ObjectReply& ReplyOf(const Message& message) {
    return *reinterpret_cast<const ObjectReply*>(message.bytes.data());
  }

  // A keeper that is killed neither answers nor closes anything in the kernel; only its descriptors go. What
  // the daemon has of the only object is kept, if it is asked for.
  void Crash(bool keep) {
    std::vector<KeptObject> kept;
    const uint32_t place = OpenPlace();
    if (keep) {
      const Descriptor line = ConnectLine();
      std::optional<Message> message = Ask(line, place, GenerationOf(place));
      ASSERT_TRUE(message.has_value());
      ASSERT_EQ(message->descriptors.size(), 1u);
      kept.push_back({place, GenerationOf(place), std::move(message->descriptors.front())});
    }
    Crash(std::move(kept));
  }
  // Its end would refuse what waits: the successor gets the journal as it was before, and a kernel that has
  // not heard of that.
  void Crash(std::vector<KeptObject> kept) {
    Settle();
    auto copy = Journal::Create(kSlots, DoorKind::kCachefiles);
    ASSERT_TRUE(copy.ok());
    std::memcpy(static_cast<void*>(&copy.value()->layout()), static_cast<const void*>(&journal_->layout()),
                sizeof(JournalLayout));
    kernel_.IgnoreCommands(true);
    door_.reset();
    kernel_.IgnoreCommands(false);
    old_journals_.push_back(std::exchange(journal_, std::move(copy.value())));
    StartDoor(std::move(kept), true);
  }

  std::vector<std::shared_ptr<Journal>> old_journals_;
};

// ---------------------------------------------------------------------------------------- the fake itself

using FakeCachefilesTest = CachefilesDoorTest;

TEST_F(FakeCachefilesTest, GivesOneRequestPerReadAndNothingWhenDrained) {
  door_.reset();
  const auto device = kernel_.OpenDevice();
  char buffer[kCachefilesMessageBytesMax];
  EXPECT_EQ(device->Read(buffer), 0);
  kernel_.Acquire("erofs,a", "b");
  kernel_.Acquire("erofs,a", "c");
  for (const char* cookie : {"b", "c"}) {
    EXPECT_EQ(device->Read({buffer, 8}), -1) << "it must not be cut short";
    EXPECT_EQ(errno, EMSGSIZE);
    const ssize_t length = device->Read(buffer);
    ASSERT_GT(length, 0);
    const auto message =
        ParseCachefilesMessage(std::as_bytes(std::span(buffer, static_cast<size_t>(length))));
    ASSERT_TRUE(message.has_value());
    ASSERT_TRUE(std::holds_alternative<CachefilesOpen>(message->body));
    const auto& open = std::get<CachefilesOpen>(message->body);
    EXPECT_EQ(open.cookie_key, cookie);
    EXPECT_EQ(fcntl(open.fd, F_GETFD) & FD_CLOEXEC, 0);
    close(open.fd);
  }
  EXPECT_EQ(device->Read(buffer), 0);
}

// --------------------------------------------------------------------------------------------------- OPEN

TEST_F(CachefilesDoorTest, OpenIsAnsweredWithTheBlobsSizeInPlainNumbers) {
  const auto object = OpenOne(3, 0777);
  EXPECT_THAT(kernel_.Commands(), Contains("copen 0,511"s));
  EXPECT_EQ(kernel_.Answer(object), 511);
  EXPECT_EQ(kernel_.Writers(object), 1);
  const ObjectRecord& record = journal_->layout().objects[OpenPlace()];
  EXPECT_EQ(record.blob, 3u);
  EXPECT_EQ(record.blob_generation, Blob(3).generation);
  EXPECT_EQ(std::string(record.cookie, record.cookie_length), NameOf(3));
  EXPECT_EQ(std::string(record.volume, record.volume_length), NameOf(3));
}

TEST_F(CachefilesDoorTest, DescriptorsOfObjectsAreCloseOnExec) {
  OpenOne();
  const Descriptor line = ConnectLine();
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string file = std::filesystem::read_symlink(entry.path(), gone);
    if (gone || !file.starts_with("/memfd:fake-cache")) continue;
    EXPECT_NE(fcntl(std::stoi(entry.path().filename()), F_GETFD) & FD_CLOEXEC, 0) << entry.path();
    ++seen;
  }
  EXPECT_EQ(seen, 2) << "the door's and the fake's";
}

TEST_F(CachefilesDoorTest, CookiesOfAnyBytesAndStrangersAreRefusedAndClosed) {
  OpenOne();
  const int before = CountDescriptors();
  for (const std::string& cookie : {"a\0b"s, "\xff\xfe\x80"s, "unknown"s, std::string(255, '\1')}) {
    const auto object = kernel_.Acquire("erofs," + NameOf(3), cookie);
    EXPECT_EQ(kernel_.Answer(object), -ENOENT);
    EXPECT_EQ(kernel_.Writers(object), 0);
  }
  for (const std::string& volume : {"nfs,"s + NameOf(3), "erofs,another"s, ""s}) {
    const auto object = kernel_.Acquire(volume, NameOf(3));
    EXPECT_EQ(kernel_.Answer(object), -ENOENT);
    EXPECT_EQ(kernel_.Writers(object), 0);
  }
  Settle();
  EXPECT_EQ(counters().denied.load(), 7u);
  EXPECT_EQ(CountDescriptors(), before + 7) << "the fake has a file for each; the door has closed its own";
  for (const std::string& command : kernel_.Commands())
    EXPECT_TRUE(command == "copen 0,65636" || command.ends_with(",-2")) << command;
}

TEST_F(CachefilesDoorTest, MalformedOpenIsRefusedAndItsDescriptorClosed) {
  const int file = open("/dev/null", O_WRONLY);
  ASSERT_GE(file, 0);
  cachefiles_open open{};
  open.volume_key_size = 90;  // more than there is
  open.fd = static_cast<uint32_t>(file);
  const uint32_t header[] = {77, CACHEFILES_OP_OPEN, sizeof(cachefiles_msg) + sizeof(open), 1};
  kernel_.SendRaw(std::string(reinterpret_cast<const char*>(header), sizeof(header)) +
                  std::string(reinterpret_cast<const char*>(&open), sizeof(open)));
  kernel_.SendRaw("short");
  Settle();
  EXPECT_EQ(fcntl(file, F_GETFD), -1);
  EXPECT_THAT(kernel_.Commands(), testing::ElementsAre("copen 77,-22"));
  EXPECT_EQ(counters().errors.load(), 3u)
      << "the two of them, and the answer to the one the fake has not sent";
}

TEST_F(CachefilesDoorTest, ACopyThatTheKernelHasNotMadeIsEmptyBeforeItIsOpened) {
  const std::string path = CopyPath(3);
  std::ofstream(path, std::ios::binary) << std::string(8192, '\0');
  ASSERT_EQ(setxattr(path.c_str(), "user.CacheFiles.cache", "k", 1, 0), 0);
  const auto has_data = [&] {
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    return lseek(file.get(), 0, SEEK_DATA) >= 0;
  };
  OpenOne();
  EXPECT_FALSE(has_data());
  // Once it is known, what is filled into it stays.
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary) << "filled";
  const auto again = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_GT(kernel_.Answer(again), 0);
  Settle();
  EXPECT_TRUE(has_data());
  EXPECT_EQ(counters().errors.load(), 0u);
}

TEST_F(CachefilesDoorTest, ACopyOfWhichNothingIsKnownIsNotOpened) {
  Guard(3, 5000);
  door_->AddImage(Image(3, {}));
  // Nobody can write to a directory, as root neither; the kernel has put such things aside before it asks.
  const std::string path = CopyPath(3);
  std::filesystem::create_directory(path);
  const auto object = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_EQ(kernel_.Answer(object), -EIO);
  EXPECT_EQ(kernel_.Writers(object), 0);
  EXPECT_EQ(OpenPlace(), kObjectsMax);
  EXPECT_EQ(counters().errors.load(), 1u);
  std::filesystem::remove(path);
  EXPECT_EQ(kernel_.Answer(kernel_.Acquire("erofs," + NameOf(3), NameOf(3))), 5000);
}

TEST_F(CachefilesDoorTest, OpenThatTheKernelGaveUpIsClosed) {
  Guard(3, 5000);
  door_->AddImage(Image(3, {}));
  kernel_.FailCommands(EINVAL);
  const auto object = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  Settle();
  EXPECT_EQ(kernel_.Writers(object), 0);
  EXPECT_EQ(OpenPlace(), kObjectsMax);
  EXPECT_TRUE(door_->Idle());
  EXPECT_EQ(counters().errors.load(), 1u);
}

TEST_F(CachefilesDoorTest, OpenForWhichThereIsNoDescriptorIsCountedAndOthersGoOn) {
  Guard(3, 5000);
  door_->AddImage(Image(3, {}));
  kernel_.FailReads(EMFILE);
  const auto refused = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_EQ(kernel_.Answer(refused), -EMFILE);
  const auto object = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_EQ(kernel_.Answer(object), 5000);
  EXPECT_EQ(counters().errors.load(), 1u);
}

TEST_F(CachefilesDoorTest, WithoutAPlaceLeftOpenIsRefusedAndClosed) {
  for (uint32_t i = 0; i < kObjectsMax; ++i) journal_->layout().object_generations[i].store(1);
  Guard(3, 5000);
  // A successor whose every place is taken by an object that it was handed.
  std::vector<KeptObject> kept;
  const Descriptor file(open("/dev/null", O_WRONLY | O_CLOEXEC));
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  // Only root may raise the harder of the two.
  const rlim_t enough = std::max<rlim_t>(limit.rlim_max, kObjectsMax + 512);
  const rlimit more{enough, enough};
  if (setrlimit(RLIMIT_NOFILE, &more) != 0) {
    const char* reason = "NOT TESTED: the limit on descriptors is too low, and can't be raised";
    if (std::getenv("CI") != nullptr) FAIL() << reason;
    GTEST_SKIP() << reason;
  }
  for (uint32_t i = 0; i < kObjectsMax; ++i) {
    const std::string cookie = "kept" + std::to_string(i);
    ObjectRecord& record = journal_->layout().objects[i];
    record.object = 100000 + i;
    record.cookie_length = static_cast<uint32_t>(cookie.copy(record.cookie, kCacheKeyMax));
    kept.push_back({i, 1, Descriptor(fcntl(file.get(), F_DUPFD_CLOEXEC, 0))});
  }
  door_.reset();
  StartDoor(std::move(kept), true);
  door_->AddImage(Image(3, {}));
  const auto object = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_EQ(kernel_.Answer(object), -ENFILE);
  EXPECT_EQ(kernel_.Writers(object), 0);
  door_.reset();
  setrlimit(RLIMIT_NOFILE, &limit);
}

TEST_F(CachefilesDoorTest, PlacesOfObjectsThatWereLostAreUsedAgain) {
  door_.reset();
  for (uint32_t i = 0; i < kObjectsMax; ++i) {
    journal_->layout().object_generations[i].store(1);
    const std::string cookie = "lost" + std::to_string(i);
    ObjectRecord& record = journal_->layout().objects[i];
    record.cookie_length = static_cast<uint32_t>(cookie.copy(record.cookie, kCacheKeyMax));
  }
  StartDoor({}, true);
  OpenOne();
}

TEST_F(CachefilesDoorTest, ImagesOfOneDomainShareAnObjectAndOthersDoNot) {
  for (const uint32_t entry : {1, 2, 9}) Guard(entry, 5000 + entry);
  door_->AddImage(Image(1, {9}, "dom"));
  door_->AddImage(Image(2, {9}, "dom"));
  const auto shared = kernel_.Acquire("erofs,dom", NameOf(9));
  EXPECT_EQ(kernel_.Answer(shared), 5009);
  door_->AddImage(Image(1, {9}, "other"));
  const auto apart = kernel_.Acquire("erofs,other", NameOf(9));
  EXPECT_EQ(kernel_.Answer(apart), 5009);

  // The other image still needs it; the kernel may look it up again.
  door_->RemoveImage(Image(1, {9}, "dom"));
  kernel_.Relinquish(shared);
  EXPECT_TRUE(kernel_.IsClosed(shared));
  const auto again = kernel_.Acquire("erofs,dom", NameOf(9));
  EXPECT_EQ(kernel_.Answer(again), 5009);
  door_->RemoveImage(Image(2, {9}, "dom"));
  EXPECT_EQ(kernel_.Answer(kernel_.Acquire("erofs,dom", NameOf(2))), -ENOENT);
}

TEST_F(CachefilesDoorTest, ManyObjectsAreOpenAtOnceAndAllAreClosed) {
  constexpr uint32_t kMany = 200;
  const int before = CountDescriptors();
  const std::vector<uint32_t> devices = AddImageOfMany(kMany);
  std::vector<FakeCachefiles::Object> objects;
  for (const uint32_t entry : devices) objects.push_back(kernel_.Acquire("erofs,dom", NameOf(entry)));
  for (uint32_t i = 0; i < kMany; ++i) EXPECT_EQ(kernel_.Answer(objects[i]), 4096 + i);
  EXPECT_FALSE(door_->Idle());
  for (const auto object : objects) kernel_.Relinquish(object);
  for (const auto object : objects) EXPECT_TRUE(kernel_.IsClosed(object));
  Settle();
  EXPECT_TRUE(door_->Idle());
  EXPECT_EQ(CountDescriptors(), before + static_cast<int>(kMany)) << "the fake's own files";
}

// --------------------------------------------------------------------------------------------------- READ

TEST_F(CachefilesDoorTest, ReadIsPublishedAndCompletedWhenItIsFinished) {
  const auto object = OpenOne();
  const uint32_t id = kernel_.Read(object, 4096, 8192);
  const auto taken = Take();
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->read.blob, 3u);
  EXPECT_EQ(taken->read.object, OpenPlace());
  EXPECT_EQ(taken->read.offset, 4096u);
  EXPECT_EQ(taken->read.length, 8192u);
  EXPECT_FALSE(kernel_.HasEnded(id));
  EXPECT_TRUE(Finish(*taken));
  EXPECT_EQ(kernel_.End(id), Ended::kHole) << "nobody has filled it";
  EXPECT_TRUE(Eventually([&] { return HeldSlots() == 0; }));
}

TEST_F(CachefilesDoorTest, ReadWhoseSourceFailedIsCompletedAndCounted) {
  const auto object = OpenOne();
  const uint32_t id = kernel_.Read(object, 0, 4096);
  Finish(*Take(), EIO);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
  EXPECT_EQ(counters().refused.load(), 1u);
  EXPECT_EQ(counters().filled.load(), 0u);
}

TEST_F(CachefilesDoorTest, ReadPastTheTailIsCutAndBeyondItRefused) {
  const auto object = OpenOne(3, kChunk + 100);
  const uint32_t tail = kernel_.Read(object, kChunk, 4096);
  const auto taken = Take();
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->read.length, 100u);
  Finish(*taken);
  EXPECT_TRUE(kernel_.End(tail).has_value());
  for (const uint64_t offset : {kChunk + 4096, uint64_t{1} << 50}) {
    EXPECT_EQ(kernel_.End(kernel_.Read(object, offset, 4096)), Ended::kHole);
  }
  EXPECT_EQ(counters().denied.load(), 2u);
}

TEST_F(CachefilesDoorTest, LargeReadsAreTakenInPart) {
  const auto object = OpenOne(3, 64 * kChunk);
  // The fake's file is sparse, and the record says more than it has.
  Blob(3).size = uint64_t{1} << 30;
  ASSERT_TRUE(door_->Guard(3).ok());
  kernel_.Read(object, 0, uint64_t{3} << 20);
  EXPECT_EQ(Take()->read.length, uint64_t{3} << 20);
  kernel_.Read(object, 0, uint64_t{1} << 29);
  EXPECT_EQ(Take()->read.length, uint64_t{8} << 20);
}

TEST_F(CachefilesDoorTest, ReadOfABlobWhoseEntryIsAnothersNowIsRefused) {
  const auto object = OpenOne();
  Unguard(3);
  EXPECT_EQ(kernel_.End(kernel_.Read(object, 0, 4096)), Ended::kHole);
  Guard(3, 8 * kChunk, 1);
  const uint32_t id = kernel_.Read(object, 0, 4096);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
  EXPECT_EQ(HeldSlots(), 0u) << "the daemon would have fetched the other blob's bytes for it";
}

TEST_F(CachefilesDoorTest, ReadsBeyondTheSlotsWaitInTheKernel) {
  const auto object = OpenOne(3, 64 * kChunk);
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < kSlots + 40; ++i) ids.push_back(kernel_.Read(object, i % 64 * kChunk, 4096));
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto taken = Take();
    ASSERT_TRUE(taken) << i;
    Finish(*taken);
  }
  for (const uint32_t id : ids) EXPECT_TRUE(kernel_.End(id).has_value());
  EXPECT_EQ(counters().denied.load(), 0u);
}

TEST_F(CachefilesDoorTest, ReadThatNobodyFillsIsCompletedAtItsDeadline) {
  const auto object = OpenOne();
  SetDeadline(std::chrono::milliseconds(20));
  const uint32_t untaken = kernel_.Read(object, 0, 4096);
  EXPECT_EQ(kernel_.End(untaken), Ended::kHole);
  EXPECT_EQ(counters().expired.load(), 1u);
  EXPECT_TRUE(Eventually([&] { return HeldSlots() == 0; }));
}

// The kernel asks again, page by page, for what it was refused.
TEST_F(CachefilesDoorTest, WhatWasJustRefusedIsRefusedAtOnce) {
  const auto object = OpenOne(3, 64 * kChunk);
  SetDeadline(std::chrono::seconds(1));
  EXPECT_EQ(kernel_.End(kernel_.Read(object, 0, 4096)), Ended::kHole);
  EXPECT_EQ(counters().expired.load(), 1u);
  EXPECT_EQ(kernel_.End(kernel_.Read(object, 0, 4096)), Ended::kHole);
  EXPECT_EQ(counters().expired.load(), 1u) << "it waited once more";
  EXPECT_EQ(counters().denied.load(), 1u);
}

TEST_F(CachefilesDoorTest, AnswerAfterTheDeadlineChangesNothing) {
  kernel_.ReuseIds();
  const auto object = OpenOne(3, 64 * kChunk);
  SetDeadline(std::chrono::seconds(1));
  const uint32_t id = kernel_.Read(object, 0, 4096);
  const auto taken = Take();
  ASSERT_TRUE(taken);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
  EXPECT_TRUE(Eventually([&] { return StateOf(*taken) == SlotState::kExpired; }));

  // The kernel has given its number to another by then, of bytes that it would not have read ahead.
  SetDeadline(std::chrono::seconds(60));
  const uint32_t next = kernel_.Read(object, 40 * kChunk, 4096);
  ASSERT_EQ(next, id);
  const auto other = Take();
  ASSERT_TRUE(other);
  EXPECT_FALSE(Finish(*taken));
  EXPECT_TRUE(Eventually([&] { return StateOf(*taken) == SlotState::kFree; }));
  Settle();
  EXPECT_FALSE(kernel_.HasEnded(next));
  EXPECT_EQ(kernel_.InvalidCompletions(), 0);
  Finish(*other);
  EXPECT_EQ(kernel_.End(next), Ended::kHole);
}

TEST_F(CachefilesDoorTest, CompletingWhatWasKilledIsNoError) {
  const auto object = OpenOne();
  const uint32_t id = kernel_.Read(object, 0, 4096);
  const auto taken = Take();
  kernel_.Kill(id);
  Finish(*taken);
  EXPECT_TRUE(Eventually([&] { return HeldSlots() == 0; }));
  EXPECT_EQ(kernel_.InvalidCompletions(), 1);
  EXPECT_EQ(counters().errors.load(), 0u);
}

TEST_F(CachefilesDoorTest, NumberOfAKilledReadIsAnothersNow) {
  kernel_.ReuseIds();
  const auto object = OpenOne();
  const uint32_t id = kernel_.Read(object, 0, 4096);
  const auto taken = Take();
  kernel_.Kill(id);
  ASSERT_EQ(kernel_.Read(object, kChunk, 8192), id);
  const auto other = Take();
  ASSERT_TRUE(other);
  EXPECT_EQ(other->read.offset, kChunk);
  Finish(*taken);
  EXPECT_TRUE(Eventually([&] { return StateOf(*taken) == SlotState::kFree; }));
  EXPECT_FALSE(kernel_.HasEnded(id)) << "the dead reader's bytes are not what the living one waits for";
  Finish(*other);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
  EXPECT_EQ(kernel_.InvalidCompletions(), 0);
}

// -------------------------------------------------------------------------------------------------- CLOSE

TEST_F(CachefilesDoorTest, CloseIsNeverAnsweredAndClosesEverything) {
  const auto object = OpenOne();
  const int before = CountDescriptors();
  const size_t commands = kernel_.Commands().size();
  kernel_.Relinquish(object);
  EXPECT_TRUE(kernel_.IsClosed(object));
  Settle();
  EXPECT_EQ(kernel_.Writers(object), 0);
  EXPECT_EQ(CountDescriptors(), before - 1);
  EXPECT_EQ(kernel_.Commands().size(), commands);
  EXPECT_EQ(OpenPlace(), kObjectsMax);
  EXPECT_TRUE(door_->Idle());
}

TEST_F(CachefilesDoorTest, CloseDuringAReadGivesItUp) {
  const auto object = OpenOne();
  kernel_.Read(object, 0, 4096);
  const auto taken = Take();
  ASSERT_TRUE(taken);
  kernel_.Relinquish(object);
  EXPECT_TRUE(kernel_.IsClosed(object));
  Settle();
  EXPECT_EQ(kernel_.Writers(object), 0);
  EXPECT_EQ(StateOf(*taken), SlotState::kExpired);
  // The place is another's meanwhile.
  const auto next = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_GT(kernel_.Answer(next), 0);
  const uint32_t id = kernel_.Read(next, 0, 4096);
  const auto other = Take();
  EXPECT_FALSE(Finish(*taken));
  EXPECT_TRUE(Eventually([&] { return StateOf(*taken) == SlotState::kFree; }));
  EXPECT_FALSE(kernel_.HasEnded(id));
  Finish(*other);
  EXPECT_TRUE(kernel_.End(id).has_value());
}

// ------------------------------------------------------------------------------------ the daemon's line

TEST_F(CachefilesDoorTest, ObjectsAreGivenWhileTheControlThreadIsElsewhere) {
  const auto object = OpenOne();
  const Descriptor line = ConnectLine();
  // This thread is the control thread, and asks by no call of the door.
  std::optional<Message> message = Ask(line, OpenPlace(), GenerationOf(OpenPlace()));
  ASSERT_TRUE(message);
  EXPECT_EQ(ReplyOf(*message).error, 0);
  ASSERT_EQ(message->descriptors.size(), 1u);
  EXPECT_EQ(kernel_.Writers(object), 2);
}

TEST_F(CachefilesDoorTest, ObjectsThatAreNotThereAreNotGiven) {
  OpenOne();
  const Descriptor line = ConnectLine();
  const uint32_t place = OpenPlace();
  for (const auto& [index, generation] :
       {std::pair(place, GenerationOf(place) + 2), std::pair(place + 1, 0u), std::pair(kObjectsMax, 1u)}) {
    const std::optional<Message> message = Ask(line, index, generation);
    ASSERT_TRUE(message);
    EXPECT_EQ(ReplyOf(*message).error, ESTALE);
    EXPECT_TRUE(message->descriptors.empty());
  }
}

TEST_F(CachefilesDoorTest, DaemonThatGoesAwayClosesTheLine) {
  OpenOne();
  Descriptor line = ConnectLine();
  const int before = CountDescriptors();
  line.reset();
  EXPECT_TRUE(Eventually([&] { return CountDescriptors() == before - 2; }));
  line = ConnectLine();
  EXPECT_TRUE(Ask(line, OpenPlace(), GenerationOf(OpenPlace())).has_value());
}

TEST_F(CachefilesDoorTest, DaemonThatDoesNotListenHoldsUpNobody) {
  OpenOne();
  const Descriptor line = ConnectLine();
  const ObjectRequest request{OpenPlace(), 0};
  // More than both directions take in; as many as it takes soon.
  int refused = 0;
  for (int sent = 0; sent < 2000 && refused < 200;) {
    const bool taken = send(line.get(), &request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
    sent += taken;
    refused = taken ? 0 : refused + 1;
    if (!taken) usleep(1000);
  }
  EXPECT_EQ(kernel_.Answer(kernel_.Acquire("erofs,nobody", "nothing")), -ENOENT);
}

// ---------------------------------------------------------------------------------------- keepers that die

TEST_F(CachefilesDoorTest, SuccessorAnswersByTheObjectsThatTheDaemonHasKept) {
  const auto object = OpenOne();
  journal_->layout().mounts[0] = Image(3, {});
  const uint32_t id = kernel_.Read(object, 0, 4096);
  const auto taken = Take();
  const uint32_t generation = GenerationOf(OpenPlace());
  Crash(true);
  Settle();
  EXPECT_EQ(kernel_.Opens(object), 1);
  EXPECT_EQ(GenerationOf(OpenPlace()), generation);
  EXPECT_EQ(HeldSlots(), 1u) << "what restore brings again is the same READ";
  Finish(*taken);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
  EXPECT_EQ(kernel_.InvalidCompletions(), 0);
}

TEST_F(CachefilesDoorTest, ObjectsThatWereLostAreOpenedAgainWithWhatTheyAreAskedFor) {
  const auto object = OpenOne();
  journal_->layout().mounts[0] = Image(3, {});
  const uint32_t id = kernel_.Read(object, 0, 4096);
  const auto taken = Take();
  const uint32_t place = OpenPlace();
  const uint32_t generation = GenerationOf(place);
  Crash(false);
  EXPECT_TRUE(Eventually([&] { return kernel_.Opens(object) == 2; }));
  Settle();
  EXPECT_EQ(OpenPlace(), place);
  EXPECT_EQ(GenerationOf(place), generation + 2);
  EXPECT_EQ(HeldSlots(), 1u);
  Finish(*taken);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
}

TEST_F(CachefilesDoorTest, RestoreTwiceBringsNothingTwice) {
  const auto object = OpenOne();
  journal_->layout().mounts[0] = Image(3, {});
  std::vector<uint32_t> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(kernel_.Read(object, static_cast<uint64_t>(i) * kChunk, 4096));
  Settle();
  Crash(true);
  Settle();
  Crash(true);
  Settle();
  EXPECT_EQ(HeldSlots(), 4u);
  std::set<uint64_t> offsets;
  for (int i = 0; i < 4; ++i) {
    const auto taken = Take();
    offsets.insert(taken->read.offset);
    Finish(*taken);
  }
  EXPECT_EQ(offsets.size(), 4u);
  for (const uint32_t id : ids) EXPECT_TRUE(kernel_.End(id).has_value());
  EXPECT_EQ(kernel_.InvalidCompletions(), 0);
}

TEST_F(CachefilesDoorTest, ObjectOfAnEarlierGenerationIsNotTakenForTheOneThatIsOpen) {
  const auto first = OpenOne();
  journal_->layout().mounts[0] = Image(3, {});
  const uint32_t place = OpenPlace();
  const Descriptor line = ConnectLine();
  std::optional<Message> stale = Ask(line, place, GenerationOf(place));
  ASSERT_TRUE(stale);
  std::vector<KeptObject> kept;
  kept.push_back({place, GenerationOf(place), std::move(stale->descriptors.front())});
  // The daemon has not heard of that when the keeper dies.
  kernel_.Relinquish(first);
  EXPECT_TRUE(kernel_.IsClosed(first));
  const auto object = kernel_.Acquire("erofs," + NameOf(3), NameOf(3));
  EXPECT_GT(kernel_.Answer(object), 0);
  Settle();
  ASSERT_EQ(OpenPlace(), place);
  const uint32_t id = kernel_.Read(object, 0, 4096);
  const auto taken = Take();
  Crash(std::move(kept));
  Settle();
  Finish(*taken);
  EXPECT_EQ(kernel_.End(id), Ended::kHole) << "it was completed by the descriptor of another object";
}

TEST_F(CachefilesDoorTest, SuccessorDoesNotCompleteAgainWhatHasExpired) {
  kernel_.ReuseIds();
  const auto object = OpenOne(3, 64 * kChunk);
  journal_->layout().mounts[0] = Image(3, {});
  SetDeadline(std::chrono::seconds(1));
  const uint32_t id = kernel_.Read(object, 0, 4096);
  const auto late = Take();
  ASSERT_TRUE(late);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
  EXPECT_TRUE(Eventually([&] { return StateOf(*late) == SlotState::kExpired; }));
  SetDeadline(std::chrono::seconds(60));
  ASSERT_EQ(kernel_.Read(object, 40 * kChunk, 4096), id);
  const auto other = Take();
  Crash(true);
  Settle();
  EXPECT_FALSE(kernel_.HasEnded(id)) << "the number is another READ's by now";
  Finish(*late);
  EXPECT_TRUE(Eventually([&] { return StateOf(*late) == SlotState::kFree; }));
  EXPECT_FALSE(kernel_.HasEnded(id));
  Finish(*other);
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
}

TEST_F(CachefilesDoorTest, ReadOfAnObjectThatOnlyTheDaemonHasIsAskedForAgainInTime) {
  const auto object = OpenOne();
  journal_->layout().mounts[0] = Image(3, {});
  const Descriptor line = ConnectLine();
  std::optional<Message> message = Ask(line, OpenPlace(), GenerationOf(OpenPlace()));
  ASSERT_TRUE(message);
  const uint32_t changes = journal_->layout().object_changes.load();
  Crash(std::vector<KeptObject>());
  EXPECT_NE(journal_->layout().object_changes.load(), changes) << "the daemon is to let go of it";
  const auto from = std::chrono::steady_clock::now();
  const uint32_t id = kernel_.Read(object, 0, 4096);
  EXPECT_TRUE(Eventually([&] { return counters().denied.load() > 0; }));
  // As long as the daemon holds it, the kernel does not open it anew.
  for (int i = 0; i < 3; ++i) {
    Settle();
    usleep(1000);
  }
  const auto pauses = (std::chrono::steady_clock::now() - from) / std::chrono::milliseconds(50);
  EXPECT_LT(counters().denied.load(), 4u + pauses) << "the door asks for it again and again without a pause";
  message.reset();
  EXPECT_TRUE(Eventually([&] { return kernel_.Opens(object) == 2; }));
  Finish(*Take());
  EXPECT_EQ(kernel_.End(id), Ended::kHole);
}

TEST_F(CachefilesDoorTest, EndsThoughTheDeviceFailsOnAndOn) {
  OpenOne();
  kernel_.Acquire("erofs,x", "y");
  kernel_.FailForever(EIO);
  door_->Stop();
}

TEST_F(CachefilesDoorTest, StoppingRefusesWhatWaitsAndWhatIsQueued) {
  const auto object = OpenOne();
  const uint32_t held = kernel_.Read(object, 0, 4096);
  ASSERT_TRUE(Take());
  door_->Stop();
  EXPECT_EQ(kernel_.End(held), Ended::kHole);
}

// A mount that the kernel made of what was open before, and did not ask for.
TEST_F(CachefilesDoorTest, FilesAreNotOpenUntilTheKernelHasComeForThem) {
  Guard(3, 4096);
  Guard(4, 4096);
  const MountRecord image = Image(3, {4}, "dom");
  door_->AddImage(image);
  EXPECT_EQ(door_->FilesNotOpen(image), 2u);
  const auto bootstrap = kernel_.Acquire("erofs,dom", NameOf(3));
  ASSERT_TRUE(kernel_.Answer(bootstrap).has_value());
  Settle();
  EXPECT_EQ(door_->FilesNotOpen(image), 1u) << "the device is missing";
  const auto elsewhere = kernel_.Acquire("erofs,other", NameOf(4));
  ASSERT_TRUE(kernel_.Answer(elsewhere).has_value());
  Settle();
  EXPECT_EQ(door_->FilesNotOpen(image), 1u) << "that is another volume's";
  const auto device = kernel_.Acquire("erofs,dom", NameOf(4));
  ASSERT_TRUE(kernel_.Answer(device).has_value());
  Settle();
  EXPECT_EQ(door_->FilesNotOpen(image), 0u);
  kernel_.Relinquish(device);
  ASSERT_TRUE(kernel_.IsClosed(device));
  Settle();
  EXPECT_EQ(door_->FilesNotOpen(image), 1u);
}

}  // namespace
}  // namespace sluice::keeper
