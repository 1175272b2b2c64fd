"""`otvet models`: versions of the trained model, from candidate to retired; and trainings in the background."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli.console import AsJson, print_json, progress, run, table
from bot.cli.console import installation as make_installation
from bot.errors import NotReadyError, RefusedError

if TYPE_CHECKING:
    from bot.models.gate import Report, Share
    from bot.models.records import TrainingJob
    from bot.models.releases import Done, Releases
    from bot.wiring import Installation

models_app = typer.Typer(no_args_is_help=True, help="Versions of the trained model.")
Reason = Annotated[str, typer.Option(help="Let a version through that the gate refuses; is kept with your name.")]


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """All versions, the oldest first, and what each is: candidate, refused, canary, live or former."""
    from bot.models.releases import load_report

    store = make_installation().store
    in_use = store.in_use()
    rows = []
    for version in store.versions():
        report = load_report(version.path)
        state = "candidate"
        if version.id == in_use.live:
            state = "live"
        elif in_use.canary and version.id == in_use.canary.id:
            state = "canary"
        elif version.id in in_use.history:
            state = "former"
        elif report is not None:
            state = "accepted" if report.accepted else "refused"
        share = in_use.canary.share if in_use.canary and state == "canary" else None
        rows.append((version, state, share))
    if as_json:
        print_json(
            [
                {
                    "version": version.id,
                    "live": state == "live",
                    "state": state,
                    "share": share,
                    "created_at": version.created_at,
                }
                for version, state, share in rows
            ]
        )
        return
    table(
        [
            [
                "*" if state == "live" else "",
                version.id,
                f"{version.created_at:%Y-%m-%d %H:%M}",
                version.manifest.get("examples"),
                f"{state} {share:.0%}" if share else state,
            ]
            for version, state, share in rows
        ],
        ["live", "version", "made (UTC)", "examples", "state"],
    )


@models_app.command("show")
def models_show(version_id: str) -> None:
    """Everything that is known of a version."""
    print_json(make_installation().store.show(version_id).manifest)


@models_app.command("judge")
def models_judge(version_id: str, as_json: AsJson = False) -> None:
    """Compare a version with the live one on gold questions and recent messages. Exit status 1 if it is refused."""
    from bot.models.gate import REPORT

    report = make_installation().judge(version_id)
    if as_json:
        print_json(REPORT.dump_python(report, mode="json") | {"accepted": report.accepted})
    else:
        _print_report(report)
    if not report.accepted:
        raise SystemExit(1)


def _print_report(report: Report) -> None:
    from bot.models.releases import why_refused

    table(
        [
            [f.measure, f.group, _share(f.live), _share(f.candidate), _percent(f.difference), _span(f.low, f.high)]
            for f in report.figures
        ],
        ["", "questions", f"live {report.against or '–'}", "candidate", "difference", "95 %"],
    )
    for change in report.changes[:20]:
        progress(
            f"{change.kind}: {change.text[:70]} | {change.live.action} {', '.join(change.live.articles)} -> "
            f"{change.candidate.action} {', '.join(change.candidate.articles)}"
        )
    if len(report.changes) > 20:
        progress(f"and {sum(report.changed.values()) - 20} more changed outcomes: --json shows them")
    print("Accepted" if report.accepted else "Refused: " + "; ".join(why_refused(report)))


def _share(share: Share | None) -> str:
    if share is None or share.value is None:
        return "–"
    return f"{share.value:.1%} ({share.low:.1%}–{share.high:.1%}) of {share.of}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.1%} … {high:+.1%}"


@models_app.command("promote")
def models_promote(version_id: str, reason: Reason = "") -> None:
    """Put a version to use, in every process within seconds. One that the gate has refused needs a reason."""
    installation = make_installation()

    async def work(releases: Releases) -> Done:
        from bot.models.releases import load_report, why_refused

        report = load_report(installation.store.show(version_id).path)
        if report is not None and not report.accepted and not reason:
            raise RefusedError(version_id, (*why_refused(report), "--reason lets it through"))
        return await releases.publish(version_id, by=_who(), reason=reason, gated=False)

    _tell(_release(installation, work))


@models_app.command("rollback")
def models_rollback() -> None:
    """Go back to the version that was live before; articles that came with the present one go back too."""

    async def work(releases: Releases) -> Done:
        return await releases.rollback(by=_who())

    _tell(_release(make_installation(), work))


@models_app.command("canary")
def models_canary(
    version_id: Annotated[str | None, typer.Argument(help="Empty: end the trial.")] = None,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the conversations, 0 to 1; 0 ends the trial.")] = 0,
    reason: Reason = "",
) -> None:
    """Let a version answer a share of the conversations, in every process within seconds; or end that."""

    async def work(releases: Releases) -> str:
        if version_id is None or not share:
            ended = await releases.end_trial(by=_who())
            return f"{ended} answers nobody any more" if ended else "No version was on trial"
        await releases.try_out(version_id, share, by=_who(), reason=reason)
        return f"{version_id} answers {share:.0%} of the conversations"

    print(_release(make_installation(), work))


def _release(installation: Installation, work: Any) -> Any:
    async def act() -> Any:
        await installation.migrate()
        try:
            return await work(installation.releases)
        finally:
            await installation.close()

    return run(act())


def _tell(done: Done) -> None:
    for article in done.articles:
        progress(f"Article {article.id} ({article.lang}): revision {article.before} -> {article.after}")
    for article_id, lang in done.left:
        progress(f"Article {article_id} ({lang}) was edited since: it stays as it is")
    print(f"Live now: {done.version}")


def _who() -> str:
    try:
        return f"{getpass.getuser()} (terminal)"
    except (OSError, KeyError):
        return "terminal"


@models_app.command("jobs")
def models_jobs(as_json: AsJson = False) -> None:
    """The newest trainings in the background, and how far they are."""
    from bot.models.training_jobs import newest

    installation = make_installation()

    async def read() -> list[dict[str, Any]]:
        await installation.migrate()
        try:
            async with installation.database.sessions.reading() as session:
                return [_job(job) for job in await newest(session)]
        finally:
            await installation.close()

    jobs = run(read())
    if as_json:
        print_json(jobs)
        return
    table([list(job.values()) for job in jobs], ["training", "state", "stage", "done", "s left", "version", "error"])


def _job(job: TrainingJob) -> dict[str, Any]:
    return {
        "job": job.id,
        "state": job.state.value,
        "stage": f"{job.stage} {job.detail}".strip(),
        "done": round(job.done, 2),
        "seconds_left": None if job.seconds_left is None else round(job.seconds_left),
        "version": job.version_id,
        "error": job.error,
    }


@models_app.command("cancel")
def models_cancel(job_id: int) -> None:
    """Stop a training in the background. What is in use stays as it is."""
    from bot.model_wiring import utc_now
    from bot.models.training_jobs import cancel

    installation = make_installation()

    async def work() -> bool:
        await installation.migrate()
        try:
            async with installation.database.sessions.begin() as session:
                return await cancel(session, job_id, at=utc_now()) is not None
        finally:
            await installation.close()

    if not run(work()):
        raise NotReadyError(f"there is no training {job_id} that waits or runs: `otvet models jobs` shows all")
    print(f"Training {job_id} is being stopped")


def train_in_background(as_json: bool) -> None:
    """Ask for a training and start its process, whether or not a server runs."""
    from bot.model_wiring import utc_now
    from bot.models.training_jobs import ask, own_command, start

    installation = make_installation()

    async def work() -> tuple[dict[str, Any], bool]:
        await installation.migrate()
        try:
            async with installation.database.sessions.begin() as session:
                job, new = await ask(session, by=_who(), at=utc_now())
                return _job(job), new
        finally:
            await installation.close()

    job, new = run(work())
    if new:
        start(own_command(job["job"]))
    if as_json:
        print_json(job)
    else:
        print(
            f"Training {job['job']} {'has begun' if new else 'runs already'}: `otvet models jobs` shows how far it is"
        )
