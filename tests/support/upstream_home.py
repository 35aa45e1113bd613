"""A home with external MCP servers and the aggregator over it, for tests of both."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.config import Config, External
from fleetshell_tools.core.home import FOLDERS, Home
from fleetshell_tools.core.types import Caller, Principal
from fleetshell_tools.relay.upstreams import Upstreams
from support.processes import wait_until

SERVERS = Path(__file__).parent / "upstreams"
SOON = 20.0
"""Seconds that something may take on a busy machine."""


class Aggregator:
    """A home, what its files say, and an `Upstreams` made at its first use."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.home = Home(folder)
        for name in ("", *FOLDERS):
            (folder / name).mkdir(mode=0o700, parents=True)
        self.config = Config()
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.changed: list[str] = []
        self.made: Upstreams | None = None
        self._making = threading.Lock()

    @property
    def upstreams(self) -> Upstreams:
        with self._making:
            if self.made is None:
                self.made = Upstreams(
                    self.home, self.config, logging.getLogger("fleetshell"), self._record, self.changed.append
                )
                self.made.start()
            return self.made

    def settings(self, **values: int) -> None:
        """Set keys of `external`."""
        self.config = dataclasses.replace(self.config, external=dataclasses.replace(External(), **values))

    def file(self, mcp_id: str) -> Path:
        return self.path / "mcps" / f"{mcp_id}.conf"

    def write(self, mcp_id: str, **values: Any) -> None:
        """Write a server's file."""
        path = self.file(mcp_id).with_suffix(".new")
        path.write_text(yamlfile.dump({"id": mcp_id, **values}))
        path.chmod(0o600)
        path.rename(self.file(mcp_id))

    def raw(self, mcp_id: str = "raw", *options: str, **values: Any) -> None:
        """Add a server of bare JSON lines."""
        # -S and -E make Python start in half the time.
        self.write(mcp_id, command=sys.executable, args=["-S", "-E", str(SERVERS / "raw.py"), *options], **values)

    def sdk(self, mcp_id: str = "sdk", **values: Any) -> None:
        """Add a server on the SDK."""
        self.write(mcp_id, command=sys.executable, args=[str(SERVERS / "sdk.py")], **values)

    def call(self, name: str, session: str = "s", **more: Any) -> dict[str, Any]:
        """Call a tool; the arguments are `arguments`."""
        arguments = more.pop("arguments", {})
        caller = Caller(Principal("key"), "client", session, name)
        return self.upstreams.call(caller, name, arguments, **more)

    def text(self, name: str, **more: Any) -> str:
        """The text that a tool answers."""
        result = self.call(name, **more)
        assert not result["isError"], result
        return str(result["content"][0]["text"])

    def state(self, mcp_id: str) -> dict[str, Any]:
        (found,) = [entry for entry in self.upstreams.describe() if entry["id"] == mcp_id]
        return found

    def until(self, mcp_id: str, status: str) -> dict[str, Any]:
        """Wait until a server has a status."""
        wait_until(lambda: self.state(mcp_id)["status"] == status, SOON, f"{mcp_id} is {status}: {self.state(mcp_id)}")
        return self.state(mcp_id)

    def log(self, mcp_id: str) -> str:
        return (self.path / "logs" / f"mcp-{mcp_id}.log").read_text(errors="replace")

    def close(self) -> None:
        if self.made is not None:
            self.made.close()
            self.made = None

    def _record(self, event: str, *, durable: bool = False, **fields: Any) -> int:
        self.records.append((event, {"durable": durable, **fields}))
        return len(self.records)


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[Aggregator]:
    """An aggregator without servers."""
    made = Aggregator(tmp_path / "home")
    yield made
    made.close()


def background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run something in a thread; what it gave, or the exception, is in the list once the thread has ended."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome
