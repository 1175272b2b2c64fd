"""Our light Markdown as Telegram's text with entities.

Entities and not HTML: they need no escaping, and there is no markup that could be malformed.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiogram.utils.formatting import BlockQuote, Bold, Code, Pre, Text, TextLink
from markdown_it.tree import SyntaxTreeNode

from bot.channels.base import OutboundMessage, split_text
from bot.channels.light_markdown import parse

MAX_UNITS = 4000
"""UTF-16 units of text in one message. Telegram takes 4096; the rest is for an agent's name."""
MAX_NAME_CHARS = 45


def compose(message: OutboundMessage, max_units: int = MAX_UNITS) -> list[Text]:
    """The message as one text, or as several where its markup makes it longer than what was typed (a table)."""
    texts = _within_limit(message.text, max_units)
    if message.agent_name:
        texts[0] = Text(Bold(message.agent_name[:MAX_NAME_CHARS]), "\n", texts[0])
    return texts


def render(markdown: str) -> Text:
    """Bold, links, code and quotes become entities, lists and tables become lines; anything else stays as typed."""
    return _render(parse(markdown))


def _within_limit(markdown: str, max_units: int) -> list[Text]:
    text = render(markdown)
    if len(text) <= max_units:
        return [text]
    halves = split_text(markdown, (len(markdown) + 1) // 2)
    return [piece for half in halves for piece in _within_limit(half, max_units)]


def _render(node: SyntaxTreeNode) -> Text:
    match node.type:
        case "root" | "list_item":
            return _blocks(node.children)
        case "bullet_list" | "ordered_list":
            return _list(node)
        case "table":
            return _joined("\n", [_render(row) for part in node.children for row in part.children])
        case "tr":
            return _joined(" — ", [_render(cell) for cell in node.children])
        case "heading":
            return Bold(*_inside(node))
        case "blockquote":
            return BlockQuote(_blocks(node.children))
        case "hr":
            return Text("———")
        case "fence":
            return Pre(node.content.rstrip("\n"))
        case "softbreak" | "hardbreak":
            return Text("\n")
        case "code_inline":
            return Code(node.content)
        case "strong" if node.markup == "**":
            return Bold(*_inside(node))
        case "strong" | "em":
            # Not ours: "2*3*4" and "__init__" are to arrive as they were typed.
            return Text(node.markup, *_inside(node), node.markup)
        case "link":
            return _link(str(node.attrGet("href") or ""), _inside(node))
        case _:
            return Text(*_inside(node)) if node.children else Text(node.content)


def _inside(node: SyntaxTreeNode) -> list[Text]:
    return [_render(child) for child in node.children]


def _blocks(nodes: Sequence[SyntaxTreeNode]) -> Text:
    """Blocks one under another, with an empty line between them where the author left one."""
    parts: list[Text | str] = []
    for before, node in zip((None, *nodes), nodes, strict=False):
        if before is not None:
            adjacent = before.map is not None and node.map is not None and before.map[1] == node.map[0]
            parts.append("\n" if adjacent and not before.type.endswith("_list") else "\n\n")
        parts.append(_render(node))
    return Text(*parts)


def _list(items: SyntaxTreeNode, indent: str = "") -> Text:
    """One item a line; what is nested in it is moved to the right."""
    parts: list[Text | str] = []
    for item in items.children:
        marker = "• " if items.type == "bullet_list" else f"{item.info}. "
        parts.append(f"\n{indent}{marker}" if parts else f"{indent}{marker}")
        for number, child in enumerate(item.children):
            nested = child.type in ("bullet_list", "ordered_list")
            parts.extend(["\n" if number else "", _list(child, f"{indent}    ") if nested else _render(child)])
    return Text(*parts)


def _joined(separator: str, parts: Sequence[Text]) -> Text:
    body: list[Text | str] = []
    for part in parts:
        body.extend([separator, part] if body else [part])
    return Text(*body)


def _link(url: str, label: list[Text]) -> Text:
    """Telegram links to http, https and tg only; another address is written out."""
    if url.startswith(("http://", "https://", "tg://")):
        return TextLink(*label, url=url)
    return Text(*label, f" ({url})") if url else Text(*label)
