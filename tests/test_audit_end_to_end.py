"""The audit log of a real relay: sealed at its start, signed at its end, without the secrets of commands, kept in rotated files."""

from __future__ import annotations

from pathlib import Path

from support.mcp_client import connected
from support.relay import RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.audit_reading import read


def test_a_relay_seals_masks_rotates_and_signs_its_audit_log(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> None:
    home = make_home(tmp_path / "home", relay_key.private)
    home.run("auth", "disable")
    home.add("web-1", sshd)
    config = home.path / "config.yaml"
    config.write_text(config.read_text().replace("security:\n", "security:\n  audit_max_bytes: 4000\n"))
    log = home.path / "logs" / "audit.log"
    with log.open("ab") as file:
        file.write(b'{"timestamp":"20')
    relay = RelayProcess(home)
    assert [record["event"] for record in read(log)][-1] == "recovered"
    with connected(relay) as client:
        for number in range(8):
            done = client.call("execute_command", server_id="web-1", command=f"echo {number}; : --password hunter2")
            assert done["structuredContent"]["stdout"] == f"{number}\n"
    assert relay.stop() == 0
    files = [log, *sorted(log.parent.glob("audit.log.[0-9]"))]
    assert len(files) > 2 and not any("hunter2" in path.read_text() for path in files)
    assert "hunter2" not in (home.path / "logs" / "relay.log").read_text()
    verified = home.run("audit", "verify").stdout
    assert "intact" in verified and "are signed" in verified and "sealed by" in verified
    assert home.run("audit", "-n", "100", "--event", "started").stdout.count("--password ***") == 8
