"""An article cut into passages: by heading, with paragraphs merged up to a size that fits one reply."""

import re
from dataclasses import dataclass
from functools import cache, cached_property

from markdown_it import MarkdownIt
from markdown_it.token import Token

WORDS_PER_PASSAGE = 150
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"»”)\]]*\s+(?=[\"«“(\[]?[A-ZА-ЯЁ0-9])|\n{2,}")
_NUMBER = re.compile(r"\d+[.)]\s+")
_LOCAL = re.compile(r"!?\[([^\[\]]*)\]\((?!\s*<?(?:https?:|mailto:|tel:))[^()\s]*(?:\s[^()]*)?\)")
_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_LINE_START = re.compile(r"(?<=\n)")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Passage:
    """A part of an article that can stand as an answer.

    `text` is the Markdown as written; `headings` the path of headings above it, outermost first, without the title.
    """

    article_id: str
    lang: str
    headings: tuple[str, ...]
    text: str

    @cached_property
    def plain(self) -> str:
        """The text without markup, for vectors and words."""
        return plain_text(self.text)


@dataclass(frozen=True)
class Section:
    """One block of Markdown and the headings above it."""

    headings: tuple[str, ...]
    text: str


def split_passages(article_id: str, lang: str, body: str, words: int = WORDS_PER_PASSAGE) -> tuple[Passage, ...]:
    """Cut Markdown into passages of at most about `words` words, in reading order; a blank body gives none.

    Blocks under one heading are merged while they fit. A single block that is too long is cut between sentences,
    or between words when a sentence alone is too long.
    """
    merged: list[Section] = []
    for section in _sections(body):
        for piece in _cut(section.text, words):
            last = merged[-1] if merged else None
            if last and last.headings == section.headings and _count(last.text) + _count(piece) <= words:
                merged[-1] = Section(last.headings, f"{last.text}\n\n{piece}")
            else:
                merged.append(Section(section.headings, piece))
    return tuple(Passage(article_id, lang, section.headings, section.text) for section in merged)


def sentences(text: str) -> list[str]:
    """Sentences of plain text, in order, without blank ones."""
    return [part for piece in _SENTENCE_END.split(text) if (part := _SPACES.sub(" ", piece).strip())]


def plain_text(markdown: str) -> str:
    """The words a reader sees: no markup, no link targets, no HTML tags; blocks are separated by a blank line."""
    return "\n\n".join(line for token in _parser().parse(markdown) if (line := _block_text(token)))


def links(markdown: str) -> list[str]:
    """Targets of all links and pictures, in order."""
    found = []
    for token in _parser().parse(markdown):
        for child in token.children or ():
            target = child.attrGet("href" if child.type == "link_open" else "src")
            if child.type in ("link_open", "image") and target:
                found.append(str(target))
    return found


def pictures(markdown: str) -> list[str]:
    """Targets of the pictures, in order."""
    children = (child for token in _parser().parse(markdown) for child in token.children or ())
    return [str(child.attrGet("src")) for child in children if child.type == "image" and child.attrGet("src")]


def readable(markdown: str) -> str:
    """The Markdown as a message: of links to other articles and of pictures, which lead nowhere there, the words."""
    parts = _CODE.split(markdown)
    parts[::2] = [_LOCAL.sub(r"\1", part) for part in parts[::2]]
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip()


def list_steps(markdown: str) -> tuple[str, ...]:
    """Items of the outermost numbered lists, as Markdown, in order."""
    lines = _lines(markdown)
    found: list[str] = []
    ordered = False
    for token in _parser().parse(markdown):
        if token.level == 0 and token.type in ("ordered_list_open", "bullet_list_open"):
            ordered = token.type == "ordered_list_open"
        if ordered and token.level == 1 and token.type == "list_item_open" and token.map:
            item = "".join(lines[token.map[0] : token.map[1]])
            found.append(_NUMBER.sub("", item.strip(), count=1))
    return tuple(found)


def first_heading(markdown: str) -> tuple[str, str] | None:
    """The first heading's text when the document begins with one, and the document without it."""
    tokens = _parser().parse(markdown)
    if len(tokens) < 2 or tokens[0].type != "heading_open" or tokens[0].map is None:
        return None
    lines = _lines(markdown)
    start, end = tokens[0].map
    return _block_text(tokens[1]), "".join(lines[:start] + lines[end:])


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


def _block_text(token: Token) -> str:
    if token.type in ("fence", "code_block"):
        return token.content.strip()
    if token.type != "inline":
        return ""
    parts = []
    for child in token.children or ():
        if child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return _SPACES.sub(" ", "".join(parts)).strip()


def _sections(body: str) -> list[Section]:
    tokens = _parser().parse(body)
    lines = _lines(body)
    path: list[tuple[int, str]] = []
    found: list[Section] = []
    for position, token in enumerate(tokens):
        if token.level != 0 or token.map is None or token.nesting == -1:
            continue
        if token.type == "heading_open":
            depth = int(token.tag[1])
            path = [(level, title) for level, title in path if level < depth]
            path.append((depth, _block_text(tokens[position + 1])))
            continue
        text = "".join(lines[token.map[0] : token.map[1]]).strip()
        if text:
            found.append(Section(tuple(title for _, title in path), text))
    return found


def _lines(markdown: str) -> list[str]:
    # As the parser counts them: str.splitlines also ends lines at form feeds and the like.
    return _LINE_START.split(markdown)


def _count(text: str) -> int:
    return len(text.split())


def _cut(text: str, words: int) -> list[str]:
    if _count(text) <= words:
        return [text]
    pieces: list[str] = []
    size = 0
    for part in _parts(text, words):
        count = _count(part)
        if pieces and size + count <= words:
            pieces[-1] = f"{pieces[-1]}{_joint(text)}{part}"
            size += count
        else:
            pieces.append(part)
            size = count
    return pieces


def _joint(text: str) -> str:
    return "\n" if "\n" in text else " "


def _parts(text: str, words: int) -> list[str]:
    units = [line for line in text.splitlines() if line.strip()] if "\n" in text else sentences(text)
    parts: list[str] = []
    for unit in units:
        if _count(unit) <= words:
            parts.append(unit)
        elif "\n" in text:
            parts.extend(_parts(unit, words))
        else:
            tokens = unit.split()
            parts.extend(" ".join(tokens[start : start + words]) for start in range(0, len(tokens), words))
    return parts
