#include "tests/sim/simulation.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::sim {
namespace {

namespace fs = std::filesystem;

constexpr int kSampleCount = 12;      // to choose from
constexpr int kBlobsPerSeed = 3;      //
constexpr size_t kTraceKept = 60;     // lines in a failure message
constexpr int kTasksMax = 100'000;    // that the loop may run before it rests
constexpr int kWellStepsMax = 20000;  // before a healthy node has answered a read

const std::vector<Sample>& AllSamples() {
  static const std::vector<Sample> samples = [] {
    std::vector<Sample> made;
    for (int i = 0; i < kSampleCount; ++i) made.emplace_back(i + 1);
    return made;
  }();
  return samples;
}

std::string RangeText(ByteRange range) {
  return absl::StrCat(range.offset, "+", range.length);
}

uint64_t InodeOf(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// While the simulation looks at the disk by itself.
class Looking {
 public:
  explicit Looking(LossyDisk& disk) : disk_(disk), before_(std::exchange(disk.quiet, true)) {}
  ~Looking() { disk_.quiet = before_; }

 private:
  LossyDisk& disk_;
  const bool before_;
};

BlobCacheLimits TightLimits() {
  BlobCacheLimits limits;
  limits.fetch_bytes_max = 3 * kChunkSizeMin;
  limits.inflight_bytes_max = 8 * kChunkSizeMin;
  limits.reads_waiting_max = 24;
  limits.fetches_max = {6, 4, 2, 2};
  limits.readahead_bytes_max = 4 * kChunkSizeMin;
  limits.fetch_timeout = std::chrono::seconds(10);
  limits.offer_bytes_max = 4 * kChunkSizeMin;
  return limits;
}

Manners SomeManners(Random& random) {
  if (random.Chance(30)) return {};
  const auto some = [&](size_t most) {
    return random.Chance(40) ? static_cast<int>(random.Between(1, most)) : 0;
  };
  return {.fails = some(40),
          .lies = some(30),
          .strays = some(20),
          .deaf = some(60),
          .at_once = some(50),
          .never_says = some(50)};
}

LossyDisk::Faults SomeFaults(Random& random) {
  if (random.Chance(30)) return {};
  const auto some = [&](size_t most) {
    return random.Chance(40) ? static_cast<int>(random.Between(1, most)) : 0;
  };
  return {.sync = some(30),
          .write = some(10),
          .full = some(10),
          .short_write = some(30),
          .open = some(5),
          .read = some(5),
          .index = some(15)};
}

// What an earlier simulation left there is gone; what is the same for all stays.
std::string Emptied(const std::string& data_dir) {
  for (const char* name : {"/blobs", "/recipes", "/index", ".trash"}) fs::remove_all(data_dir + name);
  fs::create_directories(data_dir + ".trash");
  return data_dir + "/blobs";
}

}  // namespace

Simulation::Simulation(uint64_t seed, const World& world)
    : world_(world),
      random_(seed),
      disk_(Emptied(world.data_dir), world.data_dir + ".trash", random_),
      index_(world.make_index(disk_, random_, clock_)),
      verifier_(samples_, disk_),
      directory_(random_) {
  const size_t first = random_.Below(kSampleCount);
  for (size_t i = 0; i < kBlobsPerSeed; ++i) {
    const Sample& sample = AllSamples()[(first + i) % kSampleCount];
    samples_.emplace(sample.spec.digest, sample);
  }
  for (const auto& [rank, kind] :
       {std::pair(SourceRank::kHome, SourceKind::kPeer), std::pair(SourceRank::kHolder, SourceKind::kPeer),
        std::pair(SourceRank::kOrigin, SourceKind::kOrigin)}) {
    directory_.Add(rank,
                   std::make_shared<SteppedSource>(kind, SomeManners(random_), samples_, clock_, random_));
  }
  faults_ = SomeFaults(random_);
  if (random_.Chance(30)) revoke_fails_ = static_cast<int>(random_.Between(1, 50));
  tampers_ = random_.Chance(10);
  disk_.hooks = {
      [this](const std::string& name, uint64_t inode, ByteRange range) { BeforeWrite(name, inode, range); },
      [this](const std::string& name, uint64_t inode) { BeforeUnlink(name, inode); },
      [this] { GoOnMeanwhile(); },
      [this] {
        if (hashing_) GoOnMeanwhile();
      }};
}

Simulation::~Simulation() {
  if (store_) End();
}

std::string Simulation::Run() {
  if (random_.Chance(10)) disk_.DieAfter(static_cast<int>(random_.Below(60)));
  Start();
  for (step_ = 0; step_ < world_.steps && failure_.empty(); ++step_) Step();
  if (failure_.empty()) AllIsWell();
  End();
  return failure_;
}

// ------------------------------------------------------------------------------------- the node's life

index::DiskStoreOptions Simulation::Options() {
  index::DiskStoreOptions options{
      .data_dir = world_.data_dir, .telemetry = telemetry_, .file_system = disk_, .open_files_max = 2};
  options.on_complete = [this](const std::shared_ptr<Blob>& blob) { return OnComplete(blob); };
  options.on_revoke = [this](const Blob& blob) { return OnRevoke(blob); };
  options.alarm = [this](const std::string& text) { Trace(absl::StrCat("alarm: ", text)); };
  options.wall_clock_ms = [this] { return clock_.now.time_since_epoch().count() / 1'000'000; };
  options.threads = index::Threads::kNone;
  options.open_index = [this](const std::string& path) {
    auto index = index_.open(path);
    if (absl::IsDataLoss(index.status())) durable_.clear();  // it is given up
    return index;
  };
  return options;
}

void Simulation::Start() {
  loop_.emplace(clock_, random_, SteppedExecutor::Order::kPosted);
  pool_.emplace(clock_, random_, SteppedExecutor::Order::kSeeded);
  disk_.faults = {};  // a node that finds its disk failing at its start says so and ends
  absl::StatusOr<std::unique_ptr<index::DiskStore>> store = index::DiskStore::OpenStore(Options());
  if (!store.ok()) {
    if (!disk_.dead()) Fail(absl::StrCat("the store does not open: ", store.status().ToString()));
    return;
  }
  store_ = *std::move(store);
  disk_.faults = faults_;
  cache_ = std::make_unique<BlobCache>(
      BlobCache::Parts{clock_, *loop_, *pool_, *store_, verifier_, directory_, telemetry_}, TightLimits());
}

// Dead or stopped: everybody who was promised an answer gets one.
void Simulation::End() {
  if (cache_) {
    cache_.reset();
    while (loop_->RunOne() || pool_->RunOne()) {
    }
  }
  directory_.ForEach([](SteppedSource& source) { source.Die(); });
  for (const auto& promise : promises_) {
    if (promise->answers == 0) Fail(absl::StrCat("never answered: ", promise->what));
  }
  promises_.clear();
  fills_.clear();
  reads_.clear();
  readers_.clear();
  pool_.reset();
  loop_.reset();
  store_.reset();
}

void Simulation::Restart() {
  const bool machine_lives = random_.Chance(40);
  Trace(machine_lives ? "the node is killed" : "the power is lost");
  ForgetTakenBack();
  disk_.Die();
  End();
  if (machine_lives) {
    disk_.Revive();
  } else {
    unasked_.clear();
    disk_.LosePower();
    index_.lose_power();
  }
  if (random_.Chance(20)) disk_.DieAfter(static_cast<int>(random_.Below(40)));
  Start();
  if (!store_ || disk_.dead()) return;  // once more, at the next step
  CheckAfterStart();
}

void Simulation::CheckAfterStart() {
  for (const auto& [digest, sample] : samples_) {
    CheckPresent(sample, sample.spec.digest, "after a restart");
    const std::shared_ptr<Blob> blob = store_->Find(digest);
    if (const auto kept = durable_.find(digest); kept != durable_.end() && !tampers_) {
      ChunkSet lost = kept->second;
      if (blob) lost.Subtract(blob->presence().Snapshot());
      if (!lost.empty()) {
        Fail(absl::StrCat("claimed chunk ", lost.NextSet(sample.geometry().All()).value(), " of ",
                          digest.Short(), " was lost by a restart"));
      }
    }
    // What the keeper does when the node comes back to it.
    if (!blob || !blob->presence().complete()) unasked_.erase(digest);
  }
}

// ---------------------------------------------------------------------------------------- what happens

void Simulation::Step() {
  if (!store_ || disk_.dead()) return Restart();
  const size_t kind = random_.Below(100);
  if (kind < 55) {
    RunTask();
  } else if (kind < 63) {
    AdvanceTime();
  } else {
    Act();
  }
  if (disk_.dead() || !failure_.empty()) return;
  ForgetTakenBack();
  if (step_ % 8 == 0) CheckUnasked();
  CheckRefused();
}

void Simulation::RunTask() {
  switch (random_.Below(4)) {
    case 0:
      directory_.Any()->Step();
      return;
    case 1:
      pool_->RunOne();
      return;
    default:
      loop_->RunOne();
  }
}

bool Simulation::DoAnything() {
  bool done = loop_->RunOne() || pool_->RunOne();
  directory_.ForEach([&](SteppedSource& source) { done = done || source.Step(); });
  return done;
}

void Simulation::RunLoop() {
  for (int i = 0; loop_->RunOne(); ++i) {
    if (i == kTasksMax) return Fail("the loop never comes to rest");
  }
}

void Simulation::AdvanceTime() {
  RunLoop();
  if (pool_->Rests()) CheckCancelled();
  const Instant timer = std::min(loop_->NextTimer(), pool_->NextTimer());
  if (timer != Instant::max() && random_.Chance(60)) {
    clock_.now = std::max(clock_.now, timer);
  } else {
    clock_.now += std::chrono::milliseconds(random_.Between(1, 500));
  }
  directory_.ForEach([](SteppedSource& source) { source.Expire(); });
  RunLoop();
  CheckOverdue();
}

// While the store waits for the disk, the other threads go on.
void Simulation::GoOnMeanwhile() {
  if (meanwhile_ || !store_ || !cache_) return;
  meanwhile_ = true;
  for (size_t left = random_.Below(6); left > 0 && !disk_.dead(); --left) {
    switch (random_.Below(8)) {
      case 0:
        Revoke(AnySample());
        break;
      case 1:
        Evict(AnySample());
        break;
      default:
        RunTask();
    }
  }
  meanwhile_ = false;
}

void Simulation::Act() {
  Sample& sample = AnySample();
  const size_t kind = random_.Below(100);
  if (kind < 12) return Open(sample);
  if (kind < 40) return Read(sample);
  if (kind < 46) return Fill(sample);
  if (kind < 48) return random_.Chance(50) ? StopFill() : StopRead();
  if (kind < 54) return Offer(sample);
  if (kind < 58) return Lookup(sample);
  if (kind < 62) return Evict(sample);
  if (kind < 65) return Revoke(sample);
  if (kind < 67) return Verify(sample);
  if (kind < 77) return Sync();
  if (kind < 82) return static_cast<void>(store_->RunNotice());
  if (kind < 85) return Hash();
  if (kind < 91) return LetGo();
  if (kind < 93) return directory_.Change(sample.spec.digest);
  if (kind < 94) return store_->Touch(sample.spec.digest);
  if (kind < 95) return Tamper(sample);
  if (kind < 97) return static_cast<void>(store_->CheckFiles());
  if (kind < 98) return disk_.DieAfter(static_cast<int>(random_.Below(12)));
  disk_.Die();
}

void Simulation::Open(const Sample& sample) {
  const absl::StatusOr<std::shared_ptr<Blob>> blob =
      store_->Open(random_.Chance(70) ? sample.Rooted() : sample.spec);
  Trace(absl::StrCat("open ", sample.spec.digest.Short(), ": ", blob.status().ToString()));
}

void Simulation::Read(const Sample& sample) {
  const ByteRange range = AnyRange(sample);
  ReadRequest request;
  request.blob = sample.spec.digest;
  request.range = range;
  if (random_.Chance(20)) request.fetch_class = static_cast<FetchClass>(random_.Below(kFetchClassCount));
  if (random_.Chance(15)) request.asker = Asker::kPeer;
  if (random_.Chance(10)) request.mode = random_.Chance(50) ? ReadMode::kIfUnderWay : ReadMode::kIfFlowing;
  request.deadline = clock_.now + std::chrono::milliseconds(random_.Chance(30) ? random_.Between(0, 60)
                                                                               : random_.Between(100, 20000));
  const std::string what = absl::StrCat("read of ", sample.spec.digest.Short(), " ", RangeText(range));
  Trace(what);
  const ReadId id = cache_->Read(
      std::move(request),
      [this, range, promise = Promised(what, request.deadline)](absl::StatusOr<ReadResult> result) {
        Answered(*promise);
        Trace(absl::StrCat(promise->what, ": ", result.status().ToString()));
        if (result.ok()) CheckRead(*std::move(result), range, promise->what);
      });
  reads_.push_back(id);
}

void Simulation::StopRead() {
  if (!reads_.empty()) cache_->StopRead(reads_[random_.Below(reads_.size())]);
}

void Simulation::Fill(const Sample& sample) {
  FillRequest request{.blob = sample.spec.digest};
  request.fetch_class = static_cast<FetchClass>(random_.Between(1, kFetchClassCount - 1));
  if (random_.Chance(50)) request.chunks = {sample.geometry().Covering(AnyRange(sample))};
  const std::string what = absl::StrCat("fill of ", sample.spec.digest.Short());
  Trace(what);
  fills_.push_back(cache_->Fill(std::move(request),
                                [this, promise = Promised(what, Instant::max())](const absl::Status& status) {
                                  Answered(*promise);
                                  Trace(absl::StrCat(promise->what, ": ", status.ToString()));
                                }));
}

void Simulation::StopFill() {
  if (fills_.empty()) return;
  cache_->StopFill(fills_[random_.Below(fills_.size())]);
}

void Simulation::Offer(const Sample& sample) {
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  if (!blob) return;
  const ChunkIndex index(static_cast<uint32_t>(random_.Below(blob->geometry().chunk_count())));
  const bool right = random_.Chance(80);
  const ByteRange range = blob->geometry().RangeOf(index);
  const auto bytes = right ? sample.Right(range) : sample.Wrong(range);
  Buffer buffer(bytes.size());
  std::copy(bytes.begin(), bytes.end(), buffer.data());
  const Evidence evidence = right && random_.Chance(50) ? Evidence::kVerified : Evidence::kUnverified;
  const std::string what = absl::StrCat("offer of ", sample.spec.digest.Short(), " ", index.value());
  Trace(what);
  cache_->Offer(blob, index, std::move(buffer), evidence, SourceKind::kPeer,
                [this, promise = Promised(what, Instant::max())](const absl::Status& status) {
                  Answered(*promise);
                  Trace(absl::StrCat(promise->what, ": ", status.ToString()));
                });
}

void Simulation::Lookup(const Sample& sample) {
  const ByteRange range = AnyRange(sample);
  absl::StatusOr<Blob::Lease> lease = cache_->Lookup(sample.spec.digest, range);
  const std::string what = absl::StrCat("lookup of ", sample.spec.digest.Short(), " ", RangeText(range));
  if (lease.ok()) CheckRead({SourceKind::kLocal, *std::move(lease)}, range, what);
}

void Simulation::Evict(const Sample& sample) {
  const auto reason = random_.Chance(50) ? EvictReason::kCorrupt : EvictReason::kRequested;
  const absl::Status evicted = store_->Evict(sample.spec.digest, reason);
  Trace(absl::StrCat("evict ", sample.spec.digest.Short(), ": ", evicted.ToString()));
}

void Simulation::Revoke(const Sample& sample) {
  const std::shared_ptr<Blob> blob = store_->Find(sample.spec.digest);
  if (!blob) return;
  const ChunkIndex index(static_cast<uint32_t>(random_.Below(blob->geometry().chunk_count())));
  const absl::Status revoked = store_->Revoke(*blob, index);
  Trace(absl::StrCat("revoke ", sample.spec.digest.Short(), " ", index.value(), ": ", revoked.ToString()));
  if (blob->presence().IsPresent(index)) Fail("a chunk is present after it was revoked");
}

void Simulation::Verify(const Sample& sample) {
  hashing_ = true;
  const absl::StatusOr<index::VerifyReport> report = store_->Verify(sample.spec.digest, verifier_);
  hashing_ = false;
  Trace(absl::StrCat("verify ", sample.spec.digest.Short(), ": ", report.status().ToString()));
}

void Simulation::Hash() {
  hashing_ = true;
  store_->RunHash();
  hashing_ = false;
}

void Simulation::Sync() {
  const bool alone = random_.Chance(50);
  const uint64_t faults_before = disk_.faults_fired;
  meanwhile_ = alone;
  store_->RunBatch();
  meanwhile_ = false;
  const bool clean = alone && disk_.faults_fired == faults_before && !disk_.dead();
  Trace(clean ? "all is synced" : "a batch is synced");
  if (!clean) return;
  for (const auto& [digest, sample] : samples_) {
    if (const std::shared_ptr<Blob> blob = store_->Find(digest))
      durable_.insert_or_assign(digest, blob->presence().Snapshot());
  }
}

void Simulation::LetGo() {
  if (readers_.empty()) return;
  const size_t leaves = random_.Below(readers_.size());
  CheckReader(readers_[leaves]);
  readers_.erase(readers_.begin() + static_cast<std::ptrdiff_t>(leaves));
}

void Simulation::Tamper(const Sample& sample) {
  if (!tampers_) return;
  Trace(absl::StrCat("a stranger removes the file of ", sample.spec.digest.Short()));
  disk_.RemoveByStranger(sample.spec.digest.Hex());
}

// Whatever has been: once the disk and the sources are well, everything can be read.
void Simulation::AllIsWell() {
  Trace("from here on all is well");
  faults_ = {};
  disk_.hooks.while_syncing = disk_.hooks.while_reading = nullptr;
  revoke_fails_ = 0;
  tampers_ = false;
  durable_.clear();
  directory_.OfferAll();
  directory_.ForEach([](SteppedSource& source) { source.manners = {}; });
  do {
    Restart();
  } while (failure_.empty() && (!store_ || disk_.dead()));
  disk_.LiveOn();
  for (auto& [digest, sample] : samples_) {
    if (failure_.empty()) ReadWhole(sample);
  }
}

void Simulation::ReadWhole(const Sample& sample) {
  const Digest& digest = sample.spec.digest;
  const std::shared_ptr<Blob> known = store_->Find(digest);
  if (known && (known->refused() || !sample.misled.empty()))
    (void)store_->Evict(digest, EvictReason::kCorrupt);
  const absl::StatusOr<std::shared_ptr<Blob>> blob = store_->Open(sample.Rooted());
  if (!blob.ok()) return Fail(absl::StrCat("on a healthy disk, open says ", blob.status().ToString()));
  // It may stand beside what was opened without a root.
  const BlobKey key = (*blob)->key();
  ReadRequest request;
  request.blob = key;
  request.range = {0, sample.spec.size};
  request.deadline = clock_.now + std::chrono::minutes(1);
  // After a failure it is answered at the end of the node.
  const auto answer = std::make_shared<std::optional<absl::Status>>();
  cache_->Read(std::move(request),
               [answer](const absl::StatusOr<ReadResult>& result) { *answer = result.status(); });
  for (int i = 0; i < kWellStepsMax && !*answer && failure_.empty(); ++i) {
    if (!DoAnything()) AdvanceTime();
  }
  if (!failure_.empty()) return;
  if (!*answer) return Fail("a read of a healthy node was not answered");
  if (!(*answer)->ok()) return Fail(absl::StrCat("a read of a healthy node: ", (*answer)->ToString()));
  while (store_->RunBatch() || store_->RunHash() || store_->RunNotice()) {
  }
  if (!store_->IsSettled(key)) Fail(absl::StrCat(digest.Short(), " is whole and never settles"));
  CheckPresent(sample, key, "when all is well");
}

// --------------------------------------------------------------------------------------- what must hold

std::shared_ptr<Simulation::Promise> Simulation::Promised(std::string what, Instant deadline) {
  std::erase_if(promises_, [](const auto& promise) { return promise->answers > 0; });
  promises_.push_back(std::make_shared<Promise>(Promise{std::move(what), deadline, 0}));
  return promises_.back();
}

void Simulation::Answered(Promise& promise) {
  if (++promise.answers > 1) Fail(absl::StrCat("answered twice: ", promise.what));
}

// REQUIRES: the loop rests
void Simulation::CheckOverdue() {
  for (const auto& promise : promises_) {
    if (promise->answers == 0 && promise->deadline <= clock_.now)
      Fail(absl::StrCat("not answered by its deadline: ", promise->what));
  }
}

// REQUIRES: the loop and the pool rest
void Simulation::CheckCancelled() {
  directory_.ForEach([this](const SteppedSource& source) {
    if (source.WorksForNobody()) Fail("a fetch goes on though all its chunks came by other ways");
  });
}

void Simulation::CheckRead(ReadResult result, ByteRange range, const std::string& what) {
  if (disk_.dead()) return;  // nobody is left who could read
  const Looking looking(disk_);
  const Digest digest = result.lease.blob().digest();
  const Sample& sample = samples_.at(digest);
  absl::StatusOr<index::FileDescriptor> fd = store_->OpenForRead(digest);
  if (!fd.ok()) {
    if (!tampers_) Fail(absl::StrCat(what, " is OK, and its file does not open: ", fd.status().ToString()));
    return;
  }
  CheckBytes(sample, fd->get(), range, what);
  if (random_.Chance(30)) readers_.push_back({std::move(result.lease), *std::move(fd), range});
}

void Simulation::CheckReader(const Reader& reader) {
  const Blob& blob = reader.lease.blob();
  // What was taken back meanwhile may be anything; whoever reads on under the lease asks first.
  if (blob.refused() || !blob.presence().AllPresent(blob.geometry().Covering(reader.range))) return;
  CheckBytes(samples_.at(blob.digest()), reader.fd.get(), reader.range, "a reader that went on");
}

void Simulation::CheckBytes(const Sample& sample, int fd, ByteRange range, const std::string& what) {
  std::vector<std::byte> found(range.length);
  if (::pread(fd, found.data(), found.size(), static_cast<off_t>(range.offset)) !=
      static_cast<ssize_t>(found.size())) {
    return Fail(absl::StrCat("the file is too short: ", what));
  }
  const ChunkGeometry geometry = sample.geometry();
  const ChunkSpan chunks = geometry.Covering(range);
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    const ByteRange chunk = geometry.RangeOf(index);
    const uint64_t first = std::max(chunk.offset, range.offset);
    const ByteRange part{first, std::min(chunk.end(), range.end()) - first};
    const auto bytes = std::span(found).subspan(part.offset - range.offset, part.length);
    if (Same(bytes, sample.Right(part))) continue;
    if (sample.misled.contains(index) && Same(bytes, sample.Wrong(part))) continue;
    return Fail(absl::StrCat("wrong bytes in chunk ", index.value(), ": ", what));
  }
}

void Simulation::CheckPresent(const Sample& sample, const BlobKey& key, const std::string& when) {
  const Looking looking(disk_);
  const std::shared_ptr<Blob> blob = store_->Find(key);
  if (!blob || blob->presence().present_count() == 0) return;
  const absl::StatusOr<index::FileDescriptor> fd = store_->OpenForRead(key);
  if (!fd.ok()) return Fail(absl::StrCat("chunks are present ", when, ", and: ", fd.status().ToString()));
  const ChunkSpan all = blob->geometry().All();
  for (ChunkIndex index = all.first; index < all.end(); index = index.next()) {
    if (!blob->presence().IsPresent(index)) continue;
    CheckBytes(sample, fd->get(), blob->geometry().RangeOf(index), absl::StrCat("present ", when));
  }
}

void Simulation::CheckUnasked() {
  for (const auto& [digest, fd] : unasked_) {
    const Sample& sample = samples_.at(digest);
    std::vector<std::byte> found(sample.spec.size);
    const ssize_t got = ::pread(fd.get(), found.data(), found.size(), 0);
    if (got == static_cast<ssize_t>(found.size()) && Same(found, sample.right)) continue;
    return Fail(absl::StrCat("the kernel reads wrong bytes of ", digest.Short(), " unasked"));
  }
}

void Simulation::BeforeWrite(const std::string& name, uint64_t inode, ByteRange range) {
  const Sample* const sample = SampleOf(name);
  if (!sample || !store_) return;
  const Digest& digest = sample->spec.digest;
  const ChunkIndex index = sample->geometry().ChunkAt(range.offset);
  const std::string what = absl::StrCat("chunk ", index.value(), " of ", digest.Short(), " is overwritten");
  if (unasked_.contains(digest)) Fail(absl::StrCat(what, " while the kernel reads it unasked"));
  const std::shared_ptr<Blob> blob = store_->Find(digest);
  if (blob && blob->presence().IsPresent(index)) Fail(absl::StrCat(what, " while it is present"));
  if (index_.may_claim && index_.may_claim(digest, index, inode))
    Fail(absl::StrCat(what, " while it is claimed"));
}

void Simulation::BeforeUnlink(const std::string& name, uint64_t inode) {
  const Sample* const sample = SampleOf(name);
  if (!sample) return;
  const std::string what = absl::StrCat("the file of ", sample->spec.digest.Short(), " goes");
  // Not if it reads another one, which a stranger had removed and the store had made anew.
  const auto unasked = unasked_.find(sample->spec.digest);
  if (unasked != unasked_.end() && InodeOf(unasked->second.get()) == inode)
    Fail(what + " while the kernel reads it unasked");
  // Where the index fails, an eviction takes the file first as a last resort.
  if (IndexIsWell() && MayClaimAny(*sample, inode)) Fail(what + " while chunks of it are claimed");
}

bool Simulation::MayClaimAny(const Sample& sample, uint64_t inode) const {
  const ChunkSpan all = sample.geometry().All();
  for (ChunkIndex index = all.first; index < all.end(); index = index.next()) {
    if (index_.may_claim && index_.may_claim(sample.spec.digest, index, inode)) return true;
  }
  return false;
}

// A crash must not bring back what was refused. Where the index fails, an alarm says that it may.
void Simulation::CheckRefused() {
  if (!IndexIsWell()) return;
  for (const auto& [digest, sample] : samples_) {
    const std::shared_ptr<Blob> blob = store_->Find(digest);
    if (blob && blob->refused() && MayClaimAny(sample, disk_.InodeOf(digest.Hex())))
      Fail(absl::StrCat(digest.Short(), " is refused and still claimed"));
  }
}

absl::Status Simulation::OnComplete(const std::shared_ptr<Blob>& blob) {
  if (disk_.dead() || random_.Chance(revoke_fails_)) return absl::UnavailableError("the keeper is away");
  const Digest& digest = blob->digest();
  Trace(absl::StrCat(digest.Short(), " is settled"));
  // What stands beside is looked at by nobody here but ReadWhole.
  if (blob->key() != BlobKey(digest)) return absl::OkStatus();
  const std::string path = world_.data_dir + "/blobs/" + digest.Hex();
  index::FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && tampers_) return absl::UnavailableError("no such file");
  if (!blob->presence().complete()) Fail("a blob is announced as settled that is not complete");
  unasked_.insert_or_assign(digest, std::move(fd));
  CheckUnasked();
  return absl::OkStatus();
}

absl::Status Simulation::OnRevoke(const Blob& blob) {
  ForgetTakenBack();
  if (disk_.dead() || random_.Chance(revoke_fails_)) return absl::UnavailableError("the keeper is away");
  unasked_.erase(blob.digest());
  return absl::OkStatus();
}

void Simulation::ForgetTakenBack() {
  if (!store_) return;
  for (auto& [digest, chunks] : durable_) {
    const std::shared_ptr<Blob> blob = store_->Find(digest);
    if (blob) {
      chunks.IntersectWith(blob->presence().Snapshot());
    } else {
      chunks.Clear();
    }
  }
}

Sample& Simulation::AnySample() {
  return std::next(samples_.begin(), static_cast<std::ptrdiff_t>(random_.Below(samples_.size())))->second;
}

const Sample* Simulation::SampleOf(const std::string& file_name) const {
  const absl::StatusOr<Digest> digest = Digest::ParseHex(file_name);
  if (!digest.ok()) return nullptr;
  const auto found = samples_.find(*digest);
  return found == samples_.end() ? nullptr : &found->second;
}

ByteRange Simulation::AnyRange(const Sample& sample) {
  const uint64_t offset = random_.Below(sample.spec.size);
  const uint64_t most = std::min<uint64_t>(sample.spec.size - offset, 4 * kChunkSizeMin);
  return {offset, 1 + random_.Below(most)};
}

void Simulation::Trace(const std::string& what) {
  for (const char c : what) trace_hash_ = (trace_hash_ ^ static_cast<uint8_t>(c)) * 1099511628211ULL;
  if (trace_.size() == kTraceKept) trace_.erase(trace_.begin());
  trace_.push_back(absl::StrCat(step_, ": ", what));
}

void Simulation::Fail(const std::string& what) {
  if (!failure_.empty()) return;
  failure_ = what + "\n";
  for (const std::string& line : trace_) absl::StrAppend(&failure_, "  ", line, "\n");
}

}  // namespace sluice::sim
