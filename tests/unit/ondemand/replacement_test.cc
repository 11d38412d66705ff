#include "ondemand/keeper/replacement.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "ondemand/keeper/control.h"
#include "ondemand/keeper/wire.h"

namespace sluice::keeper {
namespace {

using testing::HasSubstr;

constexpr char kShell[] = "/bin/sh";

Descriptor Open(const char* path) {
  return Descriptor(open(path, O_RDONLY | O_CLOEXEC));
}

TEST(ReplacementMessageTest, IsTakenInItsOwnFormAlone) {
  ReplaceRequest request;
  ASSERT_NE(ParseReplaceRequest(BytesOf(request)), nullptr);
  EXPECT_EQ(ParseReplaceRequest(BytesOf(request).first(sizeof(request) - 1)), nullptr);
  EXPECT_EQ(ParseRequest(BytesOf(request)), nullptr) << "an ordinary request";
  request.magic = kWireMagic;
  EXPECT_EQ(ParseReplaceRequest(BytesOf(request)), nullptr);

  request = {};
  std::memset(request.path, 'x', sizeof(request.path));
  EXPECT_EQ(ParseReplaceRequest(BytesOf(request)), nullptr) << "a path without an end";

  ReplaceReply reply;
  ASSERT_NE(ParseReplaceReply(BytesOf(reply)), nullptr);
  EXPECT_EQ(ParseReplaceReply(BytesOf(reply).first(sizeof(reply) - 1)), nullptr);
  std::memset(reply.text, 'x', sizeof(reply.text));
  EXPECT_EQ(ParseReplaceReply(BytesOf(reply)), nullptr) << "a text without an end";
}

TEST(EstateTest, IsReadByItsNames) {
  const Result<Estate> estate =
      ReadEstate("tree=4,lock=9,of_a_later_version=77,requests=3,lock=10,journal=5,completions=6");
  ASSERT_TRUE(estate.ok()) << estate.error().text;
  EXPECT_EQ(estate.value().requests, 3);
  EXPECT_EQ(estate.value().tree, 4);
  EXPECT_EQ(estate.value().journal, 5);
  EXPECT_EQ(estate.value().completions, 6);
  EXPECT_THAT(estate.value().locks, testing::ElementsAre(9, 10));
  EXPECT_TRUE(estate.value().objects.empty());
}

TEST(EstateTest, WhatIsMissingOrNoNumberIsNamed) {
  for (const char* list :
       {"", "requests=3,tree=4,journal=5", "requests=3,tree=4,journal=5,completions",
        "requests=3,tree=4,journal=5,completions=", "requests=3,tree=4,journal=5,completions=6x",
        "requests=3,tree=4,journal=5,completions=-6", "requests=3,tree=4,journal=5,completions=2"}) {
    const Result<Estate> estate = ReadEstate(list);
    ASSERT_FALSE(estate.ok()) << list;
    EXPECT_EQ(estate.error().code, EINVAL);
  }
}

// In a child, which becomes a shell that says what it was given.
class RunInsteadTest : public testing::Test {
 protected:
  void SetUp() override {
    for (Descriptor* file : {&requests_, &tree_, &journal_, &completions_, &lock_, &object_, &stranger_}) {
      const Descriptor made(eventfd(0, EFD_CLOEXEC));
      // Numbers that a shell does not use by itself.
      file->reset(fcntl(made.get(), F_DUPFD_CLOEXEC, 300));
      ASSERT_TRUE(file->valid());
    }
    estate_ = {requests_.get(),    tree_.get(),   journal_.get(),
               completions_.get(), {lock_.get()}, {{.index = 7, .generation = 3, .file = object_.get()}}};
  }

  Descriptor requests_, tree_, journal_, completions_, lock_, object_, stranger_;
  Estate estate_;
};

TEST_F(RunInsteadTest, EstateGoesOnAndNothingElse) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  Descriptor ours(ends[0]);
  Descriptor theirs(ends[1]);
  const Descriptor shell = Open(kShell);
  const pid_t child = fork();
  if (child == 0) {
    dup2(theirs.get(), STDOUT_FILENO);
    (void)RunInstead(shell.get(),
                     {
                         "-c",
                         "echo \"$0 $1\"; cd /proc/self/fd && echo *",
                     },
                     estate_);
    _exit(99);
  }
  theirs.reset();
  std::string said;
  char buffer[4096];
  for (ssize_t length; (length = read(ours.get(), buffer, sizeof(buffer))) > 0;)
    said.append(buffer, static_cast<size_t>(length));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0) << said;

  const size_t end = said.find('\n');
  ASSERT_NE(end, std::string::npos) << said;
  const std::string given = said.substr(0, end);
  ASSERT_TRUE(given.starts_with("--inherit ")) << given;
  // The number of the list of objects is not ours to know; it is open there alone.
  const std::string list = given.substr(given.find(' ') + 1);
  EXPECT_THAT(list, HasSubstr("requests=" + std::to_string(requests_.get()) + ","));
  EXPECT_THAT(list, HasSubstr(",tree=" + std::to_string(tree_.get()) + ","));
  EXPECT_THAT(list, HasSubstr(",journal=" + std::to_string(journal_.get()) + ","));
  EXPECT_THAT(list, HasSubstr(",completions=" + std::to_string(completions_.get()) + ","));
  EXPECT_THAT(list, HasSubstr(",lock=" + std::to_string(lock_.get())));
  EXPECT_THAT(list, HasSubstr(",objects="));
  const std::string open_there = " " + said.substr(end + 1, said.size() - end - 2) + " ";
  for (const Descriptor* file : {&requests_, &tree_, &journal_, &completions_, &lock_, &object_})
    EXPECT_THAT(open_there, HasSubstr(" " + std::to_string(file->get()) + " "));
  EXPECT_THAT(open_there, testing::Not(HasSubstr(" " + std::to_string(stranger_.get()) + " ")));
}

TEST_F(RunInsteadTest, WhatCannotBeRunChangesNothing) {
  const Descriptor text = Open("/proc/self/maps");
  const Outcome outcome = RunInstead(text.get(), {}, estate_);
  ASSERT_FALSE(outcome.ok());
  for (const Descriptor* file : {&requests_, &tree_, &journal_, &completions_, &lock_, &object_})
    EXPECT_EQ(fcntl(file->get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(RunInsteadTest, ObjectsAreReadAsTheyWereWritten) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, 0), 0);
  const pid_t child = fork();
  const Descriptor shell = Open(kShell);
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    (void)RunInstead(shell.get(), {"-c", "l=${1##*objects=}; cat /proc/self/fd/${l%%,*}"}, estate_);
    _exit(99);
  }
  close(ends[1]);
  HeldObject object;
  ASSERT_EQ(read(ends[0], &object, sizeof(object)), static_cast<ssize_t>(sizeof(object)));
  close(ends[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(object.index, 7u);
  EXPECT_EQ(object.generation, 3u);
  EXPECT_EQ(object.file, object_.get());
  const Descriptor list(memfd_create("objects", MFD_CLOEXEC));
  ASSERT_EQ(write(list.get(), &object, sizeof(object)), static_cast<ssize_t>(sizeof(object)));
  const Result<Estate> estate = ReadEstate("requests=3,tree=4,journal=5,completions=6,objects=" +
                                           std::to_string(fcntl(list.get(), F_DUPFD_CLOEXEC, 3)));
  ASSERT_TRUE(estate.ok());
  ASSERT_EQ(estate.value().objects.size(), 1u);
  EXPECT_EQ(estate.value().objects[0].file, object_.get());
}

TEST(ProveProgramTest, KeeperDoesAndOthersDoNot) {
  EXPECT_TRUE(ProveProgram(Open(SLUICE_KEEPER_PATH).get()).ok());
  for (const char* other : {"/bin/true", kShell, "/proc/self/maps"}) {
    const Outcome outcome = ProveProgram(Open(other).get());
    ASSERT_FALSE(outcome.ok()) << other;
    EXPECT_EQ(outcome.error().code, ENOEXEC);
  }
}

// Not the caller's mount of it, where it has one itself.
TEST(OpenOursTest, IsTheSameFileInAnyCase) {
  struct stat program {};
  struct stat opened {};
  const Descriptor given = Open("/bin/true");
  ASSERT_EQ(fstat(given.get(), &program), 0);
  for (const char* path : {"/bin/true", kShell, "/not/there", ""}) {
    const Result<Descriptor> ours = OpenOurs(given.get(), path);
    ASSERT_TRUE(ours.ok()) << path;
    ASSERT_NE(ours.value().get(), given.get());
    ASSERT_EQ(fstat(ours.value().get(), &opened), 0);
    EXPECT_EQ(opened.st_ino, program.st_ino) << path;
  }
}

class QuietDoor final : public Door {
 public:
  QuietDoor(Journal& journal, int requests, int completions)
      : Door(journal, {requests, requests, -1}, completions) {}
  ~QuietDoor() override { Stop(); }
  Outcome Guard(uint32_t) override { return {}; }
  void Forget(uint32_t) override {}

 private:
  bool ReadingCanBlock() const override { return false; }
  void ReadRequests() override {}
  Answered Answer(uint32_t, const SlotRead&, int) override { return Answered::kNow; }
  void AdoptOthers() override {}
  void RefuseQueued() override {}
};

// A keeper's control over a door that nobody reads through.
class ReplaceCallTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    auto journal = Journal::Create(8);
    ASSERT_TRUE(journal.ok());
    journal_ = std::move(journal.value());
    journal_->KeepMapped();
    requests_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    completions_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    door_ = std::make_unique<QuietDoor>(*journal_, requests_.get(), completions_.get());
    ASSERT_TRUE(door_->Start().ok());
    control_ = std::make_unique<Control>(Control::Parts{*journal_, *door_, completions_.get(), nullptr,
                                                        [this](int program, const std::string& path) {
                                                          became_ = fcntl(program, F_GETFD) >= 0;
                                                          path_ = path;
                                                          return Outcome(Error{ENOEXEC, "it can't be run"});
                                                        }});
    ASSERT_TRUE(control_->Listen({folder_}).ok());
    thread_ = std::thread([this] { control_->Run(); });
  }
  // It leaves when a daemon has come and gone.
  void TearDown() override {
    if (daemon_.valid() || Attach()) Say(daemon_, PlainRequest{{.kind = RequestKind::kGoodbye}});
    thread_.join();
    control_.reset();
    std::filesystem::remove_all(folder_);
  }

  Descriptor Dial() {
    const Descriptor directory(open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const sockaddr_un address = SocketIn(directory.get());
    Descriptor line(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(line.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return line;
  }
  template <typename Request>
  Message Say(const Descriptor& line, const Request& request, std::vector<int> files = {}) {
    EXPECT_TRUE(SendMessage(line.get(), BytesOf(request), files).ok());
    Result<Message> message = ReceiveMessage(line.get());
    EXPECT_TRUE(message.ok()) << message.error().text;
    return message.ok() ? std::move(message.value()) : Message();
  }
  bool Attach() {
    daemon_ = Dial();
    HelloRequest hello;
    hello.read_deadline_ns = 1'000'000'000;
    const Message message = Say(daemon_, hello);
    const Reply* reply = ParseReply(message.bytes);
    return reply != nullptr && reply->error == 0;
  }
  // The error's number and text; 0 if it was granted.
  std::pair<int, std::string> Ask(const ReplaceRequest& request, std::vector<int> files = {},
                                  size_t* given = nullptr) {
    const Descriptor line = Dial();
    const Message message = Say(line, request, std::move(files));
    const ReplaceReply* reply = ParseReplaceReply(message.bytes);
    if (given != nullptr) *given = message.descriptors.size();
    return reply == nullptr ? std::pair(-1, std::string("malformed"))
                            : std::pair(reply->error, std::string(reply->text));
  }

  std::string folder_ = testing::TempDir() + "/replace-XXXXXX";
  std::unique_ptr<Journal> journal_;
  Descriptor requests_, completions_;
  std::unique_ptr<QuietDoor> door_;
  std::unique_ptr<Control> control_;
  std::atomic<bool> became_{false};
  std::string path_;  // that it was given then
  std::thread thread_;
  Descriptor daemon_;
};

TEST_F(ReplaceCallTest, WhoAsksIsGivenWhatASuccessorNeeds) {
  const Descriptor line = Dial();
  const Message message = Say(line, ReplaceRequest{});
  const ReplaceReply* reply = ParseReplaceReply(message.bytes);
  ASSERT_NE(reply, nullptr);
  EXPECT_EQ(reply->error, 0);
  ASSERT_EQ(message.descriptors.size(), size_t{kReplaceDescriptors});
  const Result<std::unique_ptr<Journal>> journal = Journal::Open(message.descriptors[kReplaceJournal].get());
  ASSERT_TRUE(journal.ok()) << journal.error().text;
  EXPECT_FALSE(became_);
}

TEST_F(ReplaceCallTest, ProgramThatCannotBeRunLeavesItServing) {
  const Descriptor program = Open("/bin/true");
  const auto [error, text] = Ask({.step = ReplaceStep::kGo, .path = "/bin/true"}, {program.get()});
  EXPECT_EQ(error, ENOEXEC);
  EXPECT_EQ(path_, "/bin/true");
  EXPECT_EQ(text, "it can't be run");
  EXPECT_TRUE(became_);
  EXPECT_TRUE(Attach());
}

TEST_F(ReplaceCallTest, NoProgramOrAnUnknownStepIsRefused) {
  EXPECT_EQ(Ask({.step = ReplaceStep::kGo}).first, EPROTO);
  const Descriptor program = Open("/bin/true");
  EXPECT_EQ(Ask({.step = static_cast<ReplaceStep>(9)}, {program.get()}).first, EPROTO);
  EXPECT_FALSE(became_);
}

TEST_F(ReplaceCallTest, DaemonThatIsAttachedKeepsItsKeeper) {
  ASSERT_TRUE(Attach());
  const Descriptor program = Open("/bin/true");
  for (const ReplaceStep step : {ReplaceStep::kAsk, ReplaceStep::kGo}) {
    size_t given = 1;
    const auto [error, text] = Ask({.step = step}, {program.get()}, &given);
    EXPECT_EQ(error, EBUSY);
    EXPECT_EQ(given, 0u);
    EXPECT_THAT(text, HasSubstr(std::to_string(getpid())));
  }
  EXPECT_FALSE(became_);
}

TEST_F(ReplaceCallTest, ProgramOfAnotherJournalIsRefused) {
  size_t given = 1;
  const auto [error, text] = Ask({.journal_version = kJournalVersion + 1}, {}, &given);
  EXPECT_EQ(error, EPROTO);
  EXPECT_EQ(given, 0u);
  EXPECT_THAT(text, HasSubstr("version " + std::to_string(kJournalVersion + 1)));
  EXPECT_EQ(Ask({.journal_size = sizeof(JournalLayout) + 8}).first, EPROTO);
}

}  // namespace
}  // namespace sluice::keeper
