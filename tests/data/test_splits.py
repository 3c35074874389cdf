import pytest

from sana_wm.data.splits import split_episodes


@pytest.mark.parametrize("count", [3, 19, 20, 40, 2000, 2001])
def test_every_episode_is_in_exactly_one_part(count):
    parts = split_episodes(count)
    assert [*parts["train"], *parts["validation"], *parts["test"]] == list(range(count))
    assert min(len(part) for part in parts.values()) >= 1


def test_proportions():
    assert {name: len(part) for name, part in split_episodes(2000).items()} == {
        "train": 1800,
        "validation": 100,
        "test": 100,
    }
    with pytest.raises(ValueError, match="at least 3"):
        split_episodes(2)
