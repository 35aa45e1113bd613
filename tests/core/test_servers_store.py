"""The inventory: what a server's file may say, one bad file among good ones, changes on disk, jumps, and selecting servers."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.core import servers, yamlfile
from fleetshell_tools.core.config import Defaults
from fleetshell_tools.core.errors import BadArgument, ConfigError, NotFound
from fleetshell_tools.core.servers import Inventory, Server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")

MAIL = """\
# servers/mail-prod-01.conf
id: mail-prod-01
hostname: mail.example.com
ssh_user: admin
ssh_port: 22
tags: [production, mail-server, ispconfig]
context:
  description: "Primary email server running Postfix, Dovecot, and ISPConfig"
  purpose: "Handles all outbound email and 50+ mailboxes"
  environment: production
  critical_level: high
  notes: |
    - Backup runs nightly at 2am
services:
  postfix: {description: "SMTP server", log_path: /var/log/mail.log, config_path: /etc/postfix/main.cf, port: 25, critical: true,
            common_issues: ["Queue backup = check disk space"]}
  dovecot: {description: "IMAP/POP3 server", log_path: /var/log/dovecot.log, ports: [993, 143], critical: true}
paths: {mail_data: /var/vmail, backups: /backup/mail, logs: /var/log}
troubleshooting: {check_queue: "mailq", flush_queue: "postfix flush"}
monitoring: {key_metrics: ["Mail queue size", "Disk usage on /var/vmail"]}
"""
"""The example of the contract, section 4."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "servers"
    path.mkdir(0o700)
    return path


@pytest.fixture
def add(folder: Path) -> Callable[..., Path]:
    """Write a server's file: `add("web-1", tags="[a]")`; a text of its own replaces all."""

    def write(name: str, text: str | None = None, **keys: object) -> Path:
        path = folder / f"{name}.conf"
        lines = {"id": name, "hostname": f"{name}.example.com", **keys}
        path.write_text(
            text if text is not None else "".join(f"{key}: {value}\n" for key, value in lines.items()), encoding="utf-8"
        )
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def inventory(folder: Path) -> Inventory:
    return Inventory(folder)


def parse(keys: str, name: str = "web") -> Server:
    return servers.parse(f"id: {name}\nhostname: h\n{keys}", "web.conf", name)


def ids(found: list[Server]) -> list[str]:
    return [server.id for server in found]


def test_the_contracts_example_is_read_as_it_stands(
    folder: Path, add: Callable[..., Path], inventory: Inventory
) -> None:
    add("mail-prod-01", MAIL)
    server = inventory.get("mail-prod-01")
    assert inventory.problems() == {}
    assert (server.hostname, server.ssh_user, server.ssh_port) == ("mail.example.com", "admin", 22)
    assert server.tags == ("production", "mail-server", "ispconfig")
    assert (server.environment, server.purpose) == ("production", "Handles all outbound email and 50+ mailboxes")
    assert server.context["notes"] == "- Backup runs nightly at 2am\n"
    assert server.services["postfix"] == {
        "description": "SMTP server", "log_path": "/var/log/mail.log", "config_path": "/etc/postfix/main.cf", "port": 25, "critical": True,
        "common_issues": ["Queue backup = check disk space"],
    }  # fmt: skip
    assert server.services["dovecot"]["ports"] == [993, 143]
    assert server.paths == {"mail_data": "/var/vmail", "backups": "/backup/mail", "logs": "/var/log"}
    assert server.troubleshooting == {"check_queue": "mailq", "flush_queue": "postfix flush"}
    assert server.monitoring == {"key_metrics": ["Mail queue size", "Disk usage on /var/vmail"]}


def test_the_smallest_file_is_an_id_and_a_hostname(add: Callable[..., Path], inventory: Inventory) -> None:
    add("web")
    server = inventory.get("web")
    assert (server.environment, server.purpose, server.tags, inventory.port(server), inventory.user(server)) == (
        "",
        "",
        (),
        22,
        None,
    )
    assert server.section("services") == {}


def test_one_bad_file_disables_that_server_alone_and_says_why(add: Callable[..., Path], inventory: Inventory) -> None:
    add("a")
    path = add("b", hostnam="x")
    add("c")
    assert ids(inventory.all()) == ["a", "c"]
    assert inventory.ids() == ["a", "b", "c"]
    assert list(inventory.problems()) == ["b"]
    assert inventory.problems()["b"].startswith(f'{path}, line 3: unknown key "hostnam". Did you mean "hostname"?')
    with pytest.raises(ConfigError, match="The server b is disabled because its file is invalid: .*hostnam"):
        inventory.get("b")


def bad(inventory: Inventory) -> str:
    (problem,) = inventory.problems().values()
    return problem


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("id: web\nhostname: [a\n", 3, "expected"),
        ("id: web\nhostname: h\nid: web\n", 3, "twice"),
        ("id: web\nhostname: &a h\n", 2, "anchors and aliases"),
        ("id: other\nhostname: h\n", 1, 'id is "other", but the file is named web.conf'),
        ("hostname: h\n", 1, '"id" is missing'),
        ("id: web\n", 1, '"hostname" is missing'),
        ("", 1, "is missing"),
        ("id: web\nhostname: h\nssh_port: 70000\n", 3, "from 1 to 65535"),
        ("id: web\nhostname: h\nssh_port: 0\n", 3, "from 1 to 65535"),
        ("id: web\nhostname: h\nssh_port: ssh\n", 3, "whole number"),
        ("id: web\nhostname: h\ntags: production\n", 3, "tags must be a list"),
        ("id: web\nhostname: h\ntags: [a, '']\n", 3, "is empty or longer"),
        (f"id: web\nhostname: h\ntags: [{'x' * 65}]\n", 3, "longer than 64"),
        ("id: web\nhostname: h\njump: web\n", 3, "its own jump server"),
        ("id: web\nhostname: h\njump: -x\n", 3, "a server's id"),
        ("id: web\nhostname: h\ncontext: text\n", 3, "context must be a map"),
        ("id: web\nhostname: h\nservices: [a]\n", 3, "services must be a map"),
        ("id: web\nhostname: h\ncontext:\n  services: [a]\n", 4, "context.services must be a map"),
        ("id: web\nhostname: h\nconnect_timeout: 0\n", 3, "from 1 to 300"),
        ("id: web\nhostname: h\nconnection: telnet\n", 3, "allowed: ssh"),
        ("id: web\nhostname: h\nssh_options: [a]\n", 3, "must be a map"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(
    text: str, line: int, words: str, add: Callable[..., Path], inventory: Inventory
) -> None:
    path = add("web", text)
    assert bad(inventory).startswith(f"{path}, line {line}: ")
    assert words in bad(inventory)


@pytest.mark.parametrize("name", ["a", "0", "web-prod-01", "a.b_c-d", "A" * 64])
def test_a_good_id_is_accepted(name: str, add: Callable[..., Path], inventory: Inventory) -> None:
    add(name, f"id: '{name}'\nhostname: h\n")
    assert ids(inventory.all()) == [name]


@pytest.mark.parametrize("name", ["-a", "_a", "a b", "a;b", "ä", "a" * 65, "a$b", "a\nb", "%a"])
def test_a_file_whose_name_is_no_id_is_disabled(name: str, add: Callable[..., Path], inventory: Inventory) -> None:
    add(name, yamlfile.dump({"id": name, "hostname": "h"}))
    assert inventory.all() == []
    assert "no valid id" in bad(inventory)


def test_files_that_are_no_server_files_are_ignored(
    folder: Path, add: Callable[..., Path], inventory: Inventory
) -> None:
    for name in ("README", "web.conf~", "web.conf.bak", ".web.conf", ".web.conf.0123.tmp", ".conf"):
        (folder / name).write_text("nonsense: [")
    add("a")
    assert inventory.ids() == ["a"]


@pytest.mark.parametrize(
    "hostname",
    ["h", "web.example.com", "web.example.com.", "WEB_1", "10.0.0.1", "::1", "[::1]", "2001:db8::1", "[2001:db8::1]", "fe80::1%eth0", "[fe80::1%eth0.1]",
     "::ffff:10.0.0.1", "xn--mnchen-3ya.de", "a" * 63 + ".example"],
)  # fmt: skip
def test_a_host_name_or_address_is_accepted(hostname: str) -> None:
    assert servers.parse(f"id: web\nhostname: '{hostname}'\n", "web.conf").hostname == hostname


@pytest.mark.parametrize(
    "hostname",
    ["-oProxyCommand=id", "-", "a b", " a", "a ", "a\nb", "a\n", "a\tb", "a;id", "$(id)", "`id`", "a/b", "user@h", "a'b", 'a"b', "a\\b", "h:22", "a:b", "",
     "[::1", "::1]", "[a]", "[10.0.0.1]", ":::", "1:2", "::1%eth 0", "::1%", "a..b", ".a", "..", "%h", "a%b", "ä.de", "a" * 254, "::1\n", "*", "!h"],
)  # fmt: skip
def test_anything_else_is_no_host_name(hostname: str) -> None:
    with pytest.raises(ConfigError, match=r"^web.conf, line 2: .*hostname"):
        servers.parse(f"id: web\nhostname: {yamlfile.scalar(hostname)}\n", "web.conf")


@given(st.text(max_size=20))
def test_no_host_name_can_be_taken_for_an_option_or_hold_a_space_or_a_control_character(hostname: str) -> None:
    try:
        got = servers.parse(f"id: web\nhostname: {yamlfile.scalar(hostname)}\n", "web.conf").hostname
    except ConfigError:
        return
    assert got == hostname
    assert re.fullmatch(r"[A-Za-z0-9_.:%\[\]-]+", got)
    assert not got.startswith("-")


@pytest.mark.parametrize("user", ["root", "_apt", "deploy-1", "first.last", "DOMAIN\\user", "me@corp", "0"])
def test_a_user_name_is_accepted(user: str) -> None:
    assert parse(f"ssh_user: '{user}'\n").ssh_user == user


@pytest.mark.parametrize("user", ["-l", "a b", "a\n", "a;b", "$(id)", "", "%r", "a:b", "a" * 65, "ä"])
def test_anything_else_is_no_user_name(user: str) -> None:
    with pytest.raises(ConfigError, match=r"^web.conf, line 3: ssh_user is \".*\"; allowed: a user name"):
        parse(f"ssh_user: {yamlfile.scalar(user)}\n")


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("User", "`ssh_user`"), ("port", "`ssh_port`"), ("HOSTNAME", "`hostname`"), ("IdentityFile", "`identity_file`"), ("proxyJump", "`jump`"),
        ("ConnectTimeout", "`connect_timeout`"), ("ServerAliveInterval", "`ssh.alive_interval` in config.yaml"),
    ],
)  # fmt: skip
def test_an_option_with_a_key_of_its_own_is_refused_by_name_with_that_key(option: str, instead: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"ssh_options:\n  Compression: yes\n  {option}: x\n")
    assert caught.value.message.startswith(
        f"web.conf, line 5: the ssh option {option} is set by FleetShell itself; use "
    )
    assert instead in caught.value.message


@pytest.mark.parametrize(
    "option",
    ["BatchMode", "ControlMaster", "controlpath", "CONTROLPERSIST", "RequestTTY", "RemoteCommand", "LocalCommand", "PermitLocalCommand", "ProxyCommand",
     "UserKnownHostsFile", "GlobalKnownHostsFile", "StrictHostKeyChecking", "HostKeyAlias", "UpdateHostKeys", "VerifyHostKeyDNS", "CheckHostIP",
     "LocalForward", "RemoteForward", "DynamicForward", "ForwardAgent", "ForwardX11", "Tunnel", "ClearAllForwardings", "IdentitiesOnly", "IdentityAgent",
     "KnownHostsCommand", "PKCS11Provider", "SecurityKeyProvider", "Include", "Match", "Host", "SendEnv", "SessionType", "ForkAfterAuthentication"],
)  # fmt: skip
def test_an_option_that_the_engine_owns_is_refused_by_name(option: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"line 4: the ssh option {option} is set by FleetShell itself and can't be changed here"
    ):
        parse(f"ssh_options:\n  {option}: x\n")


@pytest.mark.parametrize(
    ("key", "value"),
    [("a b", "x"), ("-o", "x"), ("", "x"), ("Ciphers=x ProxyCommand", "x"), ("Ciphers\nProxyCommand", "x"), ("=", "x")],
)
def test_what_is_no_name_of_an_option_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of an ssh option"):
        parse(f"ssh_options: {{{yamlfile.scalar(key)}: {value}}}\n")


@pytest.mark.parametrize("value", ["x\n  ProxyCommand id", "x\0", "x\r", "\x1b[0m", "\x7f"])
def test_an_options_value_can_not_bring_a_second_option(value: str) -> None:
    with pytest.raises(ConfigError, match=r"line 4: .*(control character|NUL)"):
        parse(f"ssh_options:\n  Ciphers: {yamlfile.scalar(value)}\n")


def test_other_options_are_kept_as_text() -> None:
    server = parse(
        "ssh_options: {Compression: yes, KexAlgorithms: +diffie-hellman-group14-sha1, RekeyLimit: 1, TCPKeepAlive: true}\n"
    )
    assert server.ssh_options == {
        "Compression": "yes",
        "KexAlgorithms": "+diffie-hellman-group14-sha1",
        "RekeyLimit": "1",
        "TCPKeepAlive": "true",
    }


@pytest.mark.parametrize("section", servers.SECTIONS)
def test_a_section_may_stand_at_the_top_or_under_context_or_at_both(section: str) -> None:
    assert parse(f"{section}: {{a: 1}}\n").section(section) == {"a": 1}
    assert parse(f"context: {{{section}: {{a: 1}}}}\n").section(section) == {"a": 1}
    assert parse(f"context: {{{section}: {{a: 1, b: 2}}}}\n{section}: {{a: 3}}\n").section(section) == {"a": 3, "b": 2}
    assert parse(f"context:\n  {section}:\n").section(section) == {}


def test_the_purpose_is_the_description_where_there_is_none() -> None:
    assert parse("context: {description: d}\n").purpose == "d"
    assert parse("context: {description: d, purpose: p}\n").purpose == "p"


# Changes on disk


def test_a_change_by_hand_is_seen_at_the_next_use(add: Callable[..., Path], inventory: Inventory) -> None:
    path = add("a", tags="[old]")
    assert inventory.get("a").tags == ("old",)
    add("a", tags="[newer]")
    assert inventory.get("a").tags == ("newer",)
    add("b")
    assert inventory.ids() == ["a", "b"]
    path.unlink()
    assert inventory.ids() == ["b"]
    with pytest.raises(NotFound):
        inventory.get("a")


def test_an_edit_of_the_same_size_in_the_same_moment_is_seen(add: Callable[..., Path], inventory: Inventory) -> None:
    for round_ in range(50):
        add("a", tags=f"[t{round_:02d}]")
        assert inventory.get("a").tags == (f"t{round_:02d}",)


def test_an_edit_of_the_same_size_whose_time_was_set_back_is_seen(
    add: Callable[..., Path], inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "SETTLING_NS", -1)
    path = add("a", tags="[old]")
    before = path.stat()
    assert inventory.get("a").tags == ("old",)
    while not path.stat().st_ctime_ns > before.st_ctime_ns:  # until the file system's clock has moved on
        path.write_text(path.read_text().replace("old", "new"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_ino,
    )
    assert inventory.get("a").tags == ("new",)


def test_a_file_that_replaces_another_is_seen(folder: Path, add: Callable[..., Path], inventory: Inventory) -> None:
    add("a", tags="[old]")
    assert inventory.get("a").tags == ("old",)
    servers.write(folder / "a.conf", {"id": "a", "hostname": "h", "tags": ["new"]})
    assert inventory.get("a").tags == ("new",)


def test_a_file_that_has_settled_is_not_read_again(
    add: Callable[..., Path], inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "SETTLING_NS", -1)
    add("a")
    first = inventory.get("a")
    assert inventory.get("a") is first
    monkeypatch.setattr(servers, "SETTLING_NS", 10**18)
    add("a", tags="[new]")
    second = inventory.get("a")
    assert inventory.get("a") is not second


def test_a_mended_file_comes_back_and_a_broken_one_goes(add: Callable[..., Path], inventory: Inventory) -> None:
    add("a", "id: [")
    assert inventory.all() == []
    add("a")
    assert ids(inventory.all()) == ["a"]
    add("a", hostname="-x")
    assert ids(inventory.all()) == []


def test_a_missing_folder_is_an_empty_inventory_and_a_file_in_its_place_an_error(tmp_path: Path) -> None:
    assert Inventory(tmp_path / "missing").all() == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file can't be read: Not a directory"):
        Inventory(tmp_path / "file").all()


def test_files_that_come_and_go_meanwhile_disturb_no_reader(add: Callable[..., Path], inventory: Inventory) -> None:
    add("stays")
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for number in range(5):
                add(f"n{number}")
            for number in range(5):
                inventory.path(f"n{number}").unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            assert "stays" in ids(inventory.all())
    finally:
        stop.set()
        thread.join()


# Files that are not to be trusted


def test_a_link_is_disabled_even_to_a_good_file(
    tmp_path: Path, folder: Path, add: Callable[..., Path], inventory: Inventory
) -> None:
    path = add("a")
    path.rename(tmp_path / "real.conf")
    path.symlink_to(tmp_path / "real.conf")
    assert inventory.all() == []
    assert "symbolic link" in bad(inventory)


@pytest.mark.parametrize("bits", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_change_is_disabled_even_if_it_was_good_before(
    bits: int, add: Callable[..., Path], inventory: Inventory
) -> None:
    path = add("a")
    assert ids(inventory.all()) == ["a"]
    path.chmod(bits)
    assert inventory.all() == []
    assert f"Run `chmod 600 {path}`" in bad(inventory)
    path.chmod(0o600)
    assert ids(inventory.all()) == ["a"]


@as_root
def test_a_foreign_file_is_disabled(add: Callable[..., Path], inventory: Inventory) -> None:
    os.chown(add("a"), 65534, -1)
    assert "belongs to uid 65534" in bad(inventory)


def test_a_pipe_a_folder_a_huge_file_or_a_binary_one_disables_itself_alone(
    folder: Path, add: Callable[..., Path], inventory: Inventory
) -> None:
    add("good")
    os.mkfifo(folder / "pipe.conf", 0o600)
    (folder / "dir.conf").mkdir(0o700)
    add("huge", "id: huge\nhostname: h\n#" + "x" * yamlfile.MAX_BYTES)
    add("binary").write_bytes(b"id: binary\nhostname: \xff\n")
    assert ids(inventory.all()) == ["good"]
    problems = inventory.problems()
    assert {name: re.search("is no file|larger than 256 KiB|not UTF-8", problem) is not None for name, problem in problems.items()} == {
        "pipe": True, "dir": True, "huge": True, "binary": True
    }  # fmt: skip
    assert "binary.conf, line 2" in problems["binary"]


# Defaults and jumps


def test_defaults_fill_what_a_file_leaves_out(folder: Path, add: Callable[..., Path]) -> None:
    inventory = Inventory(folder, Defaults(ssh_user="ops", ssh_port=2222, jump="bastion"))
    add("bastion")
    add("plain")
    add("own", ssh_user="me", ssh_port=23, jump="plain")
    plain, own, bastion = (inventory.get(name) for name in ("plain", "own", "bastion"))
    assert (inventory.user(plain), inventory.port(plain)) == ("ops", 2222)
    assert (inventory.user(own), inventory.port(own)) == ("me", 23)
    assert [jump.id if (jump := inventory.jump(server)) else None for server in (plain, own, bastion)] == [
        "bastion",
        "plain",
        None,
    ]
    assert [inventory.jump_id(server) for server in (plain, own, bastion)] == ["bastion", "plain", None]


@pytest.mark.parametrize(
    ("jumps", "circle"),
    [
        ({"a": "b", "b": "a"}, "a → b → a"),
        ({"a": "b", "b": "c", "c": "a"}, "a → b → c → a"),
        ({"a": "b", "b": "c", "c": "b"}, "a → b → c → b"),
    ],
)
def test_jumps_that_go_round_in_a_circle_are_refused(
    jumps: dict[str, str], circle: str, add: Callable[..., Path], inventory: Inventory
) -> None:
    for name, jump in jumps.items():
        add(name, jump=jump)
    with pytest.raises(ConfigError, match=f"go round in a circle: {circle}."):
        inventory.jump(inventory.get("a"))


def test_a_default_jump_whose_own_jump_leads_back_is_a_circle(folder: Path, add: Callable[..., Path]) -> None:
    inventory = Inventory(folder, Defaults(jump="bastion"))
    add("bastion", jump="inner")
    add("inner")
    with pytest.raises(ConfigError, match="circle: inner → bastion → inner"):
        inventory.jump(inventory.get("inner"))


def test_a_jump_to_an_unknown_or_disabled_server_says_so(add: Callable[..., Path], inventory: Inventory) -> None:
    add("a", jump="bastoin")
    add("bastion")
    with pytest.raises(
        ConfigError,
        match=r'a jumps through bastoin, which can.t be used: There is no server "bastoin". Did you mean "bastion"\?',
    ):
        inventory.jump(inventory.get("a"))
    add("bastoin", "id: [")
    with pytest.raises(
        ConfigError, match="a jumps through bastoin, which can't be used: The server bastoin is disabled"
    ):
        inventory.jump(inventory.get("a"))


# Selecting


@pytest.fixture
def fleet(add: Callable[..., Path], inventory: Inventory) -> Inventory:
    add("db-1", tags="[db, eu]", context="{environment: production}")
    add("db-2", tags="[DB, us]", context="{environment: staging}")
    add("web-1", tags="[web, eu]", context="{environment: Production}")
    add("web-2", tags="[web, us, canary]", context="{environment: production}")
    add("broken", "id: [")
    return inventory


@pytest.mark.parametrize(
    ("server_ids", "tags", "environment", "wanted"),
    [
        (["web-2", "db-1"], [], None, ["web-2", "db-1"]),
        (["web-1", "web-1"], [], None, ["web-1"]),
        (["*"], [], None, ["db-1", "db-2", "web-1", "web-2"]),
        (["*", "web-2"], ["db"], None, ["db-1", "db-2", "web-1", "web-2"]),
        ([], ["web"], None, ["web-1", "web-2"]),
        ([], ["web", "us"], None, ["web-2"]),
        ([], ["db"], None, ["db-1", "db-2"]),
        ([], [], "production", ["db-1", "web-1", "web-2"]),
        ([], ["eu"], "PRODUCTION", ["db-1", "web-1"]),
        (["db-2"], ["web"], "production", ["db-2", "web-1", "web-2"]),
        (["db-2"], ["web"], "nowhere", ["db-2"]),
    ],
)
def test_servers_are_those_named_and_those_with_every_tag_in_that_environment(
    fleet: Inventory, server_ids: list[str], tags: list[str], environment: str | None, wanted: list[str]
) -> None:
    assert ids(fleet.select(server_ids, tags, environment)) == wanted


@pytest.mark.parametrize(("server_ids", "tags", "environment"), [([], [], None), ([], [], "")])
def test_no_selector_is_an_error_that_names_the_selectors(
    fleet: Inventory, server_ids: list[str], tags: list[str], environment: str | None
) -> None:
    with pytest.raises(BadArgument, match=r'server_ids, tags or environment \(server_ids: \["\*"\] means all\)'):
        fleet.select(server_ids, tags, environment)


@pytest.mark.parametrize(
    ("tags", "environment", "words"),
    [
        (["nope"], None, "tags nope"),
        ([], "nope", 'environment "nope"'),
        (["web", "db"], "production", 'tags web, db and environment "production"'),
    ],
)
def test_nothing_that_matches_is_an_error_that_says_what_was_asked(
    fleet: Inventory, tags: list[str], environment: str | None, words: str
) -> None:
    with pytest.raises(BadArgument, match=re.escape(f"No server matches {words}.")):
        fleet.select([], tags, environment)


@pytest.mark.parametrize("server_ids", [["web1"], ["web-1", "web1"], ["*", "web1"]])
def test_an_unknown_id_names_the_nearest(fleet: Inventory, server_ids: list[str]) -> None:
    with pytest.raises(NotFound, match=r'no server "web1". Did you mean "web-[12]"\? Known servers: broken, db-1, '):
        fleet.select(server_ids, [], None)


def test_a_disabled_server_that_is_named_is_an_error_and_else_is_left_out(fleet: Inventory) -> None:
    with pytest.raises(ConfigError, match="The server broken is disabled"):
        fleet.select(["broken"], [], None)
    assert "broken" not in ids(fleet.select(["*"], [], None))


def test_with_many_servers_the_error_names_ten_and_with_none_how_to_add_one(
    add: Callable[..., Path], inventory: Inventory
) -> None:
    with pytest.raises(NotFound, match="none yet; add one with `fleetshell add-server`"):
        inventory.get("x")
    for number in range(12):
        add(f"s{number:02d}")
    with pytest.raises(NotFound, match="s00, .*, s09 and more; see list_servers"):
        inventory.get("x")


# Writing


def test_a_servers_file_is_written_private_and_read_back(folder: Path, inventory: Inventory) -> None:
    data: dict[str, Any] = {
        "id": "a",
        "hostname": "::1",
        "ssh_user": "no",
        "tags": ["12:30", "x"],
        "context": {"purpose": 'a "b"\nc', "port": 5},
    }
    servers.write(folder / "a.conf", data)
    server = inventory.get("a")
    assert (server.hostname, server.ssh_user, server.tags, server.context) == (
        "::1",
        "no",
        ("12:30", "x"),
        data["context"],
    )
    assert (folder / "a.conf").stat().st_mode & 0o777 == 0o600


def test_a_file_that_would_be_invalid_is_not_written(folder: Path, inventory: Inventory) -> None:
    servers.write(folder / "a.conf", {"id": "a", "hostname": "h"})
    for data in ({"id": "a", "hostname": "-x"}, {"id": "b", "hostname": "h"}, {"id": "a", "hostname": "h", "nope": 1}):
        with pytest.raises(ConfigError, match="a.conf, line"):
            servers.write(folder / "a.conf", data)
    assert inventory.get("a").hostname == "h"
    assert os.listdir(folder) == ["a.conf"]


def test_five_hundred_servers_are_read_and_the_second_time_from_memory(
    add: Callable[..., Path], inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        add(f"s{number:03d}", tags="[a, b]")
    reads = 0
    read_text = yamlfile.read_text

    def counted(path: Path) -> str:
        nonlocal reads
        reads += 1
        return read_text(path)

    monkeypatch.setattr(yamlfile, "read_text", counted)
    monkeypatch.setattr(servers, "SETTLING_NS", -1)
    assert len(inventory.all()) == 500
    assert len(inventory.matching(["a"], None)) == 500
    assert reads == 500


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("policy: readonly", 'allowed: normal, read_only, allow_list. Did you mean "read_only"?'),
        ("policy: read_only\nallowed_commands: [uptime]", "set `policy: allow_list`"),
        ("policy: allow_list\nallowed_commands: uptime", "must be a list"),
    ],
)
def test_an_impossible_policy_disables_the_server_and_says_what_is_allowed(line: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        servers.parse(f"id: web\nhostname: a\n{line}\n", "web.conf")
    assert says in caught.value.message


def test_a_policy_is_that_of_the_defaults_where_the_file_names_none(tmp_path: Path) -> None:
    plain = servers.parse("id: web\nhostname: a\n", "web.conf")
    for default in ("normal", "read_only"):
        assert servers.Inventory(tmp_path, Defaults(policy=default)).policy(plain) == default
    listed = servers.parse("id: web\nhostname: a\npolicy: allow_list\nallowed_commands: [uptime, df -h]\n", "web.conf")
    assert (listed.policy, listed.allowed_commands) == ("allow_list", ("uptime", "df -h"))
