// How long a read of one page takes that is not in the reader's page cache.
//
// usage: read_latency FILE COUNT SEED
//
// Reads 4 KiB at COUNT random places of FILE, each after its page was dropped from the file's cache (not from
// that of whatever lies beneath), and prints the median in microseconds.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { kPageBytes = 4096 };

static double NowMicroseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static int Compare(const void* a, const void* b) {
  const double x = *(const double*)a;
  const double y = *(const double*)b;
  return (x > y) - (x < y);
}

static double TimedRead(int file, off_t offset) {
  static char page[kPageBytes];
  posix_fadvise(file, offset, kPageBytes, POSIX_FADV_DONTNEED);
  const double started = NowMicroseconds();
  if (pread(file, page, kPageBytes, offset) != kPageBytes) {
    perror("read_latency: pread");
    exit(1);
  }
  return NowMicroseconds() - started;
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: read_latency FILE COUNT SEED\n");
    return 2;
  }
  const int file = open(argv[1], O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (file < 0 || fstat(file, &status)) {
    perror(argv[1]);
    return 1;
  }
  const long count = atol(argv[2]);
  const long pages = status.st_size / kPageBytes;
  double* microseconds = malloc((size_t)count * sizeof *microseconds);
  if (count < 1 || pages < 1 || !microseconds) {
    fprintf(stderr, "read_latency: nothing to read\n");
    return 1;
  }
  posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  srandom((unsigned)atol(argv[3]));
  for (long i = 0; i < count; ++i) microseconds[i] = TimedRead(file, (random() % pages) * (off_t)kPageBytes);
  qsort(microseconds, (size_t)count, sizeof *microseconds, Compare);
  printf("%.3f\n", microseconds[count / 2]);
  return 0;
}
