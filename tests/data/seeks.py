"""Which keyframes the decoder seeks."""

from vidscenic.data import decode


def spy(monkeypatch):
  """A list that fills with the numbers of the keyframes that are sought."""
  keys = []
  original = decode._read_from_key
  monkeypatch.setattr(
    decode,
    '_read_from_key',
    lambda *args: keys.append(args[3]) or original(*args),
  )
  return keys
