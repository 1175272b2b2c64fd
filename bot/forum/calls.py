"""What goes into one call of Telegram: which of the things that a topic lacks are told together, and in which words.
Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from aiogram.utils.formatting import Italic, Text

from bot.channels.base import OutboundAttachment
from bot.channels.telegram_forum import Sent
from bot.channels.telegram_limits import CAPABILITIES, MAX_ALBUM
from bot.channels.telegram_text import MAX_UNITS
from bot.errors import FileRefusedError
from bot.forum.text import SILENT_KINDS, Piece, file_names, happened, say, version_of
from handoff.records import Attachment, Author, HistoryEntry, Message
from handoff.routing import Topics

T = TypeVar("T")
ALBUM = timedelta(seconds=1.5)
"""How long an album waits for its next picture."""
_SEPARATOR = "\n\n"
_VISIBLE = frozenset({"photo", "video"})
"""The kinds that Telegram shows together."""

Carrier = OutboundAttachment | tuple[str, str]
"""A file of ours, or (kind, handle) of one that Telegram has."""


@dataclass(frozen=True)
class Happening:
    """A message of the transcript, or an entry of the history, and how it is told."""

    at: datetime
    id: int
    pieces: Sequence[Piece]
    """Empty: it needs no telling."""
    of_history: bool = False


@dataclass(frozen=True)
class Block:
    """What one call tells, or several where one thing is too long for it."""

    pieces: Sequence[Piece]
    """Empty: there is nothing to tell, only to pass over."""
    seen_id: int
    seen_entry_id: int
    """The last of the transcript, and of the history, that is done with once it is told."""


@dataclass(frozen=True)
class Post:
    """What a call has put into a topic."""

    sent: Sent
    kind: str
    """As in `ForumPost`."""
    pieces: Sequence[Piece] = ()
    files: Sequence[Attachment] = ()
    """That stand there now, or are named."""


def message_pieces(message: Message, customer: str | None, lang: str) -> list[Piece]:
    """A message as it is told: its files with the last of its pieces. Empty for what needs no telling."""
    if message.kind in SILENT_KINDS or (message.kind == "reaction" and message.author is not Author.CUSTOMER):
        return []
    if message.kind == "reaction":
        return [Piece(Text(), message_id=message.id, reply_to_id=message.reply_to_id, reaction=message.text.strip())]
    files = tuple(message.attachments)
    if not (message.text or files or message.options):
        return []
    texts = say(message, customer, lang, quote=message.reply_to_id is None)
    album = str((message.context or {}).get("album") or "") or None
    pieces = [Piece(text, message_id=message.id, version=version_of(message)) for text in texts]
    pieces[0] = replace(pieces[0], reply_to_id=message.reply_to_id)
    pieces[-1] = replace(pieces[-1], files=files, album=album, at=message.created_at)
    return pieces


def entry_pieces(entry: HistoryEntry, topics: Topics, lang: str) -> list[Piece]:
    """A line, or nothing for what needs no telling."""
    line = happened(entry, topics, lang)
    return [Piece(Italic(line), entry_id=entry.id, line={"text": line})] if line else []


def next_block(messages: Sequence[Happening], entries: Sequence[Happening], seen_id: int, seen_entry_id: int) -> Block:
    """The first things that fit into one call, of both together by time; of either in the order in which they are
    given, whatever the clocks of two processes say. seen_id, seen_entry_id: what was done with before.

    A reaction, or a message of several pieces, stands alone: it takes more than one call, or another one.
    """
    taken: list[Piece] = []
    units = 0
    # Of what has the same time, messages come first.
    for each in heapq.merge(_rising(messages), _rising(entries), key=lambda each: each.at):
        if each.pieces and taken and not _joins(taken, each.pieces, units):
            break
        taken += each.pieces
        units += sum(len(piece.text) + len(_SEPARATOR) for piece in each.pieces)
        if each.of_history:
            seen_entry_id = each.id
        else:
            seen_id = each.id
        if len(each.pieces) > 1 or (each.pieces and each.pieces[0].reaction is not None):
            break
    return Block(taken, seen_id, seen_entry_id)


def _rising(rows: Sequence[Happening]) -> list[Happening]:
    """The same order, with times that never go back."""
    rising: list[Happening] = []
    for row in rows:
        rising.append(replace(row, at=max(row.at, rising[-1].at)) if rising else row)
    return rising


def _joins(taken: Sequence[Piece], more: Sequence[Piece], units: int) -> bool:
    """Whether what follows can be told in the same call."""
    last, first = taken[-1], more[0]
    if len(more) > 1 or first.reaction is not None or last.reaction is not None:
        return False
    if first.files or last.files:
        files = sum(len(piece.files) for piece in taken) + len(first.files)
        return bool(first.files and last.files and first.album and first.album == last.album and files <= MAX_ALBUM)
    return first.reply_to_id is None and units + len(first.text) + len(_SEPARATOR) <= MAX_UNITS


def grows(block: Block, now: datetime) -> bool:
    """Whether its album's next picture may still be on its way."""
    last = block.pieces[-1] if block.pieces else None
    return last is not None and bool(last.album) and last.at is not None and now < last.at + ALBUM


def joined(texts: Sequence[Text]) -> Text:
    """With an empty line between any two. No limit is looked at."""
    parts: list[Text | str] = []
    for text in texts:
        parts += [_SEPARATOR, text] if parts else [text]
    return Text(*parts)


def parts_of(pieces: Sequence[Piece]) -> list[tuple[Text, Sequence[Piece]]]:
    """The words of a block, one text for each call: all at once, or one after the other where they are too long, or
    are pieces of one message. There is at least one piece."""
    whole = joined([piece.text for piece in pieces])
    if len(pieces) == 1:
        return [(whole, pieces)]
    of_one_message = pieces[0].message_id is not None and pieces[0].message_id == pieces[1].message_id
    if not of_one_message and len(whole) <= MAX_UNITS:
        return [(whole, pieces)]
    return [(piece.text, [piece]) for piece in pieces]


def albums(files: Sequence[tuple[Attachment, Carrier]]) -> list[list[tuple[Attachment, Carrier]]]:
    """What goes into one call each, in order."""
    return _together(files, lambda file: [_shown_kind(file[1])])


def file_groups(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces whose files go into one call each, in order. Goes by the kind that each file is said to have, so that a
    group is the same whenever it is asked for."""
    return _together(pieces, lambda piece: [file.kind for file in piece.files])


def _together(things: Iterable[T], kinds: Callable[[T], list[str]]) -> list[list[T]]:
    """Photos and videos that follow one another, as many as an album holds; all else by itself. kinds: of the files of
    a thing, which stay together."""
    groups: list[list[T]] = []
    for thing in things:
        found = [kind for each in (*(groups[-1] if groups else ()), thing) for kind in kinds(each)]
        if groups and len(found) <= MAX_ALBUM and _VISIBLE.issuperset(found):
            groups[-1].append(thing)
        else:
            groups.append([thing])
    return groups


def _shown_kind(file: Carrier) -> str:
    if isinstance(file, tuple):
        return file[0]
    try:
        return CAPABILITIES.carrier(file)
    except FileRefusedError:  # too large: refused when it is sent, and then told by name
        return "document"


def names_of(files: Sequence[Attachment], lang: str) -> str:
    """In place of files that can't be sent: a place or a number in words, all else by its name. Empty for none."""
    facts = [fact for file in files if (fact := _fact(file))]
    unseen = [file for file in files if not _fact(file)]
    return "\n".join([*([file_names(unseen, lang)] if unseen else []), *facts])


def _fact(file: Attachment) -> str:
    """What there is of an attachment that is no file: a place, a number."""
    place, person = file.source.get("location"), file.source.get("contact")
    venue = file.source.get("venue")
    if isinstance(venue, dict):
        place = venue.get("location")
    if isinstance(place, dict) and "latitude" in place and "longitude" in place:
        return f"📍 https://maps.google.com/?q={place['latitude']},{place['longitude']}"
    if isinstance(person, dict):
        return " ".join(filter(None, ("☎️", str(person.get("first_name") or ""), str(person.get("phone_number") or ""))))
    return ""
