"""Others' files become articles, and what can't be read is a line that says so; the rest is imported."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
import openpyxl
import pytest
from fpdf import FPDF

from kb_index.errors import ImportSourceError
from kb_index.importers.base import Draft, Problem, SourceFile
from kb_index.importers.html import DEEPEST, to_markdown
from kb_index.importers.reader import read_path
from kb_index.importers.text import decode_text
from kb_index.importers.worker import read
from kb_index.passages import WORDS_PER_PASSAGE, split_passages

PARAGRAPH = "В Москву и Санкт-Петербург доставляем за 1–2 дня, в другие города за 3–7 дней после оплаты заказа."
ARTICLE = f"""<h1>Сроки доставки</h1><p>{PARAGRAPH} Подробнее: <a href="cost.html">стоимость</a>.</p>
<table><tr><th>Куда</th><th>Срок</th></tr><tr><td>Москва</td><td>1–2 дня</td></tr></table>
<h2>Как узнать дату</h2><ol><li>Добавьте товар.</li><li>Укажите <b>город</b>.<ul><li>или пункт</li></ul></li></ol>
<p onclick="steal()">Напишите &lt;order number&gt; <a href="javascript:alert(1)">сюда</a><script>alert(1)</script></p>
<img src="img/map.png" alt="Карта">"""
PAGE = """<!doctype html><html lang="ru"><head><title>Сроки доставки – Клён</title></head><body>
<header><nav><ul><li><a href="/">Главная</a></li><li><a href="/p">Оплата</a></li></ul></nav></header>
<div class="breadcrumbs"><a href="x">Помощь</a> / Доставка</div>
%s
<aside><h3>Похожие статьи</h3><ul><li><a href="z">Другая статья</a></li></ul></aside>
<footer><p>© 2026 Клён. Все права защищены.</p></footer></body></html>"""
BODY = f"""{PARAGRAPH} Подробнее: [стоимость](cost.html).

| Куда   | Срок    |
| ------ | ------- |
| Москва | 1–2 дня |

## Как узнать дату

1. Добавьте товар.
2. Укажите **город**.
   - или пункт

Напишите \\<order number> сюда

![Карта](img/map.png)"""


def png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def found(name: str, data: bytes | str, beside: dict[str, bytes] | None = None) -> list[Draft | Problem]:
    raw = data.encode() if isinstance(data, str) else data
    return list(read(SourceFile("help", name, raw, (beside or {}).get)))


def draft(name: str, data: bytes | str, beside: dict[str, bytes] | None = None) -> Draft:
    (each,) = found(name, data, beside)
    assert isinstance(each, Draft), each
    return each


def problem(name: str, data: bytes | str) -> Problem:
    (each,) = found(name, data)
    assert isinstance(each, Problem), each
    assert each.remedy
    return each


def word(fill: Callable[[Any], None]) -> bytes:
    document, out = docx.Document(), io.BytesIO()
    fill(document)
    document.save(out)
    return out.getvalue()


def pdf(fill: Callable[[FPDF], None]) -> bytes:
    document = FPDF()
    document.set_font("helvetica", size=11)
    fill(document)
    return bytes(document.output())


def workbook(**sheets: list[list[object]]) -> bytes:
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(out)
    return out.getvalue()


# Web pages


@pytest.mark.parametrize(
    "around", ["<main><article>%s</article></main>", '<div class="article-body">%s</div>', "<div><div>%s</div></div>"]
)
def test_of_a_saved_page_the_article_alone_is_taken(around: str) -> None:
    page = draft("ru/delivery.html", PAGE % (around % ARTICLE), {"ru/img/map.png": png()})
    assert page.article.title == "Сроки доставки"
    assert page.article.lang == "ru"
    assert page.article.body == BODY
    assert [(file.target, file.mime_type) for file in page.files] == [("img/map.png", "image/png")]
    assert page.notes == ("scripts and the like were left out",)
    assert page.source == "help/delivery.html"


def test_a_page_in_cp1251_is_read_as_it_says_and_as_it_looks() -> None:
    says = PAGE.replace("<head>", '<head><meta charset="windows-1251">') % f"<main>{ARTICLE}</main>"
    assert draft("a.html", says.encode("cp1251")).article.body.startswith("В Москву")
    looks = draft("a.html", (PAGE % f"<main>{ARTICLE}</main>").encode("cp1251"))
    assert looks.article.body.startswith("В Москву")
    assert "read as cp1251" in looks.notes


def test_dangerous_html_becomes_harmless_markdown() -> None:
    markdown, notes = to_markdown(
        '<p>a<img src=x onerror=alert(1)><svg><script>alert(1)</script></svg><a href=" JaVaScRiPt:alert(1)">b</a>'
        '<a href="data:text/html,x">c</a><form><input></form><style>p{}</style></p><iframe src="https://v.example/1">'
        "</iframe><object data=x></object>"
    )
    for bad in ("script", "alert", "onerror", "data:", "<form", "<iframe", "p{}"):
        assert bad not in markdown.lower()
    assert "https://v.example/1" in markdown
    assert len(notes) == 2


def test_a_deeply_nested_page_is_refused_before_it_is_parsed() -> None:
    deep = "<div>" * 100_000 + PARAGRAPH
    assert "nested 100000 deep" in problem("a.html", deep).problem
    fine = "<div>" * (DEEPEST - 10) + f"<p>{PARAGRAPH}</p>" + "</div>" * (DEEPEST - 10)
    assert draft("a.html", fine).article.body == PARAGRAPH


@pytest.mark.parametrize("text", ["", "<html><body><nav>Menu</nav></body></html>"])
def test_a_page_without_an_article_is_reported(text: str) -> None:
    assert problem("a.html", text).problem in ("the file is empty", "no article was found in the page")


def test_a_list_of_links_is_no_article() -> None:
    entries = "".join(f'<li><a href="{n}.html">How to return goods, part {n}</a></li>' for n in range(9))
    page = PAGE % f"<main><h1>Returns</h1><ul>{entries}</ul></main>"
    assert "a list of links" in problem("index.html", page).problem


# Word


def fill_word(document: Any) -> None:
    document.add_heading("Возврат товара", 0)
    document.add_paragraph("Вернуть можно за 14 дней.")
    document.add_heading("Как вернуть", 1)
    for step in ("Заполните заявление", "Отнесите в пункт"):
        document.add_paragraph(step, style="List Number")
    table = document.add_table(2, 2)
    for row, cells in enumerate((("Куда", "Срок"), ("Москва", "1 день"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    document.add_heading("Фото", 2)
    document.add_picture(io.BytesIO(png()))


def test_a_word_document_keeps_headings_lists_tables_and_pictures() -> None:
    each = draft("возврат.docx", word(fill_word))
    (picture,) = each.files
    assert picture.data == png()
    assert each.article.title == "Возврат товара"
    assert each.article.body == (
        "Вернуть можно за 14 дней.\n\n# Как вернуть\n\n1. Заполните заявление\n2. Отнесите в пункт\n\n"
        f"| Куда   | Срок   |\n| ------ | ------ |\n| Москва | 1 день |\n\n## Фото\n\n![]({picture.target})"
    )


def test_a_word_document_without_headings_is_named_after_its_file() -> None:
    each = draft("return_policy.docx", word(lambda document: document.add_paragraph("You have 14 days.")))
    assert (each.article.title, each.article.body) == ("Return policy", "You have 14 days.")


def test_a_zip_bomb_in_a_word_document_is_not_unpacked() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", b"<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(b" " * 1_000_000)
    assert len(out.getvalue()) < 1_000_000
    assert "unpacks to 300,000,0" in problem("bomb.docx", out.getvalue()).problem


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("old.doc", b"\xd0\xcf\x11\xe0" + b"\0" * 600, "password"),
        ("locked.docx", b"\xd0\xcf\x11\xe0" + b"\0" * 600, "password"),
        ("not.docx", b"hello", "can't be read as a Word document"),
        ("locked.xlsx", b"\xd0\xcf\x11\xe0" + b"\0" * 600, "password"),
        ("not.xlsx", b"hello", "can't be read as an Excel workbook"),
        ("not.pdf", b"hello", "can't be read as a PDF"),
        ("empty.docx", word(lambda _document: None), "no text"),
        ("binary.md", b"\x00\x01\xff\xfe" * 50, "this is no text"),
        ("cyrillic.md", "---\nid: a\ntitle: Т\n---\nТекст\n".encode("cp1251"), "not UTF-8"),
        ("wrong.md", "---\nid: a\ntpoic: x\ntitle: T\n---\nB\n", "unknown key 'tpoic'"),
        ("endless.md", "x " * 200_000, "more than 200,000 characters"),
        ("what.xyz", b"hello", "this kind of file is not known"),
        ("cut.json", b'{"articles": [', "this is no JSON"),
        ("other.json", b'{"tickets": []}', "no articles of a known help desk"),
        ("none.csv", "a,b,c\n1,2,3\n", "no columns of questions and answers"),
        ("unclosed.csv", 'question,answer\na,"b' + "x" * 300_000, "can't be read as CSV"),
    ],
)
def test_bad_input_is_one_clear_line(name: str, data: bytes | str, text: str) -> None:
    assert text in problem(name, data).problem


# PDF


def fill_pdf(document: FPDF) -> None:
    for page in range(4):
        document.add_page()
        document.set_font("helvetica", size=8)
        document.set_y(8)
        document.cell(0, 5, "Klyon help centre", new_x="LMARGIN", new_y="NEXT")
        document.set_y(30)
        if page == 0:
            document.set_font("helvetica", size=22)
            document.cell(0, 12, "Returning goods", new_x="LMARGIN", new_y="NEXT")
        document.set_font("helvetica", size=15)
        document.cell(0, 10, f"Section {page}", new_x="LMARGIN", new_y="NEXT")
        document.set_font("helvetica", size=11)
        document.multi_cell(0, 6, "You may return goods within two weeks. " * 6, new_x="LMARGIN", new_y="NEXT")
        document.ln(4)
        document.multi_cell(0, 6, "- first item\n- second item", new_x="LMARGIN", new_y="NEXT")
        document.ln(4)
        with document.table() as table:
            for cells in (("Where", "Days"), ("Moscow", "1-2")):
                row = table.row()
                for cell in cells:
                    row.cell(cell)
        document.set_auto_page_break(False)
        document.set_y(-12)
        document.set_font("helvetica", size=8)
        document.cell(0, 5, f"Page {page + 1}")
        document.set_auto_page_break(True, 20)


def test_a_pdf_gives_headings_by_size_paragraphs_lists_and_tables_without_running_titles() -> None:
    article = draft("returns.pdf", pdf(fill_pdf)).article
    assert article.title == "Returning goods"
    paragraph = ("You may return goods within two weeks. " * 6).strip()
    section = f"{paragraph}\n\n- first item\n- second item\n\n| Where | Days |\n|---|---|\n| Moscow | 1-2 |"
    assert article.body == "\n\n".join(f"## Section {page}\n\n{section}" for page in range(4))


def test_a_pdf_with_a_password_is_reported() -> None:
    def fill(document: FPDF) -> None:
        document.set_encryption("owner", "user")
        document.add_page()
        document.cell(0, 5, "secret")

    assert "needs a password" in problem("a.pdf", pdf(fill)).problem


def test_a_scanned_pdf_is_reported() -> None:
    def fill(document: FPDF) -> None:
        document.add_page()
        document.image(io.BytesIO(png()), w=100)

    assert "scan" in problem("a.pdf", pdf(fill)).problem


# Tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251", "utf-16"])
@pytest.mark.parametrize("sign", [";", ",", "\t"])
def test_a_csv_is_read_in_any_encoding_with_any_delimiter(encoding: str, sign: str) -> None:
    rows = ["Вопрос|Ответ|Тема", "Как оплатить заказ?|Картой или наличными|payment", "Где мой чек?|На почте|payment"]
    text = "\r\n".join(rows).replace("|", sign)
    drafts = found("faq.csv", text.encode(encoding))
    assert [(d.article.title, d.article.body, d.article.topic) for d in drafts if isinstance(d, Draft)] == [
        ("Как оплатить заказ?", "Картой или наличными", "payment"),
        ("Где мой чек?", "На почте", "payment"),
    ]


def test_rows_with_one_answer_are_one_article_with_several_questions() -> None:
    text = "question 1,question 2,answer\nHow to pay?,Can I pay by card?,By card\nWhich cards?|Visa?,,By card\n"
    article = draft("faq.csv", text).article
    assert article.title == "How to pay?"
    assert article.questions == ("Can I pay by card?", "Which cards?", "Visa?")


def test_a_row_that_cannot_be_used_is_named_and_the_others_are_read() -> None:
    text = (
        "Question,Answer\nHow to pay?,By card\nWhere is my receipt?,\n,An answer\n"
        '=HYPERLINK("http://x"),y\nWhy?,"=cmd|\'/c calc\'!A0"\nCall?,+7 999 123-45-67\nEmail?,"- a\n- b"\n'
    )
    each = found("faq.csv", text)
    assert [d.article.body for d in each if isinstance(d, Draft)] == ["By card", "+7 999 123-45-67", "- a\n- b"]
    assert [(p.where, p.problem) for p in each if isinstance(p, Problem)] == [
        ("line 3", "the row has no answer"),
        ("line 4", "the row has no question"),
        ("line 5", "the cell holds a formula"),
        ("line 6", "the cell holds a formula"),
    ]


def test_every_sheet_of_a_workbook_is_read() -> None:
    data = workbook(
        FAQ=[["№", "Вопрос", "Ответ", "Теги"], [1, "Как оплатить?", "<p>Картой <b>онлайн</b></p>", "оплата, карта"]],
        Notes=[["see", "other", "sheet"]],
        English=[["Title", "Text", "Lang"], ["Returns", "Fourteen days", "en"]],
    )
    first, note, second = found("faq.xlsx", data)
    assert isinstance(first, Draft)
    assert isinstance(note, Problem)
    assert isinstance(second, Draft)
    assert (first.article.title, first.article.body) == ("Как оплатить?", "Картой **онлайн**")
    assert first.article.tags == ("оплата", "карта")
    assert note.where == "sheet Notes"
    assert (second.article.title, second.article.body, second.article.lang) == ("Returns", "Fourteen days", "en")


# Help desks


ZENDESK = {
    "count": 3,
    "next_page": None,
    "sections": [{"id": 7, "name": "Delivery"}],
    "articles": [
        {
            "id": 28523513715859,
            "url": "https://klyon.zendesk.com/api/v2/help_center/en-us/articles/28523513715859.json",
            "html_url": "https://klyon.zendesk.com/hc/en-us/articles/28523513715859-Delivery",
            "section_id": 7,
            "name": "Delivery",
            "title": "Delivery",
            "source_locale": "en-us",
            "locale": locale,
            "draft": draft,
            "user_segment_id": segment,
            "label_names": ["courier"],
            "body": f"<p>{body}</p>",
        }
        for locale, body, draft, segment in (
            ("en-us", "One to two days.", False, None),
            ("ru", "Один-два дня.", True, None),
        )
    ],
}
INTERCOM = {
    "type": "list",
    "pages": {"type": "pages", "page": 1},
    "total_count": 1,
    "data": [
        {
            "id": "6871119",
            "type": "article",
            "workspace_id": "hfi1bx4l",
            "title": "Delivery",
            "description": "",
            "body": '<p class="no-margin">One to two days.</p>',
            "author_id": 5017691,
            "state": "published",
            "default_locale": "en",
            "translated_content": {
                "type": "article_translated_content",
                "ru": {
                    "type": "article_content",
                    "title": "Доставка",
                    "body": "<p>Один-два дня.</p>",
                    "state": "draft",
                },
                "fr": None,
            },
        }
    ],
}
FRESHDESK = [
    {
        "id": 2,
        "type": 1,
        "category_id": 3,
        "folder_id": 4,
        "hierarchy": [
            {"level": 0, "type": "category", "data": {"id": 3, "name": "Orders", "language": "en"}},
            {"level": 1, "type": "folder", "data": {"id": 4, "name": "Delivery", "language": "en"}},
        ],
        "agent_id": 1,
        "title": "Delivery",
        "description": "<div>One to two <b>days</b>.</div>",
        "description_text": "One to two days.",
        "status": 2,
        "tags": ["courier"],
        "seo_data": {"meta_keywords": "delivery"},
    },
    {"id": 5, "agent_id": 1, "title": "Draft", "description": "<div></div>", "status": 1},
]
CHATWOOT = {
    "payload": [
        {
            "id": 1,
            "title": "Доставка",
            "content": "Один-два **дня**. [x](javascript:alert(1))",
            "status": "published",
            "account_id": 9,
            "category": {"id": 3, "name": "Доставка", "slug": "delivery", "locale": "ru"},
            "associated_articles": [{"id": 2, "title": "Delivery"}],
        },
        {
            "id": 2,
            "title": "Delivery",
            "content": "One to two days.",
            "status": "archived",
            "account_id": 9,
            "category": {"id": 4, "name": "Delivery", "slug": "delivery", "locale": "en"},
            "associated_articles": [],
        },
    ],
    "meta": {"current_page": 1, "articles_count": 2},
}


def drafts(data: object) -> list[Draft]:
    return [each for each in found("export.json", json.dumps(data)) if isinstance(each, Draft)]


def test_zendesk_articles_in_two_languages_are_versions_of_one() -> None:
    english, russian = drafts(ZENDESK)
    assert english.source == russian.source == "zendesk:klyon.zendesk.com:28523513715859"
    assert (english.article.lang, english.article.body, english.decided) == ("en", "One to two days.", False)
    assert (russian.article.lang, russian.article.status, russian.decided) == ("ru", "draft", True)
    assert english.article.tags == ("courier", "Delivery")


def test_zendesk_articles_for_signed_in_people_are_internal() -> None:
    restricted = {"articles": [{**ZENDESK["articles"][0], "user_segment_id": 5}]}  # type: ignore[index]
    assert drafts(restricted)[0].article.audience == "internal"


def test_intercom_translations_are_versions_of_one_article() -> None:
    english, russian = drafts(INTERCOM)
    assert english.source == russian.source == "intercom:hfi1bx4l:6871119"
    assert [(d.article.lang, d.article.title, d.article.body, d.article.status) for d in (english, russian)] == [
        ("en", "Delivery", "One to two days.", "published"),
        ("ru", "Доставка", "Один-два дня.", "draft"),
    ]


def test_freshdesk_solutions_are_read_and_an_empty_one_is_reported() -> None:
    first, empty = found("export.json", json.dumps(FRESHDESK))
    assert isinstance(first, Draft)
    assert (first.article.lang, first.article.body, first.article.tags) == (
        "en",
        "One to two **days**.",
        ("courier", "Delivery"),
    )
    assert isinstance(empty, Problem)
    assert (empty.where, empty.problem) == ("article 2", "'Draft' has no text")


def test_chatwoot_translations_share_their_root_and_unsafe_links_go() -> None:
    russian, english = drafts(CHATWOOT)
    assert russian.source == english.source == "chatwoot:9:1"
    assert "javascript" not in russian.article.body
    assert (russian.article.lang, english.article.lang, english.article.status) == ("ru", "en", "archived")


def test_several_pages_may_lie_in_one_file() -> None:
    assert len(drafts([ZENDESK, CHATWOOT])) == 4
    lines = "\n".join(json.dumps(page) for page in (INTERCOM, ZENDESK))
    assert len(found("export.jsonl", lines)) == 4


# Text


def test_a_plain_text_takes_its_first_line_as_the_title() -> None:
    each = draft("note.txt", "Возврат товара\n\nВернуть можно за 14 дней.\n".encode("koi8-r"))
    assert (each.article.title, each.article.body) == ("Возврат товара", "Вернуть можно за 14 дней.")
    assert each.notes == ("read as koi8-r",)


def test_what_is_no_text_is_not_taken_for_one() -> None:
    assert decode_text(bytes(range(256)) * 20) is None


# Folders, archives, and the child process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "help"
    (folder / "ru").mkdir(parents=True)
    (folder / "ru" / "a.md").write_text("---\nid: a\ntitle: А\n---\nТекст ![x](../pic.png)\n")
    (folder / "pic.png").write_bytes(png())
    (folder / ".hidden.md").write_text("hidden")
    return folder


def test_a_folder_is_read_with_its_pictures_and_links_out_of_it_are_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = folder.parent / "secret.md"
    secret.write_text("---\nid: secret\ntitle: S\n---\nSecret\n")
    (folder / "link.md").symlink_to(secret)
    (folder / "linked").symlink_to(folder.parent, target_is_directory=True)
    (folder / "b.md").write_text("---\nid: b\ntitle: B\n---\n![x](../secret.md) ![y](../../secret.png)\n")
    (folder / "big.pdf").touch()
    with (folder / "big.pdf").open("wb") as file:
        file.truncate(200_000_000)
    told: list[tuple[int, int, str]] = []
    monkeypatch.chdir(folder.parent)
    each = list(read_path(Path("help"), progress=lambda *what: told.append(what)))
    drafts = {d.article.id: d for d in each if isinstance(d, Draft)}
    assert set(drafts) == {"a", "b"}
    assert [file.data for file in drafts["a"].files] == [png()]
    assert drafts["a"].text == (folder / "ru" / "a.md").read_text()
    assert drafts["b"].files == ()
    problems = {Path(p.path).name: p.problem for p in each if isinstance(p, Problem)}
    assert set(problems) == {"link.md", "linked", "big.pdf"}
    assert "200,000,000" in problems["big.pdf"]
    assert told[-1] == (2, 2, "")


def test_of_a_page_saved_by_a_browser_the_folder_beside_it_is_taken_as_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "Delivery_files").mkdir()
    (tmp_path / "Delivery_files" / "map.png").write_bytes(png())
    (tmp_path / "Delivery_files" / "saved_resource.html").write_text(f"<p>{PARAGRAPH}</p>")
    (tmp_path / "Delivery.html").write_text(PAGE % f'<main><p>{PARAGRAPH}<img src="Delivery_files/map.png"></p></main>')
    (only,) = read_path(tmp_path)
    assert isinstance(only, Draft)
    assert [file.target for file in only.files] == ["Delivery_files/map.png"]


def test_a_zip_is_read_and_names_that_lead_out_of_it_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "help.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kb/ru/a.md", "---\nid: a\ntitle: А\n---\nТекст ![x](../p.png)\n")
        archive.writestr("kb/p.png", png())
        archive.writestr("../evil.md", "---\nid: evil\ntitle: E\n---\nEvil\n")
        archive.writestr("/abs.md", "x")
        archive.writestr("inner.zip", b"PK")
    each = list(read_path(path))
    (only,) = [d for d in each if isinstance(d, Draft)]
    assert (only.article.id, only.article.lang, len(only.files)) == ("a", "ru", 1)
    assert sorted(p.problem for p in each if isinstance(p, Problem)) == [
        "an archive in an archive is not read",
        "the name leads out of the archive",
        "the name leads out of the archive",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["help.zip"]


def test_a_file_that_takes_too_long_or_too_much_memory_does_not_stop_the_others(tmp_path: Path) -> None:
    # A page that unpacks to 1 GB, more than the child may have.
    stream = zlib.compressobj(1)
    packed = b"".join(stream.compress(b" " * 10_000_000) for _ in range(100)) + stream.flush()
    (tmp_path / "a-bomb.pdf").write_bytes(
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>endobj\n"
        b"4 0 obj<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream endobj\ntrailer<</Root 1 0 R>>\n%%%%EOF"
        % (len(packed), packed)
    )
    (tmp_path / "b.md").write_text("---\nid: b\ntitle: B\n---\nBody\n")
    bomb, after = read_path(tmp_path, memory_bytes=700_000_000)
    assert isinstance(bomb, Problem)
    assert "too much memory" in bomb.problem
    assert isinstance(after, Draft)
    slow, after = read_path(tmp_path, seconds_per_file=0.0)
    assert isinstance(slow, Problem)
    assert "longer than" in slow.problem
    assert isinstance(after, Problem)


def test_nothing_at_the_path_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ImportSourceError, match="no such file"):
        list(read_path(tmp_path / "none"))


# Long articles


def test_a_long_imported_document_becomes_passages_under_their_paths_of_headings() -> None:
    def fill(document: Any) -> None:
        document.add_heading("Handbook", 0)
        for chapter in ("Delivery", "Returns"):
            document.add_heading(chapter, 1)
            for section in ("Moscow", "Regions"):
                document.add_heading(section, 2)
                for number in range(6):
                    document.add_paragraph(f"{chapter} in {section}, rule {number}: " + "wait for the courier. " * 12)

    article = draft("handbook.docx", word(fill)).article
    passages = split_passages("handbook", "en", article.body)
    assert {passage.headings for passage in passages} == {
        (chapter, section) for chapter in ("Delivery", "Returns") for section in ("Moscow", "Regions")
    }
    assert max(len(passage.text.split()) for passage in passages) <= WORDS_PER_PASSAGE
    for passage in passages:
        chapter, section = passage.headings
        assert passage.text.startswith(f"{chapter} in {section}, rule")
    assert sum(passage.text.count(", rule ") for passage in passages) == 24
