"""The Markdown that replies may use, as every platform's renderer reads it."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_MARKDOWN = MarkdownIt("zero", {"html": False}).enable(
    ["emphasis", "link", "newline", "backticks", "fence", "heading", "list", "blockquote", "hr", "table"]
)


def parse(markdown: str) -> SyntaxTreeNode:
    """The document's tree. Any text is valid; single stars and underscores stay what they are (`em`)."""
    return SyntaxTreeNode(_MARKDOWN.parse(markdown))
