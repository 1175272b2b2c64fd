"""What a customer's words mean where he was asked how likely he is to recommend the company. Pure.

A number is an answer. What follows it may be the reason, or a new matter: a request that is taken for a reason would be
lost, so that whatever may be one is left to the assistant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bot.dialogue import Answer, Clarify, Decision, Say
from handoff.access import row_id
from handoff.nps import SCORES
from nlu.numbers import NUMBER_WORDS

SCORE, STOP = "nps", "nps_stop"
"""Tokens: `nps:ID:9`, `nps_stop:ID`."""
MAX_SCORE_CHARS = 40
COURTESIES = frozenset({"thanks", "goodbye", "hello", "confirmed"})
"""Replies to words that say nothing, not even why."""
_UNSURE = frozenset({"rephrase", "low_confidence"})
"""Rules by which the assistant does not know what to say: no article and no intent is about it."""

_OFFERS = (Answer, Clarify)
_MARKS = "нолик единица двойка тройка четверка пятерка шестерка семерка восьмерка девятка десятка"
_WORDS = {
    **NUMBER_WORDS,
    **{word: number for number, word in enumerate(_MARKS.split())},
    "единичка": 1,
    "десяточка": 10,
}
_BEFORE = (
    r"(?:(?:моя |my )?(?:оценка|score|rating)[:\s-]*|(?:я )?(?:ставлю|поставлю|даю)\s+"
    r"|i(?:'d| would)? (?:give|say)\s+|на\s+|a\s+)?"
)
_AFTER = r"(?:\s*(?:/\s*10|из\s+(?:10|десяти)|out\s+of\s+(?:10|ten))|\s*(?:балл\w*|points?|очк\w*))*"
_NUMBER = rf"(\d{{1,2}}|{'|'.join(sorted(_WORDS, key=len, reverse=True))})"
_SCORE = re.compile(rf"{_BEFORE}{_NUMBER}(?![\w%№]){_AFTER}(?P<rest>.*)", re.DOTALL)
_SEPARATED = re.compile(r"\s*[,.;:!(…—–\n-]")
_REQUEST = re.compile(
    r"\?|\d{4,}|@|№"
    r"|\b(?:помо(?:г[иа]т[ье]|ги)|подскаж|прошу|пожалуйста|нужн|нужен|надо\b|хочу|хотел|хотим|можно|могу|можете|срочно"
    r"|верн(?:ут|ут?ь)|отмен|замен[аияу]т|перезвон|позвон|свяж|пришл|оформ|провер[ьи]т|жду|ждем|до сих пор|все\s?еще"
    r"|не (?:работа|включа|верну|могу|открыва|идет|звон)"
    r"|не (?!понрав|хвати|извин|подве|разочар)\w+(?:л|ла|ло|ли|лся|лись)\b"
    r"|слом|проблем|ошибк|номер|соедините|человека|еще (?:один|вопрос)|требу|посовет|пусть|ли\b|жалоб|разобрат"
    r"|списал|оплат|деньги|делать\b|(?!извин|прост|держ)\w{2,}(?:йте|ьте|ите)\b|дайте)"
    r"|\b(?:help|please|need|want|would like|can you|could you|can i|how (?:do|can|to)|where|refund|cancel|replace"
    r"|return|call me|contact|broken|(?:does|is|do|has|have|did|was|were)(?:n't| not)|can(?:'t|not)|still|waiting"
    r"|problem|error|urgent|question|agent|operator|(?:can|could|will|would) (?:u|i|we|it|some\w+|any\w+|your?|the)\b"
    r"|i'd like|whats|what's|wanna|gimme|give me|tell me|let me know|never (?:came|arrived|show)|not delivered"
    r"|charged|took (?:my|the|a)|paid|money|instead of|what to do)"
)
_ASKS_FIRST = re.compile(
    r"(?:^|[.!,\n]\s*)(?:а |и |но |and |but |so )*"
    r"(?:(?:как|где|когда|почему|зачем|сколько|куда|какой|какая|какие|кто|есть ли"
    r"|what|when|why|how|who|which|is|are|do|does|did|can|will|has|have"
    r"|send|get|fix|connect|unblock|unlink|change|check|recommend a|show|make|call|halt|move|explain)\b|looking for)"
)
_JUDGES = re.compile(
    r"\b(?:хорош|отличн|прекрасн|замечат|супер|класс|удобн|неудобн|быстр(?!ых плат)|оператив|вежлив|приятн|понятн"
    r"|сложн|дорог(?!а\b|и\b|е\b|у\b)|дешев|цены\b|долго|медленн|груб|хам|плох|ужасн|норм(?:альн|\b)|средн|так себе"
    r"|нрав|довол|устраива|раньше срока|вовремя|опозда|слишком|маловато|качествен|качество|рекоменд|молодц"
    r"|всегда|никогда)"
    r"|\b(?:good(?! (?:morning|evening|day|afternoon))|great|excellent|nice|fine|easy|convenient|quick|fast|friendly"
    r"|polite|clear|simple|hard|difficult|confusing|expensive|cheap|prices|pricey|slow|rude|bad|poor|awful|terrible|okay|ok"
    r"|average|i (?:really )?like|liked|love|happy|satisf|unhappy|early|on time|was late|always|never|not much"
    r"|not enough|too (?:long|slow|expensive|much|many|few|hard|complicated)|quality|recommend|helpful|helped)"
)
MOST_WORDS = 25
"""Who writes more tells of a matter."""
FEW_WORDS = 2
"""They need no judgement: "expensive", "the courier".

The words of requests and of judgements were gathered from the training texts (data/intents, data/topics) and the dev
rows of data/eval: `python -m benchmarks.nps_reading`.
"""
_STOP = re.compile(
    r"(?:больше )?не (?:надо (?:меня )?)?(?:спрашива|беспоко|пишите|пиши)\w*(?: больше| меня)*|стоп|отпис\w+"
    r"|(?:please )?(?:don'?t|do not|stop) ask\w*(?: me)?(?: again| this)?|stop|unsubscribe|no more questions"
)


@dataclass(frozen=True)
class NpsSaid:
    """What a customer answered. All but the id may be missing."""

    answer_id: int
    score: int | None = None
    comment: str = ""
    stops: bool = False
    """He does not want to be asked again."""


@dataclass(frozen=True)
class Score:
    value: int
    rest: str
    """What follows the number: perhaps the reason."""
    parted: bool = True
    """By a sign. Without one ("3 days I wait", "10 thanks") they are one sentence, and rarely an answer."""


def pressed(token: str) -> NpsSaid | None:
    """What a button of the question says."""
    kind, _, rest = token.partition(":")
    number, _, score = rest.partition(":")
    answer = row_id(number)
    if answer is None:
        return None
    if kind == STOP:
        return NpsSaid(answer, stops=True)
    if kind == SCORE and score.isascii() and score.isdecimal() and int(score) in SCORES:
        return NpsSaid(answer, int(score))
    return None


def wants_no_more(text: str) -> bool:
    """Whether words say no more than that he does not want to be asked."""
    return _STOP.fullmatch(text.lower().replace("ё", "е").replace("’", "'").strip(" .!,\n")) is not None


def read_score(text: str) -> Score | None:
    """`9`, `10!`, `десять`, `восемь баллов`, `9/10`, also with words after it. None: it begins with no score."""
    low = text.strip().lower().replace("ё", "е")
    found = _SCORE.match(low)
    if found is None:
        return None
    number = found[1]
    value = int(number) if number.isdecimal() else _WORDS[number]
    rest = found["rest"]
    words = re.sub(r"[\W_]+", "", rest)
    if value not in SCORES or (number.isdecimal() and number != str(value)):
        return None
    if not words:
        # "9?" is doubt, and no answer; "9-" and "9." are.
        return None if "?" in rest or len(low) > MAX_SCORE_CHARS else Score(value, "")
    if re.match(r"\s*[,.:-]\s*\d", rest):
        return None
    said = text.strip()[len(low) - len(rest) :]
    return Score(value, said.strip(" ,.;:!()…—–-\n\t"), bool(_SEPARATED.match(rest)))


def goes_with(score: Score, decision: Decision) -> bool:
    """Whether words that begin with a number are a score, by what the assistant would do with those after it."""
    return reads_as_reason(decision, score.rest) if score.parted else is_courtesy(decision)


def reads_as_reason(decision: Decision, text: str) -> bool:
    """Whether words are a reason, and no matter of their own: they ask for nothing, and judge. decision: what the
    assistant would do with them. "Delivery came a day early" is a reason also where an article is about delivery."""
    low = text.lower().replace("ё", "е").replace("’", "'").strip()
    words = len(re.findall(r"\w+", low))
    if words > MOST_WORDS or _REQUEST.search(low) or _ASKS_FIRST.search(low):
        return False
    if is_courtesy(decision) or decision.rule == "no_words":
        return True
    if decision.rule not in _UNSURE and not all(isinstance(each, _OFFERS) for each in decision.actions):
        return False
    return _JUDGES.search(low) is not None or (words <= FEW_WORDS and decision.rule in _UNSURE)


def is_courtesy(decision: Decision) -> bool:
    """Whether they say nothing: thanks, a good-bye."""
    actions = decision.actions
    return bool(actions) and all(isinstance(each, Say) and each.template in COURTESIES for each in actions)
