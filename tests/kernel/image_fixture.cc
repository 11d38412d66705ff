#include "tests/kernel/image_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "ondemand/mount_point.h"
#include "ondemand/probe.h"

extern char** environ;

namespace sluice::ondemand::test {
namespace {

constexpr int kFirstLineMs = 20'000;

// What this machine lacks; empty if nothing.
std::string Missing(const std::string& directory) {
  std::string missing;
  for (const Requirement& requirement : ProbeFanotify(directory)) {
    if (!requirement.holds) missing += requirement.name + ": " + requirement.detail + "; ";
  }
  if (std::system("command -v mkfs.erofs >/dev/null") != 0) missing += "mkfs.erofs (package erofs-utils); ";
  return missing;
}

void WriteFile(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

Digest RandomDigest() {
  std::random_device random;
  std::array<uint8_t, Digest::kBytes> bytes;
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return Digest(bytes);
}

}  // namespace

NodeProcess::NodeProcess(const std::string& root, const Digest& digest, const std::string& original,
                         const Options& options) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) std::abort();
  output_.reset(ends[0]);
  const keeper::Descriptor write_end(ends[1]);
  std::vector<std::string> arguments = {SLUICE_FAKE_NODE_PATH,
                                        root,
                                        digest.Hex(),
                                        original,
                                        std::to_string(options.read_deadline.count()),
                                        std::to_string(options.fill_delay_max.count()),
                                        options.tickets};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  if (posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) != 0) pid_ = -1;
  posix_spawn_file_actions_destroy(&actions);
}

std::string NodeProcess::FirstLine() {
  std::string line;
  pollfd wait{output_.get(), POLLIN, 0};
  for (char c = 0; poll(&wait, 1, kFirstLineMs) > 0 && read(output_.get(), &c, 1) == 1 && c != '\n';)
    line += c;
  return line;
}

void NodeProcess::Signal(int number) {
  if (pid_ > 0) kill(pid_, number);
}

void NodeProcess::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void ImageFixture::SetUp() {
  std::string pattern = "/var/tmp/sluice-kernel-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  root_ = pattern;
  if (const std::string missing = Missing(root_); !missing.empty()) {
    const char* ci = std::getenv("CI");
    if (ci != nullptr && std::string_view(ci) == "true") FAIL() << "this machine lacks: " << missing;
    GTEST_SKIP() << "NOT TESTED: this machine lacks: " << missing;
  }
  for (const char* name : {"source", "store", "run", "mnt"}) std::filesystem::create_directory(Path(name));

  digest_ = RandomDigest();
  content_.resize(kFileBytes);
  std::mt19937_64 random(std::random_device{}());
  for (size_t i = 0; i < content_.size(); i += sizeof(uint64_t)) {
    // No zero byte: a hole can't be mistaken for contents.
    const uint64_t word = random() | 0x0101010101010101u;
    std::memcpy(&content_[i], &word, sizeof(word));
  }
  WriteFile(Path("source/big"), content_);
  const std::string make =
      "mkfs.erofs --quiet --chunksize=65536 -Eforce-chunk-indexes --blobdev=" + Path("original") + " " +
      Path("boot.erofs") + " " + Path("source") + " >" + Path("mkfs.log") + " 2>&1";
  ASSERT_EQ(std::system(make.c_str()), 0) << make;
  std::ofstream(StorePath()).close();
  std::filesystem::resize_file(StorePath(), std::filesystem::file_size(Path("original")));
}

void ImageFixture::TearDown() {
  if (root_.empty()) return;
  if (HasFailure()) std::fprintf(stderr, "the keeper's log:\n%s", KeeperLog().c_str());
  const absl::StatusOr<std::vector<MountInfo>> mounts = ReadMountInfo();
  ASSERT_TRUE(mounts.ok());
  for (const MountInfo& mount : *mounts) {
    if (mount.mount_point.starts_with(root_ + "/")) umount2(mount.mount_point.c_str(), MNT_DETACH);
  }
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

FakeNodeOptions ImageFixture::NodeOptions() const {
  FakeNodeOptions options;
  options.root = root_;
  options.digest = digest_;
  options.original_path = Path("original");
  return options;
}

std::unique_ptr<FakeNode> ImageFixture::StartNode(FakeNodeOptions options) {
  absl::Status error;
  std::unique_ptr<FakeNode> node = FakeNode::Start(std::move(options), &error);
  EXPECT_NE(node, nullptr) << error << "\n" << KeeperLog();
  return node;
}

std::unique_ptr<NodeProcess> ImageFixture::StartProcess(const NodeProcess::Options& options) {
  auto process = std::make_unique<NodeProcess>(root_, digest_, Path("original"), options);
  const std::string line = process->FirstLine();
  EXPECT_EQ(line, "ready");
  return process;
}

MountRequest ImageFixture::Request(const std::string& name) const {
  return {.bootstrap_path = Path("boot.erofs"),
          .devices = {digest_},
          .mount_point = Path(name),
          .label = "registry.test/image:" + name};
}

void ImageFixture::MountImage(FakeNode& node, const std::string& name) {
  std::filesystem::create_directory(Path(name));
  const absl::Status mounted = node.door().MountImage(Request(name));
  ASSERT_TRUE(mounted.ok()) << mounted;
}

Seen ImageFixture::Judge(const char* bytes, ssize_t count, uint64_t offset, uint64_t length) const {
  if (count < 0) return Seen::kError;
  if (count != static_cast<ssize_t>(length)) return Seen::kOther;
  if (std::memcmp(bytes, &content_[offset], length) == 0) return Seen::kRight;
  return std::find(bytes, bytes + length, '\0') != bytes + length ? Seen::kZeros : Seen::kOther;
}

Seen ImageFixture::Read(uint64_t offset, uint64_t length, const std::string& name) const {
  const keeper::Descriptor file(open(Path(name + "/big").c_str(), O_RDONLY | O_CLOEXEC));
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  std::vector<char> bytes(length, 'x');
  const ssize_t count = pread(file.get(), bytes.data(), length, static_cast<off_t>(offset));
  const int error = errno;
  const Seen seen = Judge(bytes.data(), count, offset, length);
  errno = count < 0 ? error : 0;
  return seen;
}

int ImageFixture::ReadErrno(uint64_t offset, uint64_t length) const {
  Read(offset, length);
  return errno;
}

Seen ImageFixture::ReadAll(const std::string& name) const {
  constexpr uint64_t kStep = 1 << 20;
  for (uint64_t offset = 0; offset < kFileBytes; offset += kStep) {
    if (const Seen seen = Read(offset, kStep, name); seen != Seen::kRight) return seen;
  }
  return Seen::kRight;
}

std::string ImageFixture::KeeperLog() const {
  std::ifstream file(Path("keeper.log"));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int FindDescriptor(const std::string& target) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    if (std::filesystem::read_symlink(entry.path(), error) == target)
      return std::stoi(entry.path().filename());
  }
  return -1;
}

bool ProcessLives(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string id, name, state;
  return static_cast<bool>(file >> id >> name >> state) && state != "Z" && state != "X";
}

}  // namespace sluice::ondemand::test
