"""Tests of the guard's layers: the lexer, the parser, evaluation, and which simple commands are found."""

from __future__ import annotations

import pytest

from fleetshell_tools.fleet.guard.budget import Budget
from fleetshell_tools.fleet.guard.evaluate import State
from fleetshell_tools.fleet.guard.follow import Follower
from fleetshell_tools.fleet.guard.lexer import Literal, Operator, Parameter, Redirection, Substitution, Word, lex
from fleetshell_tools.fleet.guard.options import parse as parse_options
from fleetshell_tools.fleet.guard.paths import is_critical, is_device, resolve
from fleetshell_tools.fleet.guard.symbols import activate, from_outside, matches, shown


def tokens(text: str) -> list[object]:
    """Tokens in a short form: words as texts, operators and redirections as tuples."""

    def short(token: object) -> object:
        if isinstance(token, Word):
            return "".join(getattr(part, "text", "§") for part in token.parts)
        if isinstance(token, Redirection):
            return (token.operator, token.descriptor, short(token.target))
        return (token.text,) if isinstance(token, Operator) else token

    return [short(token) for token in lex(text, Budget(100_000))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
        ("a#b #c\nd", ["a#b", ("\n",), "d"]),
        ("a&&b||c;d&e|f|&g", ["a", ("&&",), "b", ("||",), "c", (";",), "d", ("&",), "e", ("|",), "f", ("|&",), "g"]),
        ("r\\\nm \\\n x", ["rm", "x"]),
        (
            "a 2>&1 >>f <g >|h &>i",
            ["a", (">&", "2", "1"), (">>", "", "f"), ("<", "", "g"), (">|", "", "h"), ("&>", "", "i")],
        ),
        ("cat <<E x\n1 $a\nE\nb", ["cat", ("<<", "", "1 §\n"), "x", ("\n",), "b"]),
        ("cat <<'E'\n$a\nE\nb", ["cat", ("<<", "", "$a\n"), ("\n",), "b"]),
        ("cat <<-E\n\ta\n\tE\nb", ["cat", ("<<-", "", "a\n"), ("\n",), "b"]),
        ("a <<< 'b c'", ["a", ("<<<", "", "b c")]),
        ("$'\\x72\\155\\n' $\"a\"", ["rm\n", "a"]),
        ("echo $(case x in a) b;; esac) c", ["echo", "§", "c"]),
        ("echo $(( (1 << 2) )) ; b", ["echo", "§", (";",), "b"]),
        ('echo "$(echo ")")" c', ["echo", "§", "c"]),
        ("diff <(a) >(b)", ["diff", "§", "§"]),
        ("x=(a b) y", ["x=§", "y"]),
        ("echo ${x:-$(a b)} ${y[@]}", ["echo", "§", "§"]),
        ("echo 'open", ["echo", "open"]),
    ],
)
def test_text_is_split_as_bash_splits_it(text: str, expected: list[object]) -> None:
    assert tokens(text) == expected


def test_a_word_keeps_the_quoting_of_each_part() -> None:
    (word,) = lex("a\"b$c\"'*'*`d`", Budget(1000))
    assert isinstance(word, Word)
    kinds = [(type(part), part.quoted) for part in word.parts]
    assert kinds == [
        (Literal, False),
        (Literal, True),
        (Parameter, True),
        (Literal, True),
        (Literal, False),
        (Substitution, False),
    ]


def found(script: str, stdin: str = "") -> list[str]:
    """Every command that would be executed, in order, as one string each."""
    seen: list[str] = []
    state = State(home="/home/u", folder="/home/u")
    follower = Follower(state, Budget(100_000), lambda finding: None, lambda words: seen.append(shown(" ".join(words))))
    follower.code(from_outside(script), stdin)
    return [command for command in seen if not command.startswith((">", "<"))]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("a; b && c || d & e", ["a", "b", "c", "d", "e"]),
        ("if a; then b; elif c; then d; else e; fi", ["a", "b", "c", "d", "e"]),
        ("while a; do b; done; until c; do d; done", ["a", "b", "c", "d"]),
        ("for x in 1 2; do a $x; done", ["a 1", "a 2"]),
        ("for ((i=0; i<9; i++)); do a; done", ["a"]),
        ("case $x in p) a;; (q|r) b;; *) c ;; esac; d", ["a", "b", "c", "d"]),
        ("(a; b) | { c; d; }", ["a", "b", "c", "d"]),
        ("[[ -n $(a) && x > y ]] && b", ["a", "b"]),
        ("f() { a $1; }; f x; f y", ["a x", "a y"]),
        ("f() { a; }", []),
        ("x=1 a; b $x", ["a", "b "]),
        ("x=1; a \"$x\" '$x' ${x}2 ${y:-3} ${#x}", ["a 1 $x 12 3 1"]),
        ("x='p q'; a $x \"$x\"", ["a p q p q"]),
        ("x=/a/b.txt; a ${x##*/} ${x%.*} ${x/b/c} ${x:0:2} ${x^^}", ["a b.txt /a/b /a/c.txt /a /A/B.TXT"]),
        ("a {x,y}{1..2} {z} {p,}", ["a x1 x2 y1 y2 {z} p "]),
        ('set -- p q; a $2 "$@"', ["set -- p q", "a q p q"]),
        ('x=(p q); a "${x[@]}" ${x[1]}', ["a p q q"]),
        ("a ~ ~/x ~bob '~'", ["a /home/u /home/u/x /home/bob ~"]),
        (
            "sudo -u bob -- env -i X=1 nice -n 5 a b",
            ["sudo -u bob -- env -i X=1 nice -n 5 a b", "env -i X=1 nice -n 5 a b", "nice -n 5 a b", "a b"],
        ),
        ("sh -c 'a $1' _ x", ["sh -c a $1 _ x", "a x"]),
        ("eval 'x=1'; a $x", ["eval x=1", "a 1"]),
        ("echo 'a b' | sh", ["echo a b", "sh", "a b"]),
        ("echo YSBi | base64 -d | sh", ["echo YSBi", "base64 -d", "sh", "a b"]),
        ("echo x y | xargs a", ["echo x y", "xargs a", "a x y"]),
        ("printf '%s\\n' x y | xargs -I% a %z", ["printf %s\\n x y", "xargs -I% a %z", "a xz", "a yz"]),
        ("find /p -exec a {} \\;", ["find /p -exec a {} ;", "a /p/*"]),
        ("ssh -p 22 host a 'b c'", ["ssh -p 22 host a b c", "a b c"]),
        ("su - root -c 'a b'", ["su - root -c a b", "a b"]),
        ("a <<E\n$(b)\nE", ["b", "a"]),
        ("a <<'E'\n$(b)\nE", ["a"]),
        ("sh <<'E'\na\nE", ["sh", "a"]),
        ("echo a > /tmp/s; sh /tmp/s", ["echo a", "sh /tmp/s", "a"]),
        (". <(echo a)", ["echo a", ". /dev/fd/63", "a"]),
        ("trap 'a' EXIT", ["trap a EXIT", "a"]),
        ("alias l='a b'; l c", ["alias l=a b", "a b c"]),
        ("while read x; do a $x; done <<< $'p\\nq'", ["read x", "a p", "read x", "a q"]),
        ("/usr/bin/a", ["a"]),
        ("x${unset}y; $unset a", ["xy", "a"]),
        ("time -p a; coproc N { b; }; ! c", ["a", "b", "c"]),
        ("sh -c '$0 $1' a b", ["sh -c $0 $1 a b", "a b"]),
        ("`echo a`", ["echo a", "a"]),
    ],
)
def test_every_command_that_would_run_is_found(script: str, expected: list[str]) -> None:
    assert found(script) == expected


def test_assignments_in_a_subshell_do_not_last() -> None:
    assert found("x=1; (x=2); y=$(x=3); x=4 | a; a $x")[-1] == "a 1"


@pytest.mark.parametrize(
    ("target", "critical"),
    [
        ("/", True),
        ("//", True),
        ("/*", True),
        ("/etc", True),
        ("/etc/.", True),
        ("/var/../etc/", True),
        ("/us?", True),
        ("~x", False),
        ("/home/bob", True),
        ("/home/bob/*", True),
        ("/home/bob/x", False),
        ("/var/tmp/x", False),
        ("", False),
        ("/etc/passwd", True),
        ("/etc/nginx/x.conf", False),
        ("/opt/a", False),
        ("/lib64/ld-linux-x86-64.so.2", True),
    ],
)
def test_a_target_is_critical_as_a_whole_only(target: str, critical: bool) -> None:
    assert is_critical(activate(target), "/srv/app") is critical


def test_paths_are_normalised_against_the_folder() -> None:
    assert resolve("../../x/./y//z", "/a/b") == "/x/y/z"
    assert resolve("/../..", "/a") == "/"


@pytest.mark.parametrize(
    ("path", "device"),
    [
        ("/dev/sda", True),
        ("/dev/nvme0n1p2", True),
        ("/dev/mapper/vg-root", True),
        ("/dev/null", False),
        ("/dev/shm/x", False),
        ("/dev/ttyS0", False),
    ],
)
def test_devices_are_those_that_hold_data(path: str, device: bool) -> None:
    assert is_device(path, "/") is device


def test_options_are_read_as_getopt_reads_them() -> None:
    options = parse_options(["-ab5", "--sig", "9", "--quiet", "x", "-c", "--", "-d"], short="b", long=("signal",))
    assert options.values == {"a": "", "b": "5", "sig": "9", "quiet": "", "c": ""}
    assert options.operands == ["x", "-d"]
    assert options.has("signal")
    assert options.value("signal") == "9"


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("e*c", "etc", True),
        ("e?", "etc", False),
        ("[!a]tc", "etc", True),
        ("[a-d]tc", "etc", False),
        ("*", "", True),
        ("a*b*c", "axbxc", True),
    ],
)
def test_wildcards_match_as_the_shell_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(activate(pattern), name) is expected
