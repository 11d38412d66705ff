// Runs a fuzz target over the files of its corpus. Fails if there are none, or if one of the target's parsers
// takes none of them: a replay of nothing shows nothing.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "taken.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void Replay(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

int ReplayFolder(const char* folder) {
  int count = 0;
  for (const auto& file : std::filesystem::recursive_directory_iterator(folder)) {
    if (!file.is_regular_file()) continue;
    std::ifstream in(file.path(), std::ios::binary);
    Replay({std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()});
    ++count;
  }
  return count;
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  for (int i = 1; i < argc; ++i) count += ReplayFolder(argv[i]);
  if (sluice::fuzz::GoodInputs) {
    for (const std::string& bytes : sluice::fuzz::GoodInputs()) {
      Replay(bytes);
      ++count;
    }
  }
  std::printf("%d inputs replayed\n", count);
  bool all_took_some = !sluice::fuzz::Parser::All().empty();
  for (const sluice::fuzz::Parser* parser : sluice::fuzz::Parser::All()) {
    std::printf("%d taken by: %s\n", parser->taken(), parser->name());
    all_took_some = all_took_some && parser->taken() > 0;
  }
  if (!all_took_some) std::printf("FAILED: every parser must take at least one input of the corpus\n");
  return count > 0 && all_took_some ? 0 : 1;
}
