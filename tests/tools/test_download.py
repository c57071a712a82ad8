"""Downloads from a server of this process: resuming, checks, clear errors."""

import hashlib
import http.client
import http.server
import os
import pathlib
import ssl
import threading

import numpy as np
import pytest

from vidscenic.importers import published
from vidscenic.tools import download

BODY = np.random.default_rng(0).bytes(300_000)
HASH = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
  """Serves BODY; the attributes say how badly."""

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.ranges = True  # answers Range requests
    self.tag = '"one"'
    self.cut = None  # bytes of the body that an answer sends before it ends
    self.length = True  # says Content-Length
    self.status = 200
    self.body = BODY
    self.requests = []

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_port}/w.npz'


class Handler(http.server.BaseHTTPRequestHandler):
  """One answer."""

  def do_GET(self):
    server = self.server
    server.requests.append(dict(self.headers))
    if server.status != 200:
      self.send_error(server.status)
      return
    start = 0
    asked = self.headers.get('Range')
    if asked and server.ranges and self.headers.get('If-Range') == server.tag:
      start = int(asked.removeprefix('bytes=').rstrip('-'))
      if start >= len(server.body):
        self.send_response(416)
        self.send_header('Content-Range', f'bytes */{len(server.body)}')
        self.end_headers()
        return
      self.send_response(206)
      self.send_header(
        'Content-Range',
        f'bytes {start}-{len(server.body) - 1}/{len(server.body)}',
      )
    else:
      self.send_response(200)
    if server.tag:
      self.send_header('ETag', server.tag)
    if server.length:
      self.send_header('Content-Length', str(len(server.body) - start))
    self.end_headers()
    self.wfile.write(server.body[start:][: server.cut])

  def log_message(self, *unused):
    pass


@pytest.fixture
def server():
  with Server() as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def part_of(path, size, tag='"one"'):
  """What an interrupted download leaves."""
  path.with_name(f'{path.name}.part').write_bytes(BODY[:size])
  if tag:
    path.with_name(f'{path.name}.part.tag').write_text(tag)


def files(folder):
  return sorted(p.name for p in folder.iterdir())


def test_file_and_hash_appear_together(server, tmp_path):
  path = tmp_path / 'cache' / 'w.npz'
  assert download.download(server.url, path) == path
  assert path.read_bytes() == BODY
  assert files(path.parent) == ['w.npz', 'w.npz.sha256']
  assert download.recorded_hash(path) == HASH == download.file_hash(path)
  beside = path.with_name('w.npz.sha256').read_text()
  assert beside == f'{HASH}  w.npz\n'  # as sha256sum --check reads it


def test_file_that_is_there_is_not_fetched_again(server, tmp_path):
  path = tmp_path / 'w.npz'
  path.write_bytes(b'mine')
  download.download(server.url, path)
  assert path.read_bytes() == b'mine'
  assert not server.requests


def test_interrupted_download_fetches_only_the_rest(server, tmp_path):
  path = tmp_path / 'w.npz'
  part_of(path, 100_000)
  download.download(server.url, path)
  assert path.read_bytes() == BODY
  (request,) = server.requests
  assert request['Range'] == 'bytes=100000-'
  assert files(tmp_path) == ['w.npz', 'w.npz.sha256']


@pytest.mark.parametrize(
  'change', [{'ranges': False}, {'tag': '"two"'}, {'tag': None}]
)
def test_server_that_cannot_resume_sends_all_of_it(server, tmp_path, change):
  for name, value in change.items():
    setattr(server, name, value)
  path = tmp_path / 'w.npz'
  part_of(path, 100_000)
  download.download(server.url, path)
  assert path.read_bytes() == BODY


def test_part_of_unknown_version_is_not_trusted(server, tmp_path):
  path = tmp_path / 'w.npz'
  part_of(path, 100_000, tag=None)
  download.download(server.url, path)
  assert 'Range' not in server.requests[0]
  assert path.read_bytes() == BODY


def test_part_that_was_complete_only_gets_its_name(server, tmp_path):
  path = tmp_path / 'w.npz'
  part_of(path, len(BODY))
  download.download(server.url, path)
  assert path.read_bytes() == BODY


def test_connection_that_breaks_is_opened_again(server, tmp_path):
  server.cut = 80_000
  path = tmp_path / 'w.npz'
  download.download(server.url, path)
  assert path.read_bytes() == BODY
  assert len(server.requests) == 4


def test_truncated_answer_never_looks_complete(server, tmp_path):
  server.cut, server.ranges = 80_000, False
  path = tmp_path / 'w.npz'
  message = '80,000 of 300,000 bytes; the same command continues'
  with pytest.raises(download.DownloadError, match=message):
    download.download(server.url, path)
  assert not path.exists()
  server.cut, server.ranges = None, True
  download.download(server.url, path)
  assert path.read_bytes() == BODY
  assert server.requests[-1]['Range'] == 'bytes=80000-'


def test_answer_without_length_is_taken_as_it_comes(server, tmp_path):
  server.length = False
  path = download.download(server.url, tmp_path / 'w.npz')
  assert path.read_bytes() == BODY


def test_answer_without_length_is_stopped_when_it_is_too_long(
  server, tmp_path, monkeypatch
):
  monkeypatch.setattr(download, '_CHUNK', 1000)
  server.length = False
  path = tmp_path / 'w.npz'
  message = 'has more than 110,[0-9]{3} bytes, expected about 100,000: '
  with pytest.raises(download.DownloadError, match=message):
    download.download(server.url, path, expected=100_000, tolerance=0.1)
  assert files(tmp_path) == []


@pytest.mark.parametrize(
  'page', [b'<!DOCTYPE html><html>', b'\xef\xbb\xbf\r\n <html>']
)
@pytest.mark.parametrize('length', [True, False])
def test_web_page_is_not_taken_for_the_file(server, tmp_path, page, length):
  """A hotel's login page, say, which comes with status 200."""
  server.body = page + bytes(500)
  server.tag, server.length = '"page"', length
  path = tmp_path / 'w.npz'
  part_of(path, 100_000)
  with pytest.raises(download.DownloadError, match='web page.*log in') as error:
    download.download(server.url, path)
  assert '\n' not in str(error.value)
  # What came before stays good.
  server.body, server.tag, server.length = BODY, '"one"', True
  download.download(server.url, path)
  assert path.read_bytes() == BODY
  assert server.requests[-1]['Range'] == 'bytes=100000-'


def test_part_that_is_longer_than_the_file_is_begun_anew(server, tmp_path):
  path = tmp_path / 'w.npz'
  part_of(path, 100_000)
  server.body = BODY[:50_000]  # under the same tag
  download.download(server.url, path)
  assert path.read_bytes() == BODY[:50_000]
  assert ['Range' in request for request in server.requests] == [True, False]


def test_broken_encryption_is_like_a_broken_connection(
  server, tmp_path, monkeypatch
):
  monkeypatch.setattr(download, '_CHUNK', 100_000)
  real, broken = http.client.HTTPResponse.read, []

  def read(answer, *args):
    if not broken and answer.length < 150_000:
      broken.append(answer)
      raise ssl.SSLError('bad record mac')
    return real(answer, *args)

  monkeypatch.setattr(http.client.HTTPResponse, 'read', read)
  path = download.download(server.url, tmp_path / 'w.npz')
  assert path.read_bytes() == BODY
  assert server.requests[-1]['Range'] == 'bytes=200000-'


@pytest.mark.parametrize('status', [404, 503])
def test_error_of_the_server_is_one_line_with_a_remedy(
  server, tmp_path, status
):
  server.status = status
  path = tmp_path / 'w.npz'
  with pytest.raises(download.DownloadError) as error:
    download.download(server.url, path)
  assert f'the server answers {status}' in str(error.value)
  assert f'put it at {path}' in str(error.value)
  assert '\n' not in str(error.value)
  assert files(tmp_path) == []


def test_no_network_says_where_to_put_the_file(server, tmp_path):
  server.server_close()  # nobody listens there any more
  path = tmp_path / 'w.npz'
  with pytest.raises(download.DownloadError) as error:
    download.download(server.url, path)
  assert str(error.value).startswith(f'cannot reach {server.url}: ')
  assert str(error.value).endswith(f'put it at {path}')
  assert '\n' not in str(error.value)


def test_file_of_another_size_is_not_downloaded(server, tmp_path):
  path = tmp_path / 'w.npz'
  with pytest.raises(
    download.DownloadError, match='has 300,000 bytes, expected 280,000'
  ):
    download.download(server.url, path, expected=280_000)
  assert files(tmp_path) == []
  # Published sizes are rounded.
  download.download(server.url, path, expected=280_000, tolerance=0.1)


def test_file_of_another_size_without_length_is_found_at_the_end(
  server, tmp_path
):
  server.length = False
  path = tmp_path / 'w.npz'
  with pytest.raises(download.DownloadError, match='expected 280,000'):
    download.download(server.url, path, expected=280_000)
  assert not path.exists()


def test_two_downloads_at_once_share_one(server, tmp_path):
  path = tmp_path / 'w.npz'
  threads = [
    threading.Thread(target=download.download, args=(server.url, path))
    for _ in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert path.read_bytes() == BODY
  assert len(server.requests) == 1
  assert files(tmp_path) == ['w.npz', 'w.npz.sha256']


def test_without_a_terminal_progress_is_plain_lines(server, tmp_path, capsys):
  path = tmp_path / 'w.npz'
  part_of(path, 100_000)
  download.download(server.url, path)
  lines = capsys.readouterr().err.splitlines()
  assert lines == [
    'w.npz: 0.1/0.3 MB, continues from there',
    'w.npz: 0.3/0.3 MB, 0 s',
  ]


def test_cache_is_chosen_by_the_environment(monkeypatch, tmp_path):
  monkeypatch.setenv('VIDSCENIC_CACHE', str(tmp_path))
  assert download.cache_folder() == tmp_path
  monkeypatch.delenv('VIDSCENIC_CACHE')
  monkeypatch.setenv('HOME', str(tmp_path))
  want = pathlib.Path(os.fspath(tmp_path), '.cache', 'vidscenic', 'weights')
  assert download.cache_folder() == want


def test_published_weights_go_to_the_cache(server, monkeypatch, tmp_path):
  monkeypatch.setenv('VIDSCENIC_CACHE', str(tmp_path))
  entry = published.find('rvm_small')._replace(
    url=server.url, file='mine.npz', size=310_000
  )
  path = download.fetch(entry)
  assert path == tmp_path / 'mine.npz'
  assert path.read_bytes() == BODY


def test_published_weights_of_unknown_size_have_two_bytes_per_parameter(
  server, monkeypatch, tmp_path
):
  """Half precision is the least that they are stored in."""
  monkeypatch.setenv('VIDSCENIC_CACHE', str(tmp_path))
  entry = published.find('rvm_small')._replace(url=server.url, size=None)
  small = entry._replace(file='small.npz', parameters=200_000)
  message = 'has 300,000 bytes, expected at least 360,000: another file'
  with pytest.raises(download.DownloadError, match=message):
    download.fetch(small)
  assert files(tmp_path) == []
  for file, parameters in {'half.npz': 150_000, 'any.npz': None}.items():
    path = download.fetch(entry._replace(file=file, parameters=parameters))
    assert path.read_bytes() == BODY
