"""Writing a file on a host so that it is old or new, never part: the program that does it, and what it says when it can't."""

from __future__ import annotations

from fleetshell_tools.core.errors import BadArgument, FleetShellError, NotFound, Refused
from fleetshell_tools.core.host_files import Found, denied, unfit
from fleetshell_tools.core.scripts import Ran
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import one_line

ENOUGH = r"""
  near=$path
  if [ -e "$path" ]; then near=${path%/*}/; fi
  while [ ! -e "$near" ]; do near=${near%/*}; [ -n "$near" ] || near=/; done
  [ -w "$near" ] && { [ ! -e "$path" ] || [ -O "$path" ]; }
"""
"""The login may put a new file in place of the old one, with the owner that it had."""

COMPARED = 4 << 20
"""The largest file, in bytes, of which the changed lines are counted."""

# The content comes by stdin into a temporary file in the same folder. What a torn connection leaves of it is never put in place:
# its digest (its size, where the host has no program for that) is compared first. The file as it was stays as a hard link, which
# keeps all that belongs to it; where there are none, a copy.
CODE = r"""
mode=$1 parents=$2 wanted=$3 size=$4 expected=$5 perms=$6 compared=$7 again=$8
fail() { part failed; printf '%s\n' "$1"; [ -z "$2" ] || printf '%s\n' "$2"; exit 1; }
state
full=
if [ -h "$path" ]; then full=$(real "$path") || fail link
  full=${full%??}
else
  if [ -d "$near" ] || [ "$kind" != missing ]; then :; else fail near; fi
  folder=$near
  [ "$kind" = missing ] || case $path in */*) folder=${path%/*}/ ;; *) folder=. ;; esac
  rest=${path#"$folder"}
  rest=${rest#/}
  case /$rest/ in */../* | */./* | *//*) fail dots ;; esac
  full=$(cd -P "$folder" && pwd -P && printf .) || fail barred
  full=${full%??}
  full=${full%/}/$rest
fi
if [ "$full" != "$path" ] || [ -n "$again" ]; then part full; printf '%s' "$full"; exit 1; fi
case $kind in file | missing | broken_link) ;; *) fail kind ;; esac
if [ "$mode" = create ] && [ "$kind" != missing ]; then fail exists; fi
folder=${path%/*}/
if [ ! -d "$folder" ]; then
  [ -n "$parents" ] || fail parents
  why=$(mkdir -p "$folder" 2>&1) || fail folder "$why"
fi
temp=$(mktemp "$folder.fleetshell.XXXXXX" 2>&1 && printf .) || fail temporary "$temp"
temp=${temp%??}
trap 'rm -f "$temp"' EXIT
trap 'exit 1' HUP INT TERM
why=$( { cat >"$temp"; } 2>&1) || fail written "$why"
now=
old=
if [ -n "$sha256" ]; then now=$(digest <"$temp"); [ "${now%% *}" = "$wanted" ] || fail torn
else [ "$(wc -c <"$temp")" -eq "$size" ] || fail torn
fi
if [ "$kind" = file ]; then
  [ -n "$sha256" ] && old=$(digest <"$path")
  old=${old%% *}
  part old
  echo "sha256=$old"
  echo "size=$(size "$path")"
  [ "$stat" = c ] && echo "links=$(stat -c %h "$path")"
fi
if [ -n "$expected" ]; then
  [ "$kind" = file ] || fail gone
  [ -n "$sha256" ] || fail nodigest
  [ "$old" = "$expected" ] || fail changed
fi
if [ "$kind" = file ]; then
  if [ -n "$old" ] && [ "$old" = "$wanted" ]; then part same; exit 0; fi
  if has diff && [ "$size" -le "$compared" ] && [ "$(size "$path")" -le "$compared" ]; then
    part diff
    diff -U 0 -L old -L new "$path" "$temp" 2>/dev/null | awk '
      NR == 1 && !/^---/ { binary = 1 }
      NR > 2 && /^\+/ { added++ }
      NR > 2 && /^-/ { removed++ }
      END { if (!binary) printf "added=%d\nremoved=%d\n", added, removed }'
  fi
  if [ "$tools" = gnu ]; then cp --attributes-only --preserve=all "$path" "$temp" 2>/dev/null; touch "$temp" 2>/dev/null; fi
  kept=$(stat -c '%u:%g' "$path" 2>&1) || fail owner "$kept"
  [ "$(stat -c '%u:%g' "$temp")" = "$kept" ] || why=$(chown "$kept" "$temp" 2>&1) || fail owner "$why"
  why=$(chmod "$(stat -c %a "$path")" "$temp" 2>&1) || fail owner "$why"
else
  [ -n "$perms" ] || perms=$(printf %o $((0666 & ~$(umask))))
  why=$(chmod "$perms" "$temp" 2>&1) || fail owner "$why"
fi
if sync --help 2>&1 | grep -q FILE; then synced=1; else synced=; fi
[ -z "$synced" ] || why=$(sync "$temp" 2>&1) || fail written "$why"
saved=
if [ "$kind" = file ]; then
  saved=$path.fleetshell-$(date -u +%Y%m%d%H%M%S)
  n=
  while [ -e "$saved$n" ] || [ -h "$saved$n" ]; do n=-$((${n#-} + 1)); done
  saved=$saved$n
  ln "$path" "$saved" 2>/dev/null || why=$(cp -p "$path" "$saved" 2>&1) || { rm -f "$saved"; fail backup "$why"; }
  why=$(mv -f "$temp" "$path" 2>&1) || { rm -f "$saved"; fail renamed "$why"; }
elif [ "$mode" = create ] && ln "$temp" "$path" 2>/dev/null; then rm -f "$temp"
else
  if [ "$mode" = create ] && { [ -e "$path" ] || [ -h "$path" ]; }; then fail exists; fi
  why=$(mv -f "$temp" "$path" 2>&1) || fail renamed "$why"
fi
trap - EXIT
[ -z "$synced" ] || sync "$folder" 2>/dev/null
if has restorecon; then restorecon "$path" 2>/dev/null; fi
part done
[ "$stat" = c ] && stat -c 'mode=%a
owner=%U
group=%G' "$path"
part saved
printf '%s' "$saved"
"""

_CAN_T = {
    "folder": "the missing folders can't be made",
    "temporary": "no file can be made in its folder",
    "written": "the content can't be written",
    "owner": "the owner and mode that it has can't be kept",
    "backup": "no backup can be made",
    "renamed": "the new file can't be put in its place",
}


def failure(server: Server, path: str, at: Found, ran: Ran) -> FleetShellError | None:
    """Why nothing was written, and what to do next; None where something was. The file is as it was."""
    if "failed" not in ran.parts:
        if {"done", "same", "full"} & set(ran.parts):
            return None
        why = one_line(ran.stderr, 300) or f"exit code {ran.exit_code}"
        return FleetShellError(
            f"{one_line(path, 300)} on {server.id} may not have been written: {why}. Look at it with get_file_info."
        )
    name = one_line(path, 300)
    reason, *said = ran.lines("failed")
    if reason in _CAN_T:
        why = one_line(" ".join(said), 300)
        if any(word in why.lower() for word in ("permission denied", "not permitted", "not owner")):
            return denied(server, name, ran, at.login, f"{_CAN_T[reason]} ({why})")
        return FleetShellError(
            f"{name} on {server.id} was not written: {_CAN_T[reason]} ({why}). The file is as it was."
        )
    near = one_line(at.near, 200)
    if reason == "barred" or (at.kind == "missing" and at.barred):
        return denied(server, name, ran, at.login, f"the folder {near} can't be entered")
    if reason == "kind":
        return unfit(server, path, at, ran, "file", unreadable=False)
    digest = ran.fields("old").get("sha256", "")
    sentences: dict[str, FleetShellError] = {
        "exists": Refused(f'{name} on {server.id} exists already. Give mode "replace" to replace it, or "edit" to change a part.'),
        "link": NotFound(f"{name} on {server.id} is a symbolic link that leads nowhere; write to another path, or remove the link."),
        "near": BadArgument(f"{near} on {server.id} is no folder, so {name} can't be in it."),
        "dots": BadArgument(f"{name} holds `.`, `..` or `//` behind {near}, which does not go on on {server.id}; give the plain path."),
        "parents": NotFound(f"The folder of {name} does not exist on {server.id}; what is there is {near}. Give make_parents true to make it."),
        "torn": FleetShellError(f"The content did not arrive whole on {server.id}. {name} is as it was; try again."),
        "gone": Refused(f"{name} does not exist on {server.id} (any more), but expected_sha256 was given. Read it again."),
        "nodigest": FleetShellError(f"{server.id} has no program for sha256, so expected_sha256 can't be checked; leave it out."),
        "changed": Refused(
            f"{name} on {server.id} is not what was expected: its sha256 is {digest}. Somebody changed it; read it again, then write."
        ),
    }  # fmt: skip
    return sentences.get(reason) or FleetShellError(f"{name} on {server.id} was not written ({one_line(reason)}).")
