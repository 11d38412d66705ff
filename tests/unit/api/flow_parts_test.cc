// A chunk that is coming, sent as it comes: over a real connection.
#include "api/http/flow_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/unit/api/raw_client.h"

namespace sluice::api {
namespace {

constexpr size_t kLength = 4 * FlowParts::kPartMin;

class FlowPartsTest : public ::testing::Test {
 protected:
  // Answers every request with the chunk's bytes from `first` on.
  void Serve(size_t first, size_t length) {
    HttpRoutes routes;
    routes["/chunk"] = [this, first, length](const HttpRequest&, HttpResponder responder) {
      FlowParts::Content content;
      content.flow = flow_;
      content.first = first;
      content.length = length;
      content.holder = held_;
      content.on_sent = [this](uint64_t bytes) { sent_ += bytes; };
      content.on_taken = [this] { ++taken_; };
      HttpResponse response;
      response.status = 206;
      response.parts_length = length;
      response.parts = std::make_unique<FlowParts>(std::move(content));
      std::move(responder).Answer(std::move(response));
    };
    server_ = std::make_unique<HttpServer>(std::move(routes), HttpLimits{});
    ASSERT_TRUE(server_->Start("127.0.0.1:0").ok());
  }
  void TearDown() override { server_->Stop(); }

  // Those after what came before, up to `filled`.
  void Come(size_t filled) {
    std::copy(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(filled),
              reinterpret_cast<char*>(flow_->data()));
    flow_->Grow(filled, Instant());
  }
  static std::string Pattern() {
    std::string bytes(kLength, '\0');
    for (size_t i = 0; i < kLength; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
    return bytes;
  }
  bool Becomes(const std::function<bool()>& holds) {
    for (int i = 0; i < 6000 && !holds(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return holds();
  }

  const std::string bytes_ = Pattern();
  const std::shared_ptr<ChunkFlow> flow_ = std::make_shared<ChunkFlow>(kLength, FlowSender(), Instant());
  std::shared_ptr<int> held_ = std::make_shared<int>();
  std::atomic<uint64_t> sent_ = 0;
  std::atomic<int> taken_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(FlowPartsTest, WhatIsThereIsSentBeforeTheRestHasCome) {
  Serve(0, kLength);
  RawClient client(server_->port());
  client.Send(Request("GET", "/chunk"));
  const std::string head = client.ReadThrough("\r\n\r\n");
  EXPECT_NE(head.find("206"), std::string::npos) << "before a byte is there";
  EXPECT_NE(head.find(absl::StrCat("Content-Length: ", kLength)), std::string::npos);
  size_t read = 0;
  for (const size_t filled : {FlowParts::kPartMin, 2 * FlowParts::kPartMin + 100, kLength}) {
    Come(filled);
    // The last byte is held back.
    const size_t there = filled == kLength ? kLength - FlowParts::kPartMin : filled;
    EXPECT_TRUE(client.ReadBytes(there - read) == bytes_.substr(read, there - read)) << filled;
    read = there;
  }
  EXPECT_EQ(taken_, 0);
  flow_->Judge(true);
  EXPECT_TRUE(client.ReadBytes(kLength - read) == bytes_.substr(read));
  EXPECT_TRUE(Becomes([&] { return taken_ == 1; }));
  EXPECT_EQ(sent_, kLength);
  EXPECT_TRUE(Becomes([&] { return held_.use_count() == 1; }));
  // The connection goes on.
  client.Send(Request("GET", "/chunk"));
  EXPECT_NE(client.ReadThrough("\r\n\r\n").find("206"), std::string::npos);
  EXPECT_TRUE(client.ReadBytes(kLength) == bytes_);
}

TEST_F(FlowPartsTest, ARangeWithinTheChunkIsSentAlone) {
  Serve(5, 10);
  RawClient client(server_->port());
  client.Send(Request("GET", "/chunk"));
  Come(20);
  client.ReadThrough("\r\n\r\n");
  EXPECT_EQ(client.ReadBytes(10), bytes_.substr(5, 10)) << "the rest need not come";
  EXPECT_TRUE(Becomes([&] { return taken_ == 1; }));
}

TEST_F(FlowPartsTest, AFlowThatEndsEarlyClosesTheConnection) {
  Serve(0, kLength);
  RawClient client(server_->port());
  client.Send(Request("GET", "/chunk"));
  Come(FlowParts::kPartMin);
  client.ReadThrough("\r\n\r\n");
  EXPECT_TRUE(client.ReadBytes(FlowParts::kPartMin) == bytes_.substr(0, FlowParts::kPartMin));
  flow_->End();
  EXPECT_EQ(client.ReadAll(), "");
  EXPECT_EQ(taken_, 0);
}

TEST_F(FlowPartsTest, AClientThatGoesIsLetGoOfBeforeMoreComes) {
  Serve(0, kLength);
  {
    RawClient client(server_->port());
    client.Send(Request("GET", "/chunk"));
    client.ReadThrough("\r\n\r\n");
  }
  EXPECT_TRUE(Becomes([&] { return held_.use_count() == 1; })) << "nothing comes";
  Come(kLength);
  flow_->Judge(true);
  EXPECT_EQ(taken_, 0);
}

}  // namespace
}  // namespace sluice::api
