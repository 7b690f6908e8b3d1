"""Write requirements.lock: what `make setup` installs on every platform, resolved by uv from pyproject.toml.

torch is pinned without a build tag and its CUDA libraries are left out, since the Makefile installs the CPU
or the CUDA build of torch first; everything else is the same on both.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OLDEST_PYTHON = "3.11"
TORCH = "torch==2.13.0"
HEADER = (
    "# Written by `make lock`; installed by `make setup`. "
    "torch is pinned without a build tag: the Makefile picks cpu or cuda.\n"
)
BROUGHT_BY_TORCH = ("nvidia-", "cuda-", "triton")


def main() -> None:
    """Resolve, drop what comes with torch, write."""
    pins = resolve()
    kept = [pin for pin in pins if not pin.startswith(BROUGHT_BY_TORCH)]
    LOCK.write_text(HEADER + "\n".join([TORCH, *kept]) + "\n", encoding="utf-8")
    print(f"{LOCK.name}: {len(kept) + 1} packages")


def resolve() -> list[str]:
    """Pins of every dependency, for all platforms, without torch."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", str(ROOT / "pyproject.toml")),
        *("--group", "dev", "--universal", "--python-version", OLDEST_PYTHON),
        *("--no-header", "--no-annotate", "--no-emit-package", "torch", "--no-emit-package", "triton"),
        *(flag for place in find_links() for flag in ("--find-links", place)),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return [line for line in done.stdout.splitlines() if line and not line.startswith("#")]


def find_links() -> list[str]:
    """Extra places for wheels from pip's own configuration, which uv does not read."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.split()


if __name__ == "__main__":
    main()
