"""Where labelled samples come from: embedded data, MNIST, recorded instruments, class folders, CSV manifests."""

from pipeline.sources import folder, mnist, recordings, toy
from pipeline.sources.sample import Sample
from pipeline.task import MfccFeatures, Task, UserError

__all__ = ["Sample", "load"]

FEATURES = {  # kinds of features that each source has media for
    "digits": ("pixels",),
    "mnist": ("pixels",),
    "notes": ("mfcc",),
    "tinysol": ("mfcc",),
    "medley_solos_db": ("mfcc",),
    "regions": ("vector",),
    "sine": ("vector",),
    "folder": ("pixels", "mfcc"),
    "csv": ("pixels", "mfcc"),
}


def load(task: Task) -> list[Sample]:
    """The samples of the task's source, in a fixed order; nothing is decoded yet.

    Raises
    ------
    UserError : the source gives another kind of media than the features take, or cannot be found or understood
    """
    source, features = task.data.source, task.features
    if features.kind not in FEATURES[source]:
        raise UserError(f"data.source = {source!r} does not give what features.kind = {features.kind!r} takes")
    if source == "digits":
        from pipeline.sources import embedded  # scipy.signal takes half a second, which no other source needs

        return embedded.digits()
    if source == "mnist":
        return mnist.load(task.data.path)
    if source == "regions":
        return toy.regions(task.data.seed)
    if source == "sine":
        return toy.sine(task.data.seed)
    if isinstance(features, MfccFeatures) and source == "notes":
        from pipeline.sources import embedded

        return embedded.notes(task.data.seed, features.sample_rate)
    if isinstance(features, MfccFeatures) and source in ("tinysol", "medley_solos_db"):
        return recordings.load(task.data, features.sample_rate)
    sample_rate = features.sample_rate if isinstance(features, MfccFeatures) else None
    return folder.load(task.data, sample_rate)
