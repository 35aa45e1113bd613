"""What bad input gets: one clear sentence, the right exit code or error, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from support.mcp_client import Client, connected
from support.processes import wait_until
from support.relay import PROGRAM, RelayHome, RelayProcess, fleetshell, make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> RelayHome:
    return make_home(tmp_path_factory.mktemp("plain") / "home")


def refused(home: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command that must fail without a traceback and without asking."""
    run = fleetshell(home, *arguments, check=False)
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, run.stderr


# The command line


@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["list"], ["test", "x"], ["status"], ["audit"], ["pubkey"], ["auth", "status"], ["connect-info"]],
)
def test_without_a_home_every_command_says_to_run_init(tmp_path: Path, arguments: list[str]) -> None:
    code, said = refused(tmp_path / "none", *arguments)
    assert code == 3 and "fleetshell init" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("relay: [", "config.yaml, line "),
        (
            "relay:\n  http:\n    prot: 1\n",
            'config.yaml, line 3: unknown key "prot" in relay.http. Did you mean "port"?',
        ),
        ("relay:\n  http:\n    port: many\n", "config.yaml, line 3: relay.http.port must be a whole number"),
        (
            "relay:\n  http:\n    port: 70000\n",
            "config.yaml, line 3: relay.http.port is 70000; allowed: from 0 to 65535",
        ),
        ("mfa:\n  enabled: yes\n", "config.yaml, line 2: mfa.enabled must be true or false"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases"),
        ("security:\n  guard:\n    filesystem: maybe\n", "maybe"),
        ("security:\n  dangerous_commands: ['re:(']\n", "re:("),
    ],
)
def test_a_broken_configuration_is_named_by_file_line_and_key(
    home: RelayHome, text: str, says: str, tmp_path: Path
) -> None:
    good = (home.path / "config.yaml").read_text()
    (home.path / "config.yaml").write_text(text)
    try:
        code, said = refused(home.path, "serve")
        assert code == 3 and says in said, said
        assert (home.path / "config.yaml").read_text() == text
    finally:
        (home.path / "config.yaml").write_text(good)


def test_a_home_that_others_can_change_is_refused_with_the_mending_command(home: RelayHome) -> None:
    home.path.chmod(0o777)
    try:
        code, said = refused(home.path, "list")
        assert code == 3 and f"chmod 700 {home.path}" in said
    finally:
        home.path.chmod(0o700)


def test_a_configuration_that_others_can_read_is_refused_with_the_mending_command(home: RelayHome) -> None:
    (home.path / "config.yaml").chmod(0o644)
    try:
        code, said = refused(home.path, "serve")
        assert code == 3 and f"chmod 600 {home.path / 'config.yaml'}" in said
    finally:
        (home.path / "config.yaml").chmod(0o600)


def test_an_unknown_server_id_names_the_nearest(open_relay: RelayProcess) -> None:
    for command in ("test", "edit", "remove", "trust"):
        code, said = refused(open_relay.home.path, command, "web-2")
        assert code == 4 and 'Did you mean "web-1"?' in said, (command, said)


def test_one_bad_server_file_disables_that_server_alone(open_relay: RelayProcess, client: Client) -> None:
    bad = open_relay.home.path / "servers" / "broken.conf"
    bad.write_text("id: broken\nhostname: [1, 2]\n")
    bad.chmod(0o600)
    try:
        answer = client.call("list_servers")["structuredContent"]
        assert [server["id"] for server in answer["servers"]] == ["db-1", "mail-1", "web-1"]
        assert "line 2: hostname must be text" in answer["disabled"][0]["reason"]
        assert client.call("execute_command", server_id="web-1", command="true")["structuredContent"]["success"]
        failed = client.call("execute_command", server_id="broken", command="true")
        assert failed["isError"] and "disabled because its file is invalid" in failed["content"][0]["text"]
        listed = open_relay.home.run("list").stdout
        assert "web-1" in listed and "broken" in listed
    finally:
        bad.unlink()


def test_a_port_in_use_is_named_with_what_to_do(open_relay: RelayProcess, home: RelayHome) -> None:
    code, said = refused(home.path, "serve", "--host", "127.0.0.1", "--port", str(open_relay.port))
    assert code == 1 and str(open_relay.port) in said and "--port" in said


def test_a_second_relay_on_the_same_home_is_refused(open_relay: RelayProcess) -> None:
    code, said = refused(open_relay.home.path, "serve", "--port", "0")
    assert code == 1 and "already running" in said and "fleetshell status" in said
    assert open_relay.home.run("status").returncode == 0


def test_serving_without_a_totp_secret_names_auth_setup(tmp_path: Path) -> None:
    made = make_home(tmp_path / "home")
    config = made.path / "config.yaml"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "totp_secret" not in line) + "\n")
    code, said = refused(made.path, "serve", "--port", "0")
    assert code == 3 and "fleetshell auth setup" in said


# Over HTTP


def test_without_or_with_a_wrong_key_the_answer_is_401(open_relay: RelayProcess) -> None:
    with connected(open_relay, initialize=False) as client:
        for key in ("", "wrong", open_relay.home.api_key[:-1]):
            client.key = key
            reply = client.rpc("initialize")
            assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
        client.key = open_relay.home.api_key
        client.initialize()


def test_an_oversized_body_is_refused_and_the_relay_goes_on(open_relay: RelayProcess, client: Client) -> None:
    with connected(open_relay, initialize=False) as other:
        # Refused by its head: the connection may be closed while the body is still being sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            assert other.post(b" " * (5 << 20)).status == 413
    assert client.rpc("ping").status == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', b"nul", b'{"a":NaN}'],
)
def test_malformed_json_is_a_parse_error_and_the_session_lives_on(client: Client, body: bytes) -> None:
    reply = client.post(body)
    assert reply.status == 400 and reply.json["error"]["code"] == -32700
    assert client.rpc("ping").json["result"] == {}


def test_an_unknown_tool_is_an_error_that_names_the_nearest(client: Client) -> None:
    error = client.call("execute_comand", server_id="web-1", command="true")["error"]
    assert error["code"] == -32602 and "execute_command" in error["message"]


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("execute_command", {}, "needs the argument `server_id`"),
        ("execute_command", {"server_id": "web-1"}, "needs the argument `command`"),
        ("execute_command", {"server_id": "web-1", "command": 5}, "`command` is 5; allowed: text"),
        ("execute_command", {"server_id": "web-1", "command": "  "}, "`command` is empty"),
        ("execute_command", {"server_id": "web-1", "command": "a\0b"}, "`command`"),
        (
            "execute_command",
            {"server_id": "web-1", "command": "true", "timeout": 0},
            "`timeout` is 0; allowed: a whole number from 1",
        ),
        ("execute_command", {"server_id": "web-1", "command": "true", "timeout": 86400}, "at most 3600 s"),
        (
            "execute_command",
            {"server_id": "web-1", "command": "true", "timeot": 5},
            'no argument "timeot". Did you mean "timeout"?',
        ),
        ("execute_command", {"server_id": "web-1", "command": "true", "environment": {"A-B": "1"}}, '"A-B" is no name'),
        ("execute_command", {"server_id": "web-1", "command": "true", "environment": ["A"]}, "allowed: an object"),
        ("execute_command", {"server_id": "web-9", "command": "true"}, 'Did you mean "web-1"?'),
        ("execute_command", {"server_id": "../../etc/passwd", "command": "true"}, "There is no server"),
        ("execute_command", {"server_id": "-oProxyCommand=id", "command": "true"}, "There is no server"),
        ("multi_server_execute", {"command": "true"}, "Say which servers"),
        ("multi_server_execute", {"command": "true", "tags": ["nope"]}, "No server matches"),
        ("get_server_context", {"server_id": ""}, "There is no server"),
    ],
)
def test_a_bad_argument_is_a_tool_error_that_says_what_is_allowed(
    client: Client, tool: str, arguments: dict[str, object], says: str
) -> None:
    result = client.call(tool, **arguments)
    assert result["isError"] and says in result["content"][0]["text"], result
    assert "structuredContent" not in result


def test_a_command_that_is_too_long_is_refused_with_the_limit(client: Client) -> None:
    result = client.call("execute_command", server_id="web-1", command="echo " + "x" * 5000)
    assert result["isError"] and "at most 5,000" in result["content"][0]["text"]


def test_output_of_a_hundred_megabytes_is_cut_in_the_middle_and_counted(client: Client) -> None:
    result = client.call(
        "execute_command", server_id="web-1", command="echo first; yes | head -c 100000000; echo last"
    )["structuredContent"]
    assert result["truncated"] and result["exit_code"] == 0
    assert result["stdout"].startswith("first\n") and result["stdout"].rstrip().endswith("last")
    assert "of 100,000,011 bytes" in result["stdout"]
    assert len(result["stdout"].encode()) < 20_000


def test_output_that_is_not_utf_8_arrives_with_replacement_characters(client: Client) -> None:
    result = client.call("execute_command", server_id="web-1", command=r"printf 'caf\351 \360\237 ok\n'")[
        "structuredContent"
    ]
    assert result["stdout"] == "caf� � ok\n"


def test_terminal_escapes_in_output_are_stripped_in_both_forms(client: Client) -> None:
    result = client.call(
        "execute_command", server_id="web-1", command=r"printf '\033[31mred\033[0m\033]0;title\007 \342\200\256evil\n'"
    )
    assert result["structuredContent"]["stdout"] == "red evil\n"
    assert "\x1b" not in json.dumps(result) and "\u202e" not in result["content"][0]["text"]


def test_a_timed_out_command_is_an_error_that_shows_what_was_seen(client: Client) -> None:
    result = client.call("execute_command", server_id="web-1", command="echo begun; sleep 1000", timeout=1)
    text = result["content"][0]["text"]
    assert result["isError"] and "within 1 s" in text and "stopped: confirmed" in text and "begun" in text


def test_a_client_that_is_gone_in_mid_answer_harms_nobody(
    open_relay: RelayProcess, client: Client, tmp_path: Path
) -> None:
    mark = tmp_path / "started"
    context = ssl.create_default_context(cafile=str(open_relay.home.certificate))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "execute_command", "arguments": {
        "server_id": "web-1", "command": f"touch '{mark}'; sleep 0.3; yes | head -c 3000000; touch '{mark}.done'"}}}  # fmt: skip
    raw = json.dumps(body).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {client.key}\r\nContent-Type: application/json\r\n"
        f"Mcp-Session-Id: {client.session}\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", open_relay.port)), server_hostname="127.0.0.1"
    ) as connection:
        connection.sendall(head.encode() + raw)
        wait_until(mark.exists, 20, "the command has started")
    wait_until(Path(f"{mark}.done").exists, 20, "the command has ended by itself")
    assert client.rpc("ping").status == 200
    finished = {"event": "finished", "session": open_relay.home.audit()[-1]["session"]}
    wait_until(
        lambda: any(finished.items() <= record.items() for record in open_relay.home.audit()[-4:]),
        20,
        "the outcome is in the audit log",
    )


def test_cancelling_a_call_ends_the_remote_command_and_the_waiting_request(
    open_relay: RelayProcess, client: Client, tmp_path: Path
) -> None:
    mark = tmp_path / "started"
    with connected(open_relay, initialize=False) as other:
        other.session = client.session
        other.connection.request(
            "POST", "/mcp",
            json.dumps({"jsonrpc": "2.0", "id": "slow", "method": "tools/call", "params": {"name": "execute_command", "arguments": {
                "server_id": "web-1", "command": f"touch '{mark}'; sleep 1000"}}}),
            {"Authorization": f"Bearer {client.key}", "Content-Type": "application/json", "Mcp-Session-Id": client.session},
        )  # fmt: skip
        wait_until(mark.exists, 20, "the command has started")
        cancel = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": "slow", "reason": "enough"},
        }
        assert client.post(cancel).status == 202
        answer = json.loads(other.connection.getresponse().read())
        other.session = ""
    assert answer["error"]["code"] == -32800
    assert open_relay.home.audit()[-1]["event"] == "cancelled"


def test_a_foreign_or_unknown_session_is_not_found(client: Client) -> None:
    own, client.session = client.session, "no-such-session"
    assert client.rpc("ping").status == 404
    client.session = own
    assert client.rpc("ping").status == 200


def test_every_secret_stays_out_of_logs_audit_and_process_lists(
    open_relay: RelayProcess, client: Client, tmp_path: Path
) -> None:
    secret, fed = "s3cret-environment-value", "s3cret-standard-input"
    seen = tmp_path / "ps"
    client.text(
        "execute_command",
        server_id="web-1",
        command=f"cat > /dev/null; ps axeww > '{seen}' || true",
        environment={"TOKEN": secret},
        stdin=fed,
    )
    listing = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout
    assert open_relay.home.api_key not in listing
    arguments = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout
    assert secret not in arguments
    for path in [*(open_relay.home.path / "logs").iterdir(), open_relay.log]:
        text = path.read_text()
        for value in (secret, fed, open_relay.home.api_key, open_relay.home.config["mfa"]["totp_secret"]):
            assert value not in text, path


# The server process


def test_reloading_an_invalid_configuration_keeps_the_old_one_and_says_why(
    open_relay: RelayProcess, client: Client
) -> None:
    config = open_relay.home.path / "config.yaml"
    good = config.read_text()
    config.write_text(good.replace("port: 8080", "prot: 8080"))
    try:
        code, said = refused(open_relay.home.path, "reload")
        assert code == 1 and 'unknown key "prot"' in said
        assert client.rpc("ping").status == 200
    finally:
        config.write_text(good)
    assert open_relay.home.run("reload").stdout.strip() == "The relay has read its configuration again."


def test_a_reader_that_closes_early_gets_no_traceback(open_relay: RelayProcess) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*PROGRAM, "--home", str(open_relay.home.path), "audit", "-n", "1000"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    os.close(reader)
    _, said = process.communicate(timeout=30)
    assert "Traceback" not in said
