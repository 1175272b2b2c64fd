"""Entities: what a message tells without being asked. They fill the slots of a flow.

find_entities("заказ не 4512, а 4521, ждал вчера", …) → order "4521", date "2026-11-21". Rules and libraries
(phonenumbers, dateparser, Snowball), no model: a slot's type says what fits it, words beside it and the other things
in the message (prices, phones, days, codes) say what does not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache, cached_property, lru_cache
from typing import Final, Literal

import phonenumbers
from anyascii import anyascii
from rapidfuzz.distance import OSA
from Stemmer import Stemmer

from nlu.dates import Prefer, find_days, lowered

MAX_CHARS: Final = 2000
"""Of a message that is looked at; a text slot keeps no more either."""


@dataclass(frozen=True)
class SlotType:
    """What may fill a slot.

    number: an order number or another code of the `pattern`. phone: E.164. email: lower case. date: ISO. amount:
    "4500.50 RUB". choice: the key of one of `choices`. yes_no: "yes" or "no". text: the message itself.
    """

    kind: Literal["number", "phone", "email", "date", "amount", "choice", "yes_no", "text"]
    pattern: str = r"\d{4,8}"
    """Of a number, without spaces and dashes, in capitals."""
    cues: tuple[str, ...] = ()
    """Beginnings of words that stand beside a value; empty: those of the kind."""
    prefer: Prefer = "any"
    """Of a date: the side of now on which it lies."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Value → how customers call it, in any language and form."""
    region: str = "RU"
    """Of a phone without the code of its country."""
    currency: str = "RUB"
    """Of an amount that was asked for and told as a bare number."""


@dataclass(frozen=True)
class Found:
    """A value for a slot, told at text[start:end]."""

    slot: str
    value: str
    text: str
    start: int
    end: int
    bare: bool = False
    """Of a number: no word beside it says that it is one for this slot."""


@dataclass(frozen=True)
class _Candidate:
    value: str
    start: int
    end: int
    weight: float = 1.0


def find_entities(
    text: str,
    lang: str,
    wanted: Mapping[str, SlotType],
    now: datetime,
    *,
    asked: str | None = None,
) -> tuple[Found, ...]:
    """The values that a message gives for the wanted slots, at most one for each, in the order of `wanted`.

    now: in the customer's time zone. asked: the slot that the customer has just been asked for. It alone takes "yes",
    free text and bare words, and of two numbers that fit several slots the first. What is denied ("not 4512") fills
    nothing; after a correction ("4512, sorry, 4521") the later one counts.
    """
    said = _plain_digits(text[:MAX_CHARS])
    message = _Message(said, lang, now, asked=asked)
    found: dict[str, Found] = {}
    taken: list[tuple[int, int]] = []
    first = [asked] if asked in wanted else []
    for name in dict.fromkeys([*first, *sorted(wanted, key=lambda each: _ORDER.index(wanted[each].kind))]):
        assert name is not None  # noqa: S101 - for the type checker
        best = _choose(message, message.candidates(name, wanted[name]), taken)
        if best is not None:
            bare = wanted[name].kind == "number" and best.weight < _CUED
            found[name] = Found(name, best.value, text[best.start : best.end], best.start, best.end, bare)
            if wanted[name].kind not in ("text", "yes_no"):
                taken.append((best.start, best.end))
    return tuple(found[name] for name in wanted if name in found)


_CUED: Final = 2.0
"""Weight of a number beside which stands what it is."""
_ORDER: Final = ("email", "phone", "date", "amount", "number", "choice", "yes_no", "text")
_DENIED: Final = re.compile(
    r"\b(?:не|not|isn'?t|wasn'?t|вместо|instead of|rather than)\s+"
    r"(?:(?:заказ\w*|номер\w*|order|number|the|for|from|on|at|на|в|во|с|от|№|#)\s*){0,3}$"
)
_CORRECTED: Final = re.compile(
    r"\b(?:точнее|вернее|в смысле|то есть|ой|упс|ошиб\w*|опечат\w*|исправ\w*|извини\w*|простите|пардон|sorry|"
    r"i meant?|rather|actually|correction|oops|typo|scratch that|make that|should(?: be|'ve been| have been)|"
    r"должно быть|правильн\w+|нет, не|no, not)\b"
)
_NO_THEN: Final = re.compile(
    r"(?:\b(?:нет|no|wait|стоп|погоди\w*|подожди\w*)[\s,.!:-]+){1,2}(?:(?:это|заказ\w*|номер\w*|it'?s|the|order|number|на|в|во|on|for|за)\s+)*[№#]?\s*$"
)


def _choose(message: _Message, candidates: Iterable[_Candidate], taken: Sequence[tuple[int, int]]) -> _Candidate | None:
    free = [each for each in candidates if not any(each.start < end and start < each.end for start, end in taken)]
    kept = [each for each in free if not message.denies(each)]
    if not kept:
        return None
    best = max(kept, key=lambda each: each.weight)
    later = [each for each in kept if each.start >= best.end and message.corrects(best.end, each.start)]
    return later[-1] if later else best


class _Message:
    """One message and what stands in it, found when first wanted."""

    def __init__(self, text: str, lang: str, now: datetime, *, asked: str | None) -> None:
        self.text = text
        self.folded = lowered(text)
        self.lang = lang
        self.now = now
        self.asked = asked

    def denies(self, candidate: _Candidate) -> bool:
        return bool(_DENIED.search(self.folded[max(0, candidate.start - 40) : candidate.start]))

    def corrects(self, start: int, end: int) -> bool:
        between = self.folded[start:end]
        return bool(_CORRECTED.search(between) or _NO_THEN.search(between))

    def candidates(self, name: str, wanted: SlotType) -> list[_Candidate]:
        asked = name == self.asked
        match wanted.kind:
            case "email":
                return [
                    _Candidate(each.group().lower(), each.start(), each.end()) for each in _EMAIL.finditer(self.text)
                ]
            case "phone":
                return _phones(self.text, wanted.region)
            case "date":
                return self._days(wanted.prefer, asked=asked)
            case "amount":
                return _amounts(self.folded, wanted.currency if asked else None)
            case "number":
                return self._numbers(wanted, asked=asked)
            case "choice":
                return _choices(self.folded, wanted.choices)
            case "yes_no":
                return _yes_no(self.folded) if asked else []
            case "text":
                words = self.text.strip()
                start = len(self.text) - len(self.text.lstrip())
                return [_Candidate(words, start, start + len(words))] if asked and words else []

    def _days(self, prefer: Prefer, *, asked: bool) -> list[_Candidate]:
        today = self.now.date()
        return [
            _Candidate(each.day.isoformat(), each.start, each.end)
            for each in find_days(self.text, self.now, prefer, asked=asked)
            if not (each.day > today if prefer == "past" else prefer == "future" and each.day < today)
        ]

    def _numbers(self, wanted: SlotType, *, asked: bool) -> list[_Candidate]:
        pattern = _compiled(wanted.pattern)
        cues = _beginnings(wanted.cues or _NUMBER_CUES)
        found = []
        for start, end in self._codes(pattern):
            code = self.text[start:end].upper()
            value = code if pattern.fullmatch(code) else _BETWEEN.sub("", code)
            if pattern.fullmatch(value) and (weight := self._weight(start, end, cues, asked=asked)) > 0:
                found.append(_Candidate(value, start, end, weight))
        return found

    def _codes(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
        """Spans that may be codes: groups of digits and letters, and digits written in several groups."""
        groups = [each.span() for each in _CODE.finditer(self.text) if not self._is_elsewhere(*each.span())]
        at = 0
        while at < len(groups):
            run = at
            while run + 1 < len(groups) and self._joins(groups[run], groups[run + 1]):
                run += 1
            whole = groups[at][0], groups[run][1]
            parts = groups[at : run + 1]
            singles = [part for part in parts if pattern.fullmatch(self.text[slice(*part)].upper())]
            joined = _BETWEEN.sub("", self.text[slice(*whole)].upper())
            if run > at and len(singles) < len(parts) and pattern.fullmatch(joined):
                yield whole
            elif run == at or len(joined) < _LONG_DIGITS:
                yield from singles or ([whole] if run == at else [])
            at = run + 1

    def _joins(self, left: tuple[int, int], right: tuple[int, int]) -> bool:
        between = self.text[left[1] : right[0]]
        digits = self.text[slice(*left)][-1:] + self.text[slice(*right)]
        return between in ("-", " ", "\u00a0", "–") and (digits.isdigit() or between == "-")

    @cached_property
    def _elsewhere(self) -> list[tuple[int, int]]:
        """What is certainly no code: addresses, phones, days, amounts, times."""
        found = [each.span() for pattern in (_EMAIL, _LINK, _CLOCK, _MASKED) for each in pattern.finditer(self.text)]
        found += [(each.start, each.end) for each in _phones(self.text, "RU")]
        found += [(each.start, each.end) for each in _amounts(self.folded, None)]
        found += [(each.start, each.end) for each in find_days(self.text, self.now, relative=False)]
        return found

    def _is_elsewhere(self, start: int, end: int) -> bool:
        return any(start < other_end and other_start < end for other_start, other_end in self._elsewhere)

    def _weight(self, start: int, end: int, cues: re.Pattern[str], *, asked: bool) -> float:
        """How much speaks for the code at text[start:end]; 0: something else is counted or meant by it."""
        before, after = self.folded[max(0, start - 60) : start], self.folded[end : end + 40]
        words = list(_WORDS_BEFORE.finditer(before))[-4:]
        if _UNIT_AFTER.match(after) or _STREET_AFTER.match(after):
            return 0.0
        least = 0.5 if asked else 0.0
        for distance, word in enumerate(reversed(words)):
            if cues.match(word.group()):
                return 4.0 - 0.5 * distance
            if _POINTS_BEFORE.match(word.group()) and not asked:
                return 0.0
            if distance < 2 and self.text[start:end].isdecimal() and _OTHER_BEFORE.match(word.group()):
                return least
        if _SIGN_BEFORE.search(before):
            return 3.0
        if any(cues.match(word.group()) for word in list(_WORDS_BEFORE.finditer(after))[:1]):
            return 2.0
        if re.fullmatch(r"(?:19|20)\d\d", self.folded[start:end]) and _IN_YEAR.search(before) and not asked:
            return 0.0
        return 1.0


_NUMBER_CUES: Final = (
    *("заказ", "зака", "зкз", "номер", "ном", "покупк", "посылк", "отправлен", "доставк"),
    *("zakaz", "nomer", "order", "ordr", "oder", "number", "num", "no", "nr", "parcel", "package", "purchase"),
)
_OTHER_BEFORE: Final = re.compile(
    r"(?:код|пин|карт|индекс|кв|квартир|дом|корп|стр|ул|паспорт|артикул|модел|выпуск|телефон|тел|сертификат|"
    r"промокод|купон|чек|счет|офис|подъезд|домофон|почтомат|постамат|стои|цен|сумм|плат|оплат|заплат|списал|снял|"
    r"серийн|сери|инн|трек|"
    r"code|pin|card|postcode|zip|flat|apartment|apt|house|building|passport|sku|model|phone|voucher|"
    r"coupon|promo|receipt|invoice|office|locker|cost|price|paid|pay|charged|worth|serial|street|tracking|ending)\w*$"
)
_POINTS_BEFORE: Final = re.compile(r"(?:балл|бонус|points?$|bonus)")
_STREET_AFTER: Final = re.compile(r"\s[a-z]+\s(?:street|st|road|rd|avenue|ave|lane)\b")
_UNIT_AFTER: Final = re.compile(
    r"\s?(?:%|°|\*)|-?(?:ти|х|и)?[\s-]{0,2}(?:(?:вт|квт|мач|гц|л|см|мм|м|км|кг|г|гр|шт|мин|час|ч|гб|мб|тб|руб|р|"
    r"w|kw|mah|hz|l|cm|mm|m|km|kg|g|pcs|rpm|px|gb|mb|tb|rub|st|rd|ave|btu)(?!\w)|"
    r"(?:ватт|литр|грамм|штук|балл|бонус|дней|дня|недел|месяц|минут|часов|часа|лет(?!\w)|год|оборот|человек|товар|позици|"
    r"процент|рубл|тыс|watt|lit(?:er|re)|piece|times(?!\w)|points?(?!\w)|bonus|days?(?!\w)|weeks?(?!\w)|month|minute|hours?(?!\w)|"
    r"years?(?!\w)|people|items?(?!\w)|percent|roubles?|street|road|avenue|lane))"
)
_SIGN_BEFORE: Final = re.compile(r"(?:№|#|\bn|\bno\.?|\bn°)\s?$")
_IN_YEAR: Final = re.compile(r"\b(?:в|с|до|за|in|since|from|of)\s+$")
_LONG_DIGITS: Final = 10
_CODE: Final = re.compile(r"[^\W_]*\d[^\W_]*")
_BETWEEN: Final = re.compile(r"[\s\u00a0–-]+")
_WORDS_BEFORE: Final = re.compile(r"[^\W\d_]+")
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_LINK: Final = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_CLOCK: Final = re.compile(r"\b\d{1,2}:\d\d\b")
_MASKED: Final = re.compile(r"[*•x]{1,12}\s?\d{4}\b", re.IGNORECASE)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@lru_cache(maxsize=256)
def _beginnings(words: tuple[str, ...]) -> re.Pattern[str]:
    """Words that begin like one of these; one of up to three letters has to be the word itself."""
    return re.compile("|".join(re.escape(word) + (r"\w*$" if len(word) > 3 else "$") for word in words))


def _plain_digits(text: str) -> str:
    """Digits of any script as 0-9, length unchanged."""
    return "".join(str(unicodedata.digit(each)) if each.isdecimal() else each for each in text)


def _phones(text: str, region: str) -> list[_Candidate]:
    matches = phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID)
    return [
        _Candidate(phonenumbers.format_number(each.number, phonenumbers.PhoneNumberFormat.E164), each.start, each.end)
        for each in matches
    ]


_CURRENCIES: Final = {
    "RUB": r"₽|руб\w*|р\b\.?|rub\w*|roubles?",
    "USD": r"\$|долл\w*|бакс\w*|usd|dollars?|bucks?",
    "EUR": r"€|евро|eur\b|euros?",
    "GBP": r"£|фунт\w*|gbp|pounds?|quid",
}
_NUMBER: Final = r"\d{1,3}(?:[ \u00a0,.]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,]\d{1,2})?(?!\d)"
_THOUSANDS: Final = r"(?:тыс\w*\.?|тыщ\w*|k|к|thousand)(?!\w)"
_ANY_CURRENCY: Final = "|".join(f"(?P<{code}>{words})" for code, words in _CURRENCIES.items())
_AMOUNT: Final = re.compile(rf"(?<![\w.,])(?P<number>{_NUMBER})\s?(?P<k>{_THOUSANDS})?\s?(?:{_ANY_CURRENCY})(?!\w)")
_SIGNED: Final = re.compile(
    rf"(?:(?P<USD>\$)|(?P<EUR>€)|(?P<GBP>£)|(?P<RUB>₽))\s?(?P<number>{_NUMBER})(?P<k>{_THOUSANDS})?"
)
_BARE_AMOUNT: Final = re.compile(rf"(?<![\w.,])(?P<number>{_NUMBER})\s?(?P<k>{_THOUSANDS})?(?!\w)")


def _amounts(folded: str, currency: str | None) -> list[_Candidate]:
    """currency: of numbers without one; None: those are no amounts."""
    found: dict[int, _Candidate] = {}
    for pattern in (_SIGNED, _AMOUNT, *((_BARE_AMOUNT,) if currency else ())):
        for match in pattern.finditer(folded):
            code = next((code for code in _CURRENCIES if match.groupdict().get(code)), currency)
            value = _decimal(match["number"]) * (1000 if match["k"] else 1)
            candidate = _Candidate(
                f"{value.normalize():f} {code}", match.start(), match.end(), 1.0 if pattern is _BARE_AMOUNT else 2.0
            )
            if not any(match.start() < each.end and each.start < match.end() for each in found.values()):
                found[match.start()] = candidate
    return [found[start] for start in sorted(found)]


def _decimal(number: str) -> Decimal:
    """ "4 500,50" and "4,500.50" alike: a last part of three digits is of thousands, of one or two of the cent."""
    parts = re.split(r"[ \u00a0,.]", number)
    whole, cents = (parts, "") if len(parts) == 1 or len(parts[-1]) == 3 else (parts[:-1], parts[-1])
    return Decimal("".join(whole) + (f".{cents}" if cents else ""))


@cache
def _stemmer(russian: bool) -> Stemmer:
    return Stemmer("russian" if russian else "english")


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    stem: str = _stemmer(bool(re.search("[а-я]", word))).stemWord(word)
    return stem


@lru_cache(maxsize=50_000)
def _latin(word: str) -> str:
    return anyascii(word).lower()


def _alike(said: str, name: str) -> float:
    """How sure it is that one word is a form of the other or a slip in it: 0..1."""
    if said == name or _stem(said) == _stem(name):
        return 1.0
    left, right = _latin(_stem(said)), _latin(_stem(name))
    if left == right:
        return 0.95
    shortest, longest = sorted((len(left), len(right)))
    slips = 2 if shortest >= 8 else 1
    return 0.85 if shortest >= 4 and longest >= 5 and OSA.distance(left, right, score_cutoff=slips) <= slips else 0.0


@lru_cache(maxsize=4096)
def _name_words(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", name.lower().replace("ё", "е")))


def _choices(folded: str, choices: Mapping[str, tuple[str, ...]]) -> list[_Candidate]:
    """Where each choice is named, all words of a name close together in any order; the longer name weighs more."""
    words = [(each.group(), *each.span()) for each in re.finditer(r"[^\W_]+", folded)]
    found = []
    for value, names in choices.items():
        for name in names:
            parts = _name_words(name)
            for at in range(len(words)):
                window = words[at : at + len(parts) + (1 if len(parts) > 1 else 0)]
                if parts and (spans := _all_named(parts, window)) is not None:
                    sureness, start, end = spans
                    found.append(_Candidate(value, start, end, sureness * sum(map(len, parts))))
    return found


def _all_named(parts: Sequence[str], window: Sequence[tuple[str, int, int]]) -> tuple[float, int, int] | None:
    left = list(window)
    sureness, starts, ends = 1.0, [], []
    for part in parts:
        best = max(left, key=lambda each: _alike(each[0], part), default=None)
        if best is None or (alike := _alike(best[0], part)) == 0:
            return None
        left.remove(best)
        sureness = min(sureness, alike)
        starts.append(best[1])
        ends.append(best[2])
    return (sureness, min(starts), max(ends)) if window[0] not in left else None


_AGREES: Final = re.compile(
    r"(?<!\w)(?:да+|ага|угу|так точно|конечно|верно|правильно|точно|именно|подтвержда\w+|соглас\w+|хорошо|давай\w*|"
    r"хочу|ок|окей|оке|можно|разумеется|естественно|безусловно|все так|пойдет|годится|подходит|не против|"
    r"не возражаю|почему бы и нет|было|есть|yes+|yea+h?|yep|yup|ya|sure|ok|okay|of course|absolutely|definitely|"
    r"correct|right|exactly|indeed|confirm\w*|agreed?|go ahead|please do|fine|why not|no problem|i do|it is|i did|"
    r"sounds good|certainly|y|д)(?!\w)|👍|✅|👌|^\s*\+\s*$"
)
_REFUSES: Final = re.compile(
    r"(?<!\w)(?:нет|неа|не-а|не надо|не нужно|не хочу|не верно|неверно|не правильно|неправильно|не подтвержда\w+|"
    r"не соглас\w+|не так|не то|не тот|не подходит|не стоит|не был\w*|ни в коем случае|отмен\w+|никак|вовсе не|"
    r"передумал\w*|ошибка|не мо[йяе]|no|nope|nah|not really|no thanks|don'?t|do not|not (?:correct|right|really|now|"
    r"mine|yet|ok|fine|that|it|sure|at all|what)|of course not|never|wrong|incorrect|cancel|negative|isn'?t|is not|"
    r"hasn'?t|didn'?t|haven'?t|i'd rather not|won'?t|n|н)(?!\w)|👎|❌|^\s*-\s*$"
)
_AGREES_THOUGH: Final = re.compile(
    r"не против|не возража\w+|почему бы и нет|why not|no problem|don'?t mind|no objection"
)


def _yes_no(folded: str) -> list[_Candidate]:
    """Refusing wins over agreeing, as in "да нет" and "of course not"."""
    if (though := _AGREES_THOUGH.search(folded)) is not None:
        return [_Candidate("yes", *though.span())]
    for pattern, value in ((_REFUSES, "no"), (_AGREES, "yes")):
        if (match := pattern.search(folded)) is not None:
            return [_Candidate(value, *match.span())]
    return []
