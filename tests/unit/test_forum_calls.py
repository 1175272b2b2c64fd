"""What goes into one call of Telegram."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiogram.utils.formatting import Text

from bot.channels.base import OutboundAttachment
from bot.channels.telegram_text import MAX_UNITS
from bot.forum.calls import (
    Block,
    Carrier,
    Happening,
    albums,
    file_groups,
    grows,
    message_pieces,
    names_of,
    next_block,
    parts_of,
)
from bot.forum.text import Piece
from handoff.records import Attachment, AttachmentState, Author, Message

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def message(**columns: Any) -> Message:
    base = {"id": 7, "author": Author.CUSTOMER, "kind": "text", "text": "", "edits": [], "options": [], "context": {}}
    return Message(**{**base, "sent_at": NOW, "created_at": NOW, **columns})


def file(kind: str = "photo", **columns: Any) -> Attachment:
    return Attachment(kind=kind, **{"state": AttachmentState.STORED, "source": {}, **columns})


def said(number: int, *texts: str, seconds: float | None = None, **of_last: Any) -> Happening:
    pieces = [Piece(Text(text), message_id=number) for text in texts[:-1]]
    pieces += [Piece(Text(text), message_id=number, **of_last) for text in texts[-1:]]
    return Happening(NOW + timedelta(seconds=number if seconds is None else seconds), number, pieces)


def done(number: int, text: str, *, seconds: float) -> Happening:
    return Happening(NOW + timedelta(seconds=seconds), number, [Piece(Text(text), entry_id=number)], of_history=True)


def words(pieces: Sequence[Piece]) -> list[str]:
    return [piece.text.render()[0] for piece in pieces]


class TestBlocks:
    def test_what_was_said_and_what_was_done_are_told_together_by_time(self) -> None:
        block = next_block([said(1, "a"), said(4, "d")], [done(8, "c", seconds=2), done(9, "late", seconds=5)], 0, 0)
        assert words(block.pieces) == ["a", "c", "d", "late"]
        assert (block.seen_id, block.seen_entry_id) == (4, 9)

    def test_two_clocks_that_differ_turn_nothing_round(self) -> None:
        block = next_block([said(1, "a", seconds=9), said(2, "b", seconds=3)], [done(5, "c", seconds=8)], 0, 0)
        assert words(block.pieces) == ["c", "a", "b"]

    def test_what_needs_no_telling_is_passed_over(self) -> None:
        block = next_block([said(1), said(2)], [], 0, 3)
        assert (block.pieces, block.seen_id, block.seen_entry_id) == ([], 2, 3)

    def test_as_much_as_one_call_takes_is_told_and_the_rest_is_next(self) -> None:
        half = "x" * (MAX_UNITS // 2 - 10)
        block = next_block([said(1, half), said(2, half), said(3, half)], [], 0, 0)
        assert block.seen_id == 2
        assert len(parts_of(block.pieces)) == 1

    @pytest.mark.parametrize(
        "alone",
        [
            said(2, "", reaction="👍"),
            said(2, "first half", "second half"),
            said(2, "", files=(file(),)),
            said(2, "because of that", reply_to_id=1),
        ],
        ids=["reaction", "long", "file", "answer"],
    )
    def test_what_takes_another_call_does_not_join_what_came_before(self, alone: Happening) -> None:
        assert next_block([said(1, "before"), alone], [], 0, 0).seen_id == 1
        assert next_block([alone], [], 1, 0).seen_id == 2

    @pytest.mark.parametrize("alone", [said(2, "", reaction="👍"), said(2, "first half", "second half")])
    def test_nothing_joins_what_takes_a_call_of_its_own(self, alone: Happening) -> None:
        assert next_block([alone, said(3, "after")], [], 1, 0).seen_id == 2

    def test_pictures_of_one_album_stay_together_and_no_more_than_telegram_takes(self) -> None:
        pictures = [said(n, "", files=(file(),), album="a") for n in range(1, 13)]
        assert next_block(pictures, [], 0, 0).seen_id == 10
        other = said(2, "", files=(file(),), album="b")
        assert next_block([pictures[0], other], [], 0, 0).seen_id == 1

    def test_an_album_waits_a_moment_for_its_next_picture(self) -> None:
        block = Block([Piece(Text(), album="a", at=NOW)], 1, 0)
        assert grows(block, NOW + timedelta(seconds=1))
        assert not grows(block, NOW + timedelta(seconds=2))
        assert not grows(Block([Piece(Text(), at=NOW)], 1, 0), NOW)
        assert not grows(Block([], 1, 0), NOW)


class TestParts:
    def test_different_things_are_one_text_whether_said_or_done(self) -> None:
        for pieces in (
            [Piece(Text("a"), message_id=1), Piece(Text("b"), message_id=2)],
            [Piece(Text("a"), entry_id=1), Piece(Text("b"), entry_id=2)],
        ):
            [(text, told)] = parts_of(pieces)
            assert (text.render()[0], told) == ("a\n\nb", pieces)

    def test_pieces_of_one_message_are_a_call_each(self) -> None:
        parts = parts_of([Piece(Text("a"), message_id=1), Piece(Text("b"), message_id=1)])
        assert [text.render()[0] for text, _ in parts] == ["a", "b"]

    def test_captions_of_an_album_that_are_too_long_together_are_a_call_each(self) -> None:
        long = "x" * (MAX_UNITS - 10)
        assert len(parts_of([Piece(Text(long), message_id=1), Piece(Text(long), message_id=2)])) == 2


class TestPieces:
    def test_the_first_piece_answers_and_the_last_has_the_files(self) -> None:
        picture = file()
        told = message_pieces(message(text="x" * 5000, reply_to_id=3, attachments=[picture]), "Анна", "en")
        assert [piece.reply_to_id for piece in told] == [3, *[None] * (len(told) - 1)]
        assert [piece.files for piece in told] == [*[()] * (len(told) - 1), (picture,)]

    @pytest.mark.parametrize(
        "silent",
        [
            message(kind="edit", text="x"),
            message(kind="reaction", text="👍", author=Author.AGENT, agent_name="Olga"),
            message(),
        ],
        ids=["edit", "own reaction", "empty"],
    )
    def test_what_says_nothing_new_is_not_told(self, silent: Message) -> None:
        assert message_pieces(silent, "Анна", "en") == []

    def test_a_reaction_that_was_taken_away_is_told_as_none(self) -> None:
        [piece] = message_pieces(message(kind="reaction", text=" ", reply_to_id=3), "Анна", "en")
        assert (piece.reaction, piece.reply_to_id) == ("", 3)


class TestFiles:
    def carried(self, kind: str, size: int = 1) -> tuple[Attachment, Carrier]:
        types = {"photo": "image/jpeg", "video": "video/mp4"}
        return file(kind), OutboundAttachment(kind, Path("x"), "x", types.get(kind, "application/pdf"), size)

    def test_photos_and_videos_go_together_and_all_else_by_itself(self) -> None:
        kinds = ["photo", "video", "document", "document", "photo"]
        groups = albums([self.carried(kind) for kind in kinds])
        assert [[each.kind for each, _ in group] for group in groups] == [
            ["photo", "video"],
            ["document"],
            ["document"],
            ["photo"],
        ]

    def test_a_photo_that_is_too_large_to_be_one_goes_by_itself_like_any_file(self) -> None:
        groups = albums([self.carried("photo"), self.carried("photo", 2**40), self.carried("photo")])
        assert [len(group) for group in groups] == [1, 1, 1]

    def test_what_telegram_has_is_what_it_is_called(self) -> None:
        assert len(albums([(file(), ("photo", "handle")), (file("video"), ("video", "handle"))])) == 1
        assert len(albums([(file(), ("photo", "handle")), (file("voice"), ("voice", "handle"))])) == 2

    def test_an_album_holds_ten(self) -> None:
        assert [len(group) for group in albums([self.carried("photo")] * 23)] == [10, 10, 3]

    def test_the_files_of_one_message_are_not_torn_apart(self) -> None:
        pieces = [Piece(Text(), files=(file(), file(), file())) for _ in range(4)]
        assert [len(group) for group in file_groups(pieces)] == [3, 1]
        mixed = Piece(Text(), files=(file(), file("document")))
        assert [len(group) for group in file_groups([pieces[0], mixed, pieces[1]])] == [1, 1, 1]

    def test_a_place_and_a_number_are_told_and_a_file_is_named(self) -> None:
        told = names_of(
            [
                file("document", file_name="act.pdf"),
                file("location", source={"location": {"latitude": 55.7, "longitude": 37.6}}),
                file("venue", source={"venue": {"location": {"latitude": 1, "longitude": 2}}}),
                file("contact", source={"contact": {"first_name": "Ира", "phone_number": "+7900"}}),
            ],
            "en",
        )
        assert "act.pdf" in told
        assert told.splitlines()[1:] == [
            "📍 https://maps.google.com/?q=55.7,37.6",
            "📍 https://maps.google.com/?q=1,2",
            "☎️ Ира +7900",
        ]
