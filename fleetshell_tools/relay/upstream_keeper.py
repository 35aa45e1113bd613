"""A small process that outlives a killed relay just long enough to end the external MCP servers that it left."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading

log = logging.getLogger("fleetshell")

_SCRIPT = """\
groups=
while read -r word group; do
  case $word in
  add) groups="$groups $group" ;;
  remove)
    rest=
    for one in $groups; do [ "$one" = "$group" ] || rest="$rest $one"; done
    groups=$rest ;;
  esac
done
[ -n "$groups" ] || exit 0
sleep 2
for one in $groups; do kill -s TERM -- "-$one"; done
sleep 2
for one in $groups; do kill -s KILL -- "-$one"; done
"""


class Keeper:
    """Ends the process groups that it was told of once our end of its pipe closes, however that comes; for threads at once.

    It is a shell of a megabyte, started with the first server. The servers have seen the end of their input by then, so it
    waits 2 s before SIGTERM, and 2 s more before SIGKILL.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, group: int) -> None:
        """Look after a process group."""
        with self._lock:
            if self._process is None:
                quiet = subprocess.DEVNULL
                try:
                    # A session of its own, so that Ctrl-C in a terminal does not reach it.
                    self._process = subprocess.Popen(
                        ["/bin/sh", "-c", _SCRIPT, "fleetshell-keeper"], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet,
                        cwd="/", env={"PATH": "/usr/bin:/bin"}, start_new_session=True, bufsize=0,
                    )  # fmt: skip
                except OSError as error:
                    log.warning("Without /bin/sh a killed relay leaves its external MCP servers: %s", error.strerror)
                    return
            self._say(f"add {group}")

    def remove(self, group: int) -> None:
        """Forget a process group that has ended: its number may become another's."""
        with self._lock:
            self._say(f"remove {group}")

    def close(self) -> None:
        """End the keeper itself, and with it the groups that it still looks after; does not wait for those."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)

    def _say(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # somebody killed it: the next start of the relay still sweeps
                self._process.stdin.write(line.encode() + b"\n")
