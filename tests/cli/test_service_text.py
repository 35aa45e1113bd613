"""The text of the unit and of sudoers, for homes and servers of all kinds; `test_service` runs it on a real systemd."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.homes import CliHome, home, make_cli_home  # noqa: F401  # a fixture
from support.sshd import KeyPair, Sshd

from fleetshell_tools.cli import service
from fleetshell_tools.core import installation
from fleetshell_tools.core.config import Defaults
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """FleetShell is installed for all, and no folder is hidden from a service."""
    monkeypatch.setattr(installation, "program", lambda: ["/usr/bin/python3", "/opt/fleet shell/100%.pyz"])
    monkeypatch.setattr(service, "_check_place", lambda found: None)


def test_paths_with_blanks_and_percent_signs_are_written_as_systemd_reads_them(
    tmp_path: Path, relay_key: KeyPair, elsewhere: None, capsys: Captured
) -> None:
    made = make_cli_home(tmp_path / "my home", relay_key)
    assert made.run("service") == 0
    unit = capsys.readouterr().out
    assert f'ExecStart=/usr/bin/python3 "/opt/fleet shell/100%%.pyz" --home "{made.path}" serve\n' in unit
    assert f'ReadWritePaths="{made.path}"\n' in unit
    assert f"WorkingDirectory={made.path}\n" in unit


def test_logs_outside_the_home_can_be_written_and_a_low_port_gets_its_capability(
    tmp_path: Path, relay_key: KeyPair, elsewhere: None, capsys: Captured
) -> None:
    config = 'relay:\n  log_file: /srv/logs/relay.log\n  stop_seconds: 120\n  http: {port: 443, auth: {api_key: "0123456789abcdef"}}\n'
    made = make_cli_home(tmp_path / "home", relay_key, config)
    assert made.run("service") == 0
    unit = capsys.readouterr().out
    assert f"ReadWritePaths={made.path} /srv/logs\n" in unit
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in unit
    assert "TimeoutStopSec=150\n" in unit


def test_the_lines_of_the_product_stay(home: CliHome, elsewhere: None, capsys: Captured) -> None:  # noqa: F811
    assert home.run("service") == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "Description=FleetShell MCP Relay Server", "Restart=always", "RestartSec=5", "NoNewPrivileges=yes", "PrivateTmp=yes",
        "ProtectSystem=strict", "ProtectHome=read-only", "WantedBy=multi-user.target",
    ):  # fmt: skip
        assert line in lines


def test_a_users_own_unit_has_nothing_that_needs_root(home: CliHome, elsewhere: None, capsys: Captured) -> None:  # noqa: F811
    assert home.run("service", "--user") == 0
    unit, hint = capsys.readouterr()
    assert "WantedBy=default.target" in unit and "NoNewPrivileges=yes" in unit
    assert not [word for word in ("User=", "ProtectHome", "ReadWritePaths", "CapabilityBoundingSet") if word in unit]
    assert "systemctl --user enable" in hint and "enable-linger" in hint


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp"])
def test_a_place_that_a_service_does_not_see_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "evidence", lambda: Path("/usr/local/bin/fleetshell"))
    with pytest.raises(FleetShellError, match=f"lies in {folder}"):
        service._check_place(Home(Path(folder, "home")))


def test_sudoers_names_the_logins_and_the_services_of_the_servers(home: CliHome, sshd: Sshd) -> None:  # noqa: F811
    home.write("web", "id: web\nhostname: a\nssh_user: deploy\nservices: {nginx: {}, app@1: {unit: 'app@1.service'}}\n")
    home.write("db", "id: db\nhostname: b\nssh_user: 'DOM\\admin'\nservices: {nginx: {}}\n")
    home.write("old", "id: old\nhostname: c\nssh_user: root\n")
    text = service.sudoers(Inventory(home.path / "servers", Defaults()))
    assert "DOM\\\\admin, deploy ALL=(root) NOPASSWD: /usr/bin/systemctl --no-block restart nginx.service\n" in text
    assert "restart app\\@1.service\n" in text
    assert "root ALL" not in text
    assert [line for line in text.splitlines() if line.endswith("NOPASSWD: ALL")] == [
        "#DOM\\\\admin, deploy ALL=(root) NOPASSWD: ALL"
    ]


def test_sudoers_without_servers_shows_a_line_to_fill_in(home: CliHome, capsys: Captured) -> None:  # noqa: F811
    assert home.run("service", "--sudoers") == 0
    assert "#LOGIN ALL=(root) NOPASSWD: /usr/bin/systemctl --no-block restart nginx.service" in capsys.readouterr().out
    assert home.run("service", "--sudoers", "--user") == 2
