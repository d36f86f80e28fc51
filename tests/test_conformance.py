"""The conformance kit: it passes trainers that keep every promise, and names what others break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from brokentrainers import FOLDER, GOOD, NAMES, install

from medkit.cli import main
from medkit.errors import UsageError
from medkit.testing import CHECKS, TrainerConformance, check_trainer
from medkit.testing.conformance import NAMES as TESTED
from medkit.testing.conformance import run_check
from medkit.testing.evidence import find_order
from medkit.testing.examination import TASKS, fingerprint
from medkit.testing.material import CLASSES, Material, make_material
from medkit.testing.trials import LACKING, UNCHOSEN, WHOLE, Trials
from medkit.testing.watching import end_marked, list_marked

# What each broken trainer breaks.
TWELVE = {
    "ignores_seed": "seed",
    "wrong_order": "class-order",
    "unnormalised": "probabilities",
    "heavy_import": "import",
    "writes_outside": "writing",
    "no_resume": "resuming",
    "gives_nan": "finite",
    "leaks_process": "leaving",
    "prints": "printing",
    "mutates_input": "input",
    "batch_features": "features",
    "unbounded_memory": "memory",
}
MORE = {
    "batch_predictions": "batches",
    "carries_over": "seed",
    "exits": "fitting",
    "forgets": "saving",
    "grey_only": "colour",
    "hangs": "fitting",
    "hangs_on_import": "loading",
    "needs_every_class": "lacking",
    "needs_validation": "unchosen",
    "never_stops": "stopping",
    "one_label": "several",
    "pickles": "pickle",
    "raises_on_import": "loading",
    "squeezes": "single",
    "undocumented": "options",
    "wrong_maps": "maps",
    "wrong_resume": "resuming",
    "wrong_shape": "shape",
}
# What else follows from what is broken.
ALSO = {
    "batch_features": {"single", "saving"},
    "batch_predictions": {"single", "saving"},
    "ignores_seed": {"resuming"},
    "carries_over": {"resuming"},
    "gives_nan": {"single", "batches", "colour", "lacking", "unchosen", "several"},
    "leaks_process": {"stopping"},
    "undocumented": {"loading"},
    "unnormalised": {"lacking", "unchosen", "colour"},
    "wrong_shape": {"class-order", "lacking", "unchosen", "colour", "several"},
    "squeezes": set[str](),
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Material, Material]:
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for place in install(tmp_path_factory.mktemp("site")):
            patch.syspath_prepend(place)
        yield


@pytest.fixture
def trials(tmp_path: Path, material: tuple[Material, Material]) -> Trials:
    return Trials("reference", {}, tmp_path, material=material)


def find(name: str, check: str, folder: Path, material: tuple[Material, Material]) -> str:
    """Return what a check finds broken; empty if it passes."""
    seconds = 8.0 if name.startswith("hangs") else 120.0
    finding = run_check(Trials(name, {}, folder, seconds, material), check)
    return finding.message if finding.passed is False else ""


def test_every_broken_trainer_has_its_check() -> None:
    assert set(TWELVE) | set(MORE) | set(GOOD) == set(NAMES)
    assert set(CHECKS) == {*TWELVE.values(), *MORE.values()}


def test_a_trainer_that_keeps_every_promise_passes(trials: Trials) -> None:
    findings = {check: run_check(trials, check) for check in CHECKS}
    assert [one for one in findings.values() if one.passed is False] == []
    unasked = {check for check, finding in findings.items() if finding.passed is None}
    assert unasked == {"features"}


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
def test_a_trainer_with_features_passes(
    tmp_path: Path, material: tuple[Material, Material]
) -> None:
    trials = Trials("featured", {}, tmp_path, material=material)
    findings = [run_check(trials, check) for check in CHECKS]
    assert [one for one in findings if one.passed is False] == []
    assert {finding.check for finding in findings if finding.passed is None} == {"maps"}


@pytest.mark.parametrize(("name", "check"), TWELVE.items())
def test_the_kit_names_what_a_trainer_breaks(
    name: str, check: str, tmp_path: Path, material: tuple[Material, Material]
) -> None:
    assert find(name, check, tmp_path, material)


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
@pytest.mark.parametrize(("name", "check"), MORE.items())
def test_the_kit_names_what_else_a_trainer_breaks(
    name: str, check: str, tmp_path: Path, material: tuple[Material, Material]
) -> None:
    assert find(name, check, tmp_path, material)


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
@pytest.mark.parametrize(("name", "check"), (TWELVE | MORE).items())
def test_the_kit_names_nothing_else(
    name: str, check: str, tmp_path: Path, material: tuple[Material, Material]
) -> None:
    trials = Trials(name, {}, tmp_path, 8.0 if name.startswith("hangs") else 120.0, material)
    findings = [run_check(trials, other) for other in CHECKS]
    broken = {finding.check for finding in findings if finding.passed is False}
    assert check in broken
    assert broken <= {check} | ALSO.get(name, set())


def test_a_child_that_crashes_is_a_finding_and_what_needs_it_is_not_asked(
    tmp_path: Path, material: tuple[Material, Material]
) -> None:
    trials = Trials("exits", {}, tmp_path, material=material)
    fitting, shape = (run_check(trials, name) for name in ("fitting", "shape"))
    assert fitting.passed is False
    assert "exit code 3" in fitting.message
    assert "out of licences" in fitting.message
    assert (shape.passed, shape.message) == (None, "its fit failed, which 'fitting' tells of")


def test_a_child_that_hangs_is_ended_with_all_it_started(
    tmp_path: Path, material: tuple[Material, Material]
) -> None:
    trials = Trials("hangs", {}, tmp_path, 6.0, material)
    finding = run_check(trials, "fitting")
    assert "did not end within 6 s" in finding.message
    mine = psutil.Process().children(recursive=True)
    assert not [one for one in mine if "medkit.testing.probe" in one.cmdline()]


def test_options_are_read_in_the_child_and_a_wrong_one_is_a_finding(
    tmp_path: Path, material: tuple[Material, Material]
) -> None:
    trials = Trials("reference", {"sise": "4"}, tmp_path, material=material)
    assert "did you mean 'size'" in run_check(trials, "options").message
    assert run_check(trials, "fitting").passed is None
    assert "reference" not in sys.modules


def test_processes_are_known_by_their_mark() -> None:
    mark = "a-mark-of-this-test"
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, "MEDKIT_TRIAL": mark}
    ) as process:
        assert list(list_marked(mark)) == [process.pid]
        assert len(end_marked(mark)) == 1
        assert process.wait(30) != 0
    assert list_marked(mark) == {}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_order_of_columns_is_found(order: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    values = np.eye(3)[labels][:, list(order)] + random.normal(0, 0.3, (60, 3))
    found, ranks = find_order(values, labels)
    assert found == order
    assert ranks[found] == max(ranks.values()) > 0.9


def test_folds_hold_persons_apart_and_lack_what_they_should(
    material: tuple[Material, Material],
) -> None:
    grey = material[0]
    for quarter in range(4):
        parts = grey.divide(quarter)
        seen = [set(grey.persons[np.isin(grey.images, one["images"])]) for one in parts.values()]
        assert sum(map(len, seen)) == len(set().union(*seen)) == 24
        assert set(grey.label(parts["test"]["images"])) == {0, 1, 2}
    lacking = grey.divide(LACKING, lacking=1)
    assert set(lacking["train"]["labels"]) | set(lacking["validation"]["labels"]) == {0, 2}
    assert set(grey.label(lacking["test"]["images"])) == {0, 1, 2}
    alone = grey.divide(UNCHOSEN, validate=False)
    assert len(alone["validation"]["images"]) == 0
    several = grey.divide(WHOLE, several=True)["train"]["labels"]
    assert several.shape[1] == len(CLASSES)
    assert set(np.unique(several)) == {-1, 0, 1}


def test_a_change_of_any_part_is_seen(material: tuple[Material, Material]) -> None:
    from medkit.images.imageset import ImageSet

    images = ImageSet.open(material[0].folder).images().take([0, 1, 2])
    images = images.with_features(np.zeros((3, 2), np.float32))
    before = fingerprint(images)
    images.features[1, 1] = 1  # type: ignore[index]
    images.table.loc[0, "slope"] = 2.0
    after = fingerprint(images)
    assert {name for name in before if before[name] != after[name]} == {"features", "column slope"}


def test_memory_is_measured_where_a_batch_is_all_that_is_held(
    material: tuple[Material, Material],
) -> None:
    from medkit.images.imageset import ImageSet

    images = ImageSet.open(material[0].folder).images().take(np.arange(8))
    notes: list[dict[str, float]] = []
    TASKS["features"]["memory"](
        lambda some: some[:], images, lambda what, **facts: notes.append(facts)
    )
    assert notes[0]["peak_many"] - notes[0]["peak_few"] < 0.5 * notes[0]["many"] * notes[0]["image"]


def test_an_unknown_trainer_or_check_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no trainer plugin is named 'nobody'"):
        check_trainer("nobody")
    with pytest.raises(UsageError, match="no check is named 'sead'"):
        check_trainer("reference", only=["sead"])


def test_the_command_prints_a_table_or_json_and_fails_with_a_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = ["--only", "loading", "--only", "import"]
    with pytest.raises(SystemExit) as end:
        main(["plugins", "check", "reference", "-p", "size=4", *chosen])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "loading" in shown
    assert "2 passed, 0 failed" in shown
    with pytest.raises(SystemExit) as end:
        main(["plugins", "check", "heavy_import", *chosen, "--json"])
    assert end.value.code == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert [(one["check"], one["passed"]) for one in answer["findings"]] == [
        ("loading", True),
        ("import", False),
    ]


def test_the_class_has_a_test_for_each_check_and_fails_by_name() -> None:
    assert list(CHECKS) == list(TESTED)
    names = {f"test_{name.replace('-', '_')}" for name in CHECKS}
    assert {name for name in dir(TrainerConformance) if name.startswith("test_")} == names

    class Kit(TrainerConformance):
        plugin = "heavy_import"

    Kit.setup_class()
    try:
        Kit().test_loading()  # type: ignore[attr-defined]
        with pytest.raises(pytest.fail.Exception, match=r"import: loading it imports .*sklearn"):
            Kit().test_import()  # type: ignore[attr-defined]
    finally:
        Kit.teardown_class()
    with pytest.raises(UsageError, match="plugin = 'NAME'"):
        TrainerConformance.setup_class()


def test_every_check_says_what_it_promises_and_stands_in_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert all(check.__doc__ for check in CHECKS.values())
    assert [name for name in CHECKS if f"### {name}\n" not in page] == []


def test_importing_the_kit_imports_nothing_heavy() -> None:
    script = (
        "import sys, medkit.testing\n"
        "assert 'numpy' not in sys.modules\n"
        "from medkit.testing import TrainerConformance\n"
        "print(sorted({'numpy', 'pandas', 'pytest'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_broken_trainers_lie_where_they_are_looked_for() -> None:
    assert FOLDER.is_dir()
    assert len(TWELVE) == 12
