#include "p2p/registry/frame_decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <string>

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

std::string Text(size_t size) {
  std::string text;
  while (text.size() < size) text += "line " + std::to_string(text.size()) + "\n";
  text.resize(size);
  return text;
}

std::string Frame(const std::string& plain, int level = 3) {
  std::string out(ZSTD_compressBound(plain.size()), '\0');
  const size_t n = ZSTD_compress(out.data(), out.size(), plain.data(), plain.size(), level);
  EXPECT_FALSE(ZSTD_isError(n));
  out.resize(n);
  return out;
}

// As a stream is written whose length nobody knew: without its size, with a window.
std::string StreamFrame(const std::string& plain, int window_log = 0) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  std::string out(ZSTD_compressBound(plain.size()) + 64, '\0');
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  ZSTD_inBuffer first{plain.data(), plain.size() / 2, 0};
  ZSTD_compressStream2(context, &to, &first, ZSTD_e_flush);
  ZSTD_inBuffer second{plain.data(), plain.size(), plain.size() / 2};
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &second, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

std::string Skippable(const std::string& bytes) {
  std::string out("\x5e\x2a\x4d\x18", 4);
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(bytes.size() >> (8 * i)));
  return out + bytes;
}

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

constexpr size_t kPlain = 64 << 10;

absl::Status Decode(const std::string& frame, std::string* plain = nullptr, size_t size = kPlain) {
  // What lies beside it must not be touched.
  std::string room(size + 64, 'x');
  FrameDecoder decoder;
  const absl::Status status =
      decoder.Decode(Bytes(frame), std::as_writable_bytes(std::span(room)).first(size));
  EXPECT_EQ(room.substr(size), std::string(64, 'x'));
  if (plain) *plain = room.substr(0, size);
  return status;
}

void ExpectLie(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST(FrameDecoder, GivesThePlainBytes) {
  const std::string text = Text(kPlain);
  for (const std::string& frame : {Frame(text), Frame(text, 19), StreamFrame(text), StreamFrame(text, 27)}) {
    std::string plain;
    ASSERT_TRUE(Decode(frame, &plain).ok()) << Decode(frame);
    EXPECT_TRUE(plain == text);
  }
}

TEST(FrameDecoder, IsUsedAgainAfterALie) {
  FrameDecoder decoder;
  const std::string text = Text(kPlain);
  std::string plain(kPlain, '\0');
  const auto room = std::as_writable_bytes(std::span(plain));
  const std::string good = Frame(text);
  std::string bad = good;
  bad[bad.size() / 2] ^= 0x40;
  (void)decoder.Decode(Bytes(bad), room);
  ASSERT_TRUE(decoder.Decode(Bytes(good), room).ok());
  EXPECT_TRUE(plain == text);
}

TEST(FrameDecoder, RefusesOtherSizes) {
  for (const size_t size : {kPlain - 1, kPlain + 1, size_t{1}, size_t{0}}) {
    ExpectLie(Decode(Frame(Text(size))), "plain bytes, not 65536");
  }
  // Without a size in its header it is found out while it is decoded, and within bounds.
  ExpectLie(Decode(StreamFrame(Text(kPlain - 1))), "65535 plain bytes, not 65536");
  ExpectLie(Decode(StreamFrame(Text(kPlain + 1))), "");
  ExpectLie(Decode(StreamFrame(std::string(64 << 20, '\0'))), "");
}

TEST(FrameDecoder, RefusesAnythingButOneFrame) {
  const std::string frame = Frame(Text(kPlain));
  ExpectLie(Decode(""), "cut off");
  ExpectLie(Decode(frame.substr(0, 5)), "cut off");
  ExpectLie(Decode(frame.substr(0, frame.size() - 1)), "");
  ExpectLie(Decode(frame.substr(1)), "none");
  ExpectLie(Decode(frame + "x"), "1 follow it");
  ExpectLie(Decode(frame + Skippable("")), "8 follow it");
  ExpectLie(Decode(Skippable(frame)), "none");
  ExpectLie(Decode(Frame(Text(kPlain / 2)) + Frame(Text(kPlain / 2))), "not 65536");
  ExpectLie(Decode(StreamFrame(Text(kPlain / 2)) + StreamFrame(Text(kPlain / 2))), "follow it");
  ExpectLie(Decode(Text(kPlain)), "none");
}

TEST(FrameDecoder, RefusesAHugeWindowAndADictionary) {
  std::string frame = StreamFrame(Text(kPlain), 27);
  ASSERT_EQ(frame[5], '\x88') << "128 MiB";
  frame[5] = '\x89';
  ExpectLie(Decode(frame), "its window has 150994944 bytes");
  frame[5] = '\xff';
  ExpectLie(Decode(frame), "its window has");
  frame = Frame(Text(kPlain));
  frame[4] = static_cast<char>(frame[4] | 1);
  ExpectLie(Decode(frame), "dictionary");
}

// Decodes in pieces of `step`.
absl::Status Stream(const std::string& bytes, size_t step, uint64_t plain_size, std::string* plain) {
  StreamDecoder decoder(plain_size);
  plain->clear();
  for (size_t offset = 0; offset < bytes.size(); offset += step) {
    const absl::Status fed =
        decoder.Feed(Bytes(bytes).subspan(offset, std::min(step, bytes.size() - offset)),
                     [&](std::span<const std::byte> out) {
                       plain->append(reinterpret_cast<const char*>(out.data()), out.size());
                       return absl::OkStatus();
                     });
    if (!fed.ok()) return fed;
  }
  return decoder.Finish();
}

TEST(StreamDecoder, GivesThePlainBytesOfAllFrames) {
  const std::string text = Text(1 << 20);
  const std::string frames =
      Frame(text.substr(0, 700'000)) + Skippable("table") + Frame(text.substr(700'000)) + Skippable("table");
  for (const size_t step : {size_t{1}, size_t{1000}, size_t{1} << 20}) {
    std::string plain;
    const absl::Status status = Stream(frames, step, text.size(), &plain);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(plain == text) << step;
  }
}

TEST(StreamDecoder, GivesAllThoughLittleIsFed) {
  const std::string zeros(10 << 20, '\0');
  std::string plain;
  ASSERT_TRUE(Stream(Frame(zeros), 1 << 20, zeros.size(), &plain).ok());
  EXPECT_TRUE(plain == zeros);
}

TEST(StreamDecoder, RefusesWhatLies) {
  const std::string text = Text(1 << 20);
  const std::string frame = Frame(text);
  std::string plain;
  ExpectLie(Stream(frame, 1000, text.size() - 1, &plain), "more than");
  EXPECT_LT(plain.size(), text.size());
  ExpectLie(Stream(frame, 1000, text.size() + 1, &plain), "1048576 plain bytes came out");
  ExpectLie(Stream(frame.substr(0, frame.size() - 1), 1000, text.size(), &plain), "cut off");
  ExpectLie(Stream("", 1000, text.size(), &plain), "cut off");
  ExpectLie(Stream(frame + "x", 1000, text.size(), &plain), "");
  ExpectLie(Stream(frame + "xxxxxxxxxxxxxxxxx", 1000, text.size(), &plain), "");
  ExpectLie(Stream(frame + frame, 1000, text.size(), &plain), "more than");
  std::string huge = StreamFrame(text, 27);
  huge[5] = '\x90';
  ExpectLie(Stream(huge, 1000, text.size(), &plain), "");
}

TEST(StreamDecoder, EndsWithTheErrorOfWhoTakesIt) {
  StreamDecoder decoder(kPlain);
  const absl::Status fed = decoder.Feed(
      Bytes(Frame(Text(kPlain))), [](std::span<const std::byte>) { return absl::CancelledError("enough"); });
  EXPECT_EQ(fed.code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace sluice::p2p
