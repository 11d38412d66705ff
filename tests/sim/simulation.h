#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/chunk_set.h"
#include "tests/sim/executors.h"
#include "tests/sim/lossy_disk.h"
#include "tests/sim/lossy_index.h"
#include "tests/sim/random.h"
#include "tests/sim/samples.h"
#include "tests/sim/sim_sources.h"

namespace sluice::sim {

// An index on disk that a simulation's store opens, and that a power loss takes from what was not synced.
struct IndexOnDisk {
  index::OpenIndex open;
  std::function<void()> lose_power;
  // Whether the index claims the chunk for the file of that inode. Empty: it can't be told.
  std::function<bool(const Digest&, ChunkIndex, uint64_t inode)> may_claim;
};

// One run of a node: BlobCache over DiskStore, on a disk and among sources that misbehave, its tasks, syncs
// and time stepped in the order that the seed says, killed and begun again in between.
//
// Not thread-safe.
class Simulation {
 public:
  struct World {
    std::string data_dir;  // empty, or what an earlier simulation left
    std::function<IndexOnDisk(LossyDisk&, Random&, const VirtualClock&)> make_index;
    int steps = 300;
  };
  Simulation(uint64_t seed, const World& world);
  ~Simulation();

  // What was wrong, with the last things that happened; empty if nothing was.
  std::string Run();
  // A number that two runs of one seed agree in.
  uint64_t trace_hash() const { return trace_hash_; }

 private:
  // A promise to call back once.
  struct Promise {
    std::string what;
    Instant deadline = Instant::max();
    int answers = 0;
  };
  // Somebody who reads on under a lease, by a file that was open before.
  struct Reader {
    Blob::Lease lease;
    index::FileDescriptor fd;
    ByteRange range;
  };

  // --- The node's life.
  void Start();
  void End();
  void Restart();
  index::DiskStoreOptions Options();
  void CheckAfterStart();

  // --- What happens.
  void Step();
  void Act();
  void RunTask();
  bool DoAnything();
  void AdvanceTime();
  void RunLoop();
  void GoOnMeanwhile();

  void Open(const Sample& sample);
  void Read(const Sample& sample);
  void Fill(const Sample& sample);
  void StopFill();
  void StopRead();
  void Offer(const Sample& sample);
  void Lookup(const Sample& sample);
  void Evict(const Sample& sample);
  void Revoke(const Sample& sample);
  void Verify(const Sample& sample);
  void Hash();
  void Sync();
  void LetGo();
  void Tamper(const Sample& sample);
  void AllIsWell();
  void ReadWhole(const Sample& sample);

  // --- What must hold.
  std::shared_ptr<Promise> Promised(std::string what, Instant deadline);
  void Answered(Promise& promise);
  void CheckOverdue();
  void CheckCancelled();
  void CheckReader(const Reader& reader);
  void CheckUnasked();
  void CheckRead(ReadResult result, ByteRange range, const std::string& what);
  void CheckBytes(const Sample& sample, int fd, ByteRange range, const std::string& what);
  void CheckPresent(const Sample& sample, const BlobKey& key, const std::string& when);
  void BeforeWrite(const std::string& name, uint64_t inode, ByteRange range);
  void BeforeUnlink(const std::string& name, uint64_t inode);
  void CheckRefused();
  bool IndexIsWell() const { return faults_.index == 0 && faults_.full == 0; }
  bool MayClaimAny(const Sample& sample, uint64_t inode) const;
  absl::Status OnComplete(const std::shared_ptr<Blob>& blob);
  absl::Status OnRevoke(const Blob& blob);
  void ForgetTakenBack();

  Sample& AnySample();
  const Sample* SampleOf(const std::string& file_name) const;
  ByteRange AnyRange(const Sample& sample);
  void Trace(const std::string& what);
  void Fail(const std::string& what);

  // Constant after construction, or the world outside, which outlives the node.
  const World world_;
  Random random_;
  LossyDisk disk_;
  VirtualClock clock_;
  IndexOnDisk index_;
  Samples samples_;
  SampleVerifier verifier_;
  SteppedDirectory directory_;
  Telemetry telemetry_;
  LossyDisk::Faults faults_;  // while the node runs
  int revoke_fails_ = 0;      // percent of the callbacks
  bool tampers_ = false;      // strangers remove files

  // Of one life of the node, in the order of their making.
  std::optional<SteppedExecutor> loop_;
  std::optional<SteppedExecutor> pool_;
  std::unique_ptr<index::DiskStore> store_;
  std::unique_ptr<BlobCache> cache_;
  std::vector<std::shared_ptr<Promise>> promises_;
  std::vector<FillId> fills_;
  std::vector<ReadId> reads_;
  std::vector<Reader> readers_;
  bool meanwhile_ = false;  // within a call to the disk
  bool hashing_ = false;

  std::map<Digest, index::FileDescriptor> unasked_;  // files that the kernel reads without asking
  std::map<Digest, ChunkSet> durable_;               // what a sync has covered, and nobody has taken back
  std::string failure_;
  std::vector<std::string> trace_;
  uint64_t trace_hash_ = 0;
  int step_ = 0;
};

}  // namespace sluice::sim
