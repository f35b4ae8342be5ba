"""worker: the process that runs training runs on one device, as ``hybridbench.worker`` runs cases.

python -m hybridbench.quality.training.worker ANSWER_FD
"""

from __future__ import annotations

from functools import partial

from hybridbench import worker
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.run import run_learn

if __name__ == "__main__":
    worker.main(read=LearnCase.from_dict, work=partial(worker.one_answer, run=run_learn))
