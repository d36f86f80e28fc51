"""Images of several kinds in one set, in memory, and what they must look like."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medkit.images.reader import CachedCodes, Images, View

KINDS = ("uint16x1", "uint8x3", "float32x1", "float64x1")
LUMA = np.array([0.299, 0.587, 0.114])


def make_images(kinds: list[str], size: tuple[int, int] = (5, 4), seed: int = 0) -> Images:
    """Return images of these kinds, in this order; rows of the arrays are in another order."""
    random = np.random.default_rng(seed)
    count = len(kinds)
    table = pd.DataFrame(
        {
            "image": np.arange(count),
            "array": pd.Series(kinds, dtype=object),
            "row": np.arange(count)[::-1] * 2,
            "slope": random.uniform(0.5, 2, count),
            "intercept": random.uniform(-200, 0, count),
            "full_low": -200.0,
            "full_high": 4000.0,
            "WindowCenter": np.where(random.random(count) < 0.5, 300.0, np.nan),
            "WindowWidth": 700.0,
            "VOILUTFunction": random.choice(["LINEAR", "LINEAR_EXACT", "SIGMOID"], count),
            "pixels_sha256": [f"{number:064x}" for number in range(count)],
        }
    )
    codes = {}
    for kind in sorted(set(kinds)):
        rows = np.sort(table.loc[table["array"] == kind, "row"].to_numpy(np.int64))
        shape = (len(rows), *size, *((3,) if kind.endswith("x3") else ()))
        ceiling = 256 if kind.startswith("uint8") else 4096
        codes[kind] = rows, random.uniform(0, ceiling, shape).astype(kind.split("x")[0])
    return Images(CachedCodes(codes, size), table)


def expect(images: Images, view: View) -> np.ndarray:
    """Return what all images look like, in float64, by the words of PS3.3 C.11.2.1.2 and .3."""
    shown = [_expect(images.codes(n), images.table.iloc[n], view) for n in range(len(images))]
    return np.array(shown).reshape(len(images), *images.source.size, view.depth)


def _expect(codes: np.ndarray, row: pd.Series, view: View) -> np.ndarray:
    real = codes * row["slope"] + row["intercept"]
    if codes.ndim == 3:
        unit = np.clip((real + 200) / 4200, 0, 1)
        unit = unit if view.depth == 3 else (unit @ LUMA)[..., np.newaxis]
    else:
        planes = [_look(real, row, window) for window in view.windows]
        unit = np.stack(planes if len(planes) == view.depth else planes * view.depth, axis=-1)
    return unit * (view.scale[1] - view.scale[0]) + view.scale[0]


def _look(real: np.ndarray, row: pd.Series, window: str) -> np.ndarray:
    if window == "soft":
        return np.clip((real + 160) / 400, 0, 1)
    if window == "full" or np.isnan(row["WindowCenter"]):
        return np.clip((real + 200) / 4200, 0, 1)
    centre, width = row["WindowCenter"], row["WindowWidth"]
    match row["VOILUTFunction"]:
        case "LINEAR":
            return np.clip((real - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
        case "LINEAR_EXACT":
            return np.clip((real - centre) / width + 0.5, 0, 1)
        case _:
            return 1 / (1 + np.exp(-4 * (real - centre) / width))
