"""The prompt database: files that are never half written, revisions, refusals, placeholders, and two processes at once."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.core import placeholders, prompts
from fleetshell_tools.core.errors import AuditUnavailable, BadArgument, ConfigError, FleetShellError, NotFound
from fleetshell_tools.core.prompt_file import LONGEST_CONTENT, LONGEST_DESCRIPTION
from fleetshell_tools.core.prompts import Editor, PromptStore

ROOT = Path(__file__).parents[2]


@dataclass
class Records:
    """An audit log in memory; with `broken` it can't be written."""

    written: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    broken: bool = False

    def __call__(self, event: str, **fields: Any) -> None:
        if self.broken:
            raise AuditUnavailable("The audit log can't be written.")
        self.written.append((event, fields))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.written]


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def by(records: Records) -> Editor:
    return Editor("operator", records)


@pytest.fixture
def clock() -> list[float]:
    return [1_705_314_600.0]  # 2024-01-15T10:30:00Z


@pytest.fixture
def store(tmp_path: Path, clock: list[float]) -> PromptStore:
    return PromptStore(tmp_path / "prompts", lambda: clock[0])


@pytest.fixture
def write(store: PromptStore) -> Callable[..., Path]:
    """Writes a prompt's file by hand; `keys` replace those of a good one."""

    def by_hand(name: str, /, **keys: Any) -> Path:
        path = store.path(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        good = {
            "name": name,
            "description": "d",
            "content": "c",
            "created_at": "2024-01-15T10:30:00Z",
            "updated_at": "2024-01-15T10:30:00Z",
        }
        path.write_text(json.dumps({key: value for key, value in {**good, **keys}.items() if value is not ...}))
        path.chmod(0o600)
        return path

    return by_hand


# Files


def test_a_saved_prompt_is_the_documented_file_and_private(store: PromptStore, by: Editor) -> None:
    prompt, created = store.save("db-health", "Database health check", "Check connections – größer", by=by)
    assert created and prompt == store.get("db-health")
    assert json.loads(store.path("db-health").read_text()) == {
        "name": "db-health", "description": "Database health check", "content": "Check connections – größer",
        "created_at": "2024-01-15T10:30:00Z", "updated_at": "2024-01-15T10:30:00Z", "revision": 1, "author": "operator",
    }  # fmt: skip
    assert stat.S_IMODE(store.path("db-health").stat().st_mode) == 0o600


def test_an_updated_prompt_keeps_when_it_was_created(store: PromptStore, by: Editor, clock: list[float]) -> None:
    store.save("a", "d", "one", by=by)
    clock[0] += 3600
    prompt, created = store.save("a", "d", "two", by=by)
    assert not created
    assert (prompt.created_at, prompt.updated_at) == ("2024-01-15T10:30:00Z", "2024-01-15T11:30:00Z")


def test_a_file_by_hand_needs_no_times_and_keeps_its_other_keys(
    store: PromptStore, write: Callable[..., Path], by: Editor
) -> None:
    path = write(
        "a", created_at=..., updated_at=..., name=..., description=..., tags=["x"], title="A title", content="{host}",
        arguments=[{"name": "host", "description": "which one"}, {"name": "other"}, "nonsense"],
    )  # fmt: skip
    os.utime(path, (0, 1_000_000_000))
    prompt = store.get("a")
    assert (prompt.created_at, prompt.description, prompt.author) == ("2001-09-09T01:46:40Z", "", "")
    assert (prompt.title, prompt.argument_description("host"), prompt.argument_description("other")) == (
        "A title",
        "which one",
        "",
    )
    store.edit("a", content="new", by=by)
    written = json.loads(path.read_text())
    assert (written["tags"], written["title"], len(written["arguments"])) == (["x"], "A title", 3)


DAMAGED: list[tuple[str, bytes, str]] = [
    ("empty", b"", "line 1"),
    ("cut", b'{"name": "cut",\n "content": "x', "line 2"),
    ("list", b"[]", "a JSON object"),
    ("latin", b'{"content": "\xff"}', "UTF-8"),
    ("deep", b"[" * 100_000, "no JSON"),
    ("half", b'{"content": "\\ud800"}', "no JSON in UTF-8"),
    ("huge", b'{"content": "' + b"x" * 2_000_000 + b'"}', "too much"),
    ("long", b'{"content": "' + b"x" * 100_000 + b'"}', "at most"),
    ("without", b"{}", "`content` is missing"),
    ("number", b'{"content": 5}', "`content` must be text"),
    ("nul", b'{"content": "a\\u0000b"}', "NUL"),
    ("other", b'{"name": "another", "content": "c"}', "the file is named other.json"),
    ("when", b'{"content": "c", "created_at": "yesterday"}', "2024-01-15T10:30:00Z"),
    ("revision", b'{"content": "c", "revision": 0}', "`revision`"),
    ("truth", b'{"content": "c", "revision": true}', "`revision`"),
]


@pytest.mark.parametrize(("name", "raw", "says"), DAMAGED, ids=[name for name, _, _ in DAMAGED])
def test_a_damaged_file_disables_that_prompt_alone_and_is_named(
    store: PromptStore, write: Callable[..., Path], by: Editor, name: str, raw: bytes, says: str
) -> None:
    write("good")
    path = write(name)
    path.write_bytes(raw)
    prompts_found, problems = store.all()
    assert [prompt.name for prompt in prompts_found] == ["good"]
    assert list(problems) == [name] and says in problems[name] and str(path) in problems[name]
    with pytest.raises(ConfigError, match=name):
        store.get(name)
    with pytest.raises(ConfigError):
        store.save(name, "d", "c", by=by)
    assert path.read_bytes() == raw


def test_a_file_that_others_can_change_or_a_link_is_damaged_and_strange_names_too(
    store: PromptStore, write: Callable[..., Path]
) -> None:
    write("open").chmod(0o666)
    write("real")
    store.path("link").symlink_to(store.path("real"))
    write("real").rename(store.path("a b"))
    write(".hidden")
    store.path("x").with_suffix(".txt").write_text("no prompt")
    found, problems = store.all()
    assert found == [] and set(problems) == {"open", "link", "a b"}
    assert "chmod 600" in problems["open"] and "symbolic link" in problems["link"] and "file's name" in problems["a b"]


def test_a_missing_folder_is_an_empty_database_and_saving_makes_it(store: PromptStore, by: Editor) -> None:
    assert (store.all(), store.names()) == (([], {}), [])
    store.save("a", "d", "c", by=by)
    assert stat.S_IMODE(store.path("a").parent.stat().st_mode) == 0o700


def test_the_generation_changes_with_every_change_and_with_nothing_else(
    store: PromptStore, by: Editor, write: Callable[..., Path]
) -> None:
    seen = store.generation()
    changes: list[Callable[[], object]] = [
        lambda: store.save("a", "d", "c", by=by),
        lambda: store.edit("a", content="c2", by=by),
        lambda: store.path("a").write_text("by hand"),
        lambda: write("b"),
        lambda: store.delete("b", by=by),
    ]
    for change in changes:
        change()
        assert store.generation() != seen
        seen = store.generation()
    store.all()
    assert store.generation() == seen


# What is refused

BAD_NAMES = [
    "",
    "a/b",
    "../a",
    "/etc/passwd",
    "a\0b",
    "a b",
    ".",
    "..",
    ".hidden",
    "a.b",
    "größe",
    "a" * 65,
    "a\n",
    "\ud800",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_everywhere_and_touches_nothing(
    store: PromptStore, by: Editor, name: str, tmp_path: Path
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get(name),
        lambda: store.save(name, "d", "c", by=by),
        lambda: store.edit(name, content="c", by=by),
        lambda: store.delete(name, by=by),
        lambda: store.delete(name, by=by, forget=True),
        lambda: store.revisions(name),
        lambda: store.revision(name, 1),
        lambda: store.rollback(name, by=by),
    ]
    for call in calls:
        with pytest.raises(BadArgument, match="letters, digits"):
            call()
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("prompts", ".lock")] == []


@pytest.mark.parametrize(("description", "content", "says"), [
    ("", "c", "description of a prompt can't be empty"),
    ("d", " \n", "content of a prompt can't be empty"),
    ("d\0", "c", "description holds a NUL character (at 1)"),
    ("d", "\0", "content holds a NUL character (at 0)"),
    ("d", "x\ud800", "half of a character (at 1)"),
    ("two\nlines", "c", "one line"),
    ("d\n", "c", "one line"),
    ("x" * (LONGEST_DESCRIPTION + 1), "c", "at most 500"),
    ("d", "x" * 1_000_000, "1,000,000 bytes; allowed: at most 65,536"),
    ("d", "ä" * (LONGEST_CONTENT // 2 + 1), "65,538 bytes"),
])  # fmt: skip
def test_a_text_that_cannot_be_saved_is_refused_and_nothing_changes(
    store: PromptStore, by: Editor, records: Records, description: str, content: str, says: str
) -> None:
    with pytest.raises(BadArgument) as refused:
        store.save("a", description, content, by=by)
    assert says in refused.value.message
    store.save("a", "before", "before", by=by)
    with pytest.raises(BadArgument):
        store.edit("a", description, content, by=by)
    assert store.get("a").content == "before" and records.events == ["prompt_saved"]


def test_the_largest_prompt_is_kept_byte_for_byte(store: PromptStore, by: Editor) -> None:
    content = "\x01\r\n\t{\u2028😀\ufeff" + "é" * ((LONGEST_CONTENT - 15) // 2)
    store.save("a", "x" * LONGEST_DESCRIPTION, content, by=by)
    assert store.get("a").content == content


def test_an_unknown_prompt_names_a_near_one(store: PromptStore, by: Editor) -> None:
    with pytest.raises(NotFound, match="none yet"):
        store.get("db")
    store.save("db-health", "d", "c", by=by)
    with pytest.raises(NotFound, match='Did you mean "db-health"'):
        store.get("db-helth")
    with pytest.raises(NotFound):
        store.edit("other", content="c", by=by)
    with pytest.raises(NotFound):
        store.delete("other", by=by)


def test_there_may_not_be_more_prompts_than_the_limit(
    store: PromptStore, by: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "MOST_PROMPTS", 2)
    for name in ("a", "b"):
        store.save(name, "d", "c", by=by)
    with pytest.raises(FleetShellError, match="2 prompts already"):
        store.save("c", "d", "c", by=by)
    assert store.save("a", "d", "new", by=by)[0].content == "new"


def test_what_cannot_be_recorded_is_not_done(store: PromptStore, by: Editor, records: Records) -> None:
    store.save("a", "d", "one", by=by)
    store.edit("a", content="two", by=by)
    records.broken = True
    calls: list[Callable[[], object]] = [
        lambda: store.save("b", "d", "c", by=by),
        lambda: store.edit("a", content="three", by=by),
        lambda: store.rollback("a", by=by),
        lambda: store.delete("a", by=by),
        lambda: store.delete("a", by=by, forget=True),
    ]
    for call in calls:
        with pytest.raises(AuditUnavailable):
            call()
    assert store.names() == ["a"] and store.get("a").content == "two" and store.revisions("a") == [1, 2]


def test_each_change_is_recorded_by_name_and_without_its_text(store: PromptStore, by: Editor, records: Records) -> None:
    store.save("a", "a description", "the secret", by=by)
    store.edit("a", content="the secret 2", by=by)
    store.rollback("a", by=by)
    store.delete("a", by=by)
    assert records.events == ["prompt_saved", "prompt_edited", "prompt_rolled_back", "prompt_deleted"]
    assert [fields.get("revision") for _, fields in records.written] == [1, 2, 3, None]
    assert "secret" not in repr(records.written) and "description" not in repr(records.written)


# Revisions


def test_every_edit_keeps_a_revision_and_the_same_text_makes_none(store: PromptStore, by: Editor) -> None:
    store.save("a", "d", "one", by=by)
    store.save("a", "d", "one", by=by)
    store.edit("a", content="two", by=Editor("model", by.record))
    store.edit("a", description="e", by=by)
    assert store.revisions("a") == [1, 2, 3]
    assert [(store.revision("a", n).content, store.revision("a", n).author) for n in (1, 2, 3)] == [
        ("one", "operator"), ("two", "model"), ("two", "operator"),
    ]  # fmt: skip
    with pytest.raises(NotFound, match="no revision 4. Its revisions: 1, 2, 3"):
        store.revision("a", 4)


def test_an_edit_of_an_old_revision_is_refused(store: PromptStore, by: Editor) -> None:
    store.save("a", "d", "one", by=by)
    store.edit("a", content="two", by=by, expected_revision=1)
    with pytest.raises(FleetShellError, match="at revision 2, not 1"):
        store.edit("a", content="three", by=by, expected_revision=1)
    assert store.get("a").content == "two"


def test_a_change_by_hand_becomes_a_revision_and_loses_nothing(
    store: PromptStore, write: Callable[..., Path], by: Editor
) -> None:
    store.save("a", "d", "one", by=by)
    write("a", content="by hand")
    assert (store.get("a").revision, store.get("a").author) == (2, "")
    with pytest.raises(FleetShellError, match="at revision 2, not 1"):
        store.edit("a", content="x", by=by, expected_revision=1)
    store.edit("a", content="three", by=by)
    assert [store.revision("a", n).content for n in store.revisions("a")] == ["one", "by hand", "three"]


def test_a_file_made_by_hand_has_its_first_text_as_first_revision(
    store: PromptStore, write: Callable[..., Path], by: Editor
) -> None:
    write("a", content="first")
    assert store.revisions("a") == [1]
    store.edit("a", content="second", by=by)
    assert [store.revision("a", n).content for n in store.revisions("a")] == ["first", "second"]


def test_a_rollback_is_a_new_revision(store: PromptStore, by: Editor) -> None:
    store.save("a", "d", "one", by=by)
    with pytest.raises(NotFound, match="no earlier revision"):
        store.rollback("a", by=by)
    store.save("a", "e", "two", by=by)
    store.save("a", "f", "three", by=by)
    assert store.rollback("a", by=by).content == "two"
    prompt = store.rollback("a", 1, by=by)
    assert (prompt.description, prompt.content, prompt.revision) == ("d", "one", 5)


def test_a_deleted_prompt_can_be_brought_back_unless_it_is_forgotten(
    store: PromptStore, by: Editor, clock: list[float]
) -> None:
    store.save("a", "d", "one", by=by)
    store.save("a", "d", "two", by=by)
    store.delete("a", by=by)
    assert store.names() == [] and store.revisions("a") == [1, 2]
    clock[0] += 60
    prompt = store.rollback("a", by=by)
    assert (prompt.content, prompt.created_at, prompt.revision) == ("two", "2024-01-15T10:30:00Z", 3)
    store.delete("a", by=by)
    assert store.save("a", "d", "anew", by=by)[1] and store.get("a").revision == 4
    store.delete("a", by=by)
    store.delete("a", by=by, forget=True)
    with pytest.raises(NotFound):
        store.revisions("a")
    with pytest.raises(NotFound):
        store.delete("a", by=by, forget=True)


def test_a_damaged_prompt_is_mended_by_a_rollback_and_put_aside(store: PromptStore, by: Editor) -> None:
    store.save("a", "d", "one", by=by)
    store.path("a").write_text("damaged {")
    assert store.rollback("a", by=by).content == "one"
    assert store.get("a").content == "one"
    store.path("a").write_text("damaged again {")
    store.delete("a", by=by)
    aside = store.path("a").parent / ".history" / "a" / "damaged.json"
    assert aside.read_text() == "damaged again {" and store.names() == []


def test_a_damaged_revision_hides_itself_alone(store: PromptStore, by: Editor) -> None:
    for text in ("one", "two", "three"):
        store.save("a", "d", text, by=by)
    (store.path("a").parent / ".history" / "a" / "2.json").write_text("{")
    assert store.get("a").content == "three" and store.revision("a", 1).content == "one"
    with pytest.raises(ConfigError, match="2.json"):
        store.revision("a", 2)


def test_the_oldest_revisions_go_when_there_are_too_many(
    store: PromptStore, by: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "MOST_REVISIONS", 5)
    for number in range(12):
        store.save("a", "d", f"text {number}", by=by)
        assert len(store.revisions("a")) == min(number + 1, 5)
    assert store.revisions("a") == [8, 9, 10, 11, 12]


# Two processes

EDITS = """
import pathlib, sys
from fleetshell_tools.core.prompts import Editor, PromptStore
folder, who = sys.argv[1:]
store = PromptStore(pathlib.Path(folder))
for number in range(20):
    store.save("shared", "d", f"{who} {number}", by=Editor("operator", lambda event, **fields: None))
    found = store.get("shared")
    assert found.content.split()[0] in ("left", "right"), found
"""


def test_two_processes_that_edit_one_prompt_lose_no_text(store: PromptStore, tmp_path: Path) -> None:
    command = [sys.executable, "-c", EDITS, str(tmp_path / "prompts")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen([*command, who], env=environment) for who in ("left", "right")]
    assert [process.wait(60) for process in running] == [0, 0]
    texts = [store.revision("shared", number).content for number in store.revisions("shared")]
    assert sorted(texts) == sorted(f"{who} {number}" for who in ("left", "right") for number in range(20))
    for who in ("left", "right"):
        mine = [text for text in texts if text.startswith(who)]
        assert mine == [f"{who} {number}" for number in range(20)]
    assert store.get("shared").content == texts[-1]


def test_a_full_disk_leaves_the_old_text_and_is_a_sentence(store: PromptStore, by: Editor, tmp_path: Path) -> None:
    store.save("a", "d", "old", by=by)
    code = """
import pathlib, resource, signal, sys
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.prompts import Editor, PromptStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    PromptStore(pathlib.Path(sys.argv[1])).save("a", "d", "x" * 10_000, by=Editor("operator", lambda event, **fields: None))
except FleetShellError as error:
    sys.exit(error.message)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "prompts")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "could not be written" in done.stderr and "unchanged" in done.stderr
    assert store.get("a").content == "old" and store.revisions("a") == [1]


# Placeholders


@pytest.mark.parametrize(("content", "names"), [
    ("", []),
    ("plain { text } {} {1} {a b} {.x}", []),
    ("on {server} and {server}, {days}", ["server", "days"]),
    ("{_a} {a-b} {a_1}", ["_a", "a-b", "a_1"]),
    ("{größe} {A}", ["A"]),
    ("${HOME} ${server} {{server}} {{.Names}} {{ jinja }}", []),
    ("{{{server}}}", ["server"]),
    ('{"json": {"a": 1}, "b": {c}}', ["c"]),
    ("{" + "x" * 65 + "}", []),
    ("{a{b}c}", ["b"]),
    ("{", []),
    ("{{", []),
    ("}}{{", []),
])  # fmt: skip
def test_the_arguments_of_a_prompt_are_its_placeholders(content: str, names: list[str]) -> None:
    assert placeholders.arguments(content) == names


@pytest.mark.parametrize(("content", "rendered"), [
    ("{v}", "V"),
    ("a{v}b{v}", "aVbV"),
    ("{{v}} {v}", "{v} V"),
    ("{{{v}}}", "{V}"),
    ("${v} {v}", "${v} V"),
    ("docker ps --format '{{.Names}}' {v}", "docker ps --format '{{.Names}}' V"),
    ("awk '{ print $1 }' {} {", None),
    ("{v} { {} } {{ {{{ }}} {{ x }}", "V { {} } {{ {{{ }}} {{ x }}"),
    ("é{v}😀", "éV😀"),
    ("{v", None),
    ("{{v} {v}", "{v} V"),
])  # fmt: skip
def test_a_prompt_is_rendered_in_one_pass(content: str, rendered: str | None) -> None:
    if rendered is None:
        with pytest.raises(BadArgument, match="no argument"):
            placeholders.render(content, {"v": "V"})
        rendered = content
        assert placeholders.render(content, {}) == content
    else:
        assert placeholders.render(content, {"v": "V"}) == rendered


def test_a_value_is_never_looked_into() -> None:
    values = {"a": "{b} {{b}} ${b} \\1 %s {0}", "b": "{a}"}
    assert placeholders.render("{a}|{b}", values) == "{b} {{b}} ${b} \\1 %s {0}|{a}"


def test_a_missing_and_an_unknown_argument_name_themselves_and_the_list() -> None:
    with pytest.raises(BadArgument) as missing:
        placeholders.render("{server} {days} {x}", {"x": "1"})
    assert missing.value.message == "The prompt needs a value for `server`, `days`. Its arguments: server, days, x."
    with pytest.raises(BadArgument) as unknown:
        placeholders.render("{server}", {"sever": "1"})
    assert unknown.value.message == 'The prompt has no argument "sever". Did you mean "server"? Its arguments: server.'
    with pytest.raises(BadArgument, match="Its arguments: none"):
        placeholders.render("plain", {"x" * 1000: "1"})


def test_a_rendered_prompt_that_would_be_huge_is_refused_before_it_is_made() -> None:
    with pytest.raises(BadArgument, match="longer than 262,144"):
        placeholders.render("{a}" * 20_000, {"a": "x" * 4_000_000})
    assert len(placeholders.render("{a}", {"a": "x" * placeholders.LONGEST_RESULT})) == placeholders.LONGEST_RESULT
    with pytest.raises(BadArgument):
        placeholders.render("{a}!", {"a": "x" * placeholders.LONGEST_RESULT})


@given(st.text(alphabet="{}$ab.\n", max_size=60))
def test_any_text_renders_and_without_braces_around_names_it_stays(content: str) -> None:
    names = placeholders.arguments(content)
    values = dict.fromkeys(names, "")
    rendered = placeholders.render(content, values)
    assert len(rendered) <= len(content)
    if "{" not in content:
        assert rendered == content
    assert placeholders.render(content.replace("{", "").replace("}", ""), {}) == content.replace("{", "").replace(
        "}", ""
    )
