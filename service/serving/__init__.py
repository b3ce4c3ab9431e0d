"""The served models: one open model (`predictor`), all of them (`repository`), where they come from (`store`), and
whether requests still look like their training data (`drift`).

These modules are not imported here, since they load ONNX Runtime, BentoML or NumPy, which BentoML's supervisor process
or most commands of `percept` do not need.
"""

from service.serving.answer import Answer, Window

__all__ = ["Answer", "Window"]
