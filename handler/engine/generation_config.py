"""What generation_config.json says: end tokens and the model author's sampling defaults. Pure: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from handler.engine.json_file import read_json
from handler.errors import CorruptSnapshotError


class GenerationDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """End-of-sequence tokens, and sampling values for requests that name none. None: the file says nothing."""

    end_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


def read_generation_defaults(directory: Path) -> GenerationDefaults:
    """Defaults from `directory/generation_config.json`.

    Raises:
        CorruptSnapshotError: the file is missing, or a value has the wrong type.
    """
    path = directory / "generation_config.json"
    raw = read_json(path, dict[str, Any], "configuration")
    try:
        end = raw.get("eos_token_id")
        values = {key: raw.get(key) for key in GenerationDefaults.__struct_fields__ if key != "end_token_ids"}
        if raw.get("do_sample") is False:
            values["temperature"] = None  # transformers ignores it then; greedy is not what API users expect by default
        values["end_token_ids"] = [] if end is None else end if isinstance(end, list) else [end]
        return msgspec.convert(values, GenerationDefaults)
    except msgspec.MsgspecError as error:
        raise CorruptSnapshotError(f"{path}: {error}") from error
