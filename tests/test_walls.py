# SPDX-License-Identifier: Apache-2.0
"""The walls of docs/architecture.md: reads every import of the package and fails where one must never be."""

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = {"nts_plugins": "nts_plugins", "method_configs": "nts_plugins.method_configs"}
"""Source folders and the package name each is imported under."""

ENCODER_LIBRARIES = ("open_clip", "segment_anything", "transformers", "diffusers", "ai_edge_litert")
BACKENDS = tuple(
    f"nts_plugins.rasterization.{path.stem}"
    for path in sorted((REPOSITORY / "nts_plugins" / "rasterization").glob("*.py"))
    if path.stem not in ("__init__", "_api", "_backends", "_types", "rules", "sh", "textures")
)
"""All that draws: what is not named here as the face of the room is a backend or a part of one."""
LIBRARY_ROOMS = tuple(
    f"nts_plugins.{room}"
    for room in ("rasterization", "fields", "files", "gaussians", "kernels", "losses", "appearance", "queries")
)


@dataclass(frozen=True)
class Import:
    """One name that a source file imports. ``from a import b`` counts as ``a.b``, which may be a module."""

    importer: str
    name: str
    line: int
    at_import: bool
    """Whether it happens when the importer is imported, rather than inside a function or for type checkers only."""

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.name}"


@dataclass(frozen=True)
class Wall:
    """Modules below ``rooms`` never import a name below ``forbidden``."""

    rooms: Tuple[str, ...]
    forbidden: Tuple[str, ...]
    why: str
    example: str
    """A statement that breaks the wall; a test proves that it is noticed."""
    only_at_import: bool = False
    allowed_in: Tuple[str, ...] = ()

    def breaches(self, imports: List[Import]) -> List[Import]:
        return [
            each
            for each in imports
            if _below(each.importer, self.rooms)
            and _below(each.name, self.forbidden)
            and not _below(each.importer, self.allowed_in)
            and (each.at_import or not self.only_at_import)
        ]


WALLS = (
    Wall(
        rooms=LIBRARY_ROOMS,
        forbidden=("nerfstudio", "viser", "nts_plugins.encoders", "nts_plugins.models", "nts_plugins.viewer"),
        why="usable as a library, testable in milliseconds",
        example="def f():\n    from nerfstudio.cameras import cameras",
    ),
    Wall(
        rooms=("nts_plugins.encoders", "nts_plugins.latents"),
        forbidden=("nts_plugins.models", "nts_plugins.heads", "nts_plugins.rasterization"),
        why="extraction, and the training of encoders, must run alone, also on another machine",
        example="from nts_plugins import heads",
    ),
    Wall(
        rooms=("nts_plugins.bench",),
        forbidden=(
            "torch",
            "nerfstudio",
            "matplotlib",
            "ray",
            *(f"nts_plugins.{room}" for room in ("models", "heads", "rasterization", "method_configs")),
        ),
        why="workers have to set their numbers of threads first, and a report needs none of it",
        example="import torch",
        only_at_import=True,
    ),
    Wall(
        rooms=("nts_plugins.heads",),
        forbidden=(*BACKENDS, "nts_plugins.rasterization._backends", "nts_plugins.kernels", "gsplat"),
        why="a head says what to splat, the door decides how",
        example="from nts_plugins.rasterization import cpu",
    ),
    Wall(
        rooms=("nts_plugins.method_configs",),
        forbidden=(
            *ENCODER_LIBRARIES,
            "torchvision",
            "timm",
            "torch.hub",
            "nts_plugins.encoders",
            "nts_plugins.kernels",
        ),
        why="one failing import would break every ns-* command",
        example="import open_clip.transform",
        only_at_import=True,
    ),
    Wall(
        rooms=("nts_plugins",),
        forbidden=ENCODER_LIBRARIES,
        why="an encoder that is missing or broken must not keep anyone from training without it",
        example="import transformers",
        only_at_import=True,
    ),
    Wall(
        rooms=("nts_plugins",),
        forbidden=("method_configs", "tests", "benchmarks", "examples"),
        why="these names exist in a checkout only, not in an installed package",
        example="from method_configs.splat import splat",
    ),
    Wall(
        rooms=("nts_plugins",),
        forbidden=("importlib.metadata", "importlib_metadata", "packaging", "pkg_resources", "torch.version"),
        why="compat.py alone knows versions",
        example="import torch\nbuilt_for = torch.version.cuda",
        allowed_in=("nts_plugins.compat",),
    ),
)


def _below(name: str, prefixes: Tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _sources() -> Iterator[Tuple[str, Path]]:
    """Module name and file of every source file of the package."""
    for folder, package in FOLDERS.items():
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            parts = path.relative_to(REPOSITORY / folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


class _ImportReader(ast.NodeVisitor):
    """Collects the imports of one module, those that happen inside functions too."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.module = module
        self.package = module if is_package else module.rpartition(".")[0]
        self.found: List[Import] = []
        self._deferred = 0

    def _add(self, name: str, node: ast.AST) -> None:
        self.found.append(Import(self.module, name, node.lineno, at_import=self._deferred == 0))  # type: ignore[attr-defined]

    def _visit_deferred(self, node: ast.AST) -> None:
        self._deferred += 1
        self.generic_visit(node)
        self._deferred -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_deferred

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            self._visit_deferred(node)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package.split(".")[: len(self.package.split(".")) - (node.level - 1)] if node.level else []
        for alias in node.names:
            self._add(".".join([*base, *([node.module] if node.module else []), alias.name]), node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """``torch.version`` is a module that comes with torch, and counts as imported where it is used."""
        if ast.unparse(node) == "torch.version":
            self._add("torch.version", node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self._add(name.value, node)
        self.generic_visit(node)


def read_imports(module: str, text: str, is_package: bool = False) -> List[Import]:
    reader = _ImportReader(module, is_package)
    reader.visit(ast.parse(text))
    return reader.found


def _all_imports() -> List[Import]:
    return [
        found
        for module, path in _sources()
        for found in read_imports(module, path.read_text(), is_package=path.name == "__init__.py")
    ]


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.why.replace(" ", "-")[:40])
def test_wall_stands(wall: Wall) -> None:
    breaches = wall.breaches(_all_imports())
    assert not breaches, f"broken wall ({wall.why}):\n" + "\n".join(map(str, breaches))


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.why.replace(" ", "-")[:40])
def test_wall_is_noticed_when_broken(wall: Wall) -> None:
    assert wall.breaches(read_imports(f"{wall.rooms[0]}.example", wall.example))
    assert not wall.breaches(read_imports(f"{wall.rooms[0]}.example", "import math"))


def test_imports_are_read_in_every_spelling() -> None:
    text = """
import a.b
from c import d
from . import e
from ..f import g
if TYPE_CHECKING:
    import h
def function():
    importlib.import_module("i.j")
"""
    read = [(each.name, each.at_import) for each in read_imports("nts_plugins.room.module", text)]
    assert read == [
        ("a.b", True),
        ("c.d", True),
        ("nts_plugins.room.e", True),
        ("nts_plugins.f.g", True),
        ("h", False),
        ("i.j", False),
    ]
    assert read_imports("nts_plugins.room", "from . import e", is_package=True)[0].name == "nts_plugins.room.e"


SHARED_MODELS = ("splat",)
"""Files of models/ that are named like a method, and are the base that other methods build on."""


def foreign_method_imports(imports: List[Import], methods: List[str]) -> List[Import]:
    """Imports of a file that belongs to one method, from anywhere but that method's own files."""
    own = {method: (f"nts_plugins.method_configs.{method}", f"nts_plugins.models.{method}") for method in methods}
    breaches = []
    for each in imports:
        for method, files in own.items():
            shared = method in SHARED_MODELS and _below(each.name, files[1:])
            if _below(each.name, files) and not _below(each.importer, files) and not shared:
                breaches.append(each)
    return breaches


def test_methods_share_parts_and_not_each_other() -> None:
    methods = [path.stem for path in (REPOSITORY / "method_configs").glob("*.py") if not path.stem.startswith("_")]
    breaches = foreign_method_imports(_all_imports(), methods)
    assert not breaches, "a method imports another one's file:\n" + "\n".join(map(str, breaches))

    def noticed(importer: str, text: str) -> bool:
        return bool(foreign_method_imports(read_imports(importer, text), ["splat", "one", "two"]))

    assert noticed("nts_plugins.method_configs.one", "from nts_plugins.method_configs import two")
    assert noticed("nts_plugins.models.one", "from nts_plugins.models.two import Part")
    assert noticed("nts_plugins.models.splat", "from nts_plugins.method_configs.splat import splat") is False
    assert noticed("nts_plugins.data.store", "import nts_plugins.method_configs.splat")
    assert not noticed("nts_plugins.method_configs.one", "from nts_plugins.models.one import Model")
    assert not noticed("nts_plugins.method_configs.one", "from nts_plugins.models.splat import SplatModel")


def device_breaches(module: str, text: str) -> List[str]:
    """Places that move something to CUDA by name, which fails on every other machine."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        is_cuda_method = isinstance(function, ast.Attribute) and function.attr == "cuda" and not node.args
        moves = (
            isinstance(function, ast.Attribute)
            and function.attr in ("to", "device")
            or any(keyword.arg == "device" for keyword in node.keywords)
        )
        names_cuda = any(
            isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value.split(":")[0] == "cuda"
            for value in [*node.args, *(keyword.value for keyword in node.keywords)]
        )
        if is_cuda_method or (moves and names_cuda):
            found.append(f"{module}, line {node.lineno}: {ast.unparse(node)}")
    return found


def test_nothing_moves_to_cuda_by_name() -> None:
    breaches = [
        breach
        for module, path in _sources()
        if module != "nts_plugins.compat"
        for breach in device_breaches(module, path.read_text())
    ]
    assert not breaches, "use the device that is given:\n" + "\n".join(breaches)
    for text in ("x.cuda()", "x.to('cuda')", "torch.device('cuda:0')", "torch.zeros(3, device='cuda')"):
        assert device_breaches("example", text), text
    for text in ("torch.cuda.is_available()", "kind == 'cuda'", "x.to(device)", "names.get('cuda')"):
        assert not device_breaches("example", text), text


def test_source_files_keep_the_house_rules() -> None:
    for module, path in _sources():
        lines = path.read_text().splitlines()
        assert lines and lines[0] == "# SPDX-License-Identifier: Apache-2.0", f"{module}: first line is not the licence"
        assert len(lines) <= 400, f"{module} has {len(lines)} lines; a module does one thing"
        lazy_annotations = any(line.startswith("from __future__ import annotations") for line in lines)
        uses_jaxtyping = any(_below(each.name, ("jaxtyping",)) for each in read_imports(module, "\n".join(lines)))
        assert not (lazy_annotations and uses_jaxtyping), f"{module}: jaxtyping cannot check lazy annotations"


IMPORT_PROBE = """
import importlib, json, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    # Remembers which module asked for an encoder library, and leaves the import itself to the other finders.
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {encoders}:
            frame = sys._getframe(1)
            while frame and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            Watch.asked.append((frame.f_globals.get("__name__", "?"), name))
        return None

sys.meta_path.insert(0, Watch())
compiled = []
if {watch_compiler}:
    from numba.core import event
    recorder = event.RecordingListener()
    event.register("numba:compile", recorder)
    compiled = recorder.buffer
for name in {modules}:
    importlib.import_module(name)
print(json.dumps(dict(asked=Watch.asked, compiled=len(compiled), loaded=sorted(sys.modules))))
"""


def import_in_fresh_process(modules: List[str], watch_compiler: bool = False) -> dict:
    """Import modules in a new Python; tells what was loaded, compiled, and who asked for encoder libraries."""
    code = IMPORT_PROBE.format(encoders=set(ENCODER_LIBRARIES), modules=modules, watch_compiler=watch_compiler)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_everything_loads_no_encoder_and_compiles_nothing() -> None:
    result = import_in_fresh_process([module for module, _ in _sources()], watch_compiler=True)
    ours = [(importer, name) for importer, name in result["asked"] if _below(importer, ("nts_plugins",))]
    assert not ours, f"these modules import an encoder library: {ours}"
    assert result["compiled"] == 0, "importing started a numba compile"
    assert "gsplat.cuda._backend" not in result["loaded"], "importing started gsplat's CUDA compile"


def test_importing_the_package_is_light() -> None:
    loaded = import_in_fresh_process(["nts_plugins"])["loaded"]
    assert not {"torch", "numpy", "nerfstudio", "gsplat", "numba", "viser"} & set(loaded)


def test_importing_recipes_is_light() -> None:
    recipes = [module for module, _ in _sources() if _below(module, ("nts_plugins.method_configs",))]
    loaded = import_in_fresh_process(recipes)["loaded"]
    assert not {"numba", *ENCODER_LIBRARIES, "nts_plugins.kernels", *BACKENDS} & set(loaded)


def test_library_rooms_work_without_nerfstudio() -> None:
    modules = [module for module, _ in _sources() if _below(module, LIBRARY_ROOMS)]
    loaded = import_in_fresh_process(modules)["loaded"]
    assert not [name for name in loaded if _below(name, ("nerfstudio", "viser"))]
