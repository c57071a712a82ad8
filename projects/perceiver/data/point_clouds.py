"""ModelNet40 (arXiv 1406.5670): shapes of 40 classes as point clouds."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vidscenic.data import containers
from vidscenic.data.datasets import tables

SPLITS = ('train', 'test')
_HINT = (
  'ModelNet40.zip, free for research from https://modelnet.cs.princeton.edu, '
  'unpacks to <class>/{train,test}/<class>_NNNN.off'
)
_MAX_COUNT = 20_000_000  # no shape has more; a broken header might


class ModelNet40:
  """Meshes as records; 9,843 to train, 2,468 to test.

  A record: vertices float32[V, 3], faces int32[F, 3], label int32 (classes in
  the order of their names) and path. Evaluation in the literature: accuracy.

  Args:
    root: folder with a subfolder for each class.
    split: 'train' or 'test'.

  Raises:
    FileNotFoundError: no folder or no file; says where the data come from.
    ValueError: an unknown split.
  """

  def __init__(self, root: str, split: str = 'train'):
    if split not in SPLITS:
      raise ValueError(f'split={split!r}: want one of {SPLITS}')
    tables.require_folder(root, _HINT)
    self._root = root
    self.class_names = tuple(
      name
      for name in sorted(os.listdir(root))
      if os.path.isdir(os.path.join(root, name, split))
    )
    self._files = [
      (os.path.join(name, split, file), label)
      for label, name in enumerate(self.class_names)
      for file in sorted(os.listdir(os.path.join(root, name, split)))
      if file.endswith('.off')
    ]
    if not self._files:
      raise tables.missing(
        os.path.join(root, '<class>', split, '<class>_NNNN.off'), _HINT
      )

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Record `index`.

    Raises:
      VideoError: the file cannot be read; names it.
    """
    path, label = self._files[index]
    vertices, faces = read_off(os.path.join(self._root, path))
    return {
      'vertices': vertices,
      'faces': faces,
      'label': np.int32(label),
      'path': path,
    }


def read_off(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
  """Reads an OFF file of triangles.

  Some files of ModelNet40 have the counts on the first line, right behind
  'OFF'.

  Returns:
    (vertices float32[V, 3], faces int32[F, 3]).

  Raises:
    VideoError: no such file, or no mesh of triangles.
  """
  path = os.fspath(path)
  try:
    with open(path, encoding='ascii') as f:
      text = f.read()
  except (OSError, UnicodeDecodeError) as error:
    raise containers.VideoError(path, containers.describe(error)) from error
  match = re.match(r'\s*OFF\s*(\d+)\s+(\d+)\s+\d+\s', text)
  if match is None:
    raise containers.VideoError(path, 'no OFF file: want OFF and three counts')
  num_vertices, num_faces = int(match[1]), int(match[2])
  if not 1 <= num_vertices <= _MAX_COUNT or not 1 <= num_faces <= _MAX_COUNT:
    raise containers.VideoError(
      path, f'absurd counts: {num_vertices} vertices, {num_faces} faces'
    )
  try:
    values = np.array(text[match.end() :].split(), np.float64)
  except ValueError as error:
    raise containers.VideoError(path, f'not a number: {error}') from error
  need = 3 * num_vertices + 4 * num_faces
  if len(values) < need:
    raise containers.VideoError(
      path, f'{len(values)} numbers, {need} are needed'
    )
  vertices = values[: 3 * num_vertices].reshape(-1, 3).astype(np.float32)
  faces = values[3 * num_vertices : need].reshape(-1, 4)
  corners = faces[:, 1:].astype(np.int32)
  if (faces[:, 0] != 3).any():
    raise containers.VideoError(path, 'a face is no triangle')
  if corners.min() < 0 or corners.max() >= num_vertices:
    raise containers.VideoError(path, 'a face names a vertex that is not there')
  return vertices, corners


class PointTransform:
  """Meshes to point clouds, as the Perceiver (arXiv 2103.03206) has them.

  Points are drawn on the surface, by area; they are centred at zero, each is
  scaled by a random factor in training, and the cloud is scaled into [-1, 1].

  Args:
    num_points: of a cloud; the paper has about 2000.
    train: random factors.
    scale: their range.
  """

  def __init__(
    self,
    num_points: int = 2048,
    train: bool = True,
    scale: tuple[float, float] = (0.99, 1.01),
  ):
    if num_points < 1 or not 0 < scale[0] <= scale[1]:
      raise ValueError(
        f'num_points={num_points}, scale={scale}: want 1 or more, 0 < low <= '
        'high'
      )
    self._num_points, self._train, self._scale = num_points, train, scale

  def sample(
    self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Draws points; in evaluation the same ones for a mesh every time."""
    rng = rng if self._train else np.random.default_rng(0)
    points = draw_points(
      record['vertices'], record['faces'], self._num_points, rng
    )
    return {'points': points, 'label': record['label']}

  def augment(
    self, clip: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Centres and scales."""
    points = clip['points'] - clip['points'].mean(axis=0)
    if self._train:
      points = points * rng.uniform(*self._scale, (len(points), 1))
    largest = np.abs(points).max()
    points = points / largest if largest > 0 else points
    return {**clip, 'points': points.astype(np.float32)}


def draw_points(
  vertices: np.ndarray,
  faces: np.ndarray,
  count: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Points on the triangles of a mesh, uniform over its area.

  Args:
    vertices: float[V, 3].
    faces: int[F, 3].
    count: of points.
    rng: numpy generator.

  Returns:
    float32[count, 3].
  """
  a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
  area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
  total = area.sum()
  weights = area / total if total > 0 else np.full(len(area), 1 / len(area))
  chosen = rng.choice(len(faces), count, p=weights)
  # The root makes the density uniform over a triangle.
  u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
  points = (1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen]
  return points.astype(np.float32)
