"""Authentication: keys, codes, replay, lock-out and the end of a grant, with the clocks in the test's hand."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pyotp
import pytest

from fleetshell_tools.core.config import Config, Http, HttpAuth, Mfa, Relay, moment
from fleetshell_tools.core.errors import AuthenticationFailed
from fleetshell_tools.core.people import Person, digest
from fleetshell_tools.core.types import Caller, Grant, Principal
from fleetshell_tools.relay.auth import FAILURES, Authenticator, AuthState, key_id
from fleetshell_tools.relay.totp import matching_step

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
KEY = "a-key-of-more-than-16-characters"


def config(key: str = KEY, **mfa: object) -> Config:
    return Config(relay=Relay(http=Http(auth=HttpAuth(key))), mfa=Mfa(totp_secret=SECRET, **mfa))  # type: ignore[arg-type]


@dataclass
class Desk:
    """An authenticator whose two clocks the test moves."""

    path: Path
    now: float = 1_700_000_010.0
    clock: float = 1000.0
    settings: Config = field(default_factory=config)

    def __post_init__(self) -> None:
        self.auth = Authenticator(self.settings, AuthState(self.path), now=lambda: self.now, clock=lambda: self.clock)
        self.principal = Principal(key_id(KEY))

    def code(self, steps: int = 0) -> str:
        return pyotp.TOTP(SECRET).generate_otp(int(self.now) // 30 + steps)

    def enter(self, code: str, session: str = "s1") -> Grant:
        return self.auth.authenticate(Caller(self.principal), session, code)

    def why_locked(self, session: str = "s1") -> str:
        return self.auth.locked(self.principal, session)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "auth.json")


def test_a_right_key_names_its_principal_and_any_other_header_names_none(desk: Desk) -> None:
    assert desk.auth.principal(f"Bearer {KEY}") == desk.principal
    assert desk.auth.principal(f"bearer  {KEY} ") == desk.principal
    for header in (
        None,
        "",
        "Bearer",
        "Bearer x",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer \udcff",
    ):
        assert desk.auth.principal(header) is None, header


def test_without_a_configured_key_nobody_gets_in(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "auth.json", settings=config(key=""))
    assert desk.auth.principal("Bearer ") is None
    assert desk.auth.principal(None) is None


def test_a_code_unlocks_its_session_alone_and_for_its_lifetime(desk: Desk) -> None:
    assert desk.why_locked() == "totp_required"
    assert desk.enter(desk.code()).expires_in == 3600
    assert desk.why_locked() == ""
    assert desk.why_locked("another session") == "totp_required"
    assert desk.auth.locked(Principal("anotherkey"), "s1") == "totp_required"
    desk.clock += 3599
    assert desk.why_locked() == ""
    desk.clock += 1
    assert desk.why_locked() == "session_expired"
    assert desk.why_locked() == "session_expired"


def test_setting_the_wall_clock_neither_prolongs_nor_ends_a_grant(desk: Desk) -> None:
    desk.enter(desk.code())
    desk.now -= 7200
    assert desk.why_locked() == ""
    desk.clock += 3600
    assert desk.why_locked() == "session_expired"


def test_one_step_before_and_after_now_is_accepted_and_no_other(tmp_path: Path) -> None:
    for steps, accepted in ((-2, False), (-1, True), (0, True), (1, True), (2, False)):
        desk = Desk(tmp_path / f"auth{steps}.json")
        assert (matching_step(SECRET, desk.code(steps), desk.now) is not None) is accepted, steps


def test_a_used_code_is_refused_with_the_seconds_to_wait_also_after_a_restart(desk: Desk) -> None:
    code = desk.code()
    desk.enter(code)
    with pytest.raises(AuthenticationFailed, match=r"^This code was already used; the next one starts in 30 s\.$"):
        desk.enter(code, "s2")
    desk.now += 10
    restarted = Desk(desk.path, now=desk.now)
    with pytest.raises(AuthenticationFailed, match="already used; the next one starts in 20 s"):
        restarted.enter(code)
    with pytest.raises(AuthenticationFailed, match="already used"):
        restarted.enter(desk.code(-1))


def test_the_session_that_a_code_unlocked_may_send_it_again(desk: Desk) -> None:
    code = desk.code()
    desk.enter(code)
    desk.clock += 5
    assert desk.enter(code).expires_in == 3595


def test_a_code_with_a_space_in_the_middle_is_understood(desk: Desk) -> None:
    code = desk.code()
    assert desk.enter(f"{code[:3]} {code[3:]}").expires_in == 3600


def test_what_is_no_code_at_all_is_refused_without_counting_as_a_guess(desk: Desk) -> None:
    for text in ("", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "12 34"):
        for _ in range(3):
            with pytest.raises(AuthenticationFailed, match="six digits"):
                desk.enter(text)
    assert desk.enter(desk.code())


def wrong(desk: Desk) -> str:
    """A code that no step near now has."""
    near = {desk.code(steps) for steps in range(-2, 3)}
    return next(code for code in ("000000", "111111", "222222", "333333", "444444", "555555") if code not in near)


def test_five_wrong_codes_lock_the_key_out_and_each_time_for_twice_as_long(desk: Desk) -> None:
    for minutes in (15, 30, 60):
        for _ in range(5):
            with pytest.raises(AuthenticationFailed, match="This code is wrong"):
                desk.enter(wrong(desk))
        with pytest.raises(AuthenticationFailed, match=f"locked for {minutes} more minutes.*fleetshell auth unlock"):
            desk.enter(desk.code())
        restarted = Desk(desk.path, now=desk.now)
        with pytest.raises(AuthenticationFailed, match="locked for"):
            restarted.enter(desk.code())
        desk.now += minutes * 60
    assert desk.enter(desk.code())
    assert json.loads(desk.path.read_text())[desk.principal.key_id]["lockouts"] == 0


def test_unlocking_lifts_a_lock_out(desk: Desk) -> None:
    for _ in range(5):
        with pytest.raises(AuthenticationFailed):
            desk.enter(wrong(desk))
    AuthState(desk.path).clear()
    assert desk.enter(desk.code())


def test_of_fifty_threads_with_one_code_exactly_one_gets_in(desk: Desk) -> None:
    code, outcomes = desk.code(), []
    barrier = threading.Barrier(50)

    def attempt(number: int) -> None:
        barrier.wait()
        try:
            desk.enter(code, f"session {number}")
            outcomes.append("in")
        except AuthenticationFailed as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("in") == 1
    assert all("already used" in outcome for outcome in outcomes if outcome != "in")


def test_a_damaged_state_file_lets_nobody_in(desk: Desk) -> None:
    desk.path.write_text("{not json")
    desk.path.chmod(0o600)
    with pytest.raises(AuthenticationFailed, match="damaged"):
        desk.enter(desk.code())


def test_a_code_whose_use_can_not_be_saved_lets_nobody_in_and_may_be_used_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fleetshell_tools.core.storage.write_atomic", full)
        for code in (desk.code(), "000000"):
            with pytest.raises(AuthenticationFailed, match="can't be noted in .*No space left"):
                desk.enter(code)
        assert desk.why_locked() == "totp_required"
    desk.enter(desk.code())
    assert desk.why_locked() == ""


def test_with_mfa_disabled_no_code_is_needed(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "auth.json", settings=config(enabled=False))
    assert desk.why_locked() == ""
    assert not desk.enter("anything").needed


def test_with_the_grant_scope_key_one_code_unlocks_every_session_of_the_key(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "auth.json", settings=config(grant_scope="key"))
    desk.enter(desk.code(), "s1")
    assert desk.why_locked("s2") == ""
    assert desk.auth.locked(Principal("anotherkey"), "s1") == "totp_required"


def test_a_new_key_in_the_configuration_ends_the_grants_of_the_old_one(desk: Desk) -> None:
    desk.enter(desk.code())
    desk.auth.configure(config(key="another-key-of-enough-length"))
    assert desk.why_locked() == "totp_required"
    assert desk.auth.principal(f"Bearer {KEY}") is None


def test_the_state_on_disk_holds_no_secret_and_no_code(desk: Desk) -> None:
    code = desk.code()
    desk.enter(code)
    text = desk.path.read_text()
    assert SECRET not in text and code not in text and KEY not in text
    assert desk.path.stat().st_mode & 0o777 == 0o600


# The operator: keys that end, codes that confirm, grants that are taken away


OLD = "the-key-before-it-of-20-characters"
UNTIL = "2023-11-14T23:00:00Z"


def rotated(until: str = UNTIL, key: str = KEY) -> Config:
    return Config(relay=Relay(http=Http(auth=HttpAuth(key, OLD, until))), mfa=Mfa(totp_secret=SECRET))


def test_the_previous_key_is_valid_until_its_time_and_its_grants_end_with_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "auth.json", settings=rotated())
    old = desk.auth.principal(f"Bearer {OLD}")
    assert old == Principal(key_id(OLD)) and desk.auth.principal(f"Bearer {KEY}") == desk.principal
    desk.auth.authenticate(Caller(old), "s1", desk.code())
    assert not desk.auth.retire() and desk.auth.locked(old, "s1") == ""
    desk.now = moment(UNTIL)
    assert desk.auth.principal(f"Bearer {OLD}") is None, "also before anybody has tidied up"
    assert desk.auth.retire() and not desk.auth.retire()
    assert desk.auth.key_ids() == {desk.principal.key_id} and desk.auth.locked(old, "s1") != ""


@pytest.mark.parametrize("until", ["", "2023-11-14T22:00:00Z"])
def test_a_previous_key_without_a_time_to_come_is_not_valid(tmp_path: Path, until: str) -> None:
    assert Desk(tmp_path / "auth.json", settings=rotated(until)).auth.principal(f"Bearer {OLD}") is None


def test_codes_and_lock_outs_count_for_a_person_whichever_key_they_came_with(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "auth.json", settings=rotated())
    old = Caller(Principal(key_id(OLD)))
    code = desk.code()
    desk.enter(code)
    with pytest.raises(AuthenticationFailed, match="already used"):
        desk.auth.authenticate(old, "s2", code)
    for number in range(FAILURES):
        with pytest.raises(AuthenticationFailed):
            desk.auth.authenticate(old if number % 2 else Caller(desk.principal), "s3", "000000")
    for caller in (old, Caller(desk.principal)):
        with pytest.raises(AuthenticationFailed, match="Too many wrong codes"):
            desk.auth.authenticate(caller, "s4", desk.code(1))


def test_a_new_key_begins_with_the_used_codes_of_the_old_one(desk: Desk) -> None:
    code = desk.code()
    desk.enter(code)
    AuthState(desk.path).inherit("new", key_id(KEY))
    states = AuthState(desk.path).read()
    assert states["new"] == states[key_id(KEY)] and states["new"].last_step > 0
    AuthState(desk.path).inherit("newer", "unknown")
    assert "newer" not in AuthState(desk.path).read()


def test_a_confirmation_needs_a_code_that_was_not_used_and_uses_it_up(desk: Desk) -> None:
    code = desk.code()
    desk.enter(code)
    with pytest.raises(AuthenticationFailed, match=r"already used; the next one starts in \d+ s"):
        desk.auth.confirm(code)
    fresh = desk.code(1)
    desk.auth.confirm(fresh)
    for again in (desk.auth.confirm, desk.enter):
        with pytest.raises(AuthenticationFailed, match="already used"):
            again(fresh)
    assert desk.why_locked("another session") == "totp_required", "nothing was unlocked"
    with pytest.raises(AuthenticationFailed, match="six digits"):
        desk.auth.confirm("")


def test_wrong_confirmations_lock_out_too_and_without_mfa_nothing_is_asked(desk: Desk, tmp_path: Path) -> None:
    for _ in range(FAILURES):
        with pytest.raises(AuthenticationFailed, match="wrong"):
            desk.auth.confirm("000000")
    with pytest.raises(AuthenticationFailed, match="Too many wrong codes"):
        desk.auth.confirm(desk.code())
    Desk(tmp_path / "other.json", settings=config(enabled=False)).auth.confirm("")


def test_revoked_grants_have_ended_and_a_new_secret_revokes_all(desk: Desk) -> None:
    desk.enter(desk.code())
    assert desk.auth.revoke() == 1 and desk.auth.revoke() == 0
    assert desk.why_locked() == "session_expired"
    desk.enter(desk.code(1))
    desk.auth.configure(config())
    assert desk.why_locked() == ""
    desk.auth.configure(Config(relay=Relay(http=Http(auth=HttpAuth(KEY))), mfa=Mfa(totp_secret=SECRET[::-1])))
    assert desk.why_locked() == "session_expired"


# Several people

HERS = "the-key-of-anna-is-long-enough"
HER_SECRET = "KRSXG5CTMVRXEZLUKRSXG5CTMVRXEZLU"


def anna(**more: object) -> Person:
    return Person("anna", digest(HERS), HER_SECRET, **more)  # type: ignore[arg-type]


def test_each_persons_key_is_recognised_and_their_codes_are_their_own(desk: Desk) -> None:
    desk.auth.take_people([anna(servers=("web-1",), policy="read_only")])
    hers = desk.auth.principal(f"Bearer {HERS}")
    assert hers and (hers.name, hers.servers, hers.policy) == ("anna", ("web-1",), "read_only")
    assert desk.auth.principal(f"Bearer {KEY}") == desk.principal and desk.principal.name == "owner"
    with pytest.raises(AuthenticationFailed, match="wrong"):
        desk.auth.authenticate(Caller(hers), "s1", desk.code())
    code = pyotp.TOTP(HER_SECRET).generate_otp(int(desk.now) // 30)
    with pytest.raises(AuthenticationFailed, match="wrong"):
        desk.enter(code)
    assert desk.auth.authenticate(Caller(hers), "s1", code).expires_in == 3600
    assert desk.auth.locked(hers, "s1") == "" and desk.why_locked() == "totp_required"
    with pytest.raises(AuthenticationFailed, match="wrong"):
        desk.auth.confirm(code)  # what the owner alone approves


def test_a_persons_wrong_codes_lock_nobody_else_out(desk: Desk) -> None:
    desk.auth.take_people([anna()])
    hers = anna().principal()
    for _ in range(FAILURES):
        with pytest.raises(AuthenticationFailed, match="wrong"):
            desk.auth.authenticate(Caller(hers), "s1", wrong(desk))
    with pytest.raises(AuthenticationFailed, match="Too many wrong codes"):
        desk.auth.authenticate(Caller(hers), "s1", pyotp.TOTP(HER_SECRET).generate_otp(int(desk.now) // 30))
    assert desk.enter(desk.code())


def test_who_is_gone_or_another_one_now_is_named_and_has_no_grant_left(desk: Desk) -> None:
    code = pyotp.TOTP(HER_SECRET).generate_otp(int(desk.now) // 30)
    assert desk.auth.take_people([anna()]) == set()
    desk.auth.authenticate(Caller(anna().principal()), "s1", code)
    desk.enter(desk.code())
    assert desk.auth.take_people([anna()]) == set() and desk.auth.grants() == 2
    assert desk.auth.take_people([anna(servers=("web-1",))]) == {anna().key_id}
    assert desk.auth.grants() == 1 and desk.auth.locked(anna().principal(), "s1") != ""
    assert desk.auth.take_people([]) == {anna().key_id}
    assert desk.auth.principal(f"Bearer {HERS}") is None
    with pytest.raises(AuthenticationFailed, match="no longer valid"):
        desk.auth.authenticate(Caller(anna().principal()), "s1", code)
    assert desk.why_locked() == ""


def test_a_new_configuration_leaves_people_as_they_are(desk: Desk) -> None:
    desk.auth.take_people([anna()])
    code = pyotp.TOTP(HER_SECRET).generate_otp(int(desk.now) // 30)
    desk.auth.authenticate(Caller(anna().principal()), "s1", code)
    desk.auth.configure(config(key="another-key-of-enough-length"))
    assert desk.auth.locked(anna().principal(), "s1") == "" and desk.auth.key_ids() >= {anna().key_id}


def test_the_lock_out_doubles_up_to_a_day(desk: Desk) -> None:
    for hours in (0.25, 0.5, 1, 2, 4, 8, 16, 24, 24):
        for _ in range(FAILURES):
            with pytest.raises(AuthenticationFailed, match="This code is wrong"):
                desk.enter(wrong(desk))
        desk.now += hours * 3600 - 1
        with pytest.raises(AuthenticationFailed, match="Too many wrong codes"):
            desk.enter(desk.code())
        desk.now += 1
