"""`serve`, `status` and `reload`: running the relay, and talking to a running one."""

from __future__ import annotations

import argparse
import calendar
import contextlib
import dataclasses
import logging
import logging.handlers
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import control, storage, supervisor
from fleetshell_tools.core.errors import FleetShellError, NotFound, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.masking import mask_whole

if TYPE_CHECKING:
    from fleetshell_tools.core.config import Config
    from fleetshell_tools.daemon import Relay

log = logging.getLogger("fleetshell")

MANY_FILES = 65536
SOON_DAYS = 30


@command(
    "serve",
    Arg("--host", help="address to listen on, in place of relay.http.host"),
    Arg("--port", type=int, help="port to listen on, in place of relay.http.port"),
    Arg(
        "--no-tls",
        action="store_true",
        help="plain HTTP, on 127.0.0.1 unless --host is given: the API key then goes in clear",
    ),
    Arg(
        "--read-only",
        action="store_true",
        help="refuse tools that can change something, and commands that are not known to read only",
    ),
    example="fleetshell serve --port 8443",
)
def serve(args: argparse.Namespace, home: Home) -> int:
    """Run the relay in the foreground until SIGTERM or SIGINT; SIGHUP reads the configuration again."""
    config = home.config()
    home.check_files(config)
    _set_limits()
    from fleetshell_tools.daemon import Relay

    with _only_one(home), _logging(home, config):
        host = args.host
        if args.no_tls or not config.relay.http.use_tls:
            host = host or "127.0.0.1"
        relay = Relay(home, config, host=host, port=args.port, use_tls=not args.no_tls, reads_only=args.read_only)
        socket = control.ControlServer(home.control_socket, lambda request: _answer(relay, request))
        try:
            home.sweep()
            left = relay.app.fleet.sweep()
            if left:
                log.info("Ended %d SSH connections that an earlier relay had left.", left)
            _announce(relay, config)
            supervisor.notify("READY=1", f"STATUS=Serves {relay.address}")
            _serve_until_signalled(relay)
        finally:
            socket.close()
        log.info("The relay has stopped.")
    return 0


def _set_limits() -> None:
    """A command takes four descriptors here and three in its ssh master: take as many as we may have, and can have use for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # A core file would hold every secret that we have in memory, and our ssh processes take this limit over.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def _only_one(home: Home) -> Iterator[None]:
    lock = storage.try_lock(home.relay_lock)
    if lock is None:
        raise FleetShellError(
            f"A relay is already running on {home.path} (see `fleetshell status`). Stop it first, or use another --home."
        )
    try:
        yield
    finally:
        os.close(lock)


class _Masked(logging.Formatter):
    """Lines of the log, tracebacks too, without the secrets that a command in them may hold."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_whole(super().format(record))


@contextlib.contextmanager
def _logging(home: Home, config: Config) -> Iterator[None]:
    """Log to the file, and to stderr, which may be journald's; times are UTC."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    path = home.file(config.relay.log_file)
    try:
        handlers.append(logging.handlers.WatchedFileHandler(path, encoding="utf-8"))
        os.chmod(path, storage.PRIVATE_FILE)
    except OSError as error:
        raise FleetShellError(
            f"The log {path} can't be written: {error.strerror}. Set relay.log_file, or free the disk."
        ) from None
    formatter = _Masked("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    root = logging.getLogger()
    root.setLevel(config.relay.log_level)
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    if supervisor.is_journal(sys.stderr):
        handlers[0].setFormatter(supervisor.JournalFormatter())
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _announce(relay: Relay, config: Config) -> None:
    status = relay.status()
    log.info("FleetShell %s serves %s with %d servers.", status["version"], status["address"], status["servers"])
    if relay.app.reads_only:
        log.info("It only reads: what can change something is refused (--read-only).")
    if not relay.use_tls:
        log.warning(
            "TLS is off: the API key and all output travel in clear. Use this behind a TLS proxy or on loopback only."
        )
    if not config.mfa.enabled:
        log.warning("MFA is disabled: whoever has the API key can run commands. `fleetshell auth enable` turns it on.")
    if status["locked"]:
        log.warning("The relay is locked: no tool works until `fleetshell unlock`.")
    for name, problem in status["disabled_servers"].items():
        log.warning("The server %s is disabled: %s", name, problem)


def _serve_until_signalled(relay: Relay) -> None:
    """Serve in this thread; a helper thread carries out what the signal handlers only note."""
    wanted: list[str] = []
    noted = threading.Event()
    stopping = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if number == signal.SIGHUP:
            wanted.append("reload")
        elif stopping:
            relay.hurry()
        else:
            stopping = True
            wanted.append("stop")
        noted.set()

    def obey() -> None:
        while True:
            noted.wait()
            noted.clear()
            while wanted:
                if wanted.pop(0) == "stop":
                    supervisor.notify("STOPPING=1")
                    relay.stop()
                    return
                _reload(relay)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    helper = threading.Thread(target=obey, name="signals")
    helper.start()
    try:
        relay.serve()
    finally:
        wanted.append("stop")
        noted.set()
        helper.join()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _reload(relay: Relay) -> str:
    supervisor.notify(*supervisor.reloading())
    try:
        relay.reload()
    except FleetShellError as error:
        log.error("The configuration was not reloaded, the old one stays: %s", error.message)
        return error.message
    finally:
        supervisor.notify("READY=1")
    log.info("The configuration was reloaded.")
    return ""


def _answer(relay: Relay, request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request on the control socket."""
    if request["do"] == "status":
        return {"status": relay.status()}
    if request["do"] == "watch":
        return relay.live()
    if request["do"] == "reload":
        problem = _reload(relay)
        if problem:
            raise FleetShellError(f"The old configuration stays: {problem}")
        return {"reloaded": True}
    if request["do"] == "sessions":
        return {"sessions": [{**dataclasses.asdict(info), "owner": owner, "created_at": _utc(info.created_at),
                              "last_used_at": _utc(info.last_used_at)} for owner, info in relay.app.fleet.shells.all()]}  # fmt: skip
    if request["do"] == "close_session":
        from fleetshell_tools.offline import cli_caller

        try:
            relay.app.fleet.shells.close_any(str(request["id"]), cli_caller("session close"))
        except NotFound:
            return {"closed": False}
        return {"closed": True}
    if request["do"] == "mcps":
        return {"mcps": relay.app.upstreams.describe()}
    if request["do"] == "approvals":
        return {"approvals": relay.app.approvals.listed()}
    if request["do"] == "approval":
        return {"approval": relay.app.approvals.get(str(request["id"]))}
    if request["do"] == "approve":
        return {"approval": relay.approve(str(request["id"]), str(request["code"]))}
    if request["do"] == "revoke":
        return relay.revoke(everything=bool(request["all"]))
    if request["do"] == "heed_people":
        return relay.heed_people()
    if request["do"] == "heed_lock":
        return relay.heed_lock()
    raise KeyError(request["do"])


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@command(
    "status",
    Arg("--watch", action="store_true", help="a live view on the terminal: hosts, connections, sessions, commands, what was blocked; q quits"),
    JSON,
    example="fleetshell status --watch",
)  # fmt: skip
def status(args: argparse.Namespace, home: Home) -> int:
    """Is the relay up, since when, and what does it do. Exit code 1 where none is running."""
    home.check()
    if args.watch:
        from fleetshell_tools.cli.watch import watch

        if args.json or not output.interactive():
            raise UsageError(
                "--watch needs a terminal, and does not go with --json. `fleetshell status --json` prints the facts once."
            )
        return watch(home)
    answer = control.ask(home.control_socket, {"do": "status"})
    if answer is None:
        if args.json:
            output.print_json({"running": False})
        else:
            print(f"No relay is running on {home.path}. Start one with `fleetshell serve`.")
        return 1
    facts = answer["status"]
    if args.json:
        output.print_json({"running": True, **facts})
        return 0
    print(f"The relay (version {facts['version']}) is running since {facts['started_at']}: {facts['address']}")
    if facts["read_only"]:
        print("It only reads: what can change something is refused (--read-only).")
    print(f"servers: {facts['servers']} usable, {len(facts['disabled_servers'])} disabled")
    for name, problem in facts["disabled_servers"].items():
        print(f"  {name}: {problem}")
    print(
        f"clients: {facts['mcp_sessions']} MCP sessions, {facts['authenticated']} authenticated, {facts['http']['connections']} connections"
    )
    if facts["locked"]:
        print(output.paint("LOCKED: no tool works until `fleetshell unlock`", "red"))
    if facts["approvals_waiting"]:
        print(f"calls that wait for you: {facts['approvals_waiting']} (`fleetshell approvals`)")
    print(f"shell sessions: {facts['shell_sessions']}")
    print(f"calls since the start: {facts['calls']}")
    print(f"MFA: {'enabled' if facts['mfa_enabled'] else 'DISABLED'}")
    if facts["certificate_ends"]:
        print(certificate_line(facts["certificate_ends"], time.time()))
    return 0


def certificate_line(ends: str, now: float) -> str:
    """When the certificate ends, and what to do where that is soon."""
    left = calendar.timegm(time.strptime(ends, "%Y-%m-%dT%H:%M:%SZ")) - now
    line = f"certificate until {ends}"
    if left > SOON_DAYS * 86400:
        return line
    rest = "it has ENDED" if left < 0 else f"{int(left // 86400)} days left"
    return output.paint(
        f"{line}: {rest}; `fleetshell init --renew-cert` makes a new one", "red" if left < 0 else "yellow"
    )


@command("reload", example="fleetshell reload")
def reload(args: argparse.Namespace, home: Home) -> int:
    """Make the running relay read config.yaml and its certificate again; an invalid one is refused and the old one kept."""
    home.check()
    if control.ask(home.control_socket, {"do": "reload"}) is None:
        print(f"No relay is running on {home.path}; the configuration is read when it starts.", file=sys.stderr)
        return 1
    print("The relay has read its configuration again.")
    return 0


COMMANDS = (serve, status, reload)
