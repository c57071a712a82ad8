"""Reads back what writers and reports have written."""

import json
import pathlib

import numpy as np
from tensorboard.backend.event_processing import (
  event_file_loader,
  plugin_event_accumulator,
)
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util


def video(frames=5, height=12, width=20, seed=0):
  """Returns uint8[frames, height, width, 3] of noise."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


def events(folder):
  """Returns every event of a folder, in the order of its files."""
  found = []
  for path in sorted(pathlib.Path(folder).glob('*tfevents*')):
    for raw in event_file_loader.RawEventFileLoader(str(path)).Load():
      found.append(event_pb2.Event.FromString(raw))
  return found


def shown(folder, tag):
  """(step, value) pairs that TensorBoard shows."""
  accumulator = plugin_event_accumulator.EventAccumulator(str(folder))
  accumulator.Reload()
  return [
    (e.step, tensor_util.make_ndarray(e.tensor_proto).item())
    for e in accumulator.Tensors(tag)
  ]


def rows(path):
  """Returns the rows of a JSON-lines file."""
  return [json.loads(line) for line in pathlib.Path(path).open()]
