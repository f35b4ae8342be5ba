"""A corpus holds every document once, in ids that give its text back, and says what is wrong with its sources."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from texts import words

from hybridbench.errors import BadInput
from hybridbench.quality.corpus import formats
from hybridbench.quality.corpus.build import CorpusPlan, build
from hybridbench.quality.corpus.manifest import Manifest, Tokens, check_files, file_hash, read_manifest
from hybridbench.quality.corpus.sources import named_source
from hybridbench.quality.corpus.vocabulary import ByteVocabulary, from_file, trained

TEXTS = [words(seed, 60) + f" ünï {seed}" for seed in range(30)]


def made(tmp_path: Path, *names: object, out: str = "corpus", **plan: Any) -> tuple[Path, Manifest]:
    sources = [named_source(str(name), "text", "MIT") for name in names]
    folder = tmp_path / out
    given = CorpusPlan(**{"held_out_frac": 0.2, **plan})
    return folder, build(sources, folder, given, lambda _sentence: None)


def ids_of(folder: Path, manifest: Manifest, name: str) -> np.ndarray:
    return np.concatenate([np.load(folder / shard.file) for shard in manifest.split(name).shards])


def texts_of(folder: Path, manifest: Manifest, name: str) -> list[str]:
    """The documents, read back by hand from the bytes between two EOS."""
    ids = ids_of(folder, manifest, name)
    ends = np.flatnonzero(ids == 257)
    assert ids[-1] == 257
    parts = np.split(ids, ends + 1)[:-1]
    return [bytes(part[:-1].astype(np.uint8)).decode() for part in parts]


def folder_of(tmp_path: Path, texts: list[str], name: str = "text") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return folder


def test_every_document_is_there_once_and_comes_back(tmp_path: Path) -> None:
    source = folder_of(tmp_path, [*TEXTS, TEXTS[3], "", TEXTS[5]])
    folder, manifest = made(tmp_path, source)
    sides = [texts_of(folder, manifest, name) for name in ("train", "held-out")]
    assert sorted(sides[0] + sides[1]) == sorted(TEXTS)
    assert all(sides)
    assert manifest.sources[0].duplicates == 2
    assert manifest.train.text_bytes == sum(len(text.encode()) for text in sides[0])
    assert manifest.train.tokens == manifest.train.text_bytes + len(sides[0])
    assert manifest.sources[0].licence == "MIT"
    check_files(folder, read_manifest(folder))


def test_duplicates_are_found_across_sources_and_formats(tmp_path: Path) -> None:
    first = folder_of(tmp_path, TEXTS)
    second = tmp_path / "again.jsonl.gz"
    with gzip.open(second, "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"text": text}) for text in [*TEXTS[:7], "only here " + TEXTS[0]]))
    _, manifest = made(tmp_path, first, second)
    assert [(one.documents, one.duplicates) for one in manifest.sources] == [(30, 0), (1, 7)]


def test_order_of_sources_does_not_move_a_document_to_the_other_side(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, TEXTS[:15], "one"), folder_of(tmp_path, TEXTS[15:], "two")
    sides = [
        set(texts_of(*made(tmp_path, *order, out=f"corpus-{at}"), "held-out"))
        for at, order in enumerate([(one, two), (two, one)])
    ]
    assert sides[0] == sides[1] != set()


def test_small_shards_hold_the_same_ids(tmp_path: Path) -> None:
    source = folder_of(tmp_path, TEXTS)
    whole, of_whole = made(tmp_path, source)
    parts, of_parts = made(tmp_path, source, out="parts", shard_tokens=1000)
    assert len(of_parts.train.shards) > 3
    assert all(shard.tokens == 1000 for shard in of_parts.train.shards[:-1])
    for name in ("train", "held-out"):
        assert np.array_equal(ids_of(whole, of_whole, name), ids_of(parts, of_parts, name))


def test_sequences_are_cut_within_shards(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, folder_of(tmp_path, TEXTS), shard_tokens=1000)
    tokens = Tokens(folder, manifest.train, 64)
    expected = [
        shard[at : at + 64]
        for shard in (np.load(folder / one.file) for one in manifest.train.shards)
        for at in range(0, len(shard) - 63, 64)
    ]
    assert len(tokens) == len(expected)
    order = np.random.default_rng(0).permutation(len(tokens))
    assert np.array_equal(tokens.rows(order), np.array(expected)[order])


def test_parquet_and_a_local_data_set_hold_the_same(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    rows = tmp_path / "set"
    rows.mkdir()
    parquet.write_table(arrow.table({"body": TEXTS, "number": list(range(30))}), rows / "part.parquet")
    keys = set()
    for at, name in enumerate((rows / "part.parquet", f"hf:{rows}")):
        source = named_source(str(name), "body", None)
        keys.add(build([source], tmp_path / f"c{at}", CorpusPlan(held_out_frac=0.2), lambda _sentence: None).key)
    assert len(keys) == 1
    with pytest.raises(BadInput, match=r"has no column text \(it has body, number\)"):
        made(tmp_path, rows / "part.parquet", out="none")
    with pytest.raises(BadInput, match=r"no column text \(it has body, number\)"):
        made(tmp_path, f"hf:{rows}", out="none")


def test_arrays_of_ids_are_documents_up_to_each_eos(tmp_path: Path) -> None:
    parts = [np.append(ByteVocabulary().encode([text])[0], 257) for text in TEXTS]
    np.save(tmp_path / "ids.npy", np.concatenate(parts).astype(np.uint16))
    folder, manifest = made(tmp_path, tmp_path / "ids.npy")
    assert sorted(texts_of(folder, manifest, "train") + texts_of(folder, manifest, "held-out")) == sorted(TEXTS)
    np.save(tmp_path / "other.npy", np.array([5, 4000]))
    with pytest.raises(BadInput, match=r"other.npy has ids of another vocabulary \(4000 is none of the 258"):
        made(tmp_path, tmp_path / "other.npy", out="other")


def test_a_bpe_gives_the_text_back_and_knows_its_bytes(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = trained(TEXTS, size=300)
    ids = vocabulary.encode(TEXTS)
    sizes = vocabulary.token_bytes()
    assert len(sizes) == vocabulary.size == 300
    for text, one in zip(TEXTS, ids, strict=True):
        assert int(sizes[one].sum()) == len(text.encode()) > len(one)
    vocabulary.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [theirs.decode(one.tolist()) for one in ids] == TEXTS
    again = from_file(tmp_path / "tokenizer.json")
    assert (again.bos, again.eos, again.size) == (vocabulary.bos, vocabulary.eos, 300)
    long = [words(seed, 600) for seed in range(30)]
    folder, manifest = made(tmp_path, folder_of(tmp_path, long), vocabulary=str(tmp_path / "tokenizer.json"))
    assert manifest.vocabulary.kind == "file"
    assert manifest.train.tokens < manifest.train.text_bytes
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="another SHA-256"):
        check_files(folder, manifest)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"only ten t", "hold 11 tokens to train on, fewer than 1,024: give more"),
        (b"\xff\xfe" * 50, r"is not text in UTF-8 \(byte 1\)"),
        (b"a\0b", "is not text"),
        (b"", "hold no text at all"),
    ],
)
def test_sources_that_give_nothing_are_said(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadInput, match=said):
        made(tmp_path, tmp_path / "a.txt", held_out_frac=1e-9)
    assert not (tmp_path / "corpus" / "manifest.json").exists()


def test_one_long_document_cannot_be_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(1, 2000))
    with pytest.raises(BadInput, match="0 of 1 documents are held out, with 0 tokens"):
        made(tmp_path, tmp_path / "a.txt", held_out_frac=1e-9)


def test_unreadable_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    source = folder_of(tmp_path, TEXTS)
    (source / "bad.jsonl").write_text('{"text": 3}\n')
    (source / "x.bin").write_bytes(b"\0\1\2")
    _, manifest = made(tmp_path, source)
    assert sum(manifest.sources[0].passed_over.values()) == 2
    assert manifest.sources[0].documents == 30


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("other.npy", np.array([5, 4000]), "has ids of another vocabulary"),
        ("negative.npy", np.array([-1, 5]), "has ids of another vocabulary"),
        ("wide.npy", np.array([2**32 + 5], np.uint64), "has ids of another vocabulary"),
        ("zip.npy", b"PK\3\4 no archive", "is no array of numbers"),
        ("deep.jsonl", b"[" * 200_000, "is not JSON"),
        ("number.jsonl", b'{"text": 5}', "has no text in the field text"),
        ("long.jsonl", b'{"text": "' + b"a" * 9_000 + b'"}', "has a line of more than 0 MiB"),
    ],
)
def test_an_unusable_file_of_a_folder_is_passed_over_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, reason: str
) -> None:
    monkeypatch.setattr(formats, "MOST_TEXT", 8_000 if name == "long.jsonl" else 1 << 20)
    source = folder_of(tmp_path, TEXTS)
    if isinstance(content, bytes):
        (source / name).write_bytes(content)
    else:
        np.save(source / name, content)
    np.save(source / "empty.npy", np.array([], np.int64))
    _, manifest = made(tmp_path, source)
    assert manifest.sources[0].passed_over == {reason: 1}
    assert manifest.sources[0].documents == 30
    with pytest.raises(BadInput, match=rf"{name} {reason}"):
        made(tmp_path, source / name, out="alone")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": 5}', "line 1 holds a number there"),
        ('{"text": null}', "line 1 holds null there"),
        ('{"text": ["a"]}', "line 1 holds a list there"),
        ('{"body": "a", "n": 1}', "line 1 has body, n"),
        ("[1]", "line 1 is no object"),
    ],
)
def test_what_a_line_has_in_place_of_text_is_said(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(line)
    with pytest.raises(BadInput, match=rf"has no text in the field text \({said}\): name the field with --field"):
        made(tmp_path, tmp_path / "rows.jsonl")


def test_a_column_of_numbers_is_said_and_rows_without_text_are_counted(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = tmp_path / "rows.parquet"
    table = {"n": list(range(33)), "text": [*TEXTS, None, None, "more"], "none": arrow.array([None] * 33, "string")}
    parquet.write_table(
        arrow.table(table).append_column("kinds", arrow.array(TEXTS * 1 + ["a"] * 3).dictionary_encode()), rows
    )
    said = r"has no text in the column n \(it holds int64; text is in text, none, kinds\): name the column with --field"
    with pytest.raises(BadInput, match=said):
        build([named_source(str(rows), "n", None)], tmp_path / "n", CorpusPlan(), lambda _sentence: None)
    with pytest.raises(BadInput, match=r"hold no text at all \(passed over: 33 has a row without text\).* --field"):
        build([named_source(str(rows), "none", None)], tmp_path / "none", CorpusPlan(), lambda _sentence: None)
    plan = CorpusPlan(held_out_frac=0.2)
    coded = build([named_source(str(rows), "kinds", None)], tmp_path / "kinds", plan, lambda _sentence: None)
    assert (coded.sources[0].documents, coded.sources[0].duplicates) == (31, 2)
    _, manifest = made(tmp_path, rows)
    assert manifest.sources[0].passed_over == {"has a row without text": 2}
    assert manifest.sources[0].documents == 31


def test_a_data_set_that_breaks_off_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    class BrokenRows:
        column_names, info = ("text",), SimpleNamespace(license=None)

        def __iter__(self) -> Iterator[dict[str, str]]:
            yield {"text": TEXTS[0]}
            raise ConnectionError("the network is gone")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_given, **_options: BrokenRows())
    with pytest.raises(BadInput, match=r"--from hf:far broke off \(the network is gone\): check the network"):
        made(tmp_path, "hf:far")


def test_arrays_of_ids_are_read_compressed_and_up_to_a_size(tmp_path: Path) -> None:
    ids = np.concatenate([np.append(ByteVocabulary().encode([text])[0], 257) for text in TEXTS]).astype(np.uint16)
    np.save(tmp_path / "ids.npy", ids)
    (tmp_path / "ids.npy.gz").write_bytes(gzip.compress((tmp_path / "ids.npy").read_bytes()))
    _, whole = made(tmp_path, tmp_path / "ids.npy", out="whole")
    _, again = made(tmp_path, tmp_path / "ids.npy.gz", out="again")
    assert whole.key == again.key
    most = sum(len(text.encode()) for text in TEXTS[:20]) - 5
    _, cut = made(tmp_path, tmp_path / "ids.npy", out="cut", max_bytes=most, held_out_frac=0.5)
    assert cut.sources[0].documents == 20


def test_a_build_that_fails_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("only ten t")
    with pytest.raises(BadInput, match="fewer than"):
        made(tmp_path, tmp_path / "a.txt")
    assert not (tmp_path / "corpus").exists()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine").touch()
    with pytest.raises(BadInput, match="fewer than"):
        made(tmp_path, tmp_path / "a.txt", shard_tokens=4)
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["mine"]


def test_a_build_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def stop(_sentence: str) -> None:
        raise KeyboardInterrupt

    source = named_source(str(folder_of(tmp_path, TEXTS)), "text", None)
    with pytest.raises(KeyboardInterrupt):
        build([source], tmp_path / "corpus", CorpusPlan(held_out_frac=0.2, shard_tokens=100), stop)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("what", ["a shard", "the tokenizer"])
def test_a_full_disk_is_said(tmp_path: Path, what: str) -> None:
    resource = pytest.importorskip("resource")
    pytest.importorskip("tokenizers")
    vocabulary, most = "bytes", 1_000
    if what == "the tokenizer":
        trained(TEXTS, 300).save(tmp_path)
        vocabulary = str(tmp_path / "tokenizer.json")
        most = Path(vocabulary).stat().st_size - 10
    source = folder_of(tmp_path, [f"{text} {more}" for more in "ab" for text in TEXTS])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(BadInput, match=r"cannot take the corpus \(File too large\): make room or choose another"):
            made(tmp_path, source, vocabulary=vocabulary, held_out_frac=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "corpus").exists()


def changed(body: dict[str, Any], at: str, value: Any) -> None:
    *path, last = at.split(".")
    for name in path:
        body = body[int(name)] if isinstance(body, list) else body[name]  # type: ignore[assignment]
    body[last] = value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.tokens": 31_073_960}, "train has 31,073,960 tokens, and its shards have"),
        ({"train.tokens": 9_999, "train.shards.0.tokens": 9_999}, "says 9,999 tokens of train-00000.npy, and it holds"),
        ({"vocabulary.size": 100}, r"BOS 256 and EOS 257 are no two of 100 ids"),
        (
            {"vocabulary.size": 100, "vocabulary.bos": 1, "vocabulary.eos": 2},
            "says a vocabulary of 100 ids, and token-",
        ),
        ({"vocabulary.size": 300}, "says a vocabulary of 300 ids, and token-bytes.npy has 258"),
        ({"vocabulary.kind": "words"}, "vocabulary.kind: 'words', where bytes, bpe or file"),
        ({"held_out.documents": 1, "sources.0.documents": None}, r"says 1 documents in held-out, and the shards hold"),
        ({"train.text_bytes": 7, "sources.0.text_bytes": None}, "says 7 bytes of text in train, and its ids stand for"),
        ({"held_out.text_bytes": 7}, "text_bytes: .* in the splits, .* from the sources"),
        ({"held_out_frac": 1.5}, "held_out_frac: 1.5, where"),
        ({"train.shards.0.file": "../train-00000.npy"}, "which is no name of a file"),
    ],
)
def test_numbers_of_a_manifest_are_held_to_the_files(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder, _ = made(tmp_path, folder_of(tmp_path, TEXTS))
    body = json.loads((folder / "manifest.json").read_text())
    for at, value in changes.items():
        changed(body, at, value)
    for what in ("documents", "text_bytes"):
        if body["sources"][0][what] is None:
            body["sources"][0][what] = body["train"][what] + body["held_out"][what]
    (folder / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(BadInput, match=said):
        check_files(folder, read_manifest(folder))


def test_ids_beyond_the_vocabulary_and_arrays_of_another_kind_are_found(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, folder_of(tmp_path, TEXTS))
    shard = manifest.train.shards[0]
    for array, said in (
        (np.full(shard.tokens, 258, np.uint16), "says a vocabulary of 258 ids, and train-00000.npy holds the id 258"),
        (np.zeros((2, 2), np.uint16), "train-00000.npy of the corpus is no array of ids in one dimension"),
        (None, "train-00000.npy of the corpus is no array"),
    ):
        (folder / shard.file).write_bytes(b"no array")
        if array is not None:
            np.save(folder / shard.file, array)
        one = replace(shard, sha256=file_hash(folder / shard.file))
        with pytest.raises(BadInput, match=said):
            check_files(folder, replace(manifest, train=replace(manifest.train, shards=[one])))


def test_a_missing_or_altered_shard_is_named(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, folder_of(tmp_path, TEXTS))
    shard = folder / manifest.train.shards[0].file
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BadInput, match=f"{shard.name} is not the file that was written"):
        check_files(folder, manifest)
    shard.unlink()
    with pytest.raises(BadInput, match=f"{shard.name} of the corpus cannot be read"):
        check_files(folder, manifest)
    with pytest.raises(BadInput, match="holds a corpus already"):
        made(tmp_path, tmp_path / "text")
    (folder / "manifest.json").write_text('{"schema": 1}')
    with pytest.raises(BadInput, match="is no manifest of a corpus"):
        read_manifest(folder)
    with pytest.raises(BadInput, match="holds no corpus: make one"):
        read_manifest(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--from pyton is not there: did you mean python"):
        named_source("pyton", "text", None)
    with pytest.raises(BadInput, match="--held-out 100"):
        CorpusPlan(held_out_frac=1.0)


def test_pythons_own_modules_are_read_up_to_a_size(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, "python", max_bytes=200_000)
    assert manifest.sources[0].licence.startswith("PSF-2.0")
    assert 200_000 <= manifest.sources[0].text_bytes < 1_000_000
    assert "import" in texts_of(folder, manifest, "train")[0] + "".join(texts_of(folder, manifest, "train")[1:4])
