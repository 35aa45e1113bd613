"""Secrets in command lines: what is masked, and what is not touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.core.masking import HIDDEN, mask, mask_arguments

SECRET = "Gu3hoo5x"

MASKED = [
    ["mysql", "-u", "root", f"-p{SECRET}", "shop"],
    ["/usr/bin/mysqldump", f"--password={SECRET}"],
    ["app", "--password", SECRET],
    ["app", "--db-password", SECRET, "--verbose"],
    ["app", f"--api-key={SECRET}"],
    ["vault", f"-token={SECRET}"],
    ["java", f"-Djavax.net.ssl.keyStorePassword={SECRET}", "Main"],
    ["env", f"PGPASSWORD={SECRET}", "psql"],
    ["env", f"AWS_SECRET_ACCESS_KEY={SECRET}", "aws"],
    ["curl", "-u", f"admin:{SECRET}", "https://example.com/"],
    ["curl", "-H", f"Authorization: Bearer {SECRET}", "https://example.com/"],
    ["curl", "-H", f"X-Api-Key: {SECRET}"],
    ["psql", f"postgres://shop:{SECRET}@db.example.com/shop"],
    ["git", "clone", f"https://ghp_{SECRET}{SECRET}{SECRET}@github.com/a/b"],
    ["redis-cli", "-a", SECRET, "ping"],
    ["redis-server", "--requirepass", SECRET],
    ["sshpass", f"-p{SECRET}", "ssh", "host"],
    ["sshpass", "-p", SECRET, "ssh", "host"],
    ["ldapsearch", "-D", "cn=admin", "-w", SECRET],
    ["openssl", "rsa", "-passin", f"pass:{SECRET}"],
    ["smbclient", "//host/share", "-U", f"guest%{SECRET}"],
    ["7z", "a", f"-p{SECRET}", "x.7z"],
    ["sh", "-c", f"mysqldump -u root -p{SECRET} shop | gzip >x"],
    ["sh", "-c", f"app --token {SECRET} --port 80"],
    ["sh", "-c", f"app --password '{SECRET}'"],
    ["app", f'{{"user": "x", "password": "{SECRET}"}}'],
    [f"postgres: conninfo password={SECRET} host=x"],
    ["app", f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n"],
]

UNTOUCHED = [
    ["sshd", "-D", "-p", "2222"],
    ["/usr/sbin/sshd", "-p2222"],
    ["nginx", "-p", "/srv/www"],
    ["ssh", "-p2222", "admin@example.com"],
    ["mkdir", "-pv", "/srv"],
    ["find", "/", "-print"],
    ["mysql", "-u", "root", "-p", "shop"],
    ["passwd", "admin"],
    ["/usr/sbin/keyring-daemon", "--unlock"],
    ["java", "-Xmx2g", "-jar", "token-service.jar"],
    ["python3", "-m", "pytest", "tests/test_token.py", "-p", "no:cacheprovider"],
    ["curl", "-u", "admin", "https://example.com:8443/tokens?page=2"],
    ["sh", "-c", "ps -p 1; mysql --host=db -e 'select 1'"],
]


@pytest.mark.parametrize("arguments", MASKED, ids=lambda words: " ".join(words)[:40])
def test_secrets_are_masked_and_the_program_is_still_seen(arguments: list[str]) -> None:
    shown = " ".join(mask_arguments(arguments))
    assert SECRET not in shown and HIDDEN in shown
    assert shown.split()[0].strip(":") == arguments[0].split()[0].strip(":")


@pytest.mark.parametrize("arguments", UNTOUCHED, ids=lambda words: " ".join(words)[:40])
def test_what_is_no_secret_stays(arguments: list[str]) -> None:
    assert mask_arguments(arguments) == arguments


@pytest.mark.parametrize(
    "start",
    [
        "a" * 8000,
        "mysql " * 1500,
        "--password " * 800,
        "x://" * 2000,
        "pass_" * 1700,
        "a-" * 4000,
        "-" * 8000,
        "a." * 4000,
    ],
)
def test_long_lines_are_masked_in_reasonable_time_and_cut(start: str) -> None:
    assert len(mask(start * 3)) <= 3 * 4096


@given(st.lists(st.text(max_size=40), max_size=6))
def test_there_are_as_many_arguments_as_before(arguments: list[str]) -> None:
    assert len(mask_arguments(arguments)) == len(arguments)
