"""Reading enough of a log to say what is in it: the end whole, of what is older a sample, in one round trip and a few MiB.

What can be sought in is sampled where it lies: the stretch before the end that was read whole, then one twice as long before
that, and so on, so many blocks of each. So recent hours are seen as sharply as old days, and 2 GB cost no more than 20 MB.
What is packed has to be unpacked; runs of lines, evenly spread, are kept of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleetshell_tools.core.log_analysis import Piece
from fleetshell_tools.core.log_journal import FIELDS, JOURNAL
from fleetshell_tools.core.log_source import ACCESS, CLOCK, FILES, Seen, Source
from fleetshell_tools.core.log_time import Since
from fleetshell_tools.core.scripts import Ran, Script

END = 2 << 20
"""Bytes of the newest file, and of a journal, that are read whole."""
LATER = 192 << 10
"""Bytes of each older file that are read whole at least."""
BLOCK = 16 << 10
BLOCKS = 8
"""Blocks of each stretch that is sampled, and their bytes."""
RUN = 200
"""Lines of a packed file that are kept together."""
PACKED = 32 << 20
"""Bytes of packed files that are unpacked; they become some ten times as many."""
MOST = 5 << 20
"""Bytes after which no older file is begun."""
KEEP = 12 << 20
LINES = 10_000
"""The newest lines that are looked at where neither `lines` nor `since` is given."""
ENTRIES = 15_000
"""The newest entries of a journal that are looked at with `since`."""
_MONTH = 30 * 86_400
_JOURNAL_SECONDS = 30

_DOUBLE = r"""
asked=$oldest
if [ -n "$oldest" ]; then oldest=$((oldest - (now - oldest))); fi
"""
# For the window before the one that was asked for: what the rates are compared with.

_FILES = r"""
path=$1 since=$2 seconds=$3 lines=$4 end=$5 later=$6 block=$7 blocks=$8 run=$9
shift 9
packed=$1 most=$2
""" + (
    CLOCK
    + _DOUBLE
    + rf"""
[ -n "$asked" ] || oldest=$((now - {_MONTH}))
"""
    + ACCESS
    + FILES
    + r"""
left=$end sent=0
newest() { if [ -n "$lines" ]; then tail -n "$lines"; else cat; fi; }
sample='
  b=$((size - left)) ring=$left
  while [ $b -gt 0 ]; do
    a=$((b - ring)); [ $a -gt 0 ] || a=0
    n=$blocks step=$(((b - a) / n)); [ $step -ge $block ] || { n=1 step=$((b - a)); }
    k=0
    while [ $k -lt $n ]; do
      at=$(((a + k * step) / block))
      printf "\036%s block %s %s %s\n" "$nonce" $i $((at * block)) $step
      dd "if=$f" bs=$block skip=$at count=1 2>/dev/null
      k=$((k + 1))
    done
    b=$a ring=$((ring * 2))
  done'
for item in $order; do
  pick; eval "f=\${$i}"
  if [ $sent -gt $most ]; then part over; printf '%s\n' $i; continue; fi
  if [ -n "$lines" ] && [ "$lines" -le 0 ]; then break; fi
  case $f in
    *.gz | *.xz | *.bz2 | *.zst)
      packed=$((packed - size))
      if [ $packed -lt 0 ]; then part over; printf '%s\n' $i; continue; fi
      part "packed $i"
      if [ -n "$lines" ]; then
        content 1 1000000000000 | tail -n "$lines" | tail -c $end; lines=0
      else
        every=$((size * 10 / later + 1))
        content 1 1000000000000 | awk -v run=$run -v every=$every '
          int((NR - 1) / run) % every == 0 { if (n && last != NR - 1) print "\035"; print; n++; last = NR }
          END { printf "\035%d %d\n", NR, n }'
        sent=$((sent + size * 10 / every))
      fi ;;
    *)
      [ $left -ge $later ] || [ -n "$lines" ] || left=$later
      [ $left -gt 0 ] || break
      [ $size -ge $left ] || left=$size
      part "end $i $((size - left))"
      $reader tail -c $left -- "$f" | head -c $left | newest | tr -d '\000'
      sent=$((sent + left))
      if [ -n "$lines" ]; then
        [ $size -le $left ] || break
        lines=$((lines - $($reader tail -c $left -- "$f" | wc -l)))
      elif [ $size -gt $left ]; then
        $reader sh -c "nonce=\$0 f=\$1 i=\$2 size=\$3 left=\$4 block=\$5 blocks=\$6; $sample" \
          "$0" "$f" $i $size $left $block $blocks | tr -d '\000'
        r=$left
        while [ $r -lt $size ]; do r=$((r * 2)) sent=$((sent + block * blocks)); done
      fi
      left=$((end - sent)) ;;
  esac
done
"""
)

_JOURNAL = r"""
unit=$1 since=$2 seconds=$3 lines=$4 end=$5 limit=$6
[ -n "$timeout" ] || limit=
""" + (
    CLOCK
    + _DOUBLE
    + JOURNAL
    + rf"""
part json
entries "$@" -n "$lines" -o json --output-fields={FIELDS} |
  sed -e 's/"__CURSOR":"[^"]*",//' -e 's/"_BOOT_ID":"[^"]*",//' -e 's/"__MONOTONIC_TIMESTAMP":"[^"]*",//' |
  tail -c "$end"
"""
)


def script(source: Source, since: Since, lines: int | None) -> Script:
    """The program that reads as much of a source as an analysis needs.

    Args:
        lines: Only the newest; None with `since`: all from then on, and as long a time before; both limits hold together.
    """
    if lines is None and since.kind == "ever":
        lines = LINES
    if source.unit:
        data = (source.unit, since.kind, str(since.seconds), str(lines or ENTRIES), str(2 * END), str(_JOURNAL_SECONDS))
        return Script("analyze_logs", _JOURNAL, data, shown=f"unit {source.unit}")
    # One more than wanted: the first one may begin in the middle.
    first = (source.path, since.kind, str(since.seconds), str(lines + 1) if lines else "")
    limits = (END, LATER, BLOCK, BLOCKS, RUN, PACKED, MOST)
    return Script("analyze_logs", _FILES, (*first, *map(str, limits)), shown=repr(source.path))


@dataclass(frozen=True)
class Reading:
    """What was read of a source.

    Attributes:
        pieces: The oldest first.
        read: Bytes that were read.
        size: Bytes of the files they came from; None for a journal, and where packed.
        sampled: Whether some of it stands for more than itself.
        whole: Whether the source holds nothing older that was left out.
        over: Files that were left out, because it would have been too much.
    """

    pieces: list[Piece]
    read: int
    size: int | None
    sampled: bool
    whole: bool
    over: tuple[str, ...] = ()


def of_files(ran: Ran, files: list[Seen]) -> Reading:
    """Put together what the program printed, the file that was written last at the end."""
    found: dict[int, list[tuple[int, Piece]]] = {}
    cut = False
    for name, data in ran.parts.items():
        kind, *words = name.split(" ")
        if kind not in ("end", "block", "packed") or not all(word.isdigit() for word in words):
            continue
        number, offset, stands_for = [*map(int, words), 0, 0, 0][:3]
        pieces = found.setdefault(number, [])
        if kind == "packed":
            pieces += enumerate(_packed(data))
        elif kind == "end":
            pieces.append((offset, Piece(data, torn_start=offset > 0)))
            cut = cut or offset > 0
        elif data:
            pieces.append((offset, Piece(data, max(stands_for / len(data), 1.0), offset > 0, True)))
    times = {file.number: (file.mtime or 0, -file.number) for file in files}
    order = sorted(found, key=lambda number: times.get(number, (0, 0)))
    stretches = [piece for number in order for _, piece in sorted(found[number], key=lambda item: item[0])]
    over = {int(text) for text in ran.text("over").split() if text.isdigit()}
    return Reading(
        stretches, sum(len(piece.data) for piece in stretches), sum(file.size or 0 for file in files if file.number in found),
        any(piece.weight > 1 for piece in stretches), not cut and not over,
        tuple(file.path for file in files if file.number in over),
    )  # fmt: skip


def _packed(data: bytes) -> list[Piece]:
    """Runs of lines, and at the end how many lines there were and how many were kept; without that it is the end of the file."""
    body, mark, told = data.rstrip(b"\n").rpartition(b"\x1d")
    counts = told.split()
    if not mark or len(counts) != 2 or not all(count.isdigit() for count in counts):
        return [Piece(data.replace(b"\x1d", b""), torn_start=len(data) >= END)]
    total, kept = map(int, counts)
    weight = max(total / kept, 1.0) if kept else 1.0
    return [Piece(run, weight) for run in body.split(b"\x1d\n")]


def of_journal(ran: Ran, most: int) -> Reading:
    """The entries of a journal; it is whole where there were fewer than asked for."""
    data = ran.part("json")
    whole = len(data) < 2 * END and data.count(b"\n") < most
    return Reading([Piece(data, torn_start=len(data) >= 2 * END)], len(data), None, False, whole)
