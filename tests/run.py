"""Runs the whole suite as two pytest processes side by side, since one keeps a single core busy; with arguments it is pytest."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
HOSTS = ("fleet", "clients", "conformance")
"""Folders whose tests take about as long as all others together."""


def main() -> int:
    pytest = [sys.executable, "-m", "pytest"]
    if sys.argv[1:]:
        return subprocess.run([*pytest, *sys.argv[1:]]).returncode
    here = [f"tests/{name}" for name in HOSTS]
    others = [f"--ignore={name}" for name in here]
    with tempfile.TemporaryFile("w+") as output:
        beside = subprocess.Popen([*pytest, *here], cwd=TESTS.parent, stdout=output, stderr=output)
        try:
            codes = [subprocess.run([*pytest, *others], cwd=TESTS.parent).returncode, beside.wait()]
        except BaseException:
            beside.terminate()
            beside.wait()
            raise
        output.seek(0)
        print(f"== tests of {', '.join(here)}", output.read(), sep="\n", flush=True)
    return max(codes, key=abs)


if __name__ == "__main__":
    sys.exit(main())
