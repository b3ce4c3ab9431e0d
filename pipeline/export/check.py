"""The exported graph against torch and librosa, on the test split."""

import warnings
from collections.abc import Sequence
from typing import Any

import librosa
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from models.mfcc import TOP_DB, Mfcc
from pipeline import validate
from pipeline.export.graph import Graph, as_tuple
from pipeline.extract import Features
from pipeline.task import UserError

MAX_OUTPUT_DIFFERENCE = 1e-5  # ONNX Runtime against torch, probabilities or values
MAX_HEARD_DIFFERENCE = 1e-4  # the same of sound, whose features are extracted by FFT, and in the graph by products
MAX_FAMILIARITY_DIFFERENCE = 2e-3  # a rank: a tenth of the share of known samples that the threshold gives up
MAX_MFCC_DIFFERENCE = 1e-3  # the graph against librosa.feature.mfcc, whose values reach some hundreds
AMIN = 1e-30  # mel power so small that only the floor cuts it, at any level
MFCC_CLIPS = 50  # clips of the test split that the latter is held on


def check(model: onnx.ModelProto, graph: Graph, features: Features) -> dict[str, float]:
    """Largest differences between the graph and its judges on the test split.

    Probabilities and familiarity, from decoded media, against torch's from the extracted features; MFCC against
    librosa's.

    Raises
    ------
    UserError : a difference is above its limit
    """
    rows = features.rows("test")
    files = features.file[rows].tolist()
    media = validate.load_media(features, files)
    with torch.inference_mode():
        expected = as_tuple(graph.judge.from_features(torch.from_numpy(features.x[rows])))
    session = _session(model)
    names = graph.answers
    found = [
        np.concatenate(outputs) for outputs in zip(*(_run(session, media[file], names) for file in files), strict=True)
    ]
    front = graph.judge.frontend
    of_answers = MAX_HEARD_DIFFERENCE if isinstance(front, Mfcc) else MAX_OUTPUT_DIFFERENCE
    limits = (of_answers, MAX_FAMILIARITY_DIFFERENCE)[: len(names)]
    differences = {
        name: (float(np.abs(f - e.numpy()).max()), limit)
        for name, limit, f, e in zip(names, limits, found, expected, strict=True)
    }
    if isinstance(front, Mfcc):
        clips = [media[file] for file in files[:: max(1, len(files) // MFCC_CLIPS)]]
        differences["mfcc"] = (mfcc_difference(model, front, clips), MAX_MFCC_DIFFERENCE)
    for name, (difference, limit) in differences.items():
        if not difference <= limit:
            raise UserError(f"export: {name} of the graph differ by {difference:.1e}, more than {limit:.0e}")
    return {name: difference for name, (difference, _) in differences.items()}


def mfcc_difference(model: onnx.ModelProto, front: Mfcc, clips: Sequence[NDArray[Any]]) -> float:
    """Largest |graph - librosa.feature.mfcc| over clips float32 (T,), read inside the exported graph itself, whose
    decibels are counted from TOP_DB below the clip's maximum."""
    [product] = [n for n in model.graph.node if any(name.endswith("frontend.dct") for name in n.input)]
    mfcc = product.output[0]
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.append(onnx.helper.make_tensor_value_info(mfcc, onnx.TensorProto.FLOAT, None))
    session = _session(opened)
    worst = 0.0
    for clip in clips:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa warns of clips shorter than a frame
            _, expected = by_librosa(front, clip)
        worst = max(worst, float(np.abs(_run(session, clip, [mfcc])[0][0] - expected).max()))
    return worst


def by_librosa(front: Mfcc, clip: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What librosa makes of a clip float32 (T,): mel power (n_mels, frames) of the pre-emphasised waveform, and MFCC
    (n_mfcc, frames) of its decibels above a floor TOP_DB below the clip's maximum."""
    emphasised = np.append(clip[:1], clip[1:] - np.float32(front.preemphasis) * clip[:-1])
    mel = librosa.feature.melspectrogram(
        y=emphasised, sr=front.sample_rate, n_fft=front.n_fft, hop_length=front.hop_length, n_mels=front.n_mels
    )
    decibels = librosa.power_to_db(mel, ref=np.max, amin=AMIN, top_db=TOP_DB) + TOP_DB
    return mel, librosa.feature.mfcc(S=decibels, n_mfcc=front.n_mfcc)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of the optional input
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, media: NDArray[Any], outputs: list[str]) -> list[NDArray[np.float32]]:
    results: list[NDArray[np.float32]] = session.run(outputs, {session.get_inputs()[0].name: media[None]})
    return results
