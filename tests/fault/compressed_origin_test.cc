// A registry that keeps blobs compressed, and lies: FAULTS.md row 80.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <atomic>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "p2p/recipe/sha256.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/seek_table.h"
#include "p2p/registry/stored_reader.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/skipping_time.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kRepository[] = "team/app";
constexpr uint32_t kChunk = 64 << 10;

// Never comes to what is put off: waits end by what they wait for.
class NeverLater final : public Executor {
 public:
  explicit NeverLater(Executor& now) : now_(now) {}
  void Post(Task task) override { now_.Post(std::move(task)); }
  void PostAt(Instant, Task task) override {
    const std::lock_guard lock(mutex_);
    put_off_.push_back(std::move(task));
  }

 private:
  Executor& now_;
  std::mutex mutex_;
  std::vector<Task> put_off_;
};

class ListLedger final : public AccessLedger {
 public:
  void NoteAccess(const BlobKey&, const BlobOrigin& origin, OriginAccess access) override {
    const std::lock_guard lock(mutex_);
    known_[origin] = access;
  }
  OriginAccess AccessOf(const BlobKey&, const BlobOrigin& origin) const override {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(origin);
    return found == known_.end() ? OriginAccess::kUnknown : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<BlobOrigin, OriginAccess> known_;
};

std::string Text(size_t size) {
  std::string text;
  while (text.size() < size) text += "line " + std::to_string(text.size() * 7919 % 10007) + "\n";
  text.resize(size);
  return text;
}

std::string Frame(std::string_view plain) {
  std::string out(ZSTD_compressBound(plain.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), plain.data(), plain.size(), 3));
  return out;
}

// A blob as a registry keeps it, and what a manifest says of that.
struct Stored {
  std::vector<std::string> frames;
  std::string table;  // made anew unless it is set
  std::string bytes;
  StoredForm form;
};

Stored Store(const std::string& plain, std::vector<std::string> frames, std::string table = "") {
  Stored stored{std::move(frames), std::move(table), "", {}};
  const ChunkGeometry geometry(plain.size(), kChunk);
  std::vector<uint32_t> sizes;
  for (const std::string& frame : stored.frames) {
    stored.bytes += frame;
    sizes.push_back(static_cast<uint32_t>(frame.size()));
  }
  if (stored.table.empty()) stored.table = SeekTable::Serialize(geometry, sizes);
  const SeekTablePlace place{{stored.bytes.size(), stored.table.size()}, Sha256::Of(stored.table)};
  stored.bytes += stored.table;
  stored.form = {Sha256::Of(stored.bytes), stored.bytes.size(), place};
  return stored;
}

class CompressedOriginTest : public ::testing::Test {
 protected:
  CompressedOriginTest() {
    options_.retries_max = 3;
    options_.rate_min_bytes_per_s = 0;
    for (size_t offset = 0; offset < blob_.size(); offset += kChunk)
      frames_.push_back(Frame(std::string_view(blob_).substr(offset, kChunk)));
  }
  ~CompressedOriginTest() override { client_.reset(); }

  RegistryClient& client() {
    if (!client_) client_.emplace(RegistryClient::Parts{time_, io_, telemetry_}, options_);
    return *client_;
  }
  OriginSource::Parts Parts() { return {client(), ledger_, time_, io_, telemetry_}; }
  BlobOrigin Place() const { return {origin_.registry(), kRepository}; }

  // The registry keeps it so; returns the blob as a manifest says it.
  std::shared_ptr<Blob> Put(const Stored& stored, FaultOrigin& origin) {
    origin.AddBlob(kRepository, stored.bytes);
    path_ = FaultOrigin::BlobPath(kRepository, stored.form.digest);
    const BlobOrigin place{origin.registry(), kRepository};
    return std::make_shared<Blob>(BlobSpec{.digest = Sha256::Of(blob_),
                                           .size = blob_.size(),
                                           .chunk_size = kChunk,
                                           .root = std::nullopt,
                                           .origins = {place},
                                           .stored = {{place, stored.form}}});
  }
  std::shared_ptr<Blob> Put(const Stored& stored) { return Put(stored, origin_); }

  absl::Status Fetch(OriginSource& source, const std::shared_ptr<Blob>& blob, ChunkSpan chunks,
                     Duration patience = 30s) {
    struct Answer {
      std::promise<absl::Status> done;
    };
    const auto answer = std::make_shared<Answer>();
    got_.clear();
    const FetchHandle handle = source.Fetch(
        {blob, chunks, FetchClass::kDemand, time_.Now() + patience, Asker::kLocal, nullptr,
         std::make_shared<FetchProgress>(time_)},
        [&](ChunkIndex index, Buffer bytes, SenderId) {
          const auto [it, is_new] = got_.emplace(
              index.value(), std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
          EXPECT_TRUE(is_new) << "chunk " << index.value() << " came twice";
        },
        [answer](absl::Status status) { answer->done.set_value(std::move(status)); });
    return answer->done.get_future().get();
  }
  absl::Status Fetch(const std::shared_ptr<Blob>& blob, ChunkSpan chunks) {
    OriginSource source(Parts());
    return Fetch(source, blob, chunks);
  }

  void ExpectRight(std::vector<uint32_t> chunks) {
    std::vector<uint32_t> got;
    for (const auto& [index, bytes] : got_) {
      got.push_back(index);
      EXPECT_TRUE(bytes == blob_.substr(index * size_t{kChunk}, kChunk)) << index;
    }
    EXPECT_EQ(got, chunks);
  }
  void ExpectDataLoss(const absl::Status& status, const std::string& part) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
  std::vector<std::string> Ranges() const {
    std::vector<std::string> ranges;
    for (const FaultRequest& request : origin_.requests(path_)) ranges.push_back(request.Header("range"));
    return ranges;
  }
  // The range of chunks' frames, as it is asked for.
  std::string RangeOf(size_t first, size_t end) const {
    size_t offset = 0;
    for (size_t i = 0; i < first; ++i) offset += frames_[i].size();
    size_t last = offset;
    for (size_t i = first; i < end; ++i) last += frames_[i].size();
    return "bytes=" + std::to_string(offset) + "-" + std::to_string(last - 1);
  }

  const std::string blob_ = Text(5 * kChunk + 1234);  // 6 chunks
  std::vector<std::string> frames_;
  FaultOrigin origin_;
  std::string path_;
  SkippingTime time_;
  NeverLater io_{time_};
  Telemetry telemetry_;
  ListLedger ledger_;
  RegistryOptions options_;
  std::optional<RegistryClient> client_;
  std::map<uint32_t, std::string> got_;
};

TEST_F(CompressedOriginTest, ARunOfChunksIsOneRangeOfFrames) {
  const Stored stored = Store(blob_, frames_);
  const std::shared_ptr<Blob> blob = Put(stored);
  OriginSource source(Parts());
  ASSERT_TRUE(Fetch(source, blob, {ChunkIndex(1), 3}).ok());
  ExpectRight({1, 2, 3});
  ASSERT_TRUE(Fetch(source, blob, {ChunkIndex(5), 1}).ok());
  ExpectRight({5});
  const uint64_t frames_bytes = stored.form.seek_table->range.offset;
  EXPECT_THAT(Ranges(), ElementsAre("bytes=" + std::to_string(frames_bytes) + "-" +
                                        std::to_string(stored.bytes.size() - 1),
                                    RangeOf(1, 4), RangeOf(5, 6)))
      << "the seek table once, then one request for each fetch";
  EXPECT_EQ(telemetry_.origin_plain_bytes.value(), 3 * kChunk + 1234);
  EXPECT_LT(telemetry_.origin_bytes.value(), telemetry_.origin_plain_bytes.value() / 2);
  EXPECT_EQ(ledger_.AccessOf(blob->key(), Place()), OriginAccess::kPublic);
}

TEST_F(CompressedOriginTest, TheSeekTableIsAskedForOnceByAll) {
  const std::shared_ptr<Blob> blob = Put(Store(blob_, frames_));
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  origin_.Script(path_, {[&](const FaultRequest& request, FaultConnection& connection) {
                   released.wait();
                   origin_.ServeByTheRules(request, connection);
                 }});
  OriginSource source(Parts());
  source.Expect(*blob);
  std::vector<std::promise<absl::Status>> done(4);
  std::vector<FetchHandle> handles;
  std::atomic<int> chunks{0};
  for (uint32_t i = 0; i < 4; ++i) {
    handles.push_back(source.Fetch(
        {blob,
         {ChunkIndex(i), 1},
         FetchClass::kDemand,
         time_.Now() + 30s,
         Asker::kLocal,
         nullptr,
         std::make_shared<FetchProgress>(time_)},
        [&](ChunkIndex, Buffer, SenderId) { ++chunks; },
        [&done, i](absl::Status status) { done[i].set_value(std::move(status)); }));
  }
  release.set_value();
  for (auto& each : done) EXPECT_TRUE(each.get_future().get().ok());
  EXPECT_EQ(chunks, 4);
  EXPECT_EQ(origin_.request_count(path_), 5u);
}

TEST_F(CompressedOriginTest, WhoGivesUpOnTheSeekTableIsTold) {
  const std::shared_ptr<Blob> blob = Put(Store(blob_, frames_));
  origin_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  OriginSource source(Parts());
  std::promise<absl::Status> done;
  {
    const FetchHandle dropped = source.Fetch(
        {blob,
         {ChunkIndex(0), 1},
         FetchClass::kDemand,
         time_.Now() + 30s,
         Asker::kLocal,
         nullptr,
         std::make_shared<FetchProgress>(time_)},
        [](ChunkIndex, Buffer, SenderId) {}, [&](absl::Status status) { done.set_value(std::move(status)); });
  }
  EXPECT_TRUE(absl::IsCancelled(done.get_future().get()));
}

TEST_F(CompressedOriginTest, AWaitForTheSeekTableEndsAtTheFetchsDeadline) {
  const std::shared_ptr<Blob> blob = Put(Store(blob_, frames_));
  origin_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  // Comes to the deadline at once; that of the asking for the table is later.
  OriginSource source({client(), ledger_, time_, time_, telemetry_});
  const absl::Status status = Fetch(source, blob, {ChunkIndex(0), 1}, 10s);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_F(CompressedOriginTest, ABlobOfOneChunkNeedsNoSeekTable) {
  const std::string plain = Text(1000);
  const std::string frame = Frame(plain);
  const Digest digest = origin_.AddBlob(kRepository, frame);
  const auto blob =
      std::make_shared<Blob>(BlobSpec{.digest = Sha256::Of(plain),
                                      .size = plain.size(),
                                      .chunk_size = kChunk,
                                      .root = std::nullopt,
                                      .origins = {Place()},
                                      .stored = {{Place(), StoredForm{digest, frame.size(), std::nullopt}}}});
  ASSERT_TRUE(Fetch(blob, {ChunkIndex(0), 1}).ok());
  EXPECT_EQ(got_[0], plain);
  EXPECT_EQ(origin_.request_count(FaultOrigin::BlobPath(kRepository, digest)), 1u);
}

TEST_F(CompressedOriginTest, AWholeStoredBlobIsNotFetchedInParts) {
  Stored stored = Store(blob_, frames_);
  stored.form.seek_table.reset();
  const absl::Status status = Fetch(Put(stored), {ChunkIndex(0), 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(origin_.request_count(path_), 0u);
}

TEST_F(CompressedOriginTest, ABrokenStreamIsResumedWithTheFramesThatAreLeft) {
  const std::shared_ptr<Blob> blob = Put(Store(blob_, frames_));
  OriginSource source(Parts());
  ASSERT_TRUE(Fetch(source, blob, {ChunkIndex(5), 1}).ok());
  const FaultBehaviour break_off = [&](const FaultRequest& request, FaultConnection& connection) {
    size_t first = 0;
    size_t last = 0;
    ASSERT_EQ(std::sscanf(request.Header("range").c_str(), "bytes=%zu-%zu", &first, &last), 2);
    const std::string all = Store(blob_, frames_).bytes;
    connection.Send(206,
                    {{"Content-Range", "bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" +
                                           std::to_string(all.size())},
                     {"Content-Length", std::to_string(last - first + 1)}},
                    all.substr(first, frames_[0].size() + frames_[1].size() / 2));
    connection.CloseAfter();
  };
  origin_.Script(path_, {break_off});
  ASSERT_TRUE(Fetch(source, blob, {ChunkIndex(0), 4}).ok());
  ExpectRight({0, 1, 2, 3});
  EXPECT_EQ(Ranges().back(), RangeOf(1, 4));
}

// --- A seek table that lies.

std::string Little(uint32_t value) {
  std::string out;
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

TEST_F(CompressedOriginTest, ASeekTableThatLiesIsDataLossAndTheNextOriginIsAsked) {
  const Stored good = Store(blob_, frames_);
  const auto with = [&](size_t offset, uint32_t value) {
    std::string table = good.table;
    table.replace(offset, 4, Little(value));
    return table;
  };
  struct Lie {
    std::string table;
    std::string said;
  };
  const size_t footer = good.table.size() - 9;
  const std::vector<Lie> lies = {
      {with(8, 1), "stored are"},             // a size
      {with(8, 0), "no bytes"},               // an empty frame
      {with(8, 0x7fffffff), "at most"},       // past the end
      {with(12, kChunk / 2), "plain bytes"},  // a plain size
      {with(footer, 5), "5 frames"},          // the count
      {with(4, 7), "its frame says"},         // its own size
      {good.table.substr(8), "not begin"},    // no skippable frame
      {with(footer + 5, 0), "not end"},       // no seek table
      {good.table.substr(0, footer) + Little(6) + "\x80" + good.table.substr(footer + 5), "with checksums"},
  };
  FaultOrigin honest;
  const std::shared_ptr<Blob> right = Put(good, honest);
  for (const Lie& lie : lies) {
    const std::shared_ptr<Blob> blob = Put(Store(blob_, frames_, lie.table));
    ExpectDataLoss(Fetch(blob, {ChunkIndex(0), 2}), lie.said);
    EXPECT_TRUE(got_.empty());
    BlobSpec both = *blob->facts();
    both.origins.push_back(right->facts()->origins.front());
    both.stored.insert(*right->facts()->stored.begin());
    EXPECT_TRUE(Fetch(std::make_shared<Blob>(both), {ChunkIndex(0), 2}).ok()) << lie.said;
    ExpectRight({0, 1});
  }
}

TEST_F(CompressedOriginTest, ASeekTableOfAnotherDigestIsDataLoss) {
  Stored stored = Store(blob_, frames_);
  const std::shared_ptr<Blob> blob = Put(stored);
  stored.bytes[stored.bytes.size() - 5] = '\x01';  // an unused bit: no lie, but not what was promised
  origin_.Always(path_, [&](const FaultRequest& request, FaultConnection& connection) {
    size_t first = 0;
    size_t last = 0;
    ASSERT_EQ(std::sscanf(request.Header("range").c_str(), "bytes=%zu-%zu", &first, &last), 2);
    connection.Send(206,
                    {{"Content-Range", "bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" +
                                           std::to_string(stored.bytes.size())}},
                    stored.bytes.substr(first, last - first + 1));
  });
  ExpectDataLoss(Fetch(blob, {ChunkIndex(0), 2}), "digest promises");
}

// --- Frames that lie.

// Frame 2 is replaced; the table knows its size.
class LyingFrameTest : public CompressedOriginTest {
 protected:
  absl::Status FetchWith(std::string frame) {
    std::vector<std::string> frames = frames_;
    frames[2] = std::move(frame);
    return Fetch(Put(Store(blob_, frames)), {ChunkIndex(0), 6});
  }
  void ExpectLeftOut(const std::string& frame, const std::string& part) {
    const uint64_t before = telemetry_.verify_failures[static_cast<size_t>(SourceKind::kOrigin)].value();
    const absl::Status status = FetchWith(frame);
    ExpectDataLoss(status, part);
    ExpectDataLoss(status, "chunk 2 of blob " + Sha256::Of(blob_).ToString());
    ExpectRight({0, 1, 3, 4, 5});
    EXPECT_EQ(telemetry_.verify_failures[static_cast<size_t>(SourceKind::kOrigin)].value(), before + 1);
  }
};

TEST_F(LyingFrameTest, OfAnotherSize) {
  ExpectLeftOut(Frame(blob_.substr(0, kChunk - 1)), "not 65536");
  ExpectLeftOut(Frame(blob_.substr(0, kChunk + 1)), "not 65536");
  ExpectLeftOut(Frame(std::string(64 << 20, '\0')), "not 65536");
}

TEST_F(LyingFrameTest, WithBytesBehindIt) {
  ExpectLeftOut(frames_[2] + "x", "follow it");
  ExpectLeftOut(frames_[2] + Frame(""), "follow it");
  ExpectLeftOut(Frame(blob_.substr(0, kChunk / 2)) + Frame(blob_.substr(0, kChunk / 2)), "not 65536");
}

TEST_F(LyingFrameTest, CutShort) {
  ExpectLeftOut(frames_[2].substr(0, frames_[2].size() - 1), "zstd frame");
  ExpectLeftOut(frames_[2].substr(0, 3), "cut off");
}

TEST_F(LyingFrameTest, WithAHugeWindow) {
  // Magic number, no single segment, 3.75 TiB, one empty last block.
  ExpectLeftOut(std::string("\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00", 9), "window");
}

TEST_F(LyingFrameTest, ThatIsNone) {
  ExpectLeftOut("no frame at all", "none");
  ExpectLeftOut(std::string("\x50\x2a\x4d\x18\x04\x00\x00\x00skip", 12), "none");
}

TEST_F(LyingFrameTest, IsBlamedAndTheNextTimeAnotherOriginIsAskedFirst) {
  FaultOrigin honest;
  const std::shared_ptr<Blob> right = Put(Store(blob_, frames_), honest);
  const std::string right_path = path_;
  std::vector<std::string> frames = frames_;
  frames[2] = "lie";
  const std::shared_ptr<Blob> lying = Put(Store(blob_, frames));
  BlobSpec both = *lying->facts();
  both.origins.push_back(right->facts()->origins.front());
  both.stored.insert(*right->facts()->stored.begin());
  const auto blob = std::make_shared<Blob>(both);
  OriginSource source(Parts());
  ExpectDataLoss(Fetch(source, blob, {ChunkIndex(1), 3}), "chunk 2");
  ExpectRight({1, 3});
  EXPECT_EQ(honest.request_count(right_path), 0u);
  const size_t asked = origin_.request_count(path_);
  ASSERT_TRUE(Fetch(source, blob, {ChunkIndex(2), 1}).ok());
  ExpectRight({2});
  EXPECT_EQ(origin_.request_count(path_), asked);
}

// --- One chunk of one origin.

TEST_F(CompressedOriginTest, AChunkIsReadAsThatOriginGivesIt) {
  FaultOrigin other;
  const std::shared_ptr<Blob> blob = Put(Store(blob_, frames_));
  OriginSource source(Parts());
  const auto given = source.ReadChunk(Place(), blob, ChunkIndex(5), time_.Now() + 30s);
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->bytes.size(), 1234u);
  EXPECT_EQ(given->access, OriginAccess::kPublic);
  EXPECT_EQ(ledger_.AccessOf(blob->key(), Place()), OriginAccess::kUnknown) << "nothing is noted";
  EXPECT_TRUE(absl::IsNotFound(
      source.ReadChunk({other.registry(), kRepository}, blob, ChunkIndex(5), time_.Now() + 30s).status()));
}

// --- The whole, in order.

class StoredReaderTest : public CompressedOriginTest {
 protected:
  absl::Status Read(const StoredForm& stored, uint64_t plain_size) {
    plain_.clear();
    return ReadStored(
        {client(), time_, telemetry_}, Place(), stored, plain_size, {time_.Now() + 30s, cancelled_},
        [&](OriginAccess access) { access_ = access; },
        [&](std::span<const std::byte> bytes) {
          plain_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          return absl::OkStatus();
        });
  }

  std::atomic<bool> cancelled_{false};
  OriginAccess access_ = OriginAccess::kUnknown;
  std::string plain_;
};

std::string Noise(size_t size) {
  std::string bytes(size, '\0');
  uint64_t x = 88172645463325252;
  for (char& c : bytes) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    c = static_cast<char>(x);
  }
  return bytes;
}

TEST_F(StoredReaderTest, GivesThePlainBytesPieceByPiece) {
  const std::string plain = Noise(11 << 20);
  const std::string frame = Frame(plain);
  const Digest digest = origin_.AddBlob(kRepository, frame);
  ASSERT_TRUE(Read({digest, frame.size(), std::nullopt}, plain.size()).ok());
  EXPECT_TRUE(plain_ == plain);
  EXPECT_EQ(access_, OriginAccess::kPublic);
  EXPECT_EQ(origin_.request_count(FaultOrigin::BlobPath(kRepository, digest)), 3u);
  EXPECT_EQ(telemetry_.origin_plain_bytes.value(), plain.size());
}

TEST_F(StoredReaderTest, GoesOnWhereAPieceBroke) {
  const std::string frame = Frame(blob_);
  const Digest digest = origin_.AddBlob(kRepository, frame);
  const std::string path = FaultOrigin::BlobPath(kRepository, digest);
  origin_.Script(path, {[&](const FaultRequest&, FaultConnection& connection) {
                   connection.Send(206,
                                   {{"Content-Range", "bytes 0-" + std::to_string(frame.size() - 1) + "/" +
                                                          std::to_string(frame.size())},
                                    {"Content-Length", std::to_string(frame.size())}},
                                   frame.substr(0, 1000));
                   connection.CloseAfter();
                 }});
  ASSERT_TRUE(Read({digest, frame.size(), std::nullopt}, blob_.size()).ok());
  EXPECT_TRUE(plain_ == blob_);
  EXPECT_EQ(origin_.requests(path).back().Header("range"), "bytes=1000-" + std::to_string(frame.size() - 1));
}

TEST_F(StoredReaderTest, RefusesWhatLies) {
  const std::string frame = Frame(blob_);
  const Digest digest = origin_.AddBlob(kRepository, frame);
  const StoredForm stored{digest, frame.size(), std::nullopt};
  ExpectDataLoss(Read(stored, blob_.size() - 1), "more than");
  EXPECT_LE(plain_.size(), blob_.size());
  ExpectDataLoss(Read(stored, blob_.size() + 1), "plain bytes came out");
  const std::string path = FaultOrigin::BlobPath(kRepository, digest);
  // As many bytes, and as many plain ones, but others.
  origin_.Always(path, fault::Status(206,
                                     {{"Content-Range", "bytes 0-" + std::to_string(frame.size() - 1) + "/" +
                                                            std::to_string(frame.size())}},
                                     std::string(frame.size(), 'x')));
  ExpectDataLoss(Read(stored, blob_.size()), "zstd frame");
}

TEST_F(StoredReaderTest, HoldsWhatIsStoredAgainstItsDigest) {
  const std::string frame = Frame(blob_);
  std::string other = blob_;
  other[7] = 'X';
  const std::string other_frame = Frame(other);
  const Digest promised = Sha256::Of(frame);
  origin_.Always(FaultOrigin::BlobPath(kRepository, promised),
                 fault::Status(206,
                               {{"Content-Range", "bytes 0-" + std::to_string(other_frame.size() - 1) + "/" +
                                                      std::to_string(other_frame.size())}},
                               other_frame));
  ExpectDataLoss(Read({promised, other_frame.size(), std::nullopt}, blob_.size()), "digest");
}

TEST_F(StoredReaderTest, EndsSoonWhenItIsCancelled) {
  const std::string frame = Frame(blob_);
  const Digest digest = origin_.AddBlob(kRepository, frame);
  origin_.Always(FaultOrigin::BlobPath(kRepository, digest), [&](const FaultRequest&, FaultConnection& c) {
    cancelled_ = true;
    c.Stall();
  });
  EXPECT_TRUE(absl::IsCancelled(Read({digest, frame.size(), std::nullopt}, blob_.size())));
}

}  // namespace
}  // namespace sluice::p2p
