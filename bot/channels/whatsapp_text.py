"""Our light Markdown as WhatsApp's markup: *bold*, ```code```, `code`, > quote, lists; links are written out.

WhatsApp knows no escapes, so what an author typed in its own markup (`_italic_`, `~struck~`) is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it.tree import SyntaxTreeNode

from bot.channels.base import OutboundMessage, split_text
from bot.channels.light_markdown import parse

MAX_TEXT_CHARS = 4096
MAX_NAME_CHARS = 45


def compose(message: OutboundMessage, limit: int = MAX_TEXT_CHARS) -> list[str]:
    """The message as one text, or as several where markup and addresses made it longer than the platform takes."""
    name = message.agent_name
    head = f"*{' '.join(name.replace('*', '').split())[:MAX_NAME_CHARS]}*\n" if name else ""
    texts = _within(message.text, limit - len(head))
    return [f"{head}{texts[0]}", *texts[1:]]


def render(markdown: str) -> str:
    return _render(parse(markdown))


def _within(markdown: str, limit: int) -> list[str]:
    text = render(markdown)
    if len(text) <= limit:
        return [text]
    if len(markdown) <= 1:
        return split_text(text, limit)
    halves = split_text(markdown, min((len(markdown) + 1) // 2, limit))
    return [piece for half in halves for piece in _within(half, limit)]


def _render(node: SyntaxTreeNode) -> str:
    match node.type:
        case "root" | "list_item":
            return _blocks(node.children)
        case "bullet_list" | "ordered_list":
            return _list(node)
        case "table":
            return "\n".join(_render(row) for part in node.children for row in part.children)
        case "tr":
            return " — ".join(_render(cell) for cell in node.children)
        case "heading":
            return _bold(_inside(node))
        case "blockquote":
            return "\n".join(f"> {line}" for line in _blocks(node.children).split("\n"))
        case "hr":
            return "———"
        case "fence":
            content = node.content.rstrip("\n")
            return f"```{content}```" if content else ""
        case "softbreak" | "hardbreak":
            return "\n"
        case "code_inline":
            return f"`{node.content}`"
        case "strong" if node.markup == "**":
            return _bold(_inside(node))
        case "strong" | "em":
            return f"{node.markup}{_inside(node)}{node.markup}"
        case "link":
            return _link(str(node.attrGet("href") or ""), _inside(node))
        case _:
            return _inside(node) if node.children else node.content


def _inside(node: SyntaxTreeNode) -> str:
    return "".join(_render(child) for child in node.children)


def _bold(text: str) -> str:
    # Markup does not reach over lines, and is none where a space stands inside its marks.
    return "\n".join(f"*{line.strip()}*" if line.strip() else "" for line in text.replace("*", "").split("\n"))


def _blocks(nodes: Sequence[SyntaxTreeNode]) -> str:
    """Blocks one under another, with an empty line between them where the author left one."""
    text = ""
    for before, node in zip((None, *nodes), nodes, strict=False):
        if before is not None:
            adjacent = before.map is not None and node.map is not None and before.map[1] == node.map[0]
            text += "\n" if adjacent and not before.type.endswith("_list") else "\n\n"
        text += _render(node)
    return text


def _list(items: SyntaxTreeNode, indent: str = "") -> str:
    lines = []
    for item in items.children:
        marker = "• " if items.type == "bullet_list" else f"{item.info}. "
        parts = [
            _list(child, f"{indent}    ") if child.type in ("bullet_list", "ordered_list") else _render(child)
            for child in item.children
        ]
        lines.append(f"{indent}{marker}" + "\n".join(parts))
    return "\n".join(lines)


def _link(url: str, label: str) -> str:
    """WhatsApp makes links of addresses by itself, and of nothing else."""
    address = url.removeprefix("mailto:").removeprefix("tel:")
    return address if not label or label == address else f"{label} ({address})" if url else label
