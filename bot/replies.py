"""What the assistant says: Jinja2 templates in data/replies/{lang}/*.j2, run in a sandbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bot.errors import ReplyError
from bot.flows.engine import Lead
from bot.language import DEFAULT, LANGUAGES

log = structlog.get_logger()

REQUIRED = (
    *(
        "answer",
        "answer_at",
        "clarify",
        "confirmed",
        "email_code",
        "empty",
        "greeting",
        "handoff",
        "note_email",
        "note_flow",
        "note_not_helped",
        "note_undelivered",
        "rephrase",
        "resolved",
        "too_long",
    ),
    *(
        "agent_is_here",
        "agent_joined",
        "back_to_assistant",
        "closed",
        "closed_unanswered",
        "ended",
        "label_assistant",
        "label_nps_stop",
        "label_survey_no",
        "label_survey_yes",
        "merged",
        "moved_here",
        "notice",
        "nps",
        "nps_declined",
        "nps_reason",
        "nps_thanks",
        "reopened",
        "shift_report",
        "hold_over",
        "on_hold",
        "passed_to",
        "promise_changed",
        "survey",
        "survey_elsewhere",
        "survey_reminder",
        "survey_reopened",
        "survey_still_open",
        "survey_thanks",
        "task_done",
        "transferred",
        "waiting",
    ),
    *(
        "flow_cancelled",
        "flow_corrected",
        "flow_file_kept",
        "flow_instruction",
        "flow_old_button",
        "flow_reminder",
        "flow_resume",
        "flow_too_late",
        "flow_wrong",
        "label_flow_cancel",
        "label_flow_next",
        "label_flow_no",
        "label_flow_not_helped",
        "label_flow_skip",
        "label_flow_yes",
    ),
    *("attachment_failed", "attachment_received", "attachment_too_large", "unsupported"),
    *(
        "go_on",
        "label_go_on",
        "label_helped",
        "label_more",
        "label_none",
        "label_not_helped",
        "label_person",
        "option_unknown",
        "options_expired",
    ),
)
"""Templates that the assistant itself names; an intent's `reply` may name any other."""


class Replies:
    """Renders templates. A folder given first overrides those after it, template by template, and a template that
    is broken there does not silence the assistant: the next folder's is used, and the fault is logged."""

    def __init__(self, folders: Sequence[Path], common: Mapping[str, Mapping[str, Any]]) -> None:
        """folders: each holds {lang}/*.j2. common: language → values that every template sees."""
        self._common = common
        self._environments = [
            ImmutableSandboxedEnvironment(
                loader=FileSystemLoader(str(folder)),
                undefined=StrictUndefined,
                autoescape=False,
            )
            for folder in folders
        ]

    def render(
        self, template: str, lang: str, values: Mapping[str, Any] | None = None, *, topic: str | None = None
    ) -> str:
        """The text of a template. A language that lacks it falls back to the default one.

        topic: the template of this name in a folder of the topic's, where there is one, comes first.

        Raises ReplyError for a template that is nowhere, or fails wherever it is.
        """
        problem: ReplyError | None = None
        for tried in dict.fromkeys((lang, DEFAULT, *LANGUAGES)):
            for environment in self._environments:
                try:
                    names = [f"{tried}/{topic}/{template}.j2"] if topic else []
                    found = environment.select_template([*names, f"{tried}/{template}.j2"])
                    return found.render({**self._common.get(tried, {}), **(values or {})}).strip()
                except TemplateNotFound:
                    continue
                except Exception as error:  # noqa: BLE001 - a template is an editor's text and may fail in any way
                    problem = ReplyError(template, tried, str(error))
                    log.error("reply.broken", template=template, lang=tried, error=str(error))
        raise problem or ReplyError(template, lang, "there is no such template: add the file")

    def names(self) -> list[str]:
        """Templates that an intent may lead to: all but the labels of buttons, in any language."""
        found = {
            Path(name).stem for each in self._environments for name in each.list_templates() if name.count("/") == 1
        }
        return sorted(name for name in found if not name.startswith("label_"))

    def join(self, parts: Iterable[str | Lead], lang: str, values: Mapping[str, Any] | None = None) -> str:
        """One message of a flow: its own words, and templates where it names them. Raises ReplyError."""
        said = (
            self.render(part.template, lang, {**(values or {}), **part.values}) if isinstance(part, Lead) else part
            for part in parts
        )
        return "\n\n".join(filter(None, said))

    def label(self, label: str, lang: str) -> str:
        """Of a choice; `@name` is the template of that name."""
        return self.render(label[1:], lang) if label.startswith("@") else label

    def problems(self, also: Iterable[str] = ()) -> list[ReplyError]:
        """Templates that are missing in a language, or can't be parsed, wherever they lie."""
        found: list[ReplyError] = []
        for name in sorted({*REQUIRED, *also}):
            for lang in LANGUAGES:
                missing = True
                for environment in self._environments:
                    try:
                        environment.get_template(f"{lang}/{name}.j2")
                        missing = False
                    except TemplateNotFound:
                        continue
                    except TemplateError as error:
                        found.append(ReplyError(name, lang, str(error)))
                if missing:
                    found.append(ReplyError(name, lang, "the file is missing"))
        return found
