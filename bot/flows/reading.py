"""What a customer's words are to the step of a flow that waits: an answer, a correction, "cancel", or nothing of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from bot.flows.engine import NEXT, NOT_HELPED, Answered, Around, Chosen, Corrected, Event, FlowState, asked_slot
from bot.flows.format import Choice, Choose, Collect, Flow, Guide, Option, Slot
from nlu.entities import Found, SlotType, find_entities

CANCEL_WORDS = frozenset(
    (
        *("отмена", "отменить", "отмени", "стоп", "прервать", "закончить", "выйти", "выход", "/отмена"),
        *("cancel", "cancel this", "stop", "quit", "exit", "/cancel", "/stop"),
    )
)
SOFT_CANCEL_WORDS = frozenset(
    (
        *("не надо", "не нужно", "передумал", "передумала", "хватит", "уже не надо", "уже не нужно"),
        *("never mind", "nevermind", "forget it", "no need"),
    )
)
"""To a question of yes or no they are an answer."""
_NEXT_WORDS = re.compile(
    r"(?:готово|готов|готова|сделал\w*|сделано|дальше|далее|следующ\w*(?: шаг)?|ок|окей|да|ага|угу|получилось|"
    r"(?:все |всё )?(?:получилось|работает|заработал\w*)|есть|понятно|понял\w*|ясно|"
    r"done|next(?: step)?|ok|okay|yes|yep|ready|did it|i did(?: it| that)?|go on|continue|it works|works|got it|"
    r"finished|what next|what'?s next|\+|👍|✅)",
)
_FAILED_WORDS = re.compile(
    r"(?:(?:это |мне |всё равно |все равно )*не (?:помог\w*|получ\w*|работает|выходит|вышло|могу|удал\w*)(?: .{0,30})?|"
    r"(?:it |this |that |still )*(?:does ?n['o]?t|did ?n['o]?t|is ?n['o]?t|do ?n['o]?t|can'?t|not)(?: ?t)? "
    r"?(?:help\w*|work\w*|do it)(?: .{0,30})?|no luck|нет|no|nope|👎)"
)
_CORRECTION = re.compile(
    r"^\W*(?:ой|упс|извин\w+|прост\w+|пардон|нет|не[т,]? так|не|точнее|вернее|ошиб\w+|опечат\w+|исправ\w+|поправ\w+|"
    r"я имел\w* в виду|на самом деле|лучше|"
    r"no|nope|not|sorry|oops|actually|i meant?|correction|wait|rather|make that|change|typo)\b",
    re.IGNORECASE,
)
_FILLERS = frozenset(
    re.findall(
        r"\S+",
        """это мой моя моё мое мне на в с по номер заказ заказа заказу номером он она оно вот вроде кажется да нет ну
        а и пожалуйста спасибо здравствуйте привет добрый день точнее вернее извините простите ой упс имел имела виду
        почта мейл емейл телефон дата сумма было была был не
        it its is the my order number no yes please thanks thank you hello hi on at for of i think email mail phone
        date was sorry actually oops meant mean a an to from it's that not""",
    )
)
PLAIN_EXTRA_WORDS = 2
_TOLD_IN_DIGITS = frozenset({"number", "phone", "amount", "date"})
_YES_FIRST = re.compile(
    r"\W*(?:да+|ага|угу|конечно|ок|окей|давай\w*|подтвержда\w+|соглас\w+|yes+|yea+h?|yep|yup|ok|okay|of course|"
    r"absolutely|definitely|go ahead|please do|confirm\w*|agreed?)(?!\w)"
)
_CONSENT = frozenset(
    re.findall(
        r"\S+",
        """да ага угу так точно конечно верно правильно именно все всё хорошо ок окей давай давайте хочу можно есть
        подтверждаю согласен согласна разумеется естественно безусловно пойдет пойдёт годится подходит меня я
        yes yeah yep yup sure ok okay course absolutely definitely correct right exactly indeed confirm confirmed agree
        agreed go ahead do fine that that's thats all sounds good certainly i did""",
    )
)
_NOT_YET = re.compile(
    r"(?<!\w)(?:не|но|если|только|кроме|сначала|потом|позже|завтра|подум\w+|подожд\w+|погод\w+|минут\w*|секунд\w*|"
    r"уточн\w+|вопрос\w*|спрос\w+|узна\w+|когда|сколько|как\w*|почему|зачем|где|что|чтобы|ли|"
    r"not|n't|but|if|unless|only|except|first|later|tomorrow|wait|hold|think\w*|minute|second|question\w*|ask|"
    r"what|when|how|why|where|which|whether)(?!\w)|n'?t(?!\w)"
)
_NO_OBJECTION = re.compile(
    r"не против|не возража\w+|почему бы и нет|why not|no problem|don'?t mind|no objections?|что ж"
)
_SAYS_NO = re.compile(r"(?<!\w)(?:нет|неа|не|никак|ни|no|nope|nah|not|never|wrong|n't)(?!\w)|n'?t(?!\w)")


@dataclass(frozen=True)
class Reading:
    """What a text is to the step that waits."""

    event: Event | None
    """None: no answer that the flow itself understands."""
    plain: bool = False
    """It is an answer and nothing else: nobody has to be asked what it may mean besides."""
    cancels: bool = False


def read(flow: Flow, state: FlowState, text: str, around: Around) -> Reading:
    """What a customer's words are to the step that waits."""
    said = " ".join(text.lower().split()).strip(" .!,…")
    step = flow.steps.get(state.step)
    if step is None:
        return Reading(None)
    asked = asked_slot(step) if isinstance(step, Collect) else None
    kind = flow.file.slots[asked].type if asked else None
    short = len(said.split()) <= 6
    if isinstance(step, Guide) and short:
        if _NEXT_WORDS.fullmatch(said):
            return Reading(Chosen(NEXT), plain=True)
        if _FAILED_WORDS.fullmatch(said):
            return Reading(Chosen(NOT_HELPED), plain=True)
    exact, inside = _said_options(step, said) if isinstance(step, Choose) else (None, None)
    if exact is not None:
        return Reading(Chosen(f"o-{exact}"), plain=True)
    if said in CANCEL_WORDS or (said in SOFT_CANCEL_WORDS and kind != "yes_no"):
        return Reading(None, plain=True, cancels=True)
    corrects = bool(_CORRECTION.match(text))
    if kind == "text" and corrects and (taken_back := _taken_back(flow, state, text, around)):
        return Reading(Corrected(taken_back), plain=True)
    found = dict(_found(flow, text, around, asked))
    if kind in _TOLD_IN_DIGITS and not corrects:
        # It is rather what was asked for, mistyped.
        found = {
            name: each for name, each in found.items() if name == asked or not (each.bare and _changes(state, each))
        }
    values = {name: each.value for name, each in found.items()}
    rest = _rest(text, found.values())
    left = len(rest)
    plain = left <= PLAIN_EXTRA_WORDS and "?" not in text
    # Words beside an answer are no new choice: "no, I changed my mind" to "shall I?" is none of a reason either.
    beside = {n for n, each in found.items() if flow.file.slots[n].type == "choice" and _changes(state, each)} - {asked}
    answer = Answered({name: value for name, value in values.items() if name not in beside})
    if asked in values and kind == "yes_no":
        if _settles(said, values[asked], rest):
            return Reading(answer, plain=True)
        del values[asked]
    elif asked in values:
        return Reading(answer, plain=(plain or (kind == "choice" and not rest)) and kind != "text")
    changed = {name: value for name, value in values.items() if _changes(state, found[name])}
    if changed and (plain or corrects):
        return Reading(Corrected(changed), plain=left <= 2 * PLAIN_EXTRA_WORDS)
    if inside is not None and isinstance(step, Choose):
        named = set(re.findall(r"\w+", " ".join(_names(step.options[inside])).lower()))
        besides = [word for word in rest if word not in named]
        asks = "?" in text and len(besides) > PLAIN_EXTRA_WORDS
        return Reading(Chosen(f"o-{inside}"), plain=short and not asks)
    fresh = {name: value for name, value in values.items() if state.slots.get(name) is None}
    return Reading(Answered(fresh)) if fresh else Reading(None)


def _changes(state: FlowState, found: Found) -> bool:
    return state.slots.get(found.slot) not in (None, found.value)


def _taken_back(flow: Flow, state: FlowState, text: str, around: Around) -> dict[str, Any]:
    """What words of correction change where free words were asked for, which may hold numbers of any kind: it has to
    be named ("no, order 4522"), and there may be nothing besides."""
    found = _found(flow, text, around, None)
    if len(_rest(text, found.values())) > PLAIN_EXTRA_WORDS:
        return {}
    return {name: each.value for name, each in found.items() if _changes(state, each) and not each.bare}


def _settles(said: str, value: str, rest: Sequence[str]) -> bool:
    """Whether words that hold a yes or no are that and nothing else: on "yes" something may be done that can't be
    undone, and "may I …", "I want to know …" and "it is late" hold one too."""
    if "?" in said:
        return False
    more = [word for word in rest if word not in _CONSENT]
    begins = _YES_FIRST.match(said) is not None
    if value == "no":
        # "Yes, cancel it" is none.
        return _SAYS_NO.search(said) is not None or (not begins and len(more) <= PLAIN_EXTRA_WORDS)
    if _NOT_YET.search(_NO_OBJECTION.sub(" ", said)):
        return False
    return len(more) <= (PLAIN_EXTRA_WORDS if begins else 0)


def first_slots(flow: Flow, text: str, around: Around) -> dict[str, Any]:
    """What the words that start a flow say for its slots."""
    if not text.strip():
        return {}
    return {name: each.value for name, each in _found(flow, text, around, None).items()}


def _found(flow: Flow, text: str, around: Around, asked: str | None) -> Mapping[str, Found]:
    return _find(flow, text, around.lang, around.now, asked)


@lru_cache(maxsize=128)
def _find(flow: Flow, text: str, lang: str, now: datetime, asked: str | None) -> Mapping[str, Found]:
    """A turn reads its text twice: to see whether a model has to be asked, and to decide."""
    free = asked is not None and flow.file.slots[asked].type == "text"
    wanted = {
        name: _slot_type(slot)
        for name, slot in flow.file.slots.items()
        if name == asked or not (free or slot.only_when_asked or slot.type in ("text", "yes_no", "file", "data"))
        if slot.type not in ("file", "data")
    }
    found = find_entities(text, lang, wanted, now, asked=asked)
    values = {each.slot: each for each in found}
    if free and asked in values and not re.search(r"\w", values[asked].value):
        del values[asked]
    return values


_SLOT_TYPES: dict[int, tuple[Slot, SlotType]] = {}


def _slot_type(slot: Slot) -> SlotType:
    """As the entities want it; made once for each slot of each flow."""
    known = _SLOT_TYPES.get(id(slot))
    if known is not None and known[0] is slot:
        return known[1]
    choices = {choice.value: tuple(dict.fromkeys(_names(choice))) for choice in slot.choices}
    pattern = {"pattern": slot.pattern} if slot.pattern and slot.type == "number" else {}
    made = SlotType(slot.type, cues=tuple(slot.cues), prefer=slot.prefer, choices=choices, **pattern)  # type: ignore[arg-type]
    if len(_SLOT_TYPES) > 2000:
        _SLOT_TYPES.clear()
    _SLOT_TYPES[id(slot)] = slot, made
    return made


def _names(option: Option | Choice) -> list[str]:
    return [*option.label.values(), *(word for own in option.synonyms.values() for word in own)]


def _said_options(step: Choose, said: str) -> tuple[int | None, int | None]:
    """The one option whose number or name this is, and the one that is named in it."""
    if re.fullmatch(r"\d{1,2}[.)]?", said):
        number = int(said.rstrip(".)")) - 1
        return (number if 0 <= number < len(step.options) else None), None
    spelled = said.replace("ё", "е")
    exact, inside = set(), set()
    for number, option in enumerate(step.options):
        for name in (each.lower().replace("ё", "е").strip(" .!") for each in _names(option)):
            if name == spelled:
                exact.add(number)
            elif re.search(rf"\b{re.escape(name)}\b", spelled):
                inside.add(number)
    return tuple(found.pop() if len(found) == 1 else None for found in (exact, inside))  # type: ignore[return-value]


def _rest(text: str, found: Iterable[Found]) -> list[str]:
    """The words of a text beside what was found in it, and beside words that say nothing here."""
    for each in sorted(found, key=lambda each: each.start, reverse=True):
        text = text[: each.start] + " " + text[each.end :]
    return [word for word in re.findall(r"[^\W\d_][\w']*", text.lower()) if word not in _FILLERS]
