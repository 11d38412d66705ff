#include "ondemand/cache_objects.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/unit/ondemand/cachefiles_rig.h"

namespace sluice::ondemand {
namespace {

using keeper::Descriptor;
using keeper::FakeCachefiles;
using keeper::ObjectReply;
using keeper::ObjectRequest;

class CacheObjectsTest : public keeper::CachefilesRig {
 protected:
  static constexpr Duration kSoon = std::chrono::seconds(20);

  std::unique_ptr<CacheObjects> Follow() {
    auto objects = std::make_unique<CacheObjects>(journal_);
    objects->SetLine(ConnectLine());
    return objects;
  }
  uint32_t GenerationOf(uint32_t place) { return journal_->layout().object_generations[place].load(); }
};

TEST_F(CacheObjectsTest, FollowsWhatTheKernelOpensAndCloses) {
  const auto objects = Follow();
  const auto object = OpenOne();
  const auto found = objects->Await(0, kSoon);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->blob, 3u);
  EXPECT_EQ(found->blob_generation, Blob(3).generation);
  EXPECT_EQ(found->generation, GenerationOf(0));
  EXPECT_EQ(kernel_.Writers(object), 2);
  EXPECT_EQ(objects->All().size(), 1u);
  EXPECT_FALSE(objects->Await(1, kSoon)) << "an object that is not open is not waited for";
  EXPECT_FALSE(objects->Await(keeper::kObjectsMax, kSoon));
}

TEST_F(CacheObjectsTest, LetsGoOfWhatIsClosed) {
  const auto objects = Follow();
  const auto object = OpenOne();
  ASSERT_TRUE(objects->Await(0, kSoon));
  const int before = keeper::CountDescriptors();
  kernel_.Relinquish(object);
  EXPECT_TRUE(kernel_.IsClosed(object));
  EXPECT_TRUE(Eventually([&] { return kernel_.Writers(object) == 0; }));
  EXPECT_EQ(keeper::CountDescriptors(), before - 2);
  EXPECT_TRUE(objects->All().empty());
}

TEST_F(CacheObjectsTest, HasManyAtOnce) {
  constexpr uint32_t kMany = 200;
  const auto objects = Follow();
  const std::vector<uint32_t> devices = AddImageOfMany(kMany);
  for (const uint32_t entry : devices) kernel_.Acquire("erofs,dom", NameOf(entry));
  EXPECT_TRUE(Eventually([&] { return objects->All().size() == kMany; }));
}

TEST_F(CacheObjectsTest, LineThatComesLaterBringsWhatIsOpenAlready) {
  OpenOne();
  CacheObjects objects(journal_);
  EXPECT_FALSE(objects.Await(0, std::chrono::milliseconds(50)));
  objects.SetLine(ConnectLine());
  EXPECT_TRUE(objects.Await(0, kSoon));
}

// Plays the keeper at the other end of the line.
class CacheObjectsLineTest : public CacheObjectsTest {
 protected:
  void SetUp() override {
    CacheObjectsTest::SetUp();
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ours_ = Descriptor(ends[0]);
    theirs_ = Descriptor(ends[1]);
    const timeval timeout{20, 0};
    setsockopt(ours_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  }
  void OpenPlace(uint32_t place, uint32_t blob) {
    journal_->layout().objects[place].blob = blob;
    journal_->layout().object_generations[place].fetch_add(1);
    journal_->NoteObjectChange();
  }
  void ClosePlace(uint32_t place) {
    journal_->layout().object_generations[place].fetch_add(1);
    journal_->NoteObjectChange();
  }
  ObjectRequest Question() {
    ObjectRequest request{keeper::kObjectsMax, 0};
    EXPECT_EQ(recv(ours_.get(), &request, sizeof(request), 0), static_cast<ssize_t>(sizeof(request)));
    return request;
  }
  void Reply(const ObjectRequest& request) {
    const ObjectReply reply{request.index, request.generation, 0};
    const Descriptor file(open("/dev/null", O_WRONLY | O_CLOEXEC));
    const int fd = file.get();
    EXPECT_TRUE(keeper::SendMessage(ours_.get(), keeper::BytesOf(reply), std::span<const int>(&fd, 1)).ok());
  }

  Descriptor ours_;
  Descriptor theirs_;
};

TEST_F(CacheObjectsLineTest, AMomentWithoutFreeDescriptorsDoesNotCostTheLine) {
  CacheObjects objects(journal_);
  objects.SetLine(std::move(theirs_));
  OpenPlace(5, 3);
  const ObjectRequest first = Question();
  rlimit some{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &some), 0);
  const rlimit none{STDERR_FILENO + 1, some.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const ObjectReply reply{first.index, first.generation, 0};
  const int fd = ours_.get();
  EXPECT_TRUE(keeper::SendMessage(ours_.get(), keeper::BytesOf(reply), std::span<const int>(&fd, 1)).ok());
  const ObjectRequest again = Question();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &some), 0);
  Reply(again);
  EXPECT_TRUE(objects.Await(5, kSoon));
}

TEST_F(CacheObjectsLineTest, SlowKeeperIsAskedAgainAndItsLateAnswersAreTold) {
  CacheObjects objects(journal_);
  OpenPlace(4, 40);
  objects.SetLine(std::move(theirs_));
  const ObjectRequest first = Question();
  EXPECT_EQ(first.index, 4u);
  // No answer in time: it asks again, on the same line.
  const ObjectRequest again = Question();
  EXPECT_EQ(again.index, 4u);
  Reply(first);
  ASSERT_TRUE(objects.Await(4, kSoon));
  // The answer to the second question must not be taken for that of this one.
  Reply(again);
  OpenPlace(5, 50);
  const ObjectRequest other = Question();
  EXPECT_EQ(other.index, 5u);
  Reply(other);
  const auto found = objects.Await(5, kSoon);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->blob, 50u);
}

TEST_F(CacheObjectsLineTest, ObjectOfBeforeIsNotGivenForTheOneThatIsOpenNow) {
  CacheObjects objects(journal_);
  objects.SetLine(std::move(theirs_));
  OpenPlace(4, 40);
  Reply(Question());
  ASSERT_TRUE(objects.Await(4, kSoon));
  // Unannounced: we know before the objects do.
  journal_->layout().objects[4].blob = 41;
  journal_->layout().object_generations[4].fetch_add(2);
  EXPECT_FALSE(objects.Await(4, std::chrono::milliseconds(1)));
  journal_->NoteObjectChange();
  Reply(Question());
  const auto found = objects.Await(4, kSoon);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->blob, 41u);
}

TEST_F(CacheObjectsLineTest, WaitersLearnThatAnObjectWasClosed) {
  CacheObjects objects(journal_);
  objects.SetLine(std::move(theirs_));
  OpenPlace(4, 40);
  std::atomic<bool> woken{false};
  std::thread waiter([&] {
    EXPECT_FALSE(objects.Await(4, std::chrono::hours(1)));
    woken.store(true);
  });
  const ObjectRequest request = Question();
  ClosePlace(4);
  const ObjectReply refusal{request.index, request.generation, ESTALE};
  EXPECT_TRUE(keeper::SendMessage(ours_.get(), keeper::BytesOf(refusal), {}).ok());
  EXPECT_TRUE(Eventually([&] { return woken.load(); }));
  waiter.join();
}

}  // namespace
}  // namespace sluice::ondemand
