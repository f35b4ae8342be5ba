"""reader: the fields of a Hugging Face ``config.json``, checked as they are read; an unknown field is an error.

A field that is not read must be known not to change a count; any other unread field is an error that names it. A field
that the file leaves out takes the default of its model type in transformers, and ``Fields.defaulted`` lists it. The
sizes that every file of a type has are never guessed. All that is wrong with a file is told at once.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from hybridbench.errors import BadInput, unknown_name
from hybridbench.files import CONFIG_BYTES, Damaged, from_json, read_text

P = ParamSpec("P")
B = TypeVar("B")

REQUIRED: Any = object()
"""Stands for the default of a field that every file must have."""

LARGEST = 2**31 - 1
"""The largest size, which is the largest dimension that kernels index with 32 bits."""

SIMILAR = 0.85
"""How alike two names must be for one to be offered as the other's right spelling, from 0 to 1."""

LONGEST = 60
"""The most characters of a value in a message."""

HARMLESS = frozenset(
    (
        # Identity, and how the library loads and runs a model.
        *("architectures", "auto_map", "model_type", "_name_or_path", "transformers_version"),
        *(
            "use_cache",
            "tokenizer_class",
            "_attn_implementation",
            "attn_implementation",
            "_attn_implementation_autoset",
        ),
        *("output_attentions", "output_hidden_states", "return_dict", "problem_type", "id2label", "label2id"),
        *("is_encoder_decoder", "chunk_size_feed_forward", "pretraining_tp", "finetuning_task", "task_specific_params"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "num_logits_to_keep"),
        # Initialisation, dropout and losses.
        *("initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "dropout"),
        *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "rescale_prenorm_residual"),
        # Positions, and scalars that multiply or bound existing values.
        *("rope_theta", "rope_scaling", "rope_parameters", "rotary_emb_base", "rope_interleave"),
        *("partial_rotary_factor", "use_mrope", "rope_interleaved", "is_llama_config", "transformers.js_config"),
        *("max_position_embeddings", "original_max_position_embeddings", "rope_local_base_freq", "rotary_percent"),
        *("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", "residual_in_fp32"),
        *("hidden_act", "hidden_activation", "query_pre_attn_scalar", "final_logit_softcapping", "logits_soft_cap"),
        *("attn_logit_softcapping", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group", "topk_method"),
        *("scoring_func", "embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
        *("time_step_limit", "time_step_min", "time_step_max", "time_step_floor", "time_step_scale"),
        *("time_step_init_scheme", "use_mamba_kernels", "use_mambapy", "use_associative_scan"),
    )
)
"""Fields that change no count in any model type read here."""

ENDLESS = ("time_step_limit",)
"""Fields in which released files write infinity, of Mamba-2 and of the models that are made of it."""


class Fields:
    """A config's fields. Each read marks its field as read and keeps what is wrong with it for ``finish``.

    A field that is wrong gives a stand-in, so that reading goes on and every wrong field is told at once. Nothing that
    was made from a stand-in leaves the reader: ``finish`` raises.

    Args:
        body: the fields, ``model_type`` among them.
        class_sizes: sizes of the type's class that the file may leave out.
    """

    def __init__(self, body: Mapping[str, Any], class_sizes: Mapping[str, int] | None = None) -> None:
        self._body = body
        self._class_sizes = class_sizes or {}
        self._read: set[str] = set()
        self._wrong = Wrong()
        self._prefix = ""
        self._finished = False
        self.model_type = str(body["model_type"])
        self.defaulted: dict[str, Any] = {}
        """What the file leaves out and the type's class sets, by field."""

    def __contains__(self, name: str) -> bool:
        return self._body.get(name) is not None

    def is_null(self, name: str) -> bool:
        """Whether the file has the field, with null."""
        self._read.add(name)
        return name in self._body and self._body[name] is None

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a field, unchecked; ``default`` where the field is absent. JSON's null is a value."""
        self._read.add(name)
        if name in self._body:
            return self._body[name]
        if default is REQUIRED:
            if name not in self._class_sizes:
                self._wrong.missing[self._prefix + name] = f"it has no {name}: a size is never guessed, so add it."
                return None
            default = self._class_sizes[name]
        if default is not None and default is not False:
            self.default(name, default)
        return default

    def default(self, name: str, value: Any) -> None:
        """Note that the file leaves ``name`` out and that the class sets it to ``value``."""
        if name not in self._body or self._body[name] is None:
            self.defaulted[self._prefix + name] = value

    def wrong(self, name: str, why: str) -> None:
        """Keep that a field is wrong. ``why`` is the whole sentence, which names the field."""
        self._wrong.fields.setdefault(self._prefix + name, why)

    def contradict(self, names: Sequence[str], why: str) -> None:
        """Keep that several fields contradict each other; those that the sentence ``why`` does not name are added."""
        known = {**self.defaulted, **self._body}
        unnamed = [name for name in names if name in known and not re.search(rf"\b{re.escape(name)}\b", why)]
        if unnamed:
            listed = ", ".join(f"{name} {shown(known[name])}" for name in unnamed)
            why = f"{why.removesuffix('.')} ({listed})."
        # A nested field may contradict one beside its section, such as the number of layers.
        self._wrong.contradictions.append(({*names, *(self._prefix + name for name in names)}, why))

    def build(self, names: Sequence[str], make: Callable[P, B], *args: P.args, **kwargs: P.kwargs) -> B:
        """Make a block from the fields ``names``; what its constructor refuses is kept as a contradiction of them."""
        try:
            return make(*args, **kwargs)
        except BadInput as exc:
            self.contradict(names, str(exc))
        unchecked: B = object.__new__(cast(type[B], make))
        bound = inspect.signature(make).bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            object.__setattr__(unchecked, name, value)
        return unchecked

    def first(self, *names: str) -> str:
        """Choose among several names that the class has for one field: the first that the file has, else the first.

        Marks the rest read. Two that differ are a contradiction. A null is chosen before a value: the class sets the
        field to null whichever name it stands under.
        """
        self._read.update(names)
        nulls = [name for name in names if name in self._body and name not in self]
        if nulls:
            return nulls[0]
        given = [name for name in names if name in self]
        for name in given[1:]:
            if self._body[name] != self._body[given[0]]:
                self.contradict(
                    (given[0], name),
                    f"{given[0]} is {shown(self._body[given[0]])} and {name} is {shown(self._body[name])}: "
                    f"they are two names of one field, so take one of them out.",
                )
        return given[0] if given else names[0]

    def size(self, name: str, default: int = REQUIRED, least: int = 1) -> int:
        """A whole number of ``least`` or more."""
        found = self.value(name, default)
        if found is None and name not in self._body:
            return max(least, 1)
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= LARGEST:
            most = f" up to {LARGEST}" if isinstance(found, int) and found > LARGEST else ""
            self.wrong(name, f"{name} is {shown(found)}: give a whole number of {least} or more{most}.")
            return max(least, 1)
        return found

    def maybe(self, name: str, default: int | None = None, least: int = 1) -> int | None:
        """A whole number, or None where it is null."""
        if self.is_null(name):
            return None
        return self.size(name, least=least) if name in self._body else self.value(name, default)

    def flag(self, name: str, default: bool = False, null: bool | None = None) -> bool:
        """A boolean; ``default`` where it is absent, ``null`` where it is null and the class accepts that."""
        found = self.value(name, default)
        if found is None and null is not None:
            return null
        if not isinstance(found, bool):
            self.wrong(name, f"{name} is {shown(found)}: give true or false.")
            return default
        return found

    def number(self, name: str, default: float) -> float:
        """A finite number above 0."""
        found = self.value(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= LARGEST:
            self.wrong(name, f"{name} is {shown(found)}: give a number above 0.")
            return default
        return found

    def factor(self, name: str, of: int, default: float) -> int:
        """``of`` times the number in the field, rounded down as transformers does."""
        return int(self.number(name, default) * of)

    def indices(self, name: str, count: int, default: Sequence[int] = (), first: int = 0) -> tuple[int, ...]:
        """Numbers of some of ``count`` layers, which count from ``first``."""
        found = self.value(name, default or None)
        if found is None:
            return tuple(default)
        if not isinstance(found, list | tuple | range) or not all(type(index) is int for index in found):
            self.wrong(name, f"{name} is {shown(found)}: give a list of layer numbers from {first}.")
            return tuple(default)
        last = first + count - 1
        beyond = [index for index in found if not first <= index <= last]
        if beyond:
            self.contradict(
                (name, "num_hidden_layers"),
                f"{name} names layer {shown(beyond[0])}, and the {count} layers are {first} to {last}.",
            )
        return tuple(index for index in found if first <= index <= last)

    def layer_types(
        self, name: str, count: int, letters: Mapping[str, str], default: Sequence[str] | None
    ) -> list[str]:
        """A letter for each of ``count`` layers, from a list of words; ``default`` is a list of letters."""
        found = self.value(name)
        any_letters = list(default or [next(iter(letters.values()))] * count)
        if found is None:
            if default is None:
                self.wrong(name, f"it has no {name}: name the kind of each of the {count} layers.")
            else:
                words = {letter: word for word, letter in reversed(list(letters.items()))}
                self.default(name, " and ".join(f"{n} {words.get(one, one)}" for one, n in Counter(default).items()))
            return any_letters
        if not isinstance(found, list):
            self.wrong(name, f"{name} is {shown(found)}: give a list with a word for each layer.")
            return any_letters
        for word in found:
            if not isinstance(word, str):
                self.wrong(name, f"{name} has {shown(word)}: give a word for each layer.")
                return any_letters
            if word not in letters:
                self.wrong(name, str(unknown_name(f"kind of layer in {name}", shown_name(word), letters)))
                return any_letters
        if len(found) != count:
            self.contradict(
                (name, "num_hidden_layers"), f"{name} has {len(found)} entries for {count} layers: make the two agree."
            )
            return any_letters
        return [letters[word] for word in found]

    def must(self, name: str, *accepted: Any) -> None:
        """Keep as wrong a field that is present, is not null and has none of the accepted values."""
        found = self.value(name)
        if found is None or any(type(found) is type(value) and found == value for value in accepted):
            return
        known = " or ".join(json.dumps(value) for value in accepted) or "null"
        self.wrong(name, f"{name} is {_cut(json.dumps(found))}: hybridbench reads {self.model_type} with {known} only.")

    def not_null(self, *names: str) -> None:
        """Keep as wrong each of these fields that is present and null: the class computes with its value."""
        for name in names:
            if self.is_null(name):
                self.wrong(name, f"{name} is None: give its value, or take it out for the default of the class.")

    def section(self, name: str) -> Mapping[str, Any]:
        """A field that is an object; empty where it is absent."""
        found = self.value(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            self.wrong(name, f"{name} is {shown(found)}: give an object.")
            return {}
        return found

    def nested(self, name: str) -> Fields:
        """The fields of a field that is an object. What is wrong with them is told with the rest."""
        inside = Fields({**self.section(name), "model_type": self.model_type})
        inside._wrong, inside._prefix, inside.defaulted = self._wrong, f"{self._prefix}{name}.", self.defaulted
        return inside

    def unread(self, harmless: Sequence[str] = ()) -> None:
        """Keep as wrong every field that was not read and is not known to be harmless."""
        absent = [name for name in self._read if name not in self._body]
        others = [name for name in (*harmless, *HARMLESS) if name not in self._body]
        for name in self._body:
            if name in self._read or name in HARMLESS or name in harmless:
                continue
            said = f"it has a field {self._prefix}{shown_name(name)}, which hybridbench does not know in model type "
            near = _nearest(name, absent) or _nearest(name, others)
            if near:
                self._wrong.misspelt.append(self._prefix + near)
                self.wrong(name, f"{said}{self.model_type}: did you mean {near}?")
            else:
                self.wrong(
                    name,
                    f"{said}{self.model_type} and so cannot count: take it out if it changes neither parameters nor "
                    f"caches.",
                )

    def finish(self, harmless: Sequence[str] = ()) -> None:
        """Check that every field was read and that none is wrong.

        Raises:
            BadInput: a field is wrong, was not read and is not known to be harmless, or contradicts another; the
                message tells all of them.
        """
        self.unread(harmless)
        self._finished = True
        if not self._prefix:
            self.check()

    def check(self) -> None:
        """Raise what was kept so far.

        Raises:
            BadInput: a field is wrong or contradicts another.
        """
        told = self._wrong.sentences()
        if len(told) == 1:
            raise BadInput(told[0])
        if told:
            raise BadInput("\n  ".join([f"{len(told)} things are wrong:", *told]))

    def failed(self, exc: BadInput) -> None:
        """Raise what was kept before reading ended early with ``exc``, which may only follow from it; else ``exc``."""
        if not self._finished:
            absent = [name for name in self._read if name not in self._body]
            unread = [name for name in self._body if name not in self._read]
            self.unread([name for name in unread if not _nearest(name, absent)])
        self.check()
        raise exc


@dataclass
class Wrong:
    """What is wrong with a file: fields by name, and fields that contradict each other."""

    fields: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    misspelt: list[str] = field(default_factory=list)
    contradictions: list[tuple[set[str], str]] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """One sentence for each fault. What only follows from a field that is told anyway is left out."""
        missing = {name: said for name, said in self.missing.items() if name not in self.misspelt}
        told = {*self.fields, *self.missing, *self.misspelt}
        kept = [said for names, said in self.contradictions if not told & names]
        return list(dict.fromkeys([*self.fields.values(), *missing.values(), *kept]))


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` of which ``name`` may be a misspelling."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=SIMILAR)), None)


def shown(value: Any) -> str:
    """A value, cut where it is long."""
    if isinstance(value, int) and abs(value) > LARGEST**2:
        return f"a number of {len(str(abs(value)))} digits"
    return _cut(ascii(value[:LONGEST] if isinstance(value, str) else value))


def shown_name(name: str) -> str:
    """A name as it stands, or with escapes where it cannot be printed."""
    return _cut(name if name.isprintable() else ascii(name)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object. A byte-order mark is passed over.

    Raises:
        BadInput: the file does not exist, holds what cannot be used (``files.from_json``), or is no JSON object.
    """
    try:
        body = from_json(read_text(path, CONFIG_BYTES), endless=ENDLESS)
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: give the config.json of a model.") from exc
    if not isinstance(body, dict):
        raise BadInput(f"{path} holds no JSON object: give the config.json of a model.")
    return body
