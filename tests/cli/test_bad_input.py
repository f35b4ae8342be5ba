"""Every mistake a person can type gets one sentence with the offending value, exit code 2, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main

H200 = Path(__file__).parents[2] / "results/nvidia-h200"
MISTAKES = {
    "unknown arch": (["cost", "--arch", "intr"], ["'intr'", "did you mean 'intra'"]),
    "unknown scale": (["cost", "--scale", "2b"], ["'2b'", "100m"]),
    "empty arch": (["cost", "--arch", "mamba,,inter"], ["'mamba,,inter'"]),
    "backwards range": (["decode", "--ctx", "128k..4k"], ["'128k..4k'", "4k..128k"]),
    "zero context": (["decode", "--ctx", "0"], ["'0'", "1 or more"]),
    "negative context": (["decode", "--ctx", "-4k"], ["'-4k'"]),
    "words for a context": (["decode", "--ctx", "long"], ["'long'", "4k..128k"]),
    "fractional context": (["decode", "--ctx", "1.5k"], ["'1.5k'"]),
    "factor of one": (["decode", "--ctx", "1k..4k*1"], ["*1"]),
    "bad batch": (["decode", "--batch", "two"], ["batch", "'two'"]),
    "ratio that is none": (["cost", "--ratio", "1-5"], ["'1-5'", "1:5"]),
    "ratio too sparse": (["cost", "--arch", "inter", "--scale", "tiny", "--ratio", "1:100"], ["1:100", "1:5"]),
    "ratio of nothing": (["cost", "--arch", "inter", "--ratio", "0:0"], ["'0:0'"]),
    "malformed pattern": (["cost", "--pattern", "M-Q-"], ["'Q'", "M-Q-", "\n    ^"]),
    "unclosed parallel block": (["cost", "--pattern", "M-(*&M-"], ["(*&M", "^"]),
    "pattern without mixer": (["cost", "--pattern", "--"], ["--"]),
    "pattern and ratio": (["cost", "--pattern", "M-", "--ratio", "1:5"], ["--ratio"]),
    "window without a window layer": (["cost", "--arch", "inter", "--window", "512"], ["--window", "inter"]),
    "window on a pattern without S": (["cost", "--pattern", "M-*-", "--window", "512"], ["--window", "S"]),
    "positions beyond the blocks": (["cost", "--arch", "inter", "--positions", "4,40"], ["40", "13"]),
    "positions that are none": (["cost", "--arch", "inter", "--positions", "a"], ["'a'"]),
    "unknown mixer": (["cost", "--arch", "inter", "--mixer", "gated_delta"], ["'gated_delta'", "'gated-delta'"]),
    "mixer where there is nothing to replace": (
        ["cost", "--arch", "transformer", "--mixer", "kda"],
        ["transformer", "inter"],
    ),
    "mixer of a pattern": (["cost", "--pattern", "M-*-", "--mixer", "kda"], ["--mixer kda", "--pattern"]),
    "mixer of a published model": (["cost", "--model", "mamba-130m", "--mixer", "kda"], ["--model", "--mixer"]),
    "mixers with a hole": (["decode", "--mixer", "kda,,mamba1"], ["'kda,,mamba1'"]),
    "memory of a mixer nobody listed": (
        ["fit", "--pattern", "R-R-*-", "--scale", "100m", "--workload", "train"],
        ["rg_lru", "decode needs none"],
    ),
    "unknown recipe": (["cost", "--recipe", "himba"], ["'himba'", "'hymba'"]),
    "unknown fusion": (["cost", "--arch", "intra", "--fusion-op", "multiply"], ["'multiply'", "subtract"]),
    "impossible fusion": (
        ["cost", "--arch", "intra", "--fusion-op", "concat", "--fusion-out", "separate"],
        ["concat", "joint"],
    ),
    "impossible split": (["cost", "--arch", "intra", "--split", "1152"], ["'1152'"]),
    "unknown model": (["cost", "--model", "nemotron-h-9b"], ["'nemotron-h-9b'", "did you mean 'nemotron-h-8b'"]),
    "empty model": (["cost", "--model", "jamba-mini,,bamba-9b"], ["'jamba-mini,,bamba-9b'"]),
    "model and arch": (["cost", "--model", "jamba-mini", "--arch", "inter"], ["--model", "--arch"]),
    "model and scale": (["cost", "--model", "jamba-mini", "--scale", "1b"], ["--model", "--scale"]),
    "model and window": (["cost", "--model", "jamba-mini", "--window", "8"], ["--model", "--window"]),
    "config and recipe": (["cost", "--config", "x.json", "--recipe", "hymba"], ["--config", "--recipe"]),
    "no config": (["cost", "--config", "nowhere/config.json"], ["nowhere/config.json", "config.json of a model"]),
    "config that is none": (["cost", "--config", os.devnull], [os.devnull, "no regular file"]),
    "no formula in the paper": (["cost", "--model", "mamba-130m", "--convention", "paper"], ["mamba1", "exact"]),
    "mixer without a formula in the paper": (
        ["cost", "--pattern", "G-*-", "--convention", "paper"],
        ["gated_delta", "take exact or hardware"],
    ),
    "layer without a shape": (["cost", "--pattern", "A-M-"], ["latent attention", "--config"]),
    "unknown convention": (["cost", "--convention", "exakt"], ["'exakt'", "'exact'"]),
    "unknown dtype": (["cost", "--dtype", "int4"], ["'int4'", "bfloat16"]),
    "unknown device": (["decode", "--device", "gpu0"], ["'gpu0'", "cuda"]),
    "unknown mode": (["decode", "--device", "cpu", "--mode", "fast"], ["'fast'", "eager"]),
    "graph on a CPU": (["decode", "--device", "cpu", "--mode", "graph"], ["graph", "eager"]),
    "backend without equals": (["decode", "--backend", "flash-attn"], ["'flash-attn'", "OP=NAME"]),
    "backend of no operation": (["decode", "--device", "cpu", "--backend", "atention=x"], ["'atention'"]),
    "no such backend": (
        ["decode", "--device", "cpu", "--backend", "attention_decode=flash"],
        ["'flash'", "flash-attn"],
    ),
    "no time": (["decode", "--device", "cpu", "--max-time", "0"], ["0"]),
    "no samples": (["decode", "--device", "cpu", "--min-samples", "0"], [": --min-samples 0"]),
    "resume without a folder": (["decode", "--device", "cpu", "--resume"], ["--resume", "-o"]),
    "prompt longer than the generation": (
        ["generate", "--device", "cpu", "--ctx", "256", "--prompt", "512"],
        ["256", "512"],
    ),
    "no suite": (["run", "suites/nothing.toml"], ["suites/nothing.toml"]),
    "no results": (["report", "nowhere"], ["nowhere"]),
    "unknown GPU": (["price", "--gpu", "h20"], ["'h20'", "did you mean 'h200'", "rtx-4090"]),
    "GPU of several products": (["fit", "--gpu", "a100"], ["'a100'", "4 products", "a100-80gb"]),
    "list of GPUs with a hole": (["price", "--gpu", "h200,,b200"], ["'h200,,b200'"]),
    "price of a generation": (["price", "--workload", "generate"], ["generate is prefill and decode", "give one of"]),
    "device by another name": (["decode", "--device", "gpu"], ["'gpu'", "did you mean 'cuda'"]),
    "an option of other commands": (
        ["decode", "--model", "x"],
        ["no --model", "cost, cache, fit, price and kernels have"],
    ),
    "an option of one other command": (["cost", "--resume"], ["cost has no --resume", "--help"]),
    "an option misspelled": (["cost", "--scal", "1b"], ["cost has no --scal", "did you mean --scale?"]),
    "an option of nothing": (["cost", "--xyzzy"], ["cost has no --xyzzy: see hybridbench cost --help"]),
    **{
        f"a {option} of 5,000 digits": (["cost", "--arch", arch, f"--{option}", value], [f"{option} '", "9999"])
        for option, arch, value in (
            ("ratio", "inter", f"1:{'9' * 5000}"),
            ("positions", "inter", "9" * 5000),
            ("split", "intra", f"{'9' * 5000}:1"),
        )
    },
    "a baseline's name that is too long": (
        ["baseline", "update", str(H200 / "efficiency"), "--name", "9" * 5000],
        ["cannot name a baseline", "up to 100 letters"],
    ),
    "a path that is too long as a baseline": (["baseline", "update", "x" * 5000], ["File name too long"]),
    "a path that is too long as a source": (
        ["corpus", "build", "--from", "x" * 5000, "-o", "c"],
        ["File name too long"],
    ),
    "a path that is too long as figures": (
        ["check", "--exact", "--update", "--parts", "formulas", "--baseline", "x" * 5000],
        ["File name too long"],
    ),
    "price in float64": (["price", "--dtype", "float64"], ["float64", "H200", "bfloat16"]),
    "order of nothing": (["price", "--sort", "cost"], ["unknown sort 'cost'", "floor, step"]),
    "order by steps that nobody predicts": (["price", "--sort", "step"], ["--sort step", "--efficiency"]),
    "crossover of one model": (["crossover", "mamba"], ["compares two models, and 1 is named", "--config"]),
    "crossover of three models": (["crossover", "mamba", "inter", "intra"], ["3 are named"]),
    "efficiency from nowhere": (["price", "--efficiency", "nowhere"], ["nowhere"]),
    "unknown workload": (["fit", "--workload", "trains"], ["'trains'", "did you mean 'train'"]),
    "unknown checkpointing": (["fit", "--workload", "train", "--checkpoint", "all"], ["'all'", "selective"]),
    "checkpointing of decode": (["fit", "--checkpoint", "full"], ["--checkpoint full", "decode"]),
    "a GPU for a cache": (["crossover", "mamba", "inter", "--gpu", "b200"], ["--gpu", "decode-floor"]),
    "a batch for a cache": (
        ["crossover", "mamba", "inter", "--batch", "4"],
        ["--batch", "decode-floor"],
    ),
    "an empty folder": (["cost", "-o", ""], ["--out", "empty"]),
    "an empty results folder": (["report", ""], ["results", "empty"]),
    "an empty efficiency": (["price", "--efficiency", ""], ["--efficiency", "empty"]),
    "an empty config": (["cost", "--config", ""], ["--config", "empty"]),
    "a reference at several scales": (
        ["cost", "--scale", "350m,1b", "--match", "params", "--to", "transformer"],
        ["transformer/350m"],
    ),
    "a side without a match": (["cost", "--by", "blocks"], ["--by", "--match"]),
    "a tolerance without a match": (["price", "--tolerance", "5"], ["--tolerance", "--match"]),
    "a folder for trials that are not run": (["fit", "-o", "here"], ["--out", "--verify"]),
    "a limit of trials that are not run": (["fit", "--limit", "5"], ["--limit", "--verify"]),
    "where to measure what is not": (["crossover", "mamba", "inter", "--ctx", "1k..8k"], ["--ctx", "--measure"]),
    "nothing left to verify": (["fit", "--verify", "--ctx", "8k", "--batch", "4"], ["--ctx", "--batch"]),
    "match without a model": (["cost", "--match", "params"], ["--to"]),
    "model without a match": (["cost", "--to", "transformer"], ["--match"]),
    "unknown budget": (["cost", "--match", "flops", "--to", "mamba"], ["'flops'", "train-flops"]),
    "unknown side": (["cost", "--match", "params", "--to", "mamba", "--by", "widht"], ["'widht'", "'width'"]),
    "budget out of reach": (
        ["cost", "--arch", "mamba", "--match", "cache", "--to", "transformer", "--by", "width"],
        ["mamba 1b", "the nearest is a width of 8192", "--tolerance"],
    ),
    "match at several contexts": (
        ["cost", "--match", "cache", "--to", "mamba", "--ctx", "4k,8k"],
        ["--match cache", "one --ctx"],
    ),
    "no tolerance": (["cost", "--match", "params", "--to", "mamba", "--tolerance", "0"], ["tolerance"]),
    "match to an unknown model": (["fit", "--match", "params", "--to", "mambo"], ["'mambo'", "'mamba'"]),
    "unknown metric to cross": (["crossover", "mamba", "inter", "--metric", "time"], ["'time'", "decode-floor"]),
    "crossover with no model": (["crossover", "mamba", "intr"], ["'intr'", "'intra'"]),
    "crossover of half a model": (["crossover", "mamba", "inter/7b"], ["'7b'", "inter/1:3"]),
    "crossover beyond reason": (["crossover", "mamba", "inter", "--max-ctx", "1024g"], ["'1024g'"]),
    "crossover of no sequence": (["crossover", "mamba", "inter", "--batch", "0"], ["batch 0"]),
    "measured cache": (["crossover", "mamba", "inter", "--measure"], ["cache", "decode-floor"]),
    "search at one context": (
        ["crossover", "mamba", "inter", "--metric", "flops", "--measure", "--ctx", "4k"],
        ["'4k'", "lowest..highest"],
    ),
    "unknown cache layout": (["cache", "--cache-layout", "vlm"], ["'vlm'", "vllm"]),
    "state dtype of a fixed layout": (
        ["cache", "--cache-layout", "mamba_ssm", "--state-dtype", "float32"],
        ["--state-dtype", "mamba_ssm"],
    ),
    "cache of a mixer that an engine lacks": (
        ["cache", "--arch", "mamba", "--mixer", "rwkv7", "--cache-layout", "vllm"],
        ["vllm", "no rwkv7", "give ours"],
    ),
    "KV dtype of a fixed layout": (
        ["cache", "--cache-layout", "llama.cpp", "--kv-dtype", "fp8"],
        ["--kv-dtype", "llama.cpp"],
    ),
    "unknown weight dtype": (["cost", "--weight-dtype", "fp7"], ["'fp7'", "fp8"]),
    "unknown KV dtype": (["fit", "--kv-dtype", "int2"], ["'int2'", "int8"]),
    "plain weights beside other activations": (
        ["cost", "--dtype", "float32", "--weight-dtype", "bfloat16"],
        ["--weight-dtype bfloat16", "--dtype bfloat16"],
    ),
    "page of nothing": (["cache", "--page-size", "0"], ["page size 0"]),
    "generation to audit": (["audit", "--workload", "train,generate"], ["generate is prefill and decode"]),
    "tilings without a GPU": (["tune"], ["no NVIDIA GPU"]),
    "tilings of no product": (["tune", "--product", "state,gate"], ["'gate'", "swiglu"]),
    "no tilings": (["tune", "--most", "0"], ["--most 0"]),
    "tilings at a context": (["tune", "--ctx", "4k"], ["--ctx", "leave"]),
    "audit of a graph": (["audit", "--mode", "graph"], ["graph", "eager step"]),
    "audit in no time": (["audit", "--device", "cpu", "--limit", "0"], ["--limit 0"]),
    "rows without end": (
        ["cost", "--arch", "mamba", "--ctx", "1..10000+1", "--batch", "1..10000+1"],
        ["100,000,000 rows", "100,000"],
    ),
    "prices without end": (["price", "--gpu", "all", "--ctx", "1..10000+1"], ["rows", "100,000"]),
    "fits without end": (["fit", "--ctx", "1..10000+1", "--batch", "1..10000+1"], ["500,000,000 rows"]),
    "caches without end": (["cache", "--ctx", "1..10000+1", "--batch", "1..10000+1"], ["500,000,000 rows"]),
    "cases without end": (["decode", "--ctx", "1..10000+1", "--batch", "1..10000+1"], ["500,000,000 rows"]),
    "steps without end": (["trace", "--steps", str(10**20)], ["--steps", "1000"]),
    "a time that is none": (["decode", "--device", "cpu", "--max-time", "nan"], [": --max-time nan s"]),
    "a limit that is none": (["decode", "--device", "cpu", "--limit", "nan"], [": --limit nan s"]),
    "a narrower state": (
        ["trace", "--device", "cpu", "--dtype", "float32", "--state-dtype", "bfloat16"],
        [": --state-dtype bfloat16 with float32 weights"],
    ),
    "a limit of an audit that is none": (["audit", "--device", "cpu", "--limit", "nan"], ["--limit nan"]),
    "an audit without end": (["audit", "--device", "cpu", "--limit", "inf"], ["--limit inf", "30 days"]),
    "a limit of a trial that is none": (["fit", "--verify", "--limit", "nan"], ["--limit nan"]),
    "a time at a crossing that is none": (
        ["crossover", "mamba", "inter", "--metric", "flops", "--measure", "--max-time", "nan"],
        [": --max-time nan"],
    ),
    "a tolerance that is none": (
        ["cost", "--match", "params", "--to", "mamba", "--tolerance", "nan"],
        ["tolerance nan"],
    ),
    "a cache beyond counting": (["cache", "--arch", "inter", "--ctx", "1024g", "--batch", "1m"], ["1048576 x"]),
    "results of everything": (["report", "/"], ["/ holds every file"]),
    "a path too long": (["report", "a" * 400], ["aaaa", "File name too long"]),
    "an efficiency too long": (["price", "--efficiency", "a" * 400], ["File name too long"]),
    "a suite too long": (["run", "a" * 400], ["File name too long"]),
    "a config too long": (["cost", "--config", "a" * 400], ["File name too long"]),
    "a folder too long": (["cost", "-o", "a" * 400], ["File name too long"]),
    "a folder to go on with too long": (
        ["decode", "--device", "cpu", "--resume", "-o", "a" * 400],
        ["File name too long"],
    ),
    "no such command": (["decod"], ["decod"]),
    "no such option": (["decode", "--contxt", "4k"], ["--contxt"]),
}


def run(*args, **kwargs):
    return CliRunner().invoke(main, list(args), **kwargs)


def complaint(result):
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit | type(None))
    return result.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, words = MISTAKES[name]
    text = complaint(run(*args))
    for word in words:
        assert word in text, text
    assert not list(tmp_path.iterdir()), "nothing is written before the input is right"


@pytest.mark.parametrize("args", ["cost", "price", "decode --device cpu", "quickstart", "audit --device cpu --ctx 64"])
def test_a_folder_that_can_have_no_such_name_is_refused_before_any_work(args):
    done = run(*args.split(), "-o", "a" * 400)
    assert "File name too long" in complaint(done)
    assert "--out" in done.stderr
    assert not done.stdout


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr("hybridbench.cli.measuring.visible_gpus", list)
    text = complaint(run("decode", "--device", "cuda"))
    assert "cuda" in text
    assert "--device cpu" in text


OWN = {
    "right.py": "def swiglu(packed):\n    return packed",
    "unfinished.py": "def swiglu(:",
    "dividing.py": "1 / 0",
    "leaving.py": "raise SystemExit(5)",
    "lacking.py": "import no_such_package",
    "number.py": "swiglu = 3",
}


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("right", None),
        ("unfinished", "fails as its module is imported: SyntaxError"),
        ("dividing", "fails as its module is imported: ZeroDivisionError: division by zero"),
        ("leaving", "fails as its module is imported: SystemExit: 5"),
        ("lacking", "cannot be loaded (No module named 'no_such_package')"),
        ("number", "is of type int, not a function"),
    ],
)
def test_a_kernel_of_the_current_directory_is_imported_or_its_fault_is_told(module, said, tmp_path, monkeypatch):
    (tmp_path / "own_here").mkdir()
    for name, text in OWN.items():
        (tmp_path / "own_here" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    path = f"own_here.{module}:swiglu"
    words = ["decode", "--arch", "transformer", "--scale", "tiny", "--ctx", "64", "--device", "cpu", "--dry-run"]
    done = CliRunner().invoke(main, [*words, "--backend", f"swiglu={path}"])
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "own_here"]:
        del sys.modules[loaded]
    if said is None:
        assert done.exit_code == 0, done.output
    else:
        assert done.exit_code == 2
        assert f"error: swiglu kernel '{path}' {said}" in done.output


@pytest.mark.parametrize(
    ("op", "name"), [("attention_decode", "flash-attn"), ("ssd_step", "mamba-ssm"), ("conv1d_step", "causal-conv1d")]
)
def test_a_backend_that_is_not_installed_comes_with_its_install_command(op, name):
    pytest.importorskip("torch")
    try:
        __import__(name.replace("-", "_"))
    except ImportError:
        pass
    else:
        pytest.skip(f"{name} is installed here")
    text = complaint(run("decode", "--device", "cpu", "--backend", f"{op}={name}"))
    assert name in text
    assert 'pip install "hybridbench[cuda]"' in text


BAD_SUITES = {
    "unknown key": ('[[sweep]]\nworkload = "decode"\ncontext = "4k"\n', ["'context'", "[[sweep]] 1", "'ctx'"]),
    "unknown key in defaults": ('[defaults]\narhc = "x"\n[[sweep]]\nworkload = "decode"\n', ["'arhc'", "[defaults]"]),
    "unknown table": ('[sweeps]\nworkload = "decode"\n', ["'sweeps'", "[[sweep]]"]),
    "no sweep": ('name = "x"\n', ["[[sweep]]"]),
    "no workload": ('[[sweep]]\nctx = "4k"\n', ["workload"]),
    "wrong type": ('[[sweep]]\nworkload = "decode"\nmoe = "yes"\n', ["moe", "'yes'"]),
    "not TOML": ("[[sweep\n", ["TOML"]),
    "bad range inside": ('[[sweep]]\nworkload = "decode"\nctx = "4k..1k"\n', ["4k..1k"]),
    "unknown workload": ('[[sweep]]\nworkload = "decoding"\n', ["'decoding'", "'decode'"]),
}


@pytest.mark.parametrize("name", BAD_SUITES)
def test_bad_suite(name, tmp_path):
    text, words = BAD_SUITES[name]
    path = tmp_path / "suite.toml"
    path.write_text(text)
    said = complaint(run("run", str(path)))
    for word in words:
        assert word in said, said


BAD_RESULTS = {
    "empty": ("", ["records.jsonl"]),
    "foreign": ('{"benchmarks": []}\n{"benchmarks": []}\n', ["records.jsonl:1"]),
    "not JSON": ("hello\nworld\n", ["records.jsonl"]),
    "newer schema": ('{"key":"x","case":{},"schema":99}\n' * 2, ["99", "upgrade"]),
}


@pytest.mark.parametrize("name", BAD_RESULTS)
def test_bad_results(name, tmp_path):
    text, words = BAD_RESULTS[name]
    path = tmp_path / "records.jsonl"
    path.write_text(text)
    said = complaint(run("report", str(path)))
    for word in words:
        assert word in said.replace("\n", ""), said


def test_an_output_folder_that_cannot_be_written(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("I am a file")
    for args in (["decode", "--device", "cpu", "--ctx", "64"], ["cost"]):
        text = complaint(run(*args, "-o", str(occupied / "below")))
        assert str(occupied) in text.replace("\n", "")
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        assert "closed" in complaint(run("decode", "--device", "cpu", "--ctx", "64", "-o", str(closed)))


def test_a_package_that_is_missing_is_named_after_what_needs_none_of_it(tmp_path):
    program = "import sys; sys.modules['altair'] = None; from hybridbench.cli.main import main; main(sys.argv[1:])"
    words = ["cost", "--scale", "100m", "--arch", "mamba", "-o", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: this needs altair, which is not installed: python -m pip install hybridbench brings it.\n"
    )
