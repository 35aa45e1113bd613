"""Drives a client program: orders go to its stdin, answers and events come from its stdout, a line of JSON each.

An order is `{"id", "do", …}`: `list`, `call` (name, arguments, meta, progress), `cancel` (call) or `listen`; the Python client
knows `prompts` and `prompt` (name, arguments), too. Its answer is `{"id", "result"}` or `{"id", "error": {code, message, data}}`;
events are `connected`, `failed`, `progress` and `changed`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds after which an answer is taken not to come."""


@dataclass(frozen=True)
class Answer:
    """What a call gave: a result, or an error (with `code` None where the client made it up itself)."""

    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    @property
    def reason(self) -> str:
        """`error.data.reason`, which tells the relay's errors apart; "" where there is none."""
        data = (self.error or {}).get("data") or {}
        return str(data.get("reason", ""))

    @property
    def text(self) -> str:
        assert self.error is None, self.error
        return str(self.result["content"][0]["text"])

    @property
    def structured(self) -> dict[str, Any]:
        assert self.error is None, self.error
        found: dict[str, Any] = self.result["structuredContent"]
        return found


class Driver:
    """One running client; a context manager that ends it.

    Args:
        folder: Where its log goes.

    Raises:
        AssertionError: It did not connect; the message has what it said.
    """

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._log = folder / "client.log"
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._numbers = itertools.count(1)
        self._boxes: dict[int, queue.Queue[Answer]] = {}
        self._events: dict[str, queue.Queue[dict[str, Any]]] = {
            name: queue.Queue() for name in ("connected", "failed", "progress", "changed")
        }
        self._reader = threading.Thread(target=self._read, name="client's answers")
        self._reader.start()
        try:
            self.version = str(self.event("connected")["version"])
        except AssertionError:
            self.close()
            raise

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the client by the end of its input, as a host does; then whatever is left of it."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()

    def event(self, name: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next event of that name; fails where none comes."""
        try:
            found = self._events[name].get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no {name!r} from the client within {seconds:g} s:\n{self._said()}") from None
        assert found.get("event") == name, f"the client has ended: {found}\n{self._said()}"
        return found

    def order(self, do: str, **parts: Any) -> int:
        """Give an order without waiting for its answer; returns its number."""
        number = next(self._numbers)
        self._boxes[number] = queue.Queue()
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"id": number, "do": do, **parts}).encode() + b"\n")
        self.process.stdin.flush()
        return number

    def answer(self, number: int, seconds: float = PATIENCE) -> Answer:
        """The answer to an order."""
        try:
            return self._boxes[number].get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no answer from the client within {seconds:g} s:\n{self._said()}") from None

    def tools(self) -> list[str]:
        found: list[str] = self.answer(self.order("list")).result["tools"]
        return found

    def begin(
        self, tool: str, arguments: dict[str, Any], meta: dict[str, Any] | None = None, *, progress: bool = False
    ) -> int:
        """Start a call; returns its number."""
        return self.order("call", name=tool, arguments=arguments, meta=meta, progress=progress)

    def call(self, tool: str, arguments: dict[str, Any], meta: dict[str, Any] | None = None) -> Answer:
        return self.answer(self.begin(tool, arguments, meta))

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            message = json.loads(line)
            if "event" in message:
                self._events[message["event"]].put(message)
            else:
                self._boxes[message["id"]].put(Answer(message.get("result") or {}, message.get("error")))
        for waiting in self._events.values():
            waiting.put({"event": "ended"})

    def _said(self) -> str:
        failed = "" if self._events["failed"].empty() else str(self._events["failed"].get())
        return failed + "\n" + self._log.read_text(errors="replace")[-3000:]
