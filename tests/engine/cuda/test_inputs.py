from __future__ import annotations

import torch

from handler.engine.cuda.inputs import DeviceInputs, HostInputs, Layout


def filled() -> HostInputs:
    inputs = HostInputs()
    inputs.add_row(7, 0, 100, 3)
    inputs.add_row(0, 4, 200, 4)
    inputs.add_choice(0, 3, 0.1, 0.7, 40, 0.9, 0.05)
    inputs.add_choice(1, 4, 1 - 2**-53, 0.0, 0, 1.0, 0.0)
    return inputs


def test_the_device_reads_what_the_host_wrote() -> None:
    inputs = filled()
    inputs.tokens += [1, 2]
    inputs.sources += [0, 0]
    inputs.positions += [0, 1]
    inputs.slots += [5, 5]
    inputs.first_rows.append(2)
    inputs.ends.append(2)
    inputs.prompt_slots.append(5)
    inputs.places, inputs.blocks = [60, 61], [8, 9]
    assert inputs.layout == Layout(rows=4, choices=2, prompts=1, changes=2)
    words = torch.frombuffer(inputs.words(), dtype=torch.int32)
    assert len(words) == sum(inputs.layout.sizes())
    read = DeviceInputs.read(torch.cat((words, torch.tensor([-1, -1], dtype=torch.int32))), inputs.layout)
    for name in DeviceInputs.__struct_fields__:
        field = getattr(read, name)
        assert torch.equal(field, torch.tensor(getattr(inputs, name), dtype=field.dtype)), name
    assert read.uniforms.dtype == torch.float64
    assert float(read.uniforms[1]) == 1 - 2**-53


def test_padding_fills_up_with_rows_of_nobody() -> None:
    inputs = filled()
    inputs.pad(4)
    assert inputs.layout == Layout(rows=4, choices=4)
    assert inputs.tokens == [7, 0, 0, 0]
    assert inputs.slots == [3, 4, 0, 0]
    assert inputs.stores == [3, 4, 0, 0]
    assert inputs.choice_rows == [0, 1, 2, 3]
    assert inputs.temperatures[2:] == [0.0, 0.0]


def test_changes_do_not_move_the_other_fields() -> None:
    with_changes, without = filled(), filled()
    with_changes.places, with_changes.blocks = [1], [2]
    assert with_changes.words()[: len(without.words())] == without.words()
