#pragma once

#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/fault/fault_origin.h"

namespace sluice::p2p {

// A registry with one private repository, and its token server. It gives something to good tokens alone; the
// server gives those to who knows the password.
//
// Thread-safe.
class TokenOrigin {
 public:
  static constexpr char kRepository[] = "team/app";
  static constexpr char kPassword[] = "correct-horse";
  // What the token server does with strangers, and with those whose password is wrong.
  enum class Strangers {
    kRefused,    // 401
    kEmptyToken  // a token that is good for nothing, as some public token servers do
  };
  // What a token looks like: nobody can read it, or it says itself what it is good for.
  enum class Tokens { kOpaque, kSpeaking };

  // At its base it names a repository of nobody's, as some do.
  TokenOrigin() {
    origin.Always("/token", [this](const FaultRequest& request, FaultConnection& to) { Token(request, to); });
    origin.Always("/v2/", [this](const FaultRequest& request, FaultConnection& to) {
      Gate(request, to, "repository:user/image:pull");
    });
  }

  // Guards a path that serves by the rules when a good token is shown.
  void Guard(const std::string& path) {
    origin.Always(path,
                  [this](const FaultRequest& request, FaultConnection& to) { Gate(request, to, Scope()); });
  }
  Digest AddBlob(const std::string& bytes) {
    const Digest digest = origin.AddBlob(kRepository, bytes);
    Guard(FaultOrigin::BlobPath(kRepository, digest));
    return digest;
  }
  Digest AddManifest(const std::string& tag, const std::string& type, const std::string& body) {
    const Digest digest = origin.AddManifest(kRepository, tag, type, body);
    Guard(FaultOrigin::ManifestPath(kRepository, tag));
    Guard(FaultOrigin::ManifestPath(kRepository, digest.ToString()));
    return digest;
  }

  // A good one, as the server would give it.
  std::string Issue() {
    const std::lock_guard lock(mutex_);
    return IssueLocked();
  }
  void Revoke(const std::string& token) {
    const std::lock_guard lock(mutex_);
    good_.erase(token);
  }
  void RevokeAll() {
    const std::lock_guard lock(mutex_);
    good_.clear();
  }
  void Treat(Strangers strangers) {
    const std::lock_guard lock(mutex_);
    strangers_ = strangers;
  }
  void Make(Tokens tokens) {
    const std::lock_guard lock(mutex_);
    tokens_ = tokens;
  }
  // A new token of the server's is this one, whatever it is.
  void IssueAlways(std::string token) {
    const std::lock_guard lock(mutex_);
    always_ = std::move(token);
  }

  BlobOrigin place() const { return {origin.registry(), kRepository}; }
  static std::string Scope() { return absl::StrCat("repository:", kRepository, ":pull"); }
  // With that password for this registry.
  void WriteDockerConfig(const std::filesystem::path& file, const std::string& password = kPassword) const {
    std::ofstream(file) << R"({"auths":{")" << origin.registry() << R"(":{"username":"user","password":")"
                        << password << "\"}}}";
  }
  // Requests to the token server, those with credentials and those without.
  size_t TokensAsked(bool with_credentials) const {
    size_t count = 0;
    for (const FaultRequest& request : origin.requests("/token"))
      count += request.Header("authorization").empty() != with_credentials;
    return count;
  }
  // What was shown for a path, in order: each value of Authorization.
  std::vector<std::string> ShownFor(const std::string& path) const {
    std::vector<std::string> shown;
    for (const FaultRequest& request : origin.requests(path))
      shown.push_back(request.Header("authorization"));
    return shown;
  }
  // A token that says that it is good for these scopes.
  static std::string Speaking(const std::string& access) {
    return absl::StrCat(absl::WebSafeBase64Escape(R"({"alg":"none"})"), ".",
                        absl::WebSafeBase64Escape(absl::StrCat(R"({"access":[)", access, "]}")), ".c2ln");
  }

  // What is given to good tokens; `scope`: what a challenge names. For behaviours that do something first.
  void Gate(const FaultRequest& request, FaultConnection& to, const std::string& scope) {
    const std::string shown = request.Header("authorization");
    bool good = false;
    {
      const std::lock_guard lock(mutex_);
      good = shown.starts_with("Bearer ") && good_.contains(shown.substr(7));
    }
    if (good) return origin.ServeByTheRules(request, to);
    std::string challenge = absl::StrCat("Bearer realm=\"", origin.Url("/token"), "\",service=\"s\"");
    if (!scope.empty()) absl::StrAppend(&challenge, ",scope=\"", scope, "\"");
    to.Send(401, {{"WWW-Authenticate", challenge}}, "");
  }

  FaultOrigin origin;

 private:
  std::string IssueLocked() {
    std::string token = absl::StrCat("good-", ++given_);
    if (tokens_ == Tokens::kSpeaking) {
      const std::string access =
          absl::StrCat(R"({"type":"repository","name":")", kRepository, R"(","actions":["pull"]})");
      token = absl::StrCat(Speaking(access), given_);
    }
    if (!always_.empty()) token = always_;
    good_.insert(token);
    return token;
  }
  void Token(const FaultRequest& request, FaultConnection& to) {
    std::string token;
    {
      const std::lock_guard lock(mutex_);
      const std::string known = absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat("user:", kPassword)));
      if (request.Header("authorization") == known) {
        token = IssueLocked();
      } else if (strangers_ == Strangers::kEmptyToken) {
        token = tokens_ == Tokens::kSpeaking ? Speaking("") : absl::StrCat("empty-", ++given_);
      }
    }
    if (token.empty()) return to.Send(401, {}, "");
    to.Send(200, {}, absl::StrCat(R"({"token":")", token, R"(","expires_in":300})"));
  }
  std::mutex mutex_;  // guards what follows
  std::set<std::string> good_;
  std::string always_;
  Strangers strangers_ = Strangers::kRefused;
  Tokens tokens_ = Tokens::kOpaque;
  int given_ = 0;
};

}  // namespace sluice::p2p
