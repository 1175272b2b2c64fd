"""Days that a message names: "вчера", "15-го марта", "next Friday", "3.11", "two weeks ago".

Where in the text a day is named is found here; what day it is, the library dateparser computes, for its own search
takes every number for a year. Only one certain day counts: "last week" or "in the spring" is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal

from rapidfuzz.distance import OSA

from nlu.numbers import NUMBER_WORDS

Prefer = Literal["past", "future", "any"]


@dataclass(frozen=True)
class DaySpan:
    """A day that is named at text[start:end]."""

    day: date
    start: int
    end: int


_MONTH_WORDS: Final = {
    word: number
    for names in (
        ("января январь янв", "февраля февраль фев", "марта март мар", "апреля апрель апр", "мая май", "июня июнь июн",
         "июля июль июл", "августа август авг", "сентября сентябрь сен сент", "октября октябрь окт",
         "ноября ноябрь ноя нояб", "декабря декабрь дек"),
        ("january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
         "september sep sept", "october oct", "november nov", "december dec"),
    )
    for number, words in enumerate(names, 1)
    for word in words.split()
}  # fmt: skip
_WEEKDAYS: Final = {
    word: number
    for names in (
        ("понедельник понедельника пн", "вторник вторника вт", "среда среду среды ср", "четверг четверга чт",
         "пятница пятницу пятницы пт", "суббота субботу субботы сб", "воскресенье воскресенья вс"),
        ("monday mon", "tuesday tue tues", "wednesday wed", "thursday thu thur thurs", "friday fri", "saturday sat",
         "sunday sun"),
    )
    for number, words in enumerate(names)
    for word in words.split()
}  # fmt: skip
_NEAR: Final = {
    "позавчера": -2, "вчера": -1, "вчерашнего": -1, "сегодня": 0, "завтра": 1, "послезавтра": 2,
    "yesterday": -1, "today": 0, "tonight": 0, "tomorrow": 1, "tmrw": 1,
}  # fmt: skip
_ORDINALS: Final = {
    word: number
    for number, words in enumerate(
        (
            "первого первое first", "второго второе second", "третьего третье third", "четвертого четвертое fourth",
            "пятого пятое fifth", "шестого шестое sixth", "седьмого седьмое seventh", "восьмого восьмое eighth",
            "девятого девятое ninth", "десятого десятое tenth", "одиннадцатого eleventh", "двенадцатого twelfth",
            "тринадцатого thirteenth", "четырнадцатого fourteenth", "пятнадцатого fifteenth", "шестнадцатого sixteenth",
            "семнадцатого seventeenth", "восемнадцатого eighteenth", "девятнадцатого nineteenth",
            "двадцатого twentieth",
        ),
        1,
    )
    for word in words.split()
}  # fmt: skip
_COUNTS: Final = {
    **{word: number for word, number in NUMBER_WORDS.items() if number},
    "одну": 1,
    "пару": 2,
    "полторы": 1,
    "a": 1,
    "an": 1,
    "couple": 2,
}
_UNITS: Final = {
    "день": 1, "дня": 1, "дней": 1, "денек": 1, "сутки": 1, "суток": 1, "неделю": 7, "недели": 7, "недель": 7,
    "недельку": 7, "месяц": 30, "месяца": 30, "месяцев": 30, "год": 365, "года": 365, "лет": 365,
    "day": 1, "days": 1, "week": 7, "weeks": 7, "month": 30, "months": 30, "year": 365, "years": 365,
}  # fmt: skip
_LAST: Final = ("прошл", "last", "предыдущ", "past")
_NEXT: Final = ("следующ", "след", "next")
_THIS: Final = ("эт", "this", "ближайш", "coming", "нынешн")
_Words = list[tuple[str, int, int]]
_WORD: Final = re.compile(r"\d+|[^\W\d_]+")
_NUMERIC: Final = re.compile(
    r"(?<![\d.,/:-])(?:(?P<y>20\d\d)[-./](?P<m>\d{1,2})[-./](?P<d>\d{1,2})"
    r"|(?P<d2>\d{1,2})(?P<sep>[./-])(?P<m2>\d{1,2})(?:(?P=sep)(?P<y2>20\d\d|\d\d))?)(?![\d/:-]|[.,]\d)"
)
_ISO_TIME: Final = re.compile(r"T\d\d:\d\d\S*")


def find_days(
    text: str, now: datetime, prefer: Prefer = "any", *, asked: bool = False, relative: bool = True
) -> list[DaySpan]:
    """The days a text names, in order, never overlapping.

    now: the customer's own time; a day without a year or a weekday alone is the nearest one in the preferred
    direction ("any": the nearest at all for a day of a month, the coming one for a weekday).
    asked: a day was asked for, so that "the 5th" or a bare number of 1 to 31 means one.
    relative: whether "two weeks ago" is wanted, for which the library is loaded.
    """
    folded = lowered(text)
    found = [*_numeric(folded, now, prefer), *_worded(folded, now, prefer, asked=asked, relative=relative)]
    kept: list[DaySpan] = []
    for span in sorted(found, key=lambda each: (each.start, -each.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    if asked and relative and not kept and _MAY_BE_DAY.match(folded) and (day := _whole(folded, now, prefer)):
        kept.append(DaySpan(day, 0, len(text)))
    return kept


def lowered(text: str) -> str:
    """In lower case and with one form of each letter, every letter where it was."""
    return "".join(low if len(low := each.lower()) == 1 else each for each in text).replace("ё", "е")


def _numeric(text: str, now: datetime, prefer: Prefer) -> Iterator[DaySpan]:
    for match in _NUMERIC.finditer(text):
        day_text, month_text = match["d"] or match["d2"], match["m"] or match["m2"]
        year_text = match["y"] or match["y2"]
        if match["sep"] == "-" and not year_text:
            continue  # "88-3310", "2-3 days"
        day, month = int(day_text), int(month_text)
        if month > 12 >= day:
            day, month = month, day  # the American order
        year = None if year_text is None else int(year_text) + (2000 if len(year_text) == 2 else 0)
        found = _of_month(day, month, year, now, prefer)
        if found is not None:
            yield DaySpan(found, match.start(), match.end())


def _worded(text: str, now: datetime, prefer: Prefer, *, asked: bool, relative: bool) -> Iterator[DaySpan]:
    words = [(match.group(), match.start(), match.end()) for match in _WORD.finditer(text)]
    at = 0
    while at < len(words):
        found = _at(text, words, at, now, prefer, asked=asked, relative=relative)
        if found is None:
            at += 1
            continue
        day, count = found
        yield DaySpan(day, words[at][1], words[at + count - 1][2])
        at += count


def _at(
    text: str, words: _Words, at: int, now: datetime, prefer: Prefer, *, asked: bool, relative: bool
) -> tuple[date, int] | None:
    """The day that is named from the word `at` on, and by how many words."""
    said = [word for word, _, _ in words[at : at + 7]]
    found = _month(said, now, prefer)
    if found is None and relative:
        found = _near(said, now) or _counted(said, now) or _weekday(said, now, prefer)
    return found or _day_alone(text, words, at, now, prefer, asked=asked)


def _near(said: list[str], now: datetime) -> tuple[date, int] | None:
    if said[:4] == ["the", "day", "before", "yesterday"]:
        return _library("the day before yesterday", now), 4
    if said[:4] == ["the", "day", "after", "tomorrow"]:
        return _library("the day after tomorrow", now), 4
    if said[:3] == ["day", "before", "yesterday"] or said[:3] == ["day", "after", "tomorrow"]:
        return _library(f"the {' '.join(said[:3])}", now), 3
    word = _known(said[0], tuple(_NEAR))
    return (now.date() + timedelta(days=_NEAR[word]), 1) if word else None


def _counted(said: list[str], now: datetime) -> tuple[date, int] | None:
    """ "3 дня назад", "неделю назад", "a couple of weeks ago", "через 2 недели", "in three days"."""
    ahead = said[0] in ("через", "in", "спустя")
    at = 1 if ahead else 0
    count, number_words = _count(said[at:])
    at += number_words
    if at >= len(said) or (unit := _unit(said[at])) is None or (count is None and said[at] not in _BARE_UNITS):
        return None
    at += 1
    back = said[at : at + 1] in (["назад"], ["ago"], ["back"])
    if ahead == back:
        return None
    amount = 1 if count is None else count
    if unit * amount > 3660:
        return None
    names = {1: "day", 7: "week", 30: "month", 365: "year"}
    phrase = f"in {amount} {names[unit]}s" if ahead else f"{amount} {names[unit]}s ago"
    return _library(phrase, now), at + (1 if back else 0)


_BARE_UNITS: Final = ("день", "неделю", "недельку", "месяц", "год", "денек", "сутки")


def _count(said: list[str]) -> tuple[int | None, int]:
    if not said:
        return None, 0
    if said[0].isdecimal() and len(said[0]) <= 3:
        return int(said[0]), 1
    if said[:2] == ["a", "couple"]:
        return 2, 3 if said[2:3] == ["of"] else 2
    if said[0] in _COUNTS:
        return _COUNTS[said[0]], 2 if said[0] == "couple" and said[1:2] == ["of"] else 1
    return None, 0


def _unit(word: str) -> int | None:
    known = _known(word, tuple(_UNITS))
    return _UNITS[known] if known else None


def _month(said: list[str], now: datetime, prefer: Prefer) -> tuple[date, int] | None:
    """ "15 марта", "15-го марта 2026", "пятнадцатого марта", "March 15th", "15th of March", "the 3rd of Nov"."""
    at = 1 if said[0] == "the" else 0
    day, used = _day_number(said[at:])
    if day is not None:
        at += used
        if said[at : at + 1] == ["of"]:
            at += 1
        month = _month_number(said[at]) if at < len(said) else None
        if month is None:
            return None
        at += 1
    else:
        month = _month_number(said[0])
        if month is None or said[0] in ("мая", "май"):
            return None
        at = 2 if said[1:2] == ["the"] else 1
        day, used = _day_number(said[at:])
        if day is None or (said[0] in ("may", "mar", "march") and used == 1 and len(said[at]) > 2):
            return None
        at += used
    year = None
    if at < len(said) and re.fullmatch(r"20\d\d", said[at]):
        year = int(said[at])
        at += 1
        if said[at : at + 1] and said[at] in ("года", "г", "год"):
            at += 1
    found = _of_month(day, month, year, now, prefer)
    return (found, at) if found else None


def _day_number(said: list[str]) -> tuple[int | None, int]:
    """A day of a month with its ending, and by how many words: "15", "15 го", "15 th", "двадцать первого"."""
    if not said:
        return None, 0
    if said[0].isdecimal() and len(said[0]) <= 2 and 1 <= int(said[0]) <= 31:
        return int(said[0]), 2 if said[1:2] and said[1] in ("го", "е", "ого", "st", "nd", "rd", "th") else 1
    for tens, value in (("двадцать", 20), ("тридцать", 30), ("twenty", 20), ("thirty", 30)):
        if said[0] == tens and len(said) > 1 and _ORDINALS.get(said[1], 99) < 10:
            return value + _ORDINALS[said[1]], 2
    if said[0] == "тридцатого":
        return 30, 1
    return _ORDINALS.get(said[0]), 1


def _month_number(word: str) -> int | None:
    known = _known(word, tuple(_MONTH_WORDS))
    return _MONTH_WORDS[known] if known else None


def _weekday(said: list[str], now: datetime, prefer: Prefer) -> tuple[date, int] | None:
    """ "во вторник", "в прошлую пятницу", "next Friday", "this Sat", "on Monday".

    "Next" is of the next calendar week, "this" of this week, "last" the nearest before today; alone, by preference.
    """
    at = 1 if said[0] in ("в", "во", "on", "к", "с", "до", "by") and len(said) > 1 else 0
    how = ""
    for kind, starts in (("last", _LAST), ("next", _NEXT), ("this", _THIS)):
        if at + 1 < len(said) and said[at].startswith(starts) and (kind != "this" or _is_this(said[at])):
            how = kind
            at += 1
            break
    word = said[at]
    if len(word) <= 3 and not at and not how:
        return None  # "ср", "вс", "sun", "wed" alone may be anything
    known = _known(word, tuple(_WEEKDAYS))
    if known is None:
        return None
    if said[at + 1 : at + 3] == ["на", "прошлой"]:
        how = "last"
    days = (_WEEKDAYS[known] - now.weekday()) % 7
    if how == "last":
        days = days - 7
    elif how == "next":
        days = _WEEKDAYS[known] - now.weekday() + 7
    elif how == "this":
        days = _WEEKDAYS[known] - now.weekday() if said[at - 1] != "ближайш" else days
        days = days if days >= 0 or prefer == "past" else days + 7
    elif prefer == "past":
        days = days - 7 if days else -7
    elif days == 0:
        days = 7
    return now.date() + timedelta(days=days), at + 1


def _is_this(word: str) -> bool:
    return word in ("это", "эту", "этот", "эта", "этой", "этого", "this", "coming") or word.startswith(
        ("ближайш", "нынешн")
    )


def _day_alone(
    text: str, words: _Words, at: int, now: datetime, prefer: Prefer, *, asked: bool
) -> tuple[date, int] | None:
    """ "5 числа", "the 5th", "15-го"; when a day was asked for, a number by itself."""
    said = [word for word, _, _ in words[at : at + 4]]
    skip = 1 if said[0] == "the" else 0
    day, used = _day_number(said[skip:])
    if day is None:
        return None
    after = said[skip + used : skip + used + 1]
    ordinal = used == 2 or not said[skip].isdecimal()
    if after and after[0] in ("числа", "число", "чис"):
        used += 1
    elif skip and ordinal:
        pass
    elif not (asked and (ordinal or text.strip(" .!") == said[0])):
        return None
    today = now.date()
    for months in range(0, -13, -1) if prefer == "past" else range(13):
        year, month = divmod(today.year * 12 + today.month - 1 + months, 12)
        found = _make(year, month + 1, day)
        if found and (found <= today if prefer == "past" else found >= today):
            return found, skip + used
    return None


def _of_month(day: int, month: int, year: int | None, now: datetime, prefer: Prefer) -> date | None:
    if year is not None:
        return _make(year, month, day)
    today = now.date()
    nearby = [made for made in (_make(today.year + more, month, day) for more in range(-4, 5)) if made]
    if prefer == "past":
        return max((each for each in nearby if each <= today), default=None)
    if prefer == "future":
        return min((each for each in nearby if each >= today), default=None)
    return min(nearby, key=lambda each: abs(each - today), default=None)


def _make(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _known(word: str, known: tuple[str, ...]) -> str | None:
    """The word itself, or for one of five letters and more the only known one that is a slip away."""
    if word in known:
        return word
    if len(word) < 5 or word in _NO_SLIPS:
        return None
    near = [each for each in known if len(each) >= 5 and OSA.distance(word, each, score_cutoff=1) <= 1]
    return near[0] if near else None


_NO_SLIPS: Final = frozenset(("марте", "среди", "сразу", "могла", "marsh", "since"))


def prepare() -> None:
    """Load the library, which takes most of a second, before anybody waits for it."""
    _library("2 days ago", datetime(2026, 1, 1))  # noqa: DTZ001 - any day


def _library(phrase: str, now: datetime) -> date:
    found = _parsed(phrase, "en", now, PARSERS=["relative-time"])
    if found is None:
        raise ValueError(f"no day: {phrase}")
    return found


def _whole(text: str, now: datetime, prefer: Prefer) -> date | None:
    """What the library makes of an answer that is nothing but a day."""
    lang = "ru" if re.search("[а-я]", text) else "en"
    direction = "current_period" if prefer == "any" else prefer
    order = {"DATE_ORDER": "DMY", "PREFER_DATES_FROM": direction, "REQUIRE_PARTS": ["day", "month"]}
    found = _parsed(text, lang, now, **order)
    return found if found and abs(found.year - now.year) <= _YEARS else None


_YEARS: Final = 10
_MAY_BE_DAY: Final = re.compile(r"(?=.*\d).{1,40}$")


def _parsed(text: str, lang: str, now: datetime, **more: Any) -> date | None:
    import dateparser  # a fifth of a second, and only for who asks for days

    settings: Any = {"RELATIVE_BASE": now.replace(tzinfo=None), "TIMEZONE": "UTC", **more}
    found: datetime | None = dateparser.parse(text, languages=[lang], settings=settings)
    return found.date() if found else None
