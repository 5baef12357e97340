"""The segmented write-ahead log: format, and what a crash does and does not lose.

A log is a folder of segments `NNNNNNNNNN.log`, numbered from 1 without holes. A segment is a sequence of frames, each
at an offset divisible by 8, padded with zeros:

    offset  type    field
    0       u32     magic 0x46584C50 ("PLXF")
    4       u32     CRC32C of bytes 8..32
    8       u8      kind: 0 segment, 1 experience, 2 patch, 3 remove, 4 blob
    9       u8      frame version = 1
    10      u16     group: how many blobs directly before this frame were written for it
    12      u32     length of the body in bytes
    16      u64     log sequence number
    24      u32     CRC32C of the body
    28      u32     0
    32      u8[]    body

Little endian. The first frame of a segment has kind 0; its body is a msgpack map `number`, `buffer` (the buffer's id)
and `gone` (ranges of segment numbers that no longer exist because their live frames were copied elsewhere). So a
number that is neither on disk nor in any `gone` is a lost file. Zeros after the last frame are room written ahead, so
that the next commits need not lengthen the file.

Every frame carries its own sequence number, unique in the log and rising; where two frames speak of the same id, the
higher number wins, so the order of files does not matter. Numbers of failed writes are never used again.

What a crash loses: nothing that was acknowledged. A frame is acknowledged after one fdatasync of its segment, and a
segment's name was made durable (fsync of the folder) before its first frame was acknowledged. Frames of the last,
unacknowledged commit may survive whole or not at all; a torn one fails its CRC and is dropped. New frames always go
to a new segment after an unclean stop, so nothing is ever written behind a torn frame.

What a flipped bit loses: the frame it hits. Readers continue at the next frame (by the length, when the header is good;
else by searching for the next magic with a matching header CRC). A replay without a snapshot also leaves out an
experience whose image is hit: it cannot be told from one whose commit was cut short.
"""
