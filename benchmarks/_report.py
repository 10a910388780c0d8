# SPDX-License-Identifier: Apache-2.0
"""What a benchmark leaves behind: JSON with everything, a Markdown table for people, and where it was measured."""

import datetime
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

from nts_plugins import __version__, compat
from nts_plugins.errors import InputError

FOLDER = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "numba", "numpy", "gsplat", "nerfstudio")
PLACES = ("NUMBA_CACHE_DIR", "NTS_TEST_DATA", "NTS_CI_CACHE")
"""Settings that say where things lie on one machine. They change no figure and mean nothing on another machine."""


@dataclass
class Table:
    """Rows under a title; columns are the keys of the rows in the order in which they first appear."""

    title: str
    note: str = ""
    """What the columns mean, and in which unit."""
    rows: List[Dict[str, Any]] = field(default_factory=list)

    def add(self, **cells: Any) -> None:
        self.rows.append(cells)

    def markdown(self) -> str:
        """The table as Markdown: title, note, rows."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        lines = [f"## {self.title}", ""]
        lines += [self.note, ""] if self.note else []
        lines += ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
        lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in self.rows]
        return "\n".join([*lines, ""])


def _provenance() -> Dict[str, Any]:
    """Where, when, from what and how: machine, versions, environment, command, date, commit."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("OMP_", "NUMBA_", "NTS_")) and name not in PLACES
    }
    versions = {"python": platform.python_version(), "nts-plugins": __version__}
    for package in PACKAGES:
        versions[package] = ".".join(map(str, compat.version_of(package))) or "not installed"
    return {
        "machine": machine(),
        "versions": versions,
        "environment": dict(sorted(settings.items())),
        "command": " ".join(["python", "-m", _module_name(), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
    }


@dataclass
class Report:
    """Tables of one benchmark, and the machine, versions, command and commit that made them."""

    name: str
    """File name without suffix, in the folder of results."""
    title: str
    tables: List[Table] = field(default_factory=list)
    folder: Path = field(default_factory=lambda: FOLDER)
    provenance: Dict[str, Any] = field(default_factory=_provenance)

    def table(self, title: str, note: str = "") -> Table:
        """Add an empty table and return it."""
        self.tables.append(Table(title, note))
        return self.tables[-1]

    def origin(self) -> Dict[str, Any]:
        """What a row says of itself where rows of one result are measured at different times, on whatever machine."""
        return {"commit": self.provenance["commit"], "processor": self.provenance["machine"]["llvm_cpu"]}

    def paths(self) -> "tuple[Path, Path]":
        return self.folder / f"{self.name}.json", self.folder / f"{self.name}.md"

    def earlier(self) -> Optional[Dict[str, Any]]:
        """What an earlier, perhaps interrupted, measurement of the same name left behind."""
        path = self.paths()[0]
        return json.loads(path.read_text()) if path.exists() else None

    def earlier_rows(self, title: str, settings: Dict[str, Any], force: bool) -> List[Dict[str, Any]]:
        """Rows of one table of an earlier measurement of this name; none with ``force``. Keeps the settings.

        Raises:
            InputError: when that was made with other settings.
        """
        self.provenance["settings"] = settings
        earlier = None if force else self.earlier()
        if earlier is None:
            return []
        if earlier.get("settings") != settings:
            raise InputError(
                f"{self.paths()[0]} was measured with {earlier.get('settings')}, not with {settings}. Use --name for "
                f"another result, or --force to replace it."
            )
        return next(table["rows"] for table in earlier["tables"] if table["title"] == title)

    def check_free(self, force: bool) -> None:
        """Refuse to overwrite an earlier result; call it before measuring for an hour.

        Raises:
            InputError: when a result of this name exists and ``force`` is not set.
        """
        existing = [path for path in self.paths() if path.exists()]
        if existing and not force:
            raise InputError(f"{existing[0]} exists. Use --name for another result, or --force to replace it.")

    def write(self) -> Path:
        """Write both files, each in one step, and return the path of the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data, text = self.paths()
        tables = [asdict(table) for table in self.tables]
        content = {"benchmark": self.name, "title": self.title, **self.provenance, "tables": tables}
        _write(data, json.dumps(content, indent=1) + "\n")
        _write(text, self.markdown())
        return text

    def markdown(self) -> str:
        """Title, provenance and all tables."""
        made = self.provenance
        machine, versions = made["machine"], ", ".join(f"{name} {value}" for name, value in made["versions"].items())
        kind, features = machine["llvm_cpu"], ", ".join(machine["features"])
        processor = f"{machine['cpu']} ({kind}), {machine['cores']} cores ({features})"
        lines = [
            f"# {self.title}",
            "",
            f"{processor}, {machine['memory_gib']} GiB, {machine['system']}. {versions}.",
            f"{made['date']}, commit {made['commit'] or 'unknown'}.",
            "",
            f"    {made['command']}",
            "",
        ]
        return "\n".join(lines + [table.markdown() for table in self.tables])


def machine() -> Dict[str, Any]:
    """Processor, the vector features the kernels could use, cores this process may use, memory, system, GPU."""
    from llvmlite import binding

    from nts_plugins.kernels.vectors import LANES

    features = binding.get_host_cpu_features()
    wanted = ("sse4.2", "avx2", "fma", "avx512f", "neon", "sve")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_name(),
        "llvm_cpu": binding.get_host_cpu_name(),
        "features": [name for name in wanted if features.get(name)],
        "lanes": LANES,
        "cores": cores,
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.3g}"


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, so that an interruption leaves the old one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)


def _module_name() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).stem


def _commit() -> Optional[str]:
    """Short hash of the checkout, with "+" when its code was changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/nts_plugins", ":/method_configs")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def _memory_gib() -> Optional[int]:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    except (ValueError, OSError, AttributeError):
        return None


def find_row(rows: List[Dict[str, Any]], **keys: Any) -> Optional[Dict[str, Any]]:
    """The first row that has these values."""
    return next((row for row in rows if all(row[name] == value for name, value in keys.items())), None)
