"""YAML as FleetShell reads, writes and edits it: what is resolved, what is refused with its line, what an edit leaves alone."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TRICKY = st.sampled_from(
    [*("", " ", "no", "yes", "on", "true", "FALSE", "null", "~", "7", "007", "-1", "+5", "0x1f", "0o17", "1_000", "1.5", "1e3", "12:30", "2024-01-15"),
     *(".inf", "=", "<<", "- a", "a: b", "# c", "a #b", "&a", "*a", "!t", "%d", "@x", "`x`", "{}", "[", "|", ">", "'", '"', "\\", "\\n", "a\nb", "\n", " x ", "\t"),
     *("\r\n", "\x85", "\u2028", "\ufeff", "\x00", "\x1b[31m", "\x7f", "\x9b", "é", "日本", "🙂", "---", "...", "?", "? a", ":", "-", "x" * 300)]
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(10**18) + 1, 10**18 - 1), TEXTS, TRICKY)
KEYS = st.one_of(st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True), TEXTS, TRICKY)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
both_loaders = pytest.mark.parametrize(
    "loader",
    [
        pytest.param(yaml.SafeLoader, id="pure"),
        pytest.param(getattr(yaml, "CSafeLoader", yaml.SafeLoader), id="libyaml"),
    ],
)


def data(text: str) -> Any:
    return yamlfile.parse(text, "test.yaml").data


@pytest.fixture
def use_loader(monkeypatch: pytest.MonkeyPatch, loader: type) -> None:
    """PyYAML without libyaml marks other places, so both have to be tried."""
    monkeypatch.setattr(yamlfile, "_Loader", loader)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True), ("True", True), ("FALSE", False), ("7", 7), ("0", 0), ("-12", -12), ("+5", 5), ("9" * 18, 10**18 - 1),
        ("", None), ("~", None), ("null", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("12:30", "12:30"), ("007", "007"), ("1.5", "1.5"), ("1e3", "1e3"),
        ("0x1f", "0x1f"), ("0o17", "0o17"), ("1_000", "1_000"), (".inf", ".inf"), (".nan", ".nan"), ("2024-01-15", "2024-01-15"),
        ("tRue", "tRue"), ("9" * 19, "9" * 19), ("=", "="), ("'7'", "7"), ('"true"', "true"), ("''", ""), ("|\n  7", "7\n"), (">-\n  true", "true"),
    ],
)  # fmt: skip
@both_loaders
def test_only_booleans_and_decimal_integers_are_resolved(written: str, value: object, use_loader: None) -> None:
    got = data(f"key: {written}\n")["key"]
    assert (got, type(got)) == (value, type(value))


def test_keys_are_always_text() -> None:
    assert data("22: a\ntrue: b\n~: c\n1.5: d\n") == {"22": "a", "true": "b", "~": "c", "1.5": "d"}
    assert data("<<: {a: 1}\nb: 2\n") == {"<<": {"a": 1}, "b": 2}


@pytest.mark.parametrize(
    ("text", "line", "about"),
    [
        ("a: 1\nb: &x [1]\nc: *x\n", 2, "anchors and aliases"),
        ("a: 1\nb: *x\n", 2, "anchors and aliases"),
        ("a: &x\n", 1, "anchors and aliases"),
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", 2, "tag"),
        ("a: !!str 1\n", 1, "tag"),
        ("a: ! 12\n", 1, "tag"),
        ("a:\n  - !custom {b: 1}\n", 2, "tag"),
        ("a: 1\nb: 2\na: 3\n", 3, 'key "a" stands here twice'),
        ("a:\n  b: 1\n  'b': 2\n", 3, 'key "b" stands here twice'),
        ("a: {b: 1, b: 2}\n", 1, "twice"),
        ("a: 1\n? [x, y]\n: 2\n", 2, "plain word"),
        ("a: 1\nb: [1, 2\n", 3, ""),
        ("a: 1\n b: 2\n", 2, ""),
        ("a: 1\n\tb: 2\n", 2, ""),
        ('a: "open\n', 2, ""),
        ("a: 1\n---\nb: 2\n", 2, "document"),
        ("a: 1\nb: \x00\n", 2, "U+0000"),
        ("a: 1\n\nb: \x1b[31m\n", 3, "U+001B"),
        ("a: \udc80\n", 1, "U+DC80"),
    ],
)
@both_loaders
def test_what_is_not_accepted_is_refused_with_file_and_line(text: str, line: int, about: str, use_loader: None) -> None:
    with pytest.raises(ConfigError) as caught:
        yamlfile.parse(text, "test.yaml")
    assert caught.value.message.startswith(f"test.yaml, line {line}: ")
    assert about in caught.value.message


@both_loaders
def test_an_alias_bomb_is_refused_before_it_is_built(use_loader: None) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)
    ]
    with pytest.raises(ConfigError, match="test.yaml, line 1: anchors and aliases"):
        yamlfile.parse("\n".join(levels), "test.yaml")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused_and_the_deepest_level_allowed_is_read(opening: str) -> None:
    closing = {"[": "]", "{a: ": "}", "- ": ""}[opening]

    def nested(levels: int) -> str:
        return opening * levels + "x" + closing * levels

    assert data(nested(yamlfile.MAX_DEPTH)) is not None
    with pytest.raises(ConfigError, match=rf"line 1: nested deeper than {yamlfile.MAX_DEPTH} levels"):
        data(nested(yamlfile.MAX_DEPTH + 1))
    with pytest.raises(ConfigError, match="line 1: nested deeper"):
        data(opening * 50_000)


def test_a_file_of_256_kib_is_read_and_a_larger_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    start = "a: 1\n#"
    path.write_text(start + "x" * (yamlfile.MAX_BYTES - len(start)))
    assert yamlfile.read(path).data == {"a": 1}
    path.write_text(start + "x" * (yamlfile.MAX_BYTES - len(start) + 1))
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))} is larger than 256 KiB"):
        yamlfile.read(path)


def test_an_endless_file_is_refused_without_being_read_whole() -> None:
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        yamlfile.read(Path("/dev/zero"))


def test_a_file_that_is_missing_a_folder_or_no_text_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing.yaml does not exist"):
        yamlfile.read(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        yamlfile.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml, line 2: not UTF-8 text \(byte 11\)"):
        yamlfile.read(tmp_path / "latin.yaml")


def test_each_key_and_item_knows_its_line_and_a_missing_one_its_parents() -> None:
    document = yamlfile.parse("# head\na:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", "test.yaml")
    assert document.line(("a",)) == 2
    assert document.line(("a", "b")) == 3
    assert document.line(("a", "c", 1, "d")) == 6
    assert document.line(("a", "c", 0)) == 5
    assert document.line(("a", "missing", "deeper")) == 2
    assert document.line(("missing",)) == 2  # where the first key of the file stands


def test_a_file_without_content_is_none() -> None:
    assert data("") is None
    assert data("# only a comment\n") is None
    assert data("---\n") is None
    assert data("\ufeffa: 1\n") == {"a": 1}


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_what_dump_writes_is_read_back_as_the_same_data(written: dict[str, Any]) -> None:
    text = yamlfile.dump(written)
    assert same(data(text), written)
    assert list(data(text)) == list(written)


def test_dump_writes_no_aliases_for_data_that_stands_twice() -> None:
    shared = ["x", {"y": 1}]
    assert data(yamlfile.dump({"a": shared, "b": shared})) == {"a": shared, "b": shared}


@given(VALUES)
def test_a_value_in_one_line_is_read_back_as_it_was(value: Any) -> None:
    line = yamlfile.scalar(value)
    assert "\n" not in line
    assert same(data(f"key: {line}\n")["key"], value)


def same(one: Any, other: Any) -> bool:
    """Equality that tells True from 1, which Python's does not."""
    return bool(one == other) and repr(one) == repr(other) if not isinstance(one, dict) else _same_maps(one, other)


def _same_maps(one: dict[str, Any], other: Any) -> bool:
    return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)


# Editing

EDITS = [
    # A value that is there.
    ("a: 1\n", ("a",), 2, "a: 2\n"),
    ("a: 1 # why\nb: 2\n", ("a",), "x", 'a: "x" # why\nb: 2\n'),
    ("# head\n\na:   'one'   # why\n\n# tail\n", ("a",), "two", '# head\n\na:   "two"   # why\n\n# tail\n'),
    ("a:\n  b: true\n  c: 3\n", ("a", "b"), False, "a:\n  b: false\n  c: 3\n"),
    ("'a': \"x\"\n", ("a",), 1, "'a': 1\n"),
    ('"a b" : 1\n', ("a b",), 2, '"a b" : 2\n'),
    ("a: one\n  two\n  three\nb: 1\n", ("a",), "x", 'a: "x"\nb: 1\n'),
    ('a: "one\n  two"\nb: 1\n', ("a",), "x", 'a: "x"\nb: 1\n'),
    ("a:\n  one\nb: 1\n", ("a",), "x", 'a:\n  "x"\nb: 1\n'),
    ("a: null # none\n", ("a",), 1, "a: 1 # none\n"),
    # An empty value.
    ("a:\nb: 1\n", ("a",), 2, "a: 2\nb: 1\n"),
    ("a: # why\nb: 1\n", ("a",), 2, "a: 2 # why\nb: 1\n"),
    ("a:\n# about b\nb: 1\n", ("a",), 2, "a: 2\n# about b\nb: 1\n"),
    ("a:", ("a",), 2, "a: 2\n"),
    # Missing keys and parents.
    ("a: 1\n", ("b",), 2, "a: 1\nb: 2\n"),
    ("a: 1", ("b",), 2, "a: 1\nb: 2\n"),
    ("a:\n  b: 1 # b\n# about c\nc: 1\n", ("a", "d"), 2, "a:\n  b: 1 # b\n  d: 2\n# about c\nc: 1\n"),
    ("a:\n    b: 1\n\n\nc: 1\n", ("a", "d", "e"), 2, "a:\n    b: 1\n    d:\n      e: 2\n\n\nc: 1\n"),
    ("a: # why\n  # nothing yet\nb: 1\n", ("a", "c", "d"), 2, "a: # why\n  c:\n    d: 2\n  # nothing yet\nb: 1\n"),
    ("a: ~ # none\nb: 1\n", ("a", "c"), 2, "a:  # none\n  c: 2\nb: 1\n"),
    ("", ("a", "b"), 1, "a:\n  b: 1\n"),
    ("# only this", ("a",), 1, "# only this\na: 1\n"),
    ("---\n", ("a",), 1, "---\na: 1\n"),
    ("  a: 1\n  b: 2\n", ("c",), 3, "  a: 1\n  b: 2\n  c: 3\n"),
    ("a:\n  b:\n    c:\n", ("a", "b", "d"), 1, "a:\n  b:\n    c:\n    d: 1\n"),
    ("a:\n- 1\n- 2\n", ("b",), 1, "a:\n- 1\n- 2\nb: 1\n"),
    # Keys that need quotes.
    ("a: 1\n", ("x: y",), 1, 'a: 1\n"x: y": 1\n'),
    ("a: 1\n", ("# c", "- d"), 1, 'a: 1\n"# c":\n  "- d": 1\n'),
    ("a: {}\n", ("a", "x, y"), 1, 'a: {"x, y": 1}\n'),
    # Flow maps.
    ("a: {b: 1, c: 2}\n", ("a", "b"), "x", 'a: {b: "x", c: 2}\n'),
    ("a: {b: 1}\n", ("a", "c"), 2, "a: {b: 1, c: 2}\n"),
    ("a: { b: 1, }\n", ("a", "c"), 2, "a: { b: 1, c: 2, }\n"),
    ("a: {b: 1 # one\n  }\n", ("a", "c"), 2, "a: {b: 1, c: 2 # one\n  }\n"),
    ("a: {} # none\n", ("a", "b", "c"), 2, "a: {b: {c: 2}} # none\n"),
    ("a: {b, c: 2}\n", ("a", "b"), 1, "a: {b: 1, c: 2}\n"),
    ("a: {b: , c: 2}\n", ("a", "b"), 1, "a: {b: 1 , c: 2}\n"),
    ("a: {b: }\n", ("a", "c"), 1, "a: {b: , c: 1 }\n"),
    ("a: {b: }\n", ("a", "b", "c"), 1, "a: {b: {c: 1} }\n"),
    ('{"a":1}', ("a",), 2, '{"a": 2}\n'),
    ("a: [x, # one\n  y] # two\nb: 1\n", ("a",), ["z"], 'a: ["z"] # two\n  # one\nb: 1\n'),
    # Lists and maps in block style.
    ("a:\n  - x\n  - y\n# about b\nb: 1\n", ("a",), ["z"], 'a: ["z"]\n# about b\nb: 1\n'),
    ("a: # all: of\n  # first: of\n  - x # two\n\nb: 1\n", ("a",), [], "a: [] # all: of\n  # first: of\n  # two\n\nb: 1\n"),
    ("a:\n  b: |\n    # text\n  c: 1\nd: 1\n", ("a",), 1, "a: 1\nd: 1\n"),
    # Block text.
    ("a: |\n  one\n  # text\nb: 1\n", ("a",), "x", 'a: "x"\nb: 1\n'),
    ("a: >- # folded\n  one\n\n# about b\nb: 1\n", ("a",), "x", 'a: "x" # folded\n\n# about b\nb: 1\n'),
    ("a: |\n  one", ("a",), "x", 'a: "x"\n'),
    ("a: |\n  one", ("b",), 1, "a: |\n  one\nb: 1\n"),
    ("a:\n  b: |+\n    one\n\n\nc: 1\n", ("a", "d"), 1, "a:\n  b: |+\n    one\n\n\n  d: 1\nc: 1\n"),
    ("a:\n  b: |\n    one\n\n# about c\nc: 1\n", ("a", "d"), 1, "a:\n  b: |\n    one\n  d: 1\n\n# about c\nc: 1\n"),
    # Line ends and a byte order mark, as editors on Windows write them.
    ("a: 1\r\n# c\r\nb:\r\n  c: 1\r\n", ("b", "d"), 2, "a: 1\r\n# c\r\nb:\r\n  c: 1\r\n  d: 2\r\n"),
    ("a: |\r\n  one\r\n  two\r\nb: 1\r\n", ("b",), "x\ny", 'a: |\r\n  one\r\n  two\r\nb: "x\\ny"\r\n'),
    ("\ufeffa: 1\n", ("a",), 2, "\ufeffa: 2\n"),
    ("\ufeffa: 1\r\nb:\r\n", ("b", "c"), 2, "\ufeffa: 1\r\nb:\r\n  c: 2\r\n"),
    ("a: 1\r\nb: 2\nc: 3\r\n", ("b",), 4, "a: 1\r\nb: 4\nc: 3\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "value", "wanted"), EDITS, ids=[repr(edit[0])[:40] for edit in EDITS])
@both_loaders
def test_an_edit_changes_one_value_and_keeps_the_rest_as_it_was(
    text: str, path: tuple[str, ...], value: Any, wanted: str, use_loader: None
) -> None:
    assert yamlfile.set_value(text, path, value, "test.yaml") == wanted


@pytest.mark.parametrize(
    ("text", "path", "about"),
    [
        ("a: 1\n", ("a", "b"), "`a` is not a block of keys"),
        ("a: ''\n", ("a", "b"), "`a` is not a block of keys"),
        ("a: []\n", ("a", "b"), "`a` is not a block of keys"),
        ("a:\n  b: [x]\n", ("a", "b", "c"), "`a.b` is not a block of keys"),
        ("- a\n", ("a",), "not a block of keys"),
        ("just text\n", ("a",), "not a block of keys"),
        ("---\n...\n", ("b",), "please edit it by hand"),
        ("a: [1\n", ("b",), "test.yaml, line 2"),
    ],
)
def test_an_edit_that_is_not_possible_is_refused_with_a_sentence(text: str, path: tuple[str, ...], about: str) -> None:
    with pytest.raises(ConfigError) as caught:
        yamlfile.set_value(text, path, 1, "test.yaml")
    assert about in caught.value.message


PLAIN_KEYS = ["alpha", "b-2", "c_3", "42", "no", "true"]
LEAVES = [
    "1",
    "true",
    "plain words",
    "'single'",
    '"double # no comment"',
    "",
    "~",
    "[]",
    "[a, b]",
    "{}",
    "{x: 1, y: [2]}",
    "12:30",
    '"\\n"',
]


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[tuple[str, ...]], list[str]]:
    """YAML as people write it: the text, the path of every mapping and value in it, and its comment lines.

    Comments are numbered, so that each is unlike all others.
    """
    lines: list[str] = []
    paths: list[tuple[str, ...]] = [()]
    comments: list[str] = []
    step = draw(st.sampled_from([1, 2, 4]))

    def comment() -> str:
        comments.append(f"# comment {len(comments)}: with a [colon] and 'quotes'")
        return comments[-1]

    def remarks(column: int) -> None:
        for _ in range(draw(st.integers(0, 1))):
            lines.append(" " * draw(st.sampled_from([0, column])) + comment())
        if draw(st.integers(0, 5)) == 0:
            lines.append("")

    def block(path: tuple[str, ...], column: int, depth: int) -> None:
        for key in draw(st.lists(st.sampled_from(PLAIN_KEYS), min_size=1, max_size=3, unique=True)):
            remarks(column)
            at = (*path, key)
            paths.append(at)
            start = " " * column + (f"'{key}'" if draw(st.integers(0, 4)) == 0 else key) + ":"
            kind = draw(st.sampled_from(["leaf", "leaf", "block", "list", "text"]))
            ending = " " + comment() if draw(st.integers(0, 3)) == 0 else ""
            if kind == "block" and depth < 3:
                lines.append(start + ending)
                block(at, column + step, depth + 1)
            elif kind == "list":
                lines.append(start + ending)
                for item in draw(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=2)):
                    remarks(column)
                    lines.append(" " * column + "- " + item)
            elif kind == "text":
                lines.append(f"{start} {draw(st.sampled_from(['|', '>-', '|+', '>']))}{ending}")
                more = draw(st.lists(st.sampled_from(["one", "# two", "  three", ""]), max_size=3))
                lines.extend([" " * (column + step) + line for line in ["# one", *more]])
            else:
                lines.append(f"{start} {draw(st.sampled_from(LEAVES))}{ending}".rstrip())

    block((), 0, 0)
    remarks(0)
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n"])), paths, comments


def changed(before: Any, path: tuple[str, ...], value: Any) -> Any:
    """What an edit shall lead to, or None where it has to be refused."""
    after = target = copy.deepcopy(before) or {}
    for key in path[:-1]:
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            return None
    target[path[-1]] = value
    return after


@given(documents(), st.data(), VALUES, st.booleans())
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize(
    "loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)], ids=["pure", "libyaml"]
)
def test_any_edit_of_any_document_is_that_one_change_and_keeps_every_comment(
    loader: type,
    document: tuple[str, list[tuple[str, ...]], list[str]],
    choices: st.DataObject,
    value: Any,
    windows: bool,
) -> None:
    text, paths, comments = document
    if windows:
        text = text.replace("\n", "\r\n")
    known = choices.draw(st.sampled_from(paths))
    more = choices.draw(st.lists(st.one_of(st.sampled_from(PLAIN_KEYS), KEYS), min_size=0 if known else 1, max_size=2))
    path = (*known, *more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yamlfile, "_Loader", loader)
        before = data(text)
        wanted = changed(before, path, value)
        if wanted is None:
            with pytest.raises(ConfigError):
                yamlfile.set_value(text, path, value, "test.yaml")
            return
        new = yamlfile.set_value(text, path, value, "test.yaml")
        after = data(new)
    assert same(after, wanted)
    assert order(after) == order(wanted)
    for comment in comments:
        assert len(re.findall(re.escape(comment) + r"\r?$", new, re.MULTILINE)) == 1, comment
    if windows and "\n" in text:
        assert "\n" not in new.replace("\r\n", "")


def order(value: Any) -> Any:
    """The keys of all maps in their order."""
    if isinstance(value, dict):
        return [(key, order(item)) for key, item in value.items()]
    return [order(item) for item in value] if isinstance(value, list) else None
