"""The models that answer: one open model (`predictor`), all that are served (`repository`), and where they come from
(`store`).

`predictor` and `repository` are imported as modules: they load ONNX Runtime, which neither BentoML's supervisor process
nor most commands of `percept` need.
"""

from service.serving.answer import Answer, Window

__all__ = ["Answer", "Window"]
