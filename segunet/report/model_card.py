"""The model card beside the best checkpoint: what a model hub shows of it (Mitchell et al. 2019)."""

import html
from pathlib import Path

from segunet.base.files import write_text
from segunet.metrics.scores import HEADLINE
from segunet.report.page import Report, templates
from segunet.report.scores import as_text, headline, per_class, per_class_headings

CARD = "checkpoints/model_card.md"  # in a run's folder


def write_card(report: Report, run_dir: Path) -> None:
    """Write the card of the network that ``report`` is on into the run's folder.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    write_text(run_dir / CARD, card_text(report))


def card_text(report: Report) -> str:
    """Return the card as Markdown; the licence is left to whoever publishes the network."""
    # It is Markdown: names are escaped by the filter "cell".
    environment = templates(autoescape=False, keep_trailing_newline=True)
    environment.filters |= {"cell": _cell, "number": as_text}
    facts = {name: value for group in report.facts.values() for name, value in group.items()}
    return environment.get_template("model_card.md.j2").render(
        report=report,
        facts=facts | {"data": Path(facts["data"]).name} if "data" in facts else facts,  # not where it lies
        numbers={HEADLINE[name]: as_text(value) for name, value in headline(report.scores).items()},
        headings=per_class_headings(report.scores),
        rows=per_class(report.scores, report.colours.names),
    )


def _cell(text: str) -> str:
    """Return a text on one line, which Markdown shows as it is, in a table's cell too."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")
