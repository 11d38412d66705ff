// fake_node BACKEND ROOT DIGEST-HEX ORIGINAL DEADLINE-MS FILL-DELAY-US hold|fill: works tickets until it is
// killed. Says "ready" on standard output, or why not.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/kernel/fake_node.h"

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  sluice::ondemand::test::FakeNodeOptions options;
  for (const sluice::ondemand::Backend backend : sluice::ondemand::kBackends) {
    if (sluice::ondemand::BackendName(backend) == argv[1]) options.backend = backend;
  }
  options.root = argv[2];
  options.digest = *sluice::Digest::ParseHex(argv[3]);
  options.original_path = argv[4];
  options.read_deadline = std::chrono::milliseconds(std::atol(argv[5]));
  options.fill_delay_max = std::chrono::microseconds(std::atol(argv[6]));
  absl::Status error;
  auto node = sluice::ondemand::test::FakeNode::Start(options, &error);
  if (node == nullptr) {
    std::printf("%s\n", error.ToString().c_str());
    return 1;
  }
  if (std::string_view(argv[7]) == "hold") node->HoldTickets();
  std::puts("ready");
  std::fflush(stdout);
  for (;;) pause();
}
