"""Each id of a tokenizer stands for its own bytes of text, and a tokenizer that changes text makes no corpus."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_corpus import TEXTS, folder_of, made
from texts import words

from hybridbench.errors import BadInput
from hybridbench.quality.corpus.vocabulary import TokenizerVocabulary, from_file, trained

tokenizers = pytest.importorskip("tokenizers")
models, decoders, normalizers, pre = (
    tokenizers.models,
    tokenizers.decoders,
    tokenizers.normalizers,
    tokenizers.pre_tokenizers,
)
FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]
BYTE_IDS = {token: 3 + byte for byte, token in enumerate(FALLBACK)}
TEXT = "the cat\n  is naïve: 40 € <s> </s> <0x41> !"


def llama(**model: Any) -> Any:
    """As Llama-2's: a space before each document, spaces as ▁, and bytes for what has no token."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **BYTE_IDS, "▁": 259, "t": 260, "h": 261, "e": 262, "c": 263, "a": 264}
    vocab |= {"▁t": 265, "he": 266, "▁the": 267, "at": 268, "cat": 269, "is": 270, "i": 271, "s": 272, "▁▁": 273}
    merges = [("▁", "▁"), ("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "t"), ("c", "at"), ("i", "s")]
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", **model))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def metaspace() -> Any:
    """The same by a Metaspace before the model, whose bytes are special tokens, as training with them makes them."""
    made = llama()
    made.normalizer = None
    made.pre_tokenizer = pre.Metaspace()
    made.add_special_tokens(FALLBACK)
    return made


def of_words(ids: dict[str, int], **changes: Any) -> Any:
    made = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, **ids}, unk_token="<unk>"))
    made.pre_tokenizer = pre.WhitespaceSplit()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("make", [llama, metaspace])
def test_ids_with_spaces_and_lone_bytes_stand_for_their_own_bytes(make: Callable[[], Any]) -> None:
    vocabulary = TokenizerVocabulary(make(), "file")
    sizes = vocabulary.token_bytes()
    expected = {"▁": 1, "t": 1, "▁t": 2, "he": 2, "▁the": 4, "cat": 3, "▁▁": 2, "<0x80>": 1, "<0x0A>": 1, "<0xE2>": 1}
    expected |= {"<unk>": 0, "<s>": 0, "</s>": 0}
    known = make().get_vocab()
    assert {token: int(sizes[known[token]]) for token in expected} == expected
    ids = vocabulary.encode([TEXT])[0]
    assert int(sizes[ids].sum()) == len(TEXT.encode()) + 1  # the space before the document
    assert vocabulary.decode(ids.tolist()) == TEXT


def test_bytes_are_told_of_a_byte_level_within_a_sequence_and_of_its_added_tokens() -> None:
    ids = {"Ġ": 0, "a": 1, "Ã": 2, "©": 3, "Ġa": 4, "Ã©": 5, "None": 6}
    made = tokenizers.Tokenizer(models.BPE(ids, [("Ġ", "a"), ("Ã", "©")]))
    made.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.Sequence([decoders.ByteLevel()])
    made.add_special_tokens(["<|endoftext|>"])
    made.add_tokens(["  ", "é"])
    vocabulary = TokenizerVocabulary(made, "file")
    sizes = vocabulary.token_bytes()
    assert sizes[:7].tolist() == [1, 1, 1, 1, 2, 2, 4]
    assert sizes[[7, 8, 9]].tolist() == [0, 2, 2]
    assert vocabulary.eos == 7
    assert sizes[vocabulary.encode([" a  é"])[0]].sum() == len(" a  é".encode())


def test_words_stand_for_the_space_that_parts_them_and_their_parts_do_not() -> None:
    pieces = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "cat": 2, "##s": 3}, unk_token="[UNK]"))
    pieces.pre_tokenizer, pieces.decoder = pre.WhitespaceSplit(), decoders.WordPiece()
    assert TokenizerVocabulary(pieces, "file").token_bytes()[:4].tolist() == [0, 4, 4, 1]
    ends = tokenizers.Tokenizer(models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"))
    ends.pre_tokenizer, ends.decoder = pre.WhitespaceSplit(), decoders.BPEDecoder("</w>")
    assert TokenizerVocabulary(ends, "file").token_bytes()[:2].tolist() == [1, 2]


def test_ids_may_have_gaps_and_marks_get_none_in_use() -> None:
    vocabulary = TokenizerVocabulary(of_words({"a": 1, "the": 2, "def": 9}), "file")
    assert (vocabulary.bos, vocabulary.eos, vocabulary.size) == (10, 11, 12)
    assert vocabulary.token_bytes().tolist() == [0, 2, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0]
    assert vocabulary.decode([2, 5, 9, 11]) == "the def"


def test_a_file_with_an_id_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    of_words({"a": 1}).save(str(tmp_path / "far.json"))
    (tmp_path / "far.json").write_text((tmp_path / "far.json").read_text().replace('"a": 1', '"a": 4000000000'))
    with pytest.raises(BadInput, match=r"far\.json cannot be used: it has the id 4,000,000,000, where ids below"):
        from_file(tmp_path / "far.json")


def test_a_mark_is_a_special_token_before_a_word_of_the_same_name() -> None:
    made = of_words({"</s>": 1, "<s>": 2, "a": 3})
    assert TokenizerVocabulary(made, "file").eos == 5  # a text yields </s>
    made.add_special_tokens(["<|endoftext|>"])
    assert TokenizerVocabulary(made, "file").eos == 4


def test_texts_that_spell_marks_are_text() -> None:
    texts = ["<eos> and <bos>", "a<eos>b"]
    vocabulary = trained([*TEXTS, *texts * 50], size=300)
    for text, ids in zip(texts, vocabulary.encode(texts), strict=True):
        assert not {vocabulary.bos, vocabulary.eos} & set(ids.tolist())
        assert vocabulary.token_bytes()[ids].sum() == len(text)
        assert vocabulary.decode(ids.tolist()) == text
    special = of_words({"</s>": 1, "a": 2})
    special.add_special_tokens(["</s>"])
    assert [ids.tolist() for ids in TokenizerVocabulary(special, "file").encode(["a </s> a"])] == [[2, 2]]


def test_a_file_that_cuts_and_pads_encodes_the_whole_text() -> None:
    made = llama()
    made.enable_truncation(max_length=4)
    made.enable_padding(length=60)
    (long,), (short,) = (TokenizerVocabulary(made, "file").encode([text]) for text in ("cat" * 9, "cat"))
    assert (long.tolist(), short.tolist()) == ([259, *[269] * 9], [259, 269])


def test_a_tokenizer_without_its_unknown_token_is_said() -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    with pytest.raises(BadInput, match="the tokenizer cannot encode the text"):
        TokenizerVocabulary(made, "file").encode(["b"])


def test_a_corpus_counts_the_bytes_of_its_text(tmp_path: Path) -> None:
    llama().save(str(tmp_path / "llama.json"))
    source = folder_of(tmp_path, [words(seed, 400) + " ünï" for seed in range(30)])
    folder, manifest = made(tmp_path, source, vocabulary=str(tmp_path / "llama.json"))
    (shard,) = manifest.held_out.shards
    told = np.load(folder / "token-bytes.npy")[np.load(folder / shard.file)].sum()
    assert told == manifest.held_out.text_bytes + manifest.held_out.documents


@pytest.mark.parametrize(
    ("tokenizer", "length", "said"),
    [
        (of_words({"state": 1, "space": 2, "scan": 3, "head": 4, "mixer": 5}), 400, "does not come back from the ids"),
        (llama(ignore_merges=True), 3, "stand for .* so bits per byte would be wrong by"),
    ],
    ids=["unknown words", "short documents"],
)
def test_a_tokenizer_of_another_text_makes_no_corpus(tmp_path: Path, tokenizer: Any, length: int, said: str) -> None:
    tokenizer.save(str(tmp_path / "t.json"))
    source = folder_of(tmp_path, [f"{words(seed, length)} {seed}" for seed in range(900 if length < 9 else 30)])
    with pytest.raises(BadInput, match=said):
        made(tmp_path, source, vocabulary=str(tmp_path / "t.json"))
    assert not (tmp_path / "corpus").exists()


def test_lower_case_is_another_text_though_its_bytes_are_as_many(tmp_path: Path) -> None:
    made_here = llama()
    made_here.normalizer = normalizers.Sequence([normalizers.Lowercase(), made_here.normalizer])
    made_here.save(str(tmp_path / "t.json"))
    source = folder_of(tmp_path, [words(seed, 400).title() for seed in range(30)])
    with pytest.raises(BadInput, match=r"1\d\.\d% of the held-out text does not come back"):
        made(tmp_path, source, vocabulary=str(tmp_path / "t.json"))


ENDLESS = """
import random
from hybridbench.quality.corpus.vocabulary import trained

def texts():
    draw = random.Random(0)
    for _ in range(300):
        yield " ".join("%x" % draw.getrandbits(160) for _ in range(400))
    print("all read", flush=True)

trained(texts(), 30000)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_the_training_of_a_bpe_at_once() -> None:
    child = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "all read\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, said = child.communicate(timeout=120)
    assert time.monotonic() - begun < 4  # training takes four times as long
    assert "KeyboardInterrupt" in said
