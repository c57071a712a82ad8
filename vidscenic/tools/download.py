"""Downloads published weights, or any large file: progress, resuming, checks.

While a file is on its way it is called `NAME.part`; `NAME` exists only when it
is whole, and `NAME.sha256` beside it holds its hash in the format of sha256sum.
An interrupted download goes on where it stopped if the server can do that and
still has the same file (it answers a Range request with its ETag or date).
"""

import fcntl
import hashlib
import http.client
import math
import os
import pathlib
import ssl
import urllib.error
import urllib.request

from vidscenic.importers import published
from vidscenic.tools import progress

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without an answer
# What ends a transfer that can go on in another connection.
_BROKEN = (
  ConnectionError,
  TimeoutError,
  ssl.SSLError,
  http.client.HTTPException,
)


class DownloadError(OSError):
  """Says in one line what failed and where to put the file by hand."""


def cache_folder() -> pathlib.Path:
  """Where downloads are kept: VIDSCENIC_CACHE or ~/.cache/vidscenic/weights."""
  given = os.environ.get('VIDSCENIC_CACHE')
  if given:
    return pathlib.Path(given).expanduser()
  return pathlib.Path.home() / '.cache' / 'vidscenic' / 'weights'


def fetch(entry: published.Weights) -> pathlib.Path:
  """The file of published weights, downloaded to the cache unless it is there.

  Raises:
    DownloadError: see `download`.
  """
  return download(
    entry.url,
    cache_folder() / entry.file,
    expected=entry.size,
    at_least=2 * (entry.parameters or 0),  # in half precision
    tolerance=0.1,  # published sizes are rounded and mix MB and MiB
  )


def download(
  url: str,
  path: pathlib.Path,
  *,
  expected: int | None = None,
  at_least: int = 0,
  tolerance: float = 0.0,
) -> pathlib.Path:
  """Fetches a file unless it is there.

  Args:
    url: http or https address.
    path: where the file goes; the folder is made.
    expected: bytes, or None.
    at_least: bytes, where `expected` is None.
    tolerance: by which fraction the size may differ from `expected`, or be
      below `at_least`, for published sizes are rounded.

  Returns:
    path.

  Raises:
    DownloadError: no network, an error of the server, a file of another size,
      a web page, a connection that broke. What has arrived of the file is kept
      for the next try.
    OSError: the folder cannot be written.
  """
  path = pathlib.Path(path)
  if path.exists():
    return path
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.part')
  check = _SizeCheck(url, path, expected, at_least, tolerance)
  with open(part, 'ab') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # waits for a process that is at it
    try:
      if not path.exists():
        _complete(url, path, part, check)
    finally:
      if not _size(part):
        part.unlink(missing_ok=True)
  return path


def _complete(url, path, part, check):
  """Fetches until the part file is whole and gives it its name."""
  while True:
    before = _size(part)
    total, error = _fetch(url, path, part, check)
    now = _size(part)
    if error is None and total in (None, now):
      break
    # A connection that breaks is opened again as long as it brings anything.
    if now <= before:
      reason = error or 'the connection ended'
      of_all = '' if total is None else f' of {total:,}'
      raise DownloadError(
        f'{url}: {reason} after {now:,}{of_all} bytes; the same command '
        'continues from there'
      )
  check(now)
  recorded = path.with_name(f'{path.name}.sha256')
  recorded.write_text(f'{file_hash(part)}  {path.name}\n')
  part.replace(path)
  _tag_file(part).unlink(missing_ok=True)


def file_hash(path: pathlib.Path) -> str:
  """SHA-256 of a file, in hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def recorded_hash(path: pathlib.Path) -> str | None:
  """The hash that was written when the file was downloaded, if any."""
  beside = path.with_name(f'{path.name}.sha256')
  return beside.read_text().split()[0] if beside.exists() else None


class _SizeCheck:
  """Compares a size with the expected one."""

  def __init__(self, url, path, expected, at_least, tolerance):
    self._url, self._path = url, path
    if expected is None:
      self._least, self._most = (1 - tolerance) * at_least, math.inf
      self._wanted = f'at least {self._least:,.0f}'
    else:
      self._least = (1 - tolerance) * expected
      self._most = (1 + tolerance) * expected
      self._wanted = f'{"about " if tolerance else ""}{expected:,}'

  def __call__(self, size):
    if not self._least <= size <= self._most:
      self._refuse(f'{size:,}')

  def growing(self, size):
    """For what has arrived so far."""
    if size > self._most:
      self._refuse(f'more than {size - 1:,}')

  def _refuse(self, size):
    raise DownloadError(
      f'{self._url} has {size} bytes, expected {self._wanted}: another file '
      f'or an error page. If it is right, fetch it yourself to {self._path}'
    )


def _fetch(url, path, part, check):
  """Appends to the part file: (total size or None, what broke it off)."""
  start, tag = _size(part), _tag(part)
  if start and not tag:
    start = 0  # nothing would show that the server has another file by now
  # Compressed transfers would have another length.
  headers = {'Accept-Encoding': 'identity'}
  if start:
    headers |= {'Range': f'bytes={start}-', 'If-Range': tag}
  try:
    answer = urllib.request.urlopen(
      urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
    )
  except urllib.error.HTTPError as e:
    whole = e.headers.get('Content-Range', '').removeprefix('bytes */')
    if e.code == 416 and start and whole == str(start):
      return start, None  # nothing was missing
    if e.code == 416 and start:
      # What is here is no part of that file: without its tag all is fetched.
      _tag_file(part).unlink(missing_ok=True)
      return _fetch(url, path, part, check)
    raise DownloadError(
      f'{url}: the server answers {e.code} {e.reason}; {_by_hand(path)}'
    ) from e
  except (OSError, http.client.HTTPException) as e:
    reason = getattr(e, 'reason', e) or type(e).__name__
    raise DownloadError(
      f'cannot reach {url}: {reason}; {_by_hand(path)}'
    ) from e
  with answer:
    resumed = answer.status == 206 and _range_start(answer) == start
    start = start if resumed else 0
    length = answer.headers.get('Content-Length')
    total = None if length is None else start + int(length)
    if total is not None:
      check(total)
    try:
      chunk = answer.read(_CHUNK)
      if not start:
        _refuse_page(url, path, chunk)
      _keep_tag(part, answer.headers)
      with (
        open(part, 'ab' if resumed else 'wb') as file,
        progress.Progress(total, 'B', name=path.name, done=start) as display,
      ):
        while chunk:
          file.write(chunk)
          display.advance(len(chunk))
          _stop_if_too_long(file, part, check)
          chunk = answer.read(_CHUNK)
    except _BROKEN as e:
      return total, e
  return total, None


def _refuse_page(url, path, chunk):
  """Networks that want a login answer with their page, as if all were well."""
  if chunk.removeprefix(b'\xef\xbb\xbf').lstrip().startswith(b'<'):
    raise DownloadError(
      f'{url}: the answer is a web page (does this network want you to log in '
      f'first?); {_by_hand(path)}'
    )


def _stop_if_too_long(file, part, check):
  """Does not keep what can never become the file."""
  try:
    check.growing(file.tell())
  except DownloadError:
    file.truncate(0)
    _tag_file(part).unlink(missing_ok=True)
    raise


def _by_hand(path):
  return f'try again later, or fetch it elsewhere and put it at {path}'


def _range_start(answer):
  """First byte of a partial answer: 'bytes 100-199/200' -> 100."""
  text = answer.headers.get('Content-Range', '')
  first = text.removeprefix('bytes ').split('-')[0]
  return int(first) if first.isdigit() else None


def _size(path):
  return path.stat().st_size if path.exists() else 0


def _tag_file(part):
  return part.with_name(f'{part.name}.tag')


def _keep_tag(part, headers):
  """Remembers which version of the file the part belongs to."""
  tag = headers.get('ETag') or headers.get('Last-Modified')
  if tag and not tag.startswith('W/'):  # weak tags do not do for ranges
    _tag_file(part).write_text(tag)
  else:
    _tag_file(part).unlink(missing_ok=True)


def _tag(part):
  file = _tag_file(part)
  return file.read_text() if file.exists() else ''
