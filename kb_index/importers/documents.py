"""Word documents and PDF files with text."""

from __future__ import annotations

import hashlib
import io
import mimetypes
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import mammoth
import pdfplumber
from pdfminer.pdfdocument import PDFPasswordIncorrect
from pdfplumber.utils.exceptions import PdfminerException

from kb_index.articles import Article, folder_language
from kb_index.importers.base import (
    LARGEST_PICTURE_BYTES,
    MOST_PICTURES,
    Draft,
    DraftFile,
    Problem,
    SourceFile,
    name_as_title,
)
from kb_index.importers.html import NestingError, to_markdown
from kb_index.passages import first_heading, plain_text

LARGEST_UNPACKED_BYTES = 200_000_000
MOST_PAGES = 1000
_OLE = b"\xd0\xcf\x11\xe0"  # Word 97, or a document that is encrypted
_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
_BULLET = re.compile(r"^[•·▪‣◦●○■–—-]\s+")
_NUMBER = re.compile(r"^\d{1,3}[.)]\s+")
_SPECIAL = re.compile(r"^([#>+=]|```|~~~)")
_LIKE_A_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_HEADING_SIZE = 1.15
_EDGE = 0.08  # of the page's height: where running titles and page numbers stand
_PARAGRAPH_GAP = 0.6  # of a line's height
_FEWEST_LETTERS = 20  # on a page with text


class WordImporter:
    name = "Word document"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix in (".docx", ".docm", ".doc")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        """One article: its headings, lists, tables and pictures."""
        if file.data.startswith(_OLE) or file.suffix == ".doc":
            problem = "this is an old Word document, or one with a password"
            yield Problem(file.path, problem, "Open it and save it as .docx without a password")
            return
        pictures: dict[str, DraftFile] = {}
        notes: list[str] = []
        try:
            unpacked = unpacked_bytes(file.data)
            if unpacked > LARGEST_UNPACKED_BYTES:
                problem = f"unpacks to {unpacked:,} bytes, more than {LARGEST_UNPACKED_BYTES:,}"
                yield Problem(file.path, problem, "Split it, or remove large pictures; is it a document at all?")
                return
            html = mammoth.convert_to_html(
                io.BytesIO(file.data),
                style_map=_STYLES,
                convert_image=mammoth.images.img_element(lambda image: _keep(image, pictures, notes)),
                external_file_access=False,
            ).value
            body, more = to_markdown(html)
        except NestingError as error:
            yield Problem(file.path, str(error), "Copy the text into a new document")
            return
        except (MemoryError, RecursionError):
            raise  # the child process says these
        except Exception as error:  # noqa: BLE001 - whatever a foreign file makes of the library is the finding
            yield Problem(file.path, f"can't be read as a Word document ({_said(error)})", "Open it and save it anew")
            return
        if not plain_text(body).strip():
            yield Problem(file.path, "the document has no text", "Is it a picture? Write the text out")
            return
        title, body = first_heading(body) or ("", body)
        yield Draft(
            source=file.source,
            path=file.path,
            article=Article(
                id="",
                lang=folder_language(file.parts[:-1]) or "",
                title=title or name_as_title(file),
                body=body.strip("\n") or title,
            ),
            files=tuple(pictures.values()),
            notes=(*notes, *more),
        )


def unpacked_bytes(data: bytes) -> int:
    """What a zip says that it holds; reading gives no more than it says. Raises BadZipFile."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(member.file_size for member in archive.infolist())


def _keep(image: Any, pictures: dict[str, DraftFile], notes: list[str]) -> dict[str, str]:
    with image.open() as opened:
        data = opened.read(LARGEST_PICTURE_BYTES + 1)
    if len(data) > LARGEST_PICTURE_BYTES or len(pictures) >= MOST_PICTURES:
        notes.append("a picture was left out: too large, or too many")
        return {"src": "", "alt": image.alt_text or ""}
    kind = image.content_type or "application/octet-stream"
    name = f"files/{hashlib.sha256(data).hexdigest()[:16]}{mimetypes.guess_extension(kind) or '.bin'}"
    pictures[name] = DraftFile(name, data, kind)
    return {"src": name, "alt": image.alt_text or ""}


@dataclass(frozen=True)
class _Line:
    """A line of a PDF page; `top` and `bottom` in points from the page's upper edge."""

    text: str
    size: float
    bold: bool
    top: float
    bottom: float
    page: int
    edge: bool


class PdfImporter:
    name = "PDF"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix == ".pdf" or file.data.startswith(b"%PDF-")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        """One article: headings told by the size of letters, paragraphs, lists, and tables with lines."""
        try:
            with pdfplumber.open(io.BytesIO(file.data)) as pdf:
                if len(pdf.pages) > MOST_PAGES:
                    yield Problem(file.path, f"has {len(pdf.pages)} pages, more than {MOST_PAGES}", "Split it")
                    return
                lines, empty = _pdf_lines(pdf.pages)
        except (MemoryError, RecursionError):
            raise  # the child process says these
        except Exception as error:
            cause = error.args[0] if isinstance(error, PdfminerException) and error.args else error
            if isinstance(cause, MemoryError | RecursionError):
                raise cause from error  # the child process says these
            if isinstance(cause, PDFPasswordIncorrect):
                yield Problem(file.path, "the PDF needs a password", "Save it without one")
            else:
                yield Problem(file.path, f"can't be read as a PDF ({_said(cause)})", "Print it to a new PDF")
            return
        if not lines:
            yield Problem(file.path, "the PDF has no text: it is a scan", "Recognise its text first (OCR)")
            return
        title, body = _pdf_markdown(lines)
        notes = tuple(f"page {number} has no text" for number in empty)
        lang = folder_language(file.parts[:-1]) or ""
        article = Article(id="", lang=lang, title=title or name_as_title(file), body=body)
        yield Draft(source=file.source, path=file.path, article=article, notes=notes)


def _said(error: object) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].removesuffix(": ")


def _pdf_lines(pages: Sequence[Any]) -> tuple[list[_Line], list[int]]:
    """The lines in reading order without running titles, and the numbers of pages without text."""
    lines: list[_Line] = []
    empty = []
    for number, page in enumerate(pages, 1):
        if len(page.chars) < _FEWEST_LETTERS and page.images:
            empty.append(number)
        lines += _page_lines(page, number)
        page.close()  # drops what was read of it
    # What stands at the edge of many pages, numbers aside, is no text of the article.
    seen = Counter(key for key, _ in {(_running(line), line.page) for line in lines if line.edge})
    often = max(3, len(pages) // 2)
    kept = [
        line
        for line in lines
        if not (line.edge and (seen[_running(line)] >= often or not re.search(r"[^\W\d_]", line.text)))
    ]
    return kept, empty


def _running(line: _Line) -> str:
    return re.sub(r"\d+", "#", line.text)


def _page_lines(page: Any, number: int) -> list[_Line]:
    tables = [table for table in page.find_tables() if len(table.rows) > 1 and len(table.rows[0].cells) > 1]
    words = page.extract_words(use_text_flow=True, extra_attrs=["size", "fontname"], keep_blank_chars=False)
    found: list[_Line] = []
    pending = sorted(tables, key=lambda table: -table.bbox[1])
    row: list[Any] = []

    def flush() -> None:
        if row:
            text = " ".join(word["text"] for word in row)
            size = Counter({word["size"]: 0 for word in row})
            for word in row:
                size[word["size"]] += len(word["text"])
            bold = all(re.search("bold|black|semibold|heavy", word["fontname"], re.I) for word in row)
            top, bottom = min(word["top"] for word in row), max(word["bottom"] for word in row)
            edge = bottom < page.height * _EDGE or top > page.height * (1 - _EDGE)
            found.append(_Line(text, round(size.most_common(1)[0][0], 1), bold, top, bottom, number, edge))
            row.clear()

    def insert_tables(above: float) -> None:
        while pending and pending[-1].bbox[1] <= above:
            table = pending.pop()
            text = _table(table.extract())
            if text:
                found.append(_Line(text, 0, False, table.bbox[1], table.bbox[3], number, False))

    for word in words:
        middle = (word["top"] + word["bottom"]) / 2
        if any(t.bbox[0] <= word["x0"] <= t.bbox[2] and t.bbox[1] <= middle <= t.bbox[3] for t in tables):
            continue
        if row and abs(row[-1]["bottom"] - word["bottom"]) > 0.5 * (word["bottom"] - word["top"]):
            flush()
        if not row:
            insert_tables(word["top"])
        row.append(word)
    flush()
    insert_tables(float("inf"))
    return found


def _table(rows: Sequence[Sequence[str | None]]) -> str:
    cells = [[" ".join((cell or "").replace("|", "\\|").split()) for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    if not cells:
        return ""
    written = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([written[0], f"|{'---|' * len(cells[0])}", *written[1:]])


def _pdf_markdown(lines: Sequence[_Line]) -> tuple[str, str]:
    """Title and body. The largest letters of the first page are the title."""
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[line.size] += len(line.text) if line.size else 0
    usual = sizes.most_common(1)[0][0] if sizes else 0.0
    larger = sorted({line.size for line in lines if line.size >= usual * _HEADING_SIZE}, reverse=True)
    title_size = (
        larger[0] if larger and any(line.page == lines[0].page and line.size == larger[0] for line in lines) else 0
    )
    levels = {size: min(2 + depth, 6) for depth, size in enumerate(s for s in larger if s != title_size)}
    title = ""
    blocks: list[str] = []
    for size, group in groupby(_paragraphs(lines), key=lambda paragraph: paragraph[0].size):
        for paragraph in group:
            text = _joined(paragraph)
            if size == title_size and size and not title:
                title = text
            elif size in levels or (size and size == title_size):
                blocks.append(f"{'#' * levels.get(size, 2)} {text}")
            elif paragraph[0].bold and len(paragraph) == 1 and len(text) < 80 and text[-1] not in ".,;:!?":
                blocks.append(f"{'#' * min(2 + len(levels), 6)} {text}")
            elif not size:
                blocks.append(text)
            else:
                blocks.append(_listed(text))
    joined = ""
    for block in blocks:
        item = bool(re.match(r"- |\d{1,3}[.)] ", block))
        joined += ("\n" if item and re.match(r"(- |\d{1,3}[.)] )", joined.rpartition("\n")[2]) else "\n\n") + block
    return title, joined.strip() or title


def _paragraphs(lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    current: list[_Line] = []
    for line in lines:
        if current:
            last = current[-1]
            height = last.bottom - last.top
            apart = line.page == last.page and not -height < line.top - last.bottom < _PARAGRAPH_GAP * height
            ended = line.page != last.page and last.text.endswith((".", "!", "?", ":", ";"))
            item = _BULLET.match(line.text) or _NUMBER.match(line.text)
            if apart or ended or item or line.size != last.size or line.bold != last.bold or not line.size:
                yield current
                current = []
        current.append(line)
    if current:
        yield current


def _joined(paragraph: Sequence[_Line]) -> str:
    text = paragraph[0].text
    for line in paragraph[1:]:
        if re.search(r"\w[-\u00ad]$", text) and line.text[:1].islower():
            text = text[:-1] + line.text
        else:
            text = f"{text} {line.text}"
    return text.replace("\u00ad", "")


def _listed(text: str) -> str:
    if _BULLET.match(text):
        return "- " + _LIKE_A_TAG.sub(r"\\<", _BULLET.sub("", text))
    return _LIKE_A_TAG.sub(r"\\<", _SPECIAL.sub(r"\\\1", text))
