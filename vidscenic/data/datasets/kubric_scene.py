"""What a Kubric scene stores, field by field, and its camera.

Fields are named as TFDS stores them, nested names joined by '/'. Pictures are
their encoded bytes, numbers are arrays of any shape with the right count, as
`vidscenic.data.array_records.ArrayRecords` yields them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidscenic.data import decode, png16
from vidscenic.data.datasets import pictures

_MAX_UINT16 = 65535


class Camera(NamedTuple):
  """A pinhole camera in every frame, with Kubric's axes.

  Attributes:
    position: float64[T, 3], its centre in the world.
    rotation: float64[T, 3, 3], world from camera; it looks along -z, y is up.
    focal: (fx, fy), focal length in widths and in heights of the picture.
    size: (height, width) in pixels.
  """

  position: np.ndarray
  rotation: np.ndarray
  focal: tuple[float, float]
  size: tuple[int, int]

  def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points float[N, T, 3] -> ((x, y) raster pixels, z-depth).

    Where z is not positive the point is behind the camera and x, y mean
    nothing, but they are finite.
    """
    local = np.einsum('tji,ntj->nti', self.rotation, points - self.position)
    z = -local[..., 2]
    safe = np.where(np.abs(z) < 1e-6, 1e-6, z)
    height, width = self.size
    x = (local[..., 0] / safe * self.focal[0] + 0.5) * width
    y = (-local[..., 1] / safe * self.focal[1] + 0.5) * height
    return np.stack([x, y], axis=-1), z

  def rays(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit vectors float64[..., 3] in camera axes through raster positions."""
    height, width = self.size
    ray = np.stack(
      np.broadcast_arrays(
        (x / width - 0.5) / self.focal[0],
        -(y / height - 0.5) / self.focal[1],
        -1.0,
      ),
      axis=-1,
    )
    return ray / np.linalg.norm(ray, axis=-1, keepdims=True)


class Scene:
  """The stored fields of a scene.

  Every method raises a ValueError that names scene and field if a field is
  missing or has another size, and a VideoError if a picture is damaged.
  `frames` are the numbers of the n frames that are wanted.

  Attributes:
    name: what errors call it.
    num_frames: T.
    size: (height, width) of the pictures.
  """

  def __init__(self, record: Mapping[str, Any]):
    self._record = record
    name = record.get('metadata/video_name', record.get('path', 'MOVi scene'))
    self.name = name.decode() if isinstance(name, bytes) else str(name)
    self.num_frames, *size = (
      int(self.numbers(f'metadata/{name}', (1,))[0])
      for name in ('num_frames', 'height', 'width')
    )
    self.size = tuple(size)

  def field(self, name: str) -> Any:
    """A field as it is stored."""
    if name not in self._record:
      raise ValueError(
        f'{self.name}: the field {name} is missing, there are '
        f'{sorted(self._record)}'
      )
    return self._record[name]

  def numbers(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float64[shape] of a field that may be stored flat; one -1 is allowed."""
    values = np.asarray(self.field(name), np.float64)
    try:
      return values.reshape(shape)
    except ValueError as error:
      raise ValueError(
        f'{self.name}: {name} has {values.size} numbers, expected the shape '
        f'{list(shape)}'
      ) from error

  def images(self, name: str) -> Sequence[bytes]:
    """The encoded pictures of all T frames."""
    images = self.field(name)
    if len(images) != self.num_frames:
      raise ValueError(
        f'{self.name}: {name} has {len(images)} pictures, expected '
        f'{self.num_frames}'
      )
    return images

  def video(self, frames: Sequence[int]) -> np.ndarray:
    """uint8[n, H, W, 3]."""
    video = decode.read_images(
      self.images('video'), np.asarray(frames), name=f'{self.name}, video'
    )
    self._check_size('video', video.shape[1:3])
    return video

  def segments(self, frames: Sequence[int]) -> np.ndarray:
    """uint8[n, H, W]: instance index + 1, 0 is the background."""
    images = self.images('segmentations')
    names = [f'{self.name}, segmentations[{i}]' for i in frames]
    maps = pictures.read_label_maps([images[i] for i in frames], names)
    self._check_size('segmentations', maps.shape[1:3])
    return maps[..., 0]

  def images16(
    self, name: str, frames: Sequence[int], *, channels: int
  ) -> np.ndarray:
    """uint16[n, H, W, channels] of a field of 16-bit pictures."""
    images = self.images(name)
    out = np.empty((len(frames), *self.size, channels), np.uint16)
    for row, i in enumerate(frames):
      image = png16.read_png16(images[i], name=f'{self.name}, {name}[{i}]')
      self._check_size(name, image.shape[:2])
      if image.shape[2] != channels:
        raise ValueError(
          f'{self.name}: {name} has {image.shape[2]} channels, expected '
          f'{channels}'
        )
      out[row] = image
    return out

  def distance(self, frames: Sequence[int]) -> np.ndarray:
    """float32[n, H, W]: from the camera's centre to each pixel's surface."""
    depth = self.images16('depth', frames, channels=1)[..., 0]
    return self.unpack('depth', depth)

  def unpack(self, name: str, values: np.ndarray) -> np.ndarray:
    """uint16 -> float32 between the two limits that the scene stores."""
    low, high = self.numbers(f'metadata/{name}_range', (2,))
    scale = (high - low) / _MAX_UINT16
    return (low + values * scale).astype(np.float32)

  def camera(self, frames: Sequence[int]) -> Camera:
    """The camera in the given frames."""
    chosen = list(frames)
    (focal_length,) = self.numbers('camera/focal_length', (1,))
    (sensor_width,) = self.numbers('camera/sensor_width', (1,))
    fx = float(focal_length / sensor_width)
    positions = self.numbers('camera/positions', (self.num_frames, 3))
    quaternions = self.numbers('camera/quaternions', (self.num_frames, 4))
    return Camera(
      positions[chosen],
      rotations(quaternions[chosen]),
      # Pixels are square. The reader published with the point tracks has the
      # inverse ratio, which is the same for MOVi's square pictures.
      (fx, fx * self.size[1] / self.size[0]),
      self.size,
    )

  def _check_size(self, name, size):
    if tuple(size) != self.size:
      raise ValueError(
        f'{self.name}: {name} has pictures of {tuple(size)}, metadata say '
        f'{self.size}'
      )


def rotations(quaternions: np.ndarray) -> np.ndarray:
  """Quaternions float[..., 4] as (w, x, y, z) -> matrices float[..., 3, 3]."""
  q = quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)
  w, x, y, z = np.moveaxis(q, -1, 0)
  matrix = [
    [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
    [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
    [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
  ]
  return np.moveaxis(np.array(matrix), (0, 1), (-2, -1))
