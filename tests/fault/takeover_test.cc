// What becomes of a read when who was asked to fetch for it goes, hangs or breaks off, at every stage of its
// answer: the parts of a node that ask, over real sockets, and members that do as they are told.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/blob_cache.h"
#include "node/daemon/asio_executor.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/directory.h"
#include "p2p/cluster/download_budget.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/deaf_listener.h"
#include "tests/fault/fault_origin.h"
#include "tests/unit/node/fakes.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

constexpr char kRepository[] = "team/app";
constexpr uint32_t kChunk = 256 << 10;  // a blob of one, mostly: its ranks are those of its only stripe
constexpr size_t kOthers = 4;
constexpr char kInterim[] = "HTTP/1.1 102 Processing\r\n\r\n";
constexpr char kInterimThrottled[] = "HTTP/1.1 102 Processing\r\nSluice-Origin: throttled\r\n\r\n";

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  return bytes;
}

class NoLedger final : public AccessLedger {
 public:
  void NoteAccess(const BlobKey&, const BlobOrigin&, OriginAccess) override {}
  OriginAccess AccessOf(const BlobKey&, const BlobOrigin&) const override { return OriginAccess::kPublic; }
};

// What is right, and nothing else.
class BytesVerifier final : public ChunkVerifier {
 public:
  explicit BytesVerifier(const std::string& bytes) : bytes_(bytes) {}
  absl::StatusOr<Evidence> Verify(const Blob& blob, ChunkIndex index,
                                  std::span<const std::byte> bytes) override {
    const ByteRange range = blob.geometry().RangeOf(index);
    const std::string_view got(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (got != std::string_view(bytes_).substr(range.offset, range.length))
      return absl::DataLossError("wrong bytes");
    return Evidence::kVerified;
  }

 private:
  const std::string& bytes_;
};

// A registry that is asked beside the members.
class CountedOrigin final : public ChunkSource {
 public:
  explicit CountedOrigin(const std::string& bytes) : bytes_(bytes) {}
  SourceKind kind() const override { return SourceKind::kOrigin; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override {
    ++asked;
    for (ChunkIndex index = request.chunks.first; index < request.chunks.end(); index = index.next()) {
      const ByteRange range = request.blob->geometry().RangeOf(index);
      Buffer buffer(range.length);
      std::memcpy(buffer.data(), bytes_.data() + range.offset, range.length);
      request.progress->Add(range.length);
      on_chunk(index, std::move(buffer), SenderId{});
    }
    std::move(on_done)(absl::OkStatus());
    return FetchHandle();
  }
  void Judge(SenderId, const Blob&, ChunkIndex, Verdict) override {}

  std::atomic<int> asked{0};

 private:
  const std::string& bytes_;
};

class TakeoverTest : public ::testing::Test {
 protected:
  TakeoverTest() {
    for (size_t i = 0; i < kOthers; ++i) members_at_.push_back(std::make_unique<FaultOrigin>());
    ports_.resize(kOthers);
    for (size_t i = 0; i < kOthers; ++i) ports_[i] = members_at_[i]->port();
  }
  ~TakeoverTest() override {
    over_ = true;
    if (client_) client_->Stop();
    if (core_) core_->Stop();
    io_.Stop();
    cache_.reset();
  }

  static std::string NameOf(size_t member) { return absl::StrCat("node-", member); }

  // This node, which knows the others, and is no rank of the blob.
  void Start(Duration first_byte_budget = 700ms, std::optional<size_t> home = std::nullopt,
             uint32_t chunk_size = kChunk) {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = {"self", {{"127.0.0.1", 1}}, "", kProtocolMajor, 1};
    members_ = std::make_unique<Members>(std::move(options));
    for (size_t i = 0; i < kOthers; ++i) {
      const HostPort at{"127.0.0.1", ports_[i]};
      members_->Change([&](MemberTable& table, Instant now) {
        table.HeardFrom({NameOf(i), {at}, "", kProtocolMajor, 1}, at, now);
      });
    }
    ChooseBlob(home, chunk_size);
    client_ = std::make_unique<PeerClient>(telemetry_, client_options_);
    holders_ =
        std::make_unique<Holders>(Holders::Parts{clock_, io_, *members_, health_, *client_,
                                                 [] { return std::vector<HeldBlob>(); }, [] { return 0.5; }});
    blame_ = std::make_unique<ChunkBlame>(ChunkBlame::Parts{
        clock_, members_.get(), health_, telemetry_, [](const std::string&) {}, [](const std::string&) {}});
    directory_ = std::make_unique<ClusterDirectory>(ClusterDirectory::Parts{
        clock_, io_, *members_, health_, *client_, ledger_,
        [](const std::shared_ptr<Blob>&, const std::string&, auto then) { std::move(then)(true); },
        [] { return false; }, [] { return 0.5; }, [](const std::string&) {}, download_, *holders_, origin_,
        last_resort_, *blame_});
    core_ = std::make_unique<AsioExecutor>("core", 1);
    BlobCacheLimits limits;
    limits.first_byte_budget = first_byte_budget;
    limits.readahead_mode = ReadaheadMode::kOff;
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, *core_, io_, store_, verifier_, *directory_, telemetry_}, limits);
    blob_ = *store_.Open(spec_);
    (void)directory_->FillOrder(*blob_, blob_->geometry().All());  // computes its homes
  }
  void ChooseBlob(std::optional<size_t> home, uint32_t chunk_size) {
    const std::shared_ptr<const MemberView> view = members_->view();
    for (int i = 0;; ++i) {
      bytes_ = Pattern(kChunk - 8) + absl::StrCat(10000000 + i);
      spec_ = {.digest = Sha256::Of(bytes_),
               .size = kChunk,
               .chunk_size = chunk_size,
               .root = Sha256::Of("root"),
               .origins = {{"registry.example", kRepository}}};
      const auto homes = HomesCache().HomesOf(spec_.digest, kChunk, *view);
      ranks_.clear();
      for (size_t rank = 0; rank < kRanks; ++rank) {
        const Member& member = view->members[homes->ranks[0][rank]];
        if (!member.is_self) ranks_.push_back(std::stoul(member.name.substr(5)));
      }
      if (ranks_.size() == kRanks && ranks_[0] == home.value_or(ranks_[0])) return;
    }
  }
  FaultOrigin& Rank(size_t rank) { return *members_at_[ranks_[rank]]; }
  std::string Path() const { return FaultOrigin::BlobPath(kRepository, spec_.digest); }

  FaultBehaviour Gives() {
    return [this](const FaultRequest&, FaultConnection& connection) { connection.Send(206, Head(), bytes_); };
  }
  // Of whatever chunk is asked for.
  FaultBehaviour GivesPart() {
    return [this](const FaultRequest& request, FaultConnection& connection) {
      const uint64_t offset = std::stoull(request.Header("range").substr(strlen("bytes=")));
      const uint64_t last = offset + spec_.chunk_size - 1;
      connection.Send(206,
                      {{"Sluice-Node", "other"},
                       {"Content-Range", absl::StrCat("bytes ", offset, "-", last, "/", kChunk)}},
                      bytes_.substr(offset, spec_.chunk_size));
    };
  }
  FaultConnection::Headers Head() const {
    return {{"Sluice-Node", "other"}, {"Content-Range", absl::StrCat("bytes 0-", kChunk - 1, "/", kChunk)}};
  }
  void SendHalf(FaultConnection& connection) {
    FaultConnection::Headers headers = Head();
    headers.emplace_back("Content-Length", absl::StrCat(kChunk));
    connection.SendHead(206, headers);
    connection.SendRaw(std::string_view(bytes_).substr(0, kChunk / 2));
  }
  static FaultBehaviour Lacks() { return fault::Status(404, {{"Sluice-Node", "other"}}); }
  // As a home does that waits.
  FaultBehaviour Acknowledges(const std::string& interim) {
    return [this, interim](const FaultRequest&, FaultConnection& connection) {
      for (int i = 0; i < 600 && !over_; ++i) {
        connection.SendRaw(interim);
        std::this_thread::sleep_for(100ms);
      }
      connection.CloseAfter();
    };
  }
  // Whoever is asked for what it has lacks it, but in the role of a home does this.
  void AsHome(size_t rank, FaultBehaviour behaviour) {
    Rank(rank).Always(Path(), [behaviour = std::move(behaviour), lacks = Lacks()](
                                  const FaultRequest& request, FaultConnection& connection) {
      (request.Header("sluice-role") == "home" ? behaviour : lacks)(request, connection);
    });
  }
  size_t AskedAsHome(size_t rank) {
    const std::vector<FaultRequest> requests = Rank(rank).requests(Path());
    return static_cast<size_t>(
        std::count_if(requests.begin(), requests.end(),
                      [](const FaultRequest& request) { return request.Header("sluice-role") == "home"; }));
  }

  absl::Status Read(Duration patience = 30s, ByteRange range = {0, kChunk}) {
    std::promise<absl::Status> done;
    cache_->Read({.blob = spec_.digest, .range = range, .deadline = clock_.Now() + patience},
                 [&](absl::StatusOr<ReadResult> result) { done.set_value(result.status()); });
    return done.get_future().get();
  }
  // Nothing if it takes longer than any of these tests may.
  std::optional<absl::Status> Fill() {
    const auto done = std::make_shared<std::promise<absl::Status>>();
    cache_->Fill({.blob = spec_.digest, .fetch_class = FetchClass::kBackfill},
                 [done](const absl::Status& status) { done->set_value(status); });
    std::future<absl::Status> filled = done->get_future();
    if (filled.wait_for(20s) != std::future_status::ready) return std::nullopt;
    return filled.get();
  }
  uint64_t Takeovers(TakeoverReason reason) const {
    return telemetry_.takeovers[static_cast<size_t>(reason)].value();
  }
  // One that is silent may be seen to be so, or fail, first.
  uint64_t AllTakeovers() const {
    uint64_t count = 0;
    for (const Counter& takeovers : telemetry_.takeovers) count += takeovers.value();
    return count;
  }

  SteadyClock clock_;
  Telemetry telemetry_;
  MemberHealth health_;
  DownloadBudget download_{clock_, 0};
  NoLedger ledger_;
  std::string bytes_;
  BytesVerifier verifier_{bytes_};
  CountedOrigin origin_{bytes_}, last_resort_{bytes_};
  fakes::MemoryStore store_;
  std::atomic<bool> over_{false};
  std::vector<std::unique_ptr<FaultOrigin>> members_at_;
  std::vector<uint16_t> ports_;
  std::vector<size_t> ranks_;  // the members that are the blob's
  BlobSpec spec_;
  std::shared_ptr<Blob> blob_;
  AsioExecutor io_{"io", 1};
  std::unique_ptr<AsioExecutor> core_;
  std::unique_ptr<Members> members_;
  PeerClientOptions client_options_{.node_id = "this", .name = "self"};
  std::unique_ptr<PeerClient> client_;
  std::unique_ptr<Holders> holders_;
  std::unique_ptr<ChunkBlame> blame_;
  std::unique_ptr<ClusterDirectory> directory_;
  std::unique_ptr<BlobCache> cache_;
};

struct HomeFault {
  const char* name;
  bool half;   // of the chunk has come
  bool stops;  // else its end of the connection closes
};

class LostHomeTest : public TakeoverTest, public ::testing::WithParamInterface<HomeFault> {};

TEST_P(LostHomeTest, IsTakenOverByTheNext) {
  Start();
  AsHome(0, [this](const FaultRequest&, FaultConnection& connection) {
    connection.SendRaw(kInterim);
    if (GetParam().half) SendHalf(connection);
    if (GetParam().stops) connection.Stall();
    connection.CloseAfter();
  });
  AsHome(1, Gives());
  AsHome(2, Gives());
  EXPECT_TRUE(Read().ok());
  EXPECT_EQ(AskedAsHome(1), 1u);
  EXPECT_EQ(AskedAsHome(2), 0u) << "one that stands in is enough";
  EXPECT_GT(AllTakeovers(), 0u);
  EXPECT_EQ(origin_.asked + last_resort_.asked, 0) << "this node is none that may ask the registry";
}

INSTANTIATE_TEST_SUITE_P(AfterItsAcknowledgement, LostHomeTest,
                         ::testing::Values(HomeFault{"KilledWhileItWaits", false, false},
                                           HomeFault{"StoppedWhileItWaits", false, true},
                                           HomeFault{"KilledInMidChunk", true, false},
                                           HomeFault{"StoppedOrCutOffInMidChunk", true, true}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(TakeoverTest, AHomeThatAcknowledgesAndHangsIsTakenOverOnce) {
  Start();
  AsHome(0, Acknowledges(kInterim));
  AsHome(1, Gives());
  AsHome(2, Gives());
  EXPECT_TRUE(Read().ok());
  EXPECT_EQ(Takeovers(TakeoverReason::kStalled), 1u);
  EXPECT_EQ(AskedAsHome(1), 1u);
  EXPECT_EQ(AskedAsHome(2), 0u);
}

TEST_F(TakeoverTest, AHomeThatRefusesForEverIsTakenOver) {
  Start();
  AsHome(0, fault::Status(503, {{"Sluice-Node", "other"}, {"Sluice-Retry-Ms", "5"}}));
  AsHome(1, Gives());
  EXPECT_TRUE(Read().ok());
  EXPECT_EQ(Takeovers(TakeoverReason::kStalled), 1u);
  EXPECT_EQ(AskedAsHome(1), 1u);
}

TEST_F(TakeoverTest, AHomeThatAcknowledgesAndHangsHoldsUpNoFill) {
  Start(200ms);
  AsHome(0, Acknowledges(kInterim));
  AsHome(1, Gives());
  const std::optional<absl::Status> filled = Fill();
  EXPECT_TRUE(filled && filled->ok()) << filled.value_or(absl::DeadlineExceededError("it goes on"));
  EXPECT_EQ(Takeovers(TakeoverReason::kStalled), 1u);
  EXPECT_EQ(AskedAsHome(1), 1u);
  EXPECT_EQ(AskedAsHome(2), 0u);
  EXPECT_EQ(origin_.asked + last_resort_.asked, 0);
}

TEST_F(TakeoverTest, AHomeThatRefusesForEverHoldsUpNoFill) {
  Start(200ms);
  AsHome(0, fault::Status(503, {{"Sluice-Node", "other"}, {"Sluice-Retry-Ms", "5"}}));
  AsHome(1, Gives());
  const std::optional<absl::Status> filled = Fill();
  EXPECT_TRUE(filled && filled->ok()) << filled.value_or(absl::DeadlineExceededError("it goes on"));
  EXPECT_EQ(AskedAsHome(1), 1u);
}

TEST_F(TakeoverTest, AHomeThatNeverGivesAnythingIsNotWaitedForEachTime) {
  constexpr uint32_t kPart = 64 << 10;
  Start(300ms, std::nullopt, kPart);
  AsHome(0, Acknowledges(kInterim));
  AsHome(1, GivesPart());
  for (uint64_t part = 0; part < 4; ++part) EXPECT_TRUE(Read(30s, {part * kPart, kPart}).ok()) << part;
  EXPECT_EQ(AskedAsHome(0), MemberHealth::kStalledMax);
  EXPECT_EQ(Takeovers(TakeoverReason::kStalled), MemberHealth::kStalledMax);
  EXPECT_EQ(AskedAsHome(1), 4u);
  EXPECT_FALSE(health_.Usable(NameOf(ranks_[0]), clock_.Now()));
}

TEST_F(TakeoverTest, AHomeWithoutRoomIsTakenOverAtOnce) {
  Start(20s);
  AsHome(0, fault::Status(507, {{"Sluice-Node", "other"}}));
  AsHome(1, Gives());
  EXPECT_TRUE(Read(10s).ok()) << "long before a first byte would be late";
  EXPECT_EQ(AskedAsHome(1), 1u);
  EXPECT_EQ(Takeovers(TakeoverReason::kFailed), 1u);
  EXPECT_EQ(origin_.asked + last_resort_.asked, 0);
}

TEST_F(TakeoverTest, AHomeWhoseRegistryAsksForPatienceIsWaitedFor) {
  Start();
  for (const bool refuses : {false, true}) {
    AsHome(0, refuses ? fault::Status(503, {{"Sluice-Node", "other"},
                                            {"Sluice-Retry-Ms", "5"},
                                            {"Sluice-Origin", "throttled"}})
                      : Acknowledges(kInterimThrottled));
    AsHome(1, Gives());
    EXPECT_TRUE(absl::IsDeadlineExceeded(Read(2s))) << "whoever stood in would be told the same";
    EXPECT_EQ(AskedAsHome(1), 0u);
  }
  EXPECT_EQ(AllTakeovers(), 0u);
}

// The helper that was named has nothing to say of the registry.
TEST_F(TakeoverTest, PatienceLastsWhileHelpersAreAsked) {
  Start();
  AsHome(0, fault::Status(503, {{"Sluice-Node", "other"},
                                {"Sluice-Retry-Ms", "50"},
                                {"Sluice-Helpers", NameOf(ranks_[2])},
                                {"Sluice-Origin", "throttled"}}));
  AsHome(1, Gives());
  Rank(2).Always(Path(), [this](const FaultRequest&, FaultConnection& connection) {
    std::this_thread::sleep_for(300ms);
    connection.Send(404, {{"Sluice-Node", "other"}}, "{}");
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(Read(3s)));
  EXPECT_EQ(AskedAsHome(1), 0u);
}

TEST_F(TakeoverTest, WhenAllHomesAreKilledTheRegistryIsTheLastResort) {
  Start();
  std::promise<void> asked;
  AsHome(0, [&](const FaultRequest&, FaultConnection& connection) {
    connection.SendRaw(kInterim);
    asked.set_value();
    connection.Stall();
  });
  std::future<absl::Status> read = std::async(std::launch::async, [&] { return Read(); });
  asked.get_future().wait();
  for (size_t rank = 0; rank < kRanks; ++rank) members_at_[ranks_[rank]].reset();
  EXPECT_TRUE(read.get().ok());
  EXPECT_EQ(last_resort_.asked, 1);
  EXPECT_EQ(origin_.asked, 0);
}

// Who connects to a host that is off gets neither an answer nor a refusal.
TEST_F(TakeoverTest, AHomeThatSwallowsDialsCostsASilenceAndNotAConnectionsTimeout) {
  fault::DeafListener home;
  home.FillQueue();
  ports_[0] = home.port();
  client_options_.silence_max = client_options_.connect_timeout = 60s;
  Start(5s, 0);
  AsHome(1, Gives());
  EXPECT_TRUE(Read(20s).ok()) << "less than a connection may take elsewhere";
  EXPECT_EQ(AskedAsHome(1), 1u);
  EXPECT_EQ(Takeovers(TakeoverReason::kSilent), 0u) << "its kernel is no busier than that";
  EXPECT_EQ(Takeovers(TakeoverReason::kStalled), 0u) << "it has failed long before";
}

}  // namespace
}  // namespace sluice::p2p
