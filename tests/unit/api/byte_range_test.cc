#include "api/http/byte_range.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <variant>

namespace sluice::api {
namespace {

constexpr uint64_t kMax = UINT64_MAX;

std::string Text(const RequestedRange& range) {
  if (std::holds_alternative<WholeRange>(range)) return "whole";
  if (std::holds_alternative<UnsatisfiableRange>(range)) return "416";
  const ByteRange& part = std::get<ByteRange>(range);
  return std::to_string(part.offset) + "+" + std::to_string(part.length);
}

TEST(ByteRangeTest, RangesAreReadAsTheStandardSays) {
  const struct {
    const char* header;
    uint64_t size;
    const char* range;
  } kCases[] = {
      // RFC 9110 section 14.1.2, its own examples.
      {"bytes=0-499", 10000, "0+500"},
      {"bytes=500-999", 10000, "500+500"},
      {"bytes=-500", 10000, "9500+500"},
      {"bytes=9500-", 10000, "9500+500"},
      // Cut to the end.
      {"bytes=0-", 1, "0+1"},
      {"bytes=0-0", 1, "0+1"},
      {"bytes=0-1", 1, "0+1"},
      {"bytes=0-18446744073709551615", 10, "0+10"},
      {"bytes=3-99999999999999999999999", 10, "3+7"},
      {"bytes=-10", 10, "0+10"},
      {"bytes=-11", 10, "0+10"},
      {"bytes=-99999999999999999999999", 10, "0+10"},
      {"bytes=0-", kMax, "0+18446744073709551615"},
      {"bytes=18446744073709551614-", kMax, "18446744073709551614+1"},
      {"bytes=-1", kMax, "18446744073709551614+1"},
      {"bytes=0-18446744073709551614", kMax, "0+18446744073709551615"},
      {"bytes=00000000000000000000000000-0009", 10, "0+10"},
      // Units are compared without regard to case; others are none of ours.
      {"BYTES=1-2", 10, "1+2"},
      {"Bytes=1-2", 10, "1+2"},
      {"items=1-2", 10, "whole"},
      {"byte=1-2", 10, "whole"},
      {"bytess=1-2", 10, "whole"},
      {"bytes 1-2", 10, "whole"},
      {"bytes", 10, "whole"},
      {"=1-2", 10, "whole"},
      {"", 10, "whole"},
      {"bytes:1-2", 10, "whole"},
      {" bytes = 1-2 ", 10, "1+2"},
      {"bytes=\t1-2\t", 10, "1+2"},
      // Past the end.
      {"bytes=10-", 10, "416"},
      {"bytes=10-10", 10, "416"},
      {"bytes=11-12", 10, "416"},
      {"bytes=18446744073709551615-", 10, "416"},
      {"bytes=18446744073709551615-", kMax, "416"},
      {"bytes=99999999999999999999999-", kMax, "416"},
      // Empty or backwards.
      {"bytes=-0", 10, "416"},
      {"bytes=5-4", 10, "416"},
      {"bytes=-", 10, "416"},
      {"bytes=", 10, "416"},
      {"bytes==1-2", 10, "416"},
      // Malformed.
      {"bytes=1", 10, "416"},
      {"bytes=a-b", 10, "416"},
      {"bytes=1-b", 10, "416"},
      {"bytes=+1-2", 10, "416"},
      {"bytes=1-+2", 10, "416"},
      {"bytes=--1", 10, "416"},
      {"bytes=-1-2", 10, "416"},
      {"bytes=1-2-3", 10, "416"},
      {"bytes=1 - 2", 10, "416"},
      {"bytes=0x1-0x2", 10, "416"},
      {"bytes=1.0-2", 10, "416"},
      {"bytes=1-2;q=1", 10, "416"},
      // Several at once are refused, whatever they are.
      {"bytes=0-0,2-3", 10, "416"},
      {"bytes=0-0, -1", 10, "416"},
      {"bytes=0-9,0-9,0-9,0-9", 10, "416"},
      {"bytes=,1-2", 10, "416"},
      {"bytes=1-2,", 10, "416"},
  };
  for (const auto& [header, size, range] : kCases) EXPECT_EQ(Text(ParseRange(header, size)), range) << header;
}

TEST(ByteRangeTest, NulBytesAreNoDigits) {
  EXPECT_EQ(Text(ParseRange(std::string_view("bytes=0\0-1", 10), 10)), "416");
  EXPECT_EQ(Text(ParseRange(std::string_view("bytes\0=0-1", 10), 10)), "whole");
}

}  // namespace
}  // namespace sluice::api
