"""Saved pages of a help centre, and the HTML inside of other exports, as clean Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import lxml.html
import nh3
import trafilatura
from html_to_markdown import ConversionOptions, convert
from lxml.html import HtmlElement

from kb_index.articles import LANGUAGES, Article, folder_language
from kb_index.importers.base import LARGEST_TEXT_BYTES, Draft, Pictures, Problem, SourceFile
from kb_index.importers.text import decode_text
from kb_index.passages import links, plain_text

DEEPEST = 200
"""Elements within elements; the parser itself gives up at 256."""

_TAG = re.compile(r"<(/?)(div|span|section|article|main|ul|ol|table|b|i|em|strong|font|blockquote|a|center)\b", re.I)
_STATED = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)", re.I)
_UNSAFE = re.compile(r"<\s*(?:script|object|embed|applet)\b|\son\w+\s*=|javascript:|vbscript:", re.I)
_LIKE_A_TAG = re.compile(r"(?<![\\(])<(?=[A-Za-z/!?])(?!https?:|mailto:|tel:)")
_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_LINKED = re.compile(r"(?<!!)\[([^\[\]]+)\]\(")
_MOSTLY = 0.7
_FEWEST_WORDS = 5
_TELLING_LETTERS = 15
_MOST_OF_IT = 0.9
_MARKDOWN = ConversionOptions(extract_metadata=False, br_in_tables=False)
_TAGS = {
    *("a", "b", "blockquote", "br", "caption", "code", "dd", "del", "div", "dl", "dt", "em", "figcaption", "figure"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "ol", "p", "pre", "s", "section", "span"),
    *("strong", "sub", "summary", "details", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul"),
}
_SCHEMES = {"http", "https", "mailto", "tel"}
_BOILERPLATE = (
    *("nav", "header", "footer", "aside", "form", "button", "noscript", "template", "select", "dialog", "script"),
    *("style", "svg", "*[@aria-hidden='true' or @hidden]"),
    *(f"*[@role='{role}']" for role in ("navigation", "search", "complementary", "contentinfo", "banner")),
)
_EXTRAS = re.compile(
    r"(?:^|[-_\s])(?:breadcrumbs?|comments?|share|social|related|recent|sidebar|votes?|feedback|pagination|pager|cookie"
    r"|subscribe|toc|search|meta|author|recommended)(?:$|[-_\s])",
    re.I,
)
_MAIN = (
    "//*[@itemprop='articleBody']",
    "//*[contains(concat(' ', normalize-space(@class), ' '), ' article-body ')]",
    "//article",
    "//main",
    "//*[@role='main']",
)


class PageImporter:
    name = "web page"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix in (".html", ".htm", ".xhtml")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        """The article of the page, without navigation, footers and the like."""
        if len(file.data) > LARGEST_TEXT_BYTES:
            remedy = "Save the article alone, or split it"
            yield Problem(file.path, f"the page is larger than {LARGEST_TEXT_BYTES:,} bytes", remedy)
            return
        stated = _STATED.search(file.data[:4096])
        decoded = decode_text(file.data, stated[1].decode() if stated else None)
        if decoded is None:
            yield Problem(file.path, "this is no text", "Save the page as HTML")
            return
        text, encoding = decoded
        if (depth := nesting(text)) > DEEPEST:
            yield Problem(file.path, f"elements are nested {depth} deep", "Remove the needless ones, or copy the text")
            return
        if not text.strip():
            yield Problem(file.path, "the file is empty", "Save the page again")
            return
        page = lxml.html.document_fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
        notes = [f"read as {encoding}"] if encoding not in ("utf-8", "ascii") and not stated else []
        title = _title(page)
        body, found_heading = _main_text(page, text, notes)
        words = plain_text(body).strip()
        if not words:
            yield Problem(file.path, "no article was found in the page", "Save the article's own page, or its text")
            return
        if sum(map(len, _LINKED.findall(body))) > _MOSTLY * len(words):
            yield Problem(file.path, "the page is a list of links, no article", "Import the pages that it leads to")
            return
        pictures = Pictures(file, notes=notes)
        pictures.take(links(body))
        stated_lang = (page.get("lang") or page.get("xml:lang") or "")[:2].lower()
        yield Draft(
            source=file.source,
            path=file.path,
            article=Article(
                id="",
                lang=folder_language(file.parts[:-1]) or (stated_lang if stated_lang in LANGUAGES else ""),
                title=found_heading or title or file.parts[-1],
                body=body,
            ),
            files=tuple(pictures.found),
            notes=tuple(pictures.notes),
        )


def to_markdown(html: str) -> tuple[str, list[str]]:
    """Clean Markdown of an HTML fragment, and what was left out. Raises NestingError."""
    if (depth := nesting(html)) > DEEPEST:
        raise NestingError(depth)
    if not html.strip():
        return "", []
    return _converted(lxml.html.fragment_fromstring(html, create_parent="div"), html)


class NestingError(ValueError):
    """Elements within elements beyond DEEPEST; `depth` how many."""

    def __init__(self, depth: int) -> None:
        super().__init__(f"elements are nested {depth} deep")
        self.depth = depth


def nesting(html: str) -> int:
    """How deep elements lie in one another, before a parser has to find out."""
    depth = deepest = 0
    for match in _TAG.finditer(html):
        depth = max(0, depth - 1) if match[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _converted(element: HtmlElement, source: str) -> tuple[str, list[str]]:
    notes = ["scripts and the like were left out"] if _UNSAFE.search(source) else []
    for frame in element.xpath(".//iframe|.//video|.//audio"):
        address = frame.get("src") or next(iter(frame.xpath("./source/@src")), "")
        if urlsplit(address).scheme in ("http", "https"):
            link = lxml.html.fragment_fromstring("<a></a>")
            link.set("href", address)
            link.text = frame.get("title") or address
            link.tail = frame.tail
            frame.getparent().replace(frame, link)
            notes.append(f"embedded content became a link: {address}")
    clean = nh3.clean(
        lxml.html.tostring(element, encoding="unicode"),
        tags=_TAGS,
        clean_content_tags={"script", "style", "template", "noscript", "svg", "title"},
        attributes={"a": {"href"}, "img": {"src", "alt"}, "code": {"class"}, "td": {"colspan"}, "th": {"colspan"}},
        url_schemes=_SCHEMES,
        link_rel=None,
    )
    markdown = (convert(clean, _MARKDOWN).content or "").strip()
    # What only looks like a tag ("<your number>") must not become one.
    parts = _CODE.split(markdown)
    parts[::2] = [_LIKE_A_TAG.sub(r"\\<", part) for part in parts[::2]]
    return "".join(parts), notes


def _main_text(page: HtmlElement, source: str, notes: list[str]) -> tuple[str, str]:
    """The page's article as Markdown and its heading, if there is one."""
    heading = " ".join(" ".join(page.xpath("(//h1)[1]//text()")).split())
    main = _main_element(page)
    _strip(main)
    body, more = _converted(main, source)
    notes += more
    first, _, rest = body.partition("\n")
    return rest.strip("\n") if heading and first.lstrip("# ").strip() == heading else body, heading


def _main_element(page: HtmlElement) -> HtmlElement:
    for query in _MAIN:
        found = [each for each in page.xpath(query) if len(each.text_content().split()) >= _FEWEST_WORDS]
        if len(found) == 1:
            return found[0]
    # No element says where the article is: it is the smallest that holds the text with the most weight.
    text = trafilatura.extract(page, include_comments=False, include_tables=False, favor_recall=True) or ""
    lines = [folded for line in text.splitlines() if len(folded := _letters(line)) >= _TELLING_LETTERS]
    whole = page.find("body") if page.find("body") is not None else page
    if not lines:
        return whole
    holding = [whole]
    for element in whole.iter("div", "section", "td", "center"):
        letters = _letters(element.text_content())
        if sum(line in letters for line in lines) >= _MOST_OF_IT * len(lines):
            holding.append(element)
    return min(holding, key=lambda element: len(element.text_content()))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _strip(main: HtmlElement) -> None:
    for each in main.xpath("|".join(f".//{query}" for query in _BOILERPLATE)):
        if each.getparent() is not None and not each.xpath(".//h1"):
            each.drop_tree()
    for each in main.xpath(".//div|.//section|.//ul|.//ol"):
        named = f"{each.get('class', '')} {each.get('id', '')}"
        if _EXTRAS.search(named) and each.getparent() is not None and not each.xpath(".//h1"):
            each.drop_tree()


def _title(page: HtmlElement) -> str:
    shared = page.xpath("//meta[@property='og:title']/@content")
    title = shared[0] if shared else " ".join(page.xpath("//head/title[1]//text()"))
    # "Returns – Klyon help": what stands after the last dash is the site's name.
    parts = re.split(r"\s+[|–—·•-]\s+", " ".join(title.split()))
    return parts[0] if len(parts) > 1 and not shared else " ".join(parts)
