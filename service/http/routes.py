"""The table of routes. Routing, the labels in metrics and the paths in /docs.json all come from it."""

from functools import partial

import orjson

from models.card import ModelCard
from service.http import management, static
from service.http.oip import InferenceProtocol
from service.http.openapi import document
from service.http.predict import predict
from service.http.request import Request, Response
from service.http.routing import ANY, Route, nothing
from service.http.state import State


def table(state: State) -> list[Route]:
    """One row for each path and method: the path, the method, its handler, its key in openapi.json."""
    any_model = partial(predict, state)
    digits, instruments = partial(any_model, model="digits"), partial(any_model, model="instruments")
    models, metrics = partial(management.models, state), partial(management.metrics, state)
    by_bentoml, v2 = partial(management.by_bentoml, state), InferenceProtocol(state)

    described: list[ModelCard] = []  # the models of which `docs_json` tells
    docs_json = b""

    async def docs(request: Request) -> Response:
        nonlocal described, docs_json
        cards = [predictor.card for predictor in state.repository.served.values()]
        if not docs_json or cards != described:
            described, docs_json = cards, orjson.dumps(document(routes, cards, state.limits, state.keys.required))
        return Response(docs_json)

    routes = [
        Route("/digits", "POST", digits, "digits"),
        Route("/digits/versions/{version}", "POST", digits, "digits"),
        Route("/instruments", "POST", instruments, "instruments"),
        Route("/instruments/versions/{version}", "POST", instruments, "instruments"),
        Route("/predict", "POST", any_model, "predict_by_form"),
        Route("/predict/{model}", "POST", any_model, "predict"),
        Route("/predict/{model}/versions/{version}", "POST", any_model, "predict"),
        Route("/models", "GET", models, "models"),
        Route("/models/bom", "GET", partial(management.bom, state), "bento_bom"),
        Route("/models/{model}/bom", "GET", partial(management.bom, state), "bom"),
        Route("/models/{model}/samples", "GET", partial(management.samples, state), "samples"),
        Route("/livez", "GET", management.live, "livez"),
        Route("/healthz", "GET", management.live),
        Route("/readyz", "GET", v2.ready, "readyz"),
        Route("/metrics", "GET", metrics, "metrics"),
        Route("/docs.json", "GET", docs),
        Route("/v2", "GET", v2.server, "server"),
        Route("/v2/health/live", "GET", v2.live, "live"),
        Route("/v2/health/ready", "GET", v2.ready, "ready"),
        Route("/v2/models/{model}", "GET", v2.model, "model"),
        Route("/v2/models/{model}/versions/{version}", "GET", v2.model, "model"),
        Route("/v2/models/{model}/ready", "GET", v2.model_ready, "model_ready"),
        Route("/v2/models/{model}/versions/{version}/ready", "GET", v2.model_ready, "model_ready"),
        Route("/v2/models/{model}/infer", "POST", v2.infer, "infer"),
        Route("/v2/models/{model}/versions/{version}/infer", "POST", v2.infer, "infer"),
        Route("/v2/repository/index", "POST", v2.index, "index"),
        Route("/v2/repository/index", "GET", v2.index, "index_of_all"),
        Route("/v2/repository/models/{model}/load", "POST", v2.load, "load"),
        Route("/v2/…", ANY, nothing),  # refused in the protocol's form
        Route("/schema.json", "GET", partial(management.schema, state)),
        Route("/schema.json", ANY, by_bentoml),
        Route("/schema.json/…", ANY, by_bentoml),
        Route("/static_content/…", ANY, by_bentoml),
        *(Route(path, "GET", static.page) for path in static.FILES),
    ]
    return routes
