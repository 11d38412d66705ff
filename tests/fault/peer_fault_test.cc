// What becomes of a fetch when a member misbehaves, injected over real sockets.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/asio_executor.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/member_source.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/cluster/peer_documents.h"
#include "p2p/cluster/ranks.h"
#include "p2p/cluster/witness_source.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kNodeId[] = "0123456789abcdef";
constexpr uint32_t kChunk = kChunkSizeMin;
constexpr uint32_t kChunks = 16;  // of the blob: one stripe, so that one member is the first for all of it
constexpr Duration kLong = 30s;   // far beyond what any fault may take

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  return bytes;
}

class NoteLedger final : public AccessLedger {
 public:
  void NoteAccess(const BlobKey&, const BlobOrigin& origin, OriginAccess access) override {
    const std::lock_guard lock(mutex_);
    notes_[origin] = access;
  }
  OriginAccess AccessOf(const BlobKey&, const BlobOrigin& origin) const override {
    const std::lock_guard lock(mutex_);
    const auto found = notes_.find(origin);
    return found == notes_.end() ? OriginAccess::kUnknown : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<BlobOrigin, OriginAccess> notes_;
};

// The bytes that a request's Range asks for, as "bytes=<first>-<last>".
ByteRange RangeOf(const FaultRequest& request) {
  unsigned long long first = 0, last = 0;
  EXPECT_EQ(std::sscanf(request.Header("range").c_str(), "bytes=%llu-%llu", &first, &last), 2);
  EXPECT_LE(first, last) << "an empty range was asked for";
  return {first, last - first + 1};
}

std::string ContentRangeOf(ByteRange range, uint64_t size) {
  return absl::StrCat("bytes ", range.offset, "-", range.end() - 1, "/", size);
}

struct Outcome {
  absl::Status status;
  std::map<uint32_t, std::string> chunks;
  std::vector<SenderId> senders;
  Duration took{};
};

class PeerFaultTest : public ::testing::Test {
 protected:
  PeerFaultTest() {
    spec_.digest = Sha256::Of(bytes_);
    spec_.size = bytes_.size();
    spec_.chunk_size = kChunk;
    spec_.root = Sha256::Of("root");
    spec_.origins = {{"registry.example:5000", "team/app"}};
    path_ = FaultOrigin::BlobPath("team/app", spec_.digest);
    options_.node_id = kNodeId;
    options_.name = "this node";
    options_.connect_timeout = 500ms;
    options_.silence_max = 200ms;
    options_.present_silence_max = kLong;
    options_.rate_window = 1s;
  }
  ~PeerFaultTest() override { Stop(); }

  void Stop() {
    handles_.clear();
    if (client_) client_->Stop();
    io_.Stop();
  }

  // What a good member does.
  FaultBehaviour Serves(FaultConnection::Headers more = {}) const {
    return [this, more](const FaultRequest& request, FaultConnection& connection) {
      const ByteRange range = RangeOf(request);
      FaultConnection::Headers headers = {{"Sluice-Node", "good"},
                                          {"Content-Range", ContentRangeOf(range, bytes_.size())}};
      headers.insert(headers.end(), more.begin(), more.end());
      connection.Send(206, headers, bytes_.substr(range.offset, range.length));
    };
  }
  static FaultBehaviour Lacks(const std::string& present = "") {
    return [present](const FaultRequest&, FaultConnection& connection) {
      FaultConnection::Headers headers = {{"Sluice-Node", "good"}};
      if (!present.empty()) headers.emplace_back("Sluice-Present", present);
      connection.Send(404, headers, "{}");
    };
  }

  // Members at these addresses, and a source that asks them.
  void Use(const std::vector<uint16_t>& ports) {
    handles_.clear();
    Members::Options options;
    for (const uint16_t port : ports) options.configured.push_back({"127.0.0.1", port});
    members_ = std::make_unique<Members>(std::move(options));
    members_->Start();
    members_->Change([&](MemberTable& table, Instant now) {
      for (const uint16_t port : named_ ? ports : std::vector<uint16_t>()) {
        const HostPort address{"127.0.0.1", port};
        table.HeardFrom({address.ToString(), {address}, "", kProtocolMajor, 1}, address, now);
      }
    });
    client_ = std::make_unique<PeerClient>(telemetry_, options_);
    download_.emplace(clock_, download_rate_);
    const auto warn = [this](const std::string& text) {
      const std::lock_guard lock(mutex_);
      warnings_.push_back(text);
    };
    blame_ = std::make_unique<ChunkBlame>(
        ChunkBlame::Parts{clock_, members_.get(), health_, telemetry_, warn, [this](const std::string& text) {
                            const std::lock_guard lock(mutex_);
                            alarms_.push_back(text);
                          }});
    access_ = std::make_unique<MemberAccess>(MemberAccess{
        clock_, io_, *members_, health_, *client_, ledger_,
        [this](const std::shared_ptr<Blob>&, const std::string&, auto then) { std::move(then)(bound_); },
        [this](const Blob&, Asker, const std::string&, Duration) { ++not_carried_; },
        [](const Blob&, const std::string&) {}, [] { return 0.5; }, warn, *download_, *blame_, unsealed_});
    sources_.clear();
    for (const Member& member : Order())
      sources_.push_back(std::make_unique<MemberSource>(*access_, member, PeerRole::kHome));
  }
  // Two members; `first` is then the one that is asked first.
  void UseBoth() {
    Use({a_.port(), b_.port()});
    const std::vector<Member> order = Order();
    ASSERT_EQ(order.size(), 2u);
    first_ = order[0].address.port == a_.port() ? &a_ : &b_;
    second_ = first_ == &a_ ? &b_ : &a_;
  }
  std::vector<Member> Order() {
    const std::shared_ptr<const MemberView> view = members_->view();
    const std::shared_ptr<const BlobHomes> homes = HomesCache().HomesOf(spec_.digest, spec_.size, *view);
    return RanksOfStripe(*view, *homes, 0, health_, 10, clock_.Now());
  }
  std::string NameOf(const FaultOrigin& member) { return member.registry(); }
  bool IsUsable(const FaultOrigin& member, Duration later = {}) {
    return health_.Usable(Member{{"127.0.0.1", member.port()}, NameOf(member), 0, false, {}},
                          clock_.Now() + later);
  }

  FetchRequest Request(uint32_t count = kChunks, FetchClass fetch_class = FetchClass::kDemand,
                       Duration patience = kLong) {
    return {std::make_shared<Blob>(spec_),
            {ChunkIndex(0), count},
            fetch_class,
            clock_.Now() + patience,
            Asker::kLocal,
            nullptr,
            std::make_shared<FetchProgress>(clock_)};
  }

  // Asks one member.
  std::future<Outcome> Begin(MemberSource& source, ChunkSpan chunks, Duration patience = kLong) {
    auto outcome = std::make_shared<Outcome>();
    auto done = std::make_shared<std::promise<Outcome>>();
    std::future<Outcome> result = done->get_future();
    const Instant begun = clock_.Now();
    FetchRequest request = Request(kChunks, fetch_class_, patience);
    request.chunks = chunks;
    handles_.push_back(source.Fetch(
        std::move(request),
        [outcome](ChunkIndex index, Buffer buffer, SenderId sender) {
          std::string bytes(reinterpret_cast<const char*>(buffer.data()), buffer.size());
          EXPECT_TRUE(outcome->chunks.emplace(index.value(), std::move(bytes)).second)
              << "chunk " << index.value() << " came twice";
          outcome->senders.push_back(sender);
        },
        [outcome, done, begun, this](absl::Status status) {
          outcome->status = std::move(status);
          outcome->took = clock_.Now() - begun;
          done->set_value(std::move(*outcome));
        }));
    return result;
  }
  std::future<Outcome> Begin(Duration patience = kLong) {
    return Begin(*sources_.front(), {ChunkIndex(0), kChunks}, patience);
  }
  // Asks the members in their order, each that is worth asking for what is left, as the directory does.
  Outcome Fetch(Duration patience = kLong) {
    Outcome all;
    all.status = absl::NotFoundError("nobody was asked");
    const Instant begun = clock_.Now();
    for (const auto& source : sources_) {
      if (!health_.Usable(source->member(), clock_.Now())) continue;
      for (uint32_t i = 0; i < kChunks; ++i) {
        if (all.chunks.contains(i)) continue;
        uint32_t end = i + 1;
        while (end < kChunks && !all.chunks.contains(end)) ++end;
        std::future<Outcome> result =
            Begin(*source, {ChunkIndex(i), end - i}, patience - (clock_.Now() - begun));
        if (result.wait_for(2 * kLong) != std::future_status::ready) {
          ADD_FAILURE() << "the fetch never ended";
          std::abort();
        }
        Outcome outcome = result.get();
        all.status = std::move(outcome.status);
        all.chunks.merge(outcome.chunks);
        all.senders.insert(all.senders.end(), outcome.senders.begin(), outcome.senders.end());
        i = end - 1;
      }
      if (all.chunks.size() == kChunks) break;
    }
    if (all.chunks.size() == kChunks) all.status = absl::OkStatus();
    all.took = clock_.Now() - begun;
    return all;
  }
  std::string MemberOf(SenderId sender) const {
    const std::optional<ChunkSender> known = blame_->Find(sender);
    return known ? known->member.name : std::string();
  }

  void ExpectRight(const Outcome& outcome) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    ASSERT_EQ(outcome.chunks.size(), kChunks);
    for (const auto& [index, bytes] : outcome.chunks)
      EXPECT_EQ(bytes, bytes_.substr(size_t{index} * kChunk, kChunk)) << "chunk " << index;
  }
  // So that the cache goes on to the origin, and soon.
  void ExpectGivesWay(const Outcome& outcome) {
    EXPECT_FALSE(outcome.status.ok());
    EXPECT_LT(outcome.took, kLong / 2);
  }

  const std::string bytes_ = Pattern(size_t{kChunk} * kChunks);
  BlobSpec spec_;
  std::string path_;
  PeerClientOptions options_;
  bool bound_ = true;
  bool named_ = true;  // whether the members' names are known
  Telemetry telemetry_;
  SteadyClock clock_;
  NoteLedger ledger_;
  MemberHealth health_;
  std::mutex mutex_;
  std::vector<std::string> warnings_, alarms_;  // guarded by mutex_
  Unsealed unsealed_ = Unsealed::kFromRegistry;
  FaultOrigin a_, b_;
  FaultOrigin* first_ = nullptr;
  FaultOrigin* second_ = nullptr;
  std::unique_ptr<Members> members_;
  std::unique_ptr<PeerClient> client_;
  std::unique_ptr<ChunkBlame> blame_;
  uint64_t download_rate_ = 0;
  std::optional<DownloadBudget> download_;
  FetchClass fetch_class_ = FetchClass::kDemand;
  std::unique_ptr<MemberAccess> access_;
  std::vector<std::unique_ptr<MemberSource>> sources_;  // in the order in which they are asked
  std::atomic<int> not_carried_{0};
  std::vector<FetchHandle> handles_;
  AsioExecutor io_{"io", 2};
};

// ------------------------------------------------------------------------------------------ what is right

TEST_F(PeerFaultTest, AMemberIsToldWhatIsReadAhead) {
  a_.Always(path_, Serves());
  Use({a_.port()});
  const auto said = [&](FetchClass fetch_class) {
    fetch_class_ = fetch_class;
    ExpectRight(Fetch());
    const FaultRequest request = a_.requests(path_).back();
    return absl::StrCat(request.Header("sluice-class"), " ", request.Header("sluice-ahead"));
  };
  EXPECT_EQ(said(FetchClass::kDemand), "demand ");
  EXPECT_EQ(said(FetchClass::kReadahead), "fill 1");
  EXPECT_EQ(said(FetchClass::kHint), "fill ");
  EXPECT_EQ(said(FetchClass::kBackfill), "fill ");
}

TEST_F(PeerFaultTest, AGoodMemberGivesEveryByteAndIsAskedAsTheProtocolSays) {
  a_.Always(path_, Serves());
  Use({a_.port()});
  const Outcome outcome = Fetch();
  ExpectRight(outcome);
  ASSERT_EQ(a_.request_count(path_), kChunks) << "each chunk is asked for by itself";
  const FaultRequest request = a_.requests(path_)[0];
  EXPECT_EQ(request.query, "ns=registry.example:5000");
  EXPECT_EQ(request.Header("sluice-role"), "home");
  EXPECT_EQ(request.Header("sluice-from"), "this node");
  EXPECT_THAT(request.Header("sluice-blob"), HasSubstr(absl::StrCat("size=", bytes_.size())));
  EXPECT_EQ(request.Header("sluice-class"), "demand");
  for (const char* const name : {"user-agent", "accept", "accept-encoding"})
    EXPECT_EQ(request.Header(name), "") << name << " says nothing that a member looks at";
  EXPECT_EQ(request.Header("authorization"), "");
  EXPECT_EQ(ledger_.AccessOf(spec_.digest, spec_.origins[0]), OriginAccess::kUnknown)
      << "nothing of it is proven yet";
  sources_[0]->Judge(outcome.senders[0], Blob(spec_), ChunkIndex(0), ChunkSource::Verdict::kWrong);
  EXPECT_EQ(ledger_.AccessOf(spec_.digest, spec_.origins[0]), OriginAccess::kUnknown);
  sources_[0]->Judge(outcome.senders[0], Blob(spec_), ChunkIndex(0), ChunkSource::Verdict::kRight);
  EXPECT_EQ(ledger_.AccessOf(spec_.digest, spec_.origins[0]), OriginAccess::kHearsay);
  EXPECT_EQ(telemetry_.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)].value(), bytes_.size());
}

TEST_F(PeerFaultTest, FillsWaitForTheBudgetOfBytesAndReadersBorrowFromIt) {
  a_.Always(path_, Serves());
  download_rate_ = bytes_.size();  // a quarter of it is saved
  Use({a_.port()});
  const Instant begun = clock_.Now();
  ExpectRight(Fetch());
  fetch_class_ = FetchClass::kBackfill;
  ExpectRight(Fetch());
  // The reader's three quarters are paid for first, then all but the last of the fill's.
  EXPECT_GE(clock_.Now() - begun, 750ms + 1s * (kChunks - 1) / kChunks - 10ms);
}

TEST_F(PeerFaultTest, WithoutABoundRecipeOrAnOriginNobodyIsAsked) {
  a_.Always(path_, Serves());
  Use({a_.port()});
  bound_ = false;
  ExpectGivesWay(Fetch());
  bound_ = true;
  spec_.origins.clear();
  ExpectGivesWay(Fetch());
  EXPECT_EQ(a_.connection_count(), 0u);
  EXPECT_EQ(not_carried_, 2) << "so that each node asks the origin for itself";
}

TEST_F(PeerFaultTest, AMemberIsAskedByTheNextRepositoryForWhatItLacksByTheFirst) {
  spec_.origins.push_back({"other.example", "mirror/app"});
  const std::string other = FaultOrigin::BlobPath("mirror/app", spec_.digest);
  a_.Always(path_, Lacks());
  a_.Always(other, Serves());
  Use({a_.port()});
  sources_[0] = std::make_unique<MemberSource>(*access_, sources_[0]->member(), PeerRole::kPresentOnly);
  const Outcome outcome = Fetch();
  ExpectRight(outcome);
  sources_[0]->Judge(outcome.senders[0], Blob(spec_), ChunkIndex(0), ChunkSource::Verdict::kRight);
  EXPECT_EQ(ledger_.AccessOf(spec_.digest, spec_.origins[0]), OriginAccess::kUnknown);
  EXPECT_EQ(ledger_.AccessOf(spec_.digest, spec_.origins[1]), OriginAccess::kHearsay);
}

// ------------------------------------------------------------------------------------ busy, and helpers

FaultBehaviour Busy(const std::string& helpers, int retry_ms = 5) {
  return fault::Status(
      503,
      {{"Sluice-Node", "good"}, {"Sluice-Helpers", helpers}, {"Sluice-Retry-Ms", absl::StrCat(retry_ms)}});
}

TEST_F(PeerFaultTest, ABusyMemberIsAskedAgainUntilItHasTime) {
  std::vector<FaultBehaviour> refusals(3 * kChunks, Busy(""));
  a_.Script(path_, refusals);
  a_.Always(path_, Serves());
  Use({a_.port()});
  ExpectRight(Fetch());
  EXPECT_EQ(a_.request_count(path_), 4 * kChunks);
  EXPECT_TRUE(IsUsable(a_)) << "to be busy is no failure";
}

TEST_F(PeerFaultTest, ABusyMemberIsNotAskedBeyondTheDeadline) {
  a_.Always(path_, Busy(""));
  Use({a_.port()});
  const Outcome outcome = Fetch(500ms);
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.status)) << outcome.status;
  EXPECT_TRUE(IsUsable(a_));
}

TEST_F(PeerFaultTest, HelpersAreAskedForWhatTheyHave) {
  UseBoth();
  first_->Always(path_, Busy(NameOf(*second_)));
  second_->Always(path_, Serves());
  const Outcome outcome = Begin().get();
  ExpectRight(outcome);
  EXPECT_EQ(first_->request_count(path_), kChunks);
  EXPECT_EQ(second_->requests(path_)[0].Header("sluice-role"), "present-only");
  for (const SenderId sender : outcome.senders) EXPECT_EQ(MemberOf(sender), NameOf(*second_));
}

TEST_F(PeerFaultTest, OnlyMembersAreHelpers) {
  FaultOrigin stranger;
  stranger.Always(path_, Serves());
  Use({a_.port()});
  std::vector<FaultBehaviour> refusals(kChunks,
                                       Busy(absl::StrCat(NameOf(stranger), ",evil:1, ,", NameOf(a_))));
  a_.Script(path_, refusals);
  a_.Always(path_, Serves());
  ExpectRight(Fetch());
  EXPECT_EQ(stranger.connection_count(), 0u);
}

TEST_F(PeerFaultTest, AHelperThatFailsIsNamedToTheHomeAndNotAskedAgain) {
  UseBoth();
  std::vector<FaultBehaviour> refusals(2 * kChunks, Busy(NameOf(*second_)));
  first_->Script(path_, refusals);
  first_->Always(path_, Serves());
  second_->Always(path_, fault::Status(404, {{"Sluice-Node", "good"}}));
  ExpectRight(Begin().get());
  EXPECT_EQ(second_->request_count(path_), kChunks) << "once for each chunk";
  EXPECT_EQ(first_->requests(path_).back().Header("sluice-tried"), NameOf(*second_));
  EXPECT_TRUE(IsUsable(*second_)) << "to lack something is no failure";
}

TEST_F(PeerFaultTest, WhatAHelperSendsWrongIsItsOwn) {
  UseBoth();
  first_->Always(path_, Busy(NameOf(*second_)));
  second_->Always(path_, [this](const FaultRequest& request, FaultConnection& connection) {
    connection.Send(
        206, {{"Sluice-Node", "bad"}, {"Content-Range", ContentRangeOf(RangeOf(request), bytes_.size())}},
        std::string(RangeOf(request).length, 'x'));
  });
  const Outcome wrong = Begin().get();
  ASSERT_EQ(wrong.senders.size(), kChunks);
  const Blob blob(spec_);
  sources_[0]->Judge(wrong.senders[0], blob, ChunkIndex(0), ChunkSource::Verdict::kWrong);
  blame_->Right(blob, ChunkIndex(0));
  EXPECT_FALSE(IsUsable(*second_));
  EXPECT_TRUE(IsUsable(*first_));
}

TEST_F(PeerFaultTest, WhereEachHasToAskForItselfThatIsTold) {
  a_.Always(path_, fault::Status(403, {{"Sluice-Node", "good"}}));
  Use({a_.port()});
  const Outcome outcome = Fetch();
  EXPECT_TRUE(absl::IsUnauthenticated(outcome.status)) << outcome.status;
  EXPECT_GE(not_carried_, 1);
  EXPECT_TRUE(IsUsable(a_));
}

TEST_F(PeerFaultTest, AMemberThatDoesNotBelieveWhatIsSaidIsNoFailure) {
  a_.Always(path_, fault::Status(409, {{"Sluice-Node", "good"}}));
  Use({a_.port()});
  const Outcome outcome = Fetch();
  EXPECT_TRUE(absl::IsFailedPrecondition(outcome.status)) << outcome.status;
  EXPECT_TRUE(IsUsable(a_));
}

// --------------------------------------------------------------------------------- members that misbehave

// Behaviours that make a member worth skipping. Each must lead to NotFound in time if nobody else is there,
// and to the right bytes from the next if somebody is.
struct BadMember {
  const char* name;
  std::function<void(const std::string& bytes, const FaultRequest&, FaultConnection&)> behave;
};

FaultConnection::Headers HeadersOf(const FaultRequest& request, uint64_t size) {
  return {{"Sluice-Node", "bad"}, {"Content-Range", ContentRangeOf(RangeOf(request), size)}};
}

const BadMember kBadMembers[] = {
    {"IsNoSluiceNode", [](const std::string&, const FaultRequest&,
                          FaultConnection& connection) { connection.Send(200, {}, "<html>hello</html>"); }},
    {"IsNoSluiceNodeAndHasTheBytes",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       connection.Send(206, {{"Content-Range", ContentRangeOf(RangeOf(request), bytes.size())}}, bytes);
     }},
    {"IsNoSluiceNodeAndSays404", [](const std::string&, const FaultRequest&,
                                    FaultConnection& connection) { connection.Send(404, {}, "no"); }},
    {"HangsBeforeTheHead",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) { connection.Stall(); }},
    {"HangsWithinTheHead",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) {
       connection.SendRaw("HTTP/1.1 206 Partial Content\r\nSluice-No");
       connection.Stall();
     }},
    {"HangsAfterTheHead",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       FaultConnection::Headers headers = HeadersOf(request, bytes.size());
       headers.emplace_back("Content-Length", absl::StrCat(bytes.size()));
       connection.SendHead(206, headers);
       connection.Stall();
     }},
    {"HangsWithinTheBody",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       FaultConnection::Headers headers = HeadersOf(request, bytes.size());
       headers.emplace_back("Content-Length", absl::StrCat(RangeOf(request).length));
       connection.SendHead(206, headers);
       connection.SendRaw(std::string_view(bytes).substr(RangeOf(request).offset, kChunk / 2));
       connection.Stall();
     }},
    {"SaysThatItIsBusyForEver",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) {
       for (int i = 0; i < 3000; ++i) connection.SendRaw("HTTP/1.1 102 Processing\r\n\r\n");
       connection.Stall();
     }},
    {"Drips",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       FaultConnection::Headers headers = HeadersOf(request, bytes.size());
       headers.emplace_back("Content-Length", absl::StrCat(RangeOf(request).length));
       connection.SendHead(206, headers);
       connection.Drip(bytes);
     }},
    {"SendsTheWhole",
     [](const std::string& bytes, const FaultRequest&, FaultConnection& connection) {
       connection.Send(200, {{"Sluice-Node", "bad"}}, bytes);
     }},
    {"SendsAnotherRange",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       const ByteRange range = RangeOf(request);
       connection.Send(
           206,
           {{"Sluice-Node", "bad"},
            {"Content-Range", ContentRangeOf({range.offset + 1, range.length - 1}, bytes.size())}},
           bytes.substr(range.offset + 1, range.length - 1));
     }},
    {"SendsARangeOfAnotherBlob",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       const ByteRange range = RangeOf(request);
       connection.Send(206,
                       {{"Sluice-Node", "bad"}, {"Content-Range", ContentRangeOf(range, bytes.size() + 1)}},
                       bytes.substr(range.offset, range.length));
     }},
    {"SendsNoContentRange",
     [](const std::string& bytes, const FaultRequest&, FaultConnection& connection) {
       connection.Send(206, {{"Sluice-Node", "bad"}}, bytes);
     }},
    {"SendsParts",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) {
       connection.Send(206, {{"Sluice-Node", "bad"}, {"Content-Type", "multipart/byteranges; boundary=x"}},
                       "--x\r\nContent-Range: bytes 0-0/1\r\n\r\na\r\n--x--\r\n");
     }},
    {"SendsPackedBytes",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       FaultConnection::Headers headers = HeadersOf(request, bytes.size());
       headers.emplace_back("Content-Encoding", "gzip");
       connection.Send(206, headers, bytes.substr(RangeOf(request).offset, RangeOf(request).length));
     }},
    {"SendsTooLittle",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       connection.SendHead(206, HeadersOf(request, bytes.size()));
       connection.SendRaw(
           std::string_view(bytes).substr(RangeOf(request).offset, RangeOf(request).length - 1));
       connection.CloseAfter();
     }},
    {"PromisesTooLittle",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       connection.Send(206, HeadersOf(request, bytes.size()), bytes.substr(RangeOf(request).offset, 10));
     }},
    {"PromisesTwoGibibytes",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       FaultConnection::Headers headers = HeadersOf(request, bytes.size());
       headers.emplace_back("Content-Length", absl::StrCat(uint64_t{2} << 30));
       connection.SendHead(206, headers);
       connection.Stall();
     }},
    {"Says404OfTwoGibibytes",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) {
       connection.SendHead(404,
                           {{"Sluice-Node", "bad"}, {"Content-Length", absl::StrCat(uint64_t{2} << 30)}});
       connection.Stall();
     }},
    {"SaysALengthThatIsNone",
     [](const std::string& bytes, const FaultRequest& request, FaultConnection& connection) {
       FaultConnection::Headers headers = HeadersOf(request, bytes.size());
       headers.emplace_back("Content-Length", "-1");
       connection.SendHead(206, headers);
       connection.Stall();
     }},
    {"SendsGarbage",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) {
       connection.SendRaw(std::string("\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n", 25));
       connection.CloseAfter();
     }},
    {"SendsEndlessHeaders",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) {
       connection.SendRaw("HTTP/1.1 206 Partial Content\r\nSluice-Node: bad\r\n");
       for (int i = 0; i < 200; ++i) connection.SendRaw(absl::StrCat("X: ", std::string(1000, 'x'), "\r\n"));
       connection.Stall();
     }},
    {"HangsUp",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) { connection.CloseAfter(); }},
    {"Fails",
     [](const std::string&, const FaultRequest&, FaultConnection& connection) {
       connection.Send(500, {{"Sluice-Node", "bad"}}, "oh");
     }},
};

class BadMemberTest : public PeerFaultTest, public ::testing::WithParamInterface<BadMember> {
 protected:
  FaultBehaviour Bad() {
    return [this](const FaultRequest& request, FaultConnection& connection) {
      GetParam().behave(bytes_, request, connection);
    };
  }
};

TEST_P(BadMemberTest, GivesWayToTheOriginAndIsSkipped) {
  a_.Always(path_, Bad());
  Use({a_.port()});
  const Outcome outcome = Fetch();
  ExpectGivesWay(outcome);
  for (const auto& [index, bytes] : outcome.chunks)
    EXPECT_EQ(bytes, bytes_.substr(size_t{index} * kChunk, kChunk)) << "chunk " << index;
  EXPECT_FALSE(IsUsable(a_));
  EXPECT_LE(a_.request_count(path_), kChunks) << "a chunk was asked for again at once";
}

TEST_P(BadMemberTest, TheNextMemberGivesTheRightBytes) {
  UseBoth();
  first_->Always(path_, Bad());
  second_->Always(path_, Serves());
  ExpectRight(Fetch());
  EXPECT_FALSE(IsUsable(*first_));
  EXPECT_TRUE(IsUsable(*second_));
}

INSTANTIATE_TEST_SUITE_P(All, BadMemberTest, ::testing::ValuesIn(kBadMembers),
                         [](const auto& member) { return member.param.name; });

TEST_F(PeerFaultTest, AMemberThatIsDownIsSkippedAndTheNextAsked) {
  uint16_t dead = 0;
  {
    FaultOrigin gone;
    dead = gone.port();
  }
  a_.Always(path_, Serves());
  Use({dead, a_.port()});
  ExpectRight(Fetch());
  Use({dead});
  ExpectGivesWay(Fetch());
  EXPECT_FALSE(health_.Usable(absl::StrCat("127.0.0.1:", dead), clock_.Now()));
}

TEST_F(PeerFaultTest, AMemberThatIsThisNodeIsLeftOutFromThenOn) {
  a_.Always(path_, fault::Status(404, {{"Sluice-Node", kNodeId}}));
  named_ = false;
  Use({a_.port()});
  ASSERT_EQ(members_->list()->size(), 1u);
  ExpectGivesWay(Fetch());
  EXPECT_THAT(*members_->list(), IsEmpty());
}

TEST_F(PeerFaultTest, RedirectsAreNotFollowed) {
  FaultOrigin elsewhere;
  elsewhere.Always(path_, Serves());
  for (const int status : {301, 302, 303, 307, 308}) {
    FaultOrigin member;
    member.Always(path_, fault::Status(status, {{"Sluice-Node", "bad"}, {"Location", elsewhere.Url(path_)}}));
    Use({member.port()});
    ExpectGivesWay(Fetch());
    EXPECT_FALSE(IsUsable(member)) << status;
  }
  EXPECT_EQ(elsewhere.connection_count(), 0u);
}

TEST_F(PeerFaultTest, WhatGoesWrongAfterTheLastByteCostsNoBytesAndNobodyElse) {
  UseBoth();
  first_->Always(path_, [this](const FaultRequest& request, FaultConnection& connection) {
    FaultConnection::Headers headers = HeadersOf(request, bytes_.size());
    headers.emplace_back("Transfer-Encoding", "chunked");
    connection.SendHead(206, headers);
    const std::string body = bytes_.substr(RangeOf(request).offset, RangeOf(request).length);
    connection.SendRaw(absl::StrCat(absl::Hex(body.size()), "\r\n", body, "\r\n"));
    connection.CloseAfter();  // without the last chunk
  });
  second_->Always(path_, Serves());
  ExpectRight(Fetch());
  EXPECT_FALSE(IsUsable(*first_));
  EXPECT_EQ(second_->connection_count(), 0u) << "there was nothing left to ask for";
}

// Its own source had ended; it says before that it may.
TEST_F(PeerFaultTest, WhatBrokeOffWhileItCameThereIsAskedForAnewThereAndIsNoFailure) {
  a_.Always(path_, Serves());
  a_.Script(path_, {[this](const FaultRequest& request, FaultConnection& connection) {
              FaultConnection::Headers headers = HeadersOf(request, bytes_.size());
              headers.emplace_back("Content-Length", absl::StrCat(kChunk));
              headers.emplace_back("Sluice-Coming", "1");
              connection.SendHead(206, headers);
              connection.SendRaw(bytes_.substr(RangeOf(request).offset, kChunk / 2));
              connection.CloseAfter();
            }});
  Use({a_.port()});
  ExpectRight(Fetch());
  EXPECT_TRUE(IsUsable(a_));
  EXPECT_EQ(a_.request_count(path_), kChunks + 1);
}

TEST_F(PeerFaultTest, MoreThanWasAskedForIsNotTaken) {
  a_.Always(path_, [this](const FaultRequest& request, FaultConnection& connection) {
    FaultConnection::Headers headers = HeadersOf(request, bytes_.size());
    headers.emplace_back("Transfer-Encoding", "chunked");
    connection.SendHead(206, headers);
    const std::string body = bytes_.substr(RangeOf(request).offset, RangeOf(request).length) + "more";
    connection.SendRaw(absl::StrCat(absl::Hex(body.size()), "\r\n", body, "\r\n0\r\n\r\n"));
  });
  Use({a_.port()});
  const Outcome outcome = Fetch();
  EXPECT_LE(outcome.chunks.size(), kChunks);
  for (const auto& [index, bytes] : outcome.chunks)
    EXPECT_EQ(bytes, bytes_.substr(size_t{index} * kChunk, kChunk));
  EXPECT_FALSE(IsUsable(a_));
}

TEST_F(PeerFaultTest, AMemberThatHasTheBlobUnderAnotherRootIsPassedOverAndNotSkipped) {
  UseBoth();
  first_->Always(path_, Serves({{"Sluice-Verified", Sha256::Of("another root").ToString()}}));
  second_->Always(path_, Serves({{"Sluice-Verified", spec_.root->ToString()}}));
  const Outcome outcome = Fetch();
  ExpectRight(outcome);
  for (const SenderId sender : outcome.senders) EXPECT_EQ(MemberOf(sender), NameOf(*second_));
  EXPECT_TRUE(IsUsable(*first_));
}

TEST_F(PeerFaultTest, WhoeverSentAWrongChunkIsBannedOnceTheRegistryHasGivenTheRightOne) {
  UseBoth();
  first_->Always(path_, [this](const FaultRequest& request, FaultConnection& connection) {
    connection.Send(206, HeadersOf(request, bytes_.size()), std::string(RangeOf(request).length, 'x'));
  });
  second_->Always(path_, Serves());
  const Outcome wrong = Fetch();
  ASSERT_EQ(wrong.senders.size(), kChunks);
  EXPECT_EQ(MemberOf(wrong.senders[0]), NameOf(*first_));
  const Blob blob(spec_);
  sources_[0]->Judge(wrong.senders[0], blob, ChunkIndex(0), ChunkSource::Verdict::kWrong);
  EXPECT_TRUE(IsUsable(*first_)) << "the root may be wrong";
  EXPECT_TRUE(blame_->IsInDoubt(blob, ChunkIndex(0)));
  WitnessSource registry(*sources_[1], *blame_);
  registry.Judge(SenderId{0}, blob, ChunkIndex(0), ChunkSource::Verdict::kRight);
  EXPECT_FALSE(blame_->IsInDoubt(blob, ChunkIndex(0)));
  EXPECT_FALSE(IsUsable(*first_, kBanTime - 1s));
  EXPECT_TRUE(IsUsable(*first_, kBanTime + 1s));
  {
    const std::lock_guard lock(mutex_);
    EXPECT_THAT(warnings_.back(), HasSubstr(NameOf(*first_)));
  }
  ExpectRight(Fetch());
  EXPECT_EQ(first_->request_count(path_), kChunks);
  sources_[0]->Judge(SenderId{12345}, Blob(spec_), ChunkIndex(0),
                     ChunkSource::Verdict::kWrong);  // nobody has that number
}

// --------------------------------------------------------------------------------------- deadlines and ends

TEST_F(PeerFaultTest, AFetchEndsAtItsDeadline) {
  options_.silence_max = kLong;
  options_.rate_min_bytes_per_s = 0;
  a_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  Use({a_.port()});
  const Outcome outcome = Fetch(300ms);
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.status)) << outcome.status;
  EXPECT_LT(outcome.took, kLong / 2);
  b_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  Use({b_.port()});
  EXPECT_TRUE(absl::IsDeadlineExceeded(Fetch(-1s).status)) << "one that is past already";
  EXPECT_TRUE(IsUsable(b_)) << "which says nothing of the member";
}

// It has nothing to wait for; a home may.
TEST_F(PeerFaultTest, WhoIsAskedForWhatItHasSaysSomethingSoon) {
  options_.silence_max = kLong;
  options_.present_silence_max = 200ms;
  a_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  Use({a_.port()});
  EXPECT_TRUE(absl::IsDeadlineExceeded(Fetch(500ms).status));
  EXPECT_TRUE(IsUsable(a_));
  sources_[0] = std::make_unique<MemberSource>(*access_, sources_[0]->member(), PeerRole::kPresentOnly);
  const Outcome outcome = Fetch();
  EXPECT_TRUE(absl::IsUnavailable(outcome.status)) << outcome.status;
  EXPECT_FALSE(IsUsable(a_));
}

TEST_F(PeerFaultTest, WhoIsAskedForWhatItHasByAFillSaysSomethingSooner) {
  options_.silence_max = options_.present_silence_max = kLong;
  a_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  Use({a_.port()});
  sources_[0] = std::make_unique<MemberSource>(*access_, sources_[0]->member(), PeerRole::kPresentOnly);
  fetch_class_ = FetchClass::kHint;
  const Outcome outcome = Begin(*sources_[0], {ChunkIndex(0), 1}).get();
  EXPECT_TRUE(absl::IsUnavailable(outcome.status)) << outcome.status;
  EXPECT_LT(outcome.took, kLong / 2);
  EXPECT_TRUE(IsUsable(a_)) << "it may only be slow";
}

TEST_F(PeerFaultTest, StopEndsWhatIsUnderWayAndWhatComesAfter) {
  options_.silence_max = kLong;
  options_.rate_min_bytes_per_s = 0;
  for (FaultOrigin* member : {&a_, &b_})
    member->Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  Use({a_.port(), b_.port()});
  std::vector<std::future<Outcome>> under_way;
  for (int i = 0; i < 20; ++i) under_way.push_back(Begin());
  while (a_.connection_count() + b_.connection_count() == 0) std::this_thread::yield();
  client_->Stop();
  for (std::future<Outcome>& fetch : under_way) EXPECT_TRUE(absl::IsCancelled(fetch.get().status));
  EXPECT_TRUE(absl::IsCancelled(Fetch().status));
}

// Of several stripes' requests some are under way and some only begin when the client stops.
TEST_F(PeerFaultTest, StopInTheMidstOfABeginningEndsOnce) {
  options_.silence_max = kLong;
  options_.rate_min_bytes_per_s = 0;
  spec_.size = 64 * uint64_t{256 << 10};
  spec_.chunk_size = 256 << 10;
  std::vector<std::unique_ptr<FaultOrigin>> members;
  std::vector<uint16_t> ports;
  for (int i = 0; i < 8; ++i) {
    members.push_back(std::make_unique<FaultOrigin>());
    members.back()->Always(path_,
                           [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
    ports.push_back(members.back()->port());
  }
  for (int round = 0; round < 30; ++round) {
    Use(ports);
    std::vector<std::future<absl::Status>> ends;
    for (int i = 0; i < 4; ++i) {
      auto done = std::make_shared<std::promise<absl::Status>>();
      ends.push_back(done->get_future());
      handles_.push_back(sources_[static_cast<size_t>(i) % sources_.size()]->Fetch(
          Request(64, FetchClass::kHint), [](ChunkIndex, Buffer, SenderId) {},
          [done](absl::Status status) { done->set_value(std::move(status)); }));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20 * round));
    client_->Stop();
    for (std::future<absl::Status>& end : ends) EXPECT_TRUE(absl::IsCancelled(end.get()));
  }
}

TEST_F(PeerFaultTest, AFetchThatNobodyWantsAnyMoreEndsOnTheWire) {
  // The last of them may see it after the test.
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  a_.Always(path_, [gone](const FaultRequest&, FaultConnection& connection) {
    connection.Stall();
    *gone = true;
  });
  options_.silence_max = kLong;
  Use({a_.port()});
  std::future<Outcome> result = Begin();
  while (a_.request_count(path_) == 0) std::this_thread::sleep_for(1ms);
  handles_.clear();
  ASSERT_EQ(result.wait_for(kLong), std::future_status::ready);
  const Outcome outcome = result.get();
  EXPECT_TRUE(absl::IsCancelled(outcome.status)) << outcome.status;
  EXPECT_TRUE(health_.Usable(NameOf(a_), clock_.Now())) << "it did nothing wrong";
  const Instant patience = clock_.Now() + kLong;
  while (!*gone && clock_.Now() < patience) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(*gone) << "the member still serves it";
}

// ---------------------------------------------------------------------------------------------- documents

class PeerDocumentFaultTest : public PeerFaultTest {
 protected:
  PeerDocumentClient Documents() {
    return PeerDocumentClient({clock_, io_, *members_, health_, *client_, [](const std::string&) {}},
                              telemetry_);
  }
  const BlobOrigin origin_{"registry.example:5000", "team/app"};
};

TEST_F(PeerDocumentFaultTest, AManifestMustMatchItsDigest) {
  const std::string body = R"({"schemaVersion":2})";
  const Digest digest = Sha256::Of(body);
  const std::string path = FaultOrigin::ManifestPath("team/app", digest.ToString());
  Use({a_.port(), b_.port()});
  for (FaultOrigin* member : {&a_, &b_}) {
    member->Always(
        path, fault::Status(200, {{"Sluice-Node", "bad"}, {"Content-Type", "application/x"}}, body + " "));
  }
  EXPECT_TRUE(absl::IsNotFound(Documents().FetchManifest(origin_, digest).status()));
  EXPECT_FALSE(IsUsable(a_) || IsUsable(b_));
  FaultOrigin good;
  good.Always(path,
              fault::Status(200, {{"Sluice-Node", "good"}, {"Content-Type", "application/x; q=1"}}, body));
  Use({good.port()});
  const absl::StatusOr<FetchedManifest> manifest = Documents().FetchManifest(origin_, digest);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->body, body);
  EXPECT_EQ(manifest->media_type, "application/x");
  EXPECT_EQ(manifest->access, OriginAccess::kHearsay);
}

TEST_F(PeerDocumentFaultTest, ABlobMustHaveItsSizeAndDigest) {
  a_.Always(path_, fault::Status(200, {{"Sluice-Node", "bad"}}, bytes_ + "x"));
  b_.Always(path_, fault::Status(200, {{"Sluice-Node", "bad"}}, bytes_.substr(1) + "x"));
  Use({a_.port(), b_.port()});
  EXPECT_TRUE(absl::IsNotFound(
      Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong).status()));
  EXPECT_FALSE(IsUsable(a_) || IsUsable(b_));
  FaultOrigin good;
  good.Always(path_, fault::Status(200, {{"Sluice-Node", "good"}}, bytes_));
  Use({good.port()});
  const absl::StatusOr<PeerDocumentClient::WholeBlob> blob =
      Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong);
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(blob->bytes, bytes_);
  EXPECT_EQ(blob->access, OriginAccess::kHearsay);
}

TEST_F(PeerDocumentFaultTest, ToLackASmallBlobIsNoFailure) {
  const std::string small = "tiny";
  const Digest digest = Sha256::Of(small);
  a_.Always(FaultOrigin::BlobPath("team/app", digest),
            fault::Status(404, {{"Sluice-Node", "good"}}, std::string(200, ' ')));
  Use({a_.port()});
  EXPECT_TRUE(
      absl::IsNotFound(Documents().FetchBlob(origin_, digest, small.size(), clock_.Now() + kLong).status()));
  EXPECT_TRUE(IsUsable(a_));
}

// It sends the blob to others just now. The next one may have it, too; and in the end it is asked again.
TEST_F(PeerDocumentFaultTest, WhomABusyMemberNamesIsAskedForABlob) {
  std::atomic<int> asked = 0;
  FaultOrigin helper;
  const FaultBehaviour first_is_busy = [&](const FaultRequest& request, FaultConnection& connection) {
    EXPECT_EQ(request.Header("sluice-role"), "present-only");
    if (asked.fetch_add(1) == 0) {
      return fault::Status(
          503, {{"Sluice-Node", "good"}, {"Sluice-Retry-Ms", "1"}, {"Sluice-Helpers", NameOf(helper)}}, "")(
          request, connection);
    }
    fault::Status(404, {{"Sluice-Node", "good"}}, "")(request, connection);
  };
  for (FaultOrigin* member : {&a_, &b_}) member->Always(path_, first_is_busy);
  std::atomic<int> asked_before_helper = 0;
  helper.Always(path_, [&](const FaultRequest& request, FaultConnection& connection) {
    asked_before_helper = asked.load();
    fault::Status(200, {{"Sluice-Node", "good"}}, bytes_)(request, connection);
  });
  Use({a_.port(), b_.port(), helper.port()});
  const absl::StatusOr<PeerDocumentClient::WholeBlob> blob =
      Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong);
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(blob->bytes, bytes_);
  EXPECT_LE(asked_before_helper, 1) << "before the next of the ranks";
}

TEST_F(PeerDocumentFaultTest, ABusyMemberIsAskedForABlobAgainWhenNobodyElseHasIt) {
  const FaultBehaviour busy = fault::Status(503, {{"Sluice-Node", "good"}, {"Sluice-Retry-Ms", "1"}}, "");
  a_.Script(path_, {busy, busy, fault::Status(200, {{"Sluice-Node", "good"}}, bytes_)});
  b_.Always(path_, fault::Status(404, {{"Sluice-Node", "good"}}, ""));
  Use({a_.port(), b_.port()});
  EXPECT_TRUE(Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong).ok());
  EXPECT_EQ(a_.request_count(path_), 3u);
  EXPECT_EQ(b_.request_count(path_), 1u);
}

// Its home is to be asked.
TEST_F(PeerDocumentFaultTest, AMemberThatIsAlwaysBusyIsNotWaitedForLong) {
  a_.Always(path_, fault::Status(503, {{"Sluice-Node", "good"}, {"Sluice-Retry-Ms", "0"}}, ""));
  Use({a_.port()});
  const Instant begun = clock_.Now();
  EXPECT_TRUE(
      absl::IsNotFound(Documents().FetchBlob(origin_, spec_.digest, spec_.size, begun + kLong).status()));
  EXPECT_LT(clock_.Now() - begun, kLong / 2);
  EXPECT_TRUE(IsUsable(a_)) << "busy is not dead";
}

TEST_F(PeerDocumentFaultTest, BesideAMemberThatSaysNothingTheNextIsAsked) {
  std::promise<void> promise;
  const std::shared_future<void> third_asked = promise.get_future().share();
  std::promise<bool> beside;
  std::atomic<int> asked = 0;
  const FaultBehaviour first_is_silent = [&](const FaultRequest& request, FaultConnection& connection) {
    const int before = asked.fetch_add(1);
    if (before == 1) return fault::Status(404, {{"Sluice-Node", "good"}}, "")(request, connection);
    if (before == 2) {
      promise.set_value();
      return fault::Status(200, {{"Sluice-Node", "good"}}, bytes_)(request, connection);
    }
    connection.CloseAfter();
    beside.set_value(third_asked.wait_for(10s) == std::future_status::ready);
  };
  FaultOrigin third;
  for (FaultOrigin* member : {&a_, &b_, &third}) member->Always(path_, first_is_silent);
  options_.silence_max = kLong;
  Use({a_.port(), b_.port(), third.port()});
  const absl::StatusOr<PeerDocumentClient::WholeBlob> blob =
      Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong);
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(blob->bytes, bytes_);
  EXPECT_TRUE(beside.get_future().get());
  uint64_t failures = 0;
  for (const FaultOrigin* member : {&a_, &b_, &third})
    failures += health_.RecordOf(NameOf(*member), clock_.Now()).failures;
  EXPECT_EQ(failures, 1u) << "the next thing is not asked of it";
}

// The registry is asked next.
TEST_F(PeerDocumentFaultTest, WhereOnlyOneThatSaysNothingIsLeftItIsOver) {
  std::promise<void> promise;
  const std::shared_future<void> over = promise.get_future().share();
  std::promise<bool> was_over;
  std::atomic<int> asked = 0;
  const FaultBehaviour first_is_silent = [&](const FaultRequest& request, FaultConnection& connection) {
    if (asked.fetch_add(1) > 0) return fault::Status(404, {{"Sluice-Node", "good"}}, "")(request, connection);
    connection.CloseAfter();
    was_over.set_value(over.wait_for(10s) == std::future_status::ready);
  };
  for (FaultOrigin* member : {&a_, &b_}) member->Always(path_, first_is_silent);
  options_.silence_max = kLong;
  Use({a_.port(), b_.port()});
  EXPECT_TRUE(absl::IsNotFound(
      Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong).status()));
  const auto failures = [&] {
    return health_.RecordOf(NameOf(a_), clock_.Now()).failures +
           health_.RecordOf(NameOf(b_), clock_.Now()).failures;
  };
  EXPECT_EQ(failures(), 1u) << "the next thing is not asked of it";
  promise.set_value();
  EXPECT_TRUE(was_over.get_future().get());
}

TEST_F(PeerDocumentFaultTest, BesideAMemberWhoseAnswerComesNobodyIsAsked) {
  const FaultBehaviour in_two_parts = [&](const FaultRequest&, FaultConnection& connection) {
    connection.SendHead(200, {{"Sluice-Node", "good"}, {"Content-Length", absl::StrCat(bytes_.size())}});
    connection.SendRaw(std::string_view(bytes_).substr(0, 1));
    std::this_thread::sleep_for(2 * DocumentAsking::Parts::kLateAfter);
    connection.SendRaw(std::string_view(bytes_).substr(1));
  };
  for (FaultOrigin* member : {&a_, &b_}) member->Always(path_, in_two_parts);
  options_.silence_max = kLong;
  options_.rate_min_bytes_per_s = 0;
  Use({a_.port(), b_.port()});
  EXPECT_TRUE(Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong).ok());
  EXPECT_EQ(a_.request_count(path_) + b_.request_count(path_), 1u);
}

TEST_F(PeerDocumentFaultTest, AMemberThatHangsHoldsUpNeitherTheNextNorStop) {
  a_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  b_.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  Use({a_.port(), b_.port()});
  const Instant begun = clock_.Now();
  EXPECT_TRUE(
      absl::IsNotFound(Documents().FetchBlob(origin_, spec_.digest, spec_.size, begun + kLong).status()));
  EXPECT_LT(clock_.Now() - begun, kLong / 2);
  EXPECT_FALSE(IsUsable(a_) || IsUsable(b_));

  options_.silence_max = kLong;
  options_.rate_min_bytes_per_s = 0;
  FaultOrigin hung;
  hung.Always(path_, [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  Use({hung.port()});
  auto waiting = std::async(std::launch::async, [&] {
    return Documents().FetchBlob(origin_, spec_.digest, spec_.size, clock_.Now() + kLong).status();
  });
  while (hung.request_count(path_) == 0) std::this_thread::yield();
  client_->Stop();
  EXPECT_TRUE(absl::IsNotFound(waiting.get()));
}

}  // namespace
}  // namespace sluice::p2p
