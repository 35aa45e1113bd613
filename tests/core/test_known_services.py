"""Which service of a server's file, or which unit, a name means."""

from __future__ import annotations

import pytest

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.known_services import find, listed, of_units
from fleetshell_tools.core.servers import parse

SERVER = parse(
    """
id: web
hostname: web.example.com
services:
  site: {unit: nginx, critical: true, common_issues: [full disk, bad configuration]}
  postfix: {description: SMTP, common_issues: one thing, critical: yes}
  Web shop: {port: 80}
  cron: {critical: "no"}
context:
  services:
    inner: {unit: inner.timer}
""",
    "web.conf",
)


@pytest.mark.parametrize(
    ("name", "unit", "has_entry"),
    [
        ("site", "nginx.service", True),
        ("nginx", "nginx.service", True),
        ("nginx.service", "nginx.service", True),
        ("postfix", "postfix.service", True),
        ("inner", "inner.timer", True),
        ("cron", "cron.service", True),
        ("nginx.socket", "nginx.socket", False),
        ("other", "other.service", False),
    ],
)
def test_a_service_is_found_by_its_name_and_by_its_unit(name: str, unit: str, has_entry: bool) -> None:
    known = find(SERVER, name)
    assert (known.unit, bool(known.entry)) == (unit, has_entry)


def test_a_critical_service_stays_critical_under_its_units_name() -> None:
    assert find(SERVER, "nginx.service").critical
    assert find(SERVER, "site").common_issues == ["full disk", "bad configuration"]
    assert find(SERVER, "postfix").common_issues == ["one thing"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("true", True),
        ("yes", True),
        ("on", True),
        ("high", True),
        ("false", False),
        ("no", False),
        ("off", False),
        ("''", False),
    ],
)
def test_any_word_but_a_no_makes_a_service_critical(value: str, wanted: bool) -> None:
    server = parse(f"id: a\nhostname: a\nservices: {{x: {{critical: {value}}}}}\n", "a.conf")
    assert find(server, "x").critical is wanted


def test_a_service_whose_name_no_unit_has_needs_the_key_unit() -> None:
    with pytest.raises(BadArgument, match="key `unit`"):
        find(SERVER, "Web shop")
    with pytest.raises(BadArgument, match="no name of a service"):
        find(SERVER, "a b")


def test_a_unit_of_several_names_is_the_service_that_has_one_of_them() -> None:
    found = of_units(listed(SERVER), ["www.service", "nginx.service"])
    assert found and found.name == "site"
    assert of_units(listed(SERVER), ["www.service"]) is None
