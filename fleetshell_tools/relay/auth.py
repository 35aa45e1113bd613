"""Who may do what: API keys, TOTP codes with replay protection and lock-out, and grants that expire."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core import config as configuration
from fleetshell_tools.core import storage
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import AuthenticationFailed
from fleetshell_tools.core.people import Person
from fleetshell_tools.core.types import Caller, Grant, Principal
from fleetshell_tools.relay.totp import STEP, matching_step

FAILURES = 5
"""Wrong codes until a key is locked out."""

LOCKOUT = 15 * 60
LONGEST_LOCKOUT = 24 * 3600
"""A lock-out doubles each time, from a quarter of an hour up to a day; seconds."""

REMEMBERED = 24 * 3600
"""Seconds for which a client is told that its grant has expired, and not that it never had one."""


def boottime() -> float:
    """Seconds on a clock that nobody sets and that does not stop in suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def key_id(api_key: str) -> str:
    """A short digest that names a key in logs."""
    return hashlib.sha256(b"fleetshell key " + api_key.encode()).hexdigest()[:12]


@dataclass
class _KeyState:
    """What must survive a restart: the last accepted time step, and how often the code was wrong."""

    last_step: int = 0
    failures: int = 0
    lockouts: int = 0
    locked_until: float = 0.0


class AuthState:
    """The state of each key in `run/auth.json`, changed under a lock between threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, _KeyState]:
        try:
            storage.check_private(self._path, folder=False)
            raw = json.loads(self._path.read_text())
            return {name: _KeyState(**value) for name, value in raw.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            # A damaged file must not reopen the door: a used code would work again. Lock every key until an operator looks.
            raise AuthenticationFailed(
                f"{self._path} is damaged, so codes can't be checked for re-use. The operator can delete it once 90 seconds "
                f"have passed since the last authentication."
            ) from None

    def change(self, name: str, edit: Callable[[_KeyState], None]) -> None:
        """Change the state of one key.

        Raises:
            AuthenticationFailed: It can't be saved; nothing may come of what `edit` saw.
        """
        try:
            with storage.locked(self._path.with_suffix(".lock")):
                states = self.read()
                edit(states.setdefault(name, _KeyState()))
                storage.write_atomic(self._path, json.dumps({key: vars(state) for key, state in states.items()}))
        except OSError as error:
            raise AuthenticationFailed(
                f"No code is accepted now: its use can't be noted in {self._path} ({error.strerror or error}). "
                f"The operator mends that place, then this works again."
            ) from None

    def inherit(self, name: str, former: str) -> None:
        """Let a new key begin with the used codes and the lock-out of the one that it follows."""
        with storage.locked(self._path.with_suffix(".lock")):
            states = self.read()
            if former in states:
                states[name] = states[former]
                storage.write_atomic(self._path, json.dumps({key: vars(state) for key, state in states.items()}))

    def clear(self) -> None:
        """Lift every lock-out, and forget used codes."""
        with storage.locked(self._path.with_suffix(".lock")):
            storage.write_atomic(self._path, "{}")


@dataclass(frozen=True)
class _Key:
    """An API key; `until` is when it ends, in Unix seconds."""

    digest: bytes
    principal: Principal
    until: float = math.inf

    @classmethod
    def of(cls, key: str, until: float = math.inf) -> _Key:
        return cls(hashlib.sha256(key.encode()).digest(), Principal(key_id(key)), until)

    @classmethod
    def of_person(cls, person: Person) -> _Key:
        return cls(bytes.fromhex(person.key_sha256), person.principal())


@dataclass(frozen=True)
class _Codes:
    """Against what the codes of a key are checked: a secret, and under whose name used and wrong ones are counted."""

    state: str
    secret: str


class Authenticator:
    """API keys and TOTP grants of a relay; implements `core.types.Auth`. Grants live in memory: a restart locks again.

    Args:
        state: What must survive a restart.
        now: Unix seconds, for codes.
        clock: Seconds on a monotonic clock, for grants.
    """

    def __init__(
        self,
        config: Config,
        state: AuthState,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._state = state
        self._now = now
        self._clock = clock
        self._keys: list[_Key] = []
        self._mfa = config.mfa
        self._people: tuple[Person, ...] = ()
        self._codes: dict[str, _Codes] = {}
        self._grants: dict[tuple[str, str], tuple[float, int]] = {}
        self._expired: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self.configure(config)

    def configure(self, config: Config, people: Sequence[Person] | None = None) -> None:
        """Take a new configuration; grants of a key that is no longer there end, and those whose TOTP secret is a new one.

        Args:
            people: Everybody besides the owner; None where they are the same as before.
        """
        self._config = config
        keys = config.relay.http.auth
        found = [_Key.of(keys.api_key)] if keys.api_key else []
        if keys.previous_api_key:
            found.append(_Key.of(keys.previous_api_key, configuration.moment(keys.previous_until)))
        # One person has both keys, so that a code is good once and wrong ones are counted once, whichever of them it came with.
        self._owner = _Codes(key_id(keys.api_key), config.mfa.totp_secret)
        codes = {key.principal.key_id: self._owner for key in found}
        self._people = self._people if people is None else tuple(people)
        found += [_Key.of_person(person) for person in self._people]
        codes.update({person.key_id: _Codes(person.key_id, person.totp_secret) for person in self._people})
        before, self._codes = self._codes, codes
        self._keys, self._mfa = found, config.mfa
        self.retire()
        others = {key for key in codes if key in before and before[key].secret != codes[key].secret}
        if others:
            self.revoke(others.__contains__)

    def take_people(self, people: Sequence[Person]) -> set[str]:
        """Take everybody besides the owner; returns the keys of those who are not there any more, or are others now.

        Their grants have ended.
        """
        same = {person.key_id for person in set(self._people) & set(people)}
        gone = {person.key_id for person in self._people} - same
        self.configure(self._config, people)
        self.revoke(gone.__contains__)
        return gone

    def retire(self) -> bool:
        """Forget keys whose time is over, and the grants of keys that are not there; returns whether a key was forgotten."""
        now = self._now()
        left = [key for key in self._keys if now < key.until]
        retired, self._keys = len(left) < len(self._keys), left
        known = self.key_ids()
        with self._lock:
            self._grants = {slot: value for slot, value in self._grants.items() if slot[0] in known}
        return retired

    def key_ids(self) -> set[str]:
        """The keys that are valid now."""
        return {key.principal.key_id for key in self._keys}

    def revoke(self, of: Callable[[str], bool] = lambda key: True) -> int:
        """End every grant `of` those keys now; returns how many there were."""
        with self._lock:
            now = self._clock()
            chosen = {slot: expires for slot, (expires, _) in self._grants.items() if of(slot[0])}
            ended = [slot for slot, expires in chosen.items() if now < expires]
            self._expired.update(dict.fromkeys(ended, now))
            self._grants = {slot: value for slot, value in self._grants.items() if slot not in chosen}
        return len(ended)

    def principal(self, authorization: str | None) -> Principal | None:
        """Who sent this `Authorization` header, or None; the compare takes the same time for every wrong key."""
        scheme, _, token = (authorization or "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        now = self._now()
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest) and now < key.until:
                found = key.principal
        return found if scheme.lower() == "bearer" else None

    def locked(self, principal: Principal, session_id: str) -> str:
        """Why the tools are locked for a session: "" (they are not), "totp_required" or "session_expired"."""
        if not self._mfa.enabled:
            return ""
        slot = self._slot(principal, session_id)
        with self._lock:
            grant = self._grants.get(slot)
            if grant is None:
                return "session_expired" if slot in self._expired else "totp_required"
            if self._clock() < grant[0]:
                return ""
            del self._grants[slot]
            self._expired[slot] = grant[0]
            return "session_expired"

    def authenticate(self, caller: Caller, session_id: str, code: str) -> Grant:
        """Check a code and unlock the session for `mfa.session_lifetime` seconds.

        Raises:
            AuthenticationFailed: Wrong, already used, or locked out; the sentence says which.
        """
        if not self._mfa.enabled:
            return Grant(0, needed=False)
        slot = self._slot(caller.principal, session_id)
        codes = self._codes.get(caller.principal.key_id)
        if codes is None:  # the key has ended since the request came in
            raise AuthenticationFailed("This API key is no longer valid. Ask the operator for a new one.")
        return self._use(
            codes,
            code,
            lambda step: self._grant(slot, step),
            lambda step, state, now: self._repeated(slot, step, state, now),
        )

    def confirm(self, code: str) -> None:
        """Check a fresh code of the operator, and use it up; nothing is unlocked. Without MFA nothing is checked.

        Raises:
            AuthenticationFailed: Wrong, already used, or locked out; the sentence says which.
        """
        if self._mfa.enabled:
            self._use(self._owner, code, lambda step: Grant(0), lambda step, state, now: _used(state, now))

    def _use(
        self,
        codes: _Codes,
        code: str,
        fresh: Callable[[int], Grant],
        again: Callable[[int, _KeyState, float], Grant],
    ) -> Grant:
        """Check a code against replay and lock-out.

        Args:
            fresh: What a code gives that was not used before; takes its time step.
            again: What one gives that was, or raises.
        """
        code = code.replace(" ", "").strip()
        if not (len(code) == 6 and code.isascii() and code.isdigit()):
            raise AuthenticationFailed(
                "A code has six digits. Ask the user for the one that the authenticator app shows now."
            )
        now = self._now()
        outcome: list[Callable[[], Grant]] = []

        def check(state: _KeyState) -> None:
            if now < state.locked_until:
                raise AuthenticationFailed(_locked_out(state.locked_until - now))
            step = matching_step(codes.secret, code, now)
            if step is None:
                self._count_failure(state, now)
            elif step > state.last_step:
                state.last_step, state.failures, state.lockouts, state.locked_until = step, 0, 0, 0.0
                # Only once it is on disk that the code was used: else it could be used again, and guesses go uncounted.
                outcome.append(lambda: fresh(step))
            else:
                grant = again(step, state, now)
                outcome.append(lambda: grant)

        self._state.change(codes.state, check)
        if not outcome:
            raise AuthenticationFailed(
                "This code is wrong. Ask the user for the code that the authenticator app shows now. Codes depend on the time: "
                "if right ones are refused, the relay's clock may be off."
            )
        return outcome[0]()

    def forget(self, principal_id: str, session_id: str) -> None:
        """A session has ended, and with it its grant."""
        slot = (principal_id, f"={session_id}")
        with self._lock:
            self._grants.pop(slot, None)
            self._expired.pop(slot, None)

    def expire(self) -> None:
        """Forget the grants that have run out, and after a day that they had been there: a handle has no session whose end does it."""
        with self._lock:
            now = self._clock()
            for slot in [slot for slot, (expires, _) in self._grants.items() if expires <= now]:
                self._expired[slot] = self._grants.pop(slot)[0]
            for slot in [slot for slot, since in self._expired.items() if since + REMEMBERED <= now]:
                del self._expired[slot]

    def expires(self, principal: Principal, session_id: str) -> float:
        """When the grant of a session ends, on the clock; 0 where there is none."""
        with self._lock:
            return self._grants.get(self._slot(principal, session_id), (0.0, 0))[0]

    def grants(self) -> int:
        """How many sessions are unlocked now."""
        with self._lock:
            return sum(self._clock() < expires for expires, _ in self._grants.values())

    def _slot(self, principal: Principal, session_id: str) -> tuple[str, str]:
        # A place of the other scope must never be met by one without a session: hence the mark before the id.
        return (principal.key_id, "" if self._mfa.grant_scope == "key" else f"={session_id}")

    def _grant(self, slot: tuple[str, str], step: int) -> Grant:
        with self._lock:
            self._grants[slot] = (self._clock() + self._mfa.session_lifetime, step)
            self._expired.pop(slot, None)
        return Grant(self._mfa.session_lifetime)

    def _repeated(self, slot: tuple[str, str], step: int, state: _KeyState, now: float) -> Grant:
        """A code that was used before: fine for the very session that it unlocked, which only asked twice."""
        with self._lock:
            expires, granted = self._grants.get(slot, (0.0, 0))
            left = int(expires - self._clock())
        if granted == step and left > 0:
            return Grant(left)
        return _used(state, now)

    def _count_failure(self, state: _KeyState, now: float) -> None:
        state.failures += 1
        if state.failures >= FAILURES:
            state.failures = 0
            state.locked_until = now + min(LOCKOUT * 2**state.lockouts, LONGEST_LOCKOUT)
            state.lockouts = min(state.lockouts + 1, 20)


def _used(state: _KeyState, now: float) -> Grant:
    wait = max(1, round((state.last_step + 1) * STEP - now))
    raise AuthenticationFailed(f"This code was already used; the next one starts in {wait} s.")


def _locked_out(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return (
        f"Too many wrong codes: authentication is locked for {minutes} more minute{'s' if minutes != 1 else ''}. "
        f"The operator can lift this with `fleetshell auth unlock`."
    )
