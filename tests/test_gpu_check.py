"""The check for GPUs builds what it says: the real shapes, in a folder that loads."""

from pathlib import Path

import pytest
from conftest import load

from gaokao import models
from gaokao.shapes import Shape
from tests import gpu_check


@pytest.mark.parametrize(
    ("size", "parameters"), [("0.5B", 494_032_768), ("7B", 7_615_616_512), ("14B", 14_770_033_664)]
)
def test_the_shapes_have_the_parameters_of_the_published_models(size: str, parameters: int) -> None:
    # As the model cards and the safetensors index of each repository state.
    sizes = [shape for group in gpu_check.tensors(gpu_check.SHAPES[size]) for shape in group.values()]
    assert sum(shape.numel() for shape in sizes) == parameters == gpu_check.SHAPES[size].parameters


@pytest.mark.parametrize("tied", [False, True])
def test_a_random_base_loads_whole(tmp_path: Path, tied: bool) -> None:
    shape = Shape(64, 128, 2, 4, 2, 4096, tied)
    gpu_check.write_base(tmp_path / "base", shape)
    model = load(tmp_path / "base", quantization="none", dtype="bf16")
    assert model.num_parameters() == shape.parameters
    assert {name for name, _ in model.named_parameters()} == {n for g in gpu_check.tensors(shape) for n in g}
    # Every weight came from the files: none was left as the library initializes it.
    assert all(abs(float(p.detach().float().std()) - 0.02) < 0.004 for n, p in model.named_parameters() if p.ndim == 2)
    assert models.load_tokenizer(tmp_path / "base").chat_template
