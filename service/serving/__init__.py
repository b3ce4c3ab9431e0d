"""The served models: one open model (`predictor`), what is checked before that (`opening`), all of them (`repository`),
where they come from (`store`, read by `reading`), and whether requests still look like their training data (`drift`).

These modules are not imported here, since they load ONNX Runtime, BentoML or NumPy, which BentoML's supervisor process
or most commands of `percept` do not need.
"""

from service.serving.answer import Answer, Window

__all__ = ["Answer", "Window"]
