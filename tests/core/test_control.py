"""The control socket: question and answer, errors, nobody there, deep homes, other users, and requests that are garbage."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools.core import control
from fleetshell_tools.core.errors import FleetShellError, Refused

ROOT = Path(__file__).parents[2]
UNKNOWN = "the request is not one that this relay knows; are both of the same version?"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def handler(request: dict[str, Any]) -> dict[str, Any]:
    """What a relay might do: each request ends in another way."""
    if request["do"] == "refuse":
        raise Refused("This is refused; try another.")
    if request["do"] == "crash":
        raise AssertionError("a secret detail")
    if request["do"] == "vanish":
        raise OSError("an error of the handler's own")
    if request["do"] == "echo":
        return {"echo": request.get("text")}
    raise KeyError(request["do"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def server(path: Path) -> Iterator[control.ControlServer]:
    server = control.ControlServer(path, handler)
    yield server
    server.close()


def raw(path: Path, data: bytes) -> dict[str, Any]:
    """Send bytes as they are and read the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65536):
            answer += part
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


def test_a_request_is_answered(server: control.ControlServer, path: Path) -> None:
    for text in ("a", "é\n\u2028🙂", "x" * 500_000):
        assert control.ask(path, {"do": "echo", "text": text}) == {"echo": text}


def test_many_may_ask_at_once(server: control.ControlServer, path: Path) -> None:
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(control.ask(path, {"do": "echo", "text": n})))
        for n in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["echo"] for answer in answers) == list(range(100))


def test_an_error_of_the_relay_reaches_the_one_who_asked_as_its_sentence(
    server: control.ControlServer, path: Path
) -> None:
    with pytest.raises(FleetShellError, match=r"^This is refused; try another\.$"):
        control.ask(path, {"do": "refuse"})


@pytest.mark.parametrize("request_", [{"do": "dance"}, {}])
def test_a_request_that_the_relay_does_not_know_is_answered_so(
    server: control.ControlServer, path: Path, request_: dict[str, Any]
) -> None:
    with pytest.raises(FleetShellError, match="not one that this relay knows"):
        control.ask(path, request_)


@pytest.mark.parametrize("kind", ["crash", "vanish"])
def test_a_bug_in_the_relay_is_logged_hidden_and_does_not_end_the_socket(
    server: control.ControlServer, path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(FleetShellError, match=r"^internal error, see the relay's log$"):
        control.ask(path, {"do": kind})
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert control.ask(path, {"do": "echo"}) == {"echo": None}


def test_nobody_answers_where_no_relay_runs(tmp_path: Path, path: Path) -> None:
    assert control.ask(path, {"do": "echo"}) is None
    assert control.ask(tmp_path / "missing" / "control.sock", {"do": "echo"}) is None


def test_a_socket_that_a_dead_relay_left_means_that_none_runs_and_the_next_one_replaces_it(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    assert control.ask(path, {"do": "echo"}) is None
    server = control.ControlServer(path, handler)
    try:
        assert control.ask(path, {"do": "echo"}) == {"echo": None}
    finally:
        server.close()


def test_closing_removes_the_socket_and_can_be_followed_by_another(path: Path) -> None:
    for _ in range(3):
        server = control.ControlServer(path, handler)
        assert control.ask(path, {"do": "echo"}) == {"echo": None}
        server.close()
        assert not path.exists()
    assert control.ask(path, {"do": "echo"}) is None


def test_a_home_deeper_than_a_sockets_path_may_be_works(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["deep" * 10] * 5)
    folder.mkdir(parents=True)
    path = folder / "control.sock"
    assert len(str(path)) > 200
    server = control.ControlServer(path, handler)
    try:
        assert control.ask(path, {"do": "echo"}) == {"echo": None}
        assert path.is_socket()
    finally:
        server.close()
    assert control.ask(path, {"do": "echo"}) is None


def test_the_socket_is_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        server = control.ControlServer(path, handler)
        server.close()
        server = control.ControlServer(path, handler)
        assert os.umask(0) == 0  # put back as it was
    finally:
        os.umask(before)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        server.close()


ASK_AS_NOBODY = """
import os, pathlib, sys
from fleetshell_tools.core import control
from fleetshell_tools.core.errors import FleetShellError
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print("answered", control.ask(pathlib.Path(sys.argv[1]), {"do": "echo"}))
except FleetShellError as error:
    print("refused", error.message)
"""


def ask_as_nobody(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK_AS_NOBODY, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return done.stdout.strip()


@as_root
def test_another_user_is_kept_out_by_the_mode_and_where_that_was_opened_by_the_peers_uid(short_tmp: Path) -> None:
    short_tmp.chmod(0o755)
    path = short_tmp / "control.sock"
    server = control.ControlServer(path, handler)
    try:
        assert ask_as_nobody(path) == f"refused The running relay did not answer on {path}: Permission denied."
        path.chmod(0o666)
        assert ask_as_nobody(path) == "refused uid 65534 may not control this relay; use its owner or root."
        assert control.ask(path, {"do": "echo"}) == {"echo": None}
    finally:
        server.close()


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\n",
        b"\n",
        b"",
        b"\xff\xfe\n",
        b"[]\n",
        b'"do"\n',
        b"7\n",
        b"null\n",
        b'{"do": \n',
        b"[" * 100_000 + b"\n",
        b'{"do": ' * 5000 + b"\n",
    ],
    ids=["word", "empty line", "nothing", "no UTF-8", "list", "text", "number", "null", "cut", "deep list", "deep map"],
)
def test_garbage_is_answered_and_the_next_request_works(server: control.ControlServer, path: Path, data: bytes) -> None:
    assert raw(path, data) == {"error": UNKNOWN}
    assert control.ask(path, {"do": "echo", "text": "still here"}) == {"echo": "still here"}


def test_a_line_without_an_end_is_refused_at_a_megabyte(server: control.ControlServer, path: Path) -> None:
    assert raw(path, b"x" * control.MAX_LINE) == {"error": UNKNOWN}
    with pytest.raises(FleetShellError, match="not one that this relay knows"):
        control.ask(path, {"do": "echo", "text": "x" * (2 * control.MAX_LINE)})
    assert control.ask(path, {"do": "echo", "text": "x"}) == {"echo": "x"}


def test_a_client_that_goes_away_before_its_answer_disturbs_no_other(server: control.ControlServer, path: Path) -> None:
    for _ in range(10):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            client.sendall(json.dumps({"do": "echo", "text": "x" * 100_000}).encode() + b"\n")
    assert control.ask(path, {"do": "echo", "text": "x"}) == {"echo": "x"}


def test_a_silent_client_is_given_up(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.05)
    server = control.ControlServer(path, handler)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
            silent.connect(str(path))
            assert control.ask(path, {"do": "echo"}) == {"echo": None}
            assert silent.recv(1) == b""
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "about"),
    [
        (b"", "the relay closed the connection"),
        (b"garbage\n", "can't be read"),
        (b"[1]\n", "can't be read"),
        (b"x" * (control.MAX_LINE + 1), "can't be read"),
    ],
    ids=["nothing", "garbage", "list", "endless"],
)
def test_an_answer_that_is_none_becomes_a_sentence(path: Path, answer: bytes, about: str) -> None:
    """Played by a socket of our own, since no relay would answer so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def play() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                try:
                    client.sendall(answer)
                except BrokenPipeError:
                    assert len(answer) > control.MAX_LINE

        player = threading.Thread(target=play)
        player.start()
        try:
            with pytest.raises(FleetShellError, match=about):
                control.ask(path, {"do": "echo"})
        finally:
            player.join()
