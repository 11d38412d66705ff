#include "p2p/registry/registry_auth.h"

#include <cstdint>
#include <string_view>
#include <vector>

#include "p2p/http/url.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  std::vector<std::string_view> headers;
  for (size_t begin = 0; begin <= bytes.size();) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    headers.push_back(bytes.substr(begin, end - begin));
    begin = end + 1;
  }
  (void)sluice::p2p::SelectChallenge(headers);
  (void)sluice::p2p::ParseTokenAnswer(bytes);
  (void)sluice::p2p::Url::Parse(bytes);
  return 0;
}
