#include "node/tls/identity_files.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sluice::tls {
namespace {

// Closes itself.
class File {
 public:
  explicit File(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

absl::Status ReadError(const std::string& setting, const std::string& path, int error) {
  const std::string message =
      absl::StrCat(setting, ": cannot read ", path, ": ", std::strerror(error), "; ",
                   error == ENOENT ? "name a file that is there" : "let sluiced's user read it");
  return error == ENOENT || error == ENOTDIR ? absl::NotFoundError(message)
                                             : absl::PermissionDeniedError(message);
}

absl::StatusOr<std::string> ReadFile(const std::string& setting, const std::string& path) {
  const File file(path);
  if (file.fd() < 0) return ReadError(setting, path, errno);
  std::string text(IdentityFiles::kFileBytesMax + 1, '\0');
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t n = ::read(file.fd(), text.data() + filled, text.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ReadError(setting, path, errno);
    if (n == 0) break;
    filled += static_cast<size_t>(n);
  }
  if (filled > IdentityFiles::kFileBytesMax)
    return absl::InvalidArgumentError(absl::StrCat(setting, ": ", path, " is larger than 1 MiB"));
  text.resize(filled);
  return text;
}

std::string HashOf(const IdentityText& text) {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  // Each with its length, so that no two differ only in where one ends.
  std::string all;
  for (const std::string* part : {&text.ca, &text.certificate, &text.key, &text.crl})
    absl::StrAppend(&all, part->size(), ":", *part);
  SHA256(reinterpret_cast<const unsigned char*>(all.data()), all.size(),
         reinterpret_cast<unsigned char*>(hash.data()));
  OPENSSL_cleanse(all.data(), all.size());
  return hash;
}

}  // namespace

absl::StatusOr<std::unique_ptr<IdentityFiles>> IdentityFiles::Open(Parts parts, IdentityPaths paths) {
  std::unique_ptr<IdentityFiles> files(new IdentityFiles(std::move(parts), std::move(paths)));
  const absl::StatusOr<Change> taken = files->Take();
  if (!taken.ok()) return taken.status();
  files->TellOfKeyMode();
  files->TellOfTimes();
  return files;
}

IdentityFiles::Change IdentityFiles::Look() {
  Change change = Change::kNone;
  if (Sign() != seen_) {
    absl::StatusOr<Change> taken = Take();
    if (taken.ok()) {
      change = *taken;
      files_ = {};
      if (change == Change::kNew) {
        parts_.telemetry.tls_reloads.Add();
        TellOfKeyMode();
      }
    } else {
      const bool is_new =
          Tell(files_,
               absl::StrCat(std::string(taken.status().message()),
                            "; what was read before is used on, until its certificate ends at ",
                            FormatTime(current_->Get()->not_after())),
               parts_.alarm);
      if (is_new) parts_.telemetry.tls_reload_failures.Add();
    }
  }
  TellOfTimes();
  return change;
}

IdentityFiles::Signatures IdentityFiles::Sign() const {
  Signatures signatures{};
  size_t i = 0;
  for (const std::string* path : {&paths_.ca, &paths_.certificate, &paths_.key, &paths_.crl}) {
    struct stat state {};
    if (!path->empty() && ::stat(path->c_str(), &state) == 0) {
      signatures[i] = {
          static_cast<int64_t>(state.st_dev),          static_cast<int64_t>(state.st_ino),
          static_cast<int64_t>(state.st_size),         static_cast<int64_t>(state.st_mtim.tv_sec),
          static_cast<int64_t>(state.st_mtim.tv_nsec), 1};
    }
    ++i;
  }
  return signatures;
}

absl::StatusOr<IdentityFiles::Texts> IdentityFiles::Read() const {
  Texts texts;
  const std::pair<const char*, std::pair<const std::string*, std::string*>> files[] = {
      {"tls.ca", {&paths_.ca, &texts.text.ca}},
      {"tls.certificate", {&paths_.certificate, &texts.text.certificate}},
      {"tls.key", {&paths_.key, &texts.text.key}}};
  for (const auto& [setting, file] : files) {
    absl::StatusOr<std::string> text = ReadFile(setting, *file.first);
    if (!text.ok()) return text.status();
    *file.second = *std::move(text);
  }
  if (paths_.crl.empty()) return texts;
  absl::StatusOr<std::string> crl = ReadFile("tls.crlFile", paths_.crl);
  texts.crl_read = crl.status();
  if (crl.ok()) texts.text.crl = *std::move(crl);
  return texts;
}

absl::StatusOr<IdentityFiles::Change> IdentityFiles::Take() {
  const Signatures before = Sign();
  absl::StatusOr<Texts> texts = Read();
  if (!texts.ok()) return texts.status();
  // Written while they were read: looked at again next time.
  if (current_ && Sign() != before) return Change::kNone;
  texts->text.crl = ChooseList(*texts);
  const std::string hash = HashOf(texts->text);
  if (hash == taken_) {
    seen_ = before;
    return Change::kNone;
  }
  absl::StatusOr<std::shared_ptr<const Identity>> identity =
      Identity::Create(texts->text, paths_.peer_name, number_ + 1);
  OPENSSL_cleanse(texts->text.key.data(), texts->text.key.size());
  if (!identity.ok())
    return absl::Status(identity.status().code(), InFile(std::string(identity.status().message())));
  ++number_;
  seen_ = before;
  taken_ = hash;
  parts_.telemetry.tls_certificate_expiry.Set((*identity)->not_after());
  if (current_) {
    current_->Set(*std::move(identity));
  } else {
    current_ = std::make_shared<CurrentIdentity>(*std::move(identity));
  }
  return Change::kNew;
}

std::string IdentityFiles::ChooseList(const Texts& texts) {
  if (paths_.crl.empty()) return {};
  absl::Status status = texts.crl_read;
  if (status.ok()) {
    // What is between the node and its authority may revoke, too.
    const absl::StatusOr<Revocations> revocations =
        CheckRevocations(texts.text.crl, absl::StrCat(texts.text.ca, "\n", texts.text.certificate));
    if (revocations.ok()) {
      crl_ = texts.text.crl;
      crl_next_ = revocations->next_update;
      list_ = {};
      return crl_;
    }
    status = absl::Status(revocations.status().code(), InFile(std::string(revocations.status().message())));
  }
  Tell(list_,
       absl::StrCat(std::string(status.message()),
                    crl_.empty() ? "; no certificate counts as revoked until it is there"
                                 : "; the list that was read before is used on"),
       parts_.alarm);
  return crl_;
}

// "tls.key: it is ..." becomes "tls.key /the/file: it is ...".
std::string IdentityFiles::InFile(const std::string& message) const {
  const std::pair<const char*, const std::string*> files[] = {{"tls.ca: ", &paths_.ca},
                                                              {"tls.certificate: ", &paths_.certificate},
                                                              {"tls.key: ", &paths_.key},
                                                              {"tls.crlFile: ", &paths_.crl}};
  for (const auto& [prefix, path] : files) {
    const std::string start = prefix;
    if (absl::StartsWith(message, start)) {
      return absl::StrCat(start.substr(0, start.size() - 2), " ", *path, ": ", message.substr(start.size()));
    }
  }
  return message;
}

void IdentityFiles::TellOfKeyMode() {
  struct stat state {};
  const bool open = ::stat(paths_.key.c_str(), &state) == 0 && (state.st_mode & S_IROTH) != 0;
  Tell(key_mode_,
       open ? absl::StrCat("tls.key ", paths_.key,
                           " can be read by every user of this machine; chmod 0600, or 0400 as the mode of "
                           "the Secret's volume")
            : std::string(),
       parts_.warn);
}

void IdentityFiles::TellOfTimes() {
  const std::shared_ptr<const Identity> identity = current_->Get();
  const int64_t now = parts_.wall_seconds();
  std::string text;
  if (now < identity->not_before()) {
    text = absl::StrCat("tls.certificate ", paths_.certificate, " counts only from ",
                        FormatTime(identity->not_before()),
                        " on: until then no other node talks to this one; if it is later than that, set this "
                        "machine's clock");
    Tell(own_time_, text, parts_.warn);
  } else {
    if (now > identity->not_after()) {
      text = absl::StrCat("tls.certificate ", paths_.certificate, " counts no more since ",
                          FormatTime(identity->not_after()),
                          ": no other node talks to this one; put a new one there");
    }
    Tell(own_time_, text, parts_.alarm);
  }
  if (!list_.text.empty()) Tell(list_, list_.text, parts_.alarm);
  Tell(list_age_,
       crl_next_ != 0 && now > crl_next_
           ? absl::StrCat("tls.crlFile ", paths_.crl, " is too old: the next list was due at ",
                          FormatTime(crl_next_),
                          "; what it names stays refused, what was revoked later is not")
           : std::string(),
       parts_.alarm);
}

bool IdentityFiles::Tell(Trouble& trouble, std::string text,
                         const std::function<void(const std::string&)>& how) {
  if (text.empty()) {
    trouble = {};
    return false;
  }
  const Instant now = parts_.clock.Now();
  const bool is_new = text != trouble.text;
  if (!is_new && now < trouble.told + kTellAgain) return false;
  how(text);
  trouble = {std::move(text), now};
  return is_new;
}

}  // namespace sluice::tls
