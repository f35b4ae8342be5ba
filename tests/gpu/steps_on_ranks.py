"""One rank of a case on GPUs, or the whole case on one: prints, as JSON, the losses of some steps or logits.

python steps_on_ranks.py train inter 1b 1024 2 gpus    # workload, family, scale, context, ranks, gpus or tp
"""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist

from hybridbench.ranks.group import join
from hybridbench.session import open_session
from hybridbench.standing import Standing
from hybridbench.suite.sweep import Sweep, cases

STEPS = 4


def main() -> None:
    """Entry point."""
    kind, arch, scale, context, ranks, way = sys.argv[1:]
    spread = {} if ranks == "1" else {way: ranks}
    prompt = {"prompt": int(context) - STEPS} if kind == "generate" else {}
    sweep = Sweep(kind, arch=arch, scale=scale, ctx=context, batch="2", device="cuda", **spread, **prompt)  # type: ignore[arg-type]
    (case,) = cases(sweep, has_gpu=True)
    if ranks != "1":
        join(Standing.here(), on_gpu=True)
    session = open_session(case, torch.device("cuda", 0), None)
    found: list[float] = []
    if kind == "train":
        for _ in range(STEPS):
            session.work.step()
            assert session.work.loss is not None
            loss = torch.tensor(session.work.loss(), device="cuda")
            if way == "gpus" and ranks != "1":
                dist.all_reduce(loss)
                loss /= int(ranks)
            found.append(float(loss))
    else:
        session.work.step()  # a whole generation: its last logits depend on all tokens before
        model, tokens = session.model, session.work.inputs[0]
        with torch.no_grad():
            logits = model.prefill(tokens, model.new_caches(2, tokens.shape[1], case.execution.storage))
            if model.across is not None:  # each rank has those of its own words, equally many
                every = [torch.empty_like(logits) for _ in range(dist.get_world_size())]
                dist.all_gather(every, logits.contiguous())
                logits = torch.cat(every, -1)
        found = logits.float().flatten()[:4096].tolist()
    if ranks != "1":
        dist.destroy_process_group()  # first: ranks are read one by one, and what does not fit into a pipe waits
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
