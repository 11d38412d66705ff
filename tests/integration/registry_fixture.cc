#include "tests/integration/registry_fixture.h"

#include <arpa/inet.h>
#include <crypt.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

#include "absl/strings/escaping.h"

namespace sluice::p2p {
namespace {

constexpr char kProgram[] = "docker-registry";
constexpr auto kStartTimeout = std::chrono::seconds(30);
constexpr int kStartsMax = 5;

[[noreturn]] void Fail(const std::string& what) {
  throw std::runtime_error("registry fixture: " + what);
}

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// The registry can't tell which port it chose by itself, so one is asked of the kernel and let go again.
uint16_t FreePort() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof address;
  const bool ok = ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  ::close(fd);
  if (!ok) Fail("no free port");
  return ntohs(address.sin_port);
}

// The registry wants bcrypt and nothing else.
std::string Bcrypt(const std::string& password) {
  crypt_data data{};
  const char* const hash = ::crypt_r(password.c_str(), "$2b$05$abcdefghijklmnopqrstuu", &data);
  if (hash == nullptr || hash[0] != '$') Fail("crypt(3) knows no bcrypt");
  return hash;
}

std::string Contents(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

RegistryFixture::RegistryFixture(const Login& login, const TokenAuth& tokens) {
  std::string directory = (std::filesystem::temp_directory_path() / "sluice-registry-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr) Fail("mkdtemp");
  directory_ = directory;
  // Somebody else may take the port before the registry does.
  for (int attempt = 1;; ++attempt) {
    port_ = FreePort();
    WriteConfig(login, tokens);
    try {
      Start();
      return;
    } catch (const std::runtime_error&) {
      if (attempt == kStartsMax) throw;
    }
  }
}

RegistryFixture::~RegistryFixture() {
  Kill();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void RegistryFixture::WriteConfig(const Login& login, const TokenAuth& tokens) const {
  std::ofstream config(directory_ + "/config.yml");
  config << "version: 0.1\n"
         << "log: {level: warn}\n"
         << "storage:\n"
         << "  filesystem: {rootdirectory: " << directory_ << "/storage}\n"
         << "  delete: {enabled: true}\n"
         << "http: {addr: \"" << registry() << "\", secret: fixture}\n";
  if (!tokens.realm.empty()) {
    config << "auth: {token: {realm: \"" << tokens.realm << "\", service: " << tokens.service
           << ", issuer: " << tokens.issuer << ", rootcertbundle: " << tokens.certificate << "}}\n";
  }
  if (login.username.empty()) return;
  config << "auth: {htpasswd: {realm: fixture, path: " << directory_ << "/htpasswd}}\n";
  std::ofstream(directory_ + "/htpasswd") << login.username << ":" << Bcrypt(login.password) << "\n";
}

std::string RegistryFixture::WriteDockerConfig(const Login& login) const {
  const std::string path = directory_ + "/docker-config.json";
  std::ofstream(path) << R"({"auths":{")" << registry() << R"(":{"auth":")"
                      << absl::Base64Escape(login.username + ":" + login.password) << "\"}}}";
  return path;
}

void RegistryFixture::Start() {
  const std::string config = directory_ + "/config.yml";
  const std::string log = directory_ + "/log";
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) Fail("fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(126);
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execlp(kProgram, kProgram, "serve", config.c_str(), nullptr);
    ::_exit(127);
  }
  const auto deadline = std::chrono::steady_clock::now() + kStartTimeout;
  while (!Answers()) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      Fail(std::string(kProgram) + " ended at its start (is it installed?): " + Contents(log));
    }
    if (std::chrono::steady_clock::now() > deadline) Fail("no answer: " + Contents(log));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

bool RegistryFixture::Answers() const {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(port_);
  const bool connected = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  ::close(fd);
  return connected;
}

void RegistryFixture::Kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RegistryFixture::Restart() {
  Kill();
  Start();
}

}  // namespace sluice::p2p
