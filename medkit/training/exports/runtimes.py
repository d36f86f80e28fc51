"""The forms a model is exported in, and each form's own runtime, which reads it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.workspace import describe_versions

if TYPE_CHECKING:
    import keras

Pixels = npt.NDArray[np.float32]
Runtime = Callable[[Pixels], npt.NDArray[np.float32]]

# What goes into an exported model, and what comes out of it, by name.
INPUT, OUTPUT = "pixels", "probabilities"

_WRITER = {"keras": "keras", "tensorflow": "tensorflow"}


@dataclass(frozen=True)
class Form:
    """A form of exported models.

    Attributes
    ----------
    file : str
        What it is called in the folder of an export.
    name : str
        What Keras calls the form.
    needs : mapping of str to str
        Modules that write and run it, and what to install where one is missing.
    open : callable
        Takes the path of an exported model and a number of threads, and returns a function from
        pixels (n, H, W, C) to probabilities (n, classes).
    """

    file: str
    name: str
    needs: Mapping[str, str]
    open: Callable[[Path, int], Runtime]

    def write(self, network: keras.Model, folder: Path) -> Path:
        """Write a network into a folder and return where it is."""
        path = folder / self.file
        network(np.zeros((1, *network.input_shape[1:]), np.float32))  # or Keras refuses to
        network.export(str(path), format=self.name, verbose=False)
        return path


def find_form(name: str) -> Form:
    """Return the form of a name, if what it needs is installed.

    Raises
    ------
    UsageError
        If there is no such form, or a package is missing.
    """
    if name not in FORMS:
        raise UsageError(f"there is no form {name!r}; use {', '.join(FORMS)}")
    form = FORMS[name]
    for module, package in form.needs.items():
        if find_spec(module) is None:
            raise UsageError(
                f"--format {name} needs {module}, which is not installed: pip install '{package}'"
            )
    return form


def _open_saved_model(path: Path, threads: int) -> Runtime:
    import tensorflow

    loaded = tensorflow.saved_model.load(str(path))

    def run(pixels: Pixels) -> npt.NDArray[np.float32]:
        # Through `loaded`: a signature alone does not keep its variables alive.
        found = loaded.signatures["serving_default"](pixels=tensorflow.constant(pixels))
        return np.asarray(found[OUTPUT])

    return run


def _open_onnx(path: Path, threads: int) -> Runtime:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])


def _open_litert(path: Path, threads: int) -> Runtime:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path), num_threads=threads).get_signature_runner()
    return lambda pixels: np.asarray(runner(pixels=pixels)[OUTPUT])


FORMS: dict[str, Form] = {
    "savedmodel": Form("savedmodel", "tf_saved_model", _WRITER, _open_saved_model),
    "onnx": Form(
        "model.onnx",
        "onnx",
        _WRITER | dict.fromkeys(("tf2onnx", "onnx", "onnxruntime"), "medkit[onnx]"),
        _open_onnx,
    ),
    "litert": Form(
        "model.tflite", "litert", _WRITER | {"ai_edge_litert": "medkit[litert]"}, _open_litert
    ),
}


def describe_runtime(name: str) -> dict[str, str]:
    """Return the versions of what writes and runs a form, by distribution."""
    modules = [module.replace("_", "-") for module in FORMS[name].needs]
    versions = describe_versions("numpy", *modules)
    # It has the version of this machine's kernel, which is nobody else's business.
    del versions["platform"]
    return versions
