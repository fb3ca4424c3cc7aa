"""A web page as a tree, to be asked what is on it."""

from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

_VOID = ("meta", "link", "img", "br", "hr", "input")


class _Reader(HTMLParser):
    """Builds the tree; an element that is not closed in its turn is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.builder = TreeBuilder()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in _VOID:
            self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def parse(html: str) -> Element:
    """Return the page's root element."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.builder.close()


def page_of(run_dir: Path) -> Element:
    """Return the root element of a run's report."""
    return parse((run_dir / "report.html").read_text(encoding="utf-8"))


def text_of(element: Element) -> str:
    """Return an element's text with single spaces."""
    return " ".join("".join(element.itertext()).split())


def section(page: Element, heading: str) -> Element | None:
    """Return the section whose heading has this id; None if there is none."""
    return page.find(f".//section[@aria-labelledby='{heading}']")


def rows_of(element: Element) -> list[list[str]]:
    """Return the texts of the cells of each row of a table's body."""
    return [[text_of(cell) for cell in row] for row in element.findall(".//tbody/tr")]
