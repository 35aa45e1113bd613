"""Messages mined into templates: what is masked, what is merged, and that memory and work stay bounded."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetshell_tools.core.log_templates import LEAF, LONGEST, Miner, mask, mask_path


@pytest.mark.parametrize(
    ("message", "template"),
    [
        ("took 12 ms, 3.5s, 1h2m and 250µs", "took <n> ms, <duration>, <duration> and <duration>"),
        ("pid=77 uid=-1 at 0x7ffe12ab", "pid=<n> uid=<n> at <hex>"),
        ("commit 9fceb02d0ae5 of deadbeef", "commit <hex> of deadbeef"),
        ("request 6513270e-269e-0d37-f2a7-4de452e6b438 done", "request <uuid> done"),
        ("from 192.0.2.1 to 10.0.0.0/8 or 192.0.2.1:8080.", "from <ip> to <ip> or <ip>."),
        ("from 2001:db8::1, ::1 and fe80::1%eth0", "from <ip>, <ip> and <ip>"),
        ("MAC=00:16:3e:5e:6c:00 at 07:38:28,123", "MAC=<mac> at <time>"),
        ("on 2025-03-14T07:38:28.123Z and 2025-03-14", "on <time> and <time>"),
        ("mail from=<a.b+c@example.org>, bounce to x@y.example.com", "mail from=<email>, bounce to <email>"),
        ("open /var/log/a.log and C:\\temp\\x", "open <path> and <path>"),
        ("and/or 1/2 postfix/smtp /health", "and/or <n>/<n> postfix/smtp /health"),
        ("GET https://example.org/a?b=c done", "GET <url> done"),
        ("user \"bob's\" did 'this and that' with `it`; can't", "user <str> did <str> with <str>; can't"),
        ("session gT5hJ2kL9mNq of eth0 and ipv4 in utf8", "session <id> of eth0 and ipv4 in utf8"),
        ("used 99.5% of 1,024MB, 12kB", "used <n> of <n>, <n>"),
        ("std::vector a:b:c 1.2.3", "std::vector a:b:c <n>"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_varies_by_its_shape_is_masked(message: str, template: str) -> None:
    assert " ".join(mask(message)) == template


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/", "/"),
        ("/users/17/orders?id=3", "/users/<n>/orders"),
        ("/static/app.9fceb02d0ae5.js#x", "/static/app.<hex>.js"),
        ("/v1/6513270e-269e-0d37-f2a7-4de452e6b438", "/v1/<uuid>"),
        ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/…"),
    ],
)
def test_paths_of_requests_are_masked_by_segment(path: str, template: str) -> None:
    assert mask_path(path) == template


def mined(messages: list[str]) -> dict[str, int]:
    miner = Miner()
    for message in messages:
        miner.find("info", "app", message).add(1, 0, None, message)
    return {template.text: round(template.count) for template in miner.templates()}


def test_names_become_a_wildcard_after_several_were_seen() -> None:
    names = ["ann", "bob", "cid", "dan", "eve", "fay"]
    assert mined([f"user {name} has logged in" for name in names] * 2) == {"user <*> has logged in": 12}
    assert mined([f"user {name} has logged in" for name in names[:3]]) == {
        f"user {name} has logged in": 1 for name in names[:3]
    }


def test_states_stay_apart() -> None:
    messages = [f"link eth0 is now {state} again" for state in ("up", "down")] * 50
    assert mined(messages) == {"link eth0 is now up again": 50, "link eth0 is now down again": 50}


def test_values_with_digits_are_merged_at_once_and_keep_their_key() -> None:
    found = mined([f"sent to relay=mx{number}.example.org with status ok" for number in range(3)])
    assert found == {"sent to relay=<*> with status ok": 3}


def test_level_program_and_length_keep_messages_apart() -> None:
    miner = Miner()
    for level, program, message in (
        ("info", "a", "x 1"),
        ("error", "a", "x 1"),
        ("info", "b", "x 1"),
        ("info", "a", "x 1 2"),
    ):
        miner.find(level, program, message).add(1, 0, None, "")
    assert len(miner.templates()) == 4


def test_a_template_knows_its_first_last_and_newest_sample() -> None:
    miner = Miner()
    for seconds in (20.0, 10.0, 30.0, None):
        miner.find("info", "", "x 1").add(1, 0, seconds, f"at {seconds}")
    (found,) = miner.templates()
    assert (found.first, found.last, found.count, found.sample) == (10.0, 30.0, 4, "at None")


def test_too_many_exact_texts_spill_into_one() -> None:
    miner = Miner()
    for number in range(1000):
        miner.find_exact("warning", "", f"GET /{number} 404", "GET <other paths> 404").add(1, 0, None, "")
        miner.find_exact("warning", "", "GET /often 404", "GET <other paths> 404").add(1, 0, None, "")
    found = {template.text: template.count for template in miner.templates()}
    assert len(found) <= 2 * LEAF + 1 and sum(found.values()) == 2000
    assert found["GET /often 404"] == 1000 and found["GET <other paths> 404"] > 800 and not miner.other


def test_memory_is_bounded_and_what_is_given_up_is_counted() -> None:
    rare, miner = random.Random(7), Miner(most=100)
    for number in range(5000):
        word = "".join(rare.choice("abcdefghij") for _ in range(8))
        miner.find("info", "app", f"{word} {word} happened").add(1, 0, None, "")
        miner.find("error", "app", "often the same thing").add(1, 0.5, None, "")
        assert len(miner.templates()) <= 100 if number % 500 == 0 else True
    found = {template.text: template.count for template in miner.templates()}
    assert found.pop("often the same thing") == 5000
    assert sum(found.values()) + miner.other["info"][0] == 5000 and "error" not in miner.other


WORDS = st.sampled_from(["a", "b", "user", "12", "x=1", "x=y", "/a/b", "<*>", "<n>", "", "é", '"', "1.2.3.4"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["info", "error"]),
            st.lists(st.one_of(WORDS, st.text(max_size=6)), max_size=6).map(" ".join),
        ),
        max_size=60,
    ),
    st.integers(2, 20),
)
def test_every_message_is_counted_once(messages: list[tuple[str, str]], most: int) -> None:
    miner = Miner(most=most)
    for level, message in messages:
        miner.find(level, "p", message).add(1, 0, None, message)
        assert len(miner.templates()) <= most
    counted = sum(template.count for template in miner.templates()) + sum(counts[0] for counts in miner.other.values())
    assert counted == len(messages)


def test_work_is_linear_in_the_number_of_messages() -> None:
    def steps(count: int) -> int:
        words, miner = random.Random(3), Miner()
        for _ in range(count):
            message = " ".join("".join(words.choice("abcdef") for _ in range(5)) for _ in range(12))
            miner.find("info", "app", message).add(1, 0, None, message)
        return miner.steps

    assert steps(4000) < 4000 * (LEAF + 1) * LONGEST
    assert steps(4000) < 2.5 * steps(2000) + 1000
