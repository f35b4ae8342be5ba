"""worker: the process that runs trained models at long contexts, as ``hybridbench.worker`` runs cases.

python -m hybridbench.quality.contexts.worker ANSWER_FD
"""

from __future__ import annotations

from functools import partial

from hybridbench import worker
from hybridbench.quality.contexts.case import ContextCase
from hybridbench.quality.contexts.run import run_contexts

if __name__ == "__main__":
    worker.main(read=ContextCase.from_dict, work=partial(worker.one_answer, run=run_contexts))
