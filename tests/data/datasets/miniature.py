"""Folders that imitate data sets: real names, a few empty files."""

import pathlib


def write(root, name, text, *, newline='\n'):
  """Writes a text file below root and returns its path."""
  path = pathlib.Path(root, name)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.replace('\n', newline).encode())
  return path


def touch(root, *names):
  """Makes empty files: a reader must not open them when it is built."""
  for name in names:
    write(root, name, '')


def paths(source):
  return [source[i]['path'] for i in range(len(source))]


def labels(source):
  return [int(source[i]['label']) for i in range(len(source))]


def classes(source):
  return [source.class_names[i] for i in labels(source)]
