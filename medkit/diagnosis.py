"""What works on this machine, and what does not and why; for ``medkit doctor``.

No value of a credential is ever read: only whether a variable or a file of that name is there.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

OK, NOTE, PROBLEM = "ok", "note", "problem"

_PYTHONS = ((3, 11), (3, 14))  # from the first up to, and without, the second
_SPACE_TO_WARN = 10_000_000_000  # bytes
_PROBE_SECONDS = 180
_PROBE_ERRORS = (OSError, subprocess.SubprocessError, ValueError)

_CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "KAGGLE_API_TOKEN",
    "KAGGLE_KEY",
    "KAGGLE_USERNAME",
)
_CREDENTIAL_FILES = (
    ".aws/credentials",
    ".config/gcloud/application_default_credentials.json",
    ".config/kaggle/kaggle.json",
    ".kaggle/access_token",
    ".kaggle/kaggle.json",
    ".netrc",
)

# The decoders: their names in imagecodecs, and the transfer syntaxes (PS3.6 A-1) they are for, as
# endings of 1.2.840.10008.1.2. Native and deflated pixels need none.
DECODERS = {
    "JPEG8": ("JPEG", (".4.50", ".4.51", ".4.57", ".4.70")),
    "JPEGLS": ("JPEG-LS", (".4.80", ".4.81")),
    "JPEG2K": ("JPEG 2000", (".4.90", ".4.91")),
    "HTJ2K": ("High-Throughput JPEG 2000", (".4.201", ".4.202", ".4.203")),
    "JPEGXL": ("JPEG XL", (".4.110",)),
    "DICOMRLE": ("RLE", (".5",)),
}
_PROBE_DECODERS = """
import imagecodecs, json
found = {{}}
for name in {names}:
    if getattr(imagecodecs, name).available:
        found[name] = getattr(imagecodecs, name.lower() + "_version")()
print(json.dumps(found))
"""

# What each backend is asked in a child process: its GPUs, and whether it could use any.
_PROBES = {
    "tensorflow": """
import tensorflow as backend
about = backend.config.experimental.get_device_details
devices = backend.config.list_physical_devices("GPU")
gpus = [about(device).get("device_name", device.name) for device in devices]
built = backend.test.is_built_with_cuda()
""",
    "jax": """
import importlib.util
import jax as backend
gpus = [device.device_kind for device in backend.devices() if device.platform != "cpu"]
built = any(importlib.util.find_spec(f"jax_cuda{number}_plugin") for number in (12, 13))
""",
    "torch": """
import torch as backend
gpus = [backend.cuda.get_device_name(number) for number in range(backend.cuda.device_count())]
built = backend.version.cuda is not None
""",
}
# A trainer may need no Keras; where it is installed, it has to start.
_PROBE_BACKEND = """
import importlib.util, json
keras = importlib.util.find_spec("keras") and importlib.import_module("keras")
{probe}
version = keras and keras.__version__
facts = {{"keras": version, "version": backend.__version__, "gpus": gpus, "built": built}}
print()  # a library may have left a line open
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    topic : str
        What it is.
    state : str
        ``"ok"``, ``"note"``: worth knowing, or ``"problem"``: medkit does not work without.
    detail : str
        What was found, and for a note or a problem what would help.
    """

    topic: str
    state: str
    detail: str


def diagnose(folder: Path, backend: str) -> Iterator[Finding]:
    """Yield what is found on this machine.

    Parameters
    ----------
    folder : Path
        The workspace; it need not exist yet.
    backend : str
        The Keras backend that training would use, or ``"none"``.

    Notes
    -----
    What can crash or hang (the decoders, the backend) is imported in a process of its own.
    """
    yield check_python(sys.version_info[:2])
    yield Finding("system", OK, f"{platform.platform()}, {os.cpu_count()} processors")
    yield from check_packages()
    yield from check_decoders()
    yield from check_backend(backend)
    yield check_disk(folder)
    yield check_credentials(os.environ, Path.home())
    yield check_dask(os.environ)


def check_python(version: tuple[int, int]) -> Finding:
    """Tell whether this Python is one that medkit is tested with."""
    first, end = _PYTHONS
    detail = platform.python_version()
    if first <= version < end:
        return Finding("Python", OK, detail)
    wanted = f"{first[0]}.{first[1]} up to {end[0]}.{end[1] - 1}"
    return Finding("Python", PROBLEM, f"{detail}; medkit needs {wanted}")


def check_packages() -> Iterator[Finding]:
    """Yield the version of each package that medkit states it needs, and of those it can use."""
    try:
        requirements = metadata.requires("medkit") or []
    except metadata.PackageNotFoundError:
        yield Finding("medkit", NOTE, "runs from its folder; install it to have its needs checked")
        return
    yield Finding("medkit", OK, metadata.version("medkit"))
    for requirement in sorted(requirements):
        extra = _extra_of(requirement)
        if extra != "test":
            yield _check_package(_name_of(requirement), extra)


def check_decoders() -> Iterator[Finding]:
    """Yield what decodes each group of transfer syntaxes, or that nothing does."""
    try:
        versions, _ = _probe(_PROBE_DECODERS.format(names=list(DECODERS)))
    except _PROBE_ERRORS as error:
        yield Finding("decoders", PROBLEM, f"imagecodecs does not start: {error}")
        return
    for name, (topic, endings) in DECODERS.items():
        syntaxes = ", ".join(f"1.2.840.10008.1.2{ending}" for ending in endings)
        if name in versions:
            yield Finding(topic, OK, f"{versions[name]}, for {syntaxes}")
        else:
            yield Finding(topic, NOTE, f"this imagecodecs is built without it; none for {syntaxes}")


def check_backend(backend: str) -> Iterator[Finding]:
    """Yield whether Keras starts with its backend, and which GPUs that sees, or why none."""
    if not _is_installed(backend):
        missing = "Keras" if find_spec("keras") is None else "TensorFlow, JAX or PyTorch for Keras"
        yield Finding("Keras", NOTE, f"{missing} is not installed; some trainers need it")
        return
    try:
        facts, why = _ask_backend(backend)
    except _PROBE_ERRORS as error:
        yield Finding("Keras", PROBLEM, f"does not start with {backend}: {error}")
        return
    version = f"{backend} {facts['version']}"
    if facts["keras"]:
        yield Finding("Keras", OK, f"{facts['keras']}, on {version}")
    else:
        yield Finding("Keras", NOTE, f"not installed, some trainers need it; {version} is")
    if facts["gpus"]:
        yield Finding("GPU", OK, ", ".join(facts["gpus"]))
    else:
        yield Finding("GPU", NOTE, f"none, training uses the processors: {why}")


@cache
def look_for_gpus(backend: str, python: str = "") -> tuple[list[str], str]:
    """Return the names of the GPUs that a backend sees, and why it sees none.

    Parameters
    ----------
    backend : str
        ``"tensorflow"``, ``"jax"``, ``"torch"`` or ``"none"``. It is asked in a process of its own,
        once, and needs no Keras.
    python : str
        The interpreter of another environment, whose backend it is.
    """
    if backend not in _PROBES or not (python or _is_installed(backend)):
        return [], "TensorFlow, JAX or PyTorch is not installed"
    try:
        facts, why = _ask_backend(backend, python)
    except _PROBE_ERRORS as error:
        return [], f"{backend} does not start: {error}"
    return facts["gpus"], why


def _is_installed(backend: str) -> bool:
    """Tell whether it, or Keras, which must then start with it, can be imported here."""
    return backend in _PROBES and any(find_spec(name) for name in ("keras", backend))


def _ask_backend(backend: str, python: str = "") -> tuple[dict[str, Any], str]:
    """Return what a backend says of itself, and why it sees no GPU if it sees none."""
    facts, log = _probe(
        _PROBE_BACKEND.format(probe=_PROBES[backend]),
        KERAS_BACKEND=backend,
        TF_CPP_MIN_LOG_LEVEL="0",
        XLA_PYTHON_CLIENT_PREALLOCATE="false",  # others may be at work on the same card
        python=python,
    )
    if facts["gpus"]:
        return facts, ""
    return facts, explain_missing_gpu(backend, facts["built"], log, _has_driver(), os.environ)


def explain_missing_gpu(
    backend: str, built: bool, log: str, driver: bool, environment: Mapping[str, str]
) -> str:
    """Return why a backend sees no GPU.

    Parameters
    ----------
    backend : str
        Its name.
    built : bool
        Whether it was built for CUDA.
    log : str
        What it wrote to standard error when it started.
    driver : bool
        Whether an NVIDIA driver is there.
    environment : mapping
        Variables of the process.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides them"
    if not driver:
        return "there is no NVIDIA driver here (neither nvidia-smi nor /proc/driver/nvidia)"
    if not built:
        return f"this {backend} is built without CUDA; install its CUDA build"
    if "Cannot dlopen" in log:
        return "CUDA libraries are missing; pip install 'tensorflow[and-cuda]'"
    return "the driver is there, and the backend reports no device; nvidia-smi may say more"


def check_disk(folder: Path) -> Finding:
    """Tell how much room the workspace has, and whether it can be written."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1e9:,.1f} GB free in {existing}"
    if not os.access(existing, os.W_OK):
        return Finding("workspace", PROBLEM, f"{existing} cannot be written; use another with -w")
    return Finding("workspace", OK if free >= _SPACE_TO_WARN else NOTE, detail)


def check_credentials(environment: Mapping[str, str], home: Path) -> Finding:
    """Tell which credentials are there, by name; no value is read."""
    names = [name for name in _CREDENTIAL_VARIABLES if name in environment]
    names += [f"~/{name}" for name in _CREDENTIAL_FILES if (home / name).is_file()]
    return Finding("credentials", OK, ", ".join(names) or "none found, and none is needed")


def check_dask(environment: Mapping[str, str]) -> Finding:
    """Tell whether Dask is installed, and whether the scheduler that is set answers."""
    address = environment.get("DASK_SCHEDULER_ADDRESS", "")
    if find_spec("distributed") is None:
        detail = "not installed; pip install 'medkit[dask]' to work on several machines"
        return Finding("Dask", NOTE if address else OK, detail)
    version = metadata.version("distributed")
    if not address:
        return Finding("Dask", OK, f"{version}, no scheduler set in DASK_SCHEDULER_ADDRESS")
    if _answers(address):
        return Finding("Dask", OK, f"{version}, the scheduler {address} answers")
    return Finding("Dask", NOTE, f"{version}, the scheduler {address} does not answer")


def _probe(script: str, python: str = "", **environment: str) -> tuple[dict[str, Any], str]:
    """Run a script in a process of its own; return the JSON it ends with, and its errors' text."""
    done = subprocess.run(
        [python or sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
        env=os.environ | environment,
    )
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ValueError(last or f"its process ended with {done.returncode}")
    return json.loads(done.stdout.strip().rpartition("\n")[2]), done.stderr


def _has_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _answers(address: str) -> bool:
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        with socket.create_connection((parts.hostname or "", parts.port or 8786), timeout=3):
            return True
    except (OSError, ValueError):
        return False


def _check_package(name: str, extra: str) -> Finding:
    try:
        return Finding(name, OK, metadata.version(name))
    except metadata.PackageNotFoundError:
        if extra:
            return Finding(name, OK, f"not installed; comes with medkit[{extra}]")
        return Finding(name, PROBLEM, f"missing; pip install {name}")


def _name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def _extra_of(requirement: str) -> str:
    found = re.search(r"extra\s*==\s*['\"](\w+)", requirement)
    return found[1] if found else ""
