"""The tables of a catalog: their columns, types, and what they mean.

Columns named as DICOM names them keep the keyword verbatim, and hold what pydicom reads, as the
column's type; all others are lower case. Every file of a tree is exactly one ``kind``:

========== =====================================================================================
image      a DICOM object of an image class that has pixel data
other-dicom another DICOM object (``reason`` ``no-pixels``, ``not-an-image-class``, ``dicomdir``)
non-dicom  a PNG, JPEG, TIFF or BMP picture, or a NIfTI, MetaImage, NRRD or raw volume
archive    a zip or tar whose members are rows of their own (``container``), or one inside another
ignored    not an image, and why (``reason``)
problem    not readable, and why (``reason``): the header cannot be trusted to its end
========== =====================================================================================

A file of kind ``problem`` has its reason as a row of ``problems`` too. A readable header with an
odd value, or with pixel data that cannot be right, stays what it is and has rows there; decoding
refuses what it cannot do rightly. The codes:

================== =============================================================================
archive-refused    damaged, encrypted, or with members that the gate lets not pass
cut-header         the file ends before its header does, or before a value in it does
deflate-bomb       the data set inflates beyond any use
name-not-text      the file's name is not UTF-8
no-elements        a DICOM file without a data set
reader-failed      a plugin that reads this format failed at it
raw-size           a described raw volume of another size than its shapes have
reader-died        the process that read it was ended by the system
reader-timeout     its reader did not come to an end
too-nested         sequences in sequences, too deep to be read
unreadable         the system does not let it be read
unreadable-header  the bytes are not what the format says
================== =============================================================================

and, of files that keep their kind:

================== =============================================================================
bad-value          a value that cannot be read as what it should be; its column is null
dicomdir-escape    a path in a DICOMDIR leaves its folder; it is not followed
dicomdir-mismatch  a file that a DICOMDIR lists has another SOPInstanceUID
dicomdir-missing   a file that a DICOMDIR lists is not there
duplicate-uid      another image has its SOPInstanceUID, and other pixels
encapsulation      compressed pixel data of a defined length, or native of an undefined one
frame-count        NumberOfFrames cannot be; one frame is listed
frame-groups       not as many functional groups as frames
label-conflict     two labels of one name; it has neither
no-size            Rows, Columns or BitsAllocated missing, zero or negative
no-transfer-syntax missing, and inferred from the bytes
pixel-cut          the file ends before its pixel data do
mosaic             a frame that shows a whole volume in tiles (Siemens); it is in no volume
pixel-length       Rows x Columns need another length; a pad byte is fine (PS3.5 8.1.1)
repeated-position  seen more than once; only the order of images tells which volume it is of
voxels-not-read    a NIfTI, MetaImage or NRRD volume of a kind that is not read; it has no frames
================== =============================================================================
"""

from __future__ import annotations

import pyarrow as pa

_text = pa.string()
_integer = pa.int64()
_number = pa.float64()
_truth = pa.bool_()
_texts = pa.list_(pa.string())
_numbers = pa.list_(pa.float64())

FILES = pa.schema(
    [
        ("file", _text),  # 16 hexadecimal digits of the SHA-256 of root, NUL, path
        ("source", _text),
        ("root", _text),
        ("path", _text),  # relative to root, with '/'; a member's is 'archive!member'
        ("container", _text),  # the file key of the archive
        ("size", _integer),
        ("mtime_ns", _integer),
        ("inode", _integer),
        ("kind", _text),
        ("reason", _text),
        ("detail", _text),
        ("vanished", _truth),
        # Which version read it, whether it kept identifiers, and of what is not DICOM the plugins
        # that were asked, with versions; null: none did.
        ("reader", _text),
    ]
)

# What the header of a DICOM file, or of a picture, says of itself.
HEADER = pa.schema(
    [
        ("PatientID", _text),
        ("IssuerOfPatientID", _text),
        ("StudyInstanceUID", _text),
        ("SeriesInstanceUID", _text),
        ("SOPInstanceUID", _text),
        ("SOPClassUID", _text),
        ("TransferSyntaxUID", _text),
        ("Modality", _text),
        ("ImageType", _texts),
        ("Rows", _integer),
        ("Columns", _integer),
        ("NumberOfFrames", _integer),
        ("SamplesPerPixel", _integer),
        ("PhotometricInterpretation", _text),
        ("PlanarConfiguration", _integer),
        ("BitsAllocated", _integer),
        ("BitsStored", _integer),
        ("HighBit", _integer),
        ("PixelRepresentation", _integer),
        ("PixelPaddingValue", _integer),
        ("PixelPaddingRangeLimit", _integer),
        ("PixelPresentation", _text),
        ("PresentationLUTShape", _text),
        ("LossyImageCompression", _text),
        ("BurnedInAnnotation", _text),
        ("PixelSpacing", _numbers),
        ("ImagerPixelSpacing", _numbers),
        ("NominalScannedPixelSpacing", _numbers),
        ("PixelAspectRatio", _numbers),
        ("RescaleSlope", _number),
        ("RescaleIntercept", _number),
        ("RescaleType", _text),
        ("WindowCenter", _number),
        ("WindowWidth", _number),
        ("VOILUTFunction", _text),
        ("ImageOrientationPatient", _numbers),
        ("FrameOfReferenceUID", _text),
        ("SeriesNumber", _integer),
        ("InstanceNumber", _integer),
        ("AcquisitionNumber", _integer),
        ("TemporalPositionIdentifier", _integer),
        ("EchoTime", _number),
        ("TriggerTime", _number),
        ("DiffusionBValue", _number),
        ("SliceThickness", _number),
        ("StudyDate", _text),
        ("AccessionNumber", _text),
        ("StudyDescription", _text),
        ("SeriesDescription", _text),
        ("BodyPartExamined", _text),
        ("ViewPosition", _text),
        ("ImageLaterality", _text),
        ("PatientAge", _text),
        ("PatientSex", _text),
        ("Manufacturer", _text),
        ("ManufacturerModelName", _text),
    ]
)

# Direct identifiers: null unless the user asked to keep them.
IDENTIFIERS = pa.schema([("PatientName", _text), ("PatientBirthDate", _text)])

INSTANCES = pa.schema(
    [
        pa.field("file", _text),
        pa.field("format", _text),  # dicom, png, jpeg, tiff, bmp, nifti, metaimage, nrrd, raw
        pa.field("source", _text),
        pa.field("person", _text),
        pa.field("synthetic_uid", _truth),  # at least one UID was missing and has a surrogate
        *HEADER,
        *IDENTIFIERS,
        pa.field("has_modality_lut", _truth),
        pa.field("pixel_keyword", _text),  # PixelData, FloatPixelData, DoubleFloatPixelData
        # Of the value's first byte; of a deflated file, counted in the inflated data set, and of a
        # packed volume, in what it unpacks to.
        pa.field("pixel_offset", _integer),
        pa.field("pixel_length", _integer),  # as declared; -1 is undefined
        pa.field("encapsulated", _truth),
        pa.field("pixels_sha256", _text),  # of the bytes in the file; only where UIDs collided
        pa.field("duplicate", _text),  # alias, conflict
        pa.field("alias_of", _text),
    ]
)

FRAMES = pa.schema(
    [
        ("file", _text),
        ("frame", _integer),
        ("ImagePositionPatient", _numbers),
        ("ImageOrientationPatient", _numbers),
        ("PixelSpacing", _numbers),
        ("RescaleSlope", _number),
        ("RescaleIntercept", _number),
        ("RescaleType", _text),
        ("WindowCenter", _number),
        ("WindowWidth", _number),
        ("VOILUTFunction", _text),
        # What tells repetitions apart.
        ("EchoTime", _number),
        ("TemporalPositionIdentifier", _integer),
        ("DiffusionBValue", _number),
        ("volume", _text),
        ("slice", _integer),  # position along the normal, from 0
    ]
)

# What a frame says for itself, and an instance of all its frames.
RESOLVED = tuple(name for name in FRAMES.names if name in HEADER.names)

PROBLEMS = pa.schema([("file", _text), ("code", _text), ("detail", _text)])

SERIES = pa.schema(
    [
        ("source", _text),
        ("StudyInstanceUID", _text),
        ("SeriesInstanceUID", _text),
        ("Modality", _text),
        ("SeriesNumber", _integer),
        ("SeriesDescription", _text),
        ("BodyPartExamined", _text),
        ("person", _text),
        ("instances", _integer),
        ("images", _integer),
        ("volumes", _integer),
    ]
)

# The checks are named, and their tolerances chosen, as IDC's volume_geometry_index does.
VOLUMES = pa.schema(
    [
        ("volume", _text),
        ("source", _text),
        ("StudyInstanceUID", _text),
        ("SeriesInstanceUID", _text),
        ("Modality", _text),
        ("slices", _integer),
        ("Rows", _integer),
        ("Columns", _integer),
        ("PixelSpacing", _numbers),
        ("slice_spacing", _number),  # mm, (last - first) / (slices - 1)
        ("ImageOrientationPatient", _numbers),
        ("single_orientation", _truth),
        ("orthogonal_orientation", _truth),
        ("unique_slice_positions", _truth),
        ("consistent_in_plane_row", _truth),
        ("consistent_in_plane_col", _truth),
        ("consistent_pixel_spacing", _truth),
        ("consistent_image_dimensions", _truth),
        ("uniform_slice_spacing", _truth),
        ("regularly_spaced_3d_volume", _truth),
        ("obliquity_degrees", _number),  # of the normal, from the nearest axis of the patient
        ("tilted", _truth),  # slices are evenly sheared, as by a tilted gantry
    ]
)

STUDIES = pa.schema(
    [
        ("source", _text),
        ("StudyInstanceUID", _text),
        ("StudyDate", _text),
        ("StudyDescription", _text),
        ("person", _text),
        ("modalities", _texts),
        ("series", _integer),
        ("instances", _integer),
        ("images", _integer),
    ]
)

PERSONS = pa.schema(
    [
        ("person", _text),
        ("basis", _text),  # PatientID, study, person-regex, csv
        ("sources", _texts),
        ("patient_ids", _texts),
        ("studies", _integer),
        ("images", _integer),
    ]
)

LABELS = pa.schema([("name", _text), ("file", _text), ("value", _text), ("origin", _text)])

# What follows from all files together stands beside what was read from each, so that a new file
# rewrites few rows: of an instance, ...
MARKS = pa.schema(
    [
        ("file", _text),
        ("person", _text),
        ("patient", _text),  # the PatientID of a picture, which has none of its own
        ("pixels_sha256", _text),
        ("duplicate", _text),
        ("alias_of", _text),
        # Of its one frame; null where it lies in no volume, or has frames of their own rows.
        ("volume", _text),
        ("slice", _integer),
    ]
)
# ... and of a frame that has a row of its own.
PLACES = pa.schema([("file", _text), ("frame", _integer), ("volume", _text), ("slice", _integer)])

# What reading one file says of it, a row for each in the order of the files; the view of the
# same name has what follows beside.
READ_TABLES: dict[str, pa.Schema] = {
    "files": FILES,
    "instances": pa.schema(
        [
            *(each for each in INSTANCES if each.name == "file" or each.name not in MARKS.names),
            # Most have one frame, which says what the instance says: it has no row in ``frames``.
            ("one_frame", _truth),
            ("ImagePositionPatient", _numbers),  # null but for such
        ]
    ),
    "frames": pa.schema([each for each in FRAMES if each.name not in ("volume", "slice")]),
    "problems": PROBLEMS,
}

# What follows from all files, and the columns that its rows are sorted by.
DERIVED_TABLES: dict[str, tuple[pa.Schema, tuple[str, ...]]] = {
    "marks": (MARKS, ()),  # as the instances
    "places": (PLACES, ()),  # as the frames
    "findings": (PROBLEMS, ("file", "code", "detail")),
    "series": (SERIES, ("source", "StudyInstanceUID", "SeriesInstanceUID")),
    "volumes": (VOLUMES, ("source", "StudyInstanceUID", "SeriesInstanceUID", "volume")),
    "studies": (STUDIES, ("source", "StudyInstanceUID")),
    "persons": (PERSONS, ("person",)),
    "labels": (LABELS, ("name", "file")),
}

# What can be asked for.
TABLES: dict[str, pa.Schema] = {
    "files": FILES,
    "instances": INSTANCES,
    "frames": FRAMES,
    "series": SERIES,
    "volumes": VOLUMES,
    "studies": STUDIES,
    "persons": PERSONS,
    "labels": LABELS,
    "problems": PROBLEMS,
}
