"""reader: the fields of a Hugging Face ``config.json``, checked as they are read; an unknown field is an error.

A field that is not read must be known not to change a count; any other unread field is an error that names it. A field
that the file leaves out takes the default of its model type in transformers. Sizes have no default: they are never
guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, unknown_name
from hybridbench.files import CONFIG_BYTES, Damaged, from_json, read_text

REQUIRED: Any = object()
"""Stands for the default of a field that every file must have."""

HARMLESS = frozenset(
    (
        # Identity, and how the library loads and runs a model.
        *("architectures", "auto_map", "model_type", "_name_or_path", "transformers_version", "torch_dtype", "dtype"),
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
        *("partial_rotary_factor",),
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


class Fields:
    """A config's fields. Each read marks its field as read; ``finish`` raises for unread fields that may matter."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._read: set[str] = set()
        self.model_type = str(body["model_type"])

    def __contains__(self, name: str) -> bool:
        return self._body.get(name) is not None

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a field, unchecked; ``default`` where the field is absent. JSON's null is a value."""
        self._read.add(name)
        if name in self._body:
            return self._body[name]
        if default is REQUIRED:
            raise BadInput(f"it has no {name}: a size is never guessed, so add it.")
        return default

    def first(self, *names: str) -> str:
        """Choose among several names of one field: the first that the file has, else the first. Marks the rest read."""
        self._read.update(names)
        return next((name for name in names if name in self), names[0])

    def size(self, name: str, default: int = REQUIRED, least: int = 1) -> int:
        """A whole number of ``least`` or more; null counts as absent."""
        found = self.value(name, default)
        if found is None and default is not REQUIRED:
            found = default
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            raise BadInput(f"{name} is {found!r}: give a whole number of {least} or more.")
        return found

    def maybe(self, name: str, default: int | None = None, least: int = 1) -> int | None:
        """A whole number, or None where it is null."""
        found = self.value(name, default)
        if found is None:
            return None
        return self.size(name, least=least) if name in self._body else found

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean; ``default`` where the field is absent or null."""
        found = self.value(name, default)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise BadInput(f"{name} is {found!r}: give true or false.")
        return found

    def factor(self, name: str, of: int, default: float) -> int:
        """``of`` times the number in the field, rounded down as transformers does."""
        found = self.value(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1e9:
            raise BadInput(f"{name} is {found!r}: give a number above 0 and below a billion.")
        return int(found * of)

    def indices(self, name: str, count: int, default: Sequence[int] = ()) -> tuple[int, ...]:
        """0-based layer numbers below ``count``."""
        found = self.value(name, default)
        if found is None:
            return tuple(default)
        if not isinstance(found, list | tuple | range) or not all(type(index) is int for index in found):
            raise BadInput(f"{name} is {found!r}: give a list of layer numbers from 0.")
        beyond = [index for index in found if not 0 <= index < count]
        if beyond:
            raise BadInput(f"{name} names layer {beyond[0]}, and the {count} layers are 0 to {count - 1}.")
        return tuple(found)

    def layer_types(
        self, name: str, count: int, letters: Mapping[str, str], default: Sequence[str] | None
    ) -> list[str]:
        """A letter for each of ``count`` layers, from a list of words; ``default`` is a list of letters."""
        found = self.value(name)
        if found is None:
            if default is None:
                raise BadInput(f"it has no {name}: name the kind of each of the {count} layers.")
            return list(default)
        if not isinstance(found, list):
            raise BadInput(f"{name} is {found!r}: give a list with a word for each layer.")
        for word in found:
            if word not in letters:
                raise unknown_name(f"kind of layer in {name}", str(word), letters)
        if len(found) != count:
            raise BadInput(f"{name} has {len(found)} entries for {count} layers: make the two agree.")
        return [letters[word] for word in found]

    def must(self, name: str, *accepted: Any) -> None:
        """Raise ``BadInput`` unless the field has one of the accepted values, is null or is absent."""
        found = self.value(name)
        if found is not None and found not in accepted:
            known = " or ".join(json.dumps(value) for value in accepted) or "null"
            raise BadInput(f"{name} is {json.dumps(found)}: hybridbench reads {self.model_type} with {known} only.")

    def section(self, name: str) -> Mapping[str, Any]:
        """A field that is an object; empty where it is absent."""
        found = self.value(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise BadInput(f"{name} is {found!r}: give an object.")
        return found

    def finish(self, harmless: Sequence[str] = ()) -> None:
        """Check that every field was read.

        Raises:
            BadInput: a field was not read and is not known to be harmless; the message names the first one.
        """
        for name in self._body:
            if name not in self._read and name not in HARMLESS and name not in harmless:
                raise BadInput(
                    f"it has a field {name}, which hybridbench does not know in model type {self.model_type} and so "
                    f"cannot count: take it out if it changes neither parameters nor caches."
                )


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        BadInput: the file does not exist, holds what cannot be used (``files.from_json``), or is no JSON object.
    """
    try:
        body = from_json(read_text(path, CONFIG_BYTES))
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: give the config.json of a model.") from exc
    if not isinstance(body, dict):
        raise BadInput(f"{path} holds no JSON object: give the config.json of a model.")
    return body
