"""Questions and answers in CSV files and Excel workbooks."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import openpyxl

from kb_index.articles import LANGUAGES, Article, folder_language
from kb_index.importers.base import Draft, Problem, SourceFile
from kb_index.importers.documents import LARGEST_UNPACKED_BYTES, unpacked_bytes
from kb_index.importers.html import NestingError, to_markdown
from kb_index.importers.text import decode_text
from kb_index.passages import plain_text

MOST_ROWS = 50_000
MOST_COLUMNS = 100
LONGEST_CELL = 200_000

# Names of columns, small letters, in both languages; the first that fits a column counts.
_COLUMNS = {
    "answer": r"ответы?|решение|answers?|response|reply|текст(?: ответа| статьи)?|содержание|text|body|content|a",
    "question": r"вопросы?|вопрос клиента|запрос|questions?|query|faq|q|"
    r"(?:вариант\w*|пример\w*|синоним\w*|формулировк\w*)(?: вопрос\w*)?|variants?|examples?|synonyms?|"
    r"alternat\w+(?: questions?)?|utterances?|example questions",
    "title": r"заголовок|название(?: статьи)?|title|name|subject",
    "id": r"id|код|идентификатор|article[_ ]?id|ключ|key",
    "lang": r"язык|lang(?:uage)?|locale",
    "topic": r"тема|topic",
    "tags": r"теги|тэги|метки|категория|раздел|tags?|labels?|category|section|group|группа",
}
_FORMULA = re.compile(r"[=@][A-Za-z(+\-]|[+\-]?=\w|\+[A-Za-z]+\(|@[A-Za-z]+\(")
_HTML = re.compile(r"</?(?:p|br|a|b|i|ul|ol|li|div|span|strong|em|table|h[1-6])\b[^>]*>", re.I)
_OWN_ID = re.compile(r"(?=.*[A-Za-z])[\w.-]{3,120}")
_SEVERAL = re.compile(r"\s*(?:\n|\|)\s*")


Row = TypeVar("Row", bound=Sequence[object])


@dataclass
class _Entry:
    """One answer with all of its questions, from one row or several."""

    row: int
    answer: str
    questions: list[str] = field(default_factory=list)
    title: str = ""
    id: str = ""
    lang: str = ""
    topic: str = ""
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class CsvImporter:
    name = "CSV"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix in (".csv", ".tsv")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        """An article for each answer; rows with the same answer are questions to one article."""
        decoded = decode_text(file.data)
        if decoded is None:
            yield Problem(file.path, "this is no text", "Save the table as CSV in UTF-8")
            return
        text, encoding = decoded
        notes = (f"read as {encoding}",) if encoding not in ("utf-8", "ascii") else ()
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        try:
            rows = [(reader.line_num, row) for row in _limited(reader)]
        except csv.Error as error:
            remedy = f"Look for a quote that is not closed, or a cell over {LONGEST_CELL:,} characters"
            yield Problem(file.path, f"can't be read as CSV ({error})", remedy, f"line {reader.line_num}")
            return
        yield from _entries(file, rows, "", notes)


class WorkbookImporter:
    name = "Excel workbook"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix in (".xlsx", ".xlsm", ".xls")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        """As a CSV file, from every sheet; of formulas the values that Excel last computed."""
        if file.suffix == ".xls" or file.data.startswith(b"\xd0\xcf\x11\xe0"):
            problem = "this is an old Excel workbook, or one with a password"
            yield Problem(file.path, problem, "Open it and save it as .xlsx without a password")
            return
        try:
            if (unpacked := unpacked_bytes(file.data)) > LARGEST_UNPACKED_BYTES:
                problem = f"unpacks to {unpacked:,} bytes, more than {LARGEST_UNPACKED_BYTES:,}"
                yield Problem(file.path, problem, "Split it; is it a workbook at all?")
                return
            book = openpyxl.load_workbook(io.BytesIO(file.data), read_only=True, data_only=True, keep_links=False)
        except (MemoryError, RecursionError):
            raise  # the child process says these
        except Exception as error:  # noqa: BLE001 - whatever a foreign file makes of the library is the finding
            said = "no workbook" if isinstance(error, zipfile.BadZipFile) else type(error).__name__
            yield Problem(file.path, f"can't be read as an Excel workbook ({said})", "Open it and save it anew")
            return
        for sheet in book.worksheets:
            try:
                cells = sheet.iter_rows(values_only=True, max_col=MOST_COLUMNS)
                rows = [
                    (number, ["" if cell is None else str(cell) for cell in row])
                    for number, row in enumerate(_limited(cells), 1)
                ]
            except (MemoryError, RecursionError):
                raise
            except Exception as error:  # noqa: BLE001 - as above
                said = f"the sheet can't be read ({type(error).__name__})"
                yield Problem(file.path, said, "Open the workbook and save it anew", f"sheet {sheet.title}")
                continue
            if any(any(cell.strip() for cell in row) for _, row in rows):
                yield from _entries(file, rows, sheet.title, ())
        book.close()


def _limited(rows: Iterable[Row]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number > MOST_ROWS:
            return  # one more than allowed is enough to see that there are too many
        yield row


def _delimiter(text: str) -> str:
    """The sign that cuts the first lines into the same number of cells, most of them."""
    sample = text[:20_000]
    best, most = ",", 0
    for sign in ",;\t|":
        counts = [len(row) for row in csv.reader(io.StringIO(sample), delimiter=sign) if row][:20]
        score = counts.count(counts[0]) * (counts[0] - 1) if counts else 0
        if score > most:
            best, most = sign, score
    return best


def _entries(
    file: SourceFile, rows: Sequence[tuple[int, Sequence[str]]], sheet: str, notes: tuple[str, ...]
) -> Iterator[Draft | Problem]:
    def where(row: int) -> str:
        return f"sheet {sheet}, row {row}" if sheet else f"line {row}"

    filled = [(number, [cell.strip() for cell in row]) for number, row in rows if any(cell.strip() for cell in row)]
    if not filled:
        yield Problem(file.path, "the table is empty", "Fill in questions and answers")
        return
    columns = _columns(filled[0][1])
    if columns is None and len(filled[0][1]) == 2:
        columns = {"question": [0], "answer": [1]}  # two columns without a heading
    elif columns is not None:
        filled = filled[1:]
    if columns is None or "answer" not in columns or not {"question", "title"} & set(columns):
        remedy = "Name two columns in the first row: question and answer (вопрос и ответ)"
        problem = "no columns of questions and answers were found"
        yield Problem(file.path, problem, remedy, f"sheet {sheet}" if sheet else "")
        return
    if len(rows) > MOST_ROWS:
        yield Problem(file.path, f"has more than {MOST_ROWS:,} rows: the rest was left out", "Split it")
    entries: dict[tuple[str, ...], _Entry] = {}
    for number, row in filled[:MOST_ROWS]:
        found = _entry(number, row, columns)
        if isinstance(found, str):
            yield Problem(file.path, found, _REMEDIES[found], where(number))
            continue
        # The same answer in several rows is one article with several questions.
        key = (found.id, found.lang) if found.id else (found.answer, found.lang, found.title)
        known = entries.setdefault(key, found)
        if known is not found:
            known.questions += found.questions
            if found.id and found.answer != known.answer:
                problem = f"another answer for the id {found.id}"
                yield Problem(file.path, problem, "Give it another id, or the same answer", where(number))
    for entry in entries.values():
        yield _draft(file, entry, sheet, notes)


_REMEDIES = {
    "the row has no answer": "Write one; a further question to the answer above repeats that answer",
    "the row has no question": "Write one",
    "the cell holds a formula": "Paste the value in its place",
    "the answer's HTML is nested too deeply": "Paste plain text",
}


def _columns(heading: Sequence[str]) -> dict[str, list[int]] | None:
    found: dict[str, list[int]] = {}
    for number, cell in enumerate(heading[:MOST_COLUMNS]):
        name = re.sub(r"[\s_]*\d*$", "", " ".join(cell.casefold().replace("ё", "е").split())).strip(" :№#*")
        kind = next((kind for kind, pattern in _COLUMNS.items() if re.fullmatch(pattern, name)), None)
        if kind and (kind == "question" or kind not in found):
            found.setdefault(kind, []).append(number)
    return found or None


def _entry(number: int, row: Sequence[str], columns: dict[str, list[int]]) -> _Entry | str:
    def cell(kind: str) -> str:
        return next((row[at] for at in columns.get(kind, ()) if at < len(row)), "")

    answer = cell("answer")
    questions = [
        text for at in columns.get("question", ()) if at < len(row) for text in _SEVERAL.split(row[at]) if text.strip()
    ]
    title = " ".join(cell("title").split())
    if not answer:
        return "the row has no answer"
    if not questions and not title:
        return "the row has no question"
    if any(_FORMULA.match(text) for text in (answer, title, *questions)):
        return "the cell holds a formula"
    notes: list[str] = []
    if _HTML.search(answer):
        try:
            answer, notes = to_markdown(answer)
        except NestingError:
            return "the answer's HTML is nested too deeply"
    if not plain_text(answer).strip():
        return "the row has no answer"
    lang = cell("lang")[:2].lower()
    return _Entry(
        row=number,
        answer=answer,
        questions=[" ".join(text.split()) for text in questions],
        title=title,
        id=cell("id"),
        lang=lang if lang in LANGUAGES else "",
        topic=cell("topic"),
        tags=tuple(tag for tag in (part.strip() for part in re.split(r"[,;|\n]", cell("tags"))) if tag),
        notes=tuple(notes),
    )


def _draft(file: SourceFile, entry: _Entry, sheet: str, notes: tuple[str, ...]) -> Draft:
    questions = tuple(dict.fromkeys(entry.questions))
    title = entry.title or questions[0]
    name = "/".join(part for part in (file.source, sheet) if part)
    return Draft(
        source=f"{name}#{entry.id or title.casefold()}"[:1000],
        path=file.path,
        article=Article(
            # A mere number says nothing, and other tables have the same.
            id=entry.id if _OWN_ID.fullmatch(entry.id) else "",
            lang=entry.lang or folder_language(file.parts[:-1]) or "",
            title=title[:200],
            body=entry.answer,
            topic=entry.topic,
            questions=tuple(text for text in questions if text != title),
            tags=entry.tags,
        ),
        notes=(*notes, *entry.notes),
        line=entry.row,
    )
