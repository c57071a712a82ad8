"""Files that hold optical flow: Middlebury .flo and KITTI's 16-bit PNG.

Flow is (dx, dy) in pixels, float32[H, W, 2], from a pixel to where its surface
point is in the next frame.
"""

import os

import numpy as np

from vidscenic.data import containers, png16

# 'PIEH' read as a little-endian float.
_MAGIC = 202021.25
_HEADER_BYTES = 12
# Larger values stand for 'not known' (Middlebury's convention).
_UNKNOWN = 1e9
# 400 million pixels: no camera gives more, and a broken header might.
_MAX_PIXELS = 400_000_000


def read_flo(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
  """Reads a .flo file.

  Returns:
    (flow float32[H, W, 2], known bool[H, W]); flow is zero where it is not
    known.

  Raises:
    VideoError: no such file, no .flo file, or one of another length than its
      header says.
  """
  path = os.fspath(path)
  try:
    with open(path, 'rb') as f:
      header = f.read(_HEADER_BYTES)
      length = os.fstat(f.fileno()).st_size - _HEADER_BYTES
      width, height = _size(header, length, path)
      values = np.fromfile(f, '<f4', 2 * width * height)
  except OSError as error:
    raise containers.VideoError(path, containers.describe(error)) from error
  flow = values.astype(np.float32).reshape(height, width, 2)
  known = (np.abs(flow) <= _UNKNOWN).all(-1)  # False for NaN, too
  return np.where(known[..., None], flow, np.float32(0)), known


def write_flo(
  path: str | os.PathLike, flow: np.ndarray, known: np.ndarray | None = None
):
  """Writes a .flo file.

  Args:
    path: file to write.
    flow: float[H, W, 2], finite where known.
    known: bool[H, W]; None: everywhere.

  Raises:
    ValueError: another shape, or flow that the format cannot tell from
      'unknown'.
  """
  flow = np.array(flow, '<f4')
  if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size:
    raise ValueError(f'flow must be float[H, W, 2], got {list(flow.shape)}')
  if known is not None:
    if np.shape(known) != flow.shape[:2]:
      raise ValueError(
        f'known must be bool{list(flow.shape[:2])}, got {list(np.shape(known))}'
      )
    flow[~np.asarray(known, bool)] = 2 * _UNKNOWN
  written = flow if known is None else flow[np.asarray(known, bool)]
  if not (np.abs(written) <= _UNKNOWN).all():
    raise ValueError(f'known flow must be finite and at most {_UNKNOWN:g}')
  height, width = flow.shape[:2]
  with open(path, 'wb') as f:
    f.write(np.array(_MAGIC, '<f4').tobytes())
    f.write(np.array([width, height], '<i4').tobytes())
    f.write(flow.tobytes())


def read_kitti_flow(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
  """Reads KITTI's flow PNG: (value - 2^15) / 64, third channel = valid.

  Returns:
    (flow float32[H, W, 2], known bool[H, W]); flow is zero where it is not
    known.

  Raises:
    VideoError: no such file, or no 16-bit RGB PNG.
  """
  image = png16.read_png16(path)
  if image.shape[2] != 3:
    raise containers.VideoError(
      os.fspath(path), f'KITTI flow has 3 channels, got {image.shape[2]}'
    )
  known = image[..., 2] > 0
  flow = (image[..., :2].astype(np.float32) - 32768) / 64
  return np.where(known[..., None], flow, np.float32(0)), known


def _size(header, length, path):
  """(width, height) if header and length of the file agree."""
  if len(header) < _HEADER_BYTES or np.frombuffer(header, '<f4')[0] != _MAGIC:
    raise containers.VideoError(path, 'not a .flo file (no PIEH at its start)')
  width, height = np.frombuffer(header, '<i4', 2, 4).tolist()
  if width < 1 or height < 1 or width * height > _MAX_PIXELS:
    raise containers.VideoError(path, f'absurd size: {width} x {height}')
  if length != 8 * width * height:
    raise containers.VideoError(
      path,
      f'{length} bytes of flow, {width} x {height} pixels need '
      f'{8 * width * height}',
    )
  return width, height
