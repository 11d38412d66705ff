#include "node/chunk_source.h"

#include <cstdlib>

namespace sluice {

const char* FetchClassName(FetchClass fetch_class) {
  switch (fetch_class) {
    case FetchClass::kDemand:
      return "demand";
    case FetchClass::kReadahead:
      return "readahead";
    case FetchClass::kHint:
      return "hint";
    case FetchClass::kBackfill:
      return "backfill";
  }
  std::abort();
}

const char* SourceKindName(SourceKind kind) {
  switch (kind) {
    case SourceKind::kLocal:
      return "local";
    case SourceKind::kPeer:
      return "peer";
    case SourceKind::kOrigin:
      return "origin";
  }
  std::abort();
}

}  // namespace sluice
