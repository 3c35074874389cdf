import pytest

from tests.evaluation.oracle_world import OracleWorld, RecordedEpisodes


@pytest.fixture(scope="session")
def episodes():
    return RecordedEpisodes(8)


@pytest.fixture(scope="session")
def oracle():
    return OracleWorld()
