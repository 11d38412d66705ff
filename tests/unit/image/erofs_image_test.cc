#include "ondemand/erofs_image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/unit/image/temp_tree.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

const Digest kBlob = *Digest::ParseHex(std::string(64, 'a'));

class ErofsImageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(temp_ / "tree");
    WriteText(temp_ / "tree/file", std::string(100000, 'x'));
    const std::string make =
        "mkfs.erofs --quiet --chunksize=65536 -Eforce-chunk-indexes --blobdev=" + (temp_ / "blob") + " " +
        image_ + " " + (temp_ / "tree") + " >/dev/null";
    ASSERT_EQ(std::system(make.c_str()), 0);
  }

  void Overwrite(size_t offset, const std::string& bytes) {
    std::string whole = ReadText(image_);
    whole.replace(offset, bytes.size(), bytes);
    WriteText(image_, whole);
  }

  BlobSpec Spec(const Digest& digest, uint64_t size) {
    return {.digest = digest, .size = size, .root = std::nullopt, .origins = {}};
  }

  TempTree temp_;
  const std::string image_ = temp_ / "image";
};

TEST_F(ErofsImageTest, ReadsWhatMkfsWrote) {
  const absl::StatusOr<ondemand::ErofsInfo> info = ondemand::ReadErofsInfo(image_);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->block_size, 4096u);
  EXPECT_EQ(info->block_count * 4096, std::filesystem::file_size(image_));
  EXPECT_EQ(info->inode_count, 2u);
  EXPECT_NE(info->build_time_s, 0);
  ASSERT_EQ(info->devices.size(), 1u);
  EXPECT_EQ(info->devices[0].tag, "");
}

TEST_F(ErofsImageTest, DevicesMustBeTheBlobsInOrder) {
  ondemand::ErofsInfo info;
  info.block_size = 4096;
  const Digest other = *Digest::ParseHex(std::string(64, 'b'));
  info.devices = {{kBlob.Hex(), 2}, {other.Hex(), 0}};
  const auto check = [&](const std::vector<BlobSpec>& blobs) {
    return ondemand::CheckErofsDevices(info, blobs);
  };
  EXPECT_EQ(check({Spec(kBlob, 4097), Spec(other, 1)}), absl::OkStatus());
  EXPECT_THAT(std::string(check({Spec(other, 8192), Spec(kBlob, 8192)}).message()), HasSubstr("device 0"));
  EXPECT_THAT(std::string(check({Spec(kBlob, 8192)}).message()), HasSubstr("2 devices, the manifest 1"));
  EXPECT_THAT(std::string(check({Spec(kBlob, 4096), Spec(other, 1)}).message()), HasSubstr("2 blocks"));
}

TEST_F(ErofsImageTest, AFlippedBitInTheSuperblockIsFound) {
  Overwrite(1024 + 16, std::string(1, '\x7f'));
  EXPECT_EQ(ondemand::ReadErofsInfo(image_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ErofsImageTest, OtherFilesAreRefused) {
  const std::string whole = ReadText(image_);
  const std::vector<std::string> files = {"",
                                          "short",
                                          std::string(1 << 16, '\0'),
                                          std::string(1 << 16, 'x'),
                                          whole.substr(0, 1100),
                                          whole.substr(0, whole.size() - 1)};
  for (const std::string& bytes : files) {
    WriteText(image_, bytes);
    const absl::Status status = ondemand::ReadErofsInfo(image_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bytes.size();
    EXPECT_THAT(std::string(status.message()), HasSubstr("is not an EROFS image"));
  }
  EXPECT_EQ(ondemand::ReadErofsInfo(temp_ / "nothing").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ErofsImageTest, MoreThan500DevicesAreRefused) {
  Overwrite(1024 + 86, "\xf5\x01");
  EXPECT_THAT(std::string(ondemand::ReadErofsInfo(image_).status().message()),
              HasSubstr("501 devices, more than 500"));
  Overwrite(1024 + 86, "\xf4\x01");  // 500, whose table is not there
  EXPECT_THAT(std::string(ondemand::ReadErofsInfo(image_).status().message()),
              HasSubstr("device table is not inside"));
}

TEST_F(ErofsImageTest, WildFieldsAreRefused) {
  const std::string whole = ReadText(image_);
  const std::vector<std::pair<size_t, std::string>> changes = {
      {12, "\xff"},              // block size
      {12, std::string(1, 0)},   // block size
      {36, "\xff\xff\xff\xff"},  // blocks
      {86, "\xff\xff"},          // devices
      {88, "\xff\xff"},          // device table
      {88, std::string(2, 0)},   // device table
  };
  for (const auto& [offset, bytes] : changes) {
    WriteText(image_, whole);
    Overwrite(1024 + offset, bytes);
    EXPECT_EQ(ondemand::ReadErofsInfo(image_).status().code(), absl::StatusCode::kInvalidArgument) << offset;
  }
}

}  // namespace
}  // namespace sluice
