"""Where a Sprint student begins: at its teacher (sana_family spec section 6.2)."""

from __future__ import annotations

from dataclasses import replace

from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.transformer import SanaTransformer

UNIT = 0.001  # network time is 0..1, what samplers count as 0..1000 times this


def dense_config(config: SanaConfig) -> SanaConfig:
    """The teacher's with Sprint's time and norms. Differentiating by time needs time to be continuous, and dense.

    Raises:
        ValueError: not of an image member.
    """
    if config.mixer != "relu" or config.temporal_conv or config.action_dim or config.source or not config.text_dim:
        raise ValueError(f"a teacher of Sprint is an image member of the family, told by text: got {config}")
    return replace(config, qk_norm=True, timestep_scale=UNIT, integer_timesteps=False)


def is_dense(config: SanaConfig) -> bool:
    return dense_config(config) == config


def with_dense_time(teacher: SanaTransformer) -> SanaTransformer:
    """The teacher with Sprint's time and norms, which it has to be trained on with again; norms start at 1."""
    return _grown(teacher, dense_config(teacher.config))


def student_of(teacher: SanaTransformer) -> SanaTransformer:
    """A copy that is told the scale of guidance; until it is trained it answers as the teacher does, at any scale.

    Raises:
        ValueError: a teacher that :func:`with_dense_time` has to make one first.
    """
    if not is_dense(teacher.config):
        c = teacher.config
        raise ValueError(
            f"the teacher has timestep_scale={c.timestep_scale}, qk_norm={c.qk_norm}, integer_timesteps="
            f"{c.integer_timesteps}; expected {UNIT}, True, False: train it on with_dense_time first"
        )
    return _grown(teacher, replace(teacher.config, guidance=True))


def _grown(teacher: SanaTransformer, config: SanaConfig) -> SanaTransformer:
    """A network of ``config`` with the teacher's weights; what the teacher lacks is as it was built."""
    grown = SanaTransformer(config).to(teacher.device, teacher.dtype)
    tensors = grown.state_dict() | teacher.state_dict()
    grown.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()})
    return grown
