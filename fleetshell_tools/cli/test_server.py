"""`test`: the connection to one server or to all, step by step, each with its time."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError, FleetShellError, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import Cancellation

if TYPE_CHECKING:
    from fleetshell_tools.offline import SshFleet, Step

AT_ONCE = 16


@dataclass(frozen=True)
class _Report:
    """How the test of one server went; `problem` is why there was nothing to test."""

    server_id: str
    address: str
    steps: list[Step]
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and all(step.ok for step in self.steps)

    def data(self) -> dict[str, Any]:
        steps = [asdict(step) for step in self.steps]
        return {
            "id": self.server_id,
            "ok": self.ok,
            **({"reason": self.problem} if self.problem else {}),
            "steps": steps,
        }


@command(
    "test",
    Arg("id", nargs="?", metavar="ID", help="the server's id"),
    Arg("--all", action="store_true", help="every server, several at once"),
    JSON,
    example="fleetshell test --all",
)
def test(args: argparse.Namespace, home: Home) -> int:
    """Test the connection to a server: resolve, connect, host key, login, command. Exit code 1 where a step fails."""
    if args.all == (args.id is not None):
        raise UsageError("Say which server: `fleetshell test ID`, or `fleetshell test --all`.")
    config = home.config()
    from fleetshell_tools.offline import client_fleet

    fleet, inventory, close = client_fleet(home, config)
    cancelled = Cancellation()
    try:
        reports = (
            _all(fleet, inventory, config, cancelled)
            if args.all
            else iter([_one(fleet, inventory.get(args.id), config, cancelled)])
        )
        done = []
        for report in reports:
            done.append(report)
            if not args.json:
                _print(report)
    except BaseException:
        cancelled.set("interrupted")
        raise
    finally:
        close()
    if args.json:
        data = [report.data() for report in sorted(done, key=lambda report: report.server_id)]
        output.print_json(data if args.all else data[0])
    elif not done:
        print("No servers are registered yet. Add one with `fleetshell add-server`.")
    elif args.all:
        print(f"{sum(report.ok for report in done)} of {len(done)} servers passed.")
    return 0 if all(report.ok for report in done) else FleetShellError.exit_code


def _all(fleet: SshFleet, inventory: Inventory, config: Config, cancelled: Cancellation) -> Iterator[_Report]:
    """The report of every server as it comes, those that are disabled first."""
    for name, reason in inventory.problems().items():
        yield _Report(name, "disabled", [], reason)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="test") as pool:
        try:
            for future in as_completed(
                [pool.submit(_one_of_many, fleet, server, config, cancelled) for server in inventory.all()]
            ):
                yield future.result()
        except BaseException:
            cancelled.set("interrupted")
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_of_many(fleet: SshFleet, server: Server, config: Config, cancelled: Cancellation) -> _Report:
    try:
        return _one(fleet, server, config, cancelled)
    except ConfigError as error:
        return _Report(server.id, server.hostname, [], error.message)


def _one(fleet: SshFleet, server: Server, config: Config, cancelled: Cancellation) -> _Report:
    from fleetshell_tools.offline import check, cli_caller

    # Host key, login and command may each take the whole time to connect, and so may a jump server's.
    seconds = 6 * (server.connect_timeout or config.ssh.connect_timeout) + 30
    steps = check(fleet, server, time.monotonic() + seconds, cli_caller("test"), cancelled)
    return _Report(server.id, server.hostname, steps)


def _print(report: _Report) -> None:
    print(f"{report.server_id} ({report.address})", flush=True)
    if report.problem:
        print(f"  {output.paint('✗', 'red')} {one_line(report.problem, 500)}", flush=True)
    for step in report.steps:
        mark = "·" if step.ok is None else output.paint("✓", "green") if step.ok else output.paint("✗", "red")
        took = "not tried" if step.ok is None else f"{step.ms} ms" if step.ms is not None else ""
        said = f"  {step.detail}" if step.ok else ""
        print(f"  {mark} {step.name.replace('_', ' '):<9}{took:>9}{said}".rstrip(), flush=True)
        if step.ok is False:
            print(f"    {step.detail}", flush=True)


COMMANDS = (test,)
