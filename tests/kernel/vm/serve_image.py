#!/usr/bin/env python3
"""Answers the kernel's cache on demand, as little as will do: every object that is opened has one file's bytes.

usage: serve_image.py --cache DIR --tag NAME --image FILE

Prints "bound" when mounts may begin, then a line for each question.
"""

import argparse
import fcntl
import mmap
import os
import select
import struct

OPEN, CLOSE, READ = range(3)
HEADER = struct.Struct("=IIII")  # id, opcode, length, object
OPENING = struct.Struct("=IIII")  # lengths of the volume's and the cookie's key, descriptor, flags
RANGE = struct.Struct("=QQ")  # offset, length
PAGE = mmap.PAGESIZE
READ_COMPLETE = 0x40049801


def say(*words):
    print(*words, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", required=True)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--image", required=True)
    args = parser.parse_args()

    # The kernel writes past its page cache, straight from our memory, which must begin with a page for that.
    size = os.path.getsize(args.image)
    image = memoryview(mmap.mmap(-1, -(-size // PAGE) * PAGE))
    with open(args.image, "rb") as file:
        file.readinto(image)
    descriptors = {}
    device = os.open("/dev/cachefiles", os.O_RDWR)
    for command in (f"dir {args.cache}", f"tag {args.tag}", "bind ondemand"):
        os.write(device, command.encode())
    say("bound")

    poll = select.poll()
    poll.register(device, select.POLLIN)
    while True:
        poll.poll()
        message = os.read(device, 4096)
        ident, opcode, _, number = HEADER.unpack_from(message)
        body = message[HEADER.size:]
        if opcode == OPEN:
            descriptors[number] = OPENING.unpack_from(body)[2]
            os.write(device, f"copen {ident},{size}".encode())
            say("open", number)
        elif opcode == READ:
            offset, length = RANGE.unpack_from(body)
            os.pwrite(descriptors[number], image[offset:offset + length], offset)
            fcntl.ioctl(descriptors[number], READ_COMPLETE, ident)
            say("read", number, offset, length)
        elif opcode == CLOSE:
            os.close(descriptors.pop(number))
            say("close", number)


if __name__ == "__main__":
    main()
