"""The exported graph compared with torch, and its MFCC with librosa's, on the test split."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.frontend import FrontEnd
from pipeline.export.graph import Graph, oracle_product
from pipeline.extract import Features, load_media
from pipeline.profile import step
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.train.data import RowReader, load_test, pieces

MAX_OUTPUT_DIFFERENCE = 1e-5  # ONNX Runtime against torch, probabilities or values
MAX_INEXACT_DIFFERENCE = 1e-4  # the same where the graph computes features by other operators than extraction (sound)
MAX_FAMILIARITY_DIFFERENCE = 2e-3  # a rank; a tenth of the share of samples that may fall below the threshold
# The graph's MFCC against librosa.feature.mfcc, in decibels. In float32 a transform is rounded by 6e-8 of the loudest
# bin's amplitude. 80 dB below it (TOP_DB) that is 0.005 decibels; noise that fades as a cymbal does reaches 0.002. A
# wrong window, filter or transform shows as tenths of a decibel and more.
MAX_ORACLE_DIFFERENCE = 1e-2
ORACLE_CLIPS = 50  # clips of the test split that are compared with librosa, about


@step("check of the graph")
def check(model: onnx.ModelProto, graph: Graph, run: Run) -> dict[str, float]:
    """Largest differences on the test split between the exported graph, given decoded media, and its references.

    Returns
    -------
    by name: the graph's answers and familiarity against torch's, which are computed from the extracted features; and
    `mfcc`, for sound, against librosa's

    Raises
    ------
    UserError : a difference is above its limit; the message names the file
    """
    features = Features.of(run)
    files = features.file[features.rows("test")].tolist()
    media = load_media(run, files)
    front = graph.reference.frontend
    limit = MAX_OUTPUT_DIFFERENCE if front.exact_export else MAX_INEXACT_DIFFERENCE
    if features.kind == "regression":  # float32 rounds in proportion
        limit *= max(1.0, float(np.abs(features.y).max()))
    limits = dict(zip(graph.answers, (limit, MAX_FAMILIARITY_DIFFERENCE), strict=False))
    differences = _torch_differences(model, graph, load_test(features).x, (media[file] for file in files))
    compared = dict.fromkeys(differences, files)
    if front.oracle_constant is not None:
        compared["mfcc"] = files[:: max(1, len(files) // ORACLE_CLIPS)]
        differences["mfcc"] = oracle_differences(model, front, (media[file] for file in compared["mfcc"]))
        limits["mfcc"] = MAX_ORACLE_DIFFERENCE
    for name, values in differences.items():
        worst = int(np.nan_to_num(values, nan=np.inf).argmax())
        if not values[worst] <= limits[name]:  # NaN is above any limit
            reference = "librosa's" if name == "mfcc" else "those of training"
            raise UserError(
                f"export: {compared[name][worst]}: {name} of the graph differ from {reference} by {values[worst]:.1e}, "
                f"more than {limits[name]:.0e}; leave that file out, or run `percept run --force` to extract and train "
                "anew"
            )
    return {name: float(values.max()) for name, values in differences.items()}


def _torch_differences(
    model: onnx.ModelProto, graph: Graph, x: Tensor | RowReader, media: Iterable[NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    """Largest |ONNX Runtime - torch| of each answer, for each sample (N,).

    x : float32 (N, D), extracted features of the N samples `media`
    """
    reference = graph.reference
    with torch.inference_mode():
        parts = [reference.readings(reference.standardize(part))[: len(graph.answers)] for part in pieces(x)]
    expected = map(torch.cat, zip(*parts, strict=True))
    session = _session(model)
    outputs = zip(*(_run(session, sample, graph.answers) for sample in media), strict=True)
    return {
        name: np.abs(np.concatenate(found) - wanted.numpy()).reshape(len(wanted), -1).max(axis=1)
        for name, found, wanted in zip(graph.answers, outputs, expected, strict=True)
    }


def oracle_differences(model: onnx.ModelProto, front: FrontEnd, clips: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Largest |graph - oracle| for each of N clips float32 (T,), of the matrix product with `oracle_constant`. (N,)

    The product is inside the exported graph, so a copy of the graph gets it as an output.
    """
    output = oracle_product(model.graph, front).output[0]
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    session = _session(opened)
    return np.array([np.abs(_run(session, clip, [output])[0][0] - front.oracle(clip)).max() for clip in clips])


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns about the graph's optional input
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, media: NDArray[Any], outputs: list[str]) -> list[NDArray[np.float32]]:
    results: list[NDArray[np.float32]] = session.run(outputs, {session.get_inputs()[0].name: media[None]})
    return results
