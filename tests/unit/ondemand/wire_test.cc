#include "ondemand/keeper/wire.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace sluice::keeper {
namespace {

class WireTest : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ours_.reset(ends[0]);
    theirs_.reset(ends[1]);
  }
  Descriptor ours_;
  Descriptor theirs_;
};

TEST_F(WireTest, MessageArrivesWithItsDescriptors) {
  const Descriptor null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int sent[] = {null.get(), null.get()};
  ASSERT_TRUE(SendMessage(ours_.get(), BytesOf(HelloRequest{.read_deadline_ns = 42}), sent).ok());
  Result<Message> message = ReceiveMessage(theirs_.get());
  ASSERT_TRUE(message.ok());
  const Header* header = ParseRequest(message.value().bytes);
  ASSERT_NE(header, nullptr);
  EXPECT_EQ(header->kind, RequestKind::kHello);
  EXPECT_EQ(reinterpret_cast<const HelloRequest*>(header)->read_deadline_ns, 42);
  ASSERT_EQ(message.value().descriptors.size(), 2u);
  struct stat expected {};
  struct stat found {};
  fstat(null.get(), &expected);
  fstat(message.value().descriptors[1].get(), &found);
  EXPECT_EQ(expected.st_rdev, found.st_rdev);
  EXPECT_NE(fcntl(message.value().descriptors[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(WireTest, EndOfConnectionIsAnError) {
  ours_.reset();
  EXPECT_EQ(ReceiveMessage(theirs_.get()).error().code, ECONNRESET);
}

TEST_F(WireTest, TooLongAMessageIsRejected) {
  const std::string bytes(kMessageBytesMax + 1, 'x');
  ASSERT_EQ(send(ours_.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(ReceiveMessage(theirs_.get()).error().code, EPROTO);
}

TEST_F(WireTest, TooManyDescriptorsAreRejectedAndClosed) {
  constexpr size_t kMany = kDescriptorsPerMessageMax + 60;
  const Descriptor null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMany)] = {};
  char byte = 0;
  iovec part{&byte, 1};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  cmsghdr* c = CMSG_FIRSTHDR(&header);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int) * kMany);
  for (size_t i = 0; i < kMany; ++i) {
    const int fd = null.get();
    std::memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
  }
  ASSERT_EQ(sendmsg(ours_.get(), &header, 0), 1);
  const Descriptor before(dup(null.get()));
  EXPECT_EQ(ReceiveMessage(theirs_.get()).error().code, EPROTO);
  const Descriptor after(dup(null.get()));
  EXPECT_EQ(after.get(), before.get() + 1) << "descriptors were leaked";
}

TEST(WireParseTest, MalformedRequestsAreRejected) {
  HelloRequest good;
  EXPECT_NE(ParseRequest(BytesOf(good)), nullptr);
  EXPECT_EQ(ParseRequest({}), nullptr);
  EXPECT_EQ(ParseRequest(BytesOf(good).first(sizeof(Header) - 1)), nullptr);
  EXPECT_EQ(ParseRequest(BytesOf(good).first(sizeof(good) - 1)), nullptr) << "short for its kind";
  HelloRequest other = good;
  other.header.magic ^= 1;
  EXPECT_EQ(ParseRequest(BytesOf(other)), nullptr);
  other = good;
  ++other.header.version;
  EXPECT_EQ(ParseRequest(BytesOf(other)), nullptr);
  other = good;
  other.header.kind = static_cast<RequestKind>(99);
  EXPECT_EQ(ParseRequest(BytesOf(other)), nullptr);
  other = good;
  other.header.kind = RequestKind::kMount;
  EXPECT_EQ(ParseRequest(BytesOf(other)), nullptr) << "another kind's size";
}

TEST(WireParseTest, TextsMustEndAndCountsMustFit) {
  MountCall call;
  EXPECT_NE(ParseRequest(BytesOf(call)), nullptr);
  call.device_count = kDevicesMax + 1;
  EXPECT_EQ(ParseRequest(BytesOf(call)), nullptr);
  call.device_count = 0;
  std::memset(call.mount_point, 'x', sizeof(call.mount_point));
  EXPECT_EQ(ParseRequest(BytesOf(call)), nullptr);
  UnmountRequest unmount;
  std::memset(unmount.mount_point, 'x', sizeof(unmount.mount_point));
  EXPECT_EQ(ParseRequest(BytesOf(unmount)), nullptr);
  Reply reply;
  EXPECT_NE(ParseReply(BytesOf(reply)), nullptr);
  std::memset(reply.text, 'x', sizeof(reply.text));
  EXPECT_EQ(ParseReply(BytesOf(reply)), nullptr);
}

// The reply's beginning, which daemons of any version can receive: theirs may have less room for a whole one.
TEST(WireParseTest, BeginningOfAReplyIsNoReply) {
  EXPECT_EQ(ParseReply(BytesOf(Reply{}).first(offsetof(Reply, mount))), nullptr);
}

TEST(WireParseTest, VersionOfWhateverSpeaks) {
  HelloRequest hello;
  EXPECT_EQ(VersionOf(BytesOf(hello)), kWireVersion);
  EXPECT_FALSE(IsOfAnotherVersion(BytesOf(hello)));
  hello.header.version = kWireVersion + 3;
  EXPECT_EQ(VersionOf(BytesOf(hello)), kWireVersion + 3);
  EXPECT_TRUE(IsOfAnotherVersion(BytesOf(hello)));
  hello.header.magic ^= 1;
  EXPECT_EQ(VersionOf(BytesOf(hello)), 0u);
  EXPECT_FALSE(IsOfAnotherVersion(BytesOf(hello)));
  Reply reply;
  reply.version = kWireVersion - 1;
  const std::span<const std::byte> beginning = BytesOf(reply).first(offsetof(Reply, mount));
  EXPECT_EQ(VersionOf(beginning), kWireVersion - 1);
  EXPECT_EQ(VersionOf(beginning.first(beginning.size() - 1)), 0u);
}

TEST(WireParseTest, CopyTextTerminatesOrRefuses) {
  char to[4];
  EXPECT_TRUE(CopyText("abc", to));
  EXPECT_STREQ(to, "abc");
  EXPECT_FALSE(CopyText("abcd", to));
  EXPECT_FALSE(CopyText(std::string_view("a\0b", 3), to));
}

TEST_F(WireTest, CallsOfAnEndByForceAreTakenInTheirOwnSizesAlone) {
  UnmountRequest detach{{.kind = RequestKind::kDetach}, {}};
  ASSERT_TRUE(CopyText("/mnt", detach.mount_point));
  const PlainRequest refuse{{.kind = RequestKind::kRefuseReads}};
  ASSERT_NE(ParseRequest(BytesOf(detach)), nullptr);
  ASSERT_NE(ParseRequest(BytesOf(refuse)), nullptr);
  const PlainRequest short_detach{{.kind = RequestKind::kDetach}};
  EXPECT_EQ(ParseRequest(BytesOf(short_detach)), nullptr);
  const UnmountRequest long_refuse{{.kind = RequestKind::kRefuseReads}, {}};
  EXPECT_EQ(ParseRequest(BytesOf(long_refuse)), nullptr);
  std::memset(detach.mount_point, 'x', sizeof(detach.mount_point));
  EXPECT_EQ(ParseRequest(BytesOf(detach)), nullptr) << "the text has no end";
}

}  // namespace
}  // namespace sluice::keeper
