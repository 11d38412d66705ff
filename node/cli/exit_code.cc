#include "node/cli/exit_code.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sluice::cli {
namespace {

constexpr char kUnreachablePayload[] = "sluice.v1/unreachable";
constexpr char kCommandPayload[] = "sluice.v1/command";  // its exit code, decimal

}  // namespace

const char kExitCodesHelp[] =
    "Exit codes: 0 ok, 1 failed, 2 wrong usage or argument, 3 not found, 4 no daemon answers on the socket,\n"
    "5 refused (not permitted, not on the allow-list, or not in this state).";

absl::Status DaemonUnreachable(const std::string& message) {
  absl::Status status = absl::UnavailableError(message);
  status.SetPayload(kUnreachablePayload, absl::Cord());
  return status;
}

absl::Status CommandFailed(const std::string& message, int exit_code) {
  absl::Status status = absl::AbortedError(message);
  status.SetPayload(kCommandPayload, absl::Cord(absl::StrCat(exit_code)));
  return status;
}

int ExitNumberOf(const absl::Status& status) {
  const auto of_command = status.GetPayload(kCommandPayload);
  int number = 0;
  if (of_command && absl::SimpleAtoi(std::string(*of_command), &number)) return number;
  return static_cast<int>(ExitCodeOf(status));
}

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kInvalidArgument:
      return ExitCode::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
      return ExitCode::kRefused;
    default:
      return status.GetPayload(kUnreachablePayload) ? ExitCode::kUnreachable : ExitCode::kFailed;
  }
}

absl::Status Annotate(const absl::Status& status, const std::string& what) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(what, ": ", status.message()));
  status.ForEachPayload(
      [&annotated](absl::string_view url, const absl::Cord& payload) { annotated.SetPayload(url, payload); });
  return annotated;
}

}  // namespace sluice::cli
