"""Folders, lists and manifests of videos as random-access sources.

A source only lists: no video is opened before a clip is sampled from it.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from vidscenic.data import containers, video_index, video_lists

EXTENSIONS = (
  '.mp4',
  '.webm',
  '.avi',
  '.mkv',
  '.mov',
  '.m4v',
  '.mpg',
  '.mpeg',
  '.ts',
)
MANIFEST = 'manifest.jsonl'


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFile:
  """A video that has not been opened.

  Attributes:
    path: of the file, or what errors call `data`.
    data: the bytes of the file, None if it lies at `path`.
  """

  path: str
  data: bytes | None = dataclasses.field(default=None, repr=False)

  @property
  def file(self) -> containers.File:
    """What the decoder opens: the bytes, else the path."""
    return self.path if self.data is None else self.data

  def index(self) -> video_index.VideoIndex:
    """The exact frame index.

    Raises:
      VideoError: the file cannot be read.
    """
    return video_index.index_video(self.file, name=self.path)


class VideoFolder:
  """Videos of a folder, a list file or a JSON-lines manifest.

  Layouts, in the order in which they are recognised:
    manifest: `list_file` (or `path` itself) ends in .jsonl, or `path` holds a
      `manifest.jsonl` as `tools/prepare_videos` writes it. One JSON object per
      line: path, num_frames, fps, height, width, label?, split?, audio_rate?;
      a first line without `path` is a header. Labels are all integers or all
      names; names become ids in sorted order over all splits.
    one video: `path` is a video file.
    list: `list_file` (or `path` itself) is another file. Lines `path label`
      separated by white space, else by `::`; empty lines and lines that begin
      with `#` (and name no video) are skipped.
    folder: every video below `path`. If all lie in subfolders, the subfolders'
      sorted names are the classes, empty ones included; else there are no
      labels. `split` names a subfolder to descend into first.

  Folders are ordered by relative path, lists and manifests by relative path
  too, equal paths in file order, so that the order does not depend on the
  file system. Hidden files and folders are ignored. Instances pickle.

  Args:
    path: folder with the videos, or a list or manifest (whose folder then holds
      the videos).
    list_file: list or manifest, relative to `path` or absolute.
    prefix: folder that paths in a list are relative to; `path` if empty.
    split: only videos of this split (folder and manifest layouts).
    extensions: of video files, in any case; for the folder layout.
    labels: 'auto', or 'none' to give no labels; a list then holds one path per
      line, which may contain spaces.
    class_names: fixes the class ids; a name outside it is an error.
    min_frames: skip videos that a manifest says are shorter.

  Attributes:
    class_names: tuple of names, () if labels are numbers or absent.

  Raises:
    ValueError: an argument or a line of a list is wrong; the message names the
      field, or the file and line.
    FileNotFoundError: path or list does not exist, or no video is found.
  """

  def __init__(
    self,
    path: str = '',
    list_file: str = '',
    *,
    prefix: str = '',
    split: str = '',
    extensions: Sequence[str] = EXTENSIONS,
    labels: str = 'auto',
    class_names: Sequence[str] = (),
    min_frames: int = 0,
  ):
    if labels not in ('auto', 'none'):
      raise ValueError(
        f"source_kwargs.labels must be 'auto' or 'none', got {labels!r}"
      )
    self._path = os.path.abspath(_existing(path))
    if isinstance(extensions, str):
      extensions = (extensions,)
    self._extensions = tuple(_dotted(e) for e in extensions)
    if os.path.isfile(self._path):
      list_file, root = self._path, os.path.dirname(self._path)
    else:
      list_file, root = self._find_list(list_file), self._path
    root = os.path.join(root, prefix)
    if list_file.endswith('.jsonl'):
      entries, names = video_lists.read_manifest(
        list_file, with_labels=labels == 'auto', class_names=class_names
      )
      entries = _filtered(entries, list_file, split, min_frames)
    else:
      if min_frames:
        raise ValueError(
          f'source_kwargs.min_frames={min_frames} needs a manifest that knows '
          'the number of frames; write one with vidscenic.tools.prepare_videos'
        )
      if list_file:
        if split:
          raise ValueError(
            f'source_kwargs.split={split!r}: the list {list_file} has no '
            'splits; name the list of that split in list_file'
          )
        entries = self._read_list(list_file, labels == 'auto')
        names = tuple(class_names)
      else:
        root = self._split_folder(root, split)
        entries, names = video_lists.scan_folder(
          root,
          self._extensions,
          with_labels=labels == 'auto',
          class_names=class_names,
        )
    if not entries:
      raise FileNotFoundError(
        f'source_kwargs.path={path!r}: no video in {list_file or root}'
        + ('' if list_file else f' (looked for {", ".join(self._extensions)})')
        + (f' for split={split!r}' if split else '')
        + (f' with min_frames={min_frames}' if min_frames else '')
      )
    self._root = root
    self._entries = sorted(entries, key=lambda entry: entry.path)
    self.class_names = names
    logging.info(
      '%d videos%s from %s',
      len(entries),
      f' of {len(names)} classes' if names else '',
      list_file or root,
    )

  def __len__(self) -> int:
    return len(self._entries)

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """One record.

    Returns:
      dict(video=VideoFile, path=str relative to the folder, and label=np.int32
      if there are labels).

    Raises:
      IndexError: index outside [-len, len).
    """
    entry = self._entries[index]
    record = {
      'video': VideoFile(os.path.join(self._root, entry.path)),
      'path': entry.path,
    }
    if entry.label is not None:
      record['label'] = np.int32(entry.label)
    return record

  def __repr__(self):
    return f'VideoFolder({self._path!r}, {len(self)} videos)'

  def _find_list(self, list_file):
    if list_file:
      found = os.path.join(self._path, list_file)
      if not os.path.isfile(found):
        raise FileNotFoundError(
          f'source_kwargs.list_file={list_file!r}: no file {found}'
        )
      return found
    manifest = os.path.join(self._path, MANIFEST)
    return manifest if os.path.isfile(manifest) else ''

  def _read_list(self, list_file, with_labels):
    if list_file.lower().endswith(self._extensions):  # `path` is one video
      return [video_lists.Entry(os.path.basename(list_file))]
    return video_lists.read_list(
      list_file, with_labels=with_labels, extensions=self._extensions
    )

  def _split_folder(self, root, split):
    folder = os.path.join(root, split)
    if not os.path.isdir(folder):
      raise FileNotFoundError(
        f'source_kwargs.split={split!r}: no folder {folder}'
      )
    return folder


def _existing(path):
  if not path:
    raise ValueError(
      "source_kwargs.path='' is empty: name the folder, list or manifest of "
      'the videos'
    )
  if not os.path.exists(path):
    raise FileNotFoundError(f'source_kwargs.path={path!r} does not exist')
  return path


def _dotted(extension):
  extension = extension.lower()
  return extension if extension.startswith('.') else '.' + extension


def _filtered(entries, list_file, split, min_frames):
  if split:
    splits = sorted({entry.split for entry in entries if entry.split})
    if split not in splits:
      raise ValueError(
        f'source_kwargs.split={split!r}: {list_file} has the splits {splits}'
      )
    entries = [entry for entry in entries if entry.split == split]
  if min_frames:
    entries = [entry for entry in entries if entry.num_frames >= min_frames]
  return entries
