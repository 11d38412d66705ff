#include "p2p/registry/docker_credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class DockerCredentialsTest : public ::testing::Test {
 protected:
  DockerCredentialsTest() {
    std::string directory = (std::filesystem::temp_directory_path() / "sluice-docker-XXXXXX").string();
    directory_ = ::mkdtemp(directory.data());
    path_ = directory_ / "config.json";
  }
  ~DockerCredentialsTest() override { std::filesystem::remove_all(directory_); }

  // Replaces the file, as docker login does.
  void Write(const std::string& text) {
    const std::filesystem::path next = directory_ / "next";
    std::ofstream(next) << text;
    std::filesystem::rename(next, path_);
  }

  std::filesystem::path directory_;
  std::filesystem::path path_;
};

TEST_F(DockerCredentialsTest, NoPathAndNoFileMeanNoCredentials) {
  EXPECT_EQ(DockerCredentials("").Find("a")->has_value(), false);
  EXPECT_EQ(DockerCredentials(path_).Find("a")->has_value(), false);
}

TEST_F(DockerCredentialsTest, EntriesAreReadInAllTheirForms) {
  Write(R"({"auths":{"a:5000":{"auth":"dXNlcjpwOnc="},"https://b/v1/":{"username":"u","password":"p"},
            "https://index.docker.io/v1/":{"auth":"aHViOmh1Yg=="},"c":{"auth":"","identitytoken":"refresh"}}})");
  DockerCredentials credentials(path_);
  const Credential a = credentials.Find("a:5000")->value();
  EXPECT_EQ(a.username, "user");
  EXPECT_EQ(a.password, "p:w");
  EXPECT_EQ(a.BasicAuthorization(), "Basic dXNlcjpwOnc=");
  EXPECT_EQ(credentials.Find("B")->value().password, "p");
  EXPECT_EQ(credentials.Find("docker.io")->value().username, "hub");
  EXPECT_EQ(credentials.Find("registry-1.docker.io")->value().username, "hub");
  EXPECT_EQ(credentials.Find("c")->value().identity_token, "refresh");
  EXPECT_FALSE(credentials.Find("a")->has_value());
}

TEST_F(DockerCredentialsTest, FileIsReadAgainWhenItChangesAppearsOrGoes) {
  DockerCredentials credentials(path_);
  EXPECT_FALSE(credentials.Find("a")->has_value());
  Write(R"({"auths":{"a":{"username":"one","password":"p"}}})");
  EXPECT_EQ(credentials.Find("a")->value().username, "one");
  Write(R"({"auths":{"a":{"username":"two","password":"p"}}})");
  EXPECT_EQ(credentials.Find("a")->value().username, "two");
  std::filesystem::remove(path_);
  EXPECT_FALSE(credentials.Find("a")->has_value());
}

TEST_F(DockerCredentialsTest, HelpersAreNamedInTheError) {
  Write(R"({"credsStore":"desktop","credHelpers":{"ecr.example":"ecr-login"},"auths":{"stored":{}}})");
  DockerCredentials credentials(path_);
  const absl::Status helper = credentials.Find("ecr.example").status();
  EXPECT_EQ(helper.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(helper.message()), HasSubstr("ecr-login"));
  EXPECT_THAT(std::string(credentials.Find("stored").status().message()), HasSubstr("desktop"));
  EXPECT_FALSE(credentials.Find("elsewhere")->has_value());
}

TEST_F(DockerCredentialsTest, MalformedFilesAreErrorsThatDoNotQuoteThem) {
  DockerCredentials credentials(path_);
  for (const char* text :
       {"", "[]", "{\"auths\":\"hidden\"}", R"({"auths":{"a":"hidden"}})",
        R"({"auths":{"a":{"auth":"hidden!"}}})", R"({"auths":{"a":{"auth":"bm9jb2xvbg=="}}})",
        R"({"credHelpers":{"a":1}})", "{\"hidden"}) {
    Write(text);
    const absl::Status status = credentials.Find("a").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_.string()));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hidden")));
    EXPECT_EQ(credentials.Find("a").status(), status) << "the second look found something else";
  }
  Write(std::string(DockerCredentials::kFileBytesMax + 1, ' '));
  EXPECT_EQ(credentials.Find("a").status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice::p2p
