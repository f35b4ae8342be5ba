"""worker: the process that runs tasks on one device, as ``hybridbench.worker`` runs cases.

python -m hybridbench.quality.tasks.worker ANSWER_FD
"""

from __future__ import annotations

from functools import partial

from hybridbench import worker
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.run import run_task

if __name__ == "__main__":
    worker.main(read=TaskCase.from_dict, work=partial(worker.one_answer, run=run_task))
