"""The file systems of a host and what fills a folder: the program around df and du, and what it prints taken apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core import proc
from fleetshell_tools.core.errors import FleetShellError, NotFound
from fleetshell_tools.core.scripts import Ran, Script
from fleetshell_tools.core.text import clean, decode, one_line

WARN_PERCENT = 90
"""A file system with more space or inodes used than this is warned of."""

LARGEST = 20
"""Folders and files that are shown of a path."""

DU_SECONDS = 20
_NETWORK = "nfs nfs4 cifs smb3 smbfs 9p ceph glusterfs lustre afs beegfs gpfs fuse.*"
_PSEUDO = (
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl fuse.gvfsd-fuse fuse.lxcfs "
    "fuse.portal hugetlbfs mqueue nsfs proc pstore rpc_pipefs securityfs selinuxfs sysfs tracefs rootfs"
)
_MEMORY = ("tmpfs", "ramfs")
_IMAGES = ("squashfs", "iso9660", "erofs", "cramfs")

_SCRIPT = rf"""
path=$1 mounts=$2
if [ -n "$timeout" ] && ! timeout 3 true 2>/dev/null; then timeout=; fi
as=
if [ -n "$sudo" ] && sudo -n -- true; then as="sudo -n --"; fi
limit() {{ s=$1; shift; $as ${{timeout:+timeout -s KILL $s}} "$@"; }}
sizes() {{
  if [ "$tools" = gnu ]; then
    # -0, because a name may hold a line break.
    {{ $as ${{timeout:+timeout {DU_SECONDS}}} du -0Hak "$@"; printf '= %s\000' $?; }} | tr '\n\000' '?\n'
  else
    $as ${{timeout:+timeout {DU_SECONDS}}} du -Hak "$@"
    echo "= $?"
  fi
}}
if [ -n "$path" ]; then
  part mounts
  cat "$mounts" 2>/dev/null
  part space
  limit 5 df -kP "$path"
  code=$?
  if [ "$code" = 137 ]; then part stale; printf '%s\n' "$path"; exit; fi
  part why
  if ! found=$(limit 5 ls -d "$path" 2>&1 >/dev/null); then printf '%s\n' "$found"; exit; fi
  part inodes
  limit 5 df -Pi "$path"
  part kind
  if $as test -d "$path"; then echo folder; else echo file; exit; fi
  set -- -x "$path"
  if [ "$tools" = gnu ] && [ "$($as stat -f -c %T "$path" 2>/dev/null)" = overlayfs ]; then
    # Where its layers lie on several disks, files of an overlay have other device numbers than folders, and -x leaves them out.
    path=$($as readlink -f "$path")
    set --
    while read -r _ point _; do
      point=$(printf '%b' "$point")
      [ "$point" = / ] || [ "$point" = "$path" ] || set -- "$@" "--exclude=$(printf '%s' "$point" | tr '*?[\134' '????')"
    done <<END
$(sed 's/\\134/\\0134/g' "$mounts")
END
    set -- "$@" "$path"
    part real
    printf '%s\n' "$path"
  fi
  part largest
  sizes "$@" | awk '
    $1 == "=" {{ code = $2; next }}
    {{
      # Counted by powers of two: what is smaller than 200 others is left out here, so that sort has little to do.
      seen++
      bits = 0
      for (size = $1; size >= 2; size /= 2) bits++
      if (bits < low) next
      count[bits]++
      kept++
      while (kept - count[low] >= 200) kept -= count[low++]
      print
    }}
    END {{ print "99999999999999999\t= " code " " seen }}
  ' | sort -rn | head -n 200 | while IFS= read -r line; do
    name=${{line#*[!0-9]}}
    if [ -d "$name" ]; then kind=d; elif [ -e "$name" ] || [ -L "$name" ]; then kind=f
    elif [ -n "$as" ] && $as test -d "$name" </dev/null; then kind=d
    elif [ -n "$as" ] && $as test -e "$name" </dev/null; then kind=f
    else kind=-
    fi
    printf '%s %s\n' "$kind" "$line"
  done
  exit
fi
if [ ! -r "$mounts" ]; then
  part space
  ${{timeout:+timeout -s KILL 15}} df -kP
  [ $? != 137 ] || {{ part stale; echo "one of the mounts"; }}
  exit
fi
part mounts
cat "$mounts"
set --
net=
while read -r _ point type _; do
  case " {_PSEUDO} {" ".join(_IMAGES)} " in *" $type "*) continue ;; esac
  case $type in
  overlay) [ "$point" = / ] || continue ;;
  {_NETWORK.replace(" ", "|")}) net="$net$point
"; continue ;;
  esac
  set -- "$@" "$(printf '%b' "$point")"
done <<END
$(sed 's/\\134/\\0134/g' "$mounts")
END
part space
limit 10 df -kP "$@"
[ $? != 137 ] || {{ part stale; echo "a local file system"; }}
part inodes
limit 10 df -Pi "$@"
printf '%s' "$net" | while read -r point; do
  name=$(printf '%b' "$point")
  if [ -z "$timeout" ]; then part skipped; printf '%s\n' "$name"; continue; fi
  part space
  limit 3 df -kP "$name"
  if [ $? = 137 ]; then part stale; printf '%s\n' "$name"; continue; fi
  part inodes
  limit 3 df -Pi "$name"
done
"""


def script(path: str = "", mounts: str = "/proc/mounts") -> Script:
    """The program that reads all file systems, or the one that `path` lies on and what is large below it.

    Args:
        path: Absolute.
        mounts: The table of mounts.
    """
    return Script("get_disk_usage", _SCRIPT, (path, mounts), shown=shlex.quote(path) if path else "")


@dataclass(frozen=True)
class Usage:
    """What was found: rows as the tool shows them, and what has to be said of them."""

    filesystems: list[dict[str, Any]]
    warnings: list[str]
    notices: list[str]
    largest: list[dict[str, Any]] | None = None
    partial: bool = False


_DF = re.compile(r"(\S.*?)\s+(\d+|-)\s+(-?\d+|-)\s+(-?\d+|-)\s+(\d+%|-)\s+(/.*)")


def df(text: str) -> dict[str, tuple[str, int | None, int | None, int | None]]:
    """What `df -P` printed (POSIX, df, STDOUT): by mount, what is mounted, and total, used and free; names may hold spaces."""
    found = {}
    for line in text.splitlines():
        match = _DF.fullmatch(line)
        if match is not None:
            total, used, free = (None if word == "-" else int(word) for word in match.group(2, 3, 4))
            found[match[6]] = (match[1], total, used, free)
    return found


def parse(ran: Ran, path: str = "") -> Usage:
    """Take apart what the program printed.

    Raises:
        NotFound: There is no such path, or it can't be reached.
        FleetShellError: Its file system does not answer, or there is no df.
    """
    if path and "stale" in ran.parts:
        raise FleetShellError(
            f"The file system of {path} did not answer within 5 s: a network mount whose server is gone, or a failing disk. "
            "get_disk_usage without `path` names the mounts that do not answer."
        )
    if path and ran.text("why").strip():
        said = one_line(ran.text("why").rpartition(": ")[2], 120)
        raise NotFound(f"{path} can't be looked at: {said}. Check the path with search_files or get_file_info.")
    space, inodes = df(ran.text("space")), df(ran.text("inodes"))
    if not space and "stale" not in ran.parts and not (path and ran.part("mounts")):
        raise FleetShellError(f"df told nothing on this host: {one_line(ran.stderr, 200) or 'is it installed?'}")
    mounts = {clean(mount.point): mount for mount in proc.mounts(ran.part("mounts"))}
    rows = [_row(point, row, inodes.get(point), mounts.get(point)) for point, row in space.items()]
    if path:
        largest, partial, notices = _largest(ran, path, rows)
        return Usage(rows, _warnings(rows, mounts), notices, largest, partial)
    kept, notices = _selected(rows, list(mounts.values()))
    warnings = [
        f"{one_line(name)} did not answer: a network mount whose server is gone, or a failing disk. Programs that touch it hang."
        for name in ran.lines("stale")
    ]
    if refused := {one_line(line, 120) for line in ran.stderr.splitlines() if line.startswith("df: ")}:
        notices.append(f"{len(refused)} mounts could not be looked at ({min(refused)}).")
    if skipped := ran.lines("skipped"):
        notices.append(f"Not looked at, because the host has no `timeout` and they could hang: {', '.join(skipped)}.")
    return Usage(kept, warnings + _warnings(kept, mounts), notices)


def _row(
    point: str,
    row: tuple[str, int | None, int | None, int | None],
    inodes: tuple[str, int | None, int | None, int | None] | None,
    mount: proc.Mount | None,
) -> dict[str, Any]:
    source, total, used, free = row
    return {
        "filesystem": source,
        "mount": point,
        "type": clean(mount.type) if mount else None,
        "size_bytes": _kib(total),
        "used_bytes": _kib(used),
        "available_bytes": _kib(free),
        "used_percent": _percent(used, free),
        # Where there is no fixed number of inodes df says 0 or "-".
        "inodes_used_percent": _percent(inodes[2], inodes[3]) if inodes and inodes[1] else None,
    }


def _kib(number: int | None) -> int | None:
    return None if number is None else number * 1024


def _percent(used: int | None, free: int | None) -> float | None:
    """As df reckons: of what is used and what a user may still use, without root's reserve."""
    if used is None or free is None or used + max(free, 0) <= 0:
        return None
    return round(100 * used / (used + max(free, 0)), 1)


def _selected(rows: Sequence[dict[str, Any]], mounts: Sequence[proc.Mount]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that tell something, the fullest first, and what was left out."""
    left = {
        "pseudo": sum(mount.type in _PSEUDO.split() for mount in mounts),
        "read-only images (squashfs and such, always full)": sum(mount.type in _IMAGES for mount in mounts),
        "overlay mounts of containers": sum(mount.type == "overlay" and mount.point != "/" for mount in mounts),
        "in memory and nearly empty (tmpfs below 10 %)": 0,
        "further mounts of the same device": 0,
    }
    devices: set[str] = set()
    kept = []
    for row in sorted(rows, key=lambda row: (len(row["mount"]), row["mount"])):
        source, kind = row["filesystem"], row["type"]
        if not row["size_bytes"] or source in ("devfs", "procfs", "fdescfs", "linprocfs"):
            left["pseudo"] += 1
        elif kind in _MEMORY and (row["used_percent"] or 0) < 10 and (row["inodes_used_percent"] or 0) < WARN_PERCENT:
            left["in memory and nearly empty (tmpfs below 10 %)"] += 1
        elif source in devices:
            left["further mounts of the same device"] += 1
        else:
            kept.append(row)
            if kind not in _MEMORY and ("/" in source or ":" in source):
                devices.add(source)
    kept.sort(key=lambda row: -max(row["used_percent"] or 0, row["inodes_used_percent"] or 0))
    words = [f"{count} {what}" for what, count in left.items() if count]
    notices = [f"Left out: {', '.join(words)}."] if words else []
    without = sorted({row["type"] or "?" for row in kept if row["inodes_used_percent"] is None})
    if without:
        notices.append(
            f"inodes_used_percent is null where there is no fixed number of inodes or df does not tell ({', '.join(without)})."
        )
    return kept, notices


def _warnings(rows: Sequence[dict[str, Any]], mounts: Mapping[str, proc.Mount]) -> list[str]:
    warnings = []
    for row in rows:
        for key, what in (("used_percent", "full"), ("inodes_used_percent", "out of inodes")):
            percent = row[key]
            if percent is not None and percent > WARN_PERCENT and row["type"] not in _IMAGES:
                said = "full" if what == "full" else "used of its inodes (many small files)"
                free = f", {size(row['available_bytes'])} free" if what == "full" else ""
                warnings.append(f"{row['mount']} is {percent:g} % {said}{free}")
        mount = mounts.get(row["mount"])
        if mount and "ro" in mount.options and mount.type in ("ext3", "ext4", "xfs", "btrfs"):
            warnings.append(f"{row['mount']} is mounted read-only, on purpose or after an error of the disk")
    return warnings


def _largest(
    ran: Ran, path: str, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]] | None, bool, list[str]]:
    """What is large below a path, whether du could not finish, and what has to be said."""
    if ran.text("kind").strip() == "file":
        return [], False, [f"{path} is a file; its size is in get_file_info."]
    code, seen = "", 0
    found: list[tuple[int, str, str]] = []
    for line in decode(ran.part("largest")).splitlines():
        match = re.fullmatch(r"([df-]) (\d+)\s+(.*)", line)
        if match is None:
            continue
        if match[3].startswith("= "):
            code, seen = match[3].split(" ")[1], int(match[3].split(" ")[2] or 0)
        else:
            found.append((int(match[2]) * 1024, match[3], match[1]))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    partial = code in ("124", "137", "143")
    root = (ran.text("real").rstrip("\n") or path).rstrip("/") or "/"
    total = next((bytes_ for bytes_, name, _ in found if (name.rstrip("/") or "/") == root), None)
    below = [entry for entry in found if (entry[1].rstrip("/") or "/") != root]
    kinds = {"d": "folder", "f": "file", "-": None}
    largest = [
        {"path": name, "size_bytes": bytes_, "type": kinds[kind]} for bytes_, name, kind in _telling(below)[:LARGEST]
    ]
    notices = []
    if total is not None:
        notices.append(
            f"{size(total)} in {seen:,} files and folders below {path}, this file system only; folders hold those named below them."
        )
    if partial:
        notices.append(
            f"du was ended after {DU_SECONDS} s, so sizes are of what it had seen ({seen:,} entries) and folders may be missing; ask for a folder below."
        )
    denied = len(re.findall(r"^du: ", ran.stderr, re.MULTILINE))
    if denied:
        notices.append(
            f"{denied} files or folders could not be read (`sudo: true` in the server's file lets this tool read them): {one_line(ran.stderr.strip().splitlines()[0], 120)}"
        )
    elif rows and total is not None and not partial and rows[0]["mount"] == root:
        hidden = (rows[0]["used_bytes"] or 0) - total
        if hidden > max(1 << 30, (rows[0]["size_bytes"] or 0) // 10):
            notices.append(
                f"{size(hidden)} more are used than files hold: deleted files that a program still has open "
                "(`lsof +L1`), or files below another mount."
            )
    return largest, partial, notices


def _telling(found: Sequence[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Without the folders that are large because of one folder or file alone, which stands for itself."""
    biggest: dict[str, int] = {}
    for bytes_, name, _ in found:
        above = name.rpartition("/")[0]
        biggest[above] = max(biggest.get(above, 0), bytes_)
    return [entry for entry in found if biggest.get(entry[1], 0) < 0.9 * entry[0]]


def size(number: int | None) -> str:
    """Bytes for people: `1.4 GiB`."""
    if number is None:
        return "?"
    amount, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(amount) < 1000 or unit == "PiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
