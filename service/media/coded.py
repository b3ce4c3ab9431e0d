"""How many samples a WAV in coded blocks (GSM, ADPCM) holds."""

from typing import Any

from service.media.containers import chunks_of

CODES = ("GSM610", "IMA_ADPCM", "MS_ADPCM", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32")
GSM_BLOCK = 320  # samples


def length(file: Any, data: bytes) -> int | None:
    """Samples of a channel in an open soundfile.SoundFile and its bytes; None if it is not in coded blocks.

    `fact` tells them; the rest of the last block is padding. Where the blocks of GSM end at an odd byte, libsndfile
    decodes the byte that pads them as one more, which is 40 ms of noise.
    """
    if file.format not in ("WAV", "WAVEX") or file.subtype not in CODES:
        return None
    frames: int = file.frames
    if not data.startswith(b"RIFF"):
        return frames
    chunks = {chunk.name: chunk for chunk in reversed(chunks_of(data, 0)[0])}
    if not {b"fmt ", b"data"} <= chunks.keys():
        return frames
    form, sound = chunks[b"fmt "].start, chunks[b"data"]
    block = int.from_bytes(data[form + 12 : form + 14], "little")  # bytes
    n_blocks = min(sound.length, len(data) - sound.start) // max(block, 1)
    if file.subtype == "GSM610" and n_blocks:
        frames = min(frames, n_blocks * GSM_BLOCK)
    fact = chunks[b"fact"].start if b"fact" in chunks else len(data)
    told = int.from_bytes(data[fact : fact + 4], "little")
    is_padding = 0 <= (frames - told) * max(n_blocks, 1) <= frames  # at most a block
    return told if told and is_padding else frames
