#include "node/tls/identity_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/unit/tls/test_authority.h"

namespace sluice::tls {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class HandClock final : public Clock {
 public:
  Instant Now() const override { return now; }
  Instant now = Instant(std::chrono::hours(1));
};

class IdentityFilesTest : public ::testing::Test {
 protected:
  IdentityFilesTest() {
    char folder[] = "/tmp/sluice-tls-XXXXXX";
    folder_ = mkdtemp(folder);
    paths_ = {folder_ + "/ca", folder_ + "/certificate", folder_ + "/key", "", "sluice"};
    Write(authority_.pem(), authority_.Issue());
  }
  ~IdentityFilesTest() override { std::filesystem::remove_all(folder_); }

  // As most programs do it: a new file in the old one's place.
  void WriteOne(const std::string& path, const std::string& text) {
    std::ofstream(path + ".new") << text;
    ::chmod((path + ".new").c_str(), 0600);
    std::filesystem::rename(path + ".new", path);
  }
  void Write(const std::string& ca, const Issued& issued) {
    WriteOne(paths_.ca, ca);
    WriteOne(paths_.certificate, issued.certificate);
    WriteOne(paths_.key, issued.key);
  }
  void Open() {
    absl::StatusOr<std::unique_ptr<IdentityFiles>> files =
        IdentityFiles::Open({clock_, telemetry_, [this] { return ::time(nullptr) + wall_ahead_; },
                             [this](const std::string& text) { warnings_.push_back(text); },
                             [this](const std::string& text) { alarms_.push_back(text); }},
                            paths_);
    status_ = files.status();
    if (files.ok()) files_ = *std::move(files);
  }
  uint64_t number() const { return files_->current()->Get()->number(); }

  std::string folder_;
  IdentityPaths paths_;
  const TestAuthority authority_;
  HandClock clock_;
  int64_t wall_ahead_ = 0;
  Telemetry telemetry_;
  std::vector<std::string> warnings_, alarms_;
  absl::Status status_;
  std::unique_ptr<IdentityFiles> files_;
};

TEST_F(IdentityFilesTest, WhatCanNotBeReadIsSaidWithSettingFileAndRemedy) {
  std::filesystem::remove(paths_.key);
  Open();
  EXPECT_TRUE(absl::IsNotFound(status_));
  EXPECT_THAT(std::string(status_.message()),
              AllOf(HasSubstr("tls.key: cannot read " + paths_.key), HasSubstr("name a file that is there")));
  Write(authority_.pem(), authority_.Issue());
  WriteOne(paths_.ca, "nonsense");
  Open();
  EXPECT_THAT(std::string(status_.message()),
              HasSubstr("tls.ca " + paths_.ca + ": it holds no certificate in PEM"));
  WriteOne(paths_.ca, std::string(IdentityFiles::kFileBytesMax + 1, 'x'));
  Open();
  EXPECT_THAT(std::string(status_.message()), HasSubstr("larger than 1 MiB"));
  std::filesystem::remove(paths_.ca);
  std::filesystem::create_directory(paths_.ca);
  Open();
  EXPECT_THAT(std::string(status_.message()), HasSubstr("tls.ca: cannot read " + paths_.ca));
}

TEST_F(IdentityFilesTest, NewFilesAreTakenOnce) {
  Open();
  ASSERT_TRUE(status_.ok()) << status_;
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNone);
  const int64_t first_end = telemetry_.tls_certificate_expiry.value();
  Write(authority_.pem(), authority_.Issue({.ends_in = 5000}));
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNew);
  EXPECT_EQ(number(), 2u);
  EXPECT_GT(telemetry_.tls_certificate_expiry.value(), first_end);
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNone);
  EXPECT_EQ(telemetry_.tls_reloads.value(), 1u);
  EXPECT_THAT(alarms_, IsEmpty());
}

TEST_F(IdentityFilesTest, FilesThatHoldTheSameAreNothingNew) {
  const Issued issued = authority_.Issue();
  Write(authority_.pem(), issued);
  Open();
  Write(authority_.pem(), issued);
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNone);
  EXPECT_EQ(number(), 1u);
}

// Kubernetes turns a link to a folder, and touches no file that is looked at.
TEST_F(IdentityFilesTest, ALinkThatIsTurnedIsSeen) {
  const std::string data = folder_ + "/data";
  for (const char* folder : {"/1", "/2"}) {
    std::filesystem::create_directory(folder_ + folder);
    const Issued issued = authority_.Issue();
    WriteOne(folder_ + folder + "/ca", authority_.pem());
    WriteOne(folder_ + folder + "/certificate", issued.certificate);
    WriteOne(folder_ + folder + "/key", issued.key);
  }
  std::filesystem::create_symlink(folder_ + "/1", data);
  paths_ = {data + "/ca", data + "/certificate", data + "/key", "", "sluice"};
  Open();
  ASSERT_TRUE(status_.ok()) << status_;
  std::filesystem::create_symlink(folder_ + "/2", data + ".new");
  std::filesystem::rename(data + ".new", data);
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNew);
}

TEST_F(IdentityFilesTest, ABadSetLeavesTheLastGoodOneAndIsToldOnce) {
  Open();
  // A certificate comes before its key.
  const Issued next = authority_.Issue();
  WriteOne(paths_.certificate, next.certificate);
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNone);
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNone);
  EXPECT_THAT(alarms_, ElementsAre(AllOf(HasSubstr("tls.key " + paths_.key + ": it is not the key of"),
                                         HasSubstr("what was read before is used on, until"))));
  EXPECT_EQ(telemetry_.tls_reload_failures.value(), 1u);
  EXPECT_EQ(number(), 1u);
  std::filesystem::remove(paths_.key);
  files_->Look();
  EXPECT_THAT(alarms_, SizeIs(2)) << "another trouble";
  WriteOne(paths_.key, next.key);
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNew);
  EXPECT_EQ(number(), 2u);
  EXPECT_EQ(telemetry_.tls_reload_failures.value(), 2u);
}

TEST_F(IdentityFilesTest, ATroubleThatLastsIsToldAgainLater) {
  Open();
  WriteOne(paths_.key, "nonsense");
  files_->Look();
  clock_.now += IdentityFiles::kTellAgain - std::chrono::seconds(1);
  files_->Look();
  EXPECT_THAT(alarms_, SizeIs(1));
  clock_.now += std::chrono::seconds(1);
  files_->Look();
  EXPECT_THAT(alarms_, SizeIs(2));
  EXPECT_EQ(telemetry_.tls_reload_failures.value(), 1u);
}

TEST_F(IdentityFilesTest, AMissingListIsAnAlarmAndNoOutage) {
  paths_.crl = folder_ + "/crl";
  Open();
  ASSERT_TRUE(status_.ok()) << status_;
  EXPECT_THAT(alarms_, ElementsAre(AllOf(HasSubstr("tls.crlFile: cannot read " + paths_.crl),
                                         HasSubstr("no certificate counts as revoked"))));
  WriteOne(paths_.crl, authority_.Revoke({}));
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNew);
  WriteOne(paths_.crl, "nonsense");
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNone);
  EXPECT_THAT(alarms_.back(), AllOf(HasSubstr("tls.crlFile " + paths_.crl + ": it holds no revocation list"),
                                    HasSubstr("the list that was read before is used on")));
  EXPECT_THAT(alarms_, SizeIs(2));
}

TEST_F(IdentityFilesTest, AnOldListIsAnAlarmAndIsUsedOn) {
  paths_.crl = folder_ + "/crl";
  WriteOne(paths_.crl, authority_.Revoke({}, -60));
  Open();
  ASSERT_TRUE(status_.ok()) << status_;
  EXPECT_THAT(alarms_, ElementsAre(HasSubstr("tls.crlFile " + paths_.crl + " is too old")));
  WriteOne(paths_.crl, authority_.Revoke({}, 600));
  EXPECT_EQ(files_->Look(), IdentityFiles::Change::kNew);
  clock_.now += IdentityFiles::kTellAgain;
  files_->Look();
  EXPECT_THAT(alarms_, SizeIs(1));
  wall_ahead_ = 700;
  files_->Look();
  EXPECT_THAT(alarms_, SizeIs(2)) << "it grew old in the meantime";
}

TEST_F(IdentityFilesTest, ACertificateThatDoesNotCountYetIsToldAtOnceAndAgain) {
  Write(authority_.pem(), authority_.Issue({.begins_in = 1000}));
  Open();
  ASSERT_TRUE(status_.ok()) << status_;
  files_->Look();
  EXPECT_THAT(warnings_,
              ElementsAre(AllOf(HasSubstr("tls.certificate " + paths_.certificate),
                                HasSubstr("counts only from"), HasSubstr("set this machine's clock"))));
  clock_.now += IdentityFiles::kTellAgain;
  files_->Look();
  EXPECT_THAT(warnings_, SizeIs(2));
  clock_.now += IdentityFiles::kTellAgain;
  wall_ahead_ = 2000;
  files_->Look();
  EXPECT_THAT(warnings_, SizeIs(2)) << "it counts now";
  wall_ahead_ = 10000;
  files_->Look();
  EXPECT_THAT(alarms_, ElementsAre(HasSubstr("counts no more since")));
}

TEST_F(IdentityFilesTest, AKeyThatEverybodyCanReadIsToldOf) {
  ::chmod(paths_.key.c_str(), 0644);
  Open();
  ASSERT_TRUE(status_.ok()) << status_;
  EXPECT_THAT(warnings_, ElementsAre(AllOf(HasSubstr("tls.key " + paths_.key), HasSubstr("chmod 0600"))));
  warnings_.clear();
  ::chmod(paths_.key.c_str(), 0640);
  Open();
  EXPECT_THAT(warnings_, IsEmpty()) << "a group is how a Secret is given to a user";
}

}  // namespace
}  // namespace sluice::tls
