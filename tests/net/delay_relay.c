// A link between two network namespaces that takes time: whatever enters at one end leaves the other after a
// fixed delay, in order. How fast it may enter is for a queueing discipline on the ends to say; a server that
// merely answers late would hide handshakes and slow start.
//
//   delay_relay NETNS_FILE NETNS_FILE DEVICE DELAY_US [LOSS_PERMILLE SEED]
//
// makes a TUN device of that name in both namespaces, prints "up" and a newline, and runs until it is killed.
// What more than PACKETS_MAX packets wait for is dropped, as a full queue does. Of a thousand packets
// LOSS_PERMILLE are lost on average, in each direction; which of them follows from SEED.
//
// Where none are lost TCP may hand over many segments as one packet, as to a network card that cuts them
// itself (IFF_VNET_HDR, Documentation/networking/tuntap.rst): else this program and the kernel, which touch
// each segment by itself, take a processor at 1 Gbit/s. How large they get is for the ends to say (ip link …
// gso_max_size).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PACKETS_MAX = 16384, PACKET_BYTES_MAX = 65536 + sizeof(struct virtio_net_hdr), BATCH = 64 };

struct packet {
  int64_t leaves_us;
  size_t size;
  char* bytes;
};

// What is on its way to the other end.
struct direction {
  struct packet waiting[PACKETS_MAX];
  size_t first;
  size_t count;
  uint64_t random;  // never 0
};

static struct direction directions[2];

static void die(const char* what) {
  fprintf(stderr, "delay_relay: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

static int open_end(const char* netns_file, const char* device, unsigned long offload) {
  const int netns = open(netns_file, O_RDONLY | O_CLOEXEC);
  if (netns < 0 || setns(netns, CLONE_NEWNET) != 0) die(netns_file);
  close(netns);
  const int end = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (end < 0) die("/dev/net/tun");
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
  if (ioctl(end, TUNSETIFF, &request) != 0) die("TUNSETIFF");
  if (ioctl(end, TUNSETOFFLOAD, offload) != 0) die("TUNSETOFFLOAD");
  return end;
}

// xorshift64*, by Marsaglia and Vigna.
static uint64_t next_random(uint64_t* state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(2685821657736338717);
}

static void take_in(int end, struct direction* direction, int64_t delay_us, int64_t loss_permille) {
  static char bytes[PACKET_BYTES_MAX];
  for (int i = 0; i < BATCH; ++i) {
    const ssize_t size = read(end, bytes, sizeof bytes);
    if (size <= 0) return;
    const bool lost = (int64_t)((next_random(&direction->random) >> 33) % 1000) < loss_permille;
    if (lost || direction->count == PACKETS_MAX) continue;
    struct packet* const packet = &direction->waiting[(direction->first + direction->count) % PACKETS_MAX];
    packet->bytes = malloc((size_t)size);
    if (packet->bytes == NULL) continue;
    memcpy(packet->bytes, bytes, (size_t)size);
    packet->size = (size_t)size;
    packet->leaves_us = now_us() + delay_us;
    ++direction->count;
  }
}

// Returns when the next packet leaves, or `latest_us`.
static int64_t let_out(int end, struct direction* direction, int64_t latest_us) {
  while (direction->count > 0) {
    struct packet* const packet = &direction->waiting[direction->first];
    if (packet->leaves_us > now_us()) return packet->leaves_us < latest_us ? packet->leaves_us : latest_us;
    // An end that is down, or full, loses it.
    const ssize_t written = write(end, packet->bytes, packet->size);
    (void)written;
    free(packet->bytes);
    direction->first = (direction->first + 1) % PACKETS_MAX;
    --direction->count;
  }
  return latest_us;
}

static int64_t number(const char* what, const char* text, int64_t max) {
  char* rest = NULL;
  const int64_t value = strtoll(text, &rest, 10);
  if (rest == text || *rest != '\0' || value < 0 || value > max) {
    fprintf(stderr, "delay_relay: %s is no number up to %lld: %s\n", what, (long long)max, text);
    exit(2);
  }
  return value;
}

int main(int argc, char** argv) {
  if (argc != 5 && argc != 7) {
    fprintf(stderr, "usage: delay_relay NETNS_FILE NETNS_FILE DEVICE DELAY_US [LOSS_PERMILLE SEED]\n");
    return 2;
  }
  const int64_t delay_us = number("DELAY_US", argv[4], INT64_C(60000000));
  const int64_t loss_permille = argc == 7 ? number("LOSS_PERMILLE", argv[5], 1000) : 0;
  const int64_t seed = argc == 7 ? number("SEED", argv[6], INT64_MAX / 2 - 1) : 0;
  for (int i = 0; i < 2; ++i)
    directions[i].random = (uint64_t)(2 * seed + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
  const unsigned long offload = loss_permille == 0 ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0;
  const int ends[2] = {open_end(argv[1], argv[3], offload), open_end(argv[2], argv[3], offload)};
  puts("up");
  fflush(stdout);
  while (1) {
    int64_t next_us = now_us() + 100000;
    for (int i = 0; i < 2; ++i) next_us = let_out(ends[1 - i], &directions[i], next_us);
    struct pollfd polled[2] = {{ends[0], POLLIN, 0}, {ends[1], POLLIN, 0}};
    int64_t wait_us = next_us - now_us();
    if (wait_us < 0) wait_us = 0;
    const struct timespec wait = {wait_us / 1000000, wait_us % 1000000 * 1000};
    ppoll(polled, 2, &wait, NULL);
    for (int i = 0; i < 2; ++i) {
      if (polled[i].revents & POLLIN) take_in(ends[i], &directions[i], delay_us, loss_permille);
    }
  }
}
