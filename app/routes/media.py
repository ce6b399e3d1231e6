"""Uploads: a picture or a video with a question about it, as a form."""

import errno

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.errors import InvalidRequest, Unavailable, UnsupportedMediaType
from app.routes.describe import GENERATION, describe
from app.routes.hooks import check_in_time, client_left, json_response
from app.routes.openai import CHAT
from app.routes.sse import stream
from app.schemas import answers, upload
from app.services.completion import Completions

bp = Blueprint("media", __name__)
FIELDS_BYTES = 2**20
"""Of a form beside its file."""
PARTS = 100
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@bp.post("/v1/media/describe")
@describe(
    body=upload.UploadSchema,
    body_media="multipart/form-data",
    example={"file": "(the file's bytes)", "prompt": "What is in this picture?"},
    answered=CHAT,
    answer=answers.ChatCompletionSchema,
    events=answers.ChatChunkSchema,
    errors=GENERATION,
)
def describe_media() -> Response:
    """An answer to a question about an uploaded picture or video.

    It is a chat completion, whole or streamed. A file of more than half a megabyte goes to a temporary one
    that has no name, so it is gone with the request, or with the process.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("The body must be a form, sent as multipart/form-data.")
    settings = current_app.extensions["settings"]
    request.max_content_length = int(settings.max_media_mb * 2**20) + FIELDS_BYTES
    request.max_form_memory_size, request.max_form_parts = FIELDS_BYTES, PARTS
    try:
        form, files = request.form, request.files
    except RequestEntityTooLarge:
        if (request.content_length or 0) > request.max_content_length:
            raise
        raise RequestEntityTooLarge(
            f"The form has more than {PARTS} parts, a text of more than {FIELDS_BYTES // 2**20} MiB, or more "
            f"than {request.max_content_length / 2**20:.3g} MiB."
        ) from None
    except HTTPException:
        raise
    except Exception as problem:  # a chunk that is none, a connection that broke
        if getattr(problem, "errno", None) in NO_ROOM:
            raise Unavailable("The server has no room on its disk for the upload.") from None
        check_in_time()
        raise InvalidRequest("The form could not be read to its end.", code="incomplete_body") from None
    check_in_time()
    streams = {name: [one.stream for one in files.getlist(name)] for name in files}
    asked = upload.load(form.to_dict(flat=False), streams)
    completions: Completions = current_app.extensions["completions"]
    completion = completions.start(asked, client_left(request))
    return stream(completion) if asked.stream else json_response(completion.collect())
