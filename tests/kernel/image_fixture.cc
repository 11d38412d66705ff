#include "tests/kernel/image_fixture.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
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
#include "tests/kernel/device_image.h"

extern char** environ;

namespace sluice::ondemand::test {
namespace {

constexpr int kFirstLineMs = 20'000;
constexpr int kKeeperLeaveTries = 300;

// What this machine lacks; empty if nothing.
std::string Missing(Backend backend, const std::string& directory) {
  std::string missing;
  for (const Requirement& requirement : ProbeBackend(backend, directory)) {
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

// The directory of the files that images are mounted through, as this process holds it to replace a dead
// keeper: a FUSE file system's root, or the store by another mount than its own.
std::string FindGuardedDirectory(const std::string& store_path) {
  struct statx store {};
  statx(AT_FDCWD, store_path.c_str(), 0, STATX_INO | STATX_MNT_ID, &store);
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    struct statfs filesystem {};
    struct statx found {};
    if (statfs(entry.path().c_str(), &filesystem) != 0 || !std::filesystem::is_directory(entry.path()))
      continue;
    if (filesystem.f_type == FUSE_SUPER_MAGIC) return entry.path();
    if (statx(AT_FDCWD, entry.path().c_str(), 0, STATX_INO | STATX_MNT_ID, &found) != 0) continue;
    if (found.stx_ino == store.stx_ino && found.stx_mnt_id != store.stx_mnt_id) return entry.path();
  }
  return "";
}

}  // namespace

NodeProcess::NodeProcess(Backend backend, const std::string& root, const Digest& digest,
                         const std::string& original, const Options& options) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) std::abort();
  output_.reset(ends[0]);
  const keeper::Descriptor write_end(ends[1]);
  std::vector<std::string> arguments = {SLUICE_FAKE_NODE_PATH,
                                        std::string(BackendName(backend)),
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
  if (pid_ <= 0) return;
  kill(pid_, number);
  // Its threads stop one after the other.
  if (number == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);
}

void NodeProcess::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::vector<Backend> BackendsUnderTest() {
  const char* named = std::getenv("SLUICE_TEST_BACKENDS");
  std::vector<Backend> backends;
  std::stringstream names(named != nullptr ? named : "fanotify,fuse");
  for (std::string name; std::getline(names, name, ',');) {
    const auto found = std::find_if(kBackends.begin(), kBackends.end(),
                                    [&name](Backend backend) { return BackendName(backend) == name; });
    if (found == kBackends.end()) {
      std::fprintf(stderr, "SLUICE_TEST_BACKENDS: there is no backend \"%s\"\n", name.c_str());
      std::exit(2);
    }
    backends.push_back(*found);
  }
  return backends;
}

std::string NameOfParam(const testing::TestParamInfo<Backend>& info) {
  return std::string(BackendName(info.param));
}

void ImageFixture::SetUp() {
  std::string pattern = "/var/tmp/sluice-kernel-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  root_ = pattern;
  if (const std::string missing = Missing(backend_, root_); !missing.empty()) {
    const char* ci = std::getenv("CI");
    if (ci != nullptr && std::string_view(ci) == "true") FAIL() << "this machine lacks: " << missing;
    GTEST_SKIP() << "NOT TESTED: this machine lacks: " << missing;
  }
  for (const char* name : {"source", "store", "run", "mnt"}) std::filesystem::create_directory(Path(name));

  digest_ = RandomDigest();
  content_ = RandomBytes(kFileBytes);
  WriteFile(Path("source/big"), content_);
  const std::string make =
      "mkfs.erofs --quiet --chunksize=65536 -Eforce-chunk-indexes --blobdev=" + Path("original") + " " +
      Path("boot.erofs") + " " + Path("source") + " >" + Path("mkfs.log") + " 2>&1";
  ASSERT_EQ(std::system(make.c_str()), 0) << make;
  MakeStoreFile(digest_, std::filesystem::file_size(Path("original")));
  MakeStoreFile(BootstrapDigest(digest_), std::filesystem::file_size(Path("boot.erofs")));
}

std::vector<char> ImageFixture::RandomBytes(size_t size) {
  std::vector<char> bytes(size);
  std::mt19937_64 random(std::random_device{}());
  for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
    // No zero byte: a hole can't be mistaken for contents.
    const uint64_t word = random() | 0x0101010101010101u;
    std::memcpy(&bytes[i], &word, std::min(sizeof(word), size - i));
  }
  return bytes;
}

MountRequest ImageFixture::GuardManyDevices(FakeNode& node, size_t count) {
  const std::string make =
      "mkfs.erofs --quiet --chunksize=4096 -Eforce-chunk-indexes --blobdev=" + Path("one-device") + " " +
      Path("one.erofs") + " " + Path("source") + " >" + Path("mkfs.log") + " 2>&1";
  EXPECT_EQ(std::system(make.c_str()), 0) << make;
  const DeviceImage image = SplitDevices(ReadBytes(Path("one.erofs")), ReadBytes(Path("one-device")), count);
  EXPECT_EQ(image.blobs.size(), count);
  MountRequest request = Request();
  const Digest bootstrap = AddBlob(image.bootstrap);
  request.bootstrap = bootstrap;
  request.bootstrap_path = OriginalPath(bootstrap);
  request.devices.clear();
  std::vector<Digest> guarded;
  if (node.door().GuardsBootstrap()) guarded.push_back(bootstrap);
  for (const std::vector<char>& blob : image.blobs) {
    guarded.push_back(AddBlob(blob));
    request.devices.emplace_back(guarded.back());
  }
  for (const Digest& digest : guarded) {
    const absl::Status status = node.Guard(digest, OriginalPath(digest));
    EXPECT_TRUE(status.ok()) << status;
  }
  return request;
}

Digest ImageFixture::AddBlob(const std::vector<char>& bytes) {
  const Digest digest = RandomDigest();
  WriteFile(OriginalPath(digest), bytes);
  MakeStoreFile(digest, bytes.size());
  return digest;
}

Digest ImageFixture::AddEmptyBlob(uint64_t size) {
  const Digest digest = RandomDigest();
  MakeStoreFile(digest, size);
  return digest;
}

void ImageFixture::MakeStoreFile(const Digest& digest, uint64_t size) const {
  const std::string file = root_ + "/store/" + digest.Hex();
  std::ofstream(file).close();
  std::filesystem::resize_file(file, size);
}

std::string ImageFixture::GuardedPath(const Digest& digest) const {
  const std::string directory = FindGuardedDirectory(root_ + "/store");
  EXPECT_NE(directory, "");
  return directory + "/" + digest.Hex();
}

void ImageFixture::TearDown() {
  if (root_.empty()) return;
  cached_.reset();
  if (HasFailure()) std::fprintf(stderr, "the keeper's log:\n%s", KeeperLog().c_str());
  const absl::StatusOr<std::vector<MountInfo>> mounts = ReadMountInfo();
  ASSERT_TRUE(mounts.ok());
  for (const MountInfo& mount : *mounts) {
    if (mount.mount_point.starts_with(root_ + "/")) umount2(mount.mount_point.c_str(), MNT_DETACH);
  }
  // So that it leaves nothing behind it.
  if (keeper_ > 0) {
    for (int i = 0; i < kKeeperLeaveTries && ProcessLives(keeper_); ++i) usleep(10'000);
  }
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

FakeNodeOptions ImageFixture::NodeOptions() const {
  FakeNodeOptions options;
  options.backend = backend_;
  options.root = root_;
  options.digest = digest_;
  options.original_path = Path("original");
  return options;
}

std::unique_ptr<FakeNode> ImageFixture::StartNode(FakeNodeOptions options) {
  absl::Status error;
  std::unique_ptr<FakeNode> node = FakeNode::Start(std::move(options), &error);
  EXPECT_NE(node, nullptr) << error << "\n" << KeeperLog();
  if (node != nullptr) keeper_ = node->door().keeper_pid();
  return node;
}

std::unique_ptr<NodeProcess> ImageFixture::StartProcess(const NodeProcess::Options& options) {
  auto process = std::make_unique<NodeProcess>(backend_, root_, digest_, Path("original"), options);
  const std::string line = process->FirstLine();
  EXPECT_EQ(line, "ready");
  return process;
}

MountRequest ImageFixture::Request(const std::string& name) const {
  return {.bootstrap_path = Path("boot.erofs"),
          .bootstrap = BootstrapDigest(digest_),
          .devices = {digest_},
          .mount_point = Path(name),
          .label = "registry.test/image:" + name};
}

void ImageFixture::MountImage(FakeNode& node, const std::string& name) {
  std::filesystem::create_directory(Path(name));
  const absl::Status mounted = node.door().MountImage(Request(name));
  ASSERT_TRUE(mounted.ok()) << mounted;
  if (backend_ != Backend::kFuse) return;
  cached_.reset(open(GuardedPath(digest_).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(cached_.valid()) << std::strerror(errno);
}

Seen ImageFixture::Judge(const char* bytes, ssize_t count, uint64_t offset, uint64_t length) const {
  return JudgeBytes(bytes, count, &content_[offset], length);
}

Seen ImageFixture::Read(uint64_t offset, uint64_t length, const std::string& name) const {
  const keeper::Descriptor file(open(Path(name + "/big").c_str(), O_RDONLY | O_CLOEXEC));
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  if (cached_.valid()) posix_fadvise(cached_.get(), 0, 0, POSIX_FADV_DONTNEED);
  std::vector<char> bytes(length, 'x');
  uint64_t done = 0;
  ssize_t count = 1;
  while (done < length && count > 0) {
    count = pread(file.get(), &bytes[done], length - done, static_cast<off_t>(offset + done));
    if (count > 0) done += static_cast<uint64_t>(count);
  }
  const int error = count < 0 ? errno : 0;
  // What came before an error counts as well: it must have been right.
  Seen seen = Judge(bytes.data(), static_cast<ssize_t>(done), offset, count < 0 ? done : length);
  if (count < 0 && seen == Seen::kRight) seen = Seen::kError;
  errno = error;
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

Seen JudgeBytes(const char* bytes, ssize_t count, const char* expected, uint64_t length) {
  if (count < 0) return Seen::kError;
  if (count != static_cast<ssize_t>(length)) return Seen::kOther;
  if (std::memcmp(bytes, expected, length) == 0) return Seen::kRight;
  return std::find(bytes, bytes + length, '\0') != bytes + length ? Seen::kZeros : Seen::kOther;
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
  // A killed process whose first thread is a zombie is still there while other threads of it end.
  std::error_code error;
  const std::filesystem::path tasks = "/proc/" + std::to_string(pid) + "/task";
  std::filesystem::directory_iterator task(tasks, error);
  for (; task != std::filesystem::directory_iterator(); task.increment(error)) {
    std::ifstream file(task->path() / "stat");
    std::string id, name, state;
    if (file >> id >> name >> state && state != "Z" && state != "X") return true;
  }
  return false;
}

}  // namespace sluice::ondemand::test
