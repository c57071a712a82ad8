"""How stored pictures are turned to be upright.

Phones store what their sensor sees, and a display matrix that tells players how
to turn it. FFmpeg hands the matrix out and turns nothing.
"""

from typing import NamedTuple

import av
import numpy as np

from vidscenic.data import containers, mp4_boxes, resize


class Turn(NamedTuple):
  """What makes a stored picture upright, in this order.

  Attributes:
    transposed: rows become columns.
    left_right: mirrors left and right.
    up_down: mirrors top and bottom.
  """

  transposed: bool = False
  left_right: bool = False
  up_down: bool = False

  def size(self, height: int, width: int) -> tuple[int, int]:
    """(height, width) upright of a stored size, and the other way round."""
    return (width, height) if self.transposed else (height, width)

  def apply(self, pixels: np.ndarray) -> np.ndarray:
    """Turns [H, W, C]; a view."""
    if self.transposed:
      pixels = pixels.swapaxes(0, 1)
    if self.left_right:
      pixels = pixels[:, ::-1]
    return pixels[::-1] if self.up_down else pixels

  def filters(self) -> list[tuple[str, str]]:
    """The same as (name, argument) of FFmpeg's filters."""
    # cclock_flip is the transpose that does nothing else.
    steps = ('transpose', 'cclock_flip'), ('hflip', ''), ('vflip', '')
    return [step for step, needed in zip(steps, self, strict=True) if needed]


def of_stream(container, stream, file: containers.File, name: str) -> Turn:
  """The turn that a container asks for; nothing is decoded.

  PyAV 18 knows that of mp4 and mov files only.

  Args:
    container, stream: opened from `file`.
    file: path, or the bytes of a file.
    name: what warnings and errors call it.

  Raises:
    VideoError: the file cannot be read.
  """
  context = stream.codec_context
  if hasattr(context, 'coded_side_data'):  # since PyAV 19
    return _from_bytes(context.coded_side_data.get('display_matrix'), name)
  if 'mov' not in container.format.name.split(','):
    return Turn()
  with containers.reading(name):
    matrix = mp4_boxes.display_matrix(file, stream.id)
  return Turn() if matrix is None else _from_matrix(matrix, name)


def of_frame(frame: av.VideoFrame, name: str) -> Turn:
  """The turn that a decoded frame carries."""
  return _from_bytes(frame.side_data.get('DISPLAYMATRIX'), name)


def to_rgb(
  frame: av.VideoFrame, turn: Turn, height: int, width: int, name: str
) -> np.ndarray:
  """uint8[height, width, 3], upright, of a decoded frame; see `resize.to_rgb`.

  Raises:
    VideoError: the frame cannot be converted.
  """
  if frame.rotation and not any(turn):
    containers.warn_once(
      'rotation',
      'frames of %s are flagged as rotated by %d degrees, its header is not; '
      'that is ignored. vidscenic.tools.prepare_videos makes an upright copy.',
      name,
      frame.rotation,
    )
  with containers.reading(name):
    picture = resize.to_rgb(frame, *turn.size(height, width))
  return turn.apply(picture)


def _from_bytes(matrix, name):
  if matrix is None:
    return Turn()
  numbers = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)
  return _from_matrix(numbers[:2, :2] / 65536, name)


def _from_matrix(matrix, name):
  """Of [[a, b], [c, d]]: (x, y) goes to (a x + c y, b x + d y)."""
  (a, b), (c, d) = np.where(abs(matrix) < 0.01 * abs(matrix).max(), 0, matrix)
  if a and d and not b and not c:
    return Turn(False, bool(a < 0), bool(d < 0))
  if b and c and not a and not d:
    return Turn(True, bool(c < 0), bool(b < 0))
  containers.warn_once(
    'display matrix',
    '%s is to be shown neither upright nor turned by 90, 180 or 270 degrees, '
    'but with the matrix %s; that is ignored.',
    name,
    matrix.tolist(),
  )
  return Turn()
