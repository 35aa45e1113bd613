"""The relay as it runs: the application behind HTTPS, its housekeeping, reloading and stopping."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

from fleetshell_tools.app import App
from fleetshell_tools.core import supervisor
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import AuditUnavailable, AuthenticationFailed, ConfigError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.types import Caller, Cancellation, Principal
from fleetshell_tools.core.version import __version__
from fleetshell_tools.fleet.fleet import make_guard
from fleetshell_tools.offline import cli_caller
from fleetshell_tools.relay import tls, x509
from fleetshell_tools.relay.auth import boottime
from fleetshell_tools.relay.gateway import Gateway, HostNames
from fleetshell_tools.relay.httpd import HttpServer, Limits
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.replies import STOPPING
from fleetshell_tools.relay.sessions import Sessions

log = logging.getLogger("fleetshell")

RELAY = Caller(Principal("relay"))

LOOK_SECONDS = 2.0
"""How often to look whether a list that clients know has changed."""

LAST_SECONDS = 5.0
"""What cancelled calls get to end on their hosts and to answer."""

DAY = 86400.0

MOST = 200
"""How many servers, sessions and commands a live view is sent: no terminal has room for more."""

TURNS = 15
"""Other housekeeping is done at every so-many-th look."""


class Relay:
    """An `App` behind HTTPS: `serve` runs until `stop`.

    Args:
        host, port: Where to listen, in place of the configuration's.
        use_tls: In place of the configuration's.
        reads_only: Refuse what can change anything.

    Raises:
        FleetShellError: The configuration can't be served; the sentence says why.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        *,
        host: str | None = None,
        port: int | None = None,
        use_tls: bool = True,
        reads_only: bool = False,
    ) -> None:
        check_ready(config)
        self.home = home
        self.use_tls = use_tls and config.relay.http.use_tls
        self.started = time.time()
        self._started_boot = boottime()
        http = config.relay.http
        context = tls.server_context(home.file(http.cert_file), home.file(http.key_file)) if self.use_tls else None
        self._certificate = tls.read(home.file(http.cert_file)) if self.use_tls else None
        self._look_again = 0.0
        self.app = App(home, config, home.run, reads_only=reads_only)
        try:
            self.app.audit.seal()
        except AuditUnavailable as error:
            log.error("%s", error)  # each call that acts is told so too, and nothing runs
        self.app.take_people()
        self.sessions = Sessions(
            now=boottime,
            per_key=config.protocol.sessions_per_key,
            idle_seconds=max(config.protocol.session_idle, config.mfa.session_lifetime),
        )
        self.sessions.on_end(lambda session: self.app.auth.forget(session.key_id, session.id))
        self.endpoint = Endpoint(
            server_info={"name": "fleetshell", "title": "FleetShell", "version": __version__},
            offer=self.app,
            sessions=self.sessions,
            modern=config.protocol.modern,
            secure=self.use_tls,
        )
        self._gateway = Gateway(
            self.endpoint,
            lambda header: self.app.auth.principal(header),
            self.app,
            self._hosts(config, self._certificate),
            log,
            patience=config.jobs.hand_over_seconds,
        )
        self._lists = self.app.generations()
        limits = Limits(max_connections=http.max_connections, max_unproven_per_address=http.max_unproven_per_address)
        address = (host or http.host, http.port if port is None else port)
        self.http = HttpServer(address, self._gateway, ssl_context=context, limits=limits, log=log)
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._recovery = Cancellation()
        self._heeding = threading.Lock()
        self._meeting = threading.Lock()
        self._heeded = self.app.emergency.engaged
        self._ended: dict[str, int] = {}

    def _hosts(self, config: Config, certificate: x509.Facts | None) -> HostNames:
        names = certificate.names if certificate else tls.machine_names([])[0]
        return HostNames([*config.relay.http.allowed_hosts, *names])

    def serve(self) -> None:
        """Serve until `stop` is called from another thread (or a signal handler)."""
        threads = [
            threading.Thread(target=self._keep_house, name="housekeeping"),
            threading.Thread(target=self._recover, name="recovery"),
            threading.Thread(target=self._show_life, name="watchdog"),
        ]
        for thread in threads:
            thread.start()
        try:
            self.app.upstreams.start()
            self.http.serve_forever()
        finally:
            self._stopping.set()
            self._recovery.set("the relay is stopping")
            for thread in threads:
                thread.join()
            self._gateway.close()
            self.app.close()

    def stop(self) -> None:
        """Accept nothing more, let running commands end within `relay.stop_seconds`, then cancel the rest; returns when all is over."""
        grace = self.app.config.relay.stop_seconds
        running = self.endpoint.running() + self.app.jobs.running()
        log.info(
            "Stopping%s.",
            f": {running} running calls and jobs get {grace} s, or until a second signal" if running else "",
        )
        cutting = threading.Thread(target=self._cut, args=(grace,), name="cutting")
        cutting.start()
        self.endpoint.stop()
        self.http.shutdown(grace + LAST_SECONDS)
        self._hurry.set()
        cutting.join()

    def hurry(self) -> None:
        """Give what still runs no more time; safe in a signal handler."""
        self._hurry.set()

    def _cut(self, grace: float) -> None:
        self._hurry.wait(grace)
        self.endpoint.cancel_all(STOPPING)
        self.app.parked.close(STOPPING)
        self.app.jobs.close()

    def reload(self) -> None:
        """Read `config.yaml` and the certificate again; where anything is invalid, the old ones stay.

        Raises:
            FleetShellError: What is invalid.
        """
        config = self.home.config()
        check_ready(config)
        cert, key = self.home.file(config.relay.http.cert_file), self.home.file(config.relay.http.key_file)
        certificate = tls.read(cert) if self.use_tls else None
        context = tls.server_context(cert, key) if self.use_tls else None
        self.app.reconfigure(config)
        self._gateway.hosts = self._hosts(config, certificate)
        self._certificate, self._look_again = certificate, 0.0
        if context:
            self.http.replace_ssl_context(context)
        self._part_with_retired_keys()
        self.heed_people()

    # What the operator does

    def approve(self, approval_id: str, code: str) -> dict[str, Any]:
        """Let a blocked call through, once, after a fresh code of the operator.

        Raises:
            NotFound: There is no such call.
            AuthenticationFailed: The code is wrong, was used, or comes during a lock-out.
            AuditUnavailable: It can't be recorded, so it is not approved.
        """
        asked = self.app.approvals.get(approval_id)
        servers = asked["server_ids"]
        fields: dict[str, Any] = {
            **self._operator("approve"), "approval": approval_id, "approved_for": asked["principal"], "approved_tool": asked["tool"],
            "server_id": servers[0] if len(servers) == 1 else None, "servers": servers, "rule": asked["rule"],
            "command": None if asked["typed"] else asked["command"],
        }  # fmt: skip
        try:
            self.app.auth.confirm(code)
        except AuthenticationFailed as error:
            self.app.audit.record("approval_failed", success=False, reason=error.message, **fields)
            raise
        self.app.audit.record("approved", durable=True, success=True, **fields)
        self.app.approvals.approve(approval_id)
        return asked

    def revoke(self, *, everything: bool) -> dict[str, int]:
        """End every grant now, and with `everything` also what runs; returns how much that was."""
        self.app.audit.record("grants_revoked", durable=True, everything=everything, **self._operator("auth revoke"))
        return (
            self._end_everything("the operator revoked all access")
            if everything
            else {"grants": self.app.auth.revoke()}
        )

    def heed_lock(self) -> dict[str, int]:
        """Where the relay has been locked, end what goes on, once for each time; returns how much that was."""
        with self._heeding:
            engaged, heeded = self.app.emergency.engaged, self._heeded
            self._heeded = engaged
            if engaged and not heeded:
                log.warning("The operator has locked the relay: everything that runs is ended, and no tool works.")
                self._ended = self._end_everything("the operator locked the relay")
            return self._ended if engaged else {}

    def heed_people(self) -> dict[str, int]:
        """Take over who is in `users/` now, and end what those have running who are gone or changed; returns how much that was."""
        with self._meeting:
            before = {person.key_id: person.name for person in self.app.people.all()}
            gone = self.app.take_people()
            if not gone:
                return {}
            ended = self._part_with(gone.__contains__, "the operator has changed or ended this person's access")
            names = sorted(before[key] for key in gone)
            log.info("The access of %s has ended or is another one now: %s", ", ".join(names), ended)
            self.app.audit.record(
                "access_changed", durable=True, names=names, principal=RELAY.principal.key_id, **ended
            )
            return ended

    def _end_everything(self, why: str) -> dict[str, int]:
        app = self.app
        app.approvals.clear()
        grants = app.auth.revoke()
        self.endpoint.cancel_all(why)
        app.parked.cancel_all(why)
        jobs = app.jobs.cancel_all(why)
        return {"grants": grants, "jobs": jobs, "shell_sessions": app.fleet.shells.close_every(RELAY, why)}

    def _part_with_retired_keys(self) -> None:
        """End what belongs to keys that are valid no more: nobody could see or stop it."""
        known = self.app.auth.key_ids()
        self._part_with(lambda key: key not in known, "its API key is no longer valid")

    def _part_with(self, of: Callable[[str], bool], why: str) -> dict[str, int]:
        """End whatever belongs to these keys; returns how much that was."""
        # Connections that were admitted with such a key must show one again.
        self._gateway.hosts = self._gateway.hosts
        self.endpoint.cancel_all(why, of)
        sessions = [session for session in self.sessions.live() if of(session.key_id)]
        for session in sessions:
            self.sessions.end(session)
        self.app.approvals.clear(of)
        jobs = self.app.jobs.cancel_all(why, of)
        shells = self.app.fleet.shells.close_every(RELAY, why, of)
        return {"mcp_sessions": len(sessions), "jobs": jobs, "shell_sessions": shells}

    def _operator(self, command: str) -> dict[str, Any]:
        caller = cli_caller(command)
        return {"principal": caller.principal.key_id, "client": caller.client, "tool": command}

    @property
    def address(self) -> str:
        """Where it is reached, as seen from here."""
        return f"{'https' if self.use_tls else 'http'}://{self.http.server_name}:{self.http.port}/mcp"

    def status(self) -> dict[str, Any]:
        """What `fleetshell status` shows of a running relay."""
        config = self.app.config
        return {
            "version": __version__,
            "address": self.address,
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "uptime_seconds": round(boottime() - self._started_boot),
            "mfa_enabled": config.mfa.enabled,
            "read_only": self.app.reads_only,
            "mcp_sessions": len(self.sessions.live()),
            "jobs": self.app.jobs.running(),
            "shell_sessions": len(self.app.fleet.shells.all()),
            "authenticated": self.app.auth.grants(),
            "locked": self.app.emergency.engaged,
            "approvals_waiting": self.app.approvals.waiting(),
            "http": self.http.stats(),
            "calls": self.app.calls,
            "people": len(self.app.people.all()),
            "shut_out_people": self.app.people.problems(),
            "servers": len(self.app.inventory.all()),
            "disabled_servers": self.app.inventory.problems(),
            "certificate_ends": f"{self._certificate.ends:%Y-%m-%dT%H:%M:%SZ}" if self._certificate else None,
        }

    def live(self) -> dict[str, Any]:
        """What `fleetshell status --watch` shows: the status, the servers that are connected or failed, and what runs."""
        fleet, activity = self.app.fleet, self.app.activity
        states = {server.id: fleet.connection_state(server) for server in self.app.inventory.all()}
        return {
            "status": self.status(),
            "servers": [{"id": name, **dataclasses.asdict(state)} for name, state in states.items() if state.state != "idle"][:MOST],
            "sessions": [{**dataclasses.asdict(info), "owner": owner} for owner, info in fleet.shells.all()][:MOST],
            "running": activity.running(MOST),
            "running_count": activity.running_count(),
            "blocked": activity.blocked(),
        }  # fmt: skip

    def _recover(self) -> None:
        """End what an earlier relay that was killed has left on hosts, beside serving."""
        try:
            for sentence in self.app.fleet.end_what_was_left(self._recovery):
                log.warning("%s", sentence)
        except Exception:
            log.exception("Looking for what an earlier relay had left failed; it is tried again at the next start.")

    def _show_life(self) -> None:
        """Let the loop that serves clients tell the service manager's watchdog that it turns."""
        seconds = supervisor.watchdog_seconds()
        while seconds is not None and not self._stopping.wait(seconds / 3):
            self.http.in_loop(partial(supervisor.notify, "WATCHDOG=1"))

    def _keep_house(self) -> None:
        turns = itertools.count(1)
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.heed_lock()
                if self.app.auth.retire():
                    self._part_with_retired_keys()
                self.heed_people()
                self.tell_changes()
                self.look_at_certificate()
                if next(turns) % TURNS == 0:
                    self.sessions.end_idle()
                    self.app.fleet.shells.expire()
                    self.app.jobs.expire()
                    self.app.auth.expire()
                    self.app.rates.expire()
                    self.app.checkpoints.look()
            except Exception:
                log.exception("Housekeeping failed; it is tried again in %d s.", LOOK_SECONDS)

    def look_at_certificate(self) -> None:
        """Once a day, and after each change, say in the log that the certificate ends soon."""
        if self._certificate is None or boottime() < self._look_again:
            return
        self._look_again = boottime() + DAY
        left = (self._certificate.ends - datetime.now(timezone.utc)).total_seconds()
        if left < tls.SOON_DAYS * DAY:
            log.warning(
                "The certificate %s on %s (%d days left). `fleetshell init --renew-cert` makes a new one; one that a CA signed is "
                "renewed where it came from, then `fleetshell reload`.",
                "ended" if left < 0 else "ends", f"{self._certificate.ends:%Y-%m-%d}", max(0, left // DAY),
            )  # fmt: skip

    def tell_changes(self) -> None:
        """Tell clients of the lists that have changed since the last look, whoever changed them."""
        now, before = self.app.generations(), self._lists
        self._lists = now
        for kind in now:
            if now[kind] != before[kind]:
                self.endpoint.changed(kind)


def check_ready(config: Config) -> None:
    """Refuse to serve with an impossible guard, without a key, or without a second factor that is meant to be there.

    Raises:
        ConfigError: What is wrong, or which command mends it.
    """
    make_guard(config)
    if not config.relay.http.auth.api_key:
        raise ConfigError("config.yaml has no API key (relay.http.auth.api_key). Run `fleetshell init` to create one.")
    if config.mfa.enabled and not config.mfa.totp_secret:
        raise ConfigError(
            "MFA is enabled, but there is no TOTP secret (mfa.totp_secret). Run `fleetshell auth setup` to create one."
        )
