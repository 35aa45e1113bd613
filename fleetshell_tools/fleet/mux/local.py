"""One command on the relay's own machine (`connection: local`), in a session of its own, in the loop of all others."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess

from fleetshell_tools.fleet.mux.session import Job, Session

LOCAL = "local"
"""The `name` of jobs that run here; no control socket is called so."""

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ")
_unreaped: list[subprocess.Popen[bytes]] = []


class LocalSession(Session):
    """A command by /bin/sh here.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self, job: Job, selector: selectors.BaseSelector) -> None:
        super().__init__(job, selector)
        _reap()
        self._pidfd = -1
        ours, far = self._make_pipes()
        try:
            stdin = far[0] if self._stdin else subprocess.DEVNULL
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", job.command], stdin=stdin, stdout=far[-2], stderr=far[-1], cwd=_folder(), env=_environment(),
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in far:
                os.close(fd)
        self.opened = True
        try:
            self._attend(ours)
            self._pidfd = os.pidfd_open(self._process.pid)
            self._selector.register(self._pidfd, selectors.EVENT_READ, self)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.close()
            raise
        job.on_open()

    def close(self) -> None:
        super().close()
        if self._pidfd >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            if self._process.poll() is None:
                _unreaped.append(self._process)
            _reap()

    def _hear(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self._selector.unregister(self._pidfd)
        if status < 0:
            self._finish("signal", signal.Signals(-status).name)
        else:
            self._exited(status)


def _reap() -> None:
    """Wait for what was given up on and has ended since, so that it does not stay a zombie."""
    for process in list(_unreaped):
        if process.poll() is not None:
            with contextlib.suppress(ValueError):  # another thread was quicker
                _unreaped.remove(process)


def _folder() -> str:
    home = os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"


def _environment() -> dict[str, str]:
    """What commands here may know of the relay's environment."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")}
