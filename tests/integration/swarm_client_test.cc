#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/unit/p2p/swarm_fixture.h"

namespace sluice::p2p {
namespace {

// The recipe is a standard .torrent: a client that knows nothing of us gets the blob by it.
TEST(SwarmClient, APlainClientDownloadsByTheRecipe) {
  const SampleBlob sample((4 << 20) + 4321);
  const uint16_t port = FreePort();
  SwarmNode seed("127.0.0.2", port);
  seed.Start({"127.0.0.6"});
  seed.SeedAll(sample);

  std::string directory = ::testing::TempDir() + "sluice-client-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::string torrent = directory + "/blob.torrent";
  std::ofstream(torrent, std::ios::binary) << sample.recipe.EncodeTorrent();
  const std::string command = absl::StrCat("timeout 100 /usr/bin/python3 -B ", SLUICE_PLAIN_CLIENT, " ",
                                           torrent, " ", directory, " 127.0.0.6 ", seed.address, " ", port);
  FILE* pipe = ::popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  char line[128] = "";
  EXPECT_NE(::fgets(line, sizeof line, pipe), nullptr);
  EXPECT_EQ(::pclose(pipe), 0);
  EXPECT_EQ(std::string(line), sample.recipe.blob.Hex() + "\n");
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace sluice::p2p
