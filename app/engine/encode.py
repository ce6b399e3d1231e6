"""From messages to model inputs: the chat template, the tokenizer and the model's own picture processor."""

import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jinja2 import TemplateError, TemplateSyntaxError

from app.engine import fitting, remote_code
from app.engine.media_types import ImagePart, MediaPart, VideoPart
from app.engine.pieces import TokenBytes
from app.engine.types import (
    TEMPLATE,
    Function,
    GenerationRequest,
    Message,
    Part,
    Template,
    TextPart,
    ToolFormat,
    Tools,
)
from app.errors import InvalidRequest, ModelLoadFailed

log = logging.getLogger(__name__)

NOT_FOR_GENERATE = ("token_type_ids", "eos_token_id")
"""What processors return that generate() does not take, or takes from the request's own configuration."""


class PromptEncoder:
    """Renders and tokenizes conversations for one model; safe to call from many threads at once.

    No call sets padding or truncation: transformers keeps those on the shared tokenizer, where one thread's
    choice would silently change another's lengths.
    """

    def __init__(
        self, processor: Any, *, vision: bool, remote_code: bool, thinking_prompt: str | None = None
    ) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_token_id: int | None = getattr(processor, "image_token_id", None)
        if self.image_token_id is None and "<IMG_CONTEXT>" in self.tokenizer.get_vocab():  # InternVL's name
            self.image_token_id = self.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
        self.video_token_id: int | None = getattr(processor, "video_token_id", None)
        self.fitter = fitting.of(processor)
        self.token_bytes = TokenBytes(self.tokenizer)
        # We say ourselves what is too long. This keeps the warning about it out of the log.
        self.tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._thinking_prompt = thinking_prompt
        self._processor = processor
        self._longest_token = max(map(len, self.tokenizer.get_vocab()), default=1)
        self._vision = vision
        self._remote_code = remote_code
        control = {str(token) for token in self.tokenizer.all_special_tokens}
        control.add(str(getattr(processor, "image_token", "<image>")))  # what a picture is put in place of
        # Beside special tokens, <think> and <tool_call> in a text are not to become the real ones either.
        self.tokenizer.chat_control_tokens = list(self.tokenizer.get_added_vocab())
        self._control_tokens = re.compile("|".join(re.escape(token) for token in sorted(control)))

    def encode(
        self, messages: Iterable[Message], template: Template = TEMPLATE, tools: Tools | None = None
    ) -> dict[str, Any]:
        """Tensors for generate(), a batch of one: input_ids (1, tokens), attention_mask, pictures' pixels.

        Raises InvalidRequest for what the template or the processor refuses.
        """
        messages = tuple(replace(one, parts=tuple(map(self._fitted, one.parts))) for one in messages)
        self._refuse(messages)
        if not self._template():
            raise InvalidRequest(
                "This model has no chat template: it cannot hold a conversation.",
                param="model",
                code="unsupported_by_model",
            )
        if self._thinking_prompt and template.thinking:
            messages = _ending_with(messages, self._thinking_prompt)
        conversation = [_turn(message, parts=self._vision) for message in messages]
        options = self._variables(template) | {
            "add_generation_prompt": template.add_generation_prompt,
            "continue_final_message": template.continue_final_message,
        }
        if tools is not None and tools.choice != "none":
            options["tools"] = [_description(function) for function in tools.functions]
        try:
            inputs = self._encode(conversation, _media(messages), options)
        except TemplateSyntaxError as error:
            raise ModelLoadFailed(f"The model's chat template is broken: {error}.") from None
        except TemplateError as error:
            raise InvalidRequest(
                f"The model's chat template refuses this: {error}",
                param="messages",
                code="refused_by_template",
            ) from None
        except (TypeError, ValueError, KeyError, IndexError):
            log.warning("template or processor refused a prompt", exc_info=True)
            raise InvalidRequest(
                "The model's chat template or processor cannot take this text, picture or video.",
                param=_place(messages),
                code="refused_by_template",
            ) from None
        return {name: value for name, value in inputs.items() if name not in NOT_FOR_GENERATE}

    def encode_plain(self, prompt: str | Sequence[int], param: str) -> dict[str, Any]:
        """The same for a text without a template, or for token ids; raises InvalidRequest."""
        tokens: Sequence[int] = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if not tokens:
            raise InvalidRequest(
                "The prompt is empty, and this model has no token to begin with.",
                param=param,
                code="empty_prompt",
            )
        self.check_ids(tokens, param)
        ids = torch.tensor([list(tokens)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def check(self, request: GenerationRequest, max_tokens: int) -> None:
        """Raise InvalidRequest for ids that are no tokens, and for more tokens at least than at most."""
        self.check_ids([token for token, _ in request.sampling.logit_bias], "logit_bias")
        self.check_ids(request.stop_token_ids, "stop_token_ids")
        if request.sampling.min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens is {request.sampling.min_tokens}, and at most {max_tokens} are generated.",
                param="min_tokens",
                code="invalid_parameter_combination",
            )

    def check_ids(self, ids: Iterable[int], param: str) -> None:
        """Raise InvalidRequest for a number that is no token of this model."""
        for token in ids:
            if not 0 <= token < len(self.tokenizer):
                raise InvalidRequest(
                    f"{token} is no token of this model; they are 0 to {len(self.tokenizer) - 1}.",
                    param=param,
                    code="unknown_token",
                )

    def least_tokens(self, prompt: str | Sequence[int] | Sequence[Message]) -> int:
        """So many tokens a prompt has at the least, told from its length without encoding it."""
        if isinstance(prompt, str):
            return len(prompt) // self._longest_token
        texts = (
            len(part.text)
            for message in prompt
            if isinstance(message, Message)
            for part in message.parts
            if isinstance(part, TextPart)
        )
        return sum(texts) // self._longest_token or sum(isinstance(token, int) for token in prompt)

    def tool_format(self) -> ToolFormat | None:
        """How this model writes tool calls, told from its template; None if that knows no tools."""
        source = str(self._template())
        if not re.search(r"\btools\b", source):
            return None
        return "hermes" if "<tool_call>" in source else "llama" if '"parameters"' in source else None

    def thinking_tags(self) -> tuple[int, int] | None:
        """The tokens that begin and end a thought, where this model has them."""
        vocabulary = self.tokenizer.get_added_vocab()
        if "<think>" in vocabulary and "</think>" in vocabulary:
            return vocabulary["<think>"], vocabulary["</think>"]
        return None

    def ends_in_thought(self, request: GenerationRequest, input_ids: Any) -> bool:
        """Whether the prompt (1, tokens) of messages ends in a thought that the answer goes on with."""
        if request.prompt is not None:
            return False
        if request.template.continue_final_message:
            begun = _content(request.messages[-1], parts=False)
            if "<think>" in begun:
                return begun.lstrip().startswith("<think>") and "</think>" not in begun
        tail = self.tokenizer.decode(input_ids[0, -8:].tolist(), skip_special_tokens=False)
        return str(tail).rstrip().endswith("<think>")

    def visual_tokens(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """How many of the prompt's tokens stand for pictures, for clips, and for each of them."""
        merged = int(getattr(getattr(self._processor, "image_processor", None), "merge_size", 1)) ** 2
        grids = [inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs]
        runs = [_runs(inputs["input_ids"][0], token) for token in (self.image_token_id, self.video_token_id)]
        each = [int(grid.prod()) // merged for several in grids for grid in several]
        return {
            "image_tokens": sum(runs[0]),
            "video_tokens": sum(runs[1]),
            "media_tokens": tuple(each or runs[0] + runs[1]),
        }

    def _fitted(self, part: Part) -> Part:
        if not isinstance(part, ImagePart) or part.is_fitted:
            return part
        return replace(part, image=self.fitter.picture(part.image, part.options), is_fitted=True)

    def _encode(
        self, conversation: list[dict[str, Any]], media: list[MediaPart], options: dict[str, Any]
    ) -> Any:
        if self._remote_code:
            pictures = [part.image for part in media if isinstance(part, ImagePart)]
            text = self._processor.apply_chat_template(conversation, tokenize=False, **options)
            with remote_code.on_cpu():
                return self._processor(images=pictures or None, text=text, return_tensors="pt")
        return self._processor.apply_chat_template(
            conversation,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,
            processor_kwargs=self._packing(media),
            **options,
        )

    def _packing(self, media: list[MediaPart]) -> dict[str, Any]:
        """What the processor is told of its pictures and clips: what has been done already."""
        done = {"do_resize": False} if isinstance(self.fitter, fitting.QwenFitter) else {}
        told: dict[str, Any] = {}
        if done and any(isinstance(part, ImagePart) for part in media):
            told["images_kwargs"] = dict(done)
        clips = [part.clip for part in media if isinstance(part, VideoPart) and part.clip is not None]
        if clips:
            metadata = [
                {
                    "total_num_frames": clip.total,
                    "fps": clip.fps,
                    "duration": clip.total / clip.fps,
                    "frames_indices": list(clip.indices),
                    "width": clip.size[0],
                    "height": clip.size[1],
                }
                for clip in clips
            ]
            told["videos_kwargs"] = {"do_sample_frames": False, "video_metadata": metadata, **done}
        return told

    def _variables(self, template: Template) -> dict[str, Any]:
        """Those of the template's variables that the model's template speaks of."""
        variables = dict(template.variables)
        if template.thinking is not None:
            variables["enable_thinking"] = template.thinking
        source = str(self._template())
        return {name: value for name, value in variables.items() if re.search(rf"\b{name}\b", source)}

    def _template(self) -> Any:
        own = getattr(self._processor, "chat_template", None)
        return own or getattr(self.tokenizer, "chat_template", None)

    def _refuse(self, messages: tuple[Message, ...]) -> None:
        for index, message in enumerate(messages):
            for part in message.parts:
                if not isinstance(part, TextPart) or not self._remote_code:
                    continue
                if found := self._control_tokens.search(part.text):
                    # Its processor has no way to tell a control token in a text from its own.
                    raise InvalidRequest(
                        f"The text contains {found.group()!r}, a control token of this model.",
                        param=f"messages[{index}].content",
                        code="control_token",
                    )


def _runs(ids: Any, token: int | None) -> list[int]:
    """How often a token stands in a row, at each place where it does: a picture is such a row."""
    if token is None:
        return []
    edges = (
        torch.diff((ids == token).int(), prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().flatten()
    )
    lengths: list[int] = (edges[1::2] - edges[::2]).tolist()
    return lengths


def _turn(message: Message, *, parts: bool) -> dict[str, Any]:
    """A message as templates know it; the arguments of calls as objects, where they are."""
    turn: dict[str, Any] = {"role": message.role, "content": _content(message, parts=parts)}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _arguments(text: str) -> Any:
    """The object that a call's arguments are the text of; the text, where a model has written no such."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text


def _description(function: Function) -> dict[str, Any]:
    """A function as templates know it."""
    told: dict[str, Any] = {"name": function.name, "description": function.description or ""}
    parameters = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": told | {"parameters": parameters}}


def _content(message: Message, *, parts: bool) -> Any:
    """A message's content for the template: texts next to each other are lines of one text."""
    pieces: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            pieces.append({"type": "image", "image": part.image})
        elif isinstance(part, VideoPart):
            pieces.append({"type": "video", "video": _frames(part)})
        elif pieces and pieces[-1]["type"] == "text":
            pieces[-1]["text"] += f"\n{part.text}"
        else:
            pieces.append({"type": "text", "text": part.text})
    if parts and _media([message]):
        return pieces
    return "\n".join(piece["text"] for piece in pieces if piece["type"] == "text")


def _ending_with(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """The messages with a text put after the last question."""
    for index in reversed(range(len(messages))):
        if messages[index].role == "user":
            asking = replace(messages[index], parts=(*messages[index].parts, TextPart(text)))
            return (*messages[:index], asking, *messages[index + 1 :])
    return messages


def _frames(part: VideoPart) -> Any:
    """A clip as processors take it: (frames, 3, height, width)."""
    frames = () if part.clip is None else part.clip.frames
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _media(messages: Iterable[Message]) -> list[MediaPart]:
    return [part for message in messages for part in message.parts if isinstance(part, MediaPart)]


def _place(messages: tuple[Message, ...]) -> str:
    media = _media(messages)
    return media[0].param if media else "messages"
