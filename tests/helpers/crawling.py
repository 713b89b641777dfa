"""The links of pages on disk: each must lead to a file that is there, and to a place that the file has."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Reader(HTMLParser):
    """The links that a page shows, and the places that a link may name."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {value for value in (found.get("id"), found.get("name")) if value}
        if tag == "a" and "href" in found and "hidden" not in found:
            self.links.append(found["href"] or "")


def read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def broken_links(folder: Path) -> list[str]:
    """Every link of the pages in `folder` that leads nowhere, as `page -> address`; addresses elsewhere are not asked."""
    pages = {page.resolve(): read(page) for page in folder.rglob("*.html")}
    broken = []
    for page, reader in pages.items():
        for address in reader.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            places = pages[target].places if target in pages else set()
            if not target.is_file() or (parts.fragment and not places & {parts.fragment, unquote(parts.fragment)}):
                broken.append(f"{page.relative_to(folder.resolve())} -> {address}")
    return broken
