"""Policies of single servers: `read_only` lets pass what is known to read, `allow_list` what begins as an entry does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.fleets import fleet_on
from support.guard_corpus import corpus
from support.sshd import KeyPair

from fleetshell_tools.core.config import Defaults
from fleetshell_tools.core.errors import Blocked, Unreachable
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.types import Act, Verdict
from fleetshell_tools.fleet.guard import DEFAULT_ENTRIES, Guard

GUARD = Guard(DEFAULT_ENTRIES)

READS = [
    "ls -la /var/log", "cat /etc/hosts", "df -h && free -m", "ps aux | grep nginx | awk '{print $2}'", "systemctl status nginx",
    "journalctl -u nginx --since today | tail -n 20", "docker ps -a", "docker compose ps", "docker logs --tail 5 web", "kubectl get pods -A",
    "kubectl -n prod describe pod web-1", "git -C /srv/app log --oneline -3", "git status", "ip addr show", "ip -s link", "ss -tlnp", "apt list --upgradable",
    "dpkg -l | wc -l", "rpm -qa", "find /etc -name '*.conf' -newer /etc/hosts", "find /var -size +100M -exec ls -l {} +", "sudo cat /etc/shadow",
    "sed -n '1,5p' /etc/passwd", "awk -F: '{print $1}' /etc/passwd", "sort /etc/passwd | uniq -c", "du -sh /var/* 2>/dev/null | sort -h",
    "for f in /etc/*.conf; do wc -l \"$f\"; done", "curl -sI http://localhost/", "curl -fsS http://localhost:8080/health", "nginx -t", "sysctl vm.swappiness",
    "crontab -l", "mysql -e 'SELECT count(*) FROM users'", "psql -Atc 'show max_connections'", "redis-cli info", "timeout 5 ping -c 1 10.0.0.1",
    "bash -c 'uptime; who'", "find /etc -type f -print0 | xargs -0 grep -l x", "uptime", "date", "hostname", "x=$(uname -r); echo \"$x\"", "if [ -f /etc/a ]; then cat /etc/a; fi",
    "tar tzf /backup/a.tgz", "iptables -L -n", "aws ec2 describe-instances", "zpool status", "ufw status verbose", "dmesg | tail", "test -f /etc/x && echo y >/dev/null",
]  # fmt: skip

DOES_NOT_READ = [
    "touch /tmp/x", "rm /tmp/x", "echo x > /tmp/x", "cat a >> b", "systemctl restart nginx", "systemctl stop nginx", "docker exec web ls", "docker rm web",
    "kubectl delete pod x", "kubectl apply -f x", "git pull", "git config user.name x", "git -c core.pager=x log", "git log --output=/tmp/x", "ip link set eth1 mtu 9000", "apt install x",
    "find /tmp -delete", "find . -fprint /tmp/x", "find /tmp -exec touch {} +", "sed -i s/a/b/ x", "sed 'w /tmp/x' y", "sed 's/a/b/w /tmp/x' y", "awk '{print > \"/tmp/x\"}' y",
    "awk 'BEGIN{system(\"id\")}'", "sort -o /tmp/x y", "sort --output=/tmp/x y", "sort $OPTIONS x", "tee /tmp/x", "curl -o /tmp/x http://a", "curl -X POST http://a", "curl -d a http://a",
    "wget http://a", "bash script.sh", "./script.sh", "/tmp/ls", "python3 -c 'print(1)'", "perl -e 1", "xargs touch", "sh -c 'touch x'", "sudo touch x", "unknown-program",
    "$COMMAND x", "l? /tmp", "mysql -e 'delete from a where id=1'", "mysql -e 'select 1 into outfile \"/tmp/x\"'", "psql -c 'select pg_terminate_backend(1)'", "redis-cli set a b", "crontab -r", "crontab file",
    "date -s 12:00", "hostname newname", "sysctl -w a=1", "mount /dev/sdb1 /mnt", "nginx -s reload", "journalctl --vacuum-time=1d", "dmesg -C", "kill 1234", "tar xzf a.tgz",
    "ls; touch x", "cat $(touch x)", "f() { touch x; }; f", "alias ls=touch; ls x", "LD_PRELOAD=/tmp/x.so ls", "PATH=/tmp:$PATH ls", "exec 3> /tmp/x", "env PATH=/tmp ls", "ssh other ls",
    "eval \"$(cat x)\"", "source x", "dd if=a of=b", "iptables -A INPUT -j ACCEPT", "aws s3 rm s3://a/b", "zpool scrub tank", "rg --pre=x y", "tree -o x", "xxd -r a b", "man -P x ls",
]  # fmt: skip


def judge(command: str, policy: str, *allowed: str, **fields: bytes) -> Verdict:
    return GUARD.judge(Act(command, policy=policy, allowed=allowed, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("command", READS)
def test_a_server_that_is_read_only_lets_reading_pass(command: str) -> None:
    assert judge(command, "read_only") == Verdict(allowed=True)


@pytest.mark.parametrize("command", DOES_NOT_READ)
def test_a_server_that_is_read_only_refuses_what_is_not_known_to_read(command: str) -> None:
    assert not judge(command, "read_only").allowed


@pytest.mark.parametrize("policy", ["read_only", "allow_list", "mistyped"])
def test_no_policy_lets_pass_what_the_guard_blocks_anyway(policy: str) -> None:
    passed = [
        row.command for row in corpus("own") if row.dangerous and judge(row.command, policy, "rm", "sudo").allowed
    ]
    assert passed == []


def test_the_refusal_names_the_policy_and_the_part_and_cannot_be_approved() -> None:
    verdict = judge("df -h; sudo touch /tmp/x", "read_only")
    assert (verdict.kind, verdict.rule, verdict.argv, verdict.approvable) == (
        "policy",
        "read-only",
        ("touch", "/tmp/x"),
        False,
    )
    assert "`touch /tmp/x`, which is not known to read only" in verdict.reason
    assert "`policy` or `allowed_commands` in the server's file" in verdict.reason


def test_an_unknown_policy_refuses_everything() -> None:
    assert judge("ls", "readonly").rule == "unknown-policy"


def test_stdin_of_a_shell_is_held_against_the_policy_too() -> None:
    assert judge("sh", "read_only", stdin=b"uptime\n").allowed
    assert not judge("sh", "read_only", stdin=b"touch x\n").allowed


@pytest.mark.parametrize(
    ("command", "passes"),
    [
        ("systemctl restart nginx", True),
        ("/usr/bin/systemctl restart nginx", True),
        ("systemctl restart nginx.service", False),
        ("systemctl restart nginx php-fpm", True),
        ("systemctl stop nginx", False),
        ("sudo systemctl restart nginx", False),
        ("sudo -n /opt/deploy --now", True),
        ("sudo -n sh -c '/opt/deploy'", False),
        ("journalctl -u nginx | tail", False),
        ("journalctl -u nginx", True),
        ("journalctl -u nginx > /tmp/x", False),
        ("journalctl -u nginx 2>/dev/null", True),
        ("journalctl -u $(touch x)", False),
        ("journalctl; systemctl restart nginx", True),
        ("x=restart; systemctl $x nginx", True),
        ("systemctl $UNSET nginx", False),
        ("/tmp/journalctl", False),
        ("journalctl() { touch x; }; journalctl", False),
        ("alias journalctl=touch; journalctl x", False),
        ("PATH=/tmp:$PATH journalctl", False),
        ("echo x", False),
        ("jour*ctl", False),
    ],
)
def test_an_allow_list_lets_pass_what_begins_as_an_entry_does(command: str, passes: bool) -> None:
    entries = ("systemctl restart nginx", "journalctl", "sudo -n /opt/deploy", "unbalanced 'quote")
    assert judge(command, "allow_list", *entries).allowed is passes


def test_an_empty_allow_list_lets_nothing_pass() -> None:
    assert not judge("ls", "allow_list").allowed


@pytest.mark.parametrize("policy", ["read_only", "allow_list"])
def test_a_servers_policy_holds_before_anything_connects(policy: str, tmp_path: Path, relay_key: KeyPair) -> None:
    with fleet_on(tmp_path, relay_key) as fleet:
        more: dict[str, Any] = {"allowed_commands": ["uptime"]} if policy == "allow_list" else {}
        fleet.add("web", hostname="127.0.0.1", ssh_port=1, policy=policy, **more)
        with pytest.raises(Blocked, match=r"Blocked \(policy"):
            fleet.run("web", "touch x")
        with pytest.raises(Unreachable):
            fleet.run("web", "uptime")


def test_a_server_without_a_policy_has_that_of_the_defaults(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path, Defaults(policy="read_only"))
    assert inventory.policy(Server("web", "h")) == "read_only"
    assert inventory.policy(Server("web", "h", policy="normal")) == "normal"
