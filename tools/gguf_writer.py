"""The GGUF file format (version 3), as far as make-model writes it; nothing but the standard library.

A file is a header, key-value pairs, one description per tensor, and the tensors' data, each aligned
to 32 bytes. Tensors are handed over as rows of Python floats, or as rows that are already encoded.
"""
import struct

ALIGN = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9     # types of values
F32, F16 = 0, 1                                                    # types of tensors
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5                 # types of tokens


def _string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


_PACK = {
    UINT32: lambda v: struct.pack("<I", v),
    INT32: lambda v: struct.pack("<i", v),
    FLOAT32: lambda v: struct.pack("<f", v),
    BOOL: lambda v: struct.pack("<?", v),
    STRING: _string,
}


def encode_row(values, kind=F16):
    """One row of a tensor as bytes."""
    return struct.pack(f"<{len(values)}{'e' if kind == F16 else 'f'}", *values)


class Writer:
    def __init__(self):
        self.pairs, self.tensors = [], []

    def put(self, key, kind, value):
        self.pairs.append(_string(key) + struct.pack("<I", kind) + _PACK[kind](value))

    def put_array(self, key, kind, values):
        body = b"".join(map(_PACK[kind], values))
        self.pairs.append(_string(key) + struct.pack("<IIQ", ARRAY, kind, len(values)) + body)

    def tensor(self, name, columns, rows, kind=F16):
        """A matrix as a list of encoded rows; a vector is one row and has one dimension."""
        self.tensors.append((name, columns, rows, kind))

    def _descriptions(self):
        offset = 0
        for name, columns, rows, kind in self.tensors:
            shape = (columns,) if len(rows) == 1 else (columns, len(rows))
            yield (_string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
                   + struct.pack("<IQ", kind, offset))
            offset += -(-sum(map(len, rows)) // ALIGN) * ALIGN

    def write(self, path):
        head = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.pairs))]
        head = b"".join(head + self.pairs + list(self._descriptions()))
        with open(path, "wb") as out:
            out.write(head + bytes(-len(head) % ALIGN))
            for _, _, rows, _ in self.tensors:
                out.writelines(rows)
                out.write(bytes(-sum(map(len, rows)) % ALIGN))
