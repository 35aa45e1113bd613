"""Runs the whole suite as several pytest processes side by side, since one keeps a single core busy; with arguments it is pytest."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

TESTS = Path(__file__).parent
BESIDE = (("fleet",), ("relay", "cli"), ("clients", "conformance", "soak"), ("core", "support"))
"""Folders, by process; all other tests run in one more, whose output is seen at once. Most of them wait more than they compute."""


def main() -> int:
    pytest = [sys.executable, "-m", "pytest"]
    if sys.argv[1:]:
        return subprocess.run([*pytest, *sys.argv[1:]]).returncode
    others = [f"--ignore=tests/{name}" for names in BESIDE for name in names]
    with ExitStack() as ending:
        running = []
        for names in BESIDE:
            output = ending.enter_context(tempfile.TemporaryFile("w+"))
            folders = [f"tests/{name}" for name in names]
            process = subprocess.Popen([*pytest, *folders], cwd=TESTS.parent, stdout=output, stderr=output)
            ending.callback(process.wait)
            ending.callback(process.terminate)
            running.append((names, process, output))
        codes = [subprocess.run([*pytest, *others], cwd=TESTS.parent).returncode]
        for names, process, output in running:
            codes.append(process.wait())
            output.seek(0)
            print(f"== tests of {', '.join(names)}", output.read(), sep="\n", flush=True)
    return max(codes, key=abs)


if __name__ == "__main__":
    sys.exit(main())
