"""Reads a page as a browser's parser would and notes what is wrong with it."""

from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}
DRAWN = {"line", "circle", "rect", "polyline", "polygon", "path"}  # of SVG: closed in place or with a title inside


class Checker(HTMLParser):
    """`problems`: tags that do not match and ids given twice; `outside`: what would be fetched."""

    def __init__(self):
        super().__init__()
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.tags: Counter = Counter()
        self._open: list[str] = []
        self._ids: set[str] = set()

    @classmethod
    def of(cls, page: str) -> "Checker":
        checker = cls()
        checker.feed(page)
        checker.close()
        checker.problems += [f"<{tag}> is never closed" for tag in checker._open]
        if "@import" in page or "url(" in page:
            checker.outside.append("a style")
        return checker

    def handle_starttag(self, tag, attrs):
        self._note(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._note(tag, attrs)
        if tag not in VOID | DRAWN:
            self.problems.append(f"<{tag}/> cannot be closed in place")

    def handle_endtag(self, tag):
        if not self._open or self._open[-1] != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} closes {self._open[-1:]}")
        else:
            self._open.pop()

    def _note(self, tag, attrs):
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                if value in self._ids:
                    self.problems.append(f"id {value!r} is given twice")
                self._ids.add(value)
            if name in ("src", "href") and not value.startswith(("data:", "#")):
                self.outside.append(value)
            if value and ("http://" in value or "https://" in value):
                self.outside.append(value)
