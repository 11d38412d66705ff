#include "ondemand/keeper_replacement.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/replacement.h"
#include "ondemand/keeper/wire.h"

namespace sluice::ondemand {
namespace {

absl::Status Refused(const keeper::ReplaceReply& reply) {
  return absl::FailedPreconditionError(reply.text[0] != 0 ? reply.text : std::strerror(reply.error));
}

absl::Status Malformed() {
  return absl::UnavailableError("its answer can't be read");
}

}  // namespace

absl::StatusOr<KeeperEstate> AskForReplacement(int socket) {
  const keeper::ReplaceRequest ask{};
  if (keeper::Outcome sent = keeper::SendMessage(socket, keeper::BytesOf(ask), {}); !sent.ok())
    return absl::UnavailableError(sent.error().text);
  keeper::Result<keeper::Message> message = keeper::ReceiveMessage(socket);
  if (!message.ok()) return absl::UnavailableError(message.error().text);
  const keeper::ReplaceReply* reply = keeper::ParseReplaceReply(message.value().bytes);
  if (reply == nullptr) return Malformed();
  if (reply->error != 0) return Refused(*reply);
  std::vector<keeper::Descriptor>& descriptors = message.value().descriptors;
  if (descriptors.size() != keeper::kReplaceDescriptors) return Malformed();
  return KeeperEstate{
      std::move(descriptors[keeper::kReplaceJournal]), std::move(descriptors[keeper::kReplaceCompletions]),
      std::move(descriptors[keeper::kReplaceRequests]), std::move(descriptors[keeper::kReplaceTree])};
}

absl::Status ReplaceKeeper(int socket, const std::string& program) {
  const keeper::Descriptor file(open(program.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid())
    return absl::FailedPreconditionError(absl::StrCat("open ", program, ": ", std::strerror(errno)));
  keeper::ReplaceRequest go{.step = keeper::ReplaceStep::kGo};
  (void)keeper::CopyText(program, go.path);  // one that is too long is not needed
  const int descriptor = file.get();
  if (keeper::Outcome sent =
          keeper::SendMessage(socket, keeper::BytesOf(go), std::span<const int>(&descriptor, 1));
      !sent.ok()) {
    return absl::UnavailableError(sent.error().text);
  }
  // It closes the connection when it goes on as another.
  const keeper::Result<keeper::Message> message = keeper::ReceiveMessage(socket);
  if (!message.ok() && message.error().code == ECONNRESET) return absl::OkStatus();
  if (!message.ok()) return absl::UnavailableError(message.error().text);
  const keeper::ReplaceReply* reply = keeper::ParseReplaceReply(message.value().bytes);
  return reply == nullptr || reply->error == 0 ? Malformed() : Refused(*reply);
}

}  // namespace sluice::ondemand
