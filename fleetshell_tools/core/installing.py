"""The marketplace's work: what may be installed at once, what waits for the operator, and what was installed.

What the catalogue holds is installed when it is asked for. Any other package, and any argument or variable that a model gives,
is written down in `mcps/store/<id>/staged.json` and does nothing until the operator has seen it: `fleetshell mcp accept ID`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fleetshell_tools.core import catalogue, packages, storage, yamlfile
from fleetshell_tools.core.catalogue import Entry
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, NotFound, Refused
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.install_plan import Installed, Plan, Wish, plan_entry, plan_package, requirements
from fleetshell_tools.core.mcp_pins import Pins
from fleetshell_tools.core.mcps import MCP_ID, MCP_ID_MEANS, McpStore, parse
from fleetshell_tools.core.packages import Installer, Package
from fleetshell_tools.core.types import Cancellation

Record = Callable[..., object]
"""Writes one durable record to the audit log: the event, then fields."""

DATA = "data"
"""The folder beside a server's versions in which it keeps what must outlive them."""
MOST_WAITING = 20
LONGEST_GIVEN = 32_768
"""Characters of arguments and variables in one request."""
_DONE = "installed.json"


class Marketplace:
    """Installs external MCP servers into a home; for threads and processes at once.

    Args:
        installer: Runs the package managers.
    """

    def __init__(self, home: Home, installer: Installer) -> None:
        self._home = home
        self._installer = installer
        self._store = McpStore(home.path / "mcps")
        self._folder = home.path / "mcps" / "store"
        self._tracking = home.path / ".installed_mcps.json"

    # What there is

    def installed(self) -> dict[str, dict[str, Any]]:
        """What was installed, by id, as `.installed_mcps.json` holds it.

        Raises:
            ConfigError: The file is damaged.
        """
        try:
            storage.check_private(self._tracking, folder=False)
            data = json.loads(self._tracking.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
            raise ConfigError(f"{self._tracking} is damaged. Mend it, or move it away; the servers themselves stay.")
        return data

    def staged(self) -> dict[str, Plan]:
        """What waits for the operator, by id."""
        found = {}
        for path in sorted(self._folder.glob("*/staged.json")):
            plan = self._waiting(path.parent.name)
            if plan is not None:
                found[plan.mcp_id] = plan
        return found

    def missing(self, mcp_id: str) -> list[str]:
        """What this machine lacks for a server that came from the catalogue."""
        tracked = self.installed().get(mcp_id, {})
        entry = catalogue.by_id(str(tracked.get("catalogue_id") or ""))
        if entry is None:
            return []
        blocking, wanted = requirements(entry, self._installer)
        return [*blocking, *wanted]

    # Asking

    def request(
        self,
        asked: str,
        *,
        enable: bool = True,
        mcp_id: str = "",
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        record: Record,
        cancelled: Cancellation,
    ) -> Installed:
        """What `install_mcp` does: install, or write down what the operator has to accept first.

        Raises:
            BadArgument, Refused, NotFound: It can't be asked for so; the sentence says how.
            FleetShellError: This machine lacks something, or it could not be installed.
        """
        entry = catalogue.find(asked)
        package = None if entry else packages.parse(asked)
        given = dict(env or {})
        if sum(map(len, [*args, *given, *given.values()])) > LONGEST_GIVEN:
            raise BadArgument(
                f"Arguments and variables are longer than {LONGEST_GIVEN:,} characters; put them into a file."
            )
        packages.refuse_home([*args, *given.values()], self._home.path)
        chosen = mcp_id or (entry.id if entry else packages.id_for(package) if package else "")
        if not re.fullmatch(MCP_ID, chosen):
            raise BadArgument(
                f'"{chosen[:80]}" can\'t be an id; give `mcp_id`: {MCP_ID_MEANS}.'
                if chosen
                else "Give an `mcp_id` for it."
            )
        known = self._in_place(chosen, entry, package)
        wish = Wish(asked, chosen, given, args, enable)
        if entry is not None:
            plan = plan_entry(entry, wish, self._installer, self._folder / chosen / DATA)
            if known.get("version") == entry.version and not wish.given:
                return Installed(plan, True, self._store.get(chosen).enabled, already=True)
            if not wish.given:
                return self._carry_out(plan, record, cancelled)
        else:
            assert package is not None
            plan = plan_package(package, wish, self._installer, cancelled)
        return self._stage(plan, record)

    def accept(self, plan: Plan, *, record: Record, cancelled: Cancellation) -> Installed:
        """Install what waits for the operator, if it is still what they saw.

        Raises:
            NotFound, Refused: It does not wait any more; it has been replaced by another.
            FleetShellError: It can't be installed; it goes on waiting.
        """
        waiting = self._waiting(plan.mcp_id)
        if waiting is None:
            raise NotFound(f"{plan.mcp_id} does not wait to be accepted any more.")
        if waiting != plan:
            raise Refused(f"What waits as {plan.mcp_id} has changed meanwhile. Look at it again.")
        record("mcp_accepted", **plan.fields())
        return self._carry_out(plan, record, cancelled)

    def remove(self, mcp_id: str) -> Path | None:
        """Remove a server's file, its pins, what was installed for it and what waits.

        Returns:
            The folder of what it had kept, which stays; None where it kept nothing.

        Raises:
            NotFound: There is no such server.
        """
        waiting = self._waiting(mcp_id) if re.fullmatch(MCP_ID, mcp_id) else None
        if waiting is None or os.path.lexists(self._store.path(mcp_id)):
            self._store.remove(mcp_id)
        Pins(self._home.path / "mcps" / ".pins").forget(mcp_id)
        self._track(mcp_id, None)
        folder = self._folder / mcp_id
        kept = folder / DATA
        if kept.is_dir() and any(kept.iterdir()):
            self._clean(folder, keep=DATA)
            (folder / "staged.json").unlink(missing_ok=True)
            return kept
        shutil.rmtree(folder, ignore_errors=True)
        return None

    # How

    def _in_place(self, mcp_id: str, entry: Entry | None, package: Package | None) -> dict[str, Any]:
        """What is tracked of an id that is to be installed (again).

        Raises:
            BadArgument: The id is another server's.
        """
        if not os.path.lexists(self._store.path(mcp_id)):
            return {}
        tracked = self.installed().get(mcp_id)
        if tracked is None:
            raise BadArgument(
                f'There is an external MCP server "{mcp_id}" already, which the operator added. Give another `mcp_id`.'
            )
        name = (entry.package or entry.url) if entry else package.name if package else ""
        if tracked.get("installed_package") != name:
            raise BadArgument(
                f'"{mcp_id}" is {tracked.get("installed_package")} already. Give another `mcp_id`, or ask the operator to run '
                f"`fleetshell mcp remove {mcp_id}`."
            )
        return tracked

    def _stage(self, plan: Plan, record: Record) -> Installed:
        """Write down what the operator has to accept.

        Raises:
            BadArgument, ConfigError: It is too much, or could not be written into a server's file.
        """
        plan = dataclasses.replace(plan, staged_at=_now())
        path = self._store.path(plan.mcp_id)
        parse(yamlfile.dump(_values(plan, plan.program, True)), str(path), plan.mcp_id)
        waiting = self.staged()
        if len(waiting) >= MOST_WAITING and plan.mcp_id not in waiting:
            raise Refused(
                f"{len(waiting)} servers wait for the operator already. Ask them to run `fleetshell mcp list` first."
            )
        record("mcp_staged", **plan.fields())
        folder = self._folder / plan.mcp_id
        storage.make_folder(folder)
        storage.write_atomic(folder / "staged.json", json.dumps(dataclasses.asdict(plan), indent=1) + "\n")
        return Installed(plan, False, False)

    def _waiting(self, mcp_id: str) -> Plan | None:
        path = self._folder / mcp_id / "staged.json"
        try:
            storage.check_private(path, folder=False)
            return Plan(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise ConfigError(f"{path} is damaged. Remove it, and have the package asked for again.") from None

    def _carry_out(self, plan: Plan, record: Record, cancelled: Cancellation) -> Installed:
        """Install, write the server's file, and keep track of it; the records of it are written before and after."""
        record("mcp_installing", **plan.fields())
        try:
            with self._alone(plan.mcp_id):
                installed = self._carry_out_alone(plan, cancelled)
        except (FleetShellError, OSError) as error:
            why = error.reason if isinstance(error, FleetShellError) else str(error.strerror)
            record("mcp_install_failed", success=False, reason=why, **plan.fields())
            if isinstance(error, FleetShellError):
                raise
            raise FleetShellError(
                f"{plan.spec} could not be installed: {error.strerror}"
                f"{f' ({error.filename})' if error.filename else ''}. Nothing of it was kept."
            ) from None
        record("mcp_installed", success=True, enabled=installed.enabled, **plan.fields())
        return installed

    def _carry_out_alone(self, plan: Plan, cancelled: Cancellation) -> Installed:
        folder = self._folder / plan.mcp_id
        enabled = plan.enable and not plan.missing
        program = "" if plan.url else str(self._program(plan, folder / plan.version, cancelled))
        if any(str(folder / DATA) in value for value in plan.env.values()):
            storage.make_folder(folder / DATA)
        values = _values(plan, program, enabled)
        tracked = self.installed().get(plan.mcp_id)
        self._store.write(values, replace=tracked is not None)
        self._track(plan.mcp_id, {
            "package_name": plan.package_name, "installed_at": _now(), "mcp_id": plan.mcp_id,
            "installed_package": plan.package or plan.url, "version": plan.version, "registry": plan.registry,
            "integrity": plan.integrity or None, "catalogue_id": plan.entry or None,
        })  # fmt: skip
        (folder / "staged.json").unlink(missing_ok=True)
        self._clean(folder, keep=plan.version)
        return Installed(plan, True, enabled)

    def _program(self, plan: Plan, folder: Path, cancelled: Cancellation) -> Path:
        """The program of a package, which is installed where it is not there already."""
        mark = folder / _DONE
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            done = json.loads(mark.read_bytes())
            if done["package"] == plan.spec and os.access(done["program"], os.X_OK):
                return Path(done["program"])
        entry = catalogue.by_id(plan.entry)
        lock = plan.lock or (entry.lock() if entry else "")
        if not lock:
            raise Refused(f"{plan.spec} is not in the marketplace any more. Have it asked for again.")
        shutil.rmtree(folder, ignore_errors=True)
        storage.make_folder(folder)
        try:
            package = Package(plan.registry, plan.package, plan.version)
            program = self._installer.install(package, lock, plan.program, folder, cancelled)
            storage.write_atomic(mark, json.dumps({"package": plan.spec, "program": str(program)}) + "\n")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return program

    @contextlib.contextmanager
    def _alone(self, mcp_id: str) -> Iterator[None]:
        storage.make_folder(self._folder / mcp_id)
        lock = storage.try_lock(self._folder / mcp_id / ".lock")
        if lock is None:
            raise FleetShellError(f"{mcp_id} is being installed right now. Wait for that, and ask again.")
        try:
            yield
        finally:
            os.close(lock)

    def _track(self, mcp_id: str, entry: dict[str, Any] | None) -> None:
        with storage.locked(self._home.path / "mcps" / ".installed.lock"):
            entries = self.installed()
            if entries.pop(mcp_id, None) is None and entry is None:
                return
            if entry is not None:
                entries[mcp_id] = entry
            storage.write_atomic(self._tracking, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")

    @staticmethod
    def _clean(folder: Path, keep: str) -> None:
        """Remove the versions of a server but one; what it keeps stays."""
        for item in folder.iterdir():
            if item.is_dir() and not item.is_symlink() and item.name not in (keep, DATA):
                shutil.rmtree(item, ignore_errors=True)


def _values(plan: Plan, program: str, enabled: bool) -> dict[str, Any]:
    """The keys of a server's file."""
    how = (
        {"url": plan.url, "headers": plan.headers}
        if plan.url
        else {"command": program, "args": plan.args, "env": plan.env}
    )
    rest = {"enabled": enabled, "auto_start": True, "description": plan.description, "tags": plan.tags}
    return {"id": plan.mcp_id, "name": plan.name, **how, **rest}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
