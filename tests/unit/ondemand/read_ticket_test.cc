#include "ondemand/read_ticket.h"

#include <gtest/gtest.h>

#include <type_traits>
#include <utility>
#include <vector>

namespace sluice::ondemand {
namespace {

class ReadTicketTest : public testing::Test {
 protected:
  ReadTicket Make() {
    return ReadTicket(Digest(), {4096, 100}, Instant(std::chrono::seconds(7)),
                      [this](absl::Status status) { answers_.push_back(std::move(status)); });
  }
  std::vector<absl::Status> answers_;
};

static_assert(!std::is_copy_constructible_v<ReadTicket>);

TEST_F(ReadTicketTest, SaysWhatIsWanted) {
  const ReadTicket ticket = Make();
  EXPECT_EQ(ticket.key(), Digest());
  EXPECT_EQ(ticket.range(), (ByteRange{4096, 100}));
  EXPECT_EQ(ticket.deadline(), Instant(std::chrono::seconds(7)));
}

TEST_F(ReadTicketTest, IsAnsweredOnce) {
  {
    ReadTicket ticket = Make();
    std::move(ticket).Complete(absl::OkStatus());
    EXPECT_EQ(answers_.size(), 1u);
  }
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(answers_[0].ok());
}

TEST_F(ReadTicketTest, DroppedIsAnError) {
  { const ReadTicket ticket = Make(); }
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_FALSE(answers_[0].ok());
}

TEST_F(ReadTicketTest, MovedIsAnsweredByTheLastOwner) {
  {
    ReadTicket first = Make();
    const ReadTicket second = std::move(first);
    EXPECT_TRUE(answers_.empty());
  }
  EXPECT_EQ(answers_.size(), 1u);
}

}  // namespace
}  // namespace sluice::ondemand
