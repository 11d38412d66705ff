#!/usr/bin/env python3
"""Has a container runtime pull an image by CRI, as the kubelet does, with credentials.

usage: cri_pull.py SOCKET IMAGE USER:PASSWORD [SERVER_ADDRESS]

Prints what it is called then. The two messages are written byte by byte: their fields are strings and messages alone.
Source: k8s.io/cri-api, pkg/apis/runtime/v1/api.proto, ImageService.PullImage.
"""

import sys

import grpc

SECONDS_MAX = 60


def field(number, value):
    """One of wire type 2, of less than 16 KiB."""
    data = value.encode() if isinstance(value, str) else value
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + length + data


def pull_request(image, credentials, server_address):
    user, _, password = credentials.partition(":")
    auth = field(1, user) + field(2, password)  # AuthConfig
    if server_address:
        auth += field(4, server_address)
    return field(1, field(1, image)) + field(2, auth)  # ImageSpec


def main():
    socket, image, credentials = sys.argv[1:4]
    server_address = sys.argv[4] if len(sys.argv) > 4 else ""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        pull = channel.unary_unary("/runtime.v1.ImageService/PullImage")
        try:
            answer = pull(pull_request(image, credentials, server_address), timeout=SECONDS_MAX, wait_for_ready=True)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
    print(answer[2:].decode())  # field 1, shorter than 128 bytes


if __name__ == "__main__":
    main()
