"""`import`: what becomes of ssh configurations and Ansible inventories, and what is skipped with which reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.homes import CliHome, home

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]

SSH = """\
# my hosts
Host bastion
    HostName bastion.example.com
    User jumper
    Port 2200

Host web-1 web-2
    User admin
    ProxyJump bastion
Host web-1
    HostName 10.0.0.1
    Ciphers aes256-ctr
Host=db-1
    HostName=db.example.com
    ProxyJump jumper@bastion.example.com:2200
Host github.com
    User git
Host far
    ProxyCommand nc -x proxy %h %p
Host lost
    ProxyJump nowhere.example.com
Host behind-lost
    ProxyJump lost
Host registered
    HostName new.example.com
Host *.internal !bad
    User internal
Host *
    User everyone
    Compression yes
Include more.d/*.conf
"""

INI = """\
lonely ansible_host=192.0.2.1 ansible_user=me   # a comment
web-old:2222

[web]
web[01:03].example.com
db-[a:b] ansible_port=2200

[web:vars]
ansible_user=deploy
ansible_ssh_common_args='-o ProxyJump=gate@gate.example.com -o Compression=yes'

[gates]
gate ansible_host=gate.example.com ansible_user=gate ansible_ssh_common_args=""

[production:children]
web
gates

[production:vars]
ansible_become=true

[windows]
win-1 ansible_connection=winrm
box ansible_host="{{ secret_address }}"
"""

YAML = """\
all:
  vars: {ansible_user: root}
  hosts:
    localhost: {ansible_connection: local}
  children:
    staging:
      vars: {ansible_port: 2022}
      children:
        mail:
          hosts:
            mail-[1:2].example.com:
            mail-3: {ansible_host: 192.0.2.3, ansible_user: postmaster, ansible_port: 22}
"""


def imported(home: CliHome, path: Path, *more: str, capsys: Captured, code: int = 0) -> dict[str, Any]:
    assert home.run("import", str(path), "--json", *more) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def files(home: CliHome) -> dict[str, Any]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((home.path / "servers").iterdir())}


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_an_ssh_configuration_is_read_by_ssh_itself(home: CliHome, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "more.d").mkdir()
    written(tmp_path, "more.d/one.conf", "Host included\n  HostName included.example.com\n")
    home.write("registered", "id: registered\nhostname: old.example.com\n")
    path = written(tmp_path, "config", SSH.replace("more.d", str(tmp_path / "more.d")))
    result = imported(home, path, capsys=capsys)
    assert files(home) == {
        "bastion": {"id": "bastion", "hostname": "bastion.example.com", "ssh_user": "jumper", "ssh_port": 2200, "ssh_options": {"Compression": "yes"}},
        "db-1": {"id": "db-1", "hostname": "db.example.com", "ssh_user": "everyone", "ssh_options": {"Compression": "yes"}, "jump": "bastion"},
        "included": {"id": "included", "hostname": "included.example.com", "ssh_user": "everyone", "ssh_options": {"Compression": "yes"}},
        "registered": {"id": "registered", "hostname": "old.example.com"},
        "web-1": {"id": "web-1", "hostname": "10.0.0.1", "ssh_user": "admin",
                  "ssh_options": {"Ciphers": "aes256-ctr", "Compression": "yes"}, "jump": "bastion"},
        "web-2": {"id": "web-2", "hostname": "web-2", "ssh_user": "admin", "ssh_options": {"Compression": "yes"}, "jump": "bastion"},
    }  # fmt: skip
    reasons = {skip["name"]: skip["reason"] for skip in result["skipped"]}
    assert list(reasons) == ["github.com", "far", "lost", "behind-lost", "registered"]
    assert "keeps code" in reasons["github.com"] and "nc -x proxy" in reasons["far"]
    assert "nowhere.example.com" in reasons["lost"] and reasons["behind-lost"] == "its jump server lost was skipped"
    assert "already a server" in reasons["registered"]
    assert "*.internal, !bad" in result["remarks"][0]
    assert home.events() == ["server_added"] * 5
    assert home.run("list") == 0
    assert "Disabled" not in capsys.readouterr().out


def test_a_dry_run_says_the_same_and_changes_nothing(home: CliHome, tmp_path: Path, capsys: Captured) -> None:
    path = written(tmp_path, "inventory.ini", INI)
    planned = imported(home, path, "--dry-run", capsys=capsys)
    assert files(home) == {} and home.audit() == []
    done = imported(home, path, capsys=capsys)
    assert (planned["dry_run"], done["dry_run"]) == (True, False)
    assert {**planned, "dry_run": False} == done
    assert [server["id"] for server in done["added"]] == list(dict.fromkeys(server["id"] for server in done["added"]))


def test_an_ini_inventory_gives_groups_ranges_variables_and_jumps(
    home: CliHome, tmp_path: Path, capsys: Captured
) -> None:
    result = imported(home, written(tmp_path, "hosts", INI), capsys=capsys)
    found = files(home)
    web = {
        "ssh_user": "deploy",
        "tags": ["production", "web"],
        "context": {"environment": "production"},
        "sudo": True,
        "jump": "gate",
    }
    assert found == {
        "lonely": {"id": "lonely", "hostname": "192.0.2.1", "ssh_user": "me"},
        "web-old": {"id": "web-old", "hostname": "web-old", "ssh_port": 2222},
        **{f"web0{n}.example.com": {"id": f"web0{n}.example.com", "hostname": f"web0{n}.example.com", **web} for n in (1, 2, 3)},
        **{f"db-{n}": {"id": f"db-{n}", "hostname": f"db-{n}", "ssh_port": 2200, **web} for n in "ab"},
        "gate": {"id": "gate", "hostname": "gate.example.com", "ssh_user": "gate", "tags": ["production", "gates"],
                 "context": {"environment": "production"}, "sudo": True},
    }  # fmt: skip
    assert {skip["name"]: skip["reason"] for skip in result["skipped"]} == {
        "win-1": "it is reached by winrm, not by ssh",
        "box": "a template stands there which only Ansible can fill in: {{ secret_address }}",
    }


def test_a_yaml_inventory_gives_the_innermost_variables(home: CliHome, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "group_vars").mkdir()
    result = imported(home, written(tmp_path, "inventory.yml", YAML), capsys=capsys)
    mail = {"ssh_user": "root", "ssh_port": 2022, "tags": ["staging", "mail"], "context": {"environment": "staging"}}
    assert files(home) == {
        **{f"mail-{n}.example.com": {"id": f"mail-{n}.example.com", "hostname": f"mail-{n}.example.com", **mail} for n in (1, 2)},
        "mail-3": {"id": "mail-3", "hostname": "192.0.2.3", "ssh_user": "postmaster", "tags": ["staging", "mail"], "context": {"environment": "staging"}},
    }  # fmt: skip
    assert [skip["name"] for skip in result["skipped"]] == ["localhost"]
    assert "group_vars" in result["remarks"][0]


def test_a_second_import_adds_what_is_new_alone(home: CliHome, tmp_path: Path, capsys: Captured) -> None:
    path = written(tmp_path, "hosts", "[web]\nweb-1\n")
    assert home.run("import", str(path)) == 0
    shown = capsys.readouterr().out
    assert "web-1" in shown and "1 added" in shown and "pubkey --install --all" in shown
    home.write("web-1", "id: web-1\nhostname: changed.example.com\n")
    path.write_text("[web]\nweb-1\nweb-2\n")
    assert home.run("import", str(path)) == 0
    shown = capsys.readouterr().out
    assert "web-1: there is already a server" in shown and "1 added" in shown and "1 skipped" in shown
    assert files(home)["web-1"]["hostname"] == "changed.example.com"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[web]\nweb-1 and some prose\n", "line 2"),
        ("[web:nonsense]\n", "[web:nonsense]"),
        ("[web]\nweb[3:1]\n", "runs backwards"),
        ("[web]\nweb[1:99999999]\n", "more than 10000"),
        ("all:\n  hosts: [a, b]\n", "line 2"),
        ("all:\n  hosts:\n    a: !vault x\n", "line 3"),
    ],
)
def test_what_is_no_inventory_is_named_by_its_line(
    home: CliHome, tmp_path: Path, text: str, said: str, capsys: Captured
) -> None:
    assert home.run("import", str(written(tmp_path, "hosts", text))) == 3
    assert said in capsys.readouterr().err
    assert files(home) == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("bad_host! ansible_user=x", "no id"),
        ("web-1 ansible_port=99999", "ssh_port"),
        ("web-1 ansible_host=-oProxyCommand=x", "hostname"),
        ("web-1 ansible_user='a b'", "ssh_user"),
    ],
)
def test_a_host_that_can_not_be_written_is_skipped_alone(
    home: CliHome, tmp_path: Path, line: str, reason: str, capsys: Captured
) -> None:
    result = imported(home, written(tmp_path, "hosts", f"[web]\n{line}\ngood\n"), capsys=capsys)
    assert reason in result["skipped"][0]["reason"]
    assert list(files(home)) == ["good"]


def test_a_missing_file_is_said(home: CliHome, tmp_path: Path, capsys: Captured) -> None:
    assert home.run("import", str(tmp_path / "none")) == 3
    assert "none can't be read: No such file" in capsys.readouterr().err
