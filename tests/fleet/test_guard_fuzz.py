"""Fuzzing the guard: mutants of the labelled commands and pathological inputs; it never fails, and its work is bounded.

`make test` judges 10,000 mutants; FLEETSHELL_SOAK=1 judges 100,000.
"""

from __future__ import annotations

import os
import random

import pytest
from support.guard_corpus import corpus

from fleetshell_tools.core.types import Act
from fleetshell_tools.fleet.guard import DEFAULT_ENTRIES, Guard

COMMANDS = [row.command for row in corpus("development") + corpus("own")]
MUTANTS = 100_000 if os.environ.get("FLEETSHELL_SOAK") else 10_000
PORTIONS = 20
GUARD = Guard(DEFAULT_ENTRIES)
LIMIT = 10_000
"""Steps that the budget allows; the one that would exceed it is refused before it is done."""

_WORDS = (
    "' \" ` $( ${ $(( (( ) } {a,b} \\ ; & | && || <<E <( >( $'\\x * ? [ ! # ~ $@ $* $1 =( [[ ]] case esac for do done function "
    "if fi then while until select time coproc { !! ${!x} ${x@Q} ${#x} ${x//a/b} ${x:0:1} 2>&1 >&3 <&3 &> <<< <<- | xargs "
    "sudo env eval exec declare trap source find -exec \\; {} -delete sh -c docker exec kubectl -- ssh crontab - python3 -c awk sed -i"
)
_ODD = [
    "\n",
    "\t",
    " ",
    "\0",
    "\x01",
    "\x02",
    "\ue000",
    "\ue001",
    "\ufffd",
    "é",
    "\u202e",
    "\r",
    "\x1b[31m",
    "\ud800",
    "𝕣𝕞",
]
PIECES = [*_WORDS.split(), *_ODD]


def mutant(seed: int) -> str:
    """A labelled command with a few pieces inserted, removed, doubled, exchanged, or taken from another one."""
    chance = random.Random(seed)
    command = chance.choice(COMMANDS)
    for _ in range(chance.randint(1, 8)):
        at, length = chance.randint(0, len(command)), chance.randint(0, 12)
        other = chance.choice(COMMANDS)
        start = chance.randint(0, len(other))
        piece = chance.choice(
            [
                chance.choice(PIECES),
                chance.choice(PIECES) * chance.randint(1, 30),
                other[start : start + chance.randint(0, 40)],
                command[at : at + length] * chance.randint(2, 5),
                command[at : at + length][::-1],
                "",
            ]
        )
        command = command[:at] + piece + command[at + length :]
    return command[:5000]


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_no_mutant_makes_the_guard_fail_or_work_long(portion: int) -> None:
    for seed in range(portion * MUTANTS // PORTIONS, (portion + 1) * MUTANTS // PORTIONS):
        command = mutant(seed)
        policy = ("normal", "normal", "read_only", "allow_list")[seed % 4]
        act = Act(
            command,
            command.encode(errors="replace")[:99] if seed % 5 == 0 else None,
            policy=policy,
            allowed=("git log",),
        )
        verdict, steps = GUARD.judge_counted(act)
        assert verdict.rule != "internal-error", (seed, command)
        assert steps <= LIMIT + 1, (seed, command)


REPEATED = [
    "rm -rf /a ", "$(", "`", "${a:-", "{a,", "((", "$((", "<(", "'", '"', "\\", "a|", "a;", "a&", "a=$a$a;", "[", "/*", "*a", "<<E\n", "!",
    "find ( ", "find / -o ", "( -name a -o ", "-exec ", "sudo ", "sh -c ", "eval ", "xargs ", "docker exec a ", "env -S ", "ssh h ",
    "x(){ ", "f(){ f;f; };f;", "case a in ", "if a;then ", "while true; do ", "for i in {1..99}; do ", "select x in ", "[[ ", "a[0]=(",
    "declare -n a=b;", "declare -n a=a;", "alias a=a;a;", "exec 3<<<a;", "cat <&3;", "trap 'a' 0;", "python3 -c '(", "perl -e 'q{", "awk '{", "sed 's/a/",
    "psql -c 'delete from a ", "mysql -e 'update a set b=1,", "psql -c 'drop  ", "/*", "-- ", "a = a where ", "curl -X DELETE http://", "docker run -v /:/", "export PAGER='",
    "PATH=.:", "crontab <<< '* * * * * ", "tee /etc/cron.d/a <<< '* * * * * ", "tr a-z ", "printf %s ", "printf '%b' ", "base64 -d <<< YQ==|", "xxd -r -p|",
    "python3 -c 'exec(b64decode(\"", "sed -e 's/a/b/' ", "{1..9}", "~/", "../", "//", "$IFS", "${IFS}", "$@", "\t", "\n", " ", "\0", "𝕒", "é", "\u202e",
]  # fmt: skip


@pytest.mark.parametrize("piece", REPEATED)
@pytest.mark.parametrize("policy", ["normal", "read_only"])
def test_work_grows_no_faster_than_the_length(piece: str, policy: str) -> None:
    def steps(length: int) -> int:
        verdict, counted = GUARD.judge_counted(Act((piece * length)[:length], policy=policy))
        assert verdict.rule != "internal-error"
        return counted

    half, whole = steps(2500), steps(5000)
    assert whole <= LIMIT + 1
    assert whole <= 2.5 * half + 100 or whole > LIMIT
