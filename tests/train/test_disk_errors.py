"""Errors of a disk: path, reason and remedy in one line, for all writers."""

import errno
import os

import pytest

from vidscenic.train import disk_errors

# As tensorstore words it.
_TENSORSTORE = ValueError(
  "RESOURCE_EXHAUSTED: Error writing local file [os_error_code='28']"
)


def test_path_reason_and_remedy_in_one_line(tmp_path):
  with pytest.raises(OSError) as info:
    with disk_errors.explained(tmp_path / 'a'):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  assert str(info.value).endswith(
    f'cannot write {tmp_path}/a: No space left on device. Free some space and '
    'start the same command again: the run goes on from its last checkpoint.'
  )
  assert info.value.errno == errno.ENOSPC


def test_the_kind_of_error_stays():
  with pytest.raises(PermissionError, match='Choose a --workdir that this'):
    with disk_errors.explained('run'):
      raise PermissionError(errno.EACCES, 'Permission denied')
  with pytest.raises(ZeroDivisionError):
    with disk_errors.explained('run'):
      raise ZeroDivisionError


@pytest.mark.parametrize(
  ('error', 'is_disk_error', 'remedy'),
  [
    (OSError(errno.ENOTDIR, 'x'), True, 'Move what is in the way'),
    (OSError('no number'), True, 'Check --workdir'),
    (_TENSORSTORE, True, 'Free some space'),
    (ValueError('a mistake'), False, 'Check --workdir'),
  ],
)
def test_errors_and_their_remedies(error, is_disk_error, remedy):
  assert disk_errors.is_disk_error(error) == is_disk_error
  assert disk_errors.remedy(error).startswith(remedy)


def test_remedies_of_ones_own():
  remedies = {errno.ENOSPC: 'Empty the bin', None: 'Look there'}
  with pytest.raises(OSError, match=r'cannot write a: x. Empty the bin\.'):
    with disk_errors.explained('a', remedies):
      raise OSError(errno.ENOSPC, 'x')
  with pytest.raises(OSError, match=r'Look there\.'):
    with disk_errors.explained('a', remedies):
      raise OSError('x')
