"""Promise: planted leaks are found, different pictures are not, 10,000 images in a minute.

Takes images of different persons, gives some of them to a second person as another picture of the
same thing, and asks for leaks between two folds that have the one person here and the other there:

- identical: the same frame, in another file
- jpeg 75, jpeg 30: through JPEG
- half, 0.75, 1.7: resized by this factor before normalisation, with Pillow
- shifted: by 2 pixels of the source, in either direction
- mirrored, upside down, turned
- window: another window (5 % of the pixels clipped at either end), gamma 0.5 and 2, and a narrow
  window that clips 40 %
- several: windowed, shrunk, shifted, mirrored and through JPEG

and prints how many are found. Then how often different pictures are taken for one: pairs of
different persons, none of which was planted (each pair is compared, through the same search), and
different slices of real volumes, as if they were of different persons, neighbours among them.

Synthetic images are smooth random fields with noise, of one texture: 5,000 of 800 persons. Real
ones are those of ``../shared/data`` where it is there: chest radiographs, blood cells, MR.

Splitters that group by PatientID see two persons: what scikit-learn's GroupKFold and
StratifiedGroupKFold let through is printed beside it.

    python benchmarks/leaks.py [--images 5000] [--timed 10000] [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from medkit.cohort.folds import Folds
from medkit.cohort.leaks import find_leaks
from medkit.cohort.nearness import SMALL, THRESHOLD, compare, find_near
from medkit.cohort.signatures import sign_images
from medkit.images.imageset import ImageSet
from medkit.images.pixels import hash_values
from medkit.images.reader import CachedCodes, Images
from medkit.images.resampling import resize

SIZE = 299
Change = Callable[[np.ndarray], np.ndarray]


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def encode(quality: int) -> Change:
    def change(image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(to_bytes(image)).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream)).astype(float)

    return change


def scale(factor: float) -> Change:
    def change(image: np.ndarray) -> np.ndarray:
        size = tuple(max(8, round(side * factor)) for side in image.shape[::-1])
        picture = Image.fromarray(to_bytes(image)).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(picture).astype(float)

    return change


def shift(down: int, right: int) -> Change:
    def change(image: np.ndarray) -> np.ndarray:
        moved = np.zeros_like(image)
        rows, columns = image.shape
        moved[max(down, 0) : rows + down, max(right, 0) : columns + right] = image[
            max(-down, 0) : rows - down, max(-right, 0) : columns - right
        ]
        return moved

    return change


def window(low: float, high: float) -> Change:
    def change(image: np.ndarray) -> np.ndarray:
        ends = np.percentile(image, (low, high))
        return np.clip((image - ends[0]) / max(np.ptp(ends), 1), 0, 1) * 255

    return change


def gamma(power: float) -> Change:
    return lambda image: 255 * (np.clip(image, 0, 255) / 255) ** power


def chain(*changes: Change) -> Change:
    def change(image: np.ndarray) -> np.ndarray:
        for one in changes:
            image = one(image)
        return image

    return change


CHANGES: dict[str, Change] = {
    "identical": lambda image: image,
    "jpeg 75": encode(75),
    "jpeg 30": encode(30),
    "half": scale(0.5),
    "0.75": scale(0.75),
    "1.7": scale(1.7),
    "shifted 2, -2": shift(2, -2),
    "shifted -2, 1": shift(-2, 1),
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "turned by 90°": np.rot90,
    "window 5-95": window(5, 95),
    "gamma 0.5": gamma(0.5),
    "gamma 2": gamma(2),
    "several": chain(window(5, 95), scale(0.75), shift(1, 1), np.fliplr, encode(60)),
    "narrow window": window(10, 70),
}
# Not asked for; it is printed, and left out of the sum.
BEYOND = ("narrow window",)


def draw(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield synthetic images of 256 x 256: one texture, another field each."""
    random = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.fft.fftfreq(256), np.fft.rfftfreq(256), indexing="ij")
    shape = 1 / (0.01 + np.hypot(rows, columns)) ** 1.5
    for _ in range(count):
        noise = random.normal(size=(256, 256))
        field = np.fft.irfft2(np.fft.rfft2(noise) * shape, (256, 256))
        image = 128 + 45 * field / field.std() + random.normal(scale=6, size=field.shape)
        yield np.clip(np.rint(image), 0, 255)


def normalise(image: np.ndarray) -> np.ndarray:
    """Return the codes that a set would hold of a grey picture of 8 bits."""
    return np.rint(resize(np.ascontiguousarray(image, dtype=np.float32), (SIZE, SIZE)) * 16)


def make_images(sources: list[np.ndarray], persons: list[str]) -> Images:
    """Return images of a set, held in memory, with the columns that the audit asks for."""
    codes = np.stack([normalise(one) for one in sources]).astype(np.uint16)
    number = np.arange(len(sources))
    table = pd.DataFrame(
        {
            "image": number,
            "array": "uint16x1",
            "row": number,
            "path": [f"{one}.png" for one in number],
            "person": persons,
            "split_group": persons,
            "StudyInstanceUID": [f"1.2.{one}" for one in number],
            "source_sha256": [hash_values(to_bytes(one)) for one in sources],
            "pixels_sha256": [hash_values(one) for one in codes],
            "constant": False,
            "pad_box": [[0, 0, SIZE, SIZE]] * len(sources),
            "Rows": [one.shape[0] for one in sources],
            "Columns": [one.shape[1] for one in sources],
        }
    )
    return Images(CachedCodes({"uint16x1": (number, codes)}, (SIZE, SIZE)), table)


def plant(originals: list[np.ndarray], persons: list[str], count: int, seed: int = 0):
    """Give `count` changed copies of each kind to persons of their own.

    Returns
    -------
    images : Images
    planted : dict of (int, int) to str
        From original and copy to kind.
    """
    random = np.random.default_rng(seed)
    sources, owners, planted = list(originals), list(persons), {}
    chosen = random.permutation(len(originals))
    for number, (kind, change) in enumerate(CHANGES.items()):
        for at in chosen[np.arange(number * count, (number + 1) * count) % len(chosen)]:
            planted[int(at), len(sources)] = kind
            sources.append(np.ascontiguousarray(change(originals[at])))
            owners.append(f"copy-{len(sources)}")
    return make_images(sources, owners), planted


def search(images: Images):
    table = images.table
    signatures = sign_images(images)
    small = (table[["Rows", "Columns"]].min(axis=1) < SMALL).to_numpy()
    persons = table["split_group"].to_numpy(dtype=str)
    return find_near(signatures, persons, table["source_sha256"].to_numpy(dtype=str), small)


def print_recall(title: str, originals: list[np.ndarray], persons: list[str], count: int) -> None:
    images, planted = plant(originals, persons, count)
    table = images.table
    # The original is in fold 0, its copy in fold 1; labels do not matter.
    copies = np.arange(len(table)) >= len(originals)
    folds = Folds(
        table[["image", "split_group"]].assign(label="A", fold=copies.astype(int)),
        *("set", "0" * 16, "finding", 2, 0),
    )
    exact = sum(finding.count for finding in find_leaks(table, folds).exact)
    # JPEG of what has been JPEG may be the same pixels again: an exact leak, whatever its kind.
    hashes = table["source_sha256"].tolist()
    identical = [pair for pair in planted if hashes[pair[0]] == hashes[pair[1]]]
    planted = {pair: kind for pair, kind in planted.items() if pair not in set(identical)}
    threshold, pairs_found = search(images)
    found = {(pair.first, pair.second) for pair in pairs_found}
    print(f"\n{title}: {len(originals):,} images, {count} copies a kind; from {threshold:.3f} on")
    print(f"  identical: {min(exact, len(identical))} of {len(identical)}")
    kinds = [kind for kind in CHANGES if kind != "identical"]
    hits = {kind: [pair in found for pair, one in planted.items() if one == kind] for kind in kinds}
    for kind in kinds:
        print(f"  {kind:15} {np.mean(hits[kind]):.3f}")
    every = np.concatenate([hits[kind] for kind in kinds if kind not in BEYOND])
    print(f"  near, all but {', '.join(BEYOND)}: {every.mean():.4f} of {len(every):,}")
    known = {frozenset(pair) for pair in [*planted, *identical]}
    parent = {copy: original for original, copy in [*planted, *identical]}
    # Two copies of one picture are near as well.
    others = [
        pair
        for pair in found
        if frozenset(pair) not in known
        and parent.get(pair[0], pair[0]) != parent.get(pair[1], pair[1])
    ]
    pairs = len(table) * (len(table) - 1) // 2
    print(f"  pairs that were not planted: {len(others)} of {pairs:,} are taken for one picture")


def print_slices(images: Images, title: str) -> None:
    """Compare the slices of each volume with one another, as if each had a person of its own."""
    table = images.table.reset_index(drop=True)
    print(f"\n{title}: slices of one volume, compared two by two")
    signatures = sign_images(images)
    for volume, rows in table.groupby("volume", sort=True):
        known = rows.drop_duplicates("source_sha256")
        known = known[~signatures.plain[known.index] & ~known["constant"].to_numpy(bool)]
        if len(known) < 5:
            continue
        first, second = (known.index.to_numpy()[at] for at in np.triu_indices(len(known), 1))
        like = compare(signatures.fine, first, second, np.zeros(len(first), np.int64))
        near = np.diff(np.stack([first, second]), axis=0)[0] == 1
        reached = max(like[near], default=0)
        print(
            f"  {rows['Modality'].iloc[0]} {volume}: {len(known)} slices, "
            f"{(like >= THRESHOLD).sum()} of {len(like):,} pairs, neighbours at most {reached:.2f}"
        )


def print_splitters(persons: int = 200) -> None:
    """Give every person's picture to a second ID, and ask splitters that group by PatientID."""
    ids = np.repeat(np.arange(2 * persons), 2)  # person p is p and p + persons
    labels = ids % persons % 2
    print(f"\nsplitters that group by PatientID; {persons} persons, each under two IDs")
    for splitter in (
        GroupKFold(5, shuffle=True, random_state=0),
        StratifiedGroupKFold(5, shuffle=True, random_state=0),
    ):
        fold = np.empty(len(ids), int)
        for number, (_, test) in enumerate(splitter.split(ids, labels, ids)):
            fold[test] = number
        of = pd.Series(fold).groupby(ids).first().to_numpy()
        apart = (of[:persons] != of[persons:]).mean()
        print(f"  {type(splitter).__name__}: {apart:.0%} of the copies are on both sides, accepted")


def read_pictures(folder: Path, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Return one picture a person (or a few, where there are few persons), and the persons."""
    labels = pd.read_csv(folder / "labels.csv").drop_duplicates("sha256")
    labels = labels.sample(frac=1, random_state=0).drop_duplicates("patient_id")
    rest = pd.read_csv(folder / "labels.csv").drop_duplicates("sha256")
    rest = rest[~rest["path"].isin(labels["path"])].sample(frac=1, random_state=0)
    chosen = pd.concat([labels, rest]).head(count)
    pictures = [
        np.asarray(Image.open(folder / path).convert("L")).astype(float) for path in chosen["path"]
    ]
    return pictures, chosen["patient_id"].astype(str).tolist()


def print_time(count: int) -> None:
    """Normalise synthetic images into a real set, and time the search in it, reading included."""
    from medkit.cohort.twins import search_set

    with tempfile.TemporaryDirectory() as place:
        folder = write_set(Path(place), count)
        start, busy = time.perf_counter(), time.process_time()
        found = search_set(ImageSet.open(folder), Path(place))
        wall, busy = time.perf_counter() - start, time.process_time() - busy
    print(
        f"\n{count:,} images of {SIZE} x {SIZE} in a set: {wall:.1f} s, {busy:.1f} s of processors "
        f"({os.cpu_count()} here), {len(found['pairs'])} pairs"
    )


def write_set(place: Path, count: int) -> Path:
    """Make a set of synthetic pictures, by the command line."""
    from medkit.cli import main

    pictures = place / "pictures"
    pictures.mkdir()
    for number, image in enumerate(draw(count, seed=1)):
        Image.fromarray(to_bytes(image)).save(pictures / f"p{number // 6:05}-{number:06}.png")
    where = ["-w", str(place)]
    for command in (
        ["catalog", str(pictures), "--person-regex", r"p\d+", *where],
        ["normalise", "drawn", *where],
    ):
        try:
            main([*command, "--json"])
        except SystemExit as end:
            assert not end.code, command
    return place / "sets" / "drawn"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--timed", type=int, default=10_000)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", type=Path, nargs="*", default=[], help="sets with volumes")
    chosen = parser.parse_args()
    persons = [f"p{number % 800:03}" for number in range(chosen.images)]
    print_recall("synthetic", list(draw(chosen.images)), persons, chosen.copies)
    for name in ("kermany_cxr", "malaria_cells"):
        folder = chosen.data / "labelled" / name
        if folder.is_dir():
            pictures, owners = read_pictures(folder, chosen.images)
            print_recall(name, pictures, owners, chosen.copies)
    for folder in chosen.sets:
        print_slices(ImageSet.open(folder).images(), folder.name)
    print_splitters()
    if chosen.timed:
        print_time(chosen.timed)


if __name__ == "__main__":
    main()
