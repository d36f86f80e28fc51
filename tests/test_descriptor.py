"""Descriptors are read strictly, and found in a wheel, in a checkout and in a user's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from medkit.errors import SourceError, UsageError
from medkit.sources.descriptor import (
    choose_variant,
    find_descriptor,
    find_folders,
    list_descriptors,
    read_descriptor,
    read_raw_rules,
    search_descriptors,
    set_spacing,
    write_raw_rules,
)
from medkit.sources.local import locate_folder

HASH = "0123456789abcdef" * 4
HTTPS = {
    "name": '"set"',
    "title": '"A set"',
    "version": '"1"',
    "licence": '"CC-BY-4.0"',
    "protocol": '"https"',
    "size_bytes": "10",
    "files": f'[{{url = "https://example.org/a.zip?x=1", sha256 = "{HASH}", size = 10}}]',
}
LOCAL = {key: value for key, value in HTTPS.items() if key != "files"} | {
    "protocol": '"local"',
    "path": '"data"',
    "package": '"pydicom"',
    "distribution": '"pydicom"',
}
IDC = {key: value for key, value in HTTPS.items() if key != "files"} | {
    "protocol": '"idc"',
    "selection": '"lidc_idri"',
}
# What the project promises to know.
NAMES = {
    "kaggle-diabetic-retinopathy", "kaggle-dsb2017", "osirix", "dicom-library", "visible-human",
    "zubal-head", "zubal-torso", "lung-phantom", "prostate-3t", "pseudo-phi-dicom-data",
    "qin-pet-phantom", "lidc-idri", "nlst", "cbis-ddsm", "pathmnist", "organmnist3d",
    "pydicom-data", "pydicom-test-files",
}  # fmt: skip
# The keys of a rule for files without a header.
RAW = {
    "files": '"*.dat"',
    "dtype": '"uint16"',
    "byte_order": '"big"',
    "shapes": "[[4, 5, 3], [4, 5, 2]]",
    "spacing": "[1, 1.5, 2]",
}


def write(folder: Path, keys: dict[str, str], name: str = "set") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in keys.items()))
    return path


def test_a_descriptor_is_read(tmp_path: Path) -> None:
    more = {"modality": '["CR", "CT"]', "person_regex": '"^(.*)_"', "notes": '"n"'}
    found = read_descriptor(write(tmp_path, HTTPS | more))
    assert (found.name, found.modality, found.size_bytes) == ("set", ("CR", "CT"), 10)
    assert found.files[0].sha256 == HASH
    assert found.files[0].unpack is True
    assert read_descriptor(write(tmp_path, LOCAL)).package == "pydicom"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (HTTPS | {"licnece": '"x"'}, "unknown key 'licnece'; known are name, title"),
        (HTTPS | {"title": "3"}, "title is 3; it must be text in quotes"),
        (HTTPS | {"title": '" "'}, "title is ' '"),
        (HTTPS | {"size_bytes": "true"}, "size_bytes is True; it must be a whole number above 0"),
        (HTTPS | {"size_bytes": "-1"}, "size_bytes is -1"),
        (HTTPS | {"modality": '"CT"'}, "modality is 'CT'; it must be a list of texts"),
        (HTTPS | {"protocol": '"ftp"'}, "protocol is 'ftp'; it must be of 'local', 'https'"),
        (HTTPS | {"name": '"other"'}, "name is 'other'; it must be the file's"),
        (HTTPS | {"person_regex": '"("'}, "person_regex is '\\('"),
        (HTTPS | {"homepage": '"http://x"'}, "homepage is 'http://x'; it must be an https"),
        (HTTPS | {"path": '"/data"'}, "path is '/data'; it must be given for 'local' alone"),
        (HTTPS | {"files": "[]"}, "files is \\(\\)"),
        (HTTPS | {"files": "[1]"}, "files is \\[1\\]; it must be tables"),
        (HTTPS | {"files": "[{}]"}, r"files\[0\]: url missing"),
        (HTTPS | {"files": '[{url = "https://x/a"}]'}, r"files\[0\]: sha256 is ''; .* md5 will"),
        (
            HTTPS | {"files": f'[{{url = "http://x/a", sha256 = "{HASH}"}}]'},
            r"files\[0\]: url is 'http://x/a'; it must be an https address",
        ),
        (
            HTTPS | {"files": f'[{{url = "https://u:p@x/a", sha256 = "{HASH}"}}]'},
            "without a password",
        ),
        (
            HTTPS | {"files": f'[{{url = "https://[x/a", sha256 = "{HASH}"}}]'},
            "must be an https address",
        ),
        (
            HTTPS | {"files": f'[{{url = "https://x/a", sha256 = "{HASH}", crc = "1"}}]'},
            "unknown key 'crc'",
        ),
        (
            HTTPS | {"files": '[{url = "https://x/a", md5 = "1"}]'},
            "md5 is '1'; it must be 32 hexadecimal",
        ),
        (HTTPS | {"selection": '"x"'}, "selection is 'x'; .* unless the protocol is one of local"),
        (IDC | {"selection": '""'}, "selection is ''; it must be given"),
        (HTTPS | {"where": '"x"'}, "where is 'x'; it must be given with a selection"),
        (HTTPS | {"access": '"free"'}, "access is 'free'; it must be one of open, account"),
        (HTTPS | {"instead": '["a"]'}, "instead is .* for what is withdrawn"),
        (HTTPS | {"hosts": '["x/y"]'}, "hosts is .* names of hosts"),
        (IDC | {"hosts": '["a.org"]'}, "hosts is .* given for 'https' alone"),
        (HTTPS | {"labels": '[{name = "a"}]'}, r"labels\[0\]: table is ''; .* one of them"),
        (HTTPS | {"labels": '[{name = "a", table = "../b"}]'}, "inside the source"),
        (HTTPS | {"labels": '[{name = "a", tag = "Modality", on = "x"}]'}, "with a table alone"),
        (HTTPS | {"labels": '[{name = "a", regex = "("}]'}, "regex is .* a regular expression"),
        (
            HTTPS
            | {
                "files": f'[{{url = "https://x/a.zip", sha256 = "{HASH}"}},'
                f'{{url = "https://y/A.tgz", sha256 = "{HASH}"}}]'
            },
            "of names that differ",
        ),
        (LOCAL | {"package": '""', "distribution": '""'}, "path is 'data'; .* absolute"),
        (LOCAL | {"path": '"../x"'}, "path is '../x'; .* inside the package"),
        (LOCAL | {"package": '"os.path"'}, "package is 'os.path'; .* a top-level package"),
        (LOCAL | {"distribution": '""'}, "distribution is ''; .* given with package"),
        (LOCAL | {"path": '""'}, "path is ''; it must be given for 'local' alone"),
        ({"name": '"set"'}, "title, version, licence, protocol missing"),
        ({"name": "set"}, "cannot be read as TOML"),
    ],
)
def test_a_wrong_descriptor_is_refused_by_file_and_key(
    keys: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read_descriptor(write(tmp_path, keys))
    assert "set.toml" in str(caught.value)


def describe_raw_files(**changes: str | None) -> dict[str, str]:
    stated = {key: value for key, value in (RAW | changes).items() if value is not None}
    return LOCAL | {
        "raw": f"[{{{', '.join(f'{key} = {value}' for key, value in stated.items())}}}]"
    }


def test_rules_for_raw_files_are_read_and_written_down(tmp_path: Path) -> None:
    keys = describe_raw_files(offset="7", orientation="[1, 0, 0, 0, 0, -1]")
    (rule,) = rules = read_descriptor(write(tmp_path, keys)).raw
    assert (rule.shapes, rule.spacing) == (((4, 5, 3), (4, 5, 2)), (1, 1.5, 2))
    assert (rule.offset, rule.orientation) == (7, (1, 0, 0, 0, 0, -1))
    assert read_raw_rules(write_raw_rules(rules), "the journal") == rules
    plain = read_descriptor(write(tmp_path, describe_raw_files())).raw
    assert read_raw_rules(write_raw_rules(plain), "the journal") == plain
    with pytest.raises(SourceError, match="the journal: dtype is 'x'"):
        read_raw_rules([{**write_raw_rules(rules)[0], "dtype": "x"}], "the journal")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": "[1, 1]"}, "spacing is .* three numbers of mm above 0"),
        ({"spacing": "[1, 1, 0]"}, "spacing is .* above 0"),
        ({"spacing": "[1, 1, nan]"}, "spacing is .* above 0"),
        ({"spacing": "[1, 1, true]"}, "spacing is .* a list of numbers"),
        ({"dtype": '"uint64"'}, "dtype is 'uint64'; it must be one of uint8"),
        ({"byte_order": None}, "byte_order is ''; it must be 'little' or 'big'"),
        ({"shapes": "[]"}, "shapes is"),
        ({"shapes": "[[4, 5]]"}, "columns, rows, slices"),
        ({"shapes": "[[4, 5, 0]]"}, "columns, rows, slices"),
        ({"shapes": "[[4, 5, 3], [5, 4, 3]]"}, "the size must decide"),
        ({"shapes": "[4, 5, 3]"}, "a list of lists of whole numbers"),
        ({"orientation": "[1, 0, 0]"}, "six direction cosines"),
        ({"orientation": "[1, 0, 0, 1, 0, 0]"}, "at right angles"),
        ({"offset": "-1"}, "offset is -1; it must be a whole number above 0"),
        ({"files": '""'}, "files is ''; it must be a pattern"),
        ({"order": '"xyz"'}, "unknown key 'order'"),
    ],
)
def test_a_wrong_rule_for_raw_files_is_refused(
    changes: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        read_descriptor(write(tmp_path, describe_raw_files(**changes)))


def test_descriptors_lie_in_the_package_or_beside_it(tmp_path: Path) -> None:
    package = tmp_path / "medkit"
    for folder in (tmp_path / "catalogs", package, tmp_path / "mine"):
        folder.mkdir()
    assert find_folders(package, "") == [tmp_path / "catalogs"]
    (package / "catalogs").mkdir()
    assert find_folders(package, str(tmp_path / "mine")) == [
        package / "catalogs",
        tmp_path / "mine",
    ]
    with pytest.raises(SourceError, match=r"none is no folder of descriptors; .*MEDKIT_CATALOGS"):
        find_folders(package, "none")


def test_the_users_descriptors_are_found_and_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, HTTPS)
    write(tmp_path, LOCAL | {"name": '"pydicom-data"', "title": '"Mine"'}, "pydicom-data")
    write(tmp_path, {}, "broken")
    monkeypatch.setenv("MEDKIT_CATALOGS", str(tmp_path))
    listing = list_descriptors()
    found = {descriptor.name: descriptor for descriptor in listing.descriptors}
    assert {"pydicom-data", "pydicom-test-files", "set"} < set(found)
    assert found["pydicom-data"].title == "Mine"
    assert len(listing.problems) == 1
    assert "broken.toml" in listing.problems[0]
    assert find_descriptor("set") == found["set"]
    assert find_descriptor("../set") is None


def test_the_shipped_descriptors_are_right() -> None:
    listing = list_descriptors()
    assert listing.problems == ()
    found = {descriptor.name: descriptor for descriptor in listing.descriptors}
    assert set(found) >= NAMES
    for one in found.values():
        assert (one.licence and one.homepage and one.citation) or one.access != "open", one.name
        assert set(one.instead) <= set(found)
        assert one.size_bytes or one.protocol in ("own", "kaggle") or one.variants, one.name
    medmnist = [one for one in found.values() if one.variants]
    assert len(medmnist) == 18
    assert sum(len(one.variants) for one in medmnist) == 60
    assert all(file.md5 for one in medmnist for file in one.files)
    withdrawn = [one for one in found.values() if one.access == "withdrawn"]
    assert [(one.name, len(one.instead)) for one in withdrawn] == [("kaggle-dsb2017", 3)]


def test_what_the_shipped_descriptors_say_of_size_and_version_is_true() -> None:
    from importlib.metadata import version

    for descriptor in list_descriptors().descriptors:
        if (
            descriptor.protocol == "local"
            and version(descriptor.distribution) == descriptor.version
        ):
            files = [path for path in locate_folder(descriptor).rglob("*") if path.is_file()]
            assert sum(path.stat().st_size for path in files) == descriptor.size_bytes
            assert descriptor.notes.startswith(f"{len(files)} files")


def test_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "must_not_run" / "data").mkdir(parents=True)
    (tmp_path / "must_not_run" / "__init__.py").write_text("raise SystemError")
    monkeypatch.syspath_prepend(tmp_path)
    keys = LOCAL | {"package": '"must_not_run"'}
    assert locate_folder(read_descriptor(write(tmp_path, keys))).parent.name == "must_not_run"


def test_a_package_or_folder_that_is_missing_is_said_so(tmp_path: Path) -> None:
    missing = LOCAL | {"package": '"no_such"', "distribution": '"no-such"'}
    with pytest.raises(SourceError, match=r"'no_such' is not installed; .*pip install no-such"):
        locate_folder(read_descriptor(write(tmp_path, missing)))
    with pytest.raises(SourceError, match=r"there is no folder .*nothing"):
        locate_folder(read_descriptor(write(tmp_path, LOCAL | {"path": '"nothing"'})))


def test_a_spacing_may_be_left_to_the_user_and_nowhere_else(tmp_path: Path) -> None:
    found = read_descriptor(write(tmp_path, describe_raw_files(spacing=None)))
    assert set_spacing(found, (1.1, 1.1, 1.4)).raw[0].spacing == (1.1, 1.1, 1.4)
    with pytest.raises(UsageError, match="nothing in its files says how large a voxel is"):
        set_spacing(found, ())
    with pytest.raises(UsageError, match=r"spacing is .* three numbers of mm above 0"):
        set_spacing(found, (1, 2))
    with pytest.raises(SourceError, match="spacing is"):  # what was fetched has one
        read_raw_rules(write_raw_rules(found.raw), "the journal")
    stated = read_descriptor(write(tmp_path, describe_raw_files()))
    assert set_spacing(stated, ()) == stated
    with pytest.raises(UsageError, match="leave --spacing out"):
        set_spacing(stated, (1, 1, 1))


def test_a_form_is_chosen_by_name() -> None:
    found = find_descriptor("pathmnist")
    assert found is not None
    assert found.variants == ("28", "64", "128", "224")
    first, large = choose_variant(found), choose_variant(found, "224")
    assert (first.name, large.name) == ("pathmnist", "pathmnist-224")
    assert [file.variant for file in (*first.files, *large.files)] == ["28", "224"]
    with pytest.raises(UsageError, match="no form '32'; its forms are 28, 64"):
        choose_variant(found, "32")
    with pytest.raises(UsageError, match="it has one form alone"):
        choose_variant(first.__class__("a", "b", "c", "d", "own"), "32")


def test_a_search_finds_every_word_in_what_descriptors_say() -> None:
    found = [each.name for each in search_descriptors("mammograms PERSON").descriptors]
    assert found == ["cbis-ddsm"]
    assert search_descriptors("mammograms nothing-at-all").descriptors == ()
    assert len(search_descriptors("").descriptors) == len(list_descriptors().descriptors)


def test_a_name_is_found_as_idc_spells_it() -> None:
    assert find_descriptor("Lung_Phantom") == find_descriptor("lung-phantom")
