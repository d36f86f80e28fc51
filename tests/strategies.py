"""DICOM files as bytes, for hypothesis: right ones, odd ones, and ones that are cut.

Nothing here goes through pydicom's writer, which would refuse or repair what a reader must face.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, tag_for_keyword

from medkit.catalog.schema import FRAMES, HEADER, IDENTIFIERS
from medkit.catalog.values import VALUE_COUNTS

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
JPEG, RLE, JPEG_2000 = (f"1.2.840.10008.1.2{end}" for end in (".4.70", ".5", ".4.90"))
ODD_SYNTAXES = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.3", "", "1.2.840.10008.1.2 ")

LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
UNDEFINED = 0xFFFFFFFF
DEEPEST = 5
RARELY = st.sampled_from([False] * 7 + [True])

# Every public element, by VR; where the dictionary leaves a choice, the first.
DICTIONARY = {tag: entry[0][:2] for tag, entry in DicomDictionary.items() if tag >> 16 > 2}
KEPT = sorted(
    tag
    for field in (*HEADER, *IDENTIFIERS, *FRAMES)
    if (tag := tag_for_keyword(field.name)) is not None and tag >> 16 > 2
)
OTHERS = sorted(DICTIONARY.keys() - {*KEPT} - {0x7FE00008, 0x7FE00009, 0x7FE00010})
CHARACTER_SET, PIXELS = 0x00080005, 0x7FE00010
SEQUENCES = tuple(sorted(tag for tag, vr in DICTIONARY.items() if vr == "SQ"))
TELLING_SEQUENCES = (
    0x00283000,  # ModalityLUTSequence
    0x52009229,  # SharedFunctionalGroupsSequence
    0x52009230,  # PerFrameFunctionalGroupsSequence
    0x00209113,  # PlanePositionSequence
    0x00289110,  # PixelMeasuresSequence
)

# (SpecificCharacterSet, the codec that fits, letters that it has): PS3.3 C.12.1.1.2.
CHARACTER_SETS: tuple[tuple[str | None, str, str], ...] = (
    (None, "ascii", "AZaz09 ^=~"),
    ("", "ascii", "AZaz09 ^="),
    ("ISO_IR 6", "ascii", "AZaz09"),
    ("ISO_IR 100", "latin-1", "Aäöüß é^="),
    ("ISO_IR 101", "iso8859-2", "Ałźč "),
    ("ISO_IR 144", "iso8859-5", "AЯж "),
    ("ISO_IR 126", "iso8859-7", "AΩλ "),
    ("ISO_IR 13", "shift_jis", "AﾔﾏﾀﾞＡ\\~"),
    ("ISO_IR 192", "utf-8", "AäΩЖ山😀^="),
    ("GB18030", "gb18030", "A王小东^="),
    ("GBK", "gbk", "A王小东"),
    ("ISO 2022 IR 6\\ISO 2022 IR 87", "iso2022_jp", "A山田太郎^="),
    ("\\ISO 2022 IR 87", "iso2022_jp", "A山田太郎^="),
    ("\\ISO 2022 IR 149", "iso2022_kr", "A김희중^="),
    ("ISO 2022 IR 100\\ISO 2022 IR 144", "latin-1", "Aäß"),
    ("ISO 2022 IR 13\\ISO 2022 IR 87", "shift_jis", "Aﾔﾏ"),
    ("ISO_IR 100\\ISO_IR 192", "latin-1", "Aä"),
    ("ISO-IR 100", "latin-1", "Aä"),
    ("BOGUS", "ascii", "AZ"),
)

# Bytes of a binary value, and how many values geometry relies on.
SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "UV": 8, "SV": 8, "AT": 4, "OB": 4, "OW": 6}
COUNTS = {tag_for_keyword(name): count for name, count in VALUE_COUNTS.items()}

PADDINGS = (b"", b" ", b"\0", b"  ", b" \0", b"\0\0")
NUMBERS = (
    *("0", "1", "-1", "+1", "007", "1.", ".5", "1.5", "-0.0", "1e3", "1E-3", "1.25e+2", "0.1"),
    *("123456.789012345", "-1.7976931348623157e308", "1e400", "1e-400", "9007199254740993"),
    *("0.30000000000000004", "3.0000000000000000001", "nan", "inf", "-inf", "abc", "1_0", "0x10"),
    *("1,5", "--", "-", ".", "e5", "1e", "1.2.3", "9223372036854775807", "9223372036854775808"),
    *("12345678901234567890123", "512", "256", "16", "12", "11", "2", "4", "64"),
)
UIDS = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.1.3.10",
    "1.2.3",
    "2.25.1",
    "1.02.3",
    "x",
)
WORDS = ("MONOCHROME2", "RGB", "YBR_FULL_422", "ORIGINAL", "PRIMARY", "CT", "MR", "01", "M", "a b")

# What makes a data set an image of 12 bytes, but for its pixel data.
IMAGE: dict[int, tuple[str, bytes]] = {
    0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
    0x00080018: ("UI", b"1.2.3.4\0"),
    0x0020000D: ("UI", b"1.2.3.5\0"),
    0x0020000E: ("UI", b"1.2.3.6\0"),
    0x00200032: ("DS", b"-1.5\\2\\3.25 "),
    0x00200037: ("DS", b"1\\0\\0\\0\\1\\0 "),
    0x00280002: ("US", struct.pack("<H", 1)),
    0x00280004: ("CS", b"MONOCHROME2 "),
    0x00280010: ("US", struct.pack("<H", 2)),
    0x00280011: ("US", struct.pack("<H", 3)),
    0x00280100: ("US", struct.pack("<H", 16)),
    0x00280103: ("US", struct.pack("<H", 0)),
}

Text = tuple[str | None, str, str]
Values = st.SearchStrategy[bytes]


@dataclass(frozen=True)
class Form:
    """How the elements of one file are written.

    Attributes
    ----------
    implicit : bool
        Whether VRs are left out (PS3.5 7.1.3).
    text : tuple
        A row of `CHARACTER_SETS`.
    odd : bool
        Whether values, their order and the pixel data may stray from the standard.
    """

    implicit: bool
    text: Text
    odd: bool = False


def write_element(tag: int, vr: str, value: bytes, form: Form, length: int | None = None) -> bytes:
    """Return an element; a length other than the value's may be given."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if form.implicit:
        return head + struct.pack("<I", length) + value
    if vr in LONG_VRS:
        return head + vr.encode() + struct.pack("<HI", 0, length) + value
    if len(value) > 0xFFFE:
        value, length = value[:0xFFFE], 0xFFFE
    return head + vr.encode() + struct.pack("<H", min(length, 0xFFFF)) + value


def write_item(content: bytes, undefined: bool) -> bytes:
    """Return an item of a sequence (PS3.5 7.5.1)."""
    if undefined:
        end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        return struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + content + end
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def write_sequence(tag: int, items: Sequence[bytes], form: Form, undefined: bool) -> bytes:
    """Return a sequence of items that are written already."""
    value = b"".join(items)
    if not undefined:
        return write_element(tag, "SQ", value, form)
    value += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return write_element(tag, "SQ", value, form, UNDEFINED)


def write_meta(syntax: str | None, media: str = UIDS[0], length: int | None = None) -> bytes:
    """Return preamble and file meta information (PS3.10 7.1)."""
    form = Form(False, CHARACTER_SETS[0])
    body = write_element(0x00020002, "UI", _pad(media.encode(), b"\0"), form)
    if syntax is not None:
        body += write_element(0x00020010, "UI", _pad(syntax.encode(), b"\0"), form)
    if length is not None:
        group = struct.pack("<I", len(body) + length)
        body = write_element(0x00020000, "UL", group, form) + body
    return b"\0" * 128 + b"DICM" + body


def write_image(form: Form, **replaced: bytes) -> bytes:
    """Return the data set of `IMAGE`, with other values for some keywords."""
    values = {tag_for_keyword(name): value for name, value in replaced.items()}
    described = IMAGE | {PIXELS: ("OW", bytes(12))}
    written = (
        write_element(tag, vr, values.get(tag, value), form)
        for tag, (vr, value) in sorted(described.items())
    )
    return b"".join(written)


def _pad(value: bytes, padding: bytes = b" ") -> bytes:
    return value + padding * (len(value) % 2)


def _join(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return one value most of the time, or none, or several behind backslashes."""
    return st.one_of(values, values, st.lists(values, max_size=7).map("\\".join), st.just(""))


def _texts(form: Form) -> Values:
    _, codec, letters = form.text
    words = st.text(letters, max_size=12) | st.sampled_from(WORDS)
    codecs = st.sampled_from([codec] * 6 + ["latin-1", "utf-8"] if form.odd else [codec])
    return st.builds(lambda text, one: text.encode(one, "replace"), _join(words), codecs)


def _right_numbers(vr: str, count: int | None) -> Values:
    """Return numbers as text, as many as the element should have."""
    number = st.floats(-1e6, 1e6).map(lambda number: f"{number:.10g}")
    if vr == "IS":
        number = st.integers(-(2**31), 2**31 - 1).map(str)
    counts = st.just(count) if count else st.sampled_from([0, 1, 1, 2])
    several = counts.flatmap(lambda size: st.lists(number, min_size=size, max_size=size))
    return several.map("\\".join).map(str.encode)


def _numbers() -> Values:
    plain = st.floats(-1e6, 1e6).map(lambda number: f"{number:.10g}")
    one = st.sampled_from(NUMBERS) | plain | st.integers(-(10**6), 10**6).map(str)
    spaced = st.builds("{}{}{}".format, st.sampled_from(["", "", " "]), one, st.just(""))
    three = st.lists(plain, min_size=2, max_size=2) | st.lists(plain, min_size=3, max_size=3)
    six = st.lists(plain, min_size=6, max_size=6)
    return (_join(spaced) | (three | six).map("\\".join)).map(lambda text: text.encode())


def _padded(values: Values, padding: bytes, oddly: bool) -> Values:
    """Pad as the standard says, or oddly, or not."""
    if not oddly:
        return values.map(lambda value: _pad(value, padding))
    odd = st.builds(lambda value, end: value + end, values, st.sampled_from(PADDINGS))
    right = values.map(lambda value: _pad(value, padding))
    return st.one_of(right, right, right, odd)


def _packed(code: str, numbers: st.SearchStrategy[float]) -> Values:
    def pack(values: list[float]) -> bytes:
        return struct.pack(f"<{len(values)}{code}", *values)

    return st.one_of(
        st.lists(numbers, min_size=1, max_size=1).map(pack),
        st.lists(numbers, max_size=3).map(pack),
        st.binary(max_size=9),
    )


def _whole(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    likely = st.sampled_from([1, 8, 16, 12, 2])
    return st.one_of(likely, st.integers(low, high))


_TEXTUAL: dict[str, Callable[[Form], Values]] = {
    "UI": lambda form: _padded(_join(st.sampled_from(UIDS)).map(str.encode), b"\0", form.odd),
    "DS": lambda form: _padded(_numbers(), b" ", True),
    "IS": lambda form: _padded(_numbers(), b" ", True),
    **dict.fromkeys(
        ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"),
        lambda form: _padded(_texts(form), b" ", form.odd),
    ),
}
_BINARY: dict[str, Values] = {
    "US": _packed("H", _whole(16, False)),
    "SS": _packed("h", _whole(16, True)),
    "UL": _packed("I", _whole(32, False)),
    "SL": _packed("i", _whole(32, True)),
    "UV": _packed("Q", _whole(64, False)),
    "SV": _packed("q", _whole(64, True)),
    "FL": _packed("f", st.floats(width=32)),
    "FD": _packed("d", st.floats()),
    "AT": _packed("I", _whole(32, False)),
    **{vr: st.binary(max_size=20) for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "UN")},
}


def values(tag: int, vr: str, form: Form) -> Values:
    """Return values of an element, as bytes."""
    if not form.odd and vr in ("DS", "IS"):
        return _padded(_right_numbers(vr, COUNTS.get(tag)), b" ", False)
    if not form.odd and vr in SIZES:
        return st.binary(min_size=SIZES[vr], max_size=SIZES[vr])
    return _TEXTUAL[vr](form) if vr in _TEXTUAL else _BINARY[vr]


@st.composite
def elements(draw: st.DrawFn, form: Form, depth: int = 0) -> tuple[int, bytes]:
    """Draw a tag and its element, which may be a sequence of data sets."""
    kind = draw(st.sampled_from(["kept"] * 6 + ["other"] * 3 + ["private", "sequence", "sequence"]))
    if kind == "sequence" and depth < DEEPEST:
        return draw(sequences(form, depth))
    if kind == "private":
        return draw(privates(form))
    tag = draw(st.sampled_from(KEPT if kind == "kept" else OTHERS))
    vr = DICTIONARY[tag]
    vr = "LO" if vr in ("SQ", "NO") else vr
    if form.odd and not form.implicit and draw(RARELY):
        vr = draw(st.sampled_from([*_TEXTUAL, *_BINARY]))
    return tag, write_element(tag, vr, draw(values(tag, vr, form)), form)


@st.composite
def sequences(draw: st.DrawFn, form: Form, depth: int) -> tuple[int, bytes]:
    """Draw a sequence: its length and those of its items are defined or not."""
    tag = draw(st.sampled_from(TELLING_SEQUENCES) | st.sampled_from(SEQUENCES))
    contents = draw(st.lists(data_sets(form, depth + 1), max_size=2))
    items = [write_item(content, draw(st.booleans())) for content in contents]
    undefined = draw(st.booleans())
    if not form.implicit and undefined and draw(RARELY):
        # A sequence whose VR was lost: its items are implicit (PS3.5 6.2.2).
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        inner = draw(data_sets(Form(True, form.text, form.odd), depth + 1))
        value = write_item(inner, draw(st.booleans())) + end
        return tag, write_element(tag, "UN", value, form, UNDEFINED)
    return tag, write_sequence(tag, items, form, undefined)


@st.composite
def privates(draw: st.DrawFn, form: Form) -> tuple[int, bytes]:
    """Draw an element of a private block, or its creator (PS3.5 7.8)."""
    group = draw(st.sampled_from([0x0009, 0x0019, 0x0029, 0x7FE1]))
    if draw(st.booleans()):
        tag = group << 16 | 0x0010
        return tag, write_element(tag, "LO", b"SIEMENS CSA HEADER", form)
    tag = group << 16 | 0x1000 | draw(st.integers(0, 255))
    vr = draw(st.sampled_from(["UN", "OB", "LO", "DS", "US"]))
    return tag, write_element(tag, vr, draw(values(tag, vr, form)), form)


@st.composite
def data_sets(draw: st.DrawFn, form: Form, depth: int = 0) -> bytes:
    """Draw elements, in the order of their tags nearly always."""
    drawn = draw(st.lists(elements(form, depth), max_size=10 if depth == 0 else 3))
    return _arrange(drawn, form.odd and draw(RARELY))


def _arrange(drawn: list[tuple[int, bytes]], oddly: bool) -> bytes:
    chosen = drawn if oddly else sorted(dict(drawn).items())
    return b"".join(element for _, element in chosen)


@st.composite
def images(draw: st.DrawFn, form: Form) -> list[tuple[int, bytes]]:
    """Draw the elements of `IMAGE`; if they may be odd, some are missing or differ."""
    described = dict(IMAGE)
    described[0x00080016] = ("UI", _pad(draw(st.sampled_from(UIDS)).encode(), b"\0"))
    described[0x00280103] = ("US", struct.pack("<H", draw(st.sampled_from([0, 1]))))
    if form.odd:
        described[0x00280008] = ("IS", draw(st.sampled_from([b"1 ", b"", b"2 "])))
        for tag in draw(st.sets(st.sampled_from([*IMAGE]), max_size=2)):
            del described[tag]
    return [(tag, write_element(tag, *described[tag], form)) for tag in described]


@st.composite
def pixel_data(draw: st.DrawFn, form: Form, native: bool) -> bytes:
    """Draw pixel data that suit the image, or do not, or none."""
    kinds = ["usual"] * 6 + ["other", "float", "none"]
    kind = draw(st.sampled_from(kinds)) if form.odd else "usual"
    if kind == "none":
        return b""
    if (kind == "usual") != native:
        items = [write_item(part, False) for part in (b"", draw(st.binary(max_size=8)))]
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return write_element(PIXELS, "OB", b"".join(items) + end, form, UNDEFINED)
    length = draw(st.sampled_from([12, 12, 24, 2, 13])) if form.odd else 12
    tag, vr = (0x7FE00008, "OF") if kind == "float" else (PIXELS, "OW")
    return write_element(tag, vr, b"\7" * length, form)


@st.composite
def dicom_files(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a file: two in three in order, the others odd in all ways at once."""
    odd = draw(st.sampled_from([False, False, True]))
    syntax: str | None = draw(
        st.sampled_from([EXPLICIT] * 4 + [IMPLICIT] * 4 + [JPEG, RLE, JPEG_2000])
    )
    form = Form(syntax == IMPLICIT, draw(st.sampled_from(CHARACTER_SETS)), odd)
    if odd and draw(RARELY):
        syntax = draw(st.sampled_from([*ODD_SYNTAXES, None]))
    body = draw(bodies(form, syntax in (IMPLICIT, EXPLICIT)))
    meta = draw(st.sampled_from([0, 0, None, 2, -2])) if odd else 0
    file = write_meta(syntax, draw(st.sampled_from(UIDS)), meta) + body
    if odd and draw(RARELY):
        file = file[: draw(st.integers(0, len(file)))]
    return file[132:] if odd and draw(RARELY) else file


@st.composite
def bodies(draw: st.DrawFn, form: Form, native: bool) -> bytes:
    """Draw a data set, mostly that of an image, and what may follow it."""
    drawn = draw(st.lists(elements(form), max_size=10))
    if draw(st.sampled_from([True] * 5 + [False])):
        described = draw(images(form))
        tags = {tag for tag, _ in described}
        drawn = [one for one in drawn if one[0] not in tags] + described
    if form.text[0] is not None:
        characters = _pad(form.text[0].encode())
        drawn.append((CHARACTER_SET, write_element(CHARACTER_SET, "CS", characters, form)))
    body = _arrange(drawn, form.odd and draw(RARELY)) + draw(pixel_data(form, native))
    rest = st.just(b"\0" * 8) | st.binary(max_size=12) | st.binary(max_size=3)
    return body + (draw(rest) if form.odd and draw(RARELY) else b"")
