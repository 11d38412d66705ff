// The least that a program which answers pre-content events can do: it allows everything at once.
//
// usage: bare_responder MOUNT_POINT
//
// Watches the mount with FAN_PRE_ACCESS (Linux 6.14) and prints "ready"; on SIGTERM prints how many events it
// answered. What a reader waits here is what the kernel's interface itself costs.
// Source: fanotify(7), fanotify_init(2), fanotify_mark(2); include/uapi/linux/fanotify.h.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <unistd.h>

#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif

static volatile sig_atomic_t stopping;

static void Stop(int signal_number) {
  (void)signal_number;
  stopping = 1;
}

static void Die(const char* what) {
  fprintf(stderr, "bare_responder: %s: %s\n", what, strerror(errno));
  exit(1);
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: bare_responder MOUNT_POINT\n");
    return 2;
  }
  const int group =
      fanotify_init(FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS,
                    O_RDONLY | O_LARGEFILE | O_CLOEXEC);
  if (group < 0) Die("fanotify_init");
  if (fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_PRE_ACCESS, AT_FDCWD, argv[1]))
    Die("fanotify_mark");

  // No SA_RESTART: the signal has to end the read below.
  struct sigaction action = {.sa_handler = Stop};
  if (sigaction(SIGTERM, &action, NULL)) Die("sigaction");
  puts("ready");
  fflush(stdout);

  unsigned long answered = 0;
  while (!stopping) {
    char buffer[4096] __attribute__((aligned(8)));
    ssize_t length = read(group, buffer, sizeof buffer);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) Die("read");
    for (const struct fanotify_event_metadata* event = (void*)buffer; FAN_EVENT_OK(event, length);
         event = FAN_EVENT_NEXT(event, length)) {
      const struct fanotify_response response = {.fd = event->fd, .response = FAN_ALLOW};
      if (write(group, &response, sizeof response) != sizeof response) Die("write");
      close(event->fd);
      ++answered;
    }
  }
  printf("%lu\n", answered);
  return 0;
}
