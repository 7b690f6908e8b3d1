"""What every benchmark writes beside its rows: the command, the commit and the machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clnet_model.checkpoint import git_commit


def write_results(out: Path, rows: Sequence[Any], **more: object) -> None:
    """Write rows as JSON; `more` stands before them and may say another machine."""
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": git_commit(),
        "machine": cpu(),
        **more,
        "rows": list(rows),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def cpu() -> str:
    """The processor's name, and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
