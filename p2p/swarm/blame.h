#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "node/digest.h"
#include "node/geometry.h"

namespace sluice::p2p {

inline constexpr size_t kStrikesMax = 3;         // open bad pieces that a peer may have had a part in
inline constexpr size_t kOpenBadPiecesMax = 64;  // remembered at once; the oldest are forgotten

// Which peer sent the wrong bytes of pieces that several had a part in. A piece with one sender is that
// sender's. Of others the leaves of the bad bytes are kept until the piece is right: then the blocks that
// differ tell who lied, and who did not is cleared. Who had a part in three bad pieces before it comes to
// that is taken for the liar, and of several only those with the most.
//
// Peers are named by their address, as text. One thread at a time.
class BlameLedger {
 public:
  // A piece was bad: `leaves` are the hashes of the blocks that came, `senders` who sent each of them; both
  // have one entry per block. Returns whom to refuse.
  std::vector<std::string> NoteBad(const Digest& blob, ChunkIndex piece, std::vector<Digest> leaves,
                                   std::vector<std::string> senders);
  // The piece is right now, whoever brought it. Returns whom to refuse.
  std::vector<std::string> NoteGood(const Digest& blob, ChunkIndex piece, const std::vector<Digest>& leaves);

  size_t open_count() const { return open_.size(); }

 private:
  struct BadPiece {
    std::vector<Digest> leaves;
    std::vector<std::string> senders;
  };
  using Key = std::pair<std::pair<Digest, ChunkIndex>, uint64_t>;  // a piece, and which of its tries

  void Clear(const std::vector<std::string>& liars);

  uint64_t next_ = 0;
  std::map<Key, BadPiece> open_;
};

}  // namespace sluice::p2p
