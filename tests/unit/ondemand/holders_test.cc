#include "ondemand/holders.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "ondemand/keeper/descriptor.h"

namespace sluice::ondemand {
namespace {

using testing::HasSubstr;

constexpr size_t kMany = 1'000'000;
constexpr Duration kWait = std::chrono::seconds(60);
const std::string kId(64, 'a');
constexpr char kUid[] = "0f1d7b9c-1234-4abc-8def-0123456789ab";

class HoldersTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/holders-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    std::ofstream(root_ + "/file") << std::string(8192, 'x');
    struct stat status {};
    ASSERT_EQ(stat(root_.c_str(), &status), 0);
    device_ = status.st_dev;
  }
  void TearDown() override {
    for (const pid_t pid : children_) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    std::filesystem::remove_all(root_);
  }

  // A process whose files are elsewhere but for what `use` does. Waits until it has.
  pid_t Start(const std::function<void()>& use) {
    int line[2];
    EXPECT_EQ(pipe2(line, O_CLOEXEC), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      use();
      [[maybe_unused]] const ssize_t said = write(line[1], "x", 1);
      for (;;) pause();
    }
    char byte = 0;
    EXPECT_EQ(read(line[0], &byte, 1), 1);
    close(line[0]);
    close(line[1]);
    children_.push_back(pid);
    return pid;
  }

  std::string root_;
  uint64_t device_ = 0;
  std::vector<pid_t> children_;
};

// The test's own program and libraries may be on that file system too: a process is told of by one file.
TEST_F(HoldersTest, ProcessesThatUseAFileSystemAreFoundByPidNameAndFile) {
  const pid_t user = Start([&] {
    prctl(PR_SET_NAME, "a user");
    (void)open((root_ + "/file").c_str(), O_RDONLY);
  });
  const HolderSearch search = FindHolders({device_}, kMany, kWait);
  EXPECT_TRUE(search.complete);
  EXPECT_EQ(search.more, 0u);
  const auto found = std::find_if(search.holders.begin(), search.holders.end(),
                                  [user](const Holder& holder) { return holder.pid == user; });
  ASSERT_NE(found, search.holders.end());
  EXPECT_EQ(found->process, "a user");
  EXPECT_EQ(found->device, device_);
  EXPECT_FALSE(found->path.empty());
  EXPECT_THAT(found->mount_space, HasSubstr("mnt:["));
  EXPECT_EQ(std::count_if(search.holders.begin(), search.holders.end(),
                          [user](const Holder& holder) { return holder.pid == user; }),
            1);
  EXPECT_TRUE(std::none_of(search.holders.begin(), search.holders.end(), [](const Holder& holder) {
    return holder.pid == getpid();
  })) << "who asks is none of them";
}

// A memory file's file system is nobody's program, root or working directory.
TEST_F(HoldersTest, OpenFilesAndMappingsBothCount) {
  const keeper::Descriptor file(memfd_create("shared", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 4096), 0);
  struct stat status {};
  ASSERT_EQ(fstat(file.get(), &status), 0);
  const std::string path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file.get());
  const pid_t opened = Start([&] { (void)open(path.c_str(), O_RDONLY); });
  const pid_t mapped = Start([&] {
    (void)mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file.get(), 0);
    close(file.get());
  });
  const pid_t neither = Start([&] { close(file.get()); });
  const HolderSearch search = FindHolders({status.st_dev}, kMany, kWait);
  const auto path_of = [&](pid_t pid) -> std::string {
    for (const Holder& holder : search.holders)
      if (holder.pid == pid) return holder.path;
    return "";
  };
  EXPECT_THAT(path_of(opened), HasSubstr("memfd:shared"));
  EXPECT_THAT(path_of(mapped), HasSubstr("memfd:shared"));
  EXPECT_EQ(path_of(neither), "");
  EXPECT_TRUE(std::is_sorted(search.holders.begin(), search.holders.end(),
                             [](const Holder& a, const Holder& b) { return a.pid < b.pid; }));
}

TEST_F(HoldersTest, WhatIsBeyondTheBoundIsCounted) {
  for (int i = 0; i < 3; ++i) Start([&] { (void)open((root_ + "/file").c_str(), O_RDONLY); });
  const HolderSearch search = FindHolders({device_}, 1, kWait);
  EXPECT_EQ(search.holders.size(), 1u);
  EXPECT_GE(search.more, 2u);
  EXPECT_TRUE(search.complete);
}

TEST_F(HoldersTest, WithoutTimeItSaysThatThereMayBeMore) {
  // The search may be over before this process runs again and sees that there is no time: rarely.
  bool was_complete = true;
  for (int left = 20; was_complete && left > 0; --left)
    was_complete = FindHolders({device_}, kMany, Duration::zero()).complete;
  EXPECT_FALSE(was_complete);
  EXPECT_TRUE(FindHolders({}, kMany, Duration::zero()).complete) << "of nothing there are none";
}

TEST(ContainerOfCgroupTest, KnowsWhatRuntimesWrite) {
  const std::string uid = kUid;
  std::string escaped = uid;
  std::replace(escaped.begin(), escaped.end(), '-', '_');
  const PodContainer pod{{}, {}, {}, uid, kId};
  EXPECT_EQ(ContainerOfCgroup("0::/kubepods/burstable/pod" + uid + "/" + kId + "\n"), pod);
  EXPECT_EQ(ContainerOfCgroup("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + escaped +
                              ".slice/cri-containerd-" + kId + ".scope\n"),
            pod);
  EXPECT_EQ(ContainerOfCgroup("12:pids:/kubepods/pod" + uid + "/" + kId + "\n1:name=systemd:/kubepods/pod" +
                              uid + "/" + kId + "\n0::/\n"),
            pod);
  EXPECT_EQ(ContainerOfCgroup("0::/system.slice/containerd.service/kubepods-besteffort-pod" + escaped +
                              ".slice:cri-containerd:" + kId + "\n")
                .container_id,
            kId);
  EXPECT_EQ(ContainerOfCgroup("5:pids:/k8s.io/" + kId + "\n"), (PodContainer{{}, {}, {}, {}, kId}))
      << "no pod's folder";
  EXPECT_EQ(ContainerOfCgroup("0::/system.slice/docker-" + kId + ".scope\n").container_id, kId);
  for (const std::string& text :
       std::vector<std::string>{"", "0::/\n", "0::/user.slice/user-0.slice/session-1.scope\n",
                                "0::/podman-" + kId.substr(1) + "\n", "0::/x" + kId + "\n", "nonsense"}) {
    EXPECT_EQ(ContainerOfCgroup(text), PodContainer()) << text;
  }
}

TEST(ContainerOfLogTest, KnowsKubeletsNames) {
  EXPECT_EQ(ContainerOfLog("web-0_shop_nginx-" + kId + ".log"),
            (PodContainer{"shop", "web-0", "nginx", {}, kId}));
  EXPECT_EQ(ContainerOfLog("a.b_kube-system_side-car-" + kId + ".log"),
            (PodContainer{"kube-system", "a.b", "side-car", {}, kId}));
  for (const std::string& name : std::vector<std::string>{
           "", ".log", kId + ".log", "web_shop_nginx-" + kId, "web_shop-" + kId + ".log",
           "_shop_nginx-" + kId + ".log", "a_b_c_d-" + kId + ".log",
           "web_shop_nginx-" + kId.substr(1) + ".log", "web_shop_nginx" + kId + ".log"}) {
    EXPECT_EQ(ContainerOfLog(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace sluice::ondemand
