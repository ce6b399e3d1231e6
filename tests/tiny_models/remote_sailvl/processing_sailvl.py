"""Processor of a tiny SAIL-VL2: puts the context tokens into the text where the template left `<image>`."""

from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin


class SAILVLProcessor(ProcessorMixin):
    """Joins the image processor and the tokenizer; like the original it takes one text at a time.

    Unlike the original it leaves the tensors on the CPU, which the original moves to CUDA unasked.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]  # untyped in transformers
        side = image_processor.image_size // image_processor.patch_size
        self.num_image_token = side * side // 4

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Make the inputs, with `eos_token_id` as a plain number; padding and truncation are ignored."""
        if text is None:
            raise ValueError("text is needed")
        query = text if isinstance(text, str) else text[0]
        pictures: dict[str, Any] = {}
        if images is not None:
            pictures = dict(self.image_processor(images))
            for tiles in pictures.pop("num_patches_list"):
                context = "<IMG_CONTEXT>" * (self.num_image_token * tiles)
                query = query.replace("<image>", f"<img>{context}</img>", 1)
        tokens = self.tokenizer(query, return_tensors="pt")
        return BatchFeature(
            {
                "input_ids": tokens["input_ids"],
                "attention_mask": tokens["attention_mask"],
                "eos_token_id": self.tokenizer.convert_tokens_to_ids("<|im_end|>"),
                **pictures,
            }
        )
