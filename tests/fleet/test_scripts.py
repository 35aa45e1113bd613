"""Programs of ours on hosts: data that reaches them unchanged, parts, facts, sudo, and what the audit log shows."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fleets import TestFleet, fleet_on
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.errors import BadArgument, Blocked, TimedOut
from fleetshell_tools.core.scripts import FACTS, Facts, Ran, Script, facts_in, parts, sudo_refusal
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.fleet.remote import shell_free

SHELLS = [["sh"], ["dash"], ["bash"], ["busybox", "sh"], ["zsh"]]
ECHO = Script("echo_data", 'part data; for a in "$@"; do printf "%s\\0" "$a"; done')


@pytest.fixture
def web(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as found:
        found.add("web", sshd)
        yield found


def run(fleet: TestFleet, script: Script, *, timeout: float = 20) -> Ran:
    server = fleet.inventory.get("web")
    return fleet.fleet.run_script(fleet.caller, server, script, timeout=timeout, cancelled=Cancellation())


def test_parts_are_the_bytes_between_their_lines(web: TestFleet) -> None:
    ran = run(web, Script("t", "part one; printf 'a\\nb'; part two; printf '\\000\\377'; part one; printf c; exit 3"))
    assert (ran.part("one"), ran.part("two"), ran.part("none"), ran.exit_code) == (b"a\nbc", b"\x00\xff", b"", 3)


def test_facts_come_with_the_first_program_of_a_connection_and_not_again(web: TestFleet) -> None:
    first = run(web, ECHO)
    assert first.facts["kernel"] == "Linux" and first.facts["uid"].isdigit() and first.facts["tools"] == "gnu"
    assert set(first.facts.values) == set(FACTS)
    again = run(web, Script("t", 'part seen; printf "%s %s" "$tools" "$uid"'))
    assert "facts" not in again.parts and again.facts == first.facts
    assert again.text("seen") == f"gnu {first.facts['uid']}"
    server = web.inventory.get("web")
    assert web.fleet.facts(server) == first.facts and web.fleet.last_seen(server)
    web.fleet.connections.lost(web.fleet.connections.of(web.fleet.identity(server)))
    assert "facts" in run(web, ECHO).parts


HOSTILE = [
    "",
    " ",
    "-rf",
    "--",
    "$(touch x)",
    "`id`",
    "a'b\"c",
    "line\nbreak\n",
    "\\",
    "!",
    "%s",
    "*",
    "~",
    "é\u202e",
    "\x1e",
    "\x7f",
]


def test_data_reaches_a_host_unchanged(web: TestFleet) -> None:
    ran = run(web, Script("echo_data", ECHO.text, tuple(HOSTILE)))
    assert ran.part("data").decode().split("\0")[:-1] == HOSTILE


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=4))
def test_data_reaches_every_shell_unchanged(data: list[str]) -> None:
    for shell in SHELLS:
        if shutil.which(shell[0]) is None:
            continue
        line = Script("echo_data", ECHO.text, tuple(data)).command("fs-n", Facts({}), sudo=False)
        done = subprocess.run([*shell, "-c", line], capture_output=True, check=True)
        assert parts(done.stdout, "fs-n")["data"].decode().split("\0")[:-1] == data, shell
    for name in ("fish", "tcsh"):
        if shutil.which(name):
            line = shell_free(Script("echo_data", ECHO.text, tuple(data)).command("fs-n", Facts({}), sudo=False))
            done = subprocess.run([name, "-c", line], capture_output=True, check=True)
            assert parts(done.stdout, "fs-n")["data"].decode().split("\0")[:-1] == data, name


@pytest.mark.parametrize("shell", SHELLS[:-1])  # no host's `sh` is zsh
def test_every_shell_finds_out_the_facts(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    line = Script("t", "part end").command("fs-n", None, sudo=False)
    # The whole program in the shell at hand, not in what `sh` is on this machine.
    words = shlex.split(line)
    done = subprocess.run([*shell, *words[2:]], capture_output=True, text=False, check=True)
    assert done.stderr == b""
    facts = facts_in(parts(done.stdout, "fs-n"))
    assert facts is not None and facts["kernel"] == "Linux" and facts["user"] and facts["stat"] == "c"


def test_a_nul_in_the_data_is_refused_before_anything_runs(web: TestFleet) -> None:
    with pytest.raises(BadArgument, match="NUL"):
        run(web, Script("t", "part x", ("a\0b",)))
    assert not (web.home.logs / "audit.log").exists()


def test_the_audit_log_names_the_tool_and_its_data_and_not_its_text(web: TestFleet) -> None:
    run(web, Script("read_file", "part x # inner", ("/etc/hosts", "a b")))
    assert {record["command"] for record in web.records() if record["event"] in ("started", "finished")} == {
        "read_file /etc/hosts 'a b'"
    }


def test_the_guard_judges_what_a_program_does_to_its_data(web: TestFleet) -> None:
    with pytest.raises(Blocked):
        run(web, Script("write_file", "part x", judged="rm -rf /"))


def test_a_program_that_does_not_end_is_ended(web: TestFleet) -> None:
    with pytest.raises(TimedOut, match="stopped: confirmed"):
        run(web, Script("slow", "part x; sleep 1000"), timeout=1)


def test_root_is_asked_of_sudo_only_where_that_is_wanted_and_needed() -> None:
    text = 'sudo() { shift 2; echo by-sudo; "$@"; }\npart out; root echo plain'
    for sudo, uid, wanted in ((True, "1000", "by-sudo\nplain\n"), (True, "0", "plain\n"), (False, "1000", "plain\n")):
        line = Script("t", text).command("fs-n", Facts({"uid": uid}), sudo=sudo)
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
        assert parts(done.stdout, "fs-n")["out"].decode() == wanted


def test_a_refusal_of_sudo_names_the_line_that_would_allow_it() -> None:
    facts = Facts({"user": "admin"})
    said = sudo_refusal("sudo: a password is required\n", "/usr/bin/systemctl restart nginx.service", facts)
    assert "admin ALL=(root) NOPASSWD: /usr/bin/systemctl restart nginx.service" in said
    assert sudo_refusal("cat: x: No such file", "/bin/cat x", facts) == ""
