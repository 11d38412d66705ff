// Calls of PrefetchService, timed as a scheduler's client sees them.
//
// usage: hint_calls serve SOCKET                      a server whose GetHint answers at once, with nothing
//        hint_calls empty SOCKET COUNT                COUNT such calls
//        hint_calls acks SOCKET REFERENCE NAME COUNT  COUNT hints, each in a call of its own
//        hint_calls rate SOCKET REFERENCE NAME COUNT PER_CALL
//        hint_calls fill SOCKET REFERENCE NAME        as many as the node takes
//
// `empty` and `acks` print the median microseconds of a call, one after the other; `rate` prints hints
// accepted per second, PER_CALL in each call, by kClients clients at once. Hints are for REFERENCE, have ids
// that begin with NAME, and are cancelled outside of the measured time, before the node has as many as it
// takes. One that is not accepted is an error.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "sluice/v1/prefetch.grpc.pb.h"

namespace sluice::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Stub = v1::PrefetchService::Stub;

constexpr int kClients = 4;
// Under way at once: the node takes 256 of one scheduler, and each client is one.
constexpr int kRoundMax = 200;
constexpr int kCancelMax = 100;  // ids in one call
// More than it takes to come to the node's bound of all hints by that of each.
constexpr int kFillers = 8;

class EmptyService final : public v1::PrefetchService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetHint(grpc::CallbackServerContext* context, const v1::GetHintRequest*,
                                    v1::GetHintResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// Until it is killed.
absl::Status Serve(const std::string& socket) {
  EmptyService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) return absl::UnavailableError(absl::StrCat("can't serve on ", socket));
  server->Wait();
  return absl::OkStatus();
}

std::unique_ptr<Stub> Dial(const std::string& socket) {
  // Each stub has a connection of its own, as clients that are processes of their own do.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::PrefetchService::NewStub(
      grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments));
}

absl::Status Failed(const std::string& what, const grpc::Status& status) {
  return absl::UnavailableError(absl::StrCat(what, ": ", status.error_message()));
}

double MedianMicroseconds(std::vector<Clock::duration> times) {
  std::sort(times.begin(), times.end());
  return std::chrono::duration<double, std::micro>(times[times.size() / 2]).count();
}

// One scheduler, with hints that are numbered through.
class Scheduler {
 public:
  Scheduler(const std::string& socket, std::string reference, std::string name)
      : stub_(Dial(socket)), reference_(std::move(reference)), name_(std::move(name)) {}

  // `count` more hints in one call. Errors: the call's, and of a hint that is not accepted what the node
  // says; then the next ones take its number.
  absl::Status Submit(int count) {
    v1::SubmitHintsRequest request;
    for (int i = 0; i < count; ++i) {
      v1::Hint& hint = *request.add_hints();
      hint.set_id(absl::StrCat(name_, "-", next_ + i));
      hint.set_reference(reference_);
      hint.mutable_all();
      hint.set_scheduler(name_);
    }
    grpc::ClientContext context;
    v1::SubmitHintsResponse response;
    const grpc::Status status = stub_->SubmitHints(&context, request, &response);
    if (!status.ok()) return Failed("SubmitHints", status);
    for (const v1::SubmitResult& result : response.results()) {
      if (result.outcome() != v1::SUBMIT_OUTCOME_ACCEPTED)
        return absl::Status(
            static_cast<absl::StatusCode>(result.error().code()),
            absl::StrCat("hint ", result.id(), " is not accepted: ", result.error().message()));
      ++next_;
    }
    return response.results_size() == count ? absl::OkStatus()
                                            : absl::InternalError("not every hint has an answer");
  }

  int submitted() const { return next_; }

  // What was submitted since the last time.
  absl::Status CancelAll() {
    while (cancelled_ < next_) {
      v1::CancelHintsRequest request;
      for (int i = 0; i < kCancelMax && cancelled_ < next_; ++i)
        request.add_ids(absl::StrCat(name_, "-", cancelled_++));
      grpc::ClientContext context;
      v1::CancelHintsResponse response;
      const grpc::Status status = stub_->CancelHints(&context, request, &response);
      if (!status.ok()) return Failed("CancelHints", status);
    }
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<Stub> stub_;
  const std::string reference_;
  const std::string name_;
  int next_ = 0;
  int cancelled_ = 0;
};

absl::StatusOr<double> TimeEmpty(const std::string& socket, int count) {
  const std::unique_ptr<Stub> stub = Dial(socket);
  std::vector<Clock::duration> times;
  for (int i = 0; i < count; ++i) {
    grpc::ClientContext context;
    v1::GetHintRequest request;
    request.set_id("x");
    v1::GetHintResponse response;
    const Clock::time_point started = Clock::now();
    const grpc::Status status = stub->GetHint(&context, request, &response);
    times.push_back(Clock::now() - started);
    if (!status.ok()) return Failed("GetHint", status);
  }
  return MedianMicroseconds(std::move(times));
}

absl::StatusOr<double> TimeAcks(const std::string& socket, const std::string& reference,
                                const std::string& name, int count) {
  Scheduler scheduler(socket, reference, name);
  std::vector<Clock::duration> times;
  for (int i = 0; i < count; ++i) {
    const Clock::time_point started = Clock::now();
    if (absl::Status status = scheduler.Submit(1); !status.ok()) return status;
    times.push_back(Clock::now() - started);
    if (i % kRoundMax != kRoundMax - 1 && i + 1 < count) continue;
    if (absl::Status status = scheduler.CancelAll(); !status.ok()) return status;
  }
  return MedianMicroseconds(std::move(times));
}

// Rounds of as many as the node has room for, the clients at once in each.
absl::StatusOr<double> MeasureRate(const std::string& socket, const std::string& reference,
                                   const std::string& name, int count, int per_call) {
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  for (int i = 0; i < kClients; ++i)
    schedulers.push_back(std::make_unique<Scheduler>(socket, reference, absl::StrCat(name, "-", i)));
  const int calls = std::max(1, kRoundMax / per_call);
  std::vector<absl::Status> ends(kClients);
  Clock::duration took{};
  int accepted = 0;
  while (accepted < count) {
    const Clock::time_point started = Clock::now();
    std::vector<std::thread> clients;
    for (int i = 0; i < kClients; ++i) {
      clients.emplace_back([&, i] {
        for (int call = 0; call < calls && ends[i].ok(); ++call) ends[i] = schedulers[i]->Submit(per_call);
      });
    }
    for (std::thread& client : clients) client.join();
    took += Clock::now() - started;
    accepted += kClients * calls * per_call;
    for (int i = 0; i < kClients; ++i) {
      if (!ends[i].ok()) return ends[i];
      if (absl::Status status = schedulers[i]->CancelAll(); !status.ok()) return status;
    }
  }
  return accepted / std::chrono::duration<double>(took).count();
}

// Until the node refuses each of them.
absl::Status FillUp(std::vector<std::unique_ptr<Scheduler>>& schedulers) {
  for (const std::unique_ptr<Scheduler>& scheduler : schedulers) {
    absl::Status submitted;
    while (submitted.ok()) submitted = scheduler->Submit(1);
    if (!absl::IsResourceExhausted(submitted)) return submitted;
  }
  return absl::OkStatus();
}

absl::Status Fill(const std::string& socket, const std::string& reference, const std::string& name) {
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  for (int i = 0; i < kFillers; ++i)
    schedulers.push_back(std::make_unique<Scheduler>(socket, reference, absl::StrCat(name, "-", i)));
  if (absl::Status status = FillUp(schedulers); !status.ok()) return status;
  int accepted = 0;
  for (const std::unique_ptr<Scheduler>& scheduler : schedulers) accepted += scheduler->submitted();
  std::printf("%d\n", accepted);
  std::fflush(stdout);

  std::cin.ignore(std::numeric_limits<std::streamsize>::max());
  if (!absl::IsResourceExhausted(schedulers.front()->Submit(1)))
    return absl::FailedPreconditionError("the node would take another hint: it was not full to the end");
  for (const std::unique_ptr<Scheduler>& scheduler : schedulers) {
    if (absl::Status status = scheduler->CancelAll(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

int Print(const absl::StatusOr<double>& figure) {
  if (!figure.ok()) {
    std::cerr << "hint_calls: " << figure.status().message() << "\n";
    return 1;
  }
  std::printf("%.1f\n", *figure);
  return 0;
}

int Main(const std::vector<std::string>& arguments) {
  const std::string what = arguments.empty() ? "" : arguments[0];
  int count = 0;
  int per_call = 0;
  if (what == "serve" && arguments.size() == 2) {
    std::cerr << "hint_calls: " << Serve(arguments[1]).message() << "\n";
    return 1;
  }
  if (what == "empty" && arguments.size() == 3 && absl::SimpleAtoi(arguments[2], &count) && count > 0)
    return Print(TimeEmpty(arguments[1], count));
  if (what == "fill" && arguments.size() == 4) {
    const absl::Status filled = Fill(arguments[1], arguments[2], arguments[3]);
    if (filled.ok()) return 0;
    std::cerr << "hint_calls: " << filled.message() << "\n";
    return 1;
  }
  if (arguments.size() >= 5 && absl::SimpleAtoi(arguments[4], &count) && count > 0) {
    if (what == "acks" && arguments.size() == 5)
      return Print(TimeAcks(arguments[1], arguments[2], arguments[3], count));
    if (what == "rate" && arguments.size() == 6 && absl::SimpleAtoi(arguments[5], &per_call) &&
        per_call > 0 && per_call <= 100)
      return Print(MeasureRate(arguments[1], arguments[2], arguments[3], count, per_call));
  }
  std::cerr << "usage: hint_calls serve SOCKET | empty SOCKET COUNT | acks SOCKET REFERENCE NAME COUNT |\n"
               "       rate SOCKET REFERENCE NAME COUNT PER_CALL | fill SOCKET REFERENCE NAME\n";
  return 2;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  return sluice::bench::Main({argv + 1, argv + argc});
}
