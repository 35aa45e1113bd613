"""`service` on a real systemd: the unit is installed, starts, reloads, stops, is upgraded, comes back after a reboot, and is tight."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.mcp_client import Client, connected
from support.processes import wait_until
from support.relay import PROGRAM
from support.sshd import KeyPair, free_port
from support.systemd_host import CannotRun, SystemdHost

HOME = "/home/fleetshell/.fleetshell"
CLI = f"fleetshell --home {HOME}"


class Installed:
    """The single file on a systemd host, with a home of the user `fleetshell` and the unit that `service` printed.

    It has what `connected` wants to know of a relay.
    """

    scheme = "https"

    def __init__(self, host: SystemdHost, pyz: Path, key: KeyPair, folder: Path) -> None:
        self.host = host
        self.certificate = folder / "cert.pem"
        self.port = free_port([host.address])
        host.put(pyz, "/usr/local/bin/fleetshell", "755")
        self.run("useradd --create-home --shell /bin/bash fleetshell")
        self.run("sudo -iu fleetshell fleetshell init --hostname localhost")
        self.run(f"sed -i 's/port: 8080/port: {self.port}/' {HOME}/config.yaml")
        self.run(f"sed -i 's/^  enabled: true/  enabled: false/' {HOME}/config.yaml")
        for file in (key.private, key.public):
            host.put(file, f"{HOME}/relay.{'pub' if file == key.public else 'key'}", "600")
        self.run(f"{CLI} add-server --id self --hostname {host.address} --port {host.port} --user plain")
        self.run(f"{CLI} service >/etc/systemd/system/fleetshell.service")
        self.run("systemctl daemon-reload && systemctl enable --now fleetshell")
        self.certificate.write_text(self.run(f"cat {HOME}/certs/cert.pem"))

    def run(self, command: str) -> str:
        return self.host.run("root", command)

    def fails(self, user: str, command: str) -> str:
        """What a command that fails says."""
        return self.host.run(user, f"if {command} 2>&1; then echo IT WORKED; fi")

    def show(self, name: str) -> str:
        return self.run(f"systemctl show -p {name} --value fleetshell").strip()

    def journal(self) -> str:
        return self.run("journalctl -u fleetshell -o cat --no-pager")

    @property
    def api_key(self) -> str:
        return str(yaml.safe_load(self.run(f"cat {HOME}/config.yaml"))["relay"]["http"]["auth"]["api_key"])

    @property
    def home(self) -> Installed:
        return self


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "fleetshell.pyz"
    subprocess.run([*PROGRAM, "bundle", str(path)], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def installed(pyz: Path, relay_key: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("service")
    try:
        host = SystemdHost(folder / "host", relay_key, keeps_files=True)
    except CannotRun as error:
        pytest.skip(str(error))
    try:
        yield Installed(host, pyz, relay_key, folder)
    finally:
        host.stop()


@pytest.fixture
def client(installed: Installed) -> Iterator[Client]:
    with connected(installed) as made:
        yield made


def test_the_service_runs_as_the_homes_owner_and_said_itself_that_it_is_ready(installed: Installed) -> None:
    assert installed.show("ActiveState") == "active"
    assert installed.show("StatusText") == f"Serves https://0.0.0.0:{installed.port}/mcp"
    pid = installed.show("MainPID")
    assert installed.run(f"stat -c %U /proc/{pid}").strip() == "fleetshell"


def test_the_units_exposure_is_below_three(installed: Installed) -> None:
    verdict = installed.run("systemd-analyze security --no-pager fleetshell").splitlines()[-1]
    found = re.search(r"exposure level for fleetshell.service: ([0-9.]+)", verdict)
    assert found, verdict
    assert float(found[1]) < 3.0


def test_systemd_finds_no_fault_in_the_unit(installed: Installed) -> None:
    assert (
        installed.run("systemd-analyze verify /etc/systemd/system/fleetshell.service 2>&1 | grep fleetshell || true")
        == ""
    )


def test_the_journal_gets_each_line_with_its_priority_and_without_our_time(installed: Installed) -> None:
    lines = [json.loads(line) for line in installed.run("journalctl -u fleetshell -o json --no-pager").splitlines()]
    ours = {line["MESSAGE"]: line["PRIORITY"] for line in lines if line.get("_COMM", "").startswith("python")}
    serving = next(message for message in ours if "serves https://" in message)
    assert serving.startswith("FleetShell ") and ours[serving] == "6"
    assert ours[next(message for message in ours if "MFA is disabled" in message)] == "4"


def test_commands_run_through_the_service(client: Client) -> None:
    done = client.call("execute_command", server_id="self", command="id -un")
    assert done["structuredContent"]["stdout"] == "plain\n"


def test_the_relay_can_write_its_home_alone(installed: Installed) -> None:
    inside = f"nsenter --target {installed.show('MainPID')} --mount setpriv --reuid fleetshell --clear-groups"
    assert "Read-only file system" in installed.fails("root", f"{inside} touch /home/fleetshell/x")
    as_root = inside.replace("--reuid fleetshell --clear-groups", "--")
    for path in ("/etc/x", "/usr/local/bin/fleetshell", "/var/log/x"):
        assert "Read-only file system" in installed.fails("root", f"{as_root} touch {path}")
    installed.run(f"{inside} touch {HOME}/x && rm {HOME}/x")
    installed.run("touch /tmp/of-the-host")
    assert "No such file" in installed.fails("root", f"{inside} ls /tmp/of-the-host")


def test_root_and_an_admin_use_the_cli_while_the_relay_runs_as_its_own_user(installed: Installed) -> None:
    for command in ("status", "list", "test self"):
        installed.run(f"{CLI} {command}")
    installed.run(f"{CLI} add-server --id other --hostname 192.0.2.1 --user x --no-verify")
    assert installed.run(f"find {HOME} ! -user fleetshell") == ""
    installed.run(f"{CLI} remove other")
    assert "run `sudo -u fleetshell fleetshell …` instead" in installed.fails("admin", f"{CLI} status")
    assert "running since" in installed.host.run("admin", "sudo -u fleetshell fleetshell status")
    assert "running since" in installed.host.run("admin", f"sudo {CLI} status")


def test_a_file_that_the_owner_cannot_read_is_named(installed: Installed) -> None:
    installed.run("install -m 700 /usr/local/bin/fleetshell /root/fleetshell.pyz")
    said = installed.fails("root", f"/root/fleetshell.pyz --home {HOME} list")
    assert "who can't read this installation of FleetShell (/root/fleetshell.pyz)" in said


def test_the_lines_of_sudoers_let_the_tools_work_and_no_more(installed: Installed, client: Client) -> None:
    host = installed.host
    installed.run(f"{CLI} add-server --id web --hostname {host.address} --port {host.port} --user plain")
    installed.run(f"printf 'sudo: true\\nservices: {{nginx: {{}}}}\\n' >>{HOME}/servers/web.conf")
    installed.run(f"{CLI} service --sudoers >/etc/sudoers.d/fleetshell && visudo -cf /etc/sudoers.d/fleetshell")
    restarted = client.call("restart_service", server_id="web", service_name="nginx")["structuredContent"]
    assert restarted["success"] and restarted["recent_log"]
    lines = client.call("tail_logs", server_id="web", service="demo-ok")["structuredContent"]["lines"]
    assert any("demo" in line for line in lines), lines
    for command in (
        "systemctl restart cron",
        "sh -c id",
        "journalctl -n 1",
        "systemctl --no-block restart cron.service",
    ):
        assert "password is required" in installed.fails("plain", f"sudo -n {command}"), command
    installed.run(f"rm /etc/sudoers.d/fleetshell && {CLI} remove web")


def test_systemctl_reload_takes_a_good_configuration_and_reports_a_bad_one(installed: Installed) -> None:
    installed.run("systemctl reload fleetshell")
    installed.run(f"cp -p {HOME}/config.yaml /root/config.yaml && echo 'nonsense: 1' >>{HOME}/config.yaml")
    assert "IT WORKED" not in installed.fails("root", "systemctl reload fleetshell")
    installed.run(f"cp -p /root/config.yaml {HOME}/config.yaml && systemctl reload fleetshell")
    assert installed.show("ActiveState") == "active"
    assert "nonsense" in installed.journal()


def test_a_stop_gives_a_running_command_its_time(installed: Installed, client: Client) -> None:
    command = "touch /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; touch /tmp/finished"
    answers: list[Any] = []
    calling = threading.Thread(
        target=lambda: answers.append(client.call("execute_command", server_id="self", command=command))
    )
    calling.start()
    wait_until(lambda: "/tmp/begun" in installed.run("ls /tmp/begun || true"), 20, "the command has begun")
    installed.run("systemctl --no-block stop fleetshell")
    wait_until(lambda: installed.show("ActiveState") == "deactivating", 20, "it is stopping")
    installed.run("touch /tmp/go")
    calling.join()
    client.session = ""  # there is no relay any more to end it
    assert answers[0]["structuredContent"]["exit_code"] == 0
    wait_until(lambda: installed.show("ActiveState") == "inactive", 20, "it has stopped")
    assert (
        installed.run("rm /tmp/finished && systemctl start fleetshell && systemctl is-active fleetshell") == "active\n"
    )
    assert installed.show("Result") == "success"


def test_a_relay_that_stands_still_is_started_again(installed: Installed) -> None:
    folder = "/run/systemd/system/fleetshell.service.d"
    installed.run(f"mkdir -p {folder} && printf '[Service]\\nWatchdogSec=2\\nRestartSec=0\\n' >{folder}/quick.conf")
    installed.run("systemctl daemon-reload && systemctl restart fleetshell")
    before = installed.show("NRestarts")
    installed.run(f"kill -STOP {installed.show('MainPID')}")
    wait_until(lambda: installed.show("NRestarts") != before, 30, "the watchdog has ended it")
    wait_until(lambda: installed.show("ActiveState") == "active", 30, "it runs again")
    installed.run(f"rm -r {folder} && systemctl daemon-reload && systemctl restart fleetshell")


def test_a_new_file_and_a_restart_are_an_upgrade(installed: Installed, pyz: Path) -> None:
    installed.host.put(pyz, "/usr/local/bin/fleetshell.new", "755")
    installed.run("mv /usr/local/bin/fleetshell.new /usr/local/bin/fleetshell && systemctl restart fleetshell")
    with connected(installed) as client:
        assert client.call("list_servers")["structuredContent"]["count"] == 1
    assert installed.run(f"{CLI} audit verify").startswith("The audit log is intact")


def test_the_service_comes_back_after_a_reboot_of_its_host(installed: Installed) -> None:
    installed.host.reboot()
    wait_until(lambda: installed.show("ActiveState") == "active", 30, "the service is active")
    with connected(installed) as client:
        done = client.call("execute_command", server_id="self", command="echo back")
    assert done["structuredContent"]["stdout"] == "back\n"
