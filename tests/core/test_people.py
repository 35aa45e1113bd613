"""People: their files, who is shut out by a bad one, and the servers that are there for each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, NotFound, Refused
from fleetshell_tools.core.people import VETTED, People, Person, check_tool, digest
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.types import Principal

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
KEY = "a-key-of-more-than-16-characters"


def person(name: str = "anna", **more: object) -> Person:
    return Person(name, digest(f"{KEY}-{name}"), SECRET, **more)  # type: ignore[arg-type]


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "users")


def edit(people: People, old: str, new: str, name: str = "anna") -> None:
    path = people.path(name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_person_is_written_privately_and_read_back(people: People) -> None:
    assert not people.look() and people.all() == []
    anna = person(servers=("web-1",), tags=("staging",), policy="read_only", created_at="2026-01-01T00:00:00Z")
    people.add(anna)
    assert people.look() and people.all() == [anna] and people.problems() == {}
    assert people.path("anna").stat().st_mode & 0o777 == 0o600
    assert people.path("anna").parent.stat().st_mode & 0o777 == 0o700
    assert KEY not in people.path("anna").read_text(), "of the key only a digest is kept"
    assert anna.principal() == Principal(anna.key_id, "anna", ("web-1",), ("staging",), "read_only")


def test_nobody_is_added_twice_and_nobody_is_called_owner(people: People) -> None:
    people.add(person())
    with pytest.raises(ConfigError, match="There is a person anna already. `fleetshell auth remove anna`"):
        people.add(person())
    with pytest.raises(ConfigError, match="choose another name"):
        people.add(person("owner"))


def test_who_is_removed_is_gone_and_an_unknown_name_is_answered_with_a_near_one(people: People) -> None:
    people.add(person())
    people.look()
    with pytest.raises(NotFound, match='no person "ana". Did you mean "anna"'):
        people.remove("ana")
    people.remove("anna")
    assert people.look() and people.all() == []


def test_a_file_that_cannot_be_read_any_more_can_still_be_removed(people: People) -> None:
    people.add(person())
    people.path("anna").write_text("nonsense: [")
    people.remove("anna")
    assert not people.path("anna").exists()


def to_a_link(path: Path) -> None:
    path.rename(path.with_suffix(".x"))
    path.symlink_to(path.with_suffix(".x"))


SPOILED: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.chmod(0o640), "chmod 600"),
    (lambda path: path.write_text(path.read_text().replace("anna", "anne")), "make both the same"),
    (lambda path: path.write_text(path.read_text() + "servres: [a]\n"), 'Did you mean "servers"'),
    (
        lambda path: path.write_text(path.read_text().replace(SECRET, SECRET[:-5])),
        "totp_secret is not base32 of a whole length",
    ),
    (lambda path: path.write_text("a: &a [1]\nb: *a\n"), "alias"),
    (lambda path: path.write_text("x" * 300_000), "256 KiB"),
    (to_a_link, "symbolic link"),
]


@pytest.mark.parametrize(("spoil", "says"), SPOILED, ids=[says for _, says in SPOILED])
def test_a_bad_file_shuts_out_that_person_alone_and_says_why(
    people: People, spoil: Callable[[Path], object], says: str
) -> None:
    people.add(person())
    people.add(person("bert"))
    people.look()
    spoil(people.path("anna"))
    assert people.look()
    assert [other.name for other in people.all()] == ["bert"]
    assert list(people.problems()) == ["anna"] and says in people.problems()["anna"]
    # A problem quotes neither the secret nor the digest.
    assert SECRET not in people.problems()["anna"] and digest(f"{KEY}-anna") not in people.problems()["anna"]


def test_a_folder_that_others_can_change_shuts_out_everybody_once(people: People) -> None:
    people.add(person())
    people.look()
    people.path("anna").parent.chmod(0o770)
    assert people.look() and people.all() == [] and "chmod 700" in people.problems()["*"]
    assert not people.look(), "it is no news the second time"
    people.path("anna").parent.chmod(0o700)
    assert people.look() and len(people.all()) == 1


def test_a_change_that_leaves_every_time_as_it_was_is_seen_while_the_clock_could_not_tell(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.add(person(servers=("web-1",)))
    path = people.path("anna")
    stamp = path.stat()
    monkeypatch.setattr("fleetshell_tools.core.people.time.time_ns", lambda: stamp.st_ctime_ns)
    assert people.look()
    edit(people, "web-1", "web-2")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert people.look() and people.all()[0].servers == ("web-2",)


# What is there for whom


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    folder = tmp_path / "servers"
    folder.mkdir(mode=0o700)
    files = {
        "web-1": "hostname: a\ntags: [Web, eu]\njump: gate",
        "web-2": "hostname: b\ntags: [web]\ncontext: {environment: production}",
        "db-1": "hostname: c\ntags: [db]\ncontext: {environment: production}",
        "gate": "hostname: d",
        "bad": "hostname: [",
    }
    for name, text in files.items():
        (folder / f"{name}.conf").write_text(f"id: {name}\n{text}\n")
        (folder / f"{name}.conf").chmod(0o600)
    return Inventory(folder)


@pytest.mark.parametrize(
    ("servers", "tags", "seen"),
    [
        (("*",), (), ["bad", "db-1", "gate", "web-1", "web-2"]),
        (("db-1",), (), ["db-1"]),
        ((), ("WEB",), ["web-1", "web-2"]),
        (("db-1",), ("eu",), ["db-1", "web-1"]),
        (("bad",), (), ["bad"]),
        ((), (), []),
        (("none",), ("none",), []),
    ],
)
def test_a_server_is_there_by_its_id_or_by_any_of_the_tags(
    inventory: Inventory, servers: tuple[str, ...], tags: tuple[str, ...], seen: list[str]
) -> None:
    part = inventory.part(Principal("k", "anna", servers, tags).may_use)
    assert part.ids() == seen
    good = [name for name in seen if name != "bad"]
    assert [server.id for server in part.all()] == good == [server.id for server in part.listing()[0]]
    assert list(part.problems()) == [name for name in seen if name == "bad"]
    for name in inventory.ids():
        if name in good:
            assert part.get(name).id == name
        else:
            with pytest.raises(ConfigError if name in seen else NotFound) as caught:
                part.get(name)
            hidden = [other for other in inventory.ids() if other not in seen and other != name]
            assert not any(other in caught.value.message for other in hidden)


def test_no_selector_reaches_a_server_that_is_not_there(inventory: Inventory) -> None:
    part = inventory.part(Principal("k", "anna", ("web-2",)).may_use)
    assert [server.id for server in part.select(["*"], [], None)] == ["web-2"]
    assert [server.id for server in part.select([], [], "production")] == ["web-2"]
    with pytest.raises(NotFound):
        part.select(["web-2", "db-1"], [], None)
    with pytest.raises(BadArgument):
        part.select([], ["db"], None)


def test_a_part_notices_changes_and_is_another_list_than_the_whole(inventory: Inventory) -> None:
    part = inventory.part(Principal("k", "anna", (), ("web",)).may_use)
    before = part.generation()
    path = inventory.path("db-1")
    path.write_text(path.read_text().replace("[db]", "[db, web]"))
    assert part.ids() == ["db-1", "web-1", "web-2"] and part.generation() != before != inventory.generation()


# What a policy allows


def test_a_reader_gets_reading_tools_and_those_whose_commands_the_guard_holds_against_the_policy() -> None:
    reader, normal = Principal("k", "anna", policy="read_only"), Principal("k", "bert")
    for name in (
        "write_file",
        "restart_service",
        "save_prompt",
        "install_mcp",
        "call_external_tool",
        "a_tool_of_tomorrow",
    ):
        check_tool(normal, name, reads=False)
        with pytest.raises(Refused, match="the policy of anna is read_only"):
            check_tool(reader, name, reads=False)
    for name in ("read_file", *VETTED):
        check_tool(reader, name, reads=name == "read_file")


def test_what_changes_the_relay_for_everybody_is_for_people_with_every_server() -> None:
    with pytest.raises(FleetShellError, match="anna may use some"):
        check_tool(Principal("k", "anna", ("web-1",)), "install_mcp", reads=False)
