"""The links of pages on disk, and what they load: a file that is there, and a place that the file has."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Reader(HTMLParser):
    """The links that a page shows, what it loads, and the places that a link may name."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []  # pictures, scripts, styles
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {value for value in (found.get("id"), found.get("name")) if value}
        if tag == "a" and "href" in found and "hidden" not in found:
            self.links.append(found["href"] or "")
        self.loads += [value for value in (found.get("src"), tag == "link" and found.get("href")) if value]


def read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def broken_links(folder: Path) -> list[str]:
    """What the pages in `folder` link to or load and is not there, as `page -> address`; addresses elsewhere are not asked."""
    pages = {page.resolve(): read(page) for page in folder.rglob("*.html")}
    broken = []
    for page, reader in pages.items():
        for address in reader.links + reader.loads:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            places = pages[target].places if target in pages else set()
            if not target.is_file() or (parts.fragment and not places & {parts.fragment, unquote(parts.fragment)}):
                broken.append(f"{page.relative_to(folder.resolve())} -> {address}")
    return broken
