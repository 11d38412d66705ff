#include "ondemand/keeper_client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/replacement.h"
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

// A keeper of another version: it says so to a daemon's first call, by the beginning of a reply, and answers
// the question whether it becomes another one as it is told to.
class OtherKeeper {
 public:
  struct Answers {
    int error = 0;  // to both steps
    const char* text = "";
    bool silent = false;  // it does not know the question
    int journal = -1;     // that it gives
    bool stays = false;   // at the second step
  };

  OtherKeeper(const std::string& folder, Answers answers) : answers_(answers) {
    const keeper::Descriptor directory(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const sockaddr_un address = keeper::SocketIn(directory.get());
    listener_.reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_.get(), 8), 0);
    thread_ = std::thread([this] { Serve(); });
  }
  ~OtherKeeper() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
    for (std::thread& line : lines_) line.join();
  }
  bool was_told_to_go() const { return told_to_go_; }

 private:
  void Serve() {
    for (;;) {
      keeper::Descriptor caller(accept(listener_.get(), nullptr, nullptr));
      if (!caller.valid()) return;
      lines_.emplace_back([this, line = std::move(caller)] {
        while (Answer(line.get())) {
        }
      });
    }
  }
  // Whether the connection stays.
  bool Answer(int caller) {
    const auto asked = keeper::ReceiveMessage(caller);
    if (!asked.ok()) return false;
    const keeper::ReplaceRequest* request = keeper::ParseReplaceRequest(asked.value().bytes);
    if (request == nullptr) {
      keeper::Reply reply;
      reply.version = keeper::kWireVersion + 7;
      (void)keeper::SendMessage(caller, keeper::BytesOf(reply).first(offsetof(keeper::Reply, mount)), {});
      return false;
    }
    if (answers_.silent) return false;
    const bool go = request->step == keeper::ReplaceStep::kGo;
    if (go) told_to_go_ = true;
    if (go && !answers_.stays) return false;
    keeper::ReplaceReply reply;
    reply.error = go ? ENOEXEC : answers_.error;
    keeper::CopyText(go ? "it can't be run" : answers_.text, reply.text);
    const int files[keeper::kReplaceDescriptors] = {answers_.journal, STDERR_FILENO, STDERR_FILENO,
                                                    STDERR_FILENO};
    const bool gives = !go && answers_.error == 0 && answers_.journal >= 0;
    (void)keeper::SendMessage(caller, keeper::BytesOf(reply),
                              gives ? std::span<const int>(files) : std::span<const int>());
    return true;
  }

  const Answers answers_;
  keeper::Descriptor listener_;
  std::atomic<bool> told_to_go_{false};
  std::vector<std::thread> lines_;  // of the thread, and then of who ends it
  std::thread thread_;
};

class KeeperOfAnotherVersionTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    auto journal = keeper::Journal::Create(8, keeper::DoorKind::kFanotify);
    ASSERT_TRUE(journal.ok());
    journal_ = std::move(journal.value());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Why the daemon can't start beside such a keeper.
  absl::Status Connect(const OtherKeeper::Answers& answers) {
    const OtherKeeper other(folder_, answers);
    KeeperClientOptions options;
    options.runtime_dir = folder_;
    options.keeper_path = "/bin/true";
    options.read_deadline = options.call_timeout = std::chrono::seconds(10);
    absl::Status status = KeeperClient::Connect(std::move(options)).status();
    told_to_go_ = other.was_told_to_go();
    return status;
  }

  std::string folder_ = testing::TempDir() + "/other-keeper-XXXXXX";
  std::unique_ptr<keeper::Journal> journal_;
  bool told_to_go_ = false;
};

TEST_F(KeeperOfAnotherVersionTest, IsNamedWithWhatToDo) {
  const absl::Status status = Connect({.silent = true});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  for (const std::string& said : {absl::StrCat("version ", keeper::kWireVersion + 7, " of its protocol"),
                                  absl::StrCat("this sluiced version ", keeper::kWireVersion),
                                  absl::StrCat("process ", getpid()), std::string("sluice umount")})
    EXPECT_NE(status.message().find(said), std::string::npos) << said << " in " << status;
}

TEST_F(KeeperOfAnotherVersionTest, ItsRefusalIsToldInItsWords) {
  const absl::Status status = Connect({.error = EBUSY, .text = "another daemon has it"});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("another daemon has it"), std::string::npos) << status;
  EXPECT_FALSE(told_to_go_);
}

TEST_F(KeeperOfAnotherVersionTest, ThatGivesNothingIsNotToldToGo) {
  const absl::Status status = Connect({});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_FALSE(told_to_go_);
}

TEST_F(KeeperOfAnotherVersionTest, WhoseJournalCannotBeReadIsNotToldToGo) {
  ++journal_->layout().version;
  const absl::Status status = Connect({.journal = journal_->fd()});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_FALSE(told_to_go_);
}

TEST_F(KeeperOfAnotherVersionTest, OfAnotherBackendIsNotToldToGo) {
  journal_->layout().door = keeper::DoorKind::kFuse;
  const absl::Status status = Connect({.journal = journal_->fd()});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("ondemand.backend: fuse"), std::string::npos) << status;
  EXPECT_FALSE(told_to_go_);
}

TEST_F(KeeperOfAnotherVersionTest, ThatStaysWhatItIsSaysWhy) {
  const absl::Status status = Connect({.journal = journal_->fd(), .stays = true});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("it can't be run"), std::string::npos) << status;
}

// Its process lives: nobody is put in its place, and it is not asked again and again.
TEST_F(KeeperOfAnotherVersionTest, ThatSaysThatItGoesAndStaysIsAnError) {
  const absl::Status status = Connect({.journal = journal_->fd()});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(told_to_go_);
}

}  // namespace
}  // namespace sluice::ondemand
