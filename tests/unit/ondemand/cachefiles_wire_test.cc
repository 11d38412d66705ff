#include "ondemand/keeper/cachefiles/cachefiles_wire.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace sluice::keeper {
namespace {

using namespace std::string_literals;

constexpr size_t kHeaderBytes = sizeof(cachefiles_msg);

template <typename T>
std::string Bytes(const T& pod) {
  return {reinterpret_cast<const char*>(&pod), sizeof(pod)};
}

// A message as the kernel makes it: its length is what it is.
std::string Packed(uint32_t opcode, const std::string& data) {
  const uint32_t header[] = {7, opcode, static_cast<uint32_t>(kHeaderBytes + data.size()), 3};
  return Bytes(header) + data;
}
// `volume` with its NUL.
std::string PackedOpen(const std::string& volume, const std::string& cookie, uint32_t fd = 5) {
  cachefiles_open open{};
  open.volume_key_size = volume.size();
  open.cookie_key_size = cookie.size();
  open.fd = fd;
  open.flags = 9;
  return Packed(CACHEFILES_OP_OPEN, Bytes(open) + volume + cookie);
}
std::string PackedRead(uint64_t offset, uint64_t length) {
  return Packed(CACHEFILES_OP_READ, Bytes(cachefiles_read{.off = offset, .len = length}));
}
template <typename T>
void Overwrite(std::string& bytes, size_t at, T value) {
  ASSERT_LE(at + sizeof(value), bytes.size());
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}
constexpr size_t kLengthAt = offsetof(cachefiles_msg, len);
constexpr size_t kVolumeSizeAt = kHeaderBytes + offsetof(cachefiles_open, volume_key_size);
constexpr size_t kCookieSizeAt = kHeaderBytes + offsetof(cachefiles_open, cookie_key_size);

std::optional<CachefilesMessage> Parse(std::string_view bytes) {
  return ParseCachefilesMessage(std::as_bytes(std::span(bytes)));
}
template <typename T>
T BodyOf(std::string_view bytes) {
  const std::optional<CachefilesMessage> message = Parse(bytes);
  if (message && std::holds_alternative<T>(message->body)) return std::get<T>(message->body);
  if (message && std::holds_alternative<CachefilesMalformed>(message->body)) {
    ADD_FAILURE() << std::get<CachefilesMalformed>(message->body).reason;
  } else {
    ADD_FAILURE() << "another body, or none";
  }
  return {};
}
// The descriptor of the malformed message, -1 if it has none.
int MalformedFd(std::string_view bytes) {
  const auto malformed = BodyOf<CachefilesMalformed>(bytes);
  EXPECT_STRNE(malformed.reason, "");
  return malformed.fd;
}

TEST(CachefilesParseTest, OpenIsAViewOfItsKeys) {
  const std::string bytes = PackedOpen("erofs,sluice\0"s, "c00k1e");
  const std::optional<CachefilesMessage> message = Parse(bytes);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->header.id, 7u);
  EXPECT_EQ(message->header.opcode, CACHEFILES_OP_OPEN);
  EXPECT_EQ(message->header.length, bytes.size());
  EXPECT_EQ(message->header.object, 3u);
  const auto open = BodyOf<CachefilesOpen>(bytes);
  EXPECT_EQ(open.volume_key, "erofs,sluice");
  EXPECT_EQ(open.cookie_key, "c00k1e");
  EXPECT_EQ(open.fd, 5);
  EXPECT_EQ(open.flags, 9u);
  EXPECT_EQ(static_cast<const void*>(open.cookie_key.data()), bytes.data() + bytes.size() - 6);
}

TEST(CachefilesParseTest, CloseAndRead) {
  BodyOf<CachefilesClose>(Packed(CACHEFILES_OP_CLOSE, ""));
  const auto read = BodyOf<CachefilesRead>(PackedRead(4096, 131072));
  EXPECT_EQ(read.offset, 4096u);
  EXPECT_EQ(read.length, 131072u);
}

TEST(CachefilesParseTest, CookiesAreBinaryAndKeysAsLongAsTheKernelAllows) {
  const std::string cookie = "\0\xff\n/\0"s;
  EXPECT_EQ(BodyOf<CachefilesOpen>(PackedOpen("v\0"s, cookie)).cookie_key, cookie);
  const std::string longest = PackedOpen(std::string(255, 'v') + '\0', std::string(255, '\0'), INT_MAX);
  EXPECT_LE(longest.size(), kCachefilesMessageBytesMax);
  const auto open = BodyOf<CachefilesOpen>(longest);
  EXPECT_EQ(open.volume_key, std::string(255, 'v'));
  EXPECT_EQ(open.cookie_key.size(), 255u);
  EXPECT_EQ(open.fd, INT_MAX);
  EXPECT_EQ(BodyOf<CachefilesOpen>(PackedOpen("\0"s, "c", 0)).volume_key, "") << "fscache takes an empty one";
}

TEST(CachefilesParseTest, AnyAlignmentWillDo) {
  for (size_t shift = 0; shift < 8; ++shift) {
    const std::string bytes = std::string(shift, 'x') + PackedRead(4096, 8192);
    EXPECT_EQ(BodyOf<CachefilesRead>(std::string_view(bytes).substr(shift)).length, 8192u);
  }
}

TEST(CachefilesParseTest, WhatIsShorterThanAHeaderIsNoMessage) {
  const std::string close = Packed(CACHEFILES_OP_CLOSE, "");
  for (size_t size = 0; size < close.size(); ++size) EXPECT_FALSE(Parse(close.substr(0, size))) << size;
}

TEST(CachefilesParseTest, TheLengthIsWhatWasRead) {
  for (std::string bytes : {PackedOpen("v\0"s, "c"), PackedRead(0, 1), Packed(CACHEFILES_OP_CLOSE, "")}) {
    const auto length = static_cast<uint32_t>(bytes.size());
    for (uint32_t wrong : {length - 1, length + 1, uint32_t{kHeaderBytes - 1}, 0u, UINT32_MAX}) {
      Overwrite(bytes, kLengthAt, wrong);
      MalformedFd(bytes);
      EXPECT_EQ(Parse(bytes)->header.id, 7u) << "it can still be answered";
    }
  }
}

TEST(CachefilesParseTest, TheDescriptorOfABadOpenIsToldIfItIsThere) {
  const std::string good = PackedOpen("v\0"s, "c");
  EXPECT_EQ(MalformedFd(good + "x"), 5);
  EXPECT_EQ(MalformedFd(good.substr(0, good.size() - 1)), 5);
  EXPECT_EQ(MalformedFd(good.substr(0, kHeaderBytes + sizeof(cachefiles_open))), 5);
  EXPECT_EQ(MalformedFd(good.substr(0, kHeaderBytes + sizeof(cachefiles_open) - 1)), -1);
  const std::string read = PackedRead(5, 5);
  EXPECT_EQ(MalformedFd(read + "x"), -1) << "a READ has none";
}

TEST(CachefilesParseTest, AnOpenHasAllItsFields) {
  EXPECT_EQ(MalformedFd(Packed(CACHEFILES_OP_OPEN, "")), -1);
  EXPECT_EQ(MalformedFd(Packed(CACHEFILES_OP_OPEN, std::string(sizeof(cachefiles_open) - 1, '\1'))), -1);
}

TEST(CachefilesParseTest, KeysFillTheMessageExactly) {
  const std::string good = PackedOpen("vol\0"s, "cookie");
  const std::map<std::string, std::pair<uint32_t, uint32_t>> sizes = {
      {"volume too long", {11, 6}},
      {"cookie too long", {4, 7}},
      {"something left", {4, 5}},
      {"volume huge", {UINT32_MAX, 6}},
      {"cookie huge", {4, UINT32_MAX}},
      {"the sum wraps to what is there", {UINT32_MAX - 3, 14}},
      {"the sum wraps, the other way", {14, UINT32_MAX - 3}},
      {"no volume", {0, 10}},
      {"no cookie", {10, 0}},
      {"nothing", {0, 0}},
  };
  for (const auto& [what, pair] : sizes) {
    std::string bytes = good;
    Overwrite(bytes, kVolumeSizeAt, pair.first);
    Overwrite(bytes, kCookieSizeAt, pair.second);
    EXPECT_EQ(MalformedFd(bytes), 5) << what;
  }
  EXPECT_EQ(MalformedFd(PackedOpen("", "c")), 5);
  EXPECT_EQ(MalformedFd(PackedOpen("v\0"s, "")), 5);
}

TEST(CachefilesParseTest, AVolumeKeyEndsInItsOnlyNul) {
  EXPECT_EQ(MalformedFd(PackedOpen("vol", "cookie")), 5);
  EXPECT_EQ(MalformedFd(PackedOpen("v\0l\0"s, "cookie")), 5);
  EXPECT_EQ(MalformedFd(PackedOpen("v\0l"s, "cookie")), 5);
  EXPECT_EQ(MalformedFd(PackedOpen("\0\0"s, "cookie")), 5);
}

TEST(CachefilesParseTest, ADescriptorIsNotNegative) {
  EXPECT_EQ(MalformedFd(PackedOpen("v\0"s, "c", UINT32_MAX)), -1);
  EXPECT_EQ(MalformedFd(PackedOpen("v\0"s, "c", 0x80000000u)), -1);
}

TEST(CachefilesParseTest, ReadsHaveOneSizeAndARange) {
  const std::string fields(sizeof(cachefiles_read), '\1');
  MalformedFd(Packed(CACHEFILES_OP_READ, ""));
  MalformedFd(Packed(CACHEFILES_OP_READ, fields.substr(1)));
  MalformedFd(Packed(CACHEFILES_OP_READ, fields + "x"));
  MalformedFd(PackedRead(4096, 0));
  MalformedFd(PackedRead(UINT64_MAX, 1));
  MalformedFd(PackedRead(1, UINT64_MAX));
  MalformedFd(PackedRead(INT64_MAX, 1));
  MalformedFd(PackedRead(1, INT64_MAX));
  EXPECT_EQ(BodyOf<CachefilesRead>(PackedRead(INT64_MAX - 1, 1)).length, 1u);
  EXPECT_EQ(BodyOf<CachefilesRead>(PackedRead(0, INT64_MAX)).length, uint64_t{INT64_MAX});
}

TEST(CachefilesParseTest, ACloseHasNoData) {
  MalformedFd(Packed(CACHEFILES_OP_CLOSE, "x"));
}

TEST(CachefilesParseTest, UnknownKindsKeepTheirHeader) {
  for (uint32_t opcode : {3u, UINT32_MAX}) {
    const std::string bytes = Packed(opcode, std::string(sizeof(cachefiles_open), '\1'));
    EXPECT_EQ(MalformedFd(bytes), -1) << "what would be an OPEN's descriptor is none";
    EXPECT_EQ(Parse(bytes)->header.opcode, opcode);
    EXPECT_EQ(Parse(bytes)->header.id, 7u);
  }
}

TEST(CachefilesCommandTest, Copen) {
  EXPECT_EQ(CopenCommand(0, 0).value(), "copen 0,0");
  EXPECT_EQ(CopenCommand(UINT32_MAX, 123456789012).value(), "copen 4294967295,123456789012");
  const uint64_t largest = uint64_t{INT64_MAX} - 4095;
  EXPECT_EQ(CopenCommand(1, largest).value(), "copen 1,9223372036854771712");
  EXPECT_EQ(CopenCommand(1, largest + 1).error().code, EINVAL);
  EXPECT_EQ(CopenCommand(1, UINT64_MAX).error().code, EINVAL);
}

TEST(CachefilesCommandTest, CopenErrorAlwaysAnswers) {
  EXPECT_EQ(CopenErrorCommand(8, ENOENT), "copen 8,-2");
  EXPECT_EQ(CopenErrorCommand(8, 4095), "copen 8,-4095");
  for (int none : {0, -1, 4096, INT_MAX, INT_MIN})
    EXPECT_EQ(CopenErrorCommand(8, none), "copen 8,-5") << none;
}

TEST(CachefilesCommandTest, EntriesOfTheWorkingDirectory) {
  EXPECT_EQ(CullCommand("D0123").value(), "cull D0123");
  EXPECT_EQ(InuseCommand("@a0").value(), "inuse @a0");
  EXPECT_EQ(CullCommand("two words ").value(), "cull two words ");
  EXPECT_TRUE(CullCommand(std::string(255, 'x')).ok());
  const std::string bad[] = {"",     ".",   "..", "a/b", "/",  "a\nb",  "a\0b"s,
                             "\n"s,  "\0"s, " a", "\ta", "\v", "\xa0x", std::string(256, 'x'),
                             "a\n"s, "a\0"s};
  for (const std::string& name : bad) {
    EXPECT_FALSE(CullCommand(name).ok()) << testing::PrintToString(name);
    EXPECT_FALSE(InuseCommand(name).ok()) << testing::PrintToString(name);
  }
}

std::string PathOf(size_t size) {
  std::string path(size, 'x');
  path[0] = '/';
  return path;
}

TEST(CachefilesCommandTest, Configuration) {
  EXPECT_EQ(DirCommand("/var/lib/sluice cache").value(), "dir /var/lib/sluice cache");
  for (const std::string& path : {""s, "relative"s, " /x"s, "/x\n"s, "/\0"s, PathOf(4092)}) {
    EXPECT_FALSE(DirCommand(path).ok()) << testing::PrintToString(path);
  }
  EXPECT_EQ(DirCommand(PathOf(4092)).error().code, EINVAL);
  EXPECT_EQ(DirCommand(PathOf(4091)).value().size(), kCachefilesCommandBytesMax);
  EXPECT_EQ(TagCommand("sluice").value(), "tag sluice");
  EXPECT_EQ(TagCommand(std::string(4091, 'x')).value().size(), kCachefilesCommandBytesMax);
  for (const std::string& tag : {""s, " x"s, "x\n"s, std::string(4092, 'x'), std::string(5000, 'x')}) {
    EXPECT_FALSE(TagCommand(tag).ok()) << testing::PrintToString(tag);
  }
  EXPECT_EQ(kBindCommand, "bind ondemand");
  EXPECT_EQ(kRestoreCommand, "restore");
}

using Commands = std::array<std::string, 3>;

TEST(CachefilesCommandTest, LimitsAreNamedAfterTheirResource) {
  EXPECT_EQ(LimitCommands(CachefilesResource::kBlocks, {}).value(),
            (Commands{"brun 7%", "bcull 5%", "bstop 1%"}));
  EXPECT_EQ(LimitCommands(CachefilesResource::kFiles, {.run = 3, .cull = 2, .stop = 0}).value(),
            (Commands{"fstop 0%", "fcull 2%", "frun 3%"}));
}

// Every triple there is, given to what daemon.c does with each command.
TEST(CachefilesCommandTest, TheKernelTakesLimitsInTheirOrder) {
  for (uint32_t run = 0; run <= 101; ++run) {
    for (uint32_t cull = 0; cull <= 101; ++cull) {
      for (uint32_t stop = 0; stop <= 101; ++stop) {
        Result<Commands> commands =
            LimitCommands(CachefilesResource::kBlocks, {.run = run, .cull = cull, .stop = stop});
        const bool valid = stop < cull && cull < run && run < 100;
        ASSERT_EQ(commands.ok(), valid) << run << " " << cull << " " << stop;
        if (!valid) continue;
        CachefilesLimits now;
        for (const std::string& command : commands.value()) {
          const auto value = static_cast<uint32_t>(std::stoul(command.substr(command.find(' '))));
          if (command.starts_with("brun ")) {
            ASSERT_TRUE(value > now.cull && value < 100) << command;
            now.run = value;
          } else if (command.starts_with("bcull ")) {
            ASSERT_TRUE(value > now.stop && value < now.run) << command;
            now.cull = value;
          } else {
            ASSERT_TRUE(command.starts_with("bstop ") && value < now.cull) << command;
            now.stop = value;
          }
        }
        ASSERT_TRUE(now.run == run && now.cull == cull && now.stop == stop)
            << run << " " << cull << " " << stop;
      }
    }
  }
}

}  // namespace
}  // namespace sluice::keeper
