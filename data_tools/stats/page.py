"""HTML page of `data_tools.stats`, in one self-contained file."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from data_tools.stats.duplicates import Duplicate, duplicate_lines
from data_tools.stats.measures import NUMBERS, Measures
from instructrl.actions import WORKSPACE_HIGH, WORKSPACE_LOW
from instructrl.evaluation.report.document import document
from instructrl.evaluation.report.histograms import bars, cell_map
from instructrl.storage.paths import StoragePath

MAX_SHOWN = 60  # instructions and outliers per file; the others are only counted


def page(sets: Sequence[Measures], found: Sequence[Duplicate], compared: Sequence[StoragePath]) -> str:
    """Render the page; `compared` are the files that were searched for duplicates."""
    episodes, frames = (sum(int(total) for total in totals) for totals in zip(*map(totals, sets), strict=True))
    files = "one file" if len(sets) == 1 else f"{len(sets)} files"
    lines = duplicate_lines(found, compared)
    warnings = "".join(f'<p class="warning">{escape(line)}</p>\n' for line in lines) if found else ""
    header = f"""<header>
<p class="eyebrow">InstructRL demonstrations</p>
<h1>{episodes:,} episodes</h1>
<p>{files}, {frames:,} frames. Duplicates: {len(found) if found else escape(lines[0])}.</p>
{warnings}</header>
"""
    return document(
        f"{episodes:,} demonstrations", header + overview(sets) + "".join(map(section, range(len(sets)), sets))
    )


def totals(one: Measures) -> tuple[int, int]:
    """Episodes and frames of a file."""
    return len(one.lengths), int(one.frames.sum())


def overview(sets: Sequence[Measures]) -> str:
    """Table with a row per file."""
    body = ""
    for number, one in enumerate(sets):
        cells = (
            f"{len(one.lengths):,}",
            f"{one.frames.sum():,}",
            f"{one.lengths.min()} to {one.lengths.max()}",
            len(one.variations),
            len(one.sentences),
            f"{one.coverage:.1%}",
            len(one.outliers),
        )
        name = f'<a href="#set-{number}">{escape(one.header.task)}, {escape(one.header.split)}</a>'
        body += f"<tr><th>{name}<small>{escape(str(one.path))}</small></th>{numbers(cells)}</tr>\n"
    heads = ("Episodes", "Frames", "Keyframes", "Variations", "Sentences", "Workspace", "Outliers")
    return f"<section>\n<h2>Files</h2>\n{table(('File', *heads), body)}</section>\n"


def section(number: int, one: Measures) -> str:
    """Section with all statistics of a file."""
    header = one.header
    summary = (
        f"{escape(str(one.path))}: {one.size / 1e6:,.1f} MB, {', '.join(map(escape, header.cameras))} at "
        f"{header.image_size} pixels, rendered by {escape(header.provenance.get('renderer', 'unknown'))}; "
        f"{one.seeds:,} distinct seeds. Keyframes lie in {one.coverage:.1%} of the workspace's cells"
        + (f", {one.outside} outside of it." if one.outside else ".")
    )
    return f"""<section id="set-{number}">
<h2>{escape(header.task)}, {escape(header.split)}</h2>
<p>{summary}</p>
<div class="charts">{plots(one)}</div>
<h3>Actions</h3>
{actions(one)}<h3>Images</h3>
{images(one)}<h3>Sentences</h3>
{sentences(one)}<h3>Outliers</h3>
{outliers(one)}</section>
"""


def plots(one: Measures) -> str:
    """Plots of lengths, variations and keyframe positions."""
    x, y, z = (
        (f"{axis} (m)", float(WORKSPACE_LOW[place]), float(WORKSPACE_HIGH[place])) for place, axis in enumerate("xyz")
    )
    return "\n".join(
        (
            bars("Episodes by their number of keyframes", Counter(one.lengths.tolist()), axis="keyframes"),
            bars("Episodes by their number of frames", Counter(one.frames.tolist()), axis="frames"),
            bars("Episodes by variation", one.variations, axis="variation"),
            cell_map("Keyframes from above", one.reached.sum(2), across=x, up=y),
            cell_map("Keyframes from the front", one.reached.sum(0), across=y, up=z),
            cell_map("Keyframes from the side", one.reached.sum(1), across=x, up=z),
        )
    )


def actions(one: Measures) -> str:
    """Table of the ranges of an action's numbers."""
    rows = (numbers([f"{value:z.3f}" for value in column]) for column in one.actions.T)
    body = "".join(f"<tr><th>{name}</th>{row}</tr>\n" for name, row in zip(NUMBERS, rows, strict=True))
    return table(("Number", "Least", "Mean", "Deviation", "Largest"), body)


def images(one: Measures) -> str:
    """Table of mean and standard deviation of pixels."""
    body = ""
    for camera, mean, deviation in zip(one.header.cameras, *one.pixels, strict=True):
        red, green, blue = (round(channel) for channel in mean)
        swatch = f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>'
        both = [f"{value:.1f} &plusmn; {width:.1f}" for value, width in zip(mean, deviation, strict=True)]
        body += f"<tr><th>{escape(camera)}</th><td>{swatch}</td>{numbers(both)}</tr>\n"
    return table(("Camera", "", "Red", "Green", "Blue"), body)


def sentences(one: Measures) -> str:
    """Table of the number of episodes per instruction."""
    most, body = one.sentences[0][1], ""
    for sentence, count in one.sentences[:MAX_SHOWN]:
        bar = f'<span class="interval"><i style="width:{100 * count / most:.2f}%"></i></span>'
        body += f'<tr><td>{escape(sentence)}</td><td class="bar">{bar}</td>{numbers([f"{count:,}"])}</tr>\n'
    return table(("Sentence", "", "Episodes"), body) + omitted(len(one.sentences))


def outliers(one: Measures) -> str:
    """Table of outliers."""
    if not one.outliers:
        return "<p>None.</p>\n"
    body = ""
    for other in one.outliers[:MAX_SHOWN]:
        unit = f" {other.unit}" if other.unit else ""
        usual = f"{escape(other.range)} {other.low:.4g} to {other.high:.4g}"
        cells = numbers((f"{other.found:.4g}{unit}", usual, f"{other.beyond:.3g}{unit}"))
        body += f"<tr><th>{other.episode}</th><td>{escape(other.what)}</td>{cells}</tr>\n"
    return table(("Episode", "What", "Found", "Range", "Beyond it by"), body) + omitted(len(one.outliers))


def omitted(count: int) -> str:
    """Number of entries that a table omits."""
    return f"<p>... and {count - MAX_SHOWN:,} more.</p>\n" if count > MAX_SHOWN else ""


def numbers(cells: Sequence[object]) -> str:
    """Markup of right-aligned cells."""
    return "".join(f'<td class="number">{cell}</td>' for cell in cells)


def table(heads: Sequence[str], body: str) -> str:
    """Markup of a horizontally scrollable table; headers of numbers are right-aligned."""
    left = {"File", "Number", "Camera", "", "Sentence", "Episode", "What"}
    cells = "".join(f"<th>{head}</th>" if head in left else f'<th class="number">{head}</th>' for head in heads)
    return f"""<div class="card scroll"><table class="dense">
<thead><tr>{cells}</tr></thead>
<tbody>
{body}</tbody></table></div>
"""
