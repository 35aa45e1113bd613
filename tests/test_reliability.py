"""docs/reliability.md promises tests: each one that it names is there, and each of tests/soak is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", TEXT)))
SETTINGS = re.compile(r'amount\("(\w+)"')


def names_in(file: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda value: value or "all")
def test_what_the_document_names_is_there(file: str, name: str) -> None:
    found = names_in(ROOT / file)
    assert found if not name else name in found


def test_every_test_that_has_a_long_form_is_in_the_document() -> None:
    soak = {
        (str(file.relative_to(ROOT)), name)
        for file in (ROOT / "tests" / "soak").glob("test_*.py")
        for name in names_in(file)
    }
    assert soak and soak <= set(NAMED)


def test_every_setting_of_the_long_forms_is_in_the_document() -> None:
    used = {name for file in (ROOT / "tests" / "soak").glob("*.py") for name in SETTINGS.findall(file.read_text())}
    assert used and all(f"_{name}`" in TEXT for name in used)


def test_each_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        cells = [line.count("|") for line in table.splitlines()]
        assert len(set(cells)) == 1, table
