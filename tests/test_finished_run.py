"""The report of a real run: hostile headers, counts that add up, checklists, maps, a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from browser import DESKTOP, PHONE, Browser, read, start_browser
from faketrainer import CENTROID, FEATURES, install, run_here

from medkit.evaluation import saliency
from medkit.evaluation.answers import Told, answer_questions
from medkit.evaluation.checklists import CLAIM, TRIPOD, count, fill
from medkit.evaluation.evidence import read_evidence
from medkit.evaluation.flow import check_sums, trace_flow
from medkit.evaluation.mistakes import choose_examples
from medkit.evaluation.report import write_page, write_report
from medkit.evaluation.saliency import Saliency, find_saliency
from medkit.testing import write_cohort
from medkit.training import run as training
from medkit.workspace import Workspace

SCRIPT = "<script>alert(1)</script>"
FORMULA = "=cmd|' /C calc'!A0"
# Right to left, and a bell: what turns or hides the text after it.
ACTING = "one\u202etwo\u0007three"
HOSTILE = {"Manufacturer": SCRIPT + ACTING, "ManufacturerModelName": FORMULA}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with two runs on 24 images whose headers are hostile."""
    folder = tmp_path_factory.mktemp("finished")
    images = write_cohort(folder / "images", persons=12, per_person=2, size=32)
    for path in images.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet = "ISO_IR 192"
        for keyword, text in HOSTILE.items():
            header[keyword] = pydicom.DataElement(keyword, "LO", text.replace("\\", "/"))
        header.PatientSex, header.PatientAge = "F", "061Y"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it holds is not what the standard allows
            header.save_as(path)
    (images / "P000" / "1.dcm").rename(images / "P000" / f"{ACTING[:5]}<b>.dcm")
    (images / "notes.txt").write_text("no image")
    shutil.copy(images / "P001" / "0.dcm", images / "P001" / "copy.dcm")
    (images / "P002" / "0.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    rows = "".join(f"P{p:03d},{(SCRIPT, 'yak')[p % 2]}\n" for p in range(11))
    (folder / "labels.csv").write_text("PatientID,animal\n" + rows)
    home = Workspace(folder / "workspace")
    at = ["-w", str(home.root)]
    run_here(["catalog", str(images), "--workers", "0", *at])
    run_here(["label", "animal", "--csv", str(folder / "labels.csv"), *at])
    run_here(["normalise", "set", "--size", "32", "--workers", "0", *at])
    site = folder / "site"
    install(site, "fake-centroid", CENTROID, names=("centroid",))
    install(site, "fake-pixels", FEATURES, names=("pixels",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("COUNTED", str(folder / "counted"))
        for plugin in ("centroid", "pixels"):
            command = ["medkit", "train", "set", "--plugin", plugin, "--label", "animal"]
            training.train(
                home, "set", plugin, label="animal", folds=2, threads=1, device="cpu",
                name=plugin, command=command,
            )  # fmt: skip
        yield home


@pytest.fixture(scope="module")
def page(finished: Workspace) -> Path:
    return write_report(finished.run("pixels"), finished)


def explain(home: Workspace, name: str) -> Saliency:
    evidence = read_evidence(home.run(name), home)
    assert evidence.predictions is not None
    wrong, right = choose_examples(evidence.predictions)
    return find_saliency(evidence, home, wrong if len(wrong) else right)


def test_a_report_that_is_written_again_asks_no_model(
    finished: Workspace, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = page.read_bytes()
    assert b"data:image/jpeg" in first
    kept = sorted(path.suffix for path in (finished.run("pixels") / "saliency").iterdir())
    assert kept == [".json", ".npy"]

    def refuse(*_: Any) -> str:
        raise AssertionError("a child was started")

    monkeypatch.setattr(saliency, "follow_child", refuse)
    assert write_report(finished.run("pixels"), finished).read_bytes() == first


def test_maps_are_those_of_the_models_that_predicted(finished: Workspace, page: Path) -> None:
    found = explain(finished, "pixels")
    assert (found.method, found.shuffles, found.note) == ("occlusion", 3, "")
    assert found.maps
    (facts,) = (finished.run("pixels") / "saliency").glob("*.json")
    assert json.loads(facts.read_text())["difference"] < 1e-9


def test_a_model_that_hides_its_weights_is_explained_and_not_checked(finished: Workspace) -> None:
    found = explain(finished, "centroid")
    assert (found.method, found.alike, found.shuffles) == ("occlusion", None, 0)
    text = read(write_report(finished.run("centroid"), finished)).text
    assert "could not be checked: the model hides its weights" in text.replace("\n", " ")


@pytest.mark.parametrize("what", ["model", "plugin", "maps"])
def test_what_cannot_be_explained_is_a_sentence(
    what: str, finished: Workspace, page: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished.root, tmp_path / "w", ignore=shutil.ignore_patterns("report.html"))
    home = Workspace(tmp_path / "w")
    folder = home.run("pixels")
    if what == "model":
        (folder / "fold-0" / "model" / "bias.npy").write_bytes(b"other")
        expected = "fold-0 is damaged"
    elif what == "plugin":
        shutil.rmtree(folder / "saliency")
        record = json.loads((folder / "run.json").read_text()) | {"plugin": "gone"}
        (folder / "run.json").write_text(json.dumps(record))
        expected = "no trainer plugin is named 'gone'"
    else:  # what a kill, or a disk, left half: it is asked for again
        (next((folder / "saliency").glob("*.npy"))).write_bytes(b"half")
        expected = ""
    found = explain(home, "pixels")
    assert expected in found.note
    assert bool(found.maps) == (what == "maps")
    if expected:
        assert expected in read(write_report(folder, home)).text


def test_nobody_is_asked_where_nobody_wants_it(finished: Workspace, tmp_path: Path) -> None:
    page = write_page([finished.run("pixels")], tmp_path / "p.html", finished, saliency=False)
    assert "data:image/jpeg" not in page.read_text()
    assert "written with --no-saliency" in read(page).text


def test_files_instances_images_and_persons_add_up(finished: Workspace) -> None:
    evidence = read_evidence(finished.run("pixels"), finished)
    flow = trace_flow(evidence, finished)
    assert flow is not None and not flow.note
    assert check_sums(flow) == []
    counts = {stage.title: (stage.count, sum(stage.lost.values())) for stage in flow.stages}
    assert counts == {
        "Found": (26, 2),
        "Images and other DICOM objects": (24, 0),
        "In them": (24, 1),
        "Selected for the set": (23, 0),
        "In the set": (23, 2),
        "In the folds": (21, 0),
    }
    reasons = [reason for stage in flow.stages for reason in stage.lost]
    assert {"not readable", "copies of an image that is there", "without a label"} <= {*reasons}
    assert "not accounted for" not in reasons
    assert "of 11 persons" in flow.stages[-1].note


def test_a_flow_that_does_not_add_up_says_so(finished: Workspace) -> None:
    evidence = read_evidence(finished.run("pixels"), finished)
    changed = {**evidence.run, "dropped": {"unlabelled": 1}}
    flow = trace_flow(type(evidence)(**{**vars(evidence), "run": changed}), finished)
    assert flow is not None
    assert flow.stages[-2].lost == {"without a label": 1, "not accounted for": 1}


def test_without_its_snapshot_a_flow_starts_at_the_set(finished: Workspace) -> None:
    evidence = read_evidence(finished.run("pixels"), finished)
    gone = {**evidence.run, "catalog_snapshot": "0" * 16}
    flow = trace_flow(type(evidence)(**{**vars(evidence), "run": gone}), finished)
    assert flow is not None
    assert flow.stages[0].title == "Selected for the set"
    assert "is no longer there" in flow.note


def test_twenty_items_of_claim_are_filled_by_the_run(finished: Workspace) -> None:
    evidence = read_evidence(finished.run("pixels"), finished)
    told = Told(
        evidence,
        trace_flow(evidence, finished),
        explain(finished, "pixels"),
        {"local": "licence and citation are not stated"},
        [],
        "medkit train",
    )
    answers = answer_questions(told)
    filled = fill(CLAIM, answers)
    counts = count(filled)
    assert counts["all"] == 44
    assert counts["filled"] >= 20
    by_number = {one.number: one for items in filled.values() for one in items}
    assert list(by_number) == [str(number) for number in range(1, 45)]
    assert {by_number[number].state for number in ("2", "34", "44")} == {"for the author"}
    assert "sex: F (21); age: median 61 years" in by_number["36"].text
    assert by_number["7"].state == "in part"  # the licence is not stated
    numbers = [one.number for items in fill(TRIPOD, answers).values() for one in items]
    assert numbers == [str(number) for number in range(1, 28)]
    # What no run can know is never filled, and what is filled leaves nothing to add.
    assert all(one.text for one in by_number.values() if one.state == "filled")
    assert all(one.left for one in by_number.values() if one.state != "filled")


def test_text_of_headers_is_text_on_the_page(page: Path) -> None:
    reader = read(page)
    assert not {tag for tag, _ in reader.elements} & {"script", "b>"}
    assert reader.text.count(SCRIPT) > 10  # as the name of a class, and of a maker
    assert FORMULA in reader.text
    assert f"{SCRIPT}one\\u202etwo\\x07three" in reader.text
    assert not {*"\u202e\u0007"} & {*page.read_text(encoding="utf-8")}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def several(finished: Workspace) -> Path:
    runs = [finished.run(name) for name in ("centroid", "pixels")]
    return write_page(runs, finished.report("both"), finished)


WIDE = (
    "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > "
    "innerWidth + 1 && !one.closest('.scroll, .skip')).map(one => one.outerHTML.slice(0, 90))"
)


@pytest.mark.parametrize(
    ("which", "size", "scheme"),
    [
        ("page", PHONE, "light"),
        ("page", PHONE, "dark"),
        ("page", DESKTOP, "light"),
        ("page", DESKTOP, "dark"),
        ("several", PHONE, "light"),
        ("several", DESKTOP, "dark"),
    ],
)
def test_a_browser_shows_it_without_a_fault(
    which: str, size: tuple[int, int], scheme: str, request: pytest.FixtureRequest, opened: Browser
) -> None:
    opened.open(request.getfixturevalue(which), size, scheme)
    seen = opened.see()
    assert seen.requested == []
    assert seen.console == []
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    assert opened.run(WIDE) == []
    paper = opened.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_page_is_printed_whole(page: Path, opened: Browser) -> None:
    opened.open(page)
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert opened.run(WIDE) == []
    printed = opened.call("Page.printToPDF")
    assert printed["data"].startswith("JVBERi0")  # %PDF-


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, of the npm package; not fetched here."""
    found = shutil.which("npm") and subprocess.run(
        ["npm", "root", "--global"], capture_output=True, text=True, check=False
    )
    places = [Path(found.stdout.strip())] if found else []
    places += [folder / "node_modules" for folder in Path(__file__).parents[:2]]
    for place in places:
        if (path := place / "axe-core" / "axe.min.js").is_file():
            return path.read_text(encoding="utf-8")
    pytest.skip("axe-core is not installed; 'npm install --global axe-core' brings it")


@pytest.mark.parametrize(("which", "scheme"), [("page", "dark"), ("several", "light")])
def test_axe_finds_nothing_serious(
    which: str, scheme: str, request: pytest.FixtureRequest, opened: Browser, axe: str
) -> None:
    opened.open(request.getfixturevalue(which), PHONE, scheme)
    opened.run(f"{axe}; 0")
    found = opened.run(
        "axe.run().then(all => all.violations.map(one => [one.impact, one.id, "
        "one.nodes.map(node => node.html.slice(0, 120))]))"
    )
    assert [one for one in found if one[0] in ("serious", "critical")] == []
