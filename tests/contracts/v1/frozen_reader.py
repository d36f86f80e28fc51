"""Grey pictures behind eight bytes, a reader of medkit.readers.v1. Frozen: never edit it."""

import numpy as np

import medkit

MAGIC = b"FROZEN1\n"


@medkit.hookimpl
def medkit_reader():
    return Reader()


class Reader:
    def recognise(self, head, size):
        return head.startswith(MAGIC)

    def open(self, stream):
        return Opened(stream.read())


class Opened:
    """Of each picture a byte of label, one of rows, one of columns, and its pixels."""

    def __init__(self, data):
        self.pictures, place = {}, len(MAGIC)
        while place < len(data):
            label, rows, columns = data[place : place + 3]
            pixels = np.frombuffer(data, np.uint8, rows * columns, place + 3)
            name = f"class{label}/{len(self.pictures)}"
            self.pictures[name] = pixels.reshape(rows, columns)
            place += 3 + rows * columns

    def images(self):
        from medkit.catalog.readers import StoredImage
        from medkit.catalog.stacks import Stack

        for name, pixels in self.pictures.items():
            stack = Stack(pixels.shape[::-1], pixels.dtype, spacing=[0.5, 0.5])
            yield StoredImage(stack, name, {"Modality": "XC", "PatientID": name})

    def read(self, name, frame):
        return self.pictures[name]
