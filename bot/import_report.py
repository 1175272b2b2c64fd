"""What an import did, for people: one line for each article that is touched and for each thing that was skipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from kb_index.importers.reader import Progress as Reading
from kb_index.importing import Plan
from kb_index.importing import Progress as Writing

_LABELS = {"kept": "kept", "gone": "archived"}


@contextmanager
def progress_bar() -> Iterator[tuple[Reading, Writing]]:
    """Bars on standard error, where that is a terminal: one for files read, one for articles written."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[name]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        read = bars.add_task("Reading", total=None, name="")
        written = bars.add_task("Writing", total=None, name="", visible=False)

        def reading(done: int, of: int, name: str) -> None:
            bars.update(read, completed=done, total=of, name=name[-60:])

        def writing(done: int, of: int) -> None:
            bars.update(written, completed=done, total=of, visible=True)

        yield reading, writing


def report(plan: Plan, *, dry_run: bool) -> Iterator[str]:
    """Lines: articles, then what was skipped and why, then the sums."""
    for change in plan.changes:
        if change.kind != "unchanged":
            kind = _LABELS.get(change.kind, change.kind)
            yield f"{kind:<9} {change.article_id} ({change.lang})  {change.title}  < {change.path}"
        elif change.notes:
            yield f"{'unchanged':<9} {change.article_id} ({change.lang})  < {change.path}"
        yield from (f"          note: {note}" for note in change.notes)
        if change.kind == "conflict" or (dry_run and change.diff):
            yield from (f"          {line}" for line in change.diff.splitlines())
    for problem in plan.problems:
        yield f"skipped   {problem}"
    counts = plan.count()
    sums = [f"{count} {_LABELS.get(kind, kind)}" for kind, count in counts.items() if count]
    sums += [f"{len(plan.problems)} skipped"] if plan.problems else []
    yield f"{'Would be: ' if dry_run else ''}{', '.join(sums) or 'nothing found'}"
    drafts = [change.article_id for change in plan.changes if change.origin and change.origin.status == "draft"]
    if drafts and not dry_run:
        remedy = f"`otvet kb publish {drafts[0]}`, or import them again with --publish"
        yield f"{len(drafts)} are drafts, which nobody is answered with: {remedy}"
    if counts["conflict"]:
        yield "Conflicts: the article and the file were both changed; nothing was done. --overwrite takes the file"
