"""Where labelled samples come from: embedded data, MNIST, folders of class folders, CSV manifests."""

from pipeline.sources import embedded, files, mnist
from pipeline.sources.sample import Sample
from pipeline.task import MfccFeatures, Task, UserError

__all__ = ["Sample", "load"]


def load(task: Task) -> list[Sample]:
    """The samples of the task's source, in a fixed order; nothing is decoded yet.

    Raises
    ------
    UserError : the source gives another kind of media than the features take, or cannot be found or understood
    """
    source, features = task.data.source, task.features
    audio = isinstance(features, MfccFeatures)
    if (source == "notes" and not audio) or (source in ("digits", "mnist") and audio):
        raise UserError(f"data.source = {source!r} does not give what features.kind = {features.kind!r} takes")
    if source == "digits":
        return embedded.digits()
    if source == "mnist":
        return mnist.load(task.data.path)
    if isinstance(features, MfccFeatures) and source == "notes":
        return embedded.notes(task.data.seed, features.sample_rate)
    sample_rate = features.sample_rate if isinstance(features, MfccFeatures) else None
    return files.load(task.data, sample_rate)
