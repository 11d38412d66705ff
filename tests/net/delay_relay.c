// A link between two network namespaces that takes time: whatever enters at one end leaves the other after a
// fixed delay, in order. How fast it may enter is for a queueing discipline on the ends to say; a server that
// merely answers late would hide handshakes and slow start.
//
//   delay_relay NETNS_FILE NETNS_FILE DEVICE DELAY_US
//
// makes a TUN device of that name in both namespaces, prints "up" and a newline, and runs until it is killed.
// What more than PACKETS_MAX packets wait for is dropped, as a full queue does.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PACKETS_MAX = 16384, PACKET_BYTES_MAX = 9216, BATCH = 64 };

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

static int open_end(const char* netns_file, const char* device) {
  const int netns = open(netns_file, O_RDONLY | O_CLOEXEC);
  if (netns < 0 || setns(netns, CLONE_NEWNET) != 0) die(netns_file);
  close(netns);
  const int end = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (end < 0) die("/dev/net/tun");
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
  if (ioctl(end, TUNSETIFF, &request) != 0) die("TUNSETIFF");
  return end;
}

static void take_in(int end, struct direction* direction, int64_t delay_us) {
  static char bytes[PACKET_BYTES_MAX];
  for (int i = 0; i < BATCH; ++i) {
    const ssize_t size = read(end, bytes, sizeof bytes);
    if (size <= 0) return;
    if (direction->count == PACKETS_MAX) continue;
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

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: delay_relay NETNS_FILE NETNS_FILE DEVICE DELAY_US\n");
    return 2;
  }
  char* rest = NULL;
  const int64_t delay_us = strtoll(argv[4], &rest, 10);
  if (*rest != '\0' || delay_us < 0) {
    fprintf(stderr, "delay_relay: DELAY_US is no number of microseconds: %s\n", argv[4]);
    return 2;
  }
  const int ends[2] = {open_end(argv[1], argv[3]), open_end(argv[2], argv[3])};
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
      if (polled[i].revents & POLLIN) take_in(ends[i], &directions[i], delay_us);
    }
  }
}
