"""Folding a fan-out: identical outcomes become one group, whose output is shown once, and all share one budget."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.commands import FanOutResult, fold
from fleetshell_tools.core.types import Captured, Completed, HostResult


def captured(text: str) -> Captured:
    raw = text.encode()
    return Captured(raw, b"", len(raw))


def done(server_id: str, stdout: str = "", stderr: str = "", exit_code: int | None = 0, **more: Any) -> HostResult:
    return HostResult(
        server_id, Completed(exit_code, captured(stdout), captured(stderr), 5, **more), duration_ms=len(server_id)
    )


def failed(server_id: str, sentence: str) -> HostResult:
    return HostResult(server_id, error=sentence.format(server_id))


def groups(result: FanOutResult) -> list[list[str]]:
    return [group["server_ids"] for group in result.groups]


def by_id(result: FanOutResult) -> dict[str, dict[str, Any]]:
    return {item["server_id"]: item for item in result.results}


def test_identical_outcomes_fold_in_the_order_of_their_first_server() -> None:
    result = fold([done("c", "x"), done("a", "y"), done("b", "x"), done("d", "z"), done("e", "y")], 1000)
    assert groups(result) == [["c", "b"], ["a", "e"], ["d"]]
    assert [item["server_id"] for item in result.results] == ["c", "a", "b", "d", "e"]
    assert [group["group"] for group in result.groups] == ["g1", "g2", "g3"]


def test_a_folded_hosts_output_is_null_and_names_its_group_and_one_alone_keeps_its_own() -> None:
    result = fold([done("a", "same", "err"), done("b", "other"), done("c", "same", "err")], 1000)
    hosts = by_id(result)
    for name in ("a", "c"):
        assert (hosts[name]["stdout"], hosts[name]["stderr"], hosts[name]["group"]) == (None, None, "g1")
        assert (hosts[name]["exit_code"], hosts[name]["success"], hosts[name]["error"]) == (0, True, None)
    assert (hosts["b"]["stdout"], hosts["b"]["stderr"], hosts["b"]["group"]) == ("other", "", "g2")
    first, second = result.groups
    assert (first["stdout"], first["stderr"], first["exit_code"]) == ("same", "err", 0)
    assert (second["stdout"], second["stderr"]) == (None, None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (done("a", "x"), done("b", "y")),
        (done("a", "x", ""), done("b", "", "x")),
        (done("a", "x"), done("b", "x\n")),
        (done("a", exit_code=0), done("b", exit_code=1)),
        (done("a", exit_code=None, signal="KILL"), done("b", exit_code=None, signal="TERM")),
        (done("a"), failed("b", "{} is down")),
        (failed("a", "{} is down"), failed("b", "{} is gone")),
    ],
)
def test_outcomes_that_differ_in_anything_stay_apart(one: HostResult, other: HostResult) -> None:
    assert groups(fold([one, other], 1000)) == [["a"], ["b"]]


def test_how_long_it_took_does_not_matter() -> None:
    slow = HostResult("b", Completed(0, captured("x"), Captured(), 900), duration_ms=900)
    result = fold([done("a", "x"), slow], 1000)
    assert groups(result) == [["a", "b"]]
    assert [item["duration_ms"] for item in result.results] == [1, 900]


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (["web-1", "web-2"], "{0} can't be reached: no route. Try again."),
        (["web-1", "web-2"], "The connection to {0} was lost."),
        (["web-1", "web-10"], "{0} refused; look at {0}, then try {0}."),
        (["a", "b"], "{0} can't be reached at all."),
        (["web", "mail"], "The webserver on {0} has no e-mail-address."),
    ],
)
def test_errors_that_differ_only_by_their_servers_name_fold_and_each_keeps_its_own_sentence(
    ids: list[str], sentence: str
) -> None:
    result = fold([failed(name, sentence) for name in ids], 1000)
    assert groups(result) == [ids]
    assert [item["error"] for item in result.results] == [sentence.format(name) for name in ids]


def test_an_error_that_names_another_host_is_not_the_same() -> None:
    result = fold(
        [
            HostResult("web-1", error="web-1.example.com is down"),
            HostResult("web-2", error="web-2.example.com is down"),
        ],
        1000,
    )
    assert groups(result) == [["web-1"], ["web-2"]]


def test_success_is_an_exit_code_of_zero_without_an_error() -> None:
    timed_out = HostResult("d", Completed(None, captured("x"), Captured(), 5, timed_out=True), error="d did not end.")
    result = fold(
        [
            done("a"),
            done("b", exit_code=3),
            failed("c", "{} is down"),
            timed_out,
            done("e", exit_code=None, signal="KILL"),
        ],
        1000,
    )
    assert (result.succeeded, result.failed) == (1, 4)
    assert [item["success"] for item in result.results] == [True, False, False, False, False]
    assert [item["exit_code"] for item in result.results] == [0, 3, None, None, None]


def test_the_text_says_it_once_a_group_with_ids_as_ranges() -> None:
    outcomes = [done(f"web-{n:02d}", "nginx 1.24\n") for n in range(1, 40)]
    result = fold([*outcomes, done("db-1", "none\n", "warning\n", exit_code=3), failed("db-2", "{} is down")], 10_000)
    assert result.text().split("\n") == [
        "39 of 41 servers succeeded, 2 failed",
        "== web-[01-39] (39 servers): exit code 0", "nginx 1.24",
        "== db-1: exit code 3", "none", "[stderr]", "warning",
        "== db-2: failed: db-2 is down",
    ]  # fmt: skip


def test_the_text_tells_an_end_by_a_signal_and_silence() -> None:
    assert (
        fold([done("a", exit_code=None, signal="KILL")], 1000).text()
        == "0 of 1 servers succeeded, 1 failed\n== a: ended by signal KILL\n(no output)"
    )


def test_what_a_host_had_printed_before_it_failed_is_shown_in_text_and_structured_content() -> None:
    outcome = HostResult(
        "a",
        Completed(None, captured("half of it\n"), Captured(), 5, timed_out=True),
        error="The command on a did not end within 5 s.",
    )
    result = fold([outcome], 1000)
    assert "== a: failed: The command on a did not end within 5 s.\nOutput until then:\nhalf of it" in result.text()
    assert by_id(result)["a"]["stdout"] == "half of it\n"


def test_the_budget_is_shared_small_outputs_whole_and_large_ones_cut_alike() -> None:
    result = fold([done("a", "small"), done("b", "B" * 50_000), done("c", "C" * 50_000)], 10_000)
    hosts = by_id(result)
    assert hosts["a"]["stdout"] == "small"
    kept = [hosts[name]["stdout"].count(name.upper()) for name in "bc"]
    assert result.truncated
    assert sum(kept) + 5 <= 10_000
    assert abs(kept[0] - kept[1]) <= 2
    assert min(kept) > 4300
    assert "bytes left out here" in hosts["b"]["stdout"]
    assert "of 50,000" in hosts["b"]["stdout"]
    assert "Output was cut to its start and end" in result.text()
    assert result.notice


def test_a_groups_output_counts_once_however_many_hosts_it_has() -> None:
    result = fold([done(f"s{n}", "x" * 5000) for n in range(100)], 7000)
    assert not result.truncated
    assert result.notice is None
    assert len(result.groups) == 1
    assert result.groups[0]["stdout"] == "x" * 5000
    assert json.dumps(result.structured()).count("x" * 5000) == 1


def test_nothing_at_all_can_be_folded() -> None:
    result = fold([], 1000)
    assert (result.results, result.groups, result.succeeded, result.failed, result.truncated) == ([], [], 0, 0, False)


OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from(["", "x", "y" * 300]),
        st.sampled_from(["", "e"]),
        st.sampled_from([0, 1, None]),
        st.sampled_from([None, "{} is down"]),
    ),
    max_size=12,
)


@given(OUTCOMES, st.integers(0, 2000))
def test_every_server_stands_once_in_the_results_and_once_in_the_groups(
    outcomes: list[tuple[str, str, int | None, str | None]], budget: int
) -> None:
    hosts = [
        failed(f"s{n}", error) if error else done(f"s{n}", out, err, code) for n, (out, err, code, error) in enumerate(outcomes)
    ]  # fmt: skip
    result = fold(hosts, budget)
    names = [host.server_id for host in hosts]
    assert [item["server_id"] for item in result.results] == names
    assert sorted(name for group in groups(result) for name in group) == sorted(names)
    assert [names.index(group[0]) for group in groups(result)] == sorted(
        names.index(group[0]) for group in groups(result)
    )
    for group in result.groups:
        for name in group["server_ids"]:
            assert by_id(result)[name]["group"] == group["group"]
            shown = [by_id(result)[name]["stdout"], group["stdout"]]
            assert (shown.count(None) == 1) and (shown[0] is None) == (len(group["server_ids"]) > 1)
    assert result.succeeded + result.failed == len(hosts)
    assert len({error or (out, err, code) for out, err, code, error in outcomes}) == len(result.groups)
