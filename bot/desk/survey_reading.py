"""What a customer's words mean where he was asked whether the specialist helped. Pure.

A bare yes or no is an answer. "No" with more after it is one, too: the ticket opens again with his words in it. "Yes"
with more after it may be a new matter, and is left to whoever has the conversation.
"""

from __future__ import annotations

import re

from handoff.records import Feedback

MAX_YES_CHARS = 60
_YES = re.compile(
    r"(?:спасибо(?: большое)?|thanks|thank you|all|все)?[\s,.!]*(?:да|ага|угу|yes|yep|yeah|yup|sure)?[\s,.!]*"
    r"(?:(?:он[аи]? |вы |мне |все |очень |it |he |she |you |they |this |that |really |did )*"
    r"(?:помог(?:ло|ла|ли)?|решил(?:и|о|ось|ся|ась)|решен[оа]?|работает|заработало|разобрал(?:ись|ся|ась)"
    r"|helped(?: me)?|(?:is |was )?(?:solved|resolved|fixed|sorted)|works|did)(?: now| теперь| все)?)?[\s,.!]*"
    r"(?:(?:все |большое |огромное |очень |it'?s |is |all |thank |many )*"
    r"(?:спасибо|благодарю|хорошо|отлично|супер|в порядке|ok|okay|fine|good|great|thanks|you|perfect)"
    r"(?: большое| огромное| вам| a lot| so much| very much)*)?[\s,.!)👍🙏❤️😊]*"
)
_NO = re.compile(
    r"(?:(?:нет|неа|нету|nope|nah|not (?:really|at all|yet)|no)\b|👎)(?P<rest>.*)"
    r"|(?:(?:он[аи]? |вы |мне |это |все |пока |it |he |she |you |they |this |that )*"
    r"(?:так и |совсем |вообще |ничем |still |has |have |was |is )*"
    r"(?:не (?:помог(?:ло|ла|ли)?|решил(?:и|о|ось|ся|ась)|решен[оа]?|работает|заработало)"
    r"|(?:did|does|do|has|have|was|is)(?:n't| not) (?:\w+ )?(?:help(?:ed)?|work(?:ing)?|solved?|resolved?|fix(?:ed)?)"
    r"|not (?:\w+ )?(?:solved|resolved|fixed|helped|working|helpful)))(?P<more>.*)"
    r"|(?:(?:но|but|the|my|it|it's|that|this|problem|issue|is|он[аио]?|это|проблема|вопрос) )*"
    r"(?:still|все еще|до сих пор|по-прежнему) (?:is |it is )?"
    r"(?:broken|there|the same|remains?|open|down|слома\w+|не \w+|есть|остал\w+|остае\w+|та же|то же)\b(?P<again>.*)",
    re.DOTALL,
)
_PARTED = re.compile(r"\s*(?:[,.;:!)(…—–\n👎-]|(?:не|так и|проблема|ничего|it|he|she|they|you|this|that|still)\b)")
_WELL = re.compile(
    r"\b(?:проблем(?!а)|вопрос(?:ов)?\b|претензи|жалоб|спасибо|благодар|хорошо|отлично|нормально|порядке"
    r"|(?<!не )(?:решил|решен|помог|работает|заработал)|problems?\b|questions?\b|worries|complaints?\b|thank|fine|good"
    r"|great|okay|ok\b|perfect|(?<!not )(?<!n't )(?:solved|resolved|fixed|helped))"
)


def read(text: str) -> Feedback | None:
    """None: it is no answer, or not surely one."""
    low = " ".join(text.lower().replace("ё", "е").replace("’", "'").split())
    if not re.search(r"\w|👍|👎", low):
        return None
    found = _NO.fullmatch(low)
    if found is not None:
        rest = found["rest"]
        if rest is None:
            return Feedback.NOT_HELPED
        if rest.strip(" .!,)(") and (not _PARTED.match(rest) or _WELL.search(rest)):
            return None  # "no problem", "no, thanks": it may be either
        return None if "?" in rest and not re.search(r"\w", rest) else Feedback.NOT_HELPED
    if len(low) <= MAX_YES_CHARS and (re.match(r"(?:да|ага|угу|yes|yep|yeah|yup)\b|👍", low) or _HELPED.search(low)):
        return Feedback.HELPED if low.strip() == "👍" or _YES.fullmatch(low) else None
    return None


_HELPED = re.compile(r"\b(?:помог|решил|решен|helped|solved|resolved|fixed|works|работает|заработало)")
