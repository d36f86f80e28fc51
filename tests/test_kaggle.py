"""Kaggle: keys from the usual places, files by pages, and the exact address for what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from medkit.errors import SourceError, UsageError
from medkit.sources import kaggle
from medkit.sources.fetching import fetch
from medkit.sources.targets import plan_target
from medkit.workspace import Workspace

LIST = "/api/v1/competitions/data/list/retina"
LOAD = "/api/v1/competitions/data/download/retina/"
RULES = "https://www.kaggle.com/competitions/retina/rules"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def service(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    monkeypatch.setenv(kaggle.ENDPOINT, httpserver.url_for(""))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "canary-token")
    return httpserver


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_keys_are_looked_for_where_kaggles_own_tools_look(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order; each place that is filled goes before those filled so far."""

    def basic(user: str, key: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()

    assert kaggle.find_key() == ""
    write(home / "settings" / "kaggle" / "kaggle.json", '{"username": "a", "key": "1"}')
    assert kaggle.find_key() == basic("a", "1")
    write(home / ".kaggle" / "kaggle.json", '{"username": "b", "key": "2"}')
    assert kaggle.find_key() == basic("b", "2")
    write(home / "elsewhere" / "kaggle.json", '{"username": "c", "key": "3"}')
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "elsewhere"))
    assert kaggle.find_key() == basic("c", "3")
    monkeypatch.setenv("KAGGLE_USERNAME", "d")
    monkeypatch.setenv("KAGGLE_KEY", "4")
    assert kaggle.find_key() == basic("d", "4")
    write(home / ".kaggle" / "access_token", "t1\n")
    assert kaggle.find_key() == "Bearer t1"
    write(home / "token", "t2\n")
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(home / "token"))
    assert kaggle.find_key() == "Bearer t2"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t3" * 300)
    assert kaggle.find_key() == "Bearer " + "t3" * 300


def test_a_damaged_key_file_is_no_end_of_the_process(home: Path) -> None:
    write(home / ".kaggle" / "kaggle.json", "{}")
    with pytest.raises(UsageError, match=r"kaggle.json holds no user name and key; make a token"):
        kaggle.find_key()


def test_files_come_by_pages_with_the_key_and_the_hash(
    service: HTTPServer, workspace: Workspace
) -> None:
    files = {"labels.csv": b"image,level\n10_left,0\n", "deep/10_left.jpeg": b"\xff\xd8" * 50}
    first, second = files
    service.expect_request(LIST, query_string={"pageSize": "1000"}).respond_with_json(
        {"files": [{"name": first, "totalBytes": 1}], "nextPageToken": "more"}
    )
    service.expect_request(
        LIST, query_string={"pageSize": "1000", "pageToken": "more"}
    ).respond_with_json({"files": [{"name": second}], "nextPageToken": ""})
    for name, body in files.items():
        digest = base64.b64encode(hashlib.md5(body).digest()).decode()
        headers = {"X-Goog-Hash": f"md5={digest}"}
        service.expect_request(LOAD + name).respond_with_data(body, headers=headers)
    done = fetch(plan_target("kaggle:competition/retina"), workspace)
    folder = done.source.folder
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert done.references == {"md5": 2}
    sent = {request.headers.get("Authorization") for request, _ in service.log}
    assert sent == {"Bearer canary-token"}
    written = "".join(path.read_text() for path in done.source.folder.parent.glob("*.json*"))
    assert "canary" not in written


def test_a_pattern_takes_a_part(service: HTTPServer) -> None:
    names = [{"name": name} for name in ("train.zip.001", "train.zip.002", "test.zip.001")]
    service.expect_request(LIST).respond_with_json({"files": names})
    planned = plan_target("kaggle:competition/retina", where="train*")
    assert [item.path for item in planned.items()] == ["train.zip.001", "train.zip.002"]
    with pytest.raises(SourceError, match="lists no files like 'x'"):
        list(plan_target("kaggle:competition/retina", where="x").items())


def test_a_dataset_of_a_version(service: HTTPServer) -> None:
    service.expect_request(
        "/api/v1/datasets/list/me/set",
        query_string={"datasetVersionNumber": "3", "pageSize": "1000"},
    ).respond_with_json({"datasetFiles": [{"name": "a b.csv"}]})
    (item,) = plan_target("kaggle:dataset/me/set/versions/3").items()
    assert item.url.endswith("/datasets/download-raw/me/set/a%20b.csv?datasetVersionNumber=3")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "the key is not taken; make a token at https://www.kaggle.com/settings"),
        (403, f"open {RULES} in a browser, sign in and accept"),
        (404, "look at https://www.kaggle.com/competitions/retina; it was withdrawn"),
    ],
)
def test_a_refusal_says_what_to_do_and_where(
    status: int,
    said: str,
    service: HTTPServer,
    run_cli: Any,
    tmp_path: Path,
) -> None:
    service.expect_request(LIST).respond_with_json({"message": "no"}, status=status)
    done = run_cli(
        "fetch",
        "kaggle:competition/retina",
        "--yes",
        "-w",
        tmp_path / "w",
    )
    assert done.exit_code == 1
    assert said in done.stderr
    assert "canary" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_without_a_key_nothing_is_asked(
    service: HTTPServer, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    planned = plan_target("kaggle:competition/retina")
    assert "no key for Kaggle is found" in planned.preflight.warnings[0]
    with pytest.raises(UsageError, match="asks who you are; make a token"):
        fetch(planned, workspace)
    assert service.log == []


@pytest.mark.parametrize("answer", ["[1]", "{", '{"files": [{}]}', '"x"'])
def test_an_answer_that_is_no_list_is_refused(answer: str, service: HTTPServer) -> None:
    service.expect_request(LIST).respond_with_data(answer)
    with pytest.raises(SourceError, match="no list of files"):
        list(plan_target("kaggle:competition/retina").items())


@pytest.mark.parametrize("text", ["competition", "dataset/x", "competition/../x", "dataset/a/b/c"])
def test_what_is_nothing_of_kaggles_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="nothing of Kaggle's"):
        plan_target(f"kaggle:{text}")


def test_the_withdrawn_set_is_refused_with_three_others() -> None:
    with pytest.raises(UsageError, match="Instead: lidc-idri, nlst, nsclc-radiomics"):
        plan_target("kaggle-dsb2017")


def test_the_person_of_diabetic_retinopathy_has_two_eyes() -> None:
    import re

    rule = plan_target("kaggle-diabetic-retinopathy").source.person_regex
    found = [re.search(rule, name) for name in ("train/10_left.jpeg", "train/10_right.jpeg")]
    assert [each and each[1] for each in found] == ["10", "10"]
    assert json.dumps(plan_target("kaggle-diabetic-retinopathy").request)
