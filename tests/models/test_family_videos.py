"""Video transformers against diffusers' SanaVideoTransformer3DModel."""

import pytest
import torch

from sana_wm.models.transformer import SanaTransformer
from tests.models.family_reference import VIDEOS, inputs, reference, run_reference

CLIPS = [(3, (4, 6)), (1, (6, 2)), (5, (2, 4))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", VIDEOS)
def test_the_velocity_is_that_of_diffusers(tmp_path, case, dtype):
    theirs = reference("video", dtype, **VIDEOS[case])
    theirs.save_pretrained(tmp_path)
    ours = SanaTransformer.from_pretrained(tmp_path)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-5}[dtype]
    for frames, grid in CLIPS:
        given = inputs(ours, frames, grid, dtype)
        with torch.no_grad():
            out = ours(**given).velocity
        expected = run_reference(theirs, given)
        assert expected.std() > 0.1
        torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)


def test_a_time_per_frame_is_that_of_diffusers_with_a_time_per_token(tmp_path):
    """As image-to-video has it: the given frame at time 0."""
    theirs = reference("video", **VIDEOS["patches"])
    theirs.save_pretrained(tmp_path)
    ours = SanaTransformer.from_pretrained(tmp_path)
    given = inputs(ours, 3, (4, 6))
    given["timestep"] = torch.tensor([0.0, 700.5, 700.5]).expand(3, 3)
    with torch.no_grad():
        out = ours(**given).velocity
        one = ours(**given | {"timestep": torch.full((3,), 700.5)}).velocity
    torch.testing.assert_close(out, run_reference(theirs, given), atol=1e-9, rtol=1e-9)
    assert (out - one).abs().max() > 0.01
