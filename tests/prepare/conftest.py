from __future__ import annotations

from pathlib import Path

import pytest

from handler.engine.snapshot import EMBEDDED_MODEL, Snapshot
from handler.prepare.embedded import embedded_gguf
from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.tiny_models import make_model, save_model


@pytest.fixture(scope="session")
def embedded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's GGUF file, from the real wheel."""
    return embedded_gguf(tmp_path_factory.mktemp("wheel"), NoProgress())


@pytest.fixture(scope="session")
def embedded(embedded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The embedded model's snapshot, made from the wheel's package as if it were installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(embedded_file.parent.parent))
        return prepare(EMBEDDED_MODEL, tmp_path_factory.mktemp("home"), NoProgress())


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """A tiny model as transformers saves it, in two shards or more."""
    directory = save_model(make_model("llama"), tmp_path / "tiny-llama", max_shard_size="100KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    return directory
