#pragma once

#include <string>
#include <vector>

#include "sluice/v1/admin.pb.h"
#include "sluice/v1/prefetch.pb.h"

// Answers as people read them. The layout may change; scripts use --output json.

namespace sluice::cli {

// Rows under a header, columns two blanks apart; no trailing blanks.
// REQUIRES: each row has as many cells as the header.
std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows);

std::string StatusTable(const v1::NodeStatus& status, const std::vector<v1::Mount>& mounts);
// "not_asked"
std::string PeerStateText(v1::PeerState state);
std::string PeerTable(const v1::ListPeersResponse& peers);
std::string MountTable(const std::vector<v1::Mount>& mounts);
std::string BlobTable(const std::vector<v1::Blob>& blobs);
std::string BlobDetails(const v1::Blob& blob);
// "fetching"
std::string HintStateText(v1::HintState state);
// "taken"
std::string TargetStateText(v1::TargetState state);
std::string BackendText(v1::Backend backend);
std::string LogLevelText(v1::LogLevel level);
std::string LocalityTable(const std::vector<v1::ImageLocality>& images);
// What hints brought in, and what of that was of use.
std::string HintBytesText(const v1::HintTotals& hints);
std::string HintTable(const std::vector<v1::HintStatus>& hints);
std::string VerifyText(const std::string& digest, const v1::VerifyBlobResponse& report);

}  // namespace sluice::cli
