"""Errors of the serving room. What a client is told about them stands in `serving.refusals`.

ServingError
├── InvalidRequest       a request field that is missing or outside its limit
├── RequestIdReused      a request id that came before with another content
├── WrongModel           the client expects another model than the one that serves
├── ModelReplaced        a part of the service loaded another model than the others
├── UnfinishedGeneration a build that cannot be made live yet
├── LiveChanged          another build is live than the client takes to be
├── JobsDisabled         the service takes no long jobs
├── UnknownOperation     no long job has this name
├── Unfinished           a long job that has no result to show
├── JobFailed            a long job that ended without a result
├── NotOffered           a call of a standard service that this one leaves out
├── DeadlineExceeded     the request's time budget has passed
├── StreamIdle           a sequence on which no image comes any more
├── Overloaded           more requests than the service takes
├── QuotaExceeded        more requests than the key may send
├── Unready              a part of the service is down or starting
├── Unauthenticated      no API key, or an unknown one
├── ScopeMissing         an API key that does not allow the call
├── UnknownService       health of a service that is not ours
├── PeerRefused          a caller from outside while the service is for this machine alone
├── BadKeys              settings of API keys that cannot be read
├── PortInUse            the port is taken by another program
├── AlreadyServing       this Ray cluster runs the service already
├── NotReady             the service did not come up in time
├── CallFailed           the server answered a client with an error
└── OutOfCoverage        told to a person: nothing is indexed where they look

All arguments are positional and kept in `args`, so that errors survive pickling between processes.
"""

from __future__ import annotations


class ServingError(Exception):
    """Base of everything this package raises on purpose."""


class InvalidRequest(ServingError):
    """A field of the request that is missing or outside its limit."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field} {self.problem}; {self.remedy}"


class RequestIdReused(ServingError):
    """A request id names one request, not two."""

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request_id {self.request_id!r} came before with another content; give each request its own"


class WrongModel(ServingError):
    """The client's vectors or expectations belong to another model."""

    def __init__(self, expected: str, serving: str) -> None:
        super().__init__(expected, serving)
        self.expected = expected
        self.serving = serving

    def __str__(self) -> str:
        return (
            f"the request expects model {self.expected[:64]!r}, this service runs {self.serving!r}; "
            "leave model_digest unset to accept it"
        )


class ModelReplaced(ServingError):
    """The checkpoint was replaced under a running service, and a part that started since has loaded it."""

    def __init__(self, serving: str, found: str) -> None:
        super().__init__(serving, found)
        self.serving = serving
        self.found = found

    def __str__(self) -> str:
        return (
            f"an encoder has loaded model {self.found!r} into a service of model {self.serving!r}; "
            "restart the service, or put the checkpoint back first"
        )


class UnfinishedGeneration(ServingError):
    """A build that was never complete has not passed its ingest's checks."""

    def __init__(self, region: str, generation: str) -> None:
        super().__init__(region, generation)
        self.region = region
        self.generation = generation

    def __str__(self) -> str:
        return (
            f"generation {self.generation!r} of region {self.region!r} is not complete; "
            "its ingest makes it live once it is"
        )


class LiveChanged(ServingError):
    """The client decided on a state that is no longer."""

    def __init__(self, region: str, expected: str, live: str | None) -> None:
        super().__init__(region, expected, live)
        self.region = region
        self.expected = expected
        self.live = live

    def __str__(self) -> str:
        live = f"generation {self.live!r}" if self.live else "no generation"
        return (
            f"{live} of region {self.region!r} is live, not {self.expected[:64]!r}; "
            "look again and decide anew"
        )


class JobsDisabled(ServingError):
    """Jobs read files of the service's machine; its operator says which."""

    def __str__(self) -> str:
        return "this service takes no jobs; start it with --inputs FOLDER, the folder that jobs may read"


class UnknownOperation(ServingError):
    """No long job has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no operation {self.name!r}; list the operations"


class Unfinished(ServingError):
    """A long job that has no result to show."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"operation {self.name!r} {self.problem}"


class JobFailed(ServingError):
    """A long job that ended without a result, as its client learns it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class NotOffered(ServingError):
    """A call of a standard service that this one leaves out."""

    def __init__(self, method: str, instead: str) -> None:
        super().__init__(method, instead)
        self.method = method
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.method} is not offered: {self.instead}"


class DeadlineExceeded(ServingError):
    """The request's time budget has passed."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no answer within {self.timeout_s:g} s; give a larger timeout_s or narrow the priors"


class StreamIdle(ServingError):
    """A stream on which nothing comes holds a place that others could use."""

    def __init__(self, idle_s: float) -> None:
        super().__init__(idle_s)
        self.idle_s = idle_s

    def __str__(self) -> str:
        return f"no image came for {self.idle_s:g} s; begin a new stream"


class _TryLater(ServingError):
    """Refused now; trying again after `retry_after_s` seconds may help."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class Overloaded(_TryLater):
    """More requests wait than the service takes."""

    def __str__(self) -> str:
        return f"too many requests are waiting; try again in {self.retry_after_s:.1f} s"


class QuotaExceeded(_TryLater):
    """The key has sent more requests than it may."""

    def __init__(self, retry_after_s: float, key: str, requests_per_minute: float) -> None:
        super().__init__(retry_after_s)
        self.args = (retry_after_s, key, requests_per_minute)
        self.key = key
        self.requests_per_minute = requests_per_minute

    def __str__(self) -> str:
        return (
            f"key {self.key!r} may send {self.requests_per_minute:g} requests a minute; try again in "
            f"{self.retry_after_s:.1f} s"
        )


class Unready(_TryLater):
    """A part of the service is down or starting."""

    def __init__(self, retry_after_s: float = 2.0) -> None:
        super().__init__(retry_after_s)

    def __str__(self) -> str:
        return "a part of the service is not available; try again in a few seconds"


class Unauthenticated(ServingError):
    """The service does not know who calls."""

    def __str__(self) -> str:
        return "no valid API key; send one in the metadata as `authorization: Bearer KEY`"


class ScopeMissing(ServingError):
    """The caller is known and may not do this."""

    def __init__(self, caller: str, scope: str) -> None:
        super().__init__(caller, scope)
        self.caller = caller
        self.scope = scope

    def __str__(self) -> str:
        return f"{self.caller} lacks the scope {self.scope!r}; use a key that has it"


class UnknownService(ServingError):
    """The health of a service that this server does not offer."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"this server offers no service {self.name!r}; server reflection lists what it offers"


class PeerRefused(ServingError):
    """The service answers callers on its own machine alone."""

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self.peer = peer

    def __str__(self) -> str:
        return "this service answers callers on its own machine only; start it with --public to open it"


class BadKeys(ServingError):
    """Settings of API keys that cannot be read; they are never half-used."""

    def __init__(self, place: str, problem: str, remedy: str) -> None:
        super().__init__(place, problem, remedy)
        self.place = place
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"API keys in {self.place}: {self.problem}; {self.remedy}"


class PortInUse(ServingError):
    """Another program listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port

    def __str__(self) -> str:
        return f"port {self.port} is in use; choose another with --port, or --port 0 for any free one"


class AlreadyServing(ServingError):
    """One Ray cluster runs one service."""

    def __str__(self) -> str:
        return "this Ray cluster runs a Serve application already; stop it first, or use another cluster"


class NotReady(ServingError):
    """The service did not come up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the service did not become ready: {self.reason}"


class CallFailed(ServingError):
    """What a server told its client."""

    def __init__(self, address: str, code: str, details: str) -> None:
        super().__init__(address, code, details)
        self.address = address
        self.code = code
        self.details = details

    def __str__(self) -> str:
        return f"{self.address} answered {self.code}: {self.details}"


class OutOfCoverage(ServingError):
    """Nothing is indexed where the search looked; over gRPC this is a status of the answer, not an error."""

    def __str__(self) -> str:
        return "no indexed patch lies in the position prior; `clnet regions` lists what is indexed"
