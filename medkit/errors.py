"""Every error that medkit raises on purpose.

    MedkitError
    ├── UsageError         what was asked cannot be done as asked (exit code 2)
    ├── WorkspaceError     the workspace is locked, missing, damaged or of another version
    │   └── DiskFullError  there is no room for what was being written
    ├── SourceError        fetching: a descriptor, a download, an archive
    ├── CatalogError       the catalog, its labels or its persons
    ├── CodedError         one thing of many that is set aside, counted by its code
    │   └── PixelError     one frame that cannot be decoded or normalised rightly
    ├── ImageSetError      a set that is incomplete, damaged or not what its manifest says
    ├── CohortError        folds that cannot be made, leaks that stand
    ├── PluginError        a trainer plugin that is missing, broken or claimed twice
    └── TrainingError      a run, or a fold of it, that failed

A message says what is wrong, what was received, and what would work. The command line prints it
on one line and leaves with ``exit_code``; a traceback is shown only with ``--debug``::

    try:
        medkit.Catalog.open(folder)
    except medkit.MedkitError as error:
        print(error)
"""

from __future__ import annotations


class MedkitError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(MedkitError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class WorkspaceError(MedkitError):
    """The workspace is locked, missing, damaged or of another version."""


class DiskFullError(WorkspaceError):
    """There is no room for what was being written; nothing that stood before is lost."""


class SourceError(MedkitError):
    """A descriptor, a download or an archive is not what it should be."""


class CatalogError(MedkitError):
    """The catalog, its labels or its persons are not usable."""


class CodedError(MedkitError):
    """One thing of many is set aside: it becomes a row, never the end of the work.

    Parameters
    ----------
    code : str
        Stable, hyphenated name of the reason, such as ``"pixel-length"``; it is counted by.
    detail : str
        What was found, for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class PixelError(CodedError):
    """One frame cannot be decoded or normalised rightly."""


class ImageSetError(MedkitError):
    """A set is incomplete, damaged or not what its manifest says."""


class CohortError(MedkitError):
    """Folds cannot be made, or a leak stands between them."""


class PluginError(MedkitError):
    """A trainer plugin is missing, broken or claimed by two distributions."""


class TrainingError(MedkitError):
    """A run, or a fold of it, failed."""
