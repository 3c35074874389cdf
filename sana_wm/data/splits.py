"""Which episodes of a dataset train, which steer training, and which are never looked at before the final report."""


def split_episodes(num_episodes: int) -> dict[str, range]:
    """Split by whole episodes, in order: the first 90 % train, then 5 % validation, the last 5 % test.

    Both held-out parts have at least one episode. Order is no bias for a collection whose episodes are independent
    draws, and a rule without randomness is the same rule wherever it is asked.

    >>> split_episodes(2000)
    {'train': range(0, 1800), 'validation': range(1800, 1900), 'test': range(1900, 2000)}

    Raises:
        ValueError: for fewer than three episodes.
    """
    if num_episodes < 3:
        raise ValueError(f"a dataset needs at least 3 episodes to be split, got {num_episodes}; record more")
    held_out = max(1, num_episodes // 20)
    train, validation = num_episodes - 2 * held_out, num_episodes - held_out
    return {
        "train": range(train),
        "validation": range(train, validation),
        "test": range(validation, num_episodes),
    }
