"""File systems and what fills them: df and du as several systems print them, and run by every shell on real mounts."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.local_scripts import SHELLS, recorded, run_local

from fleetshell_tools.core import disks
from fleetshell_tools.core.errors import FleetShellError, NotFound

every_shell = pytest.mark.parametrize("shell", SHELLS)

DEBIAN = """\
Filesystem                  1024-blocks      Used Available Capacity Mounted on
/dev/mapper/vg0-root           20466256  18543664    857932      96% /
/dev/mapper/vg0-root           20466256  18543664    857932      96% /var/snap
/dev/sdb1                     103080888  10308088  92772800      10% /srv/my files
tmpfs                            805204       100    805104       1% /run
tmpfs                           4026008   2013004   2013004      50% /tmp
/dev/sdc                      976762584 488381292 488381292      50% /data
"""
DEBIAN_INODES = """\
Filesystem             Inodes  IUsed     IFree IUse% Mounted on
/dev/mapper/vg0-root  1310720 100000   1210720    8% /
/dev/sdb1             6553600 6400000   153600   98% /srv/my files
tmpfs                  201301      1    201300    1% /run
tmpfs                 1006502      1   1006501    1% /tmp
/dev/sdc                    0      0         0     - /data
"""
DEBIAN_MOUNTS = r"""/dev/mapper/vg0-root / ext4 ro,relatime,errors=remount-ro 0 0
/dev/mapper/vg0-root /var/snap ext4 rw 0 0
/dev/sdb1 /srv/my\040files xfs rw 0 0
tmpfs /run tmpfs rw 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sdc /data btrfs rw,subvol=/ 0 0
/dev/loop0 /snap/core/1 squashfs ro 0 0
/dev/loop1 /snap/core/2 squashfs ro 0 0
overlay /var/lib/docker/overlay2/x/merged overlay rw 0 0
proc /proc proc rw 0 0
sysfs /sys sysfs rw 0 0
"""
BUSYBOX = """\
Filesystem           1024-blocks    Used Available Capacity Mounted on
overlay               61255492  20000000  38111492  34% /
//nas/My Share       976762584 976762584         0 100% /mnt/nas
"""
MACOS = """\
Filesystem     1024-blocks      Used Available Capacity  Mounted on
/dev/disk3s1s1   482797652  10080724 150000000     7%    /
devfs                  205       205         0   100%    /dev
/dev/disk3s5     482797652 300000000 150000000    67%    /System/Volumes/Data
map auto_home            0         0         0   100%    /System/Volumes/Data/home
"""


def parsed(space: str, inodes: str = "", mounts: str = "", **more: str) -> disks.Usage:
    return disks.parse(recorded({"space": space, "inodes": inodes, "mounts": mounts, **more}))


def test_the_fullest_file_system_comes_first_and_what_tells_nothing_is_left_out() -> None:
    usage = parsed(DEBIAN, DEBIAN_INODES, DEBIAN_MOUNTS)
    assert [
        (row["mount"], row["type"], row["used_percent"], row["inodes_used_percent"]) for row in usage.filesystems
    ] == [
        ("/srv/my files", "xfs", 10.0, 97.7),
        ("/", "ext4", 95.6, 7.6),
        ("/tmp", "tmpfs", 50.0, 0.0),
        ("/data", "btrfs", 50.0, None),
    ]
    assert (
        usage.filesystems[1]["size_bytes"] == 20466256 * 1024
        and usage.filesystems[1]["available_bytes"] == 857932 * 1024
    )
    said = " ".join(usage.notices)
    assert "2 read-only images" in said and "1 overlay" in said and "1 further mounts" in said and "pseudo" in said
    assert "1 in memory" in said and "inodes_used_percent is null" in said and "(btrfs)" in said


def test_warnings_name_full_file_systems_inodes_and_read_only_mounts() -> None:
    assert parsed(DEBIAN, DEBIAN_INODES, DEBIAN_MOUNTS).warnings == [
        "/srv/my files is 97.7 % used of its inodes (many small files)",
        "/ is 95.6 % full, 838 MiB free",
        "/ is mounted read-only, on purpose or after an error of the disk",
    ]


def test_what_busybox_prints() -> None:
    usage = parsed(BUSYBOX, "", "overlay / overlay rw 0 0\n//nas/My\\040Share /mnt/nas cifs rw 0 0\n")
    assert [(row["filesystem"], row["type"], row["used_percent"]) for row in usage.filesystems] == [
        ("//nas/My Share", "cifs", 100.0),
        ("overlay", "overlay", 34.4),
    ]
    assert usage.warnings == ["/mnt/nas is 100 % full, 0 B free"]


def test_a_system_without_proc_has_no_types() -> None:
    usage = parsed(MACOS)
    assert [(row["mount"], row["type"]) for row in usage.filesystems] == [("/System/Volumes/Data", None), ("/", None)]


def test_where_df_tells_nothing_that_is_an_error() -> None:
    with pytest.raises(FleetShellError, match="df told nothing.*not found"):
        disks.parse(recorded({"space": ""}, stderr="sh: df: not found"))


@given(st.text(max_size=200))
def test_no_output_breaks_the_parser(text: str) -> None:
    disks.df(text)
    usage = disks.parse(
        recorded({"space": BUSYBOX, "inodes": text, "mounts": text, "stale": text, "largest": text, "kind": "folder"})
    )
    assert len(usage.filesystems) == 2


@every_shell
def test_the_real_file_systems_are_found(shell: str) -> None:
    usage = disks.parse(run_local(shell, disks.script()))
    (root,) = [row for row in usage.filesystems if row["mount"] == "/"]
    found = os.statvfs("/")
    assert root["size_bytes"] == pytest.approx(found.f_blocks * found.f_frsize, rel=0.01)
    assert root["type"] and 0 <= root["used_percent"] <= 100


def script(path: Path, mounts: str = "/proc/mounts") -> Any:
    return disks.script(str(path), mounts)


NAMES = ["plain", "with space", "-rf", "$(touch x)", "a'b\"c", "é", "x\\y"]


@every_shell
def test_large_files_and_folders_below_a_path(shell: str, tmp_path: Path) -> None:
    root = tmp_path / "da ta"
    for number, name in enumerate(NAMES, 1):
        (root / name).mkdir(parents=True)
        for part in ("one", "two"):
            (root / name / part).write_bytes(b"x" * 200_000 * number)
    (root / "single").mkdir()
    (root / "single" / "file").write_bytes(b"x" * 9_000_000)
    usage = disks.parse(run_local(shell, script(root)), str(root))
    assert usage.largest is not None and not usage.partial
    assert usage.largest[0]["path"] == str(root / "single" / "file") and usage.largest[0]["type"] == "file"
    folders = [item["path"] for item in usage.largest if item["type"] == "folder"]
    assert folders == [str(root / name) for name in reversed(NAMES)]
    assert len(usage.filesystems) == 1 and "MiB in " in usage.notices[0]


@every_shell
def test_the_largest_of_thousands_are_found(shell: str, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"f{number:04}").write_bytes(b"x" * (5000 if number < 1500 else 100 + number * 20))
    usage = disks.parse(run_local(shell, script(tmp_path)), str(tmp_path))
    assert usage.largest is not None and len(usage.largest) == disks.LARGEST and "3,001 files" in usage.notices[0]
    sizes = sorted((file.stat().st_blocks * 512 for file in tmp_path.iterdir()), reverse=True)
    assert [item["size_bytes"] for item in usage.largest] == sizes[: disks.LARGEST]


@pytest.mark.parametrize("shell", ["dash", "bash"])  # busybox's du has no -0
def test_a_name_with_a_line_break_makes_no_entry_up(shell: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / f"x\n999999999\t{root}").mkdir(parents=True)
    (root / f"x\n999999999\t{root}" / "made up").write_bytes(b"x" * 5000)
    usage = disks.parse(run_local(shell, script(root)), str(root))
    assert usage.largest and max(item["size_bytes"] for item in usage.largest) < 100_000


@every_shell
@pytest.mark.parametrize("name", ["missing", "miss ing: x", "-rf", "$(touch x)", "a\nb"])
def test_a_path_that_is_not_there_is_not_found(shell: str, name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    with pytest.raises(NotFound, match="No such file or directory"):
        disks.parse(run_local(shell, disks.script(path)), path)


@every_shell
def test_a_file_has_its_file_system_and_nothing_below_it(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    usage = disks.parse(run_local(shell, script(file)), str(file))
    assert len(usage.filesystems) == 1 and usage.largest == []


def largest(rows: str, code: str = "0", stderr: str = "", used: int = 1000) -> disks.Usage:
    space = f"Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 90000000 {used} 1000000 5% /srv\n"
    ran = recorded(
        {"space": space, "kind": "folder", "largest": f"- 99999999999999999\t= {code} 42\n{rows}"}, stderr=stderr
    )
    return disks.parse(ran, "/srv")


def test_a_folder_that_is_large_by_one_child_alone_is_left_out() -> None:
    usage = largest("d 100000\t/srv\nd 99000\t/srv/a\nd 98000\t/srv/a/b\nf 50000\t/srv/a/b/c\nf 48000\t/srv/a/b/d\n")
    assert usage.largest is not None
    assert [item["path"] for item in usage.largest] == ["/srv/a/b", "/srv/a/b/c", "/srv/a/b/d"]


@pytest.mark.parametrize("code", ["124", "137", "143"])
def test_a_search_that_was_ended_is_said_to_be_partial(code: str) -> None:
    usage = largest("f 5000\t/srv/x\n", code)
    assert usage.partial and "ended after 20 s" in usage.notices[0] and "42 entries" in usage.notices[0]


def test_what_could_not_be_read_is_said() -> None:
    usage = largest(
        "d 5000\t/srv\n",
        "1",
        "du: cannot read directory '/srv/a': Permission denied\ndu: cannot read directory '/srv/b'\n",
    )
    assert (
        not usage.partial
        and "2 files or folders could not be read" in usage.notices[1]
        and "sudo: true" in usage.notices[1]
    )


def test_space_that_no_file_holds_is_noticed() -> None:
    assert "deleted files that a program still has open" in largest("d 1000\t/srv\n", used=80_000_000).notices[1]
    assert len(largest("d 1000\t/srv\n", used=2000).notices) == 1


@every_shell
def test_a_network_mount_that_does_not_answer_is_named_and_the_others_are_shown(shell: str, tmp_path: Path) -> None:
    if shell == "busybox":
        pytest.skip("this shell asks its own df, which can't be put in place of")
    mounts, tools = tmp_path / "mounts", tmp_path / "bin"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\nnas:/a /mnt/my\\040nas nfs4 rw 0 0\nnas:/b / nfs rw 0 0\nauto /net autofs rw 0 0\n"
    )
    tools.mkdir()
    real = "/bin/df" if Path("/bin/df").exists() else "/usr/bin/df"
    (tools / "df").write_text(
        f'#!/bin/sh\ncase "$*" in *"my nas"*) exec sleep 1000 ;; */net*) echo triggered >{shlex.quote(str(tmp_path))}/triggered ;; esac\nexec {real} "$@"\n'
    )
    (tools / "df").chmod(0o755)
    usage = disks.parse(run_local(shell, disks.script(mounts=str(mounts)), first_in_path=tools))
    assert len(usage.warnings) == 1 and usage.warnings[0].startswith("/mnt/my nas did not answer")
    assert [row["mount"] for row in usage.filesystems] == ["/"]
    assert not (tmp_path / "triggered").exists()


def test_a_path_on_a_file_system_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(FleetShellError, match="did not answer within 5 s"):
        disks.parse(recorded({"space": "", "stale": "/mnt/nas\n"}), "/mnt/nas")


@every_shell
def test_a_path_may_be_a_symbolic_link(shell: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("data")
    usage = disks.parse(run_local(shell, script(tmp_path / "link")), str(tmp_path / "link"))
    assert usage.largest is not None
    assert [item["path"] for item in usage.largest] == [str(tmp_path / "link" / "file")]


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("name", ["plain", "wi th *[x]?"])
def test_all_layers_of_an_overlay_are_measured_and_no_other_mount(name: str, tmp_path: Path) -> None:
    for folder in ("lower", "upper", name):
        (tmp_path / folder).mkdir()
    (tmp_path / "lower" / "old").write_bytes(b"x" * 300_000)
    prepare = (
        'cd "$1" && mount -t tmpfs upper upper && mkdir upper/up upper/work && head -c 200000 /dev/zero >upper/up/new && '
        'mount -t overlay -o lowerdir=lower,upperdir=upper/up,workdir=upper/work overlay "$2" && mkdir "$2/o ther" && '
        'mount -t tmpfs other "$2/o ther" && head -c 900000 /dev/zero >"$2/o ther/no"; shift 2; exec "$@"'
    )
    before = ["unshare", "--mount", "--propagation=private", "sh", "-c", prepare, "sh", str(tmp_path), name]
    root = str(tmp_path / name)
    usage = disks.parse(run_local("dash", disks.script(root), before=before), root)
    assert usage.largest is not None
    assert [item["path"] for item in usage.largest if item["type"] == "file"] == [f"{root}/old", f"{root}/new"]


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@every_shell
@pytest.mark.parametrize("name", ["with space", "back\\slash", "tab\there", "'quote", "$(id)", "-x"])
def test_a_full_mount_with_an_odd_name_is_warned_of(shell: str, name: str, tmp_path: Path) -> None:
    point = tmp_path / name
    point.mkdir()
    prepare = (
        'mount -t tmpfs -o size=1M,nr_inodes=1000 odd -- "$1" && head -c 1000000 /dev/zero >"$1/full"; shift; exec "$@"'
    )
    before = ["unshare", "--mount", "--propagation=private", "sh", "-c", prepare, "sh", str(point)]
    usage = disks.parse(run_local(shell, disks.script(), before=before))
    shown = str(point).replace("\t", "?") if shell != "busybox" else str(point)
    (row,) = [row for row in usage.filesystems if row["mount"] in (shown, str(point))]
    assert row["used_percent"] > 90 and row["inodes_used_percent"] is not None
    assert usage.warnings[0].startswith(f"{row['mount']} is 9")


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "?"),
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1.0 KiB"),
        (1_500_000, "1.4 MiB"),
        (10**14, "90.9 TiB"),
        (500 << 30, "500 GiB"),
    ],
)
def test_sizes_for_people(number: int | None, shown: str) -> None:
    assert disks.size(number) == shown
