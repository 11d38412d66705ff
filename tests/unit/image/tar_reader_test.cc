#include "node/image/tar_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/unit/image/read_layer.h"
#include "tests/unit/image/tar_bytes.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

// The only entry of an archive.
EntryRead One(const std::string& archive) {
  absl::StatusOr<std::vector<EntryRead>> entries = ReadTar(archive + tar::kEnd);
  EXPECT_EQ(entries.status(), absl::OkStatus());
  if (!entries.ok() || entries->size() != 1) {
    ADD_FAILURE() << "not one entry";
    return {};
  }
  return entries->front();
}

absl::Status StatusOf(const std::string& archive, LayerLimits limits = {}) {
  return ReadTar(archive, limits).status();
}

void ExpectRefused(const std::string& archive, const std::string& why, const std::string& name = "") {
  const absl::Status status = StatusOf(archive);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  EXPECT_THAT(std::string(status.message()), HasSubstr(name));
}

std::vector<std::string> PathsOf(const absl::StatusOr<std::vector<EntryRead>>& entries) {
  EXPECT_EQ(entries.status(), absl::OkStatus());
  std::vector<std::string> paths;
  if (entries.ok()) {
    for (const EntryRead& read : *entries) paths.push_back(read.entry.path);
  }
  return paths;
}

TEST(TarReaderTest, ReadsEveryKindOfEntry) {
  const auto entries =
      ReadTar(tar::Entry({.name = "./", .type = '5', .mode = 0755, .mtime = 1}) +
              tar::Entry({.name = "file", .mode = 04751, .uid = 1000, .gid = 2000, .mtime = 44}, "contents") +
              tar::Entry({.name = "link", .type = '2', .mode = 0777, .link = "file"}) +
              tar::Entry({.name = "hard", .type = '1', .link = "./file"}) +
              tar::Entry({.name = "char", .type = '3', .major = 5, .minor = 1}) +
              tar::Entry({.name = "block", .type = '4', .major = 4095, .minor = 1048575}) +
              tar::Entry({.name = "fifo", .type = '6'}) +
              tar::Entry({.name = "contiguous", .type = '7'}, "c") + tar::kEnd);
  ASSERT_EQ(entries.status(), absl::OkStatus());
  ASSERT_THAT(*entries, SizeIs(8));
  const auto entry = [&](size_t i) { return (*entries)[i].entry; };
  EXPECT_EQ(entry(0).kind, EntryKind::kDirectory);
  EXPECT_EQ(entry(0).path, "./");
  EXPECT_EQ(entry(0).attributes.permissions, 0755);
  EXPECT_EQ(entry(1).kind, EntryKind::kRegular);
  EXPECT_EQ(entry(1).size, 8u);
  EXPECT_EQ((*entries)[1].Contents(), "contents");
  EXPECT_EQ(entry(1).attributes,
            (FileAttributes{.uid = 1000, .gid = 2000, .permissions = 04751, .mtime_s = 44, .xattrs = {}}));
  EXPECT_EQ(entry(2).kind, EntryKind::kSymlink);
  EXPECT_EQ(entry(2).target, "file");
  EXPECT_EQ(entry(3).kind, EntryKind::kHardLink);
  EXPECT_EQ(entry(3).target, "./file");
  EXPECT_EQ(entry(4).kind, EntryKind::kCharDevice);
  EXPECT_EQ(entry(4).device_major, 5u);
  EXPECT_EQ(entry(4).device_minor, 1u);
  EXPECT_EQ(entry(5).kind, EntryKind::kBlockDevice);
  EXPECT_EQ(entry(5).device_major, 4095u);
  EXPECT_EQ(entry(5).device_minor, 1048575u);
  EXPECT_EQ(entry(6).kind, EntryKind::kFifo);
  EXPECT_EQ(entry(7).kind, EntryKind::kRegular);
  EXPECT_EQ((*entries)[7].Contents(), "c");
}

TEST(TarReaderTest, NamesAreBytes) {
  const std::string odd = "caf\xc3\xa9/cafe\xcc\x81\n\xff\xfe\t\"\\ \x1f\x8b";
  EXPECT_EQ(One(tar::File(odd, "")).entry.path, odd);
  EXPECT_EQ(One(tar::Pax({{"path", odd}, {"linkpath", odd + "="}}) + tar::Entry({.name = "x", .type = '2'}))
                .entry.path,
            odd);
  EXPECT_EQ(One(tar::Pax({{"path", odd}, {"linkpath", odd + "="}}) + tar::Entry({.name = "x", .type = '2'}))
                .entry.target,
            odd + "=");
  EXPECT_EQ(One(tar::Pax({{"hdrcharset", "BINARY"}, {"path", odd}}) + tar::File("x", "")).entry.path, odd);
  EXPECT_EQ(One(tar::Long('L', odd) + tar::File("x", "")).entry.path, odd);
}

TEST(TarReaderTest, JoinsPrefixesOfUstarOnly) {
  const std::string name = tar::Repeated(100, 'n');
  const std::string prefix = tar::Repeated(155, 'p');
  EXPECT_EQ(One(tar::Entry({.name = name, .prefix = prefix})).entry.path, prefix + "/" + name);
  EXPECT_EQ(One(tar::Entry({.name = name, .magic = tar::kV7, .prefix = prefix})).entry.path, name);
  // star has times behind a shorter prefix.
  const std::string trailer("tar\0", 4);
  EXPECT_EQ(One(tar::Entry({.name = name,
                            .prefix = tar::Repeated(131, 'p'),
                            .raw = {{476, "00000000001 00000000002 "}, {508, trailer}}}))
                .entry.path,
            tar::Repeated(131, 'p') + "/" + name);
  // GNU's times.
  EXPECT_EQ(
      One(tar::Entry({.name = name, .magic = tar::kGnu, .prefix = "00000000001 00000000002 "})).entry.path,
      name);
  // Go before 1.8.
  EXPECT_EQ(One(tar::Entry({.name = name, .magic = tar::kGnu, .prefix = "usr/share"})).entry.path,
            "usr/share/" + name);
  EXPECT_EQ(One(tar::Entry({.name = name, .magic = tar::kGnu, .prefix = "\xc3\xa9t\xc3\xa9"})).entry.path,
            name);
}

TEST(TarReaderTest, KnowsDirectoriesOfV7) {
  EXPECT_EQ(One(tar::Entry({.name = "d/", .type = '\0', .magic = tar::kV7})).entry.kind,
            EntryKind::kDirectory);
  EXPECT_EQ(One(tar::Entry({.name = "f", .type = '\0', .magic = tar::kV7}, "x")).entry.kind,
            EntryKind::kRegular);
  EXPECT_EQ(One(tar::Pax({{"path", "long/"}}) + tar::Entry({.name = "d", .type = '\0'})).entry.kind,
            EntryKind::kDirectory);
  EXPECT_EQ(One(tar::Entry({.name = "f/", .type = '0'}, "x")).entry.kind, EntryKind::kRegular);
}

TEST(TarReaderTest, LinksAndDirectoriesHaveNoContentsWhateverTheirSize) {
  for (const char type : {'1', '2', '3', '4', '5', '6'}) {
    const auto entries = ReadTar(tar::Header({.name = "a", .type = type, .size = 700, .link = "z"}) +
                                 tar::File("b", "contents") + tar::kEnd);
    ASSERT_THAT(PathsOf(entries), ElementsAre("a", "b")) << type;
    EXPECT_EQ((*entries)[0].entry.size, 0u);
    EXPECT_EQ((*entries)[1].Contents(), "contents");
  }
}

TEST(TarReaderTest, ReadsNumbersInEveryForm) {
  // Far and negative times, large owners.
  const LayerEntry binary =
      One(tar::Entry({.name = "a", .uid = 0xfffffffe, .gid = int64_t{1} << 31, .mtime = -1})).entry;
  EXPECT_EQ(binary.attributes.uid, 0xfffffffe);
  EXPECT_EQ(binary.attributes.gid, 1u << 31);
  EXPECT_EQ(binary.attributes.mtime_s, -1);
  EXPECT_EQ(One(tar::Entry({.name = "a", .mtime = int64_t{1} << 40})).entry.attributes.mtime_s,
            int64_t{1} << 40);
  EXPECT_EQ(
      One(tar::Entry({.name = "a", .mtime = std::numeric_limits<int64_t>::min()})).entry.attributes.mtime_s,
      std::numeric_limits<int64_t>::min());
  // Blanks in front and behind, no terminator at all, nothing.
  for (const auto& [field, value] : std::map<std::string, uint32_t>{{"   644  ", 0644},
                                                                    {std::string("\0\0000755\0", 8), 0755},
                                                                    {"00000755", 0755},
                                                                    {std::string("644\0junk", 8), 0644},
                                                                    {std::string(8, '\0'), 0},
                                                                    {std::string(8, ' '), 0},
                                                                    {std::string("644 \0 12", 8), 0644},
                                                                    {"0100644 ", 0644}}) {
    EXPECT_EQ(One(tar::Entry({.name = "a", .raw = {{100, field.substr(0, 8)}}})).entry.attributes.permissions,
              value)
        << field;
  }
}

TEST(TarReaderTest, RefusesNumbersThatNoFileCanHave) {
  const std::string wide = "\x80" + tar::Repeated(2, '\0') + "\x01" + tar::Repeated(8, '\0');  // 2^64
  for (const auto& [archive, why] : std::vector<std::pair<std::string, std::string>>{
           {tar::Entry({.name = "a\xff", .uid = 0xffffffff}), "its uid is 4294967295"},
           {tar::Entry({.name = "a\xff", .uid = int64_t{1} << 32}), "its uid is 4294967296"},
           {tar::Entry({.name = "a\xff", .gid = 0xffffffff}), "its gid is 4294967295"},
           {tar::Entry({.name = "a\xff", .uid = -5}), "its uid is -5"},
           {tar::Pax({{"uid", "4294967296"}}) + tar::File("a\xff", ""), "its uid is 4294967296"},
           {tar::Pax({{"gid", "4294968296"}}) + tar::File("a\xff", ""), "its gid is 4294968296"},
           {tar::Pax({{"gid", "-1"}}) + tar::File("a\xff", ""), "its gid is -1"},
           {tar::Pax({{"uid", "18446744073709551616"}}) + tar::File("a\xff", ""),
            "its uid is no number of 64 bits"},
           {tar::Pax({{"uid", "1e3"}}) + tar::File("a\xff", ""), "its uid is no number of 64 bits"},
           {tar::Pax({{"size", "9223372036854775808"}}) + tar::File("a\xff", ""),
            "its size is no number of 64 bits"},
           {tar::Pax({{"size", "-1"}}) + tar::File("a\xff", ""), "its size is negative"},
           {tar::Entry({.name = "a\xff", .size = -512}), "its size is negative"},
           {tar::Header({.name = "a\xff", .raw = {{124, wide}}}), "its size is no number of 64 bits"},
           {tar::Header({.name = "a\xff", .raw = {{136, wide}}}), "its time is no number of 64 bits"},
           {tar::Header({.name = "a\xff", .raw = {{100, "0000648\0"}}}), "its mode is no number of 64 bits"},
           {tar::Header({.name = "a\xff", .raw = {{124, "00000001 013"}}}),
            "its size is no number of 64 bits"},
           {tar::Header({.name = "a\xff", .raw = {{108, "-000001\0"}}}), "its user is no number of 64 bits"},
           {tar::Pax({{"mtime", "1.2.3"}}) + tar::File("a\xff", ""), "its mtime is no time"},
           {tar::Pax({{"mtime", ".5"}}) + tar::File("a\xff", ""), "its mtime is no time"},
           {tar::Pax({{"mtime", "9223372036854775808"}}) + tar::File("a\xff", ""), "its mtime is no time"},
           {tar::Pax({{"mtime", "-9223372036854775808.5"}}) + tar::File("a\xff", ""), "its mtime is no time"},
           {tar::Entry({.name = "a\xff", .type = '3', .major = 4096}), "a device number of 4096"},
           {tar::Entry({.name = "a\xff", .type = '4', .minor = 1048576}), "a device number of 1048576"},
           {tar::Entry({.name = "a\xff", .type = '4', .minor = -1}), "a device number of -1"},
       }) {
    ExpectRefused(archive + tar::kEnd, why, R"(layer entry "a\xff")");
  }
}

TEST(TarReaderTest, IgnoresDeviceNumbersOfWhatIsNoDevice) {
  EXPECT_EQ(One(tar::Entry({.name = "a", .raw = {{329, "anything"}}}, "x")).Contents(), "x");
}

TEST(TarReaderTest, TakesValuesOfExtendedHeaders) {
  const EntryRead read = One(tar::Pax({{"path", "long"},
                                       {"size", "3"},
                                       {"uid", "4294967294"},
                                       {"gid", "7"},
                                       {"mtime", "-1.5"},
                                       {"SCHILY.xattr.user.a", std::string("\0\n=b", 4)},
                                       {"SCHILY.xattr.user.empty", ""},
                                       {"SCHILY.xattr.user.\xff=", "v"},
                                       {"atime", "1"},
                                       {"uname", "root"},
                                       {"comment", ""}}) +
                             tar::Header({.name = "short", .size = 3}) + tar::Padded("abc"));
  EXPECT_EQ(read.entry.path, "long");
  EXPECT_EQ(read.Contents(), "abc");
  EXPECT_EQ(read.entry.attributes.uid, 4294967294u);
  EXPECT_EQ(read.entry.attributes.gid, 7u);
  EXPECT_EQ(read.entry.attributes.mtime_s, -2);
  EXPECT_EQ(read.entry.attributes.mtime_ns, 500000000u);
  // A key ends at the first "=".
  EXPECT_THAT(read.entry.attributes.xattrs, ElementsAre(Pair("user.a", std::string("\0\n=b", 4)),
                                                        Pair("user.empty", ""), Pair("user.\xff", "=v")));
}

TEST(TarReaderTest, ReadsTimesOfExtendedHeaders) {
  const auto time = [](const std::string& text) {
    const FileAttributes read = One(tar::Pax({{"mtime", text}}) + tar::File("a", "")).entry.attributes;
    return std::pair(read.mtime_s, read.mtime_ns);
  };
  EXPECT_EQ(time("12"), std::pair(int64_t{12}, 0u));
  EXPECT_EQ(time("12."), std::pair(int64_t{12}, 0u));
  EXPECT_EQ(time("12.000000001"), std::pair(int64_t{12}, 1u));
  EXPECT_EQ(time("12.1234567899"), std::pair(int64_t{12}, 123456789u));
  EXPECT_EQ(time("12.5"), std::pair(int64_t{12}, 500000000u));
  EXPECT_EQ(time("-1.25"), std::pair(int64_t{-2}, 750000000u));
  EXPECT_EQ(time("-0.5"), std::pair(int64_t{-1}, 500000000u));
  EXPECT_EQ(time("-1.000"), std::pair(int64_t{-1}, 0u));
  EXPECT_EQ(time("-1"), std::pair(int64_t{-1}, 0u));
  EXPECT_EQ(time("9223372036854775807.999999999"),
            std::pair(std::numeric_limits<int64_t>::max(), 999999999u));
}

TEST(TarReaderTest, ReadsXattrsOfBsdtar) {
  const auto xattrs = One(tar::Pax({{"LIBARCHIVE.xattr.user.a%3Db%25", "AAEC/w"},
                                    {"LIBARCHIVE.xattr.user.padded", "AA=="},
                                    {"LIBARCHIVE.xattr.user.both", "AAEC"},
                                    {"SCHILY.xattr.user.both", "raw"}}) +
                          tar::File("a", ""))
                          .entry.attributes.xattrs;
  EXPECT_THAT(xattrs, ElementsAre(Pair("user.a=b%", std::string("\0\1\2\xff", 4)), Pair("user.both", "raw"),
                                  Pair("user.padded", std::string(1, '\0'))));
  for (const auto& [key, value] :
       tar::Records{{"user.a%3", "AAEC"}, {"user.a%zz", ""}, {"user.a%00", ""}, {"user.a", "*"}}) {
    ExpectRefused(tar::Pax({{"LIBARCHIVE.xattr." + key, value}}) + tar::File("name", ""), "can't be decoded",
                  "name");
  }
}

TEST(TarReaderTest, BoundsXattrsOfAFile) {
  const std::string archive =
      tar::Pax({{"SCHILY.xattr.user.a", tar::Repeated(94, 'v')}}) + tar::File("name", "");
  LayerLimits limits;
  limits.xattr_bytes_max = 100;
  EXPECT_EQ(StatusOf(archive, limits), absl::OkStatus());
  limits.xattr_bytes_max = 99;
  const absl::Status status = StatusOf(archive, limits);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"name\""));
}

TEST(TarReaderTest, AppliesExtensionsToTheNextEntryOnly) {
  const auto entries = ReadTar(tar::Pax({{"path", "pax"}, {"SCHILY.xattr.user.a", "1"}}) +
                               tar::File("a", "") + tar::File("b", "") + tar::Long('L', "gnu") +
                               tar::File("c", "") + tar::File("d", "") + tar::kEnd);
  EXPECT_THAT(PathsOf(entries), ElementsAre("pax", "b", "gnu", "d"));
  EXPECT_THAT((*entries)[1].entry.attributes.xattrs, IsEmpty());
}

// As Go's archive/tar has it.
TEST(TarReaderTest, OfExtensionsInARowTheLastCountsAndGnuBeforePax) {
  const EntryRead pax =
      One(tar::Pax({{"path", "first"}, {"uid", "5"}}) + tar::Pax({{"path", "second"}}) + tar::File("a", ""));
  EXPECT_EQ(pax.entry.path, "second");
  EXPECT_EQ(pax.entry.attributes.uid, 0u);
  EXPECT_EQ(One(tar::Long('L', "one") + tar::Long('L', "two") + tar::File("a", "")).entry.path, "two");
  const EntryRead both =
      One(tar::Long('K', "link") + tar::Long('L', "gnu") + tar::Pax({{"path", "pax"}, {"linkpath", "pax"}}) +
          tar::Entry({.name = "a", .type = '2'}));
  EXPECT_EQ(both.entry.path, "gnu");
  EXPECT_EQ(both.entry.target, "link");
  EXPECT_EQ(One(tar::Pax({{"path", ""}}) + tar::File("a", "")).entry.path, "a");
  EXPECT_EQ(One(tar::Pax({{"path", "x"}, {"path", ""}}) + tar::File("a", "")).entry.path, "a");
}

// No runtime applies them, and GNU tar would: what a container sees counts.
TEST(TarReaderTest, ReadsGlobalHeadersAndDoesNotApplyThem) {
  const auto entries =
      ReadTar(tar::Pax({{"comment", "c0ffee"}, {"path", "other"}, {"mtime", "5"}}, 'g') +
              tar::File("a", "1") + tar::Pax({{"path", "b"}}) + tar::Pax({{"uid", "9"}}, 'g') +
              tar::File("x", "2") + tar::Pax({}, 'g') + tar::kEnd);
  EXPECT_THAT(PathsOf(entries), ElementsAre("a", "b"));
  EXPECT_EQ((*entries)[0].entry.attributes.mtime_s, 1000000000);
  EXPECT_EQ((*entries)[1].entry.attributes.uid, 0u);
  ExpectRefused(tar::PaxBody("nonsense", 'g') + tar::File("a", ""), "a record without a length");
}

TEST(TarReaderTest, SaysWhatWasNotTaken) {
  MemoryStream stream(tar::Pax({{"comment", "c0ffee"}, {"atime", "1"}}, 'g') + tar::File("a", "") +
                      tar::Pax({{"atime", "1"}, {"uname", "root"}, {"SCHILY.xattr.user.a", "1"}}) +
                      tar::File("b", "") + tar::Pax({{"SCHILY.acl.access", "user::rwx"}}) +
                      tar::File("c", "") + tar::Pax({{"RHT.security.selinux", "label"}}) +
                      tar::File("d", "") + tar::Pax({{"mtime", "1"}, {"SCHILY.xattr.user.a", "1"}}, 'g'));
  LayerUsage usage;
  TarReader reader(stream, {}, usage);
  LayerEntry entry;
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(reader.Next(entry).value_or(false));
  EXPECT_EQ(reader.notices().Of(NoticeKind::kForeignRecord).count, 0u);
  ASSERT_EQ(ReadAll(reader).status(), absl::OkStatus());
  EXPECT_EQ(reader.notices().Of(NoticeKind::kForeignRecord).count, 4u);
  EXPECT_EQ(reader.notices().Of(NoticeKind::kForeignRecord).first, R"("c": "SCHILY.acl.access")");

  Notices earlier;
  earlier.Add(NoticeKind::kReservedName, "r", "");
  earlier.Merge(reader.notices());
  earlier.Merge(reader.notices());
  EXPECT_EQ(earlier.Of(NoticeKind::kReservedName).count, 1u);
  EXPECT_EQ(earlier.Of(NoticeKind::kReservedName).first, "\"r\"");
  EXPECT_EQ(earlier.Of(NoticeKind::kForeignRecord).count, 8u);
  EXPECT_EQ(earlier.Of(NoticeKind::kForeignRecord).first, R"("c": "SCHILY.acl.access")");
}

TEST(TarReaderTest, RefusesUnsoundExtendedHeaders) {
  const auto refused = [](const std::string& body, const std::string& why) {
    ExpectRefused(tar::File("before", "") + tar::PaxBody(body) + tar::File("a", ""), why,
                  R"(behind layer entry "before")");
  };
  refused("path=a\n", "without a length");
  refused(" 7 a=b\n", "without a length");
  refused("x a=b\n", "without a length");
  refused("99999999999999999999999 a=b\n", "without a length");
  refused("6 a=bc\n", "does not end where it says");
  refused("700 a=b\n", "does not end where it says");
  refused("1 a=b\n", "does not end where it says");
  refused("0 a=b\n", "does not end where it says");
  refused("6 abc\n", "without a key");
  refused(tar::Record("path", std::string("a\0b", 3)), "a NUL in it");
  refused(tar::Record("linkpath", std::string("a\0b", 3)), "a NUL in it");
  refused(tar::Record(std::string("SCHILY.xattr.user.a\0b", 21), "v"), "a NUL in it");
}

TEST(TarReaderTest, BoundsExtendedHeaders) {
  const std::string name = tar::Repeated((1 << 20) - 1, 'n');
  EXPECT_EQ(One(tar::Long('L', name) + tar::File("a", "")).entry.path, name);
  for (const char type : {'x', 'g', 'L', 'K'}) {
    const absl::Status status =
        StatusOf(tar::File("before", "") + tar::Entry({.name = "big", .type = type, .size = (1 << 20) + 1}) +
                 tar::kEnd);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("an extended header of 1048577 bytes"));
    ExpectRefused(tar::Header({.name = "a", .type = type, .size = -1}), "negative");
  }
}

TEST(TarReaderTest, RefusesWhatIsNoFile) {
  for (const char type : {'A', 'M', 'N', 'X', 'Z', '8', 's', '\xff'}) {
    ExpectRefused(tar::Entry({.name = "odd", .type = type}) + tar::kEnd, "which is no kind of file",
                  "layer entry \"odd\"");
  }
  // GNU's: the name of a volume, and a directory with the names in it.
  EXPECT_THAT(
      PathsOf(ReadTar(tar::Entry({.name = "volume", .type = 'V', .magic = tar::kGnu}) +
                      tar::Entry({.name = "d/", .type = 'D', .magic = tar::kGnu}, std::string("Yf\0\0", 4)) +
                      tar::File("d/f", "x") + tar::kEnd)),
      ElementsAre("d/", "d/f"));
}

TEST(TarReaderTest, ChecksChecksums) {
  std::string damaged = tar::File("a\xff\xfe", "x");
  damaged[0] = 'b';
  ExpectRefused(tar::File("before", "") + damaged + tar::kEnd, "damaged",
                R"(behind layer entry "before", at byte 512)");
  ExpectRefused(damaged, "at byte 0 of the layer's archive");
  // Some old tars summed signed bytes.
  std::string as_signed = tar::File("a\xff\xfe", "x");
  int64_t sum = 0;
  tar::Put(as_signed, 148, tar::Repeated(8, ' '));
  for (const char c : as_signed.substr(0, 512)) sum += static_cast<int8_t>(c);
  tar::Put(as_signed, 148, tar::Number(sum, 8));
  EXPECT_EQ(One(as_signed).entry.path, "a\xff\xfe");
}

TEST(TarReaderTest, EndsWhereAnArchiveMay) {
  const std::string files = tar::File("a", "first") + tar::File("bb", "hello");
  for (const std::string& archive :
       {files + tar::kEnd, files + tar::kEnd + "anything behind it", files, files + std::string(512, '\0'),
        files.substr(0, files.size() - 507), files.substr(0, files.size() - 100)}) {
    const auto entries = ReadTar(archive);
    ASSERT_THAT(PathsOf(entries), ElementsAre("a", "bb")) << archive.size();
    EXPECT_EQ((*entries)[1].Contents(), "hello");
  }
  EXPECT_THAT(PathsOf(ReadTar("")), IsEmpty());
  EXPECT_THAT(PathsOf(ReadTar(tar::kEnd)), IsEmpty());
}

TEST(TarReaderTest, RefusesAnArchiveThatIsCutOff) {
  const std::string files = tar::File("a", "first") + tar::File("bb", "hello");
  ExpectRefused(files.substr(0, files.size() - 508), "within its contents", "layer entry \"bb\"");
  ExpectRefused(files.substr(0, files.size() - 700), "within a header", "behind layer entry \"a\"");
  ExpectRefused(files + std::string(700, '\0'), "within a header");
  ExpectRefused(tar::File("a", "") + std::string(512, '\0') + tar::File("b", ""),
                "a block of zeros, and then something else");
  for (const std::string& extension :
       {tar::Pax({{"path", "lost"}}), tar::Long('L', "lost"), tar::Long('K', "lost")}) {
    ExpectRefused(extension, "no entry follows");
    ExpectRefused(extension + tar::kEnd, "no entry follows");
    ExpectRefused(extension.substr(0, 515), "within an extended header");
  }
}

// Whatever the place where it is cut off: an error, or what is complete.
TEST(TarReaderTest, NeverTakesAPartForTheWhole) {
  const std::string archive =
      tar::Entry({.name = "d/", .type = '5'}) + tar::Pax({{"path", "one"}}) + tar::File("x", "11111") +
      tar::Long('L', "two") + tar::File("x", tar::Repeated(600, '2')) +
      tar::Pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "9"}}) +
      tar::File("three", tar::Padded("1\n3\n5\n") + "33333") + tar::kEnd;
  const auto whole = ReadTar(archive);
  ASSERT_THAT(PathsOf(whole), ElementsAre("d/", "one", "two", "three"));
  for (size_t size = 0; size < archive.size(); ++size) {
    MemoryStream stream(archive.substr(0, size), 1 + size % 777);
    LayerUsage usage;
    TarReader reader(stream, {}, usage);
    std::vector<EntryRead> entries;
    const auto all = ReadAll(reader, &entries);
    if (all.ok()) entries = *all;
    ASSERT_LE(entries.size(), whole->size());
    for (size_t i = 0; i < entries.size(); ++i) {
      EXPECT_EQ(entries[i].entry.path, (*whole)[i].entry.path);
      EXPECT_EQ(entries[i].Contents(), (*whole)[i].Contents());
    }
    LayerEntry entry;
    if (!all.ok()) {
      EXPECT_EQ(reader.Next(entry).status(), all.status()) << "errors stay";
    } else {
      EXPECT_EQ(reader.Next(entry).value_or(true), false);
    }
  }
}

TEST(TarReaderTest, MissesContentsThatNobodyReads) {
  for (const size_t size : {size_t{512}, size_t{600}, size_t{1023}}) {
    MemoryStream stream(tar::File("a", tar::Repeated(512, 'a')).substr(0, size));
    LayerUsage usage;
    TarReader reader(stream, {}, usage);
    LayerEntry entry;
    ASSERT_TRUE(reader.Next(entry).value_or(false));
    EXPECT_EQ(reader.Next(entry).status(),
              absl::InvalidArgumentError("layer entry \"a\": the layer ends within its contents"));
  }
}

TEST(TarReaderTest, GoesOnOverContentsThatNobodyReads) {
  const std::string archive =
      tar::File("a", tar::Repeated(1 << 20, 'a')) + tar::File("b", "bytes") + tar::kEnd;
  MemoryStream stream(archive, 1000);
  LayerUsage usage;
  TarReader reader(stream, {}, usage);
  LayerEntry entry;
  ContentRun run;
  EXPECT_EQ(reader.NextRun(run).value_or(true), false) << "before the first entry";
  ASSERT_TRUE(reader.Next(entry).value_or(false));
  ASSERT_TRUE(reader.NextRun(run).value_or(false));
  ASSERT_TRUE(reader.Next(entry).value_or(false));
  const auto read = ReadContents(reader, entry);
  ASSERT_EQ(read.status(), absl::OkStatus());
  EXPECT_EQ(read->Contents(), "bytes");
  EXPECT_EQ(reader.Next(entry).value_or(true), false);
  EXPECT_EQ(reader.NextRun(run).value_or(true), false);
}

TEST(TarReaderTest, PassesErrorsOfTheArchiveWithTheEntrysName) {
  MemoryStream stream(tar::File("a", tar::Repeated(600, 'a')).substr(0, 700), 100,
                      absl::DataLossError("the disk is gone"));
  LayerUsage usage;
  TarReader reader(stream, {}, usage);
  EXPECT_EQ(ReadAll(reader).status(), absl::DataLossError("layer entry \"a\": the disk is gone"));
}

TEST(TarReaderTest, CountsWhatAllLayersHold) {
  LayerLimits limits;
  limits.entries_max = 3;
  limits.bytes_max = 10;
  LayerUsage usage;
  const auto read = [&](const std::string& archive) {
    MemoryStream stream(archive);
    TarReader reader(stream, limits, usage);
    return ReadAll(reader).status();
  };
  EXPECT_EQ(read(tar::File("a", "12345") + tar::Pax({{"uid", "1"}}) + tar::File("b", "123")),
            absl::OkStatus());
  EXPECT_EQ(usage.bytes, 8u);
  EXPECT_EQ(usage.entries, 2u);
  const absl::Status bytes = read(tar::File("c", "123"));
  EXPECT_EQ(bytes.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(bytes.message()),
              HasSubstr("layer entry \"c\": with it the image's files have more than 10 bytes"));
  EXPECT_EQ(read(tar::File("d", "12")), absl::OkStatus());
  EXPECT_EQ(read(tar::File("e", "")).code(), absl::StatusCode::kResourceExhausted);
}

// A log that is indexed by user, with an entry of the last one.
TEST(TarReaderTest, AFileMayHaveATerabyteOfHoles) {
  constexpr uint64_t kSize = 292 * ((uint64_t{1} << 32) - 1);
  const std::string size = std::to_string(kSize);
  const std::string map = std::to_string(kSize - 292) + ",292";
  const auto entries =
      ReadTar(tar::Pax({{"GNU.sparse.size", size}, {"GNU.sparse.map", map}, {"GNU.sparse.numblocks", "1"}}) +
              tar::File("lastlog", std::string(292, 'x')) + tar::kEnd);
  ASSERT_EQ(entries.status(), absl::OkStatus());
  EXPECT_EQ((*entries)[0].entry.size, kSize);
  EXPECT_EQ((*entries)[0].runs[0].first, kSize - 292);
}

// Sparse files, in each of GNU tar's forms: "aaa" at 2, "bb" at 1000, 1010 bytes.
const std::string kStored = "aaabb";

std::string Sparse00() {
  return tar::Pax({{"GNU.sparse.size", "1010"},
                   {"GNU.sparse.numblocks", "3"},
                   {"GNU.sparse.offset", "2"},
                   {"GNU.sparse.numbytes", "3"},
                   {"GNU.sparse.offset", "1000"},
                   {"GNU.sparse.numbytes", "2"},
                   {"GNU.sparse.offset", "1010"},
                   {"GNU.sparse.numbytes", "0"}}) +
         tar::File("name", kStored);
}

std::string Sparse01(const std::string& map, const std::string& size = "1010",
                     const std::string& stored = kStored, const std::string& count = "") {
  tar::Records records = {{"GNU.sparse.name", "name"}, {"GNU.sparse.size", size}, {"GNU.sparse.map", map}};
  if (!count.empty()) records.emplace_back("GNU.sparse.numblocks", count);
  return tar::Pax(records) + tar::File("GNUSparseFile.0/x", stored);
}

std::string Sparse10(const std::string& map, const std::string& size = "1010",
                     const std::string& stored = kStored) {
  return tar::Pax({{"GNU.sparse.major", "1"},
                   {"GNU.sparse.minor", "0"},
                   {"GNU.sparse.name", "name"},
                   {"GNU.sparse.realsize", size}}) +
         tar::File("GNUSparseFile.0/x", tar::Padded(map) + stored);
}

std::string Zeros(size_t lines) {
  std::string text;
  for (size_t i = 0; i < lines; ++i) text += "0\n";
  return text;
}

using OldRuns = std::vector<std::pair<int64_t, int64_t>>;

std::string OldNumbers(const OldRuns& runs) {
  std::string numbers;
  for (const auto& [offset, size] : runs) numbers += tar::Number(offset, 12) + tar::Number(size, 12);
  return numbers;
}

std::string OldHeader(const OldRuns& runs, int64_t size, int64_t stored, bool more = false,
                      const std::string& magic = tar::kGnu) {
  return tar::Header({.name = "name",
                      .type = 'S',
                      .size = stored,
                      .magic = magic,
                      .raw = {{386, OldNumbers(runs)},
                              {482, std::string(1, more ? '\1' : '\0')},
                              {483, tar::Number(size, 12)}}});
}

std::string OldExtension(const OldRuns& runs, bool more) {
  std::string block = OldNumbers(runs);
  block.resize(512);
  block[504] = more ? '\1' : '\0';
  return block;
}

TEST(TarReaderTest, ReadsSparseFilesInEveryForm) {
  const std::vector<std::pair<std::string, std::string>> forms = {
      {"0.0", Sparse00()},
      {"0.1", Sparse01("2,3,1000,2,1010,0", "1010", kStored, "3")},
      {"0.1 without a count", Sparse01("2,3,1000,2")},
      {"1.0", Sparse10("3\n2\n3\n1000\n2\n1010\n0\n")},
      {"old", OldHeader({{2, 3}, {1000, 2}, {1010, 0}}, 1010, 5) + tar::Padded(kStored)},
      {"old, extended", OldHeader({{2, 1}, {3, 1}, {4, 1}, {5, 0}}, 1010, 5, true) +
                            OldExtension({{1000, 1}}, true) + OldExtension({{1001, 1}}, false) +
                            tar::Padded(kStored)},
  };
  for (const auto& [form, archive] : forms) {
    SCOPED_TRACE(form);
    for (const size_t at_once : {1, 7, 100000}) {
      const auto entries = ReadTar(archive + tar::File("next", "n") + tar::kEnd, {}, at_once);
      ASSERT_THAT(PathsOf(entries), ElementsAre("name", "next"));
      EXPECT_EQ((*entries)[0].entry.size, 1010u);
      EXPECT_EQ((*entries)[0].entry.kind, EntryKind::kRegular);
      EXPECT_THAT((*entries)[0].runs, ElementsAre(Pair(2, "aaa"), Pair(1000, "bb")));
      EXPECT_EQ((*entries)[1].Contents(), "n");
    }
  }
}

TEST(TarReaderTest, ReadsFilesThatAreAllHole) {
  EXPECT_THAT(One(Sparse10("1\n8589934592\n0\n", "8589934592", "")).runs, IsEmpty());
  EXPECT_EQ(One(Sparse10("0\n", "8589934592", "")).entry.size, uint64_t{8} << 30);
  EXPECT_EQ(One(Sparse01("", "5", "", "0")).entry.size, 0u) << "without a map it is no sparse file";
  EXPECT_THAT(One(OldHeader({{int64_t{1} << 37, 0}}, int64_t{1} << 37, 0)).runs, IsEmpty());
}

TEST(TarReaderTest, RefusesUnsoundMapsOfHoles) {
  const std::string name = "layer entry \"name\"";
  for (const auto& [archive, why] : std::vector<std::pair<std::string, std::string>>{
           {Sparse01("5,2,4,3"), "is unsound"},  // back
           {Sparse01("5,3,7,2"), "is unsound"},  // twice the same place
           {Sparse01("-5,5"), "is unsound"},     // negative
           {Sparse01("5,-5"), "is unsound"},
           {Sparse01("5"), "is unsound"},  // half
           {Sparse01("5,five"), "is unsound"},
           {Sparse01("9223372036854775807,5"), "is unsound"},
           {Sparse01("1006,5"), "beyond its end"},
           {Sparse01("5,4"), "has 4 bytes, and 5 are stored"},
           {Sparse01("5,6"), "has 6 bytes, and 5 are stored"},
           {Sparse01("5,5", "1010", kStored, "2"), "has 1 runs, and it says 2"},
           {Sparse01("5,5", "-1"), "size is negative"},
           {Sparse10("1\n5\n4\n"), "has 4 bytes, and 5 are stored"},
           {Sparse10("1\n5\n"), "is unsound"},  // the padding is no number
           {Sparse10("1\n5\n5"), "is unsound"},
           {Sparse10("\n5\n5\n"), "is unsound"},
           {Sparse10("-1\n5\n5\n"), "is unsound"},
           {Sparse10("1\n99999999999999999999\n5\n"), "is unsound"},
           {Sparse10("300\n" + Zeros(254)), "does not end"},
           {Sparse10("1\n5\n" + tar::Repeated(21, '0') + "5\n"), "is unsound"},
           {OldHeader({{5, 6}}, 1010, 5) + tar::Padded(kStored), "has 6 bytes, and 5 are stored"},
           {OldHeader({{1006, 5}}, 1010, 5) + tar::Padded(kStored), "beyond its end"},
           {OldHeader({{5, 5}}, 1010, 5, true), "ends within its map"},
           {OldHeader({{5, 5}}, -1, 5) + tar::Padded(kStored), "no number of 63 bits"},
           {OldHeader({{5, 5}}, 1010, 5, false, tar::kUstar) + tar::Padded(kStored), "not of GNU tar's form"},
       }) {
    ExpectRefused(archive, why, name);
  }
  ExpectRefused(
      tar::PaxBody(tar::Record("GNU.sparse.numbytes", "1") + tar::Record("GNU.sparse.offset", "1")) +
          tar::File("a", ""),
      "a map of holes in disorder");
}

TEST(TarReaderTest, BoundsRunsBetweenHoles) {
  const absl::Status status = StatusOf(Sparse10("1048577\n"));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  std::string runs;
  OldRuns extension(21, {0, 0});
  for (size_t i = 0; i <= (1 << 20) / extension.size(); ++i) runs += OldExtension(extension, true);
  EXPECT_EQ(StatusOf(OldHeader({}, 0, 0, true) + runs).code(), absl::StatusCode::kResourceExhausted);
}

TEST(TarReaderTest, TakesAnUnknownSparseFormatForAFileAsItStands) {
  const EntryRead read =
      One(tar::Pax({{"GNU.sparse.major", "2"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "other"}}) +
          tar::File("name", "stored"));
  EXPECT_EQ(read.entry.path, "name");
  EXPECT_EQ(read.Contents(), "stored");
}

}  // namespace
}  // namespace sluice
