"""Annotation files: what is accepted, and errors that name file and line."""

import pytest

from tests.data.datasets import miniature
from vidscenic.data.datasets import tables

HINT = 'the list, from https://example.org'


def rows(read):
  """What a parser yields, line numbers instead of places."""
  return [(int(where.rpartition(' ')[2]), row) for where, row in read]


def test_missing_files_and_folders_name_their_origin(tmp_path):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'file').touch()
  assert tables.require_file(tmp_path / 'file', HINT) == f'{tmp_path}/file'
  assert tables.require_folder(tmp_path / 'folder', HINT)
  for read in (
    lambda path: tables.require_file(path / 'folder', HINT),
    lambda path: tables.require_folder(path / 'file', HINT),
    lambda path: list(tables.read_lines(path / 'no', HINT)),
    lambda path: list(tables.read_columns(path / 'no', ['a'], HINT)),
    lambda path: list(tables.read_csv(path / 'no', ['a'], HINT)),
    lambda path: tables.read_json(path / 'no', HINT),
  ):
    with pytest.raises(FileNotFoundError, match='missing: the list, from http'):
      read(tmp_path)


@pytest.mark.parametrize('newline', ['\n', '\r\n', '\r'])
def test_lines_of_any_system_keep_their_numbers(tmp_path, newline):
  text = '\ufeffa b\n\n# no\n  c\t\n'
  path = miniature.write(tmp_path, 'list.txt', text, newline=newline)
  got = rows(tables.read_lines(path, HINT, comment='#'))
  assert got == [(1, 'a b'), (4, 'c')]


def test_names_that_are_not_utf8_survive(tmp_path):
  path = tmp_path / 'list.txt'
  path.write_bytes(b'caf\xe9.avi\n')
  ((_, name),) = rows(tables.read_lines(path, HINT))
  assert name.encode(errors='surrogateescape') == b'caf\xe9.avi'


@pytest.mark.parametrize('text', ['', '\n \n', '# only comments\n'])
def test_empty_files_are_errors(tmp_path, text):
  path = miniature.write(tmp_path, 'list', text)
  for read in (tables.read_lines, tables.read_rows):
    with pytest.raises(ValueError, match='list has no entries: the list, from'):
      list(read(path, HINT, comment='#'))


def test_columns_are_counted(tmp_path):
  path = miniature.write(tmp_path, 'list', 'a.avi 1\nb.avi\t 2 \n\nc.avi 1 2\n')
  read = tables.read_columns(path, ['video', 'part'], HINT)
  assert [next(read)[1], next(read)[1]] == [['a.avi', '1'], ['b.avi', '2']]
  with pytest.raises(ValueError, match=r'line 4: expected 2 .*\(video part\)'):
    next(read)


def test_last_columns_can_be_optional(tmp_path):
  path = miniature.write(tmp_path, 'list', 'a 1\nb\n')
  got = rows(tables.read_columns(path, ['video', 'id'], HINT, optional=1))
  assert got == [(1, ['a', '1']), (2, ['b'])]


@pytest.mark.parametrize('newline', ['\n', '\r\n', '\r'])
def test_csv_with_a_header(tmp_path, newline):
  path = miniature.write(
    tmp_path,
    'a.csv',
    '\ufeffid, label ,more\n\n1, "x, y",\n2,z,0\n',
    newline=newline,
  )
  got = rows(tables.read_csv(path, ['label', 'id'], HINT))
  assert got == [
    (3, {'id': '1', 'label': 'x, y', 'more': ''}),
    (4, {'id': '2', 'label': 'z', 'more': '0'}),
  ]


def test_csv_without_a_header(tmp_path):
  text = '# one\n# two\n-id, 0.000, "/m/1,/m/2"\n'
  path = miniature.write(tmp_path, 'a.csv', text)
  columns = ['id', 'start', 'labels']
  got = rows(tables.read_csv(path, columns, HINT, header=False, comment='#'))
  want = {'id': '-id', 'start': '0.000', 'labels': '/m/1,/m/2'}
  assert got == [(3, want)]


@pytest.mark.parametrize(
  ('text', 'match'),
  [
    ('id,name\n1,a\n', r'line 1: expected a header .*id,label, got .id,name'),
    ('id,label,id\n1,a,2\n', r'line 1: expected a header'),
    ('id,label\n1,a\n\n2\n', r'line 4: expected 2 fields \(id,label\), got 1'),
    ('id,label\n1,a,b\n', r'line 2: expected 2 fields .*, got 3: .1,a,b'),
    ('id,label\n1,a\n2,"b\n3,c\n', r'line 3: not a csv row'),
    ('id,label\n', r'has no entries: the list'),
  ],
)
def test_bad_csv_lines_are_named(tmp_path, text, match):
  path = miniature.write(tmp_path, 'a.csv', text)
  with pytest.raises(ValueError, match=match) as error:
    list(tables.read_csv(path, ['id', 'label'], HINT))
  assert str(error.value).startswith(str(path))


def test_json_errors_name_the_line_or_the_key(tmp_path):
  path = miniature.write(tmp_path, 'a.json', '{"a": [1, {"b": null}]}')
  assert tables.read_json(path, HINT) == {'a': [1, {'b': None}]}
  miniature.write(tmp_path, 'a.json', '[1,\n2,,\n3]')
  with pytest.raises(ValueError, match=r'a.json, line 2: not JSON \(Expecting'):
    tables.read_json(path, HINT)
  miniature.write(tmp_path, 'a.json', '{"a": 1, "b": 2, "a": 3}')
  with pytest.raises(ValueError, match="a.json: the key 'a' is there twice"):
    tables.read_json(path, HINT)
  miniature.write(tmp_path, 'a.json', '[' * 100_000)
  with pytest.raises(ValueError, match='a.json: maximum recursion'):
    tables.read_json(path, HINT)


def test_numbers():
  assert tables.number('-1.5', 'x', 'start') == -1.5
  assert tables.integer('12.0', 'x', 'start') == 12
  for text in ('', 'one', 'nan', 'inf'):
    with pytest.raises(ValueError, match='f, line 2: start must be a number'):
      tables.number(text, 'f, line 2', 'start')
  with pytest.raises(ValueError, match='must be a whole number, got .1.5'):
    tables.integer('1.5', 'f, line 2', 'start')


def test_repetitions_name_both_places():
  unique = tables.Unique('video')
  unique.add('a', 'f, line 1')
  unique.add('b', 'f, line 2')
  assert not unique.repeats('c', 'f, line 3')
  want = "f, line 9: video 'b' is listed twice, first in f, line 2"
  assert unique.repeats('b', 'f, line 9') == want
  with pytest.raises(ValueError, match=want):
    unique.add('b', 'f, line 9')


def test_unknown_classes_suggest_a_known_one():
  ids = {'abseiling': 0, 'yoga': 1}
  assert tables.class_id(ids, 'yoga', 'f, line 1') == 1
  with pytest.raises(ValueError, match="line 1: unknown class .*'abseiling'"):
    tables.class_id(ids, 'absailing', 'f, line 1')
  with pytest.raises(ValueError, match=r"unknown class '' \(of 2 classes\)"):
    tables.class_id(ids, '', 'f, line 1')
