"""help: the groups in which a command's options are shown, and two examples of each command.

Model          which models
Work           what they do, or what is computed of it
Measurement    how and where it is run
Output         what is shown and written
"""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "Model": (
        *("arch", "scale", "ratio", "positions", "pattern", "mixer", "recipe"),
        *("fusion_norm", "fusion_scale", "fusion_op", "fusion_value", "fusion_out", "split", "moe", "window", "sinks"),
        *("models", "configs", "match", "to", "by", "tolerance"),
        *("base", "base_python", "base_kernel", "good", "bad"),
        *("backends", "kernel", "problem"),
    ),
    "Work": (
        *("workload", "ctx", "batch", "prompt", "depths", "checkpoint", "direction", "hot"),
        *("dtype", "state_dtype", "weight_dtype", "kv_dtype"),
        *(
            "convention",
            "gpu",
            "gpus",
            "tp",
            "link_gb_per_s",
            "records",
            "metric",
            "quality",
            "score",
            "matched",
            "where",
            "max_ctx",
            "layouts",
            "page_size",
            "no_align",
        ),
        *("sources", "vocabulary", "column", "held_out_percent", "max_size", "licence"),
        *("data", "tokens", "seeds", "lr", "sweep_lr", "evaluations", "tasks", "include", "limit", "shots"),
        *("size", "epochs", "times", "documents"),
    ),
    "Measurement": (
        *("device", "mode", "as_published", "streams", "backend", "seed", "at_once"),
        *("max_time_s", "min_samples", "limit_s", "steps", "no_counters", "no_vector", "ceilings"),
        *("verify", "measure", "trials", "only_test", "sustained", "processes", "pin_tuning"),
        *("products", "most", "resume", "dry_run", "plan", "calibrate", "calibration"),
        *("on", "workers", "partition", "time", "slurm"),
    ),
    "Output": (
        "over",
        "across",
        "fail_above",
        "exact",
        "parts",
        "baseline",
        "update",
        "recompile",
        "name",
        "into",
        "accepted",
        "allow",
        "budget",
        "progress",
        "restart",
        "fail_on",
        "junit",
        "summary",
        "annotations",
        "signature",
        "explain",
        "per_layer",
        "sort",
        "plot",
        "as_json",
        "out",
        "help",
    ),
}
"""The options of each group by the names of their parameters, in the order in which they are shown."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "quickstart": ("hybridbench quickstart", "hybridbench quickstart -o results/local/first"),
    "cost": (
        "hybridbench cost --scale 1b --ctx 4k..128k",
        "hybridbench cost --model nemotron-h-8b --ctx 8k --tp 1,2,4,8",
    ),
    "cache": (
        "hybridbench cache --arch inter --ctx 8k,128k --batch 4",
        "hybridbench cache --model jamba-mini --cache-layout vllm --tp 1,2,4",
    ),
    "fit": (
        "hybridbench fit --arch transformer,inter --ctx 32k --gpu rtx-4090,h200",
        "hybridbench fit --workload train --scale 3b --ctx 8k --gpus 1,2,4,8",
    ),
    "price": (
        "hybridbench price --arch inter --ctx 32k --gpu h200,b200 --tp 1,2,4",
        "hybridbench price --gpu b200 --efficiency results/nvidia-h200",
    ),
    "crossover": (
        "hybridbench crossover transformer mamba --metric decode-floor",
        "hybridbench crossover inter/1:3 intra/1:3 --metric flops",
    ),
    "train-throughput": (
        "hybridbench train-throughput --arch inter --ratio 1:1,1:5",
        "hybridbench train-throughput --ctx 32k --checkpoint full --batch 1",
    ),
    "prefill": (
        "hybridbench prefill --arch mamba,intra --scale 350m --ctx 4k..32k",
        "hybridbench prefill --batch 1..8 --ctx 8k -o results/local/prefill",
    ),
    "decode": (
        "hybridbench decode --ctx 4k..128k",
        "hybridbench decode --arch inter --mixer mamba2,kda --ctx 32k --batch 8",
    ),
    "generate": (
        "hybridbench generate --arch transformer,mamba --prompt 512 --ctx 2k",
        "hybridbench generate --ctx 2k..32k --depths 5 --as-published",
    ),
    "run": (
        "hybridbench run suites/smoke.toml --dry-run",
        "hybridbench run suites/smoke.toml -o results/local/smoke --resume",
    ),
    "status": ("hybridbench status results/local/smoke", "hybridbench status results/local/smoke --json"),
    "merge": (
        "hybridbench merge results/local/a results/local/b -o results/local/both",
        "hybridbench merge results/a results/b --allow machines -o results/both",
    ),
    "kernels": (
        "hybridbench kernels attention swiglu --arch inter --ctx 8k",
        "hybridbench kernels ssd --kernel mypkg.fast:ssd",
    ),
    "ls": ("hybridbench ls", "hybridbench ls results/nvidia-h200"),
    "show": (
        "hybridbench show results/local/decode --where arch=inter --plot",
        "hybridbench show results/local/decode --where ctx=4k --metric step_s",
    ),
    "report": (
        "hybridbench report results/local/smoke",
        "hybridbench report results/local/before results/local/after",
    ),
    "export": (
        "hybridbench export results/local/smoke -o smoke.parquet",
        "hybridbench export results/local/before results/local/after -o both.csv",
    ),
    "compare": (
        "hybridbench compare results/local/before results/local/after --fail-above 5%",
        "hybridbench compare results/local/sweep --across architecture",
    ),
    "corpus": (
        "hybridbench corpus build --from python -o corpus/python",
        "hybridbench corpus check -o corpus/python",
    ),
    "learn": (
        "hybridbench learn --data corpus/python --arch transformer,mamba",
        "hybridbench learn --data corpus/all --scale 20m --tokens 50m --seeds 3",
    ),
    "evaluate": (
        "hybridbench evaluate results/local/learn --data corpus/all --tasks piqa",
        "hybridbench evaluate w.safetensors --data corpus --tasks mine --include tasks",
    ),
    "solve": (
        "hybridbench solve --task mqar,parity --arch transformer,mamba",
        "hybridbench solve --task mqar --lr 1e-3,3e-3,1e-2 -o results/local/mqar",
    ),
    "contexts": (
        "hybridbench contexts results/local/learn --data corpus/python",
        "hybridbench contexts results/local/learn --data corpus/all --trials 100",
    ),
    "pareto": (
        "hybridbench pareto results/nvidia-h200/paper --ctx 32k",
        "hybridbench pareto results/local/sweep --quality mine.csv --metric cache",
    ),
    "trace": (
        "hybridbench trace --workload decode --arch inter --ctx 4k",
        "hybridbench trace --workload train --ctx 8k --batch 4 -o results/local/trace",
    ),
    "audit": (
        "hybridbench audit --arch inter --scale 100m --workload train,prefill",
        "hybridbench audit --workload decode --ctx 4k --no-counters",
    ),
    "baseline": (
        "hybridbench baseline update results/local/kernels",
        "hybridbench baseline show results/baselines/nvidia-h200/kernels-main.jsonl",
    ),
    "check": (
        "hybridbench check --exact",
        "hybridbench check suites/kernels.toml --base main",
    ),
    "bisect": (
        "hybridbench bisect swiglu --good v0.1 --bad main",
        "hybridbench bisect --good HEAD~20 --bad HEAD --kernel swiglu=mypkg.fast:swiglu",
    ),
    "archs": ("hybridbench archs", "hybridbench archs --json"),
    "backends": (
        "hybridbench backends",
        "hybridbench backends --explain --arch intra --scale 1b --ctx 8k",
    ),
    "tune": (
        "hybridbench tune --arch transformer,mamba --scale 1b --batch 32,64 --dry-run",
        "hybridbench tune --arch inter --batch 64 --product state -o tilings.json",
    ),
    "doctor": ("hybridbench doctor", "hybridbench doctor --ceilings"),
}
"""What a person types, for each command."""


def group_of(parameter: str | None) -> str:
    """The group in which ``--help`` shows an option; ``Output`` for one that is in no group."""
    return next((group for group, names in GROUPS.items() if parameter in names), "Output")
