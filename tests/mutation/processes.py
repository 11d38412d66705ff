"""Child processes that end when they must: after a time limit, or all at once when the run is interrupted."""

import functools
import os
import shutil
import signal
import subprocess
import threading

MEMORY_BYTES_MAX = 16 << 30  # of address space: a break may allocate for ever

# A mount space of one's own begins as a copy, and a copy keeps a file system in use after others have unmounted it: what
# other tests on this machine mount is let go before the program starts. Not what the program itself lies in.
LET_GO_OF_MOUNTS = r"""
mounts=$(cat /proc/self/mountinfo)
printf '%s\n' "$mounts" | while read -r _ _ _ _ at rest; do
  kind=${rest#* - }
  case "${kind%% *}:$at" in
    *:/) continue ;;
    erofs:* | fuse*:* | overlay:* | *:/var/tmp/* | *:/run/sluice/*) ;;
    *) continue ;;
  esac
  at=$(printf %b "$(printf %s "$at" | sed 's/\\\([0-7]\{3\}\)/\\0\1/g')")
  case "$PWD/:$1" in
    "$at"/* | *:"$at"/*) continue ;;
  esac
  umount --lazy "$at" 2>/dev/null || :
done
exec "$@"
"""


class Interrupted(Exception):
    """The run is ending; nothing more is started."""


@functools.cache
def _isolation():
    """Bounds for a test; and what keeps a killed one from leaving mounts or processes of its own, where we may."""
    bounds = ["prlimit", "--core=0", f"--as={MEMORY_BYTES_MAX}"]
    spaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    works = os.geteuid() == 0 and shutil.which("unshare") and subprocess.run(
        bounds + spaces + ["true"], capture_output=True, check=False).returncode == 0
    return bounds + (spaces + ["sh", "-c", LET_GO_OF_MOUNTS, "sh"] if works else [])


class Children:
    """Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running = set()  # guarded by _lock
        self._stopped = False  # guarded by _lock

    def run(self, command, cwd, env=None, seconds_max=None, isolated=False):
        """Returns (exit code, output); the exit code is None if the time was up, and then the whole group is killed."""
        with self._lock:
            if self._stopped:
                raise Interrupted
            # A group of its own, so that nothing it starts outlives it, and Ctrl-C comes to us alone.
            process = subprocess.Popen((_isolation() if isolated else []) + command, cwd=cwd, env=env,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       start_new_session=True)
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=seconds_max)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code = None
            self._kill(process)
            output, _ = process.communicate()
        finally:
            # Also what a test that ended has left running.
            self._kill(process)
            process.wait()
            with self._lock:
                self._running.discard(process)
        with self._lock:
            if self._stopped:
                raise Interrupted
        return code, output.decode("utf-8", errors="replace")

    def stop(self):
        """Kills all that run, and lets nothing start any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                self._kill(process)

    @staticmethod
    def _kill(process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
