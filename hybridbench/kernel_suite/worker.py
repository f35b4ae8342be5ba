"""worker: the process that runs cells on one device, as ``hybridbench.worker`` runs cases, or tests the timing itself.

python -m hybridbench.kernel_suite.worker ANSWER_FD
python -m hybridbench.kernel_suite.worker --self-test cpu
"""

from __future__ import annotations

import dataclasses
import json
import sys

from hybridbench import worker
from hybridbench.kernel_suite import self_test
from hybridbench.kernel_suite.together import work
from hybridbench.kernel_suite.turns import Turns
from hybridbench.session import device_for

if __name__ == "__main__":
    if sys.argv[1] == "--self-test":
        print(json.dumps(dataclasses.asdict(self_test.run(device_for(sys.argv[2])))))  # noqa: T201
    else:
        worker.main(read=Turns.from_dict, work=work)
