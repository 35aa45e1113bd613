"""The processes that are measured: relays on homes of their own, and the SDK's server; all end with their `with` block."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyotp
import yaml
from support.mcp_client import connected
from support.processes import wait_until
from support.relay import RelayHome, RelayProcess
from support.sshd import KeyPair, make_key

from bench.load import Job, Report
from bench.table import Missing
from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.home import FOLDERS
from fleetshell_tools.relay import auth, tls

HERE = Path(__file__).resolve().parent
SERVERS = ("web-prod-01", "web-prod-02", "db-prod-01")
SETTLING_SECONDS = 2
"""A relay reads a server's file at every call until it is that old, since its times might not show another change yet."""


def need(*programs: str, module: str = "") -> None:
    """Raise `Missing` where a program or a module is not installed."""
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"needs the program {program}")
    if module and importlib.util.find_spec(module) is None:
        raise Missing(f"needs the Python module {module}")


def make_home(path: Path, key: KeyPair, address: str, port: int, user: str) -> RelayHome:
    """A home with three servers, all at one address, as `init` and `add-server` would leave it; one code unlocks all its sessions."""
    for folder in (path, *(path / name for name in FOLDERS)):
        folder.mkdir(mode=0o700, parents=True)
    api_key, secret = auth.key_id("bench") * 4, pyotp.random_base32()
    # Each connection of the load generator has a session of its own, and a code works once.
    config = {"relay": {"http": {"auth": {"api_key": api_key}}}, "mfa": {"totp_secret": secret, "grant_scope": "key"}}
    files = {
        "config.yaml": yaml.safe_dump(config),
        "relay.key": key.private.read_text(),
        "relay.pub": key.public.read_text(),
    }
    for server_id in SERVERS:
        context = {"purpose": "Serves the shop to the world", "environment": "production"}
        server = {
            "id": server_id,
            "hostname": address,
            "ssh_port": port,
            "ssh_user": user,
            "tags": ["web", "shop"],
            "context": context,
        }
        files[f"servers/{server_id}.conf"] = yamlfile.dump(server)
    for name, text in files.items():
        (path / name).write_text(text)
        (path / name).chmod(0o600)
    tls.create(path / "certs" / "cert.pem", path / "certs" / "key.pem", ["localhost"])
    return RelayHome(path)


@contextlib.contextmanager
def relay(home: RelayHome, *arguments: str) -> Iterator[RelayProcess]:
    """A running relay, unlocked by a code; its server files have settled."""
    process = RelayProcess(home, *arguments)
    try:
        newest = max(file.stat().st_ctime for file in (home.path / "servers").iterdir())
        wait_until(lambda: time.time() - newest > SETTLING_SECONDS, 10, "the server files have settled")
        with connected(process) as client:
            client.text("authenticate", code=home.code())
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def sdk_server(relay: RelayProcess, *arguments: str) -> Iterator[tuple[int, int]]:
    """The SDK's server (see `sdk_server.py`) with the tools of a relay and its answer to `list_servers`; gives its process id and its port."""
    need(module="mcp")
    need(module="uvicorn")
    with connected(relay) as client:
        told = {"tools": client.rpc("tools/list").json["result"]["tools"], "answer": client.call("list_servers")}
    text = told["answer"]["content"][0]["text"]
    if not text.startswith(f"Found {len(SERVERS)} servers"):
        raise RuntimeError(f"the relay does not have the servers that it should: {text}")
    command = [sys.executable, str(HERE / "sdk_server.py"), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(told))
            process.stdin.close()
            port = process.stdout.readline()
            if not port:
                raise RuntimeError(f"the SDK's server did not start; its exit code is {process.wait()}")
            yield process.pid, int(port)
        finally:
            # On SIGTERM uvicorn waits for open streams; there is nothing here worth waiting for.
            process.kill()


def load(job: Job) -> Report:
    """Run the load generator."""
    limit = job.seconds + job.warm_up + 60
    command = [sys.executable, "-S", "-E", str(HERE / "load.py")]
    given = json.dumps(dataclasses.asdict(job))
    run = subprocess.run(command, input=given, capture_output=True, text=True, timeout=limit)
    if run.returncode != 0:
        raise RuntimeError(f"the load generator failed on {job.method}:\n{run.stderr}")
    return Report(**json.loads(run.stdout))


def seconds(command: list[str], environment: dict[str, str] | None = None) -> float:
    """How long a program takes from its start to its end.

    Without a time limit, because with one `subprocess` does not wait but polls, at intervals that grow to 50 ms: every
    time would come out as one of 7.5, 15.5, 31.5, 63.5 and so on. The alarm of the whole run is the limit.
    """
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, and of its children that have ended, which is counted in whole ticks of 10 ms.

    The process's own comes from its CPU clock, whose id clock_getcpuclockid(3) makes of the process id: ticks would be
    too coarse for a few commands. The children's is in proc(5), /proc/pid/stat, fields 16 and 17.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime((~pid << 3) | 2) + sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")


def resident_mebibytes(pid: int) -> float:
    """VmRSS of a process (proc(5), /proc/pid/status)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")


__all__ = [
    "cpu_seconds",
    "load",
    "make_home",
    "make_key",
    "need",
    "relay",
    "resident_mebibytes",
    "sdk_server",
    "seconds",
]
