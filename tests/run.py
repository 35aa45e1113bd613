"""Runs the whole suite in several pytest processes, four at a time, since most tests wait; with arguments it is pytest."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

TESTS = Path(__file__).parent
FOLDERS = (("relay", "cli"), ("fleet",), ("core", "support"), ("clients", "conformance", "soak"))
AT_ONCE = 4


def parts() -> dict[str, list[str]]:
    """What each process runs, by its name, longest first: the files beside this one in two halves, then folders."""
    files = [f"tests/{path.name}" for path in sorted(TESTS.glob("test_*.py"))]
    halves = {"tests/test_*.py, first half": files[::2], "tests/test_*.py, second half": files[1::2]}
    return {**halves, **{", ".join(names): [f"tests/{name}" for name in names] for names in FOLDERS}}


def run(paths: list[str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", *paths]
    done = subprocess.run(command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def main() -> int:
    if sys.argv[1:]:
        return subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]]).returncode
    codes = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(run, paths): name for name, paths in parts().items()}
        print(f"{len(running)} processes, {AT_ONCE} at a time; each prints when it has ended.", flush=True)
        for ended in as_completed(running):
            code, output = ended.result()
            codes.append(code)
            print(f"== {running[ended]}", output, sep="\n", flush=True)
    return max(codes, key=abs)


if __name__ == "__main__":
    sys.exit(main())
