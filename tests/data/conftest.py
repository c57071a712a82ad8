"""Files that many tests read and none changes."""

import pytest

from tests.data import make_odd_videos


@pytest.fixture(scope='session')
def odd_videos(tmp_path_factory):
  """{name: path} of `make_odd_videos.NAMES`; 3 seconds, so once."""
  return make_odd_videos.make(tmp_path_factory.mktemp('odd'))
