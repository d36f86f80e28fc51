"""What every trainer has to keep: each check is a function of its trials, and says what it found.

A check returns a sentence where the promise is kept, raises `Broken` where it is not, and
`Unasked` where there is nothing to check: the trainer has no such part, or did not get that far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from medkit.testing.evidence import (
    Broken,
    Unasked,
    count_units_after_stop,
    count_work,
    expect_done,
    expect_finite,
    expect_fold,
    expect_probabilities,
    expect_same,
    expect_shape,
    find_order,
    fitted,
    introduce,
    list_predictions,
    make,
    measure_gap,
)
from medkit.testing.introduction import TASKS
from medkit.testing.material import CLASSES
from medkit.testing.trials import LACKING, OTHER, SEVERAL, UNCHOSEN, WHOLE, Trial, Trials

# How far a model that was read back may be from the one that was saved, in probability.
SAVED = 1e-6
_MODULES = 250  # that loading a plugin may import
_SHARE = 0.5  # of the bytes of the images, as float32, that memory may grow by
_LEARNED = 0.75  # mean area under the curve from which on a trainer has learned something
_PLACES = {"home": "~", "tmp": "the folder of temporary files", "cwd": "the current folder"}
_CLOSER = 0.1  # of that area, by which another order has to fit better


def check_loading(trials: Trials) -> str:
    """Load the plugin, in a process of its own: it has to be a trainer, and print nothing."""
    about = trials.about
    if "error" in about:
        raise Broken(about["error"])
    unknown = sorted(set(about.get("tasks", ())) - TASKS)
    if unknown:
        raise Broken(f"'tasks' has {unknown}; known are {sorted(TASKS)}")
    return f"it does {', '.join(about.get('tasks', ()))}" if "tasks" in about else "it loads"


def check_import(trials: Trials) -> str:
    """Load the plugin: it has to import nothing heavy, because ``--help`` loads it too."""
    about = introduce(trials)
    if about["heavy"]:
        raise Broken(
            f"loading it imports {', '.join(about['heavy'])}; import these inside the functions "
            "that use them"
        )
    if about["modules"] > _MODULES:
        raise Broken(f"loading it imports {about['modules']} modules; {_MODULES} are allowed")
    return f"loading it imports {about['modules']} modules, none of them heavy"


def check_options(trials: Trials) -> str:
    """Read the options: a frozen dataclass of typed and documented fields with defaults.

    What it has not is refused, and what it has comes back from JSON as it was.
    """
    about = introduce(trials)
    if about["problems"]:
        raise Broken("; ".join(about["problems"]))
    return f"{len(about['options'])} options: {', '.join(about['options']) or 'none'}"


def check_fitting(trials: Trials) -> str:
    """Fit two folds one after the other, save, load and predict, within the time allowed."""
    expect_done(make(trials, "whole"), "", WHOLE, OTHER)
    return "two folds were fitted, saved, loaded and tested"


def check_shape(trials: Trials) -> str:
    """Predict: an array of floating-point numbers, a row an image and a column a class."""
    shapes = {expect_shape(values, rows).shape for values, rows in list_predictions(trials)}
    return f"predictions of shape {', '.join(map(str, sorted(shapes)))}"


def check_finite(trials: Trials) -> str:
    """Predict: no NaN and no infinity."""
    for values, _ in list_predictions(trials):
        expect_finite(values)
    return "all probabilities are finite numbers"


def check_probabilities(trials: Trials) -> str:
    """Predict: from 0 to 1, and rows that sum to 1 unless an image has several labels."""
    for values, _ in list_predictions(trials):
        expect_probabilities(values, trials.several)
    return "from 0 to 1" + ("" if trials.several else ", and rows sum to 1")


def check_class_order(trials: Trials) -> str:
    """Predict images that are easy to tell apart: columns stand in the order of ``classes``."""
    tested = [trials.divide(fold)["test"]["images"] for fold in (WHOLE, OTHER)]
    values = [expect_shape(values, rows) for values, rows in list_predictions(trials)]
    labels = trials.grey.label(np.concatenate(tested))
    found, ranks = find_order(np.nan_to_num(np.concatenate(values)), labels)
    asked = tuple(range(len(CLASSES)))
    if ranks[found] < _LEARNED:
        raise Unasked(
            f"it learned too little here to tell (mean area under the curve {ranks[found]:.2f}); "
            "give options with which it learns, such as more epochs"
        )
    if ranks[found] - ranks[asked] > _CLOSER:
        raise Broken(
            f"the columns are those of {', '.join(CLASSES[kind] for kind in found)}, and the "
            f"classes are {', '.join(CLASSES)}: mean area under the curve {ranks[asked]:.2f}, and "
            f"{ranks[found]:.2f} in that order"
        )
    return f"columns are in order (mean area under the curve {ranks[asked]:.2f})"


def check_seed(trials: Trials) -> str:
    """Fit the same folds again, in the other order: the same predictions, to the last bit."""
    first, second = fitted(trials), make(trials, "again")
    expect_done(second, "fitted again, in the other order, ")
    gap = max(
        measure_gap(first.predictions(fold), second.predictions(fold)) for fold in (WHOLE, OTHER)
    )
    if gap > 0:
        raise Broken(
            f"the same folds with the same seed, fitted in the other order, are predicted "
            f"otherwise (a probability differs by {gap:.2g}); all that is random has to follow "
            "from run.seed, and nothing may be left over from the fold before"
        )
    return "the same folds in another order and process: the same predictions"


def check_saving(trials: Trials) -> str:
    """Read the model back, in the same process and in a new one: the same predictions."""
    first = fitted(trials)
    for note in first.find("reloaded"):
        _expect_saved(note["difference"], "in the process that saved it")
    again = make(trials, "reread")
    expect_done(again, "read back in a new process, ")
    values = np.load(again.folder / "0.npy", allow_pickle=False)
    gap = measure_gap(first.predictions(WHOLE), values)
    _expect_saved(gap, "in a new process")
    return "read back, it predicts the same" + (f" within {gap:.1g}" if gap else "")


def _expect_saved(gap: float | None, where: str) -> None:
    if gap is None or gap > SAVED:
        by = "in shape" if gap is None else f"by {gap:.2g}"
        raise Broken(
            f"read back {where}, the model predicts otherwise ({by}); save all that predictions "
            "depend on, also the view of the images"
        )


def check_pickle(trials: Trials) -> str:
    """Read the model back: nothing is unpickled, because that runs whatever the file says."""
    found = sorted({note["name"] for note in fitted(trials).find("unpickled")})
    if found:
        raise Broken(
            f"load unpickles ({', '.join(found[:3])}); keep JSON and arrays: "
            "np.save(..., allow_pickle=False), .safetensors, torch.load(weights_only=True)"
        )
    return "nothing is unpickled"


def check_single(trials: Trials) -> str:
    """Predict one image alone: one row, the same as among others."""
    expect_same(trials, _find_source(trials), "alone")
    return "one image alone is as it is among others"


def check_batches(trials: Trials) -> str:
    """Predict some images, and all of them backwards: each as before."""
    for how in ("half", "backwards"):
        expect_same(trials, _find_source(trials), how)
    return "what is predicted of an image does not depend on the others"


def _find_source(trials: Trials) -> str:
    """Of a trainer that has features alone, predictions are the host's."""
    return "features" if introduce(trials).get("linear") else "predictions"


def check_features(trials: Trials) -> str:
    """Compute features of one image, of some, and of all backwards: rows of those of all."""
    if introduce(trials).get("spec") is None:
        raise Unasked("it has no features")
    for how in ("alone", "half", "backwards"):
        expect_same(trials, "features", how)
    return "features of an image do not depend on the others"


def check_input(trials: Trials) -> str:
    """Fit and predict: labels, persons, weights, features and table stay as they were."""
    trial = fitted(trials)
    found = sorted({(note["part"], note["during"]) for note in trial.find("changed")})
    if found:
        what, during = found[0]
        raise Broken(f"{during} changes the {what} that it is given; change a copy")
    return "what it is given stays as it was"


def check_writing(trials: Trials) -> str:
    """Fit, save, load and predict: nothing is written outside the folder of the fold."""
    trial = fitted(trials)
    found = sorted({note["path"] for note in trial.find("stray")} | set(trial.strays))
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise Broken(
            f"it writes {_shorten(found[0], trial)}{more}; the one place to write is run.folder, "
            "and for a temporary file the folder of `tempfile`, in which nothing may be left"
        )
    return "nothing is written outside the folder of the fold"


def check_printing(trials: Trials) -> str:
    """Load, fit and predict: nothing is printed on standard output."""
    trial = fitted(trials)
    printed = (introduce(trials)["printed"] + trial.printed).strip()
    if printed:
        line = printed.splitlines()[0][:80]
        raise Broken(f"it prints {line!r} on standard output; use run.log, which is the run's log")
    return "standard output stays empty"


def check_leaving(trials: Trials) -> str:
    """Fit: the child ends when it is done, and no process that it started goes on."""
    trial = make(trials, "whole")
    if trial.left:
        raise Broken(
            f"{len(trial.left)} process(es) go on after the fit, the first is "
            f"{trial.left[0][:80]!r}; end what you start, also when the fit fails"
        )
    return "no process is left"


def check_resuming(trials: Trials) -> str:
    """Kill the fit in the middle and ask for it again: the same result as unbroken.

    A trainer that keeps checkpoints has to go on from one: it has less to report the second time.
    """
    whole = fitted(trials)
    if trials.about["linear"]:
        raise Unasked("the host fits it, and goes on where it was killed")
    killed, resumed = make(trials, "killed"), make(trials, "resumed")
    if WHOLE not in killed.errors:
        raise Unasked("its fit could not be killed: it reports nothing before it is done")
    expect_done(resumed, "killed in the middle and started again, ")
    gap = measure_gap(whole.predictions(WHOLE), resumed.predictions(WHOLE))
    tolerance = float(trials.about.get("resume_tolerance") or 0.0)
    if gap > tolerance:
        raise Broken(
            f"killed in the middle and started again, it predicts otherwise (a probability differs "
            f"by {gap:.2g}); a checkpoint has to hold weights, optimiser, random state and epoch"
        )
    kept = [note for note in killed.find("report") if note["kept"]]
    second, total = count_work(resumed), count_work(whole)
    if kept and second >= total > 0:
        raise Broken(
            f"it left checkpoints and began from the start: it told {second} times how far it is, "
            f"and {total} times in an unbroken fit"
        )
    how = "goes on from its checkpoint" if kept else "starts again (it keeps no checkpoints)"
    return f"killed in the middle, it {how} and ends with the same result"


def check_stopping(trials: Trials) -> str:
    """Stop the fit in the middle: it leaves in time, and nothing of it goes on."""
    fitted(trials)
    if trials.about["linear"]:
        raise Unasked("the host fits it, and stops it")
    trial = make(trials, "stopped")
    if trial.left:
        raise Broken(f"stopped in the middle, it leaves {trial.left[0][:80]!r} behind")
    units = count_units_after_stop(trial)
    if trial.late or units > 1:
        how = "until it is killed" if trial.late else f"for {units} more epochs or steps"
        raise Broken(
            f"asked to stop, it goes on {how}; look at run.stopping() in each, and raise "
            "medkit.errors.TrainingError"
        )
    return f"stopped in the middle, it left after {trial.lingered:.1f} s"


def check_lacking(trials: Trials) -> str:
    """Fit where no training image has one of the classes: it still has a column."""
    expect_fold(trials, "where one class has no training image, ", LACKING)
    return "a class without training images has its column"


def check_unchosen(trials: Trials) -> str:
    """Fit without a validation part."""
    expect_fold(trials, "without a validation part, ", UNCHOSEN)
    return "it needs no validation part"


def check_colour(trials: Trials) -> str:
    """Fit images in colour."""
    expect_fold(trials, "of images in colour, ", WHOLE, "colour")
    return "images in colour are fitted and predicted"


def check_several(trials: Trials) -> str:
    """Fit several labels an image, some of them not known, where ``tasks`` says so."""
    if "multilabel" not in introduce(trials).get("tasks", ()):
        raise Unasked("it does not do 'multilabel'")
    expect_fold(trials, "where images have several labels, ", SEVERAL)
    return "several labels an image are fitted and predicted"


def check_memory(trials: Trials) -> str:
    """Predict few images and many: memory does not grow by what the images are."""
    fitted(trials)
    trial = make(trials, "weighed")
    expect_done(trial, "asked for many images, ")
    notes = [note for note in trial.find("weighed") if note["peak_many"] is not None]
    if not notes:
        raise Unasked("this system does not say how much memory a process has taken")
    for note in notes:
        grown = note["peak_many"] - note["peak_few"]
        whole = (note["many"] - note["few"]) * note["image"]
        if grown > _SHARE * whole:
            raise Broken(
                f"with {note['many']} images in place of {note['few']} it takes "
                f"{grown / 1e6:.0f} MB more, and these are {whole / 1e6:.0f} MB; go through "
                "images.batches(64)"
            )
    worst = max(note["peak_many"] - note["peak_few"] for note in notes)
    return (
        f"{notes[0]['many']} images take {max(worst, 0) / 1e6:.0f} MB more than {notes[0]['few']}"
    )


def check_maps(trials: Trials) -> str:
    """Explain, where the model does: finite maps, one an image."""
    fitted(trials)
    trial = make(trials, "reread")
    for note in trial.find("error", how="explain"):
        raise Broken(f"explain raised {note['error']}")
    notes = trial.find("explained")
    if not notes:
        raise Unasked("the model has no 'explain'; the host covers parts of its images")
    shape = notes[0]["shape"]
    if len(shape) != 3 or shape[0] != notes[0]["images"]:
        raise Broken(
            f"explain gave shape {tuple(shape)} for {notes[0]['images']} images; "
            "it must give (n, H, W)"
        )
    if not notes[0]["finite"]:
        raise Broken("explain gave NaN, infinity, or no numbers")
    return f"maps of {shape[1]} x {shape[2]}"


def _shorten(path: str, trial: Trial) -> str:
    """Return a path as a person would know it: the kit's own folders by what they stand for."""
    for name in ("home", "tmp", "cwd"):
        path = path.replace(f"{trial.folder}-scratch/{name}", _PLACES[name])
    return path


# Every check by its name, in the order in which a person would read what they found.
CHECKS: Mapping[str, Callable[[Trials], str]] = {
    "loading": check_loading,
    "import": check_import,
    "options": check_options,
    "fitting": check_fitting,
    "shape": check_shape,
    "finite": check_finite,
    "probabilities": check_probabilities,
    "class-order": check_class_order,
    "seed": check_seed,
    "saving": check_saving,
    "pickle": check_pickle,
    "single": check_single,
    "batches": check_batches,
    "features": check_features,
    "input": check_input,
    "writing": check_writing,
    "printing": check_printing,
    "leaving": check_leaving,
    "resuming": check_resuming,
    "stopping": check_stopping,
    "lacking": check_lacking,
    "unchosen": check_unchosen,
    "colour": check_colour,
    "several": check_several,
    "memory": check_memory,
    "maps": check_maps,
}
