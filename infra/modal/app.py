"""The function on Modal: `modal deploy infra/modal/app.py` at the top of the checkout. Zero to five containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import modal

_CHECKOUT = Path(__file__).parent.parent.parent

app = modal.App("pilotlight")

# The image that every platform gets, without its entry point: Modal brings its own.
image = modal.Image.from_dockerfile(
    _CHECKOUT / "Dockerfile",
    context_dir=_CHECKOUT,
    build_args={"PACKAGES": "gcc libc6-dev", "IMAGE": "modal"},
).entrypoint([])


@app.cls(
    image=image,
    gpu="L4",
    memory=8192,  # MiB; weights pass through on their way to the GPU
    min_containers=0,
    max_containers=5,
    scaledown_window=300,  # seconds without a request: a boot costs what a minute of it costs
    startup_timeout=900,  # a large model from a slow volume
    timeout=3600,  # longest request; a stream may be one
    secrets=[modal.Secret.from_name("pilotlight")],  # DATABASE_URL and API_KEYS
    env={"MODEL_DEVICE": "cuda"},
    # What was imported before the snapshot is there after it: torch alone takes a second and a half.
    enable_memory_snapshot=True,
)
@modal.concurrent(max_inputs=32, target_inputs=16)  # a batch (MAX_BATCH_SIZE), and as many that wait for a step
class Function:
    """One container."""

    @modal.enter(snap=True)
    def import_engine(self) -> None:
        """Before the snapshot, without a GPU: what takes long and knows nothing of this container."""
        from handler.asgi import import_engine  # noqa: PLC0415  (it is in the image, not where this is deployed from)

        import_engine()

    @modal.asgi_app()
    def serve(self) -> Any:
        """After the snapshot: the weights go to the GPU while the first request waits in the function."""
        from handler.asgi import application  # noqa: PLC0415

        return application()
