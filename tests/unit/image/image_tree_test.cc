#include "node/image/image_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/image/entry_checks.h"
#include "node/image/erofs_xattr.h"
#include "p2p/http/text.h"
#include "tests/unit/image/layer_entries.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using Layer = std::vector<LayerEntry>;

class ImageTreeTest : public ::testing::Test {
 protected:
  // Into a tree of their own.
  absl::Status TryLayers(const std::vector<Layer>& layers) {
    tree_.emplace();
    entries_ = 0;
    for (const Layer& layer : layers) {
      tree_->BeginLayer();
      for (const LayerEntry& entry : layer) {
        // Each entry with contents of its own, by which a test can tell it again.
        absl::Status applied = tree_->Apply(entry, ContentId(++entries_));
        if (!applied.ok()) return applied;
      }
    }
    tree_->Finish();
    return absl::OkStatus();
  }

  void Layers(const std::vector<Layer>& layers) { ASSERT_EQ(TryLayers(layers), absl::OkStatus()); }

  void ExpectRefused(const std::vector<Layer>& layers, const std::string& why) {
    const absl::Status status = TryLayers(layers);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
    const std::string last = layers.back().back().path;
    EXPECT_THAT(std::string(status.message()), HasSubstr("layer entry " + p2p::Quoted(last)));
  }

  // Every path, in the order of the names; directories with a slash.
  std::vector<std::string> Paths() const {
    std::vector<std::string> paths;
    AddPaths(tree_->root(), "", paths);
    return paths;
  }

  NodeId IdOf(const std::string& path) const {
    std::vector<std::string_view> names;
    CleanPath(path, names);
    NodeId id = tree_->root();
    for (std::string_view name : names) {
      const LinkId link = tree_->nodes().Find(id, name);
      if (link == LinkId::kNone) {
        ADD_FAILURE() << path << " is not there";
        return tree_->root();
      }
      id = tree_->nodes().link(link).node;
    }
    return id;
  }
  const TreeNode& At(const std::string& path) const { return tree_->nodes().node(IdOf(path)); }

  std::map<std::string, std::string> XattrsOf(const std::string& path) const {
    std::map<std::string, std::string> xattrs;
    for (XattrId id : tree_->xattrs().Set(At(path).xattrs)) {
      const XattrPool::Xattr& xattr = tree_->xattrs().Get(id);
      xattrs[std::string(xattr.name)] = std::string(xattr.value);
    }
    return xattrs;
  }

  std::optional<ImageTree> tree_;
  uint32_t entries_ = 0;

 private:
  void AddPaths(NodeId directory, const std::string& prefix, std::vector<std::string>& paths) const {
    const TreeNodes& nodes = tree_->nodes();
    for (LinkId id = nodes.node(directory).first_child; id != LinkId::kNone; id = nodes.link(id).next) {
      const TreeLink& link = nodes.link(id);
      const bool is_directory = nodes.node(link.node).kind == EntryKind::kDirectory;
      paths.push_back(prefix + std::string(link.name()) + (is_directory ? "/" : ""));
      if (is_directory) AddPaths(link.node, std::string(paths.back()), paths);
    }
  }
};

TEST_F(ImageTreeTest, NothingGivesTheRootAlone) {
  Layers({});
  EXPECT_THAT(Paths(), IsEmpty());
  EXPECT_EQ(tree_->size(), 1u);
  EXPECT_EQ(At("").permissions, 0755);
  EXPECT_EQ(At("").mtime_s, 0);
}

TEST_F(ImageTreeTest, EveryKindKeepsItsAttributes) {
  LayerEntry file = File("f", 04711);
  file.attributes.uid = 4'294'967'294;
  file.attributes.gid = 7;
  file.attributes.mtime_s = -5;
  file.attributes.mtime_ns = 999'999'999;
  Layers({{file, Directory("d", 01777), Symlink("l", "../nowhere"), Device("c", 4095, 1'048'575),
           Device("b", 8, 1, EntryKind::kBlockDevice), MakeEntry(EntryKind::kFifo, "p", 0600),
           MakeEntry(EntryKind::kSocket, "s", 0666)}});
  EXPECT_THAT(Paths(), ElementsAre("b", "c", "d/", "f", "l", "p", "s"));
  EXPECT_EQ(tree_->size(), 8u);
  EXPECT_EQ(At("f").permissions, 04711);
  EXPECT_EQ(At("f").uid, 4'294'967'294u);
  EXPECT_EQ(At("f").gid, 7u);
  EXPECT_EQ(At("f").mtime_s, -5);
  EXPECT_EQ(At("f").mtime_ns, 999'999'999u);
  EXPECT_EQ(At("f").content, ContentId(1));
  EXPECT_TRUE(At("d").content.empty());
  EXPECT_EQ(At("d").permissions, 01777);
  EXPECT_EQ(At("l").target, "../nowhere");
  EXPECT_EQ(At("c").device_major, 4095u);
  EXPECT_EQ(At("c").device_minor, 1'048'575u);
  EXPECT_EQ(At("b").kind, EntryKind::kBlockDevice);
  EXPECT_EQ(At("p").kind, EntryKind::kFifo);
  EXPECT_EQ(At("s").kind, EntryKind::kSocket);
}

TEST_F(ImageTreeTest, ParentsAreImplied) {
  Layers({{File("a/b/c")}, {File("a/b/d")}});
  EXPECT_THAT(Paths(), ElementsAre("a/", "a/b/", "a/b/c", "a/b/d"));
  EXPECT_EQ(At("a").permissions, 0755);
  EXPECT_EQ(At("a").mtime_s, 0);
  EXPECT_EQ(At("a/b").uid, 0u);
}

TEST_F(ImageTreeTest, AnImpliedParentMayBeNamedLater) {
  Layers({{File("a/b"), Directory("a", 0700)}});
  EXPECT_EQ(At("a").permissions, 0700);
  EXPECT_THAT(Paths(), ElementsAre("a/", "a/b"));
}

TEST_F(ImageTreeTest, PathsAreCleaned) {
  Layers({{File("./a"), File("/b"), File("d//e/"), File("d/./f"), File("x/../g"), File("../../h"),
           File("..//d/../../i")}});
  EXPECT_THAT(Paths(), ElementsAre("a", "b", "d/", "d/e", "d/f", "g", "h", "i"));
}

TEST_F(ImageTreeTest, TheRootsEntrySetsTheRoot) {
  for (const std::string path : {"./", "/", ".", "", "a/..", "//"}) {
    ImageTree tree;
    tree.BeginLayer();
    ASSERT_EQ(tree.Apply(Directory(path, 0711), ContentId()), absl::OkStatus()) << path;
    EXPECT_EQ(tree.nodes().node(tree.root()).permissions, 0711) << path;
    EXPECT_EQ(tree.nodes().node(tree.root()).mtime_s, 1'000'000'000) << path;
  }
}

TEST_F(ImageTreeTest, TheRootStaysADirectory) {
  ExpectRefused({{Symlink("./", "etc")}}, "root of an image");
  ExpectRefused({{File("/")}}, "root of an image");
}

TEST_F(ImageTreeTest, NamesAreBytes) {
  const std::string odd = "\xff\x01 \n\\*";
  Layers({{File("\x65\xcc\x81"), File("\xc3\xa9"), File(odd), File(std::string(255, 'n'))}});
  EXPECT_THAT(Paths(), UnorderedElementsAre("\x65\xcc\x81", "\xc3\xa9", odd, std::string(255, 'n')));
  EXPECT_EQ(Paths().back(), odd);  // bytes above 127 come last
}

TEST_F(ImageTreeTest, NamesThatCantBeAreRefused) {
  ExpectRefused({{File(std::string(256, 'n'))}}, "256 bytes");
  ExpectRefused({{File(std::string(256, 'n') + "/x")}}, "256 bytes");
  ExpectRefused({{File(".wh." + std::string(256, 'n'))}}, "256 bytes");
  ExpectRefused({{File(std::string("a") + '\0' + "b")}}, "zero byte");
}

TEST_F(ImageTreeTest, AWhiteoutHidesANameOf255Bytes) {
  const std::string name(255, 'n');
  Layers({{File(name)}, {File(".wh." + name)}});
  EXPECT_THAT(Paths(), IsEmpty());
  EXPECT_EQ(tree_->size(), 1u);
}

TEST_F(ImageTreeTest, AWhiteoutTouchesLowerLayersOnly) {
  Layers({{File("d/a"), File("d/b"), File("e/x")},
          {File("d/c"), File(".wh.d"), File("d/a"), File("new"), File(".wh.new"), File(".wh.e")}});
  EXPECT_THAT(Paths(), ElementsAre("d/", "d/a", "d/c", "new"));
  EXPECT_EQ(At("d/a").content, ContentId(6));
}

TEST_F(ImageTreeTest, ADirectoryThatIsNamedAgainBelongsToItsLayer) {
  Layers({{File("d/a"), File("d/e/b")}, {Directory("d/e", 0700), File(".wh.d")}});
  EXPECT_THAT(Paths(), ElementsAre("d/", "d/e/"));
}

TEST_F(ImageTreeTest, AWhiteoutThenTheSameNameIsAnotherFile) {
  Layers({{Directory("d", 0700), File("d/a")}, {File(".wh.d"), File("d/b")}});
  EXPECT_THAT(Paths(), ElementsAre("d/", "d/b"));
  EXPECT_EQ(At("d").permissions, 0755);
}

TEST_F(ImageTreeTest, AWhiteoutOfNothingMakesNothing) {
  Layers({{File("f")}, {File("no/such/.wh.thing"), File("f/.wh.x"), File("g/.wh..wh..opq"), File(".wh.z")}});
  EXPECT_THAT(Paths(), ElementsAre("f"));
}

TEST_F(ImageTreeTest, AWhiteoutMayBeOfAnyKind) {
  Layers({{File("f"), File("g")}, {Directory(".wh.f"), Symlink(".wh.g", "x")}});
  EXPECT_THAT(Paths(), IsEmpty());
}

TEST_F(ImageTreeTest, InADirectoryThereAreNoWhiteouts) {
  tree_.emplace();
  tree_->BeginLayer(ImageTree::Whiteouts::kKeep);
  uint32_t content = 0;
  for (const LayerEntry& entry :
       {File("a"), File(".wh.a"), Directory(".wh.d", 0700), File(".wh.d/f"), Directory("o"), File("o/b"),
        File("o/.wh..wh..opq"), Directory(".wh..wh.plnk"), File(".wh..wh.plnk/1"), File(".wh."),
        HardLink("h", ".wh..wh.plnk/1")}) {
    ASSERT_EQ(tree_->Apply(entry, ContentId(++content)), absl::OkStatus());
  }
  tree_->Finish();
  EXPECT_THAT(Paths(), ElementsAre(".wh.", ".wh..wh.plnk/", ".wh..wh.plnk/1", ".wh.a", ".wh.d/", ".wh.d/f",
                                   "a", "h", "o/", "o/.wh..wh..opq", "o/b"));
  EXPECT_EQ(At(".wh.d").permissions, 0700);
  EXPECT_EQ(IdOf("h"), IdOf(".wh..wh.plnk/1"));
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kReservedName).count, 0u);
}

TEST_F(ImageTreeTest, AWhiteoutMustNameAFile) {
  ExpectRefused({{File("a")}, {File(".wh.")}}, "names no file");
  ExpectRefused({{File("a/b")}, {File("a/.wh..")}}, "names no file");
  ExpectRefused({{File("a/b")}, {File("a/.wh...")}}, "names no file");
}

TEST_F(ImageTreeTest, AnOpaqueDirectoryShowsItsLayerOnlyWhereverTheMarkStands) {
  const Layer lower = {File("d/a"), File("d/sub/b"), File("d/deep/er/c"), File("e/f")};
  for (size_t at = 0; at < 4; ++at) {
    Layer upper = {Directory("d", 0711), File("d/new"), File("d/deep/new")};
    upper.insert(upper.begin() + static_cast<ptrdiff_t>(at), File("d/.wh..wh..opq"));
    Layers({lower, upper});
    EXPECT_THAT(Paths(), ElementsAre("d/", "d/deep/", "d/deep/new", "d/new", "e/", "e/f")) << at;
    EXPECT_EQ(At("d").permissions, 0711);
  }
}

TEST_F(ImageTreeTest, AnOpaqueRoot) {
  Layers({{File("a"), File("d/b")}, {File("d/c"), File(".wh..wh..opq")}});
  EXPECT_THAT(Paths(), ElementsAre("d/", "d/c"));
}

TEST_F(ImageTreeTest, WhatWasHiddenInOneLayerCanBeHiddenInTheNext) {
  Layers({{File("d/a")}, {File("d/b"), File(".wh.d")}, {File("d/c"), File(".wh.d")}});
  EXPECT_THAT(Paths(), ElementsAre("d/", "d/c"));
}

// A step for each name and each whiteout, or this takes minutes.
TEST_F(ImageTreeTest, HidingTheSameNamesAgainAndAgainEnds) {
  Layer layer;
  for (int i = 0; i < 100'000; ++i) layer.push_back(File(absl::StrCat("d/", i)));
  for (int i = 0; i < 50'000; ++i) {
    layer.push_back(File(".wh.d"));
    layer.push_back(File("d/.wh..wh..opq"));
  }
  Layers({{File("d/x")}, layer});
  EXPECT_EQ(tree_->size(), 100'002u);
}

TEST_F(ImageTreeTest, WhiteoutsFollowLinksOnTheWay) {
  Layers({{File("usr/lib/a"), File("usr/lib/b"), Symlink("lib", "usr/lib")}, {File("lib/.wh.a")}});
  EXPECT_THAT(Paths(), ElementsAre("lib", "usr/", "usr/lib/", "usr/lib/b"));
}

TEST_F(ImageTreeTest, AFollowedLinkBelongsToItsOwnLayer) {
  Layers({{Directory("usr/lib"), Symlink("lib", "usr/lib")}, {File("lib/a"), File(".wh.lib")}});
  EXPECT_THAT(Paths(), ElementsAre("usr/", "usr/lib/", "usr/lib/a"));
}

TEST_F(ImageTreeTest, TypesAreReplaced) {
  Layers({{File("a/x/y"), File("b"), Symlink("c", "a"), Symlink("d", "nowhere")},
          {File("a"), Directory("b"), Directory("c", 0700), File("d")},
          {Symlink("b", "a")}});
  EXPECT_THAT(Paths(), ElementsAre("a", "b", "c/", "d"));
  EXPECT_EQ(At("b").kind, EntryKind::kSymlink);
  EXPECT_EQ(tree_->size(), 5u);
}

TEST_F(ImageTreeTest, ADirectoryOverADirectoryKeepsItsChildrenAndTakesAllAttributes) {
  Layers({{WithXattr(Directory("d", 0700), "user.old", "1"), File("d/a")},
          {WithXattr(Directory("d", 0755), "user.new", "2")}});
  EXPECT_THAT(Paths(), ElementsAre("d/", "d/a"));
  EXPECT_EQ(At("d").permissions, 0755);
  EXPECT_THAT(XattrsOf("d"), ElementsAre(std::pair<std::string, std::string>("user.new", "2")));
}

TEST_F(ImageTreeTest, TheLastOfTwoEntriesCounts) {
  Layers({{File("a", 0600), File("a", 0644)}});
  EXPECT_EQ(At("a").permissions, 0644);
  EXPECT_EQ(At("a").content, ContentId(2));
  EXPECT_EQ(tree_->size(), 2u);
}

TEST_F(ImageTreeTest, HardLinksShareAFileWithinAndAcrossLayers) {
  Layers({{File("a", 0640), HardLink("d/b", "./a")}, {HardLink("c", "/d/b"), File("a", 0600)}});
  EXPECT_EQ(IdOf("d/b"), IdOf("c"));
  EXPECT_NE(IdOf("a"), IdOf("c"));
  EXPECT_EQ(At("c").link_count, 2u);
  EXPECT_EQ(At("c").content, ContentId(1));
  EXPECT_EQ(At("c").permissions, 0640);
  EXPECT_EQ(At("a").link_count, 1u);
  EXPECT_EQ(tree_->size(), 4u);
}

TEST_F(ImageTreeTest, AHardLinkOutlivesTheNameItWasMadeFrom) {
  Layers({{File("a")}, {HardLink("b", "a"), File(".wh.a")}});
  EXPECT_THAT(Paths(), ElementsAre("b"));
  EXPECT_EQ(At("b").content, ContentId(1));
  EXPECT_EQ(At("b").link_count, 1u);
}

TEST_F(ImageTreeTest, AHardLinkIsToTheLinkNotToWhereItLeads) {
  Layers({{File("a"), Symlink("l", "a"), HardLink("h", "l"), Symlink("dir", "d"), File("d/x"),
           HardLink("y", "dir/x")}});
  EXPECT_EQ(IdOf("h"), IdOf("l"));
  EXPECT_EQ(IdOf("y"), IdOf("d/x"));
}

TEST_F(ImageTreeTest, AHardLinkToItselfIsNoChange) {
  Layers({{File("a"), HardLink("a", "a"), HardLink("b", "a"), HardLink("b", "./a")}});
  EXPECT_EQ(At("a").link_count, 2u);
}

TEST_F(ImageTreeTest, AHardLinkToItselfBelongsToItsLayer) {
  Layers({{File("d/a")}, {HardLink("d/a", "d/a"), File("d/.wh.a"), File(".wh.d")}});
  EXPECT_THAT(Paths(), ElementsAre("d/", "d/a"));
}

TEST_F(ImageTreeTest, HardLinksThatCantBeAreRefused) {
  ExpectRefused({{HardLink("a", "nothing")}}, "\"nothing\", which is not there");
  ExpectRefused({{HardLink("a", "no/thing")}}, "which is not there");
  ExpectRefused({{File("x")}, {File(".wh.x"), HardLink("a", "x")}}, "which is not there");
  ExpectRefused({{Directory("d"), HardLink("a", "d")}}, "\"d\", which is a directory");
  ExpectRefused({{HardLink("a", "/")}}, "which is a directory");
  ExpectRefused({{File("d/f"), HardLink("d", "d/f")}}, "which is not there once the link is made");
  ExpectRefused({{Symlink("d", "e"), File("e/f"), HardLink("d", "d/f")}},
                "which is not there once the link is made");
  ExpectRefused({{File("d/e/f"), HardLink("g", "d/e/f"), HardLink("d", "d/e/f")}},
                "which is not there once the link is made");
  ExpectRefused({{Symlink("l", "l"), HardLink("a", "l/x")}}, "symbolic links");
}

TEST_F(ImageTreeTest, AHardLinkMayReplaceADirectoryThatHoldsAnotherNameOfItsTarget) {
  Layers({{File("d/f"), HardLink("g", "d/f"), HardLink("d", "g")}});
  EXPECT_THAT(Paths(), ElementsAre("d", "g"));
  EXPECT_EQ(At("d").link_count, 2u);
}

TEST_F(ImageTreeTest, LinksOnTheWayAreFollowedWithinTheRoot) {
  Layers({{Directory("usr/lib"), Symlink("rel", "usr/lib"), Symlink("abs", "/usr/lib"),
           Symlink("up", "../../usr/./lib/"), Symlink("usr/back", ".."), Symlink("chain", "rel"),
           Symlink("usr/sibling", "../usr/lib")},
          {File("rel/1"), File("abs/2"), File("up/3"), File("usr/back/4"), File("chain/5"),
           File("usr/sibling/6"), File("usr/back/usr/back/usr/lib/7")}});
  EXPECT_THAT(Paths(),
              ElementsAre("4", "abs", "chain", "rel", "up", "usr/", "usr/back", "usr/lib/", "usr/lib/1",
                          "usr/lib/2", "usr/lib/3", "usr/lib/5", "usr/lib/6", "usr/lib/7", "usr/sibling"));
}

TEST_F(ImageTreeTest, WhatALinkOnTheWayMissesIsMade) {
  Layers({{Symlink("lib", "usr/lib"), Directory("var"), Symlink("var/run", "/run"), Symlink("a", "b"),
           Symlink("b", "c/d"), Symlink("e", "gone/../here")},
          {File("lib/b"), File("var/run/app/pid"), File("a/x"), File("e/y")}});
  EXPECT_THAT(Paths(),
              ElementsAre("a", "b", "c/", "c/d/", "c/d/x", "e", "here/", "here/y", "lib", "run/", "run/app/",
                          "run/app/pid", "usr/", "usr/lib/", "usr/lib/b", "var/", "var/run"));
}

TEST_F(ImageTreeTest, CirclesEnd) {
  ExpectRefused({{Symlink("a", "b"), Symlink("b", "a"), File("a/x")}}, "255 symbolic links");
  ExpectRefused({{Symlink("a", "a/a"), File("a/x")}}, "255 symbolic links");
  ExpectRefused({{Symlink("a", "a"), File("a/.wh.x")}}, "255 symbolic links");
  // An entry in a circle's place is none of it.
  Layers({{Symlink("a", "b"), Symlink("b", "a")}, {File("a")}});
  EXPECT_EQ(At("a").kind, EntryKind::kRegular);
}

TEST_F(ImageTreeTest, AChainOf255LinksIsFollowedAndOneMoreIsNot) {
  Layer layer = {Directory("0")};
  for (int i = 1; i <= 256; ++i) layer.push_back(Symlink(absl::StrCat(i), absl::StrCat(i - 1)));
  Layers({layer, {File("255/x")}});
  EXPECT_EQ(At("0/x").kind, EntryKind::kRegular);
  ExpectRefused({layer, {File("256/x")}}, "255 symbolic links");
}

TEST_F(ImageTreeTest, LongTargetsOfManyLinksEnd) {
  std::string round;
  while (round.size() + 20 < kSymlinkBytesMax) round += "x/../";
  Layer layer;
  for (int i = 0; i < 200; ++i) layer.push_back(Symlink(absl::StrCat(i), absl::StrCat(round, i + 1)));
  layer.push_back(File("0/f"));
  ExpectRefused({layer}, "8192 names");
}

TEST_F(ImageTreeTest, AParentThatIsNoDirectoryIsRefused) {
  ExpectRefused({{File("a")}, {File("a/b")}}, "no directory");
  ExpectRefused({{File("a")}, {File("a/b/c")}}, "no directory");
  ExpectRefused({{Symlink("l", "a"), File("a"), File("l/b")}}, "no directory");
  EXPECT_EQ(TryLayers({{File("z")}, {File("z/b")}}).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ImageTreeTest, AWhiteoutBelowAFileIsForgottenWhenTheFileBecomesADirectory) {
  Layers({{File("a")}, {File("a/.wh.x"), Directory("a"), File("a/y")}});
  EXPECT_THAT(Paths(), ElementsAre("a/", "a/y"));
  Layers({{File("a"), Directory("d")}, {File("a/.wh.x"), Symlink("a/.", "d"), File("a/y")}});
  EXPECT_THAT(Paths(), ElementsAre("a", "d/", "d/y"));
}

TEST_F(ImageTreeTest, TheWayIsWalkedAgainWhenItLeadsElsewhere) {
  Layers({{File("one/x"), Directory("two"), Symlink("l", "one"), File("l/a"), Symlink("l", "two"),
           File("l/b"), File("two/c"), Symlink("two", "one"), File("two/d")},
          {HardLink("h1", "l/x"), Symlink("l", "/"), HardLink("h2", "l/h1")}});
  EXPECT_THAT(Paths(), ElementsAre("h1", "h2", "l", "one/", "one/a", "one/d", "one/x", "two"));
}

TEST_F(ImageTreeTest, TheWayToATargetIsWalkedAgainAfterAWhiteout) {
  ExpectRefused(
      {{File("d/x"), Symlink("l", "d")}, {HardLink("h", "l/x"), File(".wh.l"), HardLink("i", "l/x")}},
      "which is not there");
}

TEST_F(ImageTreeTest, SymbolicLinksThatCantBeAreRefused) {
  ExpectRefused({{Symlink("l", "")}}, "to nothing");
  ExpectRefused({{Symlink("l", std::string(4096, 'x'))}}, "4096 bytes");
  ExpectRefused({{Symlink("l", std::string("a\0b", 3))}}, "zero byte");
  Layers({{Symlink("l", std::string(4095, 'x'))}});
  EXPECT_EQ(At("l").permissions, 0777);
}

TEST_F(ImageTreeTest, AttributesThatCantBeAreRefused) {
  const auto with = [](auto change) {
    LayerEntry entry = File("f");
    change(entry.attributes);
    return entry;
  };
  ExpectRefused({{with([](FileAttributes& a) { a.uid = 0xffffffff; })}}, "owner");
  ExpectRefused({{with([](FileAttributes& a) { a.gid = 0xffffffff; })}}, "owner");
  ExpectRefused({{with([](FileAttributes& a) { a.mtime_ns = 1'000'000'000; })}}, "nanoseconds");
  ExpectRefused({{Device("c", 4096, 0)}}, "4096:0");
  ExpectRefused({{Device("c", 0, 1 << 20)}}, "0:1048576");
}

TEST_F(ImageTreeTest, ReservedNamesAreLeftOutAndReported) {
  Layers({{Directory(".wh..wh.plnk"), File(".wh..wh.plnk/12.34"), HardLink("a", ".wh..wh.plnk/12.34"),
           File("d/.wh..wh.aufs"), Directory(".wh..wh.orph"), File("d/.wh..wh.orph/.wh.x"), File("d/y"),
           HardLink(".wh..wh.x", "nothing")}});
  EXPECT_THAT(Paths(), ElementsAre("a", "d/", "d/y"));
  EXPECT_EQ(tree_->size(), 4u);
  EXPECT_EQ(At("a").content, ContentId(2));
  EXPECT_EQ(At("a").link_count, 1u);
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kReservedName).count, 6u);
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kReservedName).first, "\".wh..wh.plnk\"");
}

TEST_F(ImageTreeTest, ReservedNamesAreOfOneLayer) {
  ExpectRefused({{File(".wh..wh.plnk/1")}, {HardLink("a", ".wh..wh.plnk/1")}}, "not there");
}

TEST_F(ImageTreeTest, XattrsAreKeptAsTheyAre) {
  LayerEntry entry = File("f");
  const std::string value("\0\xff", 2);
  entry.attributes.xattrs = {{"user.a", value},
                             {"user.empty", ""},
                             {"trusted.b", "x"},
                             {"security.capability", value},
                             {"security.selinux", "u"},
                             {"system.posix_acl_access", value},
                             {"user." + std::string(250, 'n'), std::string(65'535, 'v')}};
  Layers({{entry}});
  EXPECT_EQ(XattrsOf("f"), entry.attributes.xattrs);
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kForeignXattr).count, 0u);
}

TEST_F(ImageTreeTest, EqualXattrsAreKeptOnce) {
  Layers({{WithXattr(File("a"), "user.x", "1"), WithXattr(File("b"), "user.x", "1"),
           WithXattr(File("c"), "user.x", "2")}});
  EXPECT_EQ(At("a").xattrs, At("b").xattrs);
  EXPECT_NE(At("a").xattrs, At("c").xattrs);
  EXPECT_EQ(tree_->xattrs().size(), 2u);
}

TEST_F(ImageTreeTest, XattrsWithoutAPlaceAreLeftOutAndReported) {
  LayerEntry entry = File("f");
  entry.attributes.xattrs = {
      {"com.apple.provenance", "1"},    {"system.nfs4_acl", "2"},       {"user.", "3"},     {"nodot", "4"},
      {"trusted.overlay.opaque", "y"},  {"user.overlay.redirect", "/"}, {"user.kept", "5"}, {"usera", "6"},
      {"system.posix_acl_access2", "7"}};
  Layers({{entry}});
  EXPECT_THAT(XattrsOf("f"), ElementsAre(std::pair<std::string, std::string>("user.kept", "5")));
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kForeignXattr).count, 6u);
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kForeignXattr).first, "\"f\": \"com.apple.provenance\"");
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kOverlayXattr).count, 2u);
}

TEST_F(ImageTreeTest, XattrsThatLinuxRefusesForAKindAreLeftOutAndReported) {
  Layers({{WithXattr(Symlink("l", "x"), "user.a", "1"), WithXattr(Device("c", 1, 3), "user.a", "1"),
           WithXattr(MakeEntry(EntryKind::kFifo, "p", 0600), "user.a", "1"),
           WithXattr(Symlink("m", "x"), "system.posix_acl_access", "1"),
           WithXattr(File("f"), "system.posix_acl_default", "1"),
           WithXattr(Directory("d"), "system.posix_acl_default", "1"),
           WithXattr(Symlink("n", "x"), "security.a", "1"), WithXattr(Symlink("o", "x"), "trusted.a", "1")}});
  EXPECT_EQ(tree_->notices().Of(NoticeKind::kMisplacedXattr).count, 5u);
  EXPECT_THAT(XattrsOf("l"), IsEmpty());
  EXPECT_EQ(XattrsOf("d").size(), 1u);
  EXPECT_EQ(XattrsOf("n").size(), 1u);
  EXPECT_EQ(XattrsOf("o").size(), 1u);
}

TEST_F(ImageTreeTest, XattrsOverABoundAreRefused) {
  ExpectRefused({{WithXattr(File("f"), "user.x", std::string(65'536, 'v'))}}, "user.x");
  ExpectRefused({{WithXattr(File("f"), "user." + std::string(251, 'n'), "")}}, "user.nn");
  ExpectRefused({{WithXattr(File("f"), std::string("user.a\0b", 8), "")}}, "name");
  ExpectRefused({{WithXattr(File("f"), "", "v")}}, "name");
  LayerEntry full = File("full");
  for (int i = 0; i < 3; ++i) full.attributes.xattrs[absl::StrCat("user.", i)] = std::string(65'535, 'v');
  // Each takes 4 bytes, its name's rest and its value, in units of 4.
  full.attributes.xattrs["user.9"] = std::string(kXattrSetBytesMax - 3 * 65'540 - 5, 'v');
  Layers({{full}});
  full.attributes.xattrs["user.9"] += "vvvv";
  ExpectRefused({{full}}, "262140 bytes together");
}

TEST_F(ImageTreeTest, ADeepTreeNeitherRecursesNorHangs) {
  std::string path;
  for (size_t i = 0; i + 1 < kTreeDepthBound; ++i) path += "d/";
  ExpectRefused({{File(path + "d/d/x")}}, "4096 directories");
  Layer layer = {};
  for (int i = 0; i < 200; ++i) layer.push_back(File(absl::StrCat(path, i)));
  Layers({layer, {File(path + ".wh.7"), File(".wh.d"), File("e")}});
  EXPECT_THAT(Paths(), ElementsAre("e"));
}

TEST_F(ImageTreeTest, ManyDirectoriesWithinOneAnotherGoAtOnce) {
  std::string path;
  for (size_t i = 0; i + 1 < kTreeDepthBound; ++i) path += "d/";
  Layers({{File(path + "x")}, {File("d")}});
  EXPECT_THAT(Paths(), ElementsAre("d"));
  EXPECT_EQ(tree_->size(), 2u);
}

TEST_F(ImageTreeTest, MoreNamesThanItMayHaveAreRefused) {
  ImageTree tree(4);
  tree.BeginLayer();
  for (const LayerEntry& entry : {File("a"), HardLink("b", "a"), File("c/d"), File("a")}) {
    ASSERT_EQ(tree.Apply(entry, ContentId()), absl::OkStatus());
  }
  for (const LayerEntry& entry : {File("e"), HardLink("e", "a"), File("e/f")}) {
    EXPECT_EQ(tree.Apply(entry, ContentId()).code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST_F(ImageTreeTest, TheSameLayersGiveTheSameOrder) {
  Layer layer;
  for (int i = 0; i < 1000; ++i) layer.push_back(File(absl::StrCat("d", i % 7, "/", i)));
  Layers({layer});
  const std::vector<std::string> once = Paths();
  std::shuffle(layer.begin(), layer.end(), std::mt19937(1));
  Layers({layer});
  EXPECT_EQ(Paths(), once);
}

}  // namespace
}  // namespace sluice
