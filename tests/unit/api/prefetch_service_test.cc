#include "api/prefetch_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>

#include "api/error_details.h"
#include "api/grpc_server.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "sluice/v1/admin.grpc.pb.h"
#include "sluice/v1/prefetch.grpc.pb.h"
#include "tests/unit/api/fake_admin_backend.h"
#include "tests/unit/api/fake_prefetch_backend.h"
#include "tests/unit/api/one_service.h"
#include "tests/unit/api/temp_dir.h"

namespace sluice::api {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// What a server answers that does not know the service: google.rpc.Code 12.
constexpr auto kNoSuchMethod = static_cast<grpc::StatusCode>(12);

HintStatus At(HintState state, uint64_t present = 0, absl::Status error = {}) {
  return {.manifest = TestDigest(7),
          .state = state,
          .error = std::move(error),
          .total_bytes = 1000,
          .present_bytes = present};
}

// The service behind a real server on a unix socket.
class PrefetchServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { StartWith({}); }

  void StartWith(PrefetchServiceLimits limits) {
    limits.poll_interval = std::chrono::milliseconds(1);
    stub_.reset();
    server_.reset();
    server_ = std::make_unique<GrpcServer>(
        GrpcServerOptions{.socket_path = dir_.File("prefetch.sock")},
        OneService(std::make_unique<PrefetchService>(backend_, locality_, limits)));
    ASSERT_TRUE(server_->Start().ok());
    channel_ = grpc::CreateChannel("unix:" + dir_.File("prefetch.sock"), grpc::InsecureChannelCredentials());
    stub_ = v1::PrefetchService::NewStub(channel_);
  }

  static v1::Hint MakeHint(const std::string& id) {
    v1::Hint hint;
    hint.set_id(id);
    hint.set_reference("registry.example/app:1");
    hint.mutable_all();
    return hint;
  }

  grpc::Status Submit(const v1::SubmitHintsRequest& request, v1::SubmitHintsResponse* response) {
    grpc::ClientContext context;
    return stub_->SubmitHints(&context, request, response);
  }
  v1::SubmitHintsResponse SubmitOne(const v1::Hint& hint) {
    v1::SubmitHintsRequest request;
    *request.add_hints() = hint;
    v1::SubmitHintsResponse response;
    EXPECT_TRUE(Submit(request, &response).ok());
    return response;
  }
  // What a changed hint is refused with as malformed, which the backend must not see.
  std::string Refusal(const std::function<void(v1::Hint&)>& change) {
    v1::SubmitHintsRequest request;
    *request.add_hints() = MakeHint("good");
    *request.add_hints() = MakeHint("bad");
    change(*request.mutable_hints(1));
    v1::SubmitHintsResponse response;
    const grpc::Status status = Submit(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    EXPECT_THAT(backend_.hints(), IsEmpty());
    return status.error_message();
  }

  // The stream's messages, one list of "<id> <state> <present>" each.
  grpc::Status Watch(std::vector<std::string> ids, std::vector<std::vector<std::string>>* messages,
                     uint64_t after_revision = 0) {
    grpc::ClientContext context;
    v1::WatchHintsRequest request;
    request.set_after_revision(after_revision);
    request.mutable_ids()->Add(ids.begin(), ids.end());
    auto stream = stub_->WatchHints(&context, request);
    v1::WatchHintsResponse response;
    while (stream->Read(&response)) {
      auto& message = messages->emplace_back();
      for (const auto& hint : response.hints()) {
        message.push_back(
            absl::StrCat(hint.id(), " ", v1::HintState_Name(hint.state()), " ", hint.present_bytes()));
      }
    }
    return stream->Finish();
  }

  TempDir dir_;
  FakePrefetchBackend backend_;
  FakeLocality locality_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::PrefetchService::Stub> stub_;
};

TEST_F(PrefetchServiceTest, AHintArrivesWithAllThatItSays) {
  v1::Hint hint = MakeHint("Job_1:a.b-c");
  hint.mutable_platform()->set_os("linux");
  hint.mutable_platform()->set_architecture("arm64");
  hint.mutable_platform()->set_variant("v8");
  v1::BlobRange& range = *hint.mutable_ranges()->add_ranges();
  range.set_digest(TestDigest(1).ToString());
  range.set_offset(5);
  range.set_length(7);
  const v1::SubmitHintsResponse response = SubmitOne(hint);
  EXPECT_EQ(response.results(0).outcome(), v1::SUBMIT_OUTCOME_ACCEPTED);
  EXPECT_EQ(response.results(0).status().state(), v1::HINT_STATE_QUEUED);
  EXPECT_FALSE(response.results(0).has_error());
  const HintSpec spec = backend_.hints().at("Job_1:a.b-c");
  EXPECT_EQ(spec.reference, "registry.example/app:1");
  EXPECT_EQ(spec.platform, (HintPlatform{"linux", "arm64", "v8"}));
  EXPECT_THAT(spec.ranges, ElementsAre(HintRange{TestDigest(1), {5, 7}}));

  EXPECT_EQ(SubmitOne(hint).results(0).outcome(), v1::SUBMIT_OUTCOME_KNOWN);
}

TEST_F(PrefetchServiceTest, CredentialsArriveAndAreNeverTold) {
  v1::Hint hint = MakeHint("h");
  hint.mutable_credentials()->set_username("ann");
  hint.mutable_credentials()->set_password("s3cret\n");
  const v1::SubmitHintsResponse response = SubmitOne(hint);
  EXPECT_EQ(response.results(0).outcome(), v1::SUBMIT_OUTCOME_ACCEPTED);
  EXPECT_EQ(response.SerializeAsString().find("s3cret"), std::string::npos);
  ASSERT_TRUE(backend_.hints().at("h").credentials);
  EXPECT_EQ(backend_.hints().at("h").credentials->username, "ann");
  EXPECT_EQ(backend_.hints().at("h").credentials->password.text(), "s3cret\n");
  SubmitOne(MakeHint("without"));
  EXPECT_FALSE(backend_.hints().at("without").credentials);
}

TEST_F(PrefetchServiceTest, CredentialsThatAreNoneAreRefusedByTheirFieldAndNotQuoted) {
  const auto refusal = [this](const std::string& username, const std::string& password) {
    return Refusal([&](v1::Hint& hint) {
      hint.mutable_credentials()->set_username(username);
      hint.mutable_credentials()->set_password(password);
    });
  };
  for (const std::string& name :
       {std::string(), std::string("a:b"), std::string("a\nb"), std::string(256, 'a')}) {
    EXPECT_THAT(refusal(name, "s3cret"),
                AllOf(HasSubstr("hints[1].credentials.username"), Not(HasSubstr("s3cret"))));
  }
  for (const std::string& password : {std::string(), std::string(8193, 'x')}) {
    EXPECT_THAT(refusal("ann", password),
                AllOf(HasSubstr("hints[1].credentials.password"), Not(HasSubstr("xxx"))));
  }
}

TEST_F(PrefetchServiceTest, AHintMayBeForWhatStartsRead) {
  v1::Hint hint = MakeHint("h");
  hint.mutable_profile();
  SubmitOne(hint);
  EXPECT_TRUE(backend_.hints().at("h").profile);
  SubmitOne(MakeHint("all"));
  EXPECT_FALSE(backend_.hints().at("all").profile);
  const auto status_of = [this](std::optional<uint32_t> starts) {
    HintStatus status = At(HintState::kCompleted);
    status.profile_starts = starts;
    backend_.Begin({status});
    grpc::ClientContext context;
    v1::GetHintRequest request;
    request.set_id("h");
    v1::GetHintResponse response;
    EXPECT_TRUE(stub_->GetHint(&context, request, &response).ok());
    return response.hint();
  };
  EXPECT_FALSE(status_of({}).has_profile());
  EXPECT_TRUE(status_of(0).has_profile());
  EXPECT_EQ(status_of(7).profile().starts(), 7u);
}

TEST_F(PrefetchServiceTest, AHintMayBeForABlobAlone) {
  v1::Hint hint = MakeHint("h");
  hint.clear_reference();
  v1::HintedBlob& blob = *hint.mutable_blob();
  blob.set_registry("localhost:5000");
  blob.set_repository("team/app");
  blob.set_digest(TestDigest(1).ToString());
  SubmitOne(hint);
  const HintSpec spec = backend_.hints().at("h");
  EXPECT_EQ(spec.reference, "localhost:5000/team/app@" + TestDigest(1).ToString());
  EXPECT_EQ(spec.blob, (HintBlob{TestDigest(1), 0}));
  hint.set_id("parts");
  blob.set_size(100);
  v1::BlobRange& range = *hint.mutable_ranges()->add_ranges();
  range.set_digest(TestDigest(1).ToString());
  range.set_offset(90);
  range.set_length(10);
  SubmitOne(hint);
  EXPECT_EQ(backend_.hints().at("parts").blob->size, 100u);
  EXPECT_THAT(backend_.hints().at("parts").ranges, ElementsAre(HintRange{TestDigest(1), {90, 10}}));
}

TEST_F(PrefetchServiceTest, AHintMayBeForMembersThatAreNamed) {
  v1::Hint hint = MakeHint("h");
  for (const char* const name : {"node-b", "10.0.0.1:7301", "node-b", "[::1]:7301"}) hint.add_targets(name);
  SubmitOne(hint);
  EXPECT_THAT(backend_.hints().at("h").targets, ElementsAre("10.0.0.1:7301", "[::1]:7301", "node-b"));
  HintStatus status = At(HintState::kPassingOn);
  status.targets = {{"a", TargetState::kSending},
                    {"b", TargetState::kTaken},
                    {"c", TargetState::kFailed, absl::NotFoundError("no member has that name")},
                    {"d", TargetState::kCancelling},
                    {"e", TargetState::kCancelled}};
  status.target_totals = {1, 2, 3, 0, 5};
  backend_.Begin({status});
  grpc::ClientContext context;
  v1::GetHintRequest request;
  request.set_id("h");
  v1::GetHintResponse response;
  ASSERT_TRUE(stub_->GetHint(&context, request, &response).ok());
  EXPECT_EQ(response.hint().state(), v1::HINT_STATE_PASSING_ON);
  ASSERT_EQ(response.hint().targets_size(), 5);
  EXPECT_EQ(response.hint().targets(0).state(), v1::TARGET_STATE_SENDING);
  EXPECT_EQ(response.hint().targets(1).name(), "b");
  EXPECT_EQ(response.hint().targets(1).state(), v1::TARGET_STATE_TAKEN);
  EXPECT_EQ(response.hint().targets(2).state(), v1::TARGET_STATE_FAILED);
  EXPECT_EQ(response.hint().targets(2).error().code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(response.hint().target_totals().sending(), 1u);
  EXPECT_EQ(response.hint().target_totals().taken(), 2u);
  EXPECT_EQ(response.hint().target_totals().failed(), 3u);
  EXPECT_EQ(response.hint().targets(3).state(), v1::TARGET_STATE_CANCELLING);
  EXPECT_EQ(response.hint().targets(4).state(), v1::TARGET_STATE_CANCELLED);
  EXPECT_EQ(response.hint().target_totals().cancelling(), 0u);
  EXPECT_EQ(response.hint().target_totals().cancelled(), 5u);
}

TEST_F(PrefetchServiceTest, TheNumberOfTargetsIsBounded) {
  const auto targets = [](int count) {
    return [count](v1::Hint& h) {
      for (int i = 0; i < count; ++i) h.add_targets(absl::StrCat("node-", i));
    };
  };
  EXPECT_THAT(Refusal(targets(1025)), AllOf(HasSubstr("hints[1].targets"), HasSubstr("1025")));
  for (const std::string& name : {std::string(), std::string(256, 'a'), std::string("a b")})
    EXPECT_THAT(Refusal([&](v1::Hint& h) { h.add_targets(name); }), HasSubstr("hints[1].targets[0]")) << name;
  v1::SubmitHintsRequest request;
  for (int i = 0; i < 5; ++i) {
    *request.add_hints() = MakeHint(absl::StrCat("h", i));
    targets(1024)(*request.mutable_hints(i));
  }
  v1::SubmitHintsResponse response;
  EXPECT_THAT(Submit(request, &response).error_message(), HasSubstr("4096 targets"));
  EXPECT_THAT(backend_.hints(), IsEmpty());
  request.mutable_hints()->RemoveLast();
  EXPECT_TRUE(Submit(request, &response).ok()) << "a full request";
}

TEST_F(PrefetchServiceTest, AMalformedBlobIsNamedByItsField) {
  const auto with = [](std::string registry, std::string repository, std::string digest = {}) {
    return [=](v1::Hint& h) {
      h.clear_reference();
      h.mutable_blob()->set_registry(registry);
      h.mutable_blob()->set_repository(repository);
      h.mutable_blob()->set_digest(digest.empty() ? TestDigest(1).ToString() : digest);
    };
  };
  for (const char* const registry : {"", "host", "a.b/c", "a.b@c"})
    EXPECT_THAT(Refusal(with(registry, "app")), HasSubstr("hints[1].blob.registry")) << registry;
  for (const char* const repository : {"", "app:1", "app@sha256:00"})
    EXPECT_THAT(Refusal(with("a.b", repository)), HasSubstr("hints[1].blob.repository")) << repository;
  EXPECT_THAT(Refusal(with("a.b", std::string(2000, 'a'))), HasSubstr("hints[1].blob"));
  EXPECT_THAT(Refusal(with("a.b", "app", "sha256:00")), HasSubstr("hints[1].blob.digest"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_blob(); }), HasSubstr("both reference and blob"));
  EXPECT_THAT(Refusal([&](v1::Hint& h) {
                with("a.b", "app")(h);
                h.mutable_blob()->set_size(UINT64_MAX);
              }),
              HasSubstr("hints[1].blob.size"));
  EXPECT_THAT(Refusal([&](v1::Hint& h) {
                with("a.b", "app")(h);
                h.mutable_platform();
              }),
              HasSubstr("hints[1].platform"));
  EXPECT_THAT(Refusal([&](v1::Hint& h) {
                with("a.b", "app")(h);
                h.mutable_profile();
              }),
              HasSubstr("hints[1].profile"));
  const auto range = [&](uint8_t digest, uint64_t size, uint64_t offset, uint64_t length) {
    return [=](v1::Hint& h) {
      with("a.b", "app")(h);
      h.mutable_blob()->set_size(size);
      v1::BlobRange& added = *h.mutable_ranges()->add_ranges();
      added.set_digest(TestDigest(digest).ToString());
      added.set_offset(offset);
      added.set_length(length);
    };
  };
  EXPECT_THAT(Refusal(range(2, 100, 0, 1)), HasSubstr("hints[1].ranges[0].digest"));
  EXPECT_THAT(Refusal(range(1, 100, 99, 2)), HasSubstr("not within the blob of 100 bytes"));
}

TEST_F(PrefetchServiceTest, AMillionRangesAreNotTaken) {
  const auto ranges = [](int count) {
    return [count](v1::Hint& h) {
      for (int i = 0; i < count; ++i) h.mutable_ranges()->add_ranges();
    };
  };
  EXPECT_THAT(Refusal(ranges(400'000)), AllOf(HasSubstr("hints[1].ranges"), HasSubstr("these are 400000")));
  // A message has a bound, too.
  v1::SubmitHintsRequest request;
  *request.add_hints() = MakeHint("million");
  ranges(1'000'000)(*request.mutable_hints(0));
  v1::SubmitHintsResponse response;
  const grpc::Status status = Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("larger than max"));
  EXPECT_THAT(backend_.hints(), IsEmpty());
}

TEST_F(PrefetchServiceTest, AHintSaysWhenAndInWhoseName) {
  v1::Hint hint = MakeHint("h");
  hint.set_priority(-100);
  hint.mutable_needed_by()->set_seconds(1'500'000'000);
  hint.mutable_needed_by()->set_nanos(250'000'000);
  hint.mutable_ttl()->set_seconds(90);
  hint.mutable_ttl()->set_nanos(500'000'000);
  hint.set_scheduler("kube-1");
  SubmitOne(hint);
  const HintSpec spec = backend_.hints().at("h");
  EXPECT_EQ(spec.priority, -100);
  EXPECT_EQ(spec.needed_by,
            std::chrono::system_clock::time_point(std::chrono::milliseconds(1'500'000'000'250)));
  EXPECT_EQ(spec.ttl, std::chrono::milliseconds(90'500));
  EXPECT_EQ(spec.scheduler, "kube-1");

  SubmitOne(MakeHint("plain"));
  const HintSpec plain = backend_.hints().at("plain");
  EXPECT_FALSE(plain.needed_by || plain.ttl) << "what is not said is not made up";

  v1::Hint far = MakeHint("far");
  far.mutable_needed_by()->set_seconds(253'402'300'799);
  far.mutable_ttl()->set_seconds(7 * 24 * 3600);
  SubmitOne(far);
  EXPECT_GT(backend_.hints().at("far").needed_by, std::chrono::system_clock::now());
}

TEST_F(PrefetchServiceTest, OneMalformedHintTakesTheWholeRequestWithIt) {
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_id(""); }), HasSubstr("hints[1].id"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_id(std::string(129, 'a')); }), HasSubstr("129"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_id("a/b"); }), HasSubstr("letters"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_reference(""); }), HasSubstr("hints[1].reference"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_reference(std::string(2000, 'a')); }), HasSubstr("2000"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.clear_scope(); }), HasSubstr("neither all nor ranges nor profile"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_ranges(); }), HasSubstr("1 to 256 ranges"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_platform()->set_os("linux"); }), HasSubstr("architecture"));
  EXPECT_THAT(Refusal([](v1::Hint& h) {
                h.mutable_platform()->set_os("li nux");
                h.mutable_platform()->set_architecture("arm64");
              }),
              HasSubstr("platform"));

  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_priority(101); }), HasSubstr("hints[1].priority"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_priority(INT32_MIN); }), HasSubstr("hints[1].priority"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_needed_by()->set_nanos(-1); }), HasSubstr("needed_by"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_needed_by()->set_seconds(INT64_MAX); }),
              HasSubstr("hints[1].needed_by"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_ttl(); }), HasSubstr("more than 0"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_ttl()->set_seconds(-1); }), HasSubstr("hints[1].ttl"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.mutable_ttl()->set_seconds(INT64_MAX); }), HasSubstr("ttl"));
  EXPECT_THAT(Refusal([](v1::Hint& h) {
                h.mutable_ttl()->set_seconds(7 * 24 * 3600);
                h.mutable_ttl()->set_nanos(1);
              }),
              HasSubstr("ttl"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_scheduler(std::string(65, 'a')); }), HasSubstr("scheduler"));
  EXPECT_THAT(Refusal([](v1::Hint& h) { h.set_scheduler("a b"); }), HasSubstr("hints[1].scheduler"));

  const auto range = [](uint64_t offset, uint64_t length, std::string digest = TestDigest(1).ToString()) {
    return [=](v1::Hint& h) {
      v1::BlobRange& added = *h.mutable_ranges()->add_ranges();
      added.set_digest(digest);
      added.set_offset(offset);
      added.set_length(length);
    };
  };
  EXPECT_THAT(Refusal(range(0, 0)), HasSubstr("at least one byte"));
  EXPECT_THAT(Refusal(range(2, UINT64_MAX - 1)), HasSubstr("64 bits"));
  EXPECT_THAT(Refusal(range(0, 1, "sha256:../../etc/passwd")), HasSubstr("ranges[0].digest"));
  EXPECT_THAT(Refusal([&](v1::Hint& h) {
                for (size_t i = 0; i <= kHintRangesMax; ++i) range(i, 1)(h);
              }),
              HasSubstr("257"));
}

TEST_F(PrefetchServiceTest, TheNumberOfHintsAndIdsIsBounded) {
  v1::SubmitHintsRequest request;
  v1::SubmitHintsResponse response;
  EXPECT_THAT(Submit(request, &response).error_message(), HasSubstr("1 to 100 hints"));
  for (int i = 0; i < 101; ++i) *request.add_hints() = MakeHint(absl::StrCat("h", i));
  EXPECT_THAT(Submit(request, &response).error_message(), HasSubstr("101"));
  request.mutable_hints()->RemoveLast();
  ASSERT_TRUE(Submit(request, &response).ok());
  EXPECT_THAT(response.results(), SizeIs(100));

  std::vector<std::vector<std::string>> messages;
  EXPECT_THAT(Watch({}, &messages).error_message(), HasSubstr("1 to 100 ids"));
  EXPECT_THAT(Watch(std::vector<std::string>(101, "h1"), &messages).error_message(), HasSubstr("101"));
  EXPECT_THAT(Watch({"h 1"}, &messages).error_message(), HasSubstr("ids[0]"));
}

TEST_F(PrefetchServiceTest, WhatIsWrongWithOneHintIsSaidOfIt) {
  backend_.refusal = absl::AlreadyExistsError("hint \"a\" is known already, with other ranges");
  const v1::SubmitHintsResponse response = SubmitOne(MakeHint("a"));
  EXPECT_EQ(response.results(0).id(), "a");
  EXPECT_EQ(response.results(0).outcome(), v1::SUBMIT_OUTCOME_REFUSED);
  EXPECT_EQ(response.results(0).error().code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(response.results(0).error().message(), HasSubstr("other ranges"));
  EXPECT_FALSE(response.results(0).has_status());
}

TEST_F(PrefetchServiceTest, ErrorsSayToProgramsWhatToDo) {
  backend_.refusal = WithRetryAfter(absl::ResourceExhaustedError("full"), std::chrono::milliseconds(1500));
  const v1::SubmitHintsResponse response = SubmitOne(MakeHint("a"));
  ASSERT_EQ(response.results(0).error().details_size(), 1);
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(response.results(0).error().details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);

  // A call that fails as a whole has them in its trailer.
  v1::SubmitHintsRequest request;
  *request.add_hints() = MakeHint("no blanks");
  v1::SubmitHintsResponse none;
  const grpc::Status status = Submit(request, &none);
  google::rpc::Status detailed;
  ASSERT_TRUE(detailed.ParseFromString(status.error_details()));
  EXPECT_EQ(detailed.code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(detailed.message(), status.error_message());
  google::rpc::BadRequest bad;
  ASSERT_TRUE(detailed.details_size() == 1 && detailed.details(0).UnpackTo(&bad));
  EXPECT_EQ(bad.field_violations(0).field(), "hints[0].id");
  EXPECT_THAT(bad.field_violations(0).description(), HasSubstr("letters"));

  // However long it is: what has no room in the headers would lose the code too.
  backend_.failure = InvalidField(std::string(5000, 'f'), std::string(5000, '\1'));
  *request.mutable_hints(0) = MakeHint("a");
  EXPECT_EQ(Submit(request, &none).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(PrefetchServiceTest, AWatchHasAllFirstThenWhatChangedAndEndsWithTheHints) {
  SubmitOne(MakeHint("a"));
  SubmitOne(MakeHint("b"));
  backend_.Begin({At(HintState::kQueued), At(HintState::kQueued), At(HintState::kFetching, 10),
                  At(HintState::kFetching, 10), At(HintState::kCompleted, 1000)});
  std::vector<std::vector<std::string>> messages;
  EXPECT_TRUE(Watch({"a", "b", "a"}, &messages).ok());
  EXPECT_THAT(messages,
              ElementsAre(ElementsAre("a HINT_STATE_QUEUED 0", "b HINT_STATE_QUEUED 0"),
                          ElementsAre("a HINT_STATE_FETCHING 10", "b HINT_STATE_FETCHING 10"),
                          ElementsAre("a HINT_STATE_COMPLETED 1000", "b HINT_STATE_COMPLETED 1000")));
}

TEST_F(PrefetchServiceTest, AWatchGoesOnUntilItsTargetsHaveEndedIt) {
  SubmitOne(MakeHint("a"));
  HintStatus telling = At(HintState::kCancelled), told = telling;
  telling.target_totals[static_cast<size_t>(TargetState::kCancelling)] = 1;
  told.target_totals[static_cast<size_t>(TargetState::kCancelled)] = 1;
  backend_.Begin({telling, told});
  std::vector<std::vector<std::string>> messages;
  EXPECT_TRUE(Watch({"a"}, &messages).ok());
  EXPECT_THAT(messages, SizeIs(2));
}

TEST_F(PrefetchServiceTest, AWatchThatBeginsAgainRepeatsNothing) {
  SubmitOne(MakeHint("a"));
  backend_.Begin({At(HintState::kFetching, 10)});
  v1::GetHintRequest get;
  get.set_id("a");
  v1::GetHintResponse got;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetHint(&context, get, &got).ok());
  EXPECT_EQ(got.hint().present_bytes(), 10u);
  const uint64_t revision = got.hint().revision();
  EXPECT_GT(revision, 0u);

  backend_.Follow(
      {At(HintState::kFetching, 10), At(HintState::kFetching, 20), At(HintState::kCompleted, 1000)});
  std::vector<std::vector<std::string>> messages;
  EXPECT_TRUE(Watch({"a"}, &messages, revision).ok());
  EXPECT_THAT(messages, ElementsAre(ElementsAre("a HINT_STATE_FETCHING 20"),
                                    ElementsAre("a HINT_STATE_COMPLETED 1000")));

  messages.clear();
  EXPECT_TRUE(Watch({"a"}, &messages, backend_.Revision()).ok());
  EXPECT_THAT(messages, IsEmpty()) << "it is over, and its client knows";
  EXPECT_TRUE(Watch({"a"}, &messages, backend_.Revision() + 1).ok());
  EXPECT_THAT(messages, SizeIs(1)) << "a revision of another life of the node says nothing of this one";

  grpc::ClientContext unknown, malformed;
  get.set_id("x");
  EXPECT_EQ(stub_->GetHint(&unknown, get, &got).error_code(), grpc::StatusCode::NOT_FOUND);
  get.set_id("");
  EXPECT_EQ(stub_->GetHint(&malformed, get, &got).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(PrefetchServiceTest, AFailedHintSaysWhy) {
  SubmitOne(MakeHint("a"));
  backend_.Begin({At(HintState::kFailed, 0, absl::NotFoundError("the registry has no such image"))});
  grpc::ClientContext context;
  v1::WatchHintsRequest request;
  request.add_ids("a");
  auto stream = stub_->WatchHints(&context, request);
  v1::WatchHintsResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.hints(0).error().code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(response.hints(0).error().message(), "the registry has no such image");
  EXPECT_EQ(response.hints(0).manifest_digest(), TestDigest(7).ToString());
  EXPECT_EQ(response.hints(0).total_bytes(), 1000u);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(PrefetchServiceTest, NobodyKnowsAnUnknownHint) {
  SubmitOne(MakeHint("a"));
  std::vector<std::vector<std::string>> messages;
  const grpc::Status watched = Watch({"a", "x"}, &messages);
  EXPECT_EQ(watched.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(watched.error_message(), HasSubstr("\"x\""));
  EXPECT_THAT(messages, IsEmpty());

  grpc::ClientContext context;
  v1::CancelHintsRequest request;
  request.add_ids("x");
  v1::CancelHintsResponse response;
  EXPECT_EQ(stub_->CancelHints(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(PrefetchServiceTest, HintsAreListedByPages) {
  for (const char* id : {"c", "a", "b"}) SubmitOne(MakeHint(id));
  const auto list = [this](int32_t size, const std::string& token, v1::ListHintsResponse& response) {
    grpc::ClientContext context;
    v1::ListHintsRequest request;
    request.set_page_size(size);
    request.set_page_token(token);
    return stub_->ListHints(&context, request, &response);
  };
  v1::ListHintsResponse first, last, all;
  ASSERT_TRUE(list(2, "", first).ok());
  ASSERT_THAT(first.hints(), SizeIs(2));
  EXPECT_EQ(first.hints(0).id(), "a");
  EXPECT_EQ(first.hints(1).id(), "b");
  ASSERT_TRUE(list(2, first.next_page_token(), last).ok());
  ASSERT_THAT(last.hints(), SizeIs(1));
  EXPECT_EQ(last.hints(0).id(), "c");
  EXPECT_EQ(last.next_page_token(), "");
  ASSERT_TRUE(list(3, "", all).ok());
  EXPECT_EQ(all.next_page_token(), "") << "a full page may be the last one";
  EXPECT_EQ(list(-1, "", all).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(PrefetchServiceTest, CancelTellsTheStateAfterwards) {
  SubmitOne(MakeHint("a"));
  grpc::ClientContext context;
  v1::CancelHintsRequest request;
  request.add_ids("a");
  v1::CancelHintsResponse response;
  ASSERT_TRUE(stub_->CancelHints(&context, request, &response).ok());
  EXPECT_EQ(response.hints(0).state(), v1::HINT_STATE_CANCELLED);
}

// A stream whose client does not take its messages holds one of them, asks the backend no more, and gives the
// latest state when it is read at last.
TEST_F(PrefetchServiceTest, AWatcherThatDoesNotReadCostsOneMessage) {
  SubmitOne(MakeHint("a"));
  // Each snapshot is another, and large: the flow control window is soon full.
  std::vector<HintStatus> course;
  for (uint64_t i = 0; i < 4000; ++i)
    course.push_back(At(HintState::kFetching, i, absl::UnavailableError(std::string(2000, 'x'))));
  course.push_back(At(HintState::kCompleted, 1000));
  backend_.Begin(course);
  grpc::ClientContext context;
  v1::WatchHintsRequest request;
  request.add_ids("a");
  auto stream = stub_->WatchHints(&context, request);
  size_t before = 0, polls = backend_.polls();
  do {
    before = polls;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    polls = backend_.polls();
  } while (polls != before);
  EXPECT_LT(polls, course.size());

  backend_.Begin({At(HintState::kCompleted, 1000)});
  v1::WatchHintsResponse response;
  v1::HintState last = v1::HINT_STATE_UNSPECIFIED;
  while (stream->Read(&response)) last = response.hints(0).state();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(last, v1::HINT_STATE_COMPLETED);
}

TEST_F(PrefetchServiceTest, WatchesAreBoundedAndEndWithTheServer) {
  StartWith({.watches_max = 2});
  SubmitOne(MakeHint("a"));
  backend_.Begin({At(HintState::kFetching)});
  grpc::ClientContext first_context, second_context;
  v1::WatchHintsRequest request;
  request.add_ids("a");
  v1::WatchHintsResponse response;
  auto first = stub_->WatchHints(&first_context, request);
  auto second = stub_->WatchHints(&second_context, request);
  ASSERT_TRUE(first->Read(&response));
  ASSERT_TRUE(second->Read(&response));
  std::vector<std::vector<std::string>> messages;
  EXPECT_EQ(Watch({"a"}, &messages).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);

  server_->Stop(std::chrono::seconds(10));
  EXPECT_FALSE(first->Read(&response));
  EXPECT_EQ(first->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(second->Read(&response));
  EXPECT_EQ(second->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(PrefetchServiceTest, TheSocketsServeWhatTheyAreForAndNothingElse) {
  grpc::ClientContext context;
  v1::GetStatusResponse response;
  EXPECT_EQ(v1::AdminService::NewStub(channel_)->GetStatus(&context, {}, &response).error_code(),
            kNoSuchMethod);

  FakeAdminBackend admin;
  GrpcServer other({.socket_path = dir_.File("api.sock")}, AdminOver(admin.ports()));
  ASSERT_TRUE(other.Start().ok());
  const auto stub = v1::PrefetchService::NewStub(
      grpc::CreateChannel("unix:" + dir_.File("api.sock"), grpc::InsecureChannelCredentials()));
  v1::SubmitHintsRequest request;
  *request.add_hints() = MakeHint("a");
  v1::SubmitHintsResponse submitted;
  grpc::ClientContext prefetch_context;
  EXPECT_EQ(stub->SubmitHints(&prefetch_context, request, &submitted).error_code(), kNoSuchMethod);
}

TEST_F(PrefetchServiceTest, WhatTheBackendSaysReachesTheClient) {
  backend_.failure = absl::InvalidArgumentError("hint \"a\": reference is malformed");
  v1::SubmitHintsRequest request;
  *request.add_hints() = MakeHint("a");
  v1::SubmitHintsResponse response;
  const grpc::Status status = Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "hint \"a\": reference is malformed");
}

grpc::Status GetLocality(v1::PrefetchService::Stub& stub, const v1::GetLocalityRequest& request,
                         v1::GetLocalityResponse* response) {
  grpc::ClientContext context;
  return stub.GetLocality(&context, request, response);
}

TEST_F(PrefetchServiceTest, LocalityCarriesEveryField) {
  locality_.answer = std::vector<ImageLocality>{
      {.reference = "r/a:1",
       .manifest = TestDigest(7),
       .total_bytes = 1000,
       .present_bytes = 10,
       .nodes = {{"n1", 900}, {"me", 10}}},
      {.reference = "r/b:1",
       .error = WithRetryAfter(absl::DeadlineExceededError("later"), std::chrono::seconds(3))}};
  v1::GetLocalityRequest request;
  request.add_references("r/a:1");
  request.add_references("r/b:1");
  request.mutable_platform()->set_os("linux");
  request.mutable_platform()->set_architecture("arm64");
  request.set_scope(v1::LOCALITY_SCOPE_CLUSTER);
  v1::GetLocalityResponse response;
  ASSERT_TRUE(GetLocality(*stub_, request, &response).ok());
  const LocalityQuery& query = locality_.queries.at(0);
  EXPECT_THAT(query.references, ElementsAre("r/a:1", "r/b:1"));
  EXPECT_EQ(query.platform, (HintPlatform{"linux", "arm64", ""}));
  EXPECT_EQ(query.scope, LocalityScope::kCluster);
  EXPECT_LE(locality_.deadlines.at(0),
            std::chrono::steady_clock::now() + PrefetchServiceLimits{}.locality_max);

  ASSERT_THAT(response.images(), SizeIs(2));
  const v1::ImageLocality& known = response.images(0);
  EXPECT_EQ(known.reference(), "r/a:1");
  EXPECT_FALSE(known.has_error());
  EXPECT_EQ(known.manifest_digest(), TestDigest(7).ToString());
  EXPECT_EQ(known.total_bytes(), 1000u);
  EXPECT_EQ(known.present_bytes(), 10u);
  ASSERT_THAT(known.nodes(), SizeIs(2));
  EXPECT_EQ(known.nodes(0).name(), "n1");
  EXPECT_EQ(known.nodes(0).present_bytes(), 900u);
  EXPECT_EQ(response.images(1).error().code(), static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(response.images(1).error().details_size(), 1);

  request.set_scope(v1::LOCALITY_SCOPE_NODE);
  request.clear_platform();
  ASSERT_TRUE(GetLocality(*stub_, request, &response).ok());
  EXPECT_EQ(locality_.queries.at(1).scope, LocalityScope::kNode);
  EXPECT_FALSE(locality_.queries.at(1).platform);
}

TEST_F(PrefetchServiceTest, AMalformedLocalityRequestNamesItsField) {
  const auto field_of = [this](const std::function<void(v1::GetLocalityRequest&)>& change) {
    v1::GetLocalityRequest request;
    request.add_references("r/a:1");
    request.set_scope(v1::LOCALITY_SCOPE_NODE);
    change(request);
    v1::GetLocalityResponse response;
    const grpc::Status status = GetLocality(*stub_, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    google::rpc::Status details;
    google::rpc::BadRequest bad;
    EXPECT_TRUE(details.ParseFromString(status.error_details()));
    EXPECT_TRUE(details.details_size() == 1 && details.details(0).UnpackTo(&bad));
    return bad.field_violations_size() == 1 ? bad.field_violations(0).field() : "";
  };
  EXPECT_EQ(field_of([](auto& r) { r.clear_references(); }), "references");
  EXPECT_EQ(field_of([](auto& r) {
              for (size_t i = 0; i < kLocalityImagesMax; ++i) r.add_references("r/a:1");
            }),
            "references");
  EXPECT_EQ(field_of([](auto& r) { r.add_references(""); }), "references[1]");
  EXPECT_EQ(field_of([](auto& r) { r.add_references(std::string(2000, 'a')); }), "references[1]");
  EXPECT_EQ(field_of([](auto& r) { r.clear_scope(); }), "scope");
  EXPECT_EQ(field_of([](auto& r) { r.set_scope(static_cast<v1::LocalityScope>(9)); }), "scope");
  EXPECT_THAT(field_of([](auto& r) { r.mutable_platform(); }), HasSubstr("platform"));
  EXPECT_THAT(locality_.queries, IsEmpty());
}

TEST_F(PrefetchServiceTest, CallsOfLocalityAreBounded) {
  StartWith({.localities_max = 1});
  locality_.hold = true;
  v1::GetLocalityRequest request;
  request.add_references("r/a:1");
  request.set_scope(v1::LOCALITY_SCOPE_NODE);
  std::thread first([&] {
    v1::GetLocalityResponse response;
    EXPECT_TRUE(GetLocality(*stub_, request, &response).ok());
  });
  while (locality_.held_count() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  v1::GetLocalityResponse response;
  EXPECT_EQ(GetLocality(*stub_, request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  locality_.ReleaseAll();
  first.join();
  locality_.hold = false;
  EXPECT_TRUE(GetLocality(*stub_, request, &response).ok()) << "its place is free again";
}

}  // namespace
}  // namespace sluice::api
