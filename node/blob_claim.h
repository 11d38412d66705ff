#pragma once
#include <string>

#include "node/blob.h"
namespace sluice {
std::string FormatBlobClaim(const BlobSpec& spec, const BlobOrigin& origin);
}
