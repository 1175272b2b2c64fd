"""The playground: ask as a customer, in any channel's look, any version or draft, and see why. Nothing is stored."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response

from bot.desk.accounts import SignedIn
from bot.errors import NotReadyError
from bot.language import LANGUAGES
from bot.models.playground import CHANNELS, Said, converse
from bot.models.releases import ModelMeans
from bot.web.desk_base import N_
from bot.web.guards import Refusal
from bot.web.studio_base import PREFIX, Part, StudioWeb, words
from kb_index.library import Library, Stored
from nlu.errors import NluError

HERE = f"{PREFIX}/playground"
MOST_CHARS = 4100
MOST_STATE = 20_000
RULES = {
    "answer": N_("The likeliest article is as sure as an answer must be."),
    "several_questions": N_("Several sentences have a sure answer each."),
    "one_of_several_questions": N_("One of the sentences has a sure answer."),
    "clarify": N_("No article is sure enough, but the right one is probably among the likeliest: they are offered."),
    "clarify_after_answer": N_("The likeliest article was shown already: the next ones are offered."),
    "same_answer_again": N_("The likeliest article was shown already, and no other is likely: a person."),
    "rephrase": N_("Nothing is sure, and few words were said: the customer is asked once to say it otherwise."),
    "low_confidence": N_("Nothing is sure enough to be shown: a person."),
    "no_words": N_("There are no words to understand."),
    "too_long": N_("It is longer than what is read."),
    "chosen": N_("The customer chose an article."),
    "more": N_("The customer wants the whole article."),
    "answer_rejected": N_("The customer says that it did not help: a person."),
    "answer_confirmed": N_("The customer says that it helped."),
    "person_chosen": N_("The customer chose a person."),
    "shadow": N_("The assistant only drafts for this topic: a person gets the answer ready to send."),
}
KINDS = {
    "question": N_("nearest example question"),
    "questions": N_("all example questions"),
    "passage": N_("meaning of the text"),
    "sentence": N_("nearest sentence"),
    "words": N_("words of the text"),
    "sentence_words": N_("words of the nearest sentence"),
    "question_words": N_("words of the questions"),
    "parts": N_("parts of words in the text"),
    "question_parts": N_("parts of words in the questions"),
    "memory": N_("similar questions together"),
    "intent": N_("the intent leads there"),
}
LOOKS = {"site": N_("Site chat"), "telegram": "Telegram", "whatsapp": "WhatsApp"}


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=HERE, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    def means() -> ModelMeans:
        if web.models is None:
            raise Refusal("not_found")
        return web.models

    async def drafts(me: SignedIn) -> list[Stored]:
        async with web.reading() as session:
            return await Library(session, author=me.viewer.name, now=web.clock()).unpublished(limit=200)

    @router.get("")
    async def playground(
        request: Request, me: Me, version: str = "", text: str = "", lang: str = "", article: str = ""
    ) -> Response:
        store = means().store
        in_use = store.in_use()
        known = [each.id for each in reversed(store.versions()) if each.id != in_use.live][:20]
        return web.page(
            request,
            "playground.html",
            me,
            live=in_use.live,
            versions=known,
            drafts=await drafts(me),
            looks={key: words(me)(label) for key, label in LOOKS.items()},
            chosen={
                "version": version if version in known else "",
                "text": text[:MOST_CHARS],
                "lang": lang if lang in LANGUAGES else "",
                "article": article,
            },
            here=HERE,
        )

    @router.post("/say")
    async def say(
        request: Request,
        me: Me,
        text: Annotated[str, Form()] = "",
        choice: Annotated[str, Form()] = "",
        channel: Annotated[str, Form()] = "site",
        lang: Annotated[str, Form()] = "",
        version: Annotated[str, Form()] = "",
        article: Annotated[list[str] | None, Form()] = None,
        state: Annotated[str, Form()] = "",
    ) -> Response:
        if channel not in CHANNELS or len(text) > MOST_CHARS or len(state) > MOST_STATE:
            raise Refusal("invalid")
        if not text.strip() and not choice:
            raise Refusal("empty")
        wanted = set(article or ())
        chosen = [each.article for each in await drafts(me) if f"{each.article.id}|{each.article.lang}" in wanted]
        said = Said(text, choice or None, channel, lang if lang in LANGUAGES else None, _state(state))
        try:
            understander = await asyncio.to_thread(means().view, version or None, chosen)
        except (NluError, NotReadyError) as error:
            raise Refusal("not_found") from error
        turns = means().turns(lambda: understander)
        reply = await converse(turns, understander, web.desk.sessions, said, web.clock())
        labels = said.state.get("options", {})
        return web.page(
            request,
            "_playground_turn.html",
            me,
            reply=reply,
            asked=labels.get(choice, text) if choice else text,
            state=json.dumps(reply.state, ensure_ascii=False),
            channel=channel,
            rule=_rule(reply.rule, me),
            kinds={key: words(me)(label) for key, label in KINDS.items()},
            here=HERE,
        )

    return router


def _state(text: str) -> dict[str, Any]:
    """What the page kept of the conversation. Raises Refusal for what is none."""
    try:
        state = json.loads(text) if text else {}
        if not isinstance(state, dict) or not isinstance(state.get("options", {}), dict):
            raise TypeError("state")
    except (ValueError, TypeError) as error:
        raise Refusal("bad_request") from error
    return state


def _rule(rule: str, me: SignedIn) -> str:
    say = words(me)
    if rule in RULES:
        return say(RULES[rule])
    kind, _, name = rule.partition(":")
    if kind == "intent":
        return say(N_("The intent %(name)s is sure enough, and this is what it leads to.")) % {"name": name}
    return say(N_("Rule: %(name)s.")) % {"name": rule}


PART = Part("playground", N_("Playground"), "spark", create_router)
