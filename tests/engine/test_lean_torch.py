"""torch without what serving does not use, and with it for whoever needs it. In processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEAN = """
import sys
from handler.engine.lean_torch import complete_torch, import_torch
import_torch()
import torch
put_off = {"torch._decomp", "torch.export.exported_program", "torch.distributions.normal", "torch.ao.quantization"}
assert put_off.isdisjoint(sys.modules)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", LEAN + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_computes_without_it() -> None:
    assert run("print((torch.ones(2, 3) @ torch.ones(3, 2)).sum().item())") == "12.0\n"


def test_completed_torch_knows_the_meta_device_and_compiles() -> None:
    code = """
complete_torch()
complete_torch()
with torch.device("meta"):
    print(tuple(torch.sort(torch.empty(3, 4))[0].shape))
compiled = torch.compile(lambda x: torch.softmax(x @ x, -1).sort()[0], backend="aot_eager")
print(tuple(compiled(torch.ones(3, 3)).shape))
print(torch._meta_registrations is sys.modules["torch._meta_registrations"])
"""
    assert run(code) == "(3, 4)\n(3, 3)\nTrue\n"


@pytest.mark.parametrize(
    "code",
    [
        "from torch._meta_registrations import device_hint as found",
        "from torch.distributions import Normal as found",
        "from torch.distributions.normal import Normal as found",
        "found = torch.distributions.Normal",
        "found = torch.export.export",
        "import torch.export.exported_program; found = torch.export.ExportedProgram",
        "found = torch.utils.data.DataLoader",
        "from torch.utils.data import DataLoader as found",
        "found = torch.ao.quantization.get_default_qconfig",
        "found = torch.nn.quantized.Linear",
        "import torch.nn.quantized.dynamic; found = torch.nn.quantized.dynamic.Linear",
    ],
)
def test_whoever_asks_for_a_name_in_it_gets_it(code: str) -> None:
    assert run(f"{code}\nprint(callable(found))") == "True\n"


def test_an_exported_program_runs() -> None:
    code = """
complete_torch()
class Twice(torch.nn.Module):
    def forward(self, x):
        return x * 2
print(torch.export.export(Twice(), (torch.ones(2),)).module()(torch.ones(2)).tolist())
"""
    assert run(code) == "[2.0, 2.0]\n"


@pytest.mark.parametrize("code", ["complete_torch()", "import_torch()"])
def test_where_torch_is_there_nothing_happens(code: str) -> None:
    script = f"""
import sys
import torch
known = set(sys.modules)
from handler.engine.lean_torch import complete_torch, import_torch
{code}
print({{name for name in set(sys.modules) - known if name.startswith("torch")}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_weights_that_are_quantised_at_the_start_are() -> None:
    assert run("from handler.engine.rotation import Rotation\nprint(Rotation(64).size)") == "64\n"


LIBRARIES = """
import sys, threading
from pathlib import Path
from handler.engine.lean_torch import begin_to_load_libraries, import_torch

def is_loaded():
    return "libtorch_cpu.so" in Path("/proc/self/maps").read_text()

thread, num_looks = begin_to_load_libraries(), 0
while thread.is_alive():
    num_looks += 1
"""


def test_libraries_are_loaded_while_others_get_on() -> None:
    code = """
assert is_loaded() and "torch" not in sys.modules
import_torch()
import torch
print(num_looks > 1000, torch.ones(2).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", LIBRARIES + code], capture_output=True, text=True, check=True)
    assert done.stdout == "True 2.0\n"


def test_where_there_is_no_torch_no_library_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    code = LIBRARIES + "print(is_loaded())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert (done.stdout, done.stderr) == ("False\n", "")
