"""Downloads a model from the Hugging Face hub into the hub's own cache. Says its errors in one line.

The cache resumes broken downloads and respects HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handler.boot import BootTimeline
from handler.engine.architecture import open_architecture
from handler.engine.quiet import first_line, quiet
from handler.engine.weights.safetensors import INDEX_FILE, SINGLE_FILE
from handler.errors import SnapshotError
from handler.prepare.layout import no_weights
from handler.prepare.progress import Progress

_PATTERNS = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
)


def hub_directory(model: str, progress: Progress) -> Path:
    """The hub's cached directory of the model's main revision, downloaded as far as it is not there.

    The directory's name is the commit. The configuration comes first, so that a model that cannot be run is refused
    before its weights are downloaded.

    Raises:
        SnapshotError: the hub or the model cannot be reached, the model has no safetensors, or cannot be run.
    """
    progress.step(f"downloading {model}")
    with _asking(model) as hub:
        path = Path(hub.snapshot_download(model, allow_patterns=["config.json"], tqdm_class=_byte_counter(progress)))
    if (path / "config.json").is_file():
        open_architecture(path, BootTimeline())
    with _asking(model) as hub:
        path = Path(hub.snapshot_download(model, allow_patterns=list(_PATTERNS), tqdm_class=_byte_counter(progress)))
        names = [file.name for file in path.iterdir()]
        if SINGLE_FILE in names or INDEX_FILE in names:
            return path
        names = [file.rfilename for file in hub.HfApi().model_info(model, revision=path.name).siblings or []]
    raise SnapshotError(no_weights(f"hub model {model}", names))


@contextlib.contextmanager
def _asking(model: str) -> Iterator[Any]:
    """The hub's library, whose errors become ours."""
    with quiet("huggingface_hub") as hub:
        try:
            yield hub
        except Exception as error:  # the HTTP library below has its own tree, which changes with the hub's version
            raise SnapshotError(_reason(model, error)) from error


def _byte_counter(progress: Progress) -> type[Any]:
    """A tqdm class that draws nothing and hands on the bytes of the bar that counts what lies on disk."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415  # only inside the quiet block

    class ByteCounter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts = kwargs.get("unit") == "B" and "Reconstruct" in str(kwargs.get("desc"))
            super().__init__(*args, **kwargs | {"disable": True})  # type: ignore[no-untyped-call]  # it has no types

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                progress.advance(int(n))

    return ByteCounter


def _reason(model: str, error: Exception) -> str:
    from huggingface_hub import errors  # noqa: PLC0415  # only inside the quiet block

    if isinstance(error, errors.GatedRepoError):
        return f"hub model {model} is gated: accept its terms on the hub, then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"hub model {model} does not exist, or is private and needs HF_TOKEN"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cached = "only partly in" if isinstance(error, errors.IncompleteSnapshotError) else "not in"
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        why = (
            "HF_HUB_OFFLINE is set"
            if offline
            else f"the hub cannot be reached ({first_line(error.__cause__ or error)})"
        )
        return f"hub model {model} is {cached} the local cache, and {why}"
    return f"hub model {model} cannot be downloaded: {first_line(error)}"
