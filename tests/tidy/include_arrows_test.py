#!/usr/bin/env python3
"""Feeds include_arrows.py small trees, to see it refuse what it must refuse and pass what it must pass."""

import pathlib
import tempfile
import unittest

import include_arrows


def complaints_about(path, *headers):
    with tempfile.TemporaryDirectory() as root:
        file = pathlib.Path(root) / path
        file.parent.mkdir(parents=True)
        file.write_text("".join(f'#include "{header}"\n' for header in headers), encoding="utf-8")
        return include_arrows.check(root)


class IncludeArrows(unittest.TestCase):

    def assert_refused(self, path, header, why):
        complaints = complaints_about(path, "vector", header)
        self.assertEqual(len(complaints), 1, complaints)
        self.assertTrue(complaints[0].startswith(f"{path}:2: "), complaints)
        self.assertIn(why, complaints[0])

    def assert_allowed(self, path, *headers):
        self.assertEqual(complaints_about(path, *headers), [])

    def test_no_arrow_goes_sideways(self):
        self.assert_refused("p2p/swarm/swarm.cc", "index/disk_store.h", "p2p/swarm/ may not see index/")
        self.assert_refused("index/disk_store.h", "ondemand/door.h", "index/ may not see ondemand/")
        self.assert_refused("api/http/http_server.cc", "p2p/origin.h", "api/http/ may not see p2p/")

    def test_no_arrow_goes_out_of_the_core(self):
        self.assert_refused("node/blob_cache.cc", "p2p/origin.h", "node/ may not see p2p/")
        self.assert_refused("node/blob_cache.cc", "node/daemon/config.h", "node/ may not see node/daemon/")
        self.assert_refused("ondemand/door.cc", "node/cli/table.h", "ondemand/ may not see node/cli/")

    def test_the_core_is_plain(self):
        self.assert_refused("node/digest.cc", "openssl/evp.h", "node/ may not use openssl")
        self.assert_refused("node/digest.cc", "unistd.h", "standard library and absl")
        self.assert_allowed("node/digest.cc", "node/digest.h", "absl/strings/str_cat.h", "span")

    def test_libraries_stop_at_source_files(self):
        self.assert_refused("index/disk_store.h", "rocksdb/db.h", "rocksdb stops at the .cc files")
        self.assert_allowed("index/disk_store.cc", "index/disk_store.h", "rocksdb/db.h", "fcntl.h")
        self.assert_refused("index/disk_store.cc", "curl/curl.h", "index/ may not use curl")

    def test_generated_headers_count_as_their_library(self):
        self.assert_allowed("api/admin_service.cc", "sluice/v1/admin.grpc.pb.h", "sluice/v1/admin.pb.h")
        self.assert_refused("api/admin_service.h", "api/sluice/v1/admin.grpc.pb.h", "grpc stops at the .cc files")

    def test_the_keeper_stands_alone(self):
        self.assert_refused("ondemand/keeper/main.cc", "absl/status/status.h", "may not use absl")
        self.assert_refused("ondemand/keeper/main.cc", "node/digest.h", "may not see node/")
        self.assert_allowed("ondemand/keeper/main.cc", "ondemand/keeper/journal.h", "sys/fanotify.h")

    def test_daemon_and_tool_see_everything(self):
        for folder in ("node/daemon", "node/cli"):
            self.assert_allowed(f"{folder}/main.cc", "api/server.h", "p2p/registry/origin.h", "node/blob.h",
                                "CLI/CLI.hpp")

    def test_unknown_headers_are_a_decision(self):
        self.assert_refused("index/disk_store.cc", "leveldb/db.h", "unknown header")
        self.assert_refused("index/disk_store.cc", "disk_store.h", "unknown header")

    def test_tests_may_see_everything(self):
        self.assert_allowed("tests/unit/node/blob_test.cc", "gtest/gtest.h", "index/disk_store.h")


if __name__ == "__main__":
    unittest.main()
