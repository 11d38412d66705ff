#include "ondemand/keeper/line_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "ondemand/keeper/clock.h"
#include "ondemand/keeper/descriptor.h"

namespace sluice::keeper {
namespace {

constexpr std::chrono::seconds kWait{20};

std::string Dropped(uint64_t lines) {
  return "dropped " + std::to_string(lines) + "\n";
}

class LineWriterTest : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    reader_.reset(ends[0]);
    pipe_.reset(ends[1]);
  }
  // As somebody else may who writes to the same pipe.
  void FillPipe() {
    fcntl(pipe_.get(), F_SETFL, O_NONBLOCK);
    const std::string page(4096, 'x');
    while (write(pipe_.get(), page.data(), page.size()) > 0) {
    }
    while (write(pipe_.get(), "x", 1) > 0) {
    }
    fcntl(pipe_.get(), F_SETFL, 0);
  }
  // Until the text comes.
  std::string ReadUntil(const std::string& text) {
    std::string all;
    char part[4096];
    const auto give_up = std::chrono::steady_clock::now() + kWait;
    while (all.find(text) == std::string::npos && std::chrono::steady_clock::now() < give_up) {
      const ssize_t length = read(reader_.get(), part, sizeof(part));
      if (length > 0) all.append(part, static_cast<size_t>(length));
    }
    return all;
  }
  template <typename Condition>
  static bool Eventually(Condition condition) {
    const auto give_up = std::chrono::steady_clock::now() + kWait;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > give_up) return false;
      usleep(1000);
    }
    return true;
  }

  Descriptor reader_;
  Descriptor pipe_;
};

TEST_F(LineWriterTest, LinesComeInOrder) {
  LineWriter writer(pipe_.get(), Dropped);
  writer.Write("one\n");
  writer.Write("two\n");
  EXPECT_EQ(ReadUntil("two\n"), "one\ntwo\n");
  EXPECT_EQ(writer.dropped(), 0u);
  EXPECT_FALSE(writer.Stuck());
}

TEST_F(LineWriterTest, WhoeverLogsDoesNotWaitForTheReaderAndIsToldOfWhatWasDropped) {
  FillPipe();
  {
    LineWriter writer(pipe_.get(), Dropped);
    const std::string line(10000, 'y');
    // More than the queue takes.
    for (size_t i = 0; i < 2 * LineWriter::kBytesMax / line.size(); ++i) writer.Write(line + "\n");
    const uint64_t dropped = writer.dropped();
    EXPECT_GT(dropped, LineWriter::kBytesMax / line.size() / 2);
    EXPECT_TRUE(Eventually([&] { return writer.Stuck(); }));
    // The reader is well again.
    EXPECT_NE(ReadUntil(Dropped(dropped)).find(line), std::string::npos);
    EXPECT_TRUE(Eventually([&] { return !writer.Stuck(); }));
    writer.Write("last\n");
    EXPECT_NE(ReadUntil("last\n").find("last\n"), std::string::npos);
    EXPECT_EQ(writer.dropped(), dropped);
    FillPipe();
    writer.Write("never read\n");
  }  // and does not wait at the end
}

TEST_F(LineWriterTest, LinesOfAFileThatWasMovedGoToANewOne) {
  char folder[] = "/tmp/sluice-log-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/log";
  const auto text_of = [](const std::string& file) {
    std::ifstream in(file);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  };
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  {
    LineWriter writer(file.get(), Dropped);
    writer.Write("before\n");
    EXPECT_TRUE(Eventually([&] { return text_of(path) == "before\n"; }));
    std::filesystem::rename(path, path + ".1");
    writer.Reopen();
    writer.Write("after\n");
    EXPECT_TRUE(Eventually([&] { return text_of(path) == "after\n"; }));
    EXPECT_EQ(text_of(path + ".1"), "before\n");
  }
  std::filesystem::remove_all(folder);
}

TEST_F(LineWriterTest, APipeIsNotOpenedAnew) {
  LineWriter writer(pipe_.get(), Dropped);
  writer.Reopen();
  writer.Write("line\n");
  EXPECT_EQ(ReadUntil("line\n"), "line\n");
}

TEST(KeeperClockTest, OffsetIsWhatTheNamespaceSays) {
  EXPECT_EQ(ParseClockOffset("monotonic      100000         5\nboottime       7         0\n"),
            100000 * int64_t{1'000'000'000} + 5);
  EXPECT_EQ(ParseClockOffset("monotonic          -3         0\nboottime       7         0\n"),
            -3 * int64_t{1'000'000'000});
  EXPECT_EQ(ParseClockOffset(""), 0);
}

}  // namespace
}  // namespace sluice::keeper
