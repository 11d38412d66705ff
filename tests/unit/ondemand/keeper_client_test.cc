#include "ondemand/keeper_client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/unit/ondemand/fake_descriptor_store.h"

namespace sluice::ondemand {
namespace {

constexpr char kJournal[] = "sluice-journal";

class DoorThatWaitsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto journal = keeper::Journal::Create(8, keeper::DoorKind::kFuse);
    ASSERT_TRUE(journal.ok());
    journal_ = std::move(journal.value());
  }

  std::unique_ptr<keeper::Journal> journal_;
  FakeDescriptorStore store_;
};

TEST_F(DoorThatWaitsTest, IsTheOneWithMounts) {
  EXPECT_EQ(*DoorThatWaits(store_), std::nullopt);
  store_.Give(kJournal, journal_->fd());
  EXPECT_EQ(*DoorThatWaits(store_), std::nullopt);
  journal_->layout().mounts[5].in_use = 1;
  EXPECT_EQ(*DoorThatWaits(store_), keeper::DoorKind::kFuse);
}

// What can't be read may have mounts: to take it for none would let them go.
TEST_F(DoorThatWaitsTest, JournalOfAnotherVersionIsNotNone) {
  store_.Give(kJournal, journal_->fd());
  ++journal_->layout().version;
  EXPECT_TRUE(absl::IsFailedPrecondition(DoorThatWaits(store_).status())) << DoorThatWaits(store_).status();
}

TEST_F(DoorThatWaitsTest, JournalOfAnotherSizeIsNotNone) {
  const keeper::Descriptor other(memfd_create("other", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(other.get(), 4096), 0);
  store_.Give(kJournal, other.get());
  EXPECT_TRUE(absl::IsFailedPrecondition(DoorThatWaits(store_).status()));
}

// What a keeper of another version says to a daemon's first call: the beginning of a reply.
TEST(KeeperOfAnotherVersionTest, IsNamedWithWhatToDo) {
  std::string folder = testing::TempDir() + "/other-keeper-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const keeper::Descriptor directory(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const sockaddr_un address = keeper::SocketIn(directory.get());
  const keeper::Descriptor listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  std::thread other([&] {
    const keeper::Descriptor caller(accept(listener.get(), nullptr, nullptr));
    const auto asked = keeper::ReceiveMessage(caller.get());
    keeper::Reply reply;
    reply.version = keeper::kWireVersion + 7;
    if (asked.ok())
      (void)keeper::SendMessage(caller.get(), keeper::BytesOf(reply).first(offsetof(keeper::Reply, mount)),
                                {});
  });
  KeeperClientOptions options;
  options.runtime_dir = folder;
  options.keeper_path = folder + "/none";
  options.read_deadline = options.call_timeout = std::chrono::seconds(10);
  const absl::Status status = KeeperClient::Connect(std::move(options)).status();
  other.join();
  std::filesystem::remove_all(folder);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  for (const std::string& said : {absl::StrCat("version ", keeper::kWireVersion + 7, " of its protocol"),
                                  absl::StrCat("this sluiced version ", keeper::kWireVersion),
                                  absl::StrCat("process ", getpid()), std::string("sluice umount")})
    EXPECT_NE(status.message().find(said), std::string::npos) << said << " in " << status;
}

}  // namespace
}  // namespace sluice::ondemand
