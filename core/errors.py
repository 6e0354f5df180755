"""Every error that the service raises on purpose.

    ServiceError                    HTTP  code
    ├── BadRequest                  400
    │   ├── InvalidContentType           invalid_content_type
    │   ├── InvalidJSON                  invalid_json
    │   ├── InvalidForm                  invalid_form
    │   ├── TooManyValues                too_many_values
    │   ├── NotAnObject                  not_an_object
    │   ├── MissingField                 missing_field
    │   ├── RepeatedField                repeated_field
    │   ├── WrongType                    wrong_type
    │   ├── OutOfRange                   out_of_range
    │   ├── ConflictingFields            conflicting_fields
    │   ├── WebhookRefused               webhook_refused
    │   ├── InvalidBase64                invalid_base64
    │   ├── FileTooLarge                 file_too_large
    │   ├── NotAnImage                   not_an_image
    │   ├── UnsupportedFormat            unsupported_format
    │   ├── BrokenImage                  broken_image
    │   ├── AnimatedImage                animated_image
    │   ├── TooManyPixels                too_many_pixels
    │   ├── ImageTooLarge                image_too_large
    │   └── ModelUnavailable             model_unavailable
    ├── FileNotFound                404  not_found
    ├── JobNotFound                 404  not_found
    ├── NotAcceptable               406  not_acceptable
    ├── Unauthorized                401  unauthorized
    ├── ForeignOrigin               403  foreign_origin
    ├── BodyTimeout                 408  body_timeout
    ├── JobConflict                 409  job_conflict
    ├── ResultExpired               410  result_expired
    ├── BodyTooLarge                413  body_too_large
    ├── Unavailable                 503  (each carries retry_after_seconds)
    │   ├── QueueFull                    queue_full
    │   ├── OutOfMemory                  out_of_memory
    │   ├── ModelsLoading                models_loading
    │   ├── ShuttingDown                 shutting_down
    │   ├── DeviceLost                   device_lost
    │   ├── WorkerLost                   worker_lost
    │   └── Interrupted                  interrupted
    ├── DeadlineExceeded            504  deadline_exceeded
    ├── ResultNotSaved              507  result_not_saved
    └── JobCancelled                (none: nobody is left to answer)

A foreign exception (Pillow, orjson, torch, OSError) is translated once, where it enters, `from exc`. Whatever is not in
this tree is an internal error: it is logged, and the client gets a bare 500 with the code `internal_error`.
"""

from __future__ import annotations

MEMORY_SECONDS = 10  # in which other requests should have given back some of theirs
DEVICE_LOST_STATUS = 75  # of a process that ends for it: EX_TEMPFAIL of sysexits.h; started again, it may succeed
RESTART_SECONDS = 15  # until a process that ends by itself is there again, with its models loaded


class ServiceError(Exception):
    """An error that a client can be told about.

    The message is a sentence that a person can act on; `details` are extra JSON fields of the response.
    """

    status = 500
    code = "internal_error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


def internal_error() -> ServiceError:
    """What a client hears of an internal error; the log has the rest."""
    return ServiceError("Internal error. Please report the request_id.")


class BadRequest(ServiceError):
    """The request is at fault, and repeating it unchanged will fail again."""

    status = 400
    code = "bad_request"


class InvalidContentType(BadRequest):
    code = "invalid_content_type"


class InvalidJSON(BadRequest):
    code = "invalid_json"


class InvalidForm(BadRequest):
    """A body that says it is multipart/form-data, and is not."""

    code = "invalid_form"


class TooManyValues(BadRequest):
    """JSON or a form that would keep the interpreter, and so every other request, waiting while it is parsed."""

    code = "too_many_values"


class NotAnObject(BadRequest):
    code = "not_an_object"


class MissingField(BadRequest):
    code = "missing_field"


class RepeatedField(BadRequest):
    code = "repeated_field"


class WrongType(BadRequest):
    code = "wrong_type"


class OutOfRange(BadRequest):
    code = "out_of_range"


class ConflictingFields(BadRequest):
    """Fields that cannot be given together."""

    code = "conflicting_fields"


class WebhookRefused(BadRequest):
    """A URL that cannot be called, or that leads into somebody's own network."""

    code = "webhook_refused"


class InvalidBase64(BadRequest):
    code = "invalid_base64"


class FileTooLarge(BadRequest):
    code = "file_too_large"


class NotAnImage(BadRequest):
    code = "not_an_image"


class UnsupportedFormat(BadRequest):
    code = "unsupported_format"


class BrokenImage(BadRequest):
    """Recognised, but truncated or damaged."""

    code = "broken_image"


class AnimatedImage(BadRequest):
    code = "animated_image"


class TooManyPixels(BadRequest):
    """More pixels than the decoder may open, whatever the target."""

    code = "too_many_pixels"


class ImageTooLarge(BadRequest):
    """The long side leaves no room for a pass below this target."""

    code = "image_too_large"


class ModelUnavailable(BadRequest):
    """This server has no weights for the model that was asked for."""

    code = "model_unavailable"


class FileNotFound(ServiceError):
    status = 404
    code = "not_found"


class JobNotFound(ServiceError):
    status = 404
    code = "not_found"


class JobConflict(ServiceError):
    """The id of a job is taken by another request, or the job is another process's to cancel."""

    status = 409
    code = "job_conflict"


class NotAcceptable(ServiceError):
    """The client's Accept header leaves out what it asked for."""

    status = 406
    code = "not_acceptable"


class ResultExpired(ServiceError):
    """A job is done, and its file was removed since."""

    status = 410
    code = "result_expired"


class Unauthorized(ServiceError):
    status = 401
    code = "unauthorized"


class ForeignOrigin(ServiceError):
    """A page that nobody allowed sends a form through its reader's browser."""

    status = 403
    code = "foreign_origin"


class BodyTimeout(ServiceError):
    status = 408
    code = "body_timeout"


class BodyTooLarge(ServiceError):
    status = 413
    code = "body_too_large"


class Unavailable(ServiceError):
    """The same request can succeed later: `retry_after_seconds` is our estimate of when."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds


class QueueFull(Unavailable):
    code = "queue_full"


class OutOfMemory(Unavailable):
    """What every MemoryError becomes, wherever in a request it was raised."""

    code = "out_of_memory"

    def __init__(self) -> None:
        message = "The server has too little memory for this at the moment. Try again later, or send a smaller image."
        super().__init__(message, retry_after_seconds=MEMORY_SECONDS)


class ModelsLoading(Unavailable):
    code = "models_loading"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class DeviceLost(Unavailable):
    """This process can use its device no more, and ends: another may find it well. `reason` is for the log and /health."""

    code = "device_lost"

    def __init__(self, reason: str) -> None:
        message = "The server's device has failed, and the server starts again. Try again soon."
        super().__init__(message, retry_after_seconds=RESTART_SECONDS)
        self.reason = reason


class WorkerLost(Unavailable):
    """What ran a task ended, or was silent for too long; another may succeed. `reason` is for the log."""

    code = "worker_lost"

    def __init__(self, reason: str) -> None:
        message = "What worked on this was lost, and so was a second one. Try again soon."
        super().__init__(message, retry_after_seconds=RESTART_SECONDS)
        self.reason = reason


class Interrupted(Unavailable):
    """The process ended before a job was done."""

    code = "interrupted"


class ResultNotSaved(ServiceError):
    """A job is done, and its file could not be kept."""

    status = 507
    code = "result_not_saved"


class DeadlineExceeded(ServiceError):
    """Over the time that the request may take, or sure to be."""

    status = 504
    code = "deadline_exceeded"


class JobCancelled(ServiceError):
    """Raised inside the pipeline when its client has gone; never reaches the wire."""

    code = "cancelled"
