"""What the process of a background training does: `python -m bot.models.training_process JOB`.

Apart from the `otvet` command, which imports what the web, the channels and the other commands need.
"""

from __future__ import annotations

import os
import sys
from threading import Thread

from bot.cli.console import configure_logging, progress
from bot.errors import OtvetError, TrainingError
from bot.model_wiring import ModelWiring, utc_now
from bot.models.training import taught_data
from bot.models.training_jobs import DEMO_EXAMPLES, Worker
from bot.settings import load_settings
from kb_index.errors import KnowledgeBaseError
from nlu.errors import NluError

MOST_VERSIONS = 20
"""Of older ones only those are kept that answer, or did last."""


def train_job(job_id: int) -> None:
    """Make a candidate and judge it, on all cores. Raises TrainingError and whatever a training raises; the row of the
    job says so too."""
    settings = load_settings()
    configure_logging(settings.log_level)
    installation = ModelWiring(settings, progress)
    os.nice(5)  # customers are answered first
    # Meanwhile the database is read; what it raises is raised again where the encoder is needed.
    Thread(target=lambda: installation.encoder, name="encoder", daemon=True).start()
    with Worker(settings.database, job_id, utc_now) as worker:
        installation.stage = worker.estimate.begin
        installation.told = worker.estimate.encoded
        drafts = installation.articles.drafts(worker.articles)
        if missing := set(worker.articles) - {(draft.id, draft.lang) for draft in drafts}:
            names = ", ".join(f"{article_id} ({lang})" for article_id, lang in sorted(missing))
            raise TrainingError(f"no draft any more: {names}. Choose the articles anew")
        examples = len(taught_data(installation.seed_with(drafts))[0].examples)
        worker.estimate.grow(examples / _learnt(installation, worker))
        workers = os.cpu_count() or 1
        live = installation.ask_live() if workers > 1 else None
        version = installation.train(promote=False, drafts=drafts, workers=workers)
        worker.version_id = version.id
        installation.judge(version.id, asked_before=live, workers=workers)
        installation.store.prune(MOST_VERSIONS)


def _learnt(installation: ModelWiring, worker: Worker) -> int:
    """How many examples the training had that the estimate comes from."""
    try:
        manifest = installation.store.show(worker.last_version_id or "").manifest
    except NluError:
        return DEMO_EXAMPLES
    return max(1, int(manifest.get("examples", DEMO_EXAMPLES)))


if __name__ == "__main__":
    try:
        train_job(int(sys.argv[1]))
    except (OtvetError, KnowledgeBaseError, NluError) as error:
        sys.exit(str(error))
