"""`config.yaml`: the defaults of the contract, errors that say where and what instead, and edits that keep the file valid."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools.core import config, schema, yamlfile
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.home import Home

CONTRACT = """
relay:
  private_key: ~/.fleetshell/relay.key
  public_key: ~/.fleetshell/relay.pub
  log_level: INFO
  log_file: ~/.fleetshell/logs/relay.log
  audit_log: ~/.fleetshell/logs/audit.log
  http:
    host: 0.0.0.0
    port: 8080
    use_tls: true
    cert_file: ~/.fleetshell/certs/cert.pem
    key_file: ~/.fleetshell/certs/key.pem
    allowed_hosts: []           # more names for the Host check; IP literals and the certificate's names always pass; the 403 names this key
    auth:
      api_key: "generated, 256 bits"
mfa:                            # a missing block means enabled; without a secret `serve` refuses and names `auth setup`
  enabled: true
  totp_secret: "JBSWY3DPEHPK3PXP"
  session_lifetime: 3600        # seconds after authenticate, absolute; a client's session never ends before its grant
  grant_scope: session          # or key: one code unlocks every client of that key
  locked_as: error              # or tool_error: isError in place of the JSON-RPC error, for clients that hide those from the model
security:
  command_timeout: 60           # default of a command's time limit, seconds
  max_timeout: 3600             # the most that `timeout` may ask for
  max_command_length: 5000      # characters
  dangerous_commands: ["rm -rf /", "dd if=", "mkfs", "shutdown", "reboot"]
"""
"""Section 2 of the contract."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.touch(0o600)
    return path


def load(path: Path, text: str) -> Config:
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_the_contracts_example_says_what_the_defaults_are(file: Path) -> None:
    home = Home(Path("~/.fleetshell").expanduser())
    given = load(file, CONTRACT)
    default = Config()
    paths = ("private_key", "public_key", "log_file", "audit_log")
    for name in paths:
        assert home.file(getattr(given.relay, name)) == home.file(getattr(default.relay, name))
    for name in ("cert_file", "key_file"):
        assert home.file(getattr(given.relay.http, name)) == home.file(getattr(default.relay.http, name))
    http = dataclasses.replace(
        given.relay.http,
        cert_file=default.relay.http.cert_file,
        key_file=default.relay.http.key_file,
        auth=default.relay.http.auth,
    )
    relay = dataclasses.replace(given.relay, http=http, **{name: getattr(default.relay, name) for name in paths})
    assert dataclasses.replace(given, relay=relay, mfa=dataclasses.replace(given.mfa, totp_secret="")) == default


def test_the_defaults_that_other_parts_of_the_contract_refer_to() -> None:
    default = Config()
    assert default.security.max_output_bytes == 16 * 1024
    assert default.relay.http.max_connections == 2048
    assert default.relay.http.max_unproven_per_address == 64
    assert default.security.allow_local is False
    assert default.mfa.enabled is True
    assert default.relay.http.auth.api_key == ""


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "relay:\nmfa: ~\n", "relay: {http: {auth: }}\n"])
def test_an_empty_file_or_block_means_the_defaults(file: Path, text: str) -> None:
    assert load(file, text) == Config()


def options(cls: Any, path: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for field in dataclasses.fields(cls):
        name = f"{path}{field.name}"
        yield name, field
        inner = field.default_factory
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from options(inner, f"{name}.")


def test_every_option_is_documented_by_one_sentence() -> None:
    names = [name for name, _ in options(Config)]
    assert len(names) > 30
    for name, field in options(Config):
        assert re.fullmatch(r"[A-Z`0-9].*[.…]", field.metadata.get("doc", "")), f"{name} has no sentence"


def test_every_default_obeys_its_own_rules() -> None:
    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return list(value) if isinstance(value, tuple) else value

    document = yamlfile.parse(yamlfile.dump(plain(Config())), "defaults")
    assert schema.build(Config, document.data, document) == Config()


ERRORS = [
    # text, line, what the sentence holds
    ("realy: {}\n", 1, ['"realy"', 'Did you mean "relay"?', "relay, mfa, security"]),
    ("relay:\n  http:\n    prot: 8080\n", 3, ['"prot" in relay.http', 'Did you mean "port"?', "use_tls"]),
    ("relay:\n  http: {prot: 8080}\n", 2, ['"prot" in relay.http', 'Did you mean "port"?']),
    ("mfa:\n  enabled: true\n\n  session_live_time: 5\n", 4, ['"session_live_time" in mfa', 'Did you mean "session_lifetime"?', "grant_scope"]),
    ("security:\n  zzz: 1\n", 2, ['"zzz" in security', "Allowed here: command_timeout"]),
    ("defaults: {polcy: x}\n", 1, ['"polcy" in defaults', "ssh_user, ssh_port, jump"]),
    ("relay:\n  http:\n    port: eighty\n", 3, ["relay.http.port must be a whole number", '"eighty"']),
    ('relay:\n  http:\n    port: "8080"\n', 3, ["relay.http.port must be a whole number", '"8080"']),
    ("relay:\n  http:\n    port: 80.5\n", 3, ["relay.http.port must be a whole number", '"80.5"']),
    ("relay:\n  http:\n    port: true\n", 3, ["relay.http.port must be a whole number, not true"]),
    ("relay:\n  http:\n    port: [8080]\n", 3, ["relay.http.port must be a whole number, not a list"]),
    ("relay:\n  http:\n    port: 65536\n", 3, ["relay.http.port is 65536", "from 0 to 65535"]),
    ("relay:\n  http:\n    port: -1\n", 3, ["relay.http.port is -1", "from 0 to 65535"]),
    ("relay:\n  http:\n    use_tls: no\n", 3, ["relay.http.use_tls must be true or false", '"no"']),
    ("relay:\n  http:\n    use_tls: 1\n", 3, ["relay.http.use_tls must be true or false", "1"]),
    ("relay:\n  http:\n    use_tls: {a: 1}\n", 3, ["relay.http.use_tls must be true or false, not a map"]),
    ("relay:\n  http:\n    host: [a]\n", 3, ["relay.http.host must be text, not a list"]),
    ("relay:\n  log_file: true\n", 2, ["relay.log_file must be text, not true"]),
    ("relay:\n  log_file: {a: b}\n", 2, ["relay.log_file must be text, not a map"]),
    ('relay:\n  log_file: "a\\0b"\n', 2, ["relay.log_file holds a NUL character"]),
    ("relay:\n  log_level: VERBOSE\n", 2, ['relay.log_level is "VERBOSE"', "DEBUG, INFO, WARNING, ERROR"]),
    ("relay:\n  log_level: WARN\n", 2, ['relay.log_level is "WARN"', 'Did you mean "WARNING"?']),
    ("relay:\n  http:\n    allowed_hosts: example.com\n", 3, ["relay.http.allowed_hosts must be a list", '"example.com"']),
    ("relay:\n  http:\n    allowed_hosts:\n      - a\n      - [b]\n", 5, ["relay.http.allowed_hosts.1 must be text, not a list"]),
    ("relay:\n  http:\n    allowed_hosts:\n      - a\n      -\n", 5, ["relay.http.allowed_hosts.1 must be text, not nothing"]),
    ("relay: [http]\n", 1, ["relay must hold keys with values, not a list"]),
    ("relay:\n  http: 8080\n", 2, ["relay.http must hold keys with values, not a number"]),
    ("- relay\n", 1, ["the file must hold keys with values, not a list"]),
    ("mfa:\n  grant_scope: user\n", 2, ['mfa.grant_scope is "user"', "session, key"]),
    ("mfa:\n  locked_as: tool-error\n", 2, ['mfa.locked_as is "tool-error"', "error, tool_error", 'Did you mean "tool_error"?']),
    ("mfa:\n  session_lifetime: 59\n", 2, ["mfa.session_lifetime is 59", "from 60 to 86400"]),
    ("mfa:\n  session_lifetime: 1 h\n", 2, ["mfa.session_lifetime must be a whole number", '"1 h"']),
    ("security:\n  command_timeout: 0\n", 2, ["security.command_timeout is 0", "from 1 to 86400"]),
    ("security:\n  max_timeout: 30\n  command_timeout: 60\n", 3, ["security.command_timeout (60)", "security.max_timeout (30)"]),
    ("security:\n  max_timeout: 30\n", 1, ["security.command_timeout (60)", "security.max_timeout (30)"]),
    ("security:\n  max_drain_bytes: 1\n", 2, ["security.max_drain_bytes is 1", "65536 or more"]),
    ("security:\n  dangerous_commands: {rm: true}\n", 2, ["security.dangerous_commands must be a list, not a map"]),
    ("security:\n  guard: [power]\n", 2, ["security.guard must be a map of keys and values, not a list"]),
    ("security:\n  guard:\n    device: never\n    power: sometimes\n", 4, ['security.guard.power is "sometimes"', "never, approvable, allow"]),
    ("defaults:\n  ssh_port: 0\n", 2, ["defaults.ssh_port is 0", "from 1 to 65535"]),
    ("defaults:\n  ssh_user: -oProxyCommand=x\n", 2, ['defaults.ssh_user is "-oProxyCommand=x"', "a user name"]),
    ("defaults:\n  jump: ../etc\n", 2, ['defaults.jump is "../etc"', "a server's id"]),
    ("relay:\n  http:\n    auth:\n      api_key: short\n", 4, ["relay.http.auth.api_key is shorter than 16 characters", "fleetshell init"]),
    ("mfa:\n  totp_secret: ABC1\n", 2, ["mfa.totp_secret holds other characters", "base32 (A-Z and 2-7)"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "words"), ERRORS, ids=[error[2][0] for error in ERRORS])
def test_a_wrong_key_or_value_is_refused_with_key_line_and_what_is_allowed(
    file: Path, text: str, line: int, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    message = caught.value.message
    assert message.startswith(f"{file}, line {line}: ")
    assert [word for word in words if word not in message] == []
    assert message.endswith((".", "?"))


@pytest.mark.parametrize(
    "text",
    [
        "mfa:\n  totp_secret: 1SECRET1SECRET1\n",
        "mfa: 1SECRET1SECRET1\n",
        "relay:\n  http:\n    auth: 1SECRET1SECRET1\n",
        "relay:\n  http:\n    auth:\n      api_key: [1SECRET1SECRET1]\n",
        "relay:\n  http:\n    auth:\n      api_key: 1SECRET\n",
        'relay:\n  http:\n    auth:\n      api_key: "1SECRET1SECRET1SECRET\\0"\n',
    ],
)
def test_an_error_message_never_holds_a_secret(file: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    assert "SECRET" not in caught.value.message


def test_a_very_long_value_is_cut_in_the_message(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, f"relay: {{log_level: {'x' * 10_000}}}")
    assert len(caught.value.message) < 400


def test_numbers_are_text_where_text_is_wanted(file: Path) -> None:
    assert load(file, "relay: {http: {allowed_hosts: [10, a]}}\n").relay.http.allowed_hosts == ("10", "a")


def test_a_missing_file_names_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config.yaml does not exist. Run `fleetshell init`"):
        config.load(tmp_path / "config.yaml")


def test_a_file_that_others_can_read_or_a_link_is_refused(file: Path, tmp_path: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        config.load(file)
    file.chmod(0o600)
    (tmp_path / "link.yaml").symlink_to(file)
    with pytest.raises(ConfigError, match="symbolic link"):
        config.load(tmp_path / "link.yaml")
    with pytest.raises(ConfigError, match="symbolic link"):
        config.set_value(tmp_path / "link.yaml", "mfa.enabled", False)


def test_a_path_may_be_relative_to_the_home_absolute_or_below_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    home = Path("/srv/relay")
    assert config.expand("logs/x.log", home) == Path("/srv/relay/logs/x.log")
    assert config.expand("/var/log/x.log", home) == Path("/var/log/x.log")
    assert config.expand("~/x.log", home) == Path("/users/me/x.log")


# Changing the file


def test_setting_a_value_keeps_comments_and_order_and_the_mode(file: Path) -> None:
    file.write_text(CONTRACT, encoding="utf-8")
    config.set_value(file, "mfa.enabled", False)
    config.set_value(file, "ssh.max_parallel", 8)
    wanted = CONTRACT.replace("  enabled: true\n", "  enabled: false\n") + "ssh:\n  max_parallel: 8\n"
    assert file.read_text(encoding="utf-8") == wanted
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    loaded = config.load(file)
    assert (loaded.mfa.enabled, loaded.ssh.max_parallel) == (False, 8)


def test_setting_a_value_keeps_the_line_ends_of_windows(file: Path) -> None:
    file.write_bytes(CONTRACT.replace("\n", "\r\n").encode())
    config.set_value(file, "mfa.enabled", False)
    assert (
        file.read_bytes() == CONTRACT.replace("  enabled: true\n", "  enabled: false\n").replace("\n", "\r\n").encode()
    )


@pytest.mark.parametrize(
    ("key", "value", "about"),
    [
        ("mfa.session_lifetime", 1, "from 60 to 86400"),
        ("mfa.enabled", "no", "must be true or false"),
        ("mfa.enabeld", True, 'Did you mean "enabled"?'),
        ("nothing", 1, 'unknown key "nothing"'),
        ("", 1, "unknown key"),
        ("security.command_timeout", 86400, "security.max_timeout"),
        ("relay.http.auth.api_key", "short", "shorter than 16"),
        ("mfa.enabled.deeper", 1, "`mfa.enabled` is not a block of keys"),
    ],
)
def test_a_value_that_would_make_the_file_invalid_is_refused_and_the_file_stays(
    file: Path, key: str, value: object, about: str
) -> None:
    file.write_text(CONTRACT, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        config.set_value(file, key, value)
    assert about in caught.value.message
    assert file.read_text(encoding="utf-8") == CONTRACT


def test_an_invalid_file_is_not_changed_even_elsewhere(file: Path) -> None:
    text = "relay: {http: {prot: 1}}\n"
    file.write_text(text)
    with pytest.raises(ConfigError, match='"prot"'):
        config.set_value(file, "mfa.enabled", False)
    assert file.read_text() == text


def test_a_missing_open_or_unreadable_file_is_refused_with_a_sentence(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        config.set_value(tmp_path / "missing" / "config.yaml", "mfa.enabled", False)
    file.write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.set_value(file, "mfa.enabled", False)
    file.chmod(0o660)
    with pytest.raises(ConfigError, match="chmod 600"):
        config.set_value(file, "mfa.enabled", False)


def test_values_set_at_the_same_time_are_all_kept(file: Path) -> None:
    file.write_text(CONTRACT, encoding="utf-8")
    changes = [
        ("ssh.max_parallel", 7),
        ("ssh.max_starting", 9),
        ("mfa.session_lifetime", 120),
        ("protocol.session_idle", 99),
        ("mfa.enabled", False),
    ]
    threads = [threading.Thread(target=config.set_value, args=(file, key, value)) for key, value in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = config.load(file)
    got = (
        loaded.ssh.max_parallel,
        loaded.ssh.max_starting,
        loaded.mfa.session_lifetime,
        loaded.protocol.session_idle,
        loaded.mfa.enabled,
    )
    assert got == (7, 9, 120, 99, False)
    assert sorted(os.listdir(file.parent)) == [".config.lock", "config.yaml"]


# The schema itself


@dataclasses.dataclass(frozen=True)
class Example:
    name: str = schema.option(doc="Needed.")
    words: dict[str, str] = schema.option(factory=dict, doc="Text by text.")
    anything: dict[str, Any] = schema.option(factory=dict, doc="Whatever.")
    maybe: int | None = schema.option(None, "A number or nothing.", high=5)


def build(text: str) -> Example:
    document = yamlfile.parse(text, "example")
    return schema.build(Example, document.data, document)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match='example, line 1: the key "name" is missing'):
        build("maybe: 1\n")
    with pytest.raises(ConfigError, match='the key "name" is missing'):
        build("name:\n")


def test_an_optional_value_keeps_its_rules_and_may_be_empty() -> None:
    assert build("name: a\nmaybe:\n").maybe is None
    assert build("name: a\nmaybe: 5\n").maybe == 5
    with pytest.raises(ConfigError, match="line 2: maybe is 6; allowed: 5 or less"):
        build("name: a\nmaybe: 6\n")


def test_a_map_of_text_takes_numbers_and_switches_as_they_are_written() -> None:
    assert build("name: a\nwords: {x: 5, y: true, z: no}\n").words == {"x": "5", "y": "true", "z": "no"}
    with pytest.raises(ConfigError, match="words.x must be text, not a list"):
        build("name: a\nwords: {x: [1]}\n")


def test_free_form_data_is_kept_as_it_is() -> None:
    assert build("name: a\nanything: {x: [1, {y: true}], z: }\n").anything == {"x": [1, {"y": True}], "z": None}
