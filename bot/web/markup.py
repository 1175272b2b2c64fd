"""Light Markdown to safe HTML: the one renderer of what the assistant and agents write."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

_URL = re.compile(r"https?://[^\s<>\"'«»]+[^\s<>\"'«».,:;!?)\]}…]")


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:  # noqa: N802 - the library's name
        return url.lower().startswith(("https://", "http://"))


def _link_bare_addresses(state: StateCore) -> None:
    for block in state.tokens:
        depth, children = 0, []
        for token in block.children or ():
            depth += token.nesting if token.type in ("link_open", "link_close") else 0
            children.extend(_split(token) if token.type == "text" and not depth else [token])
        block.children = children
        for token in children:
            if token.type == "link_open":
                token.attrSet("target", "_blank")
                token.attrSet("rel", "noopener noreferrer nofollow")


def _split(text: Token) -> list[Token]:
    pieces, position = [], 0
    for match in _URL.finditer(text.content):
        pieces += [
            Token("text", "", 0, content=text.content[position : match.start()]),
            Token("link_open", "a", 1, attrs={"href": match.group()}),
            Token("text", "", 0, content=match.group()),
            Token("link_close", "a", -1),
        ]
        position = match.end()
    return [*pieces, Token("text", "", 0, content=text.content[position:])]


_RENDERER = _Markdown("zero", {"breaks": True}).enable(
    ["emphasis", "list", "link", "autolink", "newline", "escape", "backticks", "heading", "blockquote", "hr"]
)
_RENDERER.core.ruler.push("link_bare_addresses", _link_bare_addresses)


def render(text: str) -> str:
    """HTML of p, br, strong, em, code, ul, ol, li, h1 to h6, blockquote, hr and a (http and https only).

    Any HTML in the text stays text. Links open a new window and tell nothing about where they were followed from.
    """
    return str(_RENDERER.render(text)).strip()
