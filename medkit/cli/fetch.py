"""``medkit fetch``: bring a source into the workspace."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_facts, print_json, print_table, say, show_progress
from medkit.errors import UsageError
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.engine import Progress
    from medkit.sources.descriptor import LabelRule
    from medkit.sources.fetching import Fetched
    from medkit.sources.plans import Plan

_SAMPLE = 20_000_000  # bytes that --verify-live moves at most
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)


def fetch(
    target: Annotated[
        str,
        typer.Argument(
            help="A known source, the path of a folder or an archive, or an address.",
            show_default=False,
        ),
    ] = "",
    workspace: WorkspaceOption = HERE,
    name: Annotated[str, typer.Option(help="What to call it; by default as the target.")] = "",
    sha256: Annotated[str, typer.Option(help="What a download or archive must hash to.")] = "",
    no_hash: Annotated[
        bool, typer.Option("--no-hash", help="Take a download of which no SHA-256 is known.")
    ] = False,
    licence: Annotated[str, typer.Option(help="The licence, where no descriptor says it.")] = "",
    where: Annotated[
        str, typer.Option(help="Of a collection, what fits this: \"Modality = 'CT'\".")
    ] = "",
    variant: Annotated[str, typer.Option(help="Which form of a set that has several.")] = "",
    spacing: Annotated[
        str, typer.Option(metavar="C,R,S", help="Of voxels without a header, in mm.")
    ] = "",
    own: Annotated[
        str,
        typer.Option("--from", help="What you have got of a source that nothing else can fetch."),
    ] = "",
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out", help="Do without images that a server lists and does not give."
        ),
    ] = False,
    plugin: Annotated[str, typer.Option(help="A plugin whose sources are known, too.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show licence, size and so on, and bring nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Licence and size are accepted.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Objects to bring at a time.")] = 8,
    limit_rate: Annotated[
        str, typer.Option(metavar="RATE", help="Bytes a second at most, such as 20M.")
    ] = "",
    max_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Refuse a source that is larger, such as 2GB.")
    ] = "",
    verify_live: Annotated[
        bool,
        typer.Option("--verify-live", help="Try the source with a little of it, and keep nothing."),
    ] = False,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Take an address with http:// on your network.")
    ] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="Show the known sources and those fetched.")
    ] = False,
    search: Annotated[
        str, typer.Option(metavar="WORDS", help="Show the known sources that say these words.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Bring a set of images, verified, its licence shown before a byte is moved.

    A folder is registered and read in place. An archive is unpacked. A download needs the SHA-256
    that its publisher states. Run it again after a break: it goes on where it was.
    """
    home = Workspace(workspace)
    if list_all or search:
        _list(home, search, plugin, as_json)
        return
    if not target:
        raise UsageError("name a source, a folder, an archive or an address, or use --list")
    from medkit.sources.fetching import fetch as bring
    from medkit.sources.pace import Pace
    from medkit.sources.targets import plan_target

    plan = plan_target(
        target,
        name=name,
        sha256=sha256,
        licence=licence,
        unchecked=no_hash,
        plain=plain_http,
        where=where,
        variant=variant,
        spacing=spacing,
        own=own,
        leave_out=leave_out,
        plugin=plugin,
    )
    largest = read_size(max_size, "--max-size")
    if verify_live:
        _try_live(plan, largest or _SAMPLE, as_json)
        return
    _check_size(plan, largest)
    if dry_run:
        _show(plan, home, as_json)
        return
    # What is on this machine already has come under some licence already.
    source = plan.source
    is_here = source.protocol == "local" or home.source(source.name).exists()
    if not is_here and not yes:
        _confirm(plan, home, as_json)
    rate = read_size(limit_rate, "--limit-rate")
    pace = Pace(workers=jobs, rate=rate, largest=largest)
    with home.lock(), show_progress(f"fetch {source.name}") as progress:
        fetched = bring(plan, home, pace=pace, progress=_in_megabytes(progress))
    _print(fetched, plan, as_json)


def read_size(text: str, option: str) -> int | None:
    """Return a number of bytes that a user wrote, such as ``20M`` or ``1.5 GB``; None of nothing.

    Raises
    ------
    UsageError
        If it is none.
    """
    if not text:
        return None
    found = _SIZE.fullmatch(text.strip())
    step = 1024 if found and found[3] else 1000
    size = int(float(found[1]) * step ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if size < 1:
        raise UsageError(f"{option} is {text!r}; give bytes as 500k, 20M or 1.5G")
    return size


def _in_megabytes(progress: Progress) -> Progress:
    """Return what tells of bytes by the million, as people count them."""

    def report(done: int, total: int | None, unit: str) -> None:
        if unit == "bytes":
            done, total, unit = done // 10**6, total and -(-total // 10**6), "MB"
        progress(done, total, unit)

    return report


def _list(home: Workspace, words: str, plugin: str, as_json: bool) -> None:
    from dataclasses import asdict

    from medkit.sources.fetching import list_sources
    from medkit.sources.targets import list_known

    known = list_known(words, plugin)
    here = [] if words else list_sources(home)
    if as_json:
        print_json(asdict(known) | {"fetched": [asdict(source) for source in here]})
        return
    rows = [
        (source.name, source.title, _spell_size(source.size_bytes), source.licence)
        for source in known.descriptors
    ]
    print_table("Known sources", ("name", "title", "size", "licence"), rows)
    if not words:
        print_table(
            f"Fetched, in {home.root}",
            ("name", "folder", "licence"),
            [(source.name, source.folder, source.licence) for source in here],
        )
    for problem in known.problems:
        say(f"no descriptor: {problem}")


def _show(plan: Plan, home: Workspace, as_json: bool) -> None:
    """Show what is known before a byte of it is moved."""
    from dataclasses import asdict

    from medkit.sources.addresses import hide_query
    from medkit.sources.preflight import measure_room, warn

    source, facts = plan.source, plan.preflight
    free = measure_room(home.root)
    if as_json:
        files = [asdict(file) | {"url": hide_query(file.url)} for file in source.files]
        told = {"free": free, "warnings": warn(plan, free)}
        print_json(asdict(source) | {"files": files, "preflight": asdict(facts) | told})
        return
    shown = {
        "title": source.title,
        "version": source.version,
        "licence": _spell_licences(plan),
        "access": "" if source.access == "open" else source.access,
        "citation": "; ".join(facts.citations) or source.citation,
        "homepage": source.homepage,
        "modality": ", ".join(source.modality),
        "series": _spell_count(facts.series),
        "files": _spell_count(facts.files),
        "size": _spell_size(facts.size),
        "free disk": _spell_size(free),
        "compressed with loss": "" if facts.lossy is None else f"{facts.lossy:.1%}",
        "notes": source.notes,
    }
    print_facts(source.name, {key: value for key, value in shown.items() if value})
    for warning in warn(plan, free):
        say(f"note: {warning}")


def _try_live(plan: Plan, limit: int, as_json: bool) -> None:
    """Bring a little of a source, compare it, say so, and keep nothing."""
    from tempfile import TemporaryDirectory

    from medkit.sources.fetching import fetch as bring
    from medkit.sources.preflight import take_sample

    sample = take_sample(plan, limit)
    with TemporaryDirectory() as scratch, show_progress(f"try {plan.source.name}") as progress:
        found = bring(sample, Workspace(Path(scratch)), progress=_in_megabytes(progress))
    facts = {"name": plan.source.name, "files": found.files, "bytes": found.size}
    if as_json:
        print_json(facts | {"references": found.references})
        return
    compared = ", ".join(f"{count} by {kind}" for kind, count in found.references.items())
    say(
        f"{plan.source.name} is as described: {found.files:,} files, {found.size:,} bytes came, "
        f"compared: {compared}; nothing was kept"
    )


def spell_labelling(rule: LabelRule, fetched: Fetched) -> str:
    """Return the command that learns a label of a source that was fetched."""
    source = fetched.source
    if rule.table:
        pairs = {"csv": str(source.folder / rule.table), "column": rule.column, "on": rule.on}
    else:
        pairs = {"tag": rule.tag, "regex": rule.regex, "source": source.name}
    options = [text for key, value in pairs.items() if value for text in (f"--{key}", value)]
    return shlex.join(["medkit", "label", rule.name, *options])


def _spell_licences(plan: Plan) -> str:
    several = plan.preflight.licences
    if len(several) < 2:
        return next(iter(several), plan.source.licence)
    return "; ".join(f"{name} ({count:,})" for name, count in several.items())


def _confirm(plan: Plan, home: Workspace, as_json: bool) -> None:
    licence, size = _spell_licences(plan), _spell_size(plan.preflight.size)
    if not as_json:
        _show(plan, home, as_json)
    if not sys.stdin.isatty():
        raise UsageError(
            f"{plan.source.name}: licence {licence}, {size}; accept them with --yes, as nobody "
            "can be asked here"
        )
    typer.confirm(f"Licence: {licence}. Size: {size}. Fetch?", abort=True, err=True)


def _check_size(plan: Plan, largest: int | None) -> None:
    size = plan.preflight.size
    if largest is not None and size is not None and size > largest:
        raise UsageError(
            f"{plan.source.name} has {_spell_size(size)}, more than --max-size allows; take a part "
            "of it (--where, --variant), or allow more"
        )


def _print(fetched: Fetched, plan: Plan, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(fetched))
        return
    source = fetched.source
    amount = "" if fetched.files is None else f"{fetched.files:,} files, {fetched.size:,} bytes, "
    nothing = "nothing was moved; " if fetched.status == "already there" else ""
    say(f"{source.name}: {fetched.status}; {nothing}{amount}in {source.folder}")
    say(f"licence: {source.licence}")
    if plan.source.notes and fetched.status != "already there":
        say(plan.source.notes)
    for rule in plan.source.labels:
        say(spell_labelling(rule, fetched))
    if fetched.refused:
        say(f"refused by the server, and left out: {fetched.refused:,}; files.jsonl names each")
    if unknown := fetched.references.get("none"):
        say(
            f"no reference hash for {unknown:,} of {sum(fetched.references.values()):,} objects: "
            "what came is recorded in files.jsonl, and nobody can tell whether it is right"
        )


def _spell_count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _spell_size(size: int | None) -> str:
    if size is None:
        return "size not stated"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
