"""Every command in the documentation is one that exists, and does what it says where it can run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from docpages import (
    REPOSITORY,
    Command,
    find_command,
    list_commands,
    list_mentions,
    list_options,
    list_pages,
    list_python,
    name_page,
)

from medkit.cli import main
from medkit.testing import make_uid, write_cohort

PAGES = list_pages()
# What is not run here, by a pattern of the command, and why. All of it is still parsed.
NOT_RUN = {
    r"fetch NAME\b": "stands for any source",
    r"fetch .*(idc:|tcia:|kaggle|dimse:|dicomweb|s3:|sftp:|gs:|https:|\.tcia)": "asks a server",
    r"fetch .*(lung-phantom|osirix|dicom-library|zubal|[a-z]+mnist|--verify-live)": "asks a server",
    r"fetch --plugin shares": "needs the example installed: examples/medkit-shares/tests",
    r"catalog --reader numpy": "needs the example installed: examples/medkit-numpy/tests",
    r"label diagnosis --folder": "of what that example reads: examples/medkit-numpy/tests",
    r"(train|report) .*(net-benefit|decision-curve)": "needs the example installed: its own tests",
    r"(push|pull) .*(sftp|s3|gs|az|dimse|dicomweb|https?)\S*:": "needs a server",
    r"catalog s3:": "needs a server: test_servers.py",
    r"label grade .*kaggle": "needs what Kaggle has",
    r"(label|train chest --label) Edema,": "needs the table of CheXpert: test_multilabel.py",
    r".*\bfindings\b": "needs the table of ChestX-ray14: test_multilabel.py",
    r"train (?!.*--help).*--plugin (?!softmax\b)": "trains networks, or needs an example installed",
    r"train --resume chest-finding": "needs a run that was stopped: test_cli_train.py",
    r"plugins show (?!softmax|cnn|inception)": "needs the trainer installed: its own tests",
    r"export model": "starts TensorFlow: test_export_model.py",
    r"weights add": "needs the weights that Keras publishes: test_weights.py",
    r"doctor": "starts every library that is installed: test_doctor.py",
    r"plugins (install|uninstall|upgrade|sync|freeze|new|check)": "changes the environment",
}
# Python that other tests run, or that needs a framework; it is still compiled.
PYTHON_RUN = {"docs/reference/python.md", "docs/reference/files.md"}
# What commands call things that have other names here.
STAND_INS = {"SET": "chest", "LABEL": "finding", "diagnosis": "finding"}
PERSONS = 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data/``, as on the pages, and ``workspace/``, with what they begin from."""
    folder = tmp_path_factory.mktemp("docs")
    home = folder / "workspace"
    _write_data(folder / "data", home)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for line in PREPARATION:
            run(shlex.split(line.replace("/data", str(folder / "data"))))
    return folder


TRAIN = (
    "train chest --label finding --plugin softmax --folds 3 --hold-out 0.2 --threads 1 "
    "--no-saliency"
)
PREPARATION = (
    "catalog /data/export --workers 0",
    "label finding --csv labels.csv",
    "label site --csv sites.csv",
    "normalise chest --where \"Modality = 'CR'\" --workers 0",
    "normalise lungs --workers 0",
    f"{TRAIN} --name RUN",
    f"{TRAIN} --name OTHER-RUN -p size=8",
    "pack /data/export archive --workers 0",
    "label finding --csv elsewhere.csv",
    "normalise other-site --where \"PatientID >= 'P020'\" --workers 0",
)  # fmt: skip


def _write_data(data: Path, home: Path) -> None:
    """Write two hospitals, new files, and the tables and archives that the pages name.

    Those from ``PERSONS`` on are of the second, which is labelled when the first was trained on.
    """
    home.mkdir(parents=True)
    one = ("CR", "CR")
    write_cohort(data / "export" / "cr", persons=28, per_person=1, classes=one, size=32)
    write_cohort(data / "export" / "ct", persons=2, per_person=4, classes=("CT",), size=32, seed=1)
    write_cohort(data / "new", persons=2, per_person=1, classes=one, size=32, seed=3)
    shutil.copytree(data / "new", home / "new-scans")
    shutil.make_archive(str(home / "scans"), "zip", data / "new")
    persons = [f"P{person:03d}" for person in range(28)]
    findings = ("none", "effusion")
    rows = [
        f"{name},{findings[number % 2]},{findings[number // 2 % 2]}"
        for number, name in enumerate(persons)
    ]
    for table, first, last in (("labels", 0, PERSONS), ("elsewhere", PERSONS, 28)):
        _write_table(home / f"{table}.csv", "PatientID,finding,dx", rows[first:last])
    sites = [f"{name},{'ab'[number // 2 % 2]}" for number, name in enumerate(persons[:PERSONS])]
    _write_table(home / "sites.csv", "PatientID,site", sites)


def _write_table(path: Path, head: str, rows: list[str]) -> None:
    path.write_text("\n".join([head, *rows, ""]), encoding="utf-8")


def run(words: list[str]) -> None:
    """Run a command in this process."""
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, words


@pytest.fixture
def place(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """A workspace of one's own to be in, and what stands for what a page names."""
    home = tmp_path / "workspace"
    shutil.copytree(prepared / "workspace", home)
    monkeypatch.chdir(home)
    monkeypatch.setenv("MEDKIT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("MEDKIT_CATALOGS", raising=False)
    (key,) = {path.stem for path in (home / "folds").glob("*.parquet")}
    yield STAND_INS | {"KEY": key, "/data": str(prepared / "data")}


def find_reason(command: Command) -> str | None:
    text = " ".join(command.words)
    reasons = (reason for pattern, reason in NOT_RUN.items() if re.match(pattern, text))
    return next(reasons, None)


def stand_in(word: str, names: dict[str, str]) -> str:
    if word.startswith("/data/"):
        return names["/data"] + word.removeprefix("/data")
    return names.get(word, word).replace("'1.2.3'", f"'{make_uid('study 0 P001')}'")


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_commands_of_a_page_exist_with_their_options_and_arguments(page: Path) -> None:
    for command in list_commands(page):
        parse(command)
    for mention in list_mentions(page):
        found, _, rest = find_command(mention.words)
        check_options(found, rest, mention)


def check_options(found: Any, rest: list[str], command: Command) -> None:
    known = list_options(found)
    for word in rest:
        if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            assert word.partition("=")[0] in known, command


def parse(command: Command) -> None:
    """Let typer read a command, whether or not it can be run."""
    found, path, rest = find_command(command.words)
    check_options(found, rest, command)
    if hasattr(found, "commands") or {"--help", "-h"} & set(rest):
        return
    context = found.context_class(found, info_name=" ".join(path))
    options, left, order = found.make_parser(context).parse_args(list(rest))
    for one in found.get_params(context):
        if one.name != "help":
            _, left = one.handle_parse_result(context, options, left)
    assert not left, command
    assert order is not None


RUNNABLE = [page for page in PAGES if any(not find_reason(one) for one in list_commands(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=name_page)
def test_commands_of_a_page_run(page: Path, place: dict[str, str]) -> None:
    if name_page(page) == "docs/tutorial.md":
        pytest.skip("has a workspace of its own")
    for command in list_commands(page):
        if not find_reason(command):
            run([stand_in(word, place) for word in command.words])


def test_the_tutorial_runs_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    page = REPOSITORY / "docs" / "tutorial.md"
    for command in list_commands(page):
        if not find_reason(command) and command.words[0] != "predict":
            run(command.words)
    printed = _squeeze("".join(capfd.readouterr()))
    shown = re.findall(r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert len(shown) >= 6
    for line in "\n".join(shown).splitlines():
        for part in line.split("..."):
            assert _squeeze(part) in printed, part


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_every_reason_not_to_run_something_has_a_command() -> None:
    texts = [" ".join(one.words) for page in PAGES for one in list_commands(page)]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, text) for text in texts), pattern


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_python_of_a_page_is_python(page: Path) -> None:
    for code in list_python(page):
        compile(code, name_page(page), "exec")


@pytest.mark.parametrize("page", sorted(PYTHON_RUN))
def test_python_of_the_reference_runs(page: str, place: dict[str, str]) -> None:
    (code,) = list_python(REPOSITORY / page)
    exec(compile(code, page, "exec"), {})


def test_the_page_of_files_names_every_key_and_column(prepared: Path) -> None:
    home = prepared / "workspace"
    page = (REPOSITORY / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w-]+)`", page))
    manifest = json.loads((home / "sets" / "chest" / "set.json").read_bytes())
    record = json.loads((home / "runs" / "RUN" / "run.json").read_bytes())
    columns = set()
    for table in (home / "sets" / "chest").glob("*.parquet"):
        columns |= set(pq.read_schema(table).names)
    for name in ("calibration", "domain"):
        columns |= set(json.loads((home / "runs" / "RUN" / f"{name}.json").read_bytes()))
    assert {*manifest, *record, *columns} <= named
