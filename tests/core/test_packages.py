"""Packages by their exact version, and what no server may be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetshell_tools.core.errors import BadArgument, Refused
from fleetshell_tools.core.packages import Package, id_for, parse, refuse_home


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("left-pad@1.3.0", Package("npm", "left-pad", "1.3.0")),
        (" @scope/name@1.2.3-beta.1 ", Package("npm", "@scope/name", "1.2.3-beta.1")),
        ("mcp-server-time==2026.10.19", Package("pypi", "mcp-server-time", "2026.10.19")),
        ("Some_Thing==1.0rc1", Package("pypi", "some-thing", "1.0rc1")),
    ],
)
def test_an_exact_version_is_a_package(text: str, package: Package) -> None:
    assert parse(text) == package


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("left-pad@latest", "exact version"),
        ("left-pad@next", "exact version"),
        ("left-pad@^1.2.3", "exact version"),
        ("left-pad@1.x", "exact version"),
        ("left-pad@1", "exact version"),
        ("left-pad@", "exact version"),
        ("@playwright/mcp@latest", 'exact version.* Did you mean "@modelcontextprotocol/server-playwright"'),
        ("thing>=1.0", "exact version"),
        ("thing==1.*", "exact version"),
        ("thing~=1.0", "exact version"),
        ("name@npm:other@1.2.3", "exact version"),
        ("npm:other@1.2.3", "a path, an address or a repository"),
        ("git+https://example.com/x.git", "a path, an address or a repository"),
        ("git@example.com:x/y.git", "a path, an address or a repository"),
        ("github:user/repo", "a path, an address or a repository"),
        ("https://example.com/x.tgz", "a path, an address or a repository"),
        ("thing @ https://example.com/x.whl", "a path, an address or a repository"),
        ("file:../x", "a path, an address or a repository"),
        ("./x", "a path, an address or a repository"),
        ("../x", "a path, an address or a repository"),
        ("/tmp/x", "a path, an address or a repository"),
        ("~/x", "a path, an address or a repository"),
        ("a@1.0.0 --registry x", "a path, an address or a repository"),
        ("a@1.0.0\nb@1.0.0", "a path, an address or a repository"),
        ("--ignore-scripts=false", "no package's name"),
        ("user/repo", "no package's name"),
        ("left-pad", "not in the marketplace.* exact version, name@1.2.3"),
        ("server-githb", 'not in the marketplace. Did you mean "@modelcontextprotocol/server-github"'),
        ("", "no package's name"),
    ],
)
def test_anything_else_is_refused_and_told_what_to_write(text: str, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("name", "mcp_id"),
    [
        ("@modelcontextprotocol/server-memory", "memory"),
        ("mcp-server-sqlite", "sqlite"),
        ("kubernetes-mcp-server", "kubernetes"),
        ("@scope/Big.Name__x", "big-name_x"),
        ("@scope/mcp", "mcp"),
        ("x" * 60, "x" * 31),
        ("~~~", ""),
    ],
)
def test_a_packages_name_gives_an_id(name: str, mcp_id: str) -> None:
    assert id_for(Package("npm", name, "1.0.0")) == mcp_id


HOME_WAYS = [
    "/",
    "{home}",
    "{home}/",
    "{home}/mcps",
    "{home}/../home",
    "{above}",
    "--root={above}",
    "--paths=/srv:{above}",
    "/srv,{home}",
    "file://{home}",
    "file:///",
    "{link}",
    "//",
]


@pytest.mark.parametrize("value", HOME_WAYS)
def test_a_path_that_holds_our_home_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    given = value.format(home=tmp_path / "home", above=tmp_path, link=tmp_path / "link")
    with pytest.raises(Refused, match="TOTP secret"):
        refuse_home(["fine", given], tmp_path / "home")


def test_the_users_home_is_refused_where_it_holds_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Refused):
        refuse_home(["~"], tmp_path / ".fleetshell")


@pytest.mark.parametrize("value", [".", "..", "../..", "./x", "--dir=."])
def test_a_relative_path_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="relative path"):
        refuse_home([value], tmp_path)


@pytest.mark.parametrize(
    "value", ["/srv/www", "-y", "--port=80", "https://example.com/a", "postgres://u:p@h/db", "", "a,b", "..."]
)
def test_what_does_not_reach_our_home_passes(value: str, tmp_path: Path) -> None:
    refuse_home([value], tmp_path / "home")
