"""What a serving process imports: a cold start pays for every module, so each package is here on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import orjson

from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME
from tests.server import DEADLINE_S, ServerProcess

SERVE = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps({"message": "modules", "names": sorted(sys.modules)}), flush=True))
from handler.__main__ import main
sys.exit(main(["serve", "--port", "0"]))
"""

NEEDED = {
    "handler",
    # HTTP
    *("starlette", "anyio", "sniffio", "idna", "uvicorn", "click", "h11", "httptools", "uvloop", "cython_runtime"),
    *("msgspec", "orjson", "python_multipart", "typing_extensions"),
    # The engine
    *("torch", "torchgen", "functorch", "tokenizers", "safetensors", "jinja2", "markupsafe", "llguidance"),
    *("numpy", "packaging", "tqdm"),  # what torch imports where it is installed
    # Settings, metrics, the request log
    *("platformdirs", "psutil", "prometheus_client", "asyncpg"),
}
NOT_FOR_SERVING = (
    *("transformers", "huggingface_hub", "gguf", "rich", "redis", "limits", "pydantic", "fastapi", "bench"),
    *("torch._dynamo", "torch._inductor", "torch._decomp", "torch._refs", "torch.distributed.tensor", "triton"),
    *(
        "torch.export.exported_program",
        "torch.distributions.normal",
        "torch.ao.quantization",
        "torch.nn.quantized.modules",
    ),
    *("torch.utils.data.dataloader", "torch.quantization.observer"),
)


def _names(snapshot: Snapshot, spool: Path) -> set[str]:
    environ = {"PILOTLIGHT_HOME": str(TEST_HOME), "SPOOL_DIR": str(spool), "DATABASE_URL": "none"}
    with ServerProcess(environ, program=("-c", SERVE)) as process:
        for stream in (False, True):
            body = {"model": snapshot.name, "prompt": "Hello", "max_tokens": 2, "stream": stream}
            answer = httpx.post(f"{process.address}/v1/completions", json=body, timeout=DEADLINE_S)
            assert answer.status_code == 200
        assert process.stop() == 0
        (line,) = (line for line in process.lines if line.startswith('{"message": "modules"'))
    return set(orjson.loads(line)["names"])


def test_serving_imports_what_it_needs_and_no_more(embedded_snapshot: Snapshot, tmp_path: Path) -> None:
    names = _names(embedded_snapshot, tmp_path)
    packages = {name.partition(".")[0] for name in names}
    foreign = {
        name
        for name in packages - NEEDED - set(sys.stdlib_module_names)
        if not name.startswith(("_", "__editable__")) and name not in sys.builtin_module_names
    }
    assert foreign == set()
    assert {name for name in NOT_FOR_SERVING if name in names} == set()
    assert "torch" in names


def test_what_is_imported_before_the_function_listens_leaves_out_what_can_wait() -> None:
    code = "import sys, handler.__main__, handler.cli.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(done.stdout.split())
    assert "handler.app" in names
    waits = {"torch", "jinja2", "psutil", "asyncpg", "llguidance", "importlib.metadata", "dotenv"}
    assert names & (waits | set(NOT_FOR_SERVING)) == set()
