"""What goes out, described for /openapi.json; the answers themselves are made by services/wire.py."""

from marshmallow import fields, validate

from app.schemas.fields import Body, always

FINISH = ("stop", "length", "tool_calls", "error")


def finish_reason(*, null: bool = False) -> fields.String:
    """Why a choice ended; null in a stream as long as it goes on."""
    return fields.String(required=True, allow_none=null, validate=validate.OneOf(FINISH))


class ErrorBodySchema(Body):
    """What went wrong."""

    message = fields.String(required=True, metadata={"description": "a sentence for people"})
    type = fields.String(required=True, metadata={"description": "the kind of error, for programs"})
    param = fields.String(
        required=True, allow_none=True, metadata={"description": "the place in the request: messages[0].role"}
    )
    code = fields.String(required=True, metadata={"description": "the exact reason, for programs"})


class ErrorSchema(Body):
    """Every error of a /v1 route."""

    error = fields.Nested(ErrorBodySchema, required=True)


class PromptDetailsSchema(Body):
    """Tokens of the prompt by what became of them."""

    cached_tokens = fields.Integer(metadata={"description": "known, and not computed again"})
    image_tokens = fields.Integer(metadata={"description": "that stand for pictures"})
    video_tokens = fields.Integer(metadata={"description": "that stand for clips"})


class AnswerDetailsSchema(Body):
    """Tokens of the answer by what they are."""

    reasoning_tokens = fields.Integer(metadata={"description": "of the thought"})


class UsageSchema(Body):
    """Tokens of one request, counted exactly."""

    prompt_tokens = fields.Integer(required=True)
    completion_tokens = fields.Integer(
        required=True, metadata={"description": "the end-of-turn token included"}
    )
    total_tokens = fields.Integer(required=True)
    prompt_tokens_details = fields.Nested(PromptDetailsSchema, required=True)
    completion_tokens_details = fields.Nested(AnswerDetailsSchema, required=True)
    media = fields.List(
        fields.Dict(), metadata={"description": "of each picture and clip, with return_media_info"}
    )


class LikelySchema(Body):
    """A token and how likely it was."""

    token = fields.String(required=True)
    logprob = fields.Float(required=True, metadata={"description": "natural logarithm"})
    bytes = fields.List(fields.Integer(), required=True, metadata={"description": "of its UTF-8"})


class ScoredSchema(LikelySchema):
    """A token of the answer, with the likeliest that there were."""

    top_logprobs = fields.List(fields.Nested(LikelySchema), required=True)


class LogprobsSchema(Body):
    """Of the model's own distribution, before temperature and all else."""

    content = fields.List(fields.Nested(ScoredSchema), required=True)
    refusal = fields.List(fields.Nested(ScoredSchema), required=True, allow_none=True)


class CalledSchema(Body):
    """Which function, and with what."""

    name = fields.String(required=True)
    arguments = fields.String(required=True, metadata={"description": "the text of a JSON object"})


class CallSchema(Body):
    """A call of a tool."""

    id = fields.String(required=True)
    type = always("function")
    function = fields.Nested(CalledSchema, required=True)


class AssistantSchema(Body):
    """The model's message."""

    role = always("assistant")
    content = fields.String(
        required=True, allow_none=True, metadata={"description": "null where there are only calls"}
    )
    reasoning_content = fields.String(metadata={"description": "the thought before the answer"})
    refusal = fields.String(allow_none=True, metadata={"description": "always null"})
    tool_calls = fields.List(fields.Nested(CallSchema))


class ChoiceSchema(Body):
    """One answer."""

    index = fields.Integer(required=True)
    message = fields.Nested(AssistantSchema, required=True)
    logprobs = fields.Nested(LogprobsSchema, required=True, allow_none=True)
    finish_reason = finish_reason()


class ChatCompletionSchema(Body):
    """A whole answer."""

    id = fields.String(required=True)
    object = always("chat.completion")
    created = fields.Integer(required=True, metadata={"description": "seconds since 1970"})
    model = fields.String(required=True, metadata={"description": "the id of the model that answered"})
    choices = fields.List(fields.Nested(ChoiceSchema), required=True)
    usage = fields.Nested(UsageSchema, required=True)


class CalledDeltaSchema(Body):
    """The function's name, once, and a piece of its arguments."""

    name = fields.String()
    arguments = fields.String()


class CallDeltaSchema(Body):
    """A piece of the call with this number; its id and type come once."""

    index = fields.Integer(required=True)
    id = fields.String()
    type = fields.String(validate=validate.Equal("function"))
    function = fields.Nested(CalledDeltaSchema, required=True)


class DeltaSchema(Body):
    """What a chunk adds to the message."""

    role = fields.String(validate=validate.Equal("assistant"))
    content = fields.String(allow_none=True)
    reasoning_content = fields.String()
    tool_calls = fields.List(fields.Nested(CallDeltaSchema))


class ChunkChoiceSchema(Body):
    """A piece of one answer."""

    index = fields.Integer(required=True)
    delta = fields.Nested(DeltaSchema, required=True)
    logprobs = fields.Nested(LogprobsSchema, required=True, allow_none=True)
    finish_reason = finish_reason(null=True)


class ChatChunkSchema(Body):
    """One event of a streamed answer."""

    id = fields.String(required=True)
    object = always("chat.completion.chunk")
    created = fields.Integer(required=True)
    model = fields.String(required=True)
    choices = fields.List(fields.Nested(ChunkChoiceSchema), required=True)
    usage = fields.Nested(UsageSchema, allow_none=True)


class TextLogprobsSchema(Body):
    """Of the model's own distribution, token by token; null for a prompt's first token."""

    tokens = fields.List(fields.String(), required=True)
    token_logprobs = fields.List(fields.Float(allow_none=True), required=True)
    top_logprobs = fields.List(fields.Dict(values=fields.Float(), allow_none=True), required=True)
    text_offset = fields.List(fields.Integer(), required=True)


class TextChoiceSchema(Body):
    """One text."""

    index = fields.Integer(required=True)
    text = fields.String(required=True)
    logprobs = fields.Nested(TextLogprobsSchema, required=True, allow_none=True)
    finish_reason = finish_reason()


class TextCompletionSchema(Body):
    """Whole texts."""

    id = fields.String(required=True)
    object = always("text_completion")
    created = fields.Integer(required=True)
    model = fields.String(required=True)
    choices = fields.List(fields.Nested(TextChoiceSchema), required=True)
    usage = fields.Nested(UsageSchema, required=True)


class TextPieceSchema(TextChoiceSchema):
    """A piece of one text."""

    finish_reason = finish_reason(null=True)


class TextChunkSchema(TextCompletionSchema):
    """One event of streamed texts."""

    choices = fields.List(fields.Nested(TextPieceSchema), required=True)
    usage = fields.Nested(UsageSchema, allow_none=True)


class TokensSchema(Body):
    """The tokens of a prompt, in vLLM's words."""

    count = fields.Integer(required=True)
    max_model_len = fields.Integer(required=True, metadata={"description": "the context, in tokens"})
    tokens = fields.List(fields.Integer(), required=True)
    token_strs = fields.List(fields.String(), required=True, allow_none=True)


class DetokenizedSchema(Body):
    """The text of tokens."""

    prompt = fields.String(required=True)


class ModelSchema(Body):
    """A model of the catalogue."""

    id = fields.String(required=True)
    object = always("model")
    created = fields.Integer(required=True)
    owned_by = fields.String(required=True)
    loaded = fields.Boolean(required=True, metadata={"description": "whether it is in memory now"})
    modalities = fields.List(fields.String(), required=True)
    context_length = fields.Integer(
        required=True, allow_none=True, metadata={"description": "in tokens; null while that is not known"}
    )
    engine = fields.String(required=True)


class ModelListSchema(Body):
    """All models of the catalogue."""

    object = always("list")
    data = fields.List(fields.Nested(ModelSchema), required=True)


class HealthDetailsSchema(Body):
    """What the default model does."""

    model_state = fields.String(
        required=True, validate=validate.OneOf(("absent", "loading", "loaded", "failed"))
    )
    running = fields.Integer(required=True, metadata={"description": "generations that are computed"})
    waiting = fields.Integer(required=True, metadata={"description": "generations that wait for their turn"})
    phase = fields.String(metadata={"description": "while it loads: what is being done"})
    progress = fields.Float(metadata={"description": "while it loads: the share done, 0 to 1"})
    reason = fields.String(metadata={"description": "why its last load failed"})


class HealthSchema(Body):
    """That the process answers, and what it serves."""

    status = always("healthy")
    model = fields.String(metadata={"description": "this and all below only for who has a key"})
    model_dir = fields.String()
    max_concurrent = fields.Integer()
    api_auth_enabled = fields.Boolean()
    version = fields.String()
    timestamp = fields.String()
    details = fields.Nested(HealthDetailsSchema)


class ReadySchema(HealthSchema):
    """Whether the default model can answer."""

    status: fields.String = fields.String(  # type: ignore[assignment]  # more than the one of the other
        required=True, validate=validate.OneOf(("healthy", "loading", "draining", "unhealthy"))
    )
    phase = fields.String()
    progress = fields.Float()
    reason = fields.String()


class DocumentSchema(Body):
    """An OpenAPI 3.1 document."""

    openapi = fields.String(required=True)
    info = fields.Dict(required=True)
    paths = fields.Dict(required=True)
    components = fields.Dict(required=True)
    security = fields.List(fields.Dict(), required=True)
