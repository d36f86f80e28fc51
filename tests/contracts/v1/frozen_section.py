"""A count and a drawing, a section of medkit.sections.v1. Frozen: never edit it."""

import medkit


@medkit.hookimpl
def medkit_section():
    return write


def write(run):
    from medkit.evaluation.sections import Figure, Paragraph, Table

    rows = [[name, int((run.predictions["label"] == name).sum())] for name in run.record["classes"]]
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><circle r='4'/></svg>"
    value = run.metrics["metrics"]["accuracy"]["value"]
    return "Frozen section", [
        Paragraph(f"{run.name}: {value:.3f} in {run.folder.name}, folds {len(run.folds)}"),
        Table("Images by class", ["Class", "Images"], rows),
        Figure(drawing, "a circle", "Nothing more"),
    ]
