"""Whether images may be mirrored: not where left and right mean something."""

from __future__ import annotations

from typing import Any

from medkit.errors import UsageError
from medkit.images.imageset import ImageSet
from medkit.sources.fetching import list_sources
from medkit.workspace import Workspace


def check_mirroring(params: Any, image_set: ImageSet, workspace: Workspace) -> list[str]:
    """Hold a trainer's option ``mirror`` against what the descriptors of the images say of sides.

    Parameters
    ----------
    params : object
        The trainer's options; without ``mirror``, or with it off, nothing is asked.
    image_set : ImageSet
        Of the images.
    workspace : Workspace
        Holds their sources.

    Returns
    -------
    list of str
        A warning that names the sources of which nobody says whether sides matter.

    Raises
    ------
    UsageError
        If sides matter in one of the sources.
    """
    if not getattr(params, "mirror", False):
        return []
    said = {source.name: source.sides for source in list_sources(workspace)}
    sources = sorted(image_set.table["source"].unique())
    sided = [name for name in sources if said.get(name) == "matter"]
    if sided:
        raise UsageError(
            f"mirror=True: the descriptor of {', '.join(sided)} says that sides matter there, and "
            "a mirrored image would be of a body that nobody has; leave -p mirror=true out"
        )
    unsaid = [name for name in sources if said.get(name) != "free"]
    if not unsaid:
        return []
    return [
        f"images of {', '.join(unsaid)} were mirrored in training; no descriptor says whether "
        "left and right mean something there"
    ]
