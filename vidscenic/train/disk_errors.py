"""Errors of a disk, told in one line with the path and what to do about it."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping

_FULL = (
  'Free some space and start the same command again: the run goes on from its '
  'last checkpoint'
)
_FORBIDDEN = 'Choose a --workdir that this user may write to'
_IN_THE_WAY = 'Move what is in the way or choose another --workdir'

# By the number of the error; None: any other.
Remedies = Mapping[int | None, str]
WORKDIR: Remedies = {
  errno.ENOSPC: _FULL,
  errno.EDQUOT: _FULL,
  errno.EFBIG: (
    'Raise the limit on file sizes (ulimit -f); if there is none, free some '
    'space'
  ),
  errno.EACCES: _FORBIDDEN,
  errno.EPERM: _FORBIDDEN,
  errno.EROFS: _FORBIDDEN,
  errno.EEXIST: _IN_THE_WAY,
  errno.EISDIR: _IN_THE_WAY,
  errno.ENOTDIR: _IN_THE_WAY,
  None: 'Check --workdir',
}


@contextlib.contextmanager
def explained(
  path: str | os.PathLike, remedies: Remedies = WORKDIR
) -> Iterator[None]:
  """Re-raises an OSError with the path and what to do about it.

  Raises:
    OSError: of the same errno (so a PermissionError stays one).
  """
  try:
    yield
  except OSError as error:
    reason = error.strerror or error
    advice = remedy(error, remedies)
    message = f'cannot write {os.fspath(path)}: {reason}. {advice}.'
    arguments = (message,) if error.errno is None else (error.errno, message)
    raise OSError(*arguments) from error


def is_disk_error(error: Exception) -> bool:
  """Whether the system refused to read or write; tensorstore's count too."""
  return isinstance(error, OSError) or _code(error) is not None


def remedy(error: Exception, remedies: Remedies = WORKDIR) -> str:
  """What to do about it, a sentence without its full stop."""
  return remedies.get(_code(error), remedies[None])


def _code(error):
  if getattr(error, 'errno', None) is not None:
    return error.errno
  # tensorstore's errors are ValueErrors whose text holds the system's number.
  found = re.search(r"os_error_code='(\d+)'", str(error))
  return int(found[1]) if found else None
