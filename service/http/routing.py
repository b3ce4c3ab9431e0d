"""Which handler answers a path: a dict for paths without parameters, a tree of segments for all others."""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from starlette.exceptions import HTTPException

from service.http.request import Request, Response

Handler = Callable[..., Awaitable[Response]]  # takes a Request and, by name, the parameters of its path

# What answers a path: its label in metrics, handlers by method, and the values of its parameters.
Match = tuple[str, dict[str, Handler], dict[str, str]]

ANY = "*"  # method of a route that answers every method
REST_OF_PATH = "…"  # last segment of a path that matches whatever follows, or nothing


class Route(NamedTuple):
    """One row of the table of routes.

    Parameters
    ----------
    path : template with parameters in braces; the route's label in metrics
    method : GET answers HEAD too
    operation : key of its description in openapi.json; None: not documented
    """

    path: str
    method: str
    handler: Handler
    operation: str | None = None

    def parameters(self) -> list[str]:
        """The names in braces.

        >>> Route("/predict/{model}/versions/{version}", "POST", nothing).parameters()
        ['model', 'version']
        """
        return [segment[1:-1] for segment in self.path.split("/") if segment.startswith("{")]


class _Node:
    """A point in the tree of paths."""

    __slots__ = ("children", "names", "parameter", "rest", "route")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}  # by the next segment
        self.parameter: _Node | None = None  # for any other next segment
        self.route: Match | None = None  # of paths that end here
        self.rest: Match | None = None  # of longer paths that no other route matches
        self.names: list[str] = []  # of the parameters from the root to here


class Router:
    """Finds the handlers of a path. Starlette's router tries one regular expression after another, which takes
    ten times as long."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, Match] = {}
        self._root = _Node()
        for route in routes:
            self._add(route)

    def match(self, path: str) -> Match:
        """The route of a path.

        >>> router = Router([Route("/predict/{model}", "POST", nothing)])
        >>> label, _, arguments = router.match("/predict/digits")
        >>> label, arguments
        ('/predict/{model}', {'model': 'digits'})
        >>> router.match("/elsewhere")[0]
        'other'
        """
        if fixed := self._fixed.get(path):
            return fixed
        node, values = self._root, []
        for segment in path.split("/")[1:]:
            child = node.children.get(segment)
            if child is None:
                child = node.parameter
                if child is None:
                    return self._rest(path)
                values.append(segment)
            node = child
        if node.route is None:
            return self._rest(path)
        label, handlers, _ = node.route
        return label, handlers, dict(zip(node.names, values, strict=True))

    def _rest(self, path: str) -> Match:
        """For a path that no other route matches: the longest route ending with REST_OF_PATH that does."""
        node: _Node | None = self._root
        rest: Match = "other", {ANY: nothing}, {}
        for segment in path.split("/")[1:]:
            if node is None:
                break
            rest = node.rest or rest
            node = node.children.get(segment) or node.parameter
        return (node and node.rest) or rest

    def _add(self, route: Route) -> None:
        has_fixed_path = not route.parameters() and not route.path.endswith(REST_OF_PATH)
        match = self._fixed.setdefault(route.path, (route.path, {}, {})) if has_fixed_path else self._insert(route)
        match[1][route.method] = route.handler

    def _insert(self, route: Route) -> Match:
        node = self._root
        for segment in route.path.removesuffix("/" + REST_OF_PATH).split("/")[1:]:
            if segment.startswith("{"):
                node.parameter = node = node.parameter or _Node()
            else:
                node = node.children.setdefault(segment, _Node())
        if route.path.endswith(REST_OF_PATH):
            node.rest = match = node.rest or (route.path, {}, {})
        else:
            node.route = match = node.route or (route.path, {}, {})
            node.names = route.parameters()
        return match


def handler(handlers: dict[str, Handler], method: str) -> Handler:
    """The handler of a method. Raises HTTPException 405."""
    found = handlers.get("GET" if method == "HEAD" else method) or handlers.get(ANY)
    if found is None:
        raise HTTPException(405, "this method is not allowed here", {"allow": ", ".join(handlers)})
    return found


async def nothing(request: Request) -> Response:
    """Raises HTTPException 404."""
    raise HTTPException(404, "there is nothing at this path; see /docs")
