"""Writes docs/demo.svg, a recording of the terminal, from the real output of `make demo`: its steps appear one after another."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS, ROWS = 104, 30
CHARACTER, LINE, MARGIN = 7.8, 17, 14
STEP_SECONDS = 4
COLOURS = {"title": "#ffffff", "sent": "#f5c76a", "reply": "#c8d3e0", "end": "#8fd694"}
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def record() -> str:
    """What `make demo` prints."""
    environment = {**os.environ, "NO_COLOR": "1"}
    run = subprocess.run(
        [sys.executable, str(ROOT / "fleetshell.py"), "demo"], env=environment, capture_output=True, text=True
    )
    if run.returncode != 0:
        raise SystemExit(f"the demo failed:\n{run.stdout}\n{run.stderr}")
    return run.stdout


def pages(text: str) -> list[list[str]]:
    """The screen after each step: the step's lines at the end, above them as much of the ones before as fits."""
    lines = [line[: COLUMNS - 1] + "…" if len(line) > COLUMNS else line for line in _ESCAPE.sub("", text).splitlines()]
    starts = [number for number, line in enumerate(lines) if re.match(r" ?\d+\. |Demo finished", line)]
    ends = [*starts[1:], len(lines)]
    return [["$ make demo", "", *lines[:end]][-ROWS:] for end in ends]


def svg(screens: list[list[str]]) -> str:
    """An animated picture; where animation is off, the last screen is shown."""
    width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), ROWS * LINE + 2 * MARGIN + 22
    total = len(screens) * STEP_SECONDS
    share = 100 / len(screens)
    shown = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" xml:space="preserve" role="img" aria-label="The output of make demo">',
        "<style>text{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}",
        *(f".{name}{{fill:{colour}}}" for name, colour in COLOURS.items()),
        f"@media (prefers-reduced-motion:no-preference){{g{{animation:s {total}s step-end infinite;visibility:hidden}}}}",
        f"@keyframes s{{0%{{visibility:visible}}{share:.3f}%{{visibility:hidden}}}}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#12181f" stroke="#3b4652"/>',
        *(f'<circle cx="{20 + 18 * number}" cy="16" r="5" fill="#3b4652"/>' for number in range(3)),
    ]
    for number, lines in enumerate(screens):
        # An attribute, and no rule of the style: what knows no animation must not show all screens at once.
        hidden = "" if number == len(screens) - 1 else ' visibility="hidden"'
        shown.append(f'<g{hidden} style="animation-delay:{number * STEP_SECONDS}s">')
        for row, line in enumerate(lines):
            if line.strip():
                y = 22 + MARGIN + (row + 1) * LINE - 4
                shown.append(
                    f'<text class="{_class(line)}" x="{MARGIN}" y="{y}">{html.escape(line, quote=False)}</text>'
                )
        shown.append("</g>")
    return "\n".join([*shown, "</svg>"]) + "\n"


def _class(line: str) -> str:
    if line.startswith("Demo finished"):
        return "end"
    if re.match(r" ?\d+\. |FleetShell's demo", line):
        return "title"
    return "sent" if line.lstrip().startswith(("→", "$")) else "reply"


if __name__ == "__main__":
    picture = svg(pages(record()))
    (ROOT / "docs" / "demo.svg").write_text(picture)
    print(f"written: docs/demo.svg, {len(picture.encode()):,} bytes")
