"""What a customer's words are to the step of a flow that waits: an answer, a correction, "cancel", or nothing of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from bot.flow_format import Choose, Collect, Flow, Guide, Slot
from bot.flows import NEXT, NOT_HELPED, Answered, Around, Chosen, Corrected, Event, FlowState, asked_slot
from nlu.entities import SlotType, find_entities

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
    found = _found(flow, text, around, asked)
    values = {name: value for name, (value, _, _) in found.items()}
    left = _left_over(text, [(start, end) for _, start, end in found.values()])
    plain = left <= PLAIN_EXTRA_WORDS and "?" not in text
    if asked in values:
        return Reading(Answered(values), plain=plain and kind != "text")
    changed = {name: value for name, value in values.items() if state.slots.get(name) not in (None, value)}
    if changed and (plain or _CORRECTION.match(text)):
        return Reading(Corrected(changed), plain=left <= 2 * PLAIN_EXTRA_WORDS)
    if inside is not None:
        return Reading(Chosen(f"o-{inside}"), plain=short)
    fresh = {name: value for name, value in values.items() if state.slots.get(name) is None}
    return Reading(Answered(fresh)) if fresh else Reading(None)


def first_slots(flow: Flow, text: str, around: Around) -> dict[str, Any]:
    """What the words that start a flow say for its slots."""
    if not text.strip():
        return {}
    return {name: value for name, (value, _, _) in _found(flow, text, around, None).items()}


def _found(flow: Flow, text: str, around: Around, asked: str | None) -> Mapping[str, tuple[Any, int, int]]:
    """Slot → its value, and where in the text it stands."""
    return _find(flow, text, around.lang, around.now, asked)


@lru_cache(maxsize=128)
def _find(flow: Flow, text: str, lang: str, now: datetime, asked: str | None) -> Mapping[str, tuple[Any, int, int]]:
    """A turn reads its text twice: to see whether a model has to be asked, and to decide."""
    wanted = {
        name: _slot_type(slot)
        for name, slot in flow.file.slots.items()
        if name == asked or not (slot.only_when_asked or slot.type in ("text", "yes_no", "file", "data"))
        if slot.type not in ("file", "data")
    }
    found = find_entities(text, lang, wanted, now, asked=asked)
    values = {each.slot: (each.value, each.start, each.end) for each in found}
    if asked in values and asked and flow.file.slots[asked].type == "text" and not re.search(r"\w", values[asked][0]):
        del values[asked]
    return values


_SLOT_TYPES: dict[int, tuple[Slot, SlotType]] = {}


def _slot_type(slot: Slot) -> SlotType:
    """As the entities want it; made once for each slot of each flow."""
    known = _SLOT_TYPES.get(id(slot))
    if known is not None and known[0] is slot:
        return known[1]
    choices = {
        choice.value: tuple(
            dict.fromkeys([*choice.label.values(), *(word for own in choice.synonyms.values() for word in own)])
        )
        for choice in slot.choices
    }
    pattern = {"pattern": slot.pattern} if slot.pattern and slot.type == "number" else {}
    made = SlotType(slot.type, cues=tuple(slot.cues), prefer=slot.prefer, choices=choices, **pattern)  # type: ignore[arg-type]
    if len(_SLOT_TYPES) > 2000:
        _SLOT_TYPES.clear()
    _SLOT_TYPES[id(slot)] = slot, made
    return made


def _said_options(step: Choose, said: str) -> tuple[int | None, int | None]:
    """The one option whose number or name this is, and the one that is named in it."""
    if re.fullmatch(r"\d{1,2}[.)]?", said):
        number = int(said.rstrip(".)")) - 1
        return (number if 0 <= number < len(step.options) else None), None
    spelled = said.replace("ё", "е")
    exact, inside = set(), set()
    for number, option in enumerate(step.options):
        named = [*option.label.values(), *(word for own in option.synonyms.values() for word in own)]
        for name in (each.lower().replace("ё", "е").strip(" .!") for each in named):
            if name == spelled:
                exact.add(number)
            elif re.search(rf"\b{re.escape(name)}\b", spelled):
                inside.add(number)
    return tuple(found.pop() if len(found) == 1 else None for found in (exact, inside))  # type: ignore[return-value]


def _left_over(text: str, spans: Sequence[tuple[int, int]]) -> int:
    """How many words a text has beside what was found in it, and beside words that say nothing here."""
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + " " + text[end:]
    return sum(word not in _FILLERS for word in re.findall(r"[^\W\d_][\w']*", text.lower()))
