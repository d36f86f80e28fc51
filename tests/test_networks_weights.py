"""Files of weights: what is kept reads back, and what a hostile file holds never reaches Keras."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.errors import TrainingError, WorkspaceError
from medkit.networks.saving import load_weights, read_description, save_network
from medkit.networks.weightfile import check_file, read_weights

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

# Keras reads TensorFlow's variables in a way that NumPy 2 calls old; as it fails, it warns too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping nested container"),
]

WEIGHTS = "network.weights.h5"
KERNEL = "layers/dense/vars/0"


def make_network(units: int = 3, seed: int = 1) -> Any:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Input((4,)), keras.layers.Dense(units, name="probabilities")]
    return keras.Sequential(layers, name="network")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_network(tmp_path, {"params": {"size": 8}}, make_network())
    return tmp_path


def test_a_network_is_a_description_and_weights_and_reads_back(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["network.json", WEIGHTS]
    description = read_description(folder)
    assert description["params"] == {"size": 8}
    assert (description["shape"], description["classes"]) == ([4], 3)
    other = make_network(seed=2)
    load_weights(folder, other)
    pairs = zip(other.get_weights(), make_network().get_weights(), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


def test_weights_that_were_changed_or_are_missing_are_refused(folder: Path) -> None:
    make_network(seed=3).save_weights(folder / WEIGHTS, overwrite=True)
    with pytest.raises(TrainingError, match=r"its hash is not the one in network.json"):
        load_weights(folder, make_network())
    (folder / WEIGHTS).unlink()
    with pytest.raises(TrainingError, match=r"does not hold the weights.*no such file"):
        load_weights(folder, make_network())


def test_descriptions_of_another_format_are_refused(folder: Path) -> None:
    for content in ([], {"format": 1}):
        (folder / "network.json").write_text(json.dumps(content))
        with pytest.raises(TrainingError, match=r"not of format 2.*train again"):
            read_description(folder)
    (folder / "network.json").unlink()
    with pytest.raises(WorkspaceError, match="missing"):
        read_description(folder)


@pytest.mark.parametrize("units", [2, 4])
def test_weights_of_another_shape_are_refused(folder: Path, units: int) -> None:
    with pytest.raises(TrainingError, match="does not hold the weights of this network"):
        read_weights(folder / WEIGHTS, make_network(units))


def replace_kernel(make: Callable[[Any, Path], None]) -> Callable[[Path], None]:
    """Return what puts something else where a file of weights has its kernel."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            name = find_kernel(file)
            del file[name]
            make(file, path.parent, name)

    return spoil


def find_kernel(file: Any) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return names[0]


def secret(folder: Path) -> Path:
    """Return another HDF5 file of the user's, with numbers of the right shape."""
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["values"] = np.zeros((4, 3), np.float32)
    return path


def external_link(file: Any, folder: Path, name: str) -> None:
    file[name] = h5py.ExternalLink(secret(folder), "values")


def soft_link(file: Any, folder: Path, name: str) -> None:
    file["elsewhere"] = np.zeros((4, 3), np.float32)
    file[name] = h5py.SoftLink("/elsewhere")


def virtual_dataset(file: Any, folder: Path, name: str) -> None:
    layout = h5py.VirtualLayout((4, 3), np.float32)
    layout[:] = h5py.VirtualSource(secret(folder), "values", shape=(4, 3))
    file.create_virtual_dataset(name, layout)


def external_storage(file: Any, folder: Path, name: str) -> None:
    (folder / "raw").write_bytes(bytes(48))
    file.create_dataset(name, (4, 3), np.float32, external=[(str(folder / "raw"), 0, 48)])


def bomb(file: Any, folder: Path, name: str) -> None:
    zeros = np.zeros((1 << 12, 1 << 10), np.float32)
    file.create_dataset(name, data=zeros, compression="gzip")


def declared_only(file: Any, folder: Path, name: str) -> None:
    file.create_dataset(name, (1 << 40, 1 << 20), np.float32, chunks=(1 << 10, 1 << 10))


def text(file: Any, folder: Path, name: str) -> None:
    file[name] = np.array(["rm -rf"], dtype=object)


def reference(file: Any, folder: Path, name: str) -> None:
    file[name] = np.array([file.ref], dtype=h5py.ref_dtype)


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", '{"class_name": "Lambda"}')


HOSTILE = {
    external_link: "points elsewhere .ExternalLink",
    soft_link: "points elsewhere .SoftLink",
    virtual_dataset: "put together from other datasets",
    external_storage: "stored in other files",
    bomb: "declare 16,777,216 bytes or more",
    declared_only: "declare 4,611,686,018,427,387,904 bytes or more",
    text: "is of object, not numbers",
    reference: "is of object, not numbers",
}


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a network that must not be asked to load anything."""
    network = make_network()

    def load(*_: Any, **__: Any) -> None:
        pytest.fail("the file reached Keras")

    monkeypatch.setattr(type(network), "load_weights", load)
    yield network


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_hostile_files_are_refused_before_keras_sees_them(
    folder: Path, make: Any, untouched: Any
) -> None:
    check_file(folder / WEIGHTS)
    replace_kernel(make)(folder / WEIGHTS)
    before = untouched.get_weights()
    with pytest.raises(TrainingError, match=f"is refused: .*{HOSTILE[make]}"):
        read_weights(folder / WEIGHTS, untouched)
    assert all(np.array_equal(*pair) for pair in zip(before, untouched.get_weights(), strict=True))


def test_archives_and_other_files_are_refused_before_keras_sees_them(
    folder: Path, untouched: Any
) -> None:
    path = folder / WEIGHTS
    whole = path.read_bytes()
    archive(path)
    with pytest.raises(TrainingError, match=r"is an archive, as .keras models are"):
        read_weights(path, untouched)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(TrainingError, match="no HDF5 file"):
        read_weights(path, untouched)
    path.write_bytes(whole[:-100])
    with pytest.raises(TrainingError, match="cannot be read as HDF5"):
        read_weights(path, untouched)


def test_a_file_whose_groups_hold_each_other_is_walked_once(folder: Path) -> None:
    with h5py.File(folder / WEIGHTS, "r+") as file:
        loop = file.create_group("loop")
        loop["again"] = loop
        loop["top"] = file["/"]
    check_file(folder / WEIGHTS)


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    with h5py.File(folder / WEIGHTS, "r+") as file:
        file[find_kernel(file)][0] = np.nan
    with pytest.raises(TrainingError, match="missing or no numbers"):
        read_weights(folder / WEIGHTS, make_network())
