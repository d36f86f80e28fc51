"""The house of docs/design.md, section 4: imports run one way, heavy libraries have one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import medkit

PACKAGE = Path(medkit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module may import from its own place and from places to the left of it.
ORDER = [
    {"errors", "text", "hookspecs"},
    {"workspace", "engine", "diagnosis", "delivery", "plugins"},
    {"statistics"},
    {"sources"},
    {"catalog"},
    {"images"},
    {"cohort"},
    {"networks"},
    {"training"},
    {"evaluation"},
    {"archive"},
    {"testing", "scaffolding"},
    {"cli"},
]
# It stands beside the road from images to numbers, and needs none of it.
BESIDE = {"archive": {"cohort", "networks", "training", "evaluation"}}
RANK = {place: rank for rank, places in enumerate(ORDER) for place in places}

HOMES = {
    "pluggy": {"plugins/loading", "hookspecs"},
    "duckdb": {"catalog/database", "sources/idc"},  # the index of IDC is a table of its own
    "idc_index_data": {"sources/idc"},
    "pynetdicom": {
        "sources/associations",
        "sources/dimse",
        "sources/retrieval",
        "sources/storage",
    },
    "numba": {"catalog/compiled"},
    "fsspec": {"sources/drivers"},
    "tensorstore": {"images/arrays"},
    "zarr": set[str](),
    "distributed": {"engine"},
    "dask": {"engine"},
    "dask_jobqueue": {"engine"},
    "tensorboard": {"training/tracking"},
    "mlflow": {"training/tracking"},
    "filelock": {"workspace", "plugins/building"},
    "packaging": {"plugins/candidates"},
    "urllib3": {"sources/https", "sources/connections"},
    "requests": {"sources/connections"},
    "tenacity": {"sources/retries"},
    "google_crc32c": {"sources/verification"},
    "jpeg_ls": {"archive/codecs"},
    "jinja2": {"evaluation/pages"},
    "PIL": {"evaluation/sheets"},
    "SimpleITK": {"images/planes"},
    "tensorflow": {
        "images/feeds",
        "images/exports/shards",
        "networks/hardware",
        "training/exports/runtimes",
    },
    "onnxruntime": {"training/exports/runtimes"},
    "ai_edge_litert": {"training/exports/runtimes"},
    "torch": {"images/feeds", "networks/hardware"},
    "jax": {"networks/hardware"},
    "keras": {"networks/hardware"},
    "h5py": {"networks/weightfile"},
}

# Imported by no module of medkit while it is itself imported.
INSIDE_FUNCTIONS = {
    "tensorflow", "keras", "torch", "jax", "h5py", "SimpleITK", "scipy", "sklearn", "matplotlib"
}  # fmt: skip
HEAVY = INSIDE_FUNCTIONS | {
    "pandas", "pydicom", "zarr", "numpy", "numba", "duckdb", "pyarrow", "fsspec"
}  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(tree: ast.AST, *, run_time_only: bool = True) -> Iterator[str]:
    """Yield what is imported at run time, anywhere in the module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def module_level(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_leftwards(path: Path) -> None:
    place = name_of(path).split("/")[0]
    if place in ("__init__", "__main__"):
        return
    for imported in imports(ast.parse(path.read_text(encoding="utf-8"))):
        parts = imported.split(".")
        if parts[0] == "medkit" and len(parts) > 1 and parts[1] in RANK:
            allowed = parts[1] not in BESIDE.get(place, set())
            assert allowed and RANK[parts[1]] <= RANK[place], f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_library_has_one_home(path: Path) -> None:
    for imported in imports(ast.parse(path.read_text(encoding="utf-8"))):
        homes = HOMES.get(imported.split(".")[0])
        assert homes is None or name_of(path) in homes, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    banned = HEAVY if name_of(path).startswith("cli/") else INSIDE_FUNCTIONS
    for imported in module_level(ast.parse(path.read_text(encoding="utf-8"))):
        assert imported.split(".")[0] not in banned, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("command", [["--help"], ["plugins", "list"], ["train", "--help"]])
def test_help_and_listing_import_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys\n"
        "from medkit.cli import main\n"
        "try:\n"
        f"    main({command!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"heavy = sorted({HEAVY!r} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        # Every child of a training opens a set; what it needs of a trainer, the trainer imports.
        ("medkit.training.worker, medkit.images.imageset", {"pydicom", "numba", "imagecodecs"}),
        ("medkit.catalog.store", {"pydicom", "pandas", "numba"}),
        ("medkit.training.run, medkit.catalog.labels", {"pydicom", "requests", "numba", "scipy"}),
    ],
)
def test_what_is_opened_again_and_again_brings_no_library_that_it_does_without(
    modules: str, unneeded: set[str]
) -> None:
    script = f"import sys, {modules}; print(*sorted({unneeded!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stdout + done.stderr


def test_importing_medkit_imports_nothing_else() -> None:
    script = "import medkit, sys; assert not [m for m in sys.modules if m.startswith('medkit.')]"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_resolves() -> None:
    assert [name for name in medkit.__all__ if not hasattr(medkit, name)] == []


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Dataset"):
        medkit.Dataset  # noqa: B018 - the access is the test
