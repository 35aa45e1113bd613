"""The service tools on real hosts: one with systemd, this machine with its SysV scripts, and small ones of busybox."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from support.fleets import TestFleet, fleet_on
from support.local_scripts import SHELLS, run_local
from support.processes import wait_until
from support.sshd import KeyPair, Sshd
from support.systemd_host import USERS, SystemdHost

from fleetshell_tools import services
from fleetshell_tools.core.config import Config, Security
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, Blocked, FleetShellError, NotFound, Refused
from fleetshell_tools.core.scripts import Ran, Script
from fleetshell_tools.core.servers import Inventory, Server, write
from fleetshell_tools.core.service_scripts import LIST, STATUS
from fleetshell_tools.core.tool import Tool
from fleetshell_tools.core.types import Auth, Caller, Cancellation, Fleet, Principal

SERVICES: dict[str, Any] = {
    "site": {"unit": "nginx.service", "port": 80, "common_issues": ["Bad configuration: nginx -t"]},
    "demo-ok": {"critical": True, "log_path": "/var/log/demo.log"},
    "sshd": {"critical": True},
    "gone": {"description": "was here once"},
}


def structured(tool: Tool, output: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(output.structured(), allow_nan=False))
    jsonschema.validate(found, tool.definition()["outputSchema"])
    assert len(json.dumps(found)) < 16_000
    return cast("dict[str, Any]", found)


class Bench:
    """The tools over a fleet; `text` is what the last call said."""

    text = ""

    def __init__(self, fleet: Fleet, inventory: Inventory, config: Config | None = None) -> None:
        self._fleet, self._inventory, self.config = fleet, inventory, config or Config()

    def call(self, tool: Tool, server_id: str, **arguments: Any) -> dict[str, Any]:
        caller = Caller(Principal("testkey"), "test 1", "digest", tool.name)
        context = Context(caller, "s", self.config, self._inventory, self._fleet, cast(Auth, None))
        output = tool.function(context, **tool.arguments({"server_id": server_id, **arguments}))
        self.text = output.text()
        return structured(tool, output)

    def status(self, server_id: str, name: str) -> dict[str, Any]:
        return self.call(services.get_service_status, server_id, service_name=name)

    def restart(self, server_id: str, name: str, **more: Any) -> dict[str, Any]:
        return self.call(services.restart_service, server_id, service_name=name, **more)

    def list(self, server_id: str, **filters: str) -> dict[str, Any]:
        return self.call(services.list_services, server_id, **filters)

    def allowing(self, policy: str) -> Bench:
        return Bench(self._fleet, self._inventory, Config(security=Security(restart_critical=policy)))


@pytest.fixture
def fleet(relay_key: KeyPair, short_tmp: Path) -> Iterator[TestFleet]:
    with fleet_on(short_tmp, relay_key) as found:
        yield found


@pytest.fixture
def bench(systemd_host: SystemdHost, fleet: TestFleet) -> Bench:
    """The systemd host as `root`, `admin` (with `sudo: true`), `plain`, and `refused`: plain with `sudo: true`."""
    for user in USERS:
        fleet.add(user, **systemd_host.server(user), sudo=user == "admin", services=SERVICES)
    fleet.add("refused", **systemd_host.server("plain"), sudo=True)
    return Bench(fleet.fleet, fleet.inventory)


@pytest.fixture
def make_unit(systemd_host: SystemdHost) -> Iterator[Callable[[str, str], None]]:
    """Makes units for this test alone."""
    made: list[str] = []

    def make(name: str, text: str) -> None:
        made.append(name)
        quoted = text.replace("'", "'\\''")
        systemd_host.run("root", f"printf %s '{quoted}' >/etc/systemd/system/{name} && systemctl daemon-reload")

    yield make
    for name in made:
        systemd_host.run(
            "root", f"systemctl stop {name}; systemctl reset-failed {name} 2>/dev/null; rm /etc/systemd/system/{name}"
        )
    systemd_host.run("root", "systemctl daemon-reload")


# get_service_status


def test_the_status_of_a_running_service(bench: Bench, systemd_host: SystemdHost) -> None:
    found = bench.status("root", "demo-ok")
    pid = systemd_host.run("root", "systemctl show -p MainPID demo-ok").strip().partition("=")[2]
    wanted = {
        "service": "demo-ok", "unit": "demo-ok.service", "exists": True, "active_state": "active", "sub_state": "running",
        "enabled": True, "unit_file_state": "enabled", "main_pid": int(pid), "restarts": 0, "failure": None, "critical": True,
        "manager": "systemd", "log_source": "the journal", "context": {"log_path": "/var/log/demo.log"},
    }  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted
    epoch = systemd_host.run(
        "root", 'date -u -d "$(systemctl show -P ActiveEnterTimestamp demo-ok)" +%Y-%m-%dT%H:%M:%SZ'
    )
    assert found["since"] == epoch.strip()
    assert found["memory_bytes"] > 100_000
    assert len(found["recent_log"]) == services.LOG_LINES and "demo-ok[" in found["recent_log"][-1]
    assert bench.text.startswith(f"demo-ok.service on root: active (running) since {found['since']}\n")
    assert "marks it critical" in bench.text and found["recent_log"][-1] in bench.text


def test_a_service_of_the_file_is_its_unit_and_brings_its_known_issues(bench: Bench) -> None:
    for name in ("site", "nginx", "nginx.service"):
        found = bench.status("root", name)
        assert (found["unit"], found["common_issues"]) == ("nginx.service", ["Bad configuration: nginx -t"])
        assert found["context"]["port"] == 80 and "nginx -t" in bench.text


def test_an_alias_is_the_service_that_the_file_describes(bench: Bench) -> None:
    found = bench.status("root", "ssh")
    assert (found["unit"], found["critical"]) == ("ssh.service", True)
    assert bench.status("root", "sshd")["unit"] == "ssh.service"


def test_a_failed_service_says_why(bench: Bench) -> None:
    found = bench.status("admin", "demo-fail")
    assert (found["active_state"], found["failure"]) == ("failed", "exit code 3")
    assert any("error: sh[" in line and "cannot read /etc/demo/config.yml" in line for line in found["recent_log"])
    assert "Ended badly: exit code 3" in bench.text


def test_a_service_that_does_not_exist_is_told_apart_from_an_inactive_one(bench: Bench) -> None:
    found = bench.status("root", "ngnix")
    assert (found["exists"], found["active_state"], found["main_pid"]) == (False, None, None)
    assert bench.text.splitlines() == ["ngnix.service does not exist on root", "Near names: nginx.service."]
    inactive = bench.status("root", "demo-tick")
    assert (inactive["exists"], inactive["active_state"], inactive["triggered_by"]) == (
        True,
        "inactive",
        ["demo-tick.timer"],
    )
    assert "key `unit`" in bench.status("root", "gone")["notice"]


def test_a_timer_tells_when_it_runs_next(
    bench: Bench, make_unit: Callable[[str, str], None], systemd_host: SystemdHost
) -> None:
    timer = bench.status("root", "demo-tick.timer")["timer"]
    assert timer["next_run"].endswith("T03:30:00Z") and timer["starts"] == "demo-tick.service"
    make_unit("often.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    make_unit("often.timer", "[Timer]\nOnBootSec=900d\n")
    systemd_host.run("root", "systemctl start often.timer; systemctl start often.service || true")
    told = systemd_host.run("root", "systemctl list-timers -o json often.timer")
    found = bench.status("root", "often.timer")
    assert found["timer"]["last_result"] == "exit code 1"
    assert any("Failed to start often.service" in line for line in found["recent_log"])
    epoch = int(systemd_host.run("root", f"date -d {found['timer']['next_run']} +%s"))
    assert abs(epoch - int(json.loads(told)[0]["next"]) / 1e6) <= 2


def test_a_socket_and_a_template(bench: Bench) -> None:
    assert bench.status("root", "demo-echo.socket")["sub_state"] == "listening"
    for name in ("demo-echo@", "demo-echo@.service"):
        found = bench.status("root", name)
        assert (found["exists"], found["active_state"], found["unit_file_state"]) == (True, None, "static")
        assert "template" in found["notice"]
    assert bench.status("root", "nothing@")["exists"] is False
    assert "user@0.service active (running)" in bench.status("root", "user@")["notice"]


def test_a_journal_that_may_not_be_read_is_said_and_not_an_empty_log(bench: Bench) -> None:
    found = bench.status("plain", "demo-ok")
    assert (found["active_state"], found["recent_log"], found["log_source"]) == ("active", [], None)
    assert "plain may not read the journal" in found["notice"] and "systemd-journal" in found["notice"]
    assert "plain ALL=(root) NOPASSWD: /usr/bin/journalctl" in bench.status("refused", "demo-ok")["notice"]
    assert bench.status("admin", "demo-ok")["recent_log"]


def test_where_the_journal_has_nothing_the_log_file_is_read(
    bench: Bench, fleet: TestFleet, systemd_host: SystemdHost
) -> None:
    systemd_host.run("root", "seq 20 >/tmp/quiet.log")
    about = {"debug-shell": {"log_path": "/tmp/quiet.log"}}
    fleet.add("quiet", **systemd_host.server("root"), services=about)
    found = bench.status("quiet", "debug-shell")
    assert found["log_source"] == "/tmp/quiet.log"
    assert found["recent_log"] == [str(number) for number in range(11, 21)]


HOSTILE = ["a b", "-x y", "$(touch /tmp/hostile)", "a;id", "../x", "x\ny", "*"]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_name_is_refused_before_any_host_is_asked(bench: Bench, fleet: TestFleet, name: str) -> None:
    for tool in (services.get_service_status, services.restart_service):
        with pytest.raises(BadArgument, match="no name of a service"):
            bench.call(tool, "root", service_name=name)
    assert not (fleet.home.logs / "audit.log").exists()


def test_a_name_that_looks_like_an_option_is_a_name(bench: Bench) -> None:
    for name in ("--version", "-H", "-.mount"):
        assert bench.status("root", name)["exists"] is (name == "-.mount")


# restart_service


def test_a_restart_tells_the_state_before_and_after(bench: Bench, fleet: TestFleet) -> None:
    found = bench.restart("admin", "site")
    assert found["success"] is True and found["unit"] == "nginx.service"
    assert found["before"]["active_state"] == found["after"]["active_state"] == "active"
    assert found["before"]["main_pid"] != found["after"]["main_pid"] == bench.status("admin", "site")["main_pid"]
    assert (
        any("Started nginx" in line for line in found["recent_log"]) and len(found["recent_log"]) <= services.CALM_LINES
    )
    records = [record for record in fleet.records() if record["tool"] == "restart_service"]
    assert [(record["event"], record["command"]) for record in records] == [
        ("started", "restart_service nginx.service"),
        ("finished", "restart_service nginx.service"),
    ]
    assert bench.restart("root", "site")["success"] is True
    assert bench.text.startswith("Restarted nginx.service on root: active (running)\n")


def test_a_restart_that_fails_is_a_result_with_the_new_log_lines(bench: Bench) -> None:
    found = bench.restart("root", "demo-fail")
    assert (found["success"], found["verdict"]) == (False, "failed (failed), exit code 3")
    said = "\n".join(found["recent_log"])
    assert said.count("cannot read /etc/demo/config.yml") == 1 and "Failed with result 'exit-code'" in said
    assert bench.text.startswith("Restart of demo-fail.service has not succeeded on root: failed")
    assert found["recent_log"][0] in bench.text


UNITS = [
    ("[Service]\nType=oneshot\nExecStart=/bin/echo once\n", True, "to its end"),
    ("[Service]\nExecStart=/bin/sh -c 'sleep 0.7'\n", False, "ended right after its start"),
    ("[Service]\nExecStart=/bin/sh -c 'sleep 0.7; kill -9 $$$$'\n", False, "signal 9"),
    ("[Unit]\nStartLimitBurst=100\n[Service]\nExecStart=/bin/sh -c 'sleep 0.2; exit 4'\nRestart=always\n", False, "again and again"),
    ("[Service]\nType=oneshot\nExecStart=/bin/sleep 300\n", False, "still activating (start) after 2 s"),
    ("[Service]\nExecStart=/bin/nothing-here\n", False, "exit code 203"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "success", "words"), UNITS)
def test_the_verdict_is_waited_for(
    bench: Bench,
    make_unit: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    success: bool,
    words: str,
) -> None:
    if "sleep 300" in text:
        monkeypatch.setattr(services, "WAIT", 2)
    make_unit("fresh.service", text)
    found = bench.restart("root", "fresh")
    assert (found["before"]["active_state"], found["success"]) == ("inactive", success)
    assert words in found["verdict"] and found["recent_log"]


def test_what_does_not_exist_is_refused_and_nothing_is_done(bench: Bench) -> None:
    with pytest.raises(
        NotFound, match=r"ngnix.service does not exist on root; nothing was restarted. Near names: nginx.service"
    ):
        bench.restart("root", "ngnix")
    with pytest.raises(BadArgument, match="instance of the template"):
        bench.restart("root", "demo-echo@")
    with pytest.raises(BadArgument, match="can't be restarted"):
        bench.restart("root", "-.mount")


def test_a_login_that_may_not_is_told_the_line_of_sudoers(bench: Bench) -> None:
    before = bench.status("root", "site")["main_pid"]
    line = "plain ALL=(root) NOPASSWD: /usr/bin/systemctl --no-block restart nginx.service"
    with pytest.raises(Refused, match="sudo: true") as caught:
        bench.restart("plain", "site")
    assert line in str(caught.value)
    with pytest.raises(Refused, match="sudo refused") as caught:
        bench.restart("refused", "nginx")
    assert line in str(caught.value)
    assert bench.status("root", "site")["main_pid"] == before


def test_the_line_of_sudoers_is_enough(bench: Bench, systemd_host: SystemdHost) -> None:
    rule = "plain ALL=(root) NOPASSWD: /usr/bin/systemctl --no-block restart nginx.service"
    systemd_host.run("root", f"echo '{rule}' >/etc/sudoers.d/plain")
    try:
        assert bench.restart("refused", "nginx")["success"] is True
    finally:
        systemd_host.run("root", "rm /etc/sudoers.d/plain")


def test_a_masked_unit_says_what_systemd_says(bench: Bench) -> None:
    with pytest.raises(FleetShellError, match="is masked"):
        bench.restart("root", "console-getty")


def test_the_service_that_takes_our_logins_can_be_restarted_with_a_warning(bench: Bench) -> None:
    found = bench.restart("root", "sshd")
    assert found["success"] is True and "FleetShell's own logins" in found["notice"] and found["notice"] in bench.text
    assert bench.status("root", "ssh")["active_state"] == "active"


def test_an_approval_restarts_one_critical_service_once(bench: Bench, fleet: TestFleet) -> None:
    strict = bench.allowing("approval")
    with pytest.raises(Blocked, match="fleetshell approve apr_"):
        strict.restart("root", "demo-ok")
    (asked,) = fleet.approvals.listed()
    assert "systemctl restart demo-ok" in asked["command"] and asked["server_ids"] == ["root"]
    with pytest.raises(Blocked, match="has not approved this call yet"):
        strict.restart("root", "demo-ok", approval_id=asked["id"])
    fleet.approvals.approve(asked["id"])
    with pytest.raises(Blocked, match="not one for this call"):
        strict.restart("root", "sshd", approval_id=asked["id"])
    before = bench.status("root", "demo-ok")["main_pid"]
    assert strict.restart("root", "demo-ok", approval_id=asked["id"])["success"] is True
    assert bench.status("root", "demo-ok")["main_pid"] != before
    with pytest.raises(Blocked, match="not one for this call"):
        strict.restart("root", "demo-ok", approval_id=asked["id"])


@pytest.mark.parametrize(("policy", "words"), [("never", "does not allow"), ("approval", "needs the operator")])
def test_what_is_critical_is_restarted_only_where_the_operator_allows_it(bench: Bench, policy: str, words: str) -> None:
    strict = bench.allowing(policy)
    before = bench.status("root", "demo-ok")["main_pid"]
    for name in ("demo-ok", "demo-ok.service", "sshd"):
        with pytest.raises(Blocked, match=words):
            strict.restart("root", name, approval_id="a-1")
    with pytest.raises(Refused, match="also sshd.service, which the server's file marks critical") as caught:
        strict.restart("root", "ssh")
    assert "Nothing was restarted" in str(caught.value)
    assert strict.restart("root", "demo-echo.socket")["success"] is True
    assert bench.status("root", "demo-ok")["main_pid"] == before
    assert bench.restart("root", "demo-ok")["success"] is True


@pytest.mark.parametrize("rule", ["systemctl restart nginx", "systemctl restart nginx.service"])
def test_a_rule_of_the_operator_for_the_command_holds_for_the_tool(
    systemd_host: SystemdHost, relay_key: KeyPair, short_tmp: Path, rule: str
) -> None:
    config = Config(security=Security(dangerous_commands=(rule,)))
    with fleet_on(short_tmp, relay_key, config) as fleet:
        fleet.add("root", **systemd_host.server("root"))
        strict = Bench(fleet.fleet, fleet.inventory, config)
        with pytest.raises(Blocked):
            strict.restart("root", "nginx")
        assert strict.restart("root", "demo-echo.socket")["success"] is True


# list_services


def test_a_list_begins_with_what_failed_and_leaves_out_what_is_inactive(bench: Bench) -> None:
    found = bench.list("root")
    assert found["services"][0] == {
        "name": "demo-fail.service", "load": "loaded", "active": "failed", "sub": "failed", "description": "Demo service that fails at start",
    }  # fmt: skip
    assert {item["active"] for item in found["services"]} == {"failed", "active"}
    assert found["count"] == len(found["services"]) and "nginx.service" in bench.text
    assert "left out" in found["notice"]


@pytest.mark.parametrize(
    ("filters", "some", "without"),
    [
        ({"state": "failed"}, "demo-fail.service", "nginx.service"),
        ({"state": "running"}, "nginx.service", "demo-fail.service"),
        ({"state": "inactive"}, "demo-tick.service", "nginx.service"),
        ({"state": "masked"}, "console-getty.service", "nginx.service"),
        ({"pattern": "demo-*"}, "demo-tick.service", "nginx.service"),
        ({"pattern": "*.timer"}, "demo-tick.timer", "demo-tick.service"),
        ({"pattern": "demo-*.socket", "state": "active"}, "demo-echo.socket", "demo-tick.timer"),
        ({"state": "all"}, "console-getty.service", "demo-tick.timer"),
    ],
)
def test_a_list_is_filtered_by_state_and_name(bench: Bench, filters: dict[str, str], some: str, without: str) -> None:
    names = [item["name"] for item in bench.list("plain", **filters)["services"]]
    assert some in names and without not in names and len(names) == len(set(names))


def test_an_empty_list_names_the_states_that_there_are(bench: Bench) -> None:
    found = bench.list("root", state="runing")
    assert (found["count"], found["services"]) == (0, []) and "active" in found["notice"]


def test_a_long_list_is_cut_and_counted(bench: Bench) -> None:
    small = Bench(bench._fleet, bench._inventory, Config(security=Security(max_output_bytes=2048)))
    found = small.list("root", state="all")
    assert found["truncated"] and len(found["services"]) < found["count"]
    assert f"of {found['count']} are shown" in found["notice"] and len(json.dumps(found)) <= 2048
    assert found["services"][0]["active"] == "failed"


# A host without systemd: this machine, or containers like it, with Debian's scripts in /etc/init.d


def test_a_plain_host_answers_by_what_it_has_or_names_what_was_looked_for(fleet: TestFleet, sshd: Sshd) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("this machine is run by systemd")
    fleet.add("web", sshd)
    bench = Bench(fleet.fleet, fleet.inventory)
    if not Path("/etc/init.d").is_dir():
        with pytest.raises(FleetShellError, match=r"none of systemd \(/run/systemd/system\), OpenRC"):
            bench.list("web")
        return
    found = bench.list("web", state="all")
    assert found["manager"] == "sysv"
    assert bench.status("web", "no-such-service")["exists"] is False
    for item in found["services"][:2]:
        assert bench.status("web", item["name"])["exists"] is True


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_can_ask(shell: str) -> None:
    for script in (Script("t", STATUS, ("no-such.service", "", "", "5")), Script("t", LIST, ("service", "1"))):
        ran = run_local(shell, script)
        assert (ran.exit_code, ran.stderr) == (0, "") and "manager" in ran.parts


# Small hosts of busybox in a folder. Their SysV scripts are real; OpenRC and runit can't be installed there, so their programs are
# scripts that do what the manuals say of exit status and files.


class SmallHost:
    """In place of a fleet: one host (id `box`) that is a folder with busybox alone, entered without ssh."""

    def __init__(self, folder: Path) -> None:
        busybox = shutil.which("busybox")
        if os.getuid() != 0 or not busybox:
            pytest.skip("needs root and busybox (package busybox-static)")
        self.root = folder / "root"
        for name in ("bin", "proc", "dev", "tmp", "run", "etc"):
            (self.root / name).mkdir(parents=True)
        (self.root / "dev" / "null").touch()
        shutil.copy(busybox, self.root / "bin" / "busybox")
        subprocess.run(["chroot", self.root, "/bin/busybox", "--install", "-s", "/bin"], check=True)
        servers = folder / "servers"
        servers.mkdir(0o700)
        about = {"web": {"log_path": "/run/web.log"}}
        write(servers / "box.conf", {"id": "box", "hostname": "box", "services": about})
        self.bench = Bench(cast(Fleet, self), Inventory(servers))

    def run_script(
        self, caller: Caller, server: Server, script: Script, *, timeout: float, cancelled: Cancellation, keep: int = 1 << 20,
        approval_id: str | None = None,
    ) -> Ran:  # fmt: skip
        enter = 'mount --rbind /proc "$1/proc"; exec chroot "$@"'
        return run_local("busybox", script, before=("unshare", "--mount", "sh", "-euc", enter, "sh", str(self.root)))

    def add(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def stop(self) -> None:
        """End the service that was started."""
        for file in self.root.glob("run/*.pid"):
            process = Path("/proc", file.read_text().strip())
            os.kill(int(process.name), signal.SIGKILL)
            wait_until(lambda process=process: not process.exists(), 10, "the service is gone")  # type: ignore[misc]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallHost]:
    host = SmallHost(tmp_path)
    yield host
    host.stop()


INIT_SCRIPT = """#!/bin/sh
### BEGIN INIT INFO
# Short-Description: A web server
### END INIT INFO
case $1 in
start) sleep 300 & echo $! >/run/web.pid; echo started >>/run/web.log ;;
stop) kill "$(cat /run/web.pid)"; rm /run/web.pid ;;
restart) [ ! -f /run/web.pid ] || "$0" stop; "$0" start ;;
status)
  [ -f /run/web.pid ] || exit 3
  kill -0 "$(cat /run/web.pid)" 2>/dev/null || exit 1 ;;
esac
"""


def test_a_sysv_script_is_asked_for_its_state_and_restarts_what_it_starts(small: SmallHost) -> None:
    small.add("etc/init.d/web", INIT_SCRIPT)
    small.add("etc/rc2.d/S01web", "")
    stopped = small.bench.status("box", "web")
    assert (stopped["manager"], stopped["exists"], stopped["active_state"], stopped["enabled"]) == (
        "sysv",
        True,
        "inactive",
        True,
    )
    done = small.bench.restart("box", "web")
    assert (done["success"], done["before"]["active_state"], done["after"]["active_state"]) == (
        True,
        "inactive",
        "active",
    )
    running = small.bench.status("box", "web")
    pid = int((small.root / "run/web.pid").read_text())
    assert (running["main_pid"], running["description"], running["recent_log"]) == (pid, "A web server", ["started"])
    assert running["memory_bytes"] > 0 and running["since"] and running["log_source"] == "/run/web.log"
    assert small.bench.restart("box", "web")["after"]["main_pid"] != pid
    assert [item["name"] for item in small.bench.list("box")["services"]] == ["web"]
    missing = small.bench.status("box", "wep")
    assert missing["exists"] is False and "Near names: web" in missing["notice"]
    with pytest.raises(NotFound, match="nothing was restarted"):
        small.bench.restart("box", "wep")


def test_a_sysv_script_that_fails_is_a_result_with_what_it_said(small: SmallHost) -> None:
    small.add("etc/init.d/web", "#!/bin/sh\n# status\n[ $1 = status ] && exit 3\necho cannot bind; exit 1\n")
    done = small.bench.restart("box", "web")
    assert (done["success"], done["recent_log"]) == (False, ["cannot bind"])
    assert "exit code was 1" in done["verdict"]


def test_openrc_is_asked_by_exit_status_and_its_links(small: SmallHost) -> None:
    (small.root / "run/openrc/started").mkdir(parents=True)
    (small.root / "run/openrc/failed").mkdir()
    small.add("etc/init.d/web", '#!/sbin/openrc-run\ndescription="A web server"\n')
    small.add("etc/init.d/db", "#!/sbin/openrc-run\n")
    small.add("etc/runlevels/default/web", "")
    small.add("run/openrc/started/web", "")
    small.add("run/openrc/failed/db", "")
    small.add(
        "bin/rc-service",
        "#!/bin/sh\n[ $2 = status ] || { touch /run/restarted-$1; exit 0; }\n[ $1 = web ] || exit 32\n",
    )
    found = small.bench.status("box", "web")
    wanted = {
        "manager": "openrc",
        "active_state": "active",
        "sub_state": "started",
        "enabled": True,
        "description": "A web server",
    }
    assert {key: found[key] for key in wanted} == wanted
    crashed = small.bench.status("box", "db")
    assert (crashed["active_state"], crashed["sub_state"], crashed["enabled"]) == ("failed", "crashed", False)
    listed = small.bench.list("box")["services"]
    assert [(item["name"], item["active"]) for item in listed] == [("db", "failed"), ("web", "active")]
    assert small.bench.restart("box", "web")["success"] is True
    assert (small.root / "run/restarted-web").exists()


def test_runit_is_asked_by_the_files_of_its_supervisor(small: SmallHost) -> None:
    for name, state in (("web", "run"), ("db", "down")):
        small.add(f"etc/service/{name}/supervise/stat", f"{state}\n")
        small.add(f"etc/service/{name}/supervise/pid", "1\n" if state == "run" else "")
    small.add("etc/sv/idle/run", "")
    small.add("bin/sv", '#!/bin/sh\necho "$*" >/run/asked; echo 2 >$2/supervise/pid\n')
    found = small.bench.status("box", "web")
    assert (found["manager"], found["active_state"], found["main_pid"], found["enabled"]) == (
        "runit",
        "active",
        1,
        True,
    )
    assert small.bench.status("box", "db")["active_state"] == "inactive"
    assert small.bench.status("box", "idle")["sub_state"] == "unsupervised"
    assert small.bench.list("box", state="all")["count"] == 3
    assert small.bench.restart("box", "web")["success"] is True
    assert (small.root / "run/asked").read_text() == "restart /etc/service/web\n"


def test_a_host_with_none_of_them_says_what_was_looked_for(small: SmallHost) -> None:
    for call in (small.bench.status, small.bench.restart):
        with pytest.raises(FleetShellError, match=r"OpenRC \(/run/openrc\), runit"):
            call("box", "web")
    with pytest.raises(FleetShellError, match="get_process_list"):
        small.bench.list("box")
