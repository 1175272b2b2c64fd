"""What can go wrong in the assistant.

OtvetError
├── SettingsError      a setting is wrong; names the variable
├── DeliveryError      a platform refused or could not be reached: retry_after_seconds, permanent
│   ├── WindowClosedError   the platform takes nothing but an approved template now
│   ├── UnreachableError    the customer blocked us or left: the message waits for him
│   ├── PacedError     our own limit for the platform: nothing was tried yet
│   ├── TopicGoneError      the forum topic was deleted
│   ├── TopicClosedError    the forum topic is closed
│   └── GroupRefusedError   the agents' group can't be used: says what is to be changed there
├── EditRefusedError   a sent message can't be changed; says why
├── FileRefusedError   a platform does not take this file: file_name, max_bytes
├── TooLargeError      a file is larger than we keep
├── StorageError       the bucket of attachments can't be used
├── TranscriptionError a voice message could not be put into words
├── FileGoneError      a file is no longer in the store
├── ReplyError         a reply template is missing or broken: template, lang
├── SignInError        wrong name or password, too often, or a link that is used up: code, retry_after_seconds
├── StaleReplyError    somebody wrote since the agent looked: newest_id
├── UnseenWordsError   the customer wrote what whoever ends his ticket has not seen: ticket_id, newest_id
├── MacroError         a macro is broken: title, problem
├── FlowError          a flow can't be used: problems, each with file, line and remedy
├── LookupFileError    lookups.yml can't be used: path, line
├── UnknownFlowError   there is no such flow, or no such revision of it: flow_id
├── StaleFlowError     somebody has saved the flow since: flow_id, expected, newest
├── FlowRunError       a flow's words or conditions break while it runs: flow, step
├── NoGapError         there is no such group of open messages: gap_id
├── GapActError        an editor's act on a group is refused: gap_id; says why and what to do
├── BackupError        a backup can't be written, read or put in place
├── GoldError          a gold question can't be used: field, problem
├── RefusedError       the gate lets a version not through: version, reasons
├── TrainingError      a training can't be asked for, or was stopped; says why
└── NotReadyError      something has to be made first: names the command
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot.flows.format import Problem


class OtvetError(Exception):
    """Root of everything this package raises."""


class SettingsError(OtvetError):
    """A setting that can't be used; the message names the variable and what is expected."""


class DeliveryError(OtvetError):
    """A message or file did not get through.

    permanent: trying again can't help (the customer blocked the bot, the file is gone).
    retry_after_seconds: how long the platform asked to wait.
    """

    def __init__(self, problem: str, *, permanent: bool = False, retry_after_seconds: float | None = None) -> None:
        super().__init__(problem)
        self.permanent = permanent
        self.retry_after_seconds = retry_after_seconds


class WindowClosedError(DeliveryError):
    """Too long ago since the customer wrote. The message waits for him to answer a template."""


class FileRefusedError(OtvetError):
    """Known before it is sent. max_bytes: what a file of its kind may have; 0: no files at all are taken."""

    def __init__(self, file_name: str, max_bytes: int, channel: str = "") -> None:
        limit = f"{max_bytes / 2**20:.3g} MB" if max_bytes >= 2**20 else f"{max_bytes // 1024} KB"
        where = channel or "the channel"
        problem = f"{where} takes {f'files like {file_name} of at most {limit}' if max_bytes else 'no files'}"
        super().__init__(problem)
        self.file_name = file_name
        self.max_bytes = max_bytes
        self.channel = channel


class TooLargeError(OtvetError):
    """The file exceeds the limit; nothing of it was kept."""


class StorageError(OtvetError):
    """The bucket of attachments refused, or can't be reached."""


class TranscriptionError(OtvetError):
    """A voice message could not be put into words; it is kept and passed on as it is."""


class FileGoneError(OtvetError):
    """There is no file of this SHA-256 any more."""


class UnreachableError(DeliveryError):
    """The customer blocked us, or left the platform. The message waits until he is back."""


class TopicGoneError(DeliveryError):
    """The forum topic was deleted: it has to be made anew."""


class TopicClosedError(DeliveryError):
    """The forum topic is closed: it has to be opened first."""


class GroupRefusedError(DeliveryError):
    """The agents' group takes nothing from us, until somebody changes something there."""


class EditRefusedError(OtvetError):
    """A message that was sent can't be changed any more; the message says why and what to do instead."""


class PacedError(DeliveryError):
    """Not tried, so that the platform's limit is kept; this message's own moment comes in retry_after_seconds."""


class ReplyError(OtvetError):
    def __init__(self, template: str, lang: str, problem: str) -> None:
        super().__init__(f"reply template {lang}/{template}.j2: {problem}")
        self.template = template
        self.lang = lang


class NotReadyError(OtvetError):
    """Something that has to be made first is not there; the message names the command that makes it."""


class BackupError(OtvetError):
    """A backup that can't be written, read or put in place; the message says why, and nothing was changed."""


class SignInError(OtvetError):
    """code: `wrong`, `too_often`, `no_invitation`, `weak` (password), `taken` (login or name), `not_you` (the old
    password is another)."""

    def __init__(self, code: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(f"sign-in refused: {code}")
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class UnseenWordsError(OtvetError):
    def __init__(self, ticket_id: int, newest_id: int) -> None:
        super().__init__(f"the customer of ticket {ticket_id} has written since: read it first")
        self.ticket_id = ticket_id
        self.newest_id = newest_id


class StaleReplyError(OtvetError):
    """A reply was not sent, because the conversation went on since its writer looked."""

    def __init__(self, ticket_id: int, newest_id: int, waiting: tuple[str, ...] = ()) -> None:
        super().__init__(f"ticket {ticket_id} went on since it was looked at")
        self.ticket_id = ticket_id
        self.newest_id = newest_id
        self.waiting = waiting
        """Who else has a reply under way."""


class MacroError(OtvetError):
    """A macro that can't be used; the message is for whoever wrote it."""

    def __init__(self, title: str, problem: str) -> None:
        super().__init__(f"macro {title}: {problem}")
        self.title = title
        self.problem = problem


class FlowError(OtvetError):
    """A flow that can't be used. The message has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class FlowRunError(OtvetError):
    """What an editor wrote into a flow can't be worked out with the slots as they are."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source[:80]!r}: {problem}")
        self.source = source


class GoldError(OtvetError):
    """A gold question that can't be used; the message is for whoever wrote it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class RefusedError(OtvetError):
    """A version was not published, because the gate refuses it or because it was not judged yet."""

    def __init__(self, version: str, reasons: tuple[str, ...]) -> None:
        why = "; ".join(reasons) or "it has not been judged yet: `otvet models judge` does so"
        super().__init__(f"version {version} is refused: {why}")
        self.version = version
        self.reasons = reasons


class TrainingError(OtvetError):
    """A training that can't be asked for, or that was stopped; the message says why."""


class NoGapError(OtvetError):
    def __init__(self, gap_id: int) -> None:
        super().__init__(f"there is no group {gap_id}: `otvet gaps list` shows those that are open")
        self.gap_id = gap_id


class GapActError(OtvetError):
    """Refused, and nothing was changed. code: which refusal, for the pages."""

    def __init__(self, gap_id: int, code: str, problem: str) -> None:
        super().__init__(f"group {gap_id}: {problem}")
        self.gap_id = gap_id
        self.code = code


class LookupFileError(OtvetError):
    """What the description of the lookups says can't be done; the message says where and what to write instead."""

    def __init__(self, path: str, line: int | None, problem: str) -> None:
        super().__init__(f"{path}{f':{line}' if line else ''}: {problem}")
        self.path = path
        self.line = line


class UnknownFlowError(OtvetError):
    def __init__(self, flow_id: str) -> None:
        super().__init__(f"there is no such flow or revision: {flow_id}. `otvet flows list` shows the flows")
        self.flow_id = flow_id


class StaleFlowError(OtvetError):
    """Nothing was saved: the text that was changed is no longer the present one."""

    def __init__(self, flow_id: str, expected: int | None, newest: int | None) -> None:
        now = f"revision {newest} was saved meanwhile" if newest else "it is gone"
        since = f"you changed revision {expected}, but {now}" if expected else "there is one of this name already"
        super().__init__(f"flow {flow_id}: {since}. Look at it, and make your change there")
        self.flow_id = flow_id
        self.expected = expected
        self.newest = newest
