"""The frameworks a new trainer can begin with, and what its distribution is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Framework:
    """What differs between distributions.

    Attributes
    ----------
    title : str
        The framework's name in a sentence.
    summary : str
        What the trainer is, in a line.
    requirements : tuple of str
        Of the distribution, besides medkit and NumPy.
    untyped : tuple of str
        Modules without type information, as mypy names them.
    sources : dict of str to (str, str)
        For each module of the package, the folder of its template and what it holds.
    quick : dict of str to str
        Options with which the tests take seconds.
    begin : str
        What to change first, for the README.
    """

    title: str
    summary: str
    requirements: tuple[str, ...]
    untyped: tuple[str, ...]
    sources: dict[str, tuple[str, str]]
    quick: dict[str, str]
    begin: str


# Enough to learn something in.
_QUICK = {"size": "16", "epochs": "8", "batch_size": "8", "learning_rate": "0.01"}
_OPTIONS = "the options, and the trainer that medkit asks; light to import"
_MODEL = "the trained model: how it comes about, predicts and is kept"
_LOOP = "epochs, early stopping, a checkpoint after each; knows no framework"
_EPOCHS = (
    "`build_network` in `network.py` is the network: change it, and give what you vary a field in "
    "`Options` of `__init__.py`, which makes it an option of `-p`. "
)

FRAMEWORKS = {
    "keras": Framework(
        "Keras",
        "A small convolutional network in Keras",
        ("keras>=3.13.2",),
        ("keras.*",),
        {
            "__init__.py": ("keras", _OPTIONS),
            "network.py": ("keras", "the network"),
            "model.py": ("keras", _MODEL),
        },
        _QUICK | {"blocks": "8,16"},
        _EPOCHS + "Epochs, checkpoints and saving are medkit's own (`medkit.networks`), for every "
        "backend of Keras: install TensorFlow, JAX or PyTorch beside it.",
    ),
    "torch": Framework(
        "PyTorch",
        "A small convolutional network in PyTorch",
        ("torch>=2.6",),
        ("torch.*",),
        {
            "__init__.py": ("torch", _OPTIONS),
            "network.py": ("torch", "the network"),
            "learning.py": ("torch", "how it learns from a batch: the loss and the optimiser"),
            "fitting.py": ("loop", _LOOP),
            "model.py": ("torch", _MODEL),
        },
        _QUICK | {"blocks": "8,16"},
        _EPOCHS + "`Learner` in `learning.py` has the loss and the optimiser.",
    ),
    "jax": Framework(
        "JAX",
        "A small multilayer perceptron in JAX",
        ("jax>=0.6",),
        ("jax.*",),
        {
            "__init__.py": ("jax", _OPTIONS),
            "network.py": ("jax", "the network, and how it learns from a batch"),
            "fitting.py": ("loop", _LOOP),
            "model.py": ("jax", _MODEL),
        },
        _QUICK | {"hidden": "32"},
        "`init_weights` and `apply_network` in `network.py` are the network: change them, and give "
        "what you vary a field in `Options` of `__init__.py`, which makes it an option of `-p`. "
        "`_step` has the optimiser.",
    ),
    "sklearn": Framework(
        "scikit-learn",
        "A random forest on outlines and brightness, by scikit-learn",
        ("scikit-learn>=1.7",),
        ("sklearn.*",),
        {
            "__init__.py": ("sklearn", _OPTIONS),
            "features.py": ("features", "what is seen of an image, a row each"),
            "trees.py": ("features", "trees as arrays, which predict without scikit-learn"),
            "forest.py": ("sklearn", _MODEL),
        },
        {"trees": "20", "depths": "2,4"},
        "`describe_images` in `features.py` is what the forest sees: add what your images tell, "
        "and raise the number in `feature_spec`, so that rows kept from before are not used. "
        "`_fit_trees` in `forest.py` is the classifier; another one is kept as the arrays that it "
        "predicts by.",
    ),
}
