#include "node/image/erofs_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "node/image/image_builder.h"
#include "ondemand/erofs_image.h"
#include "tests/unit/image/list_reader.h"
#include "tests/unit/image/mounted_tree.h"
#include "tests/unit/image/temp_tree.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

std::string RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() % 255 + 1);
  return bytes;
}

// A superblock's field.
template <typename T>
T FieldOf(const std::string& image, size_t offset) {
  T value;
  std::memcpy(&value, image.data() + 1024 + offset, sizeof(value));
  return value;
}

class ErofsWriterTest : public ::testing::Test {
 protected:
  // Writes the image of these layers, asks fsck.erofs, mounts it and compares all that is seen.
  void Check(const std::vector<std::vector<Item>>& layers) {
    SLUICE_REQUIRE_ROOT();
    BuiltImage image(temp_, "a");
    for (const std::vector<Item>& layer : layers) ASSERT_NO_FATAL_FAILURE(image.AddLayer(layer));
    ASSERT_NO_FATAL_FAILURE(image.Write());
    ExpectFsck(image);
    const Mounted mounted(image.path(), image.device_paths(), temp_ / "mnt");
    SLUICE_REQUIRE_MOUNTED(mounted);
    ExpectMountedTree(image, mounted.path());
  }

  void ExpectFsck(const BuiltImage& image) {
    std::string command = "fsck.erofs";
    for (const std::string& device : image.device_paths()) command += " --device=" + device;
    command += " " + image.path() + " >/dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }

  TempTree temp_;
};

TEST_F(ErofsWriterTest, NothingIsAnImageToo) {
  Check({});
}

TEST_F(ErofsWriterTest, EveryKind) {
  LayerEntry odd = File("times/odd", 04711);
  odd.attributes.uid = 4'294'967'294;
  odd.attributes.gid = 65'536;
  odd.attributes.mtime_ns = 999'999'999;
  LayerEntry before = File("times/before", 0);
  before.attributes.mtime_s = -62'135'596'800;
  LayerEntry far = File("times/far", 07777);
  far.attributes.mtime_s = 253'402'300'800;
  LayerEntry root = Directory("/", 01711);
  root.attributes.uid = 5;
  Check(
      {{With(root), With(odd), With(before), With(far), With(Device("null", 1, 3)),
        With(Device("big", 4095, 1'048'575)), With(Device("disk", 259, 256, EntryKind::kBlockDevice)),
        With(MakeEntry(EntryKind::kFifo, "fifo", 0640)), With(MakeEntry(EntryKind::kSocket, "socket", 0777)),
        With(Symlink("link", "/nowhere/at/all")), WithBytes(File("small"), "x"), With(File("empty"))}});
}

TEST_F(ErofsWriterTest, ContentsOfEverySize) {
  std::vector<Item> items;
  for (size_t size : {1, 4095, 4096, 4097, 65'535, 65'536, 65'537, 131'072, 1'000'000}) {
    items.push_back(WithBytes(File(absl::StrCat(size)), RandomBytes(size, static_cast<uint32_t>(size))));
  }
  items.push_back(WithBytes(File("twice"), RandomBytes(131'072, 131'072)));
  const std::string piece = RandomBytes(65'536, 9);
  items.push_back(WithBytes(File("same-pieces"), piece + piece + piece + "end"));
  items.push_back(WithRuns(File("hole-first"), 300'000, {{200'000, "here"}}));
  items.push_back(WithRuns(File("hole-last"), 300'000, {{0, piece}}));
  items.push_back(WithRuns(File("hole-within"), 300'001, {{0, piece}, {250'000, "there"}}));
  items.push_back(WithRuns(File("zeros"), 131'073, {}));
  items.push_back(WithRuns(File("sparse-8g"), uint64_t{8} << 30, {{uint64_t{5} << 30, "far"}}));
  items.push_back(WithRuns(File("hole-16t"), uint64_t{16} << 40, {}));
  Check({items});
}

TEST_F(ErofsWriterTest, LayersHaveDevicesOfTheirOwn) {
  Check({{WithBytes(File("a"), RandomBytes(100'000, 1)), WithBytes(File("gone"), RandomBytes(100'000, 2))},
         {With(Directory("d"))},
         {WithRuns(File("zeros"), 100'000, {})},
         {WithBytes(File("b"), RandomBytes(5'000, 3)), WithBytes(File("gone"), RandomBytes(70'000, 4))},
         {WithBytes(File("c"), RandomBytes(200'000, 5)), With(HardLink("d/a", "a"))}});
}

TEST_F(ErofsWriterTest, HardLinksOfAllKinds) {
  std::vector<Item> items = {WithBytes(File("f"), "bytes"), With(Symlink("l", "f")),
                             With(Device("c", 1, 3)),       With(HardLink("a/f", "f")),
                             With(HardLink("a/l", "l")),    With(HardLink("a/c", "c"))};
  Check({items});
}

TEST_F(ErofsWriterTest, MoreLinksThanSixteenBitsCount) {
  std::vector<Item> items = {WithBytes(File("f"), "bytes")};
  for (int i = 0; i < 70'000; ++i) items.push_back(With(HardLink(absl::StrCat("d/", i), "f")));
  Check({items});
}

TEST_F(ErofsWriterTest, NamesAreBytesInTheOrderOfBytes) {
  std::vector<Item> items;
  for (const std::string& name : std::vector<std::string>{
           "!", "-", "...", "..a", ".a", "a", "a!", "A", "\x65\xcc\x81", "\xc3\xa9", "\xff", "\xff\xfe",
           "\x01", "\n", " ", "~", std::string(255, 'n'), std::string(255, '\xff'), std::string(254, 'n')}) {
    items.push_back(With(File(name)));
    items.push_back(With(Directory("d/" + name)));
  }
  Check({items});
}

TEST_F(ErofsWriterTest, DirectoriesOfEverySizeAroundABlock) {
  std::vector<Item> items;
  for (int directory = 0; directory < 60; ++directory) {
    // Ends that lie beside the inode, that don't fit there, and that fill a block to the last byte.
    for (int i = 0; i < 14 + directory % 5 * 7; ++i) {
      items.push_back(
          With(File(absl::StrCat(directory, "/", i, std::string(1 + (i + directory) % 250, 'n')))));
    }
  }
  // 4096 = 25 ("." and "..", 12 + 1 and 12 + 2) more than this.
  const size_t left = 4096 - 27;
  for (int by : {-1, 0, 1}) {
    size_t room = left + static_cast<size_t>(by);
    for (int i = 0; room > 0; ++i) {
      const size_t name = room >= 400 ? 200 : room > 267 ? room / 2 - 12 : room - 12;
      items.push_back(With(File(absl::StrCat("exact", by, "/", std::string(1, static_cast<char>('a' + i)),
                                             std::string(name - 1, 'x')))));
      room -= name + 12;
    }
  }
  Check({items});
}

TEST_F(ErofsWriterTest, ADirectoryOf100000Names) {
  std::vector<Item> items;
  for (int i = 0; i < 100'000; ++i) items.push_back(With(File(absl::StrCat("d/", i * 7919 % 100'003))));
  Check({items});
}

TEST_F(ErofsWriterTest, SymbolicLinksOfEveryLength) {
  std::vector<Item> items;
  for (size_t length = 1; length <= 4095; length += length < 300 ? 1 : 61) {
    items.push_back(With(Symlink(absl::StrCat("l", length), std::string(length, 't'))));
  }
  for (size_t length : {4000, 4031, 4032, 4033, 4094, 4095}) {
    items.push_back(With(Symlink(absl::StrCat("m", length), std::string(length, 't'))));
    items.push_back(
        With(WithXattr(Symlink(absl::StrCat("x", length), std::string(length, 't')), "trusted.a", "value")));
  }
  Check({items});
}

// Kernels before 6.12 read no other: what this machine's forgives is checked by hand.
TEST_F(ErofsWriterTest, ALinksTargetLiesInTheBlockWhereItsInodeEnds) {
  ImageTree tree;
  tree.BeginLayer();
  for (int i = 0; i < 3'000; ++i) {
    const LayerEntry link = Symlink(absl::StrCat(i), std::string(static_cast<size_t>(1 + i % 97), 't'));
    ASSERT_EQ(tree.Apply(link, ContentId()), absl::OkStatus());
  }
  tree.Finish();
  const ContentTable contents;
  const ErofsSource source = {tree, contents, {}, {}};
  ErofsLayout layout(source);
  ASSERT_EQ(layout.Compute(), absl::OkStatus());
  for (NodeId id : layout.order()) {
    const ErofsBody body = layout.BodyOf(id);
    if (tree.nodes().node(id).kind != EntryKind::kSymlink) continue;
    ASSERT_EQ(body.layout, erofs::kFlatInline);
    const uint64_t inode_end = layout.InodeOffset(id) + sizeof(erofs::Inode);
    const uint64_t end = ErofsLayout::PayloadOffset(layout.InodeOffset(id), body) + body.size;
    EXPECT_EQ((inode_end - 1) / 4096, (end - 1) / 4096) << inode_end;
  }
}

TEST_F(ErofsWriterTest, XattrsOfEveryPrefixAndLength) {
  std::vector<Item> items;
  const std::string acl(
      "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\2\0\4\0\1\0\0\0\4\0\4\0\xff\xff\xff\xff\x10\0\4\0\xff"
      "\xff\xff\xff\x20\0\4\0\xff\xff\xff\xff",
      44);
  items.push_back(With(WithXattr(File("acl"), "system.posix_acl_access", acl)));
  items.push_back(With(WithXattr(Directory("d"), "system.posix_acl_default", acl)));
  items.push_back(With(WithXattr(File("cap"), "security.capability",
                                 std::string("\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20))));
  items.push_back(With(WithXattr(Symlink("l", "x"), "security.selinux", "u:object_r:x:s0")));
  items.push_back(With(WithXattr(File("t"), "trusted.t", "")));
  items.push_back(With(WithXattr(File("long"), "user." + std::string(250, 'n'), std::string(65'535, 'v'))));
  // What is inline ends at every place in a block, and so do the chunk indexes after it.
  for (size_t size = 0; size < 4200; size += size < 200 ? 1 : 37) {
    items.push_back(WithBytes(WithXattr(File(absl::StrCat("v", size)), "user.v", RandomBytes(size, 1)),
                              absl::StrCat("bytes ", size)));
    items.push_back(With(WithXattr(Directory(absl::StrCat("e", size)), "user.e", RandomBytes(size, 2))));
  }
  Check({items});
}

TEST_F(ErofsWriterTest, SharedXattrs) {
  std::vector<Item> items;
  for (int i = 0; i < 2'000; ++i) {
    LayerEntry entry = File(absl::StrCat(i));
    entry.attributes.xattrs["security.selinux"] = "system_u:object_r:usr_t:s0";
    entry.attributes.xattrs["user.group"] = absl::StrCat(i / 3);
    entry.attributes.xattrs["user.own"] = RandomBytes(static_cast<size_t>(i % 50), static_cast<uint32_t>(i));
    items.push_back(With(entry));
  }
  Check({items});
}

TEST_F(ErofsWriterTest, MoreSharedXattrsThanAFileCanReferTo) {
  LayerEntry many = File("a");
  for (int i = 0; i < 300; ++i) many.attributes.xattrs[absl::StrCat("user.", i)] = absl::StrCat("value", i);
  LayerEntry same = many;
  same.path = "b";
  Check({{With(many), With(same)}});
}

TEST_F(ErofsWriterTest, AsManyXattrBytesAsAFileCanHave) {
  LayerEntry full = File("full");
  for (int i = 0; i < 3; ++i) full.attributes.xattrs[absl::StrCat("user.", i)] = std::string(65'535, 'v');
  full.attributes.xattrs["user.9"] = std::string(kXattrSetBytesMax - 3 * 65'540 - 5, 'v');
  Check({{With(full), With(File("next"))}});
}

TEST_F(ErofsWriterTest, TheRootMayHaveEverything) {
  std::vector<Item> items = {With(WithXattr(Directory("/"), "user.big", std::string(60'000, 'v')))};
  for (int i = 0; i < 5'000; ++i) items.push_back(With(File(absl::StrCat("name-", i))));
  Check({items});
}

TEST_F(ErofsWriterTest, TheSameLayersGiveTheSameBytes) {
  std::vector<Item> items;
  for (int i = 0; i < 3'000; ++i) {
    items.push_back(WithBytes(WithXattr(File(absl::StrCat(i % 17, "/", i)), "user.x", absl::StrCat(i % 5)),
                              RandomBytes(static_cast<size_t>(i), static_cast<uint32_t>(i))));
  }
  BuiltImage once(temp_, "once");
  ASSERT_NO_FATAL_FAILURE(once.AddLayer(items));
  ASSERT_NO_FATAL_FAILURE(once.Write());
  BuiltImage twice(temp_, "twice");
  ASSERT_NO_FATAL_FAILURE(twice.AddLayer(items));
  ASSERT_NO_FATAL_FAILURE(twice.Write());
  EXPECT_TRUE(ReadText(once.path()) == ReadText(twice.path()));
}

TEST_F(ErofsWriterTest, TheSuperblockSaysWhatKernelsNeedToKnow) {
  BuiltImage image(temp_, "a");
  ASSERT_NO_FATAL_FAILURE(image.AddLayer({WithBytes(File("a"), "x")}));
  ASSERT_NO_FATAL_FAILURE(image.AddLayer({WithBytes(File("b"), RandomBytes(50'000, 1))}));
  ASSERT_NO_FATAL_FAILURE(image.Write());
  const std::string bytes = ReadText(image.path());
  EXPECT_EQ(FieldOf<uint32_t>(bytes, 8), 0x3u);   // SB_CHKSUM, MTIME
  EXPECT_EQ(FieldOf<uint32_t>(bytes, 80), 0xCu);  // CHUNKED_FILE, DEVICE_TABLE
  EXPECT_EQ(FieldOf<uint64_t>(bytes, 24), 0u);    // build time
  EXPECT_EQ(bytes.substr(1024 + 48, 16), std::string("sluice@\0\x80\0\0\0\0\0\0\0", 16));
  const absl::StatusOr<ondemand::ErofsInfo> info = ondemand::ReadErofsInfo(image.path());
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->block_count * 4096, bytes.size());
  EXPECT_EQ(info->inode_count, 3u);
  ASSERT_EQ(info->devices.size(), 2u);
  uint64_t mapped = info->block_count;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(info->devices[i].tag, image.devices()[i].digest.Hex());
    EXPECT_EQ(info->devices[i].block_count, image.devices()[i].size / 4096);
    EXPECT_EQ(FieldOf<uint32_t>(bytes, 128 + i * 128 + 68), mapped);
    mapped += info->devices[i].block_count;
  }
}

TEST_F(ErofsWriterTest, WithoutItsDevicesAnImageGivesErrorsAndNotItsOwnBytes) {
  SLUICE_REQUIRE_ROOT();
  BuiltImage image(temp_, "a");
  ASSERT_NO_FATAL_FAILURE(image.AddLayer({WithBytes(File("a"), RandomBytes(5'000, 1)), With(File("empty"))}));
  ASSERT_NO_FATAL_FAILURE(image.Write());
  const Mounted mounted(image.path(), {}, temp_ / "mnt");
  SLUICE_REQUIRE_MOUNTED(mounted);
  const UniqueFd file(open((mounted / "a").c_str(), O_RDONLY | O_CLOEXEC));
  char byte = 0;
  EXPECT_EQ(read(file.get(), &byte, 1), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(StatOf(mounted / "empty").st_size, 0);
}

// What stands in an index for where a file's contents are.
TEST_F(ErofsWriterTest, ChunksAreAsLargeAsTheirPlacesAllow) {
  ContentTable contents;
  const auto chunks = [&](uint64_t pieces, const std::vector<Extent>& extents) {
    const ContentId id = contents.Add(0, pieces * kPieceBytes - 1, extents);
    const ErofsChunks found = ChunksOf(contents.Get(id));
    return std::pair(found.pieces, found.count);
  };
  EXPECT_EQ(chunks(1, {{0, 1}}), std::pair(1u, uint64_t{1}));
  EXPECT_EQ(chunks(5, {{0, 5}}), std::pair(8u, uint64_t{1}));
  EXPECT_EQ(chunks(5, {{0, 4}, {Extent::kHole, 1}}), std::pair(4u, uint64_t{2}));
  EXPECT_EQ(chunks(12, {{64, 8}, {0, 4}}), std::pair(8u, uint64_t{2}));
  EXPECT_EQ(chunks(12, {{64, 4}, {Extent::kHole, 2}, {0, 6}}), std::pair(2u, uint64_t{6}));
  EXPECT_EQ(chunks(3, {{0, 1}, {0, 1}, {0, 1}}), std::pair(1u, uint64_t{3}));
  EXPECT_EQ(chunks(80'000, {{0, 80'000}}), std::pair(16'384u, uint64_t{5}));
  EXPECT_EQ(chunks(32'768, {{0, 32'767}, {0, 1}}), std::pair(1u, uint64_t{32'768}));
  EXPECT_EQ((ErofsChunks{1, 1}.format()), 0x24u);
  EXPECT_EQ((ErofsChunks{16'384, 1}.format()), 0x32u);
}

TEST_F(ErofsWriterTest, FiveHundredDevicesAreTakenAndOneMoreIsNot) {
  BuiltImage image(temp_, "a");
  for (uint32_t i = 0; i < 500; ++i) {
    image.devices().push_back({Digest(), 4096});
    image.device_of_layer().push_back(i);
  }
  ASSERT_NO_FATAL_FAILURE(image.Write());
  const absl::StatusOr<ondemand::ErofsInfo> info = ondemand::ReadErofsInfo(image.path());
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->devices.size(), 500u);
  image.devices().push_back({Digest(), 4096});
  EXPECT_THAT(std::string(image.TryWrite().status().message()), HasSubstr("501 data blobs, 500 at most"));
}

TEST(ImageBuilderTest, OneDataBlobTooManyIsNoticedAtItsLayer) {
  const TempTree tree;
  ImageBuilder builder(tree.path(), std::nullopt);
  for (uint32_t i = 0; i <= 500; ++i) {
    LayerEntry entry = File("file");
    const std::string contents = std::to_string(1000 + i);
    entry.size = contents.size();
    ListReader layer({{entry, {{0, contents}}}});
    const absl::Status status = builder.AddLayer(layer).status();
    ASSERT_EQ(status.ok(), i < 500) << i << status;
  }
}

TEST_F(ErofsWriterTest, MoreBlocksThanCanBeAddressedAreRefused) {
  BuiltImage image(temp_, "a");
  // The image has one block: 2^32 - 1 less this one can be the devices'.
  image.devices() = {{Digest(), uint64_t{4096} << 31}, {Digest(), (uint64_t{4096} << 31) - 4096}};
  EXPECT_EQ(image.TryWrite().status().code(), absl::StatusCode::kResourceExhausted);
  image.devices().back().size -= 4096;
  EXPECT_TRUE(image.TryWrite().ok()) << image.TryWrite().status();
  image.devices() = {{Digest(), uint64_t{4096} << 33}, {Digest(), 4096}};
  EXPECT_THAT(std::string(image.TryWrite().status().message()), HasSubstr("4294967295 blocks"));
}

TEST_F(ErofsWriterTest, ContentsOutsideOfTheirDeviceAreRefused) {
  const auto try_with = [&](uint32_t layer, std::vector<Extent> extents) {
    BuiltImage image(temp_, "a");
    image.devices() = {{Digest(), 16 * 4096}};
    image.device_of_layer() = {ErofsSource::kNoDevice, 0, 7};
    image.AddEntry(File("f"), image.contents().Add(layer, 65'536, extents));
    return image.TryWrite().status();
  };
  EXPECT_EQ(try_with(1, {{0, 1}}), absl::OkStatus());
  EXPECT_EQ(try_with(0, {{Extent::kHole, 1}}), absl::OkStatus());
  for (const absl::Status& status : {try_with(0, {{0, 1}}), try_with(2, {{0, 1}}), try_with(3, {{0, 1}}),
                                     try_with(1, {{1, 1}}), try_with(1, {})}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ErofsWriterTest, AFullFileIsAnError) {
  const UniqueFd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  ImageTree tree;
  tree.Finish();
  const ContentTable contents;
  EXPECT_FALSE(WriteErofsImage({tree, contents, {}, {}}, full.get(), "/dev/full").ok());
}

}  // namespace
}  // namespace sluice
