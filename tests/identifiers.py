"""Files with identifiers planted wherever a DICOM file has room for text."""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from medkit.sources import zstd

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
MARK = "ZQX"  # begins each planted text; nothing else has it
# A place of each value representation, most of them in Table E.1-1.
_STANDARD = {
    "AE": ["StationAETitle", "RetrieveAETitle", "DestinationAE"],
    "LO": [
        *("PatientID", "InstitutionName", "StudyDescription", "SeriesDescription"),
        *("PatientAddress", "MedicalRecordLocator", "RequestedProcedureDescription"),
        *("DeviceSerialNumber", "InstitutionalDepartmentName", "IssuerOfPatientID"),
        *("ClinicalTrialSubjectID", "MilitaryRank", "RequestingService", "AdmissionID"),
        *("ContrastBolusAgent", "ReasonForStudy", "CurrentPatientLocation"),
        *("OtherPatientIDs", "ProtocolName", "StrainStockNumber"),
    ],
    "LT": ["PatientComments", "AdditionalPatientHistory", "ImageComments", "StudyComments"],
    "PN": [
        *("PatientName", "ReferringPhysicianName", "OperatorsName", "ReviewerName"),
        *("PatientMotherBirthName", "OtherPatientNames", "RequestingPhysician"),
        *("NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "HumanPerformerName"),
        *("PerformingPhysicianName", "ResponsiblePerson"),
    ],
    "SH": ["AccessionNumber", "StudyID", "StationName", "PatientTelephoneNumbers"],
    "ST": ["InstitutionAddress", "ReferringPhysicianAddress", "DerivationDescription"],
    "UC": ["StrainDescription"],
    "UR": ["RetrieveURL"],
    "UT": ["LabelText", "CameraOwnerName", "SpecimenDetailedDescription"],
    "OB": ["EncapsulatedDocument", "RedPaletteColorLookupTableData", "DigitalSignaturesSequence"],
}  # fmt: skip
_UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
         "IrradiationEventUID", "DeviceUID"]  # fmt: skip
_DATES = {"PatientBirthDate": "DA", "StudyDate": "DA", "AcquisitionDateTime": "DT",
          "InstanceCreationDate": "DA", "LastMenstrualDate": "DA"}  # fmt: skip


class Planter:
    """Counts what it plants: each text is another one."""

    def __init__(self, salt: int = 0) -> None:
        self._numbers = itertools.count(1000 * salt + 1)
        self.planted: dict[str, bytes] = {}

    def text(self, place: str) -> str:
        """Return a text to plant, which is looked for afterwards."""
        text = f"{MARK}{next(self._numbers):05d}"
        self.planted[place] = text.encode()
        return text

    def uid(self, place: str) -> str:
        """Return a UID to plant."""
        text = f"1.2.826.0.1.3680043.{next(self._numbers) + 700000}.77"
        self.planted[place] = text.encode()
        return text

    def date(self, place: str, vr: str) -> str:
        """Return a date, and with DT a time of day, to plant."""
        number = next(self._numbers)
        text = f"{1931 + number % 60}{number % 12 + 1:02d}{number % 27 + 1:02d}"
        self.planted[place] = text.encode()
        return f"{text}101112.123" if vr == "DT" else text


def write_planted(path: Path, planter: Planter, *, tail: bool = True, **keywords: Any) -> Path:
    """Write a CT image that has an identifier in every place there is; ``tail`` is what follows."""
    header = _make_header(planter)
    for keyword, value in keywords.items():
        setattr(header, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, header, enforce_file_format=True)
    content = bytearray(buffer.getvalue())
    mark = planter.text("preamble").encode()
    content[: len(mark)] = mark
    if tail:
        padding = planter.text("data set trailing padding").encode() * 2
        content += struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, len(padding)) + padding
        content += planter.text("after the pixel data").encode()
    path.write_bytes(content)
    return path


def make_pixels() -> np.ndarray[Any, Any]:
    """Return the pixels of planted files."""
    return (np.add.outer(np.arange(32), np.arange(24)) * 7).astype(np.uint16)


def _make_header(planter: Planter) -> Dataset:
    header = Dataset()
    _plant_standard(header, planter, "")
    for keyword, vr in _DATES.items():
        setattr(header, keyword, planter.date(keyword, vr))
    for keyword in _UIDS:
        setattr(header, keyword, planter.uid(keyword))
    header.SOPClassUID, header.Modality = CT, "CT"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.PatientSex, header.PatientAge, header.PatientWeight = "F", "093Y", "71.5"
    header.Manufacturer, header.BodyPartExamined = "Medkit", "CHEST"
    header.StudyTime, header.SeriesNumber, header.InstanceNumber = "101112", 3, 4
    header.AdmittingDiagnosesDescription = f"seen on {planter.date('date in a text', 'DA')}"
    _plant_private(header, planter)
    _plant_sequences(header, planter)
    _plant_graphics(header, planter)
    pixels = make_pixels()
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = 0
    header.PixelData = pixels.astype("<u2").tobytes()
    header["PixelData"].VR = "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = EXPLICIT
    header.file_meta.SourceApplicationEntityTitle = planter.text("file meta, source")
    header.file_meta.PrivateInformationCreatorUID = planter.uid("file meta, private creator")
    header.file_meta.PrivateInformation = planter.text("file meta, private").encode()
    return header


def _plant_standard(header: Dataset, planter: Planter, where: str) -> None:
    for vr, keywords in _STANDARD.items():
        for keyword in keywords:
            text = planter.text(f"{where}{keyword} ({vr})")
            if keyword == "DigitalSignaturesSequence":
                inner = Dataset()
                inner.CertificateOfSigner = text.encode()
                header.DigitalSignaturesSequence = Sequence([inner])
            elif vr == "OB":
                header.add_new(keyword, "OB", text.encode())
            else:
                setattr(header, keyword, f"{text}^Jane" if vr == "PN" else text)


def _plant_private(header: Dataset, planter: Planter) -> None:
    block = header.private_block(0x0029, planter.text("private creator"), create=True)
    block.add_new(0x01, "LO", planter.text("private LO"))
    block.add_new(0x02, "OB", planter.text("private OB").encode())
    block.add_new(0x03, "UN", planter.text("private UN").encode())
    inner = Dataset()
    inner.PatientName = planter.text("private sequence")
    block.add_new(0x04, "SQ", [inner])
    header.add_new(0x00091001, "LO", planter.text("private without a creator"))


def _plant_sequences(header: Dataset, planter: Planter) -> None:
    deep = Dataset()
    _plant_standard(deep, planter, "3 sequences deep: ")
    deep.ReferencedSOPInstanceUID = planter.uid("3 sequences deep: UID")
    deep.ReferencedSOPClassUID = CT
    block = deep.private_block(0x0031, planter.text("nested private creator"), create=True)
    block.add_new(0x01, "LO", planter.text("nested private"))
    for keyword in ("PurposeOfReferenceCodeSequence", "DerivationCodeSequence"):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = "1", "99LOCAL"
        item.CodeMeaning = planter.text(f"{keyword}: meaning of a local code")
        item.DerivationCodeSequence = [deep]
        deep = item
    header.SourceImageSequence = [deep]
    request = Dataset()
    request.RequestedProcedureID = planter.text("RequestAttributesSequence")
    request.ScheduledProcedureStepDescription = planter.text("RequestAttributesSequence text")
    header.RequestAttributesSequence = [request]
    content = Dataset()
    content.ValueType, content.TextValue = "TEXT", planter.text("structured report text")
    content.PersonName = planter.text("structured report name")
    header.ContentSequence = [content]
    original = Dataset()
    original.ModifiedAttributesSequence = [Dataset()]
    original.ModifiedAttributesSequence[0].PatientName = planter.text("OriginalAttributesSequence")
    header.OriginalAttributesSequence = [original]


def _plant_graphics(header: Dataset, planter: Planter) -> None:
    header.add_new(0x60000010, "US", 8)
    header.add_new(0x60000022, "LO", planter.text("overlay description"))
    header.add_new(0x60003000, "OW", planter.text("overlay data").encode())
    header.add_new(0x60004000, "LT", planter.text("overlay comments"))
    header.add_new(0x60021500, "LO", planter.text("overlay label"))
    header.add_new(0x50000022, "LO", planter.text("curve description"))
    header.add_new(0x50003000, "OW", planter.text("curve data").encode())
    icon = Dataset()
    icon.Rows, icon.Columns, icon.SamplesPerPixel = 1, 8, 1
    icon.PhotometricInterpretation = "MONOCHROME2"
    icon.BitsAllocated, icon.BitsStored, icon.HighBit = 8, 8, 7
    icon.PixelRepresentation = 0
    icon.add_new("PixelData", "OB", planter.text("icon image").encode())
    header.IconImageSequence = [icon]
    annotation = Dataset()
    text = Dataset()
    text.UnformattedTextValue = planter.text("graphic annotation")
    annotation.TextObjectSequence = [text]
    header.GraphicAnnotationSequence = [annotation]


def write_codestream(path: Path, planter: Planter, comment: bytes) -> Path:
    """Write a JPEG image of two frames with a comment, and words behind its end."""
    from PIL import Image

    header = _make_header(planter)
    frames = []
    for number in range(2):
        buffer = io.BytesIO()
        Image.fromarray((make_pixels() % 256 + number).astype(np.uint8)).save(
            buffer, "JPEG", quality=90
        )
        plain = buffer.getvalue()
        application = b"Exif\0\0" + comment
        segments = b"".join(
            b"\xff" + marker + struct.pack(">H", len(content) + 2) + content
            for marker, content in ((b"\xfe", comment), (b"\xe1", application))
        )
        frames.append(plain[:2] + segments + plain[2:] + comment)
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.NumberOfFrames = 2
    header.PixelData = encapsulate(frames)
    header["PixelData"].VR = "OB"
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def find_planted(content: bytes, planter: Planter) -> list[str]:
    """Return the places whose text stands in some bytes."""
    lower = content.lower()
    return [place for place, text in planter.planted.items() if text.lower() in lower]


def iterate_contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of all below a folder, and of the members of its zips, unpacked."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        yield name, name.encode() + (path.read_bytes() if path.is_file() else b"")
        if path.suffix == ".parquet":
            yield f"{name} rows", repr(pq.read_table(path).to_pylist()).encode()
            yield f"{name} statistics", repr(pq.read_metadata(path).to_dict()).encode()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as shard:
                yield f"{name} comment", shard.comment
                for info in shard.infolist():
                    content = shard.read(info)
                    if info.filename.endswith(".zst"):
                        content = b"".join(zstd.iterate_frames(io.BytesIO(content).read))
                    yield f"{name}/{info.filename}", info.filename.encode() + info.extra + content
