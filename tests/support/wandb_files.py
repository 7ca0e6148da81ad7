"""What W&B has written to its files."""

import struct


def wandb_records(run_file):
    """The records of a .wandb file: LevelDB's log format, each record a protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, pending, records = run_file.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:  # a block's end is padded
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        pending += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(pending))
            pending = b""
    return records
