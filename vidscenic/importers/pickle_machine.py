"""A pickle reader that can only build data.

Python's own unpickler is a machine that calls what the file names. Replacing
its `find_class` stops the calls, but not everything: seen with the C unpickler
of Python 3.11, a tuple nested a million times and used as a key crashes the
interpreter, and one that holds itself twice, 60 times over, is hashed for
ever. This machine knows the opcodes of protocols 2 to 5 that data needs,
imports nothing, and hands every class, function and stored state to
`pickle_values`, which makes inert values out of the few that it knows. Keys
are strings and small integers only.

The opcodes are described in `pickletools` of the standard library.
"""

import pickle
import struct

from vidscenic.importers import pickle_values, raw_arrays

# A weight file needs about twenty opcodes per array.
MAX_OPCODES = 1_000_000
_MAX_INTEGER_BYTES = 128
_SMALL_BYTES = 256
# Integer keys are indices; large ones could be made to collide in a dict.
_MAX_KEY = 2**31


def load(data, values: pickle_values.Values):
  """Reads one pickle that fills `data` completely.

  Args:
    data: bytes-like; byte strings and pictures in the result are views of it.
    values: what classes and functions stand for; errors use its file name.

  Returns:
    None, bool, int, float, str, bytes, tuple, list, dict and what `values`
    makes, without cycles and at most pickle_values.MAX_DEPTH deep.

  Raises:
    BadFile: no pickle, damaged, or absurd.
    UnsafeFile: it names something that is not allowed.
  """
  return values.finish(_Machine(memoryview(data).cast('B'), values).run())


class _Machine:
  """Stack, marks and memo; what is on the stack never gets called."""

  def __init__(self, data, values):
    self._data = data
    self._values = values
    self._position = 0
    self._stack = []
    self._marks = []
    self._memo = {}

  def run(self):
    for _ in range(MAX_OPCODES):
      opcode = bytes(self._take(1))
      if opcode == pickle.STOP:
        return self._end()
      if opcode not in _ACTIONS:
        raise self._bad(
          f'opcode {opcode!r} is not used by data in pickle protocols 2 to 5'
        )
      action, *arguments = _ACTIONS[opcode]
      action(self, *arguments)
    raise self._bad(f'more than {MAX_OPCODES} steps: no weights, no data set')

  # Literals.

  def _take(self, size):
    if size > len(self._data) - self._position:
      raise self._bad('truncated or damaged pickle')
    self._position += size
    return self._data[self._position - size : self._position]

  def _unsigned(self, size):
    return int.from_bytes(self._take(size), 'little')

  def _bytes(self, width):
    raw = self._take(self._unsigned(width))
    # A view of few bytes would take more memory than the bytes.
    self._stack.append(raw if len(raw) > _SMALL_BYTES else bytes(raw))

  def _text(self, width):
    raw = self._take(self._unsigned(width))
    try:
      self._stack.append(str(raw, 'utf-8', 'surrogatepass'))
    except UnicodeDecodeError as error:
      raise self._bad('text that is not UTF-8') from error

  def _small_integer(self, width):
    self._stack.append(self._unsigned(width))

  def _integer(self):
    self._stack.append(int.from_bytes(self._take(4), 'little', signed=True))

  def _long_integer(self, width):
    size = self._unsigned(width)
    if size > _MAX_INTEGER_BYTES:
      raise self._bad(f'an integer of {size} bytes')
    raw = self._take(size)
    self._stack.append(int.from_bytes(raw, 'little', signed=True))

  def _float(self):
    self._stack.append(struct.unpack('>d', self._take(8))[0])

  def _constant(self, value):
    self._stack.append(value)

  def _line(self):
    """Text up to a line end, as module and class names are written."""
    window = bytes(self._data[self._position : self._position + 256])
    line, end, _ = window.partition(b'\n')
    if not end:
      raise self._bad('a name of more than 255 letters')
    self._position += len(line) + 1
    try:
      return line.decode('utf-8')
    except UnicodeDecodeError as error:
      raise self._bad('text that is not UTF-8') from error

  # Stack and memo. A mark is the height of the stack that it protects.

  def _pop(self, count):
    if len(self._stack) - count < (self._marks[-1] if self._marks else 0):
      raise self._bad('damaged pickle: too little on the stack')
    items = self._stack[len(self._stack) - count :]
    del self._stack[len(self._stack) - count :]
    return items

  def _pop_mark(self):
    if not self._marks:
      raise self._bad('damaged pickle: no mark on the stack')
    items = self._pop(len(self._stack) - self._marks[-1])
    self._marks.pop()
    return items

  def _top(self, kind=None):
    [item] = self._pop(1)
    self._stack.append(item)
    if kind and not isinstance(item, kind):
      raise self._bad(f'damaged pickle: no {kind.__name__} to put things in')
    return item

  def _mark(self):
    self._marks.append(len(self._stack))

  def _drop(self):
    # Python's unpickler also takes a mark away with this opcode; no pickler
    # writes that.
    self._pop(1)

  def _repeat(self):
    self._stack.append(self._top())

  def _put(self, width):
    self._memo[self._unsigned(width)] = self._top()

  def _get(self, width):
    index = self._unsigned(width)
    if index not in self._memo:
      raise self._bad(f'damaged pickle: nothing was kept as {index}')
    self._stack.append(self._memo[index])

  def _memoize(self):
    self._memo[len(self._memo)] = self._top()

  def _protocol(self):
    number = self._unsigned(1)
    if not 2 <= number <= pickle.HIGHEST_PROTOCOL:
      raise self._bad(f'pickle protocol {number}; 2 to 5 are read')

  def _frame(self):
    if self._unsigned(8) > len(self._data) - self._position:
      raise self._bad('truncated or damaged pickle')

  def _end(self):
    rest = len(self._data) - self._position
    [result] = self._pop(1)
    if self._stack or self._marks:
      raise self._bad('damaged pickle: several values are left at its end')
    if rest:
      raise self._bad(f'{rest} bytes follow the end of the pickle')
    return result

  # Containers.

  def _tuple(self):
    self._stack.append(tuple(self._pop_mark()))

  def _short_tuple(self, count):
    self._stack.append(tuple(self._pop(count)))

  def _list(self):
    self._stack.append(self._pop_mark())

  def _empty_list(self):
    self._stack.append([])

  def _empty_dict(self):
    self._stack.append({})

  def _dict(self):
    pairs = self._pop_mark()
    self._stack.append({})
    self._set(pairs)

  def _append(self):
    items = self._pop(1)
    self._top(list).extend(items)

  def _appends(self):
    items = self._pop_mark()
    self._top(list).extend(items)

  def _set_item(self):
    self._set(self._pop(2))

  def _set_items(self):
    self._set(self._pop_mark())

  def _set(self, pairs):
    target = self._top(dict)
    if len(pairs) % 2:
      raise self._bad('damaged pickle: a key without a value')
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
      small = type(key) is int and -_MAX_KEY < key < _MAX_KEY
      if type(key) is not str and not small:
        raise self._bad(
          f'a key of type {type(key).__name__}; keys are strings and small '
          'integers'
        )
      if key in target:
        raise self._bad(f'the key {key!r:.80} comes twice')
      target[key] = value

  # Classes and functions: names only, never the things themselves.

  def _global(self):
    module = self._line()
    self._stack.append(self._values.find(module, self._line()))

  def _stack_global(self):
    module, name = self._pop(2)
    if type(module) is not str or type(name) is not str:
      raise self._bad('damaged pickle: a class name that is no text')
    self._stack.append(self._values.find(module, name))

  def _instance(self):
    module, name = self._line(), self._line()
    raise self._unsafe(f'{module}.{name}')

  def _extension(self, width):
    code = self._unsigned(width)
    raise self._unsafe(f'extension code {code} of the copyreg registry')

  def _object(self):
    raise self._unsafe('an instance of a class of protocol 1')

  def _reduce(self):
    function, arguments = self._pop(2)
    if type(arguments) is not tuple:
      raise self._bad('damaged pickle: arguments that are no tuple')
    self._stack.append(self._values.call(function, arguments))

  def _new(self):
    kind, arguments = self._pop(2)
    if type(arguments) is not tuple:
      raise self._bad('damaged pickle: arguments that are no tuple')
    self._stack.append(self._values.new(kind, arguments))

  def _build(self):
    [state] = self._pop(1)
    self._values.build(self._top(), state)

  def _persistent(self):
    [name] = self._pop(1)
    self._stack.append(self._values.persistent(name))

  def _bad(self, reason):
    return raw_arrays.BadFile(
      self._values.file, f'{reason} (at byte {self._position})'
    )

  def _unsafe(self, name):
    return pickle_values.unsafe(self._values.file, name)


# Opcode -> method and its arguments.
_ACTIONS = {
  pickle.PROTO: (_Machine._protocol,),
  pickle.FRAME: (_Machine._frame,),
  pickle.MARK: (_Machine._mark,),
  pickle.POP: (_Machine._drop,),
  pickle.POP_MARK: (_Machine._pop_mark,),
  pickle.DUP: (_Machine._repeat,),
  pickle.BINPUT: (_Machine._put, 1),
  pickle.LONG_BINPUT: (_Machine._put, 4),
  pickle.MEMOIZE: (_Machine._memoize,),
  pickle.BINGET: (_Machine._get, 1),
  pickle.LONG_BINGET: (_Machine._get, 4),
  pickle.NONE: (_Machine._constant, None),
  pickle.NEWTRUE: (_Machine._constant, True),
  pickle.NEWFALSE: (_Machine._constant, False),
  pickle.BININT: (_Machine._integer,),
  pickle.BININT1: (_Machine._small_integer, 1),
  pickle.BININT2: (_Machine._small_integer, 2),
  pickle.LONG1: (_Machine._long_integer, 1),
  pickle.LONG4: (_Machine._long_integer, 4),
  pickle.BINFLOAT: (_Machine._float,),
  pickle.SHORT_BINBYTES: (_Machine._bytes, 1),
  pickle.BINBYTES: (_Machine._bytes, 4),
  pickle.BINBYTES8: (_Machine._bytes, 8),
  pickle.BYTEARRAY8: (_Machine._bytes, 8),
  pickle.SHORT_BINUNICODE: (_Machine._text, 1),
  pickle.BINUNICODE: (_Machine._text, 4),
  pickle.BINUNICODE8: (_Machine._text, 8),
  pickle.EMPTY_TUPLE: (_Machine._constant, ()),
  pickle.TUPLE: (_Machine._tuple,),
  pickle.TUPLE1: (_Machine._short_tuple, 1),
  pickle.TUPLE2: (_Machine._short_tuple, 2),
  pickle.TUPLE3: (_Machine._short_tuple, 3),
  pickle.EMPTY_LIST: (_Machine._empty_list,),
  pickle.LIST: (_Machine._list,),
  pickle.APPEND: (_Machine._append,),
  pickle.APPENDS: (_Machine._appends,),
  pickle.EMPTY_DICT: (_Machine._empty_dict,),
  pickle.DICT: (_Machine._dict,),
  pickle.SETITEM: (_Machine._set_item,),
  pickle.SETITEMS: (_Machine._set_items,),
  pickle.GLOBAL: (_Machine._global,),
  pickle.STACK_GLOBAL: (_Machine._stack_global,),
  pickle.INST: (_Machine._instance,),
  pickle.EXT1: (_Machine._extension, 1),
  pickle.EXT2: (_Machine._extension, 2),
  pickle.EXT4: (_Machine._extension, 4),
  pickle.OBJ: (_Machine._object,),
  pickle.REDUCE: (_Machine._reduce,),
  pickle.NEWOBJ: (_Machine._new,),
  pickle.BUILD: (_Machine._build,),
  pickle.BINPERSID: (_Machine._persistent,),
}
