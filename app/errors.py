"""Every error that a client can see, as a type that knows its status and its place in the request.

    ApiError                       status type                   code
    ├── InvalidRequest             400    invalid_request_error  invalid_value …
    │   ├── ContextLengthExceeded  400    invalid_request_error  context_length_exceeded
    │   ├── BodyTooLarge           413    invalid_request_error  body_too_large
    │   └── UnsupportedMediaType   415    invalid_request_error  unsupported_media_type
    ├── Unauthorized               401    invalid_request_error  invalid_api_key
    ├── Forbidden                  403    permission_error       forbidden
    ├── NotFound                   404    invalid_request_error  not_found
    ├── ModelNotFound              404    invalid_request_error  model_not_found
    ├── SessionNotFound            404    invalid_request_error  session_not_found
    ├── RequestTimeout             408    timeout_error          request_timeout
    ├── Overloaded                 429    rate_limit_error       overloaded
    ├── GenerationFailed           500    server_error           generation_failed
    └── Unavailable                503    server_error           …
        ├── ModelLoadFailed        503    server_error           model_load_failed
        │   └── MayNotFit          503    server_error           model_load_failed
        ├── DeviceFailed           503    server_error           device_failed
        ├── OutOfMemory            503    server_error           out_of_memory
        └── Draining               503    server_error           draining

    ClientLeft                     no answer: nobody is there to read it

Rendered in one place: routes/hooks.py before the first byte, services/wire.py inside a stream.
"""

from typing import Any


class ApiError(Exception):
    """An error with an OpenAI-shaped body; `param` names the field, `retry_after` is in seconds."""

    status = 500
    type = "server_error"
    code = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The error object as OpenAI writes it."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


class InvalidRequest(ApiError):
    """A request that can never succeed as it is."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer together are longer than the model's context."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, excess: int = 1, **more: Any) -> None:
        super().__init__(message, **more)
        self.excess = excess
        """Tokens too many, at the least."""


class BodyTooLarge(InvalidRequest):
    """The body, or a part of it, is over its limit."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is declared to be something that this route does not read."""

    status = 415
    code = "unsupported_media_type"


class Unauthorized(ApiError):
    """The request has no key, or a wrong one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ApiError):
    """A page of another site, or a proxy for another machine, called a server that asks for no key."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(ApiError):
    """There is nothing at that address."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(ApiError):
    """No model of that name, or the place that the catalogue names for it does not exist."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class SessionNotFound(ApiError):
    """No stored conversation of that name, for this key."""

    status = 404
    type = "invalid_request_error"
    code = "session_not_found"


class RequestTimeout(ApiError):
    """The request took longer than --request-timeout, its wait in the queue included."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"


class Overloaded(ApiError):
    """As many requests as allowed are running and waiting."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class GenerationFailed(ApiError):
    """generate() raised; the reason is in the log under the request id."""

    code = "generation_failed"


class Unavailable(ApiError):
    """The server cannot serve this now; a later try may succeed."""

    status = 503
    code = "unavailable"


class ModelLoadFailed(Unavailable):
    """The model could not be loaded; the next request tries again."""

    code = "model_load_failed"


class MayNotFit(ModelLoadFailed):
    """The model could not be loaded, and what loads it does not say whether memory was the reason."""

    device: str | None = None


class DeviceFailed(Unavailable):
    """The device that a model runs on failed; the next request opens it anew."""

    code = "device_failed"


class OutOfMemory(Unavailable):
    """The device's memory ran out for this request, or a model does not fit.

    `device`: the one whose idle models could make room, if not any; `missing`: bytes that lack at least.
    """

    code = "out_of_memory"
    device: str | None = None
    missing = 0


class Draining(Unavailable):
    """The server stops: it takes nothing new, and ends what outlasts --drain-timeout."""

    code = "draining"


class ClientLeft(Exception):
    """The client closed its connection; its generation is cancelled and nothing is answered."""
