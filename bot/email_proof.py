"""A customer proves that an e-mail is his: he repeats a code that was sent to it. Only then is it taken for his, and
joins this conversation with the others in which the same address was proved.

What somebody merely types stays a suggestion to agents. Whether an address is known here is told to nobody who has not
proved it: every address is sent a code, and the answers are the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from bot.channels.base import Address
from bot.errors import SettingsError
from bot.flows.proof import NewCode, Proofs, Refusal
from bot.notifications import apprise_deliver
from bot.replies import Replies
from bot.work import Sessions
from handoff import desk
from handoff.customers import Customers, as_email
from handoff.records import Conversation

Deliver = Callable[[str, str, str], Awaitable[None]]
"""Address of Apprise's, title and body. Raises DeliveryError."""
_HOLDS_MINUTES = 10


class EmailProof:
    def __init__(
        self,
        *,
        mail: str,
        proofs: Proofs,
        customers: Customers,
        replies: Replies,
        sessions: Sessions,
        clock: Callable[[], datetime],
        deliver: Deliver = apprise_deliver,
    ) -> None:
        """mail: an address of Apprise's (`mailtos://user:password@smtp.shop.example?from=help@shop.example`), to which
        the receiver is added. Raises SettingsError for another one."""
        if urlsplit(mail).scheme not in ("mailto", "mailtos"):
            raise SettingsError("OTVET_MAIL: expected an address of Apprise's that begins with mailto:// or mailtos://")
        self._mail = mail
        self._proofs = proofs
        self._customers = customers
        self._replies = replies
        self._sessions = sessions
        self._clock = clock
        self._deliver = deliver

    async def ask(self, address: Address, email: str, lang: str) -> NewCode | Refusal | None:
        """Send a code; None where that is no e-mail. Raises DeliveryError when the mail server does not take it."""
        if (known := as_email(email)) is None:
            return None
        code = await self._proofs.new_code(str(address), _subject(known))
        if isinstance(code, NewCode):
            values = {"code": code.code, "minutes": code.minutes}
            title, _, body = self._replies.render("email_code", lang, values).partition("\n")
            await self._deliver(_to(self._mail, known), title, body.strip())
        return code

    async def confirm(self, address: Address, conversation_id: int, email: str, code: str) -> Refusal | None:
        """Take a code; None: it is right, and the address is his from now on."""
        if (known := as_email(email)) is None:
            return Refusal.WRONG
        now = self._clock()
        async with self._sessions.begin() as session:
            conversation: Conversation = await desk.lock_conversation(session, conversation_id)
            # A code is used up together with what it proves: whoever could not be told so may repeat it.
            refusal = await self._proofs.check_in(session, str(address), _subject(known), code[:20], _HOLDS_MINUTES)
            if refusal is not None:
                return refusal
            await self._customers.prove_email(session, conversation, known, now)
            lang = conversation.lang or "ru"
            text = self._replies.render("note_email", lang, {"email": known})
            await desk.note(session, conversation_id, text, about={"email": known}, now=now)
        return None


def _subject(email: str) -> str:
    return f"email:{email}"[:200]


def _to(mail: str, receiver: str) -> str:
    parts = urlsplit(mail)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "to"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("to", receiver)])))
