"""Secrets never reach the audit log: masked in every text of a record, while equal commands can be told to be equal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audit_place import Place

from fleetshell_tools.core.audit_reading import read
from fleetshell_tools.core.masking import HIDDEN, is_suspect, mask, mask_whole

SECRET = "Gu3hoo5xAe1u"

COMMANDS = [
    f"mysql -u root -p{SECRET} shop",
    f"mysqldump --password='{SECRET} and more' shop",
    f"PGPASSWORD={SECRET} psql -h db",
    f"curl -u admin:{SECRET} https://example.com/",
    f"curl -H 'Authorization: Bearer {SECRET}' https://example.com/",
    f"git clone https://bob:{SECRET}@example.com/a.git",
    f"export AWS_SECRET_ACCESS_KEY={SECRET}; aws s3 ls",
    f"aws configure set aws_secret_access_key {SECRET}",
    f"echo 'root:{SECRET}' | sudo chpasswd",
    f"echo {SECRET} | sudo -S systemctl restart nginx",
    f"chpasswd <<< root:{SECRET}",
    f"mysql -e \"CREATE USER bob IDENTIFIED BY '{SECRET}'\"",
    f"sudo -u postgres psql -c \"ALTER USER bob WITH PASSWORD '{SECRET}'\"",
    f"htpasswd -b /etc/nginx/users bob {SECRET}",
    f"docker login -u bob -p {SECRET} registry.example.com",
    f"kubectl create secret generic db --from-literal=pw={SECRET}",
    f"cat > /root/.ssh/id <<'X'\n-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----\nX",
    "printf '" + "x" * 6000 + f"' >/dev/null; app --password {SECRET}",
    "app --token=" + SECRET * 1000 + " --port 80",
]

PLAIN = [
    "systemctl status nginx --no-pager",
    "cat /etc/passwd | grep root",
    "journalctl -u nginx --since '1 hour ago' | tail -n 20",
    'grep "password=" /etc/app.conf && rm -rf /var/tmp/x',
    "sudo useradd -m -s /bin/bash bob",
    "sudo -u postgres psql -c 'select 1'",
    "find / -name '*.key' -print",
]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda text: text[:40])
def test_no_secret_of_a_command_is_in_its_record(place: Place, command: str) -> None:
    place.log().record("started", command=command, durable=True)
    raw = place.path.read_text()
    assert SECRET not in raw and HIDDEN in raw
    (record,) = read(place.path)
    assert record["command"].split()[0] == command.split()[0].replace(SECRET, "") or HIDDEN in record["command"]
    assert len(record["command_hmac"]) == 64 and place.verify().ok


@pytest.mark.parametrize("command", PLAIN)
def test_a_command_without_a_secret_is_recorded_as_it_is(place: Place, command: str) -> None:
    place.log().record("started", command=command)
    (record,) = read(place.path)
    assert record["command"] == command and "command_hmac" not in record


def test_equal_commands_have_equal_digests_and_others_have_not(place: Place) -> None:
    log = place.log()
    for secret in ("one", "two", "one"):
        log.record("started", command=f"mysql -p{secret}")
    first, second, third = read(place.path)
    assert first["command"] == second["command"] == "mysql -p***"
    assert first["command_hmac"] == third["command_hmac"] != second["command_hmac"]


def test_every_text_of_a_record_is_masked_and_everything_else_stays(place: Place) -> None:
    place.log().record(
        "blocked",
        command=f"sh -c 'mysql -p{SECRET}'",
        resolved=("mysql", f"-p{SECRET}"),
        error=f"password={SECRET} was refused",
        details={"arguments": ["--token", SECRET], "tries": [1, None, True]},
        server_id="web-1",
        exit_code=3,
    )
    assert SECRET not in place.path.read_text()
    (record,) = read(place.path)
    assert record["resolved"] == ["mysql", "-p***"] and record["error"] == "password=*** was refused"
    assert record["details"] == {"arguments": ["--token", "***"], "tries": [1, None, True]}
    assert (record["server_id"], record["exit_code"]) == ("web-1", 3)


def test_a_long_command_is_recorded_whole(place: Place) -> None:
    command = "; ".join(f"echo {number} password={SECRET}" for number in range(2000))
    place.log().record("started", command=command)
    (record,) = read(place.path)
    assert record["command"] == command.replace(SECRET, HIDDEN)
    assert SECRET not in json.dumps(record)


PIECES = ["password=", "--token ", "mysql -p", "curl -u ", "x", " ", "'", '"', "\n", "://", ":", "@", "-p", "abc12345"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_what_no_look_finds_suspect_has_nothing_to_mask(text: str) -> None:
    assert is_suspect(text) or mask(text) == text
    assert mask_whole(text) == mask(text)
